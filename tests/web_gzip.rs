//! Answers that are compressed on their way out, and those that must not be.

#![cfg(feature = "gzip")]

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/directory.rs"]
mod directory;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::rc::Rc;
use std::time::Duration;

use directory::{Directory, ask};
use dosimeter::web::{
    Branch, Data, ETag, ErrorPage, Gzip, HttpError, NOT_DONE_YET, Render, Request, Resource, Response, Router, Site,
    StaticFiles,
};
use dosimeter::{Clock, Deferred, Failure, defer_later, testing};
use flate2::read::GzDecoder;
use flate2::{Decompress, FlushDecompress};
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use support::{End, Framing, Leaf, Reply, Server, expect_log, expect_no_log};

const ACCEPT: &str = "Accept-Encoding: gzip";

/// Long enough to be worth it.
fn text() -> String {
    (0..500).map(|at| format!("line {at}\n")).collect()
}

#[track_caller]
fn unzip(bytes: &[u8]) -> String {
    let (mut text, mut decoder) = (String::new(), GzDecoder::new(bytes));
    decoder.read_to_string(&mut text).unwrap();
    assert!(decoder.into_inner().is_empty(), "bytes behind the end");
    text
}

/// A server that compresses what `handle` answers.
fn server<R: Into<Render>>(handle: impl Fn(Request) -> R + 'static) -> Server {
    Server::new(Gzip::new(Leaf(handle)))
}

/// The answer to a client that accepts gzip.
#[track_caller]
fn get(server: &Server) -> Reply {
    ask(server, "GET", "/", ACCEPT)
}

#[track_caller]
fn expect_compressed(reply: &Reply, text: &str) {
    assert_eq!(reply.header("content-encoding"), Some("gzip"));
    assert_eq!(reply.header("vary"), Some("Accept-Encoding"));
    assert!(unzip(&reply.body) == text, "it is another text");
}

#[track_caller]
fn expect_plain(reply: &Reply, text: &str) {
    assert_eq!(reply.header("content-encoding"), None);
    assert!(reply.text() == text, "it is another text");
}

// ---- whole answers -----------------------------------------------------------------------------------

#[test]
fn an_answer_is_compressed_for_who_accepts_it() {
    let server = server(|_| Response::text(text()).with_header(header::ETAG, HeaderValue::from_static("\"a\"")));
    let reply = get(&server);
    expect_compressed(&reply, &text());
    assert_eq!(reply.framing, Framing::Length(reply.body.len()));
    assert!(reply.body.len() * 2 < text().len());
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(reply.header("etag"), Some("W/\"a\""), "it is not the same bytes");
    let plain = server.get("/");
    expect_plain(&plain, &text());
    assert_eq!((plain.header("vary"), plain.header("etag")), (Some("Accept-Encoding"), Some("\"a\"")));
    expect_no_log();
}

#[test]
fn qualities_are_honoured() {
    let server = server(|_| text());
    for (lines, is_compressed) in [
        ("Accept-Encoding: gzip;q=0.5, br", true),
        ("Accept-Encoding: *", true),
        ("Accept-Encoding: br|Accept-Encoding: gzip", true),
        ("Accept-Encoding: gzip;q=0", false),
        ("Accept-Encoding: gzip;q=0, *", false),
        ("Accept-Encoding: identity, gzip;q=0.9", false),
        ("Accept-Encoding:", false),
        ("Accept-Encoding: deflate, br", false),
    ] {
        let reply = ask(&server, "GET", "/", lines);
        assert_eq!(reply.header("content-encoding").is_some(), is_compressed, "{lines}");
        assert_eq!(reply.header("vary"), Some("Accept-Encoding"), "{lines}");
    }
}

#[test]
fn small_answers_are_left_alone() {
    let length = Rc::new(Cell::new(0));
    let asked = length.clone();
    let handle = move |_: Request| "x".repeat(asked.get());
    let server = server(handle.clone());
    for (size, is_compressed) in [(0, false), (1023, false), (1024, true)] {
        length.set(size);
        let reply = get(&server);
        assert_eq!(reply.header("content-encoding").is_some(), is_compressed, "{size}");
        assert_eq!(reply.header("vary").is_some(), is_compressed, "{size}");
    }
    let server = Server::new(Gzip::new(Leaf(handle)).with_min_length(10));
    for (size, is_compressed) in [(9, false), (10, true)] {
        length.set(size);
        assert_eq!(get(&server).header("content-encoding").is_some(), is_compressed, "{size}");
    }
}

#[test]
fn what_is_compressed_already_by_its_type_is_left_alone() {
    let content_type = Rc::new(RefCell::new(""));
    let given = content_type.clone();
    let server = server(move |_| Response::text(text()).with_content_type(HeaderValue::from_static(*given.borrow())));
    for (name, is_compressible) in [
        ("text/html", true),
        ("TEXT/CSS; charset=utf-8", true),
        ("application/json", true),
        ("application/problem+json", true),
        ("image/svg+xml", true),
        ("application/wasm", true),
        ("application/javascript ; a=b", true),
        ("image/png", false),
        ("application/zip", false),
        ("application/octet-stream", false),
        ("video/mp4", false),
        ("font/woff2", false),
        ("multipart/byteranges; boundary=a", false),
        ("x/text/html", false),
    ] {
        *content_type.borrow_mut() = name;
        let reply = get(&server);
        assert_eq!(reply.header("content-encoding").is_some(), is_compressible, "{name}");
        assert_eq!(reply.header("vary").is_some(), is_compressible, "{name}");
    }
    expect_compressed(&get(&self::server(|_| text())), &text());
}

#[test]
fn what_must_not_be_changed_is_left_alone() {
    for (name, value) in [
        ("content-encoding", "br"),
        ("cache-control", "max-age=1, No-Transform"),
        ("content-range", "bytes 0-1/2"),
        ("digest", "sha-256=x"),
    ] {
        let field = (HeaderName::from_static(name), HeaderValue::from_static(value));
        let server = server(move |_| Response::text(text()).with_header(field.0.clone(), field.1.clone()));
        let reply = get(&server);
        assert_eq!((reply.text(), reply.header("vary")), (&*text(), None), "{name}");
        assert_eq!(reply.header(name), Some(value));
    }
}

#[test]
fn vary_is_completed_once() {
    for (before, after) in [("Accept", "Accept, Accept-Encoding"), ("accept-encoding", "accept-encoding"), ("*", "*")] {
        let server =
            server(move |_| Response::text(text()).with_header(header::VARY, HeaderValue::from_static(before)));
        assert_eq!(get(&server).header("vary"), Some(after));
    }
}

#[test]
fn one_wrapper_inside_of_another_compresses_once() {
    let inner = Branch::new();
    inner.put_child("a", Gzip::new(Leaf(|_: Request| text())));
    let server = Server::new(Gzip::new(Gzip::new(inner)));
    expect_compressed(&ask(&server, "GET", "/a", ACCEPT), &text());
}

#[test]
fn fields_given_to_the_request_count_like_those_of_the_answer() {
    let server = server(|mut request: Request| {
        request.add_header(header::ETAG, HeaderValue::from_static("\"a\""));
        request.add_header(header::CONTENT_TYPE, HeaderValue::from_static("image/png"));
        request.set_status(StatusCode::CREATED);
        text()
    });
    let reply = get(&server);
    expect_plain(&reply, &text());
    assert_eq!((reply.status, reply.header("etag")), (201, Some("\"a\"")));
    assert_eq!(reply.header("content-type"), Some("image/png"));
}

#[test]
fn a_large_answer_is_compressed_elsewhere() {
    let large = text().repeat(1000);
    let expected = large.clone();
    let server = server(move |_| (StatusCode::ACCEPTED, large.clone()));
    let reply = get(&server);
    assert_eq!((reply.status, reply.framing), (202, Framing::Length(reply.body.len())));
    expect_compressed(&reply, &expected);
    assert_eq!(server.figure("dosimeter_thread_calls_total", &[]), 1.0);
    let small = self::server(|_| text());
    get(&small);
    assert_eq!(small.figure("dosimeter_thread_calls_total", &[]), 0.0, "the way there costs more than it takes");
    expect_no_log();
}

// ---- what is answered, and by whom -------------------------------------------------------------------

#[test]
fn whoever_answers_below_is_compressed() {
    let router = Router::new();
    router.route("/text", |_: Request| text());
    router.route("/later", |request: Request| defer_later(&request.reactor(), Duration::ZERO, text));
    router.route("/other", |_: Request| Leaf(|_: Request| text()));
    router.route("/other/later", |request: Request| {
        defer_later(&request.reactor(), Duration::ZERO, || Leaf(|_: Request| Deferred::succeed(text())))
    });
    router.route_async("/async", async |_: Request| text());
    let root = Branch::new();
    root.put_child("router", router);
    root.put_child("deep", Branch::new());
    let below = Branch::new();
    below.put_child("data", Data::new(text(), "text/plain"));
    root.put_child("below", below);
    let server = Server::new(Gzip::new(root));
    for path in
        ["/router/text", "/router/later", "/router/other", "/router/other/later", "/router/async", "/below/data"]
    {
        expect_compressed(&ask(&server, "GET", path, ACCEPT), &text());
    }
    assert_eq!(ask(&server, "GET", "/none", ACCEPT).status, 404);
    assert_eq!(
        server.routes(),
        [
            "/below/data",
            "/router/async",
            "/router/later",
            "/router/other",
            "/router/other/later",
            "/router/text",
            "unmatched"
        ]
    );
    expect_no_log();
}

#[test]
fn methods_are_those_of_the_resource_inside() {
    struct Inbox;
    impl Resource for Inbox {
        fn render_post(&self, _: Request) -> Render {
            text().into()
        }
        fn allowed_methods(&self) -> Vec<Method> {
            vec![Method::POST]
        }
    }
    let root = Branch::new();
    root.put_child("", Gzip::new(Inbox));
    let server = Server::new(root);
    assert_eq!(ask(&server, "GET", "/", ACCEPT).header("allow"), Some("POST"));
    expect_compressed(&ask(&server, "POST", "/", ACCEPT), &text());
}

#[test]
fn a_resource_inside_may_take_its_body_as_it_comes() {
    struct Upload(Rc<Cell<bool>>);
    impl Resource for Upload {
        fn accepts_stream(&self, _: &Request) -> bool {
            true
        }
        fn render_post(&self, mut request: Request) -> Render {
            self.0.set(true);
            let length = Rc::new(Cell::new(0));
            let counted = length.clone();
            let body = request.take_body().for_each(move |piece| counted.set(counted.get() + piece.len()));
            body.map(move |()| format!("{} bytes\n", length.get()).repeat(200)).into()
        }
    }
    let root = Branch::new();
    let has_begun = Rc::new(Cell::new(false));
    root.put_child("upload", Upload(has_begun.clone()));
    let server = Server::new(Gzip::new(root));
    let mut client = server.connect();
    client.send(format!("POST /upload HTTP/1.1\r\nHost: a\r\n{ACCEPT}\r\nContent-Length: 6\r\n\r\nabc"));
    client.expect_silence();
    assert!(has_begun.get(), "it waits for the whole body");
    client.send("def");
    expect_compressed(&client.reply(), &"6 bytes\n".repeat(200));
}

#[test]
fn a_failure_is_answered_as_ever() {
    let server = server(|request: Request| -> Render {
        match request.path() {
            "/panic" => panic!("on purpose"),
            "/later" => Deferred::<String>::fail("on purpose").into(),
            _ => Err::<String, _>(Failure::from("on purpose")).into(),
        }
    });
    for path in ["/panic", "/later", "/now"] {
        let reply = ask(&server, "GET", path, ACCEPT);
        assert_eq!((reply.status, reply.header("content-encoding")), (500, None), "{path}");
        expect_log(&["on purpose"]);
    }
}

/// The page is made anew on its way out, and the head says what becomes of the one that is sent.
#[test]
fn an_error_page_of_the_programs_own_is_compressed_and_not_just_said_to_be() {
    let own = |error: &ErrorPage<'_>| Response::text(format!("{}: {}", error.brief(), text()));
    let root = Branch::new();
    root.put_child("fails", Leaf(|_| -> Result<&str, HttpError> { Err(HttpError::new(StatusCode::GONE, "away")) }));
    root.put_child("refuses", Leaf(|_| HttpError::new(StatusCode::GONE, "away")));
    root.put_child("again", Leaf(|_| HttpError::new(StatusCode::GONE, "away").with_header(header::AGE, 1.into())));
    root.put_child("app", Router::new());
    let site = Site::new(Gzip::new(root)).error_pages(own);
    for (path, brief) in [("/refuses", "Gone"), ("/again", "Gone"), ("/app/none", "No Such Resource")] {
        let reply = testing::request(Method::GET, path).header("Accept-Encoding", "gzip").send(&site);
        assert_eq!(reply.header("content-encoding"), Some("gzip"), "{path}");
        assert_eq!(unzip(reply.body()), format!("{brief}: {}", text()), "{path}");
        let head = testing::request(Method::HEAD, path).header("Accept-Encoding", "gzip").send(&site);
        assert_eq!(head.header("content-length"), reply.header("content-length"), "{path}");
        assert_eq!(testing::get(&site, path).text(), format!("{brief}: {}", text()), "{path}");
    }
    // What failed is answered where nothing is compressed.
    let reply = testing::request(Method::GET, "/fails").header("Accept-Encoding", "gzip").send(&site);
    assert_eq!((reply.header("content-encoding"), reply.text()), (None, format!("Gone: {}", text()).as_str()));
    // A page of the program's may be one that would be made anew.
    let site = Site::new(Gzip::new(Router::new()).with_min_length(1)).error_pages(|_| Response::forbidden());
    let reply = testing::request(Method::GET, "/").header("Accept-Encoding", "gzip").send(&site);
    assert!(unzip(reply.body()).contains("forbidden"));
    assert_eq!(reply.status(), 403);
}

#[test]
fn a_request_that_is_forgotten_is_answered_as_ever() {
    let reply = get(&server(|_| NOT_DONE_YET));
    assert_eq!((reply.status, reply.header("content-encoding")), (500, None));
    expect_log(&["was dropped without an answer"]);
}

// ---- what has no body --------------------------------------------------------------------------------

/// Twisted sends the ten bytes of an empty gzip stream behind the head, where the next answer is expected.
#[test]
fn no_byte_follows_an_answer_without_a_body() {
    let server = server(|mut request: Request| -> Render {
        match request.path() {
            "/whole" => text().into(),
            "/large" => text().repeat(100).into(),
            "/pieces" => {
                request.write(text());
                request.finish();
                NOT_DONE_YET
            }
            "/none" => {
                request.finish();
                NOT_DONE_YET
            }
            path => {
                request.set_status(path[1..].parse().unwrap());
                request.write(text());
                request.finish();
                NOT_DONE_YET
            }
        }
    });
    let mut client = server.connect();
    let mut ask = |method: &str, path: &str| {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{ACCEPT}\r\n\r\n"));
        client.reply_to(method)
    };
    for path in ["/whole", "/pieces", "/large", "/none"] {
        let (head, get) = (ask("HEAD", path), ask("GET", path));
        let told = |reply: &Reply| -> Vec<_> {
            let fields = reply.fields.iter().filter(|(name, _)| name != "transfer-encoding" && name != "date");
            fields.cloned().collect()
        };
        if path != "/none" {
            assert_eq!(told(&head), told(&get), "{path}");
            assert_eq!(head.header("content-encoding"), Some("gzip"), "{path}");
            assert!(unzip(&get.body).starts_with("line 0\n"));
        }
        assert_eq!(head.body, b"");
    }
    for path in ["/204", "/304"] {
        for method in ["GET", "HEAD"] {
            let reply = ask(method, path);
            assert_eq!((reply.status.to_string().as_str(), reply.text()), (&path[1..], ""));
            assert_eq!(reply.header("content-encoding"), None);
        }
    }
    assert_eq!(ask("GET", "/206").header("content-encoding"), None);
    assert_eq!(ask("GET", "/whole").status, 200);
    expect_no_log();
}

#[test]
fn a_304_says_what_the_full_answer_says() {
    let server = server(|mut request: Request| -> Render {
        let tag = ETag::strong("a").unwrap();
        request.check_conditions(tag).map_or_else(|| text().into(), Render::from)
    });
    for (lines, tag) in [(ACCEPT, "W/\"a\""), ("Accept-Encoding: br", "\"a\"")] {
        let full = ask(&server, "GET", "/", lines);
        let again = ask(&server, "GET", "/", &format!("{lines}|If-None-Match: {tag}"));
        assert_eq!((full.status, again.status), (200, 304));
        for reply in [full, again] {
            assert_eq!((reply.header("etag"), reply.header("vary")), (Some(tag), Some("Accept-Encoding")));
        }
    }
}

// ---- piece by piece ----------------------------------------------------------------------------------

/// What can be read of the beginning of a gzip stream. Its header has ten bytes.
fn readable(stream: &[u8]) -> String {
    let mut text = Vec::with_capacity(100_000);
    let body = stream.get(10..).unwrap_or_default();
    Decompress::new(false).decompress_vec(body, &mut text, FlushDecompress::Sync).unwrap();
    String::from_utf8(text).unwrap()
}

/// The next chunk of a body.
#[track_caller]
fn chunk(client: &mut support::Client<'_>) -> Vec<u8> {
    let line = client.take_until(b"\r\n", "the size of a chunk");
    let size = usize::from_str_radix(str::from_utf8(&line).unwrap().trim_end(), 16).unwrap();
    let mut data = client.take(size + 2, "a chunk");
    data.truncate(size);
    data
}

#[test]
fn what_is_written_can_be_read_without_waiting_for_more() {
    let kept: Rc<RefCell<Option<Request>>> = Rc::default();
    let keeping = kept.clone();
    let server = server(move |request: Request| {
        *keeping.borrow_mut() = Some(request);
        NOT_DONE_YET
    });
    let mut client = server.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{ACCEPT}\r\n\r\n"));
    let mut request = server.until("the request is there", || kept.borrow_mut().take());
    let (mut stream, mut expected) = (Vec::new(), String::new());
    for text in ["event one\n", "event two\n", "event three\n"] {
        expected += text;
        request.write(text);
        if stream.is_empty() {
            client.take_until(b"\r\n\r\n", "the head");
        }
        while readable(&stream) != expected {
            stream.extend(chunk(&mut client));
        }
    }
    request.finish();
    expect_no_log();
}

#[test]
fn what_is_written_in_one_turn_is_compressed_together() {
    let server = server(|mut request: Request| {
        for at in 0..1000 {
            request.write(format!("this is line {at}\n"));
        }
        request.finish();
        NOT_DONE_YET
    });
    let reply = get(&server);
    assert_eq!(reply.framing, Framing::Chunked);
    let expected: String = (0..1000).map(|at| format!("this is line {at}\n")).collect();
    expect_compressed(&reply, &expected);
    assert!(reply.body.len() < 4000, "{} bytes: each piece was compressed by itself", reply.body.len());
}

#[test]
fn a_stream_at_the_pace_of_its_client_arrives_whole() {
    let line = |at: u32| format!("{:08x}\n", at.wrapping_mul(0x9e37_79b9)).repeat(20);
    let server = server(move |request: Request| {
        let mut lines = (0..100_000).map(line);
        request.send_stream(move || Ok(lines.next()))
    });
    let mut client = server.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{ACCEPT}\r\n\r\n"));
    server.until_quiet();
    let reply = client.reply();
    expect_compressed(&reply, &(0..100_000).map(line).collect::<String>());
}

#[test]
fn so_many_answers_on_their_way_are_compressed_and_the_others_sent_as_they_are() {
    const MOST: usize = 256;
    let kept = Rc::new(RefCell::new(Vec::new()));
    let keeping = kept.clone();
    let app = Router::new();
    app.route("/kept", move |mut request: Request| {
        request.write(text());
        keeping.borrow_mut().push(request);
        NOT_DONE_YET
    });
    app.route("/whole", |_| text());
    let server = Server::new(Gzip::new(app));
    let encoding = |client: &mut support::Client<'_>| {
        client.send(format!("GET /kept HTTP/1.1\r\nHost: a\r\n{ACCEPT}\r\n\r\n"));
        let head = String::from_utf8(client.take_until(b"\r\n\r\n", "a head")).unwrap();
        assert!(head.contains("Vary: Accept-Encoding"), "{head}");
        head.contains("Content-Encoding: gzip")
    };
    let mut clients: Vec<_> = (0..MOST).map(|_| server.connect()).collect();
    assert!(clients.iter_mut().all(encoding));
    let mut late = server.connect();
    assert!(!encoding(&mut late), "one too many");
    expect_compressed(&ask(&server, "GET", "/whole", ACCEPT), &text());
    // The end of one, whichever it is, makes room for another.
    kept.borrow_mut().remove(0).finish();
    clients.pop().unwrap().reset();
    server.until_true("it is noticed", || server.in_progress() == MOST as f64 - 1.0);
    assert!(encoding(&mut server.connect()) && encoding(&mut server.connect()));
    assert!(!encoding(&mut server.connect()));
    for request in kept.take() {
        request.finish();
    }
    expect_no_log();
}

#[test]
fn an_announced_length_is_that_before_compression() {
    let announced = Rc::new(Cell::new(0));
    let asked = announced.clone();
    let server = server(move |mut request: Request| {
        request.set_length(asked.get());
        request.write(text());
        request.finish();
        NOT_DONE_YET
    });
    let length = text().len() as u64;
    announced.set(length);
    let reply = get(&server);
    assert_eq!(reply.framing, Framing::Chunked);
    expect_compressed(&reply, &text());
    announced.set(length - 10);
    expect_compressed(&get(&server), &text()[..text().len() - 10]);
    expect_log(&["response body exceeds its declared length, 10 bytes dropped"]);
    announced.set(length + 1);
    let mut client = server.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{ACCEPT}\r\n\r\n"));
    assert_eq!(client.end(), End::Reset);
    assert_eq!(server.figure("http_server_requests_total", &[("code", "500")]), 1.0);
}

#[test]
fn an_answer_that_fails_in_the_middle_is_broken_off() {
    let server = server(|request: Request| {
        let reactor = request.reactor();
        let mut pieces = vec![Deferred::fail("no more"), Deferred::succeed(Some(text()))];
        request.send_stream(move || {
            let piece = pieces.pop().unwrap();
            defer_later(&reactor, Duration::ZERO, || ()).add_callback(|()| piece)
        })
    });
    let mut client = server.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{ACCEPT}\r\n\r\n"));
    assert_eq!(client.end(), End::Reset);
    expect_log(&["no more"]);
}

#[test]
fn a_client_that_leaves_is_noticed() {
    let left = Rc::new(Cell::new(0));
    let counting = left.clone();
    let server = server(move |mut request: Request| {
        let counting = counting.clone();
        request.notify_finish().add_errback(move |_| {
            counting.set(counting.get() + 1);
            Ok(())
        });
        let reactor = request.reactor();
        request.write(text());
        reactor.call_later(Duration::from_secs(3600), move || request.finish());
        NOT_DONE_YET
    });
    let mut client = server.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{ACCEPT}\r\n\r\n"));
    client.take_until(b"\r\n\r\n", "the head");
    client.reset();
    server.until_true("the client is gone", || left.get() == 1);
    assert_eq!(server.in_progress(), 0.0);
    expect_no_log();
}

#[test]
fn a_client_of_http_1_0_reads_to_the_end_of_the_connection() {
    let server = server(|mut request: Request| {
        request.write(text());
        request.finish();
        NOT_DONE_YET
    });
    let mut client = server.connect();
    client.send(format!("GET / HTTP/1.0\r\n{ACCEPT}\r\n\r\n"));
    let reply = client.reply();
    assert_eq!(reply.framing, Framing::Close);
    expect_compressed(&reply, &text());
}

// ---- files -------------------------------------------------------------------------------------------

#[test]
fn files_are_compressed_and_their_parts_are_not() {
    let directory = Directory::new();
    let large = text().repeat(100);
    directory.write("a.css", &text());
    directory.write("large.css", &large);
    directory.write("a.png", &text());
    let server = Server::new(Gzip::new(StaticFiles::new(directory.path())));
    let reply = ask(&server, "GET", "/a.css", ACCEPT);
    expect_compressed(&reply, &text());
    assert_eq!((reply.framing, reply.header("accept-ranges")), (Framing::Chunked, None));
    let tag = reply.header("etag").unwrap();
    assert!(tag.starts_with("W/"), "{tag}");
    assert_eq!(ask(&server, "GET", "/a.css", &format!("{ACCEPT}|If-None-Match: {tag}")).status, 304);
    assert_eq!(ask(&server, "GET", "/a.css", &format!("{ACCEPT}|Range: bytes=0-9|If-Range: {tag}")).status, 200);
    expect_compressed(&ask(&server, "GET", "/large.css", ACCEPT), &large);
    expect_plain(&ask(&server, "GET", "/a.png", ACCEPT), &text());
    let part = ask(&server, "GET", "/large.css", &format!("{ACCEPT}|Range: bytes=10-2009"));
    assert_eq!(part.status, 206);
    expect_plain(&part, &large[10..2010]);
    assert_eq!(part.header("content-range"), Some(&*format!("bytes 10-2009/{}", large.len())));
    let head = ask(&server, "HEAD", "/large.css", ACCEPT);
    assert_eq!((head.header("content-encoding"), head.header("content-length")), (Some("gzip"), None));
    expect_no_log();
}

#[test]
fn a_file_compressed_beforehand_is_sent_as_it_is() {
    let directory = Directory::new();
    directory.write("a.css", &text());
    directory.write("a.css.gz", &"not really compressed, ".repeat(100));
    let server = Server::new(Gzip::new(StaticFiles::new(directory.path()).with_precompressed()));
    let reply = ask(&server, "GET", "/a.css", ACCEPT);
    assert_eq!(reply.text(), "not really compressed, ".repeat(100));
    assert_eq!((reply.header("content-encoding"), reply.header("vary")), (Some("gzip"), Some("Accept-Encoding")));
}

#[test]
#[should_panic(expected = "the level of gzip goes from 1 to 9")]
fn a_level_that_there_is_not_is_refused() {
    let _ = Gzip::new(Branch::new()).with_level(0);
}
