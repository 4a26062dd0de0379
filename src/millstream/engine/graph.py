"""A plan's nodes put to work: events of the inputs in, events of every node out, one node after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from millstream.engine import stateless
from millstream.engine.joined import Joined, Stamp
from millstream.engine.remote import Sources
from millstream.engine.sql import Sql
from millstream.engine.state import State
from millstream.errors import Refused
from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.pipelines.plan import Plan, Stateful, Stateless, Union, inputs_of

Made = dict[str, list[Batch]]
"""Node or topic name → its events, in order."""


class Graph:
    """The nodes of one plan. A plan with a stateful step needs a state; all its calls are part of the caller's transaction.

    Without `sources` steps that would read there keep copies: a preview or an example gives the same rows and asks nobody. Raises
    Refused("reads_documents") where a node reads one that keeps hashes."""

    def __init__(self, plan: Plan, sql: Sql, state: State | None, sources: Sources | None = None) -> None:
        self._plan, self._sql = plan, sql
        documents = {n.name for n in plan.nodes if isinstance(n, Stateful) and n.keeps == "hash"}
        for node in plan.nodes:
            if read := documents & set(inputs_of(node)):  # there would be no rows to build it from
                raise Refused(
                    f"step {node.name} reads {min(read)}, of whose rows only hashes are kept",
                    code="reads_documents",
                    where=f"pipeline {plan.pipeline}",
                    cure=f"let {node.name} read what {min(read)} is made of",
                )
        schemas: dict[str, RowSchema] = {i.topic: i.schema for i in plan.inputs} | {n.name: n.schema for n in plan.nodes}
        self.joined: dict[str, Joined] = {}
        for node in plan.nodes:
            if isinstance(node, Stateful):
                assert state is not None
                self.joined[node.name] = Joined(node, schemas, state, sql, sources)

    def grow(self, ts_us: int) -> None:
        """The tables of every stateful step, which an earlier plan has made, get their new columns; all units wait, as of `ts_us`."""
        for joined in self.joined.values():
            joined.grow(ts_us)

    @property
    def pending(self) -> int:
        return sum(j.pending for j in self.joined.values())

    @property
    def refreshed(self) -> int:
        return sum(j.refreshed for j in self.joined.values())

    @property
    def triggers(self) -> int:
        return sum(j.triggers for j in self.joined.values())

    @property
    def documents(self) -> int:
        return sum(j.documents for j in self.joined.values())

    def advance(self, read: Mapping[str, Sequence[Batch]], sequence: int, stamp: Stamp) -> Made:
        """What every node makes of the events read, with one slice of each stateful step's pending units refreshed.

        It goes out with commit `sequence`; `stamp` says up to where the sources' changes are in, these events among them.
        """
        made: Made = {name: list(batches) for name, batches in read.items()}
        for node in self._plan.nodes:
            if isinstance(node, Stateful):
                joined = self.joined[node.name]
                joined.take({i: made[i] for i in inputs_of(node) if made.get(i)}, sequence)
                out = joined.refresh(sequence, stamp)
                made[node.name] = [] if out is None else [out]
            elif isinstance(node, Union):
                made[node.name] = _together(node, made)
            else:
                made[node.name] = self._stateless(node, made)
        return made

    def load(self, read: Mapping[str, Sequence[Batch]]) -> Made:
        """As `advance`, but stateful steps only fill their copies and make nothing."""
        made: Made = {name: list(batches) for name, batches in read.items()}
        for node in self._plan.nodes:
            if node.name in read:
                continue
            if isinstance(node, Stateful):
                for name in inputs_of(node):
                    if any(map(len, made.get(name, ()))):
                        self.joined[node.name].load(name, made[name])
                made[node.name] = []
            elif isinstance(node, Union):
                made[node.name] = _together(node, made)
            else:
                made[node.name] = self._stateless(node, made)
        return made

    def downstream(self, name: str, batches: Sequence[Batch]) -> Made:
        """What the nodes after `name` make of its events; a stateful one among them fills its copies."""
        return self.load({name: batches})

    def has_readers(self, name: str) -> bool:
        """Whether a node of this plan reads `name`."""
        return any(name in inputs_of(n) for n in self._plan.nodes)

    def _stateless(self, node: Stateless, made: Made) -> list[Batch]:
        results = (stateless.run(node, b, self._sql) for b in made.get(node.input, []) if len(b))
        return [b for b in results if len(b)]

    def published(self, made: Made) -> Iterator[Batch]:
        """The events of the nodes that have an output topic, addressed to it."""
        for output in self._plan.outputs:
            for b in made.get(output.node, []):
                yield replace(b, topic=output.topic)


def _together(node: Union, made: Mapping[str, Sequence[Batch]]) -> list[Batch]:
    return [replace(b, topic=node.name) for name in node.inputs for b in made.get(name, ())]
