"""The registry in SQL tables: SQLite on one machine, Postgres for a mesh. Makes its tables; wiring hands the engine in.

Rows are added, never updated or deleted, so an id once given out means the same for ever. Compatibility rules are
not here: this module records what was registered.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections import OrderedDict
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from millstream.errors import Irrecoverable, MillstreamError, Retryable, without_secrets
from millstream.schemas.registry import SchemaVersion

_METADATA = sa.MetaData()
_SCHEMAS = sa.Table(
    "registry_schemas",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    # Texts outgrow what Postgres can index, so the digest carries the promise "same text, same id".
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("text", sa.Text, nullable=False),
    sqlite_autoincrement=True,  # SQLite would otherwise give the id of a deleted last row out again
)
_VERSIONS = sa.Table(
    "registry_versions",
    _METADATA,
    sa.Column("subject", sa.String(512), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("schema_id", sa.Integer, sa.ForeignKey("registry_schemas.id"), nullable=False),
    sa.UniqueConstraint("subject", "schema_id"),
)

_ATTEMPTS = 50
_CACHE_BYTES_MAX = 16 << 20


def sqlite_engine(path: Path, *, busy_timeout_s: float = 10.0) -> sa.Engine:
    """An engine on one SQLite file that survives a crash (WAL, synchronous=FULL) and waits for other writers.

    Makes the file. Raises Irrecoverable("registry_unusable") where it cannot, or where the file is something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _use_wal(path, busy_timeout_s)
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": busy_timeout_s})

    @sa.event.listens_for(engine, "connect")
    def _settle(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("synchronous=FULL", "fullfsync=ON", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _use_wal(path: Path, timeout_s: float) -> None:
    """The mode stays with the file. Changing to it does not wait for others by itself, so it is tried until it works."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with closing(sqlite3.connect(path, timeout=timeout_s, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.Error as error:
            busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() > deadline:
                raise Irrecoverable(
                    f"the file cannot be used: {error}",
                    code="registry_unusable",
                    where=str(path),
                    cure="check the path and its permissions; if the file is damaged, put a sound copy back",
                ) from error
            time.sleep(0.01)


class SqlRegistry:
    """`Registry` over an SQLAlchemy engine. Safe for several threads and processes that register at once.

    Raises Retryable("registry_busy") or ("registry_down") where the database does not answer, Irrecoverable("disk_full")
    where it has no room; nothing is half registered.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._texts: OrderedDict[int, str] = OrderedDict()
        self._texts_bytes = 0
        self._lock = threading.Lock()
        self._retried(lambda: _METADATA.create_all(engine))

    def register(self, subject: str, text: str) -> SchemaVersion:
        """The version with this text: the existing one, or the next. The same text has one id under every subject."""
        digest = hashlib.sha256(text.encode()).hexdigest()
        found: SchemaVersion = self._retried(lambda: self._find(subject, text, digest) or self._add(subject, text, digest))
        return found

    def by_id(self, schema_id: int) -> str:
        """The schema's text, from memory after the first time. Raises Retryable("schema_unknown")."""
        with self._lock:
            text = self._texts.get(schema_id)
        if text is None:
            query = sa.select(_SCHEMAS.c.text).where(_SCHEMAS.c.id == schema_id)
            text = self._retried(lambda: self._scalar(query))
            if text is None:
                raise Retryable(
                    f"no schema has the id {schema_id}",
                    code="schema_unknown",
                    where=f"registry {self._place}",
                    cure="it is looked up again; if it stays unknown, this is not the registry that the topic was written with",
                )
            self._remember(schema_id, text)
        return text

    def versions(self, subject: str) -> list[SchemaVersion]:
        """Oldest first; empty for an unknown subject."""
        query = (
            sa.select(_VERSIONS.c.subject, _VERSIONS.c.version, _VERSIONS.c.schema_id, _SCHEMAS.c.text)
            .join(_SCHEMAS, _SCHEMAS.c.id == _VERSIONS.c.schema_id)
            .where(_VERSIONS.c.subject == subject)
            .order_by(_VERSIONS.c.version)
        )
        return [SchemaVersion(*row) for row in self._retried(lambda: self._rows(query))]

    def subjects(self) -> list[str]:
        """Every subject, by name."""
        query = sa.select(_VERSIONS.c.subject).distinct().order_by(_VERSIONS.c.subject)
        return [subject for (subject,) in self._retried(lambda: self._rows(query))]

    def _find(self, subject: str, text: str, digest: str) -> SchemaVersion | None:
        query = (
            sa.select(_VERSIONS.c.version, _VERSIONS.c.schema_id)
            .join(_SCHEMAS, _SCHEMAS.c.id == _VERSIONS.c.schema_id)
            .where(_VERSIONS.c.subject == subject, _SCHEMAS.c.digest == digest)
        )
        rows = self._rows(query)
        return SchemaVersion(subject, rows[0][0], rows[0][1], text) if rows else None

    def _add(self, subject: str, text: str, digest: str) -> SchemaVersion:
        """Add what is missing. A racing writer makes one of the two break a unique constraint, roll back and look again."""
        by_digest = sa.select(_SCHEMAS.c.id).where(_SCHEMAS.c.digest == digest)
        if self._scalar(by_digest) is None:
            with self._engine.begin() as connection:
                connection.execute(_SCHEMAS.insert().values(digest=digest, text=text))
        schema_id = self._scalar(by_digest)
        last = self._scalar(sa.select(sa.func.max(_VERSIONS.c.version)).where(_VERSIONS.c.subject == subject))
        version = (last or 0) + 1
        with self._engine.begin() as connection:
            connection.execute(_VERSIONS.insert().values(subject=subject, version=version, schema_id=schema_id))
        return SchemaVersion(subject, version, schema_id, text)

    def _rows(self, query: Any) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.execute(query))

    def _scalar(self, query: Any) -> Any:
        with self._engine.connect() as connection:
            return connection.execute(query).scalar()

    def _remember(self, schema_id: int, text: str) -> None:
        with self._lock:
            if schema_id in self._texts:
                return
            self._texts[schema_id] = text
            self._texts_bytes += len(text)
            while self._texts_bytes > _CACHE_BYTES_MAX and len(self._texts) > 1:  # Invariant 8
                self._texts_bytes -= len(self._texts.popitem(last=False)[1])

    @property
    def _place(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    def _retried(self, work: Any) -> Any:
        """`work()`, again after each lost race; every attempt begins by looking, so a race ends with the winner's row."""
        for _ in range(_ATTEMPTS):
            try:
                return work()
            except sa.exc.IntegrityError:
                continue
            except sa.exc.OperationalError as error:
                if "already exists" in str(error.orig):  # two processes made the tables at once
                    continue
                raise self._explained(error) from error
            except sa.exc.ProgrammingError as error:
                if "already exists" in str(error.orig):
                    continue
                raise
        raise Retryable(
            f"lost the race to register {_ATTEMPTS} times in a row",
            code="registry_busy",
            where=f"registry {self._place}",
            cure="it is tried again; if it stays, look for a process that registers schemas in a loop",
        )

    def _explained(self, error: sa.exc.OperationalError) -> MillstreamError:
        where = f"registry {self._place}"
        what = without_secrets(str(error.orig).strip())
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return Irrecoverable(
                what, code="disk_full", where=where, cure="free space on that disk, then start again; nothing was registered"
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Retryable(what, code="registry_busy", where=where, cure="another process holds the file; it is tried again")
        return Retryable(what, code="registry_down", where=where, cure="check that the database is there and answers")
