"""Where each row's reading stands, and the one error that malformed bytes end in. Knows bytes and varints, no schema."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from millstream.avro import varint
from millstream.avro.columns import Mask
from millstream.avro.varint import Longs
from millstream.errors import BadRecord

# Readable bytes around the data: a step may look before it checks that the datum goes on that far.
PAD_BEFORE, PAD_AFTER = 16, 32


class Cursor:
    """A place in each row's datum. `rows` are the rows' numbers in the batch, for errors."""

    def __init__(
        self, octets: npt.NDArray[np.uint8], words: npt.NDArray[np.uint64], at: Longs, end: Longs, rows: Longs, shift: int, depth: int = 0
    ) -> None:
        self.octets = octets
        self.words = words
        self.at = at
        self.end = end
        self.rows = rows
        self.shift = shift
        self.depth = depth

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
        return Cursor(self.octets, self.words, self.at[rows], self.end[rows], self.rows[rows], self.shift, self.depth)

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
