//! What RFC 9110 asks of an origin server beyond reading the message: whom it answers, for what, and what it must not do.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::Cell;
use std::rc::Rc;

use dosimeter::Reactor;
use dosimeter::prometheus::Registry;
use dosimeter::web::{Limits, Render, Request, Response, Site, TrustedProxies};
use http::header::{CACHE_CONTROL, ETAG, HeaderValue};
use support::{Leaf, Server, expect_no_log, request};

/// A server that counts what reaches its resource, set up by `set_up`.
fn counting(set_up: impl FnOnce(Site) -> Site) -> (Server, Rc<Cell<usize>>) {
    let served = Rc::new(Cell::new(0));
    let seen = served.clone();
    let site = Site::new(Leaf(move |request: Request| -> Render {
        seen.set(seen.get() + 1);
        format!("{} {}", request.hostname().as_deref().unwrap_or("nobody"), request.is_secure()).into()
    }));
    let registry = Registry::new();
    let reactor = Reactor::builder().metrics(registry.clone()).build().unwrap();
    (Server::with_site(reactor, registry, set_up(site)), served)
}

fn put(fields: &str) -> String {
    format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n{fields}\r\nabc")
}

/// RFC 9110 section 7.4: a request for an https resource that came without TLS is rejected; section 15.5.20: 421 says so.
#[test]
fn an_https_target_is_refused_where_nobody_can_have_encrypted_it() {
    let (server, served) = counting(|site| site);
    for target in ["https://a/", "HTTPS://a", "https://a:443/?x"] {
        let mut client = server.connect();
        client.send(request("GET", target) + &request("GET", "/"));
        let reply = client.reply();
        assert_eq!((reply.status, reply.header("connection")), (421, Some("close")), "{target}");
        client.shut_down_writing();
        client.expect_end();
    }
    assert_eq!(served.get(), 0);
    assert_eq!(server.figure("http_server_bad_requests_total", &[("reason", "misdirected")]), 3.0);
    assert_eq!(server.ask("GET", "http://b/").text(), "b false", "the same without encryption");
    expect_no_log();
}

/// RFC 9110 section 7.4: unless the connection is from a trusted gateway.
#[test]
fn an_https_target_from_a_trusted_proxy_is_served_as_secure() {
    let (server, _) = counting(|site| site.trust_proxies(TrustedProxies::new(["127.0.0.1"]).unwrap()));
    assert_eq!(server.ask("GET", "https://b/").text(), "b true");
    assert_eq!(server.ask("GET", "http://b/").text(), "b false");
    let (server, _) = counting(|site| site.trust_proxies(TrustedProxies::new(["192.0.2.1"]).unwrap()));
    assert_eq!(server.ask("GET", "https://b/").status, 421, "another one");
}

/// RFC 9110 section 14.5: 400 to `PUT` with `Content-Range`, before the body is asked for; section 14.4: the field is ignored
/// with any other method.
#[test]
fn a_part_is_not_put_in_place_of_the_whole() {
    let (server, served) = counting(|site| site);
    for fields in ["Content-Range: bytes 0-2/10\r\n", "content-range: x\r\nExpect: 100-continue\r\n"] {
        let mut client = server.connect();
        client.send(put(fields));
        let reply = client.reply();
        assert_eq!((reply.status, reply.header("connection")), (400, Some("close")), "{fields}");
        client.shut_down_writing();
        client.expect_end();
    }
    assert_eq!(served.get(), 0);
    assert_eq!(server.figure("http_server_bad_requests_total", &[("reason", "partial_put")]), 2.0);
    let mut client = server.connect();
    client.send(put("Content-Range: bytes 0-2/10\r\n").replace("PUT", "POST") + &put(""));
    assert_eq!((client.reply().status, client.reply().status), (200, 200));
    expect_no_log();
}

#[test]
fn a_site_whose_resources_take_parts_gets_them() {
    let (server, served) = counting(Site::accept_partial_put);
    let mut client = server.connect();
    client.send(put("Content-Range: bytes 0-2/10\r\n"));
    assert_eq!((client.reply().status, served.get()), (200, 1));
}

/// RFC 9110 section 5.1: the case of a name means nothing, so it may be the one that everybody expects.
#[test]
fn field_names_are_written_as_is_common_whoever_set_them() {
    let server = Server::new(Leaf(|mut request: Request| {
        request.add_header(ETAG, HeaderValue::from_static("\"1\""));
        request.add_header(ETAG, HeaderValue::from_static("\"2\""));
        request.set_header(ETAG, HeaderValue::from_static("\"3\""));
        Response::text("x").with_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
    }));
    let mut client = server.connect();
    client.send(request("GET", "/"));
    let head = String::from_utf8(client.take_until(b"\r\n\r\n", "the head")).unwrap();
    let lines: Vec<_> = head.lines().filter(|line| !line.starts_with("Date: ")).collect();
    assert_eq!(
        lines,
        [
            "HTTP/1.1 200 OK",
            "Content-Length: 1",
            "Server: dosimeter",
            "ETag: \"3\"",
            "Content-Type: text/plain; charset=utf-8",
            "Cache-Control: no-store",
            ""
        ]
    );
}

/// RFC 9110 section 9.3.2: no content in any response to HEAD, the 408 to half a head included.
#[test]
fn a_head_that_is_refused_half_way_gets_no_body() {
    let mut limits = Limits::default();
    limits.head_timeout = std::time::Duration::from_millis(50);
    let server = Server::with_limits(Leaf(|_| "x"), limits);
    for (begun, status) in
        [("HEAD / HTTP/1.1\r\nHost:", 408), ("HEAD / HTTP/9.9\r\n", 505), ("HEAD / HTTP/1.1\nHost: a\n\n", 400)]
    {
        let mut client = server.connect();
        client.send(begun);
        assert_eq!(client.reply_to("HEAD").status, status, "{begun:?}");
        client.shut_down_writing();
        client.expect_end();
    }
}
