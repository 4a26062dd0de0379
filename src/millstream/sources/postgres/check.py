"""Is everything there that a first start needs? Every fault is found in one go, each with its cure; then what we manage is made.

Order of making: the publication, then the slot. The stream begins where the slot was made, and a publication that is
younger than that place does not exist for the server there.
"""

from __future__ import annotations

import difflib
from collections.abc import Set

from millstream.sources.faults import Fault, refused
from millstream.sources.names import TableName, quoted
from millstream.sources.postgres import publications, slots
from millstream.sources.postgres.describe import Catalogue, Described
from millstream.sources.postgres.session import Session

OLDEST_VERSION = 150000
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index", "c": "a type"}
# Amazon's servers give the right to replicate by a role.
_BY_MEMBERSHIP = "EXISTS (SELECT 1 FROM pg_roles r WHERE r.rolname = 'rds_replication' AND pg_has_role(r.oid, 'USAGE'))"


def check(session: Session, catalogue: Catalogue, names: tuple[TableName, ...], kept: Set[TableName], publication: str, slot: str) -> None:
    """Raises Refused with all faults; its code is the first one's. A second call changes nothing. Of `kept` tables the log needs the
    key alone.

    Makes the publication and the slot where they are not there, and adds tables to a publication that is ours to change.
    """
    version = session.server_version
    if version < OLDEST_VERSION:  # of which the rest could not even be asked
        cure = f"PostgreSQL {OLDEST_VERSION // 10000} or newer is needed"
        raise refused([Fault("server_version", f"the server is PostgreSQL {version // 10000}", cure)], session.where)
    tables = [(name, catalogue.table(name)) for name in names]
    faults = [
        *_server_faults(session, slot),
        *_slot_faults(session, slot),
        *(fault for name, table in tables for fault in _table_faults(session, catalogue, name, table, kept=name in kept)),
    ]
    present = [table for _, table in tables if table is not None]
    if present:
        faults += publications.look(session, publication, present)
    if faults:
        raise refused(faults, session.where)
    publications.make(session, publication, present)
    if slots.look(session, slot) is None:
        slots.create(session, slot)


def _server_faults(session: Session, slot: str) -> list[Fault]:
    level, senders, senders_max, standby, role, may, encoding = session.rows(
        f"""SELECT current_setting('wal_level'), (SELECT count(*) FROM pg_stat_get_wal_senders()), current_setting('max_wal_senders')::int,
            pg_is_in_recovery(), current_user::text, rolreplication OR rolsuper OR {_BY_MEMBERSHIP}, getdatabaseencoding()::text
        FROM pg_roles WHERE rolname = current_user"""
    )[0]
    faults = []
    if level != "logical":
        cure = "ALTER SYSTEM SET wal_level = logical; then restart the server (a managed one: its setting for logical replication)"
        faults.append(Fault("wal_level", f"wal_level is {level}, not logical: the log does not say which rows changed", cure))
    if not may:
        faults.append(
            Fault("replication", f"role {role} may not replicate", f"an administrator runs: ALTER ROLE {quoted(role)} REPLICATION")
        )
    found = slots.look(session, slot)
    if senders >= senders_max and (found is None or found.reader is None):  # else one of them is ours
        cure = f"ALTER SYSTEM SET max_wal_senders = {senders_max + 5}; then restart the server"
        faults.append(Fault("wal_senders", f"all {senders_max} WAL senders (max_wal_senders) are taken", cure))
    if standby:
        faults.append(Fault("standby", "the server is a standby, which can hold no marks in its log", "point the url at the primary"))
    if encoding == "SQL_ASCII":
        cure = "move the data into a database with ENCODING 'UTF8'"
        faults.append(Fault("encoding", "the database has encoding SQL_ASCII: its texts may be in any", cure))
    return faults


def _slot_faults(session: Session, name: str) -> list[Fault]:
    slot = slots.look(session, name)
    database, taken, most = session.rows(
        "SELECT current_database()::text, (SELECT count(*) FROM pg_replication_slots), current_setting('max_replication_slots')::int"
    )[0]
    if slot is None and taken >= most:
        cure = f"drop one that nobody uses, or ALTER SYSTEM SET max_replication_slots = {most + 5} and restart the server"
        return [Fault("slots", f"all {most} replication slots (max_replication_slots) are taken", cure)]
    if slot is None or (slot.plugin == "pgoutput" and slot.database == database):
        return []
    what = "is a physical one" if slot.plugin is None else f"is of plugin {slot.plugin} in database {slot.database}"
    return [
        Fault("slot_foreign", f"slot {name} {what}, not of pgoutput in {database}", "give this source another `slot`, or drop that one")
    ]


def _table_faults(session: Session, catalogue: Catalogue, name: TableName, table: Described | None, *, kept: bool) -> list[Fault]:
    if table is None:
        near = difflib.get_close_matches(f"{name.schema}.{name.table}", catalogue.names(), 3, 0.4)
        cure = f"did you mean {' or '.join(near)}?" if near else "name a table of this database as schema.table"
        return [Fault("table_unknown", f"there is no table {name.written}", cure)]
    if table.kind not in ("r", "p") or table.persistence != "p":
        kind = _KINDS.get(table.kind, "unlogged" if table.persistence == "u" else "temporary")
        return [
            Fault("table_kind", f"{name.written} is {kind}: its changes are not in the log", "leave it out, or make it an ordinary table")
        ]
    return [*_key_faults(table), *_identity_faults(table, kept=kept), *_privilege_faults(session, table)]


def _key_faults(table: Described) -> list[Fault]:
    name = table.name
    if not table.key:
        cure = f"ALTER TABLE {name.quoted} ADD PRIMARY KEY (…), or leave it out: without one no event could say which row it means"
        return [Fault("no_key", f"{name.written} has no primary key", cure)]
    if not table.schema.key:
        said = f"the primary key of {name.written} has a generated column, which is not in the log"
        return [Fault("no_key", said, "make the key of ordinary columns")]
    if table.deferrable_key:
        # Two rows may pass one key on within a transaction, in either order: events could not say which is left.
        said = f"the primary key of {name.written} is deferrable: within a transaction two rows may have one key"
        return [Fault("deferrable_key", said, f"make the primary key of {name.quoted} NOT DEFERRABLE")]
    return []


def _identity_faults(table: Described, *, kept: bool) -> list[Fault]:
    partial = [table.name.quoted] if table.identity not in ("fd" if kept else "f") else []
    partitions = table.keyless_partitions if kept else table.partial_partitions
    wanted = "DEFAULT" if kept else "FULL"
    statements = "; ".join(f"ALTER TABLE {t} REPLICA IDENTITY {wanted}" for t in [*partial, *partitions])
    if not statements:
        return []
    whose = f"REPLICA IDENTITY of {table.name.written}" + ("" if partial else "'s partitions")
    said = f"{whose} is neither DEFAULT nor FULL: the log lacks the key of old rows"
    if not kept:
        said = f"{whose} is not FULL: the log lacks what rows were before a change (or give the source `before: keep`)"
    return [Fault("replica_identity", said, statements)]


def _privilege_faults(session: Session, table: Described) -> list[Fault]:
    # Not by columns: only who may read the table may lock it.
    role, usage, select, hidden = session.rows(
        """SELECT current_user::text, has_schema_privilege(relnamespace, 'USAGE'),
            has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid)
        FROM pg_class c WHERE c.oid = %s""",
        [table.oid],
    )[0]
    faults = []
    name, to = table.name, quoted(role)
    if not usage:
        cure = f"GRANT USAGE ON SCHEMA {quoted(name.schema)} TO {to}"
        faults.append(Fault("privilege", f"role {role} may not use schema {name.schema}", cure))
    if not select:
        faults.append(Fault("privilege", f"role {role} may not read {name.written}", f"GRANT SELECT ON TABLE {name.quoted} TO {to}"))
    if hidden:
        faults.append(Fault("row_security", f"row security hides rows of {name.written} from role {role}", f"ALTER ROLE {to} BYPASSRLS"))
    return faults
