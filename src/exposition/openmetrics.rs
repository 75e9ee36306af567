//! OpenMetrics 1.0.0, as text.
//!
//! Rules this file keeps:
//! 1. One pass, in the order gathered: the comments once per family, then all of its samples; `# EOF` ends the page.
//! 2. Encoding cannot fail: what the format forbids is left out or loses its type, and costs no other sample.
//! 3. A series has the name that it has in text format 0.0.4, or it would change with what a scraper prefers.
//! 4. The last byte of every line, and so of the whole, is a line feed; no line is empty.
//!
//! The format: <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

use std::collections::HashSet;

use prometheus::proto::{Histogram, Metric, MetricFamily, MetricType, Summary};

use super::lines::{self, Dialect};

/// The `Content-Type` of what [`encode`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Appends `families` to `out` as OpenMetrics, with the `# EOF` that ends the page.
///
/// Differences from [`text::encode`](super::text::encode): a counter `x_total` is the family `x`; a name that ends in a
/// [unit](https://prometheus.io/docs/practices/naming/#base-units), such as `_seconds`, has a `UNIT` line; bounds of buckets
/// and quantiles are floats (`le="10.0"`, `le="1e+06"`); timestamps are in seconds.
///
/// The format is stricter than what can be registered, so these are written as far as it allows:
/// - A counter is of type `unknown` and keeps its name when that lacks `_total`, when `x` or `x_created` is a name that another
///   family has or keeps for itself (as a histogram `y` keeps `y_count`), or when a value is negative or NaN.
/// - A `_sum` that is negative or NaN, or of a histogram with a negative bound, is left out, and with that of a histogram its
///   `_count`: the bucket `+Inf` has the same number. So is a quantile that is not between 0 and 1 or has a negative value.
///
/// One thing it forbids is left as it is: a family that has the name of a series of another one, such as a gauge `y_count`
/// beside a histogram `y`. Neither could do without it.
///
/// # Example
///
/// ```
/// use dosimeter::exposition::openmetrics;
/// use prometheus::{Counter, Registry};
///
/// let busy = Counter::new("busy_seconds_total", "Time spent.")?;
/// let registry = Registry::new();
/// registry.register(Box::new(busy.clone()))?;
/// busy.inc_by(1.5);
///
/// let mut page = Vec::new();
/// openmetrics::encode(&registry.gather(), &mut page);
/// let page = String::from_utf8(page)?;
/// assert!(page.contains("# TYPE busy_seconds counter\n# UNIT busy_seconds seconds\n"));
/// assert!(page.ends_with("\nbusy_seconds_total 1.5\n# EOF\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn encode(families: &[MetricFamily], out: &mut Vec<u8>) {
    let written = families.iter().filter(|family| !family.name().is_empty() && !family.get_metric().is_empty());
    let mut names = Names::of(written.clone());
    for family in written {
        let header = Header::new(family, &mut names);
        header.write(family.help(), out);
        for metric in lines::fetched(family.get_metric()) {
            header.write_metric(metric, out);
        }
    }
    out.extend_from_slice(b"# EOF\n");
}

/// The names that families have, or keep for their series: no other family may be called so.
struct Names(HashSet<String>);

impl Names {
    /// All but those of the counters that lose their `_total`.
    fn of<'a>(families: impl Iterator<Item = &'a MetricFamily>) -> Self {
        let mut names = HashSet::new();
        for family in families {
            let suffixes: &[&str] = match family.get_field_type() {
                MetricType::HISTOGRAM => &["", "_bucket", "_count", "_sum", CREATED],
                MetricType::SUMMARY => &["", "_count", "_sum", CREATED],
                MetricType::COUNTER | MetricType::GAUGE | MetricType::UNTYPED => &[""],
            };
            names.extend(suffixes.iter().map(|suffix| format!("{}{suffix}", family.name())));
        }
        Names(names)
    }

    /// Takes the names of a counter called `stem`, if they are free. Those with `_total` it has already.
    fn take(&mut self, stem: &str) -> bool {
        let created = format!("{stem}{CREATED}");
        if self.0.contains(stem) || self.0.contains(&created) {
            return false;
        }
        self.0.extend([stem.to_owned(), created]);
        true
    }
}

/// Name and type of a family as OpenMetrics has them.
struct Header<'a> {
    name: &'a str,
    /// What a sample of the family has behind the name.
    suffix: &'static str,
    kind: MetricType,
    type_name: &'static str,
}

impl<'a> Header<'a> {
    fn new(family: &'a MetricFamily, names: &mut Names) -> Self {
        let (name, kind) = (family.name(), family.get_field_type());
        let type_name = match kind {
            MetricType::COUNTER => return Header::of_counter(family, names),
            MetricType::GAUGE => "gauge",
            MetricType::SUMMARY => "summary",
            MetricType::UNTYPED => "unknown",
            MetricType::HISTOGRAM => "histogram",
        };
        Header { name, suffix: "", kind, type_name }
    }

    fn of_counter(family: &'a MetricFamily, names: &mut Names) -> Self {
        let kind = MetricType::COUNTER;
        let counts = || family.get_metric().iter().all(|metric| is_count(lines::counter_value(metric)));
        let stem = family.name().strip_suffix(TOTAL).filter(|stem| !stem.is_empty() && counts());
        match stem.filter(|stem| names.take(stem)) {
            Some(name) => Header { name, suffix: TOTAL, kind, type_name: "counter" },
            None => Header { name: family.name(), suffix: "", kind, type_name: "unknown" },
        }
    }

    fn write(&self, help: &str, out: &mut Vec<u8>) {
        if !help.is_empty() {
            lines::open_comment("HELP", self.name, out);
            lines::escape_label(help, out);
            out.push(b'\n');
        }
        lines::open_comment("TYPE", self.name, out);
        out.extend_from_slice(self.type_name.as_bytes());
        out.push(b'\n');
        if let Some(unit) = unit(self.name) {
            lines::open_comment("UNIT", self.name, out);
            out.extend_from_slice(unit.as_bytes());
            out.push(b'\n');
        }
    }

    fn write_metric(&self, metric: &Metric, out: &mut Vec<u8>) {
        let value = match self.kind {
            MetricType::COUNTER => Some(lines::counter_value(metric)),
            MetricType::GAUGE => Some(lines::gauge_value(metric)),
            MetricType::UNTYPED => lines::untyped_value(metric),
            MetricType::SUMMARY => return write_summary(self.name, metric, metric.get_summary(), out),
            MetricType::HISTOGRAM => return write_histogram(self.name, metric, metric.get_histogram(), out),
        };
        if let Some(value) = value {
            lines::write_sample::<OpenMetrics>(self.name, self.suffix, metric, value, out);
        }
    }
}

fn write_summary(name: &str, metric: &Metric, summary: &Summary, out: &mut Vec<u8>) {
    let quantiles = summary.get_quantile().iter().map(|quantile| (quantile.quantile(), quantile.value()));
    let allowed = quantiles.filter(|(quantile, value)| (0.0..=1.0).contains(quantile) && !is_negative(*value));
    lines::write_quantiles::<OpenMetrics>(name, metric, allowed, out);
    write_sum(name, metric, summary.sample_sum(), out);
    lines::write_count::<OpenMetrics>(name, metric, summary.sample_count(), out);
}

fn write_histogram(name: &str, metric: &Metric, histogram: &Histogram, out: &mut Vec<u8>) {
    lines::write_buckets::<OpenMetrics>(name, metric, histogram, out);
    // What is below zero may make the sum fall. The count must be there if the sum is, and only then.
    let sum = histogram.get_sample_sum();
    if is_count(sum) && !histogram.get_bucket().iter().any(|bucket| is_negative(bucket.upper_bound())) {
        write_sum(name, metric, sum, out);
        lines::write_count::<OpenMetrics>(name, metric, histogram.get_sample_count(), out);
    }
}

/// A sum is a counter: one that is no count cannot be written.
fn write_sum(name: &str, metric: &Metric, sum: f64, out: &mut Vec<u8>) {
    if is_count(sum) {
        lines::write_sample::<OpenMetrics>(name, "_sum", metric, sum, out);
    }
}

/// Whether a counter may have this value.
fn is_count(value: f64) -> bool {
    value >= 0.0
}

fn is_negative(value: f64) -> bool {
    value < 0.0
}

/// The unit that a family's name ends in.
fn unit(name: &str) -> Option<&'static str> {
    let (_, last) = name.rsplit_once('_')?;
    UNITS.into_iter().find(|unit| *unit == last)
}

/// What is the format's own in the lines of samples.
struct OpenMetrics;

impl Dialect for OpenMetrics {
    /// As a label value a bound is compared as text, so the spec wants one text per number: with a point, or from a million
    /// and below a ten thousandth with an exponent (section "Canonical Numbers").
    fn write_bound(bound: f64, out: &mut Vec<u8>) {
        let magnitude = bound.abs();
        let is_small = magnitude < SMALLEST_PLAIN && magnitude > 0.0;
        if magnitude.is_finite() && (is_small || magnitude >= EXPONENT_FROM) {
            return lines::write_exponent(bound, out);
        }
        lines::write_float(bound, out);
        if magnitude.is_finite() && bound.fract() == 0.0 {
            out.extend_from_slice(b".0");
        }
    }

    fn write_timestamp(milliseconds: i64, out: &mut Vec<u8>) {
        lines::write_float(milliseconds as f64 / 1e3, out);
    }
}

/// What the samples of a counter end in.
const TOTAL: &str = "_total";

/// What the time of its creation would end in, which a counter, histogram or summary may tell. Ours do not.
const CREATED: &str = "_created";

/// The base units of Prometheus; a name may end in another one and then says so by itself.
const UNITS: [&str; 10] =
    ["seconds", "bytes", "ratio", "celsius", "meters", "volts", "amperes", "joules", "grams", "hertz"];

/// The smallest and the first too large bound written without an exponent.
const SMALLEST_PLAIN: f64 = 1e-4;
const EXPONENT_FROM: f64 = 1e6;
