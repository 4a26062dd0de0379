"""Search the other way round: of many searches those that a document matches.

Most searches can be true only of documents that hold something particular: a word, or a value in a field. Each search waits under such
anchors; a document looks up what it holds, and only the searches found there are held against it, with `matching.py`, which
decides. A search without an anchor (only ranges, beginnings of words, NOT) is held against every document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from millstream.queries.conditions import AllOf, AnyOf, Condition, Found, Some, Within
from millstream.queries.fields import Route
from millstream.queries.matching import compared, cut, matcher
from millstream.queries.values import Comparable, Family

ANCHORS_MAX = 200
"""A search that is true of documents with any of more values than this is as well held against all."""


@dataclass(frozen=True)
class Holds:
    """The document holds this value in the field, or for family None this word in the text."""

    route: Route
    family: Family | None
    value: Comparable


class Watched:
    """Searches, name → condition, that documents are held against."""

    def __init__(self, searches: Mapping[str, Condition]) -> None:
        self._holds = {name: matcher(c) for name, c in searches.items()}
        self._always: list[str] = []
        self._waiting: dict[tuple[Route, Family | None], dict[Comparable, list[str]]] = {}
        choices = {name: anchors(condition) for name, condition in searches.items()}
        # What many searches ask for, many documents hold: each search waits where the fewest others might.
        shared = Counter(a for found in choices.values() for choice in found for a in choice)
        for name, found in choices.items():
            if not found:
                self._always.append(name)
                continue
            for a in min(found, key=lambda choice: (sum(shared[a] for a in choice), _cost(choice))):
                self._waiting.setdefault((a.route, a.family), {}).setdefault(a.value, []).append(name)

    @property
    def anchored(self) -> int:
        """How many searches wait under anchors."""
        return len(self._holds) - len(self._always)

    def matching(self, document: Mapping[str, Any]) -> set[str]:
        """The searches that are true of the document: a row as `sinks/jsontext.py` writes it, parsed."""
        candidates = {*self._always}
        for (route, family), waiting in self._waiting.items():
            for value in _held(document, route, family):
                candidates.update(waiting.get(value, ()))
        return {name for name in candidates if self._holds[name](document)}


def _held(document: Mapping[str, Any], route: Route, family: Family | None) -> Iterator[Comparable]:
    for value in route.values(document):
        if family is None:
            if isinstance(value, str):
                yield from set(cut(value))
        elif (there := compared(route, family, value)) is not None:
            yield there


def anchors(condition: Condition) -> list[frozenset[Holds]]:
    """Choices of what to wait under: of each, a document must hold at least one for the condition to be true. None: empty."""
    match condition:
        case Within(route, family, low, high):
            if low is None or low != high:
                return []  # NaN too, which no lookup finds
            return [frozenset([Holds(_from_document(route), family, low)])]
        case Found(routes, wanted, prefix):
            whole = wanted[:-1] if prefix else wanted
            return [frozenset(Holds(_from_document(r), None, word) for r in routes) for word in dict.fromkeys(whole)]
        case Some(_, part):
            return anchors(part)
        case AllOf(parts):
            return [choice for p in parts for choice in anchors(p)]
        case AnyOf(parts):
            every = [anchors(p) for p in parts]
            if not all(every):
                return []
            joined = frozenset(a for found in every for a in min(found, key=_cost))
            return [joined] if len(joined) <= ANCHORS_MAX else []
    return []


def _from_document(route: Route) -> Route:
    return replace(route, names=route.whole, base=())


def _cost(found: frozenset[Holds]) -> float:
    """How likely a document is to hold one of them, by rule of thumb: a truth is held by many, a value by the fewest."""
    return sum(50.0 if a.family == "boolean" else 1.0 if a.family else 2.0 for a in found)
