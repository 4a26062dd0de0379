"""A transaction's writes, kept aside until it commits, and what it reads: the committed rows of its read time under its own writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from millstream.testing.cockroach.descriptors import Key, Row
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.hlc import Hlc
from millstream.testing.cockroach.store import Store
from millstream.testing.cockroach.tables import Table, parts

Found = tuple[Key, Row, Hlc]


class Transaction:
    """Reads at one time, commits at another. Who writes holds the store's writer until the end, so writers go one after the other.

    All methods are called with the store's lock held.
    """

    def __init__(self, store: Store, *, as_of: Hlc | None = None) -> None:
        self.store = store
        self.as_of = as_of
        self.writes: dict[int, dict[Key, Row | None]] = {}
        self.hidden = False
        self._marks: list[tuple[str, tuple[dict[int, dict[Key, Row | None]], dict[tuple[int, int], dict[Key, Key | None]]]]] = []
        self._uniques: dict[tuple[int, int], dict[Key, Key | None]] = {}
        self._read: Hlc | None = as_of
        self._has_read = False

    @property
    def read_at(self) -> Hlc:
        """Fixed by the first thing that is read."""
        if self._read is None:
            self._read = self.store.now()
        return self._read

    def for_writing(self) -> None:
        """Before anything is written. Raises SqlError 25006 in a historical transaction, 40001 where the wait was too long."""
        if self.as_of is not None:
            raise SqlError("25006", "cannot execute a write in a read-only transaction")
        self.store.take_writer(self)
        if not self._has_read and not self.writes:
            self._read = None

    def get(self, table: Table, key: Key) -> Found | None:
        self._has_read = True
        own = self.writes.get(table.now.id)
        if own is not None and key in own:
            row = own[key]
            return None if row is None else (key, row, self.read_at)
        version = table.row(key, self.read_at)
        return None if version is None or version[1] is None else (key, version[1], version[0])

    def scan(self, table: Table, low: Any = None, high: Any = None, *, after: bool = False, through: bool = True) -> Iterator[Found]:
        """Rows in index order between two ranks (see Generation.between)."""
        self._has_read = True
        at = self.read_at
        generation = table.generation(at)
        if generation is None:
            return
        own = self.writes.get(table.now.id) or {}
        keys: Any = generation.between(low, high, after=after, through=through)
        new = [k for k in own if k not in generation.versions]
        if new:
            keys = sorted([*keys, *(k for k in new if _between(generation.rank(k), low, high, after, through))], key=generation.rank)
        for key in keys:
            if own and key in own:
                row = own[key]
                if row is not None:
                    yield key, row, at
                continue
            version = generation.get(key, at)
            if version is not None and version[1] is not None:
                yield key, version[1], version[0]

    def put(self, table: Table, key: Key, row: Row | None) -> None:
        own = self.writes.setdefault(table.now.id, {})
        if key not in own and self._has_read and (last := table.last_write(key)) is not None and last > self.read_at:
            raise SqlError("40001", "restart transaction: TransactionRetryWithProtoRefreshError: WriteTooOldError")
        if table.unique_places:
            self._put_uniques(table, key, row)
        own.pop(key, None)
        own[key] = row

    def _put_uniques(self, table: Table, key: Key, row: Row | None) -> None:
        was = self.get(table, key)
        for index, places in table.unique_places.items():
            held = self._uniques.setdefault((table.now.id, index), {})
            if was is not None:
                held[parts(was[1], places)] = None
            if row is not None:
                held[parts(row, places)] = key

    def holder(self, table: Table, index: int, row: Row) -> Key | None:
        """The key of the row that has these values of a unique index; NULLs are never the same."""
        wanted = parts(row, table.unique_places[index])
        if None in wanted:
            return None
        own = self._uniques.get((table.now.id, index), {})
        return own[wanted] if wanted in own else table.uniques[index].get(wanted)

    def mark(self, name: str) -> None:
        """What is written so far can be come back to under this name; of two the later one counts."""
        held = {table: dict(rows) for table, rows in self.writes.items()}, {at: dict(keys) for at, keys in self._uniques.items()}
        self._marks.append((name, held))

    def back_to(self, name: str, *, release: bool) -> None:
        """As at the mark, which stays; `release`: the mark goes and what was written since stays. Raises SqlError 3B001."""
        place = next((n for n in range(len(self._marks) - 1, -1, -1) if self._marks[n][0] == name), None)
        if place is None:
            raise SqlError("3B001", f'savepoint "{name}" does not exist')
        held = self._marks[place][1]
        del self._marks[place:]
        if not release:
            self.writes, self._uniques = held
            self.mark(name)

    def commit(self) -> Hlc | None:
        """All writes at one new time, which is given back; None where nothing was written."""
        try:
            if not self.writes:
                return None
            at = self.store.now()
            for table_id, rows in self.writes.items():
                table = self.store.tables[table_id]
                if table.now.state != "public":
                    raise SqlError("40001", "restart transaction: the table was dropped")
                for key, row in rows.items():
                    table.write(key, at, row, hidden=self.hidden)
            self.store.changed(sum(map(len, self.writes.values())))
            self.writes = {}
            self.store.written(at)
            return at
        finally:
            self.store.leave_writer(self)

    def rollback(self) -> None:
        self.writes = {}
        self._uniques = {}
        self.store.leave_writer(self)


def _between(rank: Any, low: Any, high: Any, after: bool, through: bool) -> bool:
    if low is not None and (rank[: len(low)] < low or (after and rank[: len(low)] == low)):
        return False
    return high is None or rank[: len(high)] < high or (through and rank[: len(high)] == high)
