"""What a target holds: taken over, passed over, never back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import Irrecoverable, Refused
from millstream.sinks.position import Held, fresh, taken_over
from millstream.testing.sink_events import TOPIC, workload

positions = st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 2**62), max_size=3)


@given(st.builds(Held, st.text(), st.integers(0, 2**40), positions))
def test_it_reads_back(held: Held) -> None:
    assert Held.of(held.text()) == held


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", '{"sink": "a", "fence": 1}', '{"sink": "a", "fence": 1, "positions": {"t": "x"}}'])
def test_anything_else_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Held.of(text)


@given(positions, positions)
def test_it_never_goes_back(held: dict[str, int], up_to: dict[str, int]) -> None:
    after = Held("s", 1, held).advanced(up_to).positions
    assert after == {t: max(held.get(t, 0), up_to.get(t, 0)) for t in held.keys() | up_to.keys()}


def test_taking_over() -> None:
    assert taken_over(None, "s", 3, "x") == Held("s", 3)
    assert taken_over(Held("s", 3, {"t": 1}), "s", 4, "x") == Held("s", 4, {"t": 1})
    with pytest.raises(Irrecoverable, match="fence 5"):
        taken_over(Held("s", 5), "s", 4, "x")
    with pytest.raises(Refused, match="written by sink 's'"):
        taken_over(Held("s", 1), "other", 4, "x")


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60))
def test_exactly_the_events_at_and_above_the_position_are_fresh(first: int, more: int, position: int) -> None:
    batches = [workload(0, first), workload(first, first + more)]
    found = fresh(batches, Held("s", 1, {TOPIC: position}), {TOPIC: 1_000})
    wanted = [o for b in batches for o in b.offsets.tolist() if o >= position]
    assert [o for b in found for o in b.offsets.tolist()] == wanted
    assert [r for b in found for r in b.column("major").to_pylist()] == wanted


def test_events_that_the_position_does_not_cover_are_a_mistake() -> None:
    batch = workload(0, 10)
    with pytest.raises(ValueError, match="not below the position"):
        fresh([batch], Held("s"), {TOPIC: int(batch.offsets[-1])})
    with pytest.raises(ValueError, match="not below the position"):
        fresh([batch], Held("s"), {"another": 99})
