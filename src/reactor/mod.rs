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

mod builder;
mod cores;
mod error;
mod life;
pub(crate) mod metrics;
pub(crate) mod pace;
pub(crate) mod poller;
#[cfg(feature = "process")]
pub(crate) mod process;
mod publish;
mod remote;
mod signals;
mod sources;
pub(crate) mod threads;
mod triggers;
pub(crate) mod watch;
mod work;

use std::any::{Any, TypeId, type_name};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

use prometheus::Registry;

use crate::buffer::Buffers;
use crate::clock::{Clock, DelayedCall, Timers};
use crate::deferred::{Spawner, TALLY, resume};
use crate::failure::{Failure, Result, guard};
use crate::schedule::Place;
pub(crate) use crate::slots::Key;
use crate::slots::Slots;
pub use builder::{Builder, Metrics};
pub use cores::run_on_cores;
pub use error::ReactorError;
use metrics::{ConnectionFigures, Figures, LoopFigures};
use pace::{Pace, describe};
use poller::{EVENTS_PER_POLL, Poller, Readiness, Ready, WAKE};
use publish::Publications;
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

struct Inner {
    name: Arc<str>,
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
    /// See [`Metrics::Off`].
    is_counted: bool,
    publications: Publications,
    watch: Arc<Watch>,
    pace: Rc<Pace>,
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
    fn thread(&self) -> ThreadId;
    /// There will be none.
    fn turn_away(&self);
}

impl Reactor {
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

    fn one_turn(&self, limit: Option<Duration>) -> Result<()> {
        if self.0.in_turn.replace(true) {
            return Err(ReactorError::AlreadyRunning.into());
        }
        let has_run = self.run_thread_calls() | self.run_timed_calls();
        // Who turns by hand wants to look what these have done before more is waited for, which may never come.
        let limit = if has_run && !self.0.looping.get() { Some(Duration::ZERO) } else { limit };
        self.begin_shutdown();
        self.flush_dirty();
        let outcome = if self.end_if_ready() { Ok(()) } else { self.poll(limit) };
        self.0.in_turn.set(false);
        outcome
    }

    /// Whether there were any.
    fn run_thread_calls(&self) -> bool {
        // A look costs nothing; taking what is there costs a locked instruction and a lock.
        if self.0.mailbox.is_empty() {
            return false;
        }
        let batch = self.0.mailbox.take();
        if let Some(since) = batch.since
            && !self.0.virtual_time
        {
            let waited = self.present_nanos().saturating_sub(self.0.timers.nanos_at(since));
            self.0.figures.thread_call_wait.observe(waited);
        }
        let count = batch.calls.len();
        self.0.figures.thread_calls.add(count as u64);
        for (call, line) in batch.calls {
            self.call_back(Kind::Thread, Place::Line(line), || call(self));
        }
        count > 0
    }

    /// Whether any was due.
    fn run_timed_calls(&self) -> bool {
        let mut any = false;
        let mark = self.0.timers.mark();
        while let Some((action, late)) = self.0.timers.pop_due(mark) {
            self.0.figures.timers_fired.add(1);
            self.0.figures.timer_lateness.observe(late);
            self.call_back(Kind::Timer, action.place(), || action.run());
            any = true;
        }
        any
    }

    fn flush_dirty(&self) {
        if self.0.dirty.borrow().is_empty() {
            return;
        }
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
        match self.0.looping.get() {
            true => self.count_turn(before),
            false => self.0.pace.pause(before),
        }
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
                self.0.timers.forward(timeout);
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
        self.0.pace.enter(kind, place);
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

    /// Nothing follows at once: what was done since the last poll is counted as a turn of its own, or with what came before
    /// the poll when the reactor is turned by hand.
    fn end_turns(&self) {
        self.count_turn(self.present_nanos());
        self.0.watch.set(Kind::Away);
    }

    fn count_turn(&self, end: u64) {
        let (busy, since_poll) = self.0.pace.busy(end);
        if self.0.is_counted {
            let figures = &self.0.figures;
            figures.turns.add(1);
            figures.busy_nanos.add(busy);
            figures.turn.observe(busy);
            figures.timers_pending.set(self.0.timers.len() as u64);
            figures.timers_cancelled.set(self.0.timers.cancelled());
            TALLY.with(|tally| figures.deferreds.take(tally));
        }
        self.0.pace.judge_turn(end, since_poll);
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
    /// Counts a failure that was a panic in a callback of a floor above.
    pub(crate) fn count_panic(&self, failure: &Failure) {
        if failure.is_panic() {
            self.0.figures.panics[self.0.watch.kind() as usize].add(1);
        }
    }

    /// Where it is said what the loop is at, within a callback.
    pub(crate) fn pace(&self) -> &Rc<Pace> {
        &self.0.pace
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

    /// Whether its figures are published, so that it is worth while to count what takes time to count.
    pub(crate) fn is_counted(&self) -> bool {
        self.0.is_counted
    }

    /// Where its figures are published.
    pub(crate) fn registry(&self) -> Option<Registry> {
        self.0.publications.registry()
    }

    /// What its figures have as the label `reactor`; empty if they have none.
    pub(crate) fn label(&self) -> &Arc<str> {
        self.0.publications.label()
    }

    /// Publishes figures with the reactor's own, for as long as the reactor is there. Waits for nobody.
    pub(crate) fn publish(&self, figures: Arc<dyn Figures>) {
        self.0.publications.publish(figures);
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
