//! Forms: urlencoded and multipart, whole and as they come.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/web.rs"]
mod support;

use dosimeter::web::{Form, FormError, FormLimits, Multipart, Part, PartHead, Request, Response, Router, StatusCode};
use proptest::prelude::*;
use support::{Leaf, Reply, Server, expect_log, expect_no_log};

/// A server that tells what it makes of a form.
fn server() -> Server {
    Server::new(Leaf(|request: Request| request.form().map(|form| Response::text(told(&form)))))
}

fn told(form: &Form) -> String {
    let mut lines: Vec<String> = form.fields().map(|(name, value)| format!("{name:?}={value:?}")).collect();
    lines.extend(form.files().map(|(name, file)| {
        let kind = file.content_type.as_deref().unwrap_or("-");
        format!("{name:?}={:?} ({kind}): {}", file.file_name, file.bytes.escape_ascii())
    }));
    lines.join("\n")
}

#[track_caller]
fn post(server: &Server, content_type: &str, body: impl AsRef<[u8]>) -> Reply {
    post_to(server, "/", content_type, body)
}

#[track_caller]
fn post_to(server: &Server, target: &str, content_type: &str, body: impl AsRef<[u8]>) -> Reply {
    let body = body.as_ref();
    let mut client = server.connect();
    client.send(format!(
        "POST {target} HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    client.send(body);
    client.reply()
}

const URLENCODED: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data; boundary=xyz";

// ---- urlencoded -------------------------------------------------------------------------------------

#[test]
fn a_urlencoded_form_is_decoded_and_keeps_its_order() {
    let server = server();
    for (body, expected) in [
        ("a=1&b=2&a=3", "\"a\"=\"1\"\n\"b\"=\"2\"\n\"a\"=\"3\""),
        ("a+b=c%2Bd+%26%3d", "\"a b\"=\"c+d &=\""),
        ("empty=&=unnamed&bare&&x=y=z", "\"empty\"=\"\"\n\"\"=\"unnamed\"\n\"x\"=\"y=z\""),
        ("u=%C3%A4&bad=%FF&cut=%4", "\"u\"=\"ä\"\n\"bad\"=\"\u{fffd}\"\n\"cut\"=\"%4\""),
        ("", ""),
    ] {
        assert_eq!(post(&server, URLENCODED, body).brief(), (200, expected), "{body}");
    }
    let kinds = ["APPLICATION/X-WWW-FORM-URLENCODED", "application/x-www-form-urlencoded ; charset=utf-8"];
    for kind in kinds {
        assert_eq!(post(&server, kind, "a=1").brief(), (200, "\"a\"=\"1\""), "{kind}");
    }
    expect_no_log();
}

#[test]
fn the_parts_of_a_form_are_found_by_name() {
    let server = Server::new(Leaf(|request: Request| -> Result<String, FormError> {
        let form = request.form()?;
        let boxes: Vec<_> = form.get_all("box").collect();
        Ok(format!("{:?} {:?} {boxes:?} {}", form.get("box"), form.get("none"), form.parse::<u8>("age")?))
    }));
    assert_eq!(post(&server, URLENCODED, "box=a&age=7&box=b").brief(), (200, "Some(\"a\") None [\"a\", \"b\"] 7"));
    for (body, text) in [("box=a", "no field &quot;age&quot;"), ("age=300", "field &quot;age&quot; has a wrong value")]
    {
        let reply = post(&server, URLENCODED, body);
        assert_eq!(reply.status, 400, "{body}");
        assert!(reply.text().contains(text), "{}", reply.text());
    }
    expect_no_log();
}

#[test]
fn a_body_that_is_no_form_is_refused_with_415_and_no_body_is_an_empty_form() {
    let server = server();
    for kind in ["application/json", "text/plain", "multipart/mixed; boundary=x", "x", "", "\u{e4}"] {
        let reply = post(&server, kind, "a=1");
        assert_eq!(reply.status, 415, "{kind}");
        assert!(reply.text().contains("application/x-www-form-urlencoded"), "it says what would do");
    }
    assert_eq!(server.get("/").brief(), (200, ""));
    for kind in [URLENCODED, MULTIPART, "text/plain"] {
        assert_eq!(post(&server, kind, "").brief(), (200, ""), "{kind}: there is no body");
    }
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na=1");
    assert_eq!(client.reply().status, 415);
    let both = format!("Content-Type: {URLENCODED}\r\nContent-Type: {MULTIPART}");
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{both}\r\nContent-Length: 3\r\n\r\na=1"));
    assert_eq!(client.reply().status, 415, "two types are none");
    expect_no_log();
}

#[test]
fn a_form_that_is_a_stream_is_not_taken_for_an_empty_one() {
    let app = Router::new();
    app.route("/form", |request: Request| request.form().map(|form| Response::text(told(&form)))).streamed();
    app.route("/args", |request: Request| request.args().map(|form| Response::text(told(&form)))).streamed();
    let server = Server::new(app);
    for path in ["/form", "/args"] {
        let mut client = server.connect();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {URLENCODED}\r\nContent-Length: 3\r\n\r\na=1"
        ));
        let reply = client.reply();
        assert_eq!(reply.status, 500, "{path}");
        assert!(!reply.text().contains("take_form"), "it is no business of the client's");
        expect_log(&["take_form"]);
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {URLENCODED}\r\nContent-Length: 0\r\n\r\n"
        ));
        assert_eq!(client.reply().brief(), (200, ""), "without a body there is no stream");
    }
    expect_no_log();
}

#[test]
fn a_form_has_no_more_than_its_limits_allow() {
    let server = Server::new(Leaf(|request: Request| {
        let mut limits = FormLimits::default();
        (limits.fields, limits.field, limits.part_head) = (3, 10, 60);
        request.form_within(&limits).map(|form| Response::text(told(&form)))
    }));
    let part =
        |name: &str, data: &str| format!("--xyz\r\nContent-Disposition: form-data; name={name}\r\n\r\n{data}\r\n");
    let whole = |parts: &[String]| format!("{}--xyz--\r\n", parts.concat());
    let is_refused = |kind, body: String, text: &str| {
        let reply = post(&server, kind, &body);
        assert_eq!(reply.status, 413, "{body}");
        assert!(reply.text().contains(text), "{}", reply.text());
    };
    assert_eq!(post(&server, URLENCODED, "a=1&a=2&a=0123456789&bare").status, 200);
    is_refused(URLENCODED, "a=&b=&c=&d=".into(), "more than 3 fields");
    is_refused(URLENCODED, "a=0123456789A".into(), "more than 10 bytes in a field");
    let three = [part("a", "1"), part("b", ""), part("c", "0123456789")];
    assert_eq!(post(&server, MULTIPART, whole(&three)).status, 200);
    is_refused(MULTIPART, whole(&[&three[..], &[part("d", "")]].concat()), "more than 3 fields");
    is_refused(MULTIPART, whole(&[part("a", "0123456789A")]), "more than 10 bytes in a field");
    is_refused(MULTIPART, whole(&[part(&"a".repeat(40), "")]), "more than 60 bytes in the head of a part");
    let file = part("a;filename=b", &"0123456789".repeat(10));
    assert_eq!(post(&server, MULTIPART, whole(&[file])).status, 200, "a file is no field");
    expect_no_log();
}

// ---- multipart --------------------------------------------------------------------------------------

#[test]
fn a_multipart_form_has_fields_and_files() {
    let body = b"--xyz\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nA \xc3\xa4 title\r\n\
        --xyz\r\ncontent-disposition: FORM-DATA; NAME=bare;\r\n\r\n\r\n\
        --xyz\r\nContent-Disposition:form-data;name=\"f\"; filename=\"a.bin\"\r\nContent-Type: image/png\r\n\
        X-Other: ignored\r\n\r\n\r\n--xy\r\n-\x00\xff\r\r\n\r\n\
        --xyz\r\nContent-Disposition: form-data; name=\"f\"; filename=\"b\"\r\nContent-Transfer-Encoding: binary\r\n\r\n\r\n\
        --xyz\r\nContent-Disposition: form-data; name=\"none\"; filename=\"\"\r\nContent-Type: application/octet-stream\r\n\
        \r\n\r\n--xyz--\r\n";
    let expected = "\"title\"=\"A ä title\"\n\"bare\"=\"\"\n\
        \"f\"=\"a.bin\" (image/png): \\r\\n--xy\\r\\n-\\x00\\xff\\r\\r\\n\n\"f\"=\"b\" (-): ";
    assert_eq!(post(&server(), MULTIPART, body).brief(), (200, expected));
    expect_no_log();
}

#[test]
fn a_form_without_parts_is_empty() {
    let server = server();
    for body in ["--xyz--\r\n", "--xyz--"] {
        assert_eq!(post(&server, MULTIPART, body).brief(), (200, ""), "{body:?}");
    }
}

#[test]
fn a_boundary_is_found_quoted_or_not() {
    let server = server();
    for (kind, boundary) in [
        ("multipart/form-data; boundary=\"a b:c\"", "a b:c"),
        ("Multipart/Form-Data;charset=utf-8 ;; Boundary=abc;", "abc"),
        (
            "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
            "----WebKitFormBoundary7MA4YWxkTrZu0gW",
        ),
    ] {
        let body = format!("--{boundary}\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--{boundary}--\r\n");
        assert_eq!(post(&server, kind, body).brief(), (200, "\"a\"=\"1\""), "{kind}");
    }
}

/// As browsers, curl and Python's urllib3 write them.
#[test]
fn names_are_read_as_clients_write_them() {
    for (disposition, name, file_name) in [
        (r#"name="a%22b%0D%0ac""#, "a\"b\r\nc", None),
        (r#"name="a\"b""#, "a\"b", None),
        (r#"name="a\\b%5Cc""#, r"a\b%5Cc", None),
        (r#"name="100%"; filename="C:\temp\x.txt""#, "100%", Some(r"C:\temp\x.txt")),
        (r#"name="ä;="; filename="日本.png"; filename*=UTF-8''other"#, "ä;=", Some("日本.png")),
        (r#"filename=x; name=y"#, "y", Some("x")),
        (r#"name="""#, "", None),
    ] {
        let body = format!("--xyz\r\nContent-Disposition: form-data; {disposition}\r\n\r\n\r\n--xyz--");
        let head = heads(&body).unwrap_or_else(|error| panic!("{disposition}: {error}")).remove(0);
        assert_eq!((head.name.as_str(), head.file_name.as_deref()), (name, file_name), "{disposition}");
    }
}

fn heads(body: &str) -> Result<Vec<PartHead>, FormError> {
    let (parts, _) = take_apart(body.as_bytes(), &[])?;
    Ok(parts.into_iter().map(|(head, _)| head).collect())
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let part = |head: &str| format!("--xyz\r\n{head}\r\n\r\ndata\r\n--xyz--\r\n");
    let fine = "Content-Disposition: form-data; name=\"a\"";
    assert!(heads(&part(fine)).is_ok());
    let cases = [
        ("", "ends before"),
        ("--xyz", "ends before"),
        ("--xyz\r\n", "ends before"),
        (&part(fine)[..60], "ends before"),
        ("preamble\r\n--xyz--\r\n", "does not begin"),
        ("\r\n--xyz--\r\n", "does not begin"),
        ("--xyzz--\r\n", "follows a delimiter"),
        ("--xyz \r\n", "follows a delimiter"),
        ("--xyz\n\n", "follows a delimiter"),
        ("--xyz--\r\nepilogue", "follows its last"),
        ("--xyz--\n", "follows its last"),
        (&part(fine).replace("data\r\n--xyz--", "data\r\n--xyzw\r\n--xyz--"), "follows a delimiter"),
        (&part(""), "no colon"),
        (&part("Content-Disposition"), "no colon"),
        (&part("Content-Type: text/plain"), "no Content-Disposition"),
        (&part("Content-Disposition : form-data; name=a"), "cannot stand there"),
        (&part(" Content-Disposition: form-data; name=a"), "cannot stand there"),
        (&part("Content-Disposition: form-data;\r\n name=a"), "no colon"),
        (&part("Content-Disposition: form-data; name=a\n"), "cannot stand there"),
        (&part("Content-Disposition: form-data; name=\"a\0\""), "cannot stand there"),
        (&part(&format!("{fine}\r\n{fine}")), "twice"),
        (&part("Content-Disposition: attachment; name=a"), "malformed Content-Disposition"),
        (&part("Content-Disposition: form-data; name=a; name=b"), "malformed Content-Disposition"),
        (&part("Content-Disposition: form-data; name=a; Name=b"), "malformed Content-Disposition"),
        (&part("Content-Disposition: form-data; name=\"a"), "malformed Content-Disposition"),
        (&part("Content-Disposition: form-data; name=\"a\"b"), "malformed Content-Disposition"),
        (&part("Content-Disposition: form-data; name=a b"), "malformed Content-Disposition"),
        (&part("Content-Disposition: form-data; name"), "malformed Content-Disposition"),
        (&part(&format!("Content-Disposition: form-data{}", "; p=1".repeat(17))), "malformed"),
        (&part("Content-Disposition: form-data; filename=a"), "no name"),
        (&part("Content-Disposition: form-data; name=a; filename*=UTF-8''%C3%A4"), "`filename*` alone"),
        (&part(&format!("{fine}\r\nContent-Transfer-Encoding: base64")), "Content-Transfer-Encoding"),
    ];
    for (body, reason) in cases {
        match heads(body) {
            Err(FormError::Malformed { reason: found, .. }) => assert!(found.contains(reason), "{body:?}: {found}"),
            other => panic!("{body:?}: {other:?}"),
        }
    }
    let many: String = (0..17).map(|number| format!("; p{number}=1")).collect();
    assert!(heads(&part(&format!("{fine}{many}"))).is_err(), "seventeen parameters and a name");
    let not_utf8 = b"--xyz\r\nContent-Disposition: form-data; name=\"\xff\"\r\n\r\n\r\n--xyz--";
    assert!(matches!(take_apart(not_utf8, &[]), Err(FormError::Malformed { .. })));
}

#[test]
fn a_form_that_cannot_be_read_is_answered_with_400_and_a_reason() {
    let reply = post(&server(), MULTIPART, "a=1");
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("does not begin with its delimiter"), "{}", reply.text());
    for kind in ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=\"a\u{7f}\""] {
        assert_eq!(
            Multipart::new(kind, &FormLimits::default()).unwrap_err().status(),
            StatusCode::BAD_REQUEST,
            "{kind}"
        );
    }
    let long = format!("multipart/form-data; boundary={}", "a".repeat(71));
    assert!(Multipart::new(&long, &FormLimits::default()).is_err());
    assert!(Multipart::new(&long[..long.len() - 1], &FormLimits::default()).is_ok());
    expect_no_log();
}

// ---- as it comes ------------------------------------------------------------------------------------

type Parts = Vec<(PartHead, Vec<u8>)>;

/// Takes a body apart that comes in pieces, cut at these places. Also tells the most that had to be shown again.
fn take_apart(body: &[u8], cuts: &[usize]) -> Result<(Parts, usize), FormError> {
    let mut multipart = Multipart::new(MULTIPART, &FormLimits::default())?;
    let (mut parts, mut is_open, mut used, mut most) = (Parts::new(), false, 0, 0);
    let ends = cuts.iter().copied().chain([body.len()]);
    for end in ends {
        loop {
            let (count, part) = multipart.receive(&body[used..end])?;
            used += count;
            match part {
                Part::Head(head) => {
                    assert!(!is_open, "a head inside of a part");
                    is_open = true;
                    parts.push((head, Vec::new()));
                }
                Part::Data(data) => {
                    assert!(is_open && !data.is_empty() && data.len() == count);
                    parts.last_mut().unwrap().1.extend_from_slice(data);
                }
                Part::End => assert!(std::mem::take(&mut is_open), "the end of no part"),
                Part::NeedData => break,
            }
        }
        most = most.max(end - used);
    }
    multipart.finish()?;
    assert!(!is_open && used == body.len());
    Ok((parts, most))
}

/// What every cut has to come to: the same parts, or no form.
fn check_cuts(body: &[u8], some_cuts: &[usize]) -> Result<(), TestCaseError> {
    let whole = take_apart(body, &[]).map(|(parts, _)| parts).map_err(|error| error.status());
    let each_byte: Vec<usize> = (0..body.len()).collect();
    let mut all_cuts: Vec<Vec<usize>> = (0..=body.len()).map(|cut| vec![cut]).collect();
    all_cuts.push(each_byte);
    all_cuts.push(some_cuts.to_vec());
    for cuts in all_cuts {
        let cut = take_apart(body, &cuts);
        if let Ok((_, most)) = &cut {
            prop_assert!(*most <= 4 * 1024 + 4);
        }
        let cut = cut.map(|(parts, _)| parts).map_err(|error| error.status());
        prop_assert_eq!(&whole, &cut, "{} cut at {:?}", body.escape_ascii(), cuts);
    }
    Ok(())
}

/// Bytes that look like delimiters more often than not.
fn tricky_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\r\n".to_vec()),
        Just(b"\r\n--".to_vec()),
        Just(b"\r\n--xy".to_vec()),
        Just(b"--xyz".to_vec()),
        Just(b"--xyz--\r\n".to_vec()),
        Just(b"\r".to_vec()),
        prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn sent_parts() -> impl Strategy<Value = Vec<(String, bool, Vec<u8>)>> {
    let data = tricky_bytes().prop_filter("holds the delimiter", |data| {
        let framed = [b"\r\n", data.as_slice(), b"\r\n"].concat();
        !framed[1..].windows(7).any(|window| window == b"\r\n--xyz")
    });
    prop::collection::vec(("[a-z]{0,5}", any::<bool>(), data), 0..4)
}

fn sorted_cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..10)
}

fn places(cuts: &[prop::sample::Index], length: usize) -> Vec<usize> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(length + 1)).collect();
    places.sort_unstable();
    places
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_sent_is_what_comes_out_however_it_is_cut(sent in sent_parts(), cuts in sorted_cuts()) {
        let mut body = Vec::new();
        for (name, is_file, data) in &sent {
            let file = if *is_file { "; filename=f" } else { "" };
            body.extend(format!("--xyz\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").as_bytes());
            body.extend(data);
            body.extend(b"\r\n");
        }
        body.extend(b"--xyz--\r\n");
        let (parts, _) = take_apart(&body, &[]).unwrap();
        let came: Vec<_> =
            parts.into_iter().map(|(head, data)| (head.name, head.file_name.is_some(), data)).collect();
        prop_assert_eq!(&came, &sent);
        check_cuts(&body, &places(&cuts, body.len()))?;
    }

    #[test]
    fn whatever_comes_is_a_form_or_refused_and_the_cuts_do_not_matter(
        pieces in prop::collection::vec(
            prop_oneof![
                Just(b"--xyz\r\n".to_vec()),
                Just(b"Content-Disposition: form-data; name=\"a\"".to_vec()),
                Just(b"; filename=\"x".to_vec()),
                Just(b"\r\n\r\n".to_vec()),
                tricky_bytes(),
            ],
            0..12,
        ),
        cuts in sorted_cuts(),
    ) {
        let body = [b"--xyz".to_vec(), pieces.concat()].concat();
        check_cuts(&body, &places(&cuts, body.len()))?;
    }
}

// ---- the arguments of a request ---------------------------------------------------------------------

#[test]
fn the_arguments_of_a_post_are_those_of_its_form_and_then_of_its_query() {
    let server = Server::new(Leaf(|request: Request| request.args().map(|args| Response::text(told(&args)))));
    let reply = post_to(&server, "/?a=query&b=query&a=again", URLENCODED, "a=form&c=form");
    assert_eq!(reply.brief(), (200, "\"b\"=\"query\"\n\"a\"=\"form\"\n\"c\"=\"form\""));
    assert_eq!(post_to(&server, "/?a=query", "application/json", "{}").brief(), (200, "\"a\"=\"query\""));
    assert_eq!(post_to(&server, "/?a=query", MULTIPART, "{}").status, 400, "a form that cannot be read");
    assert_eq!(server.get("/?a=1&a=2&bare").brief(), (200, "\"a\"=\"1\"\n\"a\"=\"2\""));
    let put = format!("PUT /?a=1 HTTP/1.1\r\nHost: a\r\nContent-Type: {URLENCODED}\r\nContent-Length: 3\r\n\r\na=2");
    let mut client = server.connect();
    client.send(put);
    assert_eq!(client.reply().brief(), (200, "\"a\"=\"1\""), "only of a POST");
    expect_no_log();
}
