"""Chunks of a backfill: rows in key order, as the table was at a time that the stream has passed. Design §5.7.

A chunk is read as of the table's place, where all that was committed before it was given. So its rows are never older than what
the stream gave up to there, and never newer than what it gives from there on: each row's version is the place itself.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.errors import Refused, Retryable
from millstream.events.batch import HOLES, Batch
from millstream.events.types import RowSchema
from millstream.sources import resuming
from millstream.sources.cockroach import scopes, statements
from millstream.sources.cockroach.decode import Decoder, Messages
from millstream.sources.cockroach.derived import Derived, Stopped
from millstream.sources.cockroach.describe import Catalogue, Past, Shape
from millstream.sources.cockroach.described import Described
from millstream.sources.cockroach.failures import LOST
from millstream.sources.cockroach.hlc import Hlc
from millstream.sources.cockroach.session import Session
from millstream.sources.contract import Chunk, Scope
from millstream.sources.names import TableName

ROW_BYTES_UNKNOWN = 1024
KEYS_AT_ONCE = 1000


class Chunks:
    """Reads chunks of at most about `bytes_max`. `stopped` ends one that is being read."""

    def __init__(
        self, session: Session, catalogue: Catalogue, derived: Mapping[str, Derived], bytes_max: int, stopped: Callable[[], bool]
    ) -> None:
        self._session, self._catalogue, self._derived = session, catalogue, derived
        self._bytes_max, self._stopped = bytes_max, stopped
        self._row_bytes: dict[str, int] = {}
        self._shapes: dict[int, tuple[tuple[Any, ...], Shape]] = {}

    def read(self, written: str, oid: int, at: Hlc, past: Past, after: list[Any] | None, rows_max: int, scope: Scope) -> Chunk | None:
        """The next rows of the scope after the place `after`, as of `at`. None where that is too long ago by now.

        Raises Refused where the table is gone or its key has another width, or the scope cannot be read.
        """
        read_us = time.time_ns() // 1000
        where, derived = f"{self._session.where} {written}", self._derived[written]
        with scopes.explained(scope, where):
            try:
                shape = self._shape(written, oid, at)
                order = scopes.order(shape)
                after = resuming.key_of(after, order)
                if after is not None and len(after) != len(shape.reading):
                    raise self._changed(written)
                limit = max(1, min(rows_max, self._bytes_max // self._row_bytes.get(written, ROW_BYTES_UNKNOWN)))
                described = self._described(written, shape, at, past)
                within = [*derived.within(shape), *scopes.within(scope, derived.told(shape), where)]
                begun = [] if after is None else [statements.beyond(shape.reading, after)]
                upto = self._step(shape, at, begun, limit) if scope.where is not None or derived.within(shape) else None
                ended = [] if upto is None else [statements.beyond(shape.reading, upto, backward=True, inclusive=True)]
                found, whole = self._rows(shape, described, at, [*begun, *ended, *within], limit)
            except Retryable as error:
                if error.code != LOST:
                    raise
                return None
        if found:
            self._row_bytes[written] = max(1, sum(len(row[0] or b"") for row in found) // len(found))
        rows, holes = self._decoded(described, at, [row[0] or b"" for row in found])
        if derived.condition is not None:
            keep = pa.array(derived.holds(rows, described.schema, holes, "after"))
            rows, holes = rows.filter(keep), None if holes is None else holes.filter(keep)
        is_all = whole and len(found) < limit  # of what lies up to the end of the step
        last = [(value or b"").decode() for value in found[-1][1:]] if found else after
        return Chunk(
            table=written,
            schema=derived.schema(described.schema),
            rows=derived.projected(rows, described.schema),
            mark=uuid.uuid4().hex,
            newer=lambda live: newer(at, live),
            last_key=resuming.place(upto if is_all and upto is not None else last, order),
            done=is_all and upto is None,
            read_us=read_us,
            holes=derived.holes(holes, described.schema),
            read_point=(at.wall, at.logical),
        )

    def admits(self, written: str, oid: int, scope: Scope) -> int:
        """About how many rows the scope has. Raises Refused("bad_scope")."""
        where = f"{self._session.where} {written}"
        with scopes.explained(scope, where):
            shape = self._shape(written, oid, None)
            key = scopes.key_columns(shape)
            within = scopes.within(scope, self._derived[written].told(shape), where)
            given = [*(scope.keys or ()), *(end for end in (scope.first, scope.last) if end is not None)]
            for values in dict.fromkeys(given):
                self._session.rows(statements.cast(values, key[: len(values)]))
            if within:
                self._session.rows(statements.tried(_name(written, shape), within))
            return len(set(scope.keys)) if scope.keys is not None else self._catalogue.estimate(_name(written, shape))

    def absent(self, written: str, oid: int, at: Hlc, past: Past, schema: RowSchema, rows: pa.RecordBatch, scope: Scope) -> Chunk | None:
        """Of `rows` those of the scope whose key no row has as of `at`; see `sources.contract`. None as `read`."""
        read_us = time.time_ns() // 1000
        where = f"{self._session.where} {written}"
        with scopes.explained(scope, where):
            try:
                shape = self._shape(written, oid, at)
                described = self._described(written, shape, at, past)
                if described.schema.key != schema.key:
                    said = f"the key is ({', '.join(described.schema.key)}) now, not ({', '.join(schema.key)})"
                    raise Refused(said, code="table_changed", where=where)
                # What an outbox no longer has was sent, and stays told.
                gone = [
                    start + i
                    for start in range(0, 0 if self._derived[written].outbox else rows.num_rows, KEYS_AT_ONCE)
                    for i in self._absent(shape, described, at, schema, rows.slice(start, KEYS_AT_ONCE), scope, where)
                ]
            except Retryable as error:
                if error.code != LOST:
                    raise
                return None
        return Chunk(
            table=written,
            schema=schema,
            rows=rows.take(pa.array(gone, pa.int64())),
            mark=uuid.uuid4().hex,
            newer=lambda live: newer(at, live),
            last_key=None,
            done=True,
            read_us=read_us,
            read_point=(at.wall, at.logical),
        )

    def _absent(
        self, shape: Shape, described: Described, at: Hlc, schema: RowSchema, rows: pa.RecordBatch, scope: Scope, where: str
    ) -> list[int]:
        taken, derived = set(range(rows.num_rows)), self._derived[described.name]
        if not scope.is_whole:
            told = derived.told(shape)
            names = list(dict.fromkeys([*schema.key, *scopes.read_columns(scope, told, schema, where)]))
            given = scopes.texts(rows, schema, names)
            placed = statements.placed(given, scopes.columns(shape, names), scopes.within(scope, told, where))
            taken = {int(place) for (place,) in self._session.rows(placed)}
        key = scopes.key_columns(shape)
        keys = [[value or "" for value in row] for row in scopes.texts(rows, schema, schema.key)]
        there = described
        if derived.condition is None:
            columns = tuple(c for c in described.columns if c.id in described.key)
            there = Described(described.name, columns, described.key, described.key_width, at)
        within = [statements.one_of(keys, key), *derived.within(shape)]
        asked = statements.chunk(_name(described.name, shape), _columns(shape, there), key, str(at), within=within)
        found, _ = self._session.texts(asked, 1 << 40, self._stopped)
        present, holes = self._decoded(there, at, [row[0] or b"" for row in found])
        present = present.filter(pa.array(derived.holds(present, there.schema, holes, "after")))
        have = set(scopes.exact(present, there.schema, schema.key))
        return [i for i, values in enumerate(scopes.exact(rows, schema, schema.key)) if i in taken and values not in have]

    # ---- parts of them

    def _shape(self, written: str, oid: int, at: Hlc | None) -> Shape:
        """The table as it was then; asked for anew only where its outline differs from the last one."""
        outline = self._catalogue.outlines([oid], at).get(oid)
        known = self._shapes.get(oid)
        if outline is not None and (known is None or known[0] != outline):
            shape = self._catalogue.shapes([oid], at).get(oid)
            known = None if shape is None else (outline, shape)
            if known is not None:
                self._shapes[oid] = known
        if outline is None or known is None:
            raise self._changed(written)
        return known[1]

    def _changed(self, written: str) -> Refused:
        return Refused(f"{written} has changed: it is gone, or has another key", code="table_changed", where=self._session.where)

    def _step(self, shape: Shape, at: Hlc, begun: Sequence[str], limit: int) -> list[Any] | None:
        """The key up to which a chunk looks; None: to the end. A condition that few rows fulfil would look through the whole table for one
        chunk, and the stream would wait: so at most `limit` rows are looked at."""
        asked = statements.key_at(_name("", shape), shape.reading, str(at), within=begun, rows=limit)
        found, _ = self._session.texts(asked, self._bytes_max, self._stopped)
        return [(value or b"").decode() for value in found[0]] if found else None

    def _described(self, written: str, shape: Shape, at: Hlc, past: Past) -> Described:
        try:
            return self._derived[written].described(past.described(shape, written, at))
        except Stopped as stop:
            raise Refused(stop.why.message, code="table_changed", where=stop.why.where, cure=stop.why.cure) from None

    def _rows(
        self, shape: Shape, described: Described, at: Hlc, within: Sequence[str], limit: int
    ) -> tuple[list[list[bytes | None]], bool]:
        asked = statements.chunk(_name("", shape), _columns(shape, described), shape.reading, str(at), within=within, rows=limit)
        return self._session.texts(asked, 2 * self._bytes_max, self._stopped)

    def _decoded(self, described: Described, at: Hlc, rows: Sequence[bytes]) -> tuple[pa.RecordBatch, pa.Array | None]:
        """The rows in columns, and what the columns' types could not hold: by the feed's own decoder."""
        schema = described.schema
        if not rows:
            return pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in schema.arrow], schema=pa.schema(list(schema.arrow))), None
        decoder = Decoder(lambda _topic, _at: described, self._session.where)
        decoder.know(described.name, described)
        key = json.dumps([None] * described.key_width).encode()
        times = f'"mvcc_timestamp": "{at}", "updated": "{at}"'.encode()
        values = [b'{"after": ' + row + b', "before": null, ' + times + b"}" for row in rows]
        told = decoder.decode(Messages([described.name] * len(rows), [key] * len(rows), values))
        for _, why in told.aside:
            raise why
        (batch,) = told.batches
        after = batch.column("after")
        images = pa.RecordBatch.from_arrays([*after.flatten()], schema=pa.schema(list(batch.schema.arrow)))
        holes = batch.column("holes")
        return images, None if holes.null_count == len(holes) else holes.cast(HOLES)


def newer(at: Hlc, live: Batch) -> npt.NDArray[np.bool_]:
    """For each live event, whether it is above the read point."""
    major, minor = np.asarray(live.column("major")), np.asarray(live.column("minor"))
    above: npt.NDArray[np.bool_] = (major > at.wall) | ((major == at.wall) & (minor > at.logical))
    return above


def _name(written: str, shape: Shape) -> TableName:
    return TableName(written, shape.schema, shape.table)


def _columns(shape: Shape, described: Described) -> list[tuple[str, bool]]:
    """Those that are read, each with whether it is JSONB."""
    read = {c.id for c in described.columns}
    return [(c.name, c.sql_type.upper() in ("JSONB", "JSON")) for c in shape.told if c.number in read]
