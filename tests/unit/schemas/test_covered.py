"""What operations and verdicts promise of rows: what is covered is read, value for value; what is passed over loses nothing used."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from millstream.events.fills import fill_value
from millstream.events.nested import mapped
from millstream.events.types import Constant, Field, RowSchema, Type, list_of
from millstream.schemas.operations import covers, operations
from millstream.schemas.rules import default_verdict, gravest

TEXT = st.text(max_size=3)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "int32": st.sampled_from([0, -(2**31), 2**31 - 1]),
    "int64": st.sampled_from([0, -(2**63), 2**63 - 1]),
    "float32": st.floats(width=32, allow_nan=False),
    "float64": st.floats(allow_nan=False),
    "text": TEXT,
    "numeric": st.sampled_from(["0", "-1.50", "123456789012345678901234567890.5"]),
    "date": st.dates(),
    "timestamptz": st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(dt.UTC)),
}
FILLS = {"boolean": "t", "int32": "7", "int64": "7", "float32": "1.5", "float64": "1.5", "text": "x", "numeric": "1.5", "decimal": "1"}
SCALARS = [*map(Type, VALUES), *(Type("decimal", p, s) for p, s in ((4, 2), (6, 2), (9, 0), (10, 0), (21, 2)))]  # type: ignore[arg-type]


def values(type_: Type) -> st.SearchStrategy[Any]:
    if type_.element is not None:
        return st.lists(st.none() | values(type_.element), max_size=2)
    if type_.kind == "record":
        return st.fixed_dictionaries({f.name: st.none() | values(f.type) for f in type_.fields})
    if type_.kind == "decimal":
        assert type_.precision is not None and type_.scale is not None
        edge = Decimal(10**type_.precision - 1).scaleb(-type_.scale)
        return st.sampled_from([Decimal(0), edge, -edge])
    return VALUES[type_.kind]


@st.composite
def types(draw: st.DrawFn, depth: int = 2) -> Type:
    kind = draw(st.sampled_from(["scalar", "scalar", "scalar", *(["list", "record"] if depth else [])]))
    if kind == "scalar":
        return draw(st.sampled_from(SCALARS))
    if kind == "list":
        return list_of(draw(types(depth - 1)))
    return Type("record", fields=draw(members(depth - 1)))


@st.composite
def members(draw: st.DrawFn, depth: int) -> tuple[Field, ...]:
    count = draw(st.integers(1, 3))
    ids = draw(st.permutations(range(1, 6)))[:count]
    names = draw(st.permutations("abcde"))[:count]
    made = []
    for name, id_ in zip(names, ids, strict=True):
        type_ = draw(types(depth))
        fill = Constant(FILLS[type_.kind]) if type_.kind in FILLS and draw(st.booleans()) else None
        made.append(Field(name, type_, id_, fill=fill))
    return tuple(made)


@st.composite
def later(draw: st.DrawFn, fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """Another version: each field kept, renamed, of another type or gone; one more; in any order."""
    kept = []
    for f in fields:
        match draw(st.sampled_from(["", "", "rename", "type", "type", "inside", "drop"])):
            case "":
                kept.append(f)
            case "rename":
                kept.append(Field(f"{f.name}_", f.type, f.id))
            case "type":
                kept.append(Field(f.name, draw(other(f.type)), f.id))
            case "inside":
                kept.append(Field(f.name, draw(inside(f.type)), f.id))
    if draw(st.booleans()) or not kept:
        type_ = draw(types(1))
        kept.append(Field("new", type_, 9, fill=Constant(FILLS[type_.kind]) if type_.kind in FILLS else None))
    return tuple(draw(st.permutations(kept)))


@st.composite
def inside(draw: st.DrawFn, type_: Type) -> Type:
    if type_.element is not None:
        return list_of(draw(inside(type_.element)))
    if type_.kind == "record":
        return Type("record", fields=draw(later(type_.fields)))
    return draw(other(type_))


def other(type_: Type) -> st.SearchStrategy[Type]:
    """Mostly a type that is said to hold it, or to be held by it."""
    wider = [t for t in SCALARS if t != type_ and covers(t, type_)]
    narrower = [t for t in SCALARS if t != type_ and covers(type_, t)]
    return st.sampled_from([type_, *wider * 6, *narrower * 3, *SCALARS[:2]])


@st.composite
def versions(draw: st.DrawFn) -> tuple[RowSchema, RowSchema]:
    fields = draw(members(2))
    return RowSchema(fields, ()), RowSchema(draw(later(fields)), ())


def same(value: Any, was: Type, got: Any, now: Type) -> bool:
    """Whether they say the same, as far as both types have it."""
    if value is None or got is None:
        return value is got
    if was.element is not None and now.element is not None:
        inner = zip(value, got, strict=True)
        return len(value) == len(got) and all(same(v, was.element, g, now.element) for v, g in inner)
    if was.kind == now.kind == "record":
        by_id = {f.id: f for f in was.fields}
        return all(same(value[by_id[f.id].name], by_id[f.id].type, got[f.name], f.type) for f in now.fields if f.id in by_id)
    if was.kind == now.kind or "text" in (was.kind, now.kind):
        return bool(value == got)
    return Decimal(value) == Decimal(got)


def rows(draw: st.DrawFn, schema: RowSchema) -> pa.Array:
    return pa.array(draw(st.lists(values(Type("record", fields=schema.fields)), max_size=4)), schema.arrow)


SLOW = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


@SLOW
@given(versions(), st.data())
def test_what_is_covered_is_read_value_for_value(pair: tuple[RowSchema, RowSchema], data: st.DataObject) -> None:
    old, new = pair
    assume(not any(o.uncovered for o in operations(old, new)))
    was, now = Type("record", fields=old.fields), Type("record", fields=new.fields)
    written = rows(data.draw, old)
    read = mapped(written, was, now)
    assert all(same(v, was, g, now) for v, g in zip(written.to_pylist(), read.to_pylist(), strict=True))
    added = [f for f in new.fields if f.id not in {o.id for o in old.fields}]
    for f in added:
        assert read.field(f.name).to_pylist() == [None if f.fill is None else fill_value(f.type, FILLS[f.type.kind]).as_py()] * len(written)


@SLOW
@given(versions(), st.data())
def test_what_a_pinned_reader_passes_over_it_reads_in_its_own_schema(pair: tuple[RowSchema, RowSchema], data: st.DataObject) -> None:
    accepted, new = pair
    used = frozenset(data.draw(st.sets(st.sampled_from(accepted.names), min_size=1)))
    verdict = gravest(default_verdict(o, o.column in used, o.column in used, follow=False) for o in operations(accepted, new))
    assume(verdict == "ignore")
    mine = RowSchema(tuple(f for f in accepted.fields if f.name in used), ())
    was, now = Type("record", fields=new.fields), Type("record", fields=mine.fields)
    written = rows(data.draw, new)
    read = mapped(written, was, now)
    assert {f.id for f in mine.fields} <= {f.id for f in new.fields}
    assert all(same(v, was, g, now) for v, g in zip(written.to_pylist(), read.to_pylist(), strict=True))
