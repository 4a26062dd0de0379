"""A call of an operator or function, written for both engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from millstream.events.types import Type
from millstream.pipelines.sql import flink
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.shape import Call, Text
from millstream.pipelines.sql.typed import Typed


def called(duckdb: Text, on_flink: Text | None, values: Sequence[Typed], result: Type, nullable: bool) -> Typed:
    """The call's value. `values` are cast to what the row asks for."""
    sql = _text(duckdb, values, [v.sql for v in values], result, t.duckdb_name)
    assert sql is not None  # DuckDB has a text for every row
    there = [v.flink for v in values if v.flink is not None]
    known = on_flink is not None and len(there) == len(values)
    return Typed(sql, result, nullable, flink=_text(on_flink, values, there, result, flink.name) if on_flink and known else None)


def _text(text: Text, values: Sequence[Typed], texts: Sequence[str], result: Type, names: Callable[[Type], str]) -> str | None:
    if isinstance(text, str):
        return text.format(*texts, all=", ".join(texts), type=names(result))
    types = tuple(v.type for v in values if v.type)
    return text(Call(types, tuple(texts), tuple(v.literal for v in values), tuple(v.constant for v in values), result))


def negative(type_: Type) -> str:
    """Flink's template of -x, which fails for the least integer."""
    return exact("-{0}", type_)


def exact(template: str, type_: Type) -> str:
    """Arithmetic of integers in Flink, done one size wider and brought back so that it fails where it does not fit: Flink's own wraps.

    {0}, {1}… stand for the arguments. Decimals and floats are as they are.
    """
    wide = {"int32": "BIGINT", "int64": "DECIMAL(19, 0)"}.get(type_.kind)
    if wide is None:
        return f"CAST({template} AS {flink.name(type_)})" if type_.kind == "decimal" else f"({template})"
    for i in range(2):
        template = template.replace(f"{{{i}}}", f"CAST({{{i}}} AS {wide})")
    return flink.through_text(template, type_)
