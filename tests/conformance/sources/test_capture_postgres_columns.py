"""What old rows have in a column that was added or converted: told by the schema, or by a backfill, while others write."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from capture_rig import Captured, writing
from sources_rig import PostgresRig

from millstream.events.types import UNKNOWN, Constant

pytestmark = pytest.mark.servers

A = "public.a"
OLD = 300


@pytest.fixture
def capture(rig: PostgresRig, tmp_path: Path) -> Iterator[Callable[..., Captured]]:
    made: list[Captured] = []

    def make(**options: Any) -> Captured:
        made.append(Captured(rig, tmp_path, {"tables": (A,), "chunk_bytes": 4_000, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def loaded(capture: Callable[..., Captured], rig: PostgresRig, **options: Any) -> Captured:
    rig.run(f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(1, {OLD}) g")
    captured = capture(**options)
    captured.catch_up()
    return captured


def table(rig: PostgresRig) -> dict[int, dict[str, Any]]:
    with rig.server.connect(rig.database) as connection:
        cursor = connection.execute(f"SELECT * FROM {A}".encode())
        names = [c.name for c in cursor.description or ()]
        return {r[0]: dict(zip(names, r, strict=True)) for r in cursor.fetchall()}


def updates(connection: Any, n: int) -> None:
    connection.execute(f"UPDATE {A} SET v = 'v{n}' WHERE id = {n * 7 % OLD + 1}".encode())


CASES = [
    pytest.param("ADD n integer", None, False, id="no default"),
    pytest.param("ADD n integer DEFAULT 7", Constant("7"), False, id="a constant"),
    pytest.param("ADD n integer DEFAULT 7 NOT NULL", Constant("7"), False, id="never null"),
    pytest.param("ADD n numeric(8,3) DEFAULT 1.5", Constant("1.500"), False, id="at the column's scale"),
    pytest.param("ADD n text DEFAULT 'é \"quoted\" {x},'", Constant('é "quoted" {x},'), False, id="a text"),
    pytest.param("ADD n timestamptz DEFAULT '2026-01-02 03:04:05+02'", Constant("2026-01-02 01:04:05+00"), False, id="an instant"),
    pytest.param("ADD n boolean DEFAULT true", Constant("t"), False, id="a truth"),
    pytest.param("ADD n bytea DEFAULT '\\x00ff'", Constant("\\x00ff"), False, id="bytes"),
    pytest.param("ADD n date DEFAULT 'infinity'", UNKNOWN, True, id="what no date holds"),
    pytest.param("ADD n integer GENERATED ALWAYS AS IDENTITY", UNKNOWN, True, id="an identity"),
    pytest.param("ADD n double precision DEFAULT random()", UNKNOWN, True, id="volatile"),
    pytest.param("ADD n integer DEFAULT 7, ALTER v TYPE varchar USING upper(v)", UNKNOWN, True, id="rewritten in the same breath"),
]


@pytest.mark.parametrize(("ddl", "fill", "read_again"), CASES)
def test_an_added_column(capture: Callable[..., Captured], rig: PostgresRig, ddl: str, fill: Any, read_again: bool) -> None:
    captured = loaded(capture, rig)
    with writing(rig, updates):
        rig.run(f"ALTER TABLE {A} {ddl}")
        captured.step(lambda: len(captured.registry.versions(f"rig.{A}-value")) == 2)
        captured.catch_up()
    captured.catch_up()
    assert captured.schema(A)["n"].fill == fill
    assert captured.schema(A)["n"].nullable == ("NOT NULL" not in ddl and "IDENTITY" not in ddl)
    told = [e for e in captured.events(A) if e["cause"] == "schema"]
    assert bool(told) == read_again
    assert {(e["op"], e["backfill"], e["snapshot"]) for e in told} <= {("r", "schema-2", "incremental")}
    if "infinity" in ddl:  # a hole in every old row, in the place of what cannot be said
        assert {h["why"] for e in told for h in e["holes"]} == {"infinity"}
    else:
        assert captured.rows(A) == table(rig)
    captured.check_order(A)
    (change,) = captured.state()["schema_changes"][f"rig.{A}"]
    assert change["version_id"] == captured.registry.versions(f"rig.{A}-value")[-1].id
    assert any("added n" in said for said in change["operations"])
    assert change["position"] and change["ts_us"] > 0


def test_a_column_whose_default_was_taken_away_from_the_catalogue_by_a_rewrite(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    """The stream meets the column when the catalogue no longer keeps what old rows had in it."""
    captured = loaded(capture, rig)
    rig.run(f"ALTER TABLE {A} ADD n integer DEFAULT 7", f"VACUUM FULL {A}", f"UPDATE {A} SET v = 'new' WHERE id = 1")
    captured.catch_up()
    assert captured.schema(A)["n"].fill is UNKNOWN
    assert captured.rows(A) == table(rig)


def test_what_was_added_while_nobody_read(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    """Beside what was looked at when the position was taken: no rewrite lies between, so an absent default means null."""
    rig.run(f"VACUUM FULL {A}")
    captured = loaded(capture, rig)
    assert captured.connector is not None
    captured.connector.close()
    rig.run(f"ALTER TABLE {A} ADD n integer", f"ALTER TABLE {A} ADD k integer DEFAULT 3", f"UPDATE {A} SET v = 'new' WHERE id = 1")
    captured.open()
    captured.catch_up()
    assert [captured.schema(A)[c].fill for c in "nk"] == [None, Constant("3")]
    captured.connector.close()
    rig.run(f"ALTER TABLE {A} ADD r float DEFAULT random()", f"UPDATE {A} SET v = 'newer' WHERE id = 1")
    captured.open()
    captured.catch_up()
    assert captured.schema(A)["r"].fill is UNKNOWN
    assert captured.schema(A)["k"].fill == Constant("3"), "what was said once stays said"
    assert captured.rows(A) == table(rig)


@pytest.mark.parametrize("type_", ["text", "integer"])
def test_a_column_made_again_while_nobody_read(capture: Callable[..., Captured], rig: PostgresRig, type_: str) -> None:
    """Rows of before are in the log with the old column: they are told under it, and have nothing in the new one."""
    rig.run(f"ALTER TABLE {A} ADD n text DEFAULT 'was'", f"ALTER TABLE {A} ADD k integer")
    captured = loaded(capture, rig)
    assert captured.connector is not None
    captured.connector.close()
    rig.run(f"UPDATE {A} SET n = 'gone', k = 1 WHERE id < 9")
    rig.run(f"ALTER TABLE {A} DROP n", f"ALTER TABLE {A} ADD n {type_}", f"UPDATE {A} SET k = 2 WHERE id = 1")
    captured.open()
    captured.catch_up()
    assert captured.rows(A) == table(rig)
    told = [b.schema for b in captured.batches(A)]
    assert [[f.id for f in s.fields] for s in told if "n" in s.names][-2:] == [[1, 2, 3, 4], [1, 2, 4, 5]]


def test_a_converted_column_is_read_again(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    captured = loaded(capture, rig)

    def digits(connection: Any, n: int) -> None:
        connection.execute(f"UPDATE {A} SET v = '{n}' WHERE id = {n * 11 % OLD + 1}".encode())

    with writing(rig, digits):
        rig.run(f"ALTER TABLE {A} ALTER v TYPE integer USING length(v)")
        captured.catch_up()
    captured.catch_up()
    assert captured.rows(A) == table(rig)
    assert any(e["cause"] == "schema" for e in captured.events(A))
    captured.check_order(A)


def test_a_wider_column_in_the_same_file_is_not_read_again(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    rig.run(f"ALTER TABLE {A} ADD n numeric(8,2)")
    captured = loaded(capture, rig)
    rig.run(f"ALTER TABLE {A} ALTER n TYPE numeric(12,2)", f"UPDATE {A} SET n = 1 WHERE id = 1")
    captured.catch_up()
    assert [e for e in captured.events(A) if e["cause"] == "schema"] == []
    rig.run(f"ALTER TABLE {A} ALTER n TYPE numeric(13,3) USING n * 10", f"UPDATE {A} SET n = 1 WHERE id = 2")
    captured.catch_up()
    assert captured.rows(A) == table(rig)


def test_a_schema_backfill_goes_on_after_a_kill_and_a_later_one_takes_its_place(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    captured = loaded(capture, rig, chunk_bytes=1_000)
    with writing(rig, updates):
        rig.run(f"ALTER TABLE {A} ADD r float DEFAULT random()")
        captured.step(lambda: captured.state()["backfills"].get(f"{A} schema", {}).get("chunks", 0) >= 2)
        done = captured.state()["backfills"][f"{A} schema"]["rows"]
        assert 0 < done < OLD
        captured.open()
        captured.step(lambda: captured.state()["backfills"][f"{A} schema"]["chunks"] >= 3)
        rig.run(f"ALTER TABLE {A} ADD s float DEFAULT random()")
        captured.catch_up()
    captured.catch_up()
    assert captured.state()["backfills"][f"{A} schema"]["name"] == "schema-3"
    assert {e["backfill"] for e in captured.events(A) if e["cause"] == "schema"} == {"schema-2", "schema-3"}
    assert captured.rows(A) == table(rig)
    captured.check_order(A)


def test_it_is_only_offered_where_the_owner_wants_it_so(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    captured = loaded(capture, rig, schema_backfill="offer")
    rig.run(f"ALTER TABLE {A} ADD r float DEFAULT random()", f"UPDATE {A} SET v = 'new' WHERE id = 1")
    captured.catch_up()
    offered = captured.state()["backfills"][f"{A} schema"]
    assert (offered["wanted"], offered["done"], offered["chunks"]) == (False, False, 0)
    assert [e for e in captured.events(A) if e["cause"] == "schema"] == []
    captured.options["schema_backfill"] = "start"
    captured.open()
    captured.catch_up()
    assert captured.rows(A) == table(rig)


def test_comments_and_not_null_are_said(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    rig.run(f"COMMENT ON COLUMN {A}.v IS 'what is said'")
    captured = loaded(capture, rig)
    assert [(f.name, f.nullable, f.doc) for f in captured.schema(A).fields] == [("id", False, ""), ("v", True, "what is said")]
    rig.run(f"COMMENT ON COLUMN {A}.id IS 'which'", f"ALTER TABLE {A} ALTER v SET NOT NULL", f"UPDATE {A} SET v = 'new' WHERE id = 1")
    captured.catch_up()
    assert [(f.name, f.nullable, f.doc) for f in captured.schema(A).fields] == [("id", False, "which"), ("v", False, "what is said")]
    assert captured.state()["schema_changes"][f"rig.{A}"][0]["operations"] == ["described id", "v is never null now"]


def test_a_comment_alone_does_not_hold_up_a_backfill(capture: Callable[..., Captured], rig: PostgresRig) -> None:
    """A chunk sees the comment, the stream does not: both are the same columns."""
    rig.run(f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(1, {OLD}) g")
    captured = capture(chunk_bytes=500)
    captured.open()
    with writing(rig, updates):
        captured.step(lambda: captured.state().get("backfills", {}).get(A, {}).get("chunks", 0) >= 2)
        rig.run(f"COMMENT ON COLUMN {A}.v IS 'said in the middle'")
        captured.catch_up()
    captured.catch_up()
    assert captured.rows(A) == table(rig)
    assert captured.schema(A)["v"].doc == "said in the middle"


CHAIN = (
    "RENAME v TO w",
    "ADD v text DEFAULT 'again'",
    "DROP w",
    "RENAME v TO w",
    "ADD v integer DEFAULT 1",
    "ALTER v TYPE bigint",
    "DROP v",
    "ADD v text",
    "ADD n integer DEFAULT 5",
    "RENAME n TO m",
    "ALTER m TYPE text USING 'm' || m",
    "ADD x float DEFAULT random()",
)


@pytest.mark.parametrize("seed", range(3))
def test_chains_of_changes_under_load(capture: Callable[..., Captured], rig: PostgresRig, seed: int) -> None:
    """Read at once, late, or after a kill: every row is in the end as the table has it, and ids follow columns, not names."""
    rng = random.Random(seed)
    captured = loaded(capture, rig)

    def touch(connection: Any, n: int) -> None:
        connection.execute(f"UPDATE {A} SET id = id WHERE id = {n * 13 % OLD + 1}".encode())

    with writing(rig, touch):
        for ddl in CHAIN:
            rig.run(f"ALTER TABLE {A} {ddl}", f"UPDATE {A} SET id = id WHERE id = 1")
            what = rng.random()
            if what < 0.4:
                captured.catch_up()
            elif what < 0.6:
                captured.open()
        captured.catch_up()
    captured.catch_up()
    assert captured.rows(A) == table(rig)
    captured.check_order(A)
    ids = [f.id for f in captured.schema(A).fields]
    with rig.server.connect(rig.database) as connection:
        found = connection.execute(
            f"SELECT attnum FROM pg_attribute WHERE attrelid = '{A}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum".encode()
        ).fetchall()
    assert ids == [n for (n,) in found]
