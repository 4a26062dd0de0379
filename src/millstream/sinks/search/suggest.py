"""Completion: the values of a text field that begin so, those of most documents first."""

from __future__ import annotations

from pathlib import Path

import tantivy

from millstream.errors import Refused
from millstream.queries.words import folded
from millstream.sinks.search.keys import key_of
from millstream.sinks.search.layout import BEGINS
from millstream.sinks.search.query import in_range
from millstream.sinks.search.reader import Reader

LIMIT_MAX = 1_000


def suggest(place: Path, index: str, name: str, prefix: str, limit: int = 10, *, exact: bool = False) -> list[tuple[str, int]]:
    """The `limit` values of a text field that begin with `prefix`, each with its number of documents, most first.

    Case and marks do not count, unless `exact`. Values longer than 256 bytes are left out.
    Raises Refused: "unknown_index", "unknown_column", "not_text", "bad_limit".
    """
    in_range("limit", limit, 1, LIMIT_MAX)
    reader = Reader(place, index)
    route, type_, _ = reader.route(name)
    if type_.kind != "text" or reader.fields.treatment(route.whole, type_) == "stored":
        texts = [".".join(leaf.names) for leaf in reader.fields.leaves if leaf.type.kind == "text"]
        cure = f"one of: {', '.join(texts[:12])}" if texts else "the index has no text field"
        raise Refused(f"{name} ({type_}) is no text that can be completed", code="not_text", where=name, cure=cure)
    begins = f"{key_of(route)}{BEGINS}{folded(prefix)}"
    every = tantivy.Query.all_query()  # without it, documents that are gone would count
    found = reader.searcher.terms_with_prefix("_begins", begins, every, limit=None if exact else limit)
    values = ((term.split(BEGINS, 2)[2], count) for term, count in found)
    return [(text, count) for text, count in values if not exact or text.startswith(prefix)][:limit]
