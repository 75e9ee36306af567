//! What finding a route costs: no allocation, however many routes there are, and whatever was asked before.

#[path = "support/allocations.rs"]
mod counting;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use counting::allocations;
use dosimeter::web::{Branch, Request, Response, Router};
use support::{Leaf, Server};

fn hello(_: Request) -> Response {
    Response::text("hello")
}

/// What one request for `path` allocates, client included, once everything has its room.
fn cost(server: &Server, path: &str) -> usize {
    let mut client = server.connect();
    let once = |client: &mut support::Client<'_>| assert_eq!(client.get(path).brief(), (200, "hello"));
    (0..5).for_each(|_| once(&mut client));
    (0..20).map(|_| allocations(|| once(&mut client))).min().expect("there are some")
}

#[test]
fn finding_a_route_allocates_nothing() {
    let app = Router::new();
    for number in 0..500 {
        app.route(&format!("/section{number}/page"), hello);
        app.route(&format!("/section{number}/page/<int:id>-<name>/x"), hello);
        app.route(&format!("/section{number}/<path:rest>"), hello);
    }
    let mounted = Router::new();
    mounted.mount("/api/<version>", app.clone());
    let tree = Branch::new();
    tree.put_child("api", app.clone());
    let (leaf, app) = (Server::new(Leaf(hello)), Server::new(app));
    let (mounted, tree) = (Server::new(mounted), Server::new(tree));
    for path in ["/section7/page", "/section499/page/12-name/x", "/section250/a/b/c"] {
        for (server, prefix) in [(&app, ""), (&tree, "/api"), (&mounted, "/api/v1")] {
            let path = format!("{prefix}{path}");
            assert_eq!(cost(server, &path), cost(&leaf, &path), "{path}");
        }
    }
}
