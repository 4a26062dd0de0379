"""Avro bytes to columns. For each field, all rows at once: a cursor per row moves along the bytes.

Every step checks that it stays inside its row's datum, so malformed bytes end in BadRecord and nothing is ever
allocated for a length that the datum does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.avro import decimals, varint
from millstream.avro.columns import Mask, binary, bitmap, from_fixed
from millstream.avro.schema import Items, Leaf, Node, Nullable, Record
from millstream.avro.varint import Longs
from millstream.errors import BadRecord

# What is wanted of a record: a name → what is wanted of it (None: all). Names that are missing are skipped.
Wanted = Mapping[str, Any]

PAD_BEFORE, PAD_AFTER = 16, 32


class Cursor:
    """A place in each row's datum. `rows` are the rows' numbers in the batch, for errors."""

    def __init__(
        self, octets: npt.NDArray[np.uint8], words: npt.NDArray[np.uint64], at: Longs, end: Longs, rows: Longs, shift: int
    ) -> None:
        self.octets = octets
        self.words = words
        self.at = at
        self.end = end
        self.rows = rows
        self.shift = shift

    @classmethod
    def over(cls, data: bytes, starts: Longs, ends: Longs, first_row: int) -> Cursor:
        """Cursors at `starts`. Ranges must rise without overlap; only the bytes between first and last are copied."""
        low, high = int(starts[0]), int(ends[-1])
        size = high - low
        padded = np.zeros(PAD_BEFORE + size + PAD_AFTER, np.uint8)
        padded[PAD_BEFORE : PAD_BEFORE + size] = np.frombuffer(data, np.uint8, size, low)
        words: npt.NDArray[np.uint64] = np.ndarray(len(padded) - 7, np.dtype("<u8"), padded, strides=(1,))
        shift = PAD_BEFORE - low
        rows = np.arange(first_row, first_row + len(starts), dtype=np.int64)
        return cls(padded, words, starts + shift, ends + shift, rows, shift)

    def __len__(self) -> int:
        return len(self.at)

    def of(self, rows: npt.NDArray[np.intp]) -> Cursor:
        """The cursors of some rows, to be moved on their own and given back with `take_back`."""
        return Cursor(self.octets, self.words, self.at[rows], self.end[rows], self.rows[rows], self.shift)

    def take_back(self, rows: npt.NDArray[np.intp], part: Cursor) -> None:
        self.at[rows] = part.at

    def move(self, lengths: Longs | int, path: str, what: str) -> None:
        """Past `lengths` bytes. Raises BadRecord where the datum ends before."""
        after = self.at + lengths
        short = after > self.end
        if short.any():
            raise self.bad(path, short, f"the record ends inside {what}")
        self.at = after

    def long(self, path: str, valid: Mask | None, what: str) -> Longs:
        """The varints here (anything where not valid), and past them."""
        values, lengths, none = varint.decode(self.octets, self.words, self.at)
        if valid is not None:
            lengths = np.where(valid, lengths, 0)
            none = None if none is None else none & valid
        if none is not None and none.any():
            raise self.bad(path, none, f"{what} is longer than a 64-bit integer")
        self.move(lengths, path, what)
        return values

    def bad(self, path: str, rows: Mask, what: str) -> BadRecord:
        """The error for the first of the rows marked."""
        first = int(np.argmax(rows))
        return malformed(path, int(self.rows[first]), int(self.at[first]) - self.shift, what)


def malformed(path: str, row: int, byte: int, what: str) -> BadRecord:
    return BadRecord(
        f"{path or 'record'}: {what}, at byte {byte} in row {row} of the batch",
        code="avro_malformed",
        cure="the bytes were not written with this schema, or were damaged since: check the writer's schema id and the source of the bytes",
    )


def read(node: Node, cursor: Cursor, path: str, wanted: Wanted | None = None) -> pa.Array:
    """The values of one node at the cursors, one a row; the cursors end after it."""
    match node:
        case Nullable():
            return _read_nullable(node, cursor, path, wanted)
        case Record():
            return _read_record(node, cursor, path, wanted)
        case Leaf():
            return _read_leaf(node, cursor, path, None)
        case Items():
            return _read_items(node, cursor, path)
        case _:
            raise AssertionError(f"{path}: {node} is for the fallback")


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
                    _step(node.item, cursor, path, valid)
            elif len(rows):
                part = cursor.of(rows)
                skip(node.item, part, path)
                cursor.take_back(rows, part)
        case Record():
            for name, child in node.fields:
                skip(child, cursor, f"{path}.{name}" if path else name)
        case Leaf():
            _step(node, cursor, path, None)
        case _:
            read(node, cursor, path)


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
        return _read_leaf(node.item, cursor, path, valid)
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


def _step(leaf: Leaf, cursor: Cursor, path: str, valid: Mask | None) -> tuple[Longs, Longs]:
    """Past a leaf. Variable ones: where their bytes start and how many; fixed ones: where they start, and the width;
    integers: their values (twice)."""
    if leaf.kind in ("int", "long"):
        values = cursor.long(path, valid, f"{_article(leaf.kind)} {leaf.kind}")
        return values, values
    if leaf.kind in ("string", "bytes", "decimal"):
        at = cursor.at
        lengths = cursor.long(path, valid, "a length")
        if valid is not None:
            lengths = np.where(valid, lengths, 0)
        wrong = (lengths < 0) | (lengths > cursor.end - cursor.at)
        if wrong.any():
            row = int(np.argmax(wrong))
            left = int(cursor.end[row] - cursor.at[row])
            cursor.at = at
            raise cursor.bad(path, wrong, f"a length of {int(lengths[row])} where {left} bytes are left")
        starts = cursor.at
        cursor.at = starts + lengths
        return starts, lengths
    width = {"boolean": 1, "float": 4, "double": 8}[leaf.kind]
    starts = cursor.at
    cursor.move(width if valid is None else np.where(valid, width, 0), path, f"a {leaf.kind}")
    return starts, starts


def _article(kind: str) -> str:
    return "an" if kind == "int" else "a"


def _read_leaf(leaf: Leaf, cursor: Cursor, path: str, valid: Mask | None) -> pa.Array:
    before = cursor.at
    first, second = _step(leaf, cursor, path, valid)
    try:
        return _LEAVES[leaf.kind](leaf, cursor, first, second, valid)
    except _BadValueError as error:
        cursor.at = before
        raise cursor.bad(path, error.rows, error.what) from None


class _BadValueError(Exception):
    def __init__(self, rows: Mask, what: str) -> None:
        self.rows = rows
        self.what = what


def _boolean(leaf: Leaf, cursor: Cursor, starts: Longs, _: Longs, valid: Mask | None) -> pa.Array:
    values = cursor.octets[starts]
    if (values > 1).any():
        wrong = (values > 1) if valid is None else (values > 1) & valid
        if wrong.any():
            raise _BadValueError(wrong, f"a boolean of {int(values[np.argmax(wrong)])}")
    return from_fixed(leaf.arrow, values == 1, valid)


def _integer(leaf: Leaf, cursor: Cursor, values: Longs, _: Longs, valid: Mask | None) -> pa.Array:
    if leaf.kind == "long":
        return from_fixed(leaf.arrow, values, valid)
    narrow = values.astype(np.int32)
    wrong = narrow != values
    if valid is not None:
        wrong &= valid
    if wrong.any():
        raise _BadValueError(wrong, f"{int(values[np.argmax(wrong)])} is no 32-bit integer")
    return from_fixed(leaf.arrow, narrow, valid)


def _floating(leaf: Leaf, cursor: Cursor, starts: Longs, _: Longs, valid: Mask | None) -> pa.Array:
    words = cursor.words[starts]
    return from_fixed(leaf.arrow, words.astype(np.uint32) if leaf.kind == "float" else words, valid)


def _decimal(leaf: Leaf, cursor: Cursor, starts: Longs, lengths: Longs, valid: Mask | None) -> pa.Array:
    array, wrong = decimals.decode(leaf.arrow, cursor.octets, cursor.words, starts, lengths, valid)
    if wrong is not None:
        raise _BadValueError(wrong, f"a decimal of more than {leaf.arrow.precision} digits")
    return array


def _text(leaf: Leaf, cursor: Cursor, starts: Longs, lengths: Longs, valid: Mask | None) -> pa.Array:
    gathered = _gather(cursor, starts, lengths)
    if leaf.kind == "string":
        try:
            gathered = gathered.cast(pa.string())
        except pa.ArrowInvalid:
            raise _BadValueError(_not_utf8(gathered), "text that is not UTF-8") from None
    if valid is None:
        return gathered
    return pa.Array.from_buffers(leaf.arrow, len(gathered), [bitmap(valid), *gathered.buffers()[1:]])


_LEAVES = {
    "boolean": _boolean,
    "int": _integer,
    "long": _integer,
    "float": _floating,
    "double": _floating,
    "decimal": _decimal,
    "string": _text,
    "bytes": _text,
}


def _gather(cursor: Cursor, starts: Longs, lengths: Longs) -> pa.Array:
    """The bytes of each row as a binary array.

    Rows stand in order in the input, so Arrow can be told that it is a binary array already: value, gap, value, gap …
    Taking every other one copies just the values.
    """
    rows = len(starts)
    ends = np.empty(2 * rows, np.int32)
    ends[0::2] = starts
    ends[1::2] = starts + lengths
    alternating = binary(pa.py_buffer(cursor.octets), ends)
    return alternating.take(pa.array(np.arange(0, 2 * rows, 2, dtype=np.int64)))


def _not_utf8(values: pa.Array) -> Mask:
    def broken(value: bytes) -> bool:
        try:
            value.decode()
        except UnicodeDecodeError:
            return True
        return False

    return np.array([broken(value) for value in values.to_pylist()], np.bool_)


def _read_items(node: Items, cursor: Cursor, path: str) -> pa.Array:
    """Arrays, in step: the first item of every row, then the second … A step takes at least one byte of each row."""
    parts: list[pa.Array] = []
    owners: list[npt.NDArray[np.intp]] = []
    left = np.zeros(len(cursor), np.int64)
    active = np.arange(len(cursor))
    while True:
        active = _open_blocks(node, cursor, path, left, active)
        if not len(active):
            break
        part = cursor.of(active)
        parts.append(read(node.item, part, f"{path}[]"))
        owners.append(active)
        cursor.take_back(active, part)
        left[active] -= 1
    if not parts:
        counts, items = np.zeros(len(cursor), np.int64), pa.nulls(0, node.item.arrow)
    else:
        owner = np.concatenate(owners)
        counts = np.bincount(owner, minlength=len(cursor))
        items = pa.concat_arrays(parts).take(pa.array(np.argsort(owner, kind="stable")))
    ends = np.zeros(len(cursor) + 1, np.int32)
    np.cumsum(counts, out=ends[1:])
    return pa.Array.from_buffers(node.arrow, len(cursor), [None, pa.py_buffer(ends)], children=[items])


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
