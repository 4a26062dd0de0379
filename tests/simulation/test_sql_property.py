"""From SQL text to what is published, as a property: random queries of every construct through the compiler, run by a pipeline that is
cut off and loses its state while several tables change at once. What it publishes replays to the query evaluated from scratch by
DuckDB from the text as it was written.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import queries
import test_stateful_property
from stateful_constructs import Row, World
from test_stateful_property import run_world

from millstream.events.types import RowSchema
from millstream.pipelines.nodes import StepNodes
from millstream.pipelines.plan import Node, Stateful, Stateless
from millstream.pipelines.sql.dialect import parse
from millstream.pipelines.sql.mistakes import Mistakes

SEEDS, MORE_SEEDS = 2, 60


class SqlWorld(World):
    """The tables of `queries` as topics src.a, src.b and src.c, and the nodes that one query compiles to."""

    sql = ""

    def schema(self, table: str) -> RowSchema:
        return queries.TABLES[table.removeprefix("src.")]

    def keys(self, table: str) -> list[tuple[Any, ...]]:
        return [(i, j) for i in range(4) for j in range(3)] if table == "src.b" else [(i,) for i in range(5)]

    def random_row(self, table: str, key: tuple[Any, ...]) -> Row:
        schema = self.schema(table)
        row: Row = dict(zip(schema.key, key, strict=True))
        for f in schema.fields:
            if f.name not in row:
                row[f.name] = self.rng.choice("pqr") if f.type.kind == "text" else self.rng.choice([None, 0, 1, 2, 3])
        return row

    def expected(self) -> dict[str, list[Row]]:
        con = duckdb.connect()
        for table, rows in self.rows.items():
            schema = pa.schema(list(self.schema(table).arrow))
            con.register(table.removeprefix("src."), pa.Table.from_pylist(list(rows.values()), schema=schema))
        found = con.execute(queries.oracle(self.sql)).fetchall()
        con.close()
        out = self.nodes[-1].schema
        named = [dict(zip(out.names, _plain(list(row)), strict=True)) for row in found]
        return {"out": pa.Table.from_pylist(named, schema=pa.schema(list(out.arrow))).to_pylist()}


def _plain(value: Any) -> Any:
    """DuckDB's own sums have other types than ours: the numbers that they are."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return int(value) if type(value).__name__ == "Decimal" else value


def make_world(construct: str, seed: int) -> SqlWorld:
    rng = random.Random(f"{construct} {seed}")
    while True:
        sql = queries.write(construct, rng)
        tree = parse(queries.plain(sql), Mistakes())
        assert tree is not None
        nodes = StepNodes("out", queries.TABLES, Mistakes()).build(tree, None, ())
        if nodes is not None and any(isinstance(n, Stateful) for n in nodes):
            break
    world = SqlWorld(rng)
    world.sql, world.nodes, world.published = sql, [_over_topics(n) for n in nodes], ["out"]
    return world


def _over_topics(node: Node) -> Node:
    """The node with src.a in the place of a."""
    name = lambda i: f"src.{i}" if i in queries.TABLES else i  # noqa: E731
    match node:
        case Stateless():
            return replace(node, input=name(node.input))
        case Stateful():
            occurrences = tuple(replace(o, input=name(o.input)) for o in node.occurrences)
            return replace(node, occurrences=occurrences, computed=tuple(replace(c, input=name(c.input)) for c in node.computed))
    return node


@pytest.fixture(autouse=True)
def worlds_of_sql(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_stateful_property, "make_world", make_world)


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("construct", queries.CONSTRUCTS)
def test_what_sql_says_is_what_is_published(construct: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_world(construct, seed, tmp_path / "m", cut_off=bool(seed % 2), monkeypatch=monkeypatch)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("construct", queries.CONSTRUCTS)
def test_many_more(construct: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(SEEDS, MORE_SEEDS):
        run_world(construct, seed, tmp_path / f"{seed}", cut_off=bool(seed % 2), monkeypatch=monkeypatch)
