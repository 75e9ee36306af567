//! Routes by pattern: what matches, which of several wins, what a handler gets and may return, and what metrics call it.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};

use dosimeter::prometheus::Registry;
use dosimeter::web::{Branch, NOT_DONE_YET, Request, Resource, Response, Router, Site};
use dosimeter::{Deferred, MetricsResource, Result};
use http::{Method, StatusCode};
use support::{Leaf, Server, check, check_not_found, expect_log, expect_no_log, routes};

// ---- matching ---------------------------------------------------------------------------------------

#[test]
fn a_literal_pattern_matches_its_path_and_no_other() {
    let server = routes(&["/", "/a", "/b/", "/a/b"]);
    check(&server, &[("/", "/"), ("/?q", "/"), ("/a", "/a"), ("/%61", "/a"), ("/b/", "/b/"), ("/a/b", "/a/b")]);
    check_not_found(&server, &["/a/", "/b//c", "/A", "/a/b/c", "/c", "/a%2Fb", "/a/."]);
    expect_no_log();
}

#[test]
fn a_string_segment_takes_one_segment_that_is_not_empty() {
    let server = routes(&["/user/<string:name>", "/tag/<name>/x"]);
    check(
        &server,
        &[("/user/a", "/user/<string:name>"), ("/user/%20", "/user/<string:name>"), ("/tag/1/x", "/tag/<name>/x")],
    );
    check_not_found(&server, &["/user/", "/user", "/user/a/", "/user/a/b", "/tag//x"]);
}

#[test]
fn an_int_segment_takes_digits_only() {
    let server = routes(&["/<int:id>"]);
    check(&server, &[("/0", "/<int:id>"), ("/007", "/<int:id>"), ("/99999999999999999999999999", "/<int:id>")]);
    check_not_found(&server, &["/", "/a", "/-1", "/+1", "/1.0", "/1_0", "/0x1", "/1%20", "/%d9%a1", "/1/"]);
}

#[test]
fn an_encoded_slash_is_a_part_of_its_segment() {
    let app = Router::new();
    app.route("/file/<name>", |request: Request| request.param::<String>("name").unwrap());
    assert_eq!(Server::new(app).get("/file/a%2Fb").brief(), (200, "a/b"));
}

#[test]
fn the_more_specific_pattern_wins_whatever_the_order() {
    let patterns = ["/<x>", "/<int:x>", "/1", "/<x>/b", "/a/<x>", "/a/b", "/<int:x>/<y>", "/<x>/<int:y>"];
    let cases = [
        ("/1", "/1"),
        ("/2", "/<int:x>"),
        ("/two", "/<x>"),
        ("/a/b", "/a/b"),
        ("/a/c", "/a/<x>"),
        ("/c/b", "/<x>/b"),
        ("/1/b", "/<int:x>/<y>"),
        ("/c/1", "/<x>/<int:y>"),
    ];
    check(&routes(&patterns), &cases);
    let mut backwards = patterns;
    backwards.reverse();
    check(&routes(&backwards), &cases);
}

#[test]
fn a_wrong_pattern_ends_the_program_with_a_text_that_helps() {
    for (pattern, help) in [
        ("", "a pattern starts with a slash"),
        ("a", "a pattern starts with a slash"),
        ("//", "a doubled slash is never matched"),
        ("/a//b", "a doubled slash is never matched"),
        ("/<int:id", "has no closing `>`"),
        ("/<int:>", "one is made of letters, digits and `_`"),
        ("/<>", "one is made of letters, digits and `_`"),
        ("/<a b>", "one is made of letters, digits and `_`"),
        ("/<path:a b>", "one is made of letters, digits and `_`"),
        ("/<a><b>", "where one value ends"),
        ("/x<a><b>y", "where one value ends"),
        ("/a>", "has a `>` without its `<`"),
        ("/a>b<c>", "has a `>` without its `<`"),
        ("/<double:x>", "there are `string`, `int`, `float`, `uuid`, `any` and `path`"),
        ("/<double(min=1):x>", "\"double\" is no kind of value"),
        ("/<int(min=1:x>", "a restriction has no closing `)`"),
        ("/<int():x>", "is no restriction such as `min=1`"),
        ("/<int(min):x>", "is no restriction such as `min=1`"),
        ("/<int(min=a):x>", "\"a\" is no number"),
        ("/<int(min=-1):x>", "\"-1\" is no number"),
        ("/<int(length=1):x>", "\"length\" is no restriction of `int`"),
        ("/<int(min=1,min=2):x>", "there twice"),
        ("/<uuid(min=1):x>", "\"min\" is no restriction of `uuid`"),
        ("/<int(min=3, max=2):x>", "no value can be within"),
        ("/<int(fixed_digits=1, min=10):x>", "no value can be within"),
        ("/<int(fixed_digits=0):x>", "no value can be within"),
        ("/<float(min=2, max=1.5):x>", "no value can be within"),
        ("/<float(max=nan):x>", "no value can be within"),
        ("/<string(length=0):x>", "no value can be within"),
        ("/<string(minlength=3, maxlength=2):x>", "no value can be within"),
        ("/<string(length=3, maxlength=5):x>", "says all about a length"),
        ("/<any:x>", "`any` is one of some texts"),
        ("/<any():x>", "`any` is one of some texts"),
        ("/<any(a,,b):x>", "`any` is one of some texts"),
        ("/<any(a,b,a):x>", "`any` is one of some texts"),
        ("/<path:x>/y", "a `path` stands alone, and at the end"),
        ("/x<path:y>", "a `path` stands alone, and at the end"),
        ("/<a>/<int:a>", "two values are called"),
        ("/<a>-<a>", "two values are called"),
        ("/<a>/<path:a>", "two values are called"),
    ] {
        let text = panic_text(|| drop(Router::new().route(pattern, |_| "x")));
        assert!(text.contains(&format!("route {pattern:?}")) && text.contains(help), "{pattern}: {text}");
        assert!(text.contains(file!()), "{text}");
    }
}

/// What `wrong` panics with.
#[track_caller]
fn panic_text(wrong: impl FnOnce()) -> String {
    let panicked = panic::catch_unwind(AssertUnwindSafe(wrong)).expect_err("it was taken");
    panicked.downcast_ref::<String>().cloned().expect("a text")
}

// ---- parameters -------------------------------------------------------------------------------------

#[test]
fn parameters_are_decoded_and_parsed() {
    let app = Router::new();
    app.route("/<int:id>/<name>", |request: Request| {
        let id: Option<u8> = request.param("id");
        let name: String = request.param("name").unwrap();
        assert_eq!(request.param::<String>("other"), None);
        format!("{id:?} {name}")
    });
    let server = Server::new(app);
    check(&server, &[("/7/a%20b", "Some(7) a b"), ("/007/%C3%A4", "Some(7) ä"), ("/256/x", "None x")]);
}

#[test]
fn parameters_of_one_request_are_not_those_of_the_next() {
    let app = Router::new();
    app.route("/<name>", |request: Request| format!("{:?}", request.param::<String>("name")));
    app.route("/", |request: Request| format!("{:?}", request.param::<String>("name")));
    let server = Server::new(app);
    let mut client = server.connect();
    assert_eq!(client.get("/a").text(), r#"Some("a")"#);
    assert_eq!(client.get("/").text(), "None");
}

// ---- methods ----------------------------------------------------------------------------------------

#[test]
fn a_route_answers_every_method_unless_it_is_restricted() {
    let app = Router::new();
    app.route("/all", |request: Request| request.method().to_string());
    app.route("/some", |request: Request| request.method().to_string()).methods([Method::GET, Method::PUT]);
    let server = Server::new(app);
    for method in ["GET", "POST", "BREW", "OPTIONS"] {
        assert_eq!(server.ask(method, "/all").brief(), (200, method));
    }
    assert_eq!(server.ask("PUT", "/some").brief(), (200, "PUT"));
    assert_eq!(server.ask("HEAD", "/some").status, 200, "GET brings HEAD with it");
    let refused = server.ask("POST", "/some");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD, OPTIONS, PUT")));
}

#[test]
fn one_pattern_may_have_a_handler_for_each_method() {
    let app = Router::new();
    app.route("/x", |_| "got").methods([Method::GET]);
    app.route("/x", |_| "posted").methods([Method::POST]);
    app.route("/<any>", |_| "any").methods([Method::DELETE]);
    let server = Server::new(app);
    assert_eq!(server.ask("GET", "/x").text(), "got");
    assert_eq!(server.ask("POST", "/x").text(), "posted");
    assert_eq!(server.ask("DELETE", "/x").text(), "any", "a less specific route with the method");
    assert_eq!(server.ask("PUT", "/x").header("allow"), Some("DELETE, GET, HEAD, OPTIONS, POST"));
}

// ---- handlers ---------------------------------------------------------------------------------------

/// What Klein's users do first. (There `HEAD` is refused.)
#[test]
fn a_route_that_counts_and_answers_with_metrics_is_in_its_own_page() {
    let registry = Registry::new();
    let opts = dosimeter::prometheus::Opts::new("inbound_requests_total", "requests by endpoint");
    let inbound = dosimeter::prometheus::IntCounterVec::new(opts, &["endpoint", "method"]).unwrap();
    registry.register(Box::new(inbound.clone())).unwrap();
    let app = Router::new();
    app.route("/metrics", move |request: Request| {
        inbound.with_label_values(&["/metrics", request.method().as_str()]).inc();
        MetricsResource::with_registry(registry.clone())
    });
    let server = Server::new(app);
    let line = "inbound_requests_total{endpoint=\"/metrics\",method=\"GET\"}";
    for count in 1..=3 {
        assert!(server.get("/metrics").text().contains(&format!("{line} {count}\n")), "scrape {count}");
    }
    for (method, path, status) in
        [("GET", "/metrics/", 404), ("HEAD", "/metrics", 200), ("POST", "/metrics", 405), ("OPTIONS", "/metrics", 204)]
    {
        assert_eq!(server.ask(method, path).status, status, "{method} {path}");
    }
    expect_no_log();
}

#[test]
fn a_handler_may_return_everything_that_is_an_answer() {
    let app = Router::new();
    app.route("/text", |_| "text");
    app.route("/pair", |_| (StatusCode::CREATED, "made"));
    app.route("/result", |_| -> Result<&str> { Ok("fine") });
    app.route("/failure", |_| -> Result<&str> { Err("not fine".into()) });
    app.route("/deferred", |_| Deferred::succeed("fired"));
    app.route("/resource", |_| Leaf(|_| "leaf"));
    app.route("/fixed", Leaf(|_| "fixed"));
    app.route("/metrics", MetricsResource::with_registry(Registry::new()));
    app.route("/by_hand", |mut request: Request| {
        request.write("by hand");
        request.finish();
        NOT_DONE_YET
    });
    fn function(request: Request) -> Response {
        Response::text(request.path().to_owned())
    }
    app.route("/function", function);
    let server = Server::new(app);
    for (path, status, body) in [
        ("/text", 200, "text"),
        ("/pair", 201, "made"),
        ("/result", 200, "fine"),
        ("/deferred", 200, "fired"),
        ("/resource", 200, "leaf"),
        ("/fixed", 200, "fixed"),
        ("/metrics", 200, ""),
        ("/by_hand", 200, "by hand"),
        ("/function", 200, "/function"),
    ] {
        assert_eq!(server.get(path).brief(), (status, body), "{path}");
    }
    expect_no_log();
    assert_eq!(server.get("/failure").status, 500);
    expect_log(&["not fine"]);
    check_not_found(&server, &["/metrics/", "/fixed/x"]);
    assert_eq!(server.ask("POST", "/metrics").status, 405);
    assert_eq!(server.ask("HEAD", "/metrics").status, 200);
}

#[test]
fn a_handler_that_panics_costs_its_request_only() {
    let app = Router::new();
    app.route("/panic", |_| -> &str { panic!("in a handler") });
    app.route("/fine", |_| "fine");
    let server = Server::new(app);
    let mut client = server.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/panic").status, 500);
        expect_log(&["GET /panic", "in a handler"]);
        assert_eq!(client.get("/fine").brief(), (200, "fine"));
    }
}

#[test]
fn a_router_below_a_branch_matches_what_is_left_of_the_path() {
    let (root, app) = (Branch::new(), Router::new());
    app.route("/", |_| "index");
    app.route("/user/<int:id>", |request: Request| {
        let (behind, ahead): (Vec<_>, Vec<_>) = (request.prepath().collect(), request.postpath().collect());
        format!("{behind:?} {ahead:?}")
    });
    root.put_child("api", app);
    let server = Server::new(root);
    check(&server, &[("/api/", "index"), ("/api/user/7", r#"["api", "user", "7"] []"#)]);
    check_not_found(&server, &["/user/7", "/api/user/x"]);
    assert_eq!(server.get("/api").header("location"), Some("/api/"));
}

#[test]
fn a_handler_may_add_routes() {
    let app = Router::new();
    let adding = app.clone();
    app.route("/grow", move |_| {
        adding.route("/grown", |_| "new");
        "grown"
    });
    let server = Server::new(app);
    check_not_found(&server, &["/grown"]);
    check(&server, &[("/grow", "grown"), ("/grown", "new")]);
}

// ---- what metrics call it ---------------------------------------------------------------------------

#[test]
fn requests_are_counted_by_pattern_and_never_by_path() {
    let (root, app) = (Branch::new(), Router::new());
    app.route("/", |_| "index");
    app.route("/user/<int:id>", |_| "user").methods([Method::GET]);
    root.put_child("", Leaf(|_| "home"));
    root.put_child("api", app);
    root.put_child("page", Leaf(|_| "page"));
    let server = Server::new(root);
    for path in
        ["/", "/api/", "/api/user/1", "/api/user/2", "/api/none", "/page", "/page/below", "/none", "/api/non", "/%ff"]
    {
        server.get(path);
    }
    assert_eq!(server.routes(), ["/", "/api/", "/api/user/<int:id>", "/page", "unmatched"]);
    let count = |route, code| server.figure("http_server_requests_total", &[("route", route), ("code", code)]);
    assert_eq!(count("/api/user/<int:id>", "200"), 2.0);
    assert_eq!(count("/page", "200"), 2.0);
    assert_eq!(count("unmatched", "404"), 4.0);
    let durations = |route| server.figure("http_server_request_duration_seconds", &[("route", route)]);
    assert_eq!((durations("/api/user/<int:id>"), durations("unmatched")), (2.0, 4.0));
}

#[test]
fn a_thousand_paths_that_nobody_has_add_no_series() {
    let app = Router::new();
    app.route("/", |_| "index");
    app.route("/user/<name>", |_| "user");
    let server = Server::new(app);
    let mut client = server.connect();
    client.get("/user/a");
    client.get("/none");
    client.ask("BREW", "/none");
    let families = server.registry.gather().iter().map(|family| family.get_metric().len()).sum::<usize>();
    let mut random = 1u64;
    for _ in 0..1000 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let path = format!("/{:x}/{:x}", random >> 40, random >> 20 & 0xfff);
        client.get(&path);
        client.get(&format!("/user{path}"));
        client.get(&format!("/user/{}", random >> 30));
        client.ask(&format!("X{}", random >> 50), "/none");
    }
    let after = server.registry.gather().iter().map(|family| family.get_metric().len()).sum::<usize>();
    assert_eq!(after, families);
    assert_eq!(server.routes(), ["/user/<name>", "unmatched"]);
    assert_eq!(server.label_values("http_server_requests_total", "method"), ["GET", "other"]);
}

#[test]
fn children_that_a_resource_makes_are_counted_as_one_route() {
    /// Is its own child for every name.
    struct Endless;
    impl Resource for Endless {
        fn child(&self, _: &str, _: &Request) -> Option<std::rc::Rc<dyn Resource>> {
            Some(std::rc::Rc::new(Endless))
        }
        fn render_get(&self, _: Request) -> dosimeter::web::Render {
            "here".into()
        }
    }
    let root = Branch::new();
    root.put_child("wiki", Endless);
    root.put_child("real", Leaf(|_| "real"));
    let server = Server::new(root);
    let mut client = server.connect();
    for depth in 1..50 {
        assert_eq!(client.get(&("/wiki".to_owned() + &"/x".repeat(depth))).status, 200);
    }
    assert_eq!(client.get(&("/wiki".to_owned() + &"/y".repeat(2000))).status, 200);
    client.get("/real");
    assert_eq!(server.routes(), ["/real", "/wiki/*"]);
}

#[test]
fn a_tree_that_bites_its_tail_does_not_use_up_the_routes() {
    let root = Branch::new();
    root.put_child("again", root.clone());
    root.put_child("", Leaf(|_| "home"));
    root.put_child("real", Leaf(|_| "real"));
    let server = Server::new(root);
    let mut client = server.connect();
    client.get(&("/again".repeat(1200) + "/"));
    client.get("/real");
    let routes = server.routes();
    assert!(routes.contains(&"/real".to_owned()), "{} routes", routes.len());
}

#[test]
fn the_route_of_one_request_is_not_that_of_the_next() {
    /// Has a router called `api`, and makes every other child.
    struct Root(Router);
    impl Resource for Root {
        fn child(&self, name: &str, _: &Request) -> Option<std::rc::Rc<dyn Resource>> {
            Some(match name {
                "api" => std::rc::Rc::new(self.0.clone()),
                _ => std::rc::Rc::new(Leaf(|_| "made")),
            })
        }
    }
    let app = Router::new();
    app.route("/x", |_| "x");
    let server = Server::new(Root(app));
    let mut client = server.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/api/x").text(), "x");
        assert_eq!(client.get("/other").text(), "made");
    }
    assert_eq!(server.routes(), ["/*", "/*/x"]);
}

#[test]
fn no_route_is_called_nothing() {
    // Prometheus takes an empty label for no label.
    let server = Server::new(Leaf(|_| "root"));
    server.get("/");
    server.get("/a/b");
    assert!(!server.routes().contains(&String::new()), "{:?}", server.routes());
    let app = Router::new();
    app.route("/x", |_| "x").methods([Method::GET]);
    let server = Server::new(app);
    server.ask("POST", "/x");
    assert_eq!(server.routes(), ["/x"]);
}

#[test]
fn different_ways_to_one_route_are_one_series() {
    // Two series with the same labels are no valid exposition.
    let (root, a) = (Branch::new(), Branch::new());
    root.put_child("", Leaf(|_| "index"));
    root.put_child("a", a.clone());
    root.put_child("a/b", Leaf(|_| "encoded"));
    root.put_child("*", Leaf(|_| "star"));
    a.put_child("b", Leaf(|_| "nested"));
    let server = Server::new(root);
    let app = Router::new();
    app.route("/a/b", |_| "routed");
    app.route("/", |_| "routed");
    let other = other_site(&server, app);
    let leaf = other_site(&server, Leaf(|_| "leaf"));
    assert_eq!(server.get("/a/b").text(), "nested");
    assert_eq!(server.get("/a%2Fb").text(), "encoded");
    assert_eq!(other.get("/a/b").text(), "routed");
    assert_eq!(server.get("/").text(), "index");
    assert_eq!(other.get("/").text(), "routed");
    assert_eq!(leaf.get("/").text(), "leaf");
    server.ask("OPTIONS", "/");
    server.ask("OPTIONS", "*");
    assert_eq!(server.figure("http_server_requests_total", &[("route", "/a/b")]), 3.0);
    let mut page = Vec::new();
    dosimeter::exposition::text::encode(&server.registry.gather(), &mut page);
    let page = String::from_utf8(page).unwrap();
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let mut series: Vec<&str> = lines.filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series).collect();
    series.sort();
    let again: Vec<_> = series.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    assert_eq!(again, [""; 0], "told twice");
}

/// A further site on the reactor of `server`.
fn other_site(server: &Server, root: impl Resource) -> Server {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let port = server.reactor.listen_tcp(loopback, Site::new(root)).unwrap();
    Server { reactor: server.reactor.clone(), registry: server.registry.clone(), addr: port.local_addr() }
}
