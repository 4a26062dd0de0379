"""Which rows a backfill reads, as conditions; and the values of a topic's rows as the server reads them.

Everything is compared by the server, in the columns' own types and collations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.errors import Irrecoverable
from millstream.events.types import RowSchema
from millstream.sources import condition as conditions
from millstream.sources.cockroach import statements
from millstream.sources.cockroach.describe import Shape
from millstream.sources.cockroach.failures import STATEMENT
from millstream.sources.cockroach.statements import KeyColumn
from millstream.sources.contract import Scope

# Those of CockroachDB's functions that answer differently for each row, or change something: the server, or our session on it.
_VOLATILE = frozenset(
    (
        "clock_timestamp", "currval", "gen_random_bytes", "gen_random_ulid", "gen_random_uuid", "gen_salt", "lastval", "nextval",
        "pg_cancel_backend", "pg_notify", "pg_sleep", "pg_terminate_backend", "random", "set_config", "setseed", "setval",
        "statement_timestamp", "timeofday", "unique_rowid", "unordered_unique_rowid", "uuid_generate_v1", "uuid_generate_v1mc",
        "uuid_generate_v4", "uuid_v4",
    )
)  # fmt: skip
_INNER = re.compile(r"""'(?:[^']|'')*'|(\bcrdb_internal\b"?\s*\.)""", re.IGNORECASE)
"""A text, or what calls a function of the server's own insides, most of which act on it."""


@contextmanager
def explained(scope: Scope, where: str) -> Iterator[None]:
    """What the server says of statements within that only a scope can be at fault for."""
    try:
        yield
    except Irrecoverable as error:
        if error.code != STATEMENT or scope.is_whole:
            raise
        raise conditions.refused(error.message, where, "ask again with what the database can compare with the table's columns") from None


def within(scope: Scope, shape: Shape, where: str) -> list[str]:
    """Conditions that the scope's rows fulfil; none: all do. Raises Refused("bad_scope")."""
    key = key_columns(shape)
    named = ", ".join(k.name for k in key)
    if scope.where is not None:
        read = conditions.condition(scope.where, [c.name for c in shape.told], where)
        inner = ["crdb_internal"] if any(found.group(1) for found in _INNER.finditer(read.sql)) else []
        if moody := [*inner, *sorted(f for f in read.functions if f.lower() in _VOLATILE)]:
            raise conditions.refused(
                f"{', '.join(moody)} may answer differently for each row, or change something", where, "compare with a value instead"
            )
        return [f"({read.sql})"]
    if scope.keys is not None:
        for given in scope.keys:
            if len(given) != len(key):
                raise conditions.refused(f"the key {','.join(given)} has not {len(key)} columns", where, f"give {named}")
        return [statements.one_of(scope.keys, key)]
    ends = []
    for end, backward in ((scope.first, False), (scope.last, True)):
        if end is not None and len(end) > len(key):
            raise conditions.refused(f"{','.join(end)} has more columns than the key", where, f"give {named}, or the first of them")
        if end is not None:
            ends.append(statements.beyond(key[: len(end)], end, backward=backward, inclusive=True))
    return ends


def read_columns(scope: Scope, shape: Shape, schema: RowSchema, where: str) -> list[str]:
    """The names of the columns that the scope's conditions read. Raises Refused("bad_scope") where `schema` has one of them not."""
    if scope.where is not None:
        there = [c.name for c in shape.told if c.name in schema.names]
        return list(conditions.condition(scope.where, there, where).columns)
    return [] if scope.is_whole else [k.name for k in key_columns(shape)]


def key_columns(shape: Shape) -> list[KeyColumn]:
    """The key without shards: what people and topics know of it."""
    told = {c.name for c in shape.told}
    return [k for k in shape.reading if k.name in told]


def order(shape: Shape) -> str:
    """What makes the order in which the table is read."""
    return "; ".join(f"{k.name} {k.sql_type}{' DESC' if k.descending else ''}" for k in shape.reading)


def columns(shape: Shape, names: Sequence[str]) -> list[KeyColumn]:
    types = {c.name: c.sql_type for c in shape.told}
    return [KeyColumn(name, types[name]) for name in names]


def texts(rows: pa.RecordBatch, schema: RowSchema, names: Sequence[str]) -> list[list[str | None]]:
    """The values of these columns, row by row, as literals of them are written."""
    cells = [_texts(rows.column(schema.names.index(name))) for name in names]
    return [list(row) for row in zip(*cells, strict=True)]


def exact(rows: pa.RecordBatch, schema: RowSchema, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """The values of these columns, row by row: equal where a topic's key is, which tells -0 from 0 and knows one NaN."""
    return list(zip(*(_exact(rows.column(schema.names.index(name))) for name in names), strict=True))


def _exact(values: pa.Array) -> list[Any]:
    if not pa.types.is_floating(values.type):
        return list(values.to_pylist())
    numbers = np.asarray(values.cast(pa.float64()))
    bits: list[Any] = np.where(np.isnan(numbers), np.nan, numbers).view(np.uint64).tolist()
    return bits


def _texts(values: pa.Array) -> list[str | None]:
    kind = values.type
    if pa.types.is_binary(kind):
        return [None if v is None else "\\x" + v.hex() for v in values.to_pylist()]
    if pa.types.is_floating(kind):
        # The shortest text that means it in its own width: a longer one is another number to a server that reads all its digits.
        return [None if v is None else str(kind.to_pandas_dtype()(v)) for v in values.to_pylist()]
    if pa.types.is_list(kind):
        raise conditions.refused("deleted rows are not compared by a list", "", "reconcile by keys, a range or the whole table")
    found: list[str | None] = pc.cast(values, pa.string()).to_pylist()
    return found
