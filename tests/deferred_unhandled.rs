//! When a failure is logged as unhandled, and when it is not.

#[path = "support/log.rs"]
mod log_capture;

use dosimeter::{Deferred, Failure, Result};
use log_capture::logged;

fn unhandled(lines: &[String]) -> usize {
    lines.iter().filter(|line| line.starts_with("ERROR unhandled failure")).count()
}

#[test]
fn a_failure_is_logged_once_when_its_chain_is_dropped() {
    let lines = logged(|| drop(Deferred::<i32>::fail("nobody looks")));
    assert_eq!(unhandled(&lines), 1, "{lines:?}");
    assert!(lines[0].contains("nobody looks"), "{}", lines[0]);
    let lines = logged(|| {
        let (completer, deferred) = Deferred::<i32>::pair();
        completer.errback("nobody looks");
        drop(deferred.map(|number| number).inspect(|_| ()));
    });
    assert_eq!(unhandled(&lines), 1, "{lines:?}");
}

#[test]
fn the_log_names_the_places_of_the_chain_and_of_the_failure_and_the_sources() {
    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);
    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the setting is broken")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let (made, failed) = (line!() + 2, line!() + 3);
    let lines = logged(|| {
        let (completer, deferred) = Deferred::pair();
        drop(deferred.add_callback(|text: &str| text.parse::<i32>().map_err(|error| Failure::new(Outer(error)))));
        completer.callback("x");
    });
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains(&format!("made at {}:{made}:", file!())), "{}", lines[0]);
    assert!(lines[0].contains(&format!("from: {}:{failed}:", file!())), "{}", lines[0]);
    assert!(lines[0].contains("the setting is broken\n  caused by: invalid digit"), "{}", lines[0]);
}

#[test]
fn a_failure_on_a_live_chain_is_not_logged_and_may_be_handled_late() {
    let lines = logged(|| {
        let (completer, deferred) = Deferred::<i32>::pair();
        let tail = deferred.map(|number| number);
        completer.errback("late");
        assert_eq!(tail.add_errback(|_| Ok(1)).into_result().expect("fired").expect("handled"), 1);
    });
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn a_failure_that_meets_a_dropped_tail_is_logged_when_it_comes() {
    let (completer, deferred) = Deferred::<i32>::pair();
    assert!(logged(|| drop(deferred.map(|number| number))).is_empty());
    assert_eq!(unhandled(&logged(|| completer.errback("too late for anybody"))), 1);
}

#[test]
fn a_handled_failure_is_not_logged() {
    let lines = logged(|| {
        // By an errback that returns a value,
        drop(Deferred::<i32>::fail("one").add_errback(|_| Ok(0)));
        // by moving into another chain,
        let failed = Deferred::<i32>::fail("two");
        drop(Deferred::succeed(()).add_callback(|()| failed).add_errback(|_| Ok(0)));
        // by being taken out.
        drop(Deferred::<i32>::fail("three").into_result());
    });
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn an_errback_that_returns_the_failure_leaves_it_unhandled() {
    assert_eq!(unhandled(&logged(|| drop(Deferred::<i32>::fail("again").add_errback(Err::<i32, Failure>)))), 1);
}

#[test]
fn an_errback_that_replaces_the_failure_by_waiting_has_handled_it() {
    let (completer, never) = Deferred::<i32>::pair();
    let lines = logged(|| drop(Deferred::<i32>::fail("replaced").add_errback(|_| never)));
    assert!(lines.is_empty(), "{lines:?}");
    assert!(logged(|| completer.callback(1)).is_empty());
}

#[test]
fn an_unfired_chain_without_callbacks_is_dropped_in_silence() {
    assert!(
        logged(|| {
            let (completer, deferred) = Deferred::<i32>::pair();
            drop(deferred);
            drop(completer);
        })
        .is_empty()
    );
}

#[test]
fn a_chain_whose_completer_is_dropped_while_somebody_holds_it_is_logged() {
    let lines = logged(|| {
        let (completer, deferred) = Deferred::<i32>::pair();
        drop(completer);
        drop(deferred);
    });
    assert_eq!(unhandled(&lines), 1);
}

#[test]
fn a_cancellation_that_nobody_handles_is_not_logged() {
    let lines = logged(|| {
        let (_completer, deferred) = Deferred::<i32>::pair();
        let tail = deferred.map(|number| number);
        tail.cancel();
        drop(tail);
        let (_completer, deferred) = Deferred::<i32>::pair();
        let canceller = deferred.canceller();
        drop(deferred.map(|number| number));
        canceller.cancel();
    });
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn a_chain_with_callbacks_that_nobody_will_ever_fire_is_logged() {
    let lines = logged(|| {
        let (completer, deferred) = Deferred::<i32>::pair();
        drop(deferred.map(|number| number));
        drop(completer);
    });
    assert_eq!(unhandled(&lines), 1);
    assert!(lines[0].contains("abandoned"), "{}", lines[0]);
}

#[test]
fn a_value_that_nobody_takes_is_dropped_in_silence() {
    assert!(logged(|| drop(Deferred::succeed(1).map(|number| number))).is_empty());
}

#[test]
fn a_logged_failure_that_goes_on_unhandled_is_logged_as_that_too() {
    let lines = logged(|| drop(Deferred::<i32>::fail("twice").log_failure("the work")));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("ERROR the work failed: twice"), "{}", lines[0]);
    assert_eq!(unhandled(&lines), 1);
    let lines = logged(|| drop(Deferred::<i32>::fail("once").log_failure("the work").add_errback(|_| Ok(0))));
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn an_error_whose_text_panics_is_logged_all_the_same() {
    #[derive(Debug)]
    struct Broken;
    impl std::fmt::Display for Broken {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("no text")
        }
    }
    impl std::error::Error for Broken {}
    let lines = logged(|| drop(Deferred::<i32>::fail(Broken)));
    assert_eq!(unhandled(&lines), 1);
    assert!(lines[0].contains("an error whose Display panics"), "{}", lines[0]);
}

#[test]
fn a_panic_that_nobody_handles_is_logged_with_its_text() {
    let lines = logged(|| drop(Deferred::succeed(1).add_callback(|_| -> Result<i32> { panic!("the reason") })));
    assert_eq!(unhandled(&lines), 1);
    assert!(lines[0].contains("panicked: the reason"), "{}", lines[0]);
}
