"""What is known of an expression: its text for DuckDB and for Flink, its type, whether it can be null. And numbers as written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import exp

from millstream.events.types import Type
from millstream.pipelines.sql import flink
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.mistakes import Mistakes

Place = tuple[str, str]
"""A column of a relation: alias, name."""


@dataclass(frozen=True)
class Typed:
    """`type` None: the NULL literal (`null`), or unknown after a mistake. `literal`: a quoted literal's text.

    `constant`: a whole number written out. `column`: where it is just a column, its place. `flink` None: it has no text for Flink,
    so only a pipeline that runs locally may hold it.
    """

    sql: str
    type: Type | None
    nullable: bool = False
    null: bool = False
    literal: str | None = None
    constant: int | None = None
    column: Place | None = None
    flink: str | None = None


UNKNOWN = Typed("NULL", None, nullable=True, flink="NULL")
NULL = Typed("NULL", None, nullable=True, null=True, flink="NULL")


def made(template: str, values: Sequence[Typed], type_: Type | None, nullable: bool = False, *, on_flink: str | None = None) -> Typed:
    """A value made of others by one text in which {0}, {1}… and {all} stand for theirs; `on_flink`: where Flink's is another."""
    texts, others = [v.sql for v in values], [v.flink for v in values if v.flink is not None]
    sql = template.format(*texts, all=", ".join(texts))
    there = (on_flink or template).format(*others, all=", ".join(others)) if len(others) == len(texts) else None
    return Typed(sql, type_, nullable, flink=there)


def number(node: exp.Expression, text: str, mistakes: Mistakes, sign: str = "") -> Typed:
    """A number as written: the narrowest integer that holds it, a decimal if it has a point, a float64 if it has an exponent."""
    if "e" in text.lower():
        return Typed(f"CAST({sign}{text} AS DOUBLE)", t.FLOAT64, flink=f"CAST({sign}{text} AS DOUBLE)")
    if "." in text:
        return _decimal(node, text, mistakes, sign)
    value = int(sign + text)
    for type_, bits in ((t.INT32, 31), (t.INT64, 63)):
        if -(1 << bits) <= value < 1 << bits:
            there = f"CAST('{value}' AS {flink.name(type_)})"  # quoted: Flink cannot read the least integer as a number
            return Typed(f"CAST({value} AS {t.duckdb_name(type_)})", type_, constant=value, flink=there)
    mistakes.add(node, "number_too_large", f"{value} is outside int64", f"write CAST('{value}' AS DECIMAL(38,0))")
    return UNKNOWN


def _decimal(node: exp.Expression, text: str, mistakes: Mistakes, sign: str) -> Typed:
    whole, _, fraction = text.partition(".")
    precision = max(len(whole.lstrip("0")) + len(fraction), 1)
    if precision > t.PRECISION_MAX:
        message = f"{sign}{text} has more than {t.PRECISION_MAX} digits"
        mistakes.add(node, "number_too_large", message, "shorten it, or write it as a float: 1.5e0")
        return UNKNOWN
    type_ = t.decimal(precision, len(fraction))
    digits = f"{sign}{whole or '0'}.{fraction or '0'}"
    return Typed(f"CAST({digits} AS {t.duckdb_name(type_)})", type_, flink=flink.decimal(digits, type_))
