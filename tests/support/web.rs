//! A site on a loopback socket, and a client that forgives nothing, both in the thread of the test.
//!
//! Rules kept here:
//! - One thread: whoever waits turns the reactor. So a resource may share cells with its test, and what is in the log is what
//!   this test has caused.
//! - Every wait says what it waits for and has a deadline. Nothing sleeps.
//! - What is not a complete, correctly framed response fails the test; it is never a short body.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use dosimeter::Reactor;
use dosimeter::prometheus::Registry;
use dosimeter::prometheus::proto::{Metric, MetricFamily};
use dosimeter::web::{Limits, Render, Request, Resource, Router, Site};
use socket2::SockRef;

/// A reactor that the test turns, with a registry and one site of its own.
pub struct Server {
    pub reactor: Reactor,
    pub registry: Registry,
    pub addr: SocketAddr,
}

impl Server {
    pub fn new(root: impl Resource) -> Self {
        Server::with_limits(root, Limits::default())
    }

    pub fn with_limits(root: impl Resource, limits: Limits) -> Self {
        capture_log();
        let registry = Registry::new();
        let reactor = Reactor::builder().metrics(registry.clone()).build().unwrap();
        Server::with_site(reactor, registry, Site::with_limits(root, limits))
    }

    pub fn with_site(reactor: Reactor, registry: Registry, site: Site) -> Self {
        capture_log();
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let port = reactor.listen_tcp(loopback, site).unwrap();
        Server { reactor, registry, addr: port.local_addr() }
    }

    /// Turns the reactor until `probe` has an answer.
    #[track_caller]
    pub fn until<T>(&self, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = probe() {
                return answer;
            }
            assert!(Instant::now() < deadline, "waited in vain until {what}");
            self.reactor.turn(Some(TURN)).unwrap();
        }
    }

    #[track_caller]
    pub fn until_true(&self, what: &str, mut probe: impl FnMut() -> bool) {
        self.until(what, || probe().then_some(()));
    }

    /// Turns the reactor until it finds nothing to do: everything that was sent was read, and what it asked for is done.
    pub fn until_quiet(&self) {
        let mut before = self.figure("dosimeter_events_total", &[]);
        let mut quiet = 0;
        while quiet < 3 {
            self.reactor.turn(Some(TURN)).unwrap();
            let now = self.figure("dosimeter_events_total", &[]);
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }
    }

    #[track_caller]
    pub fn connect(&self) -> Client<'_> {
        let socket = TcpStream::connect(self.addr).unwrap();
        socket.set_nonblocking(true).unwrap();
        Client { server: self, socket, received: Vec::new(), end: None }
    }

    /// Asks on a connection of its own, which is seen to its end.
    #[track_caller]
    pub fn ask(&self, method: &str, target: &str) -> Reply {
        let mut client = self.connect();
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        let reply = client.reply_to(method);
        client.expect_end();
        reply
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Reply {
        self.ask("GET", target)
    }

    /// The value of the one series with this name and these labels, 0 if there is none; of a histogram its count.
    pub fn figure(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map_or(&[][..], MetricFamily::get_metric);
        metrics.iter().filter(|metric| has_labels(metric, labels)).map(value).sum()
    }

    /// How many requests are being handled.
    pub fn in_progress(&self) -> f64 {
        self.figure("http_server_requests_in_progress", &[])
    }

    /// The values of a label, sorted, each once.
    pub fn label_values(&self, name: &str, label: &str) -> Vec<String> {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(MetricFamily::get_metric);
        let pairs = metrics.flat_map(Metric::get_label).filter(|pair| pair.name() == label);
        let mut values: Vec<String> = pairs.map(|pair| pair.value().to_owned()).collect();
        values.sort();
        values.dedup();
        values
    }

    /// The routes that requests were counted under.
    pub fn routes(&self) -> Vec<String> {
        self.label_values("http_server_requests_total", "route")
    }
}

fn has_labels(metric: &Metric, labels: &[(&str, &str)]) -> bool {
    labels.iter().all(|(name, value)| {
        let mut pairs = metric.get_label().iter();
        pairs.any(|pair| pair.name() == *name && pair.value() == *value)
    })
}

fn value(metric: &Metric) -> f64 {
    let counter = metric.get_counter().get_value();
    let gauge = metric.get_gauge().get_value();
    counter + gauge + metric.get_histogram().get_sample_count() as f64
}

/// A connection to a [`Server`].
pub struct Client<'a> {
    server: &'a Server,
    socket: TcpStream,
    received: Vec<u8>,
    end: Option<End>,
}

/// How the server ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Closed,
    Reset,
}

impl Client<'_> {
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let mut rest = bytes.as_ref();
        self.server.until("everything is sent", || {
            rest = &rest[write_some(&mut self.socket, rest)..];
            rest.is_empty().then_some(())
        });
    }

    /// Sends as much as the server takes until it has taken nothing for a while; returns how much that was.
    pub fn send_until_stuck(&mut self, bytes: &[u8]) -> usize {
        let (mut sent, mut stuck) = (0, 0);
        while sent < bytes.len() && stuck < 20 {
            let count = write_some(&mut self.socket, &bytes[sent..]);
            stuck = if count == 0 { stuck + 1 } else { 0 };
            sent += count;
            self.server.reactor.turn(Some(TURN)).unwrap();
        }
        sent
    }

    /// Sends a request and leaves the connection open.
    #[track_caller]
    pub fn send_request(&mut self, method: &str, target: &str) {
        self.send(request(method, target));
    }

    #[track_caller]
    pub fn ask(&mut self, method: &str, target: &str) -> Reply {
        self.send_request(method, target);
        self.reply_to(method)
    }

    #[track_caller]
    pub fn get(&mut self, target: &str) -> Reply {
        self.ask("GET", target)
    }

    /// The next response, to something other than HEAD.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        self.reply_to("GET")
    }

    #[track_caller]
    pub fn reply_to(&mut self, method: &str) -> Reply {
        let head = self.take_until(b"\r\n\r\n", "the head of a response");
        let mut reply = Reply::parse(&head);
        reply.framing = reply.framing_of(method);
        reply.body = match reply.framing {
            Framing::Nothing => Vec::new(),
            Framing::Length(length) => self.take(length, "the body"),
            Framing::Chunked => self.take_chunks(),
            Framing::Close => self.rest(),
        };
        reply
    }

    /// Everything up to the orderly end of the connection.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        assert_eq!(self.end(), End::Closed, "after {:?}", self.received.escape_ascii().to_string());
        std::mem::take(&mut self.received)
    }

    /// Turns the reactor for a while and reads nothing.
    pub fn idle_for(&self, pause: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < pause {
            self.server.reactor.turn(Some(TURN)).unwrap();
        }
    }

    /// The next `count` bytes; no more than these are read.
    #[track_caller]
    pub fn take_exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.received);
        let mut buffer = vec![0; 64 * 1024];
        self.server.until("enough has come", || {
            while bytes.len() < count {
                let room = buffer.len().min(count - bytes.len());
                match self.socket.read(&mut buffer[..room]) {
                    Ok(0) => panic!("the connection ended after {} of {count} bytes", bytes.len()),
                    Ok(read) => bytes.extend_from_slice(&buffer[..read]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                    Err(error) => panic!("receiving: {error}"),
                }
            }
            Some(())
        });
        self.received = bytes.split_off(count);
        bytes
    }

    /// How the connection ends.
    #[track_caller]
    pub fn end(&mut self) -> End {
        self.server.until("the connection ends", || {
            receive(&mut self.socket, &mut self.received, &mut self.end);
            self.end
        })
    }

    /// The connection ends in the orderly way, and no byte comes before.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "unexpected: {}", rest.escape_ascii());
    }

    /// Turns the reactor until it is quiet; no byte may have come and the connection is still there.
    #[track_caller]
    pub fn expect_silence(&mut self) {
        self.server.until_quiet();
        receive(&mut self.socket, &mut self.received, &mut self.end);
        assert!(self.received.is_empty(), "unexpected: {}", self.received.escape_ascii());
        assert_eq!(self.end, None);
    }

    /// What has come so far and was not taken.
    pub fn received(&mut self) -> &[u8] {
        receive(&mut self.socket, &mut self.received, &mut self.end);
        &self.received
    }

    /// Sends nothing more, but reads.
    pub fn shut_down_writing(&mut self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// Leaves with a reset, which the server notices at once.
    pub fn reset(self) {
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// The next `count` bytes.
    #[track_caller]
    pub fn take(&mut self, count: usize, what: &str) -> Vec<u8> {
        self.fill(what, |received| (received.len() >= count).then_some(count))
    }

    /// The bytes up to and including the next `mark`.
    #[track_caller]
    pub fn take_until(&mut self, mark: &[u8], what: &str) -> Vec<u8> {
        let mut searched = 0;
        self.fill(what, |received| {
            let found = received[searched..].windows(mark.len()).position(|window| window == mark);
            let end = found.map(|at| searched + at + mark.len());
            searched = received.len().saturating_sub(mark.len() - 1);
            end
        })
    }

    #[track_caller]
    fn take_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.take_until(b"\r\n", "the size of a chunk");
            let digits = std::str::from_utf8(&line[..line.len() - 2]).unwrap();
            let size = usize::from_str_radix(digits, 16).unwrap();
            let mut chunk = self.take(size + 2, "a chunk");
            assert!(chunk.ends_with(b"\r\n"), "a chunk ends in {:?}", chunk.escape_ascii().to_string());
            chunk.truncate(size);
            if size == 0 {
                return body;
            }
            body.extend(chunk);
        }
    }

    #[track_caller]
    fn fill(&mut self, what: &str, mut enough: impl FnMut(&[u8]) -> Option<usize>) -> Vec<u8> {
        let count = self.server.until(what, || {
            receive(&mut self.socket, &mut self.received, &mut self.end);
            let enough = enough(&self.received);
            assert!(
                enough.is_some() || self.end.is_none(),
                "the connection ended ({:?}) before {what}: {}",
                self.end,
                self.received.escape_ascii()
            );
            enough
        });
        self.received.drain(..count).collect()
    }
}

fn write_some(socket: &mut TcpStream, bytes: &[u8]) -> usize {
    match socket.write(bytes) {
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("sending: {error}"),
    }
}

fn receive(socket: &mut TcpStream, received: &mut Vec<u8>, end: &mut Option<End>) {
    let mut buffer = [0; 64 * 1024];
    while end.is_none() {
        match socket.read(&mut buffer) {
            Ok(0) => *end = Some(End::Closed),
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => *end = Some(End::Reset),
            Err(error) => panic!("receiving: {error}"),
        }
    }
}

/// A request without a body on a connection that is kept.
pub fn request(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// A response, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub reason: String,
    /// Names in lower case, in the order sent.
    pub fields: Vec<(String, String)>,
    pub framing: Framing,
    pub body: Vec<u8>,
}

/// What says where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Nothing,
    Length(usize),
    Chunked,
    /// The end of the connection.
    Close,
}

impl Reply {
    #[track_caller]
    fn parse(head: &[u8]) -> Reply {
        let text = std::str::from_utf8(head).expect("a head is ASCII");
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let status_line = lines.next().unwrap();
        let rest = status_line.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("status line {status_line:?}"));
        let (status, reason) = rest.split_once(' ').unwrap();
        let fields = lines.map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("field line {line:?}"));
            (name.to_ascii_lowercase(), value.to_owned())
        });
        Reply {
            status: status.parse().unwrap(),
            reason: reason.to_owned(),
            fields: fields.collect(),
            framing: Framing::Nothing,
            body: Vec::new(),
        }
    }

    #[track_caller]
    fn framing_of(&self, method: &str) -> Framing {
        let length = self.header("content-length").map(|value| value.parse().expect("Content-Length is a number"));
        match (self.header("transfer-encoding"), length) {
            _ if method == "HEAD" || matches!(self.status, 204 | 304) => Framing::Nothing,
            (Some("chunked"), None) => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::Close,
            other => panic!("framed in two ways: {other:?}"),
        }
    }

    /// The only field of this name.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} came twice: {:?}", self.fields);
        value
    }

    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Status and body, which is all that most tests want to know.
    #[track_caller]
    pub fn brief(&self) -> (u16, &str) {
        (self.status, self.text())
    }
}

/// A resource that answers for its path and everything below with a function, whatever the method.
pub struct Leaf<F>(pub F);

impl<F, R> Resource for Leaf<F>
where
    F: Fn(Request) -> R + 'static,
    R: Into<Render>,
{
    fn is_leaf(&self) -> bool {
        true
    }

    fn render(&self, request: Request) -> Render {
        (self.0)(request).into()
    }
}

/// The warnings and errors that this thread has logged since the last call.
pub fn take_log() -> Vec<String> {
    LOG.with(|log| log.take())
}

/// Nothing was logged, which is what a test that expects a clean run ends with.
#[track_caller]
pub fn expect_no_log() {
    assert_eq!(take_log(), [""; 0]);
}

/// One line was logged, and it holds all of these texts.
#[track_caller]
pub fn expect_log(texts: &[&str]) {
    let lines = take_log();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    for text in texts {
        assert!(lines[0].contains(text), "{text:?} is not in {:?}", lines[0]);
    }
}

/// Has everything that is logged kept for the thread that logs it; a [`Server`] of [`Server::new`] sees to it.
pub fn capture_log() {
    // Only the first test of a binary installs it.
    let _ = log::set_logger(&Capture);
    log::set_max_level(log::LevelFilter::Warn);
}

struct Capture;

impl log::Log for Capture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target() == "dosimeter::stalls" && !HEARS_STALLS.get() {
            // On a machine that does a hundred things at once any turn may be slow.
            return;
        }
        let line = format!("{} {}: {}", record.level(), record.target(), record.args());
        LOG.with(|log| log.borrow_mut().push(line));
    }

    fn flush(&self) {}
}

thread_local! {
    static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// Whether this test keeps what the log is told of slow turns.
    pub static HEARS_STALLS: Cell<bool> = const { Cell::new(false) };
}

/// Far longer than anything here takes, also on a machine that does a hundred things at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a turn waits at most before the client is looked at again.
const TURN: Duration = Duration::from_millis(2);

/// A server with a router whose routes answer with their own pattern.
pub fn routes(patterns: &[&'static str]) -> Server {
    let app = Router::new();
    for &pattern in patterns {
        app.route(pattern, move |_| pattern);
    }
    Server::new(app)
}

/// Each path is answered with 200 and this text.
#[track_caller]
pub fn check(server: &Server, cases: &[(&str, &str)]) {
    for (path, expected) in cases {
        assert_eq!(server.get(path).brief(), (200, *expected), "{path}");
    }
}

/// Each path is answered with 404.
#[track_caller]
pub fn check_not_found(server: &Server, paths: &[&str]) {
    for path in paths {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
}
