"""A step's rows from the source databases: nothing of its inputs is kept here. See docs/explanation/read-source.md for why it is right.

Old images come from the events, which have whole ones. Every lookup shows its source at or after all events of it that were given
so far; a later state than theirs is as good, since what changed in between has events of its own, which are still to come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing

import numpy as np
import pyarrow as pa

from millstream.engine import walk
from millstream.engine.copies import too_much
from millstream.engine.guard import Guard
from millstream.engine.images import flat, last_per_key
from millstream.engine.sql import Sql, quoted
from millstream.events.batch import Batch
from millstream.events.progress import Position
from millstream.events.types import RowSchema
from millstream.pipelines.plan import Stateful
from millstream.sources.contract import Asked
from millstream.topics.contract import Topics
from millstream.topics.incarnations import catalogued

KEYS_BYTES = 1 << 20
ROWS_BYTES = 256 << 20


class Sources:
    """The sources that one pipeline asks. `guard` opens, or gives again, a source's; `applied` says, source by source, which
    position is the highest among the events that were read."""

    def __init__(self, guard: Callable[[str], Guard], topics: Topics, applied: Callable[[], Mapping[str, str]]) -> None:
        self._guard, self._topics, self._applied = guard, topics, applied
        self._asked: dict[str, Guard] = {}

    @property
    def told(self) -> dict[str, str]:
        """Source → whether it is asked or left alone, and where its answers come from; of those that were asked."""
        return {name: guard.state for name, guard in sorted(self._asked.items())}

    def not_before(self, source: str) -> Position:
        """All that was read of the source, with what its connector says of it: the server, and commits that no query saw yet."""
        record = self._topics.producer_record(f"source.{source}")
        said = record.state.get("position") if record is not None else None
        detail = Position.of(said).detail if said else {}
        major, _, minor = self._applied().get(source, "0.0").partition(".")
        return Position(int(major, 16), int(minor, 16), detail)

    def pieces(
        self, topic: str, schema: RowSchema, columns: Sequence[str], keys: pa.Table, wanted: Sequence[str]
    ) -> Iterator[tuple[pa.Table, pa.Table]]:
        """The rows, a query for every so many keys: (the query's keys, rows that it found)."""
        source, _, table = catalogued(topic).partition(".")
        guard = self._asked[source] = self._guard(source)
        fitting = max(1, KEYS_BYTES * keys.num_rows // max(keys.nbytes, 1))
        step = min(guard.lookup.limits.keys_max, fitting)
        for start in range(0, keys.num_rows, step):
            asked = Asked(table, schema, tuple(columns), keys.slice(start, step), tuple(wanted))
            with closing(guard.rows(asked, self.not_before(source))) as pieces:
                for piece in pieces:
                    yield asked.keys, piece


Pend = Callable[[pa.Table, int, int], None]
"""pend(units, since, ts_us): these units (columns in the order of the step's unit) wait to be refreshed."""


class Remote:
    """`copies.Rows` for one step with `read: source`."""

    def __init__(self, step: Stateful, schemas: Mapping[str, RowSchema], pend: Pend, sql: Sql, sources: Sources) -> None:
        self._step, self._schemas, self._pend_units, self._sql, self._sources = step, schemas, pend, sql, sources
        self._input_of = {o.alias: o.input for o in step.occurrences}
        ends = [(a, c) for e in step.edges for a, c in ((e.parent, e.parent_columns), (e.child, e.child_columns))]
        ends += [(r.alias, r.columns) for r in step.roots]
        self._leading = {i: sorted({c for a, columns in ends if self._input_of[a] == i for c in columns}) for i in schemas}

    def create(self) -> None:
        """Nothing is kept."""

    def create_indexes(self) -> None:
        """Those of the source serve."""

    def grow(self) -> None:
        """Nothing is kept."""

    def load(self, name: str, batches: Sequence[Batch]) -> None:
        """Every unit of a root will be evaluated; what the other inputs hold is asked for then."""
        for root in self._step.roots:
            if self._input_of[root.alias] == name:
                _, live = last_per_key(batches)
                self._pend(walk.distinct(live.select(root.columns)), since=0, ts_us=0)

    def images(self, name: str, batches: Sequence[Batch]) -> pa.Table:
        schema = pa.schema([pa.field(c, self._schemas[name][c].type.arrow) for c in self._leading[name]])
        found = [flat(b.column(side), self._leading[name])[0].select(schema.names) for b in batches for side in ("before", "after")]
        return pa.concat_tables([f.cast(schema) for f in found])

    def lookup(
        self, occurrence: str, columns: Sequence[str], keys: pa.Table, wanted: Sequence[str], bytes_max: int | None = None
    ) -> pa.Table:
        schema = self._schemas[self._input_of[occurrence]]
        fetched = list(dict.fromkeys([*wanted, *schema.key]))
        found = [pa.table([pa.array([], schema[w].type.arrow) for w in fetched], names=fetched)]
        size, most = 0, min(bytes_max or ROWS_BYTES, ROWS_BYTES)
        for piece in self._pieces(occurrence, columns, keys, fetched):
            found.append(piece)
            size += piece.nbytes
            if size > most:
                raise too_much(self._step.name, self._input_of[occurrence], most, "use `read: copies` for it")
        return _latest(pa.concat_tables(found), schema.key).select(list(wanted))

    def pend(self, reach: walk.Reach, since: int, ts_us: int) -> None:
        if reach.columns == reach.root.columns:
            self._pend(reach.keys, since, ts_us)
            return
        for piece in self._pieces(reach.root.alias, reach.columns, reach.keys, reach.root.columns):
            self._pend(walk.distinct(piece), since, ts_us)

    def pend_all(self, since: int, ts_us: int) -> None:
        """The load did: every unit that was read of a root waits already."""

    def _pend(self, keys: pa.Table, since: int, ts_us: int) -> None:
        self._pend_units(keys, since, ts_us)

    def _pieces(self, occurrence: str, columns: Sequence[str], keys: pa.Table, wanted: Sequence[str]) -> Iterator[pa.Table]:
        """Rows that equal a key of their query as Millstream compares. A database's collation may find more; and a row that another
        query's keys find may be found by that one too, as of another moment."""
        schema = self._schemas[self._input_of[occurrence]]
        keys = keys.rename_columns(list(columns))
        fetched = list(dict.fromkeys([*wanted, *columns]))
        names, match = ", ".join(map(quoted, wanted)), ", ".join(map(quoted, columns))
        text = f"SELECT {names} FROM __ms_rows WHERE ({match}) IN (SELECT {match} FROM __ms_keys)"
        if len(columns) == 1:
            text = f"SELECT {names} FROM __ms_rows WHERE {match} IN (SELECT {match} FROM __ms_keys)"
        exact = pa.schema([pa.field(w, schema[w].type.arrow) for w in wanted])
        for theirs, piece in self._sources.pieces(self._input_of[occurrence], schema, columns, keys, fetched):
            yield self._sql.select(text, {"__ms_rows": piece, "__ms_keys": theirs}).cast(exact)


def _latest(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    """Each row once: one that changed between two queries may be found by both, and then the later one counts."""
    numbered = rows.append_column("__ms_at", pa.array(np.arange(rows.num_rows, dtype=np.int64)))
    last = numbered.group_by(list(key), use_threads=False).aggregate([("__ms_at", "max")]).column("__ms_at_max")
    return rows if len(last) == rows.num_rows else rows.take(last)
