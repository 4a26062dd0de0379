"""Rows by their values from a real PostgreSQL: types, keys of every kind, hostile names, what cannot be compared, and every wait's end."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from sources_rig import PostgresRig, opener, read_to_head

from millstream.errors import Irrecoverable, MillstreamError, Refused, Retryable
from millstream.events.progress import Position
from millstream.events.types import Field, RowSchema, Type
from millstream.sources.contract import Asked
from millstream.sources.kinds import KINDS
from millstream.sources.postgres.lookup import Lookup

START = Position(0, 0, {})


@pytest.fixture
def lookups(rig: PostgresRig) -> Iterator[Any]:
    """Opens lookups of the rig's database."""
    opened: list[Lookup] = []

    def open_one(**options: Any) -> Lookup:
        kind = next(k for k in KINDS if k.name == "postgres")
        made = kind.options(**{"url": rig.server.url(rig.database), "tables": ("public.a",), **options})
        opened.append(kind.open_lookup("rig", made))
        return opened[-1]

    yield open_one
    for lookup in opened:
        lookup.close()


def schema_of(rig: PostgresRig, table: str) -> RowSchema:
    source = opener("postgres")("described", {"url": rig.server.url(rig.database), "tables": (table,)})
    try:
        return source.tables()[0].schema
    finally:
        source.close()


def ask(lookup: Lookup, schema: RowSchema, table: str, keys: dict[str, Any], wanted: tuple[str, ...], at: Position = START) -> pa.Table:
    """`keys`: column → Arrow array or Python values of the column's own type."""
    arrays = [v if isinstance(v, pa.Array) else pa.array(v, schema[c].type.arrow) for c, v in keys.items()]
    pieces = list(lookup.lookup(Asked(table, schema, tuple(keys), pa.table(arrays, names=list(keys)), wanted), at))
    return pa.concat_tables(pieces) if pieces else pa.table({w: pa.array([], schema[w].type.arrow) for w in wanted})


def ids(found: pa.Table, column: str = "id") -> list[Any]:
    return sorted(found.column(column).to_pylist())


EVERY_TYPE = """id int PRIMARY KEY, b boolean, s smallint, i int, l bigint, f real, d double precision, t text, v varchar(9), c char(4),
    n numeric(10,2), w numeric, u uuid, j jsonb, x bytea, da date, ti time, ts timestamp, tz timestamptz, e mood, m small_text"""
ROW = """true, 7, 70000, 5000000000, 0.1, 0.1, 'a"b\\c{,}''', 'null', 'ab', 12.30, 1e30, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11',
    '{"a": 1}', '\\x00ff5c22', '2024-02-29', '12:34:56.789', '2024-02-29 12:34:56.789012', '2024-02-29 12:34:56+02', 'so "so"', 'dom'"""


def test_every_type_comes_as_the_topic_has_it_and_finds_its_row(rig: PostgresRig, lookups: Any) -> None:
    rig.run(
        "CREATE TYPE mood AS ENUM ('good', 'so \"so\"')",
        "CREATE DOMAIN small_text AS text CHECK (length(VALUE) < 5)",
        f"CREATE TABLE every ({EVERY_TYPE})",
        "ALTER TABLE every REPLICA IDENTITY FULL",
        f"INSERT INTO every SELECT 1, {ROW}",
        "INSERT INTO every (id) VALUES (2)",
    )
    schema, lookup = schema_of(rig, "public.every"), lookups()
    source = rig.checked(tables=("public.every",))
    chunk = source.chunk("public.every", None, 10)
    assert chunk is not None
    found = ask(lookup, schema, "public.every", {"id": [1, 2, 3]}, schema.names)
    assert found.schema == pa.schema(list(schema.arrow))
    assert sorted(found.to_pylist(), key=lambda r: r["id"]) == chunk.rows.to_pylist(), "as a chunk reads it"
    row = found.filter(pa.compute.equal(found.column("id"), 1))
    for name in schema.names:
        if name not in ("j",):  # jsonb's text is not what its equality compares, but it finds it too: below
            assert ids(ask(lookup, schema, "public.every", {name: row.column(name).combine_chunks()}, ("id",))) == [1], name
    assert ids(ask(lookup, schema, "public.every", {"j": ['{"a": 1}']}, ("id",))) == [1]


def test_numbers_are_compared_exactly_whatever_their_type(rig: PostgresRig, lookups: Any) -> None:
    rig.run("CREATE TABLE n (id int PRIMARY KEY, d numeric(10,2), f real)", "INSERT INTO n VALUES (1, 1.23, 0.1), (2, 1.20, 0.5)")
    schema, lookup = schema_of(rig, "public.n"), lookups()
    at = lambda column, values: ids(ask(lookup, schema, "public.n", {column: values}, ("id",)))  # noqa: E731
    assert at("d", pa.array([Decimal("1.2345")], pa.decimal128(10, 4))) == [], "not rounded to the column's scale"
    assert at("d", pa.array([Decimal("1.2000")], pa.decimal128(10, 4))) == [2]
    assert at("id", pa.array([5_000_000_000, 2], pa.int64())) == [2]
    assert at("id", pa.array([Decimal("1.5"), Decimal("2.0")], pa.decimal128(10, 1))) == [2]
    assert at("f", pa.array([0.1, 0.5], pa.float32())) == [1, 2]
    assert at("f", pa.array([0.1, 0.5], pa.float64())) == [2], "0.1 as real is another number"


def test_keys_of_several_columns_and_rows_each_once(rig: PostgresRig, lookups: Any) -> None:
    rig.run("CREATE TABLE k (a text, b int, id int, PRIMARY KEY (a, b))", "INSERT INTO k VALUES ('x', 1, 1), ('x', 2, 2), ('y,\"', 1, 3)")
    schema, lookup = schema_of(rig, "public.k"), lookups()
    assert ids(ask(lookup, schema, "public.k", {"a": ["x", 'y,"', "y"], "b": [2, 1, 1]}, ("id",))) == [2, 3]
    assert ids(ask(lookup, schema, "public.k", {"b": [1, 1, 2]}, ("id",))) == [1, 2, 3]
    assert ids(ask(lookup, schema, "public.k", {"a": []}, ("id",))) == []
    assert ids(ask(lookup, schema, "public.k", {"a": ["x\0", "y\0"], "b": [1, 1]}, ("id",))) == []


def test_nulls_are_found_by_nothing(rig: PostgresRig, lookups: Any) -> None:
    rig.run("INSERT INTO public.a VALUES (1, NULL), (2, 'null'), (3, '')")
    schema, lookup = schema_of(rig, "public.a"), lookups()
    assert ids(ask(lookup, schema, "public.a", {"v": ["null", ""]}, ("id",))) == [2, 3]


@pytest.mark.parametrize("name", ['we "ird', "a.b", "select", "ümläut'; DROP TABLE a; --", "back\\slash"])
def test_hostile_names_and_values(rig: PostgresRig, lookups: Any, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    rig.run(f"CREATE TABLE public.{quoted} ({quoted} text PRIMARY KEY)")
    values = [name, "'); DROP TABLE a; --", "\\", "\\'", '"', "{a,b}", "NULL", "\n\t", "\U0001f40d"]
    with rig.server.connect(rig.database) as connection:
        for value in values:
            connection.execute(f"INSERT INTO public.{quoted} VALUES (%s)".encode(), [value])
    table = f"public.{quoted}"
    schema = schema_of(rig, table)
    assert ids(ask(lookups(), schema, table, {name: values}, (name,)), name) == sorted(values)


def test_text_that_is_no_value_of_the_column_finds_nothing(rig: PostgresRig, lookups: Any) -> None:
    """A text column may be joined with an enum's or a uuid's text; where the server finds more (char's blanks), the asker leaves it out."""
    rig.run(
        "CREATE TYPE colour AS ENUM ('red', 'blue')",
        "CREATE TABLE odd (id int PRIMARY KEY, c colour, j json, t char(3))",
        """INSERT INTO odd VALUES (1, 'red', '{"a":1}', 'Ab'), (2, 'blue', '[]', 'aB')""",
    )
    schema, lookup = schema_of(rig, "public.odd"), lookups()
    assert ids(ask(lookup, schema, "public.odd", {"c": ["red", "mauve"]}, ("id",))) == [1]
    assert ids(ask(lookup, schema, "public.odd", {"j": ["[]"]}, ("id",))) == [2], "json has no equality of its own"
    assert set(ids(ask(lookup, schema, "public.odd", {"t": ["Ab", "Ab "]}, ("id",)))) == {1}


def test_columns_are_found_by_number_and_a_changed_one_is_refused(rig: PostgresRig, lookups: Any) -> None:
    rig.run("INSERT INTO public.a VALUES (1, 'x')")
    schema, lookup = schema_of(rig, "public.a"), lookups()
    rig.run("ALTER TABLE public.a RENAME v TO w", "ALTER TABLE public.a ADD v text DEFAULT 'other'")
    assert ask(lookup, schema, "public.a", {"id": [1]}, ("id", "v")).to_pylist() == [{"id": 1, "v": "x"}]
    rig.run("ALTER TABLE public.a ALTER w TYPE int USING 1")
    with pytest.raises(Refused, match="is int32 now, not text") as refused:
        ask(lookup, schema, "public.a", {"id": [1]}, ("id", "v"))
    assert refused.value.code == "schema_not_accepted" and "millstream plan" in refused.value.cure
    rig.run("ALTER TABLE public.a DROP w")
    with pytest.raises(Refused, match="is gone"):
        ask(lookup, schema, "public.a", {"v": ["x"]}, ("id",))
    rig.run("DROP TABLE public.a")
    with pytest.raises(Irrecoverable, match=r"public\.a is gone"):
        ask(lookup, schema, "public.a", {"id": [1]}, ("id",))


def test_many_rows_come_in_bounded_pieces_and_may_be_left(rig: PostgresRig, lookups: Any) -> None:
    rig.run(
        "CREATE TABLE big (id int PRIMARY KEY, k int, t text)",
        "INSERT INTO big SELECT i, 1, repeat('x', 400) FROM generate_series(1, 40000) i",
    )
    schema, lookup = schema_of(rig, "public.big"), lookups()
    asked = Asked("public.big", schema, ("k",), pa.table({"k": pa.array([1], pa.int32())}), ("id", "t"))
    pieces = list(lookup.lookup(asked, START))
    assert sum(p.num_rows for p in pieces) == 40_000
    assert max(p.nbytes for p in pieces) < 10 << 20 and len(pieces) > 2
    left = lookup.lookup(asked, START)
    next(left)
    left.close()
    assert ids(ask(lookup, schema, "public.big", {"id": [7]}, ("id",))) == [7]


def test_a_query_that_takes_too_long_ends_and_the_next_goes_through(rig: PostgresRig, lookups: Any) -> None:
    schema, lookup = schema_of(rig, "public.a"), lookups(lookup_timeout_ms=300)
    with rig.server.connect(rig.database) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE public.a IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        with pytest.raises(Retryable) as waited:
            ask(lookup, schema, "public.a", {"id": [1]}, ("id",))
        assert time.monotonic() - began < 2
        assert waited.value.code in ("lookup_timeout", "cancelled")
    rig.run("INSERT INTO public.a VALUES (1, 'x')")
    assert ids(ask(lookup, schema, "public.a", {"id": [1]}, ("id",))) == [1]


def test_connections_that_were_cut_are_made_again(rig: PostgresRig, lookups: Any) -> None:
    rig.run("INSERT INTO public.a VALUES (1, 'x')")
    schema, lookup = schema_of(rig, "public.a"), lookups()
    for _ in range(3):
        assert ids(ask(lookup, schema, "public.a", {"id": [1]}, ("id",))) == [1]
        rig.cut_connections()


def test_at_most_so_many_connections(rig: PostgresRig, lookups: Any) -> None:
    schema, lookup = schema_of(rig, "public.a"), lookups(lookup_connections=2)
    rig.run("INSERT INTO public.a SELECT i, 'x' FROM generate_series(1, 100) i")
    most: list[int] = []
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            sql = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{rig.database}' AND application_name LIKE '%lookup'"
            most.append(rig.server.execute(sql)[0][0])

    watcher = threading.Thread(target=count)
    watcher.start()
    asking = [threading.Thread(target=lambda: [ask(lookup, schema, "public.a", {"id": [1]}, ("v",)) for _ in range(20)]) for _ in range(6)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    stop.set()
    watcher.join()
    assert 1 <= max(most) <= 2


def refused(lookup: Lookup, schema: RowSchema) -> MillstreamError:
    with pytest.raises(Refused) as said:
        ask(lookup, schema, "public.a", {"id": [1]}, ("id",))
    return said.value


def test_a_wrong_password_is_refused_without_showing_it(rig: PostgresRig, lookups: Any) -> None:
    schema = schema_of(rig, "public.a")
    rig.wrong_password()
    said = refused(lookups(url=rig.server.url(rig.database, f"{rig.database}_guarded", "wr0ng-secret")), schema)
    assert said.code == "password" and "wr0ng-secret" not in str(said)


def test_a_role_that_may_not_read_the_table_is_told_how_it_may(rig: PostgresRig, lookups: Any) -> None:
    schema = schema_of(rig, "public.a")
    rig.run(f"CREATE ROLE {rig.database}_poor LOGIN")
    lookup = lookups(url=rig.server.url(rig.database, f"{rig.database}_poor"))
    assert refused(lookup, schema).code == "privilege"
    assert 'GRANT SELECT ON TABLE "public"."a"' in refused(lookup, schema).cure
    rig.run(f"GRANT SELECT ON public.a TO {rig.database}_poor")
    assert ask(lookup, schema, "public.a", {"id": [1]}, ("id",)).num_rows == 0


def test_what_the_stream_has_given_is_seen_and_another_server_is_not_asked(rig: PostgresRig, lookups: Any) -> None:
    schema, lookup = schema_of(rig, "public.a"), lookups(read_wait_ms=100)
    source = rig.checked()
    rig.run("INSERT INTO public.a VALUES (1, 'x')")
    position = read_to_head(source, source.stream(None)).position
    assert ids(ask(lookup, schema, "public.a", {"id": [1]}, ("id",), position)) == [1]
    elsewhere = Position(position.major, 0, {**position.detail, "timeline": 7})
    with pytest.raises(Irrecoverable, match="timeline 7") as said:
        ask(lookup, schema, "public.a", {"id": [1]}, ("id",), elsewhere)
    assert said.value.code == "other_server"


def test_a_commit_that_no_query_sees_yet_is_waited_for(rig: PostgresRig, lookups: Any) -> None:
    """The stream gives a commit before any query sees it where a synchronous standby is waited for; here: a transaction still open."""
    schema, lookup = schema_of(rig, "public.a"), lookups(read_wait_ms=150)
    with rig.server.connect(rig.database) as other:
        other.execute("BEGIN")
        (xid,) = other.execute("SELECT pg_current_xact_id()::text::bigint").fetchone() or (0,)
        given = Position(1, 0, {"unseen": [xid]})
        with pytest.raises(Retryable) as waited:
            ask(lookup, schema, "public.a", {"id": [1]}, ("id",), given)
        assert waited.value.code == "not_visible_yet"
        other.execute("COMMIT")
        assert ask(lookup, schema, "public.a", {"id": [1]}, ("id",), given).num_rows == 0


def test_dates_before_and_after_all_others(rig: PostgresRig, lookups: Any) -> None:
    rig.run(
        "CREATE TABLE d (id int PRIMARY KEY, day date)", "INSERT INTO d VALUES (1, 'infinity'), (2, '0044-03-15 BC'), (3, '2024-01-01')"
    )
    schema = schema_of(rig, "public.d")
    assert schema == RowSchema((Field("id", Type("int32"), 1, nullable=False), Field("day", Type("date"), 2)), ("id",))
    found = ask(lookups(), schema, "public.d", {"id": [1, 2, 3]}, ("id", "day"))
    assert sorted((r["id"], r["day"]) for r in found.to_pylist()) == [(1, None), (2, None), (3, dt.date(2024, 1, 1))]
