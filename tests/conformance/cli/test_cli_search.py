"""`millstream search` and `suggest`: what they take, what they print, and what they say of a mistake."""

from __future__ import annotations

import pytest


@pytest.fixture
def filled(shop):
    shop.order(4, 250, "Green Tea " + "and so on " * 60)
    shop.order(5, 300)
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    return shop


def test_everything_that_can_be_asked_for(filled) -> None:
    wanted = ("--where", "amount > 100", "--facet", "amount:2", "--sort", "amount:desc", "--fields", "note,id", "--highlight")
    answer = filled("--json", "search", "orders", "tea", *wanted, "--limit", "2", "--offset", "1").json
    assert answer["total"] == 3
    assert [hit["key"] for hit in answer["hits"]] == [[4], [2]]
    assert answer["hits"][1]["document"] == {"note": "green tea", "id": 2}
    assert answer["hits"][1]["marks"] == {"note": [{"text": "green tea", "at": [[6, 9]]}]}
    assert answer["facets"] == {"amount": [{"value": 250, "documents": 2}, {"value": 150, "documents": 1}]}
    assert filled("--json", "search", "orders", "nothing").json == {"total": 0, "hits": []}


def test_what_people_see(filled) -> None:
    said = filled("search", "orders", "so", "--facet", "amount").out
    assert "1 document" in said
    assert "…" not in said.split("note ")[1][:20]
    assert len(said.split("note ")[1].splitlines()[0]) < 300, "a long text is cut round what was found"
    assert "250" in said.split("amount")[2]
    assert "5 documents" not in filled("search", "orders", "*", "--limit", "1").out
    assert "4 documents, 1 to 1 shown" in filled("search", "orders", "*", "--limit", "1").out
    assert "nothing found" in filled("search", "orders", "nothing").out


def test_completion(filled) -> None:
    assert filled("--json", "suggest", "orders", "note", "GRÉEN t", "--limit", "1").json == [{"value": "green tea", "documents": 1}]
    assert filled("--json", "suggest", "orders", "note", "Green", "--exact").json == []
    assert "black tea" in filled("suggest", "orders", "note", "b").out
    assert "nothing begins so" in filled("suggest", "orders", "note", "x").out


MISTAKES = [
    (("search", "orders", "amuont = 1"), "one of: amount"),
    (("search", "orders", "amount ="), "character 9"),
    (("search", "orders", "*", "--where", "("), "character 2"),
    (("search", "orders", "*", "--facet", "amuont"), "one of: amount"),
    (("search", "orders", "*", "--facet", "amount:many"), "FIELD:N"),
    (("search", "orders", "*", "--facet", "amount:100000"), "1 to 1000"),
    (("search", "orders", "*", "--sort", "amount:up"), "FIELD:desc"),
    (("search", "orders", "*", "--sort", "nmae"), "unknown_column"),
    (("search", "orders", "*", "--fields", "id,nmae"), "unknown_column"),
    (("search", "orders", "*", "--limit", "0"), "1 to 10000"),
    (("suggest", "orders", "amount", "1"), "one of: note"),
    (("suggest", "orders", "nmae", "1"), "unknown_column"),
    (("suggest", "orders", "note", "1", "--limit", "0"), "1 to 1000"),
]


def test_mistakes(filled) -> None:
    for arguments, said in MISTAKES:
        answer = filled(*arguments)
        assert answer.code == 2, arguments
        assert said in answer.err.replace("\n", " "), arguments
