"""What people ask of a connector's backfills while it runs, and what they are told. Its own thread looks, once a second.

An order is kept by whoever hands it in and is there again after a restart; how far it is stands in the connector's record, which is
what counts: an order that had ended before that could be said is told so when it is found again.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from millstream.capture import pace
from millstream.capture.backfill import Backfill, Backfills, BackfillState, Order, Turns, Wanted, waiting
from millstream.capture.lead import Behind, Lead
from millstream.errors import MillstreamError
from millstream.sources.contract import WHOLE, Scope

log = logging.getLogger("millstream.backfill")

LOOK_EVERY_S = 1.0
RATE_OVER_S = 10.0
ROWS_MAX = 50_000
HELD_AT_MOST_S = 60.0


@dataclass(frozen=True)
class Told:
    """How far an order is: rows `read` of about `estimate`, `rows` of them appended, `gone` deleted; `rate` in rows read a second.
    `reason`: why it ended so, or whom one that runs waits for."""

    state: BackfillState
    read: int
    rows: int
    gone: int
    estimate: int
    rate: float = 0.0
    reason: str = ""


class Orders(Protocol):
    """Where orders are kept. Every call may raise Retryable."""

    def standing(self, source: str) -> Sequence[tuple[str, Wanted, float | None]]:
        """Name, what is wanted now and throttle of those that are not over, oldest first."""

    def order(self, name: str) -> Order:
        """As it was asked, whole."""

    def tell(self, name: str, told: Told) -> None:
        """One that is over stays so."""


@dataclass(frozen=True)
class Turn:
    """Whose chunk is read now, what of: the whole scope and the part that is next; and at most how many rows."""

    backfill: Backfill
    whole: Scope
    scope: Scope
    rows_max: int


class Desk:
    """One connector's. What cannot be asked or told for a moment is asked and told later: nobody waits for it."""

    def __init__(self, source: str, orders: Orders | None, clock: Callable[[], float], lead: Lead, topic_of: Callable[[str], str]) -> None:
        """`topic_of(table)`: where its rows go now."""
        self._topic_of = topic_of
        self._source, self._orders, self._clock, self._lead = source, orders, clock, lead
        self._behind: dict[str, Behind] = {}
        self._held_since: dict[str, float] = {}
        self._known: dict[str, Order] = {}
        self._told: dict[str, Told] = {}
        self._meters: dict[str, deque[tuple[float, int]]] = {}
        self._turns = Turns()
        self._looked_at = self._began_at = -math.inf

    def look(self, backfills: Backfills, tables: Collection[str], aside: Mapping[str, Mapping[str, Any]]) -> Backfills:
        """The backfills after what is asked now; the same where nothing is new. `aside`: tables that are set aside, and why (`reason`)."""
        if self._orders is None or 0 <= self._clock() - self._looked_at < LOOK_EVERY_S:
            return backfills
        self._looked_at = self._clock()
        try:
            standing = self._orders.standing(self._source)
            asked = [replace(self._known.get(n) or self._orders.order(n), wanted=w, throttle=t) for n, w, t in standing]
            self._known = {order.name: order for order in asked}
            for order in asked:
                backfills = self._heard(order, backfills, tables, aside)
            self._tell(backfills)
            for b in backfills.values():
                if b.is_asked and not b.done and b.name not in self._known:
                    backfills = {**backfills, b.slot: b.over("cancelled", "what was asked for is not known any more")}
        except MillstreamError as error:
            log.warning("what is asked of backfills of %s is looked at later: %s", self._source, error)
        return backfills

    def _heard(self, order: Order, backfills: Backfills, tables: Collection[str], aside: Mapping[str, Mapping[str, Any]]) -> Backfills:
        found = next((b for b in backfills.values() if b.id(self._source) == order.name), None)
        if found is None and order.asks and order.table in tables:
            found = order.backfill()
        if found is None:
            gone = "the source has no such table any more" if order.asks else "another one took its place"
            self._say(order.name, Told("cancelled", 0, 0, 0, order.estimate, reason=gone))
            return backfills
        if order.wanted == "cancel" and found.is_asked and not found.done:
            found = found.over("cancelled")
        elif found.table in aside and found.is_asked and not found.done:
            found = found.over("failed", f"the table is set aside: {aside[found.table]['reason']}")
        elif order.wanted == "run" and not found.wanted:
            found = replace(found, wanted=True)
        return backfills if backfills.get(found.slot) == found else {**backfills, found.slot: found}

    # ---- whose turn it is

    def paused(self, backfills: Backfills) -> set[str]:
        """Slots that are to wait: asked to, or what they are to read is not known."""
        orders = {slot: self._known.get(b.id(self._source)) for slot, b in backfills.items()}
        return {slot for slot, o in orders.items() if (backfills[slot].is_asked if o is None else o.wanted == "pause")}

    def busy(self, backfills: Backfills, aside: Collection[str]) -> bool:
        """Whether any wants to read on, now or when its throttle lets it."""
        return next(waiting(backfills, aside, self.paused(backfills)), None) is not None

    def fills(self, backfills: Backfills, aside: Collection[str]) -> bool:
        """Whether one of those that do is a load."""
        return any(b.is_load for b in waiting(backfills, aside, self.paused(backfills)))

    def next(self, backfills: Backfills, aside: Collection[str], waiting: Collection[str] = ()) -> Turn | None:
        """`waiting`: slots of those that may not read where their tables stand now."""
        throttles = {s: o.throttle for s, b in backfills.items() if (o := self._known.get(b.id(self._source))) and o.throttle is not None}
        paused = self.paused(backfills)
        self._behind = self._held({slot: b for slot, b in backfills.items() if slot not in paused})
        backfill = self._turns.next(backfills, aside, paused.union(self._behind, waiting), throttles, self._clock())
        if backfill is None:
            return None
        order = self._known.get(backfill.id(self._source))
        whole = order.scope if order is not None and backfill.is_asked else WHOLE
        throttle = throttles.get(backfill.slot)
        at_most = ROWS_MAX
        if not backfill.is_load and (bears := self._lead.rows(self._topic(backfill))) is not None:
            at_most = bears if throttle is None and backfill.slot not in self._held_since else pace.ROWS_MAX
        self._began_at = self._clock()
        return Turn(backfill, whole, backfill.scope(whole), at_most if throttle is None else min(at_most, pace.throttled(throttle)))

    def _held(self, backfills: Backfills) -> dict[str, Behind]:
        """Slots of those that let readers catch up first, and whom. An initial load does not: before it is through nobody has the
        table whole, pipelines that begin after it wait for it, and it is not to go at the pace of the slowest of the others.

        A reader that never catches up, as more comes in than it takes, does not hold a backfill for good: a chunk a minute it gets."""
        now = self._clock()
        found = {s: self._lead.behind(self._topic(b)) for s, b in backfills.items() if b.wanted and not (b.done or b.is_load)}
        self._held_since = {slot: self._held_since.get(slot, now) for slot, behind in found.items() if behind is not None}
        return {s: b for s, b in found.items() if b is not None and 0 <= now - self._held_since[s] < HELD_AT_MOST_S}

    def _topic(self, b: Backfill) -> str:
        return self._topic_of(b.table)

    def took(self, turn: Turn, rows: int) -> None:
        """A chunk of so many rows was read, or so many were compared."""
        now = self._clock()
        self._turns.took(turn.backfill.slot, rows, now)
        self._held_since.pop(turn.backfill.slot, None)
        self._lead.took(self._topic(turn.backfill), rows, now - self._began_at)
        meter = self._meters.setdefault(turn.backfill.slot, deque(maxlen=4096))
        meter.append((now, rows))
        while now - meter[0][0] > RATE_OVER_S and len(meter) > 2:
            meter.popleft()

    # ---- what people are told

    def _tell(self, backfills: Backfills) -> None:
        paused = self.paused(backfills)
        for b in backfills.values():
            if (name := b.id(self._source)) in self._known:
                self._say(name, self._of(b, b.slot in paused))

    def _of(self, b: Backfill, is_paused: bool) -> Told:
        state = cast(BackfillState, b.ended) if b.done else "offered" if not b.wanted else "paused" if is_paused else "running"
        rate = self._rate(b.slot) if state == "running" else 0.0
        why = str(self._behind[b.slot]) if state == "running" and b.slot in self._behind else b.why
        return Told(state, b.read, b.rows, b.gone, max(b.estimate, b.read), rate, why)

    def _rate(self, slot: str) -> float:
        """Rows a second of late: of all chunks but the first, whose time is when it began."""
        meter = self._meters.get(slot, deque())
        lasted = self._clock() - meter[0][0] if meter else 0.0
        return sum(rows for _, rows in meter) / max(lasted, LOOK_EVERY_S) if meter else 0.0

    def _say(self, name: str, told: Told) -> None:
        if self._orders is not None and self._told.get(name) != told:
            self._orders.tell(name, told)
            self._told[name] = told

    def closing(self, backfills: Backfills) -> None:
        """The last word before the connector closes."""
        try:
            self._tell(backfills)
        except MillstreamError as error:
            log.warning("how far backfills of %s are is told later: %s", self._source, error)
