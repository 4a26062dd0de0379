"""What was ruled of a version stands in the topic's history, and what it led to; targets show old rows as the topic's readers see them."""

from __future__ import annotations

import json

import pytest

from millstream.events.types import Constant, Field, RowSchema, Type
from millstream.sinks.search.query import search

from .conftest import ORDERS
from .test_cli_gate import FOLLOWS, NAMED, TABLE, add, now

TOPIC = "shop.public.orders"
SHADE = Field("shade", Type("text"), 4, fill=Constant("grey"))
FOLLOWED = FOLLOWS + "  - {from: shop.public.orders, search: {index: source}}\n  - {from: every, search: {index: every}}\n"


@pytest.fixture
def mesh(shop):
    (shop.folder / "pipelines/large.yaml").unlink()
    shop.write("pipelines/named.yaml", NAMED)
    shop.write("pipelines/follows.yaml", FOLLOWED)
    assert shop("apply").code == shop("run", "--until-caught-up").code == 0
    return shop


def test_the_history_has_the_verdicts_and_what_followed(mesh) -> None:
    now(RowSchema((*ORDERS.fields, SHADE), ORDERS.key), mesh)
    add(mesh, 4, amount=40, note="d", shade="red")
    assert mesh("run", "--until-caught-up").code == 0
    now(RowSchema((*(f for f in ORDERS.fields if f.name != "note"), SHADE), ORDERS.key), mesh)
    add(mesh, 5, amount=50, shade="blue")
    assert mesh("run", "--until-caught-up").code == 4
    _, added, dropped = mesh("schemas", "history", TOPIC, "--json").json["versions"]
    ruled = {v["consumer"]: v["verdict"] for v in added["verdicts"]}
    assert ruled == {
        "pipeline.named": "ignore", "pipeline.follows": "propagate", "sink.follows.shop.public.orders.search": "propagate",
    }  # fmt: skip
    (paused,) = [v for v in dropped["verdicts"] if v["verdict"] == "pause"]
    assert (paused["consumer"], paused["by"]) == ("pipeline.named", "gate")
    assert "note" in json.dumps(paused["reasons"])
    assert "pipeline.named: pause: " in mesh("schemas", "history", TOPIC).out
    causes = [v["cause"] for v in mesh("schemas", "history", "follows.every", "--json").json["versions"]]
    assert [c["kind"] for c in causes] == ["apply", "followed", "followed"]
    assert [(c["topic"], c["version"]) for c in causes[1:]] == [(TOPIC, 2), (TOPIC, 3)]
    assert "its pipeline followed shop.public.orders, version 2" in mesh("schemas", "history", "follows.every").out


def test_an_index_that_follows_shows_the_constant_in_old_rows(mesh) -> None:
    now(RowSchema((*ORDERS.fields, SHADE), ORDERS.key), mesh)
    add(mesh, 4, amount=40, note="d", shade="red")
    assert mesh("run", "--until-caught-up").code == 0
    found = {h.document["id"]: h.document["shade"] for h in search(mesh.home, "source", "*").hits}
    assert found == {1: "grey", 2: "grey", 3: "grey", 4: "red"}
    assert {h.document["id"] for h in search(mesh.home, "source", "shade = grey").hits} == {1, 2, 3}


def test_an_index_that_follows_goes_by_a_columns_new_name(mesh) -> None:
    renamed = tuple(Field("remark", f.type, f.id) if f.name == "note" else f for f in ORDERS.fields)
    now(RowSchema(renamed, ORDERS.key), mesh)
    assert TABLE in mesh.database.tables
    add(mesh, 4, amount=40, remark="green too")
    assert mesh("run", "--until-caught-up").code == 0
    assert {h.document["id"] for h in search(mesh.home, "source", "remark: green").hits} == {2, 4}


def test_an_output_that_cannot_hold_what_it_published_pauses_who_follows(mesh) -> None:
    """A column is dropped and another of its name added: the topic tells them apart by ids, an output knows its columns by names."""
    again = Field("note", Type("int32"), 9)
    now(RowSchema((*(f for f in ORDERS.fields if f.name != "note"), again), ORDERS.key), mesh)
    add(mesh, 4, amount=40, note=7)
    assert mesh("run", "--until-caught-up").code == 4
    told = {p["part"]: p for p in mesh("--json", "status").json["parts"]}
    assert {told[p]["state"] for p in ("pipeline.named", "pipeline.follows")} == {"paused"}
    assert "retyped note (text is now int32)" in told["pipeline.follows"]["reason"]
    found = {h.document["id"]: h.document["note"] for h in search(mesh.home, "source", "*").hits}
    assert found == {1: None, 2: None, 3: None, 4: 7}
