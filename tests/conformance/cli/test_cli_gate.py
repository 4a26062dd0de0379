"""A schema that changes under pipelines of one running process: who is not concerned goes on, who follows takes it, who cannot is paused,
and goes on after its owner's edit without an event lost or repeated."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest
import sqlalchemy as sa

from millstream.events import envelope
from millstream.events.types import Constant, Field, RowSchema, Type
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.sinks.search.query import search
from millstream.testing.scripted_source import Change

TABLE = "public.orders"
ORDERS = RowSchema((Field("id", Type("int64"), 1), Field("amount", Type("int32"), 2), Field("note", Type("text"), 3)), ("id",))
SHADE = Field("shade", Type("text"), 4, fill=Constant("grey"))
NAMED = """\
pipeline: named
owner: team-named
steps:
  - name: noted
    sql: SELECT id, note FROM shop.public.orders
sinks:
  - {from: noted, jsonl: {file: named.jsonl}}
"""
APART = """\
pipeline: apart
owner: team-apart
steps:
  - name: sums
    sql: SELECT id, amount FROM shop.public.orders
sinks:
  - {from: sums, jsonl: {file: apart.jsonl}}
"""
FOLLOWS = """\
pipeline: follows
owner: team-follows
evolve: follow
steps:
  - name: every
    sql: SELECT * FROM shop.public.orders WHERE amount >= 0
sinks:
  - {from: every, jsonl: {file: follows.jsonl}}
"""


@pytest.fixture
def mesh(shop):
    """The shop with three pipelines over its one table, all caught up."""
    (shop.folder / "pipelines/large.yaml").unlink()
    for name, text in (("named", NAMED), ("apart", APART), ("follows", FOLLOWS)):
        shop.write(f"pipelines/{name}.yaml", text)
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    return shop


def now(schema: RowSchema, shop) -> None:
    shop.database.alter(TABLE, schema)


def add(shop, number: int, **values: object) -> None:
    shop.database.commit(Change(TABLE, None, {"id": number, **values}))
    shop.database.log.append(f"after {number}")  # what comes when it is idle comes after a mark


def events(shop, file: str) -> list[dict]:
    """What was written after the initial load's own reads."""
    lines = [json.loads(line) for line in (shop.folder / file).read_text().splitlines()]
    return [line["after"] for line in lines if line["op"] != "r"]


def states(shop) -> dict[str, dict]:
    return {p["part"]: p for p in shop("--json", "status").json["parts"]}


def test_an_added_column_is_passed_over_by_who_is_pinned_and_taken_by_who_follows(mesh) -> None:
    now(RowSchema((*ORDERS.fields, SHADE), ORDERS.key), mesh)
    add(mesh, 4, amount=40, note="d", shade="red")
    assert mesh("run", "--until-caught-up").code == 0
    assert events(mesh, "named.jsonl")[-1] == {"id": 4, "note": "d"}
    assert events(mesh, "apart.jsonl")[-1] == {"id": 4, "amount": 40}
    assert events(mesh, "follows.jsonl")[-1] == {"id": 4, "amount": 40, "note": "d", "shade": "red"}
    versions = mesh("--json", "schemas", "show", "follows.every-value").json
    assert versions["version"] == 2
    with mesh.catalogue() as catalogue:
        ruled = {(k.consumer, k.verdict) for k in catalogue.verdicts.on("shop.public.orders")}
        assert ruled == {("pipeline.named", "ignore"), ("pipeline.apart", "ignore"), ("pipeline.follows", "propagate")}
    # what was ruled holds at the next start, and nothing is left to apply for who follows
    add(mesh, 5, amount=50, note="e", shade="blue")
    assert mesh("run", "--until-caught-up").code == 0
    assert [e["id"] for e in events(mesh, "follows.jsonl")] == [1, 2, 3, 4, 5]
    assert [e["id"] for e in events(mesh, "named.jsonl")] == [1, 2, 3, 4, 5]


def test_a_dropped_column_pauses_who_names_it_and_nobody_else(mesh) -> None:
    now(RowSchema(tuple(f for f in ORDERS.fields if f.name != "note"), ORDERS.key), mesh)
    add(mesh, 4, amount=40)
    run = mesh("run", "--until-caught-up")
    assert run.code == 4
    assert events(mesh, "apart.jsonl")[-1] == {"id": 4, "amount": 40}
    assert events(mesh, "follows.jsonl")[-1] == {"id": 4, "amount": 40}
    assert [e["id"] for e in events(mesh, "named.jsonl")] == [1, 2, 3]
    told = states(mesh)
    assert told["pipeline.named"]["state"] == "paused"
    assert "step noted uses it" in told["pipeline.named"]["reason"] and "shop.public.orders.note" in told["pipeline.named"]["reason"]
    assert "millstream resume named" in told["pipeline.named"]["cure"]
    assert {p["state"] for name, p in told.items() if name != "pipeline.named"} <= {"stopped", "caught_up"}


def test_who_is_paused_keeps_nobody_from_applying_and_stays_paused(mesh) -> None:
    now(RowSchema(tuple(f for f in ORDERS.fields if f.name != "note"), ORDERS.key), mesh)
    add(mesh, 4, amount=40)
    assert mesh("run", "--until-caught-up").code == 4
    mesh.write("pipelines/more.yaml", APART.replace("apart", "more"))
    assert {s["subject"] for s in mesh("--json", "plan").json["steps"]} == {"more.sums", "more", "more.sums.jsonl", "apart"}
    applied = mesh("apply")
    assert applied.code == 0 and "pipelines/named.yaml" in applied.out + applied.err
    assert mesh("run", "--until-caught-up").code == 4
    assert states(mesh)["pipeline.named"]["state"] == "paused"
    assert [e["id"] for e in events(mesh, "more.jsonl")] == [1, 2, 3, 4]
    mesh.write("pipelines/named.yaml", NAMED.replace("noted", "told"))
    assert mesh("apply").code == 2, "who edits it is told what is wrong with it"


def test_several_changes_that_wait_are_ruled_one_by_one(mesh) -> None:
    renamed = tuple(replace(f, name="remark") if f.name == "note" else f for f in ORDERS.fields)
    now(RowSchema((*renamed, SHADE), ORDERS.key), mesh)
    add(mesh, 4, amount=40, remark="d", shade="red")
    assert mesh("run", "--until-caught-up").code == 0
    now(RowSchema(renamed, ORDERS.key), mesh)
    add(mesh, 5, amount=50, remark="e")
    now(RowSchema(tuple(replace(f, type=Type("int64")) if f.name == "amount" else f for f in renamed), ORDERS.key), mesh)
    add(mesh, 6, amount=1 << 40, remark="f")
    run = mesh("run", "--until-caught-up")
    assert run.code == 4
    assert [e["note"] for e in events(mesh, "named.jsonl")][3:] == ["d", "e", "f"]  # by id, under its own name
    assert events(mesh, "follows.jsonl")[-1] == {"id": 6, "amount": 1 << 40, "remark": "f"}
    assert states(mesh)["pipeline.apart"]["state"] == "paused"
    assert "int32 is now int64" in states(mesh)["pipeline.apart"]["reason"]


def test_resumed_in_the_running_process_it_goes_on_where_it_stopped_and_nobody_else_is_touched(mesh) -> None:
    seen: dict[str, object] = {}

    def drop_note() -> None:
        now(RowSchema(tuple(f for f in ORDERS.fields if f.name != "note"), ORDERS.key), mesh)
        add(mesh, 4, amount=40)
        mesh.when_idle = edit_and_resume

    def edit_and_resume() -> None:
        with mesh.catalogue() as catalogue:
            told = catalogue.states()
        if told.get("pipeline.named") is None or told["pipeline.named"].state != "paused":
            mesh.when_idle = edit_and_resume  # looked at again when the source is idle the next time
            return
        seen["without an edit"] = mesh("resume", "named").code
        mesh.write("pipelines/named.yaml", NAMED.replace("id, note", "id, amount"))
        seen["resume"] = mesh("resume", "named").code
        with mesh.catalogue() as catalogue:
            seen["verdicts"] = [k.verdict for k in catalogue.verdicts.of("pipeline.named")]
        add(mesh, 5, amount=50)
        mesh.when_idle = stop

    def stop() -> None:
        if [e["id"] for e in events(mesh, "named.jsonl")][-1:] != [5]:
            mesh.when_idle = stop
            return
        with mesh.catalogue() as catalogue:
            seen["told"] = {name: s.state for name, s in catalogue.states().items()}
        os.kill(os.getpid(), signal.SIGTERM)

    mesh.when_idle = drop_note
    answer = mesh("run")
    assert answer.code == 0
    assert (seen["without an edit"], seen["resume"], seen["verdicts"]) == (2, 0, ["pause", "accept"])
    assert [e["id"] for e in events(mesh, "apart.jsonl")] == [1, 2, 3, 4, 5]
    named = events(mesh, "named.jsonl")
    assert {e["id"]: e.get("amount") for e in named} == {1: 50, 2: 150, 3: 250, 4: 40, 5: 50}
    assert {s["subject"] for s in mesh("--json", "plan").json["steps"]} <= {"apart"}  # which has only passed the version over
    assert mesh("run", "--until-caught-up").code == 0
    assert events(mesh, "named.jsonl") == named


def test_resumed_without_a_running_process_the_next_run_takes_it_up(mesh) -> None:
    widened = tuple(replace(f, type=Type("int64")) if f.name == "amount" else f for f in ORDERS.fields)
    now(RowSchema(widened, ORDERS.key), mesh)
    add(mesh, 4, amount=1 << 40, note="d")
    assert mesh("run", "--until-caught-up").code == 4
    assert [e["id"] for e in events(mesh, "apart.jsonl")] == [1, 2, 3]
    assert mesh("run", "--until-caught-up").code == 4  # asked again it says the same, and no event comes twice
    said = mesh("resume", "apart")
    assert said.code == 0 and "widened amount (int32 is now int64)" in said.out
    assert mesh("run", "--until-caught-up").code == 0
    assert [(e["id"], e["amount"]) for e in events(mesh, "apart.jsonl")] == [(1, 50), (2, 150), (3, 250), (4, 1 << 40)]
    assert [e["id"] for e in events(mesh, "named.jsonl")] == [1, 2, 3, 4]


def test_what_came_while_it_was_paused_comes_event_by_event_after_its_owners_edit(mesh) -> None:
    now(RowSchema(tuple(f for f in ORDERS.fields if f.name != "note"), ORDERS.key), mesh)
    add(mesh, 4, amount=40)
    was = {"id": 4, "amount": 40}
    for amount in (41, 42):
        mesh.database.commit(Change(TABLE, was, was := {"id": 4, "amount": amount}))
    mesh.database.commit(Change(TABLE, was, None))
    mesh.database.log.append("the last")
    assert mesh("run", "--until-caught-up").code == 4
    before = len((mesh.folder / "named.jsonl").read_text().splitlines())
    mesh.write("pipelines/named.yaml", NAMED.replace("id, note", "id, amount"))
    assert mesh("resume", "named").code == 0
    assert mesh("run", "--until-caught-up").code == 0
    lines = [json.loads(line) for line in (mesh.folder / "named.jsonl").read_text().splitlines()][before:]
    assert {line["key"]["id"] for line in lines[:-4]} == {1, 2, 3}  # what is otherwise in what was published before
    assert [(line["op"], line["after"] and line["after"]["amount"]) for line in lines[-4:]] == [
        ("c", 40),
        ("u", 41),
        ("u", 42),
        ("d", None),
    ]


def test_apply_hands_a_changed_pipeline_to_the_running_process(mesh) -> None:
    seen: dict[str, object] = {}

    def edit_and_apply() -> None:
        mesh.write("pipelines/apart.yaml", APART.replace("id, amount", "id, amount * 2 AS amount"))
        mesh.write("pipelines/more.yaml", APART.replace("apart", "more"))
        seen["apply"] = mesh("apply").code
        mesh.when_idle = stop

    def stop() -> None:
        doubled = {e["id"]: e["amount"] for e in events(mesh, "apart.jsonl")}
        more = (mesh.folder / "more.jsonl").exists() and {e["id"]: e["amount"] for e in events(mesh, "more.jsonl")}
        if doubled != {1: 100, 2: 300, 3: 500} or more != {1: 50, 2: 150, 3: 250}:
            mesh.when_idle = stop
            return
        os.kill(os.getpid(), signal.SIGTERM)

    mesh.when_idle = edit_and_apply
    assert mesh("run").code == 0
    assert seen == {"apply": 0}


class Hook(BaseHTTPRequestHandler):
    told: ClassVar[list[dict]] = []

    def do_POST(self) -> None:
        self.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Nothing is printed."""


def test_the_owner_is_told_once_that_it_pauses_and_once_that_it_goes_on(mesh) -> None:
    Hook.told.clear()
    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        mesh.env["HOOK_URL"] = f"http://127.0.0.1:{server.server_port}/h"
        mesh.write("mesh.yaml", "mesh: shop_mesh\nnotify: {webhook: '${HOOK_URL}', webhook_hosts: [127.0.0.1]}\n")
        now(RowSchema(tuple(f for f in ORDERS.fields if f.name != "note"), ORDERS.key), mesh)
        add(mesh, 4, amount=40)
        for _ in range(2):
            assert mesh("run", "--until-caught-up").code == 4
        ((told,)) = Hook.told
        assert (told["part"], told["state"], told["owner"], told["mesh"]) == ("pipeline.named", "paused", "team-named", "shop_mesh")
        assert "shop.public.orders.note" in told["reason"] and "step noted" in told["reason"] and "millstream resume named" in told["cure"]
        mesh.write("pipelines/named.yaml", NAMED.replace("id, note", "id, amount"))
        assert mesh("resume", "named").code == 0
        for _ in range(2):
            assert mesh("run", "--until-caught-up").code == 0
        server.shutdown()
        thread.join()
    assert [(n["part"], n["state"]) for n in Hook.told] == [("pipeline.named", "paused"), ("pipeline.named", "resumed")]


PRODUCT = """\
product: order
owner: team-product
evolve: follow
root: {from: shop.public.orders}
nest:
  same: {from: shop.public.orders, as: other, on: other.id = orders.id, value: "count(*)"}
sink: {search: {index: order}}
"""


def test_documents_of_a_product_that_follows_get_a_new_column_in_place_and_its_search_finds_it(shop) -> None:
    (shop.folder / "pipelines/large.yaml").unlink()
    shop.write("products/order.yaml", PRODUCT)
    assert shop("apply").code == shop("run", "--until-caught-up").code == 0
    now(RowSchema((*ORDERS.fields, SHADE), ORDERS.key), shop)
    add(shop, 4, amount=40, note="d", shade="red")
    assert shop("run", "--until-caught-up").code == 0
    found = {h.document["id"]: h.document["shade"] for h in search(shop.home, "order", "*", 100).hits}
    assert found == {1: "grey", 2: "grey", 3: "grey", 4: "red"}
    assert {h.document["id"] for h in search(shop.home, "order", "shade:grey", 100).hits} == {1, 2, 3}
    with shop.catalogue() as catalogue:
        ruled = catalogue.verdicts.of("pipeline.order@1")
    assert [(k.verdict, k.how.partition(":")[0]) for k in ruled] == [("propagate", "in place")]
    assert shop("--json", "products", "show", "order").json["live"] == 1
    assert shop("--json", "plan").json["steps"] == []
    add(shop, 5, amount=50, note="e", shade="blue")
    assert shop("run", "--until-caught-up").code == 0
    assert len(search(shop.home, "order", "*", 100).hits) == 5


def test_a_generation_that_is_not_searched_yet_is_not_ended_by_a_resume(shop) -> None:
    """The whole product would be gone: what comes in its place is for `apply` to build."""
    assert shop("apply").code == shop("run", "--until-caught-up").code == 0
    shop.write("products/order.yaml", PRODUCT)
    assert shop("apply").code == 0
    wider = envelope.value_schema("shop.public.orders", RowSchema((*ORDERS.fields, SHADE), ORDERS.key))
    engine = sqlite_engine(shop.home / "mesh.db")
    SqlRegistry(engine).register("shop.public.orders-value", wider)
    engine.dispose()

    def generations() -> list[int]:
        with shop.catalogue() as catalogue:
            assert set(catalogue.pipelines()) >= {f"order@{g}" for g in catalogue.products()["order"].generations}
            return sorted(catalogue.products()["order"].generations)

    refused = shop("resume", "order")
    assert (refused.code, generations()) == (2, [1]) and "nothing_to_resume" in refused.err
    assert shop("apply").code == 0
    assert generations() == [2]
    (shop.folder / "pipelines/large.yaml").unlink()
    assert "nothing_to_resume" in shop("resume", "large").err


MIXED = """\
pipeline: mixed
owner: team-mixed
steps:
  - name: still
    sql: STILL
  - name: moving
    evolve: follow
    sql: SELECT * FROM shop.public.orders
sinks:
  - {from: still, jsonl: {file: still.jsonl}}
  - {from: moving, jsonl: {file: moving.jsonl}}
"""


@pytest.mark.parametrize(
    "still", ["SELECT * FROM shop.public.orders", "SELECT o.* FROM shop.public.orders o JOIN shop.public.orders p ON p.id = o.id"]
)
def test_a_pinned_step_goes_on_with_its_columns_beside_one_that_follows_over_restarts_until_it_is_resumed(shop, still: str) -> None:
    (shop.folder / "pipelines/large.yaml").unlink()
    shop.write("pipelines/mixed.yaml", MIXED.replace("STILL", still))
    assert shop("apply").code == shop("run", "--until-caught-up").code == 0
    mood = Field("mood", Type("text"), 5)
    with shop.catalogue() as catalogue:
        was = catalogue.pipelines()["mixed"].inputs
    foretold = shop("--json", "schemas", "impact", "shop.public.orders", "ALTER TABLE orders ADD COLUMN shade text").json["affected"]
    now(RowSchema((*ORDERS.fields, SHADE), ORDERS.key), shop)
    add(shop, 4, amount=40, note="d", shade="red")
    assert shop("run", "--until-caught-up").code == 0
    assert {a["part"]: a["verdict"] for a in foretold if not a["part"].startswith("sink ")} == {"still": "ignore", "moving": "propagate"}
    with shop.catalogue() as catalogue:
        (ruled,) = catalogue.verdicts.of("pipeline.mixed")
        assert ruled.verdict == "propagate"
        applied = catalogue.pipelines()["mixed"]
    assert applied.held == {"still": was} and applied.inputs != was
    # the next start compiles the files anew: the pinned step still means by * what it has accepted
    now(RowSchema((*ORDERS.fields, SHADE, mood), ORDERS.key), shop)
    add(shop, 5, amount=50, note="e", shade="blue", mood="calm")
    assert shop("run", "--until-caught-up").code == 0
    add(shop, 6, amount=60, note="f", shade="pink", mood="gay")
    assert shop("run", "--until-caught-up").code == 0
    assert events(shop, "still.jsonl")[-3:] == [
        {"id": 4, "amount": 40, "note": "d"},
        {"id": 5, "amount": 50, "note": "e"},
        {"id": 6, "amount": 60, "note": "f"},
    ]
    assert events(shop, "moving.jsonl")[-3:] == [
        {"id": 4, "amount": 40, "note": "d", "shade": "red"},
        {"id": 5, "amount": 50, "note": "e", "shade": "blue", "mood": "calm"},
        {"id": 6, "amount": 60, "note": "f", "shade": "pink", "mood": "gay"},
    ]
    before = len(events(shop, "moving.jsonl"))
    resumed = shop("resume", "mixed")
    assert resumed.code == 0 and "accepts shop.public.orders, version 3 in step still: added shade" in resumed.out
    with shop.catalogue() as catalogue:
        assert catalogue.pipelines()["mixed"].held == {}
        assert [k.verdict for k in catalogue.verdicts.of("pipeline.mixed")] == ["propagate", "propagate", "accept"]
    assert shop("run", "--until-caught-up").code == 0
    told = {e["id"]: (e["shade"], e["mood"]) for e in events(shop, "still.jsonl") if "mood" in e}
    assert {n: told.pop(n) for n in (4, 5, 6)} == {4: ("red", None), 5: ("blue", "calm"), 6: ("pink", "gay")}
    assert set(told.values()) <= {("grey", None)}, "rows from before the columns: the topic's schema says so too, without a word of them"
    assert len(events(shop, "moving.jsonl")) == before, "who had taken it all is told nothing again"
    assert shop("--json", "plan").json["steps"] == []


@contextmanager
def at_every_commit(look: Callable[[], None]) -> Iterator[None]:
    """Before each commit of any of our tables, and once at the end: what a process that is killed there would leave."""

    def before(connection: sa.Connection) -> None:
        look()

    sa.event.listen(sa.Engine, "commit", before)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "commit", before)
    look()


def test_wherever_a_process_ends_what_is_in_force_stands_in_the_history(mesh) -> None:
    found: set[tuple[str, int]] = set()

    def in_force() -> set[tuple[str, int]]:
        with closing(sqlite3.connect(mesh.home / "mesh.db")) as db:
            (inputs,) = db.execute("SELECT inputs FROM catalogue_pipelines WHERE name = 'follows'").fetchone()
            sinks = db.execute("SELECT 'sink.' || sink, schema_id FROM catalogue_accepted WHERE sink LIKE 'follows%'").fetchall()
        return {("pipeline.follows", json.loads(inputs)["shop.public.orders"]), *sinks}

    def look() -> None:
        with closing(sqlite3.connect(mesh.home / "mesh.db")) as db:
            told = set(db.execute("SELECT consumer, schema_id FROM catalogue_verdicts WHERE verdict = 'propagate'"))
        new = in_force() - first
        found.update(new)
        assert new <= told, "in force, and no verdict says so: the next start does not ask again"

    first = in_force()
    now(RowSchema((*ORDERS.fields, SHADE), ORDERS.key), mesh)
    add(mesh, 4, amount=40, note="d", shade="red")
    with at_every_commit(look):
        assert mesh("run", "--until-caught-up").code == 0
    assert {consumer for consumer, _ in found} == {"pipeline.follows", "sink.follows.every.jsonl"}
