//! Timed calls, on the reactor and on the clock of `testing`: where both claim a behaviour, both are asked.

#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::DelayedCallError::{AlreadyCalled, AlreadyCancelled};
use dosimeter::testing::{Clock, MemoryReactor};
use dosimeter::{Clock as _, DelayedCall, DelayedCallError, Timers};
use proptest::prelude::*;
use support::{logged, reactor, turn_until};

/// Runs `test` with the clock of `testing` and with a reactor. The second argument lets that many milliseconds go by.
fn on_both(test: impl Fn(&Timers, &dyn Fn(u64))) {
    let clock = Clock::new();
    test(clock.timers(), &|ms| clock.advance(millis(ms)));

    let reactor = reactor();
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    test(reactor.timers(), &|ms| {
        let passed = Rc::new(Cell::new(false));
        let pass = passed.clone();
        reactor.call_later(millis(ms), move || pass.set(true));
        turn_until(&reactor, || passed.get());
    });
}

/// What ran, in order.
#[derive(Clone, Default)]
struct Ran(Rc<RefCell<Vec<u32>>>);

impl Ran {
    fn call(&self, number: u32) -> impl FnOnce() + 'static {
        let ran = self.clone();
        move || ran.0.borrow_mut().push(number)
    }

    fn take(&self) -> Vec<u32> {
        self.0.take()
    }
}

/// Whether there is nothing left to move or cancel, and every way of asking says so and why.
fn is_over(call: &DelayedCall, why: DelayedCallError) -> bool {
    let refusals = [call.cancel(), call.reset(millis(1)), call.delay(millis(1)), call.cancel()];
    refusals == [Err(why); 4] && !call.is_active() && call.deadline().is_none()
}

#[test]
fn a_call_never_runs_inside_the_call_later_that_arms_it() {
    on_both(|clock, pass| {
        let ran = Ran::default();
        clock.call_later(Duration::ZERO, ran.call(1));
        assert_eq!(ran.take(), NOTHING);
        pass(0);
        assert_eq!(ran.take(), [1]);
        pass(0);
        assert_eq!(ran.take(), NOTHING, "it runs once");
    });
}

#[test]
fn a_call_runs_when_its_delay_has_passed_and_not_before() {
    let (clock, ran) = (Clock::new(), Ran::default());
    clock.call_later(millis(10), ran.call(1));
    clock.advance(Duration::from_nanos(9_999_999));
    assert_eq!(ran.take(), NOTHING);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(ran.take(), [1]);
}

#[test]
fn dropping_the_handle_does_not_cancel() {
    on_both(|clock, pass| {
        let ran = Ran::default();
        drop(clock.call_later(millis(1), ran.call(1)));
        pass(1);
        assert_eq!(ran.take(), [1]);
    });
}

#[test]
fn a_call_that_runs_is_no_longer_active_and_cannot_be_moved() {
    on_both(|clock, pass| {
        let call: Rc<RefCell<Option<DelayedCall>>> = Rc::default();
        let seen = Rc::new(Cell::new(None));
        let (itself, look) = (call.clone(), seen.clone());
        *call.borrow_mut() = Some(clock.call_later(millis(1), move || {
            let call = itself.borrow().clone().expect("set before it is due");
            look.set(Some(is_over(&call, AlreadyCalled)));
        }));
        let call = call.borrow().clone().expect("just set");
        assert!(call.is_active());
        pass(1);
        assert_eq!(seen.take(), Some(true), "while it ran");
        assert!(is_over(&call, AlreadyCalled));
    });
}

#[test]
fn a_cancelled_call_does_not_run_and_cannot_be_cancelled_or_moved_again() {
    on_both(|clock, pass| {
        let ran = Ran::default();
        let call = clock.call_later(millis(1), ran.call(1));
        let other = call.clone();
        assert_eq!(call.cancel(), Ok(()));
        assert!(is_over(&call, AlreadyCancelled));
        assert!(is_over(&call.clone(), AlreadyCancelled));
        assert!(is_over(&other, AlreadyCalled), "to another handle it is over, and how is not remembered");
        pass(2);
        assert_eq!(ran.take(), NOTHING);
    });
}

#[test]
fn a_handle_never_means_a_later_call_in_the_same_place() {
    on_both(|clock, pass| {
        let ran = Ran::default();
        let first = clock.call_later(millis(1), ran.call(1));
        first.cancel().expect("pending");
        let second = clock.call_later(millis(1), ran.call(2));
        assert!(is_over(&first, AlreadyCancelled));
        assert!(second.is_active());
        pass(1);
        assert_eq!(ran.take(), [2]);
    });
}

#[test]
fn reset_counts_from_now_and_delay_from_when_the_call_was_due() {
    let (clock, ran) = (Clock::new(), Ran::default());
    let start = clock.now();
    let due = |call: &DelayedCall| call.deadline().map(|deadline| deadline - start);
    let call = clock.call_later(seconds(10), ran.call(1));
    clock.advance(seconds(1));
    call.delay(seconds(5)).expect("pending");
    assert_eq!(due(&call), Some(seconds(15)));
    call.reset(seconds(3)).expect("pending");
    assert_eq!(due(&call), Some(seconds(4)));
    call.delay(seconds(2)).expect("pending");
    assert_eq!(due(&call), Some(seconds(6)));
    clock.advance(millis(4_999));
    assert_eq!(ran.take(), NOTHING);
    clock.advance(millis(1));
    assert_eq!(ran.take(), [1]);
}

#[test]
fn a_call_moved_back_and_forth_runs_once_at_its_last_deadline() {
    let (clock, ran) = (Clock::new(), Ran::default());
    let call = clock.call_later(seconds(10), ran.call(1));
    for delay in [1, 50, 2, 40, 3, 30] {
        call.reset(seconds(delay)).expect("pending");
    }
    clock.advance(millis(29_999));
    assert_eq!(ran.take(), NOTHING);
    clock.advance(seconds(100));
    assert_eq!(ran.take(), [1]);
}

#[test]
fn cancelling_drops_the_closure_at_once() {
    on_both(|clock, _pass| {
        let held = Rc::new(());
        let hold = held.clone();
        let call = clock.call_later(seconds(1_000), move || drop(hold));
        assert_eq!(Rc::strong_count(&held), 2);
        call.cancel().expect("pending");
        assert_eq!(Rc::strong_count(&held), 1);
    });
}

#[test]
fn the_drop_of_a_cancelled_closure_may_use_the_clock() {
    struct OnDrop(Timers, Ran, DelayedCall);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.2.cancel().expect("pending");
            self.0.call_later(Duration::ZERO, self.1.call(2));
        }
    }
    on_both(|clock, pass| {
        let ran = Ran::default();
        let other = clock.call_later(millis(1), ran.call(1));
        let on_drop = OnDrop(clock.clone(), ran.clone(), other);
        let call = clock.call_later(millis(1), move || drop(on_drop));
        call.cancel().expect("pending");
        pass(2);
        assert_eq!(ran.take(), [2]);
    });
}

#[test]
fn calls_run_in_the_order_of_their_deadlines_whatever_the_order_they_were_armed_in() {
    on_both(|clock, pass| {
        let ran = Ran::default();
        for delay in [3, 1, 4, 2, 0] {
            clock.call_later(millis(delay.into()), ran.call(delay));
        }
        pass(4);
        assert_eq!(ran.take(), [0, 1, 2, 3, 4]);
    });
}

#[test]
fn equal_deadlines_run_in_the_order_they_were_armed() {
    on_both(|clock, pass| {
        let ran = Ran::default();
        for number in 0..1_000 {
            clock.call_later(millis(1), ran.call(number));
        }
        pass(1);
        assert!(ran.take().into_iter().eq(0..1_000));
    });
}

#[test]
fn a_call_moved_to_the_deadline_of_others_runs_after_them() {
    on_both(|clock, pass| {
        let ran = Ran::default();
        let sooner = clock.call_later(millis(1), ran.call(1));
        let later = clock.call_later(millis(5), ran.call(2));
        clock.call_later(millis(2), ran.call(3));
        later.reset(millis(2)).expect("pending");
        sooner.reset(millis(2)).expect("pending");
        clock.call_later(millis(2), ran.call(4));
        pass(2);
        assert_eq!(ran.take(), [3, 2, 1, 4]);
    });
}

#[test]
fn a_call_may_cancel_and_move_others_that_are_due() {
    on_both(|clock, pass| {
        let ran = Ran::default();
        let calls: Rc<RefCell<Vec<DelayedCall>>> = Rc::default();
        let others = calls.clone();
        clock.call_later(millis(1), move || {
            others.borrow()[0].cancel().expect("due, but not run");
            others.borrow()[1].reset(millis(1)).expect("due, but not run");
        });
        let arm = |number| clock.call_later(millis(1), ran.call(number));
        calls.borrow_mut().extend([arm(1), arm(2), arm(3)]);
        pass(1);
        assert_eq!(ran.take(), [3]);
        pass(1);
        assert_eq!(ran.take(), [2]);
    });
}

/// A turn runs what is due at its beginning. Putting one call off by nothing must not hold up those behind it.
#[test]
fn a_due_call_that_is_put_off_a_little_does_not_hold_up_the_others() {
    let (reactor, ran) = (reactor(), Ran::default());
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    let moved = reactor.call_later(Duration::from_nanos(2), ran.call(2));
    reactor.call_later(Duration::from_nanos(1), move || moved.delay(Duration::ZERO).expect("pending"));
    reactor.call_later(Duration::from_nanos(3), ran.call(3));
    // The few nanoseconds are over before the turn begins.
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    assert_eq!(ran.take(), [2, 3]);
}

#[test]
fn on_a_reactor_a_call_armed_without_delay_by_a_call_waits_for_the_next_turn() {
    let (reactor, ran) = (reactor(), Ran::default());
    let (again, second) = (reactor.clone(), ran.clone());
    let first = ran.call(1);
    reactor.call_soon(move || {
        first();
        again.call_soon(second.call(2));
    });
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    assert_eq!(ran.take(), [1]);
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    assert_eq!(ran.take(), [2]);
}

#[test]
fn a_call_that_arms_itself_without_delay_does_not_starve_other_threads() {
    fn spin(reactor: &dosimeter::Reactor, turns: Rc<Cell<u32>>) {
        turns.set(turns.get() + 1);
        let again = reactor.clone();
        reactor.call_soon(move || spin(&again, turns));
    }
    let (reactor, turns) = (reactor(), Rc::default());
    spin(&reactor, Rc::clone(&turns));
    let (heard, hear) = std::sync::mpsc::channel();
    reactor.remote().call_from_thread(move |_| heard.send(()).expect("listened to")).expect("it exists");
    turn_until(&reactor, || hear.try_recv().is_ok());
    assert!(turns.get() < 10);
}

#[test]
fn on_a_reactor_a_call_that_panics_is_logged_and_the_others_run() {
    let (reactor, ran) = (reactor(), Ran::default());
    reactor.call_soon(ran.call(1));
    reactor.call_soon(|| panic!("the second call"));
    reactor.call_soon(ran.call(3));
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    assert_eq!(ran.take(), [1, 3]);
    let logged = logged();
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].contains("a timed call failed: panicked: the second call"), "{logged:?}");
    assert!(logged[0].contains("\n  callback: tests/clock.rs:302:13"), "{logged:?}");
}

#[test]
fn on_the_test_clock_a_panic_comes_out_of_advance_and_the_rest_stays_pending() {
    let (clock, ran) = (Clock::new(), Ran::default());
    clock.call_later(seconds(1), ran.call(1));
    clock.call_later(seconds(1), || panic!("the second call"));
    let third = clock.call_later(seconds(1), ran.call(3));
    let outcome = catch_unwind(AssertUnwindSafe(|| clock.advance(seconds(2))));
    assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"the second call"));
    assert_eq!(ran.take(), [1]);
    assert!(third.is_active());
    clock.advance(Duration::ZERO);
    assert_eq!(ran.take(), [3]);
}

#[test]
fn the_pending_calls_are_told_in_the_order_they_are_due_without_those_that_ran_or_were_cancelled() {
    let (clock, ran) = (Clock::new(), Ran::default());
    let calls: Vec<_> = [4, 1, 3, 2, 3].map(|delay| clock.call_later(seconds(delay), ran.call(0))).into();
    calls[3].cancel().expect("pending");
    calls[4].reset(seconds(2)).expect("pending");
    clock.advance(seconds(1));
    let start = clock.now() - clock.time();
    let due = |calls: &[DelayedCall]| -> Vec<_> {
        calls.iter().map(|call| call.deadline().expect("pending") - start).collect()
    };
    let pending = clock.timers().pending();
    assert_eq!(due(&pending), [2, 3, 4].map(seconds));
    pending[0].cancel().expect("these are handles like any other");
    assert!(!calls[4].is_active());
    assert_eq!(due(&clock.timers().pending()), [3, 4].map(seconds));
}

#[test]
fn a_call_in_the_farthest_future_disturbs_nothing() {
    on_both(|clock, pass| {
        let ran = Ran::default();
        let far = clock.call_later(Duration::MAX, ran.call(1));
        let deadline = far.deadline().expect("it can be told");
        assert!(deadline - clock.now() > seconds(99 * 365 * 24 * 3600));
        far.delay(Duration::MAX).expect("pending");
        far.reset(Duration::MAX).expect("pending");
        clock.call_later(millis(1), ran.call(2));
        pass(2);
        assert_eq!(ran.take(), [2]);
        assert!(far.is_active());
    });
}

/// Farther than an `Instant` can tell.
#[test]
fn the_longest_time_there_is_can_be_waited_for_and_passed() {
    let (clock, ran) = (Clock::new(), Rc::new(Cell::new(false)));
    let run = ran.clone();
    let call = clock.call_later(Duration::MAX, move || run.set(true));
    call.delay(Duration::MAX).expect("it is pending");
    clock.advance(Duration::from_secs(50 * 365 * 24 * 3600));
    assert!(!ran.get() && call.is_active());
    clock.advance(Duration::MAX);
    assert!(ran.get());
    clock.advance(Duration::MAX);

    let memory = MemoryReactor::new();
    let far = memory.call_later(Duration::MAX, || {});
    memory.advance(Duration::from_secs(1));
    memory.advance(Duration::MAX);
    assert!(!far.is_active());
    memory.reactor().turn(Some(Duration::MAX)).expect("a turn");
    assert!(memory.advance_until(Duration::MAX, || true));
}

#[test]
fn a_turn_without_a_limit_ends_when_the_next_call_is_due() {
    let (reactor, ran) = (reactor(), Ran::default());
    reactor.call_later(seconds(1_000_000_000), ran.call(1));
    reactor.call_later(millis(2), ran.call(2));
    reactor.turn(None).expect("a turn");
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    assert_eq!(ran.take(), [2]);
}

#[test]
fn the_time_stands_still_during_a_turn() {
    let reactor = reactor();
    let seen = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..3 {
        let (clock, seen) = (reactor.clone(), seen.clone());
        reactor.call_soon(move || {
            let busy = std::time::Instant::now();
            while busy.elapsed() < millis(1) {
                std::hint::spin_loop();
            }
            seen.borrow_mut().push(clock.now());
        });
    }
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    let seen = seen.take();
    assert_eq!(seen, [seen[0]; 3]);
}

#[test]
fn the_test_clock_starts_at_zero_and_moves_only_when_it_is_told() {
    let clock = Clock::new();
    assert_eq!(clock.time(), Duration::ZERO);
    let start = clock.now();
    clock.advance(millis(1_500));
    clock.pump([millis(250), millis(250)]);
    assert_eq!(clock.time(), seconds(2));
    assert_eq!(clock.now() - start, seconds(2));
}

#[test]
fn advance_runs_calls_armed_meanwhile_that_are_due_already() {
    let (clock, ran) = (Clock::new(), Ran::default());
    let (again, calls) = (clock.clone(), ran.clone());
    clock.call_later(seconds(1), move || {
        calls.call(1)();
        again.call_later(Duration::ZERO, calls.call(3));
        again.call_later(Duration::from_nanos(1), calls.call(4));
    });
    clock.call_later(seconds(1), ran.call(2));
    clock.advance(seconds(1));
    assert_eq!(ran.take(), [1, 2, 3]);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(ran.take(), [4]);
}

#[test]
fn during_advance_it_is_the_new_time_for_every_call() {
    let clock = Clock::new();
    let seen = Rc::new(RefCell::new(Vec::new()));
    for delay in 1..4 {
        let (look, seen) = (clock.clone(), seen.clone());
        clock.call_later(seconds(delay), move || seen.borrow_mut().push(look.time()));
    }
    clock.advance(seconds(10));
    assert_eq!(seen.take(), [seconds(10); 3]);
}

#[test]
fn pump_advances_step_by_step() {
    let clock = Clock::new();
    let seen = Rc::new(RefCell::new(Vec::new()));
    for delay in 1..4 {
        let (look, seen) = (clock.clone(), seen.clone());
        clock.call_later(seconds(delay), move || seen.borrow_mut().push(look.time()));
    }
    clock.pump([seconds(1), seconds(2)]);
    assert_eq!(seen.take(), [seconds(1), seconds(3), seconds(3)]);
}

#[test]
fn a_call_may_advance_the_clock_it_runs_on() {
    let (clock, ran) = (Clock::new(), Ran::default());
    let (forward, first) = (clock.clone(), ran.call(1));
    clock.call_later(seconds(1), move || {
        forward.advance(seconds(1));
        first();
    });
    clock.call_later(seconds(2), ran.call(2));
    clock.advance(seconds(1));
    assert_eq!(ran.take(), [2, 1]);
    assert_eq!(clock.time(), seconds(2));
}

// ---- against a model that sorts a list --------------------------------------------------------------

#[derive(Debug, Clone)]
enum Step {
    Arm(u64),
    Cancel(usize),
    Reset(usize, u64),
    Delay(usize, u64),
    Advance(u64),
}

/// Few different times, so that many are equal.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..20u64).prop_map(Step::Arm),
        1 => any::<usize>().prop_map(Step::Cancel),
        2 => (any::<usize>(), 0..20u64).prop_map(|(call, delay)| Step::Reset(call, delay)),
        2 => (any::<usize>(), 0..20u64).prop_map(|(call, delay)| Step::Delay(call, delay)),
        2 => (0..8u64).prop_map(Step::Advance),
    ]
}

/// Calls as (deadline, order among equals, number).
#[derive(Default)]
struct Model {
    now: u64,
    order: u64,
    pending: Vec<(u64, u64, u32)>,
}

impl Model {
    fn put(&mut self, number: u32, deadline: u64) {
        self.order += 1;
        self.pending.retain(|call| call.2 != number);
        self.pending.push((deadline, self.order, number));
    }

    fn advance(&mut self, amount: u64) -> Vec<u32> {
        self.now += amount;
        self.pending.sort();
        let due = self.pending.partition_point(|call| call.0 <= self.now);
        self.pending.drain(..due).map(|call| call.2).collect()
    }
}

/// A unit of time is odd on purpose: nothing may depend on round numbers.
const UNIT: Duration = Duration::from_nanos(77_777_777);

fn check_against_the_model(steps: Vec<Step>) {
    let (clock, ran, mut model) = (Clock::new(), Ran::default(), Model::default());
    let mut calls: Vec<DelayedCall> = Vec::new();
    let units = |count: u64| UNIT * u32::try_from(count).expect("small");
    for step in steps {
        let pick = |index: usize| (!calls.is_empty()).then(|| index % calls.len());
        match step {
            Step::Arm(delay) => {
                let number = calls.len() as u32;
                calls.push(clock.call_later(units(delay), ran.call(number)));
                model.put(number, model.now + delay);
            }
            Step::Cancel(index) => {
                let Some(index) = pick(index) else { continue };
                let known = model.pending.iter().any(|call| call.2 == index as u32);
                assert_eq!(calls[index].cancel().is_ok(), known);
                model.pending.retain(|call| call.2 != index as u32);
            }
            Step::Reset(index, delay) => {
                let Some(index) = pick(index) else { continue };
                if calls[index].reset(units(delay)).is_ok() {
                    model.put(index as u32, model.now + delay);
                }
            }
            Step::Delay(index, delay) => {
                let Some(index) = pick(index) else { continue };
                let before = model.pending.iter().find(|call| call.2 == index as u32).map(|call| call.0);
                assert_eq!(calls[index].delay(units(delay)).is_ok(), before.is_some());
                if let Some(before) = before {
                    model.put(index as u32, before + delay);
                }
            }
            Step::Advance(amount) => {
                clock.advance(units(amount));
                assert_eq!(ran.take(), model.advance(amount));
            }
        }
        let active = calls.iter().filter(|call| call.is_active()).count();
        assert_eq!(active, model.pending.len());
    }
    clock.advance(units(1_000));
    assert_eq!(ran.take(), model.advance(1_000));
}

proptest! {
    #[test]
    fn any_sequence_of_steps_runs_what_a_sorted_list_would_run(steps in prop::collection::vec(step(), 1..120)) {
        check_against_the_model(steps);
    }
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

const NOTHING: [u32; 0] = [];
