//! Answers written by a producer that keeps the pace of the peer.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use dosimeter::net::{Producer, ProducerKind};
use dosimeter::web::{NOT_DONE_YET, Request, StatusCode};
use dosimeter::{Deferred, Result};
use support::{End, Framing, Leaf, Server, expect_log, expect_no_log};

/// Counts pieces out to a request, and what it is told.
struct Source {
    kind: ProducerKind,
    request: RefCell<Option<Request>>,
    left: Cell<u32>,
    is_paused: Cell<bool>,
    pauses: Cell<u32>,
    stops: Rc<Cell<u32>>,
}

impl Source {
    fn start(kind: ProducerKind, request: Request, stops: &Rc<Cell<u32>>) -> Rc<Source> {
        let source = Rc::new(Source {
            kind,
            request: RefCell::new(Some(request)),
            left: Cell::new(PIECES),
            is_paused: Cell::new(false),
            pauses: Cell::new(0),
            stops: stops.clone(),
        });
        let request = source.request.borrow();
        request.as_ref().unwrap().register_producer(source.clone(), kind).unwrap();
        drop(request);
        source
    }

    /// Writes a piece; behind the last one, ends.
    fn write(&self) {
        let Some(mut request) = self.request.take() else { return };
        if self.left.get() == 0 {
            request.unregister_producer();
            return request.finish();
        }
        self.left.set(self.left.get() - 1);
        request.write(vec![b'x'; PIECE]);
        self.request.replace(Some(request));
    }

    /// As something that has a pace of its own: a piece each turn of the loop.
    fn run(self: &Rc<Self>) {
        let Some(reactor) = self.request.borrow().as_ref().map(Request::reactor) else { return };
        if !self.is_paused.get() {
            self.write();
        }
        let source = self.clone();
        reactor.call_soon(move || source.run());
    }
}

impl Producer for Source {
    fn resume_producing(&self) -> Result<()> {
        self.is_paused.set(false);
        if self.kind == ProducerKind::Pull {
            self.write();
        }
        Ok(())
    }

    fn pause_producing(&self) {
        self.is_paused.set(true);
        self.pauses.set(self.pauses.get() + 1);
    }

    fn stop_producing(&self) {
        self.stops.set(self.stops.get() + 1);
        if let Some(request) = self.request.take() {
            request.finish();
        }
    }
}

const PIECE: usize = 16 * 1024;
const PIECES: u32 = 2000;

/// The source of the last request.
type Kept = Rc<RefCell<Option<Rc<Source>>>>;

/// A server with a source per request; the last one, and how often one was stopped.
fn server(kind: ProducerKind) -> (Server, Kept, Rc<Cell<u32>>) {
    let (last, stops) = (Rc::new(RefCell::new(None)), Rc::new(Cell::new(0)));
    let (keep, told) = (last.clone(), stops.clone());
    let server = Server::new(Leaf(move |request: Request| {
        let source = Source::start(kind, request, &told);
        if kind == ProducerKind::Push {
            source.run();
        }
        keep.replace(Some(source));
        NOT_DONE_YET
    }));
    (server, last, stops)
}

fn last(kept: &Kept) -> Rc<Source> {
    kept.borrow().clone().expect("it was asked")
}

#[test]
fn a_producer_waits_for_a_peer_that_does_not_read() {
    for kind in [ProducerKind::Push, ProducerKind::Pull] {
        let (server, kept, stops) = server(kind);
        let mut client = server.connect();
        client.send_request("GET", "/");
        client.idle_for(std::time::Duration::from_millis(50));
        let left = last(&kept).left.get();
        assert!((1..PIECES).contains(&left), "{kind:?}: it was not told to wait, {left} of {PIECES} are left");
        client.idle_for(std::time::Duration::from_millis(50));
        assert_eq!(last(&kept).left.get(), left, "{kind:?}: it waits");
        assert_eq!(client.reply().body.len(), PIECES as usize * PIECE, "{kind:?}");
        assert_eq!(last(&kept).pauses.get() > 0, kind == ProducerKind::Push, "one that is pulled is never paused");
        assert_eq!((stops.get(), server.in_progress()), (0, 0.0));
        // The connection is as it was.
        assert_eq!(client.get("/").body.len(), PIECES as usize * PIECE, "{kind:?}");
        expect_no_log();
    }
}

#[test]
fn a_producer_is_stopped_when_the_peer_leaves() {
    for kind in [ProducerKind::Push, ProducerKind::Pull] {
        let (server, kept, stops) = server(kind);
        let mut client = server.connect();
        client.send_request("GET", "/");
        server.until_true("it has begun", || kept.borrow().as_ref().is_some_and(|source| source.left.get() < PIECES));
        client.reset();
        server.until_true("it is gone", || server.in_progress() == 0.0);
        server.until_quiet();
        assert_eq!(stops.get(), 1, "{kind:?}");
        expect_no_log();
    }
}

#[test]
fn what_has_no_body_stops_its_producer() {
    let (server, _kept, stops) = server(ProducerKind::Pull);
    let reply = server.ask("HEAD", "/");
    assert_eq!((reply.status, reply.framing, stops.get()), (200, Framing::Nothing, 1));
    let stops = Rc::new(Cell::new(0));
    let told = stops.clone();
    let empty = Server::new(Leaf(move |mut request: Request| {
        request.set_status(StatusCode::NO_CONTENT);
        Source::start(ProducerKind::Pull, request, &told);
        NOT_DONE_YET
    }));
    assert_eq!((empty.get("/").status, stops.get()), (204, 1));
    let given = stops.clone();
    let late = Server::new(Leaf(move |request: Request| -> Deferred<&str> {
        let source = Source::start(ProducerKind::Push, request, &given);
        let request = source.request.take().unwrap();
        request.unregister_producer();
        let _ = request.register_producer(source.clone(), ProducerKind::Push);
        request.unregister_producer();
        Deferred::succeed("no body")
    }));
    assert_eq!(late.ask("HEAD", "/").status, 200);
    late.until_quiet();
    assert_eq!(stops.get(), 1, "whoever is unregistered is not stopped");
    expect_no_log();
}

#[test]
fn a_request_has_one_producer_at_a_time() {
    struct Idle;
    impl Producer for Idle {
        fn resume_producing(&self) -> Result<()> {
            Ok(())
        }
    }
    let server = Server::new(Leaf(|mut request: Request| {
        request.register_producer(Rc::new(Idle), ProducerKind::Push).unwrap();
        let error = request.register_producer(Rc::new(Idle), ProducerKind::Push).unwrap_err();
        assert!(error.to_string().contains("already"), "{error}");
        request.unregister_producer();
        request.unregister_producer();
        request.register_producer(Rc::new(Idle), ProducerKind::Push).unwrap();
        request.unregister_producer();
        request.write("done");
        request.finish();
        NOT_DONE_YET
    }));
    assert_eq!(server.get("/").text(), "done");
    expect_no_log();
}

#[test]
fn a_producer_that_is_there_at_the_end_is_told_of_and_forgotten() {
    struct Idle(Rc<()>);
    impl Producer for Idle {
        fn resume_producing(&self) -> Result<()> {
            let _ = &self.0;
            Ok(())
        }
    }
    let alive = Rc::new(());
    let kept = alive.clone();
    let server = Server::new(Leaf(move |mut request: Request| {
        request.register_producer(Rc::new(Idle(kept.clone())), ProducerKind::Push).unwrap();
        request.write("done");
        request.finish();
        NOT_DONE_YET
    }));
    let mut client = server.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/").text(), "done");
        expect_log(&["GET / was finished with a producer on it"]);
        assert_eq!(Rc::strong_count(&alive), 2, "nobody has it any more");
    }
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(client.reply().text(), "done");
    client.expect_end();
    expect_log(&["GET / was finished with a producer on it"]);
}

#[test]
fn an_answer_that_breaks_off_stops_its_producer() {
    let (stops, told) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None)));
    let (counted, kept) = (stops.clone(), told.clone());
    let server = Server::new(Leaf(move |mut request: Request| -> Result<&str> {
        request.write("a part");
        kept.replace(Some(Source::start(ProducerKind::Push, request, &counted)));
        Err("no more".into())
    }));
    let mut client = server.connect();
    client.send_request("GET", "/");
    assert_eq!(client.end(), End::Reset);
    server.until_true("it is stopped", || stops.get() == 1);
    expect_log(&["GET / failed", "no more"]);
}
