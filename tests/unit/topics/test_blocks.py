"""Packing: the same records back, in pieces that are bounded, whatever their sizes; and no changed bit goes unseen."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.errors import Irrecoverable
from millstream.topics.contract import Block
from millstream.topics.local import blocks
from millstream.topics.local.blocks import joined, packed, unpacked

Record = tuple[bytes, bytes]


def block_of(found: list[Record], schema_id: int = 3) -> Block:
    keys, values = [k for k, _ in found], [v for _, v in found]
    ends = [np.cumsum([len(x) for x in side], dtype=np.int64).astype("<i4").tobytes() for side in (keys, values)]
    events = sum(bool(v) for v in values)
    return Block("t", schema_id, len(found), events, b"".join(keys), ends[0], b"".join(values), ends[1])


RECORDS = st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.binary(max_size=40)), max_size=30)


@settings(deadline=None)
@given(RECORDS, st.sampled_from([1, 10, 100, 10_000]), st.integers(0, 90))
def test_records_come_back_from_any_offset(found: list[Record], piece_bytes: int, offset: int) -> None:
    # A tombstone follows a delete: none begins a block, none follows another.
    found = [r for n, r in enumerate(found) if r[1] or (n and found[n - 1][1])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "STORED_BYTES_MAX", piece_bytes)
        pieces = list(packed(block_of(found)))
    assert sum(p.records for p in pieces) == len(found)
    assert sum(p.events for p in pieces) == sum(bool(v) for _, v in found)
    if not pieces:
        return
    read, first = [], 60
    for piece in pieces:
        after = first + piece.records
        read.append(unpacked(piece, "t", first, after, piece.checksum("t", first, after)))
        first = after
    data, starts, ends, offsets = joined(read, offset)
    wanted = [(60 + n, value) for n, (_, value) in enumerate(found) if value and 60 + n >= offset]
    assert [(o, data[a:b]) for o, a, b in zip(offsets.tolist(), starts.tolist(), ends.tolist(), strict=True)] == wanted


@settings(deadline=None)
@given(RECORDS, st.sampled_from([50, 200]))
def test_a_piece_is_little_longer_than_wanted_and_never_begins_with_a_tombstone(found: list[Record], piece_bytes: int) -> None:
    found = [r for n, r in enumerate(found) if r[1] or (n and found[n - 1][1])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "STORED_BYTES_MAX", piece_bytes)
        pieces = list(packed(block_of(found)))
    at = 0
    for piece in pieces:
        mine = found[at : at + piece.records]
        assert mine[0][1], "a delete and its tombstone were parted"
        assert sum(len(k) + len(v) for k, v in mine) <= piece_bytes + 2 * (9 + 40)
        at += piece.records


def test_a_large_block_is_cut() -> None:
    chance = random.Random(1)
    found = [(b"k" * 10, chance.randbytes(1000)) for _ in range(10_000)]
    pieces = list(packed(block_of(found)))
    assert [p.records for p in pieces] == pytest.approx([4152, 4152, 1696], abs=3)
    assert max(p.raw_bytes for p in pieces) < blocks.STORED_BYTES_MAX + 40_000


def test_no_changed_bit_goes_unseen() -> None:
    (piece,) = packed(block_of([(b"key", b"value" * 20), (b"k", b"")]))
    checksum = piece.checksum("t", 5, 7)
    unpacked(piece, "t", 5, 7, checksum)
    changed = [
        (replace(piece, payload=bytes([*piece.payload[:n], piece.payload[n] ^ 1, *piece.payload[n + 1 :]])), "t", 5, 7)
        for n in range(len(piece.payload))
    ]
    changed += [(replace(piece, **{name: getattr(piece, name) + 1}), "t", 5, 7) for name in ("records", "events", "schema_id", "raw_bytes")]
    changed += [(replace(piece, codec="lz4"), "t", 5, 7), (replace(piece, payload=None), "t", 5, 7)]
    changed += [(piece, "u", 5, 7), (piece, "t", 6, 8), (piece, "t", 5, 8)]
    for other, topic, first, after in changed:
        with pytest.raises(Irrecoverable) as caught:
            unpacked(other, topic, first, after, checksum)
        assert (caught.value.code, caught.value.where) == ("topic_damaged", f"{topic}@{first}")


def test_a_codec_of_another_version_is_named() -> None:
    (piece,) = packed(block_of([(b"k", b"v")]))
    other = replace(piece, codec="later")
    with pytest.raises(Irrecoverable, match="'later'"):
        unpacked(other, "t", 0, 1, other.checksum("t", 0, 1))
