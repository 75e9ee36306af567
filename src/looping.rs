//! [`LoopingCall`]: a function called again and again on a clock.
//!
//! Rules kept here:
//! - Runs stand at whole multiples of the interval after the start. A late run, or a long one, does not move those after it,
//!   and what was missed is skipped: no drift, no bursts.
//! - One run at a time: the next one waits until what the last one returned has its result.
//! - A loop that has ended is not armed and holds nobody's chain.
//! - Time is whole nanoseconds: there is no tenth of a second that ends a little before it should.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::clock::{Clock, DelayedCall, WeakTimers};
use crate::deferred::{Completer, Deferred, IntoDeferred, maybe_deferred};
use crate::failure::Result;

/// Calls a function at an interval, until it is stopped or the function fails.
///
/// The function may return nothing, a `Result` or a `Deferred`; the next call waits for what it returned. Calls are made at
/// whole multiples of the interval after the start, and those that came too late are left out: a function that takes 2.5
/// intervals is called at 0, 3, 6 ... A call that ends exactly on a multiple waits for the next one.
///
/// A clone is another handle to the same loop. Dropping the handles does not stop it.
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use std::time::Duration;
/// use dosimeter::LoopingCall;
/// use dosimeter::testing::Clock;
///
/// let (clock, beats) = (Clock::new(), Rc::new(Cell::new(0)));
/// let count = beats.clone();
/// let heartbeat = LoopingCall::new(&clock, move || count.set(count.get() + 1));
/// let ended = heartbeat.start(Duration::from_secs(1));
/// clock.pump([Duration::from_millis(100); 35]);
/// assert_eq!(beats.get(), 4, "at 0, 1, 2 and 3 s");
/// heartbeat.stop().expect("it runs");
/// assert!(ended.is_fired());
/// ```
#[derive(Clone)]
pub struct LoopingCall(Rc<Inner>);

/// Why a [`LoopingCall`] could not do what it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoopError {
    /// It is started already, or was stopped and still waits for the end of its last run.
    AlreadyRunning,
    /// There is nothing to stop or reset.
    NotRunning,
}

impl fmt::Display for LoopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LoopError::AlreadyRunning => "the looping call is already running",
            LoopError::NotRunning => "the looping call is not running",
        })
    }
}

impl Error for LoopError {}

struct Inner {
    /// Weak, for the clock holds what is armed on it.
    clock: WeakTimers,
    /// Absent while it is called.
    function: Cell<Option<Function>>,
    /// Until the loop is stopped or fails.
    is_running: Cell<bool>,
    stage: RefCell<Stage>,
    plan: Cell<Plan>,
    /// What `start` has given out; absent once it is fired.
    completer: Cell<Option<Completer<LoopingCall>>>,
}

type Function = Box<dyn FnMut(u64) -> Deferred<()>>;

enum Stage {
    Idle,
    /// The next run is armed.
    Armed(DelayedCall),
    /// The function runs, or what it returned has no result yet.
    Busy,
}

/// When runs are due.
#[derive(Clone, Copy)]
struct Plan {
    start: Instant,
    interval: Duration,
    /// How many runs were due until `start`, itself included.
    due_at_start: u64,
    /// How many runs that were due have been told of.
    told: u64,
}

impl LoopingCall {
    /// A loop of `function` on `clock`, not started yet.
    pub fn new<R: IntoDeferred<()>>(clock: &impl Clock, mut function: impl FnMut() -> R + 'static) -> Self {
        LoopingCall::with_count(clock, move |_| function())
    }

    /// The same for a function that wants to know how many calls it stands for: one, and those that were skipped before it.
    ///
    /// What counts are the multiples of the interval that have gone by. A loop without an interval counts one every time.
    #[doc(alias = "withCount")]
    pub fn with_count<R: IntoDeferred<()>>(clock: &impl Clock, mut function: impl FnMut(u64) -> R + 'static) -> Self {
        let plan = Plan { start: clock.now(), interval: Duration::ZERO, due_at_start: 0, told: 0 };
        let function: Function = Box::new(move |count| maybe_deferred(|| function(count)));
        LoopingCall(Rc::new(Inner {
            clock: clock.timers().downgrade(),
            function: Cell::new(Some(function)),
            is_running: Cell::new(false),
            stage: RefCell::new(Stage::Idle),
            plan: Cell::new(plan),
            completer: Cell::new(None),
        }))
    }

    /// Calls the function now, before this returns, and from then on at every `interval`; without one, once in every turn.
    ///
    /// The chain fires with the loop when it is stopped, and fails when the function does. Cancelling it stops the loop. It
    /// fails at once with [`LoopError::AlreadyRunning`] when the loop runs already.
    #[track_caller]
    pub fn start(&self, interval: Duration) -> Deferred<LoopingCall> {
        self.begin(interval, 1, Inner::run)
    }

    /// Starts as [`start`](LoopingCall::start) does, but with the first call after one interval.
    #[track_caller]
    pub fn start_after(&self, interval: Duration) -> Deferred<LoopingCall> {
        self.begin(interval, 0, Inner::arm)
    }

    /// Ends the loop; what `start` has returned fires at once, or when the call that is under way has its result.
    ///
    /// # Errors
    /// [`LoopError::NotRunning`].
    pub fn stop(&self) -> Result<(), LoopError> {
        if !self.0.is_running.replace(false) {
            return Err(LoopError::NotRunning);
        }
        if self.0.disarm()
            && let Some(completer) = self.0.completer.take()
        {
            completer.callback(self.clone());
        }
        Ok(())
    }

    /// Drops the call that is due next and counts the interval from now. While a call is under way this does nothing.
    ///
    /// # Errors
    /// [`LoopError::NotRunning`].
    pub fn reset(&self) -> Result<(), LoopError> {
        if !self.is_running() {
            return Err(LoopError::NotRunning);
        }
        if self.0.disarm() {
            self.0.replan(self.0.plan.get().interval, 0);
            self.0.arm();
        }
        Ok(())
    }

    /// Whether the loop is started and neither stopped nor failed.
    #[doc(alias = "running")]
    pub fn is_running(&self) -> bool {
        self.0.is_running.get()
    }

    #[track_caller]
    fn begin(&self, interval: Duration, due_at_start: u64, first: fn(&Rc<Inner>)) -> Deferred<LoopingCall> {
        if self.is_running() || !matches!(*self.0.stage.borrow(), Stage::Idle) {
            return Deferred::fail(LoopError::AlreadyRunning);
        }
        let (completer, ended) = Deferred::pair();
        let weak = Rc::downgrade(&self.0);
        completer.on_cancel(move || {
            if let Some(inner) = weak.upgrade() {
                inner.completer.take();
                // It may just have been stopped, and wait for its last call.
                let _ = LoopingCall(inner).stop();
            }
        });
        self.0.completer.set(Some(completer));
        self.0.is_running.set(true);
        self.0.replan(interval, due_at_start);
        first(&self.0);
        ended
    }
}

impl fmt::Debug for LoopingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interval = self.0.plan.get().interval;
        f.debug_struct("LoopingCall").field("interval", &interval).field("is_running", &self.is_running()).finish()
    }
}

impl Inner {
    /// The time of a clock that is gone stands still.
    fn now(&self) -> Instant {
        self.clock.upgrade().map_or(self.plan.get().start, |clock| clock.now())
    }

    fn replan(&self, interval: Duration, due_at_start: u64) {
        self.plan.set(Plan { start: self.now(), interval, due_at_start, told: 0 });
    }

    fn arm(self: &Rc<Self>) {
        let Some(clock) = self.clock.upgrade() else { return };
        let inner = self.clone();
        let call = clock.call_later(self.plan.get().wait(clock.now()), move || inner.run());
        self.stage.replace(Stage::Armed(call));
    }

    /// Takes back the run that is armed; `false` when none is.
    fn disarm(&self) -> bool {
        let armed = matches!(*self.stage.borrow(), Stage::Armed(_));
        if armed && let Stage::Armed(call) = self.stage.replace(Stage::Idle) {
            // What is armed is pending: a run takes its own mark away before anything else.
            let _ = call.cancel();
        }
        armed
    }

    fn run(self: &Rc<Self>) {
        self.stage.replace(Stage::Busy);
        let Some(mut function) = self.function.take() else { return };
        let mut plan = self.plan.get();
        let count = plan.count(self.now());
        self.plan.set(plan);
        let outcome = function(count);
        self.function.set(Some(function));
        let inner = self.clone();
        outcome.add_both(move |result| inner.ran(result));
    }

    /// The end of a run. A failure that nobody waits for any more goes back to be logged.
    fn ran(self: &Rc<Self>, result: Result<()>) -> Result<()> {
        self.stage.replace(Stage::Idle);
        if result.is_ok() && self.is_running.get() {
            self.arm();
            return Ok(());
        }
        self.is_running.set(false);
        let Some(completer) = self.completer.take() else { return result };
        completer.fire(result.map(|()| LoopingCall(self.clone())));
        Ok(())
    }
}

impl Plan {
    /// How long from `now` to the next multiple of the interval.
    fn wait(&self, now: Instant) -> Duration {
        match self.interval.as_nanos() {
            0 => Duration::ZERO,
            interval => self.interval - nanos((now - self.start).as_nanos() % interval),
        }
    }

    /// How many runs have come due by `now` that were not told of before.
    fn count(&mut self, now: Instant) -> u64 {
        let Some(intervals) = (now - self.start).as_nanos().checked_div(self.interval.as_nanos()) else { return 1 };
        let due = self.due_at_start + u64::try_from(intervals).unwrap_or(u64::MAX - 1);
        due - std::mem::replace(&mut self.told, due)
    }
}

/// A part of a duration, from its nanoseconds.
fn nanos(nanos: u128) -> Duration {
    const PER_SECOND: u128 = 1_000_000_000;
    let seconds = u64::try_from(nanos / PER_SECOND).expect("no more seconds than the duration it is a part of");
    Duration::new(seconds, (nanos % PER_SECOND) as u32)
}
