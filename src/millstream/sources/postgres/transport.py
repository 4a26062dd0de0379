"""The replication connection: a thread reads it in large pieces, answers the server, and keeps it alive.

The thread exists so that the server goes on sending while a piece is decoded and made durable, and so that it is
answered however long that takes. At most QUEUED_MAX pieces wait, and one is in the thread's hands; then nothing more
is read. It reports as flushed only what was acknowledged (invariant 1).
Reference: PostgreSQL 18, "Streaming Replication Protocol".
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from psycopg import pq

from millstream.errors import Irrecoverable, MillstreamError, Retryable
from millstream.sources.octets import PADDING
from millstream.sources.postgres import frames, publications
from millstream.sources.postgres import messages as m
from millstream.sources.postgres.decode import Messages
from millstream.sources.postgres.session import Server

QUEUED_MAX = 2
STATUS_EVERY_S = 10.0
STATUS_WHEN_MOVED_S = 0.5
# While behind: the server sends one message a call; waiting a little turns a thousand small reads into one.
NAP_S = 0.0025
NAP_UNIX_S = 0.0005  # a Unix socket holds some 280 messages, whatever their size, and then the server waits
BEHIND_FROM = 20_000  # messages a second
GATHER_S = 0.06  # no event waits longer than this for others

_NOT_AS_REQUIRED = "55000"


@dataclass(frozen=True)
class Identity:
    """Which server, and which history of it, positions belong to."""

    system: str
    timeline: int


@dataclass(frozen=True)
class Piece:
    """Messages in stream order. `sent_to`: the server had nothing before this place that is not here or in earlier pieces."""

    messages: Messages | None
    sent_to: int | None


class Link:
    """One replication connection. `open` it, `start` it, `take` pieces, `acknowledge`, `close`."""

    def __init__(self, server: Server, *, batch_messages: int, batch_bytes: int) -> None:
        self._server = server
        self._messages_max, self._bytes_max = batch_messages, batch_bytes
        self._connection = server.connect(replication="database")
        self._pgconn: Any = self._connection.pgconn
        self._connection.add_notice_handler(self._warned)
        self._nap_s = NAP_UNIX_S if self._pgconn.host.startswith(b"/") else NAP_S
        self._queue: deque[Piece] = deque()
        self._changed = threading.Condition()
        self._failure: MillstreamError | None = None
        self._warning: MillstreamError | None = None
        self._closing = False
        self._flushed = 0
        self._reported = (0, 0.0)  # what, and when
        self._wake_out, self._wake_in = os.pipe()
        self._thread: threading.Thread | None = None

    def identify(self) -> Identity:
        with self._server.failing("cannot ask the server who it is"):
            result = frames.execute(self._pgconn, b"IDENTIFY_SYSTEM", pq.ExecStatus.TUPLES_OK)
        return Identity(result.get_value(0, 0).decode(), int(result.get_value(0, 1)))

    def start(self, slot: str, publication: str, lsn: int) -> None:
        """Stream everything that committed at or after `lsn` (0: from where the slot stands)."""
        names = '"' + publication.replace('"', '""').replace("'", "''") + '"'
        options = f"proto_version '1', publication_names '{names}', messages 'true'"
        with self._server.failing(f"cannot stream from slot {slot}"):
            frames.execute(
                self._pgconn, f'START_REPLICATION SLOT "{slot}" LOGICAL {m.lsn_text(lsn)} ({options})'.encode(), pq.ExecStatus.COPY_BOTH
            )
        self._flushed = lsn
        self._thread = threading.Thread(target=self._run, name=f"{self._server.where} reader", daemon=True)
        self._thread.start()

    # ---- for the source's thread

    def take(self, timeout_s: float) -> Piece | None:
        """The next piece, None if there is none within the time. Raises what ended the connection, after all that came before it."""
        with self._changed:
            if not self._queue and self._failure is None:
                self._changed.wait(timeout_s)
            if self._queue:
                piece = self._queue.popleft()
                self._changed.notify_all()
                return piece
            if self._failure is not None:
                raise self._failure
            return None

    def acknowledge(self, lsn: int) -> None:
        """All before `lsn` is durable. The server is told within STATUS_WHEN_MOVED_S."""
        self._flushed = max(self._flushed, lsn)

    def close(self) -> None:
        """May be called from any thread, and twice."""
        with self._changed:
            self._closing = True
            if self._failure is None:
                self._failure = Retryable("the source was closed", code="closed", where=self._server.where)
            self._changed.notify_all()
            if self._wake_in >= 0:
                os.write(self._wake_in, b"\0")
        if self._thread is None:
            self._connection.close()
        elif self._thread is not threading.current_thread():
            self._thread.join()
        self._close_pipe()

    def _close_pipe(self) -> None:
        with self._changed:
            for end in (self._wake_in, self._wake_out):
                if end >= 0:
                    os.close(end)
            self._wake_in = self._wake_out = -1

    # ---- the reading thread

    def _run(self) -> None:
        try:
            with self._server.failing("the replication connection was lost"):
                while not self._closing:
                    self._read()
        except MillstreamError as error:
            self._fail(error)
        finally:
            self._connection.close()

    def _warned(self, warning: psycopg.errors.Diagnostic) -> None:
        """From version 18 on a publication that is gone is only warned of, and the stream goes on without its changes."""
        if warning.sqlstate == _NOT_AS_REQUIRED:
            text = f"the server says: {warning.message_primary}. Changes after this place are lost"
            self._warning = Irrecoverable(text, code="publication_gone", where=self._server.where, cure=publications.CURE)

    def _fail(self, error: MillstreamError) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _read(self) -> None:
        """Wait for something, gather what there is, hand it over."""
        gathered = _Gathered()
        enough = time.monotonic() + GATHER_S
        while True:
            count, ended = self._drain(gathered)
            self._answer(asked=gathered.take_question())
            if ended or gathered.full(self._messages_max, self._bytes_max) or self._closing:
                break
            # While the other thread has pieces to work on, a larger one costs no time.
            if not self._queue and (count < BEHIND_FROM * self._nap_s or time.monotonic() > enough):
                break
            time.sleep(self._nap_s)
        if self._warning is not None:
            raise self._warning  # before a place is reported that lies behind what was lost
        if not gathered.empty:
            self._hand_over(gathered.piece())
        if ended:
            frames.finish(self._pgconn)
            raise Retryable("the server ended the stream: it is shutting down", code="connection", where=self._server.where)
        if gathered.empty:
            frames.wait_readable(self._pgconn, [self._wake_out], STATUS_WHEN_MOVED_S)

    def _drain(self, into: _Gathered) -> tuple[int, bool]:
        found, ended = frames.at_hand(self._pgconn, self._messages_max - len(into.frames), self._bytes_max - into.bytes)
        into.add(found)
        return len(found), ended

    def _hand_over(self, piece: Piece) -> None:
        with self._changed:
            while len(self._queue) >= QUEUED_MAX and not self._closing:
                self._changed.wait(STATUS_WHEN_MOVED_S)
                # What the server asks meanwhile is not read, so it is answered unasked.
                self._answer(asked=False, every_s=STATUS_WHEN_MOVED_S)
            self._queue.append(piece)
            self._changed.notify_all()

    def _answer(self, *, asked: bool, every_s: float = STATUS_EVERY_S) -> None:
        """Report what was acknowledged: at once when asked, soon when it moved, and regularly so as not to be given up."""
        flushed, now = self._flushed, time.monotonic()
        reported, at = self._reported
        due = STATUS_WHEN_MOVED_S if flushed != reported else every_s
        if asked or now - at >= due:
            self._pgconn.put_copy_data(m.standby_status(flushed, int(time.time() * 1e6)))
            self._pgconn.flush()
            self._reported = (flushed, now)


class _Gathered:
    """Frames as they come, until they are made a piece."""

    def __init__(self) -> None:
        self.frames: list[memoryview] = []
        self.bytes = 0
        self.sent_to: int | None = None
        self._asked = False

    @property
    def empty(self) -> bool:
        return not self.frames and self.sent_to is None

    def full(self, messages_max: int, bytes_max: int) -> bool:
        return len(self.frames) >= messages_max or self.bytes >= bytes_max

    def take_question(self) -> bool:
        """Whether the server asked for an answer since this was last called."""
        asked, self._asked = self._asked, False
        return asked

    def add(self, frames: list[memoryview]) -> None:
        for frame in frames:
            if len(frame) == m.KEEPALIVE_BYTES:
                self.sent_to, asked = m.keepalive(frame)
                self._asked |= asked
            else:
                self.frames.append(frame)
                self.bytes += len(frame)
                self.sent_to = None

    def piece(self) -> Piece:
        if not self.frames:
            return Piece(None, self.sent_to)
        lengths = np.fromiter(map(len, self.frames), np.int64, len(self.frames))
        at = np.cumsum(lengths) - lengths + m.XLOG_HEADER_BYTES
        return Piece(Messages(b"".join([*self.frames, PADDING]), at), self.sent_to)
