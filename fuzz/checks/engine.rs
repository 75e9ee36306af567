//! The HTTP engine: whatever comes, it comes out the same however it is cut, and nothing that could mislead another parser.

use dosimeter::http::{BodyFraming, Connection, Event, Finished, Limits, RequestHead};
use http::StatusCode;

/// One request head.
pub fn head(data: &[u8]) {
    let (mut connection, mut head) = (Connection::new(), RequestHead::new());
    if connection.receive(data, &mut head, &Limits::default()).1 == Event::Head {
        check_head(&head);
    }
    engine(data);
}

/// The body behind a head that announces it: by a length if the first byte is even, else in chunks.
pub fn body(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    let framing = match kind % 2 {
        0 => format!("Content-Length: {}", kind / 2),
        _ => "Transfer-Encoding: chunked".to_owned(),
    };
    let mut input = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n").into_bytes();
    input.extend_from_slice(body);
    engine(&input);
}

/// A whole connection, pipelined requests included.
pub fn engine(data: &[u8]) {
    let whole = feed([data]);
    assert_eq!(feed(data.chunks(1)), whole, "byte by byte");
    let (left, right) = data.split_at(data.len() / 2);
    assert_eq!(feed([left, right]), whole, "cut in the middle");
    assert_eq!(feed(data.chunks(7)), whole, "seven bytes at a time");
}

/// What the types promise of a head that was accepted.
fn check_head(head: &RequestHead) {
    assert!(
        !head.target().is_empty() && head.target().bytes().all(|byte| byte.is_ascii_graphic()),
        "{:?}",
        head.target()
    );
    assert!(head.host().is_some() || head.version() == http::Version::HTTP_10, "a request of HTTP/1.1 names its host");
    for (name, value) in head.headers() {
        assert!(!name.is_empty() && http::HeaderName::from_bytes(name.as_bytes()).is_ok(), "{name:?}");
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{}", value.escape_ascii());
        assert!(http::HeaderValue::from_bytes(value).is_ok(), "{}", value.escape_ascii());
    }
    let lengths = head.header_all("content-length").count();
    let codings = head.header_all("transfer-encoding").count();
    assert!(lengths + codings <= 1, "two things say how long the body is");
    assert_eq!(codings == 1, head.framing() == BodyFraming::Chunked);
}

/// What the engine says, in words; pieces of a body are put together, for where they are cut is nobody's business.
fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let (mut connection, mut head, limits) = (Connection::new(), RequestHead::new(), Limits::default());
    let (mut pending, mut said, mut body, mut out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for piece in pieces {
        pending.extend_from_slice(piece);
        loop {
            let (used, event) = connection.receive(&pending, &mut head, &limits);
            let more_is_needed = event == Event::NeedData;
            match event {
                Event::NeedData => {}
                Event::Head => said.push(describe(&head)),
                Event::Data(data) => body.extend_from_slice(data),
                Event::End => {
                    said.push(format!("body {}", std::mem::take(&mut body).escape_ascii()));
                    said.push(answer(&mut connection, &mut out));
                }
                Event::Closed => return said,
                Event::Refused(refusal) => {
                    said.push(format!("refused: {refusal}"));
                    return said;
                }
                Event::Paused => panic!("every request is answered at once"),
            }
            pending.drain(..used);
            if more_is_needed {
                break;
            }
        }
    }
    said.push(format!("incomplete, with {} of a body", body.escape_ascii()));
    said
}

fn describe(head: &RequestHead) -> String {
    let mut text = format!("{} {} {:?} {:?}", head.method(), head.target(), head.version(), head.framing());
    for (name, value) in head.headers() {
        text.push_str(&format!(" {name}={}", value.escape_ascii()));
    }
    text
}

fn answer(connection: &mut Connection, out: &mut Vec<u8>) -> String {
    out.clear();
    connection.begin_response(out, StatusCode::OK, Some(2));
    connection.end_head(out);
    connection.send_body(out, b"ok").expect("as long as was said");
    let finished = connection.finish(out);
    assert!(finished != Finished::Short(0) && out.starts_with(b"HTTP/1."), "{}", out.escape_ascii());
    format!("{finished:?}")
}
