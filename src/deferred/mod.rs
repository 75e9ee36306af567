//! [`Deferred`], a typed callback chain, and [`Completer`], the end that fires it.
//!
//! Rules kept here:
//! - Callbacks run synchronously inside the firing call, in the order added; adding to a fired chain runs at once and
//!   allocates nothing. A pending stage is one allocation.
//! - Nothing recurses with the length of a chain. Running a stage *returns* the stage to run next and one loop ([`drive`])
//!   does the rest. Links that own point forward only, from the [`Completer`] to the tail, and a `Completer` always fires,
//!   at the latest when it is dropped: so an unfired chain is taken apart by that same loop and never by nested drops.
//! - Links that point backward are weak and serve cancellation alone.
//! - No cell is open while user code runs: a callback, a canceller or the drop of a value may add, fire, cancel or drop
//!   anything, the chain it belongs to included.
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

use std::cell::Cell;
use std::fmt;
use std::mem;
use std::panic::Location;
use std::rc::{Rc, Weak};

use crate::failure::{Abandoned, Cancelled, Failure, Result, guard};

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
/// nobody there is logged once, with the place where the chain was made.
///
/// ```
/// use dosimeter::{Deferred, Failure};
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
    created: Place,
}

enum State<T> {
    Fired(Result<T>),
    Pending(Rc<dyn Source<T>>),
    /// Moved out; only ever seen by `drop`.
    Taken,
}

/// The firing end of a [`Deferred`].
///
/// Firing consumes it: a chain cannot be fired twice. Dropping it unfired fails the chain with [`Abandoned`], so a chain
/// never hangs because somebody forgot it. After a cancellation firing is silently ignored, as in Twisted.
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

/// What a callback may return: `Result<U, Failure>`, `Deferred<U>` or `()`.
///
/// Bare values are left out on purpose: with these three the type of `Ok(x + 1)` and of `?` in a callback is inferred.
#[diagnostic::on_unimplemented(
    message = "a callback returns `Result<_, Failure>`, `Deferred<_>` or `()`, not `{Self}`",
    note = "a callback that cannot fail and returns a bare value goes through `map`"
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
        let created = Location::caller();
        count(|tally| &tally.created);
        let root =
            Rc::new(Root { canceller: Cell::new(None), cancelling: Cell::new(false), outlet: Outlet::open(created) });
        let completer = Completer { root: Some(root.clone()) };
        (completer, Deferred { state: State::Pending(root), created })
    }

    /// Calls `callback` with the value; a failure passes by.
    ///
    /// What it returns is the value of the next stage: `Ok(value)`, `Err(failure)`, or another chain to wait for.
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
    pub fn map<U: 'static>(self, function: impl FnOnce(T) -> U + 'static) -> Deferred<U> {
        self.then(move |result| Deferred::from(result.map(function)))
    }

    /// Looks at the value as it passes.
    pub fn inspect(self, look: impl FnOnce(&T) + 'static) -> Deferred<T> {
        self.then(move |result| {
            if let Ok(value) = &result {
                look(value);
            }
            Deferred::from(result)
        })
    }

    /// Fires `completer` with the result of this chain.
    ///
    /// Cancelling either chain does not reach the other.
    #[doc(alias = "chainDeferred")]
    pub fn chain_into(mut self, completer: Completer<T>) {
        match self.take() {
            State::Fired(result) => completer.fire(result),
            State::Pending(source) => match source.outlet().take_fired() {
                Some(result) => completer.fire(result),
                None => source.outlet().connect(Listener::Relay(completer.into_root())),
            },
            State::Taken => {}
        }
    }

    /// Cancels what the chain waits for.
    ///
    /// The request goes to the innermost chain this one waits on, through every `Deferred` a callback returned. There the
    /// canceller given to the [`Completer`] is run; if that does not fire the chain, it fails with [`Cancelled`]. The chain
    /// then takes its usual course: an errback on the way may well turn the cancellation into a success. A chain that has
    /// its result is left alone, and so is one whose own callback is just running.
    pub fn cancel(&self) {
        if let State::Pending(source) = &self.state {
            cancel(source.clone());
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
        match self.take() {
            State::Fired(result) => Ok(result),
            State::Pending(source) => match source.outlet().take_fired() {
                Some(result) => Ok(result),
                None => Err(Deferred { state: State::Pending(source), created: self.created }),
            },
            State::Taken => unreachable!("a chain is moved out of only when it is consumed"),
        }
    }

    /// The one way a stage is added: `work` gets the result and returns the chain to go on with.
    fn then<U: 'static, F>(mut self, work: F) -> Deferred<U>
    where
        F: FnOnce(Result<T>) -> Deferred<U> + 'static,
    {
        let created = self.created;
        match self.take() {
            State::Fired(result) => call(work, result, created),
            State::Pending(source) => match source.outlet().take_fired() {
                Some(result) => call(work, result, created),
                None => wait(source, work, created),
            },
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
        Deferred { state: State::Fired(result), created: Location::caller() }
    }
}

impl<T> Drop for Deferred<T> {
    fn drop(&mut self) {
        match self.take() {
            State::Fired(Err(failure)) => log_unhandled(&failure, self.created),
            State::Fired(Ok(_)) | State::Taken => {}
            State::Pending(source) => source.outlet().detach(),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Deferred<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            State::Fired(Ok(value)) => write!(f, "Deferred(fired: {value:?})"),
            State::Fired(Err(failure)) => write!(f, "Deferred(failed: {failure})"),
            State::Pending(source) if source.outlet().is_fired() => write!(f, "Deferred(fired)"),
            State::Pending(_) => write!(f, "Deferred(pending, from {})", self.created),
            State::Taken => write!(f, "Deferred(taken)"),
        }
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
        count(|tally| if result.is_ok() { &tally.fired } else { &tally.failed });
        fire(&*self.into_root(), result);
    }

    /// Sets what is run when somebody cancels the chain: stop the work, close the socket.
    ///
    /// It is run at most once, and dropped as soon as the chain is fired. It may itself fire the chain; if it does not, the
    /// chain fails with [`Cancelled`].
    pub fn on_cancel(&self, canceller: impl FnOnce() + 'static) {
        if let Some(root) = &self.root {
            root.canceller.set(Some(Box::new(canceller)));
        }
    }

    /// Whether the chain was cancelled, so that firing it would have no effect.
    pub fn is_cancelled(&self) -> bool {
        self.root.as_ref().is_some_and(|root| root.outlet.is_spent())
    }

    fn into_root(mut self) -> Rc<Root<T>> {
        self.root.take().expect("a Completer has its root until it is consumed")
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        if let Some(root) = self.root.take()
            && !root.cancelling.get()
            && root.outlet.has_audience()
        {
            count(|tally| &tally.abandoned);
            fire(&*root, Err(Failure::new(Abandoned)));
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
        if let Some(tail) = self.tail.upgrade() {
            cancel(tail);
        }
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Canceller")
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The links of a pending chain
// ---------------------------------------------------------------------------------------------------------------------

/// Where a chain was made, for the log.
type Place = &'static Location<'static>;

/// A piece of a chain with its types erased: what the firing loop and a cancellation see.
trait Link {
    /// Runs a stage that has its input; returns the stage to run next.
    fn run(self: Rc<Self>) -> Option<Rc<dyn Link>>;
    /// What this link waits for, if anything.
    fn upstream(&self) -> Option<Rc<dyn Link>>;
    /// Somebody cancelled the chain and this link waits for nothing else.
    fn cancel(&self);
}

/// A link as the one after it sees it: something a `T` comes out of.
trait Source<T>: Link {
    fn outlet(&self) -> &Outlet<T>;
    /// Remembers what this link waits for now.
    fn wait_for(&self, upstream: Weak<dyn Link>);
}

/// A link as the one before it sees it: something that takes a `T`.
trait Receive<T>: Link {
    fn accept(&self, input: Result<T>);
    fn wait_for(&self, upstream: Weak<dyn Link>);
}

/// What a result goes to.
enum Listener<T> {
    /// The next stage.
    Stage(Rc<dyn Receive<T>>),
    /// A stage, or the root of another chain, that passes the result on as its own.
    Relay(Rc<dyn Source<T>>),
}

/// The place where the result of a link comes out.
struct Outlet<T> {
    state: Cell<OutletState<T>>,
    created: Place,
}

enum OutletState<T> {
    /// No result yet, and nobody waits for it.
    Open,
    /// No result yet; this is where it will go.
    Connected(Listener<T>),
    /// No result yet, and the tail was dropped.
    Detached,
    /// The result waits for somebody to take it.
    Fired(Result<T>),
    /// The result was passed on.
    Spent,
}

impl<T> Outlet<T> {
    fn open(created: Place) -> Self {
        Outlet { state: Cell::new(OutletState::Open), created }
    }

    /// Looks at the state. What user code could reach is never looked at, only moved, so this runs none.
    fn peek<R>(&self, look: impl FnOnce(&OutletState<T>) -> R) -> R {
        let state = self.state.replace(OutletState::Spent);
        let answer = look(&state);
        self.state.set(state);
        answer
    }

    fn is_fired(&self) -> bool {
        self.peek(|state| matches!(state, OutletState::Fired(_)))
    }

    fn is_spent(&self) -> bool {
        self.peek(|state| matches!(state, OutletState::Fired(_) | OutletState::Spent))
    }

    /// Whether anybody would notice a result.
    fn has_audience(&self) -> bool {
        self.peek(|state| matches!(state, OutletState::Open | OutletState::Connected(_)))
    }

    fn take_fired(&self) -> Option<Result<T>> {
        match self.state.replace(OutletState::Spent) {
            OutletState::Fired(result) => Some(result),
            other => {
                self.state.set(other);
                None
            }
        }
    }

    fn connect(&self, listener: Listener<T>) {
        self.state.set(OutletState::Connected(listener));
    }

    /// The tail was dropped: a result that is there or comes later has no taker.
    fn detach(&self) {
        match self.state.replace(OutletState::Detached) {
            OutletState::Fired(Err(failure)) => log_unhandled(&failure, self.created),
            OutletState::Fired(Ok(_)) | OutletState::Open | OutletState::Detached => {}
            other @ (OutletState::Connected(_) | OutletState::Spent) => self.state.set(other),
        }
    }
}

/// Puts a result out and returns the stage it makes ready, if any. Relays are walked through here, in a loop.
fn deliver<T>(outlet: &Outlet<T>, result: Result<T>) -> Option<Rc<dyn Link>> {
    let mut relay: Rc<dyn Source<T>>;
    let mut outlet = outlet;
    loop {
        match outlet.state.replace(OutletState::Spent) {
            OutletState::Connected(Listener::Stage(stage)) => {
                stage.accept(result);
                return Some(stage);
            }
            OutletState::Connected(Listener::Relay(next)) => {
                relay = next;
                outlet = relay.outlet();
            }
            OutletState::Open => {
                outlet.state.set(OutletState::Fired(result));
                return None;
            }
            OutletState::Detached => {
                if let Err(failure) = result {
                    log_unhandled(&failure, outlet.created);
                }
                return None;
            }
            // Fired late, after a cancellation: the first result stands.
            first @ (OutletState::Fired(_) | OutletState::Spent) => {
                outlet.state.set(first);
                return None;
            }
        }
    }
}

/// The loop that runs a chain at constant stack depth.
fn drive(mut ready: Option<Rc<dyn Link>>) {
    while let Some(link) = ready {
        ready = link.run();
    }
}

fn fire<T>(root: &Root<T>, result: Result<T>) {
    // The canceller goes first: what it holds must not live on while the chain waits for something else.
    root.canceller.take();
    drive(deliver(&root.outlet, result));
}

/// Walks to the innermost link that is waited for and cancels there.
fn cancel(mut link: Rc<dyn Link>) {
    while let Some(upstream) = link.upstream() {
        link = upstream;
    }
    link.cancel();
}

/// The start of a chain: what the [`Completer`] fires.
struct Root<T> {
    canceller: Cell<Option<Box<dyn FnOnce()>>>,
    /// The canceller runs. A completer that it drops has not forgotten the chain.
    cancelling: Cell<bool>,
    outlet: Outlet<T>,
}

impl<T> Link for Root<T> {
    fn run(self: Rc<Self>) -> Option<Rc<dyn Link>> {
        None
    }

    fn upstream(&self) -> Option<Rc<dyn Link>> {
        None
    }

    fn cancel(&self) {
        if self.outlet.is_spent() {
            return;
        }
        if let Some(canceller) = self.canceller.take() {
            self.cancelling.set(true);
            if let Err(failure) = guard(canceller) {
                log::error!(target: "dosimeter::deferred", "a canceller failed: {}", failure.report());
            }
            self.cancelling.set(false);
        }
        if !self.outlet.is_spent() {
            count(|tally| &tally.cancelled);
            fire(self, Err(Failure::new(Cancelled)));
        }
    }
}

impl<T> Source<T> for Root<T> {
    fn outlet(&self) -> &Outlet<T> {
        &self.outlet
    }

    fn wait_for(&self, _upstream: Weak<dyn Link>) {
        // A root that relays another chain (`chain_into`) does not pass a cancellation on to it.
    }
}

/// A callback that waits: the receiver of the link before it and the source of the one after it.
struct Stage<T, U, F> {
    work: Cell<Option<F>>,
    input: Cell<Option<Result<T>>>,
    upstream: Cell<Option<Weak<dyn Link>>>,
    outlet: Outlet<U>,
}

impl<T, U, F> Link for Stage<T, U, F>
where
    T: 'static,
    U: 'static,
    F: FnOnce(Result<T>) -> Deferred<U> + 'static,
{
    fn run(self: Rc<Self>) -> Option<Rc<dyn Link>> {
        let (Some(work), Some(input)) = (self.work.take(), self.input.take()) else {
            return None;
        };
        // While the callback runs the chain waits for nothing: a cancellation from inside it finds nobody to ask.
        self.upstream.take();
        match call(work, input, self.outlet.created).take() {
            State::Fired(result) => deliver(&self.outlet, result),
            State::Pending(inner) => relay(self, inner),
            State::Taken => None,
        }
    }

    fn upstream(&self) -> Option<Rc<dyn Link>> {
        let upstream = self.upstream.take();
        let link = upstream.as_ref().and_then(Weak::upgrade);
        self.upstream.set(upstream);
        link
    }

    fn cancel(&self) {}
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
}

/// Runs a callback now; a panic in it is a failure.
fn call<T, U>(work: impl FnOnce(Result<T>) -> Deferred<U>, input: Result<T>, created: Place) -> Deferred<U> {
    let mut next = guard(|| work(input)).unwrap_or_else(|failure| Deferred::from(Err(failure)));
    next.created = created;
    next
}

/// Keeps a callback until the link before it has its result.
fn wait<T: 'static, U: 'static, F>(source: Rc<dyn Source<T>>, work: F, created: Place) -> Deferred<U>
where
    F: FnOnce(Result<T>) -> Deferred<U> + 'static,
{
    let stage = Rc::new(Stage {
        work: Cell::new(Some(work)),
        input: Cell::new(None),
        upstream: Cell::new(Some(Rc::downgrade(&source) as Weak<dyn Link>)),
        outlet: Outlet::open(created),
    });
    source.outlet().connect(Listener::Stage(stage.clone()));
    Deferred { state: State::Pending(stage), created }
}

/// A callback of `stage` returned the pending chain that ends in `inner`: the stage's result is that chain's.
fn relay<U: 'static>(stage: Rc<dyn Source<U>>, inner: Rc<dyn Source<U>>) -> Option<Rc<dyn Link>> {
    if let Some(result) = inner.outlet().take_fired() {
        return deliver(stage.outlet(), result);
    }
    let upstream = Rc::downgrade(&inner) as Weak<dyn Link>;
    let listener = match stage.outlet().state.replace(OutletState::Spent) {
        OutletState::Connected(listener) => {
            match &listener {
                Listener::Stage(next) => next.wait_for(upstream),
                Listener::Relay(next) => next.wait_for(upstream),
            }
            listener
        }
        OutletState::Detached => {
            inner.outlet().detach();
            return None;
        }
        other => {
            stage.outlet().state.set(other);
            stage.wait_for(upstream);
            Listener::Relay(stage)
        }
    };
    inner.outlet().connect(listener);
    None
}

// ---------------------------------------------------------------------------------------------------------------------
// What is counted, and what is logged
// ---------------------------------------------------------------------------------------------------------------------

/// How many chains of this thread came to which end. The reactor of the thread publishes the figures once per turn.
pub(crate) struct Tally {
    pub(crate) created: Cell<u64>,
    pub(crate) fired: Cell<u64>,
    pub(crate) failed: Cell<u64>,
    pub(crate) cancelled: Cell<u64>,
    pub(crate) abandoned: Cell<u64>,
    pub(crate) unhandled: Cell<u64>,
}

thread_local! {
    pub(crate) static TALLY: Tally = const {
        Tally {
            created: Cell::new(0),
            fired: Cell::new(0),
            failed: Cell::new(0),
            cancelled: Cell::new(0),
            abandoned: Cell::new(0),
            unhandled: Cell::new(0),
        }
    };
}

fn count(which: impl FnOnce(&Tally) -> &Cell<u64>) {
    TALLY.with(|tally| {
        let counter = which(tally);
        counter.set(counter.get() + 1);
    });
}

#[cold]
fn log_unhandled(failure: &Failure, created: Place) {
    count(|tally| &tally.unhandled);
    log::error!(
        target: "dosimeter::deferred",
        "unhandled failure in a Deferred made at {created}: {}",
        failure.report()
    );
}
