"""When a generation may take over: all of one moment is computed and written, and the moment is not long ago."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from millstream.engine.handover import FRESH_S, Handover
from millstream.errors import Irrecoverable, Retryable


@dataclass
class Rig:
    """A generation that reads topic i and writes topic o, and the world around it; `answers` is what taking over does, in turn."""

    ends: dict[str, int] = field(default_factory=lambda: {"i": 10, "o": 0})
    is_built: bool = True
    settled_at: int = 0
    published: int = 0
    written: int = 0
    is_open: bool = True
    now: float = 0.0
    taken: int = 0
    answers: list[Any] = field(default_factory=lambda: [True])
    told: list[tuple[str, str, str]] = field(default_factory=list)

    def handover(self) -> Handover:
        rig = self

        class Pipeline:
            name, reads = "pipeline.p@2", ("i",)
            plan = SimpleNamespace(pipeline="p@2", outputs=(SimpleNamespace(topic="o"),))

            @property
            def is_built(self) -> bool:
                return rig.is_built

            @property
            def settled(self) -> tuple[dict[str, int], dict[str, int]]:
                return {"i": rig.settled_at}, {"o": rig.published}

        class Sink:
            name = "sink.p@2.p.search"

            @property
            def is_open(self) -> bool:
                return rig.is_open

            def caught_up(self, ends: dict[str, int]) -> bool:
                return rig.written >= ends["o"]

        def take_over() -> bool:
            rig.taken += 1
            answer = rig.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return bool(answer)

        topics: Any = SimpleNamespace(end=rig.ends.__getitem__)
        pipeline: Any = Pipeline()
        sink: Any = Sink()
        return Handover(pipeline, [sink], topics, take_over, lambda *said: rig.told.append(said), lambda: rig.now)


def test_it_waits_for_the_build_the_moment_and_the_sinks() -> None:
    rig = Rig(is_built=False, is_open=False)
    handover = rig.handover()
    assert not handover.look(())
    rig.is_built = True
    assert not handover.look(())
    rig.ends["i"] = 99  # what comes later is not part of the moment
    rig.settled_at, rig.published = 9, 5
    assert not handover.look(())
    rig.settled_at, rig.published = 10, 6
    assert not handover.look(())
    rig.is_open = True
    assert not handover.look(())
    rig.published = 50
    rig.written = 6
    assert handover.look(())
    assert rig.taken == 1
    assert handover.look(())
    assert rig.taken == 1


def test_what_is_caught_up_with_a_moment_long_ago_only_is_not_there() -> None:
    rig = Rig()
    handover = rig.handover()
    assert not handover.look(())
    rig.now, rig.ends["i"] = FRESH_S + 1, 1_000
    rig.settled_at = 10
    assert not handover.look(())  # a new moment: 1,000
    assert rig.taken == 0
    rig.settled_at, rig.now = 999, FRESH_S + 2
    assert not handover.look(())
    rig.settled_at = 1_000
    assert handover.look(())


def test_one_that_has_stood_still_takes_over_however_long_ago_that_was() -> None:
    rig = Rig()
    handover = rig.handover()
    assert not handover.look(())
    rig.now, rig.settled_at = 1_000.0, 10
    assert handover.look(())


def test_a_catalogue_that_does_not_answer_is_asked_again_and_other_failures_are_told() -> None:
    rig = Rig(settled_at=10, answers=[Retryable("busy", code="catalogue_busy"), True])
    handover = rig.handover()
    assert not handover.look(())
    assert handover.look(())
    assert [state for state, _, _ in rig.told] == ["running", "caught_up"]

    rig = Rig(settled_at=10, answers=[Irrecoverable("damaged", code="index_damaged", cure="mend it")])
    handover = rig.handover()
    assert handover.look(())
    assert rig.told[-1] == ("failed", "searches could not be switched to p@2: damaged [index_damaged]", "mend it")
    assert handover.look(())
    assert rig.taken == 1


@pytest.mark.parametrize("part", ["pipeline.p@2", "sink.p@2.p.search"])
def test_nobody_waits_for_one_whose_part_is_over(part: str) -> None:
    rig = Rig()
    handover = rig.handover()
    assert not handover.look({"pipeline.other"})
    assert handover.look({part})
    assert rig.taken == 0
