"""What a PromQL expression names: its metrics with their matchers, and the labels it groups by.

No more than that, and of no more of the language than our own expressions use: what it cannot read is a failure, so that
nothing passes because it was not understood.
"""

import re
from dataclasses import dataclass, field

from support import Failed, check


@dataclass(frozen=True)
class Matcher:
    label: str
    operator: str
    value: str

    def holds(self, value: str) -> bool:
        """Whether a series whose label has this value (none is the empty one) is selected."""
        match self.operator:
            case "=":
                return value == self.value
            case "!=":
                return value != self.value
            case "=~":
                return re.fullmatch(self.value, value) is not None
            case _:
                return re.fullmatch(self.value, value) is None


@dataclass
class Named:
    """All that an expression names."""

    selectors: list[tuple[str, list[Matcher]]] = field(default_factory=list)
    grouped_by: set[str] = field(default_factory=set)


def read(expression: str) -> Named:
    """What the expression names."""
    tokens = tokens_of(expression)
    named = Named()
    at = 0
    while at < len(tokens):
        token, following = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
        at += 1
        if token in GROUPING and following == "(":
            end = tokens.index(")", at)
            named.grouped_by.update(label for label in tokens[at + 1 : end] if label != ",")
            at = end + 1
        elif token in KEYWORDS or not re.fullmatch(NAME, token) or following == "(" or following in ("by", "without"):
            continue
        elif following == "{":
            end = tokens.index("}", at)
            named.selectors.append((token, matchers_of(tokens[at + 1 : end])))
            at = end + 1
        else:
            named.selectors.append((token, []))
    return named


def tokens_of(expression: str) -> list[str]:
    tokens, at = [], 0
    while at < len(expression):
        match = TOKEN.match(expression, at)
        if match is None:
            raise Failed(f"cannot read {expression[at : at + 40]!r} in {expression!r}")
        at = match.end()
        if match.lastgroup != "space":
            tokens.append(match[0])
    return tokens


def matchers_of(tokens: list[str]) -> list[Matcher]:
    matchers = []
    for label, operator, value, comma in zip(*(iter([*tokens, ","]),) * 4, strict=True):
        check(operator in OPERATORS and comma == ",", f"cannot read the matchers {' '.join(tokens)}")
        matchers.append(Matcher(label, operator, value[1:-1]))
    return matchers


NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
OPERATORS = ("=", "!=", "=~", "!~")
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
KEYWORDS = {"and", "or", "unless", "bool", "offset"} | GROUPING

TOKEN = re.compile(
    rf"""(?P<space>\s+)
    | "(?:[^"\\]|\\.)*"
    | \[[^\]]+\]
    | {NAME}
    | [0-9.]+[a-z]*
    | !=|=~|!~|==|<=|>=|[-+*/%^(){{}},=<>]""",
    re.VERBOSE,
)
