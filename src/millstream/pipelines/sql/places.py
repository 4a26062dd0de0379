"""The columns that a DuckDB text of ours reads.

Such a text quotes every name, calls each relation by an alias that is one in the whole text, and says alias."column" wherever there
is more than one relation. So they are found by reading words, however deep the text is nested.
"""

from __future__ import annotations

import re

from millstream.pipelines.sql.typed import Place

_STRING = r"'(?:[^']|'')*'"
_NAME = r'"((?:[^"]|"")*)"'
_PLACES = re.compile(rf"{_STRING}|{_NAME}\.{_NAME}")
_NAMES = re.compile(rf"{_STRING}|(STRUCT\()|([()])|{_NAME}")


def places_in(sql: str) -> set[Place]:
    """Each alias.column."""
    return {(_plain(a), _plain(c)) for a, c in _PLACES.findall(sql) if c}


def without_alias(sql: str, alias: str) -> str:
    """The text over that relation alone: "column" for alias."column"."""
    return _PLACES.sub(lambda m: f'"{m[2]}"' if m[2] and _plain(m[1]) == alias else m[0], sql)


def names_in(sql: str) -> set[str]:
    """Each column of a text over one relation; the members of a record's type are none."""
    found, depth = set(), 0
    for record, paren, name in _NAMES.findall(sql):
        if record or (paren == "(" and depth):
            depth += 1
        elif paren == ")" and depth:
            depth -= 1
        elif name and not depth:
            found.add(_plain(name))
    return found


def _plain(name: str) -> str:
    return str(name.replace('""', '"'))
