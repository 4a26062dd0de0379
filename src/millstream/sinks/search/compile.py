"""Conditions → queries of the index. The one place that knows both.

An index answers some conditions only nearly: which element of a list it was, a value inside a json column that lies
between two others, texts longer than a term. So each condition becomes two queries, between which the truth lies: every document of
`lower` fulfils it, and none outside `upper` does. Where they are the same query, the index's answer is exact; else
who asks looks at the documents that lie between (`matching.py`). NOT turns the two round, AND and OR keep them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import tantivy

from millstream.queries.conditions import AllOf, AnyOf, Condition, Everything, Found, NotThat, Present, Some, Within
from millstream.queries.fields import Route
from millstream.sinks.search.keys import key_of
from millstream.sinks.search.layout import META
from millstream.sinks.search.terms import ABOVE, LETTERS, THERE, term

Query = Any
_MUST, _SHOULD, _NOT = tantivy.Occur.Must, tantivy.Occur.Should, tantivy.Occur.MustNot


@dataclass(frozen=True)
class Bounds:
    """`lower` is None where it is empty. `exact`: lower is upper."""

    upper: Query
    lower: Query | None
    exact: bool


class Compiler:
    """Compiles for one opened index. Only words count for the order of hits; all else weighs nothing."""

    def __init__(self, index: Any) -> None:
        self._index, self._schema = index, index.schema

    def compiled(self, condition: Condition) -> Bounds:
        """The bounds of a query, without the index's own reserved document."""
        found = self._any(condition)
        upper = self._but(found.upper, self._reserved())
        return Bounds(upper, upper if found.exact else self._and_not_reserved(found.lower), found.exact)

    def _and_not_reserved(self, query: Query | None) -> Query | None:
        return None if query is None else self._but(query, self._reserved())

    def _reserved(self) -> Query:
        return tantivy.Query.term_query(self._schema, "_meta", META)

    def _any(self, c: Condition) -> Bounds:
        match c:
            case Everything():
                return _exactly(_all())
            case Within():
                return self._within(c)
            case Found():
                return self._found(c)
            case Present(route):
                return _exactly(self._present(route))
            case Some(route, part):
                return self._element(route, part)
            case AllOf(parts):
                return self._together([self._any(p) for p in parts], _MUST)
            case AnyOf(parts):
                return self._together([self._any(p) for p in parts], _SHOULD)
            case NotThat(part):
                inner = self._any(part)
                upper = _all() if inner.lower is None else self._but(_all(), inner.lower)
                return Bounds(upper, upper if inner.exact else self._but(_all(), inner.upper), inner.exact)
        assert_never(c)

    # ---- one element of a list

    def _element(self, route: Route, c: Condition) -> Bounds:
        """What one element fulfils. The index knows documents only: exact for one comparison, and for such joined by OR."""
        match c:
            case Everything():
                return _exactly(self._present(route))
            case Within() | Found() | Present():
                return self._any(c)
            case Some(inner, part):
                return self._element(inner, part)
            case AnyOf(parts):
                return self._together([self._element(route, p) for p in parts], _SHOULD)
            case AllOf(parts):
                return Bounds(self._together([self._element(route, p) for p in parts], _MUST).upper, None, exact=False)
            case NotThat():
                return Bounds(self._present(route), None, exact=False)
        assert_never(c)

    # ---- leaves

    def _within(self, c: Within) -> Bounds:
        letter = LETTERS[c.family]
        low, low_whole = (letter, True) if c.low is None else term(c.family, c.low)
        high, high_whole = (letter + ABOVE, True) if c.high is None else term(c.family, c.high)
        if low == high and not (c.low_open or c.high_open) and c.low is not None:
            equal = _still(tantivy.Query.term_query(self._schema, self._field(c.route), low))
            return _exactly(equal) if low_whole and high_whole else Bounds(equal, None, exact=False)
        if c.route.kind == "json":  # no ranges there: whoever has a value is looked at
            return Bounds(self._present(c.route), None, exact=False)
        upper = self._range(c.route, low, high, c.low_open and low_whole, c.high_open and high_whole)
        if low_whole and high_whole:
            return _exactly(upper)
        return Bounds(upper, self._range(c.route, low, high, c.low_open or not low_whole, c.high_open or not high_whole), exact=False)

    def _range(self, route: Route, low: str, high: str, low_open: bool, high_open: bool) -> Query:
        text = f"{self._field(route)}:{'{' if low_open else '['}{low} TO {high}{'}' if high_open else ']'}"
        return _still(self._index.parse_query(text, []))

    def _present(self, route: Route) -> Query:
        if route.kind == "json":
            return _still(tantivy.Query.term_query(self._schema, self._field(route), THERE))
        return _still(tantivy.Query.exists_query(self._field(route)))

    def _field(self, route: Route) -> str:
        return f"{'_loose' if route.kind == 'json' else '_exact'}.{key_of(route)}"

    def _found(self, c: Found) -> Bounds:
        if c.anywhere:
            return self._words("_text", c)
        return self._together(
            [self._nearly(c) if r.deep else self._words(f"_words.{key_of(r)}", c) for r in c.routes],
            _SHOULD,
        )

    def _nearly(self, c: Found) -> Bounds:
        return Bounds(self._words("_text", c).upper, None, exact=False)

    def _words(self, field: str, c: Found) -> Bounds:
        query, schema, words = tantivy.Query, self._schema, list(c.words)
        if not c.prefix:
            return _exactly(query.term_query(schema, field, words[0]) if len(words) == 1 else query.phrase_query(schema, field, words))
        last = query.fuzzy_term_query(schema, field, words[-1], distance=0, prefix=True)
        if len(words) == 1:
            return _exactly(last)
        return Bounds(query.boolean_query([*((_MUST, query.term_query(schema, field, w)) for w in words[:-1]), (_MUST, last)]), None, False)

    # ---- together

    def _together(self, parts: Sequence[Bounds], how: Any) -> Bounds:
        if len(parts) == 1:
            return parts[0]
        exact = all(p.exact for p in parts)
        upper = tantivy.Query.boolean_query([(how, p.upper) for p in parts])
        if exact:
            return _exactly(upper)
        lowers = [p.lower for p in parts if p.lower is not None]
        if not lowers or (how == _MUST and len(lowers) < len(parts)):
            return Bounds(upper, None, exact=False)
        return Bounds(upper, tantivy.Query.boolean_query([(how, q) for q in lowers]), exact=False)

    def _but(self, query: Query, without: Query) -> Query:
        return tantivy.Query.boolean_query([(_MUST, query), (_NOT, without)])


def between(bounds: Bounds) -> Query:
    """The documents that must be looked at. Only where the bounds are not exact."""
    if bounds.lower is None:
        return bounds.upper
    return tantivy.Query.boolean_query([(_MUST, bounds.upper), (_NOT, bounds.lower)])


def _exactly(query: Query) -> Bounds:
    return Bounds(query, query, exact=True)


def _all() -> Query:
    return _still(tantivy.Query.all_query())


def _still(query: Query) -> Query:
    """The same documents, without weight."""
    return tantivy.Query.const_score_query(query, 0.0)
