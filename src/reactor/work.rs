//! Work that blocks: the thread pool of a [`Reactor`], and calls of other threads that wait for their answer.
//!
//! Rules kept here:
//! - A result crosses back through the mailbox, in the order in which results came, and is delivered in the reactor's thread.
//! - Whoever waits in another thread is told in the end: an answer, or that the reactor is gone. Nobody waits for ever because
//!   a chain was forgotten.
//! - At the end the pool is waited for, and meanwhile the calls from its threads are served: a job may need an answer to end.
//!   When all that is left of the pool waits for answers there will be none: no timer and no socket is left to bring one.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::Location;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::poller::{self, Ready};
use super::threads::{Job, ThreadPool};
use super::{Asker, Key, Phase, Reactor, ReactorError, Remote, Reply};
use crate::deferred::{Deferred, IntoDeferred, maybe_deferred};
use crate::failure::{Abandoned, Failure, Result, guard};

impl Reactor {
    /// Calls `work` in a thread of the pool; the chain gets what it returns, in the reactor's thread.
    ///
    /// The pool has at most ten threads (see [`Builder::max_threads`](super::Builder::max_threads)) and makes them when they
    /// are needed; what finds none free waits in a queue without a limit. A panic in `work` is a failure, and so is a pool
    /// that cannot get its first thread. Cancelling the chain does not stop the work: its result is dropped when it comes.
    ///
    /// ```
    /// use dosimeter::Reactor;
    ///
    /// # fn main() -> dosimeter::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let stop = reactor.clone();
    /// reactor
    ///     .defer_to_thread(|| Ok(std::fs::read_to_string("/proc/self/comm").unwrap_or_default()))
    ///     .map(|name| println!("{name}"))
    ///     .add_both(move |_| Ok(stop.stop()?));
    /// reactor.run()
    /// # }
    /// ```
    #[doc(alias = "deferToThread")]
    #[track_caller]
    pub fn defer_to_thread<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Deferred<T> {
        let (completer, deferred) = Deferred::pair();
        let reply: Reply = Box::new(move |result| completer.fire(result.map(unerase::<T>)));
        let key = self.0.replies.borrow_mut().insert(reply);
        let mailbox = self.0.mailbox.clone();
        let line = Location::caller();
        let outcome = self.submit(move || {
            let result = guard(work).flatten();
            let result = result.map(|value| Box::new(value) as Box<dyn Any + Send>);
            // A reactor that is gone has dropped the chain as well: there is nobody to tell.
            let _ = mailbox.send_from(line, Box::new(move |reactor| reactor.reply(key, result)));
        });
        if let Err(failure) = outcome {
            self.reply(key, Err(failure));
        }
        deferred
    }

    /// Calls `work` in a thread of the pool, for its effect: a failure is logged.
    ///
    /// As [`defer_to_thread`](Reactor::defer_to_thread), with nobody told of the end. The end of the run waits for it all the
    /// same.
    #[doc(alias = "callInThread")]
    #[track_caller]
    pub fn call_in_thread(&self, work: impl FnOnce() -> Result<()> + Send + 'static) {
        let outcome = self.submit(move || {
            if let Err(failure) = guard(work).flatten() {
                failure.log("dosimeter::threads", format_args!("a call in a thread failed"));
            }
        });
        if let Err(failure) = outcome {
            failure.log("dosimeter::threads", format_args!("a call in a thread cannot be made"));
        }
    }

    /// Drops something in a thread of the pool, because that may take long; here, when there is none any more.
    #[track_caller]
    pub(crate) fn drop_in_thread(&self, what: impl Send + 'static) {
        // A pool that refuses a job drops it.
        let _ = self.submit(move || drop(what));
    }

    /// Changes how many threads the pool may have; zero counts as one.
    ///
    /// Threads that are too many end when they have nothing in hand.
    #[doc(alias = "suggestThreadPoolSize")]
    pub fn set_max_threads(&self, max_threads: usize) {
        self.0.max_threads.set(max_threads.max(1));
        if let Some(pool) = self.0.pool.get() {
            pool.set_max_threads(max_threads.max(1));
        }
    }

    #[track_caller]
    fn submit(&self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        if self.0.phase.get() == Phase::Ended {
            return Err(ReactorError::Gone.into());
        }
        if self.0.virtual_time {
            // In the next turn, like the call of another thread: a test must not depend on how fast threads are.
            return self.0.mailbox.send(Box::new(move |_| work())).map_err(|_| ReactorError::Gone.into());
        }
        let pool = self.0.pool.get_or_init(|| {
            let mailbox = self.0.mailbox.clone();
            ThreadPool::new(self.0.max_threads.get(), self.thread_name(), move || mailbox.wake())
        });
        Ok(pool.submit(Job { work: Box::new(work), place: Location::caller() })?)
    }

    fn thread_name(&self) -> String {
        let name = if self.0.name.is_empty() { "dosimeter" } else { &self.0.name };
        format!("{name}-pool")
    }

    fn reply(&self, key: Key, result: Result<Box<dyn Any + Send>>) {
        let reply = self.0.replies.borrow_mut().remove(key);
        if let Some(reply) = reply {
            reply(result);
        }
    }
}

fn unerase<T: 'static>(value: Box<dyn Any + Send>) -> T {
    *value.downcast().expect("a job replies with the type it was started for")
}

impl Remote {
    /// Calls `function` in the reactor's thread, with the reactor, in the order of the calls.
    ///
    /// May be called from every thread, the reactor's own included; a reactor that waits is woken. Calls made before
    /// `run` are run when it starts; those that still wait when it stops are dropped.
    ///
    /// # Errors
    /// [`ReactorError::Gone`] when the reactor has stopped; `function` is dropped.
    #[doc(alias = "callFromThread")]
    #[track_caller]
    pub fn call_from_thread(&self, function: impl FnOnce(&Reactor) + Send + 'static) -> Result<(), ReactorError> {
        self.0.send(Box::new(function)).map_err(|_| ReactorError::Gone)
    }

    /// Calls `function` in the reactor's thread and waits for what it returns: a value's `Result`, or the result of a chain.
    ///
    /// It waits for as long as that takes; before the reactor runs, until it does.
    ///
    /// ```
    /// use dosimeter::{Reactor, defer_later};
    /// use std::time::Duration;
    ///
    /// # fn main() -> dosimeter::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let remote = reactor.remote();
    /// let stop = reactor.clone();
    /// reactor
    ///     .defer_to_thread(move || {
    ///         let wait = |reactor: &Reactor| defer_later(reactor, Duration::from_millis(1), || 42);
    ///         remote.blocking_call_from_thread(wait)
    ///     })
    ///     .map(|answer| assert_eq!(answer, 42))
    ///     .add_both(move |_| Ok(stop.stop()?));
    /// reactor.run()
    /// # }
    /// ```
    ///
    /// # Errors
    /// The failure of `function` or of its chain, a panic included. [`ReactorError::OwnThread`] in the reactor's own thread,
    /// which would wait for itself. [`ReactorError::Gone`] when the reactor has stopped, or does before there is an answer.
    #[doc(alias = "blockingCallFromThread")]
    #[track_caller]
    pub fn blocking_call_from_thread<T, R>(&self, function: impl FnOnce(&Reactor) -> R + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        R: IntoDeferred<T>,
    {
        if self.is_own_thread() {
            return Err(ReactorError::OwnThread.into());
        }
        let (answer, answered) = mpsc::sync_channel(1);
        let asking = Asking { thread: thread::current().id(), answer: Cell::new(Some(answer)) };
        self.call_from_thread(move |reactor| reactor.answer(asking, function))?;
        answered.recv().unwrap_or_else(|_| Err(ReactorError::Gone.into()))
    }

    /// Whether this is the thread of the reactor.
    #[doc(alias = "isInIOThread")]
    pub fn is_own_thread(&self) -> bool {
        self.0.is_own_thread()
    }
}

impl Reactor {
    /// Calls `function` for a thread that waits.
    fn answer<T: 'static, R: IntoDeferred<T>>(&self, asking: Asking<T>, function: impl FnOnce(&Reactor) -> R) {
        let asking = Rc::new(asking);
        let key = self.0.askers.borrow_mut().insert(asking.clone());
        let weak = self.downgrade();
        maybe_deferred(|| function(self)).add_both(move |result| {
            if let Some(reactor) = weak.upgrade() {
                reactor.0.askers.borrow_mut().remove(key);
            }
            match asking.answer.take() {
                // It waits until it is told, so there is room and somebody who takes it.
                Some(answer) => _ = answer.send(result),
                // Told already that the reactor is gone, which has taken along what would have fired the chain.
                None if result.as_ref().is_err_and(Failure::is::<Abandoned>) => {}
                // Any other failure is logged where it is dropped.
                None => _ = Deferred::from(result),
            }
        });
    }
}

/// A thread that waits, and the way back to it; closing that tells the thread.
struct Asking<T> {
    thread: ThreadId,
    answer: Cell<Option<mpsc::SyncSender<Result<T>>>>,
}

impl<T> Asker for Asking<T> {
    fn thread(&self) -> ThreadId {
        self.thread
    }

    fn turn_away(&self) {
        self.answer.take();
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The end
// ---------------------------------------------------------------------------------------------------------------------

impl Reactor {
    /// Waits for the work in the pool and delivers the results, unless a signal tells to wait no longer.
    pub(super) fn finish_work(&self) {
        if let Some(pool) = self.0.pool.get() {
            pool.stop();
            if self.wait_for_pool(pool, POOL_PATIENCE) {
                pool.join();
            } else {
                let never_begun = pool.abandon();
                self.dispatch("dropping work that was never begun", || drop(never_begun));
            }
        }
        if self.0.virtual_time {
            // The work itself; what follows are its results.
            self.run_thread_calls();
        }
        self.run_thread_calls();
    }

    /// Such a wait holds up nobody: there is nobody left.
    fn wait_at_the_end(&self, ready: &mut Ready, limit: Option<Duration>) -> io::Result<()> {
        let before = self.read_clock();
        let outcome = self.0.poller.borrow_mut().wait(ready, limit);
        let now = self.read_clock();
        self.0.figures.idle_nanos.add(now - before);
        self.0.pace.skip(before, now);
        outcome
    }

    /// Serves the calls from threads until no thread of the pool is left; `false` when a signal has ended the wait. After
    /// `patience` it says what it waits for.
    fn wait_for_pool(&self, pool: &ThreadPool, patience: Duration) -> bool {
        let mut ready = self.0.ready.take().unwrap_or_else(Ready::new);
        let mut told_at = Some(poller::clock() + patience);
        while pool.is_alive() {
            self.run_thread_calls();
            self.read_clock();
            // In this order: a thread that ends has sent its result before.
            if pool.are_all_among(&self.0.asking_threads()) && self.0.mailbox.is_empty() {
                self.0.turn_askers_away();
            }
            if let Some(number) = self.look_for_signals() {
                log::warn!(target: "dosimeter::threads", "signal {number} again: leaving {} behind", describe(pool));
                return false;
            }
            let left = told_at.map(|at| at.saturating_duration_since(poller::clock()));
            if left == Some(Duration::ZERO) {
                told_at = None;
                log::warn!(target: "dosimeter::threads", "the end waits for {}, for {patience:?} so far", describe(pool));
                continue;
            }
            if pool.is_alive() && self.0.mailbox.is_empty() && self.wait_at_the_end(&mut ready, left).is_err() {
                // Without a poll there is no waking; joining needs none.
                break;
            }
        }
        self.0.ready.set(Some(ready));
        true
    }

    /// Tells whoever waits for what will not come.
    pub(super) fn abandon_work(&self) {
        self.0.turn_askers_away();
        let replies: Vec<Reply> = self.0.replies.borrow_mut().drain().collect();
        for reply in replies {
            self.dispatch("dropping a chain that waits for work", || drop(reply));
        }
    }
}

impl super::Inner {
    fn asking_threads(&self) -> Vec<ThreadId> {
        self.askers.borrow().values().map(|asker| asker.thread()).collect()
    }

    pub(super) fn turn_askers_away(&self) {
        let askers: Vec<_> = self.askers.borrow_mut().drain().collect();
        askers.iter().for_each(|asker| asker.turn_away());
    }
}

fn describe(pool: &ThreadPool) -> String {
    let (running, queued) = pool.in_hand();
    let places: Vec<_> = running.iter().map(|place| format!("the work of {place}")).collect();
    match (places.as_slice(), queued) {
        ([], 0) => "the thread pool".to_owned(),
        (places, 0) => places.join(", "),
        (places, queued) => format!("{}, and {queued} more in the queue", places.join(", ")),
    }
}

/// When the end has waited so long for work in the pool, the log tells what for.
const POOL_PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::*;
    use crate::reactor::Metrics;

    /// Keeps what is said of the wait, and ends it.
    struct Listener(Mutex<Option<(mpsc::Sender<()>, String)>>);

    static LISTENER: Listener = Listener(Mutex::new(None));

    impl log::Log for Listener {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            if record.target() == "dosimeter::threads"
                && let Some((go, said)) = &mut *self.0.lock().expect("no panic under it")
            {
                *said += &record.args().to_string();
                go.send(()).expect("the work waits");
            }
        }
        fn flush(&self) {}
    }

    #[test]
    fn an_end_that_waits_for_long_says_for_which_work() {
        log::set_logger(&LISTENER).expect("the only logger of these tests");
        log::set_max_level(log::LevelFilter::Warn);
        let reactor = Reactor::builder().metrics(Metrics::Off).signal_handlers(false).max_threads(1).build();
        let reactor = reactor.expect("a reactor");
        let (go, wait) = mpsc::channel();
        let (begin, begun) = mpsc::channel();
        let line = line!() + 1;
        reactor.call_in_thread(move || {
            begin.send(())?;
            Ok(wait.recv()?)
        });
        reactor.call_in_thread(|| Ok(()));
        begun.recv().expect("a thread");
        *LISTENER.0.lock().expect("no panic under it") = Some((go, String::new()));
        let pool = reactor.0.pool.get().expect("it has work");
        pool.stop();
        assert!(reactor.wait_for_pool(pool, Duration::ZERO), "the work is done");
        let (_, said) = LISTENER.0.lock().expect("no panic under it").take().expect("it is there");
        let work = format!("the work of {}:{line}:", file!());
        assert!(said.starts_with(&format!("the end waits for {work}")), "{said}");
        assert!(said.ends_with(", and 1 more in the queue, for 0ns so far"), "{said}");
    }
}
