//! Encoding a large page: ours beside `prometheus::TextEncoder`, on the same gathered families.
//!
//! Only the encode step is timed, into a buffer that is already large enough: growing it would measure
//! the allocator. The goal is a third of `TextEncoder`'s time or less.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use dosimeter::exposition::{openmetrics, text};
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};

fn page(c: &mut Criterion) {
    for (name, counters, histograms) in [
        ("100k_counters", COUNTERS, 0),
        ("5k_histograms", 0, HISTOGRAMS),
        ("100k_counters_5k_histograms", COUNTERS, HISTOGRAMS),
    ] {
        let families = gather(counters, histograms);
        let mut group = c.benchmark_group(name);
        group.sample_size(20).measurement_time(Duration::from_secs(4));
        let mut out = Vec::with_capacity(64 << 20);
        group.bench_function("dosimeter", |b| {
            b.iter(|| {
                out.clear();
                text::encode(black_box(&families), &mut out);
            });
        });
        group.bench_function("dosimeter_openmetrics", |b| {
            b.iter(|| {
                out.clear();
                openmetrics::encode(black_box(&families), &mut out);
            });
        });
        group.bench_function("TextEncoder", |b| {
            b.iter(|| {
                out.clear();
                TextEncoder::new().encode(black_box(&families), &mut out).expect("families are valid");
            });
        });
        group.finish();
    }
}

/// Counters of two labels and uneven values, histograms of one label with default buckets.
fn gather(counters: u64, histograms: u64) -> Vec<MetricFamily> {
    let registry = Registry::new();
    let requests = Opts::new("http_requests_total", "Requests served, by route and status.");
    let requests = IntCounterVec::new(requests, &["route", "status"]).expect("the options are valid");
    let latency = HistogramOpts::new("http_request_duration_seconds", "Time to answer, by route.");
    let latency = HistogramVec::new(latency, &["route"]).expect("the options are valid");
    registry.register(Box::new(requests.clone())).expect("the name is free");
    registry.register(Box::new(latency.clone())).expect("the name is free");
    for i in 0..counters {
        let status = if i % 7 == 0 { "404" } else { "200" };
        requests.with_label_values(&[&format!("/route/{i}"), status]).inc_by(i * i);
    }
    for i in 0..histograms {
        let child = latency.with_label_values(&[&format!("/route/{i}")]);
        for step in 0..20 {
            child.observe(0.001_37 * f64::from(step) * (i % 100) as f64);
        }
    }
    registry.gather()
}

criterion_group!(benches, page);
criterion_main!(benches);

const COUNTERS: u64 = 100_000;
const HISTOGRAMS: u64 = 5_000;
