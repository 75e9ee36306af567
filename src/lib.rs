//! A Twisted-style reactor that measures itself.
//!
//! One thread waits for sockets, timers and other threads, and calls back. What is not there yet is a [`Deferred`]: a
//! chain of callbacks that is a value, to be passed on, returned, and measured. An HTTP/1.1 server with a tree of
//! resources is built on it, and so is `/metrics`: the loop, the chains and the requests count themselves, in the terms
//! of Prometheus, without any set-up. The three hooks of Python's `prometheus_async` do the same for code of your own.
//!
//! # A first program
//!
//! ```
//! use std::time::Duration;
//!
//! use dosimeter::prometheus::{Histogram, HistogramOpts};
//! use dosimeter::{Reactor, defer_later, time};
//!
//! fn main() -> dosimeter::Result<()> {
//!     let naps = Histogram::with_opts(HistogramOpts::new("nap_seconds", "time spent napping"))?;
//!     let reactor = Reactor::new()?;
//!
//!     // A value that comes later...
//!     let nap = defer_later(&reactor, Duration::from_millis(10), || "rested");
//!     // ...measured up to here, whatever becomes of it...
//!     let nap = time(&naps, nap);
//!     // ...and what is to happen with it.
//!     let stop = reactor.clone();
//!     nap.map(|state| assert_eq!(state, "rested")).add_both(move |_| Ok(stop.stop()?));
//!
//!     reactor.run()?;
//!     assert_eq!(naps.get_sample_count(), 1);
//!     Ok(())
//! }
//! ```
//!
//! A server that shows its metrics is as short; [`web::Site`] has it. The directory `examples` holds whole programs, and
//! `examples/prometheus` alert rules, a Grafana dashboard and scrape jobs for them.
//!
//! # The model
//!
//! **The reactor.** A [`Reactor`] is a cheap handle to an event loop, passed to whatever needs it; there is no global
//! one. Everything happens in its thread, one callback after the other, so nothing needs a lock and nothing may block:
//! work that does goes to [`Reactor::defer_to_thread`]. Other threads reach the loop through [`Reactor::remote`].
//! Whatever waits takes a [`Clock`], which a reactor is.
//!
//! **Chains.** [`Deferred::pair`] makes a chain and its [`Completer`], the end that fires it. Callbacks and errbacks
//! are called in the order added, each with what the one before returned; one that returns a `Deferred` makes the chain
//! wait. Firing consumes the completer, so a chain cannot be fired twice, and a completer that is dropped fails its
//! chain with [`Abandoned`], so none waits for ever. A failure that reaches the end of a chain unhandled is logged and
//! counted. Several chains become one with [`gather_results`], [`DeferredList`], [`race`] and [`join`]; a chain can be
//! awaited, and [`Reactor::spawn`] runs a future as one.
//!
//! **Hooks.** [`time`], [`count_exceptions`] and [`track_inprogress`] are put on a chain, or around a function. What
//! they begin they end exactly once: on a value, an error, a panic, a cancellation, or a chain that is dropped.
//!
//! **Connections.** A [`net::Protocol`] handles one connection; a [`net::Factory`] makes one for each;
//! [`net::Transport`] is what a protocol writes to. [`Reactor::listen_tcp`] puts a factory on a port.
//!
//! **The web.** [`web::Site`] is such a factory. It serves a tree of [`web::Resource`]s, or the routes of a
//! [`web::Router`]. A resource returns its answer, a `Deferred` of it, or [`NOT_DONE_YET`](web::NOT_DONE_YET) and
//! answers later through the [`web::Request`] it kept.
//!
//! **Metrics.** A reactor and the servers on it publish their figures in [`prometheus::default_registry`], or where
//! [`Builder::metrics`] says. [`MetricsResource`] serves a registry to Prometheus. What there is, and how to read it, is in
//! [`guide::metrics`]. [`Capped`] keeps the series of a metric in bounds whose labels clients choose.
//!
//! # Modules
//!
//! | where | what |
//! |---|---|
//! | the top | [`Reactor`], [`Clock`], [`Deferred`] and what combines it, [`Failure`], the hooks, [`MetricsResource`] |
//! | [`net`] | protocols, factories, transports, listening ports |
//! | [`web`] | the HTTP server: resources, router, requests, responses, limits in time |
//! | [`http`] | the HTTP/1.1 engine below it: bytes in, events out, no I/O |
//! | [`exposition`] | the encoders of Prometheus' text format and of OpenMetrics; collectors that may fail; the process; the page at `/` |
//! | [`testing`] | a clock and a reactor that a test moves by hand, connections in memory, assertions about chains |
//! | [`source`] | descriptors of the program's own on the loop |
//! | [`guide`] | chapters: what a program for Twisted, a site for Klein, and one that uses `prometheus_async` becomes; every built-in metric and how to read it |
//!
//! Three crates stand in the signatures and are part of this one's interface: `prometheus` 0.14, which is re-exported as
//! [`prometheus`], [`http`](::http) 1 for `Method`, `StatusCode`, `HeaderName` and `HeaderValue`, and `mio` 1 for what a
//! [`source`] is, re-exported there. Without its default features `prometheus` needs no `protobuf`; it works with them as
//! well.
//!
//! # When something goes wrong
//!
//! An error is a [`Failure`]: any error, with the place where it became one. `?` makes it, and it travels along chains
//! and out of [`Result`]s as the same object. An error or a panic in a callback, a protocol, a resource or a job of the
//! thread pool ends there: it is logged and counted, the chain fails, the connection is closed or the request answered
//! with 500, and the loop goes on. (So `panic = "abort"` takes something away.) This crate itself panics only where a
//! program is wrong, such as a route that is no pattern; `# Panics` says where.
//!
//! Logs go through the `log` crate, under targets that begin with `dosimeter::`. With `DOSIMETER_DEBUG=1` in the
//! environment they also tell where callbacks were added to a chain that fails unhandled, and which chains were never
//! fired (see [`set_debugging`]).

#![forbid(unsafe_code, unused_must_use)]
#![warn(missing_debug_implementations, missing_docs, unreachable_pub)]
#![doc(test(attr(deny(warnings), allow(dead_code, unused_variables))))]

mod buffer;
mod clock;
mod cooperator;
mod deferred;
pub mod exposition;
mod failure;
pub mod guide;
pub mod http;
mod instrument;
mod looping;
pub mod net;
mod react;
mod reactor;
mod schedule;
mod slots;
pub mod source;
mod task;
pub mod testing;
pub mod web;

pub use clock::{Clock, DelayedCall, DelayedCallError, Timers};
pub use cooperator::{CooperativeTask, Cooperator, TaskError, cooperate};
pub use deferred::{
    Canceller, Completer, Deferred, DeferredList, DeferredLock, DeferredQueue, DeferredSemaphore, FailureGroup,
    FirstError, IntoDeferred, Join, Listed, Pause, Permit, QueueOverflow, QueueUnderflow, deferred_list,
    gather_results, join, maybe_deferred, race, set_debugging,
};
pub use exposition::{Dashboard, MetricsResource, Monitor};
pub use failure::{Abandoned, Cancelled, Failure, Panicked, Result, TimedOut};
pub use instrument::{
    AsMetric, Async, Capped, Gauge, Hook, Hooks, Incrementer, Measured, Observer, Only, OnlyIf, Outcome, Subject,
    count_exceptions, time, track_inprogress,
};
pub use looping::{LoopError, LoopingCall};
pub use prometheus;
pub use react::{Exit, react};
pub use reactor::{
    Builder, Metrics, Reactor, ReactorError, Remote, Trigger, TriggerGone, Triggers, WeakReactor, run_on_cores,
};
pub use task::defer_later;

/// The README, so that the programs in it are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
