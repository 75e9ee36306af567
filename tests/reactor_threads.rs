//! Work in threads, and threads that wait for the reactor.

#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use dosimeter::testing::{failure_result_of, success_result_of};
use dosimeter::{Abandoned, Completer, Deferred, Failure, Reactor, ReactorError, Remote, Result, defer_later};
use support::{logged, reactor, turn_until};

fn kind(failure: &Failure) -> Option<ReactorError> {
    failure.downcast_ref::<ReactorError>().copied()
}

/// A reactor whose pool has this many threads.
fn with_threads(max_threads: usize) -> Reactor {
    support::keep_logs();
    let builder = Reactor::builder().metrics(dosimeter::prometheus::Registry::new()).signal_handlers(false);
    builder.max_threads(max_threads).build().expect("a reactor")
}

/// Has a thread call `ask`, and turns until it has its answer.
fn ask<T: Send + 'static>(reactor: &Reactor, ask: impl FnOnce(&Remote) -> Result<T> + Send + 'static) -> Result<T> {
    let remote = reactor.remote();
    let thread = thread::spawn(move || ask(&remote));
    turn_until(reactor, || thread.is_finished());
    thread.join().expect("no panic")
}

// ---- calls that wait --------------------------------------------------------------------------------

#[test]
fn a_blocking_call_runs_in_the_thread_of_the_reactor_and_gives_what_it_returns() {
    let reactor = reactor();
    let own = thread::current().id();
    let answer = ask(&reactor, move |remote| {
        assert!(!remote.is_own_thread());
        remote.blocking_call_from_thread(move |reactor| {
            assert!(reactor.remote().is_own_thread());
            Ok((thread::current().id(), 42))
        })
    });
    assert_eq!(answer.expect("an answer"), (own, 42));
}

#[test]
fn a_blocking_call_waits_for_the_chain_that_the_function_returns() {
    let reactor = reactor();
    let later = |reactor: &Reactor| defer_later(reactor, Duration::from_millis(1), || "later");
    let answer = ask(&reactor, move |remote| remote.blocking_call_from_thread(later));
    assert_eq!(answer.expect("an answer"), "later");
}

#[test]
fn the_failure_of_a_blocking_call_is_the_callers_and_nobody_elses() {
    let reactor = reactor();
    let error = ask(&reactor, |remote| remote.blocking_call_from_thread(|_| Ok("x".parse::<u32>()?)));
    assert!(error.unwrap_err().is::<std::num::ParseIntError>());
    let chain = ask(&reactor, |remote| remote.blocking_call_from_thread(|_| Deferred::<()>::fail("by the chain")));
    assert_eq!(chain.unwrap_err().to_string(), "by the chain");
    let panic =
        ask(&reactor, |remote| remote.blocking_call_from_thread(|_| -> Result<()> { panic!("by the function") }));
    assert!(panic.unwrap_err().is_panic());
    assert_eq!(logged(), [""; 0]);
}

#[test]
fn a_blocking_call_in_the_reactors_own_thread_is_an_error_and_not_a_deadlock() {
    let reactor = reactor();
    let remote = reactor.remote();
    let failure = remote.blocking_call_from_thread(|_| Ok(())).unwrap_err();
    assert_eq!(kind(&failure), Some(ReactorError::OwnThread));
}

#[test]
fn a_blocking_call_to_a_reactor_that_is_gone_or_ends_before_it_was_made_is_told() {
    let gone = reactor();
    let remote = gone.remote();
    drop(gone);
    let failure = thread::spawn(move || remote.blocking_call_from_thread(|_| Ok(()))).join().expect("no panic");
    assert_eq!(kind(&failure.unwrap_err()), Some(ReactorError::Gone));

    // On its way, or refused: whichever comes first.
    let unturned = reactor();
    let remote = unturned.remote();
    let thread = thread::spawn(move || remote.blocking_call_from_thread(|_| Ok(())));
    thread::yield_now();
    drop(unturned);
    assert_eq!(kind(&thread.join().expect("no panic").unwrap_err()), Some(ReactorError::Gone));
}

thread_local! {
    static FORGOTTEN: RefCell<Vec<Completer<()>>> = const { RefCell::new(Vec::new()) };
}

/// The chain is held by somebody who never fires it: the thread must not hang with it.
#[test]
fn a_blocking_call_that_still_waits_when_the_reactor_ends_is_told() {
    let by_run: fn(&Reactor) = |reactor| {
        let stop = reactor.clone();
        reactor.call_soon(move || stop.stop().expect("it runs"));
        reactor.run().expect("a clean end");
    };
    let by_hand: fn(&Reactor) = |reactor| success_result_of(reactor.shut_down());
    let by_drop: fn(&Reactor) = |_| {};
    for end in [by_run, by_hand, by_drop] {
        let reactor = reactor();
        let remote = reactor.remote();
        let forget = |_: &Reactor| {
            let (completer, deferred) = Deferred::<()>::pair();
            FORGOTTEN.with_borrow_mut(|forgotten| forgotten.push(completer));
            deferred
        };
        let (say, heard) = mpsc::channel();
        thread::spawn(move || say.send(remote.blocking_call_from_thread(forget)).expect("heard"));
        turn_until(&reactor, || FORGOTTEN.with_borrow(|forgotten| !forgotten.is_empty()));
        end(&reactor);
        drop(reactor);
        let told = heard.recv_timeout(Duration::from_secs(20)).expect("it is told");
        assert_eq!(kind(&told.unwrap_err()), Some(ReactorError::Gone));
        FORGOTTEN.take();
    }
}

#[test]
fn work_that_asks_the_reactor_something_while_the_end_waits_for_it_is_answered() {
    let reactor = reactor();
    let (remote, stop) = (reactor.remote(), reactor.clone());
    // The answer that it waits for is only given when the end has begun, and the end waits for it.
    let work = reactor.defer_to_thread(move || {
        while remote.blocking_call_from_thread(|reactor| Ok(reactor.is_running()))? {}
        Ok(())
    });
    let done = Rc::new(Cell::new(false));
    let tell = done.clone();
    let _tail = work.map(move |()| tell.set(true));
    let seen = done.clone();
    reactor.on_shutdown().during(move || assert!(seen.get(), "it is delivered before the program's part"));
    reactor.call_when_running(move || Ok(stop.stop()?));
    reactor.run().expect("a clean end");
    assert!(done.get());
    assert_eq!(logged(), [""; 0]);
}

/// Once the reactor has ended no timer runs, so the answer never comes: the end must not wait for who waits for it.
#[test]
fn work_that_waits_for_what_the_end_has_taken_away_is_told_and_does_not_hold_up_the_end() {
    let reactor = with_threads(1);
    let asked = Rc::new(Cell::new(false));
    let work = |remote: Remote, stop: bool| {
        move || {
            let answer = remote.blocking_call_from_thread(move |reactor| {
                if stop {
                    reactor.stop().expect("it runs");
                }
                defer_later(reactor, Duration::from_secs(3600), || ())
            });
            Ok(kind(&answer.unwrap_err()))
        }
    };
    let told: Vec<_> = [true, false].map(|stop| reactor.defer_to_thread(work(reactor.remote(), stop))).into();
    let seen = asked.clone();
    let _tail = dosimeter::gather_results(told).map(move |told| {
        assert_eq!(told, [Some(ReactorError::Gone); 2], "the one in the queue asks as well");
        seen.set(true);
    });
    reactor.run().expect("a clean end");
    assert!(asked.get(), "both results were delivered");
    assert_eq!(logged(), [""; 0]);
}

// ---- the pool ---------------------------------------------------------------------------------------

#[test]
fn the_failure_of_a_call_in_a_thread_is_logged_and_costs_no_thread() {
    let reactor = with_threads(1);
    reactor.call_in_thread(|| Err("by the call".into()));
    reactor.call_in_thread(|| panic!("in the call"));
    // The same thread, whose log this is.
    let logs = reactor.defer_to_thread(|| Ok(logged()));
    turn_until(&reactor, || logs.is_fired());
    let logs = success_result_of(logs);
    assert_eq!(logs.len(), 2, "{logs:?}");
    assert!(logs[0].contains("a call in a thread failed: by the call"), "{logs:?}");
    assert!(logs[1].contains("a call in a thread failed: panicked: in the call"), "{logs:?}");
}

#[test]
fn the_end_waits_for_calls_in_threads_those_in_the_queue_included() {
    let reactor = with_threads(1);
    let (say, heard) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    reactor.call_in_thread(move || Ok(wait.recv()?));
    for number in 0..10 {
        let say = say.clone();
        reactor.call_in_thread(move || Ok(say.send(number)?));
    }
    reactor.on_shutdown().before(move || go.send(()).expect("it waits"));
    success_result_of(reactor.shut_down());
    assert!(heard.try_iter().eq(0..10));
}

#[test]
fn more_threads_may_be_allowed_while_work_waits_for_them() {
    let reactor = with_threads(1);
    let together = Arc::new(Barrier::new(3));
    let jobs: Vec<_> = (0..3)
        .map(|_| {
            let together = together.clone();
            reactor.defer_to_thread(move || Ok(_ = together.wait()))
        })
        .collect();
    reactor.set_max_threads(3);
    turn_until(&reactor, || jobs.iter().all(Deferred::is_fired));
    jobs.into_iter().for_each(success_result_of);
}

#[test]
fn threads_that_are_too_many_end_and_the_work_goes_on() {
    let reactor = with_threads(3);
    let together = Arc::new(Barrier::new(3));
    let work = |together: Option<Arc<Barrier>>| {
        reactor.defer_to_thread(move || {
            let _ = together.map(|together| together.wait());
            Ok(thread::current().id())
        })
    };
    let first: Vec<_> = (0..3).map(|_| work(Some(together.clone()))).collect();
    turn_until(&reactor, || first.iter().all(Deferred::is_fired));
    let all: HashSet<_> = first.into_iter().map(success_result_of).collect();
    assert_eq!(all.len(), 3);
    reactor.set_max_threads(0);
    let later: Vec<_> = (0..50).map(|_| work(None)).collect();
    turn_until(&reactor, || later.iter().all(Deferred::is_fired));
    let used: HashSet<_> = later.into_iter().map(success_result_of).collect();
    assert_eq!(used.len(), 1, "zero counts as one");
    reactor.set_max_threads(2);
    let pair = Arc::new(Barrier::new(2));
    let again: Vec<_> = (0..2).map(|_| work(Some(pair.clone()))).collect();
    turn_until(&reactor, || again.iter().all(Deferred::is_fired));
    again.into_iter().for_each(|job| _ = success_result_of(job));
}

#[test]
fn work_asked_for_during_the_shutdown_is_refused() {
    let reactor = reactor();
    reactor.call_in_thread(|| Ok(()));
    let (inside, outcome) = (reactor.clone(), Rc::new(RefCell::new(None)));
    let told = outcome.clone();
    reactor.on_shutdown().during(move || _ = told.replace(Some(inside.defer_to_thread(|| Ok(())))));
    success_result_of(reactor.shut_down());
    let failure = failure_result_of(outcome.take().expect("it was called"));
    assert!(!failure.is::<Abandoned>());
    assert_eq!(failure.to_string(), "the reactor has stopped");
}
