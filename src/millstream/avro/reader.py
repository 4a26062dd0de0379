"""Avro bytes to columns. For each field, all rows at once: a cursor per row moves along the bytes.

Every step checks that it stays inside its row's datum, so malformed bytes end in BadRecord and nothing is ever
allocated for a length that the datum does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.avro.columns import Mask, bitmap
from millstream.avro.cursor import Cursor
from millstream.avro.leaves import gather, read_leaf, step
from millstream.avro.schema import Items, Leaf, Node, Nullable, Record, Recursive, Union
from millstream.avro.varint import Longs

# What is wanted of a record: a name → what is wanted of it (None: all). Names that are missing are skipped.
Wanted = Mapping[str, Any]

# How deep a recursive type may go: each level is a few calls of ours.
DEPTH_MAX = 200


def read(node: Node, cursor: Cursor, path: str, wanted: Wanted | None = None) -> pa.Array:
    """The values of one node at the cursors, one a row; the cursors end after it."""
    match node:
        case Nullable():
            return _read_nullable(node, cursor, path, wanted)
        case Record():
            return _read_record(node, cursor, path, wanted)
        case Leaf():
            return read_leaf(node, cursor, path, None)
        case Items():
            return _read_items(node, cursor, path)
        case Union():
            return _read_union(node, cursor, path)
        case Recursive():
            starts = cursor.at
            skip(node, cursor, path)
            return gather(cursor, starts, cursor.at - starts)


def skip(node: Node, cursor: Cursor, path: str) -> None:
    """Past a node; its lengths are checked, its values are not made."""
    match node:
        case Nullable():
            valid = _branches(node, cursor, path)
            rows = np.flatnonzero(valid)
            if len(rows) == len(cursor):
                skip(node.item, cursor, path)
            elif isinstance(node.item, Leaf):
                if len(rows):
                    step(node.item, cursor, path, valid)
            elif len(rows):
                part = cursor.of(rows)
                skip(node.item, part, path)
                cursor.take_back(rows, part)
        case Record():
            for name, child in node.fields:
                skip(child, cursor, f"{path}.{name}" if path else name)
        case Leaf():
            step(node, cursor, path, None)
        case Items():
            for _ in _steps(node, cursor, path, lambda part: skip(node.item, part, f"{path}[]")):
                pass
        case Union():
            for name, child, rows in _union_rows(node, cursor, path):
                if len(rows):
                    part = cursor.of(rows)
                    skip(child, part, f"{path}<{name}>")
                    cursor.take_back(rows, part)
        case Recursive():
            _skip_recursive(node, cursor, path)


def _read_record(node: Record, cursor: Cursor, path: str, wanted: Wanted | None) -> pa.Array:
    arrays, fields = [], []
    for name, child in node.fields:
        place = f"{path}.{name}" if path else name
        if wanted is not None and name not in wanted:
            skip(child, cursor, place)
            continue
        arrays.append(read(child, cursor, place, None if wanted is None else wanted[name]))
        fields.append(pa.field(name, arrays[-1].type, isinstance(child, Nullable)))
    if not fields:
        return pa.Array.from_buffers(pa.struct([]), len(cursor), [None])
    return pa.StructArray.from_arrays(arrays, fields=fields)


def _read_nullable(node: Nullable, cursor: Cursor, path: str, wanted: Wanted | None) -> pa.Array:
    valid = _branches(node, cursor, path)
    count = int(np.count_nonzero(valid))
    if count == len(cursor):
        return read(node.item, cursor, path, wanted)
    if count == 0:
        return pa.nulls(len(cursor), selected(node.item, wanted))
    if isinstance(node.item, Leaf):
        return read_leaf(node.item, cursor, path, valid)
    rows = np.flatnonzero(valid)
    part = cursor.of(rows)
    values = read(node.item, part, path, wanted)
    cursor.take_back(rows, part)
    return values.take(pa.array(np.cumsum(valid) - 1, mask=~valid))


def selected(node: Node, wanted: Wanted | None) -> pa.DataType:
    """The Arrow type of what is wanted of a node."""
    if isinstance(node, Nullable):
        return selected(node.item, wanted)
    if wanted is None or not isinstance(node, Record):
        return node.arrow
    return pa.struct(
        [pa.field(name, selected(child, wanted[name]), isinstance(child, Nullable)) for name, child in node.fields if name in wanted]
    )


def _branches(node: Nullable, cursor: Cursor, path: str) -> Mask:
    """Which rows hold a value; the cursors are past the branch."""
    first = cursor.octets[cursor.at]
    if not (first & 0xFD).any():  # 0 or 2: branch 0 or 1 in a single byte
        branch = first
        cursor.move(1, path, "a union's branch")
        return np.not_equal(branch, 2 * node.null_branch)
    at = cursor.at
    branches = cursor.long(path, None, "a union's branch")
    wrong = (branches < 0) | (branches > 1)
    if wrong.any():
        cursor.at = at
        raise cursor.bad(path, wrong, f"there is no branch {int(branches[np.argmax(wrong)])} in a union of 2")
    return np.not_equal(branches, node.null_branch)


def _read_items(node: Items, cursor: Cursor, path: str) -> pa.Array:
    parts: list[pa.Array] = []
    owners = list(_steps(node, cursor, path, lambda part: parts.append(read(node.item, part, f"{path}[]"))))
    if not parts:
        counts, items = np.zeros(len(cursor), np.int64), pa.nulls(0, node.item.arrow)
    else:
        owner = np.concatenate(owners)
        counts = np.bincount(owner, minlength=len(cursor))
        items = pa.concat_arrays(parts).take(pa.array(np.argsort(owner, kind="stable")))
    ends = np.zeros(len(cursor) + 1, np.int32)
    np.cumsum(counts, out=ends[1:])
    return pa.Array.from_buffers(node.arrow, len(cursor), [None, pa.py_buffer(ends)], children=[items])


def _steps(node: Items, cursor: Cursor, path: str, advance: Callable[[Cursor], None]) -> Iterator[npt.NDArray[np.intp]]:
    """Through arrays in step: `advance` on the first item of every row, then on the second … Gives the rows of each step.

    A step takes at least one byte of each of its rows, so there are never more than a datum has bytes.
    """
    left = np.zeros(len(cursor), np.int64)
    active = np.arange(len(cursor))
    while len(active := _open_blocks(node, cursor, path, left, active)):
        part = cursor.of(active)
        advance(part)
        cursor.take_back(active, part)
        left[active] -= 1
        yield active


def _open_blocks(node: Items, cursor: Cursor, path: str, left: Longs, active: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Read the count of the next block where none is left; the rows that still have items."""
    due = active[left[active] == 0]
    if not len(due):
        return active
    part = cursor.of(due)
    counts = part.long(path, None, "a block's count")
    sized = counts < 0
    if sized.any():
        # A negative count is followed by the block's size in bytes, of use only to those who skip blocks.
        part.long(path, sized, "a block's size")
        counts = np.abs(counts)
    wrong = (counts < 0) | (counts > (part.end - part.at) // node.item.least_bytes)
    if wrong.any():
        raise part.bad(path, wrong, f"a block of {int(counts[np.argmax(wrong)])} items is larger than the record")
    cursor.take_back(due, part)
    left[due] = counts
    return active[left[active] > 0]


def _union_rows(node: Union, cursor: Cursor, path: str) -> list[tuple[str, Node, npt.NDArray[np.intp]]]:
    """Each branch with the rows that hold it; the cursors are past the branch."""
    at = cursor.at
    branch = cursor.long(path, None, "a union's branch")
    wrong = (branch < 0) | (branch >= len(node.branches))
    if wrong.any():
        cursor.at = at
        raise cursor.bad(path, wrong, f"there is no branch {int(branch[np.argmax(wrong)])} in a union of {len(node.branches)}")
    return [(name, child, np.flatnonzero(branch == i)) for i, (name, child) in enumerate(node.branches)]


def _read_union(node: Union, cursor: Cursor, path: str) -> pa.Array:
    arrays, fields = [], []
    null = np.zeros(len(cursor), np.bool_)
    for name, child, rows in _union_rows(node, cursor, path):
        if child.arrow == pa.null():
            null[rows] = True
            continue
        fields.append(pa.field(name, child.arrow))
        if not len(rows):
            arrays.append(pa.nulls(len(cursor), child.arrow))
            continue
        part = cursor.of(rows)
        values = read(child, part, f"{path}<{name}>")
        cursor.take_back(rows, part)
        places = np.zeros(len(cursor), np.int64)
        places[rows] = np.arange(len(rows))
        others = np.ones(len(cursor), np.bool_)
        others[rows] = False
        arrays.append(values.take(pa.array(places, mask=others)))
    if not arrays:
        return pa.Array.from_buffers(node.arrow, len(cursor), [bitmap(~null)])
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=pa.array(null) if null.any() else None)


def _skip_recursive(node: Recursive, cursor: Cursor, path: str) -> None:
    if not len(cursor):
        return
    if cursor.depth == DEPTH_MAX:
        raise cursor.bad(path, np.ones(len(cursor), np.bool_), f"records nested more than {DEPTH_MAX} deep")
    cursor.depth += 1
    skip(node.record, cursor, path)
    cursor.depth -= 1
