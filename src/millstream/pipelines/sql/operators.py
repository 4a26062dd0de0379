"""The operators of Millstream SQL, as data, for DuckDB and for Flink. "fails": at run time, as a BadRecord that names the record."""

from __future__ import annotations

from collections.abc import Callable

from millstream.events.types import Type
from millstream.pipelines.sql import flink
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.calls import exact
from millstream.pipelines.sql.shape import Call, Operator, Signature


def _decimals(left: Type, right: Type, precision: int, scale: int, product: bool) -> Signature | None:
    """Exact arithmetic. DuckDB stops at 18 digits where both sides have at most 18; a wider left side lifts that."""
    if scale > t.PRECISION_MAX:
        return None
    (p1, s1), (p2, s2) = t.digits(left), t.digits(right)
    natural = p1 + p2 if product else precision
    if natural > 18 and max(p1, p2) <= 18:
        p1 = 19
    return Signature((t.decimal(p1, s1), t.decimal(p2, s2)), t.decimal(min(precision, t.PRECISION_MAX), scale))


def _numbers(left: Type, right: Type) -> Signature | None:
    if not {left.kind, right.kind} <= t.NUMBERS:
        return None
    shared = t.common(left, right)
    return Signature((shared, shared), shared) if shared else None


def _sum(left: Type, right: Type) -> Signature | None:
    kinds = {left.kind, right.kind}
    if kinds <= t.NUMBERS - t.FLOATS and "decimal" in kinds:
        (p1, s1), (p2, s2) = t.digits(left), t.digits(right)
        scale = max(s1, s2)
        return _decimals(left, right, max(p1 - s1, p2 - s2) + 1 + scale, scale, product=False)
    return _numbers(left, right)


def _plus(left: Type, right: Type) -> Signature | None:
    if left.kind == "date" and right.kind in t.INTEGERS:
        return Signature((t.DATE, t.INT32), t.DATE)
    if right.kind == "date" and left.kind in t.INTEGERS:
        return Signature((t.INT32, t.DATE), t.DATE)
    return _sum(left, right)


def _minus(left: Type, right: Type) -> Signature | None:
    if left.kind == right.kind == "date":
        return Signature((t.DATE, t.DATE), t.INT64)
    if left.kind == "date" and right.kind in t.INTEGERS:
        return Signature((t.DATE, t.INT32), t.DATE)
    return _sum(left, right)


def _times(left: Type, right: Type) -> Signature | None:
    kinds = {left.kind, right.kind}
    if kinds <= t.NUMBERS - t.FLOATS and "decimal" in kinds:
        (p1, s1), (p2, s2) = t.digits(left), t.digits(right)
        return _decimals(left, right, p1 + p2, s1 + s2, product=True)
    return _numbers(left, right)


def _divide(left: Type, right: Type) -> Signature | None:
    return Signature((t.FLOAT64, t.FLOAT64), t.FLOAT64) if {left.kind, right.kind} <= t.NUMBERS else None


def _whole(left: Type, right: Type) -> Signature | None:
    return _numbers(left, right) if {left.kind, right.kind} <= t.INTEGERS else None


def _remainder(left: Type, right: Type) -> Signature | None:
    return _numbers(left, right) if not {left.kind, right.kind} & t.FLOATS else None


def _compare(left: Type, right: Type) -> Signature | None:
    shared = t.common(left, right)
    return Signature((shared, shared), t.BOOLEAN) if shared and shared.kind in t.COMPARABLE else None


def _texts(result: Type) -> Callable[[Type, Type], Signature | None]:
    return lambda left, right: Signature((t.TEXT, t.TEXT), result) if left.kind == right.kind == "text" else None


def _arithmetic(symbol: str) -> Callable[[Call], str | None]:
    """Flink's text of + - *. It has none for decimals whose exact result needs more digits than it has: Flink would round."""

    def write(call: Call) -> str | None:
        (left, right), texts = call.types, call.texts
        if "date" in (left.kind, right.kind):
            return _days(symbol, call)
        if call.result.kind == "decimal":
            (p1, s1), (p2, s2) = t.digits(left), t.digits(right)
            needed = p1 + p2 + 1 if symbol == "*" else max(p1 - s1, p2 - s2) + max(s1, s2) + 1
            if needed > t.PRECISION_MAX:
                return None
        return exact(f"{{0}} {symbol} {{1}}", call.result).format(*texts)

    return write


def _days(symbol: str, call: Call) -> str:
    (left, right), kinds = call.texts, [x.kind for x in call.types]
    if kinds == ["date", "date"]:
        return f"CAST(TIMESTAMPDIFF(DAY, {right}, {left}) AS BIGINT)"
    date, days = (left, right) if kinds[0] == "date" else (right, left)
    return f"CAST(TIMESTAMPADD(DAY, {'-' if symbol == '-' else ''}{days}, {date}) AS DATE)"


def _over(template: str) -> Callable[[Call], str | None]:
    return lambda call: exact(template, call.result).format(*call.texts) if call.result.kind != "int64" else template.format(*call.texts)


def _modulo(call: Call) -> str:
    sql = f"MOD({call.texts[0]}, {call.texts[1]})"
    return f"CAST({sql} AS {flink.name(call.result)})" if call.result.kind == "decimal" else sql


_NUMBER_CURE = "CAST the text to a number: CAST(x AS DECIMAL(18,2)), or TRY_CAST, which is null for bad text"
_COMPARE_CURE = "CAST one side to the other's type (TRY_CAST gives null for bad text)"
_TEXT_CURE = "CAST the other value AS TEXT"
_COMPARISONS = (("=", "EQ"), ("<>", "NEQ"), ("<", "LT"), ("<=", "LTE"), (">", "GT"), (">=", "GTE"))
_OVERFLOW = "outside the result type"

OPERATORS: tuple[Operator, ...] = (
    Operator(
        "+",
        "Add",
        _plus,
        "({0} + {1})",
        "Sum. int32 and int32 is int32; a date and whole days is a date; decimals grow by one digit, to 38.",
        _NUMBER_CURE,
        fails=_OVERFLOW,
        flink=_arithmetic("+"),
        differs="a date beyond the years that there are does not fail",
        examples=(("1 + 2", "3"), ("DATE '2024-02-28' + 2", "DATE '2024-03-01'"), ("1.5 + 2", "3.5")),
    ),
    Operator(
        "-",
        "Sub",
        _minus,
        "({0} - {1})",
        "Difference, as +; two dates give days as int64.",
        _NUMBER_CURE,
        fails=_OVERFLOW,
        flink=_arithmetic("-"),
        differs="a date beyond the years that there are does not fail",
        examples=(("1 - 2", "-1"), ("DATE '2024-03-01' - DATE '2024-02-28'", "2")),
    ),
    Operator(
        "*",
        "Mul",
        _times,
        "({0} * {1})",
        "Product. Decimals: precisions and scales add up, to 38 digits.",
        _NUMBER_CURE,
        fails=_OVERFLOW,
        flink=_arithmetic("*"),
        examples=(("6 * 7", "42"), ("1.5 * 1.25", "1.875")),
    ),
    Operator(
        "/",
        "Div",
        _divide,
        "({0} / {1})",
        "Quotient, always float64, of integers too; by zero it is an infinity, 0 / 0 is NaN.",
        _NUMBER_CURE,
        flink="({0} / {1})",
        examples=(("7 / 2", "3.5e0"),),
    ),
    Operator(
        "//",
        "IntDiv",
        _whole,
        "({0} // {1})",
        "Whole quotient of integers, towards zero.",
        "CAST both sides to an integer, or use /",
        fails="by zero",
        flink=_over("{0} / {1}"),
        differs="the least int64 by -1 does not fail",
        examples=(("7 // 2", "3"), ("-7 // 2", "-3")),
    ),
    Operator(
        "%",
        "Mod",
        _remainder,
        "({0} % {1})",
        "Remainder of integers or decimals, with the sign of the left side.",
        _NUMBER_CURE,
        fails="by zero",
        flink=_modulo,
        differs="the least int64 by -1 does not fail",
        examples=(("-7 % 2", "-1"),),
    ),
    Operator(
        "||",
        "DPipe",
        _texts(t.TEXT),
        "({0} || {1})",
        "Two texts in a row.",
        _TEXT_CURE,
        flink="({0} || {1})",
        examples=(("'a' || 'b'", "'ab'"),),
    ),
    Operator(
        "LIKE",
        "Like",
        _texts(t.BOOLEAN),
        "({0} LIKE {1})",
        "% is any text, _ any character; the whole text must match.",
        _TEXT_CURE,
        flink="({0} LIKE {1})",
        examples=(("'mill' LIKE 'm%'", "TRUE"),),
    ),
    Operator(
        "ILIKE",
        "ILike",
        _texts(t.BOOLEAN),
        "({0} ILIKE {1})",
        "LIKE without regard to case.",
        _TEXT_CURE,
        flink="(LOWER({0}) LIKE LOWER({1}))",
        differs="letters whose other case is several letters, or one by language: ß, ŉ, İ",
        examples=(("'Mill' ILIKE 'm%'", "TRUE"),),
    ),
    *(
        Operator(
            symbol,
            node,
            _compare,
            "({0} " + symbol + " {1})",
            "Comparison. Numbers compare by value, a date as its midnight, text by code point.",
            _COMPARE_CURE,
            flink="({0} " + symbol + " {1})",
            differs="NaN, which DuckDB holds for the greatest number and equal to itself",
            examples=((f"1 {symbol} 1", "TRUE" if "=" in symbol else "FALSE"),),
        )
        for symbol, node in _COMPARISONS
    ),
    Operator(
        "IS DISTINCT FROM",
        "NullSafeNEQ",
        _compare,
        "({0} IS DISTINCT FROM {1})",
        "<> in which null is a value.",
        _COMPARE_CURE,
        "own",
        flink="({0} IS DISTINCT FROM {1})",
        examples=(("1 IS DISTINCT FROM 2", "TRUE"),),
    ),
    Operator(
        "IS NOT DISTINCT FROM",
        "NullSafeEQ",
        _compare,
        "({0} IS NOT DISTINCT FROM {1})",
        "= in which null is a value.",
        _COMPARE_CURE,
        "own",
        flink="({0} IS NOT DISTINCT FROM {1})",
        examples=(("1 IS NOT DISTINCT FROM 2", "FALSE"),),
    ),
)
