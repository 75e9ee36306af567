//! The same bytes, read by our engine and by hyper: what both accept they must understand in the same way.
//!
//! Rules kept here:
//! - The requests are mutations of a few good ones, made from a fixed seed: a failure can be repeated.
//! - Where both accept, method, target, headers and body are equal. Where we accept and hyper does not, the case belongs to
//!   a class that is listed here with its reason, and each class of the list occurs. What we refuse is ours to refuse.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use dosimeter::http::{Connection, Event, Limits, RequestHead};
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;

#[test]
fn mutations_of_heads_are_understood_as_hyper_understands_them() {
    let only_ours = compare(0x5eed_0001, HEADS);
    let met: Vec<_> = only_ours.into_keys().collect();
    assert_eq!(met, [LATER_VERSION, PERCENT_IN_HOST], "a class that never occurs is no longer one");
}

#[test]
fn mutations_of_bodies_are_understood_as_hyper_understands_them() {
    compare(0x5eed_0002, BODIES);
}

#[test]
fn mutations_of_both_are_understood_as_hyper_understands_them() {
    let both: Vec<_> = HEADS.iter().chain(BODIES).copied().collect();
    compare(0x5eed_0003, &both);
}

#[test]
fn mutations_of_pipelines_are_understood_as_hyper_understands_them() {
    compare(0x5eed_0004, PIPELINES);
}

/// A request, as far as both have a word for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    method: String,
    /// The host and port, where the target has them.
    authority: Option<String>,
    /// Path and query, `*` included.
    target: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// Returns how often we alone accept, by reason.
fn compare(seed: u64, seeds: &[&str]) -> BTreeMap<&'static str, usize> {
    let mut random = Random(seed);
    let (mut agreed, mut only_ours) = (0, BTreeMap::new());
    for _ in 0..CASES_EACH {
        let input = mutate(&mut random, seeds);
        let (ours, theirs) = (read_with_ours(&input), read_with_hyper(&input));
        let common = ours.len().min(theirs.len());
        for (our, their) in ours.iter().zip(&theirs) {
            assert_eq!(our, their, "read differently: {}", input.escape_ascii());
        }
        agreed += common;
        if let Some(first) = ours.get(common) {
            let reason = why_hyper_refuses(first, &input);
            let reason =
                reason.unwrap_or_else(|| panic!("accepted by us alone: {first:?}\nin {}", input.escape_ascii()));
            *only_ours.entry(reason).or_default() += 1;
        }
    }
    println!("{agreed} requests read alike by both; accepted by us alone: {only_ours:#?}");
    assert!(agreed > CASES_EACH / 4, "the mutations are too wild to show anything: {agreed} agreed");
    only_ours
}

/// The class that a request belongs to which hyper refuses and we accept.
fn why_hyper_refuses(message: &Message, input: &[u8]) -> Option<&'static str> {
    if input.windows(8).any(|word| word.starts_with(b"HTTP/1.") && matches!(word[7], b'2'..=b'9')) {
        Some(LATER_VERSION)
    } else if message.authority.as_ref().is_some_and(|authority| authority.contains('%')) {
        Some(PERCENT_IN_HOST)
    } else {
        None
    }
}

fn read_with_ours(mut input: &[u8]) -> Vec<Message> {
    let (mut connection, mut head, limits) = (Connection::new(), RequestHead::new(), Limits::default());
    let (mut messages, mut out, mut body) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let (used, event) = connection.receive(input, &mut head, &limits);
        input = &input[used..];
        match event {
            Event::Head => body.clear(),
            Event::Data(data) => body.extend_from_slice(data),
            Event::End => {
                messages.push(our_message(&head, &body));
                connection.begin_response(&mut out, StatusCode::OK, Some(0));
                connection.end_head(&mut out);
                let _ = connection.finish(&mut out);
            }
            Event::NeedData | Event::Closed | Event::Refused(_) => return messages,
            Event::Paused => unreachable!("every request is answered at once"),
        }
    }
}

fn our_message(head: &RequestHead, body: &[u8]) -> Message {
    let mut fields: Vec<_> = head.headers().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect();
    // hyper files the values of a name together.
    fields.sort_by(|left, right| left.0.cmp(&right.0));
    let authority = (!head.target().starts_with(['/', '*'])).then(|| head.host()).flatten().map(str::to_owned);
    let target = path_and_query(head.path(), head.query());
    Message { method: head.method().to_string(), authority, target, fields, body: body.to_vec() }
}

fn read_with_hyper(input: &[u8]) -> Vec<Message> {
    let messages = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let messages = messages.clone();
        async move {
            if let Some(message) = hyper_message(request).await {
                messages.borrow_mut().push(message);
            }
            Ok::<_, Infallible>(Response::new(String::new()))
        }
    });
    let connection = http1::Builder::new().half_close(true).serve_connection(Wire(input.to_vec(), 0), service);
    let mut connection = pin!(connection);
    let mut context = Context::from_waker(Waker::noop());
    // The wire never makes it wait, so it ends; a bound all the same, for a test must not hang.
    let ended = (0..1000).any(|_| connection.as_mut().poll(&mut context).is_ready());
    assert!(ended, "hyper does not come to an end with {}", input.escape_ascii());
    messages.take()
}

/// `None` when the body is refused or cut short.
async fn hyper_message(request: Request<Incoming>) -> Option<Message> {
    let (parts, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut incoming).poll_frame(context)).await {
        if let Ok(data) = frame.ok()?.into_data() {
            body.extend_from_slice(&data);
        }
    }
    let mut fields: Vec<_> =
        parts.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    fields.sort_by(|left, right| left.0.cmp(&right.0));
    let authority = parts.uri.authority().map(|authority| authority.to_string());
    let target = path_and_query(parts.uri.path(), parts.uri.query());
    Some(Message { method: parts.method.to_string(), authority, target, fields, body })
}

fn path_and_query(path: &str, query: Option<&str>) -> String {
    query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

/// Bytes to be read, and then the end of the stream; what is written goes nowhere.
struct Wire(Vec<u8>, usize);

impl Read for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut room: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let rest = &self.0[self.1..];
        let count = rest.len().min(room.remaining());
        room.put_slice(&rest[..count]);
        self.1 += count;
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// One of the seeds with something done to it, or a few things.
fn mutate(random: &mut Random, seeds: &[&str]) -> Vec<u8> {
    let mut text = random.pick(seeds).as_bytes().to_vec();
    let many = random.below(4) == 0;
    for _ in 0..if many { 2 + random.below(4) } else { 1 } {
        let at = random.below(text.len() + 1);
        match random.below(9) {
            0 => text.insert(at, *random.pick(BYTES)),
            1 if at < text.len() => text[at] = *random.pick(BYTES),
            2 if at < text.len() => drop(text.remove(at)),
            3 if at < text.len() => text[at] ^= 1 << random.below(8),
            4 => insert(&mut text, at, random.pick(TOKENS).as_bytes()),
            5 | 6 => insert_line(&mut text, random),
            7 => double_a_line(&mut text, random),
            _ => splice(&mut text, at, random, seeds),
        }
    }
    text
}

fn insert(text: &mut Vec<u8>, at: usize, what: &[u8]) {
    text.splice(at..at, what.iter().copied());
}

/// A field line where a line begins, but before the first.
fn insert_line(text: &mut Vec<u8>, random: &mut Random) {
    let starts = line_starts(text);
    let at = starts[random.below(starts.len())];
    insert(text, at, format!("{}\r\n", random.pick(LINES)).as_bytes());
}

fn double_a_line(text: &mut Vec<u8>, random: &mut Random) {
    let starts = line_starts(text);
    let place = random.below(starts.len());
    let line = text[starts[place]..starts.get(place + 1).copied().unwrap_or(text.len())].to_vec();
    insert(text, starts[random.below(starts.len())], &line);
}

fn line_starts(text: &[u8]) -> Vec<usize> {
    let mut starts: Vec<_> =
        text.windows(2).enumerate().filter(|(_, two)| two == b"\r\n").map(|(at, _)| at + 2).collect();
    if starts.is_empty() {
        starts.push(text.len());
    }
    starts
}

/// The end of another request instead of the end of this one.
fn splice(text: &mut Vec<u8>, at: usize, random: &mut Random, seeds: &[&str]) {
    let other = random.pick(seeds).as_bytes();
    text.truncate(at);
    text.extend_from_slice(&other[random.below(other.len())..]);
}

/// An xorshift generator: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Four tests of so many make 100,000 requests.
const CASES_EACH: usize = 25_000;

/// A higher minor version is to be handled as the highest known one (RFC 9110 section 2.5).
const LATER_VERSION: &str = "HTTP/1.2 to 1.9";

/// A registered name may have them (RFC 3986 section 3.2.2).
const PERCENT_IN_HOST: &str = "a percent sign in the authority";

const HEADS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a/b%2Fc?x=1&y=%20 HTTP/1.1\r\nHost: example.com:8080\r\nAccept: */*\r\nUser-Agent: curl/8.0\r\n\r\n",
    "HEAD /x HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n",
    "GET http://a.example/path?q HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /old HTTP/1.0\r\n\r\n",
    "GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "DELETE /thing/7 HTTP/1.1\r\nhost: a\r\nx-empty:\r\nX-Padded: \t v \t\r\n\r\n",
    "PATCH /a;b=c/d,e HTTP/1.1\r\nHost: a\r\nCookie: a=b; c=d\r\nCookie: e=f\r\n\r\n",
    "PROPFIND /dav/~user/(x) HTTP/1.1\r\nHost: a\r\nDepth: 1\r\n\r\n",
];

const BODIES: &[&str] = &[
    "POST /form HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\na=1&b=2",
    "PUT /file HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na;x=1\r\n0123456789\r\n2 ;q=\"z\"\r\nok\r\n0\r\nTrail: er\r\n\r\n",
    "POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    "POST /zero HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "POST /old HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
    "GET /odd HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
];

const PIPELINES: &[&str] = &[
    "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n",
];

/// Bytes that mean something in a request, and some that never should.
const BYTES: &[u8] = b"\r\n\0 \t:;,%#?/\\\"'*+-_=@&[]{}()<>|^`~!$0123fFxXaZ\x0b\x0c\x1b\x7f\x80\xa0\xff";

const TOKENS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    " ",
    "\t",
    "  ",
    ": ",
    ", ",
    "0\r\n\r\n",
    "%2e%2e",
    "%00",
    "#f",
    "http://b/",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/2.0",
    "HTTP/1.2",
    "chunked",
    "0x",
    "00000000000000000",
    "ffffffffffffffff",
    "18446744073709551616",
    "+1",
    "-1",
    "\u{e9}",
];

const LINES: &[&str] = &[
    "Host: b",
    "Host:",
    "Content-Length: 2",
    "Content-Length: 2, 2",
    "Content-Length: +2",
    "Content-Length: 02",
    "Content-Length:",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: Chunked",
    "Transfer-Encoding:\tchunked",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: close, x",
    "Expect: 100-continue",
    "Upgrade: h2c",
    "Trailer: x",
    "X: y",
    "X : y",
    " folded",
    "\tfolded",
    ":",
    "",
    "X:\x0by",
    "X\u{e9}: y",
];
