"""Reads a recording with no server: the first column is the key, and ids go by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from millstream.errors import Irrecoverable
from millstream.events.types import Field, RowSchema
from millstream.sources.names import TableName
from millstream.sources.postgres.columns import type_of
from millstream.sources.postgres.decode import Messages
from millstream.sources.postgres.messages import Relation
from millstream.sources.postgres.translate import Shape, Translator


def messages_of(path: Path) -> list[bytes]:
    data, at, out = path.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        out.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return out


def shape(relation: Relation) -> Shape:
    fields = tuple(Field(c.name, type_of(c.type_oid, c.typmod), i) for i, c in enumerate(relation.columns, 1))
    return Shape(TableName.parse(relation.name), RowSchema(fields, (fields[0].name,)))


def told(messages: list[bytes], pieces: list[int]) -> dict[str, Any]:
    """Events per table in order, marks and truncates, the last position and how it ended, as plain JSON values."""
    translator = Translator(shape, (0, 0), "golden")
    events: dict[str, list[Any]] = {}
    marks: list[Any] = []
    ended = "well"
    places = [0, *pieces, len(messages)]
    try:
        for i, start in enumerate(places[:-1]):
            for part in translator.translate(Messages.of(messages[start : places[i + 1]])):
                for batch in part.batches:
                    rows = [{k: v for k, v in row.items() if v is not None} for row in batch.rows.to_pylist()]
                    events.setdefault(batch.topic, []).extend(rows)
                if part.mark is not None:
                    marks.append([part.mark, list(part.position)])
                if part.truncate is not None:
                    marks.append([f"truncate of {', '.join(part.truncate.tables)} by {part.truncate.tx_id}", list(part.position)])
    except Irrecoverable as error:
        ended = error.code
    return {"events": events, "marks": marks, "position": list(translator.position), "ended": ended}


def text(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=1, ensure_ascii=False, default=repr) + "\n"


def expected_text(messages: list[bytes]) -> str:
    return text(told(messages, []))
