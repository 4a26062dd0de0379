"""One opened index: what matches, in which order of words, and how many. From any process, also while its sink writes.

The language is `millstream.queries`'; `compile.py` makes the index's queries of it. Where the index answers only nearly, the documents
in doubt are looked at here: what is given is always what the query means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from millstream.errors import Irrecoverable, Refused
from millstream.events.types import Type
from millstream.queries.check import checked
from millstream.queries.conditions import AllOf, Condition
from millstream.queries.fields import Fields, Route, Scope
from millstream.queries.grammar import path
from millstream.queries.matching import matcher
from millstream.sinks.search.compile import Bounds, Compiler, between
from millstream.sinks.search.generations import FOLDER, folders, index_path, indexes, live
from millstream.sinks.search.layout import opened, stored_state

PAGE = 2_000


@dataclass(frozen=True)
class Asked:
    """A checked query over one opened index: what it means, and between which of the index's queries it lies."""

    condition: Condition
    bounds: Bounds


class Reader:
    """One opened index, as it was at that moment."""

    def __init__(self, place: Path, index: str) -> None:
        """Raises Refused("unknown_index"), Refused("index_outdated"), Irrecoverable("index_damaged")."""
        self.index, self.fields = _open(place, index)
        self.searcher = self.index.searcher()
        self.compiler = Compiler(self.index)

    def asked(self, query: str, where: Sequence[str] = ()) -> Asked:
        """The query and its filters. Raises Refused as `queries.check` does."""
        parts = [checked(text, self.fields) for text in (query, *where)]
        condition = parts[0] if len(parts) == 1 else AllOf(tuple(parts))
        return Asked(condition, self.compiler.compiled(condition))

    def route(self, name: str) -> tuple[Route, Type, bool]:
        """What a field's name alone leads to: the route, its type, and whether a document may have many values there.

        Raises Refused("unknown_column"), Refused("bad_query").
        """
        return Scope.of(self.fields).resolved(path(name), name)

    def count(self, query: Any) -> int:
        return int(self.searcher.search(query, 1, count=True).count)

    def matching(self, asked: Asked) -> Iterator[tuple[float, Any]]:
        """(score, address) of every match, best first. Documents are looked at where the bounds are not exact."""
        holds = matcher(asked.condition)
        for score, address in self.pages(asked.bounds.upper):
            if asked.bounds.exact or holds(self.document(address)):
                yield score, address

    def pages(self, query: Any) -> Iterator[tuple[float, Any]]:
        """(score, address) of every document of the index's query, best first, a page at a time."""
        offset, page = 0, PAGE
        while hits := self.searcher.search(query, page, count=False, offset=offset).hits:
            yield from hits
            offset, page = offset + len(hits), page * 2

    def total(self, asked: Asked) -> int:
        """How many documents match."""
        bounds = asked.bounds
        if bounds.exact:
            return self.count(bounds.upper)
        holds = matcher(asked.condition)
        doubtful = sum(holds(self.document(address)) for _, address in self.pages(between(bounds)))
        return doubtful + (0 if bounds.lower is None else self.count(bounds.lower))

    def document(self, address: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(bytes(self.searcher.doc(address)["_document"][0]))
        return found

    def key(self, address: Any) -> list[Any]:
        """The key's values, in key order."""
        found: list[Any] = json.loads(self.searcher.doc(address)["_key"][0])
        return found


def _open(place: Path, index: str) -> tuple[Any, Fields]:
    folder = live(place, index)
    home = index_path(place, folder)
    try:
        if not (home / "meta.json").exists():
            raise _unknown(place, index)
        there = opened(str(home))
        state = stored_state(there)
    except (Refused, ValueError, OSError) as error:
        if live(place, index) != folder:  # switched meanwhile, and the old generation removed
            return _open(place, index)
        if isinstance(error, Refused):
            raise
        raise Irrecoverable(
            f"the index cannot be read: {error}",
            code="index_damaged",
            where=str(home),
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
