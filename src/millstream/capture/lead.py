"""How far a backfill may be ahead of those who read its topic. Live changes stand in the topic behind the rows of its chunks: where
rows come faster than readers take them, each chunk more makes every change older.

Followed are the readers of the topic and those of the topics that they write: a sink waits for what its pipeline makes of the rows.
How far each is, the topics' own notes say; they are advice, so nothing but the pace of a backfill hangs on them (invariant 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from millstream.topics.contract import Topics

EVENTS_MAX = 10_000
"""How far ahead: enough for a reader to have work until the next chunk is there, and not much more."""
CHUNK_ROWS = 5_000
"""Of a chunk while anybody reads along. Smaller ones cost the database more statements, larger ones are more to wait for."""
LOOK_EVERY_S = 0.1
STANDS_AFTER_S = 10.0
KNOWN_FOR_S = 5.0


@dataclass(frozen=True)
class Behind:
    """A reader that is on its way, and how many records of a topic it has before it."""

    reader: str
    topic: str
    records: int

    def __str__(self) -> str:
        return f"waits for {self.reader}, which is {self.records:,} records behind in {self.topic}"


class Lead:
    """One connector's. A reader that stands (paused, stopped, waiting for a load) holds nobody up: only one counts whose place has moved
    of late, or that fell behind no longer ago than that. Not thread-safe."""

    def __init__(self, topics: Topics, clock: Callable[[], float], events_max: int = EVENTS_MAX) -> None:
        self._topics, self._clock, self._events_max = topics, clock, events_max
        self._places: dict[tuple[str, str], int] = {}  # reader, topic → offset
        self._lively: dict[tuple[str, str], float] = {}  # when it moved last, or was not behind
        self._writes: dict[str, tuple[str, ...]] = {}
        self._looked_at = self._asked_at = -math.inf
        self._found: dict[str, Behind | None] = {}
        self._readers: Mapping[str, Mapping[str, int]] = {}

    def behind(self, topic: str) -> Behind | None:
        """Who is too far behind for another chunk of this topic to be read; of several the one that is furthest. Asked often, it looks
        now and then."""
        now = self._clock()
        if not 0 <= now - self._looked_at < LOOK_EVERY_S:
            self._looked_at, self._readers, self._found = now, self._topics.readers(), {}
        if topic not in self._found:
            found = [b for b in self._along(topic, now) if b.records > self._events_max and self._is_lively((b.reader, b.topic), now)]
            self._found[topic] = max(found, key=lambda b: b.records, default=None)
        return self._found[topic]

    def look_again(self) -> None:
        """More was read meanwhile: what was seen last says too little."""
        self._looked_at = -math.inf

    def is_read(self, topic: str) -> bool:
        """Whether anybody who reads it was on his way at the last look."""
        return any(self._is_lively((reader, topic), self._clock()) for reader, at in self._readers.items() if topic in at)

    def _is_lively(self, place: tuple[str, str], now: float) -> bool:
        return 0 <= now - self._lively.get(place, -math.inf) < STANDS_AFTER_S

    def _along(self, topic: str, now: float) -> Iterator[Behind]:
        """Everybody down from the topic, each with what it has before it."""
        seen, left = {topic}, [topic]
        while left:
            topic = left.pop()
            end = self._topics.end(topic)
            for reader, at in self._readers.items():
                if topic not in at:
                    continue
                records = max(0, end - at[topic])
                self._note((reader, topic), at[topic], records, now)
                yield Behind(reader, topic, records)
                further = [t for t in self._written_by(reader, now) if t not in seen]
                seen.update(further)
                left += further

    def _note(self, place: tuple[str, str], offset: int, records: int, now: float) -> None:
        """The first sight of one that is behind says nothing: it may have stood there for days."""
        if records <= self._events_max or self._places.get(place, offset) != offset:
            self._lively[place] = now
        self._places[place] = offset

    def _written_by(self, reader: str, now: float) -> tuple[str, ...]:
        """Its topics, as its record as a writer says. A sink has one that names none."""
        if not 0 <= now - self._asked_at < KNOWN_FOR_S:
            self._asked_at, self._writes = now, {}
        if reader not in self._writes:
            record = self._topics.producer_record(reader)
            self._writes[reader] = () if record is None else tuple(record.ends)
        return self._writes[reader]
