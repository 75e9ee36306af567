//! What is to be done before, during and after an event, such as the end of a reactor.
//!
//! Rules kept here:
//! - Three phases, in this order; in each the triggers run in the order they were added, and each trigger once.
//! - Everything of the first phase is called, and what it returned is waited for, before anything of the second is.
//! - A trigger that fails is logged and holds up nothing.
//! - No trigger is called or dropped while the lists are borrowed: it may add, remove and fire.
//! - Who waits no longer is not called back: what a Deferred of an earlier time says is not heard in a later one.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::rc::{Rc, Weak};

use crate::deferred::{Completer, Deferred, IntoDeferred, maybe_deferred};
use crate::failure::Result;

/// Functions to be called before, during and after an event.
///
/// Where Twisted has names of events, an event is a value here: make one for each and pass it to whoever takes part. A clone
/// is another handle to the same event.
///
/// A function may return nothing, a `Result` or a `Deferred`. What those of [`before`](Triggers::before) return is waited
/// for: the event itself, and what comes with and after it, happens when the last of them is done, whether well or not.
///
/// ```
/// use dosimeter::{Deferred, Triggers};
/// use std::cell::RefCell;
/// use std::rc::Rc;
///
/// let log = Rc::new(RefCell::new(Vec::new()));
/// let note = |text| { let log = log.clone(); move || log.borrow_mut().push(text) };
///
/// let closing = Triggers::new();
/// let (saved, saving) = Deferred::pair();
/// closing.after(note("say goodbye"));
/// closing.during(note("close"));
/// closing.before(move || saving);
/// let closed = closing.fire();
/// assert!(log.borrow().is_empty(), "waits until everything is saved");
/// saved.callback(());
/// assert_eq!(*log.borrow(), ["close", "say goodbye"]);
/// assert!(closed.is_fired());
/// ```
#[doc(alias = "addSystemEventTrigger")]
#[derive(Clone, Default)]
pub struct Triggers(Rc<Inner>);

/// Names one function that was added to [`Triggers`]; dropping it changes nothing.
#[derive(Clone)]
pub struct Trigger {
    event: Weak<Inner>,
    phase: Phase,
    number: u64,
}

/// The trigger has run already, or was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TriggerGone;

impl fmt::Display for TriggerGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the trigger has run already or was removed")
    }
}

impl Error for TriggerGone {}

#[derive(Default)]
struct Inner {
    phases: RefCell<[Queue; 3]>,
    /// The number of the next trigger.
    next: Cell<u64>,
    is_firing: Cell<bool>,
    /// How often it has happened.
    round: Cell<u64>,
    /// Nothing is added any more.
    closed: Cell<bool>,
    /// Decides when the event happens once the first phase is over; without one it happens then.
    conductor: OnceCell<Box<dyn Fn()>>,
    /// What the next phase waits for: the Deferreds of the first one, and the end of the first one itself.
    pending: Cell<usize>,
    /// To be told when all is over.
    audience: RefCell<Vec<Completer<()>>>,
}

type Queue = VecDeque<(u64, Place, Function)>;
type Function = Box<dyn FnOnce() -> Deferred<()>>;
/// The line that added a function.
type Place = &'static Location<'static>;

#[derive(Debug, Clone, Copy)]
enum Phase {
    Before,
    During,
    After,
}

impl Triggers {
    /// An event that nothing waits for yet.
    pub fn new() -> Self {
        Triggers::default()
    }

    /// Has `trigger` called first, and what it returns waited for: the place to bring work in hand to an end.
    #[track_caller]
    pub fn before<R: IntoDeferred<()>>(&self, trigger: impl FnOnce() -> R + 'static) -> Trigger {
        self.add(Phase::Before, trigger)
    }

    /// Has `trigger` called when the event happens. What it returns is not waited for.
    #[track_caller]
    pub fn during<R: IntoDeferred<()>>(&self, trigger: impl FnOnce() -> R + 'static) -> Trigger {
        self.add(Phase::During, trigger)
    }

    /// Has `trigger` called last. What it returns is not waited for.
    #[track_caller]
    pub fn after<R: IntoDeferred<()>>(&self, trigger: impl FnOnce() -> R + 'static) -> Trigger {
        self.add(Phase::After, trigger)
    }

    /// Makes the event happen; the chain fires when the last trigger has been called.
    ///
    /// What is added to a phase that has not ended is called with it; what comes too late waits for the next time. An event
    /// that is already happening does not happen twice: the chain then fires with the one under way.
    #[doc(alias = "fireSystemEvent")]
    pub fn fire(&self) -> Deferred<()> {
        let over = self.listen();
        if !self.0.is_firing.replace(true) {
            self.0.begin();
        }
        over
    }

    /// Fires when the event has happened the next time.
    pub(crate) fn listen(&self) -> Deferred<()> {
        let (completer, over) = Deferred::pair();
        self.0.audience.borrow_mut().push(completer);
        over
    }

    /// Has `conductor` called each time the first phase is over; the event happens when that calls
    /// [`happen`](Triggers::happen).
    pub(crate) fn conduct(&self, conductor: impl Fn() + 'static) {
        // There is one conductor: whoever made the event.
        let _ = self.0.conductor.set(Box::new(conductor));
    }

    /// Calls the triggers of the last two phases, also when those of the first are still waited for.
    pub(crate) fn happen(&self) {
        self.0.happen();
    }

    /// Drops every trigger, and those that are added later: the event will not happen again.
    pub(crate) fn close(&self) {
        self.0.closed.set(true);
        let phases = self.0.phases.take();
        drop(phases);
    }

    #[track_caller]
    fn add<R: IntoDeferred<()>>(&self, phase: Phase, trigger: impl FnOnce() -> R + 'static) -> Trigger {
        let number = self.0.next.get();
        self.0.next.set(number + 1);
        if !self.0.closed.get() {
            let trigger: Function = Box::new(move || maybe_deferred(trigger));
            self.0.phases.borrow_mut()[phase as usize].push_back((number, Location::caller(), trigger));
        }
        Trigger { event: Rc::downgrade(&self.0), phase, number }
    }
}

impl fmt::Debug for Triggers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.0.phases.borrow().each_ref().map(VecDeque::len);
        let [before, during, after] = waiting;
        f.debug_struct("Triggers")
            .field("before", &before)
            .field("during", &during)
            .field("after", &after)
            .field("is_firing", &self.0.is_firing.get())
            .finish()
    }
}

impl Trigger {
    /// Takes the function out again, uncalled. Possible until it is called, also while the event is already happening.
    ///
    /// # Errors
    /// [`TriggerGone`] when it was called or removed before.
    #[doc(alias = "removeSystemEventTrigger")]
    pub fn remove(&self) -> Result<(), TriggerGone> {
        let event = self.event.upgrade().ok_or(TriggerGone)?;
        // Dropped by the caller of this block, when nothing is borrowed any more.
        let removed = {
            let queue = &mut event.phases.borrow_mut()[self.phase as usize];
            let place = queue.iter().position(|(number, ..)| *number == self.number);
            place.and_then(|place| queue.remove(place))
        };
        removed.map(drop).ok_or(TriggerGone)
    }
}

impl fmt::Debug for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trigger({:?}, {})", self.phase, self.number)
    }
}

impl Inner {
    fn take_first(&self, phase: Phase) -> Option<(Place, Function)> {
        let first = self.phases.borrow_mut()[phase as usize].pop_front();
        first.map(|(_, place, trigger)| (place, trigger))
    }

    fn begin(self: &Rc<Self>) {
        let round = self.round.get();
        // One for this loop: a Deferred that fires in the middle of it must not start the next phase.
        self.pending.set(1);
        while let Some(trigger) = self.take_first(Phase::Before) {
            self.pending.update(|pending| pending + 1);
            let event = self.clone();
            call(trigger, move || event.one_is_done(round));
        }
        self.one_is_done(round);
    }

    fn one_is_done(&self, round: u64) {
        if round != self.round.get() {
            return;
        }
        let pending = self.pending.get() - 1;
        self.pending.set(pending);
        if pending == 0 {
            match self.conductor.get() {
                Some(conductor) => conductor(),
                None => self.happen(),
            }
        }
    }

    fn happen(&self) {
        self.round.update(|round| round + 1);
        for phase in [Phase::During, Phase::After] {
            while let Some(trigger) = self.take_first(phase) {
                call(trigger, || {});
            }
        }
        self.is_firing.set(false);
        for completer in self.audience.take() {
            completer.callback(());
        }
    }
}

/// Calls a trigger, and `done` when what it returned has its result.
fn call((place, trigger): (Place, Function), done: impl FnOnce() + 'static) {
    trigger().add_both(move |result| {
        if let Err(failure) = result {
            // A timeout, say, or a panic, tells nothing of whose it is.
            failure.log_and("dosimeter::reactor", format_args!("a trigger failed"), &format!("\n  trigger: {place}"));
        }
        done();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_does_not_count_for_the_next_time() {
        let event = Triggers::new();
        let (late, given_up) = Deferred::pair();
        event.before(move || given_up);
        drop(event.fire());
        event.happen();
        let (completer, waits) = Deferred::pair();
        event.before(move || waits);
        let over = event.fire();
        late.callback(());
        assert!(!over.is_fired(), "it waits for its own");
        completer.callback(());
        assert!(over.is_fired());
    }
}
