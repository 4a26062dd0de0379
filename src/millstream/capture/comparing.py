"""`--reconcile`: a topic beside its table. Rows that the topic has as they are need no event; rows that only the topic has are deleted.

The table's rows are read chunk by chunk as in any backfill. Then the topic's keys are looked through, page by page, and the database
says which of them it has not, so that no order of keys and no collation has to be understood here. What it says holds at a read
point like any chunk's: a key that the stream touches before that place leaves the page. Design §5.7.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from millstream.capture import emptying
from millstream.capture.rowcopy import RowCopy, Rows
from millstream.events.batch import Batch
from millstream.events.fills import filled
from millstream.events.nested import mapped
from millstream.events.progress import Position
from millstream.events.types import UNKNOWN, Field, RowSchema
from millstream.topics.contract import Topic, Topics

PAGE_ROWS, PAGE_BYTES = 10_000, 4 << 20
PIECE_BYTES = 1 << 20
NEAR_RECORDS = 10_000


@dataclass(frozen=True)
class Page:
    """Rows of a topic in one schema, and the key (hex) up to which these are all there are; None: up to the end."""

    rows: pa.RecordBatch
    upto: str | None


def follows(copy: RowCopy, topics: Topics, topic: Topic) -> bool:
    """Lets the copy read on. False while it is far behind: the stream goes on between two pieces."""
    return all(topics.end(topic.name) - copy.next <= NEAR_RECORDS for _ in copy.follow(topics, PIECE_BYTES))


def page(copy: RowCopy, looked: str, schema: RowSchema, rows_max: int) -> Page:
    """The topic's next rows after the key `looked`, told in `schema`: what a row was never told is null."""
    limit, last = min(rows_max, PAGE_ROWS), bytes.fromhex(looked)
    found = copy.after(last, limit, PAGE_BYTES)
    # Where a page was the last one and full, nothing follows it: what comes before it is not looked through again.
    count, last = sum(len(r.keys) for r in found), max((k for r in found for k in r.keys), default=last)
    images = [_in_schema(r, schema) for r in found] or [pa.nulls(0, schema.arrow)]
    is_all = count < limit and not copy.after(last, 1, PAGE_BYTES)
    return Page(pa.RecordBatch.from_struct_array(pa.concat_arrays(images)), None if is_all else last.hex())


def _in_schema(rows: Rows, schema: RowSchema) -> pa.StructArray:
    told = {f.id: (i, f) for i, f in enumerate(rows.schema.fields)}
    columns = [_column(rows, f, told.get(f.id)) for f in schema.fields]
    return pa.StructArray.from_arrays(columns, fields=list(schema.arrow))


def _column(rows: Rows, now: Field, told: tuple[int, Field] | None) -> pa.Array:
    if told is None:
        return pa.nulls(len(rows.keys), now.type.arrow) if now.fill is UNKNOWN else filled(now, len(rows.keys))
    try:
        return mapped(rows.images.field(told[0]), told[1].type, now.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.nulls(len(rows.keys), now.type.arrow)


def deletes(
    copy: RowCopy, keys: pa.BinaryArray, topic: Topic, version: tuple[int, int], position: Position, backfill: str, read_us: int
) -> list[Batch]:
    """One `d` for each of the keys: its before is what the topic has there, in the schema in which it was told."""
    said = {"ts_us": read_us, "snapshot": "incremental", "backfill": backfill, "cause": "backfill", "position": str(position)}
    return [emptying.deletes(topic, r.schema, r.schema_id, r.images, r.holes, version, said) for r in copy.of(keys.to_pylist())]
