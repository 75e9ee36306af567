//! SIGINT and SIGTERM. Signals belong to the process, so these tests have one of their own and take turns in it.

#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use dosimeter::{Clock, Completer, Deferred, Reactor, prometheus};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::raise;
use support::{keep_logs, logged};

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

#[test]
fn a_handler_that_the_program_has_is_called_as_well() {
    let _turn = one_at_a_time();
    let heard = Arc::new(AtomicBool::new(false));
    let handler = signal_hook::flag::register(SIGTERM, heard.clone()).expect("a signal that can be handled");
    let reactor = reactor();
    raise_when_running(&reactor, SIGTERM);
    reactor.run().expect("a clean end");
    signal_hook::low_level::unregister(handler);
    assert_eq!(reactor.signal(), Some(SIGTERM));
    assert!(heard.load(Ordering::SeqCst));
}

/// Longer than what follows so soon that it is taken for the same request.
const NOT_AN_ECHO: Duration = Duration::from_millis(600);

/// Has the shutdown wait for something that never comes; to be kept until the end.
fn never_ready(reactor: &Reactor) -> Completer<()> {
    let (never, waits) = Deferred::pair();
    reactor.on_shutdown().before(move || waits);
    never
}

#[test]
fn a_signal_runs_the_shutdown_and_a_second_one_waits_for_nothing_more() {
    let _turn = one_at_a_time();
    let reactor = reactor();
    let (never, closed) = (never_ready(&reactor), Rc::new(Cell::new(false)));
    let close = closed.clone();
    reactor.on_shutdown().during(move || close.set(true));
    raise_when_running(&reactor, SIGTERM);
    let clock = reactor.clone();
    reactor.on_shutdown().before(move || {
        clock.call_later(NOT_AN_ECHO, || raise(SIGINT).expect("a signal to oneself"));
    });
    reactor.run().expect("a clean end");
    assert_eq!(reactor.signal(), Some(SIGTERM), "the one that asked for the end");
    assert!(closed.get(), "the rest of the shutdown is not left out");
    never.callback(());
}

#[test]
fn a_signal_that_arrives_twice_is_one() {
    let _turn = one_at_a_time();
    let reactor = reactor();
    let completer = never_ready(&reactor);
    let (echo, saved) = (reactor.clone(), Rc::new(Cell::new(false)));
    let save = saved.clone();
    raise_when_running(&reactor, SIGINT);
    reactor.on_shutdown().before(move || {
        raise(SIGINT).expect("a signal to oneself");
        echo.call_later(Duration::from_millis(5), move || {
            save.set(true);
            completer.callback(());
        });
    });
    reactor.run().expect("a clean end");
    assert!(saved.get(), "what is to be done before the shutdown was waited for");
}

#[test]
fn a_second_signal_leaves_work_behind_that_does_not_end_and_says_which() {
    let _turn = one_at_a_time();
    keep_logs();
    let reactor = reactor();
    let (go, wait) = mpsc::channel::<()>();
    let heard = go.clone();
    reactor.on_shutdown().before(move || heard.send(()).expect("waited for"));
    let (chain, reached) = (Rc::new(RefCell::new(None)), Rc::new(Cell::new(false)));
    let told = chain.clone();
    let (running, is_running) = mpsc::channel();
    reactor.call_soon(move || running.send(()).expect("waited for"));
    let stuck = reactor.defer_to_thread(move || {
        is_running.recv()?;
        raise(SIGTERM)?;
        wait.recv()?;
        // Nobody sends: this only lets time pass.
        let _ = wait.recv_timeout(NOT_AN_ECHO);
        raise(SIGTERM)?;
        Ok(wait.recv()?)
    });
    drop(stuck.add_both(move |result| _ = told.replace(Some(result.is_err()))));
    let reach = reached.clone();
    reactor.on_shutdown().during(move || reach.set(true));
    reactor.run().expect("it does not wait for the work");
    assert!(reached.get());
    assert_eq!(chain.take(), Some(true), "the chain is told that it was left behind");
    let logged = logged();
    assert!(logged[0].contains("leaving the work of tests/reactor_signals.rs:"), "{logged:?}");
    drop(go);
}

/// The default action of a signal ends the process, so it takes another process to see it.
fn ends_by_sigterm(child: &str) {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]).arg(std::env::current_exe().expect("this file"));
    command.args(["--exact", child, "--ignored"]).stdout(Stdio::null());
    let status = command.status().expect("a second process");
    assert_eq!(status.signal(), Some(SIGTERM), "{status:?}");
}

#[test]
fn a_program_whose_reactor_could_not_run_is_not_deaf_to_signals() {
    ends_by_sigterm("child_that_has_no_descriptors_for_signals");
}

/// However far it came with its handlers.
#[test]
#[ignore = "run by `a_program_whose_reactor_could_not_run_is_not_deaf_to_signals` in a process that it may end"]
fn child_that_has_no_descriptors_for_signals() {
    let reactor = reactor();
    let mut taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    let mut failures = 0;
    reactor.call_soon(|| unreachable!("it was to fail until now"));
    while reactor.run().is_err() {
        failures += 1;
        if failures == 5 {
            // There are two descriptors for the pipe, one for poll and one for the first of the two handlers.
            drop(taken);
            raise(SIGTERM).expect("a signal to oneself");
            unreachable!("the signal ends the process");
        }
        taken.pop();
    }
}

#[test]
fn after_a_run_signals_end_the_program_again() {
    ends_by_sigterm("child_that_signals_itself_after_a_run");
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

#[test]
fn the_third_signal_ends_a_program_whose_loop_is_held_up() {
    ends_by_sigterm("child_whose_shutdown_blocks");
}

#[test]
#[ignore = "run by `the_third_signal_ends_a_program_whose_loop_is_held_up` in a process that it may end"]
fn child_whose_shutdown_blocks() {
    let reactor = reactor();
    reactor.on_shutdown().before(|| {
        let again = thread::spawn(|| {
            raise(SIGINT).expect("a signal to oneself");
            raise(SIGTERM).expect("a signal to oneself");
        });
        again.join().expect("it does not return");
    });
    raise_when_running(&reactor, SIGTERM);
    reactor.run().expect("a clean end");
    unreachable!("the signal ends the process");
}

/// The second signal gives up both: what is to be done before the shutdown, and the work. A third one would end the process.
#[test]
fn a_second_signal_while_the_shutdown_waits_leaves_stuck_work_behind_as_well() {
    let _turn = one_at_a_time();
    keep_logs();
    let reactor = reactor();
    let never = never_ready(&reactor);
    let (go, wait) = mpsc::channel::<()>();
    let (running, is_running) = mpsc::channel();
    reactor.call_in_thread(move || {
        running.send(()).expect("waited for");
        // Nobody sends: it is over when the test is.
        let _ = wait.recv();
        Ok(())
    });
    reactor.call_when_running(move || {
        is_running.recv().expect("it runs");
        raise(SIGTERM).expect("a signal to oneself");
    });
    let clock = reactor.clone();
    reactor.on_shutdown().before(move || {
        clock.call_later(NOT_AN_ECHO, || raise(SIGTERM).expect("a signal to oneself"));
    });
    reactor.run().expect("it waits for nothing more");
    let logged = logged();
    assert!(logged.iter().any(|line| line.contains("leaving the work of tests/reactor_signals.rs:")), "{logged:?}");
    never.callback(());
    drop(go);
}
