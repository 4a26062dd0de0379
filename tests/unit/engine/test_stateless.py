"""A stateless step: changelog semantics against a row-at-a-time oracle, and errors that name the record."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millstream.engine.sql import Sql
from millstream.engine.stateless import run
from millstream.errors import BadRecord
from millstream.events.batch import Batch, batch
from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.plan import Projection, Stateless

INT, TEXT = Type("int64"), Type("text")
IN = RowSchema((Field("id", INT, 1), Field("v", INT, 2), Field("t", TEXT, 3)), ("id",))
OUT = RowSchema((Field("k", INT, 1), Field("w", INT, 2)), ("k",))
STEP = Stateless("s", "in", '"v" > 2', (Projection("k", '"id"'), Projection("w", '"v" * 10')), OUT)
REKEYED = replace(STEP, projections=(Projection("k", '"v"'), Projection("w", '"id"')))
Row = dict[str, Any]
Event = tuple[str, Row | None, Row | None]


def events(rows: list[tuple[str, Row | None, Row | None, str | None]]) -> Batch:
    count = len(rows)
    made = batch(
        "in",
        IN,
        {
            "op": [r[0] for r in rows],
            "before": pa.array([r[1] for r in rows], IN.arrow),
            "after": pa.array([r[2] for r in rows], IN.arrow),
            "snapshot": pa.array([r[3] for r in rows], pa.string()),
            "incarnation": np.ones(count, np.uint32),
            "major": np.arange(count, dtype=np.uint64),
            "minor": np.zeros(count, np.uint32),
            "ts_us": np.zeros(count, np.int64),
            "position": ["p"] * count,
        },
    )
    return replace(made, offsets=np.arange(100, 100 + 2 * count, 2, dtype=np.int64))


def row(key: int, v: int | None, t: str | None = None) -> Row:
    return {"id": key, "v": v, "t": t}


def expected(step: Stateless, op: str, before: Row | None, after: Row | None, snapshot: str | None) -> list[Event]:
    def image(r: Row | None) -> Row | None:
        if r is None or r["v"] is None or r["v"] <= 2:
            return None
        return {"k": r["id"], "w": r["v"] * 10} if step is STEP else {"k": r["v"], "w": r["id"]}

    b, a = image(before), image(after)
    if op == "r":
        if a is not None:
            return [("r", None, a)]
        assert after is not None
        return [] if snapshot == "true" else [("d", {"k": after["id"], "w": None}, None)]
    if b is not None and a is not None and b["k"] != a["k"]:
        return [("d", b, None), ("c", None, a)]
    if b is None and a is None:
        return []
    return [("u" if b and a else "c" if a else "d", b, a)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("step", [STEP, REKEYED], ids=["same key", "other key"])
def test_equals_the_oracle(seed: int, step: Stateless) -> None:
    rng = random.Random(seed)
    rows = []
    for _ in range(rng.randint(0, 60)):
        value = lambda: rng.choice([None, *range(6)])  # noqa: E731
        key = rng.randrange(9)
        kind = rng.choice("cudr") if step is STEP else rng.choice("cud")
        before = row(key, value()) if kind in "ud" else None
        after = row(key, value()) if kind in "cur" else None
        rows.append((kind, before, after, rng.choice(["true", "incremental"]) if kind == "r" else None))
    sql = Sql()
    out = run(step, events(rows), sql)
    sql.close()
    got = [(e["op"], e["before"], e["after"]) for e in out.rows.to_pylist()]
    assert got == [e for r in rows for e in expected(step, *r)]
    assert out.offsets is not None and np.all(np.diff(out.offsets) >= 0)


@pytest.mark.parametrize("seed", range(20))
def test_without_whole_before_images_what_does_not_match_is_a_delete_of_its_key(seed: int) -> None:
    """Replayed, the events give the rows of the filter: the oracle. And each event is told by its key alone, or as it is now."""
    rng, source, rows = random.Random(seed), dict[int, Row](), []
    for _ in range(rng.randint(0, 60)):
        key, loading = rng.randrange(9), len(rows) < 6
        if loading and key not in source:
            source[key] = row(key, rng.choice([None, *range(6)]))
            rows.append(("r", None, source[key], "true"))
        elif key in source and rng.random() < 0.3:
            rows.append(("d", {"id": key, "v": None, "t": None}, None, None))
            del source[key]
        else:
            kind = rng.choice(["u", "r"]) if key in source else "c"
            source[key] = row(key, rng.choice([None, *range(6)]))
            rows.append((kind, None, source[key], "incremental" if kind == "r" else None))
    sql = Sql()
    out = run(replace(STEP, whole=False), events(rows), sql)
    sql.close()
    told = dict[int, Row]()
    for e in out.rows.to_pylist():
        assert (e["after"] is None) == (e["op"] == "d")
        assert e["before"] is None or e["before"] == {"k": e["before"]["k"], "w": None}
        assert (e["before"] is None) == (e["op"] != "d")
        if e["after"] is None:
            told.pop(e["before"]["k"], None)
        else:
            told[e["after"]["k"]] = e["after"]
    assert told == {k: {"k": k, "w": r["v"] * 10} for k, r in source.items() if r["v"] is not None and r["v"] > 2}
    dropped = [r for r in rows if r[3] == "true" and (r[2]["v"] is None or r[2]["v"] <= 2)]
    assert len(out) == len(rows) - len(dropped)


def test_a_value_that_the_sql_cannot_compute_names_the_record() -> None:
    step = replace(STEP, where=None, projections=(Projection("k", '"id"'), Projection("w", 'CAST("t" AS BIGINT)')))
    rows = [("c", None, row(i, 3, "7" if i != 41 else "seven"), None) for i in range(64)]
    sql = Sql()
    with pytest.raises(BadRecord) as caught:
        run(step, events(rows), sql)
    assert caught.value.where == "in@182 key {'id': 41}"
    assert "seven" in caught.value.message
    sql.close()


def test_the_walls_of_the_sql() -> None:
    sql = Sql()
    with pytest.raises(Exception, match=r"(?i)disabled|not allowed|permission"):
        sql.select("SELECT * FROM read_text('/etc/hostname')", {})
    with pytest.raises(Exception, match=r"(?i)lock"):
        sql.select("SET enable_external_access = true", {})
    sql.close()
