"""Reading the values that hold no others: numbers, text, bytes, decimals, enums, fixed.

Two halves: `step` moves the cursors past the values and checks lengths; what makes the Arrow array comes after.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from millstream.avro import decimals
from millstream.avro.columns import Mask, binary, bitmap, from_fixed
from millstream.avro.cursor import Cursor
from millstream.avro.schema import Leaf
from millstream.avro.varint import Longs


def step(leaf: Leaf, cursor: Cursor, path: str, valid: Mask | None) -> tuple[Longs, Longs]:
    """Past a leaf. Variable ones: where their bytes start and how many; fixed ones: where they start, and the width;
    integers: their values (twice)."""
    if leaf.kind in ("int", "long", "enum"):
        values = cursor.long(path, valid, f"{'a' if leaf.kind == 'long' else 'an'} {leaf.kind}")
        return values, values
    if leaf.kind in ("fixed", "null"):
        starts, lengths = cursor.at, np.full(len(cursor), leaf.size) if valid is None else np.where(valid, leaf.size, 0)
        cursor.move(lengths, path, f"a fixed of {leaf.size} bytes")
        return starts, lengths
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


def read_leaf(leaf: Leaf, cursor: Cursor, path: str, valid: Mask | None) -> pa.Array:
    before = cursor.at
    first, second = step(leaf, cursor, path, valid)
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
    gathered = gather(cursor, starts, lengths)
    if leaf.kind == "string":
        try:
            gathered = gathered.cast(pa.string())
        except pa.ArrowInvalid:
            raise _BadValueError(_not_utf8(gathered), "text that is not UTF-8") from None
    if valid is None:
        return gathered
    return pa.Array.from_buffers(leaf.arrow, len(gathered), [bitmap(valid), *gathered.buffers()[1:]])


def _enum(leaf: Leaf, cursor: Cursor, values: Longs, _: Longs, valid: Mask | None) -> pa.Array:
    wrong = (values < 0) | (values >= len(leaf.symbols))
    if valid is not None:
        wrong &= valid
    if wrong.any():
        raise _BadValueError(wrong, f"there is no symbol {int(values[np.argmax(wrong)])} in an enum of {len(leaf.symbols)}")
    return pa.array(leaf.symbols, pa.string()).take(pa.array(values, mask=None if valid is None else ~valid))


def _fixed(leaf: Leaf, cursor: Cursor, starts: Longs, lengths: Longs, valid: Mask | None) -> pa.Array:
    return (_decimal if pa.types.is_decimal(leaf.arrow) else _text)(leaf, cursor, starts, lengths, valid)


def _null(leaf: Leaf, cursor: Cursor, starts: Longs, lengths: Longs, valid: Mask | None) -> pa.Array:
    return pa.nulls(len(starts))


_LEAVES = {
    "boolean": _boolean,
    "int": _integer,
    "long": _integer,
    "float": _floating,
    "double": _floating,
    "decimal": _decimal,
    "string": _text,
    "bytes": _text,
    "enum": _enum,
    "fixed": _fixed,
    "null": _null,
}


def gather(cursor: Cursor, starts: Longs, lengths: Longs) -> pa.Array:
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
