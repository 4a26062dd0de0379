"""Re-index without downtime, in one process: a changed product is built beside what is searched, and searches see the one or the other."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from millstream.events.types import Field, RowSchema, Type
from millstream.sinks.search import generations
from millstream.sinks.search.query import search
from millstream.testing.scripted_source import Change, ScriptedDatabase

ORDERS = RowSchema((Field("id", Type("int64"), 1), Field("amount", Type("int32"), 2), Field("buyer", Type("int64"), 3)), ("id",))
BUYERS = RowSchema((Field("id", Type("int64"), 1), Field("name", Type("text"), 2)), ("id",))
SOURCE = "source: shop\nconnector: scripted\nurl: ${SHOP_URL}\ntables: [public.orders, public.buyers]\nowner: team\n"
PRODUCT = """\
product: order
owner: team
root:
  from: shop.public.orders
  join: {buyer: {from: shop.public.buyers, on: buyer.id = orders.buyer}}
  fields: {id: , amount: , buyer: buyer.name, edition: "'first'"}
"""
COUNT = 400


@pytest.fixture
def studio(shop):
    """The shop with buyers beside its orders, and a product over both."""
    shop.database = ScriptedDatabase({"public.orders": ORDERS, "public.buyers": BUYERS}, random.Random(7))
    shop.write("sources/shop.yaml", SOURCE)
    for file in (shop.folder / "pipelines").glob("*"):
        file.unlink()
    shop.write("products/order.yaml", PRODUCT)
    shop.database.commit(*(Change("public.buyers", None, {"id": n, "name": f"buyer {n}"}) for n in range(7)))
    shop.database.commit(*(Change("public.orders", None, {"id": n, "amount": n, "buyer": n % 7}) for n in range(COUNT)))
    return shop


def editions(shop) -> list[str]:
    return sorted({hit.document["edition"] for hit in search(shop.home, "order", "*", 10_000).hits})


def test_the_way_of_a_product(studio) -> None:
    assert studio("validate").code == 0
    assert "product order, generation 1" in studio("plan", "--explain").out
    assert studio("apply").code == 0
    assert studio("run", "--until-caught-up").code == 0
    assert studio("--json", "products", "list").json[0] | {"changed_at": None} == {
        "product": "order", "live": 1, "next": None, "kept": [], "changed_at": None,
    }  # fmt: skip
    found = search(studio.home, "order", "*", 10_000).hits
    assert len(found) == COUNT
    assert {(h.document["id"], h.document["buyer"]) for h in found} == {(n, f"buyer {n % 7}") for n in range(COUNT)}

    studio.write("products/order.yaml", PRODUCT.replace("first", "second"))
    refused = studio("run", "--until-caught-up")
    assert refused.code == 3
    assert "order@2" in studio("plan").out
    assert studio("apply").code == 0
    assert studio("run", "--until-caught-up").code == 0
    assert editions(studio) == ["second"]
    assert studio("--json", "products", "show", "order").json["live"] == 2

    assert "order@1" in studio("products", "rollback", "order").out
    assert editions(studio) == ["first"]
    assert studio("plan", "--json").json["steps"] == []
    assert studio("run", "--until-caught-up").code == 0
    assert editions(studio) == ["first"]
    assert studio("products", "rollback", "order").code == 0
    assert editions(studio) == ["second"]

    assert "dropped order@1" in studio("products", "drop", "order").out
    assert studio("products", "drop", "order").code == 2
    assert studio("run", "--until-caught-up").code == 0
    assert sorted(p.name for p in (studio.home / "search").iterdir()) == ["order.live", "order@2"]
    assert [p.name for p in (studio.home / "state").glob("*.duckdb")] == ["order@2.duckdb"]


def test_a_product_of_one_table_keeps_no_state(studio) -> None:
    studio.write("products/order.yaml", "product: buyer\nowner: team\nroot: {from: shop.public.buyers, where: id > 2}\n")
    assert studio("apply").code == 0
    assert studio("run", "--until-caught-up").code == 0
    found = [hit.document for hit in search(studio.home, "buyer", "*", 100).hits]
    assert sorted(found, key=lambda d: d["id"]) == [{"id": n, "name": f"buyer {n}"} for n in range(3, 7)]
    assert list((studio.home / "state").glob("*.duckdb")) == []


def test_a_switch_that_fails_is_seen_and_done_by_the_next_run(studio, monkeypatch: pytest.MonkeyPatch) -> None:
    assert studio("apply").code == 0
    assert studio("run", "--until-caught-up").code == 0
    studio.write("products/order.yaml", PRODUCT.replace("first", "second"))
    assert studio("apply").code == 0

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(generations, "replace_file", full)
        assert studio("run", "--until-caught-up").code == 0
    assert editions(studio) == ["first"]
    seen = studio("status")
    assert seen.code == 1
    assert "product.order: searches could not be switched to order@2" in seen.out
    assert studio("run", "--until-caught-up").code == 0
    assert editions(studio) == ["second"]
    assert studio("status").code == 0


EXAMPLE = """\
test: order
inputs:
  shop.public.orders: {key: [id], columns: {id: int64, amount: int32, buyer: int64}}
  shop.public.buyers: {key: [id], columns: {id: int64, name: text}}
examples:
  - name: a buyer's new name reaches the document
    given:
      - shop.public.orders: [{id: 1, amount: 5, buyer: 7}, {id: 2, buyer: 8}]
        shop.public.buyers: [{id: 7, name: Ada}]
      - shop.public.buyers: [update: {id: 7, name: Eve}]
        shop.public.orders: [delete: {id: 2}]
    expect:
      order: [{id: 1, amount: 5, buyer: Eve, edition: first}]
    events:
      order: [insert: {id: 1, buyer: Ada}, insert: {id: 2, buyer: null}, update: {id: 1, buyer: Eve}, delete: {id: 2}]
"""


def test_examples_of_a_product_need_no_database(studio) -> None:
    studio.write("tests/order.yaml", EXAMPLE)
    assert "ok      order: a buyer's new name" in studio("test").out
    studio.write("tests/order.yaml", EXAMPLE.replace("buyer: Eve, edition", "buyer: Ada, edition"))
    failed = studio("test", "order")
    assert failed.code == 1
    assert 'order id=1: column buyer: expected "Ada", got "Eve"' in failed.out
    assert "did you mean order?" in studio("test", "oder").err


def test_a_product_whose_columns_nobody_knows_is_no_example(studio) -> None:
    inputs, examples = EXAMPLE.split("inputs:")[0], EXAMPLE.split("columns: {id: int64, name: text}}\n")[1]
    studio.write("tests/order.yaml", inputs + examples)
    refused = studio("test")
    assert refused.code == 2
    assert "products/order.yaml:1:" in refused.err
    assert "columns_unknown" in refused.err


def test_a_product_is_previewed_beside_the_generation_that_is_searched(studio) -> None:
    first = studio("--json", "preview", "order", "--key", "3").json
    assert (first["rows"], first["published"]) == ([{"id": 3, "amount": 3, "buyer": "buyer 3", "edition": "first"}], False)
    assert studio("apply").code == 0
    assert studio("run", "--until-caught-up").code == 0
    same = studio("--json", "preview", "order").json
    assert (len(same["rows"]), same["published"], same["changes"]) == (10, True, [])
    studio.write("products/order.yaml", PRODUCT.replace("first", "second"))
    edited = studio("--json", "preview", "order", "--key", "3").json
    assert edited["rows"] == [{"id": 3, "amount": 3, "buyer": "buyer 3", "edition": "second"}]
    assert edited["changes"] == [{"key": {"id": 3}, "change": 'edition was "first"'}]
    assert editions(studio) == ["first"]
    studio.write("products/order.yaml", PRODUCT.replace("buyer.name", "buyer.nam"))
    assert "products/order.yaml" in studio("preview", "order").err


def test_validate_shows_what_a_document_has(studio) -> None:
    said = studio("--json", "validate").json["steps"]["order"]
    assert said["key"] == ["id"]
    assert list(said["columns"]) == ["id", "amount", "buyer", "edition", "_seen"]


class Watcher:
    """Searches without a pause, and remembers what it saw: the count and the editions of each answer, changes only."""

    def __init__(self, shop) -> None:
        self._shop, self._over = shop, threading.Event()
        self.seen: list[tuple[int, tuple[str, ...]]] = []
        self.asked, self.failed = 0, []

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            try:
                found = search(self._shop.home, "order", "*", 10_000).hits
            except Exception as e:  # whatever it is, no search may fail
                self.failed.append(e)
                return
            self.asked += 1
            saw = (len(found), tuple(sorted({h.document["edition"] for h in found})))
            if not self.seen or self.seen[-1] != saw:
                self.seen.append(saw)


def test_searches_see_the_whole_old_or_the_whole_new_while_rows_change(studio) -> None:
    assert studio("apply").code == 0
    assert studio("run", "--until-caught-up").code == 0
    smaller = PRODUCT.replace("first", "second").replace("root:\n", "root:\n  where: orders.id >= 100\n")
    studio.write("products/order.yaml", smaller)
    assert studio("apply").code == 0

    rows = studio.database.rows("public.orders")
    left = iter(range(150))
    watcher, whole = Watcher(studio), threading.Event()

    def write() -> None:
        """Changes of every kind but in number, until all are written; one new buyer's name changes many documents."""
        for turn in left:
            key = (turn * 37) % COUNT
            before = rows[key,]
            rows[key,] = {**before, "amount": before["amount"] + 1, "buyer": (before["buyer"] + 1) % 7}
            studio.database.commit(Change("public.orders", before, rows[key,]))
            whole.wait(0.01)

    writer = threading.Thread(target=write)
    with watcher.watching():
        writer.start()
        ran = studio("run", "--until-caught-up")
        writer.join()
        assert studio("run", "--until-caught-up").code == 0
        assert studio("products", "rollback", "order").code == 0
        assert studio("run", "--until-caught-up").code == 0
    assert ran.code == 0, ran.err
    assert watcher.failed == []
    assert watcher.asked > 20
    assert watcher.seen == [(COUNT, ("first",)), (COUNT - 100, ("second",)), (COUNT, ("first",))]
    documents = {h.document["id"]: (h.document["amount"], h.document["buyer"]) for h in search(studio.home, "order", "*", 10_000).hits}
    assert documents == {r["id"]: (r["amount"], f"buyer {r['buyer']}") for r in rows.values()}


def test_a_product_that_only_says_more_of_itself_is_built_no_second_time(studio) -> None:
    assert studio("apply").code == studio("run", "--until-caught-up").code == 0
    said = "doc: one order\ntags: [core]\ndomain: sales\nfields: {buyer: {doc: who pays, tags: [pii]}}\n"
    studio.write("products/order.yaml", PRODUCT + said)
    assert [(s["kind"], s["subject"]) for s in studio("plan", "--json").json["steps"]] == [("describe_topic", "order@1.order")]
    assert studio("apply").code == 0
    ran = studio("run", "--until-caught-up")
    assert ran.code == 0, ran.out + ran.err
    shown = studio("topics", "show", "order@1.order", "--json").json
    assert (shown["doc"], shown["domain"], [c["tags"] for c in shown["columns"] if c["name"] == "buyer"]) == (
        "one order",
        "sales",
        [["pii"]],
    )
    assert studio("--json", "products", "show", "order").json["live"] == 1
    studio.write("products/order.yaml", (PRODUCT + said).replace("first", "second"))
    assert studio("apply").code == studio("run", "--until-caught-up").code == 0
    assert studio("topics", "show", "order@2.order", "--json").json["columns"][2]["tags"] == ["pii"]
    assert studio("plan", "--json").json["steps"] == []
    studio.write("products/order.yaml", (PRODUCT + said).replace("first", "second").replace("buyer: {doc", "byuer: {doc"))
    assert "did you mean buyer?" in studio("validate").err + studio("plan").err
