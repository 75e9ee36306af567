//! Triggers before, during and after an event.

#[path = "support/reactor.rs"]
mod support;

use std::cell::RefCell;
use std::rc::Rc;

use dosimeter::testing::{assert_no_result, success_result_of};
use dosimeter::{Deferred, Result, Trigger, TriggerGone, Triggers};
use support::{keep_logs, logged};

/// What was called, in order.
#[derive(Clone, Default)]
struct Called(Rc<RefCell<Vec<&'static str>>>);

impl Called {
    fn note(&self, text: &'static str) -> impl FnOnce() + 'static {
        let called = self.clone();
        move || called.0.borrow_mut().push(text)
    }

    fn take(&self) -> Vec<&'static str> {
        self.0.take()
    }
}

#[test]
fn phases_run_in_their_order_and_each_in_the_order_of_adding() {
    let (event, called) = (Triggers::new(), Called::default());
    event.after(called.note("after 1"));
    event.during(called.note("during 1"));
    event.before(called.note("before 1"));
    event.before(called.note("before 2"));
    event.during(called.note("during 2"));
    event.after(called.note("after 2"));
    assert_eq!(called.take(), [""; 0]);
    success_result_of(event.fire());
    assert_eq!(called.take(), ["before 1", "before 2", "during 1", "during 2", "after 1", "after 2"]);
}

#[test]
fn each_trigger_runs_once_and_an_event_without_any_is_over_at_once() {
    let (event, called) = (Triggers::new(), Called::default());
    event.during(called.note("during"));
    success_result_of(event.fire());
    success_result_of(event.fire());
    assert_eq!(called.take(), ["during"]);
    event.during(called.note("the next time"));
    success_result_of(event.fire());
    assert_eq!(called.take(), ["the next time"]);
}

#[test]
fn all_deferreds_of_before_are_waited_for_whether_they_succeed_or_fail() {
    keep_logs();
    let (event, called) = (Triggers::new(), Called::default());
    let [(first, one), (second, two), (third, three)] = [(); 3].map(|()| Deferred::pair());
    event.before(move || one);
    event.before(move || two);
    event.before(move || three);
    event.before(called.note("before"));
    event.during(called.note("during"));
    let over = event.fire();
    assert_eq!(called.take(), ["before"], "waiting for one does not hold up calling the next");
    second.callback(());
    first.errback("could not be saved");
    assert_no_result(&over);
    assert_eq!(called.take(), [""; 0]);
    // One that nobody fires any more is not waited for forever.
    drop(third);
    assert_eq!(called.take(), ["during"]);
    success_result_of(over);
    let logged = logged();
    assert_eq!(logged.len(), 2, "{logged:?}");
    assert!(logged[0].contains("a trigger failed: could not be saved"), "{logged:?}");
    assert!(logged[1].contains("a trigger failed: abandoned"), "{logged:?}");
}

#[test]
fn deferreds_of_the_other_phases_are_not_waited_for() {
    let (event, called) = (Triggers::new(), Called::default());
    let (_never, forever) = Deferred::pair();
    let (_never_either, for_ever) = Deferred::pair();
    event.during(move || forever);
    event.after(move || for_ever);
    event.after(called.note("after"));
    success_result_of(event.fire());
    assert_eq!(called.take(), ["after"]);
}

#[test]
fn all_before_triggers_are_called_even_if_one_fires_the_deferred_of_another() {
    let (event, called) = (Triggers::new(), Called::default());
    let (completer, deferred) = Deferred::pair();
    event.before(move || deferred);
    event.before(move || completer.callback(()));
    event.before(called.note("before"));
    event.during(called.note("during"));
    success_result_of(event.fire());
    assert_eq!(called.take(), ["before", "during"]);
}

#[test]
fn a_trigger_that_fails_is_named_by_the_line_that_added_it() {
    keep_logs();
    let reactor = support::reactor();
    let (event, slow) = (Triggers::new(), || Err("it took too long".into()) as Result<()>);
    let line = line!();
    event.before(slow);
    event.after(|| -> () { panic!("as it happens") });
    reactor.call_when_running(slow);
    event.fire();
    success_result_of(reactor.on_startup().fire());
    let logged = logged();
    assert_eq!(logged.len(), 3);
    for (said, line) in logged.iter().zip(line + 1..) {
        assert!(said.contains(&format!("\n  trigger: {}:{line}:", file!())), "{said}");
    }
}

#[test]
fn a_trigger_that_fails_or_panics_is_logged_and_the_rest_runs() {
    keep_logs();
    let (event, called) = (Triggers::new(), Called::default());
    let fail = || -> Result<()> { Err("a slip".into()) };
    let panics = || -> () { panic!("a slip") };
    event.before(fail);
    event.before(panics);
    event.before(called.note("before"));
    event.during(fail);
    event.during(panics);
    event.during(called.note("during"));
    event.after(panics);
    event.after(called.note("after"));
    success_result_of(event.fire());
    assert_eq!(called.take(), ["before", "during", "after"]);
    let logged = logged();
    assert_eq!(logged.len(), 5, "{logged:?}");
    assert!(logged.iter().all(|line| line.starts_with("a trigger failed: ") && line.contains("a slip")), "{logged:?}");
}

#[test]
fn a_removed_trigger_does_not_run_and_cannot_be_removed_again() {
    let (event, called) = (Triggers::new(), Called::default());
    let held = Rc::new(());
    let hold = held.clone();
    let removed = event.before(move || drop(hold));
    event.before(called.note("stays"));
    assert_eq!(removed.remove(), Ok(()));
    assert_eq!(Rc::strong_count(&held), 1, "dropped at once");
    assert!(is_gone(&removed));
    success_result_of(event.fire());
    assert_eq!(called.take(), ["stays"]);
    assert!(is_gone(&removed));
}

#[test]
fn a_trigger_that_has_run_or_whose_event_is_gone_cannot_be_removed() {
    let event = Triggers::new();
    let ran = event.after(|| {});
    success_result_of(event.fire());
    assert!(is_gone(&ran));
    let lost = event.after(|| {});
    drop(event);
    assert!(is_gone(&lost));
}

#[test]
fn a_trigger_may_remove_one_that_has_not_run_yet_of_its_phase_or_a_later_one() {
    let (event, called) = (Triggers::new(), Called::default());
    let handles: Rc<RefCell<Vec<Trigger>>> = Rc::default();
    let others = handles.clone();
    event.before(move || others.borrow().iter().for_each(|trigger| trigger.remove().expect("not run yet")));
    let remove =
        [event.before(called.note("before")), event.during(called.note("during")), event.after(called.note("after"))];
    event.before(called.note("stays"));
    handles.borrow_mut().extend(remove);
    success_result_of(event.fire());
    assert_eq!(called.take(), ["stays"]);
}

#[test]
fn a_trigger_can_be_removed_while_deferreds_are_waited_for() {
    let (event, called) = (Triggers::new(), Called::default());
    let (completer, deferred) = Deferred::pair();
    let waits = event.before(move || deferred);
    let removed = event.during(called.note("during"));
    event.after(called.note("after"));
    let over = event.fire();
    assert!(is_gone(&waits), "it has run");
    removed.remove().expect("not run yet");
    completer.callback(());
    success_result_of(over);
    assert_eq!(called.take(), ["after"]);
}

#[test]
fn the_drop_of_a_removed_trigger_may_use_the_event() {
    struct AddsOnDrop(Triggers, Called);
    impl Drop for AddsOnDrop {
        fn drop(&mut self) {
            self.0.before(self.1.note("added by a drop"));
        }
    }
    let (event, called) = (Triggers::new(), Called::default());
    let adds = AddsOnDrop(event.clone(), called.clone());
    event.before(move || drop(adds)).remove().expect("not run yet");
    success_result_of(event.fire());
    assert_eq!(called.take(), ["added by a drop"]);
}

#[test]
fn what_is_added_to_a_phase_that_has_not_ended_is_called_and_what_comes_too_late_is_kept() {
    let (event, called) = (Triggers::new(), Called::default());
    let (adding, late) = (event.clone(), called.clone());
    event.before(move || {
        adding.before(late.note("before, added by before"));
        let again = adding.clone();
        adding.during(move || {
            again.during(late.note("during, added by during"));
            again.before(late.note("too late"));
        });
    });
    success_result_of(event.fire());
    assert_eq!(called.take(), ["before, added by before", "during, added by during"]);
    success_result_of(event.fire());
    assert_eq!(called.take(), ["too late"]);
}

#[test]
fn an_event_that_is_happening_does_not_happen_twice() {
    let (event, called) = (Triggers::new(), Called::default());
    let (completer, deferred) = Deferred::pair();
    let again = event.clone();
    event.before(move || {
        drop(again.fire());
        deferred
    });
    event.during(called.note("during"));
    let over = event.fire();
    let over_too = event.fire();
    assert_no_result(&over_too);
    assert_eq!(called.take(), [""; 0]);
    completer.callback(());
    success_result_of(over);
    success_result_of(over_too);
    assert_eq!(called.take(), ["during"]);
}

#[test]
fn two_events_in_progress_do_not_disturb_each_other() {
    let (one, two, called) = (Triggers::new(), Triggers::new(), Called::default());
    let (go_on, wait) = Deferred::pair();
    one.before(move || wait);
    one.during(called.note("one"));
    let second = two.clone();
    one.before(move || drop(second.fire()));
    two.during(called.note("two"));
    let over = one.fire();
    assert_eq!(called.take(), ["two"]);
    go_on.callback(());
    assert_eq!(called.take(), ["one"]);
    success_result_of(over);
}

#[test]
fn an_event_may_be_fired_again_by_who_hears_that_it_is_over() {
    let (event, called) = (Triggers::new(), Called::default());
    event.during(called.note("first"));
    let (again, next) = (event.clone(), called.note("second"));
    let tail = event.fire().add_callback(move |()| {
        again.during(next);
        again.fire()
    });
    success_result_of(tail);
    assert_eq!(called.take(), ["first", "second"]);
}

fn is_gone(trigger: &Trigger) -> bool {
    let outcome: Result<(), TriggerGone> = trigger.remove();
    outcome.is_err()
}
