//! The hot path of a server: a head in, a small response out. Each measured call asserts its
//! answer.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dosimeter::http::{Connection, Event, Finished, Limits, RequestHead};
use http::StatusCode;

/// What wrk sends.
const SMALL: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1:18001\r\n\r\n";

/// What nobody sends twice.
const COOKIE: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1:18001\r\nCookie: id=5c3f0e8d1b7a2946\r\n\r\n";

/// What a browser sends.
const BROWSER: &str = "GET /articles/radiation?page=2 HTTP/1.1\r\n\
    Host: www.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark\r\n\
    Upgrade-Insecure-Requests: 1\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nHello, World!";

/// A server without the sockets.
struct Server {
    connection: Connection,
    head: RequestHead,
    limits: Limits,
    out: Vec<u8>,
}

impl Server {
    fn new() -> Self {
        Self { connection: Connection::new(), head: RequestHead::new(), limits: Limits::default(), out: Vec::new() }
    }

    /// Answers every request in `input`; how many there were.
    fn serve(&mut self, mut input: &[u8]) -> usize {
        self.out.clear();
        let mut count = 0;
        loop {
            let (used, event) = self.connection.receive(input, &mut self.head, &self.limits);
            input = &input[used..];
            match event {
                Event::Head | Event::Data(_) => {}
                Event::End => {
                    self.respond();
                    count += 1;
                }
                Event::NeedData => return count,
                other => panic!("{other:?}"),
            }
        }
    }

    fn respond(&mut self) {
        self.connection.begin_response(&mut self.out, StatusCode::OK, Some(13));
        self.connection.end_head(&mut self.out);
        self.connection.send_body(&mut self.out, b"Hello, World!").expect("a body that fits");
        assert_eq!(self.connection.finish(&mut self.out), Finished::KeepAlive);
    }
}

fn requests(criterion: &mut Criterion) {
    let post = format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1000));
    let chunks = "64\r\n".to_owned() + &"x".repeat(100) + "\r\n";
    let chunked =
        format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", chunks.repeat(10));
    for (name, request, count) in [
        ("wrk", SMALL, 1),
        ("wrk x16", SMALL, 16),
        ("cookie x16", COOKIE, 16),
        ("browser", BROWSER, 1),
        ("browser x16", BROWSER, 16),
        ("post 1000 bytes", &post, 1),
        ("post 10 chunks of 100 bytes", &chunked, 1),
    ] {
        let input = request.repeat(count);
        let mut server = Server::new();
        let mut group = criterion.benchmark_group("http");
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                assert_eq!(server.serve(black_box(input.as_bytes())), count);
                assert_eq!(server.out.len(), RESPONSE.len() * count);
            });
        });
        // Once more, as what is filtered out was not measured.
        assert_eq!(server.serve(input.as_bytes()), count);
        assert_eq!(server.out, RESPONSE.repeat(count));
        assert!(server.head.host().is_some());
    }
}

/// Beside the parser most servers use, on the head alone. One with a cookie is read each time, also where it comes again.
fn heads(criterion: &mut Criterion) {
    for (name, input, count) in [("wrk", SMALL, 1), ("cookie", COOKIE, 2), ("browser", BROWSER, 8)] {
        let mut group = criterion.benchmark_group(format!("head {name}"));
        let (mut head, limits) = (RequestHead::new(), Limits::default());
        group.bench_function("ours", |bencher| {
            bencher.iter(|| {
                let (used, event) = Connection::new().receive(black_box(input.as_bytes()), &mut head, &limits);
                assert_eq!((used, event, head.headers().len()), (input.len(), Event::Head, count));
            });
        });
        group.bench_function("httparse", |bencher| {
            bencher.iter(|| {
                let mut fields = [httparse::EMPTY_HEADER; 100];
                let mut request = httparse::Request::new(&mut fields);
                let status = request.parse(black_box(input.as_bytes()));
                assert_eq!((status, request.headers.len()), (Ok(httparse::Status::Complete(input.len())), count));
            });
        });
    }
}

criterion_group!(benches, requests, heads);
criterion_main!(benches);
