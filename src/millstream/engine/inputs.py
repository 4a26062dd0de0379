"""What a pipeline reads: a reader for each of its topics, in the version that its plan has accepted. What they meet goes to the gate.

A topic of a source ends where its table's key changes, and goes on as its next incarnation, which has another key: who has read it to
its end has met that, as it would meet another version of the schema.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from millstream.engine.gate import Gate
from millstream.engine.reader import NotAccepted, TopicEnded, TopicReader
from millstream.events import envelope
from millstream.events.batch import Batch
from millstream.pipelines.plan import Plan
from millstream.pipelines.reads import of_plan
from millstream.schemas.registry import Registry
from millstream.topics.contract import Topics
from millstream.topics.incarnations import ended

LOOK_EVERY_S = 1.0


class Endings:
    """Whether topics have ended, asked again and again: each is looked at now and then. Not thread-safe."""

    def __init__(self, topics: Topics, registry: Registry, clock: Callable[[], float]) -> None:
        self._topics, self._registry, self._clock = topics, registry, clock
        self._looked_at: dict[str, float] = {}

    def at(self, name: str, offset: int) -> TopicEnded | None:
        """That the topic has ended, where nothing of it lies at or after `offset`."""
        now = self._clock()
        if 0 <= now - self._looked_at.get(name, -math.inf) < LOOK_EVERY_S:
            return None
        self._looked_at[name] = now
        return self.of(name, offset)

    def of(self, name: str, offset: int) -> TopicEnded | None:
        """The same, looked at now."""
        found = ended(self._topics, name)
        if found is None or offset < found[1]:
            return None
        (entry, end), topic = found, self._topics.topic(found[0].goes_on_as)
        versions = self._registry.versions(f"{entry.goes_on_as}-value")
        if topic is None or not versions:
            return None
        schema = envelope.row_schema(versions[-1].text, topic.key)
        return TopicEnded(entry, schema, versions[-1].id, versions[-1].version, end)


def has_ended(topics: Topics, names: Iterable[str]) -> bool:
    """Whether any of these has ended: who reads it has still to say what becomes of it. From any thread."""
    return any(ended(topics, name) is not None for name in names)


class Inputs:
    """Those of one pipeline."""

    def __init__(self, topics: Topics, registry: Registry, gate: Gate, clock: Callable[[], float]) -> None:
        self._topics, self._registry, self._gate = topics, registry, gate
        self._endings = Endings(topics, registry, clock)
        self.readers: dict[str, TopicReader] = {}

    def read_from(self, plan: Plan, positions: Mapping[str, int]) -> None:
        used, given, me = of_plan(plan), (self._topics, self._registry), plan.pipeline
        self.readers = {
            t: TopicReader(
                *given, t, i.schema, i.schema_id, positions.get(t, 0), accepted=self._gate.accepted(t), used=used[t], pipeline=me
            )
            for t, i in ((i.topic, i) for i in plan.inputs)
        }

    def offset(self, topic: str) -> int:
        return self.readers[topic].offset

    @property
    def positions(self) -> dict[str, int]:
        return {topic: r.offset for topic, r in self.readers.items()}

    def read(self, bytes_max: int) -> dict[str, list[Batch]]:
        """What each topic has next; one that has met a version that is not accepted, or its end, gives nothing."""
        read: dict[str, list[Batch]] = {}
        for topic, reader in self.readers.items():
            try:
                batches = [b for b in reader.read(bytes_max // len(self.readers)) if len(b)]
            except NotAccepted as e:
                self._gate.meet(e)
                continue
            if batches:
                read[topic] = batches
            elif (end := self._endings.at(topic, reader.offset)) is not None:
                self._gate.meet(end)
        return read

    def ended_unready(self, topics: Iterable[str]) -> TopicEnded | None:
        """Of topics that never had all rows of their tables one that has ended: nothing is ever built over it."""
        return next((end for t in topics if (end := self._endings.of(t, self._topics.end(t))) is not None), None)
