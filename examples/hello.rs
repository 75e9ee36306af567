//! The server of the benchmarks: `cargo run --release --example hello 8080`.
//!
//! `/` answers a constant, `/instr` the same through a Deferred with a labelled counter and the three hooks, which are one stage
//! of it; `/metrics` tells.
//!
//! With `--series 100000` there are so many more to be told, with `--no-metrics` reactor and server publish no figures, and do not
//! count what takes time to count.

use std::sync::LazyLock;

use dosimeter::web::{Branch, Render, Request, Resource, Response, Site};
use dosimeter::{Deferred, Hooks, Metrics, MetricsResource, Reactor};
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
        let hooks = Hooks::new().time(&REQ_TIME).count_exceptions(&ERRORS).track_inprogress(&IN_PROGRESS);
        let answer = hooks.attach(answer);
        completer.callback("Hello, World!");
        answer.map(Response::text).into()
    }
}

/// Counters as a large program has them, a hundred to a family.
fn register_series(count: usize) -> dosimeter::Result<()> {
    for family in 0..count.div_ceil(100) {
        let name = format!("series_of_family_{family}_total");
        let counters = register_int_counter_vec!(name, "one of many", &["number"])?;
        for number in 0..100 {
            counters.with_label_values(&[&number.to_string()]).inc_by(number);
        }
    }
    Ok(())
}

fn main() -> dosimeter::Result<()> {
    let mut port = 8080;
    let mut builder = Reactor::builder();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--no-metrics" => builder = builder.metrics(Metrics::Off),
            "--series" => register_series(arguments.next().unwrap_or_default().parse().map_err(|_| USAGE)?)?,
            number => port = number.parse().map_err(|_| USAGE)?,
        }
    }
    LazyLock::force(&ERRORS);
    let reactor = builder.build()?;
    let root = Branch::new();
    root.put_child("", Hello);
    let inbound_requests = INBOUND_REQUESTS.with_label_values(&["/instr", "GET"]);
    root.put_child("instr", Instrumented { inbound_requests });
    root.put_child("metrics", MetricsResource::new());
    reactor.listen_tcp(port, Site::new(root))?;
    reactor.run()
}

const USAGE: &str = "usage: hello [PORT] [--series COUNT] [--no-metrics]";
