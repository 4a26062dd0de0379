"""From laid out messages of one table, one shape of each image, to the columns of their events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.events.fills import filled
from millstream.events.types import Field
from millstream.sources.cockroach.described import Described
from millstream.sources.cockroach.hlc import LOGICAL_MAX, Hlc
from millstream.sources.cockroach.layout import Image, Laid, Part
from millstream.sources.cockroach.members import QUOTE, BadText, Text, Values
from millstream.sources.cockroach.values import convert
from millstream.sources.images import Hole, holes_column, positions
from millstream.sources.octets import Index, Mask

OPS = pa.array(["c", "u", "d", "r"])
CREATED, UPDATED, DELETED, TOLD = range(4)
_TEN_DIGITS_AND_POINT = 11


@dataclass(frozen=True)
class Times:
    """One time a row: uint64 nanoseconds, uint32 counters."""

    wall: npt.NDArray[np.uint64]
    logical: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.wall)

    def __getitem__(self, rows: Index) -> Times:
        return Times(self.wall[rows], self.logical[rows])

    def below(self, other: Times) -> Mask:
        found: Mask = (self.wall < other.wall) | ((self.wall == other.wall) & (self.logical < other.logical))
        return found

    def one(self, row: int) -> Hlc:
        return Hlc(int(self.wall[row]), int(self.logical[row]))

    @classmethod
    def all_at(cls, time: Hlc, rows: int) -> Times:
        return cls(np.full(rows, time.wall, np.uint64), np.full(rows, time.logical, np.uint32))


def times(text: Text, values: Values) -> Times:
    """Of strings that are times. Raises BadText on any other."""
    at, length = values.at + 1, values.length - 2
    length = length - (text.octets.u8[at + length - 1] == ord("?"))
    point = at + length - _TEN_DIGITS_AND_POINT
    wall, whole = text.octets.digits(at, point - at)
    logical, counted = text.octets.digits(point + 1, np.full(len(at), 10))
    good = whole & counted & (values.first == QUOTE) & (text.octets.u8[point] == ord(".")) & (logical <= LOGICAL_MAX)
    if not good.all():
        raise BadText("a time is not nanoseconds, a point and ten digits", int(values.at[~good][0]))
    return Times(wall, logical.astype(np.uint32))


def same_texts(text: Text, one: Values, other: Values) -> bool:
    """Whether two columns of times are the same in all rows, as those of live rows are."""
    words = text.octets.little64
    length = one.length
    if not len(length) or (length != length[0]).any() or (other.length != length[0]).any() or length[0] < 8:
        return False
    offsets = [*range(0, int(length[0]) - 8, 8), int(length[0]) - 8]
    return all((words[one.at + k] == words[other.at + k]).all() for k in reversed(offsets))


@dataclass(frozen=True)
class Group:
    """Rows of laid out messages, ascending, that have the same shape of each image; -1: none of them has the image."""

    rows: Index
    after: int
    before: int
    key_width: int | None

    def part(self, laid: Laid) -> Part:
        """Of the image that says what the rows look like now: after; before where all are gone."""
        return laid.after.parts[self.after] if self.after >= 0 else laid.before.parts[self.before]


def groups(laid: Laid, widths: Index | None, keep: Mask) -> list[Group]:
    """The rows to `keep`, each of which has an image, by what they look like. `widths`: of the keys, None where they are not known."""
    after, before = laid.after.shape_numbers(), laid.before.shape_numbers()
    # An image that is not there looks like any: inserts, updates and deletes of one schema go together.
    after = np.where((after < 0) & (before >= 0), _alike(laid.before, laid.after)[before], after)
    before = np.where((before < 0) & (after >= 0), _alike(laid.after, laid.before)[after], before)
    code = np.stack([after, before, np.zeros_like(after) if widths is None else widths])[:, keep]
    rows = np.flatnonzero(keep)
    if (code == code[:, :1]).all():
        kinds, number = code[:, :1], np.zeros(len(rows), np.int64)
    else:
        kinds, number = np.unique(code, axis=1, return_inverse=True)
    return [
        Group(rows[number.reshape(-1) == i], a, b, None if widths is None else width)
        for i, (a, b, width) in enumerate(kinds.T.tolist() if len(rows) else [])
    ]


def _alike(one: Image, other: Image) -> Index:
    """For each part of one image that of the other with its shape, -1 for none."""
    shapes = [p.shape for p in other.parts]
    return np.array([shapes.index(p.shape) if p.shape in shapes else -1 for p in one.parts] or [-1], np.int64)


def values_of(part: Part, rows: Index) -> dict[str, Values]:
    """The members of an image in these rows, by name."""
    if len(part.rows) == len(rows) and (part.rows == rows).all():
        return dict(zip(part.shape.names, part.values, strict=True))
    place = np.minimum(np.searchsorted(part.rows, rows), len(part.rows) - 1)
    place = np.where(part.rows[place] == rows, place, -1)
    return {name: values.take(place) for name, values in zip(part.shape.names, part.values, strict=True)}


@dataclass(frozen=True)
class Typed:
    """One image as a struct column. `misfits`: rows in which a value is none of its column's type as told; `misfit` one such column."""

    array: pa.Array
    holes: list[Hole]
    misfits: Index
    misfit: str = ""


def typed(
    text: Text,
    image: str,
    values: Mapping[str, Values],
    absent: Mask,
    shown: Described,
    target: Described,
    *,
    strict: bool,
) -> Typed:
    """An image whose members are `shown`'s columns, in the columns of `target`: by their ids.

    A column that it has not is what the target's field says of rows without it; of a projection's before image it is a hole. Unless
    `strict` a misfit is a hole too: "unavailable".
    """
    rows = len(absent)
    schema = target.schema
    if absent.all():
        return Typed(pa.nulls(rows, schema.arrow), [], np.empty(0, np.int64))
    by_id = {c.id: values[c.name] for c in shown.columns if c.name in values}
    children, holes, misfits, misfit = [], [], np.empty(0, np.int64), ""
    for field in schema.fields:
        if field.id not in by_id:
            children.append(filled(field, rows))
            if shown.projected:
                holes += [(row, image, field.name, "unavailable") for row in np.flatnonzero(~absent).tolist()]
            continue
        converted = convert(text, by_id[field.id], field.type)
        holes += [(row, image, field.name, why) for row, why in converted.holes.items()]
        if len(converted.misfits) and strict:
            misfits, misfit = np.union1d(misfits, converted.misfits), field.name
        else:
            holes += [(row, image, field.name, "unavailable") for row in converted.misfits.tolist()]
        children.append(_canonical(converted.array, field) if field.name in schema.key else converted.array)
    mask = pa.array(absent) if absent.any() else None
    return Typed(pa.StructArray.from_arrays(children, fields=list(schema.arrow), mask=mask), holes, misfits, misfit)


def _canonical(array: pa.Array, field: Field) -> pa.Array:
    """A key's values, such that those which CockroachDB holds for equal are the same here: 1.50 and 1.5, 0 and -0."""
    match field.type.kind:
        case "float32" | "float64":
            return pc.add(array, pa.scalar(0, array.type))  # -0 + 0 is 0
        case "numeric":
            plain = pc.replace_substring_regex(array, r"^(-?[0-9]+)\.0*$|^(-?[0-9]+\.[0-9]*[1-9])0+$", r"\1\2")
            odd = pc.fill_null(pc.match_substring_regex(plain, r"[eE]|^-0$"), False)
            if not pc.any(odd).as_py():
                return plain
            said = [_plain_digits(v) for v in plain.filter(odd).to_pylist()]
            return pc.replace_with_mask(plain, odd, pa.array(said, pa.string()))
    return array


def _plain_digits(number: str) -> str:
    """Without an exponent where that is short, so that it is as the same number is written without one."""
    value = Decimal(number)
    if not value:
        return "0"
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    if -1000 < exponent < 1000:
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{'-' if value < 0 else ''}{''.join(map(str, digits))[: len(digits) - zeros]}E{exponent + zeros}"


def moved(before: pa.StructArray, after: pa.StructArray, target: Described, updates: Mask) -> Mask:
    """The updates whose images have other keys: values that CockroachDB's key holds for equal and that differ here (collations)."""
    differs = np.zeros(len(updates), np.bool_)
    schema = target.schema
    for name in schema.key:
        j = schema.names.index(name)
        old, new = pc.struct_field(before, [j]), pc.struct_field(after, [j])
        if schema[name].type.kind == "list":
            continue
        unlike = pc.fill_null(pc.not_equal(old, new), False)
        if schema[name].type.kind.startswith("float"):
            unlike = pc.and_(unlike, pc.invert(pc.and_(pc.is_nan(old), pc.is_nan(new))))
            unlike = pc.fill_null(unlike, False)
        differs |= unlike.to_numpy(zero_copy_only=False)
    return differs & updates


def columns(updated: Times, op: npt.NDArray[np.int8], before: Typed, after: Typed, retold: pa.Array | None) -> dict[str, Any]:
    """The columns of `events.batch`, save what `retold` rows have in addition: theirs is the backfill's id, null in others."""
    rows = len(updated)
    given: dict[str, Any] = {
        "op": OPS.take(pa.array(op)),
        "before": before.array,
        "after": after.array,
        "incarnation": pa.array(np.ones(rows, np.uint32)),
        "major": pa.array(updated.wall),
        "minor": pa.array(updated.logical),
        "ts_us": pa.array((updated.wall // 1000).astype(np.int64)),
        "position": positions(updated.wall, updated.logical),
        "holes": holes_column([*before.holes, *after.holes], rows),
        "backfill": pa.nulls(rows, pa.string()) if retold is None else retold,
    }
    return given
