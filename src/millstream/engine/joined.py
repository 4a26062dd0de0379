"""A joined step kept current: keyed copies of its inputs, keys that a change may affect, and their re-evaluation.

Its four moves are `load` (fill the copies), `build` (evaluate as a set), `take` (apply a batch, remember the affected
keys) and `refresh` (re-evaluate a slice of them and give the difference). Each is part of its caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlglot
from sqlglot import exp

from millstream.engine import walk
from millstream.engine.copies import Copies, Rows
from millstream.engine.images import Indices, conform, structs
from millstream.engine.remote import Remote, Sources
from millstream.engine.sql import ROW_ERRORS, Sql, first_line, quoted
from millstream.engine.state import State, last_table
from millstream.errors import BadRecord, Irrecoverable
from millstream.events.batch import CREATE, DELETE, UPDATE, Batch, batch
from millstream.events.types import RowSchema
from millstream.pipelines import reads
from millstream.pipelines.plan import Stateful, inputs_of

SLICE_KEYS_FIRST, SLICE_KEYS_MAX = 1_000, 20_000
SLICE_BYTES = 16 << 20
_OPS = pa.array([CREATE, UPDATE, DELETE])


class Joined:
    """One stateful step over one state. `schemas` has the row schema of each input (topic or node) of its occurrences."""

    def __init__(self, step: Stateful, schemas: Mapping[str, RowSchema], state: State, sql: Sql, sources: Sources | None = None) -> None:
        self.step, self._state, self._sql = step, state, sql
        self._input_of = {o.alias: o.input for o in step.occurrences}
        self._wanted = {alias: walk.columns_read(step, alias, names) for alias, names in reads.of_stateful(step).items()}
        self._copies = Copies(step, {name: schemas[name] for name in inputs_of(step)}, state)
        self._rows: Rows = self._copies
        if step.read == "source":
            assert sources is not None
            self._rows = Remote(step, {name: schemas[name] for name in inputs_of(step)}, self._pend, sql, sources)
        self._slice_keys = SLICE_KEYS_FIRST

    def _over_copies(self) -> str:
        """The step's query with each occurrence read from its copy instead of a relation of its own name."""
        tree = sqlglot.parse_one(self.step.sql, read="duckdb")
        for table in list(tree.find_all(exp.Table)):
            alias = table.name if table.name in self._input_of else table.alias
            copied = exp.Table(this=exp.to_identifier(self._copies.table(alias), quoted=True))
            copied.set("alias", exp.TableAlias(this=exp.to_identifier(table.alias or alias, quoted=True)))
            table.replace(copied)
        return str(tree.sql(dialect="duckdb"))

    # ---- making

    def create(self) -> None:
        """The step's tables, empty and without the indexes that lookups need."""
        self._rows.create()
        self._state.create_last(self.step.name, self.step.schema.fields, self.step.schema.key)
        self._state.create_pending(self.step.name, [self.step.schema[name] for name in self.step.unit])

    def create_indexes(self) -> None:
        self._rows.create_indexes()
        if self.step.unit != self.step.schema.key:
            self._state.store.index(last_table(self.step.name), self.step.unit)

    def load(self, name: str, batches: Sequence[Batch]) -> None:
        """Take in an input's events; nothing is evaluated."""
        self._rows.load(name, batches)

    def _pend(self, units: pa.Table, since: int, ts_us: int) -> None:
        self._state.add_pending(self.step.name, units, since, ts_us)

    def build(self) -> None:
        """Evaluate the whole query over the copies into the last output, which is empty."""
        if self._rows is not self._copies:
            while self.pending:
                self.refresh()
            return
        names = ", ".join(map(quoted, self.step.schema.names))
        table = quoted(last_table(self.step.name))
        try:
            self._state.store.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM ({self._over_copies()})")
        except duckdb.ConstraintException as e:
            raise self._two_rows(first_line(e)) from e

    def name_bad_record(self) -> None:
        """After `build` failed on some row's value: evaluate key by key range until the record is alone. Raises BadRecord."""
        for root in self.step.roots:
            columns = ", ".join(map(quoted, root.columns))
            keys = self._state.store.table(f"SELECT DISTINCT {columns} FROM {quoted(self._copies.table(root.alias))}")
            for start in range(0, keys.num_rows, SLICE_KEYS_MAX):
                self._evaluate(keys.slice(start, SLICE_KEYS_MAX))

    # ---- keeping current

    def take(self, changes: Mapping[str, Sequence[Batch]], since: int) -> None:
        """Apply the events of every input that has some, and add the keys that they may affect to the pending ones."""
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
        return self._state.pending_count(self.step.name)

    def refresh(self) -> Batch | None:
        """Re-evaluate the oldest pending keys, as many as fit a slice; the difference to their last output, or None.

        Raises BadRecord naming the root key whose row the SQL fails on; Irrecoverable where a key has two rows, or where the
        rows of one key alone do not fit the memory of the SQL.
        """
        while True:
            keys, ts_us = self._state.take_pending(self.step.name, self.step.unit, self._slice_keys)
            if not keys.num_rows:
                return None
            try:
                now, last, read_bytes = self._now_and_last(keys)
                old, new = self._paired(last, now)
                break
            except duckdb.OutOfMemoryException as e:  # nothing was changed yet: the same with fewer keys
                if keys.num_rows == 1:
                    raise Irrecoverable(
                        f"the rows of one key do not fit the memory of the SQL: {first_line(e)}",
                        code="row_too_large",
                        where=f"step {self.step.name}, key {_shown(keys)}",
                        cure="leave the large columns out of the step",
                    ) from e
                self._slice_keys = keys.num_rows // 2
        out = self._applied(last, now, old, new, ts_us)
        self._state.done_pending(self.step.name, self.step.unit, keys)
        fitting = int(keys.num_rows * SLICE_BYTES / max(now.nbytes + last.nbytes + read_bytes, 1))
        self._slice_keys = max(1, min(SLICE_KEYS_MAX, fitting, self._slice_keys * 2))
        return out

    def _now_and_last(self, keys: pa.Table) -> tuple[pa.Table, pa.Table, int]:
        """The query's rows for these units, those emitted last, and how many bytes were read for them."""
        now, read_bytes = self._evaluate(keys)
        last = self._state.store.lookup(last_table(self.step.name), self.step.unit, keys, self.step.schema.names)
        return now, conform(last, self.step.schema), read_bytes

    def rows_of(self, units: pa.Table) -> pa.Table:
        """The query's rows for these units as the copies now are. Nothing is changed. Raises as `refresh`."""
        return self._evaluate(units)[0]

    def _evaluate(self, keys: pa.Table) -> tuple[pa.Table, int]:
        """The query's rows for these units, from the closure of their rows, and the closure's bytes."""
        relations = walk.closure(self.step, keys, self._rows.lookup, self._wanted)
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
        rows = conform(result, self.step.schema)
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

    def _applied(self, last: pa.Table, now: pa.Table, old: Indices, new: Indices, ts_us: int) -> Batch | None:
        """What turns `last` into `now` (the places of the rows that differ), applied to the last output and as events."""
        if not len(old):
            return None
        schema, table = self.step.schema, last_table(self.step.name)
        gone, fresh = old[old >= 0], new[new >= 0]
        self._state.store.delete(table, schema.key, last.select(list(schema.key)).take(pa.array(gone)))
        self._state.store.insert(table, now.take(pa.array(fresh)))
        return changes(self.step.name, schema, structs(last, old, schema), structs(now, new, schema), old, new, ts_us)

    def _paired(self, last: pa.Table, now: pa.Table) -> tuple[Indices, Indices]:
        """Rows that differ: each one's place in `last` and in `now`, -1 where it is in one only."""
        found = self._sql.select(difference_sql('"__ms_last"', '"__ms_now"', self.step.schema, "o.__ms_row AS o, n.__ms_row AS n"), {
            "__ms_last": _numbered(last), "__ms_now": _numbered(now),
        })  # fmt: skip
        places = [np.asarray(pc.fill_null(found.column(c).combine_chunks(), -1)) for c in ("o", "n")]
        return places[0].astype(np.int64), places[1].astype(np.int64)


def _shown(keys: pa.Table) -> dict[str, str]:
    return {n: str(keys.column(n)[0].as_py()) for n in keys.column_names}


def _numbered(rows: pa.Table) -> pa.Table:
    return rows.append_column("__ms_row", pa.array(np.arange(rows.num_rows, dtype=np.int64)))


def difference_sql(last: str, now: str, schema: RowSchema, select: str) -> str:
    """`select` over the rows of two relations (o: last, n: now) that differ, matched by key. Nulls and NaNs equal themselves."""
    on = " AND ".join(f"o.{quoted(k)} = n.{quoted(k)}" for k in schema.key)
    first = quoted(schema.key[0])
    rest = [c for c in schema.names if c not in schema.key]
    differ = " OR ".join(f"o.{quoted(c)} IS DISTINCT FROM n.{quoted(c)}" for c in rest) or "false"
    return f"SELECT {select} FROM {last} o FULL JOIN {now} n ON {on} WHERE o.{first} IS NULL OR n.{first} IS NULL OR {differ}"


def changes(
    name: str, schema: RowSchema, before: pa.StructArray, after: pa.StructArray, old: np.ndarray, new: np.ndarray, ts_us: int
) -> Batch:
    """Events of a computed difference: an insert, update or delete each. Version and place are the publisher's to give."""
    count = len(old)
    return batch(
        name,
        schema,
        {
            "op": _OPS.take(pa.array(np.where(new < 0, 2, np.where(old < 0, 0, 1)))),
            "before": before,
            "after": after,
            "incarnation": np.zeros(count, np.uint32),
            "major": np.zeros(count, np.uint64),
            "minor": np.zeros(count, np.uint32),
            "ts_us": np.full(count, ts_us, np.int64),
            "position": pa.repeat("", count),
        },
    )
