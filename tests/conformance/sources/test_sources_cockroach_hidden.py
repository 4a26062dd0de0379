"""Derived tables of all columns, filtered by the server, whose columns become hidden: nothing is lost, and values are right in the end."""

from __future__ import annotations

from typing import Any

import pytest
from cockroach_rig import CockroachRig, told_once
from sources_rig import read, read_to_head

from millstream.errors import MillstreamError
from millstream.events.progress import Position
from millstream.sources.cockroach import stream as streams
from millstream.sources.contract import Source

pytestmark = pytest.mark.servers

GOOD = {"table": "public.movie", "as": "good", "where": "rating > 5"}


@pytest.fixture
def movies(roach: CockroachRig) -> CockroachRig:
    if roach.is_old:
        pytest.skip("this version filters nothing")
    roach.run(
        "CREATE TABLE movie (id INT8 PRIMARY KEY, title STRING, rating INT8)", "INSERT INTO movie VALUES (1, 'Heat', 8), (2, 'Flop', 2)"
    )
    return roach


def queries(source: Source) -> list[str | None]:
    return [f.query for f in source._stream._feeds]  # type: ignore[attr-defined]


def after(events: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(e["op"], e["after"]) for e in told_once(events)]


def test_a_column_that_is_made_hidden_is_told_by_a_plain_feed(movies: CockroachRig, caplog: pytest.LogCaptureFixture) -> None:
    source = movies.source(tables=[GOOD, "public.a"])
    stream = source.stream(None)
    before = next(stream).position
    assert len([q for q in queries(source) if q]) == 1
    movies.run(
        "UPDATE movie SET title = 'Heat 2' WHERE id = 1",
        "ALTER TABLE movie ALTER COLUMN title SET NOT VISIBLE",
        "UPDATE movie SET title = 'Heat 3' WHERE id = 1",
        "UPDATE movie SET rating = 7 WHERE id = 2",
        "INSERT INTO a VALUES (1, 'v')",
    )
    wanted = [
        ("u", {"id": 1, "title": "Heat 2", "rating": 8}),
        ("u", {"id": 1, "title": "Heat 3", "rating": 8}),
        ("c", {"id": 2, "title": "Flop", "rating": 7}),
    ]
    seen = read_to_head(source, stream)
    assert sorted(after(seen.of("good")), key=repr) == sorted(wanted, key=repr)
    assert len(seen.of("public.a")) >= 1 and not any(d.lost for d in seen.deliveries)
    assert queries(source).count(None) == len(queries(source)) and "good is filtered here" in caplog.text
    movies.run("DELETE FROM movie WHERE id = 1")
    assert [e["op"] for e in told_once(read_to_head(source, stream).of("good"))] == ["d"]
    position = Position.of(read_to_head(source, stream).position.json())
    source.close()
    # From the same place it is the same again; from behind the change the server filters.
    again = movies.source(tables=[GOOD, "public.a"])
    told = after(read_to_head(again, again.stream(before)).of("good"))
    assert sorted(told, key=repr) == sorted([*wanted, ("d", None)], key=repr)
    later = movies.source(tables=[GOOD, "public.a"])
    went_on = later.stream(position)
    next(went_on)
    assert [q for q in queries(later) if q] == ['SELECT *, "title" FROM "public"."movie" WHERE ("rating" > 5) OR ((cdc_prev)."rating" > 5)']


@pytest.mark.parametrize("restarts", [False, True])
def test_what_was_told_before_a_hidden_column_was_seen_is_read_again(movies: CockroachRig, restarts: bool) -> None:
    source = movies.source(tables=[GOOD, "public.a"])
    stream = source.stream(None)
    next(stream)
    movies.run(
        "ALTER TABLE movie ADD COLUMN stars INT8 NOT VISIBLE",
        "INSERT INTO movie (id, title, rating, stars) VALUES (3, 'Big', 9, 5)",
        "UPDATE movie SET stars = 4 WHERE id = 1",
    )
    seen = read(stream, lambda s: "lacking" in s.position.detail)
    if restarts:
        position = Position.of(seen.position.json())
        source.close()
        source = movies.source(tables=[GOOD, "public.a"])
        stream = source.stream(position)
    rest = read(stream, lambda s: bool(s.deliveries[-1].lost))
    ((lost,),) = [d.lost for d in rest.deliveries if d.lost]
    assert (lost.table, lost.why.code, lost.reconcile) == ("good", "columns_unseen", True)
    assert "lacking" not in rest.position.detail and all("stars" in q for q in queries(source) if q)
    told = told_once([*seen.of("good"), *rest.of("good")])
    assert sorted((e["op"], e["after"]["id"]) for e in told) == [("c", 3), ("u", 1)]
    # All that was told without the column is older than what a chunk reads now.
    assert all((e["major"], e["minor"]) <= lost.resumed_at for e in told)
    chunk = source.chunk("good", None, 10)
    assert chunk is not None and [tuple(r.values()) for r in chunk.rows.to_pylist()] == [(1, "Heat", 8, 4), (3, "Big", 9, 5)]
    movies.run("UPDATE movie SET stars = 1 WHERE id = 3", "UPDATE movie SET rating = 6, stars = 2 WHERE id = 2")
    assert sorted(after(read_to_head(source, stream).of("good")), key=repr) == [
        ("c", {"id": 2, "title": "Flop", "rating": 6, "stars": 2}),
        ("u", {"id": 3, "title": "Big", "rating": 9, "stars": 1}),
    ]
    assert len([q for q in queries(source) if q]) == 1


def test_a_plain_feed_s_bad_message_ends_the_source(movies: CockroachRig, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(*_: Any) -> Any:
        raise MillstreamError("no message", code="bad_message")

    source = movies.source(tables=[GOOD])
    stream = source.stream(None)
    next(stream)
    monkeypatch.setattr(streams, "heard", bad)
    with pytest.raises(MillstreamError, match="no message"):
        read_to_head(source, stream)
    assert "good" in source._ability.unasked  # type: ignore[attr-defined]
