"""Saved searches the other way round, as a property: random documents, searches and changes of both, with crashes at every named moment,
lost states, compaction and another generation. Whenever all is read, each search's keys whose last event is no delete are the
documents that its query finds, as the oracle says it over plain rows; and no event says what cannot be."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import search_oracle as oracle

from millstream import faultpoints
from millstream.engine import matches
from millstream.engine.matches import Matches, Served
from millstream.events import envelope
from millstream.events.batch import batch
from millstream.events.origin import DERIVED, Origin
from millstream.events.types import RowSchema
from millstream.pipelines.searches import match_schema
from millstream.queries.grammar import parse
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics

SCHEMA, OUT = oracle.SCHEMA, "film.matches"
MATCH = match_schema(SCHEMA)
POINTS = ("matches.before_state", "matches.after_state", "matches.after_publish", "matches.compared", "matches.after_build")
KEYS = 8


class Crash(BaseException):
    """Not an Exception: nothing may swallow it, as nothing swallows kill -9."""


class World:
    """A product whose documents this writes, and its saved searches."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance = folder, chance
        self._engine = sqlite_engine(folder / "mesh.db")
        self.registry = SqlRegistry(self._engine)
        self.topics = LocalTopics(folder / "topics.db", self.registry)
        self._topic(OUT, MATCH)
        self.searches: dict[str, str] = {}
        self.told: dict[str, tuple[str, str]] = {}
        self.now = 0.0
        self.generation = 0
        self.next_generation(SCHEMA)
        self.matches = self._make()

    def _topic(self, name: str, schema: RowSchema) -> int:
        key = self.registry.register(f"{name}-key", envelope.key_schema(name, schema)).id
        owner, _, node = name.rpartition(".")
        self.topics.create(Topic(name, schema.key, key, "none", Origin(DERIVED, owner, "mesh", None, node)))
        return self.registry.register(f"{name}-value", envelope.value_schema(name, schema)).id

    def next_generation(self, schema: RowSchema) -> None:
        """Another topic with documents of its own, which is searched from now on."""
        self.generation += 1
        self.topic = f"film@{self.generation}.film"
        self.schema, self.rows = schema, {}
        self.schema_id = self._topic(self.topic, schema)
        self.producer = self.topics.open_producer(f"pipeline.film@{self.generation}")
        self.write(list(range(KEYS)))
        self.served = Served(self.topic, schema, self.schema_id, {})

    def _make(self) -> Matches:
        def tell(search: str, state: str, reason: str, cure: str) -> None:
            self.told[search] = (state, reason)

        path = self.folder / "film.duckdb"
        mine = (lambda: dict(self.searches), lambda: self.served, MATCH)
        made = Matches("film", *mine, self.topics, self.registry, path, tell=tell, clock=self._clock)
        made.open()
        return made

    def _clock(self) -> float:
        self.now += 0.6
        return self.now

    def write(self, keys: list[int]) -> None:
        """New documents of these keys, or none; befores as a product has them."""
        events = []
        for key in keys:
            there = key in self.rows
            row = None if there and self.chance.random() < 0.25 else {"id": key, **oracle.row(self.chance)}
            if row is None:
                del self.rows[key]
                events.append(("d", {"id": key}, None))
            else:
                row = {n: v for n, v in row.items() if n in self.schema.names}
                self.rows[key] = row
                events.append(("u" if there else "c", None, row))
        count, sequence = len(events), self.producer.record.sequence + 1
        made = batch(
            self.topic,
            self.schema,
            {
                "op": [e[0] for e in events],
                "before": pa.array([e[1] for e in events], self.schema.arrow),
                "after": pa.array([e[2] for e in events], self.schema.arrow),
                "incarnation": np.ones(count, np.uint32),
                "major": np.full(count, sequence, np.uint64),
                "minor": np.arange(count, dtype=np.uint32),
                "ts_us": np.full(count, sequence, np.int64),
                "position": [f"{sequence:032x}"] * count,
            },
            self.schema_id,
        )
        state = {"ready": {self.topic: True}, "progress": {"studio": f"{sequence:032x}"}}
        self.producer.commit([self.topics.encode(made)], state, sequence=sequence)

    def search(self) -> None:
        """Searches come, change and go, as they do when a project is applied anew."""
        for name in list(self.searches):
            if self.chance.random() < 0.3:
                del self.searches[name]
        for _ in range(self.chance.randrange(4)):
            self.searches[f"s{self.chance.randrange(6)}"] = oracle.condition(self.chance)

    def restart(self, lose_state: bool = False) -> None:
        self.matches.close()
        if lose_state:
            for path in self.folder.glob("film.duckdb*"):
                path.unlink()
        self.matches = self._make()

    def settle(self) -> None:
        for _ in range(500):
            self.matches.step()
            if self.matches.caught_up({self.topic: self.topics.end(self.topic)}):
                return
        raise AssertionError("it does not come to an end")

    def published(self) -> list[dict[str, Any]]:
        offset, found = 0, []
        while offset < self.topics.end(OUT):
            batches = self.topics.read(OUT, offset, bytes_max=1 << 20)
            found += [row for b in batches for row in b.rows.to_pylist()]
            offset = self.topics.read_end(batches)
        return found

    def found(self, query: str) -> set[int]:
        types = {f.name: f.type for f in self.schema.fields}
        return {key for key, row in self.rows.items() if oracle.holds(parse(query), row, types)}

    def close(self) -> None:
        self.matches.close()
        self.topics.close()
        self._engine.dispose()


def replayed(events: list[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """search → key → row. Each event must be possible after those before it, and its before as they left it."""
    now: dict[str, dict[int, dict[str, Any]]] = {}
    for event in events:
        row = event["after"] or event["before"]
        rows = now.setdefault(row["search"], {})
        assert event["before"] == rows.get(row["id"])
        assert event["op"] == ("d" if event["after"] is None else "u" if event["before"] else "c")
        assert event["before"] != event["after"], "nothing has changed"
        if event["op"] == "d":
            del rows[row["id"]]
        else:
            rows[row["id"]] = event["after"]
    return now


def check(world: World) -> None:
    now = replayed(world.published())
    for name, query in world.searches.items():
        assert set(now.get(name, {})) == world.found(query), f"{name}: {query}"
    assert {name for name, rows in now.items() if rows} <= set(world.searches)


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Any:
    def die(pid: int, number: int) -> None:
        raise Crash

    monkeypatch.setattr(faultpoints.os, "kill", die)

    def at(point: str | None, count: int = 1) -> None:
        monkeypatch.setattr(faultpoints, "_WANTED", point and f"{point}:{count}:KILL")
        monkeypatch.setattr(faultpoints, "_left", count)

    yield at
    at(None)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_said_to_match_is_what_searching_finds(seed: int, tmp_path: Path, dying: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matches, "SLICE_ROWS", 3)
    chance = random.Random(f"matches {seed}")
    world = World(tmp_path, chance)
    crashed = Counter()
    for _ in range(6):
        world.search()
        how = chance.random()
        if how < 0.2:
            world.next_generation(SCHEMA)
        elif how < 0.4:
            world.topics.compact(lambda seconds: False)
        dying(None)
        world.restart(lose_state=chance.random() < 0.15)
        for _ in range(chance.randint(1, 6)):
            if chance.random() < 0.7:
                world.write([chance.randrange(KEYS) for _ in range(chance.randint(1, 4))])
            point = chance.choice(POINTS) if chance.random() < 0.6 else None
            dying(point, chance.choice([1, 1, 1, 2]))
            try:
                world.matches.step()
            except Crash:
                crashed[point] += 1
                dying(None)
                world.restart(lose_state=chance.random() < 0.2)
            dying(None)
        world.settle()
        check(world)
        assert world.matches.positions == {world.topic: world.topics.end(world.topic)}
    world.close()
    assert crashed, "nothing was put to the test"


def test_a_search_whose_field_is_gone_is_set_aside_and_the_others_go_on(tmp_path: Path) -> None:
    world = World(tmp_path, random.Random(5))
    world.searches |= {"by_year": "year >= 0", "by_title": "EXISTS title"}
    world.restart()
    world.settle()
    check(world)
    before = replayed(world.published())["by_year"]
    assert before
    world.next_generation(RowSchema(tuple(f for f in SCHEMA.fields if f.name != "year"), SCHEMA.key))
    world.restart()
    world.settle()
    state, reason = world.told["by_year"]
    assert state == "failed"
    assert "unknown_column" in reason and "year" in reason
    assert world.told["by_title"] == ("caught_up", "")
    assert world.matches.figures == {"searches": 2, "set_aside": 1}
    for key in (0, 1, 2, 0, 1, 2):
        world.write([key])
    world.settle()
    now = replayed(world.published())
    assert set(now["by_title"]) == world.found("EXISTS title")
    assert now["by_year"] == {k: row for k, row in before.items() if k in world.rows or k in now["by_year"]}
    world.next_generation(SCHEMA)
    world.settle()
    check(world)
    assert world.told["by_year"] == ("caught_up", "")
    world.close()


def test_one_search_more_leaves_the_others_alone(tmp_path: Path) -> None:
    world = World(tmp_path, random.Random(6))
    world.searches["all"] = "*"
    world.restart()
    world.settle()
    said = len(world.published())
    world.searches["more"] = "year >= 0"
    world.restart()
    world.settle()
    assert {(e["after"] or e["before"])["search"] for e in world.published()[said:]} == {"more"}
    said = len(world.published())
    world.restart()
    world.settle()
    assert len(world.published()) == said, "nothing has changed, so nothing is said"
    check(world)
    world.close()


@pytest.mark.parametrize("change", ["a search more", "another generation"])
def test_what_is_being_compared_is_not_caught_up(change: str, tmp_path: Path) -> None:
    """Whoever waits for it looks from another thread, at any moment of its steps."""
    world = World(tmp_path, random.Random(8))
    world.searches["all"] = "*"
    world.restart()
    world.settle()
    meanwhile = []
    world.matches.tick = lambda what, done, total: meanwhile.append(world.matches.caught_up({world.topic: world.topics.end(world.topic)}))
    if change == "a search more":
        world.searches["more"] = "year >= 0"
    else:
        world.next_generation(SCHEMA)
    world.settle()
    assert meanwhile
    assert not any(meanwhile)
    check(world)
    world.close()


def test_it_waits_until_a_generation_is_searched(tmp_path: Path) -> None:
    world = World(tmp_path, random.Random(7))
    world.searches["all"] = "*"
    world.restart()
    served, world.served = world.served, None  # type: ignore[assignment]
    assert not world.matches.step()
    assert world.matches.unready() == ["product film"]
    assert world.matches.caught_up({})
    world.served = served
    assert not world.matches.caught_up({})
    world.settle()
    assert world.matches.unready() == []
    check(world)
    world.close()
