"""The tail: what was put in, from any offset, and never more bytes than allowed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from millstream.events.batch import Batch, batch
from millstream.events.types import Field, RowSchema, Type
from millstream.topics import records
from millstream.topics.local.tail import Tail

SCHEMA = RowSchema((Field("id", Type("int64"), 1),), ("id",))


def put(tail: Tail, topic: str, ops: str, first: int) -> tuple[Batch, int]:
    images = [{"id": n} for n in range(len(ops))]
    given = {
        "op": list(ops),
        "before": [row if op == "d" else None for op, row in zip(ops, images, strict=True)],
        "after": [None if op == "d" else row for op, row in zip(ops, images, strict=True)],
        "incarnation": [1] * len(ops),
        "major": [1] * len(ops),
        "minor": [0] * len(ops),
        "ts_us": [5] * len(ops),
        "position": ["p"] * len(ops),
    }
    made = batch(topic, SCHEMA, given, schema_id=1)
    published = replace(made, offsets=records.offsets(made, first))
    after = first + len(ops) + ops.count("d")
    tail.put(published, first, after)
    return published, after


def test_a_batch_is_given_from_the_offset_on() -> None:
    tail = Tail(1 << 20)
    published, after = put(tail, "t", "cdc", 10)
    for offset, wanted in ((10, [10, 11, 13]), (11, [11, 13]), (12, [13]), (13, [13])):
        found, resume = tail.at("t", offset)
        assert found.offsets.tolist() == wanted
        assert found.rows.equals(published.rows.slice(3 - len(wanted)))
        assert resume == after == 14
    assert tail.at("t", 9) is None
    assert tail.at("t", 14) is None
    assert tail.at("u", 10) is None


def test_a_place_inside_the_last_tombstone_gives_no_event_but_goes_on() -> None:
    tail = Tail(1 << 20)
    put(tail, "t", "d", 0)
    found, after = tail.at("t", 1)
    assert (len(found), after) == (0, 2)


def test_holes_between_kept_batches_are_seen() -> None:
    tail = Tail(1 << 20)
    put(tail, "t", "ccc", 20)
    put(tail, "t", "ccc", 0)  # commits of two threads may be handed over in either order
    assert tail.at("t", 3) is None
    assert tail.next_after("t", 3) == 20
    assert tail.next_after("t", 0) == 20
    assert tail.next_after("t", 20) is None
    assert tail.next_after("u", 0) is None
    assert tail.at("t", 22)[0].offsets.tolist() == [22]


def test_bytes_are_bounded_and_the_oldest_go_first() -> None:
    tail, chance = Tail(20_000), random.Random(4)
    ends = {"t": 0, "u": 0}
    order = []
    for _ in range(300):
        topic = chance.choice("tu")
        order.append((topic, ends[topic]))
        _, ends[topic] = put(tail, topic, "cd" * chance.randrange(1, 60), ends[topic])
        kept = [tail.at(*place) is not None for place in order]
        assert kept == sorted(kept), "an older one outlived a newer one"
        sizes = [tail.at(*place)[0].rows.get_total_buffer_size() for place, there in zip(order, kept, strict=True) if there]
        assert sum(sizes) <= 20_000
    assert 1 < sum(kept) < 100


@pytest.mark.parametrize("bytes_max", [0, 100])
def test_what_is_larger_than_the_whole_is_not_kept(bytes_max: int) -> None:
    tail = Tail(bytes_max)
    put(tail, "t", "c" * 50, 0)
    assert tail.at("t", 0) is None


def test_a_slice_counts_all_that_it_keeps_alive() -> None:
    tail = Tail(1 << 30)
    published, _ = put(tail, "t", "c" * 10_000, 0)
    whole = published.rows.get_total_buffer_size()
    small = Tail(whole // 2)
    small.put(published.slice(0, 1), 0, 1)
    assert small.at("t", 0) is None
