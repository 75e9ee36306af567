//! Many chains as one: lists, races and joins.

#[path = "support/journal.rs"]
mod journal;
#[path = "support/log.rs"]
mod log_capture;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use dosimeter::{
    Cancelled, Completer, Deferred, DeferredList, FailureGroup, FirstError, Listed, Result, deferred_list,
    gather_results, join, race,
};
use journal::Journal;
use log_capture::logged;

fn result<T: 'static>(deferred: Deferred<T>) -> Result<T> {
    deferred.into_result().ok().expect("fired")
}

fn pairs<const N: usize>() -> ([Completer<usize>; N], [Deferred<usize>; N]) {
    let mut chains = Vec::new();
    let completers = std::array::from_fn(|_| {
        let (completer, deferred) = Deferred::pair();
        chains.push(deferred);
        completer
    });
    (completers, chains.try_into().expect("as many"))
}

/// Values as they are, failures by their text.
fn texts(results: &[Result<usize>]) -> Vec<String> {
    let text = |result: &Result<usize>| match result {
        Ok(value) => value.to_string(),
        Err(failure) => failure.to_string(),
    };
    results.iter().map(text).collect()
}

fn first_error(result: Result<impl Sized>) -> (usize, String) {
    let first = result.err().expect("a failure").trap::<FirstError>().expect("of one of several");
    (first.index(), first.into_failure().to_string())
}

fn unhandled(lines: &[String]) -> usize {
    lines.iter().filter(|line| line.starts_with("ERROR unhandled failure")).count()
}

// ---- lists --------------------------------------------------------------------------------------------

#[test]
fn a_list_fires_when_all_are_done_with_every_result_in_the_order_of_the_inputs() {
    let ([one, two, three], chains) = pairs();
    let list = deferred_list(chains);
    three.callback(3);
    one.errback("no");
    assert!(!list.is_fired());
    two.callback(2);
    assert_eq!(texts(&result(list).expect("never fails")), ["no", "2", "3"]);
}

#[test]
fn inputs_that_are_fired_already_count_at_once() {
    let ([one], [chain]) = pairs();
    let list = deferred_list([Deferred::succeed(0), chain, Deferred::fail("no")]);
    assert!(!list.is_fired());
    one.callback(1);
    assert_eq!(texts(&result(list).expect("never fails")), ["0", "1", "no"]);
}

#[test]
fn without_inputs_a_list_is_an_empty_one_at_once() {
    assert!(result(deferred_list::<usize>([])).expect("empty").is_empty());
    assert!(result(gather_results::<usize>([])).expect("empty").is_empty());
    for fire_on_one_callback in [false, true] {
        let list = DeferredList { fire_on_one_callback, ..DeferredList::default() }.of::<usize>([]);
        assert!(matches!(result(list), Ok(Listed::All(results)) if results.is_empty()));
    }
}

#[test]
fn a_list_that_fires_on_one_callback_ends_with_the_first_value() {
    let ([one, two, three], chains) = pairs();
    let list = DeferredList { fire_on_one_callback: true, consume_errors: true, ..DeferredList::default() }.of(chains);
    one.errback("no");
    assert!(!list.is_fired());
    three.callback(3);
    assert!(!two.is_cancelled(), "the others are left running");
    two.callback(2);
    assert!(matches!(result(list), Ok(Listed::One { index: 2, value: 3 })));
}

#[test]
fn a_list_that_waits_in_vain_for_one_callback_ends_with_all_failures() {
    let ([one, two], chains) = pairs();
    let list = DeferredList { fire_on_one_callback: true, ..DeferredList::default() }.of(chains);
    two.errback("second");
    one.errback("first");
    let Ok(Listed::All(results)) = result(list) else { panic!("there was no value") };
    assert_eq!(texts(&results), ["first", "second"]);
}

#[test]
fn a_list_that_fires_on_one_errback_fails_with_the_first_failure_and_leaves_the_others_running() {
    let ([one, two, three], chains) = pairs();
    let list = DeferredList { fire_on_one_errback: true, ..DeferredList::default() }.of(chains);
    one.callback(1);
    two.errback("no");
    assert_eq!(first_error(result(list)), (1, "no".to_string()));
    assert!(!three.is_cancelled());
    three.callback(3);
}

#[test]
fn failures_that_find_no_place_in_the_result_are_logged_unless_they_are_consumed() {
    for (consume_errors, expected) in [(false, 2), (true, 0)] {
        let lines = logged(|| {
            let ([one, two, three], chains) = pairs();
            let list = DeferredList { fire_on_one_errback: true, consume_errors, ..DeferredList::default() }.of(chains);
            one.errback("first");
            two.errback("second");
            three.errback("third");
            assert_eq!(first_error(result(list)), (0, "first".to_string()));
        });
        assert_eq!(unhandled(&lines), expected, "{lines:?}");
        let lines = logged(|| {
            let ([one, two, three], chains) = pairs();
            let list =
                DeferredList { fire_on_one_callback: true, consume_errors, ..DeferredList::default() }.of(chains);
            one.errback("before");
            two.callback(2);
            three.errback("after");
            assert!(matches!(result(list), Ok(Listed::One { index: 1, value: 2 })));
        });
        assert_eq!(unhandled(&lines), expected, "{lines:?}");
    }
}

#[test]
fn failures_in_the_result_are_handled_by_being_there() {
    let lines = logged(|| drop(result(deferred_list([Deferred::<usize>::fail("one"), Deferred::fail("two")]))));
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn cancelling_a_list_cancels_every_input_in_order_and_it_ends_by_its_own_flags() {
    let journal = Journal::new();
    let ([one, two, three], chains) = pairs();
    for (name, completer) in [("one", &one), ("two", &two), ("three", &three)] {
        let journal = journal.clone();
        completer.on_cancel(move || journal.note(name));
    }
    let list = deferred_list(chains);
    list.cancel();
    assert_eq!(journal.take(), ["one", "two", "three"]);
    assert_eq!(texts(&result(list).expect("never fails")), ["cancelled", "cancelled", "cancelled"]);

    let (_completers, chains) = pairs::<2>();
    let gathered = gather_results(chains);
    gathered.cancel();
    assert_eq!(first_error(result(gathered)), (0, "cancelled".to_string()));
}

#[test]
fn a_list_whose_inputs_survive_the_cancellation_is_an_ordinary_one_and_can_be_cancelled_again() {
    let (_one, chain) = Deferred::<usize>::pair();
    let (two, second) = Deferred::<usize>::pair();
    let survivor = chain.add_errback(|_| second);
    let list = deferred_list([survivor]);
    list.cancel();
    assert!(!list.is_fired() && !two.is_cancelled());
    list.cancel();
    assert!(two.is_cancelled());
    assert_eq!(texts(&result(list).expect("never fails")), ["cancelled"]);
}

#[test]
fn cancelling_a_fired_list_leaves_the_rest_alone() {
    let ([one, two], chains) = pairs();
    let list = DeferredList { fire_on_one_callback: true, ..DeferredList::default() }.of(chains);
    one.callback(1);
    list.cancel();
    assert!(!two.is_cancelled());
    two.callback(2);
}

#[test]
fn a_canceller_that_panics_does_not_keep_the_others_from_being_asked() {
    let ([one, two], chains) = pairs();
    one.on_cancel(|| panic!("cannot stop"));
    let list = deferred_list(chains);
    assert_eq!(logged(|| list.cancel()).len(), 1);
    assert!(two.is_cancelled());
    drop(list);
}

// ---- gather_results -----------------------------------------------------------------------------------

#[test]
fn gathered_results_are_in_the_order_of_the_inputs() {
    let ([one, two, three], chains) = pairs();
    let gathered = gather_results(chains);
    two.callback(2);
    three.callback(3);
    one.callback(1);
    assert_eq!(result(gathered).expect("all"), [1, 2, 3]);
}

#[test]
fn gathering_fails_with_the_first_failure_and_keeps_its_identity() {
    let ([one, two], chains) = pairs();
    let gathered = gather_results(chains);
    let failure = dosimeter::Failure::from("no");
    let address = std::ptr::from_ref(failure.error()).cast::<()>();
    two.errback(failure);
    let failed = result(gathered).expect_err("a failure");
    let first = failed.downcast_ref::<FirstError>().expect("one of several");
    assert_eq!((first.index(), first.to_string().as_str()), (1, "the chain at index 1 failed"));
    assert!(std::ptr::eq(address, std::ptr::from_ref(first.failure().error()).cast::<()>()));
    assert_eq!(format!("{failed:#}"), "the chain at index 1 failed: no");
    one.callback(1);
}

// ---- race ---------------------------------------------------------------------------------------------

#[test]
fn the_first_value_wins_and_the_others_are_cancelled_before_it_is_passed_on() {
    let journal = Journal::new();
    let ([one, two, three], chains) = pairs();
    for (name, completer) in [("one", &one), ("three", &three)] {
        let journal = journal.clone();
        completer.on_cancel(move || journal.note(name));
    }
    let winner = journal.clone();
    let tail = race(chains).inspect(move |(index, value)| winner.note(format!("{index} wins with {value}")));
    two.callback(2);
    assert_eq!(journal.take(), ["one", "three", "1 wins with 2"]);
    assert_eq!(result(tail).expect("a value"), (1, 2));
}

#[test]
fn what_becomes_of_the_losers_is_dropped_in_silence() {
    let lines = logged(|| {
        let ([one, two, three], [first, second, third]) = pairs();
        let stubborn = second.add_errback(|_| Ok(0));
        let tail = race([first, stubborn, third]);
        two.errback("goes on as a value");
        assert_eq!(result(tail).expect("a value"), (1, 0));
        one.callback(1);
        three.errback("late");
    });
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn failures_before_the_first_value_are_ignored() {
    let lines = logged(|| {
        let ([one, two], chains) = pairs();
        let tail = race(chains);
        one.errback("early");
        two.callback(2);
        assert_eq!(result(tail).expect("a value"), (1, 2));
    });
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn a_race_that_nobody_wins_fails_with_all_failures_in_the_order_of_the_inputs() {
    let ([one, two], chains) = pairs();
    let tail = race(chains);
    two.errback("second");
    one.errback("first");
    let group = result(tail).expect_err("a failure").trap::<FailureGroup>().expect("all of them");
    assert_eq!(group.to_string(), "all 2 chains of a race failed");
    let texts: Vec<_> = group.into_failures().iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["first", "second"]);
    assert!(result(race::<usize>([])).expect_err("nobody won").is::<FailureGroup>());
}

#[test]
fn of_several_fired_already_the_lowest_index_wins_and_the_rest_is_cancelled() {
    let ([one], [chain]) = pairs();
    let tail = race([chain, Deferred::succeed(1), Deferred::succeed(2)]);
    assert_eq!(result(tail).expect("a value"), (1, 1));
    assert!(one.is_cancelled());
    let ([late], [chain]) = pairs();
    drop(race([Deferred::succeed(1), chain]));
    assert!(late.is_cancelled());
}

#[test]
fn cancelling_a_race_cancels_every_input() {
    let ([one, two], chains) = pairs();
    let tail = race(chains);
    tail.cancel();
    assert!(one.is_cancelled() && two.is_cancelled());
    let group = result(tail).expect_err("nobody won").trap::<FailureGroup>().expect("all of them");
    assert!(group.failures().iter().all(|failure| failure.is::<Cancelled>()));
}

// ---- join ---------------------------------------------------------------------------------------------

#[test]
fn chains_of_different_types_are_joined_in_a_tuple() {
    let (number, one) = Deferred::<i32>::pair();
    let (text, two) = Deferred::<&str>::pair();
    let tail = join((one, two, Deferred::succeed(2.5)));
    text.callback("two");
    assert!(!tail.is_fired());
    number.callback(1);
    assert_eq!(result(tail).expect("all"), (1, "two", 2.5));
    assert_eq!(result(join((Deferred::succeed(1),))).expect("one"), (1,));
    let eight = join((
        Deferred::succeed(1_u8),
        Deferred::succeed(2_u16),
        Deferred::succeed(3_u32),
        Deferred::succeed(4_u64),
        Deferred::succeed('5'),
        Deferred::succeed("6"),
        Deferred::succeed(7.0),
        Deferred::succeed(()),
    ));
    assert_eq!(result(eight).expect("eight"), (1, 2, 3, 4, '5', "6", 7.0, ()));
}

#[test]
fn a_join_fails_with_the_first_failure_and_logs_another() {
    let lines = logged(|| {
        let (one, first) = Deferred::<i32>::pair();
        let (two, second) = Deferred::<&str>::pair();
        let (three, third) = Deferred::<()>::pair();
        let tail = join((first, second, third));
        two.errback("no");
        assert_eq!(first_error(result(tail)), (1, "no".to_string()));
        one.callback(1);
        three.errback("another");
    });
    assert_eq!(unhandled(&lines), 1, "{lines:?}");
}

#[test]
fn cancelling_a_join_cancels_every_input() {
    let (one, first) = Deferred::<i32>::pair();
    let (two, second) = Deferred::<&str>::pair();
    let tail = join((first, second));
    logged(|| tail.cancel());
    assert!(one.is_cancelled() && two.is_cancelled());
    assert_eq!(first_error(result(tail)), (0, "cancelled".to_string()));
}

// ---- anything from inside, and no leak ----------------------------------------------------------------

#[test]
fn callbacks_of_the_inputs_may_cancel_the_whole_and_fire_each_other() {
    for combine in [
        |chains: Vec<Deferred<usize>>| deferred_list(chains).map(|results| texts(&results).join(" ")),
        |chains| race(chains).map(|(index, value)| format!("{index} {value}")),
    ] {
        let ([one, two, three], [first, second, third]) = pairs();
        let whole: Rc<RefCell<Option<Deferred<String>>>> = Rc::default();
        let own = whole.clone();
        let first = first.map(move |value| {
            two.callback(2);
            if let Some(whole) = own.borrow().as_ref() {
                whole.cancel();
            }
            value
        });
        whole.replace(Some(combine(vec![first, second, third])));
        one.callback(1);
        drop(three);
        let text = result(whole.take().expect("put there")).expect("a value");
        assert!(text == "1 2 cancelled" || text == "1 2", "{text}");
    }
}

#[test]
fn what_a_combination_holds_is_freed_when_the_last_input_is_done() {
    let live = Rc::new(Cell::new(0));
    struct Counted(Rc<Cell<i32>>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }
    let counted = || {
        live.set(live.get() + 1);
        Counted(live.clone())
    };
    for end in 0..3 {
        let combine = |chains: Vec<Deferred<Counted>>| match end {
            0 => gather_results(chains).map(drop),
            1 => race(chains).map(drop),
            _ => deferred_list(chains).map(drop),
        };
        let mut completers = Vec::new();
        let chains = (0..3).map(|_| {
            let (completer, chain) = Deferred::pair();
            let held = counted();
            completers.push(completer);
            chain.map(move |value| {
                drop(held);
                value
            })
        });
        let whole = combine(chains.collect());
        assert_eq!(live.get(), 3);
        logged(|| {
            completers.pop().expect("three").errback("no");
            completers.pop().expect("three").callback(counted());
            completers.pop().expect("three").callback(counted());
        });
        drop(whole.into_result());
        assert_eq!(live.get(), 0, "{end}");
    }
}

// ---- depth --------------------------------------------------------------------------------------------

fn on_a_small_stack(body: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(256 * 1024).spawn(body).expect("a thread").join().expect("no panic");
}

const DEPTH: usize = 100_000;

#[test]
fn a_hundred_thousand_combinations_one_inside_the_other_need_no_stack() {
    type Nest = fn(Deferred<usize>) -> Deferred<usize>;
    let kinds: [Nest; 4] = [
        |inner| gather_results([inner]).map(|values| values[0] + 1),
        |inner| {
            deferred_list([inner])
                .add_callback(|results| results.into_iter().next().expect("one"))
                .map(|value| value + 1)
        },
        |inner| race([inner]).map(|(_, value)| value + 1),
        |inner| join((inner, Deferred::succeed(1))).map(|(value, one)| value + one),
    ];
    for nest in kinds {
        on_a_small_stack(move || {
            let nested = || {
                let (completer, deferred) = Deferred::<usize>::pair();
                (completer, (0..DEPTH).fold(deferred, |inner, _| nest(inner)))
            };
            let (completer, tail) = nested();
            completer.callback(0);
            assert_eq!(result(tail).expect("a value"), DEPTH);
            // A failure is wrapped as often as there are combinations, and must be freed without recursion as well.
            let (completer, tail) = nested();
            completer.errback("no");
            assert!(result(tail).is_err());
            let (completer, tail) = nested();
            drop(tail.add_errback(|_| Ok(0)));
            drop(completer);
        });
    }
}

#[test]
fn cancelling_ten_thousand_combinations_one_inside_the_other_needs_no_stack() {
    const DEPTH: usize = 10_000;
    type Nest = fn(Deferred<usize>) -> Deferred<usize>;
    let kinds: [Nest; 3] = [
        |inner| gather_results([inner, Deferred::succeed(0)]).map(|values| values[0]),
        |inner| race([inner, Deferred::pair().1]).map(|(_, value)| value),
        |inner| join((Deferred::succeed(0), inner)).map(|(_, value)| value),
    ];
    for nest in kinds {
        on_a_small_stack(move || {
            let (completer, deferred) = Deferred::<usize>::pair();
            let tail = (0..DEPTH).fold(deferred, |inner, _| nest(inner));
            tail.cancel();
            assert!(completer.is_cancelled());
            assert!(result(tail).is_err());
            // The same, as what a winner leaves behind.
            let (completer, deferred) = Deferred::<usize>::pair();
            let loser = (0..DEPTH).fold(deferred, |inner, _| nest(inner));
            let (index, _) = result(race([loser, Deferred::succeed(1)])).expect("a winner");
            assert!(index == 1 && completer.is_cancelled());
        });
    }
}

#[test]
fn inputs_of_inputs_are_cancelled_in_order() {
    let order: Rc<RefCell<Vec<usize>>> = Rc::default();
    let mut completers = Vec::new();
    let mut inputs = (0..5).map(|number| {
        let (completer, deferred) = Deferred::<()>::pair();
        let order = order.clone();
        completer.on_cancel(move || order.borrow_mut().push(number));
        completers.push(completer);
        deferred
    });
    let mut next = || inputs.next().expect("five");
    let (zero, one, two, three, four) = (next(), next(), next(), next(), next());
    let first = deferred_list([zero, gather_results([one, two]).map(drop)]).map(drop);
    let whole = deferred_list([first, race([three]).map(drop), four]);
    whole.cancel();
    assert_eq!(*order.borrow(), [0, 1, 2, 3, 4]);
    assert_eq!(result(whole).expect("a list").len(), 3);
}

#[test]
fn cancelling_combinations_that_wait_for_each_other_in_a_circle_comes_to_an_end() {
    let (completer, deferred) = Deferred::<()>::pair();
    let slot: Rc<RefCell<Option<Deferred<()>>>> = Rc::default();
    let own = slot.clone();
    let (other, beside) = Deferred::<()>::pair();
    let inner = deferred.add_callback(move |()| own.take().expect("put there"));
    let whole = deferred_list([inner, beside]).map(drop);
    let canceller = whole.canceller();
    slot.replace(Some(whole));
    completer.callback(());
    canceller.cancel();
    assert!(other.is_cancelled(), "what is in no circle is cancelled as ever");
}

#[test]
fn a_hundred_thousand_inputs_are_gathered_on_a_small_stack() {
    on_a_small_stack(|| {
        let (completers, chains): (Vec<_>, Vec<_>) = (0..DEPTH).map(|_| Deferred::<usize>::pair()).unzip();
        let gathered = gather_results(chains);
        completers.into_iter().rev().for_each(|completer| completer.callback(1));
        assert_eq!(result(gathered).expect("all").len(), DEPTH);
        let (completers, chains): (Vec<_>, Vec<_>) = (0..DEPTH).map(|_| Deferred::<usize>::pair()).unzip();
        let raced = race(chains);
        raced.cancel();
        assert!(completers.iter().all(Completer::is_cancelled));
        assert!(result(raced).expect_err("nobody won").is::<FailureGroup>());
    });
}
