"""Build: a plan evaluated as a set over an empty state. Its inputs are read once, its copies filled, then each node in turn.

What is done with the result is its caller's: a rebuild publishes the difference, a reconciliation only names it, a preview looks at a part.
What takes more memory than there is, and documents of which only hashes are kept, are evaluated slice by slice instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from millstream.engine.graph import Graph
from millstream.engine.images import conform, last_per_key, structs
from millstream.engine.joined import SLICE_KEYS_MAX, Joined, Stamp
from millstream.engine.last import changes
from millstream.engine.reader import TopicReader
from millstream.engine.sql import ROW_ERRORS, first_line, quoted
from millstream.engine.state import State, last_table
from millstream.errors import Irrecoverable, MillstreamError, Refused, Retryable
from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.pipelines.plan import Plan

READ_BYTES = 8 << 20
WAIT_S = 0.2  # a step's source is tried again

Tick = Callable[[str, int, int], None]
"""tick(what, done, total): called often; raises Stopped to end it."""
Waits = Callable[[MillstreamError | None], None]
"""waits(why): a source cannot be asked at the moment, told at every try; None: it goes on."""
Feeds = Mapping[str, Iterable[Sequence[Batch]]]
"""Input topic → its events, in order."""


class Documents(Protocol):
    """Who wants the rows of the steps that keep hashes only, while they are made."""

    @property
    def sequence(self) -> int:
        """The commit with which the next ones go out."""

    @property
    def ts_us(self) -> int:
        """Their time, as nothing at a source made them (microseconds since 1970)."""

    def start_from(self, joined: Joined) -> None:
        """Put what is known of the step's output already into its last output."""

    def made(self, out: Batch) -> None:
        """Events of what differs from that, with the step's name as topic."""


class Build:
    """One build. `wanted` names the nodes whose whole output is asked for afterwards."""

    def __init__(self, plan: Plan, graph: Graph, state: State, tick: Tick, wanted: Iterable[str], waits: Waits = lambda why: None) -> None:
        self._plan, self._graph, self._state, self._tick = plan, graph, state, tick
        self._waits = waits
        self._schemas = {n.name: n.schema for n in plan.nodes}
        # A stateful node's last output is kept anyway; any other output is collected.
        self._collected = [n for n in dict.fromkeys(wanted) if n not in graph.joined]

    def run(
        self,
        feeds: Feeds,
        *,
        but: str | None = None,
        seen: Callable[[str, Sequence[Batch]], Stamp] = lambda topic, batches: {},
        documents: Documents | None = None,
    ) -> None:
        """Throws away what the state holds. The stateful node `but` gets its copies and indexes and is not evaluated. `seen` is
        told of every batch that was read, and says up to where the sources' changes are in.

        Raises BadRecord naming the record that the SQL fails on, Irrecoverable where a key has two rows or where the rows of one
        unit alone do not fit the memory.
        """
        self._stamp, self._documents = seen("", ()), documents
        self._state.wipe()
        with self._state.transaction():
            for joined in self._graph.joined.values():
                joined.create()
            for name in self._collected:
                self._state.store.create(collected_table(name), self._schemas[name].fields, self._schemas[name].key)
        for topic, given in feeds.items():
            for batches in given:
                self._stamp = seen(topic, batches)
                with self._state.transaction():
                    self._collect(self._graph.load({topic: batches}))
        for name in self._graph.joined:
            self._evaluate(name, whole=name != but)

    def table(self, node: str) -> str:
        """The state's table that holds the whole output of a wanted node."""
        return last_table(node) if node in self._graph.joined else collected_table(node)

    def drop(self) -> None:
        """The collected outputs go. Part of the caller's transaction."""
        for name in self._collected:
            self._state.store.drop(collected_table(name))

    def _collect(self, made: Mapping[str, Sequence[Batch]]) -> None:
        for name in self._collected:
            batches = [b for b in made.get(name, ()) if len(b)]
            if batches:
                upsert(self._state, collected_table(name), self._schemas[name], batches)

    def _evaluate(self, name: str, *, whole: bool) -> None:
        joined = self._graph.joined[name]
        self._tick(f"evaluating {name}", 0, 0)
        with self._state.transaction():
            joined.create_indexes()
        if not whole:
            return
        if not self._as_a_set(joined):
            self._slice_by_slice(joined)
        self._pass_on(name, self._schemas[name])

    def _as_a_set(self, joined: Joined) -> bool:
        """False, and nothing done, where it does not suit the step or takes too much memory."""
        if not joined.built_as_a_set:
            return False
        try:
            with self._state.transaction():
                joined.build(self._stamp)
        except ROW_ERRORS as e:
            with self._state.transaction():
                joined.name_bad_record()
            raise Irrecoverable(f"the SQL failed: {first_line(e)}", code="sql_failed", where=f"step {joined.step.name}") from e
        except Irrecoverable as e:
            if e.code != "state_memory":
                raise
            return False
        return True

    def _slice_by_slice(self, joined: Joined) -> None:
        if self._documents is not None and joined.step.keeps == "hash":
            self._documents.start_from(joined)
        with self._state.transaction():
            joined.pend_all(self._documents.ts_us if self._documents is not None else 0)
        total, held_up = joined.pending, False
        while left := joined.pending:
            self._tick(f"evaluating {joined.step.name}", total - left, total)
            try:
                with self._state.transaction():
                    out = joined.refresh(self._documents.sequence if self._documents is not None else 0, self._stamp)
            except Retryable as e:  # what was built so far is not thrown away for it
                held_up = True
                self._waits(e)
                time.sleep(WAIT_S)
                continue
            if held_up:
                held_up = False
                self._waits(None)
            if out is not None and self._documents is not None and joined.step.keeps == "hash":
                self._documents.made(out)

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


def feeds(readers: Mapping[str, TopicReader], ends: Mapping[str, int], tick: Tick) -> dict[str, Iterator[Sequence[Batch]]]:
    """The readers' topics up to these ends, each when the one before is read."""
    before, total = 0, sum(ends.values())
    found: dict[str, Iterator[Sequence[Batch]]] = {}
    for topic, reader in readers.items():
        found[topic] = _feed(reader, ends[topic], lambda done, before=before: tick("reading the topics", before + done, total))  # type: ignore[misc]
        before += ends[topic]
    return found


def _feed(reader: TopicReader, end: int, tick: Callable[[int], None]) -> Iterator[Sequence[Batch]]:
    while reader.offset < end:
        tick(reader.offset)
        try:
            batches = reader.read(READ_BYTES)
        except Refused:  # a schema that is not accepted: built up to there; the pipeline's next read says so
            return
        yield [b.slice(0, int(np.searchsorted(b.offsets, end))) for b in batches if b.offsets is not None and b.offsets[0] < end]
        reader.offset = min(reader.offset, end)


def upsert(state: State, table: str, schema: RowSchema, batches: Sequence[Batch]) -> None:
    """Apply events to a table of rows by key. Part of the caller's transaction."""
    replace_rows(state, table, schema, *last_per_key(batches))


def replace_rows(state: State, table: str, schema: RowSchema, changed: pa.Table, live: pa.Table) -> None:
    """The keys in `changed` have these rows and no others. Part of the caller's transaction."""
    state.store.delete(table, schema.key, changed)
    state.store.insert(table, live)


def collected_table(node: str) -> str:
    return f"want {node}"
