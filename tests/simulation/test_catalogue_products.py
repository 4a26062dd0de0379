"""Generations of a product: what a definition that is changed, put back or taken away asks for; and a switch that no crash halves."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from millstream.catalogue import generations
from millstream.catalogue.controller import Change, Controller, accepted, change, published
from millstream.catalogue.known import known
from millstream.catalogue.store import Catalogue
from millstream.components import Component
from millstream.events import envelope
from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.project import load
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.testing.scripted_source import ScriptedDatabase, ScriptedSource
from millstream.topics.local import LocalTopics

ORDERS = RowSchema((Field("id", Type("int64"), 1), Field("amount", Type("int32"), 2), Field("buyer", Type("int64"), 3)), ("id",))
BUYERS = RowSchema((Field("id", Type("int64"), 1), Field("name", Type("text"), 2)), ("id",))


class Anything(BaseModel):
    index: str = ""
    fields: dict[str, str] = {}


class Nothing(BaseModel):
    pass


KINDS = (Component("scripted", Nothing, ""),)
SINKS = (Component("search", Anything, ""),)
SOURCE = "source: shop\nconnector: scripted\ntables: [orders, buyers]\nowner: o\n"
PRODUCT = """\
product: order
owner: o
root:
  from: shop.orders
  join: {buyer: {from: shop.buyers, on: buyer.id = orders.buyer}}
  fields: {id: , amount: , buyer: buyer.name}
sink: {search: {}}
"""
OTHER = PRODUCT.replace("amount: ", "amount: orders.amount + 1")
THIRD = PRODUCT.replace("amount: ", "amount: orders.amount + 2")
MAPPED = PRODUCT.replace("search: {}", "search: {fields: {buyer: exact}}")


class Mesh:
    """A project's files, and the topics, registry and catalogue that they are applied to; `live` are the indexes' live folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = sqlite_engine(folder / "home" / "mesh.db")
        self.registry = SqlRegistry(self.engine)
        self.topics = LocalTopics(folder / "home" / "topics.db", self.registry)
        self.catalogue = Catalogue(self.engine, clock=lambda: 0.0)
        self.database = ScriptedDatabase({"orders": ORDERS, "buyers": BUYERS}, random.Random(0))
        self.live: dict[str, str] = {}
        self.write("mesh.yaml", "mesh: m\n")
        self.write("sources/shop.yaml", SOURCE)
        self.write("products/order.yaml", PRODUCT)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def product(self, text: str) -> None:
        self.write("products/order.yaml", text)

    def change(self) -> Change:
        project = load(self.folder, {}, KINDS, SINKS)
        there = known(self.topics, self.registry, published(self.catalogue.pipelines()))
        for source in project.sources:
            there = there.and_discovered(source.name, ScriptedSource(source.name, self.database).tables())
        return change(project, there, self.catalogue)

    def as_run(self) -> Change:
        there = known(self.topics, self.registry, accepted(self.catalogue.pipelines()))
        return change(load(self.folder, {}, KINDS, SINKS), there, self.catalogue)

    def apply(self, steps: int | None = None) -> list[str]:
        controller = Controller(self.change(), self.topics, self.registry, self.catalogue, self.opened)
        return [str(step) for step in itertools.islice(controller.carry_out(), steps)]

    @contextmanager
    def opened(self, name: str) -> Iterator[ScriptedSource]:
        yield ScriptedSource(name, self.database)

    def switches(self) -> generations.Switches:
        project = load(self.folder, {}, KINDS, SINKS)
        return generations.Switches(self.catalogue, project.reread, self.live.__setitem__)

    def state(self) -> tuple[list[int], int, int, int]:
        """The generations, and which is live, next, applied."""
        row = self.catalogue.products()["order"]
        return sorted(row.generations), row.live, row.next, row.applied

    def everything(self) -> Any:
        schemas = {s: self.registry.versions(s) for s in self.registry.subjects()}
        return self.topics.topics(), schemas, self.catalogue.sources(), self.catalogue.pipelines(), self.catalogue.products()

    def close(self) -> None:
        self.topics.close()
        self.engine.dispose()

    def begun(self) -> Mesh:
        """Itself, applied, with its first generation live."""
        self.apply()
        self.switches().to("order", 1)
        return self


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], Mesh]]:
    made: list[Mesh] = []

    def new() -> Mesh:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Mesh(folder))
        return made[-1]

    yield new
    for mesh in made:
        mesh.close()


def test_the_first_deployment_is_generation_1_with_a_topic_and_an_index_of_its_own(make) -> None:
    mesh = make()
    steps = mesh.apply()
    assert [s for s in steps if "order@" in s] == [
        "build generation order@1: the first; searches find it when it is caught up",
        "create topic order@1.order: key (id)",
        "register schema of order@1.order: 4 columns",
        "deploy pipeline order@1: reads shop.buyers, shop.orders",
        "start sink order@1.order.search",
    ]
    assert mesh.state() == ([1], 0, 1, 1)
    assert mesh.apply() == []
    todo = mesh.as_run()
    assert todo.steps == ()
    assert [(p.pipeline, [s.options["index"] for s in p.sinks]) for p in todo.plans] == [("order@1", ["order@1"])]


@pytest.mark.parametrize("changed", [OTHER, MAPPED], ids=["definition", "mapping"])
def test_a_change_is_built_beside_what_is_searched_and_the_old_runs_on_as_it_was(make, changed: str) -> None:
    mesh = make().begun()
    (before,) = mesh.as_run().plans
    mesh.product(changed)
    steps = mesh.apply()
    assert [s.split(":")[0] for s in steps] == [
        "build generation order@2",
        "create topic order@2.order",
        "register schema of order@2.order",
        "deploy pipeline order@2",
        "start sink order@2.order.search",
    ]
    assert "beside order@1, which is searched until this one is caught up" in steps[0]
    assert mesh.state() == ([1, 2], 1, 2, 2)
    todo = mesh.as_run()
    assert todo.steps == ()
    assert [p.pipeline for p in todo.plans] == ["order@1", "order@2"]
    assert todo.plans[0] == before  # from the catalogue: the files say something else by now
    assert mesh.live == {"order": "order@1"}
    mesh.switches().to("order", 2)
    assert (mesh.live, mesh.state()) == ({"order": "order@2"}, ([1, 2], 2, 0, 2))
    assert mesh.apply() == []


def test_comments_order_of_keys_and_owner_are_no_change(make) -> None:
    mesh = make()
    mesh.apply()
    lines = PRODUCT.replace("owner: o\n", "owner: other # whoever\n")
    mesh.product(lines)
    assert mesh.apply() == []


def test_two_generations_at_most_and_the_searched_one_always_stays(make) -> None:
    mesh = make()
    mesh.apply()
    mesh.product(OTHER)
    assert [s.split(":")[0] for s in mesh.apply() if "generation" in s] == ["drop generation order@1", "build generation order@2"]
    assert mesh.state() == ([2], 0, 2, 2)  # the first was never searched: nothing is lost
    mesh.switches().to("order", 2)
    mesh.product(PRODUCT)
    mesh.apply()
    mesh.switches().to("order", 3)
    assert mesh.state() == ([2, 3], 3, 0, 3)
    mesh.product(THIRD)
    assert [s.split(":")[0] for s in mesh.apply() if "generation" in s] == ["drop generation order@2", "build generation order@4"]
    assert mesh.state() == ([3, 4], 3, 4, 4)
    assert sorted(mesh.catalogue.pipelines()) == ["order@3", "order@4"]
    assert {"order@1.order", "order@2.order"} <= {t.name for t in mesh.topics.topics()}  # a number is never used again


def test_files_put_back_lead_to_the_generation_that_is_kept(make) -> None:
    mesh = make().begun()
    mesh.product(OTHER)
    mesh.apply()
    mesh.switches().to("order", 2)
    mesh.product(PRODUCT)
    assert mesh.apply() == ["switch to generation order@1: the files say again what it was built from"]
    assert mesh.state() == ([1, 2], 2, 1, 1)
    mesh.switches().to("order", 1)
    assert mesh.state() == ([1, 2], 1, 0, 1)


def test_files_put_back_while_a_generation_is_built_give_it_up(make) -> None:
    mesh = make().begun()
    mesh.product(OTHER)
    mesh.apply()
    mesh.product(PRODUCT)
    assert [s.split(":")[0] for s in mesh.apply()][:2] == ["drop generation order@2", "switch to generation order@1"]
    assert mesh.state() == ([1], 1, 0, 1)
    assert mesh.as_run().steps == ()


def test_a_roll_back_stays_until_the_files_change(make) -> None:
    mesh = make().begun()
    mesh.product(OTHER)
    mesh.apply()
    mesh.switches().to("order", 2)
    mesh.switches().to("order", 1)
    assert (mesh.live, mesh.state()) == ({"order": "order@1"}, ([1, 2], 1, 0, 2))
    assert mesh.apply() == []
    assert mesh.as_run().steps == ()


def test_a_product_that_is_taken_away_leaves_its_topics(make) -> None:
    mesh = make().begun()
    (mesh.folder / "products" / "order.yaml").unlink()
    assert [s.split(":")[0] for s in mesh.apply()] == ["stop product order", "stop sink order@1.order.search", "stop pipeline order@1"]
    assert mesh.catalogue.products() == {}
    mesh.product(PRODUCT)
    mesh.apply()
    assert mesh.state() == ([2], 0, 2, 2)  # what the old index holds is not mixed with the new


def test_a_column_that_comes_is_accepted_by_the_old_generation_too(make) -> None:
    mesh = make().begun()
    mesh.product(OTHER)
    mesh.apply()
    wider = RowSchema((*BUYERS.fields, Field("more", Type("text"), 3)), ("id",))
    mesh.registry.register("shop.buyers-value", envelope.value_schema("shop.buyers", wider))
    assert mesh.as_run().steps == ()
    assert sorted(s.split(":")[0] for s in mesh.apply()) == ["accept schema for order@1", "accept schema for order@2"]
    assert mesh.as_run().steps == ()


def test_a_column_that_the_old_generation_needs_goes_and_it_keeps_the_schema_that_it_has(make) -> None:
    mesh = make().begun()
    mesh.product(PRODUCT.replace("buyer.name", "buyer.id"))
    mesh.apply()
    ids = dict(mesh.catalogue.pipelines()["order@1"].inputs)
    mesh.registry.register("shop.buyers-value", envelope.value_schema("shop.buyers", RowSchema(BUYERS.fields[:1], ("id",))))
    assert [s.split(":")[0] for s in mesh.apply()] == ["accept schema for order@2"]
    todo = mesh.as_run()
    assert todo.steps == ()
    old = next(p for p in todo.plans if p.pipeline == "order@1")
    assert {i.topic: i.schema_id for i in old.inputs} == ids


@pytest.mark.parametrize("at", range(9))
def test_an_apply_that_dies_is_finished_by_the_next(make, at: int) -> None:
    whole, cut = make(), make()
    for mesh in (whole, cut):
        mesh.apply()
        mesh.switches().to("order", 1)
        mesh.product(OTHER)
        mesh.apply()
        mesh.switches().to("order", 2)
        mesh.product(THIRD)  # drops one and builds one
    steps = len(whole.change().steps)
    assert steps <= 8
    whole.apply()
    cut.apply(min(at, steps))
    cut.apply()
    assert cut.apply() == []
    assert cut.everything() == whole.everything()
    assert cut.as_run().steps == ()


POINTS = ("before_decision", "decided", "index_switched", "switched")


@pytest.mark.parametrize("back", [False, True], ids=["forward", "back"])
@pytest.mark.parametrize("point", POINTS)
def test_a_switch_that_dies_is_finished_or_never_was(make, monkeypatch: pytest.MonkeyPatch, point: str, back: bool) -> None:
    mesh = make()
    mesh.product(PRODUCT.replace("sink: {search: {}}", "sinks: [{search: {}}, {search: {index: second}}]"))
    mesh.apply()
    mesh.switches().to("order", 1)
    mesh.product(OTHER.replace("sink: {search: {}}", "sinks: [{search: {}}, {search: {index: second}}]"))
    mesh.apply()
    if back:
        mesh.switches().to("order", 2)
    was, to = (2, 1) if back else (1, 2)

    class Died(Exception):
        pass

    def reached(name: str) -> None:
        if name == f"products.{point}":
            raise Died

    monkeypatch.setattr(generations, "reached", reached)
    with pytest.raises(Died):
        mesh.switches().to("order", to)
    monkeypatch.undo()
    mesh.switches().settle()
    assert mesh.switches().settle() == []
    live = was if point == "before_decision" else to
    assert mesh.state()[1] == live
    assert mesh.live == {"order": f"order@{live}", "second": f"second@{live}"}


def test_a_switch_decided_by_another_is_not_undone(make) -> None:
    mesh = make().begun()
    mesh.product(OTHER)
    mesh.apply()
    assert not mesh.switches().to("order", 7)
    assert mesh.catalogue.decide_switch("order", 2, 1)
    assert not mesh.catalogue.decide_switch("order", 1, 1)
    assert not mesh.catalogue.decide_switch("order", 2, 2)


def test_dropped_generations_leave_nothing_on_disk(make, tmp_path: Path) -> None:
    mesh = make().begun()
    mesh.product(OTHER)
    mesh.apply()
    state = tmp_path / "state"
    state.mkdir()
    for name in ("order@1.duckdb", "order@2.duckdb", "order@3.duckdb", "order@3.duckdb.wal", "orders@3.duckdb", "order.duckdb"):
        (state / name).write_text("")
    (state / "order@3.duckdb.spill").mkdir()
    there = {"order": ["order", "order@1", "order@2", "order@3"]}
    removed: list[tuple[str, str]] = []
    kept = ["pipeline.order@1", "sink.order@2.order.search", "pipeline.orders@3", "pipeline.order"]
    for reader in (*kept, "pipeline.order@3", "sink.order@3.order.search"):
        mesh.topics.note_reader(reader, {"shop.orders": 0})
    project = load(mesh.folder, {}, KINDS, SINKS)
    generations.sweep(mesh.catalogue, mesh.topics, project.reread, state, lambda index: there[index], lambda *which: removed.append(which))
    assert removed == [("order", "order@3")]
    assert sorted(mesh.topics.readers()) == sorted(kept)
    assert sorted(p.name for p in state.iterdir()) == ["order.duckdb", "order@1.duckdb", "order@2.duckdb", "orders@3.duckdb"]


def test_what_reads_a_product_is_refused_with_a_cure(make) -> None:
    mesh = make()
    reader = "pipeline: p\nowner: o\nsteps: [{name: s, sql: SELECT id FROM order.order}]\nsinks: [{from: order.order, search: {}}]\n"
    again = PRODUCT.replace("product: order", "product: again").replace("from: shop.orders", "from: order.order\n  as: orders")
    mesh.write("pipelines/p.yaml", reader)
    mesh.write("pipelines/q.yaml", 'pipeline: q\nowner: o\nsteps: [{name: s, sql: \'SELECT id FROM "order@1"."order"\'}]\n')
    with pytest.raises(InvalidProject) as refused:
        mesh.change()
    assert [(d.file, d.line, d.code) for d in refused.value.diagnostics] == [
        ("pipelines/p.yaml", 3, "reads_product"),
        ("pipelines/p.yaml", 4, "reads_product"),
        ("pipelines/q.yaml", 3, "reads_product"),
    ]
    for file in ("p", "q"):
        (mesh.folder / "pipelines" / f"{file}.yaml").unlink()
    mesh.product(PRODUCT + "---\n" + again)
    with pytest.raises(InvalidProject) as refused:
        mesh.change()
    assert [(d.line, d.path, d.code) for d in refused.value.diagnostics] == [(12, "products.again.root.from", "reads_product")]


def test_a_kept_generation_goes_on_with_the_topic_of_a_table_that_is_no_longer_read(make) -> None:
    mesh = make().begun()
    mesh.product("product: order\nowner: o\nroot: {from: shop.orders}\nsink: {search: {}}\n")
    mesh.write("sources/shop.yaml", SOURCE.replace(", buyers", ""))
    mesh.apply()
    todo = mesh.as_run()
    assert todo.steps == ()
    assert [(p.pipeline, [i.topic for i in p.inputs]) for p in todo.plans] == [
        ("order@1", ["shop.buyers", "shop.orders"]),
        ("order@2", ["shop.orders"]),
    ]
