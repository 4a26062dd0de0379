"""Is everything there that a first start needs? Every fault is found in one go, each with its cure; then what we manage is made.

Order of making: the publication, then the slot. The stream begins where the slot was made, and a publication that is
younger than that place does not exist for the server there.
"""

from __future__ import annotations

import difflib

from psycopg import sql

from millstream.errors import Refused
from millstream.sources.postgres import slots
from millstream.sources.postgres.describe import Catalogue, Described
from millstream.sources.postgres.names import TableName, quoted
from millstream.sources.postgres.session import Session

OLDEST_VERSION = 150000
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index", "c": "a type"}


def check(session: Session, catalogue: Catalogue, names: tuple[TableName, ...], publication: str, slot: str) -> None:
    """Raises Refused with all faults; its code is the first one's. A second call changes nothing.

    Makes the publication and the slot where they are not there, and adds tables to a publication that is ours to change.
    """
    tables = [(name, catalogue.table(name)) for name in names]
    faults = [
        *_server_faults(session, slot),
        *_slot_faults(session, slot),
        *(fault for name, table in tables for fault in _table_faults(session, catalogue, name, table)),
    ]
    present = [table for _, table in tables if table is not None]
    faults += _publication_faults(session, publication, present)
    if faults:
        raise _refused(faults, session.where)
    _make_publication(session, publication, present)
    if slots.look(session, slot) is None:
        slots.create(session, slot)


def _refused(faults: list[tuple[str, str, str]], where: str) -> Refused:
    if len(faults) == 1:
        code, message, cure = faults[0]
        return Refused(message, code=code, where=where, cure=cure)
    message = f"{len(faults)} things are missing:" + "".join(f"\n  {i}. {said}" for i, (_, said, _) in enumerate(faults, 1))
    cure = "".join(f"\n  {i}. {way}" for i, (_, _, way) in enumerate(faults, 1))
    return Refused(message, code=faults[0][0], where=where, cure=cure)


def _server_faults(session: Session, slot: str) -> list[tuple[str, str, str]]:
    version = session.server_version
    if version < OLDEST_VERSION:
        return [
            ("server_version", f"the server is PostgreSQL {version // 10000}", f"PostgreSQL {OLDEST_VERSION // 10000} or newer is needed")
        ]
    level, senders, senders_max, standby, role, may, encoding = session.rows(
        """SELECT current_setting('wal_level'), (SELECT count(*) FROM pg_stat_get_wal_senders()), current_setting('max_wal_senders')::int,
            pg_is_in_recovery(), current_user::text, rolreplication OR rolsuper, getdatabaseencoding()::text
        FROM pg_roles WHERE rolname = current_user"""
    )[0]
    faults = []
    if level != "logical":
        cure = "ALTER SYSTEM SET wal_level = logical; then restart the server (a managed one: its setting for logical replication)"
        faults.append(("wal_level", f"wal_level is {level}, not logical: the log does not say which rows changed", cure))
    if not may:
        faults.append(("replication", f"role {role} may not replicate", f"an administrator runs: ALTER ROLE {quoted(role)} REPLICATION"))
    found = slots.look(session, slot)
    if senders >= senders_max and (found is None or found.reader is None):  # else one of them is ours
        cure = f"ALTER SYSTEM SET max_wal_senders = {senders_max + 5}; then restart the server"
        faults.append(("wal_senders", f"all {senders_max} WAL senders (max_wal_senders) are taken", cure))
    if standby:
        faults.append(("standby", "the server is a standby, which can hold no marks in its log", "point the url at the primary"))
    if encoding == "SQL_ASCII":
        cure = "move the data into a database with ENCODING 'UTF8'"
        faults.append(("encoding", "the database has encoding SQL_ASCII: its texts may be in any", cure))
    return faults


def _slot_faults(session: Session, name: str) -> list[tuple[str, str, str]]:
    if session.server_version < OLDEST_VERSION:
        return []
    slot = slots.look(session, name)
    database, taken, most = session.rows(
        "SELECT current_database()::text, (SELECT count(*) FROM pg_replication_slots), current_setting('max_replication_slots')::int"
    )[0]
    if slot is None and taken >= most:
        cure = f"drop one that nobody uses, or ALTER SYSTEM SET max_replication_slots = {most + 5} and restart the server"
        return [("slots", f"all {most} replication slots (max_replication_slots) are taken", cure)]
    if slot is None or (slot.plugin == "pgoutput" and slot.database == database):
        return []
    what = "is a physical one" if slot.plugin is None else f"is of plugin {slot.plugin} in database {slot.database}"
    return [("slot_foreign", f"slot {name} {what}, not of pgoutput in {database}", "give this source another `slot`, or drop that one")]


def _table_faults(session: Session, catalogue: Catalogue, name: TableName, table: Described | None) -> list[tuple[str, str, str]]:
    if table is None:
        near = difflib.get_close_matches(f"{name.schema}.{name.table}", catalogue.names(), 3, 0.4)
        cure = f"did you mean {' or '.join(near)}?" if near else "name a table of this database as schema.table"
        return [("table_unknown", f"there is no table {name.written}", cure)]
    if table.kind not in ("r", "p") or table.persistence != "p":
        kind = _KINDS.get(table.kind, "unlogged" if table.persistence == "u" else "temporary")
        return [("table_kind", f"{name.written} is {kind}: its changes are not in the log", "leave it out, or make it an ordinary table")]
    return [*_key_faults(table), *_identity_faults(table), *_privilege_faults(session, table)]


def _key_faults(table: Described) -> list[tuple[str, str, str]]:
    name = table.name
    if not table.key:
        cure = f"ALTER TABLE {name.quoted} ADD PRIMARY KEY (…), or leave it out: without one no event could say which row it means"
        return [("no_key", f"{name.written} has no primary key", cure)]
    if not table.schema.key:
        return [
            (
                "no_key",
                f"the primary key of {name.written} has a generated column, which is not in the log",
                "make the key of ordinary columns",
            )
        ]
    return []


def _identity_faults(table: Described) -> list[tuple[str, str, str]]:
    partial = [table.name.quoted] if table.identity != "f" else []
    statements = "; ".join(f"ALTER TABLE {t} REPLICA IDENTITY FULL" for t in [*partial, *table.partial_partitions])
    if not statements:
        return []
    whose = f"REPLICA IDENTITY of {table.name.written}" + ("" if partial else "'s partitions")
    return [("replica_identity", f"{whose} is not FULL: the log lacks what rows were before a change", statements)]


def _privilege_faults(session: Session, table: Described) -> list[tuple[str, str, str]]:
    role, usage, select, hidden = session.rows(
        """SELECT current_user::text, has_schema_privilege(relnamespace, 'USAGE'),
            (SELECT bool_and(has_column_privilege(c.oid, attnum, 'SELECT')) FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
            row_security_active(c.oid)
        FROM pg_class c WHERE c.oid = %s""",
        [table.oid],
    )[0]
    faults = []
    name, to = table.name, quoted(role)
    if not usage:
        faults.append(
            ("privilege", f"role {role} may not use schema {name.schema}", f"GRANT USAGE ON SCHEMA {quoted(name.schema)} TO {to}")
        )
    if not select:
        faults.append(("privilege", f"role {role} may not read {name.written}", f"GRANT SELECT ON TABLE {name.quoted} TO {to}"))
    if hidden:
        faults.append(("row_security", f"row security hides rows of {name.written} from role {role}", f"ALTER ROLE {to} BYPASSRLS"))
    return faults


def _publication_faults(session: Session, publication: str, tables: list[Described]) -> list[tuple[str, str, str]]:
    """What an administrator must do, as SQL to run, where the role may not do it itself."""
    if session.server_version < OLDEST_VERSION or not tables:
        return []
    role, found = session.rows(
        "SELECT current_user::text, to_jsonb(p) FROM (SELECT 1) o LEFT JOIN pg_publication p ON pubname = %s", [publication]
    )[0]
    lacking = _not_in(session, publication, tables)
    if found is None:
        if _may_create(session, lacking):
            return []
        return [
            (
                "publication",
                f"role {role} may not make publication {publication}",
                f"an administrator runs: {_create_text(publication, lacking)}",
            )
        ]
    faults = []
    silent = [what for what in ("insert", "update", "delete", "truncate") if not found[f"pub{what}"]]
    if silent:
        cure = f"ALTER PUBLICATION {quoted(publication)} SET (publish = 'insert, update, delete, truncate')"
        faults.append(("publication", f"publication {publication} leaves out {', '.join(silent)}", cure))
    if not found["pubviaroot"] and any(t.kind == "p" for t in tables):
        cure = f"ALTER PUBLICATION {quoted(publication)} SET (publish_via_partition_root = true)"
        faults.append(("publication", f"publication {publication} gives partitions, not their tables", cure))
    faults += _filter_faults(session, publication, tables)
    if lacking and not _may_create(session, lacking, publication):
        cure = f"an administrator runs: {_add_text(publication, lacking)}"
        names = ", ".join(t.name.written for t in lacking)
        faults.append(("publication", f"publication {publication} lacks {names}, and role {role} may not add to it", cure))
    return faults


def _filter_faults(session: Session, publication: str, tables: list[Described]) -> list[tuple[str, str, str]]:
    filtered = session.rows(
        "SELECT prrelid::int8 FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid "
        "WHERE pubname = %s AND (prqual IS NOT NULL OR prattrs IS NOT NULL)",
        [publication],
    )
    oids = {row[0] for row in filtered}
    return [
        (
            "publication",
            f"publication {publication} leaves out rows or columns of {t.name.written}",
            f"publish {t.name.written} without WHERE and column list",
        )
        for t in tables
        if t.oid in oids
    ]


def _not_in(session: Session, publication: str, tables: list[Described]) -> list[Described]:
    """The tables that the publication does not give, whether by name, by schema or by ALL TABLES."""
    published = {
        row[0]
        for row in session.rows(
            """SELECT c.oid::int8 FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
            JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename WHERE t.pubname = %s""",
            [publication],
        )
    }
    return [t for t in tables if t.oid not in published]


def _may_create(session: Session, lacking: list[Described], publication: str | None = None) -> bool:
    """CREATE on the database (or the publication's ownership) and the ownership of each table."""
    query = (
        "SELECT has_database_privilege(current_database(), 'CREATE')"
        if publication is None
        else "SELECT pg_has_role(pubowner, 'USAGE') FROM pg_publication WHERE pubname = %s"
    )
    allowed = bool(session.rows(query, [] if publication is None else [publication])[0][0])
    owned = session.rows(
        "SELECT coalesce(bool_and(pg_has_role(relowner, 'USAGE')), true) FROM pg_class WHERE oid = ANY(%s)", [[t.oid for t in lacking]]
    )
    return allowed and bool(owned[0][0])


def _make_publication(session: Session, publication: str, tables: list[Described]) -> None:
    exists = session.rows("SELECT 1 FROM pg_publication WHERE pubname = %s", [publication])
    lacking = _not_in(session, publication, tables)
    if not exists:
        session.rows(sql.SQL(_create_text(publication, lacking)))
    elif lacking:
        session.rows(sql.SQL(_add_text(publication, lacking)))


def _create_text(publication: str, tables: list[Described]) -> str:
    listed = ", ".join(t.name.quoted for t in tables)
    return f"CREATE PUBLICATION {quoted(publication)} FOR TABLE {listed} WITH (publish_via_partition_root = true)"


def _add_text(publication: str, tables: list[Described]) -> str:
    return f"ALTER PUBLICATION {quoted(publication)} ADD TABLE {', '.join(t.name.quoted for t in tables)}"
