//! Labels with values from outside: so many series and no more, and no two of them taken for one.

use std::collections::BTreeMap;

use dosimeter::Capped;
use dosimeter::prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn a_thousand_values_add_no_more_series_than_may_be() {
    let (registry, capped) = counters(10, &["user"]);
    for user in 0..1_000 {
        capped.with_label_values(&[&user.to_string()]).inc();
    }
    let series = series(&registry);
    assert_eq!(series.len(), 11);
    assert_eq!(series[&vec!["other".to_owned()]], 990.0);
    assert_eq!(overflow(&registry), 990.0);
    capped.with_label_values(&["9"]).inc();
    assert_eq!(capped.with_label_values(&["9"]).get(), 2, "who was first stays");
    assert_eq!(overflow(&registry), 990.0);
}

#[test]
fn values_that_run_together_are_not_taken_for_one() {
    let (registry, capped) = counters(10, &["a", "b"]);
    for values in [["ab", "c"], ["a", "bc"], ["", "abc"], ["ab", "c"], ["abc", ""]] {
        capped.with_label_values(&values).inc();
    }
    let series = series(&registry);
    assert_eq!(series[&vec!["ab".to_owned(), "c".to_owned()]], 2.0);
    assert_eq!(series[&vec!["other".to_owned(), "other".to_owned()]], 3.0);
    assert_eq!((series.len(), overflow(&registry)), (2, 3.0));
}

#[test]
fn what_is_called_other_takes_no_place() {
    let (registry, capped) = counters(1, &["a", "b"]);
    capped.with_label_values(&["other", "other"]).inc();
    capped.with_label_values(&["othero", "ther"]).inc();
    capped.with_label_values(&["one", "two"]).inc();
    capped.with_label_values(&["three", "four"]).inc();
    let series = series(&registry);
    assert_eq!(series[&vec!["other".to_owned(), "other".to_owned()]], 3.0);
    assert_eq!(series[&vec!["one".to_owned(), "two".to_owned()]], 1.0);
    assert_eq!((series.len(), overflow(&registry)), (2, 2.0));
}

#[test]
fn a_cap_of_nothing_leaves_other() {
    let (registry, capped) = counters(0, &["user"]);
    capped.with_label_values(&["ada"]).inc();
    assert_eq!(series(&registry), BTreeMap::from([(vec!["other".to_owned()], 1.0)]));
}

#[test]
fn every_kind_of_metric_can_be_capped_in_one_registry() {
    let registry = Registry::new();
    let gauges = Capped::new(GaugeVec::new(Opts::new("level", "x"), &["of"]).unwrap(), 1).unwrap();
    let seconds = Capped::new(HistogramVec::new(HistogramOpts::new("seconds", "x"), &["of"]).unwrap(), 1).unwrap();
    registry.register(Box::new(gauges.clone())).unwrap();
    registry.register(Box::new(seconds.clone())).unwrap();
    gauges.with_label_values(&["a"]).set(1.5);
    seconds.with_label_values(&["a"]).observe(0.1);
    seconds.with_label_values(&["b"]).observe(0.1);
    assert_eq!(seconds.with_label_values(&["other"]).get_sample_count(), 1);
    assert_eq!(overflow(&registry), 1.0);
}

#[test]
#[should_panic(expected = "1 values for 2 labels")]
fn the_wrong_number_of_values_is_a_mistake() {
    counters(10, &["a", "b"]).1.with_label_values(&["a"]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_counted_for_another(rows in vec(("[ab]{0,3}", "[ab]{0,3}"), 0..60), cap in 0_usize..20) {
        let (registry, capped) = counters(cap, &["a", "b"]);
        let mut said = BTreeMap::<Vec<String>, f64>::new();
        for (a, b) in &rows {
            capped.with_label_values(&[a, b]).inc();
            *said.entry(vec![a.clone(), b.clone()]).or_default() += 1.0;
        }
        let series = series(&registry);
        prop_assert!(series.len() <= cap + 1);
        prop_assert_eq!(series.values().sum::<f64>(), rows.len() as f64);
        for (values, count) in series.iter().filter(|(values, _)| values[0] != "other") {
            prop_assert_eq!(said.get(values), Some(count), "{:?}", values);
        }
    }
}

// ---- below ------------------------------------------------------------------------------------------

type Counters = Capped<IntCounterVec>;

fn counters(cap: usize, labels: &[&str]) -> (Registry, Counters) {
    let capped = Capped::new(IntCounterVec::new(Opts::new("seen_total", "x"), labels).unwrap(), cap).unwrap();
    let registry = Registry::new();
    registry.register(Box::new(capped.clone())).unwrap();
    (registry, capped)
}

/// The values of the labels of each series, and its own.
fn series(registry: &Registry) -> BTreeMap<Vec<String>, f64> {
    let families = registry.gather();
    let metrics = families.iter().filter(|family| family.name() == "seen_total").flat_map(|family| family.get_metric());
    let pairs = metrics.map(|metric| {
        let values = metric.get_label().iter().map(|pair| pair.value().to_owned()).collect();
        (values, metric.get_counter().get_value())
    });
    pairs.collect()
}

fn overflow(registry: &Registry) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == "metrics_label_overflow_total").expect("it is there");
    family.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum()
}
