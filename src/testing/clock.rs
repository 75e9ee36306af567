//! [`Clock`]: time for code that needs nothing else of a reactor.
//!
//! Rules kept here:
//! - It is the timer queue of the reactor with a "now" that the test moves: the same calls come in the same order.

use std::time::Duration;

use crate::clock::{self, Timers};
use crate::reactor::poller;

/// A clock that stands still until a test moves it.
///
/// It runs calls in the order in which a reactor would: by deadline, and equal deadlines in the order they were armed. One
/// thing differs, as in Twisted: a call that is armed without delay while [`advance`](Clock::advance) runs is run by that
/// same `advance`, where a reactor would look at its sockets first. So nothing that is due is ever left behind; a call that
/// arms itself again without delay keeps `advance` from returning.
///
/// A clone is another handle to the same clock. `now` and `call_later` come from the trait [`dosimeter::Clock`](crate::Clock).
///
/// ```
/// use std::time::Duration;
/// use dosimeter::testing::{Clock, assert_no_result, success_result_of};
///
/// let clock = Clock::new();
/// let tea = dosimeter::defer_later(&clock, Duration::from_secs(180), || "tea");
/// clock.advance(Duration::from_secs(179));
/// assert_no_result(&tea);
/// clock.advance(Duration::from_secs(1));
/// assert_eq!(success_result_of(tea), "tea");
/// ```
#[doc(alias = "ManualClock")]
#[derive(Debug, Clone)]
pub struct Clock {
    timers: Timers,
    start: std::time::Instant,
}

impl Clock {
    /// A clock at time zero with nothing armed.
    pub fn new() -> Self {
        // An `Instant` can only be had from the system. Which one it is makes no difference: it is only ever compared with
        // others of this clock.
        let start = poller::clock();
        Clock { timers: Timers::new(start), start }
    }

    /// How far the clock has been moved since it was made.
    #[doc(alias = "seconds")]
    pub fn time(&self) -> Duration {
        self.timers.now() - self.start
    }

    /// Moves the time on by `amount` and runs everything that is due then, calls armed meanwhile included.
    ///
    /// During all of these calls it is the new time already, whatever they were due at.
    ///
    /// # Panics
    /// With the panic of a call. The calls after it stay as they are, for the next `advance`.
    pub fn advance(&self, amount: Duration) {
        self.timers.forward(amount);
        while let Some((action, _)) = self.timers.pop_due(self.timers.mark()) {
            action.run();
        }
    }

    /// Moves the time on in steps: [`advance`](Clock::advance) by each of `amounts`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let clock = dosimeter::testing::Clock::new();
    /// clock.pump([Duration::from_millis(100); 10]);
    /// assert_eq!(clock.time(), Duration::from_secs(1));
    /// ```
    ///
    /// # Panics
    /// As `advance`.
    pub fn pump(&self, amounts: impl IntoIterator<Item = Duration>) {
        amounts.into_iter().for_each(|amount| self.advance(amount));
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}

impl clock::Clock for Clock {
    fn timers(&self) -> &Timers {
        &self.timers
    }
}
