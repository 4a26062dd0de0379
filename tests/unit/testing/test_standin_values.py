"""What the stand-in reads beside tables: rows of values, and the shards of a hash-sharded key."""

from __future__ import annotations

import pytest

from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.store import Store


def test_rows_of_values_are_filtered_like_rows_of_a_table() -> None:
    session = Store("26.1").session()
    asked = "SELECT place, k FROM (VALUES (0, 'a'::STRING), (1, 'b'::STRING), (2, NULL)) AS v (place, k) WHERE k > 'a' OR place = 2"
    assert session.execute(asked).rows == [("1", "b"), ("2", None)]
    with pytest.raises(SqlError, match="same length"):
        session.execute("SELECT a FROM (VALUES (1), (2, 3)) AS v (a)")


def test_a_shard_is_read_as_it_is_keyed_by() -> None:
    session = Store("26.1").session()
    session.execute("CREATE TABLE t (id INT8 PRIMARY KEY USING HASH, v STRING)")
    session.execute("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 40) AS s(g)")
    shard = "crdb_internal_id_shard_16"
    rows = session.execute(f"SELECT {shard}, id FROM t ORDER BY {shard}, id").rows
    assert len(rows) == 40 and len({s for s, _ in rows}) > 1
    after = rows[20]
    rest = session.execute(f"SELECT {shard}, id FROM t WHERE ({shard}, id) > ({after[0]}, {after[1]}) ORDER BY {shard}, id").rows
    assert rest == rows[21:]
