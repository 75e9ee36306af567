#!/usr/bin/env python3
"""`proxy LISTEN TARGET` is not to be told from what stands behind it: here `echo`, so its cases apply.

Besides: the end of one side reaches the other, and a target that does not answer costs its client the connection and
nobody else anything.
"""

import contextlib

import echo
from support import Server, check, check_equal, eventually, free_port, run_cases, script


def main() -> None:
    port, front = free_port(), free_port()
    with Server("echo", port, port=port) as target:
        with Server("proxy", f"tcp:{front}", f"tcp:127.0.0.1:{port}", port=front) as proxy:
            run_cases(CASES, proxy)
            a_client_that_leaves_takes_the_other_connection_with_it(proxy, target)
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


def a_client_of_a_target_that_is_not_there_is_closed(proxy: Server) -> None:
    before = proxy.open_files()
    for _ in range(20):
        # The reset may be quicker than the call that connects.
        with contextlib.suppress(ConnectionResetError), echo.connect(proxy) as peer:
            check_equal(peer.recv(1), b"", "what comes from nowhere")
    check(proxy.open_files() <= before, "a descriptor stays behind")


CASES = [
    echo.bytes_come_back_in_order,
    echo.a_mebibyte_comes_back,
    echo.a_half_closed_peer_gets_everything_and_then_the_end,
    echo.two_hundred_connections_are_served_at_once,
    echo.a_peer_that_never_reads_is_not_read_for_ever_and_holds_up_nobody,
    echo.a_storm_of_resets_leaves_the_server_alive_and_leaks_nothing,
]

if __name__ == "__main__":
    script(main, seconds=120)
