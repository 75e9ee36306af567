//! What is done when a connection cannot be accepted.
//!
//! Rules kept here:
//! - Every error has a remedy, and none of them is to try again at once what would fail in the same way.
//! - One descriptor is kept in reserve, with which a connection can be accepted and closed when there is no other.
//! - What goes wrong with every client is said once in a while.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use crate::reactor::metrics::AcceptError;

/// What is done about a connection that could not be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// None waits.
    Wait,
    /// It concerns that connection alone; others may wait behind it.
    Skip(AcceptError),
    /// There is no descriptor for it.
    TurnAway,
    /// Trying at once would fail in the same way.
    Rest(AcceptError),
}

impl Remedy {
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock => Remedy::Wait,
            // The client has left already.
            ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset => Remedy::Skip(AcceptError::Aborted),
            // A firewall refuses it.
            ErrorKind::PermissionDenied => Remedy::Skip(AcceptError::Denied),
            // Linux hands over what happened to the connection meanwhile (accept(2), "Error handling").
            ErrorKind::NetworkDown | ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
                Remedy::Skip(AcceptError::Network)
            }
            ErrorKind::OutOfMemory => Remedy::Rest(AcceptError::Memory),
            _ => match error.raw_os_error() {
                Some(EMFILE | ENFILE) => Remedy::TurnAway,
                Some(ENOBUFS) => Remedy::Rest(AcceptError::Memory),
                _ => Remedy::Rest(AcceptError::Other),
            },
        }
    }
}

/// A descriptor for bad times: given up, it is the one with which a connection can be accepted and closed.
pub(crate) struct Reserve(Cell<Option<File>>);

impl Reserve {
    pub(crate) fn new() -> Self {
        let reserve = Reserve(Cell::new(None));
        reserve.refill();
        reserve
    }

    /// Whether there was one.
    pub(crate) fn give_up(&self) -> bool {
        self.0.take().is_some()
    }

    /// Takes one again unless it is there; without any to be had, later.
    pub(crate) fn refill(&self) {
        let held = self.0.take().or_else(|| File::open("/dev/null").ok());
        self.0.set(held);
    }
}

/// What goes wrong with every client is said once in a while, or the log would be the next thing to run full.
#[derive(Default)]
pub(crate) struct Complaints {
    last: Cell<Option<Instant>>,
    /// Connections closed since.
    closed: Cell<usize>,
}

impl Complaints {
    pub(crate) fn add(&self, now: Instant, closed: usize, complain: impl FnOnce(usize)) {
        self.closed.set(self.closed.get() + closed);
        if self.last.get().is_none_or(|last| now.duration_since(last) >= COMPLAINT_PAUSE) {
            self.last.set(Some(now));
            complain(self.closed.take());
        }
    }
}

/// A line a second tells an operator as much as a thousand.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(1);

/// The process has as many descriptors as it may have; the number is the same on every system this runs on.
pub(crate) const EMFILE: i32 = 24;

/// The whole system has; likewise.
pub(crate) const ENFILE: i32 = 23;

/// No room for the socket.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) const ENOBUFS: i32 = 105;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) const ENOBUFS: i32 = 55;
