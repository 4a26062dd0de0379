"""A table whose key has changed goes on in the next incarnation of its topic; the old one is complete up to there. The source's other
tables take no notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from capture_rig import Captured, writing
from sources_rig import PostgresRig

from millstream.topics.incarnations import ENDED, ended

pytestmark = pytest.mark.servers

A, B = "public.a", "public.b"
NEXT = f"{A}@2"


@pytest.fixture
def capture(rig: PostgresRig, tmp_path: Path) -> Iterator[Callable[..., Captured]]:
    made: list[Captured] = []

    def make(**options: Any) -> Captured:
        made.append(Captured(rig, tmp_path, {"chunk_bytes": 1_000, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def fold(captured: Captured, table: str) -> list[tuple[Any, ...]]:
    """The rows that a topic comes to, told by its own key."""
    rows: dict[tuple[Any, ...], Any] = {}
    for batch in captured.batches(table):
        for key, after in zip(batch.keys().to_pylist(), batch.column("after").to_pylist(), strict=True):
            rows[tuple(key.values())] = after
    return sorted(tuple(r.values()) for r in rows.values() if r is not None)


CHANGES = [
    pytest.param("DROP CONSTRAINT a_pkey, ADD PRIMARY KEY (id, k)", ("id", "k"), id="another key"),
    pytest.param("ALTER id TYPE text", ("id",), id="another type"),
    pytest.param("RENAME id TO number", ("number",), id="another name"),
    pytest.param("DROP CONSTRAINT a_pkey, DROP id, ADD id serial PRIMARY KEY", ("id",), id="another column of the same name"),
]


@pytest.mark.parametrize(("change", "key"), CHANGES)
@pytest.mark.parametrize("before", ["full", "keep"])
def test_it_goes_on_in_the_next_incarnation(
    capture: Callable[..., Captured], rig: PostgresRig, change: str, key: tuple[str, ...], before: str
) -> None:
    rig.run(f"ALTER TABLE {A} ADD k integer NOT NULL DEFAULT 0", f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(1, 300) g")
    captured = capture(**({"before": "keep"} if before == "keep" else {}))
    captured.catch_up()

    def write(connection: Any, n: int) -> None:
        connection.execute(f"INSERT INTO {B} VALUES ({n}, 'b')".encode())

    with writing(rig, write):
        rig.run(f"UPDATE {A} SET v = 'last' WHERE id = 7")
        captured.catch_up()
        rig.run(f"ALTER TABLE {A} {change}", f"UPDATE {A} SET v = 'new' WHERE v = 'last'", f"DELETE FROM {A} WHERE {key[0]}::text = '9'")
        captured.catch_up()
        connector = captured.open()
        rig.run(f"UPDATE {A} SET v = 'again' WHERE {key[0]}::text = '11'")
        captured.catch_up()
    captured.catch_up()
    assert connector.aside == {}
    (entry,) = captured.state()[ENDED][A]
    assert (entry["topic"], entry["goes_on_as"], entry["code"], entry["ready"]) == (f"rig.{A}", f"rig.{NEXT}", "key_changed", True)
    assert fold(captured, A) == [(i, "last" if i == 7 else "old", 0) for i in range(1, 301)]
    columns = ", ".join(f'"{name}"' for name in next(captured.batches(NEXT)).schema.names)
    assert fold(captured, NEXT) == sorted(rig.rows(f"SELECT {columns} FROM {A}"))
    topic = captured.topics.topic(f"rig.{NEXT}")
    assert topic is not None
    assert (topic.key, topic.incarnation) == (key, 2)
    assert captured.state()["ready"] == {f"rig.{A}": True, f"rig.{NEXT}": True, f"rig.{B}": True}
    assert {e["backfill"] for e in captured.events(NEXT) if e["op"] == "r"} == {"key-2"}
    assert len(captured.rows(B)) == rig.rows(f"SELECT count(*) FROM {B}")[0][0]


def test_without_a_key_it_is_set_aside_until_it_has_one(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    rig.run(f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(1, 30) g")
    captured = capture()
    captured.catch_up()
    rig.run(f"UPDATE {A} SET v = 'last' WHERE id = 7")
    captured.catch_up()
    rig.run(f"ALTER TABLE {A} DROP CONSTRAINT a_pkey", f"UPDATE {A} SET v = 'never told'")
    captured.catch_up()
    assert {table: why["code"] for table, why in captured.state()["aside"].items()} == {A: "no_key"}
    assert "primary key" in captured.state()["aside"][A]["cure"]
    captured.open()
    rig.run(f"UPDATE {A} SET v = 'nor this'", f"INSERT INTO {B} VALUES (1, 'b')")
    captured.catch_up()
    assert captured.connector is not None
    assert captured.connector.loaded
    assert set(captured.state()["aside"]) == {A}
    rig.run(f"ALTER TABLE {A} ADD PRIMARY KEY (id)", f"UPDATE {A} SET v = 'told' WHERE id = 3")
    captured.catch_up()
    assert captured.state()["aside"] == {}
    assert fold(captured, NEXT) == [(i, "told" if i == 3 else "nor this") for i in range(1, 31)]
    assert fold(captured, A) == [(i, "last" if i == 7 else "old") for i in range(1, 31)]
    assert set(captured.rows(B)) == {1}


def test_a_key_that_was_null_before(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    """The connector comes to it late: the catalogue says the new key of changes that were made before it."""
    rig.run(f"ALTER TABLE {A} ADD k integer", f"INSERT INTO {A} SELECT g, 'old', NULL FROM generate_series(1, 30) g")
    captured = capture()
    captured.catch_up()
    rig.run(
        f"UPDATE {A} SET v = 'keyless' WHERE id < 5",
        f"UPDATE {A} SET k = 1000 - id WHERE id < 20",
        f"DELETE FROM {A} WHERE id IN (2, 29)",
        f"UPDATE {A} SET k = 1000 - id",
        f"ALTER TABLE {A} DROP CONSTRAINT a_pkey, ADD PRIMARY KEY (k)",
    )
    captured.catch_up()
    assert fold(captured, NEXT) == sorted(rig.rows(f"SELECT id, v, k FROM {A}"))


def test_a_wider_integer_is_the_same_key(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    rig.run(f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(1, 30) g")
    captured = capture()
    captured.catch_up()
    rig.run(f"ALTER TABLE {A} ALTER id TYPE bigint", f"UPDATE {A} SET v = 'new' WHERE id = 3", f"INSERT INTO {A} VALUES ({2**40}, 'far')")
    captured.catch_up()
    assert captured.state()["aside"] == {}
    assert {k: r["v"] for k, r in captured.rows(A).items()} == dict(rig.rows(f"SELECT id, v FROM {A}"))


def test_in_the_middle_of_the_initial_load(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    """No row of it changes after that: the next chunk sees the other key."""
    rig.run(f"ALTER TABLE {A} ADD k integer NOT NULL DEFAULT 0", f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(1, 300) g")
    captured = capture()
    connector = captured.open()
    captured.step(lambda: connector.backfills[A].chunks >= 2)
    rig.run(f"ALTER TABLE {A} DROP CONSTRAINT a_pkey, ADD PRIMARY KEY (id, k)", f"INSERT INTO {B} VALUES (1, 'b')")
    captured.catch_up()
    assert captured.state()["aside"] == {}
    assert captured.state()["ready"] == {f"rig.{A}": False, f"rig.{NEXT}": True, f"rig.{B}": True}
    assert connector.backfills[A].ended == "cancelled"
    assert fold(captured, NEXT) == [(i, "old", 0) for i in range(1, 301)]
    found = ended(captured.topics, f"rig.{A}")
    assert found is not None
    assert not found[0].ready
    assert set(captured.rows(B)) == {1}
