//! The mailbox through which other threads reach a reactor.
//!
//! Rules kept here:
//! - Calls run in the order they came, in the reactor's thread, never in the thread that sends them.
//! - Sending never blocks longer than the copy of a pointer takes, also while the reactor runs calls.
//! - A thousand calls wake the reactor once: it is woken only when the mailbox was not already known to have something.
//! - A turn runs the calls that are present when it looks; those that they send wait for the next turn.

use std::collections::VecDeque;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Instant;

use super::metrics::Level;

/// Calls on their way to the thread that owns a `C`.
pub(crate) struct Mailbox<C> {
    calls: Mutex<Calls<C>>,
    /// Set by the first call after the reactor looked. Read without the lock, once per turn.
    full: AtomicBool,
    /// The thread that runs the calls.
    owner: ThreadId,
    /// How many calls wait; written under the lock.
    waiting: Arc<Level>,
    clock: fn() -> Instant,
    wake: Box<dyn Fn() + Send + Sync>,
}

struct Calls<C> {
    waiting: VecDeque<(Call<C>, Line)>,
    /// When the first of them came: one reading of the clock for each time that the reactor is woken.
    since: Option<Instant>,
    closed: bool,
}

/// A function to be called in the reactor's thread.
pub(crate) type Call<C> = Box<dyn FnOnce(&C) + Send>;

/// The line that sent a call.
type Line = &'static Location<'static>;

/// Calls that were taken out, with the lines that sent them.
pub(crate) struct Batch<C> {
    pub(crate) calls: VecDeque<(Call<C>, Line)>,
    /// When the first of them came.
    pub(crate) since: Option<Instant>,
}

impl<C> Mailbox<C> {
    /// A mailbox of this thread, which says in `waiting` how many calls are in it.
    pub(crate) fn new(waiting: Arc<Level>, clock: fn() -> Instant, wake: impl Fn() + Send + Sync + 'static) -> Self {
        let calls = Mutex::new(Calls { waiting: VecDeque::new(), since: None, closed: false });
        let full = AtomicBool::new(false);
        Mailbox { calls, full, owner: thread::current().id(), waiting, clock, wake: Box::new(wake) }
    }

    /// Queues a call and wakes the reactor; gives the call back when the reactor is gone.
    #[track_caller]
    pub(crate) fn send(&self, call: Call<C>) -> Result<(), Call<C>> {
        self.send_from(Location::caller(), call)
    }

    /// The same, in the name of another line.
    pub(crate) fn send_from(&self, line: Line, call: Call<C>) -> Result<(), Call<C>> {
        {
            let mut calls = self.lock();
            if calls.closed {
                return Err(call);
            }
            if calls.waiting.is_empty() {
                calls.since = Some((self.clock)());
            }
            calls.waiting.push_back((call, line));
            self.waiting.set(calls.waiting.len() as u64);
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
    pub(crate) fn take(&self) -> Batch<C> {
        // Cleared before looking: a call that comes in between finds it cleared and wakes the reactor again.
        self.full.swap(false, Ordering::AcqRel);
        self.empty(&mut self.lock())
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.full.load(Ordering::Acquire)
    }

    /// Refuses calls from now on and gives back those that were never run, to be dropped in the reactor's thread.
    pub(crate) fn close(&self) -> Batch<C> {
        let mut calls = self.lock();
        calls.closed = true;
        self.empty(&mut calls)
    }

    fn empty(&self, calls: &mut Calls<C>) -> Batch<C> {
        self.waiting.set(0);
        Batch { calls: std::mem::take(&mut calls.waiting), since: calls.since.take() }
    }

    /// No user code runs under the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, Calls<C>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_thousand_calls_wake_once_until_the_mailbox_was_looked_into() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let wake = move || _ = count.fetch_add(1, Ordering::Relaxed);
        let mailbox = Mailbox::<()>::new(Arc::default(), Instant::now, wake);
        for round in 1..=3 {
            assert!(mailbox.is_empty());
            for _ in 0..1000 {
                assert!(mailbox.send(Box::new(|()| ())).is_ok());
            }
            assert_eq!(woken.load(Ordering::Relaxed), round);
            assert_eq!(mailbox.waiting.get(), 1000);
            assert_eq!(mailbox.take().calls.len(), 1000);
            assert_eq!(mailbox.waiting.get(), 0);
        }
    }

    /// A call that comes while the calls of a turn are run belongs to the next one, and has to wake it.
    #[test]
    fn a_call_that_comes_after_the_look_wakes_again() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let mailbox =
            Mailbox::<()>::new(Arc::default(), Instant::now, move || _ = count.fetch_add(1, Ordering::Relaxed));
        assert!(mailbox.send(Box::new(|()| ())).is_ok());
        let batch = mailbox.take();
        assert!(mailbox.send(Box::new(|()| ())).is_ok());
        assert_eq!((batch.calls.len(), woken.load(Ordering::Relaxed)), (1, 2));
        assert!(!mailbox.is_empty());
    }
}
