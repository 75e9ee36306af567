//! SIGINT and SIGTERM. Signals belong to the process, so these tests have one of their own and take turns in it.

#[path = "support/reactor.rs"]
mod support;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use dosimeter::{Reactor, prometheus};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::raise;

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reactor() -> Reactor {
    Reactor::builder().metrics(prometheus::Registry::new()).build().expect("a reactor")
}

/// Raises `signal` in another thread once the reactor runs.
fn raise_when_running(reactor: &Reactor, signal: i32) {
    reactor.call_soon(move || {
        thread::spawn(move || raise(signal).expect("a signal to oneself"));
    });
}

#[test]
fn sigterm_stops_a_reactor_that_waits() {
    let _turn = one_at_a_time();
    let reactor = reactor();
    raise_when_running(&reactor, SIGTERM);
    reactor.run().expect("a clean end");
    assert_eq!(reactor.signal(), Some(SIGTERM));
}

#[test]
fn sigint_stops_a_reactor_that_waits() {
    let _turn = one_at_a_time();
    let reactor = reactor();
    raise_when_running(&reactor, SIGINT);
    reactor.run().expect("a clean end");
    assert_eq!(reactor.signal(), Some(SIGINT));
}

#[test]
fn a_signal_reaches_every_reactor_that_runs() {
    let _turn = one_at_a_time();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let runners: Vec<_> = (0..2)
        .map(|_| {
            let ready = ready.clone();
            thread::spawn(move || {
                let reactor = reactor();
                reactor.call_soon(move || ready.send(()).expect("waited for"));
                reactor.run().expect("a clean end");
                reactor.signal()
            })
        })
        .collect();
    is_ready.iter().take(2).for_each(drop);
    raise(SIGTERM).expect("a signal to oneself");
    for runner in runners {
        assert_eq!(runner.join().expect("no panic"), Some(SIGTERM));
    }
}

#[test]
fn a_reactor_can_be_stopped_by_a_signal_after_another_one_was() {
    let _turn = one_at_a_time();
    for signal in [SIGTERM, SIGINT, SIGTERM] {
        let reactor = reactor();
        raise_when_running(&reactor, signal);
        reactor.run().expect("a clean end");
        assert_eq!(reactor.signal(), Some(signal));
    }
}

#[test]
fn a_reactor_that_was_told_to_leaves_signals_alone() {
    let _turn = one_at_a_time();
    let unwatched = support::reactor();
    let stop = unwatched.remote();
    // Somebody has to take the signal, which would otherwise end this process.
    let (ready, is_ready) = std::sync::mpsc::channel();
    let taker = thread::spawn(move || {
        let reactor = reactor();
        reactor.call_soon(move || ready.send(()).expect("waited for"));
        reactor.run().expect("a clean end");
        let signal = reactor.signal();
        stop.call_from_thread(|reactor| reactor.stop().expect("it runs")).expect("it is there");
        signal
    });
    unwatched.call_soon(move || {
        is_ready.recv().expect("it runs");
        raise(SIGTERM).expect("a signal to oneself");
    });
    unwatched.run().expect("a clean end");
    assert_eq!(unwatched.signal(), None);
    assert_eq!(taker.join().expect("no panic"), Some(SIGTERM));
}

/// The default action of a signal ends the process, so it takes another process to see it.
#[test]
fn after_a_run_signals_end_the_program_again() {
    let mut child = Command::new(std::env::current_exe().expect("this file"));
    child.args(["--exact", "child_that_signals_itself_after_a_run", "--ignored"]).stdout(Stdio::null());
    let status = child.status().expect("a second process");
    assert_eq!(status.signal(), Some(SIGTERM), "{status:?}");
}

#[test]
#[ignore = "run by `after_a_run_signals_end_the_program_again` in a process that it may end"]
fn child_that_signals_itself_after_a_run() {
    let reactor = reactor();
    raise_when_running(&reactor, SIGTERM);
    reactor.run().expect("a clean end");
    raise(SIGTERM).expect("a signal to oneself");
    unreachable!("the signal ends the process");
}
