//! The metrics of the process, which is this one.
#![cfg(all(feature = "process", target_os = "linux"))]

use std::fs::File;
use std::time::{SystemTime, UNIX_EPOCH};

use dosimeter::exposition::ProcessCollector;
use dosimeter::prometheus::Registry;
use dosimeter::prometheus::proto::MetricType;

/// One test, since the threads of others would be threads of this process.
#[test]
fn the_figures_are_those_of_this_process() {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::new())).unwrap();
    let names: Vec<String> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
    assert_eq!(
        names,
        [
            "process_cpu_seconds_total",
            "process_max_fds",
            "process_open_fds",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_threads",
            "process_virtual_memory_bytes",
            "process_virtual_memory_max_bytes",
        ]
    );
    let value = |name: &str| value(&registry, name);

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - value("process_start_time_seconds");
    assert!((-2.0..3600.0).contains(&age), "{age} s old");

    let open = value("process_open_fds");
    let files: Vec<File> = (0..7).map(|_| File::open("/dev/null").unwrap()).collect();
    assert_eq!(value("process_open_fds"), open + 7.0);
    drop(files);
    assert!(value("process_max_fds") > open);

    let threads = value("process_threads");
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    assert_eq!(value("process_threads"), threads + 1.0);
    drop(release);
    let _ = thread.join();

    let before = value("process_cpu_seconds_total");
    while value("process_cpu_seconds_total") < before + 0.02 {}
    let resident = value("process_resident_memory_bytes");
    let ballast = vec![1_u8; 64 << 20];
    let grown = value("process_resident_memory_bytes") - resident;
    assert!((50e6..80e6).contains(&grown), "{grown} for {}", ballast.len());
    assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
    assert!(value("process_virtual_memory_max_bytes") >= value("process_virtual_memory_bytes"));
}

fn value(registry: &Registry, name: &str) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name).unwrap();
    let metric = &family.get_metric()[0];
    match family.get_field_type() {
        MetricType::COUNTER => metric.get_counter().get_value(),
        _ => metric.get_gauge().get_value(),
    }
}
