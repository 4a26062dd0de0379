"""What compaction has done to a topic and whom it left behind: one row a topic, with a checksum, and the rules over it.

Every function takes a connection and leaves transactions to its caller.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from millstream.topics.local import rows


@dataclass
class Marks:
    """Of one topic. Offsets are edges of blocks; times are seconds since 1970.

    Below `whole_from` records may be missing, at and above it none is. Below `clean_to` no key stands twice. `moments`:
    at that time the topic ended there, which is how old records are known. `rounds`: at that time everything below
    was clean. Below `forgotten_to` deletes are gone. `lost`: readers that compaction went past, and where they were.
    """

    whole_from: int = 0
    clean_to: int = 0
    forgotten_to: int = 0
    moments: list[tuple[float, int]] = field(default_factory=list)
    rounds: list[tuple[float, int]] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)

    def aged_to(self, before_s: float) -> int:
        """Everything below was there at that time."""
        return max((end for at, end in self.moments if at <= before_s), default=0)

    def note_moment(self, now_s: float, end: int, history_s: float) -> None:
        """A few dozen moments over the history are enough; of those older than it only the last says anything."""
        if not self.moments or now_s - self.moments[-1][0] >= history_s / 64:
            self.moments.append((now_s, end))
        old = [m for m in self.moments if m[0] <= now_s - history_s]
        self.moments = old[-1:] + self.moments[len(old) :]

    def forgettable_to(self, before_s: float, slowest: int | None) -> int:
        """Deletes below need not be kept any longer, where `slowest` is the least place of a reader that has not lost its own.

        A delete matters to those who have read an older record of its key. None is left below a round's end since that round, so it
        matters to those who were on their way then: readers who are known have come past it, all others had the time since `before_s`.
        """
        found = [clean for at, clean in self.rounds if at <= before_s and (slowest is None or slowest >= clean)]
        return max([self.forgotten_to, *found])

    def is_lost(self, reader: str, offset: int) -> bool:
        """Whether this reader, which goes on at `offset`, has missed what it would have had to see."""
        return reader in self.lost and 0 < offset < self.whole_from


def find(connection: sqlite3.Connection, topic_id: int) -> Marks:
    """Raises Irrecoverable("topic_damaged")."""
    row = connection.execute("SELECT marks, checksum FROM compactions WHERE topic_id = ?", (topic_id,)).fetchone()
    if row is None:
        return Marks()
    text, checksum = row
    if zlib.crc32(str(text).encode()) != checksum:
        raise rows.damaged(f"compaction of topic {topic_id}", "the stored row does not match its checksum")
    given = json.loads(text)
    return Marks(**{**given, **{name: [(at, end) for at, end in given[name]] for name in ("moments", "rounds")}})


def put(connection: sqlite3.Connection, topic_id: int, marks: Marks) -> None:
    text = rows.compact(asdict(marks))
    connection.execute("INSERT OR REPLACE INTO compactions VALUES (?, ?, ?)", (topic_id, text, zlib.crc32(text.encode())))


def join(connection: sqlite3.Connection, reader: str, positions: Mapping[str, int]) -> None:
    """Note the reader at these offsets. One at 0, or in the whole part, has its place; who appears elsewhere, or before where it
    was already (put back by a copy of its target), has not."""
    known = rows.noted_readers(connection).get(reader, {})
    for topic, offset in positions.items():
        topic_id, _ = rows.place(connection, topic)
        marks = find(connection, topic_id)
        if offset == 0 or offset >= marks.whole_from:
            marks.lost.pop(reader, None)
        elif topic not in known or offset < known[topic]:
            marks.lost[reader] = offset
        put(connection, topic_id, marks)
    rows.note_readers(connection, {reader: positions})


def leave(connection: sqlite3.Connection, reader: str) -> None:
    """Forget the reader: nothing is kept for it any longer."""
    for (topic_id,) in connection.execute("SELECT topic_id FROM compactions").fetchall():
        marks = find(connection, topic_id)
        if marks.lost.pop(reader, None) is not None:
            put(connection, topic_id, marks)
    connection.execute("DELETE FROM readers WHERE reader = ?", (reader,))
