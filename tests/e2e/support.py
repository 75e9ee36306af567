"""What the end-to-end scripts share: a deadline, a server under test, a strict HTTP/1.1 client.

Rules:

1. No child outlives its script. Servers are context managers, and the deadline, SIGTERM and Ctrl-C all unwind the stack.
2. Every wait names what it waits for, polls for exactly that, and has a deadline. Nothing sleeps and hopes.
3. The client forgives nothing: what is not a complete, correctly framed response is a failure, never a short body.
4. A failed check says what was expected and what came, so that the log of a run is enough to start from.

Python 3.11 and its standard library only: the scripts run on a machine that has nothing but a Rust toolchain.
"""

import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

T = TypeVar("T")

Fields = Iterable[tuple[str, str]]


class Failed(Exception):
    """Something under test did not behave. The text is the whole report."""


class GivenUp(BaseException):
    """The script as a whole has to end. No `Exception`, lest it count as one more failed case."""


# --- a script and its cases ----------------------------------------------------------------------


def script(main: Callable[[], None], *, seconds: int) -> NoReturn:
    """Runs `main` under a deadline and exits with 0, or with 1 and a message."""
    signal.signal(signal.SIGALRM, lambda *_: _give_up(f"not finished after {seconds} s"))
    signal.signal(signal.SIGTERM, lambda *_: _give_up("told to stop (SIGTERM)"))
    signal.alarm(seconds)
    name = Path(sys.argv[0]).name
    try:
        main()
    except (Failed, GivenUp) as failure:
        print(f"{name}: FAILED: {failure}", flush=True)
        sys.exit(1)
    print(f"{name}: passed", flush=True)
    sys.exit(0)


def run_cases(cases: Iterable[Callable[..., None]], *args) -> None:
    """Calls every case, prints a line for each, and fails at the end if one of them did.

    The cases after a failing one still run: one broken answer should not hide what else is broken.
    """
    failures = 0
    for case in cases:
        start = time.monotonic()
        try:
            case(*args)
            verdict = "ok  "
        except (Failed, OSError) as failure:
            failures += 1
            verdict = "FAIL"
            print(f"       {failure!r}" if isinstance(failure, OSError) else f"       {failure}")
        behaviour = case.__name__.replace("_", " ")
        print(f"  {verdict} {behaviour} ({time.monotonic() - start:.2f} s)", flush=True)
    check(failures == 0, f"{failures} of the checks above failed")


def check(holds: bool, otherwise: str) -> None:
    """Fails with the text `otherwise` unless `holds`."""
    if not holds:
        raise Failed(otherwise)


def check_equal(got: object, expected: object, what: str) -> None:
    """Fails unless both are equal; long values are shown by their beginning."""
    check(got == expected, f"{what}: expected {_short(expected)}, got {_short(got)}")


def check_within(seconds: float, low: float, high: float, what: str) -> None:
    """Fails unless a duration lies in the closed range `low..high`, all in seconds."""
    check(low <= seconds <= high, f"{what}: took {seconds:.3f} s, expected {low} s to {high} s")


def eventually(probe: Callable[[], T | None], *, seconds: float, what: str) -> T:
    """Polls until `probe` returns something other than None and returns it; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = probe()
        if result is not None:
            return result
        time.sleep(POLL_SECONDS)
    raise Failed(f"{what}: not within {seconds} s")


# --- the server under test -----------------------------------------------------------------------


class Server:
    """A built example as a child process, reachable on `port` inside the `with` block.

    Its output is kept and shown only when the block ends in a failure.
    """

    def __init__(self, example: str, *args: object, port: int) -> None:
        self.example = example
        self.port = port
        self._command = [str(example_path(example)), *map(str, args)]
        self._log = tempfile.TemporaryFile()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        # An older server on the port would answer in the place of the one under test.
        check(not _answers(self.port), f"port {self.port} is in use by another program")
        self._process = self.spawn()
        try:
            eventually(self._ready, seconds=10, what=f"{self.example} listens on port {self.port}")
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind: type | None, _error: object, _trace: object) -> None:
        self._process.kill()
        self._process.wait()
        if kind is not None:
            self._show_log()
        self._log.close()

    def spawn(self) -> subprocess.Popen[bytes]:
        """Starts one more process with the same command; the caller ends it."""
        try:
            return subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise Failed(f"{error}; build it with: cargo build --release --examples") from error

    def stop(self, signal_number: signal.Signals, *, seconds: float) -> int:
        """Sends a signal and returns the exit code, negative when the signal itself was the end."""
        self._process.send_signal(signal_number)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            name = signal_number.name
            raise Failed(f"{self.example} still runs {seconds} s after {name}") from None

    def connect(self, host: str = "127.0.0.1", *, timeout: float = 10) -> "Wire":
        """A new connection; every read and write on it fails after `timeout` seconds."""
        return Wire(host, self.port, timeout)

    def ask(self, method: str, target: str, fields: Fields = (), body: bytes | None = None) -> "Reply":
        """One request on a connection of its own."""
        with self.connect() as wire:
            return wire.ask(method, target, fields, body)

    def metrics(self) -> "Metrics":
        """What `/metrics` says now."""
        reply = self.ask("GET", "/metrics")
        check_equal(reply.status, 200, "status of /metrics")
        return Metrics(reply.body.decode())

    def resident_bytes(self) -> int:
        """How much memory the process has in use."""
        statm = Path(f"/proc/{self._process.pid}/statm").read_text()
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def open_files(self) -> int:
        """How many descriptors the process holds: the way to see a leaked connection from outside.

        The fewest of a few looks, because what was just closed here is open there for a moment longer, and a
        baseline one too high would hide a leak of one.
        """
        looks = []
        for _ in range(4):
            looks.append(len(os.listdir(f"/proc/{self._process.pid}/fd")))
            time.sleep(POLL_SECONDS)
        return min(looks)

    def _ready(self) -> bool | None:
        code = self._process.poll()
        check(code is None, f"{self.example} ended at once with exit code {code}")
        return _answers(self.port) or None

    def _show_log(self) -> None:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        print(f"  {self.example} printed {len(lines)} lines" + (", the last of them:" if lines else ""))
        print("".join(f"    | {line}\n" for line in lines[-20:]), end="", flush=True)


def free_port() -> int:
    """A port nobody listens on, below the range from which the system picks ports of outgoing connections.

    A port from that range could be taken by any connection of the machine before the server binds it.
    """
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
                return port
            except OSError:
                continue
    raise Failed("no free port among 100 tried")


def has_ipv6() -> bool:
    """Whether this machine has the IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            return True
    except OSError:
        return False


# --- the strict client ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """One response as it came. `framing` is how its end was told: none, length, chunked or close."""

    version: str
    status: int
    fields: list[tuple[str, str]]
    framing: str
    body: bytes

    def all(self, name: str) -> list[str]:
        """Every value of a field, in order."""
        return [value for key, value in self.fields if key == name.lower()]

    def one(self, name: str) -> str:
        """The value of a field that must be there exactly once."""
        values = self.all(name)
        check(len(values) == 1, f"expected one {name} in the {self.status}, got {values}")
        return values[0]

    def closes(self) -> bool:
        """Whether the response announces the end of the connection."""
        return "close" in (value.lower() for value in self.all("connection"))


class Wire:
    """One connection, on which requests may be pipelined and bytes sent as they are."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self.socket = socket.create_connection((host, port), timeout)
        # Nagle's algorithm would gather what a test sends in pieces on purpose.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._input = self.socket.makefile("rb")

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; unread input turns it into a reset, as with any socket."""
        self._input.close()
        self.socket.close()

    def reset(self) -> None:
        """Closes the connection with a reset, so that the peer hears at once that nobody reads its answer."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def send(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self.socket.sendall(data)

    def ask(self, method: str, target: str, fields: Fields = (), body: bytes | None = None) -> Reply:
        """Sends a request and reads its response."""
        self.send(request(method, target, fields, body))
        return self.reply(method)

    def reply(self, method: str = "GET") -> Reply:
        """Reads the response to a request of that method, to its last byte."""
        version, status = self._status_line()
        fields = self._fields()
        framing, length = _framing(method, status, fields)
        match framing:
            case "length":
                body = self._exactly(length)
            case "chunked":
                body = b"".join(iter(self._chunk, b""))
                self._fields()
            case "close":
                body = self._input.read()
            case _:
                body = b""
        return Reply(version, status, fields, framing, body)

    def replies(self, methods: Iterable[str] = ()) -> list[Reply]:
        """Reads responses to the end of the connection, interim ones included.

        They answer requests of these methods, and of GET behind them. A reset is no end.
        """
        replies, methods = [], iter(methods)
        method = next(methods, "GET")
        while self._input.peek(1):
            replies.append(self.reply(method))
            if replies[-1].status >= 200:
                method = next(methods, "GET")
        return replies

    def ended(self) -> bool:
        """Waits for the next byte or the end; a reset is an end as well."""
        try:
            return self._input.read(1) == b""
        except ConnectionResetError:
            return True

    def _status_line(self) -> tuple[str, int]:
        line = self._line()
        match = STATUS_LINE.fullmatch(line)
        check(match is not None, f"not a status line: {_short(line)}")
        return match[1], int(match[2])

    def _fields(self) -> list[tuple[str, str]]:
        fields = []
        while line := self._line():
            match = FIELD_LINE.fullmatch(line)
            check(match is not None, f"not a field line: {_short(line)}")
            fields.append((match[1].lower(), match[2]))
        return fields

    def _chunk(self) -> bytes:
        line = self._line()
        check(CHUNK_SIZE.fullmatch(line) is not None, f"not a chunk size: {_short(line)}")
        size = int(line, 16)
        data = self._exactly(size)
        if size:
            check_equal(self._exactly(2), b"\r\n", "end of a chunk")
        return data

    def _line(self) -> str:
        line = self._input.readline(MAX_LINE_BYTES)
        check(line.endswith(b"\r\n"), f"expected a line that ends in CRLF, got {_short(line)}")
        return line[:-2].decode("latin-1")

    def _exactly(self, count: int) -> bytes:
        data = self._input.read(count)
        check(len(data) == count, f"the connection ended after {len(data)} of {count} bytes")
        return data


def request(
    method: str, target: str, fields: Fields = (), body: bytes | None = None, *, version: str = "1.1"
) -> bytes:
    """The bytes of a request; a body is sent with its Content-Length."""
    head = [f"{method} {target} HTTP/{version}", "Host: localhost"]
    head += [f"{name}: {value}" for name, value in fields]
    if body is not None:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + (body or b"")


def chunked(body: bytes, sizes: Iterable[int]) -> bytes:
    """`body` in chunks of the given sizes, the last one repeated as needed, with its end."""
    out, rest, size = [], body, len(body)
    steps = iter(sizes)
    while rest:
        size = next(steps, size)
        piece, rest = rest[:size], rest[size:]
        out.append(b"%x\r\n%b\r\n" % (len(piece), piece))
    return b"".join(out) + b"0\r\n\r\n"


class Metrics:
    """A scrape in the text format: `metrics[series]` by the series as it is written."""

    def __init__(self, text: str) -> None:
        lines = text.splitlines()
        self.types = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE "))
        samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        self.samples = {series: float(value) for series, value in samples}

    def get(self, series: str) -> float:
        """The value of a series, 0 where it does not exist (yet)."""
        return self.samples.get(series, 0.0)

    def __getitem__(self, series: str) -> float:
        check(series in self.samples, f"no series {series} on /metrics")
        return self.samples[series]


# --- details -------------------------------------------------------------------------------------


def _give_up(why: str) -> NoReturn:
    raise GivenUp(why)


def example_path(name: str) -> Path:
    """Where a built example is."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    return ROOT / target / "release" / "examples" / name


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def _framing(method: str, status: int, fields: list[tuple[str, str]]) -> tuple[str, int]:
    """How the end of the body is told, in the order of RFC 9112 section 6.3."""
    lengths = [value for name, value in fields if name == "content-length"]
    codings = [value for name, value in fields if name == "transfer-encoding"]
    check(len(lengths) + len(codings) <= 1, f"ambiguous framing: {lengths} {codings}")
    check(all(length.isdecimal() for length in lengths), f"Content-Length {lengths}")
    check(codings in ([], ["chunked"]), f"Transfer-Encoding {codings}")
    if method == "HEAD" or status < 200 or status in (204, 304):
        return "none", 0
    if codings:
        return "chunked", 0
    return ("length", int(lengths[0])) if lengths else ("close", 0)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


ROOT = Path(__file__).resolve().parents[2]

# Between two looks at something awaited: short beside every deadline here, long beside the cost of a look.
POLL_SECONDS = 0.05

# Longer than any line a server here sends, short enough to stop at a stream that never ends its line.
MAX_LINE_BYTES = 16 * 1024

STATUS_LINE = re.compile(r"HTTP/(1\.[01]) ([1-5]\d\d) [\t -~]*")
FIELD_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t -~]*?)[ \t]*")
CHUNK_SIZE = re.compile(r"[0-9A-Fa-f]{1,16}")
