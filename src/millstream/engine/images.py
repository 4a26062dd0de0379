"""Row images as plain columns: between a batch's before/after structs and the flat tables that SQL and keys work on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.events.batch import Batch
from millstream.events.types import RowSchema

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def flat(image: pa.StructArray, names: Collection[str]) -> tuple[pa.Table, Indices]:
    """The images that are there as a table of the named columns, and the event of each (its index in the batch)."""
    present = pc.is_valid(image)
    events = np.flatnonzero(np.asarray(present)).astype(np.int64)
    columns = {f.name: image.field(i).filter(present) for i, f in enumerate(image.type) if f.name in names}
    return pa.table(columns) if columns else pa.table({"__ms_none": pa.nulls(len(events))}), events


def structs(rows: pa.Table, places: Indices, schema: RowSchema) -> pa.StructArray:
    """One struct per place: the row there, null where the place is -1. `rows` has the schema's columns, by name."""
    absent = places < 0
    take = pa.array(np.where(absent, 0, places), mask=absent)
    children = [_one_chunk(rows.column(f.name).take(take), f.type.arrow) for f in schema.fields]
    return pa.StructArray.from_arrays(children, fields=list(schema.arrow), mask=pa.array(absent))


def _one_chunk(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.nulls(0, array.type)
    return array if array.type == wanted else array.cast(wanted)


def conform(rows: pa.Table, schema: RowSchema) -> pa.Table:
    """A query's result in the schema's column types and order (DuckDB gives back wider text and integers)."""
    return pa.table([_one_chunk(rows.column(f.name), f.type.arrow) for f in schema.fields], names=list(schema.names))


def last_per_key(batches: Sequence[Batch]) -> tuple[pa.Table, pa.Table]:
    """What the events amount to: (keys that changed, rows that are live after), each key once.

    All batches have one topic and schema, in order. A key whose last event is a delete is in the first table only.
    """
    schema = batches[0].schema
    keys = pa.Table.from_batches([pa.RecordBatch.from_struct_array(b.keys()) for b in batches])
    after = pa.Table.from_batches([pa.RecordBatch.from_struct_array(b.column("after")) for b in batches])
    gone = pa.chunked_array([pc.is_null(b.column("after")) for b in batches])
    names = list(schema.key)
    numbered = keys.append_column("__ms_at", pa.array(np.arange(keys.num_rows, dtype=np.int64)))
    last = numbered.group_by(names, use_threads=False).aggregate([("__ms_at", "max")])
    at = last.column("__ms_at_max").combine_chunks()
    live = at.filter(pc.invert(gone.take(at)))
    return last.select(names), after.take(live)
