"""What was lost, from the moment that it is said to the backfill that makes it good."""

from __future__ import annotations

from dataclasses import replace

from millstream.capture import losses
from millstream.capture.backfill import Backfill, Backfills, resumed, stored
from millstream.errors import Irrecoverable
from millstream.events.progress import Position
from millstream.sources.contract import Lost

LOADED: Backfills = {t: Backfill(t, "initial", rows=5, chunks=1, done=True) for t in "ab"}
AT = Position(3, 0, {}, {"a": (3, 0), "b": (9, 4)})


def lost(table: str, *, reconcile: bool = True) -> Lost:
    return Lost(table, Irrecoverable("too old", code="cursor_too_old", cure="none"), (20, 1), reconcile)


def finished(backfills: Backfills, slot: str, how: str = "done") -> Backfills:
    return {**backfills, slot: replace(backfills[slot], done=True, ended=how)}


def test_it_says_which_span_and_starts_what_compares() -> None:
    entries, backfills = losses.met([], [lost("b")], AT, LOADED, 100.0)
    (entry,) = entries
    assert (entry["after"], entry["resumed_at"]) == (str(Position(9, 4)), str(Position(20, 1)))
    assert (entry["code"], entry["at"], entry["closed_at"], entry["backfill"]) == ("cursor_too_old", 100.0, None, "lost-1")
    made = backfills["b lost"]
    assert (made.name, made.reconcile, made.wanted, made.is_asked, made.cause, made.estimate) == (
        "lost-1",
        True,
        True,
        False,
        "backfill",
        5,
    )
    assert losses.open_ones(entries) == entries and losses.open_ones(entries, {"b"}) == []
    assert losses.settled(entries, backfills, lambda: 1.0) == entries
    assert losses.settled(entries, finished(backfills, "b lost", "failed"), lambda: 1.0) == entries
    (closed,) = losses.settled(entries, finished(backfills, "b lost"), lambda: 200.0)
    assert closed["closed_at"] == 200.0 and losses.open_ones([closed]) == []


def test_lost_again_meanwhile_one_comparison_begins_anew_and_closes_both() -> None:
    entries, backfills = losses.met([], [lost("a")], AT, LOADED, 1.0)
    begun = {**backfills, "a lost": backfills["a lost"].chunk_done([1], 1, False)}
    entries, again = losses.met(entries, [lost("a")], AT, begun, 2.0)
    assert [e["backfill"] for e in entries] == ["lost-1", "lost-2"] and again["a lost"].after is None
    # The earlier one's end would not have closed the later loss.
    assert [e["closed_at"] for e in losses.settled(entries, finished(begun, "a lost"), lambda: 3.0)] == [3.0, None]
    assert [e["closed_at"] for e in losses.settled(entries, finished(again, "a lost"), lambda: 3.0)] == [3.0, 3.0]


def test_of_history_the_last_few_stay_and_numbers_go_on() -> None:
    entries, backfills = [], LOADED
    for n in range(30):
        entries, backfills = losses.met(entries, [lost("a")], AT, backfills, float(n))
        backfills = finished(backfills, "a lost")
        entries = losses.settled(entries, backfills, lambda: 99.0)
    assert [e["backfill"] for e in entries] == [f"lost-{n}" for n in range(11, 31)]


def test_one_that_is_offered_is_not_started_by_what_starts_schema_backfills() -> None:
    _, backfills = losses.met([], [lost("a", reconcile=False)], AT, LOADED, 1.0)
    backfills = {**backfills, "b schema": Backfill("b", "schema-2", wanted=False)}
    again = resumed(stored(backfills), [("a", 5), ("b", 5)], start_offered=True)
    assert (again["a lost"].wanted, again["b schema"].wanted) == (False, True)
