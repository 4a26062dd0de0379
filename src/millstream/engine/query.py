"""A query over what there is: topics as tables of their present rows (or of their events), and the tables of pipelines' states.

Each table is read once, as a stream, into a database of the query's own, only its columns that the query names; there the SELECT runs
with limits of its own on memory, disk, rows and time. Neither topics nor pipelines know of it.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.engine.build import READ_BYTES
from millstream.engine.querytext import Read, understood
from millstream.engine.sql import first_line, quoted
from millstream.errors import Irrecoverable, Refused
from millstream.events import envelope, version
from millstream.events.batch import Batch
from millstream.events.fills import filled
from millstream.events.types import RowSchema
from millstream.schemas.registry import Registry
from millstream.topics.contract import Topics

_GIVEN = "__ms_given"
_OFFSET, _GONE = "__ms_offset", "__ms_gone"
STATE = "state"


@dataclass(frozen=True)
class Limits:
    """`rows` None: all. `seconds` for everything, from the first read to the last row. `disk_bytes` of rows that are read for it."""

    rows: int | None = 1_000
    seconds: float = 60.0
    memory_mib: int = 256
    disk_bytes: int = 8 << 30


class Table(Protocol):
    """One table that can be asked: `columns` as Arrow has them."""

    columns: pa.Schema

    def load(self, read: Read, names: list[str], put: Put) -> None:
        """Make the relation `read.relation` in the query's database with (at least) these columns."""


class Put(Protocol):
    """The query's database, as tables fill it."""

    def create(self, relation: str, schema: pa.Schema) -> None: ...

    def insert(self, relation: str, rows: pa.Table, where: str | None) -> None:
        """Those of the rows for which the condition holds. Raises Refused past the query's limits."""

    def execute(self, sql: str) -> None: ...


Tables = Mapping[str, Callable[[], Table]]
"""Name as a query writes it → the table, opened when it is asked for."""


class Answer:
    """A query's rows as a stream. Everything it holds is let go by `close`, which any thread may call, and which ends what runs."""

    def __init__(self, text: str, tables: Tables, limits: Limits, folder: Path) -> None:
        """Only reads the text. Raises Refused with what is wrong with it."""
        self._query, self._tables, self._limits = understood(text, list(tables)), tables, limits
        self._folder = Path(tempfile.mkdtemp(prefix="query-", dir=folder))
        self._own = _Own(self._folder, limits)
        self.truncated = False

    def begin(self) -> pa.Schema:
        """Reads what the query needs and begins to run it; gives its columns. Raises Refused with what is wrong with it."""
        for read in self._query.reads:
            table = self._tables[read.name]()
            table.load(read, _needed(table.columns, read), self._own)
        self._reader = self._own.ask(self._query.sql)
        return self._reader.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        left = self._limits.rows
        while (batch := self._own.next(self._reader)) is not None:
            if left is not None and batch.num_rows > left:
                self.truncated = True
                batch = batch.slice(0, left)
            if left is not None:
                left -= batch.num_rows
            if batch.num_rows:
                yield batch
            if self.truncated:
                return

    def end(self) -> Mapping[str, Any]:
        return {"truncated": self.truncated}

    def close(self) -> None:
        self._own.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Own:
    """The query's own database: walled off, bounded, and interrupted when its time is over."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._limits, self._deadline = limits, time.monotonic() + limits.seconds
        self._bytes = 0
        self._busy = threading.Lock()
        self._closed = False
        self._con = duckdb.connect(str(folder / "query.duckdb"))
        for setting in (
            f"memory_limit = '{limits.memory_mib}MiB'",
            f"temp_directory = '{str(folder / 'spill').replace(chr(39), chr(39) * 2)}'",
            f"max_temp_directory_size = '{limits.disk_bytes >> 20}MiB'",
            "threads = 1",
            "TimeZone = 'UTC'",
            "enable_external_access = false",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "lock_configuration = true",
        ):
            self._con.execute(f"SET {setting}")
        self._timer = threading.Timer(limits.seconds, self._con.interrupt)
        self._timer.daemon = True
        self._timer.start()

    def create(self, relation: str, schema: pa.Schema) -> None:
        self._given(schema.empty_table(), f"CREATE TABLE {quoted(relation)} AS SELECT * FROM {_GIVEN}")

    def insert(self, relation: str, rows: pa.Table, where: str | None) -> None:
        self._bytes += rows.nbytes
        if self._bytes > self._limits.disk_bytes:
            raise Refused(
                f"the query reads more than {self._limits.disk_bytes >> 20:,} MiB",
                code="query_too_large",
                cure="name fewer columns, or ask by key: WHERE id = …",
            )
        if time.monotonic() > self._deadline:
            raise self._over()
        condition = f" WHERE {where}" if where else ""
        self._given(rows, f"INSERT INTO {quoted(relation)} SELECT * FROM {_GIVEN}{condition}")

    def execute(self, sql: str) -> None:
        self._explained(lambda: self._con.execute(sql))

    def ask(self, sql: str) -> pa.RecordBatchReader:
        return self._explained(lambda: self._con.sql(sql).to_arrow_reader(10_000))

    def next(self, reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
        def read() -> pa.RecordBatch | None:
            try:
                return reader.read_next_batch()
            except StopIteration:
                return None

        return self._explained(read)

    def _given(self, rows: pa.Table, sql: str) -> None:
        def work() -> None:
            self._con.register(_GIVEN, rows)
            try:
                self._con.execute(sql)
            finally:
                self._con.unregister(_GIVEN)

        self._explained(work)

    def _explained(self, work: Callable[[], Any]) -> Any:
        try:
            with self._busy:
                if self._closed:
                    raise self._over()
                return work()
        except duckdb.InterruptException:
            raise self._over() from None
        except duckdb.OutOfMemoryException as e:
            cure = "name fewer columns, filter by key, or group before you sort"
            raise Refused(f"the query does not fit its memory: {first_line(e)}", code="query_memory", cure=cure) from None
        except (duckdb.Error, pa.ArrowException, OSError) as e:  # Arrow hands a database's error on as one of the system's
            if "INTERRUPT" in str(e):
                raise self._over() from None
            raise Refused(
                first_line(e), code="query_failed", cure="look at the query; `millstream query --tables` lists the columns"
            ) from None

    def _over(self) -> Refused:
        if self._closed:
            return Refused("the query was given up", code="query_closed", cure="the process that answered is stopping: ask again")
        cure = "ask by key, name fewer columns, or give it more time: --timeout"
        return Refused(f"the query took longer than {self._limits.seconds:g} s", code="query_timeout", cure=cure)

    def close(self) -> None:
        self._closed = True
        self._timer.cancel()
        while not self._busy.acquire(timeout=0.05):  # what has only just begun does not hear the first call
            with suppress(duckdb.Error):
                self._con.interrupt()
        with suppress(duckdb.Error):
            self._con.close()
        self._busy.release()


def _needed(columns: pa.Schema, read: Read) -> list[str]:
    """The columns that the query names; none of them (a count): the first."""
    named = [n for n in columns.names if read.words is None or n.lower() in read.words]
    return named or columns.names[:1]


def _filter(read: Read, allowed: list[str]) -> str | None:
    """The query's condition, where it is one over these columns alone."""
    return read.where if read.filters and read.filters <= {n.lower() for n in allowed} else None


# ---- the tables


class Rows:
    """A topic's present rows. Its log is read once; what is kept of it while that lasts lies on disk."""

    def __init__(self, topics: Topics, registry: Registry, topic: str) -> None:
        self._topics, self._topic = topics, topic
        self._schema = _newest(topics, registry, topic)
        self.columns = _arrow(self._schema)

    def load(self, read: Read, names: list[str], put: Put) -> None:
        key = list(self._schema.key)
        kept = [*key, *(n for n in names if n not in key)]
        log = f"{read.relation} log"
        marks = [pa.field(_OFFSET, pa.int64()), pa.field(_GONE, pa.bool_())]
        put.create(log, pa.schema([*(self.columns.field(n) for n in kept), *marks]))
        where = _filter(read, key)  # what is said of a key holds for all its events; of another column it may hold for an older one
        for batch in _batches(self._topics, self._topic):
            put.insert(log, self._last(batch, kept), where)
        columns = ", ".join(map(quoted, kept))
        window = f"PARTITION BY {', '.join(map(quoted, key))} ORDER BY {_OFFSET} DESC"
        ranked = f"SELECT * FROM {quoted(log)} QUALIFY row_number() OVER ({window}) = 1"
        put.execute(f"CREATE VIEW {quoted(read.relation)} AS SELECT {columns} FROM ({ranked}) WHERE NOT {_GONE}")

    def _last(self, batch: Batch, kept: list[str]) -> pa.Table:
        """The last event of each key in the batch: its columns by id, as the newest schema has them; absent ones as it fills them."""
        assert batch.offsets is not None
        keys, after = batch.keys(), batch.column("after")
        ids = {f.id: n for n, f in enumerate(batch.schema.fields)}
        columns = {}
        for name in kept:
            field = self._schema[name]
            if name in batch.schema.key:
                column = keys.field(batch.schema.key.index(name))
            else:
                column = pc.struct_field(after, [ids[field.id]]) if field.id in ids else filled(field, len(batch))
            columns[name] = _queryable(column if column.type == field.type.arrow else column.cast(field.type.arrow))
        rows = pa.table({**columns, _OFFSET: pa.array(batch.offsets), _GONE: pc.is_null(after)})
        last = rows.select([*self._schema.key, _OFFSET]).group_by(list(self._schema.key), use_threads=False).aggregate([(_OFFSET, "max")])
        at = np.searchsorted(batch.offsets, np.sort(np.asarray(last.column(f"{_OFFSET}_max"))))
        return rows.take(pa.array(at))


class Events:
    """A topic's events, oldest first."""

    def __init__(self, topics: Topics, registry: Registry, topic: str) -> None:
        self._topics, self._topic = topics, topic
        self._schema = _newest(topics, registry, topic)
        image = pa.struct(list(_arrow(self._schema)))
        text, moment = pa.string(), pa.timestamp("us", "UTC")
        self.columns = pa.schema(
            [
                ("offset", pa.int64()), ("op", text), ("before", image), ("after", image), ("version", text), ("committed", moment),
                ("transaction", text), ("position", text), ("snapshot", text), ("backfill", text), ("cause", text),
                ("schema_id", pa.int64()),
            ]
        )  # fmt: skip

    def load(self, read: Read, names: list[str], put: Put) -> None:
        schema = pa.schema([self.columns.field(n) for n in names])
        put.create(read.relation, schema)
        where = _filter(read, names)
        for batch in _batches(self._topics, self._topic):
            put.insert(read.relation, self._rows(batch).select(names).cast(schema), where)

    def _rows(self, batch: Batch) -> pa.Table:
        assert batch.offsets is not None
        direct = {
            "transaction": "tx_id",
            "position": "position",
            "snapshot": "snapshot",
            "backfill": "backfill",
            "cause": "cause",
            "op": "op",
        }
        return pa.table(
            {
                "offset": pa.array(batch.offsets),
                "version": version.texts(*(batch.column(c) for c in ("incarnation", "major", "minor"))),
                "committed": batch.column("ts_us").cast(pa.timestamp("us", "UTC")),
                "schema_id": pa.repeat(batch.schema_id or 0, len(batch)),
                **{side: self._image(batch, side) for side in ("before", "after")},
                **{name: batch.column(column) for name, column in direct.items()},
            }
        )

    def _image(self, batch: Batch, side: str) -> pa.StructArray:
        image = batch.column(side)
        ids = {f.id: n for n, f in enumerate(batch.schema.fields)}
        children = [
            _queryable(image.field(ids[f.id]).cast(f.type.arrow)) if f.id in ids else _queryable(filled(f, len(batch)))
            for f in self._schema.fields
        ]
        return pa.StructArray.from_arrays(children, fields=list(_arrow(self._schema)), mask=image.is_null())


class Kept:
    """A table of a pipeline's state, as last committed. `connect` gives a connection of its own to that state; it is closed here."""

    def __init__(self, connect: Callable[[], duckdb.DuckDBPyConnection], table: str) -> None:
        self._connect, self._table = connect, table
        with self._connection() as connection:
            self.columns = connection.sql(f"SELECT * FROM {quoted(table)} LIMIT 0").to_arrow_table().schema

    def _connection(self) -> duckdb.DuckDBPyConnection:
        return self._connect()

    def load(self, read: Read, names: list[str], put: Put) -> None:
        put.create(read.relation, pa.schema([self.columns.field(n) for n in names]))
        where = _filter(read, self.columns.names)
        columns, condition = ", ".join(map(quoted, names)), f" WHERE {where}" if where else ""
        with self._connection() as connection:  # one statement: one snapshot, which the pipeline's own commits do not wait for
            try:
                for batch in connection.sql(f"SELECT {columns} FROM {quoted(self._table)}{condition}").to_arrow_reader(10_000):
                    put.insert(read.relation, pa.Table.from_batches([batch]), None)
            except duckdb.Error as e:
                cure = "look at the query; `millstream query --tables` lists the columns"
                raise Refused(first_line(e), code="query_failed", cure=cure) from None


def tables_of_topics(topics: Topics, registry: Registry, *, events: bool) -> dict[str, Callable[[], Table]]:
    """Every topic by its name: its present rows, or its events."""
    kind = Events if events else Rows
    return {t.name: (lambda name=t.name: kind(topics, registry, name)) for t in topics.topics()}  # type: ignore[misc]


def tables_of_state(pipeline: str, connect: Callable[[], duckdb.DuckDBPyConnection]) -> dict[str, Callable[[], Table]]:
    """`state.PIPELINE.TABLE` for every table of a state."""
    with connect() as connection:
        names = [row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables() ORDER BY table_name").fetchall()]
    return {f"{STATE}.{pipeline}.{n}": (lambda name=n: Kept(connect, name)) for n in names}  # type: ignore[misc]


def read_only(path: Path) -> Callable[[], duckdb.DuckDBPyConnection]:
    """Connections to a state that no process has open. Raises Refused("state_in_use") where one has."""

    def connect() -> duckdb.DuckDBPyConnection:
        try:
            return duckdb.connect(str(path), read_only=True)
        except duckdb.Error as e:
            if "lock" in str(e).lower():
                cure = "if it is `millstream run`, try again in a moment: it answers itself"
                raise Refused("the state is in use by another process", code="state_in_use", where=str(path), cure=cure) from None
            raise Irrecoverable(f"the state cannot be opened: {first_line(e)}", code="state_damaged", where=str(path)) from None

    return connect


def _newest(topics: Topics, registry: Registry, topic: str) -> RowSchema:
    known, versions = topics.topic(topic), registry.versions(f"{topic}-value")
    if known is None or not versions:
        raise Refused(f"topic {topic} has no schema yet", code="not_applied", where=topic, cure="run `millstream apply`")
    return envelope.row_schema(versions[-1].text, known.key)


def _arrow(schema: RowSchema) -> pa.Schema:
    return pa.schema([pa.field(f.name, _queryable(pa.nulls(0, f.type.arrow)).type) for f in schema.fields])


def _queryable(column: pa.Array) -> pa.Array:
    """DuckDB has decimals of 38 digits: wider ones are text."""
    return column.cast(pa.string()) if pa.types.is_decimal256(column.type) else column


def _batches(topics: Topics, topic: str) -> Iterator[Batch]:
    offset, end = 0, topics.end(topic)
    while offset < end:
        batches = topics.read(topic, offset, bytes_max=READ_BYTES)
        if not batches:
            return
        yield from (b for b in batches if len(b))
        offset = topics.read_end(batches)
