//! Answers sent piece by piece: where the pieces come from, how far ahead of the peer they are, and what ends them.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use dosimeter::web::{HeaderValue, Render, Request, StatusCode};
use dosimeter::{Completer, Deferred, Failure, Result};
use support::{End, Framing, Leaf, Server, expect_log, expect_no_log};

/// A source that gives each of `pieces` at once.
fn pieces(pieces: &'static [&'static str]) -> impl FnMut() -> Result<Option<&'static str>> {
    let mut left = pieces.iter().copied();
    move || Ok(left.next())
}

/// A source whose pieces come when the test says so, and whether it still exists.
#[derive(Clone, Default)]
struct Later {
    asked: Rc<RefCell<Vec<Completer<Option<String>>>>>,
    alive: Rc<()>,
}

impl Later {
    fn source(&self) -> impl FnMut() -> Deferred<Option<String>> + 'static {
        let (asked, alive) = (self.asked.clone(), self.alive.clone());
        move || {
            let _ = &alive;
            let (completer, piece) = Deferred::pair();
            asked.borrow_mut().push(completer);
            piece
        }
    }

    /// The source of `server` was asked, and gives this.
    #[track_caller]
    fn give(&self, server: &Server, piece: Result<Option<&str>>) {
        let completer = server.until("a piece is asked for", || self.asked.borrow_mut().pop());
        completer.fire(piece.map(|piece| piece.map(str::to_owned)));
    }

    fn is_dropped(&self) -> bool {
        // The test and the server know how to make another one.
        Rc::strong_count(&self.alive) == 2
    }

    fn server(&self) -> Server {
        let later = self.clone();
        Server::new(Leaf(move |request: Request| request.send_stream(later.source())))
    }
}

#[test]
fn the_pieces_of_a_source_are_the_body() {
    let server = Server::new(Leaf(|request: Request| request.send_stream(pieces(&["one, ", "", "two"]))));
    let reply = server.get("/");
    assert_eq!((reply.brief(), reply.framing), ((200, "one, two"), Framing::Chunked));
    expect_no_log();
}

#[test]
fn a_stream_of_known_length_is_sent_with_it() {
    let server = Server::new(Leaf(|mut request: Request| {
        request.set_length(8);
        request.set_status(StatusCode::PARTIAL_CONTENT);
        request.send_stream(pieces(&["one, ", "two"]))
    }));
    let reply = server.get("/");
    assert_eq!((reply.brief(), reply.framing), ((206, "one, two"), Framing::Length(8)));
}

#[test]
fn pieces_may_come_later() {
    let later = Later::default();
    let server = later.server();
    let mut client = server.connect();
    client.send_request("GET", "/");
    later.give(&server, Ok(Some("one, ")));
    client.take_until(b"one, \r\n", "the first piece");
    client.expect_silence();
    later.give(&server, Ok(Some("two")));
    later.give(&server, Ok(None));
    assert_eq!(client.take_until(b"0\r\n\r\n", "the end"), b"3\r\ntwo\r\n0\r\n\r\n");
    assert!(later.is_dropped());
}

#[test]
fn a_source_is_asked_no_further_than_the_peer_reads() {
    const PIECES: usize = 1024;
    let asked = Rc::new(Cell::new(0));
    let counted = asked.clone();
    let server = Server::new(Leaf(move |request: Request| {
        let counted = counted.clone();
        request.send_stream(move || {
            counted.set(counted.get() + 1);
            Ok((counted.get() <= PIECES).then(|| vec![b'x'; 64 * 1024]))
        })
    }));
    let mut client = server.connect();
    client.send_request("GET", "/");
    server.until_quiet();
    assert!((1..PIECES / 2).contains(&asked.get()), "{} pieces for a peer that reads none", asked.get());
    assert_eq!(client.reply().body.len(), PIECES * 64 * 1024);
    assert_eq!((asked.get(), server.in_progress()), (PIECES + 1, 0.0));
}

#[test]
fn a_source_that_fails_at_once_is_answered_with_500() {
    let server = Server::new(Leaf(|mut request: Request| {
        request.set_length(10);
        request.send_stream(|| Err::<Option<String>, _>(Failure::from("no such file")))
    }));
    assert_eq!(server.get("/a").status, 500);
    expect_log(&["GET /a failed", "no such file"]);
}

#[test]
fn a_source_that_panics_is_answered_with_500_and_counted() {
    let server = Server::new(Leaf(|request: Request| {
        request.send_stream(|| -> Result<Option<String>> { panic!("out of ideas") })
    }));
    assert_eq!(server.get("/").status, 500);
    expect_log(&["out of ideas"]);
    assert_eq!(server.figure("dosimeter_callback_panics_total", &[]), 1.0);
}

#[test]
fn a_source_that_fails_later_breaks_the_answer_off() {
    let later = Later::default();
    let server = later.server();
    let mut client = server.connect();
    client.send_request("GET", "/a");
    later.give(&server, Ok(Some("one, ")));
    client.take_until(b"one, \r\n", "the first piece");
    later.give(&server, Err(Failure::from("the disk is gone")));
    assert_eq!(client.end(), End::Reset);
    expect_log(&["GET /a failed", "the disk is gone"]);
    assert!(later.is_dropped());
}

#[test]
fn when_the_peer_leaves_the_piece_that_is_waited_for_is_cancelled() {
    let later = Later::default();
    let server = later.server();
    let mut client = server.connect();
    client.send_request("GET", "/");
    later.give(&server, Ok(Some("one, ")));
    let pending = server.until("the next piece is asked for", || later.asked.borrow_mut().pop());
    assert!(!pending.is_cancelled());
    client.reset();
    server.until_true("it is cancelled", || pending.is_cancelled());
    assert!(later.is_dropped());
    assert_eq!(server.in_progress(), 0.0);
    expect_no_log();
}

#[test]
fn when_the_peer_leaves_a_source_that_waits_for_it_is_dropped() {
    let alive = Rc::new(());
    let held = alive.clone();
    let server = Server::new(Leaf(move |request: Request| {
        let held = held.clone();
        request.send_stream(move || {
            let _ = &held;
            Ok(Some([b'x'; 64 * 1024]))
        })
    }));
    let mut client = server.connect();
    client.send_request("GET", "/");
    server.until_quiet();
    assert_eq!(Rc::strong_count(&alive), 3);
    client.reset();
    server.until_true("it is dropped", || Rc::strong_count(&alive) == 2);
    expect_no_log();
}

#[test]
fn what_has_no_body_asks_no_source() {
    let server = Server::new(Leaf(|mut request: Request| {
        if request.path() == "/304" {
            request.set_status(StatusCode::NOT_MODIFIED);
        }
        request.set_length(8);
        request.send_stream(|| -> Result<Option<String>> { panic!("nobody asked") })
    }));
    assert_eq!(server.ask("HEAD", "/").header("content-length"), Some("8"));
    assert_eq!(server.get("/304").status, 304);
    expect_no_log();
}

#[test]
fn what_a_source_gives_beyond_the_length_is_left_out() {
    let server = Server::new(Leaf(|mut request: Request| {
        request.set_length(8);
        request.send_stream(|| Ok(Some("12345")))
    }));
    assert_eq!(server.get("/a").brief(), (200, "12345123"));
    expect_log(&["GET /a", "2 bytes dropped"]);
}

#[test]
fn a_source_that_ends_before_the_length_breaks_the_connection() {
    let server = Server::new(Leaf(|mut request: Request| {
        request.set_length(8);
        request.send_stream(pieces(&["one, "]))
    }));
    let mut client = server.connect();
    client.send_request("GET", "/");
    assert_eq!(client.end(), End::Reset);
}

#[test]
fn a_field_that_is_set_stands_in_place_of_those_added() {
    let server = Server::new(Leaf(|mut request: Request| -> Render {
        let value = HeaderValue::from_static;
        request.add_header("x-a".parse().unwrap(), value("1"));
        request.add_header("x-ab".parse().unwrap(), value("x-a: 0"));
        request.add_header("x-a".parse().unwrap(), value("2"));
        request.set_header("x-a".parse().unwrap(), value("3"));
        request.set_header("content-type".parse().unwrap(), value("text/one"));
        request.set_header("content-type".parse().unwrap(), value("text/two"));
        request.set_header("content-length".parse().unwrap(), value("2"));
        request.set_header("connection".parse().unwrap(), value("upgrade"));
        request.send_stream(pieces(&["ok"]))
    }));
    let reply = server.get("/");
    assert_eq!(reply.header("x-a"), Some("3"));
    assert_eq!(reply.header("x-ab"), Some("x-a: 0"));
    assert_eq!(reply.header("content-type"), Some("text/two"));
    assert_eq!((reply.brief(), reply.framing), ((200, "ok"), Framing::Length(2)));
    expect_log(&["header connection left out"]);
}
