"""The two crash walks: a real process killed by its own hand at every named moment, then held against the oracle.

The moments are read from the source text. One world goes on from kill to kill; what happens only at a first start, or after
a lost state, has a world of its own or loses its state first. A moment that is not reached fails.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from faults_points import points
from faults_project import Living
from faults_world import World
from test_faults_gate import POINTS as GATE

from millstream.testing.postgres_server import PostgresServer

pytestmark = [pytest.mark.faults, pytest.mark.servers]

REACHED_WITHIN_S = 60.0
PACE_S = 0.08  # some 40 transactions a second: every moment comes soon, and a world of many kills stays small

FIRST_START = ("connector.window_open", "rebuild.before_publish")
"""Moments of the initial load and of a pipeline's first evaluation."""
LOST_STATE = ("pipeline.after_rebuild",)
ENDING = ("runner.part_over",)
"""Moments of a run that comes to its end by itself."""
ELSEWHERE = (
    "products.",
    "matches.",
    "topics.compact",
    "truncate.",
    "copies.",
    "admission.",
    "incarnation.",
    "registry.",
    "sink.iceberg.changed",
    *GATE,
)
"""Moments that other files walk: some beside this one, and the conformance of topics and of sources."""


class LivingWorld:
    """A world that has had its first start and goes on from test to test; one that a test failed in is not used again."""

    def __init__(self, make: Callable[[Path, str], Living], folder: Path) -> None:
        """`make(folder, seed)` gives a new one."""
        self._make, self._folder = make, folder
        self._stack = ExitStack()
        self._world: Living | None = None
        self._made = 0

    def __enter__(self) -> LivingWorld:
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def take(self) -> Living:
        """The world, until `give_back`."""
        if self._world is None:
            self._stack.close()
            self._made += 1
            folder = self._folder / str(self._made)
            folder.mkdir()
            self._world = self._stack.enter_context(self._make(folder, f"living {self._made}"))
            self._world.check()
        world, self._world = self._world, None
        return world

    def give_back(self, world: Living) -> None:
        self._world = world


@pytest.fixture(scope="module")
def living(faults_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivingWorld]:
    def make(folder: Path, seed: str) -> World:
        return World(faults_server, folder, seed=seed, pace_s=PACE_S)

    with LivingWorld(make, tmp_path_factory.mktemp("living")) as made:
        yield made


def die_at(world: Living, point: str, times: int, *arguments: str) -> None:
    """Run under the workload until the process kills itself at `point`, the `times`-th time it gets there."""
    process = world.project.start("run", *arguments, fault=f"{point}:{times}:KILL")
    code = process.wait(REACHED_WITHIN_S)
    assert code == -signal.SIGKILL, f"{point} was not reached {times} times; the run ended with {code}:\n{process.words[-3000:]}"


@pytest.mark.parametrize("point", [p for p in points() if p not in FIRST_START and not p.startswith(ELSEWHERE)])
def test_killed_at(point: str, living: LivingWorld) -> None:
    world = living.take()
    times = 1 if point in LOST_STATE + ENDING or point.endswith("_fence") or point.endswith("_open") else random.Random(point).randint(1, 4)
    if point in LOST_STATE:
        (world.project.state / "state" / "documents.duckdb").unlink()
    die_at(world, point, times, *(["--until-caught-up"] if point in ENDING else []))
    world.check()
    living.give_back(world)


@pytest.mark.parametrize("point", FIRST_START)
def test_killed_at_the_first_start(point: str, world: World) -> None:
    die_at(world, point, 1)
    world.check()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("point", [p for p in points() if p not in ENDING and not p.startswith(ELSEWHERE)])
def test_killed_at_the_first_start_each(point: str, faults_server: PostgresServer, tmp_path: Path) -> None:
    """Every moment also while the initial load goes on beside the workload; twice over, so that the second start dies too."""
    with World(faults_server, tmp_path, seed=f"first {point}") as world:
        die_at(world, point, 1)
        if point not in FIRST_START + LOST_STATE:
            die_at(world, point, 2 if point.startswith(("connector.before_fence", "connector.after_fence")) else 1)
        world.check()


def test_every_special_moment_exists() -> None:
    assert set(FIRST_START + LOST_STATE + ENDING) <= set(points())
