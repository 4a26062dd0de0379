"""Matches in the order of a field's values instead of how well they match.

Terms sort as values do. Where the query is exact in the index, the index says how many documents each value has, from the first
on, and only the documents asked for are read; else all matches are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest, nsmallest
from typing import Any

import tantivy

from millstream.errors import Refused
from millstream.queries.fields import Route
from millstream.queries.values import FAMILIES
from millstream.sinks.search.facets import BUCKETS_MAX, addresses, buckets, counted, terms_of
from millstream.sinks.search.keys import key_of
from millstream.sinks.search.reader import Asked, Reader
from millstream.sinks.search.terms import ABOVE, LETTERS, THERE

_KEEP = 10_000


def ordered(reader: Reader, asked: Asked, name: str, descending: bool, offset: int, limit: int) -> list[Any]:
    """Addresses of matches `offset` to `offset + limit` by the values of a field; those without one come last, equal ones best first.

    Raises Refused: "unknown_column", "not_indexed", and "bad_sort" for a field of which a document may have many values.
    """
    route, type_, listed = counted(reader, name)
    if listed:
        cure = "sort by a column that has one value a document"
        raise Refused(f"a document may have many values of {name} ({type_})", code="bad_sort", where=f"--sort {name}", cure=cure)
    if asked.bounds.exact and offset + limit < BUCKETS_MAX:
        return list(_by_index(reader, asked, route, descending, offset, limit))
    pairs = ((next(iter(terms_of(route, reader.document(a))), None), n, a) for n, a in enumerate(addresses(reader, asked)))
    without: list[Any] = []
    with_value: list[tuple[str, int, Any]] = []
    for value, place, address in pairs:
        if value is None:
            without.append(address)
        else:
            with_value.append((value, -place if descending else place, address))
        if len(with_value) > 4 * (offset + limit) + _KEEP:
            with_value = _first(with_value, descending, offset + limit)
    best = _first(with_value, descending, offset + limit)
    return [address for _, _, address in best][offset:] + without[max(0, offset - len(best)) : max(0, offset + limit - len(best))]


def _first(found: list[tuple[str, int, Any]], descending: bool, count: int) -> list[tuple[str, int, Any]]:
    return (nlargest if descending else nsmallest)(count, found, key=lambda f: f[:2])


def _by_index(reader: Reader, asked: Asked, route: Route, descending: bool, offset: int, limit: int) -> Iterator[Any]:
    """Value after value until enough: the first and the last value's documents in part, those of values between all at once."""
    pages = _Pages(reader, asked.bounds.upper, route)
    order = {"_key": "desc" if descending else "asc"}
    # A numeric that is no number has only a mark, which is no value to sort by: one more than asked for.
    size = offset + limit + 1
    found = buckets(reader, asked, route, {"size": size, "segment_size": size, "order": order})["buckets"]
    skip, wanted = offset, limit
    whole: list[str] = []
    for value, count in ((b["key"], b["doc_count"]) for b in found if b["key"] != THERE):
        if wanted <= 0:
            break
        if skip >= count:
            skip -= count
        elif skip or count > wanted:
            yield from pages.of_values(whole)
            whole = []
            taken = min(wanted, count - skip)
            yield from pages.of_value(value, skip, taken)
            skip, wanted = 0, wanted - taken
        else:
            whole.append(value)
            wanted -= count
    yield from pages.of_values(whole)
    if wanted > 0:
        yield from pages.without(skip, wanted)


class _Pages:
    """Addresses of a query's documents by their value."""

    def __init__(self, reader: Reader, query: Any, route: Route) -> None:
        self._reader, self._query, self._route = reader, query, route
        self._field = f"_exact.{key_of(route)}"

    def of_value(self, value: str, skip: int, count: int) -> list[Any]:
        return self._found(tantivy.Query.term_query(self._reader.index.schema, self._field, value), skip, count)

    def of_values(self, values: list[str]) -> list[Any]:
        """All documents of values that follow each other, in the values' order."""
        if not values:
            return []
        low, high = sorted((values[0], values[-1]))
        places = {value: place for place, value in enumerate(values)}
        found = self._found(self._range(low, high), 0, self._reader.count(self._with(self._range(low, high))))
        return sorted(found, key=lambda address: places[next(iter(terms_of(self._route, self._reader.document(address))))])

    def without(self, skip: int, count: int) -> list[Any]:
        """Documents that have no value."""
        letter = LETTERS[FAMILIES[self._route.kind]]
        query = tantivy.Query.boolean_query(
            [(tantivy.Occur.Must, self._query), (tantivy.Occur.MustNot, self._range(letter, letter + ABOVE))]
        )
        return [address for _, address in self._reader.searcher.search(query, count, count=False, offset=skip).hits]

    def _found(self, value: Any, skip: int, count: int) -> list[Any]:
        return [address for _, address in self._reader.searcher.search(self._with(value), count, count=False, offset=skip).hits]

    def _with(self, value: Any) -> Any:
        still = tantivy.Query.const_score_query(value, 0.0)
        return tantivy.Query.boolean_query([(tantivy.Occur.Must, self._query), (tantivy.Occur.Must, still)])

    def _range(self, low: str, high: str) -> Any:
        return self._reader.index.parse_query(f"{self._field}:[{low} TO {high}]", [])
