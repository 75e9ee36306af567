//! What a pending chain is made of, and the one loop that runs it.
//!
//! Rules kept here:
//! - Nothing recurses with the length of a chain. Running a link *returns* the link to run next and [`drive`] does the rest.
//! - Links that own point forward only, from the firing end to the tail, and the firing end always fires, at the latest when
//!   it is dropped: so an unfired chain is taken apart by that same loop and never by nested drops.
//! - Links that point backward are weak and serve cancellation alone.
//! - No cell is open while user code runs: a callback, a canceller, a waker or the drop of a value may add, fire, cancel or
//!   drop anything, the chain it belongs to included.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::task::Waker;

use super::trace::{Place, TARGET, count, debugging, discard, log_unhandled, note_fired, note_made};
use crate::failure::{Abandoned, Cancelled, Failure, Result, guard};

/// A piece of a chain with its types erased: what the loop and a cancellation see.
pub(super) trait Link {
    /// Runs a link that has its input; returns the link to run next.
    fn run(self: Rc<Self>) -> Ready;
    /// What this link waits for, if it is one thing.
    fn upstream(&self) -> Option<Rc<dyn Link>>;
    /// Somebody cancelled the chain and this is the link that it waits for in the end. Returns what is to be cancelled in its
    /// place: the inputs of a combination.
    fn cancel(self: Rc<Self>) -> Inputs;
    /// Where the chain was made that starts with this link.
    fn made(&self) -> Option<Place>;
}

/// What is to be run next. It must not be dropped: what it points to has its input and runs only here.
pub(super) type Ready = Option<Rc<dyn Link>>;

/// What a link waits for, if that may be several things.
pub(super) type Inputs = Vec<Weak<dyn Link>>;

/// A link as the one after it sees it: something a `T` comes out of.
pub(super) trait Source<T>: Link {
    fn outlet(&self) -> &Outlet<T>;
    /// Remembers what this link waits for now.
    fn wait_for(&self, upstream: Weak<dyn Link>);
    /// A result is about to pass through; false when it comes too late.
    fn admit(&self) -> bool;
}

/// A link as the one before it sees it: something that takes a `T`.
pub(super) trait Receive<T>: Link {
    fn accept(&self, input: Result<T>);
    fn wait_for(&self, upstream: Weak<dyn Link>);
}

/// What a result goes to.
pub(super) enum Listener<T> {
    /// The next stage.
    Stage(Rc<dyn Receive<T>>),
    /// A stage, or the root of another chain, that passes the result on as its own.
    Relay(Rc<dyn Source<T>>),
}

impl<T> Listener<T> {
    fn wait_for(&self, upstream: Weak<dyn Link>) {
        match self {
            Listener::Stage(next) => next.wait_for(upstream),
            Listener::Relay(next) => next.wait_for(upstream),
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Where a result comes out
// ---------------------------------------------------------------------------------------------------------------------

/// The place where the result of a link comes out.
pub(super) struct Outlet<T> {
    state: Cell<OutletState<T>>,
    /// The state is `Fired`. Every stage that is added asks, nearly always in vain, and taking a state that was just set out
    /// of its cell to look at it makes the processor wait for the memory.
    fired: Cell<bool>,
    made: Place,
}

enum OutletState<T> {
    /// No result yet, and nobody waits for it.
    Open,
    /// No result yet; this is where it will go.
    Connected(Listener<T>),
    /// No result yet; this link is to be run when it is here.
    Awaited(Rc<dyn Link>),
    /// No result yet; somebody else's executor is to be told.
    Polled(Waker),
    /// No result yet, and the tail was dropped.
    Detached,
    /// The result waits for somebody to take it.
    Fired(Result<T>),
    /// The result was passed on.
    Spent,
}

impl<T> Outlet<T> {
    pub(super) fn open(made: Place) -> Self {
        Outlet { state: Cell::new(OutletState::Open), fired: Cell::new(false), made }
    }

    /// Where the chain was made.
    pub(super) fn made(&self) -> Place {
        self.made
    }

    /// Looks at the state. What user code could reach is never looked at, only moved, so this runs none.
    fn peek<R>(&self, look: impl FnOnce(&OutletState<T>) -> R) -> R {
        let state = self.state.replace(OutletState::Spent);
        let answer = look(&state);
        self.state.set(state);
        answer
    }

    pub(super) fn is_fired(&self) -> bool {
        self.fired.get()
    }

    pub(super) fn is_failed(&self) -> bool {
        self.peek(|state| matches!(state, OutletState::Fired(Err(_))))
    }

    /// Whether anybody would notice a result, here or behind the relays that it would go through.
    fn has_audience(&self) -> bool {
        let mut relay = match self.audience() {
            Audience::Is(here) => return here,
            Audience::Behind(relay) => relay,
        };
        loop {
            let next = match relay.outlet().audience() {
                Audience::Is(there) => return there,
                Audience::Behind(next) => next,
            };
            relay = next;
        }
    }

    fn audience(&self) -> Audience<T> {
        self.peek(|state| match state {
            OutletState::Connected(Listener::Relay(next)) => Audience::Behind(next.clone()),
            OutletState::Detached | OutletState::Fired(_) | OutletState::Spent => Audience::Is(false),
            _ => Audience::Is(true),
        })
    }

    pub(super) fn take_fired(&self) -> Option<Result<T>> {
        if !self.fired.replace(false) {
            return None;
        }
        match self.state.replace(OutletState::Spent) {
            OutletState::Fired(result) => Some(result),
            other => {
                self.state.set(other);
                None
            }
        }
    }

    /// The result goes to `listener`, when it comes.
    pub(super) fn connect(&self, listener: Listener<T>) {
        self.state.set(OutletState::Connected(listener));
    }

    /// The result stays here, when it comes, and `link` is run.
    pub(super) fn await_by(&self, link: Rc<dyn Link>) {
        self.state.set(OutletState::Awaited(link));
    }

    /// The result stays here, when it comes, and `waker` is woken.
    pub(super) fn poll_by(&self, waker: Waker) {
        self.state.set(OutletState::Polled(waker));
    }

    /// The tail was dropped: a result that is there or comes later has no taker.
    pub(super) fn detach(&self) {
        self.fired.set(false);
        match self.state.replace(OutletState::Detached) {
            OutletState::Fired(Err(failure)) => log_unhandled(failure, self.made),
            other @ (OutletState::Connected(_) | OutletState::Spent) => self.state.set(other),
            // What is dropped here may run user code, and finds the outlet detached.
            OutletState::Fired(Ok(_))
            | OutletState::Open
            | OutletState::Awaited(_)
            | OutletState::Polled(_)
            | OutletState::Detached => {}
        }
    }
}

/// Who would notice a result.
enum Audience<T> {
    Is(bool),
    Behind(Rc<dyn Source<T>>),
}

/// Puts a result out and returns the link it makes ready, if any. Relays are walked through here, in a loop.
pub(super) fn deliver<T>(outlet: &Outlet<T>, result: Result<T>) -> Ready {
    let mut relay: Rc<dyn Source<T>>;
    let mut outlet = outlet;
    loop {
        match outlet.state.replace(OutletState::Spent) {
            OutletState::Connected(Listener::Stage(stage)) => {
                stage.accept(result);
                return Some(stage);
            }
            OutletState::Connected(Listener::Relay(next)) => {
                if !next.admit() {
                    discard(result);
                    return None;
                }
                relay = next;
                outlet = relay.outlet();
            }
            OutletState::Detached => {
                match result {
                    Err(failure) => log_unhandled(failure, outlet.made),
                    Ok(value) => discard(value),
                }
                return None;
            }
            // It has its result; the first one stands.
            first @ (OutletState::Fired(_) | OutletState::Spent) => {
                outlet.state.set(first);
                discard(result);
                return None;
            }
            waiting => {
                outlet.state.set(OutletState::Fired(result));
                outlet.fired.set(true);
                return match waiting {
                    OutletState::Awaited(link) => Some(link),
                    OutletState::Polled(waker) => wake(waker),
                    _ => None,
                };
            }
        }
    }
}

/// The result of `inner` is to be the result of `stage`, whose callback returned it.
///
/// Somebody who already waits for `stage` is handed to `inner`, and `stage` is gone: callbacks that keep returning new chains
/// run in constant memory. It stays only if a [`Canceller`](super::Canceller) was made for it.
pub(super) fn relay<T: 'static>(stage: Rc<dyn Source<T>>, inner: Rc<dyn Source<T>>) -> Ready {
    if Rc::as_ptr(&stage).cast::<()>() == Rc::as_ptr(&inner).cast::<()>() {
        stage.outlet().detach();
        return deliver(stage.outlet(), Err(Failure::new("a callback returned the very chain it belongs to")));
    }
    if let Some(result) = inner.outlet().take_fired() {
        return deliver(stage.outlet(), result);
    }
    let upstream = Rc::downgrade(&inner) as Weak<dyn Link>;
    match stage.outlet().state.replace(OutletState::Spent) {
        OutletState::Connected(listener) => {
            listener.wait_for(upstream.clone());
            // The listener has let go of the stage; whoever else knows it wants to cancel it.
            if Rc::weak_count(&stage) == 0 {
                inner.outlet().connect(listener);
                return None;
            }
            listener.wait_for(Rc::downgrade(&stage) as Weak<dyn Link>);
            stage.outlet().connect(listener);
        }
        OutletState::Detached if Rc::weak_count(&stage) == 0 => {
            inner.outlet().detach();
            return None;
        }
        other => stage.outlet().state.set(other),
    }
    stage.wait_for(upstream);
    inner.outlet().connect(Listener::Relay(stage));
    None
}

/// The loop that runs a chain at constant stack depth.
pub(super) fn drive(mut ready: Ready) {
    while let Some(link) = ready {
        ready = link.run();
    }
}

/// Walks to the innermost link that is waited for and cancels there; from a combination on to each of its inputs, in order.
///
/// Combinations may stand one inside the other as deep as data goes, so what is still to be cancelled is kept in a list.
/// Chains that were made to wait for each other in a circle have no innermost link: for them nothing happens.
pub(super) fn cancel(tail: Weak<dyn Link>) {
    let mut rest = vec![tail];
    // A circle may go through combinations as well. The weak link keeps an address from being used again meanwhile.
    let mut passed = HashMap::new();
    while let Some(next) = rest.pop() {
        let tail = next.upgrade();
        // With it gone, who looks whether anybody else knows of the tail does not find us.
        drop(next);
        let Some(innermost) = tail.and_then(innermost) else { continue };
        let (address, weak) = (Rc::as_ptr(&innermost).cast::<()>(), Rc::downgrade(&innermost));
        if passed.contains_key(&address) {
            continue;
        }
        let inputs = innermost.cancel();
        if !inputs.is_empty() {
            passed.insert(address, weak);
            rest.extend(inputs.into_iter().rev());
        }
    }
}

/// The innermost link that is waited for. A second walk at half the speed finds out whether the first goes in circles.
pub(super) fn innermost(tail: Rc<dyn Link>) -> Option<Rc<dyn Link>> {
    let (mut fast, mut slow) = (tail.clone(), tail);
    let mut steps = 0_usize;
    while let Some(upstream) = fast.upstream() {
        fast = upstream;
        steps += 1;
        if steps.is_multiple_of(2) {
            slow = slow.upstream()?;
            if Rc::as_ptr(&fast).cast::<()>() == Rc::as_ptr(&slow).cast::<()>() {
                return None;
            }
        }
    }
    Some(fast)
}

// ---------------------------------------------------------------------------------------------------------------------
// The start of a chain
// ---------------------------------------------------------------------------------------------------------------------

/// The start of a chain: what a [`Completer`](super::Completer) fires.
pub(super) struct Root<T> {
    pub(super) on_cancel: Cell<OnCancel>,
    /// Fired, or cancelled. What comes now comes too late.
    ended: Cell<bool>,
    /// The canceller runs. A completer that it drops has not forgotten the chain.
    cancelling: Cell<bool>,
    /// The canceller has run, so that the other side knows of the cancellation.
    asked: Cell<bool>,
    /// Debugging was on when the chain was made.
    noted: bool,
    pub(super) outlet: Outlet<T>,
}

/// What a cancellation does at the start of a chain.
pub(super) enum OnCancel {
    /// It fails the chain.
    Fail,
    /// It runs this, which may fire the chain; and then fails it if that did not.
    Ask(Box<dyn FnOnce()>),
    /// Nothing.
    Ignore,
    /// It goes to these instead, as often as it comes, and leaves the chain as it is.
    Forward(Rc<dyn Fn() -> Inputs>),
}

impl<T> Root<T> {
    pub(super) fn new(made: Place) -> Self {
        count(|tally| &tally.created);
        let noted = debugging();
        if noted {
            note_made(made);
        }
        Root {
            on_cancel: Cell::new(OnCancel::Fail),
            ended: Cell::new(false),
            cancelling: Cell::new(false),
            asked: Cell::new(false),
            noted,
            outlet: Outlet::open(made),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Fires the chain; the caller drives what becomes ready.
    #[inline]
    pub(super) fn fire(&self, result: Result<T>) -> Ready {
        if !self.admit() {
            discard(result);
            return None;
        }
        count(|tally| if result.is_ok() { &tally.fired } else { &tally.failed });
        deliver(&self.outlet, result)
    }

    /// The completer was dropped.
    pub(super) fn abandon(&self) {
        if self.cancelling.get() || !self.begin_end() {
            return;
        }
        if self.outlet.has_audience() {
            count(|tally| &tally.abandoned);
            drive(deliver(&self.outlet, Err(Failure::new(Abandoned))));
        } else {
            count(|tally| &tally.forgotten);
        }
    }

    /// Marks the chain as fired; false when it was before.
    #[inline]
    fn begin_end(&self) -> bool {
        let first = !self.ended.replace(true);
        if first {
            if self.noted {
                note_fired(self.outlet.made);
            }
            // The canceller goes first: what it holds must not live on while the chain waits for something else.
            match self.on_cancel.replace(OnCancel::Fail) {
                OnCancel::Fail => {}
                canceller => discard(canceller),
            }
        }
        first
    }

    /// After a cancellation one result more is expected, from work that could not be told of it. Work that was told should
    /// have stopped, and Twisted calls it an error.
    #[cold]
    fn warn_of_late_result(&self) {
        if self.asked.get() {
            log::warn!(
                target: TARGET,
                "a Deferred made at {} was fired although its canceller had run; the result is dropped",
                self.outlet.made
            );
        }
    }

    fn ask(&self, canceller: Box<dyn FnOnce()>) {
        self.asked.set(true);
        self.cancelling.set(true);
        if let Err(failure) = guard(canceller) {
            failure.log(TARGET, format_args!("a canceller failed"));
        }
        self.cancelling.set(false);
    }
}

impl<T> Link for Root<T> {
    fn run(self: Rc<Self>) -> Ready {
        None
    }

    fn upstream(&self) -> Option<Rc<dyn Link>> {
        None
    }

    fn cancel(self: Rc<Self>) -> Inputs {
        if self.ended.get() || self.cancelling.get() {
            return Inputs::new();
        }
        match self.on_cancel.replace(OnCancel::Fail) {
            OnCancel::Fail => {}
            OnCancel::Ask(canceller) => self.ask(canceller),
            OnCancel::Ignore => {
                self.on_cancel.set(OnCancel::Ignore);
                return Inputs::new();
            }
            OnCancel::Forward(inputs) => {
                self.on_cancel.set(OnCancel::Forward(inputs.clone()));
                return inputs();
            }
        }
        if self.begin_end() {
            count(|tally| &tally.cancelled);
            drive(deliver(&self.outlet, Err(Failure::new(Cancelled))));
        }
        Inputs::new()
    }

    fn made(&self) -> Option<Place> {
        Some(self.outlet.made)
    }
}

impl<T> Source<T> for Root<T> {
    fn outlet(&self) -> &Outlet<T> {
        &self.outlet
    }

    fn wait_for(&self, _upstream: Weak<dyn Link>) {
        // A root that relays another chain (`chain_into`) does not pass a cancellation on to it.
    }

    #[inline]
    fn admit(&self) -> bool {
        let in_time = self.begin_end();
        if !in_time {
            self.warn_of_late_result();
        }
        in_time
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Wakers of ours, called from a chain
// ---------------------------------------------------------------------------------------------------------------------

type Woken = Option<Vec<Rc<dyn Link>>>;

thread_local! {
    /// While a chain calls a waker: the tasks of ours that were woken by it. The chain runs them itself.
    static WOKEN: Cell<Woken> = const { Cell::new(None) };
}

/// Calls somebody's waker. A task of ours that is behind it is not left for the next turn but runs within this firing call.
fn wake(waker: Waker) -> Ready {
    let outer = exchange_woken(Some(Vec::new()));
    if let Err(failure) = guard(|| waker.wake()) {
        failure.log(TARGET, format_args!("a waker failed"));
    }
    let mut woken = exchange_woken(outer).unwrap_or_default();
    // One waker wakes one task; if it wakes more, all but the last run nested.
    let last = woken.pop();
    woken.into_iter().for_each(|task| drive(Some(task)));
    last
}

/// Leaves a task to the chain that is just calling a waker; false when there is none.
pub(super) fn leave_to_chain(task: impl FnOnce() -> Option<Rc<dyn Link>>) -> bool {
    let Some(mut woken) = exchange_woken(None) else {
        return false;
    };
    woken.extend(task());
    exchange_woken(Some(woken));
    true
}

/// At the end of the thread the list may be gone already, and chains still end.
fn exchange_woken(woken: Woken) -> Woken {
    WOKEN.try_with(|list| list.replace(woken)).ok().flatten()
}
