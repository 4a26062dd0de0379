"""A reader stops before the first event of a schema that was not accepted, and maps earlier ones to the accepted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from millstream.engine.reader import NotAccepted, TopicReader
from millstream.errors import Irrecoverable, Refused
from millstream.events import envelope
from millstream.events.batch import batch
from millstream.events.origin import Origin
from millstream.events.types import UNKNOWN, Field, RowSchema, Type, list_of
from millstream.schemas.sql import SqlRegistry
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics

V1 = RowSchema((Field("id", Type("int64"), 1), Field("name", Type("text"), 2)), ("id",))
V2 = RowSchema((Field("id", Type("int64"), 1), Field("title", Type("text"), 2), Field("year", Type("int32"), 3)), ("id",))
V3 = RowSchema((Field("id", Type("int64"), 1), Field("title", Type("int64"), 2)), ("id",))


class World:
    def __init__(self, folder: Path) -> None:
        self.engine = sa.create_engine(f"sqlite:///{folder}/mesh.db")
        self.registry = SqlRegistry(self.engine)
        self.topics = LocalTopics(folder / "topics.db", self.registry)
        key = self.registry.register("t-key", envelope.key_schema("t", V1))
        self.topics.create(Topic("t", ("id",), key.id, "whole", Origin("scripted", "s", "db", None, "t")))
        self.producer = self.topics.open_producer("source.s")

    def version(self, schema: RowSchema) -> int:
        return self.registry.register("t-value", envelope.value_schema("t", schema)).id

    def write(self, schema: RowSchema, rows: list[dict], to: str | None = None) -> None:
        count = len(rows)
        made = batch(
            "t",
            schema,
            {
                "op": ["c"] * count,
                "after": pa.array(rows, schema.arrow),
                "incarnation": np.ones(count, np.uint32),
                "major": np.ones(count, np.uint64),
                "minor": np.arange(count, dtype=np.uint32),
                "ts_us": np.zeros(count, np.int64),
                "position": [""] * count,
            },
            self.version(schema),
        )
        made = replace(made, to=to)
        self.producer.commit([self.topics.encode(made)], {}, sequence=self.producer.record.sequence + 1)

    def reader(self, schema: RowSchema, offset: int = 0) -> TopicReader:
        return TopicReader(self.topics, self.registry, "t", schema, self.version(schema), offset)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.topics.close()
    made.engine.dispose()


def after(batches: list) -> list[dict]:
    return [e for b in batches for e in b.column("after").to_pylist()]


def test_stops_before_and_says_why(world: World) -> None:
    reader = world.reader(V1)
    world.write(V1, [{"id": 1, "name": "a"}])
    world.write(V2, [{"id": 2, "title": "b", "year": 3}])
    assert after(reader.read(1 << 20)) == [{"id": 1, "name": "a"}]
    for _ in range(2):  # asking again reads nothing and says the same
        with pytest.raises(Refused) as caught:
            reader.read(1 << 20)
        assert caught.value.code == "schema_not_accepted"
        assert "renamed name (now title)" in caught.value.message and "added year" in caught.value.message
        assert caught.value.where == "t@1"
        assert reader.offset == 1


def test_accepted_later_it_goes_on_without_loss(world: World) -> None:
    world.write(V1, [{"id": 1, "name": "a"}])
    world.write(V2, [{"id": 2, "title": "b", "year": 3}])
    got = after(world.reader(V2).read(1 << 20))
    assert got == [{"id": 1, "title": "a", "year": None}, {"id": 2, "title": "b", "year": 3}]


def test_an_earlier_schema_that_does_not_fit_is_said(world: World) -> None:
    world.write(V1, [{"id": 1, "name": "seven"}])
    world.version(V3)
    with pytest.raises(Irrecoverable) as caught:
        world.reader(V3).read(1 << 20)
    assert caught.value.code == "schema_uncoverable" and caught.value.where == "t@0"


def test_where_there_is_no_row_nothing_is_cast(world: World) -> None:
    world.write(V1, [{"id": 1, "name": "7"}])  # whose before, which is null, is no number
    world.version(V3)
    assert after(world.reader(V3).read(1 << 20)) == [{"id": 1, "title": 7}]


def test_what_is_told_again_need_not_fit(world: World) -> None:
    """The source says that no event has the values of old rows, or the topic has begun anew since."""
    unsaid = RowSchema((V3.fields[0], replace(V3.fields[1], fill=UNKNOWN)), ("id",))
    world.write(V1, [{"id": 1, "name": "seven"}])
    world.write(unsaid, [{"id": 1, "title": 7}])
    assert after(world.reader(unsaid).read(1 << 20)) == [{"id": 1, "title": None}, {"id": 1, "title": 7}]
    world.version(V3)
    world.topics.raise_incarnation("t")
    assert after(world.reader(V3).read(1 << 20))[0] == {"id": 1, "title": None}


def test_members_of_records_are_mapped_like_columns(world: World) -> None:
    def row(*members: Field) -> RowSchema:
        return RowSchema((Field("id", Type("int64"), 1), Field("cast", list_of(Type("record", fields=members)), 2)), ("id",))

    old = row(Field("name", Type("text"), 1), Field("gone", Type("text"), 2), Field("rank", Type("int32"), 3))
    new = row(Field("rank", Type("int64"), 3), Field("role", Type("text"), 4), Field("who", Type("text"), 1))
    world.write(old, [{"id": 1, "cast": [{"name": "a", "gone": "x", "rank": 7}, None]}, {"id": 2, "cast": None}])
    world.write(new, [{"id": 3, "cast": [{"rank": 1, "role": "r", "who": "b"}]}])
    got = after(world.reader(new).read(1 << 20))
    assert got == [
        {"id": 1, "cast": [{"rank": 7, "role": None, "who": "a"}, None]},
        {"id": 2, "cast": None},
        {"id": 3, "cast": [{"rank": 1, "role": "r", "who": "b"}]},
    ]


def test_what_is_addressed_to_another_is_passed_over(world: World) -> None:
    """Whatever its schema; an empty answer still means the end."""
    world.write(V1, [{"id": 1, "name": "a"}])
    world.write(V2, [{"id": 2, "title": "b", "year": 1}], to="other")
    world.write(V1, [{"id": 3, "name": "c"}], to="mine")
    world.write(V1, [{"id": 4, "name": "d"}], to="other")

    def ids(pipeline: str | None) -> list[int]:
        reader = TopicReader(world.topics, world.registry, "t", V1, world.version(V1), 0, pipeline=pipeline)
        found = []
        while read := reader.read(1):
            found += [i["id"] for b in read for i in b.column("after").to_pylist()]
        assert reader.offset == 4
        return found

    assert ids("mine") == [1, 3]
    with pytest.raises(NotAccepted):
        ids("other")
    with pytest.raises(NotAccepted):
        ids(None)
