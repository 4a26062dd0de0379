"""Changefeeds as they are read: one connection and one thread each, all into one queue.

A thread exists so that the server goes on sending while a piece is decoded and made durable. What waits in the queue is bounded in
bytes, over all feeds; then nothing more is read, and the server waits. A feed that ends says why, behind all that came before.
Reference: CockroachDB 26.1, "CREATE CHANGEFEED" without INTO; libpq, "Retrieving Query Results Row-by-Row".
"""

from __future__ import annotations

import os
import select
import threading
import time
from binascii import unhexlify
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import pq

from millstream.errors import Irrecoverable, MillstreamError, Retryable
from millstream.sources.cockroach import statements
from millstream.sources.cockroach.decode import Messages
from millstream.sources.cockroach.hlc import Hlc
from millstream.sources.cockroach.layers import Layer
from millstream.sources.cockroach.session import Server, send
from millstream.sources.names import TableName

TICK_S = 0.5
# While behind, a little waiting turns many small pieces into one; nothing waits longer than GATHER_S for others.
NAP_S = 0.002
GATHER_S = 0.05
BEHIND_FROM = 20  # rows that one look at the connection found


@dataclass(frozen=True)
class Limits:
    """Of one piece, and of all that wait together."""

    messages: int
    bytes: int
    queue_bytes: int


@dataclass
class Ability:
    """What is learnt about the server as it is asked: shared by the feeds of a source."""

    json_nulls: bool = True
    unasked: dict[str, str] = field(default_factory=dict)
    """Derived tables of which the server would not take the query, and what it said."""


@dataclass(frozen=True)
class Piece:
    """Messages of one feed, in its order. `bytes` is their size."""

    feed: Feed
    messages: Messages
    bytes: int


@dataclass(frozen=True)
class Ended:
    """The feed gives nothing more, and why. After all of its pieces."""

    feed: Feed
    why: MillstreamError


class Queue:
    """Pieces of several feeds, in the order in which they came. Bounded in bytes; a single piece always finds room in an empty one."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._items: deque[Piece | Ended] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: Piece | Ended) -> None:
        """Waits for room. Where the reader, or the feed, is closed meanwhile the item is lost: nobody wants it."""
        size = item.bytes if isinstance(item, Piece) else 0
        with self._changed:
            while size and self._bytes and self._bytes + size > self._bytes_max and not (self._closed or item.feed.closing):
                self._changed.wait(TICK_S)
            if not (self._closed or item.feed.closing):
                self._items.append(item)
                self._bytes += size
                self._changed.notify_all()

    def take(self, timeout_s: float) -> list[Piece | Ended]:
        """What waits, in its order, up to the end of a feed or about the limits of a piece: who is behind takes more at a time. Nothing, if
        there is nothing within the time, or when it is closed."""
        with self._changed:
            if not self._items and not self._closed and timeout_s > 0:
                self._changed.wait(timeout_s)
            taken: list[Piece | Ended] = []
            messages = size = 0
            while self._items and not self._closed and not (taken and isinstance(taken[-1], Ended)):
                item = self._items[0]
                if isinstance(item, Piece):
                    messages, size = messages + len(item.messages.values), size + item.bytes
                    if taken and (messages > item.feed.limits.messages or size > item.feed.limits.bytes):
                        break
                    self._bytes -= item.bytes
                taken.append(self._items.popleft())
            self._changed.notify_all()
            return taken

    @property
    def is_empty(self) -> bool:
        return not self._items

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclass(frozen=True)
class Watched:
    """A table in a feed: as the definition writes it, its id, and the name that it has now."""

    written: str
    oid: int
    name: TableName


@dataclass(eq=False)
class Feed:
    """One changefeed. `start` it; `close` may be called from any thread, and twice.

    `query`: SELECT … of its one table, which the server evaluates. `received`: bytes of keys and values that came.
    The source's thread keeps on it `layers`, and when it last gave anything (`heard_at`) or a resolved time (`resolved_at`), in seconds of
    the monotonic clock; `resolved`: it has given one.
    """

    server: Server
    tables: tuple[Watched, ...]
    cursor: Hlc
    queue: Queue
    limits: Limits
    ability: Ability
    every: str
    layers: tuple[Layer, ...]
    query: str | None = None
    received: int = 0
    heard_at: float = field(default_factory=time.monotonic)
    resolved_at: float = field(default_factory=time.monotonic)
    resolved: bool = False
    closing: bool = False
    finished: bool = False
    """The server had no more to tell."""

    def __post_init__(self) -> None:
        self._wake_out, self._wake_in = os.pipe()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"{self.server.where} feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Nothing of it is put into the queue from here on."""
        with self._lock:
            self.closing = True
            if self._wake_in >= 0:
                os.write(self._wake_in, b"\0")
        self.queue.wake()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:
            for end in (self._wake_in, self._wake_out):
                if end >= 0:
                    os.close(end)
            self._wake_in = self._wake_out = -1

    # ---- the reading thread

    def _run(self) -> None:
        connection: psycopg.Connection[Any] | None = None
        why: MillstreamError = Retryable("the server ended the feed", code="connection", where=self.server.where)
        try:
            connection = self.server.connect()
            with self.server.failing("the changefeed ended", feed=True):
                self._read(connection.pgconn)
            self.finished = not self.closing
        except MillstreamError as error:
            why = error
        except ValueError as error:  # of what is no BYTES, or no UTF-8
            why = Irrecoverable(
                f"the server sent what is no message of a feed: {error}",
                code="bad_message",
                where=self.server.where,
                cure="check that nothing between here and the server changes the stream, then report this with the server's version",
            )
        finally:
            if connection is not None:
                connection.close()
        self.queue.put(Ended(self, why))

    def _read(self, pgconn: Any) -> None:
        asked = self._ask(pgconn)
        gathered = _Gathered()
        while not self.closing:
            try:
                count, ended = self._drain(pgconn, gathered, asked)
            except psycopg.Error:  # what came before it is told: a place may move to where the feed says that it ended
                self._give(gathered)
                raise
            full = gathered.size >= self.limits.bytes or len(gathered.values) >= self.limits.messages
            if full or ended or not self._worth_waiting(count, gathered):
                self._give(gathered)
                gathered = _Gathered()
            if ended:
                return
            if full:
                continue
            if gathered.values:
                time.sleep(NAP_S)
                pgconn.consume_input()
            elif pgconn.is_busy():
                self._wait(pgconn)

    def _give(self, gathered: _Gathered) -> None:
        if gathered.values:
            self.received += gathered.size
            self.queue.put(Piece(self, gathered.messages(), gathered.size))

    def asked(self, *, json_nulls: bool) -> str:
        """The statement."""
        if self.query is not None:
            return statements.query_feed(self.query, str(self.cursor), json_nulls=json_nulls, every=self.every)
        return statements.feed([t.name for t in self.tables], str(self.cursor), json_nulls=json_nulls, every=self.every)

    def _ask(self, pgconn: Any) -> bool:
        json_nulls = self.ability.json_nulls
        send(pgconn, self.asked(json_nulls=json_nulls).encode())
        return json_nulls

    def _worth_waiting(self, count: int, gathered: _Gathered) -> bool:
        """While the other thread has pieces to work on, a larger one costs no time."""
        waited = time.monotonic() - gathered.since
        return waited < GATHER_S and (not self.queue.is_empty or count >= BEHIND_FROM)

    def _drain(self, pgconn: Any, into: _Gathered, json_nulls: bool) -> tuple[int, bool]:
        """What is at hand, up to about the limits: how many rows, and whether the feed has ended behind them."""
        count, room, bytes_max = 0, self.limits.messages - len(into.values), self.limits.bytes
        is_busy, get_result, single = pgconn.is_busy, pgconn.get_result, pq.ExecStatus.SINGLE_TUPLE
        while count < room and into.size < bytes_max and not is_busy():
            result = get_result()
            if result is None:
                return count, True
            if result.status == single:
                into.add(result)
                count += 1
            elif result.status == pq.ExecStatus.TUPLES_OK:
                continue
            else:
                self._refused(pgconn, result, json_nulls)
        return count, False

    def _refused(self, pgconn: Any, result: Any, json_nulls: bool) -> None:
        """The one option that older servers do not know is left out; anything else ends the feed."""
        error = psycopg.errors.error_from_result(result)
        text = str(error)
        if not (json_nulls and "invalid option" in text and statements.JSON_NULLS in text):
            raise error
        while pgconn.get_result() is not None:  # the connection is free again
            continue
        self.ability.json_nulls = False
        self._ask(pgconn)

    def _wait(self, pgconn: Any) -> None:
        """Until there is something to read, or to stop for."""
        select.select([pgconn.socket, self._wake_out], [], [], TICK_S)
        pgconn.consume_input()  # also where nothing woke us: what TLS has decrypted already does not


class _Gathered:
    """Rows as they come, until they are made a piece."""

    def __init__(self) -> None:
        self._topics: list[str | None] = []
        self._keys: list[bytes | None] = []
        self.values: list[bytes] = []
        self.size = 0
        self.since = time.monotonic()
        self._spelt: dict[bytes, str] = {}

    def add(self, result: Any) -> None:
        topic, key, value = result.get_value(0, 0), _octets(result.get_value(0, 1)), _octets(result.get_value(0, 2))
        if topic is None:
            self._topics.append(None)
        else:
            self._topics.append(self._spelt.get(topic) or self._spelt.setdefault(topic, topic.decode()))
            self.size += len(key or b"")
        self._keys.append(key)
        self.values.append(value or b"")
        self.size += len(value or b"")

    def messages(self) -> Messages:
        return Messages(self._topics, self._keys, self.values)


def _octets(value: bytes | None) -> bytes | None:
    """BYTES, from the text of them."""
    return None if value is None else unhexlify(value[2:])  # behind \x
