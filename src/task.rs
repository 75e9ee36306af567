//! Small tasks on a clock.

use std::cell::OnceCell;
use std::panic::Location;
use std::rc::Rc;
use std::time::Duration;

use crate::clock::{Clock, DelayedCall};
use crate::deferred::Deferred;
use crate::failure::{Result, guard};
use crate::reactor::Reactor;

/// Calls `function` when `delay` has passed; the chain gets what it returns.
///
/// Cancelling the chain before means that `function` is never called.
///
/// ```
/// use std::time::Duration;
/// use dosimeter::{Reactor, defer_later};
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let stop = reactor.clone();
/// defer_later(&reactor, Duration::from_millis(1), || "later")
///     .map(move |text| assert_eq!(text, "later"))
///     .add_both(move |_| Ok(stop.stop()?));
/// reactor.run()
/// # }
/// ```
#[doc(alias = "deferLater")]
#[track_caller]
pub fn defer_later<T: 'static>(
    clock: &impl Clock,
    delay: Duration,
    function: impl FnOnce() -> T + 'static,
) -> Deferred<T> {
    let (completer, deferred) = Deferred::pair();
    let call = Rc::new(OnceCell::<DelayedCall>::new());
    completer.on_cancel({
        let call = call.clone();
        // It is still pending: fired, the chain would have dropped this canceller.
        move || {
            let _ = call.get().map(DelayedCall::cancel);
        }
    });
    let armed = clock.call_later(delay, move || completer.fire(guard(function)));
    call.set(armed).expect("set once, here");
    deferred
}

impl Reactor {
    /// Runs `future` in the thread of the reactor; the chain gets what it ends with.
    ///
    /// It starts at once and runs to its first wait before this returns. When it awaits a [`Deferred`] it goes on inside the
    /// call that fires that, as a callback would, and the order of things is the same whether a program is written with
    /// callbacks or with `await`. When it awaits a future of another kind (a channel from another thread, say) it goes on in
    /// the turn of the loop after it was woken; wakers may be called from any thread.
    ///
    /// Cancelling the chain cancels the Deferreds that are being awaited, and [`Cancelled`](crate::Cancelled) comes out of
    /// the `await`: the body may clean up, wait again, or even succeed, and the chain gets what it ends with. If it awaits
    /// something that is not a Deferred, it is dropped where it stands. So are tasks that have not ended when the reactor
    /// stops; their chains fail with [`Abandoned`](crate::Abandoned). Dropping the chain lets the task go on.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dosimeter::{Reactor, defer_later};
    ///
    /// # fn main() -> dosimeter::Result<()> {
    /// let reactor = Reactor::new()?;
    /// let clock = reactor.clone();
    /// let sum = reactor.spawn(async move {
    ///     let one = defer_later(&clock, Duration::from_millis(1), || 1).await?;
    ///     let two = defer_later(&clock, Duration::from_millis(1), || 2).await?;
    ///     Ok(one + two)
    /// });
    /// let stop = reactor.clone();
    /// sum.map(|sum| assert_eq!(sum, 3)).add_both(move |_| Ok(stop.stop()?));
    /// reactor.run()
    /// # }
    /// ```
    #[doc(alias = "ensureDeferred")]
    #[doc(alias = "inlineCallbacks")]
    #[track_caller]
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = Result<T>> + 'static) -> Deferred<T> {
        self.spawner().spawn(future, Location::caller())
    }
}
