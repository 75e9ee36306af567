//! What the lines of every text exposition are made of: series, escapes and numbers.
//!
//! Rules this file keeps:
//! 1. Everything appends to one buffer; no line allocates, and what repeats is copied, not made again.
//! 2. A number reads back as the very same `f64`, in the shortest digits that do so.
//! 3. No label value, whatever it holds, can end its quotes or its line.
//! 4. Only this file knows that `prometheus::proto` comes in two shapes (see [`Value`]).

use std::hint::black_box;
use std::io::Write;
use std::ops::Range;
use std::sync::Once;

use prometheus::proto::{self, Histogram, LabelPair, Metric};

/// The metrics in order, their labels and buckets asked of the memory a batch ahead.
///
/// A gathered metric is half a dozen small allocations, and a registry sorts the metrics but not those: of
/// a large page nearly every string is a cache miss. Written line by line, each line waits for its own;
/// touched together, the misses of a whole batch overlap. 100,000 counters encode 2.5 times as fast.
pub(crate) fn fetched(metrics: &[Metric]) -> impl Iterator<Item = &Metric> {
    metrics.chunks(BATCH).flat_map(|batch| {
        // The sum is of no use; without it the reads would be none either.
        black_box(batch.iter().map(touch).sum::<u64>());
        batch
    })
}

/// What the formats differ in within the line of a sample.
pub(crate) trait Dialect {
    /// Writes the value of `le` or `quantile`.
    fn write_bound(bound: f64, out: &mut Vec<u8>);

    /// Writes a time in the format's unit.
    fn write_timestamp(milliseconds: i64, out: &mut Vec<u8>);
}

/// Writes `# keyword name ` of a comment that says something of a family.
pub(crate) fn open_comment(keyword: &str, name: &str, out: &mut Vec<u8>) {
    for part in ["# ", keyword, " ", name, " "] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes the line of one sample.
pub(crate) fn write_sample<D: Dialect>(name: &str, suffix: &str, metric: &Metric, value: f64, out: &mut Vec<u8>) {
    write_series(name, suffix, metric.get_label(), out);
    out.push(b' ');
    write_float(value, out);
    end_line::<D>(metric, out);
}

/// Writes the line of a `_count`, exactly.
pub(crate) fn write_count<D: Dialect>(name: &str, metric: &Metric, count: u64, out: &mut Vec<u8>) {
    write_series(name, "_count", metric.get_label(), out);
    out.push(b' ');
    write_integer(count, out);
    end_line::<D>(metric, out);
}

/// Writes the lines of the buckets; the last one is `+Inf`, stored or not.
pub(crate) fn write_buckets<D: Dialect>(name: &str, metric: &Metric, histogram: &Histogram, out: &mut Vec<u8>) {
    let stored = histogram.get_bucket().iter();
    let stored = stored.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let is_complete = stored.clone().any(|(bound, _)| bound == f64::INFINITY);
    let last = (!is_complete).then_some((f64::INFINITY, histogram.get_sample_count()));

    let mut opening = Opening::new(name, "_bucket", metric.get_label(), "le");
    for (bound, cumulative) in stored.chain(last) {
        opening.write(out);
        D::write_bound(bound, out);
        out.extend_from_slice(CLOSING);
        write_integer(cumulative, out);
        end_line::<D>(metric, out);
    }
}

/// Writes the lines of quantiles, given as quantile and value.
pub(crate) fn write_quantiles<D: Dialect>(
    name: &str,
    metric: &Metric,
    quantiles: impl Iterator<Item = (f64, f64)>,
    out: &mut Vec<u8>,
) {
    let mut opening = Opening::new(name, "", metric.get_label(), "quantile");
    for (quantile, value) in quantiles {
        opening.write(out);
        D::write_bound(quantile, out);
        out.extend_from_slice(CLOSING);
        write_float(value, out);
        end_line::<D>(metric, out);
    }
}

/// Writes a label value with `\`, `"` and line feed escaped; OpenMetrics has help texts so as well.
pub(crate) fn escape_label(value: &str, out: &mut Vec<u8>) {
    escape(value, |byte| matches!(byte, b'\\' | b'"' | b'\n'), out);
}

/// Writes a help text with `\` and line feed escaped; text format 0.0.4 leaves quotes alone there.
pub(crate) fn escape_help(help: &str, out: &mut Vec<u8>) {
    escape(help, |byte| matches!(byte, b'\\' | b'\n'), out);
}

/// Writes a sample value or bound: `3`, `0.25`, `1e-05`, `1.5e+300`, `NaN`, `+Inf`, `-Inf`.
///
/// Digits from 1e-4 up to below 1e21, and an exponent of at least two digits outside, where plain digits
/// would run to three hundred. Negative zero is written `0`: it is no other sample.
pub(crate) fn write_float(value: f64, out: &mut Vec<u8>) {
    let magnitude = value.abs();
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if magnitude.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    } else if magnitude < EXACT_INTEGERS && value as i64 as f64 == value {
        write_integer(value as i64, out);
    } else if (DIGITS_FROM..EXPONENT_FROM).contains(&magnitude) {
        write_digits(value, out);
    } else {
        write_exponent(value, out);
    }
}

/// Writes an integer of any width.
pub(crate) fn write_integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The value of a counter.
pub(crate) fn counter_value(metric: &Metric) -> f64 {
    metric.get_counter().value()
}

/// The value of a gauge.
pub(crate) fn gauge_value(metric: &Metric) -> f64 {
    metric.get_gauge().value()
}

/// The value of an untyped metric, if this build of `prometheus` lets it be read.
///
/// With its `protobuf` feature on, the field is there but has no accessor. Nothing in `prometheus` makes
/// untyped metrics, so only a collector of one's own can meet this; it is told so in the log.
#[allow(deprecated, reason = "the plain model has no other accessor")]
#[allow(clippy::useless_conversion, reason = "it is one only with the protobuf model")]
pub(crate) fn untyped_value(metric: &Metric) -> Option<f64> {
    let untyped: Option<&proto::Untyped> = metric.get_untyped().into();
    if untyped.is_none() {
        UNREADABLE.call_once(|| {
            log::warn!(target: LOG, "untyped metrics are left out: prometheus' `protobuf` feature hides their values");
        });
    }
    untyped.map(|untyped| untyped.value())
}

/// Reads a byte of everything [`Metric`] points to.
fn touch(metric: &Metric) -> u64 {
    let first = |text: &str| text.bytes().next().map_or(0, u64::from);
    let labels = metric.get_label().iter();
    let labels: u64 = labels.map(|label| first(label.name()) + first(label.value())).sum();
    let bucket = metric.get_histogram().get_bucket().first();
    labels + bucket.map_or(0, |bucket| bucket.cumulative_count() & 1)
}

/// Writes `name_suffix{label="value",…}`, or without the braces if there are no labels.
fn write_series(name: &str, suffix: &str, labels: &[LabelPair], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(suffix.as_bytes());
    if !labels.is_empty() {
        write_label_pairs(labels, out);
        out.push(b'}');
    }
}

fn end_line<D: Dialect>(metric: &Metric, out: &mut Vec<u8>) {
    let timestamp_ms = metric.timestamp_ms();
    if timestamp_ms != 0 {
        out.push(b' ');
        D::write_timestamp(timestamp_ms, out);
    }
    out.push(b'\n');
}

/// The start of a series that has one more label, as in `name_bucket{label="value",le="`.
///
/// A histogram repeats it on every line and only the bound differs, so the text is written once and
/// then copied from where it already stands in the buffer.
struct Opening<'a> {
    name: &'a str,
    suffix: &'a str,
    labels: &'a [LabelPair],
    extra: &'a str,
    written: Option<Range<usize>>,
}

impl<'a> Opening<'a> {
    fn new(name: &'a str, suffix: &'a str, labels: &'a [LabelPair], extra: &'a str) -> Self {
        Opening { name, suffix, labels, extra, written: None }
    }

    /// Writes it; the caller goes on with the value of `extra`, then [`CLOSING`]. From the first time to the last, the
    /// buffer must only grow.
    fn write(&mut self, out: &mut Vec<u8>) {
        match &self.written {
            Some(written) => out.extend_from_within(written.clone()),
            None => self.write_first(out),
        }
    }

    fn write_first(&mut self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(self.suffix.as_bytes());
        write_label_pairs(self.labels, out);
        out.push(if self.labels.is_empty() { b'{' } else { b',' });
        out.extend_from_slice(self.extra.as_bytes());
        out.extend_from_slice(b"=\"");
        self.written = Some(start..out.len());
    }
}

fn write_label_pairs(labels: &[LabelPair], out: &mut Vec<u8>) {
    let mut separator = b'{';
    for label in labels {
        out.push(separator);
        out.extend_from_slice(label.name().as_bytes());
        out.extend_from_slice(b"=\"");
        escape_label(label.value(), out);
        out.push(b'"');
        separator = b',';
    }
}

fn escape(text: &str, is_special: impl Fn(u8) -> bool, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| is_special(byte)) {
        out.extend_from_slice(&rest[..at]);
        out.push(b'\\');
        out.push(if rest[at] == b'\n' { b'n' } else { rest[at] });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

fn write_digits(value: f64, out: &mut Vec<u8>) {
    write!(out, "{value}").expect("a Vec takes all that is written");
}

/// Writes a finite number as `1.5e+06`, the exponent with a sign and at least two digits.
pub(crate) fn write_exponent(value: f64, out: &mut Vec<u8>) {
    let start = out.len();
    write!(out, "{value:e}").expect("a Vec takes all that is written");
    let e = out[start..].iter().position(|&byte| byte == b'e').expect("`{:e}` writes an `e`");
    let exponent = start + e + 1;
    if out[exponent] != b'-' {
        out.insert(exponent, b'+');
    }
    if out.len() == exponent + 2 {
        out.insert(exponent + 1, b'0');
    }
}

/// Reads a value from either shape of `prometheus::proto`.
///
/// `prometheus` has plain structs with `get_value()`, or, with its default feature `protobuf`, generated
/// messages with `value()`. Which one is not ours to say: Cargo unifies features, so any crate in the
/// build may turn `protobuf` on, and code that knew one shape would then stop compiling. An inherent
/// method is preferred to one of a trait: `value()` finds the generated accessor where there is one, and
/// otherwise this one, which finds `get_value()` by the same rule the other way round.
#[allow(dead_code, reason = "which of the two traits is used depends on the shape")]
trait Value {
    fn value(&self) -> f64;
}

/// The counterpart of [`Value`], only so that its body compiles in both shapes.
#[allow(dead_code, reason = "which of the two traits is used depends on the shape")]
trait GetValue {
    fn get_value(&self) -> f64;
}

macro_rules! value_in_either_shape {
    ($($message:ty),*) => {$(
        impl Value for $message {
            #[allow(deprecated, reason = "`Untyped` of the plain model has no other accessor")]
            fn value(&self) -> f64 {
                self.get_value()
            }
        }
        impl GetValue for $message {
            fn get_value(&self) -> f64 {
                self.value()
            }
        }
    )*};
}

value_in_either_shape!(proto::Counter, proto::Gauge, proto::Untyped);

/// Stands in for the accessor that the protobuf shape lacks.
#[allow(dead_code, reason = "the plain shape has the accessor")]
trait HiddenUntyped {
    fn get_untyped(&self) -> Option<&proto::Untyped> {
        None
    }
}

impl HiddenUntyped for Metric {}

/// So that the log says it once and not at every scrape.
static UNREADABLE: Once = Once::new();

const LOG: &str = "dosimeter::metrics";

/// Metrics touched together: enough misses to keep the memory busy, few enough to stay in the first cache.
const BATCH: usize = 32;

/// What follows the value after an [`Opening`], up to that of the sample.
const CLOSING: &[u8] = b"\"} ";

/// Below 2^53 an `f64` without a fraction is exactly the integer it shows.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// The smallest fraction written without an exponent.
const DIGITS_FROM: f64 = 1e-4;

/// The smallest number written with an exponent; 21 digits still fit the eye.
const EXPONENT_FROM: f64 = 1e21;
