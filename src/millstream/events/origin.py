"""Where the events of a topic come from, and how whole their before images are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Grade = Literal["whole", "key", "none"]

DERIVED = "millstream"
"""The connector that the source block of a derived topic names."""


@dataclass(frozen=True)
class Origin:
    """What the envelope's source block says of every event of a topic: constant for the topic."""

    connector: str
    name: str
    db: str
    schema: str | None
    table: str
