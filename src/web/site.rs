//! [`Site`]: the HTTP server, a factory of connections that serve a tree of resources.

use std::fmt;
use std::rc::Rc;

use crate::net::{Address, Factory};
use crate::web::connection::HttpProtocol;
use crate::web::limits::Limits;
use crate::web::pages::{ErrorPage, maker};
use crate::web::resource::Resource;
use crate::web::response::Response;
use crate::web::shared::Shared;

/// Serves a tree of resources over HTTP/1.1; give it to [`Reactor::listen_tcp`](crate::Reactor::listen_tcp).
///
/// ```no_run
/// use dosimeter::web::{Branch, Site};
/// use dosimeter::{MetricsResource, Reactor};
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let root = Branch::new();
/// root.put_child("metrics", MetricsResource::new());
/// reactor.listen_tcp(8000, Site::new(root))?;
/// reactor.run()
/// # }
/// ```
#[derive(Clone)]
pub struct Site(Rc<Shared>);

impl Site {
    /// A site that serves `root` with the default limits.
    pub fn new(root: impl Resource) -> Self {
        Site::with_limits(root, Limits::default())
    }

    /// A site that serves `root` with these limits.
    pub fn with_limits(root: impl Resource, limits: Limits) -> Self {
        Site(Rc::new(Shared::new(Rc::new(root), limits)))
    }

    /// Has `make` make the error pages of this site, as [`ErrorPages`](super::ErrorPages) does for a part of its tree: also
    /// the answers to what is no request at all.
    ///
    /// ```
    /// use dosimeter::web::{Branch, ErrorPage, Response, Site};
    ///
    /// let site = Site::new(Branch::new());
    /// site.error_pages(|error: &ErrorPage<'_>| Response::text(format!("{}: {}", error.status(), error.detail())));
    /// ```
    pub fn error_pages(&self, make: impl Fn(&ErrorPage<'_>) -> Response + 'static) {
        self.0.set_error_pages(maker(make));
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("limits", &self.0.limits).finish_non_exhaustive()
    }
}

impl Factory for Site {
    type Protocol = HttpProtocol;

    fn build_protocol(&self, _peer: &Address) -> Option<HttpProtocol> {
        Some(HttpProtocol::new(self.0.clone()))
    }
}
