#!/usr/bin/env python3
"""`echo PORT` gives every byte back, in order, whatever the peers do to their connections.

Bytes are sent and read at the same time: a server with back-pressure stops reading from a peer that only sends, and
a test that sends all before it reads would wait for ever, through no fault of the server.
"""

import random
import select
import socket
import struct

from support import Server, check, check_equal, eventually, free_port, run_cases, script


def main() -> None:
    port = free_port()
    with Server("echo", port, port=port) as server:
        cases = [
            bytes_come_back_in_order,
            a_mebibyte_comes_back,
            a_half_closed_peer_gets_everything_and_then_the_end,
            two_hundred_connections_are_served_at_once,
            a_peer_that_never_reads_is_not_read_for_ever_and_holds_up_nobody,
            a_storm_of_resets_leaves_the_server_alive_and_leaks_nothing,
        ]
        run_cases(cases, server)


def bytes_come_back_in_order(server: Server) -> None:
    with connect(server) as peer:
        for size in (1, 2, 1000, 65_537, 1):
            data = random.randbytes(size)
            check_equal(exchange(peer, data), data, f"echo of {size} bytes")


def a_mebibyte_comes_back(server: Server) -> None:
    data = random.randbytes(MEBIBYTE)
    with connect(server) as peer:
        check(exchange(peer, data) == data, "1 MiB came back changed")


def a_half_closed_peer_gets_everything_and_then_the_end(server: Server) -> None:
    data = random.randbytes(MEBIBYTE)
    with connect(server) as peer:
        back = exchange(peer, data, half_close=True)
        check_equal(len(back), len(data), "bytes that came back after the half-close")
        check(back == data, "1 MiB came back changed")


def two_hundred_connections_are_served_at_once(server: Server) -> None:
    peers = [connect(server) for _ in range(200)]
    for number, peer in enumerate(peers):
        peer.sendall(b"peer %d" % number)
    # Backwards, so that a server which serves one connection to its end before the next cannot pass.
    for number, peer in reversed(list(enumerate(peers))):
        expected = b"peer %d" % number
        check_equal(receive(peer, len(expected)), expected, "echo")
    for peer in peers:
        peer.close()


def a_peer_that_never_reads_is_not_read_for_ever_and_holds_up_nobody(server: Server) -> None:
    with connect(server) as deaf:
        deaf.setblocking(False)
        sent = fill(deaf, at_most=64 * MEBIBYTE)
        # Both kernels' buffers take a few MiB; whoever takes this much keeps it in memory, for any peer who asks.
        check(sent < 64 * MEBIBYTE, "no back-pressure: 64 MiB taken from a peer that reads nothing")
        bytes_come_back_in_order(server)


def a_storm_of_resets_leaves_the_server_alive_and_leaks_nothing(server: Server) -> None:
    before = server.open_files()
    for number in range(1000):
        peer = connect(server)
        if number % 3:
            peer.sendall(b"x" * (number * 37 % 5000))
        if number % 3 == 2:
            # The echo is under way or read in part: the reset meets a server that is writing.
            select.select([peer], [], [], 1)
        reset(peer)
    bytes_come_back_in_order(server)
    eventually(
        lambda: server.open_files() <= before or None,
        seconds=10,
        what=f"the descriptors are back at {before} after the storm",
    )


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS)


def exchange(peer: socket.socket, data: bytes, *, half_close: bool = False) -> bytes:
    """Sends `data` while it reads; returns as many bytes, or with `half_close` all up to the end."""
    back, rest = bytearray(), memoryview(data)
    peer.setblocking(False)
    while rest or half_close or len(back) < len(data):
        readable, writable, _ = select.select([peer], [peer] if rest else [], [], TIMEOUT_SECONDS)
        check(bool(readable or writable), f"silence after {len(back)} of {len(data)} bytes")
        if readable:
            piece = peer.recv(65_536)
            if not piece:
                break
            back += piece
        if writable:
            rest = rest[peer.send(rest[:65_536]) :]
            if half_close and not rest:
                peer.shutdown(socket.SHUT_WR)
    peer.settimeout(TIMEOUT_SECONDS)
    return bytes(back)


def receive(peer: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes, fewer only if the connection ends before."""
    data = b""
    while len(data) < count and (piece := peer.recv(count - len(data))):
        data += piece
    return data


def fill(peer: socket.socket, at_most: int) -> int:
    """Sends until the connection takes no more, or `at_most` bytes; returns how many it took."""
    sent = 0
    while sent < at_most and select.select([], [peer], [], 0.5)[1]:
        sent += peer.send(b"x" * 65_536)
    return sent


def reset(peer: socket.socket) -> None:
    """Closes with RST in place of FIN."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


MEBIBYTE = 1 << 20
TIMEOUT_SECONDS = 10

if __name__ == "__main__":
    script(main, seconds=120)
