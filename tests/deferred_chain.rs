//! Firing a chain and running its callbacks, and doing anything to it from inside them.

#[path = "support/journal.rs"]
mod journal;

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};

use dosimeter::{Abandoned, Completer, Deferred, Failure, Panicked, Result, gather_results, maybe_deferred, race};
use journal::Journal;

/// The value of a chain that has one.
fn value<T: 'static>(deferred: Deferred<T>) -> T {
    deferred.into_result().ok().expect("fired").expect("a value")
}

/// The failure of a chain that has one.
fn failure<T: 'static>(deferred: Deferred<T>) -> Failure {
    deferred.into_result().ok().expect("fired").err().expect("a failure")
}

// ---- firing -------------------------------------------------------------------------------------------

#[test]
fn nothing_runs_before_the_chain_is_fired() {
    let journal = Journal::new();
    let (completer, deferred) = Deferred::<i32>::pair();
    assert!(!deferred.is_fired());
    let deferred = deferred.add_callback(journal.noting("one"));
    assert!(!deferred.is_fired());
    assert!(journal.take().is_empty());
    completer.callback(1);
    assert!(deferred.is_fired());
}

#[test]
fn firing_runs_every_callback_in_the_order_added_before_it_returns() {
    let journal = Journal::new();
    let (completer, deferred) = Deferred::pair();
    let tail = deferred
        .add_callback(journal.noting("first"))
        .add_callback(journal.noting("second"))
        .add_callback(journal.noting("third"));
    completer.callback(7);
    assert_eq!(journal.take(), ["first 7", "second 7", "third 7"]);
    assert_eq!(value(tail), 7);
}

#[test]
fn a_callback_added_to_a_fired_chain_runs_before_the_add_returns() {
    let journal = Journal::new();
    let (completer, deferred) = Deferred::pair();
    completer.callback(7);
    let tail = deferred.add_callback(journal.noting("late"));
    assert_eq!(journal.take(), ["late 7"]);
    assert_eq!(value(tail.add_callback(journal.noting("later"))), 7);
    assert_eq!(journal.take(), ["later 7"]);
}

#[test]
fn each_return_value_is_the_input_of_the_next_callback() {
    let (completer, deferred) = Deferred::pair();
    let tail = deferred
        .add_callback(|number: i32| Ok(number.to_string()))
        .add_callback(|text| Ok(text + "!"))
        .map(|text| text.len());
    completer.callback(42);
    assert_eq!(value(tail), 3);
}

#[test]
fn unit_is_an_ordinary_value_and_a_callback_without_a_result_gives_it() {
    let (completer, deferred) = Deferred::<i32>::pair();
    let tail = deferred.add_callback(|_| {}).add_callback(|()| Ok("went on"));
    completer.callback(1);
    assert_eq!(value(tail), "went on");
}

#[test]
fn a_chain_made_fired_is_the_same_as_one_fired_by_hand() {
    let by_hand = || {
        let (completer, deferred) = Deferred::pair();
        completer.callback(1);
        deferred
    };
    for deferred in [Deferred::succeed(1), Deferred::from(Ok(1)), by_hand()] {
        assert!(deferred.is_fired());
        assert_eq!(value(deferred.map(|number| number + 1)), 2);
    }
    let failed_by_hand = || {
        let (completer, deferred) = Deferred::pair();
        completer.errback("no");
        deferred
    };
    for deferred in [Deferred::<i32>::fail("no"), Deferred::from(Err("no".into())), failed_by_hand()] {
        assert!(deferred.is_fired());
        assert_eq!(failure(deferred).to_string(), "no");
    }
}

#[test]
fn a_result_fires_a_chain_on_the_track_it_is_on() {
    let (completer, deferred) = Deferred::<i32>::pair();
    completer.fire(Err("no".into()));
    assert_eq!(failure(deferred).to_string(), "no");
    let (completer, deferred) = Deferred::pair();
    completer.fire(Ok(1));
    assert_eq!(value(deferred), 1);
}

#[test]
fn a_completer_dropped_unfired_fails_the_chain_as_abandoned() {
    let (completer, deferred) = Deferred::<i32>::pair();
    drop(completer);
    assert!(failure(deferred).is::<Abandoned>());
}

#[test]
fn a_pending_chain_is_given_back_by_the_question_for_its_result() {
    let (completer, deferred) = Deferred::pair();
    let Err(deferred) = deferred.into_result() else { panic!("nothing was fired") };
    completer.callback(5);
    assert_eq!(value(deferred), 5);
}

// ---- the two tracks -----------------------------------------------------------------------------------

#[test]
fn a_failure_passes_by_callbacks_and_a_value_passes_by_errbacks() {
    let journal = Journal::new();
    let note = |name: &'static str| {
        let journal = journal.clone();
        move |failure: Failure| {
            journal.note(format!("{name} {failure}"));
            Ok(0)
        }
    };
    let (completer, deferred) = Deferred::pair();
    let tail = deferred
        .add_errback(note("errback of a value"))
        .add_callback(|_| Err::<i32, _>("broken".into()))
        .add_callback(journal.noting("callback of a failure"))
        .add_errback(note("errback"))
        .add_callback(journal.noting("callback"));
    completer.callback(1);
    assert_eq!(journal.take(), ["errback broken", "callback 0"]);
    assert_eq!(value(tail), 0);
}

#[test]
fn an_errback_that_fails_replaces_the_failure() {
    let tail = Deferred::<i32>::fail("first").add_errback(|_| Err("second".into()));
    assert_eq!(failure(tail).to_string(), "second");
}

#[test]
fn a_failure_that_nobody_touches_arrives_as_the_same_object() {
    let original = Failure::new(io::Error::other("disk"));
    let address = std::ptr::from_ref(original.downcast_ref::<io::Error>().expect("put in"));
    let (completer, deferred) = Deferred::<i32>::pair();
    let tail = deferred.map(|number| number).inspect(|_| ()).add_callback(|_| Ok(())).add_callbacks(Ok, Err);
    completer.errback(original);
    assert!(std::ptr::eq(address, failure(tail).downcast_ref::<io::Error>().expect("the same")));
}

#[test]
fn of_a_pair_exactly_one_runs_and_neither_sees_what_the_other_did() {
    // A failing callback is not seen by the errback beside it.
    let tail = Deferred::succeed(1).add_callbacks(|_| Err::<i32, _>("from the callback".into()), |_| Ok(0));
    assert_eq!(failure(tail).to_string(), "from the callback");
    // A recovery is not seen by the callback beside it.
    let tail = Deferred::<i32>::fail("no").add_callbacks(|_| Err("not called".into()), |_| Ok(7));
    assert_eq!(value(tail), 7);
}

#[test]
fn of_two_levels_the_errback_sees_the_failure_of_the_callback() {
    let tail = Deferred::succeed(1).add_callback(|_| Err::<i32, _>("broken".into())).add_errback(|_| Ok(7));
    assert_eq!(value(tail), 7);
}

#[test]
fn add_both_runs_exactly_once_on_either_track() {
    let calls = Rc::new(Cell::new(0));
    for start in [Ok(1), Err(Failure::from("no"))] {
        let calls = calls.clone();
        let tail = Deferred::from(start).add_both(move |result: Result<i32>| {
            calls.set(calls.get() + 1);
            Ok(result.is_ok())
        });
        value(tail);
    }
    assert_eq!(calls.get(), 2);
}

#[test]
fn inspect_looks_at_a_value_and_changes_nothing() {
    let journal = Journal::new();
    let seen = journal.clone();
    assert_eq!(value(Deferred::succeed(3).inspect(move |number| seen.note(number))), 3);
    assert_eq!(journal.take(), ["3"]);
    let seen = journal.clone();
    assert_eq!(failure(Deferred::<i32>::fail("no").inspect(move |number| seen.note(number))).to_string(), "no");
    assert!(journal.take().is_empty());
}

#[test]
fn a_logged_failure_goes_on_as_it_is() {
    assert_eq!(failure(Deferred::<i32>::fail("no").log_failure("the work")).to_string(), "no");
    assert_eq!(value(Deferred::succeed(1).log_failure("the work")), 1);
}

// ---- maybe_deferred -----------------------------------------------------------------------------------

#[test]
fn maybe_deferred_makes_a_chain_of_every_outcome() {
    assert_eq!(value(maybe_deferred(|| Ok(1))), 1);
    value(maybe_deferred(|| {}));
    assert_eq!(failure(maybe_deferred(|| Err::<i32, _>("no".into()))).to_string(), "no");
    let panicked: Deferred<i32> = maybe_deferred(|| -> Result<i32> { panic!("at once") });
    assert!(failure(panicked).is_panic());
    let (completer, deferred) = Deferred::pair();
    let same = maybe_deferred(|| deferred);
    completer.callback(2);
    assert_eq!(value(same), 2);
}

#[test]
fn maybe_deferred_keeps_the_failure_it_is_given() {
    let original = Failure::new(io::Error::other("disk"));
    let address = std::ptr::from_ref(original.downcast_ref::<io::Error>().expect("put in"));
    let failed = failure(maybe_deferred(|| Err::<(), _>(original)));
    assert!(std::ptr::eq(address, failed.downcast_ref::<io::Error>().expect("the same")));
}

// ---- panics -------------------------------------------------------------------------------------------

#[test]
fn a_panic_in_a_callback_is_the_failure_of_the_chain() {
    let (completer, deferred) = Deferred::<i32>::pair();
    let tail = deferred.map(|number| if number > 0 { panic!("number {number}") } else { number });
    completer.callback(3);
    let failure = failure(tail);
    assert!(failure.is_panic());
    assert_eq!(failure.downcast_ref::<Panicked>().expect("a panic").message, "number 3");
}

/// Panics when it is dropped.
#[derive(Debug)]
struct Bomb;

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bomb")
    }
}

impl Error for Bomb {}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the bomb")
    }
}

#[test]
fn a_panic_in_the_drop_of_a_closure_is_the_failure_of_the_chain() {
    let bomb = Bomb;
    let called = Deferred::succeed(1).map(move |number| {
        let _bomb = &bomb;
        number
    });
    assert!(failure(called).is_panic());
    let (completer, deferred) = Deferred::<i32>::pair();
    let bomb = Bomb;
    let passed_by = deferred.map(move |number| {
        let _bomb = &bomb;
        number
    });
    completer.errback("passes by");
    assert!(failure(passed_by).is_panic());
}

#[test]
fn a_panic_in_the_drop_of_a_canceller_does_not_stop_the_chain() {
    let (completer, deferred) = Deferred::pair();
    let bomb = Bomb;
    completer.on_cancel(move || {
        let _bomb = &bomb;
    });
    completer.callback(1);
    assert_eq!(value(deferred), 1);
}

#[test]
fn a_panic_in_the_drop_of_a_value_nobody_takes_ends_there() {
    let (completer, deferred) = Deferred::pair();
    drop(deferred.map(|()| Bomb));
    completer.callback(());
    let (completer, deferred) = Deferred::pair();
    deferred.cancel();
    completer.callback(Bomb);
    drop(deferred.into_result());
}

#[test]
fn a_panic_in_the_drop_of_an_error_nobody_handles_ends_there() {
    drop(Deferred::<i32>::fail(Bomb));
    let (completer, deferred) = Deferred::<i32>::pair();
    drop(deferred.map(|number| number));
    completer.errback(Bomb);
    let (completer, deferred) = Deferred::<i32>::pair();
    completer.errback(Bomb);
    drop(deferred);
    // Two that went off in one unwinding would end the program.
    drop(race([Deferred::<i32>::fail(Bomb), Deferred::fail(Bomb)]));
    drop(gather_results([Deferred::<i32>::fail(Bomb), Deferred::fail(Bomb)]));
}

#[test]
fn a_completer_dropped_by_an_unwinding_panic_fires_its_chain() {
    let (completer, deferred) = Deferred::<i32>::pair();
    let tail = deferred.add_errback(|failure| {
        assert!(failure.is::<Abandoned>());
        if failure.is::<Abandoned>() {
            panic!("a second panic, inside the unwinding of the first");
        }
        Ok(0)
    });
    let outer = maybe_deferred(move || -> Result<()> {
        let _completer = completer;
        panic!("the first")
    });
    assert_eq!(failure(outer).to_string(), "panicked: the first");
    assert!(failure(tail).is_panic());
}

// ---- from inside a callback ---------------------------------------------------------------------------

#[test]
fn a_callback_added_from_inside_runs_after_the_current_one_and_in_the_same_pass() {
    let journal = Journal::new();
    let (completer, deferred) = Deferred::<i32>::pair();
    let tail: Rc<RefCell<Option<Deferred<i32>>>> = Rc::default();
    let (inside, slot) = (journal.clone(), tail.clone());
    let deferred = deferred.add_callback(move |number| {
        let extended = slot.take().expect("put there").add_callback(inside.noting("added inside"));
        slot.replace(Some(extended));
        inside.note("still in the first");
        Ok(number)
    });
    tail.replace(Some(deferred.add_callback(journal.noting("second"))));
    completer.callback(1);
    assert_eq!(journal.take(), ["still in the first", "second 1", "added inside 1"]);
    assert_eq!(value(tail.take().expect("put back")), 1);
}

#[test]
fn an_addition_from_inside_may_fail_and_be_handled() {
    let (completer, deferred) = Deferred::<i32>::pair();
    let tail: Rc<RefCell<Option<Deferred<i32>>>> = Rc::default();
    let slot = tail.clone();
    let first = deferred.add_callback(move |number| {
        let failing = slot.take().expect("put there").add_callback(|_| Err::<i32, _>("inside".into()));
        slot.replace(Some(failing.add_errback(|failure| Ok(failure.to_string().len() as i32))));
        Ok(number)
    });
    tail.replace(Some(first));
    completer.callback(1);
    assert_eq!(value(tail.take().expect("put back")), 6);
}

#[test]
fn firing_another_chain_from_inside_runs_it_at_once() {
    let journal = Journal::new();
    let (outer, first) = Deferred::<i32>::pair();
    let (inner, other) = Deferred::<i32>::pair();
    drop(other.add_callback(journal.noting("other")));
    let inside = journal.clone();
    let tail = first.add_callback(move |number| {
        inner.callback(2);
        inside.note("back");
        Ok(number)
    });
    outer.callback(1);
    assert_eq!(journal.take(), ["other 2", "back"]);
    assert_eq!(value(tail), 1);
}

#[test]
fn cancelling_and_dropping_another_chain_from_inside_is_harmless() {
    let (outer, first) = Deferred::<i32>::pair();
    let (kept, other) = Deferred::<i32>::pair();
    let (dropped, third) = Deferred::<i32>::pair();
    let tail = first.add_callback(move |number| {
        other.cancel();
        drop(dropped);
        drop(third.add_errback(|_| Ok(0)));
        Ok((number, other))
    });
    outer.callback(1);
    let (number, other) = value(tail);
    assert_eq!(number, 1);
    assert!(other.is_fired() && kept.is_cancelled());
    drop(other.into_result());
}

#[test]
fn dropping_the_last_handle_from_inside_lets_the_pass_finish() {
    let journal = Journal::new();
    let (completer, deferred) = Deferred::<i32>::pair();
    let tail: Rc<RefCell<Option<Deferred<i32>>>> = Rc::default();
    let slot = tail.clone();
    let first = deferred.add_callback(move |number| {
        drop(slot.take());
        Ok(number)
    });
    tail.replace(Some(first.add_callback(journal.noting("after the drop"))));
    completer.callback(1);
    assert_eq!(journal.take(), ["after the drop 1"]);
}

#[test]
fn a_callback_may_drop_the_completer_of_its_own_chain_s_successor() {
    let (first, one) = Deferred::<i32>::pair();
    let (second, two) = Deferred::<i32>::pair();
    let tail = one.add_callback(move |_| {
        drop::<Completer<i32>>(second);
        two
    });
    first.callback(1);
    assert!(failure(tail).is::<Abandoned>());
}

#[test]
fn everything_a_callback_holds_is_freed_when_the_chain_has_run() {
    let token = Rc::new(());
    let watch: Weak<()> = Rc::downgrade(&token);
    let (completer, deferred) = Deferred::<i32>::pair();
    let tail = deferred.map(move |number| number + Rc::strong_count(&token) as i32);
    assert!(watch.upgrade().is_some());
    completer.callback(1);
    assert!(watch.upgrade().is_none(), "while the tail is still held");
    assert_eq!(value(tail), 2);
}
