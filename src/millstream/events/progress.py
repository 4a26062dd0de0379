"""Positions and progress: where a reader resumes, and up to where it is complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, order=True)
class Position:
    """Where a connector resumes in its source: after every event whose (major, minor) is at or below this.

    `detail` is opaque to all but the source that made it (server identity, transactions in doubt). It is plain JSON.
    `tables` is that of a source of kind `frontier` alone: table → (major, minor) up to which all of its events were given. There
    each table resumes after its own, and (major, minor) is the least of them: while one stands, so does the position, whatever flows.
    """

    major: int
    minor: int
    detail: Mapping[str, Any] = field(default_factory=dict, compare=False)
    tables: Mapping[str, tuple[int, int]] = field(default_factory=dict, compare=False)

    def holding(self, was: Position | None) -> Position:
        """This, with each table at the further of both places: a promise holds, whoever does not repeat it."""
        if was is None or not was.tables:
            return self
        return replace(self, tables={**was.tables, **{t: max(at, was.tables.get(t, at)) for t, at in self.tables.items()}})

    def moved(self, was: Position | None) -> bool:
        """Whether anything is further on than it was."""
        return was is None or self > was or any(at > was.tables.get(t, (-1, 0)) for t, at in self.tables.items())

    def json(self) -> dict[str, Any]:
        tables = {"tables": {table: list(at) for table, at in self.tables.items()}} if self.tables else {}
        return {"major": self.major, "minor": self.minor, "detail": dict(self.detail)} | tables

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Position:
        tables = {table: (at[0], at[1]) for table, at in document.get("tables", {}).items()}
        return cls(document["major"], document["minor"], document["detail"], tables)

    def __str__(self) -> str:
        return f"{self.major:016x}.{self.minor:08x}"
