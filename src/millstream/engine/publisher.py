"""The publisher: gives computed rows their version, place and schema, and publishes them once. Invariant 3.

The same code publishes what the local runner computes, from its outbox, and what another engine computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.engine.reader import TopicReader
from millstream.errors import Irrecoverable
from millstream.events.batch import Batch, columns
from millstream.events.types import RowSchema
from millstream.events.version import hex_text
from millstream.faultpoints import reached
from millstream.schemas.registry import Registry
from millstream.schemas.turns import following, latest
from millstream.topics.contract import Block, Producer, Topic, Topics


@dataclass(frozen=True)
class Commit:
    """What one sequence publishes: blocks, the writer's state, and the same events for readers in this process."""

    sequence: int
    blocks: tuple[Block, ...]
    state: Mapping[str, Any]
    tail: tuple[Batch, ...] = ()


class Publisher:
    """One opening of one writer of derived topics. `topics_of` maps output topic names to their row schemas."""

    def __init__(self, name: str, outputs: Mapping[str, RowSchema], topics: Topics, registry: Registry) -> None:
        self._topics, self._registry = topics, registry
        self._outputs: dict[str, tuple[Topic, int]] = {}
        self._schemas: dict[str, RowSchema] = {}
        self._name = name
        self.follow(outputs)
        reached("pipeline.before_fence")
        self._producer: Producer = topics.open_producer(name)
        reached("pipeline.after_fence")

    def follow(self, outputs: Mapping[str, RowSchema]) -> None:
        """From now on rows are published in these schemas, which are registered first."""
        ids = self.register(outputs)
        for output, schema in outputs.items():
            topic = self._topics.topic(output)
            if topic is None:
                raise Irrecoverable(f"topic {output} does not exist", code="not_applied", where=self._name, cure="run `millstream apply`")
            self._outputs[output] = (topic, ids[output])
            self._schemas[output] = schema

    def register(self, outputs: Mapping[str, RowSchema]) -> dict[str, int]:
        """The schemas are known to everyone before anything is published in them (invariant 5). Output → id."""
        ids, made = self.ids, {}
        for output, schema in outputs.items():
            given = (self._registry, output, schema)
            made[output] = (following(*given, ids[output]) if output in ids else latest(*given)).id
        return made

    @property
    def whole_from(self) -> int:
        """The sequence that a state must have to have seen all that is published. After a rebuild that was cut off (it leaves no
        fingerprint) one beyond the last: an older state may bear the number that the rebuild then gave to its own commit."""
        return self.sequence + (self.sequence > 0 and self.state.get("fingerprint") is None)

    @property
    def sequence(self) -> int:
        """The last published sequence."""
        return self._producer.record.sequence

    @property
    def state(self) -> Mapping[str, Any]:
        """The state published with it."""
        return self._producer.record.state

    @property
    def ids(self) -> dict[str, int]:
        """Output → the id of the schema that it is published in."""
        return {topic: schema_id for topic, (_, schema_id) in self._outputs.items()}

    @property
    def ends(self) -> dict[str, int]:
        """Output → the offset after the last record published there."""
        return {topic: end for topic, end in self._producer.record.ends.items() if topic in self._outputs}

    def reader(self, output: str) -> TopicReader:
        """A reader of one of the outputs, from its start, in the schema that is published now."""
        return TopicReader(self._topics, self._registry, output, self._schemas[output], self._outputs[output][1], 0, everything=True)

    def commit(self, sequence: int, output: Sequence[Batch], state: Mapping[str, Any], now_us: int) -> Commit:
        """What to publish as `sequence`: `output` in order, each batch's topic an output topic. Changes nothing."""
        batches: list[Batch] = []
        place = 0
        for b in output:
            if len(b):
                batches.append(self._placed(b, sequence, place, now_us))
                place += len(b)
        return Commit(sequence, tuple(self._topics.encode(b) for b in batches), state, tuple(batches))

    def publish(self, commit: Commit) -> None:
        """Publish it, durable on return; a sequence that was published already changes nothing. Raises as Producer.commit."""
        reached("pipeline.before_publish")
        self._producer.commit(commit.blocks, commit.state, sequence=commit.sequence, tail=commit.tail)
        reached("pipeline.after_publish")

    def _placed(self, batch: Batch, sequence: int, first: int, now_us: int) -> Batch:
        """Version (incarnation, sequence, place in commit), our position text and time; the source's transaction is not ours."""
        topic, schema_id = self._outputs[batch.topic]
        count = len(batch)
        major, minor = np.full(count, sequence, np.uint64), np.arange(first, first + count, dtype=np.uint32)
        given = {
            "incarnation": pa.array(np.full(count, topic.incarnation, np.uint32)),
            "major": pa.array(major),
            "minor": pa.array(minor),
            "position": hex_text(major, minor),
            "processed_us": pa.array(np.full(count, now_us, np.int64)),
            "tx_id": pa.nulls(count, pa.string()),
            "tx_order": pa.nulls(count, pa.int64()),
            "tx_table_order": pa.nulls(count, pa.int64()),
        }
        arrays = [given.get(f.name, batch.column(f.name)) for f in columns(batch.schema)]
        return Batch(batch.topic, batch.schema, pa.RecordBatch.from_arrays(arrays, schema=columns(batch.schema)), schema_id)
