//! What the three hooks add to a chain: attached one by one, and as one stage, beside the same chain bare, in the same run.
//!
//! The metrics stand in statics, as in a program, where a hook refers to them and clones nothing. Of the time most is that of
//! the metrics themselves and of two readings of the clock, which is why both are measured alone.

use std::hint::black_box;
use std::sync::LazyLock;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use dosimeter::{Deferred, Hooks, count_exceptions, time, track_inprogress};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge};

static SECONDS: LazyLock<Histogram> =
    LazyLock::new(|| Histogram::with_opts(HistogramOpts::new("seconds", "x")).expect("valid options"));
static ERRORS: LazyLock<IntCounter> = LazyLock::new(|| IntCounter::new("errors", "x").expect("a valid name"));
static WORKING: LazyLock<IntGauge> = LazyLock::new(|| IntGauge::new("working", "x").expect("a valid name"));

/// Makes a chain, puts on it what `attach` does, fires it, takes the result.
#[inline(always)]
fn fired(input: u64, attach: impl FnOnce(Deferred<u64>) -> Deferred<u64>) -> u64 {
    let (completer, deferred) = Deferred::pair();
    let tail = attach(deferred);
    completer.callback(input);
    tail.into_result().expect("fired").expect("no failure")
}

fn one_by_one(chain: Deferred<u64>) -> Deferred<u64> {
    track_inprogress(&WORKING, count_exceptions(&ERRORS, time(&SECONDS, chain)))
}

fn hooks(criterion: &mut Criterion) {
    let hooks = Hooks::new().time(&SECONDS).count_exceptions(&ERRORS).track_inprogress(&WORKING);
    let parse = |text: &str| text.parse::<u64>();
    let wrapped = hooks.wrap(move |text: &'static str| parse(text));
    assert_eq!(fired(20, one_by_one), 20);
    assert_eq!(fired(20, |chain| hooks.attach(chain)), 20);
    assert_eq!(wrapped("20"), Ok(20));
    assert_eq!((SECONDS.get_sample_count(), ERRORS.get(), WORKING.get()), (3, 0, 0));

    let mut group = criterion.benchmark_group("hooks");
    group.bench_function("a bare chain", |bencher| bencher.iter(|| fired(black_box(20), |chain| chain)));
    group.bench_function("three, one by one", |bencher| bencher.iter(|| fired(black_box(20), one_by_one)));
    group.bench_function("three, as one", |bencher| {
        bencher.iter(|| fired(black_box(20), |chain| hooks.attach(chain)));
    });
    group.bench_function("three, as one, on a fired chain", |bencher| {
        bencher.iter(|| hooks.attach(Deferred::succeed(black_box(20))).into_result());
    });
    group.bench_function("a bare function", |bencher| bencher.iter(|| parse(black_box("20"))));
    group.bench_function("three, as one, around a function", |bencher| bencher.iter(|| wrapped(black_box("20"))));
    group.bench_function("the metrics alone", |bencher| {
        bencher.iter(|| {
            WORKING.inc();
            SECONDS.observe(black_box(0.01));
            WORKING.dec();
        });
    });
    group.bench_function("two readings of the clock", |bencher| {
        bencher.iter(|| black_box(Instant::now()).elapsed().as_secs_f64());
    });
    group.finish();
}

criterion_group!(benches, hooks);
criterion_main!(benches);
