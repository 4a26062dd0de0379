"""Texts of schemas by their ids, kept in memory up to a size: an id means the same for ever, so nothing here grows old."""

from __future__ import annotations

import threading
from collections import OrderedDict

BYTES_MAX = 16 << 20


class Texts:
    """For several threads."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._texts: OrderedDict[int, str] = OrderedDict()
        self._bytes, self._bytes_max = 0, bytes_max
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._texts)

    def get(self, schema_id: int) -> str | None:
        with self._lock:
            return self._texts.get(schema_id)

    def keep(self, schema_id: int, text: str) -> None:
        with self._lock:
            if schema_id in self._texts:
                return
            self._texts[schema_id] = text
            self._bytes += len(text)
            while self._bytes > self._bytes_max and len(self._texts) > 1:  # Invariant 8
                self._bytes -= len(self._texts.popitem(last=False)[1])
