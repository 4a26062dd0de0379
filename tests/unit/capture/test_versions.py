"""Which version a batch is written in, what old rows have by it, and when they are to be read again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from millstream.capture.backfill import Backfill, resumed, stored, with_schema_backfill
from millstream.capture.versions import CHANGES_MAX, Placed, Versions
from millstream.events import envelope
from millstream.events.batch import Batch, batch
from millstream.events.types import UNKNOWN, Constant, Field, RowSchema, Type
from millstream.schemas.sql import SqlRegistry

INT, LONG, TEXT = Type("int32"), Type("int64"), Type("text")


def schema(*fields: Field) -> RowSchema:
    return RowSchema((Field("id", INT, 1), *fields), ("id",))


def events(given: RowSchema, *majors: int) -> Batch:
    majors = majors or (1,)
    count = len(majors)
    return batch(
        "s.t",
        given,
        {
            "op": ["c"] * count,
            "after": pa.array([{f.name: None for f in given.fields}] * count, given.arrow),
            "incarnation": np.ones(count, np.uint32),
            "major": np.array(majors, np.uint64),
            "minor": np.ones(count, np.uint32),
            "ts_us": np.full(count, 77, np.int64),
            "position": ["here"] * count,
        },
    )


class World:
    """A topic made with `first`, and one connector's versions of it."""

    def __init__(self, first: RowSchema) -> None:
        self.registry = SqlRegistry(sa.create_engine("sqlite://"))
        made = self.registry.register("s.t-value", envelope.value_schema("s.t", first))
        self.versions = Versions(self.registry, {"s.t": made.id}, {})

    def write(self, given: RowSchema, *majors: int) -> tuple[RowSchema, Placed]:
        placed = self.versions.place([events(given, *majors)])
        self.versions.committed(placed)
        return placed.batches[0].schema, placed


def test_of_a_column_that_all_rows_were_given_with_nothing_is_said() -> None:
    world = World(schema(Field("v", TEXT, 2)))
    said, placed = world.write(schema(Field("v", TEXT, 2, fill=Constant("x"))))
    assert said["v"].fill is None
    assert not placed.changes
    assert not placed.unsaid


@pytest.mark.parametrize(("fill", "unsaid"), [(None, {}), (Constant("5"), {}), (UNKNOWN, {"s.t": 2})])
def test_an_added_column_is_said_once(fill: object, unsaid: object) -> None:
    world = World(schema())
    said, placed = world.write(schema(Field("n", INT, 2, fill=fill)))
    assert (said["n"].fill, placed.unsaid) == (fill, unsaid)
    for later in (None, Constant("6"), UNKNOWN):
        again, placed = world.write(schema(Field("n", INT, 2, fill=later)))
        assert (again["n"].fill, placed.unsaid, len(placed.changes["s.t"])) == (fill, {}, 1)
    renamed, placed = world.write(schema(Field("m", INT, 2, fill=UNKNOWN)))
    assert (renamed["m"].fill, placed.unsaid) == (fill, {})
    assert placed.changes["s.t"][-1]["operations"] == ["renamed n (now m)"]


def test_what_is_told_late_has_the_version_of_its_time_and_changes_nothing() -> None:
    """As a source does that keeps order by key alone."""
    one, two = schema(), schema(Field("n", INT, 2, fill=UNKNOWN))
    world = World(one)
    (_, first), (_, changed) = world.write(one, 5), world.write(two, 30, 20)
    assert changed.unsaid == {"s.t": 2}
    for majors in [(29,), (3, 19)]:
        _, late = world.write(one, *majors)
        assert [b.schema_id for b in late.batches] == [b.schema_id for b in first.batches]
        assert (late.written, len(late.changes["s.t"]), late.unsaid) == (changed.written, 1, {})
    _, on = world.write(two, 31)
    assert (on.written, len(on.changes["s.t"]), on.unsaid) == (changed.written, 1, {})
    _, back = world.write(one, 40, 29)
    assert len(back.changes["s.t"]) == 2, "the table went back to it"
    assert len(world.registry.versions("s.t-value")) == 3


def test_a_new_column_under_an_old_name_is_new() -> None:
    world = World(schema(Field("v", TEXT, 2)))
    said, placed = world.write(schema(Field("v", TEXT, 3, fill=Constant("x"))))
    assert said["v"].fill == Constant("x")
    assert placed.changes["s.t"][0]["operations"] == ["dropped v", "added v (text, old rows have 'x')"]
    assert (placed.changes["s.t"][0]["position"], placed.changes["s.t"][0]["ts_us"]) == ("here", 77)


@pytest.mark.parametrize(
    ("first", "second", "fill", "unsaid"),
    [
        (None, None, None, False),
        (None, UNKNOWN, UNKNOWN, True),
        (Constant("5"), Constant("5"), Constant("5"), False),
        (Constant("5"), None, UNKNOWN, True),
    ],
)
def test_a_converted_column(first: object, second: object, fill: object, unsaid: bool) -> None:
    world = World(schema())
    world.write(schema(Field("n", INT, 2, fill=first)))
    said, placed = world.write(schema(Field("n", LONG, 2, fill=second)))
    assert (said["n"].fill, bool(placed.unsaid)) == (fill, unsaid)


def test_a_change_that_was_registered_but_not_committed_is_met_again() -> None:
    world = World(schema())
    wanted = schema(Field("n", INT, 2, fill=UNKNOWN))
    world.versions.place([events(wanted)])
    again = Versions(world.registry, world.versions.written, {})
    assert again.place([events(wanted)]).unsaid == {"s.t": 2}


def test_columns_that_come_back_are_a_version_of_their_own() -> None:
    """Who has accepted the version in between has accepted all before it: it would not ask what became of n."""
    world = World(schema())
    plain, wider = schema(), schema(Field("n", INT, 2))
    world.write(wider)
    again = Versions(world.registry, world.versions.written, {})
    again.place([events(plain)])  # registered, and not committed
    placed = world.versions.place([events(plain), events(plain), events(wider), events(plain)])
    numbers = {v.id: v.version for v in world.registry.versions("s.t-value")}
    assert [numbers[b.schema_id or 0] for b in placed.batches] == [3, 3, 4, 5]
    assert [c["operations"] for c in placed.changes["s.t"]] == [["added n (int32)"], ["dropped n"], ["added n (int32)"], ["dropped n"]]
    assert [b.schema.fields for b in placed.batches] == [s.fields for s in (plain, plain, wider, plain)]
    chunk = world.versions.place([events(plain)], told_again=True).batches[0]
    assert numbers[chunk.schema_id or 0] == 5
    for version in world.registry.versions("s.t-value"):  # the texts differ, what is written by them does not
        assert envelope.row_schema(version.text, ("id",)).fields == (plain, wider)[version.version % 2 == 0].fields


def test_what_is_said_about_columns_is_as_it_was_last_looked_at() -> None:
    world = World(schema(Field("v", TEXT, 2)))
    told, _ = world.write(schema(Field("v", TEXT, 2)))
    younger, _ = world.write(schema(Field("v", TEXT, 2, doc="words")))
    older, placed = world.write(schema(Field("v", TEXT, 2)))
    assert [s["v"].doc for s in (told, younger, older)] == ["", "words", "words"]
    assert [c["operations"] for c in placed.changes["s.t"]] == [["described v"]]


def test_rows_told_again_as_they_were_change_nothing() -> None:
    world = World(schema())
    old = events(schema()).with_schema_id(1)
    world.write(schema(Field("n", INT, 2)))
    placed = world.versions.place([old], told_again=True)
    assert (placed.batches, placed.written) == ([old], world.versions.written)


def test_the_list_of_changes_is_bounded() -> None:
    world = World(schema())
    for n in range(CHANGES_MAX + 5):
        _, placed = world.write(schema(Field("n", INT, n + 2)))
    assert len(placed.changes["s.t"]) == CHANGES_MAX


def test_a_schema_backfill_takes_the_place_of_an_earlier_one() -> None:
    backfills = resumed({}, [("t", 9)], start_offered=True)
    assert with_schema_backfill(backfills, "t", 2, start=True) is backfills, "the initial load says all"
    backfills["t"] = backfills["t"].chunk_done(["1"], 1, False)
    second = with_schema_backfill(backfills, "t", 2, start=False)
    assert second["t schema"] == Backfill("t", "schema-2", estimate=9, wanted=False)
    third = with_schema_backfill(second, "t", 3, start=True)
    assert [b.name for b in third.values()] == ["initial", "schema-3"]
    assert resumed(stored(second), [("t", 9)], start_offered=True)["t schema"].wanted
    assert "t schema" not in resumed(stored(third), [], start_offered=True)
