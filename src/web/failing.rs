//! An exchange that does not go as it should: a failure, an answer twice or never, a peer that is gone.
//!
//! Rules kept here:
//! - What goes wrong before the answer has begun is answered; what goes wrong later breaks it off, so that the peer does not
//!   take the part for the whole.
//! - The peer is told what was written for it. The rest is in the log, once.
//! - Everybody who waits is told, with nothing borrowed.

use std::rc::Rc;

use ::http::StatusCode;

use crate::failure::{Abandoned, Cancelled, Failure};
use crate::http::Refusal;
use crate::net::ConnectionLost;
use crate::web::disconnected::Disconnected;
use crate::web::error::response_of;
use crate::web::exchange::{Exchange, Phase};
use crate::web::response::Response;

impl Exchange {
    /// Nobody is left who could answer.
    pub(super) fn check_forgotten(self: &Rc<Self>) {
        if self.is_finished() || self.answer_pending.get() || self.handles.get() > 0 {
            return;
        }
        log::error!(target: "dosimeter::web", "{} was dropped without an answer", self.describe());
        self.tell_watchers(&Abandoned);
        self.fail();
    }

    /// Answers with 500, or closes the connection when the response has begun: the peer must not take what it has for whole.
    pub(crate) fn fail(self: &Rc<Self>) {
        if self.is_finished() {
            return;
        }
        if self.is_started() {
            return self.break_off(StatusCode::INTERNAL_SERVER_ERROR);
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
        self.if_extras(|extras| extras.error.take());
    }

    /// The answer will be made of this failure: an answer with its status has its fields, unless it sets others.
    pub(crate) fn start_over_with(&self, failure: &Failure) {
        self.start_over();
        if let Some(error) = response_of(failure) {
            self.extras().error = Some(error);
        }
    }

    /// The resource's answer, through what it returned.
    #[inline]
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
            Some(response) if !self.is_finished() => self.break_off(response.status()),
            _ => self.fail(),
        }
        self.answered();
    }

    /// The answer that the failure knows by itself, of a resource that may still give one.
    pub(super) fn answer_of(&self, failure: &Failure) -> Option<Response> {
        let known = if self.is_started() { None } else { response_of(failure) };
        known.or_else(|| self.fault_of_peer(failure))
    }

    /// What became of a body that is taken as it comes is no failure of the resource, whatever it has sent by then.
    pub(super) fn fault_of_peer(&self, failure: &Failure) -> Option<Response> {
        self.inlet()?;
        let refused = failure.find::<Refusal>().map(|refusal| refusal.status());
        let status = refused.or_else(|| failure.find::<Disconnected>().map(|_| StatusCode::BAD_REQUEST))?;
        let brief = status.canonical_reason().unwrap_or("Refused");
        Some(Response::error_page(status, brief, "The body of the request could not be read."))
    }

    pub(super) fn describe(&self) -> String {
        format!("{} {}", self.head.method(), self.head.target())
    }

    /// The answer cannot be completed. It counts as one with this status, whatever its head said.
    pub(super) fn break_off(&self, status: StatusCode) {
        self.phase.set(Phase::Finished);
        self.take_coding();
        self.close_inlet();
        self.status.set(status);
        self.count(status);
        let channel = self.channel();
        channel.figures().settle(|| channel.transport().reactor().present_nanos());
        channel.transport().abort_connection();
        for waiter in self.take_waiters() {
            waiter.failed(Failure::from("the answer failed after it had begun"));
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
}
