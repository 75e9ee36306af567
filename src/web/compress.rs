//! [`Gzip`]: answers compressed on their way out.
//!
//! Rules kept here:
//! - What the client did not ask for it does not get, and what is compressed already, or a part, or nothing, stays as it is
//!   (RFC 9110 section 8.4).
//! - A head says the same whether or not a body follows: it is changed for `HEAD` as for `GET`, and no byte of a coding is
//!   sent where the engine sends no body.
//! - What is compressed is no longer equal byte for byte, so its entity tag is a weak one, and no ranges are offered of it.
//! - A large body does not hold up the loop: the pool compresses it.
//! - An answer on its way takes much memory while it is compressed, so there is a largest number of them: clients who read slowly,
//!   or not at all, decide how long each of them takes.

use std::cell::Cell;
use std::fmt;
use std::io::Write;
use std::rc::Rc;

use ::http::{Method, StatusCode};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::http::ExcessBody;
use crate::web::accept::prefers_gzip;
use crate::web::coding::Coding;
use crate::web::encode::has_body;
use crate::web::exchange::Exchange;
use crate::web::request::Request;
use crate::web::resource::{Answer, Render, Resource};
use crate::web::response::Response;

/// Compresses what a resource and those below it answer, for clients that accept gzip.
///
/// What an answer is decides: text, JSON, XML, JavaScript, WebAssembly, SVG and their like are compressed from 1 KiB on;
/// pictures and archives, which are compressed already, parts of files, and what has a `Content-Encoding` or `Cache-Control:
/// no-transform` are not. Which clients want it, their `Accept-Encoding` says, qualities included (RFC 9110 section 12.5.3). An
/// answer that could be compressed says `Vary: Accept-Encoding` to all of them. Strong entity tags become weak ones.
///
/// An answer that is returned whole has its length. One that is written piece by piece ([`Request::write`]) is sent so: what
/// was written in one turn of the loop can be read by the client at the end of it, so events reach it when they happen.
///
/// ```
/// use dosimeter::web::{Branch, Gzip, Request, Response, Router, Site};
///
/// let api = Router::new();
/// api.route("/numbers", |_: Request| Response::text((0..1000).map(|n| format!("{n}\n")).collect::<String>()));
/// let root = Branch::new();
/// root.put_child("api", api);
/// let site = Site::new(Gzip::new(root));
/// ```
///
/// # What it costs
///
/// At the default level a core compresses some 70 MB/s. A body of more than 16 KiB that is returned whole is compressed in the
/// thread pool. What is written in pieces is compressed in the loop: a piece of 64 KiB takes about a millisecond, in which
/// nobody else is served, and each answer on its way takes 300 KiB of memory. There are at most 256 of these at a time; further
/// ones are sent as they are. Large files had better be [compressed
/// beforehand](super::StaticFiles::with_precompressed).
///
/// # Secrets
///
/// The length of a compressed page tells something of what is in it. A page on which an attacker can have text of his stand
/// beside a secret, such as a token against forged requests, must not be compressed if he can see how long it is, TLS or not
/// (BREACH).
pub struct Gzip {
    resource: Rc<dyn Resource>,
    settings: Settings,
    encoders: Encoders,
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    min_length: u64,
    level: u32,
}

impl Gzip {
    /// Compresses what `resource`, and what is below it, answers.
    #[doc(alias = "EncodingResourceWrapper")]
    #[doc(alias = "GzipEncoderFactory")]
    pub fn new(resource: impl Resource) -> Self {
        let settings = Settings { min_length: MIN_LENGTH, level: LEVEL };
        Gzip { resource: Rc::new(resource), settings, encoders: Encoders::default() }
    }

    /// With this length, in bytes, from which on answers are compressed; 1024 unless told. One whose length is not known when
    /// it begins is compressed in any case.
    #[must_use]
    pub fn with_min_length(mut self, min_length: u64) -> Self {
        self.settings.min_length = min_length;
        self
    }

    /// With this level, from 1, the fastest, to 9, the smallest; 3 unless told. Level 6 saves a few percent of the bytes and
    /// takes four times as long.
    ///
    /// # Panics
    /// If it is none of these.
    #[must_use]
    #[track_caller]
    #[doc(alias = "compressLevel")]
    pub fn with_level(mut self, level: u32) -> Self {
        assert!((1..=9).contains(&level), "the level of gzip goes from 1 to 9, and {level} is none");
        self.settings.level = level;
        self
    }

    fn around(&self, resource: Rc<dyn Resource>) -> Self {
        Gzip { resource, settings: self.settings, encoders: self.encoders.clone() }
    }
}

impl fmt::Debug for Gzip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gzip({:?})", self.settings)
    }
}

impl Resource for Gzip {
    fn is_leaf(&self) -> bool {
        self.resource.is_leaf()
    }

    fn child(&self, name: &str, request: &Request) -> Option<Rc<dyn Resource>> {
        Some(Rc::new(self.around(self.resource.child(name, request)?)))
    }

    fn known_child(&self, name: &str) -> Option<Rc<dyn Resource>> {
        Some(Rc::new(self.around(self.resource.known_child(name)?)))
    }

    fn accepts_stream(&self, request: &Request) -> bool {
        self.resource.accepts_stream(request)
    }

    fn render(&self, request: Request) -> Render {
        let exchange = request.exchange().clone();
        let accepted = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case("accept-encoding"));
        let is_wanted = prefers_gzip(accepted.map(|(_, value)| value));
        let encoders = self.encoders.clone();
        exchange.set_coding(Box::new(Gzipping::new(self.settings, is_wanted, encoders.clone())));
        Answerer { exchange, is_wanted, settings: self.settings, encoders }.code(self.resource.render(request))
    }

    fn allowed_methods(&self) -> Vec<Method> {
        self.resource.allowed_methods()
    }

    fn not_allowed(&self, request: Request) -> Render {
        self.resource.not_allowed(request)
    }
}

/// Sees to what a resource returns; what is written piece by piece goes through the coding of the exchange.
#[derive(Clone)]
struct Answerer {
    exchange: Rc<Exchange>,
    is_wanted: bool,
    settings: Settings,
    encoders: Encoders,
}

impl Answerer {
    fn code(self, render: Render) -> Render {
        match render.0 {
            Answer::Response(response) => self.code_response(response),
            Answer::Deferred(later) => Render(Answer::Deferred(later.map(move |render| Box::new(self.code(*render))))),
            Answer::Resource(resource) => Gzip { resource, settings: self.settings, encoders: self.encoders }.into(),
            Answer::NotDoneYet | Answer::Failed(_) => render,
        }
    }

    fn code_response(self, mut response: Response) -> Render {
        if self.exchange.is_started() {
            return response.into();
        }
        // A page that is made later would go out under a head that says it is compressed.
        self.exchange.settle_page(&mut response);
        let status = response.explicit_status().unwrap_or(self.exchange.status());
        let length = response.body().len() as u64;
        self.exchange.take_fields_of(&mut response);
        let level = self.settings.level;
        let decide = |fields: &mut Vec<u8>| decide(self.settings, self.is_wanted, status, Some(length), fields);
        if !self.exchange.edit_fields(decide) {
            return response.into();
        }
        let body = response.take_body();
        if length <= MOST_IN_LOOP {
            return response.with_body(compress(body.as_ref(), level)).into();
        }
        let compressed = self.exchange.reactor().defer_to_thread(move || Ok(compress(body.as_ref(), level)));
        compressed.map(|body| response.with_body(body)).into()
    }
}

fn compress(data: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(data.len() / 3), Compression::new(level));
    encoder.write_all(data).expect(IN_MEMORY);
    encoder.finish().expect(IN_MEMORY)
}

/// How many encoders there are.
#[derive(Clone, Default)]
struct Encoders(Rc<Cell<usize>>);

impl Encoders {
    fn has_one_more(&self) -> bool {
        self.0.get() < MAX_ENCODERS
    }

    fn add(&self, level: u32) -> Encoder {
        self.0.set(self.0.get() + 1);
        Encoder { zip: GzEncoder::new(Vec::new(), Compression::new(level)), all: self.clone() }
    }
}

/// One of them.
struct Encoder {
    zip: GzEncoder<Vec<u8>>,
    all: Encoders,
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.all.0.set(self.all.0.get() - 1);
    }
}

/// The coding of one answer.
struct Gzipping {
    settings: Settings,
    /// By the client.
    is_wanted: bool,
    encoders: Encoders,
    /// There is none before the head has gone out: it is large.
    encoder: Option<Encoder>,
    /// How much of the announced length is to come.
    left: Option<u64>,
}

impl Gzipping {
    fn new(settings: Settings, is_wanted: bool, encoders: Encoders) -> Self {
        Gzipping { settings, is_wanted, encoders, encoder: None, left: None }
    }
}

/// Changes the fields of the head to what they are after compression, if the body is to be compressed.
fn decide(settings: Settings, is_wanted: bool, status: StatusCode, length: Option<u64>, fields: &mut Vec<u8>) -> bool {
    if status == StatusCode::NOT_MODIFIED {
        // Its fields are those of the full answer (RFC 9110 section 15.4.5), of whose type it says nothing.
        change(fields, is_wanted);
        return false;
    }
    let is_long = length.is_none_or(|length| length >= settings.min_length);
    if !has_body(status) || !is_long || !is_compressible(fields) {
        return false;
    }
    let is_coded = is_wanted && status != StatusCode::PARTIAL_CONTENT;
    change(fields, is_coded);
    if is_coded {
        push(fields, b"Content-Encoding", b"gzip");
    }
    is_coded
}

impl Coding for Gzipping {
    fn begin(&mut self, status: StatusCode, length: Option<u64>, fields: &mut Vec<u8>) -> bool {
        let is_wanted = self.is_wanted && (self.encoders.has_one_more() || status == StatusCode::NOT_MODIFIED);
        let is_coded = decide(self.settings, is_wanted, status, length, fields);
        if is_coded {
            self.encoder = Some(self.encoders.add(self.settings.level));
            self.left = length;
        }
        is_coded
    }

    fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), ExcessBody> {
        let Some(encoder) = &mut self.encoder else { return Ok(()) };
        let most = self.left.map_or(data.len(), |left| usize::try_from(left).unwrap_or(usize::MAX).min(data.len()));
        self.left = self.left.map(|left| left - most as u64);
        encoder.zip.write_all(&data[..most]).expect(IN_MEMORY);
        out.append(encoder.zip.get_mut());
        match data.len() - most {
            0 => Ok(()),
            bytes => Err(ExcessBody { bytes }),
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if let Some(encoder) = &mut self.encoder {
            encoder.zip.flush().expect(IN_MEMORY);
            out.append(encoder.zip.get_mut());
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(mut encoder) = self.encoder.take() {
            encoder.zip.try_finish().expect(IN_MEMORY);
            out.append(encoder.zip.get_mut());
        }
        self.left.is_none_or(|left| left == 0)
    }
}

/// Whether a body under this head gets smaller, and may be changed at all. What has no type will have that of a page.
fn is_compressible(fields: &[u8]) -> bool {
    lines(fields).all(|(name, value)| match name.to_ascii_lowercase().as_slice() {
        b"content-type" => is_compressible_type(value),
        b"content-encoding" | b"content-range" | b"content-digest" | b"digest" | b"content-md5" => false,
        b"cache-control" => !has_member(value, b"no-transform"),
        _ => true,
    })
}

fn is_compressible_type(value: &[u8]) -> bool {
    let end = value.iter().position(|&byte| byte == b';').unwrap_or(value.len());
    let essence = value[..end].trim_ascii().to_ascii_lowercase();
    essence.starts_with(b"text/")
        || essence.ends_with(b"+json")
        || essence.ends_with(b"+xml")
        || COMPRESSIBLE.iter().any(|known| essence == known.as_bytes())
}

/// Has the head say that it depends on `Accept-Encoding`, and, if the body is compressed, that it is no more than equivalent to
/// what it was.
fn change(fields: &mut Vec<u8>, is_coded: bool) {
    let (before, mut vary) = (std::mem::take(fields), Vec::new());
    for (name, value) in lines(&before) {
        match name.to_ascii_lowercase().as_slice() {
            b"vary" => vary.push(value),
            b"accept-ranges" if is_coded => {}
            b"etag" if is_coded && !value.starts_with(b"W/") => push(fields, name, &[b"W/", value].concat()),
            _ => push(fields, name, value),
        }
    }
    if !vary.iter().any(|value| has_member(value, b"*") || has_member(value, b"accept-encoding")) {
        vary.push(b"Accept-Encoding");
    }
    push(fields, b"Vary", &vary.join(&b", "[..]));
}

/// The names and values of encoded header lines, in which no value has an end of line.
fn lines(fields: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    fields.split(|&byte| byte == b'\n').filter_map(|line| {
        let line = line.strip_suffix(b"\r")?;
        let colon = line.iter().position(|&byte| byte == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

fn push(fields: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        fields.extend_from_slice(part);
    }
}

fn has_member(list: &[u8], member: &[u8]) -> bool {
    list.split(|&byte| byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(member))
}

/// What is not `text/`, `+json` or `+xml` and yet gets smaller.
const COMPRESSIBLE: [&str; 13] = [
    "application/javascript",
    "application/json",
    "application/ndjson",
    "application/rtf",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-javascript",
    "application/x-ndjson",
    "application/xml",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/x-icon",
];

/// What is shorter fits into one packet however it is coded.
const MIN_LENGTH: u64 = 1024;

/// Within a tenth of what the higher levels save, in a quarter of the time of level 6.
const LEVEL: u32 = 3;

/// A fifth of a millisecond of the loop. The way to the pool and back costs less from there on.
const MOST_IN_LOOP: u64 = 16 * 1024;

/// 75 MiB of memory, and more than one core has to do with answers that are written while they are read.
const MAX_ENCODERS: usize = 256;

const IN_MEMORY: &str = "writing to memory does not fail";
