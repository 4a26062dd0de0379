"""Where a stateful step's rows of its inputs come from: the seam, and keyed copies of them beside the step's state.

`Rows` is all that the step knows of it. `Copies` keeps every input's rows here; `remote.Remote` keeps none and asks the sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import pyarrow as pa

from millstream.engine import walk
from millstream.engine.images import last_per_key
from millstream.engine.sql import quoted
from millstream.engine.state import State, copy_table, pending_table
from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.pipelines import reads
from millstream.pipelines.plan import Stateful


class Rows(Protocol):
    """The rows of a step's inputs, at or after every event that it has been given. All calls are part of the caller's transaction."""

    def create(self) -> None:
        """What is kept of the inputs, empty and without the indexes that lookups need."""

    def create_indexes(self) -> None: ...

    def load(self, name: str, batches: Sequence[Batch]) -> None:
        """An input's events, before anything is evaluated: the state is being built."""

    def images(self, name: str, batches: Sequence[Batch]) -> pa.Table:
        """Every image that the rows of these events had or have, old and new; from now on lookups see the new ones."""

    def lookup(self, occurrence: str, columns: Sequence[str], keys: pa.Table, wanted: Sequence[str]) -> pa.Table:
        """The `wanted` columns of the occurrence's rows whose `columns` equal one of `keys`; no order, a null finds nothing."""

    def pend(self, reach: walk.Reach, since: int, ts_us: int) -> None:
        """Add the units of `reach`, which may be millions, to the step's pending ones; nothing of it is held in memory."""


class Copies:
    """Keyed copies of the columns that the step uses."""

    def __init__(self, step: Stateful, schemas: Mapping[str, RowSchema], state: State) -> None:
        self._step, self._schemas, self._state = step, schemas, state
        self._input_of = {o.alias: o.input for o in step.occurrences}
        named = reads.of_stateful(step)
        self._wanted = {alias: walk.columns_read(step, alias, names) for alias, names in named.items()}

    def table(self, occurrence: str) -> str:
        return copy_table(self._step.name, self._input_of[occurrence])

    def create(self) -> None:
        for name, schema in self._schemas.items():
            kept = set(self._kept(name))
            self._state.create_copy(self._step.name, name, [f for f in schema.fields if f.name in kept], schema.key)

    def create_indexes(self) -> None:
        done = set()
        for alias, columns in walk.indexes(self._step).items():
            schema = self._schemas[self._input_of[alias]]
            for names in sorted(columns):
                if names != schema.key and (self.table(alias), names) not in done:
                    done.add((self.table(alias), names))
                    self._state.store.index(self.table(alias), names)

    def load(self, name: str, batches: Sequence[Batch]) -> None:
        changed, live = last_per_key(batches)
        self._apply(name, changed, live)

    def images(self, name: str, batches: Sequence[Batch]) -> pa.Table:
        """Old ones from the copy, never from the event: an event may follow on a gap."""
        changed, live = last_per_key(batches)
        kept = self._kept(name)
        old = self._state.store.lookup(copy_table(self._step.name, name), self._schemas[name].key, changed, kept)
        new = live.select(kept)
        self._apply(name, changed, live)
        return pa.concat_tables([old.cast(new.schema), new])

    def lookup(self, occurrence: str, columns: Sequence[str], keys: pa.Table, wanted: Sequence[str]) -> pa.Table:
        return self._state.store.lookup(self.table(occurrence), columns, keys, wanted)

    def pend(self, reach: walk.Reach, since: int, ts_us: int) -> None:
        root = reach.root
        if reach.columns == root.columns:
            self._state.add_pending(self._step.name, reach.keys.rename_columns(list(self._step.unit)), since, ts_us)
        else:
            table, select = pending_table(self._step.name), f"{', '.join(map(quoted, root.columns))}, {since}, {ts_us}"
            self._state.store.insert_missing_from(table, self.table(root.alias), reach.columns, reach.keys, select)

    def _apply(self, name: str, changed: pa.Table, live: pa.Table) -> None:
        table = copy_table(self._step.name, name)
        self._state.store.delete(table, self._schemas[name].key, changed)
        self._state.store.insert(table, live.select(self._kept(name)))

    def _kept(self, name: str) -> list[str]:
        used = set(self._schemas[name].key).union(*(self._wanted[a] for a, i in self._input_of.items() if i == name))
        return [f.name for f in self._schemas[name].fields if f.name in used]
