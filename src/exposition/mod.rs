//! What a process tells of itself, to Prometheus and to people.
//!
//! - [`MetricsResource`] is `/metrics`, [`Dashboard`] the same as plots, [`Monitor`] both from a second thread, and [`Landing`] the
//!   page at `/` that leads there.
//! - A [`Collector`](prometheus::core::Collector) of the program's own that may panic or hang is made harmless by [`isolate`].
//!   What Linux tells of the process is a `ProcessCollector`.
//! - The encoders [`text`] and [`openmetrics`], and [`Format`], which chooses between them, take what a registry gathered and append
//!   to a buffer. They perform no I/O and take no locks, so they may run on any thread.

mod dashboard;
mod gather;
mod isolate;
mod landing;
mod lines;
mod monitor;
mod negotiate;
pub mod openmetrics;
mod renders;
mod resource;
pub mod text;

#[cfg(feature = "process")]
pub use crate::reactor::process::ProcessCollector;
pub use dashboard::Dashboard;
pub use isolate::{Isolated, isolate};
pub use landing::Landing;
pub use monitor::Monitor;
pub use negotiate::Format;
pub use resource::MetricsResource;
