//! [`MetricsResource`]: `/metrics`.
//!
//! Rules kept here:
//! - Gathering and encoding run in the thread pool: a scrape of a hundred thousand series takes a fifth of a second, in which
//!   the loop serves everybody else.
//! - A collector that fails costs this scrape, not the server.

use ::http::{HeaderValue, Method};
use prometheus::Registry;

use crate::deferred::Deferred;
use crate::exposition::text;
use crate::web::{Render, Request, Resource, Response};

/// Serves the metrics of a registry in the Prometheus text format, version 0.0.4.
///
/// Gathering and encoding run in the reactor's thread pool, so a large registry does not hold up the loop, and a collector
/// runs in another thread than the one it was made in. It answers `GET` and `HEAD`, and every path below its own as well.
///
/// ```
/// use dosimeter::MetricsResource;
/// use dosimeter::web::{Branch, Site};
///
/// let root = Branch::new();
/// root.put_child("metrics", MetricsResource::new());
/// let site = Site::new(root);
/// ```
#[derive(Debug, Clone)]
pub struct MetricsResource {
    registry: Registry,
}

impl MetricsResource {
    /// Serves `prometheus::default_registry()`, where the `register_...!` macros put metrics, and reactors theirs.
    pub fn new() -> Self {
        MetricsResource::with_registry(prometheus::default_registry().clone())
    }

    /// Serves this registry: that of a reactor built with [`Builder::metrics`](crate::Builder::metrics), say.
    pub fn with_registry(registry: Registry) -> Self {
        MetricsResource { registry }
    }
}

impl Default for MetricsResource {
    fn default() -> Self {
        MetricsResource::new()
    }
}

impl Resource for MetricsResource {
    fn is_leaf(&self) -> bool {
        true
    }

    fn render_get(&self, request: Request) -> Render {
        let registry = self.registry.clone();
        let page: Deferred<Vec<u8>> = request.reactor().defer_to_thread(move || {
            let mut page = Vec::new();
            text::encode(&registry.gather(), &mut page);
            Ok(page)
        });
        let content_type = HeaderValue::from_static(text::CONTENT_TYPE);
        page.map(|page| Response::new(page).with_content_type(content_type)).into()
    }

    fn allowed_methods(&self) -> Vec<Method> {
        vec![Method::GET, Method::HEAD, Method::OPTIONS]
    }
}
