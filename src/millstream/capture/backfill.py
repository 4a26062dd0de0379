"""Which chunks are still to be read: the state of every backfill of one connector. Pure; kept in the producer's record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

INITIAL = "initial"


@dataclass(frozen=True)
class Backfill:
    """One table's backfill: `after` is the last key done (None: none yet), `rows` appended, `estimate` of all rows."""

    table: str
    name: str
    after: list[Any] | None = None
    rows: int = 0
    chunks: int = 0
    estimate: int = 0
    done: bool = False

    def chunk_done(self, last_key: list[Any] | None, rows: int, done: bool) -> Backfill:
        """After a chunk went in; an empty last chunk has no last key and leaves `after` as it is."""
        after = self.after if last_key is None else last_key
        return replace(self, after=after, rows=self.rows + rows, chunks=self.chunks + 1, done=done)


def initial_loads(stored: Mapping[str, Any], tables: Iterable[tuple[str, int]]) -> dict[str, Backfill]:
    """Each table's initial load: as stored, or new with its estimate of rows."""
    return {
        name: Backfill(**stored[name]) if name in stored else Backfill(name, INITIAL, estimate=max(estimate, 0))
        for name, estimate in tables
    }


def stored(backfills: Mapping[str, Backfill]) -> dict[str, Any]:
    return {name: asdict(b) for name, b in backfills.items()}


def next_up(backfills: Mapping[str, Backfill]) -> Backfill | None:
    """The backfill whose chunk is read next: the first that is not done, in the tables' order."""
    return next((b for b in backfills.values() if not b.done), None)
