"""Saved searches: searches/*.yaml → definitions, and the topic that says what they match.

They may change while the mesh runs: whoever runs them looks at the files again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from millstream.errors import Refused
from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.definitions import SearchDefinition
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.reading import Reading, place_of
from millstream.pipelines.sql.mistakes import suggestion
from millstream.pipelines.yaml import Section
from millstream.queries.grammar import parse

log = logging.getLogger("millstream.searches")

FOLDER = "searches"
SEARCH, VERSION = "search", "version"
_NODE = "matches"


def matches_topic(product: str) -> str:
    """The topic that says which documents of a product its saved searches match."""
    return f"{product}.{_NODE}"


def match_schema(document: RowSchema) -> RowSchema:
    """A row for each search and document: the search's name, the document's key, and the version of the document's event."""
    names = [f"document_{n}" if n in (SEARCH, VERSION) else n for n in document.key]
    keys = tuple(Field(name, f.type, i) for i, (name, f) in enumerate(zip(names, document.key_fields, strict=True), 3))
    return RowSchema((Field(SEARCH, Type("text"), 1), *keys, Field(VERSION, Type("text"), 2)), (SEARCH, *names))


class SearchReading(Reading):
    """Reads documents of the kind `search`."""

    def _search(self, section: Section) -> SearchDefinition | None:
        name = self._name(section, "search", "searches.?")
        path = f"searches.{name or '?'}"
        self._enter(section, path)
        self._keys(section, path, ("search", "product", "query", "owner"))
        product = self._text(section, "product", path)
        query = self._text(section, "query", path)
        owner = self._text(section, "owner", path)
        if query:
            try:
                parse(query)  # what its names mean is known when documents are: a field that is gone stops this search alone
            except Refused as e:
                self._note(place_of(section, "query"), f"{path}.query", e.code, f"{e.where}: {e.message}", e.cure)
        return SearchDefinition(name, product, query, owner, self._part(path)) if name and product and query else None

    def _searches_fit(self, searches: tuple[SearchDefinition, ...], products: list[str]) -> None:
        """Each name once, each product there."""
        seen: dict[str, SearchDefinition] = {}
        for s in searches:
            if s.name in seen:
                at = seen[s.name].place
                cure = f"rename one: the other is in {at.file}:{at.line}"
                self._note(s.place, f"searches.{s.name}", "name_twice", f"two searches are called {s.name}", cure)
            seen.setdefault(s.name, s)
            if s.product not in products:
                place, path = s.places.get(f"searches.{s.name}.product", s.place), f"searches.{s.name}.product"
                self._note(place, path, "unknown_product", f"there is no product {s.product}", suggestion(s.product, products, "products"))


class LiveSearches:
    """The saved searches as the files say now. Files that cannot be read leave it at what they said before. For several threads."""

    def __init__(self, root: Path, now: tuple[SearchDefinition, ...], read: Callable[[], tuple[SearchDefinition, ...]]) -> None:
        self._folder, self._now, self._read = root / FOLDER, now, read
        self._signature = self._look()
        self._lock = threading.Lock()

    def of(self, product: str) -> Mapping[str, str]:
        """Name → query."""
        with self._lock:
            signature = self._look()
            if signature != self._signature:
                self._signature = signature
                try:
                    self._now = self._read()
                except InvalidProject as e:
                    log.warning("the saved searches stay as they were: %s", e)
        return {s.name: s.query for s in self._now if s.product == product}

    def _look(self) -> list[tuple[str, int, int]]:
        found = []
        for path in sorted(self._folder.glob("*.yaml")):
            try:
                stat = path.stat()
            except OSError:  # gone since
                continue
            found.append((path.name, stat.st_mtime_ns, stat.st_size))
        return found
