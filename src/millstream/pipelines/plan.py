"""The logical plan: what a compiled pipeline is, for the engine to run and for people to read.

Nodes stand in order: a node reads only topics and nodes before it. Nothing here runs anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from millstream.events.origin import Grade
from millstream.events.types import RowSchema, Type


@dataclass(frozen=True)
class Held:
    """A step that is pinned to an earlier version of a topic than its pipeline reads: of the columns it sees those of `schema`, by id."""

    step: str
    schema: RowSchema
    schema_id: int


@dataclass(frozen=True)
class Input:
    """A topic that the pipeline reads, with the schema version it has accepted (invariant 6).

    `schema` has every column of that version; steps read a subset. `askable`: its source can be asked for rows by their values.
    `held`: the steps that have not accepted that version, each once.
    """

    topic: str
    schema: RowSchema
    schema_id: int
    grade: Grade
    askable: bool = False
    held: tuple[Held, ...] = ()

    def seen_by(self, step: str) -> RowSchema:
        """The columns that there are for this step, as they are now."""
        ids = next(({f.id for f in h.schema.fields} for h in self.held if h.step == step), None)
        if ids is None:
            return self.schema
        return RowSchema(tuple(f for f in self.schema.fields if f.id in ids), self.schema.key)

    def held_at(self, step: str) -> Held:
        """What it is held to from now on, where the pipeline goes to a later version than this and the step does not."""
        return next((h for h in self.held if h.step == step), Held(step, self.schema, self.schema_id))


@dataclass(frozen=True)
class Projection:
    """One output column: its name and the DuckDB expression over the input's columns (quoted identifiers)."""

    name: str
    sql: str


@dataclass(frozen=True)
class Stateless:
    """Filter and project. `input` is a topic's or an earlier node's name; `where` is a DuckDB condition or None.

    `schema` is the output's row schema; its key columns are projections. Changelog semantics: design §5.4. Not `whole`: before images
    of the input are of grade key or none, and the output's key is made of the input's key columns; its before images are of grade none.
    """

    name: str
    input: str
    where: str | None
    projections: tuple[Projection, ...]
    schema: RowSchema
    whole: bool = True


@dataclass(frozen=True)
class Occurrence:
    """One mention of an input in a joined query, in whatever part of it (FROM, EXISTS, a nested list). `alias` is unique in the
    query; `input` is a topic's or node's name."""

    alias: str
    input: str


@dataclass(frozen=True)
class Edge:
    """An equality by which the walk goes between two occurrences: parent.parent_columns[i] = child.child_columns[i].

    The edges make a forest whose tops are the roots; parents are nearer to them. Every column is of the occurrence's input.
    """

    parent: str
    child: str
    parent_columns: tuple[str, ...]
    child_columns: tuple[str, ...]


@dataclass(frozen=True)
class Root:
    """An occurrence from which keys are taken: `columns` are its columns (or computed ones) that the step's `unit` carries."""

    alias: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Computed:
    """A column that the copy of `input` holds beside the input's own, for the walk: DuckDB text over the input's columns
    (quoted identifiers). Its name begins with the reserved prefix."""

    input: str
    name: str
    sql: str
    type: Type


@dataclass(frozen=True)
class Stateful:
    """A query over several rows or tables, kept current by recomputing what a change may affect (design §5.4).

    `sql` is DuckDB text in which each occurrence is the relation named by its quoted alias. What is recomputed at once is a
    *unit*: all the rows with the same values in the output columns `unit`, which are among the key's. Each root gives these
    values from columns of its own: the primary key of the first table of a join, the columns of GROUP BY or PARTITION BY, the
    USING columns of both sides of a FULL JOIN. `edges` stand in order from the roots outwards (an edge's parent is a root or the
    child of an earlier edge) and reach every occurrence. No unit column is ever null.

    `stamp` names a column of `schema` (text kind json) which `sql` does not give: source → position that the row has seen.
    `keeps` says what of the last output is kept: its rows, or (documents) a hash of each; then before images are of grade none.
    `read` says where the rows of other tables come from: local copies, or queries to the source databases.
    """

    name: str
    sql: str
    roots: tuple[Root, ...]
    unit: tuple[str, ...]
    occurrences: tuple[Occurrence, ...]
    edges: tuple[Edge, ...]
    schema: RowSchema
    computed: tuple[Computed, ...] = ()
    keeps: Literal["rows", "hash"] = "rows"
    read: Literal["copies", "source"] = "copies"
    stamp: str | None = None


@dataclass(frozen=True)
class Union:
    """UNION ALL: the events of several nodes of one schema, whose keys differ by a literal. Keeps nothing."""

    name: str
    inputs: tuple[str, ...]
    schema: RowSchema


Node = Stateless | Stateful | Union


def inputs_of(node: Node) -> tuple[str, ...]:
    """The topics and nodes that it reads, each once."""
    match node:
        case Stateless():
            return (node.input,)
        case Union():
            return node.inputs
    return tuple(dict.fromkeys(o.input for o in node.occurrences))


def reading_as(node: Node, topics: Mapping[str, str]) -> Node:
    """The node with these names in place of those of its inputs, where there are any."""
    match node:
        case Stateless():
            return replace(node, input=topics.get(node.input, node.input))
        case Union():
            return replace(node, inputs=tuple(topics.get(i, i) for i in node.inputs))
    occurrences = tuple(replace(o, input=topics.get(o.input, o.input)) for o in node.occurrences)
    return replace(node, occurrences=occurrences, computed=tuple(replace(c, input=topics.get(c.input, c.input)) for c in node.computed))


@dataclass(frozen=True)
class Output:
    """A node whose events are published: the topic's name and the grade of its before images."""

    node: str
    topic: str
    grade: Grade


@dataclass(frozen=True)
class SinkPlan:
    """A sink of a pipeline: `name` is unique in the mesh and stable, `topic` what it reads, `options` checked by its kind."""

    name: str
    kind: str
    topic: str
    options: Mapping[str, Any]

    @property
    def pipeline(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Plan:
    pipeline: str
    owner: str
    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    sinks: tuple[SinkPlan, ...]
    portable: bool = True

    @property
    def stateful(self) -> bool:
        return any(isinstance(n, Stateful) for n in self.nodes)


def outputs_of(plan: Plan) -> dict[str, RowSchema]:
    """The topics that it writes."""
    schemas = {n.name: n.schema for n in plan.nodes}
    return {o.topic: schemas[o.node] for o in plan.outputs}
