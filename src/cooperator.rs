//! [`Cooperator`]: long work in small steps, between which the loop goes on.
//!
//! Rules kept here:
//! - Tasks take turns: one step each, in the order they came, and the order goes on where the last slice ended.
//! - A slice is at least one step and ends with the step during which its time is over. Then the loop has its turn.
//! - A task that waits, is paused or has ended costs nothing; with no task left nothing is armed.
//! - Whoever asks a task that has ended is told how it ended, as often as he asks.
//! - No step runs, and no step or waiter is dropped, while anything of ours is borrowed.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, DelayedCall, WeakTimers};
use crate::deferred::{Completer, Deferred, IntoDeferred};
use crate::failure::{Failure, Result, guard};
use crate::reactor::{Key, Reactor, poller};
use crate::slots::Slots;

/// Does long work in small steps on a clock, so that the loop goes on in between.
///
/// A piece of work is an iterator: each step is what its `next` does until it returns. What it returns says when to go on: at
/// once (`()`), or when a `Deferred` has fired; an error, of a `Result` or of that `Deferred`, ends the task. Several tasks
/// take turns, a step each, for up to ten milliseconds; then everybody else has a turn.
///
/// For what is too long for a callback and too small for a thread, or needs what only the reactor's thread has. Most programs
/// use [`cooperate`] and so share one.
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use dosimeter::Cooperator;
/// use dosimeter::testing::{Clock, success_result_of};
///
/// let (clock, sum) = (Clock::new(), Rc::new(Cell::new(0_u64)));
/// let total = sum.clone();
/// let adding = Cooperator::new(&clock).cooperate((0..1_000_000_u64).map(move |number| total.set(total.get() + number)));
/// assert_eq!(sum.get(), 0, "nothing is done before the loop comes to it");
/// clock.advance(std::time::Duration::ZERO);
/// success_result_of(adding.when_done());
/// assert_eq!(sum.get(), 499_999_500_000);
/// ```
#[derive(Clone)]
pub struct Cooperator(Rc<Inner>);

/// A piece of work that is done in steps; a clone is another handle to the same.
///
/// Dropping the handles changes nothing.
#[derive(Clone)]
pub struct CooperativeTask {
    cooperator: Rc<Inner>,
    task: Rc<Task>,
}

/// How a task has ended, or why it could not do what it was asked to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TaskError {
    /// It has done all its steps.
    #[doc(alias = "TaskDone")]
    Done,
    /// A step has failed, with this.
    #[doc(alias = "TaskFailed")]
    Failed(Arc<Failure>),
    /// It was stopped.
    #[doc(alias = "TaskStopped")]
    Stopped,
    /// Its cooperator was stopped, before or after it came.
    SchedulerStopped,
    /// It was asked to resume and is not paused.
    NotPaused,
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TaskError::Done => "the task is done",
            TaskError::Failed(_) => "a step of the task has failed",
            TaskError::Stopped => "the task was stopped",
            TaskError::SchedulerStopped => "the cooperator of the task was stopped",
            TaskError::NotPaused => "the task is not paused",
        })
    }
}

impl Error for TaskError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            TaskError::Failed(failure) => Some(failure.error()),
            _ => None,
        }
    }
}

/// Does `steps` with the cooperator of `reactor`, which all share; see [`Cooperator`].
///
/// What is not done when the reactor ends fails with [`TaskError::SchedulerStopped`].
///
/// ```
/// use dosimeter::{Reactor, cooperate};
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let files = std::fs::read_dir("/proc/self/fd")?;
/// let task = cooperate(&reactor, files.map(|file| Ok(println!("{:?}", file?.file_name()))));
/// let stop = reactor.clone();
/// task.when_done().add_both(move |_| Ok(stop.stop()?));
/// reactor.run()
/// # }
/// ```
pub fn cooperate<I>(reactor: &Reactor, steps: I) -> CooperativeTask
where
    I: IntoIterator<Item: IntoDeferred<()>>,
    I::IntoIter: 'static,
{
    let shared = reactor.local(|| {
        let cooperator = Cooperator::new(reactor);
        if reactor.has_ended() {
            cooperator.stop();
        }
        let at_the_end = cooperator.clone();
        reactor.on_shutdown().during(move || at_the_end.stop());
        cooperator
    });
    shared.cooperate(steps)
}

struct Inner {
    /// Weak, for the clock holds what is armed on it.
    clock: WeakTimers,
    begin_slice: BeginSlice,
    is_running: Cell<bool>,
    /// Those that have a step to do, in their order, and some that no longer have one, which are passed over.
    queue: RefCell<VecDeque<Rc<Task>>>,
    /// How many tasks have a step to do.
    ready: Cell<usize>,
    /// All that have not ended.
    tasks: RefCell<Slots<Weak<Task>>>,
    next_slice: Cell<Option<DelayedCall>>,
}

/// Begins a slice; what it returns tells, after each step, whether the slice is over.
type BeginSlice = Box<dyn Fn() -> Box<dyn FnMut() -> bool>>;

struct Task {
    cooperator: Weak<Inner>,
    key: Cell<Key>,
    /// Absent while a step runs, and from the end on.
    steps: Cell<Option<Steps>>,
    /// It has a step to do: it has not ended, is not paused, and waits for nothing.
    is_ready: Cell<bool>,
    is_queued: Cell<bool>,
    pauses: Cell<usize>,
    /// What the last step has returned has no result yet.
    waits: Cell<bool>,
    state: RefCell<State>,
}

/// Does a step; `None` when there was none left.
type Steps = Box<dyn FnMut() -> Option<Deferred<()>>>;

enum State {
    /// Not ended, with those who wait for that.
    Going(Vec<Completer<()>>),
    /// Ended like this. A failure that nobody has asked for is logged when the task is forgotten.
    Ended(TaskError, Option<Deferred<()>>),
}

impl Cooperator {
    /// A cooperator on `clock`, with slices of ten milliseconds of the real time.
    pub fn new(clock: &impl Clock) -> Self {
        Cooperator::with_slices(clock, || {
            let end = poller::clock() + SLICE;
            move || poller::clock() >= end
        })
    }

    /// A cooperator with slices of another length: `begin` is called at the beginning of each, and what it returns after every
    /// step, until that says that the slice is over.
    ///
    /// ```
    /// # use dosimeter::Cooperator;
    /// # let clock = dosimeter::testing::Clock::new();
    /// let three_steps = Cooperator::with_slices(&clock, || {
    ///     let mut steps = 0;
    ///     move || {
    ///         steps += 1;
    ///         steps == 3
    ///     }
    /// });
    /// ```
    #[doc(alias = "terminationPredicateFactory")]
    pub fn with_slices<F: FnMut() -> bool + 'static>(clock: &impl Clock, begin: impl Fn() -> F + 'static) -> Self {
        Cooperator(Rc::new(Inner {
            clock: clock.timers().downgrade(),
            begin_slice: Box::new(move || Box::new(begin())),
            is_running: Cell::new(true),
            queue: RefCell::default(),
            ready: Cell::new(0),
            tasks: RefCell::new(Slots::new()),
            next_slice: Cell::new(None),
        }))
    }

    /// Begins a piece of work. Its first step is done when the clock comes to it, and not before this returns.
    pub fn cooperate<I>(&self, steps: I) -> CooperativeTask
    where
        I: IntoIterator<Item: IntoDeferred<()>>,
        I::IntoIter: 'static,
    {
        let mut steps = steps.into_iter();
        let task = Rc::new_cyclic(|weak: &Weak<Task>| Task {
            cooperator: Rc::downgrade(&self.0),
            key: Cell::new(self.0.tasks.borrow_mut().insert(weak.clone())),
            steps: Cell::new(Some(Box::new(move || Some(steps.next()?.into_deferred())))),
            is_ready: Cell::new(false),
            is_queued: Cell::new(false),
            pauses: Cell::new(0),
            waits: Cell::new(false),
            state: RefCell::new(State::Going(Vec::new())),
        });
        if self.is_running() {
            self.0.update(&task);
        } else {
            self.0.end(&task, TaskError::SchedulerStopped);
        }
        CooperativeTask { cooperator: self.0.clone(), task }
    }

    /// Begins a piece of work and gives the chain that tells of its end: [`cooperate`](Cooperator::cooperate), for who needs
    /// no handle.
    pub fn coiterate<I>(&self, steps: I) -> Deferred<()>
    where
        I: IntoIterator<Item: IntoDeferred<()>>,
        I::IntoIter: 'static,
    {
        self.cooperate(steps).when_done()
    }

    /// Ends every task, also those that are paused or wait, with [`TaskError::SchedulerStopped`]; new ones end so at once.
    pub fn stop(&self) {
        self.0.is_running.set(false);
        let tasks: Vec<_> = self.0.tasks.borrow().values().filter_map(Weak::upgrade).collect();
        for task in tasks {
            // One that is told may have stopped another.
            if task.ended().is_none() {
                self.0.end(&task, TaskError::SchedulerStopped);
            }
        }
    }

    /// Takes tasks again after a [`stop`](Cooperator::stop); a new cooperator does from the beginning.
    pub fn start(&self) {
        self.0.is_running.set(true);
    }

    /// Whether it was not stopped.
    #[doc(alias = "running")]
    pub fn is_running(&self) -> bool {
        self.0.is_running.get()
    }
}

impl fmt::Debug for Cooperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = self.0.tasks.borrow().len();
        f.debug_struct("Cooperator").field("is_running", &self.is_running()).field("tasks", &tasks).finish()
    }
}

impl CooperativeTask {
    /// A chain that fires when the task is done, and fails with a [`TaskError`] when it ends otherwise.
    ///
    /// Each call gives a chain of its own, after the end as well. Cancelling one does not touch the task.
    #[doc(alias = "whenDone")]
    pub fn when_done(&self) -> Deferred<()> {
        match &mut *self.task.state.borrow_mut() {
            State::Going(waiting) => {
                let (completer, done) = Deferred::pair();
                waiting.push(completer);
                done
            }
            State::Ended(TaskError::Done, _) => Deferred::succeed(()),
            State::Ended(how, unheard) => unheard.take().unwrap_or_else(|| Deferred::fail(how.clone())),
        }
    }

    /// Does no further step until [`resume`](CooperativeTask::resume) was called as often as this.
    ///
    /// # Errors
    /// How the task has ended, if it has.
    pub fn pause(&self) -> Result<(), TaskError> {
        self.check()?;
        self.task.pauses.update(|pauses| pauses + 1);
        self.cooperator.update(&self.task);
        Ok(())
    }

    /// Takes back a [`pause`](CooperativeTask::pause). For a task that has ended while it was paused this does nothing.
    ///
    /// # Errors
    /// [`TaskError::NotPaused`], or how the task has ended, if it was not paused then.
    pub fn resume(&self) -> Result<(), TaskError> {
        let Some(fewer) = self.task.pauses.get().checked_sub(1) else {
            self.check()?;
            return Err(TaskError::NotPaused);
        };
        self.task.pauses.set(fewer);
        self.cooperator.update(&self.task);
        Ok(())
    }

    /// Ends the task where it is; its steps are dropped at once, and whoever waits for it is told [`TaskError::Stopped`].
    ///
    /// A `Deferred` that it waits for is not cancelled.
    ///
    /// # Errors
    /// How the task has ended, if it has.
    pub fn stop(&self) -> Result<(), TaskError> {
        self.check()?;
        self.cooperator.end(&self.task, TaskError::Stopped);
        Ok(())
    }

    fn check(&self) -> Result<(), TaskError> {
        self.task.ended().map_or(Ok(()), Err)
    }
}

impl fmt::Debug for CooperativeTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CooperativeTask")
            .field("pauses", &self.task.pauses.get())
            .field("waits", &self.task.waits.get())
            .field("ended", &self.task.ended())
            .finish()
    }
}

impl Inner {
    /// Puts a task into the queue, or takes it out, as it has become.
    fn update(self: &Rc<Self>, task: &Rc<Task>) {
        let is_ready = task.pauses.get() == 0 && !task.waits.get() && task.ended().is_none();
        let was_ready = task.is_ready.replace(is_ready);
        self.ready.set(self.ready.get() + usize::from(is_ready) - usize::from(was_ready));
        if is_ready && !task.is_queued.replace(true) {
            self.queue.borrow_mut().push_back(task.clone());
            self.arm();
        }
        if self.ready.get() == 0 {
            self.disarm();
            let passed_over = self.queue.take();
            passed_over.iter().for_each(|task| task.is_queued.set(false));
        }
    }

    fn arm(self: &Rc<Self>) {
        let armed = self.next_slice.take().or_else(|| {
            let inner = self.clone();
            Some(self.clock.upgrade()?.call_later(Duration::ZERO, move || inner.slice()))
        });
        self.next_slice.set(armed);
    }

    fn disarm(&self) {
        if let Some(call) = self.next_slice.take() {
            // Its clock may be gone.
            let _ = call.cancel();
        }
    }

    fn slice(self: Rc<Self>) {
        // First of all: should the program's idea of a slice panic, the tasks go on all the same.
        self.next_slice.take();
        self.arm();
        let mut is_over = (self.begin_slice)();
        while let Some(task) = self.next_task() {
            self.step(&task);
            if is_over() {
                break;
            }
        }
        if self.queue.borrow().is_empty() {
            self.disarm();
        }
    }

    fn next_task(&self) -> Option<Rc<Task>> {
        loop {
            let task = self.queue.borrow_mut().pop_front()?;
            task.is_queued.set(false);
            if task.is_ready.get() {
                return Some(task);
            }
        }
    }

    fn step(self: &Rc<Self>, task: &Rc<Task>) {
        // Absent when a step moves the clock it runs on, and so comes here again.
        let Some(mut steps) = task.steps.take() else { return };
        let step = guard(&mut steps);
        if task.ended().is_some() {
            // Stopped by its own step; a failure that this returned is logged where it is dropped.
            return;
        }
        task.steps.set(Some(steps));
        match step.map(|step| step.map(Deferred::into_result)) {
            Ok(None) => self.end(task, TaskError::Done),
            Ok(Some(Ok(Ok(())))) => self.update(task),
            Ok(Some(Err(pending))) => self.wait(task, pending),
            Ok(Some(Ok(Err(failure)))) | Err(failure) => self.end(task, TaskError::Failed(Arc::new(failure))),
        }
    }

    fn wait(self: &Rc<Self>, task: &Rc<Task>, pending: Deferred<()>) {
        task.waits.set(true);
        self.update(task);
        let (inner, task) = (self.clone(), task.clone());
        pending.add_both(move |result| {
            task.waits.set(false);
            match result {
                Err(failure) if task.ended().is_none() => inner.end(&task, TaskError::Failed(Arc::new(failure))),
                // A failure that comes after the end is nobody's, and logged.
                Err(failure) => return Err(failure),
                Ok(()) => inner.update(&task),
            }
            Ok(())
        });
    }

    fn end(self: &Rc<Self>, task: &Rc<Task>, how: TaskError) {
        let heard = matches!(&*task.state.borrow(), State::Going(waiting) if !waiting.is_empty());
        let failed = matches!(how, TaskError::Failed(_));
        let unheard = (failed && !heard).then(|| Deferred::fail(how.clone()));
        let before = task.state.replace(State::Ended(how.clone(), unheard));
        self.update(task);
        self.tasks.borrow_mut().remove(task.key.get());
        // User code is dropped and called only now that all is in order.
        drop(task.steps.take());
        if let State::Going(waiting) = before {
            for completer in waiting {
                completer.fire(match &how {
                    TaskError::Done => Ok(()),
                    how => Err(how.clone().into()),
                });
            }
        }
    }
}

impl Task {
    fn ended(&self) -> Option<TaskError> {
        match &*self.state.borrow() {
            State::Going(_) => None,
            State::Ended(how, _) => Some(how.clone()),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(cooperator) = self.cooperator.upgrade() {
            cooperator.tasks.borrow_mut().remove(self.key.get());
        }
    }
}

/// Twisted's figure: long enough to get on, short enough that nobody notices.
const SLICE: Duration = Duration::from_millis(10);
