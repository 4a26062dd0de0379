"""Lists and records under other names and in other versions of their types, against plain Python values; also out of slices."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.events.nested import mapped, relabelled, with_items
from millstream.events.types import UNKNOWN, Constant, Field, Type, list_of, numbered, record_of

INT, LONG, TEXT = Type("int32"), Type("int64"), Type("text")
PAIR = record_of(("a", INT), ("b", TEXT))
RENAMED = pa.list_(pa.struct([("x", pa.int32()), ("y", pa.string())]))
# Of another version: b was renamed, a widened, c is new; what had id 3 is gone.
OLD = list_of(Type("record", fields=(Field("a", INT, 1), Field("b", TEXT, 2), Field("gone", list_of(INT), 3))))
NEW = list_of(Type("record", fields=(Field("name", TEXT, 2), Field("c", list_of(LONG), 4), Field("a", LONG, 1))))

pairs = st.lists(st.none() | st.fixed_dictionaries({"a": st.none() | st.integers(0, 9), "b": st.none() | st.text(max_size=2)}), max_size=3)
rows = st.lists(st.none() | pairs, max_size=6)
cuts = st.tuples(st.integers(0, 4), st.integers(0, 4))


def cut(array: pa.Array, at: tuple[int, int]) -> tuple[pa.Array, list[Any]]:
    part = array.slice(*at)
    return part, part.to_pylist()


@settings(max_examples=60, deadline=None)
@given(rows, cuts)
def test_other_names_leave_the_values_in_their_places(values: list[Any], at: tuple[int, int]) -> None:
    part, expected = cut(pa.array(values, list_of(PAIR).arrow), at)
    found = relabelled(part, RENAMED)
    found.validate(full=True)
    assert str(found.type) == str(RENAMED)
    assert found.to_pylist() == [r if r is None else [p and {"x": p["a"], "y": p["b"]} for p in r] for r in expected]


@settings(max_examples=60, deadline=None)
@given(rows, cuts)
def test_another_version_takes_members_by_id(values: list[Any], at: tuple[int, int]) -> None:
    part, expected = cut(pa.array(values, OLD.arrow), at)
    found = mapped(part, OLD, NEW)
    found.validate(full=True)
    assert found.type == NEW.arrow
    assert found.to_pylist() == [r if r is None else [p and {"name": p["b"], "c": None, "a": p["a"]} for p in r] for r in expected]


def test_items_are_changed_for_the_rows_that_are_asked_for_only() -> None:
    lists = pa.array([[1, 2], [3], None, [], [4, 5]], pa.list_(pa.int32())).slice(1, 3)
    given_items: list[Any] = []

    def double(items: pa.Array) -> pa.Array:
        given_items.extend(items.to_pylist())
        return pa.array([2 * v for v in items.to_pylist()], pa.int64())

    assert with_items(lists, double, pa.list_(pa.int64())).to_pylist() == [[6], None, []]
    assert given_items == [3]


def test_what_cannot_be_cast_is_not_lost() -> None:
    with pytest.raises(pa.ArrowInvalid):
        mapped(pa.array([["x"]], pa.list_(pa.string())), list_of(TEXT), list_of(INT))


def test_members_and_numbers_that_old_rows_have_not_are_filled() -> None:
    was = Type("record", fields=(Field("a", INT, 1), Field("price", Type("decimal", 20, 10), 2)))
    kind = Field("kind", TEXT, 3, fill=Constant("film"))
    now = Type("record", fields=(kind, Field("price", Type("numeric"), 2), Field("seen", TEXT, 4, fill=UNKNOWN)))
    rows = pa.array([{"a": 1, "price": Decimal("0.0000000001")}, None, {"a": 2, "price": None}], was.arrow)
    plain = "0.0000000001"  # and not 1E-10, which Arrow makes of it
    assert mapped(rows, was, now).to_pylist() == [
        {"kind": "film", "price": plain, "seen": None}, None, {"kind": "film", "price": None, "seen": None},
    ]  # fmt: skip


def test_columns_and_members_keep_their_ids_by_name() -> None:
    first = numbered([("id", LONG), ("cast", list_of(PAIR))], [])
    assert [f.id for f in first] == [1, 2]
    changed = record_of(("b", TEXT), ("role", TEXT), ("a", INT))
    second = numbered([("cast", list_of(changed)), ("year", INT)], [first])
    assert [(f.name, f.id) for f in second] == [("cast", 2), ("year", 3)]
    assert [(f.name, f.id) for f in second[0].type.element.fields] == [("b", 2), ("role", 3), ("a", 1)]
    third = numbered([("cast", list_of(record_of(("role", TEXT), ("new", TEXT))))], [first, second])
    assert [(f.name, f.id) for f in third[0].type.element.fields] == [("role", 3), ("new", 4)]
    # What went and comes again under its name is another: rows of then still have its values. An id is never given twice.
    fourth = numbered([("year", TEXT), ("cast", list_of(record_of(("b", INT), ("new", TEXT))))], [first, second, third])
    assert [(f.name, f.id) for f in fourth] == [("year", 4), ("cast", 2)]
    assert [(f.name, f.id) for f in fourth[1].type.element.fields] == [("b", 5), ("new", 4)]
    back = numbered([("year", INT)], [first, fourth, second])  # an earlier version that came back is in force: it stands last
    assert [(f.name, f.id) for f in back] == [("year", 3)]


def test_integers_come_into_a_decimal_that_holds_them_whatever_their_type_could_hold() -> None:
    """A column that became narrower and then a decimal: its old events have the widest type, and values that fit."""
    for was, scale, precision in ((Type("int64"), 2, 14), (Type("int32"), 0, 3), (Type("int64"), 19, 38)):
        given = pa.array([7, None, -999], was.arrow)
        assert mapped(given, was, Type("decimal", precision, scale)).to_pylist() == [Decimal(7), None, Decimal(-999)]
    with pytest.raises(pa.ArrowInvalid):
        mapped(pa.array([10**12], pa.int64()), Type("int64"), Type("decimal", 13, 2))
