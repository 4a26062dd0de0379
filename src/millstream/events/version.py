"""Versions: what orders the changes of one key in one topic. Design §3.

(incarnation u32, major u64, minor u32), written as 32 hex digits, so that text, bytes and integers sort alike.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_TEXT = re.compile("[0-9a-f]{32}")
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


class Version(NamedTuple):
    incarnation: int
    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.incarnation:08x}{self.major:016x}{self.minor:08x}"

    @classmethod
    def parse(cls, text: str) -> Version:
        """Raises ValueError on anything but 32 hex digits."""
        if not _TEXT.fullmatch(text):
            raise ValueError(f"a version is 32 hex digits, not {text!r}")
        return cls(int(text[:8], 16), int(text[8:24], 16), int(text[24:], 16))


def hex_text(*parts: npt.NDArray[np.unsignedinteger]) -> pa.StringArray:
    """Unsigned integer columns side by side as fixed-width lower-case hex, one text a row."""
    rows = len(parts[0])
    big_endian = [np.ascontiguousarray(p).astype(p.dtype.newbyteorder(">")).view(np.uint8).reshape(rows, p.dtype.itemsize) for p in parts]
    raw = np.concatenate(big_endian, axis=1)
    digits = np.empty((rows, raw.shape[1] * 2), np.uint8)
    digits[:, 0::2] = _HEX[raw >> 4]
    digits[:, 1::2] = _HEX[raw & 15]
    width = digits.shape[1]
    offsets = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(digits.tobytes()))


def texts(incarnation: pa.Array, major: pa.Array, minor: pa.Array) -> pa.StringArray:
    """The versions of a batch as text, one a row."""
    return hex_text(
        np.asarray(incarnation).astype(np.uint32),
        np.asarray(major).astype(np.uint64),
        np.asarray(minor).astype(np.uint32),
    )


def parse_texts(text: pa.StringArray) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """The inverse of `texts`. Raises ValueError where a text is not 32 hex digits."""
    rows = len(text)
    if rows == 0:
        return np.empty(0, np.uint32), np.empty(0, np.uint64), np.empty(0, np.uint32)
    offsets = np.frombuffer(text.buffers()[1], np.int32, rows + 1, text.offset * 4)
    if text.null_count or np.any(np.diff(offsets) != 32):
        raise ValueError("a version is 32 hex digits")
    raw = np.frombuffer(text.buffers()[2], np.uint8, rows * 32, offsets[0]).reshape(rows, 32)
    digit = np.where(raw >= ord("a"), raw - (ord("a") - 10), np.where(raw <= ord("9"), raw - ord("0"), 255))
    if np.any(digit > 15):
        raise ValueError("a version is 32 hex digits")
    octets = ((digit[:, 0::2] << 4) | digit[:, 1::2]).astype(np.uint8)

    def part(start: int, end: int, kind: str) -> npt.NDArray[np.unsignedinteger]:
        return np.ascontiguousarray(octets[:, start:end]).view(kind).reshape(rows).astype(kind[1:])

    return part(0, 4, ">u4"), part(4, 12, ">u8"), part(12, 16, ">u4")
