"""What rows of the function tables share: kinds of arguments, and rules for the result's type."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from millstream.events.types import Kind, Type
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.shape import Argument

Result = Callable[[Sequence[Type], Sequence[int | None]], Type | None]

UNITS = ("year", "quarter", "month", "week", "day", "hour", "minute", "second")
FRACTIONS: frozenset[Kind] = t.FLOATS | {"decimal"}
CLOCK: frozenset[Kind] = t.INSTANTS | {"time"}
_TEXT: frozenset[Kind] = frozenset({"text"})
COUNT_MAX = 2**31 - 1

UNIT = Argument("unit", _TEXT, form="unit")
FLOAT = Argument("number", t.NUMBERS, t.FLOAT64)
ANY = Argument("value", t.EVERY | t.NESTED)
COMPARED = Argument("value", t.COMPARABLE)


def text(name: str = "text") -> Argument:
    return Argument(name, _TEXT)


def quoted(name: str) -> Argument:
    return Argument(name, _TEXT, form="quoted")


def count(name: str) -> Argument:
    """A number of characters, days, …: an int32."""
    return Argument(name, t.INTEGERS, t.INT32)


def constant(name: str, most: int = COUNT_MAX) -> Argument:
    return Argument(name, t.INTEGERS, t.INT32, "constant", most)


def gives(result: Type) -> Result:
    return lambda types, constants: result


def same(types: Sequence[Type], constants: Sequence[int | None]) -> Type | None:
    return types[0]


def shared(types: Sequence[Type], constants: Sequence[int | None]) -> Type | None:
    return t.common_of(types)


def second(types: Sequence[Type], constants: Sequence[int | None]) -> Type | None:
    return types[1]


def rounded(types: Sequence[Type], constants: Sequence[int | None]) -> Type | None:
    """A float32 is rounded as the float64 it is."""
    if types[0].kind != "decimal":
        return t.FLOAT64
    precision, scale = t.digits(types[0])
    places = constants[1] if len(constants) > 1 else 0
    return t.decimal(precision, min(places or 0, scale))
