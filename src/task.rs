//! Small tasks on a clock.

use std::cell::OnceCell;
use std::rc::Rc;
use std::time::Duration;

use crate::clock::{Clock, DelayedCall};
use crate::deferred::Deferred;
use crate::failure::guard;

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
