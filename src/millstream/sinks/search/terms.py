"""Values as terms of the index: texts that sort as their values do, so that one kind of range serves all.

A term is a family's letter and the value in a form of its own, in signs that the index's range syntax leaves alone.
Numbers are exact to 400 digits, texts to 256 bytes; what is longer is cut there and marked, sorts right against all
shorter ones, and is told apart by looking at the document.

    number   d5; d6 EXPONENT DIGITS; d4 and the same turned round, for those below 0
    float    g and 16 hexadecimal digits: the bits of an IEEE double, turned so that they sort
    text     s and the UTF-8 bytes, hexadecimal
    boolean  b0 b1
    others   k day, m clock, p local, q instant: 19 digits, from 10^18 below 0 on
    (none)   r: there is something, whatever it is
"""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.queries.values import FAMILIES, Comparable, Family, number, plain
from millstream.sinks.jsontext import plain_decimals

LETTERS: dict[Family, str] = {
    "number": "d", "float": "g", "text": "s", "boolean": "b", "day": "k", "clock": "m", "local": "p", "instant": "q",
}  # fmt: skip
THERE = "r"
ABOVE = "~"
"""Sorts after every sign that a term is made of."""

TEXT_BYTES_MAX = 256
DIGITS_MAX = 400
_ORIGIN = 10**18
_EXPONENT_ORIGIN = 500_000
_TURNED = str.maketrans("0123456789", "jihgfedcba")
_TURNED_BACK = str.maketrans("jihgfedcba", "0123456789")


def term(family: Family, value: Comparable) -> tuple[str, bool]:
    """The term, and whether it is whole: a cut one stands for all longer values that begin so."""
    match family:
        case "number":
            assert isinstance(value, int | Decimal)
            return _number(Decimal(value))
        case "text":
            assert isinstance(value, str)
            return text_term(value)
        case "boolean":
            return ("b1" if value else "b0"), True
        case "float":
            return f"g{_float_bits(float(value)):016x}", True
    assert isinstance(value, int)
    return f"{LETTERS[family]}{value + _ORIGIN:019d}", True


def text_term(text: str) -> tuple[str, bool]:
    data = text.encode("utf-8", "surrogatepass")
    return (f"s{data.hex()}", True) if len(data) <= TEXT_BYTES_MAX else (f"s{data[:TEXT_BYTES_MAX].hex()}{ABOVE}", False)


def _number(value: Decimal) -> tuple[str, bool]:
    if not value:
        return "d5", True
    sign, digits, _ = plain(value).as_tuple()
    text, exponent = "".join(map(str, digits[:DIGITS_MAX])), value.adjusted()
    whole = len(digits) <= DIGITS_MAX
    if not sign:
        return f"d6{_EXPONENT_ORIGIN + exponent:06d}{text}{'' if whole else ABOVE}", whole
    return f"d4{_EXPONENT_ORIGIN - exponent:06d}{text.translate(_TURNED)}{ABOVE if whole else '!'}", whole


def _float_bits(value: float) -> int:
    if value != value:
        return 2**64 - 1
    bits: int = struct.unpack(">Q", struct.pack(">d", value))[0]
    return bits ^ (2**64 - 1) if bits >> 63 else bits | 1 << 63


def shown(text: str) -> Any:
    """A term's value as a document has it; a cut one ends in …."""
    rest = text[1:]
    match text[0]:
        case "d":
            return _shown_number(rest)
        case "g":
            return _shown_float(int(rest, 16))
        case "s":
            cut = rest.endswith(ABOVE)
            return bytes.fromhex(rest.rstrip(ABOVE)).decode("utf-8", "replace") + ("…" if cut else "")
        case "b":
            return rest == "1"
        case "r":
            return {}
    return _shown_time(text[0], int(rest) - _ORIGIN)


def _shown_number(rest: str) -> int | str:
    if rest == "5":
        return 0
    digits = rest[7:].rstrip("!~") if rest[0] == "6" else rest[7:].rstrip("!~").translate(_TURNED_BACK)
    exponent = int(rest[1:7]) - _EXPONENT_ORIGIN
    sign, scale = ("", exponent) if rest[0] == "6" else ("-", -exponent)
    value = Decimal(f"{sign}{digits}E{scale - len(digits) + 1}")
    return int(value) if value == value.to_integral_value() and len(digits) <= 38 else format(value, "f")


def _shown_float(bits: int) -> float | str:
    if bits == 2**64 - 1:
        return "NaN"
    raw = bits ^ (1 << 63) if bits >> 63 else bits ^ (2**64 - 1)
    value: float = struct.unpack(">d", struct.pack(">Q", raw))[0]
    return value if np.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _shown_time(letter: str, count: int) -> str:
    match letter:
        case "k":
            return str(np.datetime64(count, "D"))
        case "m":
            return str(np.datetime64(count, "us"))[11:].removesuffix(".000000")
    return str(np.datetime64(count, "us")).removesuffix(".000000") + ("Z" if letter == "q" else "")


# ---- whole columns


def terms(column: pa.Array, kind: str) -> pa.Array:
    """A column's values as terms; null stays null, and what has no place in its family is only there. Not of json and records."""
    if kind == "bytes":
        return pc.if_else(pc.is_valid(column), THERE, None)
    family = FAMILIES[kind]
    match family:
        case "number":
            if kind == "numeric":
                return _numerics(column)
            return _scaled(plain_decimals(column) if kind == "decimal" else pc.cast(column, pa.string()), getattr(column.type, "scale", 0))
        case "float":
            return _floats(column)
        case "text":
            return pa.array([None if t is None else text_term(t)[0] for t in column.to_pylist()], pa.string())
        case "boolean":
            return pc.if_else(column, "b1", "b0")
    width = pa.int32() if kind == "date" else pa.int64()
    counts = pc.cast(column.cast(width), pa.int64())
    return pc.binary_join_element_wise(LETTERS[family], _padded(pc.add(counts, _ORIGIN), 19), "")


def _padded(numbers: pa.Array, width: int) -> pa.Array:
    return pc.ascii_lpad(pc.cast(numbers, pa.string()), width, "0")


def _scaled(texts: pa.Array, scale: int) -> pa.Array:
    """As `_number`, for all at once: numbers as plain text, with `scale` digits after the point."""
    negative = pc.starts_with(texts, "-")
    digits = pc.ascii_ltrim(pc.replace_substring(texts, ".", ""), "-0")
    exponents = pc.cast(pc.subtract(pc.binary_length(digits), 1 + scale), pa.int64())
    zero = pc.equal(digits, "")
    digits = pc.ascii_rtrim(digits, "0")
    found = pc.binary_join_element_wise("d6", _padded(pc.add(exponents, _EXPONENT_ORIGIN), 6), digits, "")
    if pc.any(negative).as_py():
        turned = digits
        for a, b in zip("0123456789", "jihgfedcba", strict=True):
            turned = pc.replace_substring(turned, a, b)
        below = pc.binary_join_element_wise("d4", _padded(pc.subtract(_EXPONENT_ORIGIN, exponents), 6), turned, ABOVE, "")
        found = pc.if_else(negative, below, found)
    return pc.if_else(zero, "d5", found)


def _numerics(column: pa.Array) -> pa.Array:
    return pa.array([None if t is None else _number_text(t) for t in column.to_pylist()], pa.string())


def _number_text(text: str) -> str:
    value = number(text)
    return THERE if value is None else _number(value)[0]


def _floats(column: pa.Array) -> pa.Array:
    if pa.types.is_float32(column.type):  # 0.1 is 0.1, as the document says it
        column = pc.cast(pc.cast(column, pa.string()), pa.float64())
    raw = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False) + 0.0
    bits = raw.view(np.uint64)
    turned = np.where(bits >> np.uint64(63), ~bits, bits | np.uint64(1 << 63))
    turned[np.isnan(raw)] = np.uint64(2**64 - 1)
    texts = turned.byteswap().tobytes().hex()
    valid = column.is_valid().to_pylist()
    return pa.array([f"g{texts[i * 16 : i * 16 + 16]}" if ok else None for i, ok in enumerate(valid)], pa.string())
