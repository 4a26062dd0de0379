"""Columns as Avro fields, and back: what stands in an envelope's images, and in a key.

A text that is registered never changes: what a column does not have leaves no trace in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from millstream.events.types import UNKNOWN, Constant, Field, Fill, Kind, Type, list_of

FIELD_ID = "field-id"
ORIGINAL_NAME = "millstream.name"
NULLABLE = "millstream.nullable"
FILL = "millstream.fill"  # {"constant": text}, or "unknown"
DOC = "doc"
TAGS = "millstream.tags"

# What a reader that knows Kafka Connect's or Debezium's semantic types takes each column for. An instant and a
# timestamp without zone are both micros since 1970; the logical type tells them apart.
_AVRO: dict[Kind, Any] = {
    "boolean": "boolean",
    "int32": "int",
    "int64": "long",
    "float32": "float",
    "float64": "double",
    "text": "string",
    "bytes": "bytes",
    "date": {"type": "int", "logicalType": "date", "connect.name": "io.debezium.time.Date"},
    "time": {"type": "long", "logicalType": "time-micros", "connect.name": "io.debezium.time.MicroTime"},
    "timestamp": {"type": "long", "logicalType": "local-timestamp-micros", "connect.name": "io.debezium.time.MicroTimestamp"},
    "timestamptz": {"type": "long", "logicalType": "timestamp-micros", "connect.name": "io.debezium.time.MicroTimestamp"},
    "uuid": {"type": "string", "logicalType": "uuid", "connect.name": "io.debezium.data.Uuid"},
    "json": {"type": "string", "connect.name": "io.debezium.data.Json"},
    "numeric": {"type": "string", "connect.name": "millstream.Numeric"},
}
_KINDS: dict[str, Kind] = {json.dumps(avro, sort_keys=True): kind for kind, avro in _AVRO.items()}


def legal_name(text: str) -> str:
    """A legal Avro name as near to `text` as can be."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", text)
    return name if name and not name[0].isdigit() else f"_{name}"


def named(fields: Iterable[Field]) -> list[tuple[str, Field]]:
    """Each column with its Avro name: its own where that is legal, else one that no other column has."""
    fields = tuple(fields)
    taken = {field.name for field in fields if legal_name(field.name) == field.name}
    pairs = []
    for field in fields:
        name = legal_name(field.name)
        if name != field.name:
            while name in taken:
                name += "_"
            taken.add(name)
        pairs.append((name, field))
    return pairs


def avro_field(name: str, field: Field) -> dict[str, Any]:
    original = {} if name == field.name else {ORIGINAL_NAME: field.name}
    return {"name": name, FIELD_ID: field.id, **original}


def nullable_fields(fields: Iterable[Field], place: str) -> list[dict[str, Any]]:
    """The Avro fields of a row, or of a record in one, at `place`."""
    return [
        {**avro_field(name, f), "type": ["null", avro_type(f.type, f"{place}.{name}")], "default": None, **_attributes(f)}
        for name, f in named(fields)
    ]


def _attributes(field: Field) -> dict[str, Any]:
    """What is said of a column beyond its name, id and type; nothing where nothing is, so that texts stay what they were."""
    said: dict[str, Any] = {}
    if not field.nullable:
        said[NULLABLE] = False
    if field.fill is not None:
        said[FILL] = {"constant": field.fill.text} if isinstance(field.fill, Constant) else UNKNOWN.value
    if field.doc:
        said[DOC] = field.doc
    if field.tags:
        said[TAGS] = list(field.tags)
    return said


def _fill(said: Any) -> Fill:
    match said:
        case {"constant": str(text)}:
            return Constant(text)
        case UNKNOWN.value:
            return UNKNOWN
    raise ValueError(f"{FILL} is {said!r}")


def avro_type(type_: Type, place: str) -> Any:
    """`place` is the path to the value; a record has it as its full name, for no other stands there, in any version."""
    match type_:
        case Type("decimal"):
            return {"type": "bytes", "logicalType": "decimal", "precision": type_.precision, "scale": type_.scale}
        case Type("list", element=Type() as element):
            return {"type": "array", "items": ["null", avro_type(element, place)]}
        case Type("record"):
            namespace, _, name = place.rpartition(".")
            head = {"type": "record", "name": name, "namespace": namespace, "connect.name": place}
            return {**head, "fields": nullable_fields(type_.fields, place)}
    return _AVRO[type_.kind]


def type_of(avro: Any) -> Type:
    match avro:
        case {"logicalType": "decimal"}:
            return Type("decimal", avro["precision"], avro["scale"])
        case {"type": "array", "items": ["null", item]}:
            return list_of(type_of(item))
        case {"type": "record"}:
            return Type("record", fields=fields_of(avro["fields"]))
    return Type(_KINDS[json.dumps(avro, sort_keys=True)])


def fields_of(avro: Iterable[Any]) -> tuple[Field, ...]:
    """The columns that `nullable_fields` made these Avro fields of. Raises LookupError, TypeError or ValueError on others."""
    return tuple(Field(f.get(ORIGINAL_NAME, f["name"]), type_of(f["type"][1]), f[FIELD_ID], **attributes_of(f)) for f in avro)


def attributes_of(avro: Any) -> dict[str, Any]:
    """What an Avro field says of its column beyond name, id and type: attribute of `Field` → value, of what is said only."""
    read = {"nullable": avro.get(NULLABLE), "fill": avro.get(FILL), "doc": avro.get(DOC), "tags": avro.get(TAGS)}
    made: dict[str, Callable[[Any], Any]] = {"nullable": bool, "fill": _fill, "doc": str, "tags": tuple}
    return {attribute: made[attribute](value) for attribute, value in read.items() if value is not None}


def wire_type(fields: Iterable[Field]) -> pa.StructType:
    """The Arrow type of such rows under their Avro names, those of records inside too."""

    def of(type_: Type) -> pa.DataType:
        if type_.element is not None:
            return pa.list_(of(type_.element))
        return wire_type(type_.fields) if type_.kind == "record" else type_.arrow

    return pa.struct([pa.field(name, of(f.type)) for name, f in named(fields)])
