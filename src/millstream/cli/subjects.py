"""A subject of the registry as the commands about schemas want it: its versions, and those of a topic's values as row schemas."""

from __future__ import annotations

from dataclasses import dataclass

from millstream.cli.mesh import Mesh
from millstream.errors import Refused
from millstream.events import envelope
from millstream.events.types import RowSchema
from millstream.pipelines.sql.mistakes import suggestion
from millstream.schemas.registry import SchemaVersion

VALUE = "-value"


@dataclass(frozen=True)
class Subject:
    """`versions`: at least one, oldest first. `topic`: whose values it is for; "" for any other subject. `key`: of that topic."""

    name: str
    versions: list[SchemaVersion]
    topic: str
    key: tuple[str, ...]

    def version(self, number: int) -> SchemaVersion:
        """Raises Refused("unknown_version")."""
        for version in self.versions:
            if version.version == number:
                return version
        there = ", ".join(str(v.version) for v in self.versions)
        raise Refused(f"{self.name} has no version {number}", code="unknown_version", cure=f"its versions are {there}")

    def rows(self, version: SchemaVersion) -> RowSchema:
        return envelope.row_schema(version.text, self.key)

    @property
    def history(self) -> tuple[RowSchema, ...]:
        return tuple(map(self.rows, self.versions))


def found(mesh: Mesh, name: str) -> Subject:
    """The subject of that name, or that of the values of the topic of that name. Raises Refused("unknown_subject")."""
    versions = mesh.registry.versions(name) or mesh.registry.versions(name + VALUE)
    if not versions:
        known = mesh.registry.subjects()
        topics = [s.removesuffix(VALUE) for s in known if s.endswith(VALUE)]
        raise Refused(f"there is no subject {name}", code="unknown_subject", cure=suggestion(name, [*topics, *known], "subject"))
    subject = versions[0].subject
    topic = mesh.topics.topic(subject.removesuffix(VALUE)) if subject.endswith(VALUE) else None
    return Subject(subject, versions, topic.name if topic else "", topic.key if topic else ())
