"""Admission of kind `frontier` (CockroachDB): what lets each version through once where the source says things again at any time, after
newer ones too, and in no order but each key's own. Invariant 2.

Of a table whose events were all given up to a time, its frontier, whatever lies at or below that is a repeat. Above it a repeat is what is
not above the last version admitted for its key. These versions are in the topic too, so nothing of them is kept beside it: the
connector's state says from which offset on a topic holds all that lies at its frontier or above, its *tail*, and an opening reads that
again. Rows of a backfill's chunks stand in it like live events: each has a version at which its key was complete. The frontier may be the
very time of a commit, and is where chunks are read: what was told at that time, by the stream or from a chunk, is not told again by one.

Compaction leaves the last event of each key in the tail. Only where a frontier stands for longer than the topic's history could a
delete be missing there, and be admitted again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.capture.admission import Admission, LogAdmission
from millstream.capture.fingerprints import Fingerprints, Prints
from millstream.capture.keytimes import KeyTimes, Times
from millstream.capture.rowcopy import row_keys
from millstream.errors import Irrecoverable, Refused
from millstream.events.batch import Batch
from millstream.events.progress import Position
from millstream.topics.contract import Block, Topic, Topics

BYTES_MAX = 128 << 20  # of key times in memory, all topics together
PARTS_MAX = 512  # of a topic's tail; even
_READ_BYTES = 8 << 20


@dataclass
class _Tail:
    """What one topic holds above its frontier: (offset of the first record, highest version) of so many commits each, oldest first."""

    parts: list[tuple[int, tuple[int, int]]] = field(default_factory=list)
    commits_each: int = 1
    _in_last: int = 0

    def add(self, start: int, highest: tuple[int, int]) -> None:
        if self.parts and self._in_last < self.commits_each:
            self.parts[-1] = (self.parts[-1][0], max(self.parts[-1][1], highest))
            self._in_last += 1
            return
        if len(self.parts) >= PARTS_MAX:
            older, newer = self.parts[::2], self.parts[1::2]
            self.parts = [(one[0], max(one[1], other[1])) for one, other in zip(older, newer, strict=True)]
            self.commits_each *= 2
        self.parts.append((start, highest))
        self._in_last = 1

    def start(self, frontier: tuple[int, int]) -> int | None:
        """Where the first of them begins that reaches the frontier; None where none does."""
        self.parts = [part for part in self.parts if part[1] >= frontier]
        if not self.parts:
            self.commits_each = 1
            return None
        return self.parts[0][0]


class FrontierAdmission:
    """One opening's, for the topics of `tables` (by table). `state` is what `taken` gave at the last commit, `folder` is where what
    does not fit into memory goes while this is open. `follow` is to be run to its end before all else."""

    def __init__(
        self,
        tables: Mapping[str, Topic],
        position: Position | None,
        state: Mapping[str, Any],
        folder: Path | None,
    ) -> None:
        self._tables = dict(tables)
        self._folder = folder
        self._table_of = {topic.name: table for table, topic in tables.items()}
        self._stored: Mapping[str, int] = state.get("tails", {})
        self._frontier = dict(position.tables) if position is not None else {}
        self._prints = Fingerprints()
        self._highest: dict[str, tuple[int, int]] = {}  # of what is known of each topic
        self._tails = {name: _Tail() for name in self._table_of}
        self._holds: dict[str, dict[str, tuple[int, int]]] = {}
        self._times = {t.name: KeyTimes(self._frontier.get(table, (0, 0)), folder) for table, t in tables.items()}
        self.nbytes = sum(t.nbytes for t in self._times.values())
        """In memory."""

    # ---- opening

    def follow(self, topics: Topics) -> Iterator[None]:
        """Read the tails, piece by piece. The fence is raised: nobody writes there meanwhile."""
        for name in self._table_of:
            offset = self._stored.get(name, 0)
            while batches := topics.read(name, offset, bytes_max=_READ_BYTES):
                for b in batches:
                    assert b.offsets is not None
                    self._take(name, b, int(b.offsets[0]))
                offset = topics.read_end(batches)
                yield

    def _take(self, name: str, batch: Batch, start: int) -> None:
        """Events that the topic has. Of an earlier incarnation none counts: its order was another."""
        batch = batch.filter(np.asarray(batch.column("incarnation")) == self._tables[self._table_of[name]].incarnation)
        counts = (times := _times(batch)).reach(self._frontier.get(self._table_of[name], (0, 0)))
        if not counts.any():
            return
        self._tails[name].add(start, times.highest())
        self._fresh(name, batch.filter(counts), times.take(counts))

    # ---- beside the stream

    def admit(self, topic: str, batch: Batch) -> Batch:
        times = _times(batch)
        above = self._above_frontier(topic, times)
        if not above.all():
            batch, times = batch.filter(above), times.take(above)
        if not len(batch):
            return batch
        fresh = self._fresh(topic, batch, times)
        return batch if fresh.all() else batch.filter(fresh)

    def has(self, topic: str, keys: pa.BinaryArray, read_point: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Which of these keys were told in the version `read_point` or in one above it, by the stream or from a chunk.

        Raises Irrecoverable("read_point_too_old") where that lies below the table's frontier: it is not known any longer.
        """
        if read_point < self._frontier.get(self._table_of[topic], (0, 0)):
            raise Irrecoverable(
                f"rows were read at {Position(*read_point)}, below what is committed of their table",
                code="read_point_too_old",
                where=topic,
                cure="this is a fault of the source: report it; nothing was written",
            )
        return self._times[topic].reach(self._prints.of(keys), read_point)

    def is_beyond(self, topic: str, read_point: tuple[int, int]) -> bool:
        return self._highest.get(topic, (0, 0)) > read_point

    def hold(self, topic: str, who: str, read_point: tuple[int, int] | None) -> None:
        holds = self._holds.setdefault(topic, {})
        if read_point is None:
            holds.pop(who, None)
        else:
            holds[who] = read_point
        if topic in self._times:  # it may have ended meanwhile
            self._times[topic].hold(min(holds.values(), default=None))

    def scanned(self, topic: str, keys: pa.BinaryArray, read_point: tuple[int, int]) -> npt.NDArray[np.bool_]:
        if not len(keys):
            return np.zeros(0, np.bool_)
        times = Times(np.full(len(keys), read_point[0], np.uint64), np.full(len(keys), read_point[1], np.uint32))
        return self._known(topic, self._prints.of(keys), times)

    def taken(self, out: Sequence[Batch], blocks: Sequence[Block], ends: Mapping[str, int], position: Position) -> dict[str, Any]:
        """What the connector's state is to say once these are committed with `position`: "tails", topic → offset. `ends` are those of
        the commit before."""
        after = dict(ends)
        for batch, block in zip(out, blocks, strict=True):
            start = after.get(batch.topic, 0)
            self._tails[batch.topic].add(start, (times := _times(batch)).highest())
            # Rows of a chunk were not admitted. Those of a scan were, and lie behind mostly.
            if (
                batch.column("backfill").null_count < len(batch)
                and times.reach(self._frontier.get(self._table_of[batch.topic], (0, 0))).any()
            ):
                self._fresh(batch.topic, batch, times)
            after[batch.topic] = start + block.records
        tails = {}
        for name, table in self._table_of.items():
            start_of = self._tails[name].start(max(position.tables.get(table, (0, 0)), self._frontier.get(table, (0, 0))))
            tails[name] = after.get(name, 0) if start_of is None else start_of
        return {"tails": tails}

    def begin(self, table: str, topic: Topic) -> None:
        """What its topic so far holds stays known until the next opening: what ends it may be in the same commit."""
        self._tables[table] = topic
        self._table_of[topic.name] = table
        self._tails[topic.name] = _Tail()
        self._times[topic.name] = KeyTimes(self._frontier.get(table, (0, 0)), self._folder)

    def committed(self, position: Position) -> None:
        for table, at in position.tables.items():
            if table in self._tables and at > self._frontier.get(table, (0, 0)):
                self._frontier[table] = at
                times = self._times[self._tables[table].name]
                self.nbytes -= times.nbytes
                times.move(at)
                self.nbytes += times.nbytes

    def _above_frontier(self, topic: str, times: Times) -> npt.NDArray[np.bool_]:
        return times.above(self._frontier.get(self._table_of[topic], (0, 0)))

    def _fresh(self, topic: str, batch: Batch, times: Times) -> npt.NDArray[np.bool_]:
        """Which of these events, none below the frontier, are above the last of their keys."""
        return self._known(topic, self._prints.of(row_keys(batch.keys().flatten(), len(batch), batch.schema, batch.topic)), times)

    def _known(self, topic: str, keys: Prints, times: Times) -> npt.NDArray[np.bool_]:
        """Which are above the last of their keys; they count from here on. Invariant 8: past the bound the largest of the tables goes to
        disk."""
        known = self._times[topic]
        self._highest[topic] = max(self._highest.get(topic, (0, 0)), times.highest())
        self.nbytes -= known.nbytes
        fresh = known.admit(keys, times)
        self.nbytes += known.nbytes
        if self.nbytes > BYTES_MAX:
            largest = max(self._times.values(), key=lambda t: t.nbytes)
            self.nbytes -= largest.nbytes
            largest.spill()
            self.nbytes += largest.nbytes
        return fresh


def _times(batch: Batch) -> Times:
    return Times(np.asarray(batch.column("major")), np.asarray(batch.column("minor")))


def admission_of(
    kind: str, topics: Mapping[str, Topic], position: Position | None, state: Mapping[str, Any], folder: Path | None
) -> Admission:
    """By a source's kind; `topics` by table. Raises Refused("admission_kind")."""
    if kind == "frontier":
        return FrontierAdmission(topics, position, state, folder)
    if kind == "log":
        return LogAdmission(position or Position(0, 0))
    raise Refused(f"admission of kind {kind} is not built", code="admission_kind")
