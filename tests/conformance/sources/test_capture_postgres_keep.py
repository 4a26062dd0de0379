"""`before: keep`: tables whose log has the key alone are told as if it had whole rows, however it is loaded, killed or truncated."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from capture_rig import Captured, writing
from sources_rig import PostgresRig

from millstream.capture.connector import Connector
from millstream.errors import Irrecoverable, Refused

pytestmark = pytest.mark.servers

A = "public.a"
BIG = 3_000


@pytest.fixture
def capture(rig: PostgresRig, tmp_path: Path) -> Iterator[Callable[..., Captured]]:
    rig.run(
        f"ALTER TABLE {A} REPLICA IDENTITY DEFAULT",
        f"ALTER TABLE {A} ADD big text, ADD n numeric(6,2)",
        f"ALTER TABLE {A} ALTER big SET STORAGE EXTERNAL",
    )
    made: list[Captured] = []

    def make(**options: Any) -> Captured:
        made.append(Captured(rig, tmp_path, {"tables": (A,), "before": "keep", "chunk_bytes": 40_000, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def insert(connection: Any, key: int, word: str) -> None:
    connection.execute(
        f"INSERT INTO {A} (id, v, big, n) VALUES ({key}, '{word}', repeat('{word}', {BIG}), 'NaN') ON CONFLICT DO NOTHING".encode()
    )


def writer(seed: int) -> Callable[[Any, int], None]:
    """Rows made, changed beside their big value, moved, given another big value, deleted; several of these in one transaction."""
    rng = random.Random(seed)

    def write(connection: Any, n: int) -> None:
        with connection.transaction():
            for _ in range(rng.randint(1, 4)):
                key, other = rng.randrange(1, 60), rng.randrange(1, 60)
                match rng.randrange(6):
                    case 0:
                        insert(connection, key, f"w{n}")
                    case 1 | 2:
                        connection.execute(f"UPDATE {A} SET v = 'v{n}' WHERE id = {key}".encode())
                    case 3:
                        connection.execute(
                            f"UPDATE {A} SET id = {other} WHERE id = {key} AND NOT EXISTS (SELECT FROM {A} WHERE id = {other})".encode()
                        )
                    case 4:
                        connection.execute(f"UPDATE {A} SET big = repeat('b{n}', {BIG}), n = {n % 1000} WHERE id = {key}".encode())
                    case 5:
                        connection.execute(f"DELETE FROM {A} WHERE id = {key}".encode())

    return write


def check(captured: Captured, rig: PostgresRig) -> None:
    """The topic's fold is the table; every before is what stood there, whole; every version rises."""
    with rig.server.connect(rig.database) as connection:
        cursor = connection.execute(f"SELECT * FROM {A}".encode())
        names = [c.name for c in cursor.description or ()]
        table = {r[0]: dict(zip(names, r, strict=True)) for r in cursor.fetchall()}
    for row in table.values():
        row["n"] = None if row["n"] is not None and row["n"].is_nan() else row["n"]
    assert captured.rows(A) == table
    captured.check_order(A)
    rows: dict[int, dict[str, Any]] = {}
    holes: dict[int, set[str]] = {}
    for e in captured.events(A):
        key = (e["after"] or e["before"])["id"]
        here = {side: {h["field"] for h in e["holes"] or () if h["image"] == side} for side in ("before", "after")}
        assert all(h["why"] == "nan" for h in e["holes"] or ())
        if e["op"] in "ud":
            assert e["before"] == rows[key]
            assert here["before"] == holes[key]
        elif e["op"] == "c":
            assert e["before"] is None
            assert key not in rows
        if e["after"] is None:
            del rows[key], holes[key]
        else:
            rows[key], holes[key] = e["after"], here["after"]


@pytest.mark.parametrize("seed", range(4))
def test_whole_rows_under_load(capture: Callable[..., Captured], rig: PostgresRig, seed: int) -> None:
    """From the first chunk of the initial load on, reopened now and then; the copy is lost, or not."""
    rng = random.Random(seed)
    with rig.server.connect(rig.database) as connection:
        for key in range(1, 60, 2):
            insert(connection, key, f"old{key}")
    captured = capture()
    captured.open()
    with writing(rig, writer(seed)):
        for _ in range(6):
            seen = len(captured.events(A))
            captured.step(lambda seen=seen: len(captured.events(A)) > seen + 15)
            if rng.random() < 0.5:
                captured.open()
    captured.catch_up()
    check(captured, rig)
    assert {e["op"] for e in captured.events(A)} == {"c", "u", "d", "r"}


def test_a_row_that_moves_below_what_is_loaded_while_its_big_value_is_not_known(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    """The log has not the value, and the load has passed the new key: it begins anew."""
    with rig.server.connect(rig.database) as connection:
        for key in range(10, 60):
            insert(connection, key, f"old{key}")
    captured = capture()
    connector = captured.open()
    captured.step(lambda: connector.backfills[A].chunks >= 1)
    assert not connector.loaded
    rig.run(f"UPDATE {A} SET id = 1 WHERE id = 59", f"UPDATE {A} SET v = 'changed' WHERE id = 58", f"DELETE FROM {A} WHERE id = 57")
    captured.catch_up()
    check(captured, rig)
    assert 1 in captured.rows(A)
    assert connector.counts.orphans >= 1


def test_a_truncate(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    with rig.server.connect(rig.database) as connection:
        for key in range(1, 20):
            insert(connection, key, f"old{key}")
    captured = capture()
    captured.catch_up()
    with rig.server.connect(rig.database) as connection, connection.transaction():
        connection.execute(f"UPDATE {A} SET v = 'last' WHERE id = 3".encode())
        connection.execute(f"TRUNCATE {A}".encode())
        insert(connection, 3, "new")
        connection.execute(f"UPDATE {A} SET v = 'newer' WHERE id = 3".encode())
    captured.catch_up()
    check(captured, rig)
    assert sum(e["cause"] == "truncate" for e in captured.events(A)) == 19


def test_columns_that_come_and_change(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    with rig.server.connect(rig.database) as connection:
        for key in range(1, 60):
            insert(connection, key, f"old{key}")
    captured = capture()
    captured.catch_up()
    with writing(rig, writer(9)):
        for ddl in ("ADD k integer DEFAULT 7", "RENAME k TO l", "ADD r float DEFAULT random()", "DROP l"):
            rig.run(f"ALTER TABLE {A} {ddl}")
            seen = len(captured.events(A))
            captured.step(lambda seen=seen: len(captured.events(A)) > seen + 5)
    captured.catch_up()
    with rig.server.connect(rig.database) as connection:
        found = connection.execute(f"SELECT id, v, big, r FROM {A}".encode()).fetchall()
    assert {(k, r["v"], r["big"], r["r"]) for k, r in captured.rows(A).items()} == set(found)
    captured.check_order(A)
    for e in captured.events(A):
        assert not [h for h in e["holes"] or () if h["why"] == "unavailable" and h["image"] == "after"]
        assert e["op"] != "u" or e["before"] is not None


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:2]
import sqlalchemy as sa
from sources_rig import opener
from millstream.capture.connector import Connector
from millstream.schemas.sql import SqlRegistry
from millstream.topics.local import LocalTopics

folder = Path(sys.argv[2])
registry = SqlRegistry(sa.create_engine(f"sqlite:///{folder}/mesh.db"))
topics = LocalTopics(folder / "topics.db", registry)
options = {"url": sys.argv[3], "tables": ("public.a",), "before": "keep", "heartbeat_s": 0.3, "chunk_bytes": 40000}
connector = Connector(opener("postgres")("rig", options), topics, registry, folder=folder / "copies")
connector.open()
while True:
    connector.step()
"""

FAULTS = (
    "connector.before_commit:4",
    "topics.appended:5",
    "topics.committed:6",
    "connector.after_commit:7",
    "connector.after_acknowledge:3",
)


def test_killed_again_and_again(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    with rig.server.connect(rig.database) as connection:
        for key in range(1, 60, 2):
            insert(connection, key, f"old{key}")
    captured = capture()
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(captured.folder), rig.server.url(rig.database)]
    with writing(rig, writer(5)):
        for fault in (*FAULTS, "copies.reading:1"):
            if fault.startswith("copies"):
                for path in (captured.folder / "copies").iterdir():
                    path.unlink()
            environment = {**os.environ, "MILLSTREAM_FAULT": f"{fault}:KILL"}
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
            assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]
    captured.source = rig.source(**captured.options)
    captured.connector = Connector(captured.source, captured.topics, captured.registry, folder=captured.folder / "copies")
    captured.connector.open()
    captured.catch_up()
    check(captured, rig)


def test_what_the_check_asks_for(rig: PostgresRig) -> None:
    rig.run(f"ALTER TABLE {A} REPLICA IDENTITY DEFAULT")
    rig.source(before={A: "keep"}).check()
    with pytest.raises(Refused, match="not FULL") as error:
        rig.source(before={"public.b": "keep"}).check()
    assert "before: keep" in error.value.message
    rig.run(f"ALTER TABLE {A} REPLICA IDENTITY NOTHING")
    with pytest.raises(Refused, match="neither DEFAULT nor FULL") as error:
        rig.source(before="keep").check()
    assert 'ALTER TABLE "public"."a" REPLICA IDENTITY DEFAULT' in error.value.cure
    with pytest.raises(ValueError, match="not among the tables"):
        rig.source(before={"public.c": "keep"})


def test_without_a_copy_it_is_the_clear_error_that_it_was(rig: PostgresRig, tmp_path: Path) -> None:
    captured = Captured(rig, tmp_path, {"tables": (A,)})
    rig.run(f"ALTER TABLE {A} REPLICA IDENTITY DEFAULT", f"INSERT INTO {A} VALUES (1, 'x')", f"UPDATE {A} SET v = 'y'")
    with pytest.raises(Irrecoverable) as error:
        captured.catch_up()
    captured.close()
    assert error.value.code == "replica_identity"
    assert "before: keep" in error.value.cure
