//! Conditional requests, as RFC 9110 section 13 has them: each test is named after a sentence of it.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::time::{Duration, SystemTime};

use dosimeter::web::{Branch, Data, ETag, InvalidETag, Render, Request, Response, Validators};
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use support::{Leaf, Reply, Server, expect_no_log};

const BEFORE: &str = "Sat, 29 Oct 1994 19:43:30 GMT";
const CHANGED: &str = "Sat, 29 Oct 1994 19:43:31 GMT";
const AFTER: &str = "Sat, 29 Oct 1994 19:43:32 GMT";

fn changed() -> SystemTime {
    // Half a second that no field can say.
    SystemTime::UNIX_EPOCH + Duration::from_millis(783_459_811_500)
}

fn strong() -> Validators {
    Validators::from(ETag::strong("xyzzy").unwrap()).with_last_modified(changed())
}

fn weak() -> Validators {
    Validators::from(ETag::weak("xyzzy").unwrap()).with_last_modified(changed())
}

/// A server for something in this state.
fn server(current: Validators) -> Server {
    Server::new(Leaf(move |mut request: Request| -> Render {
        match request.check_conditions(current.clone()) {
            Some(answer) => answer.into(),
            None => "done".into(),
        }
    }))
}

#[track_caller]
fn ask(server: &Server, method: &str, fields: &str) -> Reply {
    let fields = fields.replace("BEFORE", BEFORE).replace("CHANGED", CHANGED).replace("AFTER", AFTER);
    let lines: String = fields.split('|').filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
    let mut client = server.connect();
    client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n"));
    let reply = client.reply_to(method);
    client.expect_end();
    reply
}

/// Asks with these lines, `|` between them, and expects this status.
#[track_caller]
fn check(current: Validators, method: &str, cases: &[(&str, u16)]) {
    let server = server(current);
    for (fields, status) in cases {
        assert_eq!(ask(&server, method, fields).status, *status, "{method} with {fields}");
    }
    expect_no_log();
}

// ---- If-None-Match -----------------------------------------------------------------------------------

#[test]
fn if_none_match_compares_weakly() {
    let cases = [
        ("If-None-Match: \"xyzzy\"", 304),
        ("If-None-Match: W/\"xyzzy\"", 304),
        ("If-None-Match: \"other\"", 200),
        ("If-None-Match: \"XYZZY\"", 200),
        ("If-None-Match: *", 304),
    ];
    check(strong(), "GET", &cases);
    check(weak(), "GET", &cases);
}

#[test]
fn a_list_is_split_at_commas_outside_of_quotes_and_may_come_in_several_lines() {
    check(
        strong(),
        "GET",
        &[
            ("If-None-Match: \"xyzzy\", \"r2d2xxxx\", \"c3piozzzz\"", 304),
            ("If-None-Match: \"r2d2xxxx\",\"xyzzy\"", 304),
            ("If-None-Match: W/\"xyzzy\", W/\"r2d2xxxx\", W/\"c3piozzzz\"", 304),
            ("If-None-Match: ,, \"xyzzy\" ,", 304),
            ("If-None-Match: \"one\"|If-None-Match: \"xyzzy\"", 304),
            ("If-None-Match: \"xyzzy\"|If-None-Match: \"one\"", 304),
            ("If-None-Match: \"a,\"xyzzy\",b\"", 200),
            ("If-None-Match: \"a, \"|If-None-Match: \"xyzzy\"", 304),
        ],
    );
    let commas = Validators::from(ETag::strong("a,b").unwrap());
    check(commas, "GET", &[("If-None-Match: \"a,b\"", 304), ("If-None-Match: \"a\", \"b\"", 200)]);
}

#[test]
fn what_is_no_tag_matches_nothing() {
    check(
        strong(),
        "GET",
        &[
            ("If-None-Match: xyzzy", 200),
            ("If-None-Match: 'xyzzy'", 200),
            ("If-None-Match: w/\"xyzzy\"", 200),
            ("If-None-Match: W/ \"xyzzy\"", 200),
            ("If-None-Match: \"xyzzy", 200),
            ("If-None-Match: \"xyzzy\"x", 200),
            ("If-None-Match: *, \"other\"", 200),
            ("If-None-Match: **", 200),
            ("If-None-Match:", 200),
            ("If-None-Match: garbage, \"xyzzy\"", 304),
        ],
    );
}

#[test]
fn if_none_match_that_fails_is_412_for_other_methods() {
    let cases = [("If-None-Match: \"xyzzy\"", 412), ("If-None-Match: *", 412), ("If-None-Match: \"other\"", 200)];
    for method in ["PUT", "POST", "DELETE"] {
        check(strong(), method, &cases);
    }
    check(strong(), "HEAD", &[("If-None-Match: \"xyzzy\"", 304)]);
}

#[test]
fn if_modified_since_does_not_count_beside_if_none_match() {
    check(
        strong(),
        "GET",
        &[
            ("If-None-Match: \"other\"|If-Modified-Since: CHANGED", 200),
            ("If-Modified-Since: CHANGED|If-None-Match: garbage", 200),
            ("If-None-Match: \"xyzzy\"|If-Modified-Since: BEFORE", 304),
        ],
    );
}

// ---- If-Modified-Since -------------------------------------------------------------------------------

#[test]
fn if_modified_since_compares_whole_seconds() {
    check(
        strong(),
        "GET",
        &[
            ("If-Modified-Since: CHANGED", 304),
            ("If-Modified-Since: AFTER", 304),
            ("If-Modified-Since: BEFORE", 200),
            ("If-Modified-Since: Saturday, 29-Oct-94 19:43:31 GMT", 304),
            ("If-Modified-Since: Sat Oct 29 19:43:31 1994", 304),
        ],
    );
}

#[test]
fn a_date_that_is_none_or_comes_twice_is_ignored() {
    let cases = [
        ("If-Modified-Since: yesterday", 200),
        ("If-Modified-Since: 783459811", 200),
        ("If-Modified-Since: Sat, 29 Oct 1994 19:43:31 CET", 200),
        ("If-Modified-Since: Sat, 31 Feb 1994 19:43:31 GMT", 200),
        ("If-Modified-Since: AFTER|If-Modified-Since: AFTER", 200),
        ("If-Modified-Since:", 200),
        ("If-Unmodified-Since: yesterday", 200),
        ("If-Unmodified-Since: BEFORE|If-Unmodified-Since: BEFORE", 200),
    ];
    check(strong(), "GET", &cases);
}

#[test]
fn if_modified_since_is_for_get_and_head() {
    let case = [("If-Modified-Since: AFTER", 200)];
    check(strong(), "POST", &case);
    check(strong(), "DELETE", &case);
    check(strong(), "HEAD", &[("If-Modified-Since: AFTER", 304)]);
}

#[test]
fn dates_are_ignored_where_there_is_none_to_compare() {
    let tag = || Validators::from(ETag::strong("xyzzy").unwrap());
    let cases = [("If-Modified-Since: AFTER", 200), ("If-Unmodified-Since: BEFORE", 200)];
    check(tag(), "GET", &cases);
    let second = Duration::from_secs(1);
    check(tag().with_last_modified(SystemTime::UNIX_EPOCH - second), "GET", &cases);
    let year_10000 = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800);
    check(tag().with_last_modified(year_10000), "GET", &cases);
    let last = server(tag().with_last_modified(year_10000 - second)).get("/");
    assert!(
        !last.header("last-modified").unwrap().contains("9999"),
        "of a date to come the time of the answer is told"
    );
}

// ---- If-Match and If-Unmodified-Since ----------------------------------------------------------------

#[test]
fn if_match_compares_strongly() {
    let cases = |found| {
        [
            ("If-Match: \"xyzzy\"", found),
            ("If-Match: \"other\", \"xyzzy\"", found),
            ("If-Match: \"other\"|If-Match: \"xyzzy\"", found),
            ("If-Match: W/\"xyzzy\"", 412),
            ("If-Match: \"other\"", 412),
            ("If-Match: garbage", 412),
            ("If-Match: *", 200),
        ]
    };
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        check(strong(), method, &cases(200));
        check(weak(), method, &cases(412));
    }
}

#[test]
fn if_unmodified_since_refuses_a_change_that_came_between() {
    let cases = [
        ("If-Unmodified-Since: BEFORE", 412),
        ("If-Unmodified-Since: CHANGED", 200),
        ("If-Unmodified-Since: AFTER", 200),
        ("If-Match: \"xyzzy\"|If-Unmodified-Since: BEFORE", 200),
        ("If-Match: \"other\"|If-Unmodified-Since: AFTER", 412),
    ];
    check(strong(), "PUT", &cases);
    check(strong(), "GET", &cases);
}

#[test]
fn if_match_comes_before_if_none_match() {
    check(
        strong(),
        "GET",
        &[
            ("If-None-Match: \"xyzzy\"|If-Match: \"other\"", 412),
            ("If-None-Match: \"xyzzy\"|If-Match: \"xyzzy\"", 304),
            ("If-Unmodified-Since: BEFORE|If-Modified-Since: AFTER", 412),
            ("If-Unmodified-Since: AFTER|If-Modified-Since: AFTER", 304),
        ],
    );
}

#[test]
fn what_is_missing_can_be_made_once_and_not_changed() {
    check(
        Validators::missing(),
        "PUT",
        &[("If-None-Match: *", 200), ("If-None-Match: \"a\"", 200), ("If-Match: *", 412), ("If-Match: \"a\"", 412)],
    );
    check(strong(), "PUT", &[("If-None-Match: *", 412), ("If-Match: *", 200)]);
}

// ---- the answers -------------------------------------------------------------------------------------

#[test]
fn without_conditions_the_answer_says_its_validators() {
    let reply = ask(&server(strong()), "GET", "");
    assert_eq!(reply.brief(), (200, "done"));
    assert_eq!(reply.header("etag"), Some("\"xyzzy\""));
    assert_eq!(reply.header("last-modified"), Some(CHANGED));
}

/// RFC 9110 section 8.8.2.1: no `Last-Modified` later than `Date`.
#[test]
fn a_date_in_the_future_is_not_told() {
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    let server = server(Validators::default().with_last_modified(tomorrow));
    let reply = ask(&server, "GET", "");
    let seconds = |name: &str| httpdate::parse_http_date(reply.header(name).unwrap()).unwrap();
    assert!(seconds("last-modified") <= seconds("date"), "{:?}", reply.fields);
    let since = format!("If-Modified-Since: {}", reply.header("last-modified").unwrap());
    assert_eq!(ask(&server, "GET", &since).status, 200, "it may change until then");
}

/// RFC 9110 section 13.2.1: ignored with methods that select no representation.
#[test]
fn conditions_do_not_count_with_options_and_trace() {
    for method in ["OPTIONS", "TRACE"] {
        check(
            strong(),
            method,
            &[("If-None-Match: *", 200), ("If-Match: \"x\"", 200), ("If-Unmodified-Since: BEFORE", 200)],
        );
    }
}

#[test]
fn a_304_has_the_fields_of_the_full_answer_and_no_body() {
    let server = Server::new(Leaf(|mut request: Request| -> Render {
        request.add_header(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
        request.check_conditions(weak()).map_or_else(|| "done".into(), Render::from)
    }));
    let reply = ask(&server, "GET", "If-None-Match: \"xyzzy\"");
    assert_eq!(reply.brief(), (304, ""));
    assert_eq!(reply.header("etag"), Some("W/\"xyzzy\""));
    assert_eq!(reply.header("last-modified"), Some(CHANGED));
    assert_eq!(reply.header("cache-control"), Some("max-age=60"));
    assert!(reply.header("date").is_some());
    assert_eq!(reply.header("content-length"), None);
    assert_eq!(reply.header("content-type"), None);
}

#[test]
fn the_answer_to_a_change_does_not_say_what_was_before() {
    let reply = ask(&server(strong()), "PUT", "If-Match: \"xyzzy\"");
    assert_eq!((reply.status, reply.header("etag"), reply.header("last-modified")), (200, None, None));
}

#[test]
fn a_connection_goes_on_after_304_and_412() {
    let server = server(strong());
    let mut client = server.connect();
    for (line, status) in [("If-None-Match: *", 304), ("If-Match: \"a\"", 412), ("If-None-Match: *", 304)] {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"));
        assert_eq!(client.reply().status, status);
    }
}

#[test]
fn an_answer_that_fails_after_the_check_has_no_validators() {
    let server = Server::new(Leaf(|mut request: Request| {
        assert!(request.check_conditions(strong()).is_none());
        Err::<Response, _>("the page could not be made")
    }));
    let reply = ask(&server, "GET", "");
    assert_eq!((reply.status, reply.header("etag")), (StatusCode::INTERNAL_SERVER_ERROR.as_u16(), None));
    support::expect_log(&["the page could not be made"]);
}

// ---- tags --------------------------------------------------------------------------------------------

#[test]
fn a_tag_holds_visible_ascii_without_quotes() {
    for text in ["", "a", "a,b", "'", "!#$~", "W/"] {
        assert_eq!(ETag::strong(text).unwrap().to_string(), format!("\"{text}\""));
        assert_eq!(ETag::weak(text).unwrap().to_string(), format!("W/\"{text}\""));
    }
    for text in ["\"", "a b", "a\t", "a\r\nSet-Cookie: b", "\0", "\x7f", "ä"] {
        assert_eq!(ETag::strong(text), Err(InvalidETag), "{text:?}");
    }
}

#[test]
fn a_tag_reads_back() {
    for text in ["\"a\"", "W/\"a\"", "\"\"", "\"a,b\""] {
        assert_eq!(text.parse::<ETag>().unwrap().to_string(), text);
    }
    for text in ["", "a", "\"a", "w/\"a\"", "\"a\" ", "*", "\"a\", \"b\"", "W/"] {
        assert_eq!(text.parse::<ETag>(), Err(InvalidETag), "{text:?}");
    }
}

#[test]
fn the_tag_of_a_content_changes_with_it() {
    assert_eq!(ETag::of("one"), ETag::of(b"one"));
    assert_ne!(ETag::of("one"), ETag::of("two"));
    assert_ne!(ETag::of(""), ETag::of("\0"));
    assert!(!ETag::of("").is_weak());
}

// ---- pages in memory ---------------------------------------------------------------------------------

#[test]
fn data_is_sent_once_to_who_keeps_it() {
    let root = Branch::new();
    root.put_child("", Data::new(vec![1, 2, 3], "image/png"));
    let server = Server::new(root);
    let reply = ask(&server, "GET", "");
    assert_eq!((reply.status, &reply.body[..], reply.header("content-type")), (200, &[1, 2, 3][..], Some("image/png")));
    let tag = reply.header("etag").unwrap();
    let again = ask(&server, "GET", &format!("If-None-Match: {tag}"));
    assert_eq!((again.status, again.header("etag")), (304, Some(tag)));
    let head = ask(&server, "HEAD", "");
    assert_eq!((head.status, head.header("content-length"), head.header("etag")), (200, Some("3"), Some(tag)));
}

#[test]
fn data_is_for_get_and_head_and_has_no_children() {
    let root = Branch::new();
    root.put_child("a", Data::new("text", "text/plain"));
    let server = Server::new(root);
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let reply = server.ask(method, "/a");
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD, OPTIONS")), "{method}");
    }
    assert_eq!(server.get("/a/b").status, 404);
    assert_eq!(server.get("/a/").status, 404);
}

#[test]
#[should_panic(expected = "invalid")]
fn data_of_a_type_that_cannot_be_sent_is_refused_when_it_is_made() {
    let _ = Data::new("", "text/plain\r\nSet-Cookie: a");
}
