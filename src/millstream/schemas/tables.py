"""The registry's tables: SQLite on one machine, Postgres for a mesh. Reads, whole writes one after the other, and older files' upgrade.

A schema's row is added and never changed or removed, whatever is deleted of its subjects: an id once given out means the same for
ever. What a write means is `sql.py`'s and `rest/`'s.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from millstream.errors import Irrecoverable, MillstreamError, Refused, Retryable, without_secrets
from millstream.faultpoints import reached
from millstream.schemas.avrotext import canonical
from millstream.schemas.registry import Reference, SchemaVersion

T = TypeVar("T")

METADATA = sa.MetaData()
SCHEMAS = sa.Table(
    "registry_schemas",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    # Texts outgrow what Postgres can index, so the digest carries the promise "same schema, same id".
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("refs", sa.Text, nullable=True),  # JSON [[name, subject, version], …]; null for none
    sqlite_autoincrement=True,
)
VERSIONS = sa.Table(
    "registry_versions",
    METADATA,
    sa.Column("subject", sa.String(512), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("schema_id", sa.Integer, sa.ForeignKey("registry_schemas.id"), nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("registered_at", sa.Float, nullable=True),  # seconds since 1970; null for those of before it was kept
    sa.UniqueConstraint("subject", "schema_id"),
)
SETTINGS = sa.Table(
    "registry_settings",
    METADATA,
    sa.Column("subject", sa.String(512), primary_key=True),  # "" for the whole registry
    sa.Column("level", sa.String(32), nullable=True),
    sa.Column("mode", sa.String(32), nullable=True),
)

_ATTEMPTS = 50
_LOCK = 0x6D73_7265  # the key that writers of one Postgres database agree on


class Database:
    """The tables, made or upgraded where they have to be. Safe for several threads and processes at once.

    Raises Retryable("registry_busy") or ("registry_down") where the database does not answer, Irrecoverable("disk_full")
    where it has no room; nothing is half written.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._retried(lambda: METADATA.create_all(engine))
        self._upgrade()

    @property
    def place(self) -> str:
        return f"registry {self._engine.url.render_as_string(hide_password=True)}"

    def rows(self, query: Any) -> list[Any]:
        return self.read(lambda connection: list(connection.execute(query)))

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """`work` on a connection, which writes nothing."""

        def whole() -> T:
            with self._engine.connect() as connection:
                return work(connection)

        return self._retried(whole)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """`work` in one transaction, which no other writer's runs beside: what it reads stays so until it is committed."""

        def whole() -> T:
            with self._engine.connect() as connection:
                if self._engine.dialect.name == "sqlite":
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
                done = work(connection)
                connection.commit()
                return done

        return self._retried(whole)

    def _upgrade(self) -> None:
        """Files of before subjects could be deleted lack columns, and their digests told texts apart, not schemas. Files of before
        versions had a time lack that."""
        if not self._outdated(self._engine):
            return

        def work(connection: sa.Connection) -> None:
            lacking = self._outdated(connection)  # nothing any more, where another process was faster
            if "registered_at" in lacking:
                connection.exec_driver_sql("ALTER TABLE registry_versions ADD COLUMN registered_at DOUBLE PRECISION")
            if "refs" not in lacking:
                return
            connection.exec_driver_sql("ALTER TABLE registry_schemas ADD COLUMN refs TEXT")
            connection.exec_driver_sql("ALTER TABLE registry_versions ADD COLUMN deleted BOOLEAN NOT NULL DEFAULT FALSE")
            taken = set(connection.execute(sa.select(SCHEMAS.c.digest)).scalars())
            for number, text in list(connection.execute(sa.select(SCHEMAS.c.id, SCHEMAS.c.text).order_by(SCHEMAS.c.id))):
                digest = digest_of(canonical(text))
                if digest not in taken:  # else two texts said the same: each keeps its id, the older one is given out from now on
                    taken.add(digest)
                    connection.execute(SCHEMAS.update().where(SCHEMAS.c.id == number).values(digest=digest))

        self.write(work)

    @staticmethod
    def _outdated(bind: Any) -> set[str]:
        """The columns that are not there yet."""
        there = {c["name"] for table in ("registry_schemas", "registry_versions") for c in sa.inspect(bind).get_columns(table)}
        return {"refs", "registered_at"} - there

    def _retried(self, work: Callable[[], T]) -> T:
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
            where=self.place,
            cure="it is tried again; if it stays, look for a process that registers schemas in a loop",
        )

    def _explained(self, error: sa.exc.OperationalError) -> MillstreamError:
        what = without_secrets(str(error.orig).strip())
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            cure = "free space on that disk, then start again; nothing was registered"
            return Irrecoverable(what, code="disk_full", where=self.place, cure=cure)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            cure = "another process holds the file; it is tried again"
            return Retryable(what, code="registry_busy", where=self.place, cure=cure)
        return Retryable(what, code="registry_down", where=self.place, cure="check that the database is there and answers")


def digest_of(canonical_text: str, references: Sequence[Reference] = ()) -> str:
    """What tells schemas apart: two of them with one digest are one schema, and have one id."""
    refs = refs_text(references)
    return hashlib.sha256((canonical_text if refs is None else f"{canonical_text}\n{refs}").encode()).hexdigest()


def refs_text(references: Sequence[Reference]) -> str | None:
    return json.dumps([[r.name, r.subject, r.version] for r in references], ensure_ascii=False) if references else None


def version_of(row: Any) -> SchemaVersion:
    """A row of `VERSION_COLUMNS`."""
    subject, version, number, text, refs, at, *_ = row
    return SchemaVersion(subject, version, number, text, tuple(Reference(*r) for r in json.loads(refs)) if refs else (), at)


VERSION_COLUMNS = (
    VERSIONS.c.subject, VERSIONS.c.version, VERSIONS.c.schema_id, SCHEMAS.c.text, SCHEMAS.c.refs, VERSIONS.c.registered_at,
)  # fmt: skip


def versions_query(*conditions: Any, deleted: bool = False) -> Any:
    """VERSION_COLUMNS and whether it is deleted; oldest first in each subject. `deleted`: those that are deleted too."""
    wanted = conditions if deleted else (*conditions, ~VERSIONS.c.deleted)
    joined = sa.select(*VERSION_COLUMNS, VERSIONS.c.deleted).join(SCHEMAS, SCHEMAS.c.id == VERSIONS.c.schema_id)
    return joined.where(*wanted).order_by(VERSIONS.c.subject, VERSIONS.c.version)


def add_version(
    connection: sa.Connection,
    subject: str,
    text: str,
    digest: str,
    references: Sequence[Reference] = (),
    *,
    wanted_id: int | None = None,
    wanted_version: int | None = None,
) -> SchemaVersion:
    """The subject's next version (or the wanted one) with this schema, which gets the next id (or the wanted one) if it has none.

    A deleted version with the same schema goes: the new one stands for it. Raises Refused("id_taken") or ("version_taken")
    where the wanted ones are another's.
    """
    found = connection.execute(sa.select(SCHEMAS.c.id).where(SCHEMAS.c.digest == digest)).scalar()
    if found is None:
        last = connection.execute(sa.select(sa.func.max(SCHEMAS.c.id))).scalar() or 0
        found = wanted_id or last + 1  # rows are never removed, so this one was never given out
        if connection.execute(sa.select(SCHEMAS.c.id).where(SCHEMAS.c.id == found)).scalar() is not None:
            raise Refused(f"the id {found} means another schema", code="id_taken", where=subject)
        connection.execute(SCHEMAS.insert().values(id=found, digest=digest, text=text, refs=refs_text(references)))
        reached("registry.schema")
    elif wanted_id not in (None, found):
        raise Refused(f"this schema has the id {found} already, and cannot have {wanted_id}", code="id_taken", where=subject)
    gone = sa.and_(VERSIONS.c.subject == subject, VERSIONS.c.schema_id == found, VERSIONS.c.deleted)
    top = connection.execute(sa.select(sa.func.max(VERSIONS.c.version)).where(VERSIONS.c.subject == subject)).scalar() or 0
    version = wanted_version or top + 1
    connection.execute(VERSIONS.delete().where(gone))
    here = sa.and_(VERSIONS.c.subject == subject, sa.or_(VERSIONS.c.version == version, VERSIONS.c.schema_id == found))
    if connection.execute(sa.select(VERSIONS.c.version).where(here)).first():
        raise Refused(f"{subject} has a version {version}, or this schema, already", code="version_taken", where=subject)
    now = time.time()
    connection.execute(VERSIONS.insert().values(subject=subject, version=version, schema_id=found, registered_at=now))
    reached("registry.version")
    stored = connection.execute(sa.select(SCHEMAS.c.text).where(SCHEMAS.c.id == found)).scalar()
    return SchemaVersion(subject, version, found, str(stored), tuple(references), now)
