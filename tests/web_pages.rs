//! Pages of a program's own for what goes wrong, and resources that are not there yet.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::http::Refusal;
use dosimeter::prometheus::Registry;
use dosimeter::web::{
    Branch, DeferredResource, ErrorPage, ErrorPages, HeaderValue, HttpError, Instrumented, Page, Render, Request,
    Resource, Response, Router, Site, StatusCode, VirtualHosts,
};
use dosimeter::{Deferred, Reactor, Result, defer_later};
use support::{Leaf, Reply, Server, expect_log, expect_no_log, take_log};

/// Tells everything that a page is told.
fn telling(error: &ErrorPage<'_>) -> Response {
    let path = error.request().map(|request| request.path().to_owned());
    Response::text(format!("{} {} | {} | {path:?}", error.status().as_u16(), error.brief(), error.detail()))
}

fn tree() -> Branch {
    let root = Branch::new();
    root.put_child("fails", Leaf(|_| -> Result<&str> { Err("oh".into()) }));
    root.put_child("panics", Leaf(|_| -> &str { panic!("oh") }));
    root.put_child(
        "drops",
        Leaf(|request: Request| -> Render {
            drop(request);
            dosimeter::web::NOT_DONE_YET
        }),
    );
    root.put_child("refuses", Leaf(|_| HttpError::new(StatusCode::CONFLICT, "<taken>")));
    root.put_child("forbids", Page::new(Response::forbidden()));
    root.put_child(
        "later",
        Leaf(|request: Request| {
            defer_later(&request.reactor(), Duration::ZERO, || ())
                .add_callback(|()| -> Result<&str> { Err(HttpError::new(StatusCode::GONE, "gone meanwhile").into()) })
        }),
    );
    root.put_child("own", Leaf(|_| (StatusCode::NOT_FOUND, "a page of its own")));
    let app = Router::new();
    app.route("/put", |_| "").methods([http::Method::PUT]);
    root.put_child("app", app);
    root
}

#[track_caller]
fn check_told(server: &Server) {
    for (path, code, text) in [
        ("/none", 404, "404 No Such Resource | Sorry. No luck finding that resource. | Some(\"/none\")"),
        ("/app/none", 404, "404 No Such Resource | Sorry. No luck finding that resource. | Some(\"/app/none\")"),
        ("/refuses", 409, "409 Conflict | <taken> | Some(\"/refuses\")"),
        ("/forbids", 403, "403 Forbidden Resource | Sorry, resource is forbidden. | Some(\"/forbids\")"),
        ("/later", 410, "410 Gone | gone meanwhile | Some(\"/later\")"),
        ("/own", 404, "a page of its own"),
    ] {
        assert_eq!(server.get(path).brief(), (code, text), "{path}");
    }
    expect_no_log();
    for path in ["/fails", "/panics", "/drops"] {
        let text = format!("500 Internal Server Error | Sorry, the server failed on this request. | Some({path:?})");
        assert_eq!(server.get(path).brief(), (500, &*text));
        assert_eq!(take_log().len(), 1, "{path}");
    }
    let refused = server.get("/app/put");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("OPTIONS, PUT")), "the field stays");
    assert_eq!(refused.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(refused.text().starts_with("405 Method Not Allowed | "), "{}", refused.text());
    expect_no_log();
}

#[test]
fn all_error_pages_below_a_resource_are_made_by_its_function() {
    check_told(&Server::new(ErrorPages::new(tree(), telling)));
}

#[test]
fn of_several_functions_the_one_nearest_to_the_resource_counts() {
    let root = Branch::new();
    let inner = Branch::new();
    inner.put_child("leaf", ErrorPages::new(Leaf(|_| Response::not_found()), |_| Response::text("of the leaf")));
    root.put_child("inner", ErrorPages::new(inner, |_| Response::text("of the branch")));
    let server = Server::new(ErrorPages::new(root, |_| Response::text("of the root")));
    assert_eq!(server.get("/none").brief(), (404, "of the root"));
    assert_eq!(server.get("/inner/none").brief(), (404, "of the branch"));
    assert_eq!(server.get("/inner/leaf").brief(), (404, "of the leaf"));
    let mut client = server.connect();
    assert_eq!(client.get("/inner/leaf").text(), "of the leaf");
    assert_eq!(client.get("/none").text(), "of the root", "the next request on the connection");
    assert_eq!(server.routes(), ["/inner/leaf", "unmatched"]);
    expect_no_log();
}

#[test]
fn a_page_may_set_another_status_and_fields() {
    let server = Server::new(ErrorPages::new(Branch::new(), |error: &ErrorPage<'_>| {
        let page = Response::new("<h1>none</h1>");
        match error.request().and_then(|request| request.query("hide")) {
            None => page,
            Some(_) => {
                page.with_status(StatusCode::OK).with_header(http::header::ALLOW, HeaderValue::from_static("NOTHING"))
            }
        }
    }));
    let refused = server.ask("POST", "/");
    assert_eq!(refused.status, 404);
    let hidden = server.get("/?hide=1");
    assert_eq!((hidden.status, hidden.header("allow")), (200, Some("NOTHING")));
    assert_eq!(server.ask("HEAD", "/").status, 404);
}

#[test]
fn a_page_that_panics_is_the_plain_one() {
    let server = Server::new(ErrorPages::new(tree(), |_| -> Response { panic!("in the page") }));
    let reply = server.get("/none");
    assert_eq!(reply.status, 404);
    assert!(reply.text().contains("No Such Resource"));
    expect_log(&["an error page was not made", "in the page"]);
    assert_eq!(server.get("/drops").status, 500);
    assert_eq!(take_log().len(), 2);
}

/// A server of a site that makes its own error pages.
fn site_server(root: impl Resource, make: impl Fn(&ErrorPage<'_>) -> Response + 'static) -> Server {
    support::capture_log();
    let registry = Registry::new();
    let reactor = Reactor::builder().metrics(registry.clone()).build().unwrap();
    let site = Site::new(root).error_pages(make);
    let port = reactor.listen_tcp(SocketAddr::from(([127, 0, 0, 1], 0)), site).unwrap();
    Server { reactor, registry, addr: port.local_addr() }
}

fn refused(server: &Server, bytes: &str) -> Reply {
    let mut client = server.connect();
    client.send(bytes);
    client.reply()
}

#[test]
fn a_site_makes_all_of_its_error_pages_refusals_included() {
    let root = tree();
    root.put_child("special", ErrorPages::new(Branch::new(), |_| Response::text("special")));
    let server = site_server(root, telling);
    check_told(&server);
    assert_eq!(server.get("/special/none").brief(), (404, "special"));
    let reply = refused(&server, "GET / HTTP/1.1\r\n\r\n");
    assert_eq!(reply.status, 400);
    assert!(reply.text().starts_with("400 Bad Request | ") && reply.text().ends_with(" | None"), "{}", reply.text());
    expect_no_log();
}

/// What the operator can change is in the log: it says nothing to who reads the page.
#[test]
fn the_page_of_a_refusal_tells_what_its_reader_can_change() {
    let server = site_server(Branch::new(), |error| Response::text(error.detail().to_owned()));
    for (bytes, expected) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n".to_owned(), (413, "body too large")),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(100)), (431, "too many fields")),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9000)), (414, "target too long: use a body")),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(), (400, "Host repeated: send it once")),
    ] {
        assert_eq!(refused(&server, &bytes).brief(), expected);
    }
    assert!(Refusal::TooManyFields.to_string().ends_with("; raise http::Limits::headers"));
}

#[test]
fn a_refusal_whose_page_panics_has_the_plain_one() {
    let server = site_server(Branch::new(), |_| panic!("in the page"));
    let reply = refused(&server, "GET / HTTP/9.9\r\n\r\n");
    assert_eq!(reply.status, 505);
    assert!(reply.text().contains("<h1>"), "{}", reply.text());
    expect_log(&["in the page"]);
}

/// Takes what it is sent as it comes.
struct Upload;

impl Resource for Upload {
    fn accepts_stream(&self, _: &Request) -> bool {
        true
    }

    fn render_put(&self, mut request: Request) -> Render {
        assert_eq!(request.body(), b"", "it is not there yet");
        request.take_body().read_to_end(10).into()
    }
}

#[test]
fn whoever_hands_a_request_on_hands_its_body_on_as_it_comes() {
    let (branch, plain) = (Branch::new(), Branch::new());
    branch.put_child("now", Upload);
    branch.put_child("late", DeferredResource::new(Deferred::succeed(Upload)));
    let (_completer, awaited) = Deferred::<Upload>::pair();
    branch.put_child("never", DeferredResource::new(awaited));
    plain.put_child("leaf", ErrorPages::new(Upload, telling));
    let inside = Branch::new();
    inside.put_child("upload", Upload);
    plain.put_child("measured", Instrumented::new(inside));
    plain.put_child("shared", Rc::new(Upload));
    let hosts = VirtualHosts::new().add("a", ErrorPages::new(branch, telling)).default_host(plain);
    let server = Server::new(hosts);
    for (host, path) in [("a", "/now"), ("a", "/late"), ("b", "/leaf"), ("b", "/measured/upload"), ("b", "/shared")] {
        let mut client = server.connect();
        client.send(format!("PUT {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n\r\n"));
        server.until_true("it is handled without its body", || server.in_progress() == 1.0);
        client.send("abc");
        assert_eq!(client.reply().brief(), (200, "abc"), "{host} {path}");
    }
    let mut client = server.connect();
    client.send("PUT /never HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
    client.expect_silence();
    assert_eq!(server.in_progress(), 0.0, "nobody can tell, so the body is awaited");
    expect_no_log();
}

// ---- a resource that comes later --------------------------------------------------------------------

#[test]
fn whoever_asks_for_a_resource_that_is_not_there_yet_waits_for_it() {
    let (completer, deferred) = Deferred::pair();
    let root = Branch::new();
    let late = DeferredResource::new(deferred);
    root.put_child("late", late.clone());
    let server = Server::new(root);
    let (mut one, mut other, mut leaver) = (server.connect(), server.connect(), server.connect());
    one.send_request("GET", "/late/page");
    leaver.send_request("GET", "/late/page");
    server.until_true("both are waiting", || server.in_progress() == 2.0);
    leaver.reset();
    server.until_true("one has left", || server.in_progress() == 1.0);
    other.send_request("GET", "/late/none");
    server.until_true("another one waits", || server.in_progress() == 2.0);
    assert_eq!(format!("{late:?}"), "DeferredResource(awaited by 2)", "who has left is forgotten");
    let branch = Branch::new();
    branch.put_child("page", Leaf(|_| "the page"));
    completer.callback(branch);
    assert_eq!(one.reply().brief(), (200, "the page"));
    assert_eq!(other.reply().status, 404);
    assert_eq!(server.get("/late/page").text(), "the page", "from now on at once");
    assert_eq!(server.routes(), ["/late/page", "unmatched"]);
    expect_no_log();
}

#[test]
fn a_resource_that_never_comes_fails_every_request_with_its_reason() {
    let (completer, deferred) = Deferred::<Branch>::pair();
    let late = DeferredResource::new(deferred);
    let server = Server::new(late.clone());
    let mut client = server.connect();
    client.send_request("GET", "/");
    server.until_true("it waits", || server.in_progress() == 1.0);
    completer.errback(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "the disk is away"));
    assert_eq!(client.reply().status, 503, "the status of the source counts");
    assert_eq!(server.get("/").status, 503);
    assert_eq!(take_log().len(), 2, "once per request");
    let failed = DeferredResource::new(Deferred::<Branch>::fail("nobody asked yet"));
    expect_log(&["a resource will never be there", "nobody asked yet"]);
    assert_eq!(format!("{failed:?} {late:?}"), "DeferredResource(failed) DeferredResource(failed)");
}

#[test]
fn what_waits_for_a_resource_may_use_it_when_it_comes() {
    let (completer, deferred) = Deferred::pair();
    let late = DeferredResource::new(deferred);
    let again = late.clone();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let seer = seen.clone();
    let server = Server::new(late);
    let mut client = server.connect();
    client.send_request("GET", "/");
    server.until_true("it waits", || server.in_progress() == 1.0);
    completer.callback(Leaf(move |_| {
        seer.borrow_mut().push(format!("{again:?}"));
        "here"
    }));
    assert_eq!(client.reply().text(), "here");
    assert_eq!(*seen.borrow(), ["DeferredResource(here)"]);
}
