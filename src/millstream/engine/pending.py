"""The pending keys of a stateful step: a queue on disk of the units that wait to be refreshed, each once.

Units come in *groups*: those that one batch pended through one occurrence. A small table counts what is left of each, so that
nothing scans the queue to count it, and says whose turn it is: half of every slice goes to the smallest groups, the other half
to the oldest. So a fresh change of one row is refreshed in the next slice, while the half million keys of a changed dimension
shrink by half a slice each time; and as every group is the oldest one day, none starves. A unit that waits in a large group
and is pended again by a small one moves there, once: out of a small group nothing moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from millstream.engine.sql import quoted
from millstream.engine.store import GIVEN, Store
from millstream.events.types import Field, Type

SMALL = 5_000  # keys: a group up to here is fresh, and overtakes those above
_GROUP, _ROW = "__ms_group", "__ms_row"


@dataclass(frozen=True)
class Slice:
    """Pending units (`keys`), taken to be refreshed; they stay pending until `done`. `ts_us` is the latest commit time of
    what pended them; `at` says where they stand, and holds within the transaction."""

    keys: pa.Table
    at: pa.Table
    ts_us: int

    def first(self, count: int) -> Slice:
        return Slice(self.keys.slice(0, count), self.at.slice(0, count), self.ts_us)


@dataclass(frozen=True)
class _Group:
    id: int
    left: int
    ts_us: int


class Pending:
    """The queue of one step. Every call is part of its caller's transaction."""

    def __init__(self, step: str, unit: Sequence[Field], store: Store) -> None:
        self._fields, self._store = unit, store
        self._unit = [f.name for f in unit]
        self._table, self._counts = f"pending {step}", f"groups {step}"
        self._turn = 0
        self.triggers = 0  # units added since this was made, those that were waiting already too

    def create(self) -> None:
        int64 = Type("int64")
        self._store.create(self._table, [*self._fields, Field(_GROUP, int64, 0)], key=())
        self._store.create(self._counts, [Field(name, int64, 0) for name in ("id", "since", "ts_us", "units")], key=())

    @property
    def count(self) -> int:
        return int(self._store.rows(f"SELECT coalesce(sum(units), 0) FROM {quoted(self._counts)}")[0][0])

    def add(self, keys: pa.Table, since: int, ts_us: int) -> None:
        """Distinct units, columns in the unit's order, pended by commit `since`; `ts_us` is when that was committed at the source."""
        if not keys.num_rows:
            return
        self.triggers += keys.num_rows
        groups = self._groups("id")
        if keys.num_rows <= SMALL and any(g.left > SMALL for g in groups):
            self._take_out(keys, [g for g in groups if g.left > SMALL])
        with self._store.given(keys.rename_columns(self._unit)):
            self._append(GIVEN, groups, since, ts_us)

    def add_from(self, table: str, by: Sequence[str], values: pa.Table, columns: Sequence[str], since: int, ts_us: int) -> None:
        """The units that the rows of `table` carry in `columns`, where `by` equals one of `values`. They may be millions."""
        with self._store.given(values):
            found = self._store.found(table, by, values.column_names)
            units = ", ".join(f"t.{quoted(c)} AS {quoted(u)}" for c, u in zip(columns, self._unit, strict=True))
            few = self._store.table(f"SELECT DISTINCT {units} FROM {found} LIMIT {SMALL + 1}")
            if few.num_rows > SMALL:
                many = f"(SELECT DISTINCT {units} FROM {found})"
                self.triggers += int(self._store.rows(f"SELECT count(*) FROM {many}")[0][0])
                self._append(many, self._groups("id"), since, ts_us)
                return
        self.add(few, since, ts_us)

    def add_all(self, relation: str, since: int, ts_us: int) -> None:
        """The distinct units of a relation of our own SQL, of columns named as the unit's."""
        self._append(relation, self._groups("id"), since, ts_us)

    def _append(self, relation: str, groups: Sequence[_Group], since: int, ts_us: int) -> None:
        """The units of a relation that are not pending yet become a group."""
        own = max((g.id for g in groups), default=0) + 1
        names = ", ".join(map(quoted, self._unit))
        on = " AND ".join(f"g.{quoted(n)} = p.{quoted(n)}" for n in self._unit)
        new = f"{relation} g ANTI JOIN {quoted(self._table)} p ON {on}" if groups else f"{relation} g"
        count = self._store.insert_from(self._table, [*self._unit, _GROUP], f"(SELECT {names}, {own} AS {_GROUP} FROM {new})")
        if count:
            self._store.rows(f"INSERT INTO {quoted(self._counts)} VALUES (?, ?, ?, ?)", [own, since, ts_us, count])

    def _take_out(self, keys: pa.Table, groups: Sequence[_Group]) -> None:
        names = ", ".join(map(quoted, self._unit))
        given = ", ".join(map(quoted, keys.column_names))
        inside = ", ".join(str(g.id) for g in groups)
        with self._store.given(keys):
            at = self._store.table(
                f"SELECT rowid AS {_ROW}, {_GROUP} FROM {quoted(self._table)} "
                f"WHERE {_GROUP} IN ({inside}) AND ({names}) IN (SELECT ({given}) FROM {GIVEN})"
            )
        self._remove(at)

    def _groups(self, order: str) -> list[_Group]:
        return [_Group(*row) for row in self._store.rows(f"SELECT id, units, ts_us FROM {quoted(self._counts)} ORDER BY {order}")]

    # ---- working it off

    def take(self, limit: int) -> Slice:
        """At most `limit` units, half of them of the smallest groups and the rest of the oldest ones."""
        fresh_first = self._groups("units, id")
        if sum(g.left for g in fresh_first) <= limit:
            shares = {g: g.left for g in fresh_first}
        else:
            self._turn ^= 1  # a slice of one key goes to either in turn
            shares = _shares(fresh_first, (limit + self._turn) // 2)
            for g, share in _shares(sorted(fresh_first, key=lambda g: g.id), limit - sum(shares.values()), shares).items():
                shares[g] = shares.get(g, 0) + share
        if not shares:
            return Slice(pa.table({n: [] for n in self._unit}), pa.table({_ROW: []}), 0)
        columns = f"{', '.join(map(quoted, self._unit))}, rowid AS {_ROW}, {_GROUP}"
        whole = [g.id for g, share in shares.items() if share == g.left]
        parts = [f"SELECT {columns} FROM {quoted(self._table)} WHERE {_GROUP} IN ({', '.join(map(str, whole))})"] if whole else []
        parts += [
            f"(SELECT {columns} FROM {quoted(self._table)} WHERE {_GROUP} = {g.id} LIMIT {share})"
            for g, share in shares.items()
            if share < g.left
        ]
        found = self._store.table(" UNION ALL ".join(parts))
        return Slice(found.select(self._unit), found.select([_ROW, _GROUP]), max(g.ts_us for g in shares))

    def done(self, taken: Slice) -> None:
        """These are refreshed. In the transaction that took them."""
        self._remove(taken.at)

    def _remove(self, at: pa.Table) -> None:
        if not at.num_rows:
            return
        with self._store.given(at):
            self._store.execute(f"DELETE FROM {quoted(self._table)} WHERE rowid IN (SELECT {_ROW} FROM {GIVEN})")
        gone = [(g["values"], g["counts"]) for g in pc.value_counts(at.column(_GROUP).combine_chunks()).to_pylist()]
        fewer = " ".join(f"WHEN {g} THEN {count}" for g, count in gone)
        self._store.execute(f"UPDATE {quoted(self._counts)} SET units = units - CASE id {fewer} ELSE 0 END")
        self._store.execute(f"DELETE FROM {quoted(self._counts)} WHERE units = 0")


def _shares(groups: Sequence[_Group], limit: int, taken: dict[_Group, int] | None = None) -> dict[_Group, int]:
    """How many units of each group, in order, make `limit`, beside those taken already."""
    shares: dict[_Group, int] = {}
    for g in groups:
        share = min(limit, g.left - (taken or {}).get(g, 0))
        if share > 0:
            shares[g] = share
            limit -= share
    return shares
