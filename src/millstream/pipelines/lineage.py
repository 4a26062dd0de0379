"""Field lineage: of which fields every field of every step, topic and sink is made, over the plans of pipelines and products.

Pure. What a text does is `sql/origins.py`'s; here the texts' answers become one graph, from the columns of tables to the members of
documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from millstream.events.types import RowSchema, Type
from millstream.pipelines.definitions import Options
from millstream.pipelines.nodes import INNER
from millstream.pipelines.plan import Node, Plan, SinkPlan, Stateful, Stateless, Union
from millstream.pipelines.rollout import generation_of
from millstream.pipelines.sql.origins import STRENGTH, At, Kind, Made, Origins, column, filters, origins, together
from millstream.pipelines.sql.relations import quoted

_TARGETS = {"iceberg": ("table", "table"), "search": ("search index", "index"), "jsonl": ("file", "file")}


class Ref(NamedTuple):
    """A field of a holder by its path, through lists: ("cast", "name"). Without a path: the holder's rows, which there are."""

    holder: str
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ".".join((self.holder, *self.path))


@dataclass(frozen=True)
class Holder:
    """What has fields: a table's topic, a step, or a sink's target. `topic`: the one that a step publishes, or a sink reads.

    `name` of a step is PIPELINE.STEP, which is also its topic's; a step inside a step has `INNER` in it. Of a generation of a
    product it is the pipeline's name as its plan has it. `target` says what a sink writes to.
    """

    name: str
    what: Literal["table", "step", "sink"]
    schema: RowSchema
    pipeline: str = ""
    owner: str = ""
    topic: str = ""
    target: str = ""

    @property
    def inner(self) -> bool:
        return INNER in self.name

    @property
    def fields(self) -> list[tuple[str, ...]]:
        """The paths of all fields, nested ones too."""
        return list(paths(self.schema))


Kinds = Mapping[Ref, Kind]


@dataclass(frozen=True)
class Lineage:
    """`holders` by name, each after those it is made of. `into`: what each field, and each holder's rows, are made of, one hop."""

    holders: Mapping[str, Holder]
    into: Mapping[Ref, Kinds]

    @cached_property
    def out(self) -> Mapping[Ref, Kinds]:
        """What each field, and each holder's rows, are used for, one hop."""
        found: dict[Ref, dict[Ref, Kind]] = {}
        for target, sources in self.into.items():
            for source, kind in sources.items():
                found.setdefault(source, {})[target] = kind
        return found

    def made_of(self, ref: Ref) -> Kinds:
        """What it and its members are made of, one hop, as people see it: steps inside steps are gone through."""
        return self._hop(self._with_members(ref), self.into)

    def used_by(self, ref: Ref) -> Kinds:
        """What is made of it and its members, one hop, as people see it."""
        return self._hop(self._with_members(ref), self.out)

    def hops(self, ref: Ref, *, upstream: bool = False) -> dict[Ref, Kinds]:
        """From `ref` to the ends, hop by hop, as people see it: each field, and holder's rows, that is reached → where it leads."""
        edges, found = (self.into if upstream else self.out), {ref: self.made_of(ref) if upstream else self.used_by(ref)}
        waiting = [*found[ref]]
        while waiting:
            here = waiting.pop()
            if here not in found:
                found[here] = self._hop([here], edges)
                waiting += found[here]
        return found

    def upstream(self, ref: Ref) -> Kinds:
        """All that it is made of, to the tables. The kind is the weakest on the way, of the strongest way."""
        return _reached(self._with_members(ref), self.into)

    def downstream(self, ref: Ref) -> Kinds:
        """All that is made of it, to the sinks.

        Of a field all of whose values stay the same, nothing changes but these; where a holder's rows are among them, any of its
        fields may, in rows that come, go, or take the place of others.
        """
        return _reached(self._with_members(ref), self.out)

    def find(self, text: str) -> Ref | None:
        """The field, or the holder's rows, that a name with dots means: HOLDER[.FIELD…]."""
        for name in self._around(text):
            path = next((p for p in self.holders[name].fields if ".".join(p) == text[len(name) + 1 :]), None)
            if text == name or path is not None:
                return Ref(name, path or ())
        return None

    def near(self, text: str) -> list[str]:
        """What may have been meant: the fields of the holder that the name begins with, else the holders."""
        around = self._around(text)
        return (
            [str(Ref(around[0], p)) for p in self.holders[around[0]].fields]
            if around
            else [n for n, h in self.holders.items() if not h.inner]
        )

    def _around(self, text: str) -> list[str]:
        """The holders that the name begins with, the nearest first."""
        found = [name for name, h in self.holders.items() if not h.inner and (text == name or text.startswith(name + "."))]
        return sorted(found, key=len, reverse=True)

    def _with_members(self, ref: Ref) -> list[Ref]:
        if not ref.path:
            return [ref]
        return [Ref(ref.holder, p) for p in self.holders[ref.holder].fields if p[: len(ref.path)] == ref.path]

    def _hop(self, refs: Sequence[Ref], edges: Mapping[Ref, Kinds]) -> Kinds:
        found = _reached(refs, edges, through=lambda r: self.holders[r.holder].inner)
        return {r: kind for r, kind in found.items() if not self.holders[r.holder].inner}


def _reached(start: Sequence[Ref], edges: Mapping[Ref, Kinds], through: Callable[[Ref], bool] = lambda ref: True) -> dict[Ref, Kind]:
    """What the edges lead to from `start`: a way's kind is its weakest edge's, and the strongest way counts."""
    found: dict[Ref, Kind] = {}
    front: list[tuple[Ref, Kind]] = [(ref, "value") for ref in start]
    while front:
        here, so_far = front.pop()
        for there, kind in edges.get(here, {}).items():
            weakest = max(so_far, kind, key=STRENGTH.__getitem__)
            if there not in found or STRENGTH[weakest] < STRENGTH[found[there]]:
                found[there] = weakest
                if through(there):
                    front.append((there, weakest))
    return found


def lineage(plans: Sequence[Plan], tables: Mapping[str, RowSchema] | None = None) -> Lineage:
    """Of plans in any order. A topic that no plan publishes is a table's; `tables` are those that no step may read, and their columns."""
    graph = _Graph()
    published = {o.topic: f"{plan.pipeline}.{o.node}" for plan in plans for o in plan.outputs}
    read = {i.topic: i.schema for plan in plans for i in plan.inputs}
    for topic, schema in {**(tables or {}), **read}.items():
        if topic not in published:
            graph.table(topic, schema)
    for plan in plans:
        graph.steps(plan, published)
    for plan in plans:
        graph.sinks(plan, published)
    return Lineage(graph.holders, graph.into)


def alike(was: Plan, now: Plan) -> bool:
    """Whether all that `now` makes is made as it was, of what is left. A name without its table may mean another's column once its own
    is gone: that compiles, and is something else."""
    before, after = lineage([was]), lineage([now])
    left = {Ref(h.name, path) for h in after.holders.values() for path in [(), *h.fields]}
    return all(kinds == {r: k for r, k in before.into.get(ref, {}).items() if r in left} for ref, kinds in after.into.items())


def paths(schema: RowSchema) -> Iterator[tuple[str, ...]]:
    """Every field's path, and after it those of its members."""
    for f in schema.fields:
        yield from _paths((f.name,), f.type)


def _paths(path: tuple[str, ...], type_: Type) -> Iterator[tuple[str, ...]]:
    yield path
    while type_.element is not None:
        type_ = type_.element
    for f in type_.fields:
        yield from _paths((*path, f.name), f.type)


class _Graph:
    def __init__(self) -> None:
        self.holders: dict[str, Holder] = {}
        self.into: dict[Ref, Kinds] = {}

    def table(self, topic: str, schema: RowSchema) -> None:
        self.holders[topic] = Holder(topic, "table", schema, topic=topic)

    def steps(self, plan: Plan, published: Mapping[str, str]) -> None:
        topics = {o.node: o.topic for o in plan.outputs}
        names = {n.name: f"{plan.pipeline}.{n.name}" for n in plan.nodes}
        schemas = {i.topic: i.schema for i in plan.inputs} | {n.name: n.schema for n in plan.nodes}
        for node in plan.nodes:
            name = names[node.name]
            self.holders[name] = Holder(name, "step", node.schema, plan.pipeline, plan.owner, topics.get(node.name, ""))
            inputs, found = _of_node(node, schemas)
            ref = {alias: names.get(i) or published.get(i, i) for alias, i in inputs.items()}
            self._edges(name, node.schema, found, ref)

        self._idle([name for name in names.values() if INNER in name])

    def _idle(self, inner: Sequence[str]) -> None:
        """What a step inside a step makes and nobody reads has no effect, but the step names what it is made of: as it does in a text."""
        read = {source for sources in self.into.values() for source in sources}
        for ref in [r for r in self.into if r.holder in inner and r not in read and self.into[r]]:
            step = Ref(ref.holder.partition(INNER)[0])
            self.into[step] = {**self.into[step], ref: "filter"}

    def _edges(self, name: str, schema: RowSchema, found: Origins, holders: Mapping[str, str]) -> None:
        def refs(of: Mapping[At, Kind]) -> dict[Ref, Kind]:
            made: dict[Ref, Kind] = {}
            for (alias, *path), kind in of.items():
                ref = Ref(holders[alias], tuple(path))
                if ref not in made or STRENGTH[kind] < STRENGTH[made[ref]]:  # two mentions of one input
                    made[ref] = kind
            return made

        by_key: list[Mapping[At, Kind]] = [_as_key(found.columns[key].all()) for key in schema.key]
        self.into[Ref(name)] = refs(together(found.rows, *by_key))
        for first, *rest in paths(schema):
            self.into[Ref(name, (first, *rest))] = refs(found.columns[first].at(rest)) if first in found.columns else {}

    def sinks(self, plan: Plan, published: Mapping[str, str]) -> None:
        of = generation_of(plan.outputs[-1].topic) if plan.outputs else None
        for sink in plan.sinks:
            read = published.get(sink.topic, sink.topic)
            if read not in self.holders:  # a table's topic that sinks alone read, and that was not told: its columns are in no plan
                continue
            schema = self.holders[read].schema
            name, target = sink.name, _target(sink)
            if of and of[0] == plan.pipeline:  # the product as such, of whatever generation
                name, target = plan.pipeline + name[name.index(".") :], target.removesuffix(f"@{of[1]}")
            self.holders[name] = Holder(name, "sink", schema, plan.pipeline, plan.owner, read, target)
            self.into[Ref(name)] = {Ref(read): "filter"}
            for path in paths(schema):
                self.into[Ref(name, path)] = {Ref(read, path): "value"}


def _of_node(node: Node, schemas: Mapping[str, RowSchema]) -> tuple[dict[str, str], Origins]:
    """alias → input, and what its text is made of by aliases."""
    match node:
        case Stateless():
            items = ", ".join(f"{p.sql} AS {quoted(p.name)}" for p in node.projections)
            sql = f"SELECT {items} FROM {quoted(node.input)}{f' WHERE {node.where}' if node.where else ''}"
            return {node.input: node.input}, origins(sql, {node.input: schemas[node.input]})
        case Stateful():
            return {o.alias: o.input for o in node.occurrences}, origins(node.sql, {o.alias: schemas[o.input] for o in node.occurrences})
        case Union():
            return {i: i for i in node.inputs}, _of_union(node)


def _of_union(node: Union) -> Origins:
    columns = {f.name: _beside([column(i, f.name, f.type) for i in node.inputs]) for f in node.schema.fields}
    return Origins(columns, filters((i,) for i in node.inputs))


def _beside(values: Sequence[Made]) -> Made:
    return Made(together(*(v.of for v in values)), {n: _beside([v.members[n] for v in values]) for n in values[0].members})


def _as_key(of: Mapping[At, Kind]) -> dict[At, Kind]:
    return {at: "filter" if kind == "filter" else "key" for at, kind in of.items()}


def _target(sink: SinkPlan) -> str:
    what, option = _TARGETS.get(sink.kind, (sink.kind, ""))
    written = sink.options.written if isinstance(sink.options, Options) else sink.options  # invariant 10
    return f"{what} {written[option]}" if option in written else what
