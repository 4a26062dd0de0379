"""What the stand-in's SQL does: writes, reads, expressions, and what it refuses. Values' exact texts are held in test_recordings.py."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.session import Session
from millstream.testing.cockroach.store import Store


@pytest.fixture
def session() -> Session:
    return Store(clock=lambda: 1_800_000_000 * 10**9).session()


def rows(session: Session, sql: str, *params: str | None) -> list[tuple[str | None, ...]]:
    return session.execute(sql, params).rows


def refusal(session: Session, sql: str) -> str:
    with pytest.raises(SqlError) as refused:
        session.execute(sql)
    return refused.value.sqlstate


def test_defaults_computed_columns_and_what_is_given_back(session: Session) -> None:
    session.execute("CREATE TABLE t (id INT PRIMARY KEY, a STRING DEFAULT 'none', n INT AS (length(a) * 2) STORED, v INT AS (n+1) VIRTUAL)")
    assert rows(session, "INSERT INTO t (id) VALUES (1) RETURNING *") == [("1", "none", "8", "9")]
    assert rows(session, "INSERT INTO t VALUES (2, 'ab'), (3, DEFAULT) RETURNING id, n") == [("2", "4"), ("3", "8")]
    assert rows(session, "UPDATE t SET a = a || '!' WHERE v > 8 RETURNING id, a, v") == [("1", "none!", "11"), ("3", "none!", "11")]
    assert rows(session, "DELETE FROM t WHERE id = 2 RETURNING a") == [("ab",)]
    assert session.execute("DELETE FROM t").tag == "DELETE 2"


def test_upsert_and_on_conflict(session: Session) -> None:
    session.execute("CREATE TABLE t (id INT PRIMARY KEY, a STRING UNIQUE, n INT DEFAULT 7)")
    session.execute("UPSERT INTO t (id, a) VALUES (1, 'x')")
    session.execute("UPDATE t SET n = 1")
    session.execute("UPSERT INTO t (id, a) VALUES (1, 'y')")
    assert rows(session, "SELECT * FROM t") == [("1", "y", "1")]
    assert session.execute("INSERT INTO t VALUES (1, 'z') ON CONFLICT DO NOTHING").tag == "INSERT 0 0"
    session.execute("INSERT INTO t VALUES (1, 'z', 5) ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n, a = excluded.a")
    session.execute("INSERT INTO t VALUES (9, 'z', 5) ON CONFLICT (a) DO UPDATE SET n = 0 WHERE excluded.n > 5")
    assert rows(session, "SELECT * FROM t") == [("1", "z", "6")]
    session.execute("INSERT INTO t VALUES (2, 'a')")
    assert refusal(session, "UPDATE t SET a = 'a' WHERE id = 1") == "23505"
    session.execute("INSERT INTO t VALUES (3, NULL), (4, NULL)")


def test_what_constraints_refuse_changes_nothing(session: Session) -> None:
    session.execute("CREATE TABLE t (id INT PRIMARY KEY, a STRING NOT NULL, d DECIMAL(4,2) CHECK (d > 0), s VARCHAR(2))")
    session.execute("INSERT INTO t VALUES (1, 'x', 1, 'ab')")
    for sql, code in (
        ("INSERT INTO t VALUES (2, 'y', 1, ''), (1, 'x', 1, '')", "23505"),
        ("INSERT INTO t VALUES (2, NULL, 1, '')", "23502"),
        ("UPDATE t SET d = -d", "23514"),
        ("UPDATE t SET d = 123", "22003"),
        ("UPDATE t SET s = 'abc'", "22001"),
        ("UPDATE t SET a = id + 'x'", "22P02"),
        ("UPDATE t SET d = true", "42804"),
        ("UPDATE t SET nope = 1", "42703"),
        ("INSERT INTO t (id) VALUES (1, 2)", "42601"),
        ("UPDATE nope SET a = 'b'", "42P01"),
        ("UPDATE t SET a = nope(a)", "42883"),
        ("SELECT a + 1 FROM t", "42883"),
        ("SELECT id FROM t WHERE a", "42804"),
        ("SELECT count(*), a FROM t", "42803"),
        ("SELEC 1", "42601"),
        ("SELECT 1 FROM t JOIN t AS u ON true", "0A000"),
        ("SELECT (SELECT 1)", "0A000"),
        ("SELECT row_number() OVER () FROM t", "0A000"),
        ("SELECT a FROM t UNION SELECT a FROM t", "0A000"),
        ("CREATE TABLE u (id INT PRIMARY KEY REFERENCES t (id))", "0A000"),
        ("SAVEPOINT x", "25P01"),
        ("LISTEN x", "42601"),
    ):
        assert refusal(session, sql) == code, sql
    assert rows(session, "SELECT * FROM t") == [("1", "x", "1.00", "ab")]


def test_a_key_may_move_past_others(session: Session) -> None:
    session.execute("CREATE TABLE t (id INT PRIMARY KEY)")
    session.execute("INSERT INTO t SELECT i FROM generate_series(1, 5) g(i)")
    session.execute("UPDATE t SET id = id + 1")
    assert rows(session, "SELECT id FROM t") == [(str(n),) for n in range(2, 7)]


def test_parameters_take_the_type_of_their_place(session: Session) -> None:
    session.execute("CREATE TABLE t (id INT PRIMARY KEY, at TIMESTAMPTZ, d DECIMAL, tags STRING[], ok BOOL)")
    session.execute("INSERT INTO t VALUES ($1, $2, $3, $4, $5)", ("1", "2024-01-02 03:04:05+02", "1.50", '{a,"b c"}', "t"))
    session.execute("INSERT INTO t VALUES ($1, $2, $3, $4, $5)", ("2", None, None, None, None))
    assert rows(session, "SELECT * FROM t WHERE id = $1", "1") == [("1", "2024-01-02 01:04:05+00", "1.50", '{a,"b c"}', "t")]
    assert rows(session, "SELECT id FROM t WHERE d > $1 OR id IN ($2, $3)", "1.4", "2", "3") == [("1",), ("2",)]
    assert rows(session, "SELECT id FROM t WHERE id = ANY ($1)", "{2,7}") == [("2",)]
    assert refusal_of_parameter(session) == "22P02"


def refusal_of_parameter(session: Session) -> str:
    with pytest.raises(SqlError) as refused:
        session.execute("SELECT id FROM t WHERE id = $1", ("one",))
    return refused.value.sqlstate


def test_expressions(session: Session) -> None:
    for sql, shown in (
        ("7 / 2", "3.5"),
        ("7 // 2", "3"),
        ("-7 % 3", "-1"),
        ("1.10 + 2", "3.10"),
        ("1 + 2 * 3 - 4", "3"),
        ("2::FLOAT / 4", "0.5"),
        ("'a' || 1::STRING || NULL", None),
        ("coalesce(NULL, 'b')", "b"),
        ("coalesce(NULL, NULL) > 0", None),
        ("CASE WHEN NULL THEN 'a' WHEN 1 = 1 THEN 'b' END", "b"),
        ("CASE 2 WHEN 1 THEN 'a' ELSE 'c' END", "c"),
        ("NULL IN (1)", None),
        ("1 IN (2, NULL)", None),
        ("3 NOT IN (1, 2)", "t"),
        ("2 BETWEEN 1 AND 3 AND NOT false", "t"),
        ("'abc' LIKE 'a_%'", "t"),
        ("NULL IS NOT DISTINCT FROM NULL", "t"),
        ("(1, 2) < (1, 3)", "t"),
        ("(1, NULL) < (2, 3)", "t"),
        ("(1, NULL) < (1, 3)", None),
        ("ARRAY[1, 2] || 3", "{1,2,3}"),
        ("(ARRAY[4, 5])[2]", "5"),
        ("'2024-01-31'::DATE + 1", "2024-02-01"),
        ("'2024-01-31 00:00:00'::TIMESTAMP + '1 month'::INTERVAL", "2024-02-29 00:00:00"),
        ("""'{"a": [1.50, {"b": null}]}'::JSONB -> 'a' -> 0""", "1.50"),
        ("""'{"a": "x"}'::JSONB ->> 'a'""", "x"),
        ("""json_build_object('b', 1.10, 'a', ARRAY['x'], 'n', NULL)::STRING""", '{"a": ["x"], "b": 1.10, "n": null}'),
        ("upper('é') || repeat('a', 2)", "Éaa"),
        ("b'\\xff'::STRING", "\\xff"),
        ("1e2", "1E+2"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("current_user", "root"),
        ("greatest(1, NULL, 3.5)", "3.5"),
        ("0::DECIMAL(20,10)", "0.0000000000"),
        (
            "json_build_object('f', 10.0::FLOAT, 'd', 10.0, 'g', 'POINT(10 0.5)'::GEOMETRY)::STRING",
            '{"d": 10.0, "f": 1E+1, "g": {"coordinates": [10, 0.5], "type": "Point"}}',
        ),
    ):
        assert rows(session, f"SELECT {sql}") == [(shown,)], sql


def test_groups_order_and_limits(session: Session) -> None:
    session.execute("CREATE TABLE t (id INT PRIMARY KEY, g STRING, n INT)")
    session.execute("INSERT INTO t VALUES (1, 'a', 1), (2, 'a', 4), (3, 'b', NULL), (4, NULL, 2)")
    assert rows(session, "SELECT g, count(*), count(n), sum(n), avg(n), max(n) AS m FROM t GROUP BY g ORDER BY m DESC, g") == [
        ("a", "2", "2", "5", "2.5", "4"),
        (None, "1", "1", "2", "2", "2"),
        ("b", "1", "0", None, None, None),
    ]
    assert rows(session, "SELECT count(*) + 1, min(g) FROM t WHERE id > 10") == [("1", None)]
    assert [r[0] for r in rows(session, "SELECT id FROM t ORDER BY n")] == ["3", "1", "4", "2"]
    assert [r[0] for r in rows(session, "SELECT id FROM t ORDER BY n DESC NULLS LAST LIMIT 2 OFFSET 1")] == ["4", "1"]
    assert rows(session, "SELECT DISTINCT g FROM t ORDER BY 1") == [(None,), ("a",), ("b",)]


SMALL = st.one_of(st.none(), st.integers(-3, 3))


@st.composite
def conditions(draw: st.DrawFn, depth: int = 3) -> str:
    """A WHERE over the integers a and b, in what both databases' SQL has."""
    if depth == 0 or draw(st.booleans()):
        left = draw(st.sampled_from(["a", "b", "a + b", "a - 1", "NULL"]))
        right = draw(st.sampled_from(["a", "b", "0", "1", "-2", "NULL"]))
        return draw(st.sampled_from([
            f"{left} = {right}", f"{left} < {right}", f"{left} >= {right}", f"{left} <> {right}", f"{left} IS NULL",
            f"{left} IS DISTINCT FROM {right}", f"{left} IN ({right}, 2)", f"{left} BETWEEN {right} AND 2",
            f"coalesce({left}, {right}) > 0",
        ]))  # fmt: skip
    one, other = draw(conditions(depth - 1)), draw(conditions(depth - 1))
    return draw(st.sampled_from([f"({one} AND {other})", f"({one} OR {other})", f"NOT ({one})", f"(CASE WHEN {one} THEN {other} END)"]))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(SMALL, SMALL), max_size=8), conditions())
def test_three_valued_logic_is_that_of_another_database(table: list[tuple[int | None, int | None]], where: str) -> None:
    session, other = Store().session(), duckdb.connect()
    for run in (session.execute, other.execute):
        run("CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b BIGINT)")
        for n, (a, b) in enumerate(table):
            run(f"INSERT INTO t VALUES ({n}, {'NULL' if a is None else a}, {'NULL' if b is None else b})")
    sql = f"SELECT id, a FROM t WHERE {where} ORDER BY a NULLS FIRST, id"
    theirs = other.execute(sql.replace("NULL AND", "NULL::BIGINT AND")).fetchall()
    assert [(int(i or 0), a and int(a)) for i, a in session.execute(sql).rows] == theirs


KEYS = st.tuples(st.integers(-2, 2), st.text("ab\x00é", max_size=2))


@settings(max_examples=25, deadline=None)
@given(st.sets(KEYS, max_size=12), st.integers(1, 4), st.sampled_from(["a, b", "a DESC, b", "b, a"]))
def test_chunks_by_key_are_the_table(keys: set[tuple[int, str]], size: int, key: str) -> None:
    """Read as of one time in pieces, each after the last key of the one before, while the table changes: what was there, in order."""
    session = Store().session()
    session.execute(f"CREATE TABLE t (a INT, b STRING, PRIMARY KEY ({key}))")
    for a, b in keys:
        session.execute("INSERT INTO t VALUES ($1, $2)", (str(a), b))
    at = session.store.now()
    names = [part.split()[0] for part in key.split(", ")]
    beyond = f"({', '.join(names)}) > ($1, $2)" if "DESC" not in key else "(a < $1 OR (a = $1 AND b > $2))"
    found: list[tuple[str | None, ...]] = []
    while True:
        where = f" WHERE {beyond}" if found else ""
        sql = f"SELECT a, b::STRING FROM t AS OF SYSTEM TIME '{at}'{where} ORDER BY {key} LIMIT {size}"
        last = found and tuple(found[-1]["ab".index(n)] for n in names)
        piece = session.execute(sql, last or ()).rows
        found += piece
        session.execute("DELETE FROM t LIMIT 1")
        if len(piece) < size:
            break
    turned = [lambda k: (k[0], k[1].encode()), lambda k: (-k[0], k[1].encode()), lambda k: (k[1].encode(), k[0])][
        ["a, b", "a DESC, b", "b, a"].index(key)
    ]
    assert found == [(str(a), b) for a, b in sorted(keys, key=turned)]
