//! Redirects: where they lead, and where they never do.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use dosimeter::web::{Branch, Redirect, Request, Response, StatusCode};
use proptest::prelude::*;
use support::{Leaf, Server, expect_no_log};

fn location(response: &Response) -> &str {
    let field = response.headers().find(|(name, _)| **name == http::header::LOCATION).expect("a redirect has one");
    field.1.to_str().unwrap()
}

#[test]
fn a_redirect_has_its_status_its_location_and_a_page() {
    for code in [301, 302, 303, 307, 308] {
        let status = StatusCode::from_u16(code).unwrap();
        let server = Server::new(Leaf(move |_| Response::redirect(status, "/there?a=1&b=2#c")));
        let reply = server.get("/");
        assert_eq!((reply.status, reply.header("location")), (code, Some("/there?a=1&b=2#c")));
        assert!(reply.text().contains("<a href=\"/there?a=1&amp;b=2#c\">/there?a=1&amp;b=2#c</a>"), "{}", reply.text());
        assert_eq!(server.ask("HEAD", "/").header("location"), Some("/there?a=1&b=2#c"));
    }
    expect_no_log();
}

#[test]
#[should_panic(expected = "200 OK is not the status of a redirect")]
fn a_redirect_has_the_status_of_one() {
    let _ = Response::redirect(StatusCode::OK, "/");
}

#[test]
fn what_a_url_cannot_have_is_encoded_and_what_it_has_is_left() {
    for (to, expected) in [
        ("/a b", "/a%20b"),
        ("/\r\nSet-Cookie: a=1", "/%0D%0ASet-Cookie:%20a=1"),
        ("/ä/日", "/%C3%A4/%E6%97%A5"),
        ("/\0\t\u{7f}", "/%00%09%7F"),
        ("/\"<>'\\", "/%22%3C%3E'%5C"),
        ("/%41%zz%", "/%41%zz%"),
        ("https://[::1]:80/x?y=[1]", "https://[::1]:80/x?y=[1]"),
        ("", ""),
    ] {
        assert_eq!(location(&Response::redirect(StatusCode::FOUND, to)), expected, "{to:?}");
    }
}

#[test]
fn a_page_links_to_places_of_the_web_only() {
    let page = |to: &str| String::from_utf8(Response::redirect(StatusCode::FOUND, to).body().to_vec()).unwrap();
    for to in [" javascript:alert(1)", "javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "vbscript:x"] {
        assert!(!page(to).contains("<a "), "{}", page(to));
    }
    for to in ["/a:b", "a/b:c", "?a:b", "#a:b", "http://a/", "HTTPS://a/", "//a:80/"] {
        assert!(page(to).contains("<a "), "{}", page(to));
    }
    assert!(!page("\"><script>").contains("<script>"));
    assert!(page("/x'onclick='y").contains("&#39;"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_location_it_is_one_field_of_visible_ascii(to in any::<String>()) {
        let response = Response::redirect(StatusCode::SEE_OTHER, &to);
        prop_assert!(location(&response).bytes().all(|byte| byte.is_ascii_graphic()));
        let page = std::str::from_utf8(response.body()).unwrap();
        prop_assert!(page.matches('<').count() <= 18 && page.matches('"').count() <= 2, "{}", page);
    }

    #[test]
    fn a_local_redirect_leads_to_this_server_or_nowhere(to in "[/\\\\.:@a\\t\\n ?#%]{0,8}") {
        if let Ok(response) = Response::redirect_local(StatusCode::SEE_OTHER, &to) {
            let to = location(&response);
            prop_assert!(to.starts_with('/') && !to.starts_with("//") && !to.contains('\\'), "{}", to);
            prop_assert!(to.bytes().all(|byte| byte.is_ascii_graphic()), "{}", to);
        }
    }
}

#[test]
fn a_local_redirect_goes_to_paths_of_this_server_only() {
    let server = Server::new(Leaf(|request: Request| {
        Response::redirect_local(StatusCode::SEE_OTHER, &request.query("next").unwrap_or_default())
    }));
    for (next, expected) in [
        ("/", "/"),
        ("/a/b?c=d%23e", "/a/b?c=d#e"),
        ("/?next=//x", "/?next=//x"),
        ("/%2523", "/%23"),
        ("/a//b", "/a//b"),
        ("/%0D%0AX:y", "/%0D%0AX:y"),
        ("/%09/evil.example", "/%09/evil.example"),
        ("/./%5Cevil.example", "/./%5Cevil.example"),
    ] {
        let reply = server.get(&format!("/?next={next}"));
        assert_eq!((reply.status, reply.header("location")), (303, Some(expected)), "{next}");
        assert_eq!(reply.header("x"), None);
    }
    for next in [
        "",
        "//evil.example",
        "/%5Cevil.example",
        "/%2Fevil.example",
        "https://evil.example",
        "evil",
        "%09//x",
        "\\x",
        "javascript:x",
    ] {
        let reply = server.get(&format!("/?next={next}").replace('\\', "%5C"));
        assert_eq!((reply.status, reply.header("location")), (400, None), "{next}");
    }
    expect_no_log();
}

#[test]
fn a_resource_that_is_elsewhere_says_so_for_everything_below_it() {
    let root = Branch::new();
    root.put_child("old", Redirect::new(StatusCode::PERMANENT_REDIRECT, "/new place"));
    let server = Server::new(root);
    for path in ["/old", "/old/", "/old/a/b?c"] {
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            let reply = server.ask(method, path);
            assert_eq!((reply.status, reply.header("location")), (308, Some("/new%20place")), "{method} {path}");
        }
    }
    assert_eq!(server.routes(), ["/old"]);
    expect_no_log();
}

#[test]
fn a_redirect_to_the_parent_is_relative_and_never_leads_back() {
    let root = Branch::new();
    root.put_child("", Redirect::to_parent(StatusCode::FOUND));
    let notes = Branch::new();
    notes.put_child("new", Redirect::to_parent(StatusCode::FOUND));
    root.put_child("notes", notes);
    let server = Server::new(root);
    for (path, expected) in
        [("/notes/new", "./"), ("/notes/new?a", "./"), ("/notes/new/", "../"), ("/notes/new/x", "./")]
    {
        assert_eq!(server.get(path).header("location"), Some(expected), "{path}");
    }
    assert_eq!(server.get("/").status, 404, "the root stands in nothing");
    let slashes = server.get("//evil.example/x");
    assert_eq!((slashes.status, slashes.header("location")), (302, Some("./")), "no path of the request is repeated");
    expect_no_log();
}
