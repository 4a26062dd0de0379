"""CockroachDB's tables change under load and SIGKILLs: new columns go everywhere by themselves, and what the database tells again for them
goes nowhere twice."""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faults_altered_cockroach import PACE, AlteredCockroach, Cockroach, at_of
from faults_cockroach import CLUSTER
from faults_project import until
from faults_schema import MOVIE, QUIET
from faults_schema_oracle import Wanted
from test_faults_schema import CHAIN, killed

from millstream.testing.cockroach.process import CockroachProcess

pytestmark = [pytest.mark.faults, pytest.mark.servers]

QUIET_KEYS = range(int(QUIET.split(", ")[0]), int(QUIET.split(", ")[1]) + 1)
PINNED, FOLLOWING = ("titles", "whole"), ("archive", "recent", "shelf")
SINKS = {"archive": ("iceberg", "search"), "recent": ("jsonl",), "shelf": ("search",), "titles": ("jsonl",), "whole": ("jsonl",)}
PIPELINES = {name: replace(CHAIN[name], sinks=sinks) for name, sinks in SINKS.items()}
# The middle one filters nothing: of a row that is read again a filter must say that it is not there, whether or not it ever was.
PIPELINES["recent"] = replace(
    PIPELINES["recent"], sql="SELECT * FROM archive.archive", wanted=Wanted("SELECT * FROM movie", "archive.archive", lambda found: found)
)
PIPELINES["shelf"] = replace(
    PIPELINES["shelf"], wanted=Wanted("SELECT m.*, s.name AS studio FROM movie m LEFT JOIN studio s ON s.id = m.studio_id")
)


@pytest.fixture(params=["26.1", pytest.param("22.1", marks=pytest.mark.long), CLUSTER])
def cockroach(request: pytest.FixtureRequest) -> Iterator[Cockroach]:
    if request.param == CLUSTER:
        pytest.skip("the audit is the stand-in's own record of what was written: shown on it alone, nothing on a real CockroachDB")
    with CockroachProcess("--version", request.param, "--pace", str(PACE)) as process:
        yield Cockroach(process)


@pytest.fixture
def world(cockroach: Cockroach, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[AlteredCockroach]:
    with AlteredCockroach(cockroach, tmp_path, PIPELINES, seed=request.node.name, pace_s=0.1) as made:
        yield made


def add_columns(world: AlteredCockroach, kills: int) -> None:
    """Scenes of one run: a column that old rows have null in, one with a constant, one that is computed, one with another value each."""
    rng = random.Random(f"add {kills}")
    ends = {name: end(world, name) for name in PINNED}
    with world.project.running() as process:
        until("the pinned ones have written", lambda: all(end(world, name) > ends[name] for name in PINNED))
        before = world.parts()
        world.run("ALTER TABLE movie ADD COLUMN later STRING")
        world.workload.columns["later"] = "text"
        world.written(10)
        world.run("ALTER TABLE movie ADD COLUMN extra STRING NOT NULL DEFAULT 'x'")
        world.written(10)
        with world.workload.paused():
            until("both columns are in the last topic", lambda: has(world, "shelf.shelf", "extra"), 180)
        after = world.parts()
        for name in PINNED:
            assert after[f"pipeline.{name}"]["fence"] == before[f"pipeline.{name}"]["fence"], f"{name} was opened anew"
        assert process.running
        process.signal(signal.SIGKILL)
    with world.topics() as topics:
        reads = [e for e in world.events(topics, MOVIE) if e.cause == "schema"]
        assert not reads, f"a column that readers fill in was read again: {reads[:3]}"
    with world.project.running() as process:
        world.written(10)
        world.run("ALTER TABLE movie ADD COLUMN doubled INT8 AS (year * 2) STORED")
        threading.Event().wait(rng.uniform(0, 1.0))  # not to await anything: to hit any moment
        process.signal(signal.SIGKILL)
    killed(world, kills - 1, rng)
    world.run("ALTER TABLE movie ADD COLUMN mark UUID NOT NULL DEFAULT gen_random_uuid()")
    killed(world, kills, rng)
    world.check()
    with world.topics() as topics:
        told = world.events(topics, MOVIE)
        again = [e for e in told if e.cause == "schema"]
        assert {e.op for e in again} == {"r"}
        written = [w for w in world.written_rows("movie") if w.cause == "schema"]
        # Each row that nobody touched: once for the computed column, once for the other, with what the database gave it.
        for column in ("doubled", "mark"):
            told_for = [e for e in again if column in e.schema.names and (column == "mark") == ("mark" in e.schema.names)]
            counts = Counter(e.key for e in told_for)
            assert {k: counts[k] for k in QUIET_KEYS} == dict.fromkeys(QUIET_KEYS, 1), (column, counts)
            assert max(counts.values()) == 1, f"{column}: a row came twice"
        assert {at_of(e) for e in again} <= {w.at for w in written}, "told at a time at which nothing was told again"
        for name in FOLLOWING:
            assert {"later", "extra", "doubled", "mark"} <= set(world.events(topics, f"{name}.{name}")[-1].schema.names)
            last = {e.key: e.after for e in world.events(topics, f"{name}.{name}") if e.key in QUIET_KEYS}
            assert {(r["later"], r["extra"], r["doubled"]) for r in last.values() if r} == {(None, "x", 4002)}
        for name in PINNED:
            assert len(world.history(f"{name}.{name}")) == 1, f"{name} has another version"


def end(world: AlteredCockroach, name: str) -> int:
    with world.topics() as topics:
        return topics.end(f"{name}.{name}")


def has(world: AlteredCockroach, topic: str, column: str) -> bool:
    with world.topics() as topics:
        events = world.events(topics, topic)
    return bool(events) and events[-1].schema is not None and column in events[-1].schema.names


@pytest.mark.timeout(900)
def test_columns_are_added(world: AlteredCockroach) -> None:
    add_columns(world, 1)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_columns_are_added_and_killed_again_and_again(world: AlteredCockroach) -> None:
    add_columns(world, 12)
