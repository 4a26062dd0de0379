"""The local runner: one process, a thread a part, the four kinds of failure, and when everything is caught up.

A part that stops takes nobody with it (invariant 6); why it stopped is reported and stays to be seen (invariant 9).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import duckdb

from millstream.capture.connector import Connector
from millstream.engine.completeness import writer_of
from millstream.engine.gate import Paused
from millstream.engine.handover import Handover
from millstream.engine.matches import Matches
from millstream.engine.pipeline import Pipeline
from millstream.engine.rebuild import Stopped
from millstream.engine.sinkrun import SinkRun
from millstream.errors import Irrecoverable, MillstreamError, Retryable
from millstream.faultpoints import reached
from millstream.pipelines.plan import Plan
from millstream.topics.contract import Topics

log = logging.getLogger("millstream.runner")

PartState = Literal["starting", "running", "caught_up", "waiting", "retrying", "paused", "stopped", "failed"]
RETRY_FIRST_S, RETRY_MAX_S = 0.2, 10.0
COMMIT_EVERY_S, FEW = 0.05, 1_000
"""While a source brings few events at a time its commits come no faster: what one costs, in all who read it too, is about the same for one
event as for hundreds. A change that comes alone does not wait, nor do loads that a topic's readers wait for."""
IDLE_WAIT_S = 0.5
TELL_EVERY_S = 1.0
COMPACT_EVERY_S = 600.0


@dataclass(frozen=True)
class PartStatus:
    """What one part is doing. `events` moved since the start; `lag` records not read yet (parts that read topics)."""

    name: str
    state: PartState
    reason: str = ""
    cure: str = ""
    events: int = 0
    lag: int = 0
    doing: str = ""
    done: int = 0
    total: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)


Report = Callable[[str, PartState, str, str], None]
"""report(part, state, reason, cure): called on every change of state, from the part's thread."""
Figures = Callable[[str, Mapping[str, Any]], None]
"""figures(part, figures): called when they have changed, at most once a second and at the end, from the part's thread."""


class _Part:
    """A part's thread and what is known of it."""

    def __init__(self, work: Connector | Pipeline | Matches | SinkRun) -> None:
        self.work = work
        self.status = PartStatus(work.name, "starting")
        self.doing: tuple[str, int, int] = ("", 0, 0)
        self.thread: threading.Thread | None = None
        self.opened = threading.Event()
        self.told: tuple[str, str] = ("", "")  # state and reason as last reported, and when
        self.told_at = 0.0
        self.figures: Mapping[str, Any] = {}  # as last told, and when
        self.figures_at = 0.0
        self.stopping = threading.Event()  # it alone is to stop

    @property
    def over(self) -> bool:
        return self.status.state in ("paused", "stopped", "failed")


class Runner:
    """Runs connectors, pipelines (in order of who reads whom), saved searches and sinks until told to stop, or until caught up."""

    def __init__(
        self,
        topics: Topics,
        connectors: Sequence[Connector],
        pipelines: Sequence[Pipeline],
        sinks: Sequence[SinkRun],
        report: Report = lambda part, state, reason, cure: None,
        handovers: Sequence[Handover] = (),
        figures: Figures = lambda part, figures: None,
        matches: Sequence[Matches] = (),
    ) -> None:
        self._topics, self._report, self._handovers, self._figures = topics, report, handovers, figures
        self._connectors = [_Part(c) for c in connectors]
        self._pipelines = [_Part(p) for p in pipelines]
        self._matches = [_Part(m) for m in matches]
        self._sinks = [_Part(s) for s in sinks]
        self._stop = threading.Event()
        self._changing = threading.Lock()
        self._running = False
        for part in self._parts:
            self._prepare(part)

    @property
    def _parts(self) -> list[_Part]:
        return self._connectors + self._pipelines + self._matches + self._sinks

    def _prepare(self, part: _Part) -> None:
        if isinstance(part.work, Pipeline | Matches):
            part.work.tick = self._ticker(part)
        if isinstance(part.work, Pipeline):
            part.work.waits = lambda why: self._state(part, "retrying" if why else "running", why)

    def run(self, *, until_caught_up: bool = False, watch: Callable[[list[PartStatus]], None] = lambda parts: None) -> list[PartStatus]:
        """Blocks until `stop`, until every part is over, or (if asked) until all that was committed when it began is
        through every pipeline and sink. Calls `watch` a few times a second. Returns how each part ended."""
        with self._changing:
            self._running = True
            for part in self._parts:
                self._start(part)
        upkeep = threading.Thread(target=self._upkeep, name="compaction", daemon=True)
        upkeep.start()
        caught = _CaughtUp(self._topics, lambda: (self._connectors, self._pipelines, [*self._matches, *self._sinks]))
        try:
            while not self._stop.is_set() and not all(p.over for p in self._parts):
                watch(self.statuses())
                handed_over = self._hand_over()
                if until_caught_up and caught.check() and handed_over:
                    break
                self._stop.wait(0.05 if until_caught_up else 0.25)
        finally:
            self.stop()
            with self._changing:  # what is being put in place is there, and stops too
                for part in self._parts:
                    if part.thread is not None:
                        part.thread.join()
            upkeep.join()
        final = self.statuses()
        watch(final)
        return final

    def _start(self, part: _Part) -> None:
        part.thread = threading.Thread(target=self._drive, args=(part,), name=part.work.name, daemon=True)
        part.thread.start()

    def replace(self, gone: Callable[[str], bool], pipelines: Sequence[Pipeline], sinks: Sequence[SinkRun]) -> None:
        """Put these in the place of the pipelines and sinks whose names are `gone`, which end their commit and stop first; everything
        else runs on. From any thread. Raises Retryable("stopping") where all is being stopped."""
        with self._changing:
            if self._stop.is_set() or not self._running:
                raise Retryable("the process is starting or stopping", code="stopping", cure="try again, or start `millstream run` again")
            old = [p for p in (*self._pipelines, *self._sinks) if gone(p.work.name)]
            for part in old:
                part.stopping.set()
            for part in old:
                if part.thread is not None:
                    part.thread.join()
            new_pipelines, new_sinks = [_Part(p) for p in pipelines], [_Part(s) for s in sinks]
            for part in (*new_pipelines, *new_sinks):
                self._prepare(part)
            self._pipelines = [p for p in self._pipelines if p not in old] + new_pipelines
            self._sinks = [p for p in self._sinks if p not in old] + new_sinks
            for part in (*new_pipelines, *new_sinks):
                self._start(part)

    def _hand_over(self) -> bool:
        """Whether every generation that is on its way has taken over, or cannot."""
        over = {p.work.name for p in self._parts if p.over}
        looked = [h.look(over) for h in self._handovers]  # every one is looked at
        return all(looked)

    def stop(self) -> None:
        """Let every part finish its commit and stop. From any thread, but not from a signal handler, which may have interrupted
        the very lock that this takes: there, set a mark that `watch` acts on."""
        self._stop.set()

    def states(self) -> dict[str, Callable[[], duckdb.DuckDBPyConnection]]:
        """Pipeline → connections to read its state by, of those that have one open."""
        running = [p.work for p in self._pipelines if p.opened.is_set() and not p.over and isinstance(p.work, Pipeline)]
        return {w.plan.pipeline: w.connect for w in running if w.connect is not None}

    def plans(self) -> list[Plan]:
        """The plans of the pipelines, as they now are."""
        return [p.work.plan for p in self._pipelines if isinstance(p.work, Pipeline)]

    def statuses(self) -> list[PartStatus]:
        return [self._status(p) for p in self._parts]

    def _status(self, part: _Part) -> PartStatus:
        work, at = part.work, part.status
        doing, done, total = part.doing
        events = work.counts.events if isinstance(work, Connector) else work.events
        lag = 0
        if part.opened.is_set() and not isinstance(work, Connector):
            lag = sum(max(0, self._topics.end(t) - o) for t, o in work.positions.items())
        if part.opened.is_set() and isinstance(work, Connector) and not work.loaded:
            doing, done, total = work.loading
        return PartStatus(at.name, at.state, at.reason, at.cure, events, lag, doing, done, total, part.figures)

    def _upkeep(self) -> None:
        """Compact the topics now and then. What stops it is tried again the next time: nobody waits for it."""
        while True:
            try:
                self._topics.compact(self._stop.wait)
            except MillstreamError as e:
                log.warning("compaction of the topics: %s", e)
            except Exception:
                log.exception("compaction of the topics failed")
            if self._stop.wait(COMPACT_EVERY_S):
                return

    # ---- one part's thread

    def _drive(self, part: _Part) -> None:
        backoff = RETRY_FIRST_S
        is_open = unsettled = False
        try:
            while not (self._stop.is_set() or part.stopping.is_set()):
                try:
                    if not is_open:
                        part.work.open()
                        is_open = True
                        part.opened.set()
                        self._state(part, "running")
                    if unsettled:  # what failed may have failed half-way: no step before this has gone through
                        part.work.retry()
                        unsettled = False
                        self._state(part, "running")
                    began, events = time.monotonic(), part.work.counts.events if isinstance(part.work, Connector) else 0
                    worked = part.work.step()
                    backoff = RETRY_FIRST_S
                    self._after_step(part, worked)
                    if worked and isinstance(part.work, Connector) and not part.work.fills and part.work.counts.events - events < FEW:
                        self._stop.wait(max(0.0, began + COMMIT_EVERY_S - time.monotonic()))
                except Retryable as e:
                    self._state(part, "retrying", e)
                    self._tell_figures(part)  # a source that is left alone is seen to be
                    self._stop.wait(backoff)
                    backoff = min(backoff * 2, RETRY_MAX_S)
                    unsettled = is_open
            if is_open and not unsettled and isinstance(part.work, SinkRun):
                with suppress(Retryable):  # the target's position stands: the next run writes it
                    part.work.flush()
            self._state(part, "stopped" if not part.over else part.status.state)
        except Stopped:
            self._state(part, "stopped")
        except Paused as e:  # its positions stand: it goes on there when a person has resumed it
            self._state(part, "paused", e)
        except MillstreamError as e:
            self._state(part, "failed", e)
        except Exception as e:  # a defect of ours or a driver's: the part stops, the others run on, nothing is committed
            log.exception("%s failed", part.work.name)
            self._state(part, "failed", Irrecoverable(f"{type(e).__name__}: {e}", code="defect", where=part.work.name))
        finally:
            self._tell_figures(part, at_once=is_open)
            reached("runner.part_over")
            part.work.close()

    def _after_step(self, part: _Part, worked: bool) -> None:
        self._tell(part)
        self._tell_figures(part)
        if worked:
            part.doing = ("", 0, 0)
            if part.status.state != "running":
                self._state(part, "running")
            return
        work = part.work
        if isinstance(work, Connector):
            if work.loaded and part.status.state == "running":
                self._state(part, "caught_up")
            return  # its source waits for the server
        if isinstance(work, Pipeline | Matches) and (missing := work.unready()):
            self._waiting(part, f"the initial load of {', '.join(missing)}")
            self._stop.wait(IDLE_WAIT_S / 5)
            return
        if part.status.state in ("running", "waiting"):
            self._state(part, "caught_up")
        self._topics.wait(work.seen, work.patience_s(IDLE_WAIT_S))

    def _waiting(self, part: _Part, what: str) -> None:
        if part.status.state != "waiting":
            part.status = PartStatus(part.work.name, "waiting", f"waits for {what}")
            self._tell(part)

    def _state(self, part: _Part, state: PartState, error: MillstreamError | None = None) -> None:
        reason = f"{error.where + ': ' if error.where else ''}{error.message} [{error.code}]" if error else ""
        cure = error.cure if error else ""
        if (part.status.state, part.status.reason) != (state, reason):
            if error:
                log.warning("%s %s: %s", part.work.name, state, reason)
            part.status = PartStatus(part.work.name, state, reason, cure)
        self._tell(part)

    def _tell(self, part: _Part) -> None:
        """Report the part's state where it is not known yet. Busy and idle follow each other fast: those are told once a second."""
        at, now = part.status, time.monotonic()
        told = (at.state, at.reason)
        restless = {part.told[0], at.state} <= {"running", "caught_up"}
        if told != part.told and not (restless and now - part.told_at < TELL_EVERY_S):
            part.told, part.told_at = told, now
            self._report(at.name, at.state, at.reason, at.cure)

    def _tell_figures(self, part: _Part, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if isinstance(part.work, Connector) or (now - part.figures_at < TELL_EVERY_S and not at_once):
            return
        figures, part.figures_at = part.work.figures, now
        if figures != part.figures:
            part.figures = figures
            self._figures(part.work.name, figures)

    def _ticker(self, part: _Part) -> Callable[[str, int, int], None]:
        def tick(what: str, done: int, total: int) -> None:
            part.doing = (what, done, total)
            if part.status.state == "waiting":
                self._state(part, "running")
            if self._stop.is_set() or part.stopping.is_set():
                raise Stopped

        return tick


class _CaughtUp:
    """Whether what was committed at the sources when this began is through everything. Targets are fixed, level by level."""

    def __init__(self, topics: Topics, parts: Callable[[], tuple[list[_Part], list[_Part], list[_Part]]]) -> None:
        """`parts`: the connectors, pipelines and sinks that there are now."""
        self._topics, self._parts = topics, parts
        self._ends: dict[str, dict[str, int]] = {}

    def check(self) -> bool:
        """True when caught up; parts that are over count as done. Each level's target is taken when the one before is done."""
        connectors, pipelines, sinks = self._parts()
        self._writers = {p.work.name: p for p in (*connectors, *pipelines)}
        return (
            all(self._connector(p) for p in connectors) and all(self._reader(p) for p in pipelines) and all(self._reader(p) for p in sinks)
        )

    def _connector(self, part: _Part) -> bool:
        if part.over:
            return True
        if not part.opened.is_set() or not isinstance(part.work, Connector):
            return False
        part.work.head_wanted = True
        head, position = part.work.head, part.work.position
        return part.work.loaded and head is not None and position is not None and (position.major, position.minor) >= head

    def _reader(self, part: _Part) -> bool:
        """Its target is where its topics end when all parts before it were done: `check` asks in that order."""
        if part.over:
            return True
        if not part.opened.is_set() or isinstance(part.work, Connector):
            return False
        if part.work.name not in self._ends:
            self._ends[part.work.name] = {t: self._topics.end(t) for t in part.work.reads}
        if isinstance(part.work, Pipeline) and (missing := part.work.unready()):
            # Where the writers of what it waits for have stopped, it waits for a person, and nobody should wait for it.
            return all(self._writers[writer_of(self._topics, t)].over for t in missing)
        caught_up = part.work.caught_up(self._ends[part.work.name])
        if isinstance(part.work, SinkRun):
            part.work.awaited = not caught_up
        return caught_up
