"""The model of backfills: what is next, in which part, how it ends, and that what earlier releases kept is still read."""

from __future__ import annotations

import json

import pytest

from millstream.capture.backfill import (
    KEYS_AT_ONCE,
    OVER_KEPT,
    Backfill,
    Order,
    Turns,
    doing,
    resumed,
    stored,
    waiting,
    with_schema_backfill,
)
from millstream.sources.contract import WHOLE, Scope

LOAD = Backfill("t", "initial", estimate=9)
ONE, TWO = Order("b-1", "s", "t", estimate=4).backfill(), Order("b-2", "s", "t").backfill()


def by_slot(*backfills: Backfill) -> dict[str, Backfill]:
    return {b.slot: b for b in backfills}


def test_what_an_earlier_release_kept_is_read() -> None:
    kept = {"table": "t", "name": "initial", "after": ["7"], "rows": 7, "chunks": 2, "estimate": 9, "done": False, "wanted": True}
    schema = kept | {"name": "schema-3", "wanted": False}
    found = resumed({"t": kept, "t schema": schema}, [("t", 9), ("u", -1)], start_offered=False)
    assert list(found) == ["t", "u", "t schema"]
    assert (found["t"].after, found["t"].rows, found["t"].reconcile) == (["7"], 7, False)
    assert (found["u"].estimate, found["t schema"].wanted) == (0, False)


def test_a_scan_that_begins_again_has_read_nothing() -> None:
    scan = Order("b-1", "s", "t", estimate=4, method="changefeed").backfill()
    once = scan.at((7, 1)).chunk_done(None, 2, False, 3)
    assert (once.begun, once.read, once.rows, once.after, once.done) == ([7, 1], 3, 2, None, False)
    kept = resumed(json.loads(json.dumps(stored(by_slot(once)))), [("t", 4)], start_offered=False)["t b-1"]
    assert kept.at((7, 1)).chunk_done(None, 1, True, 1).read == 4
    again = kept.at((9, 0)).chunk_done(None, 1, True, 1)
    assert (again.begun, again.read, again.rows, again.chunks, again.done) == ([9, 0], 1, 1, 1, True)
    assert LOAD.at((9, 0)) is LOAD and LOAD.at(None) is LOAD


def test_what_is_kept_is_plain_and_comes_back() -> None:
    backfills = by_slot(LOAD, ONE.chunk_done(["3"], 2, False, 3), TWO.over("failed", "why"))
    assert resumed(json.loads(json.dumps(stored(backfills))), [("t", 9)], start_offered=False) == backfills


def test_of_what_is_long_over_nothing_is_kept() -> None:
    over = [Order(f"o-{i}", "s", "t").backfill().over("cancelled") for i in range(OVER_KEPT + 5)]
    assert list(stored(by_slot(LOAD, *over, ONE))) == ["t", *(b.slot for b in over[5:]), ONE.slot]


def test_a_list_of_keys_is_read_part_by_part() -> None:
    whole = Scope(keys=tuple((str(i),) for i in range(2 * KEYS_AT_ONCE + 1)))
    b, parts = ONE, []
    while not b.done:
        part = b.scope(whole)
        assert part.keys is not None
        if b.after is None and len(part.keys) > 1:
            b = b.chunk_done(["half"], 1, False, 1, whole)
            assert b.scope(whole) == part
            continue
        parts += part.keys
        b = b.chunk_done([part.keys[-1][0]], 1, True, 1, whole)
        assert b.after is None or b.done
    assert tuple(parts) == whole.keys


def test_one_that_reconciles_looks_at_the_topic_when_its_rows_are_read() -> None:
    b = Order("b-1", "s", "t", reconcile=True).backfill().chunk_done(["9"], 3, True, 5)
    assert (b.done, b.compares, b.looked, b.rows, b.read) == (False, True, "", 3, 5)
    b = b.compared("ff", 2)
    assert (b.done, b.looked, b.gone) == (False, "ff", 2)
    b = b.compared(None, 1)
    assert (b.done, b.ended, b.gone) == (True, "done", 3)
    assert Order("b-1", "s", "t").backfill().chunk_done(["9"], 3, True).done


def test_an_empty_last_chunk_leaves_the_place() -> None:
    assert ONE.chunk_done(["3"], 2, False).chunk_done(None, 0, True).after == ["3"]


def test_loads_one_after_the_other_and_what_is_asked_in_turn() -> None:
    other = Backfill("u", "initial")
    backfills, turns, read = by_slot(LOAD, other, ONE, TWO), Turns(), []
    for now in range(6):
        b = turns.next(backfills, (), (), {}, now)
        assert b is not None
        turns.took(b.slot, 10, now)
        read.append(b.slot)
    assert read == [LOAD.slot, ONE.slot, TWO.slot] * 2
    assert [b.slot for b in waiting(by_slot(LOAD.chunk_done(None, 0, True), other, ONE), paused={ONE.slot})] == ["u"]
    assert [b.slot for b in waiting(backfills, aside={"t"})] == ["u"]
    assert [b.slot for b in waiting(backfills, paused={"t"})] == ["u", ONE.slot, TWO.slot]


def test_a_throttle_lets_others_go_before() -> None:
    backfills, turns = by_slot(ONE, TWO), Turns()
    throttles = {ONE.slot: 10.0}
    turns.took(ONE.slot, 50, 100.0)
    turns.took(TWO.slot, 50, 100.0)
    assert turns.next(backfills, (), (), throttles, 104.9) == TWO
    assert turns.next(backfills, (), {TWO.slot}, throttles, 104.9) is None
    assert turns.next(backfills, (), (), throttles, 105.0) == ONE
    assert turns.next(backfills, (), (), {ONE.slot: 100.0}, 100.5) == ONE, "it was raised meanwhile"


def test_a_schema_backfill_is_one_of_them() -> None:
    backfills = with_schema_backfill(by_slot(LOAD.chunk_done(["1"], 1, True), ONE), "t", 2, start=True)
    assert [(b.name, b.cause, b.id("s")) for b in waiting(backfills)] == [
        ("schema-2", "schema", "s.t:schema-2"),
        ("b-1", "backfill", "b-1"),
    ]


def test_what_is_said_of_them() -> None:
    assert doing(by_slot(LOAD, ONE)) == ("initial load", 0, 9)
    loaded = LOAD.chunk_done(["9"], 9, True)
    assert doing(by_slot(loaded, ONE.chunk_done(["1"], 1, False, 2))) == ("backfill", 2, 4)
    assert doing(with_schema_backfill(by_slot(loaded), "t", 2, start=True)) == ("schema backfill", 0, 9)


@pytest.mark.parametrize("scope", [WHOLE, Scope(where="a = 1"), Scope(first=("1",))])
def test_what_is_no_list_has_one_part(scope: Scope) -> None:
    assert ONE.scope(scope) == scope
    assert scope.is_whole == (scope is WHOLE)
