//! The life of a [`Reactor`]: run, stop, crash, and what happens in between.
//!
//! ```text
//!             run               before the startup: done
//!   +------+ ------> +----------+ ----------------> +---------+      all of the time the loop turns
//!   | Idle |         | Starting |                   | Running |
//!   +------+ <------ +----------+ <---------------- +---------+
//!             crash        |           crash             |
//!                          |  stop, or a signal          |
//!                          v                             v
//!               Asked ---> Begun: before the shutdown, the loop goes on turning
//!                            |    all is done, or a further signal
//!                            v
//!                          Ready ---> Ended: everything closed, pool done, during, after
//! ```
//!
//! Rules kept here:
//! - To ask for the end changes a mark and nothing else. The loop looks at it in one place in each turn, where no callback is
//!   running: nobody's connection is lost inside of a method of its own.
//! - Until everything that is to be done before the shutdown is done the loop serves sockets, timers and threads as ever.
//! - At the end everything is closed and everybody told, before anything is called that the program wants done during or
//!   after the shutdown.
//! - What is dropped at the end is dropped where it may ask for anything, and gets nothing that would last.

use std::time::Duration;

use super::signals::SignalWatch;
use super::watch::Kind;
use super::{Phase, Reactor, ReactorError, Shutdown, Trigger, Triggers};
use crate::clock::Clock;
use crate::deferred::{Deferred, IntoDeferred, warn_of_unfired};
use crate::failure::Result;

impl Reactor {
    /// Runs until [`stop`](Reactor::stop) is called or SIGINT or SIGTERM comes.
    ///
    /// At the beginning the triggers of [`on_startup`](Reactor::on_startup) are called, at the end those of
    /// [`on_shutdown`](Reactor::on_shutdown). What these want done before the shutdown is waited for, and until then the loop
    /// goes on as ever. Then every connection is closed and told so, listening ports are closed, work in the thread pool is
    /// waited for and its results delivered, and timed calls that were still to come are dropped. From then on nothing is
    /// armed and nothing listened on any more.
    ///
    /// A signal asks for that end. A further one, half a second later or more, means that somebody has lost patience: what is
    /// to be done before the shutdown is no longer waited for, and neither is the thread pool. The next one ends the process
    /// as if nobody had ever handled it, whatever the loop is held up by.
    ///
    /// # Errors
    /// [`ReactorError::AlreadyRunning`] from inside a callback, [`ReactorError::NotRestartable`] after it was stopped, and
    /// what the system says when signal handlers cannot be installed or poll is broken.
    pub fn run(&self) -> Result<()> {
        self.may_run()?;
        let signals = self.watch_signals()?;
        self.0.signals.replace(signals);
        self.0.phase.set(Phase::Starting);
        self.0.looping.set(true);
        self.begin_turns();
        drop(self.0.on_startup.fire());
        let outcome = self.run_turns();
        if outcome.is_err() {
            self.end_at_once();
        }
        self.0.looping.set(false);
        self.0.signals.take();
        self.end_turns();
        outcome
    }

    /// Asks the loop to end. This only marks: it returns at once, and everything goes on until the loop comes to look.
    ///
    /// Timed calls that are due in the same turn still run. Then the triggers of [`on_shutdown`](Reactor::on_shutdown) are
    /// called, and when these want nothing to be waited for it is the last turn.
    ///
    /// # Errors
    /// [`ReactorError::NotRunning`] when it does not run, or was asked already.
    pub fn stop(&self) -> Result<(), ReactorError> {
        if !self.in_run() || self.0.shutdown.get() != Shutdown::NotAsked {
            return Err(ReactorError::NotRunning);
        }
        self.0.shutdown.set(Shutdown::Asked);
        Ok(())
    }

    /// Has [`run`](Reactor::run) return after this turn, with nothing told and nothing closed; it may be called again.
    ///
    /// For tests, and for what has gone wrong beyond repair: connections stay open and timed calls armed, nobody serves them,
    /// and no trigger is called. A later `run` goes on with them, and fires the startup anew.
    ///
    /// # Errors
    /// [`ReactorError::NotRunning`] when it does not run.
    pub fn crash(&self) -> Result<(), ReactorError> {
        if !self.in_run() {
            return Err(ReactorError::NotRunning);
        }
        self.0.phase.set(Phase::Idle);
        Ok(())
    }

    /// Ends a reactor that is turned by hand; the chain fires when it is over.
    ///
    /// What [`run`](Reactor::run) does at its end is done here: the triggers of [`on_shutdown`](Reactor::on_shutdown) are
    /// called, everything is closed and told, the thread pool is waited for. Without it the open ports and connections keep
    /// the reactor, and its figures, for as long as the program runs.
    ///
    /// When nothing is to be waited for it is over when this returns. Otherwise, and when it is called from a callback, it is
    /// over in a later turn: turn until the chain has fired. While the reactor runs this is [`stop`](Reactor::stop), with a
    /// chain. Calling it again is harmless.
    ///
    /// ```
    /// use dosimeter::Reactor;
    ///
    /// # fn main() -> dosimeter::Result<()> {
    /// let reactor = Reactor::new()?;
    /// // ... turned by the loop of another library ...
    /// let over = reactor.shut_down();
    /// while !over.is_fired() {
    ///     reactor.turn(None)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn shut_down(&self) -> Deferred<()> {
        if self.0.phase.get() == Phase::Ended {
            return Deferred::succeed(());
        }
        let over = self.0.on_shutdown.listen();
        if self.0.shutdown.get() == Shutdown::NotAsked {
            self.0.shutdown.set(Shutdown::Asked);
        }
        if !self.0.looping.get() && !self.0.in_turn.replace(true) {
            self.begin_turns();
            self.begin_shutdown();
            self.flush_dirty();
            self.end_if_ready();
            self.end_turns();
            self.0.in_turn.set(false);
        }
        over
    }

    /// Whether [`run`](Reactor::run) is under way: from when the startup begins to happen until the shutdown does.
    ///
    /// It still is after [`stop`](Reactor::stop), while what is to be done before the shutdown is waited for.
    #[doc(alias = "running")]
    pub fn is_running(&self) -> bool {
        self.0.phase.get() == Phase::Running
    }

    /// The number of the first signal that asked [`run`](Reactor::run) to end, if one did: for a program whose exit status
    /// tells.
    pub fn signal(&self) -> Option<i32> {
        self.0.signal.get()
    }

    /// One turn of the loop by hand, which waits at most for `timeout` (`None`: until something happens).
    ///
    /// What is due at its beginning, and calls that other threads have made, are run first, and then nothing is waited for: a
    /// loop that turns until it has what it wants gets to look.
    ///
    /// For programs that have a loop of their own. [`run`](Reactor::run) does this until stopped. Signals are not watched, and
    /// the startup does not happen unless [`on_startup`](Reactor::on_startup) is fired. [`shut_down`](Reactor::shut_down)
    /// ends such a reactor.
    ///
    /// # Errors
    /// [`ReactorError::AlreadyRunning`] from inside a callback, [`ReactorError::NotRestartable`] when it has ended, and what
    /// the system says when poll is broken.
    #[doc(alias = "iterate")]
    pub fn turn(&self, timeout: Option<Duration>) -> Result<()> {
        if self.0.looping.get() || self.0.in_turn.get() {
            return Err(ReactorError::AlreadyRunning.into());
        }
        if self.0.phase.get() == Phase::Ended {
            return Err(ReactorError::NotRestartable.into());
        }
        self.begin_turns();
        let outcome = self.one_turn(timeout);
        self.end_turns();
        outcome
    }

    /// What is to be done when [`run`](Reactor::run) begins: before it counts as running, when it does, and after that.
    ///
    /// What is to be done before it may take its time: the loop turns already.
    #[doc(alias = "addSystemEventTrigger")]
    pub fn on_startup(&self) -> &Triggers {
        &self.0.on_startup
    }

    /// What is to be done when the reactor ends.
    ///
    /// [`before`](Triggers::before): while everything still works, and the end waits for what it returns, success or not. This
    /// is the place to close in good order: to stop listening, finish what is in hand, write what is in memory.
    /// [`during`](Triggers::during): connections are lost, ports closed and the thread pool is done; the reactor no longer
    /// counts as running. [`after`](Triggers::after): at the very end. What the last two return is not waited for, and what
    /// they arm is dropped.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dosimeter::{Reactor, defer_later};
    ///
    /// # fn main() -> dosimeter::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let clock = reactor.clone();
    /// reactor.on_shutdown().before(move || defer_later(&clock, Duration::from_millis(1), || println!("all is saved")));
    /// reactor.on_shutdown().after(|| println!("goodbye"));
    /// # let stop = reactor.clone();
    /// # reactor.call_when_running(move || Ok(stop.stop()?));
    /// reactor.run()
    /// # }
    /// ```
    ///
    /// Firing it is what [`shut_down`](Reactor::shut_down) does. A function that holds the reactor keeps it until it is called
    /// or removed.
    #[doc(alias = "addSystemEventTrigger")]
    pub fn on_shutdown(&self) -> &Triggers {
        &self.0.on_shutdown
    }

    /// Calls `function` once the reactor runs: at once if it does, otherwise after the startup, in the order of the calls.
    ///
    /// Gives the trigger with which it can be taken back, or none if it was called. In the latter case a panic goes to the
    /// caller. A failure is logged in both.
    ///
    /// ```
    /// # fn main() -> dosimeter::Result<()> {
    /// let reactor = dosimeter::Reactor::new()?;
    /// let stop = reactor.clone();
    /// reactor.call_when_running(move || Ok(stop.stop()?));
    /// reactor.run()
    /// # }
    /// ```
    #[doc(alias = "callWhenRunning")]
    #[track_caller]
    pub fn call_when_running<R: IntoDeferred<()>>(&self, function: impl FnOnce() -> R + 'static) -> Option<Trigger> {
        if self.is_running() {
            drop(function().into_deferred());
            return None;
        }
        Some(self.0.on_startup.after(function))
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// How it goes
// ---------------------------------------------------------------------------------------------------------------------

impl Reactor {
    /// Sees to it that the events of the reactor go through its own hands.
    pub(super) fn conduct_events(&self) {
        let weak = self.downgrade();
        self.0.on_startup.conduct(move || {
            if let Some(reactor) = weak.upgrade() {
                reactor.start_up();
            }
        });
        let weak = self.downgrade();
        self.0.on_shutdown.conduct(move || {
            if let Some(reactor) = weak.upgrade() {
                reactor.0.shutdown.set(Shutdown::Ready);
            }
        });
    }

    /// Whether `run` was called and has to go on.
    fn in_run(&self) -> bool {
        matches!(self.0.phase.get(), Phase::Starting | Phase::Running)
    }

    /// Whether everything is closed.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.phase.get() == Phase::Ended
    }

    /// Whether `run` is to return as soon as the turn is over.
    pub(super) fn is_leaving(&self) -> bool {
        self.0.looping.get() && !self.in_run()
    }

    /// Why `run` would be refused.
    pub(crate) fn may_run(&self) -> Result<(), ReactorError> {
        if self.0.phase.get() == Phase::Ended {
            Err(ReactorError::NotRestartable)
        } else if self.0.looping.get() || self.0.in_turn.get() {
            Err(ReactorError::AlreadyRunning)
        } else if self.0.shutdown.get() != Shutdown::NotAsked {
            Err(ReactorError::NotRestartable)
        } else {
            Ok(())
        }
    }

    /// What is to be done before the startup is done.
    fn start_up(&self) {
        if self.0.phase.get() == Phase::Starting {
            self.0.phase.set(Phase::Running);
        }
        self.0.on_startup.happen();
    }

    fn run_turns(&self) -> Result<()> {
        while self.in_run() {
            self.one_turn(None)?;
            self.mind_signals();
        }
        Ok(())
    }

    /// Calls what is to be done before the shutdown, if it was asked for. The loop looks here once in a turn.
    pub(super) fn begin_shutdown(&self) {
        if self.0.shutdown.get() == Shutdown::Asked {
            self.0.shutdown.set(Shutdown::Begun);
            self.at_shutdown(|| drop(self.0.on_shutdown.fire()));
        }
    }

    /// Ends the reactor if nothing is to be waited for any more, and tells whether it did.
    pub(super) fn end_if_ready(&self) -> bool {
        let ready = self.0.shutdown.get() == Shutdown::Ready && self.0.phase.get() != Phase::Ended;
        if ready {
            self.end();
        }
        ready
    }

    /// Poll is broken: nothing that is waited for would ever come.
    fn end_at_once(&self) {
        self.0.shutdown.set(Shutdown::Asked);
        self.begin_shutdown();
        self.end();
    }

    /// The shutdown: what is the reactor's own first.
    fn end(&self) {
        self.0.phase.set(Phase::Ended);
        self.at_shutdown(|| self.close_sources());
        // Calls from threads are timed by themselves, and to wait for them is no work.
        self.finish_work();
        self.at_shutdown(|| {
            self.0.on_shutdown.happen();
            self.let_go();
        });
    }

    /// A step of the shutdown, which may be what holds up the loop: timed by itself, which it can be once in a life.
    fn at_shutdown(&self, step: impl FnOnce()) {
        self.0.watch.set(Kind::Shutdown);
        self.0.pace.watch_closely(self.present_nanos());
        step();
        self.0.pace.count_callback(|| self.present_nanos());
    }

    fn close_sources(&self) {
        let handlers: Vec<_> = self.0.sources.borrow().values().cloned().collect();
        for handler in handlers {
            self.dispatch("closing a source", || handler.shut_down());
        }
    }

    /// Drops what will not be called any more.
    fn let_go(&self) {
        warn_of_unfired();
        self.spawner().abandon_tasks();
        let calls = self.0.mailbox.close();
        self.dispatch("dropping calls from threads", || drop(calls));
        self.abandon_work();
        // A farewell written to a connection that was closed after it was scheduled.
        self.0.dirty.take();
        // A timed call, or a trigger, usually holds the reactor that holds it; neither would ever be freed.
        for action in self.0.timers.close() {
            self.dispatch("dropping a timed call", || drop(action));
        }
        self.dispatch("dropping triggers", || self.0.on_startup.close());
        self.dispatch("dropping triggers", || self.0.on_shutdown.close());
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Signals
// ---------------------------------------------------------------------------------------------------------------------

impl Reactor {
    fn watch_signals(&self) -> Result<Option<SignalWatch>> {
        if !self.0.signal_handlers {
            return Ok(None);
        }
        Ok(Some(SignalWatch::new(&self.0.poller.borrow())?))
    }

    fn mind_signals(&self) {
        let hurry = self.look_for_signals();
        if self.0.shutdown.get() == Shutdown::Begun
            && let Some(number) = hurry
        {
            log::warn!(
                target: "dosimeter::reactor",
                "signal {number} again: not waiting any longer for what is to be done before the shutdown"
            );
            self.0.shutdown.set(Shutdown::Ready);
        }
    }

    /// Does what a first signal asks for; gives the number of a later one, from when it has come: nothing is to be waited for
    /// any more, be it before the shutdown or at its end.
    pub(super) fn look_for_signals(&self) -> Option<i32> {
        let (first, later) = {
            let signals = self.0.signals.borrow();
            let signals = signals.as_ref()?;
            (signals.take(|| self.now()), signals.hurry())
        };
        if let Some(number) = first {
            log::info!(target: "dosimeter::reactor", "signal {number}: stopping");
            self.0.signal.set(Some(number));
            // Stopping already is what the signal asks for.
            let _ = self.stop();
        }
        later
    }
}
