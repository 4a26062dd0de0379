"""Products in the commands that look at what is made: examples, preview, resend, reconcile."""

from __future__ import annotations

import random

import pytest

from millstream.events.types import Field, RowSchema, Type
from millstream.testing.scripted_source import Change, ScriptedDatabase

ORDERS = RowSchema((Field("id", Type("int64"), 1), Field("amount", Type("int32"), 2), Field("buyer", Type("int64"), 3)), ("id",))
ITEMS = RowSchema((Field("id", Type("int64"), 1), Field("order_id", Type("int64"), 2), Field("name", Type("text"), 3)), ("id",))
SOURCE = "source: shop\nconnector: scripted\nurl: ${SHOP_URL}\ntables: [public.orders, public.items]\nowner: team\n"
PRODUCT = """\
product: order
owner: team
root:
  from: shop.public.orders
  fields: {id: , amount: }
nest:
  items: {from: shop.public.items, on: items.order_id = orders.id, each: {name: items.name}, order: items.id}
examples:
  - name: an item that moves leaves one document for the other
    inputs:
      shop.public.orders: {key: [id], columns: {id: int64, amount: int32, buyer: int64}}
      shop.public.items: {key: [id], columns: {id: int64, order_id: int64, name: text}}
    given:
      - shop.public.orders: [{id: 1, amount: 5}, {id: 2, amount: 6}]
        shop.public.items: [{id: 10, order_id: 1, name: tea}, {id: 11, order_id: 1, name: cup}]
      - shop.public.items: [update: {id: 10, order_id: 2}]
    expect:
      order:
        - {id: 1, amount: 5, items: [{name: cup}]}
        - {id: 2, items: [{name: tea}]}
"""


@pytest.fixture
def studio(shop):
    shop.database = ScriptedDatabase({"public.orders": ORDERS, "public.items": ITEMS}, random.Random(7))
    shop.write("sources/shop.yaml", SOURCE)
    for file in (shop.folder / "pipelines").glob("*"):
        file.unlink()
    shop.write("products/order.yaml", PRODUCT)
    shop.database.commit(*(Change("public.orders", None, {"id": n, "amount": n, "buyer": n}) for n in range(6)))
    shop.database.commit(*(Change("public.items", None, {"id": n, "order_id": n % 6, "name": f"item {n}"}) for n in range(12)))
    return shop


def test_a_product_has_examples_that_are_no_part_of_its_generation(studio) -> None:
    said = studio("test", "order")
    assert said.code == 0, said.out + said.err
    studio.write("products/order.yaml", PRODUCT.replace("[{name: tea}]", "[{name: cup}]"))
    failed = studio("test", "--json")
    assert failed.code == 1
    (difference,) = failed.json["examples"][0]["differences"]
    assert (difference["row"], difference["column"], difference["got"]) == ("id=2", "items", '[{name: "tea"}]')
    assert studio("apply").code == 0
    studio.write("products/order.yaml", PRODUCT)
    assert studio("plan", "--json").json["steps"] == []


def test_a_product_is_previewed_said_again_and_reconciled(studio) -> None:
    assert studio("apply").code == 0
    assert studio("run", "--until-caught-up").code == 0
    assert studio("preview", "order", "--json").json["changes"] == []
    studio.write("products/order.yaml", PRODUCT.replace("fields: {id: , amount: }", "fields: {id: , amount: orders.amount + 1}"))
    seen = studio("preview", "order", "--key", "3", "--json").json
    assert seen["rows"][0]["amount"] == 4
    assert "amount was 3" in seen["changes"][0]["change"]
    studio.write("products/order.yaml", PRODUCT)
    assert studio("resend", "order", "--key", "3").code == 0
    assert studio("run", "--until-caught-up").code == 0
    events = studio("topics", "read", "order@1.order", "--json", "--limit", "0").lines
    assert [e["key"]["id"] for e in events if e["cause"] == "resend"] == [3]
    for how in (("--all",), ("--sample", "3")):
        said = studio("reconcile", "order", *how, "--json")
        assert (said.code, said.json["differing"]) == (0, 0), said.out + said.err
    assert {c["what"] for c in said.json["compared"]} >= {"order@1.order", "index order@1"}
