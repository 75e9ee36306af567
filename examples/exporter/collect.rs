//! The parts of the page, each a collector of its own.
//!
//! Rules kept here:
//! - A part says what it has read until it failed, that it failed, and how long it took.
//! - It runs isolated: one that panics or hangs costs what it would have said, and is told of by who waited for it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dosimeter::Result;
use dosimeter::exposition::{Isolated, isolate};
use dosimeter::prometheus::core::{Collector, Desc};
use dosimeter::prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::proc;

/// A part of the page.
pub struct Part {
    pub name: &'static str,
    /// What it tells: name, help and type.
    families: &'static [(&'static str, &'static str, MetricType)],
    /// The labels of all its series.
    labels: &'static [&'static str],
    read: fn(&Path, &mut Page) -> Result<()>,
}

pub const PARTS: [Part; 4] = [LOAD, MEMORY, DISKS, PRESSURE];

const LOAD: Part = Part {
    name: "load",
    families: &[
        ("host_load1", "Tasks that run or wait, on average over 1 minute.", MetricType::GAUGE),
        ("host_load5", "Tasks that run or wait, on average over 5 minutes.", MetricType::GAUGE),
        ("host_load15", "Tasks that run or wait, on average over 15 minutes.", MetricType::GAUGE),
    ],
    labels: &[],
    read: |proc, page| {
        let averages = proc::load(&read(proc, "loadavg")?)?;
        for (name, value) in ["host_load1", "host_load5", "host_load15"].into_iter().zip(averages) {
            page.add(name, &[], value);
        }
        Ok(())
    },
};

const MEMORY: Part = Part {
    name: "memory",
    families: &[
        ("host_memory_total_bytes", "Memory that there is.", MetricType::GAUGE),
        ("host_memory_free_bytes", "Memory that is not used for anything.", MetricType::GAUGE),
        ("host_memory_available_bytes", "Memory that programs can have without swapping.", MetricType::GAUGE),
        ("host_memory_buffers_bytes", "Memory of the block devices' buffers.", MetricType::GAUGE),
        ("host_memory_cached_bytes", "Memory that keeps the contents of files.", MetricType::GAUGE),
        ("host_memory_dirty_bytes", "Memory that waits to be written to disk.", MetricType::GAUGE),
        ("host_memory_swap_total_bytes", "Swap space that there is.", MetricType::GAUGE),
        ("host_memory_swap_free_bytes", "Swap space that nobody uses.", MetricType::GAUGE),
    ],
    labels: &[],
    read: |proc, page| {
        let text = read(proc, "meminfo")?;
        let fields: HashMap<_, _> = proc::memory(&text)?.into_iter().collect();
        let wanted = ["MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "Dirty", "SwapTotal", "SwapFree"];
        for ((name, ..), field) in MEMORY.families.iter().zip(wanted) {
            let value = fields.get(field).ok_or_else(|| format!("meminfo has no {field}"))?;
            page.add(name, &[], *value as f64);
        }
        Ok(())
    },
};

const DISKS: Part = Part {
    name: "disks",
    families: &[
        ("host_disk_reads_completed_total", "Reads that were completed.", MetricType::COUNTER),
        ("host_disk_read_bytes_total", "Bytes that were read from the disk.", MetricType::COUNTER),
        ("host_disk_read_time_seconds_total", "Time that reads took, that of each added up.", MetricType::COUNTER),
        ("host_disk_writes_completed_total", "Writes that were completed.", MetricType::COUNTER),
        ("host_disk_written_bytes_total", "Bytes that were written to the disk.", MetricType::COUNTER),
        ("host_disk_write_time_seconds_total", "Time that writes took, that of each added up.", MetricType::COUNTER),
        ("host_disk_io_now", "Reads and writes under way.", MetricType::GAUGE),
        ("host_disk_io_time_seconds_total", "Time with at least one read or write under way.", MetricType::COUNTER),
        (
            "host_disk_io_time_weighted_seconds_total",
            "Time that reads and writes were under way, that of each added up.",
            MetricType::COUNTER,
        ),
    ],
    labels: &["device"],
    read: |proc, page| {
        let text = read(proc, "diskstats")?;
        let mut misread = Ok(());
        for disk in proc::disks(&text) {
            match disk {
                Ok(disk) => add_disk(&disk, page),
                Err(error) => misread = Err(error),
            }
        }
        Ok(misread?)
    },
};

fn add_disk(disk: &proc::Disk<'_>, page: &mut Page) {
    let values = [
        disk.reads as f64,
        disk.read_bytes as f64,
        disk.read_seconds,
        disk.writes as f64,
        disk.written_bytes as f64,
        disk.write_seconds,
        disk.in_progress as f64,
        disk.busy_seconds,
        disk.weighted_seconds,
    ];
    for ((name, ..), value) in DISKS.families.iter().zip(values) {
        page.add(name, &[("device", disk.name)], value);
    }
}

const PRESSURE: Part = Part {
    name: "pressure",
    families: &[
        (
            "host_pressure_waiting_seconds_total",
            "Time in which some task waited for the resource.",
            MetricType::COUNTER,
        ),
        (
            "host_pressure_stalled_seconds_total",
            "Time in which no task could go on for lack of the resource.",
            MetricType::COUNTER,
        ),
    ],
    labels: &["resource"],
    read: |proc, page| {
        for resource in ["cpu", "io", "memory"] {
            let pressure = proc::pressure(&read(proc, &format!("pressure/{resource}"))?)?;
            page.add("host_pressure_waiting_seconds_total", &[("resource", resource)], pressure.some);
            if let Some(full) = pressure.full {
                page.add("host_pressure_stalled_seconds_total", &[("resource", resource)], full);
            }
        }
        Ok(())
    },
};

fn read(proc: &Path, file: &str) -> Result<String> {
    let path = proc.join(file);
    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

impl Part {
    /// What registers the part, and reads below `proc`.
    ///
    /// # Errors
    /// Those of `prometheus`; there are none for names that are as they should be.
    pub fn collector(&self, proc: &Path) -> Result<impl Collector + use<>> {
        let own = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
        };
        let of_part = |name: &str, help: &str| {
            let label = HashMap::from([("collector".to_owned(), self.name.to_owned())]);
            Desc::new(name.to_owned(), help.to_owned(), Vec::new(), label)
        };
        let mut descs = self.families.iter().map(|(name, help, _)| own(name, help, self.labels)).collect::<Vec<_>>();
        descs.extend(STATE.iter().map(|(name, help)| of_part(name, help)));
        let reader = Reader {
            name: self.name,
            families: self.families,
            read: self.read,
            proc: proc.to_owned(),
            descs: descs.into_iter().collect::<dosimeter::prometheus::Result<_>>()?,
            is_down: AtomicBool::new(false),
        };
        Ok(Watched { name: self.name, reader: isolate(self.name, reader)?.with_patience(PATIENCE) })
    }
}

/// Reads a part.
struct Reader {
    name: &'static str,
    families: &'static [(&'static str, &'static str, MetricType)],
    read: fn(&Path, &mut Page) -> Result<()>,
    proc: PathBuf,
    descs: Vec<Desc>,
    /// It has been told of.
    is_down: AtomicBool,
}

impl Collector for Reader {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let begun = Instant::now();
        let mut page = Page::new(self.families);
        let outcome = (self.read)(&self.proc, &mut page);
        let was_down = self.is_down.swap(outcome.is_err(), Ordering::Relaxed);
        if let (Err(failure), false) = (&outcome, was_down) {
            eprintln!("exporter: {}: {failure}", self.name);
        }
        page.0.extend(state(self.name, outcome.is_ok(), begun.elapsed()));
        page.0
    }
}

/// Says of a part that it is down when it has said nothing itself.
struct Watched {
    name: &'static str,
    reader: Isolated,
}

impl Collector for Watched {
    fn desc(&self) -> Vec<&Desc> {
        self.reader.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let begun = Instant::now();
        let mut families = self.reader.collect();
        if !families.iter().any(|family| family.name() == STATE[0].0) {
            families.extend(state(self.name, false, begun.elapsed()));
        }
        families
    }
}

/// How a part is.
fn state(part: &str, is_up: bool, took: Duration) -> impl IntoIterator<Item = MetricFamily> {
    let values = [f64::from(u8::from(is_up)), took.as_secs_f64()];
    let families = STATE.iter().zip(values).map(|((name, help), value)| {
        let mut family = family(name, help, MetricType::GAUGE);
        family.mut_metric().push(metric(MetricType::GAUGE, &[("collector", part)], value));
        family
    });
    families.collect::<Vec<_>>()
}

/// The families of a part, as far as they have been read.
struct Page(Vec<MetricFamily>);

impl Page {
    fn new(families: &[(&'static str, &'static str, MetricType)]) -> Self {
        Page(families.iter().map(|(name, help, kind)| family(name, help, *kind)).collect())
    }

    fn add(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let family = self.0.iter_mut().find(|family| family.name() == name).expect("a family of the part");
        let metric = metric(family.get_field_type(), labels, value);
        family.mut_metric().push(metric);
    }
}

fn family(name: &str, help: &str, kind: MetricType) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family
}

fn metric(kind: MetricType, labels: &[(&str, &str)], value: f64) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    let mut metric = Metric::from_label(labels.iter().map(pair).collect());
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

/// What is said of each part.
const STATE: [(&str, &str); 2] = [
    ("host_collector_up", "Whether the part could be read to its end."),
    ("host_collector_duration_seconds", "How long it took to read the part."),
];

/// A file of `/proc` is there at once, or something is wrong with the system; the rest of the page is to come in time.
const PATIENCE: Duration = Duration::from_secs(2);
