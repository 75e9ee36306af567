#!/usr/bin/env python3
"""`proxy LISTEN TARGET` is not to be told from what stands behind it: here `echo`, so its cases apply.

Besides: the end of one side reaches the other, as an end or as a break, and so does its slowness. There the target is a
socket of this script, which can be as rude as a case needs. A target that does not answer costs its client the connection
and nobody else anything.
"""

import contextlib
import socket

import echo
from support import Server, check, check_equal, eventually, free_port, run_cases, script


def main() -> None:
    port, front = free_port(), free_port()
    with Server("echo", port, port=port) as target:
        with Server("proxy", f"tcp:{front}", f"tcp:127.0.0.1:{port}", port=front) as proxy:
            run_cases(CASES, proxy)
            a_client_that_leaves_takes_the_other_connection_with_it(proxy, target)
    with Target() as rude, Server("proxy", f"tcp:{front}", f"tcp:127.0.0.1:{rude.port}", port=front) as proxy:
        run_cases(RUDE_CASES, proxy, rude)
    with silent_port() as port, Server("proxy", f"tcp:{front}", f"tcp:127.0.0.1:{port}", port=front) as proxy:
        run_cases([a_client_that_breaks_off_is_not_connected_any_more], proxy)
    nobody = free_port()
    with Server("proxy", f"tcp:{front}", f"tcp:127.0.0.1:{nobody}", port=front) as proxy:
        run_cases([a_client_of_a_target_that_is_not_there_is_closed], proxy)


def a_client_that_leaves_takes_the_other_connection_with_it(proxy: Server, target: Server) -> None:
    before = proxy.open_files(), target.open_files()
    peers = [echo.connect(proxy) for _ in range(20)]
    for number, peer in enumerate(peers):
        check_equal(echo.exchange(peer, b"hello"), b"hello", "echo")
        echo.reset(peer) if number % 2 else peer.close()
    eventually(
        lambda: (proxy.open_files(), target.open_files()) <= before or None,
        seconds=10,
        what=f"the descriptors are back at {before}",
    )


def an_end_is_passed_on_in_each_direction(proxy: Server, target: "Target") -> None:
    with joined(proxy, target) as (client, far):
        client.shutdown(socket.SHUT_WR)
        check_equal(far.recv(1), b"", "what the target reads at the end")
        far.sendall(b"still here")
        check_equal(echo.receive(client, 10), b"still here", "the other direction")
        far.close()
        check_equal(client.recv(1), b"", "what the client reads at the end")
    with joined(proxy, target) as (client, far):
        far.shutdown(socket.SHUT_WR)
        check_equal(client.recv(1), b"", "what the client reads at the end")
        client.sendall(b"still here")
        check_equal(echo.receive(far, 10), b"still here", "the other direction")


def a_break_is_passed_on_in_each_direction(proxy: Server, target: "Target") -> None:
    with joined(proxy, target) as (client, far):
        echo.reset(far)
        check(is_broken(client), "the client saw an orderly end")
    with joined(proxy, target) as (client, far):
        echo.reset(client)
        check(is_broken(far), "the target saw an orderly end")


def a_target_that_does_not_read_slows_the_client_down(proxy: Server, target: "Target") -> None:
    with joined(proxy, target) as (client, far):
        everything_arrives_although_nobody_reads_at_first(client, far)


def a_client_that_does_not_read_slows_the_target_down(proxy: Server, target: "Target") -> None:
    with joined(proxy, target) as (client, far):
        everything_arrives_although_nobody_reads_at_first(far, client)


def everything_arrives_although_nobody_reads_at_first(sender: socket.socket, reader: socket.socket) -> None:
    sender.setblocking(False)
    sent = echo.fill(sender, at_most=64 * echo.MEBIBYTE)
    # The systems' buffers of two connections take a few MiB; whoever takes this much keeps it in memory, for any peer.
    check(sent < 64 * echo.MEBIBYTE, "no back-pressure: 64 MiB taken although nobody reads")
    sender.settimeout(echo.TIMEOUT_SECONDS)
    sender.shutdown(socket.SHUT_WR)
    received = 0
    while piece := reader.recv(echo.MEBIBYTE):
        received += len(piece)
    check_equal(received, sent, "bytes that came through")


def is_broken(peer: socket.socket) -> bool:
    """Waits for the end; whether it was a reset."""
    try:
        while peer.recv(65_536):
            pass
        return False
    except ConnectionResetError:
        return True


class Target:
    """A listening socket of this script."""

    def __enter__(self) -> "Target":
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(echo.TIMEOUT_SECONDS)
        self.port = self._listener.getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def accept(self, greeting: bytes) -> socket.socket:
        """The connection on which `greeting` comes; others were opened to see whether the proxy listens."""
        while True:
            far, _ = self._listener.accept()
            far.settimeout(echo.TIMEOUT_SECONDS)
            if echo.receive(far, len(greeting)) == greeting:
                return far
            far.close()


@contextlib.contextmanager
def joined(proxy: Server, target: Target):
    """A client of the proxy, and the end of its connection at the target."""
    with echo.connect(proxy) as client:
        client.sendall(b"hello")
        with target.accept(b"hello") as far:
            yield client, far


def a_client_of_a_target_that_is_not_there_is_closed(proxy: Server) -> None:
    # The port answers before the reactor runs, and it opens some descriptors only then: the first client waits for that.
    turned_away(proxy)
    before = proxy.open_files()
    for _ in range(20):
        turned_away(proxy)
    check(proxy.open_files() <= before, "a descriptor stays behind")


def a_client_that_breaks_off_is_not_connected_any_more(proxy: Server) -> None:
    peers = [echo.connect(proxy) for _ in range(20)]
    for peer in peers:
        peer.sendall(b"hello")
    eventually(lambda: proxy.open_files() >= 2 * len(peers) or None, seconds=5, what="a descriptor for each direction")
    for peer in peers:
        echo.reset(peer)
    # The attempts themselves would take 30 seconds.
    eventually(lambda: proxy.open_files() < len(peers) or None, seconds=5, what="the attempts are given up")


@contextlib.contextmanager
def silent_port():
    """A port whose queue is full: the system says nothing to who connects."""
    with contextlib.ExitStack() as kept:
        listener = kept.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(10):
            peer = kept.enter_context(socket.socket())
            peer.settimeout(0.1)
            try:
                peer.connect(listener.getsockname())
            except TimeoutError:
                yield listener.getsockname()[1]
                return
        check(False, "the queue of a listener never fills up")


def turned_away(proxy: Server) -> None:
    # The reset may be quicker than the call that connects.
    with contextlib.suppress(ConnectionResetError), echo.connect(proxy) as peer:
        check_equal(peer.recv(1), b"", "what comes from nowhere")


CASES = [
    echo.bytes_come_back_in_order,
    echo.a_mebibyte_comes_back,
    echo.a_half_closed_peer_gets_everything_and_then_the_end,
    echo.two_hundred_connections_are_served_at_once,
    echo.a_peer_that_never_reads_is_not_read_for_ever_and_holds_up_nobody,
    echo.a_storm_of_resets_leaves_the_server_alive_and_leaks_nothing,
]

RUDE_CASES = [
    an_end_is_passed_on_in_each_direction,
    a_break_is_passed_on_in_each_direction,
    a_target_that_does_not_read_slows_the_client_down,
    a_client_that_does_not_read_slows_the_target_down,
]

if __name__ == "__main__":
    script(main, seconds=120)
