"""A commit that the stream has given and no SELECT sees yet: a chunk read then would bring older rows back. Design §5.7.

A synchronous standby that never answers holds commits in exactly that state, for as long as the test likes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from sources_rig import PostgresRig, read, read_to_head

from millstream.events.progress import Position
from millstream.sources.contract import Delivery, Source
from millstream.sources.postgres import chunk as chunk_module

pytestmark = pytest.mark.servers

A = "public.a"
MakeRig = Callable[..., PostgresRig]


@contextmanager
def held_commit(rig: PostgresRig, statement: str) -> Iterator[Callable[[], None]]:
    """Run `statement` so that its commit waits for a standby; calling what is given lets it go."""
    writer = threading.Thread(target=lambda: rig.run("SET synchronous_commit = on", statement))

    def release() -> None:
        while writer.is_alive():
            rig.server.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            writer.join(0.01)

    writer.start()
    try:
        yield release
    finally:
        release()


def setting_up(make: MakeRig) -> tuple[PostgresRig, Source, Iterator[Delivery]]:
    rig = make(synchronous_standby_names="nobody", synchronous_commit="local")
    source = rig.checked(heartbeat_s=60)
    rig.run(f"INSERT INTO {A} VALUES (1, 'old'), (2, 'old')")
    stream = source.stream(None)
    read_to_head(source, stream)
    return rig, source, stream


def value_in_topic(events: list[dict[str, Any]]) -> dict[int, str]:
    return {e["after"]["id"]: e["after"]["v"] for e in events}


def test_no_chunk_is_read_past_a_commit_that_it_would_not_see(own_rig: MakeRig) -> None:
    rig, source, stream = setting_up(own_rig)
    with held_commit(rig, f"UPDATE {A} SET v = 'new' WHERE id = 1") as release:
        passed = read(stream, lambda s: bool(s.events))
        assert value_in_topic(passed.events) == {1: "new"}
        assert rig.rows(f"SELECT v FROM {A} WHERE id = 1") == [("old",)], "the commit is not held: the test shows nothing"
        assert [int(passed.events[0]["tx_id"])] == passed.position.detail["unseen"]
        for _ in range(3):
            assert source.chunk(A, None, 10) is None
            next(stream)
        release()
    chunk = source.chunk(A, None, 10)
    assert chunk is not None
    assert chunk.rows.to_pylist() == [{"id": 1, "v": "new"}, {"id": 2, "v": "old"}]
    assert read(stream, lambda s: s.deliveries[-1].mark == chunk.mark).position.detail["unseen"] == []


def test_nor_after_a_restart_from_the_position(own_rig: MakeRig) -> None:
    rig, source, stream = setting_up(own_rig)
    with held_commit(rig, f"UPDATE {A} SET v = 'new' WHERE id = 1") as release:
        passed = read(stream, lambda s: bool(s.events) and s.position.minor == 0)
        source.acknowledge(passed.position)
        source.close()
        again = rig.source(heartbeat_s=60)
        stream = again.stream(Position.of(passed.position.json()))
        first = next(stream)
        assert first.batches == ()
        assert again.chunk(A, None, 10) is None
        release()
        chunk = again.chunk(A, None, 10)
    assert chunk is not None
    assert chunk.rows.to_pylist()[0] == {"id": 1, "v": "new"}


def test_without_the_rule_the_older_row_would_win(own_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the tests above can fail: take the visibility rule out, and the chunk is read with the row as it was."""
    rig, source, stream = setting_up(own_rig)
    monkeypatch.setattr(chunk_module, "visible", lambda snapshot, given: np.ones(len(given), np.bool_))
    with held_commit(rig, f"UPDATE {A} SET v = 'new' WHERE id = 1"):
        read(stream, lambda s: bool(s.events))
        chunk = source.chunk(A, None, 10)
        assert chunk is not None
        rest = read(stream, lambda s: s.deliveries[-1].mark == chunk.mark)
    assert rest.events == [], "the newer event is not in the window, so nothing takes the older row out"
    assert chunk.rows.to_pylist()[0] == {"id": 1, "v": "old"}


def test_one_that_comes_while_the_window_is_open_is_newer(own_rig: MakeRig) -> None:
    """The stream gives it after the chunk was read, and before the mark; no SELECT sees it before or after."""
    rig, source, stream = setting_up(own_rig)
    with held_commit(rig, f"UPDATE {A} SET v = 'new' WHERE id = 1"):
        while rig.rows("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") != [(1,)]:
            pass
        chunk = source.chunk(A, None, 10)
        assert chunk is not None, "the stream has not given the commit yet, so nothing forbids the chunk"
        window = read(stream, lambda s: s.deliveries[-1].mark == chunk.mark)
        assert [chunk.newer(b).tolist() for d in window.deliveries for b in d.batches] == [[True]]
        assert source.chunk(A, None, 10) is None
