"""The aggregates of Millstream SQL, as data: what a group of rows, or the rows of a nested list, becomes.

Sums are exact: they are taken in the widest decimal, so neither the order of rows nor their number changes them. That is why
a sum or average of floats is refused, and why what depends on the order of rows must say a total one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from millstream.events.types import Kind, Type, list_of
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.shape import Aggregate, Argument, Sample

_EXACT: frozenset[Kind] = t.INTEGERS | {"decimal"}
_ORDERED: frozenset[Kind] = t.COMPARABLE - {"bytes", "boolean"}
_FLOAT_CURE = "floats add up to another value in another order: CAST it AS DECIMAL(18,6)"
_NUMBER = (("x", t.INT32),)
_NUMBERS = (("1",), ("2",), ("NULL",), ("2",))
_PAIRS = (("x", t.TEXT), ("n", t.INT32))


def _gives(result: Type) -> Callable[[Sequence[Type]], Type]:
    return lambda types: result


def _first(types: Sequence[Type]) -> Type:
    return types[0]


def _summed(types: Sequence[Type]) -> Type:
    return t.INT64 if types[0].kind == "int32" else _widest(types[0])


def _widest(type_: Type) -> Type:
    return t.decimal(t.PRECISION_MAX, t.digits(type_)[1])


AGGREGATES: tuple[Aggregate, ...] = (
    Aggregate(
        "count",
        (Argument("value", t.EVERY),),
        _gives(t.INT64),
        "count({distinct}{all}){filter}",
        "COUNT({distinct}{all}){filter}",
        "count(*): how many rows; count(x): how many values that are not null; count(DISTINCT x): how many different ones.",
        (
            Sample(_NUMBER, _NUMBERS, (), "4"),
            Sample(_NUMBER, _NUMBERS, ("x",), "3"),
            Sample(_NUMBER, _NUMBERS, ("x",), "2", distinct=True),
            Sample(_NUMBER, (), (), "0"),
        ),
        over_none="zero",
        distinct=True,
        optional=1,
    ),
    Aggregate(
        "sum",
        (Argument("number", _EXACT),),
        _summed,
        "CAST(sum({distinct}{0}){filter} AS {type})",
        "CAST(SUM({distinct}CAST({0} AS {wide})){filter} AS {type})",
        "Sum, exact: of int32 an int64, of int64 a decimal(38,0), of a decimal one of 38 digits with the same scale.",
        (
            Sample(_NUMBER, _NUMBERS, ("x",), "5::BIGINT"),
            Sample(_NUMBER, _NUMBERS, ("x",), "3::BIGINT", distinct=True),
            Sample((("x", t.INT64),), (("9223372036854775807",), ("1",)), ("x",), "9223372036854775808::DECIMAL(38,0)"),
            Sample((("x", t.decimal(4, 2)),), (("99.99",), ("0.02",)), ("x",), "100.01::DECIMAL(38,2)"),
            Sample(_NUMBER, (("NULL",),), ("x",), "NULL"),
        ),
        fails="outside the result type",
        cure=_FLOAT_CURE,
        distinct=True,
    ),
    Aggregate(
        "avg",
        (Argument("number", _EXACT),),
        _gives(t.FLOAT64),
        "(CAST(CAST(sum({distinct}{0}){filter} AS VARCHAR) AS DOUBLE) / count({distinct}{0}){filter})",
        "(CAST(TRIM(CAST(SUM({distinct}CAST({0} AS {wide})){filter} AS STRING)) AS DOUBLE) / CAST(COUNT({distinct}{0}){filter} AS DOUBLE))",
        "Average as float64: the exact sum by the number of values that are not null.",
        (
            Sample(_NUMBER, _NUMBERS, ("x",), "5e0 / 3e0"),
            Sample((("x", t.decimal(18, 2)),), (("0.10",), ("0.20",)), ("x",), "0.15::DOUBLE"),
            Sample(_NUMBER, (("NULL",),), ("x",), "NULL"),
        ),
        fails="where the sum has more than 38 digits",
        cure=_FLOAT_CURE,
        distinct=True,
    ),
    Aggregate(
        "min",
        (Argument("value", _ORDERED),),
        _first,
        "min({0}){filter}",
        "MIN({0}){filter}",
        "The least; text by code point, false before true is bool_and.",
        (
            Sample(_NUMBER, _NUMBERS, ("x",), "1"),
            Sample((("x", t.TEXT),), (("'b'",), ("'B'",), ("'é'",)), ("x",), "'B'"),
            Sample((("x", t.DATE),), (("DATE '2024-02-29'",), ("DATE '2023-12-31'",)), ("x",), "DATE '2023-12-31'"),
            Sample(_NUMBER, (), ("x",), "NULL"),
        ),
    ),
    Aggregate(
        "max",
        (Argument("value", _ORDERED),),
        _first,
        "max({0}){filter}",
        "MAX({0}){filter}",
        "The greatest; text by code point, true after false is bool_or.",
        (
            Sample(_NUMBER, _NUMBERS, ("x",), "2"),
            Sample((("x", t.TEXT),), (("'b'",), ("'B'",), ("'é'",)), ("x",), "'é'"),
            Sample(
                (("x", t.TIMESTAMP),),
                (("TIMESTAMP '2024-01-01 00:00:00.000001'",), ("TIMESTAMP '2024-01-01'",)),
                ("x",),
                "TIMESTAMP '2024-01-01 00:00:00.000001'",
            ),
            Sample(_NUMBER, (("NULL",),), ("x",), "NULL"),
        ),
    ),
    Aggregate(
        "bool_and",
        (Argument("condition", frozenset({"boolean"})),),
        _gives(t.BOOLEAN),
        "bool_and({0}){filter}",
        "(MIN(CASE WHEN {0} THEN 1 WHEN NOT {0} THEN 0 END){filter} = 1)",
        "Whether it is true of all that are not null.",
        (
            Sample((("x", t.BOOLEAN),), (("TRUE",), ("NULL",), ("FALSE",)), ("x",), "FALSE"),
            Sample((("x", t.BOOLEAN),), (("TRUE",), ("NULL",)), ("x",), "TRUE"),
            Sample((("x", t.BOOLEAN),), (("NULL",),), ("x",), "NULL"),
        ),
    ),
    Aggregate(
        "bool_or",
        (Argument("condition", frozenset({"boolean"})),),
        _gives(t.BOOLEAN),
        "bool_or({0}){filter}",
        "(MAX(CASE WHEN {0} THEN 1 WHEN NOT {0} THEN 0 END){filter} = 1)",
        "Whether it is true of any.",
        (
            Sample((("x", t.BOOLEAN),), (("TRUE",), ("NULL",), ("FALSE",)), ("x",), "TRUE"),
            Sample((("x", t.BOOLEAN),), (("NULL",), ("FALSE",)), ("x",), "FALSE"),
            Sample((("x", t.BOOLEAN),), (("NULL",),), ("x",), "NULL"),
        ),
    ),
    Aggregate(
        "list",
        (Argument("value", t.EVERY | t.NESTED),),
        lambda types: list_of(types[0]),
        "coalesce(list({distinct}{0}{order}){filter}, CAST([] AS {type}))",
        "COALESCE(ARRAY_AGG({distinct}{0}){filter}, ARRAY_SLICE(ARRAY[CAST(NULL AS {element})], 2, 1))",
        "All values in the order said, nulls too; over no row an empty list. (On Flink the publisher puts it in order.)",
        (
            Sample(_PAIRS, (("'b'", "1"), ("'a'", "2"), ("NULL", "3")), ("x",), "['b', 'a', NULL]", order="n"),
            Sample(_PAIRS, (("'b'", "1"), ("'a'", "2"), ("NULL", "3")), ("x",), "[NULL, 'a', 'b']", order="n DESC"),
            Sample(_PAIRS, (), ("x",), "CAST([] AS VARCHAR[])", order="n"),
        ),
        over_none="empty list",
        ordered=True,
    ),
    Aggregate(
        "string_agg",
        (Argument("text", frozenset({"text"})), Argument("separator", frozenset({"text"}), form="quoted")),
        _gives(t.TEXT),
        "string_agg({0}, {1}{order}){filter}",
        None,
        "All texts that are not null in the order said, with the separator between them.",
        (
            Sample(_PAIRS, (("'b'", "2"), ("'a'", "1"), ("NULL", "3")), ("x", "', '"), "'a, b'", order="n"),
            Sample(_PAIRS, (("NULL", "1"),), ("x", "', '"), "NULL", order="n"),
        ),
        ordered=True,
    ),
    Aggregate(
        "first",
        (Argument("value", t.EVERY | t.NESTED),),
        _first,
        "first({0}{order}){filter}",
        None,
        "The value of the first row in the order said, null if it is null there.",
        (
            Sample(_PAIRS, (("'b'", "2"), ("'a'", "1")), ("x",), "'a'", order="n"),
            Sample(_PAIRS, (("'b'", "2"), ("NULL", "3")), ("x",), "NULL", order="n DESC"),
            Sample(_PAIRS, (), ("x",), "NULL", order="n"),
        ),
        ordered=True,
    ),
)


def text(
    template: str, arguments: Sequence[str], types: Sequence[Type], names: Callable[[Type], str], result: Type,
    *, order: str = "", distinct: bool = False, filter_: str = "",
) -> str:  # fmt: skip
    """The call in one engine's text.

    In a template {0}, {1}… stand for the arguments and {all} for all of them (* for none); by `names`, {type} for the result's type,
    {element} for the first argument's and {wide} for the decimal in which that is summed; {distinct}, {order} and {filter} for what
    the call says: `order` is what comes after ORDER BY, `filter_` the condition of FILTER.
    """
    return template.format(
        *arguments,
        all=", ".join(arguments) or "*",
        type=names(result),
        wide=names(_widest(types[0])) if types and types[0].kind in _EXACT else "",
        element=names(types[0]) if types else "",
        distinct="DISTINCT " if distinct else "",
        order=f" ORDER BY {order}" if order else "",
        filter=f" FILTER (WHERE {filter_})" if filter_ else "",
    )
