//! One request's head: reading it, and asking it (RFC 9112 sections 3, 5 and 6).
//!
//! Rules:
//! 1. A head is read in one pass, which also finds where it ends, and is either right or refused.
//!    Nothing is repaired.
//! 2. How the message is framed is decided here, once, from every line that bears on it: a field
//!    that is looked up twice can be found twice, and then two parts of a server may hold to
//!    different ones.
//! 3. A head owns its bytes and is used again: once its buffers have grown, reading one allocates
//!    nothing.

use ::http::{Method, Version};

use super::error::Refusal;
use super::grammar::{field_line, find_not_visible, list, token_len};
use super::limits::Limits;
use super::target::{Target, Use, is_host};

/// The head of a request: method, target, version and fields.
///
/// It is filled by [`Connection::receive`](super::Connection::receive) and keeps its buffers from
/// one request to the next. One head serves any number of connections, as long as its request is
/// dealt with before the next.
///
/// # Example
///
/// ```
/// use dosimeter::http::{Connection, Event, Limits, RequestHead};
///
/// let mut head = RequestHead::new();
/// let input = b"GET /search?q=gray HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n";
/// let (used, event) = Connection::new().receive(input, &mut head, &Limits::default());
///
/// assert_eq!((used, event), (input.len(), Event::Head));
/// assert_eq!(head.method(), "GET");
/// assert_eq!((head.path(), head.query()), ("/search", Some("q=gray")));
/// assert_eq!(head.host(), Some("example.org"));
/// assert_eq!(head.header("accept"), Some(&b"*/*"[..]));
/// ```
#[derive(Clone, Debug)]
pub struct RequestHead {
    method: Method,
    version: Version,
    target: Target,
    /// The whole head as it came, and where the parts of its field lines are.
    text: Vec<u8>,
    fields: Vec<Field>,
    host: Option<u32>,
    /// The last `Host` that was checked. Clients say the same one over and over, and comparing is cheaper than parsing.
    /// It outlives [`clear`](Self::clear) on purpose; nothing but the check ever sees it.
    checked_host: Vec<u8>,
    framing: BodyFraming,
    keep_alive: bool,
    expects_continue: bool,
    objection: Option<Refusal>,
    /// The limits under which the head was accepted, if the same bytes may be taken for the same head.
    repeatable: Option<HeadLimits>,
    /// Counts what was read into this head, and so tells one from another.
    reading: u64,
}

/// The limits that bear on whether a head is accepted.
type HeadLimits = (usize, usize, usize);

/// How the body of a request is delimited (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// This many bytes. A request that announces no body has one of length 0, whatever its method.
    Length(u64),
    /// Chunks; how many bytes they hold is known at the end.
    Chunked,
}

/// Offsets into the text of the fields; a head is never longer than a `u32` can say.
#[derive(Clone, Copy, Debug)]
struct Field {
    name_start: u32,
    name_end: u32,
    value_start: u32,
    value_end: u32,
}

impl RequestHead {
    /// An empty head: `GET` with no target and no fields.
    #[must_use]
    pub fn new() -> Self {
        Self {
            method: Method::GET,
            version: UNKNOWN,
            target: Target::default(),
            text: Vec::new(),
            fields: Vec::new(),
            host: None,
            checked_host: Vec::new(),
            framing: BodyFraming::Length(0),
            keep_alive: false,
            expects_continue: false,
            objection: None,
            repeatable: None,
            reading: 0,
        }
    }

    /// Forgets the request and keeps the buffers.
    pub fn clear(&mut self) {
        self.method = Method::GET;
        self.version = UNKNOWN;
        self.target.clear();
        self.text.clear();
        self.fields.clear();
        self.host = None;
        self.framing = BodyFraming::Length(0);
        self.keep_alive = false;
        self.expects_continue = false;
        self.objection = None;
        self.repeatable = None;
        self.reading += 1;
    }

    /// The method; case-sensitive, and perhaps one nobody knows (RFC 9110 section 9.1).
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The request target as sent.
    #[must_use]
    pub fn target(&self) -> &str {
        self.target.as_str()
    }

    /// The path, still percent-encoded.
    ///
    /// Of an absolute-form target it is the path in it, `/` if there is none; of asterisk-form `*`;
    /// of authority-form (`CONNECT`) empty.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.path()
    }

    /// What follows the first `?` of the target, still percent-encoded.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.target.query()
    }

    /// The version the request is handled as: `HTTP_10` or `HTTP_11`.
    ///
    /// A higher minor version is handled as HTTP/1.1 (RFC 9110 section 2.5).
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The host that is asked, with its port if one was sent.
    ///
    /// It is taken from the target where that names one, and then `Host` is not consulted (RFC 9112
    /// section 3.2.2). `None` only in HTTP/1.0; empty if the client knows no host (RFC 9110 section
    /// 7.2).
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match (self.target.authority(), self.host) {
            (None, Some(index)) => str::from_utf8(self.value(self.fields[index as usize])).ok(),
            (authority, _) => authority,
        }
    }

    /// `http` or `https`, where the target is in absolute-form; `None` where it leaves the scheme to
    /// the connection.
    ///
    /// A request for an `https` target that came without TLS is to be refused, unless from a gateway
    /// that is trusted to have had it with TLS (RFC 9110 section 7.4).
    #[must_use]
    pub fn scheme(&self) -> Option<&'static str> {
        self.target.scheme()
    }

    /// What an origin server refuses the request for, unless it knows better.
    ///
    /// Both are right by their grammar, and answered in the usual way they would do harm: one passes for a request that
    /// came encrypted, of the other a part would be stored as the whole.
    pub(crate) fn objection(&self) -> Option<Refusal> {
        self.objection
    }

    /// The value of the last field of this name, in any case.
    ///
    /// Blanks around it are removed; its bytes are opaque above 0x7F, and never a control character
    /// but HTAB.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let field = self.fields.iter().rev().find(|field| self.is_named(field, name))?;
        Some(self.value(*field))
    }

    /// The values of all fields of this name, in any case, in the order they came.
    pub fn header_all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.fields.iter().filter(move |field| self.is_named(field, name)).map(|field| self.value(*field))
    }

    /// All fields in the order they came, with names as sent.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|field| {
            let name = str::from_utf8(self.name(*field)).expect("a field name is a token, which is ASCII");
            (name, self.value(*field))
        })
    }

    /// How the body is delimited.
    #[must_use]
    pub fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// Whether the client is willing to send another request on this connection (RFC 9112 section
    /// 9.3).
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Whether the client waits for `100 Continue` before it sends its body (RFC 9110 section
    /// 10.1.1).
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// A number that changes whenever something else is read into this head, for those who keep what they made of it. A head
    /// that came again is the same reading.
    pub(crate) fn reading(&self) -> u64 {
        self.reading
    }

    /// Whether the target is `*`: the server as a whole (RFC 9110 section 9.3.7).
    pub(crate) fn asks_the_server(&self) -> bool {
        self.target.is_server()
    }

    /// Whether the target is another server, and no path (RFC 9110 section 9.3.6).
    pub(crate) fn asks_for_a_tunnel(&self) -> bool {
        self.target.has_no_path()
    }

    /// Reads the head that `text` starts with, and returns where it ends.
    ///
    /// After a refusal, what was read before the fault can still be asked for. A head that is not all there is refused, for a
    /// reason that means nothing.
    pub(super) fn parse(&mut self, text: &[u8], limits: &Limits) -> Result<usize, Refusal> {
        self.clear();
        let mut at = self.parse_request_line(text, limits)?;
        let mut found = Findings::default();
        let outcome = self.parse_fields(text, &mut at, &mut found, limits);
        self.text.extend_from_slice(&text[..at]);
        outcome?;
        let secret = found.secret;
        self.conclude(found)?;
        self.repeatable = (!secret).then_some(head_limits(limits));
        Ok(at)
    }

    /// The length of the head that `input` starts with, if it is this very head once more.
    ///
    /// A client that asks for the same thing again sends the same bytes, and comparing them is much cheaper than reading
    /// them. A head with cookies or credentials is never compared with: it may be another client's, and how long a
    /// comparison takes must tell nobody how much of it was guessed.
    pub(super) fn repeated_in(&self, input: &[u8], limits: &Limits) -> Option<usize> {
        let same = self.repeatable == Some(head_limits(limits)) && input.starts_with(&self.text);
        same.then_some(self.text.len())
    }

    /// Reads a request line whose fields have not all come.
    pub(super) fn check_request_line(&mut self, line: &[u8], limits: &Limits) -> Result<(), Refusal> {
        self.clear();
        self.parse_request_line(line, limits).map(drop)
    }

    /// `method SP request-target SP HTTP-version CRLF`, with exactly these blanks (RFC 9112 section
    /// 3).
    ///
    /// A lenient split at any whitespace is what lets a target with a blank in it pass for another
    /// one.
    fn parse_request_line(&mut self, text: &[u8], limits: &Limits) -> Result<usize, Refusal> {
        let (method, rest) = split_at_space(text, token_len(text))?;
        let (target, rest) = split_at_space(rest, find_not_visible(rest).unwrap_or(rest.len()))?;
        let (version, rest) = split_version(rest)?;
        if method.len() > MAX_METHOD {
            return Err(Refusal::MethodTooLong);
        }
        // It is GET already, and a value that is moved right after it was made is waited for.
        if method != b"GET" {
            self.method = Method::from_bytes(method).map_err(|_| Refusal::RequestLine)?;
        }
        self.version = match version {
            (b'1', b'0') => Version::HTTP_10,
            (b'1', _) => Version::HTTP_11,
            (b'2', b'0') if method == b"PRI" && target == b"*" => {
                return Err(Refusal::Http2Preface);
            }
            _ => return Err(Refusal::Version),
        };
        if target.len() > limits.target {
            return Err(Refusal::TargetTooLong);
        }
        self.target.parse(target, self.target_use())?;
        Ok(text.len() - rest.len())
    }

    fn target_use(&self) -> Use {
        match self.method {
            Method::CONNECT => Use::Connect,
            Method::OPTIONS => Use::Options,
            _ => Use::Other,
        }
    }

    /// Reads the field lines from `at` on, and moves it to where the head ends, or to the line that is wrong.
    fn parse_fields(
        &mut self,
        text: &[u8],
        at: &mut usize,
        found: &mut Findings,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        while !text[*at..].starts_with(b"\r\n") {
            if self.fields.len() == limits.headers {
                return Err(Refusal::TooManyFields);
            }
            let line = field_line(text, *at)?;
            self.note_field(&text[*at..line.name_end], &text[line.value_start..line.value_end], found)?;
            self.fields.push(Field {
                name_start: *at as u32,
                name_end: line.name_end as u32,
                value_start: line.value_start as u32,
                value_end: line.value_end as u32,
            });
            *at = line.next;
        }
        *at += 2;
        Ok(())
    }

    /// Notes what the next field says about the message.
    fn note_field(&mut self, name: &[u8], value: &[u8], found: &mut Findings) -> Result<(), Refusal> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                found.host(self.fields.len() as u32, value, &mut self.checked_host)?;
            }
            6 if name.eq_ignore_ascii_case(b"expect") => found.expect(value),
            6 if name.eq_ignore_ascii_case(b"cookie") => found.secret = true,
            10 if name.eq_ignore_ascii_case(b"connection") => found.connection(value),
            13 if name.eq_ignore_ascii_case(b"authorization") => found.secret = true,
            13 if name.eq_ignore_ascii_case(b"content-range") => found.partial = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => found.content_length(value)?,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => found.transfer_encoding(value),
            _ => {}
        }
        Ok(())
    }

    /// Draws the conclusions that need the whole head.
    fn conclude(&mut self, found: Findings) -> Result<(), Refusal> {
        let http10 = self.version == Version::HTTP_10;
        if found.host.is_none() && !http10 {
            return Err(Refusal::HostMissing);
        }
        self.host = found.host;
        self.objection = self.find_objection(found.partial);
        self.framing = found.framing(http10)?;
        self.keep_alive = !found.close && (!http10 || found.keep_alive);
        // An HTTP/1.0 client cannot mean it (RFC 9110 section 10.1.1).
        if found.unknown_expectation && !http10 {
            return Err(Refusal::Expectation);
        }
        self.expects_continue = found.expects_continue && !http10 && self.framing != BodyFraming::Length(0);
        Ok(())
    }

    fn find_objection(&self, partial: bool) -> Option<Refusal> {
        match self.method {
            _ if self.target.scheme() == Some("https") => Some(Refusal::Misdirected),
            Method::PUT if partial => Some(Refusal::PartialPut),
            _ => None,
        }
    }

    fn is_named(&self, field: &Field, name: &str) -> bool {
        self.name(*field).eq_ignore_ascii_case(name.as_bytes())
    }

    fn name(&self, field: Field) -> &[u8] {
        &self.text[field.name_start as usize..field.name_end as usize]
    }

    fn value(&self, field: Field) -> &[u8] {
        &self.text[field.value_start as usize..field.value_end as usize]
    }
}

impl Default for RequestHead {
    fn default() -> Self {
        Self::new()
    }
}

/// What the fields seen so far say about the message and the connection.
#[derive(Default)]
struct Findings {
    host: Option<u32>,
    content_length: Option<u64>,
    codings: Option<Codings>,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    unknown_expectation: bool,
    /// A field came that says who the client is.
    secret: bool,
    /// A field came that says that the body is a part.
    partial: bool,
}

/// The transfer codings of all `Transfer-Encoding` lines, in order.
#[derive(Clone, Copy, Default)]
struct Codings {
    /// `chunked` came, and came last.
    chunked_last: bool,
    /// Something other than `chunked` came.
    other: bool,
    /// An empty member, or `chunked` a second time.
    malformed: bool,
}

impl Findings {
    /// A repeated `Host` is refused in HTTP/1.0 too (RFC 9112 section 3.2).
    fn host(&mut self, index: u32, value: &[u8], checked: &mut Vec<u8>) -> Result<(), Refusal> {
        if self.host.replace(index).is_some() {
            return Err(Refusal::HostRepeated);
        }
        if !value.is_empty() && value == &checked[..] {
            return Ok(());
        }
        if !is_host(value) {
            return Err(Refusal::Host);
        }
        checked.clear();
        checked.extend_from_slice(value);
        Ok(())
    }

    fn expect(&mut self, value: &[u8]) {
        for member in list(value).filter(|member| !member.is_empty()) {
            let known = member.eq_ignore_ascii_case(b"100-continue");
            self.expects_continue |= known;
            self.unknown_expectation |= !known;
        }
    }

    fn connection(&mut self, value: &[u8]) {
        for option in list(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// RFC 9112 section 6.3 lets a recipient accept a list of equal values; no honest client sends
    /// one.
    fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let length = parse_length(value)?;
        match self.content_length.replace(length) {
            Some(_) => Err(Refusal::ContentLengthRepeated),
            None => Ok(()),
        }
    }

    fn transfer_encoding(&mut self, value: &[u8]) {
        let codings = self.codings.get_or_insert_default();
        let mut seen = codings.chunked_last;
        for coding in list(value) {
            let chunked = coding.eq_ignore_ascii_case(b"chunked");
            codings.malformed |= coding.is_empty() || (chunked && seen);
            codings.other |= !chunked;
            codings.chunked_last = chunked;
            seen |= chunked;
        }
    }

    /// RFC 9112 section 6.3, items 3 to 6; every combination that could be read in two ways is
    /// refused.
    fn framing(&self, http10: bool) -> Result<BodyFraming, Refusal> {
        match (self.codings, self.content_length) {
            (None, length) => Ok(BodyFraming::Length(length.unwrap_or(0))),
            (Some(_), _) if http10 => Err(Refusal::TransferEncodingHttp10),
            (Some(_), Some(_)) => Err(Refusal::AmbiguousLength),
            (Some(codings), None) => codings.framing(),
        }
    }
}

impl Codings {
    fn framing(self) -> Result<BodyFraming, Refusal> {
        if self.malformed || !self.chunked_last {
            return Err(Refusal::TransferEncoding);
        }
        if self.other { Err(Refusal::TransferCoding) } else { Ok(BodyFraming::Chunked) }
    }
}

fn head_limits(limits: &Limits) -> HeadLimits {
    (limits.target, limits.head, limits.headers)
}

/// Digits only: `+5`, `0x5` and `5_0` are numbers to some parsers and not to others.
fn parse_length(digits: &[u8]) -> Result<u64, Refusal> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::ContentLength);
    }
    // A number that does not fit is a length all the same, and must not wrap (RFC 9110 section
    // 8.6).
    digits
        .iter()
        .try_fold(0_u64, |length, digit| length.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
        .ok_or(Refusal::BodyTooLarge)
}

/// Splits a non-empty part of the request line from what follows its one space.
fn split_at_space(text: &[u8], at: usize) -> Result<(&[u8], &[u8]), Refusal> {
    match text.split_at(at) {
        ([], _) => Err(Refusal::RequestLine),
        (part, [b' ', rest @ ..]) => Ok((part, rest)),
        (_, [b'\r', next, ..]) if *next != b'\n' => Err(Refusal::BareCr),
        (_, [0, ..]) => Err(Refusal::Nul),
        _ => Err(Refusal::RequestLine),
    }
}

/// The digits of the version, and what follows its line.
fn split_version(text: &[u8]) -> Result<((u8, u8), &[u8]), Refusal> {
    match text {
        [b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9', b'\r', b'\n', rest @ ..] => {
            Ok(((*major, *minor), rest))
        }
        _ => Err(Refusal::VersionSyntax),
    }
}

/// What is assumed until a request line was read: with HTTP/1.0 nothing is sent that a client may
/// not know.
const UNKNOWN: Version = Version::HTTP_10;

/// The longest registered method has 17 letters; longer ones only cost memory (RFC 9112 section 3
/// allows 501).
const MAX_METHOD: usize = 32;
