//! Several sites on one port.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use dosimeter::web::{Branch, Request, Response, Router, VirtualHosts};
use support::{Leaf, Server, expect_no_log};

fn page(text: &'static str) -> Leaf<impl Fn(Request) -> &'static str> {
    Leaf(move |_| text)
}

fn hosts() -> VirtualHosts {
    VirtualHosts::new()
        .add("Example.com", page("example"))
        .add("*.example.com", page("below"))
        .add("special.example.com", page("special"))
        .add("*.deep.example.com", page("deep"))
        .add("192.0.2.1", page("v4"))
        .add("[2001:DB8:0:0::1]", page("v6"))
        .add("xn--bcher-kva.example", page("punycode"))
}

/// What a request for this host is answered with.
#[track_caller]
fn ask(server: &Server, host: &str) -> String {
    let mut client = server.connect();
    client.send(format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let reply = client.reply();
    if reply.status == 200 { reply.text().to_owned() } else { reply.status.to_string() }
}

#[test]
fn a_host_is_found_however_it_is_spelled() {
    let server = Server::new(hosts());
    for (host, expected) in [
        ("example.com", "example"),
        ("EXAMPLE.COM", "example"),
        ("example.com:8080", "example"),
        ("example.com.", "example"),
        ("Example.Com.:80", "example"),
        ("special.example.com", "special"),
        ("a.example.com", "below"),
        ("a.b.example.com", "below"),
        ("A.example.com.:1", "below"),
        ("a.deep.example.com", "deep"),
        ("deep.example.com", "below"),
        ("192.0.2.1", "v4"),
        ("192.0.2.1:80", "v4"),
        ("[2001:db8::1]", "v6"),
        ("[2001:0db8::0001]:443", "v6"),
        ("xn--bcher-kva.example", "punycode"),
    ] {
        assert_eq!(ask(&server, host), expected, "{host}");
    }
    expect_no_log();
}

#[test]
fn a_host_that_nobody_has_is_not_found_or_the_default() {
    let others =
        ["", "com", "example.org", "xexample.com", "example.com.evil", ".example.com", "[::1]", "example.com.."];
    let (strict, lenient) = (Server::new(hosts()), Server::new(hosts().default_host(page("default"))));
    for host in others {
        assert_eq!(ask(&strict, host), "404", "{host}");
        assert_eq!(ask(&lenient, host), "default", "{host}");
    }
    let long = format!("{}.example.com", "a.".repeat(130));
    assert_eq!(ask(&lenient, &long), "default", "no name is as long");
    let mut client = lenient.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.reply().text(), "default", "none is named");
    assert_eq!(strict.routes(), ["unmatched"]);
    expect_no_log();
}

#[test]
fn the_host_of_an_absolute_target_wins() {
    let server = Server::new(hosts());
    let mut client = server.connect();
    client.send("GET http://special.example.com:80/x HTTP/1.1\r\nHost: example.com\r\n\r\n");
    assert_eq!(client.reply().text(), "special");
}

#[test]
fn the_resource_of_a_host_sees_the_whole_path_and_metrics_do_not_see_the_host() {
    let (branch, app) = (Branch::new(), Router::new());
    branch.put_child("a", Leaf(|request: Request| request.prepath().collect::<Vec<_>>().join("/")));
    app.route("/b/<int:id>", |request: Request| request.param::<String>("id").unwrap_or_default());
    let server = Server::new(VirtualHosts::new().add("branch", branch).add("*.app", app));
    let mut client = server.connect();
    for (host, path, expected) in [("branch", "/a", "a"), ("x.app", "/b/7", "7"), ("y.app", "/b/8", "8")] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.reply().brief(), (200, expected));
    }
    for number in 0..100 {
        assert_eq!(ask(&server, &format!("host{number}")), "404");
    }
    assert_eq!(server.routes(), ["/a", "/b/<int:id>", "unmatched"]);
    expect_no_log();
}

#[test]
fn a_request_tells_the_name_of_the_host() {
    let server = Server::new(Leaf(|request: Request| Response::text(format!("{:?}", request.hostname()))));
    for (host, expected) in
        [("A.b:80", "Some(\"a.b\")"), ("[::1]:80", "Some(\"::1\")"), ("[0:0::1]", "Some(\"::1\")"), ("", "None")]
    {
        assert_eq!(ask(&server, host), expected, "{host}");
    }
}

#[test]
fn what_is_no_host_or_was_added_before_ends_the_program_at_its_start() {
    let wrong = ["", "a:80", "http://a", "a/b", "bücher.example", "*", "a b", "[::1]:80", "*.*.a"];
    for host in wrong {
        let added = catch_unwind(AssertUnwindSafe(|| VirtualHosts::new().add(host, Branch::new())));
        assert!(added.is_err(), "{host:?}");
    }
    let twice = || hosts().add("EXAMPLE.com.", Branch::new());
    assert!(catch_unwind(AssertUnwindSafe(twice)).is_err());
    assert!(format!("{:?}", hosts()).contains("\"*.deep.example.com\""));
}
