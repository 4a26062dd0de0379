"""Rows and documents that should be, held against those that are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa


@dataclass(frozen=True)
class Verdict:
    """`rows` were found, `differing` of them, or of those that should have been found, are wrong; `examples` shows a few."""

    rows: int
    differing: int
    examples: tuple[str, ...]


def from_json(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Documents as columns of the truth's types. A value that does not fit its type exactly is an error, not a near miss."""
    rows = list(rows)
    return pa.table([pa.array([_read(row.get(f.name), f.type) for row in rows], f.type) for f in schema], schema=schema)


def _read(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_decimal(kind):
        return Decimal(str(value))
    if pa.types.is_timestamp(kind):
        return datetime.fromisoformat(value)
    # Arrow would cut 1.5 down to 1.
    if pa.types.is_integer(kind) and type(value) is not int:
        raise TypeError(f"{value!r} is not an integer")
    return value


def compare(expected: pa.Table, actual: pa.Table, key: str) -> Verdict:
    """Every row of either side that the other does not have just so. A key found twice is wrong once more."""
    missing = [f.name for f in expected.schema if f.name not in actual.column_names]
    if missing:
        return Verdict(actual.num_rows, max(expected.num_rows, 1), (f"columns {', '.join(missing)} are not there",))
    wrong = [f"{f.name} is {actual.schema.field(f.name).type}, not {f.type}" for f in expected.schema if not _same(f, actual.schema)]
    if wrong:
        return Verdict(actual.num_rows, max(expected.num_rows, 1), tuple(wrong))
    database = duckdb.connect()
    database.register("expected", expected)
    database.register("actual", actual.select(expected.column_names))
    unequal = " OR ".join(f'e."{f.name}" IS DISTINCT FROM a."{f.name}"' for f in expected.schema)
    join = f'FROM expected e FULL JOIN actual a ON e."{key}" = a."{key}" WHERE {unequal}'
    (differing,) = database.execute(f"SELECT count(*) {join}").fetchone() or (0,)
    (twice,) = database.execute(f'SELECT count(*) - count(DISTINCT "{key}") FROM actual').fetchone() or (0,)
    examples = tuple(
        f"expected {e}, found {a}" for e, a in database.execute(f"SELECT to_json(e)::text, to_json(a)::text {join} LIMIT 3").fetchall()
    )
    return Verdict(actual.num_rows, differing + twice, examples)


def compare_documents(expected: Iterable[Mapping[str, Any]], found: Iterable[Mapping[str, Any]], key: str) -> Verdict:
    """Every document of either side that the other does not have just so, lists in their order. One found twice is wrong once more."""
    wanted, rows = {d[key]: dict(d) for d in expected}, list(found)
    got = {d[key]: {k: v for k, v in d.items() if k != "_seen"} for d in rows}  # its stamp is Millstream's own
    wrong = [k for k in wanted.keys() | got.keys() if wanted.get(k) != got.get(k)]
    examples = tuple(f"expected {wanted.get(k)}, found {got.get(k)}" for k in sorted(wrong)[:3])
    return Verdict(len(rows), len(wrong) + len(rows) - len(got), examples)


def _same(expected: pa.Field, actual: pa.Schema) -> bool:
    kind = actual.field(expected.name).type
    return kind == expected.type or (pa.types.is_string(expected.type) and pa.types.is_large_string(kind))
