"""Which transactions a snapshot sees, against a simulation that knows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.sources.postgres.snapshots import Snapshot


def test_a_snapshot_is_read_from_the_servers_text() -> None:
    assert Snapshot.parse("10:20:10,14,19") == Snapshot(10, 20, frozenset({10, 14, 19}))
    assert Snapshot.parse("7:7:") == Snapshot(7, 7, frozenset())


@pytest.mark.parametrize("text", ["", "1:2", "a:b:", "1:2:x", "1:2:3:4"])
def test_anything_else_is_no_snapshot(text: str) -> None:
    with pytest.raises(ValueError):
        Snapshot.parse(text)


def test_what_runs_and_what_is_to_come_is_not_seen() -> None:
    snapshot = Snapshot.parse("10:20:10,14")
    xids = np.arange(8, 23)
    seen = {int(x) for x in xids[snapshot.sees(xids)]}
    assert seen == {8, 9, 11, 12, 13, 15, 16, 17, 18, 19}


@given(
    first=st.one_of(st.integers(2**31, 2**34), st.integers(2**32 - 40, 2**32 + 40)),
    over=st.lists(st.booleans(), min_size=1, max_size=60),
)
def test_the_streams_short_numbers_are_told_apart_across_a_wrap(first: int, over: list[bool]) -> None:
    """Transactions first, first + 1, … of which `over` says which have ended when the snapshot is taken."""
    everyone = list(range(first, first + len(over)))
    running = [x for x, ended in zip(everyone, over, strict=True) if not ended]
    xmax = max((x for x, ended in zip(everyone, over, strict=True) if ended), default=first - 1) + 1
    snapshot = Snapshot.parse(f"{min(running, default=xmax)}:{xmax}:{','.join(str(x) for x in running if x < xmax)}")
    short = np.array([x & 0xFFFFFFFF for x in everyone], np.uint32)
    wide = snapshot.widen(short)
    assert wide.tolist() == everyone
    assert snapshot.sees(wide).tolist() == over
