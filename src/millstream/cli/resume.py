"""`millstream resume`: a pipeline that is paused before a change of schema goes on, as its owner has edited it."""

from __future__ import annotations

from dataclasses import replace

from millstream.catalogue.controller import Change, Controller, change, concerns
from millstream.catalogue.judge import Versions
from millstream.catalogue.store import AppliedPipeline
from millstream.catalogue.verdicts import Kept
from millstream.cli import answers, discover, requests, running
from millstream.cli.exits import OK
from millstream.cli.mesh import Mesh
from millstream.cli.output import Output
from millstream.cli.session import Here
from millstream.errors import Refused, Retryable
from millstream.pipelines.rollout import Step, generation_of
from millstream.schemas.operations import operations


def resume(pipeline: str, /, *, session: Here) -> int:
    """Let a paused pipeline go on: compile its files over the schemas as they are now, accept these, and put it in place anew.

    Shows what is accepted first. A running `millstream run` replaces this pipeline and its sinks and nothing else; without one, the
    next run takes it up. Not one event is lost or repeated: the pipeline goes on where it stopped. Where the files do not hold over the
    new schemas, nothing is done and every mistake is told. Steps of other pipelines are left for `millstream apply`.

    Example: `millstream resume rated_movies`

    Parameters
    ----------
    pipeline
        The pipeline's name, or a product's.
    """
    out = session.output
    with session.mesh() as mesh:
        before = requests.applied(mesh, pipeline, publishes=False)
        todo = change(session.project, discover.registered(mesh), mesh.catalogue, stay=lambda name: name != before.name)
        mine = tuple(s for s in todo.steps if concerns(s, before.name))
        _stays(mine, before.name)
        accepted = _accepting(mesh, before, out)
        controller = Controller(replace(todo, steps=mine), mesh.topics, mesh.registry, mesh.catalogue, mesh.opened, by="resume")
        done = []
        for step in controller.carry_out():
            out.say(f"done   {step}", "green")
            done.append({**vars(step), "text": str(step)})
        _keep(mesh, before.name)
        left = [s for s in todo.steps if s not in mine]
        placed = put_in_place(mesh, before.name, out)
    _tell_left(todo, left, before.name, out)
    out.document({"pipeline": before.name, "accepted": accepted, "done": done, "in_place": placed})
    return OK


def _stays(steps: tuple[Step, ...], name: str) -> None:
    """Raises Refused where what there is to do about the pipeline is its end: its file is gone, or it is a generation of a product, not
    searched yet, that the next would take the place of."""
    if any(s.kind in ("stop_pipeline", "drop_generation") for s in steps):
        raise Refused(
            f"{name} cannot go on: the files make something else of the schemas as they are now, or no longer name it",
            code="nothing_to_resume",
            where=name,
            cure="`millstream plan` shows what `millstream apply` would put in its place",
        )


def put_in_place(mesh: Mesh, pipeline: str, out: Output) -> bool:
    """Let the process that runs the mesh take up what was accepted. False where none does, or it does not listen: the next does."""
    if not running.is_held(mesh.place.running):
        out.say(f"{pipeline} goes on with the next `millstream run`")
        return False
    try:
        out.say(answers.replaced(mesh, pipeline), "green")
    except Retryable as e:
        out.warn(f"{pipeline} is accepted, but the process that runs this mesh has not taken it up: {e}")
        return False
    return True


def _accepting(mesh: Mesh, before: AppliedPipeline, out: Output) -> list[dict[str, str]]:
    """Say, of each topic, what is accepted; also by the steps alone that were held to an earlier version than the pipeline."""
    versions, told = Versions(mesh.topics, mesh.registry), []
    for topic, reads_in in before.inputs.items():
        there = versions.of(topic)
        now = next(reversed(there))
        steps = {step: topics[topic] for step, topics in before.held.items() if topic in topics}
        for step, was in {"": reads_in, **steps}.items():
            if now != was and was in there:
                changes = "; ".join(map(str, operations(there[was], there[now]))) or "nothing that differs"
                whose = f" in step {step}" if step else ""
                out.say(f"accepts {topic}, version {versions.order(topic)[now]}{whose}: {changes}")
                told.append({"topic": topic, "step": step, "schema_id": str(now), "changes": changes})
    return told


def _keep(mesh: Mesh, pipeline: str) -> None:
    """The pipeline's sinks that are paused take the newest version of what they read, too; it is in the history."""
    versions, now = Versions(mesh.topics, mesh.registry), mesh.catalogue.pipelines()[pipeline]
    states = mesh.catalogue.states()
    for name, sink in now.sinks.items():
        if (said := states.get(f"sink.{name}")) is not None and said.state == "paused":
            schema_id = next(reversed(versions.of(sink.topic)))
            version = versions.order(sink.topic)[schema_id]
            said_so = Kept(f"sink.{name}", sink.topic, schema_id, version, "accept", by="resume")
            mesh.catalogue.verdicts.accept(name, sink.topic, schema_id, said_so)


def _tell_left(todo: Change, left: list[Step], name: str, out: Output) -> None:
    if left:
        out.warn(f"not done, as it is not about {name}: {'; '.join(map(str, left))}; `millstream apply` does it")
    of = generation_of(name)
    if of is not None and todo.wanted.products[of[0]].applied != of[1]:
        out.warn(f"{of[0]} is defined otherwise now: `millstream apply` builds its next generation beside {name}")
