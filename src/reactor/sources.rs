//! What poll tells of: sources, and the handlers that are called for them.
//!
//! Rules kept here:
//! - The reactor holds the handler of a source until it is removed; a key of one that is gone finds nothing, whatever has
//!   taken its place or its descriptor since.
//! - A handler is dropped, and called, when nothing is borrowed: it may hold anything.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use super::poller::{Poller, Source, Wants};
use super::{Handler, Key, Phase, Reactor, ReactorError};

impl Reactor {
    /// Registers a source; its handler is kept until [`remove_source`](Reactor::remove_source).
    pub(crate) fn add_source(
        &self,
        source: &mut dyn Source,
        handler: Rc<dyn Handler>,
        wants: Wants,
    ) -> io::Result<Key> {
        if self.0.phase.get() == Phase::Ended {
            // Nobody would ever close it.
            return Err(io::Error::other(ReactorError::Gone));
        }
        let key = self.0.sources.borrow_mut().insert(handler);
        self.0.figures.sources.add(1);
        let outcome = self.with_poller(|poller| poller.register(source, key.to_usize(), wants));
        outcome.map(|()| key).inspect_err(|_| self.remove_source(key))
    }

    pub(crate) fn change_source(&self, source: &mut dyn Source, key: Key, wants: Wants) -> io::Result<()> {
        self.with_poller(|poller| poller.reregister(source, key.to_usize(), wants))
    }

    /// Takes a source out of the poll, for one that will not be closed at once.
    pub(crate) fn forget_source(&self, source: &mut dyn Source) {
        // A descriptor that is closed has left it already.
        let _ = self.with_poller(|poller| poller.deregister(source));
    }

    /// Forgets a source whose descriptor lives on, to be registered anew.
    pub(crate) fn release_source(&self, source: &mut dyn Source, key: Key) -> io::Result<()> {
        self.remove_source(key);
        self.with_poller(|poller| poller.deregister(source))
    }

    /// Forgets a source. Its descriptor leaves the poll when it is closed.
    pub(crate) fn remove_source(&self, key: Key) {
        let handler = self.0.sources.borrow_mut().remove(key);
        if handler.is_some() {
            self.0.figures.sources.add(-1);
        }
    }

    /// Calls `user` with the poller. A source of the program is registered by code of the program, which may try to turn the
    /// reactor or to end it: for as long, this is a turn.
    fn with_poller<R>(&self, user: impl FnOnce(&Poller) -> R) -> R {
        struct Turn<'a>(&'a Cell<bool>, bool);
        impl Drop for Turn<'_> {
            fn drop(&mut self) {
                self.0.set(self.1);
            }
        }
        let _turn = Turn(&self.0.in_turn, self.0.in_turn.replace(true));
        user(&self.0.poller.borrow())
    }

    /// Keeps a handler that waits for no descriptor: it is called when it is made ready again, and told of the end.
    pub(crate) fn add_handler(&self, handler: Rc<dyn Handler>) -> Result<Key, ReactorError> {
        if self.0.phase.get() == Phase::Ended {
            return Err(ReactorError::Gone);
        }
        Ok(self.0.sources.borrow_mut().insert(handler))
    }

    pub(crate) fn remove_handler(&self, key: Key) {
        // Dropped when the slots are no longer borrowed.
        let handler = self.0.sources.borrow_mut().remove(key);
        drop(handler);
    }

    /// Calls the source again in the next turn, as readable.
    pub(crate) fn ready_again(&self, key: Key) {
        self.0.again.borrow_mut().push(key);
    }

    /// Calls the handler's `flush` before the loop waits again.
    pub(crate) fn schedule_flush(&self, handler: Rc<dyn Handler>) {
        self.0.dirty.borrow_mut().push(handler);
    }

    /// Has every source look whether there is something new to do: for what happens once in the life of a program, and
    /// would cost each source a word to be told of.
    pub(crate) fn call_up(&self) {
        let handlers: Vec<_> = self.0.sources.borrow().values().cloned().collect();
        for handler in handlers {
            self.dispatch("calling up a source", || handler.called_up());
        }
    }
}
