//! Metrics as text: what Prometheus reads when it scrapes.
//!
//! The encoders take what a registry gathered and append to a buffer. They perform no I/O and take no
//! locks, so they may run on any thread.

mod gather;
mod isolate;
mod lines;
mod negotiate;
pub mod openmetrics;
mod renders;
mod resource;
pub mod text;
pub use isolate::{Isolated, isolate};
pub use negotiate::Format;
pub use resource::MetricsResource;
