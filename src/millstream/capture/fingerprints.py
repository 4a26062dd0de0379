"""Keys as 128 bits, whole columns at once: what admission remembers of a key.

Two different keys have the same fingerprint with a chance of 2^-128, whatever the keys are, as the numbers that make it are drawn anew for
each `Fingerprints`; so it is never kept beyond the process, and of 10^9 keys no two can be expected to meet in 10^20 openings.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

U64 = npt.NDArray[np.uint64]
_HALVES = 4  # each of 32 bits
_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(0xFFFFFFFF00000000)
_SHIFT = np.uint64(32)
_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)  # of a word, the first n bytes


@dataclass(frozen=True)
class Prints:
    """One a key: `first`, never 0, and `second`."""

    first: U64
    second: U64

    def __len__(self) -> int:
        return len(self.first)

    def take(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Prints:
        return Prints(self.first[which], self.second[which])


class Fingerprints:
    """Makes them. Those of two instances cannot be compared."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(secrets.randbits(128))
        self._factors = self._drawn(16)

    def _drawn(self, words: int) -> U64:
        return self._random.integers(0, 2**64, (words, _HALVES), np.uint64)

    def of(self, keys: pa.BinaryArray) -> Prints:
        """Of keys as bytes, without nulls.

        Reference: Lemire and Kaser, "Strongly universal string hashing is fast" (2013), Multilinear: the upper half of
        m0 + Σ m(i+1)·s(i) modulo 2^64 over 32-bit characters s, with random m. The length is one of the characters.
        """
        rows = len(keys)
        offsets = np.frombuffer(keys.buffers()[1], np.int32, rows + 1, keys.offset * 4)
        starts, lengths = offsets[:-1].astype(np.int64), np.diff(offsets)
        longest = int(lengths.max(initial=0))
        words = -(-longest // 8)
        if len(self._factors) < 2 * words + 2:
            self._factors = np.concatenate([self._factors, self._drawn(2 * words + 2 - len(self._factors))])
        sums = [np.uint64(m) + np.uint64(n) * lengths.astype(np.uint64) for m, n in self._factors[:2].T]
        if words:
            data = np.frombuffer(keys.buffers()[2], np.uint8, offsets[-1] - offsets[0], offsets[0])
            padded = np.concatenate([data, np.zeros(8 * words, np.uint8)])
            every = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))  # the word at every byte
            starts = starts - offsets[0]
            for i in range(words):
                word = every[starts + 8 * i] & _MASKS[np.clip(lengths - 8 * i, 0, 8)]
                low, high = word & _LOW, word >> _SHIFT
                for half, (m, n) in enumerate(self._factors[2 * i + 2 : 2 * i + 4].T):
                    sums[half] += m * low
                    sums[half] += n * high
        a, b, c, d = sums
        first, second = (a & _HIGH) | (b >> _SHIFT), (c & _HIGH) | (d >> _SHIFT)
        first[first == 0] = 1  # 0 is an empty place of a table
        return Prints(first, second)
