"""The conformance suite over every kind of sink there is."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sink_targets import TARGETS

from millstream.sinks.kinds import KINDS
from millstream.testing.sink_conformance import CASES, history, killed_at, killed_at_random
from millstream.testing.sink_schemas import follows, follows_killed

NAMES = [k.name for k in KINDS]
MOMENTS = [(name, moment) for name in NAMES for moment in TARGETS[name].moments]


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_case(case, kind: str, tmp_path: Path) -> None:
    case(TARGETS[kind](tmp_path))


_numbers = itertools.count()
steps = st.lists(st.one_of(st.integers(1, 40), st.integers(-30, -1), st.none()), max_size=10)


@pytest.mark.parametrize("kind", NAMES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_any_history_ends_as_the_oracle_says(kind: str, tmp_path: Path, steps: list[int | None]) -> None:
    history(TARGETS[kind](tmp_path / str(next(_numbers))), steps)


@pytest.mark.parametrize("kind", NAMES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 30))
def test_any_chain_of_schemas_is_followed(kind: str, tmp_path: Path, seed: int) -> None:
    follows(TARGETS[kind](tmp_path / str(next(_numbers))), seed)


@pytest.mark.faults
@pytest.mark.parametrize(("kind", "moment"), MOMENTS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_killed_at_a_named_moment_while_schemas_change(kind: str, moment: str, count: int, tmp_path: Path) -> None:
    follows_killed(TARGETS[kind](tmp_path), 100 + count, moment, count)


@pytest.mark.faults
@pytest.mark.parametrize(("kind", "moment"), [m for m in MOMENTS if m[1] != "sink.iceberg.changed"])
@pytest.mark.parametrize("count", [1, 4])
def test_killed_at_a_named_moment(kind: str, moment: str, count: int, tmp_path: Path) -> None:
    killed_at(TARGETS[kind](tmp_path), moment, count)


@pytest.mark.faults
@pytest.mark.parametrize("kind", NAMES)
def test_killed_from_outside_again_and_again(kind: str, tmp_path: Path) -> None:
    killed_at_random(TARGETS[kind](tmp_path), kills=5, seed=20)
