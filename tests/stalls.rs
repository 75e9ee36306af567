//! What holds up the loop: counted, and named by what a person would look for.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use dosimeter::exposition::text;
use dosimeter::prometheus::Registry;
use dosimeter::web::{Branch, Request, Resource, Router, Site};
use dosimeter::{Dashboard, Reactor};
use support::{HEARS_STALLS, Leaf, Server, capture_log, request, take_log};

/// More than a busy machine takes away from a test.
const LIMIT: Duration = Duration::from_millis(100);

/// Holds up whoever calls it, for longer than the limit.
fn spin() {
    let begun = std::time::Instant::now();
    while begun.elapsed() < LIMIT + Duration::from_millis(20) {
        std::hint::spin_loop();
    }
}

fn reactor(registry: &Registry) -> Reactor {
    capture_log();
    HEARS_STALLS.set(true);
    Reactor::builder().metrics(registry.clone()).stall_limit(LIMIT).signal_handlers(false).build().unwrap()
}

fn server(root: impl Resource) -> Server {
    let registry = Registry::new();
    Server::with_site(reactor(&registry), registry, Site::new(root))
}

/// How many callbacks of this kind were slow.
fn slow(registry: &Registry, kind: &str) -> f64 {
    let mut page = Vec::new();
    text::encode(&registry.gather(), &mut page);
    let page = String::from_utf8(page).unwrap();
    let start = format!("dosimeter_slow_callbacks_total{{kind=\"{kind}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
}

/// Whether the log has a line with this, and none that blames another route.
#[track_caller]
fn expect_blamed(what: &str) {
    let log = take_log();
    assert!(log.iter().any(|entry| entry.contains(what)), "{what:?} is not in {log:#?}");
    let others = log.iter().filter(|entry| entry.contains("(route ") && !entry.contains(what));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn a_callback_that_holds_up_the_loop_is_counted_and_named() {
    let registry = Registry::new();
    let reactor = reactor(&registry);
    let stop = reactor.clone();
    let line = line!() + 1;
    reactor.call_soon(move || {
        spin();
        // In the next turn: of two callbacks in one turn neither is blamed.
        stop.clone().call_soon(move || stop.stop().unwrap());
    });
    reactor.run().unwrap();
    assert_eq!(slow(&registry, "timer"), 1.0);
    let log = take_log();
    let told = format!("a timed call (tests/stalls.rs:{line}:13) took ");
    assert!(log.iter().any(|entry| entry.contains(&told)), "{told:?} is not in {log:#?}");
}

/// A slow page and a quick one.
fn app() -> Router {
    let app = Router::new();
    app.route("/slow/<int:number>", |_: Request| {
        spin();
        "slow"
    });
    app.route("/quick", |_: Request| "quick");
    app
}

fn with_board(app: Router) -> Server {
    let registry = Registry::new();
    let reactor = reactor(&registry);
    let root = Branch::new();
    root.put_child("app", app);
    root.put_child("board", Dashboard::new(&reactor));
    Server::with_site(reactor, registry, Site::new(root))
}

/// Kind and name of what was slow of late.
fn slow_rows(server: &Server) -> Vec<(String, String)> {
    let list = server.get("/board/slow").text().to_owned();
    let rows = list.lines().skip(1).map(|row| row.split('\t').collect::<Vec<_>>());
    rows.map(|row| (row[0].to_owned(), row[3].to_owned())).collect()
}

#[test]
fn a_slow_handler_is_named_by_its_route() {
    let server = server(app());
    assert_eq!(server.get("/slow/7").text(), "slow");
    assert_eq!(slow(&server.registry, "io"), 1.0);
    expect_blamed("a source (route /slow/<int:number>) took ");
}

#[test]
fn a_slow_resource_is_named_by_its_place_in_the_tree() {
    let root = Branch::new();
    let below = Branch::new();
    below.put_child(
        "slow",
        Leaf(|_| {
            spin();
            "slow"
        }),
    );
    root.put_child("a\tb", below);
    let server = server(root);
    assert_eq!(server.get("/a%09b/slow").text(), "slow");
    expect_blamed("a source (route /a\\tb/slow) took ");
}

#[test]
fn a_router_below_a_branch_is_named_with_the_way_to_it() {
    let root = Branch::new();
    root.put_child("app", app());
    let server = server(root);
    server.get("/app/slow/1");
    expect_blamed("a source (route /app/slow/<int:number>) took ");
}

#[test]
fn of_several_requests_in_one_go_the_slow_one_is_blamed_and_not_the_last() {
    let server = with_board(app());
    let mut client = server.connect();
    let all = [request("GET", "/app/quick"), request("GET", "/app/slow/1"), request("GET", "/app/quick")].concat();
    for time in ["first", "second"] {
        client.send(&all);
        let texts = [(); 3].map(|()| client.reply().text().to_owned());
        assert_eq!(texts, ["quick", "slow", "quick"], "{time} time");
        server.until_quiet();
    }
    // The first time which of the three it was is anybody's guess, and none is made.
    let log = take_log();
    assert!(log.iter().any(|entry| entry.contains("with 3 callbacks, none timed or slow by itself")), "{log:#?}");
    assert_eq!(slow(&server.registry, "io"), 1.0);
    assert_eq!(slow_rows(&server), [("io".to_owned(), "route /app/slow/<int:number>".to_owned())]);
}

#[test]
fn a_request_that_is_answered_later_is_named_by_what_answers_it() {
    let later = Router::new();
    let line = line!() + 2;
    later.route("/later", |request: Request| {
        request.reactor().call_soon(move || {
            spin();
            drop(request);
        });
        dosimeter::web::NOT_DONE_YET
    });
    let server = with_board(later);
    // Twice: what is slow beside other callbacks is timed the second time.
    server.get("/app/later");
    server.get("/app/later");
    let place = format!("tests/stalls.rs:{line}:27");
    assert_eq!(slow_rows(&server), [("timer".to_owned(), place)]);
}

#[test]
fn the_list_of_slow_callbacks_names_routes_too() {
    let server = with_board(app());
    server.get("/app/slow/1");
    assert_eq!(slow_rows(&server), [("io".to_owned(), "route /app/slow/<int:number>".to_owned())]);
}

#[test]
fn a_slow_shutdown_is_told_of_and_its_wait_for_threads_is_none() {
    let registry = Registry::new();
    let waits = reactor(&registry);
    let (started, has_started) = sync_channel(1);
    waits.defer_to_thread(move || {
        started.send(()).unwrap();
        spin();
        Ok(())
    });
    has_started.recv().unwrap();
    let stop = waits.clone();
    waits.call_when_running(move || Ok(stop.stop()?));
    waits.run().unwrap();
    assert_eq!(slow(&registry, "shutdown"), 0.0, "{:?}", take_log());
    let registry = Registry::new();
    let works = reactor(&registry);
    // The call that its result is comes last before what is slow, and is not to blame.
    works.defer_to_thread(|| Ok(()));
    works.on_shutdown().during(spin);
    works.shut_down();
    assert_eq!((slow(&registry, "shutdown"), slow(&registry, "thread")), (1.0, 0.0));
    expect_blamed("the shutdown took ");
}
