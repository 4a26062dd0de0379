"""The catalogue: questions to pg_catalog, information_schema and some SHOW statements, answered as of any time.

The tables of system.py are put into SQLite, and the question, put into SQLite's words by sqlglot, is asked there: so whatever plain
SELECT with joins a client sends is answered, and what SQLite does not take is an error and never a guess.
"""

from __future__ import annotations

import itertools
import re
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import exp

from millstream.testing.cockroach import system
from millstream.testing.cockroach.descriptors import Descriptor
from millstream.testing.cockroach.errors import SqlError, not_modelled
from millstream.testing.cockroach.hlc import Hlc
from millstream.testing.cockroach.session import Result
from millstream.testing.cockroach.store import Store
from millstream.testing.cockroach.system import BOOL, INT8, TEXT, TYPES
from millstream.testing.cockroach.targets import time_of
from millstream.testing.cockroach.tokens import Token, syntax_error, tokens

_KEPT = 8
_FUNCTIONS = {"HAS_TABLE_PRIVILEGE": BOOL, "COUNT": INT8, "PG_TABLE_IS_VISIBLE": BOOL}
_SHOWN = {
    "columns": (
        "SELECT column_name, crdb_sql_type AS data_type, is_nullable = 'YES' AS is_nullable, column_default, generation_expression, "
        "is_hidden = 'YES' AS is_hidden FROM information_schema.columns WHERE table_schema = {1} AND table_name = {2} "
        "ORDER BY ordinal_position"
    ),
    "tables": (
        "SELECT table_schema AS schema_name, table_name, 'table' AS type FROM information_schema.tables "
        "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY table_schema, table_name"
    ),
    "queries": "SELECT * FROM crdb_internal.cluster_queries",
    "databases": "SELECT datname AS database_name, 'root' AS owner FROM pg_catalog.pg_database ORDER BY datname",
}


@dataclass(frozen=True)
class Asker:
    """Who asks. `running`: (query id, user, text) of the statements that run now. `refused`: users without any privilege."""

    store: Store
    user: str
    database: str
    running: Sequence[tuple[str, str, str]] = ()
    refused: frozenset[str] = frozenset()


def asks(sql: str) -> bool:
    """Whether a statement is a question to the catalogue. Raises SqlError 42601."""
    found = tokens(sql)
    words = [t.text for t in found]
    if words[0] == "show":
        return words[1] in (*_SHOWN, "statistics", "statements") and found[1].kind == "word"
    for before, token in itertools.pairwise(found):
        if before.text == "[" and token.text == "create":
            raise SqlError("42601", f"{syntax_error(sql, token.at, 'create').message}\nHINT:  try \\h <SOURCE>")
    return words[0] == "select" and any(_names_the_catalogue(words[n - 1], t) for n, t in enumerate(found) if t.kind == "word")


def _names_the_catalogue(before: str, word: Token) -> bool:
    if word.text in system.SCHEMAS:
        return True
    return (before == "[" and word.text == "show") or (before in ("from", "join") and word.text.startswith("pg_"))


def answer(sql: str, parameters: Sequence[str | None], asker: Asker) -> Result:
    """Raises SqlError: 42601, 42P01 for a table that the stand-in does not have, 0A000 for what SQLite cannot be asked."""
    if parameters:
        raise not_modelled("parameters in a question to the catalogue")
    found = tokens(sql)
    if found[0].text == "show":
        return _shown(sql, found, asker)
    text, at = _without_time(sql, found, asker.store)
    text = re.sub(r"(?i)\[\s*show\s+(cluster\s+)?(queries|statements)\s*\]", "crdb_internal.cluster_queries", text)
    return _asked(text, at, asker)


def _shown(sql: str, found: list[Token], asker: Asker) -> Result:
    what = {"statements": "queries"}.get(found[1].text, found[1].text)
    named = next((n + 1 for n, t in enumerate(found) if t.text in ("from", "table") and t.kind == "word"), None)
    path = tuple(t.text for t in found[named:] if t.kind in ("word", "name")) if named is not None else ()
    if what in ("columns", "statistics"):
        table = asker.store.find(path, asker.database) if path else None
        if table is None:
            raise SqlError("42P01", f'relation "{".".join(path)}" does not exist')
        if what == "statistics":
            return _statistics(asker.store, table.now)
        return _asked(_SHOWN[what].format(None, *(exp.Literal.string(p).sql() for p in (table.now.schema, table.now.name))), None, asker)
    return _asked(_SHOWN[what], None, asker)


def _statistics(store: Store, descriptor: Descriptor) -> Result:
    """As if the server had counted a moment ago."""
    now = store.now()
    count = len(store.rows(descriptor.id, now))
    columns = (("statistics_name", TEXT), ("column_names", TEXT), ("created", TEXT), ("row_count", INT8), ("distinct_count", INT8))
    rows = [("__auto__", "{" + ",".join(descriptor.key) + "}", str(now), str(count), str(count))]
    return Result(list(columns), list(rows), "SHOW STATISTICS 1")


def _without_time(sql: str, found: list[Token], store: Store) -> tuple[str, Hlc | None]:
    """The text without AS OF SYSTEM TIME, and the time that stood there."""
    words = [t.text if t.kind == "word" else "" for t in found]
    for n in range(len(found) - 4):
        if words[n : n + 4] == ["as", "of", "system", "time"]:
            if found[n + 4].kind != "string":
                raise not_modelled("a computed time in AS OF SYSTEM TIME")
            at = time_of(found[n + 4].text, store.now(), store.version)
            store.readable(at)
            return sql[: found[n].at] + " " + sql[found[n + 5].at :], at
    return sql, None


def _asked(text: str, at: Hlc | None, asker: Asker) -> Result:
    try:
        tree = sqlglot.parse_one(text, read="postgres")
    except sqlglot.errors.ParseError as e:
        raise SqlError("42601", f"syntax error: {e}") from None
    guarded = any(t.db == "crdb_internal" and t.name != "cluster_queries" for t in tree.find_all(exp.Table))
    if guarded and asker.store.version != "22.1":
        raise SqlError(
            "42501",
            "Access to crdb_internal and system is restricted.\nHINT:  These interfaces are unsupported in production. "
            "To proceed, set the session variable allow_unsafe_internals = true",
        )
    moment = at or asker.store.now()
    with _LOCK:
        connection = _database(asker, moment, with_changes=guarded)
        _functions(connection, asker)
        try:
            cursor = connection.execute(tree.sql("sqlite"))
            rows = cursor.fetchall()
        except sqlite3.Error as e:
            missing = re.search(r"no such table: (\S+)", str(e))
            if missing:
                raise SqlError("42P01", f'relation "{missing[1]}" does not exist') from None
            column = re.search(r"no such column: (\S+)", str(e))
            if column:
                raise SqlError("42703", f'column "{column[1]}" does not exist') from None
            raise not_modelled(f"this question to the catalogue ({e})") from None
        names = [d[0] for d in cursor.description]
    columns = list(zip(names, _types(tree, names), strict=True))
    shown = [tuple(_text(value, kind) for value, (_, kind) in zip(row, columns, strict=True)) for row in rows]
    return Result(columns, shown, f"SELECT {len(shown)}")


def _text(value: object, kind: int) -> str | None:
    if value is None:
        return None
    return ("t" if value else "f") if kind == BOOL else str(value)


def _types(tree: exp.Expression, names: Sequence[str]) -> list[int]:
    """By what is selected where that is known, else by the column's name."""
    selected = list(tree.selects) if isinstance(tree, exp.Query) else []
    if len(selected) != len(names):
        return [TYPES.get(name, TEXT) for name in names]
    return [_type(item.unalias(), name) for item, name in zip(selected, names, strict=True)]


def _type(item: exp.Expression, name: str) -> int:
    if isinstance(item, exp.Column):
        return TYPES.get(item.name, TEXT)
    if isinstance(item, exp.Predicate | exp.Connector | exp.Not | exp.Boolean):
        return BOOL
    if isinstance(item, exp.Func):
        return _FUNCTIONS.get((item.name if isinstance(item, exp.Anonymous) else item.sql_name()).upper(), TEXT)
    if isinstance(item, exp.Literal) and not item.is_string:
        return INT8
    return TYPES.get(name, TEXT)


# ---- SQLite

_LOCK = threading.Lock()
_BUILT: OrderedDict[object, sqlite3.Connection] = OrderedDict()


def _database(asker: Asker, at: Hlc, *, with_changes: bool) -> sqlite3.Connection:
    """The tables as of a time, as one database sees them: kept for the next question, since most times look alike.

    `with_changes`: the schema changes under way as well, which are looked for among all changes.
    """
    store = asker.store
    with store.lock:
        found = [d for d in store.all_descriptors(at) if d.database == asker.database]
    changing = system.changing(store, found, at) if with_changes else ()
    known = (id(store), asker.database, tuple((d.id, d.version, d.since) for d in found), tuple(changing), tuple(asker.running))
    connection = _BUILT.get(known)
    if connection is None:
        connection = _BUILT[known] = _built(system.tables(store, asker.database, found, changing, asker.running))
    _BUILT.move_to_end(known)
    while len(_BUILT) > _KEPT:
        _BUILT.popitem(last=False)[1].close()
    return connection


def _built(tables: dict[tuple[str, str], tuple[tuple[str, ...], list[tuple[object, ...]]]]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA case_sensitive_like = ON")
    for schema in system.SCHEMAS:
        connection.execute(f"ATTACH ':memory:' AS {schema}")
    for (schema, name), (columns, rows) in tables.items():
        connection.execute(f"CREATE TABLE {schema}.{name} ({', '.join(columns)})")
        connection.executemany(f"INSERT INTO {schema}.{name} VALUES ({', '.join('?' * len(columns))})", rows)
    return connection


def _functions(connection: sqlite3.Connection, asker: Asker) -> None:
    store = asker.store

    def has_privilege(table: object, privilege: str) -> bool:
        if asker.user in asker.refused:
            return False
        if isinstance(table, str) and not table.isdigit():
            found = store.table(table, store.now(), asker.database)
            if found is None:
                raise ValueError(table)
            return store.may(asker.user, found.id, privilege)
        return store.may(asker.user, int(str(table)), privilege)

    connection.create_function("has_table_privilege", 2, has_privilege)
    connection.create_function("has_table_privilege", 3, lambda user, table, privilege: store.may(user, int(table), privilege))
    connection.create_function("current_database", 0, lambda: asker.database)
    connection.create_function("current_schema", 0, lambda: "public")
    connection.create_function("pg_table_is_visible", 1, lambda oid: True)
    connection.create_function("pg_get_expr", 2, lambda text, oid: text)
    connection.create_function("format_type", 2, lambda oid, modifier: system.type_name(oid))
