//! One connection: what was received becomes events, what is answered becomes bytes.
//!
//! Rules:
//! 1. The caller owns every buffer. A connection holds numbers only, few enough that ten thousand
//!    idle ones cost next to nothing; bytes that are not consumed stay with the caller and are
//!    handed in again.
//! 2. One request at a time. While its response is not finished, input is neither consumed nor
//!    looked at.
//! 3. A refusal is final: from then on input is consumed and dropped, and each call says why.
//! 4. Framing fields of a response (`Content-Length`, `Transfer-Encoding`, `Connection`) are
//!    written here and nowhere else, so that what is announced and what is sent cannot differ.

use ::http::{Method, StatusCode, Version};

use super::body::{Decoded, Decoder, Encoder};
use super::error::{ExcessBody, Refusal};
use super::grammar::{head_end, is_token_byte};
use super::head::{BodyFraming, RequestHead};
use super::limits::Limits;
use super::response::{push_content_length, push_status_line};
use super::state::{Flags, Reading, State, Writing};

/// The server's side of one HTTP/1.1 connection.
///
/// Hand what was read to [`receive`](Self::receive) until it wants more; answer each request with
/// [`begin_response`](Self::begin_response), field lines, [`end_head`](Self::end_head),
/// [`send_body`](Self::send_body) and [`finish`](Self::finish), in this order.
///
/// # Example
///
/// ```
/// use dosimeter::http::{Connection, Event, Finished, Limits, RequestHead, write_field};
/// use http::StatusCode;
///
/// let (mut connection, mut head) = (Connection::new(), RequestHead::new());
/// let mut input = &b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"[..];
/// let limits = Limits::default();
///
/// loop {
///     let (used, event) = connection.receive(input, &mut head, &limits);
///     input = &input[used..];
///     match event {
///         Event::Head => assert_eq!(head.path(), "/a"),
///         Event::Data(data) => assert_eq!(data, b"hi"),
///         Event::End => break,
///         other => panic!("{other:?}"),
///     }
/// }
/// let mut output = Vec::new();
/// connection.begin_response(&mut output, StatusCode::OK, Some(4));
/// write_field(&mut output, "Content-Type", b"text/plain")?;
/// connection.end_head(&mut output);
/// connection.send_body(&mut output, b"done")?;
/// assert_eq!(connection.finish(&mut output), Finished::KeepAlive);
/// assert!(output.starts_with(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n"));
/// assert!(output.ends_with(b"Content-Type: text/plain\r\n\r\ndone"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Connection {
    decoder: Decoder,
    encoder: Encoder,
    /// Bytes of the incomplete line or head that were searched before.
    scanned: u32,
    state: State,
}

/// What [`Connection::receive`] found.
///
/// A request is one `Head`, any number of `Data` and one `End`, also if it has no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// There is no more to say until more bytes arrive. What was not consumed has to be handed in
    /// again.
    NeedData,
    /// A head arrived and was read into the [`RequestHead`].
    Head,
    /// Some bytes of the body; never empty.
    Data(&'a [u8]),
    /// The request is complete.
    End,
    /// The response of the last request is not finished. Call again when it is.
    Paused,
    /// The connection has served its last request; what it sends now is dropped.
    Closed,
    /// The request was refused. Answer with [`Refusal::status`], if no response has begun, and
    /// close.
    Refused(Refusal),
}

/// What becomes of the connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the connection may have to be closed"]
pub enum Finished {
    /// The next request can be read, once all of this one was.
    KeepAlive,
    /// Flush and close.
    Close,
    /// Close: the body was this many bytes shorter than declared, and the peer waits for them.
    Short(u64),
}

impl Connection {
    /// A connection on which nothing has happened.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at `input` and returns how many of its bytes are consumed, and what they say.
    ///
    /// Call again with the rest after every event but [`NeedData`](Event::NeedData),
    /// [`Paused`](Event::Paused), [`Closed`](Event::Closed) and [`Refused`](Event::Refused). The
    /// unconsumed part of `input` has to come first the next time. `head` is filled by
    /// [`Event::Head`]; where a head is refused it holds what was read before the fault, and
    /// nothing of another request.
    ///
    /// The work over all calls is proportional to the number of bytes, however they are cut.
    pub fn receive<'a>(&mut self, input: &'a [u8], head: &mut RequestHead, limits: &Limits) -> (usize, Event<'a>) {
        let outcome = match self.state.reading() {
            Reading::Head => self.receive_head(input, head, limits),
            Reading::Body => self.decode_body(input, limits),
            Reading::Ended => return (0, Event::Paused),
            Reading::Closed => return (input.len(), Event::Closed),
            Reading::Refused(refusal) => return (input.len(), Event::Refused(refusal)),
        };
        outcome.unwrap_or_else(|refusal| {
            self.state.refused(refusal);
            (input.len(), Event::Refused(refusal))
        })
    }

    /// Goes on with the body of a request whose head was received, while the [`RequestHead`] is in use: as
    /// [`receive`](Self::receive), but never looks at the next request. [`Event::Paused`] says that the body is over.
    pub fn receive_body<'a>(&mut self, input: &'a [u8], limits: &Limits) -> (usize, Event<'a>) {
        let outcome = match self.state.reading() {
            Reading::Body => self.decode_body(input, limits),
            Reading::Head | Reading::Ended => return (0, Event::Paused),
            Reading::Closed => return (input.len(), Event::Closed),
            Reading::Refused(refusal) => return (input.len(), Event::Refused(refusal)),
        };
        outcome.unwrap_or_else(|refusal| {
            self.state.refused(refusal);
            (input.len(), Event::Refused(refusal))
        })
    }

    /// Ends a request whose head says that it has no body, as [`receive_body`](Self::receive_body) would in the end.
    pub(crate) fn end_without_body(&mut self) {
        debug_assert!(self.body_left() == Some(0) && self.in_body());
        self.state.request_ended();
    }

    /// How many bytes of the body are still to come, where that was declared; `None` in chunks.
    ///
    /// 0 between requests.
    #[must_use]
    pub fn body_left(&self) -> Option<u64> {
        if self.in_body() { self.decoder.left() } else { Some(0) }
    }

    /// Refuses the request that is being received, for a reason the caller knows: its deadline passed, say.
    ///
    /// As after every refusal, what is received from now on is dropped. Nothing happens once the request is whole.
    pub fn refuse(&mut self, refusal: Refusal) {
        if matches!(self.state.reading(), Reading::Head | Reading::Body) {
            self.state.refused(refusal);
        }
    }

    /// Appends the status line and the fields that say where the response ends.
    ///
    /// `length` is that of the body, if it is known. Without it the body is chunked, or, to an
    /// HTTP/1.0 client, ended by the close. To HEAD, and with 204, 205 and 304, no body is sent
    /// whatever the length; a HEAD response repeats it all the same (RFC 9110 sections 8.6, 9.3.2
    /// and 15.3.6). Field lines may be appended to `out` before [`end_head`](Self::end_head).
    ///
    /// A client that still waits for `100 Continue` may or may not send its body now, so the
    /// connection closes.
    ///
    /// # Panics
    ///
    /// If no request or refusal waits for a response, or one has begun, or `status` is
    /// informational: a second status line would be taken for the response to another request.
    pub fn begin_response(&mut self, out: &mut Vec<u8>, status: StatusCode, length: Option<u64>) {
        assert!(self.state.may_respond(), "begin_response: nothing waits for a response");
        assert!(!status.is_informational(), "begin_response: {status} is not a final response");
        if let (StatusCode::OK, Some(length), true) = (status, length, self.state.is_plain()) {
            return self.begin_plain_response(out, length);
        }
        self.encoder = self.response_framing(status, length);
        if self.encoder == Encoder::UntilClose || self.continue_expected() || self.is_tunnel(status) {
            self.state.set(Flags::CLOSE);
        }
        self.state.response_began();
        push_status_line(out, status);
        self.push_framing(out, status, length);
        self.push_persistence(out);
    }

    /// What nearly every response begins with, without asking for each of the things that could be otherwise.
    fn begin_plain_response(&mut self, out: &mut Vec<u8>, length: u64) {
        self.encoder = Encoder::Length(length);
        self.state.response_began();
        push_status_line(out, StatusCode::OK);
        push_content_length(out, length);
    }

    /// Appends the empty line that ends the response head.
    ///
    /// # Panics
    ///
    /// If no response has begun, or its head has ended.
    pub fn end_head(&mut self, out: &mut Vec<u8>) {
        assert!(self.state.writing() == Writing::Head, "end_head: no response head is being written");
        self.state.response_head_ended();
        out.extend_from_slice(b"\r\n");
    }

    /// Appends a part of the response body, framed as the head announced it.
    ///
    /// Nothing is appended where the response has no body. An empty part changes nothing.
    ///
    /// # Errors
    ///
    /// [`ExcessBody`] if the body is longer than declared; what fits was appended, and the response
    /// is valid.
    ///
    /// # Panics
    ///
    /// If the head of the response has not ended, or the response is finished.
    pub fn send_body(&mut self, out: &mut Vec<u8>, data: &[u8]) -> Result<(), ExcessBody> {
        assert!(self.state.writing() == Writing::Body, "send_body: no response body is being written");
        self.encoder.encode(out, data)
    }

    /// Appends what ends the response, and says what becomes of the connection.
    ///
    /// # Panics
    ///
    /// If the head of the response has not ended, or the response is finished.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Finished {
        assert!(self.state.writing() == Writing::Body, "finish: no response body is being written");
        let missing = self.encoder.finish(out);
        if missing > 0 {
            self.state.set(Flags::CLOSE);
        }
        let close = self.state.must_close();
        self.state.response_ended();
        match (missing, close) {
            (0, false) => Finished::KeepAlive,
            (0, true) => Finished::Close,
            (missing, _) => Finished::Short(missing),
        }
    }

    /// Appends a whole response: what [`begin_response`](Self::begin_response), `fields`, [`end_head`](Self::end_head),
    /// [`send_body`](Self::send_body) and [`finish`](Self::finish) append, and what the last of them says.
    ///
    /// # Panics
    ///
    /// As `begin_response`.
    ///
    /// # Example
    ///
    /// ```
    /// use dosimeter::http::{Connection, Event, Finished, Limits, RequestHead};
    /// use http::StatusCode;
    ///
    /// let (mut connection, mut head, limits) = (Connection::new(), RequestHead::new(), Limits::default());
    /// let input = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    /// assert_eq!(connection.receive(input, &mut head, &limits), (input.len(), Event::Head));
    /// assert_eq!(connection.receive(b"", &mut head, &limits), (0, Event::End));
    ///
    /// let mut output = Vec::new();
    /// let finished = connection.respond(&mut output, StatusCode::OK, b"done", |fields| {
    ///     fields.extend_from_slice(b"Content-Type: text/plain\r\n");
    /// });
    /// assert_eq!(finished, Finished::KeepAlive);
    /// assert_eq!(output, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Type: text/plain\r\n\r\ndone");
    /// ```
    pub fn respond(
        &mut self,
        out: &mut Vec<u8>,
        status: StatusCode,
        body: &[u8],
        fields: impl FnOnce(&mut Vec<u8>),
    ) -> Finished {
        self.begin_response(out, status, Some(body.len() as u64));
        fields(out);
        out.extend_from_slice(b"\r\n");
        // With its length known a body is sent as it is, or not at all.
        if self.encoder != Encoder::Nothing {
            out.extend_from_slice(body);
        }
        let close = self.state.must_close();
        self.state.response_ended();
        if close { Finished::Close } else { Finished::KeepAlive }
    }

    /// Whether the client waits for `100 Continue` before it sends its body (RFC 9110 section
    /// 10.1.1).
    #[must_use]
    pub fn continue_expected(&self) -> bool {
        self.state.has(Flags::EXPECTS_CONTINUE)
    }

    /// Appends `100 Continue` if the client waits for it, and nothing otherwise.
    pub fn send_continue(&mut self, out: &mut Vec<u8>) {
        if self.continue_expected() && self.state.writing() == Writing::Nothing {
            self.state.clear(Flags::EXPECTS_CONTINUE);
            out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    /// Makes this response, or the next one, the last; it says `Connection: close` if its head is
    /// not written.
    pub fn close_after(&mut self) {
        self.state.set(Flags::CLOSE);
    }

    /// Whether the connection closes after this response, or at once if none is due.
    #[must_use]
    pub fn must_close(&self) -> bool {
        self.state.must_close()
    }

    /// Whether nothing of a request has arrived since the last one was answered.
    ///
    /// Bytes that were not handed in do not count.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state.reading() == Reading::Head && self.scanned == 0
    }

    /// Whether a head has arrived in part.
    #[must_use]
    pub fn in_head(&self) -> bool {
        self.state.reading() == Reading::Head && self.scanned > 0
    }

    /// Whether a head has arrived, and not yet all of the body.
    #[must_use]
    pub fn in_body(&self) -> bool {
        self.state.reading() == Reading::Body
    }

    /// Whether a response was begun for the current request; `false` again once the exchange is
    /// over.
    #[must_use]
    pub fn response_started(&self) -> bool {
        self.state.writing() != Writing::Nothing
    }

    /// Why the connection was refused, if it was.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self.state.reading() {
            Reading::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    fn receive_head<'a>(&mut self, input: &'a [u8], head: &mut RequestHead, limits: &Limits) -> Received<'a> {
        let whole = head.repeated_in(input, limits).or_else(|| self.read_whole(input, head, limits));
        if let Some(end) = whole {
            self.scanned = 0;
            self.adopt(head);
            self.begin_body(head.framing(), limits)?;
            return Ok((end, Event::Head));
        }
        let outcome = self.read_head(input, head, limits);
        if !matches!(outcome, Ok((_, Event::Head))) {
            self.note_head_method(input);
        }
        outcome
    }

    /// Reads a head that is all there and is right, as nearly all are: to look for its end first would be a pass more.
    ///
    /// It is tried when the first of a head comes, and not again: one that comes byte by byte would be read as often.
    fn read_whole(&self, input: &[u8], head: &mut RequestHead, limits: &Limits) -> Option<usize> {
        let is_new = self.scanned == 0 && !input.is_empty();
        is_new.then(|| head.parse(&input[..input.len().min(longest_head(limits))], limits).ok())?
    }

    /// Reads a head that comes in pieces, or finds out what is wrong with it.
    #[cold]
    fn read_head<'a>(&mut self, input: &'a [u8], head: &mut RequestHead, limits: &Limits) -> Received<'a> {
        let (skipped, end) = self.find_head(input, head, limits).inspect_err(|_| self.adopt(head))?;
        let Some(end) = end else {
            return Ok((skipped, Event::NeedData));
        };
        let outcome = head.parse(&input[skipped..end], limits);
        self.adopt(head);
        outcome?;
        self.begin_body(head.framing(), limits)?;
        Ok((end, Event::Head))
    }

    /// Where the head starts, past an empty line, and where it ends, if it is all there.
    ///
    /// Where it is refused before it is read, `head` may still hold a request of somebody else's, which must not be logged as
    /// this one, and so is cleared.
    fn find_head(
        &mut self,
        input: &[u8],
        head: &mut RequestHead,
        limits: &Limits,
    ) -> Result<(usize, Option<usize>), Refusal> {
        let skipped = self.skip_empty_line(input).inspect_err(|_| head.clear())?;
        let rest = &input[skipped..];
        check_first_byte(rest).inspect_err(|_| head.clear())?;
        let limit = longest_head(limits);
        let outcome = head_end(rest, self.scanned as usize, limit);
        if !matches!(outcome, Ok(Some(_))) {
            self.check_request_line(&rest[..rest.len().min(limit)], head, limits)?;
        }
        let len = outcome.inspect_err(|_| head.clear())?;
        self.scanned = if len.is_some() { 0 } else { rest.len() as u32 };
        Ok((skipped, len.map(|len| skipped + len)))
    }

    /// Refuses a request line that is wrong as soon as it is there: who speaks HTTP/0.9 or another protocol sends nothing
    /// more, and waits for an answer (RFC 9112 section 2.2).
    ///
    /// The line is looked at once, when its end has come.
    #[cold]
    fn check_request_line(&mut self, text: &[u8], head: &mut RequestHead, limits: &Limits) -> Result<(), Refusal> {
        let start = (self.scanned as usize).min(text.len());
        if self.state.has(Flags::REQUEST_LINE) {
            return Ok(());
        }
        match text[start..].iter().position(|&byte| byte == b'\n') {
            Some(found) if text[..start + found].ends_with(b"\r") => {
                self.state.set(Flags::REQUEST_LINE);
                head.check_request_line(&text[..=start + found], limits)
            }
            _ => Ok(()),
        }
    }

    /// Remembers that it was HEAD that began, of whose head no more may be read: no body may be sent to it, not even with a
    /// refusal (RFC 9110 section 9.3.2).
    #[cold]
    fn note_head_method(&mut self, input: &[u8]) {
        let request = input.strip_prefix(b"\r\n").unwrap_or(input);
        self.state.set(Flags::HEAD.when(request.starts_with(b"HEAD ")));
    }

    #[inline(always)] // one of its callers is the loop over requests
    fn decode_body<'a>(&mut self, input: &'a [u8], limits: &Limits) -> Received<'a> {
        let (used, decoded) = self.decoder.decode(input, &mut self.scanned, limits)?;
        let event = match decoded {
            Decoded::NeedData => Event::NeedData,
            Decoded::Data(data) => {
                // It did not wait after all (RFC 9110 section 10.1.1).
                self.state.clear(Flags::EXPECTS_CONTINUE);
                Event::Data(data)
            }
            Decoded::End => {
                self.state.request_ended();
                Event::End
            }
        };
        Ok((used, event))
    }

    /// Some clients send a CRLF after a body that its length does not count (RFC 9112 section 2.2).
    ///
    /// One is forgiven; a stream of them would keep a connection busy without ever asking anything.
    fn skip_empty_line(&mut self, input: &[u8]) -> Result<usize, Refusal> {
        match input {
            [b'\r', b'\n', ..] if self.state.has(Flags::EMPTY_LINE) => Err(Refusal::EmptyLines),
            [b'\r', b'\n', after @ ..] => {
                self.state.set(Flags::EMPTY_LINE);
                self.scanned = 0;
                self.skip_empty_line(after).map(|more| 2 + more)
            }
            [b'\r', _, ..] => Err(Refusal::BareCr),
            _ => Ok(0),
        }
    }

    /// Takes from a head what its response depends on; also from a refused one, as far as it was
    /// read.
    fn adopt(&mut self, head: &RequestHead) {
        let connect = *head.method() == Method::CONNECT;
        let flags = Flags::HEAD
            .when(*head.method() == Method::HEAD)
            .and(Flags::CONNECT.when(connect))
            .and(Flags::HTTP10.when(head.version() == Version::HTTP_10))
            .and(Flags::EXPECTS_CONTINUE.when(head.expects_continue()))
            .and(Flags::CLOSE.when(connect || !head.keep_alive()));
        self.state.set(flags);
    }

    fn begin_body(&mut self, framing: BodyFraming, limits: &Limits) -> Result<(), Refusal> {
        self.decoder = match framing {
            BodyFraming::Length(length) if length > limits.body => {
                return Err(Refusal::BodyTooLarge);
            }
            BodyFraming::Length(length) => Decoder::length(length),
            BodyFraming::Chunked => Decoder::chunked(),
        };
        self.state.request_began();
        Ok(())
    }

    fn response_framing(&self, status: StatusCode, length: Option<u64>) -> Encoder {
        match length {
            _ if self.state.has(Flags::HEAD) || is_bodiless(status) || self.is_tunnel(status) => Encoder::Nothing,
            Some(length) => Encoder::Length(length),
            None if self.state.has(Flags::HTTP10) => Encoder::UntilClose,
            None => Encoder::Chunked,
        }
    }

    /// A 2xx to CONNECT has neither framing nor body (RFC 9112 section 6.3); no tunnel is served
    /// behind it.
    fn is_tunnel(&self, status: StatusCode) -> bool {
        self.state.has(Flags::CONNECT) && status.is_success()
    }

    fn push_framing(&self, out: &mut Vec<u8>, status: StatusCode, length: Option<u64>) {
        match (self.encoder, length) {
            (Encoder::Length(length), _) => push_content_length(out, length),
            (Encoder::Chunked, _) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            (Encoder::Nothing, _) if status == StatusCode::RESET_CONTENT => push_content_length(out, 0),
            (Encoder::Nothing, Some(length)) if !is_bodiless(status) && !self.is_tunnel(status) => {
                push_content_length(out, length);
            }
            (Encoder::Nothing | Encoder::UntilClose, _) => {}
        }
    }

    fn push_persistence(&self, out: &mut Vec<u8>) {
        if self.state.must_close() {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if self.state.has(Flags::HTTP10) {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
    }
}

type Received<'a> = Result<(usize, Event<'a>), Refusal>;

/// Offsets into a head are 32 bits wide.
fn longest_head(limits: &Limits) -> usize {
    limits.head.min(u32::MAX as usize)
}

/// Recognises what is not HTTP by its first byte: its sender waits for an answer, not for the end of
/// a head.
fn check_first_byte(input: &[u8]) -> Result<(), Refusal> {
    match input {
        [] | [b'\r'] => Ok(()),
        [TLS_HANDSHAKE, ..] => Err(Refusal::TlsHandshake),
        [b'\n', ..] => Err(Refusal::BareLf),
        [byte, ..] if is_token_byte(*byte) => Ok(()),
        _ => Err(Refusal::RequestLine),
    }
}

/// Whether responses of this status never have a body (RFC 9110 sections 15.3.5, 15.3.6 and
/// 15.4.5).
fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The record type that opens a TLS connection (RFC 8446 section 5.1); no method starts with it.
const TLS_HANDSHAKE: u8 = 0x16;
