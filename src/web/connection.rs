//! One HTTP connection: what it consists of, and how its requests are answered. How they are read is in `reading.rs`, how it
//! ends in `closing.rs`.
//!
//! Rules kept here:
//! - One request at a time: the next one is read when the answer to this one is whole, so answers keep the order of requests.
//! - After a refusal nothing more is taken for a request.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use crate::buffer::Pending;
use crate::clock::{Clock, DelayedCall};
use crate::failure::Result;
use crate::http::{self as engine, Finished, Refusal};
use crate::net::{ConnectionLost, Protocol, Transport};
use crate::reactor::Reactor;
use crate::web::answer::ask;
use crate::web::body::Inlet;
use crate::web::encode::encode_response;
use crate::web::exchange::{Channel, Exchange, PageMaker};
use crate::web::forwarded::TrustedProxies;
use crate::web::metrics::{Closed, HttpFigures, Rejected};
use crate::web::patience::Patience;
use crate::web::response::Response;
use crate::web::shared::Shared;

/// The protocol of one HTTP connection; what a [`Site`](super::Site) builds.
pub struct HttpProtocol(Rc<Connection>);

impl HttpProtocol {
    pub(crate) fn new(site: Rc<Shared>) -> Self {
        HttpProtocol(Connection::new(site))
    }
}

impl fmt::Debug for HttpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpProtocol({:?})", self.0.phase.get())
    }
}

impl Protocol for HttpProtocol {
    fn connection_made(&mut self, transport: &Transport) -> Result<()> {
        self.0.start(transport);
        Ok(())
    }

    fn data_received(&mut self, _transport: &Transport, data: &[u8]) -> Result<()> {
        self.0.data_received(data);
        Ok(())
    }

    fn read_connection_lost(&mut self, _transport: &Transport) -> Result<()> {
        self.0.end_of_input();
        Ok(())
    }

    fn resume_writing(&mut self, _transport: &Transport) -> Result<()> {
        if let Some(exchange) = self.0.current_exchange() {
            exchange.drained();
        }
        self.0.go_on();
        Ok(())
    }

    fn called_up(&mut self, _transport: &Transport) -> Result<()> {
        self.0.mind_drain();
        Ok(())
    }

    fn backlog_grown(&mut self, _transport: &Transport, bytes: isize) {
        self.0.backlog_grown(bytes);
    }

    fn connection_lost(&mut self, _transport: &Transport, reason: ConnectionLost) {
        self.0.lose(reason);
    }
}

/// One HTTP connection: reads requests, has them answered. There is one for every idle client, so it is kept small.
pub(super) struct Connection {
    pub(super) site: Rc<Shared>,
    /// Set when the connection is made, with what needs its reactor.
    pub(super) wire: OnceCell<(Transport, Rc<HttpFigures>)>,
    pub(super) engine: RefCell<engine::Connection>,
    /// What was read and not used yet.
    pub(super) unused: Cell<Option<Box<Pending>>>,
    /// The request being read or handled.
    pub(super) exchange: Cell<Option<Rc<Exchange>>>,
    pub(super) deadline: Cell<Option<DelayedCall>>,
    /// What the peer's system had taken when the deadline was last looked at.
    pub(super) sends_before: Cell<u32>,
    /// How many requests were handled.
    pub(super) requests: Cell<u32>,
    pub(super) phase: Cell<Phase>,
    /// Why it will be closed, once that is known.
    pub(super) closed: Cell<Option<Closed>>,
    /// Whether a loop that will go on with the input is further down the stack.
    pub(super) looping: Cell<Looping>,
    /// The deadline is that of the current head.
    pub(super) head_begun: Cell<bool>,
    /// The peer sends nothing more.
    pub(super) half_closed: Cell<bool>,
    /// The body of the current request is a stream, or was, and its end has not come.
    pub(super) streaming: Cell<bool>,
    /// It is counted among those that are paused.
    pub(super) paused: Cell<bool>,
    /// What of it is left for a peer that may send on behind its last answer.
    pub(super) patience: Cell<Patience>,
}

/// Whether the input is being gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looping {
    No,
    Yes,
    /// It is, and an answer was finished in there.
    Answered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waiting for a request, or for the rest of one.
    Reading,
    /// A resource has the request.
    Handling,
    /// The answer is whole; the rest of the request is dropped as it comes.
    Discarding,
    /// The last answer is sent or being sent; what still comes is dropped until the peer closes.
    Lingering,
    /// To be closed when the last answer is sent.
    Closing,
}

/// Beginning.
impl Connection {
    fn new(site: Rc<Shared>) -> Rc<Self> {
        Rc::new(Connection {
            site,
            wire: OnceCell::new(),
            engine: RefCell::default(),
            unused: Cell::default(),
            exchange: Cell::default(),
            deadline: Cell::default(),
            sends_before: Cell::new(0),
            requests: Cell::new(0),
            phase: Cell::new(Phase::Reading),
            closed: Cell::new(None),
            looping: Cell::new(Looping::No),
            head_begun: Cell::new(true),
            half_closed: Cell::new(false),
            streaming: Cell::new(false),
            paused: Cell::new(false),
            patience: Cell::default(),
        })
    }

    fn start(self: &Rc<Self>, transport: &Transport) {
        let figures = HttpFigures::of(transport.reactor());
        if let Err(why) = self.site.admit(&transport.peer_addr()) {
            return self.turn_away(transport, &figures, why);
        }
        figures.connection_made();
        self.site.draining.note_reactor(&figures, transport.reactor());
        if self.wire.set((transport.clone(), figures)).is_ok() {
            self.set_deadline(self.site.limits.head_timeout);
            self.mind_drain();
        }
    }

    /// Closes a connection that is one too many, without a word: what is over the limits must not cost what is within.
    fn turn_away(&self, transport: &Transport, figures: &HttpFigures, why: Rejected) {
        log::debug!(target: "dosimeter::web", "{}: turned away, {why:?}", transport.peer_addr());
        figures.connection_rejected(why);
        self.phase.set(Phase::Closing);
        transport.lose_connection();
    }

    pub(super) fn reactor(&self) -> &Reactor {
        self.transport().reactor()
    }

    pub(super) fn current_exchange(&self) -> Option<Rc<Exchange>> {
        let exchange = self.exchange.take();
        self.exchange.set(exchange.clone());
        exchange
    }
}

/// Answering.
impl Connection {
    /// Has a request answered.
    pub(super) fn handle(self: &Rc<Self>, exchange: Rc<Exchange>) {
        self.handle_at(self.reactor().timers().nanos(), exchange);
    }

    #[inline(always)] // one of its callers is the loop over requests
    pub(super) fn handle_at(self: &Rc<Self>, now: u64, mut exchange: Rc<Exchange>) {
        self.phase.set(Phase::Handling);
        self.count_request();
        let unshared = Rc::get_mut(&mut exchange).expect("nobody else knows a request that is still being read");
        unshared.begin(self.clone(), now);
        self.exchange.set(Some(exchange.clone()));
        ask(self.site.root.clone(), &exchange);
        self.site.recycle(exchange);
    }

    fn count_request(&self) {
        let count = self.requests.get().wrapping_add(1);
        self.requests.set(count);
        if count == self.site.limits.requests_per_connection {
            self.note_end(Closed::Limit);
            self.engine.borrow_mut().close_after();
        }
    }

    /// Has a request answered whose body is still to come.
    pub(super) fn handle_stream(self: &Rc<Self>, mut exchange: Rc<Exchange>) {
        self.streaming.set(true);
        let unshared = Rc::get_mut(&mut exchange).expect("nobody else knows a request that is still being read");
        unshared.set_inlet(Inlet::new(self.clone(), self.site.limits.stream_buffer));
        self.handle(exchange);
    }

    /// Answers what is no request, and lets the peer read the answer before the connection goes.
    pub(super) fn refuse(self: &Rc<Self>, refusal: Refusal) {
        self.note_refusal(refusal);
        self.exchange.take();
        self.note_end(Closed::Refused);
        let status = refusal.status();
        let brief = status.canonical_reason().unwrap_or("Refused");
        let plain = Response::error_page(status, brief, refusal.for_peer());
        let page = self.site.error_pages().and_then(|make| make(None, &plain)).unwrap_or(plain);
        self.transport().write_with(|out| {
            let _ = encode_response(out, &mut self.engine.borrow_mut(), status, &page, |out| {
                self.standing_fields(out);
                page.default_content_type(out);
            });
        });
        if let Some(log) = self.site.access_log.get() {
            log.note(None, self.peer_ip(), status, self.reactor().timers().nanos());
        }
        self.linger();
    }

    /// A request is over.
    pub(super) fn log_access(&self, exchange: Option<&Exchange>) {
        if let (Some(log), Some(exchange)) = (self.site.access_log.get(), exchange) {
            let now = self.reactor().present_nanos();
            log.note(Some(exchange), exchange.client_addr(), exchange.final_status(), now);
        }
    }

    fn peer_ip(&self) -> Option<IpAddr> {
        Some(self.transport().peer_addr().socket_addr()?.ip())
    }

    pub(super) fn note_refusal(&self, refusal: Refusal) {
        log::debug!(target: "dosimeter::web", "{}: {refusal}", self.transport().peer_addr());
        self.figures().refused(refusal);
    }

    /// What is done once for all the answers of a loop.
    pub(super) fn settle_answers(self: &Rc<Self>) {
        self.figures().settle(|| self.reactor().present_nanos());
        if self.phase.get() == Phase::Reading && self.engine.borrow().is_idle() {
            self.set_deadline(self.site.limits.idle_timeout);
        }
    }

    /// An answer is finished outside of the loop, maybe in the middle of somebody's callback: the next request is not handled
    /// in there, or a thousand clients who wait for one another would be a thousand frames deep.
    pub(super) fn next_request(self: &Rc<Self>) {
        self.resume_reading();
        if self.has_unused() || self.half_closed.get() {
            let connection = self.clone();
            self.reactor().call_soon(move || connection.go_on());
        }
    }
}

impl Channel for Connection {
    fn engine(&self) -> &RefCell<engine::Connection> {
        &self.engine
    }

    fn transport(&self) -> &Transport {
        &self.wire.get().expect("set when the connection was made, before anything else").0
    }

    fn figures(&self) -> &HttpFigures {
        &self.wire.get().expect("set when the connection was made, before anything else").1
    }

    fn standing_fields(&self, out: &mut Vec<u8>) {
        self.site.standing_fields(out, self.reactor().timers().nanos());
    }

    fn error_pages(&self) -> Option<Rc<PageMaker>> {
        self.site.error_pages()
    }

    fn proxies(&self) -> Option<&TrustedProxies> {
        self.site.proxies.get()
    }

    fn response_finished(self: Rc<Self>, finished: Finished) {
        let exchange = self.exchange.take();
        self.head_begun.set(false);
        if self.site.access_log.get().is_some() {
            self.log_access(exchange.as_deref());
        }
        match finished {
            Finished::KeepAlive if self.streaming.get() => self.leave_body(),
            Finished::KeepAlive => self.phase.set(Phase::Reading),
            Finished::Close => {
                self.note_end(Closed::Answered);
                self.phase.set(Phase::Closing);
                // It may have sent on before it knew.
                if exchange.is_some_and(|exchange| exchange.head.keep_alive()) {
                    self.patience.set(Patience::ALL);
                }
            }
            // The peer must not take what it got for the whole.
            Finished::Short(_) => {
                self.note_end(Closed::Aborted);
                self.transport().abort_connection();
            }
        }
        if self.looping.get() != Looping::No {
            return self.looping.set(Looping::Answered);
        }
        self.settle_answers();
        match self.phase.get() {
            Phase::Reading | Phase::Discarding => self.next_request(),
            Phase::Closing => self.close(),
            Phase::Handling | Phase::Lingering => {}
        }
    }

    fn body_is_over(&self) {
        if self.streaming.get() && !self.is_rest_small() {
            self.engine.borrow_mut().close_after();
        }
    }
}

/// Figures.
impl Connection {
    fn backlog_grown(&self, bytes: isize) {
        if let Some((_, figures)) = self.wire.get() {
            figures.backlog_grown(bytes);
            self.count_pause();
        }
    }

    /// Counts whether the connection is paused, after anything that may have changed it.
    pub(super) fn count_pause(&self) {
        let paused = self.transport().is_held_up();
        if self.paused.replace(paused) != paused {
            self.figures().connection_paused(paused);
        }
    }
}

#[cfg(test)]
mod tests {
    /// Ten thousand idle clients are ten thousand of these.
    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<super::Connection>() <= 136, "{}", size_of::<super::Connection>());
    }
}
