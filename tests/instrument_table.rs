//! What can happen, times where a hook can be put, times the hooks: each of the several hundred cases is accounted for once.
//!
//! A case fails with its three names. What each kind of subject and metric does beyond that is in `instrument.rs`.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::testing::Clock;
use dosimeter::{
    Async, Completer, Deferred, Failure, Gauge, Hooks, Incrementer, Metrics, Observer, Reactor, Result, Subject,
    count_exceptions, defer_later, time, track_inprogress,
};

// ---- the table --------------------------------------------------------------------------------------

/// Where hooks are put on a chain that is pending: given the chain, what comes out of them.
const PLACES: &[(&str, Put)] = &[
    ("on a chain", |hooks, chain| hooks.on(chain)),
    ("on a chain that waits for another", |hooks, chain| {
        let (end, outer) = Deferred::<()>::pair();
        let tail = hooks.on(outer.add_callback(move |()| chain));
        end.callback(());
        tail
    }),
    ("around a function that returns a chain", |hooks, chain| {
        let chain = Cell::new(Some(chain));
        hooks.on(move |_: ()| chain.take().unwrap())(())
    }),
    ("around an async function", |hooks, chain| {
        let chain = Rc::new(Cell::new(Some(chain)));
        let function = async move |_: ()| chain.take().unwrap().await;
        hooks.reactor.spawn(hooks.on(Async(function))(()))
    }),
    ("around a function that returns a future", |hooks, chain| {
        let chain = Rc::new(Cell::new(Some(chain)));
        let function = move || std::future::ready(chain.take().unwrap());
        let task = hooks.on(Async(function))();
        hooks.reactor.spawn(async move { Ok(task.await) }).add_callback(|chain| chain)
    }),
    ("around a future", |hooks, chain| hooks.reactor.spawn(hooks.on(Async(chain)))),
    ("in a task", |hooks, chain| {
        let hooked = hooks.on(chain);
        hooks.reactor.spawn(hooked)
    }),
];

/// What can become of a pending chain, and what a hook on it makes of that.
const FATES: &[(&str, Outcome, Fate)] = &[
    ("value", Well, |end, tail| {
        end.callback(7);
        assert_eq!(result(tail).unwrap(), 7);
    }),
    ("error", Badly, |end, tail| {
        end.errback(Numbered(7));
        assert!(result(tail).unwrap_err().downcast_ref::<Numbered>().is_some_and(|error| error.0 == 7));
    }),
    ("a callback before the hook panics", Badly, |end, tail| {
        end.callback(PANIC);
        assert!(result(tail).unwrap_err().is_panic());
    }),
    ("a callback before the hook fails", Badly, |end, tail| {
        end.callback(FAIL);
        assert!(result(tail).unwrap_err().is::<Numbered>());
    }),
    ("an error is handled before the hook", Well, |end, tail| {
        end.errback("to be handled");
        assert_eq!(result(tail).unwrap(), 0);
    }),
    ("abandoned", Badly, |end, tail| {
        drop(end);
        assert!(result(tail).is_err());
    }),
    ("cancelled", Badly, |_end, tail| {
        tail.cancel();
        assert!(result(tail).is_err());
    }),
    ("cancelled, then fired", Badly, |end, tail| {
        tail.cancel();
        end.callback(7);
        assert!(result(tail).is_err());
    }),
    ("cancelled twice", Badly, |_end, tail| {
        tail.cancel();
        tail.cancel();
        assert!(result(tail).is_err());
    }),
    ("fired by its canceller", Well, |end, tail| {
        let end = Rc::new(Cell::new(Some(end)));
        let firing = end.clone();
        let outer = end.take().unwrap();
        outer.on_cancel(move || firing.take().unwrap().callback(7));
        end.set(Some(outer));
        tail.cancel();
        assert_eq!(result(tail).unwrap(), 7);
    }),
    ("timed out", Badly, |_end, tail| {
        let clock = Clock::new();
        let tail = tail.add_timeout(Duration::from_secs(1), &clock);
        clock.advance(Duration::from_secs(1));
        assert!(result(tail).unwrap_err().is::<dosimeter::TimedOut>());
    }),
    ("in time", Well, |end, tail| {
        let clock = Clock::new();
        let tail = tail.add_timeout(Duration::from_secs(1), &clock);
        end.callback(7);
        clock.advance(Duration::from_secs(1));
        assert_eq!(result(tail).unwrap(), 7);
    }),
    ("value, and nobody there", Well, |end, tail| {
        drop(tail);
        end.callback(7);
    }),
    ("error, and nobody there", Badly, |end, tail| {
        drop(tail);
        end.errback(Numbered(7));
    }),
    ("abandoned, and nobody there", Badly, |end, tail| {
        drop(tail);
        drop(end);
    }),
    ("a callback behind the hook panics", Well, |end, tail| {
        let tail = tail.map(|_| -> i32 { panic!("behind the hook") });
        end.callback(7);
        assert!(result(tail).is_err());
    }),
    ("a callback behind the hook waits for ever", Well, |end, tail| {
        let (_never, waiting) = Deferred::<i32>::pair();
        let tail = tail.add_callback(move |_| waiting);
        end.callback(7);
        assert!(!tail.is_fired());
    }),
    ("nothing yet", UnderWay, |end, tail| {
        assert!(!tail.is_fired());
        KEPT.with_borrow_mut(|kept| kept.push((end, tail)));
    }),
];

/// What else can be hooked, and what can become of it.
const OTHERS: &[(&str, Outcome, Run)] = &[
    ("a chain that has its value", Well, |hooks| {
        assert_eq!(result(hooks.on(Deferred::succeed(7))).unwrap(), 7);
    }),
    ("a chain that has failed", Badly, |hooks| {
        assert!(result(hooks.on(Deferred::<i32>::fail(Numbered(7)))).is_err());
    }),
    ("a chain that is taken down with its reactor", Badly, |hooks| {
        let reactor = Reactor::builder().metrics(Metrics::Off).build().unwrap();
        drop(hooks.on(defer_later(&reactor, Duration::from_secs(3600), || 7)));
        drop(reactor);
    }),
    ("a function that returns a value", Well, |hooks| {
        assert_eq!(hooks.on(|number: i32| number + 1)(6), 7);
    }),
    ("a function that returns nothing", Well, |hooks| hooks.on(|| ())()),
    ("a function that returns a text", Well, |hooks| assert_eq!(hooks.on(|_: i32| "text")(7), "text")),
    ("a function that returns no value of two", Well, |hooks| {
        assert_eq!(hooks.on(|_: i32, _: i32| None::<String>)(1, 2), None);
    }),
    ("a function that succeeds", Well, |hooks| {
        assert_eq!(hooks.on(|| Ok::<_, Failure>(7))().unwrap(), 7);
    }),
    ("a function that fails", Badly, |hooks| {
        assert!(hooks.on(|| Err::<i32, _>(Failure::new(Numbered(7))))().unwrap_err().is::<Numbered>());
    }),
    ("a function that fails with an error of its own", Badly, |hooks| {
        assert_eq!(hooks.on(|| Err::<i32, _>(Numbered(7)))().unwrap_err().0, 7);
    }),
    ("a function that panics", Badly, |hooks| {
        let function = hooks.on(|_: ()| -> i32 { panic!("in the function") });
        assert!(panic::catch_unwind(AssertUnwindSafe(|| function(()))).is_err());
    }),
    ("a function that should return a chain and panics", Badly, |hooks| {
        let function = hooks.on(|| -> Deferred<i32> { panic!("in the function") });
        assert!(panic::catch_unwind(AssertUnwindSafe(function)).is_err());
    }),
    ("an async function that panics at once", Badly, |hooks| {
        let function = hooks.on(Async(async || -> Result<i32> { panic!("in the function") }));
        assert!(result(hooks.reactor.spawn(function())).unwrap_err().is_panic());
    }),
    ("an async function that does not wait", Well, |hooks| {
        let function = hooks.on(Async(async |one: i32, two: i32| one + two));
        let sum = function(3, 4);
        assert_eq!(result(hooks.reactor.spawn(async { Ok(sum.await) })).unwrap(), 7);
    }),
    ("an async function whose future is never run", Badly, |hooks| {
        let function = hooks.on(Async(async || -> Result<i32> { unreachable!("nobody awaits it") }));
        drop(function());
    }),
    ("an async function whose future is dropped while it waits", Badly, |hooks| {
        let function = hooks.on(Async(async || -> Result<i32> { std::future::pending().await }));
        let task = hooks.reactor.spawn(function());
        task.cancel();
        assert!(result(task).unwrap_err().is::<dosimeter::Cancelled>());
    }),
    ("an async function that survives a cancellation", Well, |hooks| {
        let (_never, waiting) = Deferred::<i32>::pair();
        let waiting = Rc::new(Cell::new(Some(waiting)));
        let function = hooks.on(Async(async move || Ok::<_, Failure>(waiting.take().unwrap().await.unwrap_or(7))));
        let task = hooks.reactor.spawn(function());
        task.cancel();
        assert_eq!(result(task).unwrap(), 7);
    }),
    ("an async function that is taken down with its reactor", Badly, |hooks| {
        let reactor = Reactor::builder().metrics(Metrics::Off).build().unwrap();
        let function = hooks.on(Async(async || -> Result<i32> { std::future::pending().await }));
        drop(reactor.spawn(function()));
        drop(reactor);
    }),
    ("a future that is never run", Badly, |hooks| drop(hooks.on(Async(async { 7 })))),
    ("a future of a value", Well, |hooks| {
        let future = hooks.on(Async(async { 7 }));
        assert_eq!(result(hooks.reactor.spawn(async { Ok(future.await) })).unwrap(), 7);
    }),
];

#[test]
fn whatever_happens_is_accounted_for_once() {
    let mut cases = 0;
    for which in [Time, CountExceptions, TrackInprogress, AllAsOne] {
        for (place, put) in PLACES {
            for (what, outcome, fate) in FATES {
                check(&format!("{which:?} {place}: {what}"), which, *outcome, |hooks| {
                    let (end, chain) = base();
                    let tail = put(hooks, chain);
                    assert_eq!(hooks.probe.account(), which.account(UnderWay), "{which:?} {place}: {what}: before");
                    fate(end, tail);
                });
                cases += 1;
            }
        }
        for (what, outcome, run) in OTHERS {
            check(&format!("{which:?}: {what}"), which, *outcome, run);
            cases += 1;
        }
    }
    assert!(cases > 500, "{cases}: where is the rest?");
}

#[track_caller]
fn check(case: &str, which: Which, outcome: Outcome, run: impl FnOnce(&Applied)) {
    let reactor = Reactor::builder().metrics(Metrics::Off).build().unwrap();
    let hooks = Applied { which, probe: Probe::default(), reactor };
    if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| run(&hooks))) {
        eprintln!("in the case {case}:");
        panic::resume_unwind(panic);
    }
    assert_eq!(hooks.probe.account(), which.account(outcome), "{case}");
    // What is under way is over when everything is torn down, and then it is accounted for as well.
    KEPT.take();
    let end = if outcome == UnderWay { Badly } else { outcome };
    assert_eq!(hooks.probe.account(), which.account(end), "{case}: when torn down");
}

// ---- below ------------------------------------------------------------------------------------------

/// What a hook should make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Well,
    Badly,
    UnderWay,
}
use Outcome::{Badly, UnderWay, Well};

type Put = fn(&Applied, Deferred<i32>) -> Deferred<i32>;
type Fate = fn(Completer<i32>, Deferred<i32>);
type Run = fn(&Applied);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Time,
    CountExceptions,
    TrackInprogress,
    AllAsOne,
}
use Which::{AllAsOne, CountExceptions, Time, TrackInprogress};

impl Which {
    /// What the probe has noted if the only hook is this one.
    fn account(self, outcome: Outcome) -> Account {
        let (times, counts, tracks) = (self == Time, self == CountExceptions, self == TrackInprogress);
        let all = self == AllAsOne;
        let ended = outcome != UnderWay;
        Account {
            observed: u32::from((times || all) && ended),
            counted: u32::from((counts || all) && outcome == Badly),
            raised: u32::from(tracks || all),
            level: i32::from((tracks || all) && !ended),
        }
    }
}

/// The hooks of one case.
struct Applied {
    which: Which,
    probe: Probe,
    reactor: Reactor,
}

impl Applied {
    fn on<S: Subject<K>, K>(&self, subject: S) -> S::Output {
        let probe = &self.probe;
        match self.which {
            Time => time(probe, subject),
            CountExceptions => count_exceptions(probe, subject),
            TrackInprogress => track_inprogress(probe, subject),
            AllAsOne => Hooks::new().time(probe).count_exceptions(probe).track_inprogress(probe).wrap(subject),
        }
    }
}

/// A metric that is all three kinds at once and notes every call.
#[derive(Clone, Default)]
struct Probe(Rc<Cell<Account>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Account {
    observed: u32,
    counted: u32,
    raised: u32,
    level: i32,
}

impl Probe {
    fn account(&self) -> Account {
        self.0.get()
    }

    fn note(&self, change: impl FnOnce(&mut Account)) {
        let mut account = self.0.get();
        change(&mut account);
        self.0.set(account);
    }
}

impl Observer for Probe {
    fn observe(&self, seconds: f64) {
        assert!((0.0..3600.0).contains(&seconds));
        self.note(|account| account.observed += 1);
    }
}

impl Incrementer for Probe {
    fn inc(&self) {
        self.note(|account| account.counted += 1);
    }
}

impl Gauge for Probe {
    fn inc(&self) {
        self.note(|account| (account.raised, account.level) = (account.raised + 1, account.level + 1));
    }

    fn dec(&self) {
        self.note(|account| account.level -= 1);
    }
}

/// A pending chain with callbacks of its own, which fail on some numbers and handle some errors.
fn base() -> (Completer<i32>, Deferred<i32>) {
    let (end, chain) = Deferred::pair();
    let chain = chain.add_callback(|number: i32| match number {
        PANIC => panic!("before the hook"),
        FAIL => Err(Failure::new(Numbered(number))),
        number => Ok(number),
    });
    let chain = chain.add_errback(|failure| match failure.to_string() == "to be handled" {
        true => Ok(0),
        false => Err(failure),
    });
    (end, chain)
}

/// An error that knows which one it is.
#[derive(Debug)]
struct Numbered(i32);

impl fmt::Display for Numbered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}", self.0)
    }
}

impl Error for Numbered {}

fn result<T: 'static>(chain: Deferred<T>) -> Result<T> {
    chain.into_result().unwrap_or_else(|chain| panic!("still pending: {}", chain.is_fired()))
}

thread_local! {
    /// What is to be neither fired nor dropped for now.
    static KEPT: RefCell<Vec<(Completer<i32>, Deferred<i32>)>> = const { RefCell::new(Vec::new()) };
}

const PANIC: i32 = -1;
const FAIL: i32 = -2;
