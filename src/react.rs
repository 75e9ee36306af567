//! [`react`]: a program that is one chain, from its beginning to its exit status.
//!
//! Rules kept here:
//! - The status is that of the chain, if it came to its end before the reactor did; what the end of the reactor does to it
//!   afterwards is no result of the program.
//! - A failure is told once: in the log, or on the standard error where nobody listens to the log.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::rc::Rc;

use crate::deferred::{IntoDeferred, maybe_deferred};
use crate::failure::{Failure, Result};
use crate::reactor::Reactor;

/// Runs a reactor until the chain that `main` returns has its result, and makes an exit status of that.
///
/// For a program that does its work and ends. (A server has no such chain, and calls [`Reactor::run`].) See
/// [`Reactor::react`], which does the same with a reactor that was made otherwise. A `main` that may fail before it has its
/// chain is `|reactor| set_up(reactor).unwrap_or_else(Deferred::fail)`, where `set_up` returns a `Result<Deferred<()>>`.
///
/// ```
/// use std::process::ExitCode;
/// use std::time::Duration;
///
/// use dosimeter::{defer_later, react};
///
/// fn main() -> ExitCode {
///     react(|reactor| {
///         let clock = reactor.clone();
///         reactor.spawn(async move {
///             let answer = defer_later(&clock, Duration::from_millis(1), || 42).await?;
///             println!("{answer}");
///             Ok(())
///         })
///     })
/// }
/// ```
pub fn react<R: IntoDeferred<()>>(main: impl FnOnce(&Reactor) -> R + 'static) -> ExitCode {
    match Reactor::new() {
        Ok(reactor) => reactor.react(main),
        Err(failure) => failed("the reactor could not be made", &failure),
    }
}

impl Reactor {
    /// Runs until the chain that `main` returns has its result, and makes an exit status of that.
    ///
    /// | what happens first | status |
    /// |---|---|
    /// | the chain succeeds | 0 |
    /// | it fails with an [`Exit`], or with an error that has one among its sources | that of the `Exit`; nothing is logged |
    /// | it fails otherwise, or `main` panics | 1; the failure is logged |
    /// | SIGINT or SIGTERM comes | 128 and the number of the signal, as shells have it |
    /// | something else stops the reactor | 0 |
    /// | the reactor cannot run | 1; the reason is logged |
    ///
    /// `main` is called when the reactor runs, after the startup. The chain may also come to its end while what is to be done
    /// before the shutdown is waited for; so a program for which a signal is the regular end can fire it in a trigger of
    /// [`on_shutdown`](Reactor::on_shutdown), and have the status of that. What is logged goes to the standard error when no
    /// logger takes errors.
    pub fn react<R: IntoDeferred<()>>(&self, main: impl FnOnce(&Reactor) -> R + 'static) -> ExitCode {
        if let Err(error) = self.may_run() {
            return failed("main cannot run", &error.into());
        }
        let outcome = Rc::new(Cell::new(None));
        let (reactor, told) = (self.clone(), outcome.clone());
        let trigger = self.call_when_running(move || {
            maybe_deferred(|| main(&reactor)).add_both(move |result| {
                if reactor.is_running() {
                    told.set(Some(result));
                }
                // It may be stopping already.
                let _ = reactor.stop();
            });
        });
        let ended = self.run();
        // It holds the reactor; left over when that could not run.
        let _ = trigger.map(|trigger| trigger.remove());
        match (ended, outcome.take()) {
            (Err(failure), _) => failed("the reactor cannot run", &failure),
            (Ok(()), Some(result)) => status(result),
            (Ok(()), None) => self.signal().map_or(ExitCode::SUCCESS, of_signal),
        }
    }
}

fn status(result: Result<()>) -> ExitCode {
    let Err(failure) = result else { return ExitCode::SUCCESS };
    match failure.find::<Exit>() {
        Some(exit) => ExitCode::from(exit.0),
        None => failed("main failed", &failure),
    }
}

fn failed(what: &str, failure: &Failure) -> ExitCode {
    if log::log_enabled!(target: "dosimeter::reactor", log::Level::Error) {
        log::error!(target: "dosimeter::reactor", "{what}: {}", failure.report());
    } else {
        // Where this cannot be written there is nobody to tell.
        let _ = writeln!(io::stderr(), "{what}: {}", failure.report());
    }
    ExitCode::FAILURE
}

fn of_signal(number: i32) -> ExitCode {
    ExitCode::from(u8::try_from(number).map_or(u8::MAX, |number| number.saturating_add(KILLED)))
}

/// An error that says with which status the program is to end, and nothing else.
///
/// ```
/// use dosimeter::{Exit, Reactor, Result, react};
///
/// fn check(file: &str) -> Result<()> {
///     // As `diff` and `grep` have it: one is an answer, two is trouble.
///     Err(Exit(2).into())
/// }
///
/// let status = react(|_: &Reactor| check("nothing"));
/// assert_eq!(format!("{status:?}"), format!("{:?}", std::process::ExitCode::from(2)));
/// ```
#[doc(alias = "SystemExit")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(pub u8);

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit with status {}", self.0)
    }
}

impl Error for Exit {}

/// What shells add to the number of the signal that a program ended by.
const KILLED: u8 = 128;
