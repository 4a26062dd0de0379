"""Which transactions a snapshot sees. The rule that keeps a chunk from overwriting newer rows with older ones.

A commit can be in the stream before any SELECT sees it (a wait for a synchronous standby lies between), so a place in
the log says nothing about what a SELECT saw. The transaction's number does: `pg_current_snapshot()` says which are visible.
Reference: PostgreSQL 18, "Transaction ID and Snapshot Information Functions".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Xids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Snapshot:
    """Transactions below `xmin` are all over; from `xmax` on none is; between, `running` are not. All 64 bit numbers."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """From "xmin:xmax:xip,xip". Raises ValueError on anything else."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(x) for x in running.split(",") if x))

    def widen(self, xids: npt.NDArray[np.uint32]) -> Xids:
        """The stream's 32 bit numbers as 64 bit ones: the nearest to this snapshot, at most 2^31 away."""
        ahead = (xids - np.uint32(self.xmax & 0xFFFFFFFF)).view(np.int32)
        return ahead.astype(np.int64) + self.xmax

    def sees(self, xids: Xids) -> npt.NDArray[np.bool_]:
        """For each committed transaction (64 bit numbers), whether its rows are visible."""
        running = np.fromiter(self.running, np.int64, len(self.running))
        return (xids < self.xmin) | ((xids < self.xmax) & ~np.isin(xids, running))
