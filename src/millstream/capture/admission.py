"""Admission: what lets each live event through once. Invariant 2.

Here is the kind `log` (Postgres, MySQL): one committed position decides what is a repeat. The source numbers its
events by (major, minor), rising through the stream and the same whenever it says them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.events.batch import Batch
from millstream.events.progress import Position
from millstream.topics.contract import Block, Topic, Topics


class Admission(Protocol):
    """One opening of one connector's stream: made anew at every opening and after every lost connection, from what is committed."""

    def follow(self, topics: Topics) -> Iterator[None]:
        """Read what it needs of the topics, piece by piece: to its end, before anything else is asked."""

    def admit(self, topic: str, batch: Batch) -> Batch:
        """The events of `batch` that are not in `topic` yet, nor admitted since the last commit, in order. What is admitted counts from
        here on, so each batch is to be committed, or this is to be thrown away."""

    def has(self, topic: str, keys: pa.BinaryArray, read_point: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Which of these keys the topic has in the version `read_point` or in one above it, of a chunk that was read there."""

    def is_beyond(self, topic: str, read_point: tuple[int, int]) -> bool:
        """Whether anything that was admitted to the topic lies above a chunk's read point."""

    def hold(self, topic: str, who: str, read_point: tuple[int, int] | None) -> None:
        """From here on what is admitted above this is known for `scanned`, whatever is committed. None: no longer, for `who`.

        `read_point` is no older than what is committed, and not above what the stream has passed."""

    def scanned(self, topic: str, keys: pa.BinaryArray, read_point: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Which rows of a scan (`hold`) are to go in, by their keys: those that were not admitted above its read point, nor came before.
        They count as admitted."""

    def taken(self, out: Sequence[Batch], blocks: Sequence[Block], ends: Mapping[str, int], position: Position) -> Mapping[str, Any]:
        """What it needs in the connector's state once these, batch by block, are committed with `position`. `ends` are those of the
        commit before."""

    def begin(self, table: str, topic: Topic) -> None:
        """From here on the table's events go to this topic, which has none yet."""

    def committed(self, position: Position) -> None:
        """All that was admitted is durable, and so is the position."""


class LogAdmission:
    """Admits what lies above the last committed (major, minor)."""

    def __init__(self, position: Position) -> None:
        self.committed(position)

    def follow(self, topics: Topics) -> Iterator[None]:
        """The position says all."""
        return iter(())

    def admit(self, topic: str, batch: Batch) -> Batch:
        """The events of the batch that were not committed yet, in order, of whatever topic."""
        major = np.asarray(batch.column("major"))
        if not len(major) or major.min() > self._major:
            return batch
        fresh = (major > self._major) | ((major == self._major) & (np.asarray(batch.column("minor")) > self._minor))
        return batch.filter(fresh)

    def has(self, topic: str, keys: pa.BinaryArray, read_point: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """None: in a log a chunk's read point lies ahead."""
        return np.zeros(len(keys), np.bool_)

    def is_beyond(self, topic: str, read_point: tuple[int, int]) -> bool:
        """No, as `has` says."""
        return False

    def hold(self, topic: str, who: str, read_point: tuple[int, int] | None) -> None:
        """Nothing: no source with a log scans."""

    def scanned(self, topic: str, keys: pa.BinaryArray, read_point: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """As `has` says: all."""
        return np.ones(len(keys), np.bool_)

    def taken(self, out: Sequence[Batch], blocks: Sequence[Block], ends: Mapping[str, int], position: Position) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def begin(self, table: str, topic: Topic) -> None:
        """One position is that of all topics."""

    def committed(self, position: Position) -> None:
        self._major, self._minor = np.uint64(position.major), np.uint32(position.minor)
