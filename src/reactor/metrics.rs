//! Figures that one thread writes and any thread reads, and how they are told.
//!
//! Rules kept here:
//! - One writer per figure: the reactor's thread. So a plain load and store of an atomic is enough; a locked addition
//!   would be paid for by every request, a dozen times over.
//! - Durations are counted in whole nanoseconds: sums neither drift nor depend on order.
//! - Label values come from closed sets. `prometheus` hashes the label values of a series without a separator, so free text
//!   could make two series one, and a scanner could fill the memory.
//! - Reading takes no lock that the reactor's thread takes in steady state: a scrape never holds up the loop.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::watch::Kind;
use crate::deferred::Tally;

/// A number that only goes up.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Default)]
pub(crate) struct Level(AtomicU64);

impl Level {
    pub(crate) fn add(&self, change: i64) {
        self.0.store(self.0.load(Relaxed).wrapping_add_signed(change), Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub(crate) fn get(&self) -> i64 {
        self.0.load(Relaxed) as i64
    }
}

/// How durations are spread: a histogram.
pub(crate) struct Spread {
    /// Upper bounds in nanoseconds, each with its own count.
    buckets: Box<[(u64, Count)]>,
    /// What is above the last bound.
    beyond: Count,
    nanos: Count,
}

impl Spread {
    /// `bounds` ascend; what is above the last one is counted under `+Inf`.
    pub(crate) fn new(bounds: &[Duration]) -> Self {
        let buckets = bounds.iter().map(|bound| (bound.as_nanos() as u64, Count::default())).collect();
        Spread { buckets, beyond: Count::default(), nanos: Count::default() }
    }

    pub(crate) fn observe(&self, nanos: u64) {
        self.observe_many(nanos, 1);
    }

    /// The same duration, `count` times.
    pub(crate) fn observe_many(&self, nanos: u64, count: u64) {
        let bucket = self.buckets.iter().find(|(bound, _)| nanos <= *bound);
        bucket.map_or(&self.beyond, |(_, bucket)| bucket).add(count);
        self.nanos.add(nanos * count);
    }

    fn to_proto(&self) -> Histogram {
        let mut count = 0;
        let buckets = self.buckets.iter().map(|(bound, bucket)| {
            count += bucket.get();
            let mut proto = Bucket::default();
            proto.set_upper_bound(seconds(*bound));
            proto.set_cumulative_count(count);
            proto
        });
        let buckets = buckets.collect::<Vec<_>>();
        let mut histogram = Histogram::default();
        histogram.set_sample_count(count + self.beyond.get());
        histogram.set_sample_sum(seconds(self.nanos.get()));
        histogram.set_bucket(buckets);
        histogram
    }
}

/// A list that the reactor's thread adds to and any thread reads.
pub(crate) struct List<T>(Mutex<Vec<Arc<T>>>);

impl<T> List<T> {
    pub(crate) fn new() -> Self {
        List(Mutex::new(Vec::new()))
    }

    pub(crate) fn push(&self, item: T) -> Arc<T> {
        let item = Arc::new(item);
        self.lock().push(item.clone());
        item
    }

    /// What is in the list now.
    pub(crate) fn snapshot(&self) -> Vec<Arc<T>> {
        self.lock().clone()
    }

    /// Held for a push or a copy, never while anything else runs, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nanoseconds as the seconds that Prometheus wants.
pub(crate) fn seconds(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}

/// A group of figures that can tell its families.
pub(crate) trait Figures: Send + Sync + 'static {
    /// Adds every family it has, each time in the same order, also while a family has no series yet.
    fn tell(&self, families: &mut Families);
}

/// The families told so far.
pub(crate) struct Families {
    reactor: Arc<str>,
    families: Vec<MetricFamily>,
}

impl Families {
    pub(super) fn of(reactor: &Arc<str>) -> Self {
        Families { reactor: reactor.clone(), families: Vec::new() }
    }

    /// Of the process, or whatever else is the same for all of them.
    #[cfg(feature = "process")]
    pub(super) fn of_no_reactor() -> Self {
        Families::of(&Arc::from(""))
    }

    pub(super) fn into_vec(self) -> Vec<MetricFamily> {
        self.families
    }

    pub(crate) fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, help, MetricType::COUNTER).value(&[], value);
    }

    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, help, MetricType::GAUGE).value(&[], value);
    }

    pub(crate) fn histogram(&mut self, name: &str, help: &str, spread: &Spread) {
        self.family(name, help, MetricType::HISTOGRAM).spread(&[], spread);
    }

    /// Starts a family; its series follow.
    pub(crate) fn family(&mut self, name: &str, help: &str, kind: MetricType) -> Series<'_> {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        self.families.push(family);
        let family = self.families.last_mut().expect("just pushed");
        Series { reactor: &self.reactor, family }
    }
}

/// The series of one family.
pub(crate) struct Series<'a> {
    reactor: &'a str,
    family: &'a mut MetricFamily,
}

impl Series<'_> {
    pub(crate) fn value(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut metric = self.metric(labels);
        if self.family.get_field_type() == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.family.mut_metric().push(metric);
    }

    pub(crate) fn spread(&mut self, labels: &[(&str, &str)], spread: &Spread) {
        let mut metric = self.metric(labels);
        metric.set_histogram(spread.to_proto());
        self.family.mut_metric().push(metric);
    }

    fn metric(&self, labels: &[(&str, &str)]) -> Metric {
        let own = (!self.reactor.is_empty()).then_some((REACTOR_LABEL, self.reactor));
        let mut pairs: Vec<LabelPair> = labels.iter().copied().chain(own).map(label_pair).collect();
        pairs.sort();
        Metric::from_label(pairs)
    }
}

fn label_pair((name, value): (&str, &str)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// What a reactor counts of itself.
pub(crate) struct LoopFigures {
    started: SystemTime,
    pub(crate) turns: Count,
    pub(crate) busy_nanos: Count,
    pub(crate) idle_nanos: Count,
    /// Nanoseconds from the start to the end of the last poll: the heartbeat.
    pub(crate) last_turn_nanos: Count,
    pub(crate) turn: Spread,
    /// Turns over the limit.
    pub(crate) stalls: Count,
    /// Callbacks over it, by [`Kind`].
    pub(crate) slow_callbacks: ByKind,
    pub(crate) events: Count,
    pub(crate) polls_full: Count,
    pub(crate) io_callbacks: Count,
    pub(crate) flushes: Count,
    pub(crate) sources: Level,
    pub(crate) timers_fired: Count,
    pub(crate) timers_cancelled: Count,
    pub(crate) timers_pending: Level,
    pub(crate) timer_lateness: Spread,
    pub(crate) thread_calls: Count,
    /// Shared with the mailbox, whose senders write it.
    pub(crate) threads_waiting: Arc<Level>,
    /// The wait of the first call of each batch.
    pub(crate) thread_call_wait: Spread,
    /// By [`Kind`].
    pub(crate) panics: ByKind,
    pub(crate) deferreds: DeferredFigures,
    pub(crate) connections: ConnectionFigures,
}

/// One count for each [`Kind`].
pub(crate) type ByKind = [Count; Kind::COUNT];

/// What became of the connections of this reactor.
#[derive(Default)]
pub(crate) struct ConnectionFigures {
    pub(crate) open: Level,
    pub(crate) accepted: Count,
    /// Accepted, and closed because the factory had no protocol for it.
    pub(crate) refused: Count,
    /// By [`AcceptError`].
    pub(crate) accept_errors: [Count; AcceptError::NAMES.len()],
    /// By [`CloseReason`].
    pub(crate) closed: [Count; CloseReason::NAMES.len()],
    pub(crate) made: Count,
    /// By the kinds of `CannotConnect`.
    pub(crate) connect_errors: [Count; CONNECT_ERRORS.len()],
    pub(crate) received_bytes: Count,
    pub(crate) sent_bytes: Count,
}

/// Why a connection was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcceptError {
    Aborted,
    Denied,
    FdLimit,
    Memory,
    Network,
    Other,
}

impl AcceptError {
    /// In the order of the variants.
    const NAMES: [&str; 6] = ["aborted", "denied", "fd_limit", "memory", "network", "other"];
}

/// Why a connection was not made, in the order of `ConnectErrorKind`.
const CONNECT_ERRORS: [&str; 10] = [
    "address",
    "bind",
    "factory",
    "lookup",
    "other",
    "reactor_stopped",
    "refused",
    "stopped",
    "timed_out",
    "unreachable",
];

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    Aborted,
    Done,
    Failed,
    Io,
    Shutdown,
    Timeout,
}

impl CloseReason {
    /// In the order of the variants.
    const NAMES: [&str; 6] = ["aborted", "done", "failed", "io", "shutdown", "timeout"];
}

/// What became of the chains of the reactor's thread.
#[derive(Default)]
pub(crate) struct DeferredFigures {
    pub(crate) created: Count,
    pub(crate) fired: Count,
    pub(crate) failed: Count,
    pub(crate) cancelled: Count,
    pub(crate) abandoned: Count,
    pub(crate) unhandled: Count,
    /// Made, and neither fired nor abandoned.
    pub(crate) pending: Level,
}

impl LoopFigures {
    pub(crate) fn new(started: SystemTime) -> Self {
        LoopFigures {
            started,
            turns: Count::default(),
            busy_nanos: Count::default(),
            idle_nanos: Count::default(),
            last_turn_nanos: Count::default(),
            turn: Spread::new(TURN_BOUNDS),
            stalls: Count::default(),
            slow_callbacks: ByKind::default(),
            events: Count::default(),
            polls_full: Count::default(),
            io_callbacks: Count::default(),
            flushes: Count::default(),
            sources: Level::default(),
            timers_fired: Count::default(),
            timers_cancelled: Count::default(),
            timers_pending: Level::default(),
            timer_lateness: Spread::new(TURN_BOUNDS),
            thread_calls: Count::default(),
            threads_waiting: Arc::default(),
            thread_call_wait: Spread::new(TURN_BOUNDS),
            panics: ByKind::default(),
            deferreds: DeferredFigures::default(),
            connections: ConnectionFigures::default(),
        }
    }
}

impl Figures for LoopFigures {
    fn tell(&self, to: &mut Families) {
        let info: &[_] = &[("version", env!("CARGO_PKG_VERSION")), ("poller", POLLER)];
        let help = "Version of the dosimeter library, and the system call that it waits in.";
        to.family("dosimeter_info", help, MetricType::GAUGE).value(info, 1.0);
        self.tell_turns(to);
        self.tell_callbacks(to);
        self.tell_timers(to);
        self.tell_thread_calls(to);
        self.deferreds.tell(to);
        self.connections.tell(to);
    }
}

impl LoopFigures {
    fn tell_turns(&self, to: &mut Families) {
        let count = |count: &Count| count.get() as f64;
        to.counter("dosimeter_loop_iterations_total", "Turns of the event loop.", count(&self.turns));
        let busy = seconds(self.busy_nanos.get());
        to.counter("dosimeter_loop_busy_seconds_total", "Time the event loop spent outside of poll.", busy);
        let idle = seconds(self.idle_nanos.get());
        to.counter("dosimeter_loop_idle_seconds_total", "Time the event loop spent waiting in poll.", idle);
        let help = "How long the event loop was busy between two polls: the delay that anything new suffers.";
        to.histogram("dosimeter_loop_turn_duration_seconds", help, &self.turn);
        let help = "Turns of the event loop that took longer than the limit, 100 ms unless told otherwise.";
        to.counter("dosimeter_loop_stalls_total", help, count(&self.stalls));
        let start = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let help = "When the event loop last came back from poll, in seconds since 1970.";
        to.gauge("dosimeter_loop_last_turn_timestamp_seconds", help, start + seconds(self.last_turn_nanos.get()));
        to.counter("dosimeter_events_total", "Readiness events delivered by poll.", count(&self.events));
        let help = "Polls that had no room for more events; the rest waited for the next turn.";
        to.counter("dosimeter_poll_full_total", help, count(&self.polls_full));
        to.gauge("dosimeter_sources", "Descriptors that the event loop watches.", self.sources.get() as f64);
    }

    fn tell_callbacks(&self, to: &mut Families) {
        let mut callbacks =
            to.family("dosimeter_callbacks_total", "Callbacks run by the event loop, by kind.", MetricType::COUNTER);
        let counts = [&self.io_callbacks, &self.timers_fired, &self.thread_calls, &self.flushes];
        for (kind, count) in Kind::CALLBACKS.iter().zip(counts) {
            callbacks.value(&[("kind", kind.name())], count.get() as f64);
        }
        for (name, help, counts) in [
            (
                "dosimeter_slow_callbacks_total",
                "Callbacks that took longer than the limit of a turn, 100 ms unless told otherwise, by kind.",
                &self.slow_callbacks,
            ),
            (
                "dosimeter_callback_panics_total",
                "Panics in code of the program that the event loop has caught, by kind of callback.",
                &self.panics,
            ),
        ] {
            let mut family = to.family(name, help, MetricType::COUNTER);
            for kind in Kind::CALLBACKS {
                family.value(&[("kind", kind.name())], counts[kind as usize].get() as f64);
            }
        }
    }

    fn tell_timers(&self, to: &mut Families) {
        let count = |count: &Count| count.get() as f64;
        to.counter("dosimeter_timers_fired_total", "Timed calls that were run.", count(&self.timers_fired));
        let cancelled = count(&self.timers_cancelled);
        to.counter("dosimeter_timers_cancelled_total", "Timed calls cancelled before their time.", cancelled);
        to.gauge("dosimeter_timers_pending", "Timed calls that wait for their time.", self.timers_pending.get() as f64);
        let help = "How much later than due timed calls were run.";
        to.histogram("dosimeter_timer_lateness_seconds", help, &self.timer_lateness);
    }

    fn tell_thread_calls(&self, to: &mut Families) {
        let calls = self.thread_calls.get() as f64;
        to.counter("dosimeter_thread_calls_total", "Calls made from other threads.", calls);
        let waiting = self.threads_waiting.get() as f64;
        to.gauge("dosimeter_thread_call_queue_length", "Calls from other threads that wait for the loop.", waiting);
        let help = "How long the first call of each batch from other threads waited for the loop.";
        to.histogram("dosimeter_thread_call_wait_seconds", help, &self.thread_call_wait);
    }
}

impl ConnectionFigures {
    fn tell(&self, to: &mut Families) {
        to.gauge("dosimeter_connections", "Stream connections that are open.", self.open.get() as f64);
        let accepted = self.accepted.get() as f64;
        to.counter("dosimeter_connections_accepted_total", "Connections accepted by listening ports.", accepted);
        let (refused, help) = (
            self.refused.get() as f64,
            "Connections closed at once because the factory wanted none, mostly for a limit.",
        );
        to.counter("dosimeter_connections_refused_total", help, refused);
        let help = "Connections that could not be accepted, by error.";
        let mut errors = to.family("dosimeter_accept_errors_total", help, MetricType::COUNTER);
        for (name, count) in AcceptError::NAMES.iter().zip(&self.accept_errors) {
            errors.value(&[("error", name)], count.get() as f64);
        }
        let made = self.made.get() as f64;
        to.counter("dosimeter_connections_made_total", "Connections made to others.", made);
        let help = "Connections that could not be made, by error.";
        let mut errors = to.family("dosimeter_connect_errors_total", help, MetricType::COUNTER);
        for (name, count) in CONNECT_ERRORS.iter().zip(&self.connect_errors) {
            errors.value(&[("error", name)], count.get() as f64);
        }
        let help = "Stream connections that have ended, by reason.";
        let mut closed = to.family("dosimeter_connections_closed_total", help, MetricType::COUNTER);
        for (name, count) in CloseReason::NAMES.iter().zip(&self.closed) {
            closed.value(&[("reason", name)], count.get() as f64);
        }
        let received = self.received_bytes.get() as f64;
        to.counter("dosimeter_receive_bytes_total", "Bytes received over stream connections.", received);
        let sent = self.sent_bytes.get() as f64;
        to.counter("dosimeter_transmit_bytes_total", "Bytes sent over stream connections.", sent);
    }
}

impl DeferredFigures {
    /// Takes over what was counted since a reactor of this thread last did: of several, the one whose turn it is.
    pub(crate) fn take(&self, tally: &Tally) {
        let mut pending = tally.created.get() as i64 - tally.forgotten.take() as i64;
        for (figure, count) in [
            (&self.fired, &tally.fired),
            (&self.failed, &tally.failed),
            (&self.cancelled, &tally.cancelled),
            (&self.abandoned, &tally.abandoned),
        ] {
            pending -= count.get() as i64;
            figure.add(count.take());
        }
        self.created.add(tally.created.take());
        self.unhandled.add(tally.unhandled.take());
        self.pending.add(pending);
    }

    fn tell(&self, to: &mut Families) {
        for (name, help, count) in [
            ("dosimeter_deferreds_created_total", "Deferreds made unfired, to be fired later.", &self.created),
            ("dosimeter_deferreds_fired_total", "Deferreds fired with a value.", &self.fired),
            ("dosimeter_deferreds_failed_total", "Deferreds fired with a failure.", &self.failed),
            (
                "dosimeter_deferreds_cancelled_total",
                "Deferreds that failed because they were cancelled.",
                &self.cancelled,
            ),
            ("dosimeter_deferreds_abandoned_total", "Deferreds whose Completer was dropped unfired.", &self.abandoned),
            (
                "dosimeter_deferreds_unhandled_errors_total",
                "Failures that came to the end of their chain without an errback that handled them.",
                &self.unhandled,
            ),
        ] {
            to.counter(name, help, count.get() as f64);
        }
        let help = "Deferreds made, and neither fired nor dropped yet.";
        to.gauge("dosimeter_deferreds_pending", help, self.pending.get() as f64);
    }
}

/// What mio waits with on this system.
const POLLER: &str = if cfg!(any(target_os = "linux", target_os = "android")) { "epoll" } else { "kqueue" };

pub(super) const REACTOR_LABEL: &str = "reactor";

/// 100 us, the best a loop under load can hope for, to 10 s, when every client has given up.
const TURN_BOUNDS: &[Duration] = &[
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(10),
];
