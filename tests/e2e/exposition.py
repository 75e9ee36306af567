#!/usr/bin/env python3
"""What is exposed, read back by parsers that are not ours: those of prometheus_client, the one for OpenMetrics strict.

The golden files of `tests/exposition_text.rs` and `tests/exposition_openmetrics.rs` hold every type and every hard character.
Needs `prometheus_client` (from PyPI).
"""

import math
from pathlib import Path

from support import Failed, Server, check, check_equal, run_cases, script

try:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
    from prometheus_client.parser import text_string_to_metric_families as parse_text
except ImportError as error:
    raise SystemExit(f"{error}: python3 -m pip install prometheus_client") from None


def main() -> None:
    run_cases(
        [
            the_golden_files_hold_the_values_that_were_written,
            the_golden_files_have_the_same_samples,
            the_golden_families_have_their_types_and_units,
            escapes_come_back_as_what_they_were,
            what_is_not_allowed_costs_no_page,
        ]
    )
    with Server("klein_counter", port=PORT) as server:
        cases = [
            a_running_server_is_read_strictly,
            a_running_server_says_the_same_in_both_formats,
            what_is_counted_is_what_is_exposed,
            the_hooks_of_a_route_measure_its_requests,
            the_filter_leaves_the_family_that_was_named,
        ]
        run_cases(cases, server)


# --- the golden files ----------------------------------------------------------------------------


def the_golden_files_hold_the_values_that_were_written() -> None:
    for families in (golden_text(), golden_openmetrics()):
        samples = samples_of(families)
        for series, value in WRITTEN.items():
            check(series in samples, f"no {series} among {sorted(samples)}")
            check(same(samples[series], value), f"{series} reads {samples[series]}, {value} was written")


def the_golden_files_have_the_same_samples() -> None:
    check_same_samples(golden_text(), golden_openmetrics())


def the_golden_families_have_their_types_and_units() -> None:
    found = {family.name: (family.type, family.unit) for family in golden_openmetrics()}
    check_equal(found, FAMILIES, "types and units")


def escapes_come_back_as_what_they_were() -> None:
    for families in (golden_text(), golden_openmetrics()):
        (family,) = (family for family in families if family.name == "path_info")
        check_equal(family.documentation, 'A \\ "quoted" help\nof two lines.', "help")
        labels = {"path": "C:\\DIR\\", "text": 'say "hi"\n{to, all} = ünïcödé'}
        check_equal(family.samples[0].labels, labels, "labels")


def what_is_not_allowed_costs_no_page() -> None:
    samples = samples_of(golden_odd())
    for series, value in ODD.items():
        check(same(samples[series], value), f"{series} reads {samples[series]}, {value} was written")
    counters = sorted(family.name for family in golden_odd() if family.type == "counter")
    check_equal(counters, ["d_created", "endless"], "counters")


def golden_odd() -> list:
    return parse_strictly(golden("openmetrics_odd"))


def golden_text() -> list:
    return parse_laxly(golden("text"))


def golden_openmetrics() -> list:
    return parse_strictly(golden("openmetrics"))


def golden(name: str) -> str:
    # Not as text: that would take a carriage return for the end of a line.
    return (Path(__file__).parents[1] / "golden" / f"exposition_{name}.txt").read_bytes().decode()


# --- a running server ----------------------------------------------------------------------------


def a_running_server_is_read_strictly(server: Server) -> None:
    families = scrape_openmetrics(server)
    units = {family.name: family.unit for family in families}
    check_equal(units.get("dosimeter_loop_turn_duration_seconds"), "seconds", "unit of a histogram")
    check_equal(units.get("dosimeter_loop_busy_seconds"), "seconds", "unit of a counter")
    unknown = [family.name for family in families if family.type == "unknown"]
    check_equal(unknown, [], "families without a type")


def a_running_server_says_the_same_in_both_formats(server: Server) -> None:
    # Each once before, so that both have been counted when they are compared.
    for _ in range(2):
        text, openmetrics = scrape_text(server), scrape_openmetrics(server)
    check_equal(sorted(samples_of(openmetrics)), sorted(samples_of(text)), "series")
    types = {family.name.removesuffix("_total"): family.type for family in text}
    check_equal({family.name: family.type for family in openmetrics}, types, "types")


def what_is_counted_is_what_is_exposed(server: Server) -> None:
    check_equal(server.ask("GET", "/").status, 200, "status of /")
    before = samples_of(scrape_openmetrics(server))[COUNTED]
    for _ in range(5):
        check_equal(server.ask("GET", "/").status, 200, "status of /")
    for families in (scrape_openmetrics(server), scrape_text(server)):
        check_equal(samples_of(families)[COUNTED], before + 5, "inbound_requests_total")


def the_hooks_of_a_route_measure_its_requests(server: Server) -> None:
    for _ in range(3):
        check_equal(server.ask("GET", "/broken").status, 500, "status of /broken")
    samples = samples_of(scrape_openmetrics(server))
    of = lambda name, endpoint: samples[(name, ("endpoint", endpoint))]  # noqa: E731
    check_equal(of("inbound_request_errors_total", "/broken"), 3, "errors of /broken")
    check_equal(of("inbound_request_errors_total", "/"), 0, "errors of /")
    check_equal(of("inbound_request_seconds_count", "/broken"), 3, "requests of /broken that were timed")
    in_progress = [of("inbound_requests_in_progress", endpoint) for endpoint in ("/broken", "/metrics")]
    check_equal(in_progress, [0, 1], "in progress of /broken, and of /metrics, which is the scrape itself")


def the_filter_leaves_the_family_that_was_named(server: Server) -> None:
    reply = server.ask("GET", "/metrics?name[]=inbound_requests_total", OPENMETRICS)
    check_equal([family.name for family in parse_strictly(reply.body.decode())], ["inbound_requests"], "families")


def scrape_text(server: Server) -> list:
    return parse_laxly(server.ask("GET", "/metrics").body.decode())


def scrape_openmetrics(server: Server) -> list:
    reply = server.ask("GET", "/metrics", OPENMETRICS)
    content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    check_equal((reply.status, reply.one("content-type")), (200, content_type), "status and Content-Type")
    return parse_strictly(reply.body.decode())


# --- what both formats say -----------------------------------------------------------------------


def parse_strictly(page: str) -> list:
    try:
        return list(parse_openmetrics(page))
    except ValueError as error:
        raise Failed(f"no OpenMetrics: {error}\n{page}") from error


def parse_laxly(page: str) -> list:
    """Text format 0.0.4. The parser calls every counter `..._total`, also one that is not: that is undone."""
    families = list(parse_text(page))
    for family in families:
        names = (s.name if s.name in page else s.name.removesuffix("_total") for s in family.samples)
        family.samples = [sample._replace(name=name) for sample, name in zip(family.samples, names)]
    return families


def check_same_samples(text: list, openmetrics: list) -> None:
    """The same series with the same values and times: which format a scraper prefers must make no difference."""
    check_equal(timestamps_of(openmetrics), timestamps_of(text), "timestamps")
    ours, theirs = samples_of(openmetrics), samples_of(text)
    check_equal(sorted(ours), sorted(theirs), "series")
    for series, value in ours.items():
        check(same(value, theirs[series]), f"{series}: {value} in OpenMetrics, {theirs[series]} in text")


def samples_of(families: list) -> dict:
    """Values by series. Bounds are numbers here: as text they differ between the formats."""
    samples = {}
    for sample in (sample for family in families for sample in family.samples):
        series = series_of(sample)
        check(series not in samples, f"{series} came twice")
        samples[series] = sample.value
    return samples


def timestamps_of(families: list) -> dict:
    samples = (sample for family in families for sample in family.samples)
    return {series_of(sample): float(sample.timestamp) for sample in samples if sample.timestamp is not None}


def series_of(sample) -> tuple:
    bounds = ("le", "quantile")
    labels = ((name, str(float(value)) if name in bounds else value) for name, value in sample.labels.items())
    return (sample.name, *sorted(labels))


def same(a: float, b: float) -> bool:
    return a == b or math.isnan(a) and math.isnan(b)


PORT = 8000
COUNTED = ("inbound_requests_total", ("endpoint", "/"), ("method", "GET"))

# What Prometheus sends.
OPENMETRICS = [
    (
        "Accept",
        "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,"
        "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    )
]

# What it puts into the one of what OpenMetrics does not allow.
ODD = {
    ("a_info", ("empty", ""), ("text", "\r\t\x7f\u2028{}=,# ")): 1,
    ("a_total_total",): 3,
    ("b",): 4,
    ("b_total",): 5,
    ("c_created",): 2,
    ("c_total",): 6,
    ("d_created_total",): 7,
    ("d_total",): 8,
    ("falling_total",): -9,
    ("lost_seconds_total",): math.nan,
    ("_total",): 10,
    ("endless_total",): math.inf,
    ("below_zero_bucket", ("le", "inf")): 3,
    ("below_zero_count_total",): 11,
    ("negative_bucket", ("le", "inf")): 2,
    ("no_number_bucket", ("le", "inf")): 2,
    ("without_bounds_count",): 2**64 - 1,
    ("rare_count",): 12,
    ("rare_sum_total",): 13,
}

# What `tests/support/families.rs` puts into the golden files.
WRITTEN = {
    ("requests_total", ("method", "GET"), ("route", "/")): 1027,
    ("temperature_celsius",): -3.25,
    ("temperature_celsius", ("site", "nowhere")): math.nan,
    ("temperature_celsius", ("site", "above")): math.inf,
    ("temperature_celsius", ("site", "below")): -math.inf,
    ("latency_seconds_bucket", ("le", "10.0")): 2,
    ("latency_seconds_bucket", ("le", "inf")): 3,
    ("latency_seconds_sum",): 12.575,
    ("latency_seconds_count", ("route", "/")): 4,
    ("size_bytes_bucket", ("le", "1048576.0")): 5,
    ("size_bytes_sum",): 1.5e9,
    ("rpc_seconds", ("call", "get"), ("quantile", "0.5")): 0.0125,
    ("rpc_seconds", ("call", "get"), ("quantile", "0.99")): math.nan,
    ("rpc_seconds_count",): 0,
    ("busy_seconds_total", ("cpu", "0")): 1.5,
    ("busy_seconds_total", ("cpu", "1")): 1e21,
    ("anything",): 0.1,
    ("seen",): 1,
    ("seen", ("before", "1970")): 2,
}

FAMILIES = {
    "requests": ("counter", ""),
    "temperature_celsius": ("gauge", "celsius"),
    "path_info": ("gauge", ""),
    "latency_seconds": ("histogram", "seconds"),
    "size_bytes": ("histogram", "bytes"),
    "rpc_seconds": ("summary", "seconds"),
    "busy_seconds": ("counter", "seconds"),
    "anything": ("unknown", ""),
    "seen": ("unknown", ""),
}

if __name__ == "__main__":
    script(main, seconds=60)
