"""The breaker's moves as a table: what happens at which second, and the stage and answer after it."""

from __future__ import annotations

import pytest

from millstream.engine.breaker import FAILURES_MAX, GOOD_MIN, REST_FIRST_S, REST_MAX_S, SLOW_MAX, Breaker

F = FAILURES_MAX


def play(*moves: str) -> Breaker:
    """Moves are "second verb": ask, well, slow, fail, left."""
    breaker = Breaker()
    for move in moves:
        at, verb = move.split()
        now = float(at)
        match verb:
            case "ask":
                breaker.ask(now)
            case "well":
                breaker.went_well(now)
            case "slow":
                breaker.went_well(now, slow="9 s")
            case "fail":
                breaker.failed(now, "no route")
            case "left":
                breaker.left()
    return breaker


OPENED = ["0 fail"] * F
PROBED = [*OPENED, "1 ask"]


@pytest.mark.parametrize(
    ("moves", "stage", "at", "answer"),
    [
        ([], "closed", 0, None),
        (["0 fail"] * (F - 1), "closed", 0, None),
        (["0 fail"] * (F - 1) + ["0 well"] + ["0 fail"], "open", 0, REST_FIRST_S),
        (["0 fail"] * (F - 1) + ["0 well"] * GOOD_MIN + ["0 fail"] * (F - 1), "closed", 0, None),
        (OPENED, "open", 0, REST_FIRST_S),
        (OPENED, "open", 0.5, REST_FIRST_S / 2),
        (OPENED, "half_open", 1, None),
        (PROBED, "half_open", 1, 0.1),
        ([*PROBED, "2 well"], "closed", 2, None),
        ([*PROBED, "2 fail"], "open", 2, REST_FIRST_S * 2),
        ([*PROBED, "2 slow"], "open", 2, REST_FIRST_S * 2),
        ([*PROBED, "2 fail", "4 ask", "4 fail"], "open", 4, REST_FIRST_S * 4),
        ([*PROBED, "2 well", *["5 fail"] * F], "open", 5, REST_FIRST_S * 2),
        ([*PROBED, *["2 well"] * GOOD_MIN, *["5 fail"] * F], "open", 5, REST_FIRST_S),
        ([*PROBED, "1 left"], "half_open", 1, None),
        ([*OPENED, "0 well"], "open", 0, REST_FIRST_S),
        (["0 slow"] * (SLOW_MAX - 1), "closed", 0, None),
        (["0 slow"] * SLOW_MAX, "open", 0, REST_FIRST_S),
        (["0 slow"] * (SLOW_MAX - 1) + ["0 well", "0 slow"], "open", 0, REST_FIRST_S),
        (["0 slow"] * (SLOW_MAX - 1) + ["0 well"] * GOOD_MIN + ["0 slow"], "closed", 0, None),
    ],
)
def test_what_a_breaker_says_after(moves: list[str], stage: str, at: float, answer: float | None) -> None:
    breaker = play(*moves)
    assert breaker.ask(at) == answer
    assert breaker.stage == stage


def test_it_says_why() -> None:
    assert play(*OPENED).reason == "queries fail: no route"
    assert "queries are slow: 9 s" in play(*["0 slow"] * SLOW_MAX).reason
    assert play(*PROBED, "2 well").reason == ""


def test_a_rest_never_grows_beyond_its_bound() -> None:
    breaker, now = play(*OPENED), 1.0
    for _ in range(20):
        assert breaker.ask(now) is None
        breaker.failed(now, "no route")
        now = breaker.until
    assert breaker.rest_s == REST_MAX_S
