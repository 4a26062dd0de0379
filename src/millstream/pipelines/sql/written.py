"""Arguments that must be written out: units, numbers, regular expressions, paths into JSON, formats of dates.

They are checked here, so that a mistake is found with the definition and not with some record.
"""

from __future__ import annotations

import re

from millstream.pipelines.sql.shape import Argument
from millstream.pipelines.sql.signatures import UNITS
from millstream.pipelines.sql.typed import Typed

_PATH = re.compile(r"\$(\.[A-Za-z_][A-Za-z0-9_]*|\[[0-9]+\])+")
_FORMAT = re.compile(r"(%[YmdHMS%]|[^%'])+")
# What RE2 has not: looking around, references to groups, possessive and atomic groups.
_ONE_SIDED = re.compile(r"\(\?[=!>]|\(\?<[=!]|\\[1-9]|[*+?}]\+|\\[GKZzQ]")


def badly_written(expected: Argument, value: Typed) -> tuple[str, str] | None:
    """What the argument must be instead, and how to mend it; None where it is well written."""
    word = value.literal or ""
    match expected.form:
        case "unit" if word.lower() not in UNITS:
            return "a quoted unit", f"one of {', '.join(UNITS)}"
        case "constant" if value.constant is None or not 0 <= value.constant <= expected.most:
            return f"a whole number from 0 to {expected.most}", "write the number out"
        case "quoted" if not word:
            return "a quoted text that is not empty", "write the text out"
        case "path" if not _PATH.fullmatch(word):
            return "a quoted path into JSON", "write it as '$.name', '$.a.b' or '$.list[0].name'"
        case "format" if not _FORMAT.fullmatch(word):
            return "a quoted format of dates", "of %Y %m %d %H %M %S, %% and plain characters: '%Y-%m-%d'"
        case "pattern":
            return _bad_pattern(word)
    return None


def _bad_pattern(word: str) -> tuple[str, str] | None:
    try:
        re.compile(word)
    except re.error as e:
        return "a regular expression", f"mend it: {e}"
    if not word or _ONE_SIDED.search(word):
        return "a quoted regular expression that both engines have", "leave out look-around, \\1, possessive quantifiers and atomic groups"
    return None
