"""A part of a table, as Postgres understands it: conditions, keys and ranges of any type; and what only a topic has. The oracle is the
server, asked directly."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from sources_rig import PostgresRig, read

from millstream.errors import Refused
from millstream.sources.contract import WHOLE, Scope, Source
from millstream.sources.postgres import scopes

KEY = 'at, "what\'s", raw, "Last part"'


@pytest.fixture
def odd(rig: PostgresRig) -> tuple[PostgresRig, Source]:
    """A table with a key of four columns and of awkward names, 60 rows; the stream has begun."""
    rig.run(
        """CREATE TABLE k (v text, "Last part" numeric(8,2), "what's" text, at timestamptz, raw bytea, n int, tags text[], mood text,
            PRIMARY KEY (at, "what's", raw, "Last part"))""",
        "ALTER TABLE k REPLICA IDENTITY FULL",
        """INSERT INTO k SELECT 'v' || i, i / 4.0, E'it''s, \\\\ "' || i % 3,
            '2024-01-01Z'::timestamptz + (i % 2) * interval '1 us', decode(lpad(to_hex(i % 5), 2, '0'), 'hex'), nullif(i % 7, 0), '{a}', 'x'
        FROM generate_series(1, 60) i""",
        "ANALYZE k",
    )
    return rig, rig.checked(tables=("k",))


def ids(source: Source, scope: Scope, rows_max: int = 7, table: str = "k", column: str = "v") -> list[Any]:
    """The column of all rows of the scope, in the order in which they come, each chunk within its limit."""
    stream = source.stream(None)
    next(stream)
    found, after, done = [], None, False
    while not done:
        chunk = source.chunk(table, after, rows_max, scope)
        assert chunk is not None
        assert chunk.rows.num_rows <= rows_max
        found += [r[column] for r in chunk.rows.to_pylist()]
        after, done = chunk.last_key, chunk.done
        read(stream, lambda s, mark=chunk.mark: s.deliveries[-1].mark == mark)
    stream.close()  # type: ignore[attr-defined]
    return found


CONDITIONS = (
    "n = 3",
    "N > 3 AND v <> 'v5'",
    "\"Last part\" BETWEEN 3 AND 4.5 OR \"what's\" LIKE 'it''s%0'",
    "n IS NULL AND tags @> '{a}'::text[]",
    "at::date = '2024-01-01' AND length(v) = 2",
    "raw = '\\x03'",
    "n % 2 = 0 AND NOT mood IS DISTINCT FROM 'x' -- as a person writes it",
    "v ~ '^v[1-3]$' AND n = ANY('{1,2,3}'::int[])",
    "false",
    "at > now() - interval '100 years' AND coalesce(n, 0) = 0",
)


@pytest.mark.parametrize("cheap", [True, False])
def test_conditions_mean_what_they_mean_to_the_server(odd: Any, monkeypatch: pytest.MonkeyPatch, *, cheap: bool) -> None:
    """Whether the server finds the rows quickly, or the table is looked through step by step."""
    rig, source = odd
    monkeypatch.setattr(scopes, "CHEAP_COST", 1e9 if cheap else -1)
    for condition in CONDITIONS:
        wanted = [r[0] for r in rig.rows(f"SELECT v FROM k WHERE ({condition}\n) ORDER BY {KEY}")]
        assert ids(source, Scope(where=condition)) == wanted, condition


def test_few_rows_of_many_are_found_in_steps(odd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, source = odd
    stream = source.stream(None)
    next(stream)
    monkeypatch.setattr(scopes, "CHEAP_COST", -1)
    chunk = source.chunk("k", None, 7, Scope(where="v = 'nothing'"))
    assert chunk is not None
    assert (chunk.rows.num_rows, chunk.done) == (0, False)
    assert chunk.last_key is not None


def test_a_column_is_written_as_the_database_would_want_it(rig: PostgresRig) -> None:
    rig.run('CREATE TABLE q (id int PRIMARY KEY, "Name" text, name text)', "ALTER TABLE q REPLICA IDENTITY FULL")
    rig.run("INSERT INTO q VALUES (1, 'a', 'b'), (2, 'b', 'a')")
    source = rig.checked(tables=("q",))
    assert ids(source, Scope(where="Name = 'a'"), table="q", column="id") == [2]
    assert ids(source, Scope(where="\"Name\" = 'a'"), table="q", column="id") == [1]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("n = (SELECT 1)", "asks another table"),
        ("EXISTS (SELECT 1)", "asks another table"),
        ("count(*) > 1", "many rows"),
        ("random() < 0.5", "random may answer differently"),
        ("set_config('search_path', 'x', false) = 'x'", "set_config may answer differently"),
        ("pg_sleep(1) IS NULL", "pg_sleep may answer differently"),
        ("nextval('s') > 1", "nextval may answer differently"),
        ("Last_part = 1", "no column last_part"),
        ("LAST = 1", "no column last"),
        ("k.n = 1", "no column of the table alone"),
        ("n = 1; DROP TABLE k", "no condition"),
        ("1 = 1) OR (2 = 2", "no condition"),
        ("n = $1", "parameter"),
        ("n + 1", "boolean"),
        ("n = 'three'", "integer"),
        ("nothing_such(n)", "does not exist"),
        ("", "no condition"),
    ],
)
def test_what_is_no_condition_is_refused(odd: Any, condition: str, said: str) -> None:
    rig, source = odd
    with pytest.raises(Refused) as refused:
        source.admits("k", Scope(where=condition))
    assert refused.value.code == "bad_scope"
    assert said in refused.value.message
    assert refused.value.cure
    assert rig.rows("SELECT count(*) FROM k")[0][0] == 60


def test_what_fails_on_a_row_is_refused_and_the_source_goes_on(odd: Any) -> None:
    rig, source = odd
    stream = source.stream(None)
    next(stream)
    scope = Scope(where="100 / (n - 3) > 0")
    source.admits("k", scope)
    with pytest.raises(Refused) as refused:
        source.chunk("k", None, 100, scope)
    assert (refused.value.code, "division by zero" in refused.value.message) == ("bad_scope", True)
    assert source.chunk("k", None, 100) is not None
    rig.run("DELETE FROM k WHERE v = 'v1'")
    read(stream, lambda s: bool(s.events))


def test_keys_are_found_by_value(odd: Any, rig: PostgresRig) -> None:
    _, source = odd
    keys = (
        ("2024-01-01 00:00:00.000001+00", "it's, \\ \"1", "\\x01", "0.25"),
        ("2024-01-01 01:00:00+01", "it's, \\ \"2", "\\x02", "0.500"),
        ("2024-01-01Z", "no such", "\\x02", "9"),
    )
    assert ids(source, Scope(keys=keys)) == ["v2", "v1"]
    assert source.admits("k", Scope(keys=keys)) == 3
    for bad, said in ((("x", "a", "\\x", "1"), "timestamp"), (("2024-01-01Z",), "4 columns")):
        with pytest.raises(Refused, match=said):
            source.admits("k", Scope(keys=(bad,)))


def test_a_text_longer_than_its_column_is_no_key(rig: PostgresRig) -> None:
    """A cast to the column's own type would cut it to one that is."""
    rig.run("CREATE TABLE q (id varchar(3) PRIMARY KEY)", "ALTER TABLE q REPLICA IDENTITY FULL", "INSERT INTO q VALUES ('abc'), ('abd')")
    source = rig.checked(tables=("q",))
    assert ids(source, Scope(keys=(("abcdef",), ("abd",))), table="q", column="id") == ["abd"]
    assert ids(source, Scope(last=("abcdef",)), table="q", column="id") == ["abc"]


def test_ranges_are_in_the_databases_order(odd: Any) -> None:
    rig, source = odd
    cases = (
        (("2024-01-01Z",), ("2024-01-01Z",), "at = '2024-01-01Z'"),
        (("2024-01-01Z", "it's, \\ \"1"), None, "(at, \"what's\") >= ('2024-01-01Z', E'it''s, \\\\ \"1')"),
        (
            None,
            ("2024-01-01Z", "it's, \\ \"1", "\\x02", "7"),
            "(at, \"what's\", raw, \"Last part\") <= ('2024-01-01Z', E'it''s, \\\\ \"1', '\\x02', 7)",
        ),
    )
    for first, last, condition in cases:
        wanted = [r[0] for r in rig.rows(f"SELECT v FROM k WHERE {condition} ORDER BY {KEY}")]
        assert wanted
        assert ids(source, Scope(first=first, last=last)) == wanted


def test_what_the_server_calls_equal_can_be_two_keys(rig: PostgresRig) -> None:
    """An unbounded numeric is a text in the topic, which knows 1.5 and 1.50 as two keys; and 9 stands before 10, not as in bytes."""
    rig.run(
        "CREATE TABLE q (id numeric PRIMARY KEY, v int)",
        "ALTER TABLE q REPLICA IDENTITY FULL",
        "INSERT INTO q VALUES (1.5, 1), (9, 2), (10, 3), (11, 4)",
    )
    source = rig.checked(tables=("q",))
    assert ids(source, Scope(first=("9",), last=("10.0",)), 1, "q", "id") == ["9", "10"]
    assert ids(source, Scope(keys=(("1.50",), ("7",))), 1, "q", "id") == ["1.5"]
    topic = [{"id": i, "v": 0} for i in ("1.5", "1.50", "9", "9.0", "9.5", "10", "10.5")]
    assert gone(source, "q", topic, WHOLE) == ["1.50", "10.5", "9.0", "9.5"]
    assert gone(source, "q", topic, Scope(first=("9",), last=("10",))) == ["9.0", "9.5"]
    assert gone(source, "q", topic, Scope(keys=(("1.500",), ("10.50",)))) == ["1.50", "10.5"]


def gone(source: Source, table: str, rows: list[dict[str, Any]], scope: Scope, column: str = "id") -> list[Any]:
    schema = next(t.schema for t in source.tables() if t.name == table)
    given = pa.RecordBatch.from_struct_array(pa.array(rows, schema.arrow))
    stream = source.stream(None)
    next(stream)
    chunk = source.absent(table, schema, given, scope)
    assert chunk is not None
    assert (chunk.done, chunk.last_key, chunk.schema) == (True, None, schema)
    read(stream, lambda s: s.deliveries[-1].mark == chunk.mark)
    stream.close()  # type: ignore[attr-defined]
    return sorted(r[column] for r in chunk.rows.to_pylist())


def test_what_only_a_topic_has(odd: Any) -> None:
    """Every row of the table, and of every one a twin that the table has not: the twins are found, those of the scope alone."""
    _, source = odd
    stream = source.stream(None)
    next(stream)
    chunk = source.chunk("k", None, 100)
    assert chunk is not None
    stream.close()  # type: ignore[attr-defined]
    there = chunk.rows.to_pylist()
    twins = [{**r, "v": f"twin of {r['v']}", "raw": r["raw"] + b"\xff"} for r in there]
    assert gone(source, "k", there + twins, WHOLE, "v") == sorted(t["v"] for t in twins)
    assert gone(source, "k", there + twins, Scope(where="n = 3 AND at = '2024-01-01Z'"), "v") == sorted(
        t["v"] for t in twins if t["n"] == 3 and t["at"].microsecond == 0
    )
    assert gone(source, "k", there + twins, Scope(where="n IS NULL AND mood = 'x'"), "v") == sorted(t["v"] for t in twins if t["n"] is None)
    one = twins[5]
    key = (str(one["at"]), one["what's"], "\\x" + one["raw"].hex(), f"{one['Last part']}00")
    assert gone(source, "k", there + twins, Scope(keys=(key,)), "v") == [one["v"]]
    with pytest.raises(Refused, match="tags"):
        gone(source, "k", twins, Scope(where="tags @> '{a}'::text[]"))
    assert gone(source, "k", [], WHOLE) == []


@pytest.mark.parametrize(
    ("sql_type", "value", "text"),
    [
        ("bytea", b"\x01", "'\\x01'"),
        ("boolean", True, "true"),
        ("bigint", 7, "7"),
        ("numeric(8,2)", Decimal("1.50"), "1.5"),
        ("double precision", 0.1, "0.1"),
        ("real", 0.1, "0.1"),
        ("date", date(2024, 2, 29), "'2024-02-29'"),
        ("timestamptz", datetime(2024, 2, 29, 1, tzinfo=UTC), "'2024-02-29 01:00Z'"),
        ("text", 'a "b", \\', "'a \"b\", \\'"),
    ],
)
def test_what_only_a_topic_has_may_lack_a_value(rig: PostgresRig, sql_type: str, value: Any, text: str) -> None:
    rig.run(f"CREATE TABLE q (id int PRIMARY KEY, v {sql_type})", "ALTER TABLE q REPLICA IDENTITY FULL")
    source = rig.checked(tables=("q",))
    topic = [{"id": 1, "v": value}, {"id": 2, "v": None}]
    assert gone(source, "q", topic, Scope(where="v IS NULL")) == [2]
    assert gone(source, "q", topic, Scope(where=f"v = CAST({text} AS {sql_type})")) == [1]


def test_a_column_that_the_topic_has_not_yet_is_no_part_of_a_comparison(rig: PostgresRig) -> None:
    source = rig.checked(tables=("a",))
    schema = source.tables()[0].schema
    rig.run("ALTER TABLE a ADD COLUMN b int")
    next(source.stream(None))
    with pytest.raises(Refused, match="no column b") as refused:
        source.absent("a", schema, pa.RecordBatch.from_pylist([{"id": 2, "v": "y"}], pa.schema(list(schema.arrow))), Scope(where="b > 1"))
    assert refused.value.code == "bad_scope"


@pytest.mark.parametrize("value", ["NaN", "-0", "0.1", "-Infinity"])
def test_a_row_whose_key_is_a_float_is_there(rig: PostgresRig, value: str) -> None:
    for kind in ("real", "double precision"):
        rig.run("DROP TABLE IF EXISTS q", f"CREATE TABLE q (id {kind} PRIMARY KEY)", "ALTER TABLE q REPLICA IDENTITY FULL")
        rig.run(f"INSERT INTO q VALUES ('{value}')")
        source = rig.checked(tables=("q",))
        assert gone(source, "q", [{"id": float(value)}, {"id": 2.5}, {"id": 0.0}], WHOLE) == [0.0, 2.5]
        source.close()


def test_what_a_read_did_not_see_is_newer_there_too(rig: PostgresRig) -> None:
    source = rig.checked()
    rig.run("INSERT INTO a VALUES (1, 'x')")
    stream = source.stream(None)
    read(stream, lambda s: bool(s.events))
    schema = source.tables()[0].schema
    chunk = source.absent("public.a", schema, pa.RecordBatch.from_pylist([{"id": 2, "v": "y"}], pa.schema(list(schema.arrow))), WHOLE)
    assert chunk is not None
    assert chunk.rows.to_pylist() == [{"id": 2, "v": "y"}]
    rig.run("INSERT INTO a VALUES (2, 'now it is there')")
    seen = read(stream, lambda s: bool(s.events))
    assert [chunk.newer(b).tolist() for d in seen.deliveries for b in d.batches] == [[True]]
