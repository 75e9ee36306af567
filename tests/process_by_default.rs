//! The process is observed without being asked for, where Prometheus clients have it: in the default registry.
#![cfg(all(feature = "process", target_os = "linux"))]

use dosimeter::exposition::ProcessCollector;
use dosimeter::prometheus::{self, Registry};
use dosimeter::{Metrics, Reactor};

/// One test, since the default registry is one for all of them.
#[test]
fn the_default_registry_tells_of_the_process_once_a_reactor_publishes_there() {
    let own = Registry::new();
    let _elsewhere = Reactor::builder().metrics(own.clone()).build().expect("a reactor");
    let _nowhere = Reactor::builder().metrics(Metrics::Off).build().expect("a reactor");
    assert_eq!((process_families(&own), process_families(prometheus::default_registry())), (0, 0), "nobody asked");

    let first = Reactor::new().expect("a reactor");
    let _second = Reactor::new().expect("a reactor");
    assert_eq!(process_families(prometheus::default_registry()), 8);
    drop(first);
    assert_eq!(process_families(prometheus::default_registry()), 8, "the process outlives its reactors");

    prometheus::unregister(Box::new(ProcessCollector::new())).expect("it was there");
    let _third = Reactor::new().expect("a reactor");
    assert_eq!(process_families(prometheus::default_registry()), 0, "what was taken out stays out");
}

fn process_families(registry: &Registry) -> usize {
    let families = registry.gather();
    let names = families.iter().map(|family| family.name()).filter(|name| name.starts_with("process_"));
    names.count()
}
