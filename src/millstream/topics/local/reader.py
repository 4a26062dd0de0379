"""Reading: blocks from the file, checked, joined and decoded many at a time; the tail where it is still in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from threading import Lock

from millstream.errors import Irrecoverable
from millstream.events import envelope
from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.schemas.registry import Registry
from millstream.topics import records
from millstream.topics.contract import Topic
from millstream.topics.local.blocks import Records, Stored, joined, unpacked
from millstream.topics.local.rows import damaged, place
from millstream.topics.local.store import Store
from millstream.topics.local.tail import Tail

# From the block that holds the offset (or the first one after it) onwards.
_BLOCKS = """
SELECT records, events, schema_id, codec, raw_bytes, payload, addressee, first_offset, next_offset, checksum
FROM blocks
WHERE topic_id = :id AND first_offset < :before AND first_offset >= coalesce(
  (SELECT max(first_offset) FROM blocks WHERE topic_id = :id AND first_offset <= :offset), 0)
ORDER BY first_offset
"""


class Schemas:
    """Writer schemas by topic and id, parsed once."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._parsed: dict[tuple[str, int], RowSchema] = {}
        self._lock = Lock()

    def of(self, topic: Topic, schema_id: int) -> RowSchema:
        """Raises Retryable("schema_unknown")."""
        place = (topic.name, schema_id)
        with self._lock:
            parsed = self._parsed.get(place)
        if parsed is None:
            parsed = envelope.row_schema(self._registry.by_id(schema_id), topic.key)
            with self._lock:
                self._parsed[place] = parsed
        return parsed

    def text(self, schema_id: int) -> str:
        return self._registry.by_id(schema_id)


class Reader:
    """Reads the topics of one store."""

    def __init__(self, store: Store, tail: Tail, schemas: Schemas) -> None:
        self._store = store
        self._tail = tail
        self._schemas = schemas

    def read(self, topic: Topic, offset: int, bytes_max: int) -> list[Batch]:
        """See the contract. Goes on over stretches that hold no event, so that an empty answer means the end."""
        batches: list[Batch] = []
        left = bytes_max
        while left > 0 or not batches:
            hot = self._tail.at(topic.name, offset)
            if hot is not None:
                batch, offset = _limited(*hot, left)
                batches += [batch] if len(batch) else []
                left -= batch.nbytes
                continue
            parts = self._stored(topic.name, offset, left)
            if not parts:
                break
            batches += self._decoded(topic, parts, offset)
            offset = parts[-1].after
            left -= sum(len(part.values) for part in parts)
        return batches

    def _stored(self, name: str, offset: int, bytes_max: int) -> list[Records]:
        """Whole blocks from the one that holds `offset`, up to the tail's next or to `bytes_max` (one at least)."""
        before = self._tail.next_after(name, offset)
        parts: list[Records] = []
        with self._store.reading(f"{name}@{offset}") as connection:
            topic_id, end = place(connection, name)
            _check_inside(name, offset, end)
            if offset == end:
                return []
            given = {"id": topic_id, "offset": offset, "before": end if before is None else before}
            with closing(connection.execute(_BLOCKS, given)) as rows:
                for *stored, first, after, checksum in rows:
                    part = unpacked(Stored(*stored), name, first, after, checksum)
                    _check_follows(part, name, parts[-1].after if parts else offset)
                    parts.append(part)
                    bytes_max -= len(parts[-1].values)
                    if bytes_max <= 0:
                        break
        if not parts:
            raise damaged(f"{name}@{offset}", f"no block holds this offset, although the topic ends at {end}")
        return parts

    def _decoded(self, topic: Topic, parts: Sequence[Records], offset: int) -> Iterator[Batch]:
        """One batch for each run of blocks of one schema and addressee: small commits are decoded together, not one by one."""
        for (schema_id, to), run in groupby(parts, key=lambda part: (part.schema_id, part.addressee)):
            data, starts, ends, offsets = joined(list(run), offset)
            if len(offsets):
                schema, text = self._schemas.of(topic, schema_id), self._schemas.text(schema_id)
                batch = envelope.decode_values(topic.name, text, schema_id, schema, data, starts, ends)
                yield replace(batch, offsets=offsets, to=to)


def _limited(batch: Batch, after: int, bytes_max: int) -> tuple[Batch, int]:
    """The front of a batch that fits (one event at least), and the offset after it."""
    if batch.nbytes <= bytes_max or len(batch) < 2:
        return batch, after
    front = batch.slice(0, max(1, len(batch) * max(bytes_max, 0) // batch.nbytes))
    return front, records.read_end([front])


def _check_inside(name: str, offset: int, end: int) -> None:
    if offset > end:
        raise Irrecoverable(
            f"the topic ends at {end}: whoever resumes here has seen events that the topic no longer has",
            code="offset_beyond_end",
            where=f"{name}@{offset}",
            cure="put back the newer copy of the topics' file, or rebuild this reader from the start of the topic",
        )


def _check_follows(part: Records, name: str, wanted: int) -> None:
    """Blocks cover every offset: one that is missing is damage, not a gap."""
    if not part.first <= wanted < part.after:
        raise damaged(f"{name}@{wanted}", f"no block holds this offset; the next one begins at {part.first}")
