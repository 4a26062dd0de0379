"""Which chunks are still to be read: the state of every backfill of one connector. Pure; kept in the producer's record.

A table has its initial load, at most one load of a later incarnation of its topic (the last one), at most one schema backfill (the last
one, which tells its rows again because a change of the table gave them values that no event says), at most one for what was lost (which
compares it with its topic), and as many as people ask for. All are read by the same loop, chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from millstream.sources.contract import WHOLE, Scope

INITIAL = "initial"
SCHEMA, LOST, KEY = "schema-", "lost-", "key-"
KEYS_AT_ONCE = 2_000
OVER_KEPT = 50
"""How many of those that people asked for are remembered when they are over."""

Wanted = Literal["run", "pause", "cancel"]
Method = Literal["chunks", "changefeed"]
BackfillState = Literal["offered", "waiting", "running", "paused", "done", "cancelled", "failed"]
OVER: tuple[BackfillState, ...] = ("done", "cancelled", "failed")


@dataclass(frozen=True)
class Backfill:
    """One backfill of a table: `after` is the place of the last key done, as the source says it (None: none yet), in the `part` of its list
    of keys (0 where it has none), `read` and `rows` are how many were read and how many of them appended, `estimate` of all to be read.

    One that is not `wanted` is offered: it waits until its owner starts it. One that reconciles looks, when all rows are read, at those
    that the topic has: `looked` is the last key (hex; "" before the first), None until then; `gone` counts its deletes.
    `ended` says how one that is `done` ended, `why` the reason. `to`: its events are addressed to this pipeline.
    `method` "changefeed": the server's own scan, which knows no `after`; `begun` is its read point (major, minor), None until its first
    rows are in.
    """

    table: str
    name: str
    after: list[Any] | None = None
    rows: int = 0
    chunks: int = 0
    estimate: int = 0
    done: bool = False
    wanted: bool = True
    read: int = 0
    part: int = 0
    reconcile: bool = False
    looked: str | None = None
    gone: int = 0
    ended: str = "done"
    why: str = ""
    to: str | None = None
    method: Method = "chunks"
    begun: Sequence[int] | None = None

    @property
    def is_initial(self) -> bool:
        return self.name == INITIAL

    @property
    def is_asked(self) -> bool:
        """A person asked for it."""
        return not self.is_initial and not self.name.startswith((SCHEMA, LOST, KEY))

    @property
    def is_load(self) -> bool:
        """It fills a topic that had nothing of the table before."""
        return self.is_initial or self.name.startswith(KEY)

    @property
    def slot(self) -> str:
        """Under what it is kept."""
        return self.table if self.is_initial else f"{self.table} {self.name if self.is_asked else self.name.partition('-')[0]}"

    @property
    def cause(self) -> Literal["backfill", "schema"]:
        return "schema" if self.name.startswith(SCHEMA) else "backfill"

    @property
    def compares(self) -> bool:
        """Its rows are read; what is left are rows that only the topic has."""
        return self.looked is not None

    def id(self, source: str) -> str:
        """What people call it: one that they asked for has a name of its own."""
        return self.name if self.is_asked else id_of(source, self.table, self.name)

    def scope(self, whole: Scope) -> Scope:
        """What the next chunk reads of the whole: of a list of keys the next part."""
        if whole.keys is None:
            return whole
        return replace(whole, keys=whole.keys[self.part * KEYS_AT_ONCE : (self.part + 1) * KEYS_AT_ONCE])

    def anew(self) -> Backfill:
        """From the first row again: one was moved to where it may have been already."""
        return replace(self, after=None, chunks=0)

    def at(self, read_point: tuple[int, int] | None) -> Backfill:
        """Where the next rows are of a scan that was begun again: as if nothing had been read."""
        if self.method == "chunks" or read_point is None or (self.begun is not None and tuple(self.begun) == read_point):
            return self
        return replace(self, begun=list(read_point), rows=0, read=0, chunks=0)

    def chunk_done(self, last_key: list[Any] | None, rows: int, done: bool, read: int | None = None, whole: Scope = WHOLE) -> Backfill:
        """After a chunk went in, of which `read` rows were read and `rows` appended; an empty last chunk has no last key and leaves
        `after` as it is. `done`: no row of its scope lies beyond it."""
        after = self.after if last_key is None else last_key
        now = replace(self, after=after, rows=self.rows + rows, chunks=self.chunks + 1, read=self.read + (rows if read is None else read))
        if not done:
            return now
        if whole.keys is not None and (self.part + 1) * KEYS_AT_ONCE < len(whole.keys):
            return replace(now, part=self.part + 1, after=None)
        return replace(now, looked="") if self.reconcile else replace(now, done=True)

    def compared(self, upto: str | None, gone: int) -> Backfill:
        """After keys of the topic up to `upto` (None: all) were looked at, of which `gone` were deleted."""
        now = replace(self, gone=self.gone + gone, chunks=self.chunks + 1)
        return replace(now, done=True) if upto is None else replace(now, looked=upto)

    def over(self, how: Literal["cancelled", "failed"], why: str = "") -> Backfill:
        return replace(self, done=True, ended=how, why=why)


Backfills = Mapping[str, Backfill]
"""By slot: initial loads first, then the others as they came."""


@dataclass(frozen=True)
class Order:
    """What a person asks for: a backfill of that name, which reads `scope`; about `estimate` rows. `throttle` in rows a second, at most;
    None: as its readers bear it. An order whose `asks` is false speaks of a backfill that is there without it (`id_of`)."""

    name: str
    source: str
    table: str
    scope: Scope = WHOLE
    reconcile: bool = False
    estimate: int = 0
    to: str | None = None
    asks: bool = True
    wanted: Wanted = "run"
    throttle: float | None = None
    method: Method = "chunks"

    def backfill(self) -> Backfill:
        return Backfill(self.table, self.name, estimate=self.estimate, reconcile=self.reconcile, to=self.to, method=self.method)


@dataclass
class Turns:
    """Who is next: of those that may read now the one whose last chunk is the longest ago, so that none waits for another's end.
    Initial loads and schema backfills are one after the other, in their order. `now` in seconds of one clock.
    """

    _at: dict[str, tuple[int, float, int]] = field(default_factory=dict)  # slot → turn, when, rows
    _turn: int = 0

    def next(
        self, backfills: Backfills, aside: Collection[str], paused: Collection[str], throttles: Mapping[str, float], now: float
    ) -> Backfill | None:
        """`paused` and `throttles` by slot. None: none wants to, or each that does has to wait."""
        free = [b for b in waiting(backfills, aside, paused) if self._may(b.slot, throttles.get(b.slot), now)]
        return min(free, key=lambda b: self._at.get(b.slot, (0, 0.0, 0))[0], default=None)

    def took(self, slot: str, rows: int, now: float) -> None:
        """A chunk of so many rows was read."""
        self._turn += 1
        self._at[slot] = (self._turn, now, rows)

    def _may(self, slot: str, throttle: float | None, now: float) -> bool:
        _, at, rows = self._at.get(slot, (0, now, 0))
        return throttle is None or now - at >= rows / throttle


def waiting(backfills: Backfills, aside: Collection[str] = (), paused: Collection[str] = ()) -> Iterator[Backfill]:
    """Those that want to read their next chunk: what people asked for, and the first of all others."""
    first = next_up({slot: b for slot, b in backfills.items() if not b.is_asked and slot not in paused}, aside)
    if first is not None:
        yield first
    yield from (b for slot, b in backfills.items() if b.is_asked and not b.done and slot not in paused and b.table not in aside)


def next_up(backfills: Backfills, aside: Collection[str] = ()) -> Backfill | None:
    """The first that is wanted and not done, in the tables' order, of no table set `aside`."""
    return next((b for b in backfills.values() if b.wanted and not b.done and b.table not in aside), None)


def doing(backfills: Backfills) -> tuple[str, int, int]:
    """What is loaded now, its rows done and the estimate of all."""
    loads = [b for b in backfills.values() if b.is_initial]
    if all(b.done for b in loads):
        loads = [b for b in backfills.values() if b.is_load and b.wanted and not b.done]
    if not loads:
        loads = [b for b in backfills.values() if b.wanted and not (b.is_load or b.done)]
    if loads and loads[0].is_load:
        what = "initial load" if loads[0].is_initial else "load of a new incarnation"
    else:
        what = "backfill" if any(b.cause == "backfill" for b in loads) else "schema backfill"
    done = [max(b.rows, b.read) for b in loads]
    return what, sum(done), sum(max(b.estimate, d) for b, d in zip(loads, done, strict=True))


def id_of(source: str, table: str, name: str) -> str:
    return f"{source}.{table}:{name}"


def resumed(stored: Mapping[str, Any], tables: Iterable[tuple[str, int]], *, start_offered: bool) -> dict[str, Backfill]:
    """Each table's backfills: as stored, an initial load new with its estimate of rows. A schema backfill that was offered starts, if so
    wanted."""
    named = dict(tables)
    loads = {
        name: Backfill(**stored[name]) if name in stored else Backfill(name, INITIAL, estimate=max(estimate, 0))
        for name, estimate in named.items()
    }
    others = (Backfill(**given) for slot, given in stored.items() if slot not in loads and given["table"] in named)
    return loads | {b.slot: replace(b, wanted=b.wanted or (start_offered and b.cause == "schema")) for b in others}


def with_schema_backfill(backfills: Backfills, table: str, version: int, *, start: bool) -> Backfills:
    """A new version left values of old rows unsaid: the table is to be read again, from its first row. An unfinished backfill for
    an earlier version is part of it; where the initial load has read nothing yet, that will say all."""
    load = load_of(backfills, table)
    if not load.done and load.chunks == 0:
        return backfills
    again = Backfill(table, f"{SCHEMA}{version}", estimate=max(load.rows, load.estimate), wanted=start)
    return {**backfills, again.slot: again}


def with_reconciling(backfills: Backfills, table: str, number: int, *, start: bool) -> Backfills:
    """What was lost of a table, for the `number`th time, is made good by one that compares; it takes the place of an earlier one."""
    load = load_of(backfills, table)
    made = Backfill(table, f"{LOST}{number}", estimate=max(load.rows, load.estimate), wanted=start, reconcile=True)
    return {**backfills, made.slot: made}


def load_of(backfills: Backfills, table: str) -> Backfill:
    """The load of the topic that the table's rows go to now."""
    return next((b for b in backfills.values() if b.table == table and b.name.startswith(KEY)), backfills[table])


def with_key_load(backfills: Backfills, table: str, number: int) -> Backfills:
    """The table goes on in incarnation `number` of its topic, which is to be loaded from its first row. What was begun for the one before
    is over: what was lost of the table the load makes good; what a person asked for was over rows of the old key."""
    load, why = load_of(backfills, table), f"the table has another key: its topic goes on as incarnation {number}, which is loaded anew"
    over = {slot: b for slot, b in backfills.items() if b.table == table and not b.done}
    ended = {slot: replace(b, done=True, why=why) if b.name.startswith(LOST) else b.over("cancelled", why) for slot, b in over.items()}
    made = Backfill(table, f"{KEY}{number}", estimate=max(load.rows, load.estimate))
    return {**backfills, **ended, made.slot: made}


def stored(backfills: Backfills) -> dict[str, Any]:
    """As it is kept; of what people asked for long ago nothing."""
    over = [slot for slot, b in backfills.items() if b.is_asked and b.done]
    old = set(over[:-OVER_KEPT])
    return {slot: asdict(b) for slot, b in backfills.items() if slot not in old}
