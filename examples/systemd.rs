//! A service of systemd: `cargo run --example systemd [tcp:8080]`.
//!
//! It says when it is ready and when it stops, feeds the watchdog from the loop, and ends without failing a request. With the
//! unit
//!
//! ```text
//! [Service]
//! Type=notify
//! ExecStart=/usr/local/bin/counter tcp:8080
//! WatchdogSec=10
//! TimeoutStopSec=40
//! ```
//!
//! a loop that is stuck for ten seconds is started anew. Built with `--features systemd` it takes over the socket of a socket
//! unit as well, so that no client notices the change: `ExecStart=/usr/local/bin/counter systemd:http`, and
//! `FileDescriptorName=http` there.

use std::time::Duration;

use dosimeter::net::systemd;
use dosimeter::web::{Branch, Drain, Page, Response, Site};
use dosimeter::{MetricsResource, Reactor, Result};

fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or("tcp:8080".to_owned());

    let root = Branch::new();
    let site = Site::new(root.clone());
    root.put_child("", Page::new(Response::text("Hello, World!")));
    root.put_child("readyz", site.readiness());
    root.put_child("metrics", MetricsResource::new());

    let reactor = Reactor::new()?;
    site.drain_on_shutdown(&reactor, Drain::new(Duration::from_secs(30)));
    reactor.listen(&*endpoint, site)?;
    systemd::announce(&reactor);
    reactor.run()
}
