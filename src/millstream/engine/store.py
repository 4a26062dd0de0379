"""Keyed tables on disk behind `lookup`: the copies, the last outputs and the pending keys of one pipeline.

One DuckDB file, one writer; everything between `begin` and `commit` becomes durable together (invariant 3). What the
tables mean is `state.py`'s; how a row is found is decided here alone.

Three things that DuckDB 2.0 does decide the form of every statement here:
- Only a column of its own is looked up by index, never several together. So what is looked up by several has one more
  column, their hash, and the equality itself is a CASE, which the planner leaves above the lookup.
- A deleted row costs 12 microseconds for every index of its table, at commit; one changed in place, in columns without an
  index, costs none. So rows that stay are changed in place (MERGE), and queues have no index.
- An index is asked for up to 2,048 keys; above, the table is scanned at some 20 M rows/s.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, overload

import duckdb
import pyarrow as pa

from millstream.engine.sql import literal, quoted
from millstream.errors import Irrecoverable, Refused
from millstream.events.fills import fill_value
from millstream.events.types import Constant, Field, Type

GIVEN = "__ms_given"
_KEY = "__ms_k"  # a table may have a column of any other name
_TOGETHER = "__ms_at "
_PIECE_ROWS = 10_000
_FEW = 4  # keys
_INTEGERS = ("INTEGER", "BIGINT")

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


def _constant(field: Field, text: str) -> str:
    """A fill as SQL."""
    value = fill_value(field.type, text)
    said = value.as_py()
    written = "".join(f"\\x{b:02X}" for b in said) if isinstance(said, bytes) else value.cast(pa.string()).as_py()
    return f"CAST({literal(written)} AS {duckdb_type(field.type)})"


def _together(columns: Sequence[str]) -> str:
    """The column that holds the hash of several."""
    return _TOGETHER + json.dumps(list(columns))


def _few(keys: pa.Table, type_: str) -> str | None:
    """A few keys of one column as literals that compare with a column of this type as the keys do, or None. By literals a lookup
    takes half the time of one over a relation; but each costs a tenth of a millisecond to plan."""
    if keys.num_columns > 1 or not 0 < keys.num_rows <= _FEW:
        return None
    column = keys.column(0)
    values = [v for v in column.to_pylist() if v is not None] or [None]
    if pa.types.is_integer(column.type) and type_ in _INTEGERS:
        return ", ".join("NULL" if v is None else str(v) for v in values)
    if pa.types.is_string(column.type) and type_ == "VARCHAR" and not any(v and "\0" in v for v in values):
        return ", ".join("NULL" if v is None else literal(v) for v in values)
    return None


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

        self._types: dict[str, dict[str, str]] = {}  # table → column → its type
        self._indexed: dict[str, set[str]] = {}  # table → the columns that an index would have to follow
        for table, column, type_ in self._con.execute("SELECT table_name, column_name, data_type FROM duckdb_columns()").fetchall():
            self._types.setdefault(table, {})[column] = type_
            self._indexed.setdefault(table, set())
        for table, name in self._con.execute("SELECT table_name, index_name FROM duckdb_indexes()").fetchall():
            self._indexed[table].update(json.loads(name.removeprefix(f"{table} by ")))

    # ---- tables

    def tables(self) -> set[str]:
        return {row[0] for row in self._con.execute("SELECT table_name FROM duckdb_tables()").fetchall()}

    def create(self, table: str, fields: Sequence[Field], key: Sequence[str], lookups: Collection[Sequence[str]] = ()) -> None:
        """`key` is how rows are put; without one it is a queue. `lookups`: the other column lists by which rows will be found."""
        types = {f.name: duckdb_type(f.type) for f in fields}
        types |= {_together(columns): "UBIGINT" for columns in sorted({tuple(c) for c in (key, *lookups)}) if len(columns) > 1}
        columns = ", ".join(f"{quoted(name)} {type_}" for name, type_ in types.items())
        unique = f", PRIMARY KEY ({quoted(key[0])})" if len(key) == 1 else ""
        self._con.execute(f"CREATE TABLE {quoted(table)} ({columns}{unique})")
        self._types[table], self._indexed[table] = types, set()
        if len(key) > 1:
            self.index(table, key)

    def grow(self, table: str, fields: Sequence[Field]) -> None:
        """The columns that the table has not yet: its rows have in them what the fills say. Part of the caller's transaction."""
        for f in fields:
            if f.name in self._types[table]:
                continue
            type_ = duckdb_type(f.type)
            # By a default, not an update: see `_moves`. Which then goes: a row that comes later says itself what it has.
            filled = f" DEFAULT {_constant(f, f.fill.text)}" if isinstance(f.fill, Constant) else ""
            self._con.execute(f"ALTER TABLE {quoted(table)} ADD COLUMN {quoted(f.name)} {type_}{filled}")
            if filled:
                self._con.execute(f"ALTER TABLE {quoted(table)} ALTER COLUMN {quoted(f.name)} DROP DEFAULT")
            self._types[table] = {**self._types[table], f.name: type_}

    def index(self, table: str, columns: Sequence[str]) -> None:
        """Make lookups by these columns fast. Later than the load: an index is built faster than it grows."""
        name = f"{table} by {json.dumps(list(columns))}"
        by = columns[0] if len(columns) == 1 else _together(columns)
        self._con.execute(f"CREATE INDEX {quoted(name)} ON {quoted(table)} ({quoted(by)})")
        self._indexed[table].update(columns)

    def drop(self, table: str) -> None:
        self._con.execute(f"DROP TABLE IF EXISTS {quoted(table)}")
        self._types.pop(table, None)
        self._indexed.pop(table, None)

    # ---- rows

    @overload
    def lookup(self, table: str, columns: Sequence[str], keys: pa.Table, wanted: Sequence[str]) -> pa.Table: ...

    @overload
    def lookup(
        self, table: str, columns: Sequence[str], keys: pa.Table, wanted: Sequence[str], bytes_max: int | None
    ) -> pa.Table | None: ...

    def lookup(
        self, table: str, columns: Sequence[str], keys: pa.Table, wanted: Sequence[str], bytes_max: int | None = None
    ) -> pa.Table | None:
        """The `wanted` columns of the rows whose `columns` equal one of `keys` (a table of columns in that order).

        No order, each row once; a null in a key finds nothing. Reads by index up to some two thousand keys, then scans. None where
        the rows have more than `bytes_max`: they are not read further.
        """
        names = ", ".join(f"t.{quoted(name)}" for name in wanted)
        few = _few(keys, self._types[table][columns[0]])
        with self.given(keys) if few is None else nullcontext():
            rows = f"{quoted(table)} t WHERE t.{quoted(columns[0])} IN ({few})" if few else self.found(table, columns, keys.column_names)
            found = self._con.sql(f"SELECT {names} FROM {rows}")
            if bytes_max is None:
                return found.to_arrow_table()
            pieces, size = [], 0
            with found.to_arrow_reader(_PIECE_ROWS) as reader:
                for piece in reader:
                    size += piece.nbytes
                    if size > bytes_max:
                        return None
                    pieces.append(piece)
                return pa.Table.from_batches(pieces, reader.schema)

    def found(self, table: str, columns: Sequence[str], names: Sequence[str]) -> str:
        """What to write after FROM: `t`, the rows of `table` whose `columns` equal the given relation's `names`, each once."""
        matched, on = self._matched(table, columns, names)
        return f"{quoted(table)} t SEMI JOIN {matched} ON {on}" if len(columns) == 1 else f"{quoted(table)} t JOIN {matched} ON {on}"

    def _matched(self, table: str, columns: Sequence[str], names: Sequence[str], rest: Sequence[str] = ()) -> tuple[str, str]:
        """The given relation as `k`, with columns __ms_k0, __ms_k1, … and `rest`, and the condition by which `t` meets it."""
        types = self._types[table]
        keys = [f"{quoted(n)} AS {_KEY}{i}" for i, n in enumerate(names)]
        if len(columns) == 1:  # a wider integer is narrowed: else the column would be widened, which no index has
            narrow = f"TRY_CAST({quoted(names[0])} AS {types[columns[0]]})" if types[columns[0]] in _INTEGERS else quoted(names[0])
            given = f"(SELECT {', '.join([f'{narrow} AS {_KEY}0', *map(quoted, rest)])} FROM {GIVEN}) k"
            return given, f"t.{quoted(columns[0])} = k.{_KEY}0"
        hashed = ", ".join(f"TRY_CAST({quoted(n)} AS {types[c]})" for n, c in zip(names, columns, strict=True))
        equal = [f"t.{quoted(c)} = k.{_KEY}{i}" for i, c in enumerate(columns)]
        relation = f"(SELECT DISTINCT {', '.join([*keys, f'hash({hashed}) AS {_KEY}', *map(quoted, rest)])} FROM {GIVEN}) k"
        return relation, f"t.{quoted(_together(columns))} = k.{_KEY} AND CASE WHEN {' AND '.join(equal[:-1])} THEN {equal[-1]} END"

    def delete(self, table: str, columns: Sequence[str], keys: pa.Table) -> None:
        """The rows that `lookup` finds go."""
        if keys.num_rows:
            matched, on = self._matched(table, columns, keys.column_names)
            with self.given(keys):
                self._con.execute(f"DELETE FROM {quoted(table)} t USING {matched} WHERE {on}")

    def insert(self, table: str, rows: pa.Table) -> None:
        """New rows, by column name; their keys are not there."""
        if rows.num_rows:
            with self.given(rows):
                self.insert_from(table, rows.column_names, GIVEN)

    def insert_from(self, table: str, names: Sequence[str], relation: str) -> int:
        """The columns `names` of what stands after FROM, as new rows. Returns how many."""
        written = {n: quoted(n) for n in names}
        written |= self._hashes(table, written)
        into, values = ", ".join(map(quoted, written)), ", ".join(written.values())
        return int(self._con.execute(f"INSERT INTO {quoted(table)} ({into}) SELECT {values} FROM {relation}").fetchall()[0][0])

    def _hashes(self, table: str, values: Mapping[str, str]) -> dict[str, str]:
        """Each column of a hash, and its SQL over the SQL of the columns that it is made of."""
        types, made = self._types.get(table, {}), {}
        for name in types:
            if name.startswith(_TOGETHER):
                columns = json.loads(name.removeprefix(_TOGETHER))
                made[name] = f"hash({', '.join(f'CAST({values[c]} AS {types[c]})' for c in columns)})"
        return made

    def put(self, table: str, key: Sequence[str], rows: pa.Table) -> None:
        """Rows by column name, each key once: they stand there afterwards, in the place of those with their keys."""
        if not rows.num_rows:
            return
        rest = [n for n in rows.column_names if n not in key]
        matched, on = self._matched(table, key, key, rest)
        moved = [self._moves(table, n) for n in rest]
        still = [n for n in rest if n not in self._indexed[table]]
        given = {**{k: f"k.{_KEY}{i}" for i, k in enumerate(key)}, **{n: f"k.{quoted(n)}" for n in rest}}
        new = {**given, **self._hashes(table, given)}
        change = f"WHEN MATCHED THEN UPDATE SET {', '.join(f'{quoted(n)} = {given[n]}' for n in still)} " if still else ""
        with self.given(rows):
            if moved:
                self._con.execute(f"DELETE FROM {quoted(table)} t USING {matched} WHERE {on} AND ({' OR '.join(moved)})")
            self._con.execute(
                f"MERGE INTO {quoted(table)} t USING {matched} ON {on} {change}"
                f"WHEN NOT MATCHED THEN INSERT ({', '.join(map(quoted, new))}) VALUES ({', '.join(new.values())})"
            )

    def _moves(self, table: str, column: str) -> str:
        """Of a row `t` and the one `k` that takes its place: whether this column keeps it from being changed where it stands.

        An index has to follow. And DuckDB 2.0, replaying its log after a crash, can forget that a value took the place of a null:
        such rows, and nested ones, are deleted and inserted (docs/decisions/20261125-what-a-log-forgets.md).
        """
        was, now, type_ = f"t.{quoted(column)}", f"k.{quoted(column)}", self._types[table][column]
        if column in self._indexed[table] or type_.endswith("[]") or type_.startswith("STRUCT"):
            return f"{was} IS DISTINCT FROM {now}"
        return f"({was} IS NULL) <> ({now} IS NULL)"

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
            # Indexes are merged by COMMIT, which says by its text alone that they do not fit.
            if isinstance(e, duckdb.OutOfMemoryException) or (isinstance(e, duckdb.TransactionException) and "block of size" in str(e)):
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

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A second connection to the open file, for another thread to read by: each of its statements sees what was last
        committed, and no commit waits for it. The caller closes it."""
        return self._con.cursor()

    def close(self) -> None:
        self._con.close()

    @contextmanager
    def given(self, rows: pa.Table) -> Iterator[None]:
        """While this lasts, `rows` is the relation that `found` and `insert_from` speak of. (The next one takes its place: to
        take it away first would cost a third of a small lookup.)"""
        self._con.register(GIVEN, rows)
        yield
