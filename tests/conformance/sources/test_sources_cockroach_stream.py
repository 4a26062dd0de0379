"""What the CockroachDB source promises: changes, places, chunks, losses of the connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from cockroach_rig import CockroachRig, key_of, told_once
from sources_rig import PATIENCE_S, Seen, read, read_to_head

from millstream.errors import Retryable
from millstream.events.progress import Position
from millstream.sources.contract import Delivery, Source

pytestmark = pytest.mark.servers

A, B = "public.a", "public.b"


def row(key: int, value: str | None) -> dict[str, Any]:
    return {"id": key, "v": value}


def started(source: Source, resume: Position | None = None) -> Iterator[Delivery]:
    """A stream whose feeds are asked for: what is written from now on comes in it."""
    stream = source.stream(resume)
    next(stream)
    return stream


def test_tables_are_told_in_the_definitions_order(roach: CockroachRig) -> None:
    source = roach.source(tables=(B, A))
    found = source.tables()
    assert [t.name for t in found] == [B, A]
    assert [(f.name, str(f.type), f.nullable) for f in found[0].schema.fields] == [("id", "int64", False), ("v", "text", True)]
    assert (found[0].schema.key, found[0].grade) == (("id",), "whole")
    origin = found[0].origin
    assert (origin.connector, origin.name, origin.db, origin.schema, origin.table) == ("cockroachdb", "rig", roach.database, "public", "b")
    source.check()
    source.check()


def test_each_change_is_told_with_its_images(roach: CockroachRig) -> None:
    source = roach.source()
    stream = started(source)
    roach.run(
        f"INSERT INTO {A} VALUES (1, 'one')",
        f"UPDATE {A} SET v = 'uno' WHERE id = 1",
        f"UPDATE {A} SET v = NULL WHERE id = 1",
        f"UPSERT INTO {A} VALUES (1, 'back')",
        f"DELETE FROM {A} WHERE id = 1",
        f"INSERT INTO {B} VALUES (1, 'other')",
    )
    events = told_once(read_to_head(source, stream).events)
    assert [(e["op"], e["before"], e["after"]) for e in events if e["table"] == A] == [
        ("c", None, row(1, "one")),
        ("u", row(1, "one"), row(1, "uno")),
        ("u", row(1, "uno"), row(1, None)),
        ("u", row(1, None), row(1, "back")),
        ("d", row(1, "back"), None),
    ]
    assert [(e["op"], e["after"]) for e in events if e["table"] == B] == [("c", row(1, "other"))]
    assert all(e["ts_us"] == e["major"] // 1000 for e in events)
    assert all(e["ts_us"] == pytest.approx(time.time() * 1e6, abs=60e6) for e in events)
    assert all(e["incarnation"] == 1 and e["snapshot"] is None and e["cause"] is None and e["holes"] is None for e in events)


def test_a_changed_key_is_a_delete_and_a_create_of_one_version(roach: CockroachRig) -> None:
    source = roach.source()
    stream = started(source)
    roach.run(f"INSERT INTO {A} VALUES (1, 'x')", f"UPDATE {A} SET id = 2 WHERE id = 1")
    events = told_once(read_to_head(source, stream).events)
    moved = [e for e in events if e["major"] == max(e["major"] for e in events)]
    assert sorted((e["op"], key_of(e)[1]) for e in moved) == [("c", 2), ("d", 1)]


def test_rows_of_one_transaction_have_one_version_and_a_row_of_nothing_is_counted(roach: CockroachRig) -> None:
    source = roach.source()
    stream = started(source)
    roach.transaction(
        *(f"INSERT INTO {t} VALUES ({i}, 'x')" for i in range(3) for t in (A, B)),
        f"UPDATE {A} SET v = 'y' WHERE id = 1",
        f"INSERT INTO {A} VALUES (9, 'never seen')",
        f"DELETE FROM {A} WHERE id = 9",
    )
    seen = read_to_head(source, stream)
    events = told_once(seen.events)
    assert len({(e["major"], e["minor"]) for e in events}) == 1
    assert sorted((key_of(e), e["after"]["v"]) for e in events) == sorted(
        [((t, i), "y" if (t, i) == (A, 1) else "x") for i in range(3) for t in (A, B)]
    )
    assert sum(d.dropped.get("deletes of nothing", 0) for d in seen.deliveries) >= 1


def test_places_rise_and_say_up_to_where_all_was_given(roach: CockroachRig) -> None:
    source = roach.source()
    stream = started(source)
    for i in range(20):
        roach.run(f"UPSERT INTO {A} VALUES ({i % 7}, 'n{i}')", f"UPSERT INTO {B} VALUES ({i % 5}, 'n{i}')")
    seen = read_to_head(source, stream)
    assert len(told_once(seen.events)) == 40
    for before, after in pairwise(seen.deliveries):
        assert all(after.position.tables[t] >= place for t, place in before.position.tables.items())
    assert all(d.position.tables.keys() == {A, B} for d in seen.deliveries)
    assert all((d.position.major, d.position.minor) == min(d.position.tables.values()) for d in seen.deliveries)
    told: dict[Any, set[tuple[int, int]]] = {}
    place: dict[str, tuple[int, int]] = {}
    for delivery in seen.deliveries:
        for batch in delivery.batches:
            for event in ({"table": batch.topic, **e} for e in batch.rows.to_pylist()):
                version = (event["major"], event["minor"])
                known = told.setdefault(key_of(event), set())
                assert version in known or version > place.get(event["table"], (0, 0)), "told first below the place"
                known.add(version)
        place |= delivery.position.tables


def test_a_stream_resumes_after_any_place_and_tells_all_above_it(roach: CockroachRig) -> None:
    source = roach.source()
    stream = started(source)
    seen = Seen()
    for i in range(12):
        roach.run(f"UPSERT INTO {A} VALUES ({i % 5}, 'n{i}')")
        if i % 4 == 3:
            for delivery in read_to_head(source, stream).deliveries:  # so that places lie between the changes
                seen.add(delivery)
    source.close()
    whole = told_once(seen.events)
    assert len(whole) == 12
    for position in sorted({d.position.tables[A]: d.position for d in seen.deliveries}.values()):
        again = roach.source()
        given = told_once(read_to_head(again, again.stream(Position.of(position.json()))).events)
        again.close()
        above = [e for e in whole if (e["major"], e["minor"]) > position.tables[A]]
        assert by_key(e for e in given if (e["major"], e["minor"]) > position.tables[A]) == by_key(above)


def by_key(events: Iterable[dict[str, Any]]) -> dict[Any, list[Any]]:
    """What each key's row was, one after the other."""
    found: dict[Any, list[Any]] = {}
    for e in events:
        found.setdefault(key_of(e), []).append((e["op"], e["before"], e["after"], e["major"], e["minor"]))
    return found


def test_an_idle_stream_answers_and_reaches_the_head(roach: CockroachRig) -> None:
    source = roach.source()
    stream = started(source)
    begun = time.monotonic()
    assert read(stream, lambda s: s.deliveries[-1].idle).events == []
    assert time.monotonic() - begun < 5
    assert read_to_head(source, stream).events == []


def test_a_large_transaction_comes_in_pieces(roach: CockroachRig) -> None:
    source = roach.source(batch_messages=1000)
    stream = started(source)
    roach.run(f"INSERT INTO {A} SELECT g, 'x' FROM generate_series(1, 5000) AS s(g)")
    seen = read_to_head(source, stream)
    assert sorted(key_of(e)[1] for e in told_once(seen.events)) == list(range(1, 5001))
    assert len({e["major"] for e in seen.events}) == 1
    assert max(sum(map(len, d.batches)) for d in seen.deliveries) <= 1000


def test_a_lost_connection_is_retryable_and_loses_nothing(roach: CockroachRig) -> None:
    source = roach.source()
    stream = started(source)
    roach.run(f"INSERT INTO {A} VALUES (1, 'x')")
    seen = read_to_head(source, stream)
    roach.cut_connections()
    with pytest.raises(Retryable):
        read(stream, lambda _: False)
    roach.run(f"INSERT INTO {A} VALUES (2, 'y')")
    rest = read_to_head(source, source.stream(seen.position))
    assert sorted(key_of(e)[1] for e in told_once(seen.events + rest.events)) == [1, 2]


@pytest.mark.parametrize("ends", ["drain", "cancel"])
def test_a_feed_that_the_server_ends_is_opened_again_where_it_was(roach: CockroachRig, ends: str) -> None:
    source = roach.source()
    stream = started(source)
    seen = read_to_head(source, stream)
    roach.run(f"INSERT INTO {A} VALUES (1, 'x')")
    getattr(roach.standin.faults, ends)()
    with pytest.raises(Retryable) as ended:
        read(stream, lambda _: False)
    assert ended.value.code == {"drain": "connection", "cancel": "cancelled"}[ends]
    rest = read_to_head(source, source.stream(seen.position))
    assert [key_of(e)[1] for e in told_once(rest.events)] == [1]


def test_close_ends_a_stream_that_waits(roach: CockroachRig) -> None:
    source = roach.source()
    stream = started(source)
    ended = threading.Event()

    def take() -> None:
        for _ in stream:
            continue
        ended.set()

    taker = threading.Thread(target=take)
    taker.start()
    source.close()
    assert ended.wait(PATIENCE_S)
    taker.join()
    source.close()


def test_one_feed_whatever_the_tables_and_a_feed_each_by_choice(roach: CockroachRig) -> None:
    for feeds, count in (("one", 1), ("per_table", 2)):
        source = roach.source(feeds=feeds)
        stream = started(source)
        read_to_head(source, stream)
        assert roach.feeds() == count
        source.close()


def test_a_table_added_later_has_a_feed_of_its_own_until_both_are_at_one_place(roach: CockroachRig) -> None:
    source = roach.source(tables=(A,))
    position = read_to_head(source, started(source)).position
    source.close()
    roach.run(f"INSERT INTO {A} VALUES (1, 'while away')", f"INSERT INTO {B} VALUES (1, 'before it was watched')")
    both = roach.source()
    stream = both.stream(position)
    first = next(stream)
    assert len(both._stream._feeds) == 2  # type: ignore[attr-defined]
    seen = read_to_head(both, stream)
    seen.add(first)
    assert [key_of(e) for e in told_once(seen.events)] == [(A, 1)]
    read(stream, lambda _: len(both._stream._feeds) == 1)  # type: ignore[attr-defined]
    roach.run(f"UPDATE {A} SET v = 'x'", f"UPDATE {B} SET v = 'x'")
    seen = read_to_head(both, stream)
    assert {key_of(e) for e in seen.events if e["after"]["v"] == "x" and e["op"] == "u"} == {(A, 1), (B, 1)}
    for before, after in pairwise(seen.deliveries):
        assert all(after.position.tables[t] >= place for t, place in before.position.tables.items())
    assert roach.feeds() == 1


def test_what_comes_before_a_table_is_set_aside_is_told_first_at_a_place_before_it(roach: CockroachRig) -> None:
    """However much comes together: what is beside the setting aside of a table is not told of it any more."""
    day, never = "2026-01-01", "infinity"
    roach.run("CREATE TABLE d (id DATE PRIMARY KEY, v STRING)")
    source = roach.source(tables=("public.d", B))
    stream = started(source)
    roach.run(
        f"INSERT INTO d VALUES ('{day}', 'told')", f"INSERT INTO d VALUES ('{never}', 'not told')", f"INSERT INTO {B} VALUES (1, 'told')"
    )
    seen = read(stream, lambda s: any(d.aside for d in s.deliveries) and bool(s.of(B)))
    aside = next(i for i, d in enumerate(seen.deliveries) if d.aside)
    assert [(name, why.code) for name, why in seen.deliveries[aside].aside] == [("public.d", "unfit_key")]
    assert not seen.deliveries[aside].batches
    (told,) = seen.of("public.d")
    assert (str(told["after"]["id"]), told["after"]["v"]) == (day, "told")
    before = seen.deliveries[:aside]
    assert any(b.topic == "public.d" for d in before for b in d.batches)
    assert all(d.position.tables["public.d"] <= (told["major"], told["minor"]) for d in before if d.batches)
