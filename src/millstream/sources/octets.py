"""A buffer of bytes and columns of values that lie somewhere in it: what servers' streams and rows are read through."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

PADDING = bytes(16)  # a number may be looked at, with its use decided later, a little beyond the end

Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# The first n bytes of a little-endian word.
LOW8 = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)
_LOW4 = np.array([(1 << (8 * n)) - 1 for n in range(5)], np.uint32)

_U = np.uint64
_ZEROS, _SIXES, _HIGH = _U(0x3030303030303030), _U(0x0606060606060606), _U(0xF0F0F0F0F0F0F0F0)
_PAIRS, _FOURS = _U(0x000000FF000000FF), (_U(0x000F424000000064), _U(0x0000271000000001))


@dataclass(frozen=True)
class Cells:
    """One value a row: where its bytes begin in the buffer, how many there are, and whether it is null (then both are 0)."""

    at: Index
    length: Index
    null: Mask

    def __len__(self) -> int:
        return len(self.at)

    def take(self, rows: Mask | Index) -> Cells:
        return Cells(self.at[rows], self.length[rows], self.null[rows])

    def without_prefix(self, count: int) -> Cells:
        """The values after their first `count` bytes, which each that is not null has."""
        return replace(self, at=np.where(self.null, 0, self.at + count), length=np.where(self.null, 0, self.length - count))


class Octets:
    """`data` ends in PADDING. Numbers can be read at every offset, aligned or not, for many rows at once."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data) - len(PADDING)

    def _at_every_byte(self, kind: str) -> npt.NDArray[Any]:
        width = int(kind[-1])
        return np.ndarray((len(self.data) - width + 1,), dtype=kind, buffer=self.data, strides=(1,))

    @cached_property
    def u8(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.data, np.uint8)

    @cached_property
    def u16(self) -> npt.NDArray[np.uint16]:
        return self._at_every_byte(">u2")

    @cached_property
    def u32(self) -> npt.NDArray[np.uint32]:
        return self._at_every_byte(">u4")

    @cached_property
    def u64(self) -> npt.NDArray[np.uint64]:
        return self._at_every_byte(">u8")

    @cached_property
    def _little32(self) -> npt.NDArray[np.uint32]:
        return self._at_every_byte("<u4")

    @cached_property
    def little64(self) -> npt.NDArray[np.uint64]:
        return self._at_every_byte("<u8")

    def packed(self, at: Index, length: Index) -> tuple[npt.NDArray[np.uint8], Index]:
        """The bytes of many stretches one after the other, and where each begins among them, and the end of the last."""
        begins = np.zeros(len(at) + 1, np.int64)
        np.cumsum(length, out=begins[1:])
        return self.u8[np.repeat(at - begins[:-1], length) + np.arange(begins[-1])], begins

    def text(self, cells: Cells) -> pa.StringArray:
        """The values as text, one a row, copied out of the buffer.

        Built as Arrow string views (16 bytes a row: length, then the value if it has at most 12 bytes, else 4 of it and
        its place), which needs no loop over rows; the cast then packs them.
        Reference: Arrow Columnar Format 1.5, "Variable-size Binary View Layout".
        """
        rows = len(cells)
        length = cells.length
        first = self.little64[cells.at] & LOW8[np.minimum(length, 8)]
        view = np.empty((rows, 4), np.uint32)
        view[:, 0] = length
        view[:, 1] = first & np.uint64(0xFFFFFFFF)
        view[:, 2] = first >> np.uint64(32)
        # A short value may end so near the end of the buffer that nothing stands 8 bytes on.
        view[:, 3] = self._little32[np.minimum(cells.at + 8, len(self.data) - 4)] & _LOW4[np.minimum(np.maximum(length - 8, 0), 4)]
        long = length > 12
        view[long, 2] = 0
        view[long, 3] = cells.at[long]
        valid = None
        if cells.null.any():
            view[cells.null] = 0
            valid = pa.py_buffer(np.packbits(~cells.null, bitorder="little").tobytes())
        views = pa.Array.from_buffers(pa.string_view(), rows, [valid, pa.py_buffer(view), pa.py_buffer(self.data)])
        return views.cast(pa.string())

    def digits(self, at: Index, length: Index) -> tuple[npt.NDArray[np.uint64], Mask]:
        """Numbers of 1 to 19 decimal digits, and which of the values are that. Eight digits at once, from the last ones on.

        Reference: D. Lemire, "Quickly parsing eight digits" (2018): a word's bytes are added up in pairs, fours and eights.
        """
        good: Mask = (length > 0) & (length <= 19)
        number = np.zeros(len(at), np.uint64)
        at_front = len(at) > 0 and int(at.min()) < 24  # where a word may begin before the buffer does
        for k in range(0, int(min(length.max(initial=0), 19)), 8):
            begin = at + length - k - 8
            if at_front:
                word = self.little64[np.maximum(begin, 0)] << (8 * np.maximum(-begin, 0)).astype(np.uint64)
            else:
                word = self.little64[begin]
            foreign = LOW8[np.minimum(np.maximum(8 + k - length, 0), 8)]
            word = (word & ~foreign) | (_ZEROS & foreign)
            good &= ((word & _HIGH) == _ZEROS) & (((word + _SIXES) & _HIGH) == _ZEROS)
            word = word - _ZEROS
            word = word * _U(10) + (word >> _U(8))
            word = ((word & _PAIRS) * _FOURS[0] + ((word >> _U(16)) & _PAIRS) * _FOURS[1]) >> _U(32)
            number += word * _U(10**k)
        return number, good
