#!/usr/bin/env python3
"""`contract` keeps RFC 9112 and what RFC 9110 asks of an origin server: one row for each rule, as bytes on the wire.

Behind every message stands one more request, NEXT, and then the end of what the client sends. So a row says all that may come
back: whether the message was answered, by what, and whether the next request was found where it begins, or nothing was read
any more. Every message is sent whole and byte by byte.

Which refusals there are, and for what, is tested closer to the code; here is what must not be lost on the way to the wire.
"""

import email.utils
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from support import Reply, Server, check, check_equal, check_within, free_port, run_cases, script

# Of each answer the status, or status and body.
Answers = list[int | tuple[int, bytes]]


@dataclass(frozen=True)
class Row:
    """A rule: where it stands, what it says, the messages it is about, and what answers each of them."""

    section: str
    rule: str
    answers: Answers
    sent: tuple[bytes, ...]
    methods: tuple[str, ...] = ()


def main() -> None:
    port = free_port()
    with Server("contract", port, HEAD_SECONDS, port=port) as server:
        run_cases([as_case(row, cut) for row in ROWS for cut in (whole, byte_by_byte)], server)
        run_cases(CASES, server)


# --- messages ------------------------------------------------------------------------------------


def message(line: str, *fields: str, host: str | None = "a", body: str | bytes = b"") -> bytes:
    hosts = [] if host is None else [f"Host: {host}"]
    head = "\r\n".join([line, *hosts, *fields, "", ""]).encode("latin-1")
    return head + (body.encode("latin-1") if isinstance(body, str) else body)


def get(target: str = "/", *fields: str, host: str | None = "a", version: str = "1.1") -> bytes:
    return message(f"GET {target} HTTP/{version}", *fields, host=host)


def post(length: object, *fields: str, body: str | bytes = "abc", version: str = "1.1") -> bytes:
    return message(f"POST /echo HTTP/{version}", f"Content-Length: {length}", *fields, body=body)


def coded(coding: str, *fields: str, body: str | bytes = "3\r\nabc\r\n0\r\n\r\n", version: str = "1.1") -> bytes:
    return message(f"POST /echo HTTP/{version}", f"Transfer-Encoding: {coding}", *fields, body=body)


def chunks(body: str | bytes) -> bytes:
    return coded("chunked", body=body)


NEXT = get("/delay?ms=7")
HELLO, ABC, SEVEN = (200, b"Hello, World!"), (200, b"abc"), (200, b"7")


# --- the rows ------------------------------------------------------------------------------------


def row(section: str, rule: str, answers: Answers, *sent: bytes, methods: tuple[str, ...] = ()) -> Row:
    """These answers to each message, and nothing else."""
    return Row(section, rule, answers, sent, methods)


def served(section: str, rule: str, *sent: bytes, answer: int | tuple[int, bytes] = HELLO) -> Row:
    """It is answered, and the next request is found."""
    return Row(section, rule, [answer, SEVEN], sent)


def last(section: str, rule: str, *sent: bytes, answer: int | tuple[int, bytes] = HELLO) -> Row:
    """It is answered, and nothing after it is read."""
    return Row(section, rule, [answer], sent)


def refused(section: str, rule: str, *sent: bytes, status: int = 400) -> Row:
    """It is refused with this status, and nothing after it is read."""
    return Row(section, rule, [status], sent)


REQUEST_LINES = [
    served("9112 2.2", "an empty line before a request is ignored", b"\r\n" + get()),
    refused("9112 2.2", "lines end in CRLF", get().replace(b"\r\n", b"\n"), b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    refused(
        "9112 2.2", "a CR stands before a LF", b"GET / HTTP/1.1\rHost: a\r\n\r\n", get("/", "X: a\rb"), b"\r" + get(),
    ),
    refused(
        "9112 2.2", "what is not HTTP is a 400", b"\x16\x03\x01\0\xc8\x01\0\0\xc4", b"SSH-2.0-x\r\n", b"\0\0\0\0",
        b"{}\r\n",
    ),
    refused(
        "9112 2.2", "nothing stands before the first field", message("GET / HTTP/1.1", " X: a"),
        message("GET / HTTP/1.1\r\n X: a"),
    ),
    refused("9112 2.2", "HTTP/0.9 is not served", b"GET /\r\n"),
    refused("9113 3.4", "the preface of HTTP/2 is told the version", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", status=505),
    refused(
        "9112 2.3", "the name of the protocol and two digits",
        *[get("/", version=v) for v in ("1", "1.", "1.10", "01.1", "1.1 ", "x.1", "+1.1")], message("GET / http/1.1"),
        message("GET / HTTP 1.1"), message("GET / HTTPS/1.1"), message("GET /"),
    ),
    refused(
        "9110 15.6.6", "another major version", get("/", version="2.0"), get("/", version="0.9"),
        get("/", version="9.9"), status=505,
    ),
    served("9110 2.5", "a higher minor version is 1.1", get("/", version="1.2"), get("/", version="1.9")),
    refused(
        "9112 3", "one SP between the parts", message("GET  / HTTP/1.1"), message("GET /  HTTP/1.1"),
        message("GET\t/ HTTP/1.1"), message(" GET / HTTP/1.1"), message("GET / HTTP/1.1\t"),
        message("GET /a b HTTP/1.1"), message("GET /\x0bHTTP/1.1"),
    ),
    refused(
        "9110 9.1", "a method is a token", message("G@T / HTTP/1.1"), message("G(T / HTTP/1.1"),
        message("G\xe9T / HTTP/1.1"), message(" / HTTP/1.1"),
    ),
    refused("9112 3", "a method longer than any is not implemented", message("M" * 300 + " / HTTP/1.1"), status=501),
    served("9112 3", "a request line of 8000 bytes", get("/?" + "q" * 7984)),
    refused("9112 3", "a target too long", get("/?" + "q" * 9000), get("/" + "q" * 70_000), status=414),
]

TARGETS = [
    served(
        "9112 3.2.2", "absolute-form is accepted", get("http://a/"), get("HTTP://a:80"), get("http://b?x"),
        get("http://[::1]/"),
    ),
    served("9112 3.2.2", "the target counts and not Host", get("http://b/", host="c")),
    refused(
        "9110 4.2", "an http URI has a host, and no user", get("http:///"), get("http://:80/"), get("http://u@a/"),
        get("http:/a"),
    ),
    refused("9110 7.4", "an https URI needs TLS", get("https://a/"), get("https://a:443/delay?ms=1"), status=421),
    refused(
        "9112 3.2", "a form that the method does not have", get("*"), get("a:80"), get("delay?ms=1"), get("?x"),
        get("ftp://a/"),
    ),
    refused(
        "9112 3.2.3", "CONNECT takes a host and a port",
        *[message(f"CONNECT {t} HTTP/1.1") for t in ("a", "a:", "a:x", "a:0", "a:99999", ":80", "/", "http://a/")],
    ),
    refused("9110 9.3.6", "no tunnel is opened", message("CONNECT a:443 HTTP/1.1"), status=501),
    served(
        "9112 3.2.4", "OPTIONS of the server as a whole", message("OPTIONS * HTTP/1.1"),
        message("OPTIONS http://a:80 HTTP/1.1"), answer=204,
    ),
    refused("9112 3.2", "no fragment", get("/#a"), get("/?a#b")),
    refused(
        "9112 3.2", "only what may stand in a URI", *[get(f"/?{c}") for c in '"<>\x7f\x01\xe9'], get("/\\"),
        get("/\0"),
    ),
    served("9110 4.2.3", "an escape of a letter is the letter", get("/%64elay?ms=%37"), answer=SEVEN),
    served(
        "9110 15.5.5", "nothing is there", get("/no/such"), get("/../"), get("/%2e%2e/x"), get("/%00"), get("/%zz"),
        answer=404,
    ),
    served("9110 4.2.3", "an empty query is no other page", get("/?"), get("/?=&&=")),
]

HOSTS = [
    refused(
        "9112 3.2", "HTTP/1.1 without Host", get(host=None), get("http://a/", host=None),
        message("OPTIONS * HTTP/1.1", host=None),
    ),
    refused(
        "9112 3.2", "Host comes once", get("/", "Host: a"), get("/", "hOST: b"), get("/", "Host: b", version="1.0"),
    ),
    refused(
        "9112 3.2", "a host and a port",
        *[get(host=h) for h in ("http://a/", "a/", "u@a", "a b", "a:x", "a:80:80", "a,b c", "[::1", "::1", "a%zz", "a\x7f", "\xe9", "<a>", 'a"b', "a\\b", "a?b", "a#b")],
    ),
    served(
        "9112 3.2", "every kind of host",
        *[get(host=h) for h in ("a", "A.example:8080", "a:", "1.2.3.4", "[::1]:80", "[::ffff:1.2.3.4]", "a_b", "a%41", "a.", "  a\t", "")],
    ),
    last("9112 3.2", "HTTP/1.0 may do without", get(host=None, version="1.0")),
]

FIELDS = [
    served(
        "9110 5.1", "names have no case", b"POST /echo HTTP/1.1\r\nhOST: a\r\ncONTENT-lENGTH: 3\r\n\r\nabc",
        answer=ABC,
    ),
    served("9112 5", "blanks around a value are not part of it", post(" \t3\t "), post("3 "), answer=ABC),
    served("9110 5.5", "bytes above ASCII pass", get("/", "X: \xe9\xff\x80")),
    served(
        "9110 5.3", "unknown and repeated fields are ignored",
        get("/", "X: 1", "X: 2", "Content-Type: a", "Content-Type: b", "Transfer_Encoding: chunked", "TE: x"),
    ),
    served(
        "9110 5.4", "90 fields, and one of 7000 bytes", get("/", *[f"X-{n}: {n}" for n in range(90)]),
        get("/", "X: " + "v" * 7000),
    ),
    refused(
        "9112 5.1", "no blank before the colon", get("/", "X : a"), get("/", "X\t: a"),
        post("3").replace(b"Length:", b"Length :"), coded("chunked").replace(b"ing:", b"ing :"),
    ),
    refused(
        "9110 5.1", "a name is a token", get("/", ": a"), get("/", "X@Y: a"), get("/", "X Y: a"),
        get("/", "X\xe9: a"), get("/", "NoColon"), get("/", "X\0: a"),
    ),
    refused(
        "9112 5.2", "no folded lines", get("/", "X: a\r\n b"), get("/", "X: a\r\n\tb"), post("\r\n 3"),
        coded("\r\n\tchunked"),
    ),
    refused(
        "9110 5.5", "no control characters in a value",
        *[get("/", f"X: a{c}b") for c in "\0\x01\x07\x0b\x0c\x1b\x7f"],
    ),
    refused("9110 5.4", "more fields than anybody sends", get("/", *["X: y"] * 200), status=431),
    refused(
        "9110 5.4", "a head too large", get("/", "X: " + "v" * 20_000), get("/", "X" * 20_000 + ": v"), status=431,
    ),
]

LENGTHS = [
    served("9112 6.3", "a body is as long as its length", post("3"), post("003"), post("0" * 40 + "3"), answer=ABC),
    served(
        "9112 6.3", "without a length there is none", message("POST /echo HTTP/1.1"), post("0", body=""),
        answer=(200, b""),
    ),
    served("9112 6.3", "a body that nobody wants is no request", get("/", f"Content-Length: {len(NEXT)}") + NEXT),
    served(
        "9112 9.3", "nor is one of a request that fails", get("/fail", f"Content-Length: {len(NEXT)}") + NEXT,
        answer=500,
    ),
    served(
        "9112 9.3", "nor one of a page that is not there",
        message("PUT /x HTTP/1.1", f"Content-Length: {len(NEXT)}") + NEXT, answer=404,
    ),
    refused(
        "9112 6.3", "a length is digits",
        *[post(n) for n in ("+3", "-3", "0x3", "3_0", "", "3,3", "3, 3", "3 3", "3;3", "3.0", "1e1", "\xb3", "abc")],
    ),
    refused("9112 6.3", "one length", post("3", "Content-Length: 3"), post("3", "content-length: 4")),
    refused(
        "9110 8.6", "no length wraps around", post("18446744073709551619"), post("9" * 60), post((1 << 20) + 1),
        status=413,
    ),
]

CODINGS = [
    served("9112 7.1", "chunks", coded("chunked"), coded("CHUNKED"), coded("\tchunked "), answer=ABC),
    refused(
        "9112 6.3", "a length beside chunks", coded("chunked", "Content-Length: 3"),
        coded("chunked", "Content-Length: 13"), post("3", "Transfer-Encoding: chunked"),
    ),
    refused(
        "9112 6.3", "chunked comes last", coded("chunked, gzip"), coded("gzip"), coded("identity"), coded("xchunked"),
        coded("chunked", "Transfer-Encoding: x"),
    ),
    refused(
        "9112 7.1", "chunked comes once", coded("chunked, chunked"), coded("chunked", "Transfer-Encoding: chunked"),
    ),
    refused("9112 7.1", "chunked has no parameters", coded("chunked;q=1"), coded('"chunked"')),
    refused(
        "9112 6.1", "an unknown coding below chunked", coded("gzip, chunked"),
        coded("gzip", "Transfer-Encoding: chunked"), status=501,
    ),
    refused(
        "9112 6.1", "no chunks in HTTP/1.0", coded("chunked", version="1.0"),
        coded("chunked", "Content-Length: 3", version="1.0"),
    ),
]

CHUNKS = [
    served(
        "9112 7.1", "several chunks, sizes of every length", chunks("1\r\na\r\n0002\r\nbc\r\n00000\r\n\r\n"),
        answer=ABC,
    ),
    served(
        "9112 7.1", "hexadecimal in either case", chunks("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"),
        answer=(200, b"0123456789" * 2),
    ),
    served(
        "9112 7.1", "every byte may be data", chunks(b"100\r\n" + bytes(range(256)) + b"\r\n0\r\n\r\n"),
        answer=(200, bytes(range(256))),
    ),
    served(
        "9112 7.1.1", "extensions are ignored",
        *[chunks(f"3{x}\r\nabc\r\n0{x}\r\n\r\n") for x in (";a", ";a=b", ' ; a = "b;\\"c"', ";a;b=c", ";a=" + "b" * 1000)],
        answer=ABC,
    ),
    served(
        "9112 7.1.2", "trailers are no fields",
        chunks("3\r\nabc\r\n0\r\nHost: b\r\nContent-Length: 9\r\nX: y\r\n\r\n"), answer=ABC,
    ),
    refused(
        "9112 7.1", "a size is digits",
        *[chunks(f"{s}\r\nabc\r\n0\r\n\r\n") for s in ("+3", "-3", "0x3", "0_3", "", " 3", "3 ", "3\t", "g", "3,3", "\u0663".encode().decode("latin-1"))],
    ),
    refused("9112 7.1", "no size wraps around", chunks("10000000000000003\r\nabc\r\n0\r\n\r\n")),
    refused(
        "9112 7.1", "nor is it beyond what a body may have", chunks("ffffffffffffffff\r\nabc"),
        chunks("100001\r\nabc"), status=413,
    ),
    refused(
        "9112 7.1", "data ends in CRLF", chunks("3\r\nabcd\r\n0\r\n\r\n"), chunks("3\r\nabc\n0\r\n\r\n"),
        chunks("3\r\nab\r\n0\r\n\r\n"), chunks("3\r\nabc\r\n\r\n0\r\n\r\n"),
    ),
    refused(
        "9112 7.1.1", "an extension is in its line", *[chunks(f"3;a{c}b\r\nabc\r\n0\r\n\r\n") for c in "\n\r\0"],
        chunks("3;\r\nabc\r\n0\r\n\r\n"),
    ),
    refused("9112 7.1.1", "extensions have an end", chunks("3;a=" + "b" * 70_000)),
    refused(
        "9112 7.1.2", "trailers are fields",
        *[chunks(f"3\r\nabc\r\n0\r\n{t}\r\n\r\n") for t in ("X", "X : y", " X: y", "X: \0", ": y")],
    ),
    refused("9110 5.4", "trailers have an end", chunks("3\r\nabc\r\n0\r\n" + "X: y\r\n" * 5000), status=431),
]

CONNECTIONS = [
    row(
        "9112 9.3.2", "pipelined requests are answered in order", [HELLO, ABC, 404, (200, b"9"), ABC, SEVEN],
        get() + post("3") + get("/x") + get("/delay?ms=9") + coded("chunked"),
    ),
    row(
        "9110 15", "a good request before a bad one is answered", [HELLO, ABC, 400],
        get() + post("3") + message("G@T / HTTP/1.1"),
    ),
    last(
        "9112 9.6", "close is close",
        *[get("/", f) for f in ("Connection: close", "Connection: x, CLOSE", "connection: ,close,", "Connection: keep-alive\r\nConnection: close")],
    ),
    last(
        "9112 9.6", "also with a body", post("3", "Connection: close"), coded("chunked", "Connection: close"),
        answer=ABC,
    ),
    served(
        "9112 9.3", "nothing else is", get("/", "Connection: closed"), get("/", "Connection: x"),
        get("/", "Keep-Alive: 1"), get("/", "Proxy-Connection: close"),
    ),
    last(
        "9112 9.3", "HTTP/1.0 is not kept", get(version="1.0"), get("/", "Connection: x", version="1.0"),
        get("/", "Connection: keep-alive, close", version="1.0"),
    ),
    served(
        "9112 9.3", "unless it asks for that", get("/", "Connection: Keep-Alive", version="1.0"),
        get("/", "Connection: x, keep-alive", version="1.0"),
    ),
    served(
        "9110 7.8", "a wish to upgrade is ignored", get("/", "Connection: upgrade", "Upgrade: x/1"),
        get("/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        get("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    ),
    row(
        "9112 8", "half a message is not answered", [], b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n",
        post("100"), chunks("3\r\nabc\r\n"),
    ),
]

EXPECTATIONS = [
    row(
        "9110 10.1.1", "the body is asked for", [100, ABC, SEVEN], post("3", "Expect: 100-continue"),
        post("3", "expect: 100-CONTINUE"), coded("chunked", "Expect: 100-continue"),
    ),
    served(
        "9110 10.1.1", "not where there is none", get("/", "Expect: 100-continue"),
        get("/", "Expect: 100-continue", "Content-Length: 0"),
    ),
    last(
        "9110 10.1.1", "nor in HTTP/1.0", post("3", "Expect: 100-continue", version="1.0"),
        post("3", "Expect: x", version="1.0"), answer=ABC,
    ),
    refused(
        "9110 10.1.1", "an unknown expectation", post("3", "Expect: x"), post("3", "Expect: 100-continue, x"),
        status=417,
    ),
    refused("9110 10.1.1", "a body too long is not asked for", post(10 << 20, "Expect: 100-continue"), status=413),
    refused("9110 10.1.1", "nor that of a bad request", post("3", "Expect: 100-continue", "X : y")),
]

METHODS = [
    row(
        "9110 9.3.2", "HEAD has no body", [200, 404, 500, 200, 405, SEVEN],
        b"".join(message(f"HEAD {t} HTTP/1.1") for t in ("/", "/x", "/fail", "/stream?n=3", "/echo")),
        methods=("HEAD",) * 5,
    ),
    row(
        "9110 9.3.2", "nor has its refusal", [400], message("HEAD / HTTP/1.1", "X : y"),
        message("HEAD / HTTP/1.1").replace(b"\r\n", b"\n"), message("HEAD /a b HTTP/1.1"), methods=("HEAD",),
    ),
    row(
        "9110 9.3.2", "whatever it is refused for", [431], message("HEAD / HTTP/1.1", "X: " + "v" * 20_000),
        methods=("HEAD",),
    ),
    served("9110 9.1", "methods have a case", message("get / HTTP/1.1"), message("Get / HTTP/1.1"), answer=501),
    served(
        "9110 9.1", "an unknown method is not implemented", message("BREW / HTTP/1.1"),
        message("!#$%&'*+-.^_`|~ / HTTP/1.1"), answer=501,
    ),
    served(
        "9110 9.1", "a known one is not allowed", message("DELETE / HTTP/1.1"), message("TRACE / HTTP/1.1"),
        message("PATCH /echo HTTP/1.1"), get("/echo"), message("POST / HTTP/1.1", "Content-Length: 3", body="abc"),
        answer=405,
    ),
    served(
        "9110 9.3.7", "OPTIONS of a page", message("OPTIONS / HTTP/1.1"),
        message("OPTIONS /echo HTTP/1.1", "Content-Length: 3", body="abc"), answer=204,
    ),
    refused(
        "9110 14.5", "a part is not put for the whole",
        message("PUT /echo HTTP/1.1", "Content-Range: bytes 0-2/9", "Content-Length: 3", body="abc"),
    ),
    served("9110 14.4", "elsewhere the field means nothing", post("3", "Content-Range: bytes 0-2/9"), answer=ABC),
    served("9110 14.2", "nor do ranges where there are none", get("/", "Range: bytes=0-1")),
]

ROWS = [*REQUEST_LINES, *TARGETS, *HOSTS, *FIELDS, *LENGTHS, *CODINGS, *CHUNKS, *CONNECTIONS, *EXPECTATIONS, *METHODS]


# --- how a row is sent ---------------------------------------------------------------------------


def whole(data: bytes) -> list[bytes]:
    return [data]


def byte_by_byte(data: bytes) -> list[bytes]:
    """The first and the last bytes one by one, which is where the lines are; what is long between them at once."""
    if len(data) <= 2 * EDGE:
        return [data[at : at + 1] for at in range(len(data))] or [data]
    return [*byte_by_byte(data[:EDGE]), data[EDGE:-EDGE], *byte_by_byte(data[-EDGE:])]


def as_case(row: Row, cut: Callable[[bytes], list[bytes]]) -> Callable[[Server], None]:
    def case(server: Server) -> None:
        for sent in row.sent:
            *pieces, end = cut(sent)
            replies = exchange(server, [*pieces, end + NEXT if row.answers else end], row.methods)
            check_equal(brief(replies, row.answers), row.answers, f"answers to {sent[:150]!r}")
            check_replies(replies)

    way = cut.__name__.replace("_", " ")
    case.__name__ = f"RFC {row.section}: {row.rule}" + (f", {way}" if cut is not whole else "")
    return case


def exchange(server: Server, pieces: list[bytes], methods: tuple[str, ...] = ()) -> list[Reply]:
    """Sends the pieces and then no more, and reads to the end, which must not be a reset."""
    with server.connect() as wire:
        for piece in pieces:
            wire.send(piece)
        wire.socket.shutdown(socket.SHUT_WR)
        return wire.replies(methods)


def brief(replies: list[Reply], expected: Answers) -> Answers:
    """The answers as a row has them: without the body where it does not matter."""
    wanted = [*expected, *[None] * len(replies)]
    return [reply.status if isinstance(want, int) else (reply.status, reply.body) for reply, want in zip(replies, wanted)]


def check_replies(replies: list[Reply]) -> None:
    """What holds for every answer (RFC 9110 sections 6.6.1 and 5.3), and for the last one (RFC 9112 section 9.6)."""
    for reply in replies:
        if reply.status >= 200:
            seconds = email.utils.parsedate_to_datetime(reply.one("date")).timestamp()
            check_within(abs(seconds - time.time()), 0, 5, "distance of Date from now")
            for name in ("content-type", "content-length", "server", "connection", "location"):
                check(len(reply.all(name)) <= 1, f"{name} {len(reply.all(name))} times in a {reply.status}")
        if reply.status == 405:
            check(reply.one("allow") != "", "405 without what is allowed")
    if replies and (replies[-1].status, replies[-1].body) != SEVEN:
        check(replies[-1].closes(), f"the {replies[-1].status} does not say that it is the last")


# --- what takes more than a message --------------------------------------------------------------


def a_later_head_that_stops_half_way_is_given_up_like_the_first(server: Server) -> None:
    for begun in (b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n"):
        with server.connect() as wire:
            wire.send(get() + begun)
            start = time.monotonic()
            replies = wire.replies()
            check_equal(brief(replies, [HELLO, 408]), [HELLO, 408], "answers")
            check_within(time.monotonic() - start, HEAD_SECONDS - 0.2, HEAD_SECONDS + 2, "the time for half a head")


def a_head_of_a_head_request_that_stops_is_given_up_without_a_body(server: Server) -> None:
    with server.connect() as wire:
        wire.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n")
        check_equal([reply.status for reply in wire.replies(("HEAD",))], [408], "answers")


def the_body_is_asked_for_before_it_comes(server: Server) -> None:
    with server.connect() as wire:
        for _ in range(2):
            wire.send(post(3, "Expect: 100-continue", body=""))
            check_equal(wire.reply().status, 100, "interim status")
            wire.send(b"abc")
            check_equal(brief([wire.reply()], [ABC]), [ABC], "answer")


def what_is_sent_behind_a_refusal_does_not_cost_the_answer(server: Server) -> None:
    for begun in (message("G@T / HTTP/1.1"), post(10 << 20, body=""), message("CONNECT a:443 HTTP/1.1")):
        with server.connect() as wire:
            wire.send(begun)
            for _ in range(64):
                wire.send(b"x" * 65_536)
            wire.socket.shutdown(socket.SHUT_WR)
            check_equal(len(wire.replies()), 1, f"answers to {begun[:20]!r}")


def a_thousand_pipelined_requests_are_answered_in_order(server: Server) -> None:
    kinds = [(get(), HELLO), (post(3), ABC), (NEXT, SEVEN), (coded("chunked"), ABC)]
    asked = [kinds[3 * number % 4] for number in range(1000)]
    with server.connect() as wire:
        wire.send(b"".join(sent for sent, _ in asked))
        wire.socket.shutdown(socket.SHUT_WR)
        expected = [answer for _, answer in asked]
        check(brief(wire.replies(), expected) == expected, "a thousand pipelined requests are answered otherwise")


def who_reads_slowly_gets_all_of_a_stream(server: Server) -> None:
    with server.connect() as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        wire.send(get("/stream?n=200000", "Connection: close"))
        time.sleep(0.5)
        (reply,) = wire.replies()
        check(reply.body.endswith(b"\nline 199999\n") and reply.body.count(b"\n") == 200_000, "the stream was cut")


def half_requests_hold_up_nobody(server: Server) -> None:
    wires = [server.connect() for _ in range(200)]
    for wire in wires:
        wire.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Le")
    for _ in range(20):
        check_equal(brief([server.ask("GET", "/")], [HELLO]), [HELLO], "answer")
    for wire in wires:
        wire.close()


CASES = [
    a_later_head_that_stops_half_way_is_given_up_like_the_first,
    a_head_of_a_head_request_that_stops_is_given_up_without_a_body,
    the_body_is_asked_for_before_it_comes,
    what_is_sent_behind_a_refusal_does_not_cost_the_answer,
    a_thousand_pipelined_requests_are_answered_in_order,
    who_reads_slowly_gets_all_of_a_stream,
    half_requests_hold_up_nobody,
]

HEAD_SECONDS = 1

# Long enough for a request line and the first fields.
EDGE = 60

if __name__ == "__main__":
    script(main, seconds=120)
