"""`millstream schemas impact`: what a change of a table would do, asked before it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from millstream.catalogue.controller import change as change_of
from millstream.catalogue.judge import definition_of
from millstream.catalogue.known import Known
from millstream.cli import discover
from millstream.cli.asked import asked
from millstream.cli.exits import OK, PAUSED
from millstream.cli.mesh import Mesh
from millstream.cli.output import counted
from millstream.cli.schemadiff import operation_document
from millstream.cli.session import Here, Session
from millstream.errors import Refused
from millstream.events.types import RowSchema
from millstream.pipelines.definitions import Project
from millstream.pipelines.impact import Affected, Consumer, Impact, consumer
from millstream.pipelines.impact import impact as impact_of
from millstream.pipelines.plan import Plan, outputs_of
from millstream.pipelines.policy import Policy
from millstream.pipelines.rollout import generation_of
from millstream.pipelines.sql.mistakes import suggestion
from millstream.schemas.rules import Mode


def impact(topic: str, change: str, /, *, session: Here) -> int:
    """Show what a change of a table would do: every step, sink, topic and product that it reaches, and who would pause.

    The very functions are asked that decide when the change comes. Nothing is changed. Ends with 4 if anything would pause.

    Example: `millstream schemas impact shop.public.customer "ALTER TABLE customer DROP COLUMN city"`

    Example: `millstream schemas impact shop.public.customer migrations/0042.sql` reads the statements from a file

    Example: `millstream schemas impact shop.public.customer customer.avsc` takes an Avro schema of what the rows will be

    Parameters
    ----------
    topic
        SOURCE.SCHEMA.TABLE, or the topic of a pipeline's step.
    change
        ALTER TABLE …, as Postgres takes it; or a file with that, with an Avro schema (of the topic's events, or of its rows), or with
        what `millstream schemas diff --json` gave.
    """
    with session.mesh() as mesh:
        asking = Asking.of(mesh)
    named, topic = topic, asking.there.inputs[topic].topic if topic in asking.there.inputs else topic
    now = asking.now(topic)
    new = asked(change, named, now, asking.history(topic), session.folder)
    found = asking.impact(topic, now, new)
    _say(session, topic, found)
    session.output.document(_document(topic, found))
    return PAUSED if found.pauses else OK


@dataclass(frozen=True)
class Asking:
    """The topics as they are, and all that reads them."""

    project: Project
    there: Known
    plans: Sequence[Plan]
    consumers: Sequence[Consumer]

    @classmethod
    def of(cls, mesh: Mesh) -> Asking:
        project, there = mesh.project, _known(mesh)
        plans = change_of(project, there, mesh.catalogue, stay=lambda pipeline: True).plans  # as they run
        products, accepted = [p.name for p in project.products], mesh.catalogue.verdicts.accepted()

        def made(plan: Plan) -> Consumer:
            definition = definition_of(project, mesh.catalogue, plan.pipeline)
            sunk = dict(accepted[s.name] for s in plan.sinks if s.name in accepted)
            return consumer(plan, definition, {**there.inputs, **there.accepted(sunk)}, lambda t: there.history.get(t, ()), products)

        return cls(project, there, plans, [made(p) for p in plans])

    def history(self, topic: str) -> Sequence[RowSchema]:
        return self.there.history.get(topic, ())

    def now(self, topic: str) -> RowSchema:
        return _now(self.there, self.plans, topic)

    def impact(self, topic: str, now: RowSchema, new: RowSchema, mode: Mode | None = None) -> Impact:
        """`mode`: what is asked for in place of those that the files name."""
        return impact_of(self.consumers, topic, now, new, (Policy(self.project, self.history, mode),))


def _known(mesh: Mesh) -> Known:
    """The topics in the versions that are accepted; tables that are none yet as their servers have them."""
    there = discover.applied(mesh)
    missing = [s.name for s in mesh.project.sources if there.missing(s)]
    return discover.discovered(mesh) if missing else there


def _now(there: Known, plans: Sequence[Plan], topic: str) -> RowSchema:
    """What the topic's rows are now: its newest version, which not everybody may have accepted; before it has one, what it will be."""
    if versions := there.history.get(topic):
        return versions[-1]
    found = {t: i.schema for t, i in there.inputs.items()} | {t: schema for p in plans for t, schema in outputs_of(p).items()}
    if topic not in found:
        raise Refused(f"there is no topic {topic}", code="unknown_topic", cure=suggestion(topic, found, "topics"))
    return found[topic]


# ---- what is said ---------------------------------------------------------------------------------------------------------
def _say(session: Session, topic: str, found: Impact) -> None:
    out = session.output
    if not found.topics[topic]:
        out.say(f"{topic} stays as it is: nothing that rows have would change")
        return
    for name, operations in found.topics.items():
        out.say(f"{name}: {'; '.join(map(str, operations))}", "bold" if name == topic else "")
    out.say()
    rows = [(_called(a), a.owner, a.part, a.topic, _verdict(a)) for a in found.affected]
    out.table(("pipeline", "owner", "step or sink", "reads", "verdict"), rows, "nobody reads it")
    for a in found.affected:
        for reason in a.verdict.reasons:
            out.say(f"\n{_called(a)}.{a.part} would pause: {reason}", "bold")
            out.say(f"  cure: {reason.cure}")
    for pipeline, behind in found.waiting.items():
        out.say(f"\n{pipeline} would go on, and get nothing new while {behind} is paused", "yellow")
    paused = {a.pipeline: a.owner for a in found.affected if a.verdict.kind == "pause"}
    owners = ", ".join(sorted(set(paused.values())))
    out.say(f"\n{counted(len(paused), 'pipeline')} would pause: ask {owners} first" if paused else "\nnobody would pause")


def _called(affected: Affected) -> str:
    of = generation_of(affected.pipeline)
    return f"product {of[0]}, generation {of[1]}" if of else affected.pipeline


def _verdict(affected: Affected) -> str:
    return {"ignore": "goes on", "propagate": "takes it over", "pause": "pauses"}[affected.verdict.kind]


def _document(topic: str, found: Impact) -> dict[str, Any]:
    return {
        "topic": topic,
        "pauses": found.pauses,
        "topics": {name: [operation_document(o) for o in operations] for name, operations in found.topics.items()},
        "affected": [
            {
                "pipeline": a.pipeline,
                "owner": a.owner,
                "part": a.part,
                "topic": a.topic,
                "verdict": a.verdict.kind,
                "operations": [str(o) for o in a.operations],
                "reasons": [vars(r) for r in a.verdict.reasons],
            }
            for a in found.affected
        ],
        "waiting": dict(found.waiting),
    }
