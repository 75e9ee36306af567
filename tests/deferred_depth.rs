//! Nothing recurses with the length of a chain, neither firing nor dropping: a stack overflow ends the process.

use std::thread;
use std::time::Duration;

use dosimeter::testing::Clock;
use dosimeter::{Completer, Deferred, Result, TimedOut};

/// Runs `body` where recursion with the data would overflow: in a thread with 256 KiB of stack.
fn on_a_small_stack(body: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(256 * 1024).spawn(body).expect("a thread");
    thread.join().expect("no panic");
}

fn result<T: 'static>(deferred: Deferred<T>) -> Result<T> {
    deferred.into_result().ok().expect("fired")
}

const STAGES: usize = 1_000_000;
const CHAINS: usize = 100_000;

fn long_chain() -> (Completer<usize>, Deferred<usize>) {
    let (completer, deferred) = Deferred::pair();
    (completer, (0..STAGES).fold(deferred, |chain, _| chain.map(|number| number + 1)))
}

#[test]
fn a_million_stages_fire_on_a_small_stack() {
    on_a_small_stack(|| {
        let (completer, tail) = long_chain();
        completer.callback(0);
        assert_eq!(result(tail).expect("a value"), STAGES);
    });
}

#[test]
fn a_million_stages_fail_on_a_small_stack() {
    on_a_small_stack(|| {
        let (completer, tail) = long_chain();
        completer.errback("no");
        assert_eq!(result(tail).expect_err("a failure").to_string(), "no");
    });
}

#[test]
fn a_million_unfired_stages_are_dropped_on_a_small_stack() {
    on_a_small_stack(|| {
        let (completer, tail) = long_chain();
        let tail = tail.add_errback(|_| Ok(0));
        drop(tail);
        drop(completer);
        let (completer, tail) = long_chain();
        let tail = tail.add_errback(|_| Ok(0));
        drop(completer);
        drop(tail);
    });
}

#[test]
fn a_million_stages_are_cancelled_on_a_small_stack() {
    on_a_small_stack(|| {
        let (_completer, tail) = long_chain();
        tail.cancel();
        assert!(result(tail).expect_err("cancelled").is::<dosimeter::Cancelled>());
    });
}

#[test]
fn a_million_callbacks_on_a_fired_chain_run_on_a_small_stack() {
    on_a_small_stack(|| {
        let tail = (0..STAGES).fold(Deferred::succeed(0), |chain, _| chain.map(|number| number + 1));
        assert_eq!(result(tail).expect("a value"), STAGES);
    });
}

/// Chains of which each waits, once it is fired, for the one after it; and the completers in order.
fn each_returned_from_the_one_before() -> (Vec<Completer<usize>>, Deferred<usize>) {
    let (completers, chains): (Vec<_>, Vec<_>) = (0..CHAINS).map(|_| Deferred::<usize>::pair()).unzip();
    let mut chains = chains.into_iter().rev();
    let last = chains.next().expect("many");
    let tail = chains.fold(last, |next, chain| chain.add_callback(move |_| next).map(|number| number + 1));
    (completers, tail)
}

#[test]
fn a_hundred_thousand_chains_each_returned_from_the_one_before_fire_in_any_order() {
    on_a_small_stack(|| {
        let (completers, tail) = each_returned_from_the_one_before();
        completers.into_iter().for_each(|completer| completer.callback(0));
        assert_eq!(result(tail).expect("a value"), CHAINS - 1);
        let (completers, tail) = each_returned_from_the_one_before();
        completers.into_iter().rev().for_each(|completer| completer.callback(0));
        assert_eq!(result(tail).expect("a value"), CHAINS - 1);
    });
}

#[test]
fn a_hundred_thousand_chains_each_returned_from_the_one_before_are_cancelled_in_linear_time() {
    on_a_small_stack(|| {
        let (mut completers, tail) = each_returned_from_the_one_before();
        let last = completers.pop().expect("many");
        completers.into_iter().for_each(|completer| completer.callback(0));
        tail.cancel();
        assert!(last.is_cancelled());
        assert!(result(tail).expect_err("cancelled").is::<dosimeter::Cancelled>());
    });
}

#[test]
fn a_hundred_thousand_waiting_chains_are_dropped_from_either_end() {
    on_a_small_stack(|| {
        for from_the_front in [true, false] {
            let (completers, tail) = each_returned_from_the_one_before();
            let tail = tail.add_errback(|_| Ok(0));
            if from_the_front {
                // Each failure passes by the callback that would have returned the next chain; the log is not the point.
                completers.into_iter().for_each(drop);
                drop(tail);
            } else {
                drop(tail);
                completers.into_iter().rev().for_each(drop);
            }
        }
    });
}

#[test]
fn a_chain_that_keeps_returning_fired_chains_runs_on_a_small_stack() {
    on_a_small_stack(|| {
        let tail = (0..STAGES)
            .fold(Deferred::succeed(0), |chain, _| chain.add_callback(|number| Deferred::succeed(number + 1)));
        assert_eq!(result(tail).expect("a value"), STAGES);
    });
}

#[test]
fn a_loop_of_callbacks_that_return_the_next_wait_runs_on_a_small_stack() {
    /// Twisted's way to write a loop: the callback returns the rest of the loop.
    fn countdown(left: usize, completers: std::rc::Rc<std::cell::RefCell<Vec<Completer<()>>>>) -> Deferred<usize> {
        let (completer, deferred) = Deferred::pair();
        completers.borrow_mut().push(completer);
        deferred.add_callback(move |()| if left == 0 { Deferred::succeed(7) } else { countdown(left - 1, completers) })
    }
    on_a_small_stack(|| {
        let completers: std::rc::Rc<std::cell::RefCell<Vec<Completer<()>>>> = Default::default();
        let tail = countdown(CHAINS, completers.clone());
        loop {
            let Some(completer) = completers.borrow_mut().pop() else { break };
            completer.callback(());
        }
        assert_eq!(result(tail).expect("a value"), 7);
    });
}

/// Chains of which each fires the next through `chain_into`.
fn linked(links: usize) -> (Completer<usize>, Deferred<usize>) {
    let (first, mut tail) = Deferred::pair();
    for _ in 0..links {
        let (completer, next) = Deferred::pair();
        tail.map(|number| number + 1).chain_into(completer);
        tail = next;
    }
    (first, tail)
}

#[test]
fn chains_linked_by_chain_into_fire_and_drop_on_a_small_stack() {
    on_a_small_stack(|| {
        let (first, tail) = linked(CHAINS);
        first.callback(0);
        assert_eq!(result(tail).expect("a value"), CHAINS);
        let (first, tail) = linked(CHAINS);
        drop(tail.add_errback(|_| Ok(0)));
        drop(first);
        let (first, tail) = linked(CHAINS);
        drop(first);
        assert!(result(tail).expect_err("abandoned").is::<dosimeter::Abandoned>());
    });
}

#[test]
fn relays_alone_are_walked_without_recursion() {
    on_a_small_stack(|| {
        let (first, mut tail) = Deferred::<usize>::pair();
        for _ in 0..CHAINS {
            let (completer, next) = Deferred::pair();
            tail.chain_into(completer);
            tail = next;
        }
        first.callback(3);
        assert_eq!(result(tail).expect("a value"), 3);
    });
}

#[test]
fn a_hundred_thousand_timeouts_on_one_chain_end_on_a_small_stack() {
    on_a_small_stack(|| {
        let clock = Clock::new();
        let seconds = |number: usize| Duration::from_secs(1 + number as u64);
        let timed = || {
            let (completer, deferred) = Deferred::<usize>::pair();
            (completer, (0..CHAINS).fold(deferred, |chain, number| chain.add_timeout(seconds(number), &clock)))
        };
        let (completer, tail) = timed();
        completer.callback(7);
        assert_eq!(result(tail).expect("a value"), 7);
        let (completer, tail) = timed();
        drop(tail.add_errback(|_| Ok(0)));
        drop(completer);
        let (_completer, tail) = timed();
        clock.advance(seconds(0));
        assert!(result(tail).expect_err("too late").is::<TimedOut>());
        assert!(dosimeter::Clock::timers(&clock).pending().is_empty());
    });
}
