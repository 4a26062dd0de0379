"""Which topic the rows of each table go to now. A table whose key has changed goes on in the next incarnation of its topic.

The old one ends: it is complete up to the place of the change, and says so in the commit that the first events of the new one are in
(invariant 3). The new one is filled by a load beside the stream. Where the key that a table has now was taken from a catalogue that is
ahead of the stream, the new one begins before the change: its rows are made right by the load, which reads after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.errors import MillstreamError, Refused
from millstream.events import envelope
from millstream.events.batch import Batch
from millstream.events.progress import Position
from millstream.events.types import RowSchema
from millstream.schemas.registry import Registry
from millstream.topics.contract import Topic, Topics
from millstream.topics.incarnations import Ended, catalogued, numbered


class Incarnations:
    """Those of one connector. `first`: table → the topic that it began with. `present`: table → the one that it goes to now; one object
    for as long as this lives."""

    def __init__(self, first: Mapping[str, Topic], topics: Topics, registry: Registry, clock: Callable[[], float]) -> None:
        self._first, self._topics, self._registry, self._clock = dict(first), topics, registry, clock
        self.present = dict(first)
        self._ended: dict[str, list[Ended]] = {}

    def restore(self, stored: Mapping[str, Any]) -> None:
        """As last committed. A topic that was made for an incarnation that never came is found by the next."""
        self._ended = {table: [Ended.of(e) for e in entries] for table, entries in stored.items()}
        for table, first in self._first.items():
            found = self._topics.topic(self._ended[table][-1].goes_on_as) if self._ended.get(table) else first
            assert found is not None, f"{table} goes on in a topic that is not there"
            self.present[table] = found

    @property
    def stored(self) -> dict[str, Any]:
        return {table: [e.json() for e in entries] for table, entries in self._ended.items()}

    @property
    def ready(self) -> dict[str, bool]:
        """Topics that have ended, and whether they had all rows once."""
        return {e.topic: e.ready for entries in self._ended.values() for e in entries}

    def since(self, table: str) -> tuple[int, int]:
        """The version that its present topic begins with."""
        return self._ended[table][-1].since if self._ended.get(table) else (0, 0)

    def is_ahead(self, table: str, place: tuple[int, int] | None) -> bool:
        """Whether the table had the key before at that place: rows read there are not of its present topic."""
        return place is not None and place < self.since(table)

    def table_of(self, topic: str) -> str:
        """Of whichever incarnation."""
        return next(table for table, first in self._first.items() if first.name == catalogued(topic))

    def fresh(self, batch: Batch, position: Position | None) -> Batch:
        """Of events that do not fit the present topic those that are news. What is at or below the committed place is a repeat, and
        what is below the beginning of the present topic is one of a shape that the table had before: both are told."""
        place = (0, 0) if position is None else position.tables.get(batch.topic, (position.major, position.minor))
        major, minor = np.asarray(batch.column("major")), np.asarray(batch.column("minor"))
        (a, b), (c, d) = place, self.since(batch.topic)
        above = (major > a) | ((major == a) & (minor > b))
        begun = (major > c) | ((major == c) & (minor >= d))
        return batch.filter(above & begun)

    def begin(self, table: str, schema: RowSchema, since: tuple[int, int], at: Position, why: MillstreamError, *, ready: bool) -> Topic:
        """The next incarnation of the table's topic, made; `ready`: whether the one that ends had all rows once. To be committed, or taken
        back by `restore`."""
        was, count = self.present[table], len(self._ended.get(table, ())) + 2
        topic = self._made(self._first[table].name, was, schema, count)
        entry = Ended(was.name, topic.name, why.code, why.message, str(at), since, ready, self._clock())
        self._ended = {**self._ended, table: [*self._ended.get(table, ()), entry]}
        self.present[table] = topic
        return topic

    def _made(self, first: str, was: Topic, schema: RowSchema, count: int) -> Topic:
        """A process that was killed between this and its commit may have left one, and the table may have another key by now: then
        the next number is free."""
        while True:
            name = numbered(first, count)
            key_id = self._registry.register(f"{name}-key", envelope.key_schema(name, schema)).id
            wanted = replace(was, name=name, key=schema.key, key_schema_id=key_id, incarnation=was.incarnation + 1)
            try:
                found = self._topics.create(wanted)
                if found.key_schema_id == key_id and self._topics.end(name) == 0:
                    return found
            except Refused as error:
                if error.code != "topic_differs":
                    raise
            count += 1


def existing(topics: Topics, name: str, where: str) -> Topic:
    topic = topics.topic(name)
    if topic is None:
        raise Refused(f"topic {name} does not exist", code="not_applied", where=where, cure="run `millstream apply`")
    return topic


def lowest(batch: Batch) -> tuple[int, int]:
    """The least version in it."""
    major, minor = np.asarray(batch.column("major")), np.asarray(batch.column("minor"))
    return int(major.min()), int(minor[major == major.min()].min())


def keyed(batch: Batch) -> Batch:
    """Without events whose key is not whole: a column that is of the key by now was null before, and the load tells what became of it."""
    whole: pa.BooleanArray = reduce(pc.and_, (pc.is_valid(column) for column in batch.keys().flatten()))
    return batch if pc.all(whole).as_py() is not False else batch.filter(np.asarray(whole))
