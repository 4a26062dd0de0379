"""A joined step kept current: keyed copies of its inputs, units that a change may affect, and their re-evaluation.

Its four moves are `load` (fill the copies), `build` (evaluate as a set), `take` (apply a batch, remember the affected
units) and `refresh` (re-evaluate a slice of them and give the difference). Each is part of its caller's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.engine import walk
from millstream.engine.copies import Copies, Rows, TooMuch
from millstream.engine.images import Indices, conform
from millstream.engine.last import Last
from millstream.engine.pending import Pending, Slice
from millstream.engine.remote import Remote, Sources
from millstream.engine.sql import ROW_ERRORS, Sql, first_line, literal, quoted
from millstream.engine.state import State
from millstream.errors import BadRecord, Irrecoverable
from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.pipelines import reads
from millstream.pipelines.plan import Stateful, inputs_of

SLICE_KEYS_FIRST, SLICE_KEYS_MAX = 1_000, 20_000
SLICE_BYTES = 16 << 20  # that a slice should have
CLOSURE_BYTES = 64 << 20  # that the rows of one occurrence may have for the units of a slice
FIRST_BUILD = 0  # the commit that pends everything when a step is built in slices

Done = TypeVar("Done")
Stamp = Mapping[str, str]
"""Source → the position up to which its changes are in the copies."""


class Joined:
    """One stateful step over one state. `schemas` has the row schema of each input (topic or node) of its occurrences.

    `triggers` counts the units that changes pended, `refreshed` those evaluated, `documents` the rows emitted for them. Where a
    unit is one row, there are never more of them than triggers: a unit that waits is not pended again, and a row that came out the
    same is not emitted.
    """

    def __init__(self, step: Stateful, schemas: Mapping[str, RowSchema], state: State, sql: Sql, sources: Sources | None = None) -> None:
        self.step, self._state, self._sql = step, state, sql
        self._input_of = {o.alias: o.input for o in step.occurrences}
        self._wanted = {alias: walk.columns_read(step, alias, names) for alias, names in reads.of_stateful(step).items()}
        self._pending = Pending(step.name, [step.schema[name] for name in step.unit], state.store)
        self._copies = Copies(step, {name: schemas[name] for name in inputs_of(step)}, state.store, self._pending, sql)
        self._rows: Rows = self._copies
        if step.read == "source" and sources is not None:
            self._rows = Remote(step, {name: schemas[name] for name in inputs_of(step)}, self._pending.add, sql, sources)
        self.last = Last(step, state.store, sql)
        self._slice_keys = SLICE_KEYS_FIRST
        self.documents = 0
        self.refreshed = 0

    def _over_copies(self) -> str:
        """The step's query with each occurrence read from its copy."""
        copied = (f"{quoted(a)} AS NOT MATERIALIZED (FROM {quoted(self._copies.table(a))})" for a in self._input_of)
        return f"WITH {', '.join(copied)} {self.step.sql}"

    # ---- making

    def create(self) -> None:
        """The step's tables, empty and without the indexes that lookups need."""
        self._rows.create()
        self.last.create()
        self._pending.create()

    def create_indexes(self) -> None:
        self._rows.create_indexes()
        self.last.create_indexes()

    def grow(self, ts_us: int) -> None:
        """The step's tables, which are those of an earlier plan, get their new columns; every unit waits to be refreshed."""
        self._rows.grow()
        self.last.grow()
        self.pend_all(ts_us)

    def load(self, name: str, batches: Sequence[Batch]) -> None:
        """Take in an input's events; nothing is evaluated."""
        self._rows.load(name, batches)

    @property
    def built_as_a_set(self) -> bool:
        """Whether `build` will do. Else the step is built by `pend_all` and `refresh`: documents are never all in one place."""
        return self.step.keeps == "rows" and self._rows is self._copies

    def build(self, stamp: Stamp) -> None:
        """Evaluate the whole query over the copies into the last output, which is empty.

        Raises BadRecord naming a root key whose row the SQL fails on; duckdb.OutOfMemoryException where it takes more memory than
        there is (nothing is kept of it: build it in slices).
        """
        names = list(self.step.schema.names)
        evaluated = ", ".join(map(quoted, self.last.evaluated.names))
        stamped = f", {literal(_json(stamp))} AS {quoted(self.step.stamp)}" if self.step.stamp else ""
        try:
            self._state.store.insert_from(self.last.table, names, f"(SELECT {evaluated}{stamped} FROM ({self._over_copies()}))")
        except duckdb.ConstraintException as e:
            raise self._two_rows(first_line(e)) from e
        if twice := self.last.check_unique():
            raise self._two_rows(twice)

    def pend_all(self, ts_us: int = 0) -> None:
        """Every unit that the roots have or that was emitted waits to be refreshed, as if it had changed at `ts_us`."""
        self._rows.pend_all(FIRST_BUILD, ts_us)
        columns = ", ".join(map(quoted, self.step.unit))
        self._pending.add_all(f"(SELECT DISTINCT {columns} FROM {quoted(self.last.table)})", FIRST_BUILD, ts_us)

    def name_bad_record(self) -> None:
        """After `build` failed on some row's value: evaluate slice by slice until the record is alone. Raises BadRecord."""
        self.pend_all()
        while (taken := self._pending.take(SLICE_KEYS_MAX)).keys.num_rows:
            taken, _ = self._fitting(taken, self._evaluate)
            self._pending.done(taken)

    # ---- keeping current

    def take(self, changes: Mapping[str, Sequence[Batch]], since: int) -> None:
        """Apply the events of every input that has some, and add the units that they may affect to the pending ones."""
        images: dict[str, pa.Table] = {}
        ts_us = 0
        for name, batches in changes.items():
            if not any(map(len, batches)):
                continue
            images[name] = self._rows.images(name, batches)
            ts_us = max(ts_us, *(int(np.max(np.asarray(b.column("ts_us")))) for b in batches if len(b)))
        for occurrence in self.step.occurrences:  # after all inputs are applied
            if occurrence.input in images:
                reach = walk.affected(self.step, occurrence.alias, images[occurrence.input], self._rows.lookup)
                self._rows.pend(reach, since, ts_us)

    @property
    def pending(self) -> int:
        return self._pending.count

    @property
    def triggers(self) -> int:
        return self._pending.triggers

    def refresh(self, sequence: int, stamp: Stamp) -> Batch | None:
        """Re-evaluate pending units, as many as fit a slice; the difference to their last output, or None. It goes out with
        commit `sequence`.

        Raises BadRecord naming the root key whose row the SQL fails on; Irrecoverable where a key has two rows, or where the
        rows of one unit alone do not fit the memory of the SQL.
        """
        taken = self._pending.take(self._slice_keys)
        if not taken.keys.num_rows:
            return None
        taken, (rows, last, now, old, new, read_bytes) = self._fitting(taken, lambda units: self._compared(units, sequence, stamp))
        out = None
        if len(old):
            self.last.apply(last, now, old, new)
            out = self.last.events(last, rows, old, new, taken.ts_us)
            self.documents += len(out)
        self._pending.done(taken)
        self.refreshed += taken.keys.num_rows
        fitting = int(taken.keys.num_rows * SLICE_BYTES / max(rows.nbytes + last.nbytes + read_bytes, 1))
        grown = self._slice_keys * 2 if taken.keys.num_rows >= self._slice_keys else self._slice_keys
        self._slice_keys = max(1, min(SLICE_KEYS_MAX, fitting, grown))
        return out

    def _compared(self, units: pa.Table, sequence: int, stamp: Stamp) -> tuple[pa.Table, pa.Table, pa.Table, Indices, Indices, int]:
        """The query's rows; what is kept of the last ones and what will be of these; where they differ; how many bytes were read."""
        rows, read_bytes = self._evaluate(units)
        rows = self._stamped(rows, stamp)
        last, now = self.last.of(units), self.last.to_keep(rows, sequence)
        return rows, last, now, *self.last.difference(last, now), read_bytes

    def _fitting(self, taken: Slice, work: Callable[[pa.Table], Done]) -> tuple[Slice, Done]:
        """As many of a slice's units as fit the memory, and what `work` made of them. It has changed nothing."""
        while True:
            try:
                return taken, work(taken.keys)
            except (duckdb.OutOfMemoryException, TooMuch) as e:
                if taken.keys.num_rows == 1:
                    raise self._too_large(e, taken.keys) from e
                taken = taken.first(taken.keys.num_rows // 2)
                self._slice_keys = taken.keys.num_rows

    def _too_large(self, error: duckdb.Error | TooMuch, unit: pa.Table) -> Irrecoverable:
        if isinstance(error, TooMuch):
            return error
        return Irrecoverable(
            f"the rows of one key do not fit the memory of the SQL: {first_line(error)}",
            code="row_too_large",
            where=f"step {self.step.name}, key {_shown(unit)}",
            cure="leave the large columns out of the step",
        )

    def rows_of(self, units: pa.Table) -> pa.Table:
        """The query's rows for these units as the copies now are, their stamp null. Nothing is changed. Raises as `refresh`."""
        try:
            return self._stamped(self._evaluate(units)[0], None)
        except (duckdb.OutOfMemoryException, TooMuch) as e:
            if units.num_rows == 1:
                raise self._too_large(e, units) from e
        half = units.num_rows // 2
        return pa.concat_tables([self.rows_of(units.slice(0, half)), self.rows_of(units.slice(half))])

    def _stamped(self, rows: pa.Table, stamp: Stamp | None) -> pa.Table:
        if self.step.stamp is None:
            return rows
        value = pa.scalar(None if stamp is None else _json(stamp), pa.string())
        return rows.add_column(self.step.schema.names.index(self.step.stamp), self.step.stamp, pa.repeat(value, rows.num_rows))

    def _evaluate(self, keys: pa.Table) -> tuple[pa.Table, int]:
        """The query's rows for these units, from the closure of their rows, and the closure's bytes."""
        most = CLOSURE_BYTES if keys.num_rows > 1 else None  # a unit alone is taken as large as it is
        lookup = partial(self._rows.lookup, bytes_max=most)
        relations = walk.closure(self.step, keys, lookup, self._wanted)
        try:
            result = self._sql.select(self.step.sql, relations)
        except ROW_ERRORS as e:
            if keys.num_rows > 1:
                half = keys.num_rows // 2
                self._evaluate(keys.slice(0, half))
                self._evaluate(keys.slice(half))
            raise BadRecord(
                f"the SQL fails on this record: {first_line(e)}",
                code="sql_failed",
                where=f"step {self.step.name}, {self._input_of[self.step.roots[0].alias]} key {_shown(keys)}",
                cure="mend the row at the source, or use TRY_CAST, and apply again",
            ) from e
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as e:
            raise Irrecoverable(f"the SQL failed: {first_line(e)}", code="sql_failed", where=f"step {self.step.name}") from e
        rows = conform(result, self.last.evaluated)
        distinct = rows.group_by(list(self.step.schema.key), use_threads=False).aggregate([([], "count_all")])
        if distinct.num_rows != rows.num_rows:
            twice = distinct.filter(pc.greater(distinct.column("count_all"), 1)).slice(0, 1).to_pylist()[0]
            twice.pop("count_all")
            raise self._two_rows(str({k: str(v) for k, v in twice.items()}))
        return rows, sum(r.nbytes for r in relations.values())

    def _two_rows(self, what: str) -> Irrecoverable:
        return Irrecoverable(
            f"two rows for one key: {what}",
            code="key_not_unique",
            where=f"step {self.step.name}",
            cure="join on columns that are unique in the joined table",
        )


def _shown(keys: pa.Table) -> dict[str, str]:
    return {n: str(keys.column(n)[0].as_py()) for n in keys.column_names}


def _json(stamp: Stamp) -> str:
    return json.dumps(dict(stamp), sort_keys=True)
