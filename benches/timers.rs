//! What a timed call costs while a million of them are live, beside tokio's `sleep` in the same run.
//!
//! The figures are per call. A queue is filled from empty to a million and emptied again, so that what has to be cleaned up
//! later is paid for inside the measurement.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use dosimeter::testing::Clock;
use dosimeter::{Clock as _, DelayedCall};

/// Ten to seventy seconds, in an order that is neither sorted nor the reverse.
fn delay(number: u64) -> Duration {
    Duration::from_millis(10_000 + number * 7_919 % 60_000)
}

fn arm_all(clock: &Clock, ran: &Rc<Cell<u64>>) -> Vec<DelayedCall> {
    let arm = |number| {
        let ran = ran.clone();
        clock.call_later(delay(number), move || ran.set(ran.get() + 1))
    };
    (0..LIVE).map(arm).collect()
}

/// Times `step` on a queue that has a million calls live, and gives the mean for one call.
fn per_call(rounds: u64, mut step: impl FnMut() -> Duration) -> Duration {
    let total: Duration = (0..rounds).map(|_| step()).sum();
    total / u32::try_from(LIVE).expect("a million fits")
}

fn ours(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timers, 1,000,000 live");
    let ran = Rc::new(Cell::new(0));
    group.bench_function("arm", |bencher| {
        bencher.iter_custom(|rounds| {
            per_call(rounds, || {
                let clock = Clock::new();
                let start = Instant::now();
                let calls = arm_all(&clock, &ran);
                let taken = start.elapsed();
                assert!(calls.iter().all(DelayedCall::is_active));
                taken
            })
        });
    });
    group.bench_function("cancel", |bencher| {
        bencher.iter_custom(|rounds| {
            per_call(rounds, || {
                let clock = Clock::new();
                let calls = arm_all(&clock, &ran);
                let start = Instant::now();
                for call in calls {
                    call.cancel().expect("still pending");
                }
                let taken = start.elapsed();
                clock.advance(Duration::from_secs(100));
                assert_eq!((ran.get(), Rc::strong_count(&ran)), (0, 1), "nothing ran and nothing is held");
                taken
            })
        });
    });
    group.bench_function("put off", |bencher| {
        bencher.iter_custom(|rounds| {
            let clock = Clock::new();
            let calls = arm_all(&clock, &ran);
            per_call(rounds, || {
                clock.advance(Duration::from_millis(1));
                let start = Instant::now();
                for call in &calls {
                    call.reset(Duration::from_secs(80)).expect("still pending");
                }
                start.elapsed()
            })
        });
    });
    group.bench_function("fire", |bencher| {
        bencher.iter_custom(|rounds| {
            per_call(rounds, || {
                let clock = Clock::new();
                let ran = Rc::new(Cell::new(0));
                drop(arm_all(&clock, &ran));
                let start = Instant::now();
                clock.advance(Duration::from_secs(100));
                let taken = start.elapsed();
                assert_eq!(ran.get(), LIVE);
                taken
            })
        });
    });
    group.finish();
}

/// Every fourth call is left to fire, the others are cancelled two thousand later: per call this must not grow with the number.
fn mixed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timers, arm + cancel or fire");
    for count in [10_000, 100_000, 1_000_000] {
        group.bench_function(format!("{count} calls"), |bencher| {
            bencher.iter_custom(|rounds| {
                let start = Instant::now();
                for _ in 0..rounds {
                    assert_eq!(mix(count), count / 4);
                }
                start.elapsed() / count
            });
        });
    }
    group.finish();
}

/// How many calls ran.
fn mix(count: u32) -> u32 {
    let (clock, ran) = (Clock::new(), Rc::new(Cell::new(0)));
    let mut waiting = std::collections::VecDeque::new();
    for number in 0..count {
        let counted = ran.clone();
        let call = clock.call_later(delay(number.into()), move || counted.set(counted.get() + 1));
        if number % 4 != 0 {
            waiting.push_back(call);
        }
        if waiting.len() > 2_000 {
            waiting.pop_front().expect("not empty").cancel().expect("no deadline is so near");
        }
        if number % 100 == 0 {
            clock.advance(Duration::from_millis(100));
        }
    }
    waiting.into_iter().for_each(|call| call.cancel().expect("no deadline is so near"));
    clock.advance(Duration::from_secs(100));
    ran.get()
}

/// A `Sleep` of tokio is armed when it is first polled and cancelled when it is dropped.
fn tokio_peer(criterion: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a current-thread runtime");
    let _inside = runtime.enter();
    let arm_all = || -> Vec<Pin<Box<tokio::time::Sleep>>> {
        let mut context = Context::from_waker(Waker::noop());
        let arm = |number| {
            let mut sleep = Box::pin(tokio::time::sleep(delay(number)));
            assert!(sleep.as_mut().poll(&mut context).is_pending());
            sleep
        };
        (0..LIVE).map(arm).collect()
    };
    let mut group = criterion.benchmark_group("tokio sleep, 1,000,000 live");
    group.bench_function("arm", |bencher| {
        bencher.iter_custom(|rounds| {
            per_call(rounds, || {
                let start = Instant::now();
                let sleeps = arm_all();
                let taken = start.elapsed();
                assert!(sleeps.iter().all(|sleep| !sleep.is_elapsed()));
                taken
            })
        });
    });
    group.bench_function("cancel", |bencher| {
        bencher.iter_custom(|rounds| {
            per_call(rounds, || {
                let sleeps = arm_all();
                let start = Instant::now();
                drop(sleeps);
                start.elapsed()
            })
        });
    });
    group.finish();
}

const LIVE: u64 = 1_000_000;

criterion_group! {
    name = benches;
    // A round takes up to half a second: ten are enough for a median.
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = ours, mixed, tokio_peer
}
criterion_main!(benches);
