"""Rebuild: read the inputs to captured ends, evaluate as a set, compare with what is published, publish the difference.

One mechanism for a first start, a lost or older state, a changed definition and a late joiner. It may be cut off anywhere:
the state is no state until the last step, and the next rebuild finds what was published already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from millstream.engine.graph import Graph
from millstream.engine.images import conform, last_per_key, structs
from millstream.engine.joined import SLICE_KEYS_MAX, changes, difference_sql
from millstream.engine.publisher import Publisher
from millstream.engine.reader import TopicReader
from millstream.engine.sql import ROW_ERRORS, first_line, quoted
from millstream.engine.state import State, last_table
from millstream.errors import Irrecoverable, Refused
from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.faultpoints import reached
from millstream.pipelines.plan import Output, Plan, Stateful
from millstream.topics.contract import Topics

READ_BYTES = 8 << 20


class Stopped(Exception):
    """The person asked to stop; what was done is kept or done again."""


class Rebuild:
    """One rebuild of one pipeline's state and output. `tick` is called often; it raises Stopped to end it."""

    def __init__(
        self, plan: Plan, graph: Graph, state: State, topics: Topics, publisher: Publisher, tick: Callable[[str, int, int], None]
    ) -> None:
        self._plan, self._graph, self._state, self._topics, self._publisher, self._tick = plan, graph, state, topics, publisher, tick
        nodes = {n.name: n for n in plan.nodes}
        self._schema: dict[str, RowSchema] = {o.topic: nodes[o.node].schema for o in plan.outputs}
        # A stateful node's last output is kept anyway; any other output is collected for the comparison.
        self._collected = [o for o in plan.outputs if not isinstance(nodes[o.node], Stateful)]

    def run(self, readers: Mapping[str, TopicReader], clock: Callable[[], float]) -> int:
        """Leaves copies, last outputs and topics as the inputs up to the readers' offsets make them. Returns events published."""
        self._state.wipe()
        with self._state.transaction():
            for joined in self._graph.joined.values():
                joined.create()
            for output in self._collected:
                self._state.store.create(_want(output), self._schema[output.topic].fields, self._schema[output.topic].key)
        self._load(readers)
        self._evaluate()
        published = 0
        for output in self._plan.outputs:
            published += self._publish_difference(output, clock)
        with self._state.transaction():
            for output in self._plan.outputs:
                self._state.store.drop(_want(output))
                self._state.store.drop(_published(output))
        return published

    def _load(self, readers: Mapping[str, TopicReader]) -> None:
        ends = {topic: self._topics.end(topic) for topic in readers}
        total, done = sum(ends.values()), 0
        for topic, reader in readers.items():
            while reader.offset < ends[topic]:
                self._tick("reading the topics", done + reader.offset, total)
                try:
                    batches = reader.read(READ_BYTES)
                except Refused:  # a schema that is not accepted: built up to there; the pipeline's next read says so
                    break
                with self._state.transaction():
                    self._collect(self._graph.load({topic: batches}))
            done += ends[topic]

    def _collect(self, made: Mapping[str, Sequence[Batch]]) -> None:
        for output in self._collected:
            batches = [b for b in made.get(output.node, ()) if len(b)]
            if batches:
                self._upsert(_want(output), self._schema[output.topic], batches)

    def _upsert(self, table: str, schema: RowSchema, batches: Sequence[Batch]) -> None:
        changed, live = last_per_key(batches)
        self._state.store.delete(table, schema.key, changed)
        self._state.store.insert(table, live)

    def _evaluate(self) -> None:
        for name, joined in self._graph.joined.items():
            self._tick(f"evaluating {name}", 0, 0)
            try:
                with self._state.transaction():
                    joined.create_indexes()
                with self._state.transaction():
                    joined.build()
            except ROW_ERRORS as e:
                joined.name_bad_record()
                raise Irrecoverable(f"the SQL failed: {first_line(e)}", code="sql_failed", where=f"step {name}") from e
            self._pass_on(name, joined.step.schema)

    def _pass_on(self, name: str, schema: RowSchema) -> None:
        """A stateful node's whole output, as inserts, to the nodes after it."""
        if not self._graph.has_readers(name):
            return
        names = ", ".join(map(quoted, schema.names))
        end = self._state.store.rows(f"SELECT coalesce(max(rowid), -1) FROM {quoted(last_table(name))}")[0][0]
        for start in range(0, end + 1, SLICE_KEYS_MAX):
            rows = self._state.store.table(
                f"SELECT {names} FROM {quoted(last_table(name))} WHERE rowid >= {start} AND rowid < {start + SLICE_KEYS_MAX}"
            )
            here, absent = np.arange(rows.num_rows, dtype=np.int64), np.full(rows.num_rows, -1, np.int64)
            rows = conform(rows, schema)
            inserts = changes(name, schema, structs(rows, absent, schema), structs(rows, here, schema), absent, here, 0)
            with self._state.transaction():
                self._collect(self._graph.downstream(name, [inserts]))

    def _publish_difference(self, output: Output, clock: Callable[[], float]) -> int:
        schema = self._schema[output.topic]
        nodes = {n.name: n for n in self._plan.nodes}
        wanted = last_table(output.node) if isinstance(nodes[output.node], Stateful) else _want(output)
        self._read_published(output, schema)
        names = ", ".join(f"o.{quoted(c)} AS {quoted('o ' + c)}, n.{quoted(c)} AS {quoted('n ' + c)}" for c in schema.names)
        sql = difference_sql(quoted(_published(output)), quoted(wanted), schema, names)
        # What was said of completeness still holds; no fingerprint says that this state is not whole yet.
        state = {**self._publisher.state, "fingerprint": None}
        published = 0
        for rows in self._state.store.batches(sql, SLICE_KEYS_MAX):
            if not rows.num_rows:
                continue
            self._tick(f"publishing {output.topic}", published, 0)
            commit = self._publisher.commit(
                self._publisher.sequence + 1, [_difference_events(output, schema, rows, clock)], state, int(clock() * 1e6)
            )
            reached("rebuild.before_publish")
            self._publisher.publish(commit)
            published += rows.num_rows
        return published

    def _read_published(self, output: Output, schema: RowSchema) -> None:
        """The output topic as it stands, last row per key, in the schema that is published now."""
        with self._state.transaction():
            self._state.store.create(_published(output), schema.fields, schema.key)
        reader = self._publisher.reader(output.topic)
        end = self._topics.end(output.topic)
        while reader.offset < end:
            self._tick(f"comparing {output.topic}", reader.offset, end)
            batches = [b for b in reader.read(READ_BYTES) if len(b)]
            if batches:
                with self._state.transaction():
                    self._upsert(_published(output), schema, batches)


def _difference_events(output: Output, schema: RowSchema, rows: pa.RecordBatch, clock: Callable[[], float]) -> Batch:
    table = pa.Table.from_batches([rows])
    old_rows = conform(table.select([f"o {c}" for c in schema.names]).rename_columns(list(schema.names)), schema)
    new_rows = conform(table.select([f"n {c}" for c in schema.names]).rename_columns(list(schema.names)), schema)
    here = np.arange(table.num_rows, dtype=np.int64)
    first = schema.key[0]  # keys are never null: a null here means that the side is not there
    old = np.where(np.asarray(old_rows.column(first).is_null()), -1, here)
    new = np.where(np.asarray(new_rows.column(first).is_null()), -1, here)
    out = changes(output.node, schema, structs(old_rows, old, schema), structs(new_rows, new, schema), old, new, int(clock() * 1e6))
    return replace(out, topic=output.topic)


def _want(output: Output) -> str:
    return f"want {output.node}"


def _published(output: Output) -> str:
    return f"published {output.topic}"
