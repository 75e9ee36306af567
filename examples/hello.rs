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

struct Instrumented;

impl Resource for Instrumented {
    fn render_get(&self, request: Request) -> Render {
        INBOUND_REQUESTS.with_label_values(&[request.path(), request.method().as_str()]).inc();
        let (completer, answer) = Deferred::pair();
        let answer = time(&REQ_TIME, answer.map(Response::text));
        let answer = track_inprogress(&IN_PROGRESS, count_exceptions(&ERRORS, answer));
        completer.callback("Hello, World!");
        answer.into()
    }
}

fn main() -> dosimeter::Result<()> {
    let port: u16 = std::env::args().nth(1).unwrap_or("8080".to_owned()).parse()?;
    LazyLock::force(&ERRORS);
    let reactor = Reactor::new()?;
    let root = Branch::new();
    root.put_child("", Hello);
    root.put_child("instr", Instrumented);
    root.put_child("metrics", MetricsResource::new());
    reactor.listen_tcp(port, Site::new(root))?;
    reactor.run()
}
