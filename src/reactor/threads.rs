//! A small pool of threads for work that would block the loop.
//!
//! Rules kept here:
//! - Threads are made when there is work and none is free, up to a maximum; a program that never blocks has none.
//! - Work queued before the pool is stopped is still done; stopping waits for it.
//! - A job that panics costs itself, not its thread.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::failure::guard;

/// Threads that do the blocking work of one reactor.
pub(crate) struct ThreadPool {
    shared: Arc<Shared>,
    max_threads: usize,
    name: String,
}

/// A piece of work.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    threads: Vec<JoinHandle<()>>,
    idle: usize,
    stopping: bool,
}

impl ThreadPool {
    pub(crate) fn new(max_threads: usize, name: String) -> Self {
        let state = State { jobs: VecDeque::new(), threads: Vec::new(), idle: 0, stopping: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        ThreadPool { shared, max_threads, name }
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
        if state.idle <= state.jobs.len() && state.threads.len() < self.max_threads {
            let shared = self.shared.clone();
            let name = format!("{}-{}", self.name, state.threads.len());
            match thread::Builder::new().name(name).spawn(move || shared.work()) {
                Ok(thread) => state.threads.push(thread),
                Err(error) if state.threads.is_empty() => return Err(error),
                Err(_) => {}
            }
        }
        state.jobs.push_back(job);
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl ThreadPool {
    /// Has the queued jobs done and waits for them; later ones are dropped.
    pub(crate) fn stop(&self) {
        let threads = {
            let mut state = self.shared.lock();
            state.stopping = true;
            std::mem::take(&mut state.threads)
        };
        self.shared.changed.notify_all();
        for thread in threads {
            // A worker ends by returning: its jobs cannot unwind through it.
            let _ = thread.join();
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn work(&self) {
        while let Some(job) = self.next_job() {
            if let Err(failure) = guard(job) {
                log::error!(target: "dosimeter::threads", "a job in the thread pool failed: {}", failure.report());
            }
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.stopping {
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
