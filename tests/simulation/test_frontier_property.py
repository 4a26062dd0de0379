"""Capture of a source that repeats and reorders, as a property: whatever it says again, wherever the connector is killed and whatever is
read beside it, the topic has each version of a key once, rising, none is missing, and it replays to the table."""

from __future__ import annotations

import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from test_backfill_property import Desk

from millstream.capture import connector as connector_module
from millstream.capture import frontier
from millstream.capture.backfill import Order
from millstream.capture.connector import Connector
from millstream.capture.frontier import FrontierAdmission
from millstream.capture.keytimes import KeyTimes, Times
from millstream.capture.reading import Reading
from millstream.errors import Irrecoverable, Retryable
from millstream.events import envelope
from millstream.events.origin import Origin
from millstream.events.progress import Position
from millstream.events.types import UNKNOWN, Constant, Field, RowSchema, Type
from millstream.schemas.sql import SqlRegistry
from millstream.testing.scripted_feeds import NOTHING, ScriptedCluster, ScriptedFeeds, Time
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics

FIRST = RowSchema((Field("id", Type("int64"), 1), Field("v", Type("text"), 2)), ("id",))
POINTS = (
    "connector.before_fence",
    "connector.after_fence",
    "admission.reading",
    "connector.after_open",
    "connector.decoded",
    "connector.before_register",
    "connector.after_register",
    "connector.before_commit",
    "connector.after_commit",
    "connector.after_acknowledge",
    "connector.window_open",
)
SEEDS = 6
STILL = 99
"""The key of a row that nobody changes: every backfill has to tell it."""
ASKED = 3


class Crash(BaseException):
    """As kill -9 is: nothing is closed, and nothing that runs may catch it."""


@dataclass
class World:
    """A cluster that is written to, and connectors that come and go."""

    seed: int
    folder: Path
    crashes: float = 0.02
    left: int = 40
    forgets: float = 0.0
    first: RowSchema = FIRST
    killed: Counter[str] = field(default_factory=Counter)
    lost: dict[tuple[str, Time], Time] = field(default_factory=dict)
    began: dict[str, Time] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.db = ScriptedCluster({"a": self.first, "b": self.first}, self.rng)
        self.registry = SqlRegistry(sa.create_engine(f"sqlite:///{self.folder}/mesh.db"))
        self.topics = LocalTopics(self.folder / "topics.db", self.registry)
        self.clock, self.desk = 0.0, Desk()
        self.connector: Connector | None = None
        self.source: ScriptedFeeds | None = None
        self.zombies: list[Connector] = []
        self.stale = 0
        for table in self.db.tables:
            self.make(table)
            self.db.commit((table, (STILL,), self.row(table, STILL, 0)))
        for _ in range(self.rng.randint(0, 6)):
            self.write()

    def make(self, table: str) -> None:
        name = f"s.{table}"
        self.registry.register(f"{name}-value", envelope.value_schema(name, self.db.tables[table]))
        key = self.registry.register(f"{name}-key", envelope.key_schema(name, self.db.tables[table]))
        self.topics.create(Topic(name, ("id",), key.id, "whole", Origin("scripted", "s", "script", None, table)))

    def write(self) -> None:
        """One transaction of up to six changes of up to all tables, deletes of nothing and moved keys among them; or a new column."""
        rng = self.rng
        if rng.random() < 0.04:
            return self.alter(rng.choice(sorted(self.db.tables)))
        changes: list[tuple[str, tuple[int], dict[str, Any] | None]] = []
        for n in range(rng.randint(1, 6)):
            table, key = rng.choice(sorted(self.db.tables)), rng.randrange(8)
            if rng.random() < 0.3:
                changes.append((table, (key,), None))
                if rng.random() < 0.3:
                    changes.append((table, (key + 8,), self.row(table, key + 8, n)))
            else:
                changes.append((table, (key,), self.row(table, key, n)))
        self.db.commit(*changes)

    def row(self, table: str, key: int, n: int) -> dict[str, Any]:
        text = f"{len(self.db.log)}.{n}"
        return {"id": key} | {f.name: text for f in self.db.tables[table].fields[1:]}

    def alter(self, table: str) -> None:
        schema = self.db.tables[table]
        number = len(schema.fields) + 1
        fill = self.rng.choice([None, Constant("x"), UNKNOWN])
        added = Field(f"c{number}", Type("text"), number, fill=fill)
        # A value that readers know is not told again; one that they cannot know is, or a backfill has to read it.
        self.db.alter(table, RowSchema((*schema.fields, added), schema.key), again=fill is UNKNOWN and self.rng.random() < 0.5)

    # ---- connectors

    def reached(self, name: str) -> None:
        if self.rng.random() < self.crashes:
            self.killed[name] += 1
            raise Crash(name)

    def now(self) -> float:
        self.clock += self.rng.random()
        return self.clock

    def run(self) -> World:
        with self.watched():
            while not self.is_through():
                try:
                    self.turn()
                except Crash:
                    self.note_beginnings()  # what it had committed already
                    self.connector = None
                    if self.rng.random() < self.forgets:
                        self.db.forget()  # it was away for too long
                    if self.rng.random() < 0.3:
                        shutil.rmtree(self.folder / "copies", ignore_errors=True)
        return self

    @contextmanager
    def watched(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connector_module, "reached", self.reached)
            if self.rng.random() < 0.4:
                patch.setattr(frontier, "BYTES_MAX", 1)  # all is on disk
            if self.rng.random() < 0.4:
                patch.setattr(frontier, "PARTS_MAX", 2)
            yield

    def turn(self) -> None:
        rng = self.rng
        if self.connector is None:
            if "c" not in self.db.tables and self.left < 20:
                self.db.add("c", self.first)
                self.make("c")
            self.source = ScriptedFeeds("s", self.db)
            opened = Connector(self.source, self.topics, self.registry, self.now, folder=self.folder / "copies", orders=self.desk)
            opened.open()
            self.connector = opened
        if rng.random() < 0.005:
            self.zombies.append(self.connector)
            self.connector = None
            return
        for zombie in list(self.zombies):
            self.is_refused(zombie)
        try:
            self.connector.step()
        except Retryable:
            self.connector.retry()
        self.note_beginnings()
        self.lost |= {(e["table"], time_of(e["after"])): time_of(e["resumed_at"]) for e in self.connector.lost}
        if len(self.desk.orders) < ASKED and rng.random() < 0.1:
            name = f"asked-{len(self.desk.orders)}"
            self.desk.orders[name] = Order(name, "s", "a", reconcile=rng.random() < 0.2, to=rng.choice([None, "p"]))
        if self.left and rng.random() < 0.5:
            self.write()
            self.left -= 1

    def note_beginnings(self) -> None:
        record = self.topics.producer_record("source.s")
        if self.source is not None and record is not None and (position := record.state.get("position")) is not None:
            for table in Position.of(position).tables:
                self.began.setdefault(table, self.source.began.get(table, (0, 0)))

    def is_refused(self, zombie: Connector) -> None:
        """One that another opening took over from may read on; it writes nothing."""
        before = self.topics.producer_record("source.s")
        assert before is not None and self.connector is not None
        try:
            try:
                zombie.step()
            except Retryable:
                zombie.retry()
        except (Irrecoverable, Crash) as e:
            assert isinstance(e, Crash) or e.code == "fenced"
            self.zombies.remove(zombie)
        assert self.topics.producer_record("source.s") == before

    def is_through(self) -> bool:
        over = len(self.desk.orders) == ASKED and all(map(self.desk.is_over, self.desk.orders))
        if self.left or not over or self.connector is None or not self.connector.loaded or "c" not in self.db.tables:
            if not self.left and "c" not in self.db.tables:
                self.connector = None  # the last table has not been added yet
            return False
        position = self.connector.position
        head = max(t.at for t in self.db.log)
        return position is not None and set(position.tables) == set(self.db.tables) and (position.major, position.minor) >= head


def time_of(position: str) -> Time:
    major, _, minor = position.partition(".")
    return int(major, 16), int(minor, 16)


def check(world: World) -> None:
    db = world.db
    assert world.connector is not None and all(e["closed_at"] is not None for e in world.connector.lost)
    for table, schema in db.tables.items():
        rows: dict[int, dict[str, Any]] = {}
        last: dict[int, Time] = {}
        still: Counter[str] = Counter()
        told: dict[int, list[tuple[Time, str, dict[str, Any] | None]]] = defaultdict(list)
        offset = 0
        while batches := world.topics.read(f"s.{table}", offset, bytes_max=1 << 20):
            offset = world.topics.read_end(batches)
            for b in batches:
                for e in b.rows.to_pylist():
                    key = (e["after"] or e["before"])["id"]
                    at, chunk = (e["major"], e["minor"]), e["cause"] == "backfill" or is_schema_chunk(e)
                    assert at > last.get(key, (0, 0)), f"{table} {key}: version {at} after {last[key]}"
                    if chunk:
                        still[e["backfill"]] += key == STILL
                    else:
                        told[key].append((at, e["op"], e["after"]))
                        if e["op"] != "r" and key in rows and e["before"] is not None and not world.lost:
                            assert all(rows[key].get(name, value) == value for name, value in e["before"].items()), (
                                "before is not what was there"
                            )
                    last[key] = at
                    rows.pop(key, None)
                    if e["after"] is not None:
                        rows[key] = e["after"]
        asked = [o.name for o in world.desk.orders.values() if o.table == table and not o.reconcile]
        assert all(still[name] == 1 for name in asked), f"a backfill left out a row that nobody else told: {still}"
        filled = {
            k: {f.name: r.get(f.name, f.fill.text if isinstance(f.fill, Constant) else None) for f in schema.fields}
            for k, r in rows.items()
        }
        assert filled == {k[0]: r for k, r in db.rows(table).items()}, f"{table} differs"
        wanted = defaultdict(list)
        spans = [(after, upto) for (t, after), upto in world.lost.items() if t == table]
        for t in db.log:
            if t.table == table and t.at > world.began[table] and (t.before or t.after) and not within(spans, t.at):
                wanted[t.key[0]].append((t.at, "r" if t.again else "d" if t.after is None else "c" if t.before is None else "u", t.after))
        sure = {key: kept for key, all_told in told.items() if (kept := [e for e in all_told if not within(spans, e[0])])}
        assert sure == wanted, f"{table}: what was told is not each change once, in order"
        altered = [t for _, t, _ in db._altered if t == table]
        assert len(world.registry.versions(f"s.{table}-value")) <= 1 + len(altered), "a late event made a version"


def within(spans: list[tuple[Time, Time]], at: Time) -> bool:
    """Whether what happened then may be lost; some of it may have been told before."""
    return any(after < at <= upto for after, upto in spans)


def is_schema_chunk(event: dict[str, Any]) -> bool:
    """A row that a schema backfill read, not one that the feed told again: that one is named after a time."""
    return event["op"] == "r" and event["cause"] == "schema" and "." not in event["backfill"]


def played(seed: int, folder: Path, **more: Any) -> World:
    (folder / str(seed)).mkdir(exist_ok=True)
    world = World(seed, folder / str(seed), **more).run()
    check(world)
    return world


def test_each_version_once_and_none_missing(tmp_path: Path) -> None:
    worlds = [played(seed, tmp_path) for seed in range(SEEDS)]
    dropped: Counter[str] = Counter()
    for world in worlds:
        assert world.connector is not None and world.connector._producer is not None
        dropped.update(world.connector._producer.record.state["dropped"])
    assert dropped["repeats"] > 100 and dropped[NOTHING] > 10
    assert sum(sum(w.killed.values()) for w in worlds) > SEEDS


def test_what_is_lost_is_said_and_made_good(tmp_path: Path) -> None:
    worlds = [played(seed, tmp_path, forgets=0.5, crashes=0.03) for seed in range(100, 104)]
    assert sum(len(w.lost) for w in worlds) > 3


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_each_version_once_and_none_missing_in_many_worlds(tmp_path: Path) -> None:
    killed: Counter[str] = Counter()
    for seed in range(1000, 1120):
        killed += played(seed, tmp_path, left=150, crashes=0.01, forgets=0.0 if seed % 3 else 0.1).killed
    assert set(killed) == set(POINTS)


def no_admission(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FrontierAdmission, "admit", lambda self, topic, batch: batch)


def no_tail(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FrontierAdmission, "follow", lambda self, topics: iter(()))


def no_keys(patch: pytest.MonkeyPatch) -> None:
    """The frontier alone decides."""
    patch.setattr(FrontierAdmission, "admit", lambda self, topic, batch: batch.filter(self._above_frontier(topic, frontier._times(batch))))


def tail_too_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(frontier._Tail, "start", lambda self, at: None)


def no_look_back(patch: pytest.MonkeyPatch) -> None:
    """A chunk does not ask what was told above its read point before it was read."""
    patch.setattr(FrontierAdmission, "has", lambda self, topic, keys, read_point: frontier.np.zeros(len(keys), bool))


def look_only_above(patch: pytest.MonkeyPatch) -> None:
    """It does not ask what was told just there."""
    patch.setattr(Times, "reach", Times.above)


def just_there_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    move = KeyTimes.move
    patch.setattr(KeyTimes, "move", lambda self, at: move(self, (at[0], at[1] + 1)))


def two_backfills_at_one_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reading, "waiting", lambda self, backfills, at: set())


def frontier_too_far(patch: pytest.MonkeyPatch) -> None:
    """Every table is taken to be complete to where the furthest is."""
    committed = FrontierAdmission.committed

    def further(self: FrontierAdmission, position: Any) -> None:
        committed(self, type(position)(position.major, position.minor, {}, dict.fromkeys(position.tables, max(position.tables.values()))))

    patch.setattr(FrontierAdmission, "committed", further)


BROKEN = [
    no_admission,
    no_tail,
    no_keys,
    tail_too_late,
    no_look_back,
    look_only_above,
    just_there_is_forgotten,
    two_backfills_at_one_place,
    frontier_too_far,
]


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_it_is_seen_to_fail(broken: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with pytest.raises((AssertionError, Irrecoverable)):
        for seed in range(SEEDS):
            played(seed, tmp_path)
