"""A project of random pipelines over tables that change, and its mesh in one process, stepped part by part: killed at any named moment or
between two steps, opened anew from what is on disk, paused pipelines resumed by the command.

Everything is put together as `millstream run` does it; only threads and servers are missing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from schema_chains_database import FIRST, ChangingDatabase
from schema_chains_queries import KINDS, TABLES, Made, again, make

from millstream import wiring
from millstream.capture.connector import Connector
from millstream.catalogue.controller import Controller, change_of_all
from millstream.catalogue.controller import change as change_of
from millstream.catalogue.judge import Versions, definition_of
from millstream.cli import discover
from millstream.cli.app import call
from millstream.cli.mesh import Mesh
from millstream.cli.output import Secrets
from millstream.cli.run import as_applied, put_in_place
from millstream.components import Component
from millstream.engine import gate, pipeline
from millstream.engine.gate import Paused
from millstream.engine.pipeline import Pipeline
from millstream.engine.sinkrun import SinkRun
from millstream.events.types import RowSchema
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.impact import Consumer, consumer
from millstream.pipelines.rollout import Step
from millstream.testing.scripted_source import ScriptedSource
from millstream.wiring import Wiring

KILLED_IN = ("capture.connector", "engine.pipeline", "engine.publisher", "engine.rebuild", "engine.sinkrun")
STEPS_MAX = 6000


class Crash(BaseException):
    """Not an Exception: nothing may swallow it, as nothing swallows kill -9."""


class Options(BaseModel):
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Scripted(Component):
    make: Callable[[str], Any] = field(kw_only=True)

    def open(self, *args: Any, **kwargs: Any) -> Any:
        return self.make(args[0])


@dataclass
class Chains:
    """What outlives a process: files, database, what was seen."""

    folder: Path
    rng: random.Random
    kills: float
    database: ChangingDatabase
    made: dict[str, Made] = field(default_factory=dict)
    mesh: Mesh | None = None
    crashes: int = 0
    armed: bool = False
    may_rebuild: set[str] = field(default_factory=set)
    rebuilt: list[str] = field(default_factory=list)
    now: float = 0.0

    # ---- the project

    living: Mesh = field(init=False)  # of the process that runs
    stepping: bool = False  # a command may be killed

    @classmethod
    def begin(
        cls, folder: Path, seed: int, kills: float, monkeypatch: pytest.MonkeyPatch, wanted: Sequence[tuple[str, str, str]] = ()
    ) -> Chains:
        """`wanted`: the pipelines' kinds, what they do about changes, and what they read, where not left to chance."""
        rng = random.Random(seed)
        world = cls(folder, rng, kills, ChangingDatabase(dict(FIRST), random.Random(seed)))
        world.watch(monkeypatch)
        (folder / "mesh.yaml").write_text("mesh: chains\n")
        for name in ("sources", "pipelines", "products"):
            (folder / name).mkdir()
        tables = ", ".join(t.removeprefix("src.") for t in TABLES)
        (folder / "sources/src.yaml").write_text(f"source: src\nconnector: scripted\ntables: [{tables}]\nowner: team-src\n")
        for table in FIRST:
            world.database.write(table, 4)
        for number in range(len(wanted) or rng.randint(3, 5)):
            world.add(number, *wanted[number : number + 1])
        assert world("apply") == 0
        return world

    def add(self, number: int, wanted: tuple[str, str, str] = ("", "", "")) -> None:
        """One more pipeline, over a table or what another pipeline makes of one."""
        rng, kind = self.rng, wanted[0] or self.rng.choice(KINDS)
        topics = list(TABLES)
        schemas = {f"src.{t}": s for t, s in self.database.tables.items()}
        if kind.startswith("behind"):
            with self.opened() as mesh:
                theirs = [m.topic(m.published[0]) for m in self.made.values() if m.kind != "product"]
                plans = {o.topic: n.schema for p in self.plans(mesh) for o in p.outputs for n in p.nodes if n.name == o.node}
            schemas |= {t: plans[t] for t in theirs}
            topics = theirs or topics
        evolve, over = wanted[1] or rng.choice(["pinned", "follow"]), wanted[2] or rng.choice(topics)
        self.put(make(f"p{number}", kind, evolve, over, schemas, rng, rng.random() < 0.5))

    def put(self, made: Made) -> None:
        self.made[made.name] = made
        (self.folder / made.file).write_text(made.text)

    def of(self, pipeline_: str) -> Made:
        return next(m for m in self.made.values() if m.pipeline == pipeline_)

    def last_write(self, table: str) -> int:
        """How many entries there were before the last transaction on the table: its events are in the schema of then."""
        return max((i for i, e in enumerate(self.database.log) if isinstance(e, list) and any(c.table == table for c in e)), default=0)

    @property
    def tables_read(self) -> list[str]:
        read = {t for m in self.made.values() for t in m.reads}
        return [t for t in self.database.tables if f"src.{t}" in read]

    def paused(self, process: Process, made: Made) -> bool:
        """Whether it or a sink of it is."""
        return any(p == f"pipeline.{made.pipeline}" or p.startswith(f"sink.{made.pipeline}.") for p in process.paused)

    # ---- commands, as another process gives them

    @property
    def wiring(self) -> Wiring:
        kind = Scripted("scripted", Options, "", make=lambda name: ScriptedSource(name, self.database))
        return Wiring({}, sources=(kind,))

    def __call__(self, *arguments: str) -> int:
        was, self.armed = self.armed, False
        try:
            return call(["--project", str(self.folder), *arguments], self.wiring, Secrets())
        finally:
            self.armed = was

    def killed(self, *arguments: str) -> int:
        """The command, killed between two steps of it or not, and given again."""
        self.stepping = True
        try:
            self(*arguments)
        except Crash:
            self.crashes += 1
        finally:
            self.stepping = False
        return self(*arguments)

    def apply(self) -> None:
        """`millstream apply`, over everything: whatever runs may be made anew, products that make something else get a generation."""
        assert self.killed("apply") == 0
        with self.opened() as mesh:
            products = mesh.catalogue.products()
        self.made = {n: replace(m, generation=products[n].applied) if n in products else m for n, m in self.made.items()}
        self.may_rebuild |= {m.pipeline for m in self.made.values()}

    def broken(self) -> list[Made]:
        """What does not hold over the topics as they are now, as its owner left it."""
        with self.opened() as mesh:
            try:
                found = change_of_all(mesh.project, discover.registered(mesh), mesh.catalogue).behind
            except InvalidProject as error:
                found = error.diagnostics
        names = {d.path.split(".")[1] for d in found}
        return [m for m in self.made.values() if m.name in names]

    def edit(self, made: Made) -> None:
        """As its owner does, for the topics as they are."""
        with self.opened() as mesh:
            known = discover.registered(mesh).inputs
        self.put(replace(again(made, {t: known[t].schema for t in known}, self.rng), generation=made.generation))

    def opened(self) -> Any:
        return self.wiring.open(self.wiring.load(self.folder))

    @staticmethod
    def plans(mesh: Mesh) -> Sequence[Any]:
        return change_of(mesh.project, discover.discovered(mesh), mesh.catalogue).plans

    def consumers(self) -> list[Consumer]:
        """The pipelines as they run, each with the versions that it has accepted itself."""
        mesh, project = self.living, self.wiring.load(self.folder)
        plans = change_of(project, discover.applied(mesh), mesh.catalogue, stay=lambda _: True).plans
        products = [p.name for p in project.products]

        def history(topic: str) -> list[RowSchema]:
            return list(Versions(self.living.topics, self.living.registry).of(topic).values())

        return [consumer(p, definition_of(project, mesh.catalogue, p.pipeline), {}, history, products) for p in plans]

    # ---- what is watched

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def reached(name: str) -> None:
            if self.armed and name and self.rng.random() < self.kills:
                raise Crash(name)

        for module in KILLED_IN:
            monkeypatch.setattr(import_module(f"millstream.{module}"), "reached", reached)
        monkeypatch.setattr(pipeline, "PROGRESS_EVERY_S", 0.0)
        monkeypatch.setattr(wiring, "LINGER_OTHERS_S", 0.0)
        whole, propagate, do = Pipeline._build, gate.Gate.propagate, Controller._do

        def build(part: Pipeline) -> bool:
            name = part.plan.pipeline
            assert name in self.may_rebuild, f"{name} is rebuilt, and nothing was ruled that asks for it"
            done = whole(part)
            if done:
                self.rebuilt.append(name)
                self.may_rebuild.discard(name)
            return done

        def propagated(self_: gate.Gate, plan: Any, met: Any, ruling: Any, how: str) -> None:
            if how.startswith("rebuild"):
                self.may_rebuild.add(plan.pipeline)
            propagate(self_, plan, met, ruling, how)

        def done(controller: Controller, step: Step) -> None:
            for what in (lambda: None, lambda: do(controller, step)):
                what()
                if self.stepping and self.kills and self.rng.random() < 0.15:
                    raise Crash(f"at {step}")

        monkeypatch.setattr(Controller, "_do", done)
        monkeypatch.setattr(Pipeline, "_build", build)
        monkeypatch.setattr(gate.Gate, "propagate", propagated)

    def clock(self) -> float:
        self.now += self.rng.random()
        return self.now


class Process:
    """One process that runs the mesh, from its start to its end or its death."""

    def __init__(self, world: Chains) -> None:
        self.world, self._stack = world, ExitStack()
        world.armed = False
        self.mesh: Mesh = self._stack.enter_context(world.opened())
        world.living = self.mesh
        change = as_applied(self.mesh)
        self.pipelines, self.sinks = self.mesh.parts(self.mesh.project, change.plans)
        self.connector = Connector(self.mesh.source("src"), self.mesh.topics, self.mesh.registry, world.clock)
        self.open: set[int] = set()
        self.paused: dict[str, Paused] = {}
        world.armed = True

    @property
    def parts(self) -> list[Any]:
        return [self.connector, *self.pipelines, *self.sinks]

    def step(self) -> bool:
        """One part's next step, by chance. Raises Crash."""
        part = self.world.rng.choice([p for p in self.parts if p.name not in self.paused])
        try:
            if id(part) not in self.open:
                part.open()
                self.open.add(id(part))
            return bool(part.step())
        except Paused as e:
            self.paused[part.name] = e
            self.mesh.catalogue.report(part.name, "paused", e.message, e.cure)
            return True

    def quiet(self) -> bool:
        """All that was committed is through all that runs."""
        if any(id(p) not in self.open for p in self.parts if p.name not in self.paused):
            return False
        at = self.connector.position
        if not self.connector.loaded or at is None or (at.major, at.minor) < self.world_head:
            return False
        running = [p for p in (*self.pipelines, *self.sinks) if p.name not in self.paused]
        return all(p.caught_up({t: self.mesh.topics.end(t) for t in p.reads}) for p in running)

    @property
    def world_head(self) -> tuple[int, int]:
        return 10 * len(self.world.database.log) + 1, 0

    def replace(self, gone: Callable[[str], bool], pipelines: Sequence[Pipeline], sinks: Sequence[SinkRun]) -> None:
        """As the runner does it: the named parts stop, these begin; nothing else is touched."""
        for part in (*self.pipelines, *self.sinks):
            if gone(part.name):
                self.paused.pop(part.name, None)
                if id(part) in self.open:
                    part.close()
                    self.open.discard(id(part))
        self.pipelines = [p for p in self.pipelines if not gone(p.name)] + list(pipelines)
        self.sinks = [s for s in self.sinks if not gone(s.name)] + list(sinks)
        order = {f"pipeline.{m.pipeline}": i for i, m in enumerate(self.world.made.values())}
        self.pipelines.sort(key=lambda p: order[p.name])

    def put_in_place(self, pipeline_: str) -> None:
        self.world.armed = False
        put_in_place(self.mesh, self.world.wiring.load(self.world.folder), self, pipeline_)  # type: ignore[arg-type]
        self.world.armed = True

    def end(self) -> None:
        self.world.armed = False
        for part in (*self.pipelines, *self.sinks):
            if id(part) in self.open:
                part.close()
        self._stack.close()


def run_until_quiet(world: Chains, process: Process | None, during: Sequence[Callable[[], None]] = ()) -> Process:
    """Steps, kills and openings by chance, with `during` done in between, until nothing is left. Gives the process that lives then."""
    left = list(during)
    for _ in range(STEPS_MAX):
        if process is None:
            process = Process(world)
        try:
            if left and world.rng.random() < 0.3:
                left.pop(0)()
            process.step()
            if world.rng.random() < world.kills / 4:
                raise Crash("between two steps")
        except Crash:
            world.crashes += 1
            process.end()
            process = None
            continue
        if not left and process.quiet():
            return process
    raise AssertionError(f"never quiet: {[(p.name, getattr(p, 'positions', None)) for p in process.parts] if process else ''}")
