//! The hooks: whatever happens to a chain or in a function, each hook accounts for it exactly once, and nothing that passes by
//! is touched.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::hint;
use std::io;
use std::num::ParseIntError;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use dosimeter::prometheus::{Counter, Gauge, Histogram, HistogramOpts, IntCounter, IntGauge};
use dosimeter::testing::Clock;
use dosimeter::web::{Render, Request, Response, Router};
use dosimeter::{
    Abandoned, Async, Cancelled, Completer, Deferred, Failure, Hooks, Incrementer, Observer, Outcome, Panicked,
    Reactor, Result, TimedOut, count_exceptions, defer_later, race, time, track_inprogress,
};
use support::Server;

/// A metric of the test's own, which is all three kinds at once and notes every call.
#[derive(Clone, Default)]
struct Probe(Rc<Notes>);

#[derive(Default)]
struct Notes {
    seconds: RefCell<Vec<f64>>,
    counted: Cell<u32>,
    raised: Cell<u32>,
    level: Cell<i32>,
}

impl Observer for Probe {
    fn observe(&self, seconds: f64) {
        self.0.seconds.borrow_mut().push(seconds);
    }
}

impl Incrementer for Probe {
    fn inc(&self) {
        self.0.counted.set(self.0.counted.get() + 1);
    }
}

impl dosimeter::Gauge for Probe {
    fn inc(&self) {
        self.0.raised.set(self.0.raised.get() + 1);
        self.0.level.set(self.0.level.get() + 1);
    }

    fn dec(&self) {
        self.0.level.set(self.0.level.get() - 1);
    }
}

/// What a [`Probe`] has noted.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    observed: usize,
    counted: u32,
    raised: u32,
    level: i32,
}

/// Nothing has ended yet.
const UNDER_WAY: Account = Account { observed: 0, counted: 0, raised: 1, level: 1 };
const ENDED_WELL: Account = Account { observed: 1, counted: 0, raised: 1, level: 0 };
const ENDED_BADLY: Account = Account { observed: 1, counted: 1, raised: 1, level: 0 };

impl Probe {
    fn account(&self) -> Account {
        let (observed, notes) = (self.0.seconds.borrow().len(), &self.0);
        Account { observed, counted: notes.counted.get(), raised: notes.raised.get(), level: notes.level.get() }
    }

    /// All three hooks on a chain.
    fn on<T: 'static>(&self, chain: Deferred<T>) -> Deferred<T> {
        track_inprogress(self, count_exceptions(self, time(self, chain)))
    }

    /// All three hooks on a function.
    fn around<A: 'static, R: Outcome>(&self, function: impl Fn(A) -> R + 'static) -> Box<dyn Fn(A) -> R> {
        track_inprogress(self, count_exceptions(self, time(self, function)))
    }

    fn seconds(&self) -> f64 {
        self.0.seconds.borrow()[0]
    }
}

/// An error that knows which one it is.
#[derive(Debug)]
struct Numbered(u32);

impl fmt::Display for Numbered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}", self.0)
    }
}

impl Error for Numbered {}

/// Keeps the processor busy: the hooks read real time, and a test must not sleep.
fn work_for(duration: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < duration {
        hint::spin_loop();
    }
}

fn result<T: 'static>(chain: Deferred<T>) -> Result<T> {
    chain.into_result().unwrap_or_else(|chain| panic!("still pending: {}", chain.is_fired()))
}

// ---- chains -----------------------------------------------------------------------------------------

/// Ends a pending chain in some way.
type Ending = fn(Completer<i32>, &Deferred<i32>);

/// Everything that can happen to a chain that is pending when the hook is put on, and whether it is an error.
const ENDINGS: &[(&str, bool, Ending)] = &[
    ("value", false, |end, _| end.callback(7)),
    ("error", true, |end, _| end.errback(Numbered(7))),
    ("abandoned", true, |end, _| drop(end)),
    ("cancelled", true, |_end, tail| tail.cancel()),
    ("cancelled, then fired", true, |end, tail| {
        tail.cancel();
        end.callback(7);
    }),
    ("cancelled twice", true, |_end, tail| {
        tail.cancel();
        tail.cancel();
    }),
    ("fired by its canceller", false, |end, tail| {
        let end = Rc::new(Cell::new(Some(end)));
        let firing = end.clone();
        let outer = end.take().unwrap();
        outer.on_cancel(move || {
            if let Some(end) = firing.take() {
                end.callback(7);
            }
        });
        end.set(Some(outer));
        tail.cancel();
    }),
];

#[test]
fn a_pending_chain_is_accounted_for_when_it_ends() {
    for (what, is_error, ending) in ENDINGS {
        let probe = Probe::default();
        let (end, chain) = Deferred::pair();
        let tail = probe.on(chain);
        assert_eq!(probe.account(), UNDER_WAY, "{what}");
        ending(end, &tail);
        assert_eq!(result(tail).is_err(), *is_error, "{what}");
        assert_eq!(probe.account(), if *is_error { ENDED_BADLY } else { ENDED_WELL }, "{what}");
    }
}

#[test]
fn a_chain_that_waits_for_an_inner_one_is_accounted_for_when_that_ends() {
    for (what, is_error, ending) in ENDINGS {
        let probe = Probe::default();
        let (inner_end, inner) = Deferred::pair();
        let (outer_end, outer) = Deferred::<()>::pair();
        let tail = probe.on(outer.add_callback(move |()| inner));
        outer_end.callback(());
        assert_eq!(probe.account(), UNDER_WAY, "{what}");
        ending(inner_end, &tail);
        assert_eq!(result(tail).is_err(), *is_error, "{what}");
        assert_eq!(probe.account(), if *is_error { ENDED_BADLY } else { ENDED_WELL }, "{what}");
    }
}

#[test]
fn a_chain_that_has_ended_is_accounted_for_at_once() {
    let probe = Probe::default();
    assert_eq!(result(probe.on(Deferred::succeed(7))).unwrap(), 7);
    assert_eq!(probe.account(), ENDED_WELL);
    let probe = Probe::default();
    assert!(result(probe.on(Deferred::<()>::fail(Numbered(7)))).is_err());
    assert_eq!(probe.account(), ENDED_BADLY);
    assert!(probe.seconds() < 1.0);
}

#[test]
fn a_panic_in_a_callback_before_the_hook_counts() {
    let probe = Probe::default();
    let (end, chain) = Deferred::<i32>::pair();
    let tail = probe.on(chain.map(|_| -> i32 { panic!("before the hook") }));
    end.callback(7);
    assert!(result(tail).unwrap_err().is_panic());
    assert_eq!(probe.account(), ENDED_BADLY);
}

#[test]
fn an_error_that_was_handled_before_the_hook_does_not_count() {
    let probe = Probe::default();
    let tail = probe.on(Deferred::<i32>::fail("handled").add_errback(|_| Ok(0)));
    assert_eq!(result(tail).unwrap(), 0);
    assert_eq!(probe.account(), ENDED_WELL);
}

#[test]
fn what_happens_behind_the_hook_is_not_its_concern() {
    let probe = Probe::default();
    let (end, chain) = Deferred::<i32>::pair();
    let looking = probe.clone();
    let tail = probe.on(chain).map(move |_| -> i32 {
        assert_eq!(looking.account(), ENDED_WELL, "it ended before the next callback is called");
        panic!("behind the hook")
    });
    end.callback(7);
    assert!(result(tail).is_err());
    assert_eq!(probe.account(), ENDED_WELL);
}

#[test]
fn a_chain_that_nobody_holds_is_accounted_for_all_the_same() {
    for is_error in [false, true] {
        let probe = Probe::default();
        let (end, chain) = Deferred::<i32>::pair();
        drop(probe.on(chain));
        assert_eq!(probe.account(), UNDER_WAY);
        end.fire(if is_error { Err(Numbered(7).into()) } else { Ok(7) });
        assert_eq!(probe.account(), if is_error { ENDED_BADLY } else { ENDED_WELL });
    }
}

#[test]
fn a_hook_ends_where_it_stands_and_not_with_what_a_chain_is_part_of() {
    // Paused behind the hook: it has ended. Paused before it: it has not.
    let (before, behind) = (Probe::default(), Probe::default());
    let (end, chain) = Deferred::<i32>::pair();
    let (paused, pause) = before.on(chain).pause();
    let tail = behind.on(paused);
    end.callback(7);
    assert_eq!((before.account(), behind.account()), (ENDED_WELL, UNDER_WAY));
    tail.cancel();
    assert_eq!(behind.account(), UNDER_WAY, "a cancellation ends no pause");
    pause.unpause();
    assert_eq!(behind.account(), ENDED_WELL);
    assert_eq!(result(tail).unwrap(), 7);
    // Chained into another one: a cancellation of that does not reach it.
    let probe = Probe::default();
    let (end, chain) = Deferred::<i32>::pair();
    let (other_end, other) = Deferred::pair();
    probe.on(chain).chain_into(other_end);
    other.cancel();
    assert_eq!(probe.account(), UNDER_WAY);
    end.callback(7);
    assert_eq!(probe.account(), ENDED_WELL);
    assert!(result(other).unwrap_err().is::<Cancelled>());
    // Returned from a callback: it is reached by a cancellation of the whole.
    let probe = Probe::default();
    let (_end, chain) = Deferred::<i32>::pair();
    let inner = probe.on(chain);
    let tail = Deferred::succeed(()).add_callback(move |()| inner);
    tail.cancel();
    assert!(result(tail).unwrap_err().is::<Cancelled>());
    assert_eq!(probe.account(), ENDED_BADLY);
    // Part of a race that another one wins.
    let probe = Probe::default();
    let (_end, chain) = Deferred::<i32>::pair();
    let first = race([probe.on(chain), Deferred::succeed(7)]);
    assert_eq!(result(first).unwrap(), (1, 7));
    assert_eq!(probe.account(), ENDED_BADLY);
}

#[test]
fn a_chain_that_is_taken_apart_unfired_is_accounted_for() {
    let probe = Probe::default();
    let reactor = Reactor::builder().metrics(dosimeter::Metrics::Off).build().unwrap();
    drop(probe.on(defer_later(&reactor, Duration::from_secs(3600), || 7)));
    assert_eq!(probe.account(), UNDER_WAY);
    drop(reactor);
    assert_eq!(probe.account(), ENDED_BADLY);
}

#[test]
fn a_hundred_thousand_hooks_on_one_chain_are_accounted_for() {
    let probe = Probe::default();
    let (end, mut chain) = Deferred::<i32>::pair();
    for _ in 0..100_000 {
        chain = probe.on(chain);
    }
    assert_eq!(probe.account().level, 100_000);
    end.callback(7);
    assert_eq!(result(chain).unwrap(), 7);
    assert_eq!(probe.account(), Account { observed: 100_000, counted: 0, raised: 100_000, level: 0 });
}

// ---- functions --------------------------------------------------------------------------------------

#[test]
fn a_function_is_accounted_for_when_it_returns() {
    let probe = Probe::default();
    let function = probe.around(|text: &'static str| Ok::<i32, Failure>(text.parse()?));
    assert_eq!(function("7").unwrap(), 7);
    assert_eq!(probe.account(), ENDED_WELL);
    assert!(function("x").unwrap_err().is::<ParseIntError>());
    assert_eq!(probe.account(), Account { observed: 2, counted: 1, raised: 2, level: 0 });
}

#[test]
fn a_function_may_return_an_error_of_any_type() {
    let probe = Probe::default();
    let function = probe.around(|text: &'static str| text.parse::<i32>());
    assert!(function("x").is_err());
    assert_eq!(probe.account(), ENDED_BADLY);
}

#[test]
fn a_function_that_returns_nothing_cannot_fail() {
    let probe = Probe::default();
    probe.around(|_: ()| ())(());
    assert_eq!(probe.account(), ENDED_WELL);
}

#[test]
fn a_function_that_panics_is_accounted_for_and_the_panic_goes_on() {
    let probe = Probe::default();
    let function = probe.around(|_: ()| -> Result<i32> { panic!("in the function") });
    let payload = panic::catch_unwind(AssertUnwindSafe(|| function(()))).unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"in the function"));
    assert_eq!(probe.account(), ENDED_BADLY);
}

#[test]
fn a_function_that_returns_a_chain_is_accounted_for_when_that_ends() {
    for (what, is_error, ending) in ENDINGS {
        let probe = Probe::default();
        let made = Rc::new(Cell::new(None));
        let making = made.clone();
        let function = probe.around(move |_: ()| {
            let (end, chain) = Deferred::<i32>::pair();
            making.set(Some(end));
            chain
        });
        let tail = function(());
        assert_eq!(probe.account(), UNDER_WAY, "{what}");
        ending(made.take().unwrap(), &tail);
        assert_eq!(result(tail).is_err(), *is_error, "{what}");
        assert_eq!(probe.account(), if *is_error { ENDED_BADLY } else { ENDED_WELL }, "{what}");
    }
}

#[test]
fn functions_of_no_and_of_two_arguments_can_be_hooked() {
    let probe = Probe::default();
    let none = time(&probe, || Ok::<_, Failure>(7));
    let two = time(&probe, |a: i32, b: i32| Ok::<_, Failure>(a + b));
    assert_eq!((none().unwrap(), two(3, 4).unwrap()), (7, 7));
    assert_eq!(probe.account().observed, 2);
}

#[test]
fn calls_of_one_function_are_accounted_for_each_on_its_own() {
    type Function = Box<dyn Fn(u32) -> Result<u32>>;
    let probe = Probe::default();
    let itself: Rc<RefCell<Option<Function>>> = Rc::default();
    let (calling, looking) = (itself.clone(), probe.clone());
    let function = probe.around(move |depth: u32| {
        assert_eq!(looking.account().level, 10 - depth as i32 + 1);
        if depth == 0 { Ok(0) } else { calling.borrow().as_ref().unwrap()(depth - 1) }
    });
    *itself.borrow_mut() = Some(Box::new(function));
    itself.borrow().as_ref().unwrap()(10).unwrap();
    assert_eq!(probe.account(), Account { observed: 11, counted: 0, raised: 11, level: 0 });
    itself.take();
}

#[test]
fn the_answer_of_a_handler_is_accounted_for_when_it_is_there() {
    let probe = Probe::default();
    let app = Router::new();
    app.route("/answered", probe.around(|_: Request| Response::text("x")));
    app.route("/rendered", probe.around(|_: Request| Render::from("x")));
    app.route("/failed", probe.around(|_: Request| -> Result<Response> { Err("x".into()) }));
    app.route("/failed_render", probe.around(|_: Request| Render::from(Err::<&str, _>(Numbered(7)))));
    app.route("/panicked", probe.around(|_: Request| -> Render { panic!("in a handler") }));
    app.route(
        "/later",
        probe.around(|request: Request| Render::from(defer_later(&request.reactor(), Duration::ZERO, || "x"))),
    );
    let server = Server::new(app);
    let mut expected = Account { observed: 0, counted: 0, raised: 0, level: 0 };
    for (path, status) in [
        ("/answered", 200),
        ("/rendered", 200),
        ("/later", 200),
        ("/failed", 500),
        ("/failed_render", 500),
        ("/panicked", 500),
    ] {
        assert_eq!(server.get(path).status, status, "{path}");
        expected.observed += 1;
        expected.raised += 1;
        expected.counted += u32::from(status == 500);
        assert_eq!(probe.account(), expected, "{path}");
    }
}

#[test]
fn a_handler_whose_peer_leaves_is_accounted_for() {
    let probe = Probe::default();
    let app = Router::new();
    app.route("/", probe.around(|request: Request| defer_later(&request.reactor(), Duration::from_secs(3600), || "x")));
    let server = Server::new(app);
    let mut client = server.connect();
    client.send_request("GET", "/");
    server.until_true("it is handled", || probe.account() == UNDER_WAY);
    client.reset();
    server.until_true("it is over", || probe.account() == ENDED_BADLY);
}

// ---- what passes by ---------------------------------------------------------------------------------

#[test]
fn the_value_that_comes_out_is_the_one_that_went_in() {
    let probe = Probe::default();
    let value: Rc<str> = "value".into();
    let out = result(probe.on(Deferred::succeed(value.clone()))).unwrap();
    assert!(Rc::ptr_eq(&value, &out));
    let (kept, function) = (value.clone(), probe.around(|value: Rc<str>| Ok::<_, Failure>(value)));
    assert!(Rc::ptr_eq(&kept, &function(value).unwrap()));
}

#[test]
fn the_failure_that_comes_out_is_the_one_that_went_in() {
    let probe = Probe::default();
    let address = |failure: &Failure| std::ptr::from_ref(failure.error()).cast::<()>();
    for only in [false, true] {
        let failure = Failure::new(Numbered(7));
        let (before, origin) = (address(&failure), failure.origin());
        let chain = Deferred::<i32>::fail(failure);
        // A counter that does not match must not rewrap what it lets pass either.
        let tail = if only { count_exceptions(&probe.only::<io::Error>(), chain) } else { probe.on(chain) };
        let after = result(tail).unwrap_err();
        assert_eq!((address(&after), after.origin()), (before, origin));
    }
}

// ---- what is counted --------------------------------------------------------------------------------

#[test]
fn a_counter_may_be_restricted_to_one_type_of_error() {
    let (numbered, cancelled, panicked) = (Probe::default(), Probe::default(), Probe::default());
    let on = |chain: Deferred<i32>| {
        let chain = count_exceptions(&numbered.only::<Numbered>(), chain);
        let chain = count_exceptions(&cancelled.only::<Cancelled>(), chain);
        count_exceptions(&panicked.only::<Panicked>(), chain)
    };
    let counts = || [&numbered, &cancelled, &panicked].map(|probe| probe.0.counted.get());
    let _ = result(on(Deferred::fail(Numbered(7))));
    assert_eq!(counts(), [1, 0, 0]);
    let (_end, chain) = Deferred::pair();
    let tail = on(chain);
    tail.cancel();
    let _ = result(tail);
    assert_eq!(counts(), [1, 1, 0]);
    let _ = result(on(Deferred::succeed(7).map(|_| panic!("on purpose"))));
    assert_eq!(counts(), [1, 1, 1]);
    let _ = result(on(Deferred::fail("something else")));
    let _ = result(on(Deferred::succeed(7)));
    assert_eq!(counts(), [1, 1, 1]);
}

#[test]
fn a_restriction_sees_the_error_that_the_chain_has_at_its_place() {
    let (cancelled, timed_out, abandoned) = (Probe::default(), Probe::default(), Probe::default());
    let on = |chain: Deferred<i32>| {
        let chain = count_exceptions(&cancelled.only::<Cancelled>(), chain);
        let chain = count_exceptions(&timed_out.only::<TimedOut>(), chain);
        count_exceptions(&abandoned.only::<Abandoned>(), chain)
    };
    let counts = || [&cancelled, &timed_out, &abandoned].map(|probe| probe.0.counted.get());
    let clock = Clock::new();
    let second = Duration::from_secs(1);
    let (end, chain) = Deferred::pair();
    let behind = on(chain.add_timeout(second, &clock));
    let (other_end, chain) = Deferred::pair();
    let before = on(chain).add_timeout(second, &clock);
    clock.advance(second);
    assert!(result(behind).unwrap_err().is::<TimedOut>());
    assert!(result(before).unwrap_err().is::<TimedOut>());
    assert_eq!(counts(), [1, 1, 0], "before its timeout a chain is cancelled, behind it it has timed out");
    drop((end, other_end));
    let (end, chain) = Deferred::pair();
    let chain = on(chain);
    drop(end);
    assert!(result(chain).unwrap_err().is::<Abandoned>());
    assert_eq!(counts(), [1, 1, 1]);
}

#[test]
fn a_restriction_holds_for_functions_and_their_panics() {
    let (numbered, panicked) = (Probe::default(), Probe::default());
    let function = |text: &'static str| match text {
        "panic" => panic!("on purpose"),
        "numbered" => Err(Failure::new(Numbered(7))),
        other => Ok(other.parse::<i32>()?),
    };
    let function =
        count_exceptions(&panicked.only::<Panicked>(), count_exceptions(&numbered.only::<Numbered>(), function));
    for text in ["7", "x", "numbered", "panic"] {
        let _ = panic::catch_unwind(AssertUnwindSafe(|| function(text)));
    }
    assert_eq!((numbered.0.counted.get(), panicked.0.counted.get()), (1, 1));
}

#[test]
fn two_restrictions_let_nothing_pass() {
    let probe = Probe::default();
    let neither = probe.only::<Numbered>().only::<io::Error>();
    let _ = result(count_exceptions(&neither, Deferred::<i32>::fail(Numbered(7))));
    let _ = result(count_exceptions(&neither, Deferred::<i32>::fail(io::Error::other("x"))));
    assert_eq!(probe.0.counted.get(), 0);
}

#[test]
fn a_counter_may_be_restricted_by_a_predicate() {
    let (probe, io) = (Probe::default(), Probe::default());
    let wanted = probe.only_if(|error| !error.is::<Cancelled>());
    let timed_out = io.only_if(|error| {
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
    });
    let on = |chain: Deferred<i32>| result(count_exceptions(&timed_out, count_exceptions(&wanted, chain)));
    let (end, chain) = Deferred::pair();
    chain.cancel();
    assert!(on(chain).unwrap_err().is::<Cancelled>());
    drop(end);
    assert_eq!((probe.0.counted.get(), io.0.counted.get()), (0, 0));
    assert!(on(Deferred::fail(io::Error::from(io::ErrorKind::TimedOut))).is_err());
    assert!(on(Deferred::fail(io::Error::from(io::ErrorKind::NotFound))).is_err());
    assert!(on(Deferred::succeed(7)).is_ok());
    assert_eq!((probe.0.counted.get(), io.0.counted.get()), (2, 1));
}

#[test]
fn a_predicate_may_accept_several_types() {
    let probe = Probe::default();
    let either = probe.only_if(|error| error.is::<Numbered>() || error.is::<ParseIntError>());
    let function = count_exceptions(&either, |text: &'static str| match text {
        "numbered" => Err(Failure::new(Numbered(7))),
        "other" => Err("other".into()),
        number => Ok(number.parse::<i32>()?),
    });
    let _ = ["7", "x", "numbered", "other"].map(|text| function(text).is_ok());
    assert_eq!(probe.0.counted.get(), 2);
}

#[test]
fn a_predicate_and_a_type_let_pass_what_suits_both() {
    let probe = Probe::default();
    let large = probe.only::<Numbered>().only_if(|error| error.to_string() == "error 7");
    for number in [6, 7] {
        assert!(result(count_exceptions(&large, Deferred::<i32>::fail(Numbered(number)))).is_err());
    }
    assert!(result(count_exceptions(&large, Deferred::<i32>::fail("error 7"))).is_err());
    assert_eq!(probe.0.counted.get(), 1);
}

#[test]
fn a_predicate_is_asked_of_the_errors_that_are_left_to_it() {
    let (probe, asked) = (Probe::default(), Rc::new(RefCell::new(Vec::new())));
    let noting = asked.clone();
    let seven = probe.only::<Numbered>().only_if(move |error| {
        noting.borrow_mut().push(error.to_string());
        error.to_string() == "error 7"
    });
    let noting = asked.clone();
    let seven = seven.only_if(move |error| {
        noting.borrow_mut().push(format!("again: {error}"));
        true
    });
    for chain in [Deferred::<i32>::fail("another"), Deferred::fail(Numbered(7)), Deferred::fail(Numbered(8))] {
        assert!(result(count_exceptions(&seven, chain)).is_err());
    }
    assert_eq!(*asked.borrow(), ["error 7", "again: error 7", "error 8"]);
    assert_eq!(probe.0.counted.get(), 1);
}

#[test]
fn a_predicate_that_panics_costs_its_own_figure_only() {
    let probe = Probe::default();
    let broken = probe.only_if(|_| panic!("a broken predicate"));
    assert!(result(count_exceptions(&broken, Deferred::<i32>::fail(Numbered(7)))).unwrap_err().is::<Numbered>());
    assert_eq!(probe.0.counted.get(), 0);
}

#[test]
fn what_was_torn_down_without_an_error_has_a_type_all_the_same() {
    let (cancelled, panicked) = (Probe::default(), Probe::default());
    let hooks =
        Hooks::new().count_exceptions(&cancelled.only::<Cancelled>()).count_exceptions(&panicked.only::<Panicked>());
    drop(hooks.wrap(Async(std::future::pending::<()>())));
    assert_eq!((cancelled.0.counted.get(), panicked.0.counted.get()), (1, 0));
    let function = hooks.wrap(|| -> i32 { panic!("on purpose") });
    assert!(panic::catch_unwind(AssertUnwindSafe(function)).is_err());
    assert_eq!((cancelled.0.counted.get(), panicked.0.counted.get()), (1, 1));
}

// ---- several hooks as one -----------------------------------------------------------------------------

#[test]
fn several_hooks_of_a_kind_may_be_put_on_as_one() {
    let (all, numbered, seconds) = (Probe::default(), Probe::default(), Probe::default());
    let hooks =
        Hooks::new().count_exceptions(&all).count_exceptions(&numbered.only::<Numbered>()).time(&all).time(&seconds);
    assert!(result(hooks.attach(Deferred::<i32>::fail(Numbered(7)))).is_err());
    assert!(result(hooks.attach(Deferred::<i32>::fail("other"))).is_err());
    assert_eq!((all.0.counted.get(), numbered.0.counted.get()), (2, 1));
    assert_eq!((all.account().observed, seconds.account().observed), (2, 2));
}

#[test]
fn no_hooks_do_nothing() {
    assert_eq!(result(Hooks::new().attach(Deferred::succeed(7))).unwrap(), 7);
    assert_eq!(Hooks::new().wrap(|number: i32| number)(7), 7);
}

#[test]
fn one_of_several_that_panics_costs_its_own_figure_only() {
    let probe = Probe::default();
    let hooks = Hooks::new().time(&Broken).time(&probe).count_exceptions(&Broken).count_exceptions(&probe);
    let hooks = hooks.track_inprogress(&Broken).track_inprogress(&probe);
    assert!(result(hooks.attach(Deferred::<i32>::fail(Numbered(7)))).unwrap_err().is::<Numbered>());
    assert_eq!(probe.account(), ENDED_BADLY);
}

// ---- what prometheus_async does differently -----------------------------------------------------------

#[test]
fn a_function_that_fails_before_it_waits_is_observed_like_one_that_fails_later() {
    let probe = Probe::default();
    let function = time(&probe, |at_once: bool| match at_once {
        true => panic!("at once"),
        false => Deferred::<i32>::fail(Numbered(7)),
    });
    assert!(panic::catch_unwind(AssertUnwindSafe(|| function(true))).is_err());
    assert!(result(function(false)).is_err());
    assert_eq!(probe.account().observed, 2);
}

#[test]
fn a_counter_without_restriction_counts_failing_chains() {
    let probe = Probe::default();
    assert!(result(count_exceptions(&probe, Deferred::<i32>::fail(Numbered(7)))).is_err());
    assert!(result(count_exceptions(&probe, Deferred::<i32>::fail("any"))).is_err());
    assert_eq!(probe.0.counted.get(), 2);
}

#[test]
fn a_gauge_comes_down_when_a_function_fails_before_it_waits() {
    let probe = Probe::default();
    let function = track_inprogress(&probe, || -> Deferred<i32> { panic!("at once") });
    for _ in 0..3 {
        assert!(panic::catch_unwind(AssertUnwindSafe(&function)).is_err());
    }
    assert_eq!((probe.0.raised.get(), probe.0.level.get()), (3, 0));
}

#[test]
fn an_async_function_is_measured_to_its_end_and_not_to_its_first_wait() {
    let probe = Probe::default();
    let reactor = Reactor::builder().metrics(dosimeter::Metrics::Off).build().unwrap();
    let (end, chain) = Deferred::<i32>::pair();
    let chain = Cell::new(Some(chain));
    let hooks = Hooks::new().time(&probe).count_exceptions(&probe).track_inprogress(&probe);
    let function = hooks.wrap(Async(async move || chain.take().unwrap().await));
    let task = reactor.spawn(function());
    work_for(Duration::from_millis(20));
    assert_eq!(probe.account(), UNDER_WAY);
    end.errback(Numbered(7));
    assert!(result(task).unwrap_err().is::<Numbered>());
    assert_eq!(probe.account(), ENDED_BADLY);
    assert!(probe.seconds() >= 0.020, "{} s", probe.seconds());
}

#[test]
fn an_async_function_is_measured_from_its_call() {
    let probe = Probe::default();
    let reactor = Reactor::builder().metrics(dosimeter::Metrics::Off).build().unwrap();
    let function = time(&probe, Async(async || 7));
    let future = function();
    work_for(Duration::from_millis(20));
    assert_eq!(result(reactor.spawn(async { Ok(future.await) })).unwrap(), 7);
    assert!(probe.seconds() >= 0.020, "{} s", probe.seconds());
}

// ---- what is timed ----------------------------------------------------------------------------------

#[test]
fn time_covers_what_was_added_before_and_nothing_added_after() {
    const WORK: Duration = Duration::from_millis(20);
    let probe = Probe::default();
    let (end, chain) = Deferred::<()>::pair();
    let tail = time(&probe, chain.map(|()| work_for(WORK))).map(|()| work_for(10 * WORK));
    end.callback(());
    result(tail).unwrap();
    let seconds = probe.seconds();
    assert!((0.020..0.200).contains(&seconds), "{seconds} s");
}

#[test]
fn time_begins_when_the_hook_is_put_on() {
    let probe = Probe::default();
    let (end, chain) = Deferred::<()>::pair();
    let tail = time(&probe, chain);
    work_for(Duration::from_millis(20));
    end.callback(());
    result(tail).unwrap();
    assert!(probe.seconds() >= 0.020, "{} s", probe.seconds());
}

// ---- kinds of metrics -------------------------------------------------------------------------------

static SECONDS: LazyLock<Histogram> = LazyLock::new(|| histogram("static_seconds"));
static ERRORS: LazyLock<IntCounter> = LazyLock::new(|| IntCounter::new("static_errors", "x").unwrap());
static LEVEL: LazyLock<IntGauge> = LazyLock::new(|| IntGauge::new("static_level", "x").unwrap());

fn histogram(name: &str) -> Histogram {
    Histogram::with_opts(HistogramOpts::new(name, "x")).unwrap()
}

#[test]
fn a_metric_in_a_static_is_given_by_reference() {
    let (end, chain) = Deferred::<i32>::pair();
    let tail = track_inprogress(&LEVEL, count_exceptions(&ERRORS, time(&SECONDS, chain)));
    assert_eq!(LEVEL.get(), 1);
    end.errback("x");
    assert!(result(tail).is_err());
    let function =
        track_inprogress(&LEVEL, count_exceptions(&ERRORS, time(&SECONDS, || Ok::<_, Failure>(LEVEL.get()))));
    assert_eq!(function().unwrap(), 1);
    assert_eq!((SECONDS.get_sample_count(), ERRORS.get(), LEVEL.get()), (2, 1, 0));
    let only = count_exceptions(&ERRORS.only::<Numbered>(), Deferred::<i32>::fail(Numbered(7)));
    assert!(result(only).is_err());
    assert_eq!(ERRORS.get(), 2);
}

#[test]
fn a_metric_of_ones_own_is_given_by_reference_and_may_be_dropped_before_the_end() {
    let (seconds, errors, level) = (histogram("own"), Counter::new("c", "x").unwrap(), Gauge::new("g", "x").unwrap());
    let kept = (seconds.clone(), errors.clone(), level.clone());
    let (end, chain) = Deferred::<i32>::pair();
    let tail = track_inprogress(&level, count_exceptions(&errors, time(&seconds, chain)));
    drop((seconds, errors, level));
    assert_eq!(kept.2.get(), 1.0);
    end.errback("x");
    assert!(result(tail).is_err());
    assert_eq!((kept.0.get_sample_count(), kept.1.get(), kept.2.get()), (1, 1.0, 0.0));
}

#[test]
fn a_reference_that_lives_for_ever_is_a_metric_as_well() {
    let level: &'static IntGauge = Box::leak(Box::new(IntGauge::new("leaked", "x").unwrap()));
    let tail = track_inprogress(level, Deferred::succeed(7));
    assert_eq!((result(tail).unwrap(), level.get()), (7, 0));
    let tail = track_inprogress(&level, Deferred::succeed(7));
    assert_eq!((result(tail).unwrap(), level.get()), (7, 0));
}

#[test]
fn a_local_histogram_tells_the_shared_one() {
    let shared = histogram("shared");
    let local = shared.local();
    let (end, chain) = Deferred::<i32>::pair();
    let tail = time(&local, chain);
    end.callback(7);
    result(tail).unwrap();
    drop(local);
    assert_eq!(shared.get_sample_count(), 1);
}

// ---- metrics that misbehave -------------------------------------------------------------------------

/// A metric all of whose methods panic.
#[derive(Clone)]
struct Broken;

impl Observer for Broken {
    fn observe(&self, _: f64) {
        panic!("a broken histogram");
    }
}

impl Incrementer for Broken {
    fn inc(&self) {
        panic!("a broken counter");
    }
}

impl dosimeter::Gauge for Broken {
    fn inc(&self) {
        panic!("a broken gauge");
    }

    fn dec(&self) {
        panic!("a broken gauge");
    }
}

#[test]
fn a_metric_that_panics_costs_its_own_figure_only() {
    let on = |chain| track_inprogress(&Broken, count_exceptions(&Broken, time(&Broken, chain)));
    assert_eq!(result(on(Deferred::succeed(7))).unwrap(), 7);
    let (end, chain) = Deferred::pair();
    let tail = on(chain);
    end.errback(Numbered(7));
    assert!(result(tail).unwrap_err().is::<Numbered>());
    let function = |_: ()| -> Result<i32> { panic!("in the function") };
    let function = track_inprogress(&Broken, count_exceptions(&Broken, time(&Broken, function)));
    let payload = panic::catch_unwind(AssertUnwindSafe(|| function(()))).unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"in the function"), "and not the panic of a metric");
}

/// A metric that notes what it is told and cannot be dropped without a panic, but for those that the test itself holds.
#[derive(Default)]
struct Cursed(Probe, bool);

impl Clone for Cursed {
    fn clone(&self) -> Self {
        Cursed(self.0.clone(), true)
    }
}

impl Drop for Cursed {
    fn drop(&mut self) {
        assert!(!self.1, "a cursed metric");
    }
}

impl Observer for Cursed {
    fn observe(&self, seconds: f64) {
        self.0.observe(seconds);
    }
}

impl Incrementer for Cursed {
    fn inc(&self) {
        Incrementer::inc(&self.0);
    }
}

impl dosimeter::Gauge for Cursed {
    fn inc(&self) {
        dosimeter::Gauge::inc(&self.0);
    }

    fn dec(&self) {
        self.0.dec();
    }
}

#[test]
fn a_metric_that_panics_when_it_is_dropped_costs_nothing() {
    // The hooks keep clones of their own, for a chain and for each call, which are what is dropped at the end.
    let cursed: &'static Cursed = Box::leak(Box::default());
    let hooks = Hooks::new().time::<Cursed>(cursed).count_exceptions::<Cursed>(cursed);
    let hooks: &'static _ = Box::leak(Box::new(hooks.track_inprogress::<Cursed>(cursed)));
    let (end, chain) = Deferred::<i32>::pair();
    let tail = hooks.attach(chain);
    assert_eq!(cursed.0.account(), UNDER_WAY);
    end.callback(7);
    assert_eq!(result(tail).unwrap(), 7, "and not the panic of a metric");
    assert_eq!(cursed.0.account(), ENDED_WELL);
    let task = hooks.attach(Deferred::<i32>::fail(Numbered(7)));
    assert!(result(task).unwrap_err().is::<Numbered>());
    let function: &'static _ = Box::leak(Box::new(hooks.wrap(|| -> Result<i32> { panic!("in the function") })));
    let payload = panic::catch_unwind(AssertUnwindSafe(function)).unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"in the function"), "three panics in an unwinding end no program");
    assert_eq!(cursed.0.account(), Account { observed: 3, counted: 2, raised: 3, level: 0 });
}

#[test]
fn a_metric_may_do_anything_to_the_chain_it_measures() {
    /// Fires, cancels and adds to chains from inside `observe`.
    #[derive(Clone)]
    struct Meddling(Rc<Tools>);
    struct Tools {
        other_end: Cell<Option<Completer<i32>>>,
        other: Cell<Option<Deferred<i32>>>,
        reactor: Reactor,
    }
    impl Observer for Meddling {
        fn observe(&self, _: f64) {
            if let Some(end) = self.0.other_end.take() {
                end.callback(7);
            }
            if let Some(other) = self.0.other.take() {
                let other = time(self, other.map(|value| value + 1));
                other.cancel();
                self.0.other.set(Some(other));
            }
            self.0.reactor.call_soon(|| ());
        }
    }
    let reactor = Reactor::builder().metrics(dosimeter::Metrics::Off).build().unwrap();
    let (other_end, other) = Deferred::pair();
    let tools = Rc::new(Tools { other_end: Cell::new(Some(other_end)), other: Cell::new(Some(other)), reactor });
    let tail = time(&Meddling(tools.clone()), Deferred::succeed(1));
    assert_eq!(result(tail).unwrap(), 1);
    let other = tools.other.take().map(result);
    assert!(other.is_none_or(|other| other.is_ok()));
}
