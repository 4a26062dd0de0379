"""Subjects as the REST API has them: registering by the subject's level and mode, looking up, deleting in two stages, references.

HTTP is `endpoints.py`'s and `server.py`'s. Every refusal is Refused with one of `faults.CODES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from millstream.errors import Refused
from millstream.schemas.avrotext import AvroText, Document
from millstream.schemas.registry import Reference, SchemaVersion
from millstream.schemas.rest.faults import fault, no_schema, no_subject, no_version, not_permitted
from millstream.schemas.rest.settings import effective, forget
from millstream.schemas.tables import (
    SCHEMAS,
    VERSIONS,
    Database,
    add_version,
    digest_of,
    version_of,
    versions_query,
)

Check = Callable[[Any, str, Sequence[str]], Sequence[object]]
"""check(level, new text, earlier texts oldest first): what breaks the level, each with its words as a text; empty where it may follow."""

VERSION_MAX = (1 << 31) - 1
LATEST = -1
AT_ONCE = 1000
_SUBJECT_MAX = 512
_DEEP = 100
_ATTEMPTS = 20


_Types = dict[str, Document]


@dataclass(frozen=True)
class Asked:
    """A schema as a client sends it. `id` and `version` only where it imports them."""

    text: str
    references: tuple[Reference, ...] = ()
    id: int | None = None
    version: int | None = None
    normalize: bool = False


@dataclass(frozen=True)
class _Read:
    """A schema that was read: the text to keep, what tells it apart, and itself with every reference written out."""

    text: str
    digest: str
    references: tuple[Reference, ...]
    whole: str


@dataclass(frozen=True)
class _Seen:
    """What a verdict rests on. Where it has changed by the time of the write, the verdict is asked for again."""

    level: str
    mode: str
    versions: tuple[SchemaVersion, ...]


class Subjects:
    """The subjects of one registry. `owned` says which ones Millstream alone writes: they are shown, never changed from here."""

    def __init__(self, database: Database, check: Check, owned: Callable[[str], bool]) -> None:
        self._database, self._check, self._owned = database, check, owned

    # ---- looking ------------------------------------------------------------------------------------------------------
    def names(self, prefix: str = "", *, deleted: bool = False, deleted_only: bool = False) -> list[str]:
        query = sa.select(VERSIONS.c.subject, VERSIONS.c.deleted).where(_begins(prefix)).distinct()
        rows = self._database.rows(query if deleted or deleted_only else query.where(~VERSIONS.c.deleted))
        live = {name for name, gone in rows if not gone}
        return sorted({name for name, _ in rows if not deleted_only or name not in live})

    def every(
        self, prefix: str = "", *, deleted: bool = False, latest_only: bool = False, offset: int = 0, limit: int = AT_ONCE
    ) -> list[SchemaVersion]:
        """Versions of every subject, by name: `limit` of them from the `offset`-th on."""
        wanted = [_begins(prefix)]
        if latest_only:
            newest = sa.select(VERSIONS.c.subject, sa.func.max(VERSIONS.c.version)).group_by(VERSIONS.c.subject)
            newest = newest if deleted else newest.where(~VERSIONS.c.deleted)
            wanted.append(sa.tuple_(VERSIONS.c.subject, VERSIONS.c.version).in_(newest))
        query = versions_query(*wanted, deleted=deleted).offset(offset).limit(limit)
        return [version_of(row) for row in self._database.rows(query)]

    def versions(self, subject: str, *, deleted: bool = False, deleted_only: bool = False) -> list[int]:
        rows = self._all(VERSIONS.c.subject == subject, deleted=deleted or deleted_only)
        if not rows:
            raise no_subject(subject)
        return [v.version for v, gone in rows if gone or not deleted_only]

    def version(self, subject: str, number: int, *, deleted: bool = False) -> SchemaVersion:
        """LATEST is the newest of those that are looked at."""
        rows = self._all(VERSIONS.c.subject == subject, deleted=deleted)
        if not rows:
            raise no_subject(subject)
        found = rows[-1][0] if number == LATEST else next((v for v, _ in rows if v.version == number), None)
        if found is None:
            raise no_version(number)
        return found

    def by_id(self, schema_id: int) -> SchemaVersion:
        """One version with that id. An id of which no subject has a version left, not even a deleted one, is not found."""
        rows = self._all(VERSIONS.c.schema_id == schema_id, deleted=True)
        if not rows:
            raise no_schema(schema_id)
        return rows[0][0]

    def users(self, schema_id: int, *, deleted: bool = False) -> list[SchemaVersion]:
        """Every version with that id."""
        self.by_id(schema_id)
        return [v for v, _ in self._all(VERSIONS.c.schema_id == schema_id, deleted=deleted)]

    def last_id(self) -> int:
        return int(self._database.rows(sa.select(sa.func.max(SCHEMAS.c.id)))[0][0] or 0)

    def lookup(self, subject: str, asked: Asked, *, deleted: bool = False) -> SchemaVersion:
        """The version of the subject that says the same."""
        rows = self._all(VERSIONS.c.subject == subject, deleted=deleted)
        if not rows:
            raise no_subject(subject)
        found = self._same([v for v, _ in rows], self._read(asked))
        if found is None:
            raise no_schema()
        return found

    def referenced_by(self, subject: str, number: int) -> list[int]:
        """The ids of schemas that refer to that version."""
        version = self.version(subject, number, deleted=True).version
        return self._database.read(lambda c: _referring(c, subject, version))

    # ---- compatibility -----------------------------------------------------------------------------------------------
    def incompatibilities(self, subject: str, asked: Asked, number: int | None) -> list[str]:
        """Why the subject's level does not let it follow that version; without a number, all that the level looks at."""
        read = self._read(asked)
        seen = self._seen(subject)
        if number is None:
            earlier: Sequence[SchemaVersion] = seen.versions
        elif number == LATEST:
            earlier = seen.versions[-1:]
        else:
            earlier = [self.version(subject, number)]
        return self._unfit(seen.level, read, earlier)

    # ---- registering -------------------------------------------------------------------------------------------------
    def register(self, subject: str, asked: Asked) -> SchemaVersion:
        """The version with this schema: the one there is, or the next, if mode and level allow it."""
        _check_name(subject)
        read = self._read(asked)
        for _ in range(_ATTEMPTS):
            seen = self._seen(subject)
            found = None if asked.version else self._same(seen.versions, read)
            if found is not None and asked.id in (None, found.id):
                return found
            self._may_register(subject, asked, seen)
            if seen.mode != "IMPORT" and (why := self._unfit(seen.level, read, seen.versions)):
                before = f'Schema being registered is incompatible with an earlier schema for subject "{subject}"'
                raise fault("409", f"{before}, details: {'; '.join(why)}", f"the subject's level is {seen.level}")
            added = self._database.write(lambda c, seen=seen: self._added(c, subject, asked, read, seen))  # type: ignore[misc]
            if added is not None:
                return added
        raise fault("50002", f"other clients changed {subject} {_ATTEMPTS} times meanwhile")

    def _may_register(self, subject: str, asked: Asked, seen: _Seen) -> None:
        if self._owned(subject):
            raise not_permitted(f"Subject {subject} is that of a topic which Millstream writes: it alone registers there")
        if seen.mode in ("READONLY", "READONLY_OVERRIDE"):
            raise not_permitted(f"Subject {subject} is in read-only mode")
        if asked.id is not None and seen.mode != "IMPORT":
            raise not_permitted(f"Subject {subject} is not in import mode")
        if asked.id is None and seen.mode != "READWRITE":
            raise not_permitted(f"Subject {subject} is not in read-write mode")

    def _added(self, connection: sa.Connection, subject: str, asked: Asked, read: _Read, seen: _Seen) -> SchemaVersion | None:
        """The new version; None where what `seen` says is so no longer."""
        if _seen(connection, subject) != seen:
            return None
        for reference in read.references:
            here = sa.and_(VERSIONS.c.subject == reference.subject, VERSIONS.c.version == reference.version)
            if connection.execute(sa.select(VERSIONS.c.version).where(here)).first() is None:
                raise _bad_reference(reference)
        top = connection.execute(sa.select(sa.func.max(VERSIONS.c.version)).where(VERSIONS.c.subject == subject)).scalar() or 0
        if asked.version and seen.mode != "IMPORT" and asked.version != top + 1:
            raise fault("42201", f"Version is not one more than previous version: the next one is {top + 1}")
        wanted = {"wanted_id": asked.id, "wanted_version": asked.version}
        try:
            return add_version(connection, subject, read.text, read.digest, read.references, **wanted)
        except Refused as error:
            raise not_permitted(error.message) from None

    def _same(self, versions: Sequence[SchemaVersion], read: _Read) -> SchemaVersion | None:
        """The version that says the same. A text that spells out what another refers to says the same as that one."""
        query = sa.select(SCHEMAS.c.id).where(SCHEMAS.c.digest.in_([read.digest, digest_of(read.text)]))
        ids = {number for (number,) in self._database.rows(query)}
        for version in reversed(versions):
            if version.id in ids:
                return version
        if not read.references:
            for version in reversed(versions):
                if version.references and AvroText(self._whole(version)).canonical == AvroText(read.text).canonical:
                    return version
        return None

    # ---- deleting ----------------------------------------------------------------------------------------------------
    def delete_version(self, subject: str, number: int, *, permanent: bool = False) -> int:
        """Hide a version; once hidden, `permanent` removes it. Its id and what it means stay."""

        def work(connection: sa.Connection) -> int:
            rows = {row.version: row.deleted for row in connection.execute(_of(subject))}
            version = max(rows if permanent else [v for v, gone in rows.items() if not gone], default=0) if number == LATEST else number
            self._may_delete(connection, subject, rows, [version])
            if version not in rows:
                raise no_version(number)
            where = f"Subject '{subject}' Version {version}"
            if not permanent and rows[version]:
                raise fault("40406", f"{where} was soft deleted. Set permanent=true to delete permanently")
            if permanent and not rows[version]:
                raise fault("40407", f"{where} was not deleted first before being permanently deleted")
            self._remove(connection, subject, [version], permanent)
            return version

        return self._database.write(work)

    def delete(self, subject: str, *, permanent: bool = False) -> list[int]:
        """Hide all its versions; once all are hidden, `permanent` removes them. The versions that it did this to."""

        def work(connection: sa.Connection) -> list[int]:
            rows = {row.version: row.deleted for row in connection.execute(_of(subject))}
            live = [v for v, gone in rows.items() if not gone]
            chosen = list(rows) if permanent else live
            self._may_delete(connection, subject, rows, chosen)
            if permanent and live:
                raise fault("40405", f"Subject '{subject}' was not deleted first before being permanently deleted")
            if not permanent and not live:
                raise fault("40404", f"Subject '{subject}' was soft deleted. Set permanent=true to delete permanently")
            self._remove(connection, subject, chosen, permanent)
            return chosen

        return self._database.write(work)

    def _may_delete(self, connection: sa.Connection, subject: str, rows: Mapping[int, bool], chosen: Sequence[int]) -> None:
        if not rows:
            raise no_subject(subject)
        if self._owned(subject):
            raise not_permitted(f"Subject {subject} is that of a topic which Millstream writes: its events need it")
        if effective(connection, "mode", subject) in ("READONLY", "READONLY_OVERRIDE"):
            raise not_permitted(f"Subject {subject} is in read-only mode")
        for version in chosen:
            if _referring(connection, subject, version):
                raise fault("42206", f"One or more references exist to the schema {{subject={subject},version={version}}}.")

    @staticmethod
    def _remove(connection: sa.Connection, subject: str, versions: Sequence[int], permanent: bool) -> None:
        chosen = sa.and_(VERSIONS.c.subject == subject, VERSIONS.c.version.in_(versions))
        if permanent:
            connection.execute(VERSIONS.delete().where(chosen))
            return
        connection.execute(VERSIONS.update().where(chosen).values(deleted=True))
        if not any(not row.deleted for row in connection.execute(_of(subject))):
            forget(connection, subject)

    # ---- reading texts -----------------------------------------------------------------------------------------------
    def _read(self, asked: Asked) -> _Read:
        references = tuple(self._resolved(r) for r in asked.references)
        try:
            text = AvroText(asked.text, self._types(references))
            return _Read(text.normal if asked.normalize else text.compact, digest_of(text.canonical, references), references, text.whole)
        except Refused as error:
            raise fault("42201", error.message, error.cure) from None

    def _resolved(self, reference: Reference) -> Reference:
        """With the version's number, where the newest is asked for."""
        try:
            return Reference(reference.name, reference.subject, self.version(reference.subject, reference.version).version)
        except Refused:
            raise _bad_reference(reference) from None

    def _types(self, references: Sequence[Reference], depth: int = 0, read: dict[tuple[str, int], _Types] | None = None) -> _Types:
        """The named types that references give, theirs included. `read`: those of versions met before: many ways may lead to one."""
        if depth > _DEEP:
            raise fault("42201", "references go too deep")
        read = {} if read is None else read
        given: _Types = {}
        for reference in references:
            at = (reference.subject, reference.version)
            if at not in read:
                version = self.version(*at, deleted=True)
                theirs = self._types(version.references, depth + 1, read)
                read[at] = {**theirs, **AvroText(version.text, theirs).defined}
            given |= read[at]
        return given

    def _whole(self, version: SchemaVersion) -> str:
        return AvroText(version.text, self._types(version.references)).whole if version.references else version.text

    def _unfit(self, level: str, read: _Read, earlier: Sequence[SchemaVersion]) -> list[str]:
        if level == "NONE" or not earlier:
            return []
        try:
            return [str(breach) for breach in self._check(level, read.whole, [self._whole(v) for v in earlier])]
        except Refused as error:
            raise fault("42201", error.message) from None

    # ---- rows --------------------------------------------------------------------------------------------------------
    def _all(self, *conditions: Any, deleted: bool) -> list[tuple[SchemaVersion, bool]]:
        """Versions, and whether each is deleted."""
        return [(version_of(row), row.deleted) for row in self._database.rows(versions_query(*conditions, deleted=deleted))]

    def _seen(self, subject: str) -> _Seen:
        return self._database.read(lambda c: _seen(c, subject))


def _seen(connection: sa.Connection, subject: str) -> _Seen:
    versions = tuple(version_of(row) for row in connection.execute(versions_query(VERSIONS.c.subject == subject)))
    return _Seen(effective(connection, "level", subject), effective(connection, "mode", subject), versions)


def _begins(prefix: str) -> Any:
    return VERSIONS.c.subject.startswith(prefix, autoescape=True) if prefix else sa.true()


def _of(subject: str) -> Any:
    return sa.select(VERSIONS.c.version, VERSIONS.c.deleted).where(VERSIONS.c.subject == subject).order_by(VERSIONS.c.version)


def _referring(connection: sa.Connection, subject: str, version: int) -> list[int]:
    """Ids of schemas of live versions that refer to it."""
    query = versions_query(SCHEMAS.c.refs.is_not(None))
    wanted = (subject, version)
    found = (version_of(row) for row in connection.execute(query))
    return sorted({v.id for v in found if wanted in [(r.subject, r.version) for r in v.references]})


def _check_name(subject: str) -> None:
    """Contexts (`:.name:subject`) are not kept here, so no subject may look like one."""
    if not subject or len(subject) > _SUBJECT_MAX or subject.startswith(":.") or not subject.isprintable():
        raise fault("42208", f"The specified subject '{subject[:60]}' is not a valid subject.")


def _bad_reference(reference: Reference) -> Refused:
    return fault("42201", f"Invalid reference: there is no version {reference.version} of {reference.subject} ({reference.name})")
