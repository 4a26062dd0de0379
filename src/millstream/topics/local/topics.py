"""`Topics` on one SQLite file: puts store, producer, reader and tail together, and wakes those who wait."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import millstream
from millstream.errors import Refused
from millstream.events.batch import Batch
from millstream.schemas.registry import Registry
from millstream.topics import records
from millstream.topics.contract import Block, Kept, Producer, ProducerRecord, Topic
from millstream.topics.local import marks, rows
from millstream.topics.local.compaction import Compactor, Keep, kept
from millstream.topics.local.notes import Notes
from millstream.topics.local.producer import LocalProducer
from millstream.topics.local.reader import Reader, Schemas
from millstream.topics.local.store import Store, StoreClosed
from millstream.topics.local.tail import Tail

_LOOK_EVERY_S = 0.02  # how late a commit of another process may be seen


class LocalTopics:
    """Durable topics for one machine. May be called from any thread; several processes may open the same file.

    Calls that name a topic which does not exist raise Refused("topic_unknown"). `busy_timeout_s` is how long a writer
    waits for its turn before Retryable("topics_busy"). `keep` says what compaction leaves whole.
    """

    def __init__(
        self,
        path: Path,
        registry: Registry,
        *,
        version_tag: str = millstream.__version__,
        tail_bytes_max: int = 64 << 20,
        busy_timeout_s: float = 10.0,
        keep: Keep | None = None,
    ) -> None:
        self._store = Store(path, busy_timeout_s=busy_timeout_s)
        self._tail = Tail(tail_bytes_max)
        self._schemas = Schemas(registry)
        self._reader = Reader(self._store, self._tail, self._schemas)
        self._version_tag = version_tag
        self._known: dict[str, Topic] = {}  # what never changes of a topic: all but its incarnation
        self._notes = Notes(self._store)
        self._keep = keep or Keep()
        self._compactor = Compactor(self._store, self._keep)
        self._changed = threading.Condition()
        self._commits = 0

    def create(self, topic: Topic) -> Topic:
        """Make it, or return the existing one, whose key schema stays. Raises Refused("topic_differs")."""
        with self._store.writing(topic.name) as connection:
            there = rows.find_topic(connection, topic.name)
            if there is None:
                rows.put_topic(connection, topic)
                return topic
        for part in ("key", "grade", "origin"):
            if getattr(there, part) != getattr(topic, part):
                raise Refused(
                    f"the topic exists with another {part}: {getattr(there, part)}, wanted {getattr(topic, part)}",
                    code="topic_differs",
                    where=topic.name,
                    cure="give the new topic another name, or put the definition back",
                )
        return there

    def topic(self, name: str) -> Topic | None:
        with self._store.reading(name) as connection:
            return rows.find_topic(connection, name)

    def topics(self) -> list[Topic]:
        """By name."""
        with self._store.reading() as connection:
            return rows.all_topics(connection)

    def raise_incarnation(self, name: str) -> Topic:
        """The source's order starts afresh: later events have the next incarnation; offsets go on."""
        with self._store.writing(name) as connection:
            topic = rows.find_topic(connection, name)
            if topic is None:
                raise rows.unknown(name)
            topic = replace(topic, incarnation=topic.incarnation + 1)
            rows.put_topic(connection, topic)
        return topic

    def open_producer(self, name: str) -> Producer:
        """Open (and make, the first time: fence 1, sequence 0, state {}) the writer `name`; raises its fence."""
        with self._store.writing(f"producer {name}") as connection:
            record = rows.open_writer(connection, name)
        return LocalProducer(self._store, self._tail, record, joins=self._notes.join, committed=self._wake)

    def producer_record(self, name: str) -> ProducerRecord | None:
        """The writer's record as last committed, read without touching its fence."""
        with self._store.reading(f"producer {name}") as connection:
            return rows.find_writer(connection, name)

    def encode(self, batch: Batch) -> Block:
        """The records of a batch with a registered schema: key and envelope, a tombstone after each delete.

        Raises ValueError for a batch without a schema id, or whose schema is not what was registered under it.
        """
        topic = self._known_topic(batch.topic)
        if batch.schema_id is not None and self._schemas.of(topic, batch.schema_id) != batch.schema:
            # Invariant 5: nothing is published that its registered schema does not decode.
            raise ValueError(f"a batch of {batch.topic} has another schema than the one registered as {batch.schema_id}")
        return records.encoded(batch, topic, self._version_tag)

    def read(self, name: str, offset: int, *, bytes_max: int) -> list[Batch]:
        """See the contract. Raises also Irrecoverable("offset_beyond_end") for a reader that saw what is no longer there."""
        return self._reader.read(self._known_topic(name), offset, bytes_max)

    def read_end(self, batches: Sequence[Batch]) -> int:
        """The offset to resume at after these batches. Raises ValueError where they hold no event."""
        return records.read_end(batches)

    def end(self, name: str) -> int:
        """The offset that the next record will take."""
        with self._store.reading(name) as connection:
            return rows.place(connection, name)[1]

    def note_reader(self, reader: str, positions: Mapping[str, int]) -> None:
        """Remember how far a reader is. Costs no write of its own: goes with a commit, or once a second."""
        self._notes.add(reader, positions)

    def readers(self) -> dict[str, dict[str, int]]:
        """reader → topic → offset: what all processes wrote, and what this one has yet to write."""
        with self._store.reading() as connection:
            return self._notes.over(rows.noted_readers(connection))

    def join(self, reader: str, positions: Mapping[str, int]) -> None:
        """See the contract. Durable on return."""
        with self._store.writing(f"reader {reader}") as connection:
            self._notes.forget(reader)  # an older place of it, written later, would speak against this one
            marks.join(connection, reader, positions)

    def leave(self, reader: str) -> None:
        """See the contract."""
        with self._store.writing(f"reader {reader}") as connection:
            self._notes.forget(reader)
            marks.leave(connection, reader)

    def lost(self, reader: str, positions: Mapping[str, int]) -> list[str]:
        """See the contract."""
        with self._store.reading(f"reader {reader}") as connection:
            return [topic for topic, offset in positions.items() if self._marks(connection, topic).is_lost(reader, offset)]

    def compacted_to(self, name: str) -> int:
        """See the contract."""
        with self._store.reading(name) as connection:
            return self._marks(connection, name).whole_from

    def kept(self, name: str) -> Kept:
        """See the contract."""
        with self._store.reading(name) as connection:
            return kept(connection, name, self._keep)

    def compact(self, wait: Callable[[float], bool]) -> None:
        """See the contract. One process at a time; a second does nothing."""
        self._compactor.run(wait)

    def _marks(self, connection: sqlite3.Connection, name: str) -> marks.Marks:
        return marks.find(connection, rows.place(connection, name)[0])

    def wait(self, seen: Mapping[str, int], timeout_s: float) -> bool:
        """Sleep until some topic's end is beyond `seen[topic]`; at once for commits of this process, within 20 ms for others'.

        True if it is; False at the timeout, or when the topics are closed.
        """
        deadline = time.monotonic() + timeout_s
        self._notes.write_if_due()
        try:
            with self._store.reading() as connection:
                while True:
                    commits, changes = self._commits, _changes(connection)  # before the look, so that none is missed
                    ends = rows.ends(connection)
                    if any(ends.get(topic, 0) > offset for topic, offset in seen.items()):
                        return True
                    if not self._changed_since(connection, commits, changes, deadline):
                        return False
        except StoreClosed:
            return False

    def _changed_since(self, connection: sqlite3.Connection, commits: int, changes: int, deadline: float) -> bool:
        """Sleep until this process or another has committed (True), or the deadline or the close comes (False)."""
        while self._commits == commits and _changes(connection) == changes:
            left = deadline - time.monotonic()
            if left <= 0 or self._store.closed:
                return False
            with self._changed:
                if self._commits == commits and not self._store.closed:
                    self._changed.wait(min(left, _LOOK_EVERY_S))
        return True

    def close(self) -> None:
        """Writes what is noted, ends waits. A second call does nothing; other calls then raise RuntimeError."""
        self._notes.write_now()
        self._store.close()
        self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._commits += 1
            self._changed.notify_all()

    def _known_topic(self, name: str) -> Topic:
        known = self._known.get(name)
        if known is None:
            known = self.topic(name)
            if known is None:
                raise rows.unknown(name)
            self._known[name] = known
        return known


def _changes(connection: sqlite3.Connection) -> int:
    """A number that changes when another connection, of any process, commits."""
    (value,) = connection.execute("PRAGMA data_version").fetchone()
    return int(value)
