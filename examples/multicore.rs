//! A server on every core of the machine: `cargo run --release --example multicore 8080`, or `multicore 8080 2` for two.
//!
//! `/` tells which reactor answers, `/metrics` the figures of all of them.

use dosimeter::web::{Request, Router, Site};
use dosimeter::{MetricsResource, Result, run_on_cores};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let port: u16 = words.next().unwrap_or("8080".to_owned()).parse().map_err(|_| USAGE)?;
    let cores = words.next().unwrap_or("0".to_owned()).parse().map_err(|_| USAGE)?;
    run_on_cores(cores, |reactor| {
        let app = Router::new();
        app.route("/", |request: Request| format!("answered by reactor {}\n", request.reactor().name()));
        app.route("/metrics", |_request: Request| MetricsResource::new());
        reactor.listen_tcp(port, Site::new(app))?;
        Ok(())
    })
}

const USAGE: &str = "usage: multicore [PORT [CORES]]";
