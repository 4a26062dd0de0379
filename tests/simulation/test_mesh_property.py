"""The mesh in one process, as a property: a scripted source, a stateless and a joined pipeline, crashes at every named moment,
a file that is busy now and then, states lost and restored. At the end each output topic replays to the query evaluated from
scratch; nothing came twice."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from millstream import faultpoints
from millstream.capture.connector import Connector
from millstream.engine.pipeline import Pipeline
from millstream.errors import Retryable
from millstream.events import envelope
from millstream.events.origin import Origin
from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.plan import Edge, Input, Occurrence, Output, Plan, Projection, Root, Stateful, Stateless
from millstream.schemas.sql import SqlRegistry
from millstream.testing.scripted_source import Change, ScriptedDatabase, ScriptedSource
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics
from millstream.topics.local.producer import LocalProducer

INT, TEXT = Type("int64"), Type("text")
MOVIE = RowSchema((Field("id", INT, 1), Field("year", INT, 2), Field("director", INT, 3)), ("id",))
PERSON = RowSchema((Field("id", INT, 1), Field("name", TEXT, 2)), ("id",))
TABLES = {"movie": MOVIE, "person": PERSON}
RECENT = RowSchema((Field("movie", INT, 1), Field("director", INT, 2), Field("decade", INT, 3)), ("movie",))
RATED = RowSchema((Field("movie", INT, 1), Field("decade", INT, 2), Field("director", TEXT, 3)), ("movie",))
SHOUTED = RowSchema((Field("movie", INT, 1), Field("title", TEXT, 2)), ("movie",))
SEEDS, MORE_SEEDS = 15, 200


class Crash(BaseException):
    """Not an Exception: nothing may swallow it, as nothing swallows kill -9."""


def stateless_plan(inputs: dict[str, Input]) -> Plan:
    recent = Stateless(
        "recent",
        "s.movie",
        '"year" >= 3',
        (Projection("movie", '"id"'), Projection("director", '"director"'), Projection("decade", '"year" % 2')),
        RECENT,
    )
    return Plan("plain", "team", (inputs["s.movie"],), (recent,), (Output("recent", "plain.recent", "whole"),), ())


def joined_plan(inputs: dict[str, Input]) -> Plan:
    """A join over another pipeline's output and a source's topic, and a stateless step behind it."""
    rated = Stateful(
        "rated",
        'SELECT "m"."movie" AS "movie", "m"."decade" AS "decade", "p"."name" AS "director" '
        'FROM "m" LEFT JOIN "p" ON "m"."director" = "p"."id"',
        (Root("m", ("movie",)),),
        ("movie",),
        (Occurrence("m", "plain.recent"), Occurrence("p", "s.person")),
        (Edge("m", "p", ("director",), ("id",)),),
        RATED,
    )
    title = 'upper("director") || CAST("movie" AS VARCHAR)'
    shouted = Stateless("shouted", "rated", '"director" IS NOT NULL', (Projection("movie", '"movie"'), Projection("title", title)), SHOUTED)
    outputs = (Output("rated", "both.rated", "whole"), Output("shouted", "both.shouted", "whole"))
    return Plan("both", "team", (inputs["plain.recent"], inputs["s.person"]), (rated, shouted), outputs, ())


def write(db: ScriptedDatabase, rng: random.Random) -> None:
    rows = {t: dict(db.rows(t)) for t in TABLES}
    changes: list[Change] = []
    for _ in range(rng.randint(1, 4)):
        table, key = rng.choice(["movie", "person"]), rng.randrange(5)
        before = rows[table].get((key,))
        if before is not None and rng.random() < 0.3:
            after = None
            del rows[table][(key,)]
        else:
            other = (
                {"year": rng.randrange(6), "director": rng.choice([None, *range(5)])} if table == "movie" else {"name": rng.choice("abc")}
            )
            after = rows[table][(key,)] = {"id": key, **other}
        changes.append(Change(table, before, after))
    db.commit(*changes)


class Mesh:
    """One process's worth of parts over a folder; `crash` leaves everything as kill -9 would."""

    def __init__(self, folder: Path, db: ScriptedDatabase, now: Any) -> None:
        self.folder = folder
        self.registry = SqlRegistry(sa.create_engine(f"sqlite:///{folder}/mesh.db"))
        self.topics = LocalTopics(folder / "topics.db", self.registry)
        self.inputs: dict[str, Input] = {}
        for table, schema in TABLES.items():
            self._topic(f"s.{table}", schema, Origin("scripted", "s", "script", None, table))
        for name, schema in {"plain.recent": RECENT, "both.rated": RATED, "both.shouted": SHOUTED}.items():
            self._topic(name, schema, Origin("millstream", name.split(".")[0], "mesh", None, name.split(".")[1]))
        self.connector = Connector(ScriptedSource("s", db), self.topics, self.registry, now)
        make = lambda plan: Pipeline(plan, self.topics, self.registry, folder / f"{plan.pipeline}.duckdb", clock=now)  # noqa: E731
        self.pipelines = [make(stateless_plan(self.inputs)), make(joined_plan(self.inputs))]
        self.opened: set[int] = set()
        self.unsettled: set[int] = set()

    def _topic(self, name: str, schema: RowSchema, origin: Origin) -> None:
        version = self.registry.register(f"{name}-value", envelope.value_schema(name, schema))
        key = self.registry.register(f"{name}-key", envelope.key_schema(name, schema))
        self.topics.create(Topic(name, schema.key, key.id, "whole", origin))
        self.inputs[name] = Input(name, schema, version.id, "whole")

    def step(self, rng: random.Random) -> None:
        part = rng.randrange(3)
        work = self.connector if part == 0 else self.pipelines[part - 1]
        try:
            if part not in self.opened:
                work.open()
                self.opened.add(part)
            if part in self.unsettled:  # as the runner does
                work.retry()
                self.unsettled.discard(part)
            work.step()
        except Retryable:
            self.unsettled.add(part)

    def crash(self) -> None:
        for p in self.pipelines:
            p.close()
        self.topics.close()

    def through(self) -> bool:
        position = self.connector.position if 0 in self.opened else None
        if len(self.opened) < 3 or not self.connector.loaded or position is None or position.major < self.connector._source.head()[0]:
            return False
        return all(p.caught_up({t: self.topics.end(t) for t in p.reads}) for p in self.pipelines)


def play(seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Mesh, ScriptedDatabase, int]:
    rng = random.Random(seed)
    db = ScriptedDatabase(TABLES, rng)
    clock = [0.0]

    def now() -> float:
        clock[0] += rng.random()
        return clock[0]

    armed = [True]

    def reached(name: str) -> None:
        if armed[0] and rng.random() < 0.02:
            raise Crash(name)

    for module in ("capture.connector", "engine.pipeline", "engine.publisher", "engine.rebuild"):
        monkeypatch.setattr(f"millstream.{module}.reached", reached)
    monkeypatch.setattr(faultpoints, "reached", reached)
    commit = LocalProducer.commit

    def busy(self: LocalProducer, *args: Any, **named: Any) -> Any:
        if armed[0] and rng.random() < 0.1:
            raise Retryable("another writer holds the file", code="topics_busy")
        return commit(self, *args, **named)

    monkeypatch.setattr(LocalProducer, "commit", busy)
    mesh: Mesh | None = None
    left, crashes = 25, 0
    saved = folder / "both.saved"
    while True:
        if mesh is None:
            armed[0] = False
            mesh = Mesh(folder, db, now)
            armed[0] = crashes < 40
        try:
            mesh.step(rng)
        except Crash:
            crashes += 1
            mesh.crash()
            mesh = None
            state = folder / "both.duckdb"
            fate = rng.random()
            if fate < 0.15:
                state.unlink(missing_ok=True)
                state.with_suffix(".duckdb.wal").unlink(missing_ok=True)
            elif fate < 0.3 and saved.exists():
                shutil.copy(saved, state)
                state.with_suffix(".duckdb.wal").unlink(missing_ok=True)
            elif state.exists() and not Path(f"{state}.wal").exists():
                shutil.copy(state, saved)
            continue
        if left and rng.random() < 0.3:
            write(db, rng)
            left -= 1
        if not left and mesh.through():
            return mesh, db, crashes


def replay(topics: LocalTopics, name: str, key: str) -> dict[int, dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    versions: dict[int, tuple[int, int]] = {}
    offset = 0
    while batches := topics.read(name, offset, bytes_max=1 << 20):
        offset = topics.read_end(batches)
        for b in batches:
            for e in b.rows.to_pylist():
                k = (e["after"] or e["before"])[key]
                version = (e["major"], e["minor"])
                assert version > versions.get(k, (0, -1)), f"{name} {k}: version {version} does not rise"
                versions[k] = version
                if e["op"] != "r":
                    assert e["before"] == rows.get(k), f"{name} {k}: before is not what stood there"
                assert (e["op"] == "d") == (e["after"] is None)
                if e["after"] is None:
                    del rows[k]
                else:
                    rows[k] = e["after"]
    return rows


@pytest.mark.parametrize("seed", [*range(SEEDS), *(pytest.param(s, marks=pytest.mark.long) for s in range(SEEDS, MORE_SEEDS))])
def test_every_output_equals_its_query(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh, db, _ = play(seed, tmp_path, monkeypatch)
    people = {k[0]: r["name"] for k, r in db.rows("person").items()}
    movies = [r for r in db.rows("movie").values() if r["year"] >= 3]
    recent = {m["id"]: {"movie": m["id"], "director": m["director"], "decade": m["year"] % 2} for m in movies}
    rated = {m["id"]: {"movie": m["id"], "decade": m["year"] % 2, "director": people.get(m["director"])} for m in movies}
    shouted = {k: {"movie": k, "title": f"{r['director'].upper()}{k}"} for k, r in rated.items() if r["director"] is not None}
    assert replay(mesh.topics, "plain.recent", "movie") == recent
    assert replay(mesh.topics, "both.rated", "movie") == rated
    assert replay(mesh.topics, "both.shouted", "movie") == shouted
    mesh.crash()
