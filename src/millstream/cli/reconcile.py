"""`millstream reconcile`: what is published beside the same computed from scratch, and its repair."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from millstream.cli import answers, requests
from millstream.cli.exits import FAILED, OK
from millstream.cli.mesh import Mesh
from millstream.cli.output import Output, counted
from millstream.cli.run import as_applied
from millstream.cli.session import Here
from millstream.engine import indexes
from millstream.engine import reconcile as engine
from millstream.engine.reader import TopicReader
from millstream.engine.reconcile import Compared, Scratch
from millstream.engine.requests import Request
from millstream.engine.state import State
from millstream.engine.store import Store
from millstream.errors import Refused
from millstream.pipelines import values
from millstream.pipelines.plan import Plan
from millstream.sinks.search.compare import Snapshot


def reconcile(
    pipeline: str,
    /,
    *,
    sample: int | None = None,
    every: Annotated[bool, Parameter(name="--all", negative="", show_default=False)] = False,
    repair: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    session: Here,
) -> int:
    """Compare what a pipeline or product has published, keeps and indexes with the same computed from scratch out of the topics.

    It is built beside, up to a moment at which nothing was left to compute: changes that come meanwhile are no difference, and nobody
    is disturbed. Ends with 1 if something differs and is not repaired.

    Example: `millstream reconcile large_orders --sample 1000`

    Example: `millstream reconcile movie --all --repair`

    Parameters
    ----------
    pipeline
        A pipeline, or a product.
    sample
        Only so many keys, spread over all there are.
    every
        All keys.
    repair
        What differs is put right by the process that runs the mesh: the pipeline is computed anew and the difference published;
        documents are written again.
    """
    if (sample is None) == (not every) or (sample is not None and sample < 1):
        raise Refused("how much?", code="usage", cure="give --sample N or --all")
    with session.mesh() as mesh:
        name = requests.applied(mesh, pipeline).name
        plan = next(p for p in as_applied(mesh).plans if p.pipeline == name)
        found = _compared(mesh, plan, sample)
        asked = _repair(mesh, plan, found) if repair else []
        _show(found, session.output)
        for request in asked:
            session.output.say(f"asked: {request.kind} {request.name}; {requests.taken_up(mesh)}")
    differing = sum(c.differing for c in found)
    if differing and not repair:
        session.output.say("--repair puts it right", "yellow")
    session.output.document({"pipeline": name, "differing": differing, "compared": [_document(c) for c in found],
                             "asked": [r.json() for r in asked]})  # fmt: skip
    return FAILED if differing and not repair else OK


def _compared(mesh: Mesh, plan: Plan, sample: int | None) -> list[Compared]:
    at = engine.mark(mesh.topics.producer_record(f"pipeline.{plan.pipeline}"), plan)
    kept = answers.digests(mesh, plan) if plan.stateful else None
    found = []
    with tempfile.TemporaryDirectory(prefix="reconcile-", dir=mesh.place.home) as folder:
        memory_mib = mesh.project.mesh.state_memory_mib
        state = State(Store(Path(folder) / "state.duckdb", memory_mib=memory_mib))
        for output in plan.outputs if sample is not None else plan.outputs[:1]:
            scratch = Scratch(plan, at, mesh.topics, mesh.registry, state, _tick)
            try:
                scratch.build(output.node if sample is not None else None)
                compared = [output] if sample is not None else plan.outputs
                found += [scratch.compare(o, sample) for o in compared]
                if kept is not None:
                    found += [c for c in scratch.compare_state(kept, sampled=sample is not None) if c.what not in {f.what for f in found}]
            finally:
                scratch.close()
        state.wipe()
        found += [_index(mesh, plan, sink.topic, str(sink.options["index"]), state, sample) for sink in plan.sinks if sink.kind == "search"]
        state.store.close()
    return found


def _index(mesh: Mesh, plan: Plan, topic: str, folder: str, state: State, sample: int | None) -> Compared:
    schema = mesh.schema(topic)
    assert schema is not None
    version = mesh.registry.versions(f"{topic}-value")[-1]
    reader = TopicReader(mesh.topics, mesh.registry, topic, schema, version.id, 0)
    return indexes.compare(Snapshot(mesh.place.home, folder), folder, reader, state, _tick, sample)


def _tick(what: str, done: int, total: int) -> None:
    """A comparison may be left with Ctrl-C at any moment: nothing has to be told."""


def _repair(mesh: Mesh, plan: Plan, found: Sequence[Compared]) -> list[Request]:
    """Rows: everything anew, which puts the state right too. Documents: their keys said again, those without a row as deletes."""
    asked = []
    if any(c.differing for c in found if not c.what.startswith("index ")):
        asked.append(Request(requests.name("rebuild"), plan.pipeline, "rebuild"))
    for sink in plan.sinks:
        keys = [k for c in found if c.what == f"index {sink.options.get('index')}" for k in c.keys]
        own = [o.node for o in plan.outputs if o.topic == sink.topic]
        if keys and own:
            asked.append(Request(requests.name("repair"), plan.pipeline, "resend", tuple(own), tuple(keys), gone=True))
    for request in asked:
        mesh.catalogue.ask(request)
    return asked


def _show(found: Sequence[Compared], out: Output) -> None:
    out.table(("what", "compared", "differing"), [(c.what, c.compared, c.differing) for c in found], "")
    for c in found:
        for d in c.first:
            out.say(f"{c.what} {', '.join(d.key)}:", "yellow")
            out.say(f"  expected {_row(d.expected)}")
            out.say(f"  got      {_row(d.got)}")
    differing = sum(c.differing for c in found)
    out.say(f"{counted(differing, 'difference')}" if differing else "no difference", "red" if differing else "green")


def _row(row: Mapping[str, Any] | None) -> str:
    return "no row" if row is None else values.shown(dict(row))


def _document(c: Compared) -> dict[str, Any]:
    first = [{"key": list(d.key), "expected": _json(d.expected), "got": _json(d.got)} for d in c.first]
    return {"what": c.what, "compared": c.compared, "differing": c.differing, "first": first}


def _json(row: Mapping[str, Any] | None) -> Any:
    return None if row is None else json.loads(json.dumps(dict(row), default=values.shown))
