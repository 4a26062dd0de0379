"""Columns in another form: under other names, or in another version of their type."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pyarrow as pa

from millstream.events.fills import filled
from millstream.events.types import Type

_DIGITS_OF_INT64 = 19


def relabelled(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """The same values under the member names of `wanted`, which else is the array's own type. Members keep their order."""
    if _is(array.type, wanted):
        return array
    if pa.types.is_struct(wanted):
        members = [relabelled(array.field(i), field.type) for i, field in enumerate(wanted)]
        return _record(array, members, wanted)
    return with_items(array, lambda items: relabelled(items, wanted.value_type), wanted)


def mapped(array: pa.Array, was: Type, now: Type) -> pa.Array:
    """The values in another version of their type: members of records by id, absent ones as their fill says, what has none of them cast.

    Raises pa.ArrowInvalid or pa.ArrowNotImplementedError where Arrow cannot cast a value.
    """
    if was == now:
        return array
    if (old := was.element) is not None and (new := now.element) is not None:
        return with_items(array, lambda items: mapped(items, old, new), now.arrow)
    if was.kind == now.kind == "record":
        by_id = {f.id: (i, f.type) for i, f in enumerate(was.fields)}
        members = []
        for f in now.fields:
            place, type_ = by_id.get(f.id, (None, f.type))
            members.append(filled(f, len(array)) if place is None else mapped(_member(array, place, type_ != f.type), type_, f.type))
        return _record(array, members, now.arrow)
    if was.kind == "decimal" and now.kind == "numeric":
        return pa.array([None if v is None else format(Decimal(v), "f") for v in array.cast(pa.string()).to_pylist()], now.arrow)
    if now.kind == "decimal" and pa.types.is_integer(array.type):
        # Arrow asks whether the type has room for every integer, not whether these values fit.
        array = array.cast(pa.decimal256(_DIGITS_OF_INT64 + (now.scale or 0), now.scale or 0))
    return array.cast(now.arrow)


def _member(array: pa.StructArray, place: int, strict: bool) -> pa.Array:
    """`strict`: null where the record is, for what lies there instead is no value, and may not be cast."""
    return array.flatten()[place] if strict and array.null_count else array.field(place)


def _is(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Equal to the last name: Arrow holds two lists for equal whose items' fields are called differently."""
    return bool(given == wanted) and str(given) == str(wanted)


def _record(array: pa.StructArray, members: list[pa.Array], wanted: pa.StructType) -> pa.StructArray:
    return pa.StructArray.from_arrays(members, fields=list(wanted), mask=array.is_null() if array.null_count else None)


def with_items(array: pa.ListArray, change: Callable[[pa.Array], pa.Array], wanted: pa.ListType) -> pa.ListArray:
    """The lists with other items in the places of theirs. `change` is given the items of these rows only, whatever lies beside them."""
    ends = np.asarray(array.offsets)
    items = array.values.slice(int(ends[0]), int(ends[-1] - ends[0]))
    mask = array.is_null() if array.null_count else None
    return pa.ListArray.from_arrays(pa.array(ends - ends[0]), change(items), type=wanted, mask=mask)
