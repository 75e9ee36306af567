//! Many chains as one: [`gather_results`], [`DeferredList`], [`race`] and [`join`].
//!
//! Rules kept here:
//! - Inputs are looked at in order, and all is in place before the first one is: it may be fired already.
//! - Results come in the order of the inputs, whatever the order in which they were fired.
//! - Cancelling the whole cancels every input, in order; what the inputs make of that decides how the whole ends.
//! - A failure that finds no place in the result is logged as unhandled, unless the caller said that it may be forgotten.
//! - Nothing is fired from inside an input's stage: it is handed back to the loop, so that a hundred thousand combinations one
//!   inside the other need no stack.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::mem;
use std::rc::Rc;

use super::links::{Inputs, OnCancel, Ready, cancel};
use super::trace::{Place, discard, log_unhandled};
use super::{Canceller, Completer, Deferred};
use crate::failure::{Failure, Result};

/// Waits for all values, in the order of the inputs; fails with [`FirstError`] as soon as one fails.
///
/// The other inputs are then left running; failures among them are logged as unhandled. No inputs give an empty list at once.
/// Cancelling it cancels every input.
///
/// ```
/// use dosimeter::{Deferred, gather_results};
///
/// let (completer, later) = Deferred::pair();
/// let both = gather_results([later, Deferred::succeed(2)]);
/// completer.callback(1);
/// assert_eq!(both.into_result().unwrap().unwrap(), [1, 2]);
/// ```
#[doc(alias = "gatherResults")]
#[track_caller]
pub fn gather_results<T: 'static>(inputs: impl IntoIterator<Item = Deferred<T>>) -> Deferred<Vec<T>> {
    let list = DeferredList { fire_on_one_errback: true, ..DeferredList::default() };
    list.of(inputs).add_callback(|listed| match listed {
        Listed::All(results) => results.into_iter().collect::<Result<Vec<T>>>(),
        Listed::One { .. } => unreachable!("a list that was not asked for one callback waits for all"),
    })
}

/// Waits until all inputs are fired and gives the result of each, in their order. It never fails.
///
/// ```
/// use dosimeter::{Deferred, deferred_list};
///
/// let results = deferred_list([Deferred::succeed(1), Deferred::fail("no")]).into_result().unwrap().unwrap();
/// assert_eq!(*results[0].as_ref().unwrap(), 1);
/// assert_eq!(results[1].as_ref().unwrap_err().to_string(), "no");
/// ```
#[doc(alias = "DeferredList")]
#[track_caller]
pub fn deferred_list<T: 'static>(inputs: impl IntoIterator<Item = Deferred<T>>) -> Deferred<Vec<Result<T>>> {
    DeferredList::default().of(inputs).map(|listed| match listed {
        Listed::All(results) => results,
        Listed::One { .. } => unreachable!("a list that was not asked for one callback waits for all"),
    })
}

/// How a list of chains is waited for; [`of`](DeferredList::of) does it.
///
/// ```
/// use dosimeter::{Deferred, DeferredList, Listed};
///
/// let (_slow, never) = Deferred::<&str>::pair();
/// let list = DeferredList { fire_on_one_callback: true, ..DeferredList::default() };
/// match list.of([never, Deferred::succeed("fast")]).into_result().unwrap().unwrap() {
///     Listed::One { index, value } => assert_eq!((index, value), (1, "fast")),
///     Listed::All(_) => unreachable!("one succeeded"),
/// }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeferredList {
    /// End with the first value, as [`Listed::One`]. If there is none, end with all failures as [`Listed::All`].
    pub fire_on_one_callback: bool,
    /// Fail with the first failure, as [`FirstError`]. The other inputs are left running.
    pub fire_on_one_errback: bool,
    /// Forget failures that find no place in the result, instead of logging them as unhandled.
    pub consume_errors: bool,
}

/// What a [`DeferredList`] ends with.
#[derive(Debug)]
pub enum Listed<T> {
    /// The result of each input, in their order.
    All(Vec<Result<T>>),
    /// The first value, with [`DeferredList::fire_on_one_callback`].
    One {
        /// Which input it came from.
        index: usize,
        /// The value.
        value: T,
    },
}

impl DeferredList {
    /// Waits for `inputs` in the way that the flags say. No inputs are an empty [`Listed::All`] at once, with every flag.
    #[track_caller]
    pub fn of<T: 'static>(self, inputs: impl IntoIterator<Item = Deferred<T>>) -> Deferred<Listed<T>> {
        let inputs: Vec<_> = inputs.into_iter().collect();
        let (whole, deferred) = Whole::pair();
        let results = RefCell::new(inputs.iter().map(|_| None).collect());
        let list = Rc::new(List { whole, flags: self, results, missing: Cell::new(inputs.len()) });
        if inputs.is_empty() {
            super::drive(list.whole.finish(Ok(Listed::All(Vec::new()))));
        }
        for (index, input) in inputs.into_iter().enumerate() {
            let part = list.clone();
            list.whole.watch(input.sink(move |result| part.put(index, result)));
        }
        deferred
    }
}

struct List<T> {
    whole: Rc<Whole<Listed<T>>>,
    flags: DeferredList,
    results: RefCell<Vec<Option<Result<T>>>>,
    missing: Cell<usize>,
}

impl<T: 'static> List<T> {
    fn put(&self, index: usize, result: Result<T>) -> Ready {
        if self.whole.is_finished() {
            self.forget(result);
            return None;
        }
        match result {
            Ok(value) if self.flags.fire_on_one_callback => self.finish_early(Ok(Listed::One { index, value })),
            Err(failure) if self.flags.fire_on_one_errback => self.finish_early(Err(FirstError::of(index, failure))),
            result => {
                self.results.borrow_mut()[index] = Some(result);
                self.missing.set(self.missing.get() - 1);
                if self.missing.get() > 0 {
                    return None;
                }
                self.whole.finish(Ok(Listed::All(self.results.take().into_iter().flatten().collect())))
            }
        }
    }

    fn finish_early(&self, result: Result<Listed<T>>) -> Ready {
        let ready = self.whole.finish(result);
        self.results.take().into_iter().flatten().for_each(|result| self.forget(result));
        ready
    }

    fn forget(&self, result: Result<T>) {
        match result {
            Err(failure) if !self.flags.consume_errors => log_unhandled(failure, self.whole.made),
            other => discard(other),
        }
    }
}

/// Waits for the first value; gives it with the index of the input it came from.
///
/// All others are cancelled, before the result is passed on; what becomes of them is dropped in silence. Failures before the
/// first value are kept back: only if every input fails does the race fail, with a [`FailureGroup`] of all of them. The same
/// goes for a race without inputs. Of several that are fired already the lowest index wins. Cancelling the race cancels every
/// input.
///
/// ```
/// use dosimeter::{Deferred, race};
///
/// let (slow, one) = Deferred::pair();
/// let (fast, two) = Deferred::pair();
/// let first = race([one, two]);
/// fast.callback("fast");
/// assert!(slow.is_cancelled());
/// assert_eq!(first.into_result().unwrap().unwrap(), (1, "fast"));
/// ```
#[track_caller]
pub fn race<T: 'static>(inputs: impl IntoIterator<Item = Deferred<T>>) -> Deferred<(usize, T)> {
    let inputs: Vec<_> = inputs.into_iter().collect();
    let (whole, deferred) = Whole::pair();
    let failures = RefCell::new(inputs.iter().map(|_| None).collect());
    let race = Rc::new(Race { whole, failures, missing: Cell::new(inputs.len()) });
    if inputs.is_empty() {
        super::drive(race.whole.finish(Err(Failure::new(FailureGroup { failures: Vec::new() }))));
    }
    for (index, input) in inputs.into_iter().enumerate() {
        let runner = race.clone();
        let canceller = input.sink(move |result| runner.put(index, result));
        if race.whole.is_finished() {
            canceller.cancel();
        }
        race.whole.watch(canceller);
    }
    deferred
}

struct Race<T> {
    whole: Rc<Whole<(usize, T)>>,
    failures: RefCell<Vec<Option<Failure>>>,
    missing: Cell<usize>,
}

impl<T: 'static> Race<T> {
    fn put(&self, index: usize, result: Result<T>) -> Ready {
        let Some(completer) = self.whole.completer.take() else {
            discard(result);
            return None;
        };
        match result {
            Ok(value) => {
                self.whole.cancel();
                completer.release(Ok((index, value)))
            }
            Err(failure) => {
                self.failures.borrow_mut()[index] = Some(failure);
                self.missing.set(self.missing.get() - 1);
                if self.missing.get() > 0 {
                    self.whole.completer.set(Some(completer));
                    return None;
                }
                let failures = self.failures.take().into_iter().flatten().collect();
                completer.release(Err(Failure::new(FailureGroup { failures })))
            }
        }
    }
}

/// Waits for all values of chains of different types: a tuple of one to eight of them.
///
/// It fails with [`FirstError`] as soon as one fails; the others are then left running, and failures among them are logged as
/// unhandled. Cancelling it cancels every input.
///
/// ```
/// use dosimeter::{Deferred, join};
///
/// let (completer, name) = Deferred::pair();
/// let both = join((name, Deferred::succeed(42)));
/// completer.callback("answer");
/// assert_eq!(both.into_result().unwrap().unwrap(), ("answer", 42));
/// ```
#[track_caller]
pub fn join<J: Join>(inputs: J) -> Deferred<J::Output> {
    inputs.join()
}

/// A tuple of one to eight Deferreds; see [`join`].
pub trait Join {
    /// The tuple of their values.
    type Output: 'static;

    /// Waits for all values.
    #[track_caller]
    fn join(self) -> Deferred<Self::Output>;
}

macro_rules! join_of {
    ($($type:ident $index:tt)+) => {
        impl<$($type: 'static),+> Join for ($(Deferred<$type>,)+) {
            type Output = ($($type,)+);

            #[track_caller]
            fn join(self) -> Deferred<Self::Output> {
                type Values<$($type),+> = ($(Cell<Option<$type>>,)+);
                let take = |values: &Values<$($type),+>| ($(values.$index.take(),)+);
                let complete = |values: &Values<$($type),+>| ($(values.$index.take().expect("none is missing"),)+);
                let (whole, deferred) = Whole::pair();
                let values = Rc::new(Values::<$($type),+>::default());
                let missing = Rc::new(Cell::new([$($index),+].len()));
                $({
                    let (part, values, missing) = (whole.clone(), values.clone(), missing.clone());
                    whole.watch(self.$index.sink(move |result| match result {
                        Ok(value) if part.is_finished() => {
                            discard(value);
                            None
                        }
                        Ok(value) => {
                            values.$index.set(Some(value));
                            missing.set(missing.get() - 1);
                            if missing.get() > 0 { None } else { part.finish(Ok(complete(&values))) }
                        }
                        Err(failure) => {
                            let ready = part.fail($index, failure);
                            discard(take(&values));
                            ready
                        }
                    }));
                })+
                deferred
            }
        }
    };
}

join_of!(A 0);
join_of!(A 0 B 1);
join_of!(A 0 B 1 C 2);
join_of!(A 0 B 1 C 2 D 3);
join_of!(A 0 B 1 C 2 D 3 E 4);
join_of!(A 0 B 1 C 2 D 3 E 4 F 5);
join_of!(A 0 B 1 C 2 D 3 E 4 F 5 G 6);
join_of!(A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7);

/// The one chain that many others end in.
struct Whole<O> {
    /// Taken when it is fired.
    completer: Cell<Option<Completer<O>>>,
    parts: RefCell<Inputs>,
    made: Place,
}

impl<O: 'static> Whole<O> {
    #[track_caller]
    fn pair() -> (Rc<Self>, Deferred<O>) {
        let (completer, deferred) = Deferred::pair();
        let root = completer.root().clone();
        let whole = Rc::new(Whole {
            completer: Cell::new(Some(completer)),
            parts: RefCell::default(),
            made: root.outlet.made(),
        });
        let weak = Rc::downgrade(&whole);
        root.on_cancel.set(OnCancel::Forward(Rc::new(move || {
            weak.upgrade().map_or_else(Inputs::new, |whole: Rc<Self>| whole.parts.borrow().clone())
        })));
        (whole, deferred)
    }

    fn watch(&self, part: Canceller) {
        self.parts.borrow_mut().push(part.tail);
    }

    fn is_finished(&self) -> bool {
        let completer = self.completer.take();
        let finished = completer.is_none();
        self.completer.set(completer);
        finished
    }

    fn finish(&self, result: Result<O>) -> Ready {
        self.completer.take()?.release(result)
    }

    /// The first failure is that of the whole; another has no place there.
    fn fail(&self, index: usize, failure: Failure) -> Ready {
        match self.completer.take() {
            Some(completer) => completer.release(Err(FirstError::of(index, failure))),
            None => {
                log_unhandled(failure, self.made);
                None
            }
        }
    }

    /// Cancels the parts, in order; those that have ended are past it.
    fn cancel(&self) {
        let parts = self.parts.borrow().clone();
        parts.into_iter().for_each(cancel);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// How a combination fails
// ---------------------------------------------------------------------------------------------------------------------

/// One of several chains failed: which, and with what. [`Error::source`] is the error of that chain.
#[derive(Debug)]
pub struct FirstError {
    index: usize,
    /// Empty only while it is dropped or taken out.
    failure: Option<Failure>,
}

impl FirstError {
    fn of(index: usize, failure: Failure) -> Failure {
        Failure::new(FirstError { index, failure: Some(failure) })
    }

    /// Which input failed.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What it failed with.
    #[doc(alias = "subFailure")]
    pub fn failure(&self) -> &Failure {
        self.failure.as_ref().expect("it is there until it is taken out")
    }

    /// Takes out what it failed with.
    pub fn into_failure(mut self) -> Failure {
        self.failure.take().expect("it is taken out once")
    }
}

impl fmt::Display for FirstError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the chain at index {} failed", self.index)
    }
}

impl Error for FirstError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.failure.as_ref().map(|failure| failure.error() as _)
    }
}

impl Drop for FirstError {
    fn drop(&mut self) {
        take_apart(self.failure.take().into_iter().collect());
    }
}

/// Every chain of a [`race`] failed. [`Error::source`] is the error of the first of them.
#[derive(Debug)]
pub struct FailureGroup {
    failures: Vec<Failure>,
}

impl FailureGroup {
    /// The failures, in the order of the inputs.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Takes the failures out.
    pub fn into_failures(mut self) -> Vec<Failure> {
        mem::take(&mut self.failures)
    }
}

impl fmt::Display for FailureGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {} chains of a race failed", self.failures.len())
    }
}

impl Error for FailureGroup {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.failures.first().map(|failure| failure.error() as _)
    }
}

impl Drop for FailureGroup {
    fn drop(&mut self) {
        take_apart(mem::take(&mut self.failures));
    }
}

/// Drops failures that hold failures, as deep as combinations were nested, without recursion.
fn take_apart(mut failures: Vec<Failure>) {
    while let Some(failure) = failures.pop() {
        match failure.trap::<FirstError>() {
            Ok(mut first) => failures.extend(first.failure.take()),
            Err(other) => match other.trap::<FailureGroup>() {
                Ok(mut group) => failures.append(&mut group.failures),
                // An error's drop is user code, and others wait for theirs.
                Err(last) => discard(last),
            },
        }
    }
}
