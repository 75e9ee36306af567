//! One HTTP connection: reads requests, has them answered, and closes.
//!
//! Rules kept here:
//! - One request at a time: the next one is read when the answer to this one is whole, so answers keep the order of requests.
//!   A thousand pipelined requests in one read are handled in a loop.
//! - What was read and cannot be used yet is kept up to a limit, then reading pauses. A peer that does not read its answers is
//!   not read from either.
//! - A connection always has a deadline while it waits for the peer, and none while the peer waits for a resource.
//! - After a refusal nothing more is taken for a request; the connection is closed in a way that lets the peer read why.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::buffer::Pending;
use crate::clock::{Alarm, Clock, DelayedCall};
use crate::deferred::Deferred;
use crate::failure::{Failure, Result, guard};
use crate::http::{self as engine, Event, Finished, Refusal};
use crate::net::{ConnectionLost, Protocol, Transport};
use crate::reactor::Reactor;
use crate::web::exchange::{Channel, Exchange, encode_response};
use crate::web::metrics::HttpFigures;
use crate::web::request::Request;
use crate::web::resource::{Answer, GOES_ROUND, MAX_DELEGATIONS, Render, walk};
use crate::web::response::Response;
use crate::web::shared::Shared;

/// The protocol of one HTTP connection; what a [`Site`] builds.
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
        self.0.half_closed.set(true);
        self.0.go_on();
        Ok(())
    }

    fn resume_writing(&mut self, _transport: &Transport) -> Result<()> {
        if let Some(exchange) = self.0.current_exchange() {
            exchange.drained();
        }
        self.0.go_on();
        Ok(())
    }

    fn connection_lost(&mut self, _transport: &Transport, reason: ConnectionLost) {
        self.0.lose(reason);
    }
}

/// One HTTP connection: reads requests, has them answered. There is one for every idle client, so it is kept small.
struct Connection {
    site: Rc<Shared>,
    /// Set when the connection is made, with what needs its reactor.
    wire: OnceCell<(Transport, Rc<HttpFigures>)>,
    engine: RefCell<engine::Connection>,
    /// What was read and not used yet.
    unused: Cell<Option<Box<Pending>>>,
    /// The request being read or handled.
    exchange: Cell<Option<Rc<Exchange>>>,
    deadline: Cell<Option<DelayedCall>>,
    /// What the peer's system had taken when the deadline was last looked at.
    sends_before: Cell<u32>,
    phase: Cell<Phase>,
    /// Whether a loop that will go on with the input is further down the stack.
    in_loop: Cell<bool>,
    /// An answer was finished in the loop.
    answered: Cell<bool>,
    /// The deadline is that of the current head.
    head_begun: Cell<bool>,
    /// The peer sends nothing more.
    half_closed: Cell<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting for a request, or for the rest of one.
    Reading,
    /// A resource has the request.
    Handling,
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
            phase: Cell::new(Phase::Reading),
            in_loop: Cell::new(false),
            answered: Cell::new(false),
            head_begun: Cell::new(true),
            half_closed: Cell::new(false),
        })
    }

    fn start(self: &Rc<Self>, transport: &Transport) {
        let figures = HttpFigures::of(transport.reactor());
        figures.connection_made();
        if self.wire.set((transport.clone(), figures)).is_ok() {
            self.set_deadline(self.site.limits.head_timeout);
        }
    }

    fn data_received(self: &Rc<Self>, data: &[u8]) {
        if matches!(self.phase.get(), Phase::Lingering | Phase::Closing) {
            return;
        }
        let unused = match self.unused.take() {
            None => {
                let used = self.read_requests(data);
                self.buffered(&data[used..])
            }
            Some(mut unused) => {
                unused.bytes.extend_from_slice(data);
                let used = self.read_requests(unused.rest());
                unused.advance(used);
                Some(unused)
            }
        };
        self.keep(unused);
        if self.phase.get() == Phase::Closing {
            self.close();
        }
    }

    fn current_exchange(&self) -> Option<Rc<Exchange>> {
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
    fn go_on(self: &Rc<Self>) {
        match self.phase.get() {
            Phase::Reading => self.data_received(&[]),
            Phase::Lingering if self.half_closed.get() => self.transport().lose_connection(),
            Phase::Handling | Phase::Lingering | Phase::Closing => {}
        }
    }

    /// Keeps what cannot be used yet. It belongs to a request that is behind the one being handled, or to an incomplete
    /// head, which the engine limits by itself.
    fn keep(&self, unused: Option<Box<Pending>>) {
        let Some(unused) = unused else { return };
        if unused.rest().is_empty() {
            return self.reactor().buffers().give_back(unused);
        }
        if self.phase.get() == Phase::Handling && unused.rest().len() > self.site.limits.read_ahead {
            self.transport().pause_reading();
        }
        self.unused.set(Some(unused));
    }

    fn has_unused(&self) -> bool {
        let unused = self.unused.take();
        let some = unused.is_some();
        self.unused.set(unused);
        some
    }

    /// Handles the requests in `input` and returns how much of it is used up.
    fn read_requests(self: &Rc<Self>, input: &[u8]) -> usize {
        self.in_loop.set(true);
        let mut used = 0;
        while self.wants_request(used == input.len()) {
            let mut exchange = self.exchange.take().unwrap_or_else(|| self.site.spare_exchange());
            let unshared = Rc::get_mut(&mut exchange).expect("nobody else knows a request that is still being read");
            let (count, event) =
                self.engine.borrow_mut().receive(&input[used..], &mut unshared.head, &self.site.limits.request);
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
        self.in_loop.set(false);
        if self.answered.replace(false) {
            self.settle_answers();
        }
        used
    }

    /// Whether to look for a request now. A peer that does not read its answers gets no further ones: they would pile up
    /// here, a thousand times the size of what it sent.
    fn wants_request(&self, input_is_used_up: bool) -> bool {
        let transport = self.transport();
        if self.phase.get() != Phase::Reading || !transport.is_connected() || transport.is_congested() {
            return false;
        }
        !input_is_used_up || self.half_closed.get() || !self.engine.borrow().is_idle()
    }

    fn head_received(&self, mut exchange: Rc<Exchange>) {
        // The resource gets the whole body, so it is always wanted.
        if self.engine.borrow().continue_expected() {
            self.transport().write_with(|out| self.engine.borrow_mut().send_continue(out));
        }
        let unshared = Rc::get_mut(&mut exchange).expect("nobody else knows a request that is still being read");
        unshared.head_came(self.reactor().timers().nanos());
        self.exchange.set(Some(exchange));
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
        let limits = &self.site.limits;
        let earned = Duration::from_secs(exchange.body.len() as u64 / limits.body_rate.max(1));
        let spent = Duration::from_nanos(self.reactor().timers().nanos() - exchange.began());
        self.set_deadline(limits.body_timeout.saturating_add(earned).saturating_sub(spent));
    }
}

/// Answering.
impl Connection {
    /// Has a request answered.
    fn handle(self: &Rc<Self>, mut exchange: Rc<Exchange>) {
        self.phase.set(Phase::Handling);
        let unshared = Rc::get_mut(&mut exchange).expect("nobody else knows a request that is still being read");
        unshared.begin(self.clone(), self.reactor().timers().nanos());
        self.exchange.set(Some(exchange.clone()));
        exchange.expect_answer();
        let root = self.site.root.clone();
        let request = Request::new(exchange.clone());
        let rendered = guard(|| walk(root, request));
        self.answer(&exchange, rendered.unwrap_or_else(Render::failed));
        self.site.recycle(exchange);
    }

    /// Does what the resource said.
    fn answer(self: &Rc<Self>, exchange: &Rc<Exchange>, mut render: Render) {
        for _ in 0..MAX_DELEGATIONS {
            match render.0 {
                Answer::NotDoneYet => return exchange.leave_to_handles(),
                Answer::Response(response) => return exchange.answer(&response),
                Answer::Failed(failure) => return exchange.answer_failure(&failure),
                Answer::Deferred(later) => return self.answer_later(exchange, later),
                Answer::Resource(resource) => {
                    let request = Request::new(exchange.clone());
                    render = guard(|| walk(resource, request)).unwrap_or_else(Render::failed);
                }
            }
        }
        exchange.answer_failure(&Failure::from(GOES_ROUND));
    }

    fn answer_later(self: &Rc<Self>, exchange: &Rc<Exchange>, later: Deferred<Box<Render>>) {
        exchange.set_canceller(later.canceller());
        let (connection, exchange) = (self.clone(), exchange.clone());
        later.add_both(move |result: Result<Box<Render>>| {
            connection.answer(&exchange, result.map_or_else(Render::failed, |answer| *answer));
        });
    }

    /// Answers what is no request, and lets the peer read the answer before the connection goes.
    fn refuse(self: &Rc<Self>, refusal: Refusal) {
        log::debug!(target: "dosimeter::web", "{}: {refusal}", self.transport().peer_addr());
        self.figures().refused(refusal);
        self.exchange.take();
        let status = refusal.status();
        let brief = status.canonical_reason().unwrap_or("Refused");
        let page = Response::error_page(status, brief, &refusal.to_string());
        self.transport().write_with(|out| {
            let _ = encode_response(out, &mut self.engine.borrow_mut(), status, &page, |out| {
                self.standing_fields(out);
                page.default_content_type(out);
            });
        });
        self.linger();
    }

    /// What is done once for all the answers of a loop.
    fn settle_answers(self: &Rc<Self>) {
        self.figures().settle(|| self.reactor().present_nanos());
        if self.phase.get() == Phase::Reading && self.engine.borrow().is_idle() {
            self.set_deadline(self.site.limits.idle_timeout);
        }
    }

    /// An answer is finished outside of the loop, maybe in the middle of somebody's callback: the next request is not handled
    /// in there, or a thousand clients who wait for one another would be a thousand frames deep.
    fn next_request(self: &Rc<Self>) {
        self.transport().resume_reading();
        if self.has_unused() || self.half_closed.get() {
            let connection = self.clone();
            self.reactor().call_soon(move || connection.go_on());
        }
    }
}

/// Closing.
impl Connection {
    fn close(self: &Rc<Self>) {
        if !self.has_unused() {
            self.phase.set(Phase::Closing);
            self.transport().lose_connection();
            self.set_deadline(self.site.limits.write_timeout);
        } else {
            self.linger();
        }
    }

    /// Closing a socket with unread input makes the system send a reset, which may overtake the answer. So only the writing
    /// half is closed, and input is dropped until the peer closes as well, or for a short while.
    fn linger(self: &Rc<Self>) {
        self.phase.set(Phase::Lingering);
        self.unused.take();
        self.transport().lose_write_connection();
        self.transport().resume_reading();
        self.set_deadline(LINGER);
        // Nothing comes any more from a peer that has closed its half already.
        self.go_on();
    }

    fn set_deadline(self: &Rc<Self>, delay: Duration) {
        let deadline = self.deadline.take().filter(|deadline| deadline.reset(delay).is_ok());
        let deadline = deadline.unwrap_or_else(|| self.reactor().timers().arm_alarm(delay, self.clone()));
        self.deadline.set(Some(deadline));
    }

    fn lose(&self, reason: ConnectionLost) {
        self.phase.set(Phase::Closing);
        self.figures().connection_lost();
        if let Some(deadline) = self.deadline.take() {
            // It may just be ringing.
            let _ = deadline.cancel();
        }
        if let Some(exchange) = self.exchange.take()
            && exchange.has_begun()
        {
            exchange.lose(reason);
        }
    }
}

impl Alarm for Connection {
    fn ring(self: Rc<Self>) {
        let transport = self.transport();
        let sends = transport.sends();
        if transport.unsent() > 0 {
            // It is the peer's turn to read. As long as it does, however slowly, it is left alone.
            if self.sends_before.replace(sends) == sends {
                transport.abort_connection();
            } else {
                self.set_deadline(self.site.limits.write_timeout);
            }
            return;
        }
        match self.phase.get() {
            // The peer waits for us; the end of the answer sets the next deadline.
            Phase::Handling => self.set_deadline(self.site.limits.write_timeout),
            Phase::Reading if self.engine.borrow().is_idle() => self.close(),
            Phase::Reading => {
                self.engine.borrow_mut().refuse(Refusal::Timeout);
                self.refuse(Refusal::Timeout);
            }
            Phase::Lingering | Phase::Closing => transport.abort_connection(),
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

    fn response_finished(self: Rc<Self>, finished: Finished) {
        self.exchange.take();
        match finished {
            Finished::KeepAlive => {
                self.phase.set(Phase::Reading);
                self.head_begun.set(false);
            }
            Finished::Close => self.phase.set(Phase::Closing),
            // The peer must not take what it got for the whole.
            Finished::Short(_) => self.transport().abort_connection(),
        }
        if self.in_loop.get() {
            self.answered.set(true);
            return;
        }
        self.settle_answers();
        match self.phase.get() {
            Phase::Reading => self.next_request(),
            Phase::Closing => self.close(),
            Phase::Handling | Phase::Lingering => {}
        }
    }
}

impl Connection {
    fn reactor(&self) -> &Reactor {
        self.transport().reactor()
    }
}

/// Long enough for an answer to cross the world; nginx waits 5 s.
const LINGER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    /// Ten thousand idle clients are ten thousand of these.
    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<super::Connection>() <= 136, "{}", size_of::<super::Connection>());
    }
}
