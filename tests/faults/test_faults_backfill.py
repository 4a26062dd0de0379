"""Backfills that people ask for, under steady writes and SIGKILLs: no newer value is ever replaced, in the topic or in the index; every row
of theirs is marked, none comes twice; what the database has not any more is gone; all converges to the table."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from faults_altered_cockroach import PACE, Cluster, Cockroach
from faults_backfill import LOST, TOPIC, CockroachWorld, World, over
from faults_cockroach import CLUSTER, NOT_SHOWN, URL
from faults_project import until

from millstream.capture.backfill import Order
from millstream.sinks.search.query import Question, search
from millstream.sources.contract import Scope
from millstream.testing.cockroach.process import CockroachProcess

pytestmark = [pytest.mark.faults, pytest.mark.servers]

LARGE = {"postgres": 2_000_000, "cockroachdb": 200_000}
"""Rows. The stand-in, all in Python, gets a tenth."""
AT_ONCE = 1e9
FIGURES_S = 75.0
"""A part tells the latency of its last minute."""


@pytest.fixture(params=["postgres", "cockroachdb", CLUSTER])
def worlds(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == CLUSTER and not URL:
        pytest.skip(NOT_SHOWN)
    with ExitStack() as held:

        def make(rows: int, **settings: Any) -> World:
            if request.param == "postgres":
                world = World(request.getfixturevalue("faults_server"), tmp_path, rows, **settings)
            elif request.param == CLUSTER:
                world = CockroachWorld(Cluster(URL), tmp_path, rows, **settings)
            else:
                process = held.enter_context(CockroachProcess("--pace", str(PACE)))
                world = CockroachWorld(Cockroach(process), tmp_path, rows, **settings)
            held.callback(world.close)
            return world

        yield make


def test_of_all_kinds_under_writes_and_kills(worlds: Any) -> None:
    """All rows, keys and a condition at once, one of them paused and throttled on the way; the process is killed; then the topic is
    compared with the table."""
    world = worlds(1_000, writes_per_s=60, chunk_bytes=12_000)
    project, rng = world.project, random.Random("all kinds")
    project.command("apply")
    project.catch_up()
    world.lose_deletes()
    keys = [*range(1, 300), 99_999]
    (project.folder / "keys.txt").write_text("\n".join(map(str, keys)))
    with world.beside("all kinds"):
        project.command("backfill", "start", "shop", "public.item", "--name", "listed", "--keys", "@keys.txt", "--throttle", "100")
        with world.catalogue() as catalogue:
            catalogue.backfills.ask(Order("every", "shop", "public.item", estimate=1_000, throttle=300))
            catalogue.backfills.ask(Order("third", "shop", "public.item", Scope(where="kind = 'k3' AND rev > 0"), wanted="pause"))
        for _ in range(2):
            read = world.told()["every"].read
            with project.running() as process:
                until("it reads on", lambda read=read: world.told()["every"].read > read or over(world, "every"), 60)
                threading.Event().wait(rng.uniform(0.0, 1.0))  # not to await anything: to hit any moment
                process.signal(signal.SIGKILL)
        assert search(project.state, "items", Question("note:lost", limit=1)).total == len(LOST)
        assert world.told()["third"].read == 0, "it is paused"
        with project.running(), world.catalogue() as catalogue:
            catalogue.backfills.want("third", "run")
            catalogue.backfills.throttle("listed", None)
            until("all are read", lambda: over(world, "every", "listed", "third"), 90)
            lost = Scope(where="kind = 'k3' AND id < -40")
            catalogue.backfills.ask(Order("some", "shop", "public.item", lost, reconcile=True))
            until("a part is compared", lambda: over(world, "some"), 60)
            catalogue.backfills.ask(Order("compared", "shop", "public.item", reconcile=True, throttle=1_000))
            until("it compares", lambda: world.told()["compared"].read > 0, 60)
        with project.running():
            until("all is compared", lambda: over(world, "compared"), 90)
    project.catch_up()
    said = world.check({"every", "listed", "third", "some", "compared"})
    assert said["every"]["r"] > 700
    assert 100 < said["listed"]["r"] <= 300, "all but those that were gone, or changed while they were read"
    assert said["third"]["r"] > 40
    assert said["some"]["d"] == 20, "those of the condition alone"
    assert said["compared"]["d"] == len(LOST) - 20
    assert said["compared"]["r"] + said["some"]["r"] == 0, "what the topic has as it is needs no event"
    assert said["every"]["d"] + said["listed"]["d"] + said["third"]["d"] == 0


def test_rows_whose_delete_was_lost_leave_the_table_and_the_index_and_rows_that_come_meanwhile_stay(worlds: Any) -> None:
    """An Iceberg table and an index, both of which have what the database has not. One of the lost keys is written again meanwhile."""
    world = worlds(120, writes_per_s=40, chunk_bytes=1_500, lake=True)
    project = world.project
    project.command("apply")
    project.catch_up()
    world.lose_deletes()
    project.catch_up()
    assert world.view().keys() == {*LOST, *range(1, 121)}
    assert search(project.state, "items", Question("note:lost", limit=1)).total == len(LOST)
    come = {LOST[0], LOST[-1], *range(1_001, 1_011)}
    with world.beside("lost"), project.running(), world.catalogue() as catalogue:
        catalogue.backfills.ask(Order("compared", "shop", "public.item", reconcile=True, throttle=10))
        until("it compares", lambda: world.told()["compared"].read > 0)
        with world.server.connect(world.name) as connection:
            for key in come:
                connection.execute("INSERT INTO item VALUES (%s, 1, 'k0', 'written')", [key])
        assert not over(world, "compared")
        catalogue.backfills.throttle("compared", None)
        until("all is compared", lambda: over(world, "compared"))
    project.catch_up()
    said = world.check({"compared"})["compared"]
    assert len(LOST) - 2 <= said["d"] <= len(LOST), "a key that was written again may have been told as gone before"
    assert world.view().keys() & {*LOST, *range(1_001, 1_011)} == come


@pytest.mark.long
@pytest.mark.parametrize("worlds", ["cockroachdb", CLUSTER], indirect=True)
def test_a_changefeed_begins_again_after_a_kill(worlds: Any) -> None:
    """What it told before the kill stays as it is, and no newer value is replaced."""
    world = worlds(600, writes_per_s=10, chunk_bytes=12_000)
    project = world.project
    project.command("apply")
    project.catch_up()
    with world.beside("changefeed"):
        project.command("backfill", "start", "shop", "public.item", "--name", "scan", "--method", "changefeed", "--throttle", "200")
        with project.running() as running:
            until("it reads", lambda: world.chunks("scan") > 0, 60)
            assert not over(world, "scan")
            running.signal(signal.SIGKILL)
        with world.catalogue() as catalogue:
            catalogue.backfills.throttle("scan", None)
        with project.running():
            until("all is read", lambda: over(world, "scan"), 90)
    project.catch_up()
    said = world.check({"scan"}, {"scan"})
    told, runs = world.told()["scan"], Counter(e.version for e in world.events(TOPIC) if e.marks[1] == "scan")
    assert (len(runs), sum(runs.values())) == (2, said["scan"]["r"])
    assert told.rows == runs[max(runs)] > 0, "only the last run counts"


@pytest.mark.long
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("kind", ["plain", "reconcile"])
def test_a_large_table_under_five_hundred_writes_a_second(worlds: Any, kind: str, request: pytest.FixtureRequest) -> None:
    """Killed five times. Prints the live latency, from commit to searchable, beside the backfill, as the readers bear it and as fast as it
    goes, and while it is paused, in turn; it is no promise."""
    server = "postgres" if "postgres" in request.node.name else "cockroachdb"
    world = worlds(LARGE[server], writes_per_s=500, chunk_bytes=1 << (20 if server == "postgres" else 18))
    project, rng = world.project, random.Random("two million")
    project.command("apply")
    project.start("run", "--until-caught-up").wait(1800)
    if kind == "reconcile":
        world.lose_deletes()
    with world.beside("two million"):
        project.command("backfill", "start", "shop", "public.item", "--name", kind, *(["--reconcile"] if kind == "reconcile" else []))
        for _ in range(5):
            chunks = world.chunks(kind)
            with project.running() as process:
                until("it reads on", lambda chunks=chunks: world.chunks(kind) > chunks, 300)
                threading.Event().wait(rng.uniform(0.0, 4.0))  # not to await anything: to hit any moment
                assert not over(world, kind)
                process.signal(signal.SIGKILL)
        without, beside, fast = list[Any](), list[Any](), list[Any]()
        with project.running(), world.catalogue() as catalogue:
            at, read = time.monotonic(), world.told()[kind].read
            for wanted, throttle, figures in [("run", None, beside), ("pause", None, without), ("run", AT_ONCE, fast)] * 2:
                catalogue.backfills.throttle(kind, throttle)
                catalogue.backfills.want(kind, wanted)
                threading.Event().wait(FIGURES_S)  # not to await anything: so long it is measured
                if over(world, kind):
                    break
                figures.append(world.fresh())
            catalogue.backfills.throttle(kind, AT_ONCE)
            catalogue.backfills.want(kind, "run")
            until("all is read", lambda: over(world, kind), 2400)
            took = time.monotonic() - at - FIGURES_S * len(without)
    project.start("run", "--until-caught-up").wait(1800)
    said = world.check({kind})
    told = world.told()[kind]
    print(f"\n{kind}: {told.read:,} rows read, {said[kind]}; after the last kill {(told.read - read) / took:,.0f} a second, {took:.0f} s")
    print(f"live latency, ms (p50, p99), in turn: beside it {beside}, as fast as it goes {fast}; while it was paused {without}")
    assert told.gone == (len(LOST) if kind == "reconcile" else 0)
