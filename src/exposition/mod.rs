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
#[cfg(feature = "process")]
mod process;
mod renders;
mod resource;
pub mod text;
pub use dashboard::Dashboard;
pub use isolate::{Isolated, isolate};
pub use landing::Landing;
pub use monitor::Monitor;
pub use negotiate::Format;
#[cfg(feature = "process")]
pub use process::ProcessCollector;
pub use resource::MetricsResource;
