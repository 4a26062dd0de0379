"""The server that tests, the demo and benchmarks start: that it starts anywhere, keeps its data, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from millstream.testing.postgres_server import PostgresServer

pytestmark = pytest.mark.servers


def test_it_keeps_a_given_folder_across_starts(tmp_path: Path) -> None:
    with PostgresServer(tmp_path / "data", durable=False) as server:
        server.create_database("d")
        server.execute("CREATE TABLE t AS SELECT 7 AS x", "d")
    with PostgresServer(tmp_path / "data", durable=False) as server:
        assert server.execute("SELECT x FROM t", "d") == [(7,)]


def test_it_survives_a_crash_on_the_same_port() -> None:
    with PostgresServer(durable=False) as server:
        port = server.port
        server.execute("CREATE TABLE t AS SELECT 7 AS x")
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            server.execute("SELECT 1")
        server.start()
        assert (server.port, server.execute("SELECT x FROM t")) == (port, [(7,)])


def test_settings_and_their_change() -> None:
    with PostgresServer(durable=False, settings={"wal_level": "replica"}) as server:
        assert server.execute("SHOW wal_level") == [("replica",)]
        server.restart({"wal_level": "logical"})
        assert server.execute("SHOW wal_level") == [("logical",)]


def test_a_password_is_asked_for_everywhere() -> None:
    with PostgresServer(durable=False, password="it's @ secret") as server:
        assert server.execute("SELECT 1") == [(1,)]
        for unix in (False, True):
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(server.url(user="postgres", password="wrong", unix=unix))
            psycopg.connect(server.url(unix=unix)).close()


def test_two_at_once_are_two_servers() -> None:
    with PostgresServer(durable=False) as one, PostgresServer(durable=False) as two:
        identity = "SELECT system_identifier FROM pg_control_system()"
        assert one.port != two.port
        assert one.execute(identity) != two.execute(identity)


def test_it_ends_with_the_process_that_started_it() -> None:
    program = (
        "import os, signal\n"
        "from millstream.testing.postgres_server import PostgresServer\n"
        "server = PostgresServer(durable=False).start()\n"
        "print(server.url(), server.data, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    url, data = killed.stdout.split()
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if not Path(data).exists():
                return
        time.sleep(0.05)
    raise AssertionError("the server outlives its parent")
