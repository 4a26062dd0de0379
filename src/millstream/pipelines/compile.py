"""Definition → plan: what each step reads, its key and schema, the join tree, what is published and where it goes.

Pure: `known` says which topics there are. Reading files is `project.py`'s, running plans the engine's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sqlglot import exp

from millstream.events.origin import Grade
from millstream.events.types import RowSchema
from millstream.pipelines import atsource, descriptions, products, pushdown
from millstream.pipelines.definitions import PipelineDefinition, Project, StepDefinition
from millstream.pipelines.diagnostics import Diagnostic, InvalidProject
from millstream.pipelines.keys import Asked, Note
from millstream.pipelines.nodes import INNER, StepNodes
from millstream.pipelines.plan import Input, Node, Output, Plan, SinkPlan, Stateful, Stateless, inputs_of, reading_as
from millstream.pipelines.sql.dialect import parse
from millstream.pipelines.sql.mistakes import Mistakes, suggestion
from millstream.pipelines.sql.places import names_in
from millstream.pipelines.sql.relations import quoted, table_name

_READS_PRODUCT = "read the tables that it is made of, or make what both need a step of a pipeline, which the product reads too"
_SINKS_PRODUCT = "put the sink into the product's own sinks:"

History = Mapping[str, Sequence[RowSchema]]
"""Topic → the versions of its schema so far, the one in force last: a column of that keeps its id by name, and no id is used again."""


def past(versions: Sequence[RowSchema], now: RowSchema) -> list[RowSchema]:
    """Of a topic's registered versions those that were ever in force, where `now` is: a later one is of a change that was cut off, which
    gives the same ids when it is done again."""
    fields = descriptions.undescribed(now).fields
    last = max((i for i, v in enumerate(versions) if descriptions.undescribed(v).fields == fields), default=len(versions))
    return [*versions[:last], now]


def compile_pipeline(
    definition: PipelineDefinition, known: Mapping[str, Input], history: History | None = None, published: Collection[str] = ()
) -> Plan:
    """The plan over the topics of `known`, which are by the names that definitions use: a later incarnation has another. Steps in
    `published` (read by other pipelines), those that a sink reads and those that nothing reads become topics. Raises InvalidProject with
    every mistake.
    """
    return _Compile(definition, known, history or {}, published, broken=()).plan()


def compile_all(
    project: Project, known: Mapping[str, Input], history: History | None = None, accepted: Mapping[str, Mapping[str, Input]] | None = None
) -> list[Plan]:
    """The plans of all pipelines, each after those it reads. `known` holds the source topics, and the pipelines' own as far as
    they are registered: a topic that is not yet, or whose schema changes, is read with schema id 0, which `apply` replaces.
    `accepted`: of a pipeline, the topics that it reads in another version than `known` has.

    Raises InvalidProject with every mistake of every pipeline.
    """
    by_name = {p.name: p for p in project.pipelines}
    known = atsource.askable(project, known)
    reads = {p.name: _reads(p, by_name) for p in project.pipelines}
    diagnostics: list[Diagnostic] = []
    order = _order(project.pipelines, reads, diagnostics)
    heads = [(q, s) for read in reads.values() for q, s, _ in read] + [_split(t) for p in project.products for t, _ in products.reads(p)]
    published = {name: {s for q, s in heads if q == name} for name in by_name}
    topics = of_sources(project, known)
    diagnostics += _misdescribed(project, topics, history or {})
    plans: list[Plan] = []
    broken = set(by_name) - set(order)
    for name in order:
        compiling = _Compile(
            by_name[name], reading(topics, accepted, name), history or {}, published[name], broken, [p.name for p in project.products]
        )
        try:
            plan = compiling.plan()
        except InvalidProject as e:
            diagnostics.extend(e.diagnostics)
            broken.add(name)
            continue
        plans.append(plan)
        topics.update({o.topic: _as_input(plan, o, known) for o in plan.outputs})
    if diagnostics:
        raise InvalidProject(diagnostics)
    return plans


def _misdescribed(project: Project, topics: Mapping[str, Input], history: History) -> list[Diagnostic]:
    """Columns that a source's file describes and its tables never had, as far as these are known."""
    found: list[Diagnostic] = []
    for source in project.sources:
        for i, (table, topic) in enumerate(zip(source.tables, source.topics, strict=True)):
            if topic in topics and table in source.described:
                versions = [topics[topic].schema, *history.get(topics[topic].topic, ())]
                found += descriptions.mistakes(source.described[table], source.places, f"sources.{source.name}.tables[{i}]", versions)
    return found


def reading(topics: Mapping[str, Input], accepted: Mapping[str, Mapping[str, Input]] | None, name: str) -> dict[str, Input]:
    """The topics as the pipeline of this name reads them."""
    own = (accepted or {}).get(name, {})
    return {t: replace(own[t], askable=i.askable) if t in own else i for t, i in topics.items()}


def of_sources(project: Project, known: Mapping[str, Input]) -> dict[str, Input]:
    """Without the topics that pipelines and products write."""
    written = {p.name for p in project.pipelines} | {p.name for p in project.products}
    return {name: i for name, i in known.items() if name.partition(".")[0].partition("@")[0] not in written}


def readable(project: Project, plans: Sequence[Plan], known: Mapping[str, Input]) -> dict[str, Input]:
    """What a product may read: source topics, and the outputs of these plans."""
    return of_sources(project, known) | {o.topic: _as_input(plan, o, known) for plan in plans for o in plan.outputs}


def _as_input(plan: Plan, output: Output, known: Mapping[str, Input]) -> Input:
    schema = next(n.schema for n in plan.nodes if n.name == output.node)
    registered = known.get(output.topic)
    same = registered is not None and descriptions.undescribed(registered.schema) == descriptions.undescribed(schema)
    return Input(output.topic, schema, registered.schema_id if registered and same else 0, output.grade)


class _Compile:
    def __init__(
        self,
        definition: PipelineDefinition,
        known: Mapping[str, Input],
        history: History,
        published: Collection[str],
        broken: Collection[str],
        product_names: Collection[str] = (),
    ) -> None:
        self._definition, self._known, self._history, self._published = definition, known, history, published
        self._products, self._evolving = product_names, definition.evolving
        self._broken = set(broken)  # pipelines and steps that do not compile: what reads them is not complained of
        self._diagnostics: list[Diagnostic] = []
        self._nodes: dict[str, Node] = {}
        self._grades: dict[str, Grade] = {}  # of the nodes' before images

    def plan(self) -> Plan:
        d = self._definition
        for step in d.steps:
            nodes = self._step(step)
            if nodes is None:
                self._broken.add(step.name)
            else:
                self._nodes.update({n.name: n for n in nodes})
        sinks = self._sinks()
        if d.read == "source":
            self._read_at_source()
        if self._diagnostics:
            raise InvalidProject(self._diagnostics)
        outputs = self._outputs({s.topic for s in sinks})
        read = {i for n in self._nodes.values() for i in inputs_of(n)}
        inputs = {name: self._known[name] for name in sorted(read) if name in self._known and name not in self._nodes}
        physical = {name: i.topic for name, i in inputs.items() if i.topic != name}
        made = tuple(reading_as(n, physical) if physical else n for n in self._nodes.values())
        return Plan(d.name, d.owner, tuple(inputs.values()), made, outputs, sinks, d.portable)

    def _read_at_source(self) -> None:
        """The joined steps ask the sources' databases, where they can."""
        d = self._definition
        mine = ".".join(d.steps[0].path.split(".")[:2]) if d.steps else ""  # a pipeline's path, or a product's
        for node in [n for n in self._nodes.values() if isinstance(n, Stateful)]:
            self._diagnostics += [d.mistake(f"{mine}.read", *said) for said in atsource.mistakes(node, self._known)]
            self._nodes[node.name] = replace(node, read="source")

    # ---- steps ----------------------------------------------------------------------------------------------------
    def _step(self, step: StepDefinition) -> list[Node] | None:
        mistakes = Mistakes(portable=self._definition.portable)
        before = len(self._diagnostics)
        select = parse(step.sql, mistakes)
        if select is not None:
            self._instead(select)
            self._own_steps(step, select, mistakes)
        if select is not None and any(_head(name) in self._broken for name, _ in _tables(select)):
            return None  # what it reads does not compile: nothing can be said of it
        made = self._made(step, select, mistakes) if select is not None and not mistakes else None
        for m in mistakes.found:
            self._sql_mistake(step, m.offset, m.code, m.message, m.cure)
        return made if len(self._diagnostics) == before else None

    def _instead(self, select: exp.Query) -> None:
        """Have the step read what is derived for it (`push_down`)."""
        d, read = self._definition, {name for name, _ in _tables(select)}
        for name in read & set(d.instead):
            other = d.instead[name]
            types = {f.name: f.type for f in self._known[other.topic].schema.fields} if other.topic in self._known else {}
            for unlike in pushdown.unlike(other.compared, types):
                message = f"push_down: {unlike}, which the source may compare otherwise than a step"
                cure = "put that part of the condition into a step behind this one, or leave push_down away"
                self._diagnostics.append(d.mistake(f"pipelines.{d.name}.push_down", "push_down", message, cure))
        pushdown.instead(select, {name: d.instead[name].topic for name in read & set(d.instead)})

    def _made(self, step: StepDefinition, select: exp.Query, mistakes: Mistakes) -> list[Node] | None:
        asked = Asked(step.key, self._key_mistake(step)) if step.key is not None else None
        schemas = self._schemas(step.name)
        building = StepNodes(step.name, schemas, mistakes)
        try:
            nodes = building.build(select, asked, self._history.get(f"{self._definition.name}.{step.name}", ()))
        except RecursionError:
            mistakes.refuse(0, "too_deep")
            return None
        made: list[Node] = []
        for node in nodes or ():
            graded = self._graded(node, schemas, mistakes)
            made.append(self._described(step, graded) if node.name == step.name else graded)
            schemas[node.name] = node.schema
        return made if nodes is not None else None

    def _described(self, step: StepDefinition, node: Node) -> Node:
        """With what the step says of its columns."""
        d, said = self._definition, step.description
        versions = [node.schema, *self._history.get(f"{d.name}.{step.name}", ())]
        self._diagnostics += descriptions.mistakes(said, d.places, step.path.removesuffix(".root"), versions)
        return replace(node, schema=descriptions.described(node.schema, said))

    def _key_mistake(self, step: StepDefinition) -> Note:
        def note(i: int | None, code: str, message: str, cure: str) -> None:
            path = f"{step.path}.key" + (f"[{i}]" if i is not None else "")
            self._diagnostics.append(self._definition.mistake(path, code, message, cure))

        return note

    def _graded(self, node: Node, schemas: Mapping[str, RowSchema], mistakes: Mistakes) -> Node:
        """The node with what its before images can be. Where they are not whole, a row that leaves a stateless step is told by its
        key, which must be in what is left of it."""
        grades = {i: self._grades[i] if i in self._grades else self._known[i].grade for i in inputs_of(node)}
        partial = not isinstance(node, Stateful) and any(g != "whole" for g in grades.values())
        self._grades[node.name] = "none" if partial else "whole"
        if not partial or not isinstance(node, Stateless):
            return node
        kept = {quoted(k) for k in schemas[node.input].key}
        lost = [p.name for p in node.projections if p.name in node.schema.key and p.sql not in kept and names_in(p.sql)]
        if lost:
            message = (
                f"{node.input} has before images of grade {grades[node.input]}; the key column {lost[0]} would be lost when a row goes"
            )
            cure = "make the key of the input's key columns alone, or make before images whole (Postgres: REPLICA IDENTITY FULL)"
            mistakes.add(0, "before_not_whole", message, cure)
        return replace(node, whole=False)

    def _own_steps(self, step: StepDefinition, select: exp.Query, mistakes: Mistakes) -> None:
        """Notes steps that are read before they are there, or by their topic's name."""
        all_steps, name = {s.name for s in self._definition.steps}, self._definition.name
        for table, node in _tables(select):
            if _product(table) in self._products and "." in table:
                mistakes.add(
                    node, "reads_product", f"{_product(table)} is a product: its topic changes with each generation", _READS_PRODUCT
                )
            elif table == step.name:
                mistakes.add(node, "reads_itself", f"step {table} reads itself", "name a topic or an earlier step")
            elif table in all_steps and table not in self._nodes and table not in self._broken:
                mistakes.add(node, "step_later", f"step {table} comes later", f"put {table} before {step.name}")
            elif table in self._nodes and self._evolving.of(step.name) == "pinned" and self._evolving.of(table) == "follow":
                message = f"step {step.name} is pinned and reads step {table}, which follows: nothing between them could hold a change up"
                cure = (
                    f"write evolve: pinned at {table} too, or evolve: follow at {step.name}, or make {step.name} a step of another "
                    f"pipeline, which reads {name}.{table}"
                )
                mistakes.add(node, "pinned_reads_following", message, cure)
            elif table.startswith(name + ".") and table[len(name) + 1 :] in all_steps:
                mistakes.add(
                    node,
                    "own_topic",
                    f"{table} is a step of this pipeline",
                    f"write {table[len(name) + 1 :]}, which is read without a topic",
                )

    def _schemas(self, step: str) -> dict[str, RowSchema]:
        """What this step may read."""
        return {name: i.seen_by(step) for name, i in self._known.items()} | {n.name: n.schema for n in self._nodes.values()}

    def _sql_mistake(self, step: StepDefinition, offset: int, code: str, message: str, cure: str) -> None:
        path = step.part(offset)
        line, column = step.marks[min(offset, len(step.marks) - 1)]
        file = self._definition.place(path).file
        self._diagnostics.append(Diagnostic(file, line, column, path, code, message, cure))

    # ---- what leaves the pipeline ------------------------------------------------------------------------------------
    def _sinks(self) -> tuple[SinkPlan, ...]:
        name, plans = self._definition.name, []
        counts: dict[str, int] = {}
        for sink in self._definition.sinks:
            own = sink.input.removeprefix(name + ".")
            if own in self._broken or _head(sink.input) in self._broken:
                continue
            if _product(sink.input) in self._products and "." in sink.input:
                message = f"{_product(sink.input)} is a product: its topic changes with each generation"
                self._diagnostics.append(self._definition.mistake(f"{sink.path}.from", "reads_product", message, _SINKS_PRODUCT))
                continue
            if own not in self._nodes and sink.input not in self._known:
                steps = list(self._nodes)
                cure = suggestion(sink.input, [*steps, *self._known], "steps and topics")
                path = f"{sink.path}.from"
                self._diagnostics.append(self._definition.mistake(path, "unknown_input", f"there is no step or topic {sink.input}", cure))
                continue
            topic = f"{name}.{own}" if own in self._nodes else self._known[sink.input].topic
            called = f"{name}.{own if own in self._nodes else sink.input}.{sink.kind}"
            counts[called] = counts.get(called, 0) + 1
            plans.append(SinkPlan(called if counts[called] == 1 else f"{called}.{counts[called]}", sink.kind, topic, sink.options))
        return tuple(plans)

    def _outputs(self, sunk: Collection[str]) -> tuple[Output, ...]:
        read = {i for n in self._nodes.values() for i in inputs_of(n)}
        topics = {n: f"{self._definition.name}.{n}" for n in self._nodes if INNER not in n}
        return tuple(
            Output(n, topic, self._grades[n]) for n, topic in topics.items() if topic in sunk or n in self._published or n not in read
        )


def _tables(select: exp.Query) -> list[tuple[str, exp.Table]]:
    """The tables named in any part of it, those of its WITH queries left out."""
    inner = {c.alias.casefold() for c in select.find_all(exp.CTE)}
    return [(table_name(t), t) for t in select.find_all(exp.Table) if table_name(t).casefold() not in inner]


def _head(name: str) -> str:
    return name.partition(".")[0]


def _split(topic: str) -> tuple[str, str]:
    head, _, rest = topic.partition(".")
    return head, rest


def _product(name: str) -> str:
    return _head(name).partition("@")[0]


# ---- pipelines that read each other -----------------------------------------------------------------------------------
_Read = tuple[str, str, str]  # pipeline, step, path of the definition that reads it


def _reads(definition: PipelineDefinition, pipelines: Mapping[str, PipelineDefinition]) -> list[_Read]:
    found: list[tuple[str, str]] = []
    for step in definition.steps:
        select = parse(step.sql, Mistakes())
        found += [(name, f"{step.path}.sql") for name, _ in _tables(select)] if select is not None else []
    found += [(sink.input, f"{sink.path}.from") for sink in definition.sinks]
    heads = ((name.partition("."), path) for name, path in found)
    return [(head, step, path) for (head, dot, step), path in heads if dot and head in pipelines and head != definition.name]


def _order(definitions: Sequence[PipelineDefinition], reads: Mapping[str, list[_Read]], diagnostics: list[Diagnostic]) -> list[str]:
    """The pipelines' names, each after those it reads; those on or behind a cycle are left out and noted."""
    order: list[str] = []
    left = {d.name: d for d in definitions}
    while ready := [n for n in left if all(q not in left for q, _, _ in reads[n])]:
        order += ready
        for name in ready:
            del left[name]
    seen: set[str] = set()
    for start in left:
        cycle = _cycle(start, reads, left)
        if not cycle or seen & set(cycle):
            continue
        seen |= set(cycle)
        path = next(p for q, _, p in reads[cycle[0]] if q == cycle[1 % len(cycle)])
        shown = " → ".join([*cycle, cycle[0]])
        cure = "let one of them read a source instead, or make them one pipeline"
        diagnostics.append(left[cycle[0]].mistake(path, "cycle", f"pipelines read each other: {shown}", cure))
    return order


def _cycle(start: str, reads: Mapping[str, list[_Read]], left: Collection[str]) -> list[str]:
    """The cycle that following the first unmet read from `start` comes into."""
    path: list[str] = []
    while start not in path:
        path.append(start)
        start = next(q for q, _, _ in reads[start] if q in left)
    return path[path.index(start) :]
