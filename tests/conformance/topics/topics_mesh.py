"""What every topics test needs: a small mesh in a folder, batches made from seeds, and what they must read as.

Also imported by the processes that the tests start, which open the same folder by the same names.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millstream.events import envelope
from millstream.events.batch import Batch, batch
from millstream.events.origin import Origin
from millstream.events.types import Field, RowSchema, Type
from millstream.schemas.registry import Registry
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.topics.contract import Block, Topic, Topics
from millstream.topics.local import LocalTopics
from millstream.topics.local.compaction import Keep

ORIGIN = Origin("postgres", "studio", "studio", "public", "movie")
FIRST = RowSchema((Field("id", Type("int64"), 1), Field("title", Type("text"), 2)), ("id",))
SECOND = RowSchema((*FIRST.fields, Field("year", Type("int32"), 3)), ("id",))

NOTHING_OLD = Keep(history_s=0, round_bytes_min=0)  # everything but a topic's last block is old enough, and worth a round

Event = tuple[int, int, dict[str, Any]]  # offset, schema id, row


@dataclass(frozen=True)
class Mesh:
    """Open topics and their registry, with the topics "movie" and "credit" made and both schemas registered."""

    topics: Topics
    registry: Registry
    folder: Path

    def schema_id(self, topic: str, schema: RowSchema) -> int:
        return self.registry.register(f"{topic}-value", envelope.value_schema(topic, schema)).id

    def batch(self, topic: str, ops: str, *, seed: int = 0, schema: RowSchema = FIRST, major: int = 1) -> Batch:
        made = events(topic, ops, random.Random(seed), schema, major)
        return made.with_schema_id(self.schema_id(topic, schema))

    def blocks(self, batches: Iterable[Batch]) -> list[Block]:
        return [self.topics.encode(b) for b in batches]

    def commit(self, producer: Any, *batches: Batch, tail: bool = True, state: dict[str, Any] | None = None) -> None:
        sequence = producer.record.sequence + 1
        producer.commit(self.blocks(batches), state or {"n": sequence}, sequence=sequence, tail=batches if tail else ())


def open_local(folder: Path, registry: Registry, **settings: Any) -> Topics:
    return LocalTopics(folder / "topics.db", registry, **settings)


IMPLEMENTATIONS: dict[str, Callable[..., Topics]] = {"local": open_local}


@contextmanager
def opened(name: str, folder: Path, **settings: Any) -> Iterator[Mesh]:
    """The mesh in `folder`, made if it is not there; closed at the end."""
    engine = sqlite_engine(folder / "registry.db")
    registry = SqlRegistry(engine)
    topics = IMPLEMENTATIONS[name](folder, registry, **settings)
    try:
        for topic in ("movie", "credit"):
            key_id = registry.register(f"{topic}-key", envelope.key_schema(topic, FIRST)).id
            topics.create(Topic(topic, ("id",), key_id, "whole", ORIGIN))
        yield Mesh(topics, registry, folder)
    finally:
        topics.close()
        engine.dispose()


def events(topic: str, ops: str, chance: random.Random, schema: RowSchema, major: int) -> Batch:
    """One event for each letter of `ops`, with rows by chance; (major, place) is its version."""
    count = len(ops)
    rows = [_row(chance, schema) for _ in ops]
    olds = [{**row, "title": "before"} for row in rows]
    given: dict[str, Any] = {
        "op": list(ops),
        "before": [old if op in "ud" else None for op, old in zip(ops, olds, strict=True)],
        "after": [None if op == "d" else row for op, row in zip(ops, rows, strict=True)],
        "incarnation": [1] * count,
        "major": [major] * count,
        "minor": list(range(count)),
        "ts_us": [1_700_000_000_000_000 + chance.randrange(10**9) for _ in ops],
        "processed_us": [1_700_000_001_000_000] * count,
        "position": [f"{major:016x}.{i:08x}" for i in range(count)],
    }
    return batch(topic, schema, given)


def _row(chance: random.Random, schema: RowSchema) -> dict[str, Any]:
    title = chance.choice([None, "", "Ran", "生きる", "x" * chance.randrange(300)])
    row = {"id": chance.randrange(1000), "title": title, "year": chance.choice([None, 1952, -1])}
    return {name: row[name] for name in schema.names}


def expected(batches: Sequence[Batch]) -> list[Event]:
    """What a topic that holds these batches, in this order, must read as: one offset an event, two a delete."""
    found = []
    offset = 0
    for b in batches:
        for row in b.rows.to_pylist():
            found.append((offset, b.schema_id, row))
            offset += 2 if row["op"] == "d" else 1
    return found


def flat(batches: Sequence[Batch]) -> list[Event]:
    """Batches as read, as single events."""
    return [event for b in batches for event in zip(b.offsets.tolist(), [b.schema_id] * len(b), b.rows.to_pylist(), strict=True)]


def read_all(topics: Topics, name: str, offset: int = 0, bytes_max: int = 1 << 20) -> list[Batch]:
    """From `offset` to the end, by as many reads as it takes, each resuming where the contract says."""
    found: list[Batch] = []
    while batches := topics.read(name, offset, bytes_max=bytes_max):
        assert all(len(b) for b in batches)
        offset = topics.read_end(batches)
        found += batches
    assert offset == topics.end(name) or not found  # a start between a delete and its tombstone may find nothing
    return found
