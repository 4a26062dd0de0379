"""A stateless step with changelog semantics: filter and project both images of each event. Design §5.4.

While before images are whole, a row that leaves the filter is a delete and one that enters is an insert; a changed
output key is a delete and an insert. Where they are not, each row that does not pass is told as a delete of its key.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.engine.images import Indices, Mask, conform, flat, structs
from millstream.engine.sql import Sql, quoted
from millstream.events.batch import CREATE, DELETE, READ, UPDATE, Batch, columns
from millstream.pipelines import reads
from millstream.pipelines.plan import Stateless

_INPUT = "__ms_images"
_ROW = "__ms_row"
_OPS = pa.array([CREATE, UPDATE, DELETE, READ])


def query(step: Stateless) -> str:
    """The step's SQL over a table of images; the image's number comes first."""
    outputs = ", ".join(f"({p.sql}) AS {quoted(p.name)}" for p in step.projections)
    where = f" WHERE {step.where}" if step.where else ""
    return f"SELECT {quoted(_ROW)}, {outputs} FROM {quoted(_INPUT)}{where}"


def key_query(step: Stateless) -> str:
    """Only the output's key columns, whether or not the row passes the filter."""
    outputs = ", ".join(f"({p.sql}) AS {quoted(p.name)}" for p in step.projections if p.name in step.schema.key)
    return f"SELECT {quoted(_ROW)}, {outputs} FROM {quoted(_INPUT)}"


def run(step: Stateless, batch: Batch, sql: Sql) -> Batch:
    """The events that `step` makes of `batch` (no gap behind it). Topic and version are the input's.

    Raises BadRecord naming topic, offset and key of the first row that the SQL fails on.
    """
    if not step.whole:
        return _by_key(step, batch, sql)
    count = len(batch)
    read = reads.of_stateless(step)  # the other columns never reach SQL
    before, before_events = flat(batch.column("before"), read)
    after, after_events = flat(batch.column("after"), read)
    images = pa.concat_tables([before, after])
    events = np.concatenate([before_events, after_events])
    numbered = images.append_column(_ROW, pa.array(np.arange(len(events), dtype=np.int64)))
    result = sql.select_rows(query(step), _INPUT, numbered, lambda row: place(batch, int(events[row])))
    image = np.asarray(result.column(_ROW)).astype(np.int64)
    rows = conform(result, step.schema)
    old, new = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    here = np.arange(len(image), dtype=np.int64)
    is_old = image < len(before_events)
    old[events[image[is_old]]] = here[is_old]
    new[events[image[~is_old]]] = here[~is_old]
    out = _events(batch, rows, old, new, step)
    misses = _unmatched_repairs(batch, old, new)
    return _with_key_deletes(out, step, batch, misses, sql) if misses.any() else out


def _by_key(step: Stateless, batch: Batch, sql: Sql) -> Batch:
    """Where before images are not whole: an event whose after passes is told without a before; any other as a delete of its key."""
    count, read = len(batch), reads.of_stateless(step)
    after, events = flat(batch.column("after"), read)
    numbered = after.append_column(_ROW, pa.array(np.arange(len(events), dtype=np.int64)))
    result = sql.select_rows(query(step), _INPUT, numbered, lambda row: place(batch, int(events[row])))
    rows = conform(result, step.schema)
    new = np.full(count, -1, np.int64)
    new[events[np.asarray(result.column(_ROW)).astype(np.int64)]] = np.arange(rows.num_rows, dtype=np.int64)
    gone = (new < 0) & ~_initial(batch)
    told = np.flatnonzero((new >= 0) | gone)
    keys = _keys_gone(step, batch, gone, sql)
    old = np.full(count, -1, np.int64)
    old[gone] = np.arange(keys.num_rows, dtype=np.int64)
    op = pc.if_else(pa.array(gone[told]), DELETE, batch.column("op").take(pa.array(told)))
    arrays = []
    for field in columns(step.schema):
        match field.name:
            case "op":
                arrays.append(op)
            case "before":
                arrays.append(structs(keys, old[told], step.schema))
            case "after":
                arrays.append(structs(rows, new[told], step.schema))
            case _:
                arrays.append(batch.column(field.name).take(pa.array(told)))
    arrays[-1] = pa.nulls(len(told), arrays[-1].type)  # holes are the input's, as in _events
    offsets = None if batch.offsets is None else batch.offsets[told]
    return Batch(batch.topic, step.schema, pa.RecordBatch.from_arrays(arrays, schema=columns(step.schema)), None, offsets)


def _keys_gone(step: Stateless, batch: Batch, gone: Mask, sql: Sql) -> pa.Table:
    """The output's key of each such event, its other columns null: from the after image, of a delete from the before image."""
    source = batch.filter(gone)
    read = reads.of_stateless(step)
    images, numbers = [], []
    for side in ("after", "before"):
        rows, events = flat(source.column(side), read)
        images.append(rows)
        numbers.append(events)
    first = np.concatenate(numbers)
    _, chosen = np.unique(first, return_index=True)
    table = pa.concat_tables(images).take(pa.array(chosen))
    numbered = table.append_column(_ROW, pa.array(np.arange(table.num_rows, dtype=np.int64)))
    return _key_images(step, numbered, sql)


def _key_images(step: Stateless, numbered: pa.Table, sql: Sql) -> pa.Table:
    """Rows that hold the output's key columns and nothing else, in the order of the images."""
    keys = sql.select(key_query(step), {_INPUT: numbered}).sort_by(_ROW)
    given = {
        f.name: keys.column(f.name) if f.name in step.schema.key else pa.nulls(keys.num_rows, f.type.arrow) for f in step.schema.fields
    }
    return conform(pa.table(given), step.schema)


def _initial(batch: Batch) -> Mask:
    """The reads of the initial load: before them nothing of their rows was told."""
    read = np.asarray(pc.equal(batch.column("op"), READ))
    initial: Mask = read & np.asarray(pc.fill_null(pc.equal(batch.column("snapshot"), "true"), False))
    return initial


def place(batch: Batch, event: int) -> str:
    """Topic, offset and key of one event, for an error."""
    key = {name: _shown(batch.keys().field(i)[event].as_py()) for i, name in enumerate(batch.schema.key)}
    at = "?" if batch.offsets is None else str(batch.offsets[event])
    return f"{batch.topic}@{at} key {key}"


def _shown(value: object) -> object:
    return value if isinstance(value, int | str | bool) else str(value)


def _events(batch: Batch, rows: pa.Table, old: Indices, new: Indices, step: Stateless) -> Batch:
    """Events from the images that passed: `old` and `new` are each event's rows, -1 where none did."""
    moved = _key_differs(rows, old, new, step.schema.key)
    repeats = ((old >= 0) | (new >= 0)).astype(np.int64) + moved
    source = np.repeat(np.arange(len(batch), dtype=np.int64), repeats)
    second = np.concatenate([[False], source[1:] == source[:-1]]) if len(source) else np.empty(0, bool)
    split = moved[source]
    o = np.where(split & second, -1, old[source])
    n = np.where(split & ~second, -1, new[source])
    read = np.asarray(pc.equal(batch.column("op"), READ))[source]
    code = np.select([n < 0, o >= 0, read], [2, 1, 3], 0)
    arrays = []
    for field in columns(step.schema):
        if field.name == "op":
            arrays.append(_OPS.take(pa.array(code)))
        elif field.name in ("before", "after"):
            arrays.append(structs(rows, o if field.name == "before" else n, step.schema))
        else:
            arrays.append(batch.column(field.name).take(pa.array(source)))
    # A hole says why a column of the *input* is null; columns were computed anew, so it no longer says so.
    arrays[-1] = pa.nulls(len(source), arrays[-1].type)
    offsets = None if batch.offsets is None else batch.offsets[source]
    rows_out = pa.RecordBatch.from_arrays(arrays, schema=columns(step.schema))
    return Batch(batch.topic, step.schema, rows_out, None, offsets)


def _key_differs(rows: pa.Table, old: Indices, new: Indices, key: tuple[str, ...]) -> Mask:
    both = np.flatnonzero((old >= 0) & (new >= 0))
    differs = np.zeros(len(old), bool)
    for name in key:
        column = rows.column(name)
        unequal = pc.not_equal(column.take(pa.array(old[both])), column.take(pa.array(new[both])))
        differs[both] |= np.asarray(pc.fill_null(unequal, True))
    return differs


def _unmatched_repairs(batch: Batch, old: Indices, new: Indices) -> Mask:
    """Reads that do not match the filter, unless of the initial load: a reader may hold a row of theirs that must go."""
    read = np.asarray(pc.equal(batch.column("op"), READ))
    missed: Mask = read & ~_initial(batch) & (new < 0)
    return missed


def _with_key_deletes(out: Batch, step: Stateless, batch: Batch, misses: Mask, sql: Sql) -> Batch:
    """`out` and, for each missed read, a delete whose before holds the key columns only. Per key the order stays."""
    rows, _ = flat(batch.filter(misses).column("after"), reads.of_stateless(step))
    numbered = rows.append_column(_ROW, pa.array(np.arange(rows.num_rows, dtype=np.int64)))
    images = structs(_key_images(step, numbered, sql), np.arange(numbered.num_rows, dtype=np.int64), step.schema)
    source = batch.filter(misses)
    arrays = [source.column(f.name) for f in columns(step.schema)]
    names = list(columns(step.schema).names)
    arrays[names.index("op")] = pa.repeat(DELETE, len(source))
    arrays[names.index("before")] = images
    arrays[names.index("after")] = pa.nulls(len(source), step.schema.arrow)
    deletes = pa.RecordBatch.from_arrays(arrays, schema=columns(step.schema))
    order = np.argsort(
        np.concatenate([_event_numbers(batch, out), np.flatnonzero(misses)]), kind="stable"
    )  # both lists are in the order of the input
    merged = pa.Table.from_batches([out.rows, deletes]).take(pa.array(order)).combine_chunks().to_batches()
    assert out.offsets is not None and source.offsets is not None
    return replace(out, rows=merged[0], offsets=np.concatenate([out.offsets, source.offsets])[order])


def _event_numbers(batch: Batch, out: Batch) -> Indices:
    """The input event of each output event: by offset, which the input must have."""
    assert batch.offsets is not None and out.offsets is not None
    return np.searchsorted(batch.offsets, out.offsets).astype(np.int64)
