"""From the JSON values of a column to a typed Arrow column: `convert`. What a value is tells whether it can be one of the type.

Reference: CockroachDB 26.1, `tree.AsJSON`; what 22.1 and 26.1 wrote is in tests/golden/cockroach.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.events.types import Type
from millstream.sources import values as writings
from millstream.sources.cockroach.members import OPEN, QUOTE, Text, Values, elements, escapes_of
from millstream.sources.octets import PADDING, Cells, Index, Mask, Octets
from millstream.sources.values import CLOCK, YMD, Converted, Writing

_BC_OR_FAR = r"-?[0-9]{4,}-[0-9]{2}-[0-9]{2}"
_WRITING = Writing(
    fits={
        "decimal": r"^-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$",
        "float32": r"^(?:-?[0-9].*|NaN|-?Infinity)$",
        "float64": r"^(?:-?[0-9].*|NaN|-?Infinity)$",
        "date": rf"^{YMD}$",
        "time": rf"^{CLOCK}$",
        "timestamp": rf"^{YMD}T{CLOCK}$",
        "timestamptz": rf"^{YMD}T{CLOCK}Z$",
    },
    beyond={
        "decimal": r"^(?:NaN|-?Infinity)$",
        "date": rf"^(?:-?infinity|{_BC_OR_FAR}(?: BC)?)$",
        "time": r"^24:00:00(?:\.0+)?$",
        "timestamp": rf"^(?:-?infinity|{_BC_OR_FAR}T{CLOCK}(?: BC)?)$",
        "timestamptz": rf"^(?:-?infinity|{_BC_OR_FAR}T{CLOCK}Z(?: BC)?)$",
    },
    true="true",
    hex_prefix=3,  # \\x: the backslash is escaped
)
_DIGITS_IN_INT64 = 18
_NO_NUMBER = r"^(?:NaN|-?Infinity)$"
_HEX = r"^\\\\x(?:[0-9a-f]{2})*$"
_JSON_NULL = b'{"__crdb_json_null__": true}'

_DIGIT = np.zeros(256, np.bool_)
_DIGIT[np.frombuffer(b"-0123456789", np.uint8)] = True
_BOOLEAN = np.zeros(256, np.bool_)
_BOOLEAN[np.frombuffer(b"tf", np.uint8)] = True

# What stands after a backslash, and what both together mean.
_MEANT = np.arange(256, dtype=np.uint8)
_MEANT[np.frombuffer(b"bfnrt", np.uint8)] = np.frombuffer(b"\b\f\n\r\t", np.uint8)
_NIBBLE = np.zeros(256, np.int64)
_NIBBLE[np.frombuffer(b"0123456789abcdefABCDEF", np.uint8)] = [*range(16), *range(10, 16)]


def convert(text: Text, values: Values, kind: Type) -> Converted:
    """What is no value of the type, as the server writes it, is among the misfits. Where there is no value it is null."""
    null = values.null
    if null.all():
        return Converted(pa.nulls(len(values), kind.arrow))
    if kind.kind == "json":
        return Converted(_json(text, values, null))
    good = _TOKENS.get(kind.kind, _strings)(text, values) | null
    if not good.all():
        values = values.take(np.where(good, np.arange(len(values)), -1))
        null = values.null
    converted = _convert(text, values, null, kind)
    if good.all():
        return converted
    return Converted(converted.array, converted.holes, np.union1d(converted.misfits, np.flatnonzero(~good)))


def _convert(text: Text, values: Values, null: Mask, kind: Type) -> Converted:
    match kind.kind:
        case "list":
            assert kind.element is not None
            return _list(text, values, null, kind, kind.element)
        case "boolean":
            return Converted(pa.array(values.first == ord("t"), pa.bool_(), mask=null))
        case "text":
            return _text(text, values, null)
        case "int32" | "int64":
            return _integers(text, values, null, 31 if kind.kind == "int32" else 63)
        case "decimal" if (written := _at_scale(text, values, null, kind)) is not None:
            return Converted(written)
    return writings.convert(text.octets, _inside(values, null), kind, _WRITING)


def _inside(values: Values, null: Mask) -> Cells:
    """The values without the quotes of those that are strings."""
    string = values.first == QUOTE
    return Cells(np.where(null, 0, values.at + string), np.where(null, 0, values.length - 2 * string), null)


def whole(values: Values) -> Cells:
    """The values as they are written."""
    null = values.null
    return Cells(np.where(null, 0, values.at), np.where(null, 0, values.length), null)


# ---- what a value of a type is written as


def _strings(text: Text, values: Values) -> Mask:
    good: Mask = values.first == QUOTE
    return good


def _texts(text: Text, values: Values) -> Mask:
    """A composite type's value is an object, and nothing in its name says that it is none of an enum: its JSON is the text."""
    good: Mask = (values.first == QUOTE) | (values.first == OPEN)
    return good


def _numbers(text: Text, values: Values) -> Mask:
    good: Mask = _DIGIT[values.first]
    return good


def _numbers_or_none(text: Text, values: Values) -> Mask:
    good: Mask = _DIGIT[values.first]
    string = values.first == QUOTE
    return good | _said(text, values, string, _NO_NUMBER) if string.any() else good


def _hexadecimal(text: Text, values: Values) -> Mask:
    return _said(text, values, values.first == QUOTE, _HEX)


def _said(text: Text, values: Values, string: Mask, pattern: str) -> Mask:
    """Of the strings: those whose content matches."""
    found = pc.match_substring_regex(text.octets.text(_inside(values, ~string)), pattern)
    matches: Mask = pc.fill_null(found, False).to_numpy(zero_copy_only=False)
    return matches


_TOKENS: dict[str, Callable[[Text, Values], Mask]] = {
    "boolean": lambda _, values: _BOOLEAN[values.first],
    "int32": _numbers,
    "int64": _numbers,
    "float32": _numbers_or_none,
    "float64": _numbers_or_none,
    "decimal": _numbers_or_none,
    "numeric": _numbers_or_none,
    "text": _texts,
    "bytes": _hexadecimal,
    "list": lambda _, values: values.first == ord("["),
}


# ---- kinds of their own


def _integers(text: Text, values: Values, null: Mask, bits: int) -> Converted:
    negative = values.first == ord("-")
    magnitude, good = text.octets.digits(values.at + negative, values.length - negative)
    good &= magnitude < (np.uint64(1 << bits) + negative)
    numbers = magnitude.view(np.int64)
    numbers = np.where(negative, -numbers, numbers).astype(np.int32 if bits == 31 else np.int64)
    misfits = np.flatnonzero(~(good | null))
    return Converted(pa.array(numbers, mask=~good | null if len(misfits) or null.any() else None), misfits=misfits)


def _at_scale(text: Text, values: Values, null: Mask, kind: Type) -> pa.Array | None:
    """Decimals of at most 18 digits that are all written with the type's own scale, as they are by rule; None where one is not."""
    precision, scale = kind.precision or 0, kind.scale or 0
    if precision > _DIGITS_IN_INT64:
        return None
    negative = values.first == ord("-")
    at, length = values.at + negative, values.length - negative
    whole_, good = text.octets.digits(at, length - scale - 1 if scale else length)
    if scale:
        good &= whole_ < np.uint64(10 ** (precision - scale))  # of more digits the product may be what the type holds again
        point = at + length - scale - 1
        part, counted = text.octets.digits(point + 1, np.full(len(at), scale))
        whole_ = whole_ * np.uint64(10**scale) + part
        good &= counted & (text.octets.u8[point] == ord("."))
    if not (good & (whole_ < np.uint64(10**precision)) | null).all():
        return None
    words = np.empty((len(at), 2), np.int64)  # 128 bits, little-endian
    words[:, 0] = np.where(negative, -whole_.view(np.int64), whole_.view(np.int64))
    words[:, 1] = words[:, 0] >> 63
    valid = pa.py_buffer(np.packbits(~null, bitorder="little").tobytes()) if null.any() else None
    return pa.Array.from_buffers(kind.arrow, len(at), [valid, pa.py_buffer(words.tobytes())])


def _json(text: Text, values: Values, null: Mask) -> pa.StringArray:
    array = text.octets.text(whole(values))
    if _JSON_NULL not in text.octets.data:
        return array
    return pc.if_else(pc.equal(array, _JSON_NULL.decode()), "null", array)


def _list(text: Text, values: Values, null: Mask, kind: Type, element: Type) -> Converted:
    """One element that its type cannot hold makes a hole of the whole list: a list has no holes of its own."""
    rows = np.flatnonzero(~null)
    inner, found, count = elements(text, values.take(rows))
    converted = convert(inner, found, element)
    offsets = np.zeros(len(values) + 1, np.int32)
    offsets[rows + 1] = count
    np.cumsum(offsets, out=offsets)
    owner = np.repeat(rows, count)
    holes = {int(owner[i]): why for i, why in sorted(converted.holes.items(), reverse=True)}
    misfits = np.unique(owner[converted.misfits])
    gone = null.copy()
    gone[[*holes, *misfits.tolist()]] = True
    array = pa.ListArray.from_arrays(pa.array(offsets), converted.array, type=kind.arrow, mask=pa.array(gone))
    return Converted(array, holes, misfits)


def _text(text: Text, values: Values, null: Mask) -> Converted:
    cells = _inside(values, null)
    array = text.octets.text(cells)
    if not len(text.escapes):
        return Converted(array)
    held = np.searchsorted(text.escapes, cells.at + cells.length) > np.searchsorted(text.escapes, cells.at)
    held &= values.first == QUOTE
    if not held.any():
        return Converted(array)
    rows = np.flatnonzero(held)
    meant, lone = _unescaped(text.octets, cells.take(rows))
    array = pc.replace_with_mask(array, pa.array(held), meant)
    if not len(lone):
        return Converted(array)
    keep = np.ones(len(array), np.bool_)
    keep[rows[lone]] = False
    return Converted(pc.if_else(pa.array(keep), array, None), misfits=rows[lone])


def _unescaped(octets: Octets, cells: Cells) -> tuple[pa.StringArray, Index]:
    """What strings with escapes mean, and which of them have half of a surrogate pair, which is no character."""
    raw, begins = octets.packed(cells.at, cells.length)
    escapes = escapes_of(raw)
    kinds = raw[escapes + 1]
    meant = raw.copy()
    meant[escapes + 1] = _MEANT[kinds]
    keep = np.ones(len(raw), np.bool_)
    keep[escapes] = False
    lone = _characters(raw, escapes[kinds == ord("u")], meant, keep)
    kept = np.zeros(len(raw) + 1, np.int64)
    np.cumsum(keep, out=kept[1:])
    at = kept[begins]
    plain = Octets(meant[keep].tobytes() + PADDING)
    found = plain.text(Cells(at[:-1], np.diff(at), np.zeros(len(cells), np.bool_)))
    return found, np.unique(np.searchsorted(begins, lone, side="right") - 1)


def _characters(raw: npt.NDArray[np.uint8], escapes: Index, meant: npt.NDArray[np.uint8], keep: Mask) -> Index:
    """Writes the UTF-8 of each backslash-u escape, and of each pair of surrogates, in its place. Gives the places of lone surrogates.

    A character has at most four bytes, an escape six, so there is room.
    """
    digits = [_NIBBLE[raw[escapes + k]] for k in range(2, 6)]
    code = (digits[0] << 12) | (digits[1] << 8) | (digits[2] << 4) | digits[3]
    high, low = (code & 0xFC00) == 0xD800, (code & 0xFC00) == 0xDC00
    leads = np.zeros(len(code), np.bool_)
    leads[:-1] = high[:-1] & low[1:] & (np.diff(escapes) == 6)
    follows = np.zeros(len(code), np.bool_)
    follows[1:] = leads[:-1]
    lone: Index = escapes[(high & ~leads) | (low & ~follows)]
    whole_ = code.copy()
    whole_[leads] = 0x10000 + ((code[leads] - 0xD800) << 10) + (code[np.flatnonzero(leads) + 1] - 0xDC00)
    size = 1 + (whole_ >= 0x80).astype(np.int64) + (whole_ >= 0x800) + (whole_ >= 0x10000)
    size[follows] = 0
    for k in range(6):
        keep[escapes + k] = k < size
    lead = np.array([0, 0, 0xC0, 0xE0, 0xF0])
    for k in range(4):
        mine = size > k
        shift = 6 * (size[mine] - 1 - k)
        bits = whole_[mine] >> shift
        octet = np.where(k == 0, bits | lead[size[mine]], (bits & 0x3F) | 0x80)
        meant[escapes[mine] + k] = octet
    return lone
