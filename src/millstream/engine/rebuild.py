"""Rebuild: read the inputs to captured ends, evaluate as a set, compare with what is published, publish the difference.

One mechanism for a first start, a lost or older state, a changed definition and a late joiner. It may be cut off anywhere:
the state is no state until the last step, and the next rebuild finds what was published already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from millstream.engine.build import READ_BYTES, Build, Tick, feeds, upsert
from millstream.engine.graph import Graph
from millstream.engine.images import conform, structs
from millstream.engine.joined import SLICE_KEYS_MAX, changes, difference_sql
from millstream.engine.publisher import Publisher
from millstream.engine.reader import TopicReader
from millstream.engine.sql import quoted
from millstream.engine.state import State
from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.faultpoints import reached
from millstream.pipelines.plan import Output, Plan
from millstream.topics.contract import Topics


class Stopped(Exception):
    """The person asked to stop; what was done is kept or done again."""


class Rebuild:
    """One rebuild of one pipeline's state and output. `tick` is called often; it raises Stopped to end it."""

    def __init__(self, plan: Plan, graph: Graph, state: State, topics: Topics, publisher: Publisher, tick: Tick) -> None:
        self._plan, self._state, self._topics, self._publisher, self._tick = plan, state, topics, publisher, tick
        nodes = {n.name: n for n in plan.nodes}
        self._schema: dict[str, RowSchema] = {o.topic: nodes[o.node].schema for o in plan.outputs}
        self._built = Build(plan, graph, state, tick, [o.node for o in plan.outputs])

    def run(self, readers: Mapping[str, TopicReader], clock: Callable[[], float]) -> int:
        """Leaves copies, last outputs and topics as the inputs up to the readers' offsets make them. Returns events published."""
        self._built.run(feeds(readers, {topic: self._topics.end(topic) for topic in readers}, self._tick))
        published = 0
        for output in self._plan.outputs:
            published += self._publish_difference(output, clock)
        with self._state.transaction():
            self._built.drop()
            for output in self._plan.outputs:
                self._state.store.drop(_published(output))
        return published

    def _publish_difference(self, output: Output, clock: Callable[[], float]) -> int:
        schema = self._schema[output.topic]
        wanted = self._built.table(output.node)
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
                    upsert(self._state, _published(output), schema, batches)


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


def _published(output: Output) -> str:
    return f"published {output.topic}"
