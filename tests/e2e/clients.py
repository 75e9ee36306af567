#!/usr/bin/env python3
"""The clients that are out there talk to `contract` and find nothing to complain about.

Needs ab (apache2-utils), wrk, h2load (nghttp2-client), curl and node.
"""

import http.client
import re
import subprocess
import tempfile
from pathlib import Path

from support import Failed, Server, check, check_equal, free_port, run_cases, script


def main() -> None:
    port = free_port()
    with Server("contract", port, port=port) as server:
        cases = [ab_keeps_connections, ab_closes_connections, wrk_has_no_errors, h2load_pipelines, curl_sends_and_fetches,
                 python_keeps_a_connection, node_keeps_a_connection]
        run_cases(cases, server)


def ab_keeps_connections(server: Server) -> None:
    said = run("ab", "-q", "-k", "-n", "20000", "-c", "20", url(server))
    check_equal(number(said, r"Complete requests: +(\d+)"), 20000, "requests")
    check_equal(number(said, r"Failed requests: +(\d+)"), 0, "failed requests")
    check("Non-2xx" not in said, "some answers were no 2xx")
    check_equal(number(said, r"Keep-Alive requests: +(\d+)"), 20000, "requests on kept connections")


def ab_closes_connections(server: Server) -> None:
    said = run("ab", "-q", "-n", "3000", "-c", "20", url(server))
    check_equal(number(said, r"Complete requests: +(\d+)"), 3000, "requests")
    check_equal(number(said, r"Failed requests: +(\d+)"), 0, "failed requests")


def wrk_has_no_errors(server: Server) -> None:
    said = run("wrk", "-t1", "-c50", "-d2s", url(server))
    check("Socket errors" not in said and "Non-2xx" not in said, f"wrk complains:\n{said}")
    check(number(said, r"(\d+) requests in") > 1000, f"hardly any requests:\n{said}")


def h2load_pipelines(server: Server) -> None:
    said = run("h2load", "--h1", "-n", "20000", "-c", "10", "-m", "16", url(server))
    check("20000 succeeded, 0 failed, 0 errored, 0 timeout" in said, f"h2load complains:\n{said}")


def curl_sends_and_fetches(server: Server) -> None:
    with tempfile.TemporaryDirectory() as directory:
        upload = Path(directory) / "upload"
        upload.write_bytes(BODY)
        # curl expects 100 before a body of this size; in chunks it does not say how long it is.
        said = run("curl", "-sS", "-i", "-H", "Expect: 100-continue", "--data-binary", f"@{upload}", url(server, "/echo"))
        check(said.startswith("HTTP/1.1 100 Continue\r\n") or said.startswith("HTTP/1.1 100"), f"no 100: {said[:80]!r}")
        for more in (["--data-binary", f"@{upload}"], ["-H", "Transfer-Encoding: chunked", "--data-binary", f"@{upload}"],
                     ["-X", "POST", "-T", "-", "--http1.1"]):
            got = subprocess.run(["curl", "-sS", "--fail", *more, url(server, "/echo")], input=BODY, capture_output=True, timeout=20)
            check_equal((got.returncode, got.stdout), (0, BODY), f"what curl got back with {more}")
        got = run("curl", "-sS", "-I", url(server))
        check(got.startswith("HTTP/1.1 200"), f"HEAD: {got!r}")


def python_keeps_a_connection(server: Server) -> None:
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    sockets = set()
    for _ in range(50):
        client.request("POST", "/echo", body=iter([b"one, ", b"two"]), encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})
        answer = client.getresponse()
        check_equal((answer.status, answer.read()), (200, b"one, two"), "the echo")
        sockets.add(client.sock.getsockname())
    check_equal(len(sockets), 1, "connections that http.client made")


def node_keeps_a_connection(server: Server) -> None:
    said = subprocess.run(["node", "-e", NODE, str(server.port)], capture_output=True, text=True, timeout=30)
    check_equal((said.returncode, said.stderr, said.stdout.strip()), (0, "", "50 answers, 1 connections"), "what node said")


def url(server: Server, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=60)
    except FileNotFoundError:
        raise Failed(f"{command[0]} is not installed") from None
    check_equal((done.returncode, done.stderr), (0, b""), f"exit code and errors of {' '.join(command)}")
    return done.stdout.decode(errors="replace")


def number(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    check(found is not None, f"{pattern} is not in:\n{text}")
    return int(found[1])


BODY = bytes(range(256)) * 400

NODE = """
const http = require('http');
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const connections = new Set();
let answers = 0;
function ask(left) {
  if (left === 0) {
    console.log(`${answers} answers, ${connections.size} connections`);
    return agent.destroy();
  }
  const request = http.request(
    { port: process.argv[1], host: '127.0.0.1', path: '/echo', method: 'POST', agent },
    (answer) => {
      let body = '';
      answer.on('data', (piece) => (body += piece));
      answer.on('end', () => {
        if (answer.statusCode !== 200 || body !== 'one, two') throw new Error(`${answer.statusCode} ${body}`);
        answers += 1;
        ask(left - 1);
      });
    },
  );
  request.on('socket', (socket) => connections.add(socket));
  request.write('one, ');
  request.end('two');
}
ask(50);
"""

if __name__ == "__main__":
    script(main, seconds=180)
