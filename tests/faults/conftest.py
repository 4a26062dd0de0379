"""Makes the helpers importable, and starts the server that the faults play on: stopped readers free their slots quickly."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from faults_world import SETTINGS, World

from millstream.testing.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def faults_server() -> Iterator[PostgresServer]:
    """Survives `kill` and `start`: a crash of the server loses nothing that was committed."""
    with PostgresServer(durable=False, settings=SETTINGS) as server:
        yield server


@pytest.fixture
def world(faults_server: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """Two databases under a steady workload and a mesh that is applied but has not run."""
    with World(faults_server, tmp_path, seed=request.node.name) as made:
        yield made
