"""From a server's text to typed Arrow columns: `convert`. Each server's way of writing values is a `Writing`.

Arrow's casts take a whole column; only where one refuses are the values that no column type holds looked for. Those
become holes: null in the row, with the reason beside it. Design §3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.events.types import Type
from millstream.sources.octets import Cells, Index, Mask, Octets

YMD = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
CLOCK = r"(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
_SAID = {"NaN": "nan", "Infinity": "infinity", "-Infinity": "-infinity", "infinity": "infinity", "-infinity": "-infinity"}
_NONE = np.empty(0, np.int64)

_NIBBLE = np.zeros(256, np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)


@dataclass(frozen=True)
class Writing:
    """How a server writes values. `fits`: kind → what a column type can hold, as a regular expression of the whole text.
    `beyond`: kind → what it cannot hold and is a value all the same; None: everything else. `true` is the true boolean;
    `hex_prefix` how many bytes stand before the digits of bytes."""

    fits: Mapping[str, str]
    true: str
    hex_prefix: int
    beyond: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Converted:
    """`array` has the column's Arrow type. `holes` says why, for each row whose value it cannot hold; `misfits` are the rows whose text
    is no value of the type. All those are null in the array."""

    array: pa.Array
    holes: dict[int, str] = field(default_factory=dict)
    misfits: Index = field(default_factory=lambda: _NONE)


def convert(octets: Octets, cells: Cells, kind: Type, writing: Writing) -> Converted:
    """Raises nothing of a value: what is none of its type is among the misfits."""
    if cells.null.all():
        return Converted(pa.nulls(len(cells), kind.arrow))
    if kind.kind == "bytes":
        return Converted(_bytes(octets.text(cells.without_prefix(writing.hex_prefix))))
    text = octets.text(cells)
    try:
        return Converted(_cast(text, kind, writing))
    except pa.ArrowInvalid:
        return _cast_what_fits(text, kind, writing)


def _cast(text: pa.StringArray, kind: Type, writing: Writing) -> pa.Array:
    if kind.arrow == pa.string():
        return text
    if kind.kind == "boolean":
        return pc.equal(text, writing.true)
    if kind.kind == "time":
        # Arrow reads no time alone.
        dated = pc.binary_join_element_wise(pa.scalar("1970-01-01"), text, " ")
        return dated.cast(pa.timestamp("us")).cast(pa.int64()).cast(kind.arrow)
    return text.cast(kind.arrow)


def _cast_what_fits(text: pa.StringArray, kind: Type, writing: Writing) -> Converted:
    fits = np.ones(len(text), np.bool_)
    holes: dict[int, str] = {}
    misfits: list[int] = []
    if (pattern := writing.fits.get(kind.kind)) is not None:
        fits = _matches(text, pattern)
        refused = np.flatnonzero(~fits)
        others = text.take(pa.array(refused))
        known = np.ones(len(refused), np.bool_) if writing.beyond is None else _matches(others, writing.beyond.get(kind.kind, "^$"))
        misfits = refused[~known].tolist()
        said = others.filter(pa.array(known)).to_pylist()
        holes = {row: _SAID.get(value, "out_of_range") for row, value in zip(refused[known].tolist(), said, strict=True)}
    left = pc.if_else(pa.array(fits), text, None)
    try:
        return Converted(_cast(left, kind, writing), holes, np.array(misfits, np.int64))
    except pa.ArrowInvalid:
        bad = _refused(left, kind, writing, 0)
    keep = np.ones(len(text), np.bool_)
    keep[bad] = False
    array = _cast(pc.if_else(pa.array(keep), left, None), kind, writing)
    return Converted(array, holes, np.array(sorted([*misfits, *bad]), np.int64))


def _matches(text: pa.StringArray, pattern: str) -> Mask:
    """Null matches all."""
    found: Mask = pc.fill_null(pc.match_substring_regex(text, pattern), True).to_numpy(zero_copy_only=False)
    return found


def _refused(text: pa.StringArray, kind: Type, writing: Writing, first: int) -> list[int]:
    """The rows that Arrow will not cast, found by halves."""
    try:
        _cast(text, kind, writing)
    except pa.ArrowInvalid:
        if len(text) == 1:
            return [first]
        half = len(text) // 2
        return _refused(text.slice(0, half), kind, writing, first) + _refused(text.slice(half), kind, writing, first + half)
    return []


def _bytes(digits: pa.StringArray) -> pa.BinaryArray:
    """From hexadecimal digits, two a byte: all values lie side by side, so one pass serves the column."""
    rows = len(digits)
    ends = np.frombuffer(digits.buffers()[1], np.int32, rows + 1, digits.offset * 4)
    raw = np.frombuffer(digits.buffers()[2] or b"", np.uint8)[ends[0] : ends[-1]]
    octets = (_NIBBLE[raw[0::2]] << 4) | _NIBBLE[raw[1::2]]
    offsets = ((ends - ends[0]) // 2).astype(np.int32)
    valid = digits.buffers()[0] if digits.offset == 0 else None
    assert digits.offset == 0
    return pa.BinaryArray.from_buffers(pa.binary(), rows, [valid, pa.py_buffer(offsets), pa.py_buffer(octets.tobytes())])
