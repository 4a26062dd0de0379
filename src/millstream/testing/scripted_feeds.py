"""A source of kind `frontier` that plays a written history as CockroachDB's changefeeds tell it: for tests of what stands behind such
a source, with no server.

What recordings of real feeds show, a seed makes it do: ranges of a table tell their changes each at its own pace, so that times are in
order for one key alone; at any moment a range tells everything since the feed's last checkpoint again, after newer versions and in
between them; what is complete up to when is told late, table by table, and stands still for long; a connection ends anywhere, and goes on
from a time. Reads are as of a time that was told.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.errors import Irrecoverable, Retryable
from millstream.events.batch import Batch, batch
from millstream.events.fills import filled
from millstream.events.origin import Origin
from millstream.events.progress import Position
from millstream.events.types import RowSchema
from millstream.sources.contract import WHOLE, Admission, Chunk, Delivery, Lost, SchemaBackfill, Scope, Table
from millstream.testing.scripted_source import Key, Row, within

Time = tuple[int, int]
RANGES = 3
NOTHING = "deletes of nothing"


@dataclass(frozen=True)
class Told:
    """One row's change at a time; `before` and `after` None: a delete of nothing. `again`: a row as it was, in the table's new shape."""

    at: Time
    table: str
    key: Key
    before: Row | None
    after: Row | None
    again: bool = False


@dataclass
class ScriptedCluster:
    """What outlives a connector. `log` is in order of time; changes of one transaction have the same, and different keys."""

    tables: dict[str, RowSchema]
    rng: random.Random
    log: list[Told] = field(default_factory=list)
    forgotten: Time = (0, 0)
    _clock: Time = (1_000, 0)
    _altered: list[tuple[Time, str, RowSchema]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._first = dict(self.tables)

    def add(self, table: str, schema: RowSchema) -> None:
        """A table that a connector finds when it is opened again."""
        self.tables[table] = self._first[table] = schema

    def now(self) -> Time:
        """Later than all before it: mostly by its first number, now and then by the second alone."""
        wall, logical = self._clock
        self._clock = (wall, logical + 1) if self.rng.random() < 0.3 else (wall + self.rng.randint(1, 30), 0)
        return self._clock

    def commit(self, *changes: tuple[str, Key, Row | None]) -> Time:
        """One transaction, as (table, key, row or None); of several for one key the last. Deleting what is not there is told as nothing."""
        at = self.now()
        last = {(table, key): after for table, key, after in changes}
        self.log += [Told(at, table, key, self.rows(table).get(key), after) for (table, key), after in last.items()]
        return at

    def alter(self, table: str, schema: RowSchema, *, again: bool) -> Time:
        """The table has these columns and this key from now on; `again`: every row is told once more, at the time of the change."""
        rows, at = self.rows(table), self.now()
        was, self.tables[table] = self.tables[table], schema
        self._altered.append((at, table, schema))
        if again:
            self.log += [Told(at, table, key, _shaped(row, was, schema), _shaped(row, was, schema), True) for key, row in rows.items()]
        return at

    def forget(self) -> None:
        """What lies before now can be told and read no longer, as after the garbage collection's time."""
        self.forgotten = self.now()

    def schema(self, table: str, at: Time) -> RowSchema:
        mine = [(since, schema) for since, t, schema in self._altered if t == table]
        return next((schema for since, schema in reversed(mine) if since <= at), self._first[table])

    def _before(self, table: str, at: Time) -> RowSchema:
        """What it had before a change that was then."""
        mine = [schema for since, t, schema in self._altered if t == table and since < at]
        return mine[-1] if mine else self._first[table]

    def barriers(self, table: str) -> list[Time]:
        """Times of changes that told the rows again or gave them another key: all before is told before, all after afterwards."""
        return sorted({*self.key_changes(table), *(t.at for t in self.log if t.table == table and t.again)})

    def key_changes(self, table: str) -> list[Time]:
        return [at for at, t, schema in self._altered if t == table and self._before(table, at).key != schema.key]

    def rows(self, table: str, at: Time | None = None) -> dict[Key, Row]:
        """The table as of a time (now), in the shape that it had then."""
        at = self._clock if at is None else at
        schema = self.schema(table, at)
        rows: dict[Key, Row] = {}
        for told in self.log:
            if told.table != table or told.at > at:
                continue
            if told.after is None:
                rows.pop(told.key, None)
            else:
                rows[told.key] = _shaped(told.after, self.schema(table, told.at), schema)
        return rows


def just_before(at: Time) -> Time:
    return (at[0], at[1] - 1) if at[1] else (at[0] - 1, 2**31 - 1)


def _shaped(row: Row, was: RowSchema, now: RowSchema) -> Row:
    names = {f.id: f.name for f in was.fields}
    return {f.name: row[names[f.id]] if f.id in names else filled(f, 1)[0].as_py() for f in now.fields}


class _Range:
    """Part of a table's keys, as one feed tells it: what it has not told, and what it tells again."""

    def __init__(self, after: Time) -> None:
        self.told_to = after
        self.read = 0  # of the cluster's log
        self.waiting: list[Told] = []
        self.told: list[Told] = []  # since the last checkpoint
        self.repeats: list[Told] = []


class ScriptedFeeds:
    """One opening of the cluster by one connector. `began`: table → the time after which its feed tells changes."""

    admission: Admission = "frontier"
    schema_backfill: SchemaBackfill = "start"

    def __init__(self, name: str, cluster: ScriptedCluster, *, faults: bool = True) -> None:
        self.name, self._db, self._faults = name, cluster, faults
        self._names = sorted(cluster.tables)
        self.acknowledged: list[Position] = []
        self.began: dict[str, Time] = {}
        self._resolved: dict[str, Time] = {}
        self._mark: str | None = None
        self._held: set[str] = set()

    def check(self) -> None:
        """A script has nothing to refuse."""

    def tables(self) -> list[Table]:
        return [
            Table(n, s, "whole", Origin("scripted", self.name, "script", None, n), 0)
            for n, s in self._db.tables.items()
            if n in self._names
        ]

    # ---- the feeds

    def stream(self, resume_after: Position | None) -> Iterator[Delivery]:
        db, rng = self._db, self._db.rng
        given = {} if resume_after is None else resume_after.tables
        now = db.now()
        lost = [self._lost(t, given[t], now) for t in self._names if given.get(t, now) < db.forgotten]
        self._resolved = {t: now if t in {one.table for one in lost} else given.get(t, now) for t in self._names}
        self.began |= {t: at for t, at in self._resolved.items() if t not in given}
        self._mark = None
        ranges = {t: [_Range(at) for _ in range(rng.randint(1, RANGES))] for t, at in self._resolved.items()}
        while True:
            if self._faults and rng.random() < 0.03:
                raise Retryable("the connection ended", code="connection_lost", where=self.name)
            pieces = [(t, self._piece(t, ranges[t])) for t in rng.sample(self._names, rng.randint(0, len(self._names)))]
            batches, nothing = [], 0
            for table, piece in pieces:
                batches += [self._batch(table, run) for run in self._runs(table, [t for t in piece if t.before or t.after])]
                nothing += sum(t.before is t.after is None for t in piece)
                self._resolve(table, ranges[table])
            mark, self._mark = self._mark, None
            dropped = {NOTHING: nothing} if nothing else {}
            yield Delivery(tuple(batches), self._position(), mark, not batches, dropped=dropped, lost=tuple(lost))
            lost = []

    def _lost(self, table: str, after: Time, now: Time) -> Lost:
        why = Irrecoverable(f"{table}: {Position(*after)} is older than what is kept", code="cursor_too_old", where=self.name)
        return Lost(table, why, now)

    def _position(self) -> Position:
        return Position(*min(self._resolved.values()), {}, dict(self._resolved))

    def _piece(self, table: str, ranges: Sequence[_Range]) -> list[Told]:
        """What some ranges tell next, new and again, woven together; each key's in the order of time."""
        db, rng = self._db, self._db.rng
        for i, one in enumerate(ranges):
            one.waiting += [t for t in db.log[one.read :] if t.table == table and t.at > one.told_to and hash(t.key) % len(ranges) == i]
            one.read = len(db.log)
        stop = self._barrier(table, ranges)
        piece: list[Told] = []
        for _ in range(rng.randint(0, 8)):
            one = rng.choice(ranges)
            if one.told and rng.random() < 0.06:  # the range is split: all since the checkpoint, or a part of it to its end, comes again
                one.repeats = sorted(one.told[rng.choice([0, rng.randrange(len(one.told))]) :], key=lambda t: t.at)
            if one.repeats and rng.random() < 0.6:
                piece.append(one.repeats.pop(0))
            elif one.waiting and (stop is None or one.waiting[0].at <= stop):
                one.told.append(one.waiting.pop(0))
                piece.append(one.told[-1])
        return piece

    def _barrier(self, table: str, ranges: Sequence[_Range]) -> Time | None:
        """After what nothing is told yet: the first change of the table that some range has not come to, or a change of its key for as
        long as the table is not said to be complete up to it (recording 04: a resolved time of its own comes first)."""
        for at in self._db.key_changes(table):
            if self._resolved[table] < just_before(at):
                return min(just_before(at), self._told_again(table, ranges) or at)
        return self._told_again(table, ranges)

    def _told_again(self, table: str, ranges: Sequence[_Range]) -> Time | None:
        waiting = [one.waiting[0].at for one in ranges if one.waiting]
        earliest = min(waiting, default=None)
        for at in self._db.barriers(table):
            if earliest is not None and earliest < at:
                return max(w for w in (t.at for one in ranges for t in one.waiting) if w < at)
            if earliest is not None and earliest == at:
                return at
        return None

    def _resolve(self, table: str, ranges: Sequence[_Range]) -> None:
        """Now and then the table is complete up to somewhere before what any of its ranges has still to tell."""
        db, rng = self._db, self._db.rng
        if rng.random() < 0.03:
            self._held ^= {table}
        if table in self._held or rng.random() < 0.6:
            return
        unseen = [t.at for one in ranges for t in one.waiting]
        bound = min([*unseen, db.now()])
        # Mostly a repeat is above what was told; one from another node may not be.
        if rng.random() < 0.8:
            bound = min([bound, *(t.at for one in ranges for t in one.repeats)])
        told = sorted({t.at for one in ranges for t in one.told if t.at < bound})
        at = rng.choice([just_before(bound), *told[-2:]])
        if at > self._resolved[table]:
            self._resolved[table] = at
            for one in ranges:
                one.told = [t for t in one.told if t.at > at] if rng.random() < 0.7 else one.told

    def _runs(self, table: str, piece: Sequence[Told]) -> Iterator[list[Told]]:
        """Cut where the schema is another."""
        run: list[Told] = []
        for told in piece:
            if run and self._db.schema(table, told.at) != self._db.schema(table, run[-1].at):
                yield run
                run = []
            run.append(told)
        if run:
            yield run

    def _batch(self, table: str, run: Sequence[Told]) -> Batch:
        schema = self._db.schema(table, run[0].at)
        again = [t.again for t in run]
        return batch(
            table,
            schema,
            {
                "op": ["r" if t.again else "d" if t.after is None else "c" if t.before is None else "u" for t in run],
                "before": pa.array([None if t.again else t.before for t in run], schema.arrow),
                "after": pa.array([t.after for t in run], schema.arrow),
                "incarnation": np.ones(len(run), np.uint32),
                "major": np.array([t.at[0] for t in run], np.uint64),
                "minor": np.array([t.at[1] for t in run], np.uint32),
                "ts_us": np.array([t.at[0] for t in run], np.int64),
                "position": [str(Position(*t.at)) for t in run],
                "snapshot": ["incremental" if a else None for a in again],
                "backfill": [f"schema-{t.at[0]}.{t.at[1]}" if t.again else None for t in run],
                "cause": ["schema" if a else None for a in again],
            },
        )

    # ---- reads

    def chunk(self, table: str, after: list[Any] | None, rows_max: int, scope: Scope = WHOLE) -> Chunk | None:
        """As of what the table was last told to be complete to; None where that is forgotten."""
        db, at = self._db, self._resolved.get(table)
        if at is None or at < db.forgotten:
            return None
        rows_max = db.rng.randint(1, 3)
        rows = [(k, r) for k, r in sorted(db.rows(table, at).items()) if (after is None or k > tuple(after)) and within(scope, k, r)]
        last = list(rows[:rows_max][-1][0]) if rows else None
        return self._read(table, db.schema(table, at), at, [r for _, r in rows[:rows_max]], last, len(rows) <= rows_max)

    def admits(self, table: str, scope: Scope) -> int:
        return len([k for k, r in self._db.rows(table).items() if within(scope, k, r)])

    def absent(self, table: str, schema: RowSchema, rows: pa.RecordBatch, scope: Scope) -> Chunk | None:
        db, at = self._db, self._resolved.get(table)
        if at is None or at < db.forgotten:
            return None
        there = {tuple(row[k] for k in schema.key) for row in db.rows(table, at).values()}
        keyed = [(tuple(row[k] for k in schema.key), row) for row in rows.to_pylist()]
        return self._read(table, schema, at, [row for key, row in keyed if key not in there and within(scope, key, row)], None, True)

    def _read(self, table: str, schema: RowSchema, at: Time, rows: list[Row], last: list[Any] | None, done: bool) -> Chunk:
        self._mark = f"{table} {at} {last}"

        def newer(live: Batch) -> npt.NDArray[np.bool_]:
            major, minor = np.asarray(live.column("major")), np.asarray(live.column("minor"))
            above: npt.NDArray[np.bool_] = (major > at[0]) | ((major == at[0]) & (minor > at[1]))
            return above

        image = pa.RecordBatch.from_struct_array(pa.array(rows, schema.arrow))
        return Chunk(table, schema, image, self._mark, newer, last, done, at[0], read_point=at)

    def acknowledge(self, position: Position) -> None:
        self.acknowledged.append(position)

    def head(self) -> Time:
        return self._db.now()

    def close(self) -> None:
        """Nothing is held."""
