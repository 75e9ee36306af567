//! A server that draws what it does: `cargo run --example dashboard 8000`, then http://localhost:8000/.
//!
//! `/app/hello` answers at once, `/app/nap` after a while, `/app/busy` holds up the loop for a moment, and `/app/broken` fails.

use std::time::Duration;

use dosimeter::exposition::Landing;
use dosimeter::web::{Branch, Request, Resource, Router, Site};
use dosimeter::{Dashboard, Deferred, Failure, Reactor, defer_later};

fn nap(request: Request) -> Deferred<&'static str> {
    defer_later(&request.reactor(), Duration::from_millis(120), || "rested\n")
}

/// What a program should not do: everybody waits until it is over.
fn busy(_: Request) -> &'static str {
    std::thread::sleep(Duration::from_millis(150));
    "done\n"
}

fn broken(_: Request) -> Result<&'static str, Failure> {
    Err("there is nothing here that works".into())
}

fn app() -> impl Resource {
    let app = Router::new();
    app.route("/hello", |_: Request| "Hello\n");
    app.route("/nap", nap);
    app.route("/busy", busy);
    app.route("/broken", broken);
    app
}

fn main() -> dosimeter::Result<()> {
    let port = std::env::args().nth(1).unwrap_or("8000".to_owned());
    let port: u16 = port.parse().map_err(|_| "usage: dashboard [PORT]")?;
    let reactor = Reactor::new()?;
    let root = Branch::new();
    root.put_child("app", app());
    root.put_child("dashboard", Dashboard::new(&reactor));
    let landing = Landing::new("dashboard", env!("CARGO_PKG_VERSION")).link("dashboard/", "What this server does");
    root.put_child("", landing.link("dashboard/metrics", "The figures"));
    reactor.listen_tcp(format!("127.0.0.1:{port}"), Site::new(root))?;
    reactor.run()
}
