"""From the server's text to typed Arrow columns: `convert`. One place for both the stream and COPY, which write the same text.

Arrow's casts take a whole column; only where one refuses are the values that no column type holds looked for. Those
become holes: null in the row, with the reason beside it. Design §3.
Reference: PostgreSQL 18, "Date/Time Types" and "Numeric Types", under DateStyle ISO, TimeZone UTC, bytea_output hex.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.errors import Irrecoverable
from millstream.events.types import Type
from millstream.sources.postgres.octets import Cells, Octets

_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
# What a column type can hold, as the server writes it.
_FITS = {
    "decimal": r"^-?[0-9]+(?:\.[0-9]+)?$",
    "date": rf"{_DATE}$",
    "time": rf"^{_CLOCK}$",
    "timestamp": rf"{_DATE} {_CLOCK}$",
    "timestamptz": rf"{_DATE} {_CLOCK}\+00$",
}
_SAID = {"NaN": "nan", "Infinity": "infinity", "-Infinity": "-infinity", "infinity": "infinity", "-infinity": "-infinity"}

_NIBBLE = np.zeros(256, np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)


@dataclass(frozen=True)
class Converted:
    """`array` has the column's Arrow type. `holes` says why, for each row whose value it cannot hold."""

    array: pa.Array
    holes: dict[int, str] = field(default_factory=dict)


def convert(octets: Octets, cells: Cells, kind: Type) -> Converted:
    """Raises Irrecoverable("bad_value") on text that is no value of the type, which no server should write."""
    if cells.null.all():
        return Converted(pa.nulls(len(cells), kind.arrow))
    if kind.kind == "bytes":
        return Converted(_bytes(octets.text(cells.without_prefix(2))))
    text = octets.text(cells)
    try:
        return Converted(_cast(text, kind))
    except pa.ArrowInvalid:
        return _cast_what_fits(text, kind)


def _cast(text: pa.StringArray, kind: Type) -> pa.Array:
    if kind.arrow == pa.string():
        return text
    if kind.kind == "boolean":
        return pc.equal(text, "t")
    if kind.kind == "time":
        # Arrow reads no time alone.
        dated = pc.binary_join_element_wise(pa.scalar("1970-01-01"), text, " ")
        return dated.cast(pa.timestamp("us")).cast(pa.int64()).cast(kind.arrow)
    return text.cast(kind.arrow)


def _cast_what_fits(text: pa.StringArray, kind: Type) -> Converted:
    pattern = _FITS.get(kind.kind)
    if pattern is None:
        raise _bad_value(kind)
    fits = pc.match_substring_regex(text, pattern)
    refused = np.flatnonzero(pc.fill_null(pc.invert(fits), False).to_numpy(zero_copy_only=False))
    try:
        array = _cast(pc.if_else(pc.fill_null(fits, False), text, None), kind)
    except pa.ArrowInvalid:
        raise _bad_value(kind) from None
    said = text.take(pa.array(refused)).to_pylist()
    return Converted(array, {int(row): _SAID.get(value, "out_of_range") for row, value in zip(refused, said, strict=True)})


def _bad_value(kind: Type) -> Irrecoverable:
    return Irrecoverable(
        f"a value is not a {kind}: the server wrote text that Millstream cannot read",
        code="bad_value",
        cure="report this with the column's type; exclude the table until then",
    )


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
