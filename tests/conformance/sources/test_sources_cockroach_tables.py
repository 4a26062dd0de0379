"""Tables that change while they are watched, and what the server no longer has."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from cockroach_rig import CLUSTER, CockroachRig, key_of, told_once
from sources_rig import Seen, read, read_to_head

from millstream.errors import Refused, Retryable
from millstream.events.progress import Position
from millstream.events.types import UNKNOWN, Constant
from millstream.sources.contract import Delivery, Source

pytestmark = pytest.mark.servers

A, B = "public.a", "public.b"
# Where the versions behave otherwise; all else is shown on 22.1 in the long run alone.
BOTH = pytest.mark.parametrize("roach", ["26.1", "22.1", CLUSTER], indirect=True)


def started(source: Source, resume: Position | None = None) -> Iterator[Delivery]:
    stream = source.stream(resume)
    next(stream)
    return stream


def loaded(roach: CockroachRig, **options: Any) -> tuple[Source, Iterator[Delivery]]:
    """A source that reads on from where its tables have three rows each."""
    roach.run(*(f"INSERT INTO {t} VALUES (1, 'one'), (2, 'two'), (3, 'three')" for t in (A, B)))
    source = roach.source(**options)
    stream = started(source)
    read_to_head(source, stream)
    return source, stream


def changed(roach: CockroachRig, source: Source, stream: Iterator[Delivery], *ddl: str) -> Seen:
    """An update before and one after a change of the schema, all read."""
    roach.run(f"UPDATE {A} SET v = 'before' WHERE id = 1", *ddl, f"UPDATE {A} SET v = 'after' WHERE id = 1")
    return read_to_head(source, stream)


def schemas(seen: Seen) -> list[tuple[str, ...]]:
    """The columns in which rows of A were told, each as it first was."""
    found = [b.schema.names for d in seen.deliveries for b in d.batches if b.topic == A]
    return list(dict.fromkeys(found))


def field(seen: Seen, name: str) -> Any:
    return [b.schema for d in seen.deliveries for b in d.batches if b.topic == A and name in b.schema.names][-1][name]


def fresh(seen: Seen) -> list[tuple[str, Any, Any]]:
    return [(e["op"], e["before"], e["after"]) for e in told_once(seen.of(A)) if e["op"] != "r"]


def test_an_added_column_without_default(roach: CockroachRig) -> None:
    source, stream = loaded(roach)
    seen = changed(roach, source, stream, f"ALTER TABLE {A} ADD COLUMN n INT8")
    assert schemas(seen) == [("id", "v"), ("id", "v", "n")]
    assert fresh(seen) == [
        ("u", {"id": 1, "v": "one"}, {"id": 1, "v": "before"}),
        ("u", {"id": 1, "v": "before", "n": None}, {"id": 1, "v": "after", "n": None}),
    ]
    assert field(seen, "n").fill is None


@BOTH
def test_an_added_column_with_a_constant_tells_no_row_again(roach: CockroachRig) -> None:
    source, stream = loaded(roach)
    seen = changed(roach, source, stream, f"ALTER TABLE {A} ADD COLUMN n INT8 NOT NULL DEFAULT 7")
    assert [e for e in seen.of(A) if e["op"] == "r"] == []
    assert [after for _, _, after in fresh(seen)][-1] == {"id": 1, "v": "after", "n": 7}
    assert len(fresh(seen)) == 2, "rows that were told again came on as updates"
    assert field(seen, "n").fill == Constant("7")
    assert sum(d.dropped.get("covered", 0) for d in seen.deliveries) >= 3


def test_a_default_that_came_later_leaves_old_rows_null(roach: CockroachRig) -> None:
    source, stream = loaded(roach)
    seen = changed(roach, source, stream, f"ALTER TABLE {A} ADD COLUMN n INT8", f"ALTER TABLE {A} ALTER COLUMN n SET DEFAULT 7")
    assert field(seen, "n").fill is None


@BOTH
def test_a_computed_column_tells_every_row_again_marked(roach: CockroachRig) -> None:
    source, stream = loaded(roach)
    seen = changed(roach, source, stream, f"ALTER TABLE {A} ADD COLUMN n INT8 AS (id * 2) STORED")
    again = {e["after"]["id"]: e for e in seen.of(A) if e["op"] == "r"}
    assert {key: e["after"]["n"] for key, e in again.items()} == {1: 2, 2: 4, 3: 6}
    assert all(e["cause"] == "schema" and e["snapshot"] == "incremental" and e["before"] is None for e in again.values())
    assert len({e["backfill"] for e in again.values()}) == 1
    assert len(fresh(seen)) == 2, "rows that were told again came on as updates"


@BOTH
def test_a_dropped_column_tells_no_row_again(roach: CockroachRig) -> None:
    source, stream = loaded(roach)
    seen = changed(roach, source, stream, f"ALTER TABLE {A} DROP COLUMN v", f"ALTER TABLE {A} ADD COLUMN v STRING")
    assert [e for e in seen.of(A) if e["op"] == "r"] == []


def test_a_renamed_column_keeps_its_id(roach: CockroachRig) -> None:
    source, stream = loaded(roach)
    before = source.tables()[0].schema["v"].id
    roach.run(f"ALTER TABLE {A} RENAME COLUMN v TO w", f"UPDATE {A} SET w = 'after' WHERE id = 1")
    seen = read_to_head(source, stream)
    assert schemas(seen) == [("id", "w")]
    assert field(seen, "w").id == before
    assert fresh(seen) == [("u", {"id": 1, "w": "one"}, {"id": 1, "w": "after"})]


def test_a_converted_column_leaves_old_rows_unknown(roach: CockroachRig) -> None:
    if roach.is_old:
        pytest.skip("22.1 converts no column")
    roach.run(f"ALTER TABLE {A} ADD COLUMN n INT8 DEFAULT 7")
    source, stream = loaded(roach)
    read_to_head(source, stream)
    seen = changed(roach, source, stream, f"ALTER TABLE {A} ALTER COLUMN n TYPE STRING")
    told = field(seen, "n")
    assert (str(told.type), told.fill) == ("text", UNKNOWN)
    assert [after["n"] for _, _, after in fresh(seen)][-1] == "7"
    # Also where nothing was told of the table since, and the process was another one.
    position = Position.of(seen.position.json())
    source.close()
    again = roach.source()
    stream = started(again, position)
    roach.run(f"UPDATE {A} SET v = 'later' WHERE id = 2")
    assert field(read_to_head(again, stream), "n").fill is UNKNOWN


def test_a_renamed_table_goes_on_under_the_name_of_the_definition(roach: CockroachRig) -> None:
    source, stream = loaded(roach)
    roach.run(f"ALTER TABLE {A} RENAME TO c", "UPDATE public.c SET v = 'after' WHERE id = 1")
    seen = read_to_head(source, stream)
    assert [(e["table"], e["after"]["v"]) for e in told_once(seen.events)] == [(A, "after")]
    # A stream that is opened again follows it by its id.
    roach.cut_connections()
    with pytest.raises(Retryable):
        read(stream, lambda _: False)
    roach.run("UPDATE public.c SET v = 'again' WHERE id = 1")
    seen = read_to_head(source, source.stream(seen.position))
    assert [(e["table"], e["after"]["v"]) for e in told_once(seen.events)] == [(A, "again")]
    with pytest.raises(Refused, match=r"no table public\.a") as refused:
        roach.source().tables()
    assert "renamed" in refused.value.cure


@BOTH
def test_a_dropped_table_is_set_aside_and_the_others_go_on(roach: CockroachRig) -> None:
    source, stream = loaded(roach)
    roach.run(f"DROP TABLE {A}")
    seen = read(stream, lambda s: any(d.aside for d in s.deliveries))
    ((table, why),) = [each for d in seen.deliveries for each in d.aside]
    assert (table, why.code) == (A, "table_dropped")
    roach.run(f"UPDATE {B} SET v = 'on' WHERE id = 1")
    seen = read_to_head(source, stream)
    assert [key_of(e) for e in told_once(seen.events)] == [(B, 1)]
    assert seen.position.tables.keys() == {B}
    # And at the next opening it is not asked for.
    position = Position.of(seen.position.json())
    source.close()
    again = roach.source()
    stream = again.stream(position)
    roach.run(f"UPDATE {B} SET v = 'still' WHERE id = 1")
    seen = read_to_head(again, stream)
    assert [e["after"]["v"] for e in told_once(seen.events)] == ["still"]
    assert [(table, why.code) for d in seen.deliveries for table, why in d.aside] == [(A, "table_dropped")], "nobody is told again"


def test_a_table_made_again_under_its_name_is_another_table(roach: CockroachRig) -> None:
    source, stream = loaded(roach)
    position = Position.of(read_to_head(source, stream).position.json())
    source.close()
    roach.run(f"DROP TABLE {A}", f"CREATE TABLE {A} (id INT8 PRIMARY KEY, v STRING)", f"INSERT INTO {A} VALUES (1, 'new')")
    again = roach.source()
    seen = read_to_head(again, again.stream(position))
    assert [(table, why.code) for d in seen.deliveries for table, why in d.aside] == [(A, "table_dropped")]
    assert seen.of(A) == []


def test_a_truncated_table_is_lost_up_to_a_place_and_goes_on(roach: CockroachRig) -> None:
    source, stream = loaded(roach)
    place = read_to_head(source, stream).position.tables[A]
    roach.run(f"UPDATE {B} SET v = 'beside' WHERE id = 2", f"TRUNCATE {A}")
    seen = read(stream, lambda s: any(d.lost for d in s.deliveries))
    (lost,) = [each for d in seen.deliveries for each in d.lost]
    assert (lost.table, lost.why.code, lost.resumed_at > place) == (A, "truncated", True)
    assert seen.position.tables[A] >= lost.resumed_at
    roach.run(f"INSERT INTO {A} VALUES (9, 'new')")
    rest = read_to_head(source, stream)
    assert [(e["op"], e["after"]) for e in told_once(rest.of(A))] == [("c", {"id": 9, "v": "new"})]
    assert [e["after"]["v"] for e in told_once(seen.of(B) + rest.of(B))] == ["beside"]


def test_a_place_older_than_the_garbage_collection_is_lost_for_that_table(roach: CockroachRig) -> None:
    source, stream = loaded(roach)
    position = Position.of(read_to_head(source, stream).position.json())
    source.close()
    roach.run(f"DELETE FROM {A} WHERE id = 1")
    roach.standin.faults.gc(0.0)
    again = roach.source()
    seen = read(again.stream(position), lambda s: sum(len(d.lost) for d in s.deliveries) == 2)
    lost = {each.table: each for d in seen.deliveries for each in d.lost}
    assert lost.keys() == {A, B}
    assert all(each.why.code == "gc_threshold" and "are in no feed" in each.why.message for each in lost.values())
    assert seen.events == []


@BOTH
def test_a_key_of_other_columns_is_told_in_its_schema(roach: CockroachRig) -> None:
    """What it means for the topic is the connector's to say."""
    roach.run(f"ALTER TABLE {A} ADD COLUMN n INT8 NOT NULL DEFAULT 1")
    source, stream = loaded(roach)
    seen = changed(roach, source, stream, f"ALTER TABLE {A} ALTER PRIMARY KEY USING COLUMNS (id, n)")
    keys = list(dict.fromkeys(b.schema.key for d in seen.deliveries for b in d.batches if b.topic == A))
    assert keys == [("id",), ("id", "n")]
    assert [e["after"]["v"] for e in told_once(seen.of(A))][-1] == "after"


def test_a_feed_without_resolved_times_is_opened_again_once(roach: CockroachRig) -> None:
    source, stream = loaded(roach, resolved_timeout_s=1.0)
    position = read_to_head(source, stream).position
    roach.standin.faults.hold_resolved()
    with pytest.raises(Retryable) as silent:
        read(stream, lambda _: False)
    assert silent.value.code == "no_resolved"
    # While rows flow it is not opened again for ever: it catches up.
    stream = started(source, position)
    give_up = time.monotonic() + 3
    n = 0
    while time.monotonic() < give_up:
        roach.run(f"UPDATE {A} SET v = 'n{n}' WHERE id = 1")
        n += 1
        next(stream)
    roach.standin.faults.hold_resolved(False)
    seen = read_to_head(source, stream)
    assert seen.position.tables[A] > position.tables[A]


def test_a_table_that_was_renamed_above_its_place_loses_nothing(roach: CockroachRig) -> None:
    """The server looks for a feed's tables as of its cursor, where this one has the old name."""
    source, stream = loaded(roach)
    position = Position.of(read_to_head(source, stream).position.json())
    source.close()
    roach.run(f"UPDATE {A} SET v = 'before' WHERE id = 1", f"ALTER TABLE {A} RENAME TO c", "UPDATE c SET v = 'after' WHERE id = 1")
    again = roach.source()
    seen = read_to_head(again, again.stream(position))
    assert [e["after"]["v"] for e in told_once(seen.of(A))] == ["before", "after"]
    assert [d.lost for d in seen.deliveries if d.lost] == []


def test_a_table_that_was_taken_out_and_comes_back_goes_on_from_its_place(roach: CockroachRig) -> None:
    source, stream = loaded(roach)
    position = Position.of(read_to_head(source, stream).position.json())
    source.close()
    roach.run(f"UPDATE {A} SET v = 'while it was out' WHERE id = 1")
    without = roach.source(tables=(B,))
    after = read_to_head(without, without.stream(position)).position.holding(position)
    without.close()
    again = roach.source()
    seen = read_to_head(again, again.stream(Position.of(after.json())))
    assert [e["after"]["v"] for e in told_once(seen.of(A))] == ["while it was out"]


def test_no_place_passes_a_change_that_was_not_looked_at(roach: CockroachRig) -> None:
    """Who goes on from a place takes the table as it was there for no news: of a conversion, which sends no rows, nobody would know."""
    roach.run(*(f"ALTER TABLE {A} ADD COLUMN n{i} INT8" for i in range(1, 4)))
    source, stream = loaded(roach)
    for i in range(1, 4):
        roach.run("SET enable_experimental_alter_column_type_general = true", f"ALTER TABLE {A} ALTER COLUMN n{i} SET DATA TYPE STRING")
        position = read_to_head(source, stream).position
        (fills,) = position.detail["past"].values()
        assert len(fills) == i


def test_columns_that_trade_names_are_compared(roach: CockroachRig) -> None:
    roach.run(f"ALTER TABLE {A} ADD COLUMN x STRING")
    _, stream = loaded(roach)
    roach.run(
        f"ALTER TABLE {A} RENAME COLUMN x TO y",
        f"ALTER TABLE {A} RENAME COLUMN v TO x",
        f"ALTER TABLE {A} RENAME COLUMN y TO v",
        f"UPDATE {A} SET v = 'was x' WHERE id = 1",
    )
    seen = read(stream, lambda s: any(d.lost for d in s.deliveries))
    (lost,) = [each for d in seen.deliveries for each in d.lost]
    assert (lost.table, lost.why.code, lost.reconcile) == (A, "columns_unseen", True)
