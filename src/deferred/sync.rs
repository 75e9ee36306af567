//! Waiting for a turn: [`DeferredLock`], [`DeferredSemaphore`] and [`DeferredQueue`].
//!
//! There are no data races on one thread. What there is to protect is a piece of work that waits in the middle.
//!
//! Rules kept here:
//! - First come, first served. Who is handed something is called before the call that made it possible returns.
//! - Handing over is a loop: a hundred thousand waiters that are done at once need no stack. A release or a put from inside of
//!   it leaves the next hand-over to that loop.
//! - Who cancels leaves the queue at once.
//! - What was acquired is released by dropping it, on every path.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::fmt;
use std::rc::Rc;

use super::{Completer, Deferred, IntoDeferred, maybe_deferred};

/// Lets a number of pieces of work go on at a time.
///
/// A clone is another handle to the same semaphore.
///
/// ```
/// use dosimeter::DeferredSemaphore;
///
/// let connections = DeferredSemaphore::new(2);
/// let one = connections.acquire().into_result().unwrap().unwrap();
/// let _two = connections.acquire().into_result().unwrap().unwrap();
/// let three = connections.acquire();
/// assert!(!three.is_fired());
/// drop(one);
/// assert!(three.is_fired());
/// ```
#[derive(Clone)]
pub struct DeferredSemaphore(Rc<Gate>);

/// Lets one piece of work go on at a time.
///
/// A clone is another handle to the same lock.
///
/// ```
/// use dosimeter::{Deferred, DeferredLock};
///
/// let lock = DeferredLock::new();
/// let (completer, slow) = Deferred::pair();
/// let first = lock.run(move || slow);
/// let second = lock.run(|| Ok(2));
/// assert!(!second.is_fired());
/// completer.callback(1);
/// assert_eq!(first.into_result().unwrap().unwrap(), 1);
/// assert_eq!(second.into_result().unwrap().unwrap(), 2);
/// ```
#[derive(Clone)]
pub struct DeferredLock(DeferredSemaphore);

/// One of the places of a [`DeferredSemaphore`], or the place of a [`DeferredLock`]; given back by dropping it.
#[must_use = "dropping a permit gives it back"]
pub struct Permit(Rc<Gate>);

struct Gate {
    limit: usize,
    free: Cell<usize>,
    waiting: Waiting<Permit>,
    /// A loop hands permits over; who gives one back now leaves it to that.
    granting: Cell<bool>,
}

impl DeferredSemaphore {
    /// A semaphore with `limit` places.
    ///
    /// # Panics
    /// When `limit` is zero: nobody could ever acquire it.
    pub fn new(limit: usize) -> Self {
        assert!(limit > 0, "a semaphore needs at least one place");
        let (waiting, granting) = (Waiting::default(), Cell::new(false));
        DeferredSemaphore(Rc::new(Gate { limit, free: Cell::new(limit), waiting, granting }))
    }

    /// Waits for a place. Cancelling it leaves the queue.
    #[track_caller]
    pub fn acquire(&self) -> Deferred<Permit> {
        if self.is_exhausted() {
            return self.0.waiting.enter(&self.0, |gate| &gate.waiting);
        }
        Deferred::succeed(self.0.grant())
    }

    /// Waits for a place, calls `function`, and gives the place back when what it returned has ended.
    ///
    /// Cancelling it in the queue means that `function` is never called; after that it cancels what `function` returned.
    #[track_caller]
    pub fn run<T, R>(&self, function: impl FnOnce() -> R + 'static) -> Deferred<T>
    where
        T: 'static,
        R: IntoDeferred<T>,
    {
        self.acquire().add_callback(|permit| {
            maybe_deferred(function).add_both(move |result| {
                drop(permit);
                result
            })
        })
    }

    /// How many places there are.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// How many places are free, that nobody waits for.
    #[doc(alias = "tokens")]
    pub fn available(&self) -> usize {
        self.0.free.get().saturating_sub(self.0.waiting.len())
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.0.waiting.len()
    }

    fn is_exhausted(&self) -> bool {
        self.0.free.get() == 0 || self.0.waiting.len() > 0
    }
}

impl DeferredLock {
    /// A free lock.
    pub fn new() -> Self {
        DeferredLock(DeferredSemaphore::new(1))
    }

    /// Waits for the lock. Cancelling it leaves the queue.
    #[track_caller]
    pub fn acquire(&self) -> Deferred<Permit> {
        self.0.acquire()
    }

    /// Waits for the lock, calls `function`, and releases the lock when what it returned has ended.
    ///
    /// Cancelling it in the queue means that `function` is never called; after that it cancels what `function` returned.
    #[track_caller]
    pub fn run<T, R>(&self, function: impl FnOnce() -> R + 'static) -> Deferred<T>
    where
        T: 'static,
        R: IntoDeferred<T>,
    {
        self.0.run(function)
    }

    /// Whether somebody holds the lock, or is about to be handed it.
    #[doc(alias = "locked")]
    pub fn is_locked(&self) -> bool {
        self.0.is_exhausted()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.0.waiting()
    }
}

impl Default for DeferredLock {
    fn default() -> Self {
        DeferredLock::new()
    }
}

impl Gate {
    fn grant(self: &Rc<Self>) -> Permit {
        self.free.set(self.free.get() - 1);
        Permit(self.clone())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let gate = &self.0;
        gate.free.set(gate.free.get() + 1);
        if gate.granting.replace(true) {
            return;
        }
        while gate.free.get() > 0
            && let Some(next) = gate.waiting.pop()
        {
            next.callback(gate.grant());
        }
        gate.granting.set(false);
    }
}

impl fmt::Debug for DeferredSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (available, limit, waiting) = (self.available(), self.limit(), self.waiting());
        write!(f, "DeferredSemaphore({available} of {limit} free, {waiting} waiting)")
    }
}

impl fmt::Debug for DeferredLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_locked() { "locked" } else { "free" };
        write!(f, "DeferredLock({state}, {} waiting)", self.waiting())
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

/// Passes values from those who have them to those who wait for them.
///
/// A clone is another handle to the same queue.
///
/// ```
/// use dosimeter::DeferredQueue;
///
/// let queue = DeferredQueue::new();
/// let first = queue.get();
/// queue.put("a")?;
/// queue.put("b")?;
/// assert_eq!(first.into_result().unwrap()?, "a");
/// assert_eq!(queue.get().into_result().unwrap()?, "b");
/// # Ok::<(), dosimeter::Failure>(())
/// ```
pub struct DeferredQueue<T>(Rc<Passage<T>>);

struct Passage<T> {
    most_values: Option<usize>,
    most_waiting: Option<usize>,
    values: RefCell<VecDeque<T>>,
    waiting: Waiting<T>,
    /// A loop hands values over; who puts one now leaves it to that.
    passing: Cell<bool>,
}

impl<T: 'static> DeferredQueue<T> {
    /// A queue without limits.
    pub fn new() -> Self {
        DeferredQueue::with_limits(None, None)
    }

    /// A queue that keeps at most `size` values, and lets at most `backlog` wait for one.
    ///
    /// With a `size` of zero values are handed over and never kept; with a `backlog` of zero nobody waits.
    pub fn with_limits(size: impl Into<Option<usize>>, backlog: impl Into<Option<usize>>) -> Self {
        DeferredQueue(Rc::new(Passage {
            most_values: size.into(),
            most_waiting: backlog.into(),
            values: RefCell::default(),
            waiting: Waiting::default(),
            passing: Cell::new(false),
        }))
    }

    /// Hands `value` to whoever has waited longest, or keeps it.
    ///
    /// # Errors
    /// [`QueueOverflow`], with the value, when nobody waits and as many values are kept as may be.
    pub fn put(&self, value: T) -> Result<(), QueueOverflow<T>> {
        if self.0.most_values.is_some_and(|most| self.len() >= most.saturating_add(self.waiting())) {
            return Err(QueueOverflow { value });
        }
        self.0.values.borrow_mut().push_back(value);
        self.pass();
        Ok(())
    }

    /// Takes the value kept longest, or waits for one. Cancelling it leaves the queue.
    ///
    /// It fails at once with [`QueueUnderflow`] when there is no value and as many wait as may.
    #[track_caller]
    pub fn get(&self) -> Deferred<T> {
        if self.waiting() == 0
            && let Some(value) = self.pop()
        {
            return Deferred::succeed(value);
        }
        if self.0.most_waiting.is_some_and(|most| self.waiting() >= most.saturating_add(self.len())) {
            return Deferred::fail(QueueUnderflow);
        }
        self.0.waiting.enter(&self.0, |passage| &passage.waiting)
    }

    /// How many values are kept.
    #[doc(alias = "pending")]
    pub fn len(&self) -> usize {
        self.0.values.borrow().len()
    }

    /// Whether no value is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many wait for a value.
    pub fn waiting(&self) -> usize {
        self.0.waiting.len()
    }

    fn pop(&self) -> Option<T> {
        self.0.values.borrow_mut().pop_front()
    }

    fn pass(&self) {
        if self.0.passing.replace(true) {
            return;
        }
        while !self.is_empty()
            && let Some(next) = self.0.waiting.pop()
            && let Some(value) = self.pop()
        {
            next.callback(value);
        }
        self.0.passing.set(false);
    }
}

impl<T: 'static> Default for DeferredQueue<T> {
    fn default() -> Self {
        DeferredQueue::new()
    }
}

impl<T> Clone for DeferredQueue<T> {
    fn clone(&self) -> Self {
        DeferredQueue(self.0.clone())
    }
}

impl<T: 'static> fmt::Debug for DeferredQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeferredQueue({} kept, {} waiting)", self.len(), self.waiting())
    }
}

/// Nobody waits for a value, and the queue is full.
#[derive(PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueOverflow<T> {
    /// What could not be put.
    pub value: T,
}

/// There is no value, and as many wait for one as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueUnderflow;

impl<T> fmt::Debug for QueueOverflow<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueueOverflow")
    }
}

impl<T> fmt::Display for QueueOverflow<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the queue is full")
    }
}

impl fmt::Display for QueueUnderflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the queue is empty and too many wait for it")
    }
}

impl<T> Error for QueueOverflow<T> {}

impl Error for QueueUnderflow {}

/// Those who wait, in the order they came.
struct Waiting<T> {
    queue: RefCell<BTreeMap<u64, Completer<T>>>,
    tickets: Cell<u64>,
}

impl<T: 'static> Waiting<T> {
    /// Joins the queue, which is the part `of` an `owner`. The owner is not kept alive: with the last handle to it those who
    /// wait are abandoned.
    #[track_caller]
    fn enter<O: 'static>(&self, owner: &Rc<O>, of: impl FnOnce(&O) -> &Waiting<T> + 'static) -> Deferred<T> {
        let (completer, deferred) = Deferred::pair();
        let ticket = self.tickets.get();
        self.tickets.set(ticket + 1);
        let owner = Rc::downgrade(owner);
        completer.on_cancel(move || {
            let left = owner.upgrade().and_then(|owner| of(&owner).queue.borrow_mut().remove(&ticket));
            drop(left);
        });
        self.queue.borrow_mut().insert(ticket, completer);
        deferred
    }

    fn pop(&self) -> Option<Completer<T>> {
        let first = self.queue.borrow_mut().pop_first();
        first.map(|(_, completer)| completer)
    }

    fn len(&self) -> usize {
        self.queue.borrow().len()
    }
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Waiting { queue: RefCell::default(), tickets: Cell::new(0) }
    }
}
