"""Facets: of a field the values that matching documents have, with the number of documents that have each.

Where the query is exact in the index, the index counts; else the matches are looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from millstream.errors import Refused
from millstream.events.types import Type
from millstream.queries.fields import Route
from millstream.queries.values import FAMILIES, Family, comparable
from millstream.sinks.search.keys import key_of
from millstream.sinks.search.reader import Asked, Reader
from millstream.sinks.search.terms import THERE, shown, term

VALUES_MAX = 1_000
BUCKETS_MAX = 50_000
"""The index refuses to count more values than some 65,000 at once."""


def facet(reader: Reader, asked: Asked, name: str, count: int) -> list[tuple[Any, int]]:
    """The `count` values that most matching documents have, with their numbers of documents; equal ones in the values' order.

    A document counts once for each of its values. Raises Refused: "unknown_column", "not_indexed".
    """
    route = counted(reader, name)[0]
    found = _from_index(reader, asked, route) if asked.bounds.exact and route.kind != "json" else None
    if found is None:
        found = Counter(t for address in addresses(reader, asked) for t in terms_of(route, reader.document(address)))
    found.pop(THERE, None)
    return [(shown(t), n) for t, n in sorted(found.items(), key=lambda item: (-item[1], item[0]))[:count]]


def terms_of(route: Route, document: Any) -> dict[str, None]:
    """The terms of a document's values, each once."""
    found: dict[str, None] = {}
    for value in route.values(document):
        if route.kind == "json":
            family: Family = "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
            there = None if isinstance(value, dict) else value
        else:
            family = FAMILIES[route.kind]
            there = comparable(family, value)
        if there is not None:
            found[term(family, there)[0]] = None
    return found


def counted(reader: Reader, name: str) -> tuple[Route, Type, bool]:
    """A field whose values can be counted and sorted: its route, type, and whether a document may have many of them."""
    route, type_, listed = reader.route(name)
    kept = type_.kind in ("record", "bytes") or reader.fields.treatment(route.whole, type_) == "stored"
    if kept:
        cure = "name one of: " + ", ".join(n for n in reader.fields.names[:12] if n != name)
        raise Refused(f"{name} ({type_.kind}) has no values that are counted or sorted", code="not_indexed", where=name, cure=cure)
    return route, type_, listed


def addresses(reader: Reader, asked: Asked) -> Iterator[Any]:
    """The addresses of all matches, best first."""
    return (address for _, address in reader.matching(asked))


def _from_index(reader: Reader, asked: Asked, route: Route) -> Counter[str] | None:
    """term → documents; None where there are more values than the index counts exactly."""
    found = buckets(reader, asked, route, {"size": BUCKETS_MAX, "segment_size": BUCKETS_MAX})
    if found["sum_other_doc_count"] or found.get("doc_count_error_upper_bound"):
        return None
    return Counter({b["key"]: b["doc_count"] for b in found["buckets"]})


def buckets(reader: Reader, asked: Asked, route: Route, how: dict[str, Any]) -> dict[str, Any]:
    """What the index counts of a query that is exact there: `buckets` of `key` (a term) and `doc_count`."""
    agg = {"found": {"terms": {"field": f"_exact.{key_of(route)}", **how}}}
    found: dict[str, Any] = reader.searcher.aggregate(asked.bounds.upper, agg)["found"]
    return found
