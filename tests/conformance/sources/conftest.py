"""A rig for every kind of source, and servers that a test may ruin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from millstream.sources.kinds import KINDS
from millstream.testing.cockroach.faults import RECORDED
from millstream.testing.cockroach.server import CockroachServer
from millstream.testing.postgres_server import PostgresServer

sys.path.insert(0, str(Path(__file__).parent))

from cockroach_rig import CLUSTER, PACE, URL, CockroachRig
from sources_rig import PostgresRig, guarded, opener

# Kinds whose events come once, in one order, and those whose do not: each has a suite of its own.
LOG, FRONTIER = {"postgres"}, {"cockroachdb"}


@pytest.fixture(params=[k.name for k in KINDS if k.name not in FRONTIER])
def rig(request: pytest.FixtureRequest) -> Iterator[PostgresRig]:
    """Of the kinds with a log."""
    assert request.param in LOG, f"the kind {request.param} has no rig"
    server, database = request.getfixturevalue("postgres"), request.getfixturevalue("database")
    guarded(server, database)
    made = PostgresRig(server, database, opener(request.param))
    yield made
    made.close()


@pytest.fixture(params=["26.1", pytest.param("22.1", marks=pytest.mark.long), CLUSTER])
def roach(request: pytest.FixtureRequest) -> Iterator[CockroachRig]:
    """CockroachDB: the stand-in as either version, and a real cluster where MILLSTREAM_COCKROACH_URL names one."""
    if request.param == CLUSTER:
        if not URL:
            pytest.skip("MILLSTREAM_COCKROACH_URL names no cluster: nothing was shown on a real CockroachDB")
        made = CockroachRig(None)
        yield made
        made.close()
        return
    with CockroachServer(request.param, timing=replace(RECORDED[request.param], pace=PACE), passwords={"guarded": "right"}) as server:
        made = CockroachRig(server)
        yield made
        made.close()


@pytest.fixture
def own_server() -> Iterator[Callable[..., PostgresServer]]:
    """Starts servers that a test may ruin."""
    started: list[PostgresServer] = []

    def start(**settings: str) -> PostgresServer:
        server = PostgresServer(durable=False, settings=settings)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def own_rig(own_server: Callable[..., PostgresServer]) -> Iterator[Callable[..., PostgresRig]]:
    """A Postgres rig on a server of its own, with these settings."""
    made: list[PostgresRig] = []

    def make(**settings: str) -> PostgresRig:
        made.append(PostgresRig(own_server(**settings), "postgres", opener("postgres")))
        return made[-1]

    yield make
    for rig in made:
        rig.close()
