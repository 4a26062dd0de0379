"""Wanted against actual, and the carrying out of what lies between: the one list of steps that `plan` shows and `apply` does.

Every step is safe to do again: an apply that was killed half way is finished by the next. What runs is not touched
here; the runner reads from the catalogue what it may run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from millstream.catalogue import forbidden, generations
from millstream.catalogue.judge import Versions
from millstream.catalogue.known import Known
from millstream.catalogue.store import AppliedPipeline, AppliedProduct, AppliedSink, AppliedSource, Catalogue, held_of
from millstream.catalogue.verdicts import Kept
from millstream.errors import Refused
from millstream.events import envelope
from millstream.events.origin import DERIVED, Grade, Origin
from millstream.events.types import RowSchema
from millstream.pipelines import descriptions, rollout
from millstream.pipelines.compile import reading
from millstream.pipelines.definitions import Project, SourceDefinition
from millstream.pipelines.descriptions import undescribed
from millstream.pipelines.diagnostics import Diagnostic, InvalidProject
from millstream.pipelines.explain import explain
from millstream.pipelines.plan import Input, Plan
from millstream.pipelines.rollout import Actual, Step, Wanted, generation_of
from millstream.pipelines.searches import match_schema, matches_topic
from millstream.schemas import turns
from millstream.schemas.operations import operations
from millstream.schemas.registry import Registry
from millstream.sources.contract import Source
from millstream.topics.contract import Topic, Topics
from millstream.topics.incarnations import catalogued

Opened = Callable[[str], AbstractContextManager[Source]]


class KeysChange(Refused):
    """A topic that a pipeline writes would get another key."""


@dataclass(frozen=True)
class Change:
    """What a project asks for beside what there is. `steps` is the whole list, in order; empty where nothing is to do. `behind`: what
    is wrong, over the schemas as they are now, with pipelines that stay as they are applied."""

    project: Project
    known: Known
    plans: tuple[Plan, ...]
    wanted: Wanted
    steps: tuple[Step, ...]
    behind: tuple[Diagnostic, ...] = ()

    @property
    def sources_to_check(self) -> list[str]:
        """Sources that begin, or begin anew with other options: their servers must be ready for it."""
        return [s.subject for s in self.steps if s.kind in ("start_connector", "restart_connector")]


def change(project: Project, known: Known, catalogue: Catalogue, *, stay: Callable[[str], bool] = lambda pipeline: False) -> Change:
    """Compile everything and compare. Changes nothing. Pipelines that `stay` read each topic in the version that they have accepted;
    the others as `known` has it. Raises InvalidProject with every mistake, Refused("key_changed")."""
    known = known.of(project)
    actual = _actual(known, catalogue)
    applied = catalogue.pipelines()
    accepted = {name: known.accepted(p.inputs, p.held) for name, p in applied.items() if stay(name)}
    plans, products = generations.compiled(project, known, applied, actual, accepted)
    topics = _wanted_topics(project, known, plans)
    sides = {p.pipeline: _wanted_pipeline(p, reading(known.inputs, accepted, p.pipeline)) for p in plans}
    wanted = Wanted(
        topics=topics,
        descriptions=_descriptions(project, known, topics),
        pipelines={name: _as_accepted(side, actual.pipelines.get(name), known) for name, side in sides.items()},
        connectors={s.name: source_fingerprint(s) for s in project.sources},
        products=products,
    )
    _keys_stay(wanted, known)
    return Change(project, known, plans, wanted, rollout.rollout(wanted, actual))


def change_of_all(project: Project, known: Known, catalogue: Catalogue) -> Change:
    """`change`, in which a pipeline that is applied as its file says, and does not hold over the newest schemas, stays with those that
    it has accepted: its owner has to look at it, and nobody else is kept from applying (invariant 6)."""
    applied, behind = catalogue.pipelines(), dict[str, tuple[Diagnostic, ...]]()
    while True:
        try:
            found = change(project, known, catalogue, stay=behind.__contains__)
        except (InvalidProject, KeysChange) as e:
            broken = _stay(e, project)
            if not broken or not broken.keys() <= applied.keys() - behind.keys():
                raise
            behind |= broken
            cause = e
            continue
        if any(found.wanted.pipelines[name].fingerprint != applied[name].fingerprint for name in behind):
            raise cause
        return replace(found, behind=tuple(d for said in behind.values() for d in said))


def _stay(error: InvalidProject | KeysChange, project: Project) -> dict[str, tuple[Diagnostic, ...]]:
    """The pipelines that it is about, and what is said of each; none where it is about anything else, too."""
    if isinstance(error, KeysChange):
        definition = next((p for p in project.pipelines if error.where.startswith(f"{p.name}.")), None)
        path = f"pipelines.{definition.name}" if definition else ""
        return {definition.name: (definition.mistake(path, error.code, error.message, error.cure),)} if definition else {}
    names = {d.path.split(".")[1] if d.path.startswith("pipelines.") else "" for d in error.diagnostics}
    return {} if "" in names else {n: tuple(d for d in error.diagnostics if d.path.split(".")[1] == n) for n in names}


def concerns(step: Step, pipeline: str) -> bool:
    """Whether a step is about this pipeline, or a topic or sink of it."""
    return step.subject == pipeline or step.subject.startswith(f"{pipeline}.")


def source_fingerprint(source: SourceDefinition) -> str:
    """Differs where the definition does, as written: a new password behind ${NAME} is not a change."""
    derived = f" {source.derived!r}" if source.derived else ""
    return rollout.fingerprint(f"{source.connector} {source.options!r} {source.tables!r}{derived}")


def foreign_topics(plan: Plan) -> list[str]:
    """The topics that the pipeline or a sink of it reads and others write."""
    own = {o.topic for o in plan.outputs}
    return sorted({i.topic for i in plan.inputs} | {s.topic for s in plan.sinks if s.topic not in own})


def _wanted_topics(project: Project, known: Known, plans: tuple[Plan, ...]) -> dict[str, rollout.Topic]:
    said = descriptions.of_topics(project)
    read = {t: known.inputs[t] for s in project.sources for t in s.topics if t in known.inputs}
    sources = {
        i.topic: rollout.Topic(descriptions.described(i.schema, said[t]) if t in known.discovered else i.schema) for t, i in read.items()
    }
    made = {o.topic: rollout.Topic(_schema(p, o.node)) for p in plans for o in p.outputs}
    documents = {of[0]: _schema(p, p.outputs[-1].node) for p in plans if (of := generation_of(p.pipeline))}  # the newest generation's
    searched = {s.product for s in project.searches} & set(documents)
    return sources | made | {matches_topic(p): rollout.Topic(match_schema(documents[p])) for p in sorted(searched)}


def _descriptions(project: Project, known: Known, topics: Mapping[str, rollout.Topic]) -> dict[str, RowSchema]:
    """Of each topic that is there, the version that says what the files say of its columns: of a source's the newest, of another the
    one that its writer has. Only those that are not registered."""
    said = descriptions.of_topics(project)
    read = {t for s in project.sources for t in s.topics}
    there = [t for t in topics if t in known.history]
    names = {t: catalogued(t) for t in there}
    found = {t: descriptions.described(known.history[t][-1], said[n]) if n in read else topics[t].schema for t, n in names.items()}
    return {t: schema for t, schema in found.items() if schema not in known.history[t]}


def _wanted_pipeline(plan: Plan, topics: Mapping[str, Input]) -> rollout.Pipeline:
    """A plan's side, with the topics that only its sinks read: their schemas are accepted too."""
    ids = {i.topic: i.schema_id for i in plan.inputs}
    accepts = {t: ids[t] if t in ids else topics[catalogued(t)].schema_id if catalogued(t) in topics else 0 for t in foreign_topics(plan)}
    return replace(rollout.wanted_pipeline(plan), accepts=accepts)


def _as_accepted(wanted: rollout.Pipeline, now: rollout.Pipeline | None, known: Known) -> rollout.Pipeline:
    """What was accepted stays where a later version only says something else of the columns."""

    def accepted(topic: str, schema_id: int) -> int:
        versions, was = known.versions.get(topic, {}), (now.accepts if now else {}).get(topic, 0)
        same = was in versions and schema_id in versions and undescribed(versions[was].schema) == undescribed(versions[schema_id].schema)
        return was if same else schema_id

    return replace(wanted, accepts={topic: accepted(topic, i) for topic, i in wanted.accepts.items()})


def _actual(known: Known, catalogue: Catalogue) -> Actual:
    return Actual(
        topics=known.topics,
        pipelines={
            p.name: rollout.Pipeline(p.fingerprint, p.inputs, {name: s.fingerprint for name, s in p.sinks.items()})
            for p in catalogue.pipelines().values()
        },
        connectors={s.name: s.fingerprint for s in catalogue.sources().values()},
        products={name: generations.as_applied(p) for name, p in catalogue.products().items()},
    )


def _keys_stay(wanted: Wanted, known: Known) -> None:
    """The key is pinned for the life of a topic: its bytes decide where a record belongs."""
    for name, topic in wanted.topics.items():
        now = known.topics.get(name)
        if now is None:
            continue
        retyped = any(c.in_key and c.changes_type for c in operations(now.schema, topic.schema))
        if now.schema.key != topic.schema.key or retyped:
            raise KeysChange(
                f"the key of a topic cannot change: it is ({_key(now.schema)}), the definition now says ({_key(topic.schema)})",
                code="key_changed",
                where=name,
                cure="give the step another name, which makes a new topic, or put the key back",
            )


def _key(schema: RowSchema) -> str:
    return ", ".join(f"{f.name} {f.type}" for f in schema.key_fields)


def _schema(plan: Plan, node: str) -> RowSchema:
    return next(n.schema for n in plan.nodes if n.name == node)


class Controller:
    """Carries a change out. `opened` opens a source by name; `by` is the command that a person gave."""

    def __init__(self, change: Change, topics: Topics, registry: Registry, catalogue: Catalogue, opened: Opened, by: str = "apply") -> None:
        self._by = by
        self._change, self._project = change, change.project
        self._topics, self._registry, self._catalogue, self._opened = topics, registry, catalogue, opened
        self._plans = {p.pipeline: p for p in change.plans}
        self._pipeline_of_sink = {s.name: p.pipeline for p in change.plans for s in p.sinks}

    def check_sources(self) -> Iterator[str]:
        """Before anything is done: every server that begins is ready, or Refused says what is missing. Gives each name when checked."""
        for name in self._change.sources_to_check:
            with self._opened(name) as source:
                source.check()
            yield name

    def carry_out(self) -> Iterator[Step]:
        """Do the steps in order; gives each when it is done and durable.

        Raises Refused("forbidden"), before anything is done, where a pipeline would accept what a rule forbids it.
        """
        if found := forbidden.of_change(self._change, self._catalogue, Versions(self._topics, self._registry)):
            raise forbidden.refused(found)
        for step in self._change.steps:
            self._do(step)
            yield step

    def _do(self, step: Step) -> None:
        match step.kind:
            case "create_topic":
                self._create_topic(step.subject)
            case "register_schema":
                self._registered(step.subject)
            case "describe_topic":
                described = self._change.wanted.descriptions[step.subject]
                self._registry.register(f"{step.subject}-value", envelope.value_schema(step.subject, described))
            case "raise_incarnation":
                self._topics.raise_incarnation(step.subject)
            case "start_connector" | "restart_connector":
                self._put_source(step.subject)
            case "stop_connector":
                self._catalogue.forget_source(step.subject)
            case "deploy_pipeline" | "rebuild_pipeline" | "accept_schema":
                self._put_pipeline(step.subject)
            case "start_sink" | "restart_sink":
                self._put_sink(step.subject)
            case "stop_sink":
                self._take_sink(step.subject)
                self._topics.leave(f"sink.{step.subject}")
            case "stop_pipeline":
                generations.leave(self._catalogue, self._topics, step.subject)
                self._catalogue.forget_pipeline(step.subject)
            case "build_generation" | "switch_generation":
                self._ask_for_generation(step.subject)
            case "drop_generation":
                generations.drop(self._catalogue, self._topics, step.subject)
            case "stop_product":
                self._catalogue.forget_product(step.subject)

    def _wanted(self, topic: str) -> RowSchema:
        return self._change.wanted.topics[topic].schema

    def _create_topic(self, name: str) -> None:
        schema = self._wanted(name)
        grade, origin = self._nature(name)
        key_id = self._registry.register(f"{name}-key", envelope.key_schema(name, schema)).id
        self._topics.create(Topic(name, schema.key, key_id, grade, origin))

    def _nature(self, name: str) -> tuple[Grade, Origin]:
        """How whole a topic's before images are, and where its events come from."""
        table = self._change.known.discovered.get(name)
        if table is not None:
            return table.grade, table.origin
        product = next((s.product for s in self._project.searches if matches_topic(s.product) == name), None)
        if product is not None:
            return "whole", Origin(DERIVED, product, self._project.mesh.name, None, name.rpartition(".")[2])
        plan, output = next((p, o) for p in self._change.plans for o in p.outputs if o.topic == name)
        return output.grade, Origin(DERIVED, plan.pipeline, self._project.mesh.name, None, output.node)

    def _put_source(self, name: str) -> None:
        source = next(s for s in self._project.sources if s.name == name)
        fingerprint = self._change.wanted.connectors[name]
        self._catalogue.put_source(AppliedSource(name, fingerprint, source.connector, source.owner, source.tables))

    def _ask_for_generation(self, name: str) -> None:
        """The one that the product is to have next, beside what it has."""
        product, _, number = name.partition("@")
        wanted, now = self._change.wanted.products[product], self._catalogue.products().get(product)
        kept = {**(now.generations if now else {}), int(number): wanted.generations[int(number)]}
        row = now or AppliedProduct(product, 0, 0, 0, {})
        self._catalogue.put_product(replace(row, generations=kept, next=wanted.next, applied=wanted.applied))

    def _put_pipeline(self, name: str) -> None:
        """As it is now wanted, with the ids that its schemas have by now, and with the sinks that it has. Where it accepts another version
        than it had, a person has said so, which counts, whatever was ruled of it: it is noted in the same commit."""
        plan, now = self._plans[name], self._catalogue.pipelines().get(name)
        plan = replace(plan, inputs=tuple(replace(i, schema_id=self._id(i.topic)) for i in plan.inputs))
        made = AppliedPipeline(
            name=name,
            fingerprint=self._change.wanted.pipelines[name].fingerprint,
            owner=plan.owner,
            definition=explain(plan),
            inputs={t: self._id(t) for t in foreign_topics(plan)},
            outputs={o.topic: self._id(o.topic) for o in plan.outputs},
            sinks=now.sinks if now else {},
            held=held_of(plan),
        )
        accepts = now is not None and (now.held != made.held or any(now.inputs.get(t) != i for t, i in made.inputs.items()))
        self._catalogue.put_pipeline(made, *(self._accepted(name, made.inputs) if accepts else ()))

    def _accepted(self, name: str, inputs: Mapping[str, int]) -> Iterator[Kept]:
        for topic, schema_id in inputs.items():
            version = {v.id: v.version for v in self._registry.versions(f"{topic}-value")}[schema_id]
            yield Kept(f"pipeline.{name}", topic, schema_id, version, "accept", by=self._by)

    def _id(self, topic: str) -> int:
        """The accepted schema's id: the known one, or where the topic's schema is new, the one that was just registered for it."""
        now, wanted = self._change.known.topics.get(topic), self._change.wanted.topics.get(topic)
        if now is not None and now.schema_id and (wanted is None or undescribed(wanted.schema) == undescribed(now.schema)):
            return now.schema_id
        return self._registered(topic)

    def _registered(self, topic: str) -> int:
        """The id of the wanted schema: of a topic that is there, of a version that comes after the one in force."""
        now = self._change.known.topics.get(topic)
        return turns.following(self._registry, topic, self._wanted(topic), now.schema_id or 0 if now else 0).id

    def _put_sink(self, name: str) -> None:
        pipeline = self._pipeline_of_sink[name]
        sink = next(s for s in self._plans[pipeline].sinks if s.name == name)
        fingerprint = self._change.wanted.pipelines[pipeline].sinks[name]
        applied = self._catalogue.pipelines()[pipeline]
        self._catalogue.put_pipeline(replace(applied, sinks={**applied.sinks, name: AppliedSink(sink.topic, fingerprint)}))

    def _take_sink(self, name: str) -> None:
        for applied in self._catalogue.pipelines().values():
            if name in applied.sinks:
                left = {n: s for n, s in applied.sinks.items() if n != name}
                self._catalogue.put_pipeline(replace(applied, sinks=left))


def published(pipelines: Mapping[str, AppliedPipeline]) -> dict[str, int]:
    """Output topic → the id of the schema that it was last applied with. It need not be the newest: a change that was cut off may have
    registered a later one."""
    return {topic: schema_id for p in pipelines.values() for topic, schema_id in p.outputs.items()}


def accepted(pipelines: Mapping[str, AppliedPipeline]) -> dict[str, int]:
    """Topic → the schema id that the applied pipelines have accepted (invariant 6). An older generation of a product may have
    accepted an earlier version than the others, and keeps it."""
    oldest_first = sorted(pipelines.values(), key=lambda p: (generation_of(p.name) is None, generation_of(p.name) or ("", 0)))
    return {topic: schema_id for p in oldest_first for topic, schema_id in p.inputs.items()} | published(pipelines)
