//! OpenMetrics 1.0.0: a golden page, the bounds one by one, and what the format forbids. (A strict parser that is not ours
//! reads the same pages in `tests/e2e/exposition.py`.)

#[path = "support/families.rs"]
mod families;

use dosimeter::exposition::{openmetrics, text};
use families::{counter, family, gauge, histogram, labels, summary, untyped};
use prometheus::proto::{MetricFamily, MetricType};
use proptest::prelude::*;

#[test]
fn every_type_is_written_as_in_the_golden_file() {
    assert_eq!(encode(&families::golden()), include_str!("golden/exposition_openmetrics.txt"));
}

#[test]
fn what_is_not_allowed_is_written_as_far_as_it_is() {
    assert_eq!(encode(&families::odd()), include_str!("golden/exposition_openmetrics_odd.txt"));
}

#[test]
fn a_page_without_metrics_has_its_end() {
    assert_eq!(encode(&[]), "# EOF\n");
    assert_eq!(encode(&[family("none", "", MetricType::GAUGE, vec![])]), "# EOF\n");
    assert_eq!(encode(&[family("", "", MetricType::GAUGE, vec![gauge(labels(&[]), 1.0)])]), "# EOF\n");
}

#[test]
fn bounds_are_canonical() {
    for (bound, written) in [
        (0.0, "0.0"),
        (-0.0, "0.0"),
        (1.0, "1.0"),
        (-17.0, "-17.0"),
        (0.005, "0.005"),
        (2.5, "2.5"),
        (1e-10, "1e-10"),
        (0.000_01, "1e-05"),
        (0.0001, "0.0001"),
        (100_000.0, "100000.0"),
        (123_456.5, "123456.5"),
        (1e6, "1e+06"),
        (1_048_576.0, "1.048576e+06"),
        (1e10, "1e+10"),
        (-2e7, "-2e+07"),
        (1e100, "1e+100"),
        (f64::INFINITY, "+Inf"),
    ] {
        let page =
            encode(&[family("h", "", MetricType::HISTOGRAM, vec![histogram(labels(&[]), &[(bound, 1)], 1, 1.0)])]);
        assert!(page.contains(&format!("\nh_bucket{{le=\"{written}\"}} 1\n")), "{bound}: {page}");
    }
}

#[test]
fn names_that_end_in_a_unit_say_so() {
    let one = |name: &str, kind| encode(&[family(name, "", kind, vec![counter(labels(&[]), 1.0)])]);
    assert_eq!(
        one("sent_bytes_total", MetricType::COUNTER),
        "# TYPE sent_bytes counter\n# UNIT sent_bytes bytes\nsent_bytes_total 1\n# EOF\n"
    );
    for name in ["seconds_total", "sent_total", "megabytes_total"] {
        assert!(!one(name, MetricType::COUNTER).contains("UNIT"), "{name}");
    }
}

#[test]
fn a_counter_that_cannot_be_one_here_keeps_its_samples() {
    let alone = |name: &str, value| encode(&[family(name, "", MetricType::COUNTER, vec![counter(labels(&[]), value)])]);
    assert_eq!(alone("seen", 1.0), "# TYPE seen unknown\nseen 1\n# EOF\n");
    assert_eq!(alone("_total", 1.0), "# TYPE _total unknown\n_total 1\n# EOF\n");
    assert_eq!(alone("down_total", -1.0), "# TYPE down_total unknown\ndown_total -1\n# EOF\n");
    assert_eq!(alone("lost_total", f64::NAN), "# TYPE lost_total unknown\nlost_total NaN\n# EOF\n");
    let clash = [
        family("jobs", "", MetricType::GAUGE, vec![gauge(labels(&[]), 2.0)]),
        family("jobs_total", "", MetricType::COUNTER, vec![counter(labels(&[]), 3.0)]),
    ];
    assert_eq!(encode(&clash), "# TYPE jobs gauge\njobs 2\n# TYPE jobs_total unknown\njobs_total 3\n# EOF\n");
}

/// Families, and what is said of each.
type Case<'a> = (&'a [(&'a str, MetricType)], &'a [&'a str]);

#[test]
fn no_family_has_a_name_that_another_keeps_for_itself() {
    let (counters, gauges) = (MetricType::COUNTER, MetricType::GAUGE);
    let one = |name: &str, kind| {
        let metric = match kind {
            MetricType::COUNTER => counter(labels(&[]), 1.0),
            MetricType::GAUGE => gauge(labels(&[]), 1.0),
            MetricType::SUMMARY => summary(labels(&[]), &[], 1, 1.0),
            _ => histogram(labels(&[]), &[], 1, 1.0),
        };
        family(name, "", kind, vec![metric])
    };
    let cases: &[Case<'_>] = &[
        (&[("x_total", counters)], &["x counter"]),
        (&[("x_total_total", counters)], &["x_total counter"]),
        (&[("x_total", counters), ("x_total_total", counters)], &["x counter", "x_total_total unknown"]),
        (&[("x", counters), ("x_total", counters)], &["x unknown", "x_total unknown"]),
        // A gauge may be called as it likes.
        (&[("x_total", gauges)], &["x_total gauge"]),
        (&[("x_info", gauges), ("x_bucket", gauges)], &["x_info gauge", "x_bucket gauge"]),
        // The time of a counter's creation would be told as `x_created`.
        (&[("x_created", gauges), ("x_total", counters)], &["x_created gauge", "x_total unknown"]),
        (&[("x_created_total", counters), ("x_total", counters)], &["x_created counter", "x_total unknown"]),
        (&[("x_total", counters), ("x_created_total", counters)], &["x counter", "x_created_total unknown"]),
        (
            &[("x", MetricType::HISTOGRAM), ("x_count_total", counters), ("x_counts_total", counters)],
            &["x histogram", "x_count_total unknown", "x_counts counter"],
        ),
        (&[("x_bucket_total", counters), ("x", MetricType::HISTOGRAM)], &["x_bucket_total unknown", "x histogram"]),
        (&[("x", MetricType::SUMMARY), ("x_sum_total", counters)], &["x summary", "x_sum_total unknown"]),
        (&[("x", MetricType::SUMMARY), ("x_bucket_total", counters)], &["x summary", "x_bucket counter"]),
    ];
    for (families, expected) in cases {
        let page = encode(&families.iter().map(|(name, kind)| one(name, *kind)).collect::<Vec<_>>());
        let types: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert_eq!(&types, expected);
        for (name, kind) in families.iter().filter(|(_, kind)| [counters, gauges].contains(kind)) {
            assert!(page.contains(&format!("\n{name} 1\n")), "{kind:?} {name} lost its sample in {page}");
        }
    }
}

#[test]
fn sums_that_are_no_counters_are_left_out() {
    let sums = |kind, metric| {
        let page = encode(&[family("h", "", kind, vec![metric])]);
        let (sums, counts) = (page.matches("h_sum").count(), page.matches("h_count").count());
        assert!(counts == sums || kind == MetricType::SUMMARY, "a histogram has both or neither: {page}");
        assert!(counts == 1 || page.contains("h_bucket{le=\"+Inf\"} 1\n"), "the number itself is lost: {page}");
        sums
    };
    let bounds = |bound, sum| histogram(labels(&[]), &[(bound, 1)], 1, sum);
    assert_eq!(sums(MetricType::HISTOGRAM, bounds(0.0, 1.0)), 1);
    assert_eq!(sums(MetricType::HISTOGRAM, bounds(1.0, f64::INFINITY)), 1);
    assert_eq!(sums(MetricType::HISTOGRAM, bounds(1.0, -1.0)), 0);
    assert_eq!(sums(MetricType::HISTOGRAM, bounds(1.0, f64::NAN)), 0);
    assert_eq!(sums(MetricType::HISTOGRAM, bounds(-1.0, 1.0)), 0);
    assert_eq!(sums(MetricType::SUMMARY, summary(labels(&[]), &[], 1, 1.0)), 1);
    assert_eq!(sums(MetricType::SUMMARY, summary(labels(&[]), &[], 1, -1.0)), 0);
}

#[test]
fn quantiles_that_are_none_are_left_out() {
    let quantiles = [(-0.5, 1.0), (0.5, -1.0), (0.9, 2.0), (1.0, f64::NAN), (1.5, 1.0), (f64::NAN, 1.0)];
    let page = encode(&[family("s", "", MetricType::SUMMARY, vec![summary(labels(&[]), &quantiles, 1, 1.0)])]);
    let expected = "# TYPE s summary\ns{quantile=\"0.9\"} 2\ns{quantile=\"1.0\"} NaN\ns_sum 1\ns_count 1\n# EOF\n";
    assert_eq!(page, expected);
}

#[test]
fn help_texts_are_escaped_as_label_values_are() {
    let page = encode(&[family("a", "\"\\\"\n", MetricType::UNTYPED, vec![untyped(labels(&[("b", "\"\\\n")]), 1.0)])]);
    assert_eq!(page, "# HELP a \\\"\\\\\\\"\\n\n# TYPE a unknown\na{b=\"\\\"\\\\\\n\"} 1\n# EOF\n");
}

#[test]
fn timestamps_are_seconds() {
    let at = |milliseconds| {
        let metric = families::at(milliseconds, gauge(labels(&[]), 1.0));
        encode(&[family("a", "", MetricType::GAUGE, vec![metric])])
    };
    for (milliseconds, written) in
        [(1_395_066_363_123, "1395066363.123"), (1_395_066_363_000, "1395066363"), (-1, "-0.001")]
    {
        assert!(at(milliseconds).contains(&format!("\na 1 {written}")), "{}", at(milliseconds));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_series_has_another_name_or_value_than_in_text(
        value in prop_oneof![any::<f64>(), any::<i32>().prop_map(f64::from)],
        name in proptest::sample::select(vec!["a", "a_total", "a_seconds", "a_bytes_total"]),
        label in "[\\\\\"\n{},a]{0,6}",
        kind in proptest::sample::select(vec![MetricType::COUNTER, MetricType::GAUGE]),
    ) {
        let metric = match kind {
            MetricType::COUNTER => counter(labels(&[("l", &label)]), value),
            _ => gauge(labels(&[("l", &label)]), value),
        };
        let families = [family(name, "", kind, vec![metric])];
        let mut page = Vec::new();
        text::encode(&families, &mut page);
        let page = String::from_utf8(page).unwrap();
        let ours = encode(&families);
        let samples = |page: &str| page.lines().filter(|line| !line.starts_with('#')).map(String::from).collect::<Vec<_>>();
        prop_assert_eq!(samples(&ours), samples(&page));
    }

    #[test]
    fn every_bound_reads_back(bits in any::<u64>()) {
        let bound = f64::from_bits(bits);
        prop_assume!(bound.is_finite());
        let page = encode(&[family("h", "", MetricType::HISTOGRAM, vec![histogram(labels(&[]), &[(bound, 1)], 1, 1.0)])]);
        let line = page.lines().nth(1).unwrap();
        let written = line.strip_prefix("h_bucket{le=\"").and_then(|line| line.strip_suffix("\"} 1")).unwrap();
        prop_assert_eq!(written.parse::<f64>().unwrap(), bound);
        prop_assert!(written.contains(['.', 'e']), "{} is written as an integer", written);
    }
}

fn encode(families: &[MetricFamily]) -> String {
    let mut out = Vec::new();
    openmetrics::encode(families, &mut out);
    let page = String::from_utf8(out).expect("a page is UTF-8");
    assert!(page.ends_with("# EOF\n") && !page.contains("\n\n"), "{page}");
    page
}
