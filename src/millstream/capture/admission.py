"""Admission: what lets each live event through once. Invariant 2.

Here is the kind `log` (Postgres, MySQL): one committed position decides what is a repeat. The source numbers its
events by (major, minor), rising through the stream and the same whenever it says them again.
"""

from __future__ import annotations

import numpy as np

from millstream.events.batch import Batch


class LogAdmission:
    """Admits what lies above the last committed (major, minor)."""

    def __init__(self, major: int, minor: int) -> None:
        self._major, self._minor = np.uint64(major), np.uint32(minor)

    def admit(self, batch: Batch) -> Batch:
        """The events of the batch that were not committed yet, in order."""
        major = np.asarray(batch.column("major"))
        if not len(major) or major.min() > self._major:
            return batch
        fresh = (major > self._major) | ((major == self._major) & (np.asarray(batch.column("minor")) > self._minor))
        return batch.filter(fresh)

    def committed(self, major: int, minor: int) -> None:
        """Everything up to here is durable."""
        self._major, self._minor = np.uint64(major), np.uint32(minor)
