"""Reading CopyData frames from a libpq connection without a call of the operating system for each: the inner loop of it."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import pq

_TICK_S = 0.1
_ROWS_AT_ONCE = 10_000


def wait_readable(pgconn: Any, others: list[int], timeout_s: float) -> None:
    """Until the connection or one of the descriptors can be read, or the time is over."""
    select.select([pgconn.socket, *others], [], [], timeout_s)


def at_hand(pgconn: Any, count_max: int, bytes_max: int) -> tuple[list[memoryview], bool]:
    """The frames that have arrived, in order, up to about these limits; and whether the copy has ended behind them.

    Where it has, call `finish` and not this again.
    """
    frames: list[memoryview] = []
    add, get, size = frames.append, pgconn.get_copy_data, 0
    while len(frames) < count_max and size < bytes_max:
        length, data = get(1)
        if length == 0:
            # What TLS has decrypted already would not wake a `select`: so the connection itself is asked.
            pgconn.consume_input()
            length, data = get(1)
        if length == 0:
            return frames, False
        if length < 0:
            return frames, True
        add(data)
        size += length
    return frames, False


def finish(pgconn: Any) -> None:
    """After the end of a copy. Raises psycopg.Error with the server's reason, if it was not a good one."""
    while (result := pgconn.get_result()) is not None:
        if result.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.NONFATAL_ERROR, pq.ExecStatus.BAD_RESPONSE):
            raise psycopg.errors.error_from_result(result)
        if result.status == pq.ExecStatus.COPY_IN:
            return  # the stream's other direction is still open


def execute(pgconn: Any, statement: bytes, wanted: pq.ExecStatus) -> Any:
    """Run a statement by the simple protocol, which is all that a replication connection knows."""
    result = pgconn.exec_(statement)
    if result.status != wanted:
        raise psycopg.errors.error_from_result(result)
    return result


def copy_out(pgconn: Any, statement: bytes, bytes_max: int, stopped: Callable[[], bool]) -> tuple[list[bytes], bool]:
    """The rows of a COPY TO STDOUT, and whether these are all: it stops past `bytes_max`, or where `stopped()`."""
    execute(pgconn, statement, pq.ExecStatus.COPY_OUT)
    rows: list[bytes] = []
    size = 0
    while size <= bytes_max:
        frames, ended = at_hand(pgconn, _ROWS_AT_ONCE, bytes_max - size + 1)
        rows += map(bytes, frames)
        size += sum(map(len, frames))
        if ended:
            finish(pgconn)
            return rows, True
        if stopped():
            break
        if not frames:
            wait_readable(pgconn, [], _TICK_S)
    return rows, False
