"""Keys whose types come with an order of their own: citext, domains over it, and a type made here. The oracle is the server, asked
with the type's schema on its search path."""

from __future__ import annotations

import pytest
from sources_rig import PostgresRig
from test_sources_postgres_scopes import gone, ids

from millstream.sources.contract import WHOLE, Scope, Source
from millstream.sources.postgres import scopes

pytestmark = pytest.mark.servers

NAMES = ("b", "A", "c", "D", "a2", "Z", "B1", "e")
TABLES = {
    "alone": ("CREATE TABLE k (email kinds.citext PRIMARY KEY, v int)", "email"),
    "a domain": ("CREATE TABLE k (email kinds.address PRIMARY KEY, v int)", "email"),
    "behind a number": ("CREATE TABLE k (n int, email kinds.citext, v int, PRIMARY KEY (n, email))", "n, email"),
    "before a number": ("CREATE TABLE k (email kinds.citext, n int, v int, PRIMARY KEY (email, n))", "email, n"),
    "twice": ("CREATE TABLE k (email kinds.citext, other kinds.citext, v int, PRIMARY KEY (email, other))", "email, other"),
}


def made(rig: PostgresRig, table: str, key: str) -> Source:
    rig.run("CREATE SCHEMA kinds", "CREATE EXTENSION citext SCHEMA kinds", "CREATE DOMAIN kinds.address AS kinds.citext")
    rig.run(table, "ALTER TABLE k REPLICA IDENTITY FULL")
    for v, name in enumerate(NAMES):
        values = ", ".join({"n": str(v % 2), "email": f"'{name}'", "other": f"'{name.swapcase()}'"}[c] for c in key.split(", "))
        rig.run(f"INSERT INTO k ({key}, v) VALUES ({values}, {v})")
    return rig.checked(tables=("k",))


def wanted(rig: PostgresRig, condition: str, key: str) -> list[int]:
    with rig.server.connect(rig.database) as connection:
        connection.execute(b"SET search_path = public, kinds")
        return [v for (v,) in connection.execute(f"SELECT v FROM k WHERE {condition} ORDER BY {key}".encode()).fetchall()]


@pytest.mark.parametrize("table", TABLES)
def test_chunks_follow_the_order_of_the_key_s_type(rig: PostgresRig, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    statement, key = TABLES[table]
    source = made(rig, statement, key)
    for rows_max in (1, 3):
        assert ids(source, WHOLE, rows_max) == wanted(rig, "true", key)
    monkeypatch.setattr(scopes, "CHEAP_COST", -1)
    assert ids(source, Scope(where="v % 3 <> 1"), 2) == wanted(rig, "v % 3 <> 1", key)


@pytest.mark.parametrize("table", ["alone", "a domain"])
def test_a_part_of_keys_is_what_the_type_calls_equal_and_between(rig: PostgresRig, table: str) -> None:
    source = made(rig, *TABLES[table])
    assert ids(source, Scope(keys=(("a",), ("d",), ("x",)))) == wanted(rig, "email IN ('A', 'D')", "email")
    assert ids(source, Scope(first=("B",), last=("d",)), 1) == wanted(rig, "email BETWEEN 'b' AND 'D'", "email")


@pytest.mark.parametrize("table", ["behind a number", "before a number", "twice"])
def test_keys_of_several_columns_are_compared_each_by_its_own(rig: PostgresRig, table: str) -> None:
    statement, key = TABLES[table]
    source = made(rig, statement, key)
    columns = key.split(", ")
    rows = wanted(rig, "true", key)
    given = [tuple({"n": str(v % 2), "email": NAMES[v].swapcase(), "other": NAMES[v]}[c] for c in columns) for v in rows]
    assert ids(source, Scope(keys=tuple(given[2:5]))) == rows[2:5]
    assert ids(source, Scope(first=given[2], last=given[5]), 1) == rows[2:6]
    assert ids(source, Scope(first=given[2][:1]), 1) == wanted(rig, f"{columns[0]} >= '{given[2][0]}'", key)


def test_what_only_a_topic_has_is_another_text(rig: PostgresRig) -> None:
    """The type calls a and A equal; the topic knows them as two keys."""
    source = made(rig, *TABLES["alone"])
    topic = [{"email": name, "v": 0} for name in ("A", "a", "b", "f")]
    assert gone(source, "k", topic, WHOLE, "email") == ["a", "f"]


def test_a_condition_names_the_operators_of_such_a_type(rig: PostgresRig) -> None:
    source = made(rig, *TABLES["alone"])
    assert ids(source, Scope(where="email = 'a'")) == []  # a text's
    assert ids(source, Scope(where="email OPERATOR(kinds.=) 'a'")) == wanted(rig, "email = 'a'", "email")


def test_a_type_whose_operators_have_names_of_their_own(rig: PostgresRig) -> None:
    """Compared the other way round: by any sign of the server's own, most of its rows would be passed over."""
    signs = {1: ("<#", ">"), 2: ("<=#", ">="), 3: ("=#", "="), 4: (">=#", "<="), 5: (">#", "<")}
    rig.run(
        "CREATE SCHEMA kinds",
        "CREATE TYPE kinds.back AS (n int)",
        *(
            f"CREATE FUNCTION kinds.f{i}(kinds.back, kinds.back) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT ($1).n {sign} ($2).n'"
            for i, (_, sign) in signs.items()
        ),
        *(
            f"CREATE OPERATOR kinds.{name} (LEFTARG = kinds.back, RIGHTARG = kinds.back, FUNCTION = kinds.f{i})"
            for i, (name, _) in signs.items()
        ),
        "CREATE FUNCTION kinds.cmp(kinds.back, kinds.back) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT sign(($2).n - ($1).n)::int'",
        "CREATE OPERATOR CLASS kinds.back_ops DEFAULT FOR TYPE kinds.back USING btree AS "
        + ", ".join(f"OPERATOR {i} kinds.{name}" for i, (name, _) in signs.items())
        + ", FUNCTION 1 kinds.cmp(kinds.back, kinds.back)",
        "CREATE TABLE k (id kinds.back PRIMARY KEY, v int)",
        "ALTER TABLE k REPLICA IDENTITY FULL",
        "INSERT INTO k SELECT row(i)::kinds.back, i FROM generate_series(1, 9) i",
    )
    source = rig.checked(tables=("k",))
    assert ids(source, WHOLE, 2) == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert ids(source, Scope(first=("(7)",), last=("(3)",)), 2) == [7, 6, 5, 4, 3]
    assert ids(source, Scope(keys=(("(2)",), ("(4)",), ("(12)",))), 2) == [4, 2]


def test_an_order_of_its_own_is_served_by_the_index(rig: PostgresRig) -> None:
    statement, key = TABLES["before a number"]
    source = made(rig, statement, key)
    rig.run("INSERT INTO k SELECT 'p' || i, i, i FROM generate_series(1, 20000) i", "ANALYZE k")
    session, catalogue = source._session, source._catalogue  # type: ignore[attr-defined]
    table = catalogue.table(source._names["k"])  # type: ignore[attr-defined]
    asked = scopes._selected(table, None, ["P19000", "19000"], None, 10)
    assert scopes._plan(asked, session)["Total Cost"] < 20


def test_a_key_whose_index_includes_another_column(rig: PostgresRig) -> None:
    rig.run("CREATE TABLE k (id int, v int, PRIMARY KEY (id) INCLUDE (v))", "ALTER TABLE k REPLICA IDENTITY FULL")
    rig.run("INSERT INTO k SELECT i, i FROM generate_series(1, 5) i")
    assert ids(rig.checked(tables=("k",)), WHOLE, 2) == [1, 2, 3, 4, 5]


def test_columns_that_the_index_only_includes_are_not_of_the_key(rig: PostgresRig) -> None:
    rig.run("CREATE TABLE k (id int, v int, PRIMARY KEY (id) INCLUDE (v))", "ALTER TABLE k REPLICA IDENTITY FULL")
    rig.run("INSERT INTO k VALUES (2, 1), (1, 2)")
    source = rig.checked(tables=("k",))
    chunk = source.chunk("k", None, 1)
    assert chunk is not None
    assert chunk.schema.key == ("id",)
    assert ids(source, Scope(first=("2",)), 1) == [1]
