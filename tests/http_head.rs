//! Request heads: what is read, what is refused, and why.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/http.rs"]
mod support;

use dosimeter::http::{Connection, Event, Limits, Refusal, RequestHead};
use proptest::prelude::*;
use support::{Step, exchange, exchange_with, head, refusal};

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn with_line(line: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n")
}

fn with_host(host: &[u8]) -> Vec<u8> {
    [b"GET / HTTP/1.1\r\nHost: ", host, b"\r\n\r\n"].concat()
}

// The request line

/// RFC 9112 section 3: `request-line = method SP request-target SP HTTP-version`.
#[test]
fn a_request_line_is_read() {
    let head = head("DELETE /a/b?c=d?e HTTP/1.1\r\nHost: example.org:80\r\n\r\n");
    assert_eq!(head.method(), "DELETE");
    assert_eq!(head.target(), "/a/b?c=d?e");
    assert_eq!((head.path(), head.query()), ("/a/b", Some("c=d?e")));
    assert_eq!(head.version(), http::Version::HTTP_11);
    assert_eq!(head.host(), Some("example.org:80"));
}

/// RFC 9112 section 3: the parts are separated by a single SP; lenient parsing is optional and
/// declined.
#[test]
fn a_request_line_with_other_blanks_is_refused() {
    for line in ["GET  / HTTP/1.1", "GET /  HTTP/1.1", "GET\t/ HTTP/1.1", "GET /\tHTTP/1.1", "GET / a HTTP/1.1"] {
        let found = refusal(format!("{line}\r\nHost: a\r\n\r\n"));
        assert!(matches!(found, Refusal::RequestLine | Refusal::VersionSyntax), "{line}: {found:?}");
    }
    for line in [" GET / HTTP/1.1", "GET", "GET /", "GET / ", "GET  HTTP/1.1", "\tGET / HTTP/1.1"] {
        let found = refusal(format!("{line}\r\nHost: a\r\n\r\n"));
        assert!(matches!(found, Refusal::RequestLine | Refusal::VersionSyntax), "{line}: {found:?}");
    }
    assert_eq!(refusal("GET / HTTP/1.1 \r\nHost: a\r\n\r\n"), Refusal::VersionSyntax);
}

/// RFC 9110 section 9.1: `method = token`, case-sensitive, and extensions are possible.
#[test]
fn a_method_is_any_token() {
    for method in ["GET", "get", "BREW", "!#$%&'*+-.^_`|~", "X-1", "UPDATEREDIRECTREF"] {
        assert_eq!(head(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).method(), method);
    }
    for method in ["G@T", "G(T", "G\u{e9}T", "G/T", "\"GET\"", "G\x7fT"] {
        assert_eq!(refusal(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")), Refusal::RequestLine);
    }
}

/// RFC 9112 section 3: a method longer than any the server implements is answered with 501.
#[test]
fn a_method_longer_than_any_is_not_implemented() {
    let found = refusal(format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(300)));
    assert_eq!((found, found.status().as_u16()), (Refusal::MethodTooLong, 501));
}

/// RFC 9112 section 2.3: `HTTP-version = HTTP-name "/" DIGIT "." DIGIT`, case-sensitive.
#[test]
fn a_version_is_two_digits() {
    for version in [
        "HTTP/1",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP/1.10",
        "HTTP/11.1",
        "HTTP/01.1",
        "HTTP/1.01",
        "HTTP/1.1.1",
        "HTTP/1,1",
        "HTTP/a.b",
        "HTTP/1.x",
        "HTTP/-1.1",
        "HTTP/+1.1",
        "HTTP/1.1x",
        "HTTP/1.1\0",
        "HTTP/ 1.1",
        "HTTP 1.1",
        "HTTP1.1",
        "http/1.1",
        "Http/1.1",
        "ICY/1.1",
        "HTTP/1.1\t",
        "",
    ] {
        let found = refusal(format!("GET / {version}\r\nHost: a\r\n\r\n"));
        assert_eq!(found, Refusal::VersionSyntax, "{version}");
    }
}

/// RFC 9110 section 2.5: a higher minor version is processed as the highest one known.
#[test]
fn a_higher_minor_version_is_handled_as_1_1() {
    for version in ["1.1", "1.2", "1.9"] {
        let head = head(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
        assert_eq!(head.version(), http::Version::HTTP_11);
    }
}

/// RFC 9110 section 15.6.6: a major version that is not supported is answered with 505.
#[test]
fn another_major_version_is_not_supported() {
    for version in ["0.9", "2.0", "3.0", "9.9"] {
        let found = refusal(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
        assert_eq!((found, found.status().as_u16()), (Refusal::Version, 505));
    }
}

/// RFC 9113 section 3.4: the preface of HTTP/2 is made to be noticed by an HTTP/1.1 server.
#[test]
fn the_preface_of_http2_is_recognised() {
    let found = refusal("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert_eq!((found, found.status().as_u16()), (Refusal::Http2Preface, 505));
}

/// RFC 8446 section 5.1: a TLS client waits for an answer to its first record, and never sends a
/// line.
#[test]
fn a_tls_handshake_is_recognised_by_its_first_byte() {
    assert_eq!(refusal(b"\x16"), Refusal::TlsHandshake);
    assert_eq!(refusal(b"\x16\x03\x01\0\xc8\x01\0\0\xc4\x03\x03\r\n\r\n"), Refusal::TlsHandshake);
    for other in [&b"\x80\x2e\x01"[..], b"\0", b" ", b"\xff", b"{"] {
        assert_eq!(refusal(other), Refusal::RequestLine);
    }
}

/// RFC 9112 section 2.2: 400 to what is not HTTP. Who sent it waits for an answer, and not for the end of a head.
#[test]
fn a_wrong_request_line_is_refused_as_soon_as_it_ends() {
    for (line, expected) in [
        ("GET /\r\n", Refusal::RequestLine),
        ("SSH-2.0-OpenSSH_9.2\r\n", Refusal::RequestLine),
        ("EHLO localhost\r\n", Refusal::RequestLine),
        ("GET / HTTP/1\r\n", Refusal::VersionSyntax),
        ("GET / HTTP/3.0\r\nHost: a\r\n", Refusal::Version),
        ("GET a HTTP/1.1\r\nHost: a\r\n", Refusal::Target),
        ("G@T / HTTP/1.1\r\nHost: a\r\nX: a\nb\r\n", Refusal::RequestLine),
        ("\r\nGET /\r\n", Refusal::RequestLine),
    ] {
        assert_eq!(refusal(line), expected, "{line:?}");
    }
    assert_eq!(refusal(format!("G@T / HTTP/1.1\r\nX: {}", "y".repeat(20_000))), Refusal::RequestLine);
    assert_eq!(exchange("GET / HTTP/1.1\r\nHost: a\r\n"), []);
}

/// RFC 9112 section 2.2: at least one empty line before the request line is ignored.
#[test]
fn one_empty_line_before_a_request_is_forgiven_and_a_second_is_not() {
    assert_eq!(head(format!("\r\n{}", get("/"))).path(), "/");
    assert_eq!(refusal(format!("\r\n\r\n{}", get("/"))), Refusal::EmptyLines);
    assert_eq!(refusal("\r\n\rX"), Refusal::BareCr);
    assert_eq!(refusal("\rGET"), Refusal::BareCr);
    assert_eq!(refusal("\n"), Refusal::BareLf);
    assert_eq!(refusal("  \r\n\r\n"), Refusal::RequestLine);
    let again = exchange(format!("\r\n{0}\r\n{0}", get("/")));
    assert_eq!(again.iter().filter(|step| **step == Step::End).count(), 2, "one before each request");
}

// The target

/// RFC 9112 section 3.2.1: `origin-form = absolute-path [ "?" query ]`, kept as sent.
#[test]
fn origin_form_is_split_at_the_first_question_mark_and_not_decoded() {
    for (target, path, query) in [
        ("/", "/", None),
        ("/?", "/", Some("")),
        ("/a%2Fb//../c", "/a%2Fb//../c", None),
        ("//evil.example/", "//evil.example/", None),
        ("/%00?a=[1]&b={|}\\^`%", "/%00", Some("a=[1]&b={|}\\^`%")),
        ("/{[|]}^%", "/{[|]}^%", None),
        ("/http://x/", "/http://x/", None),
    ] {
        let head = head(get(target));
        assert_eq!((head.path(), head.query(), head.host()), (path, query, Some("a")), "{target}");
    }
}

/// RFC 9112 section 3.2.2: absolute-form must be accepted; its authority replaces that of `Host`.
#[test]
fn absolute_form_brings_its_own_host() {
    for (target, host, path, query) in [
        ("http://b/", "b", "/", None),
        ("http://b:8080/c?d", "b:8080", "/c", Some("d")),
        ("HTTPS://b", "b", "/", None),
        ("http://b?d", "b", "/", Some("d")),
        ("http://[::1]:80/c/?/d", "[::1]:80", "/c/", Some("/d")),
    ] {
        let head = head(get(target));
        assert_eq!((head.host(), head.path(), head.query()), (Some(host), path, query), "{target}");
        assert_eq!((head.target(), head.header("host")), (target, Some(&b"a"[..])));
        assert_eq!(head.scheme(), Some(if target.starts_with("HTTPS") { "https" } else { "http" }));
    }
    for other in [get("/"), "CONNECT b:443 HTTP/1.1\r\nHost: b\r\n\r\n".to_owned()] {
        assert_eq!(head(other).scheme(), None);
    }
}

/// RFC 9110 sections 4.2.1 and 4.2.4: no empty host, no userinfo; other schemes are not served.
#[test]
fn an_absolute_form_that_names_no_web_server_is_refused() {
    for target in [
        "http://",
        "http:///a",
        "http://:80/",
        "http://u@b/",
        "http://u:p@b/",
        "ftp://b/",
        "http:/b/",
        "http:b",
        "urn:a",
        "http://b:x/",
        "http://b:99999/",
        "http://b\\c/",
        "http://[::1/",
        "http://[v1.a]/",
    ] {
        assert_eq!(refusal(get(target)), Refusal::Target, "{target}");
    }
}

/// RFC 9112 section 3.2.4: `*` is for OPTIONS only, and what a proxy turns into it means the same.
#[test]
fn asterisk_form_is_for_options() {
    for target in ["*", "http://b:80"] {
        let head = head(format!("OPTIONS {target} HTTP/1.1\r\nHost: b:80\r\n\r\n"));
        assert_eq!((head.path(), head.host()), ("*", Some("b:80")));
    }
    assert_eq!(head("OPTIONS http://b/ HTTP/1.1\r\nHost: b\r\n\r\n").path(), "/");
    assert_eq!(head("OPTIONS http://b?c HTTP/1.1\r\nHost: b\r\n\r\n").path(), "/");
    assert_eq!(head("OPTIONS / HTTP/1.1\r\nHost: b\r\n\r\n").path(), "/");
    assert_eq!(refusal(get("*")), Refusal::Target);
    assert_eq!(refusal("OPTIONS ** HTTP/1.1\r\nHost: b\r\n\r\n"), Refusal::Target);
}

/// RFC 9112 section 3.2.3, RFC 9110 section 9.3.6: CONNECT takes host and port, and nothing else
/// does.
#[test]
fn authority_form_is_for_connect() {
    let connect = |target: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: b\r\n\r\n");
    for target in ["b:443", "[::1]:443", "1.2.3.4:1"] {
        let head = head(connect(target));
        assert_eq!((head.host(), head.path(), head.query()), (Some(target), "", None));
    }
    for target in ["b", "b:", "b:0", "b:abc", "b:99999", ":443", "/", "*", "http://b/", "u@b:443", "b:443/"] {
        assert_eq!(refusal(connect(target)), Refusal::Target, "{target}");
    }
    assert_eq!(refusal(get("b:80")), Refusal::Target);
}

/// RFC 9112 section 3.2: a target is a URI without fragment, and a URI is visible ASCII without quotes and angle brackets
/// (RFC 3986 appendix C); a backslash in a path is a slash to some.
#[test]
fn a_target_that_is_no_uri_is_refused() {
    for target in ["/#", "/a#b", "/?a#b", "a", "?a", "a/b", "./a", "/\"", "/<", "/>", "/?\"", "/?<", "/?>", "/\\", "/`"]
    {
        assert_eq!(refusal(get(target)), Refusal::Target, "{target}");
    }
    for target in ["/\u{e9}", "/\x7f", "/\x01"] {
        assert_eq!(refusal(get(target)), Refusal::RequestLine, "{target:?}");
    }
    assert_eq!(refusal(get("/\0")), Refusal::Nul);
    assert_eq!(refusal(get("/\ra")), Refusal::BareCr);
    assert_eq!(refusal(get("/\na")), Refusal::BareLf);
}

// Host

/// RFC 9112 section 3.2: 400 to an HTTP/1.1 request without `Host`, whatever the form of its
/// target.
#[test]
fn http_1_1_requires_host() {
    assert_eq!(refusal("GET / HTTP/1.1\r\n\r\n"), Refusal::HostMissing);
    assert_eq!(refusal("GET http://a/ HTTP/1.1\r\n\r\n"), Refusal::HostMissing);
    assert_eq!(refusal("OPTIONS * HTTP/1.1\r\nHosts: a\r\n\r\n"), Refusal::HostMissing);
    assert_eq!(head("GET / HTTP/1.0\r\n\r\n").host(), None);
}

/// RFC 9112 section 3.2: 400 to any request with more than one `Host` line.
#[test]
fn host_comes_once() {
    for version in ["1.0", "1.1"] {
        assert_eq!(refusal(format!("GET / HTTP/{version}\r\nHost: a\r\nhost: a\r\n\r\n")), Refusal::HostRepeated);
    }
}

/// RFC 9110 section 7.2: `Host = uri-host [ ":" port ]`.
#[test]
fn host_is_a_host_and_a_port() {
    for host in
        ["a", "a.b-c.example", "127.0.0.1:18001", "a:", "a:65535", "[::1]", "[fe80::1]:80", "a_b", "%41", "a,b", ""]
    {
        assert_eq!(head(with_host(host.as_bytes())).host(), Some(host));
    }
}

/// RFC 9112 section 3.2: 400 to any request with an invalid `Host`.
#[test]
fn an_invalid_host_is_refused() {
    for host in [
        "http://a/",
        "a/b",
        "u@a",
        "a b",
        "a\tb",
        "a?b",
        "a#b",
        "a\\b",
        "a<b",
        "a\"b",
        "a^b",
        "a|b",
        "a{b}",
        "a%zz",
        "a%4",
        "a%",
        "a:b",
        "a:65536",
        "a:000080",
        "a:-1",
        "a:80:80",
        ":80",
        "[::1",
        "::1",
        "[a]",
        "[]",
        "[::1]a",
        "[::1]:x",
        "[1.2.3.4]",
        "\u{e9}",
    ] {
        assert_eq!(refusal(with_host(host.as_bytes())), Refusal::Host, "{host:?}");
    }
    assert_eq!(refusal(with_host(b"\xe9.example")), Refusal::Host);
    assert_eq!(refusal("GET http://b/ HTTP/1.1\r\nHost: a/b\r\n\r\n"), Refusal::Host, "also where it is not consulted");
}

// Fields

/// RFC 9110 section 5.1: names are case-insensitive; section 5.2: lines of one name stay in order.
#[test]
fn fields_are_found_by_name_in_any_case() {
    let head = head(with_line("Accept: b\r\nx-a: 1\r\nACCEPT: c"));
    assert_eq!(head.header("aCCept"), Some(&b"c"[..]), "the last one");
    assert_eq!(head.header_all("accept").collect::<Vec<_>>(), [b"b", b"c"]);
    assert_eq!(head.header("x"), None);
    let all: Vec<_> = head.headers().collect();
    assert_eq!(all, [("Host", &b"a"[..]), ("Accept", b"b"), ("x-a", b"1"), ("ACCEPT", b"c")]);
}

/// RFC 9112 section 5.1: OWS around a value is not part of it, and only SP and HTAB are OWS.
#[test]
fn blanks_around_a_value_are_removed() {
    for (line, value) in [
        ("X:b", "b"),
        ("X: \t b \t ", "b"),
        ("X: b  c", "b  c"),
        ("X:", ""),
        ("X: \t ", ""),
        ("X: b\tc", "b\tc"),
        ("X: :b:", ":b:"),
        ("X: \u{a0}b\u{a0}", "\u{a0}b\u{a0}"),
    ] {
        assert_eq!(head(with_line(line)).header("x"), Some(value.as_bytes()), "{line:?}");
    }
}

/// RFC 9110 section 5.5: `obs-text` is opaque data.
#[test]
fn bytes_above_ascii_pass_in_a_value() {
    let input = b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe9\xff\x80\r\n\r\n";
    assert_eq!(head(input).header("x"), Some(&b"\xe9\xff\x80"[..]));
}

/// RFC 9112 sections 2.2, 5, 5.1 and 5.2, RFC 9110 sections 5.1 and 5.5.
#[test]
fn a_malformed_field_line_is_refused() {
    for (line, expected) in [
        ("X : b", Refusal::SpaceBeforeColon),
        ("X\t: b", Refusal::SpaceBeforeColon),
        ("Content-Length : 3", Refusal::SpaceBeforeColon),
        ("X: b\r\n c: d", Refusal::Folded),
        ("X: b\r\n\tc", Refusal::Folded),
        ("Content-Length:\r\n 3", Refusal::ContentLength),
        ("Transfer-Encoding:\r\n\tchunked", Refusal::Folded),
        ("NoColon", Refusal::FieldColon),
        ("X b: c", Refusal::FieldName),
        (": b", Refusal::FieldName),
        (":", Refusal::FieldName),
        ("X\u{e9}: b", Refusal::FieldName),
        ("X\x01: b", Refusal::FieldName),
        ("X\0: b", Refusal::Nul),
        ("X: b\0", Refusal::Nul),
        ("X: \0", Refusal::Nul),
        ("X: b\rc", Refusal::BareCr),
        ("X: b\r", Refusal::BareCr),
        ("X\r: b", Refusal::BareCr),
        ("\rX: b", Refusal::BareCr),
        ("X: b\nY: c", Refusal::BareLf),
        ("X: b\n", Refusal::BareLf),
        ("X: b\n\r\nY: c", Refusal::BareLf),
        ("X: \x0b", Refusal::ControlCharacter),
        ("X: b\x7f", Refusal::ControlCharacter),
    ] {
        assert_eq!(refusal(with_line(line)), expected, "{line:?}");
    }
    for byte in " (),/;<=>?@[\\]{}\"".chars() {
        let found = refusal(with_line(&format!("X{byte}A: b")));
        assert_eq!(found, Refusal::FieldName, "{byte}");
    }
    for byte in (1..32_u8).filter(|byte| !b"\t\r\n".contains(byte)) {
        assert_eq!(refusal(with_line(&format!("X: a{}b", byte as char))), Refusal::ControlCharacter);
    }
}

/// RFC 9112 section 2.2: no whitespace between the request line and the first field.
#[test]
fn a_blank_before_the_first_field_is_refused() {
    assert_eq!(refusal("GET / HTTP/1.1\r\n X: b\r\nHost: a\r\n\r\n"), Refusal::Folded);
    assert_eq!(refusal("GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n"), Refusal::Folded);
}

/// RFC 9112 section 2.2: a lone LF may be taken for a line end by one parser and not by the next.
#[test]
fn a_lone_lf_is_refused_as_soon_as_it_arrives() {
    assert_eq!(refusal("GET / HTTP/1.1\n"), Refusal::BareLf);
    assert_eq!(refusal("GET / HTTP/1.1\r\nHost: a\n"), Refusal::BareLf);
    assert_eq!(refusal("GET / HTTP/1.1\r\nHost: a\r\n\n"), Refusal::BareLf);
    assert_eq!(refusal("GET / HTTP/1.1\r\nHost: a\r\n\rX\r\n\r\n"), Refusal::BareCr);
}

/// RFC 9110 section 10.1.1: an expectation that cannot be met may be answered with 417.
#[test]
fn only_100_continue_is_expected() {
    let post = |expect: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: {expect}\r\n\r\nb");
    for expect in ["100-continue", "100-CONTINUE", "100-continue, 100-continue"] {
        assert!(matches!(&exchange(post(expect))[0], Step::Head(head) if head.contains("expect=true")));
    }
    for expect in ["200-ok", "100-continue, x", "100-continue;q=1", "100"] {
        let found = refusal(post(expect));
        assert_eq!((found, found.status().as_u16()), (Refusal::Expectation, 417));
    }
    assert!(matches!(&exchange(post(""))[0], Step::Head(head) if head.contains("expect=false")));
}

/// RFC 9112 section 9.3, and section 9.6: `close` outweighs all.
#[test]
fn persistence_follows_version_and_connection_options() {
    for (version, option, keep) in [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: cLoSe\r\n", false),
        ("1.1", "Connection: TE, close\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.1", "Connection: , ,closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
        ("1.0", "Connection: keep-alive-please\r\n", false),
    ] {
        let head = head(format!("GET / HTTP/{version}\r\nHost: a\r\n{option}\r\n"));
        assert_eq!(head.keep_alive(), keep, "{version} {option}");
    }
}

// Limits

/// RFC 9110 section 15.5.15: a target longer than the server interprets is answered with 414.
#[test]
fn a_long_target_is_refused() {
    let target = |len: usize| get(&format!("/{}", "a".repeat(len - 1)));
    assert_eq!(head(target(8192)).target().len(), 8192);
    let found = refusal(target(8193));
    assert_eq!((found, found.status().as_u16()), (Refusal::TargetTooLong, 414));
    assert_eq!(refusal(target(20_000)), Refusal::TargetTooLong, "also if the whole line is beyond the head's limit");
}

/// RFC 6585 section 5: a head that is too large is answered with 431.
#[test]
fn a_large_head_is_refused() {
    let mut limits = Limits::default();
    let input = with_line(&format!("X: {}", "b".repeat(100)));
    limits.head = input.len();
    assert_eq!(exchange_with(input.as_bytes(), &limits).len(), 2);
    limits.head -= 1;
    assert_eq!(exchange_with(input.as_bytes(), &limits), [Step::Refused(Refusal::HeadTooLarge)]);
    let full = &input.as_bytes()[..limits.head];
    let (_, event) = Connection::new().receive(full, &mut RequestHead::new(), &limits);
    assert_eq!(event, Event::Refused(Refusal::HeadTooLarge), "without waiting for one byte more");
    assert_eq!(refusal(with_line(&format!("X: {}", "b".repeat(1 << 15)))).status().as_u16(), 431);
}

/// RFC 6585 section 5: so is one with too many fields.
#[test]
fn many_fields_are_refused() {
    let lines = |count: usize| (0..count).map(|n| format!("X-{n}: {n}")).collect::<Vec<_>>().join("\r\n");
    assert_eq!(head(with_line(&lines(99))).headers().len(), 100);
    let found = refusal(with_line(&lines(100)));
    assert_eq!((found, found.status().as_u16()), (Refusal::TooManyFields, 431));
}

// Flow

/// RFC 9110 section 15: a valid request before a malformed one is still answered, and nothing after
/// it.
#[test]
fn requests_before_a_refused_one_are_served_and_none_after_it() {
    let steps = exchange(format!("{0}{0}G@T / HTTP/1.1\r\nHost: a\r\n\r\n{0}", get("/")));
    assert_eq!(steps.len(), 5, "{steps:?}");
    assert_eq!(steps[4], Step::Refused(Refusal::RequestLine));
}

/// RFC 9112 section 9.6: after `close` no further request is processed.
#[test]
fn nothing_is_read_after_the_last_request() {
    let steps = exchange(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n{}", get("/")));
    assert!(matches!(steps[..], [Step::Head(_), Step::End, Step::Closed]), "{steps:?}");
    let steps = exchange(format!("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n{}", get("/")));
    assert!(matches!(steps[..], [Step::Head(_), Step::End, Step::Closed]), "{steps:?}");
}

/// A head is used by all connections in turn; a refused one must not show the request before it.
#[test]
fn a_refused_head_shows_nothing_of_the_request_before() {
    let (mut head, limits) = (RequestHead::new(), Limits::default());
    for refused in ["G@T / HTTP/1.1\r\n\r\n", "\n", "GET / HTTP/1.1\n", "\r\n\r\n"] {
        Connection::new().receive(get("/secret").as_bytes(), &mut head, &limits);
        assert_eq!(head.path(), "/secret");
        Connection::new().receive(refused.as_bytes(), &mut head, &limits);
        assert_eq!((head.target(), head.headers().len(), head.host()), ("", 0, None), "{refused:?}");
    }
    Connection::new().receive(b"GET /known HTTP/1.1\r\nHost: a/\r\n\r\n", &mut head, &limits);
    assert_eq!(head.path(), "/known", "what was right can be logged");
}

/// A deadline depends on what is waited for.
#[test]
fn a_connection_knows_whether_it_is_idle() {
    let (mut connection, mut head, limits) = (Connection::new(), RequestHead::new(), Limits::default());
    let input = b"\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n";
    assert!(connection.is_idle() && !connection.in_head());
    assert_eq!(connection.receive(&input[..2], &mut head, &limits), (2, Event::NeedData));
    assert!(connection.is_idle(), "an empty line is no request");
    assert_eq!(connection.receive(&input[2..3], &mut head, &limits), (0, Event::NeedData));
    assert!(connection.in_head() && !connection.is_idle());
    connection.receive(&input[2..], &mut head, &limits);
    assert!(connection.in_body() && !connection.in_head() && !connection.is_idle());
}

/// Every refusal has a label of its own that Prometheus accepts, a status that is one, and a
/// sentence.
#[test]
fn refusals_are_fit_for_metrics_and_logs() {
    let mut labels: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.as_str()).collect();
    for refusal in Refusal::ALL {
        assert!(
            refusal.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        );
        assert!([400, 408, 413, 414, 417, 421, 431, 501, 505].contains(&refusal.status().as_u16()));
        assert!(refusal.to_string().len() > 8);
    }
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), Refusal::ALL.len());
}

/// No byte is searched twice: a head of 16 KiB that arrives byte by byte is 16 Ki searches of one
/// byte.
///
/// If each call started over, this would be 64 GiB of searching, and the test would not end.
#[test]
fn a_head_that_trickles_costs_no_more_than_one_that_does_not() {
    let mut limits = Limits::default();
    limits.head = 1 << 18;
    let input = with_line(&format!("X: {}", "b".repeat(limits.head - 100)));
    let (mut connection, mut head) = (Connection::new(), RequestHead::new());
    for len in 1..input.len() {
        assert_eq!(connection.receive(&input.as_bytes()[..len], &mut head, &limits), (0, Event::NeedData));
    }
    assert_eq!(connection.receive(input.as_bytes(), &mut head, &limits), (input.len(), Event::Head));
}

// Against chance

/// A head that is nearly right: one of these, with a few bytes changed.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let seeds = prop::sample::select(vec![
        get("/a?b"),
        get("http://b/c"),
        with_line("Content-Length: 5\r\nConnection: close"),
        with_line("Transfer-Encoding: chunked") + "3;a=\"b\"\r\nabc\r\n0\r\nX: y\r\n\r\n",
        with_line("Accept: */*\r\nCookie: a=b; c=d\r\nExpect: 100-continue"),
    ]);
    let bytes = prop::sample::select(b"\r\n\0 \t:,;=%/*.1a\x7f\xff\"".to_vec());
    (seeds, prop::collection::vec((any::<prop::sample::Index>(), bytes, 0..3_u8), 0..4)).prop_map(|(seed, edits)| {
        let mut input = seed.into_bytes();
        for (index, byte, edit) in edits {
            let at = index.index(input.len());
            match edit {
                0 => input[at] = byte,
                1 => input.insert(at, byte),
                _ => drop(input.remove(at)),
            }
        }
        input
    })
}

proptest! {
    /// No matter what a client sends and how it arrives, the engine says the same and does not
    /// panic.
    #[test]
    fn the_way_bytes_arrive_makes_no_difference(input in nearly_right()) {
        exchange(input);
    }

    #[test]
    fn garbage_makes_no_difference_either(input in prop::collection::vec(any::<u8>(), 0..200)) {
        exchange(input);
    }

    /// What this parser accepts, a lenient one reads in the same way: there is nothing to smuggle.
    #[test]
    fn what_is_accepted_is_read_as_httparse_reads_it(input in nearly_right()) {
        let mut head = RequestHead::new();
        let (_, event) = Connection::new().receive(&input, &mut head, &Limits::default());
        if event == Event::Head {
            let mut fields = [httparse::EMPTY_HEADER; 100];
            let mut peer = httparse::Request::new(&mut fields);
            let status = peer.parse(&input);
            // It knows no version beyond 1.1.
            if status != Err(httparse::Error::Version) {
                prop_assert!(status.is_ok_and(|status| status.is_complete()));
                prop_assert_eq!(peer.method, Some(head.method().as_str()));
                prop_assert_eq!(peer.path, Some(head.target()));
                let ours: Vec<_> = head.headers().collect();
                let theirs: Vec<_> = peer.headers.iter().map(|field| (field.name, field.value)).collect();
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
