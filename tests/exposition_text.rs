//! The text format 0.0.4: a golden page, the numbers one by one, and `prometheus::TextEncoder` as the
//! second opinion on random registries.

#[path = "support/families.rs"]
mod families;

use dosimeter::exposition::text;
use families::{at, family, gauge, histogram, labels, summary};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntGaugeVec, Opts, Registry, TextEncoder};
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn every_type_is_written_as_in_the_golden_file() {
    assert_eq!(encode(&families::golden()), include_str!("golden/exposition_text.txt"));
}

#[test]
fn numbers_are_the_shortest_that_read_back() {
    for (value, written) in [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-17.0, "-17"),
        (1_000_000.0, "1000000"),
        (9_007_199_254_740_991.0, "9007199254740991"),
        (9_007_199_254_740_992.0, "9007199254740992"),
        (1e20, "100000000000000000000"),
        (123_456_789_012_345_680_000.0, "123456789012345680000"),
        (1e21, "1e+21"),
        (-1.5e300, "-1.5e+300"),
        (f64::MAX, "1.7976931348623157e+308"),
        (0.1, "0.1"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1.0 / 3.0, "0.3333333333333333"),
        (-1_234_567.75, "-1234567.75"),
        (0.0001, "0.0001"),
        (0.000_099, "9.9e-05"),
        (1e-5, "1e-05"),
        (2.5e-10, "2.5e-10"),
        (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
        (5e-324, "5e-324"),
        (f64::NAN, "NaN"),
        (-f64::NAN, "NaN"),
        (f64::INFINITY, "+Inf"),
        (f64::NEG_INFINITY, "-Inf"),
    ] {
        assert_eq!(written_value(value), written);
    }
}

#[test]
fn counts_are_exact_beyond_the_integers_of_a_float() {
    let count = (1 << 53) + 1;
    let page = encode(&[family("h", "", MetricType::HISTOGRAM, vec![histogram(labels(&[]), &[], count, 0.0)])]);
    assert!(page.contains("h_bucket{le=\"+Inf\"} 9007199254740993\n"), "{page}");
    assert!(page.contains("h_count 9007199254740993\n"), "{page}");
}

#[test]
fn a_family_without_metrics_or_name_does_not_cost_the_others() {
    let families = [
        family("none", "", MetricType::GAUGE, vec![]),
        family("", "", MetricType::GAUGE, vec![gauge(labels(&[]), 1.0)]),
        family("one", "", MetricType::GAUGE, vec![gauge(labels(&[]), 1.0)]),
    ];
    assert!(TextEncoder::new().encode_to_string(&families).is_err(), "TextEncoder gives up on the page");
    assert_eq!(encode(&families), "# TYPE one gauge\none 1\n");
}

#[test]
fn encoding_appends() {
    let mut out = b"before\n".to_vec();
    text::encode(&[family("a", "", MetricType::GAUGE, vec![gauge(labels(&[]), 1.0)])], &mut out);
    assert_eq!(out, b"before\n# TYPE a gauge\na 1\n");
}

#[test]
fn a_page_longer_than_one_batch_keeps_its_order() {
    let metrics = (0..1_000).map(|i| gauge(labels(&[("i", &i.to_string())]), f64::from(i))).collect();
    let page = encode(&[family("a", "", MetricType::GAUGE, metrics)]);
    let expected = (0..1_000).map(|i| format!("a{{i=\"{i}\"}} {i}"));
    assert!(page.lines().skip(1).map(String::from).eq(expected));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_float_reads_back(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        let written = written_value(value);
        prop_assert!(same(written.parse().unwrap(), value), "{value} was written {written}");
        prop_assert!(written.len() <= "-1.7976931348623157e+308".len(), "{written}");
    }

    #[test]
    fn short_decimals_are_written_as_one_would(units in -99_999_999_i64..99_999_999, places in 1_u32..5) {
        let value = units as f64 / 10_f64.powi(places as i32);
        prop_assume!(value.abs() >= 1e-4);
        prop_assert_eq!(written_value(value), value.to_string());
    }

    #[test]
    fn random_registries_say_the_same_as_text_encoder(series in vec(any_series(), 0..40)) {
        let registry = Registry::new();
        let vectors = Vectors::registered_in(&registry);
        for one in &series {
            vectors.record(one);
        }
        assert_same_samples(&registry.gather())?;
    }

    #[test]
    fn random_families_say_the_same_as_text_encoder(families in vec(any_family(), 0..6)) {
        assert_same_samples(&families)?;
    }
}

// ---- comparing with TextEncoder ---------------------------------------------------------------------

fn assert_same_samples(families: &[MetricFamily]) -> Result<(), TestCaseError> {
    let ours = encode(families);
    let theirs = TextEncoder::new().encode_to_string(families).expect("the families are valid");
    prop_assert!(ours.is_empty() || ours.ends_with('\n'));
    prop_assert_eq!(ours.lines().count(), theirs.lines().count());
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        let (a, b) = (Line::parse(ours), Line::parse(theirs));
        prop_assert!(a.is_same(&b), "ours: {}\ntheirs: {}", ours, theirs);
    }
    Ok(())
}

#[derive(Debug)]
enum Line<'a> {
    Comment(&'a str),
    Sample {
        /// Name and labels, up to and without the value of `le` or `quantile`.
        series: &'a str,
        bound: Option<f64>,
        value: f64,
        timestamp: Option<&'a str>,
    },
}

impl Line<'_> {
    fn parse(line: &str) -> Line<'_> {
        if line.starts_with('#') {
            return Line::Comment(line);
        }
        // Label values may hold spaces and braces; after the last brace there are only numbers.
        let end = line.rfind('}').map_or_else(|| line.find(' ').expect("a sample has a value"), |at| at + 1);
        let (series, numbers) = line.split_at(end);
        let mut numbers = numbers.split_whitespace();
        let value = numbers.next().and_then(|value| value.parse().ok()).expect("a sample has a value");
        let (series, bound) = split_bound(series);
        Line::Sample { series, bound, value, timestamp: numbers.next() }
    }

    fn is_same(&self, other: &Line<'_>) -> bool {
        match (self, other) {
            (Line::Comment(a), Line::Comment(b)) => a == b,
            (
                Line::Sample { series, bound, value, timestamp },
                Line::Sample { series: series_b, bound: bound_b, value: value_b, timestamp: timestamp_b },
            ) => {
                let same_bound = match (bound, bound_b) {
                    (Some(a), Some(b)) => same(*a, *b),
                    (a, b) => a == b,
                };
                series == series_b && same_bound && same(*value, *value_b) && timestamp == timestamp_b
            }
            _ => false,
        }
    }
}

fn split_bound(series: &str) -> (&str, Option<f64>) {
    for extra in ["le=\"", "quantile=\""] {
        if let Some((start, bound)) = series.rsplit_once(extra)
            && let Some(bound) = bound.strip_suffix("\"}")
            && let Ok(bound) = bound.parse()
        {
            return (start, Some(bound));
        }
    }
    (series, None)
}

/// Equal, with NaN equal to itself.
fn same(a: f64, b: f64) -> bool {
    a == b || a.is_nan() && b.is_nan()
}

// ---- random registries ------------------------------------------------------------------------------

#[derive(Clone, Debug)]
struct Series {
    labels: [String; 2],
    value: f64,
}

fn any_series() -> impl Strategy<Value = Series> {
    (any_text(), any_text(), any_value()).prop_map(|(a, b, value)| Series { labels: [a, b], value })
}

/// Mostly the characters that are hard to carry.
fn any_text() -> impl Strategy<Value = String> {
    let hard = proptest::sample::select(vec!["\\", "\"", "\n", "{", "}", "=", ",", " ", "le=", "a", "é", "\\n"]);
    vec(hard, 0..6).prop_map(|parts| parts.concat())
}

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        any::<u64>().prop_map(f64::from_bits),
        any::<i32>().prop_map(f64::from),
        proptest::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e21, 1e-5]),
    ]
}

struct Vectors {
    counters: CounterVec,
    gauges: GaugeVec,
    integers: IntGaugeVec,
    histograms: HistogramVec,
}

impl Vectors {
    fn registered_in(registry: &Registry) -> Vectors {
        let names = &["a", "b"];
        let buckets = HistogramOpts::new("d", "Some\\thing \"measured\".").buckets(vec![1e-6, 0.005, 1.0, 1e22]);
        let vectors = Vectors {
            counters: CounterVec::new(Opts::new("a_total", "Counted."), names).unwrap(),
            gauges: GaugeVec::new(Opts::new("b", "Of two\nlines."), names).unwrap(),
            integers: IntGaugeVec::new(Opts::new("c", "Whole."), names).unwrap(),
            histograms: HistogramVec::new(buckets, names).unwrap(),
        };
        registry.register(Box::new(vectors.counters.clone())).unwrap();
        registry.register(Box::new(vectors.gauges.clone())).unwrap();
        registry.register(Box::new(vectors.integers.clone())).unwrap();
        registry.register(Box::new(vectors.histograms.clone())).unwrap();
        vectors
    }

    fn record(&self, series: &Series) {
        let [a, b] = &series.labels;
        // A counter refuses to go down, and NaN is no step up.
        self.counters.with_label_values(&[a, b]).inc_by(series.value.abs().max(0.0));
        self.gauges.with_label_values(&[a, b]).set(series.value);
        self.integers.with_label_values(&[a, b]).set(series.value as i64);
        self.histograms.with_label_values(&[a, b]).observe(series.value);
    }
}

/// Families as only a collector of one's own makes them: summaries, timestamps, any counts and bounds.
fn any_family() -> impl Strategy<Value = MetricFamily> {
    let point = (any_value(), any::<u64>(), any_value());
    let metric = (any_series(), vec(point, 0..4), any::<u64>(), prop_oneof![Just(0), any::<i64>()]);
    let kind = proptest::sample::select(vec![MetricType::SUMMARY, MetricType::HISTOGRAM, MetricType::GAUGE]);
    (kind, any_text(), vec(metric, 1..4)).prop_map(|(kind, help, metrics)| {
        let metrics = metrics.into_iter().map(|(series, points, count, timestamp_ms)| {
            let [a, b] = &series.labels;
            let labels = labels(&[("a", a), ("b", b)]);
            let buckets: Vec<_> = points.iter().map(|&(bound, count, _)| (bound, count)).collect();
            let quantiles: Vec<_> = points.iter().map(|&(quantile, _, value)| (quantile, value)).collect();
            at(
                timestamp_ms,
                match kind {
                    MetricType::SUMMARY => summary(labels, &quantiles, count, series.value),
                    MetricType::HISTOGRAM => histogram(labels, &buckets, count, series.value),
                    _ => gauge(labels, series.value),
                },
            )
        });
        family("a_family", &help, kind, metrics.collect())
    })
}

// ---- writing ------------------------------------------------------------------------------------------

fn encode(families: &[MetricFamily]) -> String {
    let mut out = Vec::new();
    text::encode(families, &mut out);
    String::from_utf8(out).expect("a page is UTF-8")
}

fn written_value(value: f64) -> String {
    let page = encode(&[family("a", "", MetricType::GAUGE, vec![gauge(labels(&[]), value)])]);
    let value = page.strip_prefix("# TYPE a gauge\na ").and_then(|value| value.strip_suffix('\n'));
    value.expect("a page of one gauge").to_string()
}
