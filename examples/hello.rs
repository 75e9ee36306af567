//! The server of the benchmarks: `cargo run --release --example hello 8080`.
//!
//! `/` answers a constant, `/instr` the same through a Deferred with a labelled counter and the three hooks, `/metrics` tells.

use std::sync::LazyLock;

use dosimeter::web::{Branch, Render, Request, Resource, Response, Site};
use dosimeter::{Deferred, MetricsResource, Reactor, count_exceptions, time, track_inprogress};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use prometheus::{register_histogram, register_int_counter, register_int_counter_vec, register_int_gauge};

static INBOUND_REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("inbound_requests_total", "inbound requests", &["endpoint", "method"]).unwrap()
});
static REQ_TIME: LazyLock<Histogram> =
    LazyLock::new(|| register_histogram!("req_time_seconds", "time spent in requests").unwrap());
static ERRORS: LazyLock<IntCounter> =
    LazyLock::new(|| register_int_counter!("req_exceptions_total", "failed requests").unwrap());
static IN_PROGRESS: LazyLock<IntGauge> =
    LazyLock::new(|| register_int_gauge!("req_in_progress", "requests in progress").unwrap());

struct Hello;

impl Resource for Hello {
    fn render_get(&self, _request: Request) -> Render {
        Response::text("Hello, World!").into()
    }
}

/// Has its child of the counter resolved once, not per request.
struct Instrumented {
    inbound_requests: IntCounter,
}

impl Resource for Instrumented {
    fn render_get(&self, _request: Request) -> Render {
        self.inbound_requests.inc();
        let (completer, answer) = Deferred::pair();
        let answer = track_inprogress(&IN_PROGRESS, count_exceptions(&ERRORS, time(&REQ_TIME, answer)));
        completer.callback("Hello, World!");
        answer.map(Response::text).into()
    }
}

fn main() -> dosimeter::Result<()> {
    let port: u16 = std::env::args().nth(1).unwrap_or("8080".to_owned()).parse()?;
    LazyLock::force(&ERRORS);
    let reactor = Reactor::new()?;
    let root = Branch::new();
    root.put_child("", Hello);
    let inbound_requests = INBOUND_REQUESTS.with_label_values(&["/instr", "GET"]);
    root.put_child("instr", Instrumented { inbound_requests });
    root.put_child("metrics", MetricsResource::new());
    reactor.listen_tcp(port, Site::new(root))?;
    reactor.run()
}
