"""How complete what a pipeline has computed is: up to which position of each source, by what its inputs say of themselves.

Two things differ: `progress` is what its output is complete to, `applied` the highest position that is in its copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from millstream.errors import Refused
from millstream.events.batch import Batch
from millstream.events.origin import DERIVED
from millstream.events.progress import Position
from millstream.topics.contract import Topics


class Completeness:
    """What one pipeline knows of it. `inputs` are the topics that it reads, `offset` says where it has read one to."""

    def __init__(self, topics: Topics, inputs: Sequence[str], offset: Callable[[str], int]) -> None:
        self._topics, self._inputs, self._offset = topics, inputs, offset
        self.progress: dict[str, str] = {}
        self.applied: dict[str, str] = {}
        self._behind: dict[str, str | None] = {}  # input topic → its source, None for a pipeline's

    def restore(self, state: Mapping[str, Any]) -> None:
        """What was said still holds."""
        self.progress, self.applied = dict(state.get("progress", {})), dict(state.get("applied", {}))

    def follow(self, inputs: Sequence[str]) -> None:
        """It reads these from here on."""
        self._inputs = inputs

    def begin_anew(self) -> None:
        """Nothing is in the copies."""
        self.applied = {}

    def advance(self) -> None:
        """The output is complete to the least over the inputs that have read all their writer wrote; an input that does not say how
        complete it is holds the whole back."""
        complete: dict[str, str] = {}
        for topic in self._inputs:
            writer = self._topics.producer_record(writer_of(self._topics, topic))
            if writer is None or not writer.state.get("progress"):
                return
            for source, position in writer.state.get("progress", {}).items():
                reached_to = position if self._offset(topic) >= writer.ends.get(topic, 0) else self.progress.get(source, "")
                complete[source] = min(complete.get(source, reached_to), reached_to)
        self.progress = complete

    def see(self, topic: str, batches: Sequence[Batch]) -> Mapping[str, str]:
        """Raise what is applied of each source by an input's events; of the sources behind a pipeline's topic, by its progress."""
        if any(map(len, batches)):
            if topic not in self._behind:
                mine = self._topics.topic(topic)
                self._behind[topic] = mine.origin.name if mine is not None and mine.origin.connector != DERIVED else None
            source = self._behind[topic]
            reached_to = self._written(topic) if source is None else {source: _highest(batches)}
            for name, position in reached_to.items():
                self.applied[name] = max(self.applied.get(name, position), position)
        return self.applied

    def _written(self, topic: str) -> Mapping[str, str]:
        """source → position that all events of another pipeline's topic up to here are complete to."""
        writer = self._topics.producer_record(writer_of(self._topics, topic))
        if writer is None or self._offset(topic) < writer.ends.get(topic, 0):
            return {}
        found: Mapping[str, str] = writer.state.get("progress", {})
        return found

    def waiting_for(self) -> list[str]:
        """Inputs whose first load is not complete: whatever is built as a set begins after it."""
        records = {t: self._topics.producer_record(writer_of(self._topics, t)) for t in self._inputs}
        return [t for t, record in records.items() if record is None or not record.state.get("ready", {}).get(t)]


def _highest(batches: Iterable[Batch]) -> str:
    """The highest position among source events: of several with one major, the highest minor."""
    found = []
    for b in batches:
        if len(b):
            major, minor = np.asarray(b.column("major")), np.asarray(b.column("minor"))
            top = major.max()
            found.append(Position(int(top), int(minor[major == top].max())))
    return str(max(found))


def writer_of(topics: Topics, name: str) -> str:
    """The name of the one writer of a topic: a pipeline's of a derived topic, else its source's connector."""
    topic = topics.topic(name)
    if topic is None:
        raise Refused(f"topic {name} does not exist", code="not_applied", cure="run `millstream apply`")
    return f"pipeline.{topic.origin.name}" if topic.origin.connector == DERIVED else f"source.{topic.origin.name}"
