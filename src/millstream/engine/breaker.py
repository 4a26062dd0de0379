"""When to leave a source alone: a pure state machine, told what happened and what time it is. Threads and waits are `guard.py`'s.

closed → (several failures or slow answers, with no long row of good ones between) → open, for a rest → half open: one query is let
through as a probe → closed where it goes well, else open again. Each rest is twice as long as the one before, until a long row of good
answers has made good. A single good answer forgives nothing: one table may be locked while all others answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stage = Literal["closed", "open", "half_open"]

FAILURES_MAX, SLOW_MAX = 3, 5
GOOD_MIN = 20  # answers in a row after which what was before is forgotten
REST_FIRST_S, REST_MAX_S = 1.0, 60.0


@dataclass
class Breaker:
    """Times are seconds of one clock. `reason` says why it is not closed; `rest_s` is how long the next rest will be."""

    stage: Stage = "closed"
    reason: str = ""
    failures: int = 0
    slow: int = 0
    good: int = 0
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
        if self.stage == "open":  # what was under way when it opened says nothing of later
            return
        if slow:
            self.slow, self.good = self.slow + 1, 0
            if self.stage == "half_open" or self.slow >= SLOW_MAX:
                self._open(now, f"queries are slow: {slow}")
            return
        self.good += 1
        if self.good >= GOOD_MIN:
            self.failures, self.slow, self.rest_s = 0, 0, REST_FIRST_S
        if self.stage == "half_open":
            self.stage, self.reason, self.probing = "closed", "", False

    def failed(self, now: float, why: str) -> None:
        """A query got no answer: the connection, a timeout."""
        self.failures, self.good = self.failures + 1, 0
        if self.stage == "half_open" or (self.stage == "closed" and self.failures >= FAILURES_MAX):
            self._open(now, f"queries fail: {why}")

    def left(self) -> None:
        """A query ended for reasons that say nothing of the source: another may be the probe."""
        self.probing = False

    def _open(self, now: float, reason: str) -> None:
        self.stage, self.reason, self.until = "open", reason, now + self.rest_s
        self.rest_s = min(self.rest_s * 2, REST_MAX_S)
        self.failures = self.slow = self.good = 0
        self.probing = False
