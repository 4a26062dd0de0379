"""A topic's rows on disk: whatever is put, lost or behind, they are the fold of the topic."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from millstream.capture import comparing
from millstream.capture.rowcopy import RowCopy
from millstream.errors import Irrecoverable
from millstream.events import envelope
from millstream.events.batch import HOLES, Batch, batch
from millstream.events.origin import Origin
from millstream.events.types import Field, RowSchema, Type
from millstream.schemas.sql import SqlRegistry
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics

FIRST = RowSchema((Field("a b", Type("text"), 1), Field("n", Type("decimal", 6, 2), 2), Field("id", Type("int64"), 3)), ("id",))
SECOND = RowSchema((*FIRST.fields, Field("more", Type("bytes"), 4)), ("id",))
Row = dict[str, Any]


class World:
    def __init__(self, folder: Path) -> None:
        self.registry = SqlRegistry(sa.create_engine(f"sqlite:///{folder}/mesh.db"))
        self.topics = LocalTopics(folder / "topics.db", self.registry)
        self.ids = {s: self.registry.register("t-value", envelope.value_schema("t", s)).id for s in (FIRST, SECOND)}
        key = self.registry.register("t-key", envelope.key_schema("t", FIRST))
        self.topic = self.topics.create(Topic("t", ("id",), key.id, "whole", Origin("x", "s", "d", None, "t")))
        self.producer = self.topics.open_producer("p")
        self.rows: dict[int, Row] = {}
        self.version = 0

    def write(self, schema: RowSchema, changes: list[tuple[str, Row]], to: str | None = None) -> Batch:
        """`changes`: "c" or "d" with a row."""
        count, hole = len(changes), [{"image": "after", "field": "n", "why": "nan"}]
        for op, row in changes:
            if op == "d":
                self.rows.pop(row["id"], None)
            else:
                self.rows[row["id"]] = row
        self.version += 1
        events = batch(
            "t",
            schema,
            {
                "op": [op for op, _ in changes],
                "before": pa.array([row if op == "d" else None for op, row in changes], schema.arrow),
                "after": pa.array([row if op == "c" else None for op, row in changes], schema.arrow),
                "incarnation": np.ones(count, np.uint32),
                "major": np.full(count, self.version, np.uint64),
                "minor": np.arange(count, dtype=np.uint32),
                "ts_us": np.zeros(count, np.int64),
                "position": [""] * count,
                "holes": pa.array([hole if r["n"] is None and op == "c" else None for op, r in changes], HOLES),
            },
            self.ids[schema],
        )
        self.producer.commit([self.topics.encode(replace(events, to=to))], {}, sequence=self.producer.record.sequence + 1)
        return events


def told(copy: RowCopy) -> dict[int, Row]:
    found = copy.first(1_000_000, 1 << 30)
    assert all((h is not None) == (image["n"] is None) for r in found for h, image in zip(r.holes, r.images.to_pylist(), strict=True))
    return {row["id"]: row for r in found for row in r.images.to_pylist()}


def some(rng: random.Random, schema: RowSchema) -> list[tuple[str, Row]]:
    def row() -> Row:
        more = {"more": rng.randbytes(5)} if schema is SECOND else {}
        return {"a b": rng.choice(["x", "é" * 50, None]), "n": rng.choice([Decimal("1.50"), None]), "id": rng.randrange(12), **more}

    return [(rng.choice("ccd"), row()) for _ in range(rng.randint(1, 8))]


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_fold_of_its_topic(seed: int, tmp_path: Path) -> None:
    rng, world, path = random.Random(seed), World(tmp_path), tmp_path / "rows.db"
    copy = RowCopy(path, world.topic, world.registry)
    for _ in range(20):
        schema = rng.choice([FIRST, SECOND])
        world.write(schema, some(rng, schema))
        if rng.random() < 0.5:
            list(copy.follow(world.topics))
            assert told(copy) == world.rows
        if rng.random() < 0.2:
            copy.close()
            if rng.random() < 0.5:
                path.unlink()
            copy = RowCopy(path, world.topic, world.registry)
    list(copy.follow(world.topics))
    assert told(copy) == world.rows
    wanted = [key for r in copy.first(5, 1 << 30) for key in r.keys]
    assert {k for r in copy.of([*wanted, b"none"]) for k in r.keys} == set(wanted)
    copy.close()


def test_it_is_worked_off_in_pieces(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(FIRST, [("c", {"a b": "x" * 100, "n": Decimal(1), "id": i}) for i in range(50)])
    copy = RowCopy(None, world.topic, world.registry)
    list(copy.follow(world.topics))
    sizes = []
    while found := copy.first(20, 1_000):
        sizes.append(sum(len(r.keys) for r in found))
        world.write(FIRST, [("d", row) for r in found for row in r.images.to_pylist()])
        list(copy.follow(world.topics))
    assert sum(sizes) == 50
    assert max(sizes) <= 11
    copy.close()


def test_what_was_addressed_to_one_the_others_do_not_have(tmp_path: Path) -> None:
    world = World(tmp_path)
    copy = RowCopy(tmp_path / "rows.db", world.topic, world.registry)
    old, new = ([("c", {"a b": text, "n": Decimal(1), "id": i}) for i in range(3)] for text in ("old", "new"))
    world.write(FIRST, old)
    now = world.write(FIRST, new[:2], to="one")
    list(copy.follow(world.topics))
    assert copy.has(now).tolist() == [False, False], "all but one have the old rows"
    copy.close()
    copy = RowCopy(tmp_path / "rows.db", world.topic, world.registry)
    now = world.write(FIRST, new[1:])
    list(copy.follow(world.topics))
    assert copy.has(now).tolist() == [True, True]
    copy.close()


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 6])
def test_each_key_is_on_one_page_and_there_is_a_last_one(rows: int, tmp_path: Path) -> None:
    world = World(tmp_path)
    if rows:
        world.write(FIRST, [("c", {"a b": "x", "n": Decimal(1), "id": i}) for i in range(rows)])
    copy = RowCopy(None, world.topic, world.registry)
    list(copy.follow(world.topics))
    seen: list[int] = []
    upto: str | None = ""
    for _ in range(rows + 2):
        if upto is None:
            break
        page = comparing.page(copy, upto, FIRST, 3)
        seen += page.rows.column("id").to_pylist()
        upto = page.upto
    assert upto is None
    assert sorted(seen) == list(range(rows))
    copy.close()


def test_it_ends_where_the_last_rows_go_between_two_pages(tmp_path: Path) -> None:
    world = World(tmp_path)
    rows = [("c", {"a b": "x", "n": Decimal(1), "id": i}) for i in range(6)]
    world.write(FIRST, rows)
    copy = RowCopy(None, world.topic, world.registry)
    list(copy.follow(world.topics))
    page = comparing.page(copy, "", FIRST, 3)
    world.write(FIRST, [("d", row) for _, row in rows[3:]])
    list(copy.follow(world.topics))
    assert page.upto is not None
    assert comparing.page(copy, page.upto, FIRST, 3).upto is None
    copy.close()


def test_two_that_keep_one_file_notice(tmp_path: Path) -> None:
    world, path = World(tmp_path), tmp_path / "rows.db"
    one, other = (RowCopy(path, world.topic, world.registry) for _ in range(2))
    world.write(FIRST, [("c", {"a b": "x", "n": Decimal(1), "id": 1})])
    list(one.follow(world.topics))
    with pytest.raises(Irrecoverable, match="another process"):
        list(other.follow(world.topics))
    assert told(one) == world.rows
