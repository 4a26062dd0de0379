"""A column type as people write it, read back: the inverse of a type's own text, such as `decimal(10,2)` or `list(text)`."""

from __future__ import annotations

import re
from typing import get_args

from millstream.events.types import Kind, Type, list_of, record_of

PLAIN = tuple(k for k in get_args(Kind) if k not in ("decimal", "list", "record"))
SHAPES = (*PLAIN, "decimal(precision,scale)", "list(type)", "record(name type, …)")
_DECIMAL = re.compile(r"decimal\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)")
_INSIDE = re.compile(r"(list|record)\((.*)\)", re.DOTALL)
_PRECISION_MAX = 76


def parse(text: str) -> Type | None:
    """The type, or None where the text is not one."""
    text = text.strip()
    if text in PLAIN:
        return Type(next(k for k in PLAIN if k == text))
    if match := _DECIMAL.fullmatch(text):
        precision, scale = int(match[1]), int(match[2])
        return Type("decimal", precision, scale) if 1 <= precision <= _PRECISION_MAX and scale <= precision else None
    match = _INSIDE.fullmatch(text)
    if match is None:
        return None
    if match[1] == "list":
        element = parse(match[2])
        return None if element is None else list_of(element)
    return _record(match[2])


def _record(text: str) -> Type | None:
    members: dict[str, Type] = {}
    for member in _split(text):
        name, _, rest = member.strip().partition(" ")
        type_ = parse(rest)
        if not name or name in members or type_ is None:
            return None
        members[name] = type_
    return record_of(*members.items()) if members else None


def _split(text: str) -> list[str]:
    """At the commas that stand in no brackets."""
    depth, start, parts = 0, 0, []
    for at, char in enumerate(text):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]
