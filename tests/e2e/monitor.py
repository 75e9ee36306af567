"""The example `monitor`: what an operator sees of a loop that is stuck, over real sockets.

The loop is held up by a request, as in life; the monitor has to tell so meanwhile, and that it is over.
"""

import signal

from support import Server, check, check_equal, eventually, free_port, script, Metrics


def main() -> None:
    port, monitor_port = free_port(), free_port()
    with Server("monitor", port, monitor_port, port=port) as server:
        monitor = Server("monitor", port=monitor_port)
        eventually(lambda: status(monitor, "/healthz", 200), seconds=5, what="the loop is well")
        eventually(lambda: status(monitor, "/readyz", 200), seconds=5, what="the site is ready")
        with server.connect(timeout=30) as wire:
            wire.send(b"GET /block/9 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            reply = eventually(lambda: status(monitor, "/healthz", 503), seconds=8, what="the monitor tells of the stall")
            check(reply.body.startswith(b"stuck: "), f"unexpected text {reply.body!r}")
            check_equal(monitor.ask("GET", "/readyz").status, 503, "status of /readyz of a stuck loop")
            stalls = monitor.ask("GET", "/stalls").body.decode()
            check("state: held up\n" in stalls, f"/stalls does not tell: {stalls}")
            check("\nrunning: io (route /block/<int(max=60):seconds>), for " in stalls, f"/stalls does not name what runs: {stalls}")
            metrics = Metrics(monitor.ask("GET", "/metrics").body.decode())
            check(metrics['dosimeter_loop_iterations_total{reactor="monitor"}'] > 0, "the monitor does not count itself")
            check(metrics["dosimeter_loop_iterations_total"] > 0, "the loop is not on the page of the monitor")
            check_equal(wire.reply().status, 200, "status of the request that held up the loop")
        eventually(lambda: status(monitor, "/healthz", 200), seconds=5, what="the loop is well again")
        stalls = monitor.ask("GET", "/stalls").body.decode()
        check("\nslow: io (route /block/<int(max=60):seconds>) took " in stalls, f"/stalls has forgotten what was slow: {stalls}")
        check_equal(server.stop(signal.SIGTERM, seconds=5), 0, "exit code after SIGTERM")


def status(server: Server, path: str, wanted: int):
    reply = server.ask("GET", path)
    return reply if reply.status == wanted else None


if __name__ == "__main__":
    script(main, seconds=60)
