"""`millstream apply`: does the list that `plan` shows."""

from __future__ import annotations

from millstream.catalogue.controller import Change, Controller, change_of_all, concerns
from millstream.cli import running
from millstream.cli.discover import discovered
from millstream.cli.exits import OK
from millstream.cli.mesh import Mesh
from millstream.cli.output import Output, counted
from millstream.cli.plan import NOTHING_TO_DO, tell_behind
from millstream.cli.resume import put_in_place
from millstream.cli.session import Here
from millstream.pipelines.rollout import generation_of


def apply(*, session: Here) -> int:
    """Do what `plan` shows: make topics, register and accept schemas, put pipelines and sinks in place.

    First everything is checked: the files, and every server that begins (settings, privileges, keys, replica identity; its
    publication and slot are made if nothing is missing). Only then is anything done. A second call finds nothing to do, and
    one after a crash does the rest. A running `millstream run` takes changed pipelines and sinks up at once; for anything else it is to be
    started again.

    Example: `millstream apply`
    """
    out = session.output
    with session.mesh() as mesh:
        todo = change_of_all(session.project, discovered(mesh), mesh.catalogue)
        controller = Controller(todo, mesh.topics, mesh.registry, mesh.catalogue, mesh.opened)
        for source in controller.check_sources():
            out.say(f"ready  source {source}", "green")
        done = []
        for step in controller.carry_out():
            out.say(f"done   {step}", "green")
            done.append({**vars(step), "text": str(step)})
        is_running = running.is_held(mesh.place.running)
        restart = is_running and not _taken_up(mesh, todo, out)
    out.say(f"\n{counted(len(done), 'step')} done; `millstream run` runs what is applied" if done else NOTHING_TO_DO)
    tell_behind(todo, out)
    if restart:
        out.warn("a process runs this mesh as it was: stop it and start `millstream run` again")
    for step in todo.steps:
        if step.kind == "stop_connector":
            out.warn(f"{step.subject} is no longer read; remove what was made for it on its server: a slot holds back the log")
    out.document({"done": done, "restart_needed": restart})
    return OK


def _taken_up(mesh: Mesh, todo: Change, out: Output) -> bool:
    """Whether the running process has taken up all that was done. It can put pipelines and their sinks in place, and nothing else.

    For what is only said of columns nobody is put in place: it shows with the next start."""
    steps = [s for s in todo.steps if s.kind != "describe_topic"]
    names = [p.pipeline for p in todo.plans if any(concerns(s, p.pipeline) for s in steps)]
    rest = [s for s in steps if not any(concerns(s, name) for name in names)]
    if rest or any(s.kind in ("stop_sink", "stop_pipeline") or generation_of(s.subject) for s in steps):
        return False
    return all(put_in_place(mesh, name, out) for name in names)
