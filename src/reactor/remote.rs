//! The mailbox through which other threads reach a reactor.
//!
//! Rules kept here:
//! - Calls run in the order they came, in the reactor's thread, never in the thread that sends them.
//! - Sending never blocks longer than the copy of a pointer takes, also while the reactor runs calls.
//! - A thousand calls wake the reactor once: it is woken only when the mailbox was not already known to have something.
//! - A turn runs the calls that are present when it looks; those that they send wait for the next turn.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// Calls on their way to the thread that owns a `C`.
pub(crate) struct Mailbox<C> {
    calls: Mutex<Calls<C>>,
    /// Set by the first call after the reactor looked. Read without the lock, once per turn.
    full: AtomicBool,
    /// The thread that runs the calls.
    owner: ThreadId,
    wake: Box<dyn Fn() + Send + Sync>,
}

struct Calls<C> {
    waiting: VecDeque<Call<C>>,
    closed: bool,
}

/// A function to be called in the reactor's thread.
pub(crate) type Call<C> = Box<dyn FnOnce(&C) + Send>;

impl<C> Mailbox<C> {
    /// A mailbox of this thread.
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        let calls = Mutex::new(Calls { waiting: VecDeque::new(), closed: false });
        Mailbox { calls, full: AtomicBool::new(false), owner: thread::current().id(), wake: Box::new(wake) }
    }

    /// Queues a call and wakes the reactor; gives the call back when the reactor is gone.
    pub(crate) fn send(&self, call: Call<C>) -> Result<(), Call<C>> {
        {
            let mut calls = self.lock();
            if calls.closed {
                return Err(call);
            }
            calls.waiting.push_back(call);
        }
        if !self.full.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
        Ok(())
    }

    /// Wakes the reactor for something that is not a call.
    pub(crate) fn wake(&self) {
        (self.wake)();
    }

    /// Whether this is the thread that runs the calls.
    pub(crate) fn is_own_thread(&self) -> bool {
        thread::current().id() == self.owner
    }

    /// Takes the calls present now.
    pub(crate) fn take(&self) -> VecDeque<Call<C>> {
        // Cleared before looking: a call that comes in between finds it cleared and wakes the reactor again.
        if !self.full.swap(false, Ordering::AcqRel) {
            return VecDeque::new();
        }
        std::mem::take(&mut self.lock().waiting)
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.full.load(Ordering::Acquire)
    }

    /// Refuses calls from now on and gives back those that were never run, to be dropped in the reactor's thread.
    pub(crate) fn close(&self) -> VecDeque<Call<C>> {
        let mut calls = self.lock();
        calls.closed = true;
        std::mem::take(&mut calls.waiting)
    }

    /// No user code runs under the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, Calls<C>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
