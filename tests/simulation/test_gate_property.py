"""Schemas that change under a mesh, as a property: one table is altered again and again under pipelines that follow, that are pinned and
that name what goes, with crashes at every named moment. At the end each output replays to the query evaluated from scratch, a paused
pipeline after its owner's edit too; nothing came twice, and nobody else ever stopped."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from millstream.capture.connector import Connector
from millstream.catalogue.store import Catalogue
from millstream.catalogue.verdicts import Verdicts
from millstream.cli.app import call
from millstream.cli.mesh import Mesh
from millstream.cli.output import Secrets
from millstream.cli.run import as_applied
from millstream.components import Component
from millstream.engine.gate import Paused
from millstream.engine.pipeline import Pipeline
from millstream.engine.reader import TopicReader
from millstream.engine.sinkrun import SinkRun
from millstream.errors import Retryable
from millstream.events.types import Constant, Field, RowSchema, Type
from millstream.testing.scripted_source import Change, ScriptedDatabase, ScriptedSource
from millstream.topics.local import LocalTopics
from millstream.topics.local.producer import LocalProducer
from millstream.wiring import Wiring

INT, TEXT = Type("int64"), Type("text")
ITEM = RowSchema((Field("id", INT, 1), Field("amount", Type("int32"), 2), Field("note", TEXT, 3), Field("maker", INT, 4)), ("id",))
MAKER = RowSchema((Field("id", INT, 1), Field("name", TEXT, 2)), ("id",))
SHADE = Field("shade", TEXT, 5, fill=Constant("grey"))
PIPELINES = {
    "apart": "pipeline: apart\nowner: a\nsteps:\n  - {name: sums, sql: 'SELECT id, maker FROM shop.item WHERE maker > 0'}\n",
    "names": "pipeline: names\nowner: n\nsteps:\n  - {name: noted, sql: 'SELECT id, note FROM shop.item'}\n",
    "star": "pipeline: star\nowner: s\nevolve: follow\nsteps:\n  - {name: every, sql: 'SELECT * FROM shop.item WHERE maker >= 0'}\n"
    "sinks:\n  - {from: every, jsonl: {file: star.jsonl}}\n",
    "behind": "pipeline: behind\nowner: b\nevolve: follow\nsteps:\n  - {name: all, sql: 'SELECT * FROM star.every'}\n",
    "woven": "pipeline: woven\nowner: w\nevolve: follow\nsteps:\n  - name: wide\n    sql: >-\n"
    "      SELECT i.*, m.name AS made_by FROM shop.item i LEFT JOIN shop.maker m ON m.id = i.maker\n    key: [id]\n",
}
SEEDS, MORE_SEEDS = 3, 80


class Crash(BaseException):
    """Not an Exception: nothing may swallow it, as nothing swallows kill -9."""


class Options(BaseModel):
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Scripted(Component):
    make: Callable[[str], Any] = field(kw_only=True)

    def open(self, *args: Any, **kwargs: Any) -> Any:
        return self.make(args[0])


class World:
    """A project and its database, outliving every process."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder = folder
        self.database = ScriptedDatabase({"item": ITEM, "maker": MAKER}, rng)
        kind = Scripted("scripted", Options, "", make=lambda name: ScriptedSource(name, self.database))
        self.wiring = Wiring({}, sources=(kind,))
        self.write("mesh.yaml", "mesh: shop\n")
        self.write("sources/shop.yaml", "source: shop\nconnector: scripted\nowner: o\ntables: [item, maker]\n")
        for name, text in PIPELINES.items():
            self.write(f"pipelines/{name}.yaml", text)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(text)

    def __call__(self, *arguments: str) -> int:
        return call(["--project", str(self.folder), *arguments], self.wiring, Secrets())


class Process:
    """The parts of one process, stepped by hand."""

    def __init__(self, world: World) -> None:
        self._stack = ExitStack()
        self.mesh: Mesh = self._stack.enter_context(world.wiring.open(world.wiring.load(world.folder)))
        plans = as_applied(self.mesh).plans
        pipelines, sinks = self.mesh.parts(self.mesh.project, plans)
        connector = Connector(self.mesh.source("shop"), self.mesh.topics, self.mesh.registry)
        self.parts: list[Connector | Pipeline | SinkRun] = [connector, *pipelines, *sinks]
        self.opened: set[str] = set()
        self.paused: dict[str, Paused] = {}
        self.unsettled: set[str] = set()

    def step(self, part: Connector | Pipeline | SinkRun) -> None:
        if part.name in self.paused:
            return
        try:
            if part.name not in self.opened:
                part.open()
                self.opened.add(part.name)
            if part.name in self.unsettled:  # as the runner does
                part.retry()
                self.unsettled.discard(part.name)
            part.step()
        except Paused as e:
            self.paused[part.name] = e
        except Retryable:
            self.unsettled.add(part.name)

    def through(self) -> bool:
        """Everything is through everything that is not paused."""
        if len(self.opened) < len(self.parts):
            return False
        connector = self.parts[0]
        assert isinstance(connector, Connector)
        if not connector.loaded or connector.position is None or connector.position.major < connector._source.head()[0]:
            return False
        readers = [p for p in self.parts[1:] if p.name not in self.paused and not isinstance(p, Connector)]
        return all(p.caught_up({t: self.mesh.topics.end(t) for t in p.reads}) for p in readers)

    def end(self) -> None:
        for part in self.parts[1:]:
            if part.name in self.opened:
                part.close()
        self._stack.close()


def alterations() -> Iterator[RowSchema]:
    """Each table that the item becomes: a column comes with a constant, one is called otherwise, one is wider, one goes."""
    yield (added := RowSchema((*ITEM.fields, SHADE), ("id",)))
    yield (renamed := _with(added, "note", name="remark"))
    yield (wider := _with(renamed, "amount", type=INT))
    yield RowSchema(tuple(f for f in wider.fields if f.name != "remark"), ("id",))


def _with(schema: RowSchema, column: str, **changes: Any) -> RowSchema:
    return RowSchema(tuple(replace(f, **changes) if f.name == column else f for f in schema.fields), schema.key)


def write(db: ScriptedDatabase, rng: random.Random) -> None:
    rows = {t: dict(db.rows(t)) for t in db.tables}
    changes: list[Change] = []
    for _ in range(rng.randint(1, 4)):
        table, key = rng.choice(["item", "item", "maker"]), rng.randrange(6)
        before, after = rows[table].pop((key,), None), None
        if before is None or rng.random() < 0.75:
            made = {"amount": rng.randrange(90), "note": rng.choice("abc"), "maker": rng.choice([-1, *range(5)]), "name": rng.choice("xyz")}
            made |= {"shade": rng.choice(["red", None]), "remark": made["note"]}
            after = {f.name: key if f.name == "id" else made[f.name] for f in db.tables[table].fields}
            rows[table][(key,)] = after
        changes.append(Change(table, before, after))
    db.commit(*changes)


def play(world: World, rng: random.Random, armed: list[bool], schemas: list[RowSchema], writes: int) -> tuple[Process, int]:
    """Until all of it is through."""
    process: Process | None = None
    crashes = 0
    every = max(1, writes // (len(schemas) + 1))
    while True:
        if process is None:
            held, armed[0] = armed[0], False
            process, armed[0] = Process(world), held
        try:
            process.step(rng.choice(process.parts))
        except Crash:
            crashes += 1
            armed[0] = crashes < 40
            process.end()
            process = None
            continue
        if writes and rng.random() < 0.3:
            if schemas and writes % every == 0:
                world.database.alter("item", schemas.pop(0))
            write(world.database, rng)
            writes -= 1
        if not writes and process.through():
            return process, crashes


def replay(mesh: Mesh, topic: str) -> dict[int, dict[str, Any]]:
    """What the topic says, read in its newest schema; its versions rise, and what a change replaces stood there."""
    schema = mesh.schema(topic)
    assert schema is not None
    version = mesh.registry.versions(f"{topic}-value")[-1]
    reader = TopicReader(mesh.topics, mesh.registry, topic, schema, version.id, 0)
    rows: dict[int, dict[str, Any]] = {}
    versions: dict[int, tuple[int, int]] = {}
    while batches := reader.read(1 << 20):
        for e in (e for b in batches for e in b.rows.to_pylist()):
            key = (e["after"] or e["before"])["id"]
            at = (e["major"], e["minor"])
            assert at > versions.get(key, (0, -1)), f"{topic} {key}: version {at} does not rise"
            versions[key] = at
            if e["op"] != "r":
                assert e["before"] == rows.get(key), f"{topic} {key}: before is not what stood there"
            rows.pop(key, None)
            if e["after"] is not None:
                rows[key] = e["after"]
    return rows


@pytest.mark.parametrize("seed", [*range(SEEDS), *(pytest.param(s, marks=pytest.mark.long) for s in range(SEEDS, MORE_SEEDS))])
def test_every_output_equals_its_query_whatever_becomes_of_the_schema(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    armed = [False]

    def reached(name: str) -> None:
        if armed[0] and rng.random() < (0.3 if "propagate" in name or name in GATE else 0.01):
            raise Crash(name)

    for module in ("capture.connector", "engine.pipeline", "engine.publisher", "engine.rebuild", "engine.sinkrun"):
        monkeypatch.setattr(f"millstream.{module}.reached", reached)
    for owner, name in ((LocalProducer, "commit"), (Catalogue, "move_pipeline"), (Verdicts, "note")):
        _now_and_then_busy(monkeypatch, owner, name, lambda: armed[0] and rng.random() < 0.1)
    world = World(tmp_path, rng)
    for _ in range(4):
        write(world.database, rng)
    assert world("apply") == 0
    armed[0] = True
    process, _ = play(world, rng, armed, list(alterations()), writes=24)
    armed[0] = False
    assert set(process.paused) == {"pipeline.names"}
    assert "note" in str(process.paused["pipeline.names"]) and "step noted" in str(process.paused["pipeline.names"])
    items, makers = {k[0]: r for k, r in world.database.rows("item").items()}, world.database.rows("maker")
    star = {k: r for k, r in items.items() if r["maker"] >= 0}
    assert replay(process.mesh, "apart.sums") == {k: {"id": k, "maker": r["maker"]} for k, r in items.items() if r["maker"] > 0}
    assert replay(process.mesh, "star.every") == star
    assert replay(process.mesh, "behind.all") == star
    made_by = {k: makers.get((r["maker"],), {}).get("name") for k, r in items.items()}
    assert replay(process.mesh, "woven.wide") == {k: {**r, "made_by": made_by[k]} for k, r in items.items()}
    process.end()

    world.write("pipelines/names.yaml", PIPELINES["names"].replace("id, note", "id, shade"))
    assert world("resume", "names") == 0
    armed[0] = True
    process, _ = play(world, rng, armed, [], writes=4)
    items = {k[0]: r for k, r in world.database.rows("item").items()}
    assert not process.paused
    assert replay(process.mesh, "names.noted") == {k: {"id": k, "shade": r["shade"]} for k, r in items.items()}
    assert replay(process.mesh, "star.every") == {k: r for k, r in items.items() if r["maker"] >= 0}
    process.end()


def _now_and_then_busy(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, is_busy: Callable[[], bool]) -> None:
    real = getattr(owner, name)

    def called(*args: Any, **named: Any) -> Any:
        if is_busy():
            raise Retryable("another writer holds the file", code="busy")
        return real(*args, **named)

    monkeypatch.setattr(owner, name, called)


GATE = ("pipeline.after_register", "pipeline.after_verdict", "pipeline.after_carried", "sink.after_verdict", "sink.after_accept")


def test_a_constant_is_in_old_rows_of_copies_and_documents_and_no_topic_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    world = World(tmp_path, rng)
    for _ in range(20):
        write(world.database, rng)
    assert world("apply") == 0
    process, _ = play(world, rng, [False], [], writes=1)
    ends = {t: process.mesh.topics.end(t) for t in ("shop.item", "shop.maker", "star.every")}
    reads: list[tuple[str, int]] = []
    read = LocalTopics.read

    def counted(self: LocalTopics, topic: str, offset: int, *, bytes_max: int) -> Any:
        reads.append((topic, offset))
        return read(self, topic, offset, bytes_max=bytes_max)

    monkeypatch.setattr(LocalTopics, "read", counted)
    process.end()
    world.database.alter("item", next(alterations()))
    process, _ = play(world, rng, [False], [], writes=1)
    again = [(t, at) for t, at in reads if at < ends.get(t, 0)]
    assert not again, "a topic was read again"
    shades = {k[0]: r["shade"] for k, r in world.database.rows("item").items()}
    assert "grey" in shades.values()
    assert {k: r["shade"] for k, r in replay(process.mesh, "woven.wide").items()} == shades
    woven = next(p for p in process.parts if p.name == "pipeline.woven")
    assert isinstance(woven, Pipeline) and woven.connect is not None
    with woven.connect() as connection:
        copied = dict(connection.execute('SELECT id, shade FROM "copy wide shop.item"').fetchall())
    assert copied == shades
    kept = process.mesh.catalogue.verdicts.of("pipeline.woven")
    assert [(k.verdict, k.how.partition(":")[0]) for k in kept] == [("propagate", "in place")]
    assert "'grey'" in kept[0].how
    process.end()
