"""What a source can no longer tell: the span of a table's changes that its server had forgotten before they were read.

An entry is kept in the connector's state, for people: what may be missing, and the backfill that makes it good by comparing the table's
rows with its topic's. When that is done the entry is closed, and stays as history.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from millstream.capture.backfill import LOST, Backfills, with_reconciling
from millstream.events.progress import Position
from millstream.sources.contract import Lost

CLOSED_MAX = 20
MAY_LACK = "changes that others have overwritten since, and deletes: until its topic is compared with it, rows may be there that it has not"

Entry = Mapping[str, Any]


def met(
    entries: Sequence[Entry], lost: Iterable[Lost], position: Position | None, backfills: Backfills, now_s: float
) -> tuple[list[Entry], Backfills]:
    """The entries with what was lost now, of tables that were complete to `position`, and the backfills with those that make it good."""
    found, tables = list(entries), {} if position is None else position.tables
    for one in lost:
        number = 1 + max((int(e["backfill"].removeprefix(LOST)) for e in found if e["table"] == one.table), default=0)
        backfills = with_reconciling(backfills, one.table, number, start=one.reconcile)
        since = tables.get(one.table)
        found.append(
            {
                "table": one.table,
                "code": one.why.code,
                "reason": one.why.message,
                "cure": one.why.cure,
                "after": None if since is None else str(Position(*since)),
                "resumed_at": str(Position(*one.resumed_at)),
                "may_lack": MAY_LACK,
                "backfill": f"{LOST}{number}",
                "at": now_s,
                "closed_at": None,
            }
        )
    return found, backfills


def settled(entries: Sequence[Entry], backfills: Backfills, clock: Callable[[], float]) -> list[Entry]:
    """The entries, those closed whose table was compared since; of the closed ones the last few stay."""
    done = {b.table: int(b.name.removeprefix(LOST)) for b in backfills.values() if b.name.startswith(LOST) and b.done and b.ended == "done"}
    if not any(_is_made_good(e, done) for e in entries):
        return list(entries)
    now_s = clock()
    found = [{**e, "closed_at": now_s} if _is_made_good(e, done) else e for e in entries]
    history = [e for e in found if e["closed_at"] is not None]
    return [e for e in found if e["closed_at"] is None or e in history[-CLOSED_MAX:]]


def _is_made_good(entry: Entry, done: Mapping[str, int]) -> bool:
    return entry["closed_at"] is None and done.get(entry["table"], 0) >= int(entry["backfill"].removeprefix(LOST))


def open_ones(entries: Iterable[Entry], aside: Collection[str] = ()) -> list[Entry]:
    """Those that are not made good, of no table set `aside`."""
    return [e for e in entries if e["closed_at"] is None and e["table"] not in aside]
