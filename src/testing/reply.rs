//! [`Reply`]: a response as a client reads it.
//!
//! Rules kept here:
//! - Nothing is forgiven. What is not exactly a response of HTTP/1.1 (RFC 9112), whole and with nothing behind it, fails the
//!   test: it is never read as a short body.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// A response, whole.
#[derive(Clone)]
pub struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    took: Duration,
}

impl Reply {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The header fields.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The value of the only field of this name, if there is one.
    ///
    /// # Panics
    /// When there are several, or the value is no ASCII text.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} came more than once: {:?}", self.headers);
        Some(value.to_str().unwrap_or_else(|_| panic!("{name} is no text: {value:?}")))
    }

    /// The body, put together from its chunks if it came in such.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body as text.
    ///
    /// # Panics
    /// When it is no UTF-8.
    #[track_caller]
    pub fn text(&self) -> &str {
        match std::str::from_utf8(&self.body) {
            Ok(text) => text,
            Err(error) => panic!("the body is no text: {error}: {}", self.body.escape_ascii()),
        }
    }

    /// How long the answer took, in the time of the reactor.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Reads the response that `input` begins with, and says how long it is; `None` when it is not whole. `is_closed` tells
    /// that nothing more comes.
    ///
    /// # Panics
    /// When it is not a response to such a request.
    #[track_caller]
    pub(super) fn read(method: &Method, input: &[u8], is_closed: bool, took: Duration) -> Option<(Reply, usize)> {
        let mut begin = 0;
        loop {
            let (status, headers, head) = read_head(&input[begin..])?;
            begin += head;
            if status.is_informational() {
                continue;
            }
            let framing = Framing::of(method, status, &headers);
            let (body, length) = framing.read(&input[begin..], is_closed)?;
            return Some((Reply { status, headers, body, took }, begin + length));
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body.escape_ascii().to_string();
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body", &body)
            .finish()
    }
}

/// Status, fields and length of the head that `input` begins with.
#[track_caller]
fn read_head(input: &[u8]) -> Option<(StatusCode, HeaderMap, usize)> {
    let end = find(input, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&input[..end]).expect("a response head in ASCII");
    let mut lines = head.split("\r\n");
    let status = read_status(lines.next().unwrap_or_default());
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = read_field(line).unwrap_or_else(|| panic!("not a header field: {line:?}"));
        headers.append(name, value);
    }
    Some((status, headers, end + 4))
}

/// RFC 9112, section 4: `HTTP/1.1 200 OK`.
#[track_caller]
fn read_status(line: &str) -> StatusCode {
    let rest = line.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("not a status line: {line:?}"));
    let code = rest.split_once(' ').map(|(code, _reason)| code);
    code.and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("not a status line: {line:?}"))
}

/// RFC 9112, section 5: a name, a colon at once behind it, a value without control characters.
fn read_field(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let value = value.trim_matches([' ', '\t']);
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
}

/// What says where a body ends.
enum Framing {
    Nothing,
    Length(usize),
    Chunked,
    Close,
}

impl Framing {
    /// RFC 9112, section 6.3.
    #[track_caller]
    fn of(method: &Method, status: StatusCode, headers: &HeaderMap) -> Self {
        let lengths: Vec<_> = headers.get_all("content-length").iter().collect();
        let codings: Vec<_> = headers.get_all("transfer-encoding").iter().collect();
        match (&*codings, &*lengths) {
            _ if method == Method::HEAD || matches!(status.as_u16(), 204 | 304) => Framing::Nothing,
            ([coding], []) if *coding == "chunked" => Framing::Chunked,
            ([], [length]) => Framing::Length(read_length(length)),
            ([], []) => Framing::Close,
            _ => panic!("the body is framed in two ways: {headers:?}"),
        }
    }

    /// The body that `input` begins with, and how long it is with its frame.
    #[track_caller]
    fn read(&self, input: &[u8], is_closed: bool) -> Option<(Vec<u8>, usize)> {
        match self {
            Framing::Nothing => Some((Vec::new(), 0)),
            Framing::Length(length) => Some((input.get(..*length)?.to_vec(), *length)),
            Framing::Chunked => read_chunks(input),
            Framing::Close => is_closed.then(|| (input.to_vec(), input.len())),
        }
    }
}

#[track_caller]
fn read_length(value: &HeaderValue) -> usize {
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("not a length: {value:?}"))
}

/// RFC 9112, section 7.1. Trailers are not expected.
#[track_caller]
fn read_chunks(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = find(&input[at..], b"\r\n")?;
        let size = read_size(&input[at..at + line]);
        let begin = at + line + 2;
        let chunk = input.get(begin..begin + size + 2)?;
        assert!(
            chunk.ends_with(b"\r\n"),
            "a chunk of {size} bytes does not end with its line: {}",
            chunk.escape_ascii()
        );
        body.extend_from_slice(&chunk[..size]);
        at = begin + size + 2;
        if size == 0 {
            return Some((body, at));
        }
    }
}

#[track_caller]
fn read_size(line: &[u8]) -> usize {
    let digits = std::str::from_utf8(line).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let size = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok());
    size.unwrap_or_else(|| panic!("not the size of a chunk: {}", line.escape_ascii()))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    fn read(input: &str, is_closed: bool) -> Option<(Reply, usize)> {
        Reply::read(&Method::GET, input.as_bytes(), is_closed, Duration::ZERO)
    }

    #[test]
    fn a_response_is_read_when_it_is_whole_and_not_before() {
        for whole in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nab",
            "HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
        ] {
            for end in 0..whole.len() {
                assert!(read(&whole[..end], true).is_none(), "{}", &whole[..end]);
            }
            let (reply, length) = read(&format!("{whole}HTTP"), false).expect("it is whole");
            assert_eq!((reply.status(), reply.text(), length), (StatusCode::OK, "ab", whole.len()));
        }
    }

    #[test]
    fn a_body_without_a_frame_ends_with_the_connection() {
        let input = "HTTP/1.1 200 OK\r\n\r\nab";
        assert!(read(input, false).is_none());
        assert_eq!(read(input, true).expect("it is whole").0.text(), "ab");
    }

    #[test]
    fn what_has_no_body_is_whole_with_its_head() {
        let input = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
        let reply = Reply::read(&Method::HEAD, input, false, Duration::ZERO);
        assert_eq!(reply.expect("it is whole").1, input.len());
        assert!(read("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", false).is_some());
        assert!(read("HTTP/1.1 204 No Content\r\n\r\n", false).is_some());
    }

    #[test]
    fn what_is_no_response_fails_the_test() {
        for (input, message) in [
            ("HTTP/1.0 200 OK\r\n\r\n", "not a status line"),
            ("HTTP/1.1 200\r\n\r\n", "not a status line"),
            ("HTTP/1.1 2000 OK\r\n\r\n", "not a status line"),
            ("HTTP/1.1 200 OK\r\nName : value\r\n\r\n", "not a header field"),
            ("HTTP/1.1 200 OK\r\nName\r\n\r\n", "not a header field"),
            ("HTTP/1.1 200 OK\r\na: b\nc: d\r\n\r\n", "not a header field"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", "framed in two ways"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "framed in two ways"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "framed in two ways"),
            ("HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na", "not a length"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a\r\na\r\n", "not the size of a chunk"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", "does not end with its line"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", "not the size of a chunk"),
        ] {
            let panic = catch_unwind(|| read(input, true)).expect_err(input);
            let found = panic.downcast_ref::<String>().expect("a text");
            assert!(found.contains(message), "{input:?}: {found}");
        }
    }
}
