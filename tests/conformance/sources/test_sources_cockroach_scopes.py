"""What only a topic has, and conditions: where the database and the topic would compare otherwise."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from cockroach_rig import CockroachRig
from sources_rig import read_to_head
from test_sources_cockroach_chunks import A, ready

from millstream.errors import Refused
from millstream.sources.contract import WHOLE, Scope, Source

pytestmark = pytest.mark.servers


def gone(source: Source, table: str, rows: list[dict[str, Any]], scope: Scope = WHOLE) -> list[dict[str, Any]]:
    schema = next(t.schema for t in source.tables() if t.name == table)
    chunk = source.absent(table, schema, pa.RecordBatch.from_pylist(rows, pa.schema(list(schema.arrow))), scope)
    assert chunk is not None
    return chunk.rows.to_pylist()


@pytest.mark.parametrize("kind", ["FLOAT8", "FLOAT4"])
def test_a_row_whose_key_is_not_a_number_is_there(roach: CockroachRig, kind: str) -> None:
    roach.run(f"CREATE TABLE t (k {kind} PRIMARY KEY, v STRING)", "INSERT INTO t VALUES ('NaN', 'x'), (0.1, 'y'), ('-Infinity', 'z')")
    source, _ = ready(roach, "t")
    topic = [{"k": k, "v": ""} for k in (math.nan, 0.1, -math.inf, 2.5)]
    assert [r["k"] for r in gone(source, "t", topic)] == [2.5]
    roach.run("DELETE FROM t WHERE k = 'NaN'")
    source, _ = ready(roach, "t")
    assert [str(r["k"]) for r in gone(source, "t", topic)] == ["nan", "2.5"]


def test_a_key_of_several_columns_may_be_no_number_in_part(roach: CockroachRig) -> None:
    roach.run("CREATE TABLE t (a INT8, k FLOAT8, PRIMARY KEY (a, k))", "INSERT INTO t VALUES (1, 'NaN'), (2, 1.5)")
    source, _ = ready(roach, "t")
    topic = [{"a": a, "k": k} for a in (1, 2) for k in (math.nan, 1.5)]
    assert [(r["a"], str(r["k"])) for r in gone(source, "t", topic)] == [(1, "1.5"), (2, "nan")]


def test_a_nought_below_nought_is_another_key(roach: CockroachRig) -> None:
    roach.run("CREATE TABLE t (k FLOAT8 PRIMARY KEY)", "INSERT INTO t VALUES (0.0)")
    source, _ = ready(roach, "t")
    assert [str(r["k"]) for r in gone(source, "t", [{"k": 0.0}, {"k": -0.0}])] == ["-0.0"]


def test_a_column_that_the_topic_has_not_yet_is_no_part_of_a_comparison(roach: CockroachRig) -> None:
    roach.run(f"INSERT INTO {A} VALUES (1, 'x')")
    source, stream = ready(roach)
    schema = source.tables()[0].schema
    roach.run(f"ALTER TABLE {A} ADD COLUMN b INT8")
    read_to_head(source, stream)
    had = pa.RecordBatch.from_pylist([{"id": 2, "v": "y"}], pa.schema(list(schema.arrow)))
    with pytest.raises(Refused) as refused:
        source.absent(A, schema, had, Scope(where="b > 1"))
    assert (refused.value.code, "b" in refused.value.message) == ("bad_scope", True)
    again = source.chunk(A, None, 10, Scope(where="b > 1 OR id = 1"))
    assert again is not None and again.rows.num_rows == 1


@pytest.mark.parametrize(
    "condition",
    [
        "set_config('timezone', 'Asia/Tokyo', false) = 'x'",
        "pg_catalog.set_config('timezone', 'Asia/Tokyo', false) = 'x'",
        "crdb_internal.force_error('22012', 'x') = 1",
        "\"crdb_internal\".force_error('22012', 'x') = 1",
        "CRDB_Internal.request_statement_bundle('x', 0.1, '1s', '1h')",
        "gen_random_bytes(3) = v::bytes",
    ],
)
def test_a_condition_changes_nothing_of_the_server_or_of_us(roach: CockroachRig, condition: str) -> None:
    roach.run(f"INSERT INTO {A} VALUES (1, 'x')")
    source, _ = ready(roach)
    with pytest.raises(Refused) as refused:
        source.admits(A, Scope(where=condition))
    assert refused.value.code == "bad_scope"
    assert "may answer differently" in refused.value.message


def test_a_text_may_say_anything(roach: CockroachRig) -> None:
    roach.run(f"INSERT INTO {A} VALUES (1, 'crdb_internal.x()')")
    source, _ = ready(roach)
    assert source.admits(A, Scope(where="v = 'crdb_internal.x()'")) >= 0


def test_a_place_in_another_order_is_none(roach: CockroachRig) -> None:
    """As after ALTER PRIMARY KEY, which the next opening of the source finds: here another table of that name."""
    roach.run("CREATE TABLE t (k INT8, PRIMARY KEY (k ASC))", "INSERT INTO t SELECT * FROM generate_series(1, 6)")
    source, _ = ready(roach, "t")
    first = source.chunk("t", None, 2)
    assert first is not None and first.last_key is not None and first.last_key[0] == "2"
    source.close()
    roach.run("DROP TABLE t", "CREATE TABLE t (k INT8, PRIMARY KEY (k DESC))", "INSERT INTO t SELECT * FROM generate_series(1, 6)")
    source, _ = ready(roach, "t")
    again = source.chunk("t", first.last_key, 5)
    assert again is not None and [r["k"] for r in again.rows.to_pylist()] == [6, 5, 4, 3, 2]
    last = source.chunk("t", again.last_key, 5)
    assert last is not None and last.done and [r["k"] for r in last.rows.to_pylist()] == [1]
    old = source.chunk("t", ["2"], 5)
    assert old is not None and [r["k"] for r in old.rows.to_pylist()] == [1]
