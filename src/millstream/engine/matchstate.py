"""What the saved searches of one product match: on disk, with the outbox. What is to be said of a difference.

Two tables beside those of `state.py`: `matched` (a row for each search and document that were last said to match) and, while
searches are compared anew, `wanted` (those that do).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa

from millstream.engine.images import conform, structs
from millstream.engine.last import changes
from millstream.engine.sql import quoted
from millstream.engine.state import State
from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.pipelines.searches import SEARCH, VERSION

MATCHED, WANTED = "matched", "wanted"


class MatchTables:
    """The tables of one state. Every call that changes something is part of the caller's transaction."""

    def __init__(self, state: State, schema: RowSchema, topic: str) -> None:
        self._state, self._store, self.schema, self._topic = state, state.store, schema, topic
        self.key = schema.key[1:]

    def create(self) -> None:
        """Empty."""
        self._store.drop(MATCHED)
        self._store.create(MATCHED, self.schema.fields, self.schema.key, [self.key])
        self._store.index(MATCHED, self.key)

    def create_wanted(self) -> None:
        self._store.drop(WANTED)
        self._store.create(WANTED, self.schema.fields, self.schema.key, [self.key])
        self._store.index(WANTED, self.key)

    def drop_wanted(self) -> None:
        self._store.drop(WANTED)

    def of(self, table: str, keys: pa.Table) -> pa.Table:
        """The rows of these documents. `keys` has the document's key columns, in order."""
        return conform(self._store.lookup(table, self.key, keys, self.schema.names), self.schema)

    def replace(self, table: str, gone: pa.Table, rows: pa.Table) -> None:
        """`rows` stand there afterwards, and none of `gone` that are not among them. Both in the schema."""
        names = list(self.schema.key)
        self._store.delete(table, names, gone.select(names))
        self._store.insert(table, rows)

    def difference(self, searches: Collection[str], moved: bool, rows_max: int) -> tuple[pa.Table, pa.Table]:
        """Up to `rows_max` rows of these searches that `matched` has otherwise than `wanted`: as they were, and as they are.

        A row in one of the tables only is null in the other. `moved`: other versions of the same match count too.
        """
        on = " AND ".join(f"m.{quoted(n)} = w.{quoted(n)}" for n in self.schema.key)
        both = [f"m.{quoted(n)} AS {quoted('m ' + n)}, w.{quoted(n)} AS {quoted('w ' + n)}" for n in self.schema.names]
        version = f" OR m.{quoted(VERSION)} <> w.{quoted(VERSION)}" if moved else ""
        listed = ", ".join("'" + s.replace("'", "''") + "'" for s in searches) or "''"
        found = self._store.table(
            f"SELECT {', '.join(both)} FROM (SELECT * FROM {MATCHED} WHERE {SEARCH} IN ({listed})) m FULL JOIN {WANTED} w ON {on} "
            f"WHERE m.{SEARCH} IS NULL OR w.{SEARCH} IS NULL{version} LIMIT {rows_max}"
        )
        return self._side(found, "m"), self._side(found, "w")

    def _side(self, found: pa.Table, side: str) -> pa.Table:
        return conform(found.select([f"{side} {n}" for n in self.schema.names]).rename_columns(list(self.schema.names)), self.schema)

    def events(self, was: pa.Table, now: pa.Table, ts_us: int) -> Batch:
        """Row by row: a match that begins (c), one that goes on (u), one that ends (d). Rows of nulls are on one side only."""
        here = np.arange(len(was), dtype=np.int64)
        old = np.where(np.asarray(was.column(SEARCH).is_null()), -1, here)
        new = np.where(np.asarray(now.column(SEARCH).is_null()), -1, here)
        return changes(self._topic, self.schema, structs(was, old, self.schema), structs(now, new, self.schema), old, new, ts_us)

    def aligned(self, was: pa.Table, now: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Both with a row for every search and document of either, nulls where the side has none; in the order of keys."""
        sides = [{tuple(r[n] for n in self.schema.key): r for r in side.to_pylist()} for side in (was, now)]
        keys = sorted({*sides[0], *sides[1]}, key=repr)
        nothing = dict.fromkeys(self.schema.names)
        return self.rows([sides[0].get(k, nothing) for k in keys]), self.rows([sides[1].get(k, nothing) for k in keys])

    def rows(self, given: Sequence[dict[str, object]]) -> pa.Table:
        return pa.table({f.name: pa.array([r[f.name] for r in given], f.type.arrow) for f in self.schema.fields})


def present(rows: pa.Table) -> pa.Table:
    """Without the rows of nulls."""
    return rows.filter(rows.column(SEARCH).is_valid())
