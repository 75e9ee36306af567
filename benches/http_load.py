#!/usr/bin/env python3
"""How servers compare under the same load, side by side on one machine.

    python3 benches/http_load.py [--mode plain|pipeline|varied|churn] [--rounds N] [--seconds S] NAME[@PATH]=COMMAND...
    python3 benches/http_load.py --mode idle [--rounds N] CONNECTIONS NAME[@PATH]=COMMAND...

PORT in a command becomes the port to listen on, on 127.0.0.1; PATH is what is asked for, `/` unless given:

    cargo build --release --examples
    python3 benches/http_load.py hello="target/release/examples/hello PORT" \\
        instr@/instr="target/release/examples/hello PORT" peer="path/to/another/server PORT"

Modes: `plain` asks one request after the other on each of 64 connections, `pipeline` sends 16 at once, `varied` the
same with another cookie in each, `churn` opens a connection for every request, `idle` measures memory per connection
that was used once and is kept open.

Rules, so that the figures can be compared:

1. The server has CPU 0, the load generator (`wrk`) CPU 1. CPU time per request is the figure to trust: where the
   generator is the limit, requests per second say nothing about the server.
2. Rounds are interleaved, every second one backwards: what else the machine does hits all servers alike.
3. Medians are shown, and ratios to the first server named.
4. A wrong answer or a socket error makes the run fail: a server that answers fast and wrong has no figure.
5. A server is one process. What it leaves to children is not counted.

Needs `wrk` (Debian package `wrk`) but for `idle`, two CPUs, Python 3.11.
"""

import argparse
import contextlib
import http.client
import itertools
import os
import re
import resource
import select
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Server:
    """What to start, and what to ask it for."""

    name: str
    path: str
    command: str
    closes: bool  # asked with `Connection: close`, it must close


@dataclass(frozen=True)
class Load:
    """One round of load on one server."""

    requests_per_second: float
    cpu_microseconds: float
    p99: str
    trouble: str


def main() -> None:
    options = parse(sys.argv[1:])
    if options.mode == "idle":
        table = measure_idle(options)
    else:
        table = measure_load(options)
    sys.exit(0 if table else 1)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode", choices=("plain", "pipeline", "varied", "churn", "idle"), default="plain")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="length of one measurement")
    parser.add_argument("what", nargs="+", metavar="NAME[@PATH]=COMMAND")
    options = parser.parse_args(arguments)
    if options.mode == "idle":
        options.connections = count(options.what.pop(0), parser)
    options.servers = [server(text, options.mode, parser) for text in options.what]
    names = {server.name for server in options.servers}
    if not names or len(names) < len(options.servers):
        parser.error("wanted: one server or more, each under a name of its own")
    return options


def count(text: str, parser: argparse.ArgumentParser) -> int:
    if not text.isdecimal() or int(text) == 0:
        parser.error(f"--mode idle wants a number of connections first, not {text!r}")
    return int(text)


def server(text: str, mode: str, parser: argparse.ArgumentParser) -> Server:
    match = re.fullmatch(r"([^=@]+)(?:@(/[^=]*))?=(.*PORT.*)", text)
    if match is None:
        parser.error(f"not NAME[@PATH]=COMMAND with PORT in the command: {text!r}")
    return Server(match[1], match[2] or "/", match[3], closes=mode == "churn")


# --- requests per second and CPU per request -----------------------------------------------------


def measure_load(options: argparse.Namespace) -> bool:
    """Prints a line for each server; false if an answer was wrong."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(VARIED_LUA if options.mode == "varied" else PIPELINE_LUA)
        script.flush()
        arguments = {
            "plain": [],
            "pipeline": ["-s", script.name],
            "varied": ["-s", script.name],
            "churn": ["-H", "Connection: close"],
        }[options.mode]
        rounds = interleaved(options, lambda server: load(server, arguments, options.seconds))
    first = None
    for name, runs in rounds.items():
        rate = median(run.requests_per_second for run in runs)
        cpu = median(run.cpu_microseconds for run in runs)
        first = first or (rate, cpu)
        print(
            f"{name:16} {rate:10.0f} requests/s (x {rate / first[0]:4.2f})"
            f"   {cpu:7.2f} us CPU/request (x {cpu / first[1]:4.2f})   p99 {runs[-1].p99}"
        )
    return no_trouble({name: {run.trouble for run in runs} for name, runs in rounds.items()})


def load(server: Server, arguments: list[str], seconds: int) -> Load:
    """Runs `wrk` once against a freshly started server."""
    with running(server) as (process, port):
        url = f"http://127.0.0.1:{port}{server.path}"
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", *arguments, url]
        before = cpu_seconds(process.pid)
        try:
            output = subprocess.run(
                command, capture_output=True, text=True, preexec_fn=on_cpu(1), check=True
            ).stdout
        except FileNotFoundError:
            sys.exit("wrk is not installed")
        used = cpu_seconds(process.pid) - before
    return read_wrk(output, used)


def read_wrk(output: str, used_seconds: float) -> Load:
    def find(pattern: str) -> str:
        match = re.search(pattern, output)
        return match[1].strip() if match else ""

    requests = int(find(r"(\d+) requests in") or 0)
    if requests == 0:
        return Load(0.0, float("nan"), "-", "no request was answered")
    return Load(
        requests_per_second=float(find(r"Requests/sec:\s*(\S+)")),
        cpu_microseconds=used_seconds / requests * 1e6,
        p99=find(r"99%\s+(\S+)"),
        trouble=find(r"(Socket errors:.*|Non-2xx.*)"),
    )


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads, exact to a clock tick (10 ms: half a percent of 2 s)."""
    with open(f"/proc/{pid}/stat") as stat:
        # The name in parentheses may hold blanks; utime and stime are the 14th and 15th field of the line.
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- memory per idle connection ------------------------------------------------------------------


def measure_idle(options: argparse.Namespace) -> bool:
    """Prints a line for each server; false if a connection was not kept."""
    raise_file_limit(options.connections + 100)
    rounds = interleaved(options, lambda server: idle(server, options.connections))
    first = None
    for name, runs in rounds.items():
        each = median(size for size, _ in runs)
        first = first or each
        print(f"{name:16} {each:8.0f} bytes of RSS per idle connection (x {each / first:4.2f})")
    return no_trouble({name: {trouble for _, trouble in runs} for name, runs in rounds.items()})


def idle(server: Server, connections: int) -> tuple[float, str]:
    """Bytes of resident memory that each of so many used and kept connections costs."""
    with running(server) as (process, port), contextlib.ExitStack() as kept:
        before = resident_bytes(process.pid)
        wires = []
        for number in range(connections):
            wire = kept.enter_context(connect_from(number, port))
            ask(wire, server)
            wires.append(wire)
        grown = resident_bytes(process.pid) - before
        lost = len(readable(wires))
    return grown / connections, f"{lost} connections were not kept" if lost else ""


def connect_from(number: int, port: int) -> socket.socket:
    """A connection whose source address leaves enough ports for all of them."""
    wire = socket.socket()
    wire.settimeout(10)
    wire.bind((f"127.0.0.{2 + number // PORTS_PER_ADDRESS}", 0))
    wire.connect(("127.0.0.1", port))
    return wire


def ask(wire: socket.socket, server: Server) -> None:
    """One request and its whole answer, which must be a 200 and treat the connection as it was asked to."""
    option = "Connection: close\r\n" if server.closes else ""
    wire.sendall(f"GET {server.path} HTTP/1.1\r\nHost: localhost\r\n{option}\r\n".encode())
    answer = http.client.HTTPResponse(wire, method="GET")
    answer.begin()
    answer.read()
    if answer.status != 200 or answer.will_close != server.closes:
        sys.exit(f"{server.name}: {server.path} answers {answer.status}, close {answer.will_close}")


def readable(wires: list[socket.socket]) -> list[tuple[int, int]]:
    """Those of the idle connections on which something came, which can only be their end."""
    poll = select.poll()
    for wire in wires:
        poll.register(wire, select.POLLIN)
    return poll.poll(0)


def resident_bytes(pid: int) -> int:
    """RSS to the page; statm and status are off by up to 64 pages per CPU, which is 26 bytes for each of 10,000."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return int(re.search(r"^Rss:\s+(\d+) kB", rollup.read(), re.MULTILINE)[1]) * 1024


def raise_file_limit(wanted: int) -> None:
    """Lets this process and the servers, which inherit it, hold so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except ValueError as error:
        sys.exit(f"{wanted} open files are needed, the limit is {hard}: {error}")


# --- what both share -----------------------------------------------------------------------------


def interleaved(options: argparse.Namespace, measure: Callable[[Server], object]) -> dict[str, list]:
    """Every server once a round, forwards and backwards in turn."""
    results = {server.name: [] for server in options.servers}
    for number in range(options.rounds):
        for server in options.servers if number % 2 == 0 else reversed(options.servers):
            results[server.name].append(measure(server))
    return results


@contextlib.contextmanager
def running(server: Server) -> Iterator[tuple[subprocess.Popen, int]]:
    """The server on CPU 0 and a port of its own, from its first right answer on; killed at the end."""
    port = next(PORTS)
    process = start(server.command.replace("PORT", str(port)))
    try:
        wait_until_it_answers(server, process, port)
        yield process, port
    finally:
        process.kill()
        process.wait()


def start(command: str) -> subprocess.Popen:
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.Popen(shlex.split(command), preexec_fn=on_cpu(0), **quiet)
    except OSError as error:
        sys.exit(f"cannot start {command}: {error}")


def wait_until_it_answers(server: Server, process: subprocess.Popen, port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as wire:
                return ask(wire, server)
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
    return sys.exit(f"{server.name} does not answer on port {port}: {server.command}")


def on_cpu(number: int) -> Callable[[], None]:
    return lambda: os.sched_setaffinity(0, {number})


def unused_ports() -> Iterator[int]:
    """Ports nobody listens on; never one twice, for the ends of old connections linger on theirs."""
    for port in itertools.count(15_000 + os.getpid() % 5000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                yield port


def no_trouble(troubles: dict[str, set[str]]) -> bool:
    """Prints what went wrong, under the table where it cannot be missed."""
    found = [(name, text) for name, texts in troubles.items() for text in texts if text]
    for name, text in found:
        print(f"WRONG: {name}: {text}")
    return not found


PORTS = unused_ports()

# As the published comparisons of HTTP servers have it: enough to keep a server busy, few enough for one client CPU.
CONNECTIONS = 64

# Sixteen requests in one write, again from the tests that all frameworks publish.
PIPELINE_LUA = """
local together
function init()
    local one = {}
    for i = 1, 16 do one[i] = wrk.format() end
    together = table.concat(one)
end
function request() return together end
"""

# Made beforehand, or the client would be what is measured.
VARIED_LUA = """
local batches, number = {}, 0
function init()
    for batch = 1, 64 do
        local one = {}
        for i = 1, 16 do
            local cookie = string.format("id=%016x", (batch * 16 + i) * 2654435761)
            one[i] = wrk.format("GET", nil, { Cookie = cookie })
        end
        batches[batch] = table.concat(one)
    end
end
function request()
    number = number % #batches + 1
    return batches[number]
end
"""

# Below the 28,000 ports that Linux has for the outgoing connections of one address.
PORTS_PER_ADDRESS = 20_000

# From the start of a process to its first answer; an interpreter may need a second of it.
START_SECONDS = 15

if __name__ == "__main__":
    main()
