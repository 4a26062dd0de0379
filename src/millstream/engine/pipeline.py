"""One pipeline on the local runner. Design §5.5, step by step:

lock the state, raise the fence → if the state is older than what is published, rebuild → publish what the outbox holds above
the published sequence → read, compute → one state transaction (copies, pending keys, last outputs, positions, outbox) →
publish → trim the outbox. A pipeline without stateful steps keeps no state: its positions are in what it publishes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb

from millstream.engine.build import READ_BYTES, Waits
from millstream.engine.carry import carry
from millstream.engine.completeness import Completeness
from millstream.engine.figures import Rate, Work
from millstream.engine.gate import Gate, Judge, Ruling, Strict
from millstream.engine.graph import Graph
from millstream.engine.guard import Guard
from millstream.engine.inputs import Inputs, has_ended
from millstream.engine.publisher import Commit, Publisher
from millstream.engine.reader import NotAccepted
from millstream.engine.rebuild import Rebuild
from millstream.engine.remote import Sources
from millstream.engine.requests import Requests
from millstream.engine.resend import Resends
from millstream.engine.sql import Sql
from millstream.engine.state import Meta, State, passing
from millstream.engine.store import Store
from millstream.errors import Irrecoverable, Refused
from millstream.events.batch import Batch
from millstream.faultpoints import reached
from millstream.pipelines.plan import Plan, outputs_of
from millstream.pipelines.reads import fingerprint
from millstream.schemas.registry import Registry
from millstream.topics.contract import Topics

log = logging.getLogger("millstream.pipeline")

PROGRESS_EVERY_S = 1.0


class Pipeline:
    """Runs one plan. `open`, then `step` for ever. Not thread-safe."""

    def __init__(
        self,
        plan: Plan,
        topics: Topics,
        registry: Registry,
        state_path: Path,
        memory_mib: int = 1024,
        clock: Callable[[], float] = time.time,
        guard: Callable[[str], Guard] | None = None,
        requests: Requests | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.plan, self.name = plan, f"pipeline.{plan.pipeline}"
        self._topics, self._registry, self._path, self._memory_mib, self._clock = topics, registry, state_path, memory_mib, clock
        self.tick: Callable[[str, int, int], None] = lambda what, done, total: None  # the runner's: shows progress, raises Stopped
        self.waits: Waits = lambda why: None  # the runner's: shows why a build is held up
        self.reads = tuple(i.topic for i in plan.inputs)
        self._sources = Sources(guard, topics, lambda: self._complete.applied) if guard is not None else None
        self._resends = Resends(plan, topics, requests, state_path.with_suffix(".resend"), clock, lambda *done: self.tick(*done))
        self._gate = Gate(judge or Strict())
        self._inputs = Inputs(topics, registry, self._gate, clock)
        self._complete = Completeness(topics, self.reads, self._inputs.offset)
        self._rebuilt: dict[str, Any] = {}  # when it last was because it had lost its place, and in which topics
        self._settled: dict[str, Any] = {}  # where inputs and outputs were when last nothing was left to compute
        self._fingerprint = fingerprint(plan)
        self._sql = Sql()
        self._state: State | None = None
        self._built = False
        self._committed: dict[str, int] = {}
        self._ready = False
        self._progressed_at = 0.0
        self.events = 0
        self._drained = Rate()
        self._work = Work(clock())
        self.pending = 0  # keys that wait to be refreshed, as of the last commit; read by other threads

    # ---- opening

    def open(self) -> None:
        """Lock the state and raise the fence; settle what the last run left. Raises Refused("state_in_use"), Irrecoverable."""
        if self.plan.stateful:
            # The lock comes before the fence: a second run must not fence the first off.
            self._state = State(Store(self._path, memory_mib=self._memory_mib))
        try:
            self._publisher = Publisher(self.name, outputs_of(self.plan), self._topics, self._registry)
            self._graph = Graph(self.plan, self._sql, self._state, self._sources)
            self._read_from(self._settled_positions())
            self._topics.join(self.name, self.positions)
        except BaseException:
            if self._state is not None:  # a second try opens it anew
                self._state.store.close()
            raise

    def _settled_positions(self) -> Mapping[str, int]:
        """Where to read on, after publishing what the outbox holds, and carrying what an earlier plan has computed over to this one
        where that can be; sets `_built`."""
        published = self._publisher.state
        if self._state is None:
            fresh = self._publisher.sequence == 0
            self._restore(published)
            same = fresh or published.get("fingerprint") == self._fingerprint
            was = None if same else self._before(published, published.get("fingerprint"))
            self._built = same or (was is not None and self._carry(was, {}))
            return dict(published.get("positions", {}))
        meta = self._state.meta()
        same = meta is not None and meta.fingerprint == self._fingerprint
        was = None if meta is None or same else self._before(meta.state, meta.fingerprint)
        if meta is None or meta.sequence < self._publisher.whole_from or not (same or was):
            self._built = False
            self._resends.restore(published)
            return {}
        if meta.sequence > self._publisher.sequence + 1:
            raise Irrecoverable(
                f"the state has computed commit {meta.sequence}, but the topics end at {self._publisher.sequence}: they were restored",
                code="topics_restored",
                where=self.name,
                cure=f"delete {self._path} to rebuild the pipeline from the topics as they are now",
            )
        if meta.sequence == self._publisher.sequence + 1:
            blocks = self._state.outbox(self._publisher.sequence).get(meta.sequence, ())
            self._publisher.publish(Commit(meta.sequence, blocks, meta.state))
        self._restore(meta.state)
        self._built = was is None or self._carry(was, meta.state["positions"])
        self.pending = self._graph.pending if self._built else 0
        return dict(meta.state["positions"]) if self._built else {}

    def _before(self, state: Mapping[str, Any], made_by: str | None) -> Plan | None:
        """The plan that made `state`, where it is this one over other versions of its inputs: the process ended between a verdict
        and what follows from it, or a person has accepted them."""
        was = self._gate.judge.plan_at(self.plan, state.get("accepted", {}), state.get("outputs", {}))
        return was if was is not None and fingerprint(was) == made_by else None

    def _carry(self, was: Plan, positions: Mapping[str, int]) -> bool:
        """Make what `was` has computed what this plan would have, in a commit of its own; False where only a rebuild does that."""
        found = carry(was, self.plan, self._gate.passed)
        log.info("%s takes its next plan, %s", self.name, found)
        if found.way == "in place":
            self._read_from(positions)
            commit = self._said(lambda: self._graph.grow(int(self._clock() * 1e6)))
            reached("pipeline.after_carried")
            self._publisher.publish(commit)
            self.pending = self._graph.pending
        return found.way != "rebuild"

    def _restore(self, state: Mapping[str, Any]) -> None:
        """What was said of completeness still holds."""
        self._complete.restore(state)
        self._gate.restore(state)
        self._rebuilt = dict(state.get("rebuilt", {}))
        self._ready = any(state.get("ready", {}).values())
        self._settled = dict(state.get("settled", {}))
        self._work.restore(state.get("work", {}), self._graph)
        self._resends.restore(state)

    def _read_from(self, positions: Mapping[str, int]) -> None:
        self._inputs.read_from(self.plan, positions)
        self._committed = self.positions

    @property
    def positions(self) -> dict[str, int]:
        return self._inputs.positions

    seen = positions
    """Up to where it has read: new records lie beyond."""

    @property
    def is_built(self) -> bool:
        """Whether its state is whole: all that its topics held when it was built is in it."""
        return self._built

    @property
    def settled(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """The last moment at which no key waited: where its inputs were, and where its outputs ended. Read by other threads."""
        at = self._settled
        return at.get("positions", {}), at.get("ends", {})

    def caught_up(self, ends: Mapping[str, int]) -> bool:
        """Everything below `ends` is read, computed and published, no key waits, and nothing that was asked for is left."""
        read = all(self._committed.get(t, 0) >= ends.get(t, 0) for t in self.reads)
        return self._built and self._resends.idle and read and not self.pending and not has_ended(self._topics, self.reads)

    @property
    def figures(self) -> dict[str, Any]:
        """Of its stateful steps: keys that wait, how many are refreshed a second, and when none waits at that rate; keys that
        changes have made wait and rows emitted for them; how well each source is that it asks."""
        asked = {"sources": told} if self._sources is not None and (told := self._sources.told) else {}
        if not self.plan.stateful or not self._built:
            return asked
        return {"pending": self.pending, **self._drained.left(self.pending), **self._work.figures(self._graph), **asked}

    # ---- the loop

    def step(self) -> bool:
        """One round: True if anything was read, refreshed, built or judged. Raises Paused where a version of an input is not taken."""
        if not self._built:
            return self._build()
        if self._gate.waits():  # all that lies before it is committed
            self._pass()
            return True
        places = self.positions
        read = self._inputs.read(READ_BYTES) if self._gate.paused is None else {}
        if read and (lost := self._topics.lost(self.name, {topic: places[topic] for topic in read})):
            # Design §5.2: what it missed it finds by reading all anew; what is published and not met again is deleted.
            log.warning("%s lost its place in %s, which was compacted further than it had read: it is rebuilt", self.name, ", ".join(lost))
            self._built = False
            return True
        if read or self.pending:
            self._compute(read)
            self._do_request()
            return True
        if self._do_request():
            return True
        if self._gate.paused is not None:
            raise self._gate.paused
        if self._gate.waits():
            return True
        self._committed = self.positions  # all that was read is; what was passed over, addressed to others, needs no commit
        self._publish_progress()
        return False

    def retry(self) -> None:
        """After a Retryable: from the committed positions. The fence is not raised again."""
        self._read_from(self._settled_positions())

    # ---- schemas that change

    def _pass(self) -> None:
        """Do what is ruled of a version that was met: design §5.3. Where it pauses, `step` goes on to work off what was read."""
        met, ruling = self._gate.rule(self.plan)
        match ruling.verdict.kind:
            case "ignore":
                self._gate.ignore(self.plan, met, ruling)
                self._inputs.readers[met.topic].accept(met.schema_id)
            case "propagate":
                assert ruling.plan is not None
                self._take(met, ruling, ruling.plan)

    def _take(self, met: NotAccepted, ruling: Ruling, plan: Plan) -> None:
        """The next plan, at a commit. From the verdict on it is in force: a process that ends after that finds so at its next opening."""
        was, positions = self.plan, self.positions
        found = carry(was, plan, self._gate.passed)
        reached("pipeline.before_propagate")
        self._publisher.register(outputs_of(plan))
        reached("pipeline.after_register")
        self._gate.propagate(was, met, ruling, str(found))
        reached("pipeline.after_verdict")
        work = self._work.state(self._graph)
        self._publisher.follow(outputs_of(plan))
        self.plan, self._fingerprint, self.reads = plan, fingerprint(plan), tuple(i.topic for i in plan.inputs)
        self._complete.follow(self.reads)
        self._graph = Graph(plan, self._sql, self._state, self._sources)
        self._work.restore(work, self._graph)
        self._resends.follow(plan)
        self._built = self._carry(was, positions)
        self._gate.taken(met.topic)
        self._read_from(positions)
        reached("pipeline.after_propagate")

    def _compute(self, read: Mapping[str, list[Batch]]) -> None:
        sequence = self._publisher.sequence + 1
        for topic, batches in read.items():
            self._complete.see(topic, batches)
        if self._state is None:
            commit = self._output(self._graph.advance(read, sequence, self._complete.applied), sequence)
            self._publisher.publish(commit)
        else:
            with self._state.transaction():
                commit = self._output(self._graph.advance(read, sequence, self._complete.applied), sequence)
                self._keep(commit)
                reached("pipeline.before_state")
            reached("pipeline.after_state")
            if commit.blocks:
                self._publisher.publish(commit)
        self.events += sum(map(len, commit.tail))
        self.pending = self._graph.pending
        self._drained.note(self._clock(), self._graph.refreshed)
        self._committed = self.positions
        self._settle()
        self._resends.committed(commit.tail)
        self._note()

    def _do_request(self) -> bool:
        """A slice of what a person has asked for, between two rounds of live work: True if there was one."""
        request = self._resends.wanted()
        if request is None:
            return False
        if request.kind == "rebuild":
            self._built = False
            return True
        try:
            if self._state is None:
                self._publisher.publish(commit := self._said_again())
            else:
                with self._state.transaction():
                    commit = self._said_again()
                    self._state.trim_outbox(self._publisher.sequence)
                    self._state.put_out(commit.sequence, commit.blocks)
                    self._state.set_meta(Meta(commit.sequence, commit.state, self._fingerprint))
                self._publisher.publish(commit)
        except Refused as e:
            self._resends.fail(e)
            return True
        self.events += sum(map(len, commit.tail))
        self._settle()
        self._resends.committed(commit.tail)
        return True

    def _said_again(self) -> Commit:
        """Rows and how far that is, in one commit (invariant 3)."""
        batches = self._resends.slice(self._state, self._publisher, self._sql)
        return self._publisher.commit(self._publisher.sequence + 1, batches, self._published_state(), int(self._clock() * 1e6))

    def _settle(self) -> None:
        """After a commit: where nothing waits, what is published up to here is what the inputs up to here make."""
        if not self.pending:
            self._settled = {"positions": self.positions, "ends": self._publisher.ends}

    def _output(self, made: Mapping[str, list[Batch]], sequence: int) -> Commit:
        return self._publisher.commit(sequence, list(self._graph.published(dict(made))), self._published_state(), int(self._clock() * 1e6))

    def _keep(self, commit: Commit) -> None:
        """The state's side of a commit: outbox and meta. A round without output takes no sequence: it is published with the next."""
        assert self._state is not None
        if commit.blocks:  # the last published commit stays until the next: topics put back by one would want it again
            self._state.trim_outbox(self._publisher.sequence)
            self._state.put_out(commit.sequence, commit.blocks)
        sequence = commit.sequence if commit.blocks else commit.sequence - 1
        self._state.set_meta(Meta(sequence, commit.state, self._fingerprint))

    def _published_state(self) -> dict[str, Any]:
        return {
            "positions": self.positions,
            "progress": self._complete.progress,
            "applied": self._complete.applied,
            "accepted": {i.topic: i.schema_id for i in self.plan.inputs},
            "outputs": self._publisher.ids,
            **self._gate.state(),
            "ready": {o.topic: self._ready for o in self.plan.outputs},
            "fingerprint": self._fingerprint,
            "settled": self._settled,
            "rebuilt": self._rebuilt,
            "work": self._work.state(self._graph),
            **self._resends.state(),
        }

    def _publish_progress(self) -> None:
        """With nothing to do: make what was read and how complete it is known, at most once a second."""
        if self._clock() - self._progressed_at < PROGRESS_EVERY_S:
            return
        self._progressed_at = self._clock()
        self._complete.advance()
        self._ready = self._ready or not self.waiting_for()
        self._settle()
        if self._published_state() != dict(self._publisher.state):
            self._publisher.publish(self._said())
            self._note()

    def _said(self, first: Callable[[], None] = lambda: None) -> Commit:
        """A commit without events: what is known, kept, with `first` in the same transaction; to be published."""
        commit = Commit(self._publisher.sequence + 1, (), self._published_state())
        if self._state is not None:
            with self._state.transaction():
                first()
                self._state.set_meta(Meta(commit.sequence, commit.state, self._fingerprint))
        return commit

    def _note(self) -> None:
        self._topics.note_reader(self.name, self.positions)

    def patience_s(self, idle_s: float) -> float:
        """How long the runner may leave it alone when nothing comes in."""
        return idle_s

    # ---- building

    def unready(self) -> list[str]:
        """What it waits for before it can begin."""
        return [] if self._built else self.waiting_for()

    def waiting_for(self) -> list[str]:
        """Inputs whose first load is not complete: whatever is built as a set begins after it."""
        return self._complete.waiting_for()

    def _build(self) -> bool:
        if missing := self.waiting_for():  # what is published would be deleted for rows that have only not arrived yet
            if (end := self._inputs.ended_unready(missing)) is not None:
                self._gate.meet(end)
                self._gate.rule(self.plan)
                raise self._gate.paused or end
            return False
        lost = [t for t in self.reads if self.name in self._topics.kept(t).lost]
        self._gate.begin_anew(self.reads)
        self._read_from({})
        self._complete.begin_anew()
        if self._state is not None:
            self._rebuild(self._state)
        else:  # a stateless pipeline needs a state for the comparison only
            with passing(self._path, self._memory_mib) as state:
                self._rebuild(state)
        self._ready = not self.waiting_for()
        self.pending = 0
        self._settle()
        self._rebuilt = {"lost": lost, "at": self._clock()} if lost else self._rebuilt
        self._resends.rebuilt()
        commit = self._said()
        reached("pipeline.after_rebuild")
        self._publisher.publish(commit)
        self._built, self._committed = True, self.positions
        self._topics.join(self.name, self.positions)
        self._resends.committed(())
        return True

    def _rebuild(self, state: State) -> None:
        graph = Graph(self.plan, self._sql, state, self._sources)
        rebuild = Rebuild(self.plan, graph, state, self._topics, self._publisher, self.tick, self.waits)
        self.events += rebuild.run(self._inputs.readers, self._clock, self._complete.see)

    @property
    def connect(self) -> Callable[[], duckdb.DuckDBPyConnection] | None:
        """Connections for others to read its state by, while it is open; None where it keeps none."""
        return None if self._state is None else self._state.store.connect

    def close(self) -> None:
        self._resends.let_go()
        if self._state is not None:
            self._state.store.close()
        self._sql.close()
