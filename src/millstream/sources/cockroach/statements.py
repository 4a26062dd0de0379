"""Every SQL text that the connector sends. Nothing else in this folder writes SQL.

All are sent as simple queries, without parameters: AS OF SYSTEM TIME takes none, and one changefeed statement cannot be
prepared. Values are literals made by `names.literal`. `at` is a time as the server writes it ("<wall>.<logical>"); None: now.
The catalogue is asked with plain joins only. Of crdb_internal one table is read, and of 22.x alone, which does not guard it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from millstream.sources.cockroach.names import literal
from millstream.sources.names import TableName, quoted

_BOUNDS = re.compile(r"\([\d, ]+\)")

# What changes how values are written, and what would end a statement that runs for ever, may be set for a role: not for us.
SETTINGS = (
    "SET statement_timeout = 0",
    "SET idle_in_session_timeout = 0",
    "SET timezone = 'UTC'",
    "SET datestyle = 'ISO, MDY'",
    "SET intervalstyle = 'postgres'",
    "SET bytea_output = 'hex'",
    "SET extra_float_digits = 3",
    # cluster_logical_timestamp() is refused under READ COMMITTED, and would be of the past with follower reads.
    "SET default_transaction_isolation = 'serializable'",
    "SET default_transaction_use_follower_reads = off",
    # A row that a policy hides would be lost in silence: then rather an error.
    "SET row_security = off",
)

VERSION = "SELECT version()"
"""One text: `CockroachDB CCL v26.1.0 (x86_64-...)`."""

NOW = "SELECT cluster_logical_timestamp()::STRING"
"""The cluster's present time: all that was committed before this was asked lies at or below it."""

WHO = "SELECT current_database(), current_user"

RANGEFEEDS = "SHOW CLUSTER SETTING kv.rangefeed.enabled"
"""`true` or `false`; 42501 where the user may not see settings."""

LICENCE = "SHOW CLUSTER SETTING enterprise.license"
"""The key, or an empty text; 42501 where the user may not see settings. Of 24.3 and later: see `check`."""

RELATIONS = """SELECT c.oid, n.nspname, c.relname, c.relkind
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'v', 'm', 'S') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'crdb_internal', 'pg_extension')
ORDER BY n.nspname, c.relname"""
"""Everything in the database that could be meant by a table's name. `relkind`: r table, v view, m materialized view, S sequence."""


def find(names: Sequence[TableName], at: str | None = None) -> str:
    """(oid, nspname, relname, relkind) of the relations with these names. Several may have one table's name in two schemas."""
    return f"""SELECT c.oid, n.nspname, c.relname, c.relkind
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace{as_of(at)}
WHERE c.relname IN ({_texts(n.table for n in names)}) AND n.nspname IN ({_texts(n.schema for n in names)}) \
AND c.relkind IN ('r', 'v', 'm', 'S')"""


def outlines(oids: Sequence[int], at: str | None = None) -> str:
    """What changes when a table does, cheaply: pg_class and pg_attribute are looked up by the table's id.

    (oid, relname, attnum, attname, atttypid, atttypmod, attnotnull, attgenerated), by table and attnum.
    """
    return f"""SELECT c.oid, c.relname, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attgenerated
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid{as_of(at)}
WHERE c.oid IN ({_numbers(oids)}) AND a.attrelid IN ({_numbers(oids)}) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.oid, a.attnum"""


def primary_keys(oids: Sequence[int], at: str | None = None) -> str:
    """(conrelid, conkey): the columns of the primary keys, looked up by the table's id as those are."""
    return f"""SELECT k.conrelid, k.conkey FROM pg_catalog.pg_constraint AS k{as_of(at)}
WHERE k.conrelid IN ({_numbers(oids)}) AND k.contype = 'p'
ORDER BY k.conrelid"""


def columns(oids: Sequence[int], at: str | None = None) -> str:
    """(attrelid, nspname, relname, attnum, attname, crdb_sql_type, is_nullable, is_hidden, attgenerated, column_default, description), by
    table and attnum.

    `crdb_sql_type` is as CREATE TABLE writes it (`DECIMAL(10,2)`, `STRING COLLATE en`, `INT8[]`); `attgenerated` is 's' for a stored
    computed column, 'v' for a virtual one, else ''; `is_nullable` and `is_hidden` are YES or NO. A column comes once for each comment
    of any object that has the table's id, so of several the first one is taken.
    """
    return f"""SELECT a.attrelid, n.nspname, c.relname, a.attnum, a.attname, i.crdb_sql_type, i.is_nullable, i.is_hidden, a.attgenerated, \
i.column_default, d.description
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN information_schema.columns AS i ON i.table_schema = n.nspname AND i.table_name = c.relname AND i.column_name = a.attname
LEFT JOIN pg_catalog.pg_description AS d ON d.objoid = a.attrelid AND d.objsubid = a.attnum{as_of(at)}
WHERE a.attrelid IN ({_numbers(oids)}) AND c.oid IN ({_numbers(oids)}) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum"""


def keys(oids: Sequence[int], at: str | None = None) -> str:
    """(indrelid, column_name, direction) of the primary keys' columns, by table and in index order; direction is ASC or DESC.

    Hash shards and a region that partitions are among them: pg_index.indkey leaves those out, information_schema.statistics does not.
    """
    return f"""SELECT x.indrelid, s.column_name, s.direction
FROM pg_catalog.pg_index AS x
JOIN pg_catalog.pg_class AS k ON k.oid = x.indexrelid
JOIN pg_catalog.pg_class AS c ON c.oid = x.indrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN information_schema.statistics AS s ON s.table_schema = n.nspname AND s.table_name = c.relname AND s.index_name = k.relname{as_of(at)}
WHERE x.indisprimary AND x.indrelid IN ({_numbers(oids)}) AND s.storing = 'NO'
ORDER BY x.indrelid, s.seq_in_index"""


def readable(oids: Sequence[int]) -> str:
    """(oid, whether we may SELECT from it)."""
    return f"SELECT c.oid, has_table_privilege(c.oid, 'SELECT') FROM pg_catalog.pg_class AS c WHERE c.oid IN ({_numbers(oids)})"


def create(table: TableName) -> str:
    """(table_name, create_statement): the one place that tells column families, each on a line that begins with FAMILY."""
    return f"SHOW CREATE TABLE {table.quoted}"


def statistics(table: TableName) -> str:
    """Rows with `created` and `row_count` among their columns: the server's estimates, none before it has counted."""
    return f"SHOW STATISTICS FOR TABLE {table.quoted}"


def running_changes(oids: Sequence[int], at: str) -> str:
    """(table_id) of those tables of which a schema change was under way. For 22.x only."""
    return f"SELECT DISTINCT s.table_id FROM crdb_internal.schema_changes AS s{as_of(at)} WHERE s.table_id IN ({_numbers(oids)})"


# ---- the feed

JSON_NULLS = "encode_json_value_null_as_object"
"""Tells JSON null from SQL NULL. Older servers (before 24.2 or so) refuse it: `invalid option "encode_json_value_null_as_object"`."""


def feed(tables: Sequence[TableName], cursor: str, *, json_nulls: bool, every: str = "1s") -> str:
    """All changes after `cursor`, without a scan, for ever: rows (table, key, value), in which a resolved time has neither table nor
    key."""
    named = ", ".join(dict.fromkeys(t.quoted for t in tables))
    return f"CREATE CHANGEFEED FOR TABLE {named} WITH {_feed_options(cursor, json_nulls, every, 'full_table_name')}"


def query_feed(query: str, cursor: str, *, json_nulls: bool, every: str = "1s") -> str:
    """The same of one table, as a query sees it: `after` is what it selects, `before` the whole row. The table's name may be any."""
    return f"CREATE CHANGEFEED WITH envelope='wrapped', {_feed_options(cursor, json_nulls, every)} AS {query}"


def scan_feed(table: TableName, cursor: str, *, json_nulls: bool, every: str, only: bool) -> str:
    """All rows of a table as they were at `cursor`. `only`: and nothing more, without times, since the server takes none beside it; else
    the changes that follow, too, and a resolved time behind the rows."""
    flags = ", ".join(["full_table_name", *([JSON_NULLS] if json_nulls else []), f"cursor={literal(cursor)}"])
    how = "initial_scan='only'" if only else f"initial_scan, updated, diff, resolved='{every}', min_checkpoint_frequency='{every}'"
    return f"CREATE CHANGEFEED FOR TABLE {table.quoted} WITH {how}, {flags}"


def _feed_options(cursor: str, json_nulls: bool, every: str, *more: str) -> str:
    flags = ", ".join([*more, *([JSON_NULLS] if json_nulls else []), f"cursor={literal(cursor)}"])
    return f"updated, mvcc_timestamp, diff, resolved='{every}', min_checkpoint_frequency='{every}', {flags}"


# ---- chunks


@dataclass(frozen=True)
class KeyColumn:
    """A column by which a table is read in order. `sql_type` is how SQL writes its type, with its collation."""

    name: str
    sql_type: str
    descending: bool = False


def chunk(
    table: TableName,
    row: Iterable[tuple[str, bool]],
    key: Sequence[KeyColumn],
    at: str | None,
    *,
    within: Sequence[str] = (),
    rows: int | None = None,
) -> str:
    """Rows for which all of `within` holds, by key, at most `rows`: each as one JSON text and the texts of its key columns.

    `row` names the columns, each with whether it is JSONB. json_build_object writes values as a feed does, so one decoder reads both; JSON
    null is written as a feed with JSON_NULLS writes it. The database compares keys, by their own types and collations.
    """
    members = ", ".join(f"{literal(name)}, {_member(name, is_json=is_json)}" for name, is_json in row)
    return f"SELECT json_build_object({members})::STRING{_texts_of(key)} FROM {table.quoted}{as_of(at)}{_where(within)}{_by(key, rows)}"


def key_at(table: TableName, key: Sequence[KeyColumn], at: str | None, *, within: Sequence[str], rows: int) -> str:
    """The texts of the key of the row that is `rows` further, if there is one."""
    texts = _texts_of(key).removeprefix(", ")
    return f"SELECT {texts} FROM {table.quoted}{as_of(at)}{_where(within)}{_by(key, 1)} OFFSET {rows - 1}"


def tried(table: TableName, within: Sequence[str]) -> str:
    """Fails where the server cannot evaluate a condition over the table's rows."""
    return f"SELECT 1 FROM {table.quoted}{_where(within)} LIMIT 1"


def cast(values: Sequence[str], key: Sequence[KeyColumn]) -> str:
    """Fails where a text is no value of its column."""
    return "SELECT " + ", ".join(f"{_value(value, k)}::STRING" for value, k in zip(values, key, strict=True))


def placed(rows: Sequence[Sequence[str | None]], columns: Sequence[KeyColumn], within: Sequence[str]) -> str:
    """The places of those of `rows` (each the texts of `columns`) for which all of `within` holds."""
    names = ", ".join(quoted(c.name) for c in columns)
    given = ", ".join(
        f"({i}, {', '.join('NULL' if value is None else _value(value, c) for value, c in zip(row, columns, strict=True))})"
        for i, row in enumerate(rows)
    )
    return f"SELECT millstream_place FROM (VALUES {given}) AS v (millstream_place, {names}){_where(within)}"


def one_of(keys: Sequence[Sequence[str]], key: Sequence[KeyColumn]) -> str:
    """Whether a row has one of these keys."""
    names = ", ".join(quoted(k.name) for k in key)
    given = [", ".join(_value(value, k) for value, k in zip(values, key, strict=True)) for values in keys]
    if len(key) == 1:
        return f"{names} IN ({', '.join(given)})"
    return f"({names}) IN ({', '.join(f'({values})' for values in given)})"


def beyond(key: Sequence[KeyColumn], values: Sequence[str], *, backward: bool = False, inclusive: bool = False) -> str:
    """Whether a row comes after a key, or before it (`backward`), in the order in which the table is read; or has it (`inclusive`).

    `key` may be the first columns of it. Where all of them rise this is a row comparison, of which the server makes one span; else what
    it stands for.
    """
    names = [quoted(k.name) for k in key]
    given = [_value(value, k) for value, k in zip(values, key, strict=True)]
    equal = "=" if inclusive else ""
    if not any(k.descending for k in key):
        sign = ("<" if backward else ">") + equal
        return f"({', '.join(names)}) {sign} ({', '.join(given)})" if len(key) > 1 else f"{names[0]} {sign} {given[0]}"
    ways = []
    for i, k in enumerate(key):
        same = [f"{name} = {value}" for name, value in zip(names[:i], given[:i], strict=True)]
        sign = ("<" if k.descending != backward else ">") + (equal if i == len(key) - 1 else "")
        ways.append("(" + " AND ".join([*same, f"{names[i]} {sign} {given[i]}"]) + ")")
    return f"({' OR '.join(ways)})"


def _member(name: str, *, is_json: bool) -> str:
    column = quoted(name)
    return f"""CASE WHEN {column} = 'null'::JSONB THEN '{{"__crdb_json_null__": true}}'::JSONB ELSE {column} END""" if is_json else column


def _value(text: str, column: KeyColumn) -> str:
    return f"{literal(text)}::{_unbounded(column.sql_type)}"


def _unbounded(sql_type: str) -> str:
    """Without its length or scale: a cast would cut what is given to it, and find another row."""
    if '"' in sql_type:
        return sql_type
    name, _, rest = _BOUNDS.sub("", sql_type).partition(" ")
    return " ".join([{"CHAR": "STRING", "BIT": "VARBIT"}.get(name, name), *([rest] if rest else [])])


def _texts_of(key: Sequence[KeyColumn]) -> str:
    return "".join(f", {quoted(k.name)}::STRING" for k in key)


def _where(within: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(within)}" if within else ""


def _by(key: Sequence[KeyColumn], rows: int | None) -> str:
    order = ", ".join(f"{quoted(k.name)} {'DESC' if k.descending else 'ASC'}" for k in key)
    return f" ORDER BY {order}" + (f" LIMIT {rows}" if rows is not None else "")


def as_of(at: str | None) -> str:
    """Stands after the last table of FROM."""
    return "" if at is None else f" AS OF SYSTEM TIME {literal(at)}"


def _texts(values: Iterable[str]) -> str:
    return ", ".join(literal(v) for v in dict.fromkeys(values))


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(str(v) for v in values)
