"""What a project says of schema changes beside the table of verdicts: its rules, and the mode that holds for a consumer and a topic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Protocol

from millstream.events.types import RowSchema
from millstream.pipelines.definitions import Description, PipelineDefinition, ProductDefinition, Project, SourceDefinition
from millstream.pipelines.descriptions import of_topic, of_topics
from millstream.schemas.rules import Change, Mode, Violation, judge_change


class Reader(Protocol):
    """A consumer of one topic: `part` is a step's name, or "sink " and a sink's. `star`: it reads columns that it does not name."""

    @property
    def pipeline(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def part(self) -> str: ...
    @property
    def topic(self) -> str: ...
    @property
    def columns_used(self) -> frozenset[str]: ...
    @property
    def star(self) -> bool: ...


PartOfMesh = SourceDefinition | PipelineDefinition | ProductDefinition


def _nothing_earlier(topic: str) -> Sequence[RowSchema]:
    return ()


@dataclass(frozen=True)
class Policy:
    """Called with a consumer and a change, it says what the project's rules and modes find wrong with that.

    `versions` gives every version of a topic's schema, oldest first, for the modes that look at all of them. `only` is a mode in
    place of all that the files name.
    """

    project: Project
    versions: Callable[[str], Sequence[RowSchema]] = field(default=_nothing_earlier, repr=False)
    only: Mode | None = None

    def __call__(self, reader: Reader, old: RowSchema, new: RowSchema) -> list[Violation]:
        return judge_change(self.change(reader, old, new), self.project.rules, self.mode(reader.pipeline, reader.topic))

    def change(self, reader: Reader, old: RowSchema, new: RowSchema) -> Change:
        consumer = self.part_of_mesh(reader.pipeline)
        return Change(
            consumer=f"{reader.pipeline.partition('@')[0]}.{reader.part}",
            owner=reader.owner,
            topic=reader.topic,
            source=_first(reader.topic),
            old=old,
            new=new,
            columns_used=frozenset(old.names) if reader.star else reader.columns_used,
            star=reader.star,
            domain=consumer.domain if consumer else "",
            topic_domain=of_topic(reader.topic, self._topics).domain,
            earlier=self._earlier(reader.topic, old, new),
        )

    def _earlier(self, topic: str, old: RowSchema, new: RowSchema) -> tuple[RowSchema, ...]:
        """The versions before `new`: before that which comes after `old`, as columns that were there before may come back."""
        versions = list(self.versions(topic))
        since = versions.index(old) + 1 if old in versions else 0
        return tuple(versions[:since]) + tuple(takewhile(lambda schema: schema != new, versions[since:]))

    @cached_property
    def _topics(self) -> Mapping[str, Description]:
        return of_topics(self.project)

    def mode(self, pipeline: str, topic: str) -> Mode:
        """What the consumer's definition says, else that of who writes the topic, else mesh.yaml."""
        if self.only is not None:
            return self.only
        for part in (self.part_of_mesh(pipeline), self.part_of_mesh(topic)):
            if part is not None and part.compatibility is not None:
                return part.compatibility
        return self.project.mesh.compatibility

    def part_of_mesh(self, name: str) -> PartOfMesh | None:
        """The source, pipeline or product of this name, or that which writes the topic of this name."""
        parts: tuple[PartOfMesh, ...] = (*self.project.sources, *self.project.pipelines, *self.project.products)
        return next((p for p in parts if p.name == _first(name)), None)


def _first(name: str) -> str:
    """Of a topic, who writes it; of a generation of a product, the product."""
    return name.partition(".")[0].partition("@")[0]
