"""How far readers are, noted in memory and written now and then: advice for lag and retention, never a reason to wait.

A note goes with the next commit of this process; where none comes, with a write of its own once a second at most.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from millstream.errors import MillstreamError
from millstream.topics.local import rows
from millstream.topics.local.store import Store

_WRITE_EVERY_S = 1.0
_PATIENCE_S = 0.05  # a reader does not stand behind writers for the sake of a note

Noted = dict[str, dict[str, int]]


class Notes:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._unwritten: Noted = {}
        self._tried_at = 0.0

    def add(self, reader: str, positions: Mapping[str, int]) -> None:
        with self._lock:
            self._unwritten.setdefault(reader, {}).update(positions)
        self.write_if_due()

    def over(self, written: Noted) -> Noted:
        """`written` with what is not written yet laid over it."""
        with self._lock:
            return {
                reader: {**written.get(reader, {}), **self._unwritten.get(reader, {})} for reader in sorted({*written, *self._unwritten})
            }

    def join(self, connection: sqlite3.Connection) -> Callable[[], None]:
        """Put what is noted into the caller's transaction; the answer is to be called when that is durable."""
        with self._lock:
            taken = {reader: dict(positions) for reader, positions in self._unwritten.items()}
        rows.note_readers(connection, taken)
        return lambda: self._settle(taken)

    def forget(self, reader: str) -> None:
        """What is noted of the reader and not written is of no use any more."""
        with self._lock:
            self._unwritten.pop(reader, None)

    def write_if_due(self) -> None:
        if self._unwritten and time.monotonic() - self._tried_at >= _WRITE_EVERY_S:
            self.write_now()

    def write_now(self) -> None:
        """A reader is not stopped because its note cannot be written (a busy file, a full disk): it is kept for the next try."""
        if not self._unwritten:
            return
        self._tried_at = time.monotonic()
        with suppress(MillstreamError):
            with self._store.writing("readers", patience_s=_PATIENCE_S) as connection:
                settle = self.join(connection)
            settle()

    def _settle(self, written: Noted) -> None:
        """Forget what was written, but for those who have moved on since."""
        with self._lock:
            self._tried_at = time.monotonic()
            for reader, positions in written.items():
                left = {t: o for t, o in self._unwritten.pop(reader, {}).items() if positions.get(t) != o}
                if left:
                    self._unwritten[reader] = left
