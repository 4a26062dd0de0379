"""`schemas list`, `show` and `history`, `topics show`: what a topic's columns are, whose, since when, and what made each version."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from millstream.events.types import Constant, Field, RowSchema, Type, list_of
from millstream.schemas.sql import SqlRegistry, sqlite_engine

from .conftest import ORDERS
from .test_cli_schemas import TOPIC, register

MOMENT = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ")
DESCRIBED = """\
source: shop
connector: scripted
url: ${SHOP_URL}
owner: team-shop
domain: sales
doc: the shop's own
tables:
  - public.orders:
      doc: What was bought.
      tags: [core]
      owner: team-orders
      fields: {amount: {doc: in cents, tags: [money]}}
"""


@pytest.fixture
def described(shop):
    shop.write("sources/shop.yaml", DESCRIBED)
    assert shop("apply").code == 0
    return shop


def test_the_list_has_topics_first_with_their_time(shop) -> None:
    assert "no schema is registered yet" in shop("schemas", "list").out
    assert shop("apply").code == 0
    found = shop("schemas", "list", "--json").json
    assert [(d["topic"], d["subject"], d["version"]) for d in found] == [
        ("large.large", "large.large-value", 1),
        (TOPIC, f"{TOPIC}-value", 1),
        (None, "large.large-key", 1),
        (None, f"{TOPIC}-key", 1),
    ]
    assert all(MOMENT.fullmatch(d["registered_at"]) for d in found)
    assert MOMENT.search(shop("schemas", "list").out)


def test_a_schema_is_shown_with_all_that_is_said_of_it(described) -> None:
    member = Field("sku", Type("text"), 1, doc="as on the shelf")
    lines = Field("lines", list_of(Type("record", fields=(member, Field("n", Type("int32"), 2)))), 6)
    more = Field("kind", Type("text"), 4, nullable=False, fill=Constant("plain"), tags=("x", "y"))
    register(described, RowSchema((*ORDERS.fields, more, lines), ("id",)))
    found = described("schemas", "show", TOPIC, "--json").json
    assert (found["owner"], found["domain"], found["doc"], found["tags"]) == ("team-orders", "sales", "What was bought.", ["core"])
    assert MOMENT.fullmatch(found["registered_at"])
    told = {c["name"]: c for c in found["columns"]}
    assert list(told) == ["id", "amount", "note", "kind", "lines", "lines.sku"]
    assert (told["id"]["key"], told["id"]["nullable"], told["id"]["fill"]) == (True, False, None)
    assert told["kind"] == {
        "name": "kind", "type": "text", "key": False, "nullable": False, "fill": {"constant": "plain"}, "doc": "", "tags": ["x", "y"],
    }  # fmt: skip
    assert told["lines.sku"]["doc"] == "as on the shelf"
    first = described("schemas", "show", TOPIC, "--version", "1").out
    assert "in cents" in first and "money" in first and "team-orders" in first
    assert "old rows" not in first
    assert "plain" in described("schemas", "show", TOPIC).out


def test_topics_and_sources_say_it_too(described) -> None:
    topic = described("topics", "show", TOPIC, "--json").json
    assert (topic["owner"], topic["writer"], topic["readers"]) == ("team-orders", "source.shop", {})
    assert [c["doc"] for c in topic["columns"]] == ["", "in cents", ""]
    assert "What was bought. owner: team-orders; domain: sales; tags: core" in described("topics", "show", TOPIC).out
    assert "did you mean shop.public.orders?" in described("topics", "show", "shop.public.order").err
    (listed,) = described("sources", "list", "--json").json
    assert (listed["domain"], listed["doc"]) == ("sales", "the shop's own")
    shown = described("sources", "show", "shop", "--json").json
    assert (shown["owner"], shown["domain"], shown["doc"]) == ("team-shop", "sales", "the shop's own")
    assert "the shop's own. domain: sales" in described("sources", "show", "shop").out
    (table,) = shown["tables"]
    assert (table["owner"], [c["doc"] for c in table["columns"]]) == ("team-orders", ["", "in cents", ""])


def test_a_history_says_what_made_each_version(shop) -> None:
    assert shop("apply").code == shop("run", "--until-caught-up").code == 0
    shop.write("sources/shop.yaml", DESCRIBED)
    assert shop("apply").code == 0
    later = replace(ORDERS, fields=(*ORDERS.fields, Field("kind", Type("text"), 4, fill=Constant("plain"))))
    shop.database.alter("public.orders", later)
    shop.order(7, 700, "late")
    shop("run", "--until-caught-up")
    found = shop("schemas", "history", TOPIC, "--json").json
    assert found["topic"] == TOPIC
    first, second, third = found["versions"]
    assert [v["cause"]["kind"] for v in (first, second, third)] == ["apply", "described", "source"]
    assert (first["operations"], first["version"], second["version"]) == ([], 1, 2)
    assert any("amount" in o for o in second["operations"])
    assert any("added kind" in o for o in third["operations"])
    (place,) = third["cause"]["places"]
    assert place["at"].startswith("1970-") and place["position"]  # the script counts time from there
    said = shop("schemas", "history", TOPIC).out
    assert "the topic was made" in said and f"met in the source's log at {place['position']}" in said
    (made,) = shop("schemas", "history", "large.large", "--json").json["versions"][:1]
    assert made["cause"]["kind"] == "apply"


def test_only_topics_have_a_history(shop) -> None:
    assert shop("apply").code == 0
    assert "not the schema of a topic's rows" in shop("schemas", "history", f"{TOPIC}-key").err


def test_versions_of_before_times_were_kept_have_none(shop) -> None:
    assert shop("apply").code == 0
    engine = sqlite_engine(shop.home / "mesh.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE registry_versions DROP COLUMN registered_at")
    assert SqlRegistry(engine).versions(f"{TOPIC}-value")[0].at is None
    assert SqlRegistry(engine).register("new", '"string"').at
    engine.dispose()
    assert {d["registered_at"] is None for d in shop("schemas", "list", "--json").json} == {True, False}
    assert "no time is kept" in shop("schemas", "history", TOPIC).out
