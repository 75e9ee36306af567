//! What goes with an exchange and is not part of its answer: who waits for it, what it is to set and to keep meanwhile.
//!
//! Rules kept here:
//! - A request that is answered at once has none of it, and pays for none of it.
//! - Who waits is told once, out of the cell: it is user code that is called, and dropped.

use std::any::Any;
use std::error::Error;
use std::mem;
use std::rc::Rc;

use ::http::HeaderValue;

use crate::deferred::{Canceller, Completer};
use crate::web::exchange::{Exchange, PageMaker, Phase};
use crate::web::waiter::{Waiter, Watcher};

impl Exchange {
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

    /// Whether a producer is on the transport from now on; returns whether one was.
    pub(crate) fn set_producing(&self, producing: bool) -> bool {
        mem::replace(&mut self.extras().producing, producing)
    }

    /// A producer that is still there would write into the answer to the next request.
    pub(super) fn end_producing(&self) {
        let transport = self.channel().transport();
        // When the peer leaves it is stopped, in which it may well finish the request.
        if self.set_producing(false) && transport.is_connected() {
            log::error!(target: "dosimeter::web", "{} was finished with a producer on it", self.describe());
            transport.unregister_producer();
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
    pub(super) fn take_waiters(&self) -> Vec<Waiter> {
        let mut extras = self.extras();
        let mut waiters = mem::take(&mut extras.waiters);
        waiters.extend(extras.drain_waiters.drain(..).map(Waiter::Chain));
        waiters
    }

    /// Tells of a failure that will be answered for. Out of their cell meanwhile: it is user code that they call.
    pub(super) fn tell_watchers(&self, error: &(dyn Error + 'static)) {
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

    /// Ends what goes with the request, and tells those who wait for that.
    pub(super) fn end_extras(&self, whole: bool) {
        self.extras().canceller = None;
        self.close_inlet();
        self.end_producing();
        if !whole {
            self.tell_watchers(&*Box::<dyn Error>::from("the answer is shorter than announced"));
        }
        self.take_waiters().into_iter().for_each(Waiter::finished);
    }
}
