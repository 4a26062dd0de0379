"""Figures that a part tells of itself: rates and percentiles over the last moments, in little memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

RATE_WINDOW_S = 10.0
FRESHNESS_WINDOW_S = 60.0
SAMPLES_MAX = 500  # of one write
WRITES_MAX = 500


class Rate:
    """How fast a count that only rises does so."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now_s: float, total: int) -> None:
        self._seen.append((now_s, total))
        while len(self._seen) > 2 and (now_s - self._seen[1][0] >= RATE_WINDOW_S or len(self._seen) > WRITES_MAX):
            self._seen.popleft()

    @property
    def per_second(self) -> float:
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return 0.0
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_s - first_s)

    def left(self, waiting: int) -> dict[str, float]:
        """The rate, and when none waits at that rate; nothing where none waits, or nothing moves."""
        rate = self.per_second if waiting else 0.0
        return {"pending_rate": round(rate, 1), "pending_left_s": round(waiting / rate, 1)} if rate else {}


class Freshness:
    """How old events were when they were written: from the commit at their source."""

    def __init__(self) -> None:
        self._writes: deque[tuple[float, npt.NDArray[np.float64]]] = deque(maxlen=WRITES_MAX)

    def note(self, now_s: float, ts_us: npt.NDArray[np.int64]) -> None:
        """Events with these commit times were written. Of a large write an even part counts."""
        if len(ts_us):
            some = ts_us[:: -(-len(ts_us) // SAMPLES_MAX)]
            self._writes.append((now_s, now_s * 1e3 - some / 1e3))

    def figures(self, now_s: float) -> dict[str, float]:
        """Half and 99 of 100 events were at most so old (milliseconds); nothing where none was written of late."""
        while self._writes and now_s - self._writes[0][0] > FRESHNESS_WINDOW_S:
            self._writes.popleft()
        if not self._writes:
            return {}
        p50, p99 = np.percentile(np.concatenate([ages for _, ages in self._writes]), [50, 99])
        return {"freshness_p50_ms": round(float(p50), 1), "freshness_p99_ms": round(float(p99), 1)}


class Counted(Protocol):
    """What counts since it was made: keys that changes have made wait, and rows written for them."""

    @property
    def triggers(self) -> int: ...
    @property
    def documents(self) -> int: ...


class Work:
    """How many documents were written for how many triggers, since `since` (seconds since 1970): over restarts, as each commit has it."""

    def __init__(self, now_s: float) -> None:
        self._since, self._triggers, self._documents = now_s, 0, 0

    def restore(self, kept: Mapping[str, Any], counted: Counted) -> None:
        """Go on from what a commit held. What was counted in rounds that came to nothing counts no longer."""
        if kept:
            self._since = kept["since"]
        self._triggers = kept.get("triggers", 0) - counted.triggers
        self._documents = kept.get("documents", 0) - counted.documents

    def state(self, counted: Counted) -> dict[str, Any]:
        return {"since": self._since, "triggers": self._triggers + counted.triggers, "documents": self._documents + counted.documents}

    def figures(self, counted: Counted) -> dict[str, float]:
        """The ratio is below 1 where changes of one key met in one refresh, or made no difference; above it only where a unit has rows."""
        at = self.state(counted)
        ratio = {"documents_per_trigger": round(at["documents"] / at["triggers"], 3)} if at["triggers"] else {}
        return {"triggers": at["triggers"], "documents": at["documents"], **ratio, "counted_since": at["since"]}
