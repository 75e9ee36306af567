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
use std::error::Error;
use std::mem;
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;

use ::http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::deferred::{Canceller, Completer};
use crate::failure::{Abandoned, Cancelled, Failure};
use crate::http::{ExcessBody, Finished, Refusal, RequestHead};
use crate::net::{ConnectionLost, Transport};
#[cfg(feature = "gzip")]
use crate::reactor::Reactor;
use crate::web::body::Inlet;
use crate::web::coding::Coding;
use crate::web::disconnected::Disconnected;
use crate::web::encode::{encode_response, has_body, push_field, remove_fields};
use crate::web::error::response_of;
use crate::web::forwarded::TrustedProxies;
use crate::web::metrics::{HttpFigures, Route};
use crate::web::path::Path;
use crate::web::response::{DEFAULT_CONTENT_TYPE, Response, is_own_field};

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

/// Who is told how an exchange went.
pub(crate) trait Watcher {
    /// The answer failed, or not: what is said first counts.
    fn settle(&self, error: Option<&(dyn Error + 'static)>);
    /// The exchange is over.
    fn end(&self, error: Option<&(dyn Error + 'static)>);
}

/// Who waits for the end of a response.
enum Waiter {
    Chain(Completer<()>),
    Watcher(Rc<dyn Watcher>),
}

impl Waiter {
    fn finished(self) {
        match self {
            Waiter::Chain(completer) => completer.callback(()),
            Waiter::Watcher(watcher) => watcher.end(None),
        }
    }

    fn failed(self, failure: Failure) {
        match self {
            Waiter::Chain(completer) => completer.fire(Err(failure)),
            Waiter::Watcher(watcher) => watcher.end(Some(failure.error())),
        }
    }
}

/// See the top of the file.
pub(crate) struct Exchange {
    channel: Option<Rc<dyn Channel>>,
    pub(crate) head: RequestHead,
    pub(crate) body: Vec<u8>,
    pub(super) path: Path,
    /// When the turn began that read the head, then the request, in nanoseconds as the reactor's timers count them.
    began: u64,
    phase: Cell<Phase>,
    /// How many request handles there are.
    handles: Cell<usize>,
    /// An answer other than through a handle may come: the resource is running, or returned something pending.
    answer_pending: Cell<bool>,
    pub(super) route: RefCell<Option<Rc<Route>>>,
    /// The last step of the walk entered a route.
    pub(super) entered: Cell<bool>,
    /// What the patterns on the way called parts of the path, and where in its decoded text they are.
    pub(super) params: RefCell<Vec<(Rc<str>, Range<usize>)>>,
    /// A router on the way handles the errors of routing.
    pub(super) routing_errors_wanted: Cell<bool>,
    /// How often a router has handed the request on to a resource, and waits for what comes of it.
    pub(super) delegations: Cell<usize>,
    status: Cell<StatusCode>,
    length: Cell<Option<u64>>,
    has_content_type: Cell<bool>,
    /// Bytes of the body of the answer.
    body_bytes: Cell<u64>,
    /// Encoded header lines of a response that is written piecewise.
    fields: RefCell<Vec<u8>>,
    /// What a request that is answered at once does not have, and whether this one has some of it.
    extras: RefCell<Extras>,
    has_extras: Cell<bool>,
}

#[derive(Default)]
struct Extras {
    /// What the body is a stream of, if it is one.
    inlet: Option<Rc<Inlet>>,
    body_taken: bool,
    /// How the peer left, once it has.
    lost: Option<Disconnected>,
    /// Set while a Deferred is waited for, so that a peer who leaves can cancel it.
    canceller: Option<Canceller>,
    /// A peer who leaves is to cancel nothing.
    shielded: bool,
    /// Who waits for the end of the response.
    waiters: Vec<Waiter>,
    /// Who waits for the peer to read.
    drain_waiters: Vec<Completer<()>>,
    /// Cookies that the answer sets, whatever it is, each with what tells it from the others.
    cookies: Vec<(String, HeaderValue)>,
    /// What makes the error pages of this part of the tree.
    pages: Option<Rc<PageMaker>>,
    /// What belongs to the request for as long as it lasts, each of another type or owner.
    notes: Vec<Rc<dyn Any>>,
    /// What the body goes through, if it is written piece by piece.
    coding: Option<Box<dyn Coding>>,
    /// A producer of ours is on the transport.
    producing: bool,
    /// The coding will be flushed when this turn's writes are done.
    flush_due: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
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

    fn extras(&self) -> RefMut<'_, Extras> {
        self.has_extras.set(true);
        self.extras.borrow_mut()
    }

    /// Looks at what there is of it.
    #[inline]
    fn if_extras<R>(&self, look: impl FnOnce(&mut Extras) -> Option<R>) -> Option<R> {
        if self.has_extras.get() { look(&mut self.extras.borrow_mut()) } else { None }
    }

    /// The request will be handled.
    #[inline(always)] // one of its callers is the loop over requests
    pub(crate) fn begin(&mut self, channel: Rc<dyn Channel>, now: u64) {
        channel.figures().request_began();
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
    fn close_inlet(&self) {
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
    fn answered(self: &Rc<Self>) {
        self.if_extras(|extras| extras.canceller.take());
        self.leave_to_handles();
    }

    /// A Deferred is waited for; if the peer has left already, for nothing.
    pub(crate) fn set_canceller(&self, canceller: Canceller) {
        let is_shielded = self.extras().shielded;
        match self.phase.get() {
            _ if is_shielded => {}
            Phase::Lost => canceller.cancel(),
            _ => self.extras().canceller = Some(canceller),
        }
    }

    /// What is waited for goes on without its peer.
    pub(crate) fn shield(&self) {
        let mut extras = self.extras();
        extras.shielded = true;
        extras.canceller = None;
    }

    /// Nobody is left who could answer.
    fn check_forgotten(self: &Rc<Self>) {
        if self.is_finished() || self.answer_pending.get() || self.handles.get() > 0 {
            return;
        }
        log::error!(target: "dosimeter::web", "{} was dropped without an answer", self.describe());
        self.tell_watchers(&Abandoned);
        self.fail();
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

    /// Whether a producer is on the transport from now on; returns whether one was.
    pub(crate) fn set_producing(&self, producing: bool) -> bool {
        mem::replace(&mut self.extras().producing, producing)
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

    /// Has the answer set a cookie, in place of one with the same identity.
    pub(crate) fn set_cookie(&self, identity: String, line: HeaderValue) {
        let cookies = &mut self.extras().cookies;
        cookies.retain(|(known, _)| *known != identity);
        cookies.push((identity, line));
    }

    /// From here on error pages are made so.
    pub(crate) fn set_pages(&self, pages: Rc<PageMaker>) {
        // What counted before is dropped after the cell is free again: its drop is user code.
        let _before = self.extras().pages.replace(pages);
    }

    /// Keeps `note` until the request is over.
    pub(crate) fn add_note(&self, note: Rc<dyn Any>) {
        self.extras().notes.push(note);
    }

    pub(crate) fn find_note<T: 'static>(&self, is_wanted: impl Fn(&T) -> bool) -> Option<Rc<T>> {
        self.if_extras(|extras| {
            let mut notes = extras.notes.iter().filter_map(|note| note.clone().downcast::<T>().ok());
            notes.find(|note| is_wanted(note))
        })
    }

    /// Appends what the request was given for the head of its answer, which is mostly nothing.
    fn append_fields(&self, out: &mut Vec<u8>) {
        let fields = self.fields.borrow();
        if !fields.is_empty() {
            out.extend_from_slice(&fields);
        }
        if self.has_extras.get() {
            let cookies = &self.extras.borrow().cookies;
            cookies.iter().for_each(|(_, line)| push_field(out, &::http::header::SET_COOKIE, line));
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

    fn send_body(&self, data: &[u8]) -> Result<(), ExcessBody> {
        let mut sent = Ok(());
        self.send(|engine, out| sent = engine.send_body(out, data));
        sent
    }

    /// What the coding makes of a step, if the body goes through one.
    fn coded<R>(&self, step: impl FnOnce(&mut dyn Coding, &mut Vec<u8>) -> R) -> Option<(Vec<u8>, R)> {
        self.if_extras(|extras| {
            let mut coded = Vec::new();
            let done = step(&mut **extras.coding.as_mut()?, &mut coded);
            Some((coded, done))
        })
    }

    fn take_coding(&self) -> Option<Box<dyn Coding>> {
        self.if_extras(|extras| extras.coding.take())
    }

    fn set_flush_due(&self, due: bool) -> bool {
        mem::replace(&mut self.extras().flush_due, due)
    }

    /// A coding holds back what it could say shorter together with what follows. The peer is not to wait for that, but the
    /// other writes of this turn may.
    fn flush_soon(self: &Rc<Self>) {
        if self.set_flush_due(true) {
            return;
        }
        let exchange = Rc::downgrade(self);
        self.channel().transport().reactor().call_soon(move || {
            if let Some(exchange) = exchange.upgrade() {
                exchange.flush();
            }
        });
    }

    fn flush(&self) {
        self.set_flush_due(false);
        if let Some((coded, ())) = self.coded(|coding, out| coding.flush(out)) {
            self.send_body(&coded).expect("what is coded has no announced length");
        }
    }

    /// Sends the head if it was not sent yet.
    fn start(&self) {
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
            self.append_fields(out);
            engine.end_head(out);
        });
    }

    fn begin_coding(&self, status: StatusCode) {
        let Some(mut coding) = self.take_coding() else { return };
        if coding.begin(status, self.length.get(), &mut self.fields.borrow_mut()) {
            self.length.set(None);
            if !self.is_bodiless() {
                self.extras().coding = Some(coding);
            }
        }
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
                return self.break_off();
            }
            self.send_body(&coded).expect("what is coded has no announced length");
        }
        self.end(self.status.get(), crate::http::Connection::finish);
    }

    /// Sends a whole response, or what is sent in place of the page of an error.
    pub(crate) fn respond(self: &Rc<Self>, response: &Response) {
        match self.page_in_place_of(response) {
            None => self.send_whole(response),
            Some(page) => self.send_whole(&page),
        }
    }

    fn page_in_place_of(self: &Rc<Self>, response: &Response) -> Option<Response> {
        response.error_text().filter(|_| !self.is_finished())?;
        let of_tree = self.if_extras(|extras| extras.pages.clone());
        let maker = of_tree.or_else(|| self.channel().error_pages())?;
        // The handle that the function gets is not one that is dropped without an answer.
        let was_pending = self.answer_pending.replace(true);
        let page = maker(Some(self), response);
        self.answer_pending.set(was_pending);
        page
    }

    /// Puts what is sent in place of the page of an error there now; nobody is asked for it again.
    #[cfg(feature = "gzip")]
    pub(crate) fn settle_page(self: &Rc<Self>, response: &mut Response) {
        if let Some(page) = self.page_in_place_of(response) {
            *response = page;
        }
        response.settle();
    }

    fn send_whole(&self, response: &Response) {
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
                self.append_fields(out);
            })
        });
    }

    /// Answers with 500, or closes the connection when the response has begun: the peer must not take what it has for whole.
    pub(crate) fn fail(self: &Rc<Self>) {
        if self.is_finished() {
            return;
        }
        if self.is_started() {
            return self.break_off();
        }
        self.start_over();
        self.respond(&Response::internal_error());
    }

    /// Forgets what was said of a response that has not begun: it was meant for another one.
    pub(crate) fn start_over(&self) {
        self.status.set(StatusCode::OK);
        self.length.set(None);
        self.fields.borrow_mut().clear();
        self.has_content_type.set(false);
    }

    /// The resource's answer, through what it returned.
    pub(crate) fn answer(self: &Rc<Self>, response: &Response) {
        if self.is_finished() {
            if !self.is_lost() {
                log::warn!(target: "dosimeter::web", "{} was answered twice; the second answer is dropped", self.describe());
            }
        } else if self.is_started() {
            log::error!(target: "dosimeter::web", "{} was answered in the middle of another answer", self.describe());
            self.fail();
        } else {
            self.respond(response);
        }
        self.answered();
    }

    /// The resource failed: with an error that knows its answer, or with 500. When the peer has left, a cancellation is what
    /// was to be expected.
    pub(crate) fn answer_failure(self: &Rc<Self>, failure: &Failure) {
        if let Some(channel) = &self.channel {
            channel.transport().reactor().count_panic(failure);
        }
        self.tell_watchers(failure.error());
        let known = self.answer_of(failure);
        if known.as_ref().is_some_and(|response| response.status().is_client_error()) {
            log::debug!(target: "dosimeter::web", "{} is refused: {}", self.describe(), failure.report());
        } else if !(self.is_lost() && failure.is::<Cancelled>()) {
            failure.log("dosimeter::web", format_args!("{} failed", self.describe()));
        }
        match known {
            Some(response) if !self.is_started() => {
                self.start_over();
                self.respond(&response);
            }
            _ => self.fail(),
        }
        self.answered();
    }

    /// The answer that the failure knows by itself, of a resource that may still give one.
    fn answer_of(&self, failure: &Failure) -> Option<Response> {
        let known = if self.is_started() { None } else { response_of(failure) };
        known.or_else(|| self.fault_of_peer(failure))
    }

    /// What became of a body that is taken as it comes is no failure of the resource, whatever it has sent by then.
    fn fault_of_peer(&self, failure: &Failure) -> Option<Response> {
        self.inlet()?;
        let refused = failure.find::<Refusal>().map(|refusal| refusal.status());
        let status = refused.or_else(|| failure.find::<Disconnected>().map(|_| StatusCode::BAD_REQUEST))?;
        let brief = status.canonical_reason().unwrap_or("Refused");
        Some(Response::error_page(status, brief, "The body of the request could not be read."))
    }

    fn describe(&self) -> String {
        format!("{} {}", self.head.method(), self.head.target())
    }

    /// The answer cannot be completed. It counts as one with 500, whatever its head said.
    fn break_off(&self) {
        self.phase.set(Phase::Finished);
        self.take_coding();
        self.close_inlet();
        self.status.set(StatusCode::INTERNAL_SERVER_ERROR);
        self.count(self.status.get());
        let channel = self.channel();
        channel.figures().settle(|| channel.transport().reactor().present_nanos());
        channel.transport().abort_connection();
        for waiter in self.take_waiters() {
            waiter.failed(Failure::from("the answer failed after it had begun"));
        }
    }

    fn end(&self, status: StatusCode, encode: impl FnOnce(&mut crate::http::Connection, &mut Vec<u8>) -> Finished) {
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

    /// Ends what goes with the request, and tells those who wait for that.
    fn end_extras(&self, whole: bool) {
        self.extras().canceller = None;
        self.close_inlet();
        self.end_producing();
        if !whole {
            self.tell_watchers(&*Box::<dyn Error>::from("the answer is shorter than announced"));
        }
        self.take_waiters().into_iter().for_each(Waiter::finished);
    }

    /// A producer that is still there would write into the answer to the next request.
    fn end_producing(&self) {
        let transport = self.channel().transport();
        // When the peer leaves it is stopped, in which it may well finish the request.
        if self.set_producing(false) && transport.is_connected() {
            log::error!(target: "dosimeter::web", "{} was finished with a producer on it", self.describe());
            transport.unregister_producer();
        }
    }

    fn send(&self, encode: impl FnOnce(&mut crate::http::Connection, &mut Vec<u8>)) {
        let channel = self.channel();
        channel.transport().write_with(|out| encode(&mut channel.engine().borrow_mut(), out));
    }

    fn count(&self, status: StatusCode) {
        if let Some(route) = &*self.route.borrow() {
            let channel = self.channel();
            let now = || channel.transport().reactor().present_nanos();
            channel.figures().request_ended(route, self.head.method(), status, self.began, now);
        }
    }

    /// The peer is gone.
    pub(crate) fn lose(&self, reason: ConnectionLost) {
        if self.is_finished() {
            return;
        }
        self.phase.set(Phase::Lost);
        self.take_coding();
        if let Some(route) = &*self.route.borrow() {
            self.channel().figures().request_aborted(route);
        }
        let reason = Disconnected::new(reason);
        // A producer is stopped by its transport.
        (self.extras().lost, self.extras().producing) = (Some(reason.clone()), false);
        if let Some(inlet) = self.inlet() {
            inlet.lose(reason.clone());
        }
        for waiter in self.take_waiters() {
            waiter.failed(Failure::new(reason.clone()));
        }
        if let Some(canceller) = self.if_extras(|extras| extras.canceller.take()) {
            canceller.cancel();
        }
    }

    pub(crate) fn add_waiter(&self, waiter: Completer<()>) {
        self.extras().waiters.push(Waiter::Chain(waiter));
    }

    /// Has `watcher` told how the exchange goes; at once if it is over.
    pub(crate) fn watch(&self, watcher: Rc<dyn Watcher>) {
        if self.is_finished() {
            return watcher.end(None);
        }
        self.extras().waiters.push(Waiter::Watcher(watcher));
    }

    /// Everybody who waits, once.
    fn take_waiters(&self) -> Vec<Waiter> {
        let mut extras = self.extras();
        let mut waiters = mem::take(&mut extras.waiters);
        waiters.extend(extras.drain_waiters.drain(..).map(Waiter::Chain));
        waiters
    }

    /// Tells of a failure that will be answered for. Out of their cell meanwhile: it is user code that they call.
    fn tell_watchers(&self, error: &(dyn Error + 'static)) {
        let waiters = mem::take(&mut self.extras().waiters);
        for waiter in &waiters {
            if let Waiter::Watcher(watcher) = waiter {
                watcher.settle(Some(error));
            }
        }
        self.extras().waiters.splice(..0, waiters);
    }

    pub(crate) fn add_drain_waiter(&self, waiter: Completer<()>) {
        self.extras().drain_waiters.push(waiter);
    }

    /// The peer has read what was written.
    pub(crate) fn drained(&self) {
        let waiters = self.if_extras(|extras| Some(mem::take(&mut extras.drain_waiters)));
        for waiter in waiters.into_iter().flatten() {
            waiter.callback(());
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

/// What a wrapper around resources does to their answers.
#[cfg(feature = "gzip")]
impl Exchange {
    /// Has what is written piece by piece pass through `coding`.
    pub(crate) fn set_coding(&self, coding: Box<dyn Coding>) {
        self.extras().coding = Some(coding);
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status.get()
    }

    pub(crate) fn reactor(&self) -> &Reactor {
        self.channel().transport().reactor()
    }

    /// Puts the fields of a response to those that were given here, so that they can be looked at together.
    pub(crate) fn take_fields_of(&self, response: &mut Response) {
        for (name, value) in response.take_fields() {
            self.add_header(&name, &value);
        }
    }

    /// Has `edit` change the encoded lines of the head.
    pub(crate) fn edit_fields<R>(&self, edit: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        edit(&mut self.fields.borrow_mut())
    }
}

/// What nginx logs for a client that left before its answer was whole; HTTP has no status for it.
const CLIENT_LEFT: u16 = 499;

/// The room of a larger body is given back after the request: a server that once saw an upload need not keep it.
const MAX_KEPT_BODY: usize = 16 * 1024;
