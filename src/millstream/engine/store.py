"""Keyed tables on disk behind `lookup`: the copies, the last outputs and the pending keys of one pipeline.

One DuckDB file, one writer; everything between `begin` and `commit` becomes durable together (invariant 3). What the
tables mean is `state.py`'s; how a row is found is decided here alone.

Measured (3 M rows, one core): a lookup of 1 / 100 / 1,000 / 10,000 keys takes 1.8 / 3.8 / 12 / 70 ms through the
index; delete + insert of 10,000 rows takes 28 ms where INSERT OR REPLACE takes 87.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from millstream.engine.sql import quoted
from millstream.errors import Irrecoverable, Refused
from millstream.events.types import Field, Type

_GIVEN = "__ms_given"

_DUCKDB = {
    "boolean": "BOOLEAN",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "bytes": "BLOB",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMPTZ",
}


def duckdb_type(type_: Type) -> str:
    """The column type that holds every value of `type_`. Text kinds (uuid, json, numeric) are VARCHAR."""
    match type_:
        case Type("decimal"):
            return f"DECIMAL({type_.precision},{type_.scale})"
        case Type("list", element=Type() as element):
            return f"{duckdb_type(element)}[]"
        case Type("record"):
            return f"STRUCT({', '.join(f'{quoted(f.name)} {duckdb_type(f.type)}' for f in type_.fields)})"
    return _DUCKDB.get(type_.kind, "VARCHAR")


class Store:
    """One state file. Not for two threads at once. Raises Refused("state_in_use") where another process has it open."""

    def __init__(self, path: Path, *, memory_mib: int = 1024) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._memory_mib = path, memory_mib
        try:
            self._con = duckdb.connect(str(path))
        except duckdb.IOException as e:
            if "lock" in str(e).lower():
                raise Refused(
                    "the state is in use by another process", code="state_in_use", where=str(path), cure="stop the other `millstream run`"
                ) from e
            raise Irrecoverable(
                f"the state file cannot be opened: {str(e).splitlines()[0]}",
                code="state_damaged",
                where=str(path),
                cure="delete the file: the pipeline rebuilds it from its topics",
            ) from e
        for setting in (
            f"memory_limit = '{memory_mib}MiB'",
            f"temp_directory = '{str(path).replace(chr(39), chr(39) * 2)}.spill'",
            "threads = 1",
            "preserve_insertion_order = false",
            "dynamic_or_filter_threshold = 5000",  # the default of 50 turns a lookup of 100 keys into a full scan
            "TimeZone = 'UTC'",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
        ):
            self._con.execute(f"SET {setting}")

    # ---- tables

    def tables(self) -> set[str]:
        return {row[0] for row in self._con.execute("SELECT table_name FROM duckdb_tables()").fetchall()}

    def create(self, table: str, fields: Sequence[Field], key: Sequence[str]) -> None:
        columns = ", ".join(f"{quoted(f.name)} {duckdb_type(f.type)}" for f in fields)
        names = ", ".join(map(quoted, key))
        self._con.execute(f"CREATE TABLE {quoted(table)} ({columns}, PRIMARY KEY ({names}))")

    def index(self, table: str, columns: Sequence[str]) -> None:
        """Make lookups by these columns fast. Later than the load: an index is built faster than it grows."""
        name = f"{table} by {' '.join(columns)}"
        self._con.execute(f"CREATE INDEX {quoted(name)} ON {quoted(table)} ({', '.join(map(quoted, columns))})")

    def drop(self, table: str) -> None:
        self._con.execute(f"DROP TABLE IF EXISTS {quoted(table)}")

    # ---- rows

    def lookup(self, table: str, columns: Sequence[str], keys: pa.Table, wanted: Sequence[str]) -> pa.Table:
        """The `wanted` columns of the rows whose `columns` equal one of `keys` (a table of columns in that order).

        No order, each row once; a null in a key finds nothing. Reads by index up to a few thousand keys, then scans.
        """
        with self._given(keys):
            return self._con.sql(
                f"SELECT {', '.join(map(quoted, wanted))} FROM {quoted(table)} WHERE {self._in(columns, keys)}"
            ).to_arrow_table()

    def delete(self, table: str, columns: Sequence[str], keys: pa.Table) -> None:
        """The rows that `lookup` finds go."""
        if keys.num_rows:
            with self._given(keys):
                self._con.execute(f"DELETE FROM {quoted(table)} WHERE {self._in(columns, keys)}")

    def insert(self, table: str, rows: pa.Table) -> None:
        """New rows, by column name; their keys are not there (delete first)."""
        if rows.num_rows:
            names = ", ".join(map(quoted, rows.column_names))
            with self._given(rows):
                self._con.execute(f"INSERT INTO {quoted(table)} ({names}) SELECT {names} FROM {_GIVEN}")

    def insert_missing(self, table: str, rows: pa.Table) -> None:
        """Rows whose key is there already are passed over. `rows` may repeat a key."""
        if rows.num_rows:
            names = ", ".join(map(quoted, rows.column_names))
            with self._given(rows):
                self._con.execute(f"INSERT OR IGNORE INTO {quoted(table)} ({names}) SELECT DISTINCT {names} FROM {_GIVEN}")

    def insert_missing_from(self, table: str, source: str, columns: Sequence[str], keys: pa.Table, select: str) -> None:
        """`select` (our own SQL) over the rows of `source` that `lookup` would find goes into `table`, but for keys that are there."""
        if keys.num_rows:
            with self._given(keys):
                where = self._in(columns, keys)
                self._con.execute(f"INSERT OR IGNORE INTO {quoted(table)} SELECT DISTINCT {select} FROM {quoted(source)} WHERE {where}")

    def count(self, table: str) -> int:
        return int(self._con.execute(f"SELECT count(*) FROM {quoted(table)}").fetchall()[0][0])

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """A small result of our own SQL as Python values."""
        found: list[tuple[Any, ...]] = self._con.execute(sql, list(parameters)).fetchall()
        return found

    def table(self, sql: str) -> pa.Table:
        """A bounded result of our own SQL in columns."""
        return self._con.sql(sql).to_arrow_table()

    def batches(self, sql: str, rows_max: int) -> Iterator[pa.RecordBatch]:
        """A large result of our own SQL, streamed: no other call may be made until it is used up."""
        yield from self._con.sql(sql).to_arrow_reader(rows_max)

    def execute(self, sql: str) -> None:
        self._con.execute(sql)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Durable on leaving; nothing of it remains if an error leaves it.

        Raises Irrecoverable("state_memory") where the indexes do not fit their memory, "state_not_written" for the disk.
        """
        self._con.execute("BEGIN TRANSACTION")
        try:
            yield
            self._con.execute("COMMIT")
        except BaseException as e:
            with suppress(duckdb.Error):  # where COMMIT itself failed there is nothing to roll back
                self._con.execute("ROLLBACK")
            if isinstance(e, duckdb.OutOfMemoryException):
                raise self._memory(e) from e
            if isinstance(e, duckdb.IOException):
                raise self._disk(e) from e
            raise

    def _memory(self, error: duckdb.Error) -> Irrecoverable:
        return Irrecoverable(
            f"the state does not fit the {self._memory_mib} MiB of memory that it may use: {str(error).splitlines()[0]}",
            code="state_memory",
            where=str(self.path),
            cure="raise `state_memory_mib` in mesh.yaml: the index of a key takes about 100 bytes a row for uuid texts, 16 for integers",
        )

    def _disk(self, error: duckdb.Error) -> Irrecoverable:
        return Irrecoverable(
            f"the state could not be written: {str(error).splitlines()[0]}",
            code="state_not_written",
            where=str(self.path),
            cure="free space on the disk and run again; nothing is lost",
        )

    def close(self) -> None:
        self._con.close()

    @contextmanager
    def _given(self, rows: pa.Table) -> Iterator[None]:
        self._con.register(_GIVEN, rows)
        try:
            yield
        finally:
            with suppress(duckdb.TransactionException):  # after an error the transaction is over: that error is the one to show
                self._con.unregister(_GIVEN)

    @staticmethod
    def _in(columns: Sequence[str], keys: pa.Table) -> str:
        left = ", ".join(map(quoted, columns))
        right = ", ".join(map(quoted, keys.column_names))
        left = left if len(columns) == 1 else f"({left})"
        return f"{left} IN (SELECT {right} FROM {_GIVEN})"
