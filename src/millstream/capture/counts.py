"""What one opening of a connector did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counts:
    """What this opening did, for people to look at."""

    events: int = 0
    commits: int = 0
    repeats: int = 0
    orphans: int = 0  # deletes of rows that the topic did not have yet
