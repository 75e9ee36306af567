//! What passes through a coding on its way out, as the exchange has it done.
//!
//! Rules kept here:
//! - Where there is no body no byte of a coding is sent.
//! - What was written in one turn of the loop can be read at the end of it.

use std::mem;
use std::rc::Rc;

use ::http::StatusCode;

#[cfg(feature = "gzip")]
use crate::reactor::Reactor;
use crate::web::coding::Coding;
use crate::web::exchange::Exchange;
#[cfg(feature = "gzip")]
use crate::web::response::Response;

impl Exchange {
    /// What the coding makes of a step, if the body goes through one.
    pub(super) fn coded<R>(&self, step: impl FnOnce(&mut dyn Coding, &mut Vec<u8>) -> R) -> Option<(Vec<u8>, R)> {
        self.if_extras(|extras| {
            let mut coded = Vec::new();
            let done = step(&mut **extras.coding.as_mut()?, &mut coded);
            Some((coded, done))
        })
    }

    pub(super) fn take_coding(&self) -> Option<Box<dyn Coding>> {
        self.if_extras(|extras| extras.coding.take())
    }

    pub(super) fn set_flush_due(&self, due: bool) -> bool {
        mem::replace(&mut self.extras().flush_due, due)
    }

    /// A coding holds back what it could say shorter together with what follows. The peer is not to wait for that, but the
    /// other writes of this turn may.
    pub(super) fn flush_soon(self: &Rc<Self>) {
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

    pub(super) fn flush(&self) {
        self.set_flush_due(false);
        if let Some((coded, ())) = self.coded(|coding, out| coding.flush(out)) {
            self.send_body(&coded).expect("what is coded has no announced length");
        }
    }

    pub(super) fn begin_coding(&self, status: StatusCode) {
        let Some(mut coding) = self.take_coding() else { return };
        if coding.begin(status, self.length.get(), &mut self.fields.borrow_mut()) {
            self.length.set(None);
            if !self.is_bodiless() {
                self.extras().coding = Some(coding);
            }
        }
    }
}

/// What a wrapper around resources does to their answers.
#[cfg(feature = "gzip")]
impl Exchange {
    /// Puts what is sent in place of the page of an error there now; nobody is asked for it again.
    pub(crate) fn settle_page(self: &Rc<Self>, response: &mut Response) {
        if let Some(page) = self.page_in_place_of(response) {
            *response = page;
        }
        response.settle();
    }

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
