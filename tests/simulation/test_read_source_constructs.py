"""`read: source` over the constructs of stateful SQL, as a property: the rows come from a database that is ahead of its events by chance
and fails now and then. Once everything is through, what was published replays to the query evaluated from scratch."""

from __future__ import annotations

import copy
import random
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import stateful_constructs as constructs
from stateful_constructs import CONSTRUCTS, INT, TEXT, World, edge
from test_stateful_property import Mesh, Ticks

from millstream.engine.guard import Guard
from millstream.engine.pipeline import Pipeline
from millstream.errors import Retryable
from millstream.events.progress import Position
from millstream.pipelines.plan import Root, Stateful
from millstream.sources.contract import Asked, Limits

SEEDS = 3
BATCHES = 6
# The others group by an expression or read what is computed here: validation refuses those (`pipelines/atsource.py`).
AT_SOURCE = ("inner", "left", "itself", "exists", "nested", "documents", "hashed_pairs", "pair", "union", "full")


def plain_group(w: World) -> None:
    """By a plain column."""
    sql = (
        'SELECT "c"."s" AS "s", count(*) AS "n", sum("a"."v")::BIGINT AS "total" FROM "c" JOIN "a" ON "a"."x" = "c"."id" '
        'GROUP BY "c"."s" HAVING count(*) > 1'
    )
    columns = [("s", TEXT), ("n", INT), ("total", INT)]
    edges = [edge("c", "id", "a", "x")]
    w.stateful("out", sql, columns, ["s"], [Root("c", ("s",))], ["s"], {"c": constructs.C, "a": constructs.A}, edges)


def plain_top(w: World) -> None:
    """Of each value of a plain column."""
    sql = (
        'SELECT "c"."s" AS "s", "c"."id" AS "id", "c"."p" AS "p" FROM "c" '
        'QUALIFY row_number() OVER (PARTITION BY "c"."s" ORDER BY "c"."v" DESC NULLS LAST, "c"."id") <= 2'
    )
    columns = [("s", TEXT), ("id", INT), ("p", w.type(constructs.C))]
    w.stateful("out", sql, columns, ["s", "id"], [Root("c", ("s",))], ["s"], {"c": constructs.C})


ALL = {name: CONSTRUCTS[name] for name in AT_SOURCE} | {"plain_group": plain_group, "plain_top": plain_top}


class Database:
    """A `Lookup` over what the tables were after each transaction."""

    name = "src"
    reading = "the script"

    def __init__(self, rng: random.Random) -> None:
        self.limits = Limits(per_s=1e9, keys_max=rng.choice([1, 3, 1000]), slow_ms=1e9)
        self.moments: list[dict[str, dict[tuple[Any, ...], dict[str, Any]]]] = [{}]
        self.rng, self.queries, self.behind = rng, 0, False

    def lookup(self, asked: Asked, not_before: Position) -> Generator[pa.Table, None, None]:
        self.queries += 1
        if self.rng.random() < 0.03:
            raise Retryable("the script lost its connection", code="connection", where="source src")
        moment = self.rng.randint(not_before.major, len(self.moments) - 1)
        if self.behind:
            moment = max(0, not_before.major - 2)
        keys = {tuple(k.values()) for k in asked.keys.to_pylist()}
        rows = self.moments[moment].get(f"src.{asked.table}", {}).values()
        found = [{w: r[w] for w in asked.wanted} for r in rows if tuple(r[c] for c in asked.columns) in keys or self.rng.random() < 0.05]
        schema = pa.schema([pa.field(w, asked.schema[w].type.arrow) for w in asked.wanted])
        for start in range(0, len(found), 2):
            yield pa.Table.from_pylist(found[start : start + 2], schema=schema)

    def close(self) -> None:
        """A script has nothing to end."""


class AtSource(Mesh):
    """The mesh, whose pipeline asks."""

    def __init__(self, world: World, folder: Path, database: Database) -> None:
        world.nodes = [replace(n, read="source") if isinstance(n, Stateful) else n for n in world.nodes]
        super().__init__(world, folder)
        self.database, self._guard = database, Guard(database, clock=Ticks())

    def write(self, changes: Any) -> None:
        self.database.moments.append(copy.deepcopy(self.world.rows))
        super().write(changes)

    def some(self, steps: int) -> None:
        if self.pipeline is None:
            made = Pipeline(self.plan, self.topics, self.registry, self.folder / "p.duckdb", clock=Ticks(), guard=lambda name: self._guard)
            made.open()
            self.pipeline = made
        for _ in range(steps):
            if self.pipeline.caught_up({t: self.topics.end(t) for t in self.pipeline.reads}):
                return
            try:
                self.pipeline.step()
            except Retryable:
                self.pipeline.retry()
        assert steps < 3000, "it does not come to an end"


def run_world(construct: str, seed: int, folder: Path, *, behind: bool = False) -> None:
    folder.mkdir()
    rng = random.Random(f"{construct} {seed}")
    world = World(rng)
    ALL[construct](world)
    world.published.append("out")
    database = Database(rng)
    database.behind = behind
    mesh = AtSource(world, folder, database)
    try:
        mesh.write(world.first_rows())
        for _ in range(BATCHES):
            mesh.some(rng.randint(1, 6))
            mesh.write(world.change())
            if rng.random() < 0.2:
                mesh.crash()
        mesh.some(3000)
        mesh.check()
        assert database.queries
    finally:
        mesh.close()


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("construct", ALL)
def test_what_is_published_replays_to_the_query(construct: str, seed: int, tmp_path: Path) -> None:
    run_world(construct, seed, tmp_path / "m")


def test_rows_that_are_older_than_their_events_are_seen_to_fail(tmp_path: Path) -> None:
    failed = 0
    for construct in ("nested", "pair", "plain_group"):
        try:
            run_world(construct, 1, tmp_path / construct, behind=True)
        except AssertionError:
            failed += 1
    assert failed
