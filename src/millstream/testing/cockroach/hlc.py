"""CockroachDB's hybrid logical clock: wall nanoseconds and a counter, compared as two integers.

The stand-in has its own, so that what it is used to test is not what made the times.
Reference: CockroachDB 26.1, `cluster_logical_timestamp()`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from millstream.testing.cockroach.errors import SqlError

LOGICAL_MAX = 2**31 - 1
_TEXT = re.compile(r"(\d{1,20})(?:\.(\d{1,10}))?\??")


class Hlc(NamedTuple):
    """A point in time: `wall` in nanoseconds since 1970, `logical` counts within it. Times compare as the pair does."""

    wall: int
    logical: int = 0

    @classmethod
    def parse(cls, text: str) -> Hlc:
        """`<wall>.<logical>` or `<wall>`. Raises SqlError 22023 for anything else."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise SqlError("22023", f"not an HLC timestamp: {text!r}")
        return cls(int(found[1]), int(found[2] or 0))

    def __str__(self) -> str:
        return f"{self.wall}.{self.logical:010}"

    def next(self) -> Hlc:
        return Hlc(self.wall, self.logical + 1) if self.logical < LOGICAL_MAX else Hlc(self.wall + 1, 0)

    def prev(self) -> Hlc:
        return Hlc(self.wall, self.logical - 1) if self.logical else Hlc(self.wall - 1, LOGICAL_MAX)


ZERO = Hlc(0, 0)
