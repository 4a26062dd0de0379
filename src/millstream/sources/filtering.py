"""What a condition of `filters` means over rows in columns: SQL's three truth values, each type compared as CockroachDB compares it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.events.types import RowSchema, Type
from millstream.sources.filters import Compare, Condition, Either, Every, IsNull, IsTrue, Not, OneOf, Value, leaves, written
from millstream.sources.octets import Mask

_DIGITS_MAX = 38
_OPS: dict[str, Callable[[npt.NDArray[np.int8]], Mask]] = {
    "=": lambda sign: sign == 0,
    "<>": lambda sign: sign != 0,
    "<": lambda sign: sign < 0,
    "<=": lambda sign: sign <= 0,
    ">": lambda sign: sign > 0,
    ">=": lambda sign: sign >= 0,
}


def fits(condition: Condition, schema: RowSchema, ordered: Callable[[str], bool]) -> None:
    """Raises ValueError where a column is not there, or cannot be compared so. `ordered`: whether texts of a column have an order."""
    for leaf in leaves(condition):
        if leaf.column not in schema.names:
            raise ValueError(f"there is no column {leaf.column}")
        type_ = schema[leaf.column].type
        match leaf:
            case IsTrue():
                if type_.kind != "boolean":
                    raise ValueError(f"{leaf.column} is {type_}, and stands where a condition must")
            case Compare(column, op, value):
                meant(value, type_, column)
                if op not in ("=", "<>") and type_.kind == "text" and not ordered(column):
                    raise ValueError(f"{column} has an order of its own that is not known here; it takes = <> IN and IS NULL")
            case OneOf(column, values):
                for value in values:
                    meant(value, type_, column)


def meant(value: Value, type_: Type, column: str) -> Any:
    """The literal as a value of the type. Raises ValueError."""
    text = value.text
    with suppress(ValueError):  # said below, with the column
        match type_.kind, value.kind:
            case "boolean", "boolean":
                return text == "true"
            case (("int32" | "int64"), "number"):
                if not -(1 << 63) <= int(text) < 1 << 63:
                    raise ValueError
                return int(text)
            case (("decimal" | "numeric"), "number"):
                return _decimal(text)
            case (("float32" | "float64"), "number"):
                return float(text)
            case "text", "string":
                return text
            case "uuid", "string":
                return str(UUID(text))
            case "date", "string":
                if len(text) != len("2026-01-01"):
                    raise ValueError
                return date.fromisoformat(text)
            case (("timestamp" | "timestamptz"), "string"):
                at = datetime.fromisoformat(text)
                if (at.tzinfo is None) != (type_.kind == "timestamp"):
                    raise ValueError
                return at
    if type_.kind not in _WANTED:
        raise ValueError(f"{column} is {type_}, which is only asked IS [NOT] NULL")
    raise ValueError(f"{column} is {type_}, and {written(value)} is not {_WANTED[type_.kind]}")


_WANTED = {
    "boolean": "true or false",
    "int32": "a whole number of 64 bits",
    "int64": "a whole number of 64 bits",
    "decimal": f"a number of at most {_DIGITS_MAX} digits before the point, and as many behind it",
    "numeric": f"a number of at most {_DIGITS_MAX} digits before the point, and as many behind it",
    "float32": "a number",
    "float64": "a number",
    "text": "a 'string'",
    "uuid": "a '00000000-0000-0000-0000-000000000000'",
    "date": "a '2026-01-31'",
    "timestamp": "a '2026-01-31T12:00:00', without a zone",
    "timestamptz": "a '2026-01-31T12:00:00+00:00', with its offset",
}


def _decimal(text: str) -> Decimal:
    found = Decimal(text)
    _, digits, exponent = found.as_tuple()
    assert isinstance(exponent, int)
    if -exponent > _DIGITS_MAX or len(digits) + exponent > _DIGITS_MAX:
        raise ValueError
    return found


@dataclass(frozen=True)
class Cells:
    """A column's values, and what those are that its type cannot hold, by row: null in `array`, but not NULL."""

    array: pa.Array
    holes: Mapping[int, str]


def true(condition: Condition, schema: RowSchema, cells: Callable[[str], Cells], rows: int) -> Mask:
    """The rows for which it is true: neither false nor unknown."""
    return _evaluated(condition, schema, cells, rows)[0]


def _evaluated(condition: Condition, schema: RowSchema, cells: Callable[[str], Cells], rows: int) -> tuple[Mask, Mask]:
    """Where it is true, and where it is false."""
    match condition:
        case Not(of):
            yes, no = _evaluated(of, schema, cells, rows)
            return no, yes
        case Every(parts):
            found = [_evaluated(p, schema, cells, rows) for p in parts]
            return np.logical_and.reduce([y for y, _ in found]), np.logical_or.reduce([n for _, n in found])
        case Either(parts):
            found = [_evaluated(p, schema, cells, rows) for p in parts]
            return np.logical_or.reduce([y for y, _ in found]), np.logical_and.reduce([n for _, n in found])
        case IsNull(column):
            null = _nulls(cells(column))
            return null, ~null
        case IsTrue(column):
            array = cells(column).array
            return _mask(pc.fill_null(array, False)), _mask(pc.invert(pc.fill_null(array, True)))
        case Compare(column, op, value):
            sign, known = _sign(cells(column), schema[column].type, meant(value, schema[column].type, column))
            yes = _OPS[op](sign)
            return yes & known, ~yes & known
        case OneOf(column, values):
            yes, known = np.zeros(rows, np.bool_), np.ones(rows, np.bool_)
            for each in values:
                sign, known = _sign(cells(column), schema[column].type, meant(each, schema[column].type, column))
                yes |= sign == 0
            return yes & known, ~yes & known


def _nulls(cells: Cells) -> Mask:
    null = _mask(pc.is_null(cells.array)).copy()
    null[list(cells.holes)] = False
    return null


# NaN comes before every number, as PostgreSQL does not have it and CockroachDB does. What is only known to be out of range is neither.
_BEYOND = {"nan": -1, "-infinity": -1, "infinity": 1}


def _sign(cells: Cells, type_: Type, value: Any) -> tuple[npt.NDArray[np.int8], Mask]:
    """-1, 0, 1 where a cell comes before, is, or comes after the value; and where that is known."""
    array = cells.array
    known = _mask(pc.is_valid(array)).copy()
    if type_.kind == "numeric":
        coded = array.dictionary_encode()
        signs = np.array([_decimal_sign(Decimal(v), value) for v in coded.dictionary.to_pylist()] or [0], np.int8)
        sign = signs[pc.fill_null(coded.indices, 0).to_numpy(zero_copy_only=False)]
    else:
        array, against = _comparable(array, type_, value)
        less, equal = pc.less(array, against), pc.equal(array, against)
        if type_.kind.startswith("float"):
            less = pc.or_(less, pc.is_nan(array))
        sign = np.where(_mask(pc.fill_null(less, False)), -1, np.where(_mask(pc.fill_null(equal, False)), 0, 1)).astype(np.int8)
    for row, why in cells.holes.items():
        if why in _BEYOND:
            sign[row], known[row] = _BEYOND[why], True
    return sign, known


def _decimal_sign(cell: Decimal, value: Decimal) -> int:
    return -1 if cell.is_nan() or cell < value else int(cell > value)


def _comparable(array: pa.Array, type_: Type, value: Any) -> tuple[pa.Array, pa.Scalar]:
    match type_.kind:
        case "int32" | "int64":
            return array.cast(pa.int64()), pa.scalar(value, pa.int64())
        case "float32" | "float64":
            return array.cast(pa.float64()), pa.scalar(value, pa.float64())
        case "decimal":
            wide = pa.decimal256(76, max(type_.scale or 0, -value.as_tuple().exponent))
            return array.cast(wide), pa.scalar(value, wide)
    return array, pa.scalar(value, array.type)


def _mask(array: pa.Array) -> Mask:
    found: Mask = array.to_numpy(zero_copy_only=False).astype(np.bool_)
    return found


def holes_of(holes: Sequence[Sequence[Mapping[str, str]] | None], image: str) -> dict[str, dict[int, str]]:
    """By column, those of one image: row → why."""
    found: dict[str, dict[int, str]] = {}
    for row, said in enumerate(holes):
        for hole in said or ():
            if hole["image"] == image:
                found.setdefault(hole["field"], {})[row] = hole["why"]
    return found
