"""Chunks of a backfill: rows in key order, with what is needed to place them in the stream. Design §5.7.

The rows and the snapshot that saw them are read in one REPEATABLE READ transaction; then a message goes into the log,
whose place is the read point. What the stream gives until there is judged by transaction, not by place (`snapshots`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from psycopg import sql

from millstream.errors import Irrecoverable, Refused
from millstream.events.batch import Batch
from millstream.sources.contract import Chunk
from millstream.sources.postgres import copytext
from millstream.sources.postgres.describe import Catalogue, Described
from millstream.sources.postgres.fills import Fills
from millstream.sources.postgres.messages import MARK_PREFIX
from millstream.sources.postgres.names import TableName
from millstream.sources.postgres.session import Session
from millstream.sources.postgres.snapshots import Snapshot, Xids
from millstream.sources.postgres.translate import Hole, holes_column, unfit_key
from millstream.sources.postgres.values import convert

ROW_BYTES_UNKNOWN = 1024


class Chunks:
    """Reads chunks of at most about `bytes_max`. `stopped` ends one that is being read."""

    def __init__(self, session: Session, catalogue: Catalogue, bytes_max: int, stopped: Callable[[], bool]) -> None:
        self._session, self._catalogue = session, catalogue
        self._bytes_max, self._stopped = bytes_max, stopped
        self._row_bytes: dict[TableName, int] = {}

    def read(self, name: TableName, after: list[Any] | None, rows_max: int, unseen: Xids, fills: Fills) -> Chunk | None:
        """The next rows after the key `after` (its texts). None where one of `unseen`, which the stream has given, is not visible:
        rows as they were before it would come after it.

        Raises Refused where the table is gone or its key has another width now.
        """
        with self._session.reading():
            snapshot = self._session.snapshot()
            read_us = time.time_ns() // 1000
            if not visible(snapshot, unseen).all():
                return None
            table = self._catalogue.table(name)
            if table is None or not table.key or (after is not None and len(after) != len(table.key)):
                raise Refused(
                    f"{name.written} has changed: it is gone, or has another key", code="table_changed", where=self._session.where
                )
            limit = min(rows_max, self._rows_in(table))
            rows, whole = self._session.copy_out(_statement(table, after, limit), 2 * self._bytes_max, self._stopped)
        if rows:
            self._row_bytes[name] = max(1, sum(map(len, rows)) // len(rows))
        batch, last_key, holes = self._typed(table, rows)
        mark = uuid.uuid4().hex
        self._session.emit(MARK_PREFIX, mark)
        return Chunk(
            table=name.written,
            schema=table.schema_with(fills.look(table)),
            rows=batch,
            mark=mark,
            newer=lambda live: newer(snapshot, live),
            last_key=last_key if rows else after,
            done=whole and len(rows) < limit,
            read_us=read_us,
            holes=holes,
        )

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


def _statement(table: Described, after: list[Any] | None, limit: int) -> sql.Composed:
    by_number = {a.number: a for a in table.columns}
    key = [by_number[n] for n in table.key]
    names = sql.SQL(", ").join(sql.Identifier(a.name) for a in key)
    beyond: sql.Composable = sql.SQL("")
    if after is not None:
        values = sql.SQL(", ").join(
            sql.SQL("CAST({} AS {})").format(sql.Literal(value), sql.SQL(a.sql_type)) for value, a in zip(after, key, strict=True)
        )
        beyond = sql.SQL("WHERE ({}) > ({}) ").format(names, values)
    return sql.SQL("COPY (SELECT {columns} FROM {only}{table} {beyond}ORDER BY {names} LIMIT {limit}) TO STDOUT").format(
        columns=sql.SQL(", ").join(sql.Identifier(a.name) for a in table.columns),
        # Rows of tables that inherit from this one come in the stream as theirs; those of partitions as ours.
        only=sql.SQL("" if table.kind == "p" else "ONLY "),
        table=sql.Identifier(table.name.schema, table.name.table),
        beyond=beyond,
        names=names,
        limit=sql.Literal(limit),
    )
