//! What of a file is sent, and how it is read meanwhile.
//!
//! Rules kept here:
//! - A file on its way takes three pieces of memory at most, however large it is and however slowly its client reads: two that
//!   wait to be sent, and one ahead.
//! - What was announced is sent, or the connection is broken: a file that shrinks meanwhile is neither padded nor cut short.
//! - A file is closed when its last piece is read, and at once where nothing of it is sent.

use std::cell::Cell;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use ::http::header::{self, HeaderName, HeaderValue};
use ::http::{Method, StatusCode};

use crate::deferred::Deferred;
use crate::web::conditional::{Conditions, ETag, Validators, Verdict, precondition_failed};
use crate::web::ranges::{Stretch, Stretches, Wanted, boundary, content_range, unsatisfied, wanted};
use crate::web::request::Request;
use crate::web::resource::{NOT_DONE_YET, Render};
use crate::web::response::Response;

/// What a client wants of a file, apart from the request.
pub(crate) struct Wish {
    is_head: bool,
    conditions: Conditions,
    range: Option<Vec<u8>>,
}

/// What there is to say to a [`Wish`].
pub(crate) enum Choice {
    File(Box<Content>),
    ConditionFailed,
    /// The size of what none of the ranges fits.
    Unsatisfiable(u64),
}

/// A file, or what is to be sent of it.
pub(crate) struct Content {
    status: StatusCode,
    validators: Validators,
    content_type: Option<HeaderValue>,
    content_range: Option<HeaderValue>,
    is_compressed: bool,
    /// How long the body is; none with 304.
    length: Option<u64>,
    first: Vec<u8>,
    rest: Option<Reading>,
}

impl Wish {
    pub(crate) fn of(request: &Request) -> Self {
        let mut ranges = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case("range"));
        // Other methods have no ranges (RFC 9110 section 14.2), and more than one line is no valid set of them.
        let range = match (request.method(), ranges.next(), ranges.next()) {
            (&Method::GET, Some((_, field)), None) => Some(field.to_vec()),
            _ => None,
        };
        Wish { is_head: *request.method() == Method::HEAD, conditions: Conditions::of(request), range }
    }

    /// Decides what of a file is sent, and reads the first piece of it, which is for a thread of the pool.
    pub(crate) fn choose(
        &self,
        file: File,
        metadata: &Metadata,
        content_type: HeaderValue,
        is_compressed: bool,
    ) -> io::Result<Choice> {
        let size = metadata.len();
        let validators = validators(metadata, is_compressed);
        let mut content = Content {
            status: StatusCode::OK,
            content_type: Some(content_type),
            content_range: None,
            is_compressed,
            length: Some(size),
            first: Vec::new(),
            rest: None,
            validators,
        };
        match self.conditions.check(&content.validators) {
            Verdict::Proceed => {}
            Verdict::NotModified => return Ok(Choice::File(Box::new(content.not_modified()))),
            Verdict::Failed => return Ok(Choice::ConditionFailed),
        }
        let range = self.range.as_deref().filter(|_| self.conditions.allow_range(&content.validators));
        let body = match range.map_or(Wanted::Whole, |range| wanted(range, size)) {
            Wanted::Whole => Stretches::part(0..size),
            Wanted::Part(part) => content.part(part, size),
            Wanted::Parts(parts) => content.parts(parts, size),
            Wanted::Nothing => return Ok(Choice::Unsatisfiable(size)),
        };
        content.length = Some(body.length());
        if !self.is_head {
            (content.first, content.rest) = Reading { file, body }.next()?;
        }
        Ok(Choice::File(Box::new(content)))
    }
}

impl Content {
    fn not_modified(self) -> Self {
        Content { status: StatusCode::NOT_MODIFIED, content_type: None, length: None, ..self }
    }

    fn part(&mut self, part: Range<u64>, size: u64) -> Stretches {
        self.status = StatusCode::PARTIAL_CONTENT;
        self.content_range = Some(visible(content_range(&part, size)));
        Stretches::part(part)
    }

    fn parts(&mut self, parts: Vec<Range<u64>>, size: u64) -> Stretches {
        self.status = StatusCode::PARTIAL_CONTENT;
        let boundary = boundary();
        let content_type = visible(format!("multipart/byteranges; boundary={boundary}"));
        let content_type = self.content_type.replace(content_type);
        Stretches::multipart(parts, size, content_type.as_ref().map_or(b"", HeaderValue::as_bytes), &boundary)
    }
}

/// The time of the last change of the content, in seconds and nanoseconds.
///
/// A file dated before 1981 got its date from a tool for reproducible builds, which gives the same one to each version. Then
/// it is the time when it was put there.
pub(crate) fn modified(metadata: &Metadata) -> (i64, i64) {
    match metadata.mtime() {
        ..FIRST_DATE => (metadata.ctime(), metadata.ctime_nsec()),
        seconds => (seconds, metadata.mtime_nsec()),
    }
}

/// A tag that may yet be that of another content is a weak one and has a mark, so that nobody keeps what was read then for
/// longer.
fn validators(metadata: &Metadata, is_compressed: bool) -> Validators {
    let (seconds, nanos) = modified(metadata);
    let mark = if is_compressed { "-gz" } else { "" };
    let text = format!("{seconds:x}.{nanos:x}-{:x}{mark}", metadata.len());
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0));
    let time = time + Duration::from_nanos(nanos.try_into().unwrap_or(0));
    let age = SystemTime::now().duration_since(time);
    let is_settled = age.as_ref().is_ok_and(|age| is_settled(*age, nanos));
    let etag = match is_settled {
        true => ETag::strong(text),
        false => ETag::weak(format!("{text}-{:x}", metadata.ino())),
    };
    let validators = Validators::from(etag.expect("digits and hyphens"));
    // A time in the future would be a date after that of the answer (RFC 9110 section 8.8.2.1).
    if age.is_ok() && metadata.mtime() >= FIRST_DATE { validators.with_last_modified(time) } else { validators }
}

/// Whether one more change would have another time.
fn is_settled(age: Duration, nanos: i64) -> bool {
    age > if nanos == 0 { COARSE_STEP } else { FINE_STEP }
}

fn visible(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("made of visible ASCII")
}

/// A file on its way to a client.
struct Reading {
    file: File,
    body: Stretches,
}

impl Reading {
    /// Reads the next piece, and says what is left. Not at the end, the file is closed here, in the pool.
    fn next(mut self) -> io::Result<(Vec<u8>, Option<Reading>)> {
        let mut piece = Vec::new();
        while piece.len() < PIECE
            && let Some(stretch) = self.body.next(PIECE - piece.len())
        {
            match stretch {
                Stretch::Text(text) => piece.extend_from_slice(&text),
                Stretch::File(part) => {
                    let begin = piece.len();
                    piece.resize(begin + (part.end - part.start) as usize, 0);
                    self.file.read_exact_at(&mut piece[begin..], part.start).map_err(explain)?;
                }
            }
        }
        let rest = if self.body.is_empty() { None } else { Some(self) };
        Ok((piece, rest))
    }
}

fn explain(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the file is shorter than when it was opened"),
        _ => error,
    }
}

impl Choice {
    /// Answers with this, and with these fields where it is the file.
    pub(crate) fn send(self, request: Request, fields: &[(HeaderName, HeaderValue)]) -> Render {
        match self {
            Choice::File(content) => content.send(request, fields),
            Choice::ConditionFailed => precondition_failed().into(),
            Choice::Unsatisfiable(size) => unsatisfiable(size).into(),
        }
    }
}

impl Content {
    fn send(self, mut request: Request, fields: &[(HeaderName, HeaderValue)]) -> Render {
        request.set_status(self.status);
        self.validators.announce(&mut request);
        request.add_header(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(content_type) = self.content_type {
            request.add_header(header::CONTENT_TYPE, content_type);
        }
        if let Some(content_range) = self.content_range {
            request.add_header(header::CONTENT_RANGE, content_range);
        }
        if self.is_compressed && self.length.is_some() {
            request.add_header(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        for (name, value) in fields {
            request.add_header(name.clone(), value.clone());
        }
        if let Some(length) = self.length {
            request.set_length(length);
        }
        if !self.first.is_empty() {
            request.write(&self.first);
        }
        match self.rest {
            Some(rest) => send_rest(request, rest),
            None => {
                request.finish();
                NOT_DONE_YET
            }
        }
    }
}

/// Has the pool read a piece whenever the client has room for one.
fn send_rest(request: Request, rest: Reading) -> Render {
    let (reactor, rest) = (request.reactor(), Rc::new(Cell::new(Some(rest))));
    request.send_stream(move || {
        let Some(reading) = rest.take() else { return Deferred::succeed(None) };
        let back = rest.clone();
        reactor.defer_to_thread(move || Ok(reading.next()?)).map(move |(piece, rest)| {
            back.set(rest);
            Some(piece)
        })
    })
}

fn unsatisfiable(size: u64) -> Response {
    let detail = "Sorry, there is nothing in the range that was asked for.";
    Response::error_page(StatusCode::RANGE_NOT_SATISFIABLE, "Range Not Satisfiable", detail)
        .with_header(header::CONTENT_RANGE, visible(unsatisfied(size)))
}

/// As much as a connection may have unsent before its producer should wait; Twisted's figure too. A smaller file is one job
/// of the pool.
const PIECE: usize = 64 * 1024;

/// What changes twice within a step of the clock of its file system looks as if it had changed once. Those that count whole
/// seconds take up to two of them (FAT).
const COARSE_STEP: Duration = Duration::from_secs(2);

/// The others count ticks of the system, of 10 ms at most.
const FINE_STEP: Duration = Duration::from_millis(20);

/// 1981. Tools that make files comparable date them 0, 1, or the first day of 1980, which is the first that zip knows.
const FIRST_DATE: i64 = 347_155_200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_has_settled_when_the_clock_of_its_file_system_has_moved_on() {
        let millis = Duration::from_millis;
        assert!(!is_settled(millis(0), 5) && !is_settled(millis(20), 5) && is_settled(millis(21), 5));
        assert!(!is_settled(millis(21), 0) && !is_settled(millis(2000), 0) && is_settled(millis(2001), 0));
    }
}
