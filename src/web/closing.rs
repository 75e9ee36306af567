//! The end of a connection: deadlines, drains, and a close that lets the peer read its last answer.
//!
//! Rules kept here:
//! - A connection always has a deadline while it waits for the peer, and none while the peer waits for a resource.
//! - A deadline looks at progress: a peer that takes or sends something, however slowly, is left to it.
//! - A socket is not closed with unread input, which would make the system reset what is on its way to the peer.
//! - Why a connection ends is noted by whoever decides it; the first reason counts.

use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use crate::clock::{Clock, DelayedCall};
use crate::http::Refusal;
use crate::net::ConnectionLost;
use crate::schedule::Alarm;
use crate::web::connection::{Connection, Phase};
use crate::web::drain::{self, JUST_USED};
use crate::web::exchange::Channel;
use crate::web::metrics::Closed;
use crate::web::patience::{LINGER, Patience};

impl Connection {
    pub(super) fn close(self: &Rc<Self>) {
        if !self.has_unused() && !self.streaming.get() && self.patience.get() == Patience::NONE {
            self.phase.set(Phase::Closing);
            self.transport().lose_connection();
            self.set_deadline(self.site.limits.write_timeout);
        } else {
            self.linger();
        }
    }

    /// Closing a socket with unread input makes the system send a reset, which may overtake the answer. So only the writing
    /// half is closed, and input is dropped until the peer closes as well, is silent for a moment, or has sent on for a while
    /// (RFC 9112 section 9.6).
    pub(super) fn linger(self: &Rc<Self>) {
        self.phase.set(Phase::Lingering);
        self.patience.set(Patience::ALL);
        self.unused.take();
        self.transport().lose_write_connection();
        self.resume_reading();
        self.set_deadline(LINGER);
        // Nothing comes any more from a peer that has closed its half already.
        self.go_on();
    }

    pub(super) fn set_deadline(self: &Rc<Self>, delay: Duration) {
        let deadline = self.deadline.take().filter(|deadline| deadline.reset(delay).is_ok());
        let deadline = deadline.unwrap_or_else(|| self.reactor().timers().arm_alarm(delay, self.clone()));
        self.deadline.set(Some(deadline));
    }

    pub(super) fn request_timed_out(self: &Rc<Self>) {
        let in_body = self.engine.borrow().in_body();
        self.note_end(if in_body { Closed::BodyTimeout } else { Closed::HeadTimeout });
        self.engine.borrow_mut().refuse(Refusal::Timeout);
        self.refuse(Refusal::Timeout);
    }

    /// Sees to it that the connection ends with its site.
    pub(super) fn mind_drain(self: &Rc<Self>) {
        match self.site.draining.phase() {
            drain::Phase::Serving => {}
            _ if self.wire.get().is_none() => {}
            drain::Phase::Draining => {
                self.note_end(Closed::Shutdown);
                self.engine.borrow_mut().close_after();
                self.close_if_unused();
            }
            drain::Phase::Over => {
                self.note_end(Closed::Shutdown);
                self.transport().abort_connection();
            }
        }
    }

    /// Closes the connection if nothing is under way, or in a moment, if the next request may be.
    pub(super) fn close_if_unused(self: &Rc<Self>) {
        if !self.is_unused() {
            return;
        }
        let limits = &self.site.limits;
        let limit = if self.head_begun.get() { limits.head_timeout } else { limits.idle_timeout };
        let unused_for = limit.saturating_sub(self.time_left());
        self.head_begun.set(false);
        self.set_deadline(JUST_USED.saturating_sub(unused_for));
    }

    /// Closes the connection after one more look at the socket: a request may have come since the last one.
    pub(super) fn close_unused(self: &Rc<Self>) {
        // What comes now has a deadline of its own.
        self.head_begun.set(false);
        let connection = self.clone();
        self.reactor().call_soon(move || {
            if connection.is_unused() {
                connection.note_end(Closed::Idle);
                connection.close();
            }
        });
    }

    pub(super) fn is_unused(&self) -> bool {
        self.phase.get() == Phase::Reading && self.engine.borrow().is_idle() && !self.has_unused()
    }

    /// Until the deadline.
    pub(super) fn time_left(&self) -> Duration {
        let deadline = self.deadline.take();
        let at = deadline.as_ref().and_then(DelayedCall::deadline);
        self.deadline.set(deadline);
        at.map_or(Duration::ZERO, |at| at.saturating_duration_since(self.reactor().timers().now()))
    }

    /// Remembers why the connection will be closed; the first reason counts.
    pub(super) fn note_end(&self, why: Closed) {
        if self.closed.get().is_none() {
            self.closed.set(Some(why));
        }
    }

    pub(super) fn why_lost(reason: &ConnectionLost) -> Closed {
        match reason {
            ConnectionLost::Done => Closed::Peer,
            ConnectionLost::Io(error) if is_of_peer(error.kind()) => Closed::Peer,
            ConnectionLost::ReactorStopped => Closed::Shutdown,
            _ => Closed::Error,
        }
    }

    pub(super) fn lose(&self, reason: ConnectionLost) {
        self.phase.set(Phase::Closing);
        // It was turned away, or never made.
        let Some((transport, figures)) = self.wire.get() else { return };
        self.note_end(Connection::why_lost(&reason));
        figures.connection_lost(self.closed.get().expect("just noted"));
        if self.paused.replace(false) {
            figures.connection_paused(false);
        }
        if let Some(deadline) = self.deadline.take() {
            // It may just be ringing.
            let _ = deadline.cancel();
        }
        if let Some(exchange) = self.exchange.take()
            && exchange.has_begun()
        {
            exchange.lose(reason);
            self.log_access(Some(&exchange));
        }
        self.site.leave(&transport.peer_addr());
    }
}

impl Alarm for Connection {
    fn ring(self: Rc<Self>) {
        let transport = self.transport();
        let sends = transport.sends();
        if transport.unsent() > 0 {
            // It is the peer's turn to read. As long as it does, however slowly, it is left alone.
            if self.sends_before.replace(sends) == sends {
                self.note_end(Closed::WriteTimeout);
                transport.abort_connection();
            } else {
                self.set_deadline(self.site.limits.write_timeout);
            }
            return;
        }
        match self.phase.get() {
            Phase::Handling if self.awaits_body() => self.body_timed_out(),
            Phase::Handling if self.half_closed.get() && self.sends_before.replace(sends) == sends => {
                transport.lose_connection();
            }
            Phase::Handling if self.half_closed.get() => self.set_deadline(self.site.limits.half_closed),
            // The peer waits for us; the end of the answer sets the next deadline.
            Phase::Handling => self.set_deadline(self.site.limits.write_timeout),
            Phase::Discarding => {
                self.note_end(Closed::BodyTimeout);
                self.close();
            }
            Phase::Reading if self.is_unused() => self.close_unused(),
            Phase::Reading => self.request_timed_out(),
            Phase::Lingering => {
                self.patience.set(self.patience.get().spent());
                match self.patience.get() {
                    Patience::NONE => transport.abort_connection(),
                    _ => self.set_deadline(LINGER),
                }
            }
            Phase::Closing => transport.abort_connection(),
        }
    }
}

/// How the system tells that the peer is gone.
fn is_of_peer(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
}
