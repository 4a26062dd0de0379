"""JSON text in the form in which CockroachDB keeps and prints it: members sorted, numbers as decimals with their zeros.

A JSONB value is held as this text, so equal documents are equal text.
Reference: CockroachDB 26.1, "JSONB".
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

_ESCAPED = re.compile(r'[\x00-\x1f"\\\u2028\u2029]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def string(text: str) -> str:
    """A JSON string: only what must be escaped is, and nothing for HTML's sake."""
    if _ESCAPED.search(text) is None:
        return f'"{text}"'
    return '"' + _ESCAPED.sub(lambda found: _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}", text) + '"'


def decimal(value: Decimal, version: str = "26.1") -> str:
    """A decimal as SQL shows it, with its scale kept. A zero has all its places, in 22.1 an exponent where they are many."""
    shown = str(value)
    return format(value, "f") if version != "22.1" and "E-" in shown and not value else shown


def number(value: Decimal, version: str = "26.1") -> str:
    """A decimal as JSON: bare; what is no number is a string."""
    if value.is_finite():
        return decimal(value, version)
    return '"NaN"' if value.is_nan() else '"Infinity"' if value > 0 else '"-Infinity"'


def floating(value: float) -> str:
    """A float as JSON: its shortest digits, without zeros before or after them (10 is 1E+1)."""
    if value != value or value in (float("inf"), float("-inf")):
        return number(Decimal(value))
    return str(Decimal(repr(value)).normalize())


def load(text: str) -> Any:
    """Numbers as Decimal. Raises ValueError for what is no JSON."""

    def refused(word: str) -> None:
        raise ValueError(word)

    return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=refused)


def dump(value: Any) -> str:
    """What `load` gave, as the database prints it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{string(k)}: {dump(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dump, value)) + "]"
    if isinstance(value, str):
        return string(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return decimal(value)


def canonical(text: str) -> str:
    return dump(load(text))
