"""Last versions of keys, in columns, held to a dictionary; and fingerprints of keys."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from millstream.capture.fingerprints import Fingerprints, Prints
from millstream.capture.keytimes import RUN_BYTES, SLOT_BYTES, SLOTS_MIN, KeyTimes, Times


def prints(*keys: tuple[int, int]) -> Prints:
    return Prints(np.array([k[0] for k in keys], np.uint64), np.array([k[1] for k in keys], np.uint64))


def times(*versions: tuple[int, int]) -> Times:
    return Times(np.array([v[0] for v in versions], np.uint64), np.array([v[1] for v in versions], np.uint32))


def admitted(last: dict[tuple[int, int], tuple[int, int]], keys: list[tuple[int, int]], versions: list[tuple[int, int]]) -> list[bool]:
    """The oracle, which it changes."""
    fresh = []
    for key, version in zip(keys, versions, strict=True):
        fresh.append(version > last.get(key, (0, 0)))
        if fresh[-1]:
            last[key] = version
    return fresh


@pytest.mark.parametrize("seed", range(12))
def test_it_admits_what_a_dictionary_does(seed: int, tmp_path: Path) -> None:
    """Keys of which many share half of their fingerprint, versions that are equal or go back, frontiers and runs in between."""
    rng = random.Random(seed)
    known = KeyTimes((0, 0), tmp_path)
    last: dict[tuple[int, int], tuple[int, int]] = {}
    firsts, spread, now, frontier = rng.choice([3, 50, 10**9]), rng.choice([1, 20, 4000]), 1, (0, 0)
    for _ in range(40):
        count = rng.choice([0, 1, 7, 300])
        keys = [(rng.randint(1, firsts), rng.randint(1, spread)) for _ in range(count)]
        versions = [(rng.randint(max(frontier[0] + 1, now - 30), now + 10), rng.randint(0, 2)) for _ in range(count)]
        now += rng.choice([0, 0, 5, 40])
        wanted = admitted(last, keys, versions)
        assert known.admit(prints(*keys), times(*versions)).tolist() == wanted
        if rng.random() < 0.2:
            known.spill()
        if rng.random() < 0.3:
            frontier = max(frontier, (now - rng.randint(0, 60), 2)) if now > 60 else frontier
            known.move(frontier)
        asked = [(rng.randint(1, firsts), rng.randint(1, spread)) for _ in range(20)] + rng.sample(sorted(last), min(20, len(last)))
        at = (rng.randint(frontier[0], now + 10), 2)
        assert known.reach(prints(*asked), at).tolist() == [last.get(key, (0, 0)) >= at for key in asked]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spilt", [False, True])
def test_what_is_held_is_kept_wherever_the_frontier_goes(spilt: bool, tmp_path: Path) -> None:
    known = KeyTimes((4, 0), tmp_path)
    known.hold((4, 9))
    assert known.admit(prints((1, 1), (2, 2)), times((5, 0), (4, 5))).all()
    if spilt:
        known.spill()
    known.move((90, 0))
    assert known.admit(prints(*((key, 7) for key in range(3, 2 * SLOTS_MIN))), times(*[(91, 0)] * (2 * SLOTS_MIN - 3))).all()
    assert known.reach(prints((1, 1), (3, 7)), (4, 9)).tolist() == [True, True]
    assert known.admit(prints((1, 1)), times((5, 0))).tolist() == [False]
    known.hold(None)
    known.move((91, 1))
    assert (known.nbytes, known.on_disk) == (SLOTS_MIN * SLOT_BYTES, 0)


def test_one_hot_key_in_a_batch_rises_and_falls() -> None:
    versions = [(5, 0), (7, 1), (7, 1), (6, 0), (7, 2), (2**63, 0), (8, 0)]
    kept = KeyTimes((0, 0)).admit(prints(*[(1, 1)] * 7), times(*versions))
    assert kept.tolist() == [True, True, False, False, True, True, False]


def test_what_the_frontier_passed_takes_no_room_and_what_it_has_not_does() -> None:
    known = KeyTimes((0, 0))
    rng = np.random.default_rng(1)
    for major in range(1, 61):
        keys = Prints(rng.integers(1, 2**64, 2000, np.uint64), rng.integers(0, 2**64, 2000, np.uint64))
        assert known.admit(keys, Times(np.full(2000, major, np.uint64), np.zeros(2000, np.uint32))).all()
        known.move((major - 1, 1))
    assert known.nbytes <= 16_384 * SLOT_BYTES, "not the room of 120,000 keys"
    known.spill()
    assert (known.nbytes, known.on_disk) == (SLOTS_MIN * SLOT_BYTES, 2000 * RUN_BYTES)
    known.move((60, 0))
    assert known.on_disk == 2000 * RUN_BYTES, "what lies at the frontier may be read once more"
    known.move((60, 1))
    assert known.on_disk == 0


def test_repeats_are_found_in_every_run_and_late_events_too() -> None:
    known = KeyTimes((0, 0))
    for major in (10, 20, 30):
        assert known.admit(prints((major, 1), (1, 1)), times((major, 0), (major + 5, 0))).all()
        known.spill()
    asked = [(10, 1), (20, 1), (30, 1), (1, 1), (1, 1), (2, 1)]
    assert known.admit(prints(*asked), times((10, 0), (19, 0), (30, 1), (15, 0), (36, 0), (3, 0))).tolist() == [
        False, False, True, False, True, True,
    ]  # fmt: skip


def test_fingerprints_are_equal_for_equal_bytes_alone_wherever_they_stand() -> None:
    prints_of = Fingerprints().of
    keys = [b"", b"\0", b"\0\0", b"a", b"a\0", b"12345678", b"123456789", b"12345678" * 20, b"12345678" * 20 + b"\0", b"x" * 7, b"x" * 8]
    array = pa.array([b"before", *keys, *keys, b"after"], pa.binary()).slice(1, 2 * len(keys))
    found = prints_of(array)
    pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert pairs[: len(keys)] == pairs[len(keys) :] and len(set(pairs)) == len(keys)
    again = prints_of(pa.array(keys, pa.binary()))
    assert list(zip(again.first.tolist(), again.second.tolist(), strict=True)) == pairs[: len(keys)]
    other = Fingerprints().of(pa.array(keys, pa.binary()))
    assert not set(other.first.tolist()) & set(found.first.tolist())
    assert len(prints_of(pa.array([], pa.binary()))) == 0


def test_fingerprints_of_many_keys_differ_in_each_half() -> None:
    keys = pa.array([f"{i:07d}".encode() for i in range(20_000)], pa.binary())
    found = Fingerprints().of(keys)
    assert len(set(found.first.tolist())) == len(set(found.second.tolist())) == 20_000
    low = np.bincount((found.first & np.uint64(63)).astype(np.intp), minlength=64)
    assert low.min() > 200 and low.max() < 430
