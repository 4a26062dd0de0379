"""Columns to Avro bytes. Each field adds pieces (one per row, or one for all rows); Arrow joins the pieces of a row.

What is short or of a number's width is gathered in a byte matrix first, so that a run of numeric fields is one piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.avro import decimals, varint
from millstream.avro.columns import Mask, binary, booleans, fixed, offsets, valid_rows
from millstream.avro.schema import Items, Leaf, Node, Nullable, Record
from millstream.errors import BadRecord

# pa.Array (one value a row), pa.Scalar (the same in every row) or a mapping of them (a nested record, null nowhere).
Column = Any

# Constants up to this length ride in a matrix that exists anyway; a longer one is a piece of its own.
_INLINE_BYTES_MAX = 8


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
        if len(value) <= _INLINE_BYTES_MAX:
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
        self._parts.append(binary(pa.py_buffer(octets[mask]), _ends(sizes)))


def write(node: Node, column: Column, pieces: Pieces, present: Mask | None, path: str) -> None:
    """Add the pieces of one field. Rows that are not `present` get no bytes. Raises BadRecord where null is not allowed."""
    match node:
        case Nullable():
            _write_nullable(node, column, pieces, present, path)
        case Record():
            _write_record(node, column, pieces, present, path)
        case _ if isinstance(column, pa.Scalar):
            _write_scalar(node, column, pieces, present, path)
        case Leaf():
            _require_values(column, pieces, present, path)
            _write_leaf(node, _as_type(column, node.arrow, path), pieces, present)
        case Items():
            _require_values(column, pieces, present, path)
            _write_items(node, column, pieces, present, path)
        case _:
            raise AssertionError(f"{path}: {node} is for the fallback")


def _write_nullable(node: Nullable, column: Column, pieces: Pieces, present: Mask | None, path: str) -> None:
    null, value = (b"\0", b"\2") if node.null_branch == 0 else (b"\2", b"\0")
    if isinstance(column, pa.Array):
        valid = valid_rows(column)
        if valid is None or (nulls := column.null_count) == 0:
            pieces.constant(value, present)
        elif nulls == len(column):
            pieces.constant(null, present)
            return
        else:
            pieces.cells(np.where(valid, value[0], null[0]).astype(np.uint8).reshape(-1, 1), None, present)
            present = valid if present is None else present & valid
    elif isinstance(column, pa.Scalar) and not column.is_valid:
        pieces.constant(null, present)
        return
    else:
        pieces.constant(value, present)
    write(node.item, column, pieces, present, path)


def _write_record(node: Record, column: Column, pieces: Pieces, present: Mask | None, path: str) -> None:
    if not isinstance(column, Mapping):
        if isinstance(column, pa.Array):
            _require_values(column, pieces, present, path)
        elif not column.is_valid:
            raise _null(path, pieces.first_row)
        if not pa.types.is_struct(column.type):
            raise _unsuitable(path, column.type, "a record's columns")
    for name, child in node.fields:
        place = f"{path}.{name}" if path else name
        write(child, _child(column, name, place), pieces, present, place)


def _child(column: Column, name: str, path: str) -> Column:
    try:
        if isinstance(column, pa.Array):
            return column.field(name)
        return column[name]
    except KeyError:
        raise BadRecord(f"{path} has no column", code="avro_unwritable", cure="give every field of the schema a column") from None


def _write_scalar(node: Node, column: pa.Scalar, pieces: Pieces, present: Mask | None, path: str) -> None:
    """The same value in every row: written once, then a constant."""
    single = Pieces(1)
    write(node, pa.repeat(column, 1), single, None, path)
    pieces.constant(single.join()[0], present)


def _write_leaf(leaf: Leaf, array: pa.Array, pieces: Pieces, present: Mask | None) -> None:
    match leaf.kind:
        case "boolean":
            pieces.cells(booleans(array).view(np.uint8).reshape(-1, 1), None, present)
        case "int" | "long":
            _write_longs(fixed(array, f"<i{array.type.bit_width // 8}").astype(np.int64, copy=False), pieces, present)
        case "float" | "double":
            width = 4 if leaf.kind == "float" else 8
            pieces.cells(fixed(array, f"V{width}").view(np.uint8).reshape(-1, width), None, present)
        case "string" | "bytes":
            _write_text(array, pieces, present)
        case "decimal":
            _write_decimals(array, pieces, present)


def _write_longs(values: npt.NDArray[np.int64], pieces: Pieces, present: Mask | None) -> None:
    if present is not None:
        # What lies under a null is anything, and would widen the matrix.
        values = np.where(present, values, 0)
    elif (values == values[0]).all():
        octets, _ = varint.encode(values[:1])
        pieces.constant(octets.tobytes())
        return
    octets, lengths = varint.encode(values)
    pieces.cells(octets, lengths, present)


def _write_text(array: pa.Array, pieces: Pieces, present: Mask | None) -> None:
    ends = offsets(array)
    sizes = np.diff(ends).astype(np.int64)
    _write_longs(sizes, pieces, present)
    width = int(sizes[0])
    if present is None and width <= _INLINE_BYTES_MAX and (sizes == width).all():
        if width:
            octets = np.frombuffer(array.buffers()[2], np.uint8, len(array) * width, int(ends[0]))
            pieces.cells(octets.reshape(-1, width))
        return
    pieces.ragged(binary(array.buffers()[2], ends, present))


def _write_decimals(array: pa.Array, pieces: Pieces, present: Mask | None) -> None:
    count = array.type.bit_width // 64
    words = fixed(array, f"V{count * 8}").view("<u8").reshape(-1, count)
    if present is not None:
        words = np.where(present.reshape(-1, 1), words, np.uint64(0))
    octets, lengths = decimals.encode(words)
    pieces.cells(np.left_shift(lengths, 1, dtype=np.uint8).reshape(-1, 1), None, present)
    pieces.cells(octets, None if int(lengths.min()) == octets.shape[1] else lengths, present, right=True)


def _write_items(node: Items, array: pa.Array, pieces: Pieces, present: Mask | None, path: str) -> None:
    """A block of the items, if there are any, then the end. The items are written as rows of their own: those of one
    array lie side by side, so that it is one piece, without a copy."""
    lists = array if present is None else array.filter(pa.array(present))
    counts = np.diff(offsets(lists)).astype(np.int64)
    items = lists.flatten()
    single = Pieces(len(items))
    data, item_ends = b"", np.zeros(0, np.int64)
    if len(items):
        write(node.item, items, single, None, f"{path}[]")
        data, item_ends = single.join()
    bounds = np.concatenate([np.zeros(1, np.int64), item_ends])[_ends(counts)]
    if present is not None:
        counts, sizes = _scatter(counts, present), _scatter(np.diff(bounds), present)
        bounds = _ends(sizes).astype(np.int64)
    filled = counts > 0
    _write_longs(counts, pieces, filled if present is None else filled & present)
    pieces.ragged(binary(pa.py_buffer(data), bounds.astype(np.int32)))
    pieces.constant(b"\0", present)


def _scatter(values: npt.NDArray[Any], present: Mask) -> npt.NDArray[Any]:
    spread = np.zeros(len(present), values.dtype)
    spread[present] = values
    return spread


def _ends(sizes: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    ends = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=ends[1:])
    return ends


def _as_type(array: pa.Array, arrow: pa.DataType, path: str) -> pa.Array:
    if array.type == arrow:
        return array
    try:
        return array.cast(arrow)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise _unsuitable(path, array.type, str(arrow)) from None


def _require_values(column: pa.Array, pieces: Pieces, present: Mask | None, path: str) -> None:
    valid = valid_rows(column)
    if valid is None:
        return
    missing = ~valid if present is None else present & ~valid
    if missing.any():
        raise _null(path, pieces.first_row + int(np.argmax(missing)))


def _null(path: str, row: int) -> BadRecord:
    return BadRecord(f"{path} is null in row {row}, where its schema allows no null", code="avro_unwritable")


def _unsuitable(path: str, given: pa.DataType, wanted: str) -> BadRecord:
    return BadRecord(f"{path} is given {given} values that are not {wanted}", code="avro_unwritable")
