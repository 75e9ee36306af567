//! Responses: how they are framed, when the connection goes on, and what they never contain.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/http.rs"]
mod support;

use dosimeter::http::{Connection, Event, ExcessBody, FieldError, Finished, Limits, Refusal, RequestHead, write_field};
use http::StatusCode;
use support::asked;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
const CLOSE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const OLD: &str = "GET / HTTP/1.0\r\n\r\n";
const OLD_KEEP: &str = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
const EXPECTING: &str = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";

/// The response to `request` with this status, length and body; and what becomes of the connection.
#[track_caller]
fn respond(request: &str, status: u16, length: Option<u64>, body: &[&str]) -> (String, Finished) {
    let (mut connection, mut out) = (asked(request), Vec::new());
    let status = StatusCode::from_u16(status).expect("a status");
    connection.begin_response(&mut out, status, length);
    connection.end_head(&mut out);
    for piece in body {
        connection.send_body(&mut out, piece.as_bytes()).expect("a body that fits");
    }
    let finished = connection.finish(&mut out);
    (String::from_utf8(out).expect("only ASCII was sent"), finished)
}

/// A response that is written in one call is what the calls for its parts write, whoever asks and whatever the status.
#[test]
fn a_response_in_one_call_is_that_of_its_parts() {
    for request in [GET, HEAD, CLOSE, OLD, OLD_KEEP, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"] {
        for status in [200, 201, 204, 205, 304, 404, 500] {
            for body in ["", "hello"] {
                let (mut connection, mut out) = (asked(request), Vec::new());
                let code = StatusCode::from_u16(status).expect("a status");
                let finished = connection.respond(&mut out, code, body.as_bytes(), |_| {});
                let parts = respond(request, status, Some(body.len() as u64), &[body]);
                assert_eq!((String::from_utf8(out).unwrap(), finished), parts, "{request:?} {status}");
            }
        }
    }
}

// Framing

/// RFC 9112 section 6.2: a known length is declared.
#[test]
fn a_known_length_is_declared() {
    let (out, finished) = respond(GET, 200, Some(5), &["he", "", "llo"]);
    assert_eq!(out, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(finished, Finished::KeepAlive);
    let (out, _) = respond(GET, 404, Some(0), &[]);
    assert_eq!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
}

/// RFC 9112 section 7.1: an unknown length is chunked; an empty chunk would be the last.
#[test]
fn an_unknown_length_is_chunked() {
    let (out, finished) = respond(GET, 200, None, &["hello", "", "0123456789abcdef!"]);
    assert_eq!(
        out,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n11\r\n0123456789abcdef!\r\n0\r\n\r\n"
    );
    assert_eq!(finished, Finished::KeepAlive);
    let (out, _) = respond(GET, 200, None, &[]);
    assert!(out.ends_with("chunked\r\n\r\n0\r\n\r\n"), "{out}");
}

/// Sizes of chunks are what the length of their data is.
#[test]
fn chunk_sizes_are_hexadecimal() {
    for len in [1, 9, 10, 15, 16, 255, 256, 4095, 4096, 65_535, 65_536, 1_048_575] {
        let (out, _) = respond(GET, 200, None, &[&"a".repeat(len)]);
        let body = out.split_once("\r\n\r\n").expect("a head").1;
        assert_eq!(body.split_once("\r\n").expect("a size").0, format!("{len:x}"));
    }
}

/// RFC 9112 section 6.1: no transfer coding to HTTP/1.0; section 6.3, item 8: the close ends the
/// body.
#[test]
fn an_unknown_length_to_http_1_0_is_ended_by_the_close() {
    for request in [OLD, OLD_KEEP] {
        let (out, finished) = respond(request, 200, None, &["hello"]);
        assert_eq!(out, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello");
        assert_eq!(finished, Finished::Close);
    }
}

/// RFC 9110 section 9.3.2: HEAD is answered as GET would be, without a body.
#[test]
fn head_never_has_a_body() {
    let (out, finished) = respond(HEAD, 200, Some(5), &["hello"]);
    assert_eq!((out.as_str(), finished), ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Finished::KeepAlive));
    let (out, finished) = respond(HEAD, 200, None, &["hello", "more"]);
    assert_eq!((out.as_str(), finished), ("HTTP/1.1 200 OK\r\n\r\n", Finished::KeepAlive));
    let (out, _) = respond("HEAD / HTTP/1.0\r\n\r\n", 404, Some(9), &["not found"]);
    assert_eq!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\nConnection: close\r\n\r\n");
    let (out, _) = respond("HEAD / HTTP/1.1\r\n\r\n", 400, Some(3), &["bad"]);
    assert_eq!(out, "HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\nConnection: close\r\n\r\n", "also if refused");
}

/// RFC 9110 section 9.3.2: no content in a response to HEAD, be it a refusal of a head of which only the method was read.
#[test]
fn a_refused_head_gets_no_body_either() {
    let long = "x".repeat(20_000);
    for refused in [
        "HEAD / HTTP/1.1\nHost: a\n\n",
        "HEAD /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD / HTTP/9.9\r\n",
        "\r\nHEAD /\r\n",
        &format!("HEAD /{long}"),
        &format!("HEAD / HTTP/1.1\r\nHost: a\r\nX: {long}"),
    ] {
        let (out, finished) = respond(refused, 400, Some(3), &["bad"]);
        assert!(out.ends_with("Content-Length: 3\r\nConnection: close\r\n\r\n"), "{refused:.30}: {out}");
        assert_eq!(finished, Finished::Close);
    }
    for (begun, bodiless) in [("HEAD / HT", true), ("HEAD / HTTP/1.1\r\nHost: a\r\n", true), ("HEADS / HT", false)] {
        let (mut connection, mut out) = (Connection::new(), Vec::new());
        connection.receive(begun.as_bytes(), &mut RequestHead::new(), &Limits::default());
        connection.refuse(Refusal::Timeout);
        connection.begin_response(&mut out, Refusal::Timeout.status(), Some(4));
        connection.end_head(&mut out);
        connection.send_body(&mut out, b"late").unwrap();
        let _ = connection.finish(&mut out);
        assert_eq!(out.ends_with(b"\r\n\r\n"), bodiless, "{begun}");
    }
}

/// What answers a refusal depends on what was sent, and not on how it arrived.
#[test]
fn a_refusal_is_answered_alike_however_it_arrives() {
    let answer = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut connection, mut head, mut out) = (Connection::new(), RequestHead::new(), Vec::new());
        let (mut pending, limits) = (Vec::new(), Limits::default());
        for piece in pieces {
            pending.extend_from_slice(piece);
            loop {
                let (used, event) = connection.receive(&pending, &mut head, &limits);
                let more = matches!(event, Event::Head | Event::Data(_));
                pending.drain(..used);
                if !more {
                    break;
                }
            }
        }
        let refusal = connection.refusal().expect("all of these are refused");
        connection.begin_response(&mut out, refusal.status(), None);
        connection.end_head(&mut out);
        connection.send_body(&mut out, b"no").unwrap();
        let _ = connection.finish(&mut out);
        String::from_utf8(out).unwrap()
    };
    for input in [
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a HTTP/1.0\r\n\r\n",
        "GET / HTTP/3.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\nb\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "\r\nGET /\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        &format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(20_000)),
    ] {
        let input = input.as_bytes();
        let whole = answer(&mut [input].into_iter());
        assert_eq!(answer(&mut input.chunks(1)), whole, "{}", input.escape_ascii());
        assert_eq!(answer(&mut input.chunks(7)), whole, "{}", input.escape_ascii());
    }
}

/// RFC 9110 sections 15.3.5 and 15.4.5: no body; section 8.6: and no length that could be wrong.
#[test]
fn no_content_and_not_modified_never_have_a_body() {
    for (status, line) in [(204, "204 No Content"), (304, "304 Not Modified")] {
        for length in [None, Some(0), Some(5)] {
            for request in [GET, HEAD] {
                let (out, finished) = respond(request, status, length, &["hello"]);
                assert_eq!(out, format!("HTTP/1.1 {line}\r\n\r\n"));
                assert_eq!(finished, Finished::KeepAlive);
            }
        }
    }
}

/// RFC 9110 section 15.3.6: 205 has no content, and says so by a length of zero.
#[test]
fn reset_content_is_empty() {
    let (out, finished) = respond(GET, 205, None, &["hello"]);
    assert_eq!(
        (out.as_str(), finished),
        ("HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", Finished::KeepAlive)
    );
}

/// RFC 9110 section 8.6 and RFC 9112 section 6.1: a 2xx to CONNECT has neither framing field.
#[test]
fn connect_gets_no_tunnel() {
    let connect = "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let (out, finished) = respond(connect, 200, Some(5), &["hello"]);
    assert_eq!((out.as_str(), finished), ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", Finished::Close));
    let (out, finished) = respond(connect, 501, Some(0), &[]);
    assert_eq!(out, "HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert_eq!(finished, Finished::Close);
}

/// RFC 9112 section 6.2: what is beyond the declared length would be read as the next response.
#[test]
fn more_than_the_declared_length_is_never_sent() {
    let (mut connection, mut out) = (asked(GET), Vec::new());
    connection.begin_response(&mut out, StatusCode::OK, Some(3));
    connection.end_head(&mut out);
    let start = out.len();
    assert_eq!(connection.send_body(&mut out, b"ab"), Ok(()));
    let excess = connection.send_body(&mut out, b"cdef").expect_err("too long");
    assert_eq!((excess.bytes, &out[start..]), (3, &b"abc"[..]));
    assert!(matches!(connection.send_body(&mut out, b"g"), Err(ExcessBody { bytes: 1, .. })));
    assert_eq!(connection.finish(&mut out), Finished::KeepAlive, "what was sent is a valid response");
}

/// RFC 9112 section 8: a peer that waits for the missing part must see the connection close.
#[test]
fn less_than_the_declared_length_closes_the_connection() {
    let (mut connection, mut out) = (asked(GET), Vec::new());
    connection.begin_response(&mut out, StatusCode::OK, Some(3));
    connection.end_head(&mut out);
    connection.send_body(&mut out, b"a").expect("a body that fits");
    assert_eq!(connection.finish(&mut out), Finished::Short(2));
    let (used, event) = connection.receive(GET.as_bytes(), &mut RequestHead::new(), &Limits::default());
    assert_eq!((used, event, connection.must_close()), (GET.len(), Event::Closed, true));
}

// Persistence

/// RFC 9112 sections 9.3 and 9.6: who closes says so; to HTTP/1.0, who does not.
#[test]
fn a_response_says_whether_the_connection_goes_on() {
    for (request, field, finished) in [
        (GET, None, Finished::KeepAlive),
        (CLOSE, Some("Connection: close"), Finished::Close),
        (OLD, Some("Connection: close"), Finished::Close),
        (OLD_KEEP, Some("Connection: keep-alive"), Finished::KeepAlive),
    ] {
        let (out, found) = respond(request, 200, Some(0), &[]);
        let line = out.lines().find(|line| line.starts_with("Connection"));
        assert_eq!((line, found), (field, finished), "{request}");
    }
}

/// A server that shuts down announces it (RFC 9112 section 9.6).
#[test]
fn the_caller_can_make_a_response_the_last() {
    let (mut connection, mut out) = (asked(GET), Vec::new());
    connection.close_after();
    connection.begin_response(&mut out, StatusCode::OK, Some(0));
    connection.end_head(&mut out);
    assert_eq!(connection.finish(&mut out), Finished::Close);
    assert!(out.windows(17).any(|window| window == b"Connection: close"));

    let (mut connection, mut out) = (asked(GET), Vec::new());
    connection.begin_response(&mut out, StatusCode::OK, Some(0));
    connection.close_after();
    connection.end_head(&mut out);
    assert_eq!(connection.finish(&mut out), Finished::Close, "too late to say so, not too late to close");

    let mut idle = Connection::new();
    idle.close_after();
    assert!(idle.must_close());
}

/// RFC 9112 section 9.3: what is left of a request is read before the next begins.
#[test]
fn an_early_response_waits_for_the_rest_of_its_request() {
    let (mut connection, mut head, limits) = (Connection::new(), RequestHead::new(), Limits::default());
    let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n";
    assert_eq!(connection.receive(post, &mut head, &limits), (post.len(), Event::Head));
    let mut out = Vec::new();
    connection.begin_response(&mut out, StatusCode::NOT_FOUND, Some(0));
    connection.end_head(&mut out);
    assert_eq!(connection.finish(&mut out), Finished::KeepAlive);
    assert!(connection.response_started() && connection.in_body());
    let input = [GET.as_bytes(), &b"*".repeat(40 - GET.len()), GET.as_bytes()].concat();
    let (used, event) = connection.receive(&input, &mut head, &limits);
    assert_eq!((used, event), (40, Event::Data(&input[..40])), "the body looks like a request and is none");
    assert_eq!(connection.receive(&input[40..], &mut head, &limits), (0, Event::End));
    assert!(connection.is_idle() && !connection.response_started());
    assert_eq!(connection.receive(&input[40..], &mut head, &limits), (GET.len(), Event::Head));
}

/// RFC 9112 section 9.3.2: responses in the order of requests, because there is only one at a time.
#[test]
fn a_pipelined_request_waits_for_the_response_before_it() {
    let (mut connection, mut head, limits, mut out) =
        (Connection::new(), RequestHead::new(), Limits::default(), Vec::new());
    let input = GET.repeat(2).into_bytes();
    let (used, _) = connection.receive(&input, &mut head, &limits);
    assert_eq!(connection.receive(&input[used..], &mut head, &limits), (0, Event::End));
    assert_eq!(connection.receive(&input[used..], &mut head, &limits), (0, Event::Paused));
    connection.begin_response(&mut out, StatusCode::OK, None);
    assert_eq!(connection.receive(&input[used..], &mut head, &limits), (0, Event::Paused));
    connection.end_head(&mut out);
    assert_eq!(connection.receive(&input[used..], &mut head, &limits), (0, Event::Paused));
    assert_eq!(connection.finish(&mut out), Finished::KeepAlive);
    assert_eq!(connection.receive(&input[used..], &mut head, &limits), (used, Event::Head));
}

// 100 Continue

/// RFC 9110 section 10.1.1: 100 before the body, once, and only if it is waited for.
#[test]
fn continue_is_sent_once_to_who_waits_for_it() {
    let (mut connection, mut head, limits, mut out) =
        (Connection::new(), RequestHead::new(), Limits::default(), Vec::new());
    connection.receive(EXPECTING.as_bytes(), &mut head, &limits);
    assert!(connection.continue_expected());
    connection.send_continue(&mut out);
    connection.send_continue(&mut out);
    assert_eq!(out, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.receive(b"abc", &mut head, &limits);
    assert_eq!(connection.receive(b"", &mut head, &limits), (0, Event::End));
    connection.begin_response(&mut out, StatusCode::OK, Some(0));
    connection.end_head(&mut out);
    assert_eq!(connection.finish(&mut out), Finished::KeepAlive);
}

/// RFC 9110 section 10.1.1: not to HTTP/1.0, not without a body, not once the body comes.
#[test]
fn continue_is_not_sent_to_who_does_not_wait() {
    let (limits, mut head) = (Limits::default(), RequestHead::new());
    for request in [
        "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
        "POST / HTTP/1.0\r\nExpect: something\r\nContent-Length: 3\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
    ] {
        let (mut connection, mut out) = (Connection::new(), Vec::new());
        assert_eq!(connection.receive(request.as_bytes(), &mut head, &limits).1, Event::Head);
        connection.send_continue(&mut out);
        assert_eq!((connection.continue_expected(), out.len()), (false, 0), "{request}");
    }
    let mut connection = Connection::new();
    connection.receive(EXPECTING.as_bytes(), &mut head, &limits);
    connection.receive(b"a", &mut head, &limits);
    assert!(!connection.continue_expected());
}

/// RFC 9110 section 10.1.1: whether the body follows a final response is not known, so nothing may.
#[test]
fn a_final_response_instead_of_continue_closes() {
    let (mut connection, mut head, limits, mut out) =
        (Connection::new(), RequestHead::new(), Limits::default(), Vec::new());
    connection.receive(EXPECTING.as_bytes(), &mut head, &limits);
    connection.begin_response(&mut out, StatusCode::FORBIDDEN, Some(0));
    assert!(out.ends_with(b"Connection: close\r\n"));
    connection.end_head(&mut out);
    assert_eq!(connection.finish(&mut out), Finished::Close);
    let (used, event) = connection.receive(GET.as_bytes(), &mut head, &limits);
    assert_eq!((used, event), (GET.len(), Event::Closed));
}

// Fields

/// RFC 9110 section 5.5: CR, LF and NUL are invalid and dangerous, and become SP.
#[test]
fn a_value_cannot_end_its_line() {
    let mut out = Vec::new();
    write_field(&mut out, "X", b"a\r\nb\0c\td\x7f\xff\r").expect("a valid name");
    assert_eq!(out, b"X: a  b c\td \xff \r\n");
    out.clear();
    write_field(&mut out, "X", b"").expect("a valid name");
    assert_eq!(out, b"X: \r\n");
    for byte in 0..=255_u8 {
        out.clear();
        write_field(&mut out, "X", &[b'a', byte, b'b']).expect("a valid name");
        let kept = byte == b'\t' || !byte.is_ascii_control();
        assert_eq!(out, [b'X', b':', b' ', b'a', if kept { byte } else { b' ' }, b'b', b'\r', b'\n']);
    }
}

/// RFC 9110 section 5.1: a name is a token.
#[test]
fn a_field_with_an_invalid_name_is_not_written() {
    let mut out = Vec::new();
    for name in ["", "a b", "a:", "a\r\nb", "\u{e9}", "a\0"] {
        assert_eq!(write_field(&mut out, name, b"x"), Err(FieldError::InvalidName));
    }
    assert!(out.is_empty());
}

/// RFC 9112 section 6.3: two answers to where a response ends are one too many.
#[test]
fn framing_fields_are_left_to_the_engine() {
    let mut out = Vec::new();
    for name in ["Content-Length", "content-length", "Transfer-Encoding", "CONNECTION"] {
        assert_eq!(write_field(&mut out, name, b"x"), Err(FieldError::Framing));
    }
    assert!(out.is_empty());
}

/// RFC 9112 section 4: `status-line = HTTP-version SP status-code SP [ reason-phrase ]`.
#[test]
fn every_status_has_a_status_line() {
    for status in 200..1000 {
        let (out, _) = respond(GET, status, Some(0), &[]);
        let line = out.split_once("\r\n").expect("a status line").0;
        let reason = line.strip_prefix(&format!("HTTP/1.1 {status} ")).expect("version, status and space");
        assert!(!reason.is_empty() && reason.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
    }
    let (out, _) = respond(GET, 599, Some(0), &[]);
    assert!(out.starts_with("HTTP/1.1 599 Unknown Status\r\n"));
}

// Refusals and misuse

/// RFC 9112 section 9.6: the answer to a refused request closes, and nothing else is asked.
#[test]
fn a_refused_request_is_answered_once_and_closes() {
    let (mut connection, mut out) = (asked("GET / HTTP/1.1\r\n\r\n"), Vec::new());
    let refusal = connection.refusal().expect("no Host");
    connection.begin_response(&mut out, refusal.status(), Some(0));
    connection.end_head(&mut out);
    assert_eq!(connection.finish(&mut out), Finished::Close);
    assert_eq!(out, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let (used, event) = connection.receive(GET.as_bytes(), &mut RequestHead::new(), &Limits::default());
    assert_eq!((used, event), (GET.len(), Event::Refused(refusal)));
}

/// The version of who sent this is not known, so it is not sent chunks.
#[test]
fn a_refusal_of_unknown_length_is_ended_by_the_close() {
    let (out, finished) = respond("\x16\x03\x01", 400, None, &["TLS?"]);
    assert_eq!(
        (out.as_str(), finished),
        ("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nTLS?", Finished::Close)
    );
}

#[test]
#[should_panic(expected = "nothing waits for a response")]
fn a_response_that_nobody_asked_for_panics() {
    Connection::new().begin_response(&mut Vec::new(), StatusCode::OK, None);
}

#[test]
#[should_panic(expected = "nothing waits for a response")]
fn a_second_response_panics() {
    let mut connection = asked(GET);
    connection.begin_response(&mut Vec::new(), StatusCode::OK, None);
    connection.begin_response(&mut Vec::new(), StatusCode::OK, None);
}

#[test]
#[should_panic(expected = "not a final response")]
fn an_informational_response_panics() {
    asked(GET).begin_response(&mut Vec::new(), StatusCode::SWITCHING_PROTOCOLS, None);
}

#[test]
#[should_panic(expected = "no response body is being written")]
fn a_body_within_the_head_panics() {
    let mut connection = asked(GET);
    connection.begin_response(&mut Vec::new(), StatusCode::OK, None);
    let _ = connection.send_body(&mut Vec::new(), b"x");
}
