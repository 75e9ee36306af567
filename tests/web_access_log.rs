//! The access log: a line per request, in which nothing from the request can pass for anything else.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Once;
use std::time::Duration;

use dosimeter::testing::{MemoryClient, MemoryReactor, flush_all_logged_errors};
use dosimeter::web::{Branch, NOT_DONE_YET, Render, Request, Resource, Response, Site, StatusCode, TrustedProxies};
use dosimeter::web::{Limits, combined};
use dosimeter::{Failure, defer_later};
use log::{LevelFilter, Log, Metadata, Record};

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Capture;

impl Log for Capture {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.target() == "dosimeter::access" || record.level() <= log::Level::Error {
            LINES.with_borrow_mut(|lines| lines.push(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

fn lines() -> Vec<String> {
    LINES.take()
}

/// A line without its time.
#[track_caller]
fn line() -> String {
    let lines = lines();
    let [line] = lines.as_slice() else { panic!("not one line: {lines:#?}") };
    let (before, rest) = line.split_once(" [").unwrap();
    let (time, after) = rest.split_once("] ").unwrap();
    let form = "00/Aaa/0000:00:00:00 +0000";
    let shape = |text: &str| -> String {
        let kind = |char: char| if char.is_ascii_digit() { '0' } else { char };
        text.chars().map(kind).collect()
    };
    assert_eq!(time.len(), form.len(), "{time}");
    assert_eq!(shape(time)[..3], form[..3]);
    assert_eq!(shape(time)[7..], form[7..], "{time}");
    format!("{before} {after}")
}

struct Answers;

impl Resource for Answers {
    fn is_leaf(&self) -> bool {
        true
    }

    fn render(&self, mut request: Request) -> Render {
        let segment = request.postpath().next().unwrap_or_default().to_owned();
        match segment.as_str() {
            "empty" => Response::empty(StatusCode::NO_CONTENT).into(),
            "fails" => Err::<String, _>(Failure::from("as asked")).into(),
            "pieces" => {
                request.write("one, ");
                request.write("two");
                request.finish();
                NOT_DONE_YET
            }
            "breaks" => {
                request.write("one, ");
                NOT_DONE_YET
            }
            "slow" => defer_later(&request.reactor(), Duration::from_secs(2), || "slow").into(),
            _ => Response::text("hello").into(),
        }
    }
}

struct Server {
    memory: MemoryReactor,
    addr: SocketAddr,
}

impl Server {
    fn new(site: Site) -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            log::set_logger(&Capture).expect("the only logger of this program");
            log::set_max_level(LevelFilter::Info);
        });
        let memory = MemoryReactor::new();
        let addr = memory.reactor().listen_tcp("127.0.0.1:0", site).unwrap().local_addr();
        LINES.take();
        Server { memory, addr }
    }

    fn connect(&self) -> MemoryClient {
        self.memory.connect_from("192.0.2.7:1234".parse::<SocketAddr>().unwrap(), self.addr)
    }

    fn send(&self, text: &str) -> MemoryClient {
        let client = self.connect();
        client.send(text);
        client
    }
}

fn combining() -> Server {
    Server::new(Site::new(Answers).access_log(combined))
}

#[test]
fn a_request_is_a_line_in_the_combined_format() {
    let server = combining();
    let client =
        server.send("GET /a?b=c HTTP/1.1\r\nHost: a\r\nReferer: http://b/\r\nUser-Agent: test/1.0 (x)\r\n\r\n");
    assert_eq!(line(), r#"192.0.2.7 - - "GET /a?b=c HTTP/1.1" 200 5 "http://b/" "test/1.0 (x)""#);
    client.send("HEAD / HTTP/1.0\r\n\r\n");
    assert_eq!(line(), r#"192.0.2.7 - - "HEAD / HTTP/1.0" 200 - "-" "-""#);
}

#[test]
fn each_kind_of_answer_has_its_status_and_its_length() {
    let server = combining();
    for (path, end) in [("empty", "204 -"), ("pieces", "200 8"), ("fails", "500 ")] {
        server.send(&format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let mut lines = lines();
        lines.retain(|line| line.contains("HTTP/1.1\""));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(&format!("\"GET /{path} HTTP/1.1\" {end}")), "{}", lines[0]);
    }
    assert_eq!(flush_all_logged_errors().len(), 1);
}

#[test]
fn a_request_that_was_not_answered_whole_is_a_line_as_well() {
    let server = combining();
    let client = server.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(lines(), [""; 0]);
    client.reset();
    server.memory.settle();
    assert_eq!(line(), r#"192.0.2.7 - - "GET /slow HTTP/1.1" 499 - "-" "-""#);
    server.send("GET /breaks HTTP/1.1\r\nHost: a\r\n\r\n");
    let lines = lines();
    assert!(lines.iter().any(|line| line.contains("\"GET /breaks HTTP/1.1\" 500 5 ")), "{lines:#?}");
}

#[test]
fn what_was_refused_is_a_line_without_what_was_asked() {
    let server = combining();
    server.send("no request\r\n\r\n");
    assert_eq!(line(), r#"192.0.2.7 - - "-" 400 - "-" "-""#);
    server.send("\x16\x03\x01\x02\x00\x01");
    assert_eq!(line(), r#"192.0.2.7 - - "-" 400 - "-" "-""#);
}

#[test]
fn nothing_from_a_request_ends_a_line_or_a_quote() {
    let server = combining();
    let client = server.connect();
    // A quote is no part of a target, and a backslash of none but a query.
    client.send(b"GET /a?\\ HTTP/1.1\r\nHost: a\r\nUser-Agent: \x80\xff\t\r\n\r\n");
    assert_eq!(line(), r#"192.0.2.7 - - "GET /a?\\ HTTP/1.1" 200 5 "-" "\x80\xff""#);
    server.send("GET /\"-\" HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(line(), r#"192.0.2.7 - - "-" 400 - "-" "-""#);
    server.send("GET /a HTTP/1.1\r\nHost: a\r\nReferer: a\" \"b\\\r\nUser-Agent: \u{e9}\tx\r\n\r\n");
    assert_eq!(line(), r#"192.0.2.7 - - "GET /a HTTP/1.1" 200 5 "a\" \"b\\" "\xc3\xa9\x09x""#);
}

#[test]
fn pipelined_requests_are_lines_in_order() {
    let server = combining();
    server.send(&(0..50).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")).collect::<String>());
    let lines = lines();
    assert_eq!(lines.len(), 50);
    for (number, line) in lines.iter().enumerate() {
        assert!(line.contains(&format!("\"GET /{number} HTTP/1.1\" 200 5")), "{line}");
    }
}

#[test]
fn the_client_is_the_one_that_a_trusted_proxy_names() {
    let proxies = TrustedProxies::new(["192.0.2.0/24"]).unwrap();
    let server = Server::new(Site::new(Answers).trust_proxies(proxies).access_log(combined));
    server.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.3\r\n\r\n");
    assert_eq!(line(), r#"198.51.100.3 - - "GET / HTTP/1.1" 200 5 "-" "-""#);
    let server = combining();
    server.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.3\r\n\r\n");
    assert_eq!(line(), r#"192.0.2.7 - - "GET / HTTP/1.1" 200 5 "-" "-""#);
}

#[test]
fn a_format_of_the_programs_own_sees_the_whole_request() {
    let root = Branch::new();
    root.put_child("a", Answers);
    let server = Server::new(Site::new(root).access_log(|access| {
        let status = access.status();
        assert_eq!(access.header("host"), Some(&b"x"[..]));
        format!("{:?} {:?} {:?} {status} {:?}", access.method(), access.target(), access.route(), access.duration())
    }));
    server.send("PUT /a/slow HTTP/1.1\r\nHost: x\r\n\r\n");
    server.memory.advance(Duration::from_secs(2));
    assert_eq!(lines(), [r#"Some(PUT) Some("/a/slow") Some("/a") 200 OK 2s"#]);
}

#[test]
fn a_format_that_fails_costs_its_line_only() {
    let server = Server::new(Site::new(Answers).access_log(|_| panic!("no idea")));
    let client = server.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.take().ends_with(b"hello"));
    let lines = lines();
    assert!(lines.len() == 1 && lines[0].contains("no idea"), "{lines:?}");
    assert_eq!(flush_all_logged_errors().len(), 1);
}

#[test]
fn a_format_may_ask_for_anything() {
    let sites = Rc::new(RefCell::new(Vec::<Site>::new()));
    let known = sites.clone();
    let site = Site::with_limits(Answers, Limits::default()).access_log(move |access| {
        let _ = known.borrow()[0].readiness();
        combined(access)
    });
    sites.borrow_mut().push(site.clone());
    let server = Server::new(site);
    let client = server.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(client.take().ends_with(b"hello"));
    assert_eq!(lines().len(), 1);
}

#[test]
fn without_being_asked_nothing_is_written() {
    let server = Server::new(Site::new(Answers));
    server.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(lines(), [""; 0]);
}
