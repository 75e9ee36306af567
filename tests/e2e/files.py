#!/usr/bin/env python3
"""`files` serves a directory to curl as curl expects: parts, resumed downloads, conditions, compression, and nothing else."""

import gzip
import os
import subprocess
import tempfile
import time
from pathlib import Path

from support import Server, check, check_equal, check_within, eventually, free_port, run_cases, script


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Directory(Path(temporary))
        port = free_port()
        with Server("files", port, directory.root, "--listing", port=port) as server:
            cases = [
                a_file_arrives_as_it_is,
                parts_are_what_was_asked_for,
                a_download_that_broke_off_is_resumed,
                a_download_is_not_resumed_with_another_file,
                who_has_a_file_is_told_so,
                a_compressed_file_is_sent_to_who_asks_for_it,
                nothing_outside_is_served_and_nothing_hidden,
                a_directory_has_its_slash_its_index_or_its_list,
                a_slow_download_holds_up_nobody,
                clients_that_do_not_read_cost_little_memory,
            ]
            run_cases(cases, server, directory)


class Directory:
    """What is served, and beside it what must not be."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self.root = parent / "root"
        self.large = os.urandom(LARGE_BYTES)
        text = "".join(f"line {number}\n" for number in range(10_000)).encode()
        self.files = {
            "small.txt": b"0123456789",
            "large.bin": self.large,
            "style.css": text,
            "with space & <tag>.txt": b"named",
            "sub/index.html": b"<p>index",
            "list/one.txt": b"1",
            ".env": b"SECRET=1",
        }
        for name, content in self.files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (self.root / "style.css.gz").write_bytes(gzip.compress(text))
        (parent / "secret").write_bytes(b"secret")
        (self.root / "link").symlink_to("../secret")
        for path in self.root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                os.utime(path, (CHANGED, CHANGED))


def a_file_arrives_as_it_is(server: Server, directory: Directory) -> None:
    check_equal(curl(server, "/small.txt"), b"0123456789", "a small file")
    check(curl(server, "/large.bin") == directory.large, "a large file arrived as something else")
    check_equal(curl(server, "/with%20space%20%26%20%3Ctag%3E.txt"), b"named", "a file with a name of all kinds")
    head = curl(server, "/large.bin", "--head").decode()
    for line in [f"content-length: {LARGE_BYTES}", "content-type: application/octet-stream", "accept-ranges: bytes"]:
        check(line in head.lower(), f"no {line!r} in {head!r}")


def parts_are_what_was_asked_for(server: Server, directory: Directory) -> None:
    large = directory.large
    for asked, part in [
        ("0-99", large[:100]),
        ("65530-65545", large[65530:65546]),
        (f"{LARGE_BYTES - 7}-", large[-7:]),
        ("-100", large[-100:]),
        (f"-{2 * LARGE_BYTES}", large),
    ]:
        check(curl(server, "/large.bin", "--range", asked) == part, f"bytes {asked} are others")
    check_equal(status(server, "/small.txt", "--range", "10-"), 416, "status of a part that is not there")
    body = curl(server, "/small.txt", "--range", "0-1,8-9")
    for piece in [b"Content-Range: bytes 0-1/10\r\n\r\n01\r\n", b"Content-Range: bytes 8-9/10\r\n\r\n89\r\n"]:
        check(piece in body, f"no {piece!r} in {body!r}")


def a_download_that_broke_off_is_resumed(server: Server, directory: Directory) -> None:
    target = directory.parent / "download"
    target.write_bytes(directory.large[: LARGE_BYTES // 3])
    curl(server, "/large.bin", "--continue-at", "-", "--output", str(target))
    check(target.read_bytes() == directory.large, "the resumed download is another file")


def a_download_is_not_resumed_with_another_file(server: Server, directory: Directory) -> None:
    etag = server.ask("HEAD", "/small.txt").one("etag")
    part = server.ask("GET", "/small.txt", [("Range", "bytes=5-"), ("If-Range", etag)])
    check_equal((part.status, part.body), (206, b"56789"), "the rest of the same file")
    changed = server.ask("GET", "/small.txt", [("Range", "bytes=5-"), ("If-Range", '"older"')])
    check_equal((changed.status, changed.body), (200, b"0123456789"), "the whole of another file")


def who_has_a_file_is_told_so(server: Server, directory: Directory) -> None:
    # curl sends If-Modified-Since with the date of the file, and If-None-Match with the tag it has kept.
    copy = directory.parent / "copy"
    curl(server, "/small.txt", "--remote-time", "--output", str(copy))
    check_equal(int(copy.stat().st_mtime), CHANGED, "the date of the copy")
    check_equal(status(server, "/small.txt", "--time-cond", str(copy)), 304, "status for who has that date")
    check_equal(status(server, "/small.txt", "--time-cond", "1 Jan 2000"), 200, "status for who has an older date")
    tag = str(directory.parent / "tag")
    curl(server, "/small.txt", "--etag-save", tag)
    check_equal(status(server, "/small.txt", "--etag-compare", tag), 304, "status for who has that tag")
    check_equal(status(server, "/style.css", "--etag-compare", tag), 200, "status for who has another tag")


def a_compressed_file_is_sent_to_who_asks_for_it(server: Server, directory: Directory) -> None:
    style = directory.files["style.css"]
    check_equal(curl(server, "/style.css", "--compressed"), style, "what curl has decompressed")
    check_equal(curl(server, "/style.css"), style, "what curl got as it is")
    on_the_wire = server.ask("GET", "/style.css", [("Accept-Encoding", "gzip")])
    check_equal(on_the_wire.one("content-encoding"), "gzip", "Content-Encoding")
    check(len(on_the_wire.body) * 2 < len(style), f"{len(on_the_wire.body)} bytes for {len(style)}")
    refused = server.ask("GET", "/style.css", [("Accept-Encoding", "gzip;q=0")])
    check_equal(refused.all("content-encoding"), [], "Content-Encoding for who refuses gzip")


def nothing_outside_is_served_and_nothing_hidden(server: Server, directory: Directory) -> None:
    for path in ["/../secret", "/%2e%2e/secret", "/..%2fsecret", "/sub/../../secret", "/link", "/.env", "/%2eenv", "//etc/passwd"]:
        check_equal(status(server, path, "--path-as-is"), 404, f"status of {path}")
    check_equal(status(server, "/small.txt", "--data", "x"), 405, "status of a POST")


def a_directory_has_its_slash_its_index_or_its_list(server: Server, directory: Directory) -> None:
    check_equal(status(server, "/sub"), 308, "status without the slash")
    check_equal(curl(server, "/sub", "--location"), b"<p>index", "the index behind the redirect")
    page = curl(server, "/list/").decode()
    check('<a href="./one.txt">one.txt</a>' in page, f"no link in {page!r}")
    page = curl(server, "/").decode()
    check("with space &amp; &lt;tag&gt;.txt" in page and ".env" not in page, f"a list as of a fool: {page!r}")


def a_slow_download_holds_up_nobody(server: Server, directory: Directory) -> None:
    command = command_line(server, "/large.bin", "--limit-rate", "8M", "--output", "/dev/null")
    with subprocess.Popen(command) as slow:
        for _ in range(5):
            start = time.monotonic()
            check_equal(server.ask("GET", "/small.txt").status, 200, "status beside a slow download")
            check_within(time.monotonic() - start, 0, 0.5, "a small file beside a slow download")
            time.sleep(0.1)
        check(slow.poll() is None, "the download was not slow")
        slow.kill()


def clients_that_do_not_read_cost_little_memory(server: Server, directory: Directory) -> None:
    descriptors, memory = server.open_files(), server.resident_bytes()
    idlers = [server.connect() for _ in range(50)]
    for idler in idlers:
        idler.send(b"GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
    opened = descriptors + 2 * len(idlers)
    eventually(lambda: server.open_files() == opened or None, seconds=10, what="every file is open")
    grown = server.resident_bytes() - memory
    check(grown < len(idlers) * 512 * 1024, f"{len(idlers)} clients that do not read took {grown} bytes")
    for idler in idlers:
        idler.close()
    eventually(lambda: server.open_files() <= descriptors or None, seconds=10, what="every file is closed")
    check_equal(curl(server, "/small.txt"), b"0123456789", "a small file afterwards")


def curl(server: Server, path: str, *options: str) -> bytes:
    """What curl writes to its output; it fails the check if curl does."""
    done = subprocess.run(command_line(server, path, *options), capture_output=True, timeout=60)
    check(done.returncode == 0, f"curl {path} {' '.join(options)}: {done.returncode} {done.stderr!r}")
    return done.stdout


def status(server: Server, path: str, *options: str) -> int:
    return int(curl(server, path, *options, "--output", "/dev/null", "--write-out", "%{http_code}"))


def command_line(server: Server, path: str, *options: str) -> list[str]:
    return ["curl", "--silent", "--show-error", *options, f"http://127.0.0.1:{server.port}{path}"]


# More than the buffers of both sockets hold.
LARGE_BYTES = 32 * 1024 * 1024 + 17

# A date of the past, in whole seconds.
CHANGED = 1_600_000_000

if __name__ == "__main__":
    script(main, seconds=120)
