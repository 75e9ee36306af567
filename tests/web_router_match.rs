//! What patterns match: kinds of values, which pattern of several wins, slashes and redirects, and conflicts.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;

use dosimeter::web::{Branch, Request, Router};
use http::Method;
use proptest::prelude::*;
use support::{Leaf, Reply, Server, check, check_not_found, expect_log, expect_no_log, routes};

/// Where `reply` leads.
#[track_caller]
fn redirected(reply: &Reply) -> &str {
    assert_eq!(reply.brief(), (308, ""));
    reply.header("location").expect("a redirect says where to")
}

// ---- values -----------------------------------------------------------------------------------------

#[test]
fn a_float_has_digits_on_both_sides_of_its_point() {
    let server = routes(&["/<float:x>"]);
    for path in ["/0.0", "/3.14", "/007.50"] {
        check(&server, &[(path, "/<float:x>")]);
    }
    check_not_found(&server, &["/1", "/1.", "/.5", "/1.2.3", "/-1.0", "/1e5", "/1.0e5", "/inf", "/NaN", "/1,5"]);
}

#[test]
fn a_uuid_has_its_hyphens_and_letters_of_either_case() {
    let server = routes(&["/<uuid:id>"]);
    for path in ["/123e4567-e89b-12d3-a456-426614174000", "/123E4567-E89B-12D3-A456-42661417400F"] {
        check(&server, &[(path, "/<uuid:id>")]);
    }
    check_not_found(
        &server,
        &[
            "/123e4567e89b12d3a456426614174000",
            "/123e4567-e89b-12d3-a456-42661417400",
            "/123e4567-e89b-12d3-a456-4266141740000",
            "/123e4567-e89b-12d3-a456-42661417400g",
            "/-23e4567-e89b-12d3-a456-426614174000",
            "/%7B123e4567-e89b-12d3-a456-426614174000%7D",
            "/123e4567-e89b-12d3-a456-42661417%C3%A40",
        ],
    );
}

#[test]
fn a_path_takes_what_is_left_and_at_least_one_character() {
    let app = Router::new();
    app.route("/files/<path:name>", |request: Request| {
        let left: Vec<_> = request.postpath().map(str::to_owned).collect();
        format!("{} {left:?}", request.param::<String>("name").unwrap())
    });
    let server = Server::new(app);
    check(
        &server,
        &[
            ("/files/a", "a []"),
            ("/files/a/b.txt", "a/b.txt []"),
            ("/files/a//b/", "a//b/ []"),
            ("/files/a%2Fb/%C3%A4", "a/b/ä []"),
            ("/files/../x", "../x []"),
        ],
    );
    check_not_found(&server, &["/files", "/files/", "/file/a"]);
    assert_eq!(redirected(&server.get("/files//etc/passwd")), "/files/etc/passwd");
}

#[test]
fn a_segment_may_hold_several_values_and_text() {
    let app = Router::new();
    let show = |names: &'static [&'static str]| {
        move |request: Request| {
            let values: Vec<String> = names.iter().map(|name| request.param(name).unwrap()).collect();
            values.join("|")
        }
    };
    app.route("/range/<int:a>-<int:b>", show(&["a", "b"]));
    app.route("/v<int:major>.<int:minor>", show(&["major", "minor"]));
    app.route("/img/<name>.png", show(&["name"]));
    app.route("/pair/<uuid:a>-<uuid:b>", show(&["a", "b"]));
    app.route("/sum/<float:a>.<int:b>", show(&["a", "b"]));
    app.route("/at/<user>@<host>/<int:port>", show(&["user", "host", "port"]));
    let server = Server::new(app);
    let uuid = "123e4567-e89b-12d3-a456-426614174000";
    check(
        &server,
        &[
            ("/range/1-22", "1|22"),
            ("/v1.0", "1|0"),
            ("/img/a.png", "a"),
            ("/img/a.png.png", "a.png"),
            ("/img/%C3%A4.png", "ä"),
            (&format!("/pair/{uuid}-{uuid}"), &format!("{uuid}|{uuid}")),
            ("/sum/1.5.2", "1.5|2"),
            ("/at/me@here@there/8", "me|here@there|8"),
            ("/at/@@@/8", "@|@|8"),
        ],
    );
    check_not_found(
        &server,
        &["/range/1-", "/range/-1", "/range/1-2-3", "/range/1", "/v1", "/v.1", "/v1.", "/img/.png", "/img/png"],
    );
    check_not_found(&server, &["/at/@x/8", "/at/x@/8", "/sum/1.5", "/v1.0.0", "/img/a.PNG", "/img/%C3%A4"]);
}

#[test]
fn a_segment_is_read_once_however_long_it_is() {
    // Were every way to divide it tried, this would not end.
    let server = routes(&["/<a>-<b>-<c>-<d>-<e>-<f>-<int:g>x", "/<float:a>1<float:b>1<float:c>x"]);
    check_not_found(&server, &[&format!("/{}", "-".repeat(7000)), &format!("/{}", "1".repeat(7000))]);
}

#[test]
fn an_int_may_be_restricted_to_a_range_and_a_number_of_digits() {
    let server = routes(&["/year/<int(fixed_digits=4):y>", "/month/<int(min=1, max=12):m>", "/big/<int(min=10):b>"]);
    check(
        &server,
        &[
            ("/year/0007", "/year/<int(fixed_digits=4):y>"),
            ("/year/9999", "/year/<int(fixed_digits=4):y>"),
            ("/month/1", "/month/<int(min=1, max=12):m>"),
            ("/month/012", "/month/<int(min=1, max=12):m>"),
            ("/big/10", "/big/<int(min=10):b>"),
            ("/big/99999999999999999999999999", "/big/<int(min=10):b>"),
        ],
    );
    let none =
        ["/year/7", "/year/00007", "/year/-007", "/month/0", "/month/13", "/month/99999999999999999999999", "/big/9"];
    check_not_found(&server, &none);
}

#[test]
fn a_float_may_be_restricted_to_a_range() {
    let server = routes(&["/<float(min=0.5, max=2):f>"]);
    for path in ["/0.5", "/2.0", "/1.999999"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    check_not_found(&server, &["/0.4", "/2.01", "/1", "/-1.0", "/99999999999999999999.0"]);
}

#[test]
fn a_string_may_be_restricted_in_its_length_which_counts_characters() {
    let server =
        routes(&["/l/<string(length=2):l>", "/r/<string(minlength=2, maxlength=3):r>", "/m/<string(minlength=2):m>"]);
    for path in ["/l/de", "/l/%C3%A4%C3%B6", "/r/ab", "/r/%C3%A4%C3%B6%C3%BC", "/m/ab", "/m/abcdefgh"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    check_not_found(&server, &["/l/d", "/l/deu", "/l/%C3%A4", "/r/a", "/r/abcd", "/m/a"]);
}

#[test]
fn any_is_one_of_its_texts() {
    let server = routes(&["/<any(about, help,a:b):page>", "/x-<any(a,a-b):x>-<rest>", "/<string:other>"]);
    check(
        &server,
        &[
            ("/about", "/<any(about, help,a:b):page>"),
            ("/help", "/<any(about, help,a:b):page>"),
            ("/a:b", "/<any(about, help,a:b):page>"),
            ("/About", "/<string:other>"),
            ("/abou", "/<string:other>"),
            ("/x-a-b-c", "/x-<any(a,a-b):x>-<rest>"),
            ("/x-a-b", "/x-<any(a,a-b):x>-<rest>"),
            ("/x-b-a", "/<string:other>"),
        ],
    );
}

// ---- which of several wins --------------------------------------------------------------------------

#[test]
fn kinds_of_values_are_asked_from_narrow_to_wide() {
    let patterns =
        ["/<path:p>", "/<s>", "/<uuid:u>", "/<float:f>", "/<int:i>", "/<s>.x", "/v<s>", "/vv<s>", "/v1", "/<s>/a"];
    let cases = [
        ("/7", "/<int:i>"),
        ("/7.0", "/<float:f>"),
        ("/123e4567-e89b-12d3-a456-426614174000", "/<uuid:u>"),
        ("/seven", "/<s>"),
        ("/7.x", "/<s>.x"),
        ("/v", "/<s>"),
        ("/v2", "/v<s>"),
        ("/vv2", "/vv<s>"),
        ("/v1", "/v1"),
        ("/v1/a", "/<s>/a"),
        ("/v1/b", "/<path:p>"),
        ("/7/", "/<path:p>"),
    ];
    check(&routes(&patterns), &cases);
    let mut backwards = patterns;
    backwards.reverse();
    check(&routes(&backwards), &cases);
}

#[test]
fn of_one_kind_the_narrower_value_is_asked_first() {
    let patterns = [
        "/<s>",
        "/<string(minlength=3):s>",
        "/<string(minlength=3, maxlength=9):s>",
        "/<string(length=5):s>",
        "/<int:i>",
        "/<int(min=100):i>",
        "/<int(max=1000):i>",
        "/<int(min=5, max=10):i>",
        "/<int(fixed_digits=2):i>",
        "/<float:f>",
        "/<float(max=10):f>",
        "/<float(min=1, max=2):f>",
        "/<any(7,x,abc):a>",
        "/<any(7,abc):a>",
    ];
    let cases = [
        ("/7", "/<any(7,abc):a>"),
        ("/x", "/<any(7,x,abc):a>"),
        ("/10", "/<int(fixed_digits=2):i>"),
        ("/6", "/<int(min=5, max=10):i>"),
        ("/4", "/<int(max=1000):i>"),
        ("/500", "/<int(max=1000):i>"),
        ("/5000", "/<int(min=100):i>"),
        ("/1.5", "/<float(min=1, max=2):f>"),
        ("/2.5", "/<float(max=10):f>"),
        ("/20.5", "/<float:f>"),
        ("/hello", "/<string(length=5):s>"),
        ("/hell", "/<string(minlength=3, maxlength=9):s>"),
        ("/hello%20hello", "/<string(minlength=3):s>"),
        ("/he", "/<s>"),
    ];
    check(&routes(&patterns), &cases);
    let mut backwards = patterns;
    backwards.reverse();
    check(&routes(&backwards), &cases);
}

#[test]
fn head_and_options_have_handlers_of_their_own_if_a_route_has_them() {
    let app = Router::new();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let noting = |what: &'static str| {
        let seen = seen.clone();
        move |_: Request| seen.borrow_mut().push(what)
    };
    app.route("/x", noting("get")).methods([Method::GET]);
    app.route("/x", noting("head")).methods([Method::HEAD]);
    app.route("/x", noting("options")).methods([Method::OPTIONS]);
    app.route("/y", noting("get y")).methods([Method::GET, Method::POST]);
    let server = Server::new(app);
    for (method, path) in [("GET", "/x"), ("HEAD", "/x"), ("OPTIONS", "/x"), ("HEAD", "/y")] {
        assert_eq!(server.ask(method, path).status, 200);
    }
    assert_eq!(*seen.borrow(), ["get", "head", "options", "get y"]);
    let options = server.ask("OPTIONS", "/y");
    assert_eq!((options.status, options.header("allow")), (204, Some("GET, HEAD, OPTIONS, POST")));
    assert_eq!(server.ask("OPTIONS", "/z").status, 404);
    assert_eq!(seen.borrow().len(), 4);
}

// ---- slashes ----------------------------------------------------------------------------------------

#[test]
fn a_missing_slash_is_put_there_by_a_redirect_and_a_surplus_one_is_not_taken_away() {
    let server = routes(&["/dir/", "/file", "/user/<name>/", "/both", "/both/"]);
    assert_eq!(redirected(&server.get("/dir")), "/dir/");
    assert_eq!(redirected(&server.get("/dir?a=b&c=%20/d?e")), "/dir/?a=b&c=%20/d?e");
    assert_eq!(redirected(&server.get("/dir?")), "/dir/?");
    assert_eq!(redirected(&server.ask("POST", "/dir")), "/dir/", "308 keeps the method");
    assert_eq!(redirected(&server.get("/user/a%2Fb%20%3F")), "/user/a%2Fb%20%3F/");
    check_not_found(&server, &["/file/", "/dir/x"]);
    check(&server, &[("/both", "/both"), ("/both/", "/both/")]);
    assert_eq!(server.routes(), ["/both", "/both/", "/dir/", "/user/<name>/", "unmatched"]);
}

#[test]
fn doubled_slashes_are_merged_by_a_redirect_if_that_leads_anywhere() {
    let server = routes(&["/", "/a/b", "/dir/", "/<int:n>"]);
    for (path, target) in [
        ("//", "/"),
        ("///", "/"),
        ("//a/b", "/a/b"),
        ("/a//b", "/a/b"),
        ("///a////b?x=//", "/a/b?x=//"),
        ("//dir", "/dir/"),
        ("/dir//", "/dir/"),
        ("//7", "/7"),
    ] {
        assert_eq!(redirected(&server.get(path)), target, "{path}");
    }
    check_not_found(&server, &["//none", "/a//b/", "/a//c", "//a"]);
}

#[test]
fn a_redirect_never_leads_to_another_server() {
    let (root, app) = (Branch::new(), Router::new());
    app.route("/<name>/", |_| "here");
    app.route("/<a>/<b>/", |_| "here");
    // A child without a name: what is below it begins with two slashes.
    root.put_child("", app.clone());
    root.put_child("app", app);
    let server = Server::new(root);
    for (path, target) in [
        ("//evil.example", "/.//evil.example/"),
        ("//evil.example?/", "/.//evil.example/?/"),
        ("///evil.example", "/.//evil.example/"),
        ("/app/%5Cevil.example", "/app/%5Cevil.example/"),
        ("/app/%0D%0ALocation:%20x", "/app/%0D%0ALocation:%20x/"),
        ("/app/%2F%2Fevil.example", "/app/%2F%2Fevil.example/"),
        ("/app/http:%2F%2Fevil.example", "/app/http:%2F%2Fevil.example/"),
        ("/app//evil.example/x", "/app/evil.example/x/"),
    ] {
        let reply = server.get(path);
        assert_eq!(redirected(&reply), target, "{path}");
    }
    let app = Router::new();
    app.route("/<name>/", |_| "here");
    let server = Server::new(app);
    assert_eq!(redirected(&server.get("//evil.example")), "/evil.example/");
    assert_eq!(redirected(&server.get("/%5Cevil.example")), "/%5Cevil.example/");
}

#[test]
fn a_route_may_answer_with_a_slash_at_its_end_and_without() {
    let app = Router::new();
    app.route("/file", |_: Request| "file").either_slash().named("file");
    app.route("/dir/", |_: Request| "dir").either_slash().methods([Method::GET]).named("dir");
    app.route("/user/<name>", |request: Request| request.param::<String>("name").unwrap_or_default()).either_slash();
    app.route("/<any(a,b):x>/", |_: Request| "any").either_slash();
    let server = Server::new(app.clone());
    check(&server, &[("/file", "file"), ("/file/", "file"), ("/dir", "dir"), ("/dir/", "dir")]);
    check(&server, &[("/user/ada", "ada"), ("/user/ada/", "ada"), ("/a", "any"), ("/b/", "any")]);
    check_not_found(&server, &["/user/", "/file/x", "/dir/x"]);
    assert_eq!(redirected(&server.get("/file//")), "/file/");
    for path in ["/dir", "/dir/"] {
        let refused = server.ask("PUT", path);
        assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD, OPTIONS")), "{path}");
    }
    assert_eq!((app.url_for("file", &[]), app.url_for("dir", &[])), (Ok("/file".into()), Ok("/dir/".into())));
    assert_eq!(server.routes(), ["/<any(a,b):x>/", "/dir/", "/file", "/user/<name>", "unmatched"], "one name each");
}

// ---- conflicts --------------------------------------------------------------------------------------

/// What registering these panics with.
fn conflict(register: impl Fn(&Router)) -> Option<String> {
    let panicked = panic::catch_unwind(AssertUnwindSafe(|| register(&Router::new()))).err()?;
    Some(panicked.downcast_ref::<String>().cloned().expect("a text"))
}

#[test]
fn two_routes_of_one_shape_and_method_are_refused_and_both_named() {
    let text = conflict(|app| {
        app.route("/user/<int:id>", |_| "one");
        app.route("/user/<int:number>", |_| "two");
    });
    let text = text.expect("refused");
    let place = file!();
    for part in ["route \"/user/<int:id>\" (", "route \"/user/<int:number>\" (", "conflict", place] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    assert_eq!(text.matches(place).count(), 2, "{text}");
}

#[test]
fn what_is_a_conflict_and_what_is_none() {
    let get_and = |method: Method| [Method::GET, method];
    assert!(conflict(|app| drop((app.route("/", |_| "a"), app.route("/", |_| "b")))).is_some());
    assert!(conflict(|app| drop((app.route("/<a>-<b>", |_| ""), app.route("/<c>-<d>", |_| "")))).is_some());
    assert!(conflict(|app| drop((app.route("/<path:a>", |_| ""), app.route("/<path:b>", |_| "")))).is_some());
    assert!(conflict(|app| drop((app.mount("/a", Router::new()), app.mount("/a/", Router::new())))).is_some());
    let restricted = |app: &Router| {
        app.route("/x", |_| "all");
        app.route("/x", |_| "some").methods([Method::PUT]);
    };
    assert!(conflict(restricted).is_some());
    let overlapping = |app: &Router| {
        app.route("/x", |_| "one").methods(get_and(Method::PUT));
        app.route("/x", |_| "two").methods(get_and(Method::POST));
    };
    assert!(conflict(overlapping).is_some());
    let with_twin = |app: &Router| {
        app.route("/a/", |_| "one");
        app.route("/a", |_| "two").either_slash();
    };
    assert!(conflict(with_twin).is_some());
    let before_twin = |app: &Router| {
        app.route("/<a>/", |_| "one").either_slash();
        app.route("/<b>", |_| "two");
    };
    assert!(conflict(before_twin).is_some());
    let restricted_alike = |app: &Router| {
        app.route("/<int(min=1, max=2):a>", |_| "one");
        app.route("/<int(max=2,min=1):b>", |_| "two");
    };
    assert!(conflict(restricted_alike).is_some());
    assert!(conflict(|app| drop((app.route("/<any(a,b):x>", |_| ""), app.route("/<any(b,a):y>", |_| "")))).is_some());
    assert!(conflict(|app| drop(app.route("/<path:p>", |_| "").either_slash())).is_some());
    assert!(conflict(|app| drop(app.mount("/a", Router::new()).either_slash())).is_some());
    assert!(conflict(|app| drop(app.route("/a", |_| "").either_slash().branch())).is_some());
    let none = |app: &Router| {
        app.route("/z", |_| "one").either_slash().methods([Method::GET]);
        app.route("/z/", |_| "two").methods([Method::PUT]);
        for pattern in ["/x", "/x/", "/<a>", "/<a>-x", "/<a>-<b>", "/<int:a>", "/<float:a>", "/<uuid:a>", "/<path:a>"] {
            app.route(pattern, |_| "");
        }
        app.mount("/", Router::new());
        app.mount("/x", Router::new());
        app.route("/y", |_| "one").methods([Method::GET]);
        app.route("/y", |_| "two").methods([Method::HEAD, Method::POST]);
    };
    assert_eq!(conflict(none), None);
}

#[test]
fn a_request_that_adds_a_conflicting_route_fails_and_leaves_the_router_as_it_was() {
    let app = Router::new();
    let adding = app.clone();
    app.route("/x", |_| "first").methods([Method::GET]);
    app.route("/add", move |_| {
        adding.route("/x", |_| "second").named("x");
        "added"
    });
    let server = Server::new(app.clone());
    let adding = app.clone();
    app.route("/add_twin", move |_| {
        adding.route("/x/", |_| "second").methods([Method::GET, Method::PUT]).either_slash();
        "added"
    });
    let (adding, renaming) = (app.clone(), app.clone());
    app.route("/first", |_| "first").named("first");
    app.route("/add_named", move |_| {
        adding.route("/first", |_| "second").named("first");
        "added"
    });
    app.route("/take_name", move |_| {
        renaming.route("/x/", |_| "second").named("first");
        "added"
    });
    for (path, what) in
        [("/add", "conflict"), ("/add_twin", "conflict"), ("/add_named", "both called"), ("/take_name", "both called")]
    {
        assert_eq!(server.get(path).status, 500, "{path}");
        expect_log(&["route \"/", what]);
        assert_eq!(app.url_for("first", &[]).as_deref(), Ok("/first"), "{path}");
        check(&server, &[("/first", "first")]);
        check(&server, &[("/x", "first")]);
        check_not_found(&server, &["/x/"]);
        assert_eq!(server.ask("PUT", "/x").status, 405);
    }
    assert!(app.url_for("x", &[]).is_err());
    expect_no_log();
}

// ---- against a plain reading of the rules -------------------------------------------------------------

/// Whether `pattern` matches `path`, both without their first slash: every segment against every segment.
fn plainly_matches(pattern: &str, path: &[&str]) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    if let [before @ .., "<path:p>"] = pattern.as_slice() {
        return path.len() > before.len()
            && !path[before.len()].is_empty()
            && before.iter().zip(path).all(|(pattern, part)| segment_matches(pattern, part));
    }
    pattern.len() == path.len() && pattern.iter().zip(path).all(|(pattern, part)| segment_matches(pattern, part))
}

fn segment_matches(pattern: &str, part: &str) -> bool {
    match pattern {
        _ if pattern.starts_with("<s") => !part.is_empty(),
        _ if pattern.starts_with("<int") => !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()),
        literal => literal == part,
    }
}

/// Sorts patterns by what the documentation says.
fn specificity(pattern: &str) -> Vec<u8> {
    let rank = |segment: &str| match segment {
        "<path:p>" => 3,
        _ if segment.starts_with("<s") => 2,
        _ if segment.starts_with("<int") => 1,
        _ => 0,
    };
    pattern.split('/').map(rank).collect()
}

fn patterns() -> impl Strategy<Value = Vec<String>> {
    let segment = prop_oneof!["[ab1]", Just("<int>".to_owned()), Just("<s>".to_owned())];
    let last = prop_oneof![segment.clone(), Just(String::new()), Just("<path:p>".to_owned())];
    let numbered = |(segments, last): (Vec<String>, String)| {
        let all = segments.into_iter().chain([last]).enumerate();
        let named = all.map(|(place, segment)| match segment.as_str() {
            "<int>" => format!("<int:i{place}>"),
            "<s>" => format!("<s{place}>"),
            _ => segment,
        });
        named.collect::<Vec<_>>().join("/")
    };
    let pattern = (prop::collection::vec(segment, 0..3), last).prop_map(numbered);
    prop::collection::btree_set(pattern, 1..12).prop_map(|patterns| patterns.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_router_finds_what_a_plain_reading_of_its_patterns_finds(
        patterns in patterns(),
        paths in prop::collection::vec(prop::collection::vec("[ab1]?", 1..5), 8),
    ) {
        let app = Router::new();
        for pattern in &patterns {
            let answer = pattern.clone();
            app.route(&format!("/{pattern}"), move |_| format!("/{answer}"));
        }
        let server = Server::new(app);
        let mut client = server.connect();
        for path in paths {
            let parts: Vec<&str> = path.iter().map(String::as_str).collect();
            let best = patterns.iter().filter(|pattern| plainly_matches(pattern, &parts));
            let best = best.min_by_key(|pattern| specificity(pattern));
            let reply = client.get(&format!("/{}", path.join("/")));
            match best {
                Some(best) => prop_assert_eq!(reply.text(), format!("/{best}")),
                None => prop_assert!(matches!(reply.status, 404 | 308), "{:?} {}", path, reply.text()),
            }
        }
    }
}

#[test]
fn a_leaf_below_a_route_is_asked_for_its_own_path_only() {
    let app = Router::new();
    app.route("/leaf", Leaf(|_| "leaf"));
    let server = Server::new(app);
    check(&server, &[("/leaf", "leaf")]);
    check_not_found(&server, &["/leaf/", "/leaf/x"]);
}
