//! Chapters on how to use the crate.
//!
//! Rule kept here: there is no code, but every example is compiled and run as a test.

#[doc = include_str!("coming_from_twisted.md")]
pub mod coming_from_twisted {}

#[doc = include_str!("metrics.md")]
pub mod metrics {}

#[doc = include_str!("prometheus_async.md")]
pub mod prometheus_async {}

#[doc = include_str!("twisted_web.md")]
pub mod twisted_web {}
