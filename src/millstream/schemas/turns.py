"""Versions of a topic's schema in the order in which they come into force: columns that were there before and come again are a new one.

A registry has one version of one text, however often it is registered. Who reads has accepted a version and those before it: had the
columns of an earlier one its number again, nobody would be asked about what is gone since (invariants 5 and 6).
"""

from __future__ import annotations

from millstream.events import envelope
from millstream.events.types import RowSchema
from millstream.schemas.registry import Registry, SchemaVersion


def latest(registry: Registry, topic: str, schema: RowSchema) -> SchemaVersion:
    """The newest version with these columns; registered where there is none."""
    return (_with(registry.versions(_subject(topic)), schema) or [_registered(registry, topic, schema)])[-1]


def following(registry: Registry, topic: str, schema: RowSchema, before: int) -> SchemaVersion:
    """The version in which the topic goes on after the one with the id `before`: never one of before that.

    Asked again for what was registered and did not come into force, it gives the same.
    """
    versions = registry.versions(_subject(topic))
    same, number = _with(versions, schema), next((v.version for v in versions if v.id == before), 0)
    if same and same[-1].version >= number:
        return same[-1]
    return _registered(registry, topic, schema, len(same))


def _with(versions: list[SchemaVersion], schema: RowSchema) -> list[SchemaVersion]:
    return [v for v in versions if envelope.row_schema(v.text, ()).fields == schema.fields]


def _registered(registry: Registry, topic: str, schema: RowSchema, turn: int = 0) -> SchemaVersion:
    return registry.register(_subject(topic), envelope.value_schema(topic, schema, turn))


def _subject(topic: str) -> str:
    return f"{topic}-value"
