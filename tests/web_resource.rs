//! The tree of resources: the walk along the path, the choice of the method, and every kind of answer.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use dosimeter::prometheus::Registry;
use dosimeter::web::{Branch, NOT_DONE_YET, Render, Request, Resource, Response, Router};
use dosimeter::{Cancelled, Completer, Deferred, Failure, MetricsResource, Result, defer_later};
use http::{Method, StatusCode};
use support::{End, Framing, Leaf, Server, expect_log, expect_no_log, take_log};

/// Tells which part of the path is behind it and which before it.
struct Place;

impl Resource for Place {
    fn render_get(&self, request: Request) -> Render {
        place(&request).into()
    }
}

fn place(request: &Request) -> String {
    let (behind, ahead): (Vec<_>, Vec<_>) = (request.prepath().collect(), request.postpath().collect());
    format!("{behind:?} {ahead:?}")
}

/// A tree with places at `/`, `/a/`, `/a/b`, `/a b`, `/a%2Fb`, and a leaf at `/leaf`.
fn tree() -> Server {
    let (root, a) = (Branch::new(), Branch::new());
    root.put_child("", Place);
    root.put_child("a", a.clone());
    root.put_child("a b", Place);
    root.put_child("a/b", Place);
    root.put_child(".", Place);
    root.put_child("..", Place);
    root.put_child("leaf", Leaf(|request: Request| place(&request)));
    a.put_child("", Place);
    a.put_child("b", Place);
    Server::new(root)
}

// ---- the walk ---------------------------------------------------------------------------------------

#[test]
fn the_walk_takes_one_decoded_segment_at_a_time() {
    let server = tree();
    for (path, expected) in [
        ("/", r#"[""] []"#),
        ("/?a/b", r#"[""] []"#),
        ("/a/", r#"["a", ""] []"#),
        ("/a/b", r#"["a", "b"] []"#),
        ("/%61/%62", r#"["a", "b"] []"#),
        ("/a%20b", r#"["a b"] []"#),
        ("/a%2Fb", r#"["a/b"] []"#),
        ("/.", r#"["."] []"#),
        ("/..", r#"[".."] []"#),
        ("/leaf", r#"["leaf"] []"#),
        ("/leaf/", r#"["leaf"] [""]"#),
        ("/leaf/a%2Fb//c/", r#"["leaf"] ["a/b", "", "c", ""]"#),
        ("http://else.where/a/b?c", r#"["a", "b"] []"#),
        ("http://else.where", r#"[""] []"#),
    ] {
        assert_eq!(server.get(path).brief(), (200, expected), "{path}");
    }
    expect_no_log();
}

#[test]
fn what_no_child_has_the_name_of_is_not_found() {
    let server = tree();
    for path in ["/b", "/a", "/a/b/", "/a/b/c", "//", "//a", "/a//b", "/a+b", "/A", "/a%00", "/%2e%2e/a", "/a%2fb/"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.text().contains("No Such Resource"), "{path}");
    }
    expect_no_log();
}

#[test]
fn a_name_that_is_not_utf8_is_not_found_by_a_branch_nor_a_leaf() {
    let server = tree();
    for path in ["/%ff", "/a/%ff", "/leaf/%ff", "/leaf/%c3%28"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    assert_eq!(Server::new(Leaf(|_| "root")).get("/%ff").status, 404);
}

#[test]
fn what_is_no_percent_sequence_stands_for_itself() {
    let root = Branch::new();
    root.put_child("100%", Place);
    root.put_child("%zz", Place);
    let server = Server::new(root);
    assert_eq!(server.get("/100%").brief(), (200, r#"["100%"] []"#));
    assert_eq!(server.get("/%zz").brief(), (200, r#"["%zz"] []"#));
}

#[test]
fn a_leaf_at_the_root_gets_every_path() {
    let server = Server::new(Leaf(|request: Request| place(&request)));
    assert_eq!(server.get("/").brief(), (200, r#"[] [""]"#));
    assert_eq!(server.get("/a//b").brief(), (200, r#"[] ["a", "", "b"]"#));
}

#[test]
fn a_root_that_is_no_leaf_answers_nothing_without_the_child_called_nothing() {
    assert_eq!(Server::new(Branch::new()).get("/").status, 404);
    assert_eq!(Server::new(Place).get("/").status, 404);
}

#[test]
fn the_last_child_put_under_a_name_is_the_child() {
    let root = Branch::new();
    let server = Server::new(root.clone());
    for name in ["", "x"] {
        assert_eq!(server.get(&format!("/{name}")).status, 404);
        root.put_child(name, Leaf(|_| "first"));
        root.put_child(name, Leaf(|_| "second"));
        assert_eq!(server.get(&format!("/{name}")).brief(), (200, "second"));
        assert!(root.remove_child(name) && !root.remove_child(name));
        assert_eq!(server.get(&format!("/{name}")).status, 404);
    }
}

#[test]
fn a_resource_may_make_its_children() {
    struct Parent;
    impl Resource for Parent {
        fn child(&self, name: &str, request: &Request) -> Option<Rc<dyn Resource>> {
            assert_eq!(request.prepath().count(), 0, "the name is not used up before there is a child");
            let name = name.to_owned();
            (name != "none").then(|| Rc::new(Leaf(move |_| format!("child {name}"))) as Rc<dyn Resource>)
        }
    }
    let server = Server::new(Parent);
    assert_eq!(server.get("/a%2Fb").brief(), (200, "child a/b"));
    assert_eq!(server.get("/none").status, 404);
}

#[test]
fn a_branch_may_be_its_own_child() {
    let root = Branch::new();
    root.put_child("again", root.clone());
    root.put_child("", Place);
    let path = "/again".repeat(1000) + "/";
    assert_eq!(Server::new(root).get(&path).status, 200);
}

// ---- the method -------------------------------------------------------------------------------------

/// A resource that answers POST only, and says so.
struct PostOnly;

impl Resource for PostOnly {
    fn render_post(&self, _: Request) -> Render {
        "posted".into()
    }

    fn allowed_methods(&self) -> Vec<Method> {
        vec![Method::POST]
    }
}

/// A resource that answers each method with its name.
struct Named;

macro_rules! named {
    ($($method:ident $name:literal),*) => {
        impl Resource for Named {
            $(fn $method(&self, _: Request) -> Render { $name.into() })*
        }
    };
}

named!(render_get "get", render_post "post", render_put "put", render_delete "delete", render_patch "patch", render_options "options");

fn methods() -> Server {
    let root = Branch::new();
    root.put_child("get", Place);
    root.put_child("post", PostOnly);
    root.put_child("named", Named);
    Server::new(root)
}

#[test]
fn each_method_has_its_function() {
    let server = methods();
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        assert_eq!(server.ask(method, "/named").brief(), (200, method.to_lowercase().as_str()));
    }
}

#[test]
fn head_has_the_fields_of_get() {
    let server = methods();
    let (get, head) = (server.get("/get"), server.ask("HEAD", "/get"));
    let but_date =
        |reply: &support::Reply| reply.fields.iter().filter(|(name, _)| name != "date").cloned().collect::<Vec<_>>();
    assert_eq!(but_date(&head), but_date(&get));
    assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()));
}

#[test]
fn a_method_without_a_function_is_refused_with_those_allowed() {
    let server = methods();
    for (method, path, allowed) in [
        ("POST", "/get", "GET, HEAD, OPTIONS"),
        ("PUT", "/get", "GET, HEAD, OPTIONS"),
        ("TRACE", "/get", "GET, HEAD, OPTIONS"),
        ("GET", "/post", "POST"),
        ("HEAD", "/post", "POST"),
        ("DELETE", "/post", "POST"),
    ] {
        let reply = server.ask(method, path);
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allowed)), "{method} {path}");
    }
    assert_eq!(server.ask("POST", "/post").brief(), (200, "posted"));
    expect_no_log();
}

/// RFC 9110 section 9.1: 501 for a method that is not recognized. Methods differ in case.
#[test]
fn a_method_that_http_does_not_have_is_answered_with_501() {
    let server = methods();
    for method in ["BREW", "get", "Get", "PROPFIND", "!#$%&'*+-.^_`|~"] {
        let reply = server.ask(method, "/get");
        assert_eq!((reply.status, reply.header("allow")), (501, Some("GET, HEAD, OPTIONS")), "{method}");
    }
    assert_eq!(server.ask("BREW", "/none").status, 404);
    let app = Router::new();
    app.route("/coffee", |_| "brewing").methods([Method::from_bytes(b"BREW").unwrap()]);
    let server = Server::new(app);
    assert_eq!(server.ask("BREW", "/coffee").brief(), (200, "brewing"), "a program may have what it likes");
    assert_eq!(server.get("/coffee").status, 405);
    let reply = server.ask("STEEP", "/coffee");
    assert_eq!((reply.status, reply.header("allow")), (501, Some("BREW, OPTIONS")));
    expect_no_log();
}

/// RFC 9110 section 9.3.6: success would mean that what follows reaches another server.
#[test]
fn no_resource_is_asked_to_connect_to_another_server() {
    let everything = Router::new();
    everything.mount("/", Leaf(|_| "welcome"));
    let leaf = Server::new(Leaf(|_| "welcome"));
    for server in [leaf, Server::new(everything)] {
        let mut client = server.connect();
        client.send("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.reply().status, 501);
        client.expect_end();
        assert_eq!(server.routes(), ["unmatched"]);
    }
    expect_no_log();
}

/// Shared with whoever changes it, a resource stays what it is.
#[test]
fn a_resource_may_be_shared() {
    struct Counter(Cell<u32>);
    impl Resource for Counter {
        fn render_get(&self, _: Request) -> Render {
            format!("{}", self.0.get()).into()
        }
    }
    let counter = Rc::new(Counter(Cell::new(0)));
    let root = Branch::new();
    root.put_child("counter", counter.clone());
    let app = Router::new();
    app.route("/counter", counter.clone());
    let (one, other) = (Server::new(root), Server::new(app));
    assert_eq!(one.get("/counter").text(), "0");
    counter.0.set(7);
    assert_eq!((one.get("/counter").text(), other.get("/counter").text()), ("7", "7"));
}

#[test]
fn options_tells_what_is_allowed() {
    let server = methods();
    for (path, allowed) in [("/get", "GET, HEAD, OPTIONS"), ("/post", "POST")] {
        let reply = server.ask("OPTIONS", path);
        assert_eq!((reply.status, reply.header("allow")), (204, Some(allowed)));
    }
}

#[test]
fn options_of_the_server_as_a_whole_is_answered() {
    // RFC 9110 section 9.3.7: the target `*` asks whether anybody is there, and what for.
    let reply = methods().ask("OPTIONS", "*");
    assert_eq!((reply.status, reply.header("allow")), (204, Some("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS")));
}

// ---- every kind of answer ---------------------------------------------------------------------------

#[test]
fn everything_that_is_an_answer_is_answered() {
    let empty = || Response::empty(StatusCode::ACCEPTED);
    type Kind = (&'static str, u16, &'static str, Box<dyn Fn() -> Render>);
    let kinds: Vec<Kind> = vec![
        ("a text", 200, "text", Box::new(|| "text".into())),
        ("a string", 200, "string", Box::new(|| String::from("string").into())),
        ("bytes", 200, "bytes", Box::new(|| (&b"bytes"[..]).into())),
        ("a vector", 200, "vector", Box::new(|| b"vector".to_vec().into())),
        ("nothing", 200, "", Box::new(|| ().into())),
        ("a response", 202, "", Box::new(move || empty().into())),
        ("shared bytes", 200, "shared", Box::new(|| Response::new(Arc::<[u8]>::from(&b"shared"[..])).into())),
        ("a status and a text", 201, "made", Box::new(|| (StatusCode::CREATED, "made").into())),
        ("a status over a status", 201, "", Box::new(move || (StatusCode::CREATED, empty()).into())),
        ("Ok", 200, "fine", Box::new(|| Ok::<_, Failure>("fine").into())),
        ("Ok of a pair", 201, "made", Box::new(|| Ok::<_, Failure>((StatusCode::CREATED, "made")).into())),
        ("a chain that has fired", 200, "fired", Box::new(|| Deferred::succeed("fired").into())),
        ("a status and a chain", 201, "made", Box::new(|| (StatusCode::CREATED, Deferred::succeed("made")).into())),
        ("a resource", 200, "leaf", Box::new(|| Leaf(|_| "leaf").into())),
        ("a chain of a resource", 200, "leaf", Box::new(|| Deferred::succeed(Leaf(|_| "leaf")).into())),
        (
            "Ok of a chain of Ok",
            200,
            "deep",
            Box::new(|| Ok::<_, Failure>(Deferred::succeed(Ok::<_, Failure>("deep"))).into()),
        ),
    ];
    for (what, status, body, make) in kinds {
        let server = Server::new(Leaf(move |_| make()));
        let mut client = server.connect();
        for _ in 0..2 {
            let reply = client.get("/");
            assert_eq!(reply.brief(), (status, body), "{what}");
            assert_eq!(reply.framing, Framing::Length(body.len()), "{what}");
        }
        let head = client.ask("HEAD", "/");
        assert_eq!((head.status, head.header("content-length")), (status, Some(body.len().to_string().as_str())));
        assert_eq!(client.get("/").status, status, "{what}: nothing was left of the answer to HEAD");
        expect_no_log();
    }
}

#[test]
fn an_empty_answer_has_no_type() {
    type Make = fn() -> Render;
    let empty: [(u16, Make); 6] = [
        (200, || ().into()),
        (200, || "".into()),
        (404, || (StatusCode::NOT_FOUND, "").into()),
        (204, || (StatusCode::NO_CONTENT, "dropped").into()),
        (205, || (StatusCode::RESET_CONTENT, "dropped").into()),
        // It would be taken for the type of what the client has (RFC 9111 section 3.2).
        (304, || (StatusCode::NOT_MODIFIED, "dropped").into()),
    ];
    for (status, make) in empty {
        let server = Server::new(Leaf(move |_| make()));
        for method in ["GET", "HEAD"] {
            let reply = server.ask(method, "/");
            assert_eq!((reply.status, reply.header("content-type")), (status, None), "{method}");
        }
    }
    let given = || (StatusCode::NOT_MODIFIED, Response::text("")).into();
    let server = Server::new(Leaf(move |_| -> Render { given() }));
    assert_eq!(server.get("/").header("content-type"), Some("text/plain; charset=utf-8"), "what is given is sent");
}

#[test]
fn a_response_tells_its_own_type_and_fields() {
    let server = Server::new(Leaf(|_| {
        Response::text("x")
            .with_header(http::header::ETAG, http::HeaderValue::from_static("\"v\""))
            .with_header(http::header::SET_COOKIE, http::HeaderValue::from_static("a=1"))
    }));
    let reply = server.get("/");
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!((reply.header("etag"), reply.header("set-cookie")), (Some("\"v\""), Some("a=1")));
}

#[test]
fn error_pages_escape_what_they_are_told() {
    let page = Response::error_page(StatusCode::BAD_REQUEST, "<b>\"'&", "<script>");
    let text = String::from_utf8(page.body().to_vec()).unwrap();
    assert!(text.contains("&lt;b&gt;&quot;&#39;&amp;") && text.contains("&lt;script&gt;"), "{text}");
    assert!(!text.contains("<script>"));
}

// ---- errors -----------------------------------------------------------------------------------------

/// Panics where its name says.
struct Panics(&'static str);

impl Resource for Panics {
    fn is_leaf(&self) -> bool {
        assert_ne!(self.0, "is_leaf");
        false
    }

    fn child(&self, _: &str, _: &Request) -> Option<Rc<dyn Resource>> {
        assert_ne!(self.0, "child");
        Some(Rc::new(Panics("nowhere")))
    }

    fn render(&self, _: Request) -> Render {
        assert_eq!(self.0, "nowhere", "render");
        NOT_DONE_YET
    }
}

#[test]
fn a_panic_anywhere_is_answered_with_500_and_the_connection_goes_on() {
    let root = Branch::new();
    root.put_child("is_leaf", Panics("is_leaf"));
    root.put_child("child", Panics("child"));
    root.put_child("render", Panics("render"));
    root.put_child("fine", Leaf(|_| "fine"));
    let server = Server::new(root);
    let mut client = server.connect();
    for path in ["/is_leaf", "/child/x", "/render"] {
        assert_eq!(client.get(path).status, 500, "{path}");
        expect_log(&["ERROR", path, "panicked"]);
        assert_eq!(client.get("/fine").brief(), (200, "fine"));
    }
    assert_eq!(server.in_progress(), 0.0);
}

#[test]
fn an_error_is_answered_with_500_and_logged_with_its_origin() {
    let server = Server::new(Leaf(|_| -> Result<Response> { Ok(Response::text("x".parse::<i32>()?.to_string())) }));
    assert_eq!(server.get("/broken").status, 500);
    expect_log(&["GET /broken", "invalid digit", "web_resource.rs"]);
}

#[test]
fn an_error_after_the_first_write_breaks_the_connection() {
    // An error page glued to a page that has begun would be taken for a part of it.
    let server = Server::new(Leaf(|mut request: Request| -> Result<Render> {
        request.write("half");
        Err("the other half is missing".into())
    }));
    let mut client = server.connect();
    client.send_request("GET", "/");
    assert_eq!(client.end(), End::Reset);
    let received = String::from_utf8(client.received().to_vec()).unwrap();
    assert!(!received.contains("500") && !received.ends_with("0\r\n\r\n"), "{received}");
    server.until_true("nothing is in progress", || server.in_progress() == 0.0);
}

// ---- answers that come later ------------------------------------------------------------------------

/// What a test fires: the ends of the chains that a server returned.
type Ends<T> = Rc<RefCell<Vec<Completer<T>>>>;

/// A server that answers with chains that the test fires.
fn deferring<T: Into<Render> + 'static>() -> (Server, Ends<T>) {
    let ends = Ends::default();
    let keeping = ends.clone();
    let server = Server::new(Leaf(move |_| {
        let (completer, deferred) = Deferred::<T>::pair();
        keeping.borrow_mut().push(completer);
        deferred
    }));
    (server, ends)
}

#[track_caller]
fn next<T>(server: &Server, ends: &Ends<T>) -> Completer<T> {
    server.until("a request arrives", || ends.borrow_mut().pop())
}

#[test]
fn a_chain_is_answered_when_it_fires() {
    let (server, ends) = deferring();
    let mut client = server.connect();
    for text in ["one", "two"] {
        client.send_request("GET", "/");
        let end = next(&server, &ends);
        client.expect_silence();
        end.callback(text);
        assert_eq!(client.reply().brief(), (200, text));
    }
    assert_eq!(server.in_progress(), 0.0);
}

#[test]
fn a_chain_that_fails_is_answered_with_500_and_logged_once() {
    let (server, ends) = deferring::<&str>();
    let mut client = server.connect();
    client.send_request("GET", "/late");
    next(&server, &ends).errback("it went wrong");
    assert_eq!(client.reply().status, 500);
    expect_log(&["GET /late", "it went wrong"]);
    client.send_request("GET", "/");
    next(&server, &ends).callback("and on");
    assert_eq!(client.reply().brief(), (200, "and on"));
}

#[test]
fn a_chain_that_is_abandoned_is_answered_with_500() {
    let (server, ends) = deferring::<&str>();
    let mut client = server.connect();
    client.send_request("GET", "/");
    drop(next(&server, &ends));
    assert_eq!(client.reply().status, 500);
    expect_log(&["GET /", "abandoned"]);
    assert_eq!(server.in_progress(), 0.0);
}

#[test]
fn a_panic_in_a_chain_is_answered_with_500() {
    let server = Server::new(Leaf(|request: Request| {
        let later = defer_later(&request.reactor(), std::time::Duration::ZERO, || ());
        later.map(|()| -> &str { panic!("in a callback") })
    }));
    let mut client = server.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/").status, 500);
        expect_log(&["in a callback"]);
    }
}

#[test]
fn what_a_chain_brings_may_be_a_resource_or_another_chain() {
    let (server, ends) = deferring::<Render>();
    let mut client = server.connect();
    client.send_request("GET", "/");
    let (inner, outer) = Deferred::pair();
    next(&server, &ends).callback(outer.into());
    client.expect_silence();
    inner.callback(Leaf(|request: Request| request.uri().to_owned()));
    assert_eq!(client.reply().brief(), (200, "/"));
    expect_no_log();
}

#[test]
fn a_chain_may_bring_not_done_yet() {
    let (server, ends) = deferring::<Render>();
    let mut client = server.connect();
    client.send_request("GET", "/");
    next(&server, &ends).callback(NOT_DONE_YET);
    assert_eq!(client.reply().status, 500, "nobody has the request");
    expect_log(&["without an answer"]);
}

#[test]
fn a_chain_that_fires_after_the_handle_has_answered_is_told_of() {
    let end = Ends::default();
    let keeping = end.clone();
    let server = Server::new(Leaf(move |mut request: Request| {
        let (completer, deferred) = Deferred::<&str>::pair();
        keeping.borrow_mut().push(completer);
        request.write("by hand");
        request.finish();
        deferred
    }));
    let mut client = server.connect();
    assert_eq!(client.get("/").brief(), (200, "by hand"));
    next(&server, &end).callback("by the chain");
    expect_log(&["answered twice"]);
    assert_eq!(client.get("/").brief(), (200, "by hand"));
}

#[test]
fn a_peer_that_leaves_cancels_the_chain() {
    let cancelled = Rc::new(Cell::new(0));
    let counting = cancelled.clone();
    let kept = Ends::default();
    let keeping = kept.clone();
    let server = Server::new(Leaf(move |_| {
        let (completer, deferred) = Deferred::<&str>::pair();
        let counting = counting.clone();
        completer.on_cancel(move || counting.set(counting.get() + 1));
        keeping.borrow_mut().push(completer);
        deferred
    }));
    let mut client = server.connect();
    client.send_request("GET", "/");
    let end = next(&server, &kept);
    client.reset();
    server.until_true("the chain is cancelled", || cancelled.get() == 1);
    assert!(end.is_cancelled());
    drop(end);
    assert_eq!(server.in_progress(), 0.0);
    expect_no_log();
}

#[test]
fn a_chain_that_survives_its_cancellation_is_cancelled_again_where_it_goes_on() {
    let ends = Ends::default();
    let keeping = ends.clone();
    let server = Server::new(Leaf(move |_| {
        let keeping = keeping.clone();
        let (first, deferred) = Deferred::<Render>::pair();
        keeping.borrow_mut().push(first);
        deferred.add_errback(move |failure| {
            failure.trap::<Cancelled>()?;
            let (second, deferred) = Deferred::<Render>::pair();
            keeping.borrow_mut().push(second);
            Ok::<Render, Failure>(deferred.into())
        })
    }));
    let mut client = server.connect();
    client.send_request("GET", "/");
    let first = next(&server, &ends);
    client.reset();
    let second = next(&server, &ends);
    assert!(first.is_cancelled() && second.is_cancelled());
    expect_no_log();
}

#[test]
fn another_error_after_the_peer_left_is_logged() {
    let (server, ends) = deferring::<&str>();
    let mut client = server.connect();
    client.send_request("GET", "/");
    let end = next(&server, &ends);
    end.on_cancel(|| panic!("the canceller is broken"));
    client.reset();
    server.until_true("the peer is gone", || server.figure("http_server_connections", &[]) == 0.0);
    let log = take_log();
    assert!(log.iter().any(|line| line.contains("the canceller is broken")), "{log:?}");
    assert_eq!(server.in_progress(), 0.0);
}

// ---- handing on -------------------------------------------------------------------------------------

#[test]
fn a_resource_may_answer_with_another_one() {
    let root = Branch::new();
    root.put_child("metrics", Leaf(|_| MetricsResource::with_registry(Registry::new())));
    let server = Server::new(root);
    let reply = server.get("/metrics");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(server.ask("HEAD", "/metrics").status, 200);
    assert_eq!(server.ask("POST", "/metrics").status, 405);
}

#[test]
fn the_walk_goes_on_below_a_resource_that_was_handed_on_to() {
    let branch = Branch::new();
    branch.put_child("b", Place);
    let server = Server::new(Leaf(move |_| branch.clone()));
    assert_eq!(server.get("/b").brief(), (200, r#"["b"] []"#));
    assert_eq!(server.get("/c").status, 404);
}

#[test]
fn resources_that_hand_on_in_a_circle_are_answered_with_500() {
    #[derive(Clone)]
    struct Circle;
    impl Resource for Circle {
        fn is_leaf(&self) -> bool {
            true
        }
        fn render(&self, _: Request) -> Render {
            Circle.into()
        }
    }
    let server = Server::new(Circle);
    let mut client = server.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/").status, 500);
        expect_log(&["handing the request on"]);
    }
}

#[test]
fn a_long_line_of_resources_is_no_circle() {
    fn handing_on(times: u32) -> Render {
        Leaf(move |_| if times == 0 { "at last".into() } else { handing_on(times - 1) }).into()
    }
    assert_eq!(Server::new(Leaf(|_| handing_on(20))).get("/").brief(), (200, "at last"));
}

// ---- user code inside of everything -----------------------------------------------------------------

#[test]
fn a_resource_may_change_the_tree_it_stands_in() {
    let root = Branch::new();
    let tree = root.clone();
    root.put_child(
        "grow",
        Leaf(move |_| {
            tree.put_child("grow", Leaf(|_| "replaced"));
            tree.put_child("grown", Leaf(|_| "new"));
            "old"
        }),
    );
    let server = Server::new(root);
    assert_eq!(server.get("/grow").brief(), (200, "old"));
    assert_eq!(server.get("/grow").brief(), (200, "replaced"));
    assert_eq!(server.get("/grown").brief(), (200, "new"));
}

#[test]
fn a_child_that_is_replaced_may_use_the_tree_when_it_is_dropped() {
    struct Restless(Branch, &'static str);
    impl Resource for Restless {}
    impl Drop for Restless {
        fn drop(&mut self) {
            self.0.put_child(self.1, Leaf(|_| "put by a drop"));
        }
    }
    for name in ["", "x"] {
        let root = Branch::new();
        root.put_child(name, Restless(root.clone(), "elsewhere"));
        root.put_child(name, Leaf(|_| "new"));
        root.put_child(name, Restless(root.clone(), "again"));
        root.remove_child(name);
        let server = Server::new(root);
        assert_eq!(server.get("/elsewhere").brief(), (200, "put by a drop"));
        assert_eq!(server.get("/again").brief(), (200, "put by a drop"));
    }
}

#[test]
fn a_resource_that_turns_the_reactor_is_refused_that_and_answered() {
    let server = Server::new(Leaf(|request: Request| {
        let reactor = request.reactor();
        let nested = reactor.turn(None);
        assert!(nested.is_err(), "a turn inside a turn is refused");
        reactor.call_soon(|| ()).cancel().unwrap();
        "answered"
    }));
    assert_eq!(server.get("/").brief(), (200, "answered"));
    expect_no_log();
}
