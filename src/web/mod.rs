//! The web server: a tree of resources, served by a [`Site`].

mod exchange;
mod metrics;
mod request;
mod resource;
mod response;
mod router;
mod site;

/// The vocabulary of HTTP, from the `http` crate.
pub use ::http::{HeaderName, HeaderValue, Method, StatusCode, Version};
pub use exchange::Disconnected;
pub use request::Request;
pub use resource::{Branch, IntoRender, NOT_DONE_YET, Render, Resource};
pub use response::{Body, Response};
pub use router::{Handler, Registered, Router};
pub use site::{HttpProtocol, Limits, Site};
