//! Time and timers: the trait [`Clock`], the [`Timers`] of one, and [`DelayedCall`].
//!
//! Rules kept here:
//! - Nothing in this file asks the system for the time. A queue knows one "now", which its owner moves: the reactor once per
//!   turn, a test by hand. Both therefore run the same calls in the same order.
//! - No call runs inside the `call_later` that armed it, and a call armed by a running call waits for the next pass, so a
//!   call that re-arms itself with no delay cannot starve the rest.
//! - Cancelling drops the closure and what it holds at once.
//! - No closure is run or dropped while the queue is borrowed.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use crate::schedule::{Action, Alarm, Mark, Queue};
use crate::slots::Key;

/// Something that knows the time and calls back later: a `Reactor`, or a clock that a test moves by hand.
///
/// Everything that waits takes a `&impl Clock`, so that every wait can be tested in virtual time.
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use std::time::Duration;
/// use dosimeter::Clock;
///
/// fn remind(clock: &impl Clock, reminded: Rc<Cell<bool>>) {
///     clock.call_later(Duration::from_secs(3600), move || reminded.set(true));
/// }
///
/// let clock = dosimeter::testing::Clock::new();
/// let reminded = Rc::new(Cell::new(false));
/// remind(&clock, reminded.clone());
/// clock.advance(Duration::from_secs(3600));
/// assert!(reminded.get());
/// ```
pub trait Clock {
    /// The queue of calls of this clock.
    fn timers(&self) -> &Timers;

    /// The current time: of the current turn, for a reactor.
    #[doc(alias = "seconds")]
    fn now(&self) -> Instant {
        self.timers().now()
    }

    /// Calls `function` once when `delay` has passed since [`now`](Clock::now), never before this returns.
    ///
    /// In a reactor "now" is when the current turn began: after long work in a callback a short delay is over at once.
    /// Equal deadlines run in the order they were armed. Dropping the handle does not cancel the call.
    /// A call that takes long is told of with the place of this call.
    #[doc(alias = "callLater")]
    #[track_caller]
    fn call_later(&self, delay: Duration, function: impl FnOnce() + 'static) -> DelayedCall
    where
        Self: Sized,
    {
        let deadline = self.timers().0.after(delay);
        self.timers().arm(deadline, Action::call(function, Location::caller()))
    }
}

/// The calls that wait for their time; a cheap handle to the queue of one clock.
///
/// It is itself a [`Clock`]: keep one where the clock has to be kept.
#[derive(Clone)]
pub struct Timers(Rc<Inner>);

/// A handle to [`Timers`] for what is itself armed there: it does not keep the queue alive.
#[derive(Clone)]
pub(crate) struct WeakTimers(Weak<Inner>);

impl Clock for Timers {
    fn timers(&self) -> &Timers {
        self
    }
}

struct Inner {
    /// What deadlines are counted from: they are nanoseconds in a `u64` (584 years), half the size of an `Instant`.
    epoch: Instant,
    now: Cell<u64>,
    closed: Cell<bool>,
    queue: RefCell<Queue>,
}

/// A call that was armed with [`Clock::call_later`].
///
/// Dropping this handle leaves the call as it is.
///
/// ```
/// use std::time::Duration;
/// use dosimeter::Clock as _;
/// use dosimeter::testing::Clock;
///
/// let clock = Clock::new();
/// let call = clock.call_later(Duration::from_secs(5), || panic!("it was cancelled"));
/// assert_eq!(call.reset(Duration::from_secs(60)), Ok(()));
/// clock.advance(Duration::from_secs(30));
/// assert!(call.is_active());
/// assert_eq!(call.cancel(), Ok(()));
/// assert!(call.cancel().is_err());
/// ```
#[derive(Clone)]
pub struct DelayedCall {
    /// Weak, for the call may well hold its own handle.
    timers: Weak<Inner>,
    /// [`CANCELLED`] once it was cancelled here.
    key: Cell<Key>,
}

/// Why a delayed call could not be cancelled or moved: there is nothing left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DelayedCallError {
    /// It was called, or is just being called. So it appears as well when it was cancelled through another handle, or went with
    /// its clock: a call that is over is not remembered.
    AlreadyCalled,
    /// It was cancelled through this handle.
    AlreadyCancelled,
}

impl fmt::Display for DelayedCallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DelayedCallError::AlreadyCalled => "the delayed call was already called",
            DelayedCallError::AlreadyCancelled => "the delayed call was already cancelled",
        })
    }
}

impl std::error::Error for DelayedCallError {}

impl DelayedCall {
    /// Cancels the call and drops its closure at once.
    ///
    /// # Errors
    /// [`DelayedCallError`] when there is nothing left to cancel.
    pub fn cancel(&self) -> Result<(), DelayedCallError> {
        let action = self.queue()?.queue.borrow_mut().cancel(self.key.get());
        let action = action.ok_or_else(|| self.error())?;
        self.key.set(CANCELLED);
        drop(action);
        Ok(())
    }

    /// Moves the call, sooner or later, to `delay` from now. Among equal deadlines it is then the last.
    ///
    /// # Errors
    /// [`DelayedCallError`] when the call is no longer pending.
    pub fn reset(&self, delay: Duration) -> Result<(), DelayedCallError> {
        let timers = self.queue()?;
        timers.queue.borrow_mut().reset(self.key.get(), timers.after(delay)).ok_or_else(|| self.error())
    }

    /// Puts the call off by `delay` from when it is due now.
    ///
    /// (In Twisted the delay may be negative. To have it sooner use [`reset`](DelayedCall::reset), with what is left until
    /// another [`deadline`](DelayedCall::deadline).)
    ///
    /// # Errors
    /// [`DelayedCallError`] when the call is no longer pending.
    pub fn delay(&self, delay: Duration) -> Result<(), DelayedCallError> {
        let timers = self.queue()?;
        let mut queue = timers.queue.borrow_mut();
        let deadline = queue.deadline(self.key.get()).ok_or_else(|| self.error())?;
        let deadline = deadline.saturating_add(nanos(delay)).min(FARTHEST);
        queue.reset(self.key.get(), deadline).ok_or_else(|| self.error())
    }

    /// Whether the call is still to come. It is not, while it runs.
    #[doc(alias = "active")]
    pub fn is_active(&self) -> bool {
        self.deadline().is_some()
    }

    /// When the call is due; `None` once it ran or was cancelled.
    #[doc(alias = "getTime")]
    pub fn deadline(&self) -> Option<Instant> {
        let timers = self.timers.upgrade()?;
        let deadline = timers.queue.borrow().deadline(self.key.get())?;
        Some(timers.instant(deadline))
    }

    fn queue(&self) -> Result<Rc<Inner>, DelayedCallError> {
        self.timers.upgrade().ok_or_else(|| self.error())
    }

    fn error(&self) -> DelayedCallError {
        match self.key.get() {
            CANCELLED => DelayedCallError::AlreadyCancelled,
            _ => DelayedCallError::AlreadyCalled,
        }
    }
}

impl fmt::Debug for DelayedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DelayedCall").field("deadline", &self.deadline()).finish()
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").field("pending", &self.len()).finish()
    }
}

impl WeakTimers {
    pub(crate) fn upgrade(&self) -> Option<Timers> {
        self.0.upgrade().map(Timers)
    }
}

impl Timers {
    /// The calls that are still to come, in the order in which they are due; for a look from outside, and for tests that end
    /// with nothing left armed.
    ///
    /// The deadlines of connections and the like are among them. It takes time in proportion to their number.
    #[doc(alias = "getDelayedCalls")]
    pub fn pending(&self) -> Vec<DelayedCall> {
        let keys = self.0.queue.borrow().pending();
        let handle = |key| DelayedCall { timers: Rc::downgrade(&self.0), key: Cell::new(key) };
        keys.into_iter().map(handle).collect()
    }

    pub(crate) fn downgrade(&self) -> WeakTimers {
        WeakTimers(Rc::downgrade(&self.0))
    }

    /// An empty queue that believes it is `now`.
    pub(crate) fn new(now: Instant) -> Self {
        let queue = Queue::new();
        Timers(Rc::new(Inner { epoch: now, now: Cell::new(0), closed: Cell::new(false), queue: RefCell::new(queue) }))
    }

    pub(crate) fn now(&self) -> Instant {
        self.0.instant(self.0.now.get())
    }

    /// Takes out every pending call, to be dropped by the caller: what they hold is user code. What is armed later is dropped
    /// at once: nobody would ever look at it.
    pub(crate) fn close(&self) -> Vec<Action> {
        self.0.closed.set(true);
        self.0.queue.borrow_mut().clear()
    }

    /// Moves "now"; never back.
    pub(crate) fn set_now(&self, now: Instant) {
        let now = self.nanos_at(now);
        self.0.now.set(now.max(self.0.now.get()));
    }

    /// Moves "now" on; no farther than to where the last deadlines lie.
    pub(crate) fn forward(&self, amount: Duration) {
        self.0.now.set(self.0.after(amount));
    }

    /// When `delay` from now is, or the farthest time there is.
    pub(crate) fn after(&self, delay: Duration) -> Instant {
        self.0.instant(self.0.after(delay))
    }

    /// "Now" in nanoseconds since this queue was made: what durations inside the crate are reckoned in.
    pub(crate) fn nanos(&self) -> u64 {
        self.0.now.get()
    }

    /// An instant in nanoseconds since this queue was made; 0 for one before.
    pub(crate) fn nanos_at(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.0.epoch))
    }

    /// What [`nanos`](Timers::nanos) are counted from.
    pub(crate) fn epoch(&self) -> Instant {
        self.0.epoch
    }

    /// How many calls were cancelled so far.
    pub(crate) fn cancelled(&self) -> u64 {
        self.0.queue.borrow().cancelled()
    }

    /// How many calls are pending.
    pub(crate) fn len(&self) -> usize {
        self.0.queue.borrow().len()
    }

    /// Arms the deadline of `alarm`, `delay` from now.
    pub(crate) fn arm_alarm(&self, delay: Duration, alarm: Rc<dyn Alarm>) -> DelayedCall {
        self.arm(self.0.after(delay), Action::Ring(alarm))
    }

    fn arm(&self, deadline: u64, action: Action) -> DelayedCall {
        if self.0.closed.get() {
            return DelayedCall { timers: Weak::new(), key: Cell::new(Key::from_usize(0)) };
        }
        let key = self.0.queue.borrow_mut().arm(deadline, action);
        DelayedCall { timers: Rc::downgrade(&self.0), key: Cell::new(key) }
    }

    /// How long until the next call is due; zero when one is overdue, `None` when there is none.
    pub(crate) fn until_next(&self) -> Option<Duration> {
        let deadline = self.0.queue.borrow_mut().next_deadline()?;
        Some(Duration::from_nanos(deadline.saturating_sub(self.0.now.get())))
    }

    /// Marks the calls there are now: a pass runs none that was armed after its mark.
    pub(crate) fn mark(&self) -> Mark {
        self.0.queue.borrow().mark()
    }

    /// Takes the next call that is due and was armed before `mark`, with how many nanoseconds late it is.
    ///
    /// The caller runs it: here the queue is no longer borrowed, and the call no longer active.
    pub(crate) fn pop_due(&self, mark: Mark) -> Option<(Action, u64)> {
        let now = self.0.now.get();
        let (action, deadline) = self.0.queue.borrow_mut().pop_due(now, mark)?;
        Some((action, now - deadline))
    }
}

impl Inner {
    fn instant(&self, nanos: u64) -> Instant {
        self.epoch + Duration::from_nanos(nanos)
    }

    fn after(&self, delay: Duration) -> u64 {
        self.now.get().saturating_add(nanos(delay)).min(FARTHEST)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The key of a handle that has cancelled its call; no slot has it.
const CANCELLED: Key = Key::NONE;

/// No deadline lies farther off than a hundred years, so that it can always be told as an `Instant`.
const FARTHEST: u64 = 100 * 365 * 24 * 3600 * 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::DelayedCall;

    #[test]
    fn a_handle_takes_little_room() {
        // Every connection has one.
        assert_eq!(size_of::<DelayedCall>(), 16);
    }
}
