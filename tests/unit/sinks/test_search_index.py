"""The search sink: what is found by which query, what a key's document is, and what is told where nothing can be."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.errors import BadRecord, Irrecoverable, Refused
from millstream.events.types import UNKNOWN, Constant, Field, RowSchema, Type, list_of, record_of
from millstream.sinks.search.generations import index_path, indexes
from millstream.sinks.search.layout import State
from millstream.sinks.search.options import Options
from millstream.sinks.search.query import Question, search
from millstream.sinks.search.render import key_terms, last_per_key
from millstream.sinks.search.sink import SLICE_ROWS, SearchSink, open_sink
from millstream.sinks.search.suggest import suggest
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
        ("ALIEN resurrection", {1}),
        ("alien OR other", {1, 2}),
        ('"alien resurrection"', {1}),
        ("resurr*", {1}),
        ("title: alien", {1, 2}),
        ("title: alien resurrection", {1}),
        ('title: "The Alien"', {2}),
        ("title = 'The Alien'", {2}),
        ("title = Alien", set()),
        ("title != 'The Alien'", {1}),
        ("title < B", {1}),
        ("year = 1979", {2}),
        ("year: 1979", {2}),
        ("year BETWEEN 1990 AND 2000", {1}),
        ("year NOT BETWEEN 1990 AND 2000", {2, 3}),
        ("year > 1979", {1}),
        ("year >= 1979", {1, 2}),
        ("year > 1978.5 AND year < 1e5", {1, 2}),
        ("year IN (1979, 2001)", {2}),
        ("score = 6.20", {1}),
        ("score > 6.2", {2}),
        ("day = 1979-05-25", {2}),
        ("day BETWEEN 1979-01-01 AND 1980-01-01", {2}),
        ("day < 1980-01-01", {2}),
        ("at = 2024-01-01T12:00:00Z", {1}),
        ("at = '2024-01-01T13:00:00+01:00'", {1}),
        ("at >= 2024-01-01T12:00:01Z", {2}),
        ("at BETWEEN 2024-01-01 AND 2024-01-02", {1, 2}),
        ("good = true", {2}),
        ("good != true", {1}),
        ("attrs.color: red", {1}),
        ("attrs.color = 'red'", {1}),
        ("attrs.n: 2", {1}),
        ("attrs.n > 1", {1}),
        ("attrs: json", {2}),
        ("a.b: dotted", {2}),
        ("`a.b` = dotted", {2}),
        ("code = 550E8400-e29b-41d4-a716-446655440000", {1, 2}),
        ("EXISTS raw", {1, 2}),
        ("score IS NULL", {3}),
        ("alien NOT resurrection", {2}),
        ("NOT alien", {3}),
        ("year = 1979 OR year = 1997", {1, 2}),
        ("title: alien AND NOT year = 1979", {1}),
        ("alien AND NOT (resurrection OR other)", {2}),
        ('"alien AND NOT resurrection"', set()),
        ('"nope: 1"', set()),
        ("red, alien", {1}),
        ("secretbytes", set()),
    ],
)
def test_query(query: str, ids: set[int], place: Path) -> None:
    assert {h.key[0] for h in search(place, "films", query).hits} == ids


@pytest.mark.parametrize(
    ("query", "code", "place_and_cure"),
    [
        ("", "bad_query", "character 1|for every document"),
        ("(alien", "bad_query", "character 1|where it ends"),
        ("alien)", "bad_query", "character 6|take it out"),
        ("alien AND", "bad_query", "character 10|write a word"),
        ("OR alien", "bad_query", 'character 1|"or"'),
        ("title = 'alien", "bad_query", "character 9|another '"),
        ("year <> 1979", "bad_query", "character 6|write !="),
        ("year IN 1979", "bad_query", "character 9|IN (1, 2, 3)"),
        ("year IS 1979", "bad_query", "character 9|year IS NULL"),
        ("title: *", "bad_query", "character 8|EXISTS title"),
        ("al*en", "bad_query", "character 1|quotes round it"),
        ("-- alien", "bad_query", "character 1|leave it out"),
        ("yaer = 1979", "unknown_column", "character 1|one of: year"),
        ("title.x = 1", "unknown_column", "character 1|title"),
        ("alien: resurrection", "unknown_column", "character 1|quotes round it"),
        ("_meta: position", "unknown_column", "character 1|one of"),
        ("alien AND year = old", "bad_value", "character 18|write a number"),
        ("day = 1979-05-25T00:00:00", "bad_value", "character 7|write a day"),
        ("good > true", "bad_comparison", "character 1|good = true"),
        ("raw = x", "not_indexed", "character 1|EXISTS raw"),
        ("ANY title (x = 1)", "bad_comparison", "character 5|without ANY"),
        ("year: 1979 1980", "bad_comparison", "character 7|year = "),
        ("(" * 60 + "alien" + ")" * 60, "bad_query", "character 52|less at once"),
        ("NOT " * 60 + "alien", "bad_query", "|less at once"),
        (" ".join(["alien"] * 1_001), "bad_query", "|less at once"),
        ("x" * 20_001, "bad_query", "|less at once"),
    ],
)
def test_a_mistake_is_refused_with_its_place_and_a_cure(query: str, code: str, place_and_cure: str, place: Path) -> None:
    where, _, cure = place_and_cure.partition("|")
    with pytest.raises(Refused) as caught:
        search(place, "films", query)
    assert caught.value.code == code
    assert where in caught.value.where
    assert cure in caught.value.cure


def test_names_that_are_nearly_right_are_offered(place: Path) -> None:
    with pytest.raises(Refused) as caught:
        search(place, "films", "yaer = 1979")
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
    answer = search(place, "films", "alien OR resurrection", 1)
    assert [h.key for h in answer.hits] == [[1]]
    assert answer.total == 2
    assert answer.hits[0].score > 0
    assert answer.hits[0].document["raw"] == "c2VjcmV0Ynl0ZXM="


def test_fields_say_how_columns_are_found(tmp_path: Path) -> None:
    place = tmp_path / ".millstream"
    options = Options(index="films", fields={"title": "exact", "year": "stored", "code": "text"}, heap_mb=15)
    sink = open_sink("s", options, place)
    sink.open(1)
    sink.accept(SCHEMA)
    sink.write([changes(0, [("c", None, r) for r in rows()], SCHEMA)], {TOPIC: 3})
    sink.close()

    def found(query: str) -> set[int]:
        return {h.key[0] for h in search(place, "films", query).hits}

    assert found("alien") == found("title: alien") == set()
    assert found("title: 'The Alien'") == {2}
    assert found("e29b") == {1, 2}
    assert found("EXISTS year") == {1, 2}
    with pytest.raises(Refused, match="only kept"):
        found("year = 1979")
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
    assert search(place, "films", "id = 1").hits[0].document["attrs"] == text


def columns(**types: Type) -> RowSchema:
    return RowSchema((Field("id", Type("int64"), 1), *(Field(n, t, i) for i, (n, t) in enumerate(types.items(), 2))), ("id",))


def test_a_column_keeps_what_it_compares_with(tmp_path: Path) -> None:
    sink = open_sink("s", Options(index="films", heap_mb=15), tmp_path)
    sink.open(1)
    name, born, role = Field("name", Type("text"), 1), Field("born", Type("int32"), 2), Field("role", Type("text"), 3)
    old = columns(n=Type("int32"), cast=list_of(Type("record", fields=(name, born))))
    sink.accept(old)
    sink.write([changes(0, [("c", None, {"id": 1, "n": 7, "cast": [{"name": "Ford", "born": 1942}]})], old)], {TOPIC: 1})
    new = columns(n=Type("decimal", 12, 2), cast=list_of(Type("record", fields=(name, role))))
    sink.accept(new)
    sink.write([changes(1, [("c", None, {"id": 2, "n": 7, "cast": [{"name": "Ford", "role": "Han"}]})], new)], {TOPIC: 2})
    for schema in (columns(n=Type("text")), columns(n=Type("float64")), columns(cast=record_of(("name", Type("text"))))):
        with pytest.raises(Refused) as caught:
            sink.accept(schema)
        assert caught.value.code == "search_type_changed"
        assert caught.value.cure
    sink.close()
    for query, ids in {
        "n = 7": {1, 2},
        "cast.name: ford": {1, 2},
        "cast.born = 1942": {1},
        "ANY cast (name: ford AND role = Han)": {2},
    }.items():
        assert {h.key[0] for h in search(tmp_path, "films", query).hits} == ids


def following(tmp_path: Path, *steps: tuple[RowSchema, dict]) -> None:
    """Each row inserted after its schema was accepted by the one running sink."""
    sink = open_sink("s", Options(index="films", heap_mb=15), tmp_path)
    sink.open(1)
    for offset, (schema, row) in enumerate(steps):
        sink.accept(schema)
        sink.write([changes(offset, [("c", None, row)], schema)], {TOPIC: offset + 1})
    sink.close()


def found(tmp_path: Path, query: str) -> set[int]:
    return {h.key[0] for h in search(tmp_path, "films", query).hits}


def test_documents_that_are_there_go_by_a_columns_new_name(tmp_path: Path) -> None:
    before, after = columns(title=Type("text"), n=Type("int32")), columns(name=Type("text"), n=Type("int32"))
    following(tmp_path, (before, {"id": 1, "title": "The Thing", "n": 7}), (after, {"id": 2, "name": "Thing Two", "n": 7}))
    assert found(tmp_path, "name: thing") == found(tmp_path, "n = 7") == {1, 2}
    assert [h.document for h in search(tmp_path, "films", "id = 1").hits] == [{"id": 1, "name": "The Thing", "n": 7}]
    with pytest.raises(Refused) as caught:
        search(tmp_path, "films", "title: thing")
    assert caught.value.code == "unknown_column"
    assert suggest(tmp_path, "films", "name", "the") == [("The Thing", 1)]


def test_documents_that_are_there_say_the_constant_of_a_column_that_is_added(tmp_path: Path) -> None:
    before = columns(n=Type("int32"))
    added = Field("tier", Type("text"), 3, fill=Constant("basic")), Field("paid", Type("decimal", 6, 2), 4, fill=Constant("1.50"))
    after = RowSchema((*before.fields, *added, Field("unknown", Type("int32"), 5, fill=UNKNOWN)), ("id",))
    following(tmp_path, (before, {"id": 1}), (after, {"id": 2, "tier": "gold"}), (after, {"id": 3}))
    assert found(tmp_path, "tier = basic AND paid = 1.5") == {1}
    assert search(tmp_path, "films", "id = 1").hits[0].document == {"id": 1, "n": None, "tier": "basic", "paid": "1.50", "unknown": None}


def test_a_column_that_is_dropped_vanishes_from_new_documents_and_its_name_is_free(tmp_path: Path) -> None:
    again = RowSchema((Field("id", Type("int64"), 1), Field("n", Type("text"), 9)), ("id",))
    following(tmp_path, (columns(n=Type("int32")), {"id": 1, "n": 7}), (columns(), {"id": 2}))
    found = [h.document for h in search(tmp_path, "films", "n = 7 OR id = 2").hits]  # their order is by how well they match
    assert sorted(found, key=lambda d: d["id"]) == [{"id": 1, "n": 7}, {"id": 2}]
    sink = open_sink("s", Options(index="films", heap_mb=15), tmp_path)
    sink.open(2)
    sink.accept(again)
    sink.close()
    assert search(tmp_path, "films", "id = 1").hits[0].document == {"id": 1, "n": None}


def test_documents_stay_as_they_are_where_nothing_asks_for_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that is null in old rows, a wider integer, another order, a description: no document is touched."""
    before = columns(n=Type("int32"), note=Type("text"))
    following(tmp_path, (before, {"id": 1, "n": 7}))
    monkeypatch.setattr(SearchSink, "_anew", None)
    wide = Field("n", Type("int64"), 2, doc="how many", tags=("x",))
    following(tmp_path, (RowSchema((before["note"], wide, before["id"], Field("more", Type("date"), 9)), ("id",)), {"id": 2, "n": 2**40}))


def test_an_index_whose_fields_have_no_ids_yet_goes_by_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(State, "data", lambda self, whole=State.data: json.dumps({**json.loads(whole(self)), "ids": {}}).encode())
    following(tmp_path, (columns(n=Type("int32"), gone=Type("text")), {"id": 1, "n": 7, "gone": "x"}))
    monkeypatch.undo()
    sink = open_sink("s", Options(index="films", heap_mb=15), tmp_path)
    sink.open(2)
    with pytest.raises(Refused, match="n was indexed as int32 and is now text"):
        sink.accept(columns(n=Type("text")))
    sink.accept(columns(n=Type("int64")))
    sink.close()
    assert found(tmp_path, "n = 7 AND gone = x") == {1}


def test_documents_made_anew_are_one_commit(tmp_path: Path) -> None:
    """More of them than a slice; and one that cannot be read stops it with nothing changed."""
    before, after = columns(title=Type("text")), columns(name=Type("text"))
    sink = open_sink("s", Options(index="films", heap_mb=15), tmp_path)
    sink.open(1)
    sink.accept(before)
    count = SLICE_ROWS * 3 + 5
    sink.write([changes(0, [("c", None, {"id": n, "title": f"t{n}"}) for n in range(count)], before)], {TOPIC: count})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Irrecoverable):
        patch.setattr("millstream.sinks.search.sink.reshaped", lambda d, *_: {"id": "x"} if d["id"] == SLICE_ROWS * 2 else d)
        sink.accept(after)
    assert search(tmp_path, "films", f"title = t{count - 1}").total == 1
    sink.accept(after)
    sink.close()
    assert search(tmp_path, "films", f"name = t{count - 1}").total == search(tmp_path, "films", "name = t0").total == 1
    assert search(tmp_path, "films", "*").total == count


def test_an_index_of_an_earlier_layout_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millstream.sinks.search.layout.LAYOUT", 1)
    sink = open_sink("s", Options(index="films", heap_mb=15), tmp_path)
    sink.open(1)
    sink.close()
    monkeypatch.undo()
    for ask in (lambda: search(tmp_path, "films", "*"), lambda: open_sink("s", Options(index="films", heap_mb=15), tmp_path).open(2)):
        with pytest.raises(Refused) as caught:
            ask()
        assert caught.value.code == "index_outdated"


def test_a_commit_cut_short_can_be_made_again(tmp_path: Path) -> None:
    """Killed after the commit's files were written and before `meta.json` named them: made again, it has the same names for them."""
    options = Options(index="films", heap_mb=15)
    sink = open_sink("s", options, tmp_path)
    sink.open(1)
    sink.accept(SCHEMA)
    sink.write([changes(0, [("c", None, r) for r in rows()], SCHEMA)], {TOPIC: 3})
    sink.close()
    meta = index_path(tmp_path, options.index) / "meta.json"
    before = meta.read_bytes()
    for fence in (2, 3):
        sink.open(fence)
        sink.close()
        meta.write_bytes(before)
    sink.open(4)
    assert sink.resume_after() == {TOPIC: 3}
    sink.close()


def test_only_a_field_of_one_value_gives_an_order(tmp_path: Path) -> None:
    sink = open_sink("s", Options(index="films", heap_mb=15, fields={"kept": "stored"}), tmp_path)
    sink.open(1)
    schema = columns(n=list_of(Type("int32")), kept=Type("text"), cast=record_of(("name", Type("text"))))
    sink.accept(schema)
    sink.close()
    for field, code in {"n": "bad_sort", "kept": "not_indexed", "cast": "not_indexed", "nope": "unknown_column", "n.": "bad_query"}.items():
        with pytest.raises(Refused) as caught:
            search(tmp_path, "films", Question("*", sort=(field, False)))
        assert caught.value.code == code
        assert caught.value.cure
    assert search(tmp_path, "films", Question("*", sort=("cast.name", False))).hits == []
