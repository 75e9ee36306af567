//! Cookies, both ways.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::time::{Duration, SystemTime};

use dosimeter::web::{Cookie, NOT_DONE_YET, Render, Request, Response, SameSite};
use support::{Leaf, Reply, Server, expect_log, expect_no_log};

fn encoded(cookie: Cookie) -> String {
    cookie.encode().unwrap().to_str().unwrap().to_owned()
}

/// The cookies that a reply sets.
fn set_cookies(reply: &Reply) -> Vec<&str> {
    reply.fields.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| value.as_str()).collect()
}

// ---- setting ----------------------------------------------------------------------------------------

#[test]
fn a_cookie_is_encoded_with_the_attributes_it_was_given() {
    assert_eq!(encoded(Cookie::new("a", "b")), "a=b");
    assert_eq!(encoded(Cookie::new("a", "")), "a=");
    let full = Cookie::new("a", "b=c")
        .path("/p q")
        .domain("example.com")
        .max_age(Duration::from_millis(1_999))
        .expires(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777))
        .same_site(SameSite::Strict)
        .secure()
        .http_only();
    assert_eq!(
        encoded(full),
        "a=b=c; Path=/p q; Domain=example.com; Max-Age=1; Expires=Sun, 06 Nov 1994 08:49:37 GMT; SameSite=Strict; \
         Secure; HttpOnly"
    );
    assert_eq!(encoded(Cookie::new("a", "b").same_site(SameSite::Lax)), "a=b; SameSite=Lax");
    assert_eq!(encoded(Cookie::removal("a").path("/")), "a=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT");
}

#[test]
fn a_cookie_that_browsers_would_drop_or_misread_is_refused_with_a_word_on_what_to_change() {
    let cookie = || Cookie::new("a", "b");
    let named = |name: &str| Cookie::new(name, "b");
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800);
    for (cookie, text) in [
        (named(""), "a name is made of"),
        (named("a b"), "a name is made of"),
        (named("a=b"), "a name is made of"),
        (named("a\r\nSet-Cookie: x"), "a name is made of"),
        (named("ä"), "a name is made of"),
        (Cookie::new("a", "b;c"), "encode it"),
        (Cookie::new("a", "b c"), "encode it"),
        (Cookie::new("a", "\"b\""), "encode it"),
        (Cookie::new("a", "b\r\nX: y"), "encode it"),
        (Cookie::new("a", "b\0"), "encode it"),
        (Cookie::new("a", "ä"), "encode it"),
        (Cookie::new("a", "b".repeat(4096)), "more than 4096 bytes"),
        (cookie().path("p"), "a path starts with a slash"),
        (cookie().path(""), "a path starts with a slash"),
        (cookie().path("/;Domain=x"), "a path starts with a slash"),
        (cookie().path("/\r\nX: y"), "a path starts with a slash"),
        (cookie().domain(""), "a domain is made of"),
        (cookie().domain("a;b"), "a domain is made of"),
        (cookie().domain("a\nb"), "a domain is made of"),
        (cookie().expires(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "before 1970"),
        (cookie().expires(far), "after 9999"),
        (cookie().same_site(SameSite::None), "secure, too"),
        (named("__Secure-a"), "__Secure-"),
        (named("__Host-a"), "__Host-"),
        (named("__host-a").secure(), "__Host-"),
        (named("__Host-a").secure().path("/x"), "__Host-"),
        (named("__Host-a").secure().path("/").domain("a.com"), "__Host-"),
    ] {
        let error = cookie.encode().expect_err(text).to_string();
        assert!(error.starts_with("cookie ") && error.contains(text), "{error}");
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }
    encoded(Cookie::new("a", "b".repeat(4095)));
    encoded(cookie().expires(far - Duration::from_secs(1)));
    encoded(cookie().same_site(SameSite::None).secure());
    encoded(named("__Secure-a").secure());
    encoded(named("__Host-a").secure().path("/"));
}

#[test]
fn the_value_of_a_cookie_is_not_shown() {
    let cookie = Cookie::new("id", "secret;");
    assert!(!format!("{cookie:?}").contains("secret"));
    assert!(!cookie.encode().unwrap_err().to_string().contains("secret"));
}

#[test]
fn each_cookie_of_a_response_has_a_field_of_its_own() {
    let server = Server::new(Leaf(|_| -> dosimeter::Result<Response> {
        let response = Response::text("x").with_cookie(&Cookie::new("a", "1"))?;
        Ok(response.with_cookie(&Cookie::new("b", "2"))?)
    }));
    assert_eq!(set_cookies(&server.get("/")), ["a=1", "b=2"]);
    expect_no_log();
}

#[test]
fn a_cookie_set_on_the_request_goes_with_every_kind_of_answer() {
    let server = Server::new(Leaf(|mut request: Request| -> Render {
        request.add_cookie(&Cookie::new("a", "1")).unwrap();
        match request.path() {
            "/text" => "text".into(),
            "/fails" => Err::<&str, _>("oh").into(),
            "/pieces" => {
                request.write("piece");
                request.finish();
                NOT_DONE_YET
            }
            _ => Response::text("x").with_cookie(&Cookie::new("b", "2")).into(),
        }
    }));
    assert_eq!(set_cookies(&server.get("/text")), ["a=1"]);
    assert_eq!(set_cookies(&server.get("/pieces")), ["a=1"]);
    let mut both: Vec<_> = set_cookies(&server.get("/both")).iter().map(|line| line.to_string()).collect();
    both.sort();
    assert_eq!(both, ["a=1", "b=2"]);
    expect_no_log();
    let failed = server.get("/fails");
    assert_eq!((failed.status, set_cookies(&failed)), (500, vec!["a=1"]));
    expect_log(&["oh"]);
}

#[test]
fn a_cookie_takes_the_place_of_the_one_with_its_name_path_and_domain() {
    let server = Server::new(Leaf(|request: Request| -> dosimeter::Result<&str> {
        request.add_cookie(&Cookie::new("a", "1"))?;
        request.add_cookie(&Cookie::new("a", "other").path("/x"))?;
        request.add_cookie(&Cookie::new("a", "2").http_only())?;
        Ok("")
    }));
    let mut client = server.connect();
    assert_eq!(set_cookies(&client.get("/")), ["a=other; Path=/x", "a=2; HttpOnly"]);
    assert_eq!(set_cookies(&client.get("/")).len(), 2, "those of one request are not left for the next");
    expect_no_log();
}

#[test]
fn a_cookie_set_after_the_answer_has_begun_is_refused() {
    let server = Server::new(Leaf(|mut request: Request| {
        request.write("x");
        let error = request.add_cookie(&Cookie::new("a", "1")).unwrap_err().to_string();
        request.write(error);
        request.finish();
        NOT_DONE_YET
    }));
    let reply = server.get("/");
    assert!(reply.text().contains("before the first write"), "{}", reply.text());
    assert_eq!(set_cookies(&reply), [""; 0]);
}

// ---- reading ----------------------------------------------------------------------------------------

#[test]
fn cookies_are_read_from_all_fields_as_they_were_sent() {
    let server = Server::new(Leaf(|request: Request| {
        let all: Vec<_> = request.cookies().collect();
        Response::text(format!("{all:?} {:?} {:?}", request.cookie("a"), request.cookie("none")))
    }));
    let mut client = server.connect();
    for (fields, expected) in [
        ("", "[] None None"),
        ("Cookie: a=1; b=2\r\n", r#"[("a", "1"), ("b", "2")] Some("1") None"#),
        (
            "Cookie: a=1;a=2;   c=\"x y\"\r\nCookie: d=\r\n",
            r#"[("a", "1"), ("a", "2"), ("c", "\"x y\""), ("d", "")] Some("1") None"#,
        ),
        ("cookie: bare; =x; a=b=c; ;\r\n", r#"[("", "x"), ("a", "b=c")] Some("b=c") None"#),
    ] {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        assert_eq!(client.reply().text(), expected, "{fields}");
    }
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: x=\xff; a=1\r\n\r\n");
    assert_eq!(client.reply().text(), r#"[("a", "1")] Some("1") None"#);
    expect_no_log();
}
