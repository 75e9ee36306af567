"""The example `dashboard` in a real browser: headless Chromium, driven through its DevTools protocol over two pipes.

What the page shows is compared with what was scraped; it must go on when the server was gone for a while, must not ask
any other host for anything, and must have nothing to say on its console.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

from support import Metrics, Server, check, check_equal, eventually, free_port, run_cases, script


class Browser:
    """One tab of a headless Chromium; what it was told by the page is kept."""

    def __init__(self, *, dark: bool = False, width: int = 1280, height: int = 1000) -> None:
        self._size, self._dark = (width, height), dark
        self._profile = tempfile.TemporaryDirectory()
        self._number, self._rest, self._session = 0, b"", None
        self.requests, self.complaints = [], []

    def __enter__(self) -> "Browser":
        path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
        check(path is not None, f"none of {BROWSERS} is installed")
        command = [path, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
                   "--disable-background-networking", "--disable-dev-shm-usage", "--no-first-run",
                   f"--user-data-dir={self._profile.name}", "about:blank"]
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "sh", *command],
            pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self._call(f"{domain}.enable")
            self.resize(*self._size)
            scheme = "dark" if self._dark else "light"
            self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile.name, ignore_errors=True)

    def resize(self, width: int, height: int) -> None:
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)

    def value(self, expression: str):
        """What a JavaScript expression is in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        check("exceptionDetails" not in answer, f"{expression}: {answer.get('exceptionDetails')}")
        return answer["result"].get("value")

    def screenshot(self, path: str) -> None:
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))

    def _call(self, method: str, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            came = self._message(method)
            if came.get("id") == self._number:
                check("error" not in came, f"{method}: {came.get('error')}")
                return came["result"]
            self._note(came.get("method"), came.get("params", {}))

    def _message(self, waiting_for: str) -> dict:
        deadline = time.monotonic() + 60
        while b"\0" not in self._rest:
            readable, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
            check(bool(readable), f"the browser does not answer to {waiting_for}")
            data = os.read(self._in, 1 << 16)
            check(bool(data), "the browser has ended")
            self._rest += data
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def _note(self, method: str | None, params: dict) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(params["exceptionDetails"].get("text"))
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(params["args"]))
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])


def main() -> None:
    port = free_port()
    with Browser() as browser:
        with Server("dashboard", port, port=port) as server:
            for path, count in ASKED.items():
                for _ in range(count):
                    server.ask("GET", path)
            run_cases([
                the_path_without_a_slash_leads_to_the_page,
                the_page_shows_the_figures_that_were_scraped,
                what_held_up_the_loop_is_named,
                every_plot_has_a_line,
                nobody_else_is_asked_and_nothing_complained_of,
                figures_that_are_none_of_a_reactor_are_told_of,
            ], browser, server)
        run_cases([an_end_of_the_server_is_told_and_a_new_one_is_found], browser, Server("dashboard", port, port=port))
    run_cases([a_loop_that_is_stuck_is_told_of_by_its_monitor])


def the_path_without_a_slash_leads_to_the_page(browser: Browser, server: Server) -> None:
    browser.open(f"http://127.0.0.1:{server.port}/dashboard")
    eventually(lambda: browser.value(STATUS) == "live" or None, seconds=20, what="the page is live")
    check_equal(browser.value("location.pathname"), "/dashboard/", "path of the page")


def the_page_shows_the_figures_that_were_scraped(browser: Browser, server: Server) -> None:
    eventually(lambda: browser.value(rows_of("/app/hello")) or None, seconds=20, what="there are rows of routes")
    metrics = Metrics(server.ask("GET", "/dashboard/metrics").body.decode())
    for path, count in ASKED.items():
        cells = browser.value(rows_of(path))
        series = [name for name in metrics.samples if name.startswith("http_server_requests_total{") and f'route="{path}"' in name]
        total = sum(metrics[name] for name in series)
        check_equal(total, count, f"requests of {path} on the page of metrics")
        check_equal(cells[-1], str(count), f"total of {path} on the page")
    failed = browser.value(rows_of("/app/broken"))
    check_equal(failed[-2], str(ASKED["/app/broken"]), "5xx of /app/broken")
    check(float(browser.value(tile("connections"))) >= 1, "the connection of the browser itself is not on the page")
    utilisation = float(browser.value(tile("utilisation")))
    check(0 <= utilisation <= 1, f"utilisation of {utilisation}")


def what_held_up_the_loop_is_named(browser: Browser, _server: Server) -> None:
    rows = "[...document.querySelectorAll('#slow-rows tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
    named = eventually(lambda: [row for row in browser.value(rows) if len(row) == 5] or None, seconds=20, what="a slow callback is listed")
    place, kind, times, longest, _last = named[0]
    check_equal((place, kind), ("route /app/busy", "io"), "place and kind of the slow callback")
    check(int(times) >= 1 and longest.endswith("ms"), f"unexpected figures {named[0]}")


def every_plot_has_a_line(browser: Browser, _server: Server) -> None:
    def empty() -> bool | None:
        return browser.value("[...document.querySelectorAll('#plots svg')].every((svg) => svg.querySelector('.line'))") or None

    eventually(empty, seconds=20, what="there is a line in every plot")
    check_equal(browser.value("document.body.textContent.includes('NaN')"), False, "NaN on the page")


def nobody_else_is_asked_and_nothing_complained_of(browser: Browser, server: Server) -> None:
    origin = f"http://127.0.0.1:{server.port}/"
    strange = [url for url in browser.requests if not url.startswith((origin, "data:"))]
    check(not strange, f"other hosts were asked: {strange}")
    check(not browser.complaints, f"on the console: {browser.complaints}")


def figures_that_are_none_of_a_reactor_are_told_of(browser: Browser, _server: Server) -> None:
    browser.value("take({ samples: parse('prefix_dosimeter_loop_iterations_total 1\\n'), at: performance.now() }); drawStatus(null)")
    check_equal(browser.value(STATUS), "lost", "status of a page without figures of a reactor")
    told = browser.value("document.getElementById('status').textContent")
    check(told.startswith("no figures of a reactor"), f"it says {told!r}")
    eventually(lambda: browser.value(STATUS) == "live" or None, seconds=20, what="the page is live again")


def an_end_of_the_server_is_told_and_a_new_one_is_found(browser: Browser, again: Server) -> None:
    eventually(lambda: browser.value(STATUS) == "lost" or None, seconds=20, what="the page tells that nobody answers")
    with again:
        eventually(lambda: browser.value(STATUS) == "live" or None, seconds=20, what="the page is live again")
        eventually(lambda: browser.value("document.querySelectorAll('.restart').length") or None, seconds=20, what="the restart is marked")
        negative = browser.value("/-\\d/.test(document.getElementById('tiles').textContent)")
        check_equal(negative, False, "a figure below zero after a restart")


def a_loop_that_is_stuck_is_told_of_by_its_monitor() -> None:
    port, monitor_port = free_port(), free_port()
    with Server("monitor", port, monitor_port, port=port) as server, Browser() as browser:
        browser.open(f"http://127.0.0.1:{monitor_port}/dashboard/")
        eventually(lambda: browser.value(STATUS) == "live" or None, seconds=20, what="the page is live")
        with server.connect(timeout=30) as wire:
            wire.send(b"GET /block/8 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            text = "document.getElementById('status').textContent"
            stuck = "the loop has not turned for "
            eventually(lambda: browser.value(text).startswith(stuck) or None, seconds=20, what="the page tells that the loop is stuck")
            check_equal(wire.reply().status, 200, "status of the request that held up the loop")
        eventually(lambda: browser.value(STATUS) == "live" or None, seconds=20, what="the page is live again")
        the_figures_are_those_of_the_loop_that_is_chosen(browser)


def the_figures_are_those_of_the_loop_that_is_chosen(browser: Browser) -> None:
    slow = "document.getElementById('slow-rows').textContent"
    route = "/block/<int(max=60):seconds>"
    check_equal(browser.value("document.getElementById('reactor').value"), "", "the reactor that is shown first")
    eventually(lambda: browser.value(rows_of(route)), seconds=20, what="the route is told of")
    check(route in browser.value(slow), "what held up the loop is not named")
    choose = "(() => { const list = document.getElementById('reactor'); list.value = %s; list.dispatchEvent(new Event('change')); })()"
    browser.value(choose % "'monitor'")
    check_equal(browser.value(rows_of(route)), None, "the row of a route of the other loop")
    check(browser.value(rows_of("/dashboard/*")) is not None, "there is no row of what the monitor answers")
    check_equal(browser.value(slow), "told only of the reactor (without a name)", "what is said to have held up the monitor")
    browser.value(choose % "''")
    check(route in browser.value(slow) and browser.value(rows_of(route)) is not None, "the first loop does not come back")


def rows_of(route: str) -> str:
    return (
        "(() => { const row = [...document.querySelectorAll('#route-rows tr')]"
        f".find((row) => row.cells[0].textContent === {json.dumps(route)});"
        " return row ? [...row.cells].map((cell) => cell.dataset.value ?? cell.textContent) : null; })()"
    )


def tile(name: str) -> str:
    return f"document.querySelector('#tile-{name} .value').dataset.value"


STATUS = "document.getElementById('status')?.className"
ASKED = {"/app/hello": 7, "/app/broken": 3, "/app/nap": 2, "/app/busy": 2}
BROWSERS = ["chromium", "chromium-browser", "google-chrome"]

if __name__ == "__main__":
    script(main, seconds=180)
