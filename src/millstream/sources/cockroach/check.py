"""Is everything there that a first start needs? Every fault is found in one go, each with its cure. Nothing is made: the server keeps
nothing for us."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping

from millstream.errors import Irrecoverable, Refused
from millstream.sources import filters
from millstream.sources.cockroach import statements
from millstream.sources.cockroach.derived import Derived, Stopped, checked
from millstream.sources.cockroach.describe import Catalogue, Found, Past, Shape
from millstream.sources.cockroach.failures import STATEMENT
from millstream.sources.cockroach.hlc import Hlc
from millstream.sources.cockroach.names import feed_topics
from millstream.sources.cockroach.session import Session
from millstream.sources.faults import Fault, refused
from millstream.sources.names import TableName, quoted

log = logging.getLogger("millstream.source")

OLDEST_VERSION = (22, 1)
THROTTLED_FROM = (24, 3)
"""The first version that throttles a cluster without a licence. Before, sinks of the server need one, which we never ask for, and CDC
queries, in whose place a plain feed is filtered here."""
JSON_NULLS_FROM = (24, 2)
"""The first version of which it is documented that its feeds can tell JSON null from SQL NULL (`statements.JSON_NULLS`)."""
_KINDS = {"v": "a view", "m": "a materialized view", "S": "a sequence"}


def check(session: Session, catalogue: Catalogue, names: tuple[TableName, ...], derived: Mapping[str, Derived]) -> None:
    """Raises Refused with all faults; its code is the first one's."""
    version = session.version
    if version < OLDEST_VERSION:  # of which the rest could not even be asked
        cure = f"CockroachDB {OLDEST_VERSION[0]}.{OLDEST_VERSION[1]} or newer is needed"
        raise refused([Fault("server_version", f"the server is CockroachDB {version[0]}.{version[1]}", cure)], session.where)
    database, user = (str(x) for x in session.rows(statements.WHO)[0])
    faults = _rangefeed_faults(session)
    found = catalogue.find(names)
    oids = [f.oid for f in found.values() if f.kind == "r"]
    shapes = catalogue.shapes(oids, None)
    unreadable = catalogue.unreadable(oids)
    for name in names:
        of_table = _table_faults(catalogue, name, found.get(name.written), shapes, unreadable, user)
        faults += of_table or _derived_faults(catalogue, derived[name.written], shapes[found[name.written].oid], version)
    faults += _topic_faults(names, database)
    if faults:
        raise refused(faults, session.where)
    if (unlicensed := _unlicensed(session)) is not None:
        log.warning("%s: %s", session.where, unlicensed)


def _unlicensed(session: Session) -> str | None:
    """What becomes of a cluster without a licence; None: it has one, needs none or does not say. One that is throttled already, or whose
    licence has run out, refuses statements by itself, which then is a refusal of ours ("licence").

    Not a fault: a cluster in its days of grace and one of a single node do all that is asked, and no setting tells these from others.
    """
    if session.version < THROTTLED_FROM:
        return None
    try:
        (key,) = session.rows(statements.LICENCE)[0]
    except (Refused, Irrecoverable) as error:
        if error.code not in ("privilege", STATEMENT):
            raise
        return None  # only some may see settings
    if str(key or "").strip():
        return None
    return (
        "the cluster has no licence key. One of several nodes is throttled 7 days after it began, and its changefeeds with it: an "
        "administrator runs SET CLUSTER SETTING enterprise.license = '…'; a single-node server needs none"
    )


def _rangefeed_faults(session: Session) -> list[Fault]:
    try:
        (enabled,) = session.rows(statements.RANGEFEEDS)[0]
    except Refused as error:
        if error.code != "privilege":
            raise
        return []  # only some may see settings; where it is off, the feed itself says so
    if str(enabled).lower() in ("true", "on", "t"):
        return []
    cure = "an administrator runs: SET CLUSTER SETTING kv.rangefeed.enabled = true"
    return [Fault("rangefeed", "kv.rangefeed.enabled is off: changefeeds cannot follow anything", cure)]


def _table_faults(
    catalogue: Catalogue, name: TableName, found: Found | None, shapes: dict[int, Shape], unreadable: set[int], user: str
) -> list[Fault]:
    if found is None:
        near = difflib.get_close_matches(f"{name.schema}.{name.table}", catalogue.names(), 3, 0.4)
        cure = f"did you mean {' or '.join(near)}?" if near else "name a table of this database as schema.table"
        said = f"there is no table {name.written}, or user {user} may see nothing of it"
        return [Fault("table_unknown", said, f"{cure} Else: GRANT SELECT, CHANGEFEED ON TABLE {name.quoted} TO {quoted(user)}")]
    if found.kind != "r":
        kind = _KINDS.get(found.kind, "no ordinary table")
        return [Fault("table_kind", f"{name.written} is {kind}: its changes are in no feed", "leave it out")]
    if found.oid in unreadable or found.oid not in shapes:
        grant = f"GRANT SELECT, CHANGEFEED ON TABLE {name.quoted} TO {quoted(user)}"
        return [Fault("privilege", f"user {user} may not read {name.written}", grant)]
    faults = []
    if (families := catalogue.families(name)) > 1:
        cure = "put all columns into one family, or leave the table out: a topic per family is not built"
        faults.append(Fault("column_families", f"{name.written} has {families} column families, and a feed tells each by itself", cure))
    shape = shapes[found.oid]
    if not shape.key_numbers:
        cure = f"ALTER TABLE {name.quoted} ALTER PRIMARY KEY USING COLUMNS (…) with ordinary columns"
        faults.append(Fault("no_key", f"the primary key of {name.written} has no column that its rows have", cure))
    return faults


def _derived_faults(catalogue: Catalogue, derived: Derived, shape: Shape, version: tuple[int, int]) -> list[Fault]:
    try:
        checked(derived, shape, Past(catalogue, {}).described(shape, derived.written, Hlc(0, 0)))
    except Stopped as stop:
        columns = ", ".join(c.name for c in shape.told)
        return [Fault("derived_table", stop.why.message, f"mend its `select` and `where`. Columns of the table: {columns}")]
    asked = {leaf.column for leaf in filters.leaves(derived.condition) if isinstance(leaf, filters.IsNull)} if derived.condition else set()
    if version < JSON_NULLS_FROM and (json := [c.name for c in shape.told if c.name in asked and c.sql_type.upper() in ("JSONB", "JSON")]):
        said = (
            f"{derived.written}: feeds of CockroachDB {version[0]}.{version[1]} tell the JSON value null as NULL, reads do not: "
            f"IS NULL of {', '.join(json)} would hold for other rows in one than in the other"
        )
        cure = f"leave {', '.join(json)} out of `where`, or ask another column; {JSON_NULLS_FROM[0]}.{JSON_NULLS_FROM[1]} tells them apart"
        return [Fault("derived_table", said, cure)]
    return []


def _topic_faults(names: tuple[TableName, ...], database: str) -> list[Fault]:
    """Two tables that a feed would name alike: "a.b".c and a."b.c"."""
    owners: dict[str, TableName] = {}
    for name in names:
        for topic in feed_topics(name, database)[:1]:
            owner = owners.setdefault(topic, name)
            if (owner.schema, owner.table) != (name.schema, name.table):
                said = f"a feed names {owner.written} and {name.written} alike"
                return [Fault("same_topic", said, "put them into two sources")]
    return []
