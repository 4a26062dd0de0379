"""The parts of one opened mesh, as the commands use them. Wiring opens them; nothing here knows how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from millstream.catalogue.controller import Change
from millstream.catalogue.generations import Switches
from millstream.catalogue.store import Catalogue
from millstream.engine.pipeline import Pipeline
from millstream.engine.runner import Figures, Report, Runner
from millstream.engine.sinkrun import SinkRun
from millstream.events import envelope
from millstream.events.types import RowSchema
from millstream.notices.teller import Notice
from millstream.pipelines.definitions import Project
from millstream.pipelines.plan import Plan
from millstream.schemas.registry import Registry
from millstream.sinks.search.query import Ask
from millstream.sources.contract import Source
from millstream.topics.contract import Topics


@dataclass(frozen=True)
class Place:
    """Where a mesh keeps what it knows: `home`, the definition's state folder. Nothing is made by asking."""

    home: Path

    @classmethod
    def of(cls, project: Project) -> Place:
        return cls(project.root / project.mesh.state)

    @property
    def topics(self) -> Path:
        return self.home / "topics.db"

    @property
    def catalogue(self) -> Path:
        return self.home / "mesh.db"

    @property
    def running(self) -> Path:
        """Locked by every process that runs the mesh."""
        return self.home / "running.lock"

    def copies(self, source: str) -> Path:
        """Copies of the rows of a source's tables, where it keeps them."""
        return self.home / "state" / f"source.{source}"

    def state(self, pipeline: str) -> Path:
        return self.home / "state" / f"{pipeline}.duckdb"


@dataclass(frozen=True)
class Mesh:
    """One opened mesh. `source` opens a source of the project by name; the caller closes it. `runner` builds the
    connectors, pipelines and sinks of what is applied, `parts` the pipelines and sinks of some plans of a project. `ask` asks a
    search index, `suggest` completes what begins so (index, field, prefix, limit, exact → values and their numbers of documents).
    `switches` leads searches from one generation of a product to another; `sweep` removes what dropped generations have left on disk,
    where nothing runs. `registry_served` answers the registry's REST API at host:port while it lasts, and gives the address.
    `told` gives, while it lasts, what tells owners; it takes what blots secrets."""

    project: Project
    place: Place
    catalogue: Catalogue
    registry: Registry
    topics: Topics
    source: Callable[[str], Source]
    runner: Callable[[Change, Report, Figures], Runner]
    parts: Callable[[Project, Sequence[Plan]], tuple[list[Pipeline], list[SinkRun]]]
    ask: Ask
    suggest: Callable[[str, str, str, int, bool], list[tuple[str, int]]]
    switches: Switches
    told: Callable[[Callable[[str], str]], AbstractContextManager[Callable[[Notice], None]]]
    sweep: Callable[[], list[str]]
    registry_served: Callable[[str], AbstractContextManager[str]]

    def schema(self, topic: str) -> RowSchema | None:
        """The newest registered row schema of a topic; None where it is not made yet."""
        known, versions = self.topics.topic(topic), self.registry.versions(f"{topic}-value")
        return envelope.row_schema(versions[-1].text, known.key) if known and versions else None

    @contextmanager
    def opened(self, source: str) -> Iterator[Source]:
        """A source, closed at the end."""
        there = self.source(source)
        try:
            yield there
        finally:
            there.close()
