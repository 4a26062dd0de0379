"""What a source can no longer tell: the span of a table's changes that its server had forgotten before they were read.

An entry is kept in the connector's state, for people: what may be missing, and how it is made good. The table's rows are compared with its
topic's by a reconciling backfill; when that is done the entry is closed, and stays as history.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from millstream.events.progress import Position
from millstream.sources.contract import Lost

CLOSED_MAX = 20
MAY_LACK = "changes that were overwritten since, and deletes: rows that are gone from the table may still be in the topic"


def met(entries: Sequence[Mapping[str, Any]], lost: Iterable[Lost], position: Position | None, now_s: float) -> list[Mapping[str, Any]]:
    """The entries with what was lost now, of tables that were complete to `position`."""
    tables = {} if position is None else position.tables
    new = []
    for one in lost:
        since = tables.get(one.table)
        new.append(
            {
                "table": one.table,
                "code": one.why.code,
                "reason": one.why.message,
                "cure": one.why.cure,
                "after": None if since is None else str(Position(*since)),
                "resumed_at": str(Position(*one.resumed_at)),
                "may_lack": MAY_LACK,
                "reconcile": one.reconcile,
                "backfill": None,
                "at": now_s,
                "closed_at": None,
            }
        )
    return [*entries, *new] if new else list(entries)


def unclosed(entries: Iterable[Mapping[str, Any]], aside: Collection[str] = ()) -> list[Mapping[str, Any]]:
    return [e for e in entries if e["closed_at"] is None and e["table"] not in aside]


def closed(entries: Sequence[Mapping[str, Any]], backfill: str, now_s: float) -> list[Mapping[str, Any]]:
    """The entries after `backfill` made good what it was started for; of closed ones the last few stay."""
    done = [{**e, "closed_at": now_s} if e["backfill"] == backfill and e["closed_at"] is None else e for e in entries]
    history = [e for e in done if e["closed_at"] is not None]
    return [e for e in done if e["closed_at"] is None or e in history[-CLOSED_MAX:]]
