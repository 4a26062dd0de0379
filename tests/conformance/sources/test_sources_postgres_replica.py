"""`read_url`: a replica that lags never answers with what it has; the primary does, or it is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millstream.errors import Retryable
from millstream.events.progress import Position
from millstream.events.types import Field, RowSchema, Type
from millstream.sources.contract import Asked
from millstream.sources.postgres.lookup import Lookup
from millstream.sources.postgres.messages import lsn_of
from millstream.sources.postgres.options import Options
from millstream.testing.postgres_replica import PostgresReplica
from millstream.testing.postgres_server import PostgresServer

SCHEMA = RowSchema((Field("id", Type("int32"), 1), Field("v", Type("text"), 2)), ("id",))
NEVER = "1h"


@pytest.fixture
def primary(postgres_programs: Path) -> Iterator[PostgresServer]:
    with PostgresServer(durable=False, programs=postgres_programs) as server:
        server.execute("CREATE TABLE a (id int PRIMARY KEY, v text)")
        server.execute("INSERT INTO a VALUES (1, 'old')")
        yield server


@pytest.fixture
def opened() -> Iterator[Any]:
    made: list[Lookup] = []

    def open_one(primary: PostgresServer, read_url: str, **options: Any) -> Lookup:
        given = {"url": primary.url(), "read_url": read_url, "tables": ("public.a",), "read_wait_ms": 100, **options}
        made.append(Lookup("rig", Options(**given)))
        return made[-1]

    yield open_one
    for lookup in made:
        lookup.close()


def change(primary: PostgresServer, value: str) -> Position:
    """Change the row; a position that counts the change: the place where its commit begins is before the log's end after it."""
    before = primary.execute("SELECT pg_current_wal_insert_lsn()::text")[0][0]
    primary.execute(f"UPDATE a SET v = '{value}'")
    system, timeline = primary.execute("SELECT system_identifier::text, timeline_id FROM pg_control_system(), pg_control_checkpoint()")[0]
    commit = primary.execute("SELECT pg_current_wal_insert_lsn()::text")[0][0]
    assert lsn_of(before) < lsn_of(commit)
    return Position(lsn_of(commit) - 1, 0, {"system": system, "timeline": timeline})


def value(lookup: Lookup, at: Position) -> str:
    asked = Asked("public.a", SCHEMA, ("id",), pa.table({"id": pa.array([1], pa.int32())}), ("v",))
    (found,) = pa.concat_tables(list(lookup.lookup(asked, at))).column("v").to_pylist()
    return str(found)


def test_a_replica_that_is_there_in_time_is_read(primary: PostgresServer, opened: Any) -> None:
    with PostgresReplica(primary) as replica:
        lookup = opened(primary, replica.url(), read_wait_ms=10_000)
        for n in range(5):
            at = change(primary, f"new {n}")
            assert value(lookup, at) == f"new {n}"
            assert lookup.reading == "the replica"


def test_a_replica_that_lags_is_never_believed(primary: PostgresServer, opened: Any) -> None:
    with PostgresReplica(primary, lag=NEVER) as replica:
        lookup = opened(primary, replica.url())
        at = change(primary, "new")
        assert replica.execute("SELECT v FROM a") == [("old",)], "it does lag"
        assert value(lookup, at) == "new"
        assert lookup.reading.startswith("the primary: the replica has replayed up to")
        primary.kill()
        with pytest.raises(Retryable) as waits:
            value(lookup, at)
        assert waits.value.code == "replica_behind"
        replica.restart({"recovery_min_apply_delay": "0"})
        assert value(opened(primary, replica.url(), read_wait_ms=20_000), at) == "new", "the primary is gone, the replica has caught up"


def test_without_its_replica_the_primary_is_read(primary: PostgresServer, opened: Any) -> None:
    with PostgresReplica(primary) as replica:
        lookup = opened(primary, replica.url(), read_wait_ms=10_000)
        assert value(lookup, change(primary, "one")) == "one"
        assert lookup.reading == "the replica"
        replica.kill()
        assert value(lookup, change(primary, "two")) == "two"
        assert lookup.reading.startswith("the primary: ")


def test_a_promoted_replica_is_not_believed_even_where_its_log_is_longer(primary: PostgresServer, opened: Any) -> None:
    with PostgresReplica(primary) as replica:
        lookup = opened(primary, replica.url(), read_wait_ms=10_000)
        assert value(lookup, change(primary, "common")) == "common"
        replica.promote()
        replica.execute("UPDATE a SET v = 'another history'")
        replica.execute("SELECT pg_switch_wal()")
        replica.execute("SELECT pg_switch_wal()")
        assert value(lookup, change(primary, "mine")) == "mine"
        assert "timeline 2" in lookup.reading or "not in recovery" in lookup.reading


def test_another_database_server_is_not_taken_for_a_replica(primary: PostgresServer, opened: Any) -> None:
    with PostgresServer(durable=False, programs=primary.bin) as other, PostgresReplica(other) as its_replica:
        other.execute("CREATE TABLE a (id int PRIMARY KEY, v text)")
        other.execute("INSERT INTO a VALUES (1, 'a stranger')")
        lookup = opened(primary, its_replica.url())
        assert value(lookup, change(primary, "mine")) == "mine"
        assert "point read_url" not in lookup.reading and "belong to server" in lookup.reading


def test_a_url_that_leads_to_a_standby_is_not_read_as_a_primary(primary: PostgresServer) -> None:
    at = change(primary, "new")
    with PostgresReplica(primary, lag=NEVER) as replica:
        lookup = Lookup("rig", Options(url=replica.url(), tables=("public.a",)))
        try:
            with pytest.raises(Retryable, match="standby"):
                value(lookup, at)
        finally:
            lookup.close()
