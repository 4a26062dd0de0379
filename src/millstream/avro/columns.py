"""Arrow arrays as numpy columns and back, without copies where Arrow's layout allows it. Knows nothing of Avro."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Mask = npt.NDArray[np.bool_]


def valid_rows(array: pa.Array) -> Mask | None:
    """Which rows are not null; None where all are."""
    if array.null_count == 0:
        return None
    bitmap = array.buffers()[0]
    if bitmap is None:  # a null-typed array has no bitmap
        return np.zeros(len(array), np.bool_)
    return _bits(bitmap, array.offset, len(array))


def fixed(array: pa.Array, kind: Any) -> npt.NDArray[Any]:
    """The values of a fixed-width array (null rows hold anything). `kind` is a numpy dtype of the array's width."""
    dtype = np.dtype(kind)
    if len(array) == 0:
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def booleans(array: pa.Array) -> npt.NDArray[np.bool_]:
    return _bits(array.buffers()[1], array.offset, len(array)) if len(array) else np.empty(0, np.bool_)


def offsets(array: pa.Array) -> npt.NDArray[np.int32]:
    """The len + 1 offsets of a string, binary or list array into its values."""
    if len(array) == 0:
        return np.zeros(1, np.int32)
    return np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, array.offset * 4)


def bitmap(valid: Mask | None) -> pa.Buffer | None:
    return None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))


def from_fixed(arrow: pa.DataType, values: npt.NDArray[Any], valid: Mask | None) -> pa.Array:
    """An array over the given values, which must have the type's layout (booleans: one byte each)."""
    rows = len(values)
    if pa.types.is_boolean(arrow):
        values = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(arrow, rows, [bitmap(valid), pa.py_buffer(np.ascontiguousarray(values))])


def binary(values: pa.Buffer | None, ends: npt.NDArray[np.int32], valid: Mask | None = None) -> pa.Array:
    """A binary array of len(ends) - 1 rows over `values`."""
    return pa.Array.from_buffers(pa.binary(), len(ends) - 1, [bitmap(valid), pa.py_buffer(ends), values])


def _bits(buffer: pa.Buffer, offset: int, rows: int) -> Mask:
    octets = np.frombuffer(buffer, np.uint8, (offset + rows + 7) // 8 - offset // 8, offset // 8)
    return np.unpackbits(octets, count=offset % 8 + rows, bitorder="little")[offset % 8 :].view(np.bool_)
