#!/usr/bin/env python3
"""The files of `examples/prometheus` do what their README says, with what running examples really export.

A name or a label in a rule that nothing exports makes an alert that never fires and a graph that stays empty, and nobody is
told. So each name, each label and each label value is looked up on the pages of `contract`, `monitor` and `exporter`; then a
real Prometheus evaluates every rule and every graph over the three, and each must yield something. That loops which wedge and
programs that end are noticed is seen by doing it to them.

Needs `prometheus` and `promtool` (Debian package `prometheus`), `prometheus_client` and `yaml` (PyYAML, both from PyPI), and
the examples.
"""

import json
import math
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import promql
from exposition import parse_laxly
from prometheus import Prometheus
from support import ROOT, Failed, Server, check, check_equal, eventually, free_port, run_cases, script

try:
    import yaml
except ImportError as error:
    raise SystemExit(f"{error}: python3 -m pip install pyyaml") from None


def main() -> None:
    run_cases(
        [
            promtool_accepts_the_rules,
            promtool_accepts_the_configuration,
            promtool_accepts_the_recipes_of_the_guide,
            the_cases_of_the_rules_hold,
            each_alert_has_a_case_that_fires_it_and_one_that_does_not,
            each_recorded_name_has_a_value_in_a_case,
            each_alert_says_how_bad_it_is_and_what_to_do,
            the_readme_names_every_file,
            the_readme_lists_every_alert,
            the_dashboard_is_whole,
            its_panels_do_not_overlap,
            its_panels_have_the_units_of_what_they_show,
            it_uses_each_of_its_variables,
        ]
    )
    port, worker_port, monitor_port, exporter_port = free_port(), free_port(), free_port(), free_port()
    with (
        Server("contract", port, port=port) as web,
        Server("monitor", worker_port, monitor_port, port=worker_port) as worker,
        Server("exporter", "--listen", f"127.0.0.1:{exporter_port}", port=exporter_port) as exporter,
        Prometheus(configuration(port, monitor_port, exporter_port, "prometheus"), beside=[RECORDING, ALERTS]) as prometheus,
    ):
        monitor = Server("monitor", port=monitor_port)
        exported = Exported([page(web, worker), page(monitor, worker), page(exporter, worker)])
        run_cases([promtool_finds_nothing_wrong_with_the_pages], web, monitor, exporter)
        run_cases([what_is_misspelt_is_found, all_that_is_named_is_exported], exported)
        cases = [
            every_rule_can_be_evaluated,
            every_recorded_name_has_series,
            every_panel_shows_something,
            a_loop_that_is_wedged_is_noticed,
            a_program_that_is_gone_is_noticed,
        ]
        run_cases(cases, web, worker, prometheus)


# --- the rules -----------------------------------------------------------------------------------


def promtool_accepts_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", RECORDING, ALERTS)


def promtool_accepts_the_configuration() -> None:
    # As it is, and with what stands there as a comment, for those versions that know it.
    promtool("check", "config", "--lint=all", "--lint-fatal", CONFIGURATION)
    with tempfile.TemporaryDirectory() as home:
        for file in (RECORDING, ALERTS):
            (Path(home) / file.name).write_text(file.read_text())
        file = Path(home) / CONFIGURATION.name
        file.write_text(configuration(8000, 9100, 9101, "promtool"))
        promtool("check", "config", file)


def promtool_accepts_the_recipes_of_the_guide() -> None:
    named = [{"record": f"recipe_{number}", "expr": recipe} for number, recipe in enumerate(recipes())]
    check(len(named) > 10, f"the guide has {len(named)} recipes: has their form changed?")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "recipes.yml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "recipes", "rules": named}]}))
        promtool("check", "rules", file)


def the_cases_of_the_rules_hold() -> None:
    promtool("test", "rules", CASES)


def each_alert_has_a_case_that_fires_it_and_one_that_does_not() -> None:
    fired, silent = set(), set()
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        looks = case.get("alert_rule_test", [])
        fires = {look["alertname"] for look in looks if look["exp_alerts"]}
        fired |= fires
        # A look before its time is no case of its own.
        silent |= {look["alertname"] for look in looks} - fires
    names = {rule["alert"] for rule in rules(ALERTS)}
    check_equal(sorted(names - fired), [], "alerts that no case fires")
    check_equal(sorted(names - silent), [], "alerts without a case in which they do not fire")


def each_recorded_name_has_a_value_in_a_case() -> None:
    cases = yaml.safe_load(CASES.read_text())["tests"]
    looks = [look for case in cases for look in case.get("promql_expr_test", []) if look["exp_samples"]]
    tested = {name for look in looks for name, _ in promql.read(look["expr"]).selectors}
    check_equal(sorted({rule["record"] for rule in rules(RECORDING)} - tested), [], "recorded names without a value")


def each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in rules(ALERTS):
        name = rule["alert"]
        check(rule["labels"]["severity"] in ("critical", "warning"), f"{name}: severity {rule['labels']}")
        check("for" in rule, f"{name} fires at once")
        summary, description = rule["annotations"]["summary"], rule["annotations"]["description"]
        check(summary.endswith(".") and "\n" not in summary and len(summary) < 120, f"{name}: summary {summary!r}")
        check(summary.count("{{") >= 1, f"{name}: the summary does not say whom it is about")
        check(description.endswith(".") and len(description) > 100, f"{name}: description {description!r}")


def the_readme_names_every_file() -> None:
    readme = (FILES / "README.md").read_text()
    unnamed = [file.name for file in FILES.iterdir() if file.name != "README.md" and f"({file.name})" not in readme]
    check_equal(unnamed, [], "files without a word in the README")


def the_readme_lists_every_alert() -> None:
    listed = re.findall(r"^\| `(Dosimeter\w+)` \| (\w+) \|", (FILES / "README.md").read_text(), re.MULTILINE)
    check_equal(sorted(listed), sorted((rule["alert"], rule["labels"]["severity"]) for rule in rules(ALERTS)), "alerts listed")


# --- the dashboard of Grafana --------------------------------------------------------------------


def the_dashboard_is_whole() -> None:
    dashboard = load_dashboard()
    check(dashboard["schemaVersion"] >= 39 and dashboard["id"] is None, "not a dashboard to be imported")
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    check_equal(len(set(ids)), len(ids), "number of different ids")
    check(len(panels) > 30, f"only {len(panels)} panels: has the form of the dashboard changed?")
    for panel in panels:
        title = panel["title"]
        check(panel["type"] in ("row", "stat", "timeseries", "heatmap"), f"{title}: type {panel['type']}")
        if panel["type"] == "row":
            check_equal(panel["panels"], [], f"panels hidden in {title}")
            continue
        check(panel["description"].endswith("."), f"{title}: description {panel['description']!r}")
        check_equal(panel["datasource"], SOURCE, f"data source of {title}")
        names = [target["refId"] for target in panel["targets"]]
        check(names and len(set(names)) == len(names), f"{title}: targets {names}")
        for target in panel["targets"]:
            check_equal(target["datasource"], SOURCE, f"data source of a target of {title}")
    titles = [panel["title"] for panel in panels]
    check_equal(len(set(titles)), len(titles), "number of different titles")


def its_panels_do_not_overlap() -> None:
    panels = load_dashboard()["panels"]
    places = [(panel["title"], *(panel["gridPos"][side] for side in "xywh")) for panel in panels]
    for title, x, _, w, h in places:
        check(x >= 0 and w > 0 and h > 0 and x + w <= 24, f"{title} is not on the grid")
    for (one, x1, y1, w1, h1), (other, x2, y2, w2, h2) in combinations(places, 2):
        apart = x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 <= y2 or y2 + h2 <= y1
        check(apart, f"{one} lies over {other}")


def its_panels_have_the_units_of_what_they_show() -> None:
    for panel in drawn_panels():
        unit = panel["fieldConfig"]["defaults"]["unit"]
        check(unit in UNITS, f"{panel['title']}: unit {unit!r}")
        for target in panel["targets"]:
            for name, _ in promql.read(target["expr"]).selectors:
                wanted = next((unit for ending, unit in UNITS_OF if re.search(ending, name)), None)
                is_divided = unit == "percentunit"
                check(wanted in (None, unit) or is_divided, f"{panel['title']} shows {name} in {unit!r}")


def it_uses_each_of_its_variables() -> None:
    dashboard = load_dashboard()
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps([dashboard["panels"], dashboard["annotations"]])))
    check_equal(used, defined, "variables that are used")
    check_equal(defined, {"datasource", "job", "instance", "reactor"}, "variables")


# --- what is named, and what is exported ---------------------------------------------------------


class Exported:
    """The series of some pages: which names there are, with which labels and which values of them."""

    def __init__(self, pages: list[str]) -> None:
        self.names: dict[str, list[dict[str, str]]] = {name: [{}] for name in OF_PROMETHEUS}
        for text in pages:
            for sample in (sample for family in parse_laxly(text) for sample in family.samples):
                self.names.setdefault(sample.name, []).append(sample.labels)

    def complaints(self, expression: str) -> Iterator[str]:
        """What the expression names that is not there."""
        named = promql.read(expression)
        labels = set(OF_TARGETS)
        for name, matchers in named.selectors:
            if name in RECORDED:
                labels |= RECORDED[name]
                continue
            series = self.names.get(name)
            if series is None:
                yield f"nothing exports {name}"
                continue
            known = {label for one in series for label in one} | set(OF_TARGETS)
            if name.startswith(OF_LOOPS):
                known.add("reactor")
            labels |= known
            for matcher in matchers:
                if matcher.label not in known:
                    yield f"{name} has no label {matcher.label}"
                elif "$" not in matcher.value and matcher.operator in ("=", "=~"):
                    if not any(matcher.holds(one.get(matcher.label, "")) for one in series):
                        yield f"no {name} has {matcher.label}{matcher.operator}{matcher.value!r}"
                    yield from self._alternatives(name, matcher, series)
        for label in named.grouped_by - labels:
            yield f"nothing in it has the label {label} that it groups by"

    @staticmethod
    def _alternatives(name: str, matcher: promql.Matcher, series: list[dict[str, str]]) -> Iterator[str]:
        """Of `a|b|c` each must be there: label values are of closed sets, which are told whole from the start."""
        if re.fullmatch(r"\w+(\|\w+)+", matcher.value):
            values = {one.get(matcher.label, "") for one in series}
            for value in set(matcher.value.split("|")) - values:
                yield f"no {name} has {matcher.label}={value!r}"


def what_is_misspelt_is_found(exported: Exported) -> None:
    for expression, complaint in {
        "rate(dosimeter_lop_stalls_total[5m]) > 0": "nothing exports dosimeter_lop_stalls_total",
        "dosimeter_loop_turn_duration_seconds": "nothing exports dosimeter_loop_turn_duration_seconds",
        "sum by (rute) (http_server_requests_total)": "nothing in it has the label rute that it groups by",
        'http_server_requests_total{status="200"}': "http_server_requests_total has no label status",
        'dosimeter_accept_errors_total{error=~"fd_limit|memmory"}': "no dosimeter_accept_errors_total has error='memmory'",
        'dosimeter_callbacks_total{kind="times"}': "no dosimeter_callbacks_total has kind='times'",
        "job:http_server_requests:rate5": "nothing exports job:http_server_requests:rate5",
    }.items():
        check_equal(list(exported.complaints(expression)), [complaint], f"complaints about {expression}")
    fine = 'sum by (route) (rate(http_server_requests_total{code=~"5.."}[5m])) > 0'
    check_equal(list(exported.complaints(fine)), [], f"complaints about {fine}")


def all_that_is_named_is_exported(exported: Exported) -> None:
    complaints = [f"{where}: {what}" for where, expression in expressions() for what in exported.complaints(expression)]
    check(not complaints, "\n       ".join(complaints))
    for where, label in labels_of_variables():
        check(label in OF_TARGETS or label == "reactor", f"{where}: label {label}")


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression in the files, and where it stands."""
    for file in (RECORDING, ALERTS):
        for rule in rules(file):
            yield rule.get("record") or rule["alert"], rule["expr"]
    for panel in drawn_panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]
    dashboard = load_dashboard()
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", VARIABLE.fullmatch(variable["query"]["query"])[1]
    for annotation in dashboard["annotations"]["list"]:
        if "expr" in annotation:
            yield f"annotation {annotation['name']}", annotation["expr"]
    for recipe in recipes():
        # These two are those of programs that have such collectors and labels.
        if not recipe.startswith(("increase(metrics_collector_", "rate(metrics_label_")):
            yield f"recipe {recipe}", recipe
    # Names in what a person is told to look at.
    for rule in rules(ALERTS):
        for name in re.findall(r"\b\w+_total\b|\b\w+(?::\w+)+\b", rule["annotations"]["description"]):
            yield f"description of {rule['alert']}", name


def labels_of_variables() -> Iterator[tuple[str, str]]:
    for variable in load_dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", VARIABLE.fullmatch(variable["query"]["query"])[2]


# --- with a real Prometheus ----------------------------------------------------------------------


def promtool_finds_nothing_wrong_with_the_pages(*servers: Server) -> None:
    for server in servers:
        promtool("check", "metrics", text=server.ask("GET", "/metrics").body.decode())


def every_rule_can_be_evaluated(web: Server, worker: Server, prometheus: Prometheus) -> None:
    def evaluated() -> bool | None:
        groups = prometheus.api("rules")["groups"]
        states = {rule["name"]: (rule["health"], rule.get("lastError", "")) for group in groups for rule in group["rules"]}
        if len(states) < len(rules(RECORDING) + rules(ALERTS)) or any(health == "unknown" for health, _ in states.values()):
            return None
        wrong = {name: state for name, state in states.items() if state != ("ok", "")}
        check_equal(wrong, {}, "rules that cannot be evaluated")
        return True

    eventually(evaluated, seconds=20, what="all rules are evaluated")


def every_recorded_name_has_series(web: Server, worker: Server, prometheus: Prometheus) -> None:
    for rule in rules(RECORDING):
        name = rule["record"]
        series = shows_something(name, web, worker, prometheus)
        labels = {label for labels in series for label in labels} - {"__name__"}
        # The one loop of a program mostly has no name.
        check(RECORDED[name] - {"reactor"} <= labels <= RECORDED[name], f"{name} has the labels {labels}")


def every_panel_shows_something(web: Server, worker: Server, prometheus: Prometheus) -> None:
    for panel in drawn_panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in VALUES.items():
                expression = expression.replace(variable, value)
            series = shows_something(expression, web, worker, prometheus)
            # The one loop of a program mostly has no name.
            for label in set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) - {"reactor"}:
                check(all(label in labels for labels in series), f"{panel['title']}: not all that is shown has a label {label}")


def shows_something(expression: str, web: Server, worker: Server, prometheus: Prometheus) -> list[dict[str, str]]:
    """The labels of what it yields; waits until there is a number among it, with something to do for the programs meanwhile."""

    def finite() -> list[dict[str, str]] | None:
        series = prometheus.api("query", query=expression)["result"]
        if any(math.isfinite(float(sample["value"][1])) for sample in series):
            return [sample["metric"] for sample in series]
        page(web, worker)
        return None

    return eventually(finite, seconds=20, what=f"{expression} yields a number")


def a_loop_that_is_wedged_is_noticed(_: Server, worker: Server, prometheus: Prometheus) -> None:
    age = 'reactor:dosimeter_loop_last_turn_age:seconds{job="worker"}'
    eventually(lambda: 0 <= prometheus.value(age) < 3 or None, seconds=5, what=f"{age} of a loop that is well")
    with worker.connect(timeout=30) as wire:
        wire.send(b"GET /block/16 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        pending = 'ALERTS{alertname="DosimeterLoopWedged",job="worker"}'
        eventually(lambda: prometheus.value(pending), seconds=15, what=pending)
        check(prometheus.value(age) > 10, "the alert came too early")
        check_equal(prometheus.value('up{job="worker"}'), 1, "the monitor of a wedged loop")
        check_equal(wire.reply().status, 200, "status of the request that held up the loop")
    eventually(lambda: prometheus.value(age) < 3 or None, seconds=5, what=f"{age} of a loop that is well again")


def a_program_that_is_gone_is_noticed(web: Server, _: Server, prometheus: Prometheus) -> None:
    check_equal(prometheus.value('ALERTS{alertname="DosimeterDown"}'), None, "an alert about programs that run")
    web.stop(signal.SIGKILL, seconds=5)
    pending = 'ALERTS{alertname="DosimeterDown",job="web"}'
    eventually(lambda: prometheus.value(pending), seconds=10, what=pending)


def page(server: Server, worker: Server) -> str:
    """A page of `server`, on which every kind of event has left its series: answers, errors, refusals, clients that left."""
    for target in ("/", "/nothing-here", "/fail"):
        for program in (server, worker):
            program.ask("GET", target)
    with server.connect() as wire:
        wire.send(b"GET / HTTP/1.1\r\nno colon\r\n\r\n")
        check_equal(wire.reply().status, 400, "status of what is no request")
    with server.connect() as wire:
        wire.send(b"GET /delay?ms=60000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        # A reset, which tells the server at once that nobody waits for the answer.
        wire.reset()
    return server.ask("GET", "/metrics").body.decode()


# --- the files -----------------------------------------------------------------------------------


def promtool(*arguments: object, text: str = "") -> None:
    command = ["promtool", *map(str, arguments)]
    try:
        result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise Failed("promtool is not installed") from None
    check(result.returncode == 0, f"{' '.join(command)} says: {result.stdout}{result.stderr}")


def rules(file: Path) -> list[dict]:
    return [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def recipes() -> list[str]:
    """The expressions in the chapter of the documentation on metrics."""
    blocks = GUIDE.read_text(encoding="utf-8").split("```text\n")[1:]
    return [recipe for block in blocks for recipe in block.split("```")[0].strip().split("\n\n")]


def load_dashboard() -> dict:
    def once(pairs: list[tuple[str, object]]) -> dict:
        check(len(dict(pairs)) == len(pairs), f"a key comes twice among {[key for key, _ in pairs]}")
        return dict(pairs)

    return json.loads(DASHBOARD.read_text(), object_pairs_hook=once)


def drawn_panels() -> list[dict]:
    return [panel for panel in load_dashboard()["panels"] if panel["type"] != "row"]


def configuration(port: int, monitor_port: int, exporter_port: int, reader: str) -> str:
    """The configuration for these ports, every second, and with what is a comment in it if the reader knows that."""
    text = CONFIGURATION.read_text()
    replacements = {
        "localhost:8000": f"localhost:{port}",
        "localhost:9100": f"localhost:{monitor_port}",
        "localhost:9101": f"localhost:{exporter_port}",
        "_interval: 15s": "_interval: 1s",
    }
    if version_of(reader) >= (2, 49):
        replacements["# scrape_protocols:"] = "scrape_protocols:"
    for old, new in replacements.items():
        check(old in text, f"{CONFIGURATION.name} has no {old}")
        text = text.replace(old, new)
    return text


def version_of(program: str) -> tuple[int, int]:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    major, minor = re.search(r"version (\d+)\.(\d+)", said.stdout + said.stderr).groups()
    return int(major), int(minor)


FILES = ROOT / "examples" / "prometheus"
RECORDING, ALERTS, CASES = FILES / "recording_rules.yml", FILES / "alert_rules.yml", FILES / "rules_test.yml"
GUIDE = Path(__file__).parents[2] / "src" / "guide" / "metrics.md"
CONFIGURATION, DASHBOARD = FILES / "prometheus.yml", FILES / "grafana_dashboard.json"

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
VARIABLE = re.compile(r"label_values\((.+), (\w+)\)")
VALUES = {"$job": ".+", "$instance": ".+", "$reactor": ".*", "$__rate_interval": "1m", "$__range": "1h"}

# What Prometheus adds to the series of a target, and says of the scrape.
OF_TARGETS = ("job", "instance")
OF_PROMETHEUS = ("up", "scrape_duration_seconds")

# The figures of a loop and of the servers on it have its name, also those that only the loop without a name has had so far.
OF_LOOPS = ("dosimeter_", "http_server_")

# The labels of what is recorded. The level in front of a name says it, and a loop has a name or none.
LEVELS = {"reactor": {"job", "instance", "reactor"}, "instance": {"job", "instance"}}
RECORDED = {
    rule["record"]: LEVELS.get(level) or set(level.split("_"))
    for rule in rules(RECORDING)
    for level in [rule["record"].split(":")[0]]
}

# Units as Grafana calls them, and those that the ending of a name asks for where it is not a part of a ratio.
UNITS = ("short", "percentunit", "s", "ops", "reqps", "Bps", "bytes")
UNITS_OF = [(r"_bytes_total$", "Bps"), (r"_bytes$", "bytes"), (r"_seconds(_bucket)?$", "s"), (r"_requests\w*_total$", "reqps")]

if __name__ == "__main__":
    script(main, seconds=180)
