"""What is known of an expression: its DuckDB text, its type, whether it can be null. And numbers as written."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from millstream.events.types import Type
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.mistakes import Mistakes


@dataclass(frozen=True)
class Typed:
    """`type` None: the NULL literal (`null`), or unknown after a mistake. `literal`: a quoted literal's text.

    `constant`: a whole number written out. `column`: (alias, column) where it is just a column.
    """

    sql: str
    type: Type | None
    nullable: bool = False
    null: bool = False
    literal: str | None = None
    constant: int | None = None
    column: tuple[str, str] | None = None


UNKNOWN = Typed("NULL", None, nullable=True)
NULL = Typed("NULL", None, nullable=True, null=True)


def number(node: exp.Expression, text: str, mistakes: Mistakes, sign: str = "") -> Typed:
    """A number as written: the narrowest integer that holds it, a decimal if it has a point, a float64 if it has an exponent."""
    if "e" in text.lower():
        return Typed(f"CAST({sign}{text} AS DOUBLE)", t.FLOAT64)
    if "." in text:
        return _decimal(node, text, mistakes, sign)
    value = int(sign + text)
    for type_, bits in ((t.INT32, 31), (t.INT64, 63)):
        if -(1 << bits) <= value < 1 << bits:
            return Typed(f"CAST({value} AS {t.duckdb_name(type_)})", type_, constant=value)
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
    return Typed(f"CAST({sign}{whole or '0'}.{fraction or '0'} AS {t.duckdb_name(type_)})", type_)
