#!/usr/bin/env python3
"""`contract PORT` and `hello PORT` keep their interface, request by request, as a client sees it on the wire.

What the RFCs demand of any server is tested closer to the code; here is what these two programs promise.
"""

import contextlib
import email.utils
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from support import (
    Reply,
    Server,
    Wire,
    check,
    check_equal,
    check_within,
    chunked,
    free_port,
    request,
    run_cases,
    script,
)


def main() -> None:
    port = free_port()
    with Server("contract", port, port=port) as server:
        run_cases(CONTRACT, server)
    port = free_port()
    with Server("contract", port, HEADER_TIMEOUT_SECONDS, port=port) as server:
        run_cases(HEADER_TIMEOUT, server)
    port = free_port()
    with Server("hello", port, port=port) as server:
        run_cases(HELLO, server)


# --- the page at / -------------------------------------------------------------------------------


def root_says_hello(server: Server) -> None:
    reply = server.ask("GET", "/")
    check_hello(reply)
    check_equal(reply.one("content-length"), "13", "Content-Length")
    date = email.utils.parsedate_to_datetime(reply.one("date")).timestamp()
    check_within(abs(date - time.time()), 0, 5, "distance of Date from now")


def head_is_get_without_the_body(server: Server) -> None:
    with server.connect() as wire:
        got, head = wire.ask("GET", "/"), wire.ask("HEAD", "/")
        check_equal(head.status, 200, "status of HEAD")
        check_equal(stable_fields(head), stable_fields(got), "fields of HEAD")
        # A body after HEAD would be read here as the start of the next response.
        check_hello(wire.ask("GET", "/"))


def unknown_paths_are_not_found(server: Server) -> None:
    with server.connect() as wire:
        for target in ("/nothing-here", "/echo/below", "/Hello"):
            check_equal(wire.ask("GET", target).status, 404, f"status of {target}")


def a_wrong_method_is_refused_with_those_allowed(server: Server) -> None:
    check_refused(server, "POST", "/", allowed={"GET", "HEAD"})
    check_refused(server, "DELETE", "/echo", allowed={"POST", "PUT"})
    check_refused(server, "GET", "/echo", allowed={"POST", "PUT"})
    check_refused(server, "PUT", "/metrics", allowed={"GET", "HEAD"})


def metrics_are_served_in_the_text_format(server: Server) -> None:
    check_text_format(server.ask("GET", "/metrics"))
    check(bool(server.metrics().samples), "no sample on /metrics")


# --- bodies --------------------------------------------------------------------------------------


def echo_returns_a_body_of_known_length(server: Server) -> None:
    with server.connect() as wire:
        for method in ("POST", "PUT"):
            for body in (b"", b"x", BYTES, b"y" * MEBIBYTE):
                check_echo(wire.ask(method, "/echo", body=body), body)


def echo_returns_a_chunked_body(server: Server) -> None:
    with server.connect() as wire:
        for method in ("POST", "PUT"):
            for body, sizes in ((b"", []), (b"x", [1]), (BYTES, [1, 2, 100]), (b"y" * MEBIBYTE, [9_999])):
                wire.send(request(method, "/echo", CHUNKED) + chunked(body, sizes))
                check_echo(wire.reply(), body)


def echo_returns_a_body_that_comes_byte_by_byte(server: Server) -> None:
    with server.connect() as wire:
        message = request("POST", "/echo", CHUNKED) + chunked(b"in small pieces", [1, 3])
        for byte in message:
            wire.send(bytes([byte]))
        check_echo(wire.reply(), b"in small pieces")


def a_declared_body_over_one_mebibyte_is_refused_before_it_comes(server: Server) -> None:
    with server.connect() as wire:
        wire.send(request("POST", "/echo", [("Content-Length", str(MEBIBYTE + 1))]))
        check_too_large(wire)


def a_chunked_body_over_one_mebibyte_is_refused(server: Server) -> None:
    with server.connect() as wire:
        send_to_the_refusal(wire, request("POST", "/echo", CHUNKED) + chunked(b"z" * (MEBIBYTE + 1), [65_536]))
        check_too_large(wire)


def a_refused_body_that_comes_all_the_same_ends_without_a_reset(server: Server) -> None:
    # A close with input unread is a reset, which can take the answer away from under the client (RFC 9112, 9.6).
    # On Linux the answer often survives it, so the reset itself is what is looked for.
    with server.connect() as wire:
        wire.send(request("POST", "/echo", body=b"z" * (MEBIBYTE + 65_536)))
        check_too_large(wire)
        wire.socket.shutdown(socket.SHUT_WR)
        check_equal(wire.socket.recv(1), b"", "what follows the refusal")


# --- time ----------------------------------------------------------------------------------------


def delay_answers_with_its_own_number(server: Server) -> None:
    for milliseconds in (0, 1, 150):
        start = time.monotonic()
        check_body(server.ask("GET", f"/delay?ms={milliseconds}"), b"%d" % milliseconds)
        seconds = milliseconds / 1000
        check_within(time.monotonic() - start, seconds, seconds + 0.5, f"delay of {milliseconds} ms")


def a_delay_holds_up_nobody(server: Server) -> None:
    with server.connect() as waiting:
        start = time.monotonic()
        waiting.send(request("GET", "/delay?ms=1000"))
        for _ in range(20):
            asked = time.monotonic()
            check_hello(server.ask("GET", "/"))
            check_within(time.monotonic() - asked, 0, 0.5, "/ beside a delay")
        check(time.monotonic() - start < 1, "20 requests took longer than the delay they were to beat")
        check_body(waiting.reply(), b"1000")
        check_within(time.monotonic() - start, 1, 2, "delay of 1000 ms")


def delays_run_side_by_side(server: Server) -> None:
    start = time.monotonic()
    with ThreadPoolExecutor(30) as pool:
        for reply in pool.map(lambda _: server.ask("GET", "/delay?ms=500"), range(30)):
            check_body(reply, b"500")
    check_within(time.monotonic() - start, 0.5, 2, "30 delays of 500 ms at once")


def failing_answers_500_and_the_server_goes_on(server: Server) -> None:
    for _ in range(3):
        check_equal(server.ask("GET", "/fail").status, 500, "status of /fail")
        check_hello(server.ask("GET", "/"))


# --- streams -------------------------------------------------------------------------------------


def a_stream_is_chunked(server: Server) -> None:
    with server.connect() as wire:
        for count in (1, 1000):
            reply = wire.ask("GET", f"/stream?n={count}")
            check_equal((reply.status, reply.framing), (200, "chunked"), "stream")
            check_equal(reply.body, lines(count), f"{count} lines")


def a_stream_that_ends_at_once_is_known_to_be_empty(server: Server) -> None:
    with server.connect() as wire:
        reply = wire.ask("GET", "/stream?n=0")
        check_equal((reply.status, reply.framing, reply.body), (200, "length", b""), "an empty stream")
        check_hello(wire.ask("GET", "/"))


def a_stream_to_http_1_0_ends_with_the_connection(server: Server) -> None:
    with server.connect() as wire:
        wire.send(request("GET", "/stream?n=1000", version="1.0"))
        reply = wire.reply()
        check_equal((reply.status, reply.framing), (200, "close"), "stream to HTTP/1.0")
        check_equal(reply.body, lines(1000), "1000 lines")


def head_of_a_stream_has_no_body(server: Server) -> None:
    with server.connect() as wire:
        check_equal(wire.ask("HEAD", "/stream?n=3").status, 200, "status of HEAD")
        check_hello(wire.ask("GET", "/"))


# --- connections ---------------------------------------------------------------------------------


def a_connection_is_kept_for_the_next_request(server: Server) -> None:
    with server.connect() as wire:
        for _ in range(100):
            check_hello(wire.ask("GET", "/"))


def a_connection_is_closed_when_the_client_asks(server: Server) -> None:
    with server.connect() as wire:
        reply = wire.ask("GET", "/", [("Connection", "close")])
        check_hello(reply)
        check(reply.closes(), "the response does not announce the close")
        check(wire.ended(), "bytes after the last response")


def http_1_0_is_closed_after_the_answer(server: Server) -> None:
    with server.connect() as wire:
        wire.send(request("GET", "/", version="1.0"))
        check_hello(wire.reply())
        check(wire.ended(), "bytes after the last response")


def http_1_0_is_kept_only_when_the_answer_says_so(server: Server) -> None:
    with server.connect() as wire:
        message = request("GET", "/", [("Connection", "keep-alive")], version="1.0")
        wire.send(message)
        reply = wire.reply()
        check_hello(reply)
        if "keep-alive" in map(str.lower, reply.all("connection")):
            wire.send(message)
            check_hello(wire.reply())
        else:
            check(wire.ended(), "kept a connection without saying so")


def sixteen_pipelined_requests_are_answered_in_order(server: Server) -> None:
    with server.connect() as wire:
        # Ever shorter delays: who answers what is ready first answers in the wrong order.
        delays = [5 * step for step in reversed(range(PIPELINED))]
        wire.send(b"".join(request("GET", f"/delay?ms={delay}") for delay in delays))
        for delay in delays:
            check_body(wire.reply(), b"%d" % delay)


def sixteen_pipelined_bodies_stay_apart(server: Server) -> None:
    with server.connect() as wire:
        bodies = [b"body %d " % step * 100 * step for step in range(PIPELINED)]
        known = [request("PUT", "/echo", body=body) for body in bodies[::2]]
        sized = [request("POST", "/echo", CHUNKED) + chunked(body, [7, 500]) for body in bodies[1::2]]
        wire.send(b"".join(message for pair in zip(known, sized) for message in pair))
        for body in bodies:
            check_echo(wire.reply(), body)


def pipelined_answers_of_every_kind_stay_apart(server: Server) -> None:
    with server.connect() as wire:
        asked = [("GET", "/"), ("HEAD", "/"), ("GET", "/stream?n=3"), ("GET", "/nothing-here")] * 4
        wire.send(b"".join(request(method, target) for method, target in asked))
        expected = [b"Hello, World!", b"", lines(3), None] * 4
        for (method, target), body in zip(asked, expected):
            reply = wire.reply(method)
            check_equal(reply.status, 404 if body is None else 200, f"status of {target}")
            check(body in (None, reply.body), f"body of {method} {target}: {reply.body!r}")


# --- header timeout ------------------------------------------------------------------------------


def a_head_that_stops_half_way_is_given_up(server: Server) -> None:
    with server.connect() as wire:
        start = time.monotonic()
        wire.send(b"GET / HTTP/1.1\r\nHost: local")
        check_given_up(wire, start)


def a_head_that_trickles_in_is_given_up_as_early(server: Server) -> None:
    # A deadline that every byte pushes back would hold a connection as long as the attacker likes.
    with server.connect() as wire:
        start = time.monotonic()
        wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - start < HEADER_TIMEOUT_SECONDS - 0.2:
                wire.send(b"x")
                time.sleep(0.1)
        check_given_up(wire, start)


def a_slow_head_holds_up_nobody(server: Server) -> None:
    with server.connect() as slow:
        slow.send(b"GET / HTTP/1.1\r\n")
        for _ in range(10):
            check_hello(server.ask("GET", "/"))


def a_head_in_time_is_answered_also_after_the_timeout(server: Server) -> None:
    with server.connect() as wire:
        # The deadline is the head's: it must not cut off an answer that takes longer.
        milliseconds = 1000 * HEADER_TIMEOUT_SECONDS + 500
        check_body(wire.ask("GET", f"/delay?ms={milliseconds}"), b"%d" % milliseconds)
        check_hello(wire.ask("GET", "/"))


# --- hello ---------------------------------------------------------------------------------------


def hello_says_hello(server: Server) -> None:
    check_hello(server.ask("GET", "/"))
    check_hello(server.ask("GET", "/instr"))
    check_equal(server.ask("GET", "/nothing-here").status, 404, "status of an unknown path")


def instr_is_counted_by_endpoint_and_method(server: Server) -> None:
    series = 'inbound_requests_total{endpoint="/instr",method="GET"}'
    before = server.metrics().get(series)
    ask_instr(server, 5)
    check_equal(server.metrics().get(series) - before, 5, f"growth of {series}")


def the_three_hooks_of_instr_are_on_metrics(server: Server) -> None:
    before = server.metrics()
    ask_instr(server, 5)
    after = server.metrics()
    own = {name: kind for name, kind in after.types.items() if not name.startswith(BUILT_IN)}
    timed = [name for name, kind in own.items() if kind == "histogram"]
    growth = [after[f"{name}_count"] - before.get(f"{name}_count") for name in timed]
    check(5 in growth, f"no histogram of time() grew by 5: {dict(zip(timed, growth))}")
    tracked = [after[name] for name, kind in own.items() if kind == "gauge"]
    check(0 in tracked, f"no gauge of track_inprogress() is back at 0 among {own}")
    # At 0 from the start: a series that appears with the first error hides that error from rate().
    errors = [after.samples.get(name) for name, kind in own.items() if kind == "counter"]
    check(0 in errors, f"no counter of count_exceptions() at 0 among {own}")


def hello_serves_metrics_in_the_text_format(server: Server) -> None:
    check_text_format(server.ask("GET", "/metrics"))


# --- details -------------------------------------------------------------------------------------


def ask_instr(server: Server, times: int) -> None:
    with server.connect() as wire:
        for _ in range(times):
            check_hello(wire.ask("GET", "/instr"))


def check_hello(reply: Reply) -> None:
    check_body(reply, b"Hello, World!")
    media_type = reply.one("content-type").partition(";")[0]
    check_equal(media_type, "text/plain", "media type")


def check_body(reply: Reply, body: bytes) -> None:
    check_equal((reply.status, reply.body), (200, body), "status and body")


def check_echo(reply: Reply, body: bytes) -> None:
    check_equal(reply.status, 200, "status of /echo")
    check(reply.body == body, f"{len(body)} bytes came back changed, as {len(reply.body)}")


def check_refused(server: Server, method: str, target: str, allowed: set[str]) -> None:
    with server.connect() as wire:
        reply = wire.ask(method, target, body=b"x" if method in ("POST", "PUT") else None)
        check_equal(reply.status, 405, f"status of {method} {target}")
        listed = {name.strip() for value in reply.all("allow") for name in value.split(",")}
        check(allowed <= listed and method not in listed, f"Allow of {method} {target}: {listed}")


def check_too_large(wire: Wire) -> None:
    reply = wire.reply()
    check_equal(reply.status, 413, "status of a body over 1 MiB")
    check(reply.closes(), "a connection with an unread body must be closed, and the response say so")


def send_to_the_refusal(wire: Wire, message: bytes) -> None:
    """Sends a message whose refusal may come before its end, and with it the end of the connection."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        wire.send(message)


def check_given_up(wire: Wire, start: float) -> None:
    """The connection ends at the timeout, with a 408 before or without a word."""
    rest = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := wire.socket.recv(4096):
            rest += piece
    low, high = HEADER_TIMEOUT_SECONDS - 0.1, HEADER_TIMEOUT_SECONDS + 1.5
    check_within(time.monotonic() - start, low, high, "the connection with half a head")
    check(rest.startswith((b"HTTP/1.1 408 ", b"HTTP/1.0 408 ")) or not rest, f"answered {rest!r}")


def check_text_format(reply: Reply) -> None:
    check_equal(reply.status, 200, "status of /metrics")
    check_equal(reply.one("content-type"), "text/plain; version=0.0.4; charset=utf-8", "Content-Type")
    check_equal(reply.framing, "length", "framing of /metrics")


def stable_fields(reply: Reply) -> list[tuple[str, str]]:
    """The fields but Date, which may differ between two requests."""
    return sorted(field for field in reply.fields if field[0] != "date")


def lines(count: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(count))


CONTRACT = [
    root_says_hello,
    head_is_get_without_the_body,
    unknown_paths_are_not_found,
    a_wrong_method_is_refused_with_those_allowed,
    metrics_are_served_in_the_text_format,
    echo_returns_a_body_of_known_length,
    echo_returns_a_chunked_body,
    echo_returns_a_body_that_comes_byte_by_byte,
    a_declared_body_over_one_mebibyte_is_refused_before_it_comes,
    a_chunked_body_over_one_mebibyte_is_refused,
    a_refused_body_that_comes_all_the_same_ends_without_a_reset,
    delay_answers_with_its_own_number,
    a_delay_holds_up_nobody,
    delays_run_side_by_side,
    failing_answers_500_and_the_server_goes_on,
    a_stream_is_chunked,
    a_stream_that_ends_at_once_is_known_to_be_empty,
    a_stream_to_http_1_0_ends_with_the_connection,
    head_of_a_stream_has_no_body,
    a_connection_is_kept_for_the_next_request,
    a_connection_is_closed_when_the_client_asks,
    http_1_0_is_closed_after_the_answer,
    http_1_0_is_kept_only_when_the_answer_says_so,
    sixteen_pipelined_requests_are_answered_in_order,
    sixteen_pipelined_bodies_stay_apart,
    pipelined_answers_of_every_kind_stay_apart,
]
HEADER_TIMEOUT = [
    a_head_that_stops_half_way_is_given_up,
    a_head_that_trickles_in_is_given_up_as_early,
    a_slow_head_holds_up_nobody,
    a_head_in_time_is_answered_also_after_the_timeout,
]
HELLO = [
    hello_says_hello,
    instr_is_counted_by_endpoint_and_method,
    the_three_hooks_of_instr_are_on_metrics,
    hello_serves_metrics_in_the_text_format,
]

HEADER_TIMEOUT_SECONDS = 1
MEBIBYTE = 1 << 20
PIPELINED = 16
BYTES = bytes(range(256)) * 40
CHUNKED = [("Transfer-Encoding", "chunked")]
BUILT_IN = ("dosimeter_", "http_server_")

if __name__ == "__main__":
    script(main, seconds=120)
