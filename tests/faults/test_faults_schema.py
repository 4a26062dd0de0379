"""Columns that come, go and change under load and SIGKILLs: who is concerned, nobody else, and not one event lost or repeated."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults_events import Row
from faults_oracle import made_of
from faults_project import until
from faults_schema import MOVIE, STUDIO, Altered, Pipeline
from faults_schema_oracle import Wanted

from millstream.testing.postgres_server import PostgresServer

pytestmark = [pytest.mark.faults, pytest.mark.servers]

ALL = ("jsonl", "iceberg", "search")


def plain(sql: str) -> str:
    """A pipeline's query as Postgres takes it over the tables."""
    return sql.replace("archive.archive", "movie").replace("studio.public.", "")


def picks(*columns: str) -> Callable[[Row], Row]:
    return lambda found: {c: found[c] for c in columns}


def noted(found: Row) -> Row | None:
    return picks("id", "title", "note")(found) if found["note"] is not None else None


TITLES = f"SELECT id, title FROM {MOVIE}"
NOTED = f"SELECT id, title, note FROM {MOVIE} WHERE note IS NOT NULL"
REMARKED = f"SELECT m.id, m.note, s.name AS studio FROM {MOVIE} m LEFT JOIN {STUDIO} s ON s.id = m.studio_id"
ARCHIVE = f"SELECT * FROM {MOVIE}"
SHELF = f"SELECT m.*, s.name AS studio FROM archive.archive m LEFT JOIN {STUDIO} s ON s.id = m.studio_id"
PIPELINES = {
    "titles": Pipeline(TITLES, ("jsonl", "search"), Wanted(plain(TITLES), MOVIE, picks("id", "title"))),
    "noted": Pipeline(NOTED, ALL, Wanted(plain(NOTED), MOVIE, noted)),
    "remarked": Pipeline(REMARKED, ("jsonl",), Wanted(plain(REMARKED)), follow=True),
    "archive": Pipeline(ARCHIVE, ALL, Wanted(plain(ARCHIVE), MOVIE, lambda found: found), follow=True),
    "shelf": Pipeline(SHELF, ALL, Wanted(plain(SHELF)), follow=True),
}


@pytest.fixture
def world(faults_server: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Altered]:
    with Altered(faults_server, tmp_path, PIPELINES, seed=request.node.name) as made:
        yield made


def killed(world: Altered, times: int, rng: random.Random, lives_s: float = 3.0) -> None:
    """Run, and be killed at any moment, again and again."""
    for _ in range(times):
        with world.project.running() as process:
            threading.Event().wait(rng.uniform(0.5, lives_s))  # not to await anything: to hit any moment
            assert process.running, f"it ended by itself:\n{process.words[-3000:]}"
            process.signal(signal.SIGKILL)


def drop_note(world: Altered) -> None:
    world.alter("DROP COLUMN note", lambda found: found.pop("note", None) and None)


def drop_a_consumed_column(world: Altered, kills: int) -> None:
    rng = random.Random(f"drop {kills}")
    concerned = {"pipeline.noted", "pipeline.remarked"}
    foretold = world.project.json("schemas", "impact", MOVIE, "ALTER TABLE movie DROP COLUMN note", code=4)
    assert {f"pipeline.{a['pipeline']}" for a in foretold["affected"] if a["verdict"] == "pause"} == concerned
    with world.project.running() as process:
        world.written()
        drop_note(world)
        until("those concerned are paused", lambda: concerned <= world.paused())
        world.written()
        with world.workload.paused():
            until("all others are up to date", lambda: world.behind() <= concerned)
        assert process.running
        parts = world.parts()
        assert {name for name, p in parts.items() if p["state"] == "paused"} == concerned
        for name, step in (("noted", "noted"), ("remarked", "remarked")):
            said = parts[f"pipeline.{name}"]
            assert f"{MOVIE}.note" in said["reason"] and f"step {step} uses it" in said["reason"], said
            assert f"millstream resume {name}" in said["cure"], said
    killed(world, kills, rng)
    with world.workload.paused():
        world.project.command("run", "--until-caught-up", code=4)
        world.verdict(but={"noted", "remarked"})
        with world.topics() as topics:
            before = [e for e in world.events(topics, MOVIE) if "note" in e.schema.names]
            assert not made_of("noted before the change", world.events(topics, "noted.noted"), before, noted)
            since = {name: world.events(topics, f"{name}.{name}")[-1].offset + 1 for name in ("noted", "remarked")}
    world.edit("noted", TITLES, Wanted(plain(TITLES), MOVIE, picks("id", "title"), changed_at=since["noted"]))
    now = REMARKED.replace("m.note", "m.title")
    world.edit("remarked", now, Wanted(plain(now), changed_at=since["remarked"]))
    with world.project.running() as process:
        world.written()
        world.project.command("resume", "noted")
        threading.Event().wait(rng.uniform(0, 1.0))
        process.signal(signal.SIGKILL)
    world.project.command("resume", "remarked")
    killed(world, kills, rng)
    world.check()
    with world.topics() as topics:
        after = [e for e in world.events(topics, MOVIE) if "note" not in e.schema.names]
        edited = [e for e in world.events(topics, "noted.noted") if e.offset >= since["noted"]]
        # Before these stands what the edit has made of rows that were published earlier.
        assert not made_of("noted after the change", edited[-len(after) :], after, picks("id", "title"))


def test_a_consumed_column_is_dropped(world: Altered) -> None:
    drop_a_consumed_column(world, 1)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_consumed_column_is_dropped_and_killed_again_and_again(world: Altered) -> None:
    drop_a_consumed_column(world, 15)
