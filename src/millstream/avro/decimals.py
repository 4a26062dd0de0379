"""Avro's decimals (big-endian two's complement, as short as may be) beside Arrow's (little-endian, 16 or 32 bytes)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.avro.columns import Mask, from_fixed
from millstream.avro.varint import Longs, Octets, Words

# One more byte per eight bits: |value| at or above these needs 2, 3 … bytes (a sign bit always has room).
_THRESHOLDS = [np.uint64(1 << (8 * k + 7)) for k in range(8)]


def encode(words: npt.NDArray[np.uint64]) -> tuple[Octets, npt.NDArray[np.uint8]]:
    """The bytes of decimals given as (rows, 2 or 4) little-endian words: a (rows, width) matrix in which each value
    stands at the right end, and its length. `words` must not be empty.

    The length has room for the sign bit of the value's magnitude, as the common Avro libraries write it.
    """
    negative = words[:, -1].view(np.int64) < 0
    low = words[:, 0].view(np.int64)
    if (words[:, 1:] == (low >> 63).view(np.uint64).reshape(-1, 1)).all():
        lengths = _lengths_of_word(np.abs(low).view(np.uint64))
        width = int(lengths.max())
        if width <= 8:
            return low.astype(">i8").view(np.uint8).reshape(-1, 8)[:, 8 - width :], lengths
    octets = np.ascontiguousarray(words[:, ::-1].astype(">u8")).view(np.uint8).reshape(len(words), -1)
    lengths = _lengths_of_octets(_magnitude(octets, negative))
    # 2^(8n-1) as a magnitude asks for a byte more than even the type's own width has: one sign byte in front.
    sign = np.where(negative, np.uint8(255), np.uint8(0)).reshape(-1, 1)
    octets = np.concatenate([sign, octets], axis=1)
    width = int(lengths.max())
    return octets[:, octets.shape[1] - width :], lengths


def encode_fixed(words: npt.NDArray[np.uint64], size: int) -> tuple[Octets, Mask]:
    """The bytes of decimals in `size` bytes, and which of them have room there."""
    octets = np.ascontiguousarray(words[:, ::-1].astype(">u8")).view(np.uint8).reshape(len(words), -1)
    sign = np.where(octets[:, :1] & 0x80, np.uint8(255), np.uint8(0))
    missing = size - octets.shape[1]
    if missing >= 0:
        return np.concatenate([np.repeat(sign, missing, axis=1), octets], axis=1), np.ones(len(words), np.bool_)
    kept = octets[:, -missing:]
    same_sign = np.where(kept[:, :1] & 0x80, np.uint8(255), np.uint8(0)) == sign if size else sign == 0
    return kept, (octets[:, :-missing] == sign).all(axis=1) & same_sign[:, 0]


def _lengths_of_word(magnitude: Words) -> npt.NDArray[np.uint8]:
    lengths = np.ones(len(magnitude), np.uint8)
    largest = magnitude.max()
    for threshold in _THRESHOLDS:
        if largest < threshold:
            break
        lengths += magnitude >= threshold
    return lengths


def _magnitude(octets: Octets, negative: Mask) -> Octets:
    """|value| of big-endian two's complement rows: inverted and one more, where negative."""
    flipped = np.where(negative.reshape(-1, 1), ~octets, octets)
    # Adding one turns the trailing run of 255s into zeros and raises the byte before it.
    carries = np.cumprod((flipped == 255)[:, ::-1], axis=1, dtype=np.uint8)[:, ::-1]
    raised = np.concatenate([carries[:, 1:], np.ones((len(octets), 1), np.uint8)], axis=1)
    return np.where(negative.reshape(-1, 1), flipped + raised, flipped)


def _lengths_of_octets(magnitude: Octets) -> npt.NDArray[np.uint8]:
    width = magnitude.shape[1]
    first = np.argmax(magnitude != 0, axis=1)
    top = magnitude[np.arange(len(magnitude)), first]
    lengths = width - first + (top >> 7)
    return np.where(top == 0, 1, lengths).astype(np.uint8)


def decode(
    arrow: pa.DataType, octets: Octets, words: Words, starts: Longs, lengths: Longs, valid: Mask | None
) -> tuple[pa.Array, Mask | None]:
    """The decimals whose big-endian bytes begin at `starts`, and which of them the type cannot hold (None: all fit).

    No bytes at all are zero. Rows that are not valid must have length 0. Eight bytes before every value must be readable.
    """
    count = arrow.bit_width // 64
    rows = len(starts)
    ends = starts + lengths
    longest = int(lengths.max()) if rows else 0
    fits = _sign_extended(octets, starts, lengths, count * 8) if longest > count * 8 else None
    result = np.empty((rows, count), np.int64)
    for k in range(count):
        result[:, k] = _word(words, ends, lengths, k) if k * 8 < longest else (result[:, k - 1] >> 63 if k else 0)
    array = from_fixed(arrow, result.reshape(-1).view(f"V{count * 8}") if rows else result.view(np.uint8).reshape(-1), valid)
    if fits is None and longest <= _bytes_that_fit(arrow.precision):
        return array, None
    bad = _beyond(array, arrow.precision)
    if fits is not None:
        bad |= ~fits
    return array, bad if bad.any() else None


def _word(words: Words, ends: Longs, lengths: Longs, k: int) -> Longs:
    """The k-th 64 bits from the right of each value, its sign carried on to the left."""
    have = np.clip(lengths - 8 * k, 0, 8)
    # The place of a word of which no byte is there: the value's own first bytes, for the sign.
    at = np.maximum(ends - 8 * (k + 1), ends - np.maximum(lengths, 0) - 8)
    word = words[at].byteswap().view(np.int64)
    none = have == 0
    shift = np.where(none, 0, (8 - have) * 8)
    value = (word << shift) >> shift
    if none.any():
        value = np.where(none, _signs(words, ends, lengths), value)
    return value


def _signs(words: Words, ends: Longs, lengths: Longs) -> Longs:
    """0 or -1: the sign of each value; 0 where there is no byte."""
    first = (words[ends - lengths] & np.uint64(0x80)) != 0
    return np.where(first & (lengths > 0), np.int64(-1), np.int64(0))


def _sign_extended(octets: Octets, starts: Longs, lengths: Longs, width: int) -> Mask:
    """Whether the bytes beyond `width` only repeat the sign. Row by row: no writer makes such values."""
    fits = np.ones(len(starts), np.bool_)
    for row in np.flatnonzero(lengths > width):
        extra = octets[starts[row] : starts[row] + lengths[row] - width + 1]
        fits[row] = (extra[:-1] == (255 if extra[-1] & 0x80 else 0)).all()
    return fits


def _bytes_that_fit(precision: int) -> int:
    """The most bytes of which every value has at most `precision` digits."""
    return int(((10**precision).bit_length() - 1) // 8)


def _beyond(array: pa.Array, precision: int) -> Mask:
    """Which values have more than `precision` digits."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        wide = [False] * len(array)
        width = array.type.bit_width // 8
        data = array.buffers()[1].to_pybytes()
        for row, valid in enumerate(array.is_valid().to_pylist()):
            value = int.from_bytes(data[row * width : (row + 1) * width], "little", signed=True)
            wide[row] = valid and abs(value) >= 10**precision
        return np.array(wide, np.bool_)
    return np.zeros(len(array), np.bool_)
