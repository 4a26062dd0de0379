"""Admission: what lets each live event through once. Invariant 2.

Here is the kind `log` (Postgres, MySQL): one committed position decides what is a repeat. The source numbers its
events by (major, minor), rising through the stream and the same whenever it says them again.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from millstream.events.batch import Batch
from millstream.events.progress import Position


class Admission(Protocol):
    """One opening of one connector's stream: made anew at every opening and after every lost connection, from what is committed."""

    def admit(self, topic: str, batch: Batch) -> Batch:
        """The events of `batch` that are not in `topic` yet, nor admitted since the last commit, in order. What is admitted counts from
        here on, so each batch is to be committed, or this is to be thrown away."""

    def committed(self, position: Position) -> None:
        """All that was admitted is durable, and so is the position."""


class LogAdmission:
    """Admits what lies above the last committed (major, minor)."""

    def __init__(self, position: Position) -> None:
        self.committed(position)

    def admit(self, topic: str, batch: Batch) -> Batch:
        """The events of the batch that were not committed yet, in order, of whatever topic."""
        major = np.asarray(batch.column("major"))
        if not len(major) or major.min() > self._major:
            return batch
        fresh = (major > self._major) | ((major == self._major) & (np.asarray(batch.column("minor")) > self._minor))
        return batch.filter(fresh)

    def committed(self, position: Position) -> None:
        self._major, self._minor = np.uint64(position.major), np.uint32(position.minor)
