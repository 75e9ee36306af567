//! The life of a reactor, and the ways into it from other threads.

#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use dosimeter::net::{Address, ConnectionLost, Protocol, Transport};
use dosimeter::testing::{assert_no_result, failure_result_of, success_result_of};
use dosimeter::{Cancelled, Clock, Failure, Reactor, ReactorError, Result};
use support::{logged, reactor, turn_until};

type Log = Rc<RefCell<Vec<&'static str>>>;

fn kind(failure: Failure) -> ReactorError {
    *failure.downcast_ref::<ReactorError>().expect("an error of the reactor")
}

fn stop_soon(reactor: &Reactor) {
    let stop = reactor.clone();
    reactor.call_soon(move || stop.stop().expect("it runs"));
}

// ---- life cycle -------------------------------------------------------------------------------------

#[test]
fn run_returns_when_it_is_stopped_and_is_running_only_inside() {
    let reactor = reactor();
    assert!(!reactor.is_running());
    let (inside, seen) = (reactor.clone(), Rc::new(Cell::new(false)));
    let see = seen.clone();
    reactor.call_soon(move || {
        see.set(inside.is_running());
        inside.stop().expect("it runs");
    });
    reactor.run().expect("a clean end");
    assert!(seen.get());
    assert!(!reactor.is_running());
    assert_eq!(reactor.signal(), None);
}

#[test]
fn stop_is_refused_before_run_after_it_and_the_second_time() {
    let reactor = reactor();
    assert_eq!(reactor.stop(), Err(ReactorError::NotRunning));
    let (inside, second) = (reactor.clone(), Rc::new(Cell::new(None)));
    let outcome = second.clone();
    reactor.call_soon(move || {
        inside.stop().expect("it runs");
        outcome.set(Some(inside.stop()));
    });
    reactor.run().expect("a clean end");
    assert_eq!(second.get(), Some(Err(ReactorError::NotRunning)));
    assert_eq!(reactor.stop(), Err(ReactorError::NotRunning));
}

#[test]
fn run_and_turn_are_refused_inside_of_a_callback() {
    let reactor = reactor();
    let (inside, outcomes) = (reactor.clone(), Rc::new(RefCell::new(Vec::new())));
    let seen = outcomes.clone();
    reactor.call_soon(move || {
        let turn = inside.turn(Some(Duration::ZERO));
        seen.borrow_mut().extend([inside.run(), turn].map(|outcome| kind(outcome.unwrap_err())));
        inside.stop().expect("it still runs");
    });
    reactor.run().expect("a clean end");
    assert_eq!(outcomes.take(), [ReactorError::AlreadyRunning; 2]);
}

#[test]
fn run_and_turn_are_refused_inside_of_a_callback_of_a_turn_by_hand() {
    let reactor = reactor();
    let (inside, outcomes) = (reactor.clone(), Rc::new(RefCell::new(Vec::new())));
    let seen = outcomes.clone();
    reactor.call_soon(move || {
        let turn = inside.turn(Some(Duration::ZERO));
        seen.borrow_mut().extend([inside.run(), turn].map(|outcome| kind(outcome.unwrap_err())));
    });
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    assert_eq!(outcomes.take(), [ReactorError::AlreadyRunning; 2]);
    stop_soon(&reactor);
    reactor.run().expect("the attempts left nothing behind");
}

#[test]
fn a_reactor_that_was_stopped_does_not_run_again() {
    let reactor = reactor();
    stop_soon(&reactor);
    reactor.run().expect("a clean end");
    assert_eq!(kind(reactor.run().unwrap_err()), ReactorError::NotRestartable);
}

#[test]
fn stop_only_marks_and_calls_that_are_due_still_run() {
    let (reactor, log) = (reactor(), Log::default());
    let (stop, first, second) = (reactor.clone(), log.clone(), log.clone());
    reactor.call_soon(move || {
        stop.stop().expect("it runs");
        first.borrow_mut().push("goes on after stop");
    });
    reactor.call_soon(move || second.borrow_mut().push("was due"));
    reactor.run().expect("a clean end");
    assert_eq!(log.take(), ["goes on after stop", "was due"]);
}

#[test]
fn turns_by_hand_and_a_run_may_follow_each_other() {
    let (reactor, log) = (reactor(), Log::default());
    let first = log.clone();
    reactor.call_soon(move || first.borrow_mut().push("turn"));
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    let second = log.clone();
    reactor.call_soon(move || second.borrow_mut().push("run"));
    stop_soon(&reactor);
    reactor.run().expect("a clean end");
    assert_eq!(log.take(), ["turn", "run"]);
}

#[test]
fn a_turn_without_time_does_not_wait() {
    let reactor = reactor();
    reactor.call_later(Duration::from_secs(3_600), || {});
    let start = Instant::now();
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    assert!(start.elapsed() < Duration::from_secs(60));
}

/// Whoever turns until something has happened would otherwise wait for one thing more, which may never come.
#[test]
fn a_turn_by_hand_that_has_run_a_call_does_not_wait_for_more() {
    let reactor = reactor();
    let limit = reactor.call_later(Duration::from_secs(30), || {});
    let start = reactor.now();
    for by_thread in [false, true] {
        let ran = Rc::new(Cell::new(false));
        let run = ran.clone();
        if by_thread {
            drop(reactor.defer_to_thread(|| Ok(())).map(move |()| run.set(true)));
        } else {
            reactor.call_soon(move || run.set(true));
        }
        while !ran.get() {
            reactor.turn(None).expect("a turn");
        }
    }
    assert!(limit.is_active() && reactor.now() - start < Duration::from_secs(20));
}

#[test]
fn what_the_chain_of_a_stopped_reactor_held_is_let_go_of() {
    let held = Rc::new(());
    let reactor = reactor();
    for delay in [0, 3_600] {
        // A call that holds its own reactor is the normal case, and must not keep both alive for ever.
        let (own, hold) = (reactor.clone(), held.clone());
        reactor.call_later(Duration::from_secs(delay), move || drop((own, hold)));
    }
    stop_soon(&reactor);
    reactor.run().expect("a clean end");
    drop(reactor);
    assert_eq!(Rc::strong_count(&held), 1);
}

/// Whoever hears of the end may begin something new in answer; it must end as well, and not hold the reactor for ever.
#[test]
fn what_is_begun_during_the_shutdown_ends_with_it() {
    struct BeginsAnew(Reactor);
    impl Drop for BeginsAnew {
        fn drop(&mut self) {
            let own = self.0.clone();
            self.0.call_soon(move || drop(own));
            let begun = self.0.listen_tcp("127.0.0.1:0", |_: &Address| Nothing(None));
            assert!(begun.is_err(), "a reactor that has stopped listens to nobody");
        }
    }
    struct Nothing(Option<BeginsAnew>);
    impl Protocol for Nothing {
        fn data_received(&mut self, _: &Transport, _: &[u8]) -> Result<()> {
            Ok(())
        }
        fn connection_lost(&mut self, _: &Transport, _: ConnectionLost) {
            self.0.take();
        }
    }
    let reactor = reactor();
    let inside = reactor.clone();
    let factory = move |_: &Address| Nothing(Some(BeginsAnew(inside.clone())));
    let port = reactor.listen_tcp("127.0.0.1:0", factory).expect("a free port");
    let _client = std::net::TcpStream::connect(port.local_addr()).expect("it listens");
    drop(port);
    let in_timer = BeginsAnew(reactor.clone());
    reactor.call_later(Duration::from_secs(3_600), move || drop(in_timer));
    let stop = reactor.clone();
    reactor.call_later(Duration::from_millis(5), move || stop.stop().expect("it runs"));
    reactor.run().expect("a clean end");
    assert_eq!(logged(), [""; 0]);
    let weak = reactor.downgrade();
    drop(reactor);
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_farewell_to_the_others_during_the_shutdown_holds_nothing() {
    struct SaysGoodbye(Rc<RefCell<Vec<Transport>>>);
    impl Protocol for SaysGoodbye {
        fn connection_made(&mut self, transport: &Transport) -> Result<()> {
            self.0.borrow_mut().push(transport.clone());
            Ok(())
        }
        fn data_received(&mut self, _: &Transport, _: &[u8]) -> Result<()> {
            Ok(())
        }
        fn connection_lost(&mut self, _: &Transport, _: ConnectionLost) {
            self.0.take().iter().for_each(|other| other.write("goodbye"));
        }
    }
    let (reactor, all) = (reactor(), Rc::<RefCell<Vec<Transport>>>::default());
    let everybody = all.clone();
    let factory = move |_: &Address| SaysGoodbye(everybody.clone());
    let port = reactor.listen_tcp("127.0.0.1:0", factory).expect("a free port");
    let _clients = [(); 2].map(|()| std::net::TcpStream::connect(port.local_addr()).expect("it listens"));
    turn_until(&reactor, || all.borrow().len() == 2);
    drop((port, all));
    stop_soon(&reactor);
    reactor.run().expect("a clean end");
    let weak = reactor.downgrade();
    drop(reactor);
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_weak_handle_does_not_keep_a_reactor_alive() {
    let reactor = reactor();
    let weak = reactor.downgrade();
    assert!(weak.upgrade().is_some());
    drop(reactor);
    assert!(weak.upgrade().is_none());
}

// ---- calls from threads -----------------------------------------------------------------------------

#[test]
fn calls_from_a_thread_run_in_order_in_the_thread_of_the_reactor() {
    let reactor = reactor();
    let (say, heard) = mpsc::channel::<(u32, ThreadId)>();
    let remote = reactor.remote();
    let send = move || {
        for number in 0..1_000 {
            let say = say.clone();
            let call = move |_: &Reactor| say.send((number, thread::current().id())).expect("heard");
            remote.call_from_thread(call).expect("the reactor is there");
        }
    };
    thread::spawn(send).join().expect("no panic");
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    let own = thread::current().id();
    assert!(heard.try_iter().eq((0..1_000).map(|number| (number, own))));
}

#[test]
fn calls_from_many_threads_all_arrive_and_those_of_each_in_order() {
    const THREADS: usize = 4;
    const CALLS: usize = 5_000;
    let reactor = reactor();
    let (say, heard) = mpsc::channel();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (remote, say) = (reactor.remote(), say.clone());
            thread::spawn(move || {
                for number in 0..CALLS {
                    let say = say.clone();
                    let call = move |_: &Reactor| say.send((thread, number)).expect("heard");
                    remote.call_from_thread(call).expect("the reactor is there");
                }
            })
        })
        .collect();
    let mut next = [0; THREADS];
    turn_until(&reactor, || {
        for (thread, number) in heard.try_iter() {
            assert_eq!(number, next[thread]);
            next[thread] += 1;
        }
        next == [CALLS; THREADS]
    });
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

/// Each call finds the reactor waiting, or just about to; were it not woken, the test would hang.
#[test]
fn a_call_from_a_thread_wakes_a_reactor_that_waits_every_time() {
    let reactor = reactor();
    let remote = reactor.remote();
    let thread = thread::spawn(move || {
        for _ in 0..2_000 {
            let (done, wait) = mpsc::channel();
            remote.call_from_thread(move |_| done.send(()).expect("waited for")).expect("the reactor is there");
            wait.recv().expect("it ran");
        }
        remote.call_from_thread(|reactor| reactor.stop().expect("it runs")).expect("the reactor is there");
    });
    reactor.run().expect("a clean end");
    thread.join().expect("no panic");
}

#[test]
fn calls_made_before_run_are_run_when_it_starts() {
    let reactor = reactor();
    let (say, heard) = mpsc::channel();
    reactor.remote().call_from_thread(move |_| say.send("called").expect("heard")).expect("the reactor is there");
    assert!(heard.try_recv().is_err());
    stop_soon(&reactor);
    reactor.run().expect("a clean end");
    assert_eq!(heard.try_recv(), Ok("called"));
}

#[test]
fn a_call_from_the_thread_of_the_reactor_waits_for_the_next_turn() {
    let (reactor, log) = (reactor(), Arc::new(AtomicU32::new(0)));
    let count = log.clone();
    let call = move |reactor: &Reactor| {
        count.fetch_add(1, Ordering::Relaxed);
        let again = count.clone();
        let call = move |_: &Reactor| _ = again.fetch_add(10, Ordering::Relaxed);
        reactor.remote().call_from_thread(call).expect("the reactor is there");
    };
    reactor.remote().call_from_thread(call).expect("the reactor is there");
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    assert_eq!(log.load(Ordering::Relaxed), 1);
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    assert_eq!(log.load(Ordering::Relaxed), 11);
}

#[test]
fn a_call_that_calls_again_for_ever_does_not_starve_timers() {
    fn again(reactor: &Reactor) {
        reactor.remote().call_from_thread(again).expect("the reactor is there");
    }
    let reactor = reactor();
    again(&reactor);
    let done = Rc::new(Cell::new(false));
    let fired = done.clone();
    reactor.call_later(Duration::from_millis(1), move || fired.set(true));
    turn_until(&reactor, || done.get());
}

#[test]
fn calls_from_threads_run_before_timed_calls_and_what_they_arm_may_run_in_the_same_turn() {
    let (reactor, log) = (reactor(), Log::default());
    let timed = log.clone();
    reactor.call_soon(move || timed.borrow_mut().push("timed"));
    let (say, heard) = mpsc::channel();
    let call = move |reactor: &Reactor| {
        reactor.call_soon(move || say.send("armed by a thread call").expect("heard"));
    };
    reactor.remote().call_from_thread(call).expect("the reactor is there");
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    assert_eq!(log.take(), ["timed"]);
    assert_eq!(heard.try_recv(), Ok("armed by a thread call"));
}

#[test]
fn a_call_from_a_thread_that_panics_is_logged_and_the_others_run() {
    let reactor = reactor();
    let (say, heard) = mpsc::channel();
    let first = say.clone();
    let remote = reactor.remote();
    remote.call_from_thread(move |_| first.send(1).expect("heard")).expect("the reactor is there");
    remote.call_from_thread(|_| panic!("the second call")).expect("the reactor is there");
    remote.call_from_thread(move |_| say.send(3).expect("heard")).expect("the reactor is there");
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), [1, 3]);
    let logged = logged();
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].contains("a call from a thread failed: panicked: the second call"), "{logged:?}");
}

#[test]
fn a_reactor_that_has_stopped_refuses_calls_and_drops_what_was_never_run() {
    struct Tell(mpsc::Sender<ThreadId>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).expect("heard");
        }
    }
    let reactor = reactor();
    let remote = reactor.remote();
    let (say, heard) = mpsc::channel();
    let late = remote.clone();
    // Sent in the last turn, after the thread calls had theirs.
    let tell = Tell(say.clone());
    let stop = reactor.clone();
    reactor.call_soon(move || {
        stop.stop().expect("it runs");
        late.call_from_thread(move |_| drop(tell)).expect("not stopped yet");
    });
    reactor.run().expect("a clean end");
    assert_eq!(heard.try_recv(), Ok(thread::current().id()), "dropped in the thread of the reactor");
    let tell = Tell(say);
    assert_eq!(remote.call_from_thread(move |_| drop(tell)), Err(ReactorError::Gone));
    assert!(heard.try_recv().is_ok());
}

#[test]
fn a_reactor_that_was_never_run_and_is_gone_refuses_calls() {
    let reactor = reactor();
    let remote = reactor.remote();
    drop(reactor);
    assert_eq!(remote.call_from_thread(|_| {}), Err(ReactorError::Gone));
}

// ---- the thread pool --------------------------------------------------------------------------------

#[test]
fn defer_to_thread_works_elsewhere_and_answers_in_the_thread_of_the_reactor() {
    let reactor = reactor();
    let own = thread::current().id();
    let seen = Rc::new(Cell::new(None));
    let see = seen.clone();
    let _tail = reactor
        .defer_to_thread(|| Ok((thread::current().id(), thread::current().name().map(str::to_owned))))
        .map(move |(worker, name)| see.set(Some((worker, name, thread::current().id()))));
    turn_until(&reactor, || seen.take().inspect(|told| seen.set(Some(told.clone()))).is_some());
    let (worker, name, answered) = seen.take().expect("it was told");
    assert_ne!(worker, own);
    assert_eq!(answered, own);
    assert!(name.expect("threads are named").starts_with("dosimeter-pool"));
}

#[test]
fn defer_to_thread_wakes_a_reactor_that_waits() {
    let reactor = reactor();
    let deferred = reactor.defer_to_thread(|| Ok(7));
    let stop = reactor.clone();
    let tail = deferred.add_callback(move |seven| Ok(stop.stop().map(|()| seven)?));
    reactor.run().expect("a clean end");
    assert_eq!(success_result_of(tail), 7);
}

#[test]
fn an_error_of_the_work_is_the_failure_of_the_chain() {
    let reactor = reactor();
    let deferred = reactor.defer_to_thread(|| Ok("x".parse::<u32>()?));
    turn_until(&reactor, || deferred.is_fired());
    assert!(failure_result_of(deferred).is::<std::num::ParseIntError>());
}

#[test]
fn a_panic_of_the_work_is_the_failure_of_the_chain_and_costs_no_thread() {
    let reactor =
        Reactor::builder().metrics(dosimeter::prometheus::Registry::new()).max_threads(1).build().expect("a reactor");
    let panics = reactor.defer_to_thread::<()>(|| panic!("in the pool"));
    let works = reactor.defer_to_thread(|| Ok(7));
    turn_until(&reactor, || works.is_fired());
    let failure = failure_result_of(panics);
    assert!(failure.is_panic());
    assert_eq!(failure.to_string(), "panicked: in the pool");
    assert_eq!(success_result_of(works), 7);
}

#[test]
fn cancelling_fails_the_chain_at_once_and_the_late_result_is_dropped() {
    let reactor = reactor();
    let (go, wait) = mpsc::channel::<()>();
    let result = Arc::new(());
    let held = result.clone();
    let deferred = reactor.defer_to_thread(move || {
        wait.recv()?;
        Ok(held)
    });
    assert_no_result(&deferred);
    deferred.cancel();
    assert!(failure_result_of(deferred).is::<Cancelled>());
    go.send(()).expect("the work goes on");
    turn_until(&reactor, || Arc::strong_count(&result) == 1);
    assert_eq!(logged(), [""; 0]);
}

#[test]
fn the_pool_works_on_many_things_at_a_time_and_never_on_more_than_its_maximum() {
    const THREADS: usize = 4;
    let reactor = Reactor::builder()
        .metrics(dosimeter::prometheus::Registry::new())
        .max_threads(THREADS)
        .build()
        .expect("a reactor");
    // The first four can only end together: that many threads there are.
    let together = Arc::new(Barrier::new(THREADS));
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let jobs: Vec<_> = (0..200)
        .map(|number| {
            let (together, now, most) = (together.clone(), now.clone(), most.clone());
            reactor.defer_to_thread(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                if number < THREADS {
                    together.wait();
                }
                now.fetch_sub(1, Ordering::SeqCst);
                Ok((number, thread::current().id()))
            })
        })
        .collect();
    turn_until(&reactor, || jobs.iter().all(|job| job.is_fired()));
    let results: Vec<_> = jobs.into_iter().map(success_result_of).collect();
    assert!(results.iter().map(|result| result.0).eq(0..200));
    assert_eq!(most.load(Ordering::SeqCst) as usize, THREADS);
    assert_eq!(results.iter().map(|result| result.1).collect::<HashSet<_>>().len(), THREADS);
}

#[test]
fn a_program_that_never_blocks_has_no_threads() {
    let threads = || std::fs::read_dir("/proc/self/task").expect("Linux").flatten();
    let reactor = Reactor::builder().name("idle").metrics(dosimeter::prometheus::Registry::new()).build().expect("one");
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    let named = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
    assert!(!threads().map(named).any(|name| name.starts_with("idle-pool")));
}

#[test]
fn run_waits_for_the_work_that_was_begun() {
    let reactor = reactor();
    let (started, wait) = mpsc::channel();
    let (go, begin) = mpsc::channel::<()>();
    let done = Arc::new(AtomicU32::new(0));
    let finished = done.clone();
    let _detached = reactor.defer_to_thread(move || {
        started.send(())?;
        begin.recv()?;
        finished.store(1, Ordering::SeqCst);
        Ok(())
    });
    wait.recv().expect("it began");
    let stop = reactor.clone();
    reactor.call_soon(move || {
        stop.stop().expect("it runs");
        go.send(()).expect("it waits");
    });
    reactor.run().expect("a clean end");
    assert_eq!(done.load(Ordering::SeqCst), 1);
}

#[test]
fn a_chain_that_waits_for_work_when_the_reactor_stops_is_told() {
    let reactor = reactor();
    let (go, begin) = mpsc::channel::<()>();
    let outcome = Rc::new(Cell::new(None));
    let told = outcome.clone();
    // The chain holds its own reactor: it must not keep both alive for ever.
    let held = reactor.clone();
    let _tail = reactor.defer_to_thread(move || Ok(begin.recv()?)).add_both(move |result| {
        told.set(Some(result.is_err()));
        drop(held);
    });
    let stop = reactor.clone();
    reactor.call_soon(move || {
        stop.stop().expect("it runs");
        drop(go);
    });
    reactor.run().expect("a clean end");
    let weak = reactor.downgrade();
    drop(reactor);
    assert_eq!(outcome.get(), Some(true));
    assert!(weak.upgrade().is_none());
}
