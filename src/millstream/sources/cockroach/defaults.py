"""A column's default as one value, where it is written as one: then old rows have that, and no event need say so.

What is not surely one value for all rows, written as the feed would write it, is none here: the server tells rows again by itself
when it adds such a column, so nothing depends on it.
"""

from __future__ import annotations

import re

from millstream.events.fills import fill_value
from millstream.events.types import Constant
from millstream.sources.cockroach.types import type_of

_CAST = r"(?:\s*:::?\s*[A-Za-z_][\w .\"]*(?:\([\d, ]*\))?)*"
_TEXT = re.compile(rf"'((?:[^']|'')*)'{_CAST}")
_ESCAPED = re.compile(rf"([eEbB])'((?:[^'\\]|''|\\.)*)'{_CAST}", re.DOTALL)
_NUMBER = re.compile(rf"(-?\d+(?:\.\d+)?){_CAST}")
_BOOLEAN = re.compile(rf"(true|false){_CAST}", re.IGNORECASE)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)|''", re.DOTALL)

# Types whose values the feed writes as a default writes them; of others (INTERVAL, JSONB, INET …) two texts may mean one value.
_ALIKE = ("boolean", "int32", "int64", "decimal", "numeric", "bytes", "date", "timestamp", "timestamptz", "uuid")
_TEXTS = re.compile(r"(?i)(STRING|VARCHAR|CHAR|TEXT|NAME)(\(\d+\))?( COLLATE .+)?")


def constant(default: str | None, sql_type: str) -> Constant | None:
    """The value of a default expression; None where it has none, is null, or is not surely that value."""
    text = None if default is None else _value(default.strip())
    if text is None:
        return None
    type_ = type_of(sql_type)
    if type_.kind not in _ALIKE and not _TEXTS.fullmatch(sql_type):
        return None
    try:
        fill_value(type_, text)
    except ValueError:
        return None
    return Constant(text)


def _value(expression: str) -> str | None:
    while expression.startswith("(") and expression.endswith(")"):
        expression = expression[1:-1].strip()
    if (found := _TEXT.fullmatch(expression)) is not None:
        return found[1].replace("''", "'")
    if (found := _ESCAPED.fullmatch(expression)) is not None:
        text = _ESCAPE.sub(_unescaped, found[2])
        if found[1] in "eE":
            return text
        try:
            return "\\x" + text.encode("latin-1").hex()
        except UnicodeEncodeError:
            return None
    found = _NUMBER.fullmatch(expression) or _BOOLEAN.fullmatch(expression)
    return found[1].lower() if found is not None else None


def _unescaped(found: re.Match[str]) -> str:
    said = found[1]
    if said is None:
        return "'"
    if said[0] in "xuU" and len(said) > 1:
        return chr(int(said[1:], 16))
    if len(said) == 3:
        return chr(int(said, 8))
    return _ESCAPES.get(said, said)
