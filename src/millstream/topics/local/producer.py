"""One opening of one writer: fence, sequence, and the one transaction in which everything of a commit lands. Invariant 3."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from json import loads
from typing import Any

from millstream import faultpoints
from millstream.errors import Irrecoverable
from millstream.events.batch import Batch
from millstream.topics import records
from millstream.topics.contract import Block, ProducerRecord
from millstream.topics.local import rows
from millstream.topics.local.blocks import Stored, packed, put
from millstream.topics.local.store import Store
from millstream.topics.local.tail import Tail

Place = tuple[str, int, int]  # topic, first offset, offset after


class LocalProducer:
    """`Producer` on the local file.

    `joins` adds to each commit's transaction what else may ride on it, and answers what to call when that is durable;
    `committed` is called after every commit that changed something.
    """

    def __init__(
        self,
        store: Store,
        tail: Tail,
        record: ProducerRecord,
        *,
        joins: Callable[[sqlite3.Connection], Callable[[], None]],
        committed: Callable[[], None],
    ) -> None:
        self._store = store
        self._tail = tail
        self._record = record
        self._joins = joins
        self._committed = committed

    @property
    def record(self) -> ProducerRecord:
        return self._record

    def commit(self, blocks: Sequence[Block], state: Mapping[str, Any], *, sequence: int, tail: Sequence[Batch] = ()) -> ProducerRecord:
        """See the contract. Compresses before it takes its turn, so that the lock is held for the disk alone."""
        _check_tail(blocks, tail)
        pieces = [list(packed(block)) for block in blocks]
        state = loads(rows.compact(dict(state)))  # what a later opening will read, and no longer the caller's object
        with self._store.writing(f"producer {self._record.name}") as connection:
            stored = self._checked(connection, sequence)
            if sequence <= stored.sequence:
                self._record = stored
                return stored
            places = [_append(connection, block.topic, part) for block, part in zip(blocks, pieces, strict=True)]
            ends = {**stored.ends, **{topic: after for topic, _, after in places}}
            record = replace(stored, sequence=sequence, state=state, ends=ends)
            rows.put_writer(connection, record)
            settle = self._joins(connection)
            faultpoints.reached("topics.appended")
        faultpoints.reached("topics.committed")
        self._record = record
        for batch, (_, first, after) in zip(tail, places, strict=False):
            self._tail.put(replace(batch, offsets=records.offsets(batch, first)), first, after)
        settle()
        self._committed()
        return record

    def _checked(self, connection: sqlite3.Connection, sequence: int) -> ProducerRecord:
        """The stored record, if this opening is the latest and `sequence` is at most the next."""
        mine = self._record
        stored = rows.find_writer(connection, mine.name)
        if stored is None or stored.fence != mine.fence:
            raise Irrecoverable(
                f"another opening of this writer took over (fence {stored.fence if stored else 'gone'}, ours {mine.fence})",
                code="fenced",
                where=f"producer {mine.name}",
                cure="nothing was written; stop this process, the other one goes on",
            )
        if sequence > stored.sequence + 1:
            raise Irrecoverable(
                f"commit {sequence} cannot follow commit {stored.sequence}: what lies between was never published",
                code="sequence_gap",
                where=f"producer {mine.name}",
                cure="rebuild this writer's state from the topics; it is newer than what the topics hold",
            )
        return stored


def _append(connection: sqlite3.Connection, topic: str, pieces: Sequence[Stored]) -> Place:
    """Put the pieces at the topic's end, inside the caller's transaction; the offsets that they took."""
    topic_id, begin = rows.place(connection, topic)
    after = begin
    for piece in pieces:
        first, after = after, after + piece.records
        put(connection, topic_id, topic, first, after, piece)
    connection.execute("UPDATE topics SET next_offset = ? WHERE id = ?", (after, topic_id))
    return topic, begin, after


def _check_tail(blocks: Sequence[Block], tail: Sequence[Batch]) -> None:
    """A tail that is not what was encoded would show readers of this process other events than all others see."""
    if tail and len(tail) != len(blocks):
        raise ValueError(f"{len(tail)} batches in the tail of {len(blocks)} blocks")
    for block, batch in zip(blocks, tail, strict=False):
        tombstones = int(records.is_delete(batch).sum())
        same = (batch.topic, batch.schema_id, len(batch), len(batch) + tombstones, batch.to)
        if same != (block.topic, block.schema_id, block.events, block.records, block.to):
            raise ValueError(f"the tail batch of {batch.topic} has other events than its block")
