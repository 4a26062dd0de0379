"""Backfills that people ask for, under steady writes and SIGKILLs: no newer value is ever replaced, in the topic or in the index; every row
of theirs is marked, none comes twice; what the database has not any more is gone; all converges to the table."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
import pytest
from faults_project import Project, until

from millstream.capture.backfill import Order
from millstream.catalogue.store import Catalogue
from millstream.events.batch import batch
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.sinks.search.query import Question, search
from millstream.sources.contract import Scope
from millstream.testing.postgres_server import PostgresServer
from millstream.topics.local import LocalTopics

pytestmark = [pytest.mark.faults, pytest.mark.servers]

TOPIC, DERIVED = "shop.public.item", "items.item"
LOST = range(-60, 0)  # keys of rows that the topic has and the table has not
FILES = {
    "mesh.yaml": "mesh: backfills\n",
    "sources/shop.yaml": """\
source: shop
connector: postgres
url: ${SHOP_URL}
slot: ${SHOP_SLOT}
chunk_bytes: ${CHUNK_BYTES}
tables: [public.item]
owner: team-shop
""",
    "pipelines/items.yaml": """\
pipeline: items
owner: team-shop
steps:
  - name: item
    sql: SELECT id, rev, kind, note FROM shop.public.item
sinks:
  - {from: item, search: {index: items}}
""",
}
_worlds = count(1)


class Event(NamedTuple):
    """`image`: rev, kind and note after it, where the row `stays`; `marks`: op, backfill, cause, snapshot."""

    key: int
    image: tuple[Any, ...]
    stays: bool
    version: tuple[int, int]
    marks: tuple[Any, ...]


class World:
    """A table, its topic, a step and an index; a writer beside them. Every write gives its row a higher `rev`, inserted again too."""

    def __init__(self, server: PostgresServer, folder: Path, rows: int, *, writes_per_s: float, chunk_bytes: int) -> None:
        self.server, self.name, self.rows, self.pace_s = server, f"backfills_{next(_worlds)}", rows, 1 / writes_per_s
        server.create_database(self.name)
        with server.connect(self.name) as connection:
            connection.execute("CREATE SEQUENCE revs")
            connection.execute("CREATE TABLE item (id bigint PRIMARY KEY, rev bigint DEFAULT nextval('revs'), kind text, note text)")
            connection.execute("ALTER TABLE item REPLICA IDENTITY FULL")
            connection.execute(
                "INSERT INTO item (id, kind, note) SELECT g, 'k' || g %% 10, 'note ' || g FROM generate_series(1, %s::bigint) g", [rows]
            )
            connection.execute("ANALYZE item")
        settings = {"SHOP_URL": server.url(self.name), "SHOP_SLOT": self.name, "CHUNK_BYTES": str(chunk_bytes)}
        self.project = Project(folder, settings, FILES)
        self.seen_back: list[str] = []
        self._stop = threading.Event()
        self._failed: list[Exception] = []

    def close(self) -> None:
        self.project.close()
        with self.server.connect() as connection:
            connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [self.name])
            connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [self.name])
            connection.execute(f'DROP DATABASE "{self.name}"'.encode())

    # ---- what goes on beside it

    @contextmanager
    def beside(self, seed: str) -> Iterator[None]:
        """Steady writes, and a look at the index that sees whether a document ever goes back."""
        self._stop.clear()
        threads = [threading.Thread(target=self._guarded, args=(work, seed)) for work in (self._write, self._watch)]
        for t in threads:
            t.start()
        try:
            yield
        finally:
            self._stop.set()
            for t in threads:
                t.join()
        if self._failed:
            raise self._failed[0]

    def _guarded(self, work: Any, seed: str) -> None:
        try:
            work(random.Random(seed))
        except Exception as e:
            self._failed.append(e)

    def _write(self, rng: random.Random) -> None:
        due = time.monotonic()
        with self.server.connect(self.name) as connection:
            while not self._stop.is_set():
                # Half of the writes meet few keys: a chunk and a write meet there often.
                key = rng.randrange(1, 40) if rng.random() < 0.5 else rng.randrange(1, self.rows * 11 // 10)
                if rng.random() < 0.15:
                    connection.execute("DELETE FROM item WHERE id = %s", [key])
                else:
                    connection.execute(
                        "INSERT INTO item (id, kind, note) VALUES (%s, %s, 'written') ON CONFLICT (id) DO UPDATE"
                        " SET rev = nextval('revs'), kind = excluded.kind, note = 'changed'",
                        [key, f"k{rng.randrange(10)}"],
                    )
                due = max(due + self.pace_s, time.monotonic() - 1)
                self._stop.wait(max(0.0, due - time.monotonic()))

    def _watch(self, rng: random.Random) -> None:
        revs: dict[int, int] = {}
        while not self._stop.is_set():
            for hit in search(self.project.state, "items", Question("note:changed OR note:written", limit=200)).hits:
                key, rev = int(hit.document["id"]), int(hit.document["rev"])
                if rev < revs.get(key, 0):
                    self.seen_back.append(f"{key}: {rev} after {revs[key]}")
                revs[key] = rev
            self._stop.wait(0.1)

    # ---- what is asked, and what is there

    @contextmanager
    def topics(self) -> Iterator[LocalTopics]:
        engine = sqlite_engine(self.project.state / "mesh.db")
        topics = LocalTopics(self.project.state / "topics.db", SqlRegistry(engine))
        try:
            yield topics
        finally:
            topics.close()
            engine.dispose()

    @contextmanager
    def catalogue(self) -> Iterator[Catalogue]:
        engine = sqlite_engine(self.project.state / "mesh.db")
        yield Catalogue(engine)
        engine.dispose()

    def told(self) -> dict[str, Any]:
        with self.catalogue() as catalogue:
            return {o.order.name: o.told for o in catalogue.backfills.everything()}

    def fresh(self) -> tuple[float, float] | None:
        """How old events of the last minute were when they could be searched for: half and 99 of 100 at most (milliseconds)."""
        with self.catalogue() as catalogue:
            figures = next((f for part, f in catalogue.figures().items() if part.startswith("sink.items")), {})
        return (figures["freshness_p50_ms"], figures["freshness_p99_ms"]) if "freshness_p50_ms" in figures else None

    def chunks(self, name: str) -> int:
        """How many of a backfill are in the connector's record."""
        with self.topics() as topics:
            record = topics.producer_record("source.shop")
        return next((b["chunks"] for b in record.state["backfills"].values() if b["name"] == name), 0) if record else 0

    def lose_deletes(self) -> None:
        """The topic as it is where deletes never came: it has rows that the table has not."""
        with self.topics() as topics:
            record = topics.producer_record("source.shop")
            assert record is not None
            made = batch(
                TOPIC,
                topics.read(TOPIC, 0, bytes_max=1)[0].schema,
                {
                    "op": ["c"] * len(LOST),
                    "after": [{"id": key, "rev": 0, "kind": "k3", "note": "lost"} for key in LOST],
                    "incarnation": [1] * len(LOST),
                    "major": [record.state["position"]["major"]] * len(LOST),
                    "minor": [record.state["position"]["minor"]] * len(LOST),
                    "ts_us": [1] * len(LOST),
                    "position": [""] * len(LOST),
                },
                record.state["schemas"][TOPIC],
            )
            rogue = topics.open_producer("rogue")
            rogue.commit([topics.encode(made)], {}, sequence=rogue.record.sequence + 1)

    def events(self, topic: str) -> Iterator[Event]:
        with self.topics() as topics:
            offset = 0
            while found := topics.read(topic, offset, bytes_max=8 << 20):
                offset = topics.read_end(found)
                for b in found:
                    after, keys = b.column("after"), b.keys().field(0).to_pylist()
                    images = zip(*(pc.struct_field(after, name).to_pylist() for name in ("rev", "kind", "note")), strict=True)
                    versions = zip(b.column("major").to_pylist(), b.column("minor").to_pylist(), strict=True)
                    marks = zip(*(b.column(name).to_pylist() for name in ("op", "backfill", "cause", "snapshot")), strict=True)
                    yield from map(Event, keys, images, after.is_valid().to_pylist(), versions, marks)

    def table(self) -> dict[int, int]:
        """A row's key → what comes of its values."""
        found = self.server.execute("SELECT id, rev, kind, note FROM item", self.name)
        return {r[0]: hash((r[1], r[2], r[3])) for r in found}

    def check(self, names: set[str]) -> dict[str, Counter[str]]:
        """Everything that was promised; for each backfill how many reads and deletes it told. Only when all is caught up."""
        assert not self.seen_back, f"documents went back: {self.seen_back[:5]}"
        table, said = self.table(), {name: Counter[str]() for name in names}
        for topic in (TOPIC, DERIVED):
            rows: dict[int, int] = {}
            versions: dict[int, tuple[int, int]] = {}
            revs: dict[int, int] = {}
            reads: dict[str, set[int]] = {}
            for e in self.events(topic):
                assert e.version > versions.get(e.key, (0, -1)), f"{topic} {e.key}: {e.version} does not rise above {versions[e.key]}"
                versions[e.key] = e.version
                if not e.stays:
                    rows.pop(e.key, None)
                else:
                    rows[e.key] = hash(e.image)
                    assert e.image[0] >= revs.get(e.key, 0), f"{topic} {e.key}: an older value replaced a newer one"
                    revs[e.key] = e.image[0]
                op, backfill, cause, snapshot = e.marks
                if backfill is None or topic == DERIVED:
                    continue
                if backfill != "initial":
                    assert (op in "rd", cause, snapshot) == (True, "backfill", "incremental")
                    said[backfill][op] += 1
                mine = reads.setdefault(backfill, set())
                assert e.key not in mine, f"{e.key} came twice in {backfill}"
                mine.add(e.key)
            assert rows == table, f"{topic} differs from the table"
        answer = search(self.project.state, "items", Question("note:note OR note:changed OR note:written OR note:lost", limit=1))
        assert answer.total == len(table)
        some = random.Random(1).sample(sorted(table), min(200, len(table)))
        for key in [*some, *range(1, 40)]:
            hits = search(self.project.state, "items", Question(f"id:{key}", limit=5)).hits
            found = [hash((h.document["rev"], h.document["kind"], h.document["note"])) for h in hits if h.document["id"] == key]
            assert found == ([table[key]] if key in table else []), key
        return said


@pytest.fixture
def worlds(faults_server: PostgresServer, tmp_path: Path) -> Iterator[Any]:
    made: list[World] = []

    def make(rows: int, **settings: Any) -> World:
        made.append(World(faults_server, tmp_path, rows, **settings))
        return made[-1]

    yield make
    for world in made:
        world.close()


def over(world: World, *names: str) -> bool:
    told = world.told()
    return all(told[name].state == "done" for name in names)


def test_of_all_kinds_under_writes_and_kills(worlds: Any) -> None:
    """All rows, keys and a condition at once, one of them paused and throttled on the way; the process is killed; then the topic is
    compared with the table."""
    world = worlds(1_000, writes_per_s=60, chunk_bytes=12_000)
    project, rng = world.project, random.Random("all kinds")
    project.command("apply")
    project.catch_up()
    world.lose_deletes()
    keys = [*range(1, 300), 99_999]
    (project.folder / "keys.txt").write_text("\n".join(map(str, keys)))
    with world.beside("all kinds"):
        project.command("backfill", "start", "shop", "public.item", "--name", "listed", "--keys", "@keys.txt", "--throttle", "100")
        with world.catalogue() as catalogue:
            catalogue.backfills.ask(Order("every", "shop", "public.item", estimate=1_000, throttle=300))
            catalogue.backfills.ask(Order("third", "shop", "public.item", Scope(where="kind = 'k3' AND rev > 0"), wanted="pause"))
        for _ in range(2):
            read = world.told()["every"].read
            with project.running() as process:
                until("it reads on", lambda read=read: world.told()["every"].read > read or over(world, "every"), 60)
                threading.Event().wait(rng.uniform(0.0, 1.0))  # not to await anything: to hit any moment
                process.signal(signal.SIGKILL)
        assert search(project.state, "items", Question("note:lost", limit=1)).total == len(LOST)
        assert world.told()["third"].read == 0, "it is paused"
        with project.running(), world.catalogue() as catalogue:
            catalogue.backfills.want("third", "run")
            catalogue.backfills.throttle("listed", None)
            until("all are read", lambda: over(world, "every", "listed", "third"), 90)
            lost = Scope(where="kind = 'k3' AND id < -40")
            catalogue.backfills.ask(Order("some", "shop", "public.item", lost, reconcile=True))
            until("a part is compared", lambda: over(world, "some"), 60)
            catalogue.backfills.ask(Order("compared", "shop", "public.item", reconcile=True, throttle=1_000))
            until("it compares", lambda: world.told()["compared"].read > 0, 60)
        with project.running():
            until("all is compared", lambda: over(world, "compared"), 90)
    project.catch_up()
    said = world.check({"every", "listed", "third", "some", "compared"})
    assert said["every"]["r"] > 700
    assert 200 < said["listed"]["r"] <= 300
    assert said["third"]["r"] > 40
    assert said["some"]["d"] == 20, "those of the condition alone"
    assert said["compared"]["d"] == len(LOST) - 20
    assert said["compared"]["r"] + said["some"]["r"] == 0, "what the topic has as it is needs no event"
    assert said["every"]["d"] + said["listed"]["d"] + said["third"]["d"] == 0


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["plain", "reconcile"])
def test_two_million_rows_under_five_hundred_writes_a_second(worlds: Any, kind: str) -> None:
    """Killed five times. Prints the live latency, from commit to searchable, with and without the backfill; it is no promise."""
    world = worlds(2_000_000, writes_per_s=500, chunk_bytes=1 << 20)
    project, rng = world.project, random.Random("two million")
    project.command("apply")
    project.start("run", "--until-caught-up").wait(1800)
    if kind == "reconcile":
        world.lose_deletes()
    with world.beside("two million"):
        with project.running():
            until("the writes are followed", lambda: world.fresh() is not None, 120)
            threading.Event().wait(60)  # the figures are of the last minute
            without = world.fresh()
        project.command("backfill", "start", "shop", "public.item", "--name", kind, *(["--reconcile"] if kind == "reconcile" else []))
        for _ in range(5):
            chunks = world.chunks(kind)
            with project.running() as process:
                until("it reads on", lambda chunks=chunks: world.chunks(kind) > chunks, 300)
                threading.Event().wait(rng.uniform(0.0, 4.0))  # not to await anything: to hit any moment
                assert not over(world, kind)
                process.signal(signal.SIGKILL)
        began, beside = time.monotonic(), []
        with project.running():
            while not over(world, kind):
                threading.Event().wait(1.0)
                beside += [f] if (f := world.fresh()) is not None else []
                assert time.monotonic() - began < 1800
            took = time.monotonic() - began
    project.start("run", "--until-caught-up").wait(1800)
    said = world.check({kind})
    told = world.told()[kind]
    print(f"\n{kind}: {told.read:,} rows read, {said[kind]}; after the last kill it took {took:.0f} s")
    print(f"live latency (ms p50, p99) without: {without}; with, at the end: {beside[-1:]}, at worst: {max(beside, key=lambda f: f[1])}")
    assert told.gone == (len(LOST) if kind == "reconcile" else 0)
