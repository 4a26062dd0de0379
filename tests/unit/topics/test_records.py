"""Which record stands where: oracles written event by event."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.events import envelope
from millstream.events.batch import Batch, batch
from millstream.events.origin import Origin
from millstream.events.types import Field, RowSchema, Type
from millstream.topics import records
from millstream.topics.contract import Topic

SCHEMA = RowSchema((Field("id", Type("text"), 1), Field("n", Type("int32"), 2)), ("id",))
TOPIC = Topic("t", ("id",), 7, "whole", Origin("postgres", "s", "db", "public", "t"))


def made(ops: str, ids: list[str]) -> Batch:
    rows = [{"id": i, "n": n} for n, i in enumerate(ids)]
    given = {
        "op": list(ops),
        "before": [row if op in "ud" else None for op, row in zip(ops, rows, strict=True)],
        "after": [None if op == "d" else row for op, row in zip(ops, rows, strict=True)],
        "incarnation": [1] * len(ops),
        "major": list(range(len(ops))),
        "minor": [0] * len(ops),
        "ts_us": [5] * len(ops),
        "position": ["p"] * len(ops),
    }
    return batch("t", SCHEMA, given, schema_id=9)


BATCHES = st.lists(st.tuples(st.sampled_from("cudr"), st.text(max_size=5)), max_size=12).map(
    lambda pairs: made("".join(op for op, _ in pairs), [i for _, i in pairs])
)


def parts(data: bytes, ends: bytes) -> list[bytes]:
    edges = [0, *np.frombuffer(ends, "<i4").tolist()]
    return [data[a:b] for a, b in pairwise(edges)]


@settings(max_examples=40, deadline=None)
@given(BATCHES)
def test_a_block_has_key_and_value_of_each_event_and_a_tombstone_after_each_delete(events: Batch) -> None:
    block = records.encoded(events, TOPIC, "tag")
    wanted = []
    for n in range(len(events)):
        one = events.slice(n, 1)
        key, value = envelope.encode_keys(one, "t", 7).data, envelope.encode_values(one, TOPIC.origin, "tag").data
        wanted.append((key, value))
        if one.column("op")[0].as_py() == "d":
            wanted.append((key, b""))
    assert list(zip(parts(block.keys, block.key_ends), parts(block.values, block.value_ends), strict=True)) == wanted
    assert (block.topic, block.schema_id, block.records, block.events) == ("t", 9, len(wanted), len(events))
    assert block.nbytes == sum(len(k) + len(v) for k, v in wanted)


@settings(max_examples=40, deadline=None)
@given(BATCHES, st.integers(0, 2**40))
def test_offsets_leave_room_for_tombstones(events: Batch, first: int) -> None:
    wanted, at = [], first
    for op in events.column("op").to_pylist():
        wanted.append(at)
        at += 2 if op == "d" else 1
    found = records.offsets(events, first)
    assert found.tolist() == wanted
    assert found.dtype == np.int64
    if len(events):
        published = replace(events, offsets=found)
        assert records.read_end([published]) == at
        assert records.read_end([published, events.slice(0, 0)]) == at


def test_an_empty_batch_is_an_empty_block() -> None:
    block = records.encoded(made("", []), TOPIC, "tag")
    assert (block.records, block.events, block.nbytes) == (0, 0, 0)


def test_a_batch_that_is_not_registered_or_not_published_is_refused() -> None:
    with pytest.raises(ValueError, match="register its schema"):
        records.encoded(replace(made("c", ["a"]), schema_id=None), TOPIC, "tag")
    with pytest.raises(ValueError, match="no published event"):
        records.read_end([made("c", ["a"])])
    with pytest.raises(ValueError, match="no published event"):
        records.read_end([])


def test_a_batch_that_outgrows_its_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_BYTES_MAX", 100)
    with pytest.raises(ValueError, match="slice it"):
        records.encoded(made("cc", ["a", "b"]), TOPIC, "tag")
