//! The helpers for tests: what they give back, and what they say when a test has to fail. The clock is tested in `clock.rs`.

use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::{Mutex, Once};

use dosimeter::testing::{assert_no_result, failure_result_of, success_result_of};
use dosimeter::{Deferred, Failure};

/// The message of a panic in `function`, and the line it was blamed on.
fn blame(function: impl FnOnce()) -> (String, u32) {
    static HOOK: Once = Once::new();
    static LINES: Mutex<Vec<(std::thread::ThreadId, u32)>> = Mutex::new(Vec::new());
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let line = info.location().filter(|at| at.file() == file!()).map_or(0, Location::line);
            LINES.lock().expect("no panic under it").push((std::thread::current().id(), line));
            before(info);
        }));
    });
    let payload = catch_unwind(AssertUnwindSafe(function)).expect_err("it should have failed");
    let message = match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => payload.downcast_ref::<&str>().expect("a text").to_string(),
    };
    let lines = LINES.lock().expect("no panic under it");
    let own = lines.iter().rev().find(|(thread, _)| *thread == std::thread::current().id());
    (message, own.expect("the hook has seen it").1)
}

fn failed() -> Deferred<u32> {
    Deferred::fail("no tea")
}

#[test]
fn the_value_of_a_chain_that_succeeded_comes_out() {
    assert_eq!(success_result_of(Deferred::succeed(7)), 7);
    let (completer, deferred) = Deferred::pair();
    let tail = deferred.map(|seven: u32| seven + 1);
    completer.callback(7);
    assert_eq!(success_result_of(tail), 8);
}

#[test]
fn the_failure_of_a_chain_that_failed_comes_out_as_it_went_in() {
    let failure = Failure::from("no tea");
    let origin = failure.origin();
    let failure = failure_result_of(Deferred::<u32>::fail(failure));
    assert_eq!((failure.to_string().as_str(), failure.origin()), ("no tea", origin));
}

#[test]
fn a_chain_without_a_result_goes_on_after_it_was_looked_at() {
    let (completer, deferred) = Deferred::pair();
    assert_no_result(&deferred);
    completer.callback(7);
    assert_eq!(success_result_of(deferred), 7);
}

#[test]
fn what_was_found_instead_is_said() {
    let (message, _) = blame(|| _ = success_result_of(failed()));
    assert!(message.starts_with("expected a success, found a failure: no tea\n  from: "), "{message}");
    let (_kept, waiting) = Deferred::<u32>::pair();
    let (message, _) = blame(|| _ = success_result_of(waiting));
    assert_eq!(message, "expected a success, found no result yet");
    let (_kept, waiting) = Deferred::<u32>::pair();
    let (message, _) = blame(|| _ = failure_result_of(waiting));
    assert_eq!(message, "expected a failure, found no result yet");
    let (message, _) = blame(|| _ = failure_result_of(Deferred::succeed(7)));
    assert_eq!(message, "expected a failure, found a success of type i32");
    let (message, _) = blame(|| assert_no_result(&Deferred::succeed(7)));
    assert_eq!(message, "expected no result yet, found one of type i32");
}

#[test]
fn the_line_of_the_test_is_blamed() {
    assert_eq!(blame(|| _ = success_result_of(failed())).1, line!());
    assert_eq!(blame(|| _ = failure_result_of(Deferred::succeed(7))).1, line!());
    assert_eq!(blame(|| assert_no_result(&Deferred::succeed(7))).1, line!());
}
