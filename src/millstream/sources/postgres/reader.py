"""One connection that reads rows beside the stream: the primary's, or a replica's. Every wait on it has an end.

A replica is spoken to as a WAL sender, which runs ordinary queries too: only there the server says which timeline it replays, and one
session cannot be led to two servers by a balancer.
Reference: PostgreSQL 18, "Streaming Replication Protocol" (IDENTIFY_SYSTEM), "Recovery Information Functions".
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import psycopg
from psycopg import pq, sql

from millstream.errors import Irrecoverable, Retryable
from millstream.events.progress import Position
from millstream.sources.postgres import frames
from millstream.sources.postgres.messages import lsn_of
from millstream.sources.postgres.session import Server
from millstream.sources.postgres.snapshots import Snapshot
from millstream.sources.postgres.transport import Identity

_TICK_S = 0.1
_POLL_S = 0.02
_GRACE_S = 2.0  # beyond the server's own timeout: it has none for a network that swallows everything
_PIECE_BYTES = 4 << 20

_PRIMARY = """SELECT pg_is_in_recovery(), system_identifier,
    CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_insert_lsn()) END FROM pg_control_system()"""

Row = tuple[str | None, ...]


class Reader:
    """Not for two threads at once. `broken`: of no more use."""

    def __init__(self, server: Server, *, replica: bool, timeout_ms: int, stopped: Callable[[], bool]) -> None:
        self._server, self._replica, self._stopped = server, replica, stopped
        self._timeout_s = timeout_ms / 1000
        more = {"replication": "database"} if replica else {}
        self._connection = server.connect(application_name=f"millstream {server.where} lookup", **more)
        self._pgconn: Any = self._connection.pgconn
        self.broken = False
        try:
            self.ask(f"SET statement_timeout = {timeout_ms}; SET default_transaction_read_only = on")
            if not replica:
                self._identity = self._primary_identity()
        except BaseException:
            self.close()
            raise

    # ---- at or after a position

    def wait_for(self, position: Position, wait_s: float) -> str | None:
        """Until what this server shows has all that `position` counts; None then, else why it does not, after `wait_s`.

        Raises Irrecoverable("other_server") where its log is another one: it never will.
        """
        self.hold_against(position)
        give_up = time.monotonic() + wait_s
        while (why := self._replica_lacks(position) if self._replica else self._primary_lacks(position)) is not None:
            if time.monotonic() >= give_up or self._stopped():
                return why
            time.sleep(_POLL_S)
        return None

    def hold_against(self, position: Position) -> None:
        """Raises Irrecoverable("other_server") unless the server has the history that the position belongs to. Of a replica it
        must be asked again after a read: it may have followed its primary elsewhere meanwhile."""
        identity = self._replica_identity() if self._replica else self._identity
        wanted = (position.detail.get("system"), position.detail.get("timeline"))
        if wanted != (None, None) and wanted != (identity.system, identity.timeline):
            raise Irrecoverable(
                f"the events belong to server {wanted[0]}, timeline {wanted[1]}; {self._what} is {identity.system}, timeline "
                f"{identity.timeline}: places in their logs cannot be compared",
                code="other_server",
                where=self._server.where,
                cure=f"point {'read_url at a replica of' if self._replica else 'the url at'} the server that the source streams from",
            )

    @property
    def _what(self) -> str:
        return "the replica" if self._replica else "the server"

    def _replica_lacks(self, position: Position) -> str | None:
        """A row of the log is visible once its commit is replayed: beyond the place where its record begins."""
        recovering, replayed = self.ask("SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()")[0]
        if recovering != "t":
            return "read_url is no replica: it is not in recovery"
        if replayed is not None and lsn_of(replayed) > position.major:
            return None
        return f"the replica has replayed up to {replayed}, {position.major - lsn_of(replayed or '0/0'):,} bytes behind what must be shown"

    def _primary_lacks(self, position: Position) -> str | None:
        """On a primary a commit is in the log, and in the stream, a little before any query sees it."""
        unseen = np.array(position.detail.get("unseen", []), np.int64)
        if not len(unseen):
            return None
        snapshot = Snapshot.parse(self.ask("SELECT pg_current_snapshot()::text")[0][0] or "")
        missing = int((~snapshot.sees(unseen)).sum())
        return f"{missing} transactions are committed, but no query sees them yet" if missing else None

    def _primary_identity(self) -> Identity:
        recovering, system, file = self.ask(_PRIMARY)[0]
        if recovering == "t" or file is None:
            raise Retryable(
                "the server is a standby now: only a primary shows every commit at once",
                code="standby",
                where=self._server.where,
                cure="point the url at the primary",
            )
        return Identity(system or "", int(file[:8], 16))

    def _replica_identity(self) -> Identity:
        system, timeline, *_ = self.ask("IDENTIFY_SYSTEM")[0]
        return Identity(system or "", int(timeline or 0))

    # ---- statements

    def ask(self, statements: str | sql.Composable) -> list[Row]:
        """Run them by the simple protocol; the rows of the last one, as the server's texts. Raises psycopg.Error as it comes."""
        self._send(statements)
        rows: list[Row] = []
        for result in self._results():
            rows = [
                tuple(None if (v := result.get_value(r, c)) is None else v.decode() for c in range(result.nfields))
                for r in range(result.ntuples)
            ]
        return rows

    def copy(self, statement: sql.Composable) -> Generator[list[bytes], None, None]:
        """The rows of a COPY TO STDOUT, piece by piece. Left before its end, the connection is broken."""
        self._send(statement)
        self.broken = True
        give_up = time.monotonic() + self._timeout_s + _GRACE_S
        self._await(give_up)
        result = self._pgconn.get_result()
        if result.status != pq.ExecStatus.COPY_OUT:
            frames.finish(self._pgconn)
            self.broken = False
            raise psycopg.errors.error_from_result(result)
        piece: list[bytes] = []
        size = 0
        while True:
            found, ended = frames.at_hand(self._pgconn, 10_000, _PIECE_BYTES - size)
            piece += map(bytes, found)
            size += sum(map(len, found))
            if ended or size >= _PIECE_BYTES:
                if piece:
                    yield piece
                piece, size = [], 0
            if ended:
                break
            if not found:
                self._patience(give_up)
        self.broken = False  # an error that the end brings leaves the connection in order
        frames.finish(self._pgconn)

    def roll_back(self) -> None:
        """End the transaction, if there is one, and be ready for the next."""
        if not self.broken and self._pgconn.transaction_status != pq.TransactionStatus.IDLE:
            self.ask("ROLLBACK")

    @property
    def usable(self) -> bool:
        """Neither broken nor, as far as can be seen without asking, ended by the server."""
        return not self.broken and not self._connection.closed and not select.select([self._pgconn.socket], [], [], 0)[0]

    @property
    def connection(self) -> psycopg.Connection[Any]:
        return self._connection

    def close(self) -> None:
        self.broken = True
        self._connection.close()

    # ---- waiting

    def _send(self, statements: str | sql.Composable) -> None:
        text = statements.encode() if isinstance(statements, str) else statements.as_bytes(self._connection)
        try:
            self._pgconn.send_query(text)
        except psycopg.Error:
            self.broken = True
            raise

    def _results(self) -> Iterator[Any]:
        give_up = time.monotonic() + self._timeout_s + _GRACE_S
        failed = None
        while True:
            self._await(give_up)
            result = self._pgconn.get_result()
            if result is None:
                break
            if result.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE):
                failed = failed or result
            else:
                yield result
        if failed is not None:
            raise psycopg.errors.error_from_result(failed)

    def _await(self, give_up: float) -> None:
        """Until a result is there."""
        try:
            self._pgconn.consume_input()
            while self._pgconn.is_busy():
                self._patience(give_up)
                self._pgconn.consume_input()
        except psycopg.Error:
            self.broken = True
            raise

    def _patience(self, give_up: float) -> None:
        frames.wait_readable(self._pgconn, [], _TICK_S)
        if self._stopped() or time.monotonic() > give_up:
            self.broken = True
            if self._stopped():
                raise Retryable("the source was closed", code="closed", where=self._server.where)
            raise Retryable(
                f"{self._what} gave no answer within {self._timeout_s:g} s",
                code="lookup_timeout",
                where=self._server.where,
                cure="see whether the server is overloaded; an index on the columns that are looked up helps it most",
            )
