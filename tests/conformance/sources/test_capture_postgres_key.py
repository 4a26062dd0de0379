"""A table whose key has changed is set aside, with all that was told before it; the source's other tables go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from capture_rig import Captured, writing
from sources_rig import PostgresRig

pytestmark = pytest.mark.servers

A, B = "public.a", "public.b"


@pytest.fixture
def capture(rig: PostgresRig, tmp_path: Path) -> Iterator[Callable[..., Captured]]:
    made: list[Captured] = []

    def make(**options: Any) -> Captured:
        made.append(Captured(rig, tmp_path, {"chunk_bytes": 1_000, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


CHANGES = [
    pytest.param(("DROP CONSTRAINT a_pkey, ADD PRIMARY KEY (id, k)",), "key_changed", id="another key"),
    pytest.param(("DROP CONSTRAINT a_pkey",), "no_key", id="none"),
    pytest.param(("ALTER id TYPE text",), "key_changed", id="another type"),
    pytest.param(("RENAME id TO number",), "key_changed", id="another name"),
    pytest.param(("DROP CONSTRAINT a_pkey, DROP id, ADD id serial PRIMARY KEY",), "key_changed", id="another column of the same name"),
]


@pytest.mark.parametrize(("changes", "code"), CHANGES)
def test_it_is_set_aside_and_the_others_go_on(
    capture: Callable[..., Captured], rig: PostgresRig, changes: tuple[str, ...], code: str
) -> None:
    rig.run(f"ALTER TABLE {A} ADD k integer NOT NULL DEFAULT 0", f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(1, 30) g")
    captured = capture()
    captured.catch_up()

    def write(connection: Any, n: int) -> None:
        connection.execute(f"INSERT INTO {B} VALUES ({n}, 'b')".encode())

    with writing(rig, write):
        rig.run(f"UPDATE {A} SET v = 'last' WHERE id = 7")
        captured.catch_up()
        rig.run(*(f"ALTER TABLE {A} {c}" for c in changes), f"UPDATE {A} SET v = 'never told'", f"TRUNCATE {A}")
        captured.catch_up()
        captured.open()
        captured.catch_up()
    captured.catch_up()
    aside = captured.state()["aside"]
    assert {table: why["code"] for table, why in aside.items()} == {A: code}
    assert "source of its own name" in aside[A]["cure"]
    assert captured.rows(A) == {i: {"id": i, "v": "last" if i == 7 else "old", "k": 0} for i in range(1, 31)}
    assert len(captured.rows(B)) == rig.rows(f"SELECT count(*) FROM {B}")[0][0]
    assert captured.connector is not None
    assert captured.connector.loaded
    captured.connector.close()
    captured.options["tables"] = (B,)
    captured.open()
    rig.run(f"INSERT INTO {B} VALUES (-1, 'after')")
    captured.catch_up()
    assert captured.state()["aside"] == {}
    assert -1 in captured.rows(B)


def test_a_wider_integer_is_the_same_key(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    rig.run(f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(1, 30) g")
    captured = capture()
    captured.catch_up()
    rig.run(f"ALTER TABLE {A} ALTER id TYPE bigint", f"UPDATE {A} SET v = 'new' WHERE id = 3", f"INSERT INTO {A} VALUES ({2**40}, 'far')")
    captured.catch_up()
    assert captured.state()["aside"] == {}
    assert {k: r["v"] for k, r in captured.rows(A).items()} == dict(rig.rows(f"SELECT id, v FROM {A}"))


def test_in_the_middle_of_the_initial_load(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    rig.run(f"ALTER TABLE {A} ADD k integer NOT NULL DEFAULT 0", f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(1, 300) g")
    captured = capture()
    connector = captured.open()
    captured.step(lambda: connector.backfills[A].chunks >= 2)
    rig.run(f"ALTER TABLE {A} DROP CONSTRAINT a_pkey, ADD PRIMARY KEY (id, k)", f"INSERT INTO {B} VALUES (1, 'b')")
    captured.catch_up()
    assert set(captured.state()["aside"]) == {A}
    assert captured.state()["ready"] == {f"rig.{A}": False, f"rig.{B}": True}
    assert set(captured.rows(B)) == {1}
