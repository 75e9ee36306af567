//! What a chain costs, beside tokio's oneshot with a spawned local task doing the same work in the same run.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use dosimeter::{Deferred, DeferredLock, Metrics, Reactor, gather_results};

fn chain_fired_last(input: u64) -> u64 {
    let (completer, deferred) = Deferred::pair();
    let tail = deferred
        .add_callback(|value: u64| Ok(value + 1))
        .add_callback(|value| Ok(value * 2))
        .add_callback(|value| Ok(value - 1));
    completer.callback(input);
    tail.into_result().expect("fired").expect("no callback fails")
}

fn callbacks_on_fired(input: u64) -> u64 {
    Deferred::succeed(input)
        .add_callback(|value: u64| Ok(value + 1))
        .add_callback(|value| Ok(value * 2))
        .add_callback(|value| Ok(value - 1))
        .into_result()
        .expect("fired")
        .expect("no callback fails")
}

fn gathered(inputs: usize) -> u64 {
    let (completers, chains): (Vec<_>, Vec<_>) = (0..inputs).map(|_| Deferred::<u64>::pair()).unzip();
    let all = gather_results(chains);
    completers.into_iter().for_each(|completer| completer.callback(1));
    all.into_result().expect("fired").expect("no input fails").iter().sum()
}

fn chains(criterion: &mut Criterion) {
    assert_eq!(chain_fired_last(20), 41);
    assert_eq!(callbacks_on_fired(20), 41);
    assert_eq!(gathered(10), 10);
    let mut group = criterion.benchmark_group("deferred");
    group.bench_function("pair, 3 callbacks, fire", |bencher| bencher.iter(|| chain_fired_last(black_box(20))));
    group.bench_function("3 callbacks on a fired one", |bencher| bencher.iter(|| callbacks_on_fired(black_box(20))));
    group.bench_function("gather 10 pending", |bencher| bencher.iter(|| gathered(black_box(10))));
    let lock = DeferredLock::new();
    let locked = |input: u64| lock.run(move || Ok(input)).into_result().expect("free").expect("no failure");
    assert_eq!(locked(20), 20);
    group.bench_function("run under a free lock", |bencher| bencher.iter(|| locked(black_box(20))));
    group.finish();
}

/// The awaits of a task, one by one.
fn tasks(criterion: &mut Criterion) {
    let reactor = Reactor::builder().metrics(Metrics::Off).build().expect("a reactor");
    let awaited = |rounds: u64| {
        let task = reactor.spawn(async move {
            let mut sum = 0;
            for number in 0..rounds {
                sum += black_box(Deferred::succeed(black_box(number))).await?;
            }
            Ok(sum)
        });
        task.into_result().expect("never waited").expect("no failure")
    };
    let spawned = |input: u64| {
        let (completer, deferred) = Deferred::pair();
        let task = reactor.spawn(async move {
            let value: u64 = deferred.await?;
            Ok((value + 1) * 2 - 1)
        });
        completer.callback(input);
        task.into_result().expect("fired").expect("no failure")
    };
    assert_eq!(awaited(5), 10);
    assert_eq!(spawned(20), 41);
    let mut group = criterion.benchmark_group("deferred");
    group.bench_function("await a fired one", |bencher| {
        bencher.iter_custom(|rounds| {
            let start = std::time::Instant::now();
            black_box(awaited(rounds));
            start.elapsed()
        })
    });
    group.bench_function("spawn, await a pending one, fire", |bencher| bencher.iter(|| spawned(black_box(20))));
    group.finish();
}

/// The same three steps as an `async` block that waits for a oneshot channel, spawned on a `LocalSet`.
fn tokio_peer(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a current-thread runtime");
    let local = tokio::task::LocalSet::new();
    let step = async |input: u64| {
        let (sender, receiver) = tokio::sync::oneshot::channel::<u64>();
        let task = tokio::task::spawn_local(async move {
            let value = receiver.await.expect("sent");
            let value = async move { value + 1 }.await;
            let value = async move { value * 2 }.await;
            value - 1
        });
        sender.send(input).expect("received");
        task.await.expect("joined")
    };
    assert_eq!(local.block_on(&runtime, step(20)), 41);
    criterion.bench_function("tokio oneshot + spawn_local, 3 steps", |bencher| {
        bencher.iter_custom(|rounds| {
            local.block_on(&runtime, async {
                let start = std::time::Instant::now();
                for _ in 0..rounds {
                    black_box(step(black_box(20)).await);
                }
                start.elapsed()
            })
        });
    });
}

criterion_group!(benches, chains, tasks, tokio_peer);
criterion_main!(benches);
