"""A statement's parameters: how many it has, and each as SQL text, whatever form it came in.

psycopg 3 sends numbers, booleans, dates, times of day and bytes in binary by itself; anything else binary is refused by name.

Reference: PostgreSQL 17, `src/backend/utils/adt`: the *recv functions.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta

from millstream.testing.cockroach.tokens import tokens

_GIVING = frozenset(("select", "show", "values", "with", "table", "explain", "experimental"))
_EPOCH = datetime(2000, 1, 1)


def parameter_text(value: bytes, oid: int, binary: bool) -> str:
    """Raises NotImplementedError for a binary form that is not known."""
    if not binary or oid in (0, 25, 19, 705, 1043, 1042, 114):
        return value.decode()
    if oid not in _READ:
        raise NotImplementedError(f"the stand-in does not read parameters of type {oid} in binary: give them as text (%t)")
    return _READ[oid](value)


def parameter_count(sql: str) -> int:
    """The highest $n of a statement. Raises SqlError 42601."""
    return max((int(t.text[1:]) for t in tokens(sql) if t.kind == "param"), default=0)


def gives_rows(sql: str) -> bool:
    """Whether its answer has columns, by its words alone. Raises SqlError 42601."""
    words = [t.text if t.kind == "word" else "" for t in tokens(sql)]
    return words[0] in _GIVING or words[:2] == ["create", "changefeed"] or "returning" in words


def _number(layout: str) -> Callable[[bytes], str]:
    return lambda value: str(struct.unpack(layout, value)[0])


def _time(value: bytes) -> str:
    (micros,) = struct.unpack("!q", value)
    return (_EPOCH + timedelta(microseconds=micros)).isoformat(" ")


def _date(value: bytes) -> str:
    (days,) = struct.unpack("!i", value)
    return (date(2000, 1, 1) + timedelta(days=days)).isoformat()


_READ: Mapping[int, Callable[[bytes], str]] = {
    16: lambda value: "true" if value == b"\1" else "false",
    17: lambda value: "\\x" + value.hex(),
    20: _number("!q"),
    21: _number("!h"),
    23: _number("!i"),
    26: _number("!I"),
    700: _number("!f"),
    701: _number("!d"),
    1082: _date,
    1114: _time,
    1184: lambda value: _time(value) + "+00:00",
    2950: lambda value: str(uuid.UUID(bytes=value)),
    3802: lambda value: value[1:].decode(),
}
