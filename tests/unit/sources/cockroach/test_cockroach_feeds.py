"""The queue between feeds and the source's thread; and which events a chunk did not see."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg import pq

from millstream.errors import Retryable
from millstream.events.batch import Batch, batch
from millstream.events.types import Field, RowSchema, Type
from millstream.sources.cockroach import feeds
from millstream.sources.cockroach.chunk import newer
from millstream.sources.cockroach.decode import Messages
from millstream.sources.cockroach.feeds import Ability, Ended, Feed, Limits, Piece, Queue
from millstream.sources.cockroach.hlc import Hlc


class FeedLike:
    """What the queue asks of a feed."""

    closing = False
    limits = Limits(messages=4, bytes=100, queue_bytes=1000)


def feed() -> Any:
    return FeedLike()


def piece(of: Any, size: int, *values: bytes) -> Piece:
    return Piece(of, Messages(["t"] * len(values), [b"k"] * len(values), values), size)


def test_pieces_wait_for_room_and_come_in_order() -> None:
    queue, one = Queue(100), feed()
    queue.put(piece(one, 60))
    put = threading.Event()

    def add() -> None:
        queue.put(piece(one, 60))
        queue.put(Ended(one, Retryable("over", code="x")))
        put.set()

    thread = threading.Thread(target=add)
    thread.start()
    assert not put.wait(0.1), "more waits than may"
    (first,) = queue.take(1)
    assert isinstance(first, Piece) and first.bytes == 60
    assert put.wait(5)
    second, end = queue.take(1)
    assert isinstance(second, Piece) and isinstance(end, Ended)
    assert not queue.take(0) and queue.is_empty
    thread.join()


def test_what_waits_is_taken_together_in_order_up_to_the_limits_or_an_end() -> None:
    queue, one, other = Queue(1000), feed(), feed()
    over = Ended(one, Retryable("over", code="x"))
    for item in (piece(one, 10, b"1"), piece(other, 10, b"2", b"3"), piece(one, 10, b"4"), piece(other, 10, b"5"), piece(one, 90, b"6")):
        queue.put(item)
    queue.put(over)
    queue.put(piece(other, 10, b"7"))
    assert told(queue) == [(one, 10, [b"1"]), (other, 10, [b"2", b"3"]), (one, 10, [b"4"])], "four messages at most"
    assert told(queue) == [(other, 10, [b"5"]), (one, 90, [b"6"]), over], "a hundred bytes at most, and nothing behind an end"
    assert told(queue) == [(other, 10, [b"7"])]


def told(queue: Queue) -> list[Any]:
    return [i if isinstance(i, Ended) else (i.feed, i.bytes, list(i.messages.values)) for i in queue.take(0)]


def test_a_single_large_piece_finds_room_in_an_empty_queue() -> None:
    queue = Queue(10)
    queue.put(piece(feed(), 1000))
    (taken,) = queue.take(0)
    assert isinstance(taken, Piece)


def test_a_closed_feed_stops_waiting_and_its_piece_is_wanted_by_nobody() -> None:
    queue, one, other = Queue(10), feed(), feed()
    queue.put(piece(other, 10))
    thread = threading.Thread(target=lambda: queue.put(piece(one, 10)))
    thread.start()
    one.closing = True
    queue.wake()
    thread.join(5)
    assert not thread.is_alive()
    (taken,) = queue.take(0)
    assert isinstance(taken, Piece) and taken.feed is other
    assert not queue.take(0)


def test_closing_wakes_who_takes() -> None:
    queue = Queue(10)
    threading.Timer(0.05, queue.close).start()
    begun = time.monotonic()
    assert not queue.take(10)
    assert time.monotonic() - begun < 5


def events(*versions: tuple[int, int]) -> Batch:
    schema = RowSchema((Field("id", Type("int64"), 1),), ("id",))
    rows = len(versions)
    return batch(
        "t",
        schema,
        {
            "op": ["d"] * rows,
            "incarnation": pa.array([1] * rows, pa.uint32()),
            "major": pa.array([v[0] for v in versions], pa.uint64()),
            "minor": pa.array([v[1] for v in versions], pa.uint32()),
            "ts_us": [0] * rows,
            "position": [""] * rows,
        },
    )


def test_newer_is_what_lies_above_the_read_point() -> None:
    at = Hlc(1_795_386_334_952_285_922, 5)
    given = [(at.wall, 4), (at.wall, 5), (at.wall, 6), (at.wall - 1, 9), (at.wall + 1, 0)]
    assert newer(at, events(*given)).tolist() == [v > at for v in given]


class RowLike:
    """A row of a feed, as libpq has it."""

    status = pq.ExecStatus.SINGLE_TUPLE

    def __init__(self, value: bytes) -> None:
        self._cells = (b"t", b"\\x5b315d", b"\\x" + value.hex().encode())

    def get_value(self, row: int, column: int) -> bytes:
        return self._cells[column]


class BreaksLike:
    """A connection that has these rows, and behind them an error."""

    def __init__(self, *values: bytes) -> None:
        self._rows = [RowLike(v) for v in values]

    def is_busy(self) -> bool:
        return False

    def get_result(self) -> RowLike:
        if not self._rows:
            raise psycopg.OperationalError("schema change occurred at 1.0000000000")
        return self._rows.pop(0)


def test_what_came_before_an_error_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "send", lambda pgconn, statement: None)
    server: Any = SimpleNamespace(where="here")
    queue = Queue(1000)
    broken = Feed(server, (), Hlc(1, 0), queue, Limits(100, 100, 1000), Ability(), "1s", ())
    with pytest.raises(psycopg.OperationalError):
        broken._read(BreaksLike(b"one", b"two"))
    (only,) = queue.take(0)
    assert isinstance(only, Piece)
    assert list(only.messages.values) == [b"one", b"two"]
    broken.close()
