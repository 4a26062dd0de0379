"""Rows and keys as a changefeed's JSON shows them, byte for byte.

Members come in alphabetical order with a space after `:` and `,`. Virtual columns are left out, or null where `virtual`.
Reference: CockroachDB 26.1, "Changefeed Messages"; the recordings under tests/golden/cockroach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from millstream.testing.cockroach import calendar, documents, shapes, values
from millstream.testing.cockroach.descriptors import Column, Descriptor, Key, Row
from millstream.testing.cockroach.types import SqlType

Encoder = Callable[[Any], str]


def _array(of: SqlType, version: str) -> Encoder:
    assert of.element is not None
    inner = encoder(of.element, version)
    return lambda value: "[" + ", ".join("null" if v is None else inner(v) for v in value) + "]"


@lru_cache(maxsize=1000)
def encoder(of: SqlType, version: str) -> Encoder:
    """How a value of this type that is not NULL is written."""
    if of.kind == "array":
        return _array(of, version)
    if of.kind == "timetz":
        return lambda value: documents.string(values.timetz_text(value, version))
    if of.kind == "decimal":
        return lambda value: documents.number(value, version)
    if of.kind in ("timestamp", "timestamptz"):
        zone = "Z" if of.kind == "timestamptz" else ""
        return lambda value: f'"{calendar.timestamp_json(value, zone, version)}"'
    return _ENCODERS.get(of.kind, lambda value: documents.string(str(value)))


_ENCODERS: dict[str, Encoder] = {
    "int": str, "bool": lambda v: "true" if v else "false", "float": documents.floating,
    "string": documents.string, "bytes": lambda v: f'"\\\\x{v.hex()}"', "date": lambda v: f'"{calendar.date_text(v)}"',
    "time": lambda v: f'"{calendar.clock_text(v)}"', "interval": lambda v: f'"{calendar.interval_text(v)}"', "jsonb": lambda v: v,
    "geometry": shapes.geojson, "geography": shapes.geojson, "vector": lambda v: f'"{shapes.vector_text(v)}"',
}  # fmt: skip


def value(of: SqlType, held: Any, version: str = "26.1") -> str:
    return "null" if held is None else encoder(of, version)(held)


def columns_of(descriptor: Descriptor, family: str | None = None) -> Iterable[Column]:
    """The columns of a message, those of one family where it is named."""
    named = next((set(f.columns) for f in descriptor.families if f.name == family), None)
    return (c for c in descriptor.columns if named is None or c.name in named)


Plan = list[tuple[str, int, Encoder | None]]
_PLANS: dict[tuple[int, int, str, str | None, bool], tuple[Descriptor, Plan]] = {}


def _plan(descriptor: Descriptor, version: str, family: str | None, virtual: bool) -> Plan:
    at = (id(descriptor), descriptor.version, version, family, virtual)
    held = _PLANS.get(at)
    if held is None or held[0] is not descriptor:
        shown = sorted(columns_of(descriptor, family), key=lambda c: c.name)
        plan = [(documents.string(c.name) + ": ", c.id - 1, None if c.virtual else encoder(c.kind, version))
                for c in shown if virtual or not c.virtual]  # fmt: skip
        if len(_PLANS) > 10_000:
            _PLANS.clear()
        held = _PLANS[at] = (descriptor, plan)
    return held[1]


def row(descriptor: Descriptor, held: Row, version: str = "26.1", *, family: str | None = None, virtual: bool = False,
        json_null: bool = False) -> str:  # fmt: skip
    """A row as a JSON object. `json_null`: the JSON value null is written as the object that encode_json_value_null_as_object asks for."""
    members, width = [], len(held)
    for name, place, encode in _plan(descriptor, version, family, virtual):
        found = held[place] if place < width else None
        if found is None or encode is None:
            members.append(name + "null")
        elif json_null and found == "null" and encode is _ENCODERS["jsonb"]:
            members.append(name + '{"__crdb_json_null__": true}')
        else:
            members.append(name + encode(found))
    return "{" + ", ".join(members) + "}"


def key(descriptor: Descriptor, held: Key, version: str = "26.1") -> str:
    """A key as a JSON array, in index order."""
    parts = (value(c.kind, v, version) for c, v in zip(descriptor.key_columns, held, strict=True))
    return "[" + ", ".join(parts) + "]"
