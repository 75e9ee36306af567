//! How a reactor begins and ends: triggers, what is waited for, and who is told.

#[path = "support/net.rs"]
mod net;
#[path = "support/reactor.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use dosimeter::net::Transport;
use dosimeter::testing::{assert_no_result, success_result_of};
use dosimeter::{Clock, Completer, Deferred, Failure, Reactor, ReactorError, Result, defer_later};
use net::{Client, Probe, Shared, Story, serve};
use support::{logged, reactor, turn_until};

/// What happened, in order, and whether the reactor counted as running then.
#[derive(Clone, Default)]
struct Notes(Rc<RefCell<Vec<(&'static str, bool)>>>);

impl Notes {
    fn note(&self, reactor: &Reactor, text: &'static str) -> impl FnOnce() + 'static {
        let (notes, reactor) = (self.clone(), reactor.clone());
        move || notes.0.borrow_mut().push((text, reactor.is_running()))
    }

    fn take(&self) -> Vec<(&'static str, bool)> {
        self.0.take()
    }

    fn texts(&self) -> Vec<&'static str> {
        self.take().into_iter().map(|(text, _)| text).collect()
    }
}

fn kind(failure: Failure) -> ReactorError {
    *failure.downcast_ref::<ReactorError>().expect("an error of the reactor")
}

fn stop_soon(reactor: &Reactor) {
    let stop = reactor.clone();
    reactor.call_soon(move || stop.stop().expect("it runs"));
}

/// A trigger to be waited for, until the completer fires.
fn hold_up(reactor: &Reactor) -> Completer<()> {
    let (completer, held) = Deferred::pair();
    reactor.on_shutdown().before(move || held);
    completer
}

// ---- the startup ------------------------------------------------------------------------------------

#[test]
fn the_startup_goes_through_its_phases_and_counts_as_running_from_the_second() {
    let (reactor, notes) = (reactor(), Notes::default());
    reactor.on_startup().after(notes.note(&reactor, "after"));
    reactor.on_startup().during(notes.note(&reactor, "during"));
    reactor.on_startup().before(notes.note(&reactor, "before"));
    stop_soon(&reactor);
    assert!(!reactor.is_running());
    reactor.run().expect("a clean end");
    assert_eq!(notes.take(), [("before", false), ("during", true), ("after", true)]);
}

#[test]
fn the_loop_turns_while_the_startup_waits() {
    let (reactor, notes) = (reactor(), Notes::default());
    let clock = reactor.clone();
    let ready = notes.note(&reactor, "ready");
    reactor.on_startup().before(move || defer_later(&clock, Duration::from_millis(1), ready));
    reactor.on_startup().during(notes.note(&reactor, "during"));
    let stop = reactor.clone();
    reactor.on_startup().after(move || Ok(stop.stop()?));
    reactor.run().expect("a clean end");
    assert_eq!(notes.take(), [("ready", false), ("during", true)]);
}

#[test]
fn a_reactor_can_be_stopped_before_it_has_started() {
    let (reactor, notes) = (reactor(), Notes::default());
    let (stop, stopped) = (reactor.clone(), notes.note(&reactor, "stopped"));
    let (clock, (never, waits)) = (reactor.clone(), Deferred::pair());
    reactor.on_startup().before(move || waits);
    reactor.on_startup().before(move || {
        defer_later(&clock, Duration::from_millis(1), stopped).add_callback(move |()| Ok(stop.stop()?))
    });
    reactor.on_startup().during(notes.note(&reactor, "started"));
    reactor.on_shutdown().during(notes.note(&reactor, "shut down"));
    reactor.run().expect("a clean end");
    assert_eq!(notes.take(), [("stopped", false), ("shut down", false)]);
    never.callback(());
    assert_eq!(notes.take(), [], "what ended before it started does not start later");
}

#[test]
fn call_when_running_waits_for_the_startup_and_keeps_the_order() {
    let (reactor, notes) = (reactor(), Notes::default());
    let first = reactor.call_when_running(notes.note(&reactor, "first"));
    let removed = reactor.call_when_running(notes.note(&reactor, "removed")).expect("it does not run yet");
    reactor.call_when_running(notes.note(&reactor, "second"));
    reactor.on_startup().during(notes.note(&reactor, "startup"));
    stop_soon(&reactor);
    assert!(first.is_some());
    removed.remove().expect("not called yet");
    assert_eq!(notes.take(), []);
    reactor.run().expect("a clean end");
    assert_eq!(notes.take(), [("startup", true), ("first", true), ("second", true)]);
    assert!(first.expect("checked above").remove().is_err());
}

#[test]
fn call_when_running_calls_on_the_spot_when_it_runs() {
    let (reactor, notes) = (reactor(), Notes::default());
    let (inside, outcome) = (reactor.clone(), Rc::new(Cell::new(None)));
    let (called, told) = (notes.note(&reactor, "called"), outcome.clone());
    reactor.call_soon(move || {
        let trigger = inside.call_when_running(called);
        told.set(Some((trigger.is_none(), notes.texts())));
        inside.call_when_running(|| -> Result<()> { Err("by the function".into()) });
        inside.stop().expect("it runs");
    });
    reactor.run().expect("a clean end");
    assert_eq!(outcome.take(), Some((true, vec!["called"])));
    let logged = logged();
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].contains("by the function"), "{logged:?}");
}

// ---- the shutdown -----------------------------------------------------------------------------------

#[test]
fn stop_leaves_the_reactor_running_until_the_shutdown_happens() {
    let (reactor, notes) = (reactor(), Notes::default());
    let (stop, stopped, due) = (reactor.clone(), notes.note(&reactor, "stopped"), notes.note(&reactor, "was due"));
    reactor.call_soon(move || {
        stop.stop().expect("it runs");
        stopped();
    });
    reactor.call_soon(due);
    reactor.on_shutdown().after(notes.note(&reactor, "after"));
    reactor.on_shutdown().during(notes.note(&reactor, "during"));
    reactor.on_shutdown().before(notes.note(&reactor, "before"));
    reactor.run().expect("a clean end");
    let expected = [("stopped", true), ("was due", true), ("before", true), ("during", false), ("after", false)];
    assert_eq!(notes.take(), expected);
}

#[test]
fn while_the_shutdown_waits_sockets_timers_and_threads_are_served_and_a_failure_ends_the_wait_as_well() {
    for succeeds in [true, false] {
        let (reactor, story) = (reactor(), Story::default());
        let probe = story.clone();
        let addr = serve(&reactor, move || Probe::new(&probe).on_data(|transport, data| transport.write(data)));
        let completer = hold_up(&reactor);
        stop_soon(&reactor);
        let (remote, watched) = (reactor.remote(), reactor.clone());
        let (connected, connection) = mpsc::channel();
        let go_on = move || {
            assert!(watched.is_running());
            assert_eq!(watched.stop(), Err(ReactorError::NotRunning), "it was asked already");
            match succeeds {
                true => completer.callback(()),
                false => completer.errback("could not be saved"),
            }
        };
        // A timed call, a connection, a thread, a call from that thread, and the answer to the connection: all of them later.
        let reactor_of_call = reactor.clone();
        let go_on = Cell::new(Some(go_on));
        let timer = reactor.clone();
        reactor.on_shutdown().before(move || {
            timer.call_later(Duration::from_millis(1), move || {
                let work = move || {
                    use std::io::{Read, Write};
                    let mut client = TcpStream::connect(addr)?;
                    client.write_all(b"still there?")?;
                    let mut answer = [0; 12];
                    client.read_exact(&mut answer)?;
                    remote.call_from_thread(move |_| connected.send(answer).expect("heard"))?;
                    Ok(())
                };
                reactor_of_call.defer_to_thread(work).map(move |()| go_on.take().expect("once")());
            });
        });
        reactor.run().expect("a clean end");
        assert_eq!(&connection.try_recv().expect("the call was made"), b"still there?");
        let logged = logged();
        assert_eq!(logged.len(), usize::from(!succeeds), "{logged:?}");
    }
}

#[test]
fn during_the_shutdown_sockets_are_gone_and_the_pool_is_done() {
    let (reactor, story) = (reactor(), Story::default());
    let probe = story.clone();
    // Added before anything is open: what is the reactor's own comes first all the same.
    let (told, during) = (story.clone(), story.clone());
    reactor.on_shutdown().during(move || during.tell("during"));
    let addr = serve(&reactor, move || Probe::new(&probe));
    let _client = Client::connect(addr);
    turn_until(&reactor, || story.has("made"));
    let (go, wait) = mpsc::channel::<()>();
    let _detached = reactor.defer_to_thread(move || Ok(wait.recv()?)).map(move |()| told.tell("worked"));
    let last = story.clone();
    reactor.on_shutdown().before(move || {
        last.tell("before");
        go.send(()).expect("it waits");
    });
    reactor.on_shutdown().during(move || assert!(TcpStream::connect(addr).is_err()));
    stop_soon(&reactor);
    reactor.run().expect("a clean end");
    assert_eq!(logged(), [""; 0]);
    let told = story.told();
    let ends: Vec<_> = told.iter().filter(|text| *text != "worked").collect();
    assert_eq!(ends, ["made", "before", "lost: reactor stopped", "during"]);
    assert!(told.iter().position(|text| text == "worked") < told.iter().position(|text| text == "during"));
}

/// The end must not come inside the method that made it possible: its own connection could not be told.
#[test]
fn a_wait_that_a_protocol_ends_does_not_end_the_reactor_inside_of_it() {
    let (reactor, story) = (reactor(), Story::default());
    let (probe, completer) = (story.clone(), Rc::new(Cell::new(Some(hold_up(&reactor)))));
    let addr = serve(&reactor, move || {
        let completer = completer.clone();
        Probe::new(&probe).on_data(move |_, _| completer.take().expect("once").callback(()))
    });
    let mut client = Client::connect(addr);
    client.send(b"go");
    stop_soon(&reactor);
    reactor.run().expect("a clean end");
    assert_eq!(story.told(), ["made", "go", "lost: reactor stopped"]);
}

#[test]
fn what_is_written_before_the_shutdown_is_sent() {
    let (reactor, story, shared) = (reactor(), Story::default(), Shared::default());
    let (probe, transport) = (story.clone(), shared.clone());
    let addr = serve(&reactor, move || Probe::new(&probe).sharing(&transport));
    let mut client = Client::connect(addr);
    turn_until(&reactor, || story.has("made"));
    reactor.on_shutdown().before(move || shared.take().expect("connected").write("goodbye"));
    stop_soon(&reactor);
    reactor.run().expect("a clean end");
    assert_eq!(client.read(), b"goodbye");
}

#[test]
fn everybody_is_told_of_the_end_though_one_of_them_fails() {
    let (reactor, story) = (reactor(), Story::default());
    let (probe, first) = (story.clone(), Cell::new(true));
    let addr = serve(&reactor, move || {
        let fails = first.replace(false);
        Probe::new(&probe).on_made(Transport::pause_reading).on_lost(move |_, _| assert!(!fails, "by the first"))
    });
    let _clients = [(); 3].map(|()| Client::connect(addr));
    turn_until(&reactor, || story.told().len() == 3);
    stop_soon(&reactor);
    reactor.run().expect("a clean end");
    assert_eq!(story.told()[3..], ["lost: reactor stopped"; 3]);
    let logged = logged();
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].contains("by the first"), "{logged:?}");
}

#[test]
fn a_trigger_that_fails_or_panics_holds_up_nothing() {
    let (reactor, notes) = (reactor(), Notes::default());
    reactor.on_startup().before(|| -> Result<()> { Err("on startup".into()) });
    reactor.on_shutdown().before(|| -> Result<()> { panic!("before") });
    reactor.on_shutdown().during(|| -> Result<()> { panic!("during") });
    reactor.on_shutdown().after(notes.note(&reactor, "after"));
    stop_soon(&reactor);
    reactor.run().expect("a clean end");
    assert_eq!(notes.texts(), ["after"]);
    let logged = logged();
    assert_eq!(logged.len(), 3, "{logged:?}");
    for (line, text) in logged.iter().zip(["on startup", "panicked: before", "panicked: during"]) {
        assert!(line.contains(text), "{line}");
    }
}

#[test]
fn no_trigger_runs_or_turns_the_reactor_and_after_the_end_nothing_does() {
    let reactor = reactor();
    let outcomes = Rc::new(RefCell::new(Vec::new()));
    let attempt = |outcomes: &Rc<RefCell<Vec<ReactorError>>>| {
        let (inside, outcomes) = (reactor.clone(), outcomes.clone());
        move || {
            outcomes.borrow_mut().extend([inside.run(), inside.turn(None)].map(|outcome| kind(outcome.unwrap_err())))
        }
    };
    reactor.on_startup().before(attempt(&outcomes));
    reactor.on_shutdown().before(attempt(&outcomes));
    reactor.on_shutdown().after(attempt(&outcomes));
    stop_soon(&reactor);
    reactor.run().expect("a clean end");
    use ReactorError::{AlreadyRunning, NotRestartable};
    let expected = [AlreadyRunning, AlreadyRunning, AlreadyRunning, AlreadyRunning, NotRestartable, AlreadyRunning];
    assert_eq!(outcomes.take(), expected);
    assert_eq!(kind(reactor.turn(None).unwrap_err()), NotRestartable);
    assert_eq!(reactor.crash(), Err(ReactorError::NotRunning));
}

#[test]
fn triggers_that_hold_their_reactor_do_not_keep_it() {
    let reactor = reactor();
    let (never, waits) = Deferred::pair();
    reactor.on_startup().before(move || waits);
    let held = reactor.clone();
    reactor.on_startup().after(move || drop(held));
    let held = reactor.clone();
    reactor.on_shutdown().after(move || {
        let late = held.clone();
        held.on_shutdown().before(move || drop(late));
        let late = held.clone();
        held.call_when_running(move || drop(late));
    });
    stop_soon(&reactor);
    reactor.run().expect("a clean end");
    drop(never);
    let held = reactor.clone();
    reactor.call_when_running(move || drop(held));
    let weak = reactor.downgrade();
    drop(reactor);
    assert!(weak.upgrade().is_none());
}

#[test]
fn work_and_calls_after_the_end_are_refused_and_make_no_thread() {
    let reactor = reactor();
    stop_soon(&reactor);
    reactor.run().expect("a clean end");
    let work = reactor.defer_to_thread(|| Ok(()));
    assert_eq!(kind(dosimeter::testing::failure_result_of(work)), ReactorError::Gone);
    reactor.call_in_thread(|| Ok(()));
    let logged = logged();
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].contains("the reactor has stopped"), "{logged:?}");
}

// ---- crash ------------------------------------------------------------------------------------------

#[test]
fn crash_ends_the_run_with_nothing_told_and_it_may_be_run_again() {
    let (reactor, notes, story) = (reactor(), Notes::default(), Story::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || Probe::new(&probe).on_data(|transport, data| transport.write(data)));
    let mut client = Client::connect(addr);
    reactor.on_startup().during(notes.note(&reactor, "first startup"));
    reactor.on_shutdown().before(notes.note(&reactor, "shutdown"));
    let (crash, after) = (reactor.clone(), notes.note(&reactor, "crashed"));
    reactor.call_later(Duration::from_millis(1), move || {
        crash.crash().expect("it runs");
        after();
    });
    reactor.run().expect("a clean end");
    assert_eq!(notes.take(), [("first startup", true), ("crashed", false)]);
    assert_eq!(reactor.stop(), Err(ReactorError::NotRunning));

    reactor.on_startup().during(notes.note(&reactor, "second startup"));
    client.send(b"still there?");
    let (watched, seen) = (reactor.clone(), story.clone());
    let poll = dosimeter::LoopingCall::new(&reactor, move || {
        if seen.has("still there?") {
            watched.stop().ok();
        }
    });
    let _ended = poll.start(Duration::from_millis(1));
    reactor.run().expect("a clean end");
    assert_eq!(notes.texts(), ["second startup", "shutdown"]);
    assert!(story.is_over());
}

#[test]
fn crash_is_refused_when_nothing_runs() {
    let reactor = reactor();
    assert_eq!(reactor.crash(), Err(ReactorError::NotRunning));
    let (inside, second) = (reactor.clone(), Rc::new(Cell::new(None)));
    let told = second.clone();
    reactor.call_soon(move || {
        inside.crash().expect("it runs");
        told.set(Some((inside.crash(), inside.run().map_err(kind))));
    });
    reactor.run().expect("a clean end");
    assert_eq!(second.take(), Some((Err(ReactorError::NotRunning), Err(ReactorError::AlreadyRunning))));
}

// ---- the end of a reactor that is turned by hand ----------------------------------------------------

#[test]
fn shut_down_ends_a_reactor_that_is_turned_by_hand_and_frees_what_it_held() {
    let registry = dosimeter::prometheus::Registry::new();
    support::keep_logs();
    let reactor = Reactor::builder().metrics(registry.clone()).build().expect("a reactor");
    let (story, notes) = (Story::default(), Notes::default());
    let probe = story.clone();
    let addr = serve(&reactor, move || Probe::new(&probe));
    let _client = Client::connect(addr);
    turn_until(&reactor, || story.has("made"));
    let own = reactor.clone();
    reactor.call_later(Duration::from_secs(3_600), move || drop(own));
    reactor.on_shutdown().before(notes.note(&reactor, "before"));
    reactor.on_shutdown().after(notes.note(&reactor, "after"));
    success_result_of(reactor.shut_down());
    assert_eq!(notes.texts(), ["before", "after"]);
    assert!(story.is_over());
    assert!(TcpStream::connect(addr).is_err());
    success_result_of(reactor.shut_down());
    assert_eq!(kind(reactor.run().unwrap_err()), ReactorError::NotRestartable);
    let weak = reactor.downgrade();
    drop(reactor);
    assert!(weak.upgrade().is_none());
    assert!(registry.gather().is_empty());
}

#[test]
fn shut_down_waits_for_what_is_to_be_done_before_and_turning_goes_on() {
    let reactor = reactor();
    let completer = hold_up(&reactor);
    let over = reactor.shut_down();
    reactor.turn(Some(Duration::ZERO)).expect("a turn");
    assert_no_result(&over);
    assert_eq!(kind(reactor.run().unwrap_err()), ReactorError::NotRestartable);
    let second = reactor.shut_down();
    reactor.call_later(Duration::from_millis(1), move || completer.callback(()));
    while !over.is_fired() {
        reactor.turn(None).expect("a turn");
    }
    success_result_of(over);
    success_result_of(second);
}

#[test]
fn shut_down_from_a_callback_ends_later_and_while_it_runs_it_is_stop() {
    let by_hand = reactor();
    let (inside, over) = (by_hand.clone(), Rc::new(RefCell::new(None)));
    let told = over.clone();
    by_hand.call_soon(move || {
        let over = inside.shut_down();
        assert_no_result(&over);
        told.replace(Some(over));
    });
    by_hand.turn(None).expect("the last turn, which does not wait");
    success_result_of(over.take().expect("it was called"));

    let running = reactor();
    let (inside, told) = (running.clone(), over.clone());
    running.call_soon(move || {
        told.replace(Some(inside.shut_down()));
        assert_eq!(inside.stop(), Err(ReactorError::NotRunning), "it was asked already");
    });
    running.run().expect("a clean end");
    success_result_of(over.take().expect("it was called"));
}

#[test]
fn firing_the_events_by_hand_is_what_a_program_with_its_own_loop_does() {
    let (reactor, notes) = (reactor(), Notes::default());
    reactor.call_when_running(notes.note(&reactor, "started"));
    success_result_of(reactor.on_startup().fire());
    assert_eq!(notes.take(), [("started", false)]);
    reactor.on_shutdown().after(notes.note(&reactor, "over"));
    let over = reactor.on_shutdown().fire();
    assert_no_result(&over);
    reactor.turn(None).expect("the last turn, which does not wait");
    success_result_of(over);
    assert_eq!(notes.texts(), ["over"]);
}
