//! [`Deferred`], a typed callback chain, and [`Completer`], the end that fires it.
//!
//! Rules kept here:
//! - Callbacks run synchronously inside the firing call, in the order added; adding to a fired chain runs at once and
//!   allocates nothing. A pending stage is one allocation.
//! - A stage is gone when it has run: what it held is freed before the next one runs.
//! - The rules of `links.rs`, which this file builds on: nothing recurses with the length of a chain, owning links point
//!   forward only, and no cell is open while user code runs.
//!
//! How a pending chain hangs together (`==>` owns, `- ->` is weak):
//!
//! ```text
//! Completer ==> Root ==> Stage ==> Stage <== Deferred (the tail)
//!                  <- - -    <- - -
//! ```
//!
//! A callback that returns a pending chain puts its own stage behind the tail of that chain, as a relay; when somebody
//! already waits for the stage, the inner chain is handed that somebody directly and the stage is gone. A callback that
//! keeps returning new chains for ever therefore runs in constant memory.

mod combine;
mod future;
mod links;
mod sync;
mod timeout;
mod trace;

use std::cell::Cell;
use std::fmt;
use std::mem;
use std::panic::Location;
use std::rc::{Rc, Weak};

pub use self::combine::{
    DeferredList, FailureGroup, FirstError, Join, Listed, deferred_list, gather_results, join, race,
};
pub(crate) use self::future::{Spawner, resume};
pub use self::sync::{DeferredLock, DeferredQueue, DeferredSemaphore, Permit, QueueOverflow, QueueUnderflow};
pub use self::trace::set_debugging;
pub(crate) use self::trace::{TALLY, Tally, warn_of_unfired};

use self::links::{
    Inputs, Link, Listener, OnCancel, Outlet, Ready, Receive, Root, Source, cancel, deliver, drive, innermost, relay,
};
use self::trace::{Place, TARGET, log_unhandled, note_callback};
use crate::failure::{Failure, Result, guard};

/// A value, or a failure, that is there now or comes later, and what is to happen with it.
///
/// It behaves as Twisted's Deferred does: callbacks are called with the value, errbacks with the failure, each with what
/// the one before returned; a callback that returns a `Deferred` makes the chain wait for it. Where Twisted adds to one
/// shared object, the methods here consume the chain and return its new tail, so that each stage has its own type.
///
/// A callback returns `Result<U, Failure>`, `Deferred<U>` or `()` (see [`IntoDeferred`]); one that cannot fail and returns a
/// bare value goes through [`map`](Deferred::map). A panic in a callback is a failure of the chain.
///
/// Dropping the tail detaches it: the chain goes on without an audience. A failure that reaches the end of a chain with
/// nobody there is logged once, with the place where the chain was made. [`Cancelled`](crate::Cancelled) is not: somebody
/// asked for it, and an error in the log would report that they got it.
///
/// ```
/// use dosimeter::Deferred;
///
/// let (completer, deferred) = Deferred::pair();
/// let tail = deferred
///     .add_callback(|text: &str| Ok(text.parse::<i32>()?))
///     .add_errback(|_| Ok(0))
///     .map(|number| number + 1);
/// completer.callback("41");
/// assert_eq!(tail.into_result().unwrap().unwrap(), 42);
/// ```
pub struct Deferred<T> {
    state: State<T>,
    made: Place,
}

enum State<T> {
    Fired(Result<T>),
    Pending(Rc<dyn Source<T>>),
    /// Moved out; only ever seen by `drop`.
    Taken,
}

/// The firing end of a [`Deferred`].
///
/// Firing consumes it: a chain cannot be fired twice. Dropping it unfired fails the chain with
/// [`Abandoned`](crate::Abandoned), so a chain never hangs because somebody forgot it. After a cancellation firing has no
/// effect (see [`on_cancel`](Completer::on_cancel)).
pub struct Completer<T> {
    /// Empty only between firing and dropping.
    root: Option<Rc<Root<T>>>,
}

/// A handle that can cancel a chain whose tail is elsewhere.
///
/// It keeps nothing alive and costs one word count; cancelling a chain that has ended is a no-op.
#[derive(Clone)]
pub struct Canceller {
    tail: Weak<dyn Link>,
}

/// Keeps a chain from going on; see [`Deferred::pause`].
#[must_use = "dropping a pause ends it"]
pub struct Pause {
    /// Empty only while it is dropped.
    gate: Option<Completer<()>>,
}

/// What a callback may return: `Result<U, Failure>`, `Deferred<U>` or `()`.
///
/// Bare values are left out on purpose: with these three the type of `Ok(x + 1)` and of `?` in a callback is inferred. A
/// callback that may fail before it has its chain makes a chain of that failure:
///
/// ```
/// use std::time::Duration;
/// use dosimeter::testing::{Clock, success_result_of};
/// use dosimeter::{Deferred, Result, defer_later};
///
/// fn wait(clock: &Clock, seconds: &str) -> Result<Deferred<u64>> {
///     let seconds = seconds.parse()?;
///     Ok(defer_later(clock, Duration::from_secs(seconds), move || seconds))
/// }
///
/// let clock = Clock::new();
/// let (now, later) = (clock.clone(), clock.clone());
/// let waited = Deferred::succeed("soon")
///     .add_callback(move |text| wait(&now, text).unwrap_or_else(Deferred::fail))
///     .add_errback(move |_| wait(&later, "2").unwrap_or_else(Deferred::fail));
/// clock.advance(Duration::from_secs(2));
/// assert_eq!(success_result_of(waited), 2);
/// ```
#[diagnostic::on_unimplemented(
    message = "a callback returns `Result<_, Failure>`, `Deferred<_>` or `()`, not `{Self}`",
    note = "a callback that cannot fail and returns a bare value goes through `map`",
    note = "one that may fail before it has its `Deferred` ends with `.unwrap_or_else(Deferred::fail)`"
)]
pub trait IntoDeferred<T> {
    /// Makes the chain of it.
    fn into_deferred(self) -> Deferred<T>;
}

impl<T> IntoDeferred<T> for Result<T, Failure> {
    fn into_deferred(self) -> Deferred<T> {
        self.into()
    }
}

impl<T> IntoDeferred<T> for Deferred<T> {
    fn into_deferred(self) -> Deferred<T> {
        self
    }
}

impl IntoDeferred<()> for () {
    fn into_deferred(self) -> Deferred<()> {
        Ok(()).into()
    }
}

impl<T: 'static> Deferred<T> {
    /// Makes an unfired chain and the end that fires it.
    #[doc(alias = "Deferred")]
    #[track_caller]
    pub fn pair() -> (Completer<T>, Deferred<T>) {
        let made = Location::caller();
        let root = Rc::new(Root::new(made));
        let completer = Completer { root: Some(root.clone()) };
        (completer, Deferred { state: State::Pending(root), made })
    }

    /// Calls `callback` with the value; a failure passes by.
    ///
    /// What it returns is the value of the next stage: `Ok(value)`, `Err(failure)`, or another chain to wait for.
    #[track_caller]
    pub fn add_callback<U, R>(self, callback: impl FnOnce(T) -> R + 'static) -> Deferred<U>
    where
        U: 'static,
        R: IntoDeferred<U>,
    {
        self.then(move |result| match result {
            Ok(value) => callback(value).into_deferred(),
            Err(failure) => Deferred::from(Err(failure)),
        })
    }

    /// Calls `errback` with the failure; a value passes by.
    ///
    /// `Ok(value)` puts the chain back on the success track.
    #[track_caller]
    pub fn add_errback<R>(self, errback: impl FnOnce(Failure) -> R + 'static) -> Deferred<T>
    where
        R: IntoDeferred<T>,
    {
        self.then(move |result| match result {
            Ok(value) => Deferred::from(Ok(value)),
            Err(failure) => errback(failure).into_deferred(),
        })
    }

    /// Calls `both` with the result, whichever it is.
    #[track_caller]
    pub fn add_both<U, R>(self, both: impl FnOnce(Result<T>) -> R + 'static) -> Deferred<U>
    where
        U: 'static,
        R: IntoDeferred<U>,
    {
        self.then(move |result| both(result).into_deferred())
    }

    /// Calls exactly one of the two: `callback` with the value or `errback` with the failure.
    ///
    /// They are one pair: `errback` does not see a failure of `callback`. `add_callback(..).add_errback(..)` is two stages,
    /// and there it does.
    #[track_caller]
    pub fn add_callbacks<U, R, S>(
        self,
        callback: impl FnOnce(T) -> R + 'static,
        errback: impl FnOnce(Failure) -> S + 'static,
    ) -> Deferred<U>
    where
        U: 'static,
        R: IntoDeferred<U>,
        S: IntoDeferred<U>,
    {
        self.then(move |result| match result {
            Ok(value) => callback(value).into_deferred(),
            Err(failure) => errback(failure).into_deferred(),
        })
    }

    /// Calls `function` with the value and goes on with what it returns.
    #[track_caller]
    pub fn map<U: 'static>(self, function: impl FnOnce(T) -> U + 'static) -> Deferred<U> {
        self.then(move |result| Deferred::from(result.map(function)))
    }

    /// Looks at the value as it passes.
    #[track_caller]
    pub fn inspect(self, look: impl FnOnce(&T) + 'static) -> Deferred<T> {
        self.then(move |result| {
            if let Ok(value) = &result {
                look(value);
            }
            Deferred::from(result)
        })
    }

    /// Logs a failure as it passes, as "`what` failed", and lets it go on: it is not handled by that.
    ///
    /// ```
    /// use dosimeter::Deferred;
    ///
    /// let tail = Deferred::<i32>::fail("no such user").log_failure("the lookup").add_errback(|_| Ok(0));
    /// assert_eq!(tail.into_result().unwrap().unwrap(), 0);
    /// ```
    #[doc(alias = "logError")]
    #[track_caller]
    pub fn log_failure(self, what: &'static str) -> Deferred<T> {
        self.then(move |result| {
            if let Err(failure) = &result {
                failure.log(TARGET, format_args!("{what} failed"));
            }
            Deferred::from(result)
        })
    }

    /// Stops the chain here: what is added from now on runs when the [`Pause`] is gone.
    ///
    /// What was added before runs as usual. Several pauses of one chain must all be gone. Cancelling reaches what the
    /// chain waits for, but does not end a pause.
    ///
    /// ```
    /// use dosimeter::Deferred;
    ///
    /// let (completer, deferred) = Deferred::pair();
    /// let (deferred, pause) = deferred.pause();
    /// let tail = deferred.map(|number: i32| number + 1);
    /// completer.callback(1);
    /// assert!(!tail.is_fired());
    /// pause.unpause();
    /// assert_eq!(tail.into_result().unwrap().unwrap(), 2);
    /// ```
    #[track_caller]
    pub fn pause(self) -> (Deferred<T>, Pause) {
        let (completer, gate) = Deferred::<()>::pair();
        completer.root().on_cancel.set(OnCancel::Ignore);
        let paused = self.then(move |result| gate.then(move |_| Deferred::from(result)));
        (paused, Pause { gate: Some(completer) })
    }

    /// Fires `completer` with the result of this chain.
    ///
    /// Cancelling either chain does not reach the other.
    #[doc(alias = "chainDeferred")]
    pub fn chain_into(mut self, completer: Completer<T>) {
        match self.take_result() {
            Ok(result) => completer.fire(result),
            Err(source) => source.outlet().connect(Listener::Relay(completer.into_root())),
        }
    }

    /// Cancels what the chain waits for.
    ///
    /// The request goes to the innermost chain this one waits on, through every `Deferred` a callback returned. There the
    /// canceller given to the [`Completer`] is run; if that does not fire the chain, it fails with
    /// [`Cancelled`](crate::Cancelled). The chain then takes its usual course: an errback on the way may well turn the
    /// cancellation into a success. A chain that has its result is left alone, and so is one whose own callback is just
    /// running.
    pub fn cancel(&self) {
        if let State::Pending(source) = &self.state {
            cancel(Rc::downgrade(source) as Weak<dyn Link>);
        }
    }

    /// A handle that cancels this chain up to this stage, to keep when the tail goes elsewhere.
    pub fn canceller(&self) -> Canceller {
        let tail: Weak<dyn Link> = match &self.state {
            State::Pending(source) => Rc::downgrade(&(source.clone() as Rc<dyn Link>)),
            State::Fired(_) | State::Taken => Weak::<Root<()>>::new(),
        };
        Canceller { tail }
    }

    /// Whether the result is there.
    #[doc(alias = "called")]
    pub fn is_fired(&self) -> bool {
        match &self.state {
            State::Pending(source) => source.outlet().is_fired(),
            State::Fired(_) | State::Taken => true,
        }
    }

    /// Takes the result if it is there.
    ///
    /// # Errors
    /// Gives the chain back when it is still pending.
    pub fn into_result(mut self) -> Result<Result<T>, Deferred<T>> {
        self.take_result().map_err(|source| Deferred { state: State::Pending(source), made: self.made })
    }

    /// The one way a stage is added: `work` gets the result and returns the chain to go on with.
    #[track_caller]
    fn then<U: 'static, F>(mut self, work: F) -> Deferred<U>
    where
        F: FnOnce(Result<T>) -> Deferred<U> + 'static,
    {
        let made = self.made;
        note_callback(made, Location::caller());
        match self.take() {
            State::Fired(result) => call(work, result, made),
            State::Pending(source) => match source.outlet().take_fired() {
                Some(result) => call(work, result, made),
                None => wait(source, work, made),
            },
            State::Taken => unreachable!("a chain is moved out of only when it is consumed"),
        }
    }

    /// Calls `work` with the result; what that makes ready is run without recursion.
    ///
    /// This is what the combinators are made of: `work` is code of this crate and does not panic. The canceller reaches
    /// what this chain waits for.
    fn sink<F>(mut self, work: F) -> Canceller
    where
        F: FnOnce(Result<T>) -> Ready + 'static,
    {
        match self.take_result() {
            Ok(result) => {
                drive(work(result));
                Canceller { tail: Weak::<Root<()>>::new() }
            }
            Err(source) => {
                let (upstream, input) = (Cell::new(Some(Rc::downgrade(&source) as Weak<dyn Link>)), Cell::new(None));
                let sink = Rc::new(Sink { work: Cell::new(Some(work)), input, upstream });
                let tail = Rc::downgrade(&sink) as Weak<dyn Link>;
                source.outlet().connect(Listener::Stage(sink));
                Canceller { tail }
            }
        }
    }

    /// Takes the result, or else the link it will come from.
    fn take_result(&mut self) -> Result<Result<T>, Rc<dyn Source<T>>> {
        match self.take() {
            State::Fired(result) => Ok(result),
            State::Pending(source) => source.outlet().take_fired().ok_or(source),
            State::Taken => unreachable!("a chain is moved out of only when it is consumed"),
        }
    }
}

impl<T> Deferred<T> {
    /// A chain that already has its value.
    #[track_caller]
    pub fn succeed(value: T) -> Self {
        Deferred::from(Ok(value))
    }

    /// A chain that has already failed.
    #[track_caller]
    pub fn fail(error: impl Into<Failure>) -> Self {
        Deferred::from(Err(error.into()))
    }

    fn take(&mut self) -> State<T> {
        mem::replace(&mut self.state, State::Taken)
    }
}

/// Calls `function` and makes a chain of whatever comes out, a panic included.
#[doc(alias = "maybeDeferred")]
#[track_caller]
pub fn maybe_deferred<T, R: IntoDeferred<T>>(function: impl FnOnce() -> R) -> Deferred<T> {
    guard(|| function().into_deferred()).unwrap_or_else(|failure| Deferred::from(Err(failure)))
}

impl<T> From<Result<T, Failure>> for Deferred<T> {
    #[track_caller]
    fn from(result: Result<T, Failure>) -> Self {
        Deferred { state: State::Fired(result), made: Location::caller() }
    }
}

impl<T> Drop for Deferred<T> {
    /// Every stage that is added moves out of a tail and drops the shell: that must cost nothing.
    #[inline]
    fn drop(&mut self) {
        if !matches!(self.state, State::Taken) {
            self.let_go();
        }
    }
}

impl<T> Deferred<T> {
    #[inline(never)]
    fn let_go(&mut self) {
        match self.take() {
            State::Fired(Err(failure)) => log_unhandled(failure, self.made),
            State::Fired(Ok(_)) | State::Taken => {}
            State::Pending(source) => source.outlet().detach(),
        }
    }
}

/// Whether the chain is fired, pending, or waits for another chain, and where they were made.
impl<T: fmt::Debug> fmt::Debug for Deferred<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            State::Fired(Ok(value)) => write!(f, "Deferred(fired: {value:?})"),
            State::Fired(Err(failure)) => write!(f, "Deferred(failed: {failure})"),
            State::Pending(source) if source.outlet().is_failed() => write!(f, "Deferred(failed)"),
            State::Pending(source) if source.outlet().is_fired() => write!(f, "Deferred(fired)"),
            State::Pending(source) => write_pending(f, source.clone(), self.made),
            State::Taken => write!(f, "Deferred(taken)"),
        }
    }
}

fn write_pending(f: &mut fmt::Formatter<'_>, tail: Rc<dyn Link>, made: Place) -> fmt::Result {
    match innermost(tail).map(|innermost| innermost.made()) {
        Some(Some(waits_for)) if waits_for != made => {
            write!(f, "Deferred(waiting for the one made at {waits_for}, made at {made})")
        }
        Some(_) => write!(f, "Deferred(pending, made at {made})"),
        None => write!(f, "Deferred(waiting for itself, made at {made})"),
    }
}

impl<T: 'static> Completer<T> {
    /// Fires the chain with a value.
    pub fn callback(self, value: T) {
        self.fire(Ok(value));
    }

    /// Fires the chain with a failure.
    #[track_caller]
    pub fn errback(self, error: impl Into<Failure>) {
        self.fire(Err(error.into()));
    }

    /// Fires the chain with a result.
    pub fn fire(self, result: Result<T>) {
        drive(self.release(result));
    }

    /// Sets what is run when somebody cancels the chain: stop the work, close the socket.
    ///
    /// It is run at most once, and dropped as soon as the chain is fired. It may itself fire the chain; if it does not, the
    /// chain fails with [`Cancelled`](crate::Cancelled), also when it panics (which is logged). A result that comes after
    /// that is dropped, with a warning in the log: who sets a canceller has said that it can stop the work.
    ///
    /// ```
    /// use std::{cell::Cell, rc::Rc};
    /// use dosimeter::{Cancelled, Deferred};
    ///
    /// let stopped = Rc::new(Cell::new(false));
    /// let (completer, deferred) = Deferred::<i32>::pair();
    /// completer.on_cancel({
    ///     let stopped = stopped.clone();
    ///     move || stopped.set(true)
    /// });
    /// deferred.cancel();
    /// assert!(stopped.get());
    /// assert!(deferred.into_result().unwrap().unwrap_err().is::<Cancelled>());
    /// ```
    #[doc(alias = "canceller")]
    pub fn on_cancel(&self, canceller: impl FnOnce() + 'static) {
        if !self.is_cancelled() {
            self.root().on_cancel.set(OnCancel::Ask(Box::new(canceller)));
        }
    }

    /// Whether the chain was cancelled, so that firing it would have no effect.
    pub fn is_cancelled(&self) -> bool {
        self.root().has_ended()
    }

    /// Fires the chain and leaves it to the caller to run what is ready.
    fn release(self, result: Result<T>) -> Ready {
        self.into_root().fire(result)
    }

    fn root(&self) -> &Rc<Root<T>> {
        self.root.as_ref().expect("a Completer has its root until it is consumed")
    }

    fn into_root(mut self) -> Rc<Root<T>> {
        self.root.take().expect("a Completer has its root until it is consumed")
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        if let Some(root) = self.root.take() {
            root.abandon();
        }
    }
}

impl<T> fmt::Debug for Completer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Completer")
    }
}

impl Canceller {
    /// Cancels the chain, as [`Deferred::cancel`] does.
    pub fn cancel(&self) {
        cancel(self.tail.clone());
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Canceller")
    }
}

impl Pause {
    /// Lets the chain go on; it does so before this returns. Dropping the pause does the same.
    pub fn unpause(self) {}
}

impl Drop for Pause {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.callback(());
        }
    }
}

impl fmt::Debug for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pause")
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// A callback that waits
// ---------------------------------------------------------------------------------------------------------------------

/// A callback that waits: the receiver of the link before it and the source of the one after it.
struct Stage<T, U, F> {
    work: Cell<Option<F>>,
    input: Cell<Option<Result<T>>>,
    upstream: Upstream,
    outlet: Outlet<U>,
}

/// What a link waits for. It is empty while the link runs: a cancellation from inside it finds nobody to ask.
type Upstream = Cell<Option<Weak<dyn Link>>>;

fn look_upstream(upstream: &Upstream) -> Option<Rc<dyn Link>> {
    let weak = upstream.take();
    let link = weak.as_ref().and_then(Weak::upgrade);
    upstream.set(weak);
    link
}

impl<T, U, F> Link for Stage<T, U, F>
where
    T: 'static,
    U: 'static,
    F: FnOnce(Result<T>) -> Deferred<U> + 'static,
{
    fn run(self: Rc<Self>) -> Ready {
        let (Some(work), Some(input)) = (self.work.take(), self.input.take()) else {
            return None;
        };
        self.upstream.take();
        match call(work, input, self.outlet.made()).take() {
            State::Fired(result) => deliver(&self.outlet, result),
            State::Pending(inner) => relay(self, inner),
            State::Taken => None,
        }
    }

    fn upstream(&self) -> Option<Rc<dyn Link>> {
        look_upstream(&self.upstream)
    }

    fn cancel(self: Rc<Self>) -> Inputs {
        Inputs::new()
    }

    fn made(&self) -> Option<Place> {
        None
    }
}

impl<T, U, F> Receive<T> for Stage<T, U, F>
where
    T: 'static,
    U: 'static,
    F: FnOnce(Result<T>) -> Deferred<U> + 'static,
{
    fn accept(&self, input: Result<T>) {
        self.input.set(Some(input));
    }

    fn wait_for(&self, upstream: Weak<dyn Link>) {
        self.upstream.set(Some(upstream));
    }
}

impl<T, U, F> Source<U> for Stage<T, U, F>
where
    T: 'static,
    U: 'static,
    F: FnOnce(Result<T>) -> Deferred<U> + 'static,
{
    fn outlet(&self) -> &Outlet<U> {
        &self.outlet
    }

    fn wait_for(&self, upstream: Weak<dyn Link>) {
        self.upstream.set(Some(upstream));
    }

    fn admit(&self) -> bool {
        true
    }
}

/// Runs a callback now; a panic in it is a failure.
fn call<T, U>(work: impl FnOnce(Result<T>) -> Deferred<U>, input: Result<T>, made: Place) -> Deferred<U> {
    let mut next = guard(|| work(input)).unwrap_or_else(|failure| Deferred::from(Err(failure)));
    next.made = made;
    next
}

/// Keeps a callback until the link before it has its result.
fn wait<T: 'static, U: 'static, F>(source: Rc<dyn Source<T>>, work: F, made: Place) -> Deferred<U>
where
    F: FnOnce(Result<T>) -> Deferred<U> + 'static,
{
    let stage = Rc::new(Stage {
        work: Cell::new(Some(work)),
        input: Cell::new(None),
        upstream: Cell::new(Some(Rc::downgrade(&source) as Weak<dyn Link>)),
        outlet: Outlet::open(made),
    });
    source.outlet().connect(Listener::Stage(stage.clone()));
    Deferred { state: State::Pending(stage), made }
}

/// The end of a chain that goes on somewhere else: in a combinator.
struct Sink<T, F> {
    work: Cell<Option<F>>,
    input: Cell<Option<Result<T>>>,
    upstream: Upstream,
}

impl<T: 'static, F> Link for Sink<T, F>
where
    F: FnOnce(Result<T>) -> Ready + 'static,
{
    fn run(self: Rc<Self>) -> Ready {
        let (work, input) = (self.work.take()?, self.input.take()?);
        self.upstream.take();
        work(input)
    }

    fn upstream(&self) -> Option<Rc<dyn Link>> {
        look_upstream(&self.upstream)
    }

    fn cancel(self: Rc<Self>) -> Inputs {
        Inputs::new()
    }

    fn made(&self) -> Option<Place> {
        None
    }
}

impl<T: 'static, F> Receive<T> for Sink<T, F>
where
    F: FnOnce(Result<T>) -> Ready + 'static,
{
    fn accept(&self, input: Result<T>) {
        self.input.set(Some(input));
    }

    fn wait_for(&self, upstream: Weak<dyn Link>) {
        self.upstream.set(Some(upstream));
    }
}
