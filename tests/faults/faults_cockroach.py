"""A world on CockroachDB: the stand-in as a process of its own, or a database of the cluster that MILLSTREAM_COCKROACH_URL names.

A mesh over two tables, the workload, the weather (feeds that break off, servers that drain, ranges that split, resolved times that do not
come), and the oracle's eyes on all of it. Weather is the stand-in's: a cluster is only asked to cancel what runs.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import faults_oracle as oracle
import psycopg
import pytest
from faults_cockroach_workload import TABLES, CockroachWorkload, changes
from faults_events import Change, Event, Row, row
from faults_files import Readings
from faults_project import Project, files, until
from psycopg.conninfo import make_conninfo

from millstream.testing.cockroach.process import CockroachProcess

URL = os.environ.get("MILLSTREAM_COCKROACH_URL", "")
CLUSTER = "cluster"
NOT_SHOWN = "MILLSTREAM_COCKROACH_URL names no cluster: nothing was shown on a real CockroachDB"
STANDIN_ALONE = "a cluster cannot be made to do this: shown on the stand-in alone"
PACE = "8"  # a resolved time comes about every 0.4 s, and lies as much behind
REPEATS, DISORDER = "0.35", "0.35"
GUSTS_EVERY_S = 0.8

RECENT = "SELECT id, rev, title, year, rating, changed FROM shop.public.movie WHERE year >= 2000 AND released"
DOCUMENT = """SELECT m.id, m.rev, m.title, m.year, m.rating, m.released, m.changed, m.studio_id, s.name AS studio, s.country
      FROM shop.public.movie m LEFT JOIN shop.public.studio s ON s.id = m.studio_id"""
RECENT_TOPIC, DOCUMENT_TOPIC = "recents.recent", "documents.document"
SOURCE = """\
source: shop
connector: cockroachdb
url: ${SHOP_URL}
chunk_bytes: 20000
tables: [public.movie, public.studio]
owner: team-shop
"""
FILES = files(RECENT, DOCUMENT, shop=SOURCE)


class Cockroach:
    """A database to work on: the stand-in's ("26.1", "22.1"), with what its command line takes, or the cluster's."""

    def __init__(self, kind: str, *arguments: str) -> None:
        self.kind, self._arguments = kind, arguments
        self._standin: CockroachProcess | None = None
        self.url = ""

    def __enter__(self) -> Cockroach:
        if self.is_cluster:
            self._database = f"millstream_{secrets.token_hex(4)}"
            with psycopg.connect(URL, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {self._database}".encode())
                connection.execute(b"SET CLUSTER SETTING kv.rangefeed.enabled = true")
            self.url = make_conninfo(URL, dbname=self._database)
        else:
            self._standin = CockroachProcess("--version", self.kind, *self._arguments).__enter__()
            self.url = self._standin.url
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._standin is not None:
            self._standin.__exit__(None, None, None)
        else:
            with psycopg.connect(URL, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {self._database} CASCADE".encode())

    @property
    def is_cluster(self) -> bool:
        return self.kind == CLUSTER

    def connect(self, _: str = "") -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True, prepare_threshold=None)

    def run(self, *statements: str) -> None:
        """Each in a transaction of its own."""
        with self.connect() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def answers(self) -> bool:
        with suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    def rows(self, table: str) -> dict[int, Row]:
        """A table by its `id`, as JSON has it."""
        with self.connect() as connection:
            cursor = connection.execute(f"SELECT * FROM {table}".encode())
            names = [c.name for c in cursor.description or ()]
            found = [row(dict(zip(names, r, strict=True))) or {} for r in cursor.fetchall()]
        return {r["id"]: r for r in found}

    def tell(self, line: str) -> Any:
        """A command to the stand-in's control socket."""
        if self._standin is None:
            pytest.skip(STANDIN_ALONE)
        return self._standin.tell(line)

    def feeds(self) -> int:
        """How many changefeeds run; on a cluster all of its own, so nothing else may have any there."""
        if self._standin is not None:
            return int(self.tell("feeds"))
        with self.connect() as connection:
            found = connection.execute(b"SELECT query FROM [SHOW CLUSTER QUERIES] WHERE query LIKE 'CREATE CHANGEFEED FOR TABLE%'")
            return len(found.fetchall())

    def changefeeds(self) -> int:
        """How many were asked for so far."""
        return int(self.tell("counts").get("changefeed", 0))


class Weather:
    """What goes wrong with the server, one thing after another, from `start` to `stop`. `gusts` counts what did."""

    def __init__(self, cockroach: Cockroach, seed: object) -> None:
        self._cockroach, self._rng = cockroach, random.Random(f"{seed} weather")
        self._stop, self._calm = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._blow, daemon=True)
        self._failure: BaseException | None = None
        self.gusts: Counter[str] = Counter()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def calm(self) -> Iterator[None]:
        with self._calm:
            yield

    def _blow(self) -> None:
        try:
            while not self._stop.wait(self._rng.expovariate(1 / GUSTS_EVERY_S)):
                with self._calm:
                    self._gust()
        except BaseException as error:
            self._failure = error

    def _gust(self) -> None:
        if self._cockroach.is_cluster:
            self.gusts["cancel"] += 1
            with suppress(psycopg.Error):
                self._cockroach.run(
                    "CANCEL QUERIES (SELECT query_id FROM [SHOW CLUSTER QUERIES] WHERE query LIKE 'CREATE CHANGEFEED FOR TABLE%')"
                )
            return
        what = self._rng.choice(("split movie", "split studio", "kill", "kill", "cancel", "drain 0.4", "hold_resolved"))
        self.gusts[what] += 1
        self._cockroach.tell(what)
        if what == "hold_resolved":
            self._stop.wait(self._rng.uniform(0.2, 2.0))
            self._cockroach.tell("hold_resolved off")


class CockroachWorld(Readings):
    """Enter it: the tables are made, the mesh is applied, the workload writes and the weather blows. Nothing of the mesh runs yet."""

    def __init__(
        self, kind: str, folder: Path, *, seed: object, pace_s: float = 0.02, rows_each: int = 12, settings: Mapping[str, str] | None = None
    ) -> None:
        standin = {"--pace": PACE, "--repeats": REPEATS, "--disorder": DISORDER, **(settings or {})}
        self.cockroach = Cockroach(kind, *(word for pair in standin.items() for word in pair))
        self._stack, self._folder = ExitStack(), folder
        self._seed, self._pace_s, self._rows_each = seed, pace_s, rows_each
        self._audit: list[tuple[str, Change]] = []
        self._surely_after: int | None = None
        self._columns = 0

    def __enter__(self) -> CockroachWorld:
        with ExitStack() as stack:
            stack.enter_context(self.cockroach)
            super().__init__(Project(self._folder, {"SHOP_URL": self.cockroach.url}, FILES))
            stack.callback(self.project.close)
            self.workload = CockroachWorkload(self.cockroach.connect, self._seed, pace_s=self._pace_s, rows_each=self._rows_each)
            self.workload.create()
            self.weather = Weather(self.cockroach, self._seed)
            stack.callback(self.workload.stop)
            stack.callback(self.weather.stop)
            self.project.command("apply")
            self.workload.start()
            self.weather.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    # ---- the truth

    def audit(self) -> list[tuple[str, Change]]:
        """All that was committed, key by key in its order, with the table's name. Only while nothing is open."""
        after = self._audit[-1][1].seq if self._audit else 0
        with self.cockroach.connect() as connection:
            self._audit += changes(connection, after)
        return self._audit

    def documents(self) -> dict[int, Row]:
        """`DOCUMENT`, by hand."""
        studios = self.table("studio")
        found = {}
        for key, movie in self.table("movie").items():
            studio = studios.get(movie["studio_id"], {})
            found[key] = {**movie, "studio": studio.get("name"), "country": studio.get("country")}
        return found

    def table(self, name: str) -> dict[int, Row]:
        return {key: _known(found, name) or {} for key, found in self.cockroach.rows(name).items()}

    def add_column(self) -> None:
        """One that nothing is ever written to: the next event has a new version of the schema."""
        self._columns += 1
        with self.weather.calm():
            until("no drain turns us away", self.cockroach.answers)
            self.cockroach.run(f"ALTER TABLE movie ADD COLUMN later{self._columns} INT8")

    # ---- the verdict

    def complaints(self) -> list[str]:
        """Everything that is not as it must be. Only while the workload is paused and all is caught up."""
        said: list[str] = []
        audit = self.audit()
        with self.topics() as topics:
            sources = {t: [_without_later(e, t) for e in self.events(topics, f"shop.public.{t}")] for t in TABLES}
            recents, documents = self.events(topics, RECENT_TOPIC), self.events(topics, DOCUMENT_TOPIC)
        for table, events in sources.items():
            wanted = [c for t, c in audit if t == table]
            said += oracle.source_topic(f"shop.public.{table}", events, wanted, self.table(table), self._surely_after)
        truth = self.documents()
        recent_truth = {key: made for key, movie in self.table("movie").items() if (made := recent_of(movie)) is not None}
        said += oracle.filtered_topic(RECENT_TOPIC, recents, sources["movie"], recent_of, recent_truth)
        said += oracle.joined_topic(DOCUMENT_TOPIC, documents, truth)
        said += oracle.written("recent.jsonl", recents, self.lines("recent.jsonl"))
        said += oracle.written("documents.jsonl", documents, self.lines("documents.jsonl"))
        said += oracle.rows("index", self.index(), truth)
        return said

    def check(self) -> None:
        """Bring everything up to date in calm weather and hold it against the truth.

        After the first time nothing that is written can be from before the first position.
        """
        with self.weather.calm(), self.workload.paused():
            self.project.catch_up()
            audit = self.audit()
            if self._surely_after is None:
                self._surely_after = audit[-1][1].seq
            self.judge(self.complaints())

    def told(self) -> dict[str, int]:
        """What the connector left out, by words, as its record says."""
        with self.topics() as topics:
            record = topics.producer_record("source.shop")
        assert record is not None
        return dict(record.state.get("dropped", {}))


def recent_of(movie: Row) -> Row | None:
    """`RECENT`, by hand."""
    matches = movie["released"] and movie["year"] is not None and movie["year"] >= 2000
    return {name: movie[name] for name in ("id", "rev", "title", "year", "rating", "changed")} if matches else None


def _known(image: Row | None, table: str) -> Row | None:
    """Without the columns that were added later: they must be null."""
    if image is None:
        return None
    assert all(value is None for name, value in image.items() if name not in TABLES[table]), image
    return {name: image[name] for name in TABLES[table]}


def _without_later(event: Event, table: str) -> Event:
    before, after = _known(event.before, table), _known(event.after, table)
    return Event(event.offset, event.op, event.key, event.version, before, after, event.cause)
