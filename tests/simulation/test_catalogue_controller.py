"""An apply that dies after any of its steps is finished by the next, which ends where one undisturbed would have."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from millstream.catalogue.controller import Change, Controller, accepted, change, published
from millstream.catalogue.known import known
from millstream.catalogue.store import Catalogue
from millstream.components import Component
from millstream.errors import Refused
from millstream.events import envelope
from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.project import load
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.testing.scripted_source import ScriptedDatabase, ScriptedSource
from millstream.topics.local import LocalTopics

ORDERS = RowSchema((Field("id", Type("int64"), 1), Field("amount", Type("int32"), 2)), ("id",))


class Options(BaseModel):
    pass


KINDS = (Component("scripted", Options, ""),)
SINKS = (Component("heap", Options, ""),)

MESH = "mesh: m\n"
SOURCE = "source: shop\nconnector: scripted\ntables: [orders]\nowner: o\n"
FIRST = """\
pipeline: a
owner: o
steps:
  - name: big
    sql: SELECT id, amount FROM shop.orders WHERE amount > 5
sinks:
  - {from: big, heap: {}}
"""
SECOND = """\
pipeline: b
owner: o
steps:
  - name: bigger
    sql: SELECT id FROM a.big WHERE amount > 50
sinks:
  - {from: shop.orders, heap: {}}
"""


class Mesh:
    """A project's files, and the topics, registry and catalogue that they are applied to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = sqlite_engine(folder / "home" / "mesh.db")
        self.registry = SqlRegistry(self.engine)
        self.topics = LocalTopics(folder / "home" / "topics.db", self.registry)
        self.catalogue = Catalogue(self.engine, clock=lambda: 0.0)
        self.database = ScriptedDatabase({"orders": ORDERS}, random.Random(0))
        self.write("mesh.yaml", MESH)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def change(self) -> Change:
        project = load(self.folder, {}, KINDS, SINKS)
        there = known(self.topics, self.registry, published(self.catalogue.pipelines()))
        for source in project.sources:
            there = there.and_discovered(source.name, ScriptedSource(source.name, self.database).tables())
        return change(project, there, self.catalogue)

    def controller(self) -> Controller:
        return Controller(self.change(), self.topics, self.registry, self.catalogue, self.opened)

    @contextmanager
    def opened(self, name: str) -> Iterator[ScriptedSource]:
        yield ScriptedSource(name, self.database)

    def apply(self, steps: int | None = None) -> list[str]:
        return [str(step) for step in itertools.islice(self.controller().carry_out(), steps)]

    def everything(self) -> Any:
        """All that an apply leaves behind."""
        schemas = {s: self.registry.versions(s) for s in self.registry.subjects()}
        return self.topics.topics(), schemas, self.catalogue.sources(), self.catalogue.pipelines()

    def close(self) -> None:
        self.topics.close()
        self.engine.dispose()


@pytest.fixture
def make(tmp_path: Path):
    """Make meshes, each in its own folder."""
    made: list[Mesh] = []

    def new() -> Mesh:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Mesh(folder))
        return made[-1]

    yield new
    for mesh in made:
        mesh.close()


def begin(mesh: Mesh) -> None:
    mesh.write("sources/shop.yaml", SOURCE)
    mesh.write("pipelines/a.yaml", FIRST)
    mesh.write("pipelines/b.yaml", SECOND)


def widen(mesh: Mesh) -> None:
    """A first pipeline with a new column, which the second reads; its sink is gone, another source of rows begins."""
    mesh.write("pipelines/a.yaml", FIRST.replace("id, amount FROM", "id, amount, amount * 2 AS twice FROM").split("sinks:")[0])
    mesh.write("pipelines/b.yaml", SECOND.replace("SELECT id FROM", "SELECT id, twice FROM"))


def test_a_change_is_done_once_and_leaves_nothing_to_do(make) -> None:
    mesh = make()
    begin(mesh)
    assert len(mesh.apply()) == 2 * 3 + 1 + 2 + 2  # topics and their schemas, a connector, pipelines, sinks
    assert mesh.apply() == []
    assert accepted(mesh.catalogue.pipelines()).keys() == {"shop.orders", "a.big", "b.bigger"}
    applied = mesh.catalogue.pipelines()["b"]
    assert applied.inputs == {t: mesh.registry.versions(f"{t}-value")[-1].id for t in ("a.big", "shop.orders")}
    widen(mesh)
    assert any("accept schema for b: a.big" in step for step in mesh.apply())
    assert mesh.apply() == []
    applied = mesh.catalogue.pipelines()["b"]
    assert applied.inputs["a.big"] == mesh.registry.versions("a.big-value")[1].id
    assert mesh.catalogue.pipelines()["a"].sinks == {}


@pytest.mark.parametrize("stage", ["begin", "widen"])
def test_dying_after_any_step_changes_nothing_in_the_end(make, stage) -> None:
    whole = make()
    begin(whole)
    if stage == "widen":
        whole.apply()
        widen(whole)
    count = len(whole.apply())
    assert count > 3
    for died_after in range(count):
        mesh = make()
        begin(mesh)
        if stage == "widen":
            mesh.apply()
            widen(mesh)
        assert len(mesh.apply(died_after)) == died_after
        mesh.apply()
        assert mesh.everything() == whole.everything(), f"died after step {died_after}"
        assert mesh.apply() == []


def test_dying_between_a_topic_and_its_schema(make) -> None:
    """A topic without a schema is one that an apply left behind: it is made again."""
    mesh = make()
    begin(mesh)
    assert [s.split()[0] for s in mesh.apply(1)] == ["create"]
    assert mesh.topics.topic("shop.orders") is not None
    assert mesh.registry.versions("shop.orders-value") == []
    mesh.apply()
    assert mesh.apply() == []


def test_a_newer_schema_of_a_source_is_accepted_and_not_registered_again(make) -> None:
    """Invariant 6: the connector registers what it meets; who reads accepts it by an apply."""
    mesh = make()
    begin(mesh)
    mesh.apply()
    wider = RowSchema((*ORDERS.fields, Field("note", Type("text"), 3)), ("id",))
    version = mesh.registry.register("shop.orders-value", envelope.value_schema("shop.orders", wider))
    assert [s.kind for s in mesh.change().steps] == ["accept_schema", "accept_schema"]
    mesh.apply()
    assert {p.inputs["shop.orders"] for p in mesh.catalogue.pipelines().values()} == {version.id}
    assert len(mesh.registry.versions("shop.orders-value")) == 2


def test_an_output_schema_that_comes_back_is_applied_and_done_with(make) -> None:
    """As a version of its own, which readers meet; what comes back after that is another column under its name."""
    mesh = make()
    begin(mesh)
    mesh.apply()
    first = mesh.catalogue.pipelines()["a"].outputs
    mesh.write("pipelines/a.yaml", FIRST.replace("id, amount FROM", "id, amount, amount * 2 AS twice FROM"))
    mesh.apply()
    assert mesh.catalogue.pipelines()["a"].outputs != first
    mesh.write("pipelines/a.yaml", FIRST)
    mesh.apply()
    assert mesh.apply() == []
    mesh.write("pipelines/a.yaml", FIRST.replace("id, amount FROM", "id, amount, amount * 2 AS twice FROM"))
    mesh.apply()
    assert mesh.apply() == []
    versions = mesh.registry.versions("a.big-value")
    assert mesh.catalogue.pipelines()["a"].outputs == {"a.big": versions[-1].id} != first
    ids = [{f.name: f.id for f in envelope.row_schema(v.text, ()).fields} for v in versions]
    plain = {"id": 1, "amount": 2}
    assert ids == [plain, {**plain, "twice": 3}, plain, {**plain, "twice": 4}]


def test_a_key_stays(make) -> None:
    mesh = make()
    begin(mesh)
    mesh.apply()
    (mesh.folder / "pipelines/b.yaml").unlink()
    keyed = FIRST.replace("amount > 5\n", "amount > 5\n    key: [id, amount]\n")
    mesh.write("pipelines/a.yaml", keyed.replace("id, amount FROM", "id, coalesce(amount, 0) AS amount FROM"))
    with pytest.raises(Refused, match="the key of a topic cannot change") as refused:
        mesh.change()
    assert refused.value.where == "a.big"


def test_sources_are_checked_only_when_they_begin_or_change(make) -> None:
    mesh = make()
    begin(mesh)
    assert list(mesh.controller().check_sources()) == ["shop"]
    mesh.apply()
    assert list(mesh.controller().check_sources()) == []
    mesh.database.tables["customers"] = ORDERS
    mesh.write("sources/shop.yaml", SOURCE.replace("[orders]", "[orders, customers]"))
    assert list(mesh.controller().check_sources()) == ["shop"]
    assert "create topic shop.customers: key (id)" in mesh.apply()
