//! What it costs to reach the loop from another thread, beside tokio's `mpsc` into a `current_thread` runtime in the same run.
//!
//! *Throughput* is a thread that calls as fast as it can while the loop takes the calls; the figure is per call, from the first
//! one sent to the last one run. *Latency* is one call at a time to a loop that waits, and its answer back through a channel of
//! std that both have in common: two wake-ups of a thread. *Job* is a piece of work that does nothing, to the pool and back.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dosimeter::{Metrics, Reactor, Remote};

fn reactor() -> Reactor {
    Reactor::builder().metrics(Metrics::Off).signal_handlers(false).build().expect("a reactor")
}

/// Runs `caller` in a thread of its own while a reactor runs here, and gives what it measured.
fn beside_a_reactor(caller: impl FnOnce(&Remote) -> Duration + Send + 'static) -> Duration {
    let reactor = reactor();
    let remote = reactor.remote();
    let thread = thread::spawn(move || {
        let taken = caller(&remote);
        remote.call_from_thread(|reactor| reactor.stop().expect("it runs")).expect("it is there");
        taken
    });
    reactor.run().expect("a clean end");
    thread.join().expect("no panic")
}

fn ours(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("threads");
    group.throughput(Throughput::Elements(1));
    group.bench_function("call_from_thread, throughput", |bencher| {
        bencher.iter_custom(|calls| {
            beside_a_reactor(move |remote| {
                let (done, wait) = mpsc::channel();
                let start = Instant::now();
                for _ in 1..calls {
                    remote.call_from_thread(|reactor| _ = std::hint::black_box(reactor)).expect("it is there");
                }
                remote.call_from_thread(move |_| done.send(()).expect("waited for")).expect("it is there");
                wait.recv().expect("it ran");
                start.elapsed()
            })
        });
    });
    group.bench_function("call_from_thread, there and back", |bencher| {
        bencher.iter_custom(|calls| {
            beside_a_reactor(move |remote| {
                let (done, wait) = mpsc::channel();
                let start = Instant::now();
                for _ in 0..calls {
                    let done = done.clone();
                    remote.call_from_thread(move |_| done.send(()).expect("waited for")).expect("it is there");
                    wait.recv().expect("it ran");
                }
                start.elapsed()
            })
        });
    });
    group.bench_function("blocking_call_from_thread", |bencher| {
        bencher.iter_custom(|calls| {
            beside_a_reactor(move |remote| {
                let start = Instant::now();
                for number in 0..calls {
                    let answer = remote.blocking_call_from_thread(move |_| Ok(number)).expect("an answer");
                    assert_eq!(answer, number);
                }
                start.elapsed()
            })
        });
    });
    group.bench_function("defer_to_thread, a job of nothing", |bencher| bencher.iter_custom(jobs));
    group.finish();
}

/// One job after the other, each asked for when the one before has answered.
fn jobs(count: u64) -> Duration {
    fn next(reactor: &Reactor, left: Rc<Cell<u64>>) {
        let again = reactor.clone();
        drop(reactor.defer_to_thread(|| Ok(())).map(move |()| match left.get() {
            0 => again.stop().expect("it runs"),
            more => {
                left.set(more - 1);
                next(&again, left);
            }
        }));
    }
    let reactor = reactor();
    next(&reactor, Rc::new(Cell::new(count)));
    let start = Instant::now();
    reactor.run().expect("a clean end");
    start.elapsed()
}

type Call = Box<dyn FnOnce() + Send>;

/// The same boxed functions through tokio's unbounded channel, called by the one task of a `current_thread` runtime.
fn beside_tokio(
    caller: impl FnOnce(&tokio::sync::mpsc::UnboundedSender<Call>) -> Duration + Send + 'static,
) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a current-thread runtime");
    let (send, mut receive) = tokio::sync::mpsc::unbounded_channel::<Call>();
    let thread = thread::spawn(move || caller(&send));
    runtime.block_on(async move {
        while let Some(call) = receive.recv().await {
            call();
        }
    });
    thread.join().expect("no panic")
}

fn tokio_peer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tokio mpsc");
    group.throughput(Throughput::Elements(1));
    group.bench_function("send, throughput", |bencher| {
        bencher.iter_custom(|calls| {
            beside_tokio(move |send| {
                let (done, wait) = mpsc::channel();
                let start = Instant::now();
                for _ in 1..calls {
                    send.send(Box::new(|| std::hint::black_box(()))).expect("it is there");
                }
                send.send(Box::new(move || done.send(()).expect("waited for"))).expect("it is there");
                wait.recv().expect("it ran");
                start.elapsed()
            })
        });
    });
    group.bench_function("send, there and back", |bencher| {
        bencher.iter_custom(|calls| {
            beside_tokio(move |send| {
                let (done, wait) = mpsc::channel();
                let start = Instant::now();
                for _ in 0..calls {
                    let done = done.clone();
                    send.send(Box::new(move || done.send(()).expect("waited for"))).expect("it is there");
                    wait.recv().expect("it ran");
                }
                start.elapsed()
            })
        });
    });
    group.bench_function("spawn_blocking, a job of nothing", |bencher| {
        bencher.iter_custom(|count| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a current-thread runtime");
            let start = Instant::now();
            runtime.block_on(async {
                for _ in 0..count {
                    tokio::task::spawn_blocking(|| ()).await.expect("no panic");
                }
            });
            start.elapsed()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    // Two threads on few cores: the spread is wide, and more samples narrow it little.
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = ours, tokio_peer
}
criterion_main!(benches);
