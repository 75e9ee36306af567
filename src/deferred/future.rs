//! `async` both ways: a [`Deferred`] can be awaited, and a future be run as a Deferred.
//!
//! Rules kept here:
//! - A task starts at once and runs to its first wait. It goes on inside the call that fires what it waits for, as a callback
//!   would, and by the same loop: a task is a link like any other, and no waker is called on the way.
//! - Whatever is no Deferred wakes a task through its waker, from any thread; the task then goes on in its own thread, from
//!   the loop of its reactor and never inside the waker.
//! - Cancelling a task cancels what it waits for. It ends when its body does.
//! - The body is gone before the result is passed on.
//! - A task is never polled inside of itself.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};

use super::links::{Inputs, Link, Outlet, Ready, Source, deliver, drive, leave_to_chain};
use super::trace::{Place, count, debugging, discard, note_fired, note_made};
use super::{Deferred, State, Upstream, look_upstream};
use crate::failure::{Abandoned, Cancelled, Failure, Result, guard};
use crate::slots::{Key, Slots};

/// Waits for the result. The failure of an awaited chain is handled by that.
///
/// Under any executor: in a task of [`Reactor::spawn`](crate::Reactor::spawn) it goes on inside the call that fires the chain,
/// elsewhere when the executor gets round to it. Dropping it without a result detaches the chain and does not cancel it.
///
/// # Panics
/// When it is polled again after it gave its result.
impl<T: 'static> Future for Deferred<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let this = self.get_mut();
        let source = match this.take() {
            State::Fired(result) => return Poll::Ready(result),
            State::Pending(source) => source,
            State::Taken => panic!("a Deferred was polled after it gave its result"),
        };
        if let Some(result) = source.outlet().take_fired() {
            return Poll::Ready(result);
        }
        match Current::of(context) {
            Some(task) => {
                task.waits_for(Rc::downgrade(&source) as Weak<dyn Link>);
                source.outlet().await_by(task);
            }
            None => source.outlet().poll_by(context.waker().clone()),
        }
        this.state = State::Pending(source);
        Poll::Pending
    }
}

/// The value inside is moved as a whole, pinned or not.
impl<T> Unpin for Deferred<T> {}

/// Runs futures in the thread it was made in, until it is dropped.
pub(crate) struct Spawner {
    post: Arc<dyn Fn(TaskKey) + Send + Sync>,
    thread: ThreadId,
    /// Tells the tasks of this spawner from those of others in the same thread.
    id: u64,
}

/// Names a task of a thread; to be given to [`resume`] in that thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskKey(Key);

impl Spawner {
    /// `post` is called in any thread when a task has been woken; it sees to it that [`resume`] is called in this one.
    pub(crate) fn new(post: impl Fn(TaskKey) + Send + Sync + 'static) -> Self {
        let id = SPAWNERS.replace(SPAWNERS.get() + 1);
        Spawner { post: Arc::new(post), thread: thread::current().id(), id }
    }

    /// Runs `body` to its first wait, and on from there as what it waits for comes.
    pub(crate) fn spawn<T: 'static>(
        &self,
        body: impl Future<Output = Result<T>> + 'static,
        made: Place,
    ) -> Deferred<T> {
        let task = self.task(Box::pin(body), made);
        drive(Some(task.clone()));
        Deferred { state: State::Pending(task), made }
    }

    fn task<T: 'static>(&self, body: Body<T>, made: Place) -> Rc<Task<T>> {
        count(|tally| &tally.created);
        let noted = debugging();
        if noted {
            note_made(made);
        }
        TASKS.with_borrow_mut(|tasks| {
            let key = tasks.insert(None);
            let waker = self.waker(TaskKey(key));
            let task = Rc::new(Task {
                phase: Cell::new(Phase::Idle),
                body: Cell::new(Some(body)),
                upstream: Cell::new(None),
                more_upstream: RefCell::default(),
                waker: Cell::new(Some(waker.clone().into())),
                key,
                noted,
                outlet: Outlet::open(made),
            });
            *tasks.get_mut(key).expect("inserted above") = Some(Entry { task: task.clone(), waker });
            task
        })
    }

    /// A waker that nobody else has: a used one, if there is one.
    fn waker(&self, key: TaskKey) -> Arc<TaskWaker> {
        let mut used = SPARE_WAKERS.with_borrow_mut(Vec::pop);
        if let Some(waker) = used.as_mut().and_then(Arc::get_mut)
            && waker.spawner == self.id
        {
            (waker.key, *waker.posted.get_mut()) = (key, false);
            return used.expect("it was just looked at");
        }
        let (spawner, owner, post) = (self.id, self.thread, self.post.clone());
        Arc::new(TaskWaker { key, spawner, owner, post, posted: AtomicBool::new(false) })
    }
}

impl Spawner {
    /// Ends the tasks that have not ended yet, as abandoned: nothing will wake them any more.
    pub(crate) fn abandon_tasks(&self) {
        let of_this = |tasks: &Tasks| {
            let tasks = tasks.borrow();
            let mine = tasks.values().flatten().filter(|entry| entry.waker.spawner == self.id);
            mine.map(|entry| entry.task.clone()).collect::<Vec<_>>()
        };
        // At the end of the thread the tasks may be gone already.
        for task in TASKS.try_with(of_this).unwrap_or_default() {
            drive(task.abandon());
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.abandon_tasks();
        // They hold what `post` holds: the way to a reactor that is gone.
        let mine = |spare: &RefCell<Vec<Arc<TaskWaker>>>| {
            let (mine, others) = spare.take().into_iter().partition::<Vec<_>, _>(|waker| waker.spawner == self.id);
            spare.replace(others);
            mine
        };
        drop(SPARE_WAKERS.try_with(mine));
    }
}

/// A task was woken: it goes on.
pub(crate) fn resume(key: TaskKey) {
    let task = TASKS.with_borrow(|tasks| {
        let entry = tasks.get(key.0)?.as_ref()?;
        // Cleared before the task looks: what comes after that wakes it again.
        entry.waker.posted.store(false, Ordering::Release);
        Some(entry.task.clone() as Rc<dyn Link>)
    });
    drive(task);
}

/// What a task runs.
type Body<T> = Pin<Box<dyn Future<Output = Result<T>>>>;

/// A future that is run: a link that waits for whatever its body awaits, and the source of what the body ends with.
struct Task<T> {
    phase: Cell<Phase>,
    /// Absent while it is polled, and from its end on.
    body: Cell<Option<Body<T>>>,
    /// The chain that the body waited for when it was polled last.
    upstream: Upstream,
    /// More of them, when it waits for several at a time.
    more_upstream: RefCell<Vec<Weak<dyn Link>>>,
    /// Absent while it is polled, and from its end on.
    waker: Cell<Option<Waker>>,
    key: Key,
    /// Debugging was on when it was spawned.
    noted: bool,
    outlet: Outlet<T>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Polling,
    /// What it waits for was fired while it was polled.
    PollingAgain,
    Ended,
}

/// A task with its type erased: what an awaited chain, and the list of tasks, see.
trait Awaiting: Link {
    /// The task waits for this, for one.
    fn waits_for(&self, upstream: Weak<dyn Link>);
    /// Ends the task for want of anybody who could wake it.
    fn abandon(self: Rc<Self>) -> Ready;
}

impl<T: 'static> Task<T> {
    /// Polls the body once, or again for as long as something was fired meanwhile.
    fn poll(self: &Rc<Self>, body: &mut Body<T>, waker: &Waker) -> Poll<Result<T>> {
        loop {
            self.phase.set(Phase::Polling);
            self.upstream.take();
            self.more_upstream.take();
            let current = Current { task: self.clone(), waker: waker.data() };
            // A chain that ends with its thread finds nothing to run a task with.
            let Ok(outer) = CURRENT.try_with(|slot| slot.replace(Some(current))) else {
                return Poll::Ready(Err(Failure::new(Abandoned)));
            };
            let polled = guard(|| body.as_mut().poll(&mut Context::from_waker(waker)));
            CURRENT.replace(outer);
            match polled {
                Ok(Poll::Pending) if self.phase.get() == Phase::PollingAgain => {}
                Ok(polled) => return polled,
                Err(panic) => return Poll::Ready(Err(panic)),
            }
        }
    }

    fn end(&self, body: Body<T>, result: Result<T>) -> Ready {
        self.phase.set(Phase::Ended);
        self.upstream.take();
        self.more_upstream.take();
        discard(body);
        self.waker.take();
        self.leave();
        if self.noted {
            note_fired(self.outlet.made());
        }
        deliver(&self.outlet, result)
    }

    /// Takes the task off the list, which may be gone at the end of the thread, and keeps its waker for another one.
    fn leave(&self) {
        let entry = TASKS.try_with(|tasks| tasks.borrow_mut().remove(self.key)).ok().flatten().flatten();
        if let Some(Entry { waker, .. }) = entry {
            let keep = |spare: &RefCell<Vec<_>>| {
                let mut spare = spare.borrow_mut();
                if spare.len() < MOST_SPARE_WAKERS {
                    spare.push(waker);
                }
            };
            let _ = SPARE_WAKERS.try_with(keep);
        }
    }

    /// Those of the awaited chains that still exist.
    fn awaited(&self) -> Inputs {
        let first = look_upstream(&self.upstream).map(|first| Rc::downgrade(&first));
        let more = self.more_upstream.borrow();
        first.into_iter().chain(more.iter().filter(|more| more.strong_count() > 0).cloned()).collect()
    }
}

impl<T: 'static> Link for Task<T> {
    fn run(self: Rc<Self>) -> Ready {
        let (Some(mut body), Some(waker)) = (self.body.take(), self.waker.take()) else {
            if self.phase.get() == Phase::Polling {
                self.phase.set(Phase::PollingAgain);
            }
            return None;
        };
        match self.poll(&mut body, &waker) {
            Poll::Pending => {
                self.phase.set(Phase::Idle);
                self.waker.set(Some(waker));
                self.body.set(Some(body));
                None
            }
            Poll::Ready(result) => {
                drop(waker);
                count(|tally| if result.is_ok() { &tally.fired } else { &tally.failed });
                self.end(body, result)
            }
        }
    }

    fn upstream(&self) -> Option<Rc<dyn Link>> {
        if self.more_upstream.borrow().is_empty() { look_upstream(&self.upstream) } else { None }
    }

    /// It waits for several chains, and all are cancelled; or for none, and then its body is dropped where it stands.
    fn cancel(self: Rc<Self>) -> Inputs {
        let awaited = self.awaited();
        if awaited.is_empty()
            && let Some(body) = self.body.take()
        {
            count(|tally| &tally.cancelled);
            drive(self.end(body, Err(Failure::new(Cancelled))));
        }
        awaited
    }

    fn made(&self) -> Option<Place> {
        Some(self.outlet.made())
    }
}

impl<T: 'static> Source<T> for Task<T> {
    fn outlet(&self) -> &Outlet<T> {
        &self.outlet
    }

    fn wait_for(&self, _upstream: Weak<dyn Link>) {
        // Nothing is relayed through a task: its body awaits, and what it awaits says so itself.
    }

    fn admit(&self) -> bool {
        true
    }
}

impl<T: 'static> Awaiting for Task<T> {
    fn waits_for(&self, upstream: Weak<dyn Link>) {
        match self.upstream.take() {
            None => self.upstream.set(Some(upstream)),
            first => {
                self.upstream.set(first);
                self.more_upstream.borrow_mut().push(upstream);
            }
        }
    }

    fn abandon(self: Rc<Self>) -> Ready {
        let body = self.body.take()?;
        count(|tally| &tally.abandoned);
        self.end(body, Err(Failure::new(Abandoned)))
    }
}

/// The task that is polled just now.
struct Current {
    task: Rc<dyn Awaiting>,
    /// What its waker points to.
    waker: *const (),
}

impl Current {
    /// The current task, if it is the one that `context` is about. Within a combinator that has wakers of its own it is not.
    fn of(context: &Context<'_>) -> Option<Rc<dyn Awaiting>> {
        let task = |current: &RefCell<Option<Current>>| {
            let current = current.borrow();
            let current = current.as_ref()?;
            (current.waker == context.waker().data()).then(|| current.task.clone())
        };
        CURRENT.try_with(task).ok().flatten()
    }
}

/// What of a task other threads may hold.
struct TaskWaker {
    key: TaskKey,
    spawner: u64,
    owner: ThreadId,
    post: Arc<dyn Fn(TaskKey) + Send + Sync>,
    /// On its way to being resumed already.
    posted: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Never polled here: who calls a waker may hold a lock that the body wants.
        if thread::current().id() == self.owner && leave_to_chain(|| task_of(self.key)) {
            return;
        }
        if !self.posted.swap(true, Ordering::AcqRel) {
            (self.post)(self.key);
        }
    }
}

fn task_of(key: TaskKey) -> Option<Rc<dyn Link>> {
    let find = |tasks: &Tasks| Some(tasks.borrow().get(key.0)?.as_ref()?.task.clone() as Rc<dyn Link>);
    TASKS.try_with(find).ok().flatten()
}

/// A task that has not ended.
struct Entry {
    task: Rc<dyn Awaiting>,
    waker: Arc<TaskWaker>,
}

/// An entry is empty only while its task is made.
type Tasks = RefCell<Slots<Option<Entry>>>;

thread_local! {
    static TASKS: Tasks = RefCell::new(Slots::new());
    /// Wakers of tasks that have ended. One that somebody still holds is found out when it is to be used, and left to them.
    static SPARE_WAKERS: RefCell<Vec<Arc<TaskWaker>>> = const { RefCell::new(Vec::new()) };
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
    /// How many there were in this thread.
    static SPAWNERS: Cell<u64> = const { Cell::new(0) };
}

/// As many tasks as a busy program starts and ends within one turn; each costs a hundred bytes.
const MOST_SPARE_WAKERS: usize = 64;
