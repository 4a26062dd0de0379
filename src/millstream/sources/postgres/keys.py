"""Keys as SQL: a condition that finds the rows whose columns equal one of many keys, each a quoted literal, by an index if there is one.

Numbers, dates and the like are compared in the key's own type, so that nothing is rounded; texts in the column's. Keys that are no
value of the column's type cannot be compared so: then `condition(as_text=True)`, which no index serves.
Reference: PostgreSQL 18, "Array Input and Output Syntax", "Row and Array Comparisons".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

NUL = "\0"  # in no text of PostgreSQL's: what holds it equals nothing there


def condition(
    columns: Sequence[str], types: Sequence[str], keys: pa.Table, *, as_text: bool = False, equal: Sequence[str] = ()
) -> sql.Composable:
    """True of the rows whose `columns` (of SQL `types`, without modifiers) equal a row of `keys`. `keys` has no nulls. `equal`: the
    operator of each column that says so, where those are not all the server's own."""
    arrays = [_array(keys.column(i), types[i], as_text) for i in range(len(columns))]
    named = [sql.SQL("CAST({} AS text)" if as_text else "{}").format(sql.Identifier("t", c)) for c in columns]
    if len(columns) == 1:
        return sql.SQL("{} {} ANY ({})").format(named[0], sql.SQL(equal[0] if equal else "="), arrays[0])
    names = sql.SQL(", ").join(sql.Identifier(f"k{i}") for i in range(len(columns)))
    if any(sign != "=" for sign in equal):
        same = [sql.SQL("{} {} {}").format(named[i], sql.SQL(sign), sql.Identifier("k", f"k{i}")) for i, sign in enumerate(equal)]
        return sql.SQL("EXISTS (SELECT 1 FROM unnest({}) AS k ({}) WHERE {})").format(
            sql.SQL(", ").join(arrays), names, sql.SQL(" AND ").join(same)
        )
    return sql.SQL("({}) IN (SELECT {} FROM unnest({}) AS k ({}))").format(
        sql.SQL(", ").join(named), names, sql.SQL(", ").join(arrays), names
    )


def possible(keys: pa.Table) -> pa.Table:
    """Without the keys that no row of PostgreSQL's can equal."""
    for name in keys.column_names:
        if _is_text(keys.column(name).type):
            keys = keys.filter(pc.invert(pc.match_substring(keys.column(name), NUL)))
    return keys


def array(values: pa.ChunkedArray, type_: str) -> sql.Composable:
    """The values as an array of SQL type `type_`, nulls too. Raises ValueError for what cannot be written so."""
    texts, _ = _texts(values)
    return sql.SQL("CAST({} AS {}[])").format(
        sql.Literal("{" + ",".join("NULL" if t is None else t for t in texts.to_pylist()) + "}"), sql.SQL(type_)
    )


def _array(values: pa.ChunkedArray, type_: str, as_text: bool) -> sql.Composable:
    texts, own = _texts(values)
    said = sql.SQL("{}[]").format(sql.SQL("text" if as_text else own or type_))
    return sql.SQL("CAST({} AS {})").format(sql.Literal("{" + ",".join(texts.to_pylist()) + "}"), said)


def _texts(values: pa.ChunkedArray) -> tuple[pa.ChunkedArray, str | None]:
    """The values as elements of an array literal, and the SQL type that holds them exactly; None: the column's own."""
    kind = values.type
    if _is_text(kind):
        escaped = pc.replace_substring(pc.replace_substring(values, "\\", "\\\\"), '"', '\\"')
        return _within(escaped), None
    for is_kind, sql_type, text in _OTHERS:
        if is_kind(kind):
            return _within(text(values)), sql_type
    raise ValueError(f"rows are not looked up by values of type {kind}")


def _within(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.binary_join_element_wise('"', texts.cast(pa.string()), '"', "")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values.cast(pa.string())


def _instant(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(values.cast(pa.timestamp("us")).cast(pa.string()), "+00", "")


def _hex(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([None if v is None else f"\\\\x{v.hex()}" for v in values.to_pylist()], pa.string())])


_OTHERS: tuple[tuple[Callable[[pa.DataType], bool], str, Callable[[pa.ChunkedArray], pa.ChunkedArray]], ...] = (
    (pa.types.is_boolean, "boolean", _plain),
    (pa.types.is_integer, "bigint", _plain),
    (pa.types.is_decimal, "numeric", _plain),
    # A float32 as text would be its nearest short decimal, another double.
    (pa.types.is_floating, "double precision", lambda v: v.cast(pa.float64()).cast(pa.string())),
    (pa.types.is_date, "date", _plain),
    (pa.types.is_time, "time", _plain),
    (lambda t: pa.types.is_timestamp(t) and t.tz is not None, "timestamptz", _instant),
    (pa.types.is_timestamp, "timestamp", lambda v: v.cast(pa.timestamp("us")).cast(pa.string())),
    (lambda t: bool(pa.types.is_binary(t) or pa.types.is_large_binary(t)), "bytea", _hex),
)
