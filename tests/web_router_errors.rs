//! Error handlers of routers, and handlers that are `async`.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::num::ParseIntError;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::web::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use dosimeter::web::{
    Branch, HeaderName, HeaderValue, HttpError, NOT_DONE_YET, Render, Request, Response, Router, RoutingError,
};
use dosimeter::{Cancelled, Completer, Deferred, Result, defer_later};
use http::{Method, StatusCode};
use support::{Leaf, Server, expect_log, expect_no_log, take_log};

#[derive(Debug)]
struct Numbered(u32);

impl fmt::Display for Numbered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "number {}", self.0)
    }
}

impl std::error::Error for Numbered {}

fn failing(_: Request) -> Result<&'static str> {
    Err(Numbered(7).into())
}

fn taken(_: Request, error: Numbered) -> (StatusCode, String) {
    (StatusCode::CONFLICT, format!("taken: {error}"))
}

// ---- which handler ----------------------------------------------------------------------------------

#[test]
fn a_failure_of_every_kind_comes_to_the_handler_of_its_type() {
    let app = Router::new();
    app.handle_errors(taken);
    app.handle_errors(|_, _: ParseIntError| (StatusCode::BAD_REQUEST, "no number"));
    app.route("/result", failing);
    app.route("/deferred", |_| Deferred::<&str>::fail(Numbered(8)));
    app.route("/later", |request: Request| {
        let later = defer_later(&request.reactor(), Duration::ZERO, || ());
        later.add_callback(|()| -> Result<&str> { Err(Numbered(9).into()) })
    });
    app.route("/parse", |_| -> Result<String> { Ok("x".parse::<i32>()?.to_string()) });
    app.route("/resource", |_| Leaf(failing));
    app.mount("/mounted", Leaf(failing));
    app.route_async("/async", async |_| failing_later().await);
    let server = Server::new(app);
    for (path, body) in [
        ("/result", "taken: number 7"),
        ("/deferred", "taken: number 8"),
        ("/later", "taken: number 9"),
        ("/resource", "taken: number 7"),
        ("/mounted/x", "taken: number 7"),
        ("/async", "taken: number 10"),
    ] {
        assert_eq!(server.get(path).brief(), (409, body), "{path}");
    }
    assert_eq!(server.get("/parse").brief(), (400, "no number"));
    assert_eq!(server.get("/none").status, 404);
    expect_no_log();
}

async fn failing_later() -> Result<&'static str> {
    Err(Numbered(10).into())
}

/// RFC 9110 sections 15.5.2 and 15.5.6: 401 and 405 have fields without which they say nothing.
#[test]
fn an_answer_with_the_status_of_its_error_has_the_fields_of_that() {
    let app = Router::new();
    app.route("/", |_| "only this").methods([Method::GET]);
    app.route("/private", |_| -> Result<&str> { Err(HttpError::unauthorized("here").into()) });
    app.route("/busy", |_| -> Result<&str> {
        let seconds = HeaderValue::from_static("7");
        let busy = HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "busy").with_header(RETRY_AFTER, seconds);
        Err(busy.with_header(CONTENT_TYPE, HeaderValue::from_static("a/page-that-is-not-sent")).into())
    });
    app.handle_errors(|request, error: RoutingError| match request.query("how").as_deref() {
        Some("elsewhere") => Response::redirect(StatusCode::FOUND, "/").into(),
        Some("own") => Response::text("own").with_status(error.status()).with_header(ALLOW, GET_ALONE).into(),
        Some("added") => {
            let mut request = request;
            request.set_status(error.status());
            request.add_header(ALLOW, GET_ALONE);
            request.write("added");
            request.finish();
            NOT_DONE_YET
        }
        Some("later") => defer_later(&request.reactor(), Duration::ZERO, move || (error.status(), "later")).into(),
        Some("fails") => Render::from(Err::<&str, _>(HttpError::unauthorized("another"))),
        _ => (error.status(), "no").into(),
    });
    app.handle_errors(|_, error: HttpError| (error.status(), error.detail().to_owned()));
    let server = Server::new(app);
    let fields = |request: &str, name| {
        let (method, target) = request.split_once(' ').unwrap();
        server.ask(method, target).header(name).unwrap_or_default().to_owned()
    };
    for how in ["", "?how=later"] {
        assert_eq!(fields(&format!("PUT /{how}"), "allow"), "GET, HEAD, OPTIONS", "{how}");
    }
    for how in ["own", "added"] {
        assert_eq!(fields(&format!("PUT /?how={how}"), "allow"), "GET", "{how}");
    }
    assert_eq!(fields("PUT /?how=elsewhere", "allow"), "", "another status");
    assert_eq!(fields("PUT /?how=fails", "allow"), "", "another error");
    assert_eq!(fields("PUT /?how=fails", "www-authenticate"), "Basic realm=\"another\", charset=\"UTF-8\"");
    assert_eq!(fields("GET /private", "www-authenticate"), "Basic realm=\"here\", charset=\"UTF-8\"");
    assert_eq!(fields("GET /busy", "retry-after"), "7");
    assert_eq!(fields("GET /busy", "content-type"), "text/html; charset=utf-8");
    expect_no_log();
}

const GET_ALONE: HeaderValue = HeaderValue::from_static("GET");

#[test]
fn handlers_are_asked_in_order_and_a_new_error_goes_to_those_after() {
    let app = Router::new();
    app.handle_errors(|_, error: Numbered| -> Result<&str> {
        match error.0 {
            7 => Err("a text".into()),
            _ => Ok("first"),
        }
    });
    app.handle_errors(|_, _: Numbered| "second, which is never asked");
    app.handle_all_errors(|_, failure| (StatusCode::BAD_GATEWAY, format!("all: {failure}")));
    app.handle_all_errors(|_, _| "never asked either");
    app.route("/7", failing);
    app.route("/8", |_| -> Result<&str> { Err(Numbered(8).into()) });
    app.route("/panic", |_| -> &str { panic!("oh") });
    let server = Server::new(app);
    assert_eq!(server.get("/7").brief(), (502, "all: a text"));
    assert_eq!(server.get("/8").brief(), (200, "first"));
    assert_eq!(server.get("/panic").brief(), (502, "all: panicked: oh"));
    expect_no_log();
}

#[test]
fn what_nobody_takes_is_logged_and_answered_as_ever() {
    let app = Router::new();
    app.handle_errors(|_, _: ParseIntError| "not this one");
    app.route("/", failing);
    app.route("/panics", |_| -> Result<&str> { Ok("x".parse::<i32>().map(|_| "")?) });
    app.handle_errors(|_, _: Numbered| -> Result<&str> { panic!("in the error handler") });
    let server = Server::new(app);
    assert_eq!(server.get("/").status, 500);
    expect_log(&["GET /", "in the error handler"]);
    assert_eq!(server.get("/panics").text(), "not this one");
}

#[test]
fn an_error_handler_may_answer_in_every_way() {
    let app = Router::new();
    app.handle_errors(|request: Request, error: Numbered| -> Render {
        match request.path() {
            "/later" => defer_later(&request.reactor(), Duration::ZERO, || "later").into(),
            "/fails" => Deferred::<&str>::fail("failed again").into(),
            "/leaf" => Leaf(|_| "leaf").into(),
            "/by_hand" => {
                let mut request = request;
                request.write(format!("by hand {error}"));
                request.finish();
                NOT_DONE_YET
            }
            _ => ().into(),
        }
    });
    app.handle_all_errors(|_, failure| format!("at last {failure}"));
    app.route("/<path:any>", failing);
    let server = Server::new(app);
    for (path, body) in
        [("/later", "later"), ("/fails", "at last failed again"), ("/leaf", "leaf"), ("/by_hand", "by hand number 7")]
    {
        assert_eq!(server.get(path).brief(), (200, body), "{path}");
    }
    expect_no_log();
}

#[test]
fn errors_go_up_the_mounts() {
    let (app, middle, inner, root) = (Router::new(), Router::new(), Router::new(), Branch::new());
    inner.handle_errors(|_, error: Numbered| -> Result<&str> {
        match error.0 {
            7 => Ok("inner"),
            _ => Err(error.into()),
        }
    });
    middle.handle_errors(|_, _: ParseIntError| "middle");
    app.handle_errors(|_, error: Numbered| format!("app {error}"));
    inner.route("/7", failing);
    inner.route("/8", |_| -> Result<&str> { Err(Numbered(8).into()) });
    inner.route("/9", |_| Deferred::<&str>::fail(Numbered(9)));
    inner.route("/parse", |_| -> Result<String> { Ok("x".parse::<i32>()?.to_string()) });
    // A branch between them makes no difference.
    root.put_child("below", inner);
    middle.mount("/branch", root);
    app.mount("/middle", middle);
    let server = Server::new(app);
    let get = |path: &str| server.get(&format!("/middle/branch/below{path}"));
    assert_eq!(get("/7").text(), "inner");
    assert_eq!(get("/8").text(), "app number 8");
    assert_eq!(get("/9").text(), "app number 9");
    assert_eq!(get("/parse").text(), "middle");
    assert_eq!(get("/none").status, 404);
    expect_no_log();
}

#[test]
fn what_was_said_of_the_answer_before_it_failed_is_forgotten() {
    let app = Router::new();
    app.handle_errors(|_, _: Numbered| "sorry");
    app.route("/", |mut request: Request| {
        request.set_status(StatusCode::CREATED);
        request.add_header(HeaderName::from_static("x-secret"), HeaderValue::from_static("1"));
        request.add_header(HeaderName::from_static("content-type"), HeaderValue::from_static("image/png"));
        request.add_header(HeaderName::from_static("content-length"), HeaderValue::from_static("1000"));
        failing(request)
    });
    let reply = Server::new(app).get("/");
    assert_eq!((reply.brief(), reply.header("x-secret")), ((200, "sorry"), None));
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
}

#[test]
fn nobody_is_asked_once_the_answer_has_begun() {
    let app = Router::new();
    app.handle_all_errors(|_, _| "never");
    app.route("/", |mut request: Request| {
        request.write("half");
        failing(request)
    });
    let server = Server::new(app);
    let mut client = server.connect();
    client.send_request("GET", "/");
    client.end();
    assert!(!String::from_utf8_lossy(client.received()).contains("never"));
    assert!(take_log()[0].contains("number 7"));
}

#[test]
fn nobody_is_asked_when_the_peer_has_left() {
    let asked = Rc::new(Cell::new(false));
    let (app, noting) = (Router::new(), asked.clone());
    let kept: Rc<RefCell<Option<Completer<&str>>>> = Rc::default();
    let keeping = kept.clone();
    app.handle_all_errors(move |_, _| noting.set(true));
    app.route("/", move |_| {
        let (completer, later) = Deferred::pair();
        keeping.replace(Some(completer));
        later
    });
    let server = Server::new(app);
    let mut client = server.connect();
    client.send_request("GET", "/");
    server.until_true("the handler has it", || kept.borrow().is_some());
    client.reset();
    server.until_true("it is over", || server.in_progress() == 0.0);
    assert!(!asked.get());
    expect_no_log();
}

#[test]
fn a_circle_through_error_handlers_is_found() {
    let app = Router::new();
    let again = app.clone();
    app.handle_errors(|_, _: Numbered| "never");
    app.route("/", move |_| again.clone()).branch();
    let server = Server::new(app);
    assert_eq!(server.get("/").status, 500);
    expect_log(&["keep handing the request on"]);
}

// ---- errors of routing ------------------------------------------------------------------------------

fn app_with_routing_errors() -> (Router, Router) {
    let (app, inner) = (Router::new(), Router::new());
    inner.route("/x", |_| "x").methods([Method::PUT]);
    inner.route("/slash/", |_| "");
    app.mount("/inner", inner.clone());
    app.mount("/leaf", Leaf(|_| Response::not_found()));
    app.handle_all_errors(|_, _| "a catch-all, which is not asked");
    (app, inner)
}

#[test]
fn errors_of_routing_go_to_the_handlers_that_ask_for_them() {
    let (app, _) = app_with_routing_errors();
    app.handle_errors(|request: Request, error: RoutingError| {
        let allowed = match &error {
            RoutingError::MethodNotAllowed { allowed, .. } => allowed.len(),
            _ => 0,
        };
        (error.status(), format!("{} {allowed} {error}", request.path()))
    });
    let server = Server::new(app);
    for path in ["/none", "/inner/none"] {
        assert_eq!(server.get(path).brief(), (404, &*format!("{path} 0 no route matches the path")));
    }
    let refused = server.get("/inner/x");
    assert_eq!(refused.brief(), (405, "/inner/x 2 no route that matches the path has GET"));
    assert_eq!(server.ask("OPTIONS", "/inner/x").header("allow"), Some("OPTIONS, PUT"));
    assert_eq!(server.get("/inner/slash").status, 308);
    assert!(server.get("/leaf").text().contains("No Such Resource"));
    assert_eq!(server.routes(), ["/inner/slash/", "/inner/x", "/leaf", "unmatched"]);
    expect_no_log();
}

#[test]
fn errors_of_routing_are_answered_as_ever_where_nobody_takes_them() {
    let (app, inner) = app_with_routing_errors();
    inner.handle_errors(|_, error: RoutingError| -> Result<&str> { Err(error.into()) });
    let server = Server::new(app);
    for path in ["/none", "/inner/none"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 404);
        assert!(reply.text().contains("No Such Resource"));
    }
    let refused = server.get("/inner/x");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("OPTIONS, PUT")));
    expect_no_log();
}

#[test]
fn an_error_of_routing_is_an_answer_itself() {
    let app = Router::new();
    app.route("/", |_| -> Result<&str, RoutingError> { Err(RoutingError::NotFound) });
    app.handle_errors(|_, error: RoutingError| error);
    assert_eq!(Server::new(app).get("/").status, 404);
}

// ---- async ------------------------------------------------------------------------------------------

#[test]
fn an_async_closure_answers_at_once_or_later() {
    let app = Router::new();
    let greeting = "hello".to_owned();
    app.route_async("/borrowed/<name>", async move |request: Request| {
        let name: String = request.param("name").unwrap();
        format!("{greeting} {name}")
    });
    app.route_async("/later", async |request: Request| -> Result<Response> {
        let text = defer_later(&request.reactor(), Duration::ZERO, || "later").await?;
        Ok(Response::text(text))
    });
    app.route_async("/block", |request: Request| async move { (StatusCode::CREATED, request.path().to_owned()) });
    app.route_async("/fails", async |_| -> Result<&str> { Err("failed in there".into()) });
    app.route_async("/panics", async |_| -> &str { panic!("panicked in there") });
    let server = Server::new(app);
    for (path, status, body) in
        [("/borrowed/ada", 200, "hello ada"), ("/later", 200, "later"), ("/block", 201, "/block")]
    {
        for _ in 0..2 {
            assert_eq!(server.get(path).brief(), (status, body), "{path}");
        }
    }
    expect_no_log();
    assert_eq!(server.get("/fails").status, 500);
    expect_log(&["failed in there"]);
    assert_eq!(server.get("/panics").status, 500);
    expect_log(&["panicked in there"]);
}

#[test]
fn a_peer_that_leaves_cancels_what_an_async_handler_awaits() {
    let cancelled = Rc::new(Cell::new(false));
    let (app, noting) = (Router::new(), cancelled.clone());
    app.route_async("/", async move |request: Request| -> Result<&str> {
        let waited = defer_later(&request.reactor(), Duration::from_secs(3600), || "never").await;
        noting.set(waited.is_err_and(|failure| failure.is::<Cancelled>()));
        Ok("for nobody")
    });
    let server = Server::new(app);
    let mut client = server.connect();
    client.send_request("GET", "/");
    server.until_true("it waits", || server.in_progress() == 1.0);
    client.reset();
    server.until_true("it was told", || cancelled.get());
    expect_no_log();
}
