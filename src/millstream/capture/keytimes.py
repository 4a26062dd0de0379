"""The last version of each key of one topic, from what is committed as complete on: half of admission. Invariants 2 and 8.

A table of fixed-width columns in memory, which numpy probes for a whole batch at once. One that is full is sorted and written to disk, a
`_Run`; what a key has in the table outdoes its runs, and what it has in a later run the earlier ones. An event above all that a run
holds needs no look at it: only repeats and late events read the disk.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from millstream.capture.fingerprints import U64, Prints

Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

SLOTS_MIN = 1 << 8
SLOT_BYTES, RUN_BYTES = 32, 28  # of a key, in memory and on disk
_LOAD_MAX, _LOAD_NEW = 0.6, 0.4  # of a table, when another is made in its place; and of that one
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_MIX_SHIFT = np.uint64(32)


class Times(NamedTuple):
    """Versions (major, minor), one a row."""

    major: U64
    minor: npt.NDArray[np.uint32]

    def above(self, other: Times | tuple[int, int]) -> Bools:
        """Row by row, or all with one."""
        major, minor = other if isinstance(other, Times) else (np.uint64(other[0]), np.uint32(other[1]))
        higher: Bools = self.major > major
        if (same := self.major == major).any():
            higher |= same & (self.minor > minor)
        return higher

    def reach(self, other: tuple[int, int]) -> Bools:
        """Row by row: at it or above."""
        there: Bools = (self.major == np.uint64(other[0])) & (self.minor == np.uint32(other[1]))
        there |= self.above(other)
        return there

    def take(self, which: Bools | Rows) -> Times:
        return Times(self.major[which], self.minor[which])

    def highest(self) -> tuple[int, int]:
        """(0, 0) of none."""
        top = self.major.max(initial=0)
        return int(top), int(self.minor[self.major == top].max(initial=0))

    @classmethod
    def zeros(cls, rows: int) -> Times:
        return cls(np.zeros(rows, np.uint64), np.zeros(rows, np.uint32))


class KeyTimes:
    """What lies below the frontier, a (major, minor) that only rises, is forgotten when room is needed, but what lies at `held` or above
    (`hold`) is not. `folder`: where runs are written, as files without a name; None: where the system keeps temporary ones."""

    def __init__(self, frontier: tuple[int, int], folder: Path | None = None) -> None:
        self._frontier, self._folder = frontier, folder
        self._held: tuple[int, int] | None = None
        self._runs: list[_Run] = []
        self._table = _Table(SLOTS_MIN)

    @property
    def nbytes(self) -> int:
        """In memory."""
        return self._table.slots * SLOT_BYTES

    @property
    def on_disk(self) -> int:
        """Bytes of it."""
        return sum(r.nbytes for r in self._runs)

    def admit(self, keys: Prints, times: Times) -> Bools:
        """Which of these events, in order, are above all that came before of their keys; they count from here on."""
        known, slots = self._last(keys, times)
        fresh = times.above(known)
        rows = np.flatnonzero(fresh)
        order = _by_key(keys.take(rows))
        rows = rows[order]
        rises, newest = _rising(keys.take(rows), times.take(rows))
        fresh[rows[~rises]] = False
        rows = rows[newest]
        self._put(keys.take(rows), times.take(rows), slots[rows])
        return fresh

    def reach(self, keys: Prints, at: tuple[int, int]) -> Bools:
        """Which of these keys have the version `at` or one above it; it may not lie below the frontier."""
        return self._last(keys, None)[0].reach(at)

    def move(self, frontier: tuple[int, int]) -> None:
        self._frontier = max(frontier, self._frontier)
        kept = self._kept_from
        self._runs = [r for r in self._runs if r.highest >= kept]
        if self._table.used and self._table.highest < kept:
            self._table = _Table(SLOTS_MIN)

    def hold(self, at: tuple[int, int] | None) -> None:
        """From here on what is put in there or above is kept, wherever the frontier goes. None: no longer."""
        self._held = at

    @property
    def _kept_from(self) -> tuple[int, int]:
        return self._frontier if self._held is None else min(self._held, self._frontier)

    def spill(self) -> None:
        """What is in memory goes to disk."""
        keys, times = self._survivors()
        if len(keys):
            self._runs.append(_Run(keys, times, self._folder))
        self._table = _Table(SLOTS_MIN)

    def _last(self, keys: Prints, times: Times | None) -> tuple[Times, Rows]:
        """The last version of each key, (0, 0) of one that has none, and its slot in the table: its own, or the empty one where it would
        go. `times`: no more is asked than whether these are above it."""
        slots, found, known = self._table.find(keys)
        left = ~found
        for run in reversed(self._runs):
            asked = left if times is None else left & ~times.above(run.highest)
            if not asked.any():
                continue
            rows = np.flatnonzero(asked)
            places, there = run.find(keys.take(rows))
            rows = rows[there]
            known.major[rows], known.minor[rows] = run.major[places[there]], run.minor[places[there]]
            left[rows] = False
        return known, slots

    def _put(self, keys: Prints, times: Times, slots: Rows) -> None:
        """`keys` are distinct, and `slots` theirs."""
        if not len(keys):
            return
        if self._table.used + len(keys) > _LOAD_MAX * self._table.slots:
            self._make_room(len(keys))
            slots, _, _ = self._table.find(keys)
        self._table.put(keys, times, slots)

    def _make_room(self, coming: int) -> None:
        old_keys, old_times = self._survivors()
        slots = SLOTS_MIN
        while len(old_keys) + coming > _LOAD_NEW * slots:
            slots *= 2
        self._table = _Table(slots)
        if len(old_keys):
            self._table.put(old_keys, old_times, self._table.find(old_keys)[0])

    def _survivors(self) -> tuple[Prints, Times]:
        keys, times = self._table.entries()
        alive = times.reach(self._kept_from)
        return keys.take(alive), times.take(alive)


class _Table:
    """A hash table with open addresses. Nothing is ever taken out of it. A slot is a row of `cells`, as a cache line holds it: both
    fingerprints, the first 0 where it is empty, and the version."""

    def __init__(self, slots: int) -> None:
        self.slots, self.used = slots, 0
        self.highest = (0, 0)
        self.cells = np.zeros((slots, 4), np.uint64)

    def find(self, keys: Prints) -> tuple[Rows, Bools, Times]:
        """Each key's slot, or the empty one at which its search ends; which are there, and their versions, (0, 0) where none is."""
        mixed = keys.first * _MIX
        mixed ^= mixed >> _MIX_SHIFT
        slots = (mixed & np.uint64(self.slots - 1)).astype(np.intp)
        cells = self.cells.take(slots, 0)
        there = (cells[:, 0] == keys.first) & (cells[:, 1] == keys.second)
        rows = np.flatnonzero(~there & (cells[:, 0] != 0))
        while len(rows):
            at = (slots[rows] + 1) & (self.slots - 1)
            slots[rows], cells[rows] = at, (here := self.cells.take(at, 0))
            there[rows] = found = (here[:, 0] == keys.first[rows]) & (here[:, 1] == keys.second[rows])
            rows = rows[~found & (here[:, 0] != 0)]
        return slots, there, Times(cells[:, 2], cells[:, 3].astype(np.uint32))

    def put(self, keys: Prints, times: Times, slots: Rows) -> None:
        """Distinct keys; `slots` as `find` gave them, with nothing put in between."""
        self.highest = max(self.highest, times.highest())
        new = np.stack([keys.first, keys.second, times.major, times.minor.astype(np.uint64)], axis=1)
        rows, at = np.arange(len(keys)), slots
        while len(rows):
            wanted = new if len(rows) == len(new) else new[rows]
            here = self.cells.take(at, 0)
            free = here[:, 0] == 0
            may = free | ((here[:, 0] == wanted[:, 0]) & (here[:, 1] == wanted[:, 1]))
            self.cells[at[may]] = wanted[may]
            # Of several that took one slot, numpy leaves the last: the others go on.
            here = self.cells.take(at, 0)
            mine = (here[:, 0] == wanted[:, 0]) & (here[:, 1] == wanted[:, 1])
            self.used += int(np.count_nonzero(free & mine))
            rows, at = rows[~mine], (at[~mine] + 1) & (self.slots - 1)

    def entries(self) -> tuple[Prints, Times]:
        used = self.cells[self.cells[:, 0] != 0]
        return Prints(used[:, 0], used[:, 1]), Times(used[:, 2], used[:, 3].astype(np.uint32))


class _Run:
    """Distinct keys in order of their fingerprints, on disk."""

    def __init__(self, keys: Prints, times: Times, folder: Path | None) -> None:
        order = _by_key(keys)
        self.highest = times.highest()
        columns = (keys.first[order], keys.second[order], times.major[order], times.minor[order])
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix="keytimes", dir=folder) as file:
            for column in columns:
                column.tofile(file)
            file.flush()
            rows, at, mapped = len(keys), 0, []
            for column in columns:
                mapped.append(np.memmap(file, column.dtype, "r", at, (rows,)))
                at += column.nbytes
        self.nbytes = at
        self._first, self._second, self.major, self.minor = mapped

    def find(self, keys: Prints) -> tuple[Rows, Bools]:
        """Each key's place, and which are there; of one that is not, any place."""
        last = len(self._first) - 1
        places = np.minimum(np.searchsorted(self._first, keys.first), last)
        while (other := (self._first[places] == keys.first) & (self._second[places] < keys.second) & (places < last)).any():
            places += other
        return places, (self._first[places] == keys.first) & (self._second[places] == keys.second)


def _by_key(keys: Prints) -> Rows:
    """The order that puts the rows of one key together, each key's in the order in which they came; `first` rises."""
    order: Rows = np.argsort(keys.first, kind="stable")
    first, second = keys.first[order], keys.second[order]
    if ((first[1:] == first[:-1]) & (second[1:] != second[:-1])).any():
        order = np.lexsort((keys.second, keys.first))
    return order


def _rising(keys: Prints, times: Times) -> tuple[Bools, Bools]:
    """Of rows with those of one key together: which are above all rows of their key before them, and which of these are the last."""
    same = (keys.first[1:] == keys.first[:-1]) & (keys.second[1:] == keys.second[:-1])
    rises, last = np.ones(len(keys), np.bool_), np.ones(len(keys), np.bool_)
    if not same.any():
        return rises, last
    rises[1:] = ~same | Times(times.major[1:], times.minor[1:]).above(Times(times.major[:-1], times.minor[:-1]))
    group = np.concatenate([[0], np.cumsum(~same)])
    if not rises.all():
        # Each key's highest so far, as one number that rises from key to key.
        places = _ranks(times) + group * len(keys)
        rises[1:] = ~same | (places[1:] > np.maximum.accumulate(places)[:-1])
    rows = np.flatnonzero(rises)
    last[:] = False
    last[rows[np.append(group[rows[1:]] != group[rows[:-1]], True)]] = True
    return rises, last


def _ranks(times: Times) -> npt.NDArray[np.int64]:
    """Numbers below their count that order like the versions."""
    order = np.lexsort((times.minor, times.major))
    inorder = times.take(order)
    steps = (inorder.major[1:] != inorder.major[:-1]) | (inorder.minor[1:] != inorder.minor[:-1])
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.concatenate([[0], np.cumsum(steps)])
    return ranks
