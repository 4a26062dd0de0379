"""When a new generation may take over from the one that serves: it has all that there was at one moment, not long ago, in its sinks.

What taking over means is its caller's. The one that serves runs on undisturbed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from millstream.engine.pipeline import Pipeline
from millstream.engine.sinkrun import SinkRun
from millstream.errors import MillstreamError, Retryable
from millstream.topics.contract import Topics

log = logging.getLogger("millstream.handover")

FRESH_S = 5.0
"""A generation that has caught up with an older moment than this looks again: it may still be far behind the one that serves."""


class Handover:
    """One generation on its way. `take_over` makes it serve; False: somebody decided otherwise. `tell(state, reason, cure)` keeps
    what becomes of it. Not thread-safe: one thread looks."""

    def __init__(
        self,
        pipeline: Pipeline,
        sinks: Sequence[SinkRun],
        topics: Topics,
        take_over: Callable[[], bool],
        tell: Callable[[str, str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline, self._sinks, self._topics, self._clock = pipeline, sinks, topics, clock
        self._take_over, self._tell = take_over, tell
        self._outputs = tuple(o.topic for o in pipeline.plan.outputs)
        self._goal: Mapping[str, int] | None = None  # input topic → its end at the moment to catch up with
        self._goal_at = 0.0
        self._published: Mapping[str, int] | None = None  # output topic → its end when all of the goal was published
        self._done = False
        tell("running", f"{pipeline.plan.pipeline} is being built; searches switch to it when it is caught up", "")

    def look(self, over: Collection[str]) -> bool:
        """Take over if it may. True when there is nothing more to wait for: done, or one of its parts (by name) is over."""
        if self._done:
            return True
        if self._ready():
            self._finish()
        return self._done or bool({self._pipeline.name, *(s.name for s in self._sinks)} & set(over))

    def _ready(self) -> bool:
        for _ in range(2):  # a goal that proved old is set anew once: what is caught up with that too is there
            if not self._pipeline.is_built:
                return False
            if self._goal is None:
                self._goal, self._goal_at = {t: self._topics.end(t) for t in self._pipeline.reads}, self._clock()
            if self._published is None:
                # Keys may wait at every moment that one looks: the last moment at which none did counts.
                positions, ends = self._pipeline.settled
                if any(positions.get(t, 0) < end for t, end in self._goal.items()):
                    return False
                self._published = {t: ends.get(t, 0) for t in self._outputs}
            if not all(s.is_open and s.caught_up(self._published) for s in self._sinks):
                return False
            if self._clock() - self._goal_at <= FRESH_S:
                return True
            self._goal = self._published = None
        return False

    def _finish(self) -> None:
        name = self._pipeline.plan.pipeline
        try:
            if self._take_over():
                log.info("%s is live", name)
                self._tell("caught_up", f"{name} is live", "")
        except Retryable as e:
            log.warning("searches could not be switched to %s yet: %s", name, e)
            return
        except MillstreamError as e:
            log.warning("searches could not be switched to %s: %s", name, e)
            self._tell("failed", f"searches could not be switched to {name}: {e.message} [{e.code}]", e.cure)
        self._done = True
