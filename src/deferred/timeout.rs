//! [`Deferred::add_timeout`]: a deadline for what a chain does up to one point.
//!
//! Rules kept here:
//! - The deadline covers what was added before it and nothing that is added after.
//! - The timer is gone from its clock as soon as there is a result, whatever it is.
//! - A cancellation by the deadline is told apart from one by somebody else.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::{Deferred, IntoDeferred};
use crate::clock::Clock;
use crate::failure::{Cancelled, Failure, Result, TimedOut};

impl<T: 'static> Deferred<T> {
    /// Cancels the chain when it has no result after `duration`; it then fails with [`TimedOut`].
    ///
    /// Cancelling means what it does in [`cancel`](Deferred::cancel): a canceller or an errback on the way may make something
    /// else of it, and that is then the result. Callbacks added after the timeout may take as long as they like.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dosimeter::{Deferred, TimedOut, testing};
    ///
    /// let clock = testing::Clock::new();
    /// let (_completer, deferred) = Deferred::<i32>::pair();
    /// let tail = deferred.add_timeout(Duration::from_secs(5), &clock);
    /// clock.advance(Duration::from_secs(5));
    /// assert!(tail.into_result().unwrap().unwrap_err().is::<TimedOut>());
    /// ```
    #[track_caller]
    pub fn add_timeout(self, duration: Duration, clock: &impl Clock) -> Deferred<T> {
        self.add_timeout_with(duration, clock, |result: Result<T>, after| {
            result.map_err(|failure| if failure.is::<Cancelled>() { Failure::new(TimedOut { after }) } else { failure })
        })
    }

    /// As [`add_timeout`](Deferred::add_timeout), with another idea of what to make of it.
    ///
    /// When the time is up the chain is cancelled, and once it has a result, be it a value after all, `hook` is called with
    /// that and with `duration`. What it returns takes the place of the result.
    #[doc(alias = "onTimeoutCancel")]
    #[track_caller]
    pub fn add_timeout_with<R>(
        self,
        duration: Duration,
        clock: &impl Clock,
        hook: impl FnOnce(Result<T>, Duration) -> R + 'static,
    ) -> Deferred<T>
    where
        R: IntoDeferred<T>,
    {
        if self.is_fired() {
            return self;
        }
        let timed_out = Rc::new(Cell::new(false));
        let timer = clock.call_later(duration, {
            let (timed_out, canceller) = (timed_out.clone(), self.canceller());
            move || {
                timed_out.set(true);
                canceller.cancel();
            }
        });
        self.then(move |result| {
            // Over already when it was the timer that brought the result.
            let _ = timer.cancel();
            if timed_out.get() { hook(result, duration).into_deferred() } else { Deferred::from(result) }
        })
    }
}
