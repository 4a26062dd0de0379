"""The columns of a row schema as commands show them, and what the project's files say of a topic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from millstream.cli.output import Output
from millstream.events.types import Constant, Field, Fill, RowSchema
from millstream.pipelines import descriptions
from millstream.pipelines.definitions import Description, Project

_HEADS = ("column", "type", "key", "null", "old rows", "description", "tags")
_ALWAYS = 3


def documents(schema: RowSchema | None) -> list[dict[str, Any]]:
    """Every column, and every member that something is said of (`cast.name`), in order."""
    return [] if schema is None else [_document(path, f, path in schema.key) for path, f in _columns(schema.fields, "")]


def _columns(fields: Iterable[Field], place: str) -> Iterator[tuple[str, Field]]:
    for f in fields:
        if not place or f.doc or f.tags:
            yield f"{place}{f.name}", f
        type_ = f.type
        while type_.element is not None:
            type_ = type_.element
        yield from _columns(type_.fields, f"{place}{f.name}.")


def _document(path: str, f: Field, in_key: bool) -> dict[str, Any]:
    told = {"name": path, "type": str(f.type), "key": in_key, "nullable": f.nullable and not in_key}
    return {**told, "fill": fill_document(f.fill), "doc": f.doc, "tags": list(f.tags)}


def fill_document(fill: Fill | None) -> Any:
    """What old rows have: None for null, {"constant": text}, or "unknown"."""
    if isinstance(fill, Constant):
        return {"constant": fill.text}
    return None if fill is None else "unknown"


def show(out: Output, columns: list[dict[str, Any]], empty: str) -> None:
    """A table of these documents, without the heads that no column says anything under."""
    rows = [_cells(c) for c in columns]
    kept = [i for i in range(len(_HEADS)) if i < _ALWAYS or any(row[i] for row in rows)]
    out.table([_HEADS[i] for i in kept], [[row[i] for i in kept] for row in rows], empty)


def _cells(c: dict[str, Any]) -> tuple[str, ...]:
    null = "" if c["nullable"] or c["key"] else "never"
    fill = c["fill"]["constant"] if isinstance(c["fill"], dict) else c["fill"] or ""
    return (c["name"], c["type"], "key" if c["key"] else "", null, fill, c["doc"], ", ".join(c["tags"]))


def said(project: Project, topic: str) -> Description:
    """What the files say of a topic as it is now."""
    return descriptions.of_topic(topic, descriptions.of_topics(project))


def about(description: Description) -> dict[str, Any]:
    """As a part of a document."""
    return {"owner": description.owner, "domain": description.domain, "doc": description.doc, "tags": list(description.tags)}


def sentence(description: Description) -> str:
    """As a line for people; empty where nothing is said."""
    known = (("owner", description.owner), ("domain", description.domain), ("tags", ", ".join(description.tags)))
    told = "; ".join(f"{name}: {value}" for name, value in known if value)
    return ". ".join(part for part in (description.doc.rstrip("."), told) if part)
