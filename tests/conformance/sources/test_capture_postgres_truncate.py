"""TRUNCATE as many deletes: one for each row that the topic has, in commits of bounded size, once, whatever is killed and when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from capture_rig import Captured, writing
from sources_rig import PostgresRig

from millstream.capture import emptying

pytestmark = pytest.mark.servers

A, B = "public.a", "public.b"


@pytest.fixture
def capture(rig: PostgresRig, tmp_path: Path) -> Iterator[Callable[..., Captured]]:
    made: list[Captured] = []

    def make(**options: Any) -> Captured:
        made.append(Captured(rig, tmp_path, options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ids(rig: PostgresRig, table: str) -> set[int]:
    return {row[0] for row in rig.rows(f"SELECT id FROM {table}")}


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emptying, "SLICE_ROWS", 8)


@pytest.mark.usefixtures("small_slices")
def test_each_live_row_is_deleted_once_with_what_it_was(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    rig.run(f"INSERT INTO {A} SELECT g, 'v' || g FROM generate_series(1, 35) g")
    captured = capture()
    captured.catch_up()
    rig.run(f"UPDATE {A} SET v = 'changed' WHERE id = 3", f"DELETE FROM {A} WHERE id = 4", f"INSERT INTO {B} VALUES (1, 'b')")
    rig.run(f"ALTER TABLE {A} ADD n integer")
    rig.transaction(f"INSERT INTO {A} VALUES (99, 'short', 1)", f"TRUNCATE {A}, {B}", f"INSERT INTO {A} VALUES (3, 'new', 2)")
    captured.catch_up()
    told = [e for e in captured.events(A) if e["cause"] == "truncate"]
    assert {e["before"]["id"]: e["before"]["v"] for e in told} == {
        **{i: f"v{i}" for i in range(1, 36) if i not in (3, 4)},
        3: "changed",
        99: "short",
    }
    assert {(e["op"], e["after"], e["minor"]) for e in told} == {("d", None, 2)}
    assert len({(e["major"], e["tx_id"], e["ts_us"], e["position"]) for e in told}) == 1
    last = captured.events(B)[-1]
    assert (last["op"], last["cause"], last["before"]["v"]) == ("d", "truncate", "b")
    assert set(captured.rows(A)) == {3}
    assert not captured.rows(B)
    captured.check_order(A)


@pytest.mark.usefixtures("small_slices")
def test_under_load_and_reopened_in_the_middle(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    """Each row's story alternates: it is made, and gone once before it is made again."""
    captured = capture(chunk_bytes=2_000)
    rig.run(f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(1, 100) g")
    captured.open()

    def write(connection: Any, n: int) -> None:
        connection.execute(f"INSERT INTO {A} VALUES ({n * 7 % 200 + 1}, 'n{n}') ON CONFLICT (id) DO UPDATE SET v = 'n{n}'".encode())
        if n % 40 == 39:
            connection.execute(f"TRUNCATE {A}".encode())

    with writing(rig, write):
        for _ in range(12):
            seen = len(captured.events(A))
            captured.step(lambda seen=seen: len(captured.events(A)) > seen + 40)
            captured.open()
    captured.catch_up()
    assert {k: r["v"] for k, r in captured.rows(A).items()} == dict(rig.rows(f"SELECT id, v FROM {A}"))
    assert sum(e["cause"] == "truncate" for e in captured.events(A)) > 40
    captured.check_order(A)
    there: set[int] = set()
    for e in captured.events(A):
        key = (e["after"] or e["before"])["id"]
        assert e["op"] != "d" or key in there, f"{key} is deleted twice"
        assert e["op"] != "c" or key not in there, f"{key} is made twice"
        (there.discard if e["op"] == "d" else there.add)(key)


def test_a_truncate_after_the_read_point_of_an_open_chunk(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    """One before it, which a chunk did not see, is played by the simulation: a server leaves no room for it at will."""
    rig.run(f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(1, 50) g")
    captured = capture(tables=(A,))
    connector = captured.open()
    captured.step(lambda: connector._window is not None)
    rig.run(f"TRUNCATE {A}", f"INSERT INTO {A} VALUES (7, 'new')")
    captured.catch_up()
    assert {k: r["v"] for k, r in captured.rows(A).items()} == {7: "new"}
    captured.check_order(A)


def test_a_truncate_on_the_way_out_of_a_chunk_that_saw_it(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    """The rows that the chunk read were written after the truncate, which the stream gives later than the chunk was read."""
    captured = capture(tables=(A,))
    connector = captured.open()
    rig.run(f"INSERT INTO {A} VALUES (1, 'old')", f"TRUNCATE {A}", f"INSERT INTO {A} VALUES (2, 'new')")
    captured.step(lambda: connector._window is not None or connector.loaded)
    captured.catch_up()
    assert {k: r["v"] for k, r in captured.rows(A).items()} == {2: "new"}
    captured.check_order(A)


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:2]
import sqlalchemy as sa
from sources_rig import opener
from millstream.capture import emptying
from millstream.capture.connector import Connector
from millstream.schemas.sql import SqlRegistry
from millstream.topics.local import LocalTopics

emptying.SLICE_ROWS = 10
folder = Path(sys.argv[2])
registry = SqlRegistry(sa.create_engine(f"sqlite:///{folder}/mesh.db"))
topics = LocalTopics(folder / "topics.db", registry)
source = opener("postgres")("rig", {"url": sys.argv[3], "tables": ("public.a", "public.b"), "heartbeat_s": 0.3})
connector = Connector(source, topics, registry)
connector.open()
while True:
    connector.step()
"""


@pytest.mark.parametrize(
    "fault",
    ["truncate.reading:1", "truncate.slice:1", "truncate.slice:3", "truncate.done:1", "connector.before_commit:2", "topics.committed:3"],
)
def test_killed_in_the_middle(capture: Callable[..., Captured], rig: PostgresRig, fault: str) -> None:
    rig.run(f"INSERT INTO {A} SELECT g, 'v' || g FROM generate_series(1, 45) g")
    captured = capture()
    captured.catch_up()
    assert captured.connector is not None
    captured.connector.close()
    captured.connector = None
    rig.run(f"INSERT INTO {A} VALUES (99, 'short')")
    rig.transaction(f"TRUNCATE {A}", f"INSERT INTO {A} VALUES (3, 'new')")  # the first message: nothing of its transaction is before it
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(captured.folder), rig.server.url(rig.database)],
        env={**os.environ, "MILLSTREAM_FAULT": f"{fault}:KILL"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]
    captured.open()
    captured.catch_up()
    deleted = Counter(e["before"]["id"] for e in captured.events(A) if e["op"] == "d")
    assert deleted == Counter([*range(1, 46), 99])
    assert set(captured.rows(A)) == ids(rig, A) == {3}
    captured.check_order(A)
