//! [`ReactorError`]: why a reactor does not do what it is asked to.

use std::fmt;

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
