"""The schema registry's core: subjects, their versions, and ids that never change meaning.

Storage is an SQLAlchemy engine handed in by wiring; the tables are this room's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Reference:
    """That a schema uses the type `name` as that version of that subject defines it."""

    name: str
    subject: str
    version: int


@dataclass(frozen=True)
class SchemaVersion:
    """One version of one subject. `version` counts from 1 in its subject; `id` is global; `text` is the Avro schema's JSON.

    `at`: when it was registered, in seconds since 1970; None where the registry does not say.
    """

    subject: str
    version: int
    id: int
    text: str
    references: tuple[Reference, ...] = ()
    at: float | None = field(default=None, compare=False)


class Registry(Protocol):
    def register(self, subject: str, text: str) -> SchemaVersion:
        """The version with this text: the existing one, or the next. The same text has one id under every subject, however it is
        spaced and whatever order its JSON has."""

    def by_id(self, schema_id: int) -> str:
        """The schema's text. Raises Retryable("schema_unknown") for an id that is not known (yet)."""

    def versions(self, subject: str) -> list[SchemaVersion]:
        """Oldest first; empty for an unknown subject. What was deleted is not among them."""

    def subjects(self) -> list[str]: ...
