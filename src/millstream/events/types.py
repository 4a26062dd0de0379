"""The types a column can have, and the row schema made of them.

One value of `Type` names one meaning on every side: `arrow` here, Avro in `envelope.py`, SQL in
`pipelines/sql/`. Values that no narrower type holds travel as text that says what it is (uuid, json, numeric).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, Literal, TypeAlias

import pyarrow as pa

Kind = Literal[
    "boolean", "int32", "int64", "float32", "float64", "text", "bytes", "decimal",
    "date", "time", "timestamp", "timestamptz", "uuid", "json", "numeric", "list", "record",
]  # fmt: skip

_ARROW: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "text": pa.string(),
    "bytes": pa.binary(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
    "uuid": pa.string(),
    "json": pa.string(),
    "numeric": pa.string(),
}


@dataclass(frozen=True)
class Type:
    """A column type. `decimal` has precision 1..76 and 0 <= scale <= precision; no other kind has either.

    `numeric` is a decimal of no declared bounds, as text. Times and timestamps are microseconds; `timestamp` has no
    zone, `timestamptz` is an instant. A `list` has an `element` type, a `record` has `fields`, whose ids are its own;
    elements and fields may be null.
    """

    kind: Kind
    precision: int | None = None
    scale: int | None = None
    element: Type | None = None
    fields: tuple[Field, ...] = ()

    def __str__(self) -> str:
        match self.kind:
            case "decimal":
                return f"decimal({self.precision},{self.scale})"
            case "list":
                return f"list({self.element})"
            case "record":
                return f"record({', '.join(f'{f.name} {f.type}' for f in self.fields)})"
        return self.kind

    @property
    def arrow(self) -> pa.DataType:
        match self.kind:
            case "decimal":
                assert self.precision is not None
                make = pa.decimal128 if self.precision <= 38 else pa.decimal256
                return make(self.precision, self.scale)
            case "list":
                assert self.element is not None
                return pa.list_(self.element.arrow)
            case "record":
                return pa.struct([pa.field(f.name, f.type.arrow) for f in self.fields])
        return _ARROW[self.kind]


def list_of(element: Type) -> Type:
    return Type("list", element=element)


def record_of(*fields: tuple[str, Type]) -> Type:
    """A record of these members, in order, with ids from 1."""
    return Type("record", fields=tuple(Field(name, type_, i) for i, (name, type_) in enumerate(fields, 1)))


@dataclass(frozen=True)
class Constant:
    """A fill that is one value: `text` is the value as Postgres or JSON lines write it (`fills.fill_value` reads it)."""

    text: str


class Unknown(Enum):
    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN
Fill: TypeAlias = Constant | Unknown


@dataclass(frozen=True)
class Field:
    """A column: its name in the source, type, and an id that survives renames (within one topic).

    `nullable`: whether the source lets it be null; in an image it may be null all the same (holes).
    `fill`: what it is in rows that were written before it was there. None: null. A Constant: that value. UNKNOWN: they have
    values that no one has said yet, and are null until then.
    `doc` and `tags` are people's. All of these count in equality, and none of them in `repr`: fingerprints are made of that,
    and what describes a column changes no row.
    """

    name: str
    type: Type
    id: int
    nullable: bool = field(default=True, repr=False)
    fill: Fill | None = field(default=None, repr=False)
    doc: str = field(default="", repr=False)
    tags: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class RowSchema:
    """The columns of a row, in order, and the names of those that make its key (in key order). Names are unique."""

    fields: tuple[Field, ...]
    key: tuple[str, ...]

    def __post_init__(self) -> None:
        names = self.names
        if len(set(names)) != len(names):
            raise ValueError(f"column names are not unique: {names}")
        if not set(self.key) <= set(names):
            raise ValueError(f"key {self.key} is not among the columns {names}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields)

    def __getitem__(self, name: str) -> Field:
        return next(f for f in self.fields if f.name == name)

    @property
    def key_fields(self) -> tuple[Field, ...]:
        return tuple(self[name] for name in self.key)

    @property
    def arrow(self) -> pa.StructType:
        """The Arrow type of one row image: every field nullable (an image may have holes)."""
        return pa.struct([pa.field(f.name, f.type.arrow) for f in self.fields])


def numbered(wanted: Iterable[tuple[str, Type]], history: Sequence[tuple[Field, ...]]) -> tuple[Field, ...]:
    """Fields of these names and types: one that the version in force has, by name, keeps its id; any other gets an id never used.

    So do the members of records in them. `history` has the fields of every earlier version, those in force last. What was dropped is
    not found again under its name: the rows of then still have its values, of whatever type (invariant 5).
    """
    now = {f.name: f for f in history[-1]} if history else {}
    free = max((f.id for version in history for f in version), default=0) + 1
    fields = []
    for name, type_ in wanted:
        if name in now:
            had = [f.type for version in history for f in version if f.id == now[name].id]
            fields.append(Field(name, _kept(type_, had), now[name].id))
        else:
            fields.append(Field(name, type_, free))
            free += 1
    return tuple(fields)


def _kept(type_: Type, history: Sequence[Type]) -> Type:
    if type_.element is not None:
        return list_of(_kept(type_.element, [t.element for t in history if t.element is not None]))
    if type_.kind == "record":
        return replace(type_, fields=numbered([(f.name, f.type) for f in type_.fields], [t.fields for t in history]))
    return type_
