"""A step's SQL → its nodes: one for the step, and one before it for each WITH query, query in FROM and branch of UNION ALL.

Such inner nodes are called `step#name`; they are fused like any step, and have no topic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from millstream.events.types import RowSchema
from millstream.pipelines.keys import Asked, Key, evolved, key_of, union_key
from millstream.pipelines.plan import Node, Occurrence, Projection, Stateful, Stateless, Union, inputs_of
from millstream.pipelines.sql.block import Block, refuse_clauses
from millstream.pipelines.sql.joins import forest
from millstream.pipelines.sql.mistakes import Mistakes
from millstream.pipelines.sql.query import Query, bind
from millstream.pipelines.sql.relations import table_name, unknown_table
from millstream.pipelines.sql.unions import aligned, branches

INNER = "#"  # between a step's name and that of a query inside it; no user's name has it


@dataclass(frozen=True)
class Scope:
    """`named`: the WITH queries that can be read here, by name in small letters → their node; None: it has a mistake of its own."""

    named: Mapping[str, str | None]


class StepNodes:
    """Builds the nodes of one step. `known` are the row schemas that it may read, by name."""

    def __init__(self, step: str, known: Mapping[str, RowSchema], mistakes: Mistakes) -> None:
        self._step, self._known, self._mistakes = step, dict(known), mistakes
        self.queries: list[Query] = []  # those that have a key, in the order in which they were bound
        self._nodes: dict[str, Node] = {}
        self._names: set[str] = {step}

    def build(self, tree: exp.Query, asked: Asked | None, history: Sequence[RowSchema]) -> list[Node] | None:
        """The nodes in order, the step's own last; None where there are mistakes."""
        node = self._query(tree, self._step, Scope({}), asked, history)
        if node is None or self._mistakes:
            return None
        wanted, kept = {self._step}, []
        for n in reversed(self._nodes.values()):  # a WITH query that nothing reads is checked and not run
            if n.name in wanted:
                kept.append(n)
                wanted.update(inputs_of(n))
        return kept[::-1]

    def name(self, outer: str, wanted: str) -> str:
        """A free name for a node inside `outer`."""
        name, count = f"{outer}{INNER}{wanted}", 1
        while name.casefold() in self._names:
            count += 1
            name = f"{outer}{INNER}{wanted}_{count}"
        self._names.add(name.casefold())
        return name

    def schema(self, name: str) -> RowSchema | None:
        return self._known.get(name)

    @property
    def known(self) -> Mapping[str, RowSchema]:
        """What a person may name."""
        return {name: s for name, s in self._known.items() if INNER not in name}

    # ---- queries ----------------------------------------------------------------------------------------------------------
    def _query(
        self, tree: exp.Query, name: str, scope: Scope, asked: Asked | None = None, history: Sequence[RowSchema] = ()
    ) -> Node | None:
        while isinstance(tree, exp.Subquery):
            refuse_clauses(tree, {"this", "alias"}, self._mistakes)
            tree = tree.this
        scope = self._with(tree, name, scope)
        node: Node | None = self._union(tree, name, scope, asked, history) if isinstance(tree, exp.SetOperation) else None
        if isinstance(tree, exp.Select):
            bound = self._select(tree, name, scope, asked)
            node = self._node(name, *bound, history) if bound else None
        if node is not None:
            self._nodes[name] = node
            self._known[name] = node.schema
        return node

    def _with(self, tree: exp.Query, name: str, scope: Scope) -> Scope:
        with_ = tree.args.get("with_")
        if with_ is None:
            return scope
        if with_.args.get("recursive"):
            self._mistakes.refuse(with_.expressions[0], "recursive")
            return Scope({**scope.named, **{c.alias.casefold(): None for c in with_.expressions}})
        named = dict(scope.named)
        for cte in with_.expressions:
            called = str(cte.alias)
            if cte.args["alias"].args.get("columns"):
                self._mistakes.refuse(cte.args["alias"], "renamed_columns")
            if cte.args.get("materialized") is not None:
                self._mistakes.refuse(cte, "materialized")
            inner = self.name(name, called)
            node = self._query(cte.this, inner, Scope(dict(named))) if isinstance(cte.this, exp.Query) else None
            named[called.casefold()] = inner if node else None
        return Scope(named)

    def _select(self, select: exp.Select, name: str, scope: Scope, asked: Asked | None) -> tuple[Query, Key] | None:
        before = len(self._mistakes.found)
        query = bind(select, _Inputs(self, name, scope, self._mistakes), self._mistakes)
        if query is None or len(self._mistakes.found) > before:
            return None
        key = key_of(query, asked, self._mistakes)
        if key is None:
            return None
        self.queries.append(query)
        return query, key

    def _union(self, tree: exp.SetOperation, name: str, scope: Scope, asked: Asked | None, history: Sequence[RowSchema]) -> Union | None:
        found = branches(tree, self._mistakes)
        if found is None:
            return None
        bound: list[tuple[str, tuple[Query, Key] | None]] = []
        for i, branch in enumerate(found, 1):
            inner = self.name(name, str(i))
            branch_scope = self._with(branch, inner, scope)
            first = bound[0][1] if bound else None
            if first is not None:
                _name_items(branch, [c.name for c in first[0].columns])
            bound.append((inner, self._select(branch, inner, branch_scope, None)))
        sound = [(inner, b[0], b[1]) for inner, b in bound if b]
        if len(sound) < len(bound):
            return None
        queries = aligned([q for _, q, _ in sound], self._mistakes)
        if queries is None:
            return None
        own = [_renamed(key, q, a) for (_, q, key), a in zip(sound, queries, strict=True)]
        names = union_key(queries, [q for _, q, _ in sound], own, asked, self._mistakes)
        if names is None:
            return None
        for (inner, _, _), query, key in zip(sound, queries, own, strict=True):
            node = self._node(inner, query, replace(key, names=names), history, fills=False)
            self._nodes[inner], self._known[inner] = node, node.schema
        return Union(name, tuple(inner for inner, _, _ in sound), evolved(queries[0].columns, names, history))

    # ---- nodes ------------------------------------------------------------------------------------------------------------
    def _node(self, name: str, query: Query, key: Key, history: Sequence[RowSchema], *, fills: bool = True) -> Stateless | Stateful:
        schema = evolved(query.columns, key.names, history)
        if query.stateless:
            projections = tuple(Projection(c.name, c.sql) for c in query.columns)
            return Stateless(name, query.root.input, query.block.where, projections, _filled(schema, query) if fills else schema)
        edges, lost = forest([r.alias for r in key.roots], query.block.part)
        self._unreached(query.block, lost)
        return Stateful(
            name=name,
            sql=query.sql,
            roots=key.roots,
            unit=key.unit,
            occurrences=tuple(_occurrences(query.block)),
            edges=tuple(edges),
            schema=schema,
            computed=key.computed,
        )

    def _unreached(self, block: Block, lost: Sequence[str]) -> None:
        for join in block.joins:
            if join.relation.alias in lost:
                self._mistakes.refuse(join.offset, "unreached", table=join.relation.shown)
        if block.root is not None and block.root.alias in lost:
            self._mistakes.refuse(block.offset, "unreached", table=block.root.shown)
        for inner in block.inner:
            self._unreached(inner, lost)


def _filled(schema: RowSchema, query: Query) -> RowSchema:
    """What old rows have in a column, they have in what a filter or projection passes on of it as it is. (A stateful step says all its
    rows again.)"""
    of = {c.name: query.root.schema[c.source[1]].fill for c in query.columns if c.source}
    return replace(schema, fields=tuple(replace(f, fill=of.get(f.name)) for f in schema.fields))


def _name_items(branch: exp.Select, names: Sequence[str]) -> None:
    """What a branch computes without a name has the first branch's."""
    items = branch.expressions
    if len(items) == len(names):
        for item, name in zip(list(items), names, strict=True):
            if not isinstance(item, exp.Alias | exp.Column | exp.Star):
                item.replace(exp.Alias(this=item.copy(), alias=exp.to_identifier(name, quoted=True)))


def _renamed(key: Key, was: Query, now: Query) -> Key:
    """The key of a branch by the names that its columns get."""
    names = {a.name: b.name for a, b in zip(was.columns, now.columns, strict=True)}
    return replace(key, names=tuple(names[n] for n in key.names), unit=tuple(names[n] for n in key.unit))


def _occurrences(block: Block) -> list[Occurrence]:
    own = [Occurrence(r.alias, r.input) for r in block.scope.met]
    return own + [o for inner in block.inner for o in _occurrences(inner)]


@dataclass(frozen=True)
class _Inputs:
    """What FROM may name in one query: WITH queries, topics, earlier steps; and queries, which become nodes."""

    nodes: StepNodes
    name: str
    scope: Scope
    mistakes: Mistakes

    def table(self, node: exp.Table) -> tuple[str, RowSchema] | None:
        name = table_name(node)
        if len(node.parts) == 1 and name.casefold() in self.scope.named:
            inner = self.scope.named[name.casefold()]
            schema = self.nodes.schema(inner) if inner else None
            return (inner, schema) if inner and schema else None
        schema = self.nodes.known.get(name)
        if schema is None:
            unknown_table(name, self.nodes.known, self.mistakes, node)
            return None
        return name, schema

    def derived(self, node: exp.Subquery) -> tuple[str, RowSchema] | None:
        inner = self.nodes.name(self.name, str(node.alias) or "1")
        made = self.nodes._query(node.this, inner, self.scope)
        return (inner, made.schema) if made else None
