"""A schema that a user has in a file, read as the next version of a topic's row schema: to be judged before it is made.

The file holds an Avro schema: the envelope of a topic, or a record of its columns as anybody may write it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from millstream.errors import Refused
from millstream.events.avrofields import FIELD_ID, NULLABLE, ORIGINAL_NAME, attributes_of, type_of
from millstream.events.types import Field, RowSchema, Type, list_of
from millstream.schemas.avrotext import AvroText

_PLAIN: Mapping[tuple[str, str], Type] = {
    ("boolean", ""): Type("boolean"),
    ("int", ""): Type("int32"),
    ("long", ""): Type("int64"),
    ("float", ""): Type("float32"),
    ("double", ""): Type("float64"),
    ("string", ""): Type("text"),
    ("bytes", ""): Type("bytes"),
    ("int", "date"): Type("date"),
    ("long", "time-micros"): Type("time"),
    ("long", "timestamp-micros"): Type("timestamptz"),
    ("long", "local-timestamp-micros"): Type("timestamp"),
    ("string", "uuid"): Type("uuid"),
}


def given_schema(text: str, now: RowSchema, where: str = "") -> RowSchema:
    """The row schema that the file's text describes, where `now` is the topic's.

    A column is one that the topic has where it has its field-id, else its name, else an alias; any other is new. What the text
    does not say of a column (a description, tags, what old rows have) stays as it is. Raises Refused("schema_file").
    """
    try:
        fields = _fields(_columns(json.loads(AvroText(text).canonical)), now.fields)
        kept = {f.id: f.name for f in fields}
        return RowSchema(fields, tuple(kept[f.id] for f in now.key_fields if f.id in kept))
    except (Refused, ValueError, LookupError, TypeError) as e:
        message = e.message if isinstance(e, Refused) else str(e)
        cure = "give the Avro schema of a topic's envelope (`millstream schemas show`), or a record of its columns"
        raise Refused(f"not the schema of rows: {message}", code="schema_file", where=where, cure=cure) from e


def _columns(document: Any) -> list[Any]:
    """The Avro fields of the row: those of the envelope's images, or of the record itself."""
    if not isinstance(document, dict) or document.get("type") != "record":
        raise ValueError("the outermost type is no record")
    by_name = {f["name"]: f for f in document["fields"]}
    if {"before", "after", "op"} <= set(by_name):
        _, row = _optional(by_name["before"]["type"])
        return list(row["fields"])
    return list(document["fields"])


def _optional(avro: Any) -> tuple[bool, Any]:
    """Whether it may be null, and what it is else."""
    if not isinstance(avro, list):
        return False, avro
    others = [b for b in avro if b != "null"]
    if len(others) != 1 or len(avro) > 2:
        raise ValueError(f"no column has the union {json.dumps(avro)[:80]}")
    return len(avro) == 2, others[0]


def _fields(given: Iterable[Any], had: tuple[Field, ...]) -> tuple[Field, ...]:
    given = list(given)
    by_id, by_name = {f.id: f for f in had}, {f.name: f for f in had}
    free = max((*by_id, *(f[FIELD_ID] for f in given if FIELD_ID in f)), default=0) + 1
    fields = []
    for f in given:
        name, own = f.get(ORIGINAL_NAME, f["name"]), FIELD_ID in f
        names = (name, *f.get("aliases", ()))
        was = by_id.get(f[FIELD_ID]) if own else next((by_name[n] for n in names if n in by_name), None)
        may, avro = _optional(f["type"])
        type_ = _type(avro, was.type if was else None)
        # Millstream's own texts say all there is to say of a column; others are silent of what they do not know.
        made = (
            replace(was, name=name, type=type_) if was and not own else Field(name, type_, f[FIELD_ID] if own else was.id if was else free)
        )
        free += made.id == free
        fields.append(replace(made, **{**attributes_of(f), "nullable": may and f.get(NULLABLE, True)}))
    return tuple(fields)


def _type(avro: Any, was: Type | None) -> Type:
    match avro:
        case {"type": "record", "fields": members}:
            return Type("record", fields=_fields(members, was.fields if was else ()))
        case {"type": "array", "items": items}:
            return list_of(_type(_optional(items)[1], was.element if was else None))
        case {"type": "enum"}:
            return Type("text")
        case {"type": "fixed"}:
            return Type("bytes")
    try:
        return type_of(avro)
    except LookupError:  # not as Millstream writes it
        kind, logical = (avro, "") if isinstance(avro, str) else (avro["type"], str(avro.get("logicalType", "")))
        if (kind, logical) not in _PLAIN and (kind, "") not in _PLAIN:
            raise ValueError(f"no column has the type {json.dumps(avro)[:80]}") from None
        return _PLAIN.get((kind, logical)) or _PLAIN[kind, ""]
