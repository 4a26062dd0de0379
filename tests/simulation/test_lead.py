"""Backfills let readers catch up: none goes on while one that moves is far behind, and none waits for one that stands."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from test_backfill_property import Desk
from test_capture_property import TABLES, open_world, skip_history

from millstream.capture import orders
from millstream.capture.backfill import Order
from millstream.capture.connector import Connector
from millstream.capture.lead import STANDS_AFTER_S, Lead
from millstream.testing.scripted_source import Change, ScriptedDatabase, ScriptedSource

AHEAD = 4  # records; a chunk of the script has three rows at most
CHUNK = 3
ROWS = 24


class World:
    """A table of ROWS rows that is loaded, and its readers. Each step takes a tenth of a second."""

    def __init__(self, folder: Path) -> None:
        self.db = ScriptedDatabase(TABLES, random.Random(1))
        self.db.commit(*(Change("a", None, {"id": i, "v": str(i)}) for i in range(ROWS)))
        self.db.visible = len(self.db.log)
        self.topics, registry = open_world(folder)
        self.time, self.desk = 0.0, Desk()
        self.connector = Connector(ScriptedSource("s", self.db), self.topics, registry, lambda: self.time, orders=self.desk)
        self.connector._desk._lead = self.lead = Lead(self.topics, lambda: self.time, AHEAD)
        self.connector.open()
        skip_history(self.connector, len(self.db.log))

    def load(self) -> None:
        while not self.connector.loaded:
            self.step()

    def step(self) -> None:
        self.time += 0.1
        self.connector.step()

    def ask(self, name: str = "again") -> None:
        self.desk.orders[name] = Order(name, "s", "a", estimate=ROWS)
        self.time += orders.LOOK_EVERY_S

    @property
    def end(self) -> int:
        return self.topics.end("s.a")

    def read(self, offset: int, reader: str = "sink.x") -> int:
        self.topics.note_reader(reader, {"s.a": offset})
        return offset

    def until_over(self, steps: int, name: str = "again") -> int:
        """How many steps it took."""
        for taken in range(steps):
            if self.desk.is_over(name):
                return taken
            self.step()
        raise AssertionError(f"{name} is not over: {self.desk.told.get(name)}")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_initial_load_waits_for_nobody(world: World) -> None:
    world.read(0)
    at = 0
    for _ in range(400):
        if world.connector.loaded:
            break
        at = world.read(min(at + 1, world.end // 2))
        world.step()
    assert world.connector.loaded
    assert world.time < STANDS_AFTER_S


def test_it_is_never_far_ahead_of_a_reader_that_moves(world: World) -> None:
    world.load()
    at, furthest = world.read(world.end), 0
    world.ask()
    for step in range(1200):
        if world.desk.is_over("again"):
            break
        if step % 10 == 0:  # a record a second
            at = world.read(min(at + 1, world.end))
        world.step()
        furthest = max(furthest, world.end - at)
    assert world.desk.told["again"].read == ROWS
    assert AHEAD < furthest <= AHEAD + CHUNK


def test_it_says_whom_it_waits_for(world: World) -> None:
    world.load()
    world.read(world.end)
    world.ask()
    for _ in range(60):
        world.step()
    told = world.desk.told["again"]
    assert (told.state, told.reason.partition(",")[0]) == ("running", "waits for sink.x")
    assert not world.connector.loaded, "whoever runs until all is caught up waits with it"
    world.read(world.end)
    for _ in range(12):
        world.step()
    assert world.desk.told["again"].reason == "" or world.desk.told["again"].read > told.read


def test_a_reader_that_was_stopped_long_ago_is_nobody(world: World) -> None:
    world.load()
    world.read(1)
    world.ask()
    world.until_over(200)
    assert world.time < STANDS_AFTER_S + orders.LOOK_EVERY_S * 2


def test_one_that_stops_on_the_way_is_nobody_after_a_while(world: World) -> None:
    world.load()
    at = world.read(world.end)
    world.ask()
    while world.end - at <= AHEAD:
        world.step()
    stood, began = world.end, world.time
    while world.end == stood:
        world.step()
    assert STANDS_AFTER_S - 1 < world.time - began < STANDS_AFTER_S + 1
    world.until_over(200)


def test_one_that_moves_and_never_arrives_leaves_it_a_chunk_a_minute(world: World) -> None:
    world.load()
    world.read(1)
    world.ask()
    ends = []
    for step in range(700):  # more than a minute; it turns about and about, far behind
        world.read(1 + step % 7)
        world.step()
        ends.append(world.end)
    moved = [i for i, (one, two) in enumerate(pairwise(ends)) if two > one]
    waits = [after - before for before, after in pairwise(moved) if after - before > 20]
    assert [round(w, -1) for w in waits] == [600], waits


def test_of_who_reads_what_its_reader_makes_the_same_holds(world: World) -> None:
    """A pipeline is through with the topic, and the sink of what it makes is behind."""
    world.load()
    made = world.topics.read("s.a", 0, bytes_max=1 << 20)
    producer = world.topics.open_producer("pipeline.p")
    blocks = [world.topics.encode(replace(b, topic="s.b")) for b in made]
    producer.commit(blocks, {}, sequence=producer.record.sequence + 1)
    world.topics.note_reader("sink.y", {"s.b": 0})
    world.read(world.end, "pipeline.p")
    assert world.lead.behind("s.a") is None, "it may have stood there for days"
    world.time += 1
    world.topics.note_reader("sink.y", {"s.b": 1})
    behind = world.lead.behind("s.a")
    assert behind is not None
    assert (behind.reader, behind.topic, behind.records) == ("sink.y", "s.b", world.topics.end("s.b") - 1)
    world.time += STANDS_AFTER_S
    assert world.lead.behind("s.a") is None
