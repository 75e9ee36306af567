//! What hooks tell: anything that observes, counts, or goes up and down.
//!
//! Rules kept here:
//! - Metrics are reached through traits of one or two methods, so any library's will do, and so will a type of one's own.
//! - A restriction is part of the counter that is given to the hook, so a hook has no options.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::sync::LazyLock;

use prometheus::core::{Atomic, GenericCounter, GenericGauge};
use prometheus::local::LocalHistogram;

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

    /// This counter, restricted to the errors for which `predicate` is true; of a counter that is restricted already, it is asked
    /// of those that are left.
    ///
    /// ```
    /// # use dosimeter::{Cancelled, Deferred, Incrementer, count_exceptions};
    /// # use prometheus::IntCounter;
    /// let errors = IntCounter::new("errors_total", "errors, not counting what somebody cancelled").unwrap();
    /// let (_completer, work) = Deferred::<()>::pair();
    /// let work = count_exceptions(&errors.only_if(|error| !error.is::<Cancelled>()), work);
    /// work.cancel();
    /// assert_eq!(errors.get(), 0);
    /// ```
    #[doc(alias = "exc")]
    fn only_if<P>(&self, predicate: P) -> OnlyIf<Self, P>
    where
        P: Fn(&(dyn Error + 'static)) -> bool + Clone + 'static,
    {
        OnlyIf { metric: self.clone(), predicate }
    }
}

/// Goes up and down: a gauge.
///
/// A type of `prometheus` has the same name, so where both are in use this one is best written with its path:
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use dosimeter::{Deferred, track_inprogress};
///
/// #[derive(Clone, Default)]
/// struct Load(Rc<Cell<u32>>);
///
/// impl dosimeter::Gauge for Load {
///     fn inc(&self) {
///         self.0.set(self.0.get() + 1);
///     }
///     fn dec(&self) {
///         self.0.set(self.0.get() - 1);
///     }
/// }
///
/// let load = Load::default();
/// let (completer, work) = Deferred::pair();
/// let work = track_inprogress(&load, work);
/// assert_eq!(load.0.get(), 1);
/// completer.callback("done");
/// assert_eq!(load.0.get(), 0);
/// ```
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
        self.metric.counts(error) && error.is::<E>()
    }
}

/// A counter that counts the errors a predicate accepts; made with [`Incrementer::only_if`].
#[derive(Clone)]
pub struct OnlyIf<M, P> {
    metric: M,
    predicate: P,
}

impl<M: fmt::Debug, P> fmt::Debug for OnlyIf<M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnlyIf").field("metric", &self.metric).finish_non_exhaustive()
    }
}

impl<M, P> Incrementer for OnlyIf<M, P>
where
    M: Incrementer,
    P: Fn(&(dyn Error + 'static)) -> bool + Clone + 'static,
{
    fn inc(&self) {
        self.metric.inc();
    }

    fn counts(&self, error: &(dyn Error + 'static)) -> bool {
        self.metric.counts(error) && (self.predicate)(error)
    }
}

impl Observer for prometheus::Histogram {
    fn observe(&self, seconds: f64) {
        prometheus::Histogram::observe(self, seconds);
    }
}

/// What it gathers reaches its histogram when it is flushed, or its last clone dropped.
impl Observer for LocalHistogram {
    fn observe(&self, seconds: f64) {
        LocalHistogram::observe(self, seconds);
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
