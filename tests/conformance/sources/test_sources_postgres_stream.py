"""What is Postgres's own of the stream: slots, changed tables, TOAST, truncation, heartbeats, large transactions."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from sources_rig import PostgresRig, Seen, read, read_to_head, stops_with

from millstream.errors import Irrecoverable, Refused, Retryable
from millstream.events.progress import Position
from millstream.events.types import RowSchema
from millstream.schemas.operations import operations

pytestmark = pytest.mark.servers

A, SLOT = "public.a", "millstream_rig"
MakeRig = Callable[..., PostgresRig]


def slot(rig: PostgresRig, column: str) -> Any:
    return rig.rows(f"SELECT {column} FROM pg_replication_slots WHERE slot_name = '{SLOT}'")[0][0]


# ---- slots and positions


def recorded(rig: PostgresRig) -> Position:
    """A position as a connector would have it, with one change behind it."""
    source = rig.checked()
    rig.run(f"INSERT INTO {A} VALUES (1, 'x')")
    position = read_to_head(source, source.stream(None)).position
    source.close()
    return Position.of(position.json())


def test_no_slot_and_no_position(rig: PostgresRig) -> None:
    with pytest.raises(Refused) as error:
        next(rig.source().stream(None))
    assert error.value.code == "no_slot"


def test_a_slot_that_is_gone(rig: PostgresRig) -> None:
    position = recorded(rig)
    rig.rows(f"SELECT pg_drop_replication_slot('{SLOT}')")
    with pytest.raises(Irrecoverable, match="may be lost") as error:
        next(rig.source().stream(position))
    assert error.value.code == "slot_gone"
    assert "lost-slot.md" in error.value.cure


def test_a_slot_that_was_made_again(rig: PostgresRig) -> None:
    position = recorded(rig)
    rig.rows(f"SELECT pg_drop_replication_slot('{SLOT}')")
    rig.run(f"INSERT INTO {A} VALUES (2, 'lost')")
    source = rig.checked()
    with pytest.raises(Irrecoverable) as error:
        next(source.stream(position))
    assert error.value.code == "slot_moved"


def test_a_slot_that_another_reads(rig: PostgresRig) -> None:
    first = rig.checked()
    stream = first.stream(None)
    next(stream)
    second = rig.source()
    with pytest.raises(Retryable) as error:
        next(second.stream(None))
    assert error.value.code == "slot_in_use"
    assert str(slot(rig, "active_pid")) in error.value.message
    assert "millstream rig" in error.value.message
    first.close()
    next(second.stream(None))


def test_a_slot_whose_log_was_removed(own_rig: MakeRig) -> None:
    rig = own_rig(max_slot_wal_keep_size="1MB", min_wal_size="32MB", max_wal_size="32MB")
    position = recorded(rig)
    for i in range(8):
        rig.run(
            f"INSERT INTO public.b SELECT g, repeat('x', 200) FROM generate_series({i * 20000}, {i * 20000 + 19999}) g",
            "SELECT pg_switch_wal()",
        )
        rig.run("CHECKPOINT")
        if slot(rig, "wal_status") == "lost":
            break
    assert slot(rig, "wal_status") == "lost"
    for resume_after in (position, None):
        with pytest.raises(Irrecoverable) as error:
            next(rig.source().stream(resume_after))
        assert error.value.code == "slot_gone"
        assert "max_slot_wal_keep_size" in error.value.cure


def test_another_server(rig: PostgresRig, own_rig: MakeRig) -> None:
    position = recorded(rig)
    other = own_rig()
    source = other.checked()
    with pytest.raises(Irrecoverable) as error:
        next(source.stream(position))
    assert error.value.code == "other_server"


def test_another_timeline(rig: PostgresRig) -> None:
    position = recorded(rig)
    elsewhere = Position(position.major, position.minor, {**position.detail, "timeline": 7})
    with pytest.raises(Irrecoverable, match="timeline 7") as error:
        next(rig.source().stream(elsewhere))
    assert error.value.code == "other_server"


def test_a_server_that_crashes_and_comes_back(own_rig: MakeRig) -> None:
    rig = own_rig()
    source = rig.checked(batch_messages=50)
    stream = source.stream(None)
    for i in range(20):
        rig.run(f"INSERT INTO {A} SELECT g, 'x' FROM generate_series({i * 100}, {i * 100 + 99}) g")
    seen = read(stream, lambda s: len(s.events) >= 500)
    source.acknowledge(seen.position)
    rig.server.kill()
    rest, error = stops_with(stream)
    assert isinstance(error, Retryable), error
    with pytest.raises(Retryable):
        next(source.stream(seen.position))
    rig.server.start()
    rig.run(f"INSERT INTO {A} VALUES (100000, 'after')")
    resume = rest.position if rest.deliveries else seen.position
    after = read_to_head(source, source.stream(resume))
    versions = [(e["major"], e["minor"]) for e in seen.events + rest.events]
    versions += [v for e in after.events if (v := (e["major"], e["minor"])) > (resume.major, resume.minor)]
    assert versions == sorted(set(versions))
    assert len(versions) == 2001


def test_a_server_that_shuts_down_waits_for_what_is_acknowledged_and_is_retryable(own_rig: MakeRig) -> None:
    rig = own_rig()
    source = rig.checked()
    stream = source.stream(None)
    seen = read_to_head(source, stream)
    source.acknowledge(seen.position)
    rig.server.kill()
    _, error = stops_with(stream)
    assert isinstance(error, Retryable)


# ---- tables that change in mid-stream


def bare(schema: RowSchema) -> RowSchema:
    """Without what is said of old rows, which is only said to one who lacks the column."""
    return RowSchema(tuple(replace(f, fill=None) for f in schema.fields), schema.key)


def test_columns_added_dropped_renamed_and_retyped(rig: PostgresRig) -> None:
    source = rig.checked(tables=(A,))
    steps = [
        ("ALTER TABLE public.a ADD n integer", "INSERT INTO public.a VALUES (2, 'two', 2)", {"id": 2, "v": "two", "n": 2}),
        ("ALTER TABLE public.a RENAME v TO words", "INSERT INTO public.a VALUES (3, 'three', 3)", {"id": 3, "words": "three", "n": 3}),
        ("ALTER TABLE public.a ALTER n TYPE bigint", "INSERT INTO public.a VALUES (4, 'four', 4)", {"id": 4, "words": "four", "n": 4}),
        ("ALTER TABLE public.a DROP words", "INSERT INTO public.a VALUES (5, 5)", {"id": 5, "n": 5}),
        ("ALTER TABLE public.a RENAME id TO key", "UPDATE public.a SET n = 6 WHERE key = 5", {"key": 5, "n": 6}),
    ]
    rig.run("INSERT INTO public.a VALUES (1, 'one')")
    stream = source.stream(None)
    live = read_to_head(source, stream)
    for alter, change, _ in steps:
        rig.run(alter, change)
        at_once = read_to_head(source, stream)
        live.events += at_once.events
        live.deliveries += at_once.deliveries
    source.close()
    rig.rows(f"SELECT pg_replication_slot_advance('{SLOT}', confirmed_flush_lsn) FROM pg_replication_slots WHERE slot_name = '{SLOT}'")
    # A second reader meets all of it afterwards, when the catalogue has only the last shape.
    late_source = rig.source(tables=(A,))
    late = read_to_head(late_source, late_source.stream(None))
    for seen in (live, late):
        assert [e["after"] for e in seen.events] == [{"id": 1, "v": "one"}, *(after for _, _, after in steps)]
        schemas = [b.schema for d in seen.deliveries for b in d.batches]
        changes = [[str(c) for c in operations(bare(old), bare(new))] for old, new in pairwise(schemas)]
        assert changes == [
            ["added n (int32)"],
            ["renamed v (now words)"],
            ["widened n (int32 is now int64)"],
            ["dropped words"],
            ["renamed id (now key)"],
        ]
        assert [s.key for s in schemas] == [("id",)] * 5 + [("key",)]


def test_a_renamed_table_stays_the_table_it_was(rig: PostgresRig) -> None:
    source = rig.checked()
    stream = source.stream(None)
    rig.run(f"INSERT INTO {A} VALUES (1, 'x')")
    read_to_head(source, stream)
    rig.run(f"ALTER TABLE {A} RENAME TO renamed", "INSERT INTO renamed VALUES (2, 'y')")
    assert [(e["table"], e["after"]["id"]) for e in read_to_head(source, stream).events] == [(A, 2)]


def test_a_table_that_was_dropped_after_its_changes(rig: PostgresRig) -> None:
    source = rig.checked()
    rig.run(f"INSERT INTO {A} VALUES (1, 'x')", f"DROP TABLE {A}")
    _, error = stops_with(source.stream(None))
    assert isinstance(error, Irrecoverable)
    assert error.code == "table_gone"


def test_an_identity_that_is_no_longer_full(rig: PostgresRig) -> None:
    source = rig.checked()
    rig.run(f"INSERT INTO {A} VALUES (1, 'x')", f"ALTER TABLE {A} REPLICA IDENTITY DEFAULT", f"UPDATE {A} SET v = 'y'")
    seen, error = stops_with(source.stream(None))
    assert [e["op"] for e in seen.events] == ["c"]
    assert isinstance(error, Irrecoverable)
    assert (error.code, error.cure.split(";")[0]) == ("replica_identity", 'ALTER TABLE "public"."a" REPLICA IDENTITY FULL')


def test_a_key_that_is_gone_sets_its_table_aside(rig: PostgresRig) -> None:
    source = rig.checked()
    rig.run(f"INSERT INTO {A} VALUES (1, 'x')", f"ALTER TABLE {A} DROP CONSTRAINT a_pkey", "INSERT INTO public.b VALUES (1, 'b')")
    rig.run(f"INSERT INTO {A} VALUES (2, 'y')")
    seen = read_to_head(source, source.stream(None))
    assert [(table, error.code) for d in seen.deliveries for table, error in d.aside] == [(A, "no_key")]
    assert {e["table"] for e in seen.events} == {"public.b"}


def test_a_truncate_has_its_place_among_what_came_before_and_after(rig: PostgresRig) -> None:
    source = rig.checked()
    rig.transaction(f"INSERT INTO {A} VALUES (1, 'x')", f"TRUNCATE {A}, public.b", f"INSERT INTO {A} VALUES (2, 'y')")
    seen = read_to_head(source, source.stream(None))
    places = [i for i, d in enumerate(seen.deliveries) if d.truncate is not None]
    (place,) = places
    told = seen.deliveries[place]
    assert told.truncate is not None
    assert (sorted(told.truncate.tables), told.position.minor) == (sorted(rig.tables), 2)
    before = Seen()
    for delivery in seen.deliveries[: place + 1]:
        before.add(delivery)
    assert [e["minor"] for e in before.events] == [1]
    assert [e["minor"] for e in seen.events] == [1, 3]
    assert {e["tx_id"] for e in seen.events} == {told.truncate.tx_id}


def test_truncating_other_tables_is_nothing_to_us(rig: PostgresRig) -> None:
    rig.run("CREATE TABLE other (x integer)")
    source = rig.checked()
    rig.run("TRUNCATE other", f"INSERT INTO {A} VALUES (1, 'x')")
    assert len(read_to_head(source, source.stream(None)).events) == 1


def test_unchanged_values_stored_out_of_line_are_whole_in_both_images(rig: PostgresRig) -> None:
    rig.run(f"ALTER TABLE {A} ADD big text", f"ALTER TABLE {A} ALTER big SET STORAGE EXTERNAL")
    source = rig.checked()
    big = "é" * 50_000
    rig.run(f"INSERT INTO {A} VALUES (1, 'x', repeat('é', 50000))", f"UPDATE {A} SET v = 'y'", f"UPDATE {A} SET id = 2", f"DELETE FROM {A}")
    seen = read_to_head(source, source.stream(None))
    whole = [(e["op"], (e["before"] or {}).get("big"), (e["after"] or {}).get("big")) for e in seen.events]
    assert whole == [("c", None, big), ("u", big, big), ("d", big, None), ("c", None, big), ("d", big, None)]


# ---- moving on


def test_heartbeats_move_a_slot_where_nothing_of_ours_happens(rig: PostgresRig) -> None:
    source = rig.checked(heartbeat_s=0.2)
    stream = source.stream(None)
    before = slot(rig, "confirmed_flush_lsn - '0/0'::pg_lsn")
    give_up = time.monotonic() + 30
    while slot(rig, "confirmed_flush_lsn - '0/0'::pg_lsn") <= before:
        assert time.monotonic() < give_up, "the slot does not move"
        source.acknowledge(next(stream).position)


def test_the_log_of_other_databases_is_not_kept_for_us(rig: PostgresRig) -> None:
    source = rig.checked(heartbeat_s=3600)
    stream = source.stream(None)
    first = next(stream)
    rig.server.execute("CREATE TABLE IF NOT EXISTS elsewhere (x text)")
    rig.server.execute("INSERT INTO elsewhere SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
    seen = read(stream, lambda s: s.position.major > first.position.major + 1_000_000)
    assert seen.events == []


def test_messages_of_others_are_passed_over(rig: PostgresRig) -> None:
    source = rig.checked()
    rig.transaction(
        f"INSERT INTO {A} VALUES (1, 'x')", "SELECT pg_logical_emit_message(true, 'app', 'said')", f"INSERT INTO {A} VALUES (2, 'y')"
    )
    rig.run(
        "SELECT pg_logical_emit_message(false, 'app', 'said')",
        "SELECT pg_logical_emit_message(true, 'millstream.mark', 'not ours: in a transaction')",
    )
    seen = read_to_head(source, source.stream(None))
    assert [e["minor"] for e in seen.events] == [1, 2]
    assert [d.mark for d in seen.deliveries if d.mark] == []


def test_a_slow_taker_is_not_given_up(own_rig: MakeRig) -> None:
    """The server drops who is silent for 2 s; ours takes nothing for 5 while more waits than may be queued."""
    rig = own_rig(wal_sender_timeout="2s")
    source = rig.checked(batch_messages=100)
    stream = source.stream(None)
    next(stream)
    rig.run(f"INSERT INTO {A} SELECT g, repeat('x', 500) FROM generate_series(1, 20000) g")
    pid = slot(rig, "active_pid")
    until = time.monotonic() + 5
    while time.monotonic() < until:
        assert rig.rows(f"SELECT count(*) FROM pg_stat_replication WHERE pid = {pid}") == [(1,)]
    assert len(read_to_head(source, stream).events) == 20_000
    assert slot(rig, "active_pid") == pid


def test_a_large_transaction_flows_in_bounded_memory(rig: PostgresRig) -> None:
    source = rig.checked(tables=(A,))
    rows = 200_000
    rig.run(f"INSERT INTO {A} SELECT g, repeat('x', 400) FROM generate_series(1, {rows}) g")
    stream = source.stream(None)
    next(stream)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = deliveries = 0
    while count < rows:
        delivery = next(stream)
        got = sum(map(len, delivery.batches))
        count, deliveries = count + got, deliveries + bool(got)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert deliveries >= 10
    # The transaction is 90 MB of messages; four pieces of 8 MiB, and what a batch is built from, may be in hand.
    assert grown_mib < 85


@pytest.mark.parametrize("statement", ["DROP PUBLICATION millstream_rig", f"ALTER PUBLICATION millstream_rig DROP TABLE {A}"])
def test_a_table_that_is_no_longer_published_is_noticed(rig: PostgresRig, statement: str) -> None:
    source = rig.checked()
    stream = source.stream(None)
    position = read_to_head(source, stream).position
    rig.run(statement)
    _, error = stops_with(stream)
    assert isinstance(error, Irrecoverable)
    assert error.code == "publication_gone"
    source.close()
    for resume_after, kind in ((position, Irrecoverable), (None, Refused)):
        with pytest.raises(kind):
            next(rig.source().stream(resume_after))


def test_what_the_server_only_warns_of_stops_before_its_place(rig: PostgresRig) -> None:
    """Version 18 warns of a publication that does not exist and goes on without its changes."""
    source = rig.checked(heartbeat_s=3600)
    stream = source.stream(None)
    seen = read_to_head(source, stream)
    rig.run("DROP PUBLICATION millstream_rig", f"INSERT INTO {A} VALUES (1, 'lost')")
    (lost,) = rig.rows("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")[0]
    rest, error = stops_with(stream)
    assert isinstance(error, Irrecoverable)
    assert error.code == "publication_gone"
    assert max([seen.position, *(d.position for d in rest.deliveries)]).major < lost
