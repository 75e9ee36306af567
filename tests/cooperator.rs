//! Long work in small steps.

#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::iter;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::testing::{Clock, assert_no_result, failure_result_of, success_result_of};
use dosimeter::{
    Clock as _, Completer, CooperativeTask, Cooperator, Deferred, Failure, Reactor, Result, TaskError, cooperate,
};
use support::{keep_logs, logged, reactor};

/// The steps that were done, in order.
#[derive(Clone, Default)]
struct Done(Rc<RefCell<Vec<String>>>);

impl Done {
    /// `count` steps of a task, each noted with its name.
    fn steps(&self, name: &'static str, count: u32) -> impl Iterator<Item = ()> + 'static {
        let done = self.0.clone();
        (1..=count).map(move |number| done.borrow_mut().push(format!("{name}{number}")))
    }

    fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

/// A cooperator with slices of so many steps, on a clock where each slice is a millisecond.
fn cooperator(steps: u32) -> (Clock, Cooperator) {
    let clock = Clock::new();
    let cooperator = Cooperator::with_slices(&clock, move || {
        let mut left = steps;
        move || {
            left -= 1;
            left == 0
        }
    });
    (clock, cooperator)
}

fn error(failure: Failure) -> String {
    format!("{:?}", failure.downcast_ref::<TaskError>().expect("an error of a task"))
}

fn outcome(result: Result<(), TaskError>) -> String {
    result.map_or_else(|error| format!("{error:?}"), |()| "fine".to_owned())
}

/// What every operation says of a task that has ended.
fn refusals(task: &CooperativeTask) -> Vec<String> {
    vec![
        outcome(task.pause()),
        outcome(task.resume()),
        outcome(task.stop()),
        error(failure_result_of(task.when_done())),
    ]
}

fn armed(clock: &Clock) -> usize {
    clock.timers().pending().len()
}

#[test]
fn tasks_take_turns_step_by_step() {
    let (clock, cooperator) = cooperator(100);
    let done = Done::default();
    let tasks = [("a", 3), ("b", 1), ("c", 2)].map(|(name, count)| cooperator.coiterate(done.steps(name, count)));
    assert_eq!(done.take(), [""; 0], "nothing is done before the clock comes to it");
    clock.advance(Duration::ZERO);
    assert_eq!(done.take(), ["a1", "b1", "c1", "a2", "c2", "a3"]);
    tasks.into_iter().for_each(success_result_of);
}

/// On a reactor, where a slice is a turn.
#[test]
fn a_slice_ends_when_its_time_is_over_and_the_next_goes_on_where_it_ended() {
    let (reactor, done) = (reactor(), Done::default());
    let cooperator = Cooperator::with_slices(&reactor, || {
        let mut left = 3;
        move || {
            left -= 1;
            left == 0
        }
    });
    let both = [("a", 3), ("b", 3)].map(|(name, count)| cooperator.coiterate(done.steps(name, count)));
    for expected in [["a1", "b1", "a2"], ["b2", "a3", "b3"]] {
        reactor.turn(Some(Duration::ZERO)).expect("a turn");
        assert_eq!(done.take(), expected);
    }
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    both.into_iter().for_each(success_result_of);
    assert!(reactor.timers().pending().is_empty());
}

#[test]
fn a_slice_of_real_time_leaves_the_loop_to_others() {
    let reactor = reactor();
    let steps = Rc::new(Cell::new(0_u32));
    let count = steps.clone();
    let endless = cooperate(&reactor, iter::repeat_with(move || count.set(count.get() + 1)));
    let stop = reactor.clone();
    reactor.call_later(Duration::from_millis(30), move || stop.stop().expect("it runs"));
    reactor.run().expect("a clean end");
    assert!(steps.get() > 1);
    assert_eq!(error(failure_result_of(endless.when_done())), "SchedulerStopped", "its reactor has ended");
    let late = cooperate(&reactor, iter::once(()));
    assert_eq!(error(failure_result_of(late.when_done())), "SchedulerStopped");
    let weak = reactor.downgrade();
    drop((reactor, endless, late));
    assert!(weak.upgrade().is_none());
}

#[test]
fn the_tasks_of_a_reactor_share_its_cooperator() {
    let (reactor, done) = (reactor(), Done::default());
    let tasks = [cooperate(&reactor, done.steps("a", 2)), cooperate(&reactor, done.steps("b", 2))];
    support::turn_until(&reactor, || done.0.borrow().len() == 4);
    assert_eq!(done.take(), ["a1", "b1", "a2", "b2"]);
    tasks.iter().for_each(|task| success_result_of(task.when_done()));
}

/// Steps that wait, and the completers of what they wait for.
fn waiting(count: usize) -> (impl Iterator<Item = Deferred<()>>, Vec<Completer<()>>) {
    let (completers, waits): (Vec<_>, Vec<_>) = (0..count).map(|_| Deferred::pair()).unzip();
    (waits.into_iter(), completers)
}

#[test]
fn a_step_that_waits_holds_up_its_own_task_alone_and_nothing_is_armed() {
    let (clock, cooperator) = cooperator(100);
    let (done, (steps, mut completers)) = (Done::default(), waiting(2));
    let waits = cooperator.coiterate(steps);
    let works = cooperator.coiterate(done.steps("a", 3));
    clock.advance(Duration::ZERO);
    assert_eq!(done.take(), ["a1", "a2", "a3"]);
    success_result_of(works);
    assert_no_result(&waits);
    assert_eq!(armed(&clock), 0);
    for _ in 0..2 {
        completers.remove(0).callback(());
        assert_eq!(armed(&clock), 1);
        assert_no_result(&waits);
        clock.advance(Duration::ZERO);
    }
    success_result_of(waits);
    assert_eq!(armed(&clock), 0);
}

#[test]
fn an_error_a_panic_or_a_failed_wait_fails_the_task_and_no_other() {
    let (clock, cooperator) = cooperator(100);
    let done = Done::default();
    let by_result = cooperator.cooperate(["1", "x", "3"].map(|text| Ok(_ = text.parse::<i32>()?)));
    let by_panic = cooperator.cooperate(iter::from_fn(|| -> Option<()> { panic!("in a step") }));
    let by_wait = cooperator.cooperate(iter::once(Deferred::<()>::fail("by the wait")));
    let (steps, completers) = waiting(1);
    let by_late_wait = cooperator.cooperate(steps);
    let unharmed = cooperator.coiterate(done.steps("a", 2));
    let waiters = [&by_result, &by_panic, &by_wait, &by_late_wait].map(CooperativeTask::when_done);
    clock.advance(Duration::ZERO);
    completers.into_iter().for_each(|completer| completer.errback("later"));
    success_result_of(unharmed);
    let failures = waiters.map(failure_result_of);
    assert!(failures[0].find::<std::num::ParseIntError>().is_some());
    let texts = ["invalid digit found in string", "panicked: in a step", "by the wait", "later"];
    for (failure, text) in failures.iter().zip(texts) {
        assert_eq!(format!("{failure:#}"), format!("a step of the task has failed: {text}"));
    }
    for task in [by_result, by_late_wait] {
        assert!(refusals(&task).iter().all(|text| text.starts_with("Failed(")), "{:?}", refusals(&task));
    }
}

#[test]
fn a_failure_that_nobody_asks_for_is_logged_once_and_one_that_is_heard_is_not() {
    keep_logs();
    let (clock, cooperator) = cooperator(100);
    let fail = || -> Option<Result<()>> { Some(Err("unheard of".into())) };
    drop(cooperator.cooperate(iter::from_fn(fail)));
    clock.advance(Duration::ZERO);
    let first = logged();
    assert_eq!(first.len(), 1, "{first:?}");
    assert!(first[0].contains("unheard of"), "{first:?}");
    let asked_later = cooperator.cooperate(iter::from_fn(fail));
    clock.advance(Duration::ZERO);
    for _ in 0..2 {
        failure_result_of(asked_later.when_done());
    }
    drop(asked_later);
    assert_eq!(logged(), [""; 0]);
}

#[test]
fn a_paused_task_does_nothing_until_it_is_resumed_as_often() {
    let (clock, cooperator) = cooperator(100);
    let done = Done::default();
    let task = cooperator.cooperate(done.steps("a", 2));
    assert_eq!(outcome(task.resume()), "NotPaused");
    task.pause().expect("it goes on");
    task.pause().expect("it goes on");
    assert_eq!(armed(&clock), 0);
    task.resume().expect("it is paused");
    clock.advance(Duration::ZERO);
    assert_eq!(done.take(), [""; 0]);
    task.resume().expect("it is paused");
    assert_eq!(outcome(task.resume()), "NotPaused");
    clock.advance(Duration::ZERO);
    assert_eq!(done.take(), ["a1", "a2"]);
}

#[test]
fn a_task_that_waits_and_is_paused_goes_on_when_both_are_over() {
    for resumed_first in [true, false] {
        let (clock, cooperator) = cooperator(100);
        let (steps, mut completers) = waiting(1);
        let task = cooperator.cooperate(steps);
        clock.advance(Duration::ZERO);
        assert_eq!(outcome(task.resume()), "NotPaused", "to wait is no pause that others may end");
        task.pause().expect("it waits");
        let fire = |completers: &mut Vec<Completer<()>>| completers.remove(0).callback(());
        if resumed_first {
            task.resume().expect("it is paused");
            assert_eq!(armed(&clock), 0);
            fire(&mut completers);
        } else {
            fire(&mut completers);
            assert_eq!(armed(&clock), 0);
            task.resume().expect("it is paused");
        }
        clock.advance(Duration::ZERO);
        success_result_of(task.when_done());
    }
}

#[test]
fn a_stopped_task_frees_its_steps_and_says_so_ever_after() {
    let (clock, cooperator) = cooperator(100);
    let held = Rc::new(());
    let hold = held.clone();
    let task = cooperator.cooperate(iter::repeat_with(move || _ = &hold));
    let waiter = task.when_done();
    task.stop().expect("it goes on");
    assert_eq!(Rc::strong_count(&held), 1);
    assert_eq!(error(failure_result_of(waiter)), "Stopped");
    assert_eq!(refusals(&task), ["Stopped"; 4]);
    assert_eq!(armed(&clock), 0, "it was the last one");
}

#[test]
fn a_task_that_is_done_says_so_ever_after() {
    let (clock, cooperator) = cooperator(100);
    let task = cooperator.cooperate(Done::default().steps("a", 1));
    clock.advance(Duration::ZERO);
    for _ in 0..2 {
        success_result_of(task.when_done());
    }
    assert_eq!([task.pause(), task.resume(), task.stop()].map(outcome), ["Done"; 3]);
}

#[test]
fn to_resume_a_task_that_was_stopped_while_it_was_paused_is_no_error() {
    let (clock, cooperator) = cooperator(100);
    let task = cooperator.cooperate(Done::default().steps("a", 1));
    task.pause().expect("it goes on");
    task.stop().expect("it is paused");
    assert_eq!(outcome(task.resume()), "fine");
    assert_eq!(outcome(task.resume()), "Stopped");
    assert_eq!(armed(&clock), 0);
}

#[test]
fn a_step_may_do_anything_to_its_own_task_and_to_others() {
    let (clock, cooperator) = cooperator(100);
    let done = Done::default();
    let own = Rc::new(RefCell::new(None::<CooperativeTask>));
    let (itself, others, more) = (own.clone(), cooperator.clone(), done.clone());
    let mut number = 0;
    let steps = iter::from_fn(move || {
        number += 1;
        let task = itself.borrow().clone().expect("set below");
        match number {
            1 => drop(others.cooperate(more.steps("new", 1))),
            2 => {
                task.pause().expect("it runs");
                task.resume().expect("it is paused");
                task.pause().expect("it runs");
            }
            _ => task.stop().expect("it runs"),
        }
        Some(())
    });
    let task = cooperator.cooperate(steps);
    own.replace(Some(task.clone()));
    let waiter = task.when_done();
    clock.advance(Duration::ZERO);
    assert_eq!(done.take(), ["new1"]);
    assert_eq!(armed(&clock), 0, "it is paused");
    task.resume().expect("it is paused");
    clock.advance(Duration::ZERO);
    assert_eq!(error(failure_result_of(waiter)), "Stopped");
    assert_eq!(armed(&clock), 0);
    own.take();
}

#[test]
fn stopping_the_cooperator_tells_every_task_those_that_wait_or_are_paused_included() {
    let (clock, cooperator) = cooperator(100);
    let (steps, completers) = waiting(1);
    let waits = cooperator.cooperate(steps);
    clock.advance(Duration::ZERO);
    let mut tasks: Vec<_> = (0..5).map(|_| cooperator.cooperate(iter::repeat(()))).collect();
    tasks[2].pause().expect("it goes on");
    tasks.push(waits);
    let told = Rc::new(Cell::new(0));
    for task in &tasks {
        // Each that is told stops it again.
        let (told, again) = (told.clone(), cooperator.clone());
        task.when_done().add_errback(move |failure| {
            assert_eq!(error(failure), "SchedulerStopped");
            told.set(told.get() + 1);
            again.stop();
        });
    }
    cooperator.stop();
    assert_eq!(told.get(), 6);
    assert!(!cooperator.is_running());
    assert_eq!(armed(&clock), 0);
    for task in &tasks {
        assert!(refusals(task).iter().skip(2).all(|text| text == "SchedulerStopped"));
    }
    completers.into_iter().for_each(|completer| completer.callback(()));
    assert_eq!(armed(&clock), 0);
}

#[test]
fn a_cooperator_that_was_stopped_takes_no_task_until_it_is_started() {
    let (clock, cooperator) = cooperator(100);
    cooperator.stop();
    let refused = cooperator.cooperate(Done::default().steps("a", 1));
    assert_eq!(error(failure_result_of(refused.when_done())), "SchedulerStopped");
    assert_eq!(armed(&clock), 0);
    cooperator.start();
    let taken = cooperator.cooperate(Done::default().steps("a", 1));
    clock.advance(Duration::ZERO);
    success_result_of(taken.when_done());
}

#[test]
fn a_failure_that_comes_after_the_task_was_stopped_is_logged() {
    keep_logs();
    let (clock, cooperator) = cooperator(100);
    let (steps, completers) = waiting(1);
    let task = cooperator.cooperate(steps);
    clock.advance(Duration::ZERO);
    task.stop().expect("it waits");
    completers.into_iter().for_each(|completer| completer.errback("too late"));
    let logged = logged();
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].contains("too late"), "{logged:?}");
}

#[test]
fn a_task_that_comes_after_the_end_of_its_reactor_is_told_so() {
    let reactor = reactor();
    assert!(reactor.shut_down().is_fired());
    let error = failure_result_of(cooperate(&reactor, [()]).when_done());
    assert!(matches!(error.downcast_ref(), Some(TaskError::SchedulerStopped)), "{error}");
}

#[test]
fn a_task_that_nobody_can_resume_is_forgotten_and_its_waiters_are_told() {
    let (clock, cooperator) = cooperator(100);
    let held = Rc::new(());
    let hold = held.clone();
    let task = cooperator.cooperate(iter::repeat_with(move || _ = &hold));
    let waiter = task.when_done();
    task.pause().expect("it goes on");
    drop(task);
    assert_eq!(Rc::strong_count(&held), 1);
    assert!(failure_result_of(waiter).is::<dosimeter::Abandoned>());
    assert_eq!(armed(&clock), 0);
    assert_eq!(format!("{cooperator:?}"), "Cooperator { is_running: true, tasks: 0 }");
}

#[test]
fn a_task_goes_on_without_any_handle_and_does_not_keep_its_clock_alive() {
    let (clock, cooperator) = cooperator(1);
    let (steps, mut completers) = waiting(1);
    let waiter = cooperator.coiterate(steps);
    drop(cooperator);
    clock.advance(Duration::ZERO);
    completers.remove(0).callback(());
    clock.advance(Duration::ZERO);
    success_result_of(waiter);

    let held = Rc::new(());
    let hold = held.clone();
    let reactor: Reactor = reactor();
    let own = reactor.clone();
    drop(Cooperator::new(&reactor).cooperate(iter::repeat_with(move || _ = (&hold, &own))));
    success_result_of(reactor.shut_down());
    assert_eq!(Rc::strong_count(&held), 1);
    drop(clock);
}

#[test]
fn a_step_may_move_the_clock_it_runs_on() {
    let (clock, cooperator) = cooperator(100);
    let (done, moved) = (Done::default(), clock.clone());
    let mut steps = done.steps("a", 3);
    let moving = cooperator.coiterate(iter::from_fn(move || {
        moved.advance(Duration::from_millis(1));
        steps.next()
    }));
    let others = cooperator.coiterate(done.steps("b", 2));
    clock.advance(Duration::ZERO);
    assert_eq!(done.take(), ["b1", "b2", "a1", "a2", "a3"]);
    success_result_of(moving);
    success_result_of(others);
    assert_eq!(armed(&clock), 0);
}

#[test]
fn a_hundred_thousand_tasks_need_no_stack() {
    let (clock, cooperator) = cooperator(u32::MAX);
    let ended = Rc::new(Cell::new(0));
    for _ in 0..100_000 {
        let ended = ended.clone();
        drop(cooperator.coiterate(iter::repeat_n((), 3)).map(move |()| ended.set(ended.get() + 1)));
    }
    clock.advance(Duration::ZERO);
    assert_eq!(ended.get(), 100_000);
}
