"""The gate before every consumer: what it does at the first event of a schema version that it has not accepted. Design §5.3.

The part commits all that lies before, asks its judge, and goes on (ignore), takes the next plan (propagate) or stops with its
positions (pause). How a verdict is found, and where it is kept, is the judge's: the engine knows no catalogue and no files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from millstream.engine.reader import NotAccepted, TopicEnded
from millstream.errors import Refused
from millstream.events.types import RowSchema
from millstream.pipelines.plan import Plan
from millstream.pipelines.verdicts import Verdict
from millstream.schemas.rules import Violation


class Paused(Refused):
    """The part stops here with its positions, until a person resumes it; everybody else runs on (invariant 6)."""


@dataclass(frozen=True)
class Ruling:
    """The verdict on one version. `plan`: the one to take, of propagate."""

    verdict: Verdict
    plan: Plan | None = None


class Judge(Protocol):
    """Judges for one pipeline. All calls may raise Retryable; they come from the pipeline's thread."""

    def accepted(self, topic: str) -> Collection[int]:
        """Ids of versions that the pipeline goes on over without another plan, as was ruled earlier."""

    def rule(self, plan: Plan, met: NotAccepted) -> Ruling:
        """What becomes of the pipeline, whose plan in force is `plan`. Changes nothing."""

    def keep(self, plan: Plan, met: NotAccepted, ruling: Ruling, how: str) -> None:
        """Keep the verdict, durably; of propagate, the ruling's plan is in force from now on, whatever happens to this process. `how` says
        what is done with the rows that there are. Raises Refused("applied_anew") where another plan was applied meanwhile."""

    def plan_at(self, plan: Plan, accepted: Mapping[str, int], outputs: Mapping[str, int]) -> Plan | None:
        """The same definition over its inputs, and with its outputs, in these versions (topic → schema id); None where it has none."""


class SinkJudge(Protocol):
    """Judges for one sink."""

    def accepted(self) -> Collection[int]:
        """Ids of versions that the sink goes on over without a change of its target."""

    def rule(self, schema: RowSchema, met: NotAccepted) -> Verdict:
        """What becomes of the sink, which reads in `schema`. Changes nothing."""

    def keep(self, met: NotAccepted, verdict: Verdict) -> None:
        """Keep the verdict, durably; of propagate, the version is what the sink reads in from now on."""


class Strict:
    """A judge for those who have none: no later version is taken."""

    def accepted(self, topic: str = "") -> Collection[int]:
        return ()

    def rule(self, plan: Plan, met: NotAccepted) -> Ruling:
        return Ruling(refused(met))

    def keep(self, plan: Plan, met: NotAccepted, ruling: Ruling, how: str) -> None:
        """Nothing is kept."""

    def plan_at(self, plan: Plan, accepted: Mapping[str, int], outputs: Mapping[str, int]) -> Plan | None:
        return None


class StrictSink:
    """The same, for a sink."""

    def accepted(self) -> Collection[int]:
        return ()

    def rule(self, schema: RowSchema, met: NotAccepted) -> Verdict:
        return refused(met)

    def keep(self, met: NotAccepted, verdict: Verdict) -> None:
        """Nothing is kept."""


def refused(met: NotAccepted) -> Verdict:
    return Verdict("pause", (Violation(met.message, met.topic, "nothing says that it may be taken", met.cure),))


def paused(met: NotAccepted, reasons: Sequence[Violation]) -> Paused:
    """What the part says of itself: every reason with its place, and every cure once."""
    said = "; ".join(map(str, reasons))
    cure = "; ".join(dict.fromkeys(r.cure for r in reasons if r.cure))
    if isinstance(met, TopicEnded):
        return Paused(f"paused at the end of a topic: {said}", code="paused", where=met.where, cure=cure)
    return Paused(f"paused before version {met.version} of its schema: {said}", code="paused", where=f"{met.topic}@{met.offset}", cure=cure)


def stopped_by(where: str, error: Refused) -> Paused:
    """A target that refuses the schema of what would come."""
    return Paused(
        f"paused: the target does not take the schema: {error.message} [{error.code}]", code="paused", where=where, cure=error.cure
    )


class Gate:
    """What stands before one pipeline: the versions that its readers have met, and whether one of them stops it."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self._met: dict[str, NotAccepted] = {}
        self.paused: Paused | None = None
        self._passed: dict[str, set[int]] = {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """What a commit says was passed over, and no more; nothing is met."""
        self._met, self.paused = {}, None
        self._passed = {topic: set(ids) for topic, ids in state.get("passed", {}).items()}

    def begin_anew(self, topics: Iterable[str]) -> None:
        """All is read again: over what was ruled."""
        self._met, self.paused = {}, None
        self._passed = {t: ids for t in topics if (ids := set(self.judge.accepted(t)))}

    def state(self) -> dict[str, Any]:
        return {"passed": {topic: sorted(ids) for topic, ids in self._passed.items()}}

    def accepted(self, topic: str) -> set[int]:
        """Ids of versions that its reader goes on over."""
        return {*self.judge.accepted(topic), *self._passed.get(topic, ())}

    @property
    def passed(self) -> list[str]:
        """Topics of which events of later versions than the plan's were read."""
        return sorted(self._passed)

    def meet(self, met: NotAccepted) -> None:
        self._met[met.topic] = met

    def waits(self) -> bool:
        """A version waits for a verdict. All that lies before it must be committed when `rule` is called."""
        return bool(self._met) and self.paused is None

    def rule(self, plan: Plan) -> tuple[NotAccepted, Ruling]:
        """On one that was met. Where it pauses, `paused` says so from now on; of the others nothing is asked then."""
        met = next(iter(self._met.values()))
        ruling = self.judge.rule(plan, met)
        if ruling.verdict.kind == "pause":
            self.judge.keep(plan, met, ruling, "")
            self.paused = paused(met, ruling.verdict.reasons)
        return met, ruling

    def ignore(self, plan: Plan, met: NotAccepted, ruling: Ruling) -> None:
        self.judge.keep(plan, met, ruling, "")
        self._passed.setdefault(met.topic, set()).add(met.schema_id)
        del self._met[met.topic]

    def propagate(self, plan: Plan, met: NotAccepted, ruling: Ruling, how: str) -> None:
        """The ruling's plan is in force from now on."""
        self.judge.keep(plan, met, ruling, how)
        del self._met[met.topic]

    def taken(self, topic: str) -> None:
        """The plan reads the topic in a version that knows all columns that were passed over."""
        self._passed.pop(topic, None)
