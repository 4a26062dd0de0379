"""Columns to Avro bytes. Each field adds pieces (one per row, or one for all rows); Arrow joins the pieces of a row.

What is short or of a number's width is gathered in a byte matrix first, so that a run of numeric fields is one piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.avro import decimals, varint
from millstream.avro.columns import Mask, binary, booleans, fixed, offsets, valid_rows
from millstream.avro.cursor import Cursor
from millstream.avro.pieces import INLINE_BYTES_MAX, Pieces, ends_of
from millstream.avro.reader import skip
from millstream.avro.schema import Items, Leaf, Node, Nullable, Record, Recursive, Union
from millstream.errors import BadRecord

# pa.Array (one value a row), pa.Scalar (the same in every row) or a mapping of them (a nested record, null nowhere).
Column = Any


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
            _write_leaf(node, _as_type(column, node.arrow, path), pieces, present, path)
        case Items():
            _require_values(column, pieces, present, path)
            _write_items(node, column, pieces, present, path)
        case Union():
            _write_union(node, column, pieces, present, path)
        case Recursive():
            _require_values(column, pieces, present, path)
            _write_recursive(node, _as_type(column, node.arrow, path), pieces, present, path)


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
    if isinstance(column, pa.Scalar) or not isinstance(column, Mapping):
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


def _write_leaf(leaf: Leaf, array: pa.Array, pieces: Pieces, present: Mask | None, path: str) -> None:
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
            octets, lengths = decimals.encode(_decimal_words(array, present))
            pieces.cells(np.left_shift(lengths, 1, dtype=np.uint8).reshape(-1, 1), None, present)
            pieces.cells(octets, None if int(lengths.min()) == octets.shape[1] else lengths, present, right=True)
        case "enum":
            places = pc.index_in(array, pa.array(leaf.symbols, pa.string()))
            _require(np.asarray(places.is_valid()), pieces, present, path, "is none of the enum's symbols")
            _write_longs(np.asarray(places.fill_null(0)).astype(np.int64), pieces, present)
        case "fixed" if pa.types.is_decimal(array.type):
            octets, fits = decimals.encode_fixed(_decimal_words(array, present), leaf.size)
            _require(fits, pieces, present, path, f"has no room in {leaf.size} bytes")
            pieces.cells(octets, None, present)
        case "fixed":
            _require(np.diff(offsets(array)) == leaf.size, pieces, present, path, f"has not the {leaf.size} bytes of its fixed type")
            pieces.ragged(binary(array.buffers()[2], offsets(array), present))


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
    if present is None and width <= INLINE_BYTES_MAX and (sizes == width).all():
        if width:
            octets = np.frombuffer(array.buffers()[2], np.uint8, len(array) * width, int(ends[0]))
            pieces.cells(octets.reshape(-1, width))
        return
    pieces.ragged(binary(array.buffers()[2], ends, present))


def _decimal_words(array: pa.Array, present: Mask | None) -> npt.NDArray[np.uint64]:
    count = array.type.bit_width // 64
    words = fixed(array, f"V{count * 8}").view("<u8").reshape(-1, count)
    return words if present is None else np.where(present.reshape(-1, 1), words, np.uint64(0))


def _write_items(node: Items, array: pa.Array, pieces: Pieces, present: Mask | None, path: str) -> None:
    """A block of the items, if there are any, then the end. The items are written as rows of their own: those of one
    array lie side by side, so that it is one piece, without a copy."""
    lists = array if present is None else array.filter(pa.array(present))
    bounds = offsets(lists).astype(np.int64)
    counts = np.diff(bounds)
    items = lists.values.slice(int(bounds[0]), int(bounds[-1] - bounds[0]))
    single = Pieces(len(items))
    data, item_ends = b"", np.zeros(0, np.int64)
    if len(items):
        write(node.item, items, single, None, f"{path}[]")
        data, item_ends = single.join()
    bounds = np.concatenate([np.zeros(1, np.int64), item_ends])[ends_of(counts)]
    if present is not None:
        counts, sizes = _scatter(counts, present), _scatter(np.diff(bounds), present)
        bounds = ends_of(sizes).astype(np.int64)
    filled = counts > 0
    _write_longs(counts, pieces, filled if present is None else filled & present)
    pieces.ragged(binary(pa.py_buffer(data), bounds.astype(np.int32)))
    pieces.constant(b"\0", present)


def _scatter(values: npt.NDArray[Any], present: Mask) -> npt.NDArray[Any]:
    spread = np.zeros(len(present), values.dtype)
    spread[present] = values
    return spread


def _write_union(node: Union, column: Any, pieces: Pieces, present: Mask | None, path: str) -> None:
    if not isinstance(column, pa.StructArray):
        raise _unsuitable(path, getattr(column, "type", type(column)), "a union's struct")
    inside = valid_rows(column)
    chosen = np.full(len(column), -1, np.int64)
    count = np.zeros(len(column), np.int64)
    holders: list[tuple[str, Node, pa.Array, Mask]] = []
    for number, (name, child) in enumerate(node.branches):
        if child.arrow == pa.null():
            continue
        values = _child(column, name, path)
        valid = np.asarray(values.is_valid())
        here = valid if inside is None else valid & inside
        chosen[here] = number
        count += here
        holders.append((name, child, values, here if present is None else here & present))
    nulls = [number for number, (_, child) in enumerate(node.branches) if child.arrow == pa.null()]
    if nulls:
        chosen[count == 0] = nulls[0]
    _require((chosen >= 0) & (count <= 1), pieces, present, path, "is not exactly one of its union's types")
    _write_longs(chosen, pieces, present)
    for name, child, values, here in holders:
        if here.any():
            write(child, values, pieces, here, f"{path}<{name}>")


def _write_recursive(node: Recursive, array: pa.Array, pieces: Pieces, present: Mask | None, path: str) -> None:
    """The inner record's bytes as they are, once they have shown to be exactly one."""
    inner = array if present is None else array.filter(pa.array(present))
    if len(inner):
        bounds = offsets(inner).astype(np.int64)
        cursor = Cursor.over(inner.buffers()[2] or b"", bounds[:-1], bounds[1:], 0)
        skip(node, cursor, path)
        if (cursor.at != cursor.end).any():
            raise cursor.bad(path, cursor.at != cursor.end, "more bytes than one record")
    pieces.ragged(binary(array.buffers()[2], offsets(array), present))


def _as_type(array: pa.Array, arrow: pa.DataType, path: str) -> pa.Array:
    if array.type == arrow:
        return array
    try:
        return array.cast(arrow)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise _unsuitable(path, array.type, str(arrow)) from None


def _require(fine: Mask, pieces: Pieces, present: Mask | None, path: str, what: str) -> None:
    wrong = ~fine if present is None else present & ~fine
    if wrong.any():
        raise BadRecord(f"{path} {what} in row {pieces.first_row + int(np.argmax(wrong))}", code="avro_unwritable")


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
