"""Rebuild: read the inputs to captured ends, evaluate as a set, compare with what is published, publish the difference.

One mechanism for a first start, a lost or older state, a changed definition and a late joiner. It may be cut off anywhere:
the state is no state until the last step, and the next rebuild finds what was published already.

A step that keeps hashes has no set of documents to compare: its last output is what is published, hashed as it is read, and
every unit is refreshed against it, slice by slice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from millstream.engine.build import READ_BYTES, Build, Tick, Waits, feeds, replace_rows
from millstream.engine.graph import Graph
from millstream.engine.images import conform, last_per_key, structs
from millstream.engine.joined import SLICE_KEYS_MAX, Joined, Stamp
from millstream.engine.last import changes, difference_sql
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
    """One rebuild of one pipeline's state and output. `tick` is called often; it raises Stopped to end it; `waits` is told of what holds
    it up."""

    def __init__(self, plan: Plan, graph: Graph, state: State, topics: Topics, publisher: Publisher, tick: Tick, waits: Waits) -> None:
        self._plan, self._graph, self._state, self._topics, self._publisher, self._tick = plan, graph, state, topics, publisher, tick
        nodes = {n.name: n for n in plan.nodes}
        self._schema: dict[str, RowSchema] = {o.topic: nodes[o.node].schema for o in plan.outputs}
        self._compared = [o for o in plan.outputs if not self._keeps_hashes(o.node)]
        self._documents = [o for o in plan.outputs if self._keeps_hashes(o.node)]
        self._built = Build(plan, graph, state, tick, [o.node for o in plan.outputs], waits)
        self._published = 0

    def _keeps_hashes(self, node: str) -> bool:
        joined = self._graph.joined.get(node)
        return joined is not None and joined.step.keeps == "hash"

    def run(
        self,
        readers: Mapping[str, TopicReader],
        clock: Callable[[], float],
        seen: Callable[[str, Sequence[Batch]], Stamp] = lambda t, b: {},
    ) -> int:
        """Leaves copies, last outputs and topics as the inputs up to the readers' offsets make them. Returns events published.

        `seen` is told of every batch that was read, and says up to where the sources' changes are in.
        """
        self._clock = clock
        given = feeds(readers, self._ends(readers), self._tick)
        self._built.run(given, seen=seen, documents=self)
        for output in self._compared:
            self._publish_difference(output)
        with self._state.transaction():
            self._built.drop()
            for output in self._compared:
                self._state.store.drop(_published(output))
        return self._published

    def _ends(self, topics: Collection[str]) -> dict[str, int]:
        """Up to where the topics are compared as a set. A pipeline of filters and projections makes an event of each event: what it had not
        read yet it goes on to read one by one, unless it has lost its place there."""
        ends = {topic: self._topics.end(topic) for topic in topics}
        name = f"pipeline.{self._plan.pipeline}"
        if self._plan.stateful or any(name in self._topics.kept(topic).lost for topic in topics):
            return ends
        read = self._publisher.state.get("positions", {})
        return {topic: min(end, read.get(topic, end)) for topic, end in ends.items()}

    # ---- steps that keep hashes

    @property
    def sequence(self) -> int:
        """The commit with which the next documents go out."""
        return self._publisher.sequence + 1

    @property
    def ts_us(self) -> int:
        return int(self._clock() * 1e6)

    def start_from(self, joined: Joined) -> None:
        """What is published is the step's last output."""
        for output in self._documents:
            if output.node == joined.step.name:
                self._read_published(output, joined.last.put)

    def made(self, out: Batch) -> None:
        """Documents that differ from what is published."""
        for output in self._documents:
            if output.node == out.topic:
                self._publish(replace(out, topic=output.topic))

    # ---- the others

    def _publish_difference(self, output: Output) -> None:
        schema, table = self._schema[output.topic], _published(output)
        with self._state.transaction():
            self._state.store.create(table, schema.fields, schema.key)
        self._read_published(output, lambda changed, live: replace_rows(self._state, table, schema, changed, live))
        joined = self._graph.joined.get(output.node)
        compared = [c for c in schema.names if c not in schema.key and (joined is None or c != joined.step.stamp)]
        names = ", ".join(f"o.{quoted(c)} AS {quoted('o ' + c)}, n.{quoted(c)} AS {quoted('n ' + c)}" for c in schema.names)
        sql = difference_sql(quoted(table), quoted(self._built.table(output.node)), schema.key, compared, names)
        for rows in self._state.store.batches(sql, SLICE_KEYS_MAX):
            if rows.num_rows:
                self._publish(_difference_events(output, schema, rows, self._clock))

    def _publish(self, out: Batch) -> None:
        self._tick(f"publishing {out.topic}", self._published, 0)
        # What was said of completeness still holds; no fingerprint says that this state is not whole yet.
        state = {**self._publisher.state, "fingerprint": None}
        commit = self._publisher.commit(self._publisher.sequence + 1, [out], state, int(self._clock() * 1e6))
        reached("rebuild.before_publish")
        self._publisher.publish(commit)
        self._published += len(out)

    def _read_published(self, output: Output, put: Callable[[pa.Table, pa.Table], None]) -> None:
        """The output topic as it stands, in the schema that is published now: `put` is given keys that changed and live rows."""
        reader = self._publisher.reader(output.topic)
        end = self._topics.end(output.topic)
        while reader.offset < end:
            self._tick(f"comparing {output.topic}", reader.offset, end)
            batches = [b for b in reader.read(READ_BYTES) if len(b)]
            if batches:
                with self._state.transaction():
                    put(*last_per_key(batches))


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
