//! Who asks, for whom, and what of it is to be believed.

use std::net::SocketAddr;

use dosimeter::testing::MemoryReactor;
use dosimeter::web::{Render, Request, Resource, Site, TrustedProxies};

/// Answers with what `look` says of the request.
struct Says(fn(&Request) -> String);

impl Resource for Says {
    fn is_leaf(&self) -> bool {
        true
    }

    fn render(&self, request: Request) -> Render {
        (self.0)(&request).into()
    }
}

/// What `look` says of a request with these fields, from this address.
fn asked(site: Site, from: &str, fields: &str) -> String {
    let memory = MemoryReactor::new();
    let addr = memory.reactor().listen_tcp("127.0.0.1:0", site).unwrap().local_addr();
    let client = memory.connect_from(from.parse::<SocketAddr>().unwrap(), addr);
    client.send(format!("GET / HTTP/1.0\r\n{fields}\r\n\r\n"));
    let answer = String::from_utf8(client.take()).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    body.to_owned()
}

fn client_of(request: &Request) -> String {
    let addr = request.client_addr().map_or_else(|| "none".to_owned(), |addr| addr.to_string());
    if request.is_secure() { format!("{addr} secure") } else { addr }
}

fn by_x_forwarded(from: &str, fields: &str) -> String {
    let proxies = TrustedProxies::new(["10.0.0.0/8", "192.0.2.1", "fd00::/8"]).unwrap();
    asked(Site::new(Says(client_of)).trust_proxies(proxies), from, fields)
}

fn by_forwarded(from: &str, fields: &str) -> String {
    let proxies = TrustedProxies::new(["10.0.0.0/8"]).unwrap().with_forwarded();
    asked(Site::new(Says(client_of)).trust_proxies(proxies), from, fields)
}

#[test]
fn nobody_is_believed_unless_trusted() {
    let fields = "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: https\r\nForwarded: for=198.51.100.1;proto=https";
    assert_eq!(asked(Site::new(Says(client_of)), "10.0.0.1:1", fields), "10.0.0.1");
    assert_eq!(by_x_forwarded("192.0.2.2:1", fields), "192.0.2.2");
    assert_eq!(by_forwarded("192.0.2.2:1", fields), "192.0.2.2");
}

#[test]
fn the_nearest_address_that_is_no_proxy_is_the_client() {
    for (field, client) in [
        ("X-Forwarded-For: 198.51.100.1", "198.51.100.1"),
        ("X-Forwarded-For: 203.0.113.9, 198.51.100.1", "198.51.100.1"),
        ("X-Forwarded-For: 203.0.113.9, 198.51.100.1, 10.9.9.9,192.0.2.1", "198.51.100.1"),
        ("X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 198.51.100.1", "198.51.100.1"),
        ("X-Forwarded-For: 10.2.2.2, 10.1.1.1", "10.2.2.2"),
        ("X-Forwarded-For: 198.51.100.1:4711", "198.51.100.1"),
        ("X-Forwarded-For: 198.51.100.1:_hidden", "198.51.100.1"),
        ("X-Forwarded-For: 2001:db8::1", "2001:db8::1"),
        ("X-Forwarded-For: [2001:db8::1]:80", "2001:db8::1"),
        ("X-Forwarded-For: [2001:db8::1], fd12::1", "2001:db8::1"),
        ("X-Forwarded-For: ::ffff:198.51.100.1", "198.51.100.1"),
        ("X-Forwarded-For: , 198.51.100.1,", "198.51.100.1"),
        // What cannot be read ends it: what is further left may be anybody's.
        ("X-Forwarded-For: 203.0.113.9, unknown", "10.0.0.1"),
        ("X-Forwarded-For: 203.0.113.9, nonsense, 10.7.7.7", "10.7.7.7"),
        ("X-Forwarded-For: 1.2.3", "10.0.0.1"),
        ("X-Forwarded-For:", "10.0.0.1"),
        ("Forwarded: for=198.51.100.1", "10.0.0.1"),
        ("Host: a", "10.0.0.1"),
    ] {
        assert_eq!(by_x_forwarded("10.0.0.1:1", field), client, "{field}");
    }
}

#[test]
fn the_standard_field_is_read_where_it_is_the_one() {
    for (field, client) in [
        ("Forwarded: for=198.51.100.1", "198.51.100.1"),
        ("Forwarded: proto=http; FOR=\"198.51.100.1:80\" ;by=10.0.0.1", "198.51.100.1"),
        ("Forwarded: for=203.0.113.9, for=198.51.100.1, for=10.1.1.1", "198.51.100.1"),
        ("Forwarded: for=\"[2001:db8::1]:4711\"", "2001:db8::1"),
        ("Forwarded: for=198.51.100.1;host=\"a,b;for=203.0.113.9\"", "198.51.100.1"),
        ("Forwarded: host=\"a\\\",\";for=198.51.100.1", "198.51.100.1"),
        ("Forwarded: for=203.0.113.9, for=_hidden", "10.0.0.1"),
        ("Forwarded: for=203.0.113.9, proto=http", "10.0.0.1"),
        ("Forwarded: for=\"198.51.100.1", "10.0.0.1"),
        ("X-Forwarded-For: 198.51.100.1", "10.0.0.1"),
    ] {
        assert_eq!(by_forwarded("10.0.0.1:1", field), client, "{field}");
    }
}

#[test]
fn a_trusted_proxy_says_whether_the_client_is_secure() {
    for (field, secure) in [
        ("X-Forwarded-Proto: https", true),
        ("X-Forwarded-Proto: HTTPS", true),
        ("X-Forwarded-Proto: http", false),
        ("X-Forwarded-Proto: https, http", false),
        ("X-Forwarded-Proto: http, https", true),
        ("Forwarded: proto=https", false),
        ("Host: a", false),
    ] {
        assert_eq!(by_x_forwarded("10.0.0.1:1", field).ends_with("secure"), secure, "{field}");
    }
    assert!(by_forwarded("10.0.0.1:1", "Forwarded: for=198.51.100.1;proto=https").ends_with("secure"));
    assert!(!by_forwarded("10.0.0.1:1", "X-Forwarded-Proto: https").ends_with("secure"));
}

#[test]
fn what_is_no_network_is_refused_with_what_to_write() {
    for text in
        ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/", "10.0.0.0/+8", "10.0.0/8", "fd00::/129", "fd00::1/8", "host"]
    {
        let error = TrustedProxies::new([text]).unwrap_err();
        assert!(error.to_string().contains("10.0.0.0/8"), "{error}");
    }
    for text in ["0.0.0.0/0", "::/0", "10.0.0.1/32", "::1/128", "unix"] {
        assert!(TrustedProxies::new([text]).is_ok(), "{text}");
    }
    let all = TrustedProxies::new(["0.0.0.0/0"]).unwrap();
    let site = Site::new(Says(client_of)).trust_proxies(all);
    assert_eq!(asked(site, "[2001:db8::7]:1", "X-Forwarded-For: 198.51.100.1"), "2001:db8::7", "IPv4 is not IPv6");
}

#[test]
fn credentials_are_those_of_basic_authentication() {
    let credentials = |fields: &str| {
        let look = |request: &Request| match request.credentials() {
            Some(credentials) => format!("{} {}", credentials.user, credentials.password),
            None => "none".to_owned(),
        };
        asked(Site::new(Says(look)), "192.0.2.1:1", fields)
    };
    for (fields, expected) in [
        ("Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Aladdin open sesame"),
        ("authorization: basic  QWxhZGRpbjpvcGVuIHNlc2FtZQ", "Aladdin open sesame"),
        ("Authorization: Basic YTpiOmM=", "a b:c"),
        ("Authorization: Basic Og==", " "),
        ("Authorization: Basic dGVzdDoxMjPCow==", "test 123\u{a3}"),
        ("Authorization: Basic YQ==", "none"),
        ("Authorization: Basic", "none"),
        ("Authorization: Basic !!!!", "none"),
        ("Authorization: Basic /zo=", "none"),
        ("Authorization: Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "none"),
        ("Authorization: Basic YTpi\r\nAuthorization: Basic YTpi", "none"),
        ("Host: a", "none"),
    ] {
        assert_eq!(credentials(fields), expected, "{fields}");
    }
}

#[test]
fn a_password_is_not_printed() {
    let look = |request: &Request| format!("{:?}", request.credentials());
    let said = asked(Site::new(Says(look)), "192.0.2.1:1", "Authorization: Basic dXNlcjpzd29yZGZpc2g=");
    assert!(said.contains("user") && !said.contains("swordfish"), "{said}");
}

#[test]
fn a_url_of_this_server_begins_as_its_client_sees_it() {
    let site = || {
        let proxies = TrustedProxies::new(["10.0.0.1"]).unwrap();
        Site::new(Says(|request: &Request| format!("{:?}", request.origin()))).trust_proxies(proxies)
    };
    let ask = |peer: &str, host: &str, fields: &[(&str, &str)]| {
        let peer: std::net::SocketAddr = peer.parse().unwrap();
        let request = dosimeter::testing::request(http::Method::GET, "/").from(peer).header("host", host);
        let request = fields.iter().fold(request, |request, (name, value)| request.header(name, value));
        request.send(site()).text().to_owned()
    };
    let https = [("x-forwarded-proto", "https")];
    assert_eq!(ask("192.0.2.1:1", "example.com", &[]), "Some(\"http://example.com\")");
    assert_eq!(ask("192.0.2.1:1", "[::1]:8000", &https), "Some(\"http://[::1]:8000\")", "nobody is believed");
    assert_eq!(ask("10.0.0.1:1", "Example.com:8443", &https), "Some(\"https://Example.com:8443\")");
    assert_eq!(ask("10.0.0.1:1", "", &https), "None");
    let reply = dosimeter::testing::request(http::Method::GET, "http://other:81/x").header("host", "a").send(site());
    assert_eq!(reply.text(), "Some(\"http://other:81\")", "the target counts");
}
