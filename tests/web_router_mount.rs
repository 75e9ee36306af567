//! What is below a prefix: mounted routers and resources, what they see of the path, what metrics call it, and URLs.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::rc::Rc;

use dosimeter::web::{Branch, Render, Request, Resource, Router, UrlError};
use http::Method;
use proptest::prelude::*;
use support::{Leaf, Server, expect_no_log};

/// What a handler sees of the path, and of the values called `a` and `b`.
fn view(request: Request) -> String {
    let (behind, ahead): (Vec<_>, Vec<_>) = (request.prepath().collect(), request.postpath().collect());
    let [a, b] = ["a", "b"].map(|name| request.param::<String>(name).unwrap_or_default());
    format!("{behind:?} {ahead:?} a={a} b={b}")
}

#[track_caller]
fn check(server: &Server, cases: &[(&str, &str)]) {
    for (path, expected) in cases {
        assert_eq!(server.get(path).brief(), (200, *expected), "{path}");
    }
}

#[test]
fn a_mounted_router_matches_what_is_left_behind_its_prefix() {
    let (app, inner) = (Router::new(), Router::new());
    inner.route("/", view);
    inner.route("/x/<b>", view);
    app.route("/", |_| "home");
    app.mount("/one/<int:a>", inner.clone());
    app.mount("/two/", inner);
    let server = Server::new(app);
    check(
        &server,
        &[
            ("/", "home"),
            ("/one/7/", r#"["one", "7", ""] [] a=7 b="#),
            ("/one/7/x/y%2F", r#"["one", "7", "x", "y/"] [] a=7 b=y/"#),
            ("/two/x/y", r#"["two", "x", "y"] [] a= b=y"#),
        ],
    );
    for path in ["/one/z/", "/one/7/y", "/one", "/x/y", "/two/x", "/twofold/"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    assert_eq!(server.get("/one/7?q").header("location"), Some("/one/7/?q"));
    assert_eq!(server.get("/two//x/y").header("location"), Some("/two/x/y"));
    expect_no_log();
}

#[test]
fn of_two_values_with_one_name_the_inner_one_is_seen() {
    let (app, inner) = (Router::new(), Router::new());
    inner.route("/<a>", view);
    inner.route("/in/<b>", view);
    app.mount("/<a>", inner);
    let server = Server::new(app);
    check(&server, &[("/x/y", r#"["x", "y"] [] a=y b="#), ("/x/in/y", r#"["x", "in", "y"] [] a=x b=y"#)]);
}

#[test]
fn a_route_of_ones_own_wins_over_what_is_mounted() {
    let (app, inner) = (Router::new(), Router::new());
    inner.route("/<path:p>", |_| "inner");
    app.mount("/api", inner);
    app.mount("/api/deep", Leaf(|_| "deep"));
    app.mount("/", Leaf(|_| "rest"));
    app.route("/api/own", |_| "own");
    app.route("/api/<int:n>", |_| "number").methods([Method::GET]);
    let server = Server::new(app);
    check(
        &server,
        &[
            ("/api/own", "own"),
            ("/api/7", "number"),
            ("/api/x", "inner"),
            ("/api/own/x", "inner"),
            ("/api/deep", "deep"),
            ("/api/deep/x", "deep"),
            ("/", "rest"),
            ("/apis", "rest"),
            ("//", "rest"),
        ],
    );
    assert_eq!(server.ask("POST", "/api/7").text(), "inner", "a less specific route that has the method");
}

#[test]
fn a_branch_sees_the_rest_of_the_path_and_walks_it() {
    let (app, tree) = (Router::new(), Branch::new());
    tree.put_child("", Leaf(|_| "index"));
    tree.put_child("page", Leaf(view));
    app.mount("/tree/<a>", tree.clone());
    app.route("/function/", view).branch();
    app.route("/returned", move |_| tree.clone()).branch();
    app.route("/methods", view).branch().methods([Method::PUT]);
    let server = Server::new(app);
    check(
        &server,
        &[
            ("/tree/1/", "index"),
            ("/tree/1/page", r#"["tree", "1", "page"] [] a=1 b="#),
            ("/tree/1/page/x", r#"["tree", "1", "page"] ["x"] a=1 b="#),
            ("/function", r#"["function"] [] a= b="#),
            ("/function/", r#"["function"] [""] a= b="#),
            ("/function/x//y", r#"["function"] ["x", "", "y"] a= b="#),
            ("/returned/", "index"),
        ],
    );
    for path in ["/tree/1", "/tree/1/none", "/tree/", "/returned/none"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    assert_eq!(server.get("/methods/x").header("allow"), Some("OPTIONS, PUT"));
}

#[test]
fn metrics_see_the_patterns_on_the_way() {
    /// Makes its children up.
    struct Wiki;
    impl Resource for Wiki {
        fn child(&self, _: &str, _: &Request) -> Option<Rc<dyn Resource>> {
            Some(Rc::new(Wiki))
        }
        fn render_get(&self, _: Request) -> Render {
            "page".into()
        }
    }
    let (root, app, inner) = (Branch::new(), Router::new(), Router::new());
    inner.route("/", |_| "");
    inner.route("/<b>", |_| "").methods([Method::GET]);
    inner.route("/slash/<int:n>/", |_| "");
    app.mount("/one/<a>/", inner.clone());
    app.mount("/two", inner.clone());
    app.mount("/", inner);
    app.mount("/wiki", Wiki);
    root.put_child("api", app);
    let server = Server::new(root);
    for round in 0..3 {
        for path in [
            "/one/1/",
            "/one/2/x",
            "/one/2/slash/3",
            "/one/2/x/y",
            "/two/x",
            "/",
            "/x",
            "/wiki",
            "/wiki/a",
            "/wiki/b/c",
            "/one/2",
        ] {
            server.get(&format!("/api{path}"));
        }
        assert_eq!(server.ask("POST", &format!("/api/one/{round}/x")).status, 405);
    }
    let routes = [
        "/api/",
        "/api/<b>",
        "/api/one/<a>/",
        "/api/one/<a>/<b>",
        "/api/one/<a>/slash/<int:n>/",
        "/api/two/<b>",
        "/api/wiki",
        "/api/wiki/*",
        "unmatched",
    ];
    assert_eq!(server.routes(), routes);
    let count = |route, code| server.figure("http_server_requests_total", &[("route", route), ("code", code)]);
    assert_eq!(count("/api/one/<a>/<b>", "200"), 3.0);
    assert_eq!(count("/api/one/<a>/<b>", "405"), 3.0);
    assert_eq!(count("/api/one/<a>/slash/<int:n>/", "308"), 3.0);
    assert_eq!(count("/api/one/<a>/", "308"), 3.0);
    assert_eq!(count("/api/two/<b>", "200"), 3.0);
    assert_eq!(count("unmatched", "404"), 3.0);
}

#[test]
fn one_router_in_two_places_is_counted_by_place() {
    let (root, app) = (Branch::new(), Router::new());
    app.route("/x", |_| "");
    root.put_child("one", app.clone());
    root.put_child("two", app);
    let server = Server::new(root);
    for path in ["/one/x", "/two/x", "/one/x", "/two/x"] {
        server.get(path);
    }
    let count = |route| server.figure("http_server_requests_total", &[("route", route)]);
    assert_eq!((count("/one/x"), count("/two/x")), (2.0, 2.0));
}

// ---- URLs -------------------------------------------------------------------------------------------

fn app_with_names() -> Router {
    let (app, inner) = (Router::new(), Router::new());
    app.route("/", |_| "").named("home");
    app.route("/user/<name>", |_| "").named("user");
    app.route("/v<int:major>.<int:minor>/<float:f>/<uuid:u>/", |_| "").named("kinds");
    app.route("/files/<path:file>", |_| "").named("file");
    app.route("/split/<a>-<b>", |_| "").named("split");
    app.route("/tree", |_| "").branch().named("tree");
    app.route("/ä b/", |_| "").named("odd");
    inner.route("/", |_| "").named("index");
    inner.route("/<int:page>", |_| "").named("page");
    inner.route("/user", |_| "").named("user");
    app.mount("/<tenant>/inner/", inner);
    app
}

#[test]
fn a_url_is_made_from_a_name_and_values() {
    let app = app_with_names();
    let uuid = "123e4567-e89b-12d3-a456-426614174000";
    let url = |name, values: &[(&str, &dyn std::fmt::Display)]| app.url_for(name, values).unwrap();
    assert_eq!(url("home", &[]), "/");
    assert_eq!(url("user", &[("name", &"ada")]), "/user/ada");
    assert_eq!(url("user", &[("name", &"a/b?c#d%e f\\ä;=@:")]), "/user/a%2Fb%3Fc%23d%25e%20f%5C%C3%A4;=@:");
    let kinds = url("kinds", &[("major", &1), ("minor", &20), ("f", &0.5), ("u", &uuid)]);
    assert_eq!(kinds, format!("/v1.20/0.5/{uuid}/"));
    assert_eq!(url("file", &[("file", &"a b/c//d/")]), "/files/a%20b/c//d/");
    assert_eq!(url("split", &[("a", &"1"), ("b", &"2-3")]), "/split/1-2-3");
    assert_eq!(url("tree", &[]), "/tree");
    assert_eq!(url("odd", &[]), "/%C3%A4%20b/");
    assert_eq!(url("index", &[("tenant", &"t")]), "/t/inner/");
    assert_eq!(url("page", &[("tenant", &"t"), ("page", &3)]), "/t/inner/3");
    assert_eq!(url("home", &[("q", &"a b&c=d/"), ("ä", &1), ("q", &2)]), "/?q=a%20b%26c%3Dd%2F&%C3%A4=1&q=2");
    assert_eq!(url("user", &[("page", &2), ("name", &"n")]), "/user/n?page=2", "the outer one of two names");
}

#[test]
fn a_url_keeps_to_the_restrictions_of_its_values() {
    let app = Router::new();
    app.route("/<int(fixed_digits=4):year>/<int(max=12):month>", |_| "").named("month");
    app.route("/<any(old,new):age>", |_| "").named("age");
    let month = |year: &dyn std::fmt::Display, month| app.url_for("month", &[("year", year), ("month", &month)]);
    assert_eq!(month(&7, 12), Ok("/0007/12".into()), "with the digits that are missing");
    assert!(matches!(month(&10_000, 1), Err(UrlError::WrongValue { name, .. }) if name == "year"));
    assert!(matches!(month(&-7, 1), Err(UrlError::WrongValue { name, .. }) if name == "year"));
    assert!(matches!(month(&7, 13), Err(UrlError::WrongValue { name, .. }) if name == "month"));
    assert_eq!(app.url_for("age", &[("age", &"old")]), Ok("/old".into()));
    assert!(matches!(app.url_for("age", &[("age", &"young")]), Err(UrlError::WrongValue { .. })));
}

#[test]
fn a_url_that_would_not_lead_back_is_an_error() {
    let app = app_with_names();
    let error = |name, values: &[(&str, &dyn std::fmt::Display)]| app.url_for(name, values).unwrap_err();
    assert!(matches!(error("none", &[]), UrlError::UnknownRoute { .. }));
    assert!(matches!(error("user", &[]), UrlError::MissingValue { .. }));
    assert!(matches!(error("page", &[("page", &1)]), UrlError::MissingValue { name, .. } if name == "tenant"));
    for (name, value) in [("user", ""), ("user", "."), ("user", "..")] {
        assert!(matches!(error(name, &[("name", &value)]), UrlError::WrongValue { .. }), "{name} {value}");
    }
    for value in ["", "/etc", "..", "../x", "a/../b", "a/."] {
        assert!(matches!(error("file", &[("file", &value)]), UrlError::WrongValue { .. }), "{value}");
    }
    let page = |value: &str| error("page", &[("tenant", &"t"), ("page", &value)]);
    for value in ["-1", "x", "1/2", "", "1.0", "٣"] {
        assert!(matches!(page(value), UrlError::WrongValue { name, .. } if name == "page"), "{value}");
    }
    assert!(matches!(error("split", &[("a", &"1-2"), ("b", &"3")]), UrlError::WrongValue { name, .. } if name == "a"));
    assert_eq!(page("x").to_string(), r#""x" cannot be the "page" in the URL of "page""#);
    assert_eq!(error("user", &[]).to_string(), r#"the URL of "user" lacks its "name""#);
    assert_eq!(error("none", &[]).to_string(), r#"no route is called "none""#);
}

#[test]
#[should_panic(expected = "are both called \"x\"")]
fn a_name_is_given_once() {
    let app = Router::new();
    app.route("/a", |_| "").named("x");
    app.route("/b", |_| "").named("x");
}

#[test]
fn a_router_that_is_mounted_below_itself_still_finds_and_answers() {
    let app = Router::new();
    app.route("/x", |_| "x").named("x");
    app.mount("/again", app.clone());
    assert_eq!(app.url_for("x", &[]).unwrap(), "/x");
    assert!(app.url_for("y", &[]).is_err());
    let server = Server::new(app);
    check(&server, &[("/x", "x"), ("/again/again/again/x", "x")]);
    assert_eq!(server.get(&format!("{}/x", "/again".repeat(1000))).status, 500, "that is a circle");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_url_leads_back_to_its_route_with_the_same_values(text in ".{1,8}", other in ".{0,8}", path in ".{1,12}") {
        let app = Router::new();
        let [text, other, path] = [text, other, path].map(Rc::new);
        let (t, o, p) = (text.clone(), other.clone(), path.clone());
        app.route("/<x>/a<y>b<z>c/<path:p>", move |request: Request| {
            let [x, y, z, p_] = ["x", "y", "z", "p"].map(|name| request.param::<String>(name).unwrap());
            assert_eq!((x, y, z, p_), (t.to_string(), o.to_string(), t.to_string(), p.to_string()));
            "same"
        }).named("it");
        if let Ok(url) = app.url_for("it", &[("x", &text), ("y", &other), ("z", &text), ("p", &path)]) {
            let server = Server::new(app);
            let reply = server.get(&url);
            prop_assert_eq!(reply.brief(), (200, "same"), "{}", url);
        }
    }
}
