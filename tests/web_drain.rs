//! The end of a site in good order: who is still answered, who is closed and when, and what ends it in any case.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::testing::{End, MemoryClient, MemoryReactor};
use dosimeter::web::{Branch, Drain, Limits, Render, Request, Response, Router, Site};
use dosimeter::{Clock, Completer, Deferred, Reactor, defer_later};
use support::Leaf;

type Waiting = Rc<RefCell<Vec<Completer<String>>>>;

/// A site in memory and virtual time: `/` answers at once, `/later` when the test says so.
struct Fixture {
    memory: MemoryReactor,
    site: Site,
    addr: SocketAddr,
    waiting: Waiting,
}

impl Fixture {
    fn new() -> Self {
        let (memory, waiting) = (MemoryReactor::new(), Waiting::default());
        let (root, keeping) = (Branch::new(), waiting.clone());
        let site = Site::new(root.clone());
        root.put_child("", Leaf(|_| "now"));
        root.put_child("readyz", site.readiness());
        root.put_child("body", Leaf(|request: Request| request.body().to_vec()));
        root.put_child(
            "later",
            Leaf(move |_| {
                let (completer, answer) = Deferred::<String>::pair();
                keeping.borrow_mut().push(completer);
                answer
            }),
        );
        let addr = memory.reactor().listen_tcp("127.0.0.1:0", site.clone()).unwrap().local_addr();
        Fixture { memory, site, addr, waiting }
    }

    fn connect(&self) -> MemoryClient {
        self.memory.connect(self.addr)
    }

    fn shutdown(&self, drain: Drain) -> Deferred<()> {
        let over = self.site.shutdown(drain);
        self.advance(0);
        over
    }

    fn advance(&self, millis: u64) {
        self.memory.advance(Duration::from_millis(millis));
    }

    fn is_listening(&self) -> bool {
        !self.memory.listening().is_empty()
    }
}

const DRAIN: Duration = Duration::from_secs(30);

fn ask(client: &MemoryClient, path: &str) -> String {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    text(client)
}

fn text(client: &MemoryClient) -> String {
    String::from_utf8(client.take()).unwrap()
}

#[track_caller]
fn expect_last(answer: &str, body: &str) {
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
}

#[test]
fn a_site_that_nobody_uses_is_over_at_once() {
    let site = Site::new(Branch::new());
    assert!(site.shutdown(Drain::new(DRAIN)).is_fired());
    let fixture = Fixture::new();
    assert!(fixture.shutdown(Drain::new(DRAIN)).is_fired());
    assert!(!fixture.is_listening());
}

#[test]
fn a_request_in_hand_is_finished_and_is_the_last_of_its_connection() {
    let fixture = Fixture::new();
    let client = fixture.connect();
    client.send("GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
    let over = fixture.shutdown(Drain::new(DRAIN));
    fixture.advance(20_000);
    assert!(!over.is_fired());
    assert_eq!(client.end(), None);
    fixture.waiting.borrow_mut().pop().unwrap().callback("at last".to_owned());
    fixture.advance(0);
    expect_last(&text(&client), "at last");
    assert_eq!(client.end(), Some(End::Closed));
    drop(client);
    fixture.advance(0);
    assert!(over.is_fired());
    assert_eq!(fixture.memory.reactor().timers().pending().len(), 0);
}

#[test]
fn an_answer_that_has_begun_is_finished() {
    let memory = MemoryReactor::new();
    let kept = Rc::new(RefCell::new(None));
    let keeping = kept.clone();
    let site = Site::new(Leaf(move |mut request: Request| {
        request.write("begun");
        keeping.borrow_mut().replace(request);
        dosimeter::web::NOT_DONE_YET
    }));
    let addr = memory.reactor().listen_tcp("127.0.0.1:0", site.clone()).unwrap().local_addr();
    let client = memory.connect(addr);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let over = site.shutdown(Drain::new(DRAIN));
    memory.advance(Duration::from_secs(5));
    let mut request = kept.borrow_mut().take().unwrap();
    request.write("ended");
    request.finish();
    memory.advance(Duration::ZERO);
    assert!(text(&client).ends_with("5\r\nbegun\r\n5\r\nended\r\n0\r\n\r\n"));
    assert_eq!(client.end(), Some(End::Closed));
    client.close();
    assert!(over.is_fired());
}

#[test]
fn a_connection_that_is_not_used_is_closed_at_once() {
    let fixture = Fixture::new();
    let (fresh, used) = (fixture.connect(), fixture.connect());
    ask(&used, "/");
    fixture.advance(1000);
    let over = fixture.shutdown(Drain::new(DRAIN));
    assert_eq!((fresh.end(), used.end()), (Some(End::Closed), Some(End::Closed)));
    assert!(over.is_fired());
}

#[test]
fn a_connection_that_was_just_used_may_ask_once_more() {
    let fixture = Fixture::new();
    let (one, two, three) = (fixture.connect(), fixture.connect(), fixture.connect());
    for client in [&one, &two, &three] {
        ask(client, "/");
    }
    fixture.advance(400);
    let over = fixture.shutdown(Drain::new(DRAIN));
    fixture.advance(500);
    expect_last(&ask(&one, "/"), "now");
    assert_eq!(one.end(), Some(End::Closed));
    // What is on its way when the time is up is answered as well.
    two.send("GET / HT");
    fixture.advance(200);
    assert_eq!((two.end(), three.end()), (None, Some(End::Closed)));
    assert!(!over.is_fired());
    fixture.advance(5000);
    two.send("TP/1.1\r\nHost: a\r\n\r\n");
    expect_last(&text(&two), "now");
    assert!(!over.is_fired(), "it may have sent on before it knew: the connection lasts until it closes");
    two.close();
    assert!(over.is_fired());
}

#[test]
fn a_request_that_has_begun_to_come_is_answered() {
    let fixture = Fixture::new();
    let (head, body) = (fixture.connect(), fixture.connect());
    head.send("GET / HTTP/1.1\r\nHo");
    body.send("PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe");
    let over = fixture.shutdown(Drain::new(DRAIN));
    fixture.advance(5000);
    head.send("st: a\r\n\r\n");
    body.send("llo");
    expect_last(&text(&head), "now");
    expect_last(&text(&body), "hello");
    head.close();
    assert!(!over.is_fired());
    body.close();
    assert!(over.is_fired());
}

#[test]
fn what_is_left_at_the_deadline_is_aborted_and_told() {
    let fixture = Fixture::new();
    let client = fixture.connect();
    client.send("GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
    let over = fixture.shutdown(Drain::new(DRAIN));
    fixture.advance(29_999);
    assert_eq!((over.is_fired(), client.end()), (false, None));
    fixture.advance(1);
    assert_eq!((over.is_fired(), client.end()), (true, Some(End::Reset)));
    assert!(fixture.waiting.borrow()[0].is_cancelled());
}

#[test]
fn connections_are_accepted_for_as_long_as_was_asked() {
    let fixture = Fixture::new();
    let over = fixture.shutdown(Drain::new(DRAIN).accepting_for(Duration::from_secs(5)));
    for second in 0..5 {
        assert!(fixture.is_listening(), "{second}");
        let client = fixture.connect();
        expect_last(&ask(&client, "/readyz"), "not ready\n");
        assert_eq!(client.end(), Some(End::Closed));
        client.close();
        fixture.advance(1000);
    }
    assert!(!fixture.is_listening());
    assert!(over.is_fired());
}

#[test]
fn a_site_that_drains_is_not_ready() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.connect(), fixture.connect());
    assert!(ask(&one, "/readyz").ends_with("\r\n\r\nready\n"));
    fixture.site.readiness().set_ready(false);
    assert!(ask(&one, "/readyz").starts_with("HTTP/1.1 503 "));
    fixture.site.readiness().set_ready(true);
    assert!(fixture.site.is_ready());
    let _over = fixture.shutdown(Drain::new(DRAIN));
    fixture.site.readiness().set_ready(true);
    assert!(!fixture.site.is_ready());
    assert!(ask(&two, "/readyz").starts_with("HTTP/1.1 503 "));
}

#[test]
fn asked_again_it_goes_on_to_the_earlier_deadline() {
    let fixture = Fixture::new();
    let client = fixture.connect();
    client.send("GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
    let first = fixture.shutdown(Drain::new(DRAIN));
    let second = fixture.shutdown(Drain::new(Duration::from_secs(2)));
    let third = fixture.shutdown(Drain::new(Duration::from_secs(3)));
    fixture.advance(1999);
    assert!(!first.is_fired() && !second.is_fired() && !third.is_fired());
    fixture.advance(1);
    assert!(first.is_fired() && second.is_fired() && third.is_fired());
    assert!(fixture.shutdown(Drain::new(DRAIN)).is_fired());
    assert_eq!(fixture.memory.reactor().timers().pending().len(), 0);
}

#[test]
fn another_site_of_the_reactor_goes_on() {
    let fixture = Fixture::new();
    let other = Site::new(Leaf(|_| "other"));
    let addr = fixture.memory.reactor().listen_tcp("127.0.0.1:0", other).unwrap().local_addr();
    let client = fixture.memory.connect(addr);
    ask(&client, "/");
    fixture.advance(2000);
    assert!(fixture.shutdown(Drain::new(DRAIN)).is_fired());
    assert_eq!(client.end(), None);
    assert!(ask(&client, "/").ends_with("\r\n\r\nother"));
    assert!(fixture.is_listening());
}

#[test]
fn the_end_of_the_reactor_waits_for_the_site() {
    let fixture = Fixture::new();
    let client = fixture.connect();
    client.send("GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
    let reactor = fixture.memory.reactor().clone();
    fixture.site.drain_on_shutdown(&reactor, Drain::new(DRAIN));
    let over = reactor.shut_down();
    fixture.advance(10_000);
    assert!(!over.is_fired());
    fixture.waiting.borrow_mut().pop().unwrap().callback("at last".to_owned());
    fixture.memory.turn();
    assert_eq!(client.end(), Some(End::Closed));
    drop(client);
    while !over.is_fired() {
        fixture.memory.turn();
    }
}

#[test]
fn ends_are_counted_as_those_of_a_drain() {
    let registry = dosimeter::prometheus::Registry::new();
    let reactor = Reactor::builder().metrics(registry.clone()).build().unwrap();
    let site = Site::new(Leaf(|_| "x"));
    let server = support::Server::with_site(reactor, registry, site.clone());
    let mut client = server.connect();
    client.get("/");
    let over = site.shutdown(Drain::new(DRAIN));
    assert_eq!(client.get("/").header("connection"), Some("close"));
    client.expect_end();
    server.until_true("it is over", || over.is_fired());
    assert_eq!(server.figure("http_server_connections_closed_total", &[("reason", "shutdown")]), 1.0);
    assert_eq!(TcpStream::connect(server.addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

// ---- under load --------------------------------------------------------------------------------------

/// A client that asks without end, on connections that it keeps for as long as it may.
struct Asker {
    addr: SocketAddr,
    socket: Option<TcpStream>,
    asked: usize,
    received: Vec<u8>,
    answered: usize,
    /// The port is closed, and nothing was lost by it.
    done: bool,
}

impl Asker {
    fn new(addr: SocketAddr) -> Self {
        Asker { addr, socket: None, asked: 0, received: Vec::new(), answered: 0, done: false }
    }

    fn step(&mut self) {
        let Some(socket) = &mut self.socket else { return self.connect() };
        let mut buffer = [0; 4096];
        match socket.read(&mut buffer) {
            Ok(0) => panic!("closed with a request unanswered, the {}th", self.asked),
            Ok(count) => self.received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("the {}th request failed: {error}", self.asked),
        }
        let text = std::str::from_utf8(&self.received).unwrap();
        if !text.ends_with("\r\n\r\ndone") {
            return;
        }
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        self.answered += 1;
        let is_last = text.contains("Connection: close");
        self.received.clear();
        match is_last {
            true => self.socket = None,
            false => self.ask(),
        }
    }

    fn connect(&mut self) {
        if self.done {
            return;
        }
        // The thread that asks is the one that serves: it cannot wait for the door to be opened, or closed.
        match TcpStream::connect_timeout(&self.addr, Duration::from_millis(1)) {
            Ok(socket) => {
                socket.set_nonblocking(true).unwrap();
                self.socket = Some(socket);
                self.ask();
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                self.done = true;
            }
        }
    }

    fn ask(&mut self) {
        self.asked += 1;
        let path = if self.asked.is_multiple_of(3) { "/later" } else { "/now" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        self.socket.as_mut().unwrap().write_all(request.as_bytes()).unwrap();
    }
}

#[test]
fn a_drain_under_load_fails_not_one_request() {
    let app = Router::new();
    app.route("/now", |_| Response::text("done"));
    app.route("/later", |request: Request| -> Render {
        defer_later(&request.reactor(), Duration::from_millis(3), || Response::text("done")).into()
    });
    let (reactor, site) = (Reactor::builder().build().unwrap(), Site::with_limits(app, Limits::default()));
    let addr = reactor.listen_tcp("127.0.0.1:0", site.clone()).unwrap().local_addr();
    let mut askers: Vec<_> = (0..100).map(|_| Asker::new(addr)).collect();
    let over = Rc::new(Cell::new(None::<Deferred<()>>));
    let mut rounds = 0;
    loop {
        // Some clients are a few turns behind the others, so that requests are under way in every state.
        askers.iter_mut().skip(rounds % 3).step_by(3).for_each(Asker::step);
        reactor.turn(Some(Duration::ZERO)).unwrap();
        rounds += 1;
        if rounds == 300 {
            over.set(Some(site.shutdown(Drain::new(DRAIN).accepting_for(Duration::from_millis(20)))));
        }
        let drained = over.take();
        let is_over = drained.as_ref().is_some_and(Deferred::is_fired);
        over.set(drained);
        if is_over && askers.iter().all(|asker| asker.done) {
            break;
        }
        assert!(rounds < 1_000_000, "it does not end");
    }
    for asker in &askers {
        assert_eq!(asker.asked, asker.answered);
        assert!(asker.answered > 3);
    }
}
