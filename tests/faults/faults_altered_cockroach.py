"""The worlds of altered tables and of backfills over CockroachDB: the stand-in in a process of its own, with repeats and disorder.

Its own record of what was written, row by row and in the shape of that time, is the audit; what queries come to, DuckDB says of its rows.
"""

from __future__ import annotations

import secrets
import uuid
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import duckdb
import psycopg
import pyarrow as pa
from faults_events import Row, row
from faults_oracle import places, rows
from faults_schema import MOVIES, QUIET, STUDIOS, Altered, Writer, statement
from faults_schema_oracle import Told, replayed
from psycopg.conninfo import make_conninfo

from millstream.events import version
from millstream.testing.cockroach.process import CockroachProcess

PACE = 10.0


class Cockroach:
    """The stand-in as worlds ask for a server."""

    def __init__(self, process: CockroachProcess) -> None:
        self.process = process

    def url(self, database: str) -> str:
        return self.process.url.replace("/defaultdb?", f"/{database}?")

    def create_database(self, name: str) -> None:
        with self.connect("defaultdb") as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())

    def drop_database(self, name: str) -> None:
        with self.connect("defaultdb") as connection:
            connection.execute(f"DROP DATABASE {name} CASCADE".encode())

    def connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(database), autocommit=True, prepare_threshold=None)

    def execute(self, sql: str, database: str) -> list[tuple[Any, ...]]:
        with self.connect(database) as connection:
            return connection.execute(sql.encode()).fetchall()

    def history(self, table: str) -> list[Written]:
        """All that was written to a table."""
        told = []
        for at, cause, before, after in self.process.tell(f"history {table}"):
            wall, _, logical = at.partition(".")
            told.append(Written((int(wall), int(logical)), cause, row(before), row(after)))
        return told


class Cluster:
    """A real cluster as worlds ask for a server: databases of their own, named `millstream_…`, which they drop."""

    def __init__(self, url: str) -> None:
        self._url, self._prefix = url, f"millstream_{secrets.token_hex(4)}"
        self._run(b"SET CLUSTER SETTING kv.rangefeed.enabled = true")

    def _run(self, statement: bytes) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(statement)

    def url(self, database: str) -> str:
        return make_conninfo(self._url, dbname=f"{self._prefix}_{database}")

    def create_database(self, name: str) -> None:
        self._run(f"CREATE DATABASE {self._prefix}_{name}".encode())

    def drop_database(self, name: str) -> None:
        self._run(f"DROP DATABASE {self._prefix}_{name} CASCADE".encode())

    def connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(database), autocommit=True, prepare_threshold=None)

    def execute(self, sql: str, database: str) -> list[tuple[Any, ...]]:
        with self.connect(database) as connection:
            return connection.execute(sql.encode()).fetchall()


class Written(NamedTuple):
    at: tuple[int, int]
    cause: str
    before: Row | None
    after: Row | None

    @property
    def key(self) -> int:
        return int((self.after or self.before or {})["id"])


def at_of(event: Told) -> tuple[int, int]:
    """An event's time."""
    _, major, minor = version.parse_texts(pa.array([event.version]))
    return int(major[0]), int(minor[0])


class AlteredCockroach(Altered):
    """`since`: a time behind the initial load and before the first write of the workload."""

    definition = "source: studio\nconnector: cockroachdb\nurl: ${STUDIO_URL}\ntables: [public.movie, public.studio]\nowner: team-studio\n"
    since: tuple[int, int]

    def _make(self) -> None:
        server: Cockroach = self._server
        server.create_database(self.database)
        movie = "id INT8 PRIMARY KEY, title STRING, year INT8, rating DECIMAL(6,2), note STRING, studio_id INT8"
        low, high = QUIET.split(", ")
        with self.connect() as connection:
            for sql in (
                "CREATE TABLE studio (id INT8 PRIMARY KEY, name STRING NOT NULL)",
                f"CREATE TABLE movie ({movie})",
                f"INSERT INTO studio SELECT i, 'Studio ' || i::STRING FROM generate_series(1, {STUDIOS}, 2) AS s(i)",
                f"INSERT INTO movie SELECT i, 'Movie ' || i::STRING, 1980 + i % 45, 1.5, 'note ' || i::STRING, 1 + i % {STUDIOS} "
                f"FROM generate_series(1, {MOVIES}, 2) AS s(i)",
                f"INSERT INTO movie SELECT i, 'Old ' || i::STRING, 2001, 1, NULL, 1 FROM generate_series({low}, {high}) AS s(i)",
            ):
                connection.execute(sql.encode())

    def _writer(self, seed: object, pace_s: float) -> Writer:
        return CockroachWriter(self.connect, seed, pace_s)

    def _drop(self) -> None:
        self._server.drop_database(self.database)

    def __enter__(self) -> AlteredCockroach:
        self.project.command("apply")
        self.project.catch_up()
        ((text,),) = self._server.execute("SELECT cluster_logical_timestamp()::string", self.database)
        wall, _, logical = text.partition(".")
        self.since = (int(wall), int(logical))
        self.workload.start()
        return self

    def run(self, sql: str) -> None:
        with self.connect() as connection:
            connection.execute(sql.encode())

    def truth(self, sql: str) -> dict[int, Row]:
        """What DuckDB makes of a query over the tables as they are now."""
        with duckdb.connect() as database:
            for name in ("movie", "studio"):
                database.register(f"{name}_", self._table(name))
                database.execute(f"CREATE TABLE {name} AS FROM {name}_")
            found = [row(r) or {} for r in database.sql(sql).to_arrow_table().to_pylist()]
        return {r["id"]: r for r in found}

    def _table(self, name: str) -> pa.Table:
        with self.connect() as connection:
            cursor = connection.execute(f"SELECT * FROM {name}".encode())
            names, held = [c.name for c in cursor.description or ()], cursor.fetchall()
        columns = {n: [str(r[i]) if isinstance(r[i], uuid.UUID) else r[i] for r in held] for i, n in enumerate(names)}
        return pa.table({n: pa.array(values, _kind(values)) for n, values in columns.items()})

    def written_rows(self, table: str) -> list[Written]:
        return self._server.history(f"{self.database}.public.{table}")

    def complaints_of_source(self, table: str, events: Sequence[Told]) -> list[str]:
        """Live events are what was written since the load, one for one, in the shape of their time, whatever the feed repeats."""
        name = f"studio.public.{table}"
        said = places(name, events)
        wanted = {(w.key, w.at): w for w in self.written_rows(table) if w.cause == "write" and w.at > self.since and (w.before or w.after)}
        for e in events:
            if e.op == "r":
                continue
            w = wanted.pop((e.key, at_of(e)), None)
            op = None if w is None else "c" if w.before is None else "d" if w.after is None else "u"
            if w is None:
                said.append(f"{name}: nobody wrote {e}")
            elif (e.op, e.after) != (op, w.after) or not _same(e.before, w.before, whole=op != "d"):
                said.append(f"{name}: {w} was told as {e}")
        said += [f"{name}: lost: {w}" for w in wanted.values()]
        marks = Counter((e.key, e.version) for e in events)
        said += [f"{name}: {n} times {mark}" for mark, n in marks.items() if n > 1]
        return said + rows(f"{name}: replayed", replayed(events).values(), self.truth(f"SELECT * FROM {table}"))


def _same(told: Row | None, stood: Row | None, *, whole: bool) -> bool:
    """The feed shows a deleted row as it was written, which may be in the shape before a change; then common columns are held."""
    if whole or told is None or stood is None:
        return told == stood
    return all(told[c] == stood[c] for c in told.keys() & stood.keys() if stood[c] is not None)


def _kind(values: Sequence[object]) -> pa.DataType:
    found = next((v for v in values if v is not None), "")
    return pa.int64() if isinstance(found, int) else pa.decimal128(6, 2) if isinstance(found, Decimal) else pa.string()


class CockroachWriter(Writer):
    """`columns`: what is written, with types; a test adds what it adds to the table, and takes out first what it drops."""

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self.columns = {"title": "text", "year": "integer", "rating": "numeric", "note": "text", "studio_id": "bigint"}

    def _write(self) -> None:
        rng = self._rng
        try:
            with self._connect() as connection:
                while not self._stop.wait(min(rng.expovariate(1 / self._pace_s), 20 * self._pace_s)):
                    with self._gate:
                        self._transaction(connection)
        except BaseException as error:
            self._failure = error

    def _transaction(self, connection: psycopg.Connection[Any]) -> None:
        rng = self._rng
        columns = dict(self.columns)
        try:
            with connection.transaction(force_rollback=rng.random() < 0.05):
                for _ in range(rng.choice((1, 1, 1, 2, 5))):
                    sql, values = statement(rng, columns)
                    if b"NOT EXISTS" in sql:  # it has no subqueries; a key that is taken is an error then
                        sql, values = b"UPDATE movie SET id = %s WHERE id = %s", values[:2]
                    connection.execute(sql, [str(v) if isinstance(v, Decimal) else v for v in values])
        except (psycopg.errors.UniqueViolation, psycopg.errors.SerializationFailure):
            return  # rolled back, as clients of it must expect
        self.transactions += 1
