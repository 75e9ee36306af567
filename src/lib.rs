//! wip
#![forbid(unsafe_code)]
#![warn(missing_docs)]
mod buffer;
mod clock;
mod deferred;
pub mod exposition;
mod failure;
pub mod http;
mod instrument;
pub mod net;
mod reactor;
mod slots;
mod task;
pub mod web;
pub use clock::{AlreadyCalled, Clock, DelayedCall, Timers};
pub use deferred::{Canceller, Completer, Deferred, IntoDeferred, maybe_deferred};
pub use exposition::MetricsResource;
pub use failure::{Abandoned, Cancelled, Failure, Panicked, Result};
pub use instrument::{
    AsMetric, Gauge, Incrementer, Observer, Only, Outcome, Subject, count_exceptions, time, track_inprogress,
};
pub use prometheus;
pub use reactor::{Builder, Metrics, Reactor, ReactorError, Remote, WeakReactor};
pub use task::defer_later;
