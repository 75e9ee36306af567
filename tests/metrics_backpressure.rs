//! What waits for clients that do not read, and which connections are not read from: figures of now, which come down again.

use std::cell::RefCell;
use std::rc::Rc;

use dosimeter::net::LimitConnections;
use dosimeter::testing::{MemoryClient, MemoryReactor};
use dosimeter::web::{BodyStream, Branch, Limits, NOT_DONE_YET, Render, Request, Resource, Response, Site};
use dosimeter::{Completer, Deferred};

const BUFFERED: &str = "http_server_write_buffered_bytes";
const PAUSED: &str = "http_server_connections_paused";

/// Both figures.
fn figures(memory: &MemoryReactor) -> (i64, i64) {
    let families = memory.registry().gather();
    let gauge = |name: &str| {
        let family = families.iter().find(|family| family.name() == name);
        let family = family.unwrap_or_else(|| panic!("{name} is not told"));
        family.get_metric()[0].get_gauge().get_value() as i64
    };
    (gauge(BUFFERED), gauge(PAUSED))
}

/// Answers with so many bytes.
struct Bytes(usize);

impl Resource for Bytes {
    fn render_get(&self, _request: Request) -> Render {
        Response::new(vec![b'x'; self.0]).into()
    }
}

fn root() -> Branch {
    let root = Branch::new();
    root.put_child("small", Bytes(10));
    root.put_child("some", Bytes(10_000));
    root.put_child("large", Bytes(200_000));
    root
}

fn serve(memory: &MemoryReactor, site: Site) -> MemoryClient {
    let port = memory.reactor().listen_tcp("127.0.0.1:0", site).expect("nobody else listens");
    memory.connect(port.local_addr())
}

fn ask(client: &MemoryClient, path: &str) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
}

#[test]
fn a_client_that_reads_leaves_nothing_waiting() {
    let memory = MemoryReactor::new();
    let client = serve(&memory, Site::new(root()));
    for path in ["/small", "/large", "/some"] {
        ask(&client, path);
        assert_eq!(figures(&memory), (0, 0), "{path}");
    }
    assert!(client.take().len() > 210_000);
}

#[test]
fn what_a_client_does_not_read_is_told_to_the_byte_until_it_does() {
    let memory = MemoryReactor::new();
    let client = serve(&memory, Site::new(root()));
    ask(&client, "/some");
    let length = client.take().len() as i64;
    client.stop_reading(4000);
    ask(&client, "/some");
    assert_eq!(figures(&memory), (length - 4000, 0), "less than what holds up a connection");
    client.resume_reading();
    assert_eq!(figures(&memory), (0, 0));
    assert_eq!(client.take().len() as i64, length);
}

#[test]
fn a_connection_with_too_much_unread_is_paused_until_all_is_read() {
    let memory = MemoryReactor::new();
    let client = serve(&memory, Site::new(root()));
    client.stop_reading(0);
    ask(&client, "/large");
    let (buffered, paused) = figures(&memory);
    assert!(buffered > 200_000 && buffered < 200_500, "{buffered}");
    assert_eq!(paused, 1);
    client.stop_reading(buffered as usize - 1000);
    memory.settle();
    assert_eq!(figures(&memory), (1000, 0), "it is read from again");
    client.resume_reading();
    assert_eq!(figures(&memory), (0, 0));
}

#[test]
fn what_nobody_will_read_any_more_waits_no_more() {
    let memory = MemoryReactor::new();
    let site = Site::new(root());
    let clients = [(); 3].map(|()| serve(&memory, site.clone()));
    for (number, client) in clients.iter().enumerate() {
        client.stop_reading(0);
        ask(client, "/large");
        assert_eq!(figures(&memory).1, number as i64 + 1);
    }
    let one = figures(&memory).0 / 3;
    let [reset, gone, stopped] = clients;
    reset.reset();
    assert_eq!(figures(&memory), (2 * one, 2), "the peer reset");
    gone.close();
    assert_eq!(figures(&memory), (one, 1), "the peer closed");
    memory.reactor().shut_down();
    assert_eq!(figures(&memory), (0, 0), "the reactor stopped");
    drop(stopped);
}

#[test]
fn a_limit_around_the_site_changes_no_figure() {
    let memory = MemoryReactor::new();
    let limited = LimitConnections::new(Site::new(root()), 10);
    let port = memory.reactor().listen_tcp("127.0.0.1:0", limited).expect("nobody else listens");
    let client = memory.connect(port.local_addr());
    client.stop_reading(0);
    ask(&client, "/large");
    assert!(figures(&memory).0 > 200_000);
    client.resume_reading();
    assert_eq!(figures(&memory), (0, 0));
}

/// Answers when told to.
#[derive(Clone, Default)]
struct Later(Rc<RefCell<Vec<Completer<Response>>>>);

impl Later {
    fn answer(&self) {
        self.0.borrow_mut().remove(0).callback(Response::text("now"));
    }
}

impl Resource for Later {
    fn is_leaf(&self) -> bool {
        true
    }

    fn render_get(&self, _request: Request) -> Render {
        let (completer, answer) = Deferred::pair();
        self.0.borrow_mut().push(completer);
        answer.into()
    }
}

#[test]
fn a_client_that_asks_further_ahead_than_allowed_is_paused_until_it_is_answered() {
    let memory = MemoryReactor::new();
    let later = Later::default();
    let mut limits = Limits::default();
    limits.read_ahead = 100;
    let client = serve(&memory, Site::with_limits(later.clone(), limits));
    ask(&client, "/");
    assert_eq!(figures(&memory), (0, 0));
    ask(&client, &format!("/{}", "x".repeat(100)));
    assert_eq!(figures(&memory), (0, 1));
    later.answer();
    memory.settle();
    assert_eq!(figures(&memory), (0, 0));
    later.answer();
    memory.settle();
    assert_eq!(client.take().escape_ascii().to_string().matches("now").count(), 2);
    ask(&client, "/");
    ask(&client, &format!("/{}", "y".repeat(100)));
    assert_eq!(figures(&memory), (0, 1));
    client.reset();
    later.answer();
    memory.settle();
    assert_eq!(figures(&memory), (0, 0), "the peer has left");
}

/// Keeps requests with the streams of their bodies, and takes nothing of them.
#[derive(Clone, Default)]
struct Keeper(Rc<RefCell<Vec<(Request, BodyStream)>>>);

impl Resource for Keeper {
    fn is_leaf(&self) -> bool {
        true
    }

    fn accepts_stream(&self, _request: &Request) -> bool {
        true
    }

    fn render(&self, mut request: Request) -> Render {
        let body = request.take_body();
        self.0.borrow_mut().push((request, body));
        NOT_DONE_YET
    }
}

#[test]
fn a_client_that_sends_more_than_its_resource_takes_is_paused_until_it_takes_more() {
    let memory = MemoryReactor::new();
    let keeper = Keeper::default();
    let client = serve(&memory, Site::new(keeper.clone()));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n");
    assert_eq!(figures(&memory), (0, 0));
    client.send(vec![b'x'; 300_000]);
    assert_eq!(figures(&memory), (0, 1));
    let (mut request, body) = keeper.0.borrow_mut().remove(0);
    let whole = body.read_to_end(300_000);
    memory.settle();
    assert_eq!(figures(&memory), (0, 0));
    let whole = whole.map(move |body| {
        request.write(body.len().to_string());
        request.finish();
    });
    memory.settle();
    assert!(whole.is_fired());
    assert!(client.take().windows(6).any(|window| window == b"300000"));
}
