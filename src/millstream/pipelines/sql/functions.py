"""The functions of Millstream SQL, as data. "fails": at run time, as a BadRecord that names the record."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from millstream.events.types import Kind, Type
from millstream.pipelines.sql import list_functions
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.shape import Argument, Function

UNITS = ("year", "quarter", "month", "week", "day", "hour", "minute", "second")


def _gives(result: Type) -> Callable[[Sequence[Type], Sequence[int | None]], Type | None]:
    return lambda types, constants: result


def _same(types: Sequence[Type], constants: Sequence[int | None]) -> Type | None:
    return types[0]


def _shared(types: Sequence[Type], constants: Sequence[int | None]) -> Type | None:
    return t.common_of(types)


def _truncated(types: Sequence[Type], constants: Sequence[int | None]) -> Type | None:
    return types[1]


def _rounded(types: Sequence[Type], constants: Sequence[int | None]) -> Type | None:
    if types[0].kind != "decimal":
        return types[0]
    precision, scale = t.digits(types[0])
    places = constants[1] if len(constants) > 1 else 0
    return t.decimal(precision, min(places or 0, scale))


_INT: frozenset[Kind] = t.INTEGERS
_TEXT: frozenset[Kind] = frozenset({"text"})
_FRACTIONS: frozenset[Kind] = t.FLOATS | {"decimal"}
_CLOCK: frozenset[Kind] = t.INSTANTS | {"time"}


def _text(name: str = "text") -> Argument:
    return Argument(name, _TEXT)


def _count(name: str) -> Argument:
    return Argument(name, _INT, t.INT64)


_UNIT = Argument("unit", _TEXT, form="unit")
_FLOAT = Argument("number", t.NUMBERS, t.FLOAT64)
_ANY = Argument("value", t.EVERY | t.NESTED)


def _part(name: str, kinds: frozenset[Kind], example: str) -> Function:
    stamp = "TIMESTAMP '2024-05-06 07:08:09'"
    doc = f"The {name} of a {'date or timestamp' if kinds is t.DAYS else 'time or timestamp'} (of a timestamptz: in UTC)."
    return Function(name, (Argument("when", kinds),), _gives(t.INT64), name + "({0})", doc, ((f"{name}({stamp})", example),))


FUNCTIONS: tuple[Function, ...] = (
    Function("upper", (_text(),), _gives(t.TEXT), "upper({0})", "In capitals.", (("upper('aé')", "'AÉ'"),)),
    Function("lower", (_text(),), _gives(t.TEXT), "lower({0})", "In small letters.", (("lower('AÉ')", "'aé'"),)),
    Function(
        "length",
        (Argument("value", frozenset({"text", "list"})),),
        _gives(t.INT64),
        "length({0})",
        "Number of characters (code points) of a text, of values of a list.",
        (("length('aé')", "2"),),
    ),
    Function("octet_length", (Argument("bytes", frozenset({"bytes"})),), _gives(t.INT64), "octet_length({0})", "Number of bytes.", ()),
    Function("trim", (_text(),), _gives(t.TEXT), "trim({0})", "Without spaces at either end.", (("trim(' a ')", "'a'"),)),
    Function("ltrim", (_text(),), _gives(t.TEXT), "ltrim({0})", "Without spaces at its beginning.", (("ltrim(' a ')", "'a '"),)),
    Function("rtrim", (_text(),), _gives(t.TEXT), "rtrim({0})", "Without spaces at its end.", (("rtrim(' a ')", "' a'"),)),
    Function(
        "substring",
        (_text(), _count("start"), _count("count")),
        _gives(t.TEXT),
        "substring({all})",
        "From character `start`, counted from 1; `count` characters or the rest.",
        (("substring('stream', 3, 2)", "'re'"),),
        optional=1,
    ),
    Function("left", (_text(), _count("count")), _gives(t.TEXT), "left({all})", "The first characters.", (("left('stream', 2)", "'st'"),)),
    Function(
        "right", (_text(), _count("count")), _gives(t.TEXT), "right({all})", "The last characters.", (("right('stream', 2)", "'am'"),)
    ),
    Function(
        "replace",
        (_text(), _text("from"), _text("to")),
        _gives(t.TEXT),
        "replace({all})",
        "Every `from` becomes `to`.",
        (("replace('aba', 'a', 'c')", "'cbc'"),),
    ),
    Function(
        "split_part",
        (_text(), _text("separator"), _count("number")),
        _gives(t.TEXT),
        "split_part({all})",
        "The part of that number, counted from 1; empty where there is none.",
        (("split_part('a,b', ',', 2)", "'b'"),),
    ),
    Function(
        "strpos",
        (_text(), _text("part")),
        _gives(t.INT64),
        "strpos({all})",
        "Where `part` begins, from 1; 0 where it is not.",
        (("strpos('stream', 're')", "3"),),
    ),
    Function(
        "starts_with",
        (_text(), _text("part")),
        _gives(t.BOOLEAN),
        "starts_with({all})",
        "Whether the text begins so.",
        (("starts_with('stream', 'st')", "TRUE"),),
    ),
    Function(
        "ends_with",
        (_text(), _text("part")),
        _gives(t.BOOLEAN),
        "ends_with({all})",
        "Whether the text ends so.",
        (("ends_with('stream', 'st')", "FALSE"),),
    ),
    Function(
        "contains",
        (_text(), _text("part")),
        _gives(t.BOOLEAN),
        "contains({all})",
        "Whether `part` is in the text.",
        (("contains('stream', 're')", "TRUE"),),
    ),
    Function(
        "concat",
        (_text(),),
        _gives(t.TEXT),
        "concat({all})",
        "All texts in a row; a null is as if empty.",
        (("concat('a', 'b', 'c')", "'abc'"),),
        nulls="skipped",
        variadic=True,
    ),
    Function(
        "md5",
        (_text(),),
        _gives(t.TEXT),
        "md5({0})",
        "The MD5 of the text's UTF-8, in hex.",
        (("md5('a')", "'0cc175b9c0f1b6a831c399e269772661'"),),
    ),
    Function(
        "abs", (Argument("number", t.NUMBERS),), _same, "abs({0})", "Without its sign.", (("abs(-2)", "2"),), fails="of the least integer"
    ),
    Function(
        "round",
        (Argument("number", _FRACTIONS), Argument("places", _INT, t.INT32, "constant")),
        _rounded,
        "round({all})",
        "To so many places (0), halves away from zero; a decimal's scale becomes that.",
        (("round(2.345, 2)", "2.35"), ("round(2.5)", "3")),
        optional=1,
    ),
    Function("floor", (Argument("number", _FRACTIONS),), _rounded, "floor({0})", "The whole number at or below.", (("floor(-1.5)", "-2"),)),
    Function("ceil", (Argument("number", _FRACTIONS),), _rounded, "ceil({0})", "The whole number at or above.", (("ceil(1.2)", "2"),)),
    Function("sign", (Argument("number", t.NUMBERS),), _gives(t.INT32), "CAST(sign({0}) AS INTEGER)", "-1, 0 or 1.", (("sign(-3)", "-1"),)),
    Function("sqrt", (_FLOAT,), _gives(t.FLOAT64), "sqrt({0})", "Square root.", (("sqrt(9)", "3e0"),), fails="below zero"),
    Function(
        "power",
        (_FLOAT, Argument("exponent", t.NUMBERS, t.FLOAT64)),
        _gives(t.FLOAT64),
        "power({all})",
        "To the power of.",
        (("power(2, 10)", "1024e0"),),
    ),
    Function(
        "ln", (_FLOAT,), _gives(t.FLOAT64), "ln({0})", "Natural logarithm; of zero minus infinity.", (("ln(1)", "0e0"),), fails="below zero"
    ),
    Function(
        "greatest",
        (Argument("value", t.COMPARABLE),),
        _shared,
        "greatest({all})",
        "The greatest of them.",
        (("greatest(1, 3, 2)", "3"),),
        nulls="skipped",
        variadic=True,
        common=True,
    ),
    Function(
        "least",
        (Argument("value", t.COMPARABLE),),
        _shared,
        "least({all})",
        "The least of them.",
        (("least(1, 3, 2)", "1"),),
        nulls="skipped",
        variadic=True,
        common=True,
    ),
    Function(
        "coalesce",
        (_ANY,),
        _shared,
        "coalesce({all})",
        "The first that is not null.",
        (("coalesce(NULL, 2)", "2"),),
        nulls="skipped",
        variadic=True,
        common=True,
    ),
    Function(
        "nullif",
        (Argument("value", t.COMPARABLE), Argument("other", t.COMPARABLE)),
        _shared,
        "nullif({all})",
        "Null where both are equal, else the first.",
        (("nullif(1, 2)", "1"),),
        nulls="own",
        common=True,
    ),
    _part("year", t.DAYS, "2024"),
    _part("quarter", t.DAYS, "2"),
    _part("month", t.DAYS, "5"),
    _part("week", t.DAYS, "19"),
    _part("day", t.DAYS, "6"),
    _part("hour", _CLOCK, "7"),
    _part("minute", _CLOCK, "8"),
    _part("second", _CLOCK, "9"),
    Function(
        "date_trunc",
        (_UNIT, Argument("when", t.DAYS)),
        _truncated,
        "CAST(date_trunc({all}) AS {type})",
        "The beginning of its year, month, … (in UTC).",
        (("date_trunc('month', DATE '2024-05-06')", "DATE '2024-05-01'"),),
    ),
    Function(
        "date_diff",
        (_UNIT, Argument("from", t.DAYS), Argument("to", t.DAYS)),
        _gives(t.INT64),
        "date_diff({all})",
        "How many beginnings of a year, month, … lie between.",
        (("date_diff('day', DATE '2024-02-28', DATE '2024-03-01')", "2"),),
    ),
    Function(
        "epoch_ms",
        (Argument("when", t.INSTANTS),),
        _gives(t.INT64),
        "epoch_ms({0})",
        "Milliseconds since 1970 in UTC.",
        (("epoch_ms(TIMESTAMP '1970-01-01 00:00:01')", "1000"),),
    ),
    Function(
        "make_date",
        (_count("year"), _count("month"), _count("day")),
        _gives(t.DATE),
        "make_date({all})",
        "A date of three numbers.",
        (("make_date(2024, 2, 29)", "DATE '2024-02-29'"),),
        fails="where there is no such day",
    ),
    *list_functions.FUNCTIONS,
)
