//! [`Timeout`]: a connection that is given up when nothing happens on it.
//!
//! Rules kept here:
//! - Putting off costs a store: a protocol may do it for every line.
//! - It ends with the protocol that owns it: nothing stays armed for a connection that is gone.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::clock::{Clock, DelayedCall, WeakTimers};
use crate::net::transport::Transport;
use crate::schedule::Alarm;

/// A deadline that is put off again and again, as Twisted's `TimeoutMixin`. A protocol keeps one and resets it whenever the
/// peer has done something.
///
/// Dropping it disarms it.
///
/// ```
/// use std::time::Duration;
/// use dosimeter::Result;
/// use dosimeter::net::{LineProtocol, LineReceiver, LineTransport, Timeout};
/// use dosimeter::testing::MemoryTransport;
///
/// #[derive(Default)]
/// struct Patient {
///     timeout: Option<Timeout>,
/// }
///
/// impl LineProtocol for Patient {
///     fn connection_made(&mut self, lines: &LineTransport) -> Result<()> {
///         self.timeout = Some(Timeout::lose(lines, Duration::from_secs(60)));
///         Ok(())
///     }
///
///     fn line_received(&mut self, _lines: &LineTransport, _line: &[u8]) -> Result<()> {
///         self.timeout.iter().for_each(Timeout::reset);
///         Ok(())
///     }
/// }
///
/// let wire = MemoryTransport::new(LineReceiver::new(Patient::default()));
/// wire.advance(Duration::from_secs(59));
/// wire.receive("still there\r\n");
/// wire.advance(Duration::from_secs(59));
/// assert!(wire.is_connected());
/// wire.advance(Duration::from_secs(1));
/// assert!(!wire.is_connected());
/// ```
#[doc(alias = "TimeoutMixin")]
pub struct Timeout(Rc<Inner>);

struct Inner {
    /// Weak, for the clock holds what is armed on it.
    clock: WeakTimers,
    duration: Cell<Duration>,
    call: Cell<Option<DelayedCall>>,
    /// Absent while it is called, and after it was for the last time.
    action: Cell<Option<Action>>,
    /// The time was over once.
    is_over: Cell<bool>,
}

enum Action {
    Call(Box<dyn FnOnce()>),
    Lose(Transport),
    Abort(Transport),
}

impl Timeout {
    /// Calls `action` once when `duration` has passed since this or the last [`reset`](Timeout::reset).
    pub fn new(clock: &impl Clock, duration: Duration, action: impl FnOnce() + 'static) -> Self {
        Timeout::arm(clock, duration, Action::Call(Box::new(action)))
    }

    /// Closes the connection in the orderly way when `duration` has passed. A peer that has not read what was written when
    /// it has passed once more is given up: the connection is aborted.
    pub fn lose(transport: &Transport, duration: Duration) -> Self {
        Timeout::arm(transport.reactor(), duration, Action::Lose(transport.clone()))
    }

    /// Aborts the connection when `duration` has passed: what was not sent is dropped.
    pub fn abort(transport: &Transport, duration: Duration) -> Self {
        Timeout::arm(transport.reactor(), duration, Action::Abort(transport.clone()))
    }

    /// Begins the wait anew. Nothing happens when the time is over already, or the wait was cancelled.
    #[doc(alias = "resetTimeout")]
    pub fn reset(&self) {
        self.set(self.0.duration.get());
    }

    /// Begins the wait anew, for `duration` from now on.
    #[doc(alias = "setTimeout")]
    pub fn set(&self, duration: Duration) {
        if self.0.is_over.get() {
            return;
        }
        self.0.duration.set(duration);
        if let Some(call) = self.0.call.take()
            && call.reset(duration).is_ok()
        {
            self.0.call.set(Some(call));
        }
    }

    /// Ends the wait for good.
    pub fn cancel(&self) {
        self.0.disarm();
    }

    /// Whether something is still to happen.
    pub fn is_active(&self) -> bool {
        let call = self.0.call.take();
        let is_active = call.as_ref().is_some_and(DelayedCall::is_active);
        self.0.call.set(call);
        is_active
    }

    fn arm(clock: &impl Clock, duration: Duration, action: Action) -> Self {
        let inner = Rc::new(Inner {
            clock: clock.timers().downgrade(),
            duration: Cell::new(duration),
            call: Cell::new(None),
            action: Cell::new(Some(action)),
            is_over: Cell::new(false),
        });
        inner.clone().wait();
        Timeout(inner)
    }
}

impl Drop for Timeout {
    fn drop(&mut self) {
        self.0.disarm();
    }
}

impl fmt::Debug for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout").field("duration", &self.0.duration.get()).field("active", &self.is_active()).finish()
    }
}

impl Inner {
    fn wait(self: Rc<Self>) {
        if let Some(clock) = self.clock.upgrade() {
            let call = clock.arm_alarm(self.duration.get(), self.clone());
            self.call.set(Some(call));
        }
    }

    fn disarm(&self) {
        if let Some(call) = self.call.take() {
            // It may just be ringing.
            let _ = call.cancel();
        }
        // With what it holds: a connection, which holds this.
        self.action.take();
    }
}

impl Alarm for Inner {
    fn ring(self: Rc<Self>) {
        self.is_over.set(true);
        match self.action.take() {
            Some(Action::Call(action)) => action(),
            Some(Action::Lose(transport)) => {
                transport.lose_connection();
                self.action.set(Some(Action::Abort(transport)));
                self.wait();
            }
            Some(Action::Abort(transport)) => transport.abort_connection(),
            None => {}
        }
    }
}
