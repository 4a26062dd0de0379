"""Versions of a topic's schema as its connector registers them: what each batch is written in, and what a new one means for old rows.

A source says of every column what rows have in it that were given without it; which columns those are, only the versions
that were registered before can tell. A change is kept with its cause's place and time; the text of the DDL is in no log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from millstream.events import envelope
from millstream.events.batch import Batch
from millstream.events.types import UNKNOWN, Constant, Field, Fill, RowSchema
from millstream.schemas.operations import operations
from millstream.schemas.registry import Registry
from millstream.schemas.turns import following, latest

CHANGES_MAX = 100  # of one topic


@dataclass(frozen=True)
class Placed:
    """Batches with their versions, and what is to be committed with them: topic → version last written, topic → changes.

    `unsaid`: topic → the number of the version whose old rows have values that no event says.
    """

    batches: list[Batch]
    written: Mapping[str, int]
    changes: Mapping[str, Sequence[Mapping[str, Any]]]
    unsaid: Mapping[str, int]


class Versions:
    """One connector's. `written` and `changes` are as last committed. `describe(topic, schema)` is the schema with what people say
    of its columns."""

    def __init__(
        self,
        registry: Registry,
        written: Mapping[str, int],
        changes: Mapping[str, Sequence[Mapping[str, Any]]],
        describe: Callable[[str, RowSchema], RowSchema] = lambda _, schema: schema,
    ) -> None:
        self._registry, self._describe = registry, describe
        self.written, self.changes = dict(written), dict(changes)
        self._said: dict[tuple[str, RowSchema], RowSchema] = {}
        self._latest: dict[str, RowSchema] = {}
        self._ids: dict[tuple[str, RowSchema], tuple[int, int]] = {}

    def registered(self, batch: Batch) -> Batch:
        """The batch in its registered version: invariant 5, registered before it is published; invariant 6, never refused here.

        One that has its version keeps it.
        """
        if batch.schema_id is not None:
            return batch
        schema = self._schema(batch.topic, batch.schema)
        return replace(batch, schema=schema).with_schema_id(self._version(batch.topic, schema)[0])

    def place(self, batches: Sequence[Batch], *, told_again: bool = False) -> Placed:
        """Each batch in its version, and what changes with it. Rows that are `told_again` as they were change nothing."""
        placed: list[Batch] = []
        written, changes, unsaid = dict(self.written), dict(self.changes), {}
        for batch in map(self.registered, batches):
            before = written.get(batch.topic)
            if _is_late(batch, changes.get(batch.topic, ())):
                placed.append(batch)
                continue
            if not told_again and before is not None:
                batch = self._after(batch, before)
            placed.append(batch)
            assert batch.schema_id is not None
            if told_again:
                continue
            written[batch.topic] = batch.schema_id
            if before is None or before == batch.schema_id:
                continue
            old = _fields(self._registry.by_id(before))
            change = _change(batch, batch.schema_id, old, batch.schema)
            changes[batch.topic] = [*changes.get(batch.topic, ()), change][-CHANGES_MAX:]
            if _leaves_unsaid(old, batch.schema):
                unsaid[batch.topic] = self._version(batch.topic, batch.schema)[1]
        return Placed(placed, written, changes, unsaid)

    def _after(self, batch: Batch, before: int) -> Batch:
        """In a version that does not come before the one that was last written: who reads asks about each that comes."""
        if batch.schema_id == before:
            return batch
        version = following(self._registry, batch.topic, batch.schema, before)
        self._ids[batch.topic, batch.schema] = (version.id, version.version)
        return batch.with_schema_id(version.id)

    def has_changed_after(self, topic: str, place: tuple[int, int] | None) -> bool:
        """Whether the topic has events of a newer schema than the table had at that place: rows read there would be told in the older."""
        changes = self.changes.get(topic, ())
        return place is not None and len(changes) > 0 and place < tuple(changes[-1].get("at", place))

    def begin(self, topic: str, schema: RowSchema) -> None:
        """A new topic, whose first version this is: it has one before it has an event."""
        self.written[topic] = self._version(topic, self._schema(topic, schema))[0]

    def committed(self, placed: Placed) -> None:
        self.written, self.changes = dict(placed.written), dict(placed.changes)

    def _schema(self, topic: str, given: RowSchema) -> RowSchema:
        """As it is registered. What is said about columns is as it was last looked at, wherever that was: in the stream or by a chunk."""
        said = self._said.get((topic, given))
        if said is None:
            said = self._said[topic, given] = self._held_to_history(topic, given)
            self._latest[topic] = said
        latest = self._latest[topic]
        return latest if same_columns(said, latest) else said

    def _held_to_history(self, topic: str, given: RowSchema) -> RowSchema:
        known: dict[int, Field] = {}
        versions = self._registry.versions(f"{topic}-value")
        for version in versions:
            known |= {f.id: f for f in _fields(version.text).fields}
        fields = (replace(f, fill=_fill(f, known.get(f.id)) if versions else None) for f in given.fields)
        return self._describe(topic, RowSchema(tuple(fields), given.key))

    def _version(self, topic: str, schema: RowSchema) -> tuple[int, int]:
        """Its id, and its number in its subject."""
        known = self._ids.get((topic, schema))
        if known is None:
            version = latest(self._registry, topic, schema)
            known = self._ids[topic, schema] = (version.id, version.version)
        return known


def last_written(registry: Registry, topics: Iterable[str], stored: Mapping[str, int]) -> dict[str, int]:
    """Topic → the version that it was last written in: before the first event the one that it was made with."""
    newest = {t: registry.versions(f"{t}-value")[-1:] for t in topics if t not in stored}
    return {**stored, **{topic: version[0].id for topic, version in newest.items() if version}}


def same_columns(one: RowSchema, other: RowSchema) -> bool:
    """Whether rows of both look alike, whatever is said about their columns."""
    return one.key == other.key and [(f.id, f.name, f.type) for f in one.fields] == [(f.id, f.name, f.type) for f in other.fields]


def _fields(text: str) -> RowSchema:
    return envelope.row_schema(text, ())


def _fill(given: Field, known: Field | None) -> Fill | None:
    """What rows written before the column was there have in it: said once, with its first version, unless its type was converted."""
    if known is None:
        return given.fill
    if known.type == given.type:
        return known.fill
    if given.fill is UNKNOWN or known.fill is UNKNOWN:
        return UNKNOWN
    return given.fill if isinstance(given.fill, Constant) or known.fill is None else UNKNOWN


def _leaves_unsaid(old: RowSchema, new: RowSchema) -> bool:
    """Whether rows that were told in `old` have values now that no event says: in an added column, or in a converted one."""
    before = {f.id: f for f in old.fields}
    return any(f.fill is UNKNOWN and (f.id not in before or before[f.id].type != f.type) for f in new.fields)


def _is_late(batch: Batch, changes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether its events are of before the last change, told after it: a source that keeps order by key alone may do so, and a chunk
    may have been read before. Such rows have the version that they had then, and change nothing."""
    at = changes[-1].get("at") if changes else None
    if at is None or not len(batch) or batch.schema_id == changes[-1]["version_id"]:
        return False
    return _highest(batch) < (at[0], at[1])


def _highest(batch: Batch) -> tuple[int, int]:
    major, minor = np.asarray(batch.column("major")), np.asarray(batch.column("minor"))
    top = major.max()
    return int(top), int(minor[major == top].max())


def _change(batch: Batch, schema_id: int, old: RowSchema, new: RowSchema) -> dict[str, Any]:
    said = operations(old, RowSchema(new.fields, ()))
    return {
        "version_id": schema_id,
        "at": [batch.column("major")[0].as_py(), batch.column("minor")[0].as_py()],
        "position": batch.column("position")[0].as_py(),
        "ts_us": batch.column("ts_us")[0].as_py(),
        "operations": [str(o) for o in said],
    }
