"""`millstream run`: everything that is applied, in one process, until it is caught up or told to stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import FrameType
from typing import Annotated, Any

from cyclopts import Parameter

from millstream.catalogue.controller import Change, change, concerns
from millstream.cli import answers, discover, live, running
from millstream.cli.exits import FAILED, INTERRUPTED, OK, PAUSED
from millstream.cli.mesh import Mesh
from millstream.cli.pauses import Pauses
from millstream.cli.session import Here, Session, not_applied
from millstream.control import server
from millstream.control.protocol import socket_path
from millstream.engine.runner import PartStatus, Runner
from millstream.errors import MillstreamError, Refused
from millstream.pipelines.definitions import Project
from millstream.pipelines.rollout import Step

log = logging.getLogger("millstream.run")

_WORDS = {
    "caught up": "caught up: all that was committed when this began is in every topic and sink",
    "interrupted": "interrupted: everything is committed",
    "stopped": "stopped: everything is committed",
    "failed": "ended: what could be committed is",
    "paused": "caught up but for what is paused: all else that was committed when this began is in every topic and sink",
}


def run(*, until_caught_up: Annotated[bool, Parameter(negative="", show_default=False)] = False, session: Here) -> int:
    """Run everything that is applied, in this process: connectors, pipelines and sinks.

    Ctrl-C and SIGTERM let every part finish what it commits and stop: nothing is lost, the next run goes on from there. A second
    Ctrl-C ends at once, which is safe too. Refuses to run if the files differ from what was applied.

    Ends with 0 when caught up or stopped by SIGTERM, 130 after Ctrl-C, 1 if a part has failed, 4 if none has but one is paused, 3 if
    not applied.

    Example: `millstream run`

    Example: `millstream run --until-caught-up` in a script, before reading what it made

    Parameters
    ----------
    until_caught_up
        End when all that was committed at the sources when it began is in every topic and sink.
    """
    with session.mesh() as mesh:
        todo = as_applied(mesh)
        pauses = Pauses(mesh, lambda notice: told(notice))
        runner = mesh.runner(todo, _reporting(mesh, session, pauses), _telling(mesh, session))
        view = live.view(session.output)
        with (
            running.held(mesh.place.running),
            mesh.told(session.output.secrets.blot) as told,
            _serving(mesh, session, runner),
            _signals(session) as caught,
            view.shown(),
        ):

            def watch(parts: list[PartStatus]) -> None:
                if caught:
                    runner.stop()  # here and not in the handler, which may interrupt the very lock that this takes
                view.watch(parts)

            for name in mesh.switches.settle():
                session.output.say(f"searches were being switched to {name} when the last run ended: they are now", "yellow")
            mesh.sweep()
            parts = runner.run(until_caught_up=until_caught_up, watch=watch)
    return _ended(parts, caught, session)


@contextmanager
def _listening(mesh: Mesh, session: Session, runner: Runner) -> Iterator[None]:
    """Answer queries, and put pipelines in place that were resumed or applied, while this lasts. A socket that cannot be made is no
    reason not to run."""

    def resume(pipeline: str) -> str:
        project = session.wiring.load(session.folder)
        session.output.secrets.add(project.secrets)
        return put_in_place(mesh, project, runner, pipeline)

    with ExitStack() as stack:
        try:
            stack.enter_context(server.served(socket_path(mesh.place.home), answers.handler(mesh, runner.plans, runner.states, resume)))
        except (OSError, MillstreamError) as error:
            log.warning("no query about states can be answered while this runs: %s", error)
        yield


@contextmanager
def _serving(mesh: Mesh, session: Session, runner: Runner) -> Iterator[None]:
    with _listening(mesh, session, runner), _registry(mesh, session):
        yield


@contextmanager
def _registry(mesh: Mesh, session: Session) -> Iterator[None]:
    """Serve the registry while this lasts, where mesh.yaml says so."""
    listen = mesh.project.mesh.registry.get("listen")
    with mesh.registry_served(str(listen)) if listen else nullcontext() as address:
        if address:
            session.output.say(f"the schema registry answers at {address}")
        yield


def as_applied(mesh: Mesh) -> Change:
    """The plans in the schemas that were accepted. Raises Refused where the files say other than what was applied."""
    if not mesh.catalogue.sources() and not mesh.catalogue.pipelines():
        raise not_applied("nothing is applied yet")
    there = discover.applied(mesh)
    missing = [t for s in mesh.project.sources for t in there.missing(s)]
    if missing:
        raise not_applied(f"{', '.join(missing)}: in the files, but not applied")
    todo = change(mesh.project, there, mesh.catalogue, stay=lambda pipeline: True)
    _nothing_left(todo.steps)
    return todo


def _nothing_left(steps: Sequence[Step]) -> None:
    """What only says something else of columns stops nobody: who writes the topic registers it too."""
    left = [s for s in steps if s.kind != "describe_topic"]
    if left:
        raise Refused(
            "the files differ from what was applied: " + "; ".join(map(str, left)),
            code="differs_from_applied",
            cure="`millstream plan` shows the difference; `millstream apply` it, or put the files back",
        )


def put_in_place(mesh: Mesh, project: Project, runner: Runner, name: str) -> str:
    """Let the runner have one pipeline and its sinks as they are applied now, in the place of those that it has; everything else runs
    on. `project`: its files as they are now. Raises Refused where these say other than what was applied of it."""
    todo = change(project, discover.applied(mesh), mesh.catalogue, stay=lambda pipeline: True)
    _nothing_left([s for s in todo.steps if concerns(s, name)])
    pipelines, sinks = mesh.parts(project, [p for p in todo.plans if p.pipeline == name])
    runner.replace(lambda part: part == f"pipeline.{name}" or part.startswith(f"sink.{name}."), pipelines, sinks)
    return f"the running process has put {name} in place"


def _reporting(mesh: Mesh, session: Session, pauses: Pauses) -> Callable[[str, str, str, str], None]:
    def report(part: str, state: str, reason: str, cure: str) -> None:
        blot = session.output.secrets.blot
        try:
            mesh.catalogue.report(part, state, blot(reason), blot(cure))
        except MillstreamError as error:  # the part goes on: only who looks from outside is told late
            log.warning("the state of %s could not be kept: %s", part, error)
        pauses.heard(part, state, blot(reason), blot(cure))

    return report


def _telling(mesh: Mesh, session: Session) -> Callable[[str, Mapping[str, Any]], None]:
    def tell(part: str, figures: Mapping[str, Any]) -> None:
        told = {name: session.output.secrets.blot(words) for name, words in figures.get("sources", {}).items()}
        try:
            mesh.catalogue.note_figures(part, {**figures, "sources": told} if told else figures)
        except MillstreamError as error:
            log.warning("the figures of %s could not be kept: %s", part, error)

    return tell


@contextmanager
def _signals(session: Session) -> Iterator[list[int]]:
    """While this lasts, SIGINT and SIGTERM are put into the list that it gives; a second SIGINT ends the process."""
    caught: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in caught:
            session.output.out.show_cursor()
            os._exit(INTERRUPTED)  # every commit is whole or not there: nothing is lost by ending here
        caught.append(number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may take signals
        yield caught
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended(parts: list[PartStatus], caught: list[int], session: Session) -> int:
    out = session.output
    failed = [p for p in parts if p.state == "failed"]
    paused = [p for p in parts if p.state == "paused"]
    how = "interrupted" if signal.SIGINT in caught else "stopped" if caught else "failed" if failed else "paused" if paused else "caught up"
    code = INTERRUPTED if signal.SIGINT in caught else FAILED if failed else PAUSED if paused else OK
    out.say(_WORDS[how])
    for p in paused:
        out.say(f"paused: {p.name}: {p.reason}", "yellow")
        out.say(f"  cure: {p.cure}", "green")
    if failed:
        out.say(f"failed: {', '.join(p.name for p in failed)}; `millstream status` says why and what to do", "red")
    out.line({"ended": how, "exit_code": code, "parts": [live.document(p, out) for p in parts]})
    return code
