"""Which chunks are still to be read: the state of every backfill of one connector. Pure; kept in the producer's record.

A table has at most two: its initial load, under the table's name, and the last schema backfill, which tells its rows
again because a change of the table gave them values that no event says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

INITIAL = "initial"


@dataclass(frozen=True)
class Backfill:
    """One table's backfill: `after` is the last key done (None: none yet), `rows` appended, `estimate` of all rows.

    One that is not `wanted` is offered: it waits until its owner starts it.
    """

    table: str
    name: str
    after: list[Any] | None = None
    rows: int = 0
    chunks: int = 0
    estimate: int = 0
    done: bool = False
    wanted: bool = True

    @property
    def is_initial(self) -> bool:
        return self.name == INITIAL

    @property
    def slot(self) -> str:
        """Under what it is kept."""
        return self.table if self.is_initial else f"{self.table} schema"

    @property
    def cause(self) -> Literal["backfill", "schema"]:
        return "backfill" if self.is_initial else "schema"

    def anew(self) -> Backfill:
        """From the first row again: one was moved to where it may have been already."""
        return replace(self, after=None, chunks=0)

    def chunk_done(self, last_key: list[Any] | None, rows: int, done: bool) -> Backfill:
        """After a chunk went in; an empty last chunk has no last key and leaves `after` as it is."""
        after = self.after if last_key is None else last_key
        return replace(self, after=after, rows=self.rows + rows, chunks=self.chunks + 1, done=done)


Backfills = Mapping[str, Backfill]
"""By slot: initial loads first, then schema backfills."""


def resumed(stored: Mapping[str, Any], tables: Iterable[tuple[str, int]], *, start_offered: bool) -> dict[str, Backfill]:
    """Each table's backfills: as stored, an initial load new with its estimate of rows. What was offered starts, if so wanted."""
    named = dict(tables)
    loads = {
        name: Backfill(**stored[name]) if name in stored else Backfill(name, INITIAL, estimate=max(estimate, 0))
        for name, estimate in named.items()
    }
    schema = (Backfill(**given) for slot, given in stored.items() if slot not in loads and given["table"] in named)
    return loads | {b.slot: replace(b, wanted=b.wanted or start_offered) for b in schema}


def with_schema_backfill(backfills: Backfills, table: str, version: int, *, start: bool) -> Backfills:
    """A new version left values of old rows unsaid: the table is to be read again, from its first row. An unfinished backfill for
    an earlier version is part of it; where the initial load has read nothing yet, that will say all."""
    load = backfills[table]
    if not load.done and load.chunks == 0:
        return backfills
    again = Backfill(table, f"schema-{version}", estimate=max(load.rows, load.estimate), wanted=start)
    return {**backfills, again.slot: again}


def stored(backfills: Backfills) -> dict[str, Any]:
    return {slot: asdict(b) for slot, b in backfills.items()}


def next_up(backfills: Backfills, aside: Collection[str] = ()) -> Backfill | None:
    """The backfill whose chunk is read next: the first that is wanted and not done, in the tables' order, of no table set `aside`."""
    return next((b for b in backfills.values() if b.wanted and not b.done and b.table not in aside), None)
