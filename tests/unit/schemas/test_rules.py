"""The table of verdicts: whole, and read as the page that is made of it says."""

from __future__ import annotations

from typing import get_args

import pytest
import sqlglot

from millstream.events.types import Field, RowSchema, Type, record_of
from millstream.schemas.operations import DESTROYS, Kind, operations
from millstream.schemas.rules import TABLE, default_verdict, gravest

MOVIE = RowSchema((Field("id", Type("int64"), 1), Field("year", Type("int32"), 2), Field("note", Type("text"), 3)), ("id",))


def test_every_operation_has_its_row_once() -> None:
    assert [row.kind for row in TABLE] == [kind for kind in get_args(Kind) if kind != "nested"]  # whose verdict is its leaf's


def test_what_a_database_is_told_is_sql() -> None:
    for row in TABLE:
        if row.example:
            assert isinstance(sqlglot.parse_one(f"ALTER TABLE movie {row.example}", dialect="postgres"), sqlglot.exp.Alter), row.kind


def test_only_what_destroys_or_widens_pauses_and_nobody_stops_for_what_he_does_not_use() -> None:
    for row in TABLE:
        assert ("pause" in (row.pinned, row.named, row.star)) <= (row.kind in DESTROYS | {"widen"}), row.kind
        assert row.unused == ("pause" if row.kind == "rekey" else "ignore")


def without(name: str) -> RowSchema:
    return RowSchema(tuple(f for f in MOVIE.fields if f.name != name), MOVIE.key)


def retyped(name: str, type_: Type) -> RowSchema:
    return RowSchema(tuple(Field(f.name, type_, f.id) if f.name == name else f for f in MOVIE.fields), MOVIE.key)


@pytest.mark.parametrize(
    ("new", "unused", "pinned", "named", "star"),
    [
        (RowSchema((*MOVIE.fields, Field("n", Type("int32"), 4)), ("id",)), "ignore", "ignore", "ignore", "propagate"),
        (without("note"), "ignore", "pause", "pause", "propagate"),
        (retyped("year", Type("int64")), "ignore", "pause", "propagate", "propagate"),
        (retyped("year", Type("text")), "ignore", "pause", "pause", "pause"),
        (RowSchema(MOVIE.fields, ("year", "id")), "pause", "pause", "pause", "pause"),
        (retyped("id", Type("int32")), "pause", "pause", "pause", "pause"),
    ],
)
def test_verdicts(new: RowSchema, unused: str, pinned: str, named: str, star: str) -> None:
    (operation,) = operations(MOVIE, new)
    assert default_verdict(operation, False, False, True) == default_verdict(operation, False, False, False) == unused
    assert default_verdict(operation, True, True, False) == default_verdict(operation, True, False, False) == pinned
    assert default_verdict(operation, True, True, True) == named
    assert default_verdict(operation, True, False, True) == star


def test_a_new_member_is_taken_along_with_its_column() -> None:
    one, two = record_of(("a", Type("int32"))), record_of(("a", Type("int32")), ("b", Type("text")))

    def row(type_: Type) -> RowSchema:
        return RowSchema((Field("id", Type("int64"), 1), Field("cast", type_, 2)), ("id",))

    (added,), (dropped,) = operations(row(one), row(two)), operations(row(two), row(one))
    assert [default_verdict(o, True, True, True) for o in (added, dropped)] == ["propagate", "pause"]
    assert [default_verdict(o, True, False, True) for o in (added, dropped)] == ["propagate", "propagate"]
    assert [default_verdict(o, True, True, False) for o in (added, dropped)] == ["ignore", "pause"]
    assert [default_verdict(o, False, False, False) for o in (added, dropped)] == ["ignore", "ignore"]


def test_the_gravest_counts() -> None:
    assert gravest([]) == "ignore"
    assert gravest(["ignore", "propagate", "ignore"]) == "propagate"
    assert gravest(["pause", "propagate"]) == "pause"
