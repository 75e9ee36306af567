//! A small pool of threads for work that would block the loop.
//!
//! Rules kept here:
//! - Threads are made when there is work and none is free, up to a maximum; a program that never blocks has none.
//! - Work queued before the pool is stopped is still done, unless the pool is given up.
//! - A job that panics costs itself, not its thread.
//! - The pool can tell what it is doing: each job knows who asked for it.
//! - The threads of the pool have the priority of the loop: what one gives away it cannot take back, and the next job is
//!   another one's. Work that is to give way has a thread of its own for as long as it takes.

use std::collections::VecDeque;
use std::io;
use std::panic::{Location, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};

use crate::failure::guard;

/// Threads that do the blocking work of one reactor.
pub(crate) struct ThreadPool {
    shared: Arc<Shared>,
    name: String,
}

/// A line of a program.
pub(crate) type Place = &'static Location<'static>;

/// A piece of work, and who asked for it.
pub(crate) struct Job {
    pub(crate) work: Box<dyn FnOnce() + Send>,
    pub(crate) place: Place,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Called when a thread has ended, in that thread.
    ended: Box<dyn Fn() + Send + Sync>,
}

struct State {
    jobs: VecDeque<Job>,
    max_threads: usize,
    threads: Vec<JoinHandle<()>>,
    /// Threads that have not ended.
    alive: usize,
    /// How many were made so far.
    made: usize,
    idle: usize,
    /// What the busy threads work on.
    running: Vec<Place>,
    stopping: bool,
}

/// Does `work` in a thread that gives way to all others of the machine, on Linux, and waits for it: for jobs of the pool that
/// compute for long and that nobody else is to be held up by. It still gets its share of a processor that is never idle.
pub(crate) fn give_way<R: Send>(name: &str, work: impl Fn() -> R + Sync) -> R {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, || {
            // For this thread; elsewhere it would be for the process. Threads that it starts inherit it.
            #[cfg(any(target_os = "linux", target_os = "android"))]
            let _ = rustix::process::nice(GIVEN_WAY);
            work()
        });
        match thread.map(|thread| thread.join()) {
            Ok(done) => done.unwrap_or_else(|panic| resume_unwind(panic)),
            // The system has no thread to spare: then without one.
            Err(_) => work(),
        }
    })
}

/// A tenth of what a thread has that does not give way, if both want the same processor: a page of 100,000 series then takes a
/// second and not, at 19, five.
#[cfg(any(target_os = "linux", target_os = "android"))]
const GIVEN_WAY: i32 = 10;

impl ThreadPool {
    /// `ended` is called in each thread of the pool when it ends.
    pub(crate) fn new(max_threads: usize, name: String, ended: impl Fn() + Send + Sync + 'static) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            max_threads,
            threads: Vec::new(),
            alive: 0,
            made: 0,
            idle: 0,
            running: Vec::new(),
            stopping: false,
        };
        let shared = Shared { state: Mutex::new(state), changed: Condvar::new(), ended: Box::new(ended) };
        ThreadPool { shared: Arc::new(shared), name }
    }

    /// Queues a job.
    ///
    /// # Errors
    /// When the pool is stopped, or there is no thread yet and the system refuses to make one. With at least one thread the job will be done.
    pub(crate) fn submit(&self, job: Job) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.stopping {
            return Err(io::Error::other("the reactor has stopped"));
        }
        if state.idle <= state.jobs.len() && state.alive < state.max_threads {
            match self.start_thread(&mut state) {
                Err(error) if state.alive == 0 => return Err(error),
                _ => {}
            }
        }
        state.jobs.push_back(job);
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Changes how many threads there may be. Those that are too many end when they have nothing in hand.
    pub(crate) fn set_max_threads(&self, max_threads: usize) {
        let mut state = self.shared.lock();
        state.max_threads = max_threads;
        let missing = state.jobs.len().min(max_threads.saturating_sub(state.alive));
        for _ in 0..missing {
            // With those that there are the work is done, if later.
            let _ = self.start_thread(&mut state);
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    fn start_thread(&self, state: &mut State) -> io::Result<()> {
        let shared = self.shared.clone();
        let name = format!("{}-{}", self.name, state.made);
        let thread = thread::Builder::new().name(name).spawn(move || shared.work())?;
        state.threads.retain(|thread| !thread.is_finished());
        state.threads.push(thread);
        state.made += 1;
        state.alive += 1;
        Ok(())
    }
}

impl ThreadPool {
    /// Refuses jobs from now on; the threads end when what is queued is done.
    pub(crate) fn stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
    }

    /// Whether a thread has not ended yet.
    pub(crate) fn is_alive(&self) -> bool {
        self.shared.lock().alive > 0
    }

    /// Whether every thread that has not ended is one of `others`.
    pub(crate) fn are_all_among(&self, others: &[ThreadId]) -> bool {
        let state = self.shared.lock();
        let among = state.threads.iter().filter(|thread| others.contains(&thread.thread().id())).count();
        among == state.alive
    }

    /// Who asked for the jobs that are running, and how many wait behind them.
    pub(crate) fn in_hand(&self) -> (Vec<Place>, usize) {
        let state = self.shared.lock();
        (state.running.clone(), state.jobs.len())
    }

    /// Waits for the threads of a pool that is stopped.
    pub(crate) fn join(&self) {
        let threads = std::mem::take(&mut self.shared.lock().threads);
        for thread in threads {
            // A worker ends by returning: its jobs cannot unwind through it.
            let _ = thread.join();
        }
    }

    /// Leaves the threads to themselves and gives back the jobs that none of them has begun.
    pub(crate) fn abandon(&self) -> VecDeque<Job> {
        let mut state = self.shared.lock();
        state.threads.clear();
        std::mem::take(&mut state.jobs)
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}

impl Shared {
    fn work(&self) {
        let mut done = None;
        while let Some(job) = self.next_job(done) {
            if let Err(failure) = guard(job.work) {
                failure.log("dosimeter::threads", format_args!("a job in the thread pool failed"));
            }
            done = Some(job.place);
        }
        (self.ended)();
    }

    /// The job after the one that was `done`; `None` when this thread is to end, which is then counted already.
    fn next_job(&self, done: Option<Place>) -> Option<Job> {
        let mut state = self.lock();
        if let Some(index) = state.running.iter().position(|running| Some(*running) == done) {
            state.running.swap_remove(index);
        }
        loop {
            let too_many = state.alive > state.max_threads;
            if !too_many && let Some(job) = state.jobs.pop_front() {
                state.running.push(job.place);
                return Some(job);
            }
            if too_many || state.stopping {
                state.alive -= 1;
                return None;
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// No job runs under the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
