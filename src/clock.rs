//! Time and timers: the trait [`Clock`], the queue behind it, and [`DelayedCall`].
//!
//! Rules kept here:
//! - Nothing in this file asks the system for the time. A queue knows one "now", which its owner moves: the reactor once per
//!   turn, a test by hand. Both therefore run the same calls in the same order.
//! - Calls run by (deadline, sequence): equal deadlines in the order they were armed.
//! - No call runs inside the `call_later` that armed it, and a call armed by a running call waits for the next pass, so a
//!   call that re-arms itself with no delay cannot starve the rest.
//! - Cancelling is O(1) and drops the closure and what it holds at once. What is left in the heap is swept out when more than
//!   half of the heap is such left-overs.
//! - Moving a deadline back is O(1) as well: the heap entry stays where it is and is put in order when it comes up. A
//!   deadline that every request moves (an idle timeout) costs a store per request.
//! - No closure is run or dropped while the queue is borrowed.

use std::any::type_name;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use crate::slots::{Key, Slots};

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
        self.timers().arm(deadline, Action::Call(Box::new(Placed { function, line: Location::caller() })))
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

struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    slots: Slots<Slot>,
    sequence: u64,
    /// How many calls were cancelled so far.
    cancelled: u64,
}

/// A place in the order of time. It may be out of date: then the slot it names is gone, or has moved to a later deadline.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    deadline: u64,
    sequence: u64,
    token: usize,
}

struct Slot {
    deadline: u64,
    sequence: u64,
    /// Sequence of the heap entry that stands for this slot.
    entry: u64,
    action: Action,
}

/// What happens when the time has come.
pub(crate) enum Action {
    Call(Box<dyn TimedCall>),
    /// The deadline of something that has one for as long as it lives; costs no allocation.
    Ring(Rc<dyn Alarm>),
}

/// A function to be called, and where it was armed. The place stands in the box with the function: in [`Action`] it would make
/// every deadline of every connection larger.
pub(crate) trait TimedCall {
    fn call(self: Box<Self>);
    fn line(&self) -> &'static Location<'static>;
}

struct Placed<F> {
    function: F,
    line: &'static Location<'static>,
}

impl<F: FnOnce()> TimedCall for Placed<F> {
    fn call(self: Box<Self>) {
        (self.function)();
    }

    fn line(&self) -> &'static Location<'static> {
        self.line
    }
}

/// Something with a deadline.
pub(crate) trait Alarm {
    fn ring(self: Rc<Self>);

    /// What it is called when it takes long.
    fn name(&self) -> &'static str {
        type_name::<Self>()
    }
}

/// Where a callback comes from: what a program's author looks for when one takes long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The line that registered it.
    Line(&'static Location<'static>),
    /// The type that has the method.
    Type(&'static str),
}

impl Place {
    /// One of the addresses that tell it from others.
    pub(crate) fn address(self) -> usize {
        match self {
            Place::Line(line) => std::ptr::from_ref(line).addr(),
            Place::Type(name) => name.as_ptr().addr(),
        }
    }

    /// Whether it is the same by its address; the same line or name may have several, which does no harm.
    pub(crate) fn is(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Line(one), Place::Line(other)) => std::ptr::eq(*one, *other),
            (Place::Type(one), Place::Type(other)) => std::ptr::eq(*one, *other),
            _ => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(line) => line.fmt(f),
            Place::Type(name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
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
        let slot = self.queue()?.queue.borrow_mut().cancel(self.key.get());
        let slot = slot.ok_or_else(|| self.error())?;
        self.key.set(CANCELLED);
        drop(slot);
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
    /// # Errors
    /// [`DelayedCallError`] when the call is no longer pending.
    pub fn delay(&self, delay: Duration) -> Result<(), DelayedCallError> {
        let timers = self.queue()?;
        let mut queue = timers.queue.borrow_mut();
        let deadline = queue.slots.get(self.key.get()).ok_or_else(|| self.error())?.deadline;
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
        let deadline = timers.queue.borrow().slots.get(self.key.get())?.deadline;
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
        let queue = self.0.queue.borrow();
        let mut calls: Vec<_> = queue.slots.iter().map(|(key, slot)| (slot.deadline, slot.sequence, key)).collect();
        calls.sort_unstable_by_key(|&(deadline, sequence, _)| (deadline, sequence));
        calls
            .into_iter()
            .map(|(_, _, key)| DelayedCall { timers: Rc::downgrade(&self.0), key: Cell::new(key) })
            .collect()
    }

    pub(crate) fn downgrade(&self) -> WeakTimers {
        WeakTimers(Rc::downgrade(&self.0))
    }

    /// An empty queue that believes it is `now`.
    pub(crate) fn new(now: Instant) -> Self {
        let queue = Queue { heap: BinaryHeap::new(), slots: Slots::new(), sequence: 0, cancelled: 0 };
        Timers(Rc::new(Inner { epoch: now, now: Cell::new(0), closed: Cell::new(false), queue: RefCell::new(queue) }))
    }

    pub(crate) fn now(&self) -> Instant {
        self.0.instant(self.0.now.get())
    }

    /// Takes out every pending call, to be dropped by the caller: what they hold is user code. What is armed later is dropped
    /// at once: nobody would ever look at it.
    pub(crate) fn close(&self) -> Vec<Action> {
        self.0.closed.set(true);
        let mut queue = self.0.queue.borrow_mut();
        queue.heap.clear();
        queue.slots.drain().map(|slot| slot.action).collect()
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
        self.0.queue.borrow().cancelled
    }

    /// How many calls are pending.
    pub(crate) fn len(&self) -> usize {
        self.0.queue.borrow().slots.len()
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
        Mark(self.0.queue.borrow().sequence)
    }

    /// Takes the next call that is due and was armed before `mark`, with how many nanoseconds late it is.
    ///
    /// The caller runs it: here the queue is no longer borrowed, and the call no longer active.
    pub(crate) fn pop_due(&self, mark: Mark) -> Option<(Action, u64)> {
        let now = self.0.now.get();
        let slot = self.0.queue.borrow_mut().pop_due(now, mark.0)?;
        Some((slot.action, now - slot.deadline))
    }
}

/// See [`Timers::mark`].
#[derive(Clone, Copy)]
pub(crate) struct Mark(u64);

impl Action {
    pub(crate) fn run(self) {
        match self {
            Action::Call(call) => call.call(),
            Action::Ring(alarm) => alarm.ring(),
        }
    }

    pub(crate) fn place(&self) -> Place {
        match self {
            Action::Call(call) => Place::Line(call.line()),
            Action::Ring(alarm) => Place::Type(alarm.name()),
        }
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

impl Queue {
    fn arm(&mut self, deadline: u64, action: Action) -> Key {
        let sequence = self.next_sequence();
        let key = self.slots.insert(Slot { deadline, sequence, entry: sequence, action });
        self.push(deadline, sequence, key);
        key
    }

    /// `None` when the call is gone.
    fn reset(&mut self, key: Key, deadline: u64) -> Option<()> {
        let sequence = self.next_sequence();
        let slot = self.slots.get_mut(key)?;
        let sooner = deadline < slot.deadline;
        slot.deadline = deadline;
        slot.sequence = sequence;
        if sooner {
            // The entry in the heap would come up too late; a new one takes over and the old one goes stale.
            slot.entry = sequence;
            self.push(deadline, sequence, key);
            self.sweep();
        }
        Some(())
    }

    fn cancel(&mut self, key: Key) -> Option<Slot> {
        let slot = self.slots.remove(key)?;
        self.cancelled += 1;
        self.sweep();
        Some(slot)
    }

    fn pop_due(&mut self, now: u64, mark: u64) -> Option<Slot> {
        loop {
            let Reverse(entry) = self.heap.peek()?;
            // What was armed in this pass is due now at the soonest; what is overdue was there before, be it that a call of
            // this pass has moved it.
            if entry.deadline > now || (entry.deadline == now && entry.sequence > mark) {
                return None;
            }
            let key = Key::from_usize(entry.token);
            let stands_for = entry.sequence;
            self.heap.pop();
            match self.slots.get_mut(key) {
                Some(slot) if slot.entry == stands_for => {
                    if slot.sequence == stands_for {
                        return self.slots.remove(key);
                    }
                    slot.entry = slot.sequence;
                    let (deadline, sequence) = (slot.deadline, slot.sequence);
                    self.push(deadline, sequence, key);
                }
                _ => {}
            }
        }
    }

    fn next_deadline(&mut self) -> Option<u64> {
        loop {
            let Reverse(entry) = self.heap.peek()?;
            let key = Key::from_usize(entry.token);
            match self.slots.get(key) {
                // Possibly moved back since: waking up early once is cheaper than looking for the true next one.
                Some(slot) if slot.entry == entry.sequence => return Some(entry.deadline),
                _ => self.heap.pop(),
            };
        }
    }

    fn push(&mut self, deadline: u64, sequence: u64, key: Key) {
        self.heap.push(Reverse(Entry { deadline, sequence, token: key.to_usize() }));
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Keeps the left-overs of cancelled calls from outnumbering the live ones; linear, and paid for by the cancellations
    /// that made it necessary.
    fn sweep(&mut self) {
        if self.heap.len() > SWEEP_MIN && self.heap.len() > 2 * self.slots.len() {
            let slots = &self.slots;
            self.heap.retain(|Reverse(entry)| {
                slots.get(Key::from_usize(entry.token)).is_some_and(|slot| slot.entry == entry.sequence)
            });
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The key of a handle that has cancelled its call; no slot has it.
const CANCELLED: Key = Key::NONE;

/// Below this many heap entries a sweep is not worth its while; Twisted's figure.
const SWEEP_MIN: usize = 50;

/// No deadline lies farther off than a hundred years, so that it can always be told as an `Instant`.
const FARTHEST: u64 = 100 * 365 * 24 * 3600 * 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn timers() -> Timers {
        Timers::new(Instant::now())
    }

    #[test]
    fn cancelled_and_moved_calls_do_not_pile_up() {
        let timers = timers();
        let kept: Vec<_> = (0..100).map(|number| timers.call_later(Duration::from_secs(number), || {})).collect();
        let long = Duration::from_secs(3_600);
        for number in 0..10_000 {
            timers.call_later(long, || {}).cancel().expect("pending");
            // Forward in time every time: each leaves an entry behind.
            kept[number % 100].reset(long - Duration::from_millis(number as u64)).expect("pending");
            let entries = timers.0.queue.borrow().heap.len();
            assert!(entries <= 2 * kept.len() + 2, "{entries} entries for {} calls", kept.len());
        }
    }

    #[test]
    fn a_deadline_takes_little_room() {
        // Ten thousand idle connections are ten thousand of these; a variant of the enum more, or less room for its tag, and it
        // is a word more.
        assert_eq!(size_of::<Option<Action>>(), 24);
        assert_eq!(size_of::<DelayedCall>(), 16);
    }

    #[test]
    fn a_deadline_that_is_put_off_again_and_again_costs_one_entry() {
        let timers = timers();
        let call = timers.call_later(Duration::from_secs(60), || {});
        for _ in 0..1_000 {
            call.reset(Duration::from_secs(60)).expect("pending");
        }
        assert_eq!(timers.0.queue.borrow().heap.len(), 1);
    }
}
