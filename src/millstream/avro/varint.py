"""Avro's zigzag varints, a whole column at a time. Knows bytes and integers only.

Eight 7-bit groups are spread over, or gathered from, one 64-bit word in three shifts, so a value costs about the
same whatever its length; the ninth and tenth byte are rare and go aside.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Octets = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

BYTES_MAX = 10


def _u(value: int) -> np.uint64:
    return np.uint64(value)


_CONTINUE = _u(0x8080808080808080)
_GROUPS = _u(0x7F7F7F7F7F7F7F7F)
_EVEN7, _ODD7 = _u(0x007F007F007F007F), _u(0x7F007F007F007F00)
_EVEN14, _ODD14 = _u(0x00003FFF00003FFF), _u(0x3FFF00003FFF0000)
_EVEN28, _ODD28 = _u(0x000000000FFFFFFF), _u(0x0FFFFFFF00000000)
_ONE, _TWO, _THREE, _FOUR = _u(1), _u(2), _u(3), _u(4)
_THRESHOLDS = [_u(1 << (7 * k)) for k in range(BYTES_MAX)]
# The continuation bits of a varint of n bytes, by n (of its first eight bytes).
_CONTINUATION = np.array([0] + [0x8080808080808080 & ((1 << (8 * min(n - 1, 8))) - 1) for n in range(1, BYTES_MAX + 1)], np.uint64)
_BYTE_NUMBERS = np.arange(BYTES_MAX, dtype=np.uint8)


def zigzag(values: Longs) -> Words:
    return ((values << 1) ^ (values >> 63)).view(np.uint64)


def encode(values: Longs) -> tuple[Octets, npt.NDArray[np.uint8] | None]:
    """The varints of `values`: a (rows, width) matrix and each row's length, None where all have the full width.

    Bytes past a row's length mean nothing. `values` must not be empty.
    """
    raw = zigzag(values)
    width = _length(int(raw.max()))
    if width == 1:
        return raw.astype(np.uint8).reshape(-1, 1), None
    lengths = None
    if _length(int(raw.min())) != width:
        lengths = np.ones(len(raw), np.uint8)
        for k in range(1, width):
            lengths += raw >= _THRESHOLDS[k]
    return _spread(raw, width, lengths), lengths


def _length(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))


def _spread(raw: Words, width: int, lengths: npt.NDArray[np.uint8] | None) -> Octets:
    low = raw & _u((1 << 56) - 1)
    word = (low & _EVEN28) | ((low << _FOUR) & _ODD28)
    word = (word & _EVEN14) | ((word << _TWO) & _ODD14)
    word = (word & _EVEN7) | ((word << _ONE) & _ODD7)
    word |= _CONTINUATION[width] if lengths is None else _CONTINUATION[lengths]
    octets = word.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
    if width <= 8:
        return octets[:, :width]
    top = (raw >> _u(56)).astype(np.uint8)
    last = top >> 7
    return np.concatenate([octets, ((top & 0x7F) | (last << 7)).reshape(-1, 1), last.reshape(-1, 1)], axis=1)[:, :width]


def present_bytes(lengths: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.bool_]:
    """Which of the (rows, width) bytes belong to a value of the given length."""
    return _BYTE_NUMBERS[:width] < lengths.reshape(-1, 1)


def decode(octets: Octets, words: Words, at: Longs) -> tuple[Longs, Longs, npt.NDArray[np.bool_] | None]:
    """The varint at each place: values, lengths in bytes, and which are none (past 64 bits), None where all are.

    `words` sees the same bytes as 64-bit little-endian words, one beginning at every byte; ten bytes from every place
    must be readable.
    """
    word = words[at]
    if not (word & _u(0x80)).any():
        raw = word & _u(0x7F)
        return _unzigzag(raw), np.ones(len(at), np.int64), None
    stop = ~word & _CONTINUE
    first = stop & (~stop + _ONE)
    below = first - _ONE  # all ones where the word holds no last byte
    kept = word & (first | below) & _GROUPS
    raw = (kept & _EVEN7) | ((kept & _ODD7) >> _ONE)
    raw = (raw & _EVEN14) | ((raw & _ODD14) >> _TWO)
    raw = (raw & _EVEN28) | ((raw & _ODD28) >> _FOUR)
    lengths = ((np.bitwise_count(below).astype(np.int64) + 1) >> 3).astype(np.int64, copy=False)
    bad = None
    if (first == 0).any():
        bad = _finish_long(octets, at, raw, lengths, np.flatnonzero(first == 0))
    return _unzigzag(raw), lengths, bad


def _finish_long(octets: Octets, at: Longs, raw: Words, lengths: Longs, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_] | None:
    """Add the ninth and tenth byte to `raw` and `lengths` of the rows that have them."""
    ninth = octets[at[rows] + 8]
    tenth = np.where(ninth & 0x80, octets[at[rows] + 9], 0).astype(np.uint8)
    raw[rows] |= ((ninth & 0x7F).astype(np.uint64) << _u(56)) | (tenth.astype(np.uint64) << _u(63))
    lengths[rows] = 9 + (ninth >> 7)
    if not (tenth > 1).any():
        return None
    bad = np.zeros(len(at), np.bool_)
    bad[rows] = tenth > 1
    return bad


def _unzigzag(raw: Words) -> Longs:
    return ((raw >> _ONE) ^ (~(raw & _ONE) + _ONE)).view(np.int64)
