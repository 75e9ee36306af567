//! Failures that only the log is told of: that a test can demand them, and cannot overlook them.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use dosimeter::net::{Address, Protocol, Transport};
use dosimeter::testing::{MemoryReactor, collect_logged_errors, flush_all_logged_errors, flush_logged_errors};
use dosimeter::{Clock, Deferred, Failure, Panicked};

/// A chain that fails with nobody there.
fn fail_unhandled(failure: impl Into<Failure>) {
    drop(Deferred::<()>::fail(failure.into()));
}

#[test]
fn a_failure_that_nobody_handled_is_taken_by_its_type_once() {
    let _kept = collect_logged_errors();
    fail_unhandled(io::Error::other("one"));
    fail_unhandled("two");
    fail_unhandled(io::Error::other("three"));
    let logged = flush_logged_errors::<io::Error>();
    assert_eq!(logged.len(), 2);
    assert!(logged[0].contains(": one\n") && logged[1].contains(": three\n"), "{logged:?}");
    assert!(logged[0].starts_with("unhandled failure in a Deferred made at tests/testing_logged.rs:"), "{logged:?}");
    assert_eq!(flush_logged_errors::<io::Error>(), [""; 0]);
    assert_eq!(flush_logged_errors::<&str>().len(), 1);
}

#[test]
fn what_is_left_fails_the_test() {
    let kept = collect_logged_errors();
    fail_unhandled(io::Error::other("overlooked"));
    let message = message_of(|| drop(kept));
    assert!(message.starts_with("logged, and not asked for with flush_logged_errors:\n(std::io::"), "{message}");
    assert!(message.contains("overlooked"), "{message}");
    drop(collect_logged_errors());
}

#[test]
fn a_test_that_fails_already_is_not_failed_again() {
    let message = message_of(|| {
        let _kept = collect_logged_errors();
        fail_unhandled("overlooked");
        panic!("{}", "for another reason");
    });
    assert_eq!(message, "for another reason");
    drop(collect_logged_errors());
}

#[test]
fn several_that_collect_are_one() {
    let (one, other) = (collect_logged_errors(), MemoryReactor::new());
    fail_unhandled("one");
    drop(one);
    fail_unhandled("two");
    assert_eq!(flush_all_logged_errors().len(), 2);
    drop(other);
}

#[test]
fn a_panic_that_the_loop_survives_fails_the_test_of_it() {
    let memory = MemoryReactor::new();
    memory.call_later(Duration::from_secs(1), || panic!("in a timed call"));
    memory.advance(Duration::from_secs(1));
    let message = message_of(|| drop(memory));
    assert!(message.contains("a timed call failed: panicked: in a timed call"), "{message}");
}

#[test]
fn errors_of_protocols_are_kept_though_the_protocol_gets_them_too() {
    struct Fails;

    impl Protocol for Fails {
        fn data_received(&mut self, _transport: &Transport, _data: &[u8]) -> dosimeter::Result<()> {
            Err(io::Error::other("no such command").into())
        }
    }

    let memory = MemoryReactor::new();
    memory.reactor().listen_tcp(80, |_: &Address| Fails).expect("nobody else listens");
    memory.connect(([127, 0, 0, 1], 80)).send("jump");
    assert!(flush_logged_errors::<io::Error>()[0].contains("no such command"));
    assert_eq!(flush_logged_errors::<Panicked>(), [""; 0]);
}

#[test]
fn what_is_not_logged_as_an_error_is_not_kept() {
    let _kept = collect_logged_errors();
    let (_completer, cancelled) = Deferred::<()>::pair();
    cancelled.cancel();
    drop(cancelled);
    let handled = Deferred::<()>::fail("handled").add_errback(|_| Ok(()));
    drop(handled);
    assert_eq!(flush_all_logged_errors(), [""; 0]);
}

#[test]
fn asking_when_nobody_collects_is_a_mistake() {
    let message = message_of(|| _ = flush_all_logged_errors());
    assert!(message.starts_with("nobody collects"), "{message}");
}

fn message_of(function: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(function)).expect_err("it should have failed");
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().expect("a text").to_string(),
    }
}
