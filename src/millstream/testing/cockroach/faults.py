"""What goes wrong on demand: repeats, splits, drains, broken connections, silence, old cursors, missing privileges; and counts.

Nothing here acts by itself: feeds.py and server.py look at it. Every value may be changed while feeds run, from any thread.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

REPEATS = 0.3
"""Of the rows that a feed tells, how many it has told before, without any fault: from 0 to below 1. Recorded were 0.14 and 0.45."""
DISORDER = 0.2
"""How often a range keeps back what it has while others tell theirs."""


@dataclass(frozen=True)
class Timing:
    """How late a feed is. `pace` divides every duration, also those that a statement asks for: at 10, '1s' is a tenth of a second.

    `lag_s`: how far a resolved time lies behind; `every_s`: the least time between two, whatever a statement asks for;
    `whole`: a resolved time falls on whole seconds (of `pace`), as 26.1's do; `silence_s`: how long a schema change holds up a feed
    over the lag.
    """

    lag_s: float = 3.0
    every_s: float = 3.0
    whole: bool = True
    silence_s: float = 0.0
    pace: float = 1.0

    def seconds(self, asked: float) -> float:
        return asked / self.pace


RECORDED = {"26.1": Timing(), "22.1": Timing(every_s=1.0, whole=False)}
"""What the recordings show of a cluster whose settings nobody changed."""


class Server(Protocol):
    """The server, as faults reach it."""

    def end_statements(self, sqlstate: str, message: str, *, feeds_only: bool) -> int: ...
    def break_off(self, *, feeds_only: bool) -> int: ...
    def refuse_connections(self, seconds: float) -> None: ...
    def collect_garbage(self, ttl_s: float) -> None: ...


@dataclass
class Faults:
    """`seed` fixes what chance decides; threads still come and go as they like."""

    seed: int = 0
    repeats: float = REPEATS
    disorder: float = DISORDER
    slow_s: float = 0.0
    """Sleep before each row of a feed."""
    refused: set[str] = field(default_factory=set)
    """Users who may do nothing with any table (42501)."""
    told: Counter[str] = field(default_factory=Counter)
    """Statements by kind: "changefeed", "catalogue", else their first word in small letters; "repeat" counts rows told again."""
    server: Server | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311
        self._lock = threading.Lock()
        self._splits: Counter[str] = Counter()
        self._held = threading.Event()

    # ---- feeds

    def split(self, table: str | None = None) -> None:
        """Ranges of a table (by its bare name; None: of all) are split: feeds tell again everything since their last resolved time."""
        with self._lock:
            self._splits[table or "*"] += 1

    def splits(self, table: str) -> int:
        """How often a table was split so far."""
        with self._lock:
            return self._splits[table] + self._splits["*"]

    def hold_resolved(self, hold: bool = True) -> None:
        """No resolved message until this is called with False; rows go on."""
        (self._held.set if hold else self._held.clear)()

    @property
    def resolved_held(self) -> bool:
        return self._held.is_set()

    def gc(self, ttl_s: float = 0.0) -> None:
        """What is older than `ttl_s` is forgotten now: cursors and reads below are refused."""
        self._served().collect_garbage(ttl_s)

    def refuse(self, user: str, refuse: bool = True) -> None:
        (self.refused.add if refuse else self.refused.discard)(user)

    # ---- connections

    def drain(self, down_s: float = 0.0) -> int:
        """The server is asked to stop: what runs ends with 57P01, and nobody gets in for `down_s`. Gives how many were ended."""
        self._served().refuse_connections(down_s)
        return self._served().end_statements("57P01", "server is shutting down", feeds_only=False)

    def kill(self, *, feeds_only: bool = True) -> int:
        """Break connections off in mid-message, as a server that dies does. Gives how many."""
        return self._served().break_off(feeds_only=feeds_only)

    def cancel(self) -> int:
        """End every feed as CANCEL QUERY does (57014)."""
        return self._served().end_statements("57014", "query execution canceled", feeds_only=True)

    def _served(self) -> Server:
        assert self.server is not None
        return self.server

    # ---- counts

    def tell(self, kind: str, count: int = 1) -> None:
        with self._lock:
            self.told[kind] += count

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self.told)
