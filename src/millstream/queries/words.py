"""Text as words: where they begin and end, and the form in which they are compared.

One definition for everyone who indexes, asks or highlights, so that an index and a plain look at the text cannot
disagree. A word is a run of letters, digits and the marks on them; a Chinese or Japanese character is a word of its own.
Case and the marks of Latin, Greek and Cyrillic letters do not count: `Amélie` is `amelie`, `Łódź` is `lodz`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

WORD_CHARS_MAX = 100
"""Longer words are told apart by their first characters."""

_ASCII = re.compile(r"[0-9A-Za-z]+")
_ALONE = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_LATIN_MARKS = re.compile("[\u0300-\u036f]")
_LETTERS = str.maketrans(
    {"ł": "l", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "ŧ": "t", "æ": "ae", "œ": "oe", "þ": "th"}
)  # letters whose mark Unicode does not take off


def folded(text: str) -> str:
    """The form in which texts are compared where case and marks do not count."""
    if text.isascii():
        return text.lower()
    plain = _LATIN_MARKS.sub("", unicodedata.normalize("NFKD", text.casefold())).casefold()
    return unicodedata.normalize("NFC", plain).translate(_LETTERS)


def words(text: str) -> list[str]:
    """The words of a text, folded, in order."""
    if text.isascii():
        return [w[:WORD_CHARS_MAX] for w in _ASCII.findall(text.lower())]
    return [word for word, _, _ in spans(text)]


def spans(text: str) -> Iterator[tuple[str, int, int]]:
    """Each word, folded, with where it begins and ends in the text."""
    for found in (_ASCII if text.isascii() else _any_script()).finditer(text):
        word = "".join(folded(found[0]).split())[:WORD_CHARS_MAX]  # some ligatures are several words to Unicode
        if word:
            yield word, found.start(), found.end()


@cache
def _any_script() -> re.Pattern[str]:
    return re.compile(rf"[{_ALONE}]{_marks()}*|(?:(?![{_ALONE}])[^\W_]|{_marks()})+")


@cache
def _marks() -> str:
    """A class of all combining marks (of the basic plane), which `\\w` leaves out."""
    points = [c for c in range(0x300, 0x10000) if unicodedata.category(chr(c))[0] == "M"]
    ranges: list[list[int]] = []
    for point in points:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "[" + "".join(f"{chr(a)}-{chr(b)}" for a, b in ranges) + "]"
