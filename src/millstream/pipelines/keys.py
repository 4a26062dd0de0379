"""A step's key and schema: which output columns identify a row, proven, and ids that stay with their columns.

A step has at most one row per row of its first table, so its key must hold that table's key. More columns may be added where
there is no join; never null, never a float.
"""

from __future__ import annotations

from collections.abc import Sequence

from millstream.events.types import RowSchema, numbered
from millstream.pipelines.definitions import PipelineDefinition, StepDefinition
from millstream.pipelines.diagnostics import Diagnostic
from millstream.pipelines.sql.mistakes import Mistakes, suggestion
from millstream.pipelines.sql.query import Column, Query
from millstream.pipelines.sql.types import FLOATS, KEY_TYPES


def key_of(
    step: StepDefinition, query: Query, definition: PipelineDefinition, diagnostics: list[Diagnostic], mistakes: Mistakes
) -> tuple[str, ...] | None:
    """The names of the key columns of the step's output; None and mistakes where there is no sound key."""
    carriers = _carriers(query)
    missing = [k for k in query.root.schema.key if k not in carriers]
    if step.key is None:
        if missing:
            _missing(query, missing, mistakes)
            return None
        columns = {c.name: c for c in query.columns}
        return _sound([(None, columns[carriers[k]]) for k in query.root.schema.key], query, step, definition, diagnostics, mistakes)
    return _given(step, step.key, query, definition, diagnostics, mistakes)


def _carriers(query: Query) -> dict[str, str]:
    """The root's column → the first output column that is it."""
    found: dict[str, str] = {}
    for c in query.columns:
        if c.source and c.source[0] == query.root.alias:
            found.setdefault(c.source[1], c.name)
    return found


def _missing(query: Query, missing: Sequence[str], mistakes: Mistakes) -> None:
    computed = [c.name for c in query.columns if c.source is None and c.name in missing]
    prefix = f"{query.root.shown}." if query.joins else ""
    names = ", ".join(prefix + m for m in missing)
    message = f"the key of {query.root.input} is not among the columns: {', '.join(missing)} is missing"
    cure = f"add {names} to the SELECT list" + (f" as it is: {', '.join(computed)} is computed" if computed else "")
    mistakes.add(query.offset, "key_missing", message, cure)


def _given(
    step: StepDefinition,
    key: tuple[str, ...],
    query: Query,
    definition: PipelineDefinition,
    diagnostics: list[Diagnostic],
    mistakes: Mistakes,
) -> tuple[str, ...] | None:
    columns = {c.name: c for c in query.columns}
    unknown = [(i, name) for i, name in enumerate(key) if name not in columns]
    for i, name in unknown:
        cure = suggestion(name, columns, "columns")
        diagnostics.append(definition.mistake(f"{step.path}.key[{i}]", "unknown_column", f"the step has no column {name}", cure))
    if unknown:
        return None
    held = {c.source[1] for name in key if (c := columns[name]).source and c.source[0] == query.root.alias}
    missing = [k for k in query.root.schema.key if k not in held]
    if missing:
        message = (
            f"key [{', '.join(key)}] leaves out {', '.join(missing)} of the key of {query.root.input}: several rows could have one key"
        )
        cure = f"add {', '.join(_carriers(query).get(m, m) for m in missing)} to key:, and to the SELECT list if it is not there"
        diagnostics.append(definition.mistake(f"{step.path}.key", "key_not_unique", message, cure))
        return None
    if query.joins and len(key) != len(query.root.schema.key):
        message = f"the key of a joined step is the key of its first table: {', '.join(query.root.schema.key)}"
        cure = "leave key: out, or add a step that reads this one and has the longer key"
        diagnostics.append(definition.mistake(f"{step.path}.key", "key_too_long", message, cure))
        return None
    return _sound([(f"{step.path}.key[{i}]", columns[name]) for i, name in enumerate(key)], query, step, definition, diagnostics, mistakes)


def _sound(
    key: list[tuple[str | None, Column]],
    query: Query,
    step: StepDefinition,
    definition: PipelineDefinition,
    diagnostics: list[Diagnostic],
    mistakes: Mistakes,
) -> tuple[str, ...] | None:
    """The names, unless a column may be null or has a type whose equality cannot be relied on."""
    sound = True
    for path, column in key:
        own = (
            column.source is not None
            and column.source == (query.root.alias, column.source[1])
            and column.source[1] in query.root.schema.key
        )
        if column.type.kind in FLOATS or (not own and column.type.kind not in KEY_TYPES):
            found = (
                "key_type",
                f"key column {column.name} is {column.type}, which cannot identify a row",
                "use a decimal, an integer or text",
            )
        elif column.nullable:
            found = (
                "nullable_key",
                f"key column {column.name} may be null",
                f"keep nulls out: WHERE {column.name} IS NOT NULL, or coalesce",
            )
        else:
            continue
        sound = False
        if path is None:
            mistakes.add(column.offset, *found)
        else:
            diagnostics.append(definition.mistake(path, *found))
    return tuple(c.name for _, c in key) if sound else None


def evolved(columns: Sequence[Column], key: tuple[str, ...], history: Sequence[RowSchema]) -> RowSchema:
    """The row schema: a column that an earlier version had, by name, keeps its id; a new one gets an id never used."""
    return RowSchema(numbered([(c.name, c.type) for c in columns], [version.fields for version in history]), key)
