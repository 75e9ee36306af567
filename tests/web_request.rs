//! The request handle: what it tells, how it answers, and what happens to one that is forgotten, kept, or left by its peer.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::net::{Address, ConnectionLost};
use dosimeter::web::{Disconnected, NOT_DONE_YET, Render, Request, Response};
use dosimeter::{Clock, Deferred, Failure, Result};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue};
use http::{StatusCode, Version};
use support::{End, Framing, Leaf, Server, expect_log, expect_no_log, request, take_log};

/// Where a handler leaves its request for the test.
type Kept = Rc<RefCell<Vec<Request>>>;

/// A server that keeps every request and answers none, and where it keeps them.
fn keeper() -> (Server, Kept) {
    let kept = Kept::default();
    let keeping = kept.clone();
    let server = Server::new(Leaf(move |request| {
        keeping.borrow_mut().push(request);
        NOT_DONE_YET
    }));
    (server, kept)
}

/// The next request that a [`keeper`] has kept.
#[track_caller]
fn next(server: &Server, kept: &Kept) -> Request {
    server.until("a request arrives", || kept.borrow_mut().pop())
}

/// What a server answers whose only resource does `handle` with each request.
#[track_caller]
fn answer_of<R: Into<Render>>(target: &str, handle: impl Fn(Request) -> R + 'static) -> support::Reply {
    Server::new(Leaf(handle)).get(target)
}

// ---- reading ----------------------------------------------------------------------------------------

#[test]
fn a_request_tells_what_was_asked() {
    let server = Server::new(Leaf(|request: Request| {
        assert_eq!(request.method(), "PUT");
        assert_eq!(request.uri(), "/a%2Fb/?q=1?2");
        assert_eq!(request.path(), "/a%2Fb/");
        assert_eq!(request.query_string(), Some("q=1?2"), "only the first question mark splits");
        assert_eq!(request.version(), Version::HTTP_11);
        assert_eq!(request.body(), b"body");
        assert!(matches!(request.peer_addr(), Address::Inet(addr) if addr.ip().is_loopback()));
        assert_eq!(format!("{request:?}"), "Request(PUT /a%2Fb/?q=1?2)");
        "seen"
    }));
    let mut client = server.connect();
    client.send("PUT /a%2Fb/?q=1?2 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(client.reply().brief(), (200, "seen"));
}

#[test]
fn header_gives_the_last_value_and_ignores_case() {
    let server = Server::new(Leaf(|request: Request| {
        assert_eq!(request.header("x-one"), Some(&b"last"[..]));
        assert_eq!(request.header("X-ONE"), Some(&b"last"[..]));
        assert_eq!(request.header("x-none"), None);
        let all: Vec<_> = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case("x-one")).collect();
        assert_eq!(all, [("X-One", &b"first"[..]), ("x-oNE", b"last")]);
        "seen"
    }));
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-One: first\r\nx-oNE:   last \r\n\r\n");
    assert_eq!(client.reply().brief(), (200, "seen"));
}

#[test]
fn query_decodes_and_tells_empty_from_absent() {
    let handle = |request: Request| {
        assert_eq!(request.query("a").as_deref(), Some("1 2"), "a plus is a blank");
        assert_eq!(request.query("b").as_deref(), Some(""));
        assert_eq!(request.query("bare"), None, "a name without `=` is no argument");
        assert_eq!(request.query("d&e").as_deref(), Some("=?"), "what is encoded does not split");
        assert_eq!(request.query("f").as_deref(), Some("x=y"), "only the first `=` splits");
        assert_eq!(request.query("again").as_deref(), Some("1"), "the first one");
        assert_eq!(request.query("g").as_deref(), Some("1;h=2"), "`;` separates nothing");
        assert_eq!(request.query("i").as_deref(), Some("x?y=z"), "only the first `?` begins the query");
        assert_eq!(request.query("none"), None);
        "seen"
    };
    let reply = answer_of("/?a=1+2&b=&bare&d%26e=%3D%3f&f=x=y&again=1&again=2&g=1;h=2&i=x?y=z", handle);
    assert_eq!(reply.brief(), (200, "seen"));
}

#[test]
fn a_query_that_is_not_utf8_is_still_readable() {
    let handle = |request: Request| {
        assert_eq!(request.query("a").as_deref(), Some("\u{fffd}x%zz"));
        "seen"
    };
    assert_eq!(answer_of("/?a=%ffx%zz", handle).brief(), (200, "seen"));
}

#[test]
fn the_resource_is_called_when_the_whole_body_is_there() {
    let called = Rc::new(Cell::new(false));
    let noting = called.clone();
    let server = Server::new(Leaf(move |request: Request| {
        noting.set(true);
        request.body().to_vec()
    }));
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc");
    client.expect_silence();
    assert!(!called.get());
    client.send("def");
    assert_eq!(client.reply().brief(), (200, "abcdef"));
}

#[test]
fn a_chunked_body_arrives_joined() {
    let server = Server::new(Leaf(|request: Request| request.body().to_vec()));
    let mut client = server.connect();
    let message = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    for byte in message.as_bytes() {
        client.send([*byte]);
        server.reactor.turn(Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(client.reply().brief(), (200, "abcde"));
    assert_eq!(client.ask("GET", "/").brief(), (200, ""), "the body of one request is not that of the next");
}

#[test]
fn a_client_that_expects_100_gets_it_before_it_sends_the_body() {
    let server = Server::new(Leaf(|request: Request| request.body().to_vec()));
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.take_until(b"\r\n\r\n", "100"), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("ab");
    assert_eq!(client.reply().brief(), (200, "ab"));
}

// ---- answering piecewise ----------------------------------------------------------------------------

#[test]
fn what_is_written_piecewise_is_sent_in_chunks() {
    let reply = answer_of("/", |mut request: Request| {
        request.write("one ");
        request.write("");
        request.write("two");
        request.finish();
        NOT_DONE_YET
    });
    assert_eq!(reply.framing, Framing::Chunked);
    assert_eq!(reply.brief(), (200, "one two"));
}

#[test]
fn the_first_write_sends_the_head() {
    let (server, kept) = keeper();
    let mut client = server.connect();
    client.send_request("GET", "/");
    let mut request = next(&server, &kept);
    client.expect_silence();
    request.write("begun");
    let begun = client.take_until(b"begun\r\n", "what was written");
    assert!(begun.starts_with(b"HTTP/1.1 200 OK\r\n"));
    client.expect_silence();
    request.finish();
    assert_eq!(client.take_until(b"\r\n\r\n", "the last chunk"), b"0\r\n\r\n");
}

#[test]
fn to_a_client_of_http_1_0_the_close_ends_the_body() {
    let server = Server::new(Leaf(|mut request: Request| {
        request.write("all");
        request.finish();
        NOT_DONE_YET
    }));
    let mut client = server.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let reply = client.reply();
    assert_eq!(reply.framing, Framing::Close);
    assert_eq!(reply.brief(), (200, "all"));
}

#[test]
fn a_response_finished_without_a_write_is_empty_and_complete() {
    let server = Server::new(Leaf(|request: Request| {
        request.finish();
        NOT_DONE_YET
    }));
    let mut client = server.connect();
    for _ in 0..2 {
        let reply = client.get("/");
        assert_eq!((reply.framing, reply.brief()), (Framing::Length(0), (200, "")));
        assert_eq!(reply.header("content-type"), None, "nothing has no type");
    }
}

#[test]
fn head_gets_the_fields_of_get_and_no_body() {
    let server = Server::new(Leaf(|mut request: Request| {
        request.set_status(StatusCode::CREATED);
        request.add_header(ETAG, HeaderValue::from_static("\"v\""));
        request.write("body");
        request.finish();
        NOT_DONE_YET
    }));
    let mut client = server.connect();
    let head = client.ask("HEAD", "/");
    assert_eq!((head.status, head.header("etag"), head.framing), (201, Some("\"v\""), Framing::Nothing));
    assert_eq!(head.header("transfer-encoding"), None);
    assert_eq!(head.header("content-length"), None, "the length is not known");
    assert_eq!(client.get("/").brief(), (201, "body"), "no byte of the first body was left in between");
}

#[test]
fn an_answer_to_head_may_tell_the_length_of_what_it_does_not_send() {
    let server = Server::new(Leaf(|mut request: Request| {
        request.add_header(CONTENT_LENGTH, HeaderValue::from_static("1234"));
        request.finish();
        NOT_DONE_YET
    }));
    let mut client = server.connect();
    assert_eq!(client.ask("HEAD", "/").header("content-length"), Some("1234"));
    assert_eq!(client.ask("HEAD", "/").status, 200);
}

#[test]
fn an_answer_to_head_without_a_write_claims_no_length() {
    let server = Server::new(Leaf(|request: Request| {
        request.finish();
        NOT_DONE_YET
    }));
    let head = server.connect().ask("HEAD", "/");
    assert_eq!(head.header("content-length"), None, "a GET may well have a body (RFC 9110 section 8.6)");
}

#[test]
fn statuses_without_a_body_swallow_what_is_written() {
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
        let server = Server::new(Leaf(move |mut request: Request| {
            request.set_status(status);
            request.write("swallowed");
            request.finish();
            NOT_DONE_YET
        }));
        let mut client = server.connect();
        for _ in 0..2 {
            let reply = client.get("/");
            assert_eq!(reply.status, status.as_u16());
            assert_eq!(reply.header("content-type"), None);
            assert_eq!(reply.header("transfer-encoding"), None);
        }
    }
}

#[test]
fn every_response_has_server_date_and_a_type() {
    let reply = answer_of("/", |mut request: Request| {
        request.write("x");
        request.finish();
        NOT_DONE_YET
    });
    assert_eq!(reply.header("server"), Some("dosimeter"));
    assert!(reply.header("date").unwrap().ends_with(" GMT"));
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
}

#[test]
fn status_and_fields_are_those_set_before_the_first_write() {
    let reply = answer_of("/", |mut request: Request| {
        request.set_status(StatusCode::IM_A_TEAPOT);
        request.add_header(CONTENT_TYPE, HeaderValue::from_static("text/x-tea"));
        request.write("x");
        request.set_status(StatusCode::OK);
        request.add_header(ETAG, HeaderValue::from_static("\"late\""));
        request.finish();
        NOT_DONE_YET
    });
    assert_eq!((reply.status, reply.reason.as_str()), (418, "I'm a teapot"));
    assert_eq!(reply.header("content-type"), Some("text/x-tea"));
    assert_eq!(reply.header("etag"), None);
}

#[test]
fn a_status_nobody_has_heard_of_has_a_reason_all_the_same() {
    let reply = answer_of("/", |mut request: Request| {
        request.set_status(StatusCode::from_u16(799).unwrap());
        request.finish();
        NOT_DONE_YET
    });
    assert_eq!((reply.status, reply.reason.as_str()), (799, "Unknown Status"));
}

#[test]
fn framing_fields_of_a_resource_change_nothing() {
    let reply = answer_of("/", |mut request: Request| {
        request.add_header(http::header::TRANSFER_ENCODING, HeaderValue::from_static("gzip"));
        request.add_header(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
        request.write("x");
        request.finish();
        NOT_DONE_YET
    });
    assert_eq!(reply.header("transfer-encoding"), Some("chunked"));
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!(take_log().len(), 2, "each is told of");
}

#[test]
fn a_declared_length_is_sent_and_kept_to() {
    let server = Server::new(Leaf(|mut request: Request| {
        request.add_header(CONTENT_LENGTH, HeaderValue::from_static("5"));
        request.write("hello");
        request.write(request.query("more").unwrap_or_default());
        request.finish();
        NOT_DONE_YET
    }));
    let mut client = server.connect();
    let reply = client.get("/");
    assert_eq!((reply.framing, reply.brief()), (Framing::Length(5), (200, "hello")));
    expect_no_log();
    assert_eq!(client.get("/?more=than+that").brief(), (200, "hello"), "what is too much is not sent");
    expect_log(&["GET /?more=than+that", "exceeds"]);
    assert_eq!(client.get("/").brief(), (200, "hello"));
}

#[test]
fn a_body_shorter_than_declared_breaks_the_connection() {
    let server = Server::new(Leaf(|mut request: Request| {
        request.add_header(CONTENT_LENGTH, HeaderValue::from_static("5"));
        if request.path() == "/four" {
            request.write("four");
        }
        request.finish();
        NOT_DONE_YET
    }));
    for path in ["/four", "/none"] {
        let mut client = server.connect();
        client.send_request("GET", path);
        assert_eq!(client.end(), End::Reset, "{path}");
    }
    server.until_true("nothing is in progress", || server.in_progress() == 0.0);
}

#[test]
fn what_one_answer_was_given_is_not_left_for_the_next() {
    let server = Server::new(Leaf(|mut request: Request| {
        if request.path() == "/first" {
            request.set_status(StatusCode::CREATED);
            request.add_header(ETAG, HeaderValue::from_static("\"v\""));
            request.add_header(CONTENT_TYPE, HeaderValue::from_static("text/x-first"));
            request.add_header(CONTENT_LENGTH, HeaderValue::from_static("1"));
        }
        request.write("x");
        request.finish();
        NOT_DONE_YET
    }));
    let mut client = server.connect();
    for _ in 0..2 {
        let first = client.get("/first");
        assert_eq!((first.status, first.framing), (201, Framing::Length(1)));
        let second = client.get("/second");
        assert_eq!((second.brief(), second.framing), ((200, "x"), Framing::Chunked));
        assert_eq!(second.header("etag"), None);
        assert_eq!(second.header("content-type"), Some("text/html; charset=utf-8"));
    }
}

// ---- the request set, the answer returned -----------------------------------------------------------

#[test]
fn a_status_set_on_the_request_holds_for_a_text_that_is_returned() {
    let reply = answer_of("/", |mut request: Request| {
        request.set_status(StatusCode::NOT_FOUND);
        "no such thing"
    });
    assert_eq!(reply.brief(), (404, "no such thing"));
}

#[test]
fn fields_set_on_the_request_are_sent_with_what_is_returned() {
    let reply = answer_of("/", |mut request: Request| {
        request.add_header(ETAG, HeaderValue::from_static("\"v\""));
        request.add_header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        "{}"
    });
    assert_eq!(reply.header("etag"), Some("\"v\""));
    assert_eq!(reply.header("content-type"), Some("application/json"), "and no second type");
    assert_eq!(reply.brief(), (200, "{}"));
}

#[test]
fn an_informational_status_is_a_mistake_of_the_resource() {
    let by_handle = |mut request: Request| {
        request.set_status(StatusCode::CONTINUE);
        request.write("x");
        request.finish();
        NOT_DONE_YET
    };
    let returned = |_: Request| Render::from(Response::text("x").with_status(StatusCode::SWITCHING_PROTOCOLS));
    let later = |request: Request| {
        let (completer, deferred) = Deferred::pair();
        request.reactor().call_soon(move || completer.callback((StatusCode::EARLY_HINTS, "x")));
        Render::from(deferred)
    };
    for handle in [by_handle as fn(Request) -> Render, returned, later] {
        let server = Server::new(Leaf(handle));
        assert_eq!(server.get("/").brief().0, 500);
        assert_eq!(server.in_progress(), 0.0);
        expect_log(&["ERROR", "GET /", "1"]);
    }
}

#[test]
fn what_was_set_for_an_answer_does_not_stand_on_the_page_of_its_failure() {
    let server = Server::new(Leaf(|mut request: Request| -> Result<&str> {
        request.set_status(StatusCode::CREATED);
        request.add_header(ETAG, HeaderValue::from_static("\"v\""));
        request.add_header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Err("failed".into())
    }));
    let reply = server.get("/");
    assert_eq!((reply.status, reply.header("etag")), (500, None));
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
}

// ---- forgotten --------------------------------------------------------------------------------------

#[test]
fn a_request_dropped_at_once_is_answered_with_500_and_logged() {
    let server = Server::new(Leaf(|request: Request| {
        drop(request);
        NOT_DONE_YET
    }));
    let mut client = server.connect();
    assert_eq!(client.get("/lost").status, 500);
    expect_log(&["ERROR dosimeter::web", "GET /lost", "without an answer"]);
    assert_eq!(client.get("/").status, 500, "the connection goes on");
}

#[test]
fn a_request_dropped_later_is_answered_with_500_and_logged() {
    let (server, kept) = keeper();
    let mut client = server.connect();
    client.send_request("GET", "/lost");
    let request = next(&server, &kept);
    client.expect_silence();
    server.reactor.call_soon(move || drop(request));
    assert_eq!(client.reply().status, 500);
    expect_log(&["GET /lost", "without an answer"]);
    assert_eq!(server.in_progress(), 0.0);
}

#[test]
fn a_request_dropped_with_the_chain_that_held_it_is_answered_with_500() {
    let server = Server::new(Leaf(|request: Request| {
        let (completer, deferred) = Deferred::pair();
        deferred.add_callback(move |()| -> Result<()> {
            drop(request);
            Ok(())
        });
        drop(completer);
        NOT_DONE_YET
    }));
    assert_eq!(server.get("/").status, 500);
    let log = take_log();
    assert!(log.iter().any(|line| line.contains("without an answer")), "{log:?}");
    assert!(log.iter().any(|line| line.contains("abandoned")), "{log:?}");
}

#[test]
fn a_request_dropped_in_the_middle_of_its_answer_breaks_the_connection() {
    let (server, kept) = keeper();
    let mut client = server.connect();
    client.send_request("GET", "/");
    let mut request = next(&server, &kept);
    request.write("half of it");
    client.take_until(b"half of it\r\n", "the first half");
    drop(request);
    // No last chunk: the peer must not take the half for the whole.
    assert_eq!(client.end(), End::Reset);
    assert_eq!(client.received(), b"");
    expect_log(&["without an answer"]);
    server.until_true("nothing is in progress", || server.in_progress() == 0.0);
}

#[test]
fn a_request_that_a_panic_drops_is_answered_once() {
    let server = Server::new(Leaf(|request: Request| -> Render {
        let _held = request;
        panic!("with the request in hand");
    }));
    assert_eq!(server.get("/").status, 500);
    expect_log(&["with the request in hand"]);
}

// ---- kept beyond the answer -------------------------------------------------------------------------

#[test]
fn an_answer_returned_while_the_handle_lives_is_the_answer() {
    let kept = Kept::default();
    let keeping = kept.clone();
    let server = Server::new(Leaf(move |request| {
        keeping.borrow_mut().push(request);
        "returned"
    }));
    let mut client = server.connect();
    assert_eq!(client.get("/first").brief(), (200, "returned"));
    let mut first = next(&server, &kept);
    assert_eq!(client.get("/second").brief(), (200, "returned"));
    assert_eq!((first.path(), first.method().as_str()), ("/first", "GET"), "it still tells of its own request");
    first.write("too late");
    first.set_status(StatusCode::NOT_FOUND);
    first.finish();
    client.expect_silence();
    drop(next(&server, &kept));
    client.expect_silence();
    assert_eq!(client.get("/third").brief(), (200, "returned"));
    expect_no_log();
}

#[test]
fn a_handle_that_outlives_its_connection_is_harmless() {
    let kept = Kept::default();
    let keeping = kept.clone();
    let server = Server::new(Leaf(move |request| {
        keeping.borrow_mut().push(request);
        "returned"
    }));
    server.get("/");
    let mut request = next(&server, &kept);
    request.write("too late");
    assert!(matches!(request.peer_addr(), Address::Inet(_)));
    assert_eq!(request.reactor().now(), server.reactor.now());
    request.finish();
    expect_no_log();
}

#[test]
fn a_second_answer_is_dropped_and_told_of() {
    let server = Server::new(Leaf(|mut request: Request| {
        request.write("first");
        request.finish();
        "second"
    }));
    let mut client = server.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/").brief(), (200, "first"));
        expect_log(&["WARN", "answered twice"]);
    }
}

#[test]
fn an_answer_returned_in_the_middle_of_another_breaks_the_connection() {
    let kept = Kept::default();
    let keeping = kept.clone();
    let server = Server::new(Leaf(move |mut request: Request| {
        request.write("first");
        keeping.borrow_mut().push(request);
        "second"
    }));
    let mut client = server.connect();
    client.send_request("GET", "/");
    assert_eq!(client.end(), End::Reset);
    expect_log(&["ERROR", "in the middle"]);
    let mut request = next(&server, &kept);
    request.write("more");
    request.finish();
    assert_eq!(server.in_progress(), 0.0);
}

// ---- the peer leaves --------------------------------------------------------------------------------

#[test]
fn a_peer_that_leaves_is_noticed_while_its_request_is_pending() {
    let (server, kept) = keeper();
    let mut client = server.connect();
    client.send_request("GET", "/");
    let request = next(&server, &kept);
    let told = request.notify_finish();
    assert_eq!(server.in_progress(), 1.0);
    client.reset();
    server.until_true("the chain fires", || told.is_fired());
    assert!(told.into_result().unwrap().is_err());
    assert_eq!(server.in_progress(), 0.0);
    assert_eq!(server.figure("http_server_requests_aborted_total", &[]), 1.0);
    drop(request);
    expect_no_log();
}

#[test]
fn writing_and_finishing_after_the_peer_left_are_silent() {
    let (server, kept) = keeper();
    let mut client = server.connect();
    client.send_request("GET", "/");
    let mut request = next(&server, &kept);
    request.write("before");
    client.take_until(b"before\r\n", "the first part");
    client.reset();
    server.until_true("nothing is in progress", || server.in_progress() == 0.0);
    request.write("after");
    assert!(request.notify_finish().into_result().unwrap().is_err(), "asked after the end, it fails at once");
    request.finish();
    server.until_quiet();
    expect_no_log();
}

#[test]
fn a_body_cut_off_never_reaches_the_resource() {
    let server = Server::new(Leaf(|_: Request| -> Render { unreachable!("half a request was handled") }));
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    client.shut_down_writing();
    client.expect_end();
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    server.until_quiet();
    client.reset();
    server.until_true("it is gone", || server.figure("http_server_connections", &[]) == 0.0);
    assert_eq!(server.in_progress(), 0.0);
    expect_no_log();
}

// ---- notify_finish ----------------------------------------------------------------------------------

#[test]
fn notify_finish_fires_with_the_end_of_the_answer_for_everybody_who_asked() {
    let (server, kept) = keeper();
    let mut client = server.connect();
    client.send_request("GET", "/");
    let mut request = next(&server, &kept);
    let (first, second) = (request.notify_finish(), request.notify_finish());
    request.write("x");
    assert!(!first.is_fired() && !second.is_fired());
    request.finish();
    assert!(first.into_result().unwrap().is_ok());
    assert!(second.into_result().unwrap().is_ok());
    assert_eq!(client.reply().brief(), (200, "x"));
}

#[test]
fn notify_finish_after_the_end_has_fired_already() {
    let kept = Kept::default();
    let keeping = kept.clone();
    let server = Server::new(Leaf(move |request| {
        keeping.borrow_mut().push(request);
        "returned"
    }));
    server.get("/");
    assert!(next(&server, &kept).notify_finish().into_result().unwrap().is_ok());
}

#[test]
fn notify_finish_fires_for_an_answer_that_was_returned() {
    let fired = Rc::new(Cell::new(0));
    let counting = fired.clone();
    let server = Server::new(Leaf(move |request: Request| {
        let counting = counting.clone();
        request.notify_finish().map(move |()| counting.set(counting.get() + 1));
        "returned"
    }));
    server.get("/");
    assert_eq!(fired.get(), 1);
}

#[test]
fn notify_finish_tells_why_the_peer_is_gone() {
    let (server, kept) = keeper();
    let mut client = server.connect();
    client.send_request("GET", "/");
    let told = next(&server, &kept).into_notified();
    client.reset();
    server.until_true("the chain fires", || told.1.is_fired());
    let failure = told.1.into_result().unwrap().unwrap_err();
    assert!(failure.to_string().contains("reset"), "{failure}");
}

#[test]
fn whoever_asks_after_the_peer_has_left_is_told_the_same() {
    let (server, kept) = keeper();
    let mut client = server.connect();
    client.send_request("GET", "/");
    let request = next(&server, &kept);
    client.reset();
    server.until_true("it is noticed", || server.in_progress() == 0.0);
    for told in [request.notify_finish(), request.drained()] {
        let failure = told.into_result().expect("it has left").unwrap_err();
        let left = failure.downcast_ref::<Disconnected>().unwrap_or_else(|| panic!("{failure}"));
        assert!(matches!(left.reason(), ConnectionLost::Io(_)), "{left}");
    }
    request.finish();
    expect_no_log();
}

/// Keeps the request with the chain that tells of its end: dropped, it would be answered.
trait IntoNotified {
    fn into_notified(self) -> (Request, Deferred<()>);
}

impl IntoNotified for Request {
    fn into_notified(self) -> (Request, Deferred<()>) {
        let told = self.notify_finish();
        (self, told)
    }
}

// ---- user code inside of everything -----------------------------------------------------------------

#[test]
fn what_waits_for_the_end_of_one_request_may_answer_another() {
    let (server, kept) = keeper();
    let (mut one, mut two) = (server.connect(), server.connect());
    one.send_request("GET", "/one");
    let first = next(&server, &kept);
    two.send_request("GET", "/two");
    let mut second = next(&server, &kept);
    first.notify_finish().map(move |()| {
        second.write("after the first");
        second.finish();
    });
    first.finish();
    assert_eq!(one.reply().status, 200);
    assert_eq!(two.reply().brief(), (200, "after the first"));
}

#[test]
fn whoever_is_told_that_the_peer_left_may_drop_write_and_finish() {
    let (server, kept) = keeper();
    let mut client = server.connect();
    client.send_request("GET", "/");
    let request = next(&server, &kept);
    let told = request.notify_finish();
    let done = Rc::new(Cell::new(false));
    let noting = done.clone();
    told.add_both(move |result: Result<()>| {
        assert!(result.is_err());
        let mut request = request;
        assert!(request.notify_finish().into_result().unwrap().is_err());
        request.write("nobody reads this");
        request.finish();
        noting.set(true);
    });
    client.reset();
    server.until_true("it was told", || done.get());
    assert_eq!(server.in_progress(), 0.0);
    expect_no_log();
}

#[test]
fn finish_runs_nobody_elses_code() {
    // A resource that is called inside `finish` would find the cell borrowed.
    let shared = Rc::new(RefCell::new(0));
    let kept = Kept::default();
    let (keeping, counting) = (kept.clone(), shared.clone());
    let server = Server::new(Leaf(move |request| {
        *counting.borrow_mut() += 1;
        keeping.borrow_mut().push(request);
        NOT_DONE_YET
    }));
    let mut client = server.connect();
    client.send(request("GET", "/1") + &request("GET", "/2"));
    let first = next(&server, &kept);
    let held = shared.borrow_mut();
    first.finish();
    drop(held);
    assert_eq!(client.reply().status, 200);
    next(&server, &kept).finish();
    assert_eq!(client.reply().status, 200);
    expect_no_log();
}

#[test]
fn a_failure_says_nothing_of_itself_to_the_peer() {
    let reply = answer_of("/", |_| Err::<Response, _>(Failure::from("the password is swordfish")));
    assert_eq!(reply.status, 500);
    assert!(!reply.text().contains("swordfish"));
    expect_log(&["GET /", "swordfish"]);
}

/// Writes `count` pieces of 64 KiB, no further ahead of the peer than it is told to; `written` counts them.
fn write_pieces(mut request: Request, count: usize, written: Rc<Cell<usize>>) {
    while written.get() < count {
        if request.is_congested() {
            request.drained().add_callbacks(move |()| write_pieces(request, count, written), |_left| ());
            return;
        }
        request.write(vec![b'x'; 64 * 1024]);
        written.set(written.get() + 1);
    }
    request.finish();
}

#[test]
fn a_handler_that_waits_for_the_peer_keeps_no_more_than_the_peer_can_take() {
    const PIECES: usize = 1024;
    let written = Rc::new(Cell::new(0));
    let counted = written.clone();
    let server = Server::new(Leaf(move |request: Request| {
        write_pieces(request, PIECES, counted.clone());
        NOT_DONE_YET
    }));
    let mut client = server.connect();
    client.send_request("GET", "/");
    server.until_quiet();
    assert!(
        written.get() > 0 && written.get() < PIECES / 2,
        "{} of {PIECES} pieces for a peer that reads none",
        written.get()
    );
    assert_eq!(client.reply().body.len(), PIECES * 64 * 1024);
    assert_eq!((written.get(), server.in_progress()), (PIECES, 0.0));
}

#[test]
fn a_handler_that_waits_for_a_peer_that_leaves_is_told() {
    let written = Rc::new(Cell::new(0));
    let (kept, counted) = (Rc::new(Cell::new(None)), written.clone());
    let keeping = kept.clone();
    let server = Server::new(Leaf(move |request: Request| {
        keeping.set(Some(request.notify_finish()));
        write_pieces(request, usize::MAX, counted.clone());
        NOT_DONE_YET
    }));
    let mut client = server.connect();
    client.send_request("GET", "/");
    server.until_quiet();
    client.reset();
    server.until_true("it is gone", || server.figure("http_server_connections", &[]) == 0.0);
    let end = kept.take().expect("it was asked").into_result().expect("it has ended");
    assert!(end.unwrap_err().is::<dosimeter::web::Disconnected>());
    assert_eq!(server.in_progress(), 0.0);
}

#[test]
fn the_peer_of_a_request_that_is_not_behind_has_drained_already() {
    let reply = answer_of("/", |request: Request| {
        assert!(!request.is_congested());
        request.drained().into_result().expect("fired").map(|()| "at once")
    });
    assert_eq!(reply.brief(), (200, "at once"));
}

#[test]
fn all_arguments_of_one_name_are_found_in_order() {
    let reply = answer_of("/?a=1&b=2&a=%33&a=&a", |request: Request| {
        format!("{:?} {:?} {:?}", request.query("a"), request.query_all("a").collect::<Vec<_>>(), request.query("c"))
    });
    assert_eq!(reply.text(), "Some(\"1\") [\"1\", \"3\", \"\"] None");
}

#[test]
fn a_field_that_the_server_writes_itself_is_not_written_twice() {
    let reply = answer_of("/", |mut request: Request| {
        request.add_header(http::header::SERVER, HeaderValue::from_static("another"));
        Response::text("x").with_header(http::header::DATE, HeaderValue::from_static("never"))
    });
    assert_eq!(reply.header("server"), Some("dosimeter"));
    assert!(reply.header("date").is_some_and(|date| date.ends_with("GMT")));
    let log = take_log();
    assert!(log.len() == 2 && log[0].contains("server left out") && log[1].contains("date left out"), "{log:?}");
}
