"""The wire form of a batch: the Avro schemas of a topic's values and keys, and batch ↔ framed Avro data. Design §3.

The schema texts are made and read here alone; how bytes are made of columns is `avro`'s, which id a text has is the
registry's, and where the bytes are kept is the topics'.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.avro import Codec, Datums
from millstream.errors import BadRecord, Refused
from millstream.events import version
from millstream.events.avrofields import avro_field, avro_type, fields_of, legal_name, named, nullable_fields, wire_type
from millstream.events.batch import HOLES, Batch, columns
from millstream.events.nested import relabelled
from millstream.events.origin import Origin
from millstream.events.types import RowSchema

MAGIC = 0
FRAME_BYTES = 5

# All that a batch has; the rest of the envelope is the same in every event of a topic, or follows from these.
_WANTED = (
    "before", "after", "op", "ts_us", "source.ts_us", "source.snapshot", "source.txId", "source.position",
    "transaction.total_order", "transaction.data_collection_order", "millstream",
)  # fmt: skip
_OPERATIONS = pa.array(["c", "u", "d", "r"])
_LONG_MAX = (1 << 63) - 1


def value_schema(topic: str, schema: RowSchema, turn: int = 0) -> str:
    """The Avro schema of a topic's events. `turn`: how often its columns were in force before; it tells texts apart and no more."""
    namespace = _namespace(topic)
    value = {
        "type": "record",
        "name": "Value",
        "connect.name": f"{namespace}.Value",
        "fields": nullable_fields(schema.fields, f"{namespace}.value"),
    }
    return json.dumps(
        {
            "type": "record",
            "name": "Envelope",
            "namespace": namespace,
            "connect.name": f"{namespace}.Envelope",
            **({"millstream.turn": turn} if turn else {}),
            "fields": [
                _optional("before", value),
                _optional("after", "Value"),
                {"name": "source", "type": _source(namespace)},
                _optional("transaction", _TRANSACTION),
                {"name": "op", "type": "string"},
                _optional("ts_ms", "long"),
                _optional("ts_us", "long"),
                _optional("ts_ns", "long"),
                {"name": "millstream", "type": _MARK},
            ],
        }
    )


def key_schema(topic: str, schema: RowSchema) -> str:
    """The Avro schema of a topic's keys: its key columns in key order, never null."""
    namespace = _namespace(topic)
    fields = [{**avro_field(name, f), "type": avro_type(f.type, f"{namespace}.key.{name}")} for name, f in named(schema.key_fields)]
    return json.dumps({"type": "record", "name": "Key", "namespace": namespace, "connect.name": f"{namespace}.Key", "fields": fields})


def row_schema(text: str, key: tuple[str, ...]) -> RowSchema:
    """The row schema of which `value_schema` made this text. `key` has original column names.

    Raises Refused("not_an_envelope") on any other text.
    """
    try:
        envelope = json.loads(text)
        before = next(field for field in envelope["fields"] if field["name"] == "before")
        return RowSchema(fields_of(before["type"][1]["fields"]), key)
    except (ValueError, LookupError, TypeError, StopIteration) as error:
        raise Refused(
            f"the schema is not the envelope of a topic with key ({', '.join(key)}): {error!r}",
            code="not_an_envelope",
            cure="read the topic with the schema that its connector registered",
        ) from None


def encode_values(batch: Batch, origin: Origin, version_tag: str) -> Datums:
    """The batch's events as framed envelopes. `batch.schema_id` must be set, and its text be `value_schema`'s.

    `version_tag` is the Millstream version that source.version names. Raises BadRecord("avro_unwritable").
    """
    if batch.schema_id is None:
        raise ValueError(f"the batch of {batch.topic} has no schema id yet: register its schema first")
    if not len(batch):
        return Datums(b"", np.zeros(0, np.int64))
    codec = _codec(value_schema(batch.topic, batch.schema))
    wire = wire_type(batch.schema.fields)
    made = _times(batch.column("processed_us"))
    envelope = {
        "before": relabelled(batch.column("before"), wire),
        "after": relabelled(batch.column("after"), wire),
        "source": _source_columns(batch, origin, version_tag),
        "transaction": _transaction_column(batch),
        "op": batch.column("op"),
        **made,
        "millstream": {
            "version": version.texts(batch.column("incarnation"), batch.column("major"), batch.column("minor")),
            "backfill": batch.column("backfill"),
            "cause": batch.column("cause"),
            "holes": batch.column("holes"),
        },
    }
    return codec.encode(envelope, len(batch), frame(batch.schema_id))


def encode_keys(batch: Batch, topic: str, key_schema_id: int) -> Datums:
    """The framed key of every event. Raises BadRecord("key_null") where a key column is null."""
    keys = batch.keys()
    for column, field in zip(keys.flatten(), batch.schema.key_fields, strict=True):
        if column.null_count:
            row = int(np.argmax(np.asarray(column.is_null())))
            raise BadRecord(
                f"row {row} of the batch has no value in the key column {field.name}",
                code="key_null",
                where=topic,
                cure="key columns may not be null: choose another key, or leave such rows out",
            )
    return _codec(key_schema(topic, batch.schema)).encode(
        relabelled(keys, wire_type(batch.schema.key_fields)), len(batch), frame(key_schema_id)
    )


def decode_values(
    topic: str,
    text: str,
    schema_id: int,
    schema: RowSchema,
    data: bytes,
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
) -> Batch:
    """The events whose framed envelopes lie at start..end, in order, as one batch (offsets None).

    `text` is the writer's schema and `schema` its `row_schema`. Raises BadRecord("avro_malformed") naming the row.
    """
    starts, ends = np.asarray(starts, np.int64), np.asarray(ends, np.int64)
    _check_frames(topic, schema_id, data, starts, ends)
    try:
        rows = _codec(text).decode(data, starts + FRAME_BYTES, ends, _WANTED)
    except BadRecord as error:
        error.where = error.where or topic
        raise
    children = {field.name: rows.field(i) for i, field in enumerate(rows.type)}
    return Batch(
        topic, schema, pa.RecordBatch.from_arrays(list(_batch_columns(topic, schema, children)), schema=columns(schema)), schema_id
    )


def frame(schema_id: int) -> bytes:
    """What stands before every datum: the magic byte and the schema's id. Reference: Confluent wire format."""
    return struct.pack(">bI", MAGIC, schema_id)


# Schema texts.


_TRANSACTION = {
    "type": "record",
    "name": "block",
    "namespace": "event",
    "connect.name": "event.block",
    "fields": [
        {"name": name, "type": kind} for name, kind in (("id", "string"), ("total_order", "long"), ("data_collection_order", "long"))
    ],
}


def _optional(name: str, avro: Any) -> dict[str, Any]:
    return {"name": name, "type": ["null", avro], "default": None}


_HOLE = {"type": "record", "name": "Hole", "fields": [{"name": name, "type": "string"} for name in ("image", "field", "why")]}
_MARK = {
    "type": "record",
    "name": "Mark",
    "fields": [
        {"name": "version", "type": "string"},
        _optional("backfill", "string"),
        _optional("cause", "string"),
        _optional("holes", {"type": "array", "items": _HOLE}),
    ],
}


def _source(namespace: str) -> dict[str, Any]:
    def required(avro: str, *names: str) -> list[dict[str, Any]]:
        return [{"name": name, "type": avro} for name in names]

    def optional(*names: str) -> list[dict[str, Any]]:
        return [_optional(name, "string") for name in names]

    return {
        "type": "record",
        "name": "Source",
        "connect.name": f"{namespace}.Source",
        "fields": [
            *required("string", "version", "connector", "name"),
            *required("long", "ts_ms", "ts_us", "ts_ns"),
            *optional("snapshot"),
            *required("string", "db"),
            *optional("sequence", "schema"),
            *required("string", "table"),
            *optional("txId"),
            *required("string", "position"),
        ],
    }


def _namespace(topic: str) -> str:
    return ".".join(legal_name(part) for part in topic.split("."))


@lru_cache(maxsize=256)
def _codec(text: str) -> Codec:
    return Codec(text)


# Columns.


def _source_columns(batch: Batch, origin: Origin, version_tag: str) -> Mapping[str, Any]:
    def text(value: str | None) -> pa.Scalar:
        return pa.scalar(value, pa.string())

    return {
        "version": text(version_tag),
        "connector": text(origin.connector),
        "name": text(origin.name),
        **_times(batch.column("ts_us")),
        "snapshot": batch.column("snapshot"),
        "db": text(origin.db),
        "sequence": text(None),
        "schema": text(origin.schema),
        "table": text(origin.table),
        "txId": batch.column("tx_id"),
        "position": batch.column("position"),
    }


def _times(micros: pa.Array) -> dict[str, pa.Array]:
    """Micros as ts_ms, ts_us and ts_ns. Nanoseconds past 64 bits (before 1678, after 2262) stay at the end of the scale."""
    values = np.asarray(micros.fill_null(0))
    nulls = np.asarray(micros.is_null()) if micros.null_count else None
    nanos = np.clip(values, -(_LONG_MAX // 1000), _LONG_MAX // 1000) * 1000
    return {"ts_ms": pa.array(values // 1000, mask=nulls), "ts_us": micros, "ts_ns": pa.array(nanos, mask=nulls)}


def _transaction_column(batch: Batch) -> pa.Array:
    ids, orders, table_orders = (batch.column(name) for name in ("tx_id", "tx_order", "tx_table_order"))
    null = np.asarray(pc.or_(pc.or_(ids.is_null(), orders.is_null()), table_orders.is_null()))
    fields = [pa.field("id", ids.type), pa.field("total_order", orders.type), pa.field("data_collection_order", table_orders.type)]
    if null.all():
        return pa.nulls(len(batch), pa.struct(fields))
    return pa.StructArray.from_arrays([ids, orders, table_orders], fields=fields, mask=pa.array(null))


def _check_frames(topic: str, schema_id: int, data: bytes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> None:
    def bad(rows: npt.NDArray[np.bool_], what: str) -> BadRecord:
        row = int(np.argmax(rows))
        return BadRecord(
            f"{what}, at byte {int(starts[row])} in row {row} of the batch",
            code="avro_malformed",
            where=topic,
            cure="read each record with the schema that its frame names",
        )

    if not len(starts):
        return
    if (short := ends - starts < FRAME_BYTES).any():
        raise bad(short, f"a record is shorter than its frame of {FRAME_BYTES} bytes")
    if starts[0] < 0 or starts.max() + FRAME_BYTES > len(data):
        raise ValueError(f"the records of {topic} do not lie inside {len(data)} bytes")
    octets = np.frombuffer(data, np.uint8)
    expected = np.frombuffer(frame(schema_id), np.uint8)
    for i in range(FRAME_BYTES):
        if (other := octets[starts + i] != expected[i]).any():
            raise bad(other, f"the frame is not that of schema {schema_id}")


def _batch_columns(topic: str, schema: RowSchema, envelope: Mapping[str, pa.Array]) -> Iterable[pa.Array]:
    """The columns of a batch, in order, from the fields of its envelopes."""
    source, transaction, mark = envelope["source"], envelope["transaction"], envelope["millstream"]
    if (known := pc.is_in(envelope["op"], _OPERATIONS)).true_count != len(known):
        row = known.index(False).as_py()
        raise BadRecord(
            f"op is {envelope['op'][row].as_py()!r} in row {row} of the batch, not c, u, d or r", code="avro_malformed", where=topic
        )
    try:
        incarnation, major, minor = version.parse_texts(mark.field("version"))
    except ValueError as error:
        raise BadRecord(f"millstream.version: {error}", code="avro_malformed", where=topic) from None
    orders = transaction.flatten()
    yield envelope["op"]
    yield relabelled(envelope["before"], schema.arrow)
    yield relabelled(envelope["after"], schema.arrow)
    yield from (pa.array(incarnation), pa.array(major), pa.array(minor))
    yield source.field("ts_us")
    yield envelope["ts_us"]
    yield source.field("txId")
    yield from orders
    yield source.field("position")
    yield source.field("snapshot")
    yield mark.field("backfill")
    yield mark.field("cause")
    yield mark.field("holes").cast(HOLES)
