"""The logical plan: what a compiled pipeline is, for the engine to run and for people to read.

Nodes stand in order: a node reads only topics and nodes before it. Nothing here runs anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from millstream.events.origin import Grade
from millstream.events.types import RowSchema


@dataclass(frozen=True)
class Input:
    """A topic that the pipeline reads, with the schema version it has accepted (invariant 6).

    `schema` has every column of that version; steps read a subset.
    """

    topic: str
    schema: RowSchema
    schema_id: int
    grade: Grade


@dataclass(frozen=True)
class Projection:
    """One output column: its name and the DuckDB expression over the input's columns (quoted identifiers)."""

    name: str
    sql: str


@dataclass(frozen=True)
class Stateless:
    """Filter and project. `input` is a topic's or an earlier node's name; `where` is a DuckDB condition or None.

    `schema` is the output's row schema; its key columns are projections. Changelog semantics: design §5.4.
    """

    name: str
    input: str
    where: str | None
    projections: tuple[Projection, ...]
    schema: RowSchema


@dataclass(frozen=True)
class Occurrence:
    """One mention of an input in a joined query. `alias` is unique in the query; `input` is a topic's or node's name."""

    alias: str
    input: str


@dataclass(frozen=True)
class Edge:
    """An equality by which the walk goes between two occurrences: parent.parent_columns[i] = child.child_columns[i].

    The edges make a tree whose top is the root; parents are nearer to it. Every column is of the occurrence's input.
    """

    parent: str
    child: str
    parent_columns: tuple[str, ...]
    child_columns: tuple[str, ...]


@dataclass(frozen=True)
class Stateful:
    """A joined query, kept current by recomputing the keys that a change may affect (design §5.4).

    `sql` is DuckDB text in which each occurrence is the relation named by its quoted alias. `edges` stand in order from the
    root outwards (an edge's parent is the root or the child of an earlier edge) and reach every occurrence. `root_key`
    names the root's columns that are its input's key, `schema.key` the output's columns that carry them, in the same order.
    """

    name: str
    sql: str
    root: str
    root_key: tuple[str, ...]
    occurrences: tuple[Occurrence, ...]
    edges: tuple[Edge, ...]
    schema: RowSchema


Node = Stateless | Stateful


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


@dataclass(frozen=True)
class Plan:
    pipeline: str
    owner: str
    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    sinks: tuple[SinkPlan, ...]

    @property
    def stateful(self) -> bool:
        return any(isinstance(n, Stateful) for n in self.nodes)
