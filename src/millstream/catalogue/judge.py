"""The judges of the running mesh: they compile the definition over the new version, ask the rules, and keep what was ruled.

The catalogue's row of a pipeline says which plan is in force: what it accepts changes there first, in one step, and the pipeline's state
follows. A process that ends in between finds at its next start a state of an earlier plan, and carries it over then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from millstream.catalogue.store import AppliedPipeline, Catalogue, held_of
from millstream.catalogue.verdicts import Kept, Ruled
from millstream.engine.gate import Ruling
from millstream.engine.reader import NotAccepted, TopicEnded
from millstream.errors import Refused
from millstream.events import envelope
from millstream.events.types import RowSchema
from millstream.pipelines import impact, reads
from millstream.pipelines.definitions import Evolve, Evolving, Project
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.explain import explain
from millstream.pipelines.impact import Definition
from millstream.pipelines.plan import Input, Plan, SinkPlan, outputs_of
from millstream.pipelines.policy import Policy
from millstream.pipelines.rollout import generation_of
from millstream.pipelines.verdicts import Compiles, Rule, Verdict
from millstream.schemas import turns
from millstream.schemas.registry import Registry
from millstream.topics.contract import Topics
from millstream.topics.incarnations import catalogued


@dataclass(frozen=True)
class Versions:
    """The schema versions of topics, as the registry has them now."""

    topics: Topics
    registry: Registry

    def of(self, topic: str) -> dict[int, RowSchema]:
        """By id, oldest first."""
        there = self.topics.topic(topic)
        key = there.key if there is not None else ()
        return {v.id: envelope.row_schema(v.text, key) for v in self.registry.versions(f"{topic}-value")}

    def order(self, topic: str) -> dict[int, int]:
        """Id → version."""
        return {v.id: v.version for v in self.registry.versions(f"{topic}-value")}


def definition_of(project: Project, catalogue: Catalogue, pipeline: str) -> Definition:
    """What a pipeline, or a generation of a product, was made from; of one that is not applied yet, what the files say.

    Raises StopIteration where it is none of the project's.
    """
    of = generation_of(pipeline)
    if of is None:
        return next(p for p in project.pipelines if p.name == pipeline)
    name, generation = of
    applied = catalogue.products().get(name)
    text = applied.generations.get(generation) if applied else None
    mine = next((p for p in project.products if p.name == name and text in (None, p.text)), None)
    return mine or project.reread(text or "", f"generation {generation} of product {name}")


class PipelineJudge:
    """Judges for one pipeline. `compiles` is its definition, `evolving` what that says."""

    def __init__(
        self, pipeline: str, compiles: Compiles, evolving: Evolving, catalogue: Catalogue, versions: Versions, rules: Sequence[Rule] = ()
    ) -> None:
        self._consumer = f"pipeline.{pipeline}"
        self._compiles, self._evolving, self._catalogue, self._versions, self._rules = compiles, evolving, catalogue, versions, rules

    def accepted(self, topic: str) -> Collection[int]:
        return self._catalogue.verdicts.passed(self._consumer, topic)

    def rule(self, plan: Plan, met: NotAccepted) -> Ruling:
        if isinstance(met, TopicEnded):
            was = next(i for i in plan.inputs if i.topic == met.ended.topic)
            following = replace(was, topic=met.topic, schema=met.schema, schema_id=met.schema_id, held=())
            ruled = impact.rule_of_end(plan, self._compiles, was.topic, following, met.message, self._evolving, self._rules)
        else:
            ruled = impact.rule(plan, self._compiles, met.topic, met.schema, met.schema_id, self._evolving, self._rules)
        return Ruling(ruled.verdict, ruled.following)

    def keep(self, plan: Plan, met: NotAccepted, ruling: Ruling, how: str) -> None:
        kind: Ruled = ruling.verdict.kind
        kept = Kept(self._consumer, met.topic, met.schema_id, met.version, kind, ruling.verdict.reasons, how)
        if ruling.plan is not None:
            self._put_in_force(plan, met, ruling.plan, kept)
        else:
            self._catalogue.verdicts.note(kept)

    def _put_in_force(self, plan: Plan, met: NotAccepted, following: Plan, kept: Kept) -> None:
        """With its verdict: what is in force is met no more, so nothing would tell of it later."""
        applied = self._catalogue.pipelines().get(plan.pipeline)
        now = reads.fingerprint(following)
        if applied is not None and applied.fingerprint == now and applied.inputs.get(met.topic) == met.schema_id:
            self._catalogue.verdicts.note(kept)
            return
        outputs = {topic: self._next_version(topic, schema, applied) for topic, schema in outputs_of(following).items()}
        if applied is None or applied.fingerprint != reads.fingerprint(plan) or not self._moved(applied, now, following, kept, outputs):
            raise Refused(
                "another plan of this pipeline was applied while it ran",
                code="applied_anew",
                where=f"pipeline.{plan.pipeline}",
                cure=f"`millstream resume {plan.pipeline}`, or start `millstream run` again",
            )

    def _next_version(self, topic: str, schema: RowSchema, applied: AppliedPipeline | None) -> int:
        return turns.following(self._versions.registry, topic, schema, applied.outputs.get(topic, 0) if applied else 0).id

    def _moved(self, was: AppliedPipeline, fingerprint: str, plan: Plan, kept: Kept, outputs: Mapping[str, int]) -> bool:
        others = {topic: i for topic, i in was.inputs.items() if catalogued(topic) != catalogued(kept.topic)}  # one incarnation of each
        inputs = {**others, kept.topic: kept.schema_id}
        now = replace(was, fingerprint=fingerprint, definition=explain(plan), inputs=inputs, outputs=outputs, held=held_of(plan))
        return self._catalogue.move_pipeline(was, now, kept)

    def plan_at(self, plan: Plan, accepted: Mapping[str, int], outputs: Mapping[str, int]) -> Plan | None:
        inputs = {}
        for given in plan.inputs:
            schema = self._versions.of(given.topic).get(accepted.get(given.topic, 0))
            if schema is None:
                return None
            inputs[given.topic] = replace(given, schema=schema, schema_id=accepted[given.topic])
        written = {topic: self._versions.of(topic).get(schema_id) for topic, schema_id in outputs.items()}
        try:
            return self._compiles(inputs, {topic: schema for topic, schema in written.items() if schema is not None})
        except InvalidProject:
            return None


class SinkJudge:
    """Judges for one sink. `follows`: the topic is its own pipeline's, which changes only as that wants it, or that follows."""

    def __init__(self, pipeline: Plan, sink: SinkPlan, follows: bool, catalogue: Catalogue, rules: Sequence[Rule] = ()) -> None:
        self._pipeline, self._sink, self._catalogue, self._rules = pipeline, sink, catalogue, rules
        self._evolve: Evolve = "follow" if follows else "pinned"
        self._consumer = f"sink.{sink.name}"

    def accepted(self) -> Collection[int]:
        return self._catalogue.verdicts.passed(self._consumer, self._sink.topic)

    def rule(self, schema: RowSchema, met: NotAccepted) -> Verdict:
        return impact.rule_of_sink(self._pipeline, self._sink, schema, met.schema, self._evolve, self._rules)

    def keep(self, met: NotAccepted, verdict: Verdict) -> None:
        kept = Kept(self._consumer, met.topic, met.schema_id, met.version, verdict.kind, verdict.reasons)
        if verdict.kind == "propagate":
            self._catalogue.verdicts.accept(self._sink.name, met.topic, met.schema_id, kept)
        else:
            self._catalogue.verdicts.note(kept)


@dataclass(frozen=True)
class Judges:
    """The judges of a project's pipelines and sinks."""

    project: Project
    catalogue: Catalogue
    versions: Versions

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The project's own, and its modes."""
        return (Policy(self.project, lambda topic: list(self.versions.of(topic).values())),)

    def of_pipeline(self, plan: Plan) -> PipelineJudge:
        definition = definition_of(self.project, self.catalogue, plan.pipeline)
        others = {s.topic: self._input(plan, s) for s in plan.sinks if s.topic not in outputs_of(plan)}
        products = [p.name for p in self.project.products]
        compiles = impact.compiling(definition, plan, others, lambda t: list(self.versions.of(t).values()), products)
        return PipelineJudge(plan.pipeline, compiles, definition.evolving, self.catalogue, self.versions, self.rules)

    def of_sink(self, plan: Plan, sink: SinkPlan) -> SinkJudge:
        evolve = definition_of(self.project, self.catalogue, plan.pipeline).evolving.whole
        own = sink.topic in outputs_of(plan)
        return SinkJudge(plan, sink, own or evolve == "follow", self.catalogue, self.rules)

    def version(self, plan: Plan, sink: SinkPlan) -> tuple[RowSchema, int]:
        """What a sink reads its topic in, and its id: what it has said itself, or what was applied since. From now on it has said so."""
        applied = self.catalogue.pipelines()[plan.pipeline]
        topic, own = self.catalogue.verdicts.accepted().get(sink.name, ("", 0))
        given = {**applied.inputs, **applied.outputs}[sink.topic]
        order = self.versions.order(sink.topic)
        applied_since = sink.topic in applied.inputs and order[given] > order.get(own, 0)
        reads_in = given if topic != sink.topic or applied_since else own
        if (topic, own) != (sink.topic, reads_in):
            self.catalogue.verdicts.accept(sink.name, sink.topic, reads_in)
        return self.versions.of(sink.topic)[reads_in], reads_in

    def _input(self, plan: Plan, sink: SinkPlan) -> Input:
        schema, schema_id = self.version(plan, sink)
        there = self.versions.topics.topic(sink.topic)
        assert there is not None
        return Input(sink.topic, schema, schema_id, there.grade)
