"""The publication: which tables' changes the server puts into our stream. Looked at, made, and watched.

A change of a table that is not published when it happens never comes, and nothing says so; hence the watching.
"""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from millstream.errors import Irrecoverable, Refused
from millstream.sources.faults import Fault
from millstream.sources.names import TableName, quoted
from millstream.sources.postgres.describe import Described
from millstream.sources.postgres.session import Session

CURE = "run `millstream apply`, which publishes it again; what changed meanwhile is lost: start this source afresh, or back-fill its tables"

_PUBLISHED = """SELECT c.oid FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename WHERE t.pubname = %s"""


def look(session: Session, publication: str, tables: list[Described]) -> list[Fault]:
    """What a person must do; nothing where `make` can do it."""
    role, found = session.rows(
        "SELECT current_user::text, to_jsonb(p) FROM (SELECT 1) o LEFT JOIN pg_publication p ON pubname = %s", [publication]
    )[0]
    lacking = _lacking(session, publication, tables)
    if found is None:
        if _may_create(session) and _owns(session, lacking):
            return []
        cure = f"an administrator runs: {_create_text(publication, lacking)}"
        return [Fault("publication", f"role {role} may not make publication {publication}", cure)]
    faults = []
    silent = [what for what in ("insert", "update", "delete", "truncate") if not found[f"pub{what}"]]
    if silent:
        cure = f"ALTER PUBLICATION {quoted(publication)} SET (publish = 'insert, update, delete, truncate')"
        faults.append(Fault("publication", f"publication {publication} leaves out {', '.join(silent)}", cure))
    if not found["pubviaroot"] and any(t.kind == "p" for t in tables):
        cure = f"ALTER PUBLICATION {quoted(publication)} SET (publish_via_partition_root = true)"
        faults.append(Fault("publication", f"publication {publication} gives partitions, not their tables", cure))
    for name in _filtered(session, publication, tables):
        said = f"publication {publication} leaves out rows or columns of {name.written}"
        faults.append(Fault("publication", said, f"publish {name.quoted} without WHERE and without a list of columns"))
    if lacking and not (_may_change(session, publication) and _owns(session, lacking)):
        said = f"publication {publication} lacks {', '.join(t.name.written for t in lacking)}, and role {role} may not add to it"
        faults.append(Fault("publication", said, f"an administrator runs: {_add_text(publication, lacking)}"))
    return faults


def make(session: Session, publication: str, tables: list[Described]) -> None:
    """Make it, or add the tables that it lacks."""
    lacking = _lacking(session, publication, tables)
    if not _exists(session, publication):
        session.rows(sql.SQL(_create_text(publication, lacking)))
    elif lacking:
        session.rows(sql.SQL(_add_text(publication, lacking)))


def watch(session: Session, publication: str, names: Iterable[TableName], oids: Iterable[int], *, begun: bool) -> None:
    """Raises Irrecoverable where a table of the definition, by name or as it was when the stream began, is not published.

    Where nothing was ever streamed (not `begun`) it is Refused: nothing can be lost yet.
    """
    names = list(names)
    lacking = session.rows(
        f"""SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE (c.oid = ANY(%s) OR (n.nspname::text, c.relname::text) IN (SELECT * FROM unnest(%s::text[], %s::text[])))
        AND c.oid NOT IN ({_PUBLISHED}) ORDER BY 1""",
        [list(oids), [n.schema for n in names], [n.table for n in names], publication],
    )
    if not lacking:
        return
    which = ", ".join(row[0] for row in lacking)
    if not begun:
        cure = "run `millstream apply`, which publishes them"
        raise Refused(f"publication {publication} does not have {which}", code="not_published", where=session.where, cure=cure)
    said = f"publication {publication} does not have {which} any more: changes of it are lost"
    raise Irrecoverable(said, code="publication_gone", where=session.where, cure=CURE)


def _exists(session: Session, publication: str) -> bool:
    return bool(session.rows("SELECT 1 FROM pg_publication WHERE pubname = %s", [publication]))


def _lacking(session: Session, publication: str, tables: list[Described]) -> list[Described]:
    """The tables that it does not give, whether by name, by schema or as one of all."""
    published = {row[0] for row in session.rows(_PUBLISHED, [publication])}
    return [t for t in tables if t.oid not in published]


def _filtered(session: Session, publication: str, tables: list[Described]) -> list[TableName]:
    found = session.rows(
        "SELECT prrelid FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid "
        "WHERE pubname = %s AND (prqual IS NOT NULL OR prattrs IS NOT NULL)",
        [publication],
    )
    oids = {row[0] for row in found}
    return [t.name for t in tables if t.oid in oids]


def _may_create(session: Session) -> bool:
    return bool(session.rows("SELECT has_database_privilege(current_database(), 'CREATE')")[0][0])


def _may_change(session: Session, publication: str) -> bool:
    return bool(session.rows("SELECT pg_has_role(pubowner, 'USAGE') FROM pg_publication WHERE pubname = %s", [publication])[0][0])


def _owns(session: Session, tables: list[Described]) -> bool:
    query = "SELECT coalesce(bool_and(pg_has_role(relowner, 'USAGE')), true) FROM pg_class WHERE oid = ANY(%s)"
    return bool(session.rows(query, [[t.oid for t in tables]])[0][0])


def _create_text(publication: str, tables: list[Described]) -> str:
    listed = ", ".join(t.name.quoted for t in tables)
    return f"CREATE PUBLICATION {quoted(publication)} FOR TABLE {listed} WITH (publish_via_partition_root = true)"


def _add_text(publication: str, tables: list[Described]) -> str:
    return f"ALTER PUBLICATION {quoted(publication)} ADD TABLE {', '.join(t.name.quoted for t in tables)}"
