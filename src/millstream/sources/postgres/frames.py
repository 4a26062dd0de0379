"""Reading CopyData frames from a libpq connection without a call of the operating system for each: the inner loop of it."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import pq

_TICK_S = 0.1


class Ended(Exception):
    """The server ended the copy in good order."""


def wait_readable(pgconn: Any, others: list[int], timeout_s: float) -> None:
    """Until the connection or one of the descriptors can be read, or the time is over."""
    select.select([pgconn.socket, *others], [], [], timeout_s)


def next_frame(pgconn: Any) -> memoryview | None:
    """The next frame, or None where none has arrived.

    Raises Ended, or psycopg.Error with the server's reason.
    """
    data: memoryview
    length, data = pgconn.get_copy_data(1)
    if length == 0:
        # What TLS has decrypted already would not wake a `select`: so the connection itself is asked.
        pgconn.consume_input()
        length, data = pgconn.get_copy_data(1)
    if length > 0:
        return data
    if length == 0:
        return None
    while (result := pgconn.get_result()) is not None:
        if result.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.NONFATAL_ERROR, pq.ExecStatus.BAD_RESPONSE):
            raise psycopg.errors.error_from_result(result)
        if result.status == pq.ExecStatus.COPY_IN:
            break  # the stream's other direction is still open
    raise Ended


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
    try:
        while True:
            frame = next_frame(pgconn)
            if frame is None:
                if stopped():
                    return rows, False
                wait_readable(pgconn, [], _TICK_S)
                continue
            if size > bytes_max:
                return rows, False
            rows.append(bytes(frame))
            size += len(frame)
    except Ended:
        return rows, True
