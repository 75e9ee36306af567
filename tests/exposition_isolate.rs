//! Isolated collectors: one that panics, hangs or registers metrics costs its own families and nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use dosimeter::exposition::{isolate, text};
use dosimeter::prometheus::core::{Collector, Desc};
use dosimeter::prometheus::proto::MetricFamily;
use dosimeter::prometheus::{IntCounter, IntGauge, Opts, Registry};

const SOON: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_collector_that_works_says_what_it_would_say_bare() {
    let registry = Registry::new();
    registry.register(Box::new(isolate("disks", gauge("disks", 7)).unwrap())).unwrap();
    let page = page(&registry);
    assert!(page.contains("\ndisks 7\n"), "{page}");
    assert_eq!(errors(&page, "disks"), 0);
    let duration = page.lines().find(|line| line.starts_with("metrics_collector_duration_seconds{")).unwrap();
    let seconds: f64 = duration.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((0.0..60.0).contains(&seconds), "{duration}");
}

#[test]
fn a_collector_that_panics_costs_its_own_families() {
    let registry = Registry::new();
    registry.register(Box::new(gauge("well", 1))).unwrap();
    let calls = AtomicUsize::new(0);
    let second_time = move || assert!(calls.fetch_add(1, Ordering::Relaxed) == 1, "out of order");
    registry.register(Box::new(isolate("odd", Hooked::new("odd", second_time)).unwrap())).unwrap();
    for (errors_then, is_there) in [(1, false), (1, true), (2, false)] {
        let page = page(&registry);
        assert!(page.contains("\nwell 1\n"), "{page}");
        assert_eq!((errors(&page, "odd"), page.contains("\nodd ")), (errors_then, is_there), "{page}");
    }
}

#[test]
fn a_collector_that_hangs_is_left_out_and_not_asked_again() {
    let (registry, gate) = (Registry::new(), Gate::default());
    registry.register(Box::new(gauge("well", 1))).unwrap();
    let (calls, waiting) = (Arc::new(AtomicUsize::new(0)), gate.clone());
    let counting = calls.clone();
    let hang = move || {
        counting.fetch_add(1, Ordering::SeqCst);
        waiting.wait();
    };
    registry.register(Box::new(isolate("stuck", Hooked::new("stuck", hang)).unwrap().with_patience(SOON))).unwrap();
    for round in 1..=5 {
        let page = page(&registry);
        assert!(page.contains("\nwell 1\n") && !page.contains("\nstuck "), "{page}");
        assert_eq!((errors(&page, "stuck"), calls.load(Ordering::SeqCst)), (round, 1));
    }
    gate.open();
    until(|| self::page(&registry).contains("\nstuck "));
}

#[test]
fn an_isolated_collector_may_register_with_the_registry_that_gathers_it() {
    let registry = Registry::new();
    let (within, calls) = (registry.clone(), AtomicUsize::new(0));
    let register = move || {
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            within.register(Box::new(gauge("made_inside", 3))).unwrap();
        }
    };
    let collector = isolate("maker", Hooked::new("maker", register)).unwrap().with_patience(SOON);
    registry.register(Box::new(collector)).unwrap();
    assert!(!page(&registry).contains("\nmaker "), "it waits for the gathering that waits for it");
    until(|| page(&registry).contains("\nmaker "));
    assert!(page(&registry).contains("\nmade_inside 3\n"));
}

#[test]
fn a_collector_that_hangs_keeps_nobody_from_registering() {
    let (registry, gate) = (Registry::new(), Gate::default());
    let waiting = gate.clone();
    let hang = move || waiting.wait();
    registry.register(Box::new(isolate("stuck", Hooked::new("stuck", hang)).unwrap().with_patience(SOON))).unwrap();
    page(&registry);
    registry.register(Box::new(gauge("later", 1))).unwrap();
    assert!(page(&registry).contains("\nlater 1\n"));
    gate.open();
}

#[test]
fn several_gatherings_at_once_are_answered_each() {
    let (registry, gate) = (Registry::new(), Gate::default());
    let waiting = gate.clone();
    let slow = isolate("slow", Hooked::new("slow", move || waiting.wait())).unwrap().with_patience(LONG);
    registry.register(Box::new(slow)).unwrap();
    std::thread::scope(|scope| {
        let pages: Vec<_> = (0..4).map(|_| scope.spawn(|| page(&registry))).collect();
        gate.open();
        assert!(pages.into_iter().all(|page| page.join().unwrap().contains("\nslow ")));
    });
}

#[test]
fn two_of_one_name_cannot_be_registered() {
    let registry = Registry::new();
    registry.register(Box::new(isolate("same", gauge("one", 1)).unwrap())).unwrap();
    assert!(registry.register(Box::new(isolate("same", gauge("two", 2)).unwrap())).is_err());
    registry.register(Box::new(isolate("other", gauge("two", 2)).unwrap())).unwrap();
    let page = page(&registry);
    assert_eq!(page.matches("# TYPE metrics_collector_errors_total counter\n").count(), 1, "{page}");
}

#[test]
fn an_isolated_collector_can_be_unregistered_by_its_likeness() {
    let registry = Registry::new();
    let metric = IntCounter::with_opts(Opts::new("c_total", "x")).unwrap();
    registry.register(Box::new(isolate("c", metric.clone()).unwrap())).unwrap();
    registry.unregister(Box::new(isolate("c", metric).unwrap())).unwrap();
    assert_eq!(page(&registry), "");
}

// ---- below ------------------------------------------------------------------------------------------

fn gauge(name: &str, value: i64) -> IntGauge {
    let gauge = IntGauge::new(name, "x").unwrap();
    gauge.set(value);
    gauge
}

fn page(registry: &Registry) -> String {
    let mut page = Vec::new();
    text::encode(&registry.gather(), &mut page);
    String::from_utf8(page).unwrap()
}

fn errors(page: &str, collector: &str) -> usize {
    let start = format!("metrics_collector_errors_total{{collector=\"{collector}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&start)).expect("it is there").parse().unwrap()
}

#[track_caller]
fn until(mut probe: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !probe() {
        assert!(begun.elapsed() < LONG, "waited in vain");
        std::thread::yield_now();
    }
}

/// A gauge that does something before it is collected.
struct Hooked<F> {
    gauge: IntGauge,
    hook: F,
}

impl<F: Fn() + Send + Sync> Hooked<F> {
    fn new(name: &str, hook: F) -> Self {
        Hooked { gauge: gauge(name, 1), hook }
    }
}

impl<F: Fn() + Send + Sync> Collector for Hooked<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        (self.hook)();
        self.gauge.collect()
    }
}

#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |open| !*open).unwrap());
    }
}
