"""What stands between the pipelines and a source that they read: so many queries a second, and none while it is not well.

One guard a source, shared by all pipelines of the process. How many queries run at once is the source's own limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing

import pyarrow as pa

from millstream.engine.breaker import Breaker
from millstream.errors import MillstreamError, Retryable
from millstream.events.progress import Position
from millstream.sources.contract import Asked, Lookup

# What says nothing of how well the source is: a replica that lags, an end of ours.
_NO_FAULT = ("replica_behind", "not_visible_yet", "closed", "busy")


class Guard:
    """For several threads. Raises Retryable("source_resting") while the source is left alone: what waits is kept by those who ask."""

    def __init__(self, lookup: Lookup, clock: Callable[[], float] = time.monotonic) -> None:
        self.lookup, self._clock = lookup, clock
        self._breaker = Breaker()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._next = 0.0  # when the rate lets the next query out

    @property
    def state(self) -> str:
        """For people: "closed", or why and for how long the source is left alone; and where its answers come from."""
        with self._lock:
            b = self._breaker
            if b.stage == "closed":
                return f"reads {self.lookup.reading}" if self.lookup.reading else "closed"
            return f"{b.stage.replace('_', ' ')}: {b.reason}; next try in {max(b.until - self._clock(), 0):.0f} s"

    def rows(self, asked: Asked, not_before: Position) -> Generator[pa.Table, None, None]:
        """One query, as `Lookup.lookup` gives it."""
        self._wait_turn()
        took = 0.0
        first = True
        settled = False
        try:
            with closing(self.lookup.lookup(asked, not_before)) as pieces:
                while True:
                    began = self._clock()
                    piece = next(pieces, None)
                    if first:  # how long the rest takes is a matter of how many rows there are
                        took, first = self._clock() - began, False
                    if piece is None:
                        break
                    yield piece
            settled = True
            self._went_well(took)
        except Retryable as error:
            if error.code not in _NO_FAULT:
                settled = True
                with self._lock:
                    self._breaker.failed(self._clock(), error.message)
            raise
        finally:
            if not settled:
                with self._lock:
                    self._breaker.left()

    def _wait_turn(self) -> None:
        with self._lock:
            wait_s = self._breaker.ask(self._clock())
            if wait_s is not None:
                raise self._resting(wait_s)
            now = self._clock()
            turn = max(self._next, now)
            self._next = turn + 1 / self.lookup.limits.per_s
        if turn > now and self._closed.wait(turn - now):
            raise Retryable("the source was closed", code="closed", where=f"source {self.lookup.name}")

    def _resting(self, wait_s: float) -> MillstreamError:
        return Retryable(
            f"the source is left alone for {wait_s:.0f} s: {self._breaker.reason}",
            code="source_resting",
            where=f"source {self.lookup.name}",
            cure="see to the source; nothing is lost: what waits goes on when one query has gone well",
        )

    def _went_well(self, took_s: float) -> None:
        slow_ms = self.lookup.limits.slow_ms
        slow = f"{took_s * 1000:.0f} ms, more than lookup_slow_ms ({slow_ms:.0f})" if took_s * 1000 > slow_ms else ""
        with self._lock:
            self._breaker.went_well(self._clock(), slow=slow)

    def close(self) -> None:
        self._closed.set()
        self.lookup.close()
