"""Column types in Millstream SQL: families, the type two values share, which casts exist, DuckDB's names.

Values whose meaning DuckDB does not know travel as text (uuid, json, numeric), so the rules here, not DuckDB's,
keep an int from being compared with a text that happens to hold a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, time
from uuid import UUID

from millstream.events.types import Kind, Type, list_of, record_of

BOOLEAN, INT32, INT64, FLOAT32, FLOAT64 = Type("boolean"), Type("int32"), Type("int64"), Type("float32"), Type("float64")
TEXT, BYTES, DATE, TIME = Type("text"), Type("bytes"), Type("date"), Type("time")
TIMESTAMP, TIMESTAMPTZ, UUID_TEXT = Type("timestamp"), Type("timestamptz"), Type("uuid")

INTEGERS: frozenset[Kind] = frozenset({"int32", "int64"})
FLOATS: frozenset[Kind] = frozenset({"float32", "float64"})
NUMBERS: frozenset[Kind] = INTEGERS | FLOATS | {"decimal"}
INSTANTS: frozenset[Kind] = frozenset({"timestamp", "timestamptz"})
DAYS: frozenset[Kind] = INSTANTS | {"date"}
COMPARABLE: frozenset[Kind] = NUMBERS | DAYS | {"boolean", "text", "bytes", "time", "uuid"}
WRITTEN: frozenset[Kind] = DAYS | {"time", "uuid"}  # types whose literals are quoted text
EVERY: frozenset[Kind] = COMPARABLE | {"json", "numeric"}
NESTED: frozenset[Kind] = frozenset({"list", "record"})

PRECISION_MAX = 38  # DuckDB's widest decimal
KEY_TYPES: frozenset[Kind] = frozenset(COMPARABLE - FLOATS)

_DUCKDB: dict[Kind, str] = {
    "boolean": "BOOLEAN", "int32": "INTEGER", "int64": "BIGINT", "float32": "FLOAT", "float64": "DOUBLE", "text": "VARCHAR",
    "bytes": "BLOB", "date": "DATE", "time": "TIME", "timestamp": "TIMESTAMP", "timestamptz": "TIMESTAMP WITH TIME ZONE",
    "uuid": "VARCHAR", "json": "VARCHAR", "numeric": "VARCHAR",
}  # fmt: skip


def decimal(precision: int, scale: int) -> Type:
    return Type("decimal", precision, scale)


def duckdb_name(type_: Type) -> str:
    """The DuckDB type that holds it. DESCRIBE says the same of such a column, but quotes a record's names only where it must."""
    match type_.kind:
        case "decimal":
            return f"DECIMAL({type_.precision},{type_.scale})"
        case "list":
            assert type_.element is not None
            return duckdb_name(type_.element) + "[]"
        case "record":
            return f"STRUCT({', '.join(f'{_quoted(f.name)} {duckdb_name(f.type)}' for f in type_.fields)})"
    return _DUCKDB[type_.kind]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def digits(type_: Type) -> tuple[int, int]:
    """An integer or decimal as decimal: precision and scale."""
    if type_.kind == "decimal":
        assert type_.precision is not None and type_.scale is not None
        return type_.precision, type_.scale
    return (10, 0) if type_.kind == "int32" else (19, 0)


def common(left: Type, right: Type) -> Type | None:
    """The type that both become where they meet (comparison, CASE, COALESCE); None: they clash.

    Integers widen; an integer beside a decimal is one; a float beside anything but its like is float64; a date is
    its midnight. Decimals that would need more than 38 digits clash. Lists share where their elements do; records where they
    have the same names in the same order and each pair of members shares.
    """
    if left == right:
        return left
    kinds = {left.kind, right.kind}
    if left.element and right.element:
        element = common(left.element, right.element)
        return list_of(element) if element else None
    if kinds == {"record"}:
        if [f.name for f in left.fields] != [f.name for f in right.fields]:
            return None
        members = [(f.name, common(f.type, g.type)) for f, g in zip(left.fields, right.fields, strict=True)]
        shared = [(name, type_) for name, type_ in members if type_]
        return record_of(*shared) if len(shared) == len(members) else None
    if kinds <= NUMBERS:
        if kinds & FLOATS:
            return FLOAT64
        if kinds <= INTEGERS:
            return INT64
        (p1, s1), (p2, s2) = digits(left), digits(right)
        scale = max(s1, s2)
        precision = max(p1 - s1, p2 - s2) + scale
        return decimal(precision, scale) if precision <= PRECISION_MAX else None
    return TIMESTAMP if kinds == {"date", "timestamp"} else None


def member(record: Type, name: str) -> Type | None:
    """The type of a record's member of that name, case counting; None: it has none."""
    return next((f.type for f in record.fields if f.name == name), None)


def common_of(types: Sequence[Type]) -> Type | None:
    result: Type | None = types[0]
    for t in types[1:]:
        result = common(result, t) if result else None
    return result


_CASTS: dict[Kind, frozenset[Kind]] = {
    "boolean": frozenset({"int32", "int64", "text"}),
    "int32": NUMBERS | {"boolean", "text"},
    "int64": NUMBERS | {"boolean", "text"},
    "decimal": NUMBERS | {"text"},
    "float32": NUMBERS | {"text"},
    "float64": NUMBERS | {"text"},
    "text": frozenset(COMPARABLE - {"bytes"}),
    "bytes": frozenset(),
    "date": frozenset({"timestamp", "timestamptz", "text"}),
    "time": frozenset({"text"}),
    "timestamp": frozenset({"date", "time", "timestamptz", "text"}),
    "timestamptz": frozenset({"date", "timestamp", "text"}),
    "uuid": frozenset({"text"}),
    "json": frozenset({"text"}),
    "numeric": NUMBERS | {"text"},
    "list": frozenset(),
    "record": frozenset(),
}


def castable(source: Type, target: Type) -> bool:
    """Whether CAST may be written. A list or record becomes only one that its members widen to."""
    if source.kind in NESTED:
        return common(source, target) == target
    return source.kind == target.kind or target.kind in _CASTS[source.kind]


def cast_targets(source: Type) -> list[str]:
    return sorted(_CASTS[source.kind])


def cast(sql: str, source: Type, target: Type, attempt: bool = False) -> str:
    """DuckDB text that makes a `source` value a `target` value. `attempt`: null where it cannot (TRY_CAST)."""
    if source == target:
        return sql
    word = "TRY_CAST" if attempt else "CAST"
    if target.kind == "uuid":  # through DuckDB's own, so that bad text fails and good text becomes canonical
        return f"CAST({word}({sql} AS UUID) AS VARCHAR)"
    if source.kind in FLOATS and target.kind in INTEGERS | {"decimal"}:
        # As the decimal number that the float is written as, rounded half away from zero; DuckDB's own casts round in binary.
        sql = f"{word}(CAST({sql} AS VARCHAR) AS DECIMAL(38,0))" if target.kind != "decimal" else f"CAST({sql} AS VARCHAR)"
    elif source.kind == "decimal" and target.kind in FLOATS and digits(source)[0] > 15:
        sql = f"CAST({sql} AS VARCHAR)"  # the nearest float; DuckDB's own cast may miss it beyond 2^53
    return sql if duckdb_name(source) == duckdb_name(target) else f"{word}({sql} AS {duckdb_name(target)})"


_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?(Z|[+-]\d\d(:?\d\d)?)?")


def literal(text: str, type_: Type) -> str | None:
    """The DuckDB text of a quoted literal read as `type_` (date, time, timestamps, uuid); None: it is not one."""
    try:
        match type_.kind:
            case "date":
                return f"DATE '{date.fromisoformat(text).isoformat()}'"
            case "time":
                return f"TIME '{time.fromisoformat(text).replace(tzinfo=None).isoformat()}'" if ":" in text else None
            case "timestamp" | "timestamptz":
                if not _TIMESTAMP.fullmatch(text):
                    return None
                value = datetime.fromisoformat(text)
                if type_.kind == "timestamp":
                    return None if value.tzinfo else f"TIMESTAMP '{value.isoformat(' ')}'"
                zone = "" if value.tzinfo else "+00:00"
                return f"CAST('{value.isoformat(' ')}{zone}' AS TIMESTAMP WITH TIME ZONE)"
            case "uuid":
                return f"'{UUID(text)}'"
    except ValueError:
        return None
    return None
