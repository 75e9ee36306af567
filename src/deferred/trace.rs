//! Where chains come from, how many there were, and what is said when one ends badly.
//!
//! Rules kept here:
//! - A chain knows the place it was made at, one word, and nothing else of its past.
//! - While debugging is on, a book is kept by place and not by chain. It is bounded by the size of the program, keeps nothing
//!   alive, and costs nothing but a look at a flag while debugging is off.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::mem;
use std::panic::Location;

use crate::failure::{Cancelled, Failure, guard};

/// A line of the user's program.
pub(super) type Place = &'static Location<'static>;

/// What happened to the chains that were made at one place, while debugging.
#[derive(Default)]
struct Entry {
    /// Made and not fired yet.
    unfired: usize,
    /// Where callbacks were added to them, each place once.
    callbacks: Vec<Place>,
}

/// Switches the debugging of Deferreds on or off for this thread. `DOSIMETER_DEBUG=1` in the environment switches it on.
///
/// While it is on, a failure that nobody handles is logged with the places where callbacks were added to the chains made
/// there, and a reactor that stops warns of every Deferred that was not fired. It concerns the chains that are made while it
/// is on.
///
/// ```
/// dosimeter::set_debugging(true);
/// let (_completer, deferred) = dosimeter::Deferred::<i32>::pair();
/// assert!(format!("{deferred:?}").starts_with("Deferred(pending, made at "));
/// ```
#[doc(alias = "setDebugging")]
pub fn set_debugging(on: bool) {
    DEBUGGING.set(Some(on));
}

#[inline]
pub(super) fn debugging() -> bool {
    DEBUGGING.get().unwrap_or_else(ask_the_environment)
}

#[cold]
fn ask_the_environment() -> bool {
    let on = std::env::var_os("DOSIMETER_DEBUG").is_some_and(|value| !value.is_empty() && value != "0");
    DEBUGGING.set(Some(on));
    on
}

/// A callback is added at `place` to a chain made at `made`.
pub(super) fn note_callback(made: Place, place: Place) {
    if debugging() {
        note(made, |entry| {
            if !entry.callbacks.contains(&place) {
                entry.callbacks.push(place);
            }
        });
    }
}

/// A chain was made; to be told of only while debugging.
#[cold]
pub(super) fn note_made(made: Place) {
    note(made, |entry| entry.unfired += 1);
}

/// A chain that was noted as made is fired.
#[cold]
pub(super) fn note_fired(made: Place) {
    note(made, |entry| entry.unfired = entry.unfired.saturating_sub(1));
}

#[cold]
fn note(made: Place, what: impl FnOnce(&mut Entry)) {
    // At the end of the thread the book may be gone already.
    let _ = BOOK.try_with(|book| what(book.borrow_mut().entry(made).or_default()));
}

/// Warns of the chains of this thread that were not fired; called when a reactor stops.
pub(crate) fn warn_of_unfired() {
    if !debugging() {
        return;
    }
    let unfired: Vec<(Place, usize)> = BOOK.with_borrow(|book| {
        book.iter().filter(|(_, entry)| entry.unfired > 0).map(|(made, entry)| (*made, entry.unfired)).collect()
    });
    for (made, number) in unfired {
        log::warn!(
            target: TARGET,
            "not fired when the reactor stopped: {number} Deferred(s) made at {made}{}",
            list_of_callbacks(made)
        );
    }
}

/// The places where callbacks were added to the chains made at one place, each on a line of its own.
fn list_of_callbacks(made: Place) -> String {
    let lines = |book: &RefCell<BTreeMap<Place, Entry>>| {
        let book = book.borrow();
        let callbacks = book.get(made).into_iter().flat_map(|entry| &entry.callbacks);
        callbacks.map(|place| format!("\n  callback added at: {place}")).collect()
    };
    BOOK.try_with(lines).unwrap_or_default()
}

/// A failure has reached the end of a chain and nobody is there.
///
/// Not so a cancellation: somebody asked for it, and with the tail gone the chain has ended as that somebody wanted. It is
/// counted as cancelled, and told to those who read the log at debug level.
#[cold]
pub(super) fn log_unhandled(failure: Failure, made: Place) {
    if failure.is::<Cancelled>() {
        log::debug!(target: TARGET, "cancelled, and nobody waits for it: a Deferred made at {made}");
        return;
    }
    count(|tally| &tally.unhandled);
    let callbacks = list_of_callbacks(made);
    failure.log_and(TARGET, format_args!("unhandled failure in a Deferred made at {made}"), &callbacks);
    discard(failure);
}

/// Drops what nobody takes. Its drop is user code, and a chain does not end with it.
#[inline(never)]
pub(super) fn discard<T>(value: T) {
    if mem::needs_drop::<T>()
        && let Err(failure) = guard(move || drop(value))
    {
        failure.log(TARGET, format_args!("dropping what nobody took failed"));
    }
}

/// How many chains of this thread came to which end, since a reactor of the thread last took the figures: each does once a
/// turn, so that of several none counts what another has.
pub(crate) struct Tally {
    pub(crate) created: Cell<u64>,
    pub(crate) fired: Cell<u64>,
    pub(crate) failed: Cell<u64>,
    pub(crate) cancelled: Cell<u64>,
    pub(crate) abandoned: Cell<u64>,
    /// Dropped at both ends: nobody would fire it, and nobody waited.
    pub(crate) forgotten: Cell<u64>,
    pub(crate) unhandled: Cell<u64>,
}

pub(super) fn count(which: impl FnOnce(&Tally) -> &Cell<u64>) {
    TALLY.with(|tally| {
        let counter = which(tally);
        counter.set(counter.get() + 1);
    });
}

thread_local! {
    pub(crate) static TALLY: Tally = const {
        Tally {
            created: Cell::new(0),
            fired: Cell::new(0),
            failed: Cell::new(0),
            cancelled: Cell::new(0),
            abandoned: Cell::new(0),
            forgotten: Cell::new(0),
            unhandled: Cell::new(0),
        }
    };
    /// `None` until the environment was asked.
    static DEBUGGING: Cell<Option<bool>> = const { Cell::new(None) };
    /// Kept while debugging.
    static BOOK: RefCell<BTreeMap<Place, Entry>> = const { RefCell::new(BTreeMap::new()) };
}

/// Under this name the log knows all that concerns Deferreds.
pub(super) const TARGET: &str = "dosimeter::deferred";
