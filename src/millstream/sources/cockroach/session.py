"""The ordinary connection: catalogue queries and chunks. Connects when asked, and again after a loss.

Both kinds of connection are opened here, with the settings under which the server writes the same text for a value
whatever the user, database or machine.
"""

from __future__ import annotations

import re
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from millstream.errors import Refused, Retryable, without_secrets
from millstream.sources.cockroach import statements
from millstream.sources.cockroach.failures import failure
from millstream.sources.held import Held

_NETWORK = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_VERSION = re.compile(r"\bv(\d+)\.(\d+)")
_TICK_S = 0.1


class Server:
    """How to reach it. Raises Refused where the url is none."""

    def __init__(self, url: SecretStr, source: str) -> None:
        self.where = f"source {source}"
        try:
            parameters = conninfo_to_dict(url.get_secret_value())
        except psycopg.Error as error:
            text = without_secrets(str(error), (url.get_secret_value(),))
            raise Refused(
                f"the url is not one of CockroachDB's: {text}",
                code="url",
                where=self.where,
                cure="postgresql://user:password@host:26257/database?sslmode=verify-full, with %-codes for special letters",
            ) from None
        self._secrets = (str(parameters.get("password") or ""), url.get_secret_value())
        self._parameters: dict[str, Any] = {**_NETWORK, "application_name": f"millstream {source}", **parameters}

    def connect(self) -> psycopg.Connection[Any]:
        """A connection in autocommit. Raises Refused (password, login, database) or Retryable."""
        with self.failing("cannot connect"):
            connection = psycopg.connect(make_conninfo(**self._parameters), autocommit=True, prepare_threshold=None)
            try:
                connection.execute("; ".join(statements.SETTINGS))  # type: ignore[arg-type, unused-ignore]
            except BaseException:
                connection.close()
                raise
            return connection

    @contextmanager
    def failing(self, doing: str, *, feed: bool = False) -> Iterator[None]:
        """The driver's errors within, as ours."""
        try:
            yield
        except psycopg.Error as error:
            raise failure(error, where=self.where, doing=doing, secrets=self._secrets, feed=feed) from None


class Session(Held):
    """The connection for everything but feeds."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._version: tuple[int, int] | None = None

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement; its rows."""
        return self.table(statement)[1]

    def table(self, statement: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run one statement; the names of its columns, and its rows."""
        with self._connected("a query failed") as connection:
            cursor = connection.execute(statement.encode())
            return [c.name for c in cursor.description or ()], cursor.fetchall() if cursor.description else []

    def texts(self, statement: str, bytes_max: int, stopped: Callable[[], bool]) -> tuple[list[list[bytes | None]], bool]:
        """The rows of a statement as the server writes them, and whether these are all: past `bytes_max` the rest is not read.

        Raises Retryable("closed") soon after `stopped()` says so.
        """
        with self._connected("reading rows failed") as connection:
            rows, whole = _read(connection, statement.encode(), bytes_max, stopped)
            if not whole:
                # Quicker and surer than to cancel: a cancel may hit the next statement instead.
                self._drop()
            if stopped():
                raise Retryable("the source was closed", code="closed", where=self.where)
            return rows, whole

    @property
    def version(self) -> tuple[int, int]:
        """(26, 1). Raises Refused where the server is no CockroachDB."""
        if self._version is None:
            (said,) = self.rows(statements.VERSION)[0]
            found = _VERSION.search(str(said))
            if found is None or "CockroachDB" not in str(said):
                raise Refused(
                    f"the server is no CockroachDB but {str(said)[:80]}",
                    code="server_version",
                    where=self.where,
                    cure="point the url at a CockroachDB cluster, or give the source the `kind` that its database has",
                )
            self._version = (int(found[1]), int(found[2]))
        return self._version


def _read(
    connection: psycopg.Connection[Any], statement: bytes, bytes_max: int, stopped: Callable[[], bool]
) -> tuple[list[list[bytes | None]], bool]:
    pgconn = connection.pgconn
    send(pgconn, statement)
    rows: list[list[bytes | None]] = []
    size = 0
    while size <= bytes_max and not stopped():
        if pgconn.is_busy():
            if select.select([pgconn.socket], [], [], _TICK_S)[0]:
                pgconn.consume_input()
            continue
        result = pgconn.get_result()
        if result is None:
            return rows, True
        if result.status == pq.ExecStatus.SINGLE_TUPLE:
            row = [result.get_value(0, i) for i in range(result.nfields)]
            rows.append(row)
            size += sum(len(value) for value in row if value is not None)
        elif result.status != pq.ExecStatus.TUPLES_OK:
            raise psycopg.errors.error_from_result(result)
    return rows, False


def send(pgconn: Any, statement: bytes) -> None:
    """Have the rows of a statement come one by one, as text: BYTES in hex."""
    pgconn.send_query(statement)
    pgconn.set_single_row_mode()
    while pgconn.flush():
        select.select([], [pgconn.socket], [], _TICK_S)
