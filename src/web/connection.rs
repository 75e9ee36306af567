//! One HTTP connection: reads requests, has them answered, and closes.
//!
//! Rules kept here:
//! - One request at a time: the next one is read when the answer to this one is whole, so answers keep the order of requests.
//!   A thousand pipelined requests in one read are handled in a loop.
//! - What was read and cannot be used yet is kept up to a limit, then reading pauses. A peer that does not read its answers is
//!   not read from either.
//! - After a refusal nothing more is taken for a request.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::buffer::Pending;
use crate::clock::{Clock, DelayedCall};
use crate::failure::{Result, guard};
use crate::http::{self as engine, BodyFraming, Event, Finished, Refusal};
use crate::net::{ConnectionLost, Protocol, Transport};
use crate::reactor::Reactor;
use crate::web::answer::ask;
use crate::web::body::Inlet;
use crate::web::encode::encode_response;
use crate::web::exchange::{Channel, Exchange, PageMaker};
use crate::web::forwarded::TrustedProxies;
use crate::web::metrics::{Closed, HttpFigures, Rejected};
use crate::web::patience::Patience;
use crate::web::request::Request;
use crate::web::resource::accepts_stream;
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

/// Reading.
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

    pub(super) fn data_received(self: &Rc<Self>, data: &[u8]) {
        if matches!(self.phase.get(), Phase::Lingering | Phase::Closing) {
            return self.patience.set(self.patience.get().after_input());
        }
        let unused = match self.unused.take() {
            None => {
                let used = self.use_input(data);
                self.buffered(&data[used..])
            }
            Some(mut unused) => {
                unused.bytes.extend_from_slice(data);
                let used = self.use_input(unused.rest());
                unused.advance(used);
                Some(unused)
            }
        };
        self.keep(unused);
        if self.phase.get() == Phase::Closing {
            self.close();
        }
    }

    pub(super) fn current_exchange(&self) -> Option<Rc<Exchange>> {
        let exchange = self.exchange.take();
        self.exchange.set(exchange.clone());
        exchange
    }

    fn buffered(&self, data: &[u8]) -> Option<Box<Pending>> {
        if data.is_empty() {
            return None;
        }
        let mut pending = self.reactor().buffers().take();
        pending.bytes.extend_from_slice(data);
        Some(pending)
    }

    /// Goes on with what was kept: the answer it waited for is finished, or the peer has read.
    pub(super) fn go_on(self: &Rc<Self>) {
        match self.phase.get() {
            Phase::Reading | Phase::Discarding => self.data_received(&[]),
            Phase::Handling if self.streaming.get() => self.data_received(&[]),
            Phase::Lingering if self.half_closed.get() => self.transport().lose_connection(),
            Phase::Handling | Phase::Lingering | Phase::Closing => {}
        }
    }

    /// The peer has closed its sending side. While it waits for an answer it may have left altogether.
    fn end_of_input(self: &Rc<Self>) {
        self.half_closed.set(true);
        self.go_on();
        self.mind_half_closed();
    }

    /// Gives a peer that has closed its sending side a time to be answered in.
    fn mind_half_closed(self: &Rc<Self>) {
        if self.half_closed.get() && self.phase.get() == Phase::Handling && !self.awaits_body() {
            self.sends_before.set(self.transport().sends());
            self.set_deadline(self.site.limits.half_closed);
        }
    }

    /// Keeps what cannot be used yet. It belongs to a request that is behind the one being handled, or to an incomplete
    /// head, which the engine limits by itself.
    fn keep(&self, unused: Option<Box<Pending>>) {
        let Some(unused) = unused else { return };
        if unused.rest().is_empty() {
            return self.reactor().buffers().give_back(unused);
        }
        let is_much = self.phase.get() == Phase::Handling && unused.rest().len() > self.site.limits.read_ahead;
        if is_much && !self.awaits_body() {
            self.transport().pause_reading();
            self.count_pause();
        }
        self.unused.set(Some(unused));
    }

    pub(super) fn resume_reading(&self) {
        self.transport().resume_reading();
        if self.paused.get() {
            self.count_pause();
        }
    }

    fn backlog_grown(&self, bytes: isize) {
        if let Some((_, figures)) = self.wire.get() {
            figures.backlog_grown(bytes);
            self.count_pause();
        }
    }

    /// Counts whether the connection is paused, after anything that may have changed it.
    fn count_pause(&self) {
        let paused = self.transport().is_held_up();
        if self.paused.replace(paused) != paused {
            self.figures().connection_paused(paused);
        }
    }

    pub(super) fn has_unused(&self) -> bool {
        let unused = self.unused.take();
        let some = unused.is_some();
        self.unused.set(unused);
        some
    }

    /// Reads what is in `input` and returns how much of it is used up.
    fn use_input(self: &Rc<Self>, input: &[u8]) -> usize {
        self.looping.set(Looping::Yes);
        let mut used = self.read_requests(input);
        while self.streaming.get() {
            let count = self.read_stream(&input[used..]);
            used += count;
            if self.streaming.get() && (count == 0 || used == input.len()) {
                break;
            }
            used += self.read_requests(&input[used..]);
        }
        if self.looping.replace(Looping::No) == Looping::Answered {
            self.settle_answers();
        }
        self.mind_half_closed();
        used
    }

    /// Handles the requests in `input` and returns how much of it is used up.
    fn read_requests(self: &Rc<Self>, input: &[u8]) -> usize {
        let mut used = 0;
        while self.wants_request(used == input.len()) {
            let (mut exchange, limits) = match self.exchange.take() {
                Some(exchange) => (exchange, &self.site.limits.request),
                None => (self.site.spare_exchange(), &self.site.head_limits),
            };
            let unshared = Rc::get_mut(&mut exchange).expect("nobody else knows a request that is still being read");
            let (count, event) = self.engine.borrow_mut().receive(&input[used..], &mut unshared.head, limits);
            used += count;
            match event {
                Event::Head => self.head_received(exchange),
                Event::Data(data) => {
                    unshared.body.extend_from_slice(data);
                    self.exchange.set(Some(exchange));
                }
                Event::End => self.handle(exchange),
                Event::NeedData => {
                    self.wait_for_more(exchange, used < input.len());
                    break;
                }
                Event::Refused(refusal) => {
                    self.site.recycle(exchange);
                    self.refuse(refusal);
                }
                Event::Paused | Event::Closed => {
                    self.site.recycle(exchange);
                    break;
                }
            }
        }
        used
    }

    /// Whether to look for a request now. A peer that does not read its answers gets no further ones: they would pile up
    /// here, a thousand times the size of what it sent.
    fn wants_request(&self, input_is_used_up: bool) -> bool {
        if self.phase.get() != Phase::Reading || !self.transport().takes_more() {
            return false;
        }
        !input_is_used_up || self.half_closed.get() || !self.engine.borrow().is_idle()
    }

    fn head_received(self: &Rc<Self>, mut exchange: Rc<Exchange>) {
        let unshared = Rc::get_mut(&mut exchange).expect("nobody else knows a request that is still being read");
        let now = self.reactor().timers().nanos();
        unshared.head_came(now);
        if let Some(objection) = exchange.head.objection()
            && !self.is_overruled(objection)
        {
            return self.refuse_wanted(exchange, objection);
        }
        match exchange.head.framing() {
            BodyFraming::Length(0) => self.whole_with_its_head(exchange, now),
            framing => self.expect_body(exchange, framing),
        }
    }

    /// Handles a request that has no body: most have none, and once more around the loop would cost each of them a tenth of
    /// its time.
    #[inline(always)] // its one caller is the loop over requests
    fn whole_with_its_head(self: &Rc<Self>, exchange: Rc<Exchange>, now: u64) {
        self.engine.borrow_mut().end_without_body();
        self.handle_at(now, exchange);
    }

    /// Settles who gets the body, and whether it is wanted at all, before the client is told to send it.
    fn expect_body(self: &Rc<Self>, mut exchange: Rc<Exchange>, framing: BodyFraming) {
        if self.is_stream_wanted(&mut exchange) {
            return self.handle_stream(exchange);
        }
        if matches!(framing, BodyFraming::Length(length) if length > self.site.limits.request.body) {
            return self.refuse_wanted(exchange, Refusal::BodyTooLarge);
        }
        self.send_continue();
        self.exchange.set(Some(exchange));
    }

    /// Refuses what the engine would have taken.
    fn refuse_wanted(self: &Rc<Self>, exchange: Rc<Exchange>, refusal: Refusal) {
        self.site.recycle(exchange);
        self.engine.borrow_mut().refuse(refusal);
        self.refuse(refusal);
    }

    /// Whether this site takes what another one has to refuse.
    fn is_overruled(&self, objection: Refusal) -> bool {
        match objection {
            Refusal::Misdirected => {
                self.proxies().is_some_and(|proxies| proxies.trusts_peer(&self.transport().peer_addr()))
            }
            Refusal::PartialPut => self.site.accepts_partial_put.get(),
            _ => false,
        }
    }

    /// Asks the resource. One that fails at this is rendered at once, where it may fail again and be answered for.
    fn is_stream_wanted(self: &Rc<Self>, exchange: &mut Rc<Exchange>) -> bool {
        Rc::get_mut(exchange).expect("nobody else knows a request that is still being read").attach(self.clone());
        exchange.expect_answer();
        let request = Request::new(exchange.clone());
        let wanted = guard(|| accepts_stream(self.site.root.clone(), &request));
        drop(request);
        Rc::get_mut(exchange).expect("nobody was given more than a reference").detach();
        wanted.unwrap_or_else(|failure| {
            self.reactor().count_panic(&failure);
            failure.log("dosimeter::web", format_args!("accepts_stream failed"));
            false
        })
    }

    pub(super) fn send_continue(&self) {
        if self.engine.borrow().continue_expected() {
            self.transport().write_with(|out| self.engine.borrow_mut().send_continue(out));
        }
    }

    fn wait_for_more(self: &Rc<Self>, exchange: Rc<Exchange>, partial: bool) {
        if self.half_closed.get() {
            self.site.recycle(exchange);
            self.phase.set(Phase::Closing);
        } else if self.engine.borrow().in_body() {
            self.set_body_deadline(&exchange);
            self.exchange.set(Some(exchange));
        } else {
            self.site.recycle(exchange);
            // A head gets one deadline for all of it: bytes that trickle in do not move it.
            if partial && !self.head_begun.replace(true) {
                self.set_deadline(self.site.limits.head_timeout);
            }
        }
    }

    /// What came of a body earns it time; the rest of it has to come as fast.
    fn set_body_deadline(self: &Rc<Self>, exchange: &Exchange) {
        let spent = Duration::from_nanos(self.reactor().timers().nanos() - exchange.began());
        self.set_deadline(self.body_time(exchange.body.len() as u64).saturating_sub(spent));
    }

    /// How long a body may have taken of which so much has come.
    pub(super) fn body_time(&self, received: u64) -> Duration {
        let limits = &self.site.limits;
        limits.body_timeout.saturating_add(Duration::from_secs(received / limits.body_rate.max(1)))
    }
}

/// Answering.
impl Connection {
    /// Has a request answered.
    fn handle(self: &Rc<Self>, exchange: Rc<Exchange>) {
        self.handle_at(self.reactor().timers().nanos(), exchange);
    }

    #[inline(always)] // one of its callers is the loop over requests
    fn handle_at(self: &Rc<Self>, now: u64, mut exchange: Rc<Exchange>) {
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
    fn handle_stream(self: &Rc<Self>, mut exchange: Rc<Exchange>) {
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

impl Connection {
    pub(super) fn reactor(&self) -> &Reactor {
        self.transport().reactor()
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
