"""The functions of numbers. What is not exact is marked: its last digit may differ between machines."""

from __future__ import annotations

from collections.abc import Callable

from millstream.events.types import Kind
from millstream.pipelines.sql import flink
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.calls import exact
from millstream.pipelines.sql.shape import Argument, Call, Function
from millstream.pipelines.sql.signatures import FLOAT, FRACTIONS, constant, gives, rounded, same, shared

_NUMBER = Argument("number", t.NUMBERS)
_EXACT: frozenset[Kind] = t.INTEGERS | {"decimal"}


def _abs(call: Call) -> str:
    return exact("ABS({0})", call.result).format(call.texts[0])


def _as_result(template: str) -> Callable[[Call], str]:
    """The template's value as the result's type: Flink's rounding of decimals chooses a precision of its own."""

    def write(call: Call) -> str:
        return f"CAST({template.format(*call.texts)} AS {flink.name(call.result)})"

    return write


def _double(function: str) -> Callable[[Call], str]:
    return lambda call: f"{function}({call.texts[0] if call.types[0].kind == 'decimal' else f'CAST({call.texts[0]} AS DOUBLE)'})"


def _round_duckdb(call: Call) -> str:
    value, *places = call.texts
    return f"round({value if call.types[0].kind == 'decimal' else f'CAST({value} AS DOUBLE)'}{''.join(f', {p}' for p in places)})"


def _trunc(call: Call) -> str:
    value = call.texts[0]
    if call.types[0].kind == "decimal":
        return f"CAST(TRUNCATE({value}, 0) AS {flink.name(call.result)})"
    return f"CAST(CASE WHEN {value} < 0 THEN CEIL({value}) ELSE FLOOR({value}) END AS DOUBLE)"  # its own breaks on a FLOAT


def _round_flink(call: Call) -> str:
    value, places = call.texts[0], (call.constants[1] or 0) if len(call.texts) > 1 else 0
    if call.types[0].kind == "decimal":
        return f"CAST(ROUND({value}, {places}) AS {flink.name(call.result)})"
    power = f"CAST(1e{places} AS DOUBLE)"
    return f"(ROUND(CAST({value} AS DOUBLE) * {power}, 0) / {power})" if places else f"ROUND(CAST({value} AS DOUBLE), 0)"


FUNCTIONS: tuple[Function, ...] = (
    Function(
        "abs",
        (_NUMBER,),
        same,
        "abs({0})",
        "Without its sign.",
        (("abs(-2)", "2"), ("abs(-2.5)", "2.5")),
        fails="of the least integer",
        flink=_abs,
    ),
    Function(
        "round",
        (Argument("number", FRACTIONS), constant("places", 15)),
        rounded,
        _round_duckdb,
        "To so many places (0), halves away from zero; a decimal's scale becomes that, a float is a float64.",
        (("round(2.345, 2)", "2.35"), ("round(-2.5)", "-3"), ("round(2.5e0)", "3e0"), ("round(1.25e0, 1)", "1.3e0")),
        optional=1,
        flink=_round_flink,
        differs="infinity and NaN fail",
    ),
    Function(
        "floor",
        (Argument("number", FRACTIONS),),
        rounded,
        _double("floor"),
        "The whole number at or below.",
        (("floor(-1.5)", "-2"), ("floor(-1.5e0)", "-2e0")),
        flink=_as_result("FLOOR({0})"),
    ),
    Function(
        "ceil",
        (Argument("number", FRACTIONS),),
        rounded,
        _double("ceil"),
        "The whole number at or above.",
        (("ceil(1.2)", "2"), ("ceil(-1.5e0)", "-1e0")),
        flink=_as_result("CEIL({0})"),
    ),
    Function(
        "trunc",
        (Argument("number", FRACTIONS),),
        rounded,
        _double("trunc"),
        "The whole number towards zero.",
        (("trunc(-1.7)", "-1"), ("trunc(2.7e0)", "2e0")),
        flink=_trunc,
    ),
    Function(
        "sign",
        (_NUMBER,),
        gives(t.INT32),
        "CAST(sign({0}) AS INTEGER)",
        "-1, 0 or 1.",
        (("sign(-3)", "-1"), ("sign(0.5)", "1")),
        flink="CAST(SIGN(CAST({0} AS DOUBLE)) AS INT)",  # the SIGN of a DECIMAL(1, 1) would be one
    ),
    Function(
        "mod",
        (Argument("number", _EXACT), Argument("by", _EXACT)),
        shared,
        "CAST(({0} % {1}) AS {type})",
        "The remainder, as the operator %.",
        (("mod(-7, 2)", "-1"), ("mod(7.5, 2)", "1.5")),
        common=True,
        fails="by zero",
        flink=_as_result("MOD({0}, {1})"),
    ),
    Function(
        "sqrt",
        (FLOAT,),
        gives(t.FLOAT64),
        "sqrt({0})",
        "Square root; below zero NaN.",
        (("sqrt(9)", "3e0"),),
        flink="SQRT({0})",
        near=True,
    ),
    Function(
        "power",
        (FLOAT, Argument("exponent", t.NUMBERS, t.FLOAT64)),
        gives(t.FLOAT64),
        "power({all})",
        "To the power of.",
        (("power(2, 10)", "1024e0"),),
        flink="POWER({all})",
        near=True,
    ),
    Function("exp", (FLOAT,), gives(t.FLOAT64), "exp({0})", "e to the power of.", (("exp(0)", "1e0"),), flink="EXP({0})", near=True),
    Function(
        "ln",
        (FLOAT,),
        gives(t.FLOAT64),
        "ln({0})",
        "Natural logarithm; of zero minus infinity, below zero NaN.",
        (("ln(1)", "0e0"),),
        flink="LN({0})",
        near=True,
    ),
    Function(
        "log10",
        (FLOAT,),
        gives(t.FLOAT64),
        "log10({0})",
        "Decimal logarithm; of zero minus infinity, below zero NaN.",
        (("log10(100)", "2e0"),),
        flink="LOG10({0})",
        near=True,
    ),
)
