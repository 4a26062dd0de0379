"""Asking an index: from any process, also while its sink is writing. What was committed before the call is seen.

The language is `millstream.queries`'; `compile.py` makes the index's queries of it. Where the index answers only nearly, the documents
in doubt are looked at here: what is returned is always what the query means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from millstream.errors import Irrecoverable, Refused
from millstream.queries.check import checked
from millstream.queries.conditions import AllOf, Condition
from millstream.queries.fields import Fields
from millstream.queries.matching import matcher
from millstream.sinks.search.compile import Bounds, Compiler, between
from millstream.sinks.search.generations import FOLDER, folders, index_path, indexes, live
from millstream.sinks.search.layout import opened, stored_state

LIMIT_MAX = 10_000
OFFSET_MAX = 100_000
PAGE = 2_000


@dataclass(frozen=True)
class Hit:
    """A document: the key's values in key order, how well it matches, and the row (values as `millstream.sinks.jsontext` says)."""

    key: list[Any]
    score: float
    document: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """How many documents match, those asked for, and of each facet the values with their numbers of documents, most first."""

    total: int
    hits: list[Hit]
    facets: dict[str, list[tuple[Any, int]]] = field(default_factory=dict)


class Reader:
    """One opened index, as it was at that moment."""

    def __init__(self, place: Path, index: str) -> None:
        """Raises Refused("unknown_index"), Refused("index_outdated"), Irrecoverable("index_damaged")."""
        self.index, self.fields = _open(place, index)
        self.searcher = self.index.searcher()
        self.compiler = Compiler(self.index)

    def checked(self, query: str, where: Sequence[str] = ()) -> Condition:
        """The query and its filters. Raises Refused as `queries.check` does."""
        parts = [checked(text, self.fields) for text in (query, *where)]
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def count(self, query: Any) -> int:
        return int(self.searcher.search(query, 1, count=True).count)

    def matching(self, bounds: Bounds, condition: Condition) -> Iterator[tuple[float, Any]]:
        """(score, address) of every match, best first. Documents are looked at where the bounds are not exact."""
        holds = matcher(condition)
        for score, address in self.pages(bounds.upper):
            if bounds.exact or holds(self.document(address)):
                yield score, address

    def pages(self, query: Any) -> Iterator[tuple[float, Any]]:
        """(score, address) of every document of the index's query, best first, a page at a time."""
        offset, page = 0, PAGE
        while hits := self.searcher.search(query, page, count=False, offset=offset).hits:
            yield from hits
            offset, page = offset + len(hits), page * 2

    def total(self, bounds: Bounds, condition: Condition) -> int:
        """How many documents match."""
        if bounds.exact:
            return self.count(bounds.upper)
        holds = matcher(condition)
        doubtful = sum(holds(self.document(address)) for _, address in self.pages(between(bounds)))
        return doubtful + (0 if bounds.lower is None else self.count(bounds.lower))

    def document(self, address: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(bytes(self.searcher.doc(address)["_document"][0]))
        return found

    def hit(self, score: float, address: Any) -> Hit:
        stored = self.searcher.doc(address)
        return Hit(json.loads(stored["_key"][0]), float(score), json.loads(bytes(stored["_document"][0])))


def search(place: Path, index: str, query: str, limit: int = 10, offset: int = 0, where: Sequence[str] = ()) -> Answer:
    """The best `limit` documents (1 to 10,000) after the first `offset`, best first, and how many there are.

    Raises Refused: "unknown_index", "bad_limit", and what `queries.check.checked` raises.
    """
    in_range("limit", limit, 1, LIMIT_MAX)
    in_range("offset", offset, 0, OFFSET_MAX)
    reader = Reader(place, index)
    condition = reader.checked(query, where)
    bounds = reader.compiler.compiled(condition)
    found = islice(reader.matching(bounds, condition), offset, offset + limit)
    return Answer(reader.total(bounds, condition), [reader.hit(score, address) for score, address in found])


def in_range(what: str, number: int, least: int, most: int) -> None:
    """Raises Refused("bad_limit")."""
    if not least <= number <= most:
        raise Refused(f"{what} is {number}", code="bad_limit", where=what, cure=f"give a number from {least} to {most}")


def _open(place: Path, index: str) -> tuple[Any, Fields]:
    folder = live(place, index)
    path = index_path(place, folder)
    try:
        if not (path / "meta.json").exists():
            raise _unknown(place, index)
        there = opened(str(path))
        state = stored_state(there)
    except (Refused, ValueError, OSError) as error:
        if live(place, index) != folder:  # switched meanwhile, and the old generation removed
            return _open(place, index)
        if isinstance(error, Refused):
            raise
        raise Irrecoverable(
            f"the index cannot be read: {error}",
            code="index_damaged",
            where=str(path),
            cure="stop its sink, delete the folder and start again: it is built anew from the topic",
        ) from error
    return there, state.asked if state else Fields({})


def _unknown(place: Path, index: str) -> Refused:
    if folders(place, index):
        said, cure = f"index {index!r} has no generation that may be asked yet", "wait until its first one is built"
    else:
        known = indexes(place)
        near = get_close_matches(index, known, 3) or known[:10]
        said, cure = f"there is no index {index!r}", f"one of: {', '.join(near)}" if near else "run a pipeline with a search sink first"
    return Refused(said, code="unknown_index", where=str(place / FOLDER), cure=cure)
