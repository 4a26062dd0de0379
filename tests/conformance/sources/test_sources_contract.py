"""What every source promises, on a real database of every kind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from sources_rig import PATIENCE_S, PostgresRig, read, read_to_head

from millstream.errors import Refused, Retryable
from millstream.events.progress import Position
from millstream.sources.contract import Source

pytestmark = pytest.mark.servers

Rig = PostgresRig  # the second kind makes a protocol of it
A = "public.a"


def row(key: int, value: str | None) -> dict[str, Any]:
    return {"id": key, "v": value}


def test_tables_are_told_in_the_definitions_order(rig: Rig) -> None:
    source = rig.source()
    found = source.tables()
    assert [t.name for t in found] == list(rig.tables)
    table = found[0]
    assert [(f.name, str(f.type)) for f in table.schema.fields] == [("id", "int32"), ("v", "text")]
    assert table.schema.key == ("id",)
    assert (table.origin.name, table.origin.schema, table.origin.table) == ("rig", "public", "a")
    assert source.name == "rig"


@pytest.mark.every_version
def test_each_change_is_told_once_with_its_images(rig: Rig) -> None:
    source = rig.checked()
    rig.run(
        f"INSERT INTO {A} VALUES (1, 'one')",
        f"UPDATE {A} SET v = 'uno' WHERE id = 1",
        f"UPDATE {A} SET id = 2 WHERE id = 1",
        f"UPDATE {A} SET v = NULL",
        f"DELETE FROM {A}",
    )
    seen = read_to_head(source, source.stream(None))
    assert seen.ops() == [
        ("c", None, row(1, "one")),
        ("u", row(1, "one"), row(1, "uno")),
        ("d", row(1, "uno"), None),
        ("c", None, row(2, "uno")),
        ("u", row(2, "uno"), row(2, None)),
        ("d", row(2, None), None),
    ]
    assert all(e["ts_us"] == pytest.approx(time.time() * 1e6, abs=60e6) for e in seen.events)
    assert all(e["incarnation"] == 1 and e["snapshot"] is None and e["holes"] is None for e in seen.events)


def test_transactions_come_whole_in_commit_order_and_numbered(rig: Rig) -> None:
    source = rig.checked()
    rig.transaction(*(f"INSERT INTO {t} VALUES ({i}, 'x')" for i in range(3) for t in rig.tables))
    rig.transaction(f"INSERT INTO {A} VALUES (10, 'never')", rolled_back=True)
    rig.transaction(f"UPDATE {A} SET v = 'y'")
    seen = read_to_head(source, source.stream(None))
    first, second = sorted({e["major"] for e in seen.events})
    of_first = sorted((e for e in seen.events if e["major"] == first), key=lambda e: e["tx_order"])
    assert [(e["table"], e["minor"], e["tx_order"], e["tx_table_order"]) for e in of_first] == [
        (rig.tables[i % 2], i + 1, i + 1, i // 2 + 1) for i in range(6)
    ]
    assert [(e["op"], e["minor"]) for e in seen.events if e["major"] == second] == [("u", 1), ("u", 2), ("u", 3)]
    assert len({e["tx_id"] for e in seen.events}) == 2


def test_versions_rise_per_table_and_positions_never_fall(rig: Rig) -> None:
    source = rig.checked()
    for i in range(30):
        rig.run(f"INSERT INTO {A} SELECT g, 'x' FROM generate_series({i} * 5 + 1, {i} * 5 + 5) g")
    seen = read_to_head(source, source.stream(None))
    versions = [(e["major"], e["minor"]) for e in seen.of(A)]
    assert len(versions) == 150
    assert versions == sorted(set(versions))
    assert all(before <= after for before, after in pairwise(d.position for d in seen.deliveries))
    given = [
        (e["major"], e["minor"])
        for d in seen.deliveries
        for b in d.batches
        for e in b.rows.to_pylist()
        if (e["major"], e["minor"]) > (d.position.major, d.position.minor)
    ]
    assert given == []


def test_a_stream_resumes_after_any_position_with_the_same_numbers(rig: Rig) -> None:
    """What a position stands for is not told again, save the events of a transaction that it lies inside of."""
    source = rig.checked(batch_messages=3)
    for i in range(4):
        rig.transaction(*(f"INSERT INTO {A} VALUES ({i * 10 + j}, 'x')" for j in range(7)))
    whole = read_to_head(source, source.stream(None))
    end = whole.position
    inside = [d.position for d in whole.deliveries if d.position.minor]
    assert inside, "no delivery ended inside a transaction"
    source.close()
    versions = [(e["major"], e["minor"]) for e in whole.events]
    # In order: resuming after a position says that all before it is durable.
    for position in sorted({d.position for d in whole.deliveries}):
        again = rig.source(batch_messages=3)
        seen = read(again.stream(Position.of(position.json())), lambda s: s.position >= end)
        again.close()
        given = [(e["major"], e["minor"]) for e in seen.events]
        assert [v for v in given if v > (position.major, position.minor)] == [v for v in versions if v > (position.major, position.minor)]
        assert all(v[0] == position.major for v in given if v <= (position.major, position.minor))
        assert {tuple(e.items()) for e in map(_flat, seen.events)} <= {tuple(e.items()) for e in map(_flat, whole.events)}


def _flat(event: dict[str, Any]) -> dict[str, Any]:
    return {k: repr(v) for k, v in event.items() if k != "processed_us"}


def test_what_was_not_acknowledged_comes_again_and_nothing_else_is_needed(rig: Rig) -> None:
    source = rig.checked()
    rig.run(f"INSERT INTO {A} VALUES (1, 'x')")
    read_to_head(source, source.stream(None))
    source.close()
    again = rig.source()
    assert [e["after"] for e in read_to_head(again, again.stream(None)).events] == [row(1, "x")]


def test_acknowledged_changes_are_forgotten_by_the_server(rig: Rig) -> None:
    source = rig.checked()
    rig.run(f"INSERT INTO {A} VALUES (1, 'x')")
    stream = source.stream(None)
    seen = read_to_head(source, stream)
    source.acknowledge(seen.position)
    read(stream, lambda _: _confirmed(rig) >= seen.position.major)
    source.close()
    rig.run(f"INSERT INTO {A} VALUES (2, 'y')")
    again = rig.source()
    assert [e["after"] for e in read_to_head(again, again.stream(None)).events] == [row(2, "y")]


def _confirmed(rig: Rig) -> int:
    (lsn,) = rig.rows("SELECT confirmed_flush_lsn - '0/0'::pg_lsn FROM pg_replication_slots WHERE database = current_database()")[0]
    return int(lsn)


def test_an_idle_stream_answers_and_reaches_the_head(rig: Rig) -> None:
    source = rig.checked()
    stream = source.stream(None)
    read_to_head(source, stream)
    started = time.monotonic()
    assert read(stream, lambda s: s.deliveries[-1].idle).events == []
    assert time.monotonic() - started < 5
    assert read_to_head(source, stream).events == []


def test_chunks_page_through_a_table_once_in_key_order(rig: Rig) -> None:
    source = rig.checked()
    rig.run(f"INSERT INTO {A} SELECT g * 3, 'v' || g FROM generate_series(1, 100) g")
    stream = source.stream(None)
    read_to_head(source, stream)
    rows: list[dict[str, Any]] = []
    after: list[Any] | None = None
    chunks = 0
    while True:
        chunk = source.chunk(A, after, 30)
        assert chunk is not None
        assert chunk.rows.schema.names == ["id", "v"]
        rows += chunk.rows.to_pylist()
        chunks += 1
        seen = read(stream, lambda s, mark=chunk.mark: s.deliveries[-1].mark == mark)
        assert seen.events == []
        if chunk.done:
            break
        after = chunk.last_key
    assert rows == [row(i * 3, f"v{i}") for i in range(1, 101)]
    assert chunks == 4


def test_an_empty_table_is_one_chunk(rig: Rig) -> None:
    source = rig.checked()
    stream = source.stream(None)
    next(stream)
    chunk = source.chunk(A, None, 10)
    assert chunk is not None
    assert (chunk.rows.num_rows, chunk.done, chunk.last_key) == (0, True, None)
    read(stream, lambda s: s.deliveries[-1].mark == chunk.mark)


@pytest.mark.every_version
def test_the_mark_stands_between_what_committed_before_and_after_it(rig: Rig) -> None:
    source = rig.checked()
    rig.run(f"INSERT INTO {A} VALUES (1, 'before the read')")
    stream = source.stream(None)
    read_to_head(source, stream)
    rig.run(f"INSERT INTO {A} VALUES (2, 'read, and still to come')")
    chunk = source.chunk(A, None, 10)
    assert chunk is not None
    rig.run(f"UPDATE {A} SET v = 'after' WHERE id = 1")
    assert [r["id"] for r in chunk.rows.to_pylist()] == [1, 2]
    seen = read(stream, lambda s: s.deliveries[-1].mark is not None)
    assert seen.deliveries[-1].mark == chunk.mark
    assert [e["after"]["id"] for e in seen.events] == [2]
    assert [chunk.newer(b).tolist() for d in seen.deliveries for b in d.batches] == [[False]]
    rest = read_to_head(source, stream)
    read_point = (seen.position.major, seen.position.minor)
    assert [(e["major"], e["minor"]) > read_point for e in rest.events] == [True]
    assert [(e["major"], e["minor"]) < read_point for e in seen.events] == [True]
    assert [chunk.newer(b).tolist() for d in rest.deliveries for b in d.batches] == [[True]]


def test_what_a_chunk_did_not_see_is_newer(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change commits between the chunk's read and its read point."""
    source = rig.checked()
    rig.run(f"INSERT INTO {A} VALUES (1, 'old'), (2, 'old')")
    stream = source.stream(None)
    read_to_head(source, stream)
    _between_read_and_mark(source, monkeypatch, lambda: rig.run(f"UPDATE {A} SET v = 'new' WHERE id = 1"))
    chunk = source.chunk(A, None, 10)
    assert chunk is not None
    assert chunk.rows.to_pylist() == [row(1, "old"), row(2, "old")]
    seen = read(stream, lambda s: s.deliveries[-1].mark == chunk.mark)
    assert [e["after"] for e in seen.events] == [row(1, "new")]
    assert [chunk.newer(b).tolist() for d in seen.deliveries for b in d.batches] == [[True]]


def _between_read_and_mark(source: Source, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    session = source._session  # type: ignore[attr-defined]
    emit = session.emit

    def acting(prefix: str, content: str) -> None:
        if prefix.endswith("mark"):
            act()
        emit(prefix, content)

    monkeypatch.setattr(session, "emit", acting)


def test_a_large_transaction_comes_in_pieces(rig: Rig) -> None:
    source = rig.checked(batch_messages=1000)
    rig.run(f"INSERT INTO {A} SELECT g, 'x' FROM generate_series(1, 10000) g")
    stream = source.stream(None)
    seen = read_to_head(source, stream)
    sizes = [sum(map(len, d.batches)) for d in seen.deliveries if d.batches]
    assert sum(sizes) == 10_000
    assert max(sizes) <= 1000
    assert [e["minor"] for e in seen.events] == list(range(1, 10_001))


def test_a_lost_connection_is_retryable_and_loses_nothing(rig: Rig) -> None:
    source = rig.checked()
    stream = source.stream(None)
    rig.run(f"INSERT INTO {A} VALUES (1, 'x')")
    seen = read_to_head(source, stream)
    rig.cut_connections()
    with pytest.raises(Retryable):
        read(stream, lambda _: False)
    rig.run(f"INSERT INTO {A} VALUES (2, 'y')")
    rest = read_to_head(source, source.stream(seen.position))
    assert [e["after"]["id"] for e in seen.events + rest.events] == [1, 2]


def test_close_ends_a_stream_that_waits(rig: Rig) -> None:
    source = rig.checked()
    stream = source.stream(None)
    read_to_head(source, stream)
    ended = threading.Event()

    def take() -> None:
        for _ in stream:
            pass
        ended.set()

    taker = threading.Thread(target=take)
    taker.start()
    source.close()
    assert ended.wait(PATIENCE_S)
    taker.join()
    source.close()


def test_check_makes_what_it_manages_once(rig: Rig) -> None:
    source = rig.source()
    source.check()
    source.check()
    rig.source().check()
    rig.run(f"INSERT INTO {A} VALUES (1, 'x')")
    assert len(read_to_head(source, source.stream(None)).events) == 1


def test_an_unknown_table_is_refused_with_near_names(rig: Rig) -> None:
    source = rig.source(tables=("public.aa",))
    with pytest.raises(Refused, match=r"no table public\.aa") as refused:
        source.check()
    assert "public.a" in refused.value.cure
    with pytest.raises(Refused, match=r"no table public\.aa"):
        source.tables()


def test_a_wrong_password_is_refused_and_not_shown(rig: Rig) -> None:
    source, password = rig.wrong_password()
    for attempt in (source.check, source.tables, lambda: next(source.stream(None))):
        with pytest.raises(Refused) as refused:
            attempt()
        assert refused.value.code == "password"
        assert password not in f"{refused.value} {refused.value!r} {refused.value.__cause__} {refused.value.__context__}"


def test_a_schema_change_in_mid_stream_starts_a_new_batch(rig: Rig) -> None:
    source = rig.checked()
    rig.run(f"INSERT INTO {A} VALUES (1, 'x')", f"ALTER TABLE {A} ADD COLUMN n integer", f"INSERT INTO {A} VALUES (2, 'y', 7)")
    seen = read_to_head(source, source.stream(None))
    batches = [b for d in seen.deliveries for b in d.batches]
    assert [b.schema.names for b in batches] == [("id", "v"), ("id", "v", "n")]
    assert [b.column("after").to_pylist() for b in batches] == [[row(1, "x")], [{**row(2, "y"), "n": 7}]]
    assert source.tables()[0].schema == batches[-1].schema
