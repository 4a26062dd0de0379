"""A CockroachDB to test against, as a class: psycopg and any other client connect to it over loopback.

It speaks the wire protocol, runs SQL on a store in memory, answers the catalogue's questions, and sends sinkless changefeeds with the
loose guarantees that real servers were recorded with. Version 26.1 or 22.1. A server in a process of its own is process.py's.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from urllib.parse import quote

from millstream.testing.cockroach import catalogue, changefeeds, definitions
from millstream.testing.cockroach.answers import Answer, Backend, Running
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.faults import RECORDED, Faults, Timing
from millstream.testing.cockroach.feeds import COLUMNS
from millstream.testing.cockroach.functions import VERSIONS
from millstream.testing.cockroach.messages import Row
from millstream.testing.cockroach.session import Result, Session
from millstream.testing.cockroach.store import Release, Store
from millstream.testing.cockroach.syntax import Name
from millstream.testing.cockroach.targets import open_feed
from millstream.testing.cockroach.types import SqlType
from millstream.testing.cockroach.wire import Connection

_ROWS = 500


class CockroachServer:
    """`with CockroachServer() as server: server.url()`. Threads of this process serve it; `faults` goes wrong on demand.

    `timing`: how late feeds are (`pace` makes everything faster; by default as recorded). `passwords`: users who must prove
    themselves, by SCRAM or, with `clear_passwords`, in clear; others who are known need none. `store`: the data, for looking on.
    psycopg's `cancel()` holds the interpreter while it waits: beside a server in the same process use `cancel_safe()`.
    """

    def __init__(
        self, version: Release = "26.1", *, port: int = 0, timing: Timing | None = None, faults: Faults | None = None,
        passwords: Mapping[str, str] | None = None, clear_passwords: bool = False, store: Store | None = None,
    ) -> None:  # fmt: skip
        self.store = store or Store(version)
        self.version = self.store.version
        self.timing = timing or RECORDED[self.version]
        self.faults = faults or Faults()
        self.faults.server = self
        self.settings: Mapping[str, str] = {"crdb_version": VERSIONS[self.version]}
        self.clear_passwords = clear_passwords
        self._passwords = dict(passwords or {})
        self.store.users.update(self._passwords)
        self.port = port
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._open: dict[tuple[int, int], _Backend] = {}
        self._connections: set[Connection] = set()
        self._threads: list[threading.Thread] = []
        self._refused_until_s = 0.0

    # ---- life

    def __enter__(self) -> CockroachServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> CockroachServer:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._thread(self._accept, self._listener)
        return self

    def stop(self) -> None:
        """Close every connection and wait for their threads. The data stays for another `start`."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in self._all():
            connection.running.end(SqlError("57P01", "server is shutting down"))
            connection.shut()
        for thread in list(self._threads):
            thread.join(10)

    def url(self, database: str = "defaultdb", user: str = "root") -> str:
        password = self._passwords.get(user)
        login = quote(user) + (f":{quote(password, safe='')}" if password else "")
        return f"postgresql://{login}@127.0.0.1:{self.port}/{quote(database)}?sslmode=disable"

    def execute(self, sql: str, user: str = "root", database: str = "defaultdb") -> Result:
        """Run one statement without a connection. Raises SqlError. Changefeeds need a connection."""
        session = self.store.session(user, database)
        result = self.answered(session, sql, (), user, database)
        return result if result is not None else self.ran(session, sql, ())

    # ---- statements that are not the session's

    def ran(self, session: Session, sql: str, parameters: Sequence[str | None]) -> Result:
        """A session's statement, and what it means for feeds."""
        before = set(self.store.tables)
        result = session.execute(sql, parameters)
        for created in set(self.store.tables) - before:
            self._split_beside(created)
        split = re.match(r'\s*alter\s+table\s+(?:"?\w+"?\.)*"?([^"\s.]+)"?\s+split\b', sql, re.IGNORECASE)
        if split:
            self.faults.split(split[1])
        return result

    def _split_beside(self, created: int) -> None:
        """A new table takes its range from the one before it."""
        beside = max((n for n in self.store.tables if n < created), default=None)
        if beside is not None:
            self.faults.split(self.store.tables[beside].now.name)

    def answered(self, session: Session, sql: str, parameters: Sequence[str | None], user: str, database: str) -> Result | None:
        """The answer to what no session knows: the catalogue, running statements. None for everything else."""
        first = sql[:7].lower()
        if first == "cancel ":
            return self._cancel_by(sql, parameters, user, database)
        if not first.startswith(("select", "show")) or not catalogue.asks(sql):
            return None
        self.faults.tell("catalogue")
        return catalogue.answer(sql, parameters, self._asked_by(user, database))

    def _asked_by(self, user: str, database: str) -> catalogue.Asker:
        with self._lock:
            running = [(f"{p:x}{s & 0xFFFFFFFF:x}", b.user, b.sql) for (p, s), b in self._open.items() if b.sql]
        return catalogue.Asker(self.store, user, database, running, frozenset(self.faults.refused))

    def _cancel_by(self, sql: str, parameters: Sequence[str | None], user: str, database: str) -> Result:
        inner = re.sub(r"(?is)^\s*cancel\s+quer(y|ies)\s*(if\s+exists\s*)?", "", sql).strip()
        inner = inner[1:-1] if inner.startswith("(") else f"SELECT {inner}"
        named = {row[0] for row in catalogue.answer(inner, parameters, self._asked_by(user, database)).rows}
        with self._lock:
            ended = [b for (p, s), b in self._open.items() if f"{p:x}{s & 0xFFFFFFFF:x}" in named]
        for backend in ended:
            backend.connection.running.end(SqlError("57014", "query execution canceled"))
        return Result([], [], f"CANCEL QUERIES {len(ended)}")

    # ---- as connections see it (wire.Host)

    def password(self, user: str) -> str | None:
        if user in self._passwords:
            return self._passwords[user]
        if user not in self.store.users:
            raise SqlError("28P01", f"password authentication failed for user {user}")
        return None

    def admit(self, user: str, database: str, application: str, connection: Connection) -> tuple[Backend, int, int]:
        if time.monotonic() < self._refused_until_s:
            raise SqlError("57P01", "server is not accepting clients, try another node")
        process, secret = secrets.randbelow(1 << 30), secrets.randbelow(1 << 31)
        backend = _Backend(self, self.store.session(user, database), user, database, connection)
        with self._lock:
            self._open[process, secret] = backend
        return backend, process, secret

    def cancel(self, process: int, secret: int) -> None:
        with self._lock:
            backend = self._open.get((process, secret))
        if backend is not None:
            backend.connection.running.end(SqlError("57014", "query execution canceled"))

    def left(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)
            self._open = {k: b for k, b in self._open.items() if b.connection is not connection}

    # ---- as faults see it (faults.Server)

    def end_statements(self, sqlstate: str, message: str, *, feeds_only: bool) -> int:
        found = self._to_end(feeds_only)
        for backend in found:
            backend.connection.running.end(SqlError(sqlstate, message))
            if sqlstate == "57P01" and not backend.sql:
                backend.connection.shut()  # nothing runs that could be told
        return len(found)

    def break_off(self, *, feeds_only: bool) -> int:
        found = self._to_end(feeds_only)
        for backend in found:
            backend.connection.running.break_off()
            if not backend.is_feed:
                backend.connection.shut()
        return len(found)

    def refuse_connections(self, seconds: float) -> None:
        self._refused_until_s = time.monotonic() + seconds

    def collect_garbage(self, ttl_s: float) -> None:
        self.store.gc(ttl_s)

    def feeds(self) -> int:
        """How many changefeeds run."""
        return len(self._to_end(True))

    def _to_end(self, feeds_only: bool) -> list[_Backend]:
        with self._lock:
            return [b for b in self._open.values() if b.is_feed or not feeds_only]

    # ---- threads

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                connection = Connection(peer, self)
                with self._lock:
                    self._connections.add(connection)
                self._thread(connection.serve)

    def _all(self) -> list[Connection]:
        with self._lock:
            return list(self._connections)

    def _thread(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="cockroach stand-in", daemon=True)
        with self._lock:
            self._threads = [t for t in self._threads if t.is_alive()]
            self._threads.append(thread)
        thread.start()


class _Backend:
    """One connection's statements."""

    def __init__(self, server: CockroachServer, session: Session, user: str, database: str, connection: Connection) -> None:
        self._server, self._session = server, session
        self.user, self._database, self.connection = user, database, connection
        self.sql = ""
        self.is_feed = False

    @property
    def status(self) -> str:
        return self._session.status

    def run(self, sql: str, parameters: Sequence[str | None], running: Running, gone: Callable[[], bool]) -> Answer:
        self.sql = sql
        try:
            if changefeeds.is_changefeed(sql):
                return self._feed(sql, running, gone)
            self._server.faults.tell(sql.split(None, 1)[0].lower())
            self._may(sql)
            result = self._server.answered(self._session, sql, parameters, self.user, self._session.database)
            if result is None:
                result = self._server.ran(self._session, sql, parameters)
        finally:
            if not self.is_feed:
                self.sql = ""
        columns = result.columns or None
        return Answer(columns, iter(_pieces(result.rows)) if columns else iter(()), lambda: result.tag)

    def _named(self, name: Name) -> SqlType:
        return definitions.named_type(self._server.store, name, self._session.database)

    def _may(self, sql: str) -> None:
        if self.user in self._server.faults.refused and _is_of_rows(sql) and not catalogue.asks(sql):
            raise SqlError("42501", f"user {self.user} does not have privilege on relation")

    def _feed(self, sql: str, running: Running, gone: Callable[[], bool]) -> Answer:
        server = self._server
        server.faults.tell("changefeed")
        asked = changefeeds.read(sql, server.version)
        feed = open_feed(server.store, asked, self.user, self._session.database, server.faults, server.timing, self._named)
        sent = 0

        def batches() -> Iterator[Sequence[Row]]:
            nonlocal sent
            self.is_feed, self.sql = True, sql
            try:
                for batch in feed.batches(running, gone):
                    sent += len(batch)
                    yield [(topic, None if key is None else key.encode(), value.encode()) for topic, key, value in batch]
            finally:
                self.is_feed, self.sql = False, ""

        return Answer(COLUMNS, batches(), lambda: f"SELECT {sent}")

    @contextlib.contextmanager
    def together(self, statements: Sequence[str]) -> Iterator[None]:
        """Several statements that only read and write rows are one transaction, as 26.1 has it."""
        whole = len(statements) > 1 and self._server.version != "22.1" and self._session.status == "I" and all(map(_is_of_rows, statements))
        if whole:
            self._session.execute("BEGIN")
        try:
            yield
        except BaseException:
            if whole:
                self._session.execute("ROLLBACK")
            raise
        if whole:
            self._session.execute("COMMIT")

    def close(self) -> None:
        self._session.close()


def _is_of_rows(sql: str) -> bool:
    return re.match(r"(select|insert|upsert|update|delete)\b", sql, re.IGNORECASE) is not None


def _pieces(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]
