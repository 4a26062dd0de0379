"""A sinkless changefeed that runs: a scan, changes in the orders a cluster gives them, resolved times, schema changes, its end.

The guarantees are the recordings' and no better. A table's keys lie in ranges that tell their changes in order, each for itself; a
range may keep back what it has, or begin again at the last resolved time, and then tells again what came since, also after
newer versions. What the statement means is targets.py's, what a message looks like envelopes.py's.

Reference: the recordings 01, 03, 04, 05, 09; CockroachDB 26.1, "Changefeed Messages: Ordering and delivery guarantees".
"""

from __future__ import annotations

import itertools
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from millstream.testing.cockroach.answers import Running
from millstream.testing.cockroach.changefeeds import Changefeed
from millstream.testing.cockroach.descriptors import Change, Descriptor
from millstream.testing.cockroach.envelopes import Envelopes, Message, Shape
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.faults import Faults, Timing
from millstream.testing.cockroach.hlc import Hlc
from millstream.testing.cockroach.store import Store

COLUMNS = (("table", 25), ("key", 17), ("value", 17))
RANGES = 4
_ROWS = 200
_WAKES_S = 0.05
_BEGINS_AGAIN = 0.2
"""How likely a repeat that is owed begins at a wake."""


@dataclass
class Watched:
    """One target. `topic` is None where it follows the table's name; `families` are those told, None for a table that has one."""

    id: int
    name: str
    topic: str | None
    families: tuple[str | None, ...] = (None,)
    places: list[Hlc] = field(default_factory=list)
    """Up to where each range has told everything."""
    splits: int = 0


class Feed:
    """`batches` gives messages until the client leaves, the statement is ended, or the feed ends by itself."""

    def __init__(
        self, store: Store, asked: Changefeed, watched: Sequence[Watched], start: Hlc, end: Hlc | None, faults: Faults,
        timing: Timing, envelopes: Envelopes,
    ) -> None:  # fmt: skip
        self._store, self._asked, self._watched = store, asked, watched
        self._start, self._end, self._faults, self._timing, self._envelopes = start, end, faults, timing, envelopes
        self._old = store.version == "22.1"
        self._checkpoint = self._passed = start
        self._resolved: Hlc | None = None
        self._last_s = float("-inf")
        self._owed = 0.0
        self._held_up: tuple[Hlc, float] | None = None
        for one in watched:
            one.places = [start] * RANGES
            one.splits = faults.splits(one.name)

    # ---- life

    def batches(self, running: Running, gone: Callable[[], bool]) -> Iterator[Sequence[Message]]:
        if self._asked.scan != "no":
            for batch in _pieces(self._scan()):
                yield from self._slowly(batch, running)
            if self._asked.scan == "only":
                return
            if self._asked.resolved_s is not None:
                yield [self._resolve(self._start)]
        while not gone():
            running.check()
            with self._store.lock:
                upto = self._store.now()
                border = self._border(upto)
                told = self._told(border[0].prev() if border else upto)
            for batch in _pieces(self._tell(told)):
                yield from self._slowly(batch, running)
            lagged = Hlc(upto.wall - int(self._timing.seconds(self._timing.lag_s) * 1e9))
            if border and lagged >= border[0] and not self._silent(border[0]):
                yield from self._cross(*border, running)
                continue
            if self._end is not None and lagged >= self._end:
                if self._asked.resolved_s is not None:
                    yield [self._resolve(self._end.prev())]
                return
            yield from self._progress(lagged, border[0] if border else None)
            self._store.wait(upto, _WAKES_S)

    def _slowly(self, batch: Sequence[Message], running: Running) -> Iterator[Sequence[Message]]:
        running.check()
        if not self._faults.slow_s:
            yield batch
            return
        for message in batch:
            running.wake.wait(self._faults.slow_s)
            running.check()
            yield [message]

    # ---- rows

    def _scan(self) -> Iterator[Message]:
        for one in self._watched:
            shape = self._shape(one, self._start)
            for key, row, mvcc in self._store.rows(one.id, self._start):
                yield from self._messages(one, Change(self._start, key, None, row, "write", mvcc), shape, shape)

    def _told(self, upto: Hlc, *, calm: bool = False) -> list[tuple[Watched, Change]]:
        """What the ranges tell now, each in order, mixed as chance has it; `calm`: all that there is. Called with the store's lock."""
        if self._end is not None:
            upto = min(upto, self._end.prev())
        chance, queues = self._faults.random, []
        for one in self._watched:
            if not calm:
                self._begin_again(one)
            changes = [c for c in self._store.changes(one.id, min(one.places), upto) if c.mvcc == c.hlc and self._may_tell(c)]
            ranges: list[list[Change]] = [[] for _ in range(RANGES)]
            for change in changes:
                number = hash(change.key) % RANGES
                if change.hlc > one.places[number]:
                    ranges[number].append(change)
            for number, told in enumerate(ranges):
                if told and not calm and chance.random() < self._faults.disorder:
                    told = told[: chance.randrange(len(told))]
                    if told:
                        # All of one time is told together: the range stands between two times.
                        last = told[-1].hlc
                        told = [c for c in ranges[number] if c.hlc <= last]
                        one.places[number] = last
                else:
                    one.places[number] = max(one.places[number], upto)
                if told:
                    queues.append([(one, c) for c in told])
        out = list(_mixed(queues, chance.random))
        self._owed += self._faults.repeats * len(out)
        return out

    def _tell(self, told: Sequence[tuple[Watched, Change]]) -> Iterator[Message]:
        """Without the lock: writers do not wait for JSON."""
        for one, change in told:
            shape = self._shape(one, change.hlc)
            yield from self._messages(one, change, shape, shape)

    def _begin_again(self, one: Watched) -> None:
        """After a split all ranges of a table go back to the last resolved time; by chance, as often as is asked, one to any time since."""
        split, chance = self._faults.splits(one.name), self._faults.random
        if split != one.splits:
            one.splits = split
            for number in range(RANGES):
                self._go_back(one, number, skipping=0.0)
        elif self._owed > 0 and chance.random() < _BEGINS_AGAIN:
            self._owed -= self._go_back(one, chance.randrange(RANGES), skipping=chance.choice((0.0, chance.random())))

    def _go_back(self, one: Watched, number: int, *, skipping: float) -> int:
        """A range will tell again what it told since the last resolved time, without a part at the beginning. Gives how much that is."""
        told = [c for c in self._store.changes(one.id, self._checkpoint, one.places[number]) if hash(c.key) % RANGES == number]
        told = told[int(skipping * len(told)) :]
        if told:
            one.places[number] = told[0].hlc.prev()
            self._faults.tell("repeat", len(told))
        return len(told)

    def _may_tell(self, change: Change) -> bool:
        return not change.hidden or "ignore_disable_changefeed_replication" in self._asked.options

    def _messages(self, one: Watched, change: Change, after: Shape, before: Shape) -> Iterator[Message]:
        for family in one.families:
            topic = after.topic if family is None else f"{after.topic}.{family}"
            message = self._envelopes.message(change, Shape(after.after, before.after, topic, family))
            if message is not None:
                yield message

    def _shape(self, one: Watched, at: Hlc) -> Shape:
        descriptor = _descriptor(self._store.descriptors(one.id), at)
        return Shape(descriptor, descriptor, one.topic or descriptor.name)

    # ---- resolved times

    def _progress(self, lagged: Hlc, border: Hlc | None) -> Iterator[Sequence[Message]]:
        """A resolved message where one is due."""
        asked = max(self._timing.every_s, self._asked.checkpoint_s, self._asked.resolved_s or 0.0)
        if time.monotonic() - self._last_s < self._timing.seconds(asked) or self._faults.resolved_held:
            return
        if border is not None and self._silent(border):
            return
        if self._timing.whole:
            step = int(1e9 / self._timing.pace)
            lagged = Hlc(lagged.wall // step * step)
        frontier = min(lagged, *(place for one in self._watched for place in one.places))
        if frontier > max(self._checkpoint, self._resolved or self._start):
            message = self._resolve(frontier)
            if self._asked.resolved_s is not None:
                yield [message]

    def _resolve(self, at: Hlc) -> Message:
        self._checkpoint = self._resolved = at
        self._last_s = time.monotonic()
        return self._envelopes.resolved(at)

    # ---- schema changes

    def _border(self, upto: Hlc) -> tuple[Hlc, list[tuple[Watched, str]]] | None:
        """The next time, of those not passed, at which a watched table changes so that the feed must stop; and what happens there."""
        found: dict[Hlc, list[tuple[Watched, str]]] = {}
        for one in self._watched:
            history = self._store.descriptors(one.id)
            for older, newer in itertools.pairwise(history):
                if self._passed < newer.since <= upto and (kind := _kind(older, newer, self._asked.column_changes)):
                    found.setdefault(newer.since, []).append((one, kind))
        return min(found.items(), key=lambda item: item[0]) if found else None

    def _silent(self, border: Hlc) -> bool:
        if self._held_up is None or self._held_up[0] != border:
            self._held_up = (border, time.monotonic() + self._timing.seconds(self._timing.silence_s))
        return time.monotonic() < self._held_up[1]

    def _cross(self, at: Hlc, changed: list[tuple[Watched, str]], running: Running) -> Iterator[Sequence[Message]]:
        """All before `at` is told: what stayed behind first, then the border, then the rows in their new shape."""
        with self._store.lock:
            rest = self._told(at.prev(), calm=True)
        yield from _pieces(self._tell(rest))
        for one, kind in changed:
            if kind in ("drop", "truncate"):
                raise _ended(one, kind, _descriptor(self._store.descriptors(one.id), at).name, old=self._old)
        if self._asked.resolved_s is not None and at.prev() > (self._resolved or self._start):
            yield [self._resolve(at.prev())]
        key = any(kind == "key" for _, kind in changed)
        if self._asked.policy == "stop":
            why = "" if self._old else 'shut down due to schema change and schema_change_policy="stop": '
            raise SqlError("55C01", f"{why}schema change occurred at {at}")
        if key and self._old:
            raise SqlError("55C01", f"schema change occurred at {at}")
        rows: list[Message] = []
        for one, kind in changed:
            self._envelopes.check(self._shape(one, at).after)
            if kind == "rows" and self._asked.policy == "backfill":
                rows.extend(self._told_again(one, at))
        for batch in _pieces(rows):
            yield from self._slowly(batch, running)
        self._checkpoint = self._passed = at
        for one in self._watched:
            one.places = [max(place, at) for place in one.places]
        if rows and not self._old and self._asked.resolved_s is not None:
            yield [self._resolve(at)]

    def _told_again(self, one: Watched, at: Hlc) -> Iterator[Message]:
        after, before = self._shape(one, at), self._shape(one, at.prev())
        told = [c for c in self._store.changes(one.id, at.prev(), at) if c.mvcc < c.hlc]
        for change in told or (Change(at, k, row, row, "schema", mvcc) for k, row, mvcc in self._store.rows(one.id, at)):
            yield from self._messages(one, change, after, before)


def _descriptor(history: Sequence[Descriptor], at: Hlc) -> Descriptor:
    return history[max(bisect_right(history, at, key=lambda d: d.since) - 1, 0)]


def _kind(older: Descriptor, newer: Descriptor, column_changes: bool) -> str | None:
    """drop, truncate, key; rows: they are told again; quiet: the feed stops and tells nothing; None: it does not notice."""
    if newer.state != "public":
        return "drop"
    if newer.made_by == "truncate":
        return "truncate"
    if newer.key != older.key:
        return "key"
    was, now = {c.id: c for c in older.columns if not c.virtual}, {c.id: c for c in newer.columns if not c.virtual}
    added = [c for n, c in now.items() if n not in was]
    if any(n not in now for n in was) or any(column_changes or c.default is not None or c.computed is not None for c in added):
        return "rows"
    return "quiet" if newer.made_by == "alter type" and any(now[n].kind.kind != c.kind.kind for n, c in was.items()) else None


def _ended(one: Watched, kind: str, name: str, *, old: bool) -> SqlError:
    if kind == "truncate":
        return SqlError("XXUUU", f'"{name}" was truncated')
    return SqlError("XXUUU", f'"{name}" was dropped' if old else "descriptor is being dropped")


def _pieces(messages: Iterable[Message]) -> Iterator[Sequence[Message]]:
    piece: list[Message] = []
    for message in messages:
        piece.append(message)
        if len(piece) == _ROWS:
            yield piece
            piece = []
    if piece:
        yield piece


def _mixed(queues: list[list[tuple[Watched, Change]]], chance: Callable[[], float]) -> Iterator[tuple[Watched, Change]]:
    """The queues' items, each queue in its order, in runs of chance's length."""
    at = [0] * len(queues)
    left = list(range(len(queues)))
    while left:
        number = left[int(chance() * len(left))]
        for _ in range(1 + int(chance() * 6)):
            yield queues[number][at[number]]
            at[number] += 1
            if at[number] == len(queues[number]):
                left.remove(number)
                break
