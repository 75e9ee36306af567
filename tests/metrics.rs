//! The figures of reactors in a registry: their names and labels, several reactors in one registry, and when they are gone again.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dosimeter::exposition::text;
use dosimeter::prometheus::core::{Collector, Desc};
use dosimeter::prometheus::proto::MetricFamily;
use dosimeter::prometheus::{IntCounter, Registry};
use dosimeter::web::{Branch, Request, Site};
use dosimeter::{Builder, Clock, Completer, Deferred, Metrics, MetricsResource, Reactor};
use support::{Leaf, Server, capture_log, expect_no_log, request, take_log};

fn reactor(builder: Builder, registry: &Registry) -> Reactor {
    capture_log();
    builder.metrics(registry.clone()).build().unwrap()
}

/// A server on a reactor of this name.
fn server(name: &str, registry: &Registry) -> Server {
    let reactor = reactor(Reactor::builder().name(name), registry);
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let port = reactor.listen_tcp(loopback, Site::new(Leaf(|_| "x"))).unwrap();
    Server { reactor, registry: registry.clone(), addr: port.local_addr() }
}

/// Holds up whoever calls it.
fn spin(millis: u64) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(millis) {
        std::hint::spin_loop();
    }
}

fn page(registry: &Registry) -> String {
    let mut page = Vec::new();
    text::encode(&registry.gather(), &mut page);
    String::from_utf8(page).unwrap()
}

/// The label values that the series of a family have for `reactor`; `""` for a series without the label.
fn reactors(registry: &Registry, name: &str) -> Vec<String> {
    let families = registry.gather();
    let metrics = families.iter().filter(|family| family.name() == name).flat_map(MetricFamily::get_metric);
    let mut names: Vec<String> = metrics
        .map(|metric| {
            let label = metric.get_label().iter().find(|label| label.name() == "reactor");
            label.map_or(String::new(), |label| label.value().to_owned())
        })
        .collect();
    names.sort();
    names
}

// ---- one reactor ------------------------------------------------------------------------------------

#[test]
fn a_reactor_publishes_what_it_does() {
    let registry = Registry::new();
    let reactor = reactor(Reactor::builder(), &registry);
    let page = page(&registry);
    for (name, kind) in [
        ("dosimeter_info", "gauge"),
        ("dosimeter_loop_iterations_total", "counter"),
        ("dosimeter_loop_busy_seconds_total", "counter"),
        ("dosimeter_loop_idle_seconds_total", "counter"),
        ("dosimeter_loop_turn_duration_seconds", "histogram"),
        ("dosimeter_loop_last_turn_timestamp_seconds", "gauge"),
        ("dosimeter_events_total", "counter"),
        ("dosimeter_sources", "gauge"),
        ("dosimeter_timers_fired_total", "counter"),
        ("dosimeter_timers_pending", "gauge"),
        ("dosimeter_timer_lateness_seconds", "histogram"),
        ("dosimeter_thread_calls_total", "counter"),
        ("dosimeter_callback_panics_total", "counter"),
        ("dosimeter_deferreds_created_total", "counter"),
        ("dosimeter_deferreds_fired_total", "counter"),
        ("dosimeter_deferreds_failed_total", "counter"),
        ("dosimeter_deferreds_cancelled_total", "counter"),
        ("dosimeter_deferreds_abandoned_total", "counter"),
        ("dosimeter_deferreds_unhandled_errors_total", "counter"),
    ] {
        assert!(page.contains(&format!("# TYPE {name} {kind}\n")), "{name} is no {kind} in\n{page}");
    }
    assert!(
        page.contains(&format!("dosimeter_info{{poller=\"epoll\",version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION")))
    );
    assert!(!page.contains("reactor="), "the only reactor of a program needs no label");
    drop(reactor);
}

#[test]
fn the_only_site_of_a_program_publishes_its_requests() {
    let registry = Registry::new();
    let server = server("", &registry);
    server.get("/");
    let mut client = server.connect();
    client.send("\0");
    client.reply();
    let page = page(&registry);
    for line in [
        "http_server_connections 1\n",
        "http_server_connections_accepted_total 2\n",
        "http_server_requests_in_progress 0\n",
        "http_server_bad_requests_total{reason=\"request_line\"} 1\n",
        "http_server_request_duration_seconds_count{method=\"GET\",route=\"/\"} 1\n",
        "http_server_requests_total{code=\"200\",method=\"GET\",route=\"/\"} 1\n",
    ] {
        assert!(page.contains(line), "no {line:?} in\n{page}");
    }
}

#[test]
fn families_that_have_no_series_yet_are_no_trouble() {
    let registry = Registry::new();
    let server = server("", &registry);
    server.connect();
    server.until_quiet();
    // A family without a series is left out of the page: `TYPE` alone says nothing.
    assert!(!page(&registry).contains("http_server_requests_total"));
    expect_no_log();
}

#[test]
fn the_loop_counts_what_happens() {
    let registry = Registry::new();
    let server = server("", &registry);
    let figure = |name: &str| server.figure(name, &[]);
    server.reactor.turn(Some(Duration::ZERO)).unwrap();
    let turns = figure("dosimeter_loop_iterations_total");
    server.reactor.call_soon(|| ());
    server.reactor.call_soon(|| ()).cancel().unwrap();
    server.reactor.call_soon(|| panic!("counted"));
    server.reactor.call_later(Duration::from_secs(3600), || ());
    server.reactor.remote().call_from_thread(|_| ()).unwrap();
    assert_eq!(figure("dosimeter_thread_call_queue_length"), 1.0);
    server.reactor.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(figure("dosimeter_thread_call_queue_length"), 0.0);
    assert_eq!(figure("dosimeter_thread_call_wait_seconds"), 1.0);
    assert_eq!(figure("dosimeter_loop_iterations_total"), turns + 1.0);
    assert_eq!(figure("dosimeter_loop_turn_duration_seconds"), turns + 1.0);
    assert_eq!(figure("dosimeter_timers_fired_total"), 2.0);
    assert_eq!(figure("dosimeter_timer_lateness_seconds"), 2.0);
    assert_eq!(figure("dosimeter_timers_cancelled_total"), 1.0);
    assert_eq!(figure("dosimeter_timers_pending"), 1.0);
    assert_eq!(figure("dosimeter_thread_calls_total"), 1.0);
    let timer = &[("kind", "timer")];
    assert_eq!(server.figure("dosimeter_callback_panics_total", timer), 1.0);
    assert_eq!(figure("dosimeter_callback_panics_total"), 1.0);
    assert_eq!(server.figure("dosimeter_callbacks_total", timer), 2.0);
    assert_eq!(server.figure("dosimeter_callbacks_total", &[("kind", "thread")]), 1.0);
    assert_eq!(figure("dosimeter_sources"), 1.0, "the listening socket");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let beat = figure("dosimeter_loop_last_turn_timestamp_seconds");
    assert!((now - 10.0..now + 1.0).contains(&beat), "the heartbeat is at {beat}, now is {now}");
    assert!(take_log()[0].contains("counted"));
}

#[test]
fn of_two_reactors_in_a_thread_none_counts_the_chains_of_the_other() {
    let registry = Registry::new();
    let [one, other] = ["one", "other"].map(|name| reactor(Reactor::builder().name(name), &registry));
    let figure = |family: &str, reactor: &str| {
        let start = format!("dosimeter_deferreds_{family}{{reactor=\"{reactor}\"}} ");
        let page = page(&registry);
        page.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse::<i64>().unwrap()
    };
    one.turn(Some(Duration::ZERO)).unwrap();
    let before = figure("created_total", "one");
    let pair = Deferred::<()>::pair();
    one.turn(Some(Duration::ZERO)).unwrap();
    other.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(figure("created_total", "one"), before + 1);
    assert_eq!(figure("pending", "one"), 1);
    assert_eq!(figure("created_total", "other"), 0);
    let (completer, deferred) = pair;
    drop(deferred);
    drop(completer);
    one.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(figure("pending", "one"), 0, "nobody waits and nobody will fire it");
}

#[test]
fn time_spent_waiting_is_idle_and_the_rest_is_busy() {
    let registry = Registry::new();
    let server = server("", &registry);
    server.reactor.turn(Some(Duration::from_millis(30))).unwrap();
    server.reactor.call_soon(|| {
        spin(20);
    });
    server.reactor.turn(Some(Duration::ZERO)).unwrap();
    let (busy, idle) = ("dosimeter_loop_busy_seconds_total", "dosimeter_loop_idle_seconds_total");
    let (busy, idle) = (server.figure(busy, &[]), server.figure(idle, &[]));
    assert!((0.020..10.0).contains(&busy) && (0.029..10.0).contains(&idle), "busy {busy} s, idle {idle} s");
}

#[test]
fn the_last_turn_of_a_run_is_counted_like_any_other() {
    let registry = Registry::new();
    let reactor = reactor(Reactor::builder().signal_handlers(false), &registry);
    let stop = reactor.clone();
    reactor.call_soon(move || {
        spin(20);
        stop.stop().unwrap();
        drop(Deferred::<()>::pair());
    });
    reactor.run().unwrap();
    let page = page(&registry);
    let figure = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse::<f64>().unwrap()
    };
    assert_eq!(figure("dosimeter_loop_iterations_total"), 1.0, "it ended before it came to wait");
    assert_eq!(figure("dosimeter_loop_turn_duration_seconds_count"), 1.0);
    let busy = figure("dosimeter_loop_busy_seconds_total");
    assert!((0.020..10.0).contains(&busy), "busy {busy} s");
    assert_eq!(figure("dosimeter_deferreds_abandoned_total"), 1.0, "what the last callback did");
    let crashed = self::reactor(Reactor::builder().name("crashed").signal_handlers(false), &registry);
    let crash = crashed.clone();
    crashed.call_soon(move || {
        spin(20);
        crash.crash().unwrap();
    });
    crashed.run().unwrap();
    let page = self::page(&registry);
    let busy =
        page.lines().find_map(|line| line.strip_prefix("dosimeter_loop_busy_seconds_total{reactor=\"crashed\"} "));
    assert!(busy.unwrap().parse::<f64>().unwrap() >= 0.020, "{page}");
}

#[test]
fn what_a_turn_by_hand_does_after_its_wait_is_counted_with_it() {
    let registry = Registry::new();
    let reactor = reactor(Reactor::builder(), &registry);
    let root = Leaf(|_| {
        spin(20);
        "x"
    });
    let server = Server::with_site(reactor, registry, Site::new(root));
    let (busy, turns) = ("dosimeter_loop_busy_seconds_total", "dosimeter_loop_iterations_total");
    let mut client = server.connect();
    server.until_quiet();
    let (busy_before, turns_before) = (server.figure(busy, &[]), server.figure(turns, &[]));
    client.send_request("GET", "/");
    server.reactor.turn(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(server.figure(turns, &[]), turns_before + 1.0);
    let spent = server.figure(busy, &[]) - busy_before;
    assert!((0.020..10.0).contains(&spent), "busy {spent} s");
}

#[test]
fn what_becomes_of_chains_is_counted_in_their_thread() {
    let registry = Registry::new();
    let reactor = reactor(Reactor::builder(), &registry);
    let figures = || {
        reactor.turn(Some(Duration::ZERO)).unwrap();
        let page = page(&registry);
        ["created", "fired", "failed", "cancelled", "abandoned", "unhandled_errors"].map(|name| {
            let start = format!("dosimeter_deferreds_{name}_total ");
            let line = page.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
            line.parse::<u32>().unwrap()
        })
    };
    let before = figures();
    let ends: [(Completer<()>, Deferred<()>); 4] = std::array::from_fn(|_| Deferred::pair());
    let [fired, failed, cancelled, abandoned] = ends;
    fired.0.callback(());
    failed.0.errback("unhandled");
    drop(failed.1);
    cancelled.1.cancel();
    cancelled.1.add_errback(|_| ());
    drop(abandoned.0);
    abandoned.1.add_errback(|_| ());
    let after = figures();
    let growth: Vec<u32> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(growth, [4, 1, 1, 1, 1, 1]);
}

// ---- several reactors -------------------------------------------------------------------------------

#[test]
fn reactors_with_names_are_told_apart_by_a_label() {
    let registry = Registry::new();
    let (one, two) = (server("one", &registry), server("two", &registry));
    one.get("/");
    two.get("/");
    two.get("/");
    for family in
        ["dosimeter_loop_iterations_total", "dosimeter_info", "http_server_connections", "http_server_requests_total"]
    {
        assert_eq!(reactors(&registry, family), ["one", "two"], "{family}");
    }
    let count = |name| one.figure("http_server_requests_total", &[("reactor", name)]);
    assert_eq!((count("one"), count("two")), (1.0, 2.0));
    let page = page(&registry);
    assert_eq!(page.matches("# TYPE dosimeter_info ").count(), 1, "a family is told once");
    expect_no_log();
}

#[test]
fn a_second_reactor_without_a_name_gets_a_number() {
    let registry = Registry::new();
    let (_one, _two, _three) = (server("", &registry), server("", &registry), server("", &registry));
    assert_eq!(reactors(&registry, "dosimeter_info"), ["", "2", "3"]);
    expect_no_log();
}

#[test]
fn all_figures_of_a_reactor_have_the_same_label() {
    let registry = Registry::new();
    let _first = reactor(Reactor::builder(), &registry);
    let second = server("", &registry);
    second.get("/");
    assert_eq!(reactors(&registry, "dosimeter_info"), ["", "2"]);
    assert_eq!(reactors(&registry, "http_server_requests_total"), ["2"], "it is the second reactor that has the site");
}

#[test]
fn two_reactors_of_one_name_are_told_of_and_both_work() {
    let registry = Registry::new();
    let (one, two) = (server("same", &registry), server("same", &registry));
    assert_eq!(one.get("/").text(), "x");
    assert_eq!(two.get("/").text(), "x");
    assert_eq!(reactors(&registry, "dosimeter_info"), ["same"]);
    let log = take_log();
    assert!(log.iter().all(|line| line.contains("\"same\"") && line.contains("name of its own")), "{log:?}");
    assert!(!log.is_empty());
}

#[test]
fn reactors_in_different_registries_do_not_meet() {
    let (here, there) = (Registry::new(), Registry::new());
    let (_one, _two) = (server("", &here), server("", &there));
    assert_eq!(reactors(&here, "dosimeter_info"), [""]);
    assert_eq!(reactors(&there, "dosimeter_info"), [""]);
    expect_no_log();
}

// ---- who waits for whom -----------------------------------------------------------------------------

/// A collector that says when it is asked and answers when it is told to.
struct Stuck {
    desc: Desc,
    asked: SyncSender<()>,
    released: Mutex<Receiver<()>>,
}

impl Collector for Stuck {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _ = self.asked.try_send(());
        // It is let go when its sender is dropped, whatever becomes of the test.
        let _ = self.released.lock().unwrap().recv();
        Vec::new()
    }
}

#[test]
fn a_site_is_put_to_use_while_a_collector_hangs_and_the_loop_goes_on() {
    let registry = Registry::new();
    let reactor = reactor(Reactor::builder(), &registry);
    let (asked, is_asked) = sync_channel(1);
    let (release, released) = sync_channel(1);
    let desc = Desc::new("stuck".to_owned(), "x".to_owned(), Vec::new(), Default::default()).unwrap();
    registry.register(Box::new(Stuck { desc, asked, released: Mutex::new(released) })).unwrap();
    let gathering = std::thread::spawn({
        let registry = registry.clone();
        move || registry.gather().len()
    });
    is_asked.recv().unwrap();
    // Whoever waited for the gathering would wait for ever: it ends the test instead, and is seen to have waited.
    let (loop_is_done, is_done) = sync_channel::<()>(1);
    let watchdog = std::thread::spawn(move || {
        let in_time = is_done.recv_timeout(Duration::from_secs(20)).is_ok();
        drop(release);
        in_time
    });
    let root = Branch::new();
    root.put_child("metrics", MetricsResource::with_registry(Registry::new()));
    root.put_child("x", Leaf(|_| "x"));
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let addr = reactor.listen_tcp(loopback, Site::new(root)).unwrap().local_addr();
    let server = Server { reactor, registry, addr };
    assert_eq!(server.get("/x").text(), "x");
    assert_eq!(server.get("/metrics").status, 200, "a page of another registry");
    assert!(!gathering.is_finished());
    loop_is_done.send(()).unwrap();
    assert!(watchdog.join().unwrap(), "the loop has waited for the collector");
    gathering.join().unwrap();
    assert_eq!(server.figure("http_server_requests_total", &[]), 2.0, "and what it counted meanwhile is told");
    assert!(server.figure("metrics_series", &[]) >= 0.0);
    assert!(page(&server.registry).contains("# TYPE metrics_render_bytes gauge\n"));
}

#[test]
fn the_names_of_our_figures_are_taken_before_they_are_needed() {
    let registry = Registry::new();
    let reactor = reactor(Reactor::builder(), &registry);
    for name in ["http_server_requests_total", "metrics_series", "dosimeter_sources"] {
        let counter = IntCounter::new(name, "of the program").unwrap();
        assert!(registry.register(Box::new(counter)).is_err(), "{name}");
    }
    drop(reactor);
}

#[test]
fn a_metric_of_the_program_with_the_name_of_one_of_ours_costs_that_group_and_is_told_of() {
    let registry = Registry::new();
    let counter = IntCounter::new("http_server_requests_total", "of the program").unwrap();
    registry.register(Box::new(counter)).unwrap();
    let silent = reactor(Reactor::builder(), &registry);
    expect_no_log();
    drop(silent);
    let server = server("", &registry);
    assert_eq!(server.get("/").text(), "x");
    let log = take_log();
    assert!(log.len() == 1 && log[0].contains("are not exported"), "{log:?}");
    let page = page(&registry);
    assert!(page.contains("\nhttp_server_requests_total 0\n"), "it is that of the program:\n{page}");
    assert!(!page.contains("http_server_connections") && page.contains("dosimeter_sources"), "{page}");
}

// ---- coming and going -------------------------------------------------------------------------------

#[test]
fn the_figures_of_a_reactor_go_with_it() {
    let registry = Registry::new();
    for name in ["", "named"] {
        for _ in 0..3 {
            let reactor = reactor(Reactor::builder().name(name), &registry);
            assert_eq!(reactors(&registry, "dosimeter_info"), [name]);
            let clone = reactor.clone();
            drop(reactor);
            assert_eq!(reactors(&registry, "dosimeter_info"), [name], "a clone is the same reactor");
            drop(clone);
            assert!(registry.gather().is_empty());
        }
    }
    expect_no_log();
}

#[test]
fn the_figures_of_a_reactor_that_was_run_go_with_it() {
    let registry = Registry::new();
    let reactor = Reactor::builder().metrics(registry.clone()).signal_handlers(false).build().unwrap();
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let root = Leaf(|request: Request| {
        request.reactor().stop().unwrap();
        "x"
    });
    let addr = reactor.listen_tcp(loopback, Site::new(root)).unwrap().local_addr();
    let client = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(addr).unwrap();
        socket.write_all(request("GET", "/").as_bytes()).unwrap();
        socket.read_to_end(&mut Vec::new()).unwrap();
    });
    reactor.run().unwrap();
    client.join().unwrap();
    assert_eq!(reactors(&registry, "http_server_connections"), [""], "what it has counted can still be read");
    assert_eq!(page(&registry).matches("\nhttp_server_connections 0\n").count(), 1);
    drop(reactor);
    assert!(registry.gather().is_empty());
}

#[test]
fn a_reactor_that_publishes_nothing_works_as_well() {
    let reactor = Reactor::builder().metrics(Metrics::Off).build().unwrap();
    reactor.call_soon(|| ());
    reactor.turn(Some(Duration::ZERO)).unwrap();
    let ours =
        |family: &MetricFamily| family.name().starts_with("dosimeter") || family.name().starts_with("http_server");
    assert!(!dosimeter::prometheus::gather().iter().any(ours));
}

#[test]
fn a_user_may_have_metrics_of_the_same_kind_beside_ours() {
    let registry = Registry::new();
    let counter = IntCounter::new("inbound_requests_total", "x").unwrap();
    registry.register(Box::new(counter.clone())).unwrap();
    let server = server("", &registry);
    server.get("/");
    counter.inc();
    assert_eq!(counter.desc().len(), 1);
    assert!(page(&registry).contains("\ninbound_requests_total 1\n"));
}

#[test]
fn a_prefix_and_labels_of_the_registry_hold_for_ours_too() {
    let labels = [("zone".to_owned(), "a".to_owned())].into();
    let registry = Registry::new_custom(Some("app".to_owned()), Some(labels)).unwrap();
    let _reactor = reactor(Reactor::builder(), &registry);
    assert!(page(&registry).contains("\napp_dosimeter_timers_pending{zone=\"a\"} 0\n"));
}

#[test]
fn a_scrape_sees_the_figures_of_the_loop_that_serves_it() {
    let registry = Registry::new();
    let reactor = reactor(Reactor::builder(), &registry);
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let port = reactor.listen_tcp(loopback, Site::new(MetricsResource::with_registry(registry.clone()))).unwrap();
    let server = Server { reactor, registry, addr: port.local_addr() };
    let reply = server.get("/");
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(reply.text().contains("\nhttp_server_requests_in_progress 1\n"), "the scrape itself:\n{}", reply.text());
    assert!(reply.text().contains("\nhttp_server_connections 1\n"));
    assert_eq!(server.ask("HEAD", "/").status, 200);
}
