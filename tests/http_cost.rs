//! What a connection costs: nothing per request, and little while it is idle.

#[path = "support/allocations.rs"]
mod support;

use dosimeter::http::{Connection, Event, Finished, Limits, RequestHead, write_field};
use http::StatusCode;
use support::allocations;

/// One request and its response, with everything a server asks of a head.
fn serve(connection: &mut Connection, mut input: &[u8], head: &mut RequestHead, limits: &Limits, out: &mut Vec<u8>) {
    loop {
        let (used, event) = connection.receive(input, head, limits);
        input = &input[used..];
        match event {
            Event::Head => {
                assert!(head.host().is_some() && head.header("accept").is_none() && head.headers().count() > 0)
            }
            Event::Data(data) => assert!(!data.is_empty()),
            Event::End => break,
            other => panic!("{other:?}"),
        }
    }
    connection.begin_response(out, StatusCode::OK, (input.is_empty()).then_some(5));
    write_field(out, "Content-Type", b"text/plain").expect("a valid name");
    connection.end_head(out);
    connection.send_body(out, b"hello").expect("a body that fits");
    assert_eq!(connection.finish(out), Finished::KeepAlive);
    out.clear();
}

#[test]
fn a_request_allocates_nothing_once_the_buffers_have_grown() {
    let requests = [
        "GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:18001\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: a\r\nX: y\r\nContent-Length: 3\r\n\r\nabc",
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
    ];
    let (mut head, limits, mut out) = (RequestHead::new(), Limits::default(), Vec::new());
    let mut connection = Connection::new();
    for request in requests {
        serve(&mut connection, request.as_bytes(), &mut head, &limits, &mut out);
    }
    let count = allocations(|| {
        for request in requests.into_iter().cycle().take(300) {
            serve(&mut connection, request.as_bytes(), &mut head, &limits, &mut out);
        }
    });
    assert_eq!(count, 0);
}

/// One lives in every idle connection, and there may be very many of those.
#[test]
fn a_connection_is_small() {
    assert!(size_of::<Connection>() <= 48, "{} bytes", size_of::<Connection>());
}
