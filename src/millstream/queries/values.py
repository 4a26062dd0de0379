"""Values that compare: what a document holds, and what a person writes, as Python values of one order per family.

A family is the kinds whose values compare with each other. A document's values are those of `sinks/jsontext.py`: JSON's
own numbers and truths, everything else as text.

    number     int32 int64 decimal numeric   int or Decimal, exact
    float      float32 float64               float; -0.0 is 0.0, NaN equals itself and is above all others
    text       text uuid                     str, by code point
    boolean    boolean                       bool
    day        date                          days since 1970-01-01
    clock      time                          microseconds since midnight
    local      timestamp                     microseconds since 1970-01-01, no zone
    instant    timestamptz                   microseconds since 1970-01-01 UTC
"""

from __future__ import annotations

import math
import re
from decimal import Context, Decimal, InvalidOperation
from typing import Any, Literal

import numpy as np

Family = Literal["number", "float", "text", "boolean", "day", "clock", "local", "instant"]
Comparable = int | float | Decimal | str | bool

FAMILIES: dict[str, Family] = {
    "int32": "number", "int64": "number", "decimal": "number", "numeric": "number", "float32": "float", "float64": "float",
    "text": "text", "uuid": "text", "boolean": "boolean", "date": "day", "time": "clock", "timestamp": "local", "timestamptz": "instant",
}  # fmt: skip
ORDERED: frozenset[Family] = frozenset(("number", "float", "text", "day", "clock", "local", "instant"))

EXPONENT_MAX = 250_000
"""Numbers beyond 10 to this power are nobody's: they compare with nothing."""

_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d)(?:\.(\d{1,6}))?)?")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,9})?")
_DAY = re.compile(r"-?\d{4,6}-\d\d-\d\d")
_MOMENT = re.compile(r"(?P<day>-?\d{4,6}-\d\d-\d\d)(?:[T ](?P<clock>\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)(?P<zone>Z|[+-]\d\d:?\d\d)?)?")
_DAY_US = 86_400_000_000
_EXACT = Context(prec=200_000)


def comparable(family: Family, value: Any) -> Comparable | None:
    """A document's value in its family; None for what has no place in it (a numeric that is no number)."""
    match family:
        case "number":
            return value if type(value) is int else number(str(value))
        case "float":
            return floating(value)
        case "text":
            return value if isinstance(value, str) else None
        case "boolean":
            return value if isinstance(value, bool) else None
        case "day":
            return day(value)
        case "clock":
            return clock(value)
    found = moment(value)
    return None if found is None else found[0]


def number(text: str) -> Decimal | None:
    """A number's exact value; None for anything else, and beyond `EXPONENT_MAX`."""
    if not _NUMBER.fullmatch(text):
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() and (not value or abs(value.adjusted()) <= EXPONENT_MAX) else None


def floating(value: Any) -> float | None:
    """A float's value; NaN, Infinity and -Infinity come as text."""
    if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
        return None
    try:
        return float(value) + 0.0  # -0.0 becomes 0.0
    except OverflowError:
        return None


def day(text: str) -> int | None:
    """Days since 1970-01-01 of a day as jsontext writes it: years may have more digits than four, or a minus."""
    if not _DAY.fullmatch(text):
        return None
    try:
        return int(np.datetime64(text, "D").astype(np.int64))
    except ValueError:
        return None


def clock(text: str) -> int | None:
    """Microseconds since midnight."""
    found = _CLOCK.fullmatch(text)
    if found is None:
        return None
    hours, minutes, seconds, fraction = found.groups("0")
    return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1_000_000 + int(fraction.ljust(6, "0"))


def moment(text: str) -> tuple[int, bool] | None:
    """Microseconds since 1970-01-01T00:00:00, and whether the text names a zone. A day alone is its midnight."""
    found = _MOMENT.fullmatch(text)
    days = day(found["day"]) if found else None
    if found is None or days is None:
        return None
    time = clock(found["clock"]) if found["clock"] else 0
    if time is None:
        return None
    zone = found["zone"] or "Z"
    offset_min = 0 if zone == "Z" else int(zone[0] + "1") * (int(zone[1:3]) * 60 + int(zone[-2:]))
    return days * _DAY_US + time - offset_min * 60_000_000, found["zone"] is not None


def below(a: Comparable, b: Comparable) -> bool:
    """Whether a comes before b, both of one family."""
    if isinstance(a, float) and isinstance(b, float) and (math.isnan(a) or math.isnan(b)):
        return not math.isnan(a) and math.isnan(b)
    return a < b  # type: ignore[operator]


def same(a: Comparable, b: Comparable) -> bool:
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def plain(value: Decimal) -> Decimal:
    """Without trailing zeros: equal numbers look alike."""
    return value.normalize(_EXACT)
