"""Change events → lines of JSON, whole columns at a time. Values: `millstream.sinks.jsontext`."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc

from millstream.events import version
from millstream.events.batch import Batch
from millstream.sinks.jsontext import joined, objects, quoted


def lines(batch: Batch) -> bytes:
    """One line an event: topic, offset, op, version, ts_us, key, before, after; backfill, cause and holes where they are set."""
    rows, schema = batch.rows, batch.schema
    versions = version.texts(rows.column("incarnation"), rows.column("major"), rows.column("minor"))
    topic = json.dumps(batch.topic, ensure_ascii=False)
    parts = [
        f'{{"topic":{topic},"offset":', pc.cast(pa.array(batch.offsets), pa.string()),
        ',"op":"', rows.column("op"),
        '","version":"', versions,
        '","ts_us":', pc.cast(rows.column("ts_us"), pa.string()),
        ',"key":', objects(batch.keys(), schema.key_fields),
        ',"before":', pc.fill_null(objects(rows.column("before"), schema.fields), "null"),
        ',"after":', pc.fill_null(objects(rows.column("after"), schema.fields), "null"),
    ]  # fmt: skip
    for name in ("backfill", "cause"):
        parts += _if_set(name, quoted(rows.column(name)))
    parts += _if_set("holes", _holes(rows.column("holes")))
    text = joined(*parts, "}\n")
    data = text.buffers()[2]
    # All lines lie in one buffer, end to end.
    offsets = pa.Array.from_buffers(pa.int32(), len(text) + 1, [None, text.buffers()[1]], offset=text.offset)
    return bytes(data.slice(offsets[0].as_py(), offsets[-1].as_py() - offsets[0].as_py()))


def _if_set(name: str, texts: pa.Array) -> list[pa.Array]:
    return [] if texts.null_count == len(texts) else [pc.fill_null(joined(f',"{name}":', texts), "")]


def _holes(column: pa.Array) -> pa.Array:
    """Holes are rare: only the rows that have some are touched one by one."""
    told = pc.list_value_length(column)
    if not pc.any(pc.greater(told, 0)).as_py():
        return pa.nulls(len(column), pa.string())
    return pa.array([json.dumps(h, ensure_ascii=False, separators=(",", ":")) if h else None for h in column.to_pylist()], pa.string())
