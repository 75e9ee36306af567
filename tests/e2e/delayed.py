#!/usr/bin/env python3
"""`delayed_resource` makes one client wait five seconds and nobody else, and measures just that."""

import time

from support import Server, check, check_equal, check_within, eventually, run_cases, script


def main() -> None:
    with Server("delayed_resource", port=PORT) as server:
        cases = [
            the_page_comes_late_and_others_are_answered_at_once,
            the_histogram_holds_the_one_wait,
            a_client_that_leaves_early_leaves_nothing_behind,
        ]
        run_cases(cases, server)


def the_page_comes_late_and_others_are_answered_at_once(server: Server) -> None:
    start = time.monotonic()
    with server.connect() as waiting:
        waiting.send(PAGE_REQUEST)
        while time.monotonic() - start < DELAY_SECONDS - 0.5:
            check_answered_at_once(server)
        page = waiting.reply()
    check_within(time.monotonic() - start, *TOLERANCE, "the page")
    check_equal(page.status, 200, "status of the page")
    check(b"Sorry to keep you waiting." in page.body, f"page {page.body!r}")


def the_histogram_holds_the_one_wait(server: Server) -> None:
    metrics = server.metrics()
    check_equal(metrics["req_time_seconds_count"], 1, "req_time_seconds_count")
    check_within(metrics["req_time_seconds_sum"], *TOLERANCE, "req_time_seconds_sum")


def a_client_that_leaves_early_leaves_nothing_behind(server: Server) -> None:
    # A scrape counts itself, here and below alike.
    before = server.metrics()[IN_PROGRESS]
    files = server.open_files()
    leaving = server.connect()
    leaving.send(PAGE_REQUEST)
    eventually(
        lambda: server.metrics()[IN_PROGRESS] == before + 1 or None,
        seconds=3,
        what=f"{IN_PROGRESS} shows the waiting client",
    )
    leaving.close()
    # The page is rendered for nobody five seconds after it was asked for; all must be back as it was soon after.
    eventually(
        lambda: server.metrics()[IN_PROGRESS] == before or None,
        seconds=DELAY_SECONDS + 2,
        what=f"{IN_PROGRESS} is back at {before} after the client left",
    )
    eventually(
        lambda: server.open_files() <= files or None,
        seconds=DELAY_SECONDS + 2,
        what=f"the descriptors are back at {files}",
    )
    outlive_the_delay(server, DELAY_SECONDS + 1)
    check_equal(server.metrics()[IN_PROGRESS], before, f"{IN_PROGRESS} in the end")


def outlive_the_delay(server: Server, seconds: float) -> None:
    """Keeps asking past the moment at which the abandoned page is rendered: that must not hurt the server."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        check_answered_at_once(server)


def check_answered_at_once(server: Server) -> None:
    start = time.monotonic()
    check_equal(server.ask("GET", "/metrics").status, 200, "status of /metrics")
    check_within(time.monotonic() - start, 0, 0.5, "/metrics beside a waiting client")
    time.sleep(0.1)


PORT = 8000
DELAY_SECONDS = 5
PAGE_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
IN_PROGRESS = "http_server_requests_in_progress"

# Timers never fire early; a busy machine may be late. The lower end leaves room for the granularity of poll.
TOLERANCE = (DELAY_SECONDS - 0.1, DELAY_SECONDS + 1.0)

if __name__ == "__main__":
    script(main, seconds=90)
