"""What people say of topics and their columns, from a project's files into schemas. It changes no row, and no plan by its fingerprint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from millstream.events.types import Field, RowSchema, Type, list_of
from millstream.pipelines.definitions import Description, FieldDescription, Project
from millstream.pipelines.diagnostics import Diagnostic, Place
from millstream.pipelines.sql.mistakes import suggestion

_NOTHING = FieldDescription()

Said = Callable[[str, Field], FieldDescription]
"""said(path, field): what is to be said of a column, or member (`cast.name`)."""


def described(schema: RowSchema, description: Description) -> RowSchema:
    """The schema with the descriptions and tags of its columns and members. Where there is none, it keeps what the source says."""

    def said(path: str, f: Field) -> FieldDescription:
        told = description.fields.get(path, _NOTHING)
        return FieldDescription(told.doc or f.doc, told.tags or f.tags)

    return replace(schema, fields=_fields(schema.fields, said, ""))


def undescribed(schema: RowSchema) -> RowSchema:
    """Equal for schemas that differ in descriptions and tags alone."""
    return replace(schema, fields=_fields(schema.fields, lambda *_: _NOTHING, ""))


def _fields(fields: Iterable[Field], said: Said, place: str) -> tuple[Field, ...]:
    def one(f: Field) -> Field:
        path = f"{place}{f.name}"
        told = said(path, f)
        return replace(f, type=_type(f.type, said, f"{path}."), doc=told.doc, tags=told.tags)

    return tuple(one(f) for f in fields)


def _type(type_: Type, said: Said, place: str) -> Type:
    if type_.element is not None:
        return list_of(_type(type_.element, said, place))
    return replace(type_, fields=_fields(type_.fields, said, place)) if type_.fields else type_


def of_topics(project: Project) -> dict[str, Description]:
    """Topic → what is said of it, with the owner and the domain of its source, pipeline or product where it has none of its own.

    A product's is under its own name: it goes for the topics of all its generations.
    """
    found = {}
    for source in project.sources:
        for table, topic in zip(source.tables, source.topics, strict=True):
            found[topic] = source.described.get(table, Description()).within(source.owner, source.domain)
    for pipeline in project.pipelines:
        for step in pipeline.steps:
            found[f"{pipeline.name}.{step.name}"] = step.description.within(pipeline.owner, pipeline.domain)
    for product in project.products:
        found[product.name] = product.description.within(product.owner, product.domain)
    return found


def of_topic(topic: str, of: Mapping[str, Description]) -> Description:
    """What `of_topics` found for this topic; nothing for one that no file describes."""
    head = topic.partition(".")[0]
    return of.get(head.partition("@")[0] if "@" in head else topic, Description())


def paths(schemas: Iterable[RowSchema]) -> set[str]:
    """Every column and member by the name that a description gives it."""
    return {path for schema in schemas for path in _paths(schema.fields, "")}


def _paths(fields: Iterable[Field], place: str) -> Iterable[str]:
    for f in fields:
        type_ = f.type
        while type_.element is not None:
            type_ = type_.element
        yield f"{place}{f.name}"
        yield from _paths(type_.fields, f"{place}{f.name}.")


def mistakes(description: Description, places: Mapping[str, Place], path: str, versions: Iterable[RowSchema]) -> list[Diagnostic]:
    """Descriptions of columns that there are in no version of the schema. One that was dropped is no mistake: nothing stops for that;
    nor is one in an older generation of a product, whose text does not hold the description."""
    known = paths(versions)
    found = []
    for name in description.fields:
        here = f"{path}.fields.{name}"
        if name not in known and (at := places.get(here)) is not None:
            cure = suggestion(name, sorted(known), "columns")
            found.append(Diagnostic(at.file, at.line, at.column, here, "unknown_column", f"there is no column {name} to describe", cure))
    return found
