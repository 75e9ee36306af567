//! [`ProcessCollector`]: the metrics that every Prometheus client has about its process, as Linux tells them.
//!
//! Rules kept here:
//! - A figure that cannot be read is left out. A wrong one would be believed.
//! - Read anew for each page; what cannot change is read once.

use std::fs;
use std::path::Path;
use std::sync::Once;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};
use rustix::param::{clock_ticks_per_second, page_size};

use super::metrics::Families;

/// The standard `process_` metrics of this process.
///
/// They have the names and meanings that they have
/// [everywhere](https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics): CPU time, open and allowed
/// descriptors, virtual and resident memory, threads, and the time of the start. A limit that is none is `+Inf`.
/// `process_heap_bytes` is not among them: only the allocator knows it. Off Linux there are none at all.
///
/// The default registry has it from the first reactor on that publishes there. Another one gets it by being given it:
///
/// ```
/// use dosimeter::exposition::ProcessCollector;
/// use dosimeter::prometheus::Registry;
///
/// let registry = Registry::new();
/// registry.register(Box::new(ProcessCollector::new()))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ProcessCollector {
    descs: Vec<Desc>,
    start: Option<f64>,
}

impl ProcessCollector {
    /// A collector for this process.
    pub fn new() -> Self {
        let descs = FIGURES.iter().map(|figure| {
            let (name, help) = (figure.name.to_owned(), figure.help.to_owned());
            Desc::new(name, help, Vec::new(), Default::default()).expect("the names are valid")
        });
        let started = || Some(boot_time()? + Stat::read()?.start);
        ProcessCollector { descs: descs.collect(), start: started() }
    }

    fn value(&self, what: What, stat: Option<&Stat>, limits: Option<&str>) -> Option<f64> {
        match what {
            What::Cpu => Some(stat?.cpu),
            What::Threads => Some(stat?.threads),
            What::VirtualMemory => Some(stat?.virtual_bytes),
            What::ResidentMemory => Some(stat?.resident_bytes),
            What::VirtualMemoryMax => limit(limits?, "Max address space"),
            What::MaxFds => limit(limits?, "Max open files"),
            What::OpenFds => open_descriptors(),
            What::Start => self.start,
        }
    }
}

/// Has the default registry tell of the process, as those of all clients of Prometheus do.
///
/// Once: what the program takes out again stays out. With the `process` feature of `prometheus` on, wherever in the build, most
/// of it is there already, and these are refused.
pub(super) fn publish_by_default() {
    static ONCE: Once = Once::new();
    let mut refused = None;
    ONCE.call_once(|| refused = prometheus::register(Box::new(ProcessCollector::new())).err());
    // Outside: a logger that makes a reactor of its own would wait for itself.
    if let Some(error) = refused {
        log::debug!(target: "dosimeter::metrics", "the default registry has its own figures of the process: {error}");
    }
}

impl Default for ProcessCollector {
    fn default() -> Self {
        ProcessCollector::new()
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (stat, limits) = (Stat::read(), fs::read_to_string("/proc/self/limits").ok());
        let mut families = Families::of_no_reactor();
        for figure in FIGURES {
            if let Some(value) = self.value(figure.what, stat.as_ref(), limits.as_deref()) {
                families.family(figure.name, figure.help, figure.kind).value(&[], value);
            }
        }
        families.into_vec()
    }
}

struct Figure {
    what: What,
    name: &'static str,
    help: &'static str,
    kind: MetricType,
}

#[derive(Clone, Copy)]
enum What {
    Cpu,
    OpenFds,
    MaxFds,
    VirtualMemory,
    VirtualMemoryMax,
    ResidentMemory,
    Start,
    Threads,
}

impl Figure {
    const fn gauge(what: What, name: &'static str, help: &'static str) -> Self {
        Figure { what, name, help, kind: MetricType::GAUGE }
    }
}

/// What is of use in `/proc/self/stat`, see proc_pid_stat(5).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stat {
    /// Seconds of CPU, in user mode and in the system.
    cpu: f64,
    threads: f64,
    /// Seconds since boot.
    start: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        Stat::parse(&text, clock_ticks_per_second() as f64, page_size() as f64)
    }

    fn parse(text: &str, ticks: f64, page: f64) -> Option<Self> {
        // The name of the program stands in parentheses and may hold anything, more of them included.
        let (_, text) = text.rsplit_once(')')?;
        let fields: Vec<f64> = text.split_ascii_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
        // The first one here is the fourth of the manual.
        let field = |number: usize| fields.get(number - 4).copied();
        Some(Stat {
            cpu: (field(14)? + field(15)?) / ticks,
            threads: field(20)?,
            start: field(22)? / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page,
        })
    }
}

/// When the system was started, in seconds since 1970.
fn boot_time() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The soft limit of this name.
fn limit(limits: &str, name: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        limit => limit.parse().ok(),
    }
}

/// One of them is that of the directory itself while it is read.
fn open_descriptors() -> Option<f64> {
    let entries = fs::read_dir(Path::new("/proc/self/fd")).ok()?.count();
    Some(entries.saturating_sub(1) as f64)
}

const FIGURES: &[Figure] = &[
    Figure {
        what: What::Cpu,
        name: "process_cpu_seconds_total",
        help: "Total user and system CPU time spent in seconds.",
        kind: MetricType::COUNTER,
    },
    Figure::gauge(What::OpenFds, "process_open_fds", "Number of open file descriptors."),
    Figure::gauge(What::MaxFds, "process_max_fds", "Maximum number of open file descriptors."),
    Figure::gauge(What::VirtualMemory, "process_virtual_memory_bytes", "Virtual memory size in bytes."),
    Figure::gauge(
        What::VirtualMemoryMax,
        "process_virtual_memory_max_bytes",
        "Maximum amount of virtual memory available in bytes.",
    ),
    Figure::gauge(What::ResidentMemory, "process_resident_memory_bytes", "Resident memory size in bytes."),
    Figure::gauge(What::Start, "process_start_time_seconds", "Start time of the process since unix epoch in seconds."),
    Figure::gauge(What::Threads, "process_threads", "Number of OS threads in the process."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_anything() {
        for name in ["dosimeter", "a b", "a) R 1 2 (b", ")", ""] {
            let rest = "S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 3 0 4200 8192000 25 18446744073709551615 1 1";
            let expected =
                Stat { cpu: 4.0, threads: 3.0, start: 42.0, virtual_bytes: 8_192_000.0, resident_bytes: 102_400.0 };
            assert_eq!(Stat::parse(&format!("77 ({name}) {rest}"), 100.0, 4096.0), Some(expected), "{name}");
        }
    }

    #[test]
    fn what_is_cut_short_tells_nothing() {
        for text in ["", "77 (x", "77 (x) S 1 2 3", "77 (x) S 1 2 3 4 5 6 7 8 9 10 x 150"] {
            assert_eq!(Stat::parse(text, 100.0, 4096.0), None, "{text}");
        }
    }

    #[test]
    fn the_soft_limit_is_the_one_that_counts() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n\
                      Max address space         unlimited            unlimited            bytes     \n";
        assert_eq!(limit(limits, "Max open files"), Some(1024.0));
        assert_eq!(limit(limits, "Max address space"), Some(f64::INFINITY));
        assert_eq!(limit(limits, "Max other things"), None);
    }
}
