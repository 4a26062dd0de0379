"""From one SQL type to another: explicit casts, and the narrower ones that writing into a column does by itself.

Reference: CockroachDB 26.1, "Data Types", conversions of each.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from millstream.testing.cockroach import calendar, documents, jsontext, values
from millstream.testing.cockroach.errors import SqlError, not_modelled
from millstream.testing.cockroach.types import SqlType

Convert = Callable[[Any], Any]
TEXTS = frozenset(("string", "name", "citext"))
NUMBERS = frozenset(("int", "decimal", "float"))
_MOMENTS = frozenset(("timestamp", "timestamptz", "date"))


def _whole(value: float | Decimal) -> int:
    if value != value or value in (float("inf"), float("-inf")):
        raise SqlError("22003", "integer out of range")
    return int(Decimal(value).to_integral_value(ROUND_HALF_UP)) if isinstance(value, Decimal) else round(value)


_PLAIN: dict[tuple[str, str], Convert] = {
    ("int", "decimal"): Decimal, ("int", "float"): float, ("float", "int"): _whole, ("decimal", "int"): _whole, ("int", "bool"): bool,
    ("decimal", "float"): float, ("float", "decimal"): lambda v: Decimal(repr(v)), ("bool", "int"): int, ("int", "oid"): int,
    ("oid", "int"): int, ("timestamp", "timestamptz"): int, ("timestamptz", "timestamp"): int,
    ("date", "timestamp"): lambda v: v * calendar.DAY, ("date", "timestamptz"): lambda v: v * calendar.DAY,
    ("timestamp", "date"): lambda v: v // calendar.DAY, ("timestamptz", "date"): lambda v: v // calendar.DAY,
    ("timestamp", "time"): lambda v: v % calendar.DAY, ("timestamptz", "time"): lambda v: v % calendar.DAY,
    ("time", "interval"): lambda v: (0, 0, v), ("bit", "varbit"): str, ("varbit", "bit"): str,
    ("geometry", "geography"): str, ("geography", "geometry"): str,
}  # fmt: skip


def cast(of: SqlType, to: SqlType, version: str) -> Convert:
    """How an explicit cast makes a `to` of a value that is not NULL. Raises SqlError 42846 where there is none."""
    if of.kind == to.kind and of.kind not in ("string", "array"):
        return lambda value: values.fit(value, to)
    if to.kind in TEXTS:
        return _to_text(of, to, version)
    if of.kind in TEXTS or of.kind == "unknown":
        return lambda value: values.parse(value, to)
    if of.kind == "array" and to.kind == "array" and of.element and to.element:
        one = cast(of.element, to.element, version)
        return lambda value: tuple(None if v is None else one(v) for v in value)
    if of.kind == "jsonb" and to.kind in ("int", "decimal", "float", "bool"):
        return lambda value: values.parse(value, to)
    found = _PLAIN.get((of.kind, to.kind))
    if found is None:
        raise SqlError("42846", f"invalid cast: {of.text.lower()} -> {to.text.lower()}")
    return lambda value: values.fit(found(value), to)


def _to_text(of: SqlType, to: SqlType, version: str) -> Convert:
    width = to.width if to.kind == "string" else None
    if of.kind in TEXTS:
        return (lambda value: value[:width]) if width is not None else (lambda value: value)
    return lambda value: values.text(value, of, version, cast=True)[:width]


def assign(of: SqlType, to: SqlType, column: str, version: str) -> Convert:
    """How a value is written into a column of type `to`. Raises SqlError 42804 where it may not be."""
    if of.kind == to.kind and of.kind != "array":
        if of.kind == "enum" and of.name != to.name:
            raise _mismatch(of, to, column)
        return lambda value: values.fit(_char(value, to), to)
    if of.kind == "array" and to.kind == "array" and of.element and to.element:
        one = assign(of.element, to.element, column, version)
        return lambda value: tuple(None if v is None else one(v) for v in value)
    fits = (
        (of.kind in NUMBERS and to.kind in NUMBERS) or (of.kind in _MOMENTS and to.kind in _MOMENTS)
        or (of.kind in TEXTS and to.kind in TEXTS) or of.kind == "unknown" or (of.kind, to.kind) in (("int", "oid"), ("oid", "int"))
        or {of.kind, to.kind} == {"bit", "varbit"}
    )  # fmt: skip
    if fits:
        return cast(of, to, version) if to.kind not in TEXTS else (lambda value: values.fit(_char(value, to), to))
    if to.kind in TEXTS and to.width is None:
        return _to_text(of, to, version)
    raise _mismatch(of, to, column)


def _char(value: Any, to: SqlType) -> Any:
    return value.rstrip(" ") if to.spelling == "CHAR" else value


def _mismatch(of: SqlType, to: SqlType, column: str) -> SqlError:
    return SqlError("42804", f'value type {of.text.lower()} doesn\'t match type {to.text.lower()} of column "{column}"')


def as_json(of: SqlType, version: str) -> Convert:
    """A value as JSON text, as json_build_object and the changefeed write it."""
    if of.kind == "unknown":
        return documents.string
    if of.kind == "tuple":
        raise not_modelled("a tuple in JSON")
    return jsontext.encoder(of, version)
