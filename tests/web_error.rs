//! Errors that know which answer they are.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::web::{Branch, HeaderValue, HttpError, Render, Request, Router, RoutingError};
use dosimeter::{Deferred, Result, defer_later};
use http::{StatusCode, header};
use support::{Leaf, Server, expect_log, expect_no_log};

fn refused() -> HttpError {
    HttpError::new(StatusCode::UNAUTHORIZED, "log in <first>")
        .because("token 1234 is expired")
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"x\""))
}

fn failed() -> Result<&'static str> {
    Err(refused().into())
}

#[track_caller]
fn check_refused(server: &Server, path: &str) {
    let reply = server.get(path);
    assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some("Basic realm=\"x\"")), "{path}");
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"), "{path}");
    assert!(reply.text().contains("<h1>Unauthorized</h1><p>log in &lt;first&gt;</p>"), "{path}: {}", reply.text());
    assert!(!reply.text().contains("1234"), "the source is not for the peer");
}

#[test]
fn an_error_with_a_status_is_answered_with_it_however_it_comes() {
    let app = Router::new();
    app.route("/result", |_| failed());
    app.route("/itself", |_| refused());
    app.route("/typed", |_| -> Result<&str, HttpError> { Err(refused()) });
    app.route("/deferred", |_| Deferred::<&str>::fail(refused()));
    app.route("/later", |request: Request| {
        defer_later(&request.reactor(), Duration::ZERO, || ()).add_callback(|()| failed())
    });
    app.route_async("/async", async |_| failed());
    app.mount("/leaf", Leaf(|_| failed()));
    let server = Server::new(app);
    for path in ["/result", "/itself", "/typed", "/deferred", "/later", "/async", "/leaf"] {
        check_refused(&server, path);
    }
    expect_no_log();
}

/// An error of a program, with one that has a status inside.
#[derive(Debug)]
struct Outer(HttpError);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("outer")
    }
}

impl Error for Outer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn the_status_of_a_source_counts() {
    let server = Server::new(Leaf(|_| -> Result<&str> { Err(Outer(refused()).into()) }));
    check_refused(&server, "/");
    expect_no_log();
}

#[test]
fn a_failure_of_the_server_is_logged_with_what_is_behind_it() {
    let unavailable = || HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "try later").because("the disk is full");
    let server = Server::new(Leaf(move |_| -> Result<&str> { Err(unavailable().into()) }));
    let reply = server.get("/x");
    assert_eq!(reply.status, 503);
    assert!(reply.text().contains("try later") && !reply.text().contains("disk"), "{}", reply.text());
    expect_log(&["ERROR", "GET /x failed", "try later", "the disk is full"]);
}

#[test]
fn an_error_handler_comes_before_the_answer_that_the_error_is() {
    let app = Router::new();
    app.route("/", |_| failed());
    app.handle_errors(|_, error: HttpError| (error.status(), error.detail().to_owned()));
    assert_eq!(Server::new(app).get("/").brief(), (401, "log in <first>"));
}

#[test]
fn what_was_said_of_the_answer_before_it_was_refused_is_forgotten() {
    let server = Server::new(Leaf(|mut request: Request| {
        request.add_header(header::CONTENT_TYPE, HeaderValue::from_static("image/png"));
        failed()
    }));
    check_refused(&server, "/");
}

#[test]
fn a_refusal_after_the_answer_has_begun_breaks_the_connection_and_is_logged() {
    let kept = Rc::new(RefCell::new(None));
    let keeper = kept.clone();
    let server = Server::new(Leaf(move |mut request: Request| {
        request.write("the beginning");
        keeper.replace(Some(request));
        failed()
    }));
    let mut client = server.connect();
    client.send_request("GET", "/");
    client.end();
    expect_log(&["ERROR", "log in <first>"]);
}

#[test]
#[should_panic(expected = "302 Found is not the status of an error")]
fn an_error_has_the_status_of_one() {
    let _ = HttpError::new(StatusCode::FOUND, "");
}

// ---- nothing there ----------------------------------------------------------------------------------

#[test]
fn what_a_mounted_resource_has_not_comes_to_the_error_handlers_of_the_router() {
    let app = Router::new();
    let branch = Branch::new();
    branch.put_child("router", Router::new());
    branch.put_child("branch", Branch::new());
    app.mount("/mounted", branch);
    app.route("/returned", |_| Branch::new());
    app.route("/later", |request: Request| defer_later(&request.reactor(), Duration::ZERO, Branch::new));
    app.handle_errors(|request: Request, error: RoutingError| -> Render {
        (error.status(), format!("nothing at {}", request.path())).into()
    });
    let root = Branch::new();
    root.put_child("app", app);
    let server = Server::new(root);
    for path in ["/mounted/none", "/mounted/router/x", "/mounted/branch/", "/mounted/branch", "/returned", "/later"] {
        let path = format!("/app{path}");
        assert_eq!(server.get(&path).brief(), (404, &*format!("nothing at {path}")));
    }
    assert_eq!(server.get("/none").status, 404, "outside of the router");
    assert!(server.get("/none").text().contains("No Such Resource"));
    let refused = server.ask("DELETE", "/app/mounted/none");
    assert_eq!(refused.status, 404);
    expect_no_log();
}

#[test]
fn a_method_that_a_mounted_resource_has_not_comes_to_the_error_handlers_of_the_router() {
    struct Page;
    impl dosimeter::web::Resource for Page {}
    let app = Router::new();
    app.mount("/page", Page);
    app.handle_errors(|_, error: RoutingError| match error {
        RoutingError::MethodNotAllowed { method, allowed, .. } => {
            (StatusCode::IM_A_TEAPOT, format!("{method} is none of {allowed:?}"))
        }
        other => (other.status(), String::new()),
    });
    let server = Server::new(app);
    assert_eq!(server.ask("POST", "/page").brief(), (418, "POST is none of [GET, HEAD, OPTIONS]"));
}
