//! Request bodies: where they end, and what is refused because that could be doubted.

#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/http.rs"]
mod support;

use dosimeter::http::{Connection, Event, Limits, Refusal, RequestHead};
use proptest::prelude::*;
use support::{Step, body, exchange, exchange_with, refusal};

/// A request behind the one in question; it is read as one, or not at all.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

/// A POST with these fields and this body.
fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}{NEXT}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked", body)
}

/// The refusal in the body of the first request; nothing of what follows may be read as a request.
#[track_caller]
fn body_refusal(input: impl AsRef<[u8]>) -> Refusal {
    let steps = exchange(input.as_ref());
    match steps.as_slice() {
        [Step::Head(_), Step::Refused(refusal)] | [Step::Head(_), Step::Data(_), Step::Refused(refusal)] => *refusal,
        _ => panic!("{}: {steps:?}", input.as_ref().escape_ascii()),
    }
}

// Content-Length

/// RFC 9112 section 6.3, item 7: without either field there is no body, whatever the method.
#[test]
fn a_request_without_framing_has_no_body() {
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let steps = exchange(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n{NEXT}"));
        assert!(matches!(steps[..], [Step::Head(_), Step::End, Step::Head(_), Step::End]), "{steps:?}");
    }
}

/// RFC 9112 section 6.3, item 6: a valid length is the length of the body, also with GET.
#[test]
fn a_body_is_as_long_as_declared() {
    assert_eq!(body(post("Content-Length: 3", "abc")), (b"abc".to_vec(), 2));
    assert_eq!(body(post("content-LENGTH:3 ", "abc")), (b"abc".to_vec(), 2));
    assert_eq!(body(post("Content-Length: 0", "")), (vec![], 2));
    assert_eq!(body(post("Content-Length: 00000000000000000000000000000000000003", "abc")), (b"abc".to_vec(), 2));
    let get = format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{NEXT}{NEXT}", NEXT.len());
    assert_eq!(body(get), (NEXT.as_bytes().to_vec(), 2));
    let all: Vec<u8> = (0..=255).collect();
    let binary =
        [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 256\r\n\r\n", all.as_slice(), NEXT.as_bytes()].concat();
    assert_eq!(body(binary), (all, 2));
}

/// RFC 9110 section 8.6: `Content-Length = 1*DIGIT`; RFC 9112 section 6.3, item 5: anything else is
/// 400.
#[test]
fn a_length_that_is_not_only_digits_is_refused() {
    for length in [
        "+3", "-3", "-0", "- 3", "0x3", "3_0", "", " ", "3,3", "3, 3", "3, 4", "3, abc", ",3", "3;3", "3 3", "3.0",
        "abc", "3\u{a0}", "３", "1e1",
    ] {
        assert_eq!(refusal(post(&format!("Content-Length: {length}"), "abc")), Refusal::ContentLength, "{length}");
    }
    for (length, expected) in
        [("3\x0b", Refusal::ControlCharacter), ("\x0c3", Refusal::ControlCharacter), ("3\0", Refusal::Nul)]
    {
        assert_eq!(refusal(post(&format!("Content-Length: {length}"), "abc")), expected);
    }
}

/// RFC 9112 section 6.3, item 5 lets a recipient accept equal lengths; here one is enough.
#[test]
fn a_repeated_length_is_refused_even_if_equal() {
    for second in ["3", "4", "0"] {
        let fields = format!("Content-Length: 3\r\nX: y\r\ncontent-length: {second}");
        assert_eq!(refusal(post(&fields, "abc")), Refusal::ContentLengthRepeated);
    }
}

/// RFC 9110 section 8.6: anticipate large numbers and prevent overflows; section 15.5.14: 413.
#[test]
fn a_declared_length_over_the_limit_is_refused_before_the_body() {
    for length in [
        "1048577",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551619",
        "99999999999999999999999999999",
    ] {
        let found = refusal(post(&format!("Content-Length: {length}"), "abc"));
        assert_eq!((found, found.status().as_u16()), (Refusal::BodyTooLarge, 413), "{length}");
    }
    let mut limits = Limits::default();
    limits.body = 3;
    assert_eq!(exchange_with(post("Content-Length: 3", "abc").as_bytes(), &limits).len(), 5);
}

// Transfer-Encoding

/// RFC 9112 section 7.1; RFC 9112 section 7: coding names are case-insensitive.
#[test]
fn chunks_are_decoded_and_the_next_request_is_found() {
    let expected = (b"abcdefghijklmnopqrst".to_vec(), 2);
    assert_eq!(body(chunked("2\r\nab\r\n1\r\nc\r\n10\r\ndefghijklmnopqrs\r\n1\r\nt\r\n0\r\n\r\n")), expected);
    for coding in ["chunked", "CHUNKED", "Chunked", " \tchunked\t "] {
        assert_eq!(body(post(&format!("Transfer-Encoding:{coding}"), "3\r\nabc\r\n0\r\n\r\n")), (b"abc".to_vec(), 2));
    }
    assert_eq!(body(chunked("5\r\n\r\n0\r\n\r\n0\r\n\r\n")), (b"\r\n0\r\n".to_vec(), 2));
    assert_eq!(body(chunked("0\r\n\r\n")), (vec![], 2));
    assert_eq!(body(chunked("000\r\n\r\n")), (vec![], 2));
    assert_eq!(body(chunked("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n")).0.len(), 20);
}

/// RFC 9112 section 6.3, item 4: if `chunked` is not the final coding, 400.
#[test]
fn a_coding_that_does_not_end_in_one_chunked_is_refused() {
    for coding in [
        "identity",
        "gzip",
        "chunked, gzip",
        "chunked,identity",
        "chunked, chunked",
        "xchunked",
        "chunkedx",
        "chunked;q=1",
        "\"chunked\"",
        ", chunked",
        "chunked,",
        ",,chunked ,",
        "",
        "chunked\u{a0}",
        "gzip, chunked, chunked",
        "chunked gzip",
        "chun ked",
    ] {
        let fields = format!("Transfer-Encoding: {coding}");
        let found = refusal(post(&fields, "3\r\nabc\r\n0\r\n\r\n"));
        assert_eq!((found, found.status().as_u16()), (Refusal::TransferEncoding, 400), "{coding}");
    }
    for coding in ["\x0bchunked", "chunked\x0c"] {
        assert_eq!(refusal(post(&format!("Transfer-Encoding: {coding}"), "")), Refusal::ControlCharacter);
    }
    assert_eq!(refusal(post("Transfer-Encoding: chunked\0", "")), Refusal::Nul);
}

/// RFC 9110 section 5.3: lines of one name are one list.
#[test]
fn codings_on_several_lines_are_one_list() {
    for (first, second, expected) in [
        ("chunked", "chunked", Refusal::TransferEncoding),
        ("chunked", "gzip", Refusal::TransferEncoding),
        ("gzip", "chunked", Refusal::TransferCoding),
        ("", "chunked", Refusal::TransferEncoding),
    ] {
        let fields = format!("Transfer-Encoding: {first}\r\nX: y\r\nTransfer-Encoding: {second}");
        assert_eq!(refusal(post(&fields, "")), expected, "{first} {second}");
    }
}

/// RFC 9112 section 6.1: 501 to a transfer coding that is not understood.
#[test]
fn an_unknown_coding_below_chunked_is_not_implemented() {
    let found = refusal(post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"));
    assert_eq!((found, found.status().as_u16()), (Refusal::TransferCoding, 501));
}

/// RFC 9112 section 6.1: with both, the message may be an attempt at smuggling; it is refused.
#[test]
fn both_framings_at_once_are_refused() {
    for fields in ["Content-Length: 3\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 0"]
    {
        assert_eq!(refusal(post(fields, "0\r\n\r\n")), Refusal::AmbiguousLength);
    }
    assert_eq!(refusal(post("Content-Length: 3\r\nTransfer-Encoding: identity", "abc")), Refusal::AmbiguousLength);
}

/// RFC 9112 section 6.1: an HTTP/1.0 message with `Transfer-Encoding` is faulty.
#[test]
fn http_1_0_has_no_transfer_encoding() {
    for fields in ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 3"] {
        assert_eq!(refusal(format!("POST / HTTP/1.0\r\n{fields}\r\n\r\n")), Refusal::TransferEncodingHttp10);
    }
}

/// RFC 9110 section 5.1: names are compared whole.
#[test]
fn fields_of_similar_names_do_not_frame() {
    for field in [
        "Transfer_Encoding: chunked",
        "TE: chunked",
        "X-Transfer-Encoding: chunked",
        "Content_Length: 9",
        "Content-Lengt: 9",
    ] {
        assert_eq!(body(post(&format!("Content-Length: 3\r\n{field}"), "abc")), (b"abc".to_vec(), 2));
    }
}

// Chunks

/// RFC 9112 section 7.1: `chunk-size = 1*HEXDIG`.
#[test]
fn a_chunk_size_that_is_not_only_digits_is_refused() {
    for size in [
        "",
        "+3",
        "-3",
        "0x3",
        "0X3",
        "3_0",
        "#3",
        " 3",
        "3 ",
        "3\t",
        "\t3",
        "3 3",
        "g",
        "3h",
        "3\0",
        "3,",
        "zz",
        "\u{ff13}",
        ";a=b",
        "3\r",
        "\r3",
        "00000000000000003",
        "fffffffffffffffff",
        "10000000000000003",
    ] {
        let found = body_refusal(chunked(&format!("{size}\r\nabc\r\n0\r\n\r\n")));
        assert_eq!(found, Refusal::ChunkSize, "{size:?}");
    }
    assert_eq!(body(chunked("0000000000000003\r\nabc\r\n0\r\n\r\n")).0, b"abc", "16 digits");
}

/// RFC 9112 section 7.1: parse large sizes without overflow.
#[test]
fn a_chunk_size_over_the_limit_is_refused_before_its_data() {
    for size in ["100001", "ffffffffffffffff", "8000000000000000"] {
        assert_eq!(body_refusal(chunked(&format!("{size}\r\nabc"))), Refusal::BodyTooLarge);
    }
    let mut limits = Limits::default();
    limits.body = 4;
    let input = chunked("2\r\nab\r\n2\r\ncd\r\n1\r\ne\r\n0\r\n\r\n");
    let steps = exchange_with(input.as_bytes(), &limits);
    assert_eq!(steps[1..], [Step::Data(b"abcd".to_vec()), Step::Refused(Refusal::BodyTooLarge)], "the sum counts");
    limits.body = u64::MAX;
    let sum = exchange_with(chunked("2\r\nab\r\nfffffffffffffffe\r\ncd").as_bytes(), &limits);
    assert_eq!(sum[1], Step::Data([b"abcd", NEXT.as_bytes()].concat()), "and does not wrap");
}

/// RFC 9112 section 7.1: `chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF`.
#[test]
fn chunk_data_is_followed_by_crlf() {
    for body in [
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\rX0\r\n\r\n",
        "2\r\nabc\r\n",
        "3\r\nabc\r\r\n",
    ] {
        assert_eq!(body_refusal(chunked(body)), Refusal::ChunkEnd, "{body:?}");
    }
    for body in ["3\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\n\r\n", "3\r\nabc\r\n0\r\n\n", "\n"] {
        assert_eq!(body_refusal(chunked(body)), Refusal::BareLf, "{body:?}");
    }
    assert_eq!(body_refusal(chunked("3\r\nabc\r\n\r\n0\r\n\r\n")), Refusal::ChunkSize, "an empty line is not size 0");
    assert_eq!(body_refusal(chunked("3\r\nabc\r\n0\r\nXX")), Refusal::FieldName);
}

/// RFC 9112 section 8: a body without its last chunk is incomplete, never complete.
#[test]
fn a_chunked_body_without_the_last_chunk_does_not_end() {
    let steps = exchange("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    assert!(matches!(steps[..], [Step::Head(_), Step::Data(_)]), "{steps:?}");
}

/// RFC 9112 section 7.1.1: unknown extensions are ignored; BWS is removed.
#[test]
fn chunk_extensions_are_ignored() {
    for extension in
        [";a", ";a=b", ";a;b;c=d", " ; a = b", "\t;\ta\t=\tb", ";a=\"b\"", ";a=\"\"", ";a=\"b \\\" ;\\\\\t\u{e9}\";c"]
    {
        assert_eq!(
            body(chunked(&format!("3{extension}\r\nabc\r\n0{extension}\r\n\r\n"))),
            (b"abc".to_vec(), 2),
            "{extension}"
        );
    }
}

/// RFC 9112 section 7.1.1: `chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ]
/// )`.
#[test]
fn a_malformed_chunk_extension_is_refused() {
    for extension in [
        ";",
        "; ",
        ";;a",
        ";a=",
        ";a=;b",
        ";=b",
        ";a b",
        ";a ",
        ";a\0b",
        ";a\rb",
        ";a=\"b",
        ";a=\"b\"c",
        ";a=\"\\",
        ";a=\"\x01\"",
        ";a=\"\\\x7f\"",
        ";a=b\x0b",
        ";\u{e9}",
        ";a=(b)",
        ";a=\"b\\\"",
    ] {
        let found = body_refusal(chunked(&format!("3{extension}\r\nabc\r\n0\r\n\r\n")));
        assert_eq!(found, Refusal::ChunkExtension, "{extension:?}");
    }
    assert_eq!(body_refusal(chunked("3;a\nb\r\nabc\r\n0\r\n\r\n")), Refusal::BareLf);
    assert_eq!(body_refusal(chunked("3;a=\"\n\"\r\nabc\r\n0\r\n\r\n")), Refusal::BareLf);
}

/// RFC 9112 section 7.1.1: limit the total length of extensions.
#[test]
fn chunk_extensions_are_bounded_per_line_and_in_all() {
    let line = |len: usize| format!("1;{}\r\na\r\n", "b".repeat(len - "1;\r\n".len()));
    assert_eq!(body(chunked(&format!("{}0\r\n\r\n", line(4096)))).0, b"a");
    assert_eq!(body_refusal(chunked(&line(4097))), Refusal::ChunkLineTooLong);
    assert_eq!(body_refusal(chunked(&"0".repeat(1 << 15))), Refusal::ChunkLineTooLong);
    let signed = "1;name=value\r\na\r\n".repeat(1000);
    assert_eq!(body(chunked(&format!("{signed}0\r\n\r\n"))).0.len(), 1000, "to be ignored, not refused");
    let found = body_refusal(chunked(&line(256).repeat(66)));
    assert_eq!((found, found.status().as_u16()), (Refusal::TrailersTooLarge, 431));
}

// Trailers

/// RFC 9112 section 7.1.2 and RFC 9110 section 6.5.1: trailers may be discarded, and are no header
/// fields.
#[test]
fn trailers_are_dropped_and_never_become_fields() {
    let input = chunked("3\r\nabc\r\n0\r\nHost: b\r\nContent-Length: 9\r\nX:\r\n\r\n");
    assert_eq!(body(&input), (b"abc".to_vec(), 2));
    let (mut connection, mut head, mut rest) = (Connection::new(), RequestHead::new(), input.as_bytes());
    loop {
        let (used, event) = connection.receive(rest, &mut head, &Limits::default());
        rest = &rest[used..];
        if event == Event::End {
            break;
        }
    }
    assert_eq!((head.host(), head.header("x"), head.header("content-length")), (Some("a"), None, None));
}

/// RFC 9112 section 7.1.2: trailers are field lines.
#[test]
fn a_malformed_trailer_is_refused() {
    for (line, expected) in [
        ("X : y", Refusal::SpaceBeforeColon),
        (" X: y", Refusal::Folded),
        ("X: y\r\n z", Refusal::Folded),
        ("XY", Refusal::FieldColon),
        (": y", Refusal::FieldName),
        ("X: \0", Refusal::Nul),
        ("X: y\rz", Refusal::BareCr),
        ("X: y\n", Refusal::BareLf),
        ("X: \x01", Refusal::ControlCharacter),
        ("\rX: y", Refusal::BareCr),
    ] {
        assert_eq!(body_refusal(chunked(&format!("3\r\nabc\r\n0\r\n{line}\r\n\r\n"))), expected, "{line:?}");
    }
}

/// RFC 9110 section 5.4 and RFC 6585 section 5: trailers count, be they one line or many.
#[test]
fn trailers_are_bounded() {
    let one = format!("X: {}\r\n", "y".repeat(16 * 1024 - 5));
    assert_eq!(body(chunked(&format!("1\r\na\r\n0\r\n{one}\r\n"))), (b"a".to_vec(), 2), "{} bytes", one.len());
    for trailers in [one.replace(": ", ":  "), "X: y\r\n".repeat(2731), "X".repeat(17_000)] {
        let found = body_refusal(chunked(&format!("1\r\na\r\n0\r\n{trailers}\r\n")));
        assert_eq!((found, found.status().as_u16()), (Refusal::TrailersTooLarge, 431));
    }
    let mut limits = Limits::default();
    limits.trailers = 0;
    let plain = exchange_with(chunked("1\r\na\r\n0\r\n\r\n").as_bytes(), &limits);
    assert_eq!(plain.len(), 5, "the end of a body is no trailer: {plain:?}");
}

// Flow

/// A body is handed on as it arrives, not gathered.
#[test]
fn a_body_is_not_held_back() {
    let (mut connection, mut head, limits) = (Connection::new(), RequestHead::new(), Limits::default());
    let head_bytes = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.receive(head_bytes, &mut head, &limits);
    assert_eq!(connection.receive(b"", &mut head, &limits), (0, Event::NeedData));
    assert_eq!(connection.receive(b"3", &mut head, &limits), (0, Event::NeedData));
    assert_eq!(connection.receive(b"3\r\na", &mut head, &limits), (4, Event::Data(b"a")));
    assert_eq!(connection.receive(b"bc\r", &mut head, &limits), (2, Event::Data(b"bc")));
    assert_eq!(connection.receive(b"\r", &mut head, &limits), (0, Event::NeedData));
    assert_eq!(connection.receive(b"\r\n0\r\n\r", &mut head, &limits), (5, Event::NeedData));
    assert_eq!(connection.receive(b"\r\n", &mut head, &limits), (2, Event::End));
}

/// After a refusal input is consumed, so that the peer is not kept from reading the answer, and
/// ignored.
#[test]
fn a_refusal_is_final() {
    let (mut connection, mut head, limits) = (Connection::new(), RequestHead::new(), Limits::default());
    let refused = Event::Refused(Refusal::ContentLength);
    let input = post("Content-Length: x", "");
    assert_eq!(connection.receive(input.as_bytes(), &mut head, &limits), (input.len(), refused));
    assert_eq!(connection.receive(NEXT.as_bytes(), &mut head, &limits), (NEXT.len(), refused));
    assert_eq!(connection.receive(b"", &mut head, &limits), (0, refused));
    assert_eq!((connection.refusal(), connection.must_close()), (Some(Refusal::ContentLength), true));
}

/// A request as a client may send it, and what a server must read.
fn valid_request() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let pieces = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..5);
    (pieces, any::<bool>(), any::<bool>()).prop_map(|(pieces, chunked, empty_line)| {
        let body = pieces.concat();
        let mut input = if empty_line { b"\r\n".to_vec() } else { Vec::new() };
        input.extend_from_slice(b"POST / HTTP/1.1\r\nHost: a\r\n");
        if !chunked {
            input.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            input.extend_from_slice(&body);
            return (input, body);
        }
        input.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            input.extend_from_slice(format!("{:X};a=b\r\n", piece.len()).as_bytes());
            input.extend_from_slice(piece);
            input.extend_from_slice(b"\r\n");
        }
        input.extend_from_slice(b"0\r\nX: y\r\n\r\n");
        (input, body)
    })
}

proptest! {
    /// Whatever is in the bodies, each request ends where its sender ended it.
    #[test]
    fn pipelined_requests_are_told_apart(requests in prop::collection::vec(valid_request(), 1..5)) {
        let input: Vec<u8> = requests.iter().flat_map(|(input, _)| input.iter().copied()).collect();
        let mut steps = exchange(input).into_iter();
        for (_, body) in requests {
            prop_assert!(matches!(steps.next(), Some(Step::Head(_))));
            if !body.is_empty() {
                prop_assert_eq!(steps.next(), Some(Step::Data(body)));
            }
            prop_assert_eq!(steps.next(), Some(Step::End));
        }
        prop_assert_eq!(steps.next(), None);
    }
}
