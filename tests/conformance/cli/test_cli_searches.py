"""Saved searches of a product, from their file to the topic that says what they match."""

from __future__ import annotations

import random
import threading

import pytest

from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines import searches as saved
from millstream.testing.scripted_source import Change, ScriptedDatabase

ORDERS = RowSchema((Field("id", Type("int64"), 1), Field("amount", Type("int32"), 2), Field("buyer", Type("int64"), 3)), ("id",))
BUYERS = RowSchema((Field("id", Type("int64"), 1), Field("name", Type("text"), 2)), ("id",))
PRODUCT = """\
product: order
owner: team
root:
  from: shop.public.orders
  join: {buyer: {from: shop.public.buyers, on: buyer.id = orders.buyer}}
  fields: {id: , amount: , buyer: buyer.name}
"""


@pytest.fixture
def studio(shop):
    """The shop with buyers beside its orders, and a product over both."""
    shop.database = ScriptedDatabase({"public.orders": ORDERS, "public.buyers": BUYERS}, random.Random(7))
    shop.write(
        "sources/shop.yaml", "source: shop\nconnector: scripted\nurl: ${SHOP_URL}\ntables: [public.orders, public.buyers]\nowner: team\n"
    )
    (shop.folder / "pipelines/large.yaml").unlink()
    shop.write("products/order.yaml", PRODUCT)
    shop.database.commit(*(Change("public.buyers", None, {"id": n, "name": f"buyer {n}"}) for n in range(7)))
    shop.database.commit(*(Change("public.orders", None, {"id": n, "amount": n, "buyer": n % 7}) for n in range(60)))
    return shop


def matched(shop) -> dict[str, set[int]]:
    """search → ids whose last event is no delete."""
    now: dict[str, set[int]] = {}
    for event in shop("--json", "topics", "read", "order.matches", "--limit", "10000").lines:
        row = event["after"] or event["before"]
        (now.setdefault(row["search"], set()).discard if event["op"] == "d" else now.setdefault(row["search"], set()).add)(row["id"])
    return {name: ids for name, ids in now.items() if ids}


def run(shop) -> None:
    answer = shop("run", "--until-caught-up")
    assert answer.code == 0, answer.err


def found(shop, query: str) -> set[int]:
    return {hit["document"]["id"] for hit in shop("--json", "search", "order", query, "--limit", "1000").json["hits"]}


@pytest.fixture
def filled(studio):
    assert studio("apply").code == 0
    run(studio)
    return studio


def test_the_way_of_a_saved_search(filled) -> None:
    first = filled("searches", "save", "buyer_three", "order", 'buyer: "buyer 3"', "--owner", "team-deals")
    assert first.code == 0, first.err
    assert "finds 9 documents now" in first.out
    assert "millstream apply" in first.err
    assert (filled.folder / "searches/buyer_three.yaml").read_text() == (
        "search: buyer_three\nproduct: order\nquery: 'buyer: \"buyer 3\"'\nowner: team-deals\n"
    )
    assert "create topic order.matches" in filled("plan").out
    assert filled("apply").code == 0
    run(filled)
    assert matched(filled) == {"buyer_three": found(filled, 'buyer: "buyer 3"')}

    assert filled("searches", "save", "small", "order", "amount < 5", "--owner", "team-deals").err == ""
    assert filled("plan", "--json").json["steps"] == []
    filled.database.commit(Change("public.buyers", {"id": 3, "name": "buyer 3"}, {"id": 3, "name": "Ada"}))
    filled.database.commit(Change("public.orders", {"id": 2, "amount": 2, "buyer": 2}, None))
    run(filled)
    assert matched(filled) == {"small": {0, 1, 3, 4}}
    assert found(filled, "amount < 5") == {0, 1, 3, 4}

    listed = filled("--json", "searches", "list").json
    assert [(s["search"], s["query"]) for s in listed] == [("buyer_three", 'buyer: "buyer 3"'), ("small", "amount < 5")]
    assert filled("--json", "searches", "show", "small").json["documents"] == 4
    assert filled("searches", "save", "small", "order", "amount < 2").code == 0
    assert filled("searches", "remove", "buyer_three").code == 0
    run(filled)
    assert matched(filled) == {"small": {0, 1}}
    parts = {p["part"]: p for p in filled("--json", "status").json["parts"]}
    assert parts["pipeline.order"]["lag"] == 0
    assert parts["pipeline.order"]["progress"].keys() == {"shop"}

    filled.write("products/order.yaml", PRODUCT.replace("id: , amount: ,", "id: ,"))
    assert filled("apply").code == 0
    run(filled)
    answer = filled("status")
    assert "search.small" in answer.out
    assert "set aside" in answer.out and "no field 'amount'" in answer.out
    assert matched(filled) == {"small": {0, 1}}
    assert filled("searches", "remove", "small").code == 0
    run(filled)
    assert matched(filled) == {}


def test_a_running_mesh_takes_up_what_is_saved(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.write("searches/one.yaml", "search: one\nproduct: order\nquery: amount = 1\nowner: me\n")
    assert filled("apply").code == 0
    taken = threading.Event()
    looked = saved.LiveSearches.of

    def of(self, product: str):
        now = looked(self, product)
        if "two" in now:
            taken.set()
        elif now:
            filled.write("searches/two.yaml", "search: two\nproduct: order\nquery: amount = 2\nowner: me\n")
        return now

    monkeypatch.setattr(saved.LiveSearches, "of", of)
    run(filled)
    assert taken.is_set()
    run(filled)
    assert matched(filled) == {"one": {1}, "two": {2}}


MISTAKES = [
    ("search: a\nproduct: ordr\nquery: x\nowner: me\n", "did you mean order"),
    ("search: a\nproduct: order\nquery: 'amount <'\nowner: me\n", "character 9"),
    ("search: a\nproduct: order\nowner: me\n", "query: is missing"),
    ("search: a\nproduct: order\nquery: x\n", "owner: is missing"),
    ("search: a\nproduct: order\nquery: x\nowner: me\nevery: day\n", "no key every"),
    ("search: A\nproduct: order\nquery: x\nowner: me\n", "cannot be a name"),
    ("search: a\nproduct: order\nquery: x\nowner: me\n---\nsearch: a\nproduct: order\nquery: y\nowner: me\n", "two searches are called a"),
]


def test_mistakes_in_files(studio) -> None:
    for text, said in MISTAKES:
        studio.write("searches/a.yaml", text)
        answer = studio("validate")
        assert answer.code == 2, text
        assert said in " ".join((answer.out + answer.err).split()), text
        assert "searches/a.yaml:" in answer.out + answer.err


def test_mistakes_in_commands(filled) -> None:
    filled.write(
        "searches/two.yaml", "search: a\nproduct: order\nquery: x\nowner: me\n---\nsearch: b\nproduct: order\nquery: y\nowner: me\n"
    )
    for arguments, said in {
        ("save", "c", "ordr", "x", "--owner", "me"): "did you mean order",
        ("save", "c", "order", "amuont = 1", "--owner", "me"): "one of: amount",
        ("save", "c", "order", "x"): "--owner",
        ("save", "C", "order", "x", "--owner", "me"): "cannot name a search",
        ("save", "a", "order", "x", "--owner", "me"): "searches/two.yaml",
        ("remove", "a"): "take it out there",
        ("remove", "nope"): "no saved search nope",
        ("show", "nope"): "no saved search nope",
    }.items():
        answer = filled("searches", *arguments)
        assert answer.code == 2, arguments
        assert said in " ".join(answer.err.split()), arguments
