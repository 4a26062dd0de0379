"""The oracle can say no: a made-up history that it accepts, and one corruption after the other that it does not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import faults_oracle as oracle
import pytest
from faults_events import Change, Event, Row
from faults_points import points

pytestmark = pytest.mark.faults

LOADED, CHANGES = 20, 400


def history(seed: int) -> tuple[list[Event], list[Change], dict[int, Row]]:
    """A topic with an initial load in the middle of changes, the audit of it, and the table in the end.

    The first transactions stand before the topic's first live position; the read of a key that the load did not see is left out.
    """
    rng = random.Random(seed)
    table: dict[int, Row] = {}
    audit: list[Change] = []
    events: list[Event] = []

    def change(key: int, xid: int) -> None:
        before = table.get(key)
        after = None if before and rng.random() < 0.3 else {"id": key, "title": f"{key} {rng.randint(1, 3)}"}
        op = "c" if before is None else "d" if after is None else "u"
        audit.append(Change(len(audit) + 1, xid, op, key, before, after))
        if after is None:
            del table[key]
        else:
            table[key] = after

    for key in range(LOADED):
        change(key, 1)
    offset, version = 0, 0
    for xid in range(2, CHANGES):
        for _ in range(rng.choice((1, 1, 3))):
            change(rng.randrange(LOADED), xid)
            c, version = audit[-1], version + 1
            events.append(Event(offset, c.op, c.key, f"{version:032x}", c.before, c.after))
            offset += 2 if c.op == "d" else 1
        if xid == CHANGES // 4:
            version += 1
            for key in sorted(table):
                if rng.random() < 0.8 or not any(e.key == key for e in events):
                    events.append(Event(offset, "r", key, f"{version:032x}", None, table[key], "backfill"))
                    offset += 1
    return events, audit, table


def judged(events: list[Event], audit: list[Change], table: dict[int, Row]) -> list[str]:
    return oracle.source_topic("topic", events, audit, table, surely_after=LOADED)


@pytest.mark.parametrize("seed", range(5))
def test_a_true_history_passes(seed: int) -> None:
    events, audit, table = history(seed)
    assert judged(events, audit, table) == []
    replayed = [replace(e, op="u") if e.op == "r" else e for e in events]
    outputs = [e for e in replayed if e.op != "u" or e.before is not None]
    assert oracle.written("sink", outputs, outputs) == []
    assert oracle.rows("index", table.values(), table) == []


def other(row: Row | None) -> Row | None:
    return None if row is None else row | {"title": "another"}


EVENT_CORRUPTIONS: dict[str, Callable[[list[Event], int], None]] = {
    "lost": lambda events, at: events.__delitem__(at),
    "there twice": lambda events, at: events.insert(at, events[at]),
    "repeated with another place": lambda events, at: events.append(replace(events[at], offset=10**6, version="f" * 32)),
    "another value after": lambda events, at: events.__setitem__(at, replace(events[at], after=other(events[at].after))),
    "another value before": lambda events, at: events.__setitem__(at, replace(events[at], before=other(events[at].before))),
    "an older version": lambda events, at: events.__setitem__(at, replace(events[at], version="0" * 32)),
    "an earlier offset": lambda events, at: events.__setitem__(at, replace(events[at], offset=0)),
    "another operation": lambda events, at: events.__setitem__(at, replace(events[at], op="c" if events[at].op == "u" else "u")),
}
# What cannot be told apart from the truth: an absent image has no value to change, and no version lies before the first.
WITHOUT = {"another value after": "d", "another value before": "c"}


@pytest.mark.parametrize("corruption", EVENT_CORRUPTIONS)
@pytest.mark.parametrize("seed", range(12))
def test_a_corrupted_topic_is_noticed(corruption: str, seed: int) -> None:
    events, audit, table = history(seed)
    rng = random.Random(seed)
    last = max(i for i, e in enumerate(events) if e.op == "r")
    choices = [i for i in range(last + LOADED, len(events)) if events[i].op != WITHOUT.get(corruption)]
    EVENT_CORRUPTIONS[corruption](events, rng.choice(choices))
    assert judged(events, audit, table)


@pytest.mark.parametrize("seed", range(12))
def test_a_corrupted_initial_load_is_noticed(seed: int) -> None:
    events, audit, table = history(seed)
    reads = [i for i, e in enumerate(events) if e.op == "r"]
    at = random.Random(seed).choice(reads)
    twice = replace(events[at], offset=10**6, version="f" * 32)
    assert judged([*events, twice], audit, table)
    changed = list(events)
    changed[at] = replace(events[at], after=other(events[at].after))
    assert judged(changed, audit, table)
    # An old read on top of newer changes: what a window is for.
    late = [e for e in events[at + 1 :] if e.key == events[at].key]
    if late and late[-1].after != events[at].after:
        assert judged([*events[:at], *events[at + 1 :], twice], audit, table)


def test_a_change_that_never_came_is_noticed() -> None:
    events, audit, table = history(1)
    lost = Change(len(audit) + 1, 10**6, "c", 10**6, None, {"id": 10**6, "title": "lost"})
    assert judged(events, [*audit, lost], table)
    assert judged(events, audit, {**table, 10**6: {"id": 10**6, "title": "lost"}})


def test_a_lost_part_of_a_transaction_is_noticed_even_before_the_mark() -> None:
    events, audit, table = history(1)
    one = audit[LOADED]
    lost = replace(one, seq=one.seq - 0, key=10**6, op="c", before=None, after={"id": 10**6, "title": "x"})
    gone = replace(lost, op="d", before=lost.after, after=None)
    told = oracle.source_topic("topic", events, [lost, gone, *audit], table, surely_after=None)
    assert any("a part of transaction" in t for t in told)


OUTPUT_CORRUPTIONS = ("another value before", "another value after", "lost", "there twice", "another operation", "an older version")


@pytest.mark.parametrize("corruption", OUTPUT_CORRUPTIONS)
def test_a_corrupted_joined_topic_is_noticed(corruption: str) -> None:
    events, truth = output(40)
    assert oracle.joined_topic("topic", events, truth) == []
    for at in range(20, len(events)):
        if events[at].op != WITHOUT.get(corruption):
            corrupted = list(events)
            EVENT_CORRUPTIONS[corruption](corrupted, at)
            if corrupted != events:
                assert oracle.joined_topic("topic", corrupted, truth), events[at]


def test_an_update_that_says_nothing_is_noticed_where_a_step_compares() -> None:
    events, truth = output(10)
    last = next(e for e in reversed(events) if e.after is not None)
    events.append(replace(last, op="u", before=last.after, offset=10**6, version="f" * 32))
    assert oracle.joined_topic("topic", events, truth)


@pytest.mark.parametrize("corruption", OUTPUT_CORRUPTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_a_corrupted_filtered_topic_is_noticed(corruption: str, seed: int) -> None:
    source, _, table = history(seed)
    events, truth = filtered(source, table)
    assert len(events) > len(source) // 3
    assert oracle.filtered_topic("topic", events, source, step, truth) == []
    for at in range(len(events) // 2, len(events)):
        if events[at].op not in (WITHOUT.get(corruption), "r"):
            corrupted = list(events)
            EVENT_CORRUPTIONS[corruption](corrupted, at)
            first_of_key = corruption == "an older version" and not any(e.key == events[at].key for e in events[:at])
            if corrupted != events and not first_of_key:
                assert oracle.filtered_topic("topic", corrupted, source, step, truth), events[at]


def step(movie: Row) -> Row | None:
    return {"id": movie["id"], "name": movie["title"]} if not movie["title"].endswith("1") else None


def filtered(source: list[Event], table: dict[int, Row]) -> tuple[list[Event], dict[int, Row]]:
    """What the step makes of a history, said with its own words once more."""
    events: list[Event] = []
    for e in source:
        was, became = (step(image) if image else None for image in (e.before, e.after))
        if was or became:
            op = "r" if e.op == "r" else "d" if not became else "u" if was else "c"
            events.append(Event(10 + 2 * len(events), op, e.key, f"{len(events) + 1:032x}", was, became))
    return events, {key: made for key, row in table.items() if (made := step(row))}


def output(changes: int) -> tuple[list[Event], dict[int, Row]]:
    rng = random.Random(changes)
    state: dict[int, Row] = {}
    events: list[Event] = []
    for n in range(changes):
        key = rng.randrange(5)
        before = state.get(key)
        after = None if before and rng.random() < 0.3 else {"id": key, "title": str(n)}
        op = "c" if before is None else "d" if after is None else "u"
        events.append(Event(2 * n, op, key, f"{n + 1:032x}", before, after))
        state.pop(key, None)
        if after is not None:
            state[key] = after
    return events, state


@pytest.mark.parametrize("corruption", ["lost", "there twice", "another value before", "another value after", "an older version"])
def test_a_corrupted_sink_is_noticed(corruption: str) -> None:
    events, _ = output(40)
    for at in range(1, len(events)):
        if events[at].op != WITHOUT.get(corruption):
            corrupted = list(events)
            EVENT_CORRUPTIONS[corruption](corrupted, at)
            assert oracle.written("sink", events, corrupted), events[at]
    assert oracle.written("sink", events, [events[1], events[0], *events[2:]])
    assert oracle.written("sink", events[:-1], events)


def test_a_corrupted_table_is_noticed() -> None:
    truth: dict[int, Row] = {k: {"id": k, "title": f"{k}"} for k in range(5)}
    found = list(truth.values())
    assert oracle.rows("table", found, truth) == []
    assert oracle.rows("table", found[1:], truth)
    assert oracle.rows("table", [*found, found[0]], truth)
    assert oracle.rows("table", [*found, {"id": 9, "title": "9"}], truth)
    assert oracle.rows("table", [{"id": 0, "title": "other"}, *found[1:]], truth)
    assert oracle.rows("table", [{"id": 0}, *found[1:]], truth)


def test_the_points_are_found() -> None:
    found = points()
    assert {"connector.before_commit", "pipeline.after_state", "sink.before_write", "topics.appended"} <= set(found)
    assert len(found) == len(set(found)) >= 20
