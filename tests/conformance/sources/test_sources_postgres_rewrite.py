"""A table whose rows are written anew by an ALTER while a chunk of it is about to be read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from sources_rig import PATIENCE_S, PostgresRig, read

from millstream.errors import Refused
from millstream.sources.contract import WHOLE, Chunk, Source

pytestmark = pytest.mark.servers

PARTITIONED = (
    "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
    "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (5)",
    "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (5) TO (100)",
    *(f"ALTER TABLE {t} REPLICA IDENTITY FULL" for t in ("p", "p1", "p2")),
)


def while_altered(rig: PostgresRig, alter: str, call: Callable[[], Chunk | None]) -> Chunk | None:
    """What `call` gives when it begins while the transaction of `alter` is open, which then commits."""
    found: list[Any] = []

    def called() -> None:
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    reader = threading.Thread(target=called)
    with rig.server.connect(rig.database) as connection:
        connection.execute(b"BEGIN")
        connection.execute(alter.encode())
        reader.start()
        give_up = time.monotonic() + PATIENCE_S
        while not rig.rows("SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessShareLock'"):
            assert time.monotonic() < give_up, "the chunk waits for nothing"
            time.sleep(0.02)
        connection.execute(b"COMMIT")
    reader.join(PATIENCE_S)
    (one,) = found
    if isinstance(one, BaseException):
        raise one
    assert one is None or isinstance(one, Chunk)
    return one


def begun(rig: PostgresRig, table: str, *made: str) -> tuple[Source, Any]:
    rig.run(*made, f"INSERT INTO {table} SELECT i, 'v' || i FROM generate_series(1, 10) i")
    source = rig.checked(tables=(table,))
    stream = source.stream(None)
    read(stream, lambda s: True)
    return source, stream


@pytest.mark.every_version
@pytest.mark.parametrize(("table", "made"), [("a", ()), ("p", PARTITIONED)])
def test_a_chunk_has_the_rows_of_a_table_that_is_rewritten_meanwhile(rig: PostgresRig, table: str, made: tuple[str, ...]) -> None:
    source, stream = begun(rig, table, *made)
    alter = f"ALTER TABLE {table} ALTER COLUMN v TYPE varchar USING v || '!'"
    chunk = while_altered(rig, alter, lambda: source.chunk(table, None, 100))
    assert chunk is not None
    assert [(r["id"], r["v"]) for r in chunk.rows.to_pylist()] == [(i, f"v{i}!") for i in range(1, 11)]
    read(stream, lambda s: s.deliveries[-1].mark == chunk.mark)


def test_no_row_of_a_rewritten_table_counts_as_deleted(rig: PostgresRig) -> None:
    source, stream = begun(rig, "a")
    schema = source.tables()[0].schema
    had = pa.RecordBatch.from_pylist([{"id": i, "v": ""} for i in (3, 10, 11)], pa.schema(list(schema.arrow)))
    alter = "ALTER TABLE a ALTER COLUMN v TYPE varchar USING v || '!'"
    chunk = while_altered(rig, alter, lambda: source.absent("a", schema, had, WHOLE))
    assert chunk is not None
    assert [r["id"] for r in chunk.rows.to_pylist()] == [11]
    read(stream, lambda s: s.deliveries[-1].mark == chunk.mark)


@pytest.mark.parametrize("alter", ["DROP TABLE a", "ALTER TABLE a RENAME TO z", "ALTER TABLE a SET SCHEMA elsewhere"])
def test_a_table_that_goes_while_it_is_waited_for_has_changed(rig: PostgresRig, alter: str) -> None:
    rig.run("CREATE SCHEMA elsewhere")
    source, _ = begun(rig, "a")
    with pytest.raises(Refused) as refused:
        while_altered(rig, alter, lambda: source.chunk("a", None, 100))
    assert refused.value.code == "table_changed"


def test_a_table_whose_schema_is_gone_has_changed(rig: PostgresRig) -> None:
    rig.run("CREATE SCHEMA s", "CREATE TABLE s.t (id int PRIMARY KEY, v text)", "ALTER TABLE s.t REPLICA IDENTITY FULL")
    source, _ = begun(rig, "s.t")
    rig.run("DROP SCHEMA s CASCADE")
    with pytest.raises(Refused) as refused:
        source.chunk("s.t", None, 100)
    assert refused.value.code == "table_changed"


def test_a_table_that_became_a_view_has_changed(rig: PostgresRig) -> None:
    source, _ = begun(rig, "a")
    rig.run("ALTER TABLE a RENAME TO z", "CREATE MATERIALIZED VIEW a AS SELECT * FROM z")
    with pytest.raises(Refused) as refused:
        source.chunk("a", None, 100)
    assert refused.value.code == "table_changed"


def test_rows_of_tables_that_inherit_are_not_waited_for(rig: PostgresRig) -> None:
    source, _ = begun(rig, "a")
    rig.run("CREATE TABLE child () INHERITS (a)")
    with rig.server.connect(rig.database) as connection:
        connection.execute(b"BEGIN")
        connection.execute(b"LOCK TABLE child IN ACCESS EXCLUSIVE MODE")
        chunk = source.chunk("a", None, 100)
    assert chunk is not None
    assert chunk.rows.num_rows == 10


@pytest.mark.parametrize(
    ("kind", "alter"),
    [
        ("e", "ALTER TABLE k ALTER COLUMN id TYPE text"),
        ('text COLLATE "C"', 'ALTER TABLE k ALTER COLUMN id TYPE text COLLATE "POSIX"'),
        ("int", "ALTER TABLE k ALTER COLUMN id TYPE text"),
        ("int", "ALTER TABLE k DROP CONSTRAINT k_pkey, ADD PRIMARY KEY (other)"),
    ],
)
@pytest.mark.parametrize("rows_max", [1, 3])
def test_a_place_in_another_order_is_none(rig: PostgresRig, kind: str, alter: str, rows_max: int) -> None:
    """Keys beyond it in the order that was may come before it now."""
    keys = ("2", "10", "1", "3") if kind == "int" else ("b", "A", "a", "B")
    rig.run("CREATE TYPE e AS ENUM ('b', 'A', 'a', 'B')", f"CREATE TABLE k (id {kind} PRIMARY KEY, other int UNIQUE NOT NULL)")
    rig.run("ALTER TABLE k REPLICA IDENTITY FULL", *(f"INSERT INTO k VALUES ('{key}', {100 - i})" for i, key in enumerate(keys)))
    source = rig.checked(tables=("k",))
    read(source.stream(None), lambda s: True)
    first = source.chunk("k", None, rows_max)
    assert first is not None
    rig.run(alter)
    again = source.chunk("k", first.last_key, 10)
    assert again is not None
    assert {str(r["id"]) for r in again.rows.to_pylist()} == set(keys)
    last = source.chunk("k", again.last_key, 10)
    assert last is not None
    assert (last.rows.num_rows, last.done) == (0, True)


@pytest.mark.parametrize("alter", ["ALTER TABLE k ALTER COLUMN id TYPE varchar(20)", "ALTER TABLE k RENAME COLUMN id TO name"])
def test_what_leaves_the_order_leaves_the_place(rig: PostgresRig, alter: str) -> None:
    rig.run("CREATE TABLE k (id varchar(10) PRIMARY KEY)", "ALTER TABLE k REPLICA IDENTITY FULL", "INSERT INTO k VALUES ('a'), ('b')")
    source = rig.checked(tables=("k",))
    read(source.stream(None), lambda s: True)
    first = source.chunk("k", None, 1)
    assert first is not None
    rig.run(alter)
    more = source.chunk("k", first.last_key, 10)
    assert more is not None
    assert more.rows.num_rows == 1


def test_a_place_that_was_kept_without_its_order_is_taken(rig: PostgresRig) -> None:
    source, _ = begun(rig, "a")
    chunk = source.chunk("a", ["8"], 10)
    assert chunk is not None
    assert [r["id"] for r in chunk.rows.to_pylist()] == [9, 10]
    with pytest.raises(Refused) as refused:
        source.chunk("a", ["8", "x"], 10)
    assert refused.value.code == "table_changed"
