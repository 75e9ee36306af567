//! [`Failure`], the one error that travels along every chain.
//!
//! Rules kept here:
//! - A `Failure` is one word wide, owned, inert and `Send`: it may cross from a worker thread and outlive what made it.
//! - Passing it on never copies or rewraps it: the same object comes out that went in.
//! - Formatting it cannot bring the program down: a `Display` that panics is caught where a failure is logged.
//! - What an error says of itself, which may be what a client has sent, begins no line of a report and moves no cursor.
//! - User code is called through [`guard`] and nowhere else is a panic caught.

use std::any::{Any, type_name};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::panic::{self, AssertUnwindSafe, Location};
use std::time::Duration;

/// What everything fallible in this crate returns.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// The boxed error inside a [`Failure`].
type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// An error, the place where it became a failure, and perhaps a backtrace.
///
/// Any `E: Error + Send + Sync + 'static` converts with `?`, and so do `&str` and `String`. Like `anyhow::Error` it is not
/// itself an [`Error`]: that is what makes the blanket conversion possible.
///
/// It is Twisted's `Failure` with the parts that a static language needs: [`is`](Failure::is) and
/// [`downcast_ref`](Failure::downcast_ref) are `check`, [`trap`](Failure::trap) is `trap`. There is no class tree to match
/// against: a type matches exactly, or you match on the kind inside it (`io::Error::kind`).
///
/// A backtrace is captured only when `RUST_BACKTRACE` asks for one.
///
/// ```
/// use dosimeter::Failure;
///
/// fn parse(text: &str) -> Result<i32, Failure> {
///     Ok(text.parse::<i32>()?)
/// }
///
/// let failure = parse("seven").unwrap_err();
/// assert!(failure.is::<std::num::ParseIntError>());
/// assert_eq!(failure.to_string(), "invalid digit found in string");
/// ```
pub struct Failure(Box<Inner>);

struct Inner {
    error: BoxError,
    /// The name of the type that it was made of.
    kind: &'static str,
    origin: &'static Location<'static>,
    backtrace: Backtrace,
}

impl Failure {
    /// Makes a failure of an error, remembering the caller as its origin.
    #[track_caller]
    pub fn new<E: Into<Box<dyn Error + Send + Sync + 'static>>>(error: E) -> Self {
        let (kind, origin) = (type_name::<E>(), Location::caller());
        Failure(Box::new(Inner { error: error.into(), kind, origin, backtrace: Backtrace::capture() }))
    }

    /// The error inside.
    #[doc(alias = "value")]
    pub fn error(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0.error
    }

    /// Gives back the very error that was put in.
    #[doc(alias = "raiseException")]
    pub fn into_error(self) -> Box<dyn Error + Send + Sync + 'static> {
        self.0.error
    }

    /// Where the error became a failure.
    pub fn origin(&self) -> &'static Location<'static> {
        self.0.origin
    }

    /// The backtrace, when `RUST_BACKTRACE` asked for one.
    pub fn backtrace(&self) -> Option<&Backtrace> {
        (self.0.backtrace.status() == BacktraceStatus::Captured).then_some(&self.0.backtrace)
    }

    /// Whether the error is an `E`.
    #[doc(alias = "check")]
    pub fn is<E: Error + 'static>(&self) -> bool {
        self.0.error.is::<E>()
    }

    /// The error as an `E`, if it is one.
    #[doc(alias = "check")]
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        self.0.error.downcast_ref::<E>()
    }

    /// The first `E` among the error and its sources.
    ///
    /// Where Twisted asks for a base class, the error that matters is usually wrapped in another one here.
    ///
    /// ```
    /// use std::num::ParseIntError;
    /// use dosimeter::{Deferred, gather_results};
    ///
    /// let numbers = gather_results(["1", "x"].map(|text| Deferred::from(text.parse::<i32>().map_err(Into::into))));
    /// let failure = numbers.into_result().unwrap().unwrap_err();
    /// assert!(!failure.is::<ParseIntError>(), "it is a FirstError");
    /// assert!(failure.find::<ParseIntError>().is_some());
    /// ```
    #[doc(alias = "check")]
    pub fn find<E: Error + 'static>(&self) -> Option<&E> {
        self.downcast_ref().or_else(|| sources(self).find_map(|source| source.downcast_ref()))
    }

    /// Takes the error out if it is an `E`, and gives the failure back untouched if it is not.
    ///
    /// In an errback this handles one kind of error and lets the others go on:
    ///
    /// ```
    /// use dosimeter::{Deferred, Failure};
    /// use std::num::ParseIntError;
    ///
    /// let number = Deferred::<i32>::from("x".parse::<i32>().map_err(Failure::from))
    ///     .add_errback(|failure| failure.trap::<ParseIntError>().map(|_| -1));
    /// assert_eq!(number.into_result().unwrap().unwrap(), -1);
    /// ```
    ///
    /// # Errors
    /// Returns this same failure when the error is of another type.
    pub fn trap<E: Error + 'static>(mut self) -> Result<E, Failure> {
        match self.0.error.downcast::<E>() {
            Ok(error) => Ok(*error),
            Err(error) => {
                self.0.error = error;
                Err(self)
            }
        }
    }

    /// Whether this failure is a panic that was caught in user code.
    pub fn is_panic(&self) -> bool {
        self.is::<Panicked>()
    }

    /// The whole story on a few lines: the error, its sources, its origin, and the backtrace if there is one.
    ///
    /// This is what the log shows. An error whose `Display` panics is named as such instead of ending the program. An error may
    /// quote what a client has sent, so the lines of its text are set in and its control characters escaped: none of them can
    /// be taken for a line of the log.
    #[doc(alias = "getTraceback")]
    pub fn report(&self) -> String {
        panic::catch_unwind(AssertUnwindSafe(|| format!("{self:?}")))
            .unwrap_or_else(|_| format!("an error whose Display panics, from {}", self.0.origin))
    }

    /// Tells the log what came of it, as an error, and a test of this thread that asks.
    #[cold]
    pub(crate) fn log(&self, target: &'static str, what: fmt::Arguments<'_>) {
        self.log_and(target, what, "");
    }

    /// The same, with `more` behind the report.
    #[cold]
    pub(crate) fn log_and(&self, target: &'static str, what: fmt::Arguments<'_>, more: &str) {
        log::error!(target: target, "{what}: {}{more}", self.report());
        Logged::note(self.0.kind, || format!("{what}: {}{more}", self.report()));
    }

    /// Makes a failure of what `catch_unwind` caught.
    #[track_caller]
    fn from_panic(payload: Box<dyn Any + Send>) -> Self {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| text.to_string())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "(not a text)".to_owned());
        // A payload may panic when dropped; that second panic must not leave the guard.
        let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(payload)));
        Failure::new(Panicked { message })
    }
}

/// A failure that was told to the log, as a test keeps it. The failure itself may go on, so this is what was said of it.
pub(crate) struct Logged {
    pub(crate) kind: &'static str,
    pub(crate) text: String,
}

impl Logged {
    /// Begins to keep, or drops what was kept and ends.
    pub(crate) fn keep(on: bool) {
        KEPT.set(on.then(Vec::new));
    }

    /// Takes out those that are wanted, in the order in which they were logged.
    pub(crate) fn take(wanted: impl Fn(&Logged) -> bool) -> Vec<Logged> {
        KEPT.with_borrow_mut(|kept| kept.iter_mut().flat_map(|kept| kept.extract_if(.., |it| wanted(it))).collect())
    }

    fn note(kind: &'static str, text: impl FnOnce() -> String) {
        // At the end of the thread the list may be gone already.
        let is_kept = KEPT.try_with(|kept| kept.borrow().is_some()).unwrap_or(false);
        if is_kept {
            // An error's own text is user code, and runs while nothing is borrowed.
            let text = text();
            KEPT.with_borrow_mut(|kept| kept.as_mut().map(|kept| kept.push(Logged { kind, text })));
        }
    }
}

thread_local! {
    /// `None` unless a test asks.
    static KEPT: RefCell<Option<Vec<Logged>>> = const { RefCell::new(None) };
}

/// Calls user code; a panic inside becomes a failure.
#[track_caller]
pub(crate) fn guard<R>(user: impl FnOnce() -> R) -> Result<R, Failure> {
    match panic::catch_unwind(AssertUnwindSafe(user)) {
        Ok(value) => Ok(value),
        Err(payload) => Err(Failure::from_panic(payload)),
    }
}

/// Any error converts, and so does a text; `Failure` itself is no error, so this does not meet the identity conversion.
impl<E: Into<Box<dyn Error + Send + Sync + 'static>>> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        Failure::new(error)
    }
}

/// The text of the error; with `{:#}` followed by its sources.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.error)?;
        if f.alternate() {
            for source in untold_sources(self) {
                write!(f, ": {source}")?;
            }
        }
        Ok(())
    }
}

/// The report, so that `fn main() -> dosimeter::Result<()>` ends with something a person can read.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(SetIn(f), "{}", self.0.error)?;
        for source in untold_sources(self) {
            f.write_str("\n  caused by: ")?;
            write!(SetIn(f), "{source}")?;
        }
        write!(f, "\n  from: {}", self.0.origin)?;
        match self.backtrace() {
            Some(backtrace) => write!(f, "\n{backtrace}"),
            None => Ok(()),
        }
    }
}

/// Writes text of any origin into a report.
struct SetIn<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for SetIn<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.char_indices().next_back() {
                Some((at, '\n')) => write!(self.0, "{}\n  | ", &part[..at])?,
                Some((at, last)) if last.is_control() && last != '\t' => {
                    write!(self.0, "{}{}", &part[..at], last.escape_default())?;
                }
                _ => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

/// The sources in words, without those whose words stand at the end of what was said before: many an error tells its source.
fn untold_sources(failure: &Failure) -> Vec<String> {
    let mut told = failure.0.error.to_string();
    let mut untold = Vec::new();
    for source in sources(failure) {
        let text = source.to_string();
        if !told.ends_with(&text) {
            untold.push(text.clone());
        }
        told = text;
    }
    untold
}

fn sources(failure: &Failure) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(failure.0.error.source(), |error: &&(dyn Error + 'static)| (*error).source())
}

/// The error of a chain that somebody cancelled.
#[doc(alias = "CancelledError")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cancelled")
    }
}

impl Error for Cancelled {}

/// The error of a chain that a timeout cancelled.
#[doc(alias = "TimeoutError")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimedOut {
    /// How long the chain had.
    pub after: Duration,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timed out after {:?}", self.after)
    }
}

impl Error for TimedOut {}

/// The error of a chain whose `Completer` was dropped without being fired.
///
/// Twisted's Deferred would hang for ever here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Abandoned;

impl fmt::Display for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("abandoned: the Completer was dropped without being fired")
    }
}

impl Error for Abandoned {}

/// A panic in user code, caught at the dispatch boundary.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Panicked {
    /// The text the panic was raised with.
    pub message: String,
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked: {}", self.message)
    }
}

impl Error for Panicked {}
