"""How documents lie in the index: which fields it has, and what each column of a row becomes there.

The fields are few and the same for every index; columns live inside two JSON fields, so a new column needs no
new index:

    _key       the key's values as a JSON list: one term, one document
    _words     JSON: text and json columns, split into words
    _exact     JSON: every column but bytes as one typed value: number, truth, date, or text; ranges work here
    _text      all text columns together, split into words: where a bare word looks
    _document  the row as JSON, stored, exact
    _meta      "position" on the one reserved document; _state there holds the position and the columns
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import tantivy

from millstream.sinks.position import Held
from millstream.sinks.search.options import Treatment

META = "position"
LOCK = ".millstream-writer.lock"


@cache
def schema() -> Any:
    """The tantivy schema of every index."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("_key", stored=True, tokenizer_name="raw", index_option="basic")
    builder.add_text_field("_meta", tokenizer_name="raw", index_option="basic")
    builder.add_bytes_field("_state", stored=True)
    builder.add_bytes_field("_document", stored=True)
    builder.add_json_field("_words")
    builder.add_json_field("_exact", fast=True, tokenizer_name="raw", index_option="basic")
    builder.add_text_field("_text")
    return builder.build()


@dataclass(frozen=True)
class State:
    """The reserved document: what the target holds of its sink, and what its columns are (name → kind)."""

    held: Held
    fields: Mapping[str, Treatment] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)

    def data(self) -> bytes:
        return json.dumps({"held": json.loads(self.held.text()), "fields": dict(self.fields), "columns": dict(self.columns)}).encode()

    @classmethod
    def of(cls, data: bytes) -> State:
        """Raises ValueError, KeyError or TypeError on anything that `data` did not write."""
        document = json.loads(data)
        return cls(Held.of(json.dumps(document["held"])), document["fields"], document["columns"])


def stored_state(index: Any) -> State | None:
    """The state as last committed; None in an index that no sink has opened."""
    index.reload()
    searcher = index.searcher()
    hits = searcher.search(tantivy.Query.term_query(index.schema, "_meta", META), 1).hits
    return State.of(bytes(searcher.doc(hits[0][1])["_state"][0])) if hits else None
