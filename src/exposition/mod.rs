//! Metrics as text: what Prometheus reads when it scrapes.
//!
//! The encoders take what a registry gathered and append to a buffer. They perform no I/O and take no
//! locks, so they may run on any thread.

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
