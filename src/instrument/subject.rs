//! What a hook can be put on, and what a function with a hook may return.
//!
//! Rule kept here: what passes by is not touched. The same object comes out that went in, and a wrapped function does what the
//! bare one did, at the same time.

use std::error::Error;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use crate::deferred::Deferred;
use crate::failure::{Failure, Result};
use crate::instrument::hook::{Hook, Running};

/// Something a hook can be put on: a chain, a function of up to two arguments that borrow nothing for less than `'static`, and,
/// marked as [`Async`], a future or a function that returns one.
///
/// The type parameter only keeps the kinds apart.
#[diagnostic::on_unimplemented(
    message = "no hook can be put on `{Self}`",
    note = "a `Deferred` can have one, and a closure `Fn` of up to two arguments that returns a `Deferred`, a `Result` or an \
            answer to a request",
    note = "a future or an `async` closure can, as `Async(..)`",
    note = "what else a function returns can be had as `Ok::<_, Failure>(value)`, or has to implement `Outcome`; the `Err` of a \
            `Result` has to be a `Failure` or an `Error`",
    note = "a request is measured to the end of its answer, be it a resource or whatever else, by `Route::instrument` and \
            `Instrumented`"
)]
pub trait Subject<K> {
    /// What comes out: the chain, or the wrapped function.
    type Output;

    #[doc(hidden)]
    fn hook(self, hook: impl Hook) -> Self::Output;
}

/// Kind of [`Subject`]: a chain.
#[derive(Debug)]
pub struct Chain;

impl<T: 'static> Subject<Chain> for Deferred<T> {
    type Output = Deferred<T>;

    fn hook(self, hook: impl Hook) -> Deferred<T> {
        let running = hook.start();
        self.watch(move |error| running.end(error))
    }
}

/// Kind of [`Subject`]: a function of these arguments.
#[derive(Debug)]
pub struct Function<A>(PhantomData<A>);

impl<F, R> Subject<Function<()>> for F
where
    F: Fn() -> R + 'static,
    R: Outcome,
{
    type Output = Box<dyn Fn() -> R>;

    fn hook(self, hook: impl Hook) -> Self::Output {
        Box::new(move || around(&hook, &self))
    }
}

impl<F, A, R> Subject<Function<(A,)>> for F
where
    F: Fn(A) -> R + 'static,
    A: 'static,
    R: Outcome,
{
    type Output = Box<dyn Fn(A) -> R>;

    fn hook(self, hook: impl Hook) -> Self::Output {
        Box::new(move |a| around(&hook, || self(a)))
    }
}

impl<F, A, B, R> Subject<Function<(A, B)>> for F
where
    F: Fn(A, B) -> R + 'static,
    A: 'static,
    B: 'static,
    R: Outcome,
{
    type Output = Box<dyn Fn(A, B) -> R>;

    fn hook(self, hook: impl Hook) -> Self::Output {
        Box::new(move |a, b| around(&hook, || self(a, b)))
    }
}

/// Marks a future, or a function that returns one, for the hooks.
///
/// Without the mark a [`Deferred`] would be two things at once, a chain and a future. A function is measured from its call to
/// the end of its future, dropping included: one that is dropped before it is done counts as
/// [`Cancelled`](crate::Cancelled). What is wrapped runs in whatever runs the future, and not before. A function with hooks that takes
/// a request can handle a [route](crate::web::Router::route).
///
/// ```
/// use dosimeter::{Async, Failure, Reactor, time};
/// use prometheus::{Histogram, HistogramOpts};
///
/// let seconds = Histogram::with_opts(HistogramOpts::new("fetch_seconds", "time spent fetching")).unwrap();
/// let fetch = time(&seconds, Async(async |name: &'static str| Ok::<_, Failure>(name.len())));
///
/// let reactor = Reactor::new()?;
/// let fetched = reactor.spawn(fetch("tea"));
/// assert_eq!(fetched.into_result().unwrap()?, 3);
/// assert_eq!(seconds.get_sample_count(), 1);
/// # Ok::<(), Failure>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Async<S>(pub S);

/// A future with a hook.
pub type Measured<R> = Pin<Box<dyn Future<Output = R>>>;

/// Kind of [`Subject`]: a future.
#[derive(Debug)]
pub struct Pending;

impl<S, R> Subject<Pending> for Async<S>
where
    S: Future<Output = R> + 'static,
    R: Outcome,
{
    type Output = Measured<R>;

    fn hook(self, hook: impl Hook) -> Measured<R> {
        measured(&hook, self.0)
    }
}

/// Kind of [`Subject`]: a function of these arguments that returns a future.
#[derive(Debug)]
pub struct AsyncFunction<A>(PhantomData<A>);

impl<F, R> Subject<AsyncFunction<()>> for Async<F>
where
    F: AsyncFn() -> R + 'static,
    R: Outcome,
{
    type Output = Box<dyn Fn() -> Measured<R>>;

    fn hook(self, hook: impl Hook) -> Self::Output {
        let function = Rc::new(self.0);
        Box::new(move || {
            let function = function.clone();
            measured(&hook, async move { function().await })
        })
    }
}

impl<F, A, R> Subject<AsyncFunction<(A,)>> for Async<F>
where
    F: AsyncFn(A) -> R + 'static,
    A: 'static,
    R: Outcome,
{
    type Output = Box<dyn Fn(A) -> Measured<R>>;

    fn hook(self, hook: impl Hook) -> Self::Output {
        let function = Rc::new(self.0);
        Box::new(move |a| {
            let function = function.clone();
            measured(&hook, async move { function(a).await })
        })
    }
}

impl<F, A, B, R> Subject<AsyncFunction<(A, B)>> for Async<F>
where
    F: AsyncFn(A, B) -> R + 'static,
    A: 'static,
    B: 'static,
    R: Outcome,
{
    type Output = Box<dyn Fn(A, B) -> Measured<R>>;

    fn hook(self, hook: impl Hook) -> Self::Output {
        let function = Rc::new(self.0);
        Box::new(move |a, b| {
            let function = function.clone();
            measured(&hook, async move { function(a, b).await })
        })
    }
}

/// A future that is dropped drops what was started, which ends it.
fn measured<R: Outcome>(hook: &impl Hook, future: impl Future<Output = R> + 'static) -> Measured<R> {
    let running = hook.start();
    Box::pin(async move { future.await.watch(move |error| running.end(error)) })
}

/// A panic in `call` unwinds through here and drops what was started, which ends it.
fn around<R: Outcome>(hook: &impl Hook, call: impl FnOnce() -> R) -> R {
    let running = hook.start();
    call().watch(move |error| running.end(error))
}

/// What a function with a hook may return: something that ends, now or later, well or with an error.
///
/// Chains are, and results, answers to requests, and the usual values. A type of the program's own says for itself how it went:
///
/// ```
/// use std::error::Error;
/// use dosimeter::{Outcome, count_exceptions};
/// use prometheus::IntCounter;
///
/// struct Sent {
///     error: Option<std::io::Error>,
/// }
///
/// impl Outcome for Sent {
///     fn watch(self, end: impl FnOnce(Option<&(dyn Error + 'static)>) + 'static) -> Self {
///         end(self.error.as_ref().map(|error| error as _));
///         self
///     }
/// }
///
/// let errors = IntCounter::new("send_errors_total", "what could not be sent").unwrap();
/// let send = count_exceptions(&errors, || Sent { error: Some(std::io::Error::other("no route")) });
/// send();
/// assert_eq!(errors.get(), 1);
/// ```
pub trait Outcome: 'static {
    /// Calls `end` at the end, with the error if there is one, and passes everything through untouched.
    fn watch(self, end: impl FnOnce(Option<&(dyn Error + 'static)>) + 'static) -> Self;
}

impl<T: 'static> Outcome for Deferred<T> {
    fn watch(self, end: impl FnOnce(Option<&(dyn Error + 'static)>) + 'static) -> Self {
        self.add_both(move |result: Result<T>| {
            end(result.as_ref().err().map(|failure| failure.error() as _));
            result
        })
    }
}

impl<T: 'static> Outcome for Result<T, Failure> {
    fn watch(self, end: impl FnOnce(Option<&(dyn Error + 'static)>) + 'static) -> Self {
        end(self.as_ref().err().map(|failure| failure.error() as _));
        self
    }
}

impl<T: 'static, E: Error + 'static> Outcome for Result<T, E> {
    fn watch(self, end: impl FnOnce(Option<&(dyn Error + 'static)>) + 'static) -> Self {
        end(self.as_ref().err().map(|error| error as _));
        self
    }
}

/// Values that are no errors, whatever they say.
macro_rules! cannot_fail {
    ($($({$($generic:tt)*})? $value:ty),* $(,)?) => {$(
        impl$(<$($generic)*>)? Outcome for $value {
            fn watch(self, end: impl FnOnce(Option<&(dyn Error + 'static)>) + 'static) -> Self {
                end(None);
                self
            }
        }
    )*};
}

cannot_fail! {
    (), bool, char, f32, f64, i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize, String,
    {T: ?Sized + 'static} &'static T, {T: ?Sized + 'static} Box<T>, {T: ?Sized + 'static} Rc<T>,
    {T: ?Sized + 'static} Arc<T>, {T: 'static} Option<T>, {T: 'static} Vec<T>,
}
