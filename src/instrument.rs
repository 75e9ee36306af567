//! The hooks [`time`], [`count_exceptions`] and [`track_inprogress`].
//!
//! Rules kept here:
//! - What a hook began it ends exactly once, on every path: value, error, panic, cancellation, a chain dropped unfired. The
//!   end is a `Drop`, so no path can be forgotten.
//! - Values and failures pass through untouched: the same object comes out that went in.
//! - Metrics are reached through traits of one or two methods, so any library's will do.

use std::error::Error;
use std::marker::PhantomData;
use std::sync::LazyLock;
use std::time::Instant;

use prometheus::core::{Atomic, GenericCounter, GenericGauge};

use crate::deferred::Deferred;
use crate::failure::{Failure, Panicked, Result, guard};

/// Takes durations: a histogram, or whatever else has a use for them.
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use dosimeter::{Deferred, Observer, time};
///
/// #[derive(Clone, Default)]
/// struct Longest(Rc<Cell<f64>>);
///
/// impl Observer for Longest {
///     fn observe(&self, seconds: f64) {
///         self.0.set(self.0.get().max(seconds));
///     }
/// }
///
/// let longest = Longest::default();
/// let tail = time(&longest, Deferred::succeed("at once"));
/// assert!(longest.0.get() > 0.0);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` takes no durations",
    note = "a `Histogram` does; of a `HistogramVec` take one with `with_label_values`"
)]
pub trait Observer: Clone + 'static {
    /// Records one duration, in seconds.
    fn observe(&self, seconds: f64);
}

/// Counts: a counter.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no counter",
    note = "a `Counter` or `IntCounter` is; of a `..CounterVec` take one with `with_label_values`"
)]
pub trait Incrementer: Clone + 'static {
    /// Adds one.
    fn inc(&self);

    /// Whether this error is to be counted; each is, unless the counter was restricted with [`only`](Incrementer::only).
    fn counts(&self, error: &(dyn Error + 'static)) -> bool {
        let _ = error;
        true
    }

    /// This counter, restricted to errors of type `E`: the `exc` argument of prometheus_async.
    ///
    /// ```
    /// # use dosimeter::{Deferred, Incrementer, count_exceptions};
    /// # use prometheus::IntCounter;
    /// let io_errors = IntCounter::new("io_errors_total", "I/O errors").unwrap();
    /// let not_io = Deferred::<()>::fail("something else");
    /// let tail = count_exceptions(&io_errors.only::<std::io::Error>(), not_io);
    /// assert_eq!(io_errors.get(), 0);
    /// # tail.add_errback(|_| ());
    /// ```
    #[doc(alias = "exc")]
    fn only<E: Error + 'static>(&self) -> Only<Self, E> {
        Only { metric: self.clone(), error: PhantomData }
    }
}

/// Goes up and down: a gauge.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no gauge",
    note = "a `Gauge` or `IntGauge` is; of a `..GaugeVec` take one with `with_label_values`"
)]
pub trait Gauge: Clone + 'static {
    /// Adds one.
    fn inc(&self);
    /// Takes one away.
    fn dec(&self);
}

/// A counter that counts errors of type `E`; made with [`Incrementer::only`].
#[derive(Debug)]
pub struct Only<M, E> {
    metric: M,
    error: PhantomData<fn() -> E>,
}

impl<M: Clone, E> Clone for Only<M, E> {
    fn clone(&self) -> Self {
        Only { metric: self.metric.clone(), error: PhantomData }
    }
}

impl<M: Incrementer, E: Error + 'static> Incrementer for Only<M, E> {
    fn inc(&self) {
        self.metric.inc();
    }

    fn counts(&self, error: &(dyn Error + 'static)) -> bool {
        error.is::<E>() && self.metric.counts(error)
    }
}

impl Observer for prometheus::Histogram {
    fn observe(&self, seconds: f64) {
        prometheus::Histogram::observe(self, seconds);
    }
}

impl Observer for prometheus::local::LocalHistogram {
    fn observe(&self, seconds: f64) {
        prometheus::local::LocalHistogram::observe(self, seconds);
    }
}

impl<P: Atomic + 'static> Incrementer for GenericCounter<P> {
    fn inc(&self) {
        GenericCounter::inc(self);
    }
}

impl<P: Atomic + 'static> Gauge for GenericGauge<P> {
    fn inc(&self) {
        GenericGauge::inc(self);
    }

    fn dec(&self) {
        GenericGauge::dec(self);
    }
}

impl<M: Observer> Observer for &'static M {
    fn observe(&self, seconds: f64) {
        (**self).observe(seconds);
    }
}

impl<M: Incrementer> Incrementer for &'static M {
    fn inc(&self) {
        (**self).inc();
    }

    fn counts(&self, error: &(dyn Error + 'static)) -> bool {
        (**self).counts(error)
    }
}

impl<M: Gauge> Gauge for &'static M {
    fn inc(&self) {
        (**self).inc();
    }

    fn dec(&self) {
        (**self).dec();
    }
}

/// What a hook takes for its metric: a reference to one, or to a static `LazyLock` of one.
pub trait AsMetric<M> {
    /// The metric to keep while the hook is at work.
    fn to_metric(self) -> M;
}

/// Keeps another handle to the same metric.
impl<M: Clone> AsMetric<M> for &M {
    fn to_metric(self) -> M {
        self.clone()
    }
}

/// Keeps a reference: cloning a handle of prometheus is a locked addition, and this is a hot path.
impl<M> AsMetric<&'static M> for &'static LazyLock<M> {
    fn to_metric(self) -> &'static M {
        self
    }
}

/// Records how long something takes, in seconds.
///
/// Given a chain, the time from now until the chain comes to this place, whatever with, and returns the chain: it covers
/// what was added before and nothing added after. Given a function, it returns one that does the same and records each call,
/// up to the end of the chain it returns.
///
/// An error, a panic and an abandoned chain are recorded as well.
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

/// Something a hook can be put on: a chain, or a function of up to two arguments.
///
/// The type parameter only keeps the two kinds apart.
#[diagnostic::on_unimplemented(
    message = "no hook can be put on `{Self}`",
    note = "a `Deferred` can have one, and a closure `Fn` that returns a `Deferred`, a `Result` or an answer to a request"
)]
pub trait Subject<K> {
    /// What comes out: the chain, or the wrapped function.
    type Output;

    #[doc(hidden)]
    fn hook(self, hook: impl Hook) -> Self::Output;
}

/// Kind of [`Subject`]: a chain.
#[derive(Debug)]
pub struct Chain;

impl<T: 'static> Subject<Chain> for Deferred<T> {
    type Output = Deferred<T>;

    fn hook(self, hook: impl Hook) -> Deferred<T> {
        let running = hook.start();
        self.watch(move |error| running.end(error))
    }
}

/// Kind of [`Subject`]: a function of these arguments.
#[derive(Debug)]
pub struct Function<A>(PhantomData<A>);

impl<F, R> Subject<Function<()>> for F
where
    F: Fn() -> R + 'static,
    R: Outcome,
{
    type Output = Box<dyn Fn() -> R>;

    fn hook(self, hook: impl Hook) -> Self::Output {
        Box::new(move || around(&hook, &self))
    }
}

impl<F, A, R> Subject<Function<(A,)>> for F
where
    F: Fn(A) -> R + 'static,
    A: 'static,
    R: Outcome,
{
    type Output = Box<dyn Fn(A) -> R>;

    fn hook(self, hook: impl Hook) -> Self::Output {
        Box::new(move |a| around(&hook, || self(a)))
    }
}

impl<F, A, B, R> Subject<Function<(A, B)>> for F
where
    F: Fn(A, B) -> R + 'static,
    A: 'static,
    B: 'static,
    R: Outcome,
{
    type Output = Box<dyn Fn(A, B) -> R>;

    fn hook(self, hook: impl Hook) -> Self::Output {
        Box::new(move |a, b| around(&hook, || self(a, b)))
    }
}

/// A panic in `call` unwinds through here and drops what was started, which ends it.
fn around<R: Outcome>(hook: &impl Hook, call: impl FnOnce() -> R) -> R {
    let running = hook.start();
    call().watch(move |error| running.end(error))
}

/// What a function with a hook may return: something that ends, now or later, well or with an error.
pub trait Outcome: 'static {
    /// Calls `end` at the end, with the error if there is one, and passes everything through untouched.
    fn watch(self, end: impl FnOnce(Option<&(dyn Error + 'static)>) + 'static) -> Self;
}

impl<T: 'static> Outcome for Deferred<T> {
    fn watch(self, end: impl FnOnce(Option<&(dyn Error + 'static)>) + 'static) -> Self {
        self.add_both(move |result: Result<T>| {
            end(result.as_ref().err().map(|failure| failure.error() as _));
            result
        })
    }
}

impl<T: 'static> Outcome for Result<T, Failure> {
    fn watch(self, end: impl FnOnce(Option<&(dyn Error + 'static)>) + 'static) -> Self {
        end(self.as_ref().err().map(|failure| failure.error() as _));
        self
    }
}

impl<T: 'static, E: Error + 'static> Outcome for Result<T, E> {
    fn watch(self, end: impl FnOnce(Option<&(dyn Error + 'static)>) + 'static) -> Self {
        end(self.as_ref().err().map(|error| error as _));
        self
    }
}

impl Outcome for () {
    fn watch(self, end: impl FnOnce(Option<&(dyn Error + 'static)>) + 'static) -> Self {
        end(None);
    }
}

/// One kind of hook.
#[doc(hidden)]
pub trait Hook: 'static {
    type Running: Running;
    fn start(&self) -> Self::Running;
}

/// A hook at work. Dropping it without [`end`](Running::end) means that the work was torn down.
#[doc(hidden)]
pub trait Running: 'static {
    fn end(self, error: Option<&(dyn Error + 'static)>);
}

struct Timing<M>(M);

struct RunningTime<M: Observer> {
    metric: M,
    start: Instant,
}

impl<M: Observer> Hook for Timing<M> {
    type Running = RunningTime<M>;

    fn start(&self) -> RunningTime<M> {
        RunningTime { metric: self.0.clone(), start: stopwatch() }
    }
}

impl<M: Observer> Running for RunningTime<M> {
    fn end(self, _error: Option<&(dyn Error + 'static)>) {}
}

impl<M: Observer> Drop for RunningTime<M> {
    fn drop(&mut self) {
        quietly(|| self.metric.observe(self.start.elapsed().as_secs_f64()));
    }
}

struct Counting<M>(M);

struct RunningCount<M: Incrementer> {
    metric: M,
    ended: bool,
}

impl<M: Incrementer> Hook for Counting<M> {
    type Running = RunningCount<M>;

    fn start(&self) -> RunningCount<M> {
        RunningCount { metric: self.0.clone(), ended: false }
    }
}

impl<M: Incrementer> Running for RunningCount<M> {
    fn end(mut self, error: Option<&(dyn Error + 'static)>) {
        self.ended = true;
        if let Some(error) = error {
            self.count(error);
        }
    }
}

impl<M: Incrementer> Drop for RunningCount<M> {
    fn drop(&mut self) {
        if !self.ended {
            self.count(&Panicked { message: String::new() });
        }
    }
}

impl<M: Incrementer> RunningCount<M> {
    fn count(&self, error: &(dyn Error + 'static)) {
        quietly(|| {
            if self.metric.counts(error) {
                self.metric.inc();
            }
        });
    }
}

struct Tracking<M>(M);

struct RunningTrack<M: Gauge>(M);

impl<M: Gauge> Hook for Tracking<M> {
    type Running = RunningTrack<M>;

    fn start(&self) -> RunningTrack<M> {
        // Cloned first: should that panic, the gauge is not up yet.
        let gauge = self.0.clone();
        quietly(|| gauge.inc());
        RunningTrack(gauge)
    }
}

impl<M: Gauge> Running for RunningTrack<M> {
    fn end(self, _error: Option<&(dyn Error + 'static)>) {}
}

impl<M: Gauge> Drop for RunningTrack<M> {
    fn drop(&mut self) {
        quietly(|| self.0.dec());
    }
}

/// Calls a metric. One that panics must neither replace the value that passes by nor, while another panic unwinds, end the
/// program.
fn quietly(call: impl FnOnce()) {
    if let Err(failure) = guard(call) {
        log::error!(target: "dosimeter::instrument", "a metric failed: {}", failure.report());
    }
}

/// The clock of the hooks: real time, also where timers run in virtual time.
fn stopwatch() -> Instant {
    Instant::now()
}
