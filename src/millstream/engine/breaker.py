"""When to leave a source alone: a pure state machine, told what happened and what time it is. Threads and waits are `guard.py`'s.

closed → (failures in a row, or slow answers in a row) → open, for a rest → half open: one query is let through as a probe →
closed where it goes well, else open again for twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stage = Literal["closed", "open", "half_open"]

FAILURES_MAX, SLOW_MAX = 3, 5
REST_FIRST_S, REST_MAX_S = 1.0, 60.0


@dataclass
class Breaker:
    """Times are seconds of one clock. `reason` says why it is not closed."""

    stage: Stage = "closed"
    reason: str = ""
    failures: int = 0
    slow: int = 0
    until: float = 0.0
    rest_s: float = REST_FIRST_S
    probing: bool = False

    def ask(self, now: float) -> float | None:
        """May a query go out now? None: yes, and its outcome must be told. Else: for how long at least it may not."""
        if self.stage == "open" and now >= self.until:
            self.stage = "half_open"
        if self.stage == "closed":
            return None
        if self.stage == "half_open" and not self.probing:
            self.probing = True
            return None
        return max(self.until - now, 0.1)

    def went_well(self, now: float, *, slow: str = "") -> None:
        """A query was answered; `slow` says how, where it took too long."""
        self.failures = 0
        self.slow = self.slow + 1 if slow else 0
        if self.stage == "half_open" and slow:
            self._open(now, slow)
        elif self.slow >= SLOW_MAX:
            self._open(now, f"{self.slow} queries in a row were slow: {slow}")
        elif self.stage != "open":  # what was under way when it opened says nothing of later
            self.stage, self.reason, self.rest_s, self.probing = "closed", "", REST_FIRST_S, False

    def failed(self, now: float, why: str) -> None:
        """A query got no answer: the connection, a timeout."""
        self.failures += 1
        if self.stage == "half_open":
            self._open(now, why)
        elif self.stage == "closed" and self.failures >= FAILURES_MAX:
            self._open(now, f"{self.failures} queries in a row failed: {why}")

    def left(self) -> None:
        """A query ended for reasons that say nothing of the source: another may be the probe."""
        self.probing = False

    def _open(self, now: float, reason: str) -> None:
        if self.stage == "half_open":
            self.rest_s = min(self.rest_s * 2, REST_MAX_S)
        self.stage, self.reason, self.until = "open", reason, now + self.rest_s
        self.failures = self.slow = 0
        self.probing = False
