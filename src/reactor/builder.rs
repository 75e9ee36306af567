//! [`Builder`]: how a reactor is made, with the defaults or without.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::Registry;

use super::metrics::LoopFigures;
use super::pace::{Pace, STALL_LIMIT};
use super::poller::{self, Poller};
use super::publish::Publications;
use super::remote::Mailbox;
use super::watch::Watch;
use super::{Inner, Phase, Reactor, Shutdown, Triggers};
use crate::buffer::Buffers;
use crate::clock::Timers;
use crate::failure::Result;
use crate::slots::Slots;

/// Threads of the pool; Twisted's figure.
const MAX_THREADS: usize = 10;

/// How a [`Reactor`] is made when the defaults do not fit; see [`Reactor::builder`].
///
/// ```
/// use dosimeter::Reactor;
/// use prometheus::Registry;
///
/// # fn main() -> dosimeter::Result<()> {
/// let registry = Registry::new();
/// let reactor = Reactor::builder().name("worker").metrics(registry.clone()).max_threads(2).build()?;
/// let families = registry.gather();
/// let turns = families.iter().find(|family| family.name() == "dosimeter_loop_iterations_total").unwrap();
/// assert_eq!(turns.get_metric()[0].get_label()[0].value(), "worker");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Builder {
    pub(super) name: String,
    metrics: Metrics,
    max_threads: usize,
    signal_handlers: bool,
    stall_limit: Duration,
    virtual_time: bool,
    shares_ports: bool,
}

/// Where the figures of a reactor, and of the servers on it, are published.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Metrics {
    /// In `prometheus::default_registry()`.
    #[default]
    Default,
    /// In this registry.
    Registry(Registry),
    /// Nowhere, and what takes more than adding to a number is not counted in the first place: how long turns and requests
    /// take, what becomes of chains, and requests by route, method and status.
    ///
    /// Slow callbacks are found and logged all the same, and a [`Monitor`](crate::exposition::Monitor) tells what the loop is at.
    Off,
}

impl Reactor {
    /// A reactor with the defaults: its figures go to `prometheus::default_registry()`.
    ///
    /// # Errors
    /// When the system refuses the descriptors it needs (two).
    pub fn new() -> Result<Self> {
        Reactor::builder().build()
    }

    /// Sets up a reactor that differs from the defaults.
    pub fn builder() -> Builder {
        Builder {
            name: String::new(),
            metrics: Metrics::Default,
            max_threads: MAX_THREADS,
            signal_handlers: true,
            stall_limit: STALL_LIMIT,
            virtual_time: false,
            shares_ports: false,
        }
    }
}

impl Builder {
    /// A name for logs, threads and the `reactor` label of the figures, to tell several in one process apart.
    ///
    /// Without one the first reactor of a registry has no such label, and each further one a number.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Where the figures go.
    pub fn metrics(mut self, metrics: impl Into<Metrics>) -> Self {
        self.metrics = metrics.into();
        self
    }

    /// How many threads [`Reactor::defer_to_thread`] may use; ten unless told, as in Twisted. Zero counts as one.
    pub fn max_threads(mut self, max_threads: usize) -> Self {
        self.max_threads = max_threads.max(1);
        self
    }

    /// Whether SIGINT and SIGTERM stop [`Reactor::run`]; they do unless told otherwise.
    ///
    /// A handler that the program has installed before is called as well, and so is one of the crate `signal-hook`; one that
    /// is installed by other means during the run takes the place of ours, and the signal then does not reach the reactor.
    /// After the run both signals end the program, as they do by default. A program that handles them itself says `false`
    /// here and calls [`Reactor::stop`].
    pub fn signal_handlers(mut self, install: bool) -> Self {
        self.signal_handlers = install;
        self
    }

    /// How long a turn of the loop may take, and any callback in it: 100 ms unless told otherwise.
    ///
    /// A turn that takes longer is counted in `dosimeter_loop_stalls_total`; a callback that does in
    /// `dosimeter_slow_callbacks_total`, and the log names the line that registered it, the route whose handler was called, or
    /// its type: at the most one line a second. Nothing is interrupted.
    ///
    /// It costs nothing while no turn is slow: which callback it was is known if it was the only one of its turn, and for a
    /// minute from then on each is timed by itself, so the next one is found in any company.
    #[doc(alias = "slow_callback_duration")]
    pub fn stall_limit(mut self, limit: Duration) -> Self {
        self.stall_limit = limit;
        self
    }

    /// For tests: time stands still while code runs, and a wait is over at once, with the time moved to where it would have
    /// ended. Jobs for the thread pool run in the next turn, as calls from a thread do, and ports are in memory.
    pub(crate) fn virtual_time(mut self) -> Self {
        self.virtual_time = true;
        self
    }

    /// One of several that listen at the same addresses.
    pub(super) fn shares_ports(mut self) -> Self {
        self.shares_ports = true;
        self
    }

    /// Makes the reactor.
    ///
    /// # Errors
    /// When the system refuses the descriptors it needs (two).
    pub fn build(self) -> Result<Reactor> {
        let poller = Poller::new()?;
        let figures = Arc::new(LoopFigures::new(SystemTime::now()));
        let mailbox = Arc::new(Mailbox::new(figures.threads_waiting.clone(), poller::clock, poller.waker()?));
        let timers = Timers::new(poller::clock());
        let watch = Arc::new(Watch::new(timers.epoch(), SystemTime::now()));
        let name: Arc<str> = self.name.into();
        let registry = match self.metrics {
            Metrics::Default => {
                #[cfg(feature = "process")]
                super::process::publish_by_default();
                Some(prometheus::default_registry().clone())
            }
            Metrics::Registry(registry) => Some(registry),
            Metrics::Off => None,
        };
        let reactor = Reactor(Rc::new(Inner {
            is_counted: registry.is_some(),
            publications: Publications::new(registry, name.clone(), &figures),
            name,
            phase: Cell::new(Phase::Idle),
            shutdown: Cell::new(Shutdown::NotAsked),
            looping: Cell::new(false),
            in_turn: Cell::new(false),
            on_startup: Triggers::new(),
            on_shutdown: Triggers::new(),
            pace: Rc::new(Pace::new(self.stall_limit, watch.clone(), figures.clone())),
            watch,
            timers,
            virtual_time: self.virtual_time,
            shares_ports: self.shares_ports,
            poller: RefCell::new(poller),
            ready: Cell::new(None),
            sources: RefCell::new(Slots::new()),
            again: RefCell::default(),
            dirty: RefCell::default(),
            mailbox,
            signal_handlers: self.signal_handlers,
            signals: RefCell::default(),
            signal: Cell::new(None),
            max_threads: Cell::new(self.max_threads),
            pool: OnceCell::new(),
            spawner: OnceCell::new(),
            replies: RefCell::new(Slots::new()),
            askers: RefCell::new(Slots::new()),
            buffers: Buffers::default(),
            locals: RefCell::default(),
            figures,
        }));
        reactor.conduct_events();
        Ok(reactor)
    }
}

impl From<Registry> for Metrics {
    fn from(registry: Registry) -> Self {
        Metrics::Registry(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    /// A reactor that has run, and in whose run everything was slow.
    fn run(metrics: Metrics) -> Reactor {
        let reactor = Reactor::builder().metrics(metrics).signal_handlers(false).stall_limit(Duration::ZERO);
        let reactor = reactor.build().expect("a reactor");
        let stop = reactor.clone();
        reactor.call_later(Duration::ZERO, move || stop.stop().expect("it is running"));
        reactor.run().expect("a run");
        reactor
    }

    #[test]
    fn without_metrics_turns_are_not_counted_and_stalls_are_found_all_the_same() {
        let (off, on) = (run(Metrics::Off), run(Registry::new().into()));
        assert_eq!(off.0.figures.turns.get(), 0);
        assert!(on.0.figures.turns.get() > 0);
        for reactor in [off, on] {
            assert!(!reactor.loop_watch().slow().is_empty());
        }
    }
}
