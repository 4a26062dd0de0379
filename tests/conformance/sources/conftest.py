"""A rig for every kind of source, and servers that a test may ruin.

PostgreSQL is the newest version that we know, everywhere. What asks for it runs on the older ones too: a test marked `every_version` in the
short run, all in the long one. MILLSTREAM_POSTGRES_BIN names another instead of them all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from millstream.errors import Refused
from millstream.sources.kinds import KINDS
from millstream.testing.cockroach.faults import RECORDED
from millstream.testing.cockroach.server import CockroachServer
from millstream.testing.postgres_files import RELEASES, programs
from millstream.testing.postgres_server import BIN, PostgresServer, binaries

sys.path.insert(0, str(Path(__file__).parent))

from cockroach_rig import CLUSTER, PACE, URL, CockroachRig
from sources_rig import PostgresRig, guarded, opener

# Kinds whose events come once, in one order, and those whose do not: each has a suite of its own.
LOG, FRONTIER = {"postgres"}, {"cockroachdb"}


NEWEST, NAMED = "18", "named"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres_programs" not in metafunc.fixturenames:
        return
    if BIN in os.environ:
        metafunc.parametrize("postgres_programs", [NAMED], indirect=True, scope="session")
        return
    short = metafunc.definition.get_closest_marker("every_version") is not None
    older = [pytest.param(str(v), marks=() if short else pytest.mark.long) for v in RELEASES]
    metafunc.parametrize("postgres_programs", [NEWEST, *older], indirect=True, scope="session")


@pytest.fixture(scope="session")
def postgres_programs(request: pytest.FixtureRequest) -> Path:
    """The folder of the programs of one version of PostgreSQL."""
    if request.param in (NEWEST, NAMED):
        return binaries()
    try:
        return programs(int(request.param))
    except Refused as e:
        pytest.skip(f"nothing was shown on PostgreSQL {request.param}: {e.message}; {e.cure}")


@pytest.fixture(scope="session")
def postgres(postgres_programs: Path) -> Iterator[PostgresServer]:
    """The shared server of that version. A test that stops it, or changes its settings, starts one of its own."""
    with PostgresServer(durable=False, programs=postgres_programs) as server:
        yield server


@pytest.fixture(params=[k.name for k in KINDS if k.name not in FRONTIER])
def rig(request: pytest.FixtureRequest, postgres: PostgresServer, database: str) -> Iterator[PostgresRig]:
    """Of the kinds with a log."""
    assert request.param in LOG, f"the kind {request.param} has no rig"
    guarded(postgres, database)
    made = PostgresRig(postgres, database, opener(request.param))
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
def own_server(postgres_programs: Path) -> Iterator[Callable[..., PostgresServer]]:
    """Starts servers that a test may ruin."""
    started: list[PostgresServer] = []

    def start(**settings: str) -> PostgresServer:
        server = PostgresServer(durable=False, settings=settings, programs=postgres_programs)
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
