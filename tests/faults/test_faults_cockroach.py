"""CockroachDB under the workload and the weather: killed at random and at every named moment of the connector's way.

Each change once, in the order of its key, none missing: held against an audit that was written in the same transactions. The feeds repeat
and reorder what they tell, and are split, dropped, drained and held up all the while.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults_cockroach import CLUSTER, NOT_SHOWN, URL, CockroachWorld
from faults_points import points
from test_faults_points import FIRST_START, LivingWorld, die_at
from test_faults_random import kill_at_random

pytestmark = [pytest.mark.faults, pytest.mark.servers]

CONNECTOR = ("connector.", "admission.", "registry.", "topics.appended", "topics.committed")
SHORT = ("connector.before_commit", "topics.appended", "admission.reading")
ONCE = (
    "connector.after_open",
    "connector.before_fence",
    "connector.after_fence",
    "admission.reading",
    "registry.schema",
    "registry.version",
)
"""Moments that a run passes at its start, or at a changed schema."""

MakeWorld = Callable[..., CockroachWorld]


@pytest.fixture(params=["26.1", pytest.param("22.1", marks=pytest.mark.long), CLUSTER])
def make_world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeWorld]:
    """Worlds of one kind, already entered."""
    made: list[CockroachWorld] = []
    if request.param == CLUSTER and not URL:
        pytest.skip(NOT_SHOWN)

    def make(**settings: Any) -> CockroachWorld:
        made.append(CockroachWorld(request.param, tmp_path, seed=request.node.name, **settings).__enter__())
        return made[-1]

    yield make
    for world in made:
        world.__exit__(None, None, None)


def killed(world: CockroachWorld, kills: int, rng: random.Random) -> None:
    """Kills at random, then everything once more from the first offset on. Prints what it was made of."""
    began = time.monotonic()
    kill_at_random(world, kills, rng, at_work=0.6)
    took = time.monotonic() - began
    world.reread()
    world.check()
    told = world.told()
    print(f"\n{kills} kills in {took:.0f} s, {world.workload.rows / took:.0f} rows/s; weather {dict(world.weather.gusts)}; left out {told}")
    assert told["repeats"] > 0, "no feed repeated anything: nothing was tested"


def test_ten_kills_at_random_moments(make_world: MakeWorld) -> None:
    killed(make_world(), 10, random.Random("ten"))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_kills_at_random_moments(make_world: MakeWorld) -> None:
    killed(make_world(pace_s=0.005, rows_each=25), 100, random.Random("hundred"))


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivingWorld]:
    def make(folder: Path, seed: str) -> CockroachWorld:
        return CockroachWorld("26.1", folder, seed=seed, pace_s=0.05)

    with LivingWorld(make, tmp_path_factory.mktemp("living")) as made:
        yield made


@pytest.mark.parametrize(
    "point",
    [pytest.param(p, marks=() if p in SHORT else pytest.mark.long) for p in points() if p.startswith(CONNECTOR) and p not in FIRST_START],
)
def test_killed_at(point: str, living: LivingWorld) -> None:
    world = living.take()
    assert isinstance(world, CockroachWorld)
    if point.startswith("registry."):
        world.add_column()
    die_at(world, point, 1 if point in ONCE else random.Random(point).randint(1, 4))
    world.check()
    living.give_back(world)


def test_killed_with_much_above_the_frontier(living: LivingWorld) -> None:
    """Several commits, and no resolved time that reaches them: all of them come again, and only the topic's tail knows."""
    world = living.take()
    assert isinstance(world, CockroachWorld)
    with world.weather.calm():
        world.cockroach.tell("hold_resolved")
        die_at(world, "connector.after_commit", 8)
        world.cockroach.tell("hold_resolved off")
    world.check()
    living.give_back(world)


@pytest.mark.long
@pytest.mark.parametrize("point", [p for p in points() if p.startswith(CONNECTOR) and not p.startswith("registry.")])
def test_killed_at_the_first_start(point: str, tmp_path: Path) -> None:
    with CockroachWorld("26.1", tmp_path, seed=f"first {point}", pace_s=0.05) as world:
        die_at(world, point, 1)
        world.check()


def test_every_moment_exists() -> None:
    assert {*SHORT, *ONCE} <= set(points())
