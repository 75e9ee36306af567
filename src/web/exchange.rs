//! One request and its response on their way: what a [`Request`](super::Request) handle and its connection share.
//!
//! Rules kept here:
//! - An exchange is answered exactly once: by the request handle, or by what the resource returned, whichever comes first.
//!   If neither can come any more (every handle is gone and nothing is pending) it is answered with 500.
//! - Once finished, or once the peer is gone, writing is harmless and without effect.
//! - Exchanges are used again: head, body and response fields keep their room from request to request.
//! - No user code runs while a cell here is borrowed.

use std::any::Any;
use std::cell::{Cell, RefCell, RefMut};
use std::mem;
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;

use ::http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::deferred::{Canceller, Completer};
use crate::http::{ExcessBody, Finished, RequestHead};
use crate::net::Transport;
use crate::web::body::Inlet;
use crate::web::coding::Coding;
use crate::web::disconnected::Disconnected;
use crate::web::encode::{encode_response, find_field, has_body, push_field, remove_fields};
use crate::web::forwarded::TrustedProxies;
use crate::web::metrics::{HttpFigures, Route};
use crate::web::path::Path;
use crate::web::response::{DEFAULT_CONTENT_TYPE, Response, is_own_field};
use crate::web::waiter::Waiter;

/// A connection as an exchange on it sees it.
pub(crate) trait Channel {
    fn engine(&self) -> &RefCell<crate::http::Connection>;
    fn transport(&self) -> &Transport;
    fn figures(&self) -> &HttpFigures;
    /// Appends the header lines that every response has.
    fn standing_fields(&self, out: &mut Vec<u8>);
    /// Who may say on whose behalf a request is made.
    fn proxies(&self) -> Option<&TrustedProxies>;
    /// Nothing more is wanted of the body of the current request: if much of it is to come, its answer is the last one.
    fn body_is_over(&self);
    /// The response of the current request is whole.
    fn response_finished(self: Rc<Self>, finished: Finished);
    /// What makes the error pages of the site.
    fn error_pages(&self) -> Option<Rc<PageMaker>>;
}

/// Makes another page of the plain one for an error; `None` leaves it as it is.
pub(crate) type PageMaker = dyn Fn(Option<&Rc<Exchange>>, &Response) -> Option<Response>;

/// See the top of the file.
pub(crate) struct Exchange {
    pub(super) channel: Option<Rc<dyn Channel>>,
    pub(crate) head: RequestHead,
    pub(crate) body: Vec<u8>,
    pub(super) path: Path,
    /// When the turn began that read the head, then the request, in nanoseconds as the reactor's timers count them.
    pub(super) began: u64,
    pub(super) phase: Cell<Phase>,
    /// How many request handles there are.
    pub(super) handles: Cell<usize>,
    /// An answer other than through a handle may come: the resource is running, or returned something pending.
    pub(super) answer_pending: Cell<bool>,
    pub(super) route: RefCell<Option<Rc<Route>>>,
    /// The last step of the walk entered a route.
    pub(super) entered: Cell<bool>,
    /// What the patterns on the way called parts of the path, and where in its decoded text they are.
    pub(super) params: RefCell<Vec<(Rc<str>, Range<usize>)>>,
    /// A router on the way handles the errors of routing.
    pub(super) routing_errors_wanted: Cell<bool>,
    /// How often a router has handed the request on to a resource, and waits for what comes of it.
    pub(super) delegations: Cell<usize>,
    pub(super) status: Cell<StatusCode>,
    pub(super) length: Cell<Option<u64>>,
    pub(super) has_content_type: Cell<bool>,
    /// Bytes of the body of the answer.
    pub(super) body_bytes: Cell<u64>,
    /// Encoded header lines of a response that is written piecewise.
    pub(super) fields: RefCell<Vec<u8>>,
    /// What a request that is answered at once does not have, and whether this one has some of it.
    pub(super) extras: RefCell<Extras>,
    pub(super) has_extras: Cell<bool>,
}

#[derive(Default)]
pub(super) struct Extras {
    /// What the body is a stream of, if it is one.
    pub(super) inlet: Option<Rc<Inlet>>,
    pub(super) body_taken: bool,
    /// How the peer left, once it has.
    pub(super) lost: Option<Disconnected>,
    /// Set while a Deferred is waited for, so that a peer who leaves can cancel it.
    pub(super) canceller: Option<Canceller>,
    /// A peer who leaves is to cancel nothing.
    pub(super) shielded: bool,
    /// Who waits for the end of the response.
    pub(super) waiters: Vec<Waiter>,
    /// Who waits for the peer to read.
    pub(super) drain_waiters: Vec<Completer<()>>,
    /// Cookies that the answer sets, whatever it is, each with what tells it from the others.
    pub(super) cookies: Vec<(String, HeaderValue)>,
    /// The error that the answer is made of, as the answer it would be by itself.
    pub(super) error: Option<Response>,
    /// What makes the error pages of this part of the tree.
    pub(super) pages: Option<Rc<PageMaker>>,
    /// What belongs to the request for as long as it lasts, each of another type or owner.
    pub(super) notes: Vec<Rc<dyn Any>>,
    /// What the body goes through, if it is written piece by piece.
    pub(super) coding: Option<Box<dyn Coding>>,
    /// A producer of ours is on the transport.
    pub(super) producing: bool,
    /// The coding will be flushed when this turn's writes are done.
    pub(super) flush_due: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing was sent yet.
    Open,
    /// The response head was sent.
    Started,
    Finished,
    /// The peer is gone.
    Lost,
}

impl Exchange {
    pub(crate) fn new() -> Self {
        Exchange {
            channel: None,
            head: RequestHead::new(),
            body: Vec::new(),
            path: Path::default(),
            began: 0,
            phase: Cell::new(Phase::Open),
            handles: Cell::new(0),
            answer_pending: Cell::new(false),
            route: RefCell::default(),
            entered: Cell::new(false),
            params: RefCell::default(),
            routing_errors_wanted: Cell::new(false),
            delegations: Cell::new(0),
            status: Cell::new(StatusCode::OK),
            length: Cell::new(None),
            has_content_type: Cell::new(false),
            body_bytes: Cell::new(0),
            fields: RefCell::default(),
            extras: RefCell::default(),
            has_extras: Cell::new(false),
        }
    }

    /// Everything but the room it has taken is as in a new one.
    pub(crate) fn reset(&mut self) {
        self.channel = None;
        self.body.clear();
        if self.body.capacity() > MAX_KEPT_BODY {
            self.body = Vec::new();
        }
        self.phase.set(Phase::Open);
        self.answer_pending.set(false);
        self.route.take();
        self.entered.set(false);
        self.params.get_mut().clear();
        self.routing_errors_wanted.set(false);
        self.delegations.set(0);
        self.status.set(StatusCode::OK);
        self.length.set(None);
        self.has_content_type.set(false);
        self.body_bytes.set(0);
        self.fields.get_mut().clear();
        if self.has_extras.replace(false) {
            self.extras.take();
        }
    }

    pub(super) fn extras(&self) -> RefMut<'_, Extras> {
        self.has_extras.set(true);
        self.extras.borrow_mut()
    }

    /// Looks at what there is of it.
    #[inline]
    pub(super) fn if_extras<R>(&self, look: impl FnOnce(&mut Extras) -> Option<R>) -> Option<R> {
        if self.has_extras.get() { look(&mut self.extras.borrow_mut()) } else { None }
    }

    /// The request will be handled.
    #[inline(always)] // one of its callers is the loop over requests
    pub(crate) fn begin(&mut self, channel: Rc<dyn Channel>, now: u64) {
        channel.figures().request_began(channel.transport().reactor());
        self.attach(channel);
        self.began = now;
    }

    /// Something may be asked of the request.
    #[inline(always)] // one of its callers is the loop over requests
    pub(crate) fn attach(&mut self, channel: Rc<dyn Channel>) {
        self.path.fill(&self.head);
        *self.route.get_mut() = Some(channel.figures().root().clone());
        self.channel = Some(channel);
    }

    /// What was asked came to nothing: the request is as it was before, and still being read.
    pub(crate) fn detach(&mut self) {
        self.channel = None;
        self.answer_pending.set(false);
        self.delegations.set(0);
        self.params.get_mut().clear();
    }

    /// The body will come through this.
    pub(crate) fn set_inlet(&mut self, inlet: Rc<Inlet>) {
        self.extras().inlet = Some(inlet);
    }

    pub(crate) fn inlet(&self) -> Option<Rc<Inlet>> {
        self.if_extras(|extras| extras.inlet.clone())
    }

    /// The body as a stream, once; then an empty one.
    pub(crate) fn take_body(&self) -> Rc<Inlet> {
        let mut extras = self.extras();
        if mem::replace(&mut extras.body_taken, true) {
            return Inlet::of(Vec::new());
        }
        extras.inlet.get_or_insert_with(|| Inlet::of(self.body.clone())).clone()
    }

    /// The answer is over, and with it the request: nobody gets more of its body.
    pub(super) fn close_inlet(&self) {
        if let Some(inlet) = self.if_extras(|extras| extras.inlet.take()) {
            inlet.cancel();
        }
    }

    /// The head is there; its body comes.
    pub(crate) fn head_came(&mut self, now: u64) {
        self.began = now;
    }

    pub(crate) fn began(&self) -> u64 {
        self.began
    }

    pub(crate) fn channel(&self) -> &Rc<dyn Channel> {
        self.channel.as_ref().expect("an exchange has its channel from begin to reset")
    }

    // --- who may still answer ------------------------------------------------------------------------------------

    pub(crate) fn add_handle(&self) {
        self.handles.set(self.handles.get() + 1);
    }

    pub(crate) fn drop_handle(self: &Rc<Self>) {
        self.handles.set(self.handles.get() - 1);
        self.check_forgotten();
    }

    /// The resource is about to be asked.
    pub(crate) fn expect_answer(&self) {
        self.answer_pending.set(true);
    }

    /// Whoever has a handle will answer. What may be cancelled for this request stays so.
    pub(crate) fn leave_to_handles(self: &Rc<Self>) {
        self.answer_pending.set(false);
        self.check_forgotten();
    }

    /// No answer comes any more but through a handle.
    pub(super) fn answered(self: &Rc<Self>) {
        self.if_extras(|extras| extras.canceller.take());
        self.leave_to_handles();
    }

    // --- the response --------------------------------------------------------------------------------------------

    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.phase.get(), Phase::Finished | Phase::Lost)
    }

    /// Whether the request was handed to a resource.
    pub(crate) fn has_begun(&self) -> bool {
        self.channel.is_some()
    }

    pub(crate) fn is_started(&self) -> bool {
        self.phase.get() != Phase::Open
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.phase.get() == Phase::Lost
    }

    /// How the peer left, if it has.
    pub(crate) fn lost(&self) -> Option<Disconnected> {
        self.if_extras(|extras| extras.lost.clone())
    }

    /// Whether the body is a stream, so that it is nowhere whole.
    pub(crate) fn is_streamed(&self) -> bool {
        self.inlet().is_some_and(|inlet| inlet.is_stream())
    }

    pub(crate) fn set_status(&self, status: StatusCode) {
        if !self.is_started() {
            self.status.set(status);
        }
    }

    pub(crate) fn set_length(&self, length: u64) {
        self.length.set(Some(length));
    }

    pub(crate) fn add_header(&self, name: &HeaderName, value: &HeaderValue) {
        if is_own_field(name) {
            return;
        }
        if *name == ::http::header::CONTENT_TYPE {
            self.has_content_type.set(true);
        }
        push_field(&mut self.fields.borrow_mut(), name, value);
    }

    /// The only field of this name, whatever was added before.
    pub(crate) fn set_header(&self, name: &HeaderName, value: &HeaderValue) {
        remove_fields(&mut self.fields.borrow_mut(), name);
        self.add_header(name, value);
    }

    /// Whether what is written would go nowhere: the answer has no body.
    pub(crate) fn is_bodiless(&self) -> bool {
        self.method() == Method::HEAD || !has_body(self.status.get())
    }

    /// Appends what the request was given for the head of its answer, which is mostly nothing.
    #[inline(always)] // for that nothing
    fn append_fields(&self, out: &mut Vec<u8>, response: Option<&Response>) {
        if self.has_extras.get() || !self.fields.borrow().is_empty() {
            self.append_given_fields(out, response);
        }
    }

    #[inline(never)]
    fn append_given_fields(&self, out: &mut Vec<u8>, response: Option<&Response>) {
        let given = self.fields.borrow();
        out.extend_from_slice(&given);
        if !self.has_extras.get() {
            return;
        }
        let extras = self.extras.borrow();
        extras.cookies.iter().for_each(|(_, line)| push_field(out, &::http::header::SET_COOKIE, line));
        // A 405 without `Allow` and a 401 without a challenge are none, whoever wrote the page.
        let Some(error) = extras.error.as_ref().filter(|error| error.status() == self.status.get()) else { return };
        for (name, value) in error.fields() {
            let is_in = |response: &Response| response.fields().any(|(known, _)| known == name);
            if find_field(&given, name).is_none() && !response.is_some_and(is_in) {
                push_field(out, name, value);
            }
        }
    }

    /// Sends a part of the body, and the head before the first part. `false`: it was longer than announced.
    pub(crate) fn write(self: &Rc<Self>, data: &[u8]) -> bool {
        if self.is_finished() {
            return true;
        }
        self.start();
        self.body_bytes.set(self.body_bytes.get() + data.len() as u64);
        let written = match self.coded(|coding, out| coding.write(data, out)) {
            None => self.send_body(data),
            Some((coded, written)) => {
                self.flush_soon();
                self.send_body(&coded).and(written)
            }
        };
        if let Err(excess) = written {
            log::error!(target: "dosimeter::web", "{}: {excess}", self.describe());
        }
        written.is_ok()
    }

    pub(super) fn send_body(&self, data: &[u8]) -> Result<(), ExcessBody> {
        let mut sent = Ok(());
        self.send(|engine, out| sent = engine.send_body(out, data));
        sent
    }

    /// Sends the head if it was not sent yet.
    pub(super) fn start(&self) {
        if self.phase.get() != Phase::Open {
            return;
        }
        self.phase.set(Phase::Started);
        let (status, channel) = (self.status.get(), self.channel());
        self.begin_coding(status);
        self.send(|engine, out| {
            engine.begin_response(out, status, self.length.get());
            channel.standing_fields(out);
            if !self.has_content_type.get() && has_body(status) && self.length.get() != Some(0) {
                out.extend_from_slice(DEFAULT_CONTENT_TYPE);
            }
            self.append_fields(out, None);
            engine.end_head(out);
        });
    }

    /// Ends a response that was written piecewise.
    pub(crate) fn finish(&self) {
        if self.is_finished() {
            return;
        }
        if !self.is_started() && self.length.get().is_none() && self.method() != Method::HEAD {
            self.length.set(Some(0));
        }
        self.start();
        if let Some((coded, is_whole)) = self.coded(|coding, out| coding.finish(out)) {
            if !is_whole {
                return self.break_off(StatusCode::INTERNAL_SERVER_ERROR);
            }
            self.send_body(&coded).expect("what is coded has no announced length");
        }
        self.end(self.status.get(), crate::http::Connection::finish);
    }

    /// Sends a whole response, or what is sent in place of the page of an error.
    #[inline]
    pub(crate) fn respond(self: &Rc<Self>, response: &Response) {
        match self.page_in_place_of(response) {
            None => self.send_whole(response),
            Some(page) => self.send_whole(&page),
        }
    }

    pub(super) fn page_in_place_of(self: &Rc<Self>, response: &Response) -> Option<Response> {
        response.error_text().filter(|_| !self.is_finished())?;
        let of_tree = self.if_extras(|extras| extras.pages.clone());
        let maker = of_tree.or_else(|| self.channel().error_pages())?;
        // The handle that the function gets is not one that is dropped without an answer.
        let was_pending = self.answer_pending.replace(true);
        let page = maker(Some(self), response);
        self.answer_pending.set(was_pending);
        page
    }

    pub(super) fn send_whole(&self, response: &Response) {
        if self.is_finished() {
            return;
        }
        self.set_status(response.explicit_status().unwrap_or(self.status.get()));
        self.phase.set(Phase::Started);
        if self.has_extras.get() && self.inlet().is_some() {
            self.channel().body_is_over();
        }
        self.body_bytes.set(response.body().len() as u64);
        let (channel, status) = (self.channel(), self.status.get());
        self.end(status, |engine, out| {
            encode_response(out, engine, status, response, |out| {
                channel.standing_fields(out);
                // The type of a 304 would be taken for that of what the client has.
                if !self.has_content_type.get() && has_body(status) {
                    response.default_content_type(out);
                }
                self.append_fields(out, Some(response));
            })
        });
    }

    pub(super) fn end(
        &self,
        status: StatusCode,
        encode: impl FnOnce(&mut crate::http::Connection, &mut Vec<u8>) -> Finished,
    ) {
        let mut finished = Finished::Close;
        self.send(|engine, out| finished = encode(engine, out));
        self.phase.set(Phase::Finished);
        let whole = !matches!(finished, Finished::Short(_));
        self.status.set(if whole { status } else { StatusCode::INTERNAL_SERVER_ERROR });
        self.count(self.status.get());
        if self.has_extras.get() {
            self.end_extras(whole);
        }
        self.channel().clone().response_finished(finished);
    }

    pub(super) fn send(&self, encode: impl FnOnce(&mut crate::http::Connection, &mut Vec<u8>)) {
        let channel = self.channel();
        channel.transport().write_with(|out| encode(&mut channel.engine().borrow_mut(), out));
    }

    pub(super) fn count(&self, status: StatusCode) {
        if let Some(route) = &*self.route.borrow() {
            let channel = self.channel();
            let now = || channel.transport().reactor().present_nanos();
            channel.figures().request_ended(route, self.head.method(), status, self.began, now);
        }
    }

    /// The client, as far as it is known.
    pub(crate) fn client_addr(&self) -> Option<IpAddr> {
        let channel = self.channel.as_ref()?;
        let peer = channel.transport().peer_addr();
        match channel.proxies() {
            Some(proxies) => proxies.client(&peer, &self.head),
            None => Some(peer.socket_addr()?.ip()),
        }
    }

    pub(crate) fn route_label(&self) -> Option<String> {
        Some(self.route.borrow().as_ref()?.label().to_owned())
    }

    /// The status of the answer, as the figures have it.
    pub(crate) fn final_status(&self) -> StatusCode {
        match self.phase.get() {
            Phase::Lost => StatusCode::from_u16(CLIENT_LEFT).expect("it has three digits"),
            _ => self.status.get(),
        }
    }

    pub(crate) fn body_bytes(&self) -> u64 {
        if self.is_bodiless() { 0 } else { self.body_bytes.get() }
    }

    pub(crate) fn method(&self) -> &Method {
        self.head.method()
    }
}

/// What nginx logs for a client that left before its answer was whole; HTTP has no status for it.
const CLIENT_LEFT: u16 = 499;

/// The room of a larger body is given back after the request: a server that once saw an upload need not keep it.
const MAX_KEPT_BODY: usize = 16 * 1024;
