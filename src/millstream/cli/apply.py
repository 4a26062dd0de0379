"""`millstream apply`: does the list that `plan` shows."""

from __future__ import annotations

from millstream.catalogue.controller import Controller, change
from millstream.cli import running
from millstream.cli.discover import discovered
from millstream.cli.exits import OK
from millstream.cli.output import counted
from millstream.cli.plan import NOTHING_TO_DO
from millstream.cli.session import Here


def apply(*, session: Here) -> int:
    """Do what `plan` shows: make topics, register and accept schemas, put pipelines and sinks in place.

    First everything is checked: the files, and every server that begins (settings, privileges, keys, replica identity; its
    publication and slot are made if nothing is missing). Only then is anything done. A second call finds nothing to do, and
    one after a crash does the rest.

    Example: `millstream apply`
    """
    out = session.output
    with session.mesh() as mesh:
        todo = change(session.project, discovered(mesh), mesh.catalogue)
        controller = Controller(todo, mesh.topics, mesh.registry, mesh.catalogue, mesh.opened)
        for source in controller.check_sources():
            out.say(f"ready  source {source}", "green")
        done = []
        for step in controller.carry_out():
            out.say(f"done   {step}", "green")
            done.append({**vars(step), "text": str(step)})
        is_running = running.is_held(mesh.place.running)
    out.say(f"\n{counted(len(done), 'step')} done; `millstream run` runs what is applied" if done else NOTHING_TO_DO)
    if done and is_running:
        out.warn("a process runs this mesh as it was: stop it and start `millstream run` again")
    for step in todo.steps:
        if step.kind == "stop_connector":
            out.warn(f"{step.subject} is no longer read; remove what was made for it on its server: a slot holds back the log")
    out.document({"done": done, "restart_needed": bool(done) and is_running})
    return OK
