//! The queue behind a clock: what is to be done when, and what happens then.
//!
//! Rules kept here:
//! - Calls come up by (deadline, sequence): equal deadlines in the order they were armed.
//! - Cancelling is O(1). What is left in the heap is swept out when more than half of the heap is such left-overs.
//! - Moving a deadline back is O(1) as well: the heap entry stays where it is and is put in order when it comes up. A
//!   deadline that every request moves (an idle timeout) costs a store per request.
//! - Nothing here runs or drops a closure, or knows the time: both is for who owns the queue.

use std::any::type_name;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;

use crate::slots::{Key, Slots};

/// Calls by the time they are due, in nanoseconds from whenever its owner counts.
pub(crate) struct Queue {
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

impl Action {
    /// To call `function`, which was armed in `line`.
    pub(crate) fn call(function: impl FnOnce() + 'static, line: &'static Location<'static>) -> Self {
        Action::Call(Box::new(Placed { function, line }))
    }
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

impl Queue {
    pub(crate) fn new() -> Self {
        Queue { heap: BinaryHeap::new(), slots: Slots::new(), sequence: 0, cancelled: 0 }
    }

    /// How many calls are pending.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many calls were cancelled so far.
    pub(crate) fn cancelled(&self) -> u64 {
        self.cancelled
    }

    /// When a call is due; `None` when it is gone.
    pub(crate) fn deadline(&self, key: Key) -> Option<u64> {
        Some(self.slots.get(key)?.deadline)
    }

    /// The calls there are, in the order in which they are due.
    pub(crate) fn pending(&self) -> Vec<Key> {
        let mut calls: Vec<_> = self.slots.iter().map(|(key, slot)| (slot.deadline, slot.sequence, key)).collect();
        calls.sort_unstable_by_key(|&(deadline, sequence, _)| (deadline, sequence));
        calls.into_iter().map(|(.., key)| key).collect()
    }

    /// Takes out every call, to be dropped by the caller.
    pub(crate) fn clear(&mut self) -> Vec<Action> {
        self.heap.clear();
        self.slots.drain().map(|slot| slot.action).collect()
    }

    /// Marks the calls there are now: see [`pop_due`](Queue::pop_due).
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.sequence)
    }

    pub(crate) fn arm(&mut self, deadline: u64, action: Action) -> Key {
        let sequence = self.next_sequence();
        let key = self.slots.insert(Slot { deadline, sequence, entry: sequence, action });
        self.push(deadline, sequence, key);
        key
    }

    /// Moves a call to another deadline, where it is the last of those due then; `None` when it is gone.
    pub(crate) fn reset(&mut self, key: Key, deadline: u64) -> Option<()> {
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

    /// Takes a call out, to be dropped by the caller.
    pub(crate) fn cancel(&mut self, key: Key) -> Option<Action> {
        let slot = self.slots.remove(key)?;
        self.cancelled += 1;
        self.sweep();
        Some(slot.action)
    }

    /// Takes the next call that is due at `now` and was armed before `mark`, with its deadline.
    pub(crate) fn pop_due(&mut self, now: u64, Mark(mark): Mark) -> Option<(Action, u64)> {
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
                        return self.slots.remove(key).map(|slot| (slot.action, slot.deadline));
                    }
                    slot.entry = slot.sequence;
                    let (deadline, sequence) = (slot.deadline, slot.sequence);
                    self.push(deadline, sequence, key);
                }
                _ => {}
            }
        }
    }

    /// When the next call is due, or something before it was.
    pub(crate) fn next_deadline(&mut self) -> Option<u64> {
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

/// What was armed later is due in another pass; see [`Queue::pop_due`].
#[derive(Clone, Copy)]
pub(crate) struct Mark(u64);

/// Below this many heap entries a sweep is not worth its while; Twisted's figure.
const SWEEP_MIN: usize = 50;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn nothing() -> Action {
        Action::call(|| {}, Location::caller())
    }

    #[test]
    fn cancelled_and_moved_calls_do_not_pile_up() {
        let mut queue = Queue::new();
        let kept: Vec<_> = (0..100).map(|number| queue.arm(number * SECOND, nothing())).collect();
        let long = 3_600 * SECOND;
        for number in 0..10_000 {
            let key = queue.arm(long, nothing());
            queue.cancel(key).expect("pending");
            // Forward in time every time: each leaves an entry behind.
            queue.reset(kept[number % 100], long - number as u64).expect("pending");
            let entries = queue.heap.len();
            assert!(entries <= 2 * kept.len() + 2, "{entries} entries for {} calls", kept.len());
        }
    }

    #[test]
    fn a_deadline_takes_little_room() {
        // Ten thousand idle connections are ten thousand of these; a variant of the enum more, or less room for its tag, and it
        // is a word more.
        assert_eq!(size_of::<Option<Action>>(), 24);
    }

    #[test]
    fn a_deadline_that_is_put_off_again_and_again_costs_one_entry() {
        let mut queue = Queue::new();
        let call = queue.arm(60 * SECOND, nothing());
        for second in 61..1_000 {
            queue.reset(call, second * SECOND).expect("pending");
        }
        assert_eq!(queue.heap.len(), 1);
    }
}
