#!/usr/bin/env python3
"""`metrics_server` is what the README promises: a scrape that curl shows, promtool accepts and a signal ends.

Needs `curl` and `promtool` (Debian package `prometheus`).
"""

import signal
import subprocess

from support import (
    Failed,
    Server,
    check,
    check_equal,
    eventually,
    has_ipv6,
    run_cases,
    script,
)


def main() -> None:
    with Server("metrics_server", port=PORT) as server:
        cases = [
            curl_shows_a_complete_scrape,
            ipv4_and_ipv6_are_both_answered,
            head_has_the_same_fields_and_no_body,
            every_other_path_is_not_found,
            promtool_accepts_the_scrape_without_a_word,
            the_built_in_metrics_are_there,
            what_linux_tells_of_the_process_is_there,
            a_second_server_fails_on_the_taken_port,
        ]
        run_cases(cases, server)
    # Each starts a server of its own right after the last: the port must be free again at once.
    run_cases([sigterm_ends_it_with_success, sigint_ends_it_with_success])


def curl_shows_a_complete_scrape(_: Server) -> None:
    check_scrape(curl("-i", "localhost:8000/metrics"))


def ipv4_and_ipv6_are_both_answered(_: Server) -> None:
    check_scrape(curl("-i", "http://127.0.0.1:8000/metrics"))
    if has_ipv6():
        check_scrape(curl("-i", "-g", "http://[::1]:8000/metrics"))
    else:
        print("       this machine has no IPv6: only IPv4 checked")


def head_has_the_same_fields_and_no_body(server: Server) -> None:
    with server.connect() as wire:
        got = wire.ask("GET", "/metrics")
        head = wire.ask("HEAD", "/metrics")
        check_equal(head.status, 200, "status of HEAD")
        names = [sorted(name for name, _ in reply.fields) for reply in (head, got)]
        check_equal(names[0], names[1], "names of the fields of HEAD")
        check_equal(head.one("content-type"), got.one("content-type"), "Content-Type of HEAD")
        # A body after HEAD would be read here as the start of the next response.
        check_equal(wire.ask("GET", "/metrics").status, 200, "status of the GET after the HEAD")


def every_other_path_is_not_found(server: Server) -> None:
    for target in ("/", "/nothing-here", "/Metrics", "/metricsx"):
        check_equal(server.ask("GET", target).status, 404, f"status of {target}")


def promtool_accepts_the_scrape_without_a_word(server: Server) -> None:
    # The second scrape holds what the first one, as a request, added.
    for _ in range(2):
        text = server.ask("GET", "/metrics").body
        result = run(["promtool", "check", "metrics"], text)
        said = (result.stdout + result.stderr).decode()
        check(result.returncode == 0 and not said, f"promtool check metrics says: {said}")


def the_built_in_metrics_are_there(server: Server) -> None:
    names = server.metrics().types
    for prefix in ("dosimeter_", "http_server_"):
        check(any(name.startswith(prefix) for name in names), f"no {prefix}... among {list(names)}")


def what_linux_tells_of_the_process_is_there(server: Server) -> None:
    metrics = server.metrics()
    check(0 < metrics["process_open_fds"] < metrics["process_max_fds"], "open descriptors and their limit")
    check(metrics["process_resident_memory_bytes"] > 2**20, "a program of less than a megabyte")


def a_second_server_fails_on_the_taken_port(server: Server) -> None:
    second = server.spawn()
    try:
        code = eventually(second.poll, seconds=5, what="a second server gives up on the taken port")
    finally:
        second.kill()
        second.wait()
    check(code != 0, "a second server on the taken port ended with exit code 0")


def sigterm_ends_it_with_success() -> None:
    check_ends_with_success(signal.SIGTERM)


def sigint_ends_it_with_success() -> None:
    check_ends_with_success(signal.SIGINT)


def check_ends_with_success(signal_number: signal.Signals) -> None:
    with Server("metrics_server", port=PORT) as server:
        # An idle keep-alive connection, as a scraper holds one, must not hold up the end.
        with server.connect() as scraper:
            check_equal(scraper.ask("GET", "/metrics").status, 200, "status before the signal")
            code = server.stop(signal_number, seconds=2)
            check_equal(code, 0, f"exit code after {signal_number.name}")
            check(scraper.ended(), "the idle connection got bytes at the end of the server")


def check_scrape(output: bytes) -> None:
    """Checks what `curl -i` printed: head, empty line, body."""
    head, _, body = output.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    check(status.startswith("HTTP/1.1 200"), f"status line {status!r}")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    check_equal(fields.get("content-type"), TEXT_FORMAT, "Content-Type")
    check_equal(fields.get("content-length"), str(len(body)), "Content-Length")
    check(body.endswith(b"\n") and b"# TYPE " in body, f"not a scrape: {body[:200]!r}")


def curl(*args: str) -> bytes:
    result = run(["curl", "-sS", "--max-time", "10", *args])
    check(result.returncode == 0, f"curl {' '.join(args)} says: {result.stderr.decode().strip()}")
    return result.stdout


def run(command: list[str], text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, input=text, capture_output=True, timeout=30, check=False)
    except FileNotFoundError:
        raise Failed(f"{command[0]} is not installed") from None


PORT = 8000
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"

if __name__ == "__main__":
    script(main, seconds=90)
