"""Rows by their values, at or after a position: what `read: source` asks of a PostgreSQL database. See `sources.contract.Lookup`.

The replica is asked first, where there is one, if it has replayed what must be shown or does so soon; else the primary. Each
query runs in a read-only transaction, with the table's lock held from before its columns are looked at: what a name means cannot
change in between. Snapshots are taken by statement: that of the rows is younger than what was found visible before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import psycopg
import pyarrow as pa
from psycopg import sql

from millstream.errors import Irrecoverable, MillstreamError, Refused, Retryable
from millstream.events.progress import Position
from millstream.events.types import Field, Type
from millstream.sources.contract import Asked, Limits
from millstream.sources.names import TableName, quoted
from millstream.sources.postgres import copytext, keys
from millstream.sources.postgres.columns import FIRST_UNFIXED_OID, type_of
from millstream.sources.postgres.describe import FRESH_ID_FROM
from millstream.sources.postgres.options import Options
from millstream.sources.postgres.reader import Reader
from millstream.sources.postgres.session import Server
from millstream.sources.postgres.values import convert

_COLUMNS = """SELECT a.attnum, a.attname, a.atttypid, a.atttypmod, format_type(a.atttypid, -1), c.relkind
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = {schema} AND c.relname = {table} AND a.attnum > 0 AND NOT a.attisdropped"""

REPLICA_REST_S = 5.0  # after it failed or was late it is not waited for

_TIMEOUT, _NO_TABLE, _DENIED = "57014", "42P01", "42501"
# Text that is no value of the column's type, or a type that cannot be compared: compared as text instead.
_NOT_COMPARABLE = ("22P02", "22003", "22007", "22008", "22023", "22P03", "23514", "42804", "42846", "42883", "42725")

Pieces = Generator[pa.Table, None, None]


@dataclass(frozen=True)
class Column:
    """A column as it is now. `base`: its type without modifiers, as SQL writes it."""

    number: int
    name: str
    type: Type
    base: str


def open_lookup(name: str, options: Options) -> Lookup:
    """For the source named `name`. Connects when it is first used."""
    return Lookup(name, options)


class Lookup:
    """Connections to the primary and to the replica, each at most `lookup_connections`."""

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.limits = Limits(options.lookups_per_s, options.lookup_keys, float(options.lookup_slow_ms))
        self._where = f"source {name}"
        self._closed = False
        self._primary = Pool(Server(options.url, name), options, self._stopped, replica=False)
        self._replica = None if options.read_url is None else Pool(Server(options.read_url, name), options, self._stopped, replica=True)
        self._wait_s = options.read_wait_ms / 1000
        self._rests_until = 0.0
        self._said = ""
        self._domains: dict[int, tuple[int, int] | None] = {}

    def _stopped(self) -> bool:
        return self._closed

    @property
    def reading(self) -> str:
        return self._said

    def lookup(self, asked: Asked, not_before: Position) -> Pieces:
        asked = Asked(asked.table, asked.schema, asked.columns, keys.possible(asked.keys), asked.wanted)
        if not asked.keys.num_rows:
            return
        why = ""
        if self._replica is not None:
            resting = time.monotonic() < self._rests_until
            why = yield from self._from_replica(self._replica, asked, not_before, 0.0 if resting else self._wait_s)
            if not why:
                return
        given = False
        try:
            with closing(self._from(self._primary, asked, not_before, self._wait_s)) as pieces:
                for piece in pieces:
                    given = True
                    yield piece
            self._said = f"the primary: {why}" if why else "the primary"
        except Retryable as error:
            if self._replica is None or given or error.code not in ("connection", "standby"):
                raise
            # Nobody else is left: now the replica is worth a wait.
            why = yield from self._from_replica(self._replica, asked, not_before, self._wait_s)
            if why:
                raise Retryable(
                    f"{error.message}; {why}", code="replica_behind", where=self._where, cure="it goes on when one of them can answer"
                ) from None

    def _from_replica(self, replica: Pool, asked: Asked, not_before: Position, wait_s: float) -> Generator[pa.Table, None, str]:
        """As `_from`. Returns why the replica was not read, "" where it was."""
        given = False
        try:
            with closing(self._from(replica, asked, not_before, wait_s)) as pieces:
                for piece in pieces:
                    given = True
                    yield piece
        except MillstreamError as error:
            if given or error.code in ("closed", "schema_not_accepted"):
                raise
            self._rests_until = time.monotonic() + REPLICA_REST_S
            return error.message
        self._said = "the replica"
        self._rests_until = 0.0
        return ""

    def _from(self, pool: Pool, asked: Asked, not_before: Position, wait_s: float) -> Pieces:
        with pool.reader() as reader:
            why = reader.wait_for(not_before, wait_s)
            if why is not None:
                code = "replica_behind" if pool.replica else "not_visible_yet"
                raise Retryable(why, code=code, where=self._where, cure="it goes on when the server has caught up")
            try:
                yield from self._rows(reader, asked, as_text=False)
            except psycopg.Error as error:
                if error.sqlstate not in _NOT_COMPARABLE:
                    raise
                reader.roll_back()
                yield from self._rows(reader, asked, as_text=True)
            reader.roll_back()
            reader.hold_against(not_before)

    def _rows(self, reader: Reader, asked: Asked, *, as_text: bool) -> Pieces:
        name = TableName.parse(asked.table)
        table = sql.Identifier(name.schema, name.table)
        try:
            reader.ask(sql.SQL("BEGIN READ ONLY; SELECT 1 FROM {} LIMIT 0").format(table))
        except psycopg.Error as error:
            raise self._of_table(error, name) from None
        columns, kind = self._columns(reader, name)
        by = [self._column(columns, asked.schema[c], name) for c in asked.columns]
        wanted = [self._column(columns, asked.schema[c], name) for c in asked.wanted]
        statement = sql.SQL("COPY (SELECT {} FROM {}{} AS t WHERE {}) TO STDOUT").format(
            sql.SQL(", ").join(sql.Identifier("t", c.name) for c in wanted),
            sql.SQL("" if kind == "p" else "ONLY "),  # as chunks are read
            table,
            keys.condition([c.name for c in by], [c.base for c in by], asked.keys, as_text=as_text),
        )
        try:
            with closing(reader.copy(statement)) as pieces:
                for rows in pieces:
                    yield _typed(rows, [asked.schema[c] for c in asked.wanted], f"{self._where} {name.written}")
        except psycopg.Error as error:
            if error.sqlstate == _TIMEOUT:
                raise _too_slow(name, by, self._where) from None
            raise

    def _columns(self, reader: Reader, name: TableName) -> tuple[list[Column], str]:
        """The table's columns and its kind, as they are while its lock is held."""
        found = reader.ask(sql.SQL(_COLUMNS).format(schema=sql.Literal(name.schema), table=sql.Literal(name.table)))
        columns = [
            Column(int(number or 0), column or "", self._type(reader, int(oid or 0), int(modifier or -1)), base or "")
            for number, column, oid, modifier, base, _ in found
        ]
        return columns, (found[0][5] or "") if found else ""

    def _type(self, reader: Reader, oid: int, modifier: int) -> Type:
        """A domain counts as what it is made from."""
        while oid >= FIRST_UNFIXED_OID:
            if oid not in self._domains:
                made_from = reader.ask(f"SELECT typbasetype, typtypmod FROM pg_type WHERE oid = {oid} AND typtype = 'd'")
                self._domains[oid] = (int(made_from[0][0] or 0), int(made_from[0][1] or -1)) if made_from else None
            base = self._domains[oid]
            if base is None:
                break
            oid, modifier = base
        return type_of(oid, modifier)

    def _column(self, columns: list[Column], field: Field, name: TableName) -> Column:
        """The column that the field is, whatever it is called now."""
        found = next((c for c in columns if (c.number == field.id if field.id < FRESH_ID_FROM else c.name == field.name)), None)
        if found is None or found.type != field.type:
            now = "is gone" if found is None else f"is {found.type} now, not {field.type}"
            raise Refused(
                f"{name.written}.{field.name} {now} at the source: rows cannot be read in the schema that was accepted",
                code="schema_not_accepted",
                where=self._where,
                cure="look at the change with `millstream plan`, edit what uses the column, then `millstream apply` and run again",
            )
        return found

    def _of_table(self, error: psycopg.Error, name: TableName) -> Exception:
        if error.sqlstate == _NO_TABLE:
            text, cure = f"{name.written} is gone from the source", "take it out of the definitions, or use `read: copies`"
            return Irrecoverable(text, code="table_gone", where=self._where, cure=cure)
        if error.sqlstate == _DENIED:
            text = f"the source's role may not read {name.written}"
            return Refused(text, code="privilege", where=self._where, cure=f"GRANT SELECT ON TABLE {name.quoted} TO that role")
        return error

    def close(self) -> None:
        self._closed = True
        for pool in (self._primary, self._replica):
            if pool is not None:
                pool.close()


class Pool:
    """Connections to one server that wait for the next query, and a limit on how many there are."""

    def __init__(self, server: Server, options: Options, stopped: Callable[[], bool], *, replica: bool) -> None:
        self._server, self._stopped, self.replica = server, stopped, replica
        self._timeout_ms = options.lookup_timeout_ms
        self._free = threading.BoundedSemaphore(options.lookup_connections)
        self._idle: list[Reader] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """One for a query; its errors come out as ours. Waits while all are in use, at most as long as a query may take."""
        if not self._free.acquire(timeout=self._timeout_ms / 1000):
            raise Retryable(
                "all connections for lookups are in use", code="busy", where=self._server.where, cure="raise lookup_connections"
            )
        try:
            with self._server.failing("a lookup failed"):
                yield from self._lent()
        finally:
            self._free.release()

    def _lent(self) -> Iterator[Reader]:
        reader = self._taken()
        try:
            yield reader
            reader.roll_back()
        except BaseException:
            _settle(reader)
            raise
        finally:
            self._put_back(reader)

    def _taken(self) -> Reader:
        with self._lock:
            while self._idle:
                reader = self._idle.pop()
                if reader.usable:
                    return reader
                reader.close()
        return Reader(self._server, replica=self.replica, timeout_ms=self._timeout_ms, stopped=self._stopped)

    def _put_back(self, reader: Reader) -> None:
        with self._lock:
            if not self._closed and not reader.broken:
                self._idle.append(reader)
                return
        reader.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.close()


def _settle(reader: Reader) -> None:
    """After an error: ready for the next query, or closed."""
    with suppress(psycopg.Error, Retryable):
        reader.roll_back()
        return
    reader.close()


def _typed(rows: list[bytes], fields: list[Field], where: str) -> pa.Table:
    """COPY's text in the columns' types; what a type cannot hold is null, as in the topic."""
    octets, cells = copytext.columns(rows, len(fields))
    arrays = []
    for field, column in zip(fields, cells, strict=True):
        try:
            arrays.append(convert(octets, column, field.type).array)
        except Irrecoverable as error:
            error.where = f"{where}.{field.name}"
            raise
    return pa.table(arrays, schema=pa.schema([pa.field(f.name, f.type.arrow) for f in fields]))


def _too_slow(name: TableName, by: list[Column], where: str) -> Retryable:
    names = ", ".join(quoted(c.name) for c in by)
    return Retryable(
        f"rows of {name.written} by ({names}) were not found within lookup_timeout_ms",
        code="lookup_timeout",
        where=where,
        cure=f"CREATE INDEX ON {name.quoted} ({names}), if there is none; or raise lookup_timeout_ms",
    )
