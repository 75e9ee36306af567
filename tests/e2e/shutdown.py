#!/usr/bin/env python3
"""`graceful_shutdown` ends on SIGTERM without failing one request, however many are under way."""

import signal
import threading
import time

from support import Failed, Server, check, check_equal, check_within, eventually, free_port, run_cases, script


def main() -> None:
    cases = [
        not_one_request_fails_while_it_ends,
        a_page_that_is_being_made_is_still_sent,
        what_is_not_done_at_the_deadline_is_broken_off,
        without_requests_it_ends_at_once,
    ]
    run_cases(cases)


def not_one_request_fails_while_it_ends() -> None:
    port = free_port()
    with Server("graceful_shutdown", port, 1, port=port) as server:
        askers = [Asker(server) for _ in range(ASKERS)]
        eventually(lambda: all(asker.answered > 10 for asker in askers) or None, seconds=20, what="all are answered")
        code = server.stop(signal.SIGTERM, seconds=15)
        for asker in askers:
            asker.join(5)
        failures = [asker.failure for asker in askers if asker.failure]
        check_equal(failures, [], f"failures among {sum(asker.answered for asker in askers)} requests")
        check(all(asker.was_refused for asker in askers), "somebody could still connect at the end")
        check(any(asker.saw_last for asker in askers), "nobody was told that the connection closes")
        check_equal(code, 0, "exit code")


def a_page_that_is_being_made_is_still_sent() -> None:
    port = free_port()
    with Server("graceful_shutdown", port, 2, port=port) as server, server.connect() as waiting:
        check_equal(server.ask("GET", "/readyz").status, 200, "status of /readyz before")
        waiting.send(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        ended = threading.Thread(target=server.stop, args=[signal.SIGTERM], kwargs={"seconds": 15})
        ended.start()
        eventually(lambda: server.ask("GET", "/readyz").status == 503 or None, seconds=1, what="/readyz says 503")
        check_equal(server.ask("GET", "/livez").status, 200, "status of /livez meanwhile")
        page = waiting.reply()
        check_equal((page.status, page.body), (200, b"Sorry to keep you waiting."), "the page")
        check(page.closes(), "the page does not say that it is the last")
        check(waiting.ended(), "the connection goes on after its last page")
        # As clients do. One that does not is waited for, but no longer than 2 s: it may have sent on before it knew.
        waiting.close()
        start = time.monotonic()
        ended.join(10)
        check_within(time.monotonic() - start, 0, 1, "the end after the last page")


def what_is_not_done_at_the_deadline_is_broken_off() -> None:
    port = free_port()
    with Server("graceful_shutdown", port, 0, 1, port=port) as server, server.connect() as waiting:
        waiting.send(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.2)
        start = time.monotonic()
        check_equal(server.stop(signal.SIGTERM, seconds=10), 0, "exit code")
        check_within(time.monotonic() - start, 0.9, 2.5, "the end")
        check(waiting.ended(), "the page came after all")


def without_requests_it_ends_at_once() -> None:
    port = free_port()
    with Server("graceful_shutdown", port, 0, port=port) as server:
        with server.connect() as idle:
            idle.ask("GET", "/")
            time.sleep(1.1)
            start = time.monotonic()
            check_equal(server.stop(signal.SIGTERM, seconds=10), 0, "exit code")
            check_within(time.monotonic() - start, 0, 0.5, "the end")
            check(idle.ended(), "an idle connection was left open")


class Asker(threading.Thread):
    """A client that asks without end, on connections that it keeps for as long as it may."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.answered = 0
        self.saw_last = False
        self.was_refused = False
        self.failure: str | None = None
        self._server = server
        self.start()

    def run(self) -> None:
        while not self.was_refused and self.failure is None:
            try:
                wire = self._server.connect()
            except ConnectionRefusedError:
                self.was_refused = True
                return
            with wire:
                self._ask_on(wire)

    def _ask_on(self, wire) -> None:
        try:
            while True:
                reply = wire.ask("GET", "/")
                check_equal((reply.status, reply.body), (200, b"Hello, World!"), "the page")
                self.answered += 1
                if reply.closes():
                    self.saw_last = True
                    return
        except (Failed, OSError) as failure:
            self.failure = f"after {self.answered} answers: {failure!r}"


ASKERS = 30

if __name__ == "__main__":
    script(main, seconds=90)
