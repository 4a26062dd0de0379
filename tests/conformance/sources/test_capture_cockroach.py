"""A connector over CockroachDB: each version of a key once, whatever the feeds repeat; killed, resumed, changed, compared again."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from capture_rig import Captured
from cockroach_rig import CockroachRig

from millstream.errors import Retryable
from millstream.testing.cockroach import jsontext
from millstream.topics.incarnations import ENDED

pytestmark = pytest.mark.servers

A, B = "public.a", "public.b"
KEYS = 40


@pytest.fixture
def capture(roach: CockroachRig, tmp_path: Path) -> Iterator[Callable[..., Captured]]:
    made: list[Captured] = []

    def make(**options: Any) -> Captured:
        made.append(Captured(roach, tmp_path, {"chunk_bytes": 4_000, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@contextmanager
def writing(roach: CockroachRig, write: Callable[[Any, int], None]) -> Iterator[None]:
    """`write(connection, n)` again and again beside the test; what it raises is raised at the end."""
    stop, failed = threading.Event(), []

    def work() -> None:
        n = 0
        try:
            with roach.connected() as connection:
                while not stop.is_set():
                    write(connection, n)
                    n += 1
                    stop.wait(0.005)
        except Exception as e:
            failed.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def changes(seed: int) -> Callable[[Any, int], None]:
    chance = random.Random(seed)

    def write(connection: Any, n: int) -> None:
        table, key = chance.choice((A, B)), chance.randrange(KEYS)
        statement = f"DELETE FROM {table} WHERE id = {key}" if chance.random() < 0.2 else f"UPSERT INTO {table} VALUES ({key}, 'n{n}')"
        connection.execute(statement.encode())

    return write


def table(roach: CockroachRig, name: str) -> dict[int, dict[str, Any]]:
    with roach.connected() as connection:
        cursor = connection.execute(f"SELECT * FROM {name}".encode())
        names = [c.name for c in cursor.description or ()]
        return {r[0]: dict(zip(names, r, strict=True)) for r in cursor.fetchall()}


def check_once_and_in_order(captured: Captured, name: str) -> None:
    """Live versions of a key rise strictly, and each before is what stood there."""
    rows: dict[Any, Any] = {}
    versions: dict[Any, tuple[int, int]] = {}
    for e in captured.events(name):
        key, version = (e["after"] or e["before"])["id"], (e["major"], e["minor"])
        if e["op"] != "r":
            assert version > versions.get(key, (0, -1)), f"{key}: {version} is told again"
            if key in rows and e["op"] in "ud":
                assert e["before"] == rows[key], f"{key}: before {e['before']} stood {rows[key]}"
        versions[key] = max(version, versions.get(key, (0, -1)))
        rows[key] = e["after"]


def drive(captured: Captured, until: Callable[[], bool]) -> None:
    """Step, and take a lost connection as a runner does."""
    assert captured.connector is not None
    give_up = time.monotonic() + 60
    while not until():
        assert time.monotonic() < give_up, captured.state()
        try:
            captured.connector.step()
        except Retryable:
            captured.connector.retry()


def test_topics_become_the_tables_though_feeds_repeat_split_and_break(roach: CockroachRig, capture: Callable[..., Captured]) -> None:
    roach.run(*(f"INSERT INTO {t} SELECT g, 'old' FROM generate_series(0, {KEYS - 1}) AS s(g)" for t in (A, B)))
    captured = capture()
    captured.open()
    chance = random.Random(1)
    with writing(roach, changes(7)):
        for _ in range(6):
            stop = time.monotonic() + 0.4
            drive(captured, lambda stop=stop: time.monotonic() > stop)
            if not roach.is_cluster:
                roach.standin.faults.split(chance.choice(("a", "b")))
            if chance.random() < 0.5:
                roach.cut_feeds()
            else:
                captured.open()
    head = captured.source.head()
    connector = captured.connector
    assert connector is not None
    drive(captured, lambda: connector.loaded and connector.position is not None and _at(connector.position) >= head)
    for name in (A, B):
        assert captured.rows(name) == table(roach, name)
        check_once_and_in_order(captured, name)
    assert roach.feeds() == 1


def _at(position: Any) -> tuple[int, int]:
    return (position.major, position.minor)


def test_a_place_that_is_forgotten_is_made_good_and_shown(roach: CockroachRig, capture: Callable[..., Captured]) -> None:
    """Away for longer than the garbage collection's time: what was deleted meanwhile leaves the topic all the same."""
    roach.run(f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(1, 20) AS s(g)")
    captured = capture(tables=(A,))
    captured.catch_up()
    captured.connector.close()  # type: ignore[union-attr]
    captured.connector = None
    roach.run(f"DELETE FROM {A} WHERE id <= 5", f"UPDATE {A} SET v = 'new' WHERE id = 6", f"INSERT INTO {A} VALUES (99, 'new')")
    roach.standin.faults.gc(0.0)
    connector = captured.open()
    captured.step(lambda: bool(connector.lost))
    (lost,) = connector.lost
    assert (lost["table"], lost["code"]) == (A, "gc_threshold") and "deletes" in lost["may_lack"]
    captured.step(lambda: all(e["closed_at"] for e in connector.lost))
    captured.catch_up()
    assert captured.rows(A) == table(roach, A)


def test_a_truncated_table_is_emptied_in_its_topic(roach: CockroachRig, capture: Callable[..., Captured]) -> None:
    roach.run(f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(1, 20) AS s(g)")
    captured = capture(tables=(A,))
    captured.catch_up()
    connector = captured.connector
    assert connector is not None
    roach.run(f"TRUNCATE {A}", f"INSERT INTO {A} VALUES (3, 'new'), (50, 'new')")
    captured.step(lambda: bool(connector.lost) and all(e["closed_at"] for e in connector.lost))
    captured.catch_up()
    assert captured.rows(A) == table(roach, A) == {3: {"id": 3, "v": "new"}, 50: {"id": 50, "v": "new"}}


def test_a_changed_key_goes_on_in_the_next_incarnation(roach: CockroachRig, capture: Callable[..., Captured]) -> None:
    """The server deletes no row under its old key: the old topic ends, and what follows is in the new one, of which all rows are loaded."""
    roach.run(
        f"ALTER TABLE {A} ADD COLUMN n INT8 NOT NULL DEFAULT 1",
        f"INSERT INTO {A} SELECT g, 'old', g % 3 FROM generate_series(1, 40) AS s(g)",
        f"INSERT INTO {B} VALUES (1, 'x')",
    )
    captured = capture()
    captured.catch_up()
    was = captured.rows(A)

    def write(connection: Any, n: int) -> None:
        connection.execute(f"UPDATE {B} SET v = 'n{n}' WHERE id = 1".encode())

    with writing(roach, write):
        roach.run(f"ALTER TABLE {A} ALTER PRIMARY KEY USING COLUMNS (id, n)", f"UPDATE {A} SET v = 'new' WHERE id < 4")
        connector = captured.connector
        assert connector is not None
        drive(captured, lambda: ENDED in captured.state())
        connector = captured.open()
        roach.run(f"DELETE FROM {A} WHERE id = 5", f"UPDATE {A} SET n = 9 WHERE id = 6", f"INSERT INTO {A} VALUES (60, 'beside', 1)")
        drive(captured, lambda: connector.loaded)
    captured.catch_up()
    assert connector.aside == {}
    assert captured.rows(A) == was, "the old topic is what the table was at the change"
    rows: dict[Any, Any] = {}
    for batch in captured.batches(f"{A}@2"):
        for key, after in zip(batch.keys().to_pylist(), batch.column("after").to_pylist(), strict=True):
            rows[tuple(key.values())] = after
    found = {k: (r["id"], r["v"], r["n"]) for k, r in rows.items() if r is not None}
    assert found == {(i, n): (i, v, n) for i, v, n in roach.rows(f"SELECT id, v, n FROM {A}")}
    (entry,) = captured.state()[ENDED][A]
    assert all((e["major"], e["minor"]) >= tuple(entry["since"]) for e in captured.events(f"{A}@2") if e["op"] != "r")
    assert captured.rows(B) == table(roach, B)


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_key_of_another_column_begins_the_next_incarnation_too(
    roach: CockroachRig, capture: Callable[..., Captured], is_seen: bool
) -> None:
    """Neither the names of its columns nor the width of its keys show it. Rows may come before it is seen, and none after that."""
    roach.run(
        f"ALTER TABLE {A} ADD COLUMN n INT8 NOT NULL DEFAULT unique_rowid()",
        f"INSERT INTO {A} SELECT g, 'old', g + 100 FROM generate_series(1, 10) AS s(g)",
    )
    captured = capture(tables=(A,))
    captured.catch_up()
    connector = captured.connector
    assert connector is not None
    roach.run(f"ALTER TABLE {A} ALTER PRIMARY KEY USING COLUMNS (n)")
    if is_seen:
        captured.catch_up()
    roach.run(f"UPDATE {A} SET n = 7 WHERE id = 1", f"UPDATE {A} SET v = 'new' WHERE id = 2")
    drive(captured, lambda: ENDED in captured.state())
    connector = captured.open()
    drive(captured, lambda: connector.loaded)
    captured.catch_up()
    rows: dict[Any, Any] = {}
    for batch in captured.batches(f"{A}@2"):
        for key, after in zip(batch.keys().to_pylist(), batch.column("after").to_pylist(), strict=True):
            rows[tuple(key.values())] = after
    found = {k: (r["id"], r["v"], r["n"]) for k, r in rows.items() if r is not None}
    assert found == {(n,): (i, v, n) for i, v, n in roach.rows(f"SELECT id, v, n FROM {A}")}


def test_added_columns_under_load_leave_topics_that_are_the_tables(roach: CockroachRig, capture: Callable[..., Captured]) -> None:
    roach.run(f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(0, {KEYS - 1}) AS s(g)")
    captured = capture(tables=(A,))
    captured.catch_up()

    def write(connection: Any, n: int) -> None:
        connection.execute(f"UPDATE {A} SET v = 'n{n}' WHERE id = {n * 7 % KEYS}".encode())

    with writing(roach, write):
        for ddl in ("n INT8", "c INT8 NOT NULL DEFAULT 7", "s INT8 AS (id * 2) STORED", "t STRING DEFAULT 'x'"):
            roach.run(f"ALTER TABLE {A} ADD COLUMN {ddl}")
            stop = time.monotonic() + 0.3
            drive(captured, lambda stop=stop: time.monotonic() > stop)
        roach.run(f"ALTER TABLE {A} RENAME COLUMN n TO m", f"ALTER TABLE {A} DROP COLUMN t")
        stop = time.monotonic() + 0.3
        drive(captured, lambda: time.monotonic() > stop)
    captured.catch_up()
    assert captured.rows(A) == table(roach, A)
    check_versions(captured)


# ---- one change after the other, beside writes


def history(roach: CockroachRig, name: str) -> dict[tuple[Any, tuple[int, int]], tuple[Any, Any]]:
    """(key, time) → both images of each write, in the shape of that time, as the stand-in keeps them."""
    store = roach.standin.store
    with store.lock:
        table = store.find(tuple(name.split(".")), roach.database)
        assert table is not None
        told = {}
        for c in table.log:
            if c.cause == "write":
                shape = table.descriptor(c.hlc)
                images = [None if i is None else json.loads(jsontext.row(shape, i, store.version)) for i in (c.before, c.after)]
                told[(images[1] or images[0])["id"], (c.hlc.wall, c.hlc.logical)] = (images[0], images[1])
    return told


def check_told_in_the_shape_of_its_time(roach: CockroachRig, captured: Captured, name: str, after: tuple[int, int]) -> None:
    wanted = {at: images for at, images in history(roach, name).items() if at[1] > after and images != (None, None)}
    for e in captured.events(name):
        if e["op"] != "r":
            at = ((e["after"] or e["before"])["id"], (e["major"], e["minor"]))
            before, became = wanted.pop(at, (None, None))
            assert e["after"] == became, f"{at} was told as {e}"
            if e["op"] == "d":  # which the server shows in the shape in which it was written
                before, e["before"] = ({c: row[c] for c in ("id", "v")} for row in (before, e["before"]))
            assert e["before"] == before, f"{at} was told as {e}"
    assert not wanted, f"never told: {wanted}"


CHANGES = {
    "add": ["ADD COLUMN n INT8"],
    "constant": ["ADD COLUMN n INT8 NOT NULL DEFAULT 7"],
    "computed": ["ADD COLUMN n INT8 AS (id * 2) STORED"],
    "rename": ["ADD COLUMN n INT8 DEFAULT 5", "RENAME COLUMN n TO m"],
    "drop": ["ADD COLUMN n INT8 DEFAULT 5", "DROP COLUMN n"],
    "again": ["ADD COLUMN n INT8 DEFAULT 5", "DROP COLUMN n", "ADD COLUMN n STRING DEFAULT 'five'"],
    "convert": ["ADD COLUMN n INT8 DEFAULT 5", "ALTER COLUMN n TYPE STRING"],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_beside_writes_is_told_in_the_shape_of_its_time(
    roach: CockroachRig, capture: Callable[..., Captured], change: str
) -> None:
    """And the topic becomes the table, whatever the server told again, and whatever it did not tell."""
    if change == "convert" and roach.is_old:
        pytest.skip("22.1 converts no column")
    roach.run(f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(0, {KEYS - 1}) AS s(g)")
    captured = capture(tables=(A,))
    captured.catch_up()
    ((text,),) = roach.rows("SELECT cluster_logical_timestamp()::string")

    def write(connection: Any, n: int) -> None:
        key = n * 7 % (KEYS // 2)  # the other half stays as it is
        if n % 3:
            connection.execute(f"UPDATE {A} SET v = 'n{n}' WHERE id = {key}".encode())
            return
        connection.execute(f"DELETE FROM {A} WHERE id = {key}".encode())
        connection.execute(f"INSERT INTO {A} (id, v) VALUES ({key}, 'n{n}')".encode())

    with writing(roach, write):
        for actions in CHANGES[change]:
            roach.run(f"ALTER TABLE {A} {actions}")
            stop = time.monotonic() + 0.3
            drive(captured, lambda stop=stop: time.monotonic() > stop)
            if not roach.is_cluster:
                roach.standin.faults.split("a")
    captured.catch_up()
    drive(captured, lambda: captured.rows(A) == table(roach, A))
    captured.check_order(A)
    if not roach.is_cluster:
        wall, _, logical = text.partition(".")
        check_told_in_the_shape_of_its_time(roach, captured, A, (int(wall), int(logical)))
        again = [e for e in captured.events(A) if e["cause"] == "schema"]
        if change == "computed":
            quiet = sorted(e["after"]["id"] for e in again if e["after"]["id"] >= KEYS // 2)
            assert quiet == list(range(KEYS // 2, KEYS)), "each old row once"
        elif change == "convert":  # of which the server tells nothing
            assert {e["after"]["id"] for e in again} >= set(range(KEYS // 2, KEYS)), "each old row is read again"
            assert {type(e["after"]["n"]) for e in again} == {str}, "as it is after the change"
        else:
            assert not again, "told for nothing"


def test_a_truncated_table_is_emptied_and_goes_on(roach: CockroachRig, capture: Callable[..., Captured]) -> None:
    roach.run(*(f"INSERT INTO {t} SELECT g, 'old' FROM generate_series(0, {KEYS - 1}) AS s(g)" for t in (A, B)))
    captured = capture()
    captured.catch_up()

    def write(connection: Any, n: int) -> None:
        connection.execute(f"UPSERT INTO {B} VALUES ({n % KEYS}, 'n{n}')".encode())
        connection.execute(f"UPSERT INTO {A} VALUES ({n % 5}, 'n{n}')".encode())

    with writing(roach, write):
        roach.run(f"TRUNCATE {A}")
        stop = time.monotonic() + 0.5
        drive(captured, lambda: time.monotonic() > stop)
    captured.catch_up()
    drive(captured, lambda: all(captured.rows(t) == table(roach, t) for t in (A, B)))
    gone = [e for e in captured.events(A) if e["op"] == "d"]
    assert {e["before"]["id"] for e in gone} >= set(range(5, KEYS)), "rows that went are deletes"
    for t in (A, B):
        captured.check_order(t)


def test_a_dropped_table_is_set_aside_beside_writes_to_another(roach: CockroachRig, capture: Callable[..., Captured]) -> None:
    roach.run(*(f"INSERT INTO {t} VALUES (1, 'old')" for t in (A, B)))
    captured = capture()
    captured.catch_up()
    with writing(roach, lambda connection, n: connection.execute(f"UPSERT INTO {B} VALUES ({n % KEYS}, 'n{n}')".encode())):
        roach.run(f"DROP TABLE {A}")
        connector = captured.connector
        assert connector is not None
        drive(captured, lambda: A in connector.aside)
    head = captured.source.head()
    drive(captured, lambda: connector.position is not None and _at(connector.position) >= head)
    assert captured.rows(B) == table(roach, B)
    assert captured.rows(A) == {1: {"id": 1, "v": "old"}}, "what its topic had stays"
    captured.check_order(B)


def check_versions(captured: Captured) -> None:
    versions: dict[Any, tuple[int, int]] = {}
    for e in captured.events(A):
        if e["op"] == "r":
            continue
        key, version = e["after"]["id"], (e["major"], e["minor"])
        assert version > versions.get(key, (0, -1))
        versions[key] = version
