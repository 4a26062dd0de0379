"""What a person asks of pipelines that run: whom it concerns, what it may say, and how far it is."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from millstream.catalogue.store import AppliedPipeline, Asked
from millstream.cli import running
from millstream.cli.mesh import Mesh
from millstream.cli.output import Output
from millstream.cli.session import not_applied
from millstream.cli.status import rows_done, when
from millstream.errors import Refused
from millstream.events.types import RowSchema
from millstream.pipelines import values
from millstream.pipelines.rollout import generation_name
from millstream.pipelines.sql.mistakes import suggestion


def applied(mesh: Mesh, name: str, *, publishes: bool = True) -> AppliedPipeline:
    """The pipeline of this name, as applied; of a product the generation that is searched, or the one on its way. `publishes`: one that
    has steps is asked for."""
    pipelines, product = mesh.catalogue.pipelines(), mesh.catalogue.products().get(name)
    if product is not None:
        name = generation_name(name, product.live or product.next)
    if not pipelines:
        raise not_applied("nothing is applied yet")
    if name not in pipelines:
        cure = suggestion(name, [*pipelines, *mesh.catalogue.products()], "pipelines")
        raise Refused(f"there is no pipeline {name}", code="pipeline_unknown", cure=cure)
    if publishes and not pipelines[name].outputs:
        raise Refused(f"pipeline {name} has no step", code="no_step", cure="name one that publishes something")
    return pipelines[name]


def output(mesh: Mesh, pipeline: AppliedPipeline, step: str | None) -> tuple[str, RowSchema]:
    """A step that is published, and its row schema. Without a name: the only one, or the last."""
    steps = [topic[len(pipeline.name) + 1 :] for topic in pipeline.outputs]
    if step is not None and step not in steps:
        raise Refused(f"{pipeline.name} publishes no step {step}", code="step_unknown", cure=suggestion(step, steps, "steps"))
    step = step or steps[-1]
    schema = mesh.schema(f"{pipeline.name}.{step}")
    if schema is None:
        raise not_applied(f"{pipeline.name}.{step} has no schema yet")
    return step, schema


def keys(written: Sequence[str], schema: RowSchema) -> tuple[tuple[str, ...], ...]:
    """--key options as texts in the key's order. Raises Refused for one that is none."""
    found = []
    for text in written:
        cells = tuple(c.strip() for c in text.split(",")) if len(schema.key) > 1 else (text,)
        if len(cells) != len(schema.key):
            cure = f"write --key with the values of {', '.join(schema.key)}, separated by commas"
            raise Refused(f"--key {text}: the key has {len(schema.key)} columns", code="usage", cure=cure)
        for cell, f in zip(cells, schema.key_fields, strict=True):
            try:
                values.of_text(cell, f.type)
            except ValueError as e:
                raise Refused(f"--key: {e}", code="usage", where=f.name, cure="`millstream schemas show` says the key's types") from None
        found.append(cells)
    return tuple(found)


def name(kind: str) -> str:
    """A new request's name."""
    return f"{kind}-{uuid.uuid4().hex[:8]}"


def taken_up(mesh: Mesh) -> str:
    """When the request will be begun, in words."""
    return "the running process takes it up" if running.is_held(mesh.place.running) else "the next `millstream run` takes it up"


def show(asked: Sequence[Asked], out: Output) -> None:
    cells = [(a.request.name, a.request.pipeline, a.request.kind, a.state, rows_done(a), when(a.asked_at), a.reason or None) for a in asked]
    out.table(("request", "pipeline", "kind", "state", "rows done", "asked", "reason"), cells, "nothing was asked")
    out.document([document(a) for a in asked])


def document(asked: Asked) -> dict[str, Any]:
    times = {"asked_at": when(asked.asked_at), "changed_at": when(asked.changed_at)}
    return {**asked.request.json(), "state": asked.state, "done": asked.done, "total": asked.total, "reason": asked.reason, **times}
