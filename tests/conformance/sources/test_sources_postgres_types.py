"""Every type, by the stream and by chunks, against what the server itself says of the same rows."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from sources_rig import PostgresRig, read, read_to_head, stops_with

from millstream.errors import Irrecoverable

pytestmark = pytest.mark.servers

# type in SQL, the type here, values as SQL writes them (quoted), all of which fit.
TYPES: list[tuple[str, str, list[str]]] = [
    ("boolean", "boolean", ["t", "f"]),
    ("smallint", "int32", ["-32768", "32767"]),
    ("integer", "int32", ["-2147483648", "2147483647"]),
    ("bigint", "int64", ["-9223372036854775808", "9223372036854775807"]),
    ("oid", "int64", ["0", "4294967295"]),
    ("real", "float32", ["1.1", "-3.4028235e38", "1e-45", "Infinity"]),
    ("double precision", "float64", ["0.1", "1.7976931348623157e308", "5e-324", "-Infinity"]),
    ("text", "text", ["", "é✓ and\ttabs\nlines\r\\ \\N \\\\", "x" * 3000]),
    ("varchar(20)", "text", ["exactly12byt", "thirteen byte"]),
    ("char(6)", "text", ["ab", ""]),
    ("name", "text", ["a_name"]),
    ('"char"', "text", ["c"]),
    ("bytea", "bytes", ["", r"\x00ff5c0a09", r"\x" + "ab" * 2000]),
    ("numeric(12,2)", "decimal(12,2)", ["0.00", "-9999999999.99"]),
    ("numeric(38,10)", "decimal(38,10)", ["1234567890123456789012345678.0123456789"]),
    ("numeric(76,38)", "decimal(76,38)", ["-" + "9" * 38 + "." + "9" * 38]),
    ("numeric(3,-2)", "decimal(5,0)", ["12345"]),
    ("numeric(3,5)", "decimal(5,5)", ["0.00123"]),
    ("numeric(100,2)", "numeric", ["1.50", "NaN"]),
    ("numeric", "numeric", ["1.500", "1e400", "NaN", "-Infinity"]),
    ("date", "date", ["0001-01-01", "9999-12-31", "2024-02-29"]),
    ("time", "time", ["00:00:00", "23:59:59.999999", "12:00:00.5"]),
    ("time(0)", "time", ["12:34:56"]),
    ("timestamp", "timestamp", ["0001-01-01 00:00:00", "9999-12-31 23:59:59.999999", "2024-01-02 03:04:05.1"]),
    ("timestamptz", "timestamptz", ["1970-01-01 00:00:00+00", "2024-06-30 23:59:60+02", "1883-11-18 12:03:57.999999-05"]),
    ("uuid", "uuid", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    ("json", "json", ['{"a":  [1, "x\\ny\\\\"]}', "null"]),
    ("jsonb", "json", ['{"b": 1.50, "a": "\\u00e9\\t"}']),
    ("mood", "text", ["happy", "so-so"]),
    ("positive", "int32", ["7"]),
    ("cents", "decimal(9,2)", ["7.25"]),
    ("deep", "decimal(9,2)", ["8.25"]),
    ("pair", "text", ['(1,"a b")']),
    ("integer[]", "text", ["{1,NULL,3}", "{{1,2},{3,4}}"]),
    ("text[]", "text", ['{"a b","q\\"q",NULL}']),
    ("interval", "text", ["1 year 2 mons 3 days 04:05:06.7"]),
    ("timetz", "text", ["12:00:00+02"]),
    ("bit varying(9)", "text", ["0101"]),
    ("inet", "text", ["10.0.0.1/8"]),
    ("money", "text", ["12.50"]),
    ("int4range", "text", ["[1,5)", "empty"]),
    ("tsvector", "text", ["'a':1 'b':2"]),
    ("pg_lsn", "text", ["16/B374D848"]),
    ("regclass", "text", ["pg_class"]),
]
MAKE = (
    "CREATE TYPE mood AS ENUM ('happy', 'so-so')",
    "CREATE DOMAIN positive AS integer CHECK (VALUE > 0)",
    "CREATE DOMAIN cents AS numeric(9,2)",
    "CREATE DOMAIN deep AS cents",
    "CREATE TYPE pair AS (n integer, t text)",
)
SETTINGS = "SET DateStyle = ISO; SET TimeZone = 'UTC'; SET IntervalStyle = postgres; SET extra_float_digits = 3; SET bytea_output = hex; "


def expected(kind: str, text: str | None) -> Any:
    """A value, from the server's own text of it, by Python's own readers."""
    if text is None:
        return None
    if kind.startswith("decimal"):
        return Decimal(text)
    read_by: dict[str, Any] = {
        "boolean": lambda t: t == "true",
        "int32": int,
        "int64": int,
        "float32": lambda t: pa.scalar(float(t), pa.float32()).as_py(),
        "float64": float,
        "bytes": lambda t: bytes.fromhex(t[2:]),
        "date": dt.date.fromisoformat,
        "time": dt.time.fromisoformat,
        "timestamp": dt.datetime.fromisoformat,
        "timestamptz": dt.datetime.fromisoformat,
    }
    return read_by.get(kind, str)(text)


def make_table(rig: PostgresRig) -> list[str]:
    rig.run(*MAKE)
    columns = [f"c{i}" for i in range(len(TYPES))]
    declared = ", ".join(f"{c} {sql_type}" for c, (sql_type, _, _) in zip(columns, TYPES, strict=True))
    rig.run(f"CREATE TABLE everything (id integer PRIMARY KEY, {declared})", "ALTER TABLE everything REPLICA IDENTITY FULL")
    return columns


def fill(rig: PostgresRig, columns: list[str]) -> None:
    def literal(values: list[str], i: int) -> str:
        return "'" + values[i].replace("'", "''") + "'" if i < len(values) else "NULL"

    for i in range(max(len(values) for _, _, values in TYPES) + 1):
        rig.run(f"INSERT INTO everything (id, {', '.join(columns)}) VALUES ({i}, {', '.join(literal(v, i) for _, _, v in TYPES)})")


def by_the_server(rig: PostgresRig, columns: list[str]) -> list[dict[str, Any]]:
    # A cast to text blows fixed length characters' blanks away; format() calls the type's own output function.
    texts = ", ".join(
        f"CASE WHEN {c} IS NOT NULL THEN format('%s', {c}) END" if t != "boolean" else f"{c}::text"
        for c, (t, _, _) in zip(columns, TYPES, strict=True)
    )
    with rig.server.connect(rig.database) as connection:
        connection.execute(SETTINGS.encode())
        found = connection.execute(f"SELECT id, {texts} FROM everything ORDER BY id".encode()).fetchall()
    kinds = [kind for _, kind, _ in TYPES]
    return [{"id": r[0], **{c: expected(k, t) for c, k, t in zip(columns, kinds, r[1:], strict=True)}} for r in found]


def test_every_type_by_stream_and_by_chunk(rig: PostgresRig) -> None:
    columns = make_table(rig)
    source = rig.checked(tables=("everything",))
    schema = source.tables()[0].schema
    assert [(f.name, str(f.type)) for f in schema.fields[1:]] == [(c, kind) for c, (_, kind, _) in zip(columns, TYPES, strict=True)]
    fill(rig, columns)
    truth = by_the_server(rig, columns)
    stream = source.stream(None)
    seen = read_to_head(source, stream)
    assert {b.schema for d in seen.deliveries for b in d.batches} == {schema}
    told = [e["after"] for e in seen.events]
    chunk = source.chunk("everything", None, 100)
    assert chunk is not None
    assert chunk.schema == schema
    for by_stream, by_chunk, row in zip(told, chunk.rows.to_pylist(), truth, strict=True):
        for name in ["id", *columns]:
            assert by_stream[name] == row[name], f"{name} by the stream"
            assert by_chunk[name] == row[name], f"{name} by chunk"
    rig.run("DELETE FROM everything")
    assert [e["before"] for e in read_to_head(source, stream).events] == told


BEYOND = [
    ("numeric(6,2)", ["NaN"], "nan"),
    ("date", ["infinity"], "infinity"),
    ("date", ["-infinity"], "-infinity"),
    ("date", ["10000-01-01"], "out_of_range"),
    ("date", ["0044-03-15 BC"], "out_of_range"),
    ("time", ["24:00:00"], "out_of_range"),
    ("timestamp", ["infinity"], "infinity"),
    ("timestamptz", ["-infinity"], "-infinity"),
    ("timestamptz", ["294276-01-01 00:00:00+00"], "out_of_range"),
]


def test_what_no_column_holds_is_a_hole(rig: PostgresRig) -> None:
    declared = ", ".join(f"c{i} {t}" for i, (t, _, _) in enumerate(BEYOND))
    rig.run(f"CREATE TABLE beyond (id integer PRIMARY KEY, {declared})", "ALTER TABLE beyond REPLICA IDENTITY FULL")
    source = rig.checked(tables=("beyond",))
    rig.run(f"INSERT INTO beyond VALUES (1, {', '.join(repr(v[0]) for _, v, _ in BEYOND)}), (2{', NULL' * len(BEYOND)})")
    chunk = source.chunk("beyond", None, 10)
    rig.run("DELETE FROM beyond WHERE id = 1")
    seen = read_to_head(source, source.stream(None))
    whole, plain, gone = seen.events
    assert set(whole["after"].values()) == {1, None}
    assert whole["holes"] == [{"image": "after", "field": f"c{i}", "why": why} for i, (_, _, why) in enumerate(BEYOND)]
    assert plain["holes"] is None
    assert gone["holes"] == [{**hole, "image": "before"} for hole in whole["holes"]]
    assert chunk is not None and chunk.holes is not None
    assert chunk.holes.to_pylist() == [whole["holes"], None]


def test_generated_columns_are_absent_everywhere(rig: PostgresRig) -> None:
    rig.run(
        "CREATE TABLE g (id integer PRIMARY KEY, double integer GENERATED ALWAYS AS (id * 2) STORED, v text)",
        "ALTER TABLE g REPLICA IDENTITY FULL",
    )
    source = rig.checked(tables=("g",))
    rig.run("INSERT INTO g (id, v) VALUES (1, 'x')")
    stream = source.stream(None)
    assert [e["after"] for e in read_to_head(source, stream).events] == [{"id": 1, "v": "x"}]
    assert source.tables()[0].schema.names == ("id", "v")
    chunk = source.chunk("g", None, 10)
    assert chunk is not None
    assert chunk.rows.to_pylist() == [{"id": 1, "v": "x"}]


def test_keys_of_several_columns_and_any_type_page(rig: PostgresRig) -> None:
    rig.run(
        """CREATE TABLE k (v text, "Last part" numeric(8,2), "what's" text, at timestamptz, raw bytea,
            PRIMARY KEY (at, "what's", raw, "Last part"))""",
        "ALTER TABLE k REPLICA IDENTITY FULL",
        """INSERT INTO k SELECT 'v' || i, i / 4.0, E'it''s \\\\ "' || i % 3,
            '2024-01-01Z'::timestamptz + (i % 2) * interval '1 us', decode(lpad(to_hex(i % 5), 2, '0'), 'hex')
        FROM generate_series(1, 60) i""",
    )
    source = rig.checked(tables=("k",))
    assert source.tables()[0].schema.key == ("at", "what's", "raw", "Last part")
    stream = source.stream(None)
    next(stream)
    rows, after, done = [], None, False
    while not done:
        chunk = source.chunk("k", after, 7)
        assert chunk is not None
        rows += [r["v"] for r in chunk.rows.to_pylist()]
        after, done = chunk.last_key, chunk.done
        read(stream, lambda s, mark=chunk.mark: s.deliveries[-1].mark == mark)
    assert rows == [r[0] for r in rig.rows("""SELECT v FROM k ORDER BY at, "what's", raw, "Last part" """)]


def test_a_key_that_no_event_can_carry(rig: PostgresRig) -> None:
    rig.run("CREATE TABLE k (d date PRIMARY KEY)", "ALTER TABLE k REPLICA IDENTITY FULL")
    source = rig.checked(tables=("k",))
    rig.run("INSERT INTO k VALUES ('2024-01-01'), ('infinity')")
    stream = source.stream(None)
    seen, error = stops_with(stream)
    assert [e["after"]["d"] for e in seen.events] == [dt.date(2024, 1, 1)]
    assert isinstance(error, Irrecoverable)
    assert error.code == "unfit_key"
    with pytest.raises(Irrecoverable) as refused:
        source.chunk("k", None, 10)
    assert refused.value.code == "unfit_key"


def test_wide_rows_make_small_chunks(rig: PostgresRig) -> None:
    rig.run(
        "ALTER TABLE public.a ALTER v SET STORAGE EXTERNAL",
        "INSERT INTO public.a SELECT g, repeat('x', 50000) FROM generate_series(1, 40) g",
    )
    source = rig.checked(chunk_bytes=200_000)
    stream = source.stream(None)
    next(stream)
    ids, sizes, after, done = [], [], None, False
    while not done:
        chunk = source.chunk("public.a", after, 1000)
        assert chunk is not None
        ids += [r["id"] for r in chunk.rows.to_pylist()]
        sizes.append(chunk.rows.nbytes)
        after, done = chunk.last_key, chunk.done
        read(stream, lambda s, mark=chunk.mark: s.deliveries[-1].mark == mark)
    assert ids == list(range(1, 41))
    assert max(sizes) < 600_000
