"""`millstream plan`: what `apply` would do, step by step; nothing is changed."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from millstream.catalogue.controller import Change, change_of_all
from millstream.catalogue.forbidden import of_change
from millstream.catalogue.judge import Versions
from millstream.cli.discover import discovered
from millstream.cli.exits import OK
from millstream.cli.mesh import Mesh
from millstream.cli.output import Output, counted
from millstream.cli.session import Here
from millstream.errors import Retryable
from millstream.pipelines.definitions import Project
from millstream.pipelines.explain import explain as explanation
from millstream.sources.contract import Derives, Readings

NOTHING_TO_DO = "nothing to do: what is applied is what the files say"


def plan(*, explain: Annotated[bool, Parameter(negative="", show_default=False)] = False, session: Here) -> int:
    """Show what `apply` would do: topics, schemas, pipelines and sinks, in the order in which it does them.

    Nothing is changed. Tables that are not topics yet are looked up in their databases.

    Example: `millstream plan`

    Example: `millstream plan --explain` shows also how each pipeline computes its rows

    Parameters
    ----------
    explain
        Explain each pipeline: what it reads, its steps, how changes travel, what leaves.
    """
    with session.mesh() as mesh:
        todo = change_of_all(session.project, discovered(mesh), mesh.catalogue)
        forbidden = of_change(todo, mesh.catalogue, Versions(mesh.topics, mesh.registry))
        readings = {s.name: _readings(mesh, s.name) for s in session.project.sources if s.derived}
    out = session.output
    for source, said in readings.items():
        _tell_readings(source, said, session.project, out)
    if explain:
        for p in todo.plans:
            out.say(explanation(p))
            out.say()
    for number, step in enumerate(todo.steps, 1):
        out.say(f"{number:3}  {step}")
    out.say(f"\n{counted(len(todo.steps), 'step')} to do, by `millstream apply`" if todo.steps else NOTHING_TO_DO)
    tell_behind(todo, out)
    for one in forbidden:
        out.warn(f"\nforbidden, so `millstream apply` does nothing: {one}")
    out.document(
        {
            "forbidden": [{"consumer": f.consumer, "owner": f.owner, **vars(f.violation)} for f in forbidden],
            "steps": [{**vars(step), "text": str(step)} for step in todo.steps],
            "readings": {name: vars(said) | {"derived": [vars(d) for d in said.derived]} for name, said in readings.items() if said},
            "pushed_down": _pushed(session.project),
            "explanations": {p.pipeline: out.secrets.blot(explanation(p)) for p in todo.plans} if explain else {},
        }
    )
    return OK


def tell_behind(todo: Change, out: Output) -> None:
    """Who stays as it is applied, and why."""
    for d in todo.behind:
        out.warn(f"stays as it is applied, with the schemas that it has accepted: {d}")


def _readings(mesh: Mesh, source: str) -> Readings | None:
    """None where the source is not there to say so."""
    try:
        with mesh.opened(source) as opened:
            return opened.readings() if isinstance(opened, Derives) else None
    except Retryable:
        return None


def _tell_readings(source: str, said: Readings | None, project: Project, out: Output) -> None:
    if said is None:
        out.warn(f"source {source} does not answer: who filters its derived tables is not known")
        return
    out.say(f"source {source}: {counted(said.feeds, 'feed')} of the server")
    for d in said.derived:
        out.say(f"     {d.table} from {d.of}, " + ("filtered by the server" if d.here is None else f"filtered here: {d.here}"))
        for_whom = [p for p, topic in _pushed(project).items() if topic == f"{source}.{d.table}"]
        if for_whom:
            of = next(s for s in project.sources if s.name == source)
            twice = of.derived[d.table]["table"] in of.tables
            out.say(
                f"       pushed down for {', '.join(for_whom)}" + (f"; {d.of} comes whole as well, so no bytes are saved" if twice else "")
            )
    out.say()


def _pushed(project: Project) -> dict[str, str]:
    """Of each pipeline with `push_down` the topic of what was made for it."""
    return {p.name: other.topic for p in project.pipelines for other in p.instead.values()}
