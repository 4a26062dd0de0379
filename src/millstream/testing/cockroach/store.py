"""The stand-in's data: databases, tables at every time, users, settings. Everything is in memory; one lock guards it all.

Sessions (session.py) run SQL on it; a feed reads `changes` and `rows`. Times are strictly rising HLCs, so once `now()` has been asked
nothing will ever be written at or below what it gave.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from millstream.testing.cockroach.descriptors import Change, Descriptor, Key, Row
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.hlc import ZERO, Hlc
from millstream.testing.cockroach.syntax import Name
from millstream.testing.cockroach.tables import Table
from millstream.testing.cockroach.tokens import tokens
from millstream.testing.cockroach.types import SqlType

if TYPE_CHECKING:
    from millstream.testing.cockroach.session import Session

Release = Literal["26.1", "22.1"]
GC_TTL_S = 14_400
GC_EVERY = 100_000
WRITER_WAIT_S = 10.0
_ROW_IDS_SINCE_NS = 1_420_070_400 * 10**9
_FIRST_ID = {"26.1": 104, "22.1": 52}


class Store:
    """`clock` gives nanoseconds since 1970; the store makes strictly rising times of it whatever it gives.

    What lies more than `gc_ttl_s` seconds back is forgotten at every so many changes, so memory is bounded by what is written meanwhile.
    """

    def __init__(
        self, version: Release = "26.1", clock: Callable[[], int] | None = None, *, seed: int = 0, gc_ttl_s: float = GC_TTL_S
    ) -> None:
        self.version: Release = version
        self.lock = threading.RLock()
        self.settings: dict[str, str] = {
            "kv.rangefeed.enabled": "true", "version": version, "cluster.organization": "", "enterprise.license": "",
        }  # fmt: skip
        self.users: set[str] = {"root", "admin"}
        self.grants: dict[tuple[str, int], set[str]] = {}
        self.roles: dict[str, set[str]] = {"root": {"admin"}}
        self.databases: dict[str, set[str]] = {"defaultdb": {"public"}, "postgres": {"public"}, "system": {"public"}}
        self.types: dict[tuple[str, str, str], SqlType] = {}
        self.tables: dict[int, Table] = {}
        self.catalogue_version = 0
        self.gc_ttl_s = gc_ttl_s
        self._changes = 0
        self.threshold = ZERO
        self.random = random.Random(seed)  # noqa: S311 - values for tests, no secrets
        self._clock = clock or time.time_ns
        self._last = ZERO
        self._written = ZERO
        self._changed = threading.Condition(self.lock)
        self._current: dict[tuple[str, str, str], int] = {}
        self._next_id = _FIRST_ID[version]
        self._row_id = 0
        self.splits: list[tuple[Hlc, int]] = []
        self._writer: object | None = None

    # ---- time

    def now(self) -> Hlc:
        """A time above every one given before."""
        with self.lock:
            wall = self._clock()
            self._last = Hlc(wall) if wall > self._last.wall else self._last.next()
            return self._last

    def wait(self, after: Hlc, timeout: float) -> None:
        """Until something is written above `after`, or `timeout` seconds have passed."""
        with self._changed:
            self._changed.wait_for(lambda: self._written > after, timeout)

    def written(self, at: Hlc) -> None:
        """Something was written at `at`: those who wait are woken."""
        with self._changed:
            self._written = max(self._written, at)
            self._changed.notify_all()

    def unique_row_id(self) -> int:
        """As unique_rowid() makes them: steps of ten microseconds since 2015 above, the node below; rising."""
        with self.lock:
            self._row_id = max(self._row_id + (1 << 15), ((self._clock() - _ROW_IDS_SINCE_NS) // 10_000 << 15) | 1)
            return self._row_id

    def next_id(self) -> int:
        with self.lock:
            self._next_id += 1
            return self._next_id

    # ---- who writes

    def take_writer(self, who: object) -> None:
        """One transaction writes at a time; another's is waited for. Raises SqlError 40001 after WRITER_WAIT_S."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._writer is None or self._writer is who, WRITER_WAIT_S):
                raise SqlError("40001", "restart transaction: TransactionRetryWithProtoRefreshError: another transaction holds a lock")
            self._writer = who

    def leave_writer(self, who: object) -> None:
        with self._changed:
            if self._writer is who:
                self._writer = None
                self._changed.notify_all()

    # ---- names

    def session(self, user: str = "root", database: str = "defaultdb") -> Session:
        from millstream.testing.cockroach.session import Session

        return Session(self, user, database)

    def full_name(self, name: Name, database: str) -> tuple[str, str, str]:
        """(database, schema, table) that a name in parts means for a session in `database`."""
        if len(name) == 3:
            return name[0], name[1], name[2]
        if len(name) == 2:
            if name[0] in self.databases.get(database, ()):
                return database, name[0], name[1]
            return name[0], "public", name[1]
        return database, "public", name[0]

    def find(self, name: Name, database: str = "defaultdb") -> Table | None:
        """The table, view or sequence of that name now."""
        found = self._current.get(self.full_name(name, database))
        return None if found is None else self.tables[found]

    def table(self, name: str, at: Hlc, database: str = "defaultdb") -> Descriptor | None:
        """What `name`, as SQL writes it (`t`, `s.t`, `db.s."T"`), meant at a time; None where there was no such table."""
        parts = tuple(t.text for t in tokens(name) if t.kind in ("word", "name"))
        wanted = self.full_name(parts, database)
        with self.lock:
            for table in self.tables.values():
                found = table.descriptor(at)
                if found is not None and found.state == "public" and (found.database, found.schema, found.name) == wanted:
                    return found
        return None

    def descriptors(self, table_id: int) -> list[Descriptor]:
        """The whole history of a table, oldest first."""
        with self.lock:
            return list(self.tables[table_id].descriptors)

    def all_descriptors(self, at: Hlc) -> list[Descriptor]:
        """Every table, view and sequence that was there at a time."""
        with self.lock:
            found = (t.descriptor(at) for t in self.tables.values())
            return [d for d in found if d is not None and d.state == "public"]

    def add_table(self, descriptor: Descriptor) -> Table:
        table = self.tables[descriptor.id] = Table(descriptor)
        self._named(descriptor)
        return table

    def change_table(self, table: Table, descriptor: Descriptor) -> None:
        """`descriptor` is in force from its `since`."""
        was = table.now
        self._current.pop((was.database, was.schema, was.name), None)
        table.descriptors.append(descriptor)
        if descriptor.state == "public":
            self._named(descriptor)
        self.catalogue_version += 1
        self.written(descriptor.since)

    def undo(self, table: Table, after: Hlc) -> None:
        """A statement that failed half-way leaves the table as it was at `after`; the lock was held meanwhile."""
        was = table.now
        table.undo(after)
        self._current.pop((was.database, was.schema, was.name), None)
        self._named(table.now)

    def _named(self, descriptor: Descriptor) -> None:
        self._current[descriptor.database, descriptor.schema, descriptor.name] = descriptor.id
        self.catalogue_version += 1

    # ---- rows

    def changes(self, table_id: int, after: Hlc, upto: Hlc) -> list[Change]:
        """What a changefeed tells of the table with after < hlc <= upto, by hlc. Raises SqlError where `after` is too old."""
        with self.lock:
            self.readable(after)
            return self.tables[table_id].changes(after, upto)

    def rows(self, table_id: int, at: Hlc) -> list[tuple[Key, Row, Hlc]]:
        """(key, row, written at) of all rows at a time, in index order."""
        with self.lock:
            self.readable(at)
            return list(self.tables[table_id].rows(at))

    def readable(self, at: Hlc) -> None:
        """Raises SqlError XXUUU where what was at that time may be gone."""
        if at < self.threshold:
            raise SqlError("XXUUU", f"batch timestamp {_shown(at)} must be after replica GC threshold {_shown(self.threshold)}")

    def changed(self, count: int) -> None:
        """`count` more changes were written: every so often that is when what is too old goes."""
        self._changes += count
        if self._changes >= GC_EVERY:
            self._changes = 0
            self.gc(self.gc_ttl_s)

    def gc(self, ttl_s: float = GC_TTL_S) -> Hlc:
        """Forgets what lies more than `ttl_s` seconds back, and gives the threshold below which nothing can be read now."""
        with self.lock:
            self.threshold = max(self.threshold, Hlc(max(self.now().wall - int(ttl_s * 1e9), 0)))
            for table in self.tables.values():
                table.forget(self.threshold)
            return self.threshold

    # ---- who may what

    def may(self, user: str, table_id: int, privilege: str) -> bool:
        """Has the user this privilege on the table, by itself, by a role or by being an admin?"""
        with self.lock:
            names = self.roles_of(user)
            if names & {"root", "admin"}:
                return True
            held = set[str]().union(*(self.grants.get((n, table_id), ()) for n in (*names, "public")))
            return bool(held & {privilege.lower(), "all"})

    def roles_of(self, user: str) -> set[str]:
        found, more = set[str](), {user}
        while more:
            found |= more
            more = set[str]().union(*(self.roles.get(n, ()) for n in more)) - found
        return found

    def tables_of(self, database: str, schema: str | None = None) -> Iterable[Table]:
        return [t for t in self.tables.values() if t.now.state == "public" and t.now.database == database
                and schema in (None, t.now.schema)]  # fmt: skip


def _shown(at: Hlc) -> str:
    return f"{at.wall // 1_000_000_000}.{at.wall % 1_000_000_000:09},{at.logical}"
