"""Tables that are set aside: their rows cannot be told in their topic any longer, and the source's other tables go on.

A topic's key is for life: its names, its columns and the bytes of its values. A table whose key has changed needs another topic, filled
by a load of its own. Until its owner sees to that, its topic is complete up to the place that is kept here, and its state says so.
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
from millstream.topics.contract import Topic

CURE = (
    "the other tables of the source go on. Take this one out of it and into a source of its own name, which loads it into a new topic "
    "(docs/how-to/changed-key.md); the old topic stays readable"
)
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

    def is_told(self, table: str, schema: RowSchema, at: Position) -> bool:
        """Whether rows of the table can be told in its topic; if not, it is set aside from here on."""
        topic = self._topics.get(table)
        if topic is None:
            raise Irrecoverable(f"the stream gave table {table}, which is not in the definition", code="unknown_table", where=self._name)
        if table not in self.entries and (table, schema) not in self._fit:
            error = unfit_key(topic, self._registry.by_id(topic.key_schema_id), schema)
            if error is None:
                self._fit.add((table, schema))
            else:
                self.put(table, error, at)
        return table not in self.entries


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
        cure=CURE,
    )


def _same(was: dict[str, Any], now: dict[str, Any]) -> bool:
    """One column, whose values have the same bytes."""
    types = [was["type"], now["type"]]
    equal = types[0] == types[1] or any(all(isinstance(t, str) and t in same for t in types) for same in _SAME_BYTES)
    return was[FIELD_ID] == now[FIELD_ID] and equal


def entry(error: MillstreamError, at: Position, now_s: float) -> dict[str, Any]:
    """As it is kept in the connector's state, for people."""
    return {"code": error.code, "reason": error.message, "cure": error.cure or CURE, "position": str(at), "at": now_s}
