//! [`Waiter`]: who waits for the end of an answer, and how each is told.
//!
//! Rule kept here: a waiter is told once, for telling consumes it.

use std::error::Error;
use std::rc::Rc;

use crate::deferred::Completer;
use crate::failure::Failure;

/// Who is told how an exchange went.
pub(crate) trait Watcher {
    /// The answer failed, or not: what is said first counts.
    fn settle(&self, error: Option<&(dyn Error + 'static)>);
    /// The exchange is over.
    fn end(&self, error: Option<&(dyn Error + 'static)>);
}

/// Who waits for the end of a response.
pub(super) enum Waiter {
    Chain(Completer<()>),
    Watcher(Rc<dyn Watcher>),
}

impl Waiter {
    pub(super) fn finished(self) {
        match self {
            Waiter::Chain(completer) => completer.callback(()),
            Waiter::Watcher(watcher) => watcher.end(None),
        }
    }

    pub(super) fn failed(self, failure: Failure) {
        match self {
            Waiter::Chain(completer) => completer.fire(Err(failure)),
            Waiter::Watcher(watcher) => watcher.end(Some(failure.error())),
        }
    }
}
