"""Tree → conditions: what the names mean in this index, and the values in their fields' types."""

from __future__ import annotations

import math
import uuid

from millstream.errors import Refused
from millstream.events.types import Type
from millstream.queries import conditions, tree
from millstream.queries.conditions import AllOf, AnyOf, Condition, Found, NotThat, Present, Within
from millstream.queries.fields import WORDY, Fields, Route, Scope
from millstream.queries.grammar import parse
from millstream.queries.mistakes import mistake
from millstream.queries.values import FAMILIES, ORDERED, Comparable, Family, clock, day, moment, number
from millstream.queries.words import words

TERMS_MAX = 1_000
"""Conditions of one query: more would be work without bound."""

WRITTEN: dict[str, str] = {
    "number": "a number: 12, -0.5, 1e6",
    "float": "a number that a float can hold: 12, -0.5, 1e6; or NaN, Infinity, -Infinity",
    "text": "the text, in quotes where it has other signs than letters and digits: ATL, 'New York'",
    "uuid": "the whole of it: 550e8400-e29b-41d4-a716-446655440000",
    "boolean": "true or false",
    "day": "a day: 2024-12-31",
    "clock": "a time of day: 12:30, 12:30:59.5",
    "local": "a moment without a zone: 2024-12-31T12:30:00; a day alone is its midnight",
    "instant": "a moment: 2024-12-31T12:30:00Z, 2024-12-31T12:30:00+02:00; a day alone is its midnight UTC",
}
"""How values are written, by family (and uuid)."""


def checked(query: str, fields: Fields) -> Condition:
    """The conditions of a query over documents with these fields.

    Raises Refused: "bad_query", "unknown_column", "not_indexed", "bad_comparison", "bad_value"; each says the place and the cure.
    """
    return _Check(query).condition(parse(query), Scope.of(fields))


class _Check:
    """The check of one query."""

    def __init__(self, query: str) -> None:
        self._query, self._terms = query, 0

    def condition(self, node: tree.Node, scope: Scope) -> Condition:
        match node:
            case tree.And(nodes):
                return AllOf(tuple(self.condition(n, scope) for n in nodes))
            case tree.Or(nodes):
                return AnyOf(tuple(self.condition(n, scope) for n in nodes))
            case tree.Not(part):
                return NotThat(self.condition(part, scope))
        self._count(node.at)
        match node:
            case tree.Everything():
                return conditions.Everything()
            case tree.Contains(path, items):
                parts = tuple(self._contains(path, item, scope, len(items)) for item in items)
                return parts[0] if len(parts) == 1 else AllOf(parts)
            case tree.Exists(path):
                return Present(scope.resolved(path, self._query)[0])
            case tree.Some(path, inner):
                return self._some(path, inner, scope)
            case tree.Compare(path, op, value):
                return self._compared(path, op, value, scope)
            case tree.In(path, values):
                return AnyOf(tuple(self._compared(path, "=", value, scope) for value in values))
            case tree.Between(path, low, high):
                return self._between(path, low, high, scope)

    def _count(self, at: int) -> None:
        self._terms += 1
        if self._terms > TERMS_MAX:
            raise self._mistake(f"the query has more than {TERMS_MAX} conditions", at, "ask for less at once")

    # ---- words

    def _contains(self, path: tree.Path | None, item: tree.Look, scope: Scope, items: int) -> Condition:
        if path is None:
            texts = scope.fields.texts(scope.base, scope.base)
            if not texts:
                raise self._mistake("no field here is found by words", item.at, "compare a field with a value: field = value")
            return Found(texts, self._words(item), item.kind == "prefix", anywhere=not scope.base)
        route, type_, _ = scope.resolved(path, self._query)
        if type_.kind == "record":
            texts = scope.fields.texts(route.whole, scope.base)
            if not texts:
                raise self._mistake(f"no field of {path} is found by words", item.at, f"compare one of its fields: {path}.… = value")
            return Found(texts, self._words(item), item.kind == "prefix")
        how = scope.fields.treatment(route.whole, type_)
        if how == "text" and type_.kind == "json":
            found = Found((route,), self._words(item), item.kind == "prefix")
            if item.kind == "word" and (number(item.text) is not None or item.text in ("true", "false")):
                return AnyOf((found, self._compared(path, "=", tree.Value(item.text, False, item.at), scope)))
            return found
        if how == "text":
            return Found((Route(route.names, "text", route.base),), self._words(item), item.kind == "prefix")
        if item.kind == "prefix" or items > 1:
            known = type_.kind in WORDY
            raise self._mistake(
                f"{path} is {type_} and is found {'whole' if known else 'by its value'}, not by words",
                item.at,
                f"{path} = '…'" + (f"; or set `fields: {{{path}: text}}` in the sink" if known else ""),
                "bad_comparison",
            )
        return self._compared(path, "=", tree.Value(item.text, item.kind == "phrase", item.at), scope)

    def _words(self, item: tree.Look) -> tuple[str, ...]:
        found = tuple(words(item.text))
        if not found:
            raise self._mistake(f"there is no letter or digit in {item.text!r} to look for", item.at, "leave it out")
        return found

    # ---- comparisons

    def _compared(self, path: tree.Path, op: tree.Op, value: tree.Value, scope: Scope) -> Condition:
        self._count(value.at)
        route, family, kind = self._field(path, value, scope)
        if op not in ("=", "!=") and family not in ORDERED:
            raise self._mistake(f"{path} is {kind}: it has no order", path.at, f"{path} = {value.text}", "bad_comparison")
        there = self._value(path, kind, family, value)
        match op:
            case "=":
                return Within(route, family, there, there)
            case "!=":
                if family == "boolean":
                    return Within(route, family, not there, not there)
                return AnyOf((Within(route, family, high=there, high_open=True), Within(route, family, low=there, low_open=True)))
            case "<" | "<=":
                return Within(route, family, high=there, high_open=op == "<")
        return Within(route, family, low=there, low_open=op == ">")

    def _between(self, path: tree.Path, low: tree.Value, high: tree.Value, scope: Scope) -> Condition:
        route, family, kind = self._field(path, low, scope)
        if family not in ORDERED:
            raise self._mistake(f"{path} is {kind}: it has no order", path.at, f"{path} = {low.text}", "bad_comparison")
        other = self._field(path, high, scope)[1]
        if other != family:
            raise self._mistake(f"one of the two values is a {family}, the other a {other}", high.at, "give two of a kind", "bad_value")
        return Within(route, family, self._value(path, kind, family, low), self._value(path, kind, family, high))

    def _field(self, path: tree.Path, value: tree.Value, scope: Scope) -> tuple[Route, Family, str]:
        """The route of a compared field, the family in which it compares with this value, and its kind."""
        route, type_, _ = scope.resolved(path, self._query)
        kind = type_.kind
        if kind == "record":
            inside = ", ".join(f"{path}.{f.name}" for f in type_.fields[:5])
            raise self._mistake(f"{path} is a record, not a value", path.at, f"compare one of its fields: {inside}", "bad_comparison")
        if scope.fields.treatment(route.whole, type_) == "stored":
            raise self._stored(path, type_)
        if kind != "json":
            return route, FAMILIES[kind], kind
        if value.quoted:
            return route, "text", kind
        return route, "boolean" if value.text in ("true", "false") else "text" if number(value.text) is None else "number", kind

    def _stored(self, path: tree.Path, type_: Type) -> Refused:
        cure = (
            f"`EXISTS {path}` is all that can be asked of bytes"
            if type_.kind == "bytes"
            else f"take `{path}: stored` out of the sink's fields"
        )
        return self._mistake(f"{path} is only kept, not indexed", path.at, cure, "not_indexed")

    def _value(self, path: tree.Path, kind: str, family: Family, value: tree.Value) -> Comparable:
        there, cure = _literal(kind, family, value.text)
        if there is None:
            raise self._mistake(f"{path} is {kind}, and {value.text!r} is no such value", value.at, cure, "bad_value")
        return there

    # ---- elements

    def _some(self, path: tree.Path, inner: tree.Node, scope: Scope) -> Condition:
        route, type_, listed = scope.resolved(path, self._query)
        if not listed or type_.kind == "json":
            cure = f"write the condition with {path}.… or {path} = … and without ANY"
            raise self._mistake(f"{path} is {type_.kind}, not a list", path.at, cure, "bad_comparison")
        return conditions.Some(route, self.condition(inner, scope.within(route, type_)))

    def _mistake(self, message: str, at: int, cure: str, code: str = "bad_query") -> Refused:
        return mistake(message, self._query, at, code=code, cure=cure)


def _literal(kind: str, family: Family, text: str) -> tuple[Comparable | None, str]:
    """What the text says in this family, or None; and how to write such a value."""
    return _said(kind, family, text), f"write {WRITTEN['uuid' if kind == 'uuid' else family]}"


def _said(kind: str, family: Family, text: str) -> Comparable | None:
    match family:
        case "number":
            return number(text)
        case "float":
            return _float(text)
        case "boolean":
            return {"true": True, "false": False}.get(text.lower())
        case "day":
            return day(text)
        case "clock":
            return clock(text)
        case "local" | "instant":
            found = moment(text)
            return None if found is None or (found[1] and family == "local") else found[0]
    return _uuid(text) if kind == "uuid" else text


def _float(text: str) -> float | None:
    if text in ("NaN", "Infinity", "-Infinity"):
        return float(text)
    exact = number(text)
    value = None if exact is None else float(exact) + 0.0
    return value if value is not None and math.isfinite(value) else None


def _uuid(text: str) -> str | None:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None
