"""Chunks of a backfill: by any key, of any part of a table, as of a place that the stream has passed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from cockroach_rig import CockroachRig, told_once
from sources_rig import read, read_to_head

from millstream.errors import Refused
from millstream.sources.contract import WHOLE, Chunk, Delivery, Scope, Source

pytestmark = pytest.mark.servers

A = "public.a"


def ready(roach: CockroachRig, *tables: str, **options: Any) -> tuple[Source, Iterator[Delivery]]:
    """A source whose places lie behind all that was written so far."""
    source = roach.source(tables=tables or (A,), **options)
    stream = source.stream(None)
    read_to_head(source, stream)
    return source, stream


def paged(source: Source, stream: Iterator[Delivery], table: str, rows: int, scope: Scope = WHOLE) -> list[Chunk]:
    """All chunks of a scope; each mark is with the very next delivery."""
    chunks: list[Chunk] = []
    after = None
    while not chunks or not chunks[-1].done:
        chunk = source.chunk(table, after, rows, scope)
        assert chunk is not None
        chunks.append(chunk)
        delivery = next(stream)
        assert delivery.mark == chunk.mark
        assert chunk.read_point is not None and chunk.read_point <= delivery.position.tables[table]
        after = chunk.last_key
    return chunks


def rows_of(chunks: list[Chunk]) -> list[dict[str, Any]]:
    return [r for c in chunks for r in c.rows.to_pylist()]


def test_chunks_page_through_a_table_once_in_key_order(roach: CockroachRig) -> None:
    roach.run(f"INSERT INTO {A} SELECT g * 3, 'v' || g::STRING FROM generate_series(1, 100) AS s(g)")
    source, stream = ready(roach)
    chunks = paged(source, stream, A, 30)
    assert rows_of(chunks) == [{"id": i * 3, "v": f"v{i}"} for i in range(1, 101)]
    assert [c.rows.num_rows for c in chunks] == [30, 30, 30, 10]
    assert source.tables()[0].rows in (0, 100)


def test_an_empty_table_is_one_chunk(roach: CockroachRig) -> None:
    source, stream = ready(roach)
    (chunk,) = paged(source, stream, A, 10)
    assert (chunk.rows.num_rows, chunk.done, chunk.last_key, chunk.rows.schema.names) == (0, True, None, ["id", "v"])


def test_wide_rows_make_smaller_chunks(roach: CockroachRig) -> None:
    roach.run(f"INSERT INTO {A} SELECT g, repeat('x', 2000) FROM generate_series(1, 60) AS s(g)")
    source, stream = ready(roach, chunk_bytes=20_000)
    chunks = paged(source, stream, A, 50)
    assert [r["id"] for r in rows_of(chunks)] == list(range(1, 61))
    assert all(c.rows.nbytes < 60_000 for c in chunks)


def test_a_chunk_is_as_of_the_place_and_what_comes_above_it_is_newer(roach: CockroachRig) -> None:
    roach.run(f"INSERT INTO {A} VALUES (1, 'old'), (2, 'old')")
    source, stream = ready(roach)
    roach.run(f"UPDATE {A} SET v = 'new' WHERE id = 1", f"DELETE FROM {A} WHERE id = 2", f"INSERT INTO {A} VALUES (3, 'new')")
    chunk = source.chunk(A, None, 10)
    assert chunk is not None and chunk.read_point is not None
    seen = read_to_head(source, stream)
    versions = [(e["major"], e["minor"]) for e in seen.events]
    newer = [flag for d in seen.deliveries for b in d.batches for flag in chunk.newer(b).tolist()]
    assert newer == [v > chunk.read_point for v in versions]
    # The chunk's rows with what is newer on top are the table.
    rows = {r["id"]: r for r in chunk.rows.to_pylist()}
    for event in told_once(seen.events):
        if (event["major"], event["minor"]) > chunk.read_point:
            image = event["after"] or event["before"]
            rows.pop(image["id"], None)
            if event["after"]:
                rows[image["id"]] = event["after"]
    assert rows == {1: {"id": 1, "v": "new"}, 3: {"id": 3, "v": "new"}}


KEYS = [
    pytest.param("k STRING COLLATE de", ["'ä' COLLATE de", "'a' COLLATE de", "'z' COLLATE de", "'B' COLLATE de"], id="a collation"),
    pytest.param("k STRING", ["'it''s'", "'back\\slash'", "''", "'ä'", "'Z'", "'a\"b'"], id="texts"),
    pytest.param("k UUID", [f"'{i * 0x11111111:08x}-0000-0000-0000-00000000abcd'" for i in range(6)], id="uuids"),
    pytest.param("k DECIMAL", ["1.50", "-3", "1E+20", "0.00000000000000000001", "12345678901234567890123456789.5"], id="decimals"),
    pytest.param("k DECIMAL(10,2)", ["1.5", "-3", "99999999.99"], id="bounded decimals"),
    pytest.param("k BYTES", ["b'\\x00'", "b'\\xff\\x00'", "b'abc'", "b''"], id="bytes"),
    pytest.param(
        "k TIMESTAMPTZ", ["'2024-01-02 03:04:05.678+02'", "'1999-12-31 23:59:59+00'", "'2024-01-02 03:04:05.678001+02'"], id="instants"
    ),
    pytest.param("k DATE", ["'2024-02-29'", "'0001-01-01'", "'9999-12-31'"], id="dates"),
    pytest.param("k BOOL", ["true", "false"], id="truths"),
    pytest.param("k INT8", ["9223372036854775807", "-9223372036854775808", "0"], id="the largest integers"),
]


@pytest.mark.parametrize(("column", "values"), KEYS)
def test_any_key_is_paged_by_as_the_database_orders_it(roach: CockroachRig, column: str, values: list[str]) -> None:
    roach.run(f"CREATE TABLE t ({column} PRIMARY KEY, n INT8)", *(f"INSERT INTO t VALUES ({v}, {i})" for i, v in enumerate(values)))
    wanted = [n for (n,) in roach.rows("SELECT n FROM t ORDER BY k")]
    source, stream = ready(roach, "t")
    for size in (1, 2):
        chunks = paged(source, stream, "t", size)
        assert [r["n"] for r in rows_of(chunks)] == wanted
    # A row that changes is told with the same key.
    roach.run("UPDATE t SET n = n + 100 WHERE n = 0")
    (event,) = told_once(read_to_head(source, stream).events, ("k",))
    assert event["after"]["k"] == next(r["k"] for r in rows_of(chunks) if r["n"] == 0)


def test_a_key_of_several_columns_that_rise_and_fall(roach: CockroachRig) -> None:
    roach.run(
        "CREATE TABLE t (b STRING, a INT8, c INT8, PRIMARY KEY (a ASC, b DESC, c ASC))",
        "INSERT INTO t SELECT chr(97 + (g % 3)::INT8), g % 2, g FROM generate_series(1, 12) AS s(g)",
    )
    wanted = [tuple(r) for r in roach.rows("SELECT a, b, c FROM t ORDER BY a ASC, b DESC, c ASC")]
    source, stream = ready(roach, "t")
    assert source.tables()[0].schema.key == ("a", "b", "c")
    for size in (1, 5):
        assert [(r["a"], r["b"], r["c"]) for r in rows_of(paged(source, stream, "t", size))] == wanted


def test_a_table_without_a_key_is_told_by_its_rowid(roach: CockroachRig) -> None:
    roach.run("CREATE TABLE t (v STRING)", "INSERT INTO t VALUES ('a'), ('b'), ('c')")
    source, stream = ready(roach, "t")
    assert source.tables()[0].schema.key == ("rowid",)
    rows = rows_of(paged(source, stream, "t", 2))
    assert [r["v"] for r in rows] == ["a", "b", "c"]
    roach.run("UPDATE t SET v = 'x' WHERE v = 'a'")
    (event,) = told_once(read_to_head(source, stream).events, ("rowid",))
    assert event["after"] == {"rowid": rows[0]["rowid"], "v": "x"}


def test_a_hash_sharded_key_is_told_without_its_shard(roach: CockroachRig) -> None:
    if roach.is_old:
        pytest.skip("22.1 wants a session's setting for hash-sharded keys")
    roach.run(
        "CREATE TABLE t (id INT8 PRIMARY KEY USING HASH, v STRING)", "INSERT INTO t SELECT g, 'x' FROM generate_series(1, 20) AS s(g)"
    )
    source, stream = ready(roach, "t")
    assert source.tables()[0].schema.key == ("id",)
    chunks = paged(source, stream, "t", 6)
    assert sorted(r["id"] for r in rows_of(chunks)) == list(range(1, 21))
    assert all(set(r) == {"id", "v"} for r in rows_of(chunks))
    roach.run("UPDATE t SET v = 'y' WHERE id = 7")
    (event,) = told_once(read_to_head(source, stream).events)
    assert event["after"] == {"id": 7, "v": "y"}


SCOPES = [
    pytest.param(Scope(where="v = 'v3' OR id > 25"), lambda i: i % 10 == 3 or i > 25, id="a condition"),
    pytest.param(Scope(where="v = 'nowhere'"), lambda i: False, id="a condition that no row fulfils"),
    pytest.param(Scope(keys=(("3",), ("17",), ("99",))), lambda i: i in (3, 17), id="keys"),
    pytest.param(Scope(first=("5",), last=("11",)), lambda i: 5 <= i <= 11, id="a range"),
    pytest.param(Scope(first=("28",)), lambda i: i >= 28, id="from a key on"),
    pytest.param(Scope(last=("2",)), lambda i: i <= 2, id="up to a key"),
]


@pytest.mark.parametrize(("scope", "holds"), SCOPES)
def test_a_part_of_a_table(roach: CockroachRig, scope: Scope, holds: Any) -> None:
    roach.run(f"INSERT INTO {A} SELECT g, 'v' || (g % 10)::STRING FROM generate_series(1, 30) AS s(g)")
    source, stream = ready(roach)
    assert source.admits(A, scope) >= 0
    assert [r["id"] for r in rows_of(paged(source, stream, A, 4, scope))] == [i for i in range(1, 31) if holds(i)]
    # And of rows that a topic has, those of the scope that the table has not.
    roach.run(f"DELETE FROM {A} WHERE id % 2 = 0")
    read_to_head(source, stream)
    schema = source.tables()[0].schema
    had = pa.RecordBatch.from_pylist([{"id": i, "v": f"v{i % 10}"} for i in range(1, 31)], schema=pa.schema(list(schema.arrow)))
    gone = source.absent(A, schema, had, scope)
    assert gone is not None and gone.done and gone.last_key is None
    assert [r["id"] for r in gone.rows.to_pylist()] == [i for i in range(1, 31) if holds(i) and i % 2 == 0]
    assert next(stream).mark == gone.mark


def test_a_whole_table_s_rows_that_are_gone(roach: CockroachRig) -> None:
    roach.run(f"INSERT INTO {A} SELECT g, 'x' FROM generate_series(1, 10) AS s(g)", f"DELETE FROM {A} WHERE id > 8")
    source, stream = ready(roach)
    schema = source.tables()[0].schema
    had = pa.RecordBatch.from_pylist([{"id": i, "v": "x"} for i in (9, 1, 10, 5)], schema=pa.schema(list(schema.arrow)))
    gone = source.absent(A, schema, had, WHOLE)
    assert gone is not None and [r["id"] for r in gone.rows.to_pylist()] == [9, 10]
    assert next(stream).mark == gone.mark


@pytest.mark.parametrize(
    "scope",
    [
        pytest.param(Scope(where="nonsense = 1"), id="no such column"),
        pytest.param(Scope(where="id = (SELECT max(id) FROM a)"), id="asks a table"),
        pytest.param(Scope(where="random() < 0.5"), id="answers differently"),
        pytest.param(Scope(where="id = 'abc'"), id="no value of the column"),
        pytest.param(Scope(keys=(("1", "2"),)), id="another width"),
        pytest.param(Scope(keys=(("abc",),)), id="no key"),
        pytest.param(Scope(first=("1", "2")), id="an end that is too wide"),
    ],
)
def test_what_is_no_part_of_a_table_is_refused(roach: CockroachRig, scope: Scope) -> None:
    roach.run(f"INSERT INTO {A} VALUES (1, 'x')")
    source, _ = ready(roach)
    with pytest.raises(Refused) as refused:
        source.admits(A, scope)
    assert refused.value.code == "bad_scope" and refused.value.cure


def test_a_table_that_is_gone_says_so(roach: CockroachRig) -> None:
    source, stream = ready(roach, A, "public.b")
    roach.run(f"DROP TABLE {A}")
    read(stream, lambda s: any(d.aside for d in s.deliveries))
    assert source.chunk(A, None, 10) is None
    with pytest.raises(Refused) as refused:
        source.admits(A, WHOLE)
    assert refused.value.code == "table_changed"
