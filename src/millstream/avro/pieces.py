"""What the rows of a batch are made of while they are written, and how it is joined. Knows bytes, no schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.avro import varint
from millstream.avro.columns import Mask, binary, offsets

# Constants up to this length ride in a matrix that exists anyway; a longer one is a piece of its own.
INLINE_BYTES_MAX = 8


@dataclass(frozen=True)
class _Cells:
    """Some byte columns of the matrix. `rows_present` None: in every row; `lengths` None: all bytes of the width.

    With `lengths`, the bytes of a row stand at the left of the width, or at its right end (`right`).
    """

    octets: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.uint8] | None = None
    present: Mask | None = None
    right: bool = False

    @property
    def width(self) -> int:
        return int(self.octets.shape[-1])

    def mask(self, into: npt.NDArray[np.bool_]) -> None:
        if self.lengths is None:
            into[:] = True if self.present is None else self.present.reshape(-1, 1)
            return
        taken = (
            varint.present_bytes(self.lengths, self.width)
            if self.width <= varint.BYTES_MAX
            else np.arange(self.width) < self.lengths.reshape(-1, 1)
        )
        if self.right:
            taken = taken[:, ::-1]
        into[:] = taken if self.present is None else taken & self.present.reshape(-1, 1)

    def sizes(self) -> npt.NDArray[Any] | int:
        sizes: npt.NDArray[Any] | int = self.width if self.lengths is None else self.lengths
        return sizes if self.present is None else np.where(self.present, sizes, 0)


class Pieces:
    """What a row is made of so far, in order."""

    def __init__(self, rows: int, first_row: int = 0) -> None:
        """`first_row` is the number of the first row in the batch, for errors."""
        self.rows = rows
        self.first_row = first_row
        self._parts: list[pa.Array | pa.Scalar] = []
        self._run: list[_Cells] = []
        self._constant = b""

    def constant(self, value: bytes, present: Mask | None = None) -> None:
        """The same bytes in every (present) row."""
        if present is None:
            self._constant += value
        elif value:
            self._cells(_Cells(np.broadcast_to(np.frombuffer(value, np.uint8), (self.rows, len(value))), None, present))

    def cells(
        self, octets: npt.NDArray[np.uint8], lengths: npt.NDArray[np.uint8] | None = None, present: Mask | None = None, right: bool = False
    ) -> None:
        self._cells(_Cells(octets, lengths, present, right))

    def ragged(self, array: pa.Array) -> None:
        """A binary array; nulls are no bytes."""
        self._end_run()
        self._parts.append(array)

    def join(self) -> tuple[bytes, npt.NDArray[np.int64]]:
        """The rows' bytes, back to back, and where each ends."""
        self._end_run()
        if all(isinstance(part, pa.Scalar) for part in self._parts):
            row = b"".join(part.as_py() for part in self._parts)
            return row * self.rows, np.arange(1, self.rows + 1, dtype=np.int64) * len(row)
        joined = pc.binary_join_element_wise(*self._parts, pa.scalar(b""), null_handling="replace", null_replacement=b"")
        ends = offsets(joined)
        data = joined.buffers()[2]
        return b"" if data is None else data.slice(int(ends[0]), int(ends[-1] - ends[0])).to_pybytes(), (ends[1:] - ends[0]).astype(
            np.int64
        )

    def _cells(self, cells: _Cells) -> None:
        self._end_constant()
        self._run.append(cells)

    def _end_constant(self) -> None:
        value, self._constant = self._constant, b""
        if not value:
            return
        if len(value) <= INLINE_BYTES_MAX:
            self._run.append(_Cells(np.broadcast_to(np.frombuffer(value, np.uint8), (self.rows, len(value)))))
        else:
            self._end_cells()
            self._parts.append(pa.scalar(value))

    def _end_run(self) -> None:
        if not self._run:  # a constant alone needs no matrix
            value, self._constant = self._constant, b""
            if value:
                self._parts.append(pa.scalar(value))
            return
        self._end_constant()
        self._end_cells()

    def _end_cells(self) -> None:
        run, self._run = self._run, []
        if not run:
            return
        width = sum(cells.width for cells in run)
        octets = np.empty((self.rows, width), np.uint8)
        at = 0
        for cells in run:
            octets[:, at : at + cells.width] = cells.octets
            at += cells.width
        if all(cells.lengths is None and cells.present is None for cells in run):
            ends = np.arange(0, (self.rows + 1) * width, width, dtype=np.int32)
            self._parts.append(binary(pa.py_buffer(octets), ends))
            return
        mask = np.empty((self.rows, width), np.bool_)
        sizes = np.zeros(self.rows, np.int32)
        at = 0
        for cells in run:
            cells.mask(mask[:, at : at + cells.width])
            sizes += cells.sizes()
            at += cells.width
        self._parts.append(binary(pa.py_buffer(octets[mask]), ends_of(sizes)))


def ends_of(sizes: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    ends = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=ends[1:])
    return ends
