//! The access log: a line for every request that was answered, refused, or left by its client.
//!
//! Rules kept here:
//! - Nothing from a request can end a line, or a quoted part of one, and begin another.
//! - A request gives one line, when its answer is over.
//! - The function that makes the line is the program's: it is called with nothing borrowed, and a panic costs its line only.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use ::http::{Method, StatusCode};

use crate::failure::guard;
use crate::web::exchange::Exchange;

/// A request that is over, as the access log tells of it; see [`Site::access_log`](super::Site::access_log).
pub struct Access<'a> {
    /// `None` of what was refused before it was a request.
    exchange: Option<&'a Exchange>,
    client: Option<IpAddr>,
    status: StatusCode,
    duration: Duration,
    time: &'a str,
}

impl Access<'_> {
    /// The address of the client, as [`Request::client_addr`](super::Request::client_addr) has it.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// When it was over: `10/Oct/2000:13:55:36 +0000`.
    pub fn time(&self) -> &str {
        self.time
    }

    /// From the turn of the loop that read the request to the end of its answer.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// The method; `None` of what was no request.
    pub fn method(&self) -> Option<&Method> {
        self.exchange.map(Exchange::method)
    }

    /// The target as it was sent.
    pub fn target(&self) -> Option<&str> {
        self.exchange.map(|exchange| exchange.head.target())
    }

    /// A field of the request.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.exchange?.head.header(name)
    }

    /// The route, as the figures name it: from a closed set, so that it can be counted by.
    pub fn route(&self) -> Option<String> {
        self.exchange?.route_label()
    }

    /// The status of the answer. 499 says that the client left before it had all of it, as nginx has it.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Bytes of the body of the answer, before chunks were made of them.
    pub fn body_bytes(&self) -> u64 {
        self.exchange.map_or(0, Exchange::body_bytes)
    }
}

impl fmt::Debug for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&combined(self))
    }
}

/// A line in the combined format, which every log analyser reads.
///
/// `192.0.2.1 - - [10/Oct/2000:13:55:36 +0000] "GET /a HTTP/1.1" 200 2326 "http://example.org/" "Mozilla/5.0"`
///
/// What a client wrote is escaped: `"` and `\` by `\`, everything but visible ASCII as `\xNN`.
#[doc(alias = "combinedLogFormatter")]
pub fn combined(access: &Access<'_>) -> String {
    let mut line = String::with_capacity(128);
    match access.client() {
        Some(ip) => _ = write!(line, "{ip}"),
        None => line.push('-'),
    }
    _ = write!(line, " - - [{}] \"", access.time());
    match (access.method(), access.target(), access.exchange) {
        (Some(method), Some(target), Some(exchange)) => {
            escape_into(&mut line, method.as_str().as_bytes());
            line.push(' ');
            escape_into(&mut line, target.as_bytes());
            _ = write!(line, " {:?}", exchange.head.version());
        }
        _ => line.push('-'),
    }
    _ = write!(line, "\" {} ", access.status().as_str());
    match access.body_bytes() {
        0 => line.push('-'),
        bytes => _ = write!(line, "{bytes}"),
    }
    for name in ["referer", "user-agent"] {
        line.push_str(" \"");
        escape_into(&mut line, access.header(name).unwrap_or(b"-"));
        line.push('"');
    }
    line
}

fn escape_into(line: &mut String, text: &[u8]) {
    for &byte in text {
        match byte {
            b'"' | b'\\' => line.extend(['\\', byte as char]),
            b' '..=b'~' => line.push(byte as char),
            _ => _ = write!(line, "\\x{byte:02x}"),
        }
    }
}

/// What writes the lines of a site.
pub(crate) struct AccessLog {
    format: Box<dyn Fn(&Access<'_>) -> String>,
    stamp: RefCell<Stamp>,
}

/// The time as text, made once a second.
#[derive(Default)]
struct Stamp {
    text: Rc<str>,
    valid_until: u64,
}

impl AccessLog {
    pub(crate) fn new(format: impl Fn(&Access<'_>) -> String + 'static) -> Self {
        AccessLog { format: Box::new(format), stamp: RefCell::default() }
    }

    /// A request is over, or something was refused that was none.
    pub(crate) fn note(&self, exchange: Option<&Exchange>, client: Option<IpAddr>, status: StatusCode, now: u64) {
        if !log::log_enabled!(target: TARGET, log::Level::Info) {
            return;
        }
        let time = self.stamp.borrow_mut().at(now);
        let began = exchange.map_or(now, Exchange::began);
        let duration = Duration::from_nanos(now.saturating_sub(began));
        let access = Access { exchange, client, status, duration, time: &time };
        match guard(|| (self.format)(&access)) {
            Ok(line) => log::info!(target: TARGET, "{line}"),
            Err(failure) => failure.log("dosimeter::web", format_args!("a line of the access log failed")),
        }
    }
}

impl Stamp {
    /// From `Sun, 06 Nov 1994 08:49:37 GMT` to `06/Nov/1994:08:49:37 +0000`.
    fn at(&mut self, now: u64) -> Rc<str> {
        if now >= self.valid_until {
            let wall = SystemTime::now();
            let since_epoch = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.valid_until = now + 1_000_000_000 - u64::from(since_epoch.subsec_nanos());
            let date = httpdate::fmt_http_date(wall);
            let (day, month, year, time) = (&date[5..7], &date[8..11], &date[12..16], &date[17..25]);
            self.text = format!("{day}/{month}/{year}:{time} +0000").into();
        }
        self.text.clone()
    }
}

/// The lines are told apart from all others by this.
const TARGET: &str = "dosimeter::access";
