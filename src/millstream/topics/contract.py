"""Topics: the only durable hand-over. What a topic promises, whatever carries it (local SQLite now, Kafka later).

A topic has one partition here ("topic partition" 0); positions are maps topic → next offset. An event takes one
offset; a delete takes two (itself and its tombstone: same key, null value). Written records are never changed, and
stay where they are; compaction takes old ones away, but never the last of a key, unless that is a delete all have seen.

Writers: every writer has a name, a fence and a sequence (invariant 3). `open_producer` raises the fence, and from
then on `commit` of any older opening raises Irrecoverable(code="fenced"). A commit carries sequence n; one at or
below the published sequence is skipped and changes nothing, one above n+1 raises Irrecoverable(code="sequence_gap").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from millstream.events.batch import Batch
from millstream.events.origin import Grade, Origin


@dataclass(frozen=True)
class Topic:
    """A topic as created. `key` names the key columns; `key_schema_id` is pinned for the life of the physical topic.

    `grade` says how whole the before images are. `incarnation` is the present one: it rises in place when the source's
    order starts afresh.
    """

    name: str
    key: tuple[str, ...]
    key_schema_id: int
    grade: Grade
    origin: Origin
    incarnation: int = 1


@dataclass(frozen=True)
class ProducerRecord:
    """A writer's own record, as last committed. `state` is the writer's JSON: position, progress, windows.

    `ends` maps each topic it wrote to the offset after its last record there: a reader that has read up to these is
    complete to `state["progress"]`.
    """

    name: str
    fence: int
    sequence: int
    state: Mapping[str, Any]
    ends: Mapping[str, int]


@dataclass(frozen=True)
class Block:
    """Encoded records of one topic and one value schema, ready to append or as read back.

    `keys` and `values` hold framed Avro (0, schema id u32 big-endian, datum) back to back; `key_ends` and
    `value_ends` are int32 little-endian arrays of where each ends. A tombstone has an empty value. `events` counts
    the records that are not tombstones. All of it is bytes so that it can lie in an outbox as it is. `to`: as of the batch.
    """

    topic: str
    schema_id: int
    records: int
    events: int
    keys: bytes
    key_ends: bytes
    values: bytes
    value_ends: bytes
    to: str | None = None

    @property
    def nbytes(self) -> int:
        return len(self.keys) + len(self.values)


@dataclass(frozen=True)
class Kept:
    """What a topic takes of the disk, and what holds it.

    `stored_bytes`: as stored, compressed. `whole_from`: below this offset events may be missing. `aged_to`: below this offset all is
    older than the history, so that only readers keep it whole. `held_by`: the reader that is furthest behind that; None where none is.
    `held_bytes`: what is kept for it alone, of `held_bytes_max`: then it loses its place. `lost`: readers that have, and where they were.
    """

    stored_bytes: int
    whole_from: int
    aged_to: int
    held_by: str | None
    held_bytes: int
    held_bytes_max: int
    lost: Mapping[str, int]


class Producer(Protocol):
    """One opening of one writer."""

    @property
    def record(self) -> ProducerRecord:
        """As of the opening, then as of the last commit of this opening."""

    def commit(self, blocks: Sequence[Block], state: Mapping[str, Any], *, sequence: int, tail: Sequence[Batch] = ()) -> ProducerRecord:
        """Append the blocks in order and replace the writer's record, in one durable transaction; hand `tail` to readers.

        `tail`, if given, has the events of the same blocks, one Batch a Block, so that readers in this process need
        not decode. Durable on return. Raises Irrecoverable "fenced", "sequence_gap"; Retryable "topics_busy";
        Irrecoverable "disk_full" (nothing of the commit is kept, what was there still reads); ValueError for a tail that
        does not have its blocks' events.
        """


class Topics(Protocol):
    def create(self, topic: Topic) -> Topic:
        """Make it, or return the existing one. Raises Refused("topic_differs") if key, grade or origin are others."""

    def topic(self, name: str) -> Topic | None: ...

    def topics(self) -> list[Topic]: ...

    def raise_incarnation(self, name: str) -> Topic:
        """The source's order starts afresh: later events have the next incarnation; offsets go on."""

    def open_producer(self, name: str) -> Producer:
        """Open (and make, the first time: fence 1, sequence 0, state {}) the writer `name`; raises its fence."""

    def producer_record(self, name: str) -> ProducerRecord | None:
        """The writer's record as last committed, read without touching its fence."""

    def encode(self, batch: Batch) -> Block:
        """The records of a batch with a registered schema: key and envelope, a tombstone after each delete."""

    def read(self, name: str, offset: int, *, bytes_max: int) -> list[Batch]:
        """Events at or after `offset`, in order, as batches of one schema and one `to` each (schema = writer's; offsets set). What
        compaction wrote is addressed to nobody.

        At least one block if there is any, and not more than about `bytes_max` decoded. Empty at the end. `offset` may lie
        inside a block. Raises Irrecoverable("topic_damaged") with topic and offset where stored bytes do not check out,
        Refused("topic_unknown"), Irrecoverable("offset_beyond_end") where the topic was put back to before the reader's place.
        """

    def read_end(self, batches: Sequence[Batch]) -> int:
        """The offset to resume at after these batches: past the tombstone, where a delete is last. ValueError without an event."""

    def end(self, name: str) -> int:
        """The offset that the next record will take."""

    def note_reader(self, reader: str, positions: Mapping[str, int]) -> None:
        """Remember how far a reader is: for lag and retention only, never for resuming (invariant 3)."""

    def join(self, reader: str, positions: Mapping[str, int]) -> None:
        """`reader` reads on from these offsets: compaction stays behind it from here on, as long as it notes how far it is.

        One at 0 is a newcomer, and has its place. To be called before the first read, and again to begin anew.
        """

    def leave(self, reader: str) -> None:
        """Forget a reader that does not come back: nothing is kept for it any longer. One that is not known is no error."""

    def lost(self, reader: str, positions: Mapping[str, int]) -> list[str]:
        """The topics in which `reader`, going on at these offsets, has lost its place: compaction had to go past it.

        Asked after a read, the answer covers what was read. It must then join at 0 and remove what it does not meet again.
        """

    def compacted_to(self, name: str) -> int:
        """Below this offset events may be missing: of each key at least the last one is there, and no `before` is to be relied on.

        It only rises. Asked after a read, the answer covers what was read.
        """

    def kept(self, name: str) -> Kept:
        """What the topic takes of the disk now, and who keeps it from being compacted further."""

    def compact(self, wait: Callable[[float], bool]) -> None:
        """Take away what is old and outdone, as far as that is worth it, in small steps beside writers and readers.

        wait(seconds) sleeps as long and says whether to stop. It may be stopped, or killed, at any moment; the next call goes on.
        """

    def readers(self) -> dict[str, dict[str, int]]:
        """reader → topic → offset, as noted."""

    def wait(self, seen: Mapping[str, int], timeout_s: float) -> bool:
        """Sleep until some topic's end is beyond `seen[topic]`, by whichever process wrote it, or until the timeout (False)."""

    def close(self) -> None: ...
