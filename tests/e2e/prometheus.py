#!/usr/bin/env python3
"""A real Prometheus scrapes `klein_counter` and tells the truth about it through its own HTTP API.

It runs with a configuration, a data directory and a port of its own, so that one that the package may have started
as a service neither disturbs nor is disturbed. Needs `prometheus` (Debian package `prometheus`).
"""

import json
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from support import Failed, Server, check, check_equal, eventually, free_port, run_cases, script


def main() -> None:
    with Server("klein_counter", port=PORT) as server, Prometheus(PORT) as prometheus:
        cases = [
            the_target_is_up,
            the_last_scrape_had_no_error,
            the_counter_grows_from_scrape_to_scrape,
            the_types_are_known,
            the_built_in_metrics_are_stored,
        ]
        run_cases(cases, server, prometheus)


def the_target_is_up(_: Server, prometheus: "Prometheus") -> None:
    up = f'up{{job="{JOB}"}}'
    eventually(lambda: prometheus.value(up) == 1 or None, seconds=30, what=f"{up} == 1")


def the_last_scrape_had_no_error(_: Server, prometheus: "Prometheus") -> None:
    (target,) = prometheus.api("targets", state="active")["activeTargets"]
    check_equal((target["health"], target["lastError"]), ("up", ""), "health of the target")


def the_counter_grows_from_scrape_to_scrape(server: Server, prometheus: "Prometheus") -> None:
    seen: list[float] = []

    def grown_often_enough() -> bool | None:
        # Requests beside those of Prometheus: the count must be the server's, whoever asks.
        check_equal(server.ask("GET", "/metrics").status, 200, "status of /metrics")
        value = prometheus.value(COUNTER)
        if value is not None and value not in seen[-1:]:
            check(not seen or value > seen[-1], f"{COUNTER} fell from {seen} to {value}")
            seen.append(value)
        return len(seen) > SCRAPES or None

    eventually(grown_often_enough, seconds=30, what=f"{SCRAPES} scrapes with a higher {COUNTER}")
    # More than one a scrape: what came in between was counted too.
    check(seen[-1] - seen[0] > SCRAPES, f"{COUNTER} counted the scrapes only: {seen}")


def the_types_are_known(_: Server, prometheus: "Prometheus") -> None:
    # Prometheus prefers OpenMetrics, where the family of a counter has no `_total`.
    metadata = prometheus.api("metadata", metric="inbound_requests")
    types = [entry["type"] for entry in metadata.get("inbound_requests", [])]
    check_equal(types, ["counter"], "type of inbound_requests")


def the_built_in_metrics_are_stored(_: Server, prometheus: "Prometheus") -> None:
    for prefix in ("dosimeter_", "http_server_"):
        count = prometheus.value(f'count({{__name__=~"{prefix}.+",job="{JOB}"}})')
        check((count or 0) > 0, f"Prometheus stored no series {prefix}...")


class Prometheus:
    """A Prometheus server that scrapes one target every second, gone with all its data after the `with` block."""

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._port = free_port()

    def __enter__(self) -> "Prometheus":
        self._directory = tempfile.TemporaryDirectory(prefix="dosimeter-prometheus-")
        home = Path(self._directory.name)
        (home / "prometheus.yml").write_text(CONFIGURATION.format(job=JOB, port=self._target))
        self._log = (home / "log").open("w+")
        try:
            self._process = subprocess.Popen(
                self._command(home), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
            )
        except FileNotFoundError:
            self._directory.cleanup()
            raise Failed("prometheus is not installed") from None
        try:
            eventually(self._ready, seconds=30, what="Prometheus is ready")
        except BaseException:
            self.__exit__(Failed)
            raise
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        if kind is not None:
            self._log.seek(0)
            print("".join(f"    | {line}" for line in self._log.readlines()[-20:]), flush=True)
        self._log.close()
        self._directory.cleanup()

    def value(self, query: str) -> float | None:
        """The value of a query that yields one sample, None while it yields no sample."""
        result = self.api("query", query=query)["result"]
        check(len(result) <= 1, f"{query} yields {len(result)} samples")
        return float(result[0]["value"][1]) if result else None

    def api(self, name: str, **parameters: str) -> dict:
        """The data of a call of the HTTP API, version 1."""
        answer = json.loads(self._get(f"api/v1/{name}?{urllib.parse.urlencode(parameters)}"))
        check(answer["status"] == "success", f"Prometheus answers {answer}")
        return answer["data"]

    def _ready(self) -> bool | None:
        check(self._process.poll() is None, "Prometheus ended at once; its log follows")
        try:
            return bool(self._get("-/ready"))
        except urllib.error.URLError:
            return None

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{path}", timeout=10) as answer:
            return answer.read()

    def _command(self, home: Path) -> list[str]:
        return [
            "prometheus",
            f"--config.file={home / 'prometheus.yml'}",
            f"--storage.tsdb.path={home / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]


JOB = "klein_counter"
PORT = 8000
COUNTER = 'inbound_requests_total{endpoint="/metrics",method="GET"}'

# So many rises show that scraping goes on, and that the first was no accident.
SCRAPES = 4

CONFIGURATION = """
global:
  scrape_interval: 1s
  scrape_timeout: 1s
scrape_configs:
  - job_name: {job}
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""

if __name__ == "__main__":
    script(main, seconds=120)
