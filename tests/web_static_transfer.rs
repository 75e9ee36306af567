//! Files on their way: what of one is sent, and what happens meanwhile.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/directory.rs"]
mod directory;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use std::fs;
use std::time::{Duration, SystemTime};

use directory::{Directory, PAST, ask, past, serve};
use dosimeter::web::StaticFiles;
use support::{Client, End, Framing, Reply, Server, expect_log, expect_no_log, request};

// ---- conditions --------------------------------------------------------------------------------------

#[test]
fn who_has_a_file_is_told_so() {
    let (_directory, server) = serve(&[("a.txt", "text")]);
    let etag = server.get("/a.txt").header("etag").unwrap().to_owned();
    for (lines, status) in [
        (&*format!("If-None-Match: {etag}"), 304),
        (&format!("If-None-Match: \"other\", W/{etag}"), 304),
        (&format!("If-Modified-Since: {PAST}"), 304),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT", 200),
        ("If-None-Match: \"other\"", 200),
        (&format!("If-Match: {etag}"), 200),
        ("If-Match: \"other\"", 412),
        ("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT", 412),
        (&format!("If-None-Match: {etag}|Range: bytes=0-1"), 304),
        (&format!("If-Match: {etag}|Range: bytes=0-1"), 206),
    ] {
        assert_eq!(ask(&server, "GET", "/a.txt", lines).status, status, "{lines}");
    }
    let reply = ask(&server, "GET", "/a.txt", &format!("If-None-Match: {etag}"));
    assert_eq!((reply.text(), reply.header("etag"), reply.header("last-modified")), ("", Some(&*etag), Some(PAST)));
    assert_eq!((reply.header("content-length"), reply.header("content-type")), (None, None));
    assert_eq!(ask(&server, "GET", "/none", "If-Match: *").status, 404, "there is nothing to be conditional about");
}

#[test]
fn the_tag_of_a_file_is_weak_until_it_has_settled() {
    let (directory, server) = serve(&[("a", "text")]);
    let tag_at = |date| {
        directory.date("a", date);
        let etag = server.get("/a").header("etag").unwrap().to_owned();
        assert_eq!(ask(&server, "GET", "/a", &format!("If-None-Match: {etag}")).status, 304);
        etag
    };
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now();
    let (settled, unsettled) = (tag_at(now - hour), tag_at(now + hour));
    assert!(settled.starts_with('"') && unsettled.starts_with("W/\""), "{settled} {unsettled}");
    let reply = server.get("/a");
    assert_eq!(reply.header("last-modified"), None, "no date may be later than that of the answer");
}

#[test]
fn the_tag_of_a_file_changes_with_its_time_and_its_size() {
    let (directory, server) = serve(&[("a", "text"), ("longer", "texts")]);
    let mut tags = Vec::new();
    for (name, date) in [("a", past()), ("a", past() + Duration::from_nanos(1)), ("longer", past())] {
        directory.date(name, date);
        tags.push(server.get(&format!("/{name}")).header("etag").unwrap().to_owned());
    }
    assert!(tags[0] != tags[1] && tags[0] != tags[2] && tags[1] != tags[2], "{tags:?}");
}

/// Nix dates every file 1, zip cannot before 1980, and all versions of a file would have one tag.
#[test]
fn a_date_that_a_tool_made_up_is_not_believed() {
    for seconds in [0, 1, 315_532_800] {
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let (directory, server) = serve(&[("a", "one"), ("b", "two")]);
        let tag_of = |name: &str| {
            directory.date(name, date);
            let reply = server.get(&format!("/{name}"));
            assert_eq!(reply.header("last-modified"), None);
            reply.header("etag").unwrap().to_owned()
        };
        assert_ne!(tag_of("a"), tag_of("b"));
    }
    let (directory, server) = serve(&[("a", "one")]);
    directory.date("a", SystemTime::UNIX_EPOCH - Duration::from_secs(86_400));
    assert_eq!(server.get("/a").brief(), (200, "one"));
}

// ---- ranges ------------------------------------------------------------------------------------------

const DIGITS: &str = "0123456789";

#[test]
fn one_range_is_sent_as_it_is() {
    let (_directory, server) = serve(&[("a.txt", DIGITS)]);
    for (range, body, content_range) in [
        ("bytes=0-4", "01234", "bytes 0-4/10"),
        ("bytes=5-", "56789", "bytes 5-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=-99", DIGITS, "bytes 0-9/10"),
        ("bytes=8-99", "89", "bytes 8-9/10"),
        ("bytes=9-9", "9", "bytes 9-9/10"),
        ("bytes=20-30, 3-3", "3", "bytes 3-3/10"),
    ] {
        let reply = ask(&server, "GET", "/a.txt", &format!("Range: {range}"));
        assert_eq!(reply.brief(), (206, body), "{range}");
        assert_eq!(reply.header("content-range"), Some(content_range), "{range}");
        assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
        assert!(reply.header("etag").is_some() && reply.header("last-modified").is_some());
    }
}

#[test]
fn what_is_no_range_is_answered_with_the_whole() {
    let (_directory, server) = serve(&[("a", DIGITS), ("empty", "")]);
    for range in ["bytes=5-4", "bytes=", "bytes=x", "items=0-1", "0-1", "bytes=0-,0-", "bytes=0-1|Range: bytes=2-3"] {
        let reply = ask(&server, "GET", "/a", &format!("Range: {range}"));
        assert_eq!((reply.brief(), reply.header("content-range")), ((200, DIGITS), None), "{range}");
    }
    assert_eq!(ask(&server, "GET", "/empty", "Range: bytes=0-").brief(), (200, ""));
}

#[test]
fn a_range_behind_the_end_is_416_with_the_size() {
    let (_directory, server) = serve(&[("a", DIGITS)]);
    for range in ["bytes=10-", "bytes=10-12", "bytes=-0", "bytes=10-, 11-12"] {
        let reply = ask(&server, "GET", "/a", &format!("Range: {range}"));
        assert_eq!((reply.status, reply.header("content-range")), (416, Some("bytes */10")), "{range}");
    }
}

/// The parts of a body of type `multipart/byteranges`, read by its grammar.
#[track_caller]
fn parts(reply: &Reply) -> Vec<(String, String, String)> {
    let content_type = reply.header("content-type").unwrap();
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let text = reply.text().strip_suffix(&format!("\r\n--{boundary}--\r\n")).unwrap();
    let text = text.strip_prefix(&format!("--{boundary}\r\n")).unwrap();
    let delimiter = format!("\r\n--{boundary}\r\n");
    let parts = text.split(&delimiter).map(|part| {
        let (head, body) = part.split_once("\r\n\r\n").unwrap();
        let (first, second) = head.split_once("\r\n").unwrap();
        let field = |line: &str, name: &str| line.strip_prefix(name).unwrap().to_owned();
        (field(first, "Content-Type: "), field(second, "Content-Range: "), body.to_owned())
    });
    parts.collect()
}

#[test]
fn several_ranges_are_a_multipart_body_of_the_announced_length() {
    let (_directory, server) = serve(&[("a.txt", DIGITS)]);
    let reply = ask(&server, "GET", "/a.txt", "Range: bytes=-1, 0-0,20-30,2-4");
    assert_eq!((reply.status, reply.header("content-range")), (206, None));
    assert!(matches!(reply.framing, Framing::Length(_)), "the client would have failed on a wrong one");
    let part = |range: &str, body: &str| ("text/plain; charset=utf-8".to_owned(), range.to_owned(), body.to_owned());
    let expected = [part("bytes 9-9/10", "9"), part("bytes 0-0/10", "0"), part("bytes 2-4/10", "234")];
    assert_eq!(parts(&reply), expected);
}

#[test]
fn ranges_of_a_large_file_are_read_where_they_are() {
    let content: String = (0..100_000).map(|at| format!("{at:06}\n")).collect();
    let (_directory, server) = serve(&[("a", &content)]);
    let reply = ask(&server, "GET", "/a", "Range: bytes=699993-, 70000-279999, 0-6");
    let bodies: Vec<String> = parts(&reply).into_iter().map(|(_, _, body)| body).collect();
    assert_eq!(bodies[0], "099999\n");
    assert!(bodies[1] == content[70_000..280_000], "210,000 bytes are others");
    assert_eq!(bodies[2], "000000\n");
    let reply = ask(&server, "GET", "/a", "Range: bytes=65535-65536");
    assert_eq!(reply.text(), &content[65_535..=65_536]);
}

#[test]
fn a_range_fits_only_what_the_client_has_the_rest_of() {
    let (directory, server) = serve(&[("a", DIGITS)]);
    let etag = server.get("/a").header("etag").unwrap().to_owned();
    for (value, status) in [
        (&*etag, 206),
        (&format!("W/{etag}"), 200),
        ("\"other\"", 200),
        (&format!("{etag}, {etag}"), 200),
        (PAST, 206),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 206),
        ("Sun, 06 Nov 1994 08:49:38 GMT", 200),
        ("Sun, 06 Nov 1994 08:49:36 GMT", 200),
        ("garbage", 200),
    ] {
        let reply = ask(&server, "GET", "/a", &format!("Range: bytes=0-1|If-Range: {value}"));
        assert_eq!(reply.status, status, "{value}");
    }
    let behind = ask(&server, "GET", "/a", "Range: bytes=99-|If-Range: \"other\"");
    assert_eq!(behind.brief(), (200, DIGITS));
    // What has just changed may change again within what its date can tell.
    directory.date("a", SystemTime::now() + Duration::from_secs(60));
    let line = format!("Range: bytes=0-1|If-Range: {}", server.get("/a").header("etag").unwrap());
    assert_eq!(ask(&server, "GET", "/a", &line).status, 200, "{line}");
}

#[test]
fn a_thousand_overlapping_ranges_cost_no_more_than_the_file() {
    let (_directory, server) = serve(&[("a", &"x".repeat(100_000))]);
    for range in [vec!["0-"; 1000].join(","), vec!["5-5"; 1000].join(","), "0-60000,0-60000".to_owned()] {
        let reply = ask(&server, "GET", "/a", &format!("Range: bytes={range}"));
        assert_eq!((reply.status, reply.body.len()), (200, 100_000));
    }
}

// ---- compressed beforehand ---------------------------------------------------------------------------

#[test]
fn a_compressed_sibling_is_sent_to_who_wants_it() {
    let directory = Directory::new();
    directory.write("a.css", "plain text");
    directory.write("a.css.gz", "compressed");
    directory.write("only.css", "plain");
    let files = StaticFiles::new(directory.path());
    assert_eq!(ask(&Server::new(files.clone()), "GET", "/a.css", "Accept-Encoding: gzip").text(), "plain text");
    let server = Server::new(files.with_precompressed());
    let reply = ask(&server, "GET", "/a.css", "Accept-Encoding: br, gzip");
    assert_eq!(reply.brief(), (200, "compressed"));
    assert_eq!(reply.header("content-encoding"), Some("gzip"));
    assert_eq!(reply.header("content-type"), Some("text/css; charset=utf-8"));
    assert_eq!(reply.header("vary"), Some("Accept-Encoding"));
    let plain = ask(&server, "GET", "/a.css", "Accept-Encoding: gzip;q=0");
    assert_eq!((plain.brief(), plain.header("content-encoding")), ((200, "plain text"), None));
    assert_eq!(plain.header("vary"), Some("Accept-Encoding"));
    assert_ne!(plain.header("etag"), reply.header("etag"), "equal in size and time");
    let again = format!("Accept-Encoding: gzip|If-None-Match: {}", reply.header("etag").unwrap());
    let not_modified = ask(&server, "GET", "/a.css", &again);
    assert_eq!((not_modified.status, not_modified.header("vary")), (304, Some("Accept-Encoding")));
    let part = ask(&server, "GET", "/a.css", "Accept-Encoding: gzip|Range: bytes=0-3");
    assert_eq!((part.brief(), part.header("content-encoding")), ((206, "comp"), Some("gzip")));
    assert_eq!(ask(&server, "GET", "/only.css", "Accept-Encoding: gzip").text(), "plain");
    directory.date("a.css", past() + Duration::from_secs(1));
    assert_eq!(ask(&server, "GET", "/a.css", "Accept-Encoding: gzip").text(), "plain text", "the sibling is outdated");
}

// ---- on the way --------------------------------------------------------------------------------------

/// 16 MiB of which no two lines are equal: more than the system takes off our hands.
fn large() -> String {
    (0..16 * 1024).map(|at| format!("{at:01023}\n")).collect()
}

#[test]
fn files_around_the_size_of_a_piece_are_whole() {
    let directory = Directory::new();
    let server = Server::new(StaticFiles::new(directory.path()));
    let mut client = server.connect();
    for size in [0, 1, 65_535, 65_536, 65_537, 131_072, 131_073, 1_000_000] {
        let content: String =
            (0..).map(|at| format!("{at},")).flat_map(|text| text.into_bytes()).map(char::from).take(size).collect();
        directory.write("a", &content);
        let reply = client.get("/a");
        assert!(reply.brief() == (200, &content), "{size} bytes are others");
        assert_eq!(reply.framing, Framing::Length(size));
    }
    expect_no_log();
}

#[test]
fn a_file_is_read_at_the_pace_of_its_client() {
    let content = large();
    let (directory, server) = serve(&[("a", &content)]);
    let mut client = server.connect();
    client.send(request("GET", "/a"));
    until_behind(&server, &directory);
    // Had it been read by now, this would change nothing.
    directory.open("a").set_len(content.len() as u64 / 2).unwrap();
    assert_eq!(client.end(), End::Reset);
    expect_log(&["GET /a failed: the file is shorter than when it was opened"]);
    assert_eq!(server.figure("http_server_requests_total", &[("code", "500")]), 1.0);
    expect_closed(&server, &directory);
}

/// A file is on its way, and its client does not read on.
#[track_caller]
fn until_behind(server: &Server, directory: &Directory) {
    server.until_true("the file is opened", || directory.open_files().len() == 1);
    server.until_quiet();
}

/// Nothing below the directory is open any more in this process.
#[track_caller]
fn expect_closed(server: &Server, directory: &Directory) {
    server.until_true("every file is closed", || directory.open_files().is_empty());
}

#[test]
fn a_client_that_reads_slowly_gets_the_whole_file() {
    let content = large();
    let (directory, server) = serve(&[("a", &content)]);
    let mut client = server.connect();
    client.send(request("GET", "/a"));
    until_behind(&server, &directory);
    let reply = client.reply();
    assert!(reply.text() == content, "bytes are others");
    expect_closed(&server, &directory);
    assert_eq!(client.get("/none").status, 404, "the connection goes on");
    expect_no_log();
}

#[test]
fn a_file_that_is_renamed_over_is_sent_to_its_end() {
    let content = large();
    let (directory, server) = serve(&[("a", &content), ("new", "new")]);
    let mut client = server.connect();
    client.send(request("GET", "/a"));
    until_behind(&server, &directory);
    fs::rename(directory.path().join("new"), directory.path().join("a")).unwrap();
    assert!(client.reply().text() == content, "bytes are others");
    assert_eq!(client.get("/a").text(), "new");
}

#[test]
fn files_are_closed_when_their_clients_leave() {
    let (directory, server) = serve(&[("a", &large())]);
    let clients: Vec<Client<'_>> = (0..5).map(|_| server.connect()).collect();
    for mut client in clients {
        client.send(request("GET", "/a"));
        until_behind(&server, &directory);
        client.reset();
        expect_closed(&server, &directory);
    }
    assert_eq!(server.in_progress(), 0.0);
    expect_no_log();
}

#[test]
fn files_are_closed_after_every_answer() {
    let (directory, server) = serve(&[("small", "text"), ("large", &"x".repeat(500_000))]);
    for target in ["/small", "/large"] {
        let etag = server.get(target).header("etag").unwrap().to_owned();
        expect_closed(&server, &directory);
        for (method, lines) in [
            ("HEAD", ""),
            ("GET", "Range: bytes=1-2"),
            ("GET", "Range: bytes=0-0,2-2"),
            ("GET", "Range: bytes=999999-"),
            ("GET", &*format!("If-None-Match: {etag}")),
            ("GET", "If-Match: \"other\""),
        ] {
            ask(&server, method, target, lines);
            assert_eq!(directory.open_files(), [""; 0], "{method} {target} {lines}");
        }
    }
}

#[test]
fn files_are_closed_when_the_reactor_stops() {
    let (directory, server) = serve(&[("a", &large())]);
    let mut client = server.connect();
    client.send(request("GET", "/a"));
    until_behind(&server, &directory);
    let stopping = server.reactor.clone();
    server.reactor.call_soon(move || stopping.stop().unwrap());
    server.reactor.run().unwrap();
    assert_eq!(directory.open_files(), [""; 0]);
    expect_no_log();
}

#[test]
fn pipelined_files_are_sent_in_order() {
    let (_directory, server) = serve(&[("a", "first"), ("b", &"b".repeat(200_000)), ("c", "third")]);
    let mut client = server.connect();
    client.send([request("GET", "/a"), request("GET", "/b"), request("HEAD", "/b"), request("GET", "/c")].concat());
    assert_eq!(client.reply().text(), "first");
    assert_eq!(client.reply().body.len(), 200_000);
    assert_eq!(client.reply_to("HEAD").header("content-length"), Some("200000"));
    assert_eq!(client.reply().text(), "third");
}
