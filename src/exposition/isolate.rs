//! [`isolate`]: a collector whose trouble is its own.
//!
//! Rules kept here:
//! - The collector runs in a thread of its own, so that who gathers can go on without it. A registry holds a lock while it
//!   gathers, and whoever wants to register something meanwhile, the loop included, waits for that lock.
//! - What it began to say too late is said to nobody: families are those of this gathering, or left out.
//! - One that is stuck costs one thread for each gathering at the time, and the gatherings after that nothing.
//! - What makes one hang, such as a disk that is gone, makes others hang as well. A page waits for all of them as long as for one,
//!   or it would come too late for its scraper.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounter, Opts};

use crate::failure::{Failure, Result, guard};
use crate::instrument::Stopwatch;

/// Wraps a collector so that its trouble costs its own families, and neither the scrape nor the program.
///
/// In `prometheus` a collector that panics takes all other families of its registry with it, and one that hangs holds up
/// every scrape, every `register`, and so in the end the loop. A wrapped one runs in a thread of its own: when it panics, or
/// has not answered after 5 seconds (half of what a Prometheus waits by default; see
/// [`with_patience`](Isolated::with_patience)), its families are left out. While it hangs it is not asked again. Several that hang
/// do not add up: the 5 seconds are those of the page, and one that is asked when they are over has a tenth of them.
///
/// It may register metrics with the very registry that gathers it. That works only when the gathering is over, so it is late
/// then and its families are missing once.
///
/// Two series tell of it, with `name` as the label `collector`: `metrics_collector_errors_total` and
/// `metrics_collector_duration_seconds`.
///
/// ```
/// use dosimeter::exposition::isolate;
/// use dosimeter::prometheus::{IntGauge, Registry};
///
/// let disks = IntGauge::new("disks", "stands for a collector that asks the hardware")?;
/// let registry = Registry::new();
/// registry.register(Box::new(isolate("disks", disks)?))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of `prometheus` about the two series; there are none for a name that is a text.
pub fn isolate(name: &str, collector: impl Collector + 'static) -> prometheus::Result<Isolated> {
    let label = || HashMap::from([("collector".to_owned(), name.to_owned())]);
    let errors = "Times a collector panicked or was too late, and its families were left out.";
    let errors = IntCounter::with_opts(Opts::new("metrics_collector_errors_total", errors).const_labels(label()))?;
    let duration = "How long the collector took when it was last done.";
    let duration = Gauge::with_opts(Opts::new("metrics_collector_duration_seconds", duration).const_labels(label()))?;
    let work = Arc::new(Work { collector: Box::new(collector), duration, stuck: AtomicUsize::new(0) });
    Ok(Isolated { name: name.to_owned(), work, errors, is_down: AtomicBool::new(false), patience: COLLECTOR_PATIENCE })
}

/// A collector that is [isolated](isolate).
pub struct Isolated {
    name: String,
    work: Arc<Work>,
    errors: IntCounter,
    /// The log has been told.
    is_down: AtomicBool,
    patience: Duration,
}

impl Isolated {
    /// Waits for the collector until its page has taken so long, and at least a tenth of it.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What the collector says, if it does in time.
    fn ask(&self) -> Result<Vec<MetricFamily>> {
        if self.work.stuck.load(Ordering::Acquire) > 0 {
            return Err("it still hangs".into());
        }
        let (asked, answering) = (Arc::new(Answer::default()), self.work.clone());
        let answer = asked.clone();
        let thread = thread::Builder::new().name(format!("collect {}", self.name));
        thread.spawn(move || answering.answer(&answer))?;
        asked.wait(self.patience_left(), &self.work.stuck)
    }

    /// Registries ask one collector after the other, each in the thread that makes the page.
    fn patience_left(&self) -> Duration {
        let Some(page) = PAGE.get() else { return self.patience };
        let gone = Duration::from_secs_f64(page.seconds());
        self.patience.saturating_sub(gone).max(self.patience / LATECOMER)
    }

    /// Says it once, and again when it has worked in between.
    fn note(&self, failure: &Failure) {
        self.errors.inc();
        if !self.is_down.swap(true, Ordering::Relaxed) {
            let (name, report) = (&self.name, failure.report());
            log::error!(target: LOG, "the collector {name:?} failed and its families are left out: {report}");
        }
    }
}

impl Collector for Isolated {
    fn desc(&self) -> Vec<&Desc> {
        [self.work.collector.desc(), self.errors.desc(), self.work.duration.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let families = match self.ask() {
            Ok(families) => {
                self.is_down.store(false, Ordering::Relaxed);
                families
            }
            Err(failure) => {
                self.note(&failure);
                Vec::new()
            }
        };
        [families, self.errors.collect(), self.work.duration.collect()].concat()
    }
}

impl fmt::Debug for Isolated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Isolated").field("name", &self.name).field("patience", &self.patience).finish_non_exhaustive()
    }
}

thread_local! {
    /// When the page was begun that this thread makes.
    static PAGE: Cell<Option<Stopwatch>> = const { Cell::new(None) };
}

/// A page that is being made in this thread, until it is dropped.
pub(super) struct PageBegun(());

impl PageBegun {
    pub(super) fn now() -> Self {
        PAGE.set(Some(Stopwatch::start()));
        PageBegun(())
    }
}

impl Drop for PageBegun {
    fn drop(&mut self) {
        PAGE.set(None);
    }
}

/// What the thread of the collector needs.
struct Work {
    collector: Box<dyn Collector>,
    duration: Gauge,
    /// Threads that were given up and have not come back.
    stuck: AtomicUsize,
}

impl Work {
    fn answer(&self, answer: &Answer) {
        let watch = Stopwatch::start();
        let families = guard(|| self.collector.collect());
        self.duration.set(watch.seconds());
        answer.give(families, &self.stuck);
    }
}

/// Where an answer is left.
#[derive(Default)]
struct Answer {
    state: Mutex<AnswerState>,
    given: Condvar,
}

#[derive(Default)]
enum AnswerState {
    #[default]
    Awaited,
    Given(Result<Vec<MetricFamily>>),
    /// Nobody waits any more.
    GivenUp,
}

impl Answer {
    fn give(&self, families: Result<Vec<MetricFamily>>, stuck: &AtomicUsize) {
        let mut state = self.lock();
        match *state {
            AnswerState::GivenUp => {
                stuck.fetch_sub(1, Ordering::AcqRel);
            }
            _ => *state = AnswerState::Given(families),
        }
        drop(state);
        self.given.notify_one();
    }

    fn wait(&self, patience: Duration, stuck: &AtomicUsize) -> Result<Vec<MetricFamily>> {
        let is_awaited = |state: &mut AnswerState| matches!(state, AnswerState::Awaited);
        let (mut state, _) =
            self.given.wait_timeout_while(self.lock(), patience, is_awaited).unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, AnswerState::GivenUp) {
            AnswerState::Given(families) => families,
            AnswerState::Awaited | AnswerState::GivenUp => {
                stuck.fetch_add(1, Ordering::AcqRel);
                Err(format!("it has not answered after {patience:.1?}").into())
            }
        }
    }

    /// No user code runs while it is held, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, AnswerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const LOG: &str = "dosimeter::metrics";

/// Half of what a Prometheus waits by default, so that what the others have collected still comes in time.
const COLLECTOR_PATIENCE: Duration = Duration::from_secs(5);

/// The part of its patience for one that is asked when the time of the page is over: most that are well are quicker, and some that
/// hang beside each other still leave a page in time.
const LATECOMER: u32 = 10;
