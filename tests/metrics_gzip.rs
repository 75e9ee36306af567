//! Pages of metrics, compressed for who wants it.
#![cfg(feature = "gzip")]

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::io::Read;

use dosimeter::MetricsResource;
use dosimeter::prometheus::{IntGaugeVec, Opts, Registry};
use support::{Reply, Server, expect_no_log};

#[test]
fn a_page_is_compressed_for_who_accepts_it() {
    let server = Server::new(MetricsResource::with_registry(wide(1_000)).with_gzip());
    let plain = get(&server, "");
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), (None, Some("Accept, Accept-Encoding")));
    for wish in ["gzip", "GZIP", "deflate, gzip;q=0.5", "gzip;q=0, gzip;q=1", "*", "x-gzip"] {
        let reply = get(&server, &format!("Accept-Encoding: {wish}\r\n"));
        if wish == "gzip;q=0, gzip;q=1" {
            assert_eq!(reply.header("content-encoding"), None, "zero forbids");
            continue;
        }
        assert_eq!(reply.header("content-encoding"), Some("gzip"), "{wish}");
        assert_eq!(reply.header("vary"), Some("Accept, Accept-Encoding"));
        assert_eq!(reply.header("content-type"), plain.header("content-type"));
        assert!(reply.body.len() * 4 < plain.body.len(), "{} of {}", reply.body.len(), plain.body.len());
        assert!(decoded(&reply) == plain.body, "{wish}: another page");
    }
    expect_no_log();
}

#[test]
fn a_page_is_not_compressed_for_who_does_not() {
    let server = Server::new(MetricsResource::with_registry(wide(1_000)).with_gzip());
    for wish in ["", "gzip;q=0", "gzip;q=0.0", "*;q=0", "identity", "br, deflate", "identity, gzip;q=0.5"] {
        let reply = get(&server, &format!("Accept-Encoding: {wish}\r\n"));
        assert_eq!((reply.status, reply.header("content-encoding")), (200, None), "{wish}");
    }
}

#[test]
fn a_small_page_is_sent_as_it_is() {
    let server = Server::new(MetricsResource::with_registry(wide(3)).with_gzip());
    let reply = get(&server, "Accept-Encoding: gzip\r\n");
    assert_eq!(reply.header("content-encoding"), None);
    assert_eq!(reply.header("vary"), Some("Accept, Accept-Encoding"));
}

#[test]
fn nothing_is_compressed_unless_the_resource_was_told_to() {
    let server = Server::new(MetricsResource::with_registry(wide(1_000)));
    let reply = get(&server, "Accept-Encoding: gzip\r\n");
    assert_eq!((reply.header("content-encoding"), reply.header("vary")), (None, Some("Accept")));
}

#[test]
fn head_says_what_get_would() {
    let server = Server::new(MetricsResource::with_registry(wide(1_000)).with_gzip());
    let got = get(&server, "Accept-Encoding: gzip\r\n");
    let mut client = server.connect();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
    let head = client.reply_to("HEAD");
    for name in ["content-type", "content-encoding", "content-length", "vary"] {
        assert_eq!(head.header(name), got.header(name), "{name}");
    }
    // The connection is still in step.
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().status, 200);
}

#[test]
fn a_page_that_is_large_when_compressed_comes_whole() {
    let registry = wide(0);
    let noise = IntGaugeVec::new(Opts::new("noise", "x"), &["at"]).unwrap();
    registry.register(Box::new(noise.clone())).unwrap();
    let mut state = 1_u64;
    for _ in 0..20_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.with_label_values(&[&format!("{state:x}")]).set((state >> 20) as i64);
    }
    let server = Server::new(MetricsResource::with_registry(registry).with_gzip());
    let (plain, compressed) = (get(&server, ""), get(&server, "Accept-Encoding: gzip\r\n"));
    assert!(compressed.body.len() > 200_000, "{}", compressed.body.len());
    assert_eq!(compressed.header("content-encoding"), Some("gzip"));
    assert_eq!(compressed.header("content-length"), Some(&*compressed.body.len().to_string()));
    assert!(decoded(&compressed) == plain.body, "another page");
}

// ---- below ------------------------------------------------------------------------------------------

/// A registry with a gauge of so many series.
fn wide(series: i64) -> Registry {
    let wide = IntGaugeVec::new(Opts::new("wide", "x"), &["at"]).unwrap();
    for at in 0..series {
        wide.with_label_values(&[&format!("{at:0>20}")]).set(at);
    }
    let registry = Registry::new();
    registry.register(Box::new(wide)).unwrap();
    registry
}

#[track_caller]
fn get(server: &Server, fields: &str) -> Reply {
    let mut client = server.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.reply()
}

fn decoded(reply: &Reply) -> Vec<u8> {
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(&reply.body[..]).read_to_end(&mut body).unwrap();
    body
}
