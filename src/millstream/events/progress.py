"""Positions and progress: where a reader resumes, and up to where it is complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, order=True)
class Position:
    """Where a connector resumes in its source: after every event whose (major, minor) is at or below this.

    `detail` is opaque to all but the source that made it (server identity, transactions in doubt). It is plain JSON.
    """

    major: int
    minor: int
    detail: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def json(self) -> dict[str, Any]:
        return {"major": self.major, "minor": self.minor, "detail": dict(self.detail)}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Position:
        return cls(document["major"], document["minor"], document["detail"])

    def __str__(self) -> str:
        return f"{self.major:016x}.{self.minor:08x}"
