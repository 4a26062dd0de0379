"""A small change scans no large table: what DuckDB says it scanned for ten changed rows hardly grows with the state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from stateful_constructs import TABLES, World, make_world

from millstream.engine.joined import Joined
from millstream.engine.sql import Sql, quoted
from millstream.engine.state import State, copy_table
from millstream.engine.store import Store
from millstream.events.batch import Batch, batch
from millstream.pipelines.plan import Stateful, inputs_of

CHANGED = 10
CONSTRUCTS = ["inner", "itself", "exists", "group", "two_groups", "nested", "documents", "top", "pair", "full"]


class Profiled:
    """A connection that counts the rows which its statements scan of tables."""

    def __init__(self, con: Any) -> None:
        self._con, self.scanned = con, 0
        con.execute("PRAGMA enable_profiling = 'no_output'")
        con.execute("SET profiling_mode = 'detailed'")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)

    def execute(self, sql: str, *given: Any) -> Any:
        rows = self._con.execute(sql, *given).fetchall()
        self._note()
        return type("Result", (), {"fetchall": lambda _: rows})()

    def sql(self, sql: str) -> Any:
        rows = self._con.sql(sql).to_arrow_table()
        self._note()
        return type("Result", (), {"to_arrow_table": lambda _: rows, "to_arrow_reader": lambda _, size: rows.to_reader(size)})()

    def _note(self) -> None:
        said = self._con.get_profiling_information()
        nodes = list(json.loads(said).get("operator", [])) if said else []
        while nodes:
            node = nodes.pop()
            nodes += node.get("children", [])
            if node.get("extra_info", {}).get("Table"):  # not what was given by Arrow
                self.scanned += node.get("rows_scanned", 0)


def filled(step: Stateful, world: World, rows: int, folder: Path) -> tuple[Joined, State, Sql]:
    """The step's state over tables of `rows` rows each, in which ten rows have one group and every key has its match."""
    state, sql = State(Store(folder / f"{rows}.duckdb", memory_mib=8192)), Sql()
    joined = Joined(step, {t: world.schema(t) for t in TABLES}, state, sql)
    with state.transaction():
        joined.create()
    made = {
        "id": "i",
        "s": "'u' || (i // 10)",
        "x": f"(i * 7919) % {rows}",
        "y": "i",
        "t": "'u' || (i // 10)",
        "g": "i // 10",
        "v": "i % 5",
    }
    for name in inputs_of(step):
        columns = ", ".join(f"{made.get(f.name, 'NULL')} AS {quoted(f.name)}" for f in world.schema(name).fields)
        computed = "".join(f", ({c.sql}) AS {quoted(c.name)}" for c in step.computed if c.input == name)
        table = copy_table(step.name, name)
        kept = [f for f in state.store._types[table] if not f.startswith("__ms_at ")]
        with state.transaction():
            state.store.insert_from(table, kept, f"(SELECT *{computed} FROM (SELECT {columns} FROM range({rows}) r(i)))")
    with state.transaction():
        joined.create_indexes()
    with state.transaction():
        if joined.built_as_a_set:
            joined.build({})
    return joined, state, sql


def changes(world: World, table: str, rows: int, first: int) -> Batch:
    """New values, a moved reference among them, in ten rows that are there and far apart."""
    schema = world.schema(table)
    made = []
    for n in range(CHANGED):
        i = (first + n * (rows // CHANGED)) % rows
        row = {"id": i, "s": f"u{i // 10}", "x": (i * 7919 + 1) % rows, "y": i, "t": f"u{i // 10}", "g": i // 10, "v": 3, "p": None}
        made.append({f.name: row[f.name] for f in schema.fields})
    given = {
        "op": ["u"] * CHANGED,
        "before": pa.nulls(CHANGED, schema.arrow),
        "after": pa.array(made, schema.arrow),
        "incarnation": np.ones(CHANGED, np.uint32),
        "major": np.ones(CHANGED, np.uint64),
        "minor": np.arange(CHANGED, dtype=np.uint32),
        "ts_us": np.ones(CHANGED, np.int64),
        "position": [""] * CHANGED,
    }
    return batch(table, schema, given)


def scanned(construct: str, rows: int, folder: Path) -> dict[str, int]:
    """Changed table → rows scanned to take ten changes in and to refresh what they touch."""
    world = make_world(construct, 1)
    step = next(n for n in world.nodes if isinstance(n, Stateful))
    joined, state, sql = filled(step, world, rows, folder)
    con = Profiled(state.store._con)
    state.store._con = con
    found = {}
    for number, table in enumerate(inputs_of(step)):
        con.scanned = 0
        with state.transaction():
            joined.take({table: [changes(world, table, rows, 17 + number)]}, since=number + 1)
        assert joined.pending, "the change reaches nothing"
        while joined.pending:
            with state.transaction():
                joined.refresh(number + 1, {})
        found[table] = con.scanned
    state.store.close()
    sql.close()
    return found


def compare(construct: str, small: int, folder: Path) -> None:
    few, many = scanned(construct, small, folder), scanned(construct, 10 * small, folder)
    assert all(few.values()), "nothing was counted"
    for table, rows in many.items():
        assert rows <= 1.5 * few[table], (
            f"{construct}, {table} changed: {few[table]:,} rows scanned of {small:,}, {rows:,} of {10 * small:,}"
        )
        assert rows < small / 10, f"{construct}, {table} changed: {rows:,} rows scanned"


@pytest.mark.parametrize("construct", CONSTRUCTS)
def test_ten_changed_rows_scan_no_more_of_a_larger_state(construct: str, tmp_path: Path) -> None:
    compare(construct, 20_000 if construct in ("itself", "two_groups", "pair", "full") else 100_000, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("construct", CONSTRUCTS)
def test_nor_of_a_large_one(construct: str, tmp_path: Path) -> None:
    compare(construct, 1_000_000, tmp_path)
