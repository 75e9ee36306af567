//! Resources that are not for everybody.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use dosimeter::web::{HttpError, Request};
use support::{Leaf, Server, expect_no_log};

#[test]
fn who_is_not_known_is_asked_for_name_and_password() {
    let server = Server::new(Leaf(|request: Request| -> dosimeter::Result<&str> {
        match request.credentials() {
            Some(credentials) if credentials.are("a", "b") => Ok("welcome"),
            _ => Err(HttpError::unauthorized("the cellar").into()),
        }
    }));
    let ask = |credentials: &str| {
        let mut client = server.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {credentials}\r\n\r\n"));
        client.reply()
    };
    assert_eq!(ask("YTpi").brief(), (200, "welcome"), "a:b");
    for (other, what) in [
        ("YTpj", "a:c"),
        ("Yjpi", "b:b"),
        ("YTpiYg==", "a:bb"),
        ("YWE6Yg==", "aa:b"),
        ("YTo=", "a:"),
        ("Og==", ":"),
        ("!", "none"),
    ] {
        let reply = ask(other);
        let asked = "Basic realm=\"the cellar\", charset=\"UTF-8\"";
        assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some(asked)), "{what}");
    }
    assert_eq!(server.get("/").status, 401);
    expect_no_log();
}

#[test]
#[should_panic(expected = "cannot be the name of a realm")]
fn a_realm_is_plain_text() {
    let _ = HttpError::unauthorized("a\"b");
}
