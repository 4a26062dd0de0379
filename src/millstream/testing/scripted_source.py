"""A source of kind `log` that plays a written history: for tests of what stands behind a source, with no server.

What a database may do, a seed makes it do: a commit is in the stream before a read can see it, a transaction comes in
pieces, the stream ends anywhere and begins again with a whole transaction that was given in part before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.errors import Refused
from millstream.events.batch import Batch, batch
from millstream.events.fills import filled
from millstream.events.origin import Origin
from millstream.events.progress import Position
from millstream.events.types import RowSchema
from millstream.sources.contract import WHOLE, Admission, Chunk, Delivery, SchemaBackfill, Scope, Table, Truncate

Row = dict[str, Any]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Change:
    """One row's change in one table; before None is an insert, after None a delete. Without either: the table is truncated."""

    table: str
    before: Row | None
    after: Row | None


@dataclass
class ScriptedDatabase:
    """What outlives a connector. Entry i of `log` (a transaction, or a mark's name) has major 10·(i + 1).

    Reads see the first `visible` entries, which may be fewer than the stream has given.
    """

    tables: dict[str, RowSchema]
    rng: random.Random
    log: list[list[Change] | str] = field(default_factory=list)
    visible: int = 0
    altered: list[tuple[int, str, RowSchema]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._first = dict(self.tables)

    def alter(self, table: str, schema: RowSchema) -> None:
        """From the next entry on the table has these columns: by id, an added one with what its fill says in the rows that there are. Its
        key may be another, which must be one of these rows."""
        self.altered.append((len(self.log), table, schema))
        self.tables[table] = schema

    def schema(self, table: str, entries: int) -> RowSchema:
        """What the table is after the first entries, and in the next. One that was never altered is what `tables` says now."""
        mine = [(at, schema) for at, t, schema in self.altered if t == table]
        return next((s for at, s in reversed(mine) if at <= entries), self._first[table] if mine else self.tables[table])

    def altered_at(self, table: str) -> int:
        """How many entries there were when the table was altered last. Whoever reads it sees them: that waited for the reads before it."""
        return next((at for at, t, _ in reversed(self.altered) if t == table), 0)

    def commit(self, *changes: Change) -> None:
        self.log.append(list(changes))

    def rows(self, table: str, entries: int | None = None) -> dict[Key, Row]:
        """A table as the first entries of the log (all of them) leave it."""
        schema = self.schema(table, -1)
        names = schema.key
        rows: dict[Key, Row] = {}
        for at, changes in enumerate([*self.log[:entries], ""]):
            if (now := self.schema(table, at)) != schema:
                altered = [_altered(row, schema, now) for row in rows.values()]
                schema, names = now, now.key
                rows = {tuple(row[k] for k in names): row for row in altered}
            for c in changes if isinstance(changes, list) else ():
                if c.table == table and c.before is c.after is None:
                    rows.clear()
                if c.table == table and c.before is not None:
                    rows.pop(tuple(c.before[k] for k in names), None)
                if c.table == table and c.after is not None:
                    rows[tuple(c.after[k] for k in names)] = c.after
        return rows


def _altered(row: Row, was: RowSchema, now: RowSchema) -> Row:
    names = {f.id: f.name for f in was.fields}
    return {f.name: row[names[f.id]] if f.id in names else filled(f, 1)[0].as_py() for f in now.fields}


def within(scope: Scope, key: Key, row: Row) -> bool:
    """A condition is "column = value" here; keys and ends are compared as Python does, after the column's own type."""
    if scope.where is not None:
        name, _, value = scope.where.partition(" = ")
        return str(row[name]) == value

    def typed(text: tuple[str, ...]) -> Key:
        return tuple(type(k)(t) for k, t in zip(key, text, strict=False))

    if scope.keys is not None:
        return any(key == typed(k) for k in scope.keys)
    after_first = scope.first is None or key[: len(scope.first)] >= typed(scope.first)
    return after_first and (scope.last is None or key[: len(scope.last)] <= typed(scope.last))


class ScriptedSource:
    """One opening of the database by one connector."""

    admission: Admission = "log"
    schema_backfill: SchemaBackfill = "start"

    def __init__(self, name: str, database: ScriptedDatabase) -> None:
        self.name, self._db = name, database
        self.acknowledged: list[Position] = []
        self._given = 0

    def check(self) -> None:
        """A script has nothing to refuse."""

    def tables(self) -> list[Table]:
        return [Table(n, s, "whole", Origin("scripted", self.name, "script", None, n), 0) for n, s in self._db.tables.items()]

    def stream(self, resume_after: Position | None) -> Iterator[Delivery]:
        position = resume_after or Position(0, 0)
        # (10·n, m) lies inside entry n, or just before it, and it comes again whole; (10·n + 1, 0) lies after it.
        at = max(0, (position.major - 1) // 10)
        self._given = max(self._given, int(position.detail.get("given", 0)) // 10)
        while True:
            if at == len(self._db.log):
                yield Delivery((), self._position(at), idle=True)
                continue
            entry = self._db.log[at]
            at += 1
            self._given = max(self._given, at)
            if isinstance(entry, str):
                yield Delivery((), self._position(at), mark=entry)
            else:
                yield from self._transaction(at, entry)

    def _position(self, entries: int) -> Position:
        return Position(10 * entries + 1, 0, {"given": 10 * entries})

    def _transaction(self, number: int, changes: Sequence[Change]) -> Iterator[Delivery]:
        numbered = list(enumerate(changes, 1))
        while numbered:
            size = self._db.rng.randint(1, len(numbered))
            size = next((i for i, (_, c) in enumerate(numbered[:size]) if c.before is c.after is None), size)
            if size == 0:  # a truncate is next
                (minor, truncated), *numbered = numbered
                place = Position(10 * number, minor, {"given": 10 * number})
                yield Delivery((), place, truncate=Truncate((truncated.table,), number, str(number)))
                if not numbered:
                    yield Delivery((), self._position(number))
                continue
            part, numbered = numbered[:size], numbered[size:]
            end = self._position(number) if not numbered else Position(10 * number, part[-1][0], {"given": 10 * number})
            tables = list(dict.fromkeys(c.table for _, c in part))
            yield Delivery(tuple(self._batch(t, number, [(m, c) for m, c in part if c.table == t]) for t in tables), end)

    def _batch(self, table: str, number: int, changes: Sequence[tuple[int, Change]]) -> Batch:
        schema, count = self._db.schema(table, number - 1), len(changes)
        minor = np.array([m for m, _ in changes], np.uint32)
        return batch(
            table,
            schema,
            {
                "op": ["d" if c.after is None else "c" if c.before is None else "u" for _, c in changes],
                "before": pa.array([c.before for _, c in changes], schema.arrow),
                "after": pa.array([c.after for _, c in changes], schema.arrow),
                "incarnation": np.ones(count, np.uint32),
                "major": np.full(count, 10 * number, np.uint64),
                "minor": minor,
                "ts_us": np.full(count, number, np.int64),
                "tx_id": [str(number)] * count,
                "tx_order": minor.astype(np.int64),
                "position": [f"{number}.{m}" for m, _ in changes],
            },
        )

    def chunk(self, table: str, after: list[Any] | None, rows_max: int, scope: Scope = WHOLE) -> Chunk | None:
        """Reads what is visible by now; None while the stream has given more than that, as the contract asks."""
        if not self._look(table):
            return None
        rows_max = self._db.rng.randint(1, 3)
        schema = self._db.schema(table, self._db.visible)
        if after is not None and len(after) != len(schema.key):
            raise Refused(f"{table} has another key", code="table_changed", where=self.name)
        rows = sorted(self._db.rows(table, self._db.visible).items())
        rows = [(k, r) for k, r in rows if (after is None or k > tuple(after)) and within(scope, k, r)]
        last = list(rows[:rows_max][-1][0]) if rows else None
        return self._read(table, schema, [r for _, r in rows[:rows_max]], last, len(rows) <= rows_max)

    def admits(self, table: str, scope: Scope) -> int:
        return len([k for k, r in self._db.rows(table).items() if within(scope, k, r)])

    def absent(self, table: str, schema: RowSchema, rows: pa.RecordBatch, scope: Scope) -> Chunk | None:
        if not self._look(table):
            return None
        there = self._db.rows(table, self._db.visible)
        keyed = [(tuple(row[k] for k in schema.key), row) for row in rows.to_pylist()]
        return self._read(table, schema, [row for key, row in keyed if key not in there and within(scope, key, row)], None, True)

    def _look(self, table: str) -> bool:
        """Moves on what reads see; False while the stream has given more than that."""
        db = self._db
        db.visible = db.rng.randint(max(db.visible, db.altered_at(table)), len(db.log))
        return not (self._given > db.visible and any(isinstance(e, list) for e in db.log[db.visible : self._given]))

    def _read(self, table: str, schema: RowSchema, rows: list[Row], last: list[Any] | None, done: bool) -> Chunk:
        seen, mark = self._db.visible, f"{table} {len(self._db.log)}"
        self._db.log.append(mark)

        def newer(live: Batch) -> npt.NDArray[np.bool_]:
            return np.asarray(live.column("major")) > 10 * seen

        return Chunk(table, schema, pa.RecordBatch.from_struct_array(pa.array(rows, schema.arrow)), mark, newer, last, done, 0)

    def acknowledge(self, position: Position) -> None:
        self.acknowledged.append(position)

    def head(self) -> tuple[int, int]:
        return 10 * len(self._db.log) + 1, 0

    def close(self) -> None:
        """Nothing is held."""
