#!/usr/bin/env python3
"""The example `exporter`: its figures are those of `/proc`, and what cannot be read costs only itself.

The values are compared with what this script reads from `/proc` before and after the scrape. What is broken is broken in a
directory that stands for `/proc`: a file that is missing, one that says nonsense, and one that never answers (a FIFO).

Needs `promtool` (Debian package `prometheus`).
"""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from support import Metrics, Server, check, check_equal, example_path, free_port, run_cases, script

PROC = Path("/proc")
PARTS = ("load", "memory", "disks", "pressure")


def main() -> None:
    with exporter() as server:
        run_cases(
            [
                promtool_accepts_the_scrape_without_a_word,
                every_part_that_the_system_has_is_up,
                load_and_memory_are_those_of_proc,
                disks_are_those_of_proc,
                pressure_is_that_of_proc,
                the_landing_page_leads_to_the_metrics,
            ],
            server,
        )
    run_cases(
        [
            what_is_missing_or_nonsense_costs_only_itself,
            what_hangs_costs_only_itself_and_is_left_alone,
            what_comes_back_is_told_again,
            a_part_can_be_left_out,
            mistakes_are_told_and_nothing_is_served,
            sigterm_ends_it_with_success,
        ]
    )


def exporter(*args: object) -> Server:
    port = free_port()
    return Server("exporter", "--listen", f"127.0.0.1:{port}", *args, port=port)


# --- values --------------------------------------------------------------------------------------


def promtool_accepts_the_scrape_without_a_word(server: Server) -> None:
    page = server.ask("GET", "/metrics").body
    said = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=30, check=False)
    check_equal((said.returncode, said.stdout + said.stderr), (0, b""), "what promtool says")


def every_part_that_the_system_has_is_up(server: Server) -> None:
    metrics = scrape(server)
    for part in PARTS:
        expected = float(part != "pressure" or (PROC / "pressure" / "cpu").exists())
        check_equal(up(metrics, part), expected, f"whether {part} is up")
        check(0 <= metrics[f'host_collector_duration_seconds{{collector="{part}"}}'] < 2, f"how long {part} took")


def load_and_memory_are_those_of_proc(server: Server) -> None:
    metrics = scrape(server)
    loads = [float(word) for word in (PROC / "loadavg").read_text().split()[:3]]
    for name, here in zip(("host_load1", "host_load5", "host_load15"), loads, strict=True):
        # It is reckoned anew every five seconds; in one step it moves by less than a tenth of what runs.
        check(abs(metrics[name] - here) <= 1 + here / 4, f"{name} is {metrics[name]}, /proc says {here}")
    total, free = memory("MemTotal"), memory("MemAvailable")
    check_equal(metrics["host_memory_total_bytes"], total, "memory")
    check(abs(metrics["host_memory_available_bytes"] - free) < total / 4, "available memory is far from that of /proc")
    check(metrics["host_memory_free_bytes"] <= total, "more memory is free than there is")
    check_equal(metrics["host_memory_swap_total_bytes"], memory("SwapTotal"), "swap")


def disks_are_those_of_proc(server: Server) -> None:
    before, metrics, after = disks(), scrape(server), disks()
    told = {series.split('"')[1] for series in metrics.samples if series.startswith("host_disk_reads_completed_total")}
    check(told <= set(before), f"disks that /proc does not have: {told - set(before)}")
    check(not [name for name in told if name.startswith(("loop", "ram"))], f"what is no disk: {told}")
    for disk in told:
        for name, column, factor in (
            ("reads_completed_total", 0, 1),
            ("read_bytes_total", 2, 512),
            ("read_time_seconds_total", 3, 0.001),
            ("writes_completed_total", 4, 1),
            ("written_bytes_total", 6, 512),
            ("io_time_seconds_total", 9, 0.001),
        ):
            value = metrics[f'host_disk_{name}{{device="{disk}"}}']
            low, high = (figures[disk][column] * factor for figures in (before, after))
            check(low - 1e-6 <= value <= high + 1e-6, f"{name} of {disk} is {value}, not in {low} to {high}")


def pressure_is_that_of_proc(server: Server) -> None:
    if not (PROC / "pressure" / "cpu").exists():
        print("       this system does not tell of pressure: not checked")
        return
    before, metrics, after = pressure(), scrape(server), pressure()
    for resource in ("cpu", "io", "memory"):
        value = metrics[f'host_pressure_waiting_seconds_total{{resource="{resource}"}}']
        low, high = before[resource], after[resource]
        check(low - 1e-6 <= value <= high + 1e-6, f"pressure of {resource} is {value}, not in {low} to {high}")


def the_landing_page_leads_to_the_metrics(server: Server) -> None:
    reply = server.ask("GET", "/")
    check_equal((reply.status, reply.one("content-type")), (200, "text/html; charset=utf-8"), "page at /")
    check(b'href="metrics"' in reply.body, f"no link on {reply.body!r}")


# --- what goes wrong -----------------------------------------------------------------------------


def what_is_missing_or_nonsense_costs_only_itself() -> None:
    with Copy() as copy, exporter("--proc", copy.path) as server:
        shutil.rmtree(copy.path / "pressure")
        line = "   8       0 sda 1 2 3 4 5 6 7 8 9 10 11\n   8      16 sdb 1 2 this is no figure\n"
        (copy.path / "diskstats").write_text(line)
        metrics = scrape(server)
        check_equal([up(metrics, part) for part in PARTS], [1, 1, 0, 0], f"up of {PARTS}")
        check_equal(metrics['host_disk_reads_completed_total{device="sda"}'], 1, "the disk that can be read")
        check('host_disk_reads_completed_total{device="sdb"}' not in metrics.samples, "a disk that cannot be read")
        check(not any("pressure_" in series for series in metrics.samples), "pressure that cannot be read")


def what_hangs_costs_only_itself_and_is_left_alone() -> None:
    with Copy() as copy, exporter("--proc", copy.path) as server:
        (copy.path / "loadavg").unlink()
        # Whoever opens it to read waits for somebody who writes.
        os.mkfifo(copy.path / "loadavg")
        for scrapes in (1, 2):
            metrics = scrape(server)
            check_equal([up(metrics, part) for part in PARTS], [0, 1, 1, 1], f"up of {PARTS}")
            check_equal(metrics['metrics_collector_errors_total{collector="load"}'], scrapes, "errors")
        check(metrics['host_collector_duration_seconds{collector="load"}'] < 0.5, "it was waited for again")
        check_equal(server.ask("GET", "/").status, 200, "status of the page at /")
        # Lets go of the thread that still reads.
        with (copy.path / "loadavg").open("w") as fifo:
            fifo.write("0.25 0.5 0.75 1/2 3\n")


def what_comes_back_is_told_again() -> None:
    with Copy() as copy, exporter("--proc", copy.path) as server:
        text = (copy.path / "loadavg").read_text()
        (copy.path / "loadavg").write_text("no load\n")
        check_equal(up(scrape(server), "load"), 0, "whether load is up")
        (copy.path / "loadavg").write_text(text)
        metrics = scrape(server)
        check_equal(up(metrics, "load"), 1, "whether load is up again")
        check_equal(metrics["host_load1"], float(text.split()[0]), "load")


def a_part_can_be_left_out() -> None:
    with exporter("--without", "disks", "--without=pressure") as server:
        metrics = scrape(server)
        check_equal([series for series in metrics.samples if "_disk_" in series or "pressure" in series], [], "series")
        check_equal(up(metrics, "load"), 1, "whether load is up")


def mistakes_are_told_and_nothing_is_served() -> None:
    for args, code, text in (
        (["--listne", "x"], 2, 'there is no option "--listne"'),
        (["--without", "cpu"], 2, 'there is no part "cpu", only load, memory, disks, pressure'),
        (["--listen"], 2, "--listen needs a value"),
        (["--listen", "nowhere"], 1, "nowhere"),
    ):
        said = run(*args)
        check_equal((said.returncode, said.stdout), (code, ""), f"exit code and output with {args}")
        check(said.stderr.startswith("exporter: ") and text in said.stderr, f"{args}: {said.stderr!r}")
    said = run("--help")
    check_equal((said.returncode, said.stderr), (0, ""), "exit code and complaints of --help")
    check(all(f"--{name}" in said.stdout for name in ("listen", "proc", "without")), f"help: {said.stdout}")


def sigterm_ends_it_with_success() -> None:
    with exporter() as server:
        scrape(server)
        check_equal(server.stop(signal.SIGTERM, seconds=5), 0, "exit code after SIGTERM")


# --- tools ---------------------------------------------------------------------------------------


class Copy:
    """A directory that stands for `/proc`."""

    def __enter__(self) -> "Copy":
        self._directory = tempfile.TemporaryDirectory()
        self.path = Path(self._directory.name)
        for name in ("loadavg", "meminfo", "diskstats"):
            (self.path / name).write_text((PROC / name).read_text())
        (self.path / "pressure").mkdir()
        for name in ("cpu", "io", "memory"):
            (self.path / "pressure" / name).write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()


def scrape(server: Server) -> Metrics:
    reply = server.ask("GET", "/metrics")
    check_equal(reply.status, 200, "status of /metrics")
    return Metrics(reply.body.decode())


def up(metrics: Metrics, part: str) -> float:
    return metrics[f'host_collector_up{{collector="{part}"}}']


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([example_path("exporter"), *args], capture_output=True, text=True, timeout=10, check=False)


def memory(field: str) -> int:
    lines = (PROC / "meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def disks() -> dict[str, list[int]]:
    rows = [line.split() for line in (PROC / "diskstats").read_text().splitlines()]
    return {row[2]: [int(word) for word in row[3:]] for row in rows}


def pressure() -> dict[str, float]:
    def total(resource: str) -> float:
        some = (PROC / "pressure" / resource).read_text().splitlines()[0]
        return int(some.rpartition("total=")[2]) / 1e6

    return {resource: total(resource) for resource in ("cpu", "io", "memory")}


if __name__ == "__main__":
    script(main, seconds=90)
