//! The server as a whole: connections kept and closed, pipelining, back-pressure, deadlines, and figures that come down again.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use dosimeter::web::{Limits, NOT_DONE_YET, Render, Request, Response, Router, Site};
use dosimeter::{Clock, Deferred, Metrics, Reactor, Result, defer_later};
use support::{End, Framing, Leaf, Server, expect_no_log, request, take_log};

/// Answers with the path, in many ways: what differs from request to request is the number in the path.
fn mixed(mut request: Request) -> Render {
    let number: usize = request.path()[1..].parse().unwrap();
    let text = request.path().to_owned();
    let reactor = request.reactor();
    match number % 6 {
        0 => text.into(),
        1 => defer_later(&reactor, Duration::ZERO, move || text).into(),
        2 => Deferred::succeed(text).into(),
        3 => {
            request.write(text);
            request.finish();
            NOT_DONE_YET
        }
        4 => {
            reactor.call_soon(move || {
                request.write(text);
                request.finish();
            });
            NOT_DONE_YET
        }
        _ => reactor.defer_to_thread(move || Ok(text)).into(),
    }
}

// ---- keeping and closing ----------------------------------------------------------------------------

#[test]
fn a_connection_is_kept_as_the_client_asks() {
    let server = Server::new(Leaf(|_| "x"));
    for (version, field, kept) in [
        ("1.1", "X: y", true),
        ("1.1", "Connection: keep-alive", true),
        ("1.1", "Connection: close", false),
        ("1.1", "Connection: x, CLOSE", false),
        ("1.0", "X: y", false),
        ("1.0", "Connection: keep-alive", true),
        ("1.0", "Connection: close", false),
    ] {
        let mut client = server.connect();
        client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n\r\n"));
        let reply = client.reply();
        assert_eq!(reply.brief(), (200, "x"));
        assert_eq!(reply.framing, Framing::Length(1));
        let says = reply.header("connection");
        if kept {
            assert_eq!(says, (version == "1.0").then_some("keep-alive"), "{version} {field}");
            assert_eq!(client.get("/").brief(), (200, "x"));
        } else {
            assert_eq!(says, Some("close"), "{version} {field}");
            client.expect_end();
        }
    }
    server.until_true("they are gone", || server.figure("http_server_connections", &[]) == 0.0);
}

#[test]
fn what_follows_the_last_request_is_dropped() {
    let served = Rc::new(Cell::new(0));
    let counting = served.clone();
    let server = Server::new(Leaf(move |_| counting.set(counting.get() + 1)));
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\0\0\0");
    client.reply();
    client.expect_end();
    assert_eq!(served.get(), 1);
    expect_no_log();
}

#[test]
fn a_client_that_sends_on_behind_its_last_request_still_reads_the_answer() {
    // Closing a socket with unread input resets the connection, and a reset may overtake the answer.
    let server = Server::new(Leaf(|_| "x".repeat(100_000)));
    let mut client = server.connect();
    let rest = "X".repeat(300_000);
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n{rest}"));
    assert_eq!(client.reply().body.len(), 100_000);
    client.shut_down_writing();
    client.expect_end();
}

#[test]
fn a_refused_request_is_answered_and_nothing_after_it_is_read() {
    let served = Rc::new(Cell::new(0));
    let counting = served.clone();
    let server = Server::new(Leaf(move |_| counting.set(counting.get() + 1)));
    let mut client = server.connect();
    client.send(request("GET", "/") + "GET / HTTP/1.1\r\nHost : a\r\n\r\n" + &request("GET", "/"));
    assert_eq!(client.reply().status, 200);
    let refused = client.reply();
    assert_eq!((refused.status, refused.header("connection")), (400, Some("close")));
    assert!(refused.header("date").is_some());
    client.send(request("GET", "/"));
    client.shut_down_writing();
    client.expect_end();
    assert_eq!(served.get(), 1);
    assert_eq!(server.figure("http_server_bad_requests_total", &[("reason", "space_before_colon")]), 1.0);
    expect_no_log();
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_comes() {
    let mut limits = Limits::default();
    limits.request.body = 10;
    let server = Server::with_limits(Leaf(|request: Request| request.body().to_vec()), limits);
    assert_eq!(server.connect().get("/").status, 200);
    for message in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n5\r\n",
    ] {
        let mut client = server.connect();
        client.send(message);
        assert_eq!(client.reply().status, 413, "{message}");
        client.shut_down_writing();
        client.expect_end();
    }
    assert_eq!(server.in_progress(), 0.0);
}

#[test]
fn a_client_that_closes_its_half_gets_every_answer() {
    let server = Server::new(Leaf(mixed));
    let mut client = server.connect();
    let numbers: Vec<_> = (0..20).collect();
    client.send(numbers.iter().map(|number| request("GET", &format!("/{number}"))).collect::<String>());
    client.shut_down_writing();
    for number in numbers {
        assert_eq!(client.reply().brief(), (200, format!("/{number}").as_str()));
    }
    client.expect_end();
    assert_eq!(server.in_progress(), 0.0);
    assert_eq!(server.figure("http_server_requests_aborted_total", &[]), 0.0);
    expect_no_log();
}

#[test]
fn a_client_that_closes_its_half_while_it_waits_gets_its_answer() {
    let kept = Rc::new(Cell::new(None));
    let keeping = kept.clone();
    let server = Server::new(Leaf(move |request| {
        keeping.set(Some(request));
        NOT_DONE_YET
    }));
    let mut client = server.connect();
    client.send_request("GET", "/");
    let mut request = server.until("it arrives", || kept.take());
    client.shut_down_writing();
    client.expect_silence();
    request.write("after all");
    request.finish();
    assert_eq!(client.reply().brief(), (200, "after all"));
    client.expect_end();
}

#[test]
fn a_client_that_has_closed_its_half_is_not_waited_for_after_a_refusal() {
    let kept = Rc::new(Cell::new(None));
    let keeping = kept.clone();
    let server = Server::new(Leaf(move |request| {
        keeping.set(Some(request));
        NOT_DONE_YET
    }));
    let mut client = server.connect();
    client.send(request("GET", "/") + "no request\r\n\r\n");
    client.shut_down_writing();
    let request: Request = server.until("it arrives", || kept.take());
    server.until_quiet();
    let begun = Instant::now();
    request.finish();
    assert_eq!(client.reply().status, 200);
    assert_eq!(client.reply().status, 400);
    client.expect_end();
    server.until_true("it is gone", || server.figure("http_server_connections", &[]) == 0.0);
    assert!(begun.elapsed() < Duration::from_secs(1), "there is nothing left to come");
}

#[test]
fn a_connection_that_asks_nothing_and_ends_is_nothing_to_speak_of() {
    let server = Server::new(Leaf(|_| "x"));
    for bytes in ["", "\r\n", "GET / HT"] {
        let mut client = server.connect();
        client.send(bytes);
        server.until_quiet();
        client.shut_down_writing();
        client.expect_end();
    }
    let client = server.connect();
    server.until_quiet();
    client.reset();
    server.until_true("they are gone", || server.figure("http_server_connections", &[]) == 0.0);
    assert_eq!(server.figure("http_server_connections_accepted_total", &[]), 4.0);
    expect_no_log();
}

// ---- pipelining -------------------------------------------------------------------------------------

#[test]
fn a_thousand_pipelined_requests_are_answered_in_order() {
    let server = Server::new(Leaf(mixed));
    let mut client = server.connect();
    client.send((0..1000).map(|number| request("GET", &format!("/{number}"))).collect::<String>());
    for number in 0..1000 {
        assert_eq!(client.reply().brief(), (200, format!("/{number}").as_str()));
    }
    client.expect_silence();
    assert_eq!(server.in_progress(), 0.0);
    assert_eq!(server.figure("http_server_request_duration_seconds", &[]), 1000.0);
    expect_no_log();
}

#[test]
fn answers_do_not_depend_on_how_the_input_is_cut() {
    let server = Server::new(Leaf(|request: Request| {
        let text = format!("{} {} {}", request.method(), request.path(), request.body().escape_ascii());
        match request.body().len() % 3 {
            0 => text.into(),
            1 => Render::from(defer_later(&request.reactor(), Duration::ZERO, || text)),
            _ => request.reactor().defer_to_thread(|| Ok(text)).into(),
        }
    }));
    let mut random = 1u64;
    let mut below = |limit: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % limit
    };
    let (mut input, mut answers) = (String::new(), Vec::new());
    for number in 0..300 {
        let body = "x\r\n".repeat(below(8)) + &"y".repeat(below(3));
        input += &match below(3) {
            0 => format!("PUT /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
            1 if !body.is_empty() => format!(
                "PUT /{number} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            ),
            _ => {
                input += &request("GET", &format!("/{number}"));
                answers.push(format!("GET /{number} "));
                continue;
            }
        };
        answers.push(format!("PUT /{number} {}", body.escape_default()));
    }
    for longest in [1, 7, 100, 5000] {
        let mut client = server.connect();
        let mut rest = input.as_bytes();
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((1 + below(longest)).min(rest.len()));
            client.send(piece);
            server.reactor.turn(Some(Duration::ZERO)).unwrap();
            rest = behind;
        }
        for answer in &answers {
            assert_eq!(client.reply().brief(), (200, answer.as_str()));
        }
        client.expect_silence();
    }
    expect_no_log();
}

#[test]
fn a_hundred_thousand_pipelined_requests_need_no_more_stack_than_one() {
    let body = move || {
        let server = Server::new(Leaf(|request: Request| match request.path() {
            "/later" => {
                let (completer, deferred) = Deferred::<()>::pair();
                completer.callback(());
                deferred.map(|()| "x").into()
            }
            _ => Render::from("x"),
        }));
        let mut client = server.connect();
        let (now, later) = (request("GET", "/"), request("GET", "/later"));
        for _ in 0..50 {
            client.send((now.clone() + &later).repeat(1000));
            for _ in 0..2000 {
                assert_eq!(client.reply().status, 200);
            }
        }
    };
    thread::Builder::new().stack_size(512 * 1024).spawn(body).unwrap().join().unwrap();
}

#[test]
fn only_one_request_of_a_connection_is_handled_at_a_time() {
    let kept = Rc::new(RefCell::new(Vec::<Request>::new()));
    let keeping = kept.clone();
    let server = Server::new(Leaf(move |request| {
        keeping.borrow_mut().push(request);
        NOT_DONE_YET
    }));
    let mut client = server.connect();
    client.send(request("GET", "/1") + &request("GET", "/2") + &request("GET", "/3"));
    for path in ["/1", "/2", "/3"] {
        client.expect_silence();
        assert_eq!(kept.borrow().len(), 1);
        assert_eq!(server.in_progress(), 1.0);
        let mut request = kept.borrow_mut().pop().unwrap();
        assert_eq!(request.path(), path);
        request.write(path);
        request.finish();
        assert_eq!(client.reply().text(), path);
    }
    assert_eq!(server.in_progress(), 0.0);
}

#[test]
fn requests_that_answer_one_another_need_no_more_stack_than_one() {
    // Who waits for a lock is answered by the handler of whoever gives it back: a chain as long as there are clients.
    const CLIENTS: usize = 300;
    let body = || {
        let waiting = Rc::new(RefCell::new(VecDeque::<Request>::new()));
        let queue = waiting.clone();
        let server = Server::new(Leaf(move |request: Request| {
            if request.path() == "/wait" {
                queue.borrow_mut().push_back(request);
                return NOT_DONE_YET;
            }
            let next = queue.borrow_mut().pop_front();
            if let Some(next) = next {
                next.finish();
            }
            "passed on".into()
        }));
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(request("GET", "/wait") + &request("GET", "/pass"));
        }
        server.until_true("all wait", || waiting.borrow().len() == CLIENTS);
        assert_eq!(server.get("/pass").text(), "passed on");
        for client in &mut clients {
            assert_eq!(client.reply().status, 200);
            assert_eq!(client.reply().text(), "passed on");
        }
        assert_eq!(server.in_progress(), 0.0);
    };
    thread::Builder::new().stack_size(512 * 1024).spawn(body).unwrap().join().unwrap();
}

// ---- back-pressure ----------------------------------------------------------------------------------

#[test]
fn a_client_that_sends_while_it_is_being_answered_is_made_to_wait() {
    let kept = Rc::new(Cell::new(None));
    let keeping = kept.clone();
    let server = Server::new(Leaf(move |request: Request| match request.path() {
        "/first" => {
            keeping.set(Some(request));
            NOT_DONE_YET
        }
        _ => request.body().len().to_string().into(),
    }));
    let mut client = server.connect();
    client.send_request("GET", "/first");
    let first = server.until("it arrives", || kept.take());
    let body = "x".repeat(1 << 20);
    let posts = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", 1 << 20).repeat(40);
    let sent = client.send_until_stuck(posts.as_bytes());
    assert!(sent < posts.len(), "40 MiB were taken from a client whose first request is pending");
    first.finish();
    client.send(&posts.as_bytes()[sent..]);
    assert_eq!(client.reply().status, 200);
    for _ in 0..40 {
        assert_eq!(client.reply().brief(), (200, "1048576"));
    }
}

#[test]
fn a_client_that_does_not_read_its_answers_gets_no_further_ones() {
    const REQUESTS: usize = 1000;
    const SIZE: usize = 256 * 1024;
    let page: Rc<[u8]> = vec![b'x'; SIZE].into();
    let server = Server::new(Leaf(move |_| page.to_vec()));
    let mut client = server.connect();
    client.send(request("GET", "/").repeat(REQUESTS));
    server.until_quiet();
    let answered = server.figure("http_server_requests_total", &[]);
    assert!(answered < REQUESTS as f64 / 4.0, "{answered} answers of {SIZE} bytes are kept for a peer that reads none");
    for _ in 0..REQUESTS {
        assert_eq!(client.reply().body.len(), SIZE);
    }
    client.expect_silence();
}

#[test]
fn a_client_that_reads_slowly_gets_all_of_a_large_answer_and_then_the_end() {
    const SIZE: usize = 32 << 20;
    for version in ["1.0", "1.1"] {
        let mut limits = Limits::default();
        limits.head_timeout = SHORT;
        limits.idle_timeout = SHORT;
        limits.write_timeout = SHORT * 5;
        let server = Server::with_limits(Leaf(|_| vec![b'x'; SIZE]), limits);
        let mut client = server.connect();
        client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
        let begun = Instant::now();
        client.take_until(b"\r\n\r\n", "the head");
        // A little at a time, which altogether takes longer than any deadline.
        for share in 0..20 {
            client.idle_for(SHORT * 3 / 4);
            client.take_exactly(SIZE * (share + 1) / 20 - SIZE * share / 20);
        }
        assert!(begun.elapsed() > SHORT * 10);
        client.expect_end();
    }
    expect_no_log();
}

#[test]
fn a_client_that_never_reads_is_given_up() {
    for version in ["1.0", "1.1"] {
        let mut limits = Limits::default();
        limits.head_timeout = Duration::from_millis(50);
        limits.idle_timeout = Duration::from_millis(50);
        limits.write_timeout = Duration::from_millis(50);
        let server = Server::with_limits(Leaf(|_| vec![b'x'; 32 << 20]), limits);
        let mut client = server.connect();
        client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
        server.until_true("it is accepted", || server.figure("http_server_connections", &[]) == 1.0);
        server.until_true("it is given up", || server.figure("http_server_connections", &[]) == 0.0);
        assert_eq!(server.in_progress(), 0.0);
    }
}

#[test]
fn a_stream_to_a_client_that_never_reads_is_given_up() {
    let mut limits = Limits::default();
    limits.write_timeout = Duration::from_millis(50);
    limits.head_timeout = Duration::from_millis(50);
    let kept = Rc::new(Cell::new(None));
    let keeping = kept.clone();
    let server = Server::with_limits(
        Leaf(move |mut request: Request| {
            request.write(vec![b'x'; 32 << 20]);
            keeping.set(Some(request));
            NOT_DONE_YET
        }),
        limits,
    );
    let mut client = server.connect();
    client.send_request("GET", "/");
    let request = server.until("it arrives", || kept.take());
    let told = request.notify_finish();
    server.until_true("it is given up", || told.is_fired());
    assert!(told.into_result().unwrap().is_err());
    assert_eq!(server.in_progress(), 0.0);
}

// ---- deadlines --------------------------------------------------------------------------------------

/// Deadlines so short that a test can wait for them; each test shortens those it is about.
const SHORT: Duration = Duration::from_millis(100);

#[test]
fn a_head_that_does_not_end_is_answered_with_408() {
    let mut limits = Limits::default();
    limits.head_timeout = SHORT;
    let server = Server::with_limits(Leaf(|_| "x"), limits);
    let begun = Instant::now();
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nX: ");
    // What trickles in does not buy time.
    while client.received().is_empty() {
        client.send("x");
        server.reactor.turn(Some(Duration::from_millis(5))).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    assert!(begun.elapsed() >= SHORT);
    let reply = client.reply();
    assert_eq!((reply.status, reply.header("connection")), (408, Some("close")));
    client.shut_down_writing();
    client.expect_end();
    assert_eq!(server.figure("http_server_bad_requests_total", &[("reason", "timeout")]), 1.0);
}

#[test]
fn the_head_of_a_later_request_has_its_own_deadline() {
    let mut limits = Limits::default();
    limits.head_timeout = SHORT * 5;
    let server = Server::with_limits(Leaf(|_| "x"), limits);
    let mut client = server.connect();
    client.idle_for(SHORT);
    assert_eq!(client.get("/").status, 200);
    let begun = Instant::now();
    client.send("GET / HTTP/1.1\r\n");
    assert_eq!(client.reply().status, 408);
    assert!(begun.elapsed() >= SHORT * 5);
}

#[test]
fn a_connection_on_which_nothing_is_asked_is_closed_without_a_word() {
    let mut limits = Limits::default();
    limits.head_timeout = SHORT;
    let server = Server::with_limits(Leaf(|_| "x"), limits);
    let begun = Instant::now();
    let mut client = server.connect();
    client.expect_end();
    assert!(begun.elapsed() >= SHORT);
    expect_no_log();
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let mut limits = Limits::default();
    limits.idle_timeout = SHORT * 5;
    let server = Server::with_limits(Leaf(|_| "x"), limits);
    let mut client = server.connect();
    let mut last = Instant::now();
    // Each answer starts the time anew: together these take longer than it.
    for _ in 0..6 {
        client.idle_for(SHORT);
        last = Instant::now();
        assert_eq!(client.get("/").status, 200);
    }
    client.expect_end();
    assert!(last.elapsed() >= SHORT * 5);
}

#[test]
fn a_request_that_is_being_handled_has_no_deadline() {
    let mut limits = Limits::default();
    limits.idle_timeout = SHORT / 4;
    limits.head_timeout = SHORT / 4;
    limits.body_timeout = SHORT / 4;
    limits.write_timeout = SHORT / 4;
    let server =
        Server::with_limits(Leaf(|request: Request| defer_later(&request.reactor(), SHORT * 2, || "late")), limits);
    let mut client = server.connect();
    client.send_request("GET", "/");
    assert_eq!(client.reply().brief(), (200, "late"));
    client.expect_end();
}

#[test]
fn a_body_that_does_not_come_is_answered_with_408() {
    let mut limits = Limits::default();
    limits.body_timeout = SHORT;
    limits.body_rate = 1 << 30;
    let server = Server::with_limits(Leaf(|_: Request| -> Render { unreachable!() }), limits);
    let mut client = server.connect();
    let begun = Instant::now();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx");
    // What trickles in earns next to no time at this rate.
    while client.received().is_empty() {
        client.send("x");
        server.reactor.turn(Some(Duration::from_millis(5))).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    assert!(begun.elapsed() >= SHORT);
    assert_eq!(client.reply().status, 408);
    assert_eq!(server.in_progress(), 0.0);
}

#[test]
fn a_deadline_may_be_so_far_that_it_never_comes() {
    let mut limits = Limits::default();
    limits.head_timeout = Duration::MAX;
    limits.body_timeout = Duration::MAX;
    limits.idle_timeout = Duration::MAX;
    limits.write_timeout = Duration::MAX;
    let server = Server::with_limits(Leaf(|request: Request| request.body().to_vec()), limits);
    let mut client = server.connect();
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n");
        client.send("x".repeat(5000));
        client.expect_silence();
        client.send("x".repeat(5000));
        assert_eq!(client.reply().body.len(), 10_000);
    }
    expect_no_log();
}

#[test]
fn a_deadline_of_nothing_ends_what_waits() {
    let mut limits = Limits::default();
    limits.head_timeout = Duration::ZERO;
    limits.body_timeout = Duration::ZERO;
    limits.idle_timeout = Duration::ZERO;
    limits.write_timeout = Duration::ZERO;
    limits.read_ahead = 0;
    let server = Server::with_limits(Leaf(|_| "x"), limits);
    server.connect().expect_end();
    server.until_true("it is gone", || server.figure("http_server_connections", &[]) == 0.0);
    expect_no_log();
}

#[test]
fn a_peer_that_does_not_close_after_a_refusal_is_closed() {
    let server = Server::new(Leaf(|_| "x"));
    let mut client = server.connect();
    client.send("\0");
    assert_eq!(client.reply().status, 400);
    server.until_true("it is closed", || {
        server.reactor.turn(Some(Duration::from_millis(50))).unwrap();
        server.figure("http_server_connections", &[]) == 0.0
    });
}

// ---- figures ----------------------------------------------------------------------------------------

#[test]
fn the_gauges_come_down_on_every_path() {
    let app = Router::new();
    app.route("/answered", |_| "x");
    app.route("/failed", |_| -> Result<&str> { Err("failed".into()) });
    app.route("/panicked", |_| -> &str { panic!("panicked") });
    app.route("/forgotten", |_| NOT_DONE_YET);
    app.route("/later", |request: Request| defer_later(&request.reactor(), Duration::ZERO, || "x"));
    app.route("/abandoned", |_| Deferred::<&str>::pair().1);
    app.route("/short", |mut request: Request| {
        request.add_header(http::header::CONTENT_LENGTH, http::HeaderValue::from_static("9"));
        request.write("x");
        request.finish();
        NOT_DONE_YET
    });
    app.route("/broken", |mut request: Request| -> Result<&str> {
        request.write("x");
        Err("broken".into())
    });
    app.route("/never", |request: Request| defer_later(&request.reactor(), Duration::from_secs(3600), || "x"));
    let server = Server::new(app);
    for path in ["/answered", "/failed", "/panicked", "/forgotten", "/later", "/abandoned", "/none"] {
        server.get(path);
        assert_eq!(server.in_progress(), 0.0, "{path}");
    }
    for path in ["/short", "/broken"] {
        let mut client = server.connect();
        client.send_request("GET", path);
        assert_eq!(client.end(), End::Reset, "{path}");
        server.until_true(path, || server.in_progress() == 0.0);
    }
    let mut client = server.connect();
    client.send_request("GET", "/never");
    server.until_true("it is handled", || server.in_progress() == 1.0);
    client.reset();
    server.until_true("it is not handled any more", || server.in_progress() == 0.0);
    server.until_true("all connections are gone", || server.figure("http_server_connections", &[]) == 0.0);
    assert_eq!(server.figure("http_server_requests_aborted_total", &[]), 1.0, "one client left");
    for route in ["/short", "/broken"] {
        let failed = server.figure("http_server_requests_total", &[("route", route), ("code", "500")]);
        assert_eq!(failed, 1.0, "{route} did not succeed, whatever its head said");
    }
    server.until_true("no deadline outlives its connection", || server.figure("dosimeter_timers_pending", &[]) == 0.0);
    take_log();
}

#[test]
fn a_duration_lasts_to_the_end_of_the_answer() {
    let wait = Duration::from_millis(50);
    let server = Server::new(Leaf(move |request: Request| defer_later(&request.reactor(), wait, || "x")));
    server.get("/");
    let families = server.registry.gather();
    let family = families.iter().find(|family| family.name() == "http_server_request_duration_seconds").unwrap();
    let histogram = family.get_metric()[0].get_histogram();
    assert_eq!(histogram.get_sample_count(), 1);
    let sum = histogram.get_sample_sum();
    assert!((0.05..5.0).contains(&sum), "{sum} s");
}

#[test]
fn two_sites_of_one_reactor_count_together() {
    let server = Server::new(Leaf(|_| "one"));
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let other = server.reactor.listen_tcp(loopback, Site::new(Leaf(|_| "two"))).unwrap();
    assert_eq!(server.get("/").text(), "one");
    let other = Server { addr: other.local_addr(), reactor: server.reactor.clone(), registry: server.registry.clone() };
    assert_eq!(other.get("/").text(), "two");
    assert_eq!(server.figure("http_server_connections_accepted_total", &[]), 2.0);
    expect_no_log();
}

#[test]
fn one_site_may_serve_two_reactors_and_each_counts_its_own() {
    let site = Site::new(Leaf(|_| "x"));
    let serve = |site: &Site| {
        let registry = dosimeter::prometheus::Registry::new();
        let reactor = Reactor::builder().metrics(registry.clone()).build().unwrap();
        let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let addr = reactor.listen_tcp(loopback, site.clone()).unwrap().local_addr();
        Server { reactor, registry, addr }
    };
    let (one, two) = (serve(&site), serve(&site));
    one.get("/");
    two.get("/");
    two.get("/");
    let accepted = |server: &Server| server.figure("http_server_connections_accepted_total", &[]);
    assert_eq!((accepted(&one), accepted(&two)), (1.0, 2.0));
}

#[test]
fn a_site_serves_without_metrics_as_well() {
    let reactor = Reactor::builder().metrics(Metrics::Off).build().unwrap();
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let addr = reactor.listen_tcp(loopback, Site::new(Leaf(|_| "x"))).unwrap().local_addr();
    let server = Server { reactor, registry: dosimeter::prometheus::Registry::new(), addr };
    assert_eq!(server.get("/").brief(), (200, "x"));
    assert!(server.registry.gather().is_empty());
}

// ---- the reactor around it --------------------------------------------------------------------------

#[test]
fn a_resource_that_stops_the_reactor_is_still_answered() {
    let reactor = Reactor::builder().metrics(Metrics::Off).signal_handlers(false).build().unwrap();
    let site = Site::new(Leaf(|request: Request| {
        request.reactor().stop().unwrap();
        Response::text("the last answer")
    }));
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let addr = reactor.listen_tcp(loopback, site).unwrap().local_addr();
    let client = thread::spawn(move || {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(addr).unwrap();
        socket.write_all(request("GET", "/").as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    });
    reactor.run().unwrap();
    assert!(client.join().unwrap().ends_with("\r\n\r\nthe last answer"));
}

#[test]
fn whoever_waits_is_told_when_the_reactor_stops() {
    let reactor = Reactor::builder().metrics(Metrics::Off).signal_handlers(false).build().unwrap();
    let told = Rc::new(RefCell::new(String::new()));
    let noting = told.clone();
    let site = Site::new(Leaf(move |request: Request| {
        let noting = noting.clone();
        let gone = request.notify_finish();
        let stopping = request.reactor();
        gone.add_errback(move |failure| {
            *noting.borrow_mut() = failure.to_string();
            // The request is still ours, and there is nobody to answer.
            request.finish();
        });
        let reactor = stopping.clone();
        reactor.call_soon(move || stopping.stop().unwrap());
        NOT_DONE_YET
    }));
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let addr = reactor.listen_tcp(loopback, site).unwrap().local_addr();
    let mut socket = std::net::TcpStream::connect(addr).unwrap();
    std::io::Write::write_all(&mut socket, request("GET", "/").as_bytes()).unwrap();
    reactor.run().unwrap();
    assert!(told.borrow().contains("stopped"), "{:?}", told.borrow());
}

// ---- who may connect --------------------------------------------------------------------------------

#[test]
fn a_connection_too_many_is_closed_and_counted() {
    let mut limits = Limits::default();
    limits.connections = 2;
    let server = Server::with_limits(Leaf(|_| "x"), limits);
    let (mut one, mut two) = (server.connect(), server.connect());
    assert_eq!((one.get("/").status, two.get("/").status), (200, 200));
    let mut three = server.connect();
    three.expect_end();
    assert_eq!(one.get("/").status, 200);
    one.shut_down_writing();
    one.expect_end();
    assert_eq!(server.get("/").status, 200);
    assert_eq!(server.figure("http_server_connections_rejected_total", &[("reason", "max")]), 1.0);
    assert_eq!(server.figure("http_server_connections_accepted_total", &[]), 3.0);
    assert_eq!(server.figure("http_server_connections", &[]), 1.0);
    expect_no_log();
}

#[test]
fn a_connection_is_closed_after_the_last_request_it_may_have() {
    let mut limits = Limits::default();
    limits.requests_per_connection = 3;
    let server = Server::with_limits(Leaf(|_| "x"), limits);
    let mut client = server.connect();
    client.send(request("GET", "/").repeat(5));
    for connection in [None, None, Some("close")] {
        assert_eq!(client.reply().header("connection"), connection);
    }
    client.expect_end();
    server.until_true("it is gone", || server.figure("http_server_connections", &[]) == 0.0);
    assert_eq!(server.figure("http_server_connections_closed_total", &[("reason", "limit")]), 1.0);
}

// ---- how connections end ----------------------------------------------------------------------------

#[test]
fn a_client_that_closes_its_half_and_is_not_answered_counts_as_gone_after_a_while() {
    let mut limits = Limits::default();
    limits.half_closed = Duration::from_millis(20);
    let kept = Rc::new(Cell::new(None));
    let keeping = kept.clone();
    let waiting = Leaf(move |_| {
        let (completer, answer) = Deferred::<String>::pair();
        keeping.set(Some(completer));
        answer
    });
    let server = Server::with_limits(waiting, limits);
    for first in ["", "/answered"] {
        let mut client = server.connect();
        if !first.is_empty() {
            client.send_request("GET", first);
        }
        client.send_request("GET", "/");
        client.shut_down_writing();
        if !first.is_empty() {
            server.until("it arrives", || kept.take()).callback("at last".to_owned());
            assert_eq!(client.reply().brief(), (200, "at last"));
        }
        let completer = server.until("it arrives", || kept.take());
        server.until_true("the chain is cancelled", || completer.is_cancelled());
        client.expect_end();
    }
    assert_eq!(server.figure("http_server_requests_aborted_total", &[("route", "/")]), 2.0);
    assert_eq!(server.figure("http_server_connections_closed_total", &[("reason", "peer")]), 2.0);
    expect_no_log();
}

#[test]
fn a_client_that_closes_its_half_may_be_answered_piece_by_piece_for_as_long_as_it_takes() {
    let mut limits = Limits::default();
    limits.half_closed = Duration::from_millis(60);
    let server = Server::with_limits(Leaf(|request| ticks(request, 12)), limits);
    let mut client = server.connect();
    client.send_request("GET", "/");
    client.shut_down_writing();
    assert_eq!(client.reply().brief(), (200, "xxxxxxxxxxxx"));
    client.expect_end();
}

/// Writes a byte every 20 ms.
fn ticks(mut request: Request, left: usize) -> Render {
    if left == 0 {
        request.finish();
    } else {
        request.write("x");
        request.reactor().call_later(Duration::from_millis(20), move || {
            let _ = ticks(request, left - 1);
        });
    }
    NOT_DONE_YET
}

#[test]
fn what_is_shielded_goes_on_without_its_peer() {
    let kept = Rc::new(Cell::new(None));
    let keeping = kept.clone();
    let server = Server::new(Leaf(move |request: Request| {
        request.shield();
        let (completer, answer) = Deferred::<String>::pair();
        keeping.set(Some(completer));
        answer
    }));
    let client = {
        let mut client = server.connect();
        client.send_request("GET", "/");
        client
    };
    let completer = server.until("it arrives", || kept.take());
    client.reset();
    server.until_true("the peer is gone", || server.figure("http_server_connections", &[]) == 0.0);
    assert!(!completer.is_cancelled());
    completer.callback("too late".to_owned());
    assert_eq!(server.in_progress(), 0.0);
    expect_no_log();
}

#[test]
fn each_way_a_connection_ends_is_counted_by_its_name() {
    let mut limits = Limits::default();
    let short = Duration::from_millis(20);
    (limits.head_timeout, limits.body_timeout, limits.idle_timeout) = (short, short, short);
    let server = Server::with_limits(Leaf(mixed), limits);
    let ways: [(&str, &str); 6] = [
        ("answered", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        ("answered", "GET / HTTP/1.0\r\n\r\n"),
        ("idle", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("head_timeout", "GET / HTTP/1.1\r\nHos"),
        ("body_timeout", "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe"),
        ("refused", "no request\r\n\r\n"),
    ];
    for (reason, input) in ways {
        let before = server.figure("http_server_connections_closed_total", &[("reason", reason)]);
        let mut client = server.connect();
        client.send(input);
        client.end();
        drop(client);
        server.until_true("it is gone", || server.figure("http_server_connections", &[]) == 0.0);
        let after = server.figure("http_server_connections_closed_total", &[("reason", reason)]);
        assert_eq!(after - before, 1.0, "{reason}");
    }
    let mut client = server.connect();
    client.send_request("GET", "/");
    client.reply();
    client.reset();
    server.until_true("it is gone", || server.figure("http_server_connections", &[]) == 0.0);
    assert_eq!(server.figure("http_server_connections_closed_total", &[("reason", "peer")]), 1.0);
    let sum = server.figure("http_server_connections_closed_total", &[]);
    assert_eq!(sum, server.figure("http_server_connections_accepted_total", &[]));
}

// ---- other protocols --------------------------------------------------------------------------------

#[test]
fn what_speaks_another_protocol_is_told_so_and_counted_by_its_name() {
    let server = Server::new(Leaf(|_| "x"));
    for (hello, status, reason) in [
        (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00"[..], 505, "http2_preface"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "tls_handshake"),
    ] {
        let mut client = server.connect();
        client.send(hello);
        let reply = client.reply();
        assert_eq!((reply.status, reply.header("connection")), (status, Some("close")), "{reason}");
        client.expect_end();
        assert_eq!(server.figure("http_server_bad_requests_total", &[("reason", reason)]), 1.0, "{reason}");
    }
    expect_no_log();
}

#[test]
fn a_wish_to_upgrade_is_ignored() {
    let server = Server::new(Leaf(|request: Request| request.body().to_vec()));
    let mut client = server.connect();
    for wish in ["h2c", "websocket", "TLS/1.0"] {
        client.send(format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {wish}\r\nHTTP2-Settings: AAMA\r\n\
             Content-Length: 4\r\n\r\nbody"
        ));
        let reply = client.reply();
        assert_eq!((reply.brief(), reply.header("upgrade")), ((200, "body"), None), "{wish}");
    }
    assert_eq!(client.get("/").status, 200, "what follows is HTTP/1.1");
}
