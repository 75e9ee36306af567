//! What the three hooks add to a chain: attached one by one, and as one stage, beside the same chain bare, in the same run.
//! And what metrics add to a request: those built in, and the three hooks on its route.
//!
//! The metrics stand in statics, as in a program, where a hook refers to them and clones nothing. Of the time most is that of
//! the metrics themselves and of two readings of the clock, which is why both are measured alone.
//!
//! Requests go over a loopback socket, client and server in turn in one thread. Such times drift by more than what is asked
//! for, so servers are asked in turn, a short while each, and it is the quotients of neighbours whose median is printed.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use dosimeter::web::{Request, Router, Site};
use dosimeter::{Deferred, Hooks, Metrics, Reactor, count_exceptions, time, track_inprogress};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

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

/// A server, and a client with one connection to it.
struct Hello {
    reactor: Reactor,
    client: TcpStream,
    reply: Vec<u8>,
}

impl Hello {
    fn new(metrics: impl Into<Metrics>, path: &str) -> Self {
        let reactor = Reactor::builder().metrics(metrics).build().expect("a reactor");
        let app = Router::new();
        app.route("/", |_: Request| "Hello, World!");
        let hooks = Hooks::new().time(&SECONDS).count_exceptions(&ERRORS).track_inprogress(&WORKING);
        app.route("/hooked", |_: Request| "Hello, World!").instrument(hooks);
        let port = reactor.listen_tcp(SocketAddr::from(([127, 0, 0, 1], 0)), Site::new(app)).expect("a port");
        let client = TcpStream::connect(port.local_addr()).expect("a connection");
        client.set_nodelay(true).expect("a TCP socket");
        let mut hello = Hello { reactor, client, reply: Vec::new() };
        let length = hello.ask(path, 4096);
        hello.reply.resize(length, 0);
        hello
    }

    /// Asks, and reads up to so many bytes of the answer.
    fn ask(&mut self, path: &str, most: usize) -> usize {
        write!(self.client, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").expect("a server");
        while self.reactor.turn(Some(Duration::ZERO)).is_ok() && !self.is_answered() {}
        self.reply.resize(most, 0);
        self.client.read(&mut self.reply).expect("an answer")
    }

    fn is_answered(&self) -> bool {
        self.client.set_nonblocking(true).expect("a socket");
        let is_there = self.client.peek(&mut [0]).is_ok();
        self.client.set_nonblocking(false).expect("a socket");
        is_there
    }

    /// The time of a block of requests.
    fn block(&mut self, path: &str) -> f64 {
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        let start = Instant::now();
        for _ in 0..BLOCK {
            self.client.write_all(request.as_bytes()).expect("a server");
            // Loopback: what was written is there to be read, and what was answered as well.
            self.reactor.turn(Some(Duration::ZERO)).expect("a turn");
            self.client.read_exact(&mut self.reply).expect("an answer");
        }
        start.elapsed().as_secs_f64() / f64::from(BLOCK)
    }
}

/// Prints what metrics add to a request.
fn requests() {
    let mut bare = Hello::new(Metrics::Off, "/");
    let mut counted = Hello::new(Registry::new(), "/");
    let mut hooked = Hello::new(Registry::new(), "/hooked");
    let (mut base, mut built_in, mut hooks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..BLOCKS {
        let (off, on, with_hooks) = (bare.block("/"), counted.block("/"), hooked.block("/hooked"));
        base.push(off);
        built_in.push(on / off);
        hooks.push(with_hooks / off);
    }
    let percent = |quotients| 100.0 * (median(quotients) - 1.0);
    println!("a request without metrics: {:.2} us, both ends", 1e6 * median(base));
    println!(
        "built-in metrics add {:+.1} %, and with three hooks on the route {:+.1} %",
        percent(built_in),
        percent(hooks)
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

criterion_group!(benches, hooks);

fn main() {
    benches();
    requests();
    Criterion::default().configure_from_args().final_summary();
}

const BLOCK: u32 = 200;
const BLOCKS: usize = 500;
