"""Preview: what a step, as it is defined now, makes of some of the rows that there are. Nothing of the mesh is changed.

Its plan is built in a state of its own, up to the step; the step itself is evaluated for a sample of its units only, each
with all rows that join with it, so what is shown of a unit is what it will be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from millstream.engine.build import Build, Feeds, Tick
from millstream.engine.graph import Graph
from millstream.engine.images import conform, last_per_key
from millstream.engine.joined import Joined
from millstream.engine.sql import Sql, quoted
from millstream.engine.state import State, copy_table
from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.pipelines.plan import Plan, Stateful, inputs_of

UNITS_MAX = 10_000


@dataclass(frozen=True)
class Sample:
    """`units` is what was looked at (columns of the key), with or without rows; `rows` all rows of these, in order of their key;
    `whole` is true where there are no others."""

    schema: RowSchema
    rows: pa.Table
    units: pa.Table
    whole: bool


def upstream(plan: Plan, node: str) -> Plan:
    """The plan with what `node` is made of only, and without anything that leaves it. Other tables are read from copies."""
    wanted, nodes = {node}, []
    for n in reversed(plan.nodes):
        if n.name in wanted:
            wanted |= set(inputs_of(n))
            nodes.append(replace(n, read="copies") if isinstance(n, Stateful) else n)
    return replace(plan, inputs=tuple(i for i in plan.inputs if i.topic in wanted), nodes=tuple(reversed(nodes)), outputs=(), sinks=())


def sample(plan: Plan, node: str, feeds: Feeds, state: State, *, keys: pa.Table | None, rows_max: int, tick: Tick) -> Sample:
    """Of the step `node`, the last of `plan` (see `upstream`): the rows of these keys, or about `rows_max`, of units spread over all
    there are.

    Raises BadRecord where the SQL fails on a record, Irrecoverable where a key has two rows.
    """
    sql = Sql()
    try:
        graph = Graph(plan, sql, state)
        build = Build(plan, graph, state, tick, [node])
        build.run(feeds, but=node)
        joined = graph.joined.get(node)
        if joined is None:
            schema = next(n.schema for n in plan.nodes if n.name == node)
            return _collected(schema, build.table(node), state, keys, rows_max)
        return _of_units(joined, state, keys, rows_max)
    finally:
        sql.close()


def _collected(schema: RowSchema, table: str, state: State, keys: pa.Table | None, rows_max: int) -> Sample:
    names = ", ".join(map(quoted, schema.names))
    if keys is None:
        rows = state.store.table(f"SELECT {names} FROM {quoted(table)} ORDER BY {_spread(schema.key)} LIMIT {rows_max}")
    else:
        rows = state.store.lookup(table, schema.key, keys, schema.names)
    rows = _sorted(conform(rows, schema), schema)
    units = rows.select(list(schema.key)) if keys is None else keys
    return Sample(schema, rows, units, keys is None and state.store.count(table) <= rows_max)


def _of_units(joined: Joined, state: State, keys: pa.Table | None, rows_max: int) -> Sample:
    """Units in an order that is the same every time and follows nothing that the rows say."""
    step = joined.step
    if keys is not None:
        units = keys.select(list(step.unit)).group_by(list(step.unit), use_threads=False).aggregate([])
        rows = joined.rows_of(units)
        return Sample(step.schema, _sorted(within(rows, keys), step.schema), units, False)
    chosen = spread_units(step, state, UNITS_MAX + 1)
    made: list[pa.Table] = []
    done, slice_ = 0, rows_max
    while done < min(chosen.num_rows, UNITS_MAX) and sum(t.num_rows for t in made) < rows_max:
        made.append(joined.rows_of(chosen.slice(done, min(slice_, UNITS_MAX - done))))
        done, slice_ = min(done + slice_, UNITS_MAX), slice_ * 2
    rows = _sorted(pa.concat_tables(made) if made else joined.rows_of(chosen), step.schema)
    return Sample(step.schema, rows, chosen.slice(0, done), done >= chosen.num_rows)


def spread_units(step: Stateful, state: State, limit: int, of: str | None = None) -> pa.Table:
    """Some units of the step's roots, or of the rows of the state's table `of`: the same every time, spread over all there are."""
    inputs = {o.alias: o.input for o in step.occurrences}
    given = [(r.columns, copy_table(step.name, inputs[r.alias])) for r in step.roots] if of is None else [(step.unit, of)]
    every = " UNION ".join(
        f"SELECT {', '.join(f'{quoted(c)} AS {quoted(u)}' for c, u in zip(columns, step.unit, strict=True))} FROM {quoted(table)}"
        for columns, table in given
    )
    valid = " AND ".join(f"{quoted(u)} IS NOT NULL" for u in step.unit)
    found = state.store.table(f"SELECT DISTINCT * FROM ({every}) WHERE {valid} ORDER BY {_spread(step.unit)} LIMIT {limit}")
    return found.cast(pa.schema([pa.field(u, step.schema[u].type.arrow) for u in step.unit]))


def published(batches: Iterable[Sequence[Batch]], schema: RowSchema, units: pa.Table) -> pa.Table:
    """Of a topic's events, in order: the rows of these units that are live in the end, by key."""
    rows = schema.arrow
    found = pa.table({f.name: pa.array([], f.type) for f in rows})
    for some in batches:
        if not any(map(len, some)):
            continue
        changed, live = last_per_key([b for b in some if len(b)])
        found = pa.concat_tables([without(found, changed), within(live, units)])
    return _sorted(found, schema)


def within(rows: pa.Table, keys: pa.Table) -> pa.Table:
    """The rows whose columns named as `keys`' equal one of them."""
    return rows.take(_places(rows, keys, "left semi"))


def without(rows: pa.Table, keys: pa.Table) -> pa.Table:
    """The other rows."""
    return rows.take(_places(rows, keys, "left anti"))


def _places(rows: pa.Table, keys: pa.Table, how: str) -> pa.Array:
    names = keys.column_names
    numbered = rows.select(names).append_column("__ms_at", pa.array(np.arange(rows.num_rows, dtype=np.int64)))
    keys = keys.cast(numbered.select(names).schema)
    return numbered.join(keys, names, join_type=how, use_threads=False).column("__ms_at").combine_chunks().sort()


def _sorted(rows: pa.Table, schema: RowSchema) -> pa.Table:
    numbered = rows.select(list(schema.key)).append_column("__ms_at", pa.array(np.arange(rows.num_rows, dtype=np.int64)))
    order = numbered.sort_by([(k, "ascending") for k in schema.key]).column("__ms_at")
    return rows.take(order)


def _spread(columns: Sequence[str]) -> str:
    return f"hash({', '.join(map(quoted, columns))}), {', '.join(map(quoted, columns))}"
