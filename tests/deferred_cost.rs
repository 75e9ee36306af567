//! What a chain allocates: one block per pending stage, nothing for a fired one.

#[path = "support/allocations.rs"]
mod allocations;

use std::hint::black_box;

use allocations::allocations;
use dosimeter::{Deferred, Metrics, Reactor};

#[test]
fn a_pair_is_one_allocation() {
    let counted = allocations(|| {
        let (completer, deferred) = black_box(Deferred::<u64>::pair());
        completer.callback(1);
        drop(deferred);
    });
    assert_eq!(counted, 1);
}

#[test]
fn each_pending_stage_is_one_allocation() {
    for stages in [1, 3, 100] {
        let counted = allocations(|| {
            let (completer, deferred) = Deferred::pair();
            let tail = (0..stages).fold(deferred, |chain, _| chain.add_callback(|number: u64| Ok(number + 1)));
            completer.callback(0);
            assert_eq!(tail.into_result().expect("fired").expect("a value"), stages as u64);
        });
        assert_eq!(counted, 1 + stages);
    }
}

#[test]
fn callbacks_on_a_fired_chain_allocate_nothing() {
    let counted = allocations(|| {
        let tail = Deferred::succeed(black_box(1_u64))
            .add_callback(|number| Ok(number + 1))
            .add_callback(|number| Deferred::succeed(number * 2))
            .add_errback(|_| Ok(0))
            .map(|number| number - 1);
        assert_eq!(tail.into_result().expect("fired").expect("a value"), 3);
    });
    assert_eq!(counted, 0);
}

#[test]
fn waiting_for_a_returned_chain_allocates_nothing_more() {
    let counted = allocations(|| {
        let (outer, first) = Deferred::<u64>::pair();
        let (inner, second) = Deferred::<u64>::pair();
        let tail = first.add_callback(move |_| second);
        outer.callback(1);
        inner.callback(2);
        assert_eq!(tail.into_result().expect("fired").expect("a value"), 2);
    });
    assert_eq!(counted, 3, "two pairs and a stage");
}

#[test]
fn a_task_is_two_allocations_and_its_waits_are_none() {
    let reactor = Reactor::builder().metrics(Metrics::Off).signal_handlers(false).build().expect("a reactor");
    let wait_twice = || {
        let ((first, one), (second, two)) = (Deferred::<u64>::pair(), Deferred::<u64>::pair());
        let task = reactor.spawn(async move { Ok(one.await? + two.await?) });
        first.callback(1);
        second.callback(2);
        assert_eq!(task.into_result().expect("fired").expect("a value"), 3);
    };
    // The first task of a thread makes the list of tasks, and a waker that the next ones use again.
    wait_twice();
    assert_eq!(allocations(wait_twice), 2 + 2, "two pairs, the task and its body");
}
