"""Arrow columns as columns of JSON text, one text a row, exact: what the file holds and what the index stores.

Integers, floats and booleans are JSON's own; decimals are strings (JSON numbers are floats to most readers), bytes base64,
dates and times ISO 8601 (timestamptz ends in Z, timestamp has no zone), uuid, json and numeric the text that they
are. A float that JSON has no number for is "NaN", "Infinity" or "-Infinity". Lists are arrays, records objects with every
member in order. Whole columns at a time; only bytes go by rows.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.events.nested import with_items
from millstream.events.types import Field, Type

_SHORT = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_FIRST_DAY, _END_DAY, _DAY_US = -719_528, 2_932_897, 86_400_000_000  # of years of four digits, counted from 1970
_CONTROLS = [(chr(c), _SHORT.get(chr(c), f"\\u{c:04x}")) for c in range(0x20)]


def quoted(texts: pa.Array) -> pa.Array:
    """Strings as JSON strings; null stays null."""
    for mark, written in (("\\", "\\\\"), ('"', '\\"')):
        texts = pc.replace_substring(texts, mark, written)
    if pc.any(pc.match_substring_regex(texts, r"[\x00-\x1f]")).as_py():
        for mark, written in _CONTROLS:
            texts = pc.replace_substring(texts, mark, written)
    return joined('"', texts, '"')


def joined(*parts: Any) -> pa.Array:
    """Texts side by side, strings and columns mixed; null where any is null."""
    return pc.binary_join_element_wise(*parts, "")


def values(column: pa.Array, type_: Type) -> pa.Array:
    """One column as JSON text; null stays null, in lists and records it is written."""
    match type_.kind:
        case "boolean" | "int32" | "int64":
            return pc.cast(column, pa.string())
        case "float32" | "float64":
            return _floats(column)
        case "bytes":
            return pa.array([None if v is None else f'"{b64encode(v).decode()}"' for v in column.to_pylist()], pa.string())
        case "decimal":
            return joined('"', plain_decimals(column), '"')
        case "date" | "time" | "timestamp" | "timestamptz":
            return joined('"', iso(column, type_.kind), '"')
        case "list":
            return _arrays(column, type_)
        case "record":
            return objects(column, type_.fields)
        case _:
            return quoted(column)


def _arrays(column: pa.ListArray, type_: Type) -> pa.Array:
    assert type_.element is not None
    element = type_.element
    texts = with_items(column, lambda items: pc.fill_null(values(items, element), "null"), pa.list_(pa.string()))
    return joined("[", pc.binary_join(texts, ","), "]")


def iso(column: pa.Array, kind: str) -> pa.Array:
    """Dates and times as ISO 8601 text, to the microsecond where they have one."""
    if kind in ("date", "timestamp", "timestamptz"):
        width, unit = (pa.int32(), 1) if kind == "date" else (pa.int64(), _DAY_US)
        ends = pc.min_max(column.cast(width)).as_py()
        # Arrow prints no other year than 0 to 9999, and counts years in 16 bits.
        if ends["min"] is not None and not (_FIRST_DAY * unit <= ends["min"] and ends["max"] < _END_DAY * unit):
            return _iso_any_year(column, kind)
    return pc.replace_substring(pc.cast(column, pa.string()), " ", "T")


def _iso_any_year(column: pa.Array, kind: str) -> pa.Array:
    unit, width = ("D", pa.int32()) if kind == "date" else ("us", pa.int64())
    numbers = pc.fill_null(column.cast(width), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    texts = pa.array(np.datetime_as_string(numbers.astype(f"datetime64[{unit}]")).astype(object), pa.string())
    if kind == "timestamptz":
        texts = joined(texts, "Z")
    return pc.if_else(pc.is_valid(column), texts, None)


def plain_decimals(column: pa.Array) -> pa.Array:
    """Decimals as text at their scale, never with an exponent."""
    texts = pc.cast(column, pa.string())
    odd = pc.match_substring(texts, "E")
    if not pc.any(odd).as_py():
        return texts
    plain = [None if t is None else format(Decimal(t), "f") for t in texts.to_pylist()]
    return pa.array(plain, pa.string())


def _floats(column: pa.Array) -> pa.Array:
    texts = pc.cast(column, pa.string())
    whole = pc.match_substring_regex(texts, r"^-?[0-9]+$")
    texts = pc.if_else(whole, joined(texts, ".0"), texts)
    finite = pc.is_finite(column)
    if pc.all(finite).as_py() is not False:
        return texts
    for said, name in (("nan", '"NaN"'), ("-inf", '"-Infinity"'), ("inf", '"Infinity"')):
        texts = pc.if_else(pc.and_(pc.invert(finite), pc.equal(texts, said)), name, texts)
    return texts


def named(names: Sequence[str], columns: Sequence[pa.Array], rows: int) -> pa.Array:
    """JSON objects with these members, in order; null members are written as null."""
    if not names:
        return pa.array(["{}"] * rows, pa.string())
    keys = quoted(pa.array(list(names), pa.string())).to_pylist()
    parts: list[Any] = []
    for place, (key, column) in enumerate(zip(keys, columns, strict=True)):
        parts += [f"{',' if place else '{'}{key}:", pc.fill_null(column, "null")]
    return joined(*parts, "}")


def objects(image: pa.StructArray, fields: Sequence[Field]) -> pa.Array:
    """Rows of an image (its columns are `fields`) as JSON objects; null where the row is null."""
    members = [values(column, f.type) for column, f in zip(image.flatten(), fields, strict=True)]
    return pc.if_else(pc.is_valid(image), named([f.name for f in fields], members, len(image)), None)


def lists(image: pa.StructArray, fields: Sequence[Field]) -> pa.Array:
    """Rows as JSON lists of their columns' values: a text that two different keys never share."""
    parts: list[Any] = []
    for place, (column, f) in enumerate(zip(image.flatten(), fields, strict=True)):
        parts += ["," if place else "[", pc.fill_null(values(column, f.type), "null")]
    return joined(*parts, "]")
