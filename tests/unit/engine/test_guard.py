"""What a guard lets through to a source, and when: over a lookup that does as it is told, on a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Generator

import pyarrow as pa
import pytest

from millstream.engine.breaker import FAILURES_MAX, SLOW_MAX
from millstream.engine.guard import Guard
from millstream.errors import Irrecoverable, MillstreamError, Retryable
from millstream.events.progress import Position
from millstream.events.types import Field, RowSchema, Type
from millstream.sources.contract import Asked, Limits

SCHEMA = RowSchema((Field("id", Type("int64"), 1),), ("id",))
ASKED = Asked("t", SCHEMA, ("id",), pa.table({"id": [1]}), ("id",))


class Told:
    """Answers with one row, after `takes_s`; raises `error`, if there is one, `late` after the row."""

    name = "told"
    reading = "the primary"

    def __init__(self) -> None:
        self.limits = Limits(per_s=1e9, keys_max=10, slow_ms=100)
        self.now = 0.0
        self.takes_s = 0.0
        self.error: MillstreamError | None = None
        self.late = False
        self.queries = 0
        self.closed = 0

    def clock(self) -> float:
        return self.now

    def lookup(self, asked: Asked, not_before: Position) -> Generator[pa.Table, None, None]:
        self.queries += 1
        self.now += self.takes_s
        if self.error is not None and not self.late:
            raise self.error
        yield pa.table({"id": [1]})
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def guard(told: Told) -> Guard:
    return Guard(told, clock=told.clock)


def ask(guard: Guard) -> int:
    return sum(t.num_rows for t in guard.rows(ASKED, Position(0, 0)))


def fails(guard: Guard) -> str:
    with pytest.raises(MillstreamError) as error:
        ask(guard)
    return error.value.code


def lost(code: str = "connection") -> Retryable:
    return Retryable("no route to host", code=code)


def test_a_source_that_fails_is_left_alone_and_tried_again_with_one_query(told: Told, guard: Guard) -> None:
    told.error = lost()
    assert [fails(guard) for _ in range(FAILURES_MAX + 2)] == ["connection"] * FAILURES_MAX + ["source_resting"] * 2
    assert told.queries == FAILURES_MAX, "what is left alone is not asked"
    assert guard.state.startswith("open: queries fail: no route to host; next try in")
    told.now += 1
    assert fails(guard) == "connection", "the probe"
    assert fails(guard) == "source_resting"
    told.now += 2
    told.error = None
    assert ask(guard) == 1
    assert guard.state == "reads the primary"
    assert ask(guard) == 1


def test_while_a_probe_is_under_way_nobody_else_asks(told: Told, guard: Guard) -> None:
    told.error = lost()
    for _ in range(FAILURES_MAX):
        fails(guard)
    told.now, told.error = 10, None
    probe = guard.rows(ASKED, Position(0, 0))
    next(probe)
    assert fails(guard) == "source_resting"
    assert list(probe) == []
    assert ask(guard) == 1


def test_a_probe_that_is_given_up_leaves_room_for_another(told: Told, guard: Guard) -> None:
    told.error = lost()
    for _ in range(FAILURES_MAX):
        fails(guard)
    told.now, told.error = 10, None
    probe = guard.rows(ASKED, Position(0, 0))
    next(probe)
    probe.close()
    assert ask(guard) == 1


def test_slow_answers_open_it_too(told: Told, guard: Guard) -> None:
    told.takes_s = 0.2
    assert [ask(guard) for _ in range(SLOW_MAX)] == [1] * SLOW_MAX
    assert fails(guard) == "source_resting"
    assert "lookup_slow_ms (100)" in guard.state


@pytest.mark.parametrize("error", [lost("replica_behind"), lost("not_visible_yet"), lost("busy"), Irrecoverable("x", code="table_gone")])
def test_what_is_no_fault_of_the_source_does_not_open_it(told: Told, guard: Guard, error: MillstreamError) -> None:
    told.error = error
    assert {fails(guard) for _ in range(FAILURES_MAX * 3)} == {error.code}


def test_a_failure_after_the_first_rows_counts(told: Told, guard: Guard) -> None:
    told.error, told.late = lost(), True
    assert [fails(guard) for _ in range(FAILURES_MAX + 1)] == ["connection"] * FAILURES_MAX + ["source_resting"]


def test_the_rate_is_kept(told: Told) -> None:
    import time

    told.limits = Limits(per_s=50, keys_max=10, slow_ms=1e9)
    guard = Guard(told)
    began = time.monotonic()
    for _ in range(6):
        ask(guard)
    assert 0.1 <= time.monotonic() - began < 2


def test_who_waits_for_the_rate_is_let_go_at_the_end(told: Told) -> None:
    told.limits = Limits(per_s=0.001, keys_max=10, slow_ms=1e9)
    guard = Guard(told)
    ask(guard)
    guard.close()
    assert fails(guard) == "closed"
    assert told.closed == 1
