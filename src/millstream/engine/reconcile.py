"""Reconcile: what a pipeline has published and keeps, beside the same computed from scratch out of the topics.

It disturbs nobody: a state of its own is built up to a moment at which the pipeline has said that nothing was left to compute (its
record's `settled`: places in its inputs and its outputs that belong together), so that changes which come meanwhile are no difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import pyarrow as pa

from millstream.engine.build import READ_BYTES, Build, Tick, replace_rows
from millstream.engine.graph import Graph
from millstream.engine.images import conform, last_per_key
from millstream.engine.joined import SLICE_KEYS_MAX, Joined
from millstream.engine.last import difference_sql
from millstream.engine.preview import published, spread_units, within
from millstream.engine.reader import TopicReader
from millstream.engine.sql import Sql, quoted
from millstream.engine.state import State, copy_table
from millstream.errors import Refused
from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.pipelines import values
from millstream.pipelines.plan import Output, Plan, Stateful, Stateless, Union, inputs_of
from millstream.schemas.registry import Registry
from millstream.topics.contract import ProducerRecord, Topics

SHOWN, KEYS_MAX = 10, 100_000
_PUBLISHED, _WANTED = "published", "wanted"


@dataclass(frozen=True)
class Mark:
    """Places that belong together: what is published below `ends` is what the inputs below `positions` make."""

    positions: Mapping[str, int]
    ends: Mapping[str, int]


def mark(record: ProducerRecord | None, plan: Plan) -> Mark:
    """The last one that a pipeline's record holds. Raises Refused where there is none yet."""
    state = record.state if record is not None else {}
    if record is not None and not plan.stateful and state.get("fingerprint"):
        return Mark(state["positions"], record.ends)  # it publishes whatever it has read, in every commit
    settled = state.get("settled")
    if not settled:
        cure = "let `millstream run` catch up, then ask again"
        raise Refused("it has never been caught up: there is nothing to hold it to", code="not_settled", where=plan.pipeline, cure=cure)
    return Mark(settled["positions"], settled["ends"])


@dataclass(frozen=True)
class Difference:
    """One key; what it should have and what it has, each as columns and None where it has no row."""

    key: tuple[str, ...]
    expected: Mapping[str, Any] | None
    got: Mapping[str, Any] | None


@dataclass(frozen=True)
class Compared:
    """One comparison of `what` (a topic, an index, a table of the state): keys compared, how many differ, the first of them whole, and
    all of them (as texts, up to a limit) for a repair."""

    what: str
    compared: int
    differing: int
    first: tuple[Difference, ...] = ()
    keys: tuple[tuple[str, ...], ...] = ()


class Scratch:
    """A plan computed from scratch up to a mark, in an empty state."""

    def __init__(self, plan: Plan, at: Mark, topics: Topics, registry: Registry, state: State, tick: Tick) -> None:
        nodes = tuple(replace(n, read="copies") if isinstance(n, Stateful) else n for n in plan.nodes)
        self._plan, self._at, self._topics, self._registry, self._state, self._tick = (
            replace(plan, nodes=nodes),
            at,
            topics,
            registry,
            state,
            tick,
        )
        self._schemas = {n.name: n.schema for n in plan.nodes}
        self._sql = Sql()
        self.graph = Graph(self._plan, self._sql, state)
        self._build = Build(self._plan, self.graph, state, tick, [o.node for o in plan.outputs])
        self._readers = {i.topic: TopicReader(topics, registry, i.topic, i.schema, i.schema_id, 0, everything=True) for i in plan.inputs}

    def build(self, sampled: str | None = None) -> None:
        """Everything; but for the stateful node `sampled`, which is only made ready to be evaluated."""
        self._build.run({t: self._events(t, self._at.positions.get(t, 0)) for t in self._readers}, but=sampled)

    def close(self) -> None:
        self._sql.close()

    def _events(self, topic: str, end: int) -> Iterator[Sequence[Batch]]:
        reader = self._readers[topic]
        while reader.offset < end:
            self._tick("reading the topics", reader.offset, end)
            batches = reader.read(READ_BYTES)
            reader.offset = min(reader.offset, end)
            yield below(batches, end)

    # ---- what is published

    def compare(self, output: Output, units: int | None = None) -> Compared:
        """The output's rows, all of them, or those of some units spread over all there are."""
        joined = self.graph.joined.get(output.node)
        schema = self._schemas[output.node] if joined is None else joined.last.kept
        compared = [n for n in schema.names if n not in schema.key] if joined is None else joined.last.compared
        self._read_published(output, joined, schema)
        wanted, beside, count = self._build.table(output.node), _PUBLISHED, self._state.store.count(_PUBLISHED)
        if units is not None and joined is not None:
            wanted, beside, count = self._sampled(joined, schema, units)
        keys = ", ".join(f"coalesce(o.{quoted(k)}, n.{quoted(k)}) AS {quoted(k)}" for k in schema.key)
        differing, found = 0, []
        for rows in self._state.store.batches(difference_sql(quoted(beside), quoted(wanted), schema.key, compared, keys), SLICE_KEYS_MAX):
            if differing < KEYS_MAX:
                found.append(pa.Table.from_batches([rows]))
            differing += rows.num_rows
        key_schema = pa.schema([pa.field(f.name, f.type.arrow) for f in schema.key_fields])
        table = pa.concat_tables(found).slice(0, KEYS_MAX).cast(key_schema) if found else key_schema.empty_table()
        first = tuple(self._difference(output, joined, table.slice(n, 1)) for n in range(min(SHOWN, table.num_rows)))
        with self._state.transaction():
            for name in (_PUBLISHED, _WANTED, "part"):
                self._state.store.drop(name)
        return Compared(output.topic, count, differing, first, texts(table))

    def _read_published(self, output: Output, joined: Joined | None, schema: RowSchema) -> None:
        store, whole = self._state.store, self._schemas[output.node]
        with self._state.transaction():
            store.create(_PUBLISHED, schema.fields, schema.key)
        for batches in self._published(output):
            if batches:
                changed, live = last_per_key(batches)
                with self._state.transaction():
                    replace_rows(
                        self._state, _PUBLISHED, schema, changed, live if joined is None else joined.last.to_keep(conform(live, whole), 0)
                    )

    def _published(self, output: Output) -> Iterator[list[Batch]]:
        version = self._registry.versions(f"{output.topic}-value")[-1]
        reader = TopicReader(self._topics, self._registry, output.topic, self._schemas[output.node], version.id, 0, everything=True)
        end = self._at.ends.get(output.topic, 0)
        while reader.offset < end:
            self._tick(f"comparing {output.topic}", reader.offset, end)
            yield below(reader.read(READ_BYTES), end)

    def _sampled(self, joined: Joined, schema: RowSchema, count: int) -> tuple[str, str, int]:
        """Tables of the wanted and of the published rows of some units: of roots that there are, and of rows that are published."""
        store, unit = self._state.store, list(joined.step.unit)
        units = pa.concat_tables(
            [spread_units(joined.step, self._state, count), spread_units(joined.step, self._state, count, of=_PUBLISHED)]
        )
        units = units.group_by(unit, use_threads=False).aggregate([])
        with self._state.transaction():
            store.create(_WANTED, schema.fields, schema.key)
            store.create("part", schema.fields, schema.key)
            for start in range(0, units.num_rows, 1_000):
                some = units.slice(start, 1_000)
                store.insert(_WANTED, joined.last.to_keep(joined.rows_of(some), 0))
                store.insert("part", conform(store.lookup(_PUBLISHED, unit, some, schema.names), schema))
        return _WANTED, "part", max(store.count(_WANTED), store.count("part"))

    def _difference(self, output: Output, joined: Joined | None, key: pa.Table) -> Difference:
        schema = self._schemas[output.node]
        if joined is not None:
            expected = within(joined.rows_of(key.select(list(joined.step.unit))), key)
        else:
            expected = conform(self._state.store.lookup(self._build.table(output.node), schema.key, key, schema.names), schema)
        got = published(self._published(output), schema, key)
        if joined is not None and joined.step.stamp is not None:
            expected, got = (t.drop_columns([joined.step.stamp]) for t in (expected, got))
        return Difference(texts(key)[0], *((t.to_pylist() or [None])[0] for t in (expected, got)))

    # ---- what the state keeps

    def compare_state(self, kept: Mapping[str, Any], *, sampled: bool) -> list[Compared]:
        """The state's tables, as `digests` has read them from it, beside those that are made here. Last: this moves on to their place.

        How many rows of one differ is not known: at least one."""
        here = kept["positions"] == dict(self._at.positions)
        through = {n.name for n in self._plan.nodes if isinstance(n, Stateful)}
        for node in self._plan.nodes:  # what comes through a stateful step is not here beyond the mark
            if isinstance(node, Stateless | Union) and set(inputs_of(node)) & through:
                through.add(node.name)
        if not here:
            for topic in self._readers:
                for batches in self._events(topic, kept["positions"].get(topic, 0)):
                    with self._state.transaction():
                        self.graph.load({topic: batches})
        beyond = {copy_table(n.name, i) for n in self._plan.nodes if isinstance(n, Stateful) for i in inputs_of(n) if i in through}
        copies = {copy_table(n.name, i) for n in self._plan.nodes if isinstance(n, Stateful) for i in inputs_of(n)}
        made = digests(self._plan, self._state.store.connect)["tables"]
        wanted = [
            t
            for t in kept["tables"]
            if t in made
            and (t in copies or not kept["pending"])
            and ((here and not sampled) or (t in copies and (here or t not in beyond)))
        ]
        return [
            Compared(
                f"state {t}", kept["tables"][t][0], 0 if kept["tables"][t] == made[t] else max(1, abs(kept["tables"][t][0] - made[t][0]))
            )
            for t in wanted
        ]


def digests(plan: Plan, connect: Callable[[], duckdb.DuckDBPyConnection]) -> dict[str, Any]:
    """Of a state: where its copies are in its inputs, whether keys are pending, and of each table its rows and one number of all their
    values. One snapshot. Plain JSON."""
    tables: dict[str, list[str]] = {}
    for node in plan.nodes:
        if isinstance(node, Stateful):
            kept = node.keeps == "rows"
            tables |= {copy_table(node.name, i): [] for i in inputs_of(node)} if node.read == "copies" else {}
            tables[f"last {node.name}"] = [n for n in node.schema.names if n != node.stamp] if kept else [*node.schema.key, "__ms_hash"]
    with connect() as connection:
        connection.execute("BEGIN TRANSACTION")
        there = {r[0] for r in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        found = {}
        for table, columns in tables.items():
            if table in there:
                names = columns or [
                    r[0] for r in connection.execute(f"DESCRIBE {quoted(table)}").fetchall() if not r[0].startswith("__ms_at ")
                ]
                hashed = ", ".join(map(quoted, sorted(names)))
                count, number = connection.execute(f"SELECT count(*), bit_xor(hash({hashed})) FROM {quoted(table)}").fetchall()[0]
                found[table] = [count, str(number)]
        meta = connection.execute("SELECT json_extract(state, '$.positions')::VARCHAR FROM meta").fetchall()
        groups = [t for t in there if t.startswith("groups ")]
        pending = sum(connection.execute(f"SELECT count(*) FROM {quoted(g)}").fetchall()[0][0] for g in groups)
        connection.execute("COMMIT")
    return {"positions": json.loads(meta[0][0]) if meta else {}, "pending": pending, "tables": found}


def below(batches: Sequence[Batch], end: int) -> list[Batch]:
    """The events that stand before `end`."""
    cut = [b if b.offsets is None or b.offsets[-1] < end else b.slice(0, int((b.offsets < end).sum())) for b in batches if len(b)]
    return [b for b in cut if len(b)]


def texts(keys: pa.Table) -> tuple[tuple[str, ...], ...]:
    """Keys as people write them."""
    columns = [[v if isinstance(v, str) else values.shown(v) for v in keys.column(n).to_pylist()] for n in keys.column_names]
    return tuple(zip(*columns, strict=True))
