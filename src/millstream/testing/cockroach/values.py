"""Values: text in, Python value, text out, for every SQL type that the stand-in has.

int, bool, str, bytes and float are themselves; a decimal is a Decimal with its scale; dates and times are calendar.py's integers; a UUID,
INET, PG_LSN, enum, geometry (EWKB in hex) and JSONB (documents.py's text) are str; an array is a tuple, a bit string a str of 0 and 1.
NULL is None everywhere.
Reference: CockroachDB 26.1, "Data Types".
"""

from __future__ import annotations

import ipaddress
import math
import re
import uuid
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any

from millstream.testing.cockroach import calendar, documents, shapes
from millstream.testing.cockroach.errors import SqlError, not_modelled
from millstream.testing.cockroach.types import SqlType

EXACT = Context(prec=2000, rounding=ROUND_HALF_UP, Emax=10**9, Emin=-(10**9))
_TRUE, _FALSE = ("t", "true", "y", "yes", "on", "1"), ("f", "false", "n", "no", "off", "0")
_SHOWN = {"float": "float", "bool": "bool", "int": "int", "decimal": "decimal", "timestamptz": "timestamptz"}


def parse(text: str, to: SqlType) -> Any:
    """The value of type `to` that `text` spells, fitted to its length. Raises SqlError 22P02, 22023 or 22001."""
    try:
        return fit(_PARSERS[to.kind](text, to), to)
    except (ValueError, InvalidOperation, OverflowError) as wrong:
        code = "22023" if to.kind in ("geometry", "geography") else "22P02"
        if to.kind == "enum":
            raise SqlError(code, f'invalid input value for enum {(to.name or "").rpartition(".")[2]}: "{text}"') from wrong
        raise SqlError(code, f'could not parse "{text}" as type {_SHOWN.get(to.kind, to.kind)}') from wrong


def fit(value: Any, to: SqlType) -> Any:
    """A value of `to`'s kind, brought to its length: decimals and seconds rounded, what does not fit refused."""
    if value is None:
        return None
    if to.kind == "int":
        if not -(1 << (8 * (to.width or 8) - 1)) <= value < 1 << (8 * (to.width or 8) - 1):
            raise SqlError("22003", f"integer out of range for type int{to.width}")
    elif to.kind == "decimal" and to.width is not None and value.is_finite():
        return _to_scale(value, to.width, to.scale or 0)
    elif to.kind == "string" and to.width is not None:
        if len(value) > to.width:
            raise SqlError("22001", f"value too long for type {to.text}")
    elif to.kind in ("bit", "varbit") and to.width is not None:
        if len(value) > to.width or (to.kind == "bit" and len(value) != to.width):
            raise SqlError("22026", f"bit string length {len(value)} does not match type {to.text}")
    elif to.kind in ("timestamp", "timestamptz", "time") and to.width is not None:
        step = 10 ** (6 - to.width)
        return (value + step // 2) // step * step
    elif to.kind == "array" and to.element is not None:
        return tuple(fit(v, to.element) for v in value)
    elif to.kind == "vector" and to.width is not None and len(value) != to.width:
        raise SqlError("22000", f"expected {to.width} dimensions, not {len(value)}")
    return value


def _to_scale(value: Decimal, precision: int, scale: int) -> Decimal:
    fitted = value.quantize(Decimal(1).scaleb(-scale), context=EXACT)
    if fitted and fitted.adjusted() >= precision - scale:
        raise SqlError("22003", f"value with precision {precision}, scale {scale} must round to an absolute value less than 10^"
                       f"{precision - scale}")  # fmt: skip
    return fitted


def _int(text: str, to: SqlType) -> int:
    if not re.fullmatch(r"\s*[+-]?\d+\s*", text, re.ASCII):
        raise ValueError(text)
    return int(text)


def _float(text: str, to: SqlType) -> float:
    if not re.fullmatch(r"\s*[+-]?(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|inf(inity)?|nan)\s*", text, re.ASCII | re.IGNORECASE):
        raise ValueError(text)
    return float(text)


def _decimal(text: str, to: SqlType) -> Decimal:
    if not re.fullmatch(r"\s*[+-]?(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|inf(inity)?|nan)\s*", text, re.ASCII | re.IGNORECASE):
        raise ValueError(text)
    return Decimal(text.strip())


def _bool(text: str, to: SqlType) -> bool:
    word = text.strip().lower()
    if word not in _TRUE and word not in _FALSE:
        raise ValueError(text)
    return word in _TRUE


def _string(text: str, to: SqlType) -> str:
    return text.rstrip(" ") if to.spelling == "CHAR" else text


def _bytes(text: str, to: SqlType) -> bytes:
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    return re.sub(rb"\\(\\|[0-7]{3})", lambda m: b"\\" if m[1] == b"\\" else bytes([int(m[1], 8)]), text.encode())


def _bits(text: str, to: SqlType) -> str:
    if not re.fullmatch(r"[01]*", text):
        raise ValueError(text)
    return text


def _inet(text: str, to: SqlType) -> str:
    address = ipaddress.ip_interface(text.strip())
    whole = address.network.prefixlen == address.max_prefixlen
    return str(address.ip) if whole else f"{address.ip}/{address.network.prefixlen}"


def _enum(text: str, to: SqlType) -> str:
    if text not in to.labels:
        raise ValueError(text)
    return text


def _lsn(text: str, to: SqlType) -> str:
    high, _, low = text.partition("/")
    return f"{int(high, 16):X}/{int(low, 16):X}"


def _oid(text: str, to: SqlType) -> int:
    return _int(text, to) & 0xFFFFFFFF


def _array(text: str, to: SqlType) -> tuple[Any, ...]:
    assert to.element is not None
    element = to.element
    return tuple(None if item is None else parse(item, element) for item in array_items(text))


def array_items(text: str) -> list[str | None]:
    """The elements of `{a,"b\\"c",NULL}`. Raises ValueError; nested arrays are refused."""
    text = text.strip()
    if not (text.startswith("{") and text.endswith("}")):
        raise ValueError(text)
    items: list[str | None] = []
    for quoted, plain, _ in (found := re.findall(r'\s*(?:("(?:[^"\\]|\\.)*")|([^",{}]*))\s*(,|$)', text[1:-1], re.DOTALL)):
        items.append(re.sub(r"\\(.)", r"\1", quoted[1:-1], flags=re.DOTALL) if quoted else plain.strip())
        if not quoted and plain.strip().upper() == "NULL":
            items[-1] = None
    if found and text[1:-1].strip() and not text[1:-1].rstrip().endswith(","):
        items = items[: sum(1 for f in found if f[2] == ",") + 1]
    return items if text[1:-1].strip() else []


_PARSERS: dict[str, Callable[[str, SqlType], Any]] = {
    "int": _int, "float": _float, "decimal": _decimal, "bool": _bool, "string": _string, "name": _string, "citext": _string,
    "bytes": _bytes, "date": lambda t, _: calendar.parse_date(t), "timestamp": lambda t, _: calendar.parse_timestamp(t, zoned=False),
    "timestamptz": lambda t, _: calendar.parse_timestamp(t, zoned=True), "time": lambda t, _: calendar.parse_time(t),
    "timetz": lambda t, _: calendar.parse_timetz(t), "interval": lambda t, _: calendar.parse_interval(t),
    "uuid": lambda t, _: str(uuid.UUID(t)), "jsonb": lambda t, _: documents.canonical(t), "bit": _bits, "varbit": _bits, "inet": _inet,
    "oid": _oid, "enum": _enum, "array": _array, "pg_lsn": _lsn, "geometry": lambda t, _: shapes.ewkb(t, 0),
    "geography": lambda t, _: shapes.ewkb(t, 4326), "box2d": lambda t, _: shapes.box(t), "tsvector": lambda t, _: shapes.tsvector(t),
    "tsquery": lambda t, _: shapes.tsquery(t), "vector": lambda t, _: shapes.vector(t), "ltree": lambda t, _: shapes.ltree(t),
    "unknown": lambda t, _: t,
}  # fmt: skip


def float_text(value: float) -> str:
    """Go's %g with the fewest digits: 1e+300, 1e-07, 3."""
    if value != value:
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    digits = Decimal(repr(value))
    exponent = digits.adjusted() if digits else 0
    if -4 <= exponent < 6:
        shown = format(digits, "f")
        return shown.rstrip("0").rstrip(".") if "." in shown else shown
    whole = digits.normalize().as_tuple()
    mantissa = "".join(map(str, whole.digits))
    point = f"{mantissa[0]}.{mantissa[1:]}" if len(mantissa) > 1 else mantissa
    return f"{'-' if whole.sign else ''}{point}e{exponent:+03}"


def text(value: Any, of: SqlType, version: str = "26.1", *, cast: bool = False) -> str:
    """A value that is not NULL as the wire shows it, or as a cast to STRING gives it where `cast`."""
    writer = _WRITERS.get(of.kind)
    if writer is None:
        return str(value)
    return writer(value, of, version, cast)


def _array_text(value: tuple[Any, ...], of: SqlType, version: str, cast: bool) -> str:
    assert of.element is not None
    shown = []
    for item in value:
        inner = "NULL" if item is None else text(item, of.element, version)
        plain = item is None or (re.fullmatch(r'[^\s,{}"\\]+', inner) is not None and inner.upper() != "NULL")
        shown.append(inner if plain else '"' + inner.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return "{" + ",".join(shown) + "}"


def _zone(version: str) -> str:
    return "+00:00" if version == "22.1" else "+00"


def _float_shown(value: float, of: SqlType, version: str, cast: bool) -> str:
    shown = float_text(value)
    return shown.replace("Infinity", "Inf") if version == "22.1" else shown


def _inet_shown(value: str, of: SqlType, version: str, cast: bool) -> str:
    whole = "/" not in value
    return value + ("/128" if ":" in value else "/32") if cast and whole and version != "22.1" else value


def _bool_shown(value: bool, of: SqlType, version: str, cast: bool) -> str:
    return ("true" if value else "false") if cast else "t" if value else "f"


def timetz_text(value: tuple[int, int], version: str) -> str:
    return calendar.clock_text(value[0]) + calendar.zone_text(value[1], short=version != "22.1")


_WRITERS: dict[str, Callable[[Any, SqlType, str, bool], str]] = {
    "decimal": lambda v, _, version, __: documents.decimal(v, version),
    "bool": _bool_shown, "float": _float_shown, "bytes": lambda v, *_: "\\x" + v.hex(), "date": lambda v, *_: calendar.date_text(v),
    "timestamp": lambda v, *_: calendar.timestamp_text(v, ""), "inet": _inet_shown, "array": _array_text,
    "timestamptz": lambda v, _, version, __: calendar.timestamp_text(v, _zone(version)), "time": lambda v, *_: calendar.clock_text(v),
    "timetz": lambda v, _, version, __: timetz_text(v, version), "interval": lambda v, *_: calendar.interval_text(v),
    "vector": lambda v, *_: shapes.vector_text(v),
}  # fmt: skip


def order(value: Any, of: SqlType) -> Any:
    """What to compare by: NULL first, then NaN, an enum by its place among the labels."""
    if value is None:
        return (0,)
    if of.kind == "enum":
        return (2, of.labels.index(value))
    if of.kind in ("float", "decimal") and value != value:
        return (1,)
    if of.kind == "array" and of.element is not None:
        return (2, tuple(order(v, of.element) for v in value))
    if of.kind in ("jsonb", "geometry", "geography"):
        raise not_modelled(f"an order of {of.text} values")
    return (2, value)
