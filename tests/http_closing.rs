//! How a server ends a connection, so that the client has its last answer (RFC 9112 section 9.6), and when it gives one up
//! (section 9.5); in virtual time.

use std::time::Duration;

use dosimeter::testing::{End, MemoryClient, MemoryReactor};
use dosimeter::web::{Limits, Request, Resource, Response, Router, Site};
use http::Method;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn app() -> Router {
    let app = Router::new();
    app.route("/", |_: Request| "x");
    app.route("/echo", |request: Request| request.body().to_vec()).methods([Method::POST]);
    app.route("/large", |_: Request| Response::text("x".repeat(1 << 20)));
    app
}

struct Served {
    memory: MemoryReactor,
    client: MemoryClient,
}

impl Served {
    fn new(limits: Limits) -> Self {
        Served::of(app(), limits)
    }

    fn of(root: impl Resource, limits: Limits) -> Self {
        let memory = MemoryReactor::new();
        memory.reactor().listen_tcp(80, Site::with_limits(root, limits)).unwrap();
        let client = memory.connect(([127, 0, 0, 1], 80));
        Served { memory, client }
    }

    fn send(&self, bytes: impl AsRef<[u8]>) {
        self.client.send(bytes);
        self.memory.turn();
    }

    fn advance(&self, millis: u64) {
        self.memory.advance(Duration::from_millis(millis));
    }

    /// The status codes of what came since the last time.
    fn statuses(&self) -> Vec<String> {
        let text = String::from_utf8(self.client.take()).unwrap();
        text.split("HTTP/1.1 ").skip(1).map(|reply| reply[..3].to_owned()).collect()
    }

    /// Sends a byte every `pause` and returns how many milliseconds the connection took them.
    fn trickle(&self, pause: u64, most: u64) -> u64 {
        let mut lasted = 0;
        while lasted < most && self.client.send("x") == 1 && self.client.end() != Some(End::Reset) {
            self.advance(pause);
            lasted += pause;
        }
        lasted
    }
}

/// RFC 9112 section 9.6: a close while the client sends on is a reset, and may take the last answer away from it. A client that
/// did not ask for the end may have sent on before it knew.
#[test]
fn a_client_that_was_not_asked_may_send_on_behind_its_last_answer() {
    let mut limits = Limits::default();
    limits.requests_per_connection = 1;
    let served = Served::new(limits);
    served.send(GET);
    assert_eq!(served.client.end(), Some(End::Closed), "it hears of the end at once");
    assert_eq!(served.statuses(), ["200"]);
    served.send(GET);
    served.send(GET.repeat(1000));
    assert_eq!((served.statuses(), served.client.end()), (vec![], Some(End::Closed)));
}

/// RFC 9112 section 9.6: the client that said close is not waited for.
#[test]
fn a_client_that_asked_for_the_end_is_let_go_at_once() {
    for fields in ["HTTP/1.1\r\nHost: a\r\nConnection: close", "HTTP/1.0"] {
        let served = Served::new(Limits::default());
        served.send(format!("GET / {fields}\r\n\r\n"));
        assert_eq!((served.statuses(), served.client.end()), (vec!["200".to_owned()], Some(End::Closed)));
        assert_eq!(open(&served), 0.0, "{fields}");
    }
}

/// RFC 9112 section 9.6: go on reading until the client has closed, or has its answer for certain. Who sends a body that was
/// refused may look for the answer at the end of it.
#[test]
fn a_client_that_sends_on_after_a_refusal_is_read_for_a_while() {
    let too_long = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n";
    let served = Served::new(Limits::default());
    served.send(too_long);
    assert_eq!((served.statuses(), served.client.end()), (vec!["413".to_owned()], Some(End::Closed)));
    let lasted = served.trickle(1900, 100_000);
    assert!((28_000..=34_000).contains(&lasted), "not for ever: {lasted} ms");
    assert_eq!(open(&served), 0.0);

    let served = Served::new(Limits::default());
    served.send(too_long);
    served.advance(1900);
    assert_eq!(open(&served), 1.0);
    served.advance(200);
    assert_eq!(open(&served), 0.0, "one that is silent is not waited for");

    let served = Served::new(Limits::default());
    served.send(too_long);
    served.client.send_end();
    served.memory.turn();
    assert_eq!(open(&served), 0.0, "one that has closed neither");
}

/// RFC 9112 section 9.5 leaves it to the server how long it waits. Whatever part of a request it is that a client dribbles, it
/// holds a connection for no longer than the same part may take that does not come at all.
#[test]
fn no_part_of_a_request_can_be_dribbled_for_longer_than_its_deadline() {
    const CHUNKED: &str = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (part, begun, dribble) in [
        ("the method", "", "M"),
        ("the target", "GET /", "a"),
        ("the fields", "GET / HTTP/1.1\r\n", "X: y\r\n"),
        ("a later head", &format!("{GET}\r\nGET /"), "a"),
        ("a body", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", "x"),
        ("a chunk size", CHUNKED, "0"),
        ("a chunk extension", &format!("{CHUNKED}1;a="), "a"),
        ("chunks", CHUNKED, "1\r\nx\r\n"),
        ("trailers", &format!("{CHUNKED}0\r\n"), "X: y\r\n"),
    ] {
        let served = Served::new(Limits::default());
        served.send(begun);
        let before = served.statuses().len();
        let mut seconds = 0;
        let answers = loop {
            served.send(dribble);
            served.advance(1000);
            seconds += 1;
            let answers = served.statuses();
            if !answers.is_empty() {
                break answers;
            }
            assert!(seconds < 40, "{part} is dribbled on");
        };
        assert_eq!(answers, ["408"], "{part}");
        assert!((29..=31).contains(&seconds), "{part}: {seconds} s");
        assert_eq!(before, usize::from(part == "a later head"));
    }
}

/// One empty line before a request is forgiven (RFC 9112 section 2.2), and keeps no connection open.
#[test]
fn empty_lines_put_nothing_off() {
    let served = Served::new(Limits::default());
    served.send(GET);
    assert_eq!(served.statuses(), ["200"]);
    served.advance(74_000);
    served.send("\r\n");
    served.advance(900);
    assert_eq!(open(&served), 1.0);
    served.advance(200);
    assert_eq!((served.statuses(), open(&served)), (vec![], 0.0), "after the time of an idle connection");
}

/// What came at a good pace may take as long as it needs.
#[test]
fn a_slow_body_that_comes_on_is_waited_for() {
    let served = Served::new(Limits::default());
    served.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n");
    for _ in 0..100 {
        served.send("x".repeat(2000));
        served.advance(1000);
    }
    assert_eq!(served.statuses(), ["200"], "after 100 s");
}

/// How many connections there are.
fn open(served: &Served) -> f64 {
    let families = served.memory.registry().gather();
    let family = families.iter().find(|family| family.name() == "http_server_connections").unwrap();
    family.get_metric()[0].get_gauge().get_value()
}
