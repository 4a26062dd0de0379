"""Whole before images, and values that the log leaves out, from a copy of the rows: `before: keep`.

A log that tells only the key of an old row, and no value that is stored out of line and did not change, is completed here: the
row that stood there is in the copy (`rowcopy`), or came earlier in the batch. A row that the topic does not have yet, because
the load has not come to it, has no before: its update is its create, its delete is nobody's. Where a value is neither in the
log nor known, the event is left to the backfill that is still to read the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.capture.rowcopy import RowCopy, Rows, key_bytes
from millstream.errors import Irrecoverable
from millstream.events.batch import CREATE, DELETE, HOLES, UPDATE, Batch
from millstream.events.fills import filled
from millstream.events.nested import mapped
from millstream.events.types import UNKNOWN, RowSchema

UNAVAILABLE = "unavailable"
"""Why a hole is there that another image may fill."""

Hole = dict[str, str]


@dataclass(frozen=True)
class Completed:
    """`left` events are left to a backfill; `again`: one of them is a row that the backfill may have passed already."""

    batch: Batch
    orphans: int
    left: int
    again: bool


@dataclass
class _Pool:
    """Rows that images are made of: first those of the copy, then those of the batch itself, then those of an open chunk.

    `lacks` has for a row the fields of which it says nothing that holds now; `holes` what it could not hold.
    """

    images: list[pa.StructArray] = field(default_factory=list)
    lacks: dict[int, set[str]] = field(default_factory=dict)
    holes: dict[int, list[Hole]] = field(default_factory=dict)
    size: int = 0

    def add(self, images: pa.StructArray) -> int:
        """Where they begin."""
        first, self.size = self.size, self.size + len(images)
        self.images.append(images)
        return first

    def column(self, place: int) -> pa.Array:
        return pa.concat_arrays([i.field(place) for i in self.images])


def complete(batch: Batch, copy: RowCopy, chunk: tuple[Mapping[bytes, int], pa.StructArray, npt.NDArray[np.bool_]] | None) -> Completed:
    """The batch's events with all that is known. `chunk`: key → row of an open chunk in the batch's schema, and for each event whether
    the chunk did not see it (then the chunk has what the row was before)."""
    count, schema = len(batch), batch.schema
    keys = key_bytes(batch)
    ops: list[str] = batch.column("op").to_pylist()
    said: list[list[Hole] | None] = batch.column("holes").to_pylist()
    versions = list(zip(batch.column("major").to_pylist(), batch.column("minor").to_pylist(), strict=True))
    pool, standing = _Pool(), dict[bytes, int | None]()
    for rows in copy.of(keys):
        _add_copy(pool, standing, rows, schema)
    mine = pool.add(batch.column("after"))
    theirs = pool.add(chunk[1]) if chunk is not None else 0

    source = {name: np.arange(pool.size) for name in schema.names}
    before = np.full(count, -1, np.int64)
    drop = np.zeros(count, np.bool_)
    orphans = left = 0
    again = False
    origin: int | None = None
    for i, (key, op) in enumerate(zip(keys, ops, strict=True)):
        stood = standing.get(key)
        moved = op == CREATE and i > 0 and ops[i - 1] == DELETE and versions[i - 1] == versions[i]
        origin = origin if moved else stood
        if op == DELETE:
            standing[key] = None
            if stood is None:
                drop[i], orphans = True, orphans + 1
            else:
                before[i] = stood
            continue
        pool.holes[mine + i] = [h for h in said[i] or () if h["image"] == "after" and h["why"] != UNAVAILABLE]
        seen = chunk[0].get(keys[i - 1] if moved else key) if chunk is not None and chunk[2][i] else None
        for hole in said[i] or ():
            if hole["image"] == "after" and hole["why"] == UNAVAILABLE:
                name = hole["field"]
                found = next((p for p in (origin, None if seen is None else theirs + seen) if _has(pool, p, name)), None)
                if found is None:
                    drop[i] = True
                    break
                source[name][mine + i] = source[name][found]
                pool.holes[mine + i] += [h for h in pool.holes.get(found, ()) if h["field"] == name]
        if drop[i]:
            left, again = left + 1, again or moved
            continue
        if op == UPDATE and stood is None:
            ops[i] = CREATE
        elif op == UPDATE and stood is not None:
            before[i] = stood
        standing[key] = mine + i
    return Completed(_made(batch, pool, mine, source, before, ops, drop), orphans, left, again)


def unavailable(table: str, left: int, where: str) -> Irrecoverable:
    """Of events that no backfill is to read the rows of."""
    return Irrecoverable(
        f"{left} changed rows of {table} have a value that did not change, is stored out of line, and is not in the copy",
        code="toast_unavailable",
        where=f"{where} {table}",
        cure="where a schema backfill is offered, let it start (`schema_backfill: start`); else begin again under another name",
    )


def _add_copy(pool: _Pool, standing: dict[bytes, int | None], rows: Rows, schema: RowSchema) -> None:
    """Rows of the copy in the batch's schema: fields by id, cast, filled; and of which fields they say nothing."""
    told = {f.id: (i, f) for i, f in enumerate(rows.schema.fields)}
    children, lacking = [], set[str]()
    for f in schema.fields:
        place, was = told.get(f.id, (None, None))
        if was is None or (was.type != f.type and f.fill is UNKNOWN):
            if f.fill is UNKNOWN:
                lacking.add(f.name)
                children.append(pa.nulls(len(rows.keys), f.type.arrow))
            else:
                children.append(filled(f, len(rows.keys)))
            continue
        try:
            children.append(mapped(rows.images.field(place), was.type, f.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            lacking.add(f.name)
            children.append(pa.nulls(len(rows.keys), f.type.arrow))
    first = pool.add(pa.StructArray.from_arrays(children, fields=list(schema.arrow)))
    names = {f.name: schema_name for f in rows.schema.fields for schema_name in [g.name for g in schema.fields if g.id == f.id]}
    for i, (key, holes) in enumerate(zip(rows.keys, rows.holes, strict=True)):
        standing[key] = first + i
        if lacking:
            pool.lacks[first + i] = lacking
        if holes:
            pool.holes[first + i] = [{**h, "field": names[h["field"]]} for h in holes if h["field"] in names]


def _has(pool: _Pool, row: int | None, name: str) -> bool:
    return row is not None and name not in pool.lacks.get(row, ())


def _made(
    batch: Batch,
    pool: _Pool,
    mine: int,
    source: Mapping[str, npt.NDArray[np.int64]],
    before: npt.NDArray[np.int64],
    ops: Sequence[str],
    drop: npt.NDArray[np.bool_],
) -> Batch:
    count, schema = len(batch), batch.schema
    gone = np.asarray(batch.column("after").is_null())
    absent = before < 0
    olds, news = [], []
    for place, name in enumerate(schema.names):
        column, come_from = pool.column(place), source[name]
        news.append(column.take(pa.array(come_from[mine : mine + count])))
        olds.append(column.take(pa.array(come_from[np.where(absent, 0, before)])))
    fields = list(schema.arrow)
    columns: dict[str, Any] = {
        "op": pa.array(ops, pa.string()),
        "before": pa.StructArray.from_arrays(olds, fields=fields, mask=pa.array(absent)),
        "after": pa.StructArray.from_arrays(news, fields=fields, mask=pa.array(gone)),
        "holes": pa.array([_holes(pool, mine + i, None if absent[i] else int(before[i]), bool(gone[i])) for i in range(count)], HOLES),
    }
    arrays = [columns.get(f.name, batch.column(f.name)) for f in batch.rows.schema]
    whole = replace(batch, rows=pa.RecordBatch.from_arrays(arrays, schema=batch.rows.schema))
    return whole.filter(~drop) if drop.any() else whole


def _holes(pool: _Pool, after: int, before: int | None, gone: bool) -> list[Hole] | None:
    found = [] if gone else [{"image": "after", "field": h["field"], "why": h["why"]} for h in pool.holes.get(after, ())]
    if before is not None:
        found += [{"image": "before", "field": h["field"], "why": h["why"]} for h in pool.holes.get(before, ())]
        found += [{"image": "before", "field": name, "why": UNAVAILABLE} for name in sorted(pool.lacks.get(before, ()))]
    return found or None
