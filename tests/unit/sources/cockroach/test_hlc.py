"""Times as two integers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.sources.cockroach.hlc import LOGICAL_MAX, Hlc

TIMES = st.builds(Hlc, st.integers(0, 2**63 - 1), st.integers(0, LOGICAL_MAX))


@given(TIMES)
def test_a_time_is_read_back_from_its_text(time: Hlc) -> None:
    assert Hlc.parse(str(time)) == time
    assert Hlc.parse(f"{time}?") == time


def test_a_time_of_a_server() -> None:
    assert Hlc.parse("1795386220886817387.2147483647") == (1795386220886817387, 2147483647)
    assert str(Hlc(1795386214814095955, 3)) == "1795386214814095955.0000000003"


@given(TIMES)
def test_the_next_is_the_least_above(time: Hlc) -> None:
    assert time < time.next
    assert time.next.prev == time
    # As one number whose low digit is the counter, it is the very next.
    assert time.next.wall * 2**31 + time.next.logical == time.wall * 2**31 + time.logical + 1


def test_one_step_below_a_nanosecond_is_the_last_of_the_one_before() -> None:
    assert Hlc.parse("1795386220886817388.0000000000").prev == Hlc.parse("1795386220886817387.2147483647")


def test_the_counter_is_no_fraction() -> None:
    assert Hlc(5, 9) < Hlc(5, 10) < Hlc(6, 0)


@pytest.mark.parametrize(
    "text", ["", "1", "1.5", "1.00000000000", "-1.0000000000", "1.2147483648", "1.0000000000 ", "a.0000000000", "٣.0000000000"]
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ten digits"):
        Hlc.parse(text)
