"""Which type a CockroachDB column has here: the one table of it.

A type that is not in it (an enum, INET, INTERVAL, OID …) travels as the text that the server writes for it.
Reference: CockroachDB 26.1, "Data Types"; `tree.AsJSON` for what a changefeed writes.
"""

from __future__ import annotations

import re

from millstream.events.types import Type, list_of

DECIMAL_PRECISION_MAX = 38

_TYPES = {
    "boolean": ("bool", "boolean"),
    "int32": ("int2", "int4", "smallint", "integer"),
    "int64": ("int8", "int", "bigint"),
    "float32": ("float4", "real"),
    "float64": ("float8", "float", "double precision"),
    "bytes": ("bytes", "bytea"),
    "date": ("date",),
    "time": ("time", "time without time zone"),
    "timestamp": ("timestamp", "timestamp without time zone"),
    "timestamptz": ("timestamptz", "timestamp with time zone"),
    "uuid": ("uuid",),
    # What the server writes for a geometry is GeoJSON.
    "json": ("jsonb", "json", "geometry", "geography"),
}
_BY_NAME = {name: Type(kind) for kind, names in _TYPES.items() for name in names}  # type: ignore[arg-type]
_DECIMALS = ("decimal", "dec", "numeric")
# timestamp(0) without time zone, geometry(point,4326): the name goes on behind the brackets.
_MODIFIED = re.compile(r"([^(]+?) ?\(([^)]*)\)(.*)")
# Behind all else, of arrays too: STRING[] COLLATE en.
_COLLATE = re.compile(r" COLLATE .*", re.IGNORECASE)
_SHARD = re.compile(r"crdb_internal_.*_shard_[0-9]+")


def type_of(sql_type: str) -> Type:
    """The type of a column, by its SQL type as SHOW CREATE or pg_catalog.format_type writes it.

    `integer` is format_type's word for INT4. A decimal of more digits than DECIMAL_PRECISION_MAX, or of no said number, is numeric.
    """
    text = _COLLATE.sub("", " ".join(sql_type.split()))
    if text.endswith("[]"):
        return list_of(type_of(text[:-2]))
    if re.fullmatch(r"_[a-z0-9]+", text):  # pg_type.typname of an array
        return list_of(type_of(text[1:]))
    name, modifier = text.lower(), ""
    if (found := _MODIFIED.fullmatch(name)) is not None:
        name, modifier = found[1] + found[3], found[2]
    if name in _DECIMALS:
        return _decimal(modifier)
    return _BY_NAME.get(name, Type("text"))


def _decimal(modifier: str) -> Type:
    if not modifier:
        return Type("numeric")
    precision, _, scale = modifier.partition(",")
    if int(precision) > DECIMAL_PRECISION_MAX:
        return Type("numeric")
    return Type("decimal", int(precision), int(scale or 0))


def is_shard(column: str) -> bool:
    """Whether a column is the hidden one of a hash-sharded index: in the feed's keys, never in its rows."""
    return _SHARD.fullmatch(column) is not None
