#!/usr/bin/env python3
"""`chat PORT` hands every line to everybody else, in order, and to nobody twice.

Lines are cut anywhere on their way in; a client that does not read holds up nobody.
"""

import random
import socket

from support import Server, check, check_equal, eventually, free_port, run_cases, script


def main() -> None:
    port = free_port()
    with Server("chat", port, port=port) as server:
        cases = [
            a_line_goes_to_everybody_else,
            a_name_is_taken_once,
            lines_may_be_cut_anywhere,
            lines_of_one_person_keep_their_order,
            a_line_that_is_too_long_is_refused_and_the_next_one_is_not,
            who_quits_has_left,
            who_is_cut_off_has_left,
            nobody_can_move_the_cursor_of_others,
            two_hundred_people_hear_each_other,
            who_does_not_read_holds_up_nobody,
        ]
        run_cases(cases, server)


class Person:
    """Somebody in the room. Everything said has to be read in order."""

    def __init__(self, server: Server, name: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS)
        self.name = name
        self._unread = b""
        self.hears("Your name?")
        self.says(name)
        check(self.line().startswith(f"Welcome, {name}."), "no welcome")

    def __enter__(self) -> "Person":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def says(self, text: str) -> None:
        self.socket.sendall(text.encode() + b"\r\n")

    def line(self) -> str:
        """The next line; an empty text if the connection ends before."""
        while b"\r\n" not in self._unread:
            data = self.socket.recv(65_536)
            if not data:
                return ""
            self._unread += data
        line, self._unread = self._unread.split(b"\r\n", 1)
        return line.decode()

    def hears(self, expected: str) -> None:
        check_equal(self.line(), expected, f"what {self.name} hears")

    def is_alone(self) -> bool:
        """Waits for those who are leaving."""
        self.says("/who")
        return self.heard(self.name)

    def heard(self, expected: str) -> bool:
        """Reads until an answer to /who, and says whether it was this one."""
        while (line := self.line()).startswith(("*", "<")):
            pass
        return line == expected


def a_line_goes_to_everybody_else(server: Server) -> None:
    with Person(server, "ada") as ada, Person(server, "grace") as grace, Person(server, "joan") as joan:
        ada.hears("* grace has come")
        ada.hears("* joan has come")
        grace.hears("* joan has come")
        ada.says("hello, all")
        for other in (grace, joan):
            other.hears("<ada> hello, all")
        grace.says("hello, ada")
        ada.hears("<grace> hello, ada")
    _empty(server)


def a_name_is_taken_once(server: Server) -> None:
    with Person(server, "ada"):
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as other:
            other.sendall(b"ada\r\n" + b"x" * 33 + b"\r\n\r\nada2\r\n")
            answers = _until(other, b"has come", b"Welcome, ada2. Here are: ada, ada2\r\n").split(b"\r\n")
            check_equal(answers[1], b"Somebody has that name. Your name?", "answer to a name that is taken")
            check(answers[2].startswith(b"A name has"), "a long name was taken")
            check(answers[3].startswith(b"A name has"), "an empty name was taken")
    _empty(server)


def lines_may_be_cut_anywhere(server: Server) -> None:
    with Person(server, "ada") as ada, Person(server, "grace") as grace:
        ada.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in "a\rb, und Ümläute\r\n\r\nnext\r\n".encode():
            ada.socket.send(bytes([byte]))
        grace.hears("<ada> ab, und Ümläute")
        grace.hears("<ada> ")
        grace.hears("<ada> next")
    _empty(server)


def lines_of_one_person_keep_their_order(server: Server) -> None:
    with Person(server, "ada") as ada, Person(server, "grace") as grace:
        ada.says("\r\n".join(map(str, range(5000))))
        for number in range(5000):
            grace.hears(f"<ada> {number}")
    _empty(server)


def a_line_that_is_too_long_is_refused_and_the_next_one_is_not(server: Server) -> None:
    with Person(server, "ada") as ada, Person(server, "grace") as grace:
        ada.hears("* grace has come")
        ada.says("x" * 1024)
        grace.hears("<ada> " + "x" * 1024)
        for length in (1025, 100_000):
            ada.says("x" * length)
            ada.says("short")
            ada.hears("* that was too long")
            grace.hears("<ada> short")
    _empty(server)


def who_quits_has_left(server: Server) -> None:
    with Person(server, "ada") as ada, Person(server, "grace") as grace:
        ada.hears("* grace has come")
        grace.says("bye\r\n/quit\r\nnot said any more")
        ada.hears("<grace> bye")
        ada.hears("* grace has left")
        check_equal(grace.line(), "", "what comes after /quit")
        ada.says("/who")
        ada.hears("ada")
    _empty(server)


def who_is_cut_off_has_left(server: Server) -> None:
    with Person(server, "ada") as ada:
        with Person(server, "grace"):
            ada.hears("* grace has come")
        ada.hears("* grace has left")
    _empty(server)


def nobody_can_move_the_cursor_of_others(server: Server) -> None:
    with Person(server, "ada") as ada, Person(server, "grace") as grace:
        ada.says("\x1b[2Jgone\x07")
        grace.hears("<ada> [2Jgone")
    _empty(server)


def two_hundred_people_hear_each_other(server: Server) -> None:
    before = server.open_files()
    people = [Person(server, f"p{number}") for number in range(200)]
    speaker, listeners = people[0], people[1:]
    speaker.says("can you hear me")
    for listener in listeners:
        while (line := listener.line()).startswith("*"):
            pass
        check_equal(line, "<p0> can you hear me", f"what {listener.name} hears")
    for person in people:
        person.socket.close()
    _empty(server)
    eventually(lambda: server.open_files() <= before or None, seconds=10, what=f"the descriptors are back at {before}")


def who_does_not_read_holds_up_nobody(server: Server) -> None:
    with Person(server, "ada") as ada, Person(server, "grace") as grace, Person(server, "deaf"):
        line = "".join(random.choices("abc", k=1000))
        for number in range(20):
            for _ in range(500):
                ada.says(line)
            for _ in range(500):
                while (heard := grace.line()).startswith("*"):
                    pass
                check(heard == f"<ada> {line}", f"in round {number} grace heard {heard[:40]!r}")
        # Ten megabytes: more than the kernels keep, so by now the server has given up on who reads nothing.
        ada.says("/who")
        check(ada.heard("ada, grace"), "somebody who reads nothing is still there")
    _empty(server)


def _empty(server: Server) -> None:
    """Everybody has left: the next case begins with an empty room."""

    def is_empty() -> bool | None:
        with Person(server, "last") as last:
            return last.is_alone() or None

    eventually(is_empty, seconds=10, what="everybody has left")


def _until(peer: socket.socket, *marks: bytes) -> bytes:
    """What comes until one of the marks has."""
    data = b""
    while not any(mark in data for mark in marks):
        piece = peer.recv(65_536)
        check(bool(piece), f"the connection ended after {data!r}")
        data += piece
    return data


TIMEOUT_SECONDS = 10

if __name__ == "__main__":
    script(main, seconds=120)
