//! Whatever a client sends comes back as data: in no head does it end a line, in no page does it become markup.
//!
//! The server here repeats what it is sent in every way that the crate offers. The text of each answer is looked at as a
//! browser would look at it: for field lines and for tags that the server did not mean.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use dosimeter::web::{
    Branch, Cookie, ErrorPages, HeaderValue, HttpError, Redirect, Render, Request, Response, Router, StatusCode,
    VirtualHosts, escape_html,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use support::{Reply, Server, take_log};

/// Each of these would do harm in one place or another.
const HOSTILE: &[&str] = &[
    "\r\nX-Injected: 1",
    "\nX-Injected: 1",
    "\rX-Injected: 1",
    "x\r\n\r\n<script>alert(1)</script>",
    "<script>alert(1)</script>",
    "\"><script>alert(1)</script>",
    "'><script>alert(1)</script>",
    "\" onload=\"alert(1)",
    "' onload='alert(1)",
    "</title><script>alert(1)</script>",
    "javascript:alert(1)",
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "a; Domain=evil.example",
    "a\0b",
    "\u{2028}\u{2029}\u{85}",
    "\u{202e}&lt;",
    "%0d%0aX-Injected: 1",
    "&#x3c;script>",
    "",
];

/// The text that the client sent: in the query, and in the path.
fn sent(request: &Request) -> String {
    request.query("t").or_else(|| request.param("text")).unwrap_or_default()
}

fn app() -> Router {
    let app = Router::new();
    app.route("/error/<text>", |request: Request| {
        Response::error_page(StatusCode::BAD_REQUEST, &sent(&request), &sent(&request))
    });
    app.route("/http/<text>", |request: Request| HttpError::new(StatusCode::CONFLICT, sent(&request)));
    app.route("/redirect/<text>", |request: Request| Response::redirect(StatusCode::FOUND, &sent(&request)));
    app.route("/local/<text>", |request: Request| Response::redirect_local(StatusCode::FOUND, &sent(&request)));
    app.route("/slash/<text>/", |_: Request| "with its slash");
    app.route("/put/<text>", |_: Request| "").methods([http::Method::PUT]);
    app.route("/parent/<text>", |_: Request| Redirect::to_parent(StatusCode::FOUND));
    app.route("/missing/<text>", |request: Request| -> dosimeter::Result<String> {
        Ok(request.form()?.parse::<u8>(&sent(&request))?.to_string())
    });
    app.route("/cookie/<text>", |request: Request| -> Render {
        let named = request.add_cookie(&Cookie::new(sent(&request), "x"));
        let valued = request.add_cookie(&Cookie::new("name", sent(&request)));
        let placed = request.add_cookie(&Cookie::new("name", "x").path(format!("/{}", sent(&request))));
        let errors = [named.err(), valued.err(), placed.err()];
        let text: String = errors.iter().flatten().map(|error| error.to_string()).collect();
        Response::error_page(StatusCode::BAD_REQUEST, "cookies", &text).into()
    });
    app.route("/header/<text>", |request: Request| match HeaderValue::from_str(&sent(&request)) {
        Ok(value) => Response::text("x").with_header(http::header::VIA, value),
        Err(_) => Response::text("refused"),
    });
    app.route("/fails/<text>", |request: Request| -> dosimeter::Result<String> { Err(sent(&request).into()) });
    let own = ErrorPages::new(Branch::new(), |error| {
        let path =
            error.request().map(|request| request.prepath().chain(request.postpath()).collect::<Vec<_>>().join("/"));
        Response::new(format!("<p>{}</p>", escape_html(&path.unwrap_or_default())))
    });
    app.mount("/own", own);
    app.mount("/hosts", VirtualHosts::new());
    app
}

const WAYS: &[&str] = &[
    "error", "http", "redirect", "local", "slash", "put", "parent", "missing", "cookie", "header", "fails", "own",
    "hosts", "nothing",
];

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Sends `text` in every place of a request to this part of the server.
fn answers(server: &Server, way: &str, text: &str) -> Vec<Reply> {
    let text = encoded(text);
    let mut client = server.connect();
    ["GET", "POST"]
        .iter()
        .flat_map(|method| {
            [
                format!("/{way}/{text}"),
                format!("/{way}/x?t={text}"),
                format!("/{way}/{text}/"),
                format!("//{way}//{text}"),
            ]
            .map(|target| client.ask(method, &target))
        })
        .collect()
}

/// What the server means to send.
#[track_caller]
fn check_meant(reply: &Reply, what: &str) {
    const MEANT: &[&str] =
        &["server", "date", "content-type", "content-length", "location", "allow", "set-cookie", "via", "connection"];
    for (name, value) in &reply.fields {
        assert!(MEANT.contains(&name.as_str()), "{what}: {name}: {value}");
        assert!(!value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()), "{what}: {name}: {value:?}");
    }
    if reply.header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
        let tags = ["!DOCTYPE html", "html", "head", "title", "body", "h1", "p", "a"];
        for rest in reply.text().split('<').skip(1) {
            let tag = rest.split('>').next().unwrap_or_default().trim_start_matches('/');
            let is_meant = tags.contains(&tag) || tag.starts_with("a href=\"");
            assert!(is_meant, "{what}: <{rest}");
        }
        for link in reply.text().split("href=\"").skip(1) {
            let (url, behind) = link.split_once('"').expect("a closing quote");
            assert!(behind.starts_with('>'), "{what}: {link}");
            assert!(!url.to_ascii_lowercase().starts_with("javascript"), "{what}: {url}");
        }
    }
    if let Some(location) = reply.header("location").filter(|_| !what.starts_with("redirect ")) {
        let is_local = location.starts_with("./") || (location.starts_with('/') && !location.starts_with("//"));
        assert!(is_local && !location.contains('\\'), "{what}: {location}");
    }
}

#[test]
fn nothing_that_is_sent_ends_a_line_or_becomes_markup() {
    let server = Server::new(app());
    for way in WAYS {
        for text in HOSTILE {
            for reply in answers(&server, way, text) {
                check_meant(&reply, &format!("{way} {text:?}"));
            }
        }
    }
    for line in take_log() {
        assert!(line.contains("failed: "), "only the failures that were meant are logged: {line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_ends_a_line_or_becomes_markup(way in prop::sample::select(WAYS), text in "[ -~\\r\\n\\t\0äß日\u{2028}]{0,20}") {
        let server = Server::new(app());
        for reply in answers(&server, way, &text) {
            check_meant(&reply, &format!("{way} {text:?}"));
        }
    }
}

#[test]
fn a_method_or_a_host_is_shown_as_text_or_not_at_all() {
    let server = Server::new(app());
    for method in ["A&B'", "`x`", "^|~"] {
        let reply = server.ask(method, "/put/x");
        assert_eq!(reply.status, 501);
        check_meant(&reply, method);
        assert!(reply.text().contains(&*escape_html(method)), "{}", reply.text());
    }
    for request in [
        "GET /hosts HTTP/1.1\r\nHost: <script>\r\n\r\n",
        "GET /<script> HTTP/1.1\r\nHost: a\r\n\r\n",
        "<SCRIPT> / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / <script>\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n<script>: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: <script>\r\n\r\n",
    ] {
        let mut client = server.connect();
        client.send(request);
        let reply = client.reply();
        check_meant(
            &Reply { fields: reply.fields.iter().filter(|(name, _)| name != "connection").cloned().collect(), ..reply },
            request,
        );
    }
}
