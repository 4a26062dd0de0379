"""A real process killed at every step of a switch from one generation of a product to the next, and of the way back.

Whatever the step, a search finds the whole of one generation, before and after; what was decided is finished at the next start.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from faults_points import points
from faults_project import until
from faults_world import World

from millstream.sinks.search.query import search
from millstream.testing.postgres_server import PostgresServer

pytestmark = [pytest.mark.faults, pytest.mark.servers]

POINTS = [p for p in points() if p.startswith("products.")]
DROPPED = "products.generation_dropped"
BEFORE = "products.before_decision"
"""Nothing was decided yet: what was searched still is."""

DOCUMENT = """SELECT m.id, m.title, m.director_id, p.name AS director, p.born
      FROM catalogue.public.movie m LEFT JOIN people.public.person p ON p.id = m.director_id"""
PRODUCT = """\
product: film
owner: team
root:
  from: catalogue.public.movie
  join: {{director: {{from: people.public.person, on: director.id = movie.director_id}}}}
  fields: {{id: , title: , director_id: , director: director.name, born: director.born, edition: "'{edition}'"}}
"""


@pytest.fixture(scope="module")
def world(faults_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(faults_server, tmp_path_factory.mktemp("products"), seed="products", pace_s=0.08) as made:
        for pipeline in (made.project.folder / "pipelines").iterdir():
            pipeline.unlink()  # they are the other files' to test
        define(made, "first")
        made.project.catch_up()
        yield made


def define(world: World, edition: str) -> None:
    path = world.project.folder / "products" / "film.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(PRODUCT.format(edition=edition))
    world.project.command("apply")


def documents(world: World) -> list[dict[str, Any]]:
    """What `millstream search` finds, without a process for it."""
    return [hit.document for hit in search(world.project.state, "film", "*", limit=10_000).hits]


def edition(world: World) -> str:
    """Of all documents that a search finds: they are of one."""
    found = {document["edition"] for document in documents(world)}
    assert len(found) == 1
    return str(found.pop())


def assert_whole(world: World) -> None:
    """The index that is searched holds exactly what Postgres makes of the rows."""
    with world.workload.paused():
        world.project.catch_up()
        meant = world.truth(DOCUMENT)
        found = {d["id"]: {k: v for k, v in d.items() if k not in ("edition", "_seen")} for d in documents(world)}
    assert found == meant


@pytest.mark.parametrize("point", [p for p in POINTS if p != DROPPED])
def test_killed_while_searches_are_switched(point: str, world: World) -> None:
    was = edition(world)
    define(world, point)
    process = world.project.start("run", fault=f"{point}:1:KILL")
    assert process.wait(120) == -signal.SIGKILL, process.words[-3000:]
    assert edition(world) in (was, point)
    assert_whole(world)
    assert edition(world) == point
    assert world.project.json("products", "list")[0]["next"] is None


@pytest.mark.parametrize("point", [p for p in POINTS if p != DROPPED])
def test_killed_while_searches_are_led_back(point: str, world: World) -> None:
    define(world, f"back {point}")
    assert_whole(world)
    here = edition(world)
    process = world.project.start("products", "rollback", "film", fault=f"{point}:1:KILL")
    assert process.wait(60) == -signal.SIGKILL
    assert_whole(world)
    assert (edition(world) == here) == (point == BEFORE)


def test_killed_while_a_generation_is_dropped(world: World) -> None:
    define(world, "dropping")
    assert_whole(world)
    process = world.project.start("products", "drop", "film", fault=f"{DROPPED}:1:KILL")
    assert process.wait(60) == -signal.SIGKILL
    assert world.project.json("products", "list")[0]["kept"] == []
    world.project.command("apply")
    assert_whole(world)
    assert edition(world) == "dropping"


def test_led_back_while_it_runs(world: World) -> None:
    define(world, "running")
    with world.project.running():
        until("the new generation is searched", lambda: edition(world) == "running")
        world.project.command("products", "rollback", "film")
        assert edition(world) != "running"
    assert_whole(world)
    assert edition(world) != "running"
