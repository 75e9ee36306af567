//! The hooks [`time`], [`count_exceptions`] and [`track_inprogress`], and several of them as one: [`Hooks`].
//!
//! Rules kept here:
//! - What a hook began it ends exactly once, on every path: value, error, panic, cancellation, a chain or future dropped
//!   unfinished. The end is a `Drop`, so no path can be forgotten.
//! - Values and failures pass through untouched: the same object comes out that went in.

mod capped;
mod hook;
mod metric;
mod subject;

use std::fmt;

pub use self::capped::Capped;
pub use self::hook::Hook;
pub(crate) use self::hook::{Counting, Running, Stopwatch, Timing, Tracking};
pub use self::metric::{AsMetric, Gauge, Incrementer, Observer, Only, OnlyIf};
pub use self::subject::{Async, Measured, Outcome, Subject};

use crate::deferred::Deferred;

/// Records how long something takes, in seconds.
///
/// Given a chain, the time from now until the chain comes to this place, whatever with, and returns the chain: it covers
/// what was added before and nothing added after. Given a function, it returns one that does the same and records each call,
/// up to the end of the chain it returns.
///
/// An error, a panic and an abandoned chain are recorded as well. Time is real time, also where timers run on a
/// [clock](crate::testing::Clock) of a test.
///
/// A function that answers requests is measured until it has its answer, which is at once if it answers later through the
/// request ([`NOT_DONE_YET`](crate::web::NOT_DONE_YET)). To the end of the answer they are measured by
/// [`Route::instrument`](crate::web::Route::instrument) and [`Instrumented`](crate::web::Instrumented).
///
/// ```
/// use dosimeter::{Deferred, Failure, time};
/// use prometheus::{Histogram, HistogramOpts};
///
/// let seconds = Histogram::with_opts(HistogramOpts::new("work_seconds", "time spent working")).unwrap();
///
/// let (completer, work) = Deferred::pair();
/// let work = time(&seconds, work.map(|number: i32| number + 1));
/// completer.callback(1);
///
/// let parse = time(&seconds, |text: &'static str| Ok::<i32, Failure>(text.parse()?));
/// assert!(parse("x").is_err());
/// assert_eq!(seconds.get_sample_count(), 2);
/// ```
pub fn time<M, S, K>(metric: impl AsMetric<M>, subject: S) -> S::Output
where
    M: Observer,
    S: Subject<K>,
{
    subject.hook(Timing(metric.to_metric()))
}

/// Counts failures.
///
/// Given a chain, the failure that comes to this place in it, and returns the chain. Given a function, it returns one that
/// does the same and counts each call that fails. Panics count, and so do cancellations and abandoned chains.
///
/// [`Incrementer::only`] restricts it to one type of error. (In prometheus_async the default counts no failing Deferred at
/// all; this one counts what its documentation promises.)
///
/// ```
/// use dosimeter::{Deferred, Failure, count_exceptions};
/// use prometheus::IntCounter;
///
/// let errors = IntCounter::new("errors_total", "what went wrong").unwrap();
///
/// let failed = count_exceptions(&errors, Deferred::<i32>::fail("out of tea"));
/// assert_eq!(failed.add_errback(|_| Ok(0)).into_result().unwrap().unwrap(), 0);
///
/// let parse = count_exceptions(&errors, |text: &'static str| Ok::<i32, Failure>(text.parse()?));
/// assert!(parse("1").is_ok() && parse("x").is_err());
/// assert_eq!(errors.get(), 2);
/// ```
pub fn count_exceptions<M, S, K>(metric: impl AsMetric<M>, subject: S) -> S::Output
where
    M: Incrementer,
    S: Subject<K>,
{
    subject.hook(Counting(metric.to_metric()))
}

/// Keeps a gauge up while something is in progress.
///
/// Given a chain, it raises the gauge now and lowers it when the chain comes to this place, and returns the chain. Given a
/// function, it returns one that does the same around each call. The gauge comes down on every path.
///
/// ```
/// use dosimeter::{Deferred, track_inprogress};
/// use prometheus::IntGauge;
///
/// let working = IntGauge::new("working", "what is in progress").unwrap();
/// let (completer, work) = Deferred::<()>::pair();
/// let work = track_inprogress(&working, work);
/// assert_eq!(working.get(), 1);
/// drop(completer);
/// assert_eq!(working.get(), 0);
/// # work.add_errback(|_| ());
/// ```
pub fn track_inprogress<M, S, K>(metric: impl AsMetric<M>, subject: S) -> S::Output
where
    M: Gauge,
    S: Subject<K>,
{
    subject.hook(Tracking(metric.to_metric()))
}

/// Several hooks, to be put on as one: one stage of a chain instead of one for each.
///
/// A value that is made once and used again. Any number of hooks, also several of a kind:
///
/// ```
/// use dosimeter::{Deferred, Hooks, Incrementer, TimedOut};
/// use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge};
///
/// let seconds = Histogram::with_opts(HistogramOpts::new("work_seconds", "time spent working")).unwrap();
/// let errors = IntCounter::new("work_errors_total", "work that failed").unwrap();
/// let late = IntCounter::new("work_late_total", "work that took too long").unwrap();
/// let working = IntGauge::new("work_in_progress", "what is in progress").unwrap();
///
/// let hooks = Hooks::new()
///     .time(&seconds)
///     .count_exceptions(&errors)
///     .count_exceptions(&late.only::<TimedOut>())
///     .track_inprogress(&working);
///
/// let (completer, work) = Deferred::pair();
/// let work = hooks.attach(work);
/// assert_eq!(working.get(), 1);
/// completer.callback("done");
/// assert_eq!((seconds.get_sample_count(), errors.get(), working.get()), (1, 0, 0));
///
/// let double = hooks.wrap(|number: i32| number * 2);
/// assert_eq!(double(21), 42);
/// assert_eq!(seconds.get_sample_count(), 2);
/// ```
#[derive(Clone, Default)]
pub struct Hooks<H = ()> {
    hook: H,
}

impl Hooks {
    /// No hooks yet.
    pub fn new() -> Self {
        Hooks::default()
    }
}

impl<H: Hook> Hooks<H> {
    /// These, and [`time`].
    pub fn time<M: Observer>(self, metric: impl AsMetric<M>) -> Hooks<(H, Timing<M>)> {
        Hooks { hook: (self.hook, Timing(metric.to_metric())) }
    }

    /// These, and [`count_exceptions`].
    pub fn count_exceptions<M: Incrementer>(self, metric: impl AsMetric<M>) -> Hooks<(H, Counting<M>)> {
        Hooks { hook: (self.hook, Counting(metric.to_metric())) }
    }

    /// These, and [`track_inprogress`].
    pub fn track_inprogress<M: Gauge>(self, metric: impl AsMetric<M>) -> Hooks<(H, Tracking<M>)> {
        Hooks { hook: (self.hook, Tracking(metric.to_metric())) }
    }

    /// Begins to measure.
    pub(crate) fn start(&self) -> H::Running {
        self.hook.start()
    }

    /// Puts them on a chain, and returns it: from now until the chain comes to this place.
    pub fn attach<T: 'static>(&self, chain: Deferred<T>) -> Deferred<T> {
        let running = self.start();
        chain.watch(move |error| running.end(error))
    }

    /// Puts them on whatever the single hooks can be put on: mostly a function, of which every call is measured.
    pub fn wrap<S: Subject<K>, K>(&self, subject: S) -> S::Output {
        subject.hook(self.hook.clone())
    }
}

impl<H> fmt::Debug for Hooks<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooks")
    }
}
