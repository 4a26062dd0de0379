"""Tables that are set aside: their rows cannot be told in any topic, and the source's other tables go on.

A topic's key is for life: its names, its columns and the bytes of its values. A table whose key has changed goes on in the next
incarnation of its topic (`incarnations`); one that has no key is set aside until it has one. Its topic is complete up to the place that is
kept here, and its state says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from millstream.errors import Irrecoverable, MillstreamError
from millstream.events import envelope
from millstream.events.avrofields import FIELD_ID
from millstream.events.progress import Position
from millstream.events.types import RowSchema
from millstream.schemas.registry import Registry
from millstream.sources.contract import Outlives, Source
from millstream.topics.contract import Topic

CURE = (
    "the other tables of the source go on. Take this one out of it and into a source of its own name, which loads it into a new topic "
    "(docs/how-to/changed-key.md); the old topic stays readable"
)
CURE_OF_KEY = (
    "the other tables of the source go on. Give this one a primary key: with the next change of a row it goes on in a new incarnation "
    "of its topic, loaded anew (docs/how-to/changed-key.md)"
)
_OF_KEY = ("key_changed", "no_key", "table_changed")
_SAME_BYTES = ({"int", "long"},)


class Aside:
    """Those of one connector, and which tables fit their topics. `topics`: table → topic."""

    def __init__(self, topics: Mapping[str, Topic], registry: Registry, clock: Callable[[], float], name: str) -> None:
        self._topics, self._registry, self._clock, self._name = topics, registry, clock, name
        self._fit: set[tuple[str, RowSchema]] = set()
        self.entries: dict[str, dict[str, Any]] = {}

    def restore(self, stored: Mapping[str, Any]) -> None:
        """As last committed."""
        self.entries = {table: why for table, why in stored.items() if table in self._topics}

    def put(self, table: str, why: MillstreamError, at: Position) -> None:
        """The table, from here on; one that is aside already stays as it is."""
        if table not in self.entries:
            self.entries[table] = entry(why, at, self._clock())

    def take_back(self, table: str) -> None:
        self.entries.pop(table, None)

    def fits(self, table: str, schema: RowSchema) -> bool:
        return self.why_not(table, schema) is None

    def why_not(self, table: str, schema: RowSchema) -> MillstreamError | None:
        """Why rows of the table in `schema` cannot be told in its topic; None where they can. One that was set aside for its key lacks
        in its topic what was changed meanwhile, whatever the key is now."""
        topic = self._topics.get(table)
        if topic is None:
            raise Irrecoverable(f"the stream gave table {table}, which is not in the definition", code="unknown_table", where=self._name)
        if (found := self.entries.get(table)) is not None:
            return Irrecoverable(found["reason"], code=found["code"], where=topic.name, cure=found["cure"])
        if (topic.name, schema) not in self._fit:
            error = unfit_key(topic, self._registry.by_id(topic.key_schema_id), schema)
            if error is not None:
                return error
            self._fit.add((topic.name, schema))
        return None


def resuming(source: Source, position: Position | None) -> None:
    """Before its tables are asked for: one that is gone since the position is to be set aside, not missing."""
    if position is not None and isinstance(source, Outlives):
        source.resumes(position)


def is_of_key(why: MillstreamError) -> bool:
    """Whether a table that cannot be told for this goes on once it has a key again."""
    return why.code in _OF_KEY


def unfit_key(topic: Topic, key_text: str, schema: RowSchema) -> Irrecoverable | None:
    """Why events in `schema` cannot have the topic's key, whose registered schema is `key_text`; None where they can."""
    was, now = (json.loads(text)["fields"] for text in (key_text, envelope.key_schema(topic.name, schema)))
    if schema.key == topic.key and len(was) == len(now) and all(_same(a, b) for a, b in zip(was, now, strict=True)):
        return None
    said = ", ".join(f"{f.name} {f.type}" for f in schema.key_fields)
    return Irrecoverable(
        f"the key is ({said}) now; the topic's is ({', '.join(topic.key)}) with the types that it began with, for the topic's life",
        code="key_changed",
        where=topic.name,
    )


def _same(was: dict[str, Any], now: dict[str, Any]) -> bool:
    """One column, whose values have the same bytes."""
    types = [was["type"], now["type"]]
    equal = types[0] == types[1] or any(all(isinstance(t, str) and t in same for t in types) for same in _SAME_BYTES)
    return was[FIELD_ID] == now[FIELD_ID] and equal


def entry(error: MillstreamError, at: Position, now_s: float) -> dict[str, Any]:
    """As it is kept in the connector's state, for people."""
    cure = error.cure or (CURE_OF_KEY if is_of_key(error) else CURE)
    return {"code": error.code, "reason": error.message, "cure": cure, "position": str(at), "at": now_s}
