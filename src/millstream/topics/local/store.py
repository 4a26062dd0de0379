"""The SQLite file: its tables, connections, transactions, and what its errors mean. Knows nothing of records.

Writers take turns by a lock in this process and a lock file between processes; SQLite's own lock stays underneath.
The lock file also keeps a checkpoint from running beside another process's commit: SQLite 3.7.0 to 3.51.2 can then
damage the file (sqlite.org/wal.html, "The WAL-Reset Bug"). Do not carry an open store across a fork.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millstream.errors import Irrecoverable, MillstreamError, Refused, Retryable

APPLICATION_ID = 0x4D53_544D  # "MSTM"
FORMAT = 3

_TABLES = """
CREATE TABLE topics (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, key TEXT NOT NULL, key_schema_id INTEGER NOT NULL,
  grade TEXT NOT NULL, origin TEXT NOT NULL, incarnation INTEGER NOT NULL, next_offset INTEGER NOT NULL, checksum INTEGER NOT NULL);
-- A block says where it begins and where the next one does, so that compaction may leave fewer records than offsets.
-- The payload stands last: a scan over the other columns does not walk through it.
CREATE TABLE blocks (
  id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, first_offset INTEGER NOT NULL, next_offset INTEGER NOT NULL,
  records INTEGER NOT NULL, events INTEGER NOT NULL, schema_id INTEGER NOT NULL, codec TEXT NOT NULL,
  raw_bytes INTEGER NOT NULL, checksum INTEGER NOT NULL, payload BLOB NOT NULL, UNIQUE (topic_id, first_offset));
CREATE TABLE producers (
  name TEXT PRIMARY KEY, fence INTEGER NOT NULL, sequence INTEGER NOT NULL, state TEXT NOT NULL, ends TEXT NOT NULL,
  checksum INTEGER NOT NULL);
CREATE TABLE readers (
  reader TEXT NOT NULL, topic TEXT NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (reader, topic)) WITHOUT ROWID;
"""
_COMPACTIONS = "CREATE TABLE compactions (topic_id INTEGER PRIMARY KEY, marks TEXT NOT NULL, checksum INTEGER NOT NULL);"
# To whom a block's events are addressed; null: to all.
_ADDRESSEES = "ALTER TABLE blocks ADD COLUMN addressee TEXT;"
# Format → what makes the next one of it.
_UPGRADES = {1: _COMPACTIONS, 2: _ADDRESSEES}

_CHECKPOINT_PAGES = 4096  # 16 MiB of log before it is copied into the file
_LOG_BYTES_KEPT = 64 << 20
_IDLE_READERS_MAX = 16
_FULL_BYTES = 1 << 20
_UNUSABLE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)


class StoreClosed(RuntimeError):
    """Something was asked of topics after their close."""


class Store:
    """One open file. Methods may be called from any thread.

    Raises Irrecoverable("topics_foreign") for a file that is not ours, ("topic_damaged") for one that SQLite cannot
    read, Refused("topics_newer") for a later format.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float) -> None:
        self.path = path
        self._timeout_s = busy_timeout_s
        self._turn = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._idle_lock = threading.Lock()
        self.closed = False
        with _explained(path, str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock_file = os.open(path.with_name(path.name + "-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                with self._lock_between_processes(self._timeout_s):
                    self._writer = self._opened()
            except BaseException:
                os.close(self._lock_file)
                raise

    @contextmanager
    def reading(self, where: str = "") -> Iterator[sqlite3.Connection]:
        """A connection for this thread alone, to read with. `where` names the place in errors."""
        with _explained(self.path, where or str(self.path)):
            with self._idle_lock:
                if self.closed:
                    raise StoreClosed(f"{self.path} is closed")
                connection = self._idle.pop() if self._idle else None
            connection = connection or self._connected()
            try:
                yield connection
            finally:
                with self._idle_lock:
                    keep = not self.closed and len(self._idle) < _IDLE_READERS_MAX
                    if keep:
                        self._idle.append(connection)
                if not keep:
                    connection.close()

    @contextmanager
    def writing(self, where: str = "", *, patience_s: float | None = None) -> Iterator[sqlite3.Connection]:
        """One write transaction: durable when the block ends, undone when it raises.

        Raises Retryable("topics_busy") when the turn does not come within `patience_s` (None: the store's own timeout),
        Irrecoverable("disk_full") with nothing kept.
        """
        wait_s = self._timeout_s if patience_s is None else patience_s
        with _explained(self.path, where or str(self.path)), self._lock_in_process(wait_s), self._lock_between_processes(wait_s):
            if self.closed:
                raise StoreClosed(f"{self.path} is closed")
            connection = self._writer
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk may have rolled back already
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Idle connections now, those in use when they come back. A second call does nothing."""
        with self._turn:
            with self._idle_lock:
                if self.closed:
                    return
                self.closed = True
                idle, self._idle = self._idle, []
            for connection in (*idle, self._writer):  # the writer last: the last to close copies the log into the file
                connection.close()
            os.close(self._lock_file)

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA fullfsync=ON")
        return connection

    def _opened(self) -> sqlite3.Connection:
        connection = self._connected()
        try:
            self._check_ours(connection)
            if not _pragma(connection, "application_id"):  # before there is a log, which could be lost apart from the file
                connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before there is a table, or it has no effect
                ours = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT};"
                connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} {_COMPACTIONS} {_ADDRESSEES} {ours} COMMIT")
            for version in range(_pragma(connection, "user_version"), FORMAT):
                connection.executescript(f"BEGIN IMMEDIATE; {_UPGRADES[version]} PRAGMA user_version={version + 1}; COMMIT")
            self._check_small_tables(connection)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit={_LOG_BYTES_KEPT}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_ours(self, connection: sqlite3.Connection) -> None:
        """Changes nothing: a file that is somebody else's is left as it was."""
        application = _pragma(connection, "application_id")
        (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != APPLICATION_ID and (application or objects):
            raise Irrecoverable(
                "this SQLite file holds something else than Millstream topics",
                code="topics_foreign",
                where=str(self.path),
                cure="give topics a path of their own, or put the right file back",
            )
        version = _pragma(connection, "user_version")
        if application == APPLICATION_ID and version not in (*_UPGRADES, FORMAT):
            raise Refused(
                f"the file has format {version}; this version of Millstream knows formats up to {FORMAT}",
                code="topics_newer",
                where=str(self.path),
                cure="run it with the version of Millstream that wrote it, or a later one",
            )

    def _check_small_tables(self, connection: sqlite3.Connection) -> None:
        """A topic or a writer that damage hides would be made anew, from offset or sequence 0. Blocks are checked when read."""
        for table in ("topics", "producers", "compactions"):
            ((finding, *_), *_) = connection.execute(f"PRAGMA integrity_check('{table}')").fetchall()
            if finding != "ok":
                raise _damaged(finding, self.path, str(self.path))

    @contextmanager
    def _lock_in_process(self, wait_s: float) -> Iterator[None]:
        if not self._turn.acquire(timeout=wait_s):
            raise _busy(self.path, "another thread has been writing", wait_s)
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _lock_between_processes(self, wait_s: float) -> Iterator[None]:
        deadline = time.monotonic() + wait_s
        pause_s = 0.0005
        while not _locked(self._lock_file):
            if time.monotonic() > deadline:
                raise _busy(self.path, "another process has been writing", wait_s)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.01)
        try:
            yield
        finally:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


@contextmanager
def _explained(path: Path, where: str) -> Iterator[None]:
    """SQLite's and the system's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        known = _known(error, path, where)
        if known is None:
            raise
        raise known from error
    except UnicodeDecodeError as error:  # in a text, or in SQLite's complaint about one
        raise _damaged(error, path, where) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(path) from error
        raise Irrecoverable(
            f"the file cannot be used: {error.strerror}", code="topics_unusable", where=str(path), cure="mend the disk or the permissions"
        ) from error


def _known(error: sqlite3.Error, path: Path, where: str) -> MillstreamError | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return _busy(path, "something else holds SQLite's lock", None)
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
        return _disk_full(path)
    if code in _UNUSABLE:
        return Irrecoverable(
            f"the file cannot be used: {error}",
            code="topics_unusable",
            where=str(path),
            cure="mend the disk or the permissions, then start again",
        )
    if not isinstance(error, sqlite3.DatabaseError) or isinstance(error, sqlite3.ProgrammingError):
        return None
    # Our statements never change, so whatever else SQLite finds wrong with them is wrong with the file.
    return _damaged(error, path, where)


def _damaged(error: Exception | str, path: Path, where: str) -> Irrecoverable:
    return Irrecoverable(
        f"the file is damaged: {error}",
        code="topic_damaged",
        where=where,
        cure=f"stop every process that uses {path}, put a sound copy back (the file with its -wal), or move it away and backfill",
    )


def _is_full(path: Path) -> bool:
    free = os.statvfs(path.parent)
    return free.f_bavail * free.f_frsize < _FULL_BYTES


def _disk_full(path: Path) -> Irrecoverable:
    return Irrecoverable(
        "no space is left for the topics; nothing of this commit was kept, and what was there still reads",
        code="disk_full",
        where=str(path),
        cure=f"free space on the disk of {path.parent} or raise its quota, then resume",
    )


def _busy(path: Path, what: str, waited_s: float | None) -> Retryable:
    waited = f" for {waited_s:g} s" if waited_s is not None else ""
    return Retryable(
        f"{what}{waited}",
        code="topics_busy",
        where=str(path),
        cure="it is tried again; if it stays, look for a stopped process that holds the file",
    )
