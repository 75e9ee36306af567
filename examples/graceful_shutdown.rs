//! Ends without failing a request: `cargo run --example graceful_shutdown 8080 [ACCEPTING_SECONDS [DEADLINE_SECONDS]]`.
//!
//! `kill` it while `curl localhost:8080/slow` waits: the page is still sent, `/readyz` says 503, and then it is over.

use std::time::Duration;

use dosimeter::web::{Drain, Request, Response, Router, Site};
use dosimeter::{Reactor, Result, defer_later};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().unwrap_or("8080".to_owned()).parse().map_err(|_| USAGE)?;
    let accepting = arguments.next().unwrap_or("2".to_owned()).parse().map_err(|_| USAGE)?;
    let deadline = arguments.next().unwrap_or("30".to_owned()).parse().map_err(|_| USAGE)?;

    let app = Router::new();
    let site = Site::new(app.clone());
    app.route("/", |_| Response::text("Hello, World!"));
    app.route("/slow", |request: Request| {
        defer_later(&request.reactor(), Duration::from_secs(3), || Response::text("Sorry to keep you waiting."))
    });
    app.route("/readyz", site.readiness());
    app.route("/livez", |_| Response::text("alive"));

    let reactor = Reactor::new()?;
    let drain = Drain::new(Duration::from_secs(deadline)).accepting_for(Duration::from_secs(accepting));
    site.drain_on_shutdown(&reactor, drain);
    reactor.listen_tcp(port, site)?;
    reactor.run()
}

const USAGE: &str = "usage: graceful_shutdown [PORT [ACCEPTING_SECONDS [DEADLINE_SECONDS]]]";
