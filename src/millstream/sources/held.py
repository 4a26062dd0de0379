"""A connection that is held from one question to the next: opened when one is asked, and again after a loss. For libpq's databases."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import psycopg
from psycopg import pq

from millstream.errors import Retryable


class Reached(Protocol):
    """How a server is reached. `failing(doing)`: the driver's errors within, as ours."""

    where: str

    def connect(self) -> psycopg.Connection[Any]: ...
    def failing(self, doing: str) -> AbstractContextManager[None]: ...


class Held:
    """One connection, used by the source's thread; `close` may come from another and waits for what is running."""

    def __init__(self, server: Reached) -> None:
        self._server = server
        self._connection: psycopg.Connection[Any] | None = None
        self._lock = threading.RLock()
        self._closed = False

    @property
    def where(self) -> str:
        return self._server.where

    @contextmanager
    def _connected(self, doing: str) -> Iterator[psycopg.Connection[Any]]:
        with self._lock:
            if self._closed:
                raise Retryable("the source was closed", code="closed", where=self.where)
            if self._connection is None or _lost(self._connection):
                self._drop()
                self._connection = self._server.connect()
            try:
                with self._server.failing(doing):
                    yield self._connection
            except Retryable:
                self._drop()
                raise

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._drop()


def _lost(connection: psycopg.Connection[Any]) -> bool:
    """A server has nothing to say to a connection that asks nothing, but that it ends it. In a transaction of ours it is left to the next
    statement to find out; one that was given up in the middle of an answer is of no use."""
    if connection.closed:
        return True
    status = connection.info.transaction_status
    if status == pq.TransactionStatus.IDLE:
        return bool(select.select([connection.fileno()], [], [], 0)[0])
    return status not in (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)
