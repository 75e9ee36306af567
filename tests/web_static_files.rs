//! Files below a directory: what is served, and what is not.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/directory.rs"]
mod directory;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;

use directory::{Directory, PAST, ask, serve};
use dosimeter::web::{Branch, Router, RoutingError, StaticFiles};
use http::header::{CACHE_CONTROL, HeaderValue};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use support::{Framing, Server, expect_log, expect_no_log};

#[track_caller]
fn check_statuses(server: &Server, cases: &[(&str, u16)]) {
    for (target, status) in cases {
        assert_eq!(server.get(target).status, *status, "{target}");
    }
}

// ---- a file ------------------------------------------------------------------------------------------

#[test]
fn a_file_is_sent_with_what_is_known_of_it() {
    let (_directory, server) = serve(&[("a/page.html", "<p>text")]);
    let reply = server.get("/a/page.html?query");
    assert_eq!(reply.brief(), (200, "<p>text"));
    assert_eq!(reply.framing, Framing::Length(7));
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(reply.header("last-modified"), Some(PAST));
    assert_eq!(reply.header("accept-ranges"), Some("bytes"));
    assert_eq!(reply.header("vary"), None);
    let etag = reply.header("etag").unwrap();
    assert!(etag.starts_with('"') && etag.ends_with("-7\""), "{etag}");
    expect_no_log();
}

#[test]
fn types_go_by_extension() {
    let types = [
        ("a.css", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.HTML", "text/html; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.png", "image/png"),
        ("a.svg", "image/svg+xml"),
        ("a.wasm", "application/wasm"),
        ("a.woff2", "font/woff2"),
        ("a.tar.gz", "application/gzip"),
        ("a", "application/octet-stream"),
        ("a.unheardof", "application/octet-stream"),
        ("html", "application/octet-stream"),
    ];
    let (directory, server) = serve(&types.map(|(name, _)| (name, "x")));
    for (name, content_type) in types {
        assert_eq!(server.get(&format!("/{name}")).header("content-type"), Some(content_type), "{name}");
    }
    let server = Server::new(StaticFiles::new(directory.path()).with_default_type("text/plain"));
    assert_eq!(server.get("/a.unheardof").header("content-type"), Some("text/plain"));
}

#[test]
fn head_is_answered_as_get_without_the_body() {
    let (_directory, server) = serve(&[("a", "text"), ("large", &"x".repeat(200_000)), ("empty", "")]);
    for (target, length) in [("/a", "4"), ("/large", "200000"), ("/empty", "0")] {
        let (head, get) = (ask(&server, "HEAD", target, "Range: bytes=0-1"), server.get(target));
        assert_eq!((head.status, head.header("content-length")), (200, Some(length)));
        assert_eq!(head.header("etag"), get.header("etag"));
        assert_eq!(get.body.len().to_string(), length);
    }
}

#[test]
fn other_methods_are_refused() {
    let (_directory, server) = serve(&[("a", "text")]);
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let reply = server.ask(method, "/a");
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD, OPTIONS")), "{method}");
    }
    assert_eq!(server.ask("OPTIONS", "/a").status, 204);
}

#[test]
fn fields_of_the_program_are_on_every_answer_with_a_file() {
    let directory = Directory::new();
    directory.write("a", "text");
    let year = HeaderValue::from_static("max-age=31536000");
    let server = Server::new(StaticFiles::new(directory.path()).with_header(CACHE_CONTROL, year));
    let etag = server.get("/a").header("etag").unwrap().to_owned();
    for (lines, status) in [("", 200), ("Range: bytes=0-1", 206), (&*format!("If-None-Match: {etag}"), 304)] {
        let reply = ask(&server, "GET", "/a", lines);
        assert_eq!((reply.status, reply.header("cache-control")), (status, Some("max-age=31536000")));
    }
    assert_eq!(server.get("/b").header("cache-control"), None);
}

#[test]
#[should_panic(expected = "content-type is not the same for each file")]
fn fields_that_say_what_a_file_is_are_refused() {
    let _ = StaticFiles::new(".").with_header(http::header::CONTENT_TYPE, HeaderValue::from_static("a/b"));
}

#[test]
fn a_name_may_have_any_character_but_the_forbidden_ones() {
    let names =
        [("a b", "/a%20b"), ("ä", "/%C3%A4"), ("a%20b", "/a%2520b"), ("?", "/%3F"), ("a:b", "/a:b"), ("..a", "/..a")];
    let directory = Directory::new();
    for (name, _) in names {
        directory.write(name, name);
    }
    let server = Server::new(StaticFiles::new(directory.path()).with_hidden());
    for (name, target) in names {
        assert_eq!(server.get(target).brief(), (200, name), "{target}");
    }
}

#[test]
fn one_file_can_be_served_by_itself() {
    let directory = Directory::new();
    directory.write("icon.svg", "<svg/>");
    directory.write("other", "");
    let root = Branch::new();
    root.put_child("favicon.ico", StaticFiles::new(directory.path().join("icon.svg")));
    let server = Server::new(root);
    let reply = server.get("/favicon.ico");
    assert_eq!((reply.brief(), reply.header("content-type")), ((200, "<svg/>"), Some("image/svg+xml")));
    check_statuses(&server, &[("/favicon.ico/", 404), ("/favicon.ico/other", 404), ("/favicon.ico/..", 404)]);
}

#[test]
fn a_root_that_is_not_there_is_a_failure_of_ours() {
    let directory = Directory::new();
    let server = Server::new(StaticFiles::new(directory.path().join("later")));
    assert_eq!(server.get("/a").status, 500);
    expect_log(&["the root of static files", "/later: No such file"]);
    directory.write("later/a", "text");
    assert_eq!(server.get("/a").brief(), (200, "text"));
}

// ---- what is not served ------------------------------------------------------------------------------

#[test]
fn no_spelling_leads_out_of_the_root() {
    let directory = Directory::new();
    directory.write("secret", "secret");
    directory.write("root/a/b", "text");
    directory.write("root/a\\b", "text");
    let root = Branch::new();
    root.put_child("files", StaticFiles::new(directory.path().join("root")).with_hidden().with_listing());
    let server = Server::new(root);
    assert_eq!(server.get("/files/a/b").brief(), (200, "text"));
    for path in [
        "/files/../secret",
        "/files/a/../../secret",
        "/files/%2e%2e/secret",
        "/files/%2E%2E/secret",
        "/files/.%2e/secret",
        "/files/..%2fsecret",
        "/files/..%2Fsecret",
        "/files/%2e%2e%2fsecret",
        "/files/a%2fb",
        "/files/..%5csecret",
        "/files/a%5Cb",
        "/files/a/b%00",
        "/files/a/b%00.html",
        "/files/%00",
        "/files//a/b",
        "/files/a//b",
        "/files/./a/b",
        "/files/%2e/a/b",
        "/files/a/./b",
        "/files/a/b/.",
        "/files/a/b/..",
        "/files/..",
        "/files/../",
        "/files//etc/passwd",
        "/files/%2fetc%2fpasswd",
        "/files//../secret",
        "/files/a/%252e%252e/%252e%252e/secret",
        "/files/%c0%ae%c0%ae/secret",
        "/files/%ff",
        "/files/..;/secret",
        "/files/a/b/",
        "/files/a/b/c",
        "/files/~",
    ] {
        let reply = server.get(path);
        assert_eq!(reply.status, 404, "{path}: {}", reply.text());
    }
    // No target has a backslash that is not encoded.
    for path in ["/files/..\\secret", "/files/a\\b"] {
        assert_eq!(server.get(path).status, 400, "{path}");
    }
    expect_no_log();
}

#[test]
fn links_that_stay_inside_are_followed_and_others_are_not_there() {
    let directory = Directory::new();
    directory.write("secret/file", "secret");
    directory.write("root/a/b/file", "text");
    let outside = directory.path().join("secret");
    let inside = directory.path().join("root/a");
    for (link, target) in [
        ("file", "a/b/file"),
        ("dir", "a/b"),
        ("a/up", "../a/./b"),
        ("chain", "dir/../../dir/file"),
        ("slash", "a/b/"),
        ("out", "../secret/file"),
        ("outdir", "../secret"),
        ("a/far", "../../secret/file"),
        ("through", "a/../../root/a/b/file"),
        ("absolute", outside.to_str().unwrap()),
        ("absolute-inside", inside.to_str().unwrap()),
        ("absolute-as-relative", "/a/b/file"),
        ("self", "self"),
        ("ping", "pong"),
        ("pong", "ping"),
        ("dangling", "nowhere"),
        ("etc", "/etc"),
    ] {
        symlink(target, directory.path().join("root").join(link)).unwrap();
    }
    symlink("root", directory.path().join("current")).unwrap();
    let files = StaticFiles::new(directory.path().join("current"));
    let server = Server::new(files.clone());
    for target in ["/file", "/dir/file", "/a/up/file", "/chain", "/slash/file"] {
        assert_eq!(server.get(target).brief(), (200, "text"), "{target}");
    }
    let refused = [
        "/out",
        "/outdir/file",
        "/a/far",
        "/through",
        "/absolute/file",
        "/absolute-inside/b/file",
        "/absolute-as-relative",
        "/self",
        "/self/file",
        "/ping",
        "/dangling",
        "/etc/passwd",
    ];
    check_statuses(&server, &refused.map(|target| (target, 404)));
    let server = Server::new(files.without_links());
    check_statuses(&server, &[("/a/b/file", 200), ("/file", 404), ("/dir/file", 404), ("/a/up/file", 404)]);
    expect_no_log();
}

/// Between looking at a name and opening it, what it means may change.
#[test]
fn who_swaps_directories_and_links_meanwhile_leads_nobody_out() {
    let directory = Directory::new();
    directory.write("secret/file", "secret");
    directory.write("root/a/file", "text");
    let root = directory.path().join("root");
    symlink("../secret", root.join("link")).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let swapper = thread::spawn({
        let is_over = is_over.clone();
        move || {
            let (a, link) = (root.join("a"), root.join("link"));
            while !is_over.load(Relaxed) {
                renameat_with(CWD, &a, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                thread::yield_now();
            }
        }
    });
    let server = Server::new(StaticFiles::new(directory.path().join("root")));
    let mut client = server.connect();
    let mut answers = BTreeSet::new();
    for _ in 0..500 {
        let reply = client.get("/a/file");
        answers.insert(if reply.status == 200 { reply.text().to_owned() } else { reply.status.to_string() });
    }
    is_over.store(true, Relaxed);
    swapper.join().unwrap();
    assert!(answers.iter().all(|answer| answer == "text" || answer == "404"), "{answers:?}");
}

#[test]
fn a_chain_of_too_many_links_is_a_circle() {
    let directory = Directory::new();
    directory.write("0", "text");
    for at in 1..=41 {
        symlink(format!("{}", at - 1), directory.path().join(format!("{at}"))).unwrap();
    }
    check_statuses(&Server::new(StaticFiles::new(directory.path())), &[("/40", 200), ("/41", 404)]);
}

#[test]
fn names_that_begin_with_a_dot_are_hidden() {
    let directory = Directory::new();
    for path in [".env", ".git/config", "a/.env", ".well-known/acme-challenge/token", "a/.well-known/token"] {
        directory.write(path, "text");
    }
    let cases = |hidden| {
        [
            ("/.env", hidden),
            ("/%2eenv", hidden),
            ("/.git/config", hidden),
            ("/a/.env", hidden),
            ("/a/.well-known/token", hidden),
            ("/.well-known/acme-challenge/token", 200),
        ]
    };
    let files = StaticFiles::new(directory.path());
    check_statuses(&Server::new(files.clone()), &cases(404));
    check_statuses(&Server::new(files.with_hidden()), &cases(200));
}

#[test]
fn what_is_no_file_is_not_opened() {
    let directory = Directory::new();
    directory.write("a", "text");
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    symlink("pipe", directory.path().join("link")).unwrap();
    let _socket = UnixListener::bind(directory.path().join("socket")).unwrap();
    let server = Server::new(StaticFiles::new(directory.path()));
    check_statuses(&server, &[("/pipe", 404), ("/link", 404), ("/socket", 404), ("/pipe/", 404), ("/a", 200)]);
    check_statuses(&Server::new(StaticFiles::new("/dev")), &[("/null", 404), ("/zero", 404)]);
    expect_no_log();
}

/// A reader would let the writer go on, and what it wrote would be lost.
#[test]
fn who_writes_to_a_pipe_does_not_notice_that_it_is_asked_for() {
    let directory = Directory::new();
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let server = Server::new(StaticFiles::new(directory.path()));
    let (announce, announced) = mpsc::channel();
    let writer = thread::spawn({
        let pipe = pipe.clone();
        move || {
            announce.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
            File::options().write(true).open(pipe).unwrap().write_all(b"text").unwrap();
        }
    });
    let stat = Path::new("/proc").join(announced.recv().unwrap()).join("stat");
    server.until_true("the writer waits for a reader", || fs::read_to_string(&stat).unwrap().contains(") S "));
    for _ in 0..10 {
        check_statuses(&server, &[("/pipe", 404)]);
    }
    server.until_quiet();
    assert!(!writer.is_finished(), "somebody opened the pipe");
    assert_eq!(fs::read_to_string(pipe).unwrap(), "text");
    writer.join().unwrap();
}

/// Files that not even root may read are rare; the kernel has some.
#[test]
fn what_may_not_be_read_is_forbidden() {
    let server = Server::new(StaticFiles::new("/proc/sys/vm"));
    assert!(Path::new("/proc/sys/vm/compact_memory").exists());
    check_statuses(&server, &[("/compact_memory", 403), ("/swappiness", 200)]);
    expect_no_log();
}

#[test]
fn a_path_deeper_than_the_limit_is_not_there() {
    let directory = Directory::new();
    let path = |depth| "d/".repeat(depth);
    directory.write(&format!("{}a", path(32)), "text");
    directory.write(&format!("{}a", path(33)), "text");
    let server = Server::new(StaticFiles::new(directory.path()));
    check_statuses(&server, &[(&format!("/{}a", path(32)), 200), (&format!("/{}a", path(33)), 404)]);
    let long = "x".repeat(300);
    check_statuses(&server, &[(&format!("/{long}"), 404), (&format!("/{long}/{long}"), 404)]);
}

// ---- directories -------------------------------------------------------------------------------------

#[test]
fn a_directory_is_answered_with_the_first_index_there_is() {
    let (directory, server) =
        serve(&[("index.htm", "second"), ("both/index.htm", "second"), ("both/index.html", "first")]);
    let reply = server.get("/");
    assert_eq!((reply.brief(), reply.header("content-type")), ((200, "second"), Some("text/html; charset=utf-8")));
    assert_eq!(server.get("/both/").brief(), (200, "first"));
    directory.write("other/start", "third");
    assert_eq!(server.get("/other/").status, 404);
    let server = Server::new(StaticFiles::new(directory.path()).with_index(["start"]));
    assert_eq!(server.get("/other/").brief(), (200, "third"));
    assert_eq!(server.get("/both/").status, 404);
}

#[test]
#[should_panic(expected = "is not the name of a file in a directory")]
fn an_index_is_a_name_and_no_path() {
    let _ = StaticFiles::new(".").with_index(["../index.html"]);
}

#[test]
fn a_directory_without_its_slash_is_redirected_with_its_query() {
    let directory = Directory::new();
    directory.write("a:b/index.html", "");
    directory.write("sub/a\r\nSet-Cookie: x/index.html", "");
    directory.write("evil.com/index.html", "");
    let files = StaticFiles::new(directory.path());
    let root = Branch::new();
    root.put_child("", files.clone());
    root.put_child("files", files);
    let server = Server::new(root);
    for (target, location) in [
        ("/files", "./files/"),
        ("/files?q=1?2", "./files/?q=1?2"),
        ("/files/a:b", "./a:b/"),
        ("/files/sub?", "./sub/?"),
        ("/files/sub/a%0D%0ASet-Cookie:%20x", "./a%0D%0ASet-Cookie:%20x/"),
        ("//evil.com", "./evil.com/"),
        ("http://a/files/sub", "./sub/"),
    ] {
        let reply = server.get(target);
        assert_eq!((reply.status, reply.header("location")), (308, Some(location)), "{target}");
        assert_eq!(reply.header("set-cookie"), None);
    }
    assert_eq!(server.get("/files/").status, 404, "the directory itself has no index");
}

#[test]
fn a_mounted_directory_serves_what_is_below_its_prefix() {
    let directory = Directory::new();
    directory.write("a/b.txt", "text");
    directory.write("index.html", "index");
    let app = Router::new();
    app.mount("/files", StaticFiles::new(directory.path()));
    app.handle_errors(|_, error: RoutingError| (error.status(), format!("here: {}", error.status())));
    let server = Server::new(app);
    assert_eq!(server.get("/files/a/b.txt").brief(), (200, "text"));
    assert_eq!(server.get("/files/").brief(), (200, "index"));
    assert_eq!(server.get("/files").header("location"), Some("./files/"));
    assert_eq!(server.get("/files/none").brief(), (404, "here: 404 Not Found"));
    assert_eq!(server.routes(), ["/files"]);
}

#[test]
fn a_list_is_a_page_in_which_every_name_is_escaped() {
    let directory = Directory::new();
    for path in ["b.txt", "a/x", "<script>alert(1)", "\"'&", "javascript:x", ".hidden", "a%20b", "new\nline", "c\\d"] {
        directory.write(path, "");
    }
    symlink("a", directory.path().join("link")).unwrap();
    symlink("/etc", directory.path().join("out")).unwrap();
    assert!(Command::new("mkfifo").arg(directory.path().join("pipe")).status().unwrap().success());
    let server = Server::new(StaticFiles::new(directory.path()).with_listing());
    let reply = server.get("/");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let lines: Vec<&str> =
        reply.text().lines().filter_map(|line| line.strip_prefix("<li>")?.strip_suffix("</li>")).collect();
    let page = reply.text();
    assert_eq!(
        lines,
        [
            "<a href=\"./%22%27%26\">&quot;&#39;&amp;</a>",
            "<a href=\"./%3Cscript%3Ealert%281%29\">&lt;script&gt;alert(1)</a>",
            "<a href=\"./a/\">a/</a>",
            "<a href=\"./a%2520b\">a%20b</a>",
            "<a href=\"./b.txt\">b.txt</a>",
            "<a href=\"./javascript%3Ax\">javascript:x</a>",
            "<a href=\"./link/\">link/</a>",
        ],
        "{page}"
    );
    assert_eq!(server.get("/a").status, 308);
    assert!(server.get("/a/").text().contains("<h1>a</h1>"));
}

#[test]
fn an_index_comes_before_a_list() {
    let directory = Directory::new();
    directory.write("index.html", "index");
    let server = Server::new(StaticFiles::new(directory.path()).with_listing());
    assert_eq!(server.get("/").brief(), (200, "index"));
}
