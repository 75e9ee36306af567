//! A server that shows how HTTP is kept, for conformance suites: `cargo run --example contract 8080 [HEADER_TIMEOUT_SECONDS]`.

use std::time::Duration;

use dosimeter::web::{HttpError, Limits, Method, NOT_DONE_YET, Render, Request, Response, Router, Site, StatusCode};
use dosimeter::{Failure, MetricsResource, Reactor, Result, defer_later};

/// The number that the query has for `name`, without which there is nothing to answer.
fn number(request: &Request, name: &'static str) -> Result<u64> {
    let text = request.query(name).unwrap_or_default();
    Ok(text.parse().map_err(|_| HttpError::new(StatusCode::BAD_REQUEST, format!("`{name}` is not a number")))?)
}

/// `/delay?ms=N`: answers `N` after N milliseconds.
fn delay(request: Request) -> Result<Render> {
    let ms = number(&request, "ms")?;
    let later = defer_later(&request.reactor(), Duration::from_millis(ms), move || Response::text(ms.to_string()));
    Ok(later.into())
}

/// `/stream?n=N`: writes N lines, at the pace of the peer.
fn stream(request: Request) -> Result<Render> {
    let count = number(&request, "n")?;
    write_lines(request, 0, count);
    Ok(NOT_DONE_YET)
}

fn write_lines(mut request: Request, from: u64, count: u64) {
    for line in from..count {
        if request.is_congested() {
            request.drained().add_callbacks(move |()| write_lines(request, line, count), |_left| ());
            return;
        }
        request.write(format!("line {line}\n"));
    }
    request.finish();
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().unwrap_or("8080".to_owned()).parse().map_err(|_| USAGE)?;
    let mut limits = Limits::default();
    limits.request.body = 1024 * 1024;
    if let Some(seconds) = arguments.next() {
        limits.head_timeout = Duration::try_from_secs_f64(seconds.parse().map_err(|_| USAGE)?).map_err(|_| USAGE)?;
    }

    let app = Router::new();
    app.route("/", |_| Response::text("Hello, World!")).methods([Method::GET]);
    app.route("/echo", |request: Request| request.body().to_vec()).methods([Method::POST, Method::PUT]);
    app.route("/delay", delay).methods([Method::GET]);
    app.route("/fail", |_| Err::<Response, _>(Failure::from("as asked"))).methods([Method::GET]);
    app.route("/stream", stream).methods([Method::GET]);
    app.route("/metrics", MetricsResource::new());

    let reactor = Reactor::new()?;
    reactor.listen_tcp(port, Site::with_limits(app, limits))?;
    reactor.run()
}

const USAGE: &str = "usage: contract [PORT [HEADER_TIMEOUT_SECONDS]]";
