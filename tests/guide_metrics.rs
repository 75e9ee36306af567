//! The chapter on metrics, checked against what is really exported: names, types and labels, both ways.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dosimeter::exposition::isolate;
use dosimeter::prometheus::proto::{MetricFamily, MetricType};
use dosimeter::prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use dosimeter::testing::MemoryReactor;
use dosimeter::web::{Branch, Render, Request, Resource, Response, Site};
use dosimeter::{Capped, Deferred, MetricsResource};

const GUIDE: &str = include_str!("../src/guide/metrics.md");

/// Type and labels of a metric.
type Kind = (String, BTreeSet<String>);

/// What the tables of the chapter say.
fn told() -> BTreeMap<String, Kind> {
    let rows = GUIDE.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("not four cells: {row}") };
        assert!(!meaning.is_empty(), "{name} means nothing");
        let plain = |text: &str| text.trim().trim_matches('`').to_owned();
        let labels = labels.split(',').map(plain).filter(|label| !label.is_empty()).collect();
        (plain(name), (kind.to_owned(), labels))
    })
    .collect()
}

/// Type and labels of what is exported, the label `reactor` and those that a type has by itself left out.
fn exported(families: &[MetricFamily]) -> BTreeMap<String, Kind> {
    let kind = |family: &MetricFamily| match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        other => panic!("{} is a {other:?}", family.name()),
    };
    let labels = |family: &MetricFamily| -> BTreeSet<String> {
        let pairs = family.get_metric().iter().flat_map(|metric| metric.get_label());
        pairs.map(|pair| pair.name().to_owned()).filter(|name| name != "reactor").collect()
    };
    families.iter().map(|family| (family.name().to_owned(), (kind(family).to_owned(), labels(family)))).collect()
}

/// Waits for what never comes.
struct Never;

impl Resource for Never {
    fn render_get(&self, _request: Request) -> Render {
        let (completer, answer) = Deferred::<Response>::pair();
        std::mem::forget(completer);
        answer.into()
    }
}

/// A program that has used everything that counts.
fn used() -> MemoryReactor {
    let memory = MemoryReactor::new();
    let registry = memory.registry();
    let capped = IntCounterVec::new(Opts::new("program_capped_total", "x"), &["tenant"]).unwrap();
    registry.register(Box::new(Capped::new(capped, 1).unwrap())).unwrap();
    let collector = IntGauge::new("program_collected", "x").unwrap();
    registry.register(Box::new(isolate("collector", collector).unwrap())).unwrap();
    #[cfg(feature = "process")]
    registry.register(Box::new(dosimeter::exposition::ProcessCollector::new())).unwrap();
    let root = Branch::new();
    root.put_child("metrics", MetricsResource::with_registry(Registry::new()));
    root.put_child("never", Never);
    let port = memory.reactor().listen_tcp("127.0.0.1:0", Site::new(root)).unwrap();
    let client = memory.connect(port.local_addr());
    client.send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    memory.advance(Duration::from_secs(1));
    assert!(client.take().starts_with(b"HTTP/1.1 200"));
    client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    client.reset();
    let client = memory.connect(port.local_addr());
    client.send("\0");
    assert!(client.take().starts_with(b"HTTP/1.1 400"));
    memory
}

#[test]
fn every_metric_is_in_the_chapter_with_its_type_and_labels_and_no_other() {
    let memory = used();
    let mut told = told();
    if !cfg!(feature = "process") {
        told.retain(|name, _| !name.starts_with("process_"));
    }
    let mut exported = exported(&memory.registry().gather());
    exported.retain(|name, _| !name.starts_with("program_"));
    assert!(exported.len() > 50, "{exported:#?}");
    for (name, kind) in &exported {
        assert_eq!(told.get(name), Some(kind), "what src/guide/metrics.md says of {name}");
    }
    let gone: Vec<_> = told.keys().filter(|name| !exported.contains_key(*name)).collect();
    assert!(gone.is_empty(), "src/guide/metrics.md has {gone:?}, which nobody exports");
}

#[test]
fn every_help_is_a_sentence_of_its_own_and_says_by_what_series_differ() {
    let families = used().registry().gather();
    let mut seen = BTreeSet::new();
    for family in families.iter().filter(|family| !family.name().starts_with("program_")) {
        let (name, help) = (family.name(), family.help());
        assert!(help.starts_with(|first: char| first.is_uppercase()) && help.ends_with('.'), "{name}: {help}");
        assert!(seen.insert(help.to_owned()), "{name} is told of as another one: {help}");
        let labels = &exported(std::slice::from_ref(family))[name].1;
        let differs = labels.iter().any(|label| ["kind", "reason", "error", "code"].contains(&label.as_str()));
        assert_eq!(differs, help.contains(", by "), "{name}: {help}");
    }
}

#[test]
fn the_recipes_use_series_that_there_are() {
    let told = told();
    let mut recipes = 0;
    for recipe in GUIDE.split("```text\n").skip(1).map(|text| text.split("```").next().unwrap()) {
        recipes += 1;
        let words = recipe.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
        let prefixes = ["dosimeter_", "http_server_", "metrics_", "process_"];
        let series: Vec<&str> = words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))).collect();
        assert!(!series.is_empty(), "no series in {recipe}");
        for name in series {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            let kind = told.get(family).unwrap_or_else(|| panic!("{name} in {recipe}"));
            assert_eq!(kind.0 == "histogram", family != name, "{name} in {recipe}");
        }
    }
    assert!(recipes > 10, "{recipes} recipes: has their form changed?");
}
