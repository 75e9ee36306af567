//! Cancelling: what it reaches, who is asked, and what becomes of a result that comes too late.

#[path = "support/journal.rs"]
mod journal;
#[path = "support/log.rs"]
mod log_capture;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use dosimeter::{Cancelled, Canceller, Completer, Deferred, Result};
use journal::Journal;
use log_capture::logged;

fn result<T: 'static>(deferred: Deferred<T>) -> Result<T> {
    deferred.into_result().ok().expect("fired")
}

fn is_cancelled<T: 'static>(deferred: Deferred<T>) -> bool {
    result(deferred).err().expect("a failure").is::<Cancelled>()
}

/// A completer that a canceller can fire.
fn shared<T: 'static>(completer: Completer<T>) -> Rc<RefCell<Option<Completer<T>>>> {
    Rc::new(RefCell::new(Some(completer)))
}

// ---- without a canceller ------------------------------------------------------------------------------

#[test]
fn without_a_canceller_the_chain_fails_at_once() {
    let (completer, deferred) = Deferred::<i32>::pair();
    assert!(!completer.is_cancelled());
    deferred.cancel();
    assert!(completer.is_cancelled());
    assert!(is_cancelled(deferred));
}

#[test]
fn a_late_result_is_dropped_in_silence() {
    for late in [Ok(1), Err("late".into())] {
        let (completer, deferred) = Deferred::<i32>::pair();
        deferred.cancel();
        assert!(logged(|| completer.fire(late)).is_empty());
        assert!(is_cancelled(deferred));
    }
}

#[test]
fn cancelling_again_changes_nothing() {
    let (completer, deferred) = Deferred::<i32>::pair();
    deferred.cancel();
    deferred.cancel();
    completer.callback(1);
    deferred.cancel();
    assert!(is_cancelled(deferred));
}

#[test]
fn a_completer_dropped_after_the_cancellation_abandons_nothing() {
    let (completer, deferred) = Deferred::<i32>::pair();
    deferred.cancel();
    drop(completer);
    assert!(is_cancelled(deferred));
}

// ---- with a canceller ---------------------------------------------------------------------------------

#[test]
fn a_canceller_that_does_not_fire_makes_a_late_result_a_warning() {
    let (completer, deferred) = Deferred::<i32>::pair();
    let asked = Rc::new(Cell::new(0));
    completer.on_cancel({
        let asked = asked.clone();
        move || asked.set(asked.get() + 1)
    });
    deferred.cancel();
    deferred.cancel();
    assert_eq!(asked.get(), 1);
    let lines = logged(|| completer.callback(1));
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("WARN a Deferred made at"), "{}", lines[0]);
    assert!(is_cancelled(deferred));
}

#[test]
fn a_canceller_may_fire_the_chain_with_a_value_or_a_failure_of_its_own() {
    for (fired, expected) in [(Ok(1), "1"), (Err("closed".into()), "closed")] {
        let (completer, deferred) = Deferred::<i32>::pair();
        let completer = shared(completer);
        completer.borrow().as_ref().expect("just put").on_cancel({
            let completer = completer.clone();
            move || completer.take().expect("not fired").fire(fired)
        });
        deferred.cancel();
        let text = result(deferred).map_or_else(|failure| failure.to_string(), |value| value.to_string());
        assert_eq!(text, expected);
        assert!(completer.take().is_none());
    }
}

#[test]
fn a_canceller_that_drops_the_completer_has_not_forgotten_the_chain() {
    let (completer, deferred) = Deferred::<i32>::pair();
    let completer = shared(completer);
    completer.borrow().as_ref().expect("just put").on_cancel({
        let completer = completer.clone();
        move || drop(completer.take())
    });
    deferred.cancel();
    assert!(is_cancelled(deferred));
}

#[test]
fn a_canceller_is_not_called_once_the_chain_is_fired() {
    let journal = Journal::new();
    let (completer, deferred) = Deferred::<i32>::pair();
    let asked = journal.clone();
    completer.on_cancel(move || asked.note("asked"));
    completer.callback(1);
    deferred.cancel();
    assert!(journal.take().is_empty());
    assert_eq!(result(deferred).expect("kept"), 1);
}

#[test]
fn a_canceller_is_dropped_when_the_chain_is_fired_though_the_chain_waits_for_another() {
    let token = Rc::new(());
    let watch = Rc::downgrade(&token);
    let (completer, deferred) = Deferred::<i32>::pair();
    completer.on_cancel(move || drop(token));
    let (_inner, never) = Deferred::<i32>::pair();
    let tail = deferred.add_callback(|_| never);
    completer.callback(1);
    assert!(watch.upgrade().is_none());
    assert!(!tail.is_fired());
}

#[test]
fn a_canceller_that_holds_its_own_chain_is_freed_by_firing() {
    let token = Rc::new(());
    let watch = Rc::downgrade(&token);
    let (completer, deferred) = Deferred::<i32>::pair();
    let deferred = Rc::new(deferred);
    completer.on_cancel({
        let deferred = deferred.clone();
        move || drop((deferred, token))
    });
    completer.callback(1);
    assert!(watch.upgrade().is_none());
    assert_eq!(Rc::strong_count(&deferred), 1);
}

#[test]
fn a_canceller_that_panics_is_logged_and_the_chain_is_cancelled() {
    let (completer, deferred) = Deferred::<i32>::pair();
    completer.on_cancel(|| panic!("cannot stop"));
    let lines = logged(|| deferred.cancel());
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("ERROR a canceller failed: panicked: cannot stop"), "{}", lines[0]);
    assert!(is_cancelled(deferred));
    drop(completer);
}

#[test]
fn a_canceller_that_cancels_its_own_chain_is_not_called_again() {
    let (completer, deferred) = Deferred::<i32>::pair();
    let calls = Rc::new(Cell::new(0));
    let own = deferred.canceller();
    completer.on_cancel({
        let calls = calls.clone();
        move || {
            calls.set(calls.get() + 1);
            own.cancel();
        }
    });
    deferred.cancel();
    assert_eq!(calls.get(), 1);
    assert!(is_cancelled(deferred));
}

#[test]
fn a_canceller_set_after_the_cancellation_is_never_called() {
    let (completer, deferred) = Deferred::<i32>::pair();
    deferred.cancel();
    let token = Rc::new(());
    let watch = Rc::downgrade(&token);
    completer.on_cancel(move || drop(token));
    assert!(watch.upgrade().is_none());
    assert!(is_cancelled(deferred));
}

// ---- which chain it reaches ---------------------------------------------------------------------------

#[test]
fn cancelling_reaches_the_innermost_chain_alone() {
    let journal = Journal::new();
    let noting = |completer: &Completer<i32>, name: &'static str| {
        let journal = journal.clone();
        completer.on_cancel(move || journal.note(name));
    };
    let (outer, first) = Deferred::<i32>::pair();
    let (middle, second) = Deferred::<i32>::pair();
    let (inner, third) = Deferred::<i32>::pair();
    noting(&outer, "outer");
    noting(&middle, "middle");
    noting(&inner, "inner");
    let second = second.add_callback(|_| third);
    let tail = first.add_callback(|_| second).map(|number| number);
    outer.callback(1);
    middle.callback(2);
    tail.cancel();
    assert_eq!(journal.take(), ["inner"]);
    assert!(inner.is_cancelled());
    assert!(is_cancelled(tail));
}

#[test]
fn an_errback_of_the_inner_chain_may_turn_the_cancellation_into_a_value() {
    let (_completer, inner) = Deferred::<i32>::pair();
    let inner = inner.add_errback(|failure| failure.trap::<Cancelled>().map(|_| 7));
    let tail = Deferred::succeed(1).add_callback(|_| inner).map(|number| number + 1);
    tail.cancel();
    assert_eq!(result(tail).expect("a value"), 8);
}

#[test]
fn cancelling_from_inside_the_running_callback_is_nothing() {
    let (completer, deferred) = Deferred::<i32>::pair();
    let canceller: Rc<RefCell<Option<Canceller>>> = Rc::default();
    let own = canceller.clone();
    let tail = deferred
        .map(move |number| {
            own.borrow().as_ref().expect("put there").cancel();
            number + 1
        })
        .map(|number| number * 10);
    canceller.replace(Some(tail.canceller()));
    completer.callback(1);
    assert_eq!(result(tail).expect("not cancelled"), 20);
}

#[test]
fn a_canceller_of_a_stage_reaches_what_that_stage_waits_for_though_others_were_added_after_it() {
    let (outer, first) = Deferred::<i32>::pair();
    let (inner, second) = Deferred::<i32>::pair();
    let stage = first.add_callback(|_| second);
    let canceller = stage.canceller();
    let tail = stage.add_errback(|failure| failure.trap::<Cancelled>().map(|_| 5)).map(|number| number + 1);
    outer.callback(1);
    canceller.cancel();
    assert!(inner.is_cancelled());
    assert_eq!(result(tail).expect("recovered"), 6);
}

#[test]
fn a_canceller_reaches_a_chain_whose_tail_was_dropped() {
    let (outer, first) = Deferred::<i32>::pair();
    let (inner, second) = Deferred::<i32>::pair();
    let stage = first.add_callback(|_| second);
    let canceller = stage.canceller();
    drop(stage);
    outer.callback(1);
    canceller.cancel();
    assert!(inner.is_cancelled());
}

#[test]
fn a_canceller_is_of_the_chain_up_to_its_own_stage() {
    let (completer, deferred) = Deferred::<i32>::pair();
    let canceller = deferred.canceller();
    let (later, never) = Deferred::<i32>::pair();
    let tail = deferred.add_callback(|_| never);
    completer.callback(1);
    canceller.cancel();
    assert!(!later.is_cancelled(), "what the canceller was made for has its result");
    later.callback(2);
    assert_eq!(result(tail).expect("a value"), 2);
}

#[test]
fn a_canceller_keeps_nothing_alive_and_may_outlive_everything() {
    let token = Rc::new(());
    let watch = Rc::downgrade(&token);
    let (completer, deferred) = Deferred::<i32>::pair();
    let tail = deferred.map(move |number| number + Rc::strong_count(&token) as i32);
    let canceller = tail.canceller();
    completer.callback(1);
    assert!(watch.upgrade().is_none());
    assert_eq!(result(tail).expect("a value"), 2);
    canceller.clone().cancel();
    Deferred::succeed(1).canceller().cancel();
}

#[test]
fn cancelling_a_chain_with_its_result_keeps_the_result() {
    let (completer, deferred) = Deferred::<i32>::pair();
    let tail = deferred.map(|number| number);
    completer.callback(1);
    tail.cancel();
    assert_eq!(result(tail).expect("kept"), 1);
}

#[test]
fn a_cancellation_runs_the_rest_of_the_chain_before_it_returns() {
    let journal = Journal::new();
    let (_completer, deferred) = Deferred::<i32>::pair();
    let tail = deferred.add_errback(|_| Ok(3)).add_callback(journal.noting("after"));
    tail.cancel();
    assert_eq!(journal.take(), ["after 3"]);
    assert_eq!(result(tail).expect("recovered"), 3);
}

// ---- pausing ------------------------------------------------------------------------------------------

#[test]
fn a_paused_chain_keeps_its_result_until_every_pause_is_gone() {
    let journal = Journal::new();
    let (completer, deferred) = Deferred::<i32>::pair();
    let (deferred, first) = deferred.pause();
    let (deferred, second) = deferred.pause();
    let tail = deferred.add_callback(journal.noting("one"));
    completer.callback(1);
    let tail = tail.add_callback(journal.noting("two"));
    second.unpause();
    assert!(journal.take().is_empty() && !tail.is_fired());
    first.unpause();
    assert_eq!(journal.take(), ["one 1", "two 1"]);
    assert_eq!(result(tail).expect("a value"), 1);
}

#[test]
fn unpausing_an_unfired_chain_lets_a_later_result_through() {
    let (completer, deferred) = Deferred::<i32>::pair();
    let (deferred, pause) = deferred.pause();
    pause.unpause();
    assert!(!deferred.is_fired());
    completer.callback(1);
    assert_eq!(result(deferred).expect("a value"), 1);
}

#[test]
fn a_fired_chain_can_be_paused_too_and_dropping_the_pause_ends_it() {
    let (deferred, pause) = Deferred::<i32>::fail("kept back").pause();
    assert!(!deferred.is_fired());
    drop(pause);
    assert_eq!(result(deferred).expect_err("a failure").to_string(), "kept back");
}

#[test]
fn a_paused_chain_returned_from_a_callback_makes_the_outer_one_wait() {
    let (inner, pause) = Deferred::succeed(2).pause();
    let tail = Deferred::succeed(1).add_callback(|_| inner);
    assert!(!tail.is_fired());
    pause.unpause();
    assert_eq!(result(tail).expect("a value"), 2);
}

#[test]
fn pausing_the_outer_chain_does_not_stop_the_inner_one() {
    let journal = Journal::new();
    let (completer, inner) = Deferred::<i32>::pair();
    let inner = inner.add_callback(journal.noting("inner"));
    let (tail, pause) = Deferred::succeed(1).add_callback(|_| inner).pause();
    let tail = tail.add_callback(journal.noting("outer"));
    completer.callback(2);
    assert_eq!(journal.take(), ["inner 2"]);
    pause.unpause();
    assert_eq!(journal.take(), ["outer 2"]);
    assert_eq!(result(tail).expect("a value"), 2);
}

#[test]
fn pausing_from_inside_a_callback_does_not_stop_the_pass_under_way() {
    let journal = Journal::new();
    let (completer, deferred) = Deferred::<i32>::pair();
    let tail: Rc<RefCell<Option<Deferred<i32>>>> = Rc::default();
    let pauses = Rc::new(RefCell::new(Vec::new()));
    let (slot, kept) = (tail.clone(), pauses.clone());
    let deferred = deferred.map(move |number| {
        let (paused, pause) = slot.take().expect("put there").pause();
        kept.borrow_mut().push(pause);
        slot.replace(Some(paused));
        number
    });
    tail.replace(Some(deferred.add_callback(journal.noting("already there"))));
    completer.callback(1);
    assert_eq!(journal.take(), ["already there 1"]);
    let tail = tail.take().expect("put back");
    assert!(!tail.is_fired());
    pauses.take();
    assert_eq!(result(tail).expect("a value"), 1);
}

#[test]
fn cancelling_a_chain_that_is_fired_and_paused_is_nothing() {
    let (deferred, pause) = Deferred::succeed(1).pause();
    let tail = Deferred::succeed(()).add_callback(|()| deferred);
    tail.cancel();
    assert!(!tail.is_fired());
    pause.unpause();
    assert_eq!(result(tail).expect("a value"), 1);
}

#[test]
fn cancelling_through_a_pause_reaches_the_inner_chain() {
    let (completer, inner) = Deferred::<i32>::pair();
    let (tail, pause) = Deferred::succeed(()).add_callback(|()| inner).pause();
    tail.cancel();
    assert!(completer.is_cancelled());
    assert!(!tail.is_fired());
    pause.unpause();
    assert!(is_cancelled(tail));
}
