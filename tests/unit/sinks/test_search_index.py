"""The search sink: what is found by which query, what a key's document is, and what is told where nothing can be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.errors import BadRecord, Refused
from millstream.events.types import Field, RowSchema, Type
from millstream.sinks.search.generations import indexes
from millstream.sinks.search.options import Options
from millstream.sinks.search.query import search
from millstream.sinks.search.render import key_terms, last_per_key
from millstream.sinks.search.sink import SearchSink, open_sink
from millstream.testing.sink_events import TOPIC, changes, workload

SCHEMA = RowSchema(
    (
        Field("id", Type("int64"), 1),
        Field("title", Type("text"), 2),
        Field("year", Type("int32"), 3),
        Field("score", Type("decimal", 4, 1), 4),
        Field("day", Type("date"), 5),
        Field("at", Type("timestamptz"), 6),
        Field("attrs", Type("json"), 7),
        Field("a.b", Type("text"), 8),
        Field("good", Type("boolean"), 9),
        Field("code", Type("uuid"), 10),
        Field("raw", Type("bytes"), 11),
    ),
    ("id",),
)


def rows() -> list[dict]:
    import datetime as dt
    from decimal import Decimal

    common = {"code": "550e8400-e29b-41d4-a716-446655440000", "raw": b"secretbytes"}
    one = {"title": "Alien Resurrection", "year": 1997, "score": Decimal("6.2"), "good": False, "attrs": '{"color": "red", "n": [1, 2]}'}
    two = {"title": "The Alien", "year": 1979, "score": Decimal("8.5"), "good": True, "attrs": "not json", "a.b": "dotted"}
    return [
        {"id": 1, "day": dt.date(1997, 11, 26), "at": dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC), **one, **common},
        {"id": 2, "day": dt.date(1979, 5, 25), "at": dt.datetime(2024, 1, 2, tzinfo=dt.UTC), **two, **common},
        {"id": 3},
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("project") / ".millstream"
    sink = open_sink("s", Options(index="films", heap_mb=15), place)
    sink.open(1)
    sink.accept(SCHEMA)
    sink.write([changes(0, [("c", None, r) for r in rows()], SCHEMA)], {TOPIC: 3})
    yield place  # the writer is still open: readers need not wait for it
    sink.close()


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("*", {1, 2, 3}),
        ("alien", {1, 2}),
        ("ALIEN resurrection", {1, 2}),
        ('"alien resurrection"', {1}),
        ("title:alien", {1, 2}),
        ('title:"The Alien"', {2}),
        ('_exact.title:"The Alien"', {2}),
        ('_exact.title:"Alien"', set()),
        ("year:1979", {2}),
        ("year:[1990 TO 2000]", {1}),
        ("year:{1979 TO 1997]", {1}),
        ("year:>1979", {1}),
        ("year:>=1979", {1, 2}),
        ("year:IN [1979 2001]", {2}),
        ("score:6.2", {1}),
        ("score:>6.2", {2}),
        ("day:1979-05-25", {2}),
        ("day:[1979-01-01 TO 1980-01-01]", {2}),
        ("day:<1980-01-01", {2}),
        ("at:2024-01-01T12:00:00Z", {1}),
        ('at:"2024-01-01T12:00:00Z"', {1}),
        ("at:>=2024-01-01T12:00:01Z", {2}),
        ("at:[2024-01-01 TO 2024-01-02]", {1, 2}),
        ("good:true", {2}),
        ("attrs.color:red", {1}),
        ("attrs.n:2", {1}),
        ("a.b:dotted", {2}),
        (r"a\.b:dotted", {2}),
        ("code:550e8400-e29b-41d4-a716-446655440000", {1, 2}),
        ("alien -resurrection", {2}),
        ("* -alien", {3}),
        ("year:1979 OR year:1997", {1, 2}),
        ("title:alien AND NOT year:1979", {1}),
        ("alien AND NOT (resurrection OR other)", {2}),
        ('"alien AND NOT resurrection"', set()),
        ('"nope: 1"', set()),
        ("secretbytes", set()),
    ],
)
def test_query(query: str, ids: set[int], place: Path) -> None:
    assert {h.key[0] for h in search(place, "films", query)} == ids


@pytest.mark.parametrize(
    ("query", "code"),
    [("(", "bad_query"), (" ", "bad_query"), ("-alien", "bad_query"), ("yaer:1979", "unknown_column"), ("title.x:1", "unknown_column"),
     ("_meta:position", "unknown_column"), ("_state:x", "unknown_column")],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_with_a_cure(query: str, code: str, place: Path) -> None:
    with pytest.raises(Refused) as caught:
        search(place, "films", query)
    assert caught.value.code == code
    assert caught.value.cure


def test_names_that_are_nearly_right_are_offered(place: Path) -> None:
    with pytest.raises(Refused) as caught:
        search(place, "films", "yaer:1979")
    assert "year" in caught.value.cure
    with pytest.raises(Refused) as caught:
        search(place, "flims", "*")
    assert "films" in caught.value.cure
    assert indexes(place) == ["films"]
    with pytest.raises(Refused, match="limit is 0"):
        search(place, "films", "*", 0)
    with pytest.raises(Refused) as caught:
        search(place / "nowhere", "films", "*")
    assert "run a pipeline" in caught.value.cure


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12) | st.text("()[]{}:\"'-+*~^\\/ aTO<>=1.", max_size=15))
def test_any_text_is_an_answer_or_a_refusal(place: Path, query: str) -> None:
    try:
        search(place, "films", query)
    except Refused as error:
        assert error.cure


def test_the_best_come_first_and_no_more_than_asked(place: Path) -> None:
    hits = search(place, "films", "alien resurrection", 1)
    assert [h.key for h in hits] == [[1]]
    assert hits[0].score > 0
    assert hits[0].document["raw"] == "c2VjcmV0Ynl0ZXM="


def test_fields_say_how_columns_are_found(tmp_path: Path) -> None:
    place = tmp_path / ".millstream"
    options = Options(index="films", fields={"title": "exact", "year": "stored", "code": "text"}, heap_mb=15)
    sink = open_sink("s", options, place)
    sink.open(1)
    sink.accept(SCHEMA)
    sink.write([changes(0, [("c", None, r) for r in rows()], SCHEMA)], {TOPIC: 3})
    sink.close()

    def found(query: str) -> set[int]:
        return {h.key[0] for h in search(place, "films", query)}

    assert found("alien") == found("title:alien") == found("year:1979") == set()
    assert found('title:"The Alien"') == {2}
    assert found("e29b") == {1, 2}
    with pytest.raises(Refused) as caught:
        open_sink("s", Options(index="films", heap_mb=15), place).open(2)
    assert caught.value.code == "search_fields_changed"


@given(st.lists(st.integers(0, 60), min_size=1, max_size=3).map(sorted))
def test_one_event_a_key_is_kept_the_last(cuts: list[int]) -> None:
    edges = [0, *cuts, 60]
    batches = [workload(a, b) for a, b in itertools.pairwise(edges) if b > a]
    kept = {}
    for batch, terms in last_per_key(batches):
        for term, offset in zip(terms.to_pylist(), batch.offsets.tolist(), strict=True):
            assert term not in kept
            kept[term] = offset
    oracle = {}
    for batch in batches:
        for key, offset in zip(batch.keys().to_pylist(), batch.offsets.tolist(), strict=True):
            oracle[f"[{key['id']}]"] = offset
    assert kept == oracle


def test_an_event_without_a_key_is_named() -> None:
    with pytest.raises(BadRecord) as caught:
        key_terms(changes(7, [("c", None, {"id": 1}), ("d", None, None)]))
    assert caught.value.where == f"{TOPIC}@8"
    schema = RowSchema((Field("k", Type("text"), 1),), ("k",))
    with pytest.raises(BadRecord, match="longer than"):
        key_terms(changes(7, [("c", None, {"k": "x" * 40_000})], schema))


@pytest.mark.parametrize("text", ["1e999", "1" + "0" * 400, '"\\ud800"', "[" * 500 + "]" * 500, "NaN", '{"a": "\\u0000"}', '{"": {"": 1}}'])
def test_json_that_the_index_cannot_read_is_indexed_as_text(text: str, tmp_path: Path) -> None:
    place = tmp_path / ".millstream"
    sink: SearchSink = open_sink("s", Options(index="films", heap_mb=15), place)
    sink.open(1)
    sink.accept(SCHEMA)
    sink.write([changes(0, [("c", None, {"id": 1, "attrs": text})], SCHEMA)], {TOPIC: 1})
    sink.close()
    assert search(place, "films", "id:1")[0].document["attrs"] == text
