"""One sink on the local runner: reads its topic, hands batches over, and asks the target where to resume. Invariant 4."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow.compute as pc

from millstream.engine.figures import Freshness
from millstream.engine.gate import Paused, SinkJudge, StrictSink, paused, stopped_by
from millstream.engine.inputs import Endings, has_ended
from millstream.engine.reader import NotAccepted, TopicEnded, TopicReader
from millstream.errors import Irrecoverable, Refused
from millstream.events.batch import READ, Batch, merged
from millstream.events.types import RowSchema
from millstream.faultpoints import reached
from millstream.pipelines.plan import SinkPlan
from millstream.schemas.registry import Registry
from millstream.schemas.rules import Violation
from millstream.sinks.contract import Sink
from millstream.topics.contract import Topics
from millstream.topics.incarnations import catalogued

READ_BYTES = 8 << 20
GATHER_BYTES = 16 << 20
NEW_TARGET = (
    "end `millstream run`, take its target away (a file with its .position, an index's folder, a table) or name another in the pipeline's "
    "file and `millstream apply`, then run again: it is written from the start of the topic"
)


class SinkRun:
    """Runs one sink. `schema` and `schema_id` are the accepted version of its topic. `open`, then `step` for ever."""

    def __init__(
        self,
        plan: SinkPlan,
        schema: RowSchema,
        schema_id: int,
        sink: Sink,
        topics: Topics,
        registry: Registry,
        linger_s: float,
        clock: Callable[[], float] = time.time,
        judge: SinkJudge | None = None,
    ) -> None:
        self.plan, self.name = plan, f"sink.{plan.name}"
        self._schema, self._schema_id = schema, schema_id
        self._sink, self._topics, self._registry, self._clock = sink, topics, registry, clock
        self._linger_s, self._judge = linger_s, judge or StrictSink()
        self._endings = Endings(topics, registry, clock)
        self.reads = (plan.topic,)
        self._gathered: list[Batch] = []
        self._gathered_bytes = 0
        self._flushed_at = 0.0
        self._written: dict[str, int] = {}
        self.events = 0
        self.is_open = False
        self.awaited = False  # the runner's: somebody waits for what is gathered, and for nothing that it might be written with
        self._freshness = Freshness()

    def open(self) -> None:
        """Raise the fence, take the target over, resume where it says. Raises Paused where the target refuses the rows' schema."""
        reached("sink.before_fence")
        fence = self._topics.open_producer(self.name).record.fence
        reached("sink.after_fence")
        self._sink.open(fence)
        try:
            self._sink.accept(self._schema)
        except Refused as e:
            raise stopped_by(self.plan.topic, e) from e
        self._resume()
        self.is_open = True

    def _resume(self) -> None:
        self._written = dict(self._sink.resume_after())
        if self.plan.topic not in self._written and (before := [t for t in self._written if catalogued(t) == catalogued(self.plan.topic)]):
            raise Paused(
                f"paused: the target holds the rows of {before[0]}, which have another key",
                code="paused",
                where=self.plan.topic,
                cure=NEW_TARGET,
            )
        self._gathered, self._gathered_bytes = [], 0
        self._read_from(self._written.get(self.plan.topic, 0))
        self._topics.join(self.name, self.seen)

    def _read_from(self, offset: int) -> None:
        given = (self._topics, self._registry, self.plan.topic, self._schema, self._schema_id, offset)
        self._reader = TopicReader(*given, accepted=self._judge.accepted(), pipeline=self.plan.pipeline)

    def step(self) -> bool:
        """Gather what the topic has, and write it when it is enough, or `linger_s` after the write before: a change that comes alone
        is written at once, and a stream of them in a few large commits. True if anything moved.

        Raises Paused where a version of the topic is not taken: all that lies before it is written (invariant 6)."""
        place = self.seen
        try:
            batches = self._reader.read(READ_BYTES) if self._gathered_bytes < GATHER_BYTES else []
        except NotAccepted as met:
            self.flush()
            self._pass(met)
            return True
        if not batches and (end := self._endings.at(self.plan.topic, self._reader.offset)) is not None:
            self.flush()
            raise paused(end, [_elsewhere(self.plan, end)])
        if batches and self._topics.lost(self.name, place):
            raise Irrecoverable(
                "the topic was compacted further than this sink had read: changes that it has not seen are gone, deletes among them",
                code="place_lost",
                where=f"{self.plan.topic}@{place[self.plan.topic]}",
                cure=NEW_TARGET,
            )
        self._gathered += batches
        self._gathered_bytes += sum(b.nbytes for b in batches)
        due = self._gathered_bytes >= GATHER_BYTES or self._clock() - self._flushed_at >= self._linger_s
        due = due or (self.awaited and not batches)
        if self._gathered and due:
            self.flush()
            return True
        return bool(batches)

    def _pass(self, met: NotAccepted) -> None:
        """Do what is ruled of a version. What is accepted is kept before the target is changed: one that has changed is never asked
        for less, and a process that ends in between changes it at its next opening."""
        verdict = self._judge.rule(self._schema, met)
        self._judge.keep(met, verdict)
        match verdict.kind:
            case "ignore":
                self._reader.accept(met.schema_id)
            case "pause":
                raise paused(met, verdict.reasons)
            case "propagate":
                reached("sink.after_verdict")
                self._schema, self._schema_id = met.schema, met.schema_id
                try:
                    self._sink.accept(met.schema)
                except Refused as e:
                    raise stopped_by(f"{met.topic}@{met.offset}", e) from e
                reached("sink.after_accept")
                self._read_from(self._reader.offset)

    def flush(self) -> None:
        """Write what is gathered, with the position after it in the same commit."""
        if not self._gathered:
            return
        up_to = {self.plan.topic: self._reader.offset}
        reached("sink.before_write")
        batches = merged(b for b in self._gathered if len(b))
        self._sink.write(batches, up_to)
        reached("sink.after_write")
        self.events += sum(map(len, batches))
        for b in batches:
            live = np.asarray(pc.not_equal(b.column("op"), READ))  # a row that a backfill saw is as old as it is
            self._freshness.note(self._clock(), np.asarray(b.column("ts_us"))[live])
        self._gathered, self._gathered_bytes = [], 0
        self._written, self._flushed_at = up_to, self._clock()
        self._topics.note_reader(self.name, up_to)

    @property
    def figures(self) -> dict[str, float]:
        """How long after the commit at the source what was written of late was there to be read or searched."""
        return self._freshness.figures(self._clock())

    def retry(self) -> None:
        """After a Retryable: nothing or all was done; the target says which."""
        self._resume()

    def patience_s(self, idle_s: float) -> float:
        """How long the runner may leave it alone: not past the moment at which what is gathered is due."""
        return min(idle_s, max(0.0, self._flushed_at + self._linger_s - self._clock())) if self._gathered else idle_s

    @property
    def positions(self) -> dict[str, int]:
        """As the target holds them."""
        return dict(self._written)

    @property
    def seen(self) -> dict[str, int]:
        """Up to where it has read: new records lie beyond."""
        return {self.plan.topic: self._reader.offset}

    def caught_up(self, ends: Mapping[str, int]) -> bool:
        return self._written.get(self.plan.topic, 0) >= ends.get(self.plan.topic, 0) and not has_ended(self._topics, self.reads)

    def close(self) -> None:
        self._sink.close()


def _elsewhere(plan: SinkPlan, end: TopicEnded) -> Violation:
    """A target has the topic's key: the next incarnation needs another."""
    resumed = f"`millstream resume {plan.pipeline}`: it is written from the start of the new one"
    cure = f"name another target for it in {plan.pipeline}, then {resumed}"
    return Violation(end.message, end.ended.topic, "the sink writes to its target by its key", cure)
