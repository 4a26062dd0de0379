"""Fixtures that many rooms use: a PostgreSQL server, started when the first test asks for it and shared by all."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from millstream.testing.postgres_server import PostgresServer

_numbers = itertools.count(1)

# Workers are told the width of the terminal that they have not; what commands print for no terminal has a width of its own.
os.environ.pop("COLUMNS", None)

# How long an example takes says how busy the machine is, nothing else.
settings.register_profile("millstream", deadline=None)
settings.load_profile("millstream")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The shared server. A test that stops it, or changes its settings, starts one of its own."""
    with PostgresServer(durable=False) as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """A fresh database on the shared server; it and its slots are dropped afterwards."""
    name = f"test_{next(_numbers)}"
    postgres.create_database(name)
    yield name
    drop_database(postgres, name)


def drop_database(server: PostgresServer, name: str) -> None:
    with server.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
        connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [name])
        connection.execute(f'DROP DATABASE "{name}"'.encode())
