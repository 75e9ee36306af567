//! A server that can be looked at while it is stuck: `cargo run --example monitor 8000 9100`.
//!
//! http://localhost:8000/block/20 holds up the loop for so many seconds. Meanwhile http://localhost:8000/ gives no answer, and
//! the monitor does: http://localhost:9100/healthz, `/readyz`, `/stalls` and `/metrics`.

use std::thread;
use std::time::Duration;

use dosimeter::web::{Drain, Request, Router, Site};
use dosimeter::{Monitor, Reactor};

/// What no program should do: everybody waits until it is over.
fn block(request: Request) -> String {
    let seconds: u64 = request.param("seconds").expect("the pattern has it");
    thread::sleep(Duration::from_secs(seconds));
    format!("held up the loop for {seconds} s\n")
}

fn main() -> dosimeter::Result<()> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().unwrap_or("8000".to_owned()).parse().map_err(|_| USAGE)?;
    let monitor_port: u16 = args.next().unwrap_or("9100".to_owned()).parse().map_err(|_| USAGE)?;

    let reactor = Reactor::new()?;
    let app = Router::new();
    app.route("/", |_: Request| "Hello\n");
    app.route("/block/<int(max=60):seconds>", block);
    let site = Site::new(app);
    site.drain_on_shutdown(&reactor, Drain::new(Duration::from_secs(10)));
    let monitor = Monitor::spawn(format!("127.0.0.1:{monitor_port}"), &reactor)?;
    monitor.follow(site.readiness());
    reactor.listen_tcp(port, site)?;
    reactor.run()
}

const USAGE: &str = "usage: monitor [PORT [MONITOR_PORT]]";
