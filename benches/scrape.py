#!/usr/bin/env python3
"""How long other requests wait while a large registry is scraped.

    cargo build --release --example hello
    python3 benches/scrape.py [--rounds N] [--seconds S] [COMMAND]

COMMAND starts the server, by default `target/release/examples/hello PORT --series 100000`; PORT becomes a port.
`wrk` asks for `/` at half the rate that the server can do, and in every second run `/metrics` is fetched every 200 ms
besides. Shown are the medians of the 99th percentile of `/` in either kind of run, and their difference.

Rules, besides those of `http_load.py`:

1. The loop is to be free while a page is made, not the machine: the server may use both CPUs, as it would in earnest,
   and `wrk` has CPU 1. On a machine with two the threads that make the page share them with both, and what that costs is
   in the figure.
2. The scraper throws away what it gets without copying it: it is to be a client, not a load.
3. A page that is not whole, or has too few series, makes the run fail.

Needs what `http_load.py` needs.
"""

import argparse
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from statistics import median

from http_load import PORTS, Server, on_cpu, start, wait_until_it_answers


def main() -> None:
    options = parse(sys.argv[1:])
    server = Server("server", "/", options.command, closes=False)
    with running(server) as port:
        full = rate(load(port, 64, 0, 1))
    # A connection that waits for a millisecond after each answer asks some 900 times a second.
    connections = max(1, round(full / 2 / 900))
    quiet, scraped, pages = [], [], []
    for number in range(2 * options.rounds):
        with running(server) as port:
            scraper = Scraper(port) if number % 4 in (1, 2) else None
            output = load(port, connections, 1, options.seconds)
            if scraper:
                pages += scraper.end()
        (scraped if scraper else quiet).append((p99(output), rate(output)))
    report(full, quiet, scraped, pages)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="length of one measurement")
    parser.add_argument("command", nargs="?", default="target/release/examples/hello PORT --series 100000")
    return parser.parse_args(arguments)


def report(full: float, quiet: list, scraped: list, pages: list) -> None:
    for name, runs in (("alone", quiet), ("scraped", scraped)):
        share = median(per_second for _, per_second in runs) / full
        print(f"{name:8} p99 of / {median(time for time, _ in runs):7.3f} ms   at {share:4.0%} of the full rate")
    difference = median(time for time, _ in scraped) - median(time for time, _ in quiet)
    seconds, size = (median(page[index] for page in pages) for index in (0, 1))
    print(f"difference        {difference:7.3f} ms   {len(pages)} pages of {size / 1e6:.1f} MB, each in {seconds * 1e3:.0f} ms")


@contextlib.contextmanager
def running(server: Server):
    """The server, on whatever CPU it likes, from its first right answer on; killed at the end."""
    port = next(PORTS)
    process = start(server.command.replace("PORT", str(port)))
    os.sched_setaffinity(process.pid, range(os.cpu_count()))
    try:
        wait_until_it_answers(server, process, port)
        yield port
    finally:
        process.kill()
        process.wait()


def load(port: int, connections: int, pause: int, seconds: int) -> str:
    """Runs `wrk`, each of whose connections pauses for so many milliseconds after an answer; gives what it says."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"function delay() return {pause} end\n" if pause else "")
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script.name]
        command.append(f"http://127.0.0.1:{port}/")
        output = subprocess.run(command, capture_output=True, text=True, preexec_fn=on_cpu(1), check=True).stdout
    if re.search(r"Socket errors:|Non-2xx", output):
        sys.exit(f"WRONG: {output}")
    return output


def rate(output: str) -> float:
    return float(re.search(r"Requests/sec:\s*(\S+)", output)[1])


def p99(output: str) -> float:
    """In milliseconds."""
    number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", output).groups()
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


class Scraper:
    """Fetches `/metrics` every 200 ms, or as soon as the page before is there."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.pages: list[tuple[float, int]] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while not self.ended.is_set():
            begin = time.monotonic()
            size = fetch(self.port)
            self.pages.append((time.monotonic() - begin, size))
            self.ended.wait(max(0.0, begin + SCRAPE_EVERY - time.monotonic()))

    def end(self) -> list[tuple[float, int]]:
        self.ended.set()
        self.thread.join()
        if any(size < SMALLEST_PAGE for _, size in self.pages):
            sys.exit(f"WRONG: a page is not whole: {sorted(size for _, size in self.pages)}")
        return self.pages


def fetch(port: int) -> int:
    """The size of the page."""
    with socket.create_connection(("127.0.0.1", port), 30) as wire:
        wire.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        size, room = 0, bytearray(1 << 20)
        # MSG_TRUNC has the system drop what came instead of copying it; on TCP that is all it does.
        while count := wire.recv_into(room, len(room), socket.MSG_TRUNC):
            size += count
    return size


SCRAPE_EVERY = 0.2

# A series is a line of thirty bytes at least.
SMALLEST_PAGE = 100_000 * 30

if __name__ == "__main__":
    main()
