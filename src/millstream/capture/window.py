"""Windows: what lets a chunk of a backfill in. Invariant 2.

A window is opened with a chunk, whose read point lies ahead in the stream. Every event that the stream gives until
then and that the chunk's read did not see takes its key (old and new) out of the chunk. At the read point the rows
that are left are appended, as reads with the read point as their version.

Where the chunk names its read point, that lies behind: the keys that the topic has there or above before the chunk is read are taken
out at once, and the mark says no more than that the stream went on. Versions tell there what is newer, whatever the columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.capture.backfill import Backfill
from millstream.capture.rowcopy import row_keys
from millstream.capture.versions import same_columns
from millstream.events.batch import READ, Batch, batch
from millstream.events.types import RowSchema
from millstream.sources.contract import WHOLE, Chunk, Scope


@dataclass(frozen=True)
class Window:
    """An open window: the chunk with the rows that are still in, of the `backfill` kept under `slot`; their keys, and whether its
    table's schema changed meanwhile. `whole` is what the backfill reads, of which the chunk's scope is the next part.

    `compares`: the chunk was compared with the topic; what the stream says of a key after that, it says better, so each event takes its
    key out, seen or not. `gone`: its rows are those of the topic that the table does not have, up to the key `upto` (hex; None: the last).
    `unfit`: the table has another key than the topic: when the stream has passed the read point, all that it had under the old key is told.
    """

    chunk: Chunk
    topic: str
    slot: str
    backfill: str
    keys: pa.BinaryArray
    spoiled: bool = False
    whole: Scope = WHOLE
    read: int = 0
    compares: bool = False
    gone: bool = False
    upto: str | None = None
    unfit: bool = False

    @classmethod
    def over(cls, chunk: Chunk, topic: str, backfill: Backfill, whole: Scope = WHOLE) -> Window:
        keys = _keys_of(chunk.rows, chunk.schema, topic)
        return cls(chunk, topic, backfill.slot, backfill.name, keys, False, whole, chunk.rows.num_rows, backfill.reconcile)

    @classmethod
    def beside(cls, chunk: Chunk, topic: str, backfill: Backfill) -> Window:
        """Over none of its rows."""
        empty = replace(chunk, rows=chunk.rows.slice(0, 0), holes=None)
        return cls(empty, topic, backfill.slot, backfill.name, pa.array([], pa.binary()), unfit=True)

    def see(self, live: Batch) -> Window:
        """The window after the stream gave `live`, a batch of this window's table."""
        if not len(live) or self.unfit:
            return self
        if self.chunk.read_point is None and not self.gone and not same_columns(live.schema, self.chunk.schema):
            # The table changed between the read and the read point: rows of both shapes cannot be told apart by key alone.
            newer = self.chunk.newer(live)
            return replace(self, spoiled=True) if newer.any() else self
        newer = np.ones(len(live), np.bool_) if self.compares else self.chunk.newer(live)
        if not newer.any():
            return self
        gone = pa.concat_arrays(
            [images.drop_null() for images in (_key_bytes(live.filter(newer), side, self.topic) for side in ("before", "after"))]
        )
        return self.keeping(pc.invert(pc.is_in(self.keys, value_set=gone)))

    def keeping(self, keep: pa.BooleanArray) -> Window:
        """The window with these rows of its chunk alone."""
        holes = None if self.chunk.holes is None else self.chunk.holes.filter(keep)
        chunk = replace(self.chunk, rows=self.chunk.rows.filter(keep), holes=holes)
        return replace(self, chunk=chunk, keys=self.keys.filter(keep))

    def emptied(self, by: Batch) -> Window:
        """The window after the stream truncated its table: `by` is an event of that message. What the chunk's read saw is gone, unless it
        read after it."""
        if self.unfit or (not self.gone and not self.chunk.newer(by).all()):
            return self
        holes = None if self.chunk.holes is None else self.chunk.holes.slice(0, 0)
        return replace(self, chunk=replace(self.chunk, rows=self.chunk.rows.slice(0, 0), holes=holes), keys=self.keys.slice(0, 0))

    def seen_by_key(self, live: Batch) -> tuple[Mapping[bytes, int], pa.StructArray, npt.NDArray[np.bool_]] | None:
        """The chunk's rows by their keys, and which events of `live` it did not see: of those it has what their rows were before the
        first. None where the columns are others."""
        if self.gone or self.unfit or not same_columns(live.schema, self.chunk.schema):
            return None
        by_key = {key: i for i, key in enumerate(self.keys.to_pylist())}
        return by_key, pa.StructArray.from_arrays(self.chunk.rows.columns, fields=list(self.chunk.schema.arrow)), self.chunk.newer(live)

    def rows(self, major: int, minor: int, *, backfill: Backfill, incarnation: int, position: str, now_us: int) -> Batch:
        """The rows that are left, as `r` events at the read point."""
        rows = self.chunk.rows
        count = rows.num_rows
        image = pa.StructArray.from_arrays(rows.columns, fields=list(self.chunk.schema.arrow))
        made = batch(
            self.topic,
            self.chunk.schema,
            {
                "op": pa.repeat(READ, count),
                "after": image,
                "incarnation": np.full(count, incarnation, np.uint32),
                "major": np.full(count, major, np.uint64),
                "minor": np.full(count, minor, np.uint32),
                "ts_us": np.full(count, self.chunk.read_us, np.int64),
                "processed_us": np.full(count, now_us, np.int64),
                "position": pa.repeat(position, count),
                "snapshot": pa.repeat("true" if backfill.is_load else "incremental", count),
                "backfill": pa.repeat(backfill.name, count),
                "cause": pa.repeat(backfill.cause, count),
                "holes": self.chunk.holes,
            },
        )
        return replace(made, to=backfill.to)


def _key_bytes(live: Batch, side: str, topic: str) -> pa.Array:
    """Canonical key bytes of one side's images, null where there is no image."""
    image = live.column(side)
    present = pc.is_valid(image)
    rows = pa.RecordBatch.from_struct_array(image.filter(present))
    return _keys_of(rows, live.schema, topic)


def _keys_of(rows: pa.RecordBatch, schema: RowSchema, topic: str) -> pa.BinaryArray:
    return row_keys([rows.column(schema.names.index(name)) for name in schema.key], rows.num_rows, schema, topic)
