//! What came out of a chain, for a test to say.
//!
//! Rules kept here:
//! - An assertion that fails names the line of the test, and what was found instead.

use crate::deferred::Deferred;
use crate::failure::Failure;

/// The value of a chain that has succeeded.
///
/// # Panics
/// When the chain has failed, with the report of its failure; when it has no result yet.
#[doc(alias = "successResultOf")]
#[track_caller]
pub fn success_result_of<T: 'static>(deferred: Deferred<T>) -> T {
    match deferred.into_result() {
        Ok(Ok(value)) => value,
        Ok(Err(failure)) => panic!("expected a success, found a failure: {}", failure.report()),
        Err(_) => panic!("expected a success, found no result yet"),
    }
}

/// The failure of a chain that has failed; what it must be is for the test to say.
///
/// ```
/// use dosimeter::testing::failure_result_of;
/// use dosimeter::{Abandoned, Deferred};
///
/// let (completer, deferred) = Deferred::<()>::pair();
/// drop(completer);
/// assert!(failure_result_of(deferred).is::<Abandoned>());
/// ```
///
/// # Panics
/// When the chain has succeeded; when it has no result yet.
#[doc(alias = "failureResultOf")]
#[track_caller]
pub fn failure_result_of<T: 'static>(deferred: Deferred<T>) -> Failure {
    match deferred.into_result() {
        Ok(Err(failure)) => failure,
        Ok(Ok(_)) => panic!("expected a failure, found a success of type {}", std::any::type_name::<T>()),
        Err(_) => panic!("expected a failure, found no result yet"),
    }
}

/// Checks that a chain has not been fired; it can go on afterwards.
///
/// # Panics
/// When the chain has a result.
#[doc(alias = "assertNoResult")]
#[track_caller]
pub fn assert_no_result<T: 'static>(deferred: &Deferred<T>) {
    assert!(!deferred.is_fired(), "expected no result yet, found one of type {}", std::any::type_name::<T>());
}
