"""Flink's text of Millstream's types, literals and casts, for a session whose time zone is UTC.

A `time` is a BIGINT of microseconds, because Flink's own TIME has milliseconds. Flink's narrowing casts wrap round or give null
where DuckDB fails; those here go through text, whose reading fails. `None` is said where no text of built-ins gives the same value.
Reference: Flink 2.3, "Data Types" and "System (Built-in) Functions".
"""

from __future__ import annotations

from datetime import UTC, datetime, time

from millstream.events.types import Kind, Type
from millstream.pipelines.sql import types as t

_NAMES: dict[Kind, str] = {
    "boolean": "BOOLEAN", "int32": "INT", "int64": "BIGINT", "float32": "FLOAT", "float64": "DOUBLE", "text": "STRING", "bytes": "BYTES",
    "date": "DATE", "time": "BIGINT", "timestamp": "TIMESTAMP(6)", "timestamptz": "TIMESTAMP_LTZ(6)", "uuid": "STRING", "json": "STRING",
    "numeric": "STRING",
}  # fmt: skip
_WRITTEN_EXACTLY = 15  # digits that a float64 keeps
_FLOAT_MAX = "3.4028235677973366e38"  # from here on a float64 rounds to no finite float32
_NUMBER = "^ *[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)? *$"
_DATE = "^ *[0-9]+-[0-9]+-[0-9]+([ T][0-9:.]+)? *$"
SHIFT_DAYS, SHIFT_YEARS = 584_388, 1600
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


def name(type_: Type) -> str:
    """The Flink type that holds it."""
    match type_.kind:
        case "decimal":
            return f"DECIMAL({type_.precision}, {type_.scale})"
        case "list":
            assert type_.element is not None
            return f"ARRAY<{name(type_.element)}>"
        case "record":
            return f"ROW<{', '.join(f'{quoted(f.name)} {name(f.type)}' for f in type_.fields)}>"
    return _NAMES[type_.kind]


def quoted(identifier: str) -> str:
    return "`" + identifier.replace("`", "``") + "`"


def text(value: str) -> str:
    """A text literal. Flink's own 'a' is a CHAR(1), which is padded and cut where a STRING is not."""
    return "CAST('" + value.replace("'", "''") + "' AS STRING)"


def literal(value: str, type_: Type) -> str | None:
    """A quoted literal read as `type_`, one that `types.literal` takes."""
    match type_.kind:
        case "date":
            return f"DATE '{value}'"
        case "time":
            at = time.fromisoformat(value)
            return str(((at.hour * 60 + at.minute) * 60 + at.second) * 1_000_000 + at.microsecond)
        case "timestamp":
            return f"CAST('{datetime.fromisoformat(value).isoformat(' ')}' AS TIMESTAMP(6))"
        case "timestamptz":
            at_zone = datetime.fromisoformat(value)
            utc = (at_zone.astimezone(UTC) if at_zone.tzinfo else at_zone).replace(tzinfo=None)
            return f"CAST('{utc.isoformat(' ')}' AS TIMESTAMP_LTZ(6))"
        case "uuid":
            return text(value.lower())
    return None


def decimal(digits: str, type_: Type) -> str:
    """A decimal as written. Flink counts the 0 before the point as a digit, so it may need one more at first."""
    wider = Type("decimal", min((type_.precision or 0) + 1, t.PRECISION_MAX), type_.scale)
    return f"CAST(CAST('{digits}' AS {name(wider)}) AS {name(type_)})"


def null(type_: Type) -> str:
    return f"CAST(NULL AS {name(type_)})"


def cast(sql: str, source: Type, target: Type, attempt: bool = False) -> str | None:
    """Text that makes a `source` value a `target` value, or fails; `attempt`: is null where it cannot be."""
    if source == target:
        return sql
    if target.kind == "decimal" and target.precision == target.scale:
        return None  # Flink reads no '0.5' as a DECIMAL(1, 1), and its other casts to one give null where they should fail
    word = "TRY_CAST" if attempt else "CAST"
    if source.kind in ("text", "json", "uuid", "numeric"):
        return _read(sql, target, word, attempt)
    if target.kind == "text":
        return _write(sql, source)
    if source.kind == "timestamp" and target.kind == "time":
        parts = (f"EXTRACT({part} FROM {shifted(sql)})" for part in ("HOUR", "MINUTE", "SECOND", "MICROSECOND"))
        return "((({} * 60 + {}) * 60 + {}) * 1000000 + {})".format(*parts)
    if source.kind in t.INSTANTS and target.kind == "date":
        return date_of(sql)
    if source.kind in t.NUMBERS and target.kind in t.NUMBERS:
        return _number(sql, source, target, word)
    return f"CAST({sql} AS {name(target)})"


def through_text(sql: str, target: Type, word: str = "CAST") -> str:
    """A narrowing that fails where the value does not fit, as Flink's own do not."""
    return f"{word}({_between(sql)} AS {name(target)})"


def _between(sql: str) -> str:
    """As text. The TRIM keeps Flink from making one cast of two, which would not fail."""
    return f"TRIM(CAST({sql} AS STRING))"


def shifted(sql: str) -> str:
    """The timestamp 1600 years later, to the same weekday: before 1970 Flink takes seconds, hours and days towards zero."""
    return f"TIMESTAMPADD(DAY, {SHIFT_DAYS}, CAST({sql} AS TIMESTAMP(6)))"


def date_of(sql: str) -> str:
    return f"CAST(TIMESTAMPADD(DAY, -{SHIFT_DAYS}, CAST({shifted(sql)} AS DATE)) AS DATE)"


def _number(sql: str, source: Type, target: Type, word: str) -> str:
    wider = f"CAST({sql} AS {name(target)})"
    if source.kind in t.FLOATS:
        if target.kind == "float64":
            return wider
        if target.kind == "float32":
            refused = "NULL" if word == "TRY_CAST" else "CAST('out of range' AS FLOAT)"
            return f"CASE WHEN ABS({sql}) BETWEEN {_FLOAT_MAX} AND 1.7976931348623157e308 THEN {refused} ELSE {wider} END"
        # As the decimal number that the float is written as, rounded half away from zero.
        return through_text(sql, target, word) if target.kind == "decimal" else _whole(_between(sql), target, word)
    (p1, s1) = t.digits(source)
    if target.kind in t.FLOATS:
        return wider if p1 <= _WRITTEN_EXACTLY or source.kind != "decimal" else through_text(sql, target)
    if target.kind == "decimal":
        p2, s2 = t.digits(target)
        return wider if p2 - s2 >= p1 - s1 and s2 >= s1 else through_text(sql, target, word)
    if source.kind == "int32":
        return wider
    return through_text(f"CAST({sql} AS DECIMAL(38, 0))" if s1 else sql, target, word)


def _whole(read: str, target: Type, word: str) -> str:
    """Text that may have a fraction as an integer, rounded half away from zero."""
    return through_text(f"{word}({read} AS DECIMAL(38, 0))", target, word)


def _read(sql: str, target: Type, word: str, attempt: bool) -> str | None:
    match target.kind:
        case "text" | "json" | "numeric":
            return sql
        case "int32" | "int64":
            return _checked(sql, _whole(sql, target, word), target, attempt)
        case "decimal" | "float32" | "float64":
            return _checked(sql, f"{word}({sql} AS {name(target)})", target, attempt)
        case "date":
            return _checked(sql, f"{word}({sql} AS DATE)", target, attempt)
        case "timestamp" | "timestamptz":
            return f"{word}(REGEXP_REPLACE(REPLACE({sql}, 'T', ' '), '(Z|[+]00(:?00)?)$', '') AS {name(target)})"
        case "uuid":
            there = f"REGEXP_EXTRACT(LOWER({sql}), '^{_UUID}$')"
            if attempt:
                return there
            return f"CASE WHEN {sql} IS NULL OR {there} IS NOT NULL THEN LOWER({sql}) ELSE CAST(CAST('no uuid' AS INT) AS STRING) END"
        case "time" | "bytes" | "list" | "record":
            return None
    return f"{word}({sql} AS {name(target)})"


def _checked(sql: str, read: str, target: Type, attempt: bool) -> str:
    """Flink reads some words as the decimal 0, 1.5d as a float, and whatever begins with a date as one."""
    pattern, wrong = _NUMBER, f"CAST(CAST('no number' AS INT) AS {name(target)})"
    if target.kind == "date":
        pattern, wrong = _DATE, "CAST('no date' AS DATE)"
    otherwise = null(target) if attempt else wrong
    return f"CASE WHEN {sql} IS NULL OR REGEXP({sql}, '{pattern}') THEN {read} ELSE {otherwise} END"


def _write(sql: str, source: Type) -> str | None:
    match source.kind:
        case "boolean":
            return f"LOWER(CAST({sql} AS STRING))"
        case "timestamp":
            return _trimmed(f"CAST({sql} AS STRING)")
        case "timestamptz":
            return f"({_trimmed(f'CAST({sql} AS STRING)')} || '+00')"
        case "time":
            clock = [f"{sql} / 3600000000", f"MOD({sql} / 60000000, 60)", f"MOD({sql} / 1000000, 60)"]
            shown = " || ':' || ".join(f"LPAD(CAST({part} AS STRING), 2, '0')" for part in clock)
            return _trimmed(f"({shown} || '.' || LPAD(CAST(MOD({sql}, 1000000) AS STRING), 6, '0'))")
        case "int32" | "int64" | "decimal" | "date":
            return f"CAST({sql} AS STRING)"
    return None


def _trimmed(sql: str) -> str:
    """Without the zeros at the end of its fraction."""
    return f"REGEXP_REPLACE({sql}, '[.]?0+$', '')"
