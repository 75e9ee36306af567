//! Routes as Klein has them, and a counter per endpoint: http://localhost:8000/ and http://localhost:8000/metrics.

use std::sync::LazyLock;

use dosimeter::web::{Router, Site};
use dosimeter::{MetricsResource, Reactor};
use prometheus::{IntCounterVec, register_int_counter_vec};

static INBOUND_REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("inbound_requests_total", "inbound requests", &["endpoint", "method"]).unwrap()
});

fn main() -> dosimeter::Result<()> {
    let reactor = Reactor::new()?;
    let app = Router::new();
    app.route("/", |_request| {
        INBOUND_REQUESTS.with_label_values(&["/", "GET"]).inc();
        "<a href=\"/metrics\">metrics</a>"
    });
    app.route("/metrics", |_request| {
        INBOUND_REQUESTS.with_label_values(&["/metrics", "GET"]).inc();
        MetricsResource::new()
    });
    reactor.listen_tcp(8000, Site::new(app))?;
    reactor.run()
}
