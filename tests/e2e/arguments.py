#!/usr/bin/env python3
"""An example that is given what it cannot use ends at once, and says what it takes."""

import subprocess

from support import check, example_path, run_cases, script


def main() -> None:
    cases = [
        a_word_for_a_number_is_answered_with_the_usage,
        a_text_that_is_no_endpoint_is_told_how_to_write_one,
        a_directory_that_is_not_there_is_told_by_its_name,
    ]
    run_cases(cases)


def a_word_for_a_number_is_answered_with_the_usage() -> None:
    for name, *words in WRONG_NUMBERS:
        said = ending_of(name, *words)
        check(f"usage: {name} [PORT" in said, f"{name} {words} says no more than: {said}")


def a_text_that_is_no_endpoint_is_told_how_to_write_one() -> None:
    for name, *words in WRONG_ENDPOINTS:
        said = ending_of(name, *words)
        check("as in tcp:" in said, f"{name} {words} says no more than: {said}")


def a_directory_that_is_not_there_is_told_by_its_name() -> None:
    said = ending_of("files", "0", "/nowhere/at/all")
    check("/nowhere/at/all" in said and "No such file" in said, f"files says no more than: {said}")


def ending_of(name: str, *words: str) -> str:
    """What an example writes that has to end with a failure."""
    done = subprocess.run([example_path(name), *words], capture_output=True, text=True, timeout=10)
    check(done.returncode == 1, f"{name} {words} ended with status {done.returncode}")
    return done.stderr


WRONG_NUMBERS = [
    *([name, "abc"] for name in ("chat", "contract", "dashboard", "echo", "files", "graceful_shutdown")),
    *([name, "99999"] for name in ("hello", "monitor", "multicore")),
    ("contract", "0", "-1"),
    ("graceful_shutdown", "0", "soon"),
    ("graceful_shutdown", "0", "1", "later"),
    ("hello", "--series", "many"),
    ("monitor", "0", "-1"),
    ("multicore", "0", "all"),
]

WRONG_ENDPOINTS = [("proxy", "7200"), ("proxy", "tcp:0", "localhost"), ("systemd", "8080")]

if __name__ == "__main__":
    script(main, seconds=60)
