"""The ordinary connection: catalogue queries, chunks, marks, heartbeats. Connects when asked, and again after a loss.

Both kinds of connection are opened here, with the settings under which the server writes the same text for a value
whatever the role, database or machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from millstream.errors import Refused, Retryable, without_secrets
from millstream.sources.held import Held
from millstream.sources.postgres import frames
from millstream.sources.postgres.failures import failure
from millstream.sources.postgres.snapshots import Snapshot

_TEXT_SETTINGS = (
    "-c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=3 -c TimeZone=UTC -c bytea_output=hex"
    " -c client_encoding=UTF8 -c search_path=pg_catalog -c statement_timeout=0 -c standard_conforming_strings=on"
    # A row that a policy hides would be lost in silence: then rather an error.
    " -c row_security=off"
)
_NETWORK = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_FLUSH_ARGUMENT_SINCE = 170000


class Server:
    """How to reach it. Raises Refused where the url is none."""

    def __init__(self, url: SecretStr, source: str) -> None:
        self.where = f"source {source}"
        try:
            parameters = conninfo_to_dict(url.get_secret_value())
        except psycopg.Error as error:
            text = without_secrets(str(error), (url.get_secret_value(),))
            raise Refused(
                f"the url is not one of PostgreSQL's: {text}",
                code="url",
                where=self.where,
                cure="postgresql://user:password@host:port/database, with %-codes for special letters",
            ) from None
        self._secrets = (str(parameters.get("password") or ""), url.get_secret_value())
        self._parameters: dict[str, Any] = {
            **_NETWORK,
            "application_name": f"millstream {source}",
            **parameters,
            "options": f"{parameters.get('options') or ''} {_TEXT_SETTINGS}".strip(),
        }

    @property
    def secrets(self) -> tuple[str, ...]:
        return self._secrets

    def connect(self, **more: Any) -> psycopg.Connection[Any]:
        """A connection in autocommit. Raises Refused (password, login, database) or Retryable."""
        with self.failing("cannot connect"):
            return psycopg.connect(make_conninfo(**{**self._parameters, **more}), autocommit=True)

    @contextmanager
    def failing(self, doing: str) -> Iterator[None]:
        """The driver's errors within, as ours."""
        try:
            yield
        except psycopg.Error as error:
            raise failure(error, where=self.where, doing=doing, secrets=self._secrets) from None


class Session(Held):
    """The connection for everything but the stream."""

    def rows(self, query: str | sql.Composable, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; its rows, if it has any."""
        with self._connected("a query failed") as connection:
            text = query.encode() if isinstance(query, str) else query.as_bytes(connection)
            cursor = connection.execute(text, parameters or None)
            return cursor.fetchall() if cursor.description else []

    @property
    def server_version(self) -> int:
        with self._connected("cannot ask the server's version") as connection:
            return connection.info.server_version

    def snapshot(self) -> Snapshot:
        """What a SELECT sees now; within `reading`, what every SELECT of it sees."""
        return Snapshot.parse(self.rows("SELECT pg_current_snapshot()::text")[0][0])

    def emit(self, prefix: str, content: str) -> None:
        """Write a message into the log, in the log's own order, at once in the stream of every reader."""
        at_once = ", true" if self.server_version >= _FLUSH_ARGUMENT_SINCE else ""
        self.rows(f"SELECT pg_logical_emit_message(false, %s, %s{at_once})", [prefix, content])

    def lock(self, table: sql.Composable) -> None:
        """Within `reading`, before all else: no ALTER may commit until it ends. Taking it takes no snapshot, so the one that the next
        statement takes is younger than whatever held the table: for an older one a table that was rewritten since is empty.
        Raises Irrecoverable(STATEMENT) where there is none. Reference: PostgreSQL 18, "LOCK", "Caveats" of concurrency control."""
        self.rows(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(table))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One snapshot for all that is read within, as its first query takes it."""
        with self._lock:
            self.rows("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                yield
            finally:
                # A connection that was lost, or given up in the middle of a COPY, took its transaction with it.
                status = None if self._connection is None else self._connection.info.transaction_status
                if status in (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR):
                    self.rows("ROLLBACK")
                elif status != pq.TransactionStatus.IDLE:
                    self._drop()

    def copy_out(self, statement: sql.Composable, bytes_max: int, stopped: Callable[[], bool]) -> tuple[list[bytes], bool]:
        """The rows of a COPY TO STDOUT, and whether these are all: past `bytes_max` the rest is not read.

        Raises Retryable("closed") soon after `stopped()` says so.
        """
        with self._connected("reading rows failed") as connection:
            rows, whole = frames.copy_out(connection.pgconn, statement.as_bytes(connection), bytes_max, stopped)
            if not whole:
                # Quicker and surer than to cancel: a cancel may hit the next statement instead.
                self._drop()
            if stopped():
                raise Retryable("the source was closed", code="closed", where=self.where)
            return rows, whole
