"""Batches that are merged hold the same events in the same order, and no more batches than need be."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.events import batch as batches
from millstream.events.batch import Batch, batch, merged
from millstream.events.types import Field, RowSchema, Type

NARROW = RowSchema((Field("id", Type("int64"), 1),), ("id",))
WIDE = RowSchema((Field("id", Type("int64"), 1), Field("name", Type("text"), 2)), ("id",))
MAX = 6


@st.composite
def streams(draw: st.DrawFn) -> list[Batch]:
    made, first = [], 0
    for length in draw(st.lists(st.integers(0, MAX + 2), max_size=12)):
        schema, schema_id = draw(st.sampled_from([(NARROW, 1), (NARROW, 2), (WIDE, 3)]))
        topic, to = draw(st.sampled_from(["t", "t", "u"])), draw(st.sampled_from([None, None, "p"]))
        rows = [{"id": first + i} | ({"name": "n"} if schema is WIDE else {}) for i in range(length)]
        fixed = {"op": ["c"], "incarnation": [1], "major": [1], "minor": [0], "ts_us": [0], "position": [""]}
        one = batch(topic, schema, {**{name: values * length for name, values in fixed.items()}, "after": rows}, schema_id)
        is_published = draw(st.integers(0, 3)) > 0
        offsets = np.arange(first, first + length, dtype=np.int64) if is_published else None
        made.append(Batch(topic, schema, one.rows, schema_id, offsets, to))
        first += length
    return made


def events(given: list[Batch]) -> list[Any]:
    return [
        (b.topic, b.schema_id, b.to, None if b.offsets is None else int(b.offsets[i]), row)
        for b in given
        for i, row in enumerate(b.rows.to_pylist())
    ]


@given(streams())
def test_same_events_in_as_few_batches_as_may_be(stream: list[Batch]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "MERGED_MAX", MAX)
        out = merged(stream)
    assert events(out) == events(stream)
    for a, b in pairwise(out):
        alike = (a.topic, a.schema, a.schema_id, a.to, a.offsets is None) == (b.topic, b.schema, b.schema_id, b.to, b.offsets is None)
        assert not alike or len(a) + len(b) > MAX
    largest = max(map(len, stream), default=0)
    assert max(map(len, out), default=0) <= max(MAX, largest)
