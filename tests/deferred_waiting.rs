//! Callbacks that return a chain: the outer one waits for it and goes on with its result.

#[path = "support/journal.rs"]
mod journal;
#[path = "support/log.rs"]
mod log_capture;

use std::cell::RefCell;
use std::rc::Rc;

use dosimeter::{Cancelled, Completer, Deferred, Failure, Result};
use journal::Journal;
use log_capture::logged;

fn result<T: 'static>(deferred: Deferred<T>) -> Result<T> {
    deferred.into_result().ok().expect("fired")
}

#[test]
fn a_returned_pending_chain_suspends_the_outer_one() {
    let journal = Journal::new();
    let (outer, first) = Deferred::<i32>::pair();
    let (inner, second) = Deferred::<&str>::pair();
    let tail = first.add_callback(|_| second).add_callback(journal.noting("after"));
    outer.callback(1);
    assert!(!tail.is_fired());
    let tail = tail.add_callback(journal.noting("added while waiting"));
    assert!(journal.take().is_empty());
    inner.callback("inner");
    assert_eq!(journal.take(), ["after inner", "added while waiting inner"]);
    assert_eq!(result(tail).expect("a value"), "inner");
}

#[test]
fn an_errback_may_return_a_chain_as_well() {
    let (inner, second) = Deferred::<i32>::pair();
    let (outer, first) = Deferred::<i32>::pair();
    let tail = first.add_errback(|_| second);
    outer.errback("no");
    assert!(!tail.is_fired());
    inner.callback(2);
    assert_eq!(result(tail).expect("recovered"), 2);
}

#[test]
fn the_outer_chain_goes_on_with_the_failure_of_the_inner_one() {
    let (inner, second) = Deferred::<i32>::pair();
    let tail =
        Deferred::succeed(1).add_callback(|_| second).add_errback(|failure| Ok(failure.to_string().len() as i32));
    inner.errback("four");
    assert_eq!(result(tail).expect("handled"), 4);
}

#[test]
fn a_returned_fired_chain_is_taken_on_the_spot() {
    let (outer, first) = Deferred::<i32>::pair();
    let (inner, second) = Deferred::<i32>::pair();
    inner.callback(2);
    let tail = first.add_callback(|_| second);
    outer.callback(1);
    assert_eq!(result(tail).expect("a value"), 2);
    assert_eq!(result(Deferred::succeed(1).add_callback(|_| Deferred::succeed(3))).expect("a value"), 3);
}

#[test]
fn a_chain_cancelled_before_it_is_returned_hands_over_its_failure() {
    let (_inner, second) = Deferred::<i32>::pair();
    second.cancel();
    let tail = Deferred::succeed(1).add_callback(|_| second);
    assert!(result(tail).expect_err("cancelled").is::<Cancelled>());
}

#[test]
fn what_was_added_to_the_inner_chain_runs_before_the_rest_of_the_outer_one() {
    let journal = Journal::new();
    let (outer, first) = Deferred::<i32>::pair();
    let (inner, second) = Deferred::<i32>::pair();
    let second = second.add_callback(journal.noting("inner one")).add_callback(journal.noting("inner two"));
    drop(
        first
            .add_callback(|_| second)
            .add_callback(journal.noting("outer one"))
            .add_callback(journal.noting("outer two")),
    );
    outer.callback(1);
    inner.callback(2);
    assert_eq!(journal.take(), ["inner one 2", "inner two 2", "outer one 2", "outer two 2"]);
}

#[test]
fn the_outer_chain_waits_for_a_whole_stack_of_chains() {
    let journal = Journal::new();
    let (outer, first) = Deferred::<i32>::pair();
    let (middle, second) = Deferred::<i32>::pair();
    let (inner, third) = Deferred::<i32>::pair();
    let second = second.add_callback(|_| third).add_callback(journal.noting("middle"));
    let tail = first.add_callback(|_| second).add_callback(journal.noting("outer"));
    outer.callback(1);
    middle.callback(2);
    assert!(journal.take().is_empty() && !tail.is_fired());
    inner.callback(3);
    assert_eq!(journal.take(), ["middle 3", "outer 3"]);
    assert_eq!(result(tail).expect("a value"), 3);
}

#[test]
fn a_chain_may_wait_many_times() {
    let (first, start) = Deferred::<i32>::pair();
    let (completers, chains): (Vec<_>, Vec<_>) = (0..5).map(|_| Deferred::<i32>::pair()).unzip();
    let tail = chains
        .into_iter()
        .fold(start, |chain, next| chain.add_callback(move |sum| next.map(move |number| sum + number)));
    first.callback(0);
    for (number, completer) in completers.into_iter().enumerate() {
        assert!(!tail.is_fired());
        completer.callback(number as i32);
    }
    assert_eq!(result(tail).expect("a value"), 10);
}

#[test]
fn the_order_in_which_the_stack_is_fired_makes_no_difference() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let (completers, mut chains): (Vec<_>, Vec<_>) = (0..3).map(|_| Deferred::<usize>::pair()).unzip();
        let mut completers: Vec<_> = completers.into_iter().map(Some).collect();
        let (third, second, first) = (chains.pop(), chains.pop(), chains.pop());
        let second =
            second.expect("three").add_callback(move |sum| third.expect("three").map(move |more| sum * 10 + more));
        let tail = first.expect("three").add_callback(move |sum| second.map(move |more| sum * 100 + more));
        for which in order {
            assert!(!tail.is_fired());
            completers[which].take().expect("once each").callback(which + 1);
        }
        assert_eq!(result(tail).expect("a value"), 123, "{order:?}");
    }
}

#[test]
fn a_chain_that_a_callback_makes_wait_for_itself_fails() {
    let token = Rc::new(());
    let watch = Rc::downgrade(&token);
    let (completer, deferred) = Deferred::<i32>::pair();
    let slot: Rc<RefCell<Option<Deferred<i32>>>> = Rc::default();
    let own = slot.clone();
    let tail = deferred.add_callback(move |_| {
        drop(token);
        own.take().expect("put there")
    });
    let canceller = tail.canceller();
    slot.replace(Some(tail));
    let lines = logged(|| completer.callback(1));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("a callback returned the very chain it belongs to"), "{}", lines[0]);
    assert!(watch.upgrade().is_none());
    canceller.cancel();
}

#[test]
fn cancelling_chains_that_wait_for_each_other_in_a_circle_comes_to_an_end() {
    let (completer, deferred) = Deferred::<i32>::pair();
    let slot: Rc<RefCell<Option<Deferred<i32>>>> = Rc::default();
    let own = slot.clone();
    let tail = deferred.add_callback(move |_| own.take().expect("put there")).map(|number| number).map(|number| number);
    let canceller = tail.canceller();
    slot.replace(Some(tail));
    completer.callback(1);
    canceller.cancel();
}

// ---- chain_into ---------------------------------------------------------------------------------------

#[test]
fn chain_into_fires_the_other_chain_with_the_result() {
    let (first, one) = Deferred::<i32>::pair();
    let (second, two) = Deferred::<i32>::pair();
    one.map(|number| number + 1).chain_into(second);
    first.callback(1);
    assert_eq!(result(two).expect("a value"), 2);
    let (second, two) = Deferred::<i32>::pair();
    Deferred::fail("no").chain_into(second);
    assert_eq!(result(two).expect_err("a failure").to_string(), "no");
}

#[test]
fn cancelling_either_of_two_chained_chains_does_not_reach_the_other() {
    let journal = Journal::new();
    let noting = |completer: &Completer<i32>, name: &'static str| {
        let journal = journal.clone();
        completer.on_cancel(move || journal.note(name));
    };
    let (first, one) = Deferred::<i32>::pair();
    let (second, two) = Deferred::<i32>::pair();
    noting(&first, "first");
    noting(&second, "second");
    one.chain_into(second);
    two.cancel();
    assert_eq!(journal.take(), ["second"]);
    assert!(!first.is_cancelled());
    first.callback(1);
    assert!(result(two).expect_err("cancelled").is::<Cancelled>());
}

#[test]
fn a_chain_fired_through_another_drops_its_canceller() {
    let token = Rc::new(());
    let watch = Rc::downgrade(&token);
    let (first, one) = Deferred::<i32>::pair();
    let (second, two) = Deferred::<i32>::pair();
    second.on_cancel(move || drop(token));
    one.chain_into(second);
    first.callback(1);
    assert!(watch.upgrade().is_none(), "while the fired chain is still held");
    assert_eq!(result(two).expect("a value"), 1);
}

#[test]
fn a_failure_keeps_its_identity_through_chains() {
    let (first, one) = Deferred::<i32>::pair();
    let (second, two) = Deferred::<i32>::pair();
    one.chain_into(second);
    let tail = Deferred::succeed(()).add_callback(|()| two);
    let failure = Failure::from("the one");
    let address = std::ptr::from_ref(failure.error()).cast::<()>();
    first.errback(failure);
    let arrived = result(tail).expect_err("a failure");
    assert!(std::ptr::eq(address, std::ptr::from_ref(arrived.error()).cast::<()>()));
}
