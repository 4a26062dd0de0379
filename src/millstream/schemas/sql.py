"""The registry in SQL tables, as connectors, pipelines and readers use it: they record what they write, and nothing refuses it.

Compatibility levels and deletions are `rest/`'s, over the same tables.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from millstream.errors import Irrecoverable, Retryable
from millstream.schemas.avrotext import canonical
from millstream.schemas.registry import SchemaVersion
from millstream.schemas.tables import SCHEMAS, VERSIONS, Database, add_version, digest_of, version_of, versions_query
from millstream.schemas.texts import Texts


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
        self.database = Database(engine)
        self._texts = Texts()

    def register(self, subject: str, text: str) -> SchemaVersion:
        """The version with this text: the existing one, or the next. The same text has one id under every subject."""
        # An upgraded file may have two ids for two spellings of one schema: the very text comes first.
        digests = [digest_of(text), digest_of(canonical(text))]
        for digest in digests:
            query = versions_query(VERSIONS.c.subject == subject, SCHEMAS.c.digest == digest)
            if found := self.database.rows(query):
                return version_of(found[0])

        def work(connection: sa.Connection) -> SchemaVersion:
            there = connection.execute(versions_query(VERSIONS.c.subject == subject, SCHEMAS.c.digest == digests[1])).first()
            return version_of(there) if there else add_version(connection, subject, text, digests[1])

        return self.database.write(work)

    def by_id(self, schema_id: int) -> str:
        """The schema's text, from memory after the first time. Raises Retryable("schema_unknown")."""
        text = self._texts.get(schema_id)
        if text is None:
            rows = self.database.rows(sa.select(SCHEMAS.c.text).where(SCHEMAS.c.id == schema_id))
            if not rows:
                raise Retryable(
                    f"no schema has the id {schema_id}",
                    code="schema_unknown",
                    where=self.database.place,
                    cure="it is looked up again; if it stays unknown, this is not the registry that the topic was written with",
                )
            text = str(rows[0][0])
            self._texts.keep(schema_id, text)
        return text

    def versions(self, subject: str) -> list[SchemaVersion]:
        """Oldest first; empty for an unknown subject."""
        return [version_of(row) for row in self.database.rows(versions_query(VERSIONS.c.subject == subject))]

    def subjects(self) -> list[str]:
        """Every subject, by name."""
        query = sa.select(VERSIONS.c.subject).where(~VERSIONS.c.deleted).distinct().order_by(VERSIONS.c.subject)
        return [subject for (subject,) in self.database.rows(query)]
