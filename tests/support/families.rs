//! Families of metrics made by hand, and those of the golden pages: every type, escapes, and numbers that are hard to carry.
#![allow(dead_code, reason = "not every test needs all of it")]

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType, Quantile, Summary, Untyped,
};

/// What the golden files show, each in its format.
pub fn golden() -> Vec<MetricFamily> {
    [single_values(), histograms(), the_rest()].concat()
}

/// What a registry takes and OpenMetrics does not allow as it is: names, values and sums.
pub fn odd() -> Vec<MetricFamily> {
    let (none, hard) = (labels(&[]), labels(&[("empty", ""), ("text", "\r\t\u{7f}\u{2028}{}=,# ")]));
    let counted = |name: &str, value| family(name, "", MetricType::COUNTER, vec![counter(none.clone(), value)]);
    let level = |name: &str| family(name, "", MetricType::GAUGE, vec![gauge(none.clone(), 2.0)]);
    let spread = |name: &str, metric| family(name, "", MetricType::HISTOGRAM, vec![metric]);
    vec![
        family("a_info", "\"\"\\\r", MetricType::GAUGE, vec![gauge(hard, 1.0)]),
        level("a_bucket"),
        level("a_total"),
        counted("a_total_total", 3.0),
        counted("b", 4.0),
        counted("b_total", 5.0),
        level("c_created"),
        counted("c_total", 6.0),
        counted("d_created_total", 7.0),
        counted("d_total", 8.0),
        counted("falling_total", -9.0),
        counted("lost_seconds_total", f64::NAN),
        counted("_total", 10.0),
        counted("endless_total", f64::INFINITY),
        spread("below_zero", histogram(none.clone(), &[(-1.0, 1), (0.0, 1), (1.0, 2)], 3, 4.5)),
        counted("below_zero_count_total", 11.0),
        spread("negative", histogram(none.clone(), &[(1.0, 2)], 2, -1.5)),
        spread("no_number", histogram(none.clone(), &[(1.0, 1)], 2, f64::NAN)),
        spread("without_bounds", histogram(none.clone(), &[], u64::MAX, f64::INFINITY)),
        family(
            "rare",
            "",
            MetricType::SUMMARY,
            vec![summary(none.clone(), &[(-1.0, 1.0), (0.5, -1.0), (1.0, f64::NAN), (2.0, 1.0)], 12, f64::NAN)],
        ),
        counted("rare_sum_total", 13.0),
    ]
}

fn single_values() -> Vec<MetricFamily> {
    vec![
        family(
            "requests_total",
            "Requests served.",
            MetricType::COUNTER,
            vec![
                counter(labels(&[("method", "GET"), ("route", "/")]), 1_027.0),
                counter(labels(&[("method", "POST"), ("route", "/")]), 3.0),
            ],
        ),
        family(
            "temperature_celsius",
            "",
            MetricType::GAUGE,
            vec![
                gauge(labels(&[]), -3.25),
                gauge(labels(&[("site", "nowhere")]), f64::NAN),
                gauge(labels(&[("site", "above")]), f64::INFINITY),
                gauge(labels(&[("site", "below")]), f64::NEG_INFINITY),
            ],
        ),
        family(
            "path_info",
            "A \\ \"quoted\" help\nof two lines.",
            MetricType::GAUGE,
            vec![gauge(labels(&[("path", "C:\\DIR\\"), ("text", "say \"hi\"\n{to, all} = ünïcödé")]), 1.0)],
        ),
        family("empty", "Has no metrics and is not written.", MetricType::COUNTER, vec![]),
    ]
}

fn histograms() -> Vec<MetricFamily> {
    vec![
        family(
            "latency_seconds",
            "Without a stored +Inf bucket.",
            MetricType::HISTOGRAM,
            vec![
                histogram(labels(&[]), &[(0.005, 1), (0.5, 2), (10.0, 2)], 3, 12.575),
                histogram(labels(&[("route", "/")]), &[(0.005, 0), (0.5, 4)], 4, 0.4),
            ],
        ),
        family(
            "size_bytes",
            "With one.",
            MetricType::HISTOGRAM,
            vec![histogram(labels(&[]), &[(1_048_576.0, 5), (f64::INFINITY, 6)], 6, 1.5e9)],
        ),
    ]
}

fn the_rest() -> Vec<MetricFamily> {
    vec![
        family(
            "rpc_seconds",
            "Quantiles.",
            MetricType::SUMMARY,
            vec![
                summary(labels(&[("call", "get")]), &[(0.5, 0.0125), (0.99, f64::NAN)], 2, 0.025),
                summary(labels(&[]), &[], 0, 0.0),
            ],
        ),
        family(
            "busy_seconds_total",
            "Has a unit.",
            MetricType::COUNTER,
            vec![counter(labels(&[("cpu", "0")]), 1.5), counter(labels(&[("cpu", "1")]), 1e21)],
        ),
        family("anything", "Untyped.", MetricType::UNTYPED, vec![untyped(labels(&[]), 0.1)]),
        family(
            "seen",
            "With timestamps.",
            MetricType::COUNTER,
            vec![
                at(1_395_066_363_000, counter(labels(&[]), 1.0)),
                at(-1_000, counter(labels(&[("before", "1970")]), 2.0)),
            ],
        ),
    ]
}

pub fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

pub fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |&(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.into());
        pair.set_value(value.into());
        pair
    };
    pairs.iter().map(pair).collect()
}

pub fn counter(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

pub fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

#[allow(deprecated, reason = "the model has no other way to make one")]
pub fn untyped(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut untyped = Untyped::default();
    untyped.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_untyped(untyped);
    metric
}

pub fn histogram(labels: Vec<LabelPair>, buckets: &[(f64, u64)], count: u64, sum: f64) -> Metric {
    let bucket = |&(bound, count): &(f64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.iter().map(bucket).collect());
    histogram.set_sample_count(count);
    histogram.set_sample_sum(sum);
    let mut metric = Metric::from_label(labels);
    metric.set_histogram(histogram);
    metric
}

pub fn summary(labels: Vec<LabelPair>, quantiles: &[(f64, f64)], count: u64, sum: f64) -> Metric {
    let quantile = |&(at, value): &(f64, f64)| {
        let mut quantile = Quantile::default();
        quantile.set_quantile(at);
        quantile.set_value(value);
        quantile
    };
    let mut summary = Summary::default();
    summary.set_quantile(quantiles.iter().map(quantile).collect());
    summary.set_sample_count(count);
    summary.set_sample_sum(sum);
    let mut metric = Metric::from_label(labels);
    metric.set_summary(summary);
    metric
}

pub fn at(timestamp_ms: i64, mut metric: Metric) -> Metric {
    metric.set_timestamp_ms(timestamp_ms);
    metric
}
