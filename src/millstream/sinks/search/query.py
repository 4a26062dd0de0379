"""Asking an index: from any process, also while its sink is writing. What was committed before the call is seen.

Queries are tantivy's language over the row's columns: `rating`, `title:rating`, `title:"two words"`, `year:[2000 TO 2010]`,
`score:>4.5`, `(a OR b) AND NOT c`. Columns live in JSON fields (`layout.py`); this module knows which one a comparison needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import tantivy

from millstream.errors import Irrecoverable, Refused
from millstream.sinks.search.generations import FOLDER, folders, index_path, indexes, live
from millstream.sinks.search.layout import META, stored_state

LIMIT_MAX = 10_000
_FIELDS = ("_text", "_words", "_exact")
_OWN = (*_FIELDS, "_key")
_DATED = ("date", "timestamp", "timestamptz")

# Quoted text stays as it is; a column is what stands before a colon, with the range, set or day that follows it.
_PART = re.compile(
    r"""
      "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*'
    | (?P<without>\bAND\s+NOT\s+)
    | (?P<name>(?:\\.|[^\W\d])(?:\\.|[\w.-])*):
      (?P<range>\s*(?:[\[{][^\]}]*[\]}] | [<>]=?\s*(?:"[^"]*"|[^\s)]+) | IN\s*\[[^\]]*\]))?
      (?P<day>"?\d{4}-\d\d-\d\d(?:T[\d:.]+Z?)?"?)?
    """,
    re.VERBOSE,
)
_DAY = re.compile(r"(\d{4}-\d\d-\d\d)(T[\d:.]+)?Z?")


@dataclass(frozen=True)
class Hit:
    """A document: the key's values in key order, how well it matches, and the row (values as `millstream.sinks.jsontext` says)."""

    key: list[Any]
    score: float
    document: dict[str, Any]


def search(place: Path, index: str, query: str, limit: int = 10) -> list[Hit]:
    """The best `limit` documents (1 to 10,000), best first.

    Raises Refused: "unknown_index", "unknown_column" (both with the nearest names), "bad_query", "bad_limit".
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise Refused(f"limit is {limit}", code="bad_limit", where="limit", cure=f"give a number from 1 to {LIMIT_MAX}")
    opened, columns = _open(place, index)
    found = tantivy.Query.boolean_query(
        [
            (tantivy.Occur.Must, _parsed(opened, query, columns)),
            (tantivy.Occur.MustNot, tantivy.Query.term_query(opened.schema, "_meta", META)),
        ]
    )
    searcher = opened.searcher()
    return [_hit(score, searcher.doc(address)) for score, address in searcher.search(found, limit, count=False).hits]


def _open(place: Path, index: str) -> tuple[Any, Mapping[str, str]]:
    folder = live(place, index)
    path = index_path(place, folder)
    try:
        if not (path / "meta.json").exists():
            raise _unknown(place, index)
        opened = tantivy.Index.open(str(path))
        state = stored_state(opened)
    except (Refused, ValueError, OSError) as error:
        if live(place, index) != folder:  # switched meanwhile, and the old generation removed
            return _open(place, index)
        if isinstance(error, Refused):
            raise
        raise Irrecoverable(
            f"the index cannot be read: {error}",
            code="index_damaged",
            where=str(path),
            cure="stop its sink, delete the folder and start again: it is built anew from the topic",
        ) from error
    return opened, state.columns if state else {}


def _unknown(place: Path, index: str) -> Refused:
    if folders(place, index):
        said, cure = f"index {index!r} has no generation that may be asked yet", "wait until its first one is built"
    else:
        known = indexes(place)
        near = get_close_matches(index, known, 3) or known[:10]
        said, cure = f"there is no index {index!r}", f"one of: {', '.join(near)}" if near else "run a pipeline with a search sink first"
    return Refused(said, code="unknown_index", where=str(place / FOLDER), cure=cure)


def _parsed(opened: Any, query: str, columns: Mapping[str, str]) -> Any:
    if not query.strip():
        raise Refused("the query is empty", code="bad_query", where="query", cure="give words to look for, or * for every document")
    text = _PART.sub(lambda m: _rewritten(m, columns), query)
    try:
        return opened.parse_query(text, list(_FIELDS))
    except ValueError as error:
        cure = "write * before it: * -word" if "Only excluding" in str(error) else _CURE
        raise Refused(f"the query cannot be read: {error}", code="bad_query", where=query, cure=cure) from error


_CURE = 'words, column:word, column:"two words", column:[1 TO 9], column:>5, AND, OR, NOT, ( ); put quotes round anything else'


def _rewritten(found: re.Match[str], columns: Mapping[str, str]) -> str:
    if found["without"]:
        return "AND -"  # the same, but tantivy finds nothing by the longer form
    name = found["name"]
    if name is None or name.split(".")[0] in _OWN:
        return found[0]
    column, path = _column(name, columns)
    dated = columns[column] in _DATED
    if found["range"]:
        return f"_exact.{path}:{_DAY.sub(_instant, found['range']) if dated else found['range']}{found['day'] or ''}"
    if found["day"] and dated:
        return f'_exact.{path}:"{_DAY.sub(_instant, found["day"].strip(chr(34)))}"'
    return f"{path}:{found['day'] or ''}"


def _column(name: str, columns: Mapping[str, str]) -> tuple[str, str]:
    """The column that a name in a query means, and how the index wants it written (a JSON column may be gone into)."""
    plain = re.sub(r"\\(.)", r"\1", name)
    if plain in columns:
        return plain, re.sub(r"[^\w-]", lambda m: "\\" + m[0], plain)
    first, _, rest = plain.partition(".")
    if rest and columns.get(first) == "json":
        return first, name
    near = get_close_matches(plain, columns, 3) or sorted(columns)[:10]
    raise Refused(
        f"the index has no column {plain!r}",
        code="unknown_column",
        where=name,
        cure=f"one of: {', '.join(near)}; or put quotes round it if it is not meant as a column",
    )


def _instant(day: re.Match[str]) -> str:
    return f"{day[1]}{day[2] or 'T00:00:00'}Z"


def _hit(score: float, document: Any) -> Hit:
    return Hit(json.loads(document["_key"][0]), float(score), json.loads(bytes(document["_document"][0])))
