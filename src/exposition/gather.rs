//! A page of metrics from its registries: what runs in the thread pool.
//!
//! Rules kept here:
//! - A registry whose gathering panics costs its own families, not those of the others.
//! - A family stands on the page once, whichever registries have series of it, and so does a series.
//! - What was gathered is freed where it was made, and not on the loop.

use std::collections::{BTreeMap, HashSet};

use prometheus::Registry;
use prometheus::proto::{Metric, MetricFamily, MetricType};

use crate::exposition::isolate::PageBegun;
use crate::exposition::negotiate::Format;
use crate::failure::guard;

/// What a page is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) format: Format,
    /// The families wanted; all if there are none.
    pub(super) names: Vec<String>,
    pub(super) gzip: bool,
}

/// A page, ready to be sent.
pub(super) struct Page {
    pub(super) bytes: Vec<u8>,
    pub(super) is_gzip: bool,
    pub(super) series: u64,
}

/// What came of gathering.
#[derive(Default)]
pub(super) struct Gathered {
    /// None if there is nothing that could be gathered.
    pub(super) page: Option<Page>,
    /// How many registries are missing, because their gathering panicked.
    pub(super) missing: u64,
    /// What the log is to be told.
    pub(super) troubles: Vec<String>,
}

/// Gathers and encodes.
pub(super) fn make_page(registries: &[Registry], wish: &Wish) -> Gathered {
    let mut troubles = Vec::new();
    let _begun = PageBegun::now();
    let gathered: Vec<_> = registries.iter().filter_map(|registry| gather(registry, &mut troubles)).collect();
    let missing = (registries.len() - gathered.len()) as u64;
    if gathered.is_empty() && missing > 0 {
        return Gathered { page: None, missing, troubles };
    }
    let mut families = merge(gathered, &mut troubles);
    if !wish.names.is_empty() {
        families.retain(|family| wish.names.iter().any(|name| has_series(family, name)));
    }
    let mut bytes = Vec::new();
    wish.format.encode(&families, &mut bytes);
    let series = families.iter().map(|family| family.get_metric().len() as u64).sum();
    let is_gzip = wish.gzip && bytes.len() >= GZIP_FROM;
    let mut bytes = if is_gzip { compress(&bytes) } else { bytes };
    // It stays for as long as its slowest reader needs.
    bytes.shrink_to_fit();
    Gathered { page: Some(Page { bytes, is_gzip, series }), missing, troubles }
}

#[cfg(feature = "gzip")]
fn compress(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("a Vec takes all that is written")
}

/// Nobody can have wished for it.
#[cfg(not(feature = "gzip"))]
fn compress(bytes: &[u8]) -> Vec<u8> {
    bytes.to_owned()
}

fn gather(registry: &Registry, troubles: &mut Vec<String>) -> Option<Vec<MetricFamily>> {
    let gathered = guard(|| registry.gather());
    gathered.inspect_err(|failure| troubles.push(format!("metrics could not be collected: {}", failure.report()))).ok()
}

/// Families of one name become one. Of two types the first one stands: a page cannot have both.
fn merge(mut gathered: Vec<Vec<MetricFamily>>, troubles: &mut Vec<String>) -> Vec<MetricFamily> {
    if gathered.len() < 2 {
        return gathered.pop().unwrap_or_default();
    }
    let mut merged = BTreeMap::<String, MetricFamily>::new();
    for mut family in gathered.into_iter().flatten() {
        match merged.get_mut(family.name()) {
            None => {
                merged.insert(family.name().to_owned(), family);
            }
            Some(known) if known.get_field_type() == family.get_field_type() => {
                let doubled = add_series(known, family.take_metric());
                if doubled > 0 {
                    let name = known.name();
                    troubles
                        .push(format!("{doubled} series of {name:?} are in two registries; those of the first stand"));
                }
            }
            Some(_) => troubles.push(format!("{:?} is of two types in two registries; one is left out", family.name())),
        }
    }
    merged.into_values().collect()
}

/// Adds the series that the family does not have yet, and says how many it had: a page with a series twice is wrong for some
/// scrapers as a whole.
fn add_series(family: &mut MetricFamily, series: Vec<Metric>) -> usize {
    let known: HashSet<_> = family.get_metric().iter().map(labels).collect();
    let is_new: Vec<bool> = series.iter().map(|metric| !known.contains(&labels(metric))).collect();
    let (before, all) = (family.get_metric().len(), series.len());
    let new = series.into_iter().zip(is_new).filter_map(|(metric, is_new)| is_new.then_some(metric));
    family.mut_metric().extend(new);
    before + all - family.get_metric().len()
}

/// What tells a series from the others of its family.
fn labels(metric: &Metric) -> Vec<(&str, &str)> {
    let mut labels: Vec<_> = metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
    labels.sort_unstable();
    labels
}

/// Whether `name` is the family's or that of one of its series.
fn has_series(family: &MetricFamily, name: &str) -> bool {
    let suffixes: &[&str] = match family.get_field_type() {
        MetricType::HISTOGRAM => &["", "_bucket", "_sum", "_count"],
        MetricType::SUMMARY => &["", "_sum", "_count"],
        _ => &[""],
    };
    name.strip_prefix(family.name()).is_some_and(|suffix| suffixes.contains(&suffix))
}

/// Bytes of a page below which it is sent as it is: it is a packet or two either way.
const GZIP_FROM: usize = 2048;
