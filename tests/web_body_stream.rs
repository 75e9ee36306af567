//! Bodies taken piece by piece: who is asked for it, when the pieces come, what holds the peer up, and how it ends.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::http::Refusal;
use dosimeter::web::{
    BodyStream, Branch, Disconnected, Limits, NOT_DONE_YET, Render, Request, Resource, Router, StatusCode,
};
use dosimeter::{Clock, Deferred, Failure, Result};
use support::{End, Leaf, Server, expect_log, expect_no_log, take_log};

/// A resource that takes streams and answers for everything below it.
struct Streamed<F>(F);

impl<F, R> Resource for Streamed<F>
where
    F: Fn(Request) -> R + 'static,
    R: Into<Render>,
{
    fn is_leaf(&self) -> bool {
        true
    }

    fn accepts_stream(&self, _request: &Request) -> bool {
        true
    }

    fn render(&self, request: Request) -> Render {
        (self.0)(request).into()
    }
}

/// Answers with the length of the body and the sum of its bytes.
fn sum(mut request: Request) -> Deferred<String> {
    let sum = Rc::new(Cell::new((0, 0_u64)));
    let end = sum.clone();
    let body = request.take_body().for_each(move |piece| {
        let (length, total) = sum.get();
        assert!(!piece.is_empty());
        sum.set((length + piece.len(), total + piece.iter().map(|&byte| u64::from(byte)).sum::<u64>()));
    });
    body.map(move |()| format!("{:?}", end.get()))
}

type Kept = Rc<RefCell<Vec<(Request, BodyStream)>>>;

/// A server that keeps every request with its stream, and answers none.
fn keeper(limits: Limits) -> (Server, Kept) {
    let kept = Kept::default();
    let keeping = kept.clone();
    let server = Server::with_limits(
        Streamed(move |mut request: Request| {
            let body = request.take_body();
            keeping.borrow_mut().push((request, body));
            NOT_DONE_YET
        }),
        limits,
    );
    (server, kept)
}

#[track_caller]
fn next(server: &Server, kept: &Kept) -> (Request, BodyStream) {
    server.until("a request arrives", || kept.borrow_mut().pop())
}

/// What a chain came to.
#[track_caller]
fn outcome<T: 'static>(server: &Server, chain: Deferred<T>) -> Result<T> {
    let result = Rc::new(RefCell::new(None));
    let kept = result.clone();
    chain.add_both(move |outcome: Result<T>| {
        kept.borrow_mut().replace(outcome);
        Ok(())
    });
    server.until("the chain is fired", || result.borrow_mut().take())
}

fn head(length: usize) -> String {
    format!("PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
}

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

// ---- who is asked ------------------------------------------------------------------------------------

#[test]
fn a_stream_is_handed_over_when_the_head_is_there() {
    let (server, kept) = keeper(Limits::default());
    let mut client = server.connect();
    client.send(head(5));
    let (request, mut body) = next(&server, &kept);
    assert_eq!((request.path(), request.body()), ("/a", &b""[..]));
    let piece = body.next_piece();
    server.until_quiet();
    assert!(!piece.is_fired());
    client.send("he");
    assert_eq!(outcome(&server, piece).unwrap().unwrap(), b"he");
    client.send("llo");
    assert_eq!(outcome(&server, body.next_piece()).unwrap().unwrap(), b"llo");
    assert_eq!(outcome(&server, body.next_piece()).unwrap(), None);
    assert_eq!(outcome(&server, body.next_piece()).unwrap(), None);
    request.finish();
    assert_eq!(client.reply().status, 200);
    expect_no_log();
}

#[test]
fn a_body_is_whole_unless_the_resource_asks_for_a_stream() {
    let asked = Rc::new(Cell::new(0));
    let counted = asked.clone();
    let server = Server::new(Leaf(move |request: Request| {
        counted.set(counted.get() + 1);
        request.body().to_vec()
    }));
    let mut client = server.connect();
    client.send(head(5) + "he");
    client.expect_silence();
    assert_eq!(asked.get(), 0);
    client.send("llo");
    assert_eq!((client.reply().brief(), asked.get()), ((200, "hello"), 1));
}

#[test]
fn children_that_are_made_up_are_asked_for_once_and_when_the_request_is_whole() {
    struct Dynamic(Rc<Cell<usize>>);
    impl Resource for Dynamic {
        fn child(&self, _name: &str, request: &Request) -> Option<Rc<dyn Resource>> {
            assert_eq!(request.body(), b"hello");
            self.0.set(self.0.get() + 1);
            Some(Rc::new(Streamed(|mut request: Request| request.take_body().read_to_end(100))))
        }
    }
    let (root, asked) = (Branch::new(), Rc::new(Cell::new(0)));
    root.put_child("dynamic", Dynamic(asked.clone()));
    let server = Server::new(root);
    let mut client = server.connect();
    client.send("PUT /dynamic/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel");
    client.expect_silence();
    client.send("lo");
    assert_eq!((client.reply().brief(), asked.get()), ((200, "hello"), 1));
    expect_no_log();
}

#[test]
fn the_resource_at_the_end_of_the_known_way_is_asked() {
    let (root, below, router) = (Branch::new(), Branch::new(), Router::new());
    root.put_child("below", below.clone());
    below.put_child("whole", Leaf(|request: Request| format!("whole {}", request.body().len())));
    below.put_child("stream", Streamed(sum));
    below.put_child("router", router.clone());
    router.route("/whole/<name>", |request: Request| format!("whole {}", request.body().len()));
    router.route("/stream/<name>", sum).streamed();
    router.route("/resource", Streamed(sum));
    router.mount("/<int:id>/mounted", Streamed(sum));
    router.mount("/again", router.clone());
    let server = Server::new(root);
    for (path, expected) in [
        ("/below/whole", "whole 3"),
        ("/below/stream", "(3, 294)"),
        ("/below/stream/further/down", "(3, 294)"),
        ("/below/router/whole/x", "whole 3"),
        ("/below/router/stream/x", "(3, 294)"),
        ("/below/router/resource", "(3, 294)"),
        ("/below/router/7/mounted/x", "(3, 294)"),
        ("/below/router/again/again/stream/x", "(3, 294)"),
    ] {
        let mut client = server.connect();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"));
        assert_eq!(client.reply().brief(), (200, expected), "{path}");
        assert_eq!(client.get("/below/whole").brief(), (200, "whole 0"), "{path}");
    }
    for path in ["/below/nothing", "/nothing", "/below/router/nothing", "/below/router/x/mounted"] {
        let mut client = server.connect();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"));
        assert_eq!(client.reply().status, 404, "{path}");
    }
    expect_no_log();
}

/// As a program keeps a part of its tree from strangers.
#[test]
fn whoever_hands_requests_on_to_a_branch_hands_bodies_on_as_they_come() {
    struct Private(Branch);
    impl Resource for Private {
        fn is_leaf(&self) -> bool {
            true
        }

        fn accepts_stream(&self, request: &Request) -> bool {
            self.0.accepts_stream(request)
        }

        fn render(&self, request: Request) -> Render {
            match request.header("x-key") {
                Some(_) => self.0.clone().into(),
                None => (StatusCode::FORBIDDEN, "no").into(),
            }
        }
    }
    let (root, inner, deeper) = (Branch::new(), Branch::new(), Branch::new());
    root.put_child("private", Private(inner.clone()));
    inner.put_child("deeper", deeper.clone());
    deeper.put_child("stream", Streamed(sum));
    deeper.put_child("whole", Leaf(|request: Request| format!("whole {}", request.body().len())));
    let server = Server::new(root);
    let head = |path: &str| format!("POST /private{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n");
    for (path, expected) in [("/deeper/stream", (200, "(3, 294)")), ("/deeper/whole", (200, "whole 3"))] {
        let mut client = server.connect();
        client.send(head(path) + "X-Key: a\r\n\r\nabc");
        assert_eq!(client.reply().brief(), expected, "{path}");
    }
    for path in ["", "/", "/nothing", "/deeper", "/deeper/nothing/stream"] {
        let mut client = server.connect();
        client.send(head(path) + "X-Key: a\r\n\r\nabc");
        assert_eq!(client.reply().status, 404, "{path}");
    }
    let mut client = server.connect();
    client.send(head("/deeper/stream") + "\r\n");
    assert_eq!(client.reply().brief(), (403, "no"), "before the body has come");
    assert_eq!(server.routes(), ["/private", "/private/deeper/stream", "/private/deeper/whole", "unmatched"]);
    expect_no_log();
}

#[test]
fn a_router_below_itself_is_not_asked_for_ever() {
    let router = Router::new();
    router.mount("/a", router.clone());
    router.route("/stream", sum).streamed();
    let server = Server::new(router);
    let mut client = server.connect();
    client.send(format!("POST {}/stream HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "/a".repeat(3000)));
    assert_eq!(client.reply().status, 500);
    assert!(take_log()[0].contains("handing the request on"));
}

#[test]
fn a_resource_that_fails_to_say_gets_the_body_whole() {
    struct Unsure;
    impl Resource for Unsure {
        fn accepts_stream(&self, _request: &Request) -> bool {
            panic!("who knows")
        }

        fn render(&self, request: Request) -> Render {
            request.body().to_vec().into()
        }
    }
    let root = Branch::new();
    root.put_child("a", Unsure);
    let server = Server::new(root);
    let mut client = server.connect();
    client.send(head(5) + "hello");
    assert_eq!(client.reply().brief(), (200, "hello"));
    expect_log(&["who knows"]);
    assert_eq!(server.figure("dosimeter_callback_panics_total", &[]), 1.0);
}

#[test]
fn whoever_decides_may_look_at_all_of_the_request() {
    struct Large;
    impl Resource for Large {
        fn is_leaf(&self) -> bool {
            true
        }

        fn accepts_stream(&self, request: &Request) -> bool {
            assert_eq!(request.postpath().collect::<Vec<_>>(), ["b", "c"]);
            let _ = (request.peer_addr(), request.reactor(), request.notify_finish(), request.is_congested());
            request.header("content-length") == Some(b"4")
        }

        fn render(&self, request: Request) -> Render {
            assert_eq!(request.postpath().collect::<Vec<_>>(), ["b", "c"]);
            assert_eq!(request.prepath().collect::<Vec<_>>(), ["a"]);
            format!("{}", request.body().len()).into()
        }
    }
    let root = Branch::new();
    root.put_child("a", Large);
    let server = Server::new(root);
    for (length, expected) in [(3, "3"), (4, "0")] {
        let mut client = server.connect();
        client.send(format!("PUT /a/b/c HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nabcd"));
        assert_eq!(client.reply().brief(), (200, expected));
    }
    assert_eq!(server.routes(), ["/a"]);
    expect_no_log();
}

#[test]
fn whoever_decides_sees_the_values_of_the_patterns_on_the_way() {
    struct Large;
    impl Resource for Large {
        fn is_leaf(&self) -> bool {
            true
        }

        fn accepts_stream(&self, request: &Request) -> bool {
            request.param::<String>("owner").as_deref() == Some("ada") && request.param("size") == Some(4)
        }

        fn render(&self, request: Request) -> Render {
            let values = (request.param::<String>("owner"), request.param::<u32>("size"));
            format!("{values:?} {}", request.body().len()).into()
        }
    }
    let (outer, inner) = (Router::new(), Router::new());
    inner.mount("/<int:size>", Large);
    outer.mount("/of/<owner>", inner);
    let server = Server::new(outer);
    let mut client = server.connect();
    for (path, expected) in [
        ("/of/ada/4", "(Some(\"ada\"), Some(4)) 0"),
        ("/of/ada/3", "(Some(\"ada\"), Some(3)) 4"),
        ("/of/eve/4", "(Some(\"eve\"), Some(4)) 4"),
    ] {
        client.send(format!("PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd"));
        assert_eq!(client.reply().brief(), (200, expected), "{path}");
    }
    expect_no_log();
}

/// Its end needs no room, and nothing more comes that would bring it.
#[test]
fn a_body_that_fills_the_room_there_is_to_the_last_byte_has_an_end() {
    let (server, kept) = keeper(limits(|limits| limits.stream_buffer = 8));
    let mut client = server.connect();
    client.send(head(8) + "all of 8");
    let (request, mut body) = next(&server, &kept);
    server.until_quiet();
    assert_eq!(outcome(&server, body.next_piece()).unwrap().unwrap(), b"all of 8");
    assert_eq!(outcome(&server, body.next_piece()).unwrap(), None);
    request.finish();
    assert_eq!(client.reply().status, 200);
}

#[test]
fn a_body_that_was_whole_is_a_stream_of_one_piece() {
    let server = Server::new(Leaf(sum));
    let mut client = server.connect();
    client.send(head(3) + "abc");
    assert_eq!(client.reply().brief(), (200, "(3, 294)"));
    assert_eq!(client.get("/").brief(), (200, "(0, 0)"));
}

#[test]
fn a_body_is_taken_once() {
    let server = Server::new(Streamed(|mut request: Request| {
        let (first, second) = (request.take_body(), request.take_body());
        second.read_to_end(10).add_callback(move |nothing| {
            assert_eq!(nothing, b"");
            first.read_to_end(10)
        })
    }));
    let mut client = server.connect();
    client.send(head(3) + "abc");
    assert_eq!(client.reply().brief(), (200, "abc"));
}

// ---- the pieces --------------------------------------------------------------------------------------

#[test]
fn however_a_body_comes_its_stream_is_the_same() {
    let server = Server::new(Streamed(sum));
    let chunked = "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                   1\r\na\r\n2;x=y\r\nbc\r\n0\r\nT: v\r\n\r\n";
    for text in [head(3) + "abc", chunked.to_owned()] {
        let input = text.repeat(2) + "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for size in [1, 2, 7, 64, input.len()] {
            let mut client = server.connect();
            for piece in input.as_bytes().chunks(size) {
                client.send(piece);
                server.reactor.turn(Some(Duration::ZERO)).unwrap();
            }
            assert_eq!(client.reply().brief(), (200, "(3, 294)"), "{size}");
            assert_eq!(client.reply().brief(), (200, "(3, 294)"), "{size}");
            assert_eq!(client.reply().brief(), (200, "(0, 0)"), "{size}");
        }
    }
    expect_no_log();
}

#[test]
fn a_stream_is_awaited_like_any_chain() {
    let app = Router::new();
    let handler = async |mut request: Request| -> Result<String> {
        let (mut body, mut text) = (request.take_body(), String::new());
        while let Some(piece) = body.next_piece().await? {
            text += str::from_utf8(&piece)?;
        }
        Ok(text)
    };
    app.route_async("/a", handler).streamed();
    let server = Server::new(app);
    let mut client = server.connect();
    client.send(head(5) + "he");
    client.expect_silence();
    client.send("llo");
    assert_eq!(client.reply().brief(), (200, "hello"));
}

#[test]
fn a_body_that_is_not_taken_holds_up_its_peer() {
    const MUCH: usize = 32 * 1024 * 1024;
    let (server, kept) = keeper(Limits::default());
    let mut client = server.connect();
    client.send(head(MUCH));
    let (request, body) = next(&server, &kept);
    let sent = client.send_until_stuck(&vec![1; MUCH]);
    assert!(sent < MUCH / 2, "{sent} bytes were taken that nobody wanted");
    let end = Rc::new(Cell::new(None));
    let length = end.clone();
    let mut received = 0;
    let done = body.for_each(move |piece| {
        assert!(piece.len() <= 2 * 64 * 1024, "{} bytes at once", piece.len());
        received += piece.len();
        length.set(Some(received));
    });
    client.send(vec![1; MUCH - sent]);
    outcome(&server, done).unwrap();
    assert_eq!(end.get(), Some(MUCH));
    request.finish();
    assert_eq!(client.reply().status, 200);
}

#[test]
fn a_slow_taker_gets_every_byte_in_order() {
    let server = Server::new(Streamed(|mut request: Request| {
        let (whole, reactor) = (Rc::new(RefCell::new(Vec::new())), request.reactor());
        let end = whole.clone();
        let body = request.take_body().for_each(move |piece| {
            let (whole, (completer, pause)) = (whole.clone(), Deferred::<()>::pair());
            reactor.call_later(Duration::from_micros(50), move || {
                whole.borrow_mut().extend(piece);
                completer.callback(());
            });
            pause
        });
        body.map(move |()| end.take())
    }));
    let body: Vec<u8> = (0..3_000_000_u32).map(|index| (index.wrapping_mul(7919) >> 8) as u8).collect();
    let mut client = server.connect();
    client.send(head(body.len()));
    client.send(&body);
    assert!(client.reply().body == body);
}

#[test]
fn one_piece_is_asked_for_at_a_time() {
    let (server, kept) = keeper(Limits::default());
    let mut client = server.connect();
    client.send(head(2));
    let (request, mut body) = next(&server, &kept);
    let first = body.next_piece();
    let second = body.next_piece().into_result().expect("refused at once").unwrap_err();
    assert!(second.to_string().contains("one after the other"), "{second}");
    client.send("ab");
    assert_eq!(outcome(&server, first).unwrap().unwrap(), b"ab");
    request.finish();
}

#[test]
fn a_wait_that_is_cancelled_loses_nothing() {
    let (server, kept) = keeper(Limits::default());
    let mut client = server.connect();
    client.send(head(2));
    let (request, mut body) = next(&server, &kept);
    let waiting = body.next_piece();
    waiting.cancel();
    assert!(waiting.into_result().unwrap().unwrap_err().is::<dosimeter::Cancelled>());
    client.send("ab");
    server.until_quiet();
    assert_eq!(outcome(&server, body.next_piece()).unwrap().unwrap(), b"ab");
    request.finish();
    expect_no_log();
}

// ---- limits ------------------------------------------------------------------------------------------

#[test]
fn a_stream_may_be_longer_than_a_body_that_is_kept() {
    let server = Server::with_limits(Streamed(sum), limits(|limits| limits.request.body = 10));
    let mut client = server.connect();
    client.send(head(30) + &"a".repeat(30));
    assert_eq!(client.reply().brief(), (200, "(30, 2910)"));
}

#[test]
fn a_stream_has_a_limit_of_its_own() {
    let server = Server::with_limits(Streamed(sum), limits(|limits| limits.streamed_body = 2_000_000));
    let mut client = server.connect();
    client.send(head(2_000_001));
    assert_eq!(client.reply().status, 413);
    let mut client = server.connect();
    client.send("PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1E8480\r\n");
    assert_eq!(client.reply().status, 413);
    assert_eq!(server.figure("http_server_bad_requests_total", &[("reason", "body_too_large")]), 2.0);
    expect_no_log();
}

#[test]
fn who_reads_to_the_end_says_how_much_at_most() {
    let server = Server::new(Streamed(|mut request: Request| request.take_body().read_to_end(5)));
    for (body, status) in [("hello", 200), ("hello!", 413)] {
        let mut client = server.connect();
        client.send(head(body.len()) + body);
        assert_eq!(client.reply().status, status);
    }
    expect_no_log();
}

#[test]
fn a_stream_that_nobody_waits_for_has_no_deadline() {
    let short = Duration::from_millis(20);
    let (server, kept) = keeper(limits(|limits| {
        (limits.body_timeout, limits.write_timeout, limits.head_timeout) = (short, short, short);
    }));
    let mut client = server.connect();
    client.send(head(5) + "he");
    let (request, mut body) = next(&server, &kept);
    client.idle_for(5 * short);
    client.send("llo");
    server.until_quiet();
    assert_eq!(outcome(&server, body.next_piece()).unwrap().unwrap(), b"hello");
    request.finish();
    assert_eq!(client.reply().status, 200);
}

#[test]
fn a_stream_that_is_waited_for_has_to_come() {
    let (server, kept) = keeper(limits(|limits| limits.body_timeout = Duration::from_millis(20)));
    let mut client = server.connect();
    client.send(head(5) + "he");
    let (request, mut body) = next(&server, &kept);
    assert_eq!(outcome(&server, body.next_piece()).unwrap().unwrap(), b"he");
    let failure = outcome(&server, body.next_piece()).unwrap_err();
    assert_eq!(failure.downcast_ref::<Refusal>(), Some(&Refusal::Timeout));
    drop((request, body));
    assert_eq!(client.reply().status, 500);
    client.expect_end();
    assert_eq!(server.figure("http_server_bad_requests_total", &[("reason", "timeout")]), 1.0);
    expect_log(&["dropped without an answer"]);
}

#[test]
fn a_slow_stream_that_is_passed_on_is_answered_with_408() {
    let server = Server::with_limits(Streamed(sum), limits(|limits| limits.body_timeout = Duration::from_millis(20)));
    let mut client = server.connect();
    client.send(head(5) + "he");
    let reply = client.reply();
    assert_eq!((reply.status, reply.header("connection")), (408, Some("close")));
    client.expect_end();
    expect_no_log();
}

#[test]
fn what_comes_earns_a_stream_time() {
    let (server, kept) = keeper(limits(|limits| {
        (limits.body_timeout, limits.body_rate) = (Duration::from_millis(20), 1);
    }));
    let mut client = server.connect();
    client.send(head(100) + &"a".repeat(50));
    let (request, mut body) = next(&server, &kept);
    assert_eq!(outcome(&server, body.next_piece()).unwrap().unwrap().len(), 50);
    let piece = body.next_piece();
    client.idle_for(Duration::from_millis(100));
    assert!(!piece.is_fired());
    client.send("a".repeat(50));
    assert_eq!(outcome(&server, piece).unwrap().unwrap().len(), 50);
    request.finish();
}

// ---- 100 Continue ------------------------------------------------------------------------------------

fn expecting(length: usize) -> String {
    head(length).replace("Host", "Expect: 100-continue\r\nHost")
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

#[test]
fn a_client_is_told_to_go_on_when_the_stream_is_first_waited_for() {
    let (server, kept) = keeper(Limits::default());
    let mut client = server.connect();
    client.send(expecting(2));
    let (request, mut body) = next(&server, &kept);
    client.expect_silence();
    let piece = body.next_piece();
    assert_eq!(client.take(CONTINUE.len(), "100 Continue"), CONTINUE);
    client.send("ab");
    assert_eq!(outcome(&server, piece).unwrap().unwrap(), b"ab");
    request.finish();
    assert_eq!(client.reply().status, 200);
    assert_eq!(outcome(&server, body.next_piece()).unwrap(), None);
}

#[test]
fn a_client_whose_body_nobody_wants_is_not_told_to_go_on() {
    let server = Server::new(Streamed(|_| (StatusCode::FORBIDDEN, "no")));
    let mut client = server.connect();
    client.send(expecting(2));
    let reply = client.reply();
    assert_eq!((reply.brief(), reply.header("connection")), ((403, "no"), Some("close")));
    client.expect_end();
}

#[test]
fn a_client_whose_body_is_too_long_is_not_told_to_go_on() {
    let server = Server::with_limits(Leaf(|_| "never"), limits(|limits| limits.request.body = 1));
    let mut client = server.connect();
    client.send(expecting(2));
    assert_eq!(client.reply().status, 413);
    client.expect_end();
}

#[test]
fn a_client_that_sends_without_being_told_is_not_told() {
    let (server, kept) = keeper(Limits::default());
    let mut client = server.connect();
    client.send(expecting(2) + "a");
    let (request, mut body) = next(&server, &kept);
    server.until_quiet();
    assert_eq!(outcome(&server, body.next_piece()).unwrap().unwrap(), b"a");
    let piece = body.next_piece();
    client.send("b");
    assert_eq!(outcome(&server, piece).unwrap().unwrap(), b"b");
    request.finish();
    assert_eq!(client.reply().status, 200);
}

// ---- the end -----------------------------------------------------------------------------------------

#[test]
fn a_malformed_stream_fails_and_is_answered() {
    let server = Server::new(Streamed(sum));
    let mut client = server.connect();
    client.send("PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nx\r\n");
    let reply = client.reply();
    assert_eq!((reply.status, reply.header("connection")), (400, Some("close")));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.expect_end();
    assert_eq!(server.figure("http_server_bad_requests_total", &[("reason", "chunk_size")]), 1.0);
    expect_no_log();
}

#[test]
fn what_came_before_a_fault_is_delivered_first() {
    let (server, kept) = keeper(Limits::default());
    let mut client = server.connect();
    client.send("PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nx\r\n");
    let (mut request, mut body) = next(&server, &kept);
    server.until_quiet();
    assert_eq!(outcome(&server, body.next_piece()).unwrap().unwrap(), b"ab");
    for _ in 0..2 {
        assert!(outcome(&server, body.next_piece()).unwrap_err().is::<Refusal>());
    }
    request.set_status(StatusCode::UNPROCESSABLE_ENTITY);
    request.finish();
    assert_eq!(client.reply().status, 422);
    client.expect_end();
}

#[test]
fn a_stream_fails_when_its_peer_leaves() {
    let (server, kept) = keeper(Limits::default());
    let mut client = server.connect();
    client.send(head(5) + "he");
    let (request, mut body) = next(&server, &kept);
    server.until_quiet();
    assert_eq!(outcome(&server, body.next_piece()).unwrap().unwrap(), b"he");
    let piece = body.next_piece();
    client.reset();
    assert!(outcome(&server, piece).unwrap_err().is::<Disconnected>());
    assert!(outcome(&server, body.next_piece()).unwrap_err().is::<Disconnected>());
    drop(request);
    assert_eq!(server.in_progress(), 0.0);
    expect_no_log();
}

#[test]
fn a_stream_that_is_passed_on_and_whose_peer_leaves_concerns_nobody() {
    let server = Server::new(Streamed(sum));
    let mut client = server.connect();
    client.send(head(5) + "he");
    server.until_true("it is handled", || server.in_progress() == 1.0);
    client.reset();
    server.until_true("it is over", || server.in_progress() == 0.0);
    expect_no_log();
}

#[test]
fn a_stream_cut_off_by_a_peer_that_still_reads_is_answered_with_400() {
    let server = Server::new(Streamed(sum));
    let mut client = server.connect();
    client.send(head(5) + "he");
    client.shut_down_writing();
    let reply = client.reply();
    assert_eq!((reply.status, reply.header("connection")), (400, Some("close")));
    client.expect_end();
    expect_no_log();
}

#[test]
fn a_stream_that_ends_with_its_peers_half_is_whole() {
    let (server, kept) = keeper(limits(|limits| limits.stream_buffer = 1));
    let mut client = server.connect();
    client.send(head(5) + "hello");
    client.shut_down_writing();
    let (request, body) = next(&server, &kept);
    server.until_quiet();
    assert_eq!(outcome(&server, body.read_to_end(5)).unwrap(), b"hello");
    request.finish();
    assert_eq!(client.reply().status, 200);
    client.expect_end();
}

#[test]
fn the_rest_of_a_short_body_is_dropped_and_the_connection_kept() {
    let server = Server::new(Streamed(|mut request: Request| {
        drop(request.take_body());
        "no need"
    }));
    let mut client = server.connect();
    client.send(head(10) + "01234");
    let reply = client.reply();
    assert_eq!((reply.brief(), reply.header("connection")), ((200, "no need"), None));
    client.expect_silence();
    client.send("56789");
    assert_eq!(client.get("/").brief(), (200, "no need"));
    client.send(head(10) + "0123456789" + &head(0));
    assert_eq!(client.reply().brief(), (200, "no need"));
    assert_eq!(client.reply().brief(), (200, "no need"));
}

#[test]
fn with_much_of_a_body_to_come_the_answer_is_the_last_one() {
    let server = Server::new(Streamed(|_| "no need"));
    let mut client = server.connect();
    client.send(head(1_000_000) + "01234");
    let reply = client.reply();
    assert_eq!((reply.brief(), reply.header("connection")), ((200, "no need"), Some("close")));
    client.expect_end();
    let mut client = server.connect();
    client.send("PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    assert_eq!(client.reply().header("connection"), Some("close"));
    client.expect_end();
}

#[test]
fn the_rest_of_a_body_that_does_not_come_ends_the_connection() {
    let server =
        Server::with_limits(Streamed(|_| "no need"), limits(|limits| limits.body_timeout = Duration::from_millis(20)));
    let mut client = server.connect();
    client.send(head(10) + "01234");
    assert_eq!(client.reply().brief(), (200, "no need"));
    client.expect_end();
}

#[test]
fn an_answer_may_begin_before_the_body_has_ended() {
    let (server, kept) = keeper(Limits::default());
    let mut client = server.connect();
    client.send(head(4));
    let (mut request, mut body) = next(&server, &kept);
    for piece in ["ab", "cd"] {
        client.send(piece);
        let piece = outcome(&server, body.next_piece()).unwrap().unwrap();
        request.write(&piece);
        client.take_until(&[&piece[..], b"\r\n"].concat(), "the piece comes back");
    }
    assert_eq!(outcome(&server, body.next_piece()).unwrap(), None);
    request.finish();
    assert_eq!(client.take_until(b"\r\n\r\n", "the end"), b"0\r\n\r\n");
    client.send(head(0));
    let (request, _body) = next(&server, &kept);
    request.finish();
    assert_eq!(client.reply().status, 200);
}

/// Or who watches for errors of the server is woken by clients that leave.
#[test]
fn an_answer_that_breaks_off_because_of_its_body_counts_as_the_fault_of_the_client() {
    let server = Server::new(Streamed(|mut request: Request| {
        let mut body = request.take_body();
        request.send_stream(move || body.next_piece())
    }));
    let count = |code| server.figure("http_server_requests_total", &[("code", code)]);
    let mut client = server.connect();
    client.send(head(5) + "he");
    client.take_until(b"he\r\n", "the answer has begun");
    client.shut_down_writing();
    assert_eq!(client.end(), End::Reset);
    assert_eq!((count("400"), count("500")), (1.0, 0.0));
    let mut client = server.connect();
    client.send("PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n");
    client.take_until(b"he\r\n", "the answer has begun");
    client.send("x\r\n");
    assert_eq!(client.end(), End::Reset);
    assert_eq!((count("400"), count("500")), (2.0, 0.0));
    expect_no_log();
}

#[test]
fn a_stream_that_outlives_its_answer_gives_nothing_more() {
    let (server, kept) = keeper(Limits::default());
    let mut client = server.connect();
    client.send(head(4) + "ab");
    let (request, mut body) = next(&server, &kept);
    server.until_quiet();
    let (told, waiting) = (Rc::new(Cell::new(false)), body.next_piece().into_result().unwrap().unwrap().unwrap());
    assert_eq!(waiting, b"ab");
    let kept_told = told.clone();
    body.next_piece().add_both(move |piece: Result<_>| {
        kept_told.set(piece.unwrap_err().is::<dosimeter::Cancelled>());
        Ok(())
    });
    request.finish();
    assert!(told.get());
    assert_eq!(client.reply().status, 200);
    client.send("cd");
    client.send(head(2) + "xy");
    let (request, mut other) = next(&server, &kept);
    assert!(outcome(&server, body.next_piece()).unwrap_err().is::<dosimeter::Cancelled>());
    assert_eq!(outcome(&server, other.next_piece()).unwrap().unwrap(), b"xy");
    request.finish();
    expect_no_log();
}

#[test]
fn a_handler_that_fails_early_is_answered_and_the_rest_dropped() {
    let server = Server::new(Streamed(|mut request: Request| {
        request.take_body().for_each(|_piece| Err(Failure::from("the disk is full"))).map(|()| "never")
    }));
    let mut client = server.connect();
    client.send(head(10) + "01");
    assert_eq!(client.reply().status, 500);
    expect_log(&["the disk is full"]);
    client.send("23456789");
    client.send(head(1) + "x");
    assert_eq!(client.reply().status, 500);
    expect_log(&["the disk is full"]);
}

#[test]
fn a_thousand_streams_in_one_read_are_handled_in_a_loop() {
    let server = Server::new(Streamed(sum));
    let mut client = server.connect();
    client.send((head(3) + "abc").repeat(1000));
    for _ in 0..1000 {
        assert_eq!(client.reply().brief(), (200, "(3, 294)"));
    }
    assert_eq!(server.figure("http_server_requests_total", &[("code", "200")]), 1000.0);
}

#[test]
fn an_answer_to_a_stream_that_is_never_read_does_not_hold_its_connection() {
    let (server, kept) = keeper(Limits::default());
    let mut client = server.connect();
    client.send(head(1_000_000) + &"a".repeat(500_000));
    let (request, body) = next(&server, &kept);
    server.until_quiet();
    request.finish();
    assert_eq!(client.reply().status, 200);
    assert_eq!(client.end(), End::Closed);
    drop(body);
    server.until_true("it is gone", || server.figure("http_server_connections", &[]) == 0.0);
}
