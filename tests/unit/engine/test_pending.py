"""The queue of pending keys: each once, counted without a scan, fresh ones soon, and none for ever."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from millstream.engine import pending
from millstream.engine.pending import Pending
from millstream.engine.store import Store
from millstream.events.types import Field, Type

SLICE = 1_000
FANOUT = 20 * SLICE


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "s.duckdb")
    with store.transaction():
        store.create("root", [Field("id", Type("int64"), 1), Field("f", Type("int64"), 2)], ("id",), [("f",)])
        store.insert_from("root", ["id", "f"], f"(SELECT i AS id, 7 AS f FROM range({FANOUT}) r(i))")
    yield store
    store.close()


def queue(store: Store) -> Pending:
    return Pending("s", [Field("id", Type("int64"), 1)], store)


def created(store: Store) -> Pending:
    made = queue(store)
    with store.transaction():
        made.create()
    return made


def keys(*ids: int) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64())})


def fan_out(store: Store, q: Pending, since: int = 1) -> None:
    with store.transaction():
        q.add_from("root", ("f",), pa.table({"f": [7]}), ("id",), since, ts_us=since)


def slice_of(store: Store, q: Pending, limit: int = SLICE) -> set[int]:
    with store.transaction():
        taken = q.take(limit)
        q.done(taken)
    found = taken.keys.column("id").to_pylist()
    assert len(found) == len(set(found)) <= limit
    return set(found)


def test_a_fresh_key_goes_with_the_next_slice_while_the_fan_out_shrinks(store: Store) -> None:
    q = created(store)
    fan_out(store, q)
    assert q.count == FANOUT
    for round_ in range(10):
        fresh = 1_000_000 + round_
        with store.transaction():
            q.add(keys(fresh), 2 + round_, ts_us=0)
        before = q.count
        taken = slice_of(store, q)
        assert fresh in taken
        assert before - q.count == SLICE, "the rest of the slice is the fan-out's"


def test_a_key_of_the_fan_out_that_changes_again_overtakes_it(store: Store) -> None:
    """Wherever it would have stood: it is not pended twice, and goes with the next slice."""
    q = created(store)
    fan_out(store, q)
    with store.transaction():
        q.add(keys(FANOUT - 1, FANOUT // 2), 2, ts_us=0)
    assert q.count == FANOUT
    assert {FANOUT - 1, FANOUT // 2} <= slice_of(store, q)
    assert q.count == FANOUT - SLICE


def test_nothing_starves_while_fresh_keys_keep_coming(store: Store) -> None:
    """More than a slice can take, in every round: the fan-out is through all the same, by half slices."""
    q = created(store)
    fan_out(store, q)
    left, rounds = set(range(FANOUT)), 0
    while left:
        with store.transaction():
            first = 1_000_000 + rounds * 2 * SLICE
            q.add(keys(*range(first, first + 2 * SLICE)), 2 + rounds, ts_us=0)
        left -= slice_of(store, q)
        rounds += 1
    assert rounds <= FANOUT // (SLICE // 2)


def test_slices_of_one_key_go_to_either_in_turn(store: Store) -> None:
    q = created(store)
    fan_out(store, q)
    with store.transaction():
        q.add(keys(*range(1_000_000, 1_000_010)), 2, ts_us=0)
    taken = [next(iter(slice_of(store, q, 1))) >= 1_000_000 for _ in range(10)]
    assert taken.count(True) == 5


def test_it_is_a_set_that_survives(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Random additions, slices, cancelled transactions and openings anew, against a set; the count is always right."""
    monkeypatch.setattr(pending, "SMALL", 5)
    rng, q, truth = random.Random(5), created(store), set[int]()
    for turn in range(200):
        some = set(rng.sample(range(40), rng.choice([1, 3, 12])))
        match rng.randrange(4):
            case 0 | 1:
                with store.transaction():
                    q.add(keys(*some), turn, ts_us=turn)
                truth |= some
            case 2:
                taken = slice_of(store, q, rng.choice([1, 4, 50]))
                assert taken <= truth
                assert taken or not truth
                truth -= taken
            case 3:
                with pytest.raises(RuntimeError), store.transaction():
                    q.add(keys(*some), turn, ts_us=0)
                    q.done(q.take(7))
                    raise RuntimeError
                q = queue(store)
        assert q.count == len(truth) == store.count("pending s")
        assert {r[0] for r in store.rows('SELECT id FROM "pending s"')} == truth


def test_a_unit_of_several_columns(store: Store) -> None:
    q = Pending("t", [Field("a", Type("int64"), 1), Field("b", Type("text"), 2)], store)
    units = pa.table({"x": pa.array([1, 1, 2], pa.int64()), "y": ["u", "w", "u"]})
    with store.transaction():
        q.create()
        q.add(units, 1, ts_us=5)
        q.add(units.slice(1), 2, ts_us=9)
    assert q.count == 3
    with store.transaction():
        taken = q.take(10)
        q.done(taken)
    assert sorted(map(tuple, (r.values() for r in taken.keys.to_pylist()))) == [(1, "u"), (1, "w"), (2, "u")]
    assert q.count == 0
