"""Operators: which types they take and give, and what they do with values that are not NULL.

Reference: CockroachDB 26.1, "Functions and Operators".
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, InvalidOperation
from typing import Any

from millstream.testing.cockroach import calendar, documents, types, values
from millstream.testing.cockroach.casts import NUMBERS, TEXTS
from millstream.testing.cockroach.errors import SqlError, not_modelled
from millstream.testing.cockroach.types import BYTES, DATE, DECIMAL, FLOAT8, INT8, INTERVAL, JSONB, STRING, TIMESTAMP, SqlType

COMPARERS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_DIVIDED = Context(prec=20, rounding=ROUND_HALF_UP)
_MOMENTS = frozenset(("timestamp", "timestamptz", "date"))

Apply = Callable[..., Any]


def check_comparable(op: str, a: SqlType, b: SqlType) -> None:
    """Raises 22023 where the two are never compared, 0A000 where the stand-in does not know how."""
    kinds = {a.kind, b.kind}
    if len(kinds) == 1 or "unknown" in kinds or kinds <= NUMBERS or kinds <= TEXTS or kinds <= _MOMENTS or kinds <= {"bit", "varbit"}:
        if op not in ("=", "<>", "is") and kinds & {"jsonb", "geometry", "geography", "tsvector", "tsquery"}:
            raise not_modelled(f"an order of {a.text} values")
        return
    raise SqlError("22023", f"unsupported comparison operator: <{a.text.lower()}> {op} <{b.text.lower()}>")


def comparer(op: str, a: SqlType, b: SqlType) -> Apply:
    """`op` on two values: enums by their labels' order, dates with timestamps as moments, NaN as the least and equal to itself."""
    compare = COMPARERS[op]
    if {a.kind, b.kind} in ({"date", "timestamp"}, {"date", "timestamptz"}):
        x, y = (calendar.DAY if t.kind == "date" else 1 for t in (a, b))
        return lambda p, q: compare(p * x, q * y)
    enum = a if a.kind == "enum" else b
    if enum.kind == "enum":
        return lambda p, q: compare(enum.labels.index(p), enum.labels.index(q))
    if {a.kind, b.kind} & {"float", "decimal", "array"}:
        return lambda p, q: compare(values.order(p, a), values.order(q, b))
    if "citext" in (a.kind, b.kind):
        return lambda p, q: compare(p.casefold(), q.casefold())
    return compare


def beside(other: SqlType, is_text: bool) -> SqlType | None:
    """The type that a constant takes beside a value of type `other`: a text any, a number a number's."""
    if other.kind == "unknown":
        return None
    if is_text or other.kind in NUMBERS:
        return SqlType(other.kind, 8 if other.kind in ("int", "float") else None, name=other.name, element=other.element,
                       labels=other.labels, spelling="STRING" if other.kind == "string" else None)  # fmt: skip
    return None


def negative(of: SqlType) -> Apply:
    if of.kind == "interval":
        return lambda v: (-v[0], -v[1], -v[2])
    return lambda v: values.fit(-v, INT8) if isinstance(v, int) else v.copy_negate() if isinstance(v, Decimal) else -v


def operation(op: str, a: SqlType, b: SqlType) -> tuple[SqlType, Apply]:
    """(the result's type, what to do). Raises SqlError 42883 where there is no such operator."""
    found = _numeric(op, a, b) or _temporal(op, a, b) or _joined(op, a, b) or _document(op, a, b)
    if found is None:
        raise SqlError("42883", f"unsupported binary operator: <{a.text.lower()}> {op} <{b.text.lower()}>")
    return found


def _numeric(op: str, a: SqlType, b: SqlType) -> tuple[SqlType, Apply] | None:
    if not {a.kind, b.kind} <= NUMBERS or {a.kind, b.kind} == {"float", "decimal"}:
        return None
    if "float" in (a.kind, b.kind):
        return (FLOAT8, _floats(op)) if op in "+-*/" else None
    if a.kind == b.kind == "int" and op != "/":
        whole = {"+": operator.add, "-": operator.sub, "*": operator.mul, "//": _floor, "%": _modulo, "&": operator.and_,
                 "|": operator.or_}.get(op)  # fmt: skip
        return None if whole is None else (INT8, lambda x, y: values.fit(whole(x, y), INT8))
    exact = {"+": values.EXACT.add, "-": values.EXACT.subtract, "*": values.EXACT.multiply, "/": _DIVIDED.divide,
             "//": _DIVIDED.divide_int, "%": values.EXACT.remainder}.get(op)  # fmt: skip
    if exact is None:
        return None

    def apply(x: Any, y: Any) -> Decimal:
        try:
            return exact(Decimal(x), Decimal(y))
        except (DivisionByZero, InvalidOperation) as wrong:
            raise SqlError("22012", "division by zero") from wrong

    return DECIMAL, apply


def _floats(op: str) -> Apply:
    apply = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}[op]

    def run(x: Any, y: Any) -> Any:
        try:
            return apply(float(x), float(y))
        except ZeroDivisionError as wrong:
            raise SqlError("22012", "division by zero") from wrong

    return run


def _floor(x: int, y: int) -> int:
    if y == 0:
        raise SqlError("22012", "division by zero")
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


def _modulo(x: int, y: int) -> int:
    return x - _floor(x, y) * y


def _temporal(op: str, a: SqlType, b: SqlType) -> tuple[SqlType, Apply] | None:
    if op not in "+-":
        return None
    sign = 1 if op == "+" else -1
    if a.kind == "date" and b.kind == "int":
        return DATE, lambda x, y: x + sign * y
    if a.kind == b.kind == "date" and op == "-":
        return INT8, operator.sub
    if a.kind == b.kind == "interval":
        return INTERVAL, lambda x, y: (x[0] + sign * y[0], x[1] + sign * y[1], x[2] + sign * y[2])
    if a.kind in _MOMENTS and b.kind == "interval":
        scale = calendar.DAY if a.kind == "date" else 1
        kind = TIMESTAMP if a.kind == "date" else a
        return kind, lambda x, y: calendar.add_interval(x * scale, (sign * y[0], sign * y[1], sign * y[2]))
    if a.kind == b.kind and a.kind in ("timestamp", "timestamptz") and op == "-":
        return INTERVAL, lambda x, y: (0, 0, x - y)
    return None


def _joined(op: str, a: SqlType, b: SqlType) -> tuple[SqlType, Apply] | None:
    if op != "||":
        return None
    if a.kind == b.kind == "bytes":
        return BYTES, operator.add
    if a.kind == "array" and b.kind == "array":
        return a, operator.add
    if a.kind == "array":
        return a, lambda x, y: (*x, y)
    if b.kind == "array":
        return b, lambda x, y: (x, *y)
    if {a.kind, b.kind} <= TEXTS | {"unknown"}:
        return STRING, operator.add
    return (types.SqlType("varbit"), operator.add) if {a.kind, b.kind} <= {"bit", "varbit"} else None


def _document(op: str, a: SqlType, b: SqlType) -> tuple[SqlType, Apply] | None:
    if a.kind != "jsonb":
        return None
    if op in ("->", "->>") and b.kind in (*TEXTS, "unknown", "int"):
        return (JSONB, _member) if op == "->" else (STRING, _member_text)
    if op == "||" and b.kind == "jsonb":
        return JSONB, _merged
    if op == "@>" and b.kind == "jsonb":
        return types.BOOL, lambda x, y: _contains(documents.load(x), documents.load(y))
    return None


_ABSENT = object()


def _found(document: str, at: Any) -> Any:
    held = documents.load(document)
    if isinstance(held, dict):
        return held.get(at, _ABSENT) if isinstance(at, str) else _ABSENT
    if isinstance(held, list) and isinstance(at, int) and -len(held) <= at < len(held):
        return held[at]
    return _ABSENT


def _member(document: str, at: Any) -> str | None:
    found = _found(document, at)
    return None if found is _ABSENT else documents.dump(found)


def _member_text(document: str, at: Any) -> str | None:
    found = _found(document, at)
    if found is _ABSENT or found is None:
        return None
    return found if isinstance(found, str) else documents.dump(found)


def _merged(x: str, y: str) -> str:
    a, b = documents.load(x), documents.load(y)
    if isinstance(a, dict) and isinstance(b, dict):
        return documents.dump(a | b)
    return documents.dump((a if isinstance(a, list) else [a]) + (b if isinstance(b, list) else [b]))


def _contains(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return all(k in a and _contains(a[k], v) for k, v in b.items())
    if isinstance(a, list):
        return all(any(_contains(x, y) for x in a) for y in (b if isinstance(b, list) else [b]))
    return bool(a == b) and type(a) is type(b)
