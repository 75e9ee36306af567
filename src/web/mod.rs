//! The web server: a tree of resources, served by a [`Site`].
//!
//! A path is split at its slashes and walked from the root: each [`Resource`] on the way is asked for its child of the next
//! name, until there is no name left or a resource is a leaf. That one answers. [`Branch`] is a resource that is nothing but
//! its children; [`Router`] is a leaf that hands requests to functions by the pattern of what is left of the path.
//!
//! An answer is whatever turns into a [`Render`]: a text, a [`Response`], a `Deferred` of one. A resource that answers piece
//! by piece, or through something else than a `Deferred`, keeps its [`Request`] and returns [`NOT_DONE_YET`].
//!
//! ```
//! use dosimeter::web::{Branch, Request, Response, Router, Site};
//!
//! let api = Router::new();
//! api.route("/greet/<name>", |request: Request| {
//!     let name: String = request.param("name").expect("the pattern has it");
//!     Response::text(format!("Hello, {name}!")) // a plain `String` would be taken for HTML
//! });
//!
//! let root = Branch::new();
//! root.put_child("api", api); // GET /api/greet/Ada
//! let site = Site::new(root);
//! ```

pub(crate) mod accept;
mod access_log;
mod answer;
mod auth;
mod beneath;
mod body;
mod branch;
mod client;
mod closing;
mod coded;
mod coding;
mod company;
#[cfg(feature = "gzip")]
mod compress;
mod conditional;
mod connection;
mod content;
mod cookies;
mod data;
mod disconnected;
mod drain;
mod encode;
mod error;
mod error_handlers;
mod exchange;
mod failing;
mod form_stream;
mod forms;
mod forwarded;
mod guests;
mod handler;
mod instrumented;
mod kind;
mod later;
mod limits;
mod listing;
mod metrics;
mod multipart;
mod pages;
mod path;
mod patience;
mod pattern;
mod ranges;
mod reading;
mod redirect;
mod request;
mod resource;
mod response;
mod route;
mod router;
mod routes;
mod rule;
mod send_stream;
mod sessions;
mod shared;
mod site;
mod static_files;
mod streaming;
mod urls;
mod vhost;
mod waiter;
mod walk;

/// The vocabulary of HTTP, from the `http` crate.
pub use ::http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
pub use access_log::{Access, combined};
pub use body::BodyStream;
pub use branch::Branch;
pub use client::Credentials;
#[cfg(feature = "gzip")]
pub use compress::Gzip;
pub use conditional::{ETag, InvalidETag, Validators};
pub use connection::HttpProtocol;
pub use cookies::{Cookie, CookieError, SameSite};
pub use data::Data;
pub use disconnected::Disconnected;
pub use drain::{Drain, Readiness};
pub use error::{FormError, HttpError, RoutingError};
pub use form_stream::{FormPart, FormStream};
pub use forms::{Form, FormFile};
pub use forwarded::{InvalidNetwork, TrustedProxies};
pub use handler::Handler;
pub use instrumented::Instrumented;
pub use later::DeferredResource;
pub use limits::Limits;
pub use multipart::{FormLimits, Multipart, Part, PartHead};
pub use pages::{ErrorPage, ErrorPages, Page};
pub use redirect::Redirect;
pub use request::Request;
pub use resource::{IntoRender, NOT_DONE_YET, Render, Resource};
pub use response::{Body, Response, escape_html};
pub use route::Route;
pub use router::Router;
pub use sessions::{Session, SessionOptions, Sessions};
pub use site::Site;
pub use static_files::StaticFiles;
pub use urls::UrlError;
pub use vhost::VirtualHosts;
