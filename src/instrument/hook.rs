//! The hooks at work: what one begins is a value, and its `Drop` ends it.
//!
//! Rules kept here:
//! - Ended exactly once, on every path: value, error, panic, cancellation, a chain or a future that is dropped.
//! - A metric that panics, be it when it is dropped, costs its own figure. It must neither replace the value that passes by
//!   nor, while another panic unwinds, end the program.
//! - This is the one clock of the hooks: real time, also where timers run in virtual time.

use std::error::Error;
use std::mem;
use std::ops::Deref;
use std::thread;
use std::time::Instant;

use crate::failure::{Cancelled, Panicked, guard};
use crate::instrument::metric::{Gauge, Incrementer, Observer};

/// What [`Hooks`](super::Hooks) are made of, to be named in signatures: `Hooks<impl Hook>`.
pub trait Hook: Clone + 'static {
    #[doc(hidden)]
    type Running: Running;
    #[doc(hidden)]
    fn start(&self) -> Self::Running;
}

/// A hook at work. Dropping it ends it; unsettled, that means that the work was torn down.
#[doc(hidden)]
pub trait Running: 'static {
    /// Says how the work went; what is said first counts.
    fn settle(&mut self, error: Option<&(dyn Error + 'static)>);

    fn end(mut self, error: Option<&(dyn Error + 'static)>)
    where
        Self: Sized,
    {
        self.settle(error);
    }
}

/// No hook.
impl Hook for () {
    type Running = ();

    fn start(&self) {}
}

impl Running for () {
    fn settle(&mut self, _error: Option<&(dyn Error + 'static)>) {}
}

/// Both hooks, in one.
impl<A: Hook, B: Hook> Hook for (A, B) {
    type Running = (A::Running, B::Running);

    fn start(&self) -> Self::Running {
        (self.0.start(), self.1.start())
    }
}

impl<A: Running, B: Running> Running for (A, B) {
    fn settle(&mut self, error: Option<&(dyn Error + 'static)>) {
        self.0.settle(error);
        self.1.settle(error);
    }
}

/// See [`time`](super::time).
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Timing<M>(pub(super) M);

#[doc(hidden)]
#[derive(Debug)]
pub struct RunningTime<M: Observer> {
    metric: Kept<M>,
    watch: Stopwatch,
}

/// What measures durations, here and elsewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Stopwatch(Instant::now())
    }

    /// Since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

impl<M: Observer> Hook for Timing<M> {
    type Running = RunningTime<M>;

    fn start(&self) -> RunningTime<M> {
        RunningTime { metric: Kept::new(&self.0), watch: Stopwatch::start() }
    }
}

impl<M: Observer> Running for RunningTime<M> {
    fn settle(&mut self, _error: Option<&(dyn Error + 'static)>) {}
}

impl<M: Observer> Drop for RunningTime<M> {
    fn drop(&mut self) {
        let seconds = self.watch.seconds();
        quietly(|| self.metric.observe(seconds));
    }
}

/// See [`count_exceptions`](super::count_exceptions).
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Counting<M>(pub(super) M);

#[doc(hidden)]
#[derive(Debug)]
pub struct RunningCount<M: Incrementer> {
    metric: Kept<M>,
    settled: bool,
}

impl<M: Incrementer> Hook for Counting<M> {
    type Running = RunningCount<M>;

    fn start(&self) -> RunningCount<M> {
        RunningCount { metric: Kept::new(&self.0), settled: false }
    }
}

impl<M: Incrementer> Running for RunningCount<M> {
    fn settle(&mut self, error: Option<&(dyn Error + 'static)>) {
        if !self.settled {
            self.settled = true;
            error.into_iter().for_each(|error| self.count(error));
        }
    }
}

impl<M: Incrementer> Drop for RunningCount<M> {
    fn drop(&mut self) {
        if !self.settled {
            self.count_teardown();
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

    /// The text of the panic is out of reach here; its type is what a restriction looks at.
    #[cold]
    fn count_teardown(&self) {
        if thread::panicking() {
            self.count(&Panicked { message: String::new() });
        } else {
            self.count(&Cancelled);
        }
    }
}

/// See [`track_inprogress`](super::track_inprogress).
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Tracking<M>(pub(super) M);

#[doc(hidden)]
#[derive(Debug)]
pub struct RunningTrack<M: Gauge>(Kept<M>);

impl<M: Gauge> Hook for Tracking<M> {
    type Running = RunningTrack<M>;

    fn start(&self) -> RunningTrack<M> {
        // Cloned first: should that panic, the gauge is not up yet.
        let gauge = Kept::new(&self.0);
        quietly(|| gauge.inc());
        RunningTrack(gauge)
    }
}

impl<M: Gauge> Running for RunningTrack<M> {
    fn settle(&mut self, _error: Option<&(dyn Error + 'static)>) {}
}

impl<M: Gauge> Drop for RunningTrack<M> {
    fn drop(&mut self) {
        quietly(|| self.0.dec());
    }
}

/// A metric at work. Its drop is user code as its methods are.
#[derive(Debug)]
struct Kept<M>(Option<M>);

impl<M: Clone> Kept<M> {
    fn new(metric: &M) -> Self {
        Kept(Some(metric.clone()))
    }
}

impl<M> Deref for Kept<M> {
    type Target = M;

    fn deref(&self) -> &M {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl<M> Drop for Kept<M> {
    fn drop(&mut self) {
        if mem::needs_drop::<M>() {
            let metric = self.0.take();
            quietly(|| drop(metric));
        }
    }
}

/// Calls a metric, which is user code.
fn quietly(call: impl FnOnce()) {
    if let Err(failure) = guard(call) {
        failure.log("dosimeter::instrument", format_args!("a metric failed"));
    }
}
