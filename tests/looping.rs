//! A function called again and again, in virtual time.

#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::testing::{Clock, assert_no_result, failure_result_of, success_result_of};
use dosimeter::{Abandoned, Cancelled, Clock as _, Completer, Deferred, Failure, LoopError, LoopingCall, Result};
use support::{keep_logs, logged, reactor, turn_until};

const SECOND: Duration = Duration::from_secs(1);

/// When a function was called, in milliseconds, and what it was told.
#[derive(Clone, Default)]
struct Calls(Rc<RefCell<Vec<(u64, u64)>>>);

impl Calls {
    fn note(&self, clock: &Clock, count: u64) {
        self.0.borrow_mut().push((clock.time().as_millis() as u64, count));
    }

    fn times(&self) -> Vec<u64> {
        self.0.take().into_iter().map(|call| call.0).collect()
    }
}

/// A loop that does nothing but note when it is called.
fn noting(clock: &Clock, calls: &Calls) -> LoopingCall {
    let (now, calls) = (clock.clone(), calls.clone());
    LoopingCall::new(clock, move || calls.note(&now, 1))
}

/// A loop whose function notes the call and waits for the completer that it leaves behind.
fn waiting(clock: &Clock, calls: &Calls) -> (LoopingCall, Rc<Cell<Option<Completer<()>>>>) {
    let (now, calls, left) = (clock.clone(), calls.clone(), Rc::new(Cell::new(None)));
    let leave = left.clone();
    let looping = LoopingCall::with_count(clock, move |count| {
        calls.note(&now, count);
        let (completer, deferred) = Deferred::pair();
        leave.set(Some(completer));
        deferred
    });
    (looping, left)
}

fn pending(clock: &Clock) -> usize {
    clock.timers().pending().len()
}

#[test]
fn start_calls_at_once_and_then_at_every_interval() {
    let (clock, calls) = (Clock::new(), Calls::default());
    let looping = noting(&clock, &calls);
    assert!(!looping.is_running());
    let ended = looping.start(SECOND);
    assert!(looping.is_running());
    assert_eq!(calls.times(), [0], "inside of start");
    clock.pump([Duration::from_millis(500); 6]);
    assert_eq!(calls.times(), [1_000, 2_000, 3_000]);
    assert_no_result(&ended);
}

#[test]
fn start_after_waits_for_one_interval_first() {
    let (clock, calls) = (Clock::new(), Calls::default());
    let looping = noting(&clock, &calls);
    let _ended = looping.start_after(SECOND);
    assert_eq!(calls.times(), [0; 0]);
    clock.pump([SECOND; 2]);
    assert_eq!(calls.times(), [1_000, 2_000]);
}

#[test]
fn stopping_fires_with_the_loop_itself_and_leaves_nothing_armed() {
    let (clock, calls) = (Clock::new(), Calls::default());
    let looping = noting(&clock, &calls);
    let ended = looping.start(SECOND);
    looping.stop().expect("it runs");
    assert!(!looping.is_running());
    assert_eq!(pending(&clock), 0);
    let itself = success_result_of(ended);
    let _again = itself.start_after(SECOND);
    assert!(looping.is_running(), "the same loop");
}

#[test]
fn what_is_not_running_cannot_be_stopped_or_reset_and_what_runs_cannot_be_started() {
    let (clock, calls) = (Clock::new(), Calls::default());
    let looping = noting(&clock, &calls);
    assert_eq!((looping.stop(), looping.reset()), (Err(LoopError::NotRunning), Err(LoopError::NotRunning)));
    let _ended = looping.start(SECOND);
    for second in [looping.start(SECOND), looping.start_after(SECOND)] {
        assert_eq!(failure_result_of(second).downcast_ref(), Some(&LoopError::AlreadyRunning));
    }
    assert_eq!(pending(&clock), 1);
    looping.stop().expect("it runs");
    assert_eq!((looping.stop(), looping.reset()), (Err(LoopError::NotRunning), Err(LoopError::NotRunning)));
}

#[test]
fn an_error_a_failed_deferred_or_a_panic_ends_the_loop_with_that_failure() {
    fn check<R: dosimeter::IntoDeferred<()>>(mut slip: impl FnMut() -> R + 'static, text: &str) {
        let (clock, calls) = (Clock::new(), Rc::new(Cell::new(0)));
        let count = calls.clone();
        let looping = LoopingCall::new(&clock, move || {
            count.set(count.get() + 1);
            slip()
        });
        let (was_running, itself) = (Rc::new(Cell::new(true)), looping.clone());
        let look = was_running.clone();
        let ended = looping.start_after(SECOND).add_errback(move |failure| {
            look.set(itself.is_running());
            Err::<LoopingCall, _>(failure)
        });
        clock.advance(SECOND);
        assert!(!was_running.get(), "ended before it is told");
        assert_eq!(failure_result_of(ended).to_string(), text);
        clock.pump([SECOND; 3]);
        assert_eq!((calls.get(), pending(&clock)), (1, 0));
    }
    check(|| Err::<(), _>(Failure::from("a slip")), "a slip");
    check(|| Deferred::<()>::fail("a slip"), "a slip");
    check(|| -> () { panic!("a slip") }, "panicked: a slip");
}

#[test]
fn a_failure_in_the_first_call_is_there_when_start_returns_and_the_loop_can_be_started_again() {
    let (clock, fails) = (Clock::new(), Rc::new(Cell::new(true)));
    let fail = fails.clone();
    let looping = LoopingCall::new(&clock, move || if fail.get() { Err("a slip".into()) } else { Ok(()) });
    assert_eq!(failure_result_of(looping.start(SECOND)).to_string(), "a slip");
    fails.set(false);
    assert_no_result(&looping.start(SECOND));
    assert!(looping.is_running());
}

#[test]
fn stopping_from_inside_ends_the_loop_and_a_failure_after_it_still_counts() {
    for fails in [false, true] {
        let clock = Clock::new();
        let own: Rc<RefCell<Option<LoopingCall>>> = Rc::default();
        let inside = own.clone();
        let looping = LoopingCall::new(&clock, move || {
            let looping = inside.borrow().clone().expect("set before it starts");
            looping.stop().expect("it runs");
            assert!(!looping.is_running());
            if fails { Err("a slip".into()) } else { Ok(()) }
        });
        own.replace(Some(looping.clone()));
        let ended = looping.start(SECOND);
        match fails {
            true => assert_eq!(failure_result_of(ended).to_string(), "a slip"),
            false => drop(success_result_of(ended)),
        }
        assert_eq!(pending(&clock), 0);
        own.take();
    }
}

#[test]
fn the_next_call_waits_for_the_deferred_of_the_last_one() {
    let (clock, calls) = (Clock::new(), Calls::default());
    let (looping, left) = waiting(&clock, &calls);
    let _ended = looping.start(SECOND);
    clock.pump([SECOND; 3]);
    assert_eq!((calls.times(), pending(&clock)), (vec![0], 0));
    clock.advance(Duration::from_millis(400));
    left.take().expect("it waits").callback(());
    assert_eq!(calls.times(), [0; 0]);
    clock.advance(Duration::from_millis(600));
    assert_eq!(calls.times(), [4_000], "at the next whole multiple");
}

#[test]
fn stopping_while_a_deferred_is_waited_for_ends_when_it_does() {
    let (clock, calls) = (Clock::new(), Calls::default());
    let (looping, left) = waiting(&clock, &calls);
    let ended = looping.start(SECOND);
    looping.stop().expect("it runs");
    assert!(!looping.is_running());
    assert_no_result(&ended);
    assert_eq!(
        failure_result_of(looping.start(SECOND)).downcast_ref(),
        Some(&LoopError::AlreadyRunning),
        "two of its calls would run at a time"
    );
    left.take().expect("it waits").callback(());
    success_result_of(ended);
    assert_eq!(pending(&clock), 0);
}

#[test]
fn a_deferred_that_fails_after_the_stop_is_the_failure_of_the_loop() {
    let (clock, calls) = (Clock::new(), Calls::default());
    let (looping, left) = waiting(&clock, &calls);
    let ended = looping.start(SECOND);
    looping.stop().expect("it runs");
    left.take().expect("it waits").errback("a slip");
    assert_eq!(failure_result_of(ended).to_string(), "a slip");
}

#[test]
fn calls_do_not_drift_and_those_that_were_missed_are_skipped() {
    let (clock, calls) = (Clock::new(), Calls::default());
    let looping = noting(&clock, &calls);
    let _ended = looping.start(SECOND);
    // Late by 300 ms, late by more than two intervals, and exactly on time.
    clock.pump([1_300, 700, 2_500, 500, 1_000].map(Duration::from_millis));
    assert_eq!(calls.times(), [0, 1_300, 2_000, 4_500, 5_000, 6_000]);
}

#[test]
fn a_call_that_ends_exactly_on_a_multiple_waits_for_the_next_one() {
    let (clock, calls) = (Clock::new(), Calls::default());
    let (looping, left) = waiting(&clock, &calls);
    let _ended = looping.start(SECOND);
    clock.advance(SECOND * 2);
    left.take().expect("it waits").callback(());
    clock.advance(Duration::ZERO);
    assert_eq!(calls.times(), [0]);
    clock.advance(SECOND);
    assert_eq!(calls.times(), [3_000]);
}

#[test]
fn ten_tenths_of_a_second_are_ten_calls() {
    let (clock, counts) = (Clock::new(), Rc::new(RefCell::new(Vec::new())));
    let told = counts.clone();
    let looping = LoopingCall::with_count(&clock, move |count| told.borrow_mut().push(count));
    let _ended = looping.start_after(Duration::from_secs_f64(0.1));
    clock.pump([Duration::from_secs_f64(0.1); 10]);
    assert_eq!(counts.take(), [1; 10]);
}

#[test]
fn without_an_interval_there_is_one_call_in_every_turn() {
    let (reactor, calls) = (reactor(), Rc::new(Cell::new(0)));
    let count = calls.clone();
    let looping = LoopingCall::with_count(&reactor, move |due| count.set(count.get() + due));
    let ended = looping.start(Duration::ZERO);
    assert_eq!(calls.get(), 1);
    for turn in 2..10 {
        reactor.turn(Some(Duration::ZERO)).expect("a turn");
        assert_eq!(calls.get(), turn);
    }
    looping.stop().expect("it runs");
    success_result_of(ended);
}

#[test]
fn the_count_tells_of_calls_that_were_skipped() {
    let (clock, calls) = (Clock::new(), Calls::default());
    let (now, note) = (clock.clone(), calls.clone());
    let looping = LoopingCall::with_count(&clock, move |count| note.note(&now, count));
    let _ended = looping.start(SECOND);
    // On time; late, but by less than an interval; by more than two; on time again.
    clock.pump([1_000, 1_900, 2_600, 500].map(Duration::from_millis));
    assert_eq!(calls.0.take(), [(0, 1), (1_000, 1), (2_900, 1), (5_500, 3), (6_000, 1)]);
}

#[test]
fn waiting_for_a_deferred_counts_as_skipped() {
    let (clock, calls) = (Clock::new(), Calls::default());
    let (looping, left) = waiting(&clock, &calls);
    let _ended = looping.start_after(SECOND);
    clock.advance(SECOND);
    clock.advance(Duration::from_millis(3_500));
    left.take().expect("it waits").callback(());
    clock.advance(Duration::from_millis(500));
    assert_eq!(calls.0.take(), [(1_000, 1), (5_000, 4)]);
}

#[test]
fn reset_drops_the_pending_call_and_counts_the_interval_from_now() {
    let (clock, calls) = (Clock::new(), Calls::default());
    let (now, note) = (clock.clone(), calls.clone());
    let looping = LoopingCall::with_count(&clock, move |count| note.note(&now, count));
    let _ended = looping.start(SECOND);
    clock.advance(Duration::from_millis(900));
    looping.reset().expect("it runs");
    assert_eq!(pending(&clock), 1);
    clock.pump([Duration::from_millis(900), Duration::from_millis(100), SECOND]);
    assert_eq!(calls.0.take(), [(0, 1), (1_900, 1), (2_900, 1)]);
}

#[test]
fn reset_while_a_call_is_under_way_does_nothing() {
    let (clock, calls) = (Clock::new(), Calls::default());
    let (looping, left) = waiting(&clock, &calls);
    let _ended = looping.start(SECOND);
    clock.advance(Duration::from_millis(300));
    looping.reset().expect("it runs");
    assert_eq!(pending(&clock), 0);
    left.take().expect("it waits").callback(());
    clock.advance(Duration::from_millis(700));
    assert_eq!(calls.times(), [0, 1_000]);
}

#[test]
fn cancelling_the_chain_stops_the_loop() {
    let (clock, calls) = (Clock::new(), Calls::default());
    let looping = noting(&clock, &calls);
    let ended = looping.start(SECOND);
    ended.cancel();
    assert!(failure_result_of(ended).is::<Cancelled>());
    assert!(!looping.is_running());
    assert_eq!(pending(&clock), 0);
}

#[test]
fn a_failure_that_comes_after_the_chain_was_cancelled_is_logged() {
    keep_logs();
    let (clock, calls) = (Clock::new(), Calls::default());
    let (looping, left) = waiting(&clock, &calls);
    let ended = looping.start(SECOND);
    ended.cancel();
    assert!(failure_result_of(ended).is::<Cancelled>());
    left.take().expect("it waits").errback("a slip");
    let logged = logged();
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].contains("a slip"), "{logged:?}");
}

#[test]
fn a_loop_goes_on_without_its_handles_and_does_not_keep_its_clock_alive() {
    let (clock, calls) = (Clock::new(), Rc::new(Cell::new(0)));
    let count = calls.clone();
    let ended = LoopingCall::new(&clock, move || count.set(count.get() + 1)).start(SECOND);
    clock.pump([SECOND; 2]);
    assert_eq!(calls.get(), 3);
    drop(clock);
    assert_eq!(Rc::strong_count(&calls), 1, "the function is gone with the clock");
    assert!(failure_result_of(ended).is::<Abandoned>());
}

#[test]
fn a_loop_on_a_reactor_ends_with_it_and_says_so() {
    let reactor = reactor();
    let calls = Rc::new(Cell::new(0));
    let (count, stop) = (calls.clone(), reactor.clone());
    let looping = LoopingCall::new(&reactor, move || -> Result<()> {
        count.set(count.get() + 1);
        if count.get() == 5 {
            stop.stop()?;
        }
        Ok(())
    });
    let ended = looping.start(Duration::from_millis(1));
    drop(looping);
    reactor.run().expect("a clean end");
    assert!(calls.get() >= 5);
    assert!(failure_result_of(ended).is::<Abandoned>());
}

#[test]
fn a_loop_on_a_reactor_runs_at_its_interval() {
    let (reactor, calls) = (reactor(), Rc::new(Cell::new(0)));
    let count = calls.clone();
    let looping = LoopingCall::new(&reactor, move || count.set(count.get() + 1));
    let _ended = looping.start(Duration::from_millis(1));
    turn_until(&reactor, || calls.get() >= 10);
    looping.stop().expect("it runs");
}
