"""Columns of a topic as an example declares them, so that a project can be tested where no database is: `{key: […], columns: {…}}`."""

from __future__ import annotations

from collections.abc import Callable

from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines import typetext
from millstream.pipelines.diagnostics import Place
from millstream.pipelines.sql.mistakes import suggestion
from millstream.pipelines.yaml import Items, Node, Scalar, Section

Note = Callable[[Place, str, str, str], None]
"""note(place, code, message, cure)"""


def declared_schema(node: Node, note: Note) -> RowSchema | None:
    """The row schema, or None where a mistake was noted."""
    if not isinstance(node, Section) or not isinstance(columns := node.entries.get("columns"), Section) or not columns.entries:
        note(node.place, "bad_value", "a topic is declared by its key and columns", "write topic: {key: [id], columns: {id: int64}}")
        return None
    types = {name: _type(name, written, note) for name, written in columns.entries.items()}
    key = _key(node, types, note)
    fields = [Field(name, type_, number) for number, (name, type_) in enumerate(types.items(), 1) if type_ is not None]
    return RowSchema(tuple(fields), key) if key and len(fields) == len(types) else None


def _type(name: str, written: Node, note: Note) -> Type | None:
    text = written.text if isinstance(written, Scalar) else ""
    type_ = typetext.parse(text)
    if type_ is None:
        note(written.place, "unknown_type", f"{text or 'this'} is no type for column {name}", suggestion(text, typetext.SHAPES, "types"))
    return type_


def _key(node: Section, types: dict[str, Type | None], note: Note) -> tuple[str, ...]:
    key = node.entries.get("key")
    names = [i.text if isinstance(i, Scalar) else "" for i in key.items] if isinstance(key, Items) else []
    if not names:
        note(key.place if key else node.place, "missing", "a topic has a key", "write key: [id]")
        return ()
    for name in names:
        if name not in types:
            note(
                key.place if key else node.place,
                "unknown_column",
                f"the key names {name}, which is no column",
                suggestion(name, types, "columns"),
            )
            return ()
    return tuple(names)
