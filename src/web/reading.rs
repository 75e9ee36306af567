//! What a connection makes of its input: requests, one after the other.
//!
//! Rules kept here:
//! - A thousand pipelined requests in one read are handled in a loop.
//! - What was read and cannot be used yet is kept up to a limit, then reading pauses. A peer that does not read its answers is
//!   not read from either.
//! - Who gets a body, and whether it is wanted at all, is settled before the client is told to send it.

use std::rc::Rc;
use std::time::Duration;

use crate::buffer::Pending;
use crate::clock::Clock;
use crate::failure::guard;
use crate::http::{BodyFraming, Event, Refusal};
use crate::web::connection::{Connection, Looping, Phase};
use crate::web::exchange::{Channel, Exchange};
use crate::web::request::Request;
use crate::web::resource::accepts_stream;

/// Input.
impl Connection {
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
    pub(super) fn end_of_input(self: &Rc<Self>) {
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

/// Heads.
impl Connection {
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
}

/// What is kept of the input.
impl Connection {
    fn buffered(&self, data: &[u8]) -> Option<Box<Pending>> {
        if data.is_empty() {
            return None;
        }
        let mut pending = self.reactor().buffers().take();
        pending.bytes.extend_from_slice(data);
        Some(pending)
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

    pub(super) fn has_unused(&self) -> bool {
        let unused = self.unused.take();
        let some = unused.is_some();
        self.unused.set(unused);
        some
    }

    pub(super) fn resume_reading(&self) {
        self.transport().resume_reading();
        if self.paused.get() {
            self.count_pause();
        }
    }
}
