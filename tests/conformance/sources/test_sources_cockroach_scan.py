"""A whole table by the server's own scan: in any order and pieces, as of a place of the stream, under load, killed and begun again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from capture_rig import Captured, Event
from cockroach_rig import CockroachRig
from sources_rig import PATIENCE_S, read_to_head
from test_capture_cockroach import changes, check_once_and_in_order, drive, table, writing

from millstream.capture.backfill import Order
from millstream.capture.connector import Connector
from millstream.catalogue.backfills import Backfills
from millstream.errors import Irrecoverable, Retryable
from millstream.sources.contract import Chunk, Delivery, Scans, Source

pytestmark = pytest.mark.servers

A = "public.a"
KEYS = 40  # of those that `changes` writes


def began(roach: CockroachRig, **options: Any) -> tuple[Source, Iterator[Delivery]]:
    source = roach.source(tables=(A,), **options)
    stream = source.stream(None)
    read_to_head(source, stream)
    return source, stream


def taken(source: Source, stream: Iterator[Delivery], rows: int, *, chunks: int = 1_000_000) -> list[Chunk]:
    """The chunks of a scan, to its end or so many; each mark is with the very next delivery."""
    assert isinstance(source, Scans)
    found: list[Chunk] = []
    give_up = time.monotonic() + PATIENCE_S
    while len(found) < chunks and not (found and found[-1].done):
        assert time.monotonic() < give_up, f"{len(found)} chunks"
        chunk = source.scanned("s", rows)
        delivery = next(stream)
        if chunk is not None:
            assert delivery.mark == chunk.mark
            found.append(chunk)
    return found


def test_a_scan_gives_every_row_as_of_a_place_that_was_passed(roach: CockroachRig) -> None:
    roach.run(f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(1, 500) AS s(g)")
    source, stream = began(roach)
    assert isinstance(source, Scans)
    place = next(stream).position.tables[A]
    at = source.begin_scan("s", A, None)
    assert at is not None and at >= place
    roach.run(f"UPDATE {A} SET v = 'new' WHERE id <= 100", f"DELETE FROM {A} WHERE id > 400", f"INSERT INTO {A} VALUES (1000, 'new')")
    chunks = taken(source, stream, 70)
    rows = [r for c in chunks for r in c.rows.to_pylist()]
    assert {r["id"]: r["v"] for r in rows} == dict.fromkeys(range(1, 501), "old")
    assert all(c.rows.num_rows <= 70 and c.read_point == at and c.last_key is None for c in chunks) and len(chunks) >= 8
    assert [c.done for c in chunks] == [False] * (len(chunks) - 1) + [True]
    with pytest.raises(Retryable):  # it is over
        source.scanned("s", 10)


def test_a_scan_begins_above_the_one_before_or_not_yet(roach: CockroachRig) -> None:
    source, stream = began(roach)
    assert isinstance(source, Scans)
    at = source.begin_scan("s", A, None)
    assert at is not None
    assert source.begin_scan("s", A, at) is None
    (empty,) = taken_of(source, stream, at)
    assert (empty.rows.num_rows, empty.done, empty.rows.schema.names) == (0, True, ["id", "v"])


def taken_of(source: Source, stream: Iterator[Delivery], above: tuple[int, int]) -> list[Chunk]:
    """Of a scan that begins as soon as the place is higher."""
    assert isinstance(source, Scans)
    give_up = time.monotonic() + PATIENCE_S
    while (at := source.begin_scan("s", A, above)) is None:
        assert time.monotonic() < give_up
        next(stream)
    assert at > above
    return taken(source, stream, 10)


def test_what_is_not_taken_waits_in_a_bounded_queue_and_a_scan_that_ends_early_says_so(roach: CockroachRig) -> None:
    roach.run(f"INSERT INTO {A} SELECT g, repeat('x', 1000) FROM generate_series(1, 3000) AS s(g)")
    source, stream = began(roach, batch_bytes=20_000)
    assert isinstance(source, Scans)
    source.begin_scan("s", A, None)
    (first,) = taken(source, stream, 5, chunks=1)
    assert 0 < first.rows.num_rows <= 5 and not first.done
    source.end_scan("s")
    source.end_scan("s")
    with pytest.raises(Retryable):
        source.scanned("s", 5)
    source.begin_scan("s", A, None)
    taken(source, stream, 5, chunks=1)
    roach.cut_feeds()
    with pytest.raises((Retryable, AssertionError)):  # what had come is given, then what happened
        assert sum(c.rows.num_rows for c in taken(source, stream, 500)) == 3000


def test_a_derived_table_is_scanned_and_filtered(roach: CockroachRig) -> None:
    roach.run(f"INSERT INTO {A} SELECT g, 'v' || (g % 3)::STRING FROM generate_series(1, 30) AS s(g)")
    source = roach.source(tables=({"table": A, "as": "some", "select": ["id"], "where": "v = 'v1'"},))
    stream = source.stream(None)
    read_to_head(source, stream)
    assert isinstance(source, Scans)
    assert source.begin_scan("s", "some", None) is not None
    rows = [r for c in taken(source, stream, 7) for r in c.rows.to_pylist()]
    assert sorted(r["id"] for r in rows) == [g for g in range(1, 31) if g % 3 == 1] and set(rows[0]) == {"id"}


# ---- through a connector


class Asked:
    """A captured table with backfills that people ask for."""

    def __init__(self, roach: CockroachRig, folder: Path) -> None:
        self.captured = Captured(roach, folder, {"chunk_bytes": 4_000, "batch_bytes": 4_000})
        self.orders = Backfills(sa.create_engine(f"sqlite:///{folder}/orders.db"), time.time)

    def open(self) -> Connector:
        if self.captured.connector is not None:
            self.captured.connector.close()
        self.captured.source = self.captured.rig.source(**self.captured.options)
        self.captured.connector = Connector(self.captured.source, self.captured.topics, self.captured.registry, orders=self.orders)
        self.captured.connector.open()
        return self.captured.connector

    def told(self, name: str = "whole") -> Any:
        return next(o.told for o in self.orders.everything() if o.order.name == name)

    def is_over(self) -> bool:
        return self.told().state in ("done", "failed", "cancelled")

    def reads(self) -> list[Event]:
        return [e for e in self.captured.events(A) if e["backfill"] == "whole"]


@pytest.fixture
def asked(roach: CockroachRig, tmp_path: Path) -> Iterator[Callable[[], Asked]]:
    made: list[Asked] = []

    def make() -> Asked:
        made.append(Asked(roach, tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.captured.close()


def check_reads(asked: Asked, rows: int) -> None:
    """Each key's newest run has one read at most; a read is never older than what stands before it, but for what stood there from a run
    that was broken off, and then tells no less than that."""
    last: dict[int, tuple[int, int]] = {}
    seen: dict[tuple[int, int], set[int]] = {}
    for e in asked.captured.events(A):
        key, version = (e["after"] or e["before"])["id"], (e["major"], e["minor"])
        assert version >= last.get(key, (0, 0)), f"{key}: {e['op']} {version} stands behind {last[key]}"
        last[key] = version
        if e["backfill"] == "whole":
            assert (e["op"], e["cause"], e["snapshot"]) == ("r", "backfill", "incremental")
            assert key not in seen.setdefault(version, set()), f"{key} was read twice in one scan"
            seen[version].add(key)
    assert sum(len(keys) for keys in seen.values()) <= rows * len(seen)


def test_under_load_killed_and_cut_off_it_ends_and_no_newer_row_is_replaced(roach: CockroachRig, asked: Callable[[], Asked]) -> None:
    count = 600
    roach.run(f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(0, {count - 1}) AS s(g)")
    one = asked()
    one.open()
    one.captured.catch_up()
    if not roach.is_cluster:
        roach.standin.faults.slow_s = 0.002  # the scan lasts, while rows change
    one.orders.ask(Order("whole", "rig", A, estimate=count, method="changefeed"))
    chance = random.Random(3)
    with writing(roach, changes(11)):
        for kill in range(3):
            drive(one.captured, lambda: one.is_over() or one.told().read > chance.randrange(50, 200))
            if kill % 2:
                roach.cut_feeds()
            else:
                one.open()
        if not roach.is_cluster:
            roach.standin.faults.slow_s = 0.0
        drive(one.captured, one.is_over)
    told = one.told()
    assert told.state == "done" and told.read <= count
    one.captured.catch_up()
    check_once_and_in_order(one.captured, A)
    check_reads(one, count)
    assert one.captured.rows(A) == table(roach, A)
    runs = {(e["major"], e["minor"]) for e in one.reads()}
    newest = {e["after"]["id"] for e in one.reads() if (e["major"], e["minor"]) == max(runs)}
    assert set(range(KEYS, count)) <= newest, "the last run read all that nobody changed"
    assert one.captured.state()["backfills"][f"{A} whole"]["begun"] == list(max(runs))


def test_a_changed_table_lets_it_begin_again_and_a_cancelled_one_ends(roach: CockroachRig, asked: Callable[[], Asked]) -> None:
    roach.run(f"INSERT INTO {A} SELECT g, 'old' FROM generate_series(0, 299) AS s(g)")
    one = asked()
    connector = one.open()
    one.captured.catch_up()
    one.orders.ask(Order("whole", "rig", A, estimate=300, method="changefeed", throttle=40.0))
    drive(one.captured, lambda: one.told().read > 0)
    assert one.told().read < 300
    roach.run(f"ALTER TABLE {A} ADD COLUMN w STRING", f"UPSERT INTO {A} VALUES (0, 'new', 'w')")
    drive(one.captured, lambda: len(one.captured.schema(A).fields) == 3)
    one.orders.throttle("whole", None)
    drive(one.captured, one.is_over)
    assert one.told().state == "done"
    runs = sorted({(e["major"], e["minor"]) for e in one.reads()})
    assert len(runs) == 2 and {len([e for e in one.reads() if (e["major"], e["minor"]) == runs[-1]])} <= {299, 300}
    assert one.captured.rows(A) == table(roach, A)
    one.orders.ask(Order("given-up", "rig", A, estimate=300, method="changefeed", throttle=10.0))
    drive(one.captured, lambda: one.told("given-up").read > 0)
    one.orders.want("given-up", "cancel")
    drive(one.captured, lambda: one.told("given-up").state == "cancelled")
    connector.step()
    with pytest.raises((Retryable, Irrecoverable)):
        one.captured.source.scanned(f"{A} given-up", 1)  # type: ignore[attr-defined]
