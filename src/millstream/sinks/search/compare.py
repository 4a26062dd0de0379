"""An index beside the rows that it should hold: document by document, as it was committed last, while its sink goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tantivy

from millstream.errors import Refused
from millstream.events.batch import Batch
from millstream.sinks.search.generations import index_path
from millstream.sinks.search.layout import META, State
from millstream.sinks.search.render import changes, key_terms

PAGE = 10_000


@dataclass(frozen=True)
class Document:
    """What an index holds of a key (JSON list of its values): the row as JSON, or None; `wanted` is what it should hold."""

    key: str
    wanted: str | None
    got: str | None


class Snapshot:
    """One commit of an index: `positions` says up to where its topic is in it."""

    def __init__(self, place: Path, folder: str) -> None:
        path = index_path(place, folder)
        if not (path / "meta.json").exists():
            raise Refused(f"there is no index {folder}", code="unknown_index", where=str(path), cure="let `millstream run` build it")
        self._index = tantivy.Index.open(str(path))
        self._searcher = self._index.searcher()
        self._schema = self._index.schema
        hits = self._searcher.search(tantivy.Query.term_query(self._schema, "_meta", META), 1).hits
        state = State.of(bytes(self._searcher.doc(hits[0][1])["_state"][0])) if hits else None
        self.positions: Mapping[str, int] = dict(state.held.positions) if state is not None else {}

    @property
    def count(self) -> int:
        """How many documents it has."""
        return int(self._searcher.num_docs) - (1 if self.positions else 0)

    def differing(self, rows: Batch) -> list[Document]:
        """Of rows that are live (one a key): those whose document is missing or another."""
        terms = key_terms(rows)
        wanted = dict(zip(terms.to_pylist(), changes(rows, terms, {}).documents.to_pylist(), strict=True))
        found = self._documents(list(wanted))
        return [Document(k, text, found.get(k)) for k, text in wanted.items() if not _same(text, found.get(k))]

    def _documents(self, keys: list[str]) -> dict[str, str]:
        query = tantivy.Query.term_set_query(self._schema, "_key", keys)
        documents = (self._searcher.doc(address) for _, address in self._searcher.search(query, max(1, len(keys) * 2), count=False).hits)
        return {d["_key"][0]: bytes(d["_document"][0]).decode() for d in documents}

    def pages(self) -> Iterator[list[str]]:
        """The keys of all documents, a page at a time, in no order."""
        everything = tantivy.Query.boolean_query(
            [
                (tantivy.Occur.Must, tantivy.Query.all_query()),
                (tantivy.Occur.MustNot, tantivy.Query.term_query(self._schema, "_meta", META)),
            ]
        )
        offset = 0
        while hits := self._searcher.search(everything, PAGE, count=False, offset=offset).hits:
            yield [self._searcher.doc(address)["_key"][0] for _, address in hits]
            offset += len(hits)

    def document(self, key: str) -> str | None:
        return self._documents([key]).get(key)


def _same(wanted: str, got: str | None) -> bool:
    if got is None or wanted == got:
        return got is not None
    return _shows(_said(wanted), _said(got))


def _shows(wanted: Any, got: Any) -> bool:
    """Whether a document shows the row. One that was written under an earlier schema lacks columns that are null, and has those that
    were dropped since."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        return all(_shows(value, got.get(name)) for name, value in wanted.items())
    if isinstance(wanted, list) and isinstance(got, list):
        return len(wanted) == len(got) and all(map(_shows, wanted, got))
    return bool(wanted == got)


def _said(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
