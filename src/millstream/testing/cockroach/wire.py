"""The server's side of PostgreSQL's wire protocol, version 3.0: one connection in one thread, text in and text out.

What a statement does is its backend's. TLS is refused ('N'), results are always text, parameters come as text or in the binary
forms that psycopg 3 sends by itself. messages.py has the bytes.

Reference: PostgreSQL 17, "Frontend/Backend Protocol". CockroachDB's peculiarities: the parameter `crdb_version`; DETAIL and HINT.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from millstream.testing.cockroach.answers import Answer, Backend, Cut, Running
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.login import Refused, Scram
from millstream.testing.cockroach.messages import Gone, Messages, Row, string, z
from millstream.testing.cockroach.parameters import gives_rows, parameter_count, parameter_text
from millstream.testing.cockroach.tokens import split

log = logging.getLogger("millstream.testing.cockroach")

VERSION_3, CANCEL, SSL, GSS = 196608, 80877102, 80877103, 80877104
_TEXT = 25


class Host(Protocol):
    """The server as its connections see it."""

    settings: Mapping[str, str]
    """Told to each client at its start, over what the protocol itself needs."""
    clear_passwords: bool
    """Ask for passwords in clear instead of by SCRAM."""

    def password(self, user: str) -> str | None:
        """None: nobody is asked. Raises SqlError for a user who may not come in."""
        ...

    def admit(self, user: str, database: str, application: str, connection: Connection) -> tuple[Backend, int, int]:
        """The backend, and the pair by which this connection's statement can be cancelled. Raises SqlError."""
        ...

    def cancel(self, process: int, secret: int) -> None: ...

    def left(self, connection: Connection) -> None: ...


@dataclass
class _Prepared:
    sql: str
    oids: tuple[int, ...]


@dataclass
class _Portal:
    sql: str
    parameters: tuple[str | None, ...]
    answer: Answer | None = None
    rows: Iterator[Sequence[Row]] | None = None
    kept: list[Row] = field(default_factory=list)
    sent: int = 0


class Connection:
    """`serve()` runs until the client leaves. `running` is for other threads."""

    def __init__(self, peer: socket.socket, host: Host) -> None:
        self._wire, self._host = Messages(peer), host
        self._prepared: dict[str, _Prepared] = {}
        self._portals: dict[str, _Portal] = {}
        self._backend: Backend | None = None
        self.running = Running()

    # ---- life

    def serve(self) -> None:
        try:
            with suppress(Gone, Cut, OSError):
                self._start()
        finally:
            if self._backend is not None:
                self._backend.close()
            self._host.left(self)
            self._wire.close()

    def shut(self) -> None:
        """From another thread: the connection is over, whatever it does."""
        self._wire.shut()

    def _start(self) -> None:
        while True:
            (length,) = struct.unpack("!i", self._wire.take(4))
            if not 8 <= length <= 10_000:
                raise Gone
            body = self._wire.take(length - 4)
            (code,) = struct.unpack_from("!i", body)
            if code in (SSL, GSS):
                self._wire.raw(b"N")
            elif code == CANCEL:
                self._host.cancel(*struct.unpack("!ii", body[4:12]))
                return
            else:
                break
        if code != VERSION_3:
            self._wire.error(SqlError("08P01", f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}"), "FATAL")
            return self._wire.flush()
        words = body[4:].rstrip(b"\0").decode().split("\0")
        said = dict(zip(words[::2], words[1::2], strict=False))
        try:
            self._log_in(said)
        except SqlError as e:
            self._wire.error(e, "FATAL")
            return self._wire.flush()
        while True:
            self._step()

    def _log_in(self, said: Mapping[str, str]) -> None:
        user = said.get("user", "")
        password = self._host.password(user)
        wrong = SqlError("28P01", f"password authentication failed for user {user}")
        if password is not None:
            try:
                self._prove(password)
            except Refused as e:
                raise wrong from e
        database = said.get("database") or "defaultdb"
        backend, process, secret = self._host.admit(user, database, said.get("application_name", ""), self)
        self._backend = backend
        self._wire.put(b"R", struct.pack("!i", 0))
        told = {
            "application_name": said.get("application_name", ""),
            "client_encoding": "UTF8",
            "DateStyle": "ISO, MDY",
            "integer_datetimes": "on",
            "IntervalStyle": "postgres",
            "is_superuser": "on" if user == "root" else "off",
            "server_encoding": "UTF8",
            "server_version": "13.0.0",
            "session_authorization": user,
            "standard_conforming_strings": "on",
            "TimeZone": "UTC",
            **self._host.settings,
        }
        for name, value in told.items():
            self._wire.put(b"S", z(name) + z(value))
        self._wire.put(b"K", struct.pack("!ii", process, secret))
        self._ready()

    def _prove(self, password: str) -> None:
        if self._host.clear_passwords:
            self._wire.put(b"R", struct.pack("!i", 3))
            self._wire.flush()
            if self._password_message().rstrip(b"\0").decode() != password:
                raise Refused
            return
        scram = Scram(password)
        self._wire.put(b"R", struct.pack("!i", 10) + z("SCRAM-SHA-256") + b"\0")
        self._wire.flush()
        body = self._password_message()
        mechanism, _, rest = body.partition(b"\0")
        if mechanism != b"SCRAM-SHA-256":
            raise Refused
        self._wire.put(b"R", struct.pack("!i", 11) + scram.first(rest[4:]))
        self._wire.flush()
        self._wire.put(b"R", struct.pack("!i", 12) + scram.final(self._password_message()))

    def _password_message(self) -> bytes:
        kind, body = self._wire.message()
        if kind != b"p":
            raise Refused
        return body

    # ---- messages in

    def _step(self) -> None:
        kind, body = self._wire.message()
        if kind == b"X":
            raise Gone
        if kind == b"Q":
            return self._simple(body)
        if kind not in _EXTENDED:
            self._wire.error(SqlError("08P01", f"unrecognized client message type {kind!r}"), "FATAL")
            self._wire.flush()
            raise Gone
        try:
            _EXTENDED[kind](self, body)
        except (Gone, Cut, OSError):
            raise
        except Exception as e:
            self._failed(_refusal(e))
            while self._wire.message()[0] != b"S":
                continue
            self._ready()

    def _simple(self, body: bytes) -> None:
        try:
            found = split(body[:-1].decode())
            if not found:
                self._wire.put(b"I", b"")
            assert self._backend is not None
            with self._backend.together(found):
                for sql in found:
                    answer = self._run(sql, ())
                    if answer.columns is not None:
                        self._wire.columns(answer.columns)
                    for batch in answer.batches:
                        self._rows(batch)
                    self._wire.put(b"C", z(answer.tag()))
        except Cut:
            self._cut()
        except (Gone, OSError):
            raise
        except Exception as e:
            self._failed(_refusal(e))
        self._ready()

    def _parse(self, body: bytes) -> None:
        name, at = string(body, 0)
        sql, at = string(body, at)
        (count,) = struct.unpack_from("!h", body, at)
        given = struct.unpack_from(f"!{count}i", body, at + 2)
        found = split(sql)
        if len(found) > 1:
            raise SqlError("42601", "cannot insert multiple commands into a prepared statement")
        text = found[0] if found else ""
        if name and name in self._prepared:
            raise SqlError("42P05", f'prepared statement "{name}" already exists')
        wanted = parameter_count(text)
        self._prepared[name] = _Prepared(text, tuple(given[i] if i < count else 0 for i in range(wanted)))
        self._wire.put(b"1", b"")

    def _bind(self, body: bytes) -> None:
        portal, at = string(body, 0)
        name, at = string(body, at)
        prepared = self._named(name)
        (count,) = struct.unpack_from("!h", body, at)
        formats = struct.unpack_from(f"!{count}h", body, at + 2)
        at += 2 + 2 * count
        (values,) = struct.unpack_from("!h", body, at)
        at += 2
        if values != len(prepared.oids):
            raise SqlError("08P01", f"expected {len(prepared.oids)} arguments, got {values}")
        parameters: list[str | None] = []
        for i in range(values):
            (length,) = struct.unpack_from("!i", body, at)
            at += 4
            if length < 0:
                parameters.append(None)
                continue
            binary = (formats[0] if count == 1 else formats[i] if count else 0) == 1
            try:
                parameters.append(parameter_text(body[at : at + length], prepared.oids[i], binary))
            except NotImplementedError as e:
                raise SqlError("0A000", str(e)) from e
            at += length
        (count,) = struct.unpack_from("!h", body, at)
        if any(struct.unpack_from(f"!{count}h", body, at + 2)):
            raise SqlError("0A000", "the stand-in gives results as text only")
        self._portals[portal] = _Portal(prepared.sql, tuple(parameters))
        self._wire.put(b"2", b"")

    def _describe(self, body: bytes) -> None:
        name, _ = string(body, 1)
        if body[:1] == b"P":
            portal = self._open(name)
            columns = self._answered(portal).columns if gives_rows(portal.sql) else None
        else:
            prepared = self._named(name)
            self._wire.put(b"t", struct.pack(f"!h{len(prepared.oids)}i", len(prepared.oids), *(oid or _TEXT for oid in prepared.oids)))
            # Nothing else tells a statement's columns; reading it with nulls changes nothing.
            columns = self._run(prepared.sql, (None,) * len(prepared.oids)).columns if gives_rows(prepared.sql) else None
        if columns is None:
            self._wire.put(b"n", b"")
        else:
            self._wire.columns(columns)

    def _execute(self, body: bytes) -> None:
        name, at = string(body, 0)
        (limit,) = struct.unpack_from("!i", body, at)
        portal = self._open(name)
        if not portal.sql:
            return self._wire.put(b"I", b"")
        answer = self._answered(portal)
        if portal.rows is None:
            portal.rows = iter(answer.batches)
        try:
            sent = 0
            while True:
                if portal.kept and limit:
                    batch, portal.kept = portal.kept[: limit - sent], portal.kept[limit - sent :]
                    self._rows(batch)
                    sent += len(batch)
                    if sent == limit:
                        return self._wire.put(b"s", b"")
                more = next(portal.rows, None)
                if more is None:
                    break
                if limit:
                    portal.kept.extend(more)
                else:
                    self._rows(more)
        except Cut:
            self._cut()
        self._wire.put(b"C", z(answer.tag()))

    def _close(self, body: bytes) -> None:
        name, _ = string(body, 1)
        (self._portals if body[:1] == b"P" else self._prepared).pop(name, None)
        self._wire.put(b"3", b"")

    def _sync(self, body: bytes) -> None:
        self._portals.clear()
        self._ready()

    def _hurry(self, body: bytes) -> None:
        self._wire.flush()

    def _named(self, name: str) -> _Prepared:
        if name not in self._prepared:
            raise SqlError("26000", f'prepared statement "{name}" does not exist')
        return self._prepared[name]

    def _open(self, name: str) -> _Portal:
        if name not in self._portals:
            raise SqlError("34000", f'portal "{name}" does not exist')
        return self._portals[name]

    def _answered(self, portal: _Portal) -> Answer:
        if portal.answer is None:
            portal.answer = self._run(portal.sql, portal.parameters)
        return portal.answer

    def _run(self, sql: str, parameters: Sequence[str | None]) -> Answer:
        assert self._backend is not None
        words = sql.split(None, 2)
        if words and words[0].upper() == "DEALLOCATE":  # prepared statements live here, so this is nobody else's
            name = words[-1].strip('";')
            if name.upper() == "ALL":
                self._prepared.clear()
            elif self._prepared.pop(name, None) is None:
                raise SqlError("26000", f'prepared statement "{name}" does not exist')
            return Answer(None, iter(()), lambda: "DEALLOCATE")
        self.running.ended_by = None
        self.running.wake.clear()
        return self._backend.run(sql, parameters, self.running, self._wire.gone)

    # ---- messages out

    def _rows(self, rows: Sequence[Row]) -> None:
        """Send rows at once: an endless result's reader waits for each."""
        self._wire.rows(rows)
        if self.running.cut:
            raise Cut
        self._wire.flush()

    def _cut(self) -> None:
        self._wire.cut()
        raise Gone

    def _failed(self, error: SqlError) -> None:
        fatal = error.sqlstate == "57P01"
        self._wire.error(error, "FATAL" if fatal else "ERROR")
        if fatal:
            self._wire.flush()
            raise Gone

    def _ready(self) -> None:
        assert self._backend is not None
        self._wire.put(b"Z", self._backend.status.encode())
        self._wire.flush()


def _refusal(error: Exception) -> SqlError:
    """What a client is told: of a defect of the stand-in too, which would else look like a server that died."""
    if isinstance(error, SqlError):
        return error
    log.error("the stand-in failed", exc_info=error)
    return SqlError("XX000", f"internal error: the stand-in failed: {type(error).__name__}: {error}")


_EXTENDED: Mapping[bytes, Callable[[Connection, bytes], None]] = {
    b"P": Connection._parse,
    b"B": Connection._bind,
    b"D": Connection._describe,
    b"E": Connection._execute,
    b"C": Connection._close,
    b"S": Connection._sync,
    b"H": Connection._hurry,
}
