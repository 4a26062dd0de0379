"""How documents lie in the index: which fields it has, and what it remembers of its sink and its columns.

The fields are few and the same for every index; columns are members of JSON fields, so a new column needs no new index.
Which member a column is says `keys.py`, what a value becomes `terms.py`, what a text becomes `queries/words.py`.

    _key       the key's values as a JSON list: one term, one document
    _words     JSON: texts as words, in order
    _exact     JSON: every typed value as a term; a record as a mark that there is one. Ranges, facets and sorting work here
    _loose     JSON: what lies in json columns, as terms; unbounded in its members, so without ranges
    _text      the words of all texts, with a sign between texts: where a word without a field looks
    _begins    texts for completion: member, folded text, text, with U+001F between
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

from millstream.errors import Refused
from millstream.events.types import Field, Type
from millstream.queries.fields import Fields
from millstream.queries.treatment import Treatment
from millstream.sinks.position import Held

META = "position"
LOCK = ".millstream-writer.lock"
LAYOUT = 2
BETWEEN_TEXTS = "|"
"""A word that no text has."""
BEGINS = "\x1f"


@cache
def schema() -> Any:
    """The tantivy schema of every index."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("_key", stored=True, tokenizer_name="raw", index_option="basic")
    builder.add_text_field("_meta", tokenizer_name="raw", index_option="basic")
    builder.add_bytes_field("_state", stored=True)
    builder.add_bytes_field("_document", stored=True)
    builder.add_json_field("_words", tokenizer_name="whitespace")
    builder.add_json_field("_exact", fast=True, tokenizer_name="raw", index_option="basic")
    builder.add_json_field("_loose", tokenizer_name="raw", index_option="basic")
    builder.add_text_field("_text", tokenizer_name="whitespace")
    builder.add_text_field("_begins", tokenizer_name="raw", index_option="basic")
    return builder.build()


@dataclass(frozen=True)
class State:
    """The reserved document: what the target holds of its sink, how columns are treated, what they are, and the ids of their fields
    (none, where no schema was accepted since ids are kept)."""

    held: Held
    fields: Mapping[str, Treatment] = field(default_factory=dict)
    columns: Mapping[str, Type] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)

    def data(self) -> bytes:
        columns = {name: _type_data(t) for name, t in self.columns.items()}
        held = json.loads(self.held.text())
        found = {"layout": LAYOUT, "held": held, "fields": dict(self.fields), "columns": columns, "ids": dict(self.ids)}
        return json.dumps(found).encode()

    @classmethod
    def of(cls, data: bytes) -> State:
        """Raises Refused("index_outdated") for an index of an earlier layout; ValueError, KeyError or TypeError on
        anything that `data` did not write."""
        document = json.loads(data)
        if document.get("layout") != LAYOUT:
            raise Refused(
                "the index was built by an earlier version of millstream, which laid it out otherwise",
                code="index_outdated",
                where="search index",
                cure="delete the index's folder and start again: it is built anew from the topic",
            )
        columns = {name: _type_of(t) for name, t in document["columns"].items()}
        return cls(Held.of(json.dumps(document["held"])), document["fields"], columns, document.get("ids", {}))

    @property
    def asked(self) -> Fields:
        """What can be asked of the documents."""
        return Fields(self.columns, self.fields)


def opened(path: str) -> Any:
    """An index that is there. It sees what is committed when it is told to `reload`: without that it would have a thread of
    its own that looks, also after its folder is gone."""
    index = tantivy.Index.open(path)
    index.config_reader("manual")
    return index


def stored_state(index: Any) -> State | None:
    """The state as last committed; None in an index that no sink has opened."""
    index.reload()
    searcher = index.searcher()
    hits = searcher.search(tantivy.Query.term_query(index.schema, "_meta", META), 1).hits
    return State.of(bytes(searcher.doc(hits[0][1])["_state"][0])) if hits else None


def _type_data(t: Type) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": t.kind}
    if t.kind == "decimal":
        found |= {"precision": t.precision, "scale": t.scale}
    if t.element is not None:
        found["element"] = _type_data(t.element)
    if t.kind == "record":
        found["fields"] = [[f.name, f.id, _type_data(f.type)] for f in t.fields]
    return found


def _type_of(data: Any) -> Type:
    return Type(
        data["kind"],
        data.get("precision"),
        data.get("scale"),
        _type_of(data["element"]) if "element" in data else None,
        tuple(Field(name, _type_of(t), id_) for name, id_, t in data.get("fields", ())),
    )
