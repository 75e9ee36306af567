//! Bodies that are streams: what a connection reads for a request that is being handled already.
//!
//! Rules kept here:
//! - What comes of a body is handed on while there is room, and not read while there is none.
//! - A body has a deadline while somebody waits for it, and none otherwise.
//! - What is left of a request that was answered is dropped when it is little; else the connection is closed.

use std::rc::Rc;
use std::time::Duration;

use crate::clock::Clock;
use crate::http::{Event, Refusal};
use crate::net::ConnectionLost;
use crate::web::body::{Inlet, Upstream};
use crate::web::connection::{Connection, Looping, Phase};
use crate::web::disconnected::Disconnected;
use crate::web::metrics::Closed;

impl Connection {
    pub(super) fn read_stream(self: &Rc<Self>, input: &[u8]) -> usize {
        match (self.phase.get(), self.current_inlet()) {
            (Phase::Handling, Some(inlet)) => self.feed(&inlet, input),
            (Phase::Discarding, _) => self.discard(input),
            _ => 0,
        }
    }

    /// Hands on what there is room for. Nothing of a body is looked at that has come to a bad end.
    pub(super) fn feed(&self, inlet: &Inlet, input: &[u8]) -> usize {
        if inlet.has_ended() {
            return input.len();
        }
        let mut used = 0;
        // The end of a body needs no room, and nothing more need come that would bring it.
        while inlet.has_room() || self.engine.borrow().body_left() == Some(0) {
            let (count, event) = self.engine.borrow_mut().receive_body(&input[used..], &self.site.stream_limits);
            used += count;
            match event {
                Event::Data(data) => inlet.push(data),
                Event::End => {
                    self.streaming.set(false);
                    inlet.finish();
                    break;
                }
                Event::Refused(refusal) => {
                    self.note_end(Closed::Refused);
                    self.note_refusal(refusal);
                    inlet.refuse(refusal);
                    break;
                }
                _ => {
                    if self.half_closed.get() {
                        self.engine.borrow_mut().close_after();
                        inlet.lose(Disconnected::new(ConnectionLost::Done));
                    }
                    break;
                }
            }
        }
        inlet.deliver(self.reactor().timers().nanos());
        used
    }

    /// The rest of a request that was answered is not wanted; then comes the next one.
    pub(super) fn discard(self: &Rc<Self>, input: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let (count, event) = self.engine.borrow_mut().receive_body(&input[used..], &self.site.stream_limits);
            used += count;
            match event {
                Event::Data(_) => {}
                Event::End => {
                    self.streaming.set(false);
                    self.phase.set(Phase::Reading);
                    self.looping.set(Looping::Answered);
                    return used;
                }
                _ => {
                    if self.half_closed.get() {
                        self.phase.set(Phase::Closing);
                    }
                    return used;
                }
            }
        }
    }

    /// The request is answered before all of it has come.
    pub(super) fn leave_body(self: &Rc<Self>) {
        if self.is_rest_small() {
            self.phase.set(Phase::Discarding);
            self.set_deadline(self.site.limits.body_timeout);
        } else {
            self.note_end(Closed::Answered);
            self.phase.set(Phase::Closing);
        }
    }

    pub(super) fn current_inlet(&self) -> Option<Rc<Inlet>> {
        self.current_exchange()?.inlet()
    }

    pub(super) fn awaits_body(&self) -> bool {
        self.streaming.get() && self.current_inlet().is_some_and(|inlet| inlet.is_awaited())
    }

    /// Whether what is left of the request is so little that it is dropped when it comes.
    pub(super) fn is_rest_small(&self) -> bool {
        self.engine.borrow().body_left().is_some_and(|left| left <= self.site.limits.unread_body)
    }

    /// The body has had its time, or what of it the peer was waited for.
    pub(super) fn body_timed_out(self: &Rc<Self>) {
        self.set_deadline(self.site.limits.write_timeout);
        self.note_end(Closed::BodyTimeout);
        self.engine.borrow_mut().refuse(Refusal::Timeout);
        self.note_refusal(Refusal::Timeout);
        if let Some(inlet) = self.current_inlet() {
            inlet.refuse(Refusal::Timeout);
        }
    }
}

impl Upstream for Connection {
    fn body_wanted(self: Rc<Self>, waits: bool) {
        if waits && let Some(inlet) = self.current_inlet() {
            self.send_continue();
            let waited = Duration::from_nanos(inlet.note_wait(self.reactor().timers().nanos()));
            self.set_deadline(self.body_time(inlet.received()).saturating_sub(waited));
        }
        self.resume_reading();
        if self.has_unused() || self.half_closed.get() {
            let connection = self.clone();
            self.reactor().call_soon(move || connection.go_on());
        }
    }
}
