"""Chunks of a backfill: rows in key order, with what is needed to place them in the stream. Design §5.7.

The rows and the snapshot that saw them are read in one REPEATABLE READ transaction, which has the table's lock before it has the
snapshot; then a message goes into the log,
whose place is the read point. What the stream gives until there is judged by transaction, not by place (`snapshots`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.errors import Irrecoverable, Refused
from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.sources import resuming
from millstream.sources.contract import Chunk, Scope
from millstream.sources.images import Hole, holes_column, unfit_key
from millstream.sources.names import TableName
from millstream.sources.postgres import copytext, scopes
from millstream.sources.postgres.describe import Catalogue, Described
from millstream.sources.postgres.failures import STATEMENT
from millstream.sources.postgres.fills import Fills
from millstream.sources.postgres.messages import MARK_PREFIX
from millstream.sources.postgres.session import Session
from millstream.sources.postgres.snapshots import Snapshot, Xids
from millstream.sources.postgres.values import convert

ROW_BYTES_UNKNOWN = 1024


class Chunks:
    """Reads chunks of at most about `bytes_max`. `stopped` ends one that is being read."""

    def __init__(self, session: Session, catalogue: Catalogue, bytes_max: int, stopped: Callable[[], bool]) -> None:
        self._session, self._catalogue = session, catalogue
        self._bytes_max, self._stopped = bytes_max, stopped
        self._row_bytes: dict[TableName, int] = {}

    def read(self, name: TableName, after: list[Any] | None, rows_max: int, unseen: Xids, fills: Fills, scope: Scope) -> Chunk | None:
        """The next rows of the scope after the place `after`. None where one of `unseen`, which the stream has given, is not
        visible: rows as they were before it would come after it.

        Raises Refused where the table is gone or its key has another width now, or the scope cannot be read.
        """
        with self._reading(name, scope) as snapshot:
            read_us = time.time_ns() // 1000
            if not visible(snapshot, unseen).all():
                return None
            table = self._table(name)
            order = scopes.order(table)
            after = resuming.key_of(after, order)
            if after is not None and len(after) != len(table.key):
                raise self._changed(name)
            limit = min(rows_max, self._rows_in(table))
            within = scopes.condition(scope, table, self._session)
            upto = scopes.step(scope, within, table, after, limit, self._session)
            statement = scopes.rows_of(table, within, after, upto, limit)
            rows, whole = self._session.copy_out(statement, 2 * self._bytes_max, self._stopped)
        if rows:
            self._row_bytes[name] = max(1, sum(map(len, rows)) // len(rows))
        batch, last_key, holes = self._typed(table, rows)
        is_all = whole and len(rows) < limit  # of what lies up to the end of the step
        return self._placed(
            Chunk(
                table=name.written,
                schema=table.schema_with(fills.look(table)),
                rows=batch,
                mark="",
                newer=lambda live: newer(snapshot, live),
                last_key=resuming.place(upto if is_all and upto is not None else last_key if rows else after, order),
                done=is_all and upto is None,
                read_us=read_us,
                holes=holes,
            )
        )

    def _placed(self, chunk: Chunk) -> Chunk:
        """With its mark in the log, behind what was read."""
        mark = uuid.uuid4().hex
        self._session.emit(MARK_PREFIX, mark)
        return replace(chunk, mark=mark)

    def _where(self, name: TableName) -> str:
        return f"{self._session.where} {name.written}"

    def _table(self, name: TableName) -> Described:
        table = self._catalogue.table(name)
        if table is None or not table.key:
            raise self._changed(name)
        return table

    def _changed(self, name: TableName) -> Refused:
        return Refused(f"{name.written} has changed: it is gone, or has another key", code="table_changed", where=self._session.where)

    @contextmanager
    def _reading(self, name: TableName, scope: Scope) -> Iterator[Snapshot]:
        """A transaction in which the table stays as it is, and its snapshot. Raises Refused where the table is gone."""
        relation = scopes.relation(name, partitioned=self._catalogue.is_partitioned(name))
        with self._session.reading(), scopes.explained(scope, self._where(name)):
            try:
                self._session.lock(relation)
            except Irrecoverable as error:
                if error.code != STATEMENT:
                    raise
                raise self._changed(name) from None
            yield self._session.snapshot()

    def admits(self, name: TableName, scope: Scope) -> int:
        """About how many rows the scope has. Raises Refused."""
        with self._session.reading(), scopes.explained(scope, self._where(name)):
            table = self._table(name)
            within = scopes.condition(scope, table, self._session)
            return max(0, table.rows) if within is None else scopes.estimate(scope, within, table, self._session)

    def absent(self, name: TableName, schema: RowSchema, rows: pa.RecordBatch, scope: Scope, unseen: Xids) -> Chunk | None:
        """Of `rows` those of the scope whose key no row has; see `sources.contract`. None as `read`."""
        with self._reading(name, scope) as snapshot:
            read_us = time.time_ns() // 1000
            if not visible(snapshot, unseen).all():
                return None
            table = self._table(name)
            found = self._session.rows(scopes.absent(table, schema, rows, scopes.condition(scope, table, self._session), scope))
        gone = rows.take(pa.array([int(i) for (i,) in found], pa.int64()))
        return self._placed(Chunk(name.written, schema, gone, "", lambda live: newer(snapshot, live), None, True, read_us))

    def _rows_in(self, table: Described) -> int:
        """How many rows a chunk may have: by the width of those read last, else by the server's estimate."""
        width = self._row_bytes.get(table.name) or table.row_bytes or ROW_BYTES_UNKNOWN
        return max(1, self._bytes_max // width)

    def _typed(self, table: Described, rows: list[bytes]) -> tuple[pa.RecordBatch, list[Any] | None, pa.Array | None]:
        """The rows in columns, the last one's key, and what the columns' types could not hold."""
        schema = table.schema
        octets, cells = copytext.columns(rows, len(schema.fields))
        arrays = []
        found: list[Hole] = []
        for field, column in zip(schema.fields, cells, strict=True):
            where = f"{self._session.where} {table.name.written}"
            try:
                converted = convert(octets, column, field.type)
            except Irrecoverable as error:
                error.where = f"{where}.{field.name}"
                raise
            if converted.holes and field.name in schema.key:
                raise unfit_key(table.name.written, field.name, next(iter(converted.holes.values())), self._session.where)
            found += [(row, "after", field.name, why) for row, why in converted.holes.items()]
            arrays.append(converted.array)
        batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(list(schema.arrow)))
        if not rows:
            return batch, None, None
        last = np.array([len(rows) - 1])
        return (
            batch,
            [octets.text(cells[schema.names.index(name)].take(last))[0].as_py() for name in schema.key],
            holes_column(found, len(rows)),
        )


def visible(snapshot: Snapshot, given: Xids) -> npt.NDArray[np.bool_]:
    """For each transaction that the stream has given, whether the snapshot sees it."""
    return snapshot.sees(given)


def newer(snapshot: Snapshot, live: Batch) -> npt.NDArray[np.bool_]:
    """For each live event, whether the snapshot did not see its transaction."""
    xids = np.asarray(live.column("tx_id").cast(pa.uint32()))
    return ~snapshot.sees(snapshot.widen(xids))
