#!/usr/bin/env python3
"""A real Prometheus scrapes our pages sixty times in each format, and stores just what was meant.

It runs with a configuration, a data directory and a port of its own, so that one that the package may have started
as a service neither disturbs nor is disturbed. It scrapes two servers:

- `klein_counter`, whose figures grow while it looks;
- `golden_server`, which says what the golden files say: every type, every hard character, NaN and the infinities; and
  numbers enough for pages that are sent piece by piece.

The second is scraped four times in each second: as Prometheus does by itself, which is OpenMetrics first; compressed; and
through a relay that asks as other versions and settings do. (From 2.49 on `scrape_protocols` would do; older ones cannot be
told.) Needs `prometheus` (Debian package `prometheus`) and `prometheus_client` (from PyPI).
"""

import http.client
import json
import shutil
import subprocess
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from exposition import FAMILIES, golden_text, same, samples_of
from support import Failed, Metrics, Server, check, check_equal, eventually, free_port, run_cases, script


def main() -> None:
    golden_port = free_port()
    with (
        Server("klein_counter", port=PORT) as klein,
        Server("golden_server", golden_port, port=golden_port) as golden,
        Relay(golden_port) as relay,
        Prometheus(configuration(golden_port, relay)) as prometheus,
    ):
        of_klein = [
            the_target_is_up,
            the_last_scrape_had_no_error,
            the_counter_grows_from_scrape_to_scrape,
            what_is_counted_is_what_is_stored,
            the_types_are_known,
            the_built_in_metrics_are_stored,
        ]
        of_golden = [
            sixty_scrapes_and_none_fails,
            the_server_answered_every_one,
            each_page_is_in_the_format_that_was_asked_for,
            pages_are_large_and_one_is_compressed,
            prometheus_dropped_no_sample,
            what_is_stored_is_the_golden_page_and_nothing_else,
            no_sample_was_missing_or_other_at_any_scrape,
            types_units_and_helps_are_known,
        ]
        # Those of the second list wait for the sixty scrapes, which go on during the first.
        run_cases(of_klein, klein, prometheus)
        run_cases(of_golden, golden, relay, prometheus)


# --- a server whose figures grow -----------------------------------------------------------------


def the_target_is_up(_: Server, prometheus: "Prometheus") -> None:
    up = f'up{{job="{JOB}"}}'
    eventually(lambda: prometheus.value(up) == 1 or None, seconds=30, what=f"{up} == 1")


def the_last_scrape_had_no_error(_: Server, prometheus: "Prometheus") -> None:
    check_no_error(JOB, prometheus)


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


def what_is_counted_is_what_is_stored(server: Server, prometheus: "Prometheus") -> None:
    for _ in range(REQUESTS):
        check_equal(server.ask("GET", "/").status, 200, "status of /")
    for series in (
        'inbound_requests_total{endpoint="/",method="GET"',
        'http_server_requests_total{route="/",method="GET",code="200"',
        'http_server_request_duration_seconds_count{route="/",method="GET"',
        'http_server_request_duration_seconds_bucket{route="/",method="GET",le="+Inf"',
    ):
        query = f'{series},job="{JOB}"}}'
        eventually(lambda: prometheus.value(query) == REQUESTS or None, seconds=10, what=f"{query} == {REQUESTS}")
    # None of the requests took a second: where they are in the histogram is stored as well.
    query = f'http_server_request_duration_seconds_bucket{{route="/",le=~"1|1.0",job="{JOB}"}}'
    check_equal(prometheus.value(query), REQUESTS, query)


def the_types_are_known(_: Server, prometheus: "Prometheus") -> None:
    # Prometheus prefers OpenMetrics, where the family of a counter has no `_total`.
    metadata = prometheus.api("metadata", metric="inbound_requests")
    types = [entry["type"] for entry in metadata.get("inbound_requests", [])]
    check_equal(types, ["counter"], "type of inbound_requests")


def the_built_in_metrics_are_stored(_: Server, prometheus: "Prometheus") -> None:
    for prefix in ("dosimeter_", "http_server_"):
        count = prometheus.value(f'count({{__name__=~"{prefix}.+",job="{JOB}"}})')
        check((count or 0) > 0, f"Prometheus stored no series {prefix}...")


# --- a server that says what the golden files say ------------------------------------------------


def sixty_scrapes_and_none_fails(_: Server, __: "Relay", prometheus: "Prometheus") -> None:
    for scraped in SCRAPED:
        count = f'count_over_time(up{{job="{scraped.job}"}}[1h])'
        enough = lambda: (prometheus.value(count) or 0) >= 60 or None  # noqa: E731
        eventually(enough, seconds=90, what=f"60 scrapes of {scraped.job}")
        check_equal(prometheus.value(f'min_over_time(up{{job="{scraped.job}"}}[1h])'), 1, f"worst scrape of {scraped.job}")
        check_no_error(scraped.job, prometheus)


def the_server_answered_every_one(server: Server, _: "Relay", prometheus: "Prometheus") -> None:
    figures = Metrics(server.ask("GET", "/own").body.decode())
    answered = {series: value for series, value in figures.samples.items() if "http_server_requests_total" in series}
    others = [series for series in answered if 'code="200"' not in series]
    check_equal(others, [], "answers other than 200")
    check(sum(answered.values()) >= 60 * len(SCRAPED), f"fewer answers than scrapes: {answered}")
    aborted = {series: value for series, value in figures.samples.items() if "http_server_requests_aborted" in series}
    check_equal(aborted, {}, "scrapes that Prometheus gave up")


def each_page_is_in_the_format_that_was_asked_for(_: Server, relay: "Relay", prometheus: "Prometheus") -> None:
    for scraped in SCRAPED:
        # In OpenMetrics a family of counters is called without `_total`, and Prometheus keeps what it was told.
        names = {entry["metric"] for entry in metadata_of(scraped.job, prometheus)}
        is_openmetrics = "requests" in names and "requests_total" not in names
        check_equal(is_openmetrics, scraped.is_openmetrics, f"whether {scraped.job} is OpenMetrics")
        if scraped.accept:
            answers = relay.answers[scraped.path]
            check(len(answers) >= 60, f"{scraped.job}: only {len(answers)} scrapes went through the relay")
            check_equal(set(answers), {(200, OPENMETRICS if is_openmetrics else TEXT)}, f"answers to {scraped.job}")


def pages_are_large_and_one_is_compressed(server: Server, relay: "Relay", _: "Prometheus") -> None:
    check_equal(relay.codings, {"gzip"}, "Accept-Encoding of Prometheus")
    accept = [("Accept-Encoding", "gzip")]
    plain, compressed = (server.ask("GET", path, accept) for path in ("/metrics", "/compressed"))
    check_equal((plain.all("content-encoding"), compressed.one("content-encoding")), ([], "gzip"), "codings of the pages")
    check(len(plain.body) > 64 * 1024 > len(compressed.body), f"sizes {len(plain.body)} and {len(compressed.body)}")


def prometheus_dropped_no_sample(_: Server, __: "Relay", prometheus: "Prometheus") -> None:
    trouble = prometheus.own("prometheus_target_scrapes_")
    for kind in ("sample_duplicate_timestamp", "sample_out_of_bounds", "sample_out_of_order", "exceeded_body_size_limit"):
        check_equal(trouble.get(f"prometheus_target_scrapes_{kind}_total"), 0, f"scrapes with trouble of kind {kind}")
    check_equal([series for series, count in trouble.items() if "_total" in series and count], [], "troubles")
    for scraped in SCRAPED:
        stored = prometheus.value(f'scrape_samples_post_metric_relabeling{{job="{scraped.job}"}}')
        check_equal(stored, len(golden_samples()), f"samples stored of the last scrape of {scraped.job}")


def what_is_stored_is_the_golden_page_and_nothing_else(_: Server, __: "Relay", prometheus: "Prometheus") -> None:
    written = golden_samples()
    for scraped in SCRAPED:
        stored = {key_of(labels): value for labels, value in prometheus.series(scraped.series)}
        check_equal(sorted(stored), sorted(written), f"series of {scraped.job}")
        for series, value in written.items():
            check(same(stored[series], value), f"{scraped.job} has {series} {stored[series]}, {value} was written")


def no_sample_was_missing_or_other_at_any_scrape(_: Server, __: "Relay", prometheus: "Prometheus") -> None:
    written = golden_samples()
    for scraped in SCRAPED:
        stored = prometheus.history(f'{{job="{scraped.job}"}}')
        scrapes = [time for time, _ in stored[("up",)]]
        check(len(scrapes) >= 60, f"only {len(scrapes)} scrapes of {scraped.job} are stored")
        for series, value in written.items():
            times = [time for time, _ in stored[series]]
            check_equal(times, scrapes, f"{scraped.job}: times at which {series} was there")
            others = [stored for _, stored in stored[series] if not same(stored, value)]
            check_equal(others, [], f"{scraped.job}: values of {series} other than {value}")


def types_units_and_helps_are_known(_: Server, __: "Relay", prometheus: "Prometheus") -> None:
    for scraped in SCRAPED:
        known = {entry["metric"]: entry for entry in metadata_of(scraped.job, prometheus)}
        for family, (kind, unit) in FAMILIES.items():
            if family == "seen":
                continue
            total = "_total" if kind == "counter" and not scraped.is_openmetrics else ""
            entry = known.pop(family + total)
            check_equal(entry["type"], kind, f"type of {family} in {scraped.job}")
            check_equal(entry["unit"], unit if scraped.is_openmetrics else "", f"unit of {family} in {scraped.job}")
            if family == "path_info":
                check_equal(entry["help"], 'A \\ "quoted" help\nof two lines.', f"help in {scraped.job}")
        check_equal(sorted(known), ["many"], f"families of {scraped.job} that are not golden")


def golden_samples() -> dict:
    """All that the server says, by series; the family with timestamps is not among it, and one more is."""
    golden = {series: value for series, value in samples_of(golden_text()).items() if series[0] != "seen"}
    return golden | {("many", ("number", str(number))): float(number) for number in range(MANY)}


def key_of(labels: dict[str, str]) -> tuple:
    """A series as `samples_of` calls it: with numbers for bounds, which are texts of the format's own."""
    labels = dict(labels)
    name = labels.pop("__name__")
    bounds = ("le", "quantile")
    return (name, *sorted((key, str(float(value)) if key in bounds else value) for key, value in labels.items()))


def metadata_of(job: str, prometheus: "Prometheus") -> list[dict]:
    return prometheus.api("targets/metadata", match_target=f'{{job="{job}"}}')


def check_no_error(job: str, prometheus: "Prometheus") -> None:
    targets = prometheus.api("targets", state="active")["activeTargets"]
    (target,) = (target for target in targets if target["labels"]["job"] == job)
    check_equal((target["health"], target["lastError"]), ("up", ""), f"health of {job}")


# --- what Prometheus runs with -------------------------------------------------------------------


@dataclass(frozen=True)
class Scraped:
    """A way to scrape the golden server: directly, or through the relay with another `Accept`."""

    job: str
    path: str
    is_openmetrics: bool
    accept: str | None = None

    @property
    def series(self) -> str:
        """All that was on the page, and not what Prometheus adds of each scrape."""
        return f'{{job="{self.job}",__name__!~"up|scrape_.+"}}'


class Relay:
    """Passes scrapes on to a server with another `Accept`, and notes what came back."""

    def __init__(self, server_port: int) -> None:
        self.codings: set[str | None] = set()
        self.answers: dict[str, list[tuple[int, str]]] = {scraped.path: [] for scraped in SCRAPED if scraped.accept}
        accepts = {scraped.path: scraped.accept for scraped in SCRAPED}
        answers, codings = self.answers, self.codings

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                upstream = http.client.HTTPConnection("127.0.0.1", server_port, timeout=5)
                # All else as Prometheus sent it, so that the server knows how long it waits.
                fields = {name: value for name, value in self.headers.items() if name not in ("Accept", "Host")}
                upstream.request("GET", "/metrics", headers=fields | {"Accept": accepts[self.path]})
                reply = upstream.getresponse()
                body = reply.read()
                upstream.close()
                codings.add(self.headers["Accept-Encoding"])
                answers[self.path].append((reply.status, reply.headers["Content-Type"]))
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.headers["Content-Type"])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def __enter__(self) -> "Relay":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def configuration(golden_port: int, relay: Relay) -> str:
    def job(name: str, port: int, path: str) -> str:
        return f"""
  - job_name: {name}
    metrics_path: {path}
    static_configs:
      - targets: ["127.0.0.1:{port}"]"""

    jobs = [job(JOB, PORT, "/metrics")]
    jobs += [job(scraped.job, relay.port if scraped.accept else golden_port, scraped.path) for scraped in SCRAPED]
    return GLOBAL + "".join(jobs)


def labels_of(metric: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in metric.items() if name not in ("job", "instance")}


class Prometheus:
    """A Prometheus server with this configuration and files beside it, gone with all its data after the `with` block."""

    def __init__(self, configuration: str, beside: Iterable[Path] = ()) -> None:
        self._configuration, self._beside = configuration, list(beside)
        self._port = free_port()

    def __enter__(self) -> "Prometheus":
        self._directory = tempfile.TemporaryDirectory(prefix="dosimeter-prometheus-")
        home = Path(self._directory.name)
        (home / "prometheus.yml").write_text(self._configuration)
        for file in self._beside:
            shutil.copy(file, home)
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

    def series(self, query: str) -> list[tuple[dict[str, str], float]]:
        """What a query yields now: labels, without those of the target, and value."""
        result = self.api("query", query=query)["result"]
        return [(labels_of(sample["metric"]), float(sample["value"][1])) for sample in result]

    def history(self, selector: str) -> dict[tuple, list[tuple[float, float]]]:
        """All that is stored of the series of a selector, as times and values, by series as `samples_of` calls it."""
        result = self.api("query", query=f"{selector}[1h]")["result"]
        values = lambda series: [(time, float(value)) for time, value in series["values"]]  # noqa: E731
        return {key_of(labels_of(series["metric"])): values(series) for series in result}

    def own(self, prefix: str) -> dict[str, float]:
        """The figures that Prometheus has of itself, by the beginning of their names."""
        samples = Metrics(self._get("metrics").decode()).samples
        return {series: value for series, value in samples.items() if series.startswith(prefix)}

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

# More than any scrape adds, so that the last one of them is what is stored.
REQUESTS = 37

# Of a family beside the golden ones, for pages of more than one piece.
MANY = 4000

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

SCRAPED = [
    # Default settings: OpenMetrics first in all versions since 2.5.
    Scraped("by_itself", "/metrics", is_openmetrics=True),
    Scraped("compressed", "/compressed", is_openmetrics=True),
    # `scrape_protocols: [PrometheusText0.0.4]`, and what Prometheus asked for before 2.5.
    Scraped("text", "/text", is_openmetrics=False, accept="text/plain;version=0.0.4"),
    # Default settings of Prometheus 3.
    Scraped(
        "as_version_3",
        "/version_3",
        is_openmetrics=True,
        accept="application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;"
        "version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    ),
]

GLOBAL = """
global:
  scrape_interval: 1s
  scrape_timeout: 1s
scrape_configs:"""

if __name__ == "__main__":
    script(main, seconds=240)
