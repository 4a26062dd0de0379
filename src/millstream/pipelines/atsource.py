"""`read: source`: which topics' rows can be asked of their databases, and what of a plan cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from millstream.components import find
from millstream.pipelines.definitions import Project
from millstream.pipelines.plan import Input, Stateful, inputs_of
from millstream.sources import kinds

_COPIES = "write read: copies, which keeps them here"

Mistake = tuple[str, str, str]
"""code, message, cure"""


def askable(project: Project, known: Mapping[str, Input]) -> dict[str, Input]:
    """`known`, with the topics marked whose source is of a kind that can be asked for rows."""
    offering = [s for s in project.sources if (kind := find(kinds.KINDS, s.connector)) is not None and kind.lookup is not None]
    topics = {t for s in offering for t in s.topics}
    return {name: replace(i, askable=name in topics) for name, i in known.items()}


def mistakes(step: Stateful, known: Mapping[str, Input]) -> Iterator[Mistake]:
    """Why the step cannot read its rows at the sources; nothing where it can."""
    for name in inputs_of(step):
        source = known.get(name)
        if source is None:
            message = f"step {step.name} reads {name}, which is computed here: no database has its rows"
            yield "not_at_source", message, f"write the tables into one query, or {_COPIES.removeprefix('write ')}"
        elif not source.askable:
            message = f"{name} cannot be asked for rows: only the tables of a source that offers it can"
            yield "not_at_source", message, f"read the tables that it is made of, or {_COPIES}"
        elif source.grade != "whole":
            message = f"{name} has before images of grade {source.grade}: what a row was before a change is nowhere else"
            yield "before_not_whole", message, f"make them whole at the source (Postgres: REPLICA IDENTITY FULL), or {_COPIES}"
    for computed in step.computed:
        message = f"step {step.name} groups {computed.input} by an expression: no database finds rows by it"
        yield "not_at_source", message, f"group by plain columns, or {_COPIES}"
