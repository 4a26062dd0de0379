"""Conditions over one document, by looking at it: what a query means. Whatever an index answers is held to this.

A document is the row as `sinks/jsontext.py` writes it, parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, assert_never

from millstream.queries.conditions import AllOf, AnyOf, Condition, Everything, Found, NotThat, Present, Some, Within
from millstream.queries.fields import Route
from millstream.queries.values import Comparable, Family, below, comparable, same
from millstream.queries.words import words

Matcher = Callable[[Any], bool]
REMEMBERED_CHARS_MAX = 2_000


def matcher(condition: Condition) -> Matcher:
    """Whether the condition is true of a document."""
    match condition:
        case Everything():
            return lambda document: True
        case Within():
            return _within(condition)
        case Found():
            return _found(condition)
        case Present(route):
            return lambda document: next(route.values(document), None) is not None
        case Some(route, part):
            inner = matcher(part)
            return lambda document: any(inner(element) for element in route.values(document))
        case AllOf(parts):
            every = [matcher(p) for p in parts]
            return lambda document: all(holds(document) for holds in every)
        case AnyOf(parts):
            some = [matcher(p) for p in parts]
            return lambda document: any(holds(document) for holds in some)
        case NotThat(part):
            inner = matcher(part)
            return lambda document: not inner(document)
    assert_never(condition)


def _within(c: Within) -> Matcher:
    def holds(document: Any) -> bool:
        for value in c.route.values(document):
            there = compared(c.route, c.family, value)
            if there is not None and _inside(c, there):
                return True
        return False

    return holds


def compared(route: Route, family: Family, value: Any) -> Comparable | None:
    """A value of the route in the family in which it is compared; None for one of another kind in a json column."""
    if route.kind != "json":
        return comparable(family, value)
    match family:
        case "boolean":
            return value if isinstance(value, bool) else None
        case "text":
            return value if isinstance(value, str) else None
    return None if isinstance(value, bool | str | dict) else value


def _inside(c: Within, there: Comparable) -> bool:
    if c.low is not None and (below(there, c.low) or (c.low_open and same(there, c.low))):
        return False
    return c.high is None or not (below(c.high, there) or (c.high_open and same(there, c.high)))


def _found(c: Found) -> Matcher:
    def holds(document: Any) -> bool:
        return any(
            contains(cut(value), c.words, c.prefix) for route in c.routes for value in route.values(document) if isinstance(value, str)
        )

    return holds


def cut(text: str) -> list[str]:
    """The text's words, not to be changed. Many conditions look at one text: short ones are remembered."""
    return _remembered(text) if len(text) <= REMEMBERED_CHARS_MAX else words(text)


_remembered = lru_cache(maxsize=4_096)(words)


def contains(text: list[str], wanted: tuple[str, ...], prefix: bool) -> bool:
    """Whether the words stand next to each other in the text; of a prefix, the last is how a word begins."""
    return next(places(text, wanted, prefix), None) is not None


def places(text: list[str], wanted: tuple[str, ...], prefix: bool) -> Any:
    """The number of each word at which they begin."""
    count, *start = len(wanted), *wanted[:-1]
    for at in range(len(text) - count + 1):
        last = text[at + count - 1]
        if (last.startswith(wanted[-1]) if prefix else last == wanted[-1]) and text[at : at + count - 1] == start:
            yield at
