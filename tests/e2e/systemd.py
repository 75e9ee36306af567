#!/usr/bin/env python3
"""`systemd` tells who started it when it is ready and when it stops, and feeds its watchdog from the loop."""

import os
import signal
import socket
import tempfile
from pathlib import Path

from support import Server, check, check_equal, free_port, run_cases, script


def main() -> None:
    run_cases([it_says_what_becomes_of_it, without_systemd_it_says_nothing])


def it_says_what_becomes_of_it() -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        path = str(Path(directory) / "notify")
        systemd.bind(path)
        systemd.settimeout(10)
        os.environ.update(NOTIFY_SOCKET=path, WATCHDOG_USEC=str(WATCHDOG_MICROSECONDS))
        os.environ.pop("WATCHDOG_PID", None)
        port = free_port()
        try:
            with Server("systemd", f"tcp:{port}", port=port) as server:
                said = [systemd.recv(100).decode() for _ in range(4)]
                check("READY=1" in said, f"not ready: {said}")
                check(said.count("WATCHDOG=1") >= 2, f"the watchdog is not fed: {said}")
                check_equal(server.ask("GET", "/").body, b"Hello, World!", "the page")
                check_equal(server.stop(signal.SIGTERM, seconds=10), 0, "exit code")
        finally:
            del os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"]
        last = ""
        while last != "STOPPING=1":
            last = systemd.recv(100).decode()
            check(last in ("STOPPING=1", "WATCHDOG=1"), f"at the end it said {last}")


def without_systemd_it_says_nothing() -> None:
    port = free_port()
    with Server("systemd", f"tcp:{port}", port=port) as server:
        check_equal(server.ask("GET", "/readyz").status, 200, "status of /readyz")
        check_equal(server.stop(signal.SIGTERM, seconds=10), 0, "exit code")


# Twice in this time the service has to give a sign of life.
WATCHDOG_MICROSECONDS = 400_000

if __name__ == "__main__":
    script(main, seconds=60)
