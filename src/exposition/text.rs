//! The Prometheus text format, version 0.0.4.
//!
//! Rules this file keeps:
//! 1. One pass, in the order gathered: `HELP` and `TYPE` once per family, then all of its samples.
//! 2. Encoding cannot fail: one odd family must not cost the scrape all the others.
//! 3. Every histogram ends in a `+Inf` bucket that equals its `_count`, as the format requires.
//! 4. The last byte of every line, and so of the whole, is a line feed.
//!
//! The format: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.

use prometheus::proto::{Histogram, Metric, MetricFamily, MetricType, Summary};

use super::lines::{self, Dialect};

/// The `Content-Type` of what [`encode`] writes.
///
/// The version is not decoration: Prometheus 3 fails a scrape whose `Content-Type` it cannot place.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Appends `families` to `out` in the Prometheus text format.
///
/// Names are written as they are; a registry has checked them. Label values and help texts are escaped.
/// Counts are written exactly, also above 2^53; other numbers in the shortest form that reads back as the
/// same `f64`. Timestamps are written where a collector set one other than zero, in milliseconds.
///
/// What `prometheus::TextEncoder` refuses is handled family by family instead: one without metrics or
/// without a name is left out (it refuses the whole scrape), and untyped metrics are written (it panics).
/// Infinity is `+Inf`, as the format has it, not `inf`.
///
/// # Example
///
/// ```
/// use dosimeter::exposition::text;
/// use prometheus::{IntCounter, Registry};
///
/// let served = IntCounter::new("served_total", "Requests served.")?;
/// let registry = Registry::new();
/// registry.register(Box::new(served.clone()))?;
/// served.inc_by(3);
///
/// let mut page = Vec::new();
/// text::encode(&registry.gather(), &mut page);
/// let page = String::from_utf8(page)?;
/// assert!(page.starts_with("# HELP served_total Requests served.\n"));
/// assert!(page.ends_with("\nserved_total 3\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "generate_latest")]
pub fn encode(families: &[MetricFamily], out: &mut Vec<u8>) {
    for family in families {
        let (name, metrics) = (family.name(), family.get_metric());
        if name.is_empty() || metrics.is_empty() {
            continue;
        }
        let kind = family.get_field_type();
        write_header(name, family.help(), kind, out);
        for metric in lines::fetched(metrics) {
            write_metric(name, kind, metric, out);
        }
    }
}

fn write_header(name: &str, help: &str, kind: MetricType, out: &mut Vec<u8>) {
    if !help.is_empty() {
        lines::open_comment("HELP", name, out);
        lines::escape_help(help, out);
        out.push(b'\n');
    }
    lines::open_comment("TYPE", name, out);
    out.extend_from_slice(type_name(kind).as_bytes());
    out.push(b'\n');
}

fn type_name(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
        MetricType::HISTOGRAM => "histogram",
    }
}

fn write_metric(name: &str, kind: MetricType, metric: &Metric, out: &mut Vec<u8>) {
    match kind {
        MetricType::COUNTER => lines::write_sample::<Text>(name, "", metric, lines::counter_value(metric), out),
        MetricType::GAUGE => lines::write_sample::<Text>(name, "", metric, lines::gauge_value(metric), out),
        MetricType::UNTYPED => {
            if let Some(value) = lines::untyped_value(metric) {
                lines::write_sample::<Text>(name, "", metric, value, out);
            }
        }
        MetricType::SUMMARY => write_summary(name, metric, metric.get_summary(), out),
        MetricType::HISTOGRAM => write_histogram(name, metric, metric.get_histogram(), out),
    }
}

fn write_summary(name: &str, metric: &Metric, summary: &Summary, out: &mut Vec<u8>) {
    let quantiles = summary.get_quantile().iter();
    let quantiles = quantiles.map(|quantile| (quantile.quantile(), quantile.value()));
    lines::write_quantiles::<Text>(name, metric, quantiles, out);
    lines::write_sample::<Text>(name, "_sum", metric, summary.sample_sum(), out);
    lines::write_count::<Text>(name, metric, summary.sample_count(), out);
}

fn write_histogram(name: &str, metric: &Metric, histogram: &Histogram, out: &mut Vec<u8>) {
    lines::write_buckets::<Text>(name, metric, histogram, out);
    lines::write_sample::<Text>(name, "_sum", metric, histogram.get_sample_sum(), out);
    lines::write_count::<Text>(name, metric, histogram.get_sample_count(), out);
}

/// What is the format's own in the lines of samples.
struct Text;

impl Dialect for Text {
    fn write_bound(bound: f64, out: &mut Vec<u8>) {
        lines::write_float(bound, out);
    }

    fn write_timestamp(milliseconds: i64, out: &mut Vec<u8>) {
        lines::write_integer(milliseconds, out);
    }
}
