"""Backfills let live changes go first: none goes on while one that moves has not taken the last chunk, none waits for one that stands, and
a chunk is as large as those on the way can bear."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_backfill_property import Desk
from test_capture_property import TABLES, open_world, skip_history

from millstream.capture import orders, pace
from millstream.capture.backfill import Order
from millstream.capture.connector import Connector
from millstream.capture.lead import FIRST_SEEN_S, STANDS_AFTER_S, Lead
from millstream.testing.scripted_source import Change, ScriptedDatabase, ScriptedSource

CHUNK = 3  # rows that a chunk of the script has at most
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
        self.connector._desk._lead = self.lead = Lead(self.topics, lambda: self.time)
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
    assert 0 < furthest <= CHUNK


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
    while world.end == at:
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
    for step in range(1400):  # more than two minutes; it turns about and about, far behind
        world.read(1 + step % 7)
        world.step()
        ends.append(world.end)
    moved = [i for i, (one, two) in enumerate(pairwise(ends)) if two > one]
    waits = [after - before for before, after in pairwise(moved) if after - before > 20]
    assert [round(w, -1) for w in waits] == [600], waits


def test_a_topic_without_readers_has_large_chunks_and_one_whose_readers_stand_has_not(world: World) -> None:
    world.load()
    assert (world.lead.behind("s.a"), world.lead.rows("s.a")) == (None, None)
    world.read(1)
    world.time += 1
    assert world.lead.behind("s.a") is not None
    assert world.lead.rows("s.a") in (pace.ROWS_FIRST, pace.ROWS_FIRST * 2 // 3)
    world.time += FIRST_SEEN_S
    assert (world.lead.behind("s.a"), world.lead.rows("s.a")) == (None, pace.ROWS_MAX)


def test_a_throttle_is_the_pace_whatever_the_readers_bear(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.load()
    at = world.read(world.end)
    asked = list[int]()
    chunk = ScriptedSource.chunk

    def seen(source: ScriptedSource, table: str, after: Any, rows_max: int, scope: Any) -> Any:
        asked.append(rows_max)
        return chunk(source, table, after, rows_max, scope)

    monkeypatch.setattr(ScriptedSource, "chunk", seen)
    for throttle, rows in [(None, pace.ROWS_FIRST), (8_000.0, 2_000), (1e9, pace.ROWS_MAX), (10.0, 10)]:
        asked.clear()
        world.ask(name := f"at {throttle}")
        world.desk.orders[name] = replace(world.desk.orders[name], throttle=throttle)
        for _ in range(400):
            at = world.read(min(at + 1, world.end))
            world.step()
            if world.desk.is_over(name):
                break
        assert world.desk.is_over(name)
        assert set(asked) == {rows} if throttle else rows in asked


def test_of_who_reads_what_its_reader_makes_the_same_holds(world: World) -> None:
    """A pipeline is through with the topic, and the sink of what it makes is behind."""
    world.load()
    made = world.topics.read("s.a", 0, bytes_max=1 << 20)
    producer = world.topics.open_producer("pipeline.p")
    blocks = [world.topics.encode(replace(b, topic="s.b")) for b in made]
    producer.commit(blocks, {}, sequence=producer.record.sequence + 1)
    world.topics.note_reader("sink.y", {"s.b": 0})
    world.read(world.end, "pipeline.p")
    assert world.lead.behind("s.a") is not None, "it may be about to move"
    world.time += FIRST_SEEN_S
    assert world.lead.behind("s.a") is None, "it may have stood there for days"
    world.time += 1
    world.topics.note_reader("sink.y", {"s.b": 1})
    behind = world.lead.behind("s.a")
    assert behind is not None
    assert (behind.reader, behind.topic, behind.records) == ("sink.y", "s.b", world.topics.end("s.b") - 1)
    world.time += STANDS_AFTER_S
    assert world.lead.behind("s.a") is None


# ---- how large a chunk may be


@dataclass
class Line:
    """A pipeline and its sink, which take what is there in rounds: `idle_s` of each and `per_s` records, times a lognormal `noise`. The
    sink waits a tenth of a second between two rounds. `live` changes a second come in. It is all of the topics that a Lead asks."""

    live: float
    idle_s: tuple[float, float]
    per_s: tuple[float, float]
    noise: float = 0.0
    offsets: list[int] = field(default_factory=lambda: [0, 0])
    ends: tuple[str, ...] = ("t.out",)

    def __post_init__(self) -> None:
        self.kept: list[list[float | None]] = [[], []]  # of each topic, when a change came; None: a row of a backfill

    def readers(self) -> dict[str, dict[str, int]]:
        return {"pipeline": {"t": self.offsets[0]}, "sink": {"t.out": self.offsets[1]}}

    def end(self, topic: str) -> int:
        return len(self.kept[topic != "t"])

    def producer_record(self, reader: str) -> Line | None:
        return self if reader == "pipeline" else None

    def play(self, seed: int, lasts_s: float, *, backfill: bool) -> tuple[float, float]:
        """How old 99 of 100 changes were at most, and rows read a second, both after the first 15 seconds."""
        rng, now, ages, read, comes, free = random.Random(seed), 0.0, list[float](), 0, 0.0, 0.0
        rounds: list[tuple[float, int] | None] = [None, None]
        lead: Any = Lead(self, lambda: now)  # type: ignore[arg-type]
        came: list[float | None] = []
        while now < lasts_s:
            now += 0.005
            while comes <= now:
                came.append(comes)
                comes += rng.expovariate(self.live)
            if now >= free:  # the connector is not at a chunk
                self.kept[0] += came
                came = []
                if backfill and now > 2 and lead.behind("t") is None:
                    rows = lead.rows("t")
                    lead.took("t", rows, took := 0.01 + rows * 1e-5)
                    free = now + 2 * took
                    self.kept[0] += [None] * rows
                    read += rows if now > 15 else 0
            for n in range(2):
                if (going := rounds[n]) is not None and now >= going[0]:
                    taken, rounds[n] = self.kept[n][self.offsets[n] : going[1]], None
                    self.offsets[n] = going[1]
                    if n == 0:
                        self.kept[1] += taken
                    ages += [now - at for at in taken if n and at is not None and now > 15]
                if rounds[n] is None and (waiting := len(self.kept[n]) - self.offsets[n]):
                    takes = (self.idle_s[n] + waiting / self.per_s[n]) * rng.lognormvariate(0, self.noise)
                    rounds[n] = (now + takes + 0.1 * n, len(self.kept[n]))
        return float(np.percentile(ages, 99)), read / (lasts_s - 15)


LINES = [
    ("quiet", 500, (0.02, 0.06), (80_000, 20_000)),
    ("busy", 500, (0.1, 0.2), (10_000, 4_000)),
    ("slow to begin", 100, (0.02, 0.5), (40_000, 8_000)),
    ("few changes", 10, (0.02, 0.06), (80_000, 20_000)),
]


@pytest.mark.parametrize(("name", "live", "idle_s", "per_s"), LINES)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_changes_are_hardly_older_beside_a_backfill_whoever_reads(name: str, live: float, idle_s: Any, per_s: Any, noise: float) -> None:
    ages, rates = [], []
    for seed in range(3):
        without, _ = Line(live, idle_s, per_s, noise).play(seed, 60, backfill=False)
        beside, rate = Line(live, idle_s, per_s, noise).play(seed, 60, backfill=True)
        ages.append(beside / without)
        rates.append(rate)
    assert sorted(ages)[1] < 1.25, (ages, rates)
    assert min(rates) > 100, "it goes on"


@pytest.mark.parametrize(("name", "live", "idle_s", "per_s"), LINES[:2])
def test_with_chunks_of_one_size_for_all_they_are_older(
    name: str, live: float, idle_s: Any, per_s: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "rows", lambda now, way, reads=(): pace.ROWS_MAX)
    without, _ = Line(live, idle_s, per_s).play(1, 40, backfill=False)
    beside, _ = Line(live, idle_s, per_s).play(1, 40, backfill=True)
    assert beside / without > 1.5


def test_what_a_row_costs_is_seen_in_moves_with_a_chunk_and_not_in_how_much_there_was() -> None:
    rng = random.Random(3)
    usual = [pace.Move(round(500 * took), took) for took in (rng.uniform(0.1, 0.5) for _ in range(16))]
    assert pace.stage(usual) is None, "no chunk was in any"
    assert pace.stage([*usual, *(pace.Move(m.records + 1000, m.took_s + 0.1, 1000) for m in usual)]) == pytest.approx(
        (sorted(m.took_s for m in usual)[7:9][0] / 2 + sorted(m.took_s for m in usual)[7:9][1] / 2, 1e-4 / (1 - 500 * 1e-4)), rel=0.02
    )
    always = [pace.Move(rows, 0.2 + rows * 1e-4, rows) for rows in (600, 900) * 8]
    found = pace.stage(always)
    assert found is not None
    assert found.row_s > 1e-4, "where a chunk is in all, larger ones stand beside smaller ones"


def test_a_chunk_grows_and_shrinks_in_steps_and_not_without_knowledge() -> None:
    cheap, dear = pace.Stage(0.5, 1e-6), pace.Stage(0.5, 1e-2)
    assert pace.rows(800, [cheap, None]) == 800
    assert (pace.rows(800, [cheap]), pace.rows(800, [dear]), pace.rows(800, [cheap, dear])) == (1200, 400, 400)
    assert (pace.rows(pace.ROWS_MAX, [cheap]), pace.rows(250, [dear])) == (pace.ROWS_MAX, pace.ROWS_MIN)
    slow = [pace.Move(1_000, 5.0)]
    assert pace.rows(4_000, [cheap], slow) == 2_000, "while a chunk is read nothing else is"
    assert pace.rows(800, [cheap], slow) == pace.ROWS_READ
