"""What does not fit the memory: a set is evaluated slice by slice instead, and a unit that alone is too large is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from stateful_constructs import TABLES, Row, World, make_world, nested

from millstream.engine import joined as joined_module
from millstream.engine import walk
from millstream.engine.build import Build
from millstream.engine.graph import Graph
from millstream.engine.joined import Joined
from millstream.engine.sql import Sql
from millstream.engine.state import State
from millstream.engine.store import Store
from millstream.errors import Irrecoverable
from millstream.events.batch import Batch, batch
from millstream.pipelines.plan import Input, Plan, Stateful, inputs_of


def inserts(world: World, table: str, rows: list[Row]) -> Batch:
    schema, count = world.schema(table), len(rows)
    given = {
        "op": ["c"] * count,
        "after": pa.array(rows, schema.arrow),
        "incarnation": np.ones(count, np.uint32),
        "major": np.ones(count, np.uint64),
        "minor": np.arange(count, dtype=np.uint32),
        "ts_us": np.ones(count, np.int64),
        "position": [""] * count,
    }
    return batch(table, schema, given)


@pytest.mark.parametrize("construct", ["nested", "group", "pair", "full", "chain", "documents"])
def test_a_set_that_does_not_fit_is_built_in_slices(construct: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(self: Joined, stamp: object) -> None:
        raise duckdb.OutOfMemoryException("out of memory")

    monkeypatch.setattr(Joined, "build", too_much)
    world = make_world(construct, 3)
    first = world.first_rows()
    read = {i for n in world.nodes for i in inputs_of(n)} & set(TABLES)
    inputs = tuple(Input(t, world.schema(t), 1, "whole") for t in sorted(read))
    state, sql = State(Store(tmp_path / "s.duckdb")), Sql()
    plan = Plan("p", "team", inputs, tuple(world.nodes), (), ())
    build = Build(plan, Graph(plan, sql, state), state, lambda what, done, total: None, world.published)
    build.run({t: [[inserts(world, t, [new for _, new in changes if new])]] for t, changes in first.items() if t in read})
    for node, expected in world.expected().items():
        found = state.store.table(f'SELECT * FROM "{build.table(node)}"').to_pylist()
        key = next(n.schema.key for n in world.nodes if n.name == node)
        if construct == "documents":  # of which only hashes are kept
            found, expected = ([{k: r[k] for k in key} for r in rows] for rows in (found, expected))
        else:
            found = [{n: r[n] for n in expected[0]} for r in found]
        assert sorted(map(str, found)) == sorted(map(str, expected)), node
    state.store.close()
    sql.close()


def test_no_more_units_are_evaluated_together_than_have_rows_that_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first slice after a start knows nothing of how many rows a unit has."""
    most, together = 40_000, list[int]()
    monkeypatch.setattr(joined_module, "CLOSURE_BYTES", most)
    evaluated = walk.closure

    def closure(*given: Any) -> dict[str, pa.Table]:
        rows = evaluated(*given)
        together.append(max(r.nbytes for r in rows.values()))
        return rows

    monkeypatch.setattr(walk, "closure", closure)
    world = make_world("nested", 1)
    step = next(n for n in world.nodes if isinstance(n, Stateful))
    state, sql = State(Store(tmp_path / "s.duckdb")), Sql()
    joined = Joined(step, {t: world.schema(t) for t in TABLES}, state, sql)
    row = {"y": None, "t": "u", "g": None, "v": 1, "p": None}
    of_a = [row | {"id": i, "x": 0 if i < 2_000 else i % 50} for i in range(6_000)]  # most are of one unit, which is taken alone
    with state.transaction():
        joined.create()
        joined.create_indexes()
        joined.take({"src.b": [inserts(world, "src.b", [row | {"id": i, "x": 0} for i in range(50)])]}, 1)
        joined.take({"src.a": [inserts(world, "src.a", of_a)]}, 1)
    made = dict[int, int]()
    while joined.pending:
        with state.transaction():
            out = joined.refresh(1, {})
        made |= {r["id"]: len(r["items"]) for r in out.column("after").to_pylist()} if out else {}
    assert made == {i: 80 + (2_000 if i == 0 else 0) for i in range(50)}
    assert sum(size > most for size in together) == 1, "the unit with most rows, alone"
    asked = joined.rows_of(pa.table({"id": pa.array(range(50), pa.int64())}))
    assert sorted(asked.column("id").to_pylist()) == list(range(50))
    state.store.close()
    sql.close()


def test_a_unit_too_large_is_named(tmp_path: Path) -> None:
    world = make_world("nested", 1)
    world.payload["src.a"] = "text"
    world.nodes.clear()
    nested(world)
    step = next(n for n in world.nodes if isinstance(n, Stateful))
    state, sql = State(Store(tmp_path / "s.duckdb")), Sql(memory_mib=24)
    joined = Joined(step, {t: world.schema(t) for t in TABLES}, state, sql)
    row = {"y": None, "t": "u", "g": None, "v": 1, "p": None}
    with state.transaction():
        joined.create()
        joined.create_indexes()
        joined.take({"src.b": [inserts(world, "src.b", [row | {"id": i, "x": 0} for i in range(50)])]}, 1)
        large = [row | {"id": i, "x": 33, "p": "long " * 40_000} for i in range(300)]  # 60 MB under one row of b
        joined.take({"src.a": [inserts(world, "src.a", large)]}, 1)
    made = set[int]()
    with pytest.raises(Irrecoverable) as error:
        while joined.pending:
            with state.transaction():
                out = joined.refresh(1, {})
            made |= {r["id"] for r in out.column("after").to_pylist()} if out else set()
    assert error.value.code == "row_too_large"
    assert "'id': '33'" in error.value.where
    assert 33 not in made
    state.store.close()
    sql.close()
