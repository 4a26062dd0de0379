"""Lookups over a scripted database: each query sees it as of some moment at or after what it must show, ahead of the stream by chance."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import Any

import pyarrow as pa

from millstream.errors import Retryable
from millstream.events.progress import Position
from millstream.sources.contract import Asked, Limits
from millstream.testing.scripted_source import ScriptedDatabase


class ScriptedLookup:
    """`fails_every`: one query of so many fails, before or after its first piece. `asked` is told of every query and the moment (how many
    entries of the log) that answers it. `stale_by` entries before what must be shown: the fault that nothing may have."""

    def __init__(
        self,
        name: str,
        database: ScriptedDatabase,
        rng: random.Random,
        *,
        fails_every: int = 0,
        stale_by: int = 0,
        asked: Callable[[Asked, Position], None] = lambda asked, not_before: None,
    ) -> None:
        self.name, self._db, self._rng = name, database, rng
        self.limits = Limits(per_s=1e9, keys_max=rng.choice([1, 3, 1000]), slow_ms=1e9)
        self._fails_every, self._stale_by, self._asked = fails_every, stale_by, asked
        self.queries = 0
        self.reading = "the script"

    def lookup(self, asked: Asked, not_before: Position) -> Generator[pa.Table, None, None]:
        self._asked(asked, not_before)
        self.queries += 1
        self._may_fail()
        least = not_before.major // 10
        moment = max(0, least - self._stale_by) if self._stale_by else self._rng.randint(least, max(least, len(self._db.log)))
        keys = {tuple(row.values()) for row in asked.keys.to_pylist()}
        rows = [r for r in self._db.rows(asked.table, moment).values() if self._matches(r, asked, keys)]
        for start in range(0, len(rows), 2):
            yield self._table(rows[start : start + 2], asked)
            self._may_fail()

    def _matches(self, row: dict[str, Any], asked: Asked, keys: set[tuple[Any, ...]]) -> bool:
        """Now and then a row too many, as a wide collation would give."""
        return tuple(row[c] for c in asked.columns) in keys or self._rng.random() < 0.05

    def _table(self, rows: list[dict[str, Any]], asked: Asked) -> pa.Table:
        fields = [pa.field(w, asked.schema[w].type.arrow) for w in asked.wanted]
        return pa.Table.from_pylist([{w: r[w] for w in asked.wanted} for r in rows], schema=pa.schema(fields))

    def _may_fail(self) -> None:
        if self._fails_every and self._rng.randrange(self._fails_every) == 0:
            raise Retryable("the script lost its connection", code="connection", where=f"source {self.name}")

    def close(self) -> None:
        """A script has nothing to end."""
