"""What topics there are, as the compiler and the rollout want to know them: from topics and registry, or from a discovery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from millstream.errors import Irrecoverable
from millstream.events import envelope
from millstream.events.types import RowSchema
from millstream.pipelines import rollout
from millstream.pipelines.atsource import askable
from millstream.pipelines.compile import past
from millstream.pipelines.definitions import Project, SourceDefinition
from millstream.pipelines.plan import Held, Input
from millstream.schemas.registry import Registry
from millstream.sources.contract import Table
from millstream.topics.contract import Topics
from millstream.topics.incarnations import catalogued, newest


@dataclass(frozen=True)
class Known:
    """`inputs` for the compiler, by the names that definitions use: of a topic with several incarnations the newest. The rest is by topic:
    `history` the schema versions of each topic, oldest first, `topics` what really exists, as it is in force;
    `discovered` the tables, by topic, that are not topics yet; `versions` each topic in each of its registered schemas, by id."""

    inputs: Mapping[str, Input]
    history: Mapping[str, Sequence[RowSchema]]
    topics: Mapping[str, rollout.Topic]
    discovered: Mapping[str, Table] = field(default_factory=dict)
    versions: Mapping[str, Mapping[int, Input]] = field(default_factory=dict)

    @property
    def past(self) -> dict[str, list[RowSchema]]:
        """`history` as the compiler wants it: up to the version in force, which need not be the newest."""
        return {topic: past(versions, self.topics[topic].schema) for topic, versions in self.history.items()}

    def of(self, project: Project) -> Known:
        """Without the topics that nothing in the project writes any more: they stay, but a new reader of one is a mistake."""
        written = {t for s in project.sources for t in s.topics}
        writers = {p.name for p in project.pipelines} | {p.name for p in project.products}
        heads = {t: t.partition(".")[0].partition("@")[0] for t in self.inputs}
        inputs = {t: i for t, i in self.inputs.items() if t in written or heads[t] in writers}
        return replace(self, inputs=askable(project, inputs))

    def accepted(self, ids: Mapping[str, int], held: Mapping[str, Mapping[str, int]] = MappingProxyType({})) -> dict[str, Input]:
        """The topics of `ids`, by the names that definitions use, each in the schema of that id, and with the steps that are `held` to an
        earlier one (step → topic → id); one that the registry does not know is left out."""
        found = {t: self.versions[t][i] for t, i in ids.items() if i in self.versions.get(t, {})}
        for topic, given in found.items():
            versions = self.versions[topic]
            steps = sorted((step, topics[topic]) for step, topics in held.items() if topics.get(topic) in versions)
            found[topic] = replace(given, held=tuple(Held(step, versions[i].schema, i) for step, i in steps))
        return {catalogued(t): given for t, given in found.items()}

    @property
    def by_names(self) -> dict[str, Input]:
        """`inputs`, each called as definitions call it: for those who show and try, and read no topic."""
        return {name: replace(i, topic=name) for name, i in self.inputs.items()}

    def missing(self, definition: SourceDefinition) -> list[str]:
        """The topics of a source whose columns are not known."""
        return [t for t in definition.topics if t not in self.inputs]

    def and_discovered(self, source: str, tables: Iterable[Table]) -> Known:
        """With the tables of a source that are not topics yet; of those that are, the registry knows better than the present
        moment of the server: its order of versions is the stream's."""
        found = {f"{source}.{t.name}": t for t in tables}
        fresh = {name: table for name, table in found.items() if name not in self.inputs}
        inputs = {name: Input(name, table.schema, 0, table.grade) for name, table in fresh.items()}
        return replace(self, inputs={**self.inputs, **inputs}, discovered={**self.discovered, **fresh})


def known(topics: Topics, registry: Registry, accepted: Mapping[str, int] | None = None) -> Known:
    """Every topic that has a registered schema: in its newest version, or in the one that `accepted` names by its id."""
    inputs: dict[str, Input] = {}
    history: dict[str, list[RowSchema]] = {}
    by_id: dict[str, dict[int, Input]] = {}
    for topic in topics.topics():
        versions = registry.versions(f"{topic.name}-value")
        if not versions:
            continue  # made by an apply that did not come further: it is done again
        schemas = {v.id: envelope.row_schema(v.text, topic.key) for v in versions}
        history[topic.name] = list(schemas.values())
        chosen = (accepted or {}).get(topic.name, versions[-1].id)
        if chosen not in schemas:
            raise Irrecoverable(
                f"the catalogue has accepted schema {chosen}, which the registry does not know as one of this topic",
                code="catalogue_differs",
                where=topic.name,
                cure="catalogue and topics are not of one mesh, or one was restored alone: put both back from the same moment",
            )
        by_id[topic.name] = {i: Input(topic.name, schema, i, topic.grade) for i, schema in schemas.items()}
        inputs[topic.name] = by_id[topic.name][chosen]
    there = {name: rollout.Topic(i.schema, i.schema_id) for name, i in inputs.items()}
    return Known({name: inputs[topic] for name, topic in newest(inputs).items()}, history, there, versions=by_id)
