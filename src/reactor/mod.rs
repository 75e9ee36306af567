//! [`Reactor`]: the event loop.
//!
//! One turn ([`Reactor::turn`]), in this order:
//!
//! 1. the calls from other threads that are present now;
//! 2. the timed calls that are due and were armed before this point; if the end was asked for, it begins here;
//! 3. what transports have gathered is written out; if nothing is to be waited for before the end, it comes here;
//! 4. poll, until something is ready or the next timed call is due; when it returns, "now" is read, once for the turn;
//! 5. the ready sources, and those that asked to be called again; each writes what it gathered when its handler is done.
//!
//! Rules kept here:
//! - No cell of the reactor is borrowed while any of that runs: user code may call everything, [`Reactor::turn`] excepted.
//! - Each step handles what was there when it began: nothing that user code adds can keep the step from ending.
//! - A panic in user code is logged and counted, and the turn goes on.
//! - The clock is read twice a turn, before and after poll; everybody else gets the time from [`Clock`]. After each callback
//!   it is read only while somebody watches, or for a while after a turn that was slow: one of its callbacks will be again.

mod cores;
mod life;
pub(crate) mod metrics;
mod pace;
pub(crate) mod poller;
mod remote;
mod signals;
mod threads;
mod triggers;
pub(crate) mod watch;
mod work;

use std::any::{Any, TypeId, type_name};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::Registry;

use crate::buffer::Buffers;
use crate::clock::{Clock, DelayedCall, Place, Timers};
use crate::deferred::{Spawner, TALLY, resume};
use crate::failure::{Failure, Result, guard};
pub(crate) use crate::slots::Key;
use crate::slots::Slots;
pub use cores::run_on_cores;
use metrics::{ConnectionFigures, Figures, LoopFigures, Publication};
use pace::{Pace, STALL_LIMIT, describe};
use poller::{EVENTS_PER_POLL, Poller, Readiness, Ready, Source, WAKE, Wants};
use remote::Mailbox;
use signals::SignalWatch;
use threads::ThreadPool;
pub use triggers::{Trigger, TriggerGone, Triggers};
use watch::{Kind, Watch};

/// The event loop: one thread that waits for sockets, timers and other threads, and calls back.
///
/// A `Reactor` is a cheap handle, to be cloned and passed to whatever needs it; there is no global one. It belongs to its
/// thread. Other threads reach it through [`Reactor::remote`].
///
/// ```
/// use std::time::Duration;
/// use dosimeter::{Clock, Reactor};
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// reactor.call_later(Duration::from_millis(1), {
///     let reactor = reactor.clone();
///     move || reactor.stop().expect("it is running")
/// });
/// reactor.run()
/// # }
/// ```
#[derive(Clone)]
pub struct Reactor(Rc<Inner>);

/// A [`Reactor`] that may be gone; it does not keep one alive.
///
/// For what a reactor itself holds, directly or not, and what needs the reactor: with a `Reactor` in it neither would ever
/// be dropped.
#[derive(Clone)]
pub struct WeakReactor(Weak<Inner>);

/// The way to a [`Reactor`] for other threads: the one part that is `Send`.
///
/// ```
/// use dosimeter::Reactor;
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let remote = reactor.remote();
/// std::thread::spawn(move || {
///     let answer = 6 * 7;
///     remote.call_from_thread(move |reactor| {
///         assert_eq!(answer, 42);
///         reactor.stop().expect("it is running");
///     })
/// });
/// reactor.run()
/// # }
/// ```
#[derive(Clone)]
pub struct Remote(Arc<Mailbox<Reactor>>);

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
    name: String,
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
    /// Nowhere.
    Off,
}

/// Why a reactor could not do what it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReactorError {
    /// `stop` without a `run` to stop.
    #[doc(alias = "ReactorNotRunning")]
    NotRunning,
    /// `run` or `turn` inside of one.
    #[doc(alias = "ReactorAlreadyRunning")]
    AlreadyRunning,
    /// `run` after a `stop`.
    #[doc(alias = "ReactorNotRestartable")]
    NotRestartable,
    /// A call from a thread to a reactor that has stopped or no longer exists.
    Gone,
    /// A call that would wait for the reactor in the reactor's own thread.
    OwnThread,
}

impl fmt::Display for ReactorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReactorError::NotRunning => "the reactor is not running",
            ReactorError::AlreadyRunning => "the reactor is already running; a callback cannot run it again",
            ReactorError::NotRestartable => "the reactor was stopped and cannot be run again; make a new one",
            ReactorError::Gone => "the reactor has stopped",
            ReactorError::OwnThread => {
                "this is the thread of the reactor, which would wait for itself; call the function here"
            }
        })
    }
}

impl std::error::Error for ReactorError {}

struct Inner {
    name: Arc<str>,
    /// What the figures call this reactor: its name, or a number when another one has none either.
    label: RefCell<Arc<str>>,
    phase: Cell<Phase>,
    shutdown: Cell<Shutdown>,
    /// `run` is on the stack.
    looping: Cell<bool>,
    in_turn: Cell<bool>,
    on_startup: Triggers,
    on_shutdown: Triggers,
    timers: Timers,
    /// See [`Builder::virtual_time`].
    virtual_time: bool,
    /// It is one of several that listen at the same addresses.
    shares_ports: bool,
    poller: RefCell<Poller>,
    /// The room for events; absent while they are dispatched.
    ready: Cell<Option<Ready>>,
    sources: RefCell<Slots<Rc<dyn Handler>>>,
    /// Sources that have more to read than one turn may take.
    again: RefCell<Vec<Key>>,
    /// Sources that have something to write out.
    dirty: RefCell<Vec<Rc<dyn Handler>>>,
    mailbox: Arc<Mailbox<Reactor>>,
    signal_handlers: bool,
    /// Present while `run` watches for signals.
    signals: RefCell<Option<SignalWatch>>,
    signal: Cell<Option<i32>>,
    max_threads: Cell<usize>,
    pool: OnceCell<ThreadPool>,
    spawner: OnceCell<Spawner>,
    /// What to do with the results that the pool will send.
    replies: RefCell<Slots<Reply>>,
    /// Threads that wait for an answer.
    askers: RefCell<Slots<Rc<dyn Asker>>>,
    buffers: Buffers,
    locals: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
    figures: Arc<LoopFigures>,
    registry: Option<Registry>,
    publications: RefCell<Vec<Publication>>,
    watch: Arc<Watch>,
    pace: Pace,
}

/// Where a reactor is in its life; see `life.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not in `run`, be it not yet or no longer. It may be turned by hand.
    Idle,
    /// `run` was called; what is to be done before the startup is waited for.
    Starting,
    Running,
    /// Everything is closed.
    Ended,
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shutdown {
    NotAsked,
    Asked,
    /// What is to be done before it is waited for.
    Begun,
    /// Nothing is waited for any more.
    Ready,
}

/// Something that poll tells about.
pub(crate) trait Handler {
    /// The source is ready, or asked to be called again.
    fn ready(self: Rc<Self>, readiness: Readiness);
    /// The source was scheduled to write what it gathered.
    fn flush(self: Rc<Self>);
    /// The reactor has stopped.
    fn shut_down(self: Rc<Self>);
    /// Something that concerns many sources has changed; see [`Reactor::call_up`].
    fn called_up(self: Rc<Self>) {}
    /// What it is called when it takes long.
    fn name(&self) -> &'static str {
        type_name::<Self>()
    }
}

/// Takes the result of a job of the thread pool.
type Reply = Box<dyn FnOnce(Result<Box<dyn Any + Send>>)>;

/// A thread that waits for an answer.
trait Asker {
    /// There will be none.
    fn turn_away(&self);
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

    /// Calls `function` in the next turn, after sources had theirs: `call_later` with no delay.
    #[track_caller]
    pub fn call_soon(&self, function: impl FnOnce() + 'static) -> DelayedCall {
        self.call_later(Duration::ZERO, function)
    }

    /// The handle with which other threads reach this reactor.
    pub fn remote(&self) -> Remote {
        Remote(self.0.mailbox.clone())
    }

    /// A handle that does not keep the reactor alive.
    pub fn downgrade(&self) -> WeakReactor {
        WeakReactor(Rc::downgrade(&self.0))
    }

    /// The name given with [`Builder::name`]; empty for the only reactor of a program.
    pub fn name(&self) -> &str {
        &self.0.name
    }
}

impl Clock for Reactor {
    fn timers(&self) -> &Timers {
        &self.0.timers
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("name", &self.0.name).field("phase", &self.0.phase.get()).finish()
    }
}

impl WeakReactor {
    /// The reactor, if it still exists.
    pub fn upgrade(&self) -> Option<Reactor> {
        self.0.upgrade().map(Reactor)
    }
}

impl fmt::Debug for WeakReactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakReactor")
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remote")
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
    /// `dosimeter_slow_callbacks_total`, and the log names the line that registered it, or its type: at the most one line a
    /// second. Nothing is interrupted.
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
        let registry = match self.metrics {
            Metrics::Default => Some(prometheus::default_registry().clone()),
            Metrics::Registry(registry) => Some(registry),
            Metrics::Off => None,
        };
        let reactor = Reactor(Rc::new(Inner {
            label: RefCell::new(self.name.as_str().into()),
            name: self.name.into(),
            phase: Cell::new(Phase::Idle),
            shutdown: Cell::new(Shutdown::NotAsked),
            looping: Cell::new(false),
            in_turn: Cell::new(false),
            on_startup: Triggers::new(),
            on_shutdown: Triggers::new(),
            pace: Pace::new(self.stall_limit, watch.clone(), figures.clone()),
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
            registry,
            publications: RefCell::default(),
        }));
        reactor.conduct_events();
        reactor.publish_first();
        Ok(reactor)
    }
}

impl From<Registry> for Metrics {
    fn from(registry: Registry) -> Self {
        Metrics::Registry(registry)
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// One turn
// ---------------------------------------------------------------------------------------------------------------------

impl Reactor {
    /// Time may have passed since the last turn, or since the reactor was made.
    fn begin_turns(&self) {
        let now = self.read_clock();
        self.0.pace.begin_turn(now);
    }

    /// Moves "now" to the present and returns it.
    fn read_clock(&self) -> u64 {
        if !self.0.virtual_time {
            self.0.timers.set_now(poller::clock());
        }
        self.0.timers.nanos()
    }

    fn one_turn(&self, timeout: Option<Duration>) -> Result<()> {
        if self.0.in_turn.replace(true) {
            return Err(ReactorError::AlreadyRunning.into());
        }
        self.run_thread_calls();
        self.run_timed_calls();
        self.begin_shutdown();
        self.flush_dirty();
        let outcome = if self.end_if_ready() { Ok(()) } else { self.poll(timeout) };
        self.0.in_turn.set(false);
        outcome
    }

    fn run_thread_calls(&self) {
        let batch = self.0.mailbox.take();
        if let Some(since) = batch.since
            && !self.0.virtual_time
        {
            let waited = self.present_nanos().saturating_sub(self.0.timers.nanos_at(since));
            self.0.figures.thread_call_wait.observe(waited);
        }
        self.0.figures.thread_calls.add(batch.calls.len() as u64);
        for (call, line) in batch.calls {
            self.call_back(Kind::Thread, Place::Line(line), || call(self));
        }
    }

    fn run_timed_calls(&self) {
        let mark = self.0.timers.mark();
        while let Some((action, late)) = self.0.timers.pop_due(mark) {
            self.0.figures.timers_fired.add(1);
            self.0.figures.timer_lateness.observe(late);
            self.call_back(Kind::Timer, action.place(), || action.run());
        }
    }

    fn flush_dirty(&self) {
        let mut dirty = self.0.dirty.take();
        for handler in dirty.drain(..) {
            self.0.figures.flushes.add(1);
            self.call_back(Kind::Flush, Place::Type(handler.name()), || handler.flush());
        }
        // The room is kept; what was scheduled meanwhile goes out in the next turn, which will not wait.
        let mut scheduled = self.0.dirty.borrow_mut();
        if scheduled.is_empty() {
            *scheduled = dirty;
        }
    }

    fn poll(&self, limit: Option<Duration>) -> Result<()> {
        let mut ready = self.0.ready.take().unwrap_or_else(Ready::new);
        let again = self.0.again.take();
        let before = self.read_clock();
        self.count_turn(before);
        self.0.watch.set(Kind::Waiting);
        let timeout = self.skip_wait(self.poll_timeout(limit, !again.is_empty()));
        let outcome = self.0.poller.borrow_mut().wait(&mut ready, timeout);
        let now = self.read_clock();
        self.0.pace.begin_turn(now);
        self.0.watch.set(Kind::Io);
        self.0.figures.idle_nanos.add(now - before);
        self.0.figures.last_turn_nanos.set(now);
        outcome?;
        self.dispatch_ready(&ready, again);
        self.0.ready.set(Some(ready));
        Ok(())
    }

    fn poll_timeout(&self, limit: Option<Duration>, more_to_read: bool) -> Option<Duration> {
        let ending = matches!(self.0.shutdown.get(), Shutdown::Asked | Shutdown::Ready) || self.is_leaving();
        if more_to_read || ending || !self.0.dirty.borrow().is_empty() || !self.0.mailbox.is_empty() {
            return Some(Duration::ZERO);
        }
        match (self.0.timers.until_next(), limit) {
            (Some(next), Some(limit)) => Some(next.min(limit)),
            (next, limit) => next.or(limit),
        }
    }

    /// In virtual time a wait with an end is over at once.
    fn skip_wait(&self, timeout: Option<Duration>) -> Option<Duration> {
        match timeout {
            Some(timeout) if self.0.virtual_time => {
                self.0.timers.set_now(self.0.timers.now() + timeout);
                Some(Duration::ZERO)
            }
            timeout => timeout,
        }
    }

    fn dispatch_ready(&self, ready: &Ready, again: Vec<Key>) {
        let mut events = 0;
        for (token, readiness) in ready.iter() {
            events += 1;
            if token != WAKE {
                self.dispatch_source(Key::from_usize(token), readiness);
            }
        }
        self.0.figures.events.add(events);
        self.0.figures.polls_full.add(u64::from(events >= EVENTS_PER_POLL as u64));
        for key in again {
            self.dispatch_source(key, Readiness::AGAIN);
        }
    }

    /// A key whose source is gone finds nothing: the event was for a socket that an earlier handler closed.
    fn dispatch_source(&self, key: Key, readiness: Readiness) {
        let handler = self.0.sources.borrow().get(key).cloned();
        if let Some(handler) = handler {
            self.0.figures.io_callbacks.add(1);
            self.call_back(Kind::Io, Place::Type(handler.name()), || handler.ready(readiness));
        }
    }

    /// Calls something that may take its time.
    fn call_back(&self, kind: Kind, place: Place, call: impl FnOnce()) {
        self.0.watch.enter(kind, place);
        if let Err(failure) = guard(call) {
            self.0.figures.panics[kind as usize].add(1);
            let callback = format!("\n  callback: {place}");
            failure.log_and("dosimeter::reactor", format_args!("{} failed", describe(kind)), &callback);
        }
        self.0.pace.count_callback(|| self.present_nanos());
    }

    /// The boundary that no panic of user code passes.
    fn dispatch(&self, what: &str, call: impl FnOnce()) {
        if let Err(failure) = guard(call) {
            self.0.figures.panics[self.0.watch.kind() as usize].add(1);
            failure.log("dosimeter::reactor", format_args!("{what} failed"));
        }
    }

    fn count_turn(&self, end: u64) {
        let busy = end - self.0.pace.turn_start();
        let figures = &self.0.figures;
        figures.turns.add(1);
        figures.busy_nanos.add(busy);
        figures.turn.observe(busy);
        figures.timers_pending.set(self.0.timers.len() as u64);
        figures.timers_cancelled.set(self.0.timers.cancelled());
        TALLY.with(|tally| figures.deferreds.take(tally));
        self.0.pace.judge_turn(end, busy);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watch.set(Kind::Away);
        drop(self.mailbox.close());
        self.turn_askers_away();
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What the floors above build on
// ---------------------------------------------------------------------------------------------------------------------

impl Reactor {
    /// Registers a source; its handler is kept until [`remove_source`](Reactor::remove_source).
    pub(crate) fn add_source(
        &self,
        source: &mut dyn Source,
        handler: Rc<dyn Handler>,
        wants: Wants,
    ) -> io::Result<Key> {
        if self.0.phase.get() == Phase::Ended {
            // Nobody would ever close it.
            return Err(io::Error::other(ReactorError::Gone));
        }
        let key = self.0.sources.borrow_mut().insert(handler);
        self.0.figures.sources.add(1);
        let outcome = self.0.poller.borrow().register(source, key.to_usize(), wants);
        outcome.map(|()| key).inspect_err(|_| self.remove_source(key))
    }

    pub(crate) fn change_source(&self, source: &mut dyn Source, key: Key, wants: Wants) -> io::Result<()> {
        self.0.poller.borrow().reregister(source, key.to_usize(), wants)
    }

    /// Takes a source out of the poll, for one that will not be closed at once.
    pub(crate) fn forget_source(&self, source: &mut dyn Source) {
        // A descriptor that is closed has left it already.
        let _ = self.0.poller.borrow().deregister(source);
    }

    /// Forgets a source whose descriptor lives on, to be registered anew.
    pub(crate) fn release_source(&self, source: &mut dyn Source, key: Key) -> io::Result<()> {
        self.remove_source(key);
        self.0.poller.borrow().deregister(source)
    }

    /// Forgets a source. Its descriptor leaves the poll when it is closed.
    pub(crate) fn remove_source(&self, key: Key) {
        let handler = self.0.sources.borrow_mut().remove(key);
        if handler.is_some() {
            self.0.figures.sources.add(-1);
        }
    }

    /// Keeps a handler that waits for no descriptor: it is called when it is made ready again, and told of the end.
    pub(crate) fn add_handler(&self, handler: Rc<dyn Handler>) -> Result<Key, ReactorError> {
        if self.0.phase.get() == Phase::Ended {
            return Err(ReactorError::Gone);
        }
        Ok(self.0.sources.borrow_mut().insert(handler))
    }

    pub(crate) fn remove_handler(&self, key: Key) {
        // Dropped when the slots are no longer borrowed.
        let handler = self.0.sources.borrow_mut().remove(key);
        drop(handler);
    }

    /// Calls the source again in the next turn, as readable.
    pub(crate) fn ready_again(&self, key: Key) {
        self.0.again.borrow_mut().push(key);
    }

    /// Calls the handler's `flush` before the loop waits again.
    pub(crate) fn schedule_flush(&self, handler: Rc<dyn Handler>) {
        self.0.dirty.borrow_mut().push(handler);
    }

    /// Has every source look whether there is something new to do: for what happens once in the life of a program, and
    /// would cost each source a word to be told of.
    pub(crate) fn call_up(&self) {
        let handlers: Vec<_> = self.0.sources.borrow().values().cloned().collect();
        for handler in handlers {
            self.dispatch("calling up a source", || handler.called_up());
        }
    }

    /// Where its figures are published.
    pub(crate) fn registry(&self) -> Option<Registry> {
        self.0.registry.clone()
    }

    /// Counts a failure that was a panic in a callback of a floor above.
    pub(crate) fn count_panic(&self, failure: &Failure) {
        if failure.is_panic() {
            self.0.figures.panics[self.0.watch.kind() as usize].add(1);
        }
    }

    /// What other threads may see of the loop.
    pub(crate) fn loop_watch(&self) -> &Arc<Watch> {
        &self.0.watch
    }

    pub(crate) fn connection_figures(&self) -> &ConnectionFigures {
        &self.0.figures.connections
    }

    pub(crate) fn buffers(&self) -> &Buffers {
        &self.0.buffers
    }

    /// Publishes figures with the reactor's own, for as long as the reactor lives.
    pub(crate) fn publish<F: Figures>(&self, figures: Arc<F>) {
        if let Some(publish) = self.publisher(figures) {
            self.keep(publish());
        }
    }

    /// What publishes these figures, in any thread: a registry that gathers makes whoever registers wait. What it returns is
    /// to be [kept](Reactor::keep). None when nothing is published.
    pub(crate) fn publisher<F: Figures>(
        &self,
        figures: Arc<F>,
    ) -> Option<impl FnOnce() -> prometheus::Result<Publication> + Send + use<F>> {
        let (registry, label) = (self.0.registry.clone()?, self.0.label.borrow().clone());
        Some(move || Publication::new(&registry, label, figures))
    }

    /// Keeps figures published for as long as the reactor is there.
    pub(crate) fn keep(&self, publication: prometheus::Result<Publication>) {
        match publication {
            Ok(publication) => self.0.publications.borrow_mut().push(publication),
            Err(error) => self.warn_unpublished(&error),
        }
    }

    /// Publishes the reactor's own figures, which settles its label: a second reactor without a name gets a number, or its
    /// series and those of the first would be one.
    fn publish_first(&self) {
        let Some(registry) = &self.0.registry else { return };
        let mut outcome = Publication::new(registry, self.0.label.borrow().clone(), self.0.figures.clone());
        for number in 2..=MOST_UNNAMED {
            if !matches!(outcome, Err(prometheus::Error::AlreadyReg)) || !self.0.name.is_empty() {
                break;
            }
            self.0.label.replace(number.to_string().into());
            outcome = Publication::new(registry, self.0.label.borrow().clone(), self.0.figures.clone());
        }
        match outcome {
            Ok(publication) => self.0.publications.borrow_mut().push(publication),
            Err(error) => self.warn_unpublished(&error),
        }
    }

    fn warn_unpublished(&self, error: &prometheus::Error) {
        log::warn!(
            target: "dosimeter::metrics",
            "figures of reactor {:?} are not exported: {error}; give each reactor of a process a name of its own",
            self.0.name
        );
    }

    /// The present, in nanoseconds as the timers count them: for what ends within a turn.
    pub(crate) fn present_nanos(&self) -> u64 {
        if self.0.virtual_time { self.0.timers.nanos() } else { self.0.timers.nanos_at(poller::clock()) }
    }

    /// Whether its ports are shared with the reactors of other threads.
    pub(crate) fn shares_ports(&self) -> bool {
        self.0.shares_ports
    }

    /// Whether this is a reactor for tests; see [`Builder::virtual_time`].
    pub(crate) fn is_virtual(&self) -> bool {
        self.0.virtual_time
    }

    /// Whether the next turn would find something to do without waiting, in what the reactor itself knows of.
    pub(crate) fn is_busy(&self) -> bool {
        let more_to_read = !self.0.again.borrow().is_empty();
        self.poll_timeout(None, more_to_read) == Some(Duration::ZERO)
    }

    /// What runs the tasks of this reactor.
    pub(crate) fn spawner(&self) -> &Spawner {
        self.0.spawner.get_or_init(|| {
            let mailbox = self.0.mailbox.clone();
            Spawner::new(move |task| {
                // A reactor that is gone has ended its tasks as well.
                let _ = mailbox.send(Box::new(move |_| resume(task)));
            })
        })
    }

    /// The one `T` of this reactor, made when first asked for.
    pub(crate) fn local<T: 'static>(&self, make: impl FnOnce() -> T) -> Rc<T> {
        let known = self.0.locals.borrow().get(&TypeId::of::<T>()).cloned();
        let local = known.unwrap_or_else(|| {
            let made: Rc<dyn Any> = Rc::new(make());
            self.0.locals.borrow_mut().insert(TypeId::of::<T>(), made.clone());
            made
        });
        local.downcast().expect("it is filed under its type")
    }
}

/// Twisted's figure.
const MAX_THREADS: usize = 10;

/// Unnamed reactors that may publish to one registry at the same time; more is a leak of reactors.
const MOST_UNNAMED: usize = 1000;
