"""A table whose key changes: its topic goes on in the next incarnation, who reads it finishes the old one and pauses, and `resume` moves
it over, with what differs published."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from millstream.events.types import Field, RowSchema, Type
from millstream.sinks.search.query import search
from millstream.testing.scripted_source import Change, ScriptedDatabase

TABLE = "public.orders"
TOPIC = f"shop.{TABLE}"
FIELDS = (Field("id", Type("int64"), 1), Field("amount", Type("int32"), 2), Field("note", Type("text"), 3))
NEXT = RowSchema(FIELDS, ("id", "amount"))
SUMS = """\
pipeline: sums
owner: team-sums
steps:
  - name: total
    sql: SELECT coalesce(note, '?') AS note, sum(amount) AS total FROM shop.public.orders GROUP BY coalesce(note, '?')
sinks:
  - {from: total, jsonl: {file: sums.jsonl}}
"""
NAMED = """\
pipeline: named
owner: team-named
steps:
  - name: noted
    sql: SELECT id, note FROM shop.public.orders
sinks:
  - {from: noted, jsonl: {file: named.jsonl}}
"""
EVERY = """\
pipeline: every
owner: team-every
steps:
  - name: all_of_them
    sql: SELECT * FROM shop.public.orders
sinks:
  - {from: all_of_them, jsonl: {file: every.jsonl}}
"""
SINK = """\
pipeline: straight
owner: team-straight
steps: []
sinks:
  - {from: shop.public.orders, jsonl: {file: FILE}}
"""


BOTH = "source: shop\nconnector: scripted\nurl: ${SHOP_URL}\ntables: [public.orders, public.buyers]\nowner: team\n"
PRODUCT = """\
product: order
owner: team
root:
  from: shop.public.buyers
  fields: {id: , name: }
nest:
  orders:
    from: shop.public.orders
    on: orders.buyer = buyers.id
    each: {id: orders.id, amount: orders.amount}
    order: orders.id, orders.amount
"""


@pytest.fixture
def mesh(shop):
    (shop.folder / "pipelines/large.yaml").unlink()
    for name, text in (("sums", SUMS), ("named", NAMED), ("every", EVERY)):
        shop.write(f"pipelines/{name}.yaml", text)
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    return shop


def write(shop, before: tuple[int, int, str] | None, after: tuple[int, int, str] | None) -> None:
    def row(values: Any) -> Any:
        return None if values is None else dict(zip(("id", "amount", "note"), values, strict=True))

    shop.database.commit(Change(TABLE, row(before), row(after)))
    shop.database.log.append(f"after {len(shop.database.log)}")


def change_key(shop) -> None:
    """(id) becomes (id, amount): one id may have two rows by then."""
    shop.database.alter(TABLE, NEXT)
    write(shop, None, (1, 70, "small"))
    write(shop, (3, 250, "black tea"), None)


def fold(shop, file: str, *key: str) -> list[dict[str, Any]]:
    rows: dict[Any, Any] = {}
    for line in map(json.loads, (shop.folder / file).read_text().splitlines()):
        rows[tuple((line["after"] or line["before"])[k] for k in key)] = line["after"]
    return sorted((r for r in rows.values() if r is not None), key=lambda r: [r[k] for k in key])


def states(shop) -> dict[str, dict[str, Any]]:
    return {p["part"]: p for p in shop("--json", "status").json["parts"]}


def sums(shop) -> list[dict[str, Any]]:
    found: dict[str, int] = {}
    for row in shop.database.rows(TABLE).values():
        found[row["note"]] = found.get(row["note"], 0) + row["amount"]
    return [{"note": note, "total": total} for note, total in sorted(found.items())]


def test_who_reads_it_pauses_at_the_end_of_the_old_one_and_goes_on_when_resumed(mesh) -> None:
    write(mesh, None, (4, 5, "last of the old"))
    change_key(mesh)
    run = mesh("run", "--until-caught-up")
    assert run.code == 4, run.err
    said = states(mesh)
    assert said["source.shop"]["state"] != "failed"
    assert f"{TOPIC} is complete up to" in said["source.shop"]["reason"]
    shown = mesh("--json", "topics", "show", TOPIC).json
    assert (shown["goes_on_as"], shown["key"], shown["incarnation"]) == (f"{TOPIC}@2", ["id"], 1)
    assert mesh("--json", "topics", "show", f"{TOPIC}@2").json["goes_on_as"] is None
    paused = said["pipeline.sums"]
    assert paused["state"] == "paused"
    assert f"at the end of a topic: {TOPIC}: it is complete up to" in paused["reason"]
    assert f"{TOPIC}@2" in paused["reason"]
    assert "millstream resume sums" in paused["cure"]
    assert {"note": "last of the old", "total": 5} in fold(mesh, "sums.jsonl", "note"), "what lies before the end is read"
    again = mesh("run", "--until-caught-up")
    assert again.code == 4, "it stays where it is"
    resumed = mesh("resume", "sums")
    assert resumed.code == 0, resumed.err
    write(mesh, None, (9, 1, "new"))
    assert mesh("run", "--until-caught-up").code == 4, "the others are still paused"
    assert states(mesh)["pipeline.sums"]["state"] != "paused"
    assert fold(mesh, "sums.jsonl", "note") == sums(mesh)
    lines = [json.loads(line) for line in (mesh.folder / "sums.jsonl").read_text().splitlines()]
    versions: dict[str, Any] = {}
    for line in lines:  # each event says what stood there before: none is lost, none is there twice
        note = (line["after"] or line["before"])["note"]
        assert line["before"] == versions.get(note)
        versions[note] = line["after"]


def test_who_follows_and_keeps_rows_by_keys_of_its_own_moves_unasked(mesh) -> None:
    for name in ("named", "every"):
        (mesh.folder / f"pipelines/{name}.yaml").unlink()
    mesh.write("pipelines/sums.yaml", SUMS.replace("owner:", "evolve: follow\nowner:"))
    assert mesh("apply").code == 0
    assert mesh("run", "--until-caught-up").code == 0
    change_key(mesh)
    ran = mesh("run", "--until-caught-up")
    assert ran.code == 0, ran.out
    assert fold(mesh, "sums.jsonl", "note") == sums(mesh)
    write(mesh, None, (9, 1, "new"))
    assert mesh("run", "--until-caught-up").code == 0
    assert fold(mesh, "sums.jsonl", "note") == sums(mesh)
    assert mesh("--json", "plan").json["steps"] == []
    mesh.database.alter(TABLE, RowSchema(FIELDS, ("amount",)))
    write(mesh, None, (8, 7777, "again"))
    assert mesh("run", "--until-caught-up").code == 0
    assert fold(mesh, "sums.jsonl", "note") == sums(mesh)
    assert mesh("--json", "topics", "show", f"{TOPIC}@3").json["key"] == ["amount"]


def test_a_pipeline_whose_own_key_depends_on_it_needs_an_edit(mesh) -> None:
    change_key(mesh)
    assert mesh("run", "--until-caught-up").code == 4
    said = states(mesh)
    assert "key" in said["pipeline.named"]["reason"]
    assert "another name" in said["pipeline.every"]["cure"]
    assert mesh("resume", "named").code != 0, "its file does not hold over the new key"
    mesh.write(
        "pipelines/named.yaml",
        NAMED.replace("noted", "paid").replace("SELECT id,", "SELECT id, amount,").replace("named.jsonl", "paid.jsonl"),
    )
    mesh.write("pipelines/every.yaml", EVERY.replace("all_of_them", "every_one").replace("every.jsonl", "anew.jsonl"))
    for name in ("named", "every", "sums"):
        resumed = mesh("resume", name)
        assert resumed.code == 0, resumed.err
    ran = mesh("run", "--until-caught-up")
    assert ran.code == 0, ran.err
    rows = [r for _, r in sorted(mesh.database.rows(TABLE).items())]
    assert fold(mesh, "anew.jsonl", "id", "amount") == rows
    write(mesh, (1, 70, "small"), (1, 71, "moved"))
    assert mesh("run", "--until-caught-up").code == 0
    assert fold(mesh, "anew.jsonl", "id", "amount") == [r for _, r in sorted(mesh.database.rows(TABLE).items())]
    assert mesh("--json", "plan").json["steps"] == []
    assert "sums.total.total" in mesh("lineage", f"{TOPIC}.amount").out
    impact = mesh("schemas", "impact", TOPIC, "ALTER TABLE orders DROP COLUMN note")
    assert "sums" in impact.out


def test_apply_moves_who_can_be_moved_and_leaves_the_others_where_they_are(mesh) -> None:
    change_key(mesh)
    assert mesh("run", "--until-caught-up").code == 4
    applied = mesh("apply")
    assert applied.code == 0, applied.err
    assert "named" in applied.err + applied.out
    assert mesh("run", "--until-caught-up").code == 4
    assert fold(mesh, "sums.jsonl", "note") == sums(mesh)
    assert states(mesh)["pipeline.named"]["state"] == "paused"
    assert states(mesh)["pipeline.every"]["state"] == "paused"


def test_a_sink_of_the_topic_itself_goes_on_in_another_target(shop) -> None:
    (shop.folder / "pipelines/large.yaml").unlink()
    shop.write("pipelines/straight.yaml", SINK.replace("FILE", "old.jsonl"))
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    change_key(shop)
    assert shop("run", "--until-caught-up").code == 4
    (name,) = [p for p in states(shop) if p.startswith("sink.")]
    assert "name another target" in states(shop)[name]["cure"]
    before = (shop.folder / "old.jsonl").read_text()
    shop("resume", "straight")
    assert shop("run", "--until-caught-up").code == 4, "the target holds rows of the old key"
    assert (shop.folder / "old.jsonl").read_text() == before
    shop.write("pipelines/straight.yaml", SINK.replace("FILE", "new.jsonl"))
    assert shop("resume", "straight").code == 0
    assert shop("run", "--until-caught-up").code == 0
    assert fold(shop, "new.jsonl", "id", "amount") == [r for _, r in sorted(shop.database.rows(TABLE).items())]


def test_a_product_is_built_over_the_next_incarnation_beside_what_is_searched(shop) -> None:
    buyers = RowSchema((Field("id", Type("int64"), 1), Field("name", Type("text"), 2)), ("id",))
    orders = RowSchema((Field("id", Type("int64"), 1), Field("amount", Type("int32"), 2), Field("buyer", Type("int64"), 3)), ("id",))
    shop.database = ScriptedDatabase({TABLE: orders, "public.buyers": buyers}, random.Random(7))
    shop.write("sources/shop.yaml", BOTH)
    (shop.folder / "pipelines/large.yaml").unlink()
    shop.write("products/order.yaml", PRODUCT)
    shop.database.commit(*(Change("public.buyers", None, {"id": n, "name": f"buyer {n}"}) for n in range(3)))
    shop.database.commit(*(Change(TABLE, None, {"id": n, "amount": n, "buyer": n % 3}) for n in range(9)))
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    lines = RowSchema(orders.fields, ("id", "amount"))
    shop.database.alter(TABLE, lines)
    shop.database.commit(Change(TABLE, None, {"id": 3, "amount": 100, "buyer": 1}))
    shop.database.log.append("after")
    assert shop("run", "--until-caught-up").code == 4
    assert "next generation" in states(shop)["pipeline.order@1"]["cure"]
    assert [len(h.document["orders"]) for h in search(shop.home, "order", "*", 100).hits] == [3, 3, 3], "it is searched all the while"
    assert "order@2" in shop("apply").out
    assert shop("run", "--until-caught-up").code in (0, 4)
    found = {h.document["id"]: [o["amount"] for o in h.document["orders"]] for h in search(shop.home, "order", "*", 100).hits}
    assert found == {0: [0, 3, 6], 1: [1, 100, 4, 7], 2: [2, 5, 8]}
    assert shop("--json", "products", "show", "order").json["live"] == 2
