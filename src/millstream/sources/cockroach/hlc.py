"""A hybrid logical clock's time: what CockroachDB orders everything by.

Two integers, never a float or a decimal: the ten digits after the point count events within one nanosecond.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LOGICAL_MAX = 2**31 - 1
# Servers before 24.1 may end a time in "?": it was made up by no clock. It orders like any other.
_TEXT = re.compile(r"([0-9]{1,19})\.([0-9]{10})\??")


class Hlc(NamedTuple):
    """Nanoseconds since 1970 by some node's wall clock, and a counter from 0 to LOGICAL_MAX. Orders as a pair."""

    wall: int
    logical: int

    @classmethod
    def parse(cls, text: str) -> Hlc:
        """Of `<wall>.<ten digits>`. Raises ValueError on any other text."""
        found = _TEXT.fullmatch(text)
        if found is None or int(found[2]) > LOGICAL_MAX:
            raise ValueError(f"a time is nanoseconds, a point and ten digits, not {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.wall}.{self.logical:010d}"

    @property
    def next(self) -> Hlc:
        """The least time above this one."""
        return Hlc(self.wall, self.logical + 1) if self.logical < LOGICAL_MAX else Hlc(self.wall + 1, 0)

    @property
    def prev(self) -> Hlc:
        """The greatest time below this one."""
        return Hlc(self.wall, self.logical - 1) if self.logical else Hlc(self.wall - 1, LOGICAL_MAX)
