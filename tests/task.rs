//! Small tasks on a clock, in virtual time.

#[path = "support/reactor.rs"]
mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::testing::{Clock, assert_no_result, failure_result_of, success_result_of};
use dosimeter::{Cancelled, Clock as _, Deferred, Timers, defer_later};
use support::{reactor, turn_until};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn defer_later_gives_the_result_when_the_delay_has_passed() {
    let clock = Clock::new();
    let tea = defer_later(&clock, SECOND, || "tea");
    clock.advance(SECOND - Duration::from_nanos(1));
    assert_no_result(&tea);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(success_result_of(tea), "tea");
}

#[test]
fn defer_later_without_delay_still_waits_for_the_clock() {
    let clock = Clock::new();
    let tea = defer_later(&clock, Duration::ZERO, || "tea");
    assert_no_result(&tea);
    clock.advance(Duration::ZERO);
    assert_eq!(success_result_of(tea), "tea");
}

#[test]
fn defer_later_works_on_whatever_is_a_clock() {
    let clock = Clock::new();
    let timers: &Timers = clock.timers();
    let tea = defer_later(timers, SECOND, || "tea");
    clock.advance(SECOND);
    assert_eq!(success_result_of(tea), "tea");

    let reactor = reactor();
    let tea = defer_later(&reactor, Duration::from_millis(1), || "tea");
    turn_until(&reactor, || tea.is_fired());
    assert_eq!(success_result_of(tea), "tea");
}

#[test]
fn a_panic_in_the_function_of_defer_later_is_the_failure() {
    let clock = Clock::new();
    let tea = defer_later::<()>(&clock, SECOND, || panic!("no tea"));
    clock.advance(SECOND);
    assert_eq!(failure_result_of(tea).to_string(), "panicked: no tea");
}

#[test]
fn cancelling_defer_later_means_that_the_function_is_never_called_and_nothing_stays_armed() {
    let (clock, called) = (Clock::new(), Rc::new(Cell::new(false)));
    let call = called.clone();
    let tea = defer_later(&clock, SECOND, move || call.set(true));
    tea.cancel();
    assert_eq!(Rc::strong_count(&called), 1, "the function was dropped at once");
    assert!(failure_result_of(tea).is::<Cancelled>());
    assert_eq!(format!("{:?}", clock.timers()), "Timers { pending: 0 }");
    clock.advance(SECOND);
    assert!(!called.get());
}

#[test]
fn cancelling_defer_later_afterwards_changes_nothing() {
    let clock = Clock::new();
    let tea = defer_later(&clock, SECOND, || "tea");
    let canceller = tea.canceller();
    clock.advance(SECOND);
    canceller.cancel();
    tea.cancel();
    assert_eq!(success_result_of(tea), "tea");
}

#[test]
fn a_callback_may_wait_for_defer_later_and_a_cancellation_reaches_it() {
    let clock = Clock::new();
    let again = clock.clone();
    let wait = |clock: &Clock| defer_later(clock, SECOND, || 1);
    let tail = wait(&clock).add_callback(move |one| wait(&again).map(move |two| one + two));
    clock.advance(SECOND);
    assert_no_result(&tail);
    clock.advance(SECOND);
    assert_eq!(success_result_of(tail), 2);

    let again = clock.clone();
    let tail: Deferred<i32> = wait(&clock).add_callback(move |_| wait(&again));
    clock.advance(SECOND);
    tail.cancel();
    assert!(failure_result_of(tail).is::<Cancelled>());
    assert_eq!(format!("{:?}", clock.timers()), "Timers { pending: 0 }");
}
