"""Typed operations between row schemas: found one by one, in chains at random, and never where nothing changed."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.events.fills import fill_value
from millstream.events.nested import mapped
from millstream.events.types import UNKNOWN, Constant, Field, RowSchema, Type, list_of, record_of
from millstream.schemas.operations import covers, operations

INT, LONG, TEXT = Type("int32"), Type("int64"), Type("text")
PAIR = record_of(("a", INT), ("b", TEXT))
OLD = list_of(Type("record", fields=(Field("a", INT, 1), Field("b", TEXT, 2), Field("gone", list_of(INT), 3))))
NEW = list_of(Type("record", fields=(Field("name", TEXT, 2), Field("c", list_of(LONG), 4), Field("a", LONG, 1))))
MOVIE = RowSchema((Field("id", LONG, 1), Field("title", TEXT, 2), Field("price", Type("decimal", 6, 2), 3)), ("id",))


def row(type_: Type) -> RowSchema:
    return RowSchema((Field("id", LONG, 1), Field("cast", type_, 2)), ("id",))


def changed(name: str, /, **attributes: Any) -> RowSchema:
    return RowSchema(tuple(replace(f, **attributes) if f.name == name else f for f in MOVIE.fields), MOVIE.key)


@pytest.mark.parametrize(
    ("new", "kind", "said", "adds", "destroys"),
    [
        (RowSchema((*MOVIE.fields, Field("n", INT, 4)), ("id",)), "add", "added n (int32)", True, False),
        (
            RowSchema((*MOVIE.fields, Field("n", INT, 4, fill=Constant("7"))), ("id",)),
            "add", "added n (int32, old rows have '7')", True, False,
        ),
        (RowSchema(MOVIE.fields[:2], ("id",)), "drop", "dropped price", False, True),
        (changed("title", name="name"), "rename", "renamed title (now name)", False, False),
        (changed("price", type=Type("decimal", 8, 2)), "widen", "widened price (decimal(6,2) is now decimal(8,2))", True, False),
        (changed("price", type=Type("decimal", 6, 1)), "retype", "retyped price (decimal(6,2) is now decimal(6,1))", False, True),
        (changed("price", type=Type("decimal", 5, 1)), "narrow", "narrowed price (decimal(6,2) is now decimal(5,1))", False, True),
        (changed("price", type=TEXT), "retype", "retyped price (decimal(6,2) is now text)", False, True),
        (changed("title", nullable=False), "not_null", "title is never null now", False, False),
        (changed("title", fill=UNKNOWN), "default", "old rows have values not said yet in title", False, False),
        (changed("title", doc="what it is called"), "doc", "described title", False, False),
        (changed("title", tags=("pii", "free")), "tags", "tagged title (pii, free)", False, False),
        (RowSchema(MOVIE.fields, ("id", "title")), "rekey", "rekeyed id (now id, title)", False, True),
        (RowSchema(MOVIE.fields[::-1], ("id",)), "reorder", "columns in another order", False, False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_operation_alone(new: RowSchema, kind: str, said: str, adds: bool, destroys: bool) -> None:
    (found,) = operations(MOVIE, new)
    assert (found.kind, str(found), found.adds, found.destroys) == (kind, said, adds, destroys)


def test_what_was_not_null_may_be_null_again() -> None:
    (found,) = operations(changed("title", nullable=False), MOVIE)
    assert (found.kind, str(found), found.adds) == ("nullable", "title may be null now", True)


def test_a_column_of_the_key_says_so() -> None:
    assert [o.in_key for o in operations(MOVIE, changed("id", type=INT))] == [True]
    assert [o.in_key for o in operations(MOVIE, changed("price", type=TEXT))] == [False]


def test_members_of_records_have_operations_of_their_own() -> None:
    found = operations(row(OLD), row(NEW))
    assert [str(o) for o in found] == [
        "dropped cast.gone", "renamed cast.b (now name)", "added cast.c (list(int64))", "widened cast.a (int32 is now int64)",
        "cast in another order",
    ]  # fmt: skip
    assert {o.kind for o in found} == {"nested"}
    assert {o.column for o in found} == {"cast"}
    assert [o.leaf.kind for o in found] == ["drop", "rename", "add", "widen", "reorder"]
    assert [o.path for o in found][:2] == [("cast", "gone"), ("cast", "b")]
    deep = [str(o) for o in operations(row(record_of(("in", OLD))), row(record_of(("in", NEW))))]
    assert deep[1] == "renamed cast.in.b (now name)"


def test_elements_and_whole_records() -> None:
    assert [str(o) for o in operations(row(list_of(INT)), row(list_of(LONG)))] == ["widened cast (list(int32) is now list(int64))"]
    assert [str(o) for o in operations(row(PAIR), row(TEXT))] == ["retyped cast (record(a int32, b text) is now text)"]


SCALARS = [
    *map(Type, ("boolean", "int32", "int64", "float32", "float64", "text", "bytes", "date", "time", "timestamp", "timestamptz", "uuid")),  # type: ignore[arg-type]
    *map(Type, ("json", "numeric")),  # type: ignore[arg-type]
    *(Type("decimal", p, s) for p, s in ((4, 2), (6, 2), (6, 4), (9, 0), (10, 0), (12, 2), (18, 0), (19, 0), (38, 10), (50, 10))),
]  # fmt: skip
_EDGES = {
    "int32": ("-2147483648", "2147483647"),
    "int64": ("-9223372036854775808", "9223372036854775807"),
    "float32": ("3.4028234663852886e38", "1e-45"),
    "boolean": ("t",),
    "numeric": ("123456789012345678901234567890123456789012345678901234567890.5",),
    "float64": ("1.7976931348623157e308",),
}


def edges(type_: Type) -> tuple[str, ...]:
    """The texts of its furthest values."""
    if type_.kind == "decimal":
        assert type_.precision is not None and type_.scale is not None
        whole, part = "9" * (type_.precision - type_.scale) or "0", "9" * type_.scale
        return (f"-{whole}.{part}" if part else f"-{whole}",)
    return _EDGES.get(type_.kind, ())


@pytest.mark.parametrize("wide", SCALARS, ids=str)
def test_cover_says_what_arrow_can_hold(wide: Type) -> None:
    """Of numbers: a type covers another exactly when the furthest values of that are cast into it and say the same number."""
    numbers = {"int32", "int64", "float32", "float64", "decimal", "numeric"}
    for narrow in SCALARS:
        if narrow.kind not in numbers or wide.kind not in numbers:
            assert covers(wide, narrow) is (wide == narrow), narrow
            continue
        if "float" in narrow.kind and wide.kind in ("decimal", "numeric", "int32", "int64"):
            assert not covers(wide, narrow)  # a float's values include NaN, and are not decimal ones
            continue
        if narrow.kind == "decimal" and "float" in wide.kind:
            assert not covers(wide, narrow)
            continue
        assert covers(wide, narrow) is all(holds(wide, narrow, text) for text in edges(narrow)), narrow


def holds(wide: Type, narrow: Type, text: str) -> bool:
    value = pa.array([fill_value(narrow, text).as_py()], narrow.arrow)
    try:
        (cast,) = mapped(value, narrow, wide).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    said = Decimal(cast) == Decimal(value[0].as_py())
    return said and not (narrow.kind == "numeric" and wide.kind != "numeric")


def test_records_and_lists_are_covered_by_their_members() -> None:
    assert covers(list_of(LONG), list_of(INT)) and not covers(list_of(INT), list_of(LONG))
    assert not covers(list_of(LONG), INT) and not covers(LONG, list_of(INT))
    assert covers(record_of(("x", LONG), ("y", TEXT), ("z", INT)), PAIR)
    assert not covers(PAIR, record_of(("x", INT), ("y", TEXT), ("z", INT)))


types = st.sampled_from(SCALARS)
types = st.recursive(
    types,
    lambda inner: (
        inner.map(list_of) | st.lists(inner, min_size=1, max_size=3).map(lambda ts: record_of(*((f"m{i}", t) for i, t in enumerate(ts))))
    ),
    max_leaves=4,
)
fills = st.none() | st.just(UNKNOWN) | st.text(max_size=3).map(Constant)
fields = st.builds(
    Field,
    name=st.sampled_from("abcdef"),
    type=types,
    id=st.integers(1, 8),
    nullable=st.booleans(),
    fill=fills,
    doc=st.sampled_from(("", "said")),
    tags=st.sampled_from(((), ("pii",))),
)
schemas = st.lists(fields, min_size=1, max_size=5, unique_by=(lambda f: f.name, lambda f: f.id)).flatmap(
    lambda fs: st.lists(st.sampled_from([f.name for f in fs]), unique=True).map(lambda key: RowSchema(tuple(fs), tuple(key)))
)


@settings(max_examples=80, deadline=None)
@given(schemas, schemas)
def test_there_are_operations_exactly_where_schemas_differ(old: RowSchema, new: RowSchema) -> None:
    operations_tell_the_difference(old, new)


@pytest.mark.long
@settings(max_examples=2_000, deadline=None)
@given(schemas, schemas)
def test_there_are_operations_exactly_where_many_more_schemas_differ(old: RowSchema, new: RowSchema) -> None:
    operations_tell_the_difference(old, new)


def operations_tell_the_difference(old: RowSchema, new: RowSchema) -> None:
    found = operations(old, new)
    assert (found == ()) is (old == new)
    assert operations(old, old) == ()
    assert len({str(o) for o in found}) == len(found) and all(str(o) for o in found)
    # What one way adds, the other takes away.
    back = operations(new, old)
    for there, here in (
        ("add", "drop"),
        ("drop", "add"),
        ("rename", "rename"),
        ("retype", "retype"),
        ("widen", "narrow"),
        ("rekey", "rekey"),
    ):
        assert sum(o.leaf.kind == there for o in found) == sum(o.leaf.kind == here for o in back)
