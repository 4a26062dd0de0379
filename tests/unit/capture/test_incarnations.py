"""Which topic a table's rows go to: what of a changed key is news, what an attempt that was cut off leaves, and where it is known again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from millstream.capture.incarnations import Incarnations, keyed, lowest
from millstream.errors import Irrecoverable
from millstream.events import envelope
from millstream.events.batch import Batch, batch
from millstream.events.origin import Origin
from millstream.events.progress import Position
from millstream.events.types import Field, RowSchema, Type
from millstream.schemas.sql import SqlRegistry
from millstream.topics.contract import Topic
from millstream.topics.incarnations import catalogued, newest, number, numbered
from millstream.topics.local import LocalTopics

FIELDS = (Field("id", Type("int64"), 1), Field("k", Type("int64"), 2))
BY_ID, BY_K, BY_BOTH = (RowSchema(FIELDS, key) for key in (("id",), ("k",), ("id", "k")))
WHY = Irrecoverable("the key is (k) now", code="key_changed")


class World:
    def __init__(self, folder: Path) -> None:
        self.registry = SqlRegistry(sa.create_engine(f"sqlite:///{folder}/mesh.db"))
        self.topics = LocalTopics(folder / "topics.db", self.registry)
        key = self.registry.register("s.t-key", envelope.key_schema("s.t", BY_ID))
        self.first = self.topics.create(Topic("s.t", ("id",), key.id, "whole", Origin("scripted", "s", "db", None, "t")))

    def incarnations(self) -> Incarnations:
        return Incarnations({"t": self.first}, self.topics, self.registry, lambda: 7.0)

    def begin(self, held: Incarnations, schema: RowSchema, since: tuple[int, int] = (50, 2)) -> Topic:
        return held.begin("t", schema, since, Position(60, 0), WHY, ready=True)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.topics.close()


def events(*versions: tuple[int, int], k: list[int | None] | None = None) -> Batch:
    count = len(versions)
    rows = [{"id": i, "k": value} for i, value in enumerate(k or [1] * count)]
    return batch(
        "t",
        BY_K,
        {
            "op": ["c"] * count,
            "after": pa.array(rows, BY_K.arrow),
            "incarnation": np.ones(count, np.uint32),
            "ts_us": np.ones(count, np.int64),
            "position": [""] * count,
            "major": np.array([v[0] for v in versions], np.uint64),
            "minor": np.array([v[1] for v in versions], np.uint32),
        },
    )


def told(found: Batch) -> list[tuple[int, int]]:
    return list(zip(found.column("major").to_pylist(), found.column("minor").to_pylist(), strict=True))


def test_news_is_above_what_is_committed_and_not_below_where_the_topic_began(world: World) -> None:
    held, given = world.incarnations(), events((40, 9), (50, 1), (50, 2), (50, 3), (60, 0))
    assert told(held.fresh(given, None)) == told(given)
    assert told(held.fresh(given, Position(50, 1))) == [(50, 2), (50, 3), (60, 0)]
    tables = {"t": (50, 2), "other": (99, 0)}
    assert told(held.fresh(given, Position(99, 0, {}, tables))) == [(50, 3), (60, 0)], "of kind frontier each table has its place"
    world.begin(held, BY_K)
    assert told(held.fresh(given, None)) == [(50, 2), (50, 3), (60, 0)], "what is below is of a shape that the table had before"
    assert held.is_ahead("t", (50, 1))
    assert not held.is_ahead("t", (50, 2))


def test_it_is_known_again_as_it_was_committed_and_not_otherwise(world: World) -> None:
    held = world.incarnations()
    made = world.begin(held, BY_K)
    assert (made.name, made.key, made.incarnation) == ("s.t@2", ("k",), 2)
    assert held.present["t"] == made
    committed = held.stored
    again = world.incarnations()
    again.restore(committed)
    assert (again.present["t"], again.ready, again.since("t")) == (made, {"s.t": True}, (50, 2))
    again.restore({})
    assert again.present["t"] == world.first
    assert (again.table_of("s.t@2"), again.since("t")) == ("t", (0, 0))


def test_an_attempt_that_was_cut_off_is_taken_up_or_passed_over(world: World) -> None:
    world.begin(world.incarnations(), BY_K)
    assert world.begin(world.incarnations(), BY_K).name == "s.t@2", "the same again"
    held = world.incarnations()
    other = world.begin(held, BY_BOTH)
    assert (other.name, other.key, other.incarnation) == ("s.t@3", ("id", "k"), 2)
    third = world.begin(held, BY_ID, (70, 0))
    assert (third.name, third.incarnation) == ("s.t@4", 3), "a number is used once"


def test_events_without_the_key_are_left_out(world: World) -> None:
    given = events((1, 0), (2, 0), (3, 0), k=[5, None, 6])
    assert told(keyed(given)) == [(1, 0), (3, 0)]
    assert keyed(events((1, 0))) is not None
    assert lowest(events((4, 7), (4, 3), (9, 0))) == (4, 3)


def test_names() -> None:
    assert [numbered("s.public.t", n) for n in (1, 2, 12)] == ["s.public.t", "s.public.t@2", "s.public.t@12"]
    assert [catalogued(n) for n in ("s.t", "s.t@2", "s.t@12", "movie@2.movie", "s.t@1")] == ["s.t", "s.t", "s.t", "movie@2.movie", "s.t@1"]
    assert [number(n) for n in ("s.t", "s.t@2", "s.t@10")] == [1, 2, 10]
    assert newest(["s.t@10", "s.t", "s.t@9", "movie@2.movie"]) == {"s.t": "s.t@10", "movie@2.movie": "movie@2.movie"}
