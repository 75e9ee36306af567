//! Failures that only the log is told of, for a test to demand.
//!
//! Rules kept here:
//! - What was logged and nobody asked for fails the test: a panic in a callback, which the loop survives, is not survived by
//!   the test that caused it.
//! - They are kept for the thread that logs them, which is that of the test.

use std::any::type_name;
use std::cell::Cell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::thread;

use crate::failure::Logged;

/// Keeps the failures that are logged in this thread, until it is dropped; see [`collect_logged_errors`].
#[derive(Debug)]
#[must_use = "failures are kept for as long as this lives"]
pub struct LoggedErrors(PhantomData<Rc<()>>);

/// Keeps the failures that are logged from now on: those that no callback handled, and those of protocols, resources, timed
/// calls and the like. [`flush_logged_errors`] takes them. They are logged all the same.
///
/// Every [`MemoryReactor`](crate::testing::MemoryReactor) does this while it lives. When the last one that does is dropped
/// and something is left, it panics.
///
/// ```
/// use dosimeter::testing::{collect_logged_errors, flush_logged_errors};
/// use dosimeter::{Deferred, Failure};
///
/// let _kept = collect_logged_errors();
/// drop(Deferred::<u8>::from("300".parse::<u8>().map_err(Failure::from)));
/// let logged = flush_logged_errors::<std::num::ParseIntError>();
/// assert_eq!(logged.len(), 1);
/// assert!(logged[0].starts_with("unhandled failure in a Deferred"));
/// ```
pub fn collect_logged_errors() -> LoggedErrors {
    COLLECTING.set(COLLECTING.get() + 1);
    if COLLECTING.get() == 1 {
        Logged::keep(true);
    }
    LoggedErrors(PhantomData)
}

/// Takes the kept failures that were made of an `E`, as the log had them, in this order.
///
/// `E` is the type that became the failure: [`Panicked`](crate::Panicked) for a panic, `&str` or `String` for a text.
///
/// # Panics
/// When nobody collects.
#[doc(alias = "flushLoggedErrors")]
#[track_caller]
pub fn flush_logged_errors<E: ?Sized>() -> Vec<String> {
    flush(|logged| logged.kind == type_name::<E>())
}

/// Takes all the kept failures.
///
/// # Panics
/// When nobody collects.
#[doc(alias = "flushLoggedErrors")]
#[track_caller]
pub fn flush_all_logged_errors() -> Vec<String> {
    flush(|_| true)
}

#[track_caller]
fn flush(wanted: impl Fn(&Logged) -> bool) -> Vec<String> {
    assert!(COLLECTING.get() > 0, "nobody collects: keep what collect_logged_errors gives, or a MemoryReactor");
    Logged::take(wanted).into_iter().map(|logged| logged.text).collect()
}

impl Drop for LoggedErrors {
    fn drop(&mut self) {
        COLLECTING.set(COLLECTING.get() - 1);
        if COLLECTING.get() > 0 {
            return;
        }
        let left = Logged::take(|_| true);
        Logged::keep(false);
        // A test that fails already says why; two panics would end the program.
        if !left.is_empty() && !thread::panicking() {
            let lines: Vec<_> = left.iter().map(|logged| format!("({}) {}", logged.kind, logged.text)).collect();
            panic!("logged, and not asked for with flush_logged_errors:\n{}", lines.join("\n"));
        }
    }
}

thread_local! {
    /// How many collect.
    static COLLECTING: Cell<usize> = const { Cell::new(0) };
}
