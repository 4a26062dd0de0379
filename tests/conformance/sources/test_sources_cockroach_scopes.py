"""What only a topic has, and conditions: where the database and the topic would compare otherwise."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from cockroach_rig import CockroachRig
from test_sources_cockroach_chunks import ready

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
