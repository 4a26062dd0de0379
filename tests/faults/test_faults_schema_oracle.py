"""The oracle over schemas that change complains of each kind of corruption, and of nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from faults_events import Change, Row
from faults_schema_oracle import Told, Wanted, changelog, complaints_of, source_topic

from millstream.events.types import Constant, Field, RowSchema, Type

WAS = RowSchema((Field("id", Type("int64"), 1), Field("note", Type("text"), 2)), ("id",))
NOW = RowSchema((*WAS.fields, Field("extra", Type("text"), 3, fill=Constant("x"))), ("id",))
A, B = {"id": 1, "note": "a"}, {"id": 1, "note": "b", "extra": "y"}


def told(offset: int, op: str, before: Row | None, after: Row | None, schema: RowSchema, cause: str | None = None) -> Told:
    return Told(offset, op, 1, f"{offset:032x}", before, after, cause, schema)


READ = Told(0, "r", 2, f"{0:032x}", None, {"id": 2, "note": None}, "backfill", WAS)
EVENTS = [READ, told(1, "c", None, A, WAS), told(2, "u", A | {"extra": "x"}, B, NOW)]
AUDIT = [Change(1, 1, "c", 1, None, A), Change(2, 2, "u", 1, A | {"extra": "x"}, B)]
TABLE = {1: B, 2: {"id": 2, "note": None, "extra": "x"}}
LAKE: list[dict[str, Any]] = [
    {"_offset": e.offset, "_op": e.op, "_version": e.version, "id": e.key, "extra": None} | (e.after or {}) for e in EVENTS
]


def now(found: Row) -> Row:
    return {"extra": "x"} | found


def of_source(events: list[Told]) -> list[str]:
    return source_topic("t", events, AUDIT, now, TABLE)


def of_pipeline(events: list[Told], wanted: Wanted, truth: dict[int, Row] = TABLE) -> list[str]:
    return complaints_of("p", events, EVENTS, wanted, truth)


def test_what_is_right_is_not_complained_of() -> None:
    assert of_source(EVENTS) == []
    assert of_pipeline(EVENTS, Wanted("", "t", lambda found: found)) == []
    assert of_pipeline(EVENTS, Wanted("")) == []
    assert changelog("l", EVENTS, LAKE) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (EVENTS[:2], "lost"),
        ([*EVENTS, replace(EVENTS[2], offset=3, version=f"{3:032x}")], "changed 2 times"),
        ([*EVENTS[:2], replace(EVENTS[2], after=B | {"extra": "x"})], "the audit has"),
        ([*EVENTS[:2], replace(EVENTS[2], after={"id": 1, "note": "b"}, schema=WAS)], "the audit has"),
        ([replace(READ, after={"id": 2, "note": "no"}), *EVENTS[1:]], "replayed"),
        ([*EVENTS, Told(3, "r", 1, f"{3:032x}", None, A | {"extra": "x"}, "schema", NOW)], "not what stood there"),
        ([*EVENTS[:2], replace(EVENTS[2], schema=RowSchema((*WAS.fields, Field("extra", Type("text"), 3)), ("id",)))], "replayed"),
    ],
)
def test_a_topic_of_a_table_that_is_wrong(wrong: list[Told], said: str) -> None:
    assert any(said in complaint for complaint in of_source(wrong))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (EVENTS[:2], "the topic has None"),
        ([*EVENTS[:2], replace(EVENTS[2], after=B | {"extra": None})], "became"),
        ([EVENTS[1], replace(READ, offset=1)], "after"),
    ],
)
def test_a_topic_of_filters_that_is_wrong(wrong: list[Told], said: str) -> None:
    assert any(said in complaint for complaint in of_pipeline(wrong, Wanted("", "t", lambda found: found)))


def test_a_topic_of_a_join_that_is_wrong() -> None:
    gap = [*EVENTS[:2], replace(EVENTS[2], before=A | {"extra": None})]
    assert any("before is not what stood there" in c for c in of_pipeline(gap, Wanted("")))
    same = [*EVENTS, told(3, "u", B, B, NOW)]
    assert any("changes nothing" in c for c in of_pipeline(same, Wanted("")))
    assert any("replayed" in c for c in of_pipeline(EVENTS, Wanted(""), {1: B}))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (LAKE[:2], "lost"),
        ([*LAKE, LAKE[0]], "twice"),
        ([LAKE[0] | {"extra": "x"}, *LAKE[1:]], "the table"),
        ([*LAKE, LAKE[0] | {"_offset": 9}], "not in the topic"),
    ],
)
def test_a_changelog_that_is_wrong(wrong: list[dict[str, Any]], said: str) -> None:
    assert any(said in complaint for complaint in changelog("l", EVENTS, wrong))
