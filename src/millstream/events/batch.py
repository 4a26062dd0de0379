"""The unit that flows: a batch of change events of one topic and one schema version, in Arrow columns.

A batch is immutable. Order inside it is the order of the topic. What is constant for a topic (connector,
database, table) is not repeated per row; `envelope.py` adds it on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.events.types import RowSchema

HOLES = pa.list_(pa.struct([("image", pa.string()), ("field", pa.string()), ("why", pa.string())]))

CREATE, UPDATE, DELETE, READ = "c", "u", "d", "r"

MERGED_MAX = 4_096
"""Events. Batches are not copied together beyond this: what a batch costs by itself is nothing by then."""


def columns(schema: RowSchema) -> pa.Schema:
    """The Arrow schema of `Batch.rows` for a row schema.

    op is c, u, d or r. incarnation, major, minor are the event's version. ts_us is the commit time at the source and
    processed_us when Millstream made the event (both microseconds since 1970). tx_* are null where the source
    gives no order. position is the source's own words; snapshot is null, "true" (initial load) or "incremental";
    backfill names the backfill; cause says why a row is said again (backfill, schema, resend, truncate).
    """
    return pa.schema(
        [
            pa.field("op", pa.string(), nullable=False),
            pa.field("before", schema.arrow),
            pa.field("after", schema.arrow),
            pa.field("incarnation", pa.uint32(), nullable=False),
            pa.field("major", pa.uint64(), nullable=False),
            pa.field("minor", pa.uint32(), nullable=False),
            pa.field("ts_us", pa.int64(), nullable=False),
            pa.field("processed_us", pa.int64()),
            pa.field("tx_id", pa.string()),
            pa.field("tx_order", pa.int64()),
            pa.field("tx_table_order", pa.int64()),
            pa.field("position", pa.string(), nullable=False),
            pa.field("snapshot", pa.string()),
            pa.field("backfill", pa.string()),
            pa.field("cause", pa.string()),
            pa.field("holes", HOLES),
        ]
    )


@dataclass(frozen=True)
class Batch:
    """Change events of one topic and schema version: `rows` has the columns that `columns(schema)` names.

    `schema_id` is the registry's id of the value schema, None until it is registered. `offsets` are the events'
    places in the topic partition (int64, rising, gaps where tombstones stand), None until they are published. `to` addresses the
    events to one pipeline: while the topic is whole there, others skip them (design §5.7).
    """

    topic: str
    schema: RowSchema
    rows: pa.RecordBatch
    schema_id: int | None = None
    offsets: npt.NDArray[np.int64] | None = None
    to: str | None = None

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def column(self, name: str) -> pa.Array:
        return self.rows.column(name)

    def filter(self, keep: npt.NDArray[np.bool_]) -> Batch:
        """The events where `keep` is true, in order."""
        offsets = None if self.offsets is None else self.offsets[keep]
        return replace(self, rows=self.rows.filter(pa.array(keep)), offsets=offsets)

    def slice(self, start: int, length: int | None = None) -> Batch:
        end = None if length is None else start + length
        offsets = None if self.offsets is None else self.offsets[start:end]
        return replace(self, rows=self.rows.slice(start, length), offsets=offsets)

    def with_schema_id(self, schema_id: int) -> Batch:
        return replace(self, schema_id=schema_id)

    def keys(self) -> pa.StructArray:
        """The key of every event: from after, or before where the row is gone. Shape: struct of the key columns."""
        before, after = self.column("before"), self.column("after")
        gone = pc.is_null(after)
        children = [pc.if_else(gone, _child(before, self.schema, name), _child(after, self.schema, name)) for name in self.schema.key]
        return pa.StructArray.from_arrays(children, fields=[pa.field(f.name, f.type.arrow) for f in self.schema.key_fields])

    @property
    def nbytes(self) -> int:
        return int(self.rows.nbytes)


def _child(image: pa.StructArray, schema: RowSchema, name: str) -> pa.Array:
    # flatten() would copy all children and apply the parent's nulls; the key needs one child, and where the parent is
    # null the other image is taken.
    return pc.struct_field(image, [schema.names.index(name)])


def merged(batches: Iterable[Batch]) -> list[Batch]:
    """The same events in the same order, in fewer batches: small ones that stand side by side and are alike become one. What is done
    with a batch costs about as much for one event as for hundreds."""
    runs: list[list[Batch]] = []
    events = 0
    for b in batches:
        if runs and events + len(b) <= MERGED_MAX and _alike(runs[-1][-1], b):
            runs[-1].append(b)
            events += len(b)
        else:
            runs.append([b])
            events = len(b)
    return [_one(run) if len(run) > 1 else run[0] for run in runs]


def _alike(a: Batch, b: Batch) -> bool:
    same = (a.topic, a.schema_id, a.to, a.offsets is None) == (b.topic, b.schema_id, b.to, b.offsets is None)
    return same and a.schema == b.schema


def _one(run: Sequence[Batch]) -> Batch:
    offsets = [b.offsets for b in run if b.offsets is not None]
    rows = pa.concat_batches([b.rows for b in run])
    return replace(run[0], rows=rows, offsets=np.concatenate(offsets) if offsets else None)


def batch(topic: str, schema: RowSchema, given: Mapping[str, Any], schema_id: int | None = None) -> Batch:
    """A batch from the columns that are known; the nullable rest is null.

    `given` maps column names to Arrow arrays, numpy arrays or sequences of equal length. Raises ValueError on a
    column that is missing and may not be null, or has another length.
    """
    wanted = columns(schema)
    rows = len(given["op"])
    arrays = []
    for field in wanted:
        value = given.get(field.name)
        if value is None:
            if not field.nullable:
                raise ValueError(f"column {field.name} is missing")
            array = pa.nulls(rows, field.type)
        else:
            array = value if isinstance(value, pa.Array) else pa.array(value, type=field.type)
        if len(array) != rows:
            raise ValueError(f"column {field.name} has {len(array)} values, op has {rows}")
        arrays.append(array)
    return Batch(topic, schema, pa.RecordBatch.from_arrays(arrays, schema=wanted), schema_id)
