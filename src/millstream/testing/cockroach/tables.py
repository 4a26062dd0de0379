"""A table's rows at every time: versions by key, keys in order, and the list of changes in the order of their times.

It knows no SQL. All times given to it rise; whoever calls holds the store's lock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from millstream.testing.cockroach import values
from millstream.testing.cockroach.descriptors import Change, Descriptor, Key, Row
from millstream.testing.cockroach.hlc import Hlc

Version = tuple[Hlc, "Row | None", Any]
"""(written at, row or None where deleted, the older Version or None)."""

_MERGED_ONE_BY_ONE = 256


class Reversed:
    """Orders its value the other way round."""

    __slots__ = ("of",)

    def __init__(self, of: Any) -> None:
        self.of = of

    def __lt__(self, other: Reversed) -> bool:
        return bool(other.of < self.of)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reversed) and bool(other.of == self.of)

    def __hash__(self) -> int:
        return hash(self.of)


_NATURAL = frozenset(("int", "string", "bytes", "uuid", "date", "timestamp", "timestamptz", "time", "bool", "name", "oid"))


def ranker(descriptor: Descriptor) -> Callable[[Key], Any]:
    """Key, or its first members → what it is ordered by in the index."""
    columns = descriptor.key_columns
    falling = [c.name in descriptor.descending for c in columns]
    if not any(falling) and all(c.kind.kind in _NATURAL for c in columns):
        return lambda key: key
    kinds = [c.kind for c in columns]

    def rank(key: Key) -> Any:
        parts = (values.order(v, kind) for v, kind in zip(key, kinds, strict=False))
        return tuple(Reversed(p) if down else p for p, down in zip(parts, falling, strict=False))

    return rank


class Generation:
    """The rows under one primary index, from `since` on. A new key or a TRUNCATE begins another."""

    def __init__(self, since: Hlc, rank: Callable[[Key], Any]) -> None:
        self.since = since
        self.rank = rank
        self.versions: dict[Key, Version] = {}
        self._ranks: list[Any] = []
        self._keys: dict[Any, Key] = {}
        self._fresh: list[Any] = []

    def put(self, key: Key, at: Hlc, row: Row | None) -> None:
        older = self.versions.get(key)
        if older is None:
            rank = self.rank(key)
            if rank is not key:
                self._keys[rank] = key
            self._fresh.append(rank)
        self.versions[key] = (at, row, older)

    def get(self, key: Key, at: Hlc) -> Version | None:
        version = self.versions.get(key)
        while version is not None and version[0] > at:
            version = version[2]
        return version if version is not None and version[1] is not None else None

    def _order(self) -> list[Any]:
        if len(self._fresh) > _MERGED_ONE_BY_ONE:
            self._ranks += self._fresh
            self._ranks.sort()
        else:
            for rank in self._fresh:
                insort(self._ranks, rank)
        self._fresh = []
        return self._ranks

    def between(self, low: Any = None, high: Any = None, *, after: bool = False, through: bool = True) -> Iterator[Key]:
        """Keys in index order, those of deleted rows too: from `low` (behind it where `after`) to `high` (with it where `through`).

        Bounds are ranks of keys or of their first members; then all keys that begin so are meant.
        """
        ranks = self._order()
        start, end = 0, len(ranks)
        if low is not None:
            start = (bisect_right if after else bisect_left)(ranks, low, key=lambda rank: rank[: len(low)])
        if high is not None:
            end = (bisect_right if through else bisect_left)(ranks, high, key=lambda rank: rank[: len(high)])
        for rank in ranks[start:end]:
            yield self._keys.get(rank, rank) if self._keys else rank

    def forget(self, threshold: Hlc) -> None:
        """Drops what nobody may read who reads at or above `threshold`."""
        gone = []
        for key, newest in self.versions.items():
            kept = [v for v in _chain(newest) if v[0] > threshold]
            below = next((v for v in _chain(newest) if v[0] <= threshold), None)
            if below is not None and below[1] is not None:
                kept.append(below)
            if not kept:
                gone.append(key)
                continue
            if len(kept) == sum(1 for _ in _chain(newest)):
                continue
            version: Version | None = None
            for at, row, _ in reversed(kept):
                version = (at, row, version)
            assert version is not None
            self.versions[key] = version
        if gone:
            for key in gone:
                del self.versions[key]
            self._fresh, self._ranks = [], sorted(self.rank(key) for key in self.versions)
            self._keys = {r: self._keys[r] for r in self._ranks} if self._keys else {}


def _chain(version: Version | None) -> Iterator[Version]:
    while version is not None:
        yield version
        version = version[2]


class Table:
    """All generations of a table and the log of its changes."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptors = [descriptor]
        self.generations = [Generation(descriptor.since, ranker(descriptor))]
        self.log: list[Change] = []
        self.uniques: dict[int, dict[Key, Key]] = {}
        self.unique_places: dict[int, tuple[int, ...]] = {}

    @property
    def now(self) -> Descriptor:
        return self.descriptors[-1]

    def descriptor(self, at: Hlc) -> Descriptor | None:
        return next((d for d in reversed(self.descriptors) if d.since <= at), None)

    def generation(self, at: Hlc) -> Generation | None:
        return next((g for g in reversed(self.generations) if g.since <= at), None)

    def row(self, key: Key, at: Hlc) -> Version | None:
        generation = self.generation(at)
        return None if generation is None else generation.get(key, at)

    def last_write(self, key: Key) -> Hlc | None:
        version = self.generations[-1].versions.get(key)
        return None if version is None else version[0]

    def write(self, key: Key, at: Hlc, row: Row | None, *, hidden: bool = False) -> None:
        """A session's write: a version and a change."""
        before = self.generations[-1].get(key, at)
        was = None if before is None else before[1]
        self.generations[-1].put(key, at, row)
        for index, places in self.unique_places.items():
            if was is not None and self.uniques[index].get(part := parts(was, places)) == key:
                del self.uniques[index][part]
            if row is not None:
                self.uniques[index][parts(row, places)] = key
        self.log.append(Change(at, key if row is not None else bare_key(key), was, row, "write", at, hidden))

    def changes(self, after: Hlc, upto: Hlc) -> list[Change]:
        start = bisect_right(self.log, after, key=lambda c: c.hlc)
        return self.log[start : bisect_right(self.log, upto, key=lambda c: c.hlc)]

    def rows(self, at: Hlc) -> Iterator[tuple[Key, Row, Hlc]]:
        """(key, row, written at) in index order."""
        generation = self.generation(at)
        if generation is None:
            return
        for key in generation.between():
            version = generation.get(key, at)
            if version is not None and version[1] is not None:
                yield key, version[1], version[0]

    def begin_generation(self, since: Hlc, descriptor: Descriptor) -> Generation:
        self.generations.append(Generation(since, ranker(descriptor)))
        return self.generations[-1]

    def index_uniques(self, at: Hlc) -> None:
        """After a schema change: which row has which values of each unique index."""
        now = self.now
        self.unique_places = {
            i.id: tuple(now.by_name[c].id - 1 for c in i.columns)
            for i in now.indexes
            if i.unique and all(c in now.by_name for c in i.columns)
        }
        self.uniques = {index: {} for index in self.unique_places}
        for key, row, _ in self.rows(at) if self.unique_places else ():
            for index, places in self.unique_places.items():
                self.uniques[index][parts(row, places)] = key

    def undo(self, after: Hlc) -> None:
        """Everything that was done to the table above `after` is as if it had not been. Nobody may have seen it."""
        self.descriptors = [d for d in self.descriptors if d.since <= after]
        self.generations = [g for g in self.generations if g.since <= after]
        self.log = [c for c in self.log if c.hlc <= after]
        for generation in self.generations:
            for key, version in generation.versions.items():
                kept = next((v for v in _chain(version) if v[0] <= after), None)
                if kept is not version and kept is not None:
                    generation.versions[key] = kept
        self.index_uniques(after)

    def forget(self, threshold: Hlc) -> None:
        while len(self.generations) > 1 and self.generations[1].since <= threshold:
            del self.generations[0]
        for generation in self.generations:
            generation.forget(threshold)
        del self.log[: bisect_right(self.log, threshold, key=lambda c: c.hlc)]


def parts(row: Row, places: tuple[int, ...]) -> Key:
    """The values at some places of a row."""
    return tuple(row[p] if p < len(row) else None for p in places)


def bare_key(key: Key) -> Key:
    """A key as it is decoded from the index alone: a decimal in it has lost its trailing zeros."""
    if any(isinstance(v, Decimal) for v in key):
        return tuple(v.normalize() if isinstance(v, Decimal) and v.is_finite() else v for v in key)
    return key
