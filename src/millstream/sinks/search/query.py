"""Asking an index: what `millstream search` answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from millstream.errors import Refused
from millstream.queries.highlight import Marks, marked, wanted
from millstream.sinks.search.facets import VALUES_MAX, facet
from millstream.sinks.search.reader import Reader
from millstream.sinks.search.sorting import ordered

LIMIT_MAX = 10_000
OFFSET_MAX = 100_000


@dataclass(frozen=True)
class Question:
    """`where`: further queries, all of which must hold, without weight in the order. `facets`: field → how many values.

    `sort`: a field, and whether its greatest value comes first; None: best first. `fields`: what to give of each document; all of
    it where there is none. `highlight`: say where the words were found.
    """

    query: str
    where: Sequence[str] = ()
    limit: int = 10
    offset: int = 0
    facets: Mapping[str, int] = field(default_factory=dict)
    sort: tuple[str, bool] | None = None
    fields: Sequence[str] = ()
    highlight: bool = False


@dataclass(frozen=True)
class Hit:
    """A document: the key's values in key order, how well it matches (0 where it is not asked for its words), the row (values as
    `millstream.sinks.jsontext` says), and per field the texts in which words were found, with where."""

    key: list[Any]
    score: float
    document: dict[str, Any]
    marks: dict[str, list[tuple[str, Marks]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """How many documents match, those asked for, and of each facet the values with their numbers of documents, most first."""

    total: int
    hits: list[Hit]
    facets: dict[str, list[tuple[Any, int]]] = field(default_factory=dict)


Ask = Callable[[str, Question], Answer]
"""ask(index, question) → answer."""


def search(place: Path, index: str, question: Question | str, limit: int = 10, offset: int = 0) -> Answer:
    """The documents asked for; a bare query gives its best `limit` after the first `offset`.

    Raises Refused: "unknown_index", "bad_limit", what `queries.check.checked` raises, and for facets, sort and fields "unknown_column",
    "not_indexed", "bad_sort".
    """
    q = Question(question, limit=limit, offset=offset) if isinstance(question, str) else question
    in_range("limit", q.limit, 1, LIMIT_MAX)
    in_range("offset", q.offset, 0, OFFSET_MAX)
    for count in q.facets.values():
        in_range("facet", count, 1, VALUES_MAX)
    reader = Reader(place, index)
    asked = reader.asked(q.query, q.where)
    kept = [reader.route(name)[0].whole for name in q.fields]
    if q.sort is None:
        found = list(islice(reader.matching(asked), q.offset, q.offset + q.limit))
    else:
        found = [(0.0, address) for address in ordered(reader, asked, *q.sort, q.offset, q.limit)]
    looked = wanted(asked.condition) if q.highlight else []
    hits = []
    for score, address in found:
        document = reader.document(address)
        shown = {n: v for n, v in document.items() if not kept} | pruned(document, kept)
        hits.append(Hit(reader.key(address), float(score), shown, marked(looked, document)))
    return Answer(reader.total(asked), hits, {name: facet(reader, asked, name, count) for name, count in q.facets.items()})


def pruned(document: Mapping[str, Any], kept: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """A document of only these fields, in the order asked for; lists and records keep their form."""
    names = list(dict.fromkeys(k[0] for k in kept))
    return {name: _inside(document.get(name), [k[1:] for k in kept if k[0] == name]) for name in names}


def _inside(value: Any, kept: Sequence[tuple[str, ...]]) -> Any:
    if () in kept or value is None:
        return value
    return [_inside(v, kept) for v in value] if isinstance(value, list) else pruned(value, kept)


def in_range(what: str, number: int, least: int, most: int) -> None:
    """Raises Refused("bad_limit")."""
    if not least <= number <= most:
        raise Refused(f"{what} is {number}", code="bad_limit", where=what, cure=f"give a number from {least} to {most}")
