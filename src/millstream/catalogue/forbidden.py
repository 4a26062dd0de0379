"""What a person may not accept: a version of a schema that the project's rules or modes forbid to a pipeline as its files are now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from millstream.catalogue.judge import Versions, definition_of
from millstream.catalogue.known import Known
from millstream.catalogue.store import Catalogue
from millstream.errors import Refused
from millstream.events.types import RowSchema
from millstream.pipelines.definitions import Project
from millstream.pipelines.impact import consumer
from millstream.pipelines.plan import Plan, outputs_of
from millstream.pipelines.policy import Policy
from millstream.pipelines.rollout import Step
from millstream.pipelines.verdicts import Use, of_sink, uses
from millstream.schemas.rules import Violation
from millstream.topics.incarnations import catalogued


@dataclass(frozen=True)
class Forbidden:
    """Why `consumer`, whose owner is named, may not take the version."""

    consumer: str
    owner: str
    violation: Violation

    def __str__(self) -> str:
        return f"{self.consumer} ({self.owner}): {self.violation}\n  cure: {self.violation.cure}"


class Change(Protocol):
    """As the controller has it."""

    @property
    def project(self) -> Project: ...
    @property
    def known(self) -> Known: ...
    @property
    def plans(self) -> Sequence[Plan]: ...
    @property
    def steps(self) -> Sequence[Step]: ...


def of_change(change: Change, catalogue: Catalogue, versions: Versions) -> list[Forbidden]:
    """Of the pipelines that its steps let accept another version of what they read. The owner's edit counts: asked is what the new
    plans use."""
    accepting = {s.subject for s in change.steps if s.kind == "accept_schema"}
    applied = catalogue.pipelines()
    policy = Policy(change.project, lambda topic: list(versions.of(topic).values()))
    found = []
    for plan in change.plans:
        if plan.pipeline not in accepting or plan.pipeline not in applied:
            continue
        now = applied[plan.pipeline]
        was = {topic: versions.of(topic) for topic in now.inputs}
        for use, new in _uses(change.project, change.known, plan, catalogue):
            old = was.get(use.topic, {}).get(now.held.get(use.part, now.inputs).get(use.topic, now.inputs.get(use.topic, 0)))
            if old is not None and old != new:
                found += [Forbidden(f"{plan.pipeline}.{use.part}", plan.owner, v) for v in policy(use, old, new)]
    return found


def _uses(project: Project, known: Known, plan: Plan, catalogue: Catalogue) -> Iterator[tuple[Use, RowSchema]]:
    """What the plan uses of each topic of others, and that topic's schema that it would read."""
    products = [p.name for p in project.products]
    definition = definition_of(project, catalogue, plan.pipeline)
    made = consumer(plan, definition, known.inputs, lambda topic: known.history.get(topic, ()), products)
    reads = {i.topic: i.schema for i in plan.inputs}
    for use in uses(plan, made.compiles):
        yield use, reads[use.topic]
    own = outputs_of(plan)
    for sink in plan.sinks:
        if sink.topic not in own and catalogued(sink.topic) in known.inputs:
            schema = known.inputs[catalogued(sink.topic)].schema
            yield of_sink(plan.pipeline, plan.owner, sink.name, sink.topic, schema.key), schema


def refused(found: list[Forbidden]) -> Refused:
    """What is said to who would accept it."""
    others = f", and {len(found) - 1} more" if len(found) > 1 else ""
    first = found[0]
    return Refused(
        f"a rule forbids what would be accepted: {first.violation}{others}",
        code="forbidden",
        where=first.consumer,
        cure=f"{first.violation.cure}; `millstream plan` names all of them",
    )
