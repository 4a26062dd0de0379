"""DuckDB's functions beyond the table, for pipelines that say `portable: false`: what a call gives is asked of DuckDB itself.

It is asked in a connection of its own, in memory, that may open no file, network or extension, over typed columns without a row.
Nothing is known of such a function but its type: its value may be null, and there is no Flink text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import duckdb
from sqlglot import exp

from millstream.events.types import Type, list_of
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.mistakes import Mistakes
from millstream.pipelines.sql.typed import UNKNOWN, Typed

_TYPES = {
    "BOOLEAN": t.BOOLEAN, "TINYINT": t.INT32, "SMALLINT": t.INT32, "INTEGER": t.INT32, "UTINYINT": t.INT32, "USMALLINT": t.INT32,
    "UINTEGER": t.INT64, "BIGINT": t.INT64, "UBIGINT": t.decimal(20, 0), "HUGEINT": t.decimal(38, 0), "FLOAT": t.FLOAT32,
    "DOUBLE": t.FLOAT64, "VARCHAR": t.TEXT, "JSON": Type("json"), "UUID": t.UUID_TEXT, "BLOB": t.BYTES, "DATE": t.DATE, "TIME": t.TIME,
    "TIMESTAMP": t.TIMESTAMP, "TIMESTAMP WITH TIME ZONE": t.TIMESTAMPTZ,
}  # fmt: skip
_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_CLOCKED = frozenset({"age"})  # with one argument it is counted from today


def call(node: exp.Anonymous, values: Sequence[Typed], mistakes: Mistakes) -> Typed | None:
    """The value of a DuckDB function of that name, or UNKNOWN and a mistake; None where DuckDB has none, or one that is an aggregate."""
    name = str(node.this).casefold()
    stability = _stability(name)
    if stability is None:
        return None
    if stability != "CONSISTENT" or (name in _CLOCKED and len(values) == 1):
        mistakes.refuse(node, "volatile", name=f"{name}()")
        return UNKNOWN
    if any(v.type is None for v in values):
        if any(v.null for v in values):
            mistakes.add(node, "null_literal", f"a NULL given to {name} has no type", "give it one: CAST(NULL AS TEXT)")
        return UNKNOWN
    try:
        described = _described(name, values)
    except duckdb.Error as e:
        mistakes.add(node, "type_clash", f"DuckDB: {str(e).splitlines()[0]}", "CAST the arguments to what the function takes")
        return UNKNOWN
    type_ = _type(described)
    if type_ is None:
        cure = "use it inside a function whose result has a type of Millstream SQL"
        mistakes.add(node, "bad_type", f"{name} gives a {described}, which is no type of Millstream SQL", cure)
        return UNKNOWN
    return Typed(f"CAST({name}({', '.join(v.sql for v in values)}) AS {t.duckdb_name(type_)})", type_, nullable=True)


def _described(name: str, values: Sequence[Typed]) -> str:
    """The type that DuckDB gives the call. What was written out is given as it was: some functions ask for a constant."""
    written = [v.sql if v.literal is not None or v.constant is not None else f"a{i}" for i, v in enumerate(values)]
    columns = [f"CAST(NULL AS {t.duckdb_name(v.type)}) AS a{i}" for i, v in enumerate(values) if v.type]
    rows = f"SELECT {', '.join(columns) or '0'} LIMIT 0"
    ((_, described, *_),) = _walled().execute(f"DESCRIBE SELECT {name}({', '.join(written)}) FROM ({rows})").fetchall()
    return str(described)


def _type(described: str) -> Type | None:
    if described.endswith("[]"):
        element = _type(described[:-2])
        return list_of(element) if element else None
    decimal = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", described)
    return t.decimal(int(decimal[1]), int(decimal[2])) if decimal else _TYPES.get(described)


@cache
def _stability(name: str) -> str | None:
    """What DuckDB says of the scalar function: CONSISTENT, or another word; the worst of its forms. None: it has none."""
    if not _NAME.fullmatch(name):
        return None
    sql = "SELECT max(stability) FROM duckdb_functions() WHERE function_name = ? AND function_type = 'scalar'"
    found = _walled().execute(sql, [name]).fetchone()
    return None if found is None or found[0] is None else str(found[0])


@cache
def _walled() -> duckdb.DuckDBPyConnection:
    settings = {
        "threads": "1",
        "enable_external_access": "false",
        "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false",
        "lock_configuration": "true",
    }
    return duckdb.connect(":memory:", config=settings)
