//! A page that takes five seconds and holds up nobody; how long is measured on the chain: http://localhost:8000/.

use std::sync::LazyLock;
use std::time::Duration;

use dosimeter::web::{Branch, NOT_DONE_YET, Render, Request, Resource, Site};
use dosimeter::{MetricsResource, Reactor, defer_later, time};
use prometheus::{Histogram, register_histogram};

static REQ_TIME: LazyLock<Histogram> =
    LazyLock::new(|| register_histogram!("req_time_seconds", "time spent in requests").unwrap());

struct DelayedResource;

impl DelayedResource {
    fn delayed_render(mut request: Request) {
        request.write("<html><body>Sorry to keep you waiting.</body></html>");
        request.finish();
    }
}

impl Resource for DelayedResource {
    fn render_get(&self, request: Request) -> Render {
        let d = defer_later(&request.reactor(), Duration::from_secs(5), move || request);
        time(&REQ_TIME, d.add_callback(Self::delayed_render));
        NOT_DONE_YET
    }
}

fn main() -> dosimeter::Result<()> {
    let reactor = Reactor::new()?;
    let root = Branch::new();
    root.put_child("", DelayedResource);
    root.put_child("metrics", MetricsResource::new());
    reactor.listen_tcp(8000, Site::new(root))?;
    reactor.run()
}
