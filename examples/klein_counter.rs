//! Routes as Klein has them, each measured: http://localhost:8000/ and http://localhost:8000/metrics.
//!
//! A request is counted when it comes. The hooks of its route time it to the end of the answer, count what fails
//! (http://localhost:8000/broken) and know how many are in progress. What a client makes up, the name in
//! http://localhost:8000/hello/ada, is a label within bounds.

use std::sync::LazyLock;

use dosimeter::web::{Method, Request, Response, Router, Site};
use dosimeter::{Capped, Failure, Hook, Hooks, MetricsResource, Reactor};
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Opts};
use prometheus::{register_histogram_vec, register_int_counter_vec, register_int_gauge_vec};

static INBOUND_REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("inbound_requests_total", "inbound requests", &["endpoint", "method"]).unwrap()
});
static SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!("inbound_request_seconds", "time to the end of the answer", &["endpoint"]).unwrap()
});
static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("inbound_request_errors_total", "inbound requests that failed", &["endpoint"]).unwrap()
});
static IN_PROGRESS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!("inbound_requests_in_progress", "inbound requests in progress", &["endpoint"]).unwrap()
});

/// By name, of which there may be any number: a hundred are counted each, all others as `other`.
static GREETINGS: LazyLock<Capped<IntCounterVec>> = LazyLock::new(|| {
    let greetings = IntCounterVec::new(Opts::new("greetings_total", "greetings by name"), &["name"]).unwrap();
    let greetings = Capped::new(greetings, 100).unwrap();
    prometheus::register(Box::new(greetings.clone())).unwrap();
    greetings
});

/// All three hooks, with the series of this endpoint.
fn measured(endpoint: &str) -> Hooks<impl Hook> {
    Hooks::new()
        .time(&SECONDS.with_label_values(&[endpoint]))
        .count_exceptions(&ERRORS.with_label_values(&[endpoint]))
        .track_inprogress(&IN_PROGRESS.with_label_values(&[endpoint]))
}

fn main() -> dosimeter::Result<()> {
    let reactor = Reactor::new()?;
    let app = Router::new();
    app.route("/", |_request| {
        INBOUND_REQUESTS.with_label_values(&["/", "GET"]).inc();
        "<a href=\"/metrics\">metrics</a>"
    })
    .methods([Method::GET])
    .instrument(measured("/"));
    app.route("/metrics", |_request| {
        INBOUND_REQUESTS.with_label_values(&["/metrics", "GET"]).inc();
        MetricsResource::new()
    })
    .methods([Method::GET])
    .instrument(measured("/metrics"));
    app.route("/hello/<name>", |request: Request| {
        let name: String = request.param("name").expect("the pattern has it");
        INBOUND_REQUESTS.with_label_values(&["/hello/<name>", "GET"]).inc();
        GREETINGS.with_label_values(&[&name]).inc();
        Response::text(format!("Hello, {name}!\n"))
    })
    .methods([Method::GET])
    .instrument(measured("/hello/<name>"));
    app.route("/broken", |_request| {
        INBOUND_REQUESTS.with_label_values(&["/broken", "GET"]).inc();
        Err::<&str, _>(Failure::from("there is nothing here that works"))
    })
    .methods([Method::GET])
    .instrument(measured("/broken"));
    reactor.listen_tcp(8000, Site::new(app))?;
    reactor.run()
}
