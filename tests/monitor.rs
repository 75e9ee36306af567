//! A monitor, asked over a socket while its reactor turns, waits, is stuck, or has ended.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use dosimeter::net::CannotListen;
use dosimeter::prometheus::Registry;
use dosimeter::web::{Branch, Drain, Site};
use dosimeter::{Builder, Monitor, Reactor};

/// A builder whose figures nobody else sees and that leaves signals alone.
fn builder(registry: &Registry) -> Builder {
    Reactor::builder().metrics(registry.clone()).signal_handlers(false)
}

fn reactor() -> Reactor {
    builder(&Registry::new()).build().expect("descriptors")
}

fn addr(monitor: &Monitor) -> SocketAddr {
    monitor.local_addr().to_string().parse().expect("an address of TCP")
}

/// Asks from this thread, which blocks: the monitor is in another one.
fn ask(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(addr).expect("the monitor listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: monitor\r\nConnection: close\r\n\r\n").expect("connected");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (status, answer.split_once("\r\n\r\n").expect("a head").1.to_owned())
}

#[track_caller]
fn wait_for_status(addr: SocketAddr, path: &str, status: u16) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (came, body) = ask(addr, path);
        if came == status {
            return body;
        }
        assert!(Instant::now() < deadline, "{path} is still {came}: {body}");
        thread::yield_now();
    }
}

#[test]
fn it_answers_while_the_loop_is_stuck_and_says_so() {
    let (tell, told) = mpsc::channel();
    let stuck = Arc::new(AtomicBool::new(false));
    let seen_stuck = stuck.clone();
    let runner = thread::spawn(move || {
        let reactor = builder(&Registry::new()).build().expect("descriptors");
        let monitor = Monitor::spawn("127.0.0.1:0", &reactor).expect("a free port");
        monitor.set_limit(Duration::from_secs(2));
        tell.send((addr(&monitor), reactor.remote())).expect("the test is there");
        reactor.run()
    });
    let (addr, remote) = told.recv().expect("it is set up");
    wait_for_status(addr, "/healthz", 200);
    stuck.store(true, Ordering::Relaxed);
    remote
        .call_from_thread(move |_| {
            while seen_stuck.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        })
        .expect("it runs");
    let body = wait_for_status(addr, "/healthz", 503);
    assert!(body.starts_with("stuck: the loop has not turned for "), "{body}");
    assert_eq!(ask(addr, "/readyz").0, 503);
    let stalls = ask(addr, "/stalls").1;
    assert!(stalls.contains("held up"), "{stalls}");
    assert!(stalls.contains("\nrunning: thread (tests/monitor.rs:"), "{stalls}");
    assert_eq!(ask(addr, "/dashboard/slow").0, 200);
    let metrics = ask(addr, "/metrics").1;
    assert!(metrics.contains("\ndosimeter_loop_iterations_total "), "{metrics}");
    assert!(metrics.contains("\ndosimeter_loop_iterations_total{reactor=\"monitor\"} "), "{metrics}");
    stuck.store(false, Ordering::Relaxed);
    wait_for_status(addr, "/healthz", 200);
    assert_eq!(ask(addr, "/readyz").0, 200);
    let stalls = ask(addr, "/stalls").1;
    assert!(stalls.contains("\nslow: thread (tests/monitor.rs:"), "{stalls}");
    remote.call_from_thread(|reactor| reactor.stop().expect("it runs")).expect("it runs");
    runner.join().expect("no panic").expect("a clean end");
    TcpStream::connect(addr).expect_err("the monitor has ended with its reactor");
}

#[test]
fn a_loop_without_work_is_woken_for_its_beat() {
    let reactor = reactor();
    let _monitor = Monitor::spawn("127.0.0.1:0", &reactor).expect("a free port");
    for _ in 0..2 {
        // Without a beat to come this would wait for ever.
        reactor.turn(None).expect("a turn");
    }
}

#[test]
fn a_loop_that_was_never_run_is_not_well() {
    let reactor = reactor();
    let monitor = Monitor::spawn("127.0.0.1:0", &reactor).expect("a free port");
    monitor.set_limit(Duration::ZERO);
    wait_for_status(addr(&monitor), "/healthz", 503);
    monitor.set_limit(Duration::MAX);
    assert_eq!(ask(addr(&monitor), "/healthz"), (200, "ok\n".to_owned()));
}

#[test]
fn it_is_ready_when_the_program_and_its_site_are() {
    let (reactor, site) = (reactor(), Site::new(Branch::new()));
    let monitor = Monitor::spawn("127.0.0.1:0", &reactor).expect("a free port");
    monitor.set_limit(Duration::MAX);
    let ready = || ask(addr(&monitor), "/readyz");
    assert_eq!(ready(), (200, "ready\n".to_owned()));
    monitor.set_ready(false);
    assert_eq!(ready(), (503, "not ready\n".to_owned()));
    monitor.set_ready(true);
    site.readiness().set_ready(false);
    monitor.follow(site.readiness());
    assert_eq!(ready().0, 503);
    site.readiness().set_ready(true);
    while ready().0 != 200 {
        reactor.turn(None).expect("a turn");
    }
    let _drained = site.shutdown(Drain::new(Duration::from_secs(9)));
    while ready().0 != 503 {
        reactor.turn(None).expect("a turn");
    }
}

#[test]
fn a_port_that_is_taken_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let holder = TcpListener::bind(taken).expect("it is free again");
    let error = Monitor::spawn(taken, &reactor()).unwrap_err();
    assert!(error.is::<CannotListen>(), "{error}");
    drop(holder);
}

#[test]
fn its_port_is_free_again_when_it_is_dropped() {
    let reactor = reactor();
    let monitor = Monitor::spawn("127.0.0.1:0", &reactor).expect("a free port");
    let addr = addr(&monitor);
    assert_eq!(ask(addr, "/metrics").0, 200);
    drop(monitor);
    TcpStream::connect(addr).expect_err("nobody listens any more");
    reactor.call_soon(|| ());
    reactor.turn(None).expect("the reactor goes on without it");
}

#[test]
fn the_monitor_of_a_reactor_that_has_ended_says_so_until_it_is_dropped() {
    let reactor = reactor();
    let stop = reactor.clone();
    reactor.call_soon(move || stop.stop().expect("it runs"));
    reactor.run().expect("to the end");
    let monitor = Monitor::spawn("127.0.0.1:0", &reactor).expect("a free port");
    monitor.set_limit(Duration::ZERO);
    let addr = addr(&monitor);
    wait_for_status(addr, "/healthz", 503);
    drop(reactor);
    assert_eq!(ask(addr, "/readyz").0, 503);
    assert_eq!(ask(addr, "/metrics").0, 200);
    assert!(ask(addr, "/stalls").1.starts_with("state: "));
    drop(monitor);
    TcpStream::connect(addr).expect_err("nobody listens any more");
}

#[test]
fn two_monitors_of_one_reactor_end_each_for_itself() {
    let reactor = reactor();
    let [one, other] = [(); 2].map(|()| Monitor::spawn("127.0.0.1:0", &reactor).expect("a free port"));
    let (first, second) = (addr(&one), addr(&other));
    assert_ne!(first, second);
    drop(one);
    TcpStream::connect(first).expect_err("it has ended");
    assert_eq!(ask(second, "/stalls").0, 200);
    other.set_limit(Duration::MAX);
    assert_eq!(ask(second, "/healthz").0, 200);
}

#[test]
fn the_figures_of_a_monitor_have_the_name_of_its_reactor() {
    let registry = Registry::new();
    let reactor = builder(&registry).name("web").build().expect("descriptors");
    let monitor = Monitor::spawn("127.0.0.1:0", &reactor).expect("a free port");
    let metrics = ask(addr(&monitor), "/metrics").1;
    for name in ["web", "web-monitor"] {
        assert!(metrics.contains(&format!("\ndosimeter_loop_iterations_total{{reactor=\"{name}\"}} ")), "{metrics}");
    }
}

#[test]
fn the_monitor_of_a_reactor_without_a_name_is_known_by_its_number() {
    let registry = Registry::new();
    let reactors = [(); 2].map(|()| builder(&registry).build().expect("descriptors"));
    let [one, other] = reactors.each_ref().map(|reactor| Monitor::spawn("127.0.0.1:0", reactor).expect("a free port"));
    let metrics = ask(addr(&one), "/metrics").1;
    for name in ["2", "monitor", "2-monitor"] {
        assert!(metrics.contains(&format!("\ndosimeter_loop_iterations_total{{reactor=\"{name}\"}} ")), "{metrics}");
    }
    for (monitor, label) in [(&one, ""), (&other, "2")] {
        let landing = ask(addr(monitor), "/").1;
        assert_eq!(landing.contains("the reactor 2 of"), label == "2", "{landing}");
        let page = ask(addr(monitor), "/dashboard/").1;
        assert!(page.contains(&format!("<body data-reactor=\"{label}\">")), "{page}");
    }
}

#[test]
fn its_root_leads_to_all_of_its_pages() {
    let reactor = reactor();
    let monitor = Monitor::spawn("127.0.0.1:0", &reactor).expect("a free port");
    monitor.set_limit(Duration::MAX);
    let (status, page) = ask(addr(&monitor), "/");
    assert_eq!(status, 200);
    let links: Vec<&str> = page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let pages = links.iter().filter(|link| !link.starts_with("data:"));
    assert_eq!(pages.clone().count(), 5, "{page}");
    pages.for_each(|link| assert_eq!(ask(addr(&monitor), &format!("/{link}")).0, 200, "{link}"));
}

/// Until somebody answers. Far more than the limit of a monitor, for a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);
