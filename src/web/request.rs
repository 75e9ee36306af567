//! [`Request`]: the handle with which a resource reads a request and answers it.
//!
//! Rule kept here: a request is owned. Who has it is who answers it; [`finish`](Request::finish) consumes it, so writing after
//! the end does not compile. Dropping it unanswered is noticed and answered with 500.

use std::fmt;
use std::rc::Rc;
use std::str::FromStr;

use ::http::{HeaderName, HeaderValue, Method, StatusCode, Version};

use crate::deferred::Deferred;
use crate::net::{Address, Transport};
use crate::reactor::Reactor;
use crate::web::body::BodyStream;
use crate::web::error::FormError;
use crate::web::exchange::Exchange;
use crate::web::forms::{Form, pairs};
use crate::web::multipart::FormLimits;

/// A request that waits for its answer.
///
/// A resource either returns the answer (see [`Render`](super::Render)) and forgets the request, or keeps the request,
/// returns [`NOT_DONE_YET`](super::NOT_DONE_YET), and writes when it is ready. A request that is dropped without either is
/// answered with 500 and logged.
///
/// When the peer leaves first, writing and finishing are harmless and without effect;
/// [`notify_finish`](Request::notify_finish) tells. What is written is kept in memory until the peer has read it.
///
/// ```
/// use std::time::Duration;
/// use dosimeter::Clock;
/// use dosimeter::web::{NOT_DONE_YET, Render, Request};
///
/// fn two_parts(mut request: Request) -> Render {
///     request.write("one, ");
///     let reactor = request.reactor();
///     reactor.call_later(Duration::from_secs(1), move || {
///         request.write("two");
///         request.finish();
///     });
///     NOT_DONE_YET
/// }
/// ```
pub struct Request {
    exchange: Rc<Exchange>,
}

impl Request {
    pub(crate) fn new(exchange: Rc<Exchange>) -> Self {
        exchange.add_handle();
        Request { exchange }
    }

    pub(crate) fn exchange(&self) -> &Rc<Exchange> {
        &self.exchange
    }

    /// The method.
    pub fn method(&self) -> &Method {
        self.exchange.method()
    }

    /// The target as it was sent: path and query, not decoded.
    #[doc(alias = "request.uri")]
    pub fn uri(&self) -> &str {
        self.exchange.head.target()
    }

    /// The path, not decoded.
    pub fn path(&self) -> &str {
        self.exchange.head.path()
    }

    /// What follows the first `?`, not decoded.
    pub fn query_string(&self) -> Option<&str> {
        self.exchange.head.query()
    }

    /// The first argument called `name` in the query, decoded (`+` is a space).
    ///
    /// An argument is `name=value`; a name without `=` is none. What is not UTF-8 is replaced. Arguments are separated by `&`
    /// alone: a `;` separates them in Twisted, and in few caches, where one page could so be kept under the name of another
    /// (CVE-2021-23336).
    ///
    /// ```text
    /// GET /delay?ms=20   query("ms") == Some("20".into())
    /// ```
    pub fn query(&self, name: &str) -> Option<String> {
        self.query_all(name).next()
    }

    /// All arguments called `name` in the query, decoded, in the order sent.
    pub fn query_all(&self, name: &str) -> impl Iterator<Item = String> {
        let all = pairs(self.query_string().unwrap_or_default());
        all.filter(move |(known, _)| known == name).map(|(_, value)| value.into_owned())
    }

    /// The segments of the path that led to this resource, decoded.
    pub fn prepath(&self) -> impl Iterator<Item = &str> {
        self.exchange.prepath()
    }

    /// The segments of the path that are left for this resource, decoded.
    pub fn postpath(&self) -> impl Iterator<Item = &str> {
        self.exchange.postpath()
    }

    /// The part of the path that the segment `name` of a route's pattern matched (`"/user/<int:id>"`), as a `T`.
    ///
    /// `None` when the pattern has no such segment or the text is no `T` (a number too large for it, say).
    pub fn param<T: FromStr>(&self, name: &str) -> Option<T> {
        self.exchange.param(name)?.parse().ok()
    }

    /// The protocol version of the client.
    #[doc(alias = "clientproto")]
    pub fn version(&self) -> Version {
        self.exchange.head.version()
    }

    /// The last header field called `name`, in any case of letters.
    #[doc(alias = "getHeader")]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.exchange.head.header(name)
    }

    /// All header fields in the order sent.
    #[doc(alias = "requestHeaders")]
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.exchange.head.headers()
    }

    /// The body; empty if it is a stream.
    #[doc(alias = "content")]
    pub fn body(&self) -> &[u8] {
        &self.exchange.body
    }

    /// The form in the body: `application/x-www-form-urlencoded` or `multipart/form-data`, as the body says it is.
    ///
    /// A request without a body has an empty form, whatever type it names. The default [`FormLimits`] hold.
    ///
    /// # Errors
    /// [`FormError`]; a handler that fails with it answers with 415, 413 or 400 and a page that says why. A body that is a
    /// [stream](super::Resource::accepts_stream) is in no place to be read from, and is an error as well, answered with 500:
    /// [`take_form`](Request::take_form) reads a form as it comes.
    pub fn form(&self) -> Result<Form, FormError> {
        self.form_within(&FormLimits::default())
    }

    /// As [`form`](Request::form), with these limits.
    ///
    /// # Errors
    /// As [`form`](Request::form).
    pub fn form_within(&self, limits: &FormLimits) -> Result<Form, FormError> {
        if self.exchange.is_streamed() {
            return Err(FormError::Streamed);
        }
        match self.form_type()? {
            Some(kind) => Form::read(kind, self.body(), limits),
            None => Ok(Form::default()),
        }
    }

    /// The type that the body says it is; `None` where there is no body.
    pub(crate) fn form_type(&self) -> Result<Option<&str>, FormError> {
        if self.body().is_empty() && !self.exchange.is_streamed() {
            return Ok(None);
        }
        let mut types = self.exchange.head.header_all("content-type");
        match (types.next(), types.next()) {
            (Some(kind), None) => str::from_utf8(kind).map(Some).map_err(|_| FormError::NotAForm),
            _ => Err(FormError::NotAForm),
        }
    }

    /// The arguments of the query, and those of the form of a `POST` in place of the ones that have their names.
    ///
    /// A body that is no form adds nothing.
    ///
    /// # Errors
    /// As [`form`](Request::form), without 415.
    #[doc(alias = "request.args")]
    pub fn args(&self) -> Result<Form, FormError> {
        let query = Form::read_urlencoded(self.query_string().unwrap_or_default(), &FormLimits::default())?;
        let form = if *self.method() == Method::POST { self.form() } else { Ok(Form::default()) };
        match form {
            Ok(form) => Ok(query.overlaid(form)),
            Err(FormError::NotAForm) => Ok(query),
            Err(other) => Err(other),
        }
    }

    /// The body, to be taken piece by piece.
    ///
    /// Where the resource [accepts a stream](super::Resource::accepts_stream) the pieces are what comes, when it comes; else
    /// there is one, the [`body`](Request::body), so that a function may handle both. Taken a second time it is empty.
    #[doc(alias = "content")]
    pub fn take_body(&mut self) -> BodyStream {
        BodyStream::new(self.exchange.take_body())
    }

    /// The address of the peer.
    #[doc(alias = "getClientAddress")]
    pub fn peer_addr(&self) -> Address {
        self.transport().peer_addr()
    }

    /// The reactor that the request is handled on.
    pub fn reactor(&self) -> Reactor {
        self.transport().reactor().clone()
    }

    /// Sets the status of the response; `200 OK` unless set. Without effect once something was written.
    ///
    /// # Panics
    /// With a status 1xx: it announces a response and is none.
    #[doc(alias = "setResponseCode")]
    #[track_caller]
    pub fn set_status(&mut self, status: StatusCode) {
        assert!(!status.is_informational(), "{status} announces a response and is none");
        self.exchange.set_status(status);
    }

    /// Adds a field to the head of the response; without effect once something was written.
    ///
    /// `Content-Length` sets how long the body will be; without it the body is sent in chunks. `Connection` and
    /// `Transfer-Encoding` are the server's own and left out.
    #[doc(alias = "addRawHeader")]
    pub fn add_header(&mut self, name: HeaderName, value: HeaderValue) {
        if name != ::http::header::CONTENT_LENGTH {
            self.exchange.add_header(&name, &value);
        } else {
            self.set_content_length(&value);
        }
    }

    /// Sets a field of the head of the response in the place of those of this name that were added before.
    ///
    /// Otherwise as [`add_header`](Request::add_header).
    #[doc(alias = "setHeader")]
    pub fn set_header(&mut self, name: HeaderName, value: HeaderValue) {
        if name != ::http::header::CONTENT_LENGTH {
            self.exchange.set_header(&name, &value);
        } else {
            self.set_content_length(&value);
        }
    }

    fn set_content_length(&self, value: &HeaderValue) {
        if let Some(length) = value.to_str().ok().and_then(|text| text.parse().ok()) {
            self.exchange.set_length(length);
        } else {
            log::warn!(target: "dosimeter::web", "Content-Length {value:?} is no number of bytes and is left out");
        }
    }

    /// Sends a part of the body; the head goes out before the first part.
    ///
    /// The body is framed as the head says: by its length where it is known, else in chunks, and not at all in answer to
    /// `HEAD`.
    pub fn write(&mut self, data: impl AsRef<[u8]>) {
        self.exchange.write(data.as_ref());
    }

    /// Ends the response, which is empty if nothing was written.
    ///
    /// A body that is shorter than the `Content-Length` it was announced with cannot be ended: the connection is reset, so
    /// that the peer does not take the part for the whole.
    pub fn finish(self) {
        self.exchange.finish();
    }

    /// A chain that fires when the response is finished, and fails with [`Disconnected`](super::Disconnected) when the peer
    /// leaves before.
    ///
    /// Each call gives a new one. Asked for after the end it has fired already. A peer that has only closed its sending side
    /// has not left: it may well wait for the answer. That it is gone altogether shows when something is written to it.
    #[doc(alias = "notifyFinish")]
    #[track_caller]
    pub fn notify_finish(&self) -> Deferred<()> {
        if let Some(reason) = self.exchange.lost() {
            return Deferred::fail(reason);
        }
        if self.exchange.is_finished() {
            return Deferred::succeed(());
        }
        let (completer, deferred) = Deferred::pair();
        self.exchange.add_waiter(completer);
        deferred
    }

    /// Has what is returned for this request brought to its end also when the peer leaves, which otherwise cancels it.
    ///
    /// For work that must not stop half-way. Its result is dropped.
    ///
    /// ```
    /// use dosimeter::Deferred;
    /// use dosimeter::web::Request;
    ///
    /// # fn transfer() -> Deferred<String> { Deferred::succeed(String::new()) }
    /// fn order(request: Request) -> Deferred<String> {
    ///     request.shield();
    ///     transfer()
    /// }
    /// ```
    pub fn shield(&self) {
        self.exchange.shield();
    }

    /// Whether the peer is so far behind in reading that a handler that writes piece by piece should wait for
    /// [`drained`](Request::drained).
    pub fn is_congested(&self) -> bool {
        !self.exchange.is_finished() && self.transport().is_congested()
    }

    /// A chain that fires when the peer has read what was written, at once if it is not far behind; it fails with
    /// [`Disconnected`](super::Disconnected) when the peer leaves before.
    ///
    /// ```
    /// use dosimeter::web::Request;
    ///
    /// /// Sends a million lines at the pace of the peer.
    /// fn send_lines(mut request: Request, from: u32) {
    ///     for line in from..1_000_000 {
    ///         if request.is_congested() {
    ///             request.drained().add_callbacks(move |()| send_lines(request, line), |_left| ());
    ///             return;
    ///         }
    ///         request.write(format!("line {line}\n"));
    ///     }
    ///     request.finish();
    /// }
    /// ```
    #[track_caller]
    pub fn drained(&self) -> Deferred<()> {
        if let Some(reason) = self.exchange.lost() {
            return Deferred::fail(reason);
        }
        if !self.is_congested() {
            return Deferred::succeed(());
        }
        let (completer, deferred) = Deferred::pair();
        self.exchange.add_drain_waiter(completer);
        deferred
    }

    fn transport(&self) -> &Transport {
        self.exchange.channel().transport()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.exchange.drop_handle();
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({} {})", self.method(), self.uri())
    }
}
