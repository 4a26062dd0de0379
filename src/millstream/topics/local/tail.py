"""The newest batches of this process's commits, so that its readers need not decode what was just encoded.

Bounded in bytes (invariant 8); the oldest go first. What is not here is read from the file, with the same result.
"""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections import OrderedDict

import numpy as np

from millstream.events.batch import Batch

Place = tuple[str, int]


class Tail:
    """Published batches by topic and first offset."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: OrderedDict[Place, tuple[Batch, int, int]] = OrderedDict()  # batch, offset after it, bytes
        self._firsts: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def put(self, batch: Batch, first: int, after: int) -> None:
        """`batch` has its offsets, and holds every event at or after `first` and before `after`."""
        # Slices share their buffers and each counts them whole: the bound may be met early, never passed.
        size = int(batch.rows.get_total_buffer_size()) + (0 if batch.offsets is None else batch.offsets.nbytes)
        if size > self._bytes_max or first == after:
            return
        with self._lock:
            self._kept[batch.topic, first] = (batch, after, size)
            insort(self._firsts.setdefault(batch.topic, []), first)
            self._bytes += size
            while self._bytes > self._bytes_max:
                (topic, oldest), (_, _, freed) = self._kept.popitem(last=False)
                self._firsts[topic].remove(oldest)
                self._bytes -= freed

    def at(self, topic: str, offset: int) -> tuple[Batch, int] | None:
        """The events from `offset` on of the batch that holds it, and the offset after them; None if it is not kept."""
        with self._lock:
            firsts = self._firsts.get(topic, [])
            index = bisect_right(firsts, offset) - 1
            if index < 0:
                return None
            batch, after, _ = self._kept[topic, firsts[index]]
        if offset >= after or batch.offsets is None:
            return None
        return batch.slice(int(np.searchsorted(batch.offsets, offset))), after

    def next_after(self, topic: str, offset: int) -> int | None:
        """The first kept offset above `offset`: up to there a reader must decode."""
        with self._lock:
            firsts = self._firsts.get(topic, [])
            index = bisect_right(firsts, offset)
            return firsts[index] if index < len(firsts) else None
