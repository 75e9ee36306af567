//! A program as one chain: what it ends with is the exit status.

#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::{
    Completer, Deferred, Exit, IntoDeferred, Reactor, Result, defer_later, gather_results, prometheus, react,
};
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::raise;
use support::{logged, reactor};

/// `ExitCode` can only be compared by how it looks.
fn is(status: ExitCode, number: u8) -> bool {
    format!("{status:?}") == format!("{:?}", ExitCode::from(number))
}

#[track_caller]
fn assert_status<R: IntoDeferred<()>>(number: u8, main: impl FnOnce(&Reactor) -> R + 'static) {
    let status = reactor().react(main);
    assert!(is(status, number), "{status:?}");
}

#[test]
fn a_chain_that_succeeds_ends_with_success() {
    assert_status(0, |reactor| {
        assert!(reactor.is_running());
        defer_later(reactor, Duration::from_millis(1), || {})
    });
    assert_eq!(logged(), [""; 0]);
}

#[test]
fn a_chain_that_has_its_result_already_ends_at_once_and_in_good_order() {
    let (reactor, closed) = (reactor(), Rc::new(Cell::new(false)));
    let close = closed.clone();
    let status = reactor.react(move |reactor| {
        reactor.on_shutdown().before(move || close.set(true));
        Deferred::succeed(())
    });
    assert!(is(status, 0));
    assert!(closed.get(), "the shutdown is not left out");
}

#[test]
fn a_failure_and_a_panic_end_with_one_and_are_logged_once() {
    let by_result = |_: &Reactor| -> Result<()> { Err("by the result".into()) };
    let by_chain = |reactor: &Reactor| {
        defer_later(reactor, Duration::from_millis(1), || {}).add_callback(|()| Err::<(), _>("by the chain".into()))
    };
    assert_status(1, by_result);
    assert_status(1, by_chain);
    assert_status(1, |_| -> Result<()> { panic!("in main") });
    let logged = logged();
    assert_eq!(logged.len(), 3, "{logged:?}");
    for (line, text) in logged.iter().zip(["by the result", "by the chain", "panicked: in main"]) {
        assert!(line.starts_with(&format!("main failed: {text}")), "{line}");
    }
}

#[test]
fn an_exit_ends_with_its_own_status_and_is_no_failure_to_log() {
    assert_status(3, |_| Err(Exit(3).into()));
    assert_status(0, |_| Err(Exit(0).into()));
    // One of several that failed for all.
    assert_status(4, |_| gather_results([Deferred::<()>::fail(Exit(4))]).map(drop));
    assert_eq!(logged(), [""; 0]);
}

#[test]
fn a_task_may_be_the_program() {
    assert_status(5, |reactor| {
        let clock = reactor.clone();
        reactor.spawn(async move {
            defer_later(&clock, Duration::from_millis(1), || {}).await?;
            Err(Exit(5).into())
        })
    });
}

#[test]
fn a_reactor_that_something_else_stops_ends_with_success() {
    assert_status(0, |reactor| {
        reactor.stop().expect("it runs");
        reactor.spawn(std::future::pending())
    });
    assert_eq!(logged(), [""; 0], "that the task is abandoned is no failure of the program");
}

#[test]
fn the_result_counts_that_comes_while_the_shutdown_waits() {
    assert_status(6, |reactor| {
        let (completer, main) = Deferred::pair();
        reactor.on_shutdown().before(move || completer.errback(Exit(6)));
        reactor.stop().expect("it runs");
        main
    });
}

#[test]
fn a_result_after_a_stop_does_not_stop_it_a_second_time() {
    let (reactor, waiting) = (reactor(), Rc::new(RefCell::new(None::<Completer<()>>)));
    let held = waiting.clone();
    let status = reactor.react(move |reactor| {
        let (completer, main) = Deferred::pair();
        held.replace(Some(completer));
        let late = held.clone();
        reactor.on_shutdown().during(move || late.take().expect("held").errback("too late to matter"));
        reactor.stop().expect("it runs");
        main
    });
    assert!(is(status, 0));
    assert_eq!(logged(), [""; 0]);
    assert!(waiting.take().is_none());
}

#[test]
fn a_reactor_that_cannot_run_does_not_call_main() {
    let reactor = reactor();
    assert!(is(reactor.react(|_| Ok(())), 0));
    let status = reactor.react(|_| -> Result<()> { unreachable!("it has ended") });
    assert!(is(status, 1));
    let logged = logged();
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].starts_with("main cannot run: the reactor was stopped"), "{logged:?}");
}

/// The only test of this program with signals.
#[test]
fn a_signal_ends_with_its_number_as_shells_have_it() {
    support::keep_logs();
    let reactor = Reactor::builder().metrics(prometheus::Registry::new()).build().expect("a reactor");
    let status = reactor.react(|reactor| {
        raise(SIGTERM).expect("a signal to oneself");
        reactor.spawn(std::future::pending())
    });
    assert!(is(status, 128 + 15), "{status:?}");
    assert_eq!(logged(), [""; 0]);
}

/// Where no logger is installed: in another process.
#[test]
fn without_a_logger_a_failure_goes_to_the_standard_error() {
    let mut child = Command::new(std::env::current_exe().expect("this file"));
    let output = child.args(["--exact", "child_without_a_logger", "--ignored", "--nocapture"]).output();
    let output = output.expect("a second process");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("main failed: nobody listens").count(), 1, "{said}");
}

#[test]
#[ignore = "run by `without_a_logger_a_failure_goes_to_the_standard_error`"]
fn child_without_a_logger() {
    assert!(is(react(|_: &Reactor| -> Result<()> { Err("nobody listens".into()) }), 1));
}
