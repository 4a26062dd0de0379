"""`millstream preview`: what a step makes of the rows that there are, before it is applied. Nothing is changed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from cyclopts import Parameter

from millstream.cli import discover
from millstream.cli.exits import OK
from millstream.cli.mesh import Mesh
from millstream.cli.output import Output, counted
from millstream.cli.session import Here, Session, not_applied
from millstream.cli.validate import compilable
from millstream.engine import build
from millstream.engine import preview as engine
from millstream.engine.reader import TopicReader
from millstream.engine.state import State
from millstream.engine.store import Store
from millstream.errors import Refused
from millstream.events import envelope
from millstream.events.batch import READ, Batch, batch
from millstream.events.types import RowSchema, Type
from millstream.pipelines import values
from millstream.pipelines.compile import compile_all
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.generations import product_plans
from millstream.pipelines.plan import Input, Plan, Stateful
from millstream.pipelines.productfiles import STAMP
from millstream.pipelines.rollout import generation_name
from millstream.pipelines.sql.mistakes import suggestion

CHUNK_ROWS = 10_000
ROWS_MAX = 1_000


def preview(
    step: str,
    /,
    *,
    limit: int = 10,
    key: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    session: Here,
) -> int:
    """Show what a step or product makes of the rows that there are, as the files now define it: its columns and a sample of its rows.

    Nothing is applied or written. Where it is published already, each row says what would change. The sample is spread over all
    rows; each row is shown with everything that joins with it. A table that is not a topic yet is read from its database,
    its first rows only. Works beside a running `millstream run`.

    Example: `millstream preview large_orders`

    Example: `millstream preview large_orders.named --key 17 --key 42`

    Example: `millstream preview movie` shows a product's documents, beside those that are searched

    Parameters
    ----------
    step
        PRODUCT, PIPELINE or PIPELINE.STEP; without a step, the last one.
    limit
        How many rows, at most 1,000.
    key
        Show the rows of these keys; of a key of several columns the values, separated by commas.
    """
    if not 1 <= limit <= ROWS_MAX:
        raise Refused(
            f"--limit {limit}: a preview shows 1 to {ROWS_MAX:,} rows", code="usage", cure="`millstream query` reads what is published"
        )
    with session.mesh() as mesh:
        there, faults = discover.discovered_as_far_as_possible(mesh)
        left, unchecked = compilable(session.project, there.of(session.project))
        name, _, wanted = step.partition(".")
        if name in unchecked:
            raise faults[0] if faults else not_applied(f"pipeline {name}: {unchecked[name]}")
        plans = compile_all(left, there.of(left).inputs, there.past)
        products, mistakes = product_plans(left, there.of(left).inputs, plans)
        if mistakes:
            raise InvalidProject(mistakes)
        plan, node = _step([*plans, *map(_without_stamp, products)], name, wanted)
        plan = engine.upstream(plan, node)
        schema = next(n.schema for n in plan.nodes if n.name == node)
        keys = _keys(key, schema)
        feeds, partial = _feeds(mesh, plan)
        with tempfile.TemporaryDirectory(prefix="preview-", dir=mesh.place.home) as folder:
            state = State(Store(Path(folder) / "state.duckdb", memory_mib=session.project.mesh.state_memory_mib))
            try:
                sample = engine.sample(plan, node, feeds, state, keys=keys, rows_max=limit, tick=lambda what, done, total: None)
            finally:
                state.store.close()
        published = _published(mesh, f"{_generation(mesh, name)}.{node}", sample)
        if published is not None and name in [p.pipeline for p in products] and STAMP in published.column_names:
            published = published.drop_columns([STAMP])
    _show(session, name if name in [p.pipeline for p in products] else f"{name}.{node}", sample, published, partial, limit)
    return OK


def _step(plans: Sequence[Plan], pipeline: str, step: str) -> tuple[Plan, str]:
    plan = next((p for p in plans if p.pipeline == pipeline), None)
    if plan is None or not plan.nodes:
        cure = suggestion(pipeline, [p.pipeline for p in plans if p.nodes], "products and pipelines with steps")
        raise Refused(f"there is no product or pipeline with a step called {pipeline}", code="pipeline_unknown", cure=cure)
    steps = [n.name for n in plan.nodes if "#" not in n.name]
    if step and step not in steps:
        raise Refused(f"{pipeline} has no step {step}", code="step_unknown", cure=suggestion(step, steps, "steps"))
    return plan, step or steps[-1]


def _without_stamp(product: Plan) -> Plan:
    """Without the column that says what a document has seen: a preview has seen no live source."""
    *before, last = product.nodes
    if not isinstance(last, Stateful) or last.stamp is None:
        return product
    schema = RowSchema(tuple(f for f in last.schema.fields if f.name != last.stamp), last.schema.key)
    return replace(product, nodes=(*before, replace(last, schema=schema, stamp=None)))


def _generation(mesh: Mesh, name: str) -> str:
    """What publishes under this name: of a product the generation that is searched, or the one being built where none is yet."""
    product = mesh.catalogue.products().get(name)
    return generation_name(name, product.live or product.next) if product else name


def _keys(written: Sequence[str], schema: RowSchema) -> pa.Table | None:
    if not written:
        return None
    rows = []
    for text in written:
        cells = text.split(",") if len(schema.key) > 1 else [text]
        if len(cells) != len(schema.key):
            cure = f"write --key with {', '.join(schema.key)}, in this order"
            raise Refused(f"--key {text}: the key has {counted(len(schema.key), 'column')}", code="usage", cure=cure)
        rows.append({f.name: _value(c.strip(), f.type, f.name) for f, c in zip(schema.key_fields, cells, strict=True)})
    return pa.Table.from_pylist(rows, pa.schema([pa.field(f.name, f.type.arrow) for f in schema.key_fields]))


def _value(text: str, type_: Type, name: str) -> Any:
    try:
        return values.of_text(text, type_)
    except ValueError as e:
        raise Refused(
            f"--key: {e}", code="usage", where=name, cure="`millstream plan --explain` shows each step's key and its type"
        ) from None


# ---- what there is to read -------------------------------------------------------------------------------------------------


def _feeds(mesh: Mesh, plan: Plan) -> tuple[dict[str, Any], list[str]]:
    """The inputs' events, and the tables of which only the first rows are read: those that are not topics yet."""
    readers, chunks = {}, {}
    for i in plan.inputs:
        if mesh.topics.topic(i.topic) is None or not mesh.topics.end(i.topic):
            chunks[i.topic] = [_chunk(mesh, i)]
        elif not i.schema_id:
            raise not_applied(f"{i.topic} is read, and its own definition has changed too")
        else:
            readers[i.topic] = TopicReader(mesh.topics, mesh.registry, i.topic, i.schema, i.schema_id, 0, everything=True)
    ends = {topic: mesh.topics.end(topic) for topic in readers}
    return {**build.feeds(readers, ends, lambda what, done, total: None), **chunks}, sorted(chunks)


def _chunk(mesh: Mesh, wanted: Input) -> list[Batch]:
    """The first rows of a table, from its database."""
    source, _, table = wanted.topic.partition(".")
    if source not in [s.name for s in mesh.project.sources]:
        raise not_applied(f"{wanted.topic} holds nothing yet")
    rows: list[pa.StructArray] = []
    with mesh.opened(source) as opened:
        after, done = None, False
        while not done and sum(map(len, rows)) < CHUNK_ROWS:
            chunk = opened.chunk(table, after, CHUNK_ROWS)
            if chunk is None or chunk.schema != wanted.schema:
                raise not_applied(f"{wanted.topic} holds nothing yet, and its table cannot be read just now")
            rows.append(chunk.rows.to_struct_array())
            after, done = chunk.last_key, chunk.done
    read = pa.concat_arrays(rows).slice(0, CHUNK_ROWS)
    count = len(read)
    zeros = np.zeros(count, np.uint64)
    made = batch(
        wanted.topic,
        wanted.schema,
        {
            "op": pa.repeat(READ, count),
            "after": read,
            "incarnation": zeros.astype(np.uint32),
            "major": zeros,
            "minor": np.arange(count, dtype=np.uint32),
            "ts_us": np.zeros(count, np.int64),
            "position": pa.repeat("", count),
            "snapshot": pa.repeat("true", count),
        },
    )
    return [Batch(made.topic, made.schema, made.rows, None, np.arange(count, dtype=np.int64))]


def _published(mesh: Mesh, topic: str, sample: engine.Sample) -> pa.Table | None:
    """What the topic now has of the sample's units; None where it does not exist, or has another key."""
    known = mesh.topics.topic(topic)
    versions = mesh.registry.versions(f"{topic}-value")
    if known is None or not versions or known.key != sample.schema.key or not mesh.topics.end(topic):
        return None
    schema = envelope.row_schema(versions[-1].text, known.key)
    reader = TopicReader(mesh.topics, mesh.registry, topic, schema, versions[-1].id, 0)
    batches: Iterator[Sequence[Batch]] = build.feeds({topic: reader}, {topic: mesh.topics.end(topic)}, lambda what, done, total: None)[
        topic
    ]
    return engine.published(batches, schema, sample.units)


# ---- what is shown ---------------------------------------------------------------------------------------------------------


def _show(session: Session, name: str, sample: engine.Sample, published: pa.Table | None, partial: Sequence[str], limit: int) -> None:
    out, schema = session.output, sample.schema
    columns = [(f.name, str(f.type), "key" if f.name in schema.key else "") for f in schema.fields]
    rows = sample.rows.to_pylist()
    changes, gone = _changes(rows, published, schema)
    whole = sample.whole and len(rows) <= limit
    rows, changes, gone = rows[:limit], changes[:limit], gone[:limit]
    out.say(name, "bold")
    out.table(("column", "type", ""), columns, "")
    out.say()
    _rows(out, [f.name for f in schema.fields if f.name in sample.rows.column_names], rows, changes)
    for row in gone:
        out.say(f"would be removed: {values.shown(row)}", "yellow")
    out.say()
    out.say(_about(len(rows), whole, published, changes, gone))
    for topic in partial:
        out.say(
            f"{topic} is no topic yet: its first {CHUNK_ROWS:,} rows were read from the database; what joins with others is missing",
            "yellow",
        )
    out.document(
        {
            "step": name,
            "columns": [{"name": n, "type": t, "key": bool(k)} for n, t, k in columns],
            "rows": [_plain(r) for r in rows],
            "sample": not whole,
            "first_rows_of": list(partial),
            "published": published is not None,
            "changes": [{"key": _plain({k: r[k] for k in schema.key}), "change": c} for r, c in zip(rows, changes, strict=True) if c]
            + [{"key": _plain({k: r[k] for k in schema.key}), "change": "removed"} for r in gone],
        }
    )


def _rows(out: Output, names: Sequence[str], rows: Sequence[Mapping[str, Any]], changes: Sequence[str]) -> None:
    shown = [(*(_cell(r[n]) for n in names), c) for r, c in zip(rows, changes, strict=True)]
    if any(changes):
        out.table((*names, "would be"), shown, "")
    else:
        out.table(names, [row[:-1] for row in shown], "no row")


def _changes(rows: Sequence[Mapping[str, Any]], published: pa.Table | None, schema: RowSchema) -> tuple[list[str], list[dict[str, Any]]]:
    """What each row would be beside what is published ("": the same), and the published rows that there would be no more."""
    if published is None:
        return [""] * len(rows), []
    before = {tuple(r[k] for k in schema.key): r for r in published.to_pylist()}
    changes = []
    for row in rows:
        was = before.pop(tuple(row[k] for k in schema.key), None)
        changes.append("new" if was is None else _differs(was, row, schema))
    return changes, list(before.values())


def _differs(was: Mapping[str, Any], row: Mapping[str, Any], schema: RowSchema) -> str:
    both = [f for f in schema.fields if f.name in was and f.name in row]
    changed = [f"{f.name} was {values.shown(was[f.name])}" for f in both if not values.equal(was[f.name], row[f.name], f.type)]
    added = [f"{n} is added" for n in row if n not in was]
    dropped = [f"{n} is dropped" for n in was if n not in schema.names]
    return "; ".join([*changed, *added, *dropped])


def _about(count: int, whole: bool, published: pa.Table | None, changes: Sequence[str], gone: Sequence[object]) -> str:
    what = f"{counted(count, 'row')}, all there are" if whole else f"a sample of {counted(count, 'row')}"
    if published is None:
        return f"{what}; not published yet"
    changed = sum(map(bool, changes)) + len(gone)
    return f"{what}; {counted(changed, 'row')} of these would change" if changed else f"{what}; what is published of these stays as it is"


def _cell(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else values.shown(value)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {n: v if isinstance(v, str | int | float | bool | None) else json.loads(_json(v)) for n, v in row.items()}


def _json(value: Any) -> str:
    return json.dumps(value, default=values.shown)
