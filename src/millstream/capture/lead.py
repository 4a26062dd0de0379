"""How far a backfill may be ahead of those who read its topic. Live changes stand in the topic behind the rows of its chunks: where
rows come faster than readers take them, each chunk more makes every change older. So no chunk is read before the last one has gone all the
way, and it is as large as those on the way can bear (`pace`).

Followed are the readers of the topic and those of the topics that they write: a sink waits for what its pipeline makes of the rows.
How far each is, the topics' own notes say, and how fast, its moves from note to note; they are advice, so nothing but the pace of a
backfill hangs on them (invariant 3).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from millstream.capture import pace
from millstream.capture.pace import Move, Stage
from millstream.topics.contract import Topics

LOOK_EVERY_S = 0.02
STANDS_AFTER_S = 10.0
KNOWN_FOR_S = 5.0
FIRST_SEEN_S = 5.0  # for so long one that was never seen to move may be about to
ADAPTS_EVERY = 4  # chunks
BLIND_AFTER_S = 1.0  # between two looks: then a move says nothing

Place = tuple[str, str]  # reader, topic


@dataclass(frozen=True)
class Behind:
    """A reader that is on its way, and how many records of a topic it has before it up to where the last chunk ended."""

    reader: str
    topic: str
    records: int

    def __str__(self) -> str:
        return f"waits for {self.reader}, which is {self.records:,} records behind in {self.topic}"


class Lead:
    """One connector's. A reader that stands (paused, stopped, waiting for a load) holds nobody up: only one counts whose place has moved
    of late, or that fell behind no longer ago than that. Not thread-safe."""

    def __init__(self, topics: Topics, clock: Callable[[], float]) -> None:
        self._topics, self._clock = topics, clock
        self._chunks: dict[str, int] = {}  # of a table's topic, how many were read
        self._marks: dict[tuple[str, str], tuple[int, int]] = {}  # table's topic, topic → chunk, offset at which all of it was there
        self._places: dict[Place, int] = {}  # offset
        self._lively: dict[Place, float] = {}  # when it moved last, or was not behind
        self._since: dict[Place, float] = {}  # when it moved last, or had nothing before it
        self._moves: dict[Place, tuple[deque[Move], deque[Move]]] = {}  # without rows of a chunk, and with them
        self._had_before: dict[Place, bool] = {}  # the chunk, at the last look
        self._reads: deque[Move] = deque(maxlen=pace.MOVES_KEPT)
        self._rows: dict[str, int] = {}
        self._last: dict[str, int] = {}  # rows of the last chunk
        self._adapted_at: dict[str, int] = {}  # chunks
        self._writes: dict[str, tuple[str, ...]] = {}
        self._looked_at = self._asked_at = -math.inf
        self._is_blind, self._has_read = True, False
        self._found: dict[str, Behind | None] = {}
        self._readers: Mapping[str, Mapping[str, int]] = {}

    def behind(self, topic: str) -> Behind | None:
        """Who has not taken the last chunk of this topic; of several the one that is furthest. Asked often, it looks now and then. Not to
        be asked between `took` and the chunk's commit."""
        now = self._clock()
        if self._has_read or not 0 <= now - self._looked_at < LOOK_EVERY_S:
            self._is_blind, self._has_read = now - self._looked_at > BLIND_AFTER_S, False
            self._looked_at, self._readers, self._found = now, self._topics.readers(), {}
        if topic not in self._found:
            self._found[topic] = max(self._along(topic, now), key=lambda b: b.records, default=None)
            self._adapt(topic, now)
        return self._found[topic]

    def rows(self, topic: str) -> int | None:
        """Of its next chunk, as at the last look; None: it has no readers. In turn fewer: where a chunk is in every move of a reader, one
        could not see what a row costs."""
        readers = [reader for reader, at in self._readers.items() if topic in at]
        if not any(self._is_lively((reader, topic), self._clock()) for reader in readers):
            return pace.ROWS_MAX if readers else None
        rows = self._rows.get(topic, pace.ROWS_FIRST)
        return rows * 2 // 3 if self._chunks.get(topic, 0) % 2 else rows

    def took(self, topic: str, rows: int, took_s: float) -> None:
        """A chunk of so many rows was read, in that time."""
        if rows:
            self._has_read = True
            self._chunks[topic] = self._chunks.get(topic, 0) + 1
            self._reads.append(Move(rows, took_s))
            self._last[topic] = rows

    # ---- how far they are

    def _along(self, first: str, now: float) -> Iterator[Behind]:
        """Those down from the topic that have not taken what its last chunk became; all are looked at."""
        chunk = self._chunks.get(first, 0)
        there, seen, left = {first}, {first}, [first]  # `there`: topics in which all of the chunk is
        while left:
            topic = left.pop()
            end = self._topics.end(topic)
            if topic in there and self._marks.get((first, topic), (-1, 0))[0] != chunk:
                self._marks[first, topic] = chunk, end
            mark = self._marks[first, topic][1] if topic in there else 0
            for reader, at in self._readers.items():
                if topic not in at:
                    continue
                records = mark - at[topic]
                self._note(first, (reader, topic), at[topic], records > 0, at[topic] >= end, now)
                if records > 0 and self._is_lively((reader, topic), now):
                    yield Behind(reader, topic, records)
                further = self._written_by(reader, now)
                if topic in there and records <= 0:
                    there.update(further)
                left += [t for t in further if t not in seen]
                seen.update(further)

    def _note(self, first: str, place: Place, offset: int, is_behind: bool, is_through: bool, now: float) -> None:
        """The first sight of one that is behind says little: it may have stood there for days."""
        moved = offset - self._places.get(place, offset)
        if moved or not is_behind:
            self._lively[place] = now
        self._lively.setdefault(place, now - STANDS_AFTER_S + FIRST_SEEN_S)
        if moved > 0 and not self._is_blind:
            with_it = self._had_before.get(place, False) and not is_behind
            kept = self._moves.setdefault(place, (deque(maxlen=pace.MOVES_KEPT), deque(maxlen=pace.MOVES_KEPT)))
            kept[with_it].append(Move(moved, now - self._since[place], self._last.get(first, 0) if with_it else 0))
        if moved or is_through or self._is_blind or place not in self._since:
            self._since[place] = now
        self._places[place], self._had_before[place] = offset, is_behind

    def _is_lively(self, place: Place, now: float) -> bool:
        return 0 <= now - self._lively.get(place, -math.inf) < STANDS_AFTER_S

    def _written_by(self, reader: str, now: float) -> tuple[str, ...]:
        """Its topics, as its record as a writer says. A sink has one that names none."""
        if not 0 <= now - self._asked_at < KNOWN_FOR_S:
            self._asked_at, self._writes = now, {}
        if reader not in self._writes:
            record = self._topics.producer_record(reader)
            self._writes[reader] = () if record is None else tuple(record.ends)
        return self._writes[reader]

    # ---- how fast they are

    def _adapt(self, topic: str, now: float) -> None:
        chunks = self._chunks.get(topic, 0)
        if chunks - self._adapted_at.get(topic, 0) < ADAPTS_EVERY:
            return
        self._adapted_at[topic] = chunks
        rows = self._rows.get(topic, pace.ROWS_FIRST)
        self._rows[topic] = min((pace.rows(rows, way, self._reads) for way in self._ways(topic, now, frozenset({topic}))), default=rows)

    def _ways(self, topic: str, now: float, seen: frozenset[str]) -> Iterator[list[Stage | None]]:
        """The ways from a topic down to who writes no other, of readers that are on theirs."""
        for reader in (r for r, at in self._readers.items() if topic in at and self._is_lively((r, topic), now)):
            stage = pace.stage([m for kept in self._moves.get((reader, topic), ()) for m in kept])
            further = [way for t in self._written_by(reader, now) if t not in seen for way in self._ways(t, now, seen | {t})]
            yield from ([stage, *way] for way in further or [[]])
