//! `/metrics` over a socket: formats, filter, methods, and what slow, stuck and panicking collectors cost.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use dosimeter::prometheus::core::{Collector, Desc};
use dosimeter::prometheus::proto::MetricFamily;
use dosimeter::prometheus::{self, Histogram, HistogramOpts, IntCounter, IntGauge, IntGaugeVec, Opts, Registry};
use dosimeter::testing::success_result_of;
use dosimeter::web::{Render, Request, Router, Site};
use dosimeter::{Metrics, MetricsResource, Reactor, exposition};
use support::{Client, Leaf, Reply, Server, expect_log, expect_no_log, take_log};

// ---- formats and methods ----------------------------------------------------------------------------

#[test]
fn the_format_is_the_one_that_is_preferred() {
    let (server, _registry) = three_families();
    let text = server.get("/");
    assert_eq!(text.header("content-type"), Some(exposition::text::CONTENT_TYPE));
    assert!(text.text().contains("# TYPE jobs_total counter\njobs_total 7\n"), "{}", text.text());
    let openmetrics = get(&server, "/", "Accept: text/plain;q=0.5\r\nAccept: application/openmetrics-text\r\n");
    assert_eq!(openmetrics.header("content-type"), Some(exposition::openmetrics::CONTENT_TYPE));
    assert!(openmetrics.text().contains("# TYPE jobs counter\njobs_total 7\n"), "{}", openmetrics.text());
    assert!(openmetrics.text().ends_with("\n# EOF\n"));
    for reply in [text, openmetrics] {
        assert_eq!((reply.status, reply.header("vary")), (200, Some("Accept")));
    }
    expect_no_log();
}

#[test]
fn nothing_of_the_request_comes_back_in_the_head() {
    let (server, _registry) = three_families();
    let accept = "Accept: application/openmetrics-text;version=1.0.0;escaping=marker-a, text/marker-b;q=0.1\r\n";
    let reply = get(&server, "/?name%5B%5D=marker-c", accept);
    assert!(!format!("{:?}", reply.fields).contains("marker"), "{:?}", reply.fields);
}

#[test]
fn head_is_get_without_the_body() {
    let (server, _registry) = three_families();
    let (head, got) = (server.ask("HEAD", "/"), server.get("/"));
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["content-type", "content-length", "vary"] {
        assert_eq!(head.header(name), got.header(name), "{name}");
    }
}

#[test]
fn options_and_refusals_name_the_methods() {
    let (server, _registry) = three_families();
    let options = server.ask("OPTIONS", "/metrics");
    assert_eq!((options.status, options.header("allow")), (204, Some("GET, HEAD, OPTIONS")));
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let refusal = server.ask(method, "/");
        assert_eq!((refusal.status, refusal.header("allow")), (405, Some("GET, HEAD, OPTIONS")), "{method}");
    }
}

#[test]
fn every_path_below_is_the_same_page() {
    let (server, _registry) = three_families();
    assert_eq!(server.get("/any/where").body, server.get("/").body);
}

// ---- the filter -------------------------------------------------------------------------------------

#[test]
fn names_leave_only_their_families() {
    let (server, _registry) = three_families();
    for (query, kept) in [
        ("", &["jobs_total", "queue", "wait_seconds"][..]),
        ("?name[]=queue", &["queue"]),
        ("?name%5B%5D=queue", &["queue"]),
        ("?name%5b%5d=%71ueue", &["queue"]),
        ("?a=b&name[]=queue&name[]=jobs_total", &["jobs_total", "queue"]),
        ("?name[]=wait_seconds", &["wait_seconds"]),
        ("?name[]=wait_seconds_bucket", &["wait_seconds"]),
        ("?name[]=wait_seconds_count&name[]=wait_seconds_sum", &["wait_seconds"]),
        ("?name[]=queue&name[]=unknown", &["queue"]),
        ("?name[]=unknown", &[]),
        ("?name[]=queue_count", &[]),
        ("?name[]=que", &[]),
        // No names, and other arguments.
        ("?name[]=", &["jobs_total", "queue", "wait_seconds"]),
        ("?name[]&name=queue&names[]=queue", &["jobs_total", "queue", "wait_seconds"]),
    ] {
        let reply = server.get(&format!("/{query}"));
        let types = reply.text().lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names: Vec<&str> = types.map(|line| line.split_once(' ').unwrap().0).collect();
        assert_eq!((reply.status, &names[..]), (200, kept), "{query}");
    }
    let nothing = get(&server, "/?name[]=unknown", "Accept: application/openmetrics-text\r\n");
    assert_eq!(nothing.brief(), (200, "# EOF\n"));
}

// ---- scrapes at the same time -----------------------------------------------------------------------

#[test]
fn scrapes_at_the_same_time_share_one_page() {
    let registry = Registry::new();
    let server = Server::new(MetricsResource::with_registry(registry.clone()));
    let collector = Gated::new(&registry, "gated");
    let clients = ask_at_once(&server, 5, |_| ("/".into(), String::new()));
    collector.open();
    let pages = replies(clients);
    assert_eq!(collector.collections(), 1);
    for page in &pages {
        assert_eq!(page.brief(), (200, "# HELP gated x\n# TYPE gated gauge\ngated 1\n"));
    }
    assert!(server.get("/").text().ends_with("gated 2\n"), "what comes later is told anew");
    assert_eq!(collector.collections(), 2);
    expect_no_log();
}

#[test]
fn resources_made_for_each_request_share_the_page_of_the_default_registry() {
    let app = Router::new();
    app.route("/metrics", |_| MetricsResource::new());
    let server = Server::new(app);
    let collector = Gated::new(prometheus::default_registry(), "gated_by_default");
    let clients = ask_at_once(&server, 3, |_| ("/metrics?name[]=gated_by_default".into(), String::new()));
    collector.open();
    for reply in replies(clients) {
        assert!(reply.text().ends_with("\ngated_by_default 1\n"), "{}", reply.text());
    }
    assert_eq!(collector.collections(), 1);
}

#[test]
fn clones_of_a_resource_share_a_page() {
    let registry = Registry::new();
    let resource = MetricsResource::with_registry(registry.clone());
    let server = Server::new(Leaf(move |_| resource.clone()));
    let collector = Gated::new(&registry, "gated");
    let clients = ask_at_once(&server, 3, |_| ("/".into(), String::new()));
    collector.open();
    replies(clients);
    assert_eq!(collector.collections(), 1);
}

#[test]
fn names_in_another_order_or_twice_are_the_same_page() {
    let registry = Registry::new();
    let server = Server::new(MetricsResource::with_registry(registry.clone()));
    let collector = Gated::new(&registry, "gated");
    let queries = ["name[]=a&name[]=gated", "name[]=gated&name[]=a", "name[]=a&name[]=gated&name[]=&name[]=a"];
    let clients = ask_at_once(&server, 3, |at| (format!("/?{}", queries[at]), String::new()));
    collector.open();
    assert!(replies(clients).iter().all(|reply| reply.text().ends_with("\ngated 1\n")));
    assert_eq!(collector.collections(), 1);
}

#[test]
fn pages_that_differ_are_not_shared() {
    let registry = Registry::new();
    let server = Server::new(MetricsResource::with_registry(registry.clone()));
    let collector = Gated::new(&registry, "gated");
    let wishes =
        [("/", ""), ("/", "Accept: application/openmetrics-text\r\n"), ("/?name[]=gated", ""), ("/?name[]=x", "")];
    let clients = ask_at_once(&server, 4, |at| (wishes[at].0.into(), wishes[at].1.into()));
    server.until_true("all are being made", || collector.collections() == 4);
    collector.open();
    let bodies: Vec<usize> = replies(clients).iter().map(|reply| reply.text().lines().count()).collect();
    assert_eq!(bodies, [3, 4, 3, 0]);
}

#[test]
fn resources_of_different_registries_never_share() {
    let registries = [Registry::new(), Registry::new()];
    let resources = registries.clone().map(MetricsResource::with_registry);
    let server = Server::new(Leaf(move |request: Request| resources[usize::from(request.path() == "/1")].clone()));
    let gates = [Gated::new(&registries[0], "zero"), Gated::new(&registries[1], "one")];
    let clients = ask_at_once(&server, 2, |at| (format!("/{at}"), String::new()));
    gates.iter().for_each(Gated::open);
    let pages = replies(clients);
    assert!(pages[0].text().ends_with("\nzero 1\n") && pages[1].text().ends_with("\none 1\n"), "{pages:?}");
}

// ---- slow and stuck collectors ----------------------------------------------------------------------

#[test]
fn other_requests_are_answered_while_a_collector_is_stuck() {
    let registry = Registry::new();
    let resource = MetricsResource::with_registry(registry.clone());
    let server = Server::new(Leaf(move |request: Request| match request.path() {
        "/metrics" => Render::from(resource.clone()),
        _ => "hello".into(),
    }));
    let collector = Gated::new(&registry, "gated");
    let scrapes = ask_at_once(&server, 20, |_| ("/metrics".into(), String::new()));
    assert_eq!(server.get("/").text(), "hello");
    collector.open();
    assert!(replies(scrapes).iter().all(|reply| reply.status == 200));
}

#[test]
fn a_scrape_is_answered_before_its_time_is_over() {
    let registry = Registry::new();
    let server = Server::new(MetricsResource::with_registry(registry.clone()));
    let collector = Gated::new(&registry, "gated");
    let patient = ask_at_once(&server, 1, |_| ("/".into(), String::new()));
    let late = get(&server, "/", "X-Prometheus-Scrape-Timeout-Seconds: 0.05\r\n");
    assert_eq!(late.brief(), (503, "The metrics could not be collected in time.\n"));
    expect_log(&["WARN dosimeter::metrics", "a scrape was given up", "45ms"]);
    collector.open();
    assert_eq!(replies(patient)[0].status, 200, "who has more time gets the page");
    assert_eq!(get(&server, "/", "X-Prometheus-Scrape-Timeout-Seconds: 10\r\n").status, 200);
    expect_no_log();
}

#[test]
fn a_timeout_that_is_no_time_is_ignored() {
    let (server, _registry) = three_families();
    for value in ["", "soon", "0", "-1", "NaN", "inf", "1e300", "\u{e9}"] {
        let reply = get(&server, "/", &format!("X-Prometheus-Scrape-Timeout-Seconds: {value}\r\n"));
        assert_eq!(reply.status, 200, "{value:?}");
    }
    expect_no_log();
}

/// The loop and its clients are not to wait for the processor that a page is made on.
#[cfg(target_os = "linux")]
#[test]
fn who_gathers_gives_way_and_the_jobs_after_it_do_not() {
    /// Which priority its thread has when it is collected.
    struct Priority(IntGauge);

    impl Collector for Priority {
        fn desc(&self) -> Vec<&Desc> {
            self.0.desc()
        }

        fn collect(&self) -> Vec<MetricFamily> {
            self.0.set(niceness());
            self.0.collect()
        }
    }

    /// The 19th field of what Linux tells of the thread, which is the 17th behind its name.
    fn niceness() -> i64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_ascii_whitespace().nth(16).unwrap().parse().unwrap()
    }

    let registry = Registry::new();
    let gauge = IntGauge::new("niceness", "x").unwrap();
    registry.register(Box::new(Priority(gauge))).unwrap();
    let server = Server::new(MetricsResource::with_registry(registry));
    let usual = niceness();
    let given_way = (usual + 10).min(19);
    assert!(server.get("/").text().ends_with(&format!("\nniceness {given_way}\n")));
    // The pool has one thread so far, and it is free.
    let job = server.reactor.defer_to_thread(|| Ok(niceness()));
    server.until_true("the job is done", || job.is_fired());
    assert_eq!(success_result_of(job), usual);
}

#[test]
fn stuck_collectors_leave_threads_to_the_program() {
    let registry = Registry::new();
    let server = Server::new(MetricsResource::with_registry(registry.clone()));
    let collector = Gated::new(&registry, "gated");
    let clients = ask_at_once(&server, 12, |at| (format!("/?name[]=gated&name[]={at}"), String::new()));
    server.until_true("some are being made", || collector.collections() >= 4);
    let job = server.reactor.defer_to_thread(|| Ok(()));
    server.until_true("the program's job is done", || job.is_fired());
    assert_eq!(collector.collections(), 4);
    collector.open();
    assert!(replies(clients).iter().all(|reply| reply.status == 200));
    assert_eq!(collector.collections(), 12, "those that waited had their turn");
}

#[test]
fn a_page_that_nobody_waits_for_is_not_begun() {
    let registry = Registry::new();
    let server = Server::new(MetricsResource::with_registry(registry.clone()));
    let collector = Gated::new(&registry, "gated");
    let mut clients = ask_at_once(&server, 9, |at| (format!("/?name[]={at}"), String::new()));
    for client in clients.drain(4..) {
        client.reset();
    }
    server.until_true("the server knows who left", || server.in_progress() == 4.0);
    clients.extend(ask_at_once(&server, 1, |_| ("/".into(), String::new())));
    collector.open();
    replies(clients);
    assert_eq!(collector.collections(), 5);
    expect_no_log();
}

#[test]
fn a_scraper_that_leaves_takes_nothing_from_the_others() {
    let registry = Registry::new();
    let server = Server::new(MetricsResource::with_registry(registry.clone()));
    let collector = Gated::new(&registry, "gated");
    let mut clients = ask_at_once(&server, 3, |_| ("/".into(), String::new()));
    clients.remove(0).reset();
    server.until_true("the server knows", || server.in_progress() == 2.0);
    collector.open();
    assert!(replies(clients).iter().all(|reply| reply.status == 200));
    assert_eq!(server.in_progress(), 0.0);
    expect_no_log();
}

#[test]
fn a_reactor_that_ends_while_a_page_is_being_made_keeps_nothing() {
    let registry = Registry::new();
    let server = Server::new(MetricsResource::with_registry(registry.clone()));
    let collector = Gated::new(&registry, "gated");
    let waiting = ask_at_once(&server, 6, |at| (format!("/?name[]={}", at % 5), String::new()));
    server.until_true("some are being made", || collector.collections() == 4);
    // The end waits for the threads, and with it this one.
    collector.open();
    let over = server.reactor.shut_down();
    assert!(over.is_fired());
    drop(waiting);
    let Server { reactor, registry: _, addr: _ } = server;
    let weak = reactor.downgrade();
    drop((over, reactor));
    assert!(weak.upgrade().is_none(), "a page holds what waits for it, which holds the reactor");
}

// ---- collectors that panic --------------------------------------------------------------------------

#[test]
fn a_collector_that_panics_costs_its_scrapes_and_is_told_of_once() {
    let registry = Registry::new();
    let server = Server::new(MetricsResource::with_registry(registry.clone()));
    let collector = Gated::panicking_first(&registry, "gated");
    let clients = ask_at_once(&server, 3, |_| ("/".into(), String::new()));
    collector.open();
    for reply in replies(clients) {
        assert_eq!(reply.status, 500);
        assert!(!reply.text().contains("out of order"), "{}", reply.text());
    }
    expect_log(&["ERROR dosimeter::metrics", "metrics could not be collected", "the collector is out of order"]);
    assert_eq!(server.get("/").brief(), (200, "# HELP gated x\n# TYPE gated gauge\ngated 2\n"));
    expect_no_log();
}

#[test]
fn a_registry_that_panics_costs_its_own_families() {
    let (broken, whole) = (Registry::new(), Registry::new());
    whole.register(Box::new(IntGauge::new("queue", "x").unwrap())).unwrap();
    let server = Server::new(MetricsResource::with_registries([broken.clone(), whole]));
    let _collector = Gated::panicking_first(&broken, "gated").opened();
    assert_eq!(server.get("/").brief(), (200, "# HELP queue x\n# TYPE queue gauge\nqueue 0\n"));
    expect_log(&["ERROR dosimeter::metrics", "metrics could not be collected", "the collector is out of order"]);
    assert_eq!(server.figure("metrics_render_errors_total", &[]), 1.0);
    assert!(server.get("/").text().contains("\ngated 2\n"));
    assert_eq!(server.figure("metrics_render_errors_total", &[]), 1.0);
    expect_no_log();
}

#[test]
fn an_isolated_collector_that_hangs_or_registers_holds_up_neither_scrape_nor_loop() {
    let registry = Registry::new();
    registry.register(Box::new(IntGauge::new("queue", "x").unwrap())).unwrap();
    let (calls, within) = (AtomicUsize::new(0), registry.clone());
    let register = move || {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            within.register(Box::new(IntGauge::new("made_inside", "x").unwrap())).unwrap();
        }
    };
    let gated = Gated::with_hook(&Registry::new(), "gated", register).opened();
    let collector = exposition::isolate("gated", gated.collector.clone()).unwrap();
    registry.register(Box::new(collector.with_patience(Duration::from_millis(20)))).unwrap();
    let resource = MetricsResource::with_registry(registry.clone());
    let server = Server::new(Leaf(move |request: Request| match request.path() {
        "/metrics" => Render::from(resource.clone()),
        _ => "hello".into(),
    }));
    let scrapes = ask_at_once(&server, 3, |_| ("/metrics".into(), String::new()));
    assert_eq!(server.get("/").text(), "hello");
    for reply in replies(scrapes) {
        assert!(reply.status == 200 && reply.text().contains("\nqueue 0\n"), "{}", reply.text());
    }
    server.until_true("it is back", || server.get("/metrics").text().contains("\ngated "));
    assert!(server.get("/metrics").text().contains("\nmade_inside 0\n"));
}

#[test]
fn isolated_collectors_that_hang_together_cost_a_page_the_time_of_one() {
    // As they do when all of them read from a disk that is gone.
    let patience = Duration::from_millis(500);
    let (registry, other) = (Registry::new(), Registry::new());
    let hanging: Vec<_> = (0..8).map(|number| Gated::new(&Registry::new(), &format!("stuck_{number}"))).collect();
    let well = Gated::new(&Registry::new(), "well").opened();
    for (number, gated) in hanging.iter().chain([&well]).enumerate() {
        let collector = exposition::isolate(&number.to_string(), gated.collector.clone()).unwrap();
        let registry = if number % 2 == 0 { &registry } else { &other };
        registry.register(Box::new(collector.with_patience(patience))).unwrap();
    }
    let server = Server::new(MetricsResource::with_registries([registry, other]));
    let begun = Instant::now();
    let page = server.get("/").text().to_owned();
    assert!(begun.elapsed() < 5 * patience, "{:?}", begun.elapsed());
    assert!(page.contains("\nwell ") && !page.contains("\nstuck_"), "{page}");
    assert_eq!(
        page.lines().filter(|line| line.starts_with("metrics_collector_errors_total{") && line.ends_with(" 1")).count(),
        8,
        "{page}"
    );
}

#[test]
fn registries_on_one_page_share_their_families() {
    let (one, other) = (Registry::new(), Registry::new());
    for (registry, label) in [(&one, "a"), (&other, "b")] {
        let jobs = IntCounter::with_opts(Opts::new("jobs_total", "x").const_label("of", label)).unwrap();
        registry.register(Box::new(jobs)).unwrap();
    }
    other.register(Box::new(IntGauge::new("alone", "x").unwrap())).unwrap();
    one.register(Box::new(IntGauge::new("torn", "x").unwrap())).unwrap();
    other.register(Box::new(IntCounter::new("torn", "x").unwrap())).unwrap();
    let server = Server::new(MetricsResource::with_registries([one, other]));
    let page = "# HELP alone x\n# TYPE alone gauge\nalone 0\n\
                # HELP jobs_total x\n# TYPE jobs_total counter\njobs_total{of=\"a\"} 0\njobs_total{of=\"b\"} 0\n\
                # HELP torn x\n# TYPE torn gauge\ntorn 0\n";
    assert_eq!(server.get("/").brief(), (200, page));
    expect_log(&["ERROR dosimeter::metrics", "\"torn\" is of two types"]);
}

#[test]
fn a_series_stands_on_a_page_once_though_several_registries_have_it() {
    let (one, other) = (Registry::new(), Registry::new());
    for (registry, value) in [(&one, 1), (&other, 2)] {
        let jobs = IntGaugeVec::new(Opts::new("jobs", "x"), &["of", "by"]).unwrap();
        registry.register(Box::new(jobs.clone())).unwrap();
        jobs.with_label_values(&["a", "b"]).set(value);
        jobs.with_label_values(&["b", &value.to_string()]).set(value);
    }
    let both = MetricsResource::with_registries([one.clone(), other]);
    let page = "# HELP jobs x\n# TYPE jobs gauge\n\
                jobs{by=\"1\",of=\"b\"} 1\njobs{by=\"b\",of=\"a\"} 1\njobs{by=\"2\",of=\"b\"} 2\n";
    assert_eq!(Server::new(both).get("/").brief(), (200, page));
    expect_log(&["ERROR dosimeter::metrics", "1 series of \"jobs\" are in two registries"]);
    let twice = Server::new(MetricsResource::with_registries([one.clone(), one.clone()]));
    let mut once = Vec::new();
    exposition::text::encode(&one.gather(), &mut once);
    assert_eq!(twice.get("/").body, once);
    expect_log(&["ERROR dosimeter::metrics", "2 series of \"jobs\" are in two registries"]);
}

#[test]
fn a_reactor_that_publishes_nothing_serves_metrics_all_the_same() {
    let registry = Registry::new();
    registry.register(Box::new(IntGauge::new("queue", "x").unwrap())).unwrap();
    let reactor = Reactor::builder().metrics(Metrics::Off).build().unwrap();
    let site = Site::new(MetricsResource::with_registry(registry.clone()));
    let server = Server::with_site(reactor, registry, site);
    for _ in 0..2 {
        assert_eq!(server.get("/").brief(), (200, "# HELP queue x\n# TYPE queue gauge\nqueue 0\n"));
    }
    expect_no_log();
}

#[test]
fn no_registries_are_an_empty_page() {
    let server = Server::new(MetricsResource::with_registries([]));
    assert_eq!(server.get("/").brief(), (200, ""));
}

#[test]
fn what_a_scrape_costs_is_told_with_the_figures_of_the_reactor() {
    let (server, _registry) = three_families();
    assert_eq!(server.figure("metrics_series", &[]), 0.0);
    let page = server.get("/");
    assert_eq!(server.figure("metrics_series", &[]), 3.0);
    assert_eq!(server.figure("metrics_render_bytes", &[]), page.body.len() as f64);
    assert!(server.figure("metrics_render_duration_seconds", &[]) > 0.0);
    server.get("/?name[]=queue");
    assert_eq!(server.figure("metrics_series", &[]), 1.0);
    expect_no_log();
}

// ---- large pages ------------------------------------------------------------------------------------

#[test]
fn a_large_page_comes_whole() {
    let (server, registry) = three_families();
    let wide = IntGaugeVec::new(Opts::new("wide", "x"), &["at"]).unwrap();
    registry.register(Box::new(wide.clone())).unwrap();
    for at in 0..20_000 {
        wide.with_label_values(&[&format!("{at:0>20}")]).set(at);
    }
    let reply = server.get("/");
    assert!(reply.body.len() > 500_000, "{}", reply.body.len());
    assert_eq!(reply.header("content-length"), Some(&*reply.body.len().to_string()));
    assert_eq!(reply.header("content-type"), Some(exposition::text::CONTENT_TYPE));
    assert_eq!(reply.header("vary"), Some("Accept"));
    let mut expected = Vec::new();
    exposition::text::encode(&registry.gather(), &mut expected);
    assert!(reply.body == expected, "another page");
    let head = server.ask("HEAD", "/");
    assert_eq!((head.body.len(), head.header("content-length")), (0, reply.header("content-length")));
    let mut client = server.connect();
    client.send_request("GET", "/");
    server.until_true("the page is on its way", || !client.received().is_empty());
    client.reset();
    server.until_true("the server has noticed", || server.in_progress() == 0.0);
    expect_no_log();
}

#[test]
fn metrics_can_be_made_and_touched_inside_a_collector() {
    let registry = Registry::new();
    let server = Server::new(MetricsResource::with_registry(registry.clone()));
    let counter = IntCounter::new("touched_total", "x").unwrap();
    registry.register(Box::new(counter.clone())).unwrap();
    let touch = move || {
        counter.inc();
        IntGauge::new("made_inside", "x").unwrap().set(1);
    };
    let _collector = Gated::with_hook(&registry, "gated", touch).opened();
    server.get("/");
    let reply = server.get("/");
    assert_eq!(reply.status, 200);
    assert!(take_log().is_empty());
}

// ---- below ------------------------------------------------------------------------------------------

/// A counter, a gauge and a histogram, served from the root.
fn three_families() -> (Server, Registry) {
    let registry = Registry::new();
    let jobs = IntCounter::new("jobs_total", "x").unwrap();
    jobs.inc_by(7);
    registry.register(Box::new(jobs)).unwrap();
    registry.register(Box::new(IntGauge::new("queue", "x").unwrap())).unwrap();
    let wait = HistogramOpts::new("wait_seconds", "x");
    registry.register(Box::new(Histogram::with_opts(wait).unwrap())).unwrap();
    (Server::new(MetricsResource::with_registry(registry.clone())), registry)
}

/// `GET` with further fields, on a connection of its own.
#[track_caller]
fn get(server: &Server, target: &str, fields: &str) -> Reply {
    let mut client = server.connect();
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.reply()
}

/// So many scrapes, begun in order and all being handled; `wish` gives target and further fields of each.
#[track_caller]
fn ask_at_once(server: &Server, count: usize, wish: impl Fn(usize) -> (String, String)) -> Vec<Client<'_>> {
    let before = server.in_progress();
    let ask = |at| {
        let (target, fields) = wish(at);
        let mut client = server.connect();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        // One after the other: which of two connections is read first is up to the system.
        server.until_true("the scrape is being handled", || server.in_progress() == before + at as f64 + 1.0);
        client
    };
    (0..count).map(ask).collect()
}

#[track_caller]
fn replies(clients: Vec<Client<'_>>) -> Vec<Reply> {
    clients.into_iter().map(|mut client| client.reply()).collect()
}

/// A gauge that counts how often it was collected, once the gate is open. Dropping this opens it and takes the gauge out, so
/// that a test that fails leaves no thread stuck.
struct Gated {
    registry: Registry,
    collector: Collecting,
}

#[derive(Clone)]
struct Collecting {
    gauge: IntGauge,
    collections: Arc<AtomicUsize>,
    gate: Arc<(Mutex<bool>, Condvar)>,
    hook: Arc<dyn Fn() + Send + Sync>,
}

impl Gated {
    fn new(registry: &Registry, name: &str) -> Self {
        Gated::with_hook(registry, name, || ())
    }

    fn panicking_first(registry: &Registry, name: &str) -> Self {
        let calls = AtomicUsize::new(0);
        Gated::with_hook(registry, name, move || {
            assert!(calls.fetch_add(1, Ordering::Relaxed) > 0, "the collector is out of order");
        })
    }

    fn with_hook(registry: &Registry, name: &str, hook: impl Fn() + Send + Sync + 'static) -> Self {
        let gauge = IntGauge::new(name, "x").unwrap();
        let collector = Collecting { gauge, collections: Arc::default(), gate: Arc::default(), hook: Arc::new(hook) };
        registry.register(Box::new(collector.clone())).unwrap();
        Gated { registry: registry.clone(), collector }
    }

    /// How often it was asked, also if it has not answered.
    fn collections(&self) -> usize {
        self.collector.collections.load(Ordering::SeqCst)
    }

    fn open(&self) {
        *self.collector.gate.0.lock().unwrap() = true;
        self.collector.gate.1.notify_all();
    }

    fn opened(self) -> Self {
        self.open();
        self
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        self.open();
        let _ = self.registry.unregister(Box::new(self.collector.clone()));
    }
}

impl Collector for Collecting {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let count = self.collections.fetch_add(1, Ordering::SeqCst) + 1;
        let (open, opened) = &*self.gate;
        drop(opened.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
        (self.hook)();
        self.gauge.set(count as i64);
        self.gauge.collect()
    }
}
