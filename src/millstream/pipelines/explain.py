"""A plan as text for people: what it reads, what each step makes and by which key, how changes travel, what leaves.

Invariant 10: options are shown as written, with ${NAME} left in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from millstream.errors import without_secrets
from millstream.events.types import RowSchema
from millstream.pipelines import reads
from millstream.pipelines.plan import Node, Plan, SinkPlan, Stateful, Stateless, Union
from millstream.pipelines.rollout import generation_of
from millstream.pipelines.sql.relations import RESERVED

_WHERE = {"copies": "kept as copies", "source": "asked at their sources"}


def explain(plan: Plan) -> str:
    """Several lines, without a newline at the end."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    generation = generation_of(plan.pipeline)
    called = f"product {generation[0]}, generation {generation[1]}" if generation else f"pipeline {plan.pipeline}"
    yield f"{called} (owner {plan.owner})"
    if not plan.portable:
        yield "runs locally only: portable: false"
    if plan.inputs:
        yield "reads"
        yield from _table(
            [
                (
                    i.topic,
                    f"schema {i.schema_id}" if i.schema_id else "schema not registered yet",
                    _key(i.schema),
                    f"before images {i.grade}",
                )
                for i in plan.inputs
            ]
        )
    for node in plan.nodes:
        yield f"step {node.name}"
        yield from (
            f"  sees the columns of schema {h.schema_id} of {i.topic}: it is pinned"
            for i in plan.inputs
            for h in i.held
            if h.step == node.name
        )
        yield from (f"  {line}" for line in _node(node))
        yield from _table([(f"  {f.name}", str(f.type), "key" if f.name in node.schema.key else "") for f in node.schema.fields])
    if plan.outputs:
        yield "publishes"
        yield from _table([(o.topic, f"from step {o.node}", _key(_schema(plan, o.node)), f"before images {o.grade}") for o in plan.outputs])
    if plan.sinks:
        yield "sinks"
        yield from _table([(s.name, f"reads {s.topic}", _options(s)) for s in plan.sinks])


def _node(node: Node) -> Iterator[str]:
    match node:
        case Stateless():
            yield from _stateless(node)
        case Union():
            yield f"reads {', '.join(node.inputs)}, all rows of each"
        case Stateful():
            yield from _stateful(node)


def _stateless(node: Stateless) -> Iterator[str]:
    yield f"reads {node.input}, row by row"
    if node.where:
        yield f"keeps where {node.where}"
    if not node.whole:
        yield "tells a row that does not match as a delete of its key: what it was before is not known"
    for p in node.projections:
        if p.sql != f'"{p.name}"':
            yield f"{p.name} = {p.sql}"


def _stateful(node: Stateful) -> Iterator[str]:
    inputs = {o.alias: o.input for o in node.occurrences}
    tables = f"joins {len(inputs)} tables" if len(inputs) > 1 else "reads one table"
    rows = "one row per" if node.unit == node.schema.key else "all rows at once of one"
    roots = " and ".join(_named(r.alias, inputs) for r in node.roots)
    yield f"{tables}, {_WHERE[node.read]}; {rows} {', '.join(node.unit)} of {roots}"
    yield from _kept(node)
    children: dict[str, list[str]] = {}
    for e in node.edges:
        pairs = ", ".join(f"{_shown(e.child)}.{c} = {_shown(e.parent)}.{p}" for p, c in zip(e.parent_columns, e.child_columns, strict=True))
        children.setdefault(e.parent, []).append(e.child)
        inputs[e.child] = f"{inputs[e.child]} by {pairs}"
    yield "a change leads upwards, from each table to the one above it:"
    for root in node.roots:
        yield from _tree(root.alias, inputs, children, "  ")
    yield f"sql {node.sql}"


def _kept(node: Stateful) -> Iterator[str]:
    """What stays on disk: columns of inputs, columns computed from them, and what tells how the output last was."""
    if node.read == "copies":
        for name, columns in reads.copied(node).items():
            yield f"keeps of {name}: {', '.join(sorted(columns))}"
        for c in node.computed:
            yield f"keeps of {c.input}: {_shown(c.name)} = {c.sql}"
    last = "a hash of each row as it was last published" if node.keeps == "hash" else "its own rows as they were last published"
    yield f"keeps {last}"
    if node.stamp:
        yield f"{node.stamp} says what of each source a row has seen"


def _tree(alias: str, inputs: Mapping[str, str], children: Mapping[str, Sequence[str]], indent: str) -> Iterator[str]:
    yield f"{indent}{_named(alias, inputs)}"
    for child in children.get(alias, ()):
        yield from _tree(child, inputs, children, indent + "  ")


def _named(alias: str, inputs: Mapping[str, str]) -> str:
    return f"{_shown(alias)}: {inputs[alias]}"


def _shown(alias: str) -> str:
    return alias.removeprefix(RESERVED)


def _key(schema: RowSchema) -> str:
    return f"key ({', '.join(schema.key)})"


def _schema(plan: Plan, name: str) -> RowSchema:
    return next(n.schema for n in plan.nodes if n.name == name)


def _options(sink: SinkPlan) -> str:
    return without_secrets(f"{sink.kind} {sink.options!r}")


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    for row in rows:
        yield ("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))).rstrip()
