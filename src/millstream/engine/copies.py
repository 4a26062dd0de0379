"""Where a stateful step's rows of its inputs come from: the seam, and keyed copies of them beside the step's state.

`Rows` is all that the step knows of it. `Copies` keeps every input's rows here; `remote.Remote` keeps none and asks the sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import pyarrow as pa

from millstream.engine import walk
from millstream.engine.images import last_per_key
from millstream.engine.pending import Pending
from millstream.engine.sql import Sql, quoted
from millstream.engine.state import copy_table
from millstream.engine.store import Store
from millstream.errors import Irrecoverable
from millstream.events.batch import Batch
from millstream.events.types import Field, RowSchema
from millstream.pipelines import reads
from millstream.pipelines.plan import Stateful


class TooMuch(Irrecoverable):
    """The rows of these keys are not held together: with fewer keys at once they may be."""


def too_much(step: str, name: str, bytes_max: int, cure: str) -> TooMuch:
    message = f"more than {bytes_max >> 20} MiB of {name} are needed together"
    return TooMuch(message, code="too_many_rows", where=f"step {step}", cure=cure)


class Rows(Protocol):
    """The rows of a step's inputs, at or after every event that it has been given. All calls are part of the caller's transaction."""

    def create(self) -> None:
        """What is kept of the inputs, empty and without the indexes that lookups need."""

    def create_indexes(self) -> None: ...

    def grow(self) -> None:
        """What is kept gets the columns that it has not yet; old rows have in them what their fills say."""

    def load(self, name: str, batches: Sequence[Batch]) -> None:
        """An input's events, before anything is evaluated: the state is being built."""

    def images(self, name: str, batches: Sequence[Batch]) -> pa.Table:
        """Every image that the rows of these events had or have, old and new; from now on lookups see the new ones."""

    def lookup(
        self, occurrence: str, columns: Sequence[str], keys: pa.Table, wanted: Sequence[str], bytes_max: int | None = None
    ) -> pa.Table:
        """The `wanted` columns of the occurrence's rows whose `columns` equal one of `keys`; no order, a null finds nothing.

        Raises TooMuch where the rows have more than `bytes_max`, before they are all in memory."""

    def pend(self, reach: walk.Reach, since: int, ts_us: int) -> None:
        """Add the units of `reach`, which may be millions, to the step's pending ones; nothing of it is held in memory."""

    def pend_all(self, since: int, ts_us: int) -> None:
        """Add every unit that a root has."""


class Copies:
    """Keyed copies of the columns that the step uses, and of those computed from them by which it is walked."""

    def __init__(self, step: Stateful, schemas: Mapping[str, RowSchema], store: Store, pending: Pending, sql: Sql) -> None:
        self._step, self._schemas, self._store, self._pending, self._sql = step, schemas, store, pending, sql
        self._input_of = {o.alias: o.input for o in step.occurrences}
        named = reads.of_stateful(step)
        wanted = {alias: walk.columns_read(step, alias, names) for alias, names in named.items()}
        self._computed = {name: [c for c in step.computed if c.input == name] for name in schemas}
        self._kept = {name: self._columns(name, wanted) for name in schemas}

    def _columns(self, name: str, wanted: Mapping[str, Sequence[str]]) -> list[Field]:
        used = set(self._schemas[name].key).union(*(wanted[a] for a, i in self._input_of.items() if i == name))
        own = [f for f in self._schemas[name].fields if f.name in used]
        return own + [Field(c.name, c.type, 0) for c in self._computed[name]]

    def table(self, occurrence: str) -> str:
        return copy_table(self._step.name, self._input_of[occurrence])

    def _lookups(self, name: str) -> list[tuple[str, ...]]:
        """The column lists by which the input's rows are found, but for its key."""
        by_alias = walk.indexes(self._step)
        return sorted({c for a, i in self._input_of.items() if i == name for c in by_alias[a]} - {self._schemas[name].key})

    def create(self) -> None:
        for name, schema in self._schemas.items():
            self._store.create(copy_table(self._step.name, name), self._kept[name], schema.key, self._lookups(name))

    def create_indexes(self) -> None:
        for name in self._schemas:
            for columns in self._lookups(name):
                self._store.index(copy_table(self._step.name, name), columns)

    def grow(self) -> None:
        for name in self._schemas:
            self._store.grow(copy_table(self._step.name, name), self._kept[name])

    def load(self, name: str, batches: Sequence[Batch]) -> None:
        changed, live = last_per_key(batches)
        self._apply(name, changed, self._with_computed(name, live))

    def images(self, name: str, batches: Sequence[Batch]) -> pa.Table:
        """Old ones from the copy, never from the event: an event may follow on a gap."""
        changed, live = last_per_key(batches)
        new = self._with_computed(name, live)
        old = self._store.lookup(copy_table(self._step.name, name), self._schemas[name].key, changed, new.column_names)
        self._apply(name, changed, new)
        return pa.concat_tables([old.cast(new.schema), new])

    def lookup(
        self, occurrence: str, columns: Sequence[str], keys: pa.Table, wanted: Sequence[str], bytes_max: int | None = None
    ) -> pa.Table:
        found = self._store.lookup(self.table(occurrence), columns, keys, wanted, bytes_max)
        if found is None:
            raise too_much(self._step.name, self._input_of[occurrence], bytes_max or 0, "leave the large columns out of the step")
        return found

    def pend(self, reach: walk.Reach, since: int, ts_us: int) -> None:
        root = reach.root
        if reach.columns == root.columns:
            self._pending.add(reach.keys, since, ts_us)
        else:
            self._pending.add_from(self.table(root.alias), reach.columns, reach.keys, root.columns, since, ts_us)

    def pend_all(self, since: int, ts_us: int) -> None:
        for root in self._step.roots:
            columns = ", ".join(f"{quoted(c)} AS {quoted(u)}" for c, u in zip(root.columns, self._step.unit, strict=True))
            whole = " AND ".join(f"{quoted(c)} IS NOT NULL" for c in root.columns)
            self._pending.add_all(f"(SELECT DISTINCT {columns} FROM {quoted(self.table(root.alias))} WHERE {whole})", since, ts_us)

    def _with_computed(self, name: str, rows: pa.Table) -> pa.Table:
        """The columns that are kept of these rows. Raises BadRecord where one cannot be computed."""
        computed = self._computed[name]
        kept = pa.schema([pa.field(f.name, f.type.arrow) for f in self._kept[name]])
        if not computed:
            return rows.select(kept.names).cast(kept)
        named = [f"{quoted(f)}" for f in rows.column_names if f in kept.names] + [f"({c.sql}) AS {quoted(c.name)}" for c in computed]
        key = self._schemas[name].key

        def shown(row: int) -> str:
            return f"step {self._step.name}, {name} key { {k: str(rows.column(k)[row].as_py()) for k in key} }"

        sql = f"SELECT {', '.join(named)} FROM __ms_rows"  # of all rows: the copy has those too that the step's WHERE leaves out
        made = self._sql.select_rows(sql, "__ms_rows", rows, shown, kept_out="CASE WHEN in what is grouped by")
        return made.select(kept.names).cast(kept)

    def _apply(self, name: str, changed: pa.Table, live: pa.Table) -> None:
        table, key = copy_table(self._step.name, name), list(self._schemas[name].key)
        if live.num_rows < changed.num_rows:
            self._store.delete(table, key, changed.join(live.select(key), key, join_type="left anti"))
        self._store.put(table, key, live)
