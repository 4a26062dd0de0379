"""Tables under backfills that people ask for, with steady writes beside them, and what must be true of topics and index afterwards."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
from faults_project import Project

from millstream.catalogue.store import Catalogue
from millstream.events.batch import batch
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.sinks.iceberg.read import current_rows
from millstream.sinks.iceberg.read import table as iceberg_table
from millstream.sinks.search.query import Question, search
from millstream.topics.local import LocalTopics

TOPIC, DERIVED, LAKE = "shop.public.item", "items.item", "lake.items"
LOST = range(-60, 0)  # keys of rows that the topic has and the table has not
FILES = {
    "mesh.yaml": "mesh: backfills\n",
    "sources/shop.yaml": """\
source: shop
connector: CONNECTOR
url: ${SHOP_URL}
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

    connector = "postgres\nslot: ${SHOP_SLOT}"

    def __init__(self, server: Any, folder: Path, rows: int, *, writes_per_s: float, chunk_bytes: int, lake: bool = False) -> None:
        """`lake`: the step goes into an Iceberg table too."""
        self.lake = lake
        self.server, self.name, self.rows, self.pace_s = server, f"backfills_{next(_worlds)}", rows, 1 / writes_per_s
        self._rev = rows
        server.create_database(self.name)
        self._make()
        settings = {"SHOP_URL": server.url(self.name), "SHOP_SLOT": self.name, "CHUNK_BYTES": str(chunk_bytes)}
        files = {path: text.replace("CONNECTOR", self.connector) for path, text in FILES.items()}
        files["pipelines/items.yaml"] += f"  - {{from: item, iceberg: {{table: {LAKE}}}}}\n" if lake else ""
        self.project = Project(folder, settings, files)
        self.seen_back: list[str] = []
        self._stop = threading.Event()
        self._failed: list[Exception] = []

    def _make(self) -> None:
        with self.server.connect(self.name) as connection:
            connection.execute("CREATE TABLE item (id bigint PRIMARY KEY, rev bigint, kind text, note text)")
            connection.execute("ALTER TABLE item REPLICA IDENTITY FULL")
            connection.execute(
                "INSERT INTO item SELECT g, g, 'k' || g %% 10, 'note ' || g FROM generate_series(1, %s::bigint) g", [self.rows]
            )
            connection.execute("ANALYZE item")

    def _drop(self) -> None:
        with self.server.connect() as connection:
            connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [self.name])
            connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [self.name])
            connection.execute(f'DROP DATABASE "{self.name}"'.encode())

    def close(self) -> None:
        self.project.close()
        self._drop()

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
                    self._rev += 1
                    connection.execute(
                        "INSERT INTO item (id, rev, kind, note) VALUES (%s, %s, %s, 'written') ON CONFLICT (id) DO UPDATE"
                        " SET rev = excluded.rev, kind = excluded.kind, note = 'changed'",
                        [key, self._rev, f"k{rng.randrange(10)}"],
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

    def view(self) -> dict[int, int]:
        """The rows of the Iceberg table as they are now, as `table` has them."""
        rows = current_rows(iceberg_table(self.project.state, LAKE).scan().to_arrow(), ["id"])
        return {r["id"]: hash((r["rev"], r["kind"], r["note"])) for r in rows.to_pylist()}

    def check(self, names: set[str], scans: Collection[str] = ()) -> dict[str, Counter[str]]:
        """Everything that was promised; for each backfill how many reads and deletes it told. Only when all is caught up. `scans`:
        backfills that begin again, and tell each row once each time."""
        assert not self.seen_back, f"documents went back: {self.seen_back[:5]}"
        table, said = self.table(), {name: Counter[str]() for name in names}
        for topic in (TOPIC, DERIVED):
            rows: dict[int, int] = {}
            versions: dict[int, tuple[int, int]] = {}
            revs: dict[int, int] = {}
            reads: dict[tuple[str, Any], set[int]] = {}
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
                mine = reads.setdefault((backfill, e.version if backfill in scans else None), set())
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
        if self.lake:
            assert self.view() == table, "the Iceberg table differs from the table"
        return said


class CockroachWorld(World):
    """The same over the stand-in for CockroachDB."""

    connector = "cockroachdb"

    def _make(self) -> None:
        with self.server.connect(self.name) as connection:
            connection.execute("CREATE TABLE item (id INT8 PRIMARY KEY, rev INT8, kind STRING, note STRING)")
            for low in range(1, self.rows + 1, 10_000):
                connection.execute(
                    "INSERT INTO item SELECT g, g, 'k' || (g % 10)::STRING, 'note ' || g::STRING "
                    f"FROM generate_series({low}, {min(low + 9_999, self.rows)}) AS s(g)".encode()
                )

    def _drop(self) -> None:
        self.server.drop_database(self.name)


def over(world: World, *names: str) -> bool:
    told = world.told()
    return all(told[name].state == "done" for name in names)
