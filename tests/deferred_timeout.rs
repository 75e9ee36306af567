//! Timeouts, in virtual time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::testing::Clock;
use dosimeter::{Cancelled, Clock as _, Deferred, Failure, Result, TimedOut};

const SECOND: Duration = Duration::from_secs(1);

fn result<T: 'static>(deferred: Deferred<T>) -> Result<T> {
    deferred.into_result().ok().expect("fired")
}

/// The number of calls that are pending on a clock.
fn pending(clock: &Clock) -> usize {
    let text = format!("{:?}", clock.timers());
    text.chars().filter(char::is_ascii_digit).collect::<String>().parse().expect("a number")
}

#[test]
fn a_chain_that_takes_too_long_is_cancelled_and_fails_as_timed_out() {
    let clock = Clock::new();
    let (completer, deferred) = Deferred::<i32>::pair();
    let tail = deferred.add_timeout(5 * SECOND, &clock);
    clock.advance(4 * SECOND);
    assert!(!tail.is_fired());
    clock.advance(SECOND);
    assert!(completer.is_cancelled());
    let failure = result(tail).expect_err("timed out");
    assert_eq!(failure.downcast_ref::<TimedOut>().expect("timed out").after, 5 * SECOND);
    assert_eq!(failure.to_string(), "timed out after 5s");
}

#[test]
fn the_timer_is_gone_after_every_outcome() {
    let clock = Clock::new();
    for end in 0..5 {
        let (completer, deferred) = Deferred::<i32>::pair();
        let tail = deferred.add_timeout(SECOND, &clock);
        assert_eq!(pending(&clock), 1);
        match end {
            0 => completer.callback(1),
            1 => completer.errback("no"),
            2 => drop(completer),
            3 => tail.cancel(),
            _ => clock.advance(SECOND),
        }
        assert_eq!(pending(&clock), 0, "{end}");
        drop(result(tail));
    }
    let fired = Deferred::succeed(1).add_timeout(SECOND, &clock);
    assert_eq!(pending(&clock), 0);
    assert_eq!(result(fired).expect("a value"), 1);
}

#[test]
fn a_timeout_covers_what_was_added_before_it_and_nothing_after() {
    let clock = Clock::new();
    let (completer, deferred) = Deferred::<i32>::pair();
    let (later, slow) = Deferred::<i32>::pair();
    let tail = deferred.add_timeout(SECOND, &clock).add_callback(|_| slow);
    completer.callback(1);
    clock.advance(100 * SECOND);
    assert!(!later.is_cancelled());
    later.callback(2);
    assert_eq!(result(tail).expect("a value"), 2);
}

#[test]
fn a_timeout_cancels_the_inner_chain_that_an_earlier_callback_returned() {
    let clock = Clock::new();
    let (inner, slow) = Deferred::<i32>::pair();
    let (outer, first) = Deferred::<i32>::pair();
    let tail = first.add_callback(|_| slow).add_timeout(SECOND, &clock);
    outer.callback(1);
    clock.advance(SECOND);
    assert!(inner.is_cancelled());
    assert!(result(tail).expect_err("timed out").is::<TimedOut>());
}

#[test]
fn a_cancellation_by_hand_stays_one_and_does_not_call_the_hook() {
    let clock = Clock::new();
    let (_completer, deferred) = Deferred::<i32>::pair();
    let tail = deferred.add_timeout_with(SECOND, &clock, |_, _| -> Result<i32> { unreachable!("not timed out") });
    tail.cancel();
    assert!(result(tail).expect_err("cancelled").is::<Cancelled>());
    clock.advance(SECOND);
}

#[test]
fn what_a_canceller_makes_of_the_timeout_passes_through() {
    for (made, expected) in [(Ok(3), "3"), (Err(Failure::from("closed")), "closed")] {
        let clock = Clock::new();
        let (completer, deferred) = Deferred::<i32>::pair();
        let completer = Rc::new(Cell::new(Some(completer)));
        let own = completer.take().expect("just put");
        let shared = completer.clone();
        own.on_cancel(move || shared.take().expect("put back").fire(made));
        completer.set(Some(own));
        let tail = deferred.add_timeout(SECOND, &clock);
        clock.advance(SECOND);
        assert_eq!(result(tail).map_or_else(|failure| failure.to_string(), |value| value.to_string()), expected);
    }
}

#[test]
fn the_hook_is_called_with_whatever_there_is_once_the_time_is_up() {
    let clock = Clock::new();
    let (_completer, deferred) = Deferred::<i32>::pair();
    let tail = deferred.add_errback(|failure| failure.trap::<Cancelled>().map(|_| 7)).add_timeout_with(
        SECOND,
        &clock,
        |result, after| {
            assert_eq!(after, SECOND);
            Ok(result? * 10)
        },
    );
    clock.advance(SECOND);
    assert_eq!(result(tail).expect("the hook's"), 70);
}

#[test]
fn the_hook_may_return_a_chain_to_wait_for() {
    let clock = Clock::new();
    let (_completer, deferred) = Deferred::<i32>::pair();
    let (retry, second) = Deferred::<i32>::pair();
    let tail = deferred.add_timeout_with(SECOND, &clock, |_, _| second);
    clock.advance(SECOND);
    assert!(!tail.is_fired());
    retry.callback(2);
    assert_eq!(result(tail).expect("a value"), 2);
}

#[test]
fn an_earlier_errback_sees_the_cancellation_and_may_swallow_it() {
    let clock = Clock::new();
    let (_completer, deferred) = Deferred::<i32>::pair();
    let tail = deferred.add_errback(|failure| failure.trap::<Cancelled>().map(|_| 7)).add_timeout(SECOND, &clock);
    clock.advance(SECOND);
    assert_eq!(result(tail).expect("swallowed"), 7);
}

#[test]
fn of_two_timeouts_the_shorter_one_acts_and_the_other_is_gone() {
    let clock = Clock::new();
    let hook = |_: Result<i32>, _| -> Result<i32> { unreachable!("the longer one") };
    let (_completer, deferred) = Deferred::<i32>::pair();
    let tail = deferred.add_timeout(SECOND, &clock).add_timeout_with(2 * SECOND, &clock, hook);
    clock.advance(SECOND);
    assert_eq!(pending(&clock), 0);
    assert_eq!(result(tail).expect_err("timed out").downcast_ref::<TimedOut>().expect("timed out").after, SECOND);
    let (_completer, deferred) = Deferred::<i32>::pair();
    let tail = deferred.add_timeout_with(2 * SECOND, &clock, hook).add_timeout(SECOND, &clock);
    clock.advance(SECOND);
    assert_eq!(pending(&clock), 0);
    assert_eq!(result(tail).expect_err("timed out").downcast_ref::<TimedOut>().expect("timed out").after, SECOND);
}

#[test]
fn what_a_timed_chain_holds_is_freed_at_its_end() {
    let clock = Clock::new();
    let token = Rc::new(());
    let watch = Rc::downgrade(&token);
    let (completer, deferred) = Deferred::<i32>::pair();
    completer.on_cancel({
        let token = token.clone();
        move || drop(token)
    });
    let hooked = token.clone();
    let tail = deferred.map(move |number| number + Rc::strong_count(&token) as i32);
    let tail = tail.add_timeout_with(SECOND, &clock, move |result, _| {
        drop(hooked);
        result
    });
    completer.callback(1);
    assert!(watch.upgrade().is_none());
    drop(result(tail));
}
