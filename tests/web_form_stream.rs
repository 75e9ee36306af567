//! Forms that are taken part by part, as they come.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use dosimeter::web::{Disconnected, FormError, FormLimits, FormPart, Request, Response, Router};
use dosimeter::{Failure, Result};
use support::{Client, Server, expect_no_log};

/// What came of the last request: its parts, and then its end.
type Told = Rc<RefCell<Vec<String>>>;

fn tell(part: FormPart) -> String {
    match part {
        FormPart::Field { name, value } => format!("{name}={value}"),
        FormPart::File(head) => format!("file {} {:?} {:?}", head.name, head.file_name, head.content_type),
        FormPart::Data(data) => format!("+{}", String::from_utf8_lossy(&data)),
        FormPart::FileEnd => "end".into(),
    }
}

/// Joins what only the cut of the input has separated.
fn joined(parts: &[String]) -> String {
    let mut text = String::new();
    for part in parts {
        match part.strip_prefix('+') {
            Some(data) => text.push_str(data),
            None => text.push_str(&format!("|{part}|")),
        }
    }
    text
}

/// A server with a form that is a stream and one that is there.
fn server() -> (Server, Told) {
    let told = Told::default();
    let app = Router::new();
    for path in ["/stream", "/whole"] {
        let told = told.clone();
        let handler = async move |mut request: Request| -> Result<Response> {
            told.take();
            let mut limits = FormLimits::default();
            (limits.fields, limits.field) = (5, 100);
            let mut form = request.take_form_within(&limits)?;
            while let Some(part) = form.next_part().await? {
                let part = tell(part);
                told.borrow_mut().push(part);
            }
            Ok(Response::text(joined(&told.borrow())))
        };
        let route = app.route_async(path, handler);
        if path == "/stream" {
            let _ = route.streamed();
        }
    }
    (Server::new(app), told)
}

const MULTIPART: &str = "multipart/form-data; boundary=xyz";
const URLENCODED: &str = "application/x-www-form-urlencoded";

const BODY: &str = "--xyz\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nOn \r\n-- xyz\r\n\
    --xyz\r\nContent-Disposition: form-data; name=a; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nline\r\n\r\n--xy\r\n\
    --xyz\r\nContent-Disposition: form-data; name=b; filename=\"\"\r\n\r\n\r\n\
    --xyz\r\nContent-Disposition: form-data; name=\"\"\r\n\r\n\r\n--xyz--\r\n";

const PARTS: &str = "|title=On \r\n-- xyz||file a Some(\"a.txt\") Some(\"text/plain\")|line\r\n\r\n--xy|end||file b Some(\"\") None||end||=|";

fn head(path: &str, kind: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n")
}

/// Sends the body in pieces of this size, each of which the server reads by itself.
#[track_caller]
fn send_cut(server: &Server, client: &mut Client<'_>, body: &str, size: usize) {
    for piece in body.as_bytes().chunks(size) {
        client.send(piece);
        // What is sent through the loopback is there at once.
        server.reactor.turn(Some(Duration::ZERO)).unwrap();
    }
}

#[test]
fn the_parts_are_the_same_however_the_form_comes() {
    let (server, _) = server();
    for path in ["/stream", "/whole"] {
        let mut client = server.connect();
        for size in [BODY.len(), 1, 2, 7, 33] {
            client.send(head(path, MULTIPART, BODY.len()));
            send_cut(&server, &mut client, BODY, size);
            assert_eq!(client.reply().brief(), (200, PARTS), "{path} by {size}");
        }
        let body = "a=1+2&bare&%62=%26&c=";
        for size in [body.len(), 1, 3] {
            client.send(head(path, URLENCODED, body.len()));
            send_cut(&server, &mut client, body, size);
            assert_eq!(client.reply().brief(), (200, "|a=1 2||b=&||c=|"), "{path} by {size}");
        }
    }
    expect_no_log();
}

#[test]
fn without_a_body_there_are_no_parts_and_another_type_is_refused_before_any() {
    let (server, _) = server();
    for path in ["/stream", "/whole"] {
        assert_eq!(server.get(path).brief(), (200, ""), "{path}");
        let mut client = server.connect();
        client.send(head(path, MULTIPART, 0));
        assert_eq!(client.reply().brief(), (200, ""), "{path}");
        for kind in ["application/json", "text/plain; x", ""] {
            let mut client = server.connect();
            client.send(head(path, kind, 3) + "a=1");
            assert_eq!(client.reply().status, 415, "{path} {kind:?}");
        }
        let mut client = server.connect();
        client.send(head(path, "multipart/form-data", 3) + "a=1");
        assert_eq!(client.reply().status, 400, "{path}: no boundary");
    }
    expect_no_log();
}

#[test]
fn what_came_before_a_fault_is_handed_over_and_the_fault_is_answered() {
    let (server, told) = server();
    let field =
        |name: &str, value: &str| format!("--xyz\r\nContent-Disposition: form-data; name={name}\r\n\r\n{value}\r\n");
    let cases = [
        (MULTIPART, field("a", "1") + "--xyz\r\nnonsense\r\n\r\n", 400, "|a=1|"),
        (MULTIPART, field("a", "1") + &field("b", "2") + "--xyz", 400, "|a=1|"),
        (MULTIPART, (0..6).map(|_| field("a", "1")).collect(), 413, "|a=1||a=1||a=1||a=1||a=1|"),
        (MULTIPART, field("a", &"x".repeat(101)), 413, ""),
        (URLENCODED, "x".repeat(101), 413, ""),
        (URLENCODED, "a=&".repeat(6), 413, ""),
    ];
    for (kind, body, status, before) in cases {
        for path in ["/stream", "/whole"] {
            let mut client = server.connect();
            client.send(head(path, kind, body.len()) + &body);
            let reply = client.reply();
            assert_eq!((reply.status, joined(&told.borrow()).as_str()), (status, before), "{path} {body}");
        }
    }
    expect_no_log();
}

#[test]
fn a_form_that_ended_badly_stays_so_and_one_that_ended_well_too() {
    let seen = Rc::new(Cell::new(0));
    let counted = seen.clone();
    let app = Router::new();
    app.route_async("/", async move |mut request: Request| -> Result<&str> {
        let mut form = request.take_form()?;
        let first: Result<Option<FormPart>> = form.next_part().await;
        for _ in 0..3 {
            match (&first, form.next_part().await) {
                (Ok(None), Ok(None)) => {}
                (Err(_), Err(failure)) => assert!(failure.is::<FormError>(), "{failure}"),
                (first, other) => panic!("{first:?}, then {other:?}"),
            }
            counted.set(counted.get() + 1);
        }
        Ok("asked")
    })
    .streamed();
    let server = Server::new(app);
    for (body, expected) in [("--xyz--\r\n", 3), ("nonsense", 6)] {
        let mut client = server.connect();
        client.send(head("/", MULTIPART, body.len()) + body);
        assert_eq!((client.reply().text(), seen.get()), ("asked", expected));
    }
    expect_no_log();
}

#[test]
fn a_client_sends_no_faster_than_the_parts_are_taken() {
    const SIZE: usize = 8 * 1024 * 1024;
    let (taken, go_on) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let (counted, may_go_on) = (taken.clone(), go_on.clone());
    let app = Router::new();
    app.route_async("/", async move |mut request: Request| -> Result<String> {
        let mut form = request.take_form()?;
        assert!(matches!(form.next_part().await?, Some(FormPart::File(_))));
        while !may_go_on.get() {
            dosimeter::defer_later(&request.reactor(), Duration::from_millis(1), || ()).await?;
        }
        while let Some(part) = form.next_part().await? {
            if let FormPart::Data(data) = part {
                assert!(data.len() <= 256 * 1024, "{} bytes at once", data.len());
                counted.set(counted.get() + data.len());
            }
        }
        Ok(format!("{}", counted.get()))
    })
    .streamed();
    let server = Server::new(app);
    let start = "--xyz\r\nContent-Disposition: form-data; name=a; filename=b\r\n\r\n";
    let end = "\r\n--xyz--\r\n";
    let mut client = server.connect();
    client.send(head("/", MULTIPART, start.len() + SIZE + end.len()) + start);
    let data = vec![b'x'; SIZE];
    let sent = client.send_until_stuck(&data);
    assert!(sent < SIZE, "all of it was read, and nobody wanted it");
    go_on.set(true);
    client.send(&data[sent..]);
    client.send(end);
    assert_eq!(client.reply().text(), SIZE.to_string());
    expect_no_log();
}

#[test]
fn who_waits_for_a_part_is_told_that_the_peer_left() {
    let told = Rc::new(RefCell::new(None::<Failure>));
    let keep = told.clone();
    let app = Router::new();
    app.route("/", move |mut request: Request| {
        request.shield();
        let (mut form, keep) = (request.take_form().expect("it is a form"), keep.clone());
        let part = form.next_part();
        part.add_both(move |result| -> Result<&str> {
            drop(form);
            keep.replace(result.err());
            Ok("over")
        })
    })
    .streamed();
    let server = Server::new(app);
    let mut client = server.connect();
    client.send(head("/", MULTIPART, 1000) + "--xyz\r\n");
    server.until_true("it is handled", || server.in_progress() == 1.0);
    client.reset();
    let failure = server.until("it is told", || told.take());
    assert!(failure.is::<Disconnected>(), "{failure}");
    expect_no_log();
}

#[test]
fn a_form_that_is_dropped_while_it_is_waited_for_is_given_up() {
    let app = Router::new();
    app.route_async("/", async |mut request: Request| -> Result<Response> {
        let part = request.take_form()?.next_part();
        let failure = part.await.expect_err("the form is gone");
        Ok(Response::text(failure.to_string()))
    })
    .streamed();
    let server = Server::new(app);
    let mut client = server.connect();
    client.send(head("/", MULTIPART, BODY.len()));
    server.until_quiet();
    client.send(BODY);
    assert!(client.reply().text().contains("abandoned"));
    client.send(head("/", MULTIPART, 0));
    assert_eq!(client.reply().status, 500, "the connection goes on; this time there is no failure to expect");
    support::take_log();
}
