"""One document from ten tables in three databases, under random writes and SIGKILLs: every document is what Postgres computes."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import faults_product as films
import psycopg
import pytest
from faults_points import points
from faults_project import Project, until

from millstream.errors import Refused
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.sinks.search.query import search
from millstream.testing.postgres_server import PostgresServer
from millstream.topics.local import LocalTopics

pytestmark = [pytest.mark.faults, pytest.mark.servers]

_numbers = count(1)


class Films:
    """The three databases, their writers and a project over them. Nothing of it runs yet."""

    def __init__(self, server: PostgresServer, folder: Path, seed: object, pace_s: float) -> None:
        self._server = server
        number = next(_numbers)
        self.databases = {name: f"films_{number}_{name}" for name in films.TABLES}
        for database in self.databases.values():
            server.create_database(database)
        films.create(self.connect)
        films.link(self.connect)
        settings = {f"{name.upper()}_URL": server.url(database) for name, database in self.databases.items()}
        settings |= {f"{name.upper()}_SLOT": database for name, database in self.databases.items()}
        self.project = Project(folder, settings, films.FILES)
        self.writers = films.Writers(self.connect, seed, pace_s)
        self.project.command("apply")
        self.asked = 4

    def search_otherwise(self, number: int) -> None:
        """Give every saved search another query."""
        self.asked = number
        (self.project.folder / "searches" / "film.yaml").write_text(films.searches(number))

    def connect(self, name: str) -> psycopg.Connection[Any]:
        return self._server.connect(self.databases[name])

    def documents(self) -> dict[int, films.Document]:
        """Every document of the index, without its stamp, as its search gives it."""
        try:
            hits = search(self.project.state, "film", "*", 10_000).hits
        except Refused as error:  # the first generation is not built yet
            assert error.code == "unknown_index", error
            return {}
        found = [json.loads(json.dumps(h.document), parse_float=Decimal) for h in hits]
        assert all(json.loads(d.pop("_seen")).keys() == films.TABLES.keys() for d in found), "a document does not say what it saw"
        # A decimal is exact text there; Postgres writes it as a number.
        return {d["id"]: d | {"rating": None if d["rating"] is None else Decimal(d["rating"])} for d in found}

    def check(self) -> None:
        """Bring everything up to date and hold every document against Postgres."""
        with self.writers.paused():
            self.project.catch_up()
            self.verdict()

    def verdict(self) -> None:
        wanted, found = films.truth(self.connect), self.documents()
        differing = [k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k)]
        shown = "\n".join(f"{k}:\n  wanted {wanted.get(k)}\n  found  {found.get(k)}" for k in sorted(differing)[:3])
        assert not differing, f"{len(differing)} of {len(wanted)} documents differ:\n{shown}"
        assert wanted, "there is nothing to compare"
        said = self.matches()
        for name, query in films.SEARCHES.items():
            hits = search(self.project.state, "film", query.format(n=self.asked), 10_000).hits
            assert said.get(name, set()) == {h.document["id"] for h in hits}, name

    def matches(self) -> dict[str, set[int]]:
        """Saved search → the documents that its topic says it matches."""
        engine = sqlite_engine(self.project.state / "mesh.db")
        topics = LocalTopics(self.project.state / "topics.db", SqlRegistry(engine))
        found: dict[str, set[int]] = {}
        offset = 0
        while batches := topics.read("film.matches", offset, bytes_max=8 << 20):
            offset = topics.read_end(batches)
            for b in batches:
                for key, op in zip(b.keys().to_pylist(), b.column("op").to_pylist(), strict=True):
                    documents = found.setdefault(key["search"], set())
                    assert (key["id"] in documents) == (op != "c"), f"{op} of {key}, which {'matches' if op == 'c' else 'does not match'}"
                    (documents.discard if op == "d" else documents.add)(key["id"])
        topics.close()
        engine.dispose()
        return found

    def close(self) -> None:
        self.project.close()
        self.writers.stop()
        for database in self.databases.values():
            with self._server.connect() as connection:
                connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [database])
                connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [database])
                connection.execute(f'DROP DATABASE "{database}" WITH (FORCE)'.encode())


@pytest.fixture
def world(faults_server: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Films]:
    made = Films(faults_server, tmp_path, request.node.name, pace_s=0.03)
    yield made
    made.close()


def kill_now_and_then(world: Films, seconds: float, rng: random.Random) -> int:
    """Runs and kills until the time is over, checking now and then. Returns how often it was killed."""
    deadline, kills = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        with world.project.running() as process:
            threading.Event().wait(rng.uniform(1.0, 8.0))  # not to await anything: to hit any moment
            assert process.running, f"it ended by itself:\n{process.words[-3000:]}"
            process.signal(signal.SIGKILL)
        kills += 1
        if kills % 4 == 0:
            world.check()
    return kills


def test_every_document_equals_the_join_that_postgres_computes(world: Films) -> None:
    assert kill_now_and_then(world, 25, random.Random("short"))
    world.check()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_minutes_of_random_writes_with_kills(world: Films) -> None:
    assert kill_now_and_then(world, 600, random.Random("long"))
    world.check()


@pytest.mark.timeout(900)
def test_killed_wherever_matches_of_saved_searches_are_said(world: Films) -> None:
    """Each search is changed before each kill, so that it is compared anew, and documents change meanwhile."""
    world.check()
    moments = [p for p in points() if p.startswith("matches.")]
    assert moments
    for number, point in enumerate(moments):
        world.search_otherwise(number % 4 + 1)
        process = world.project.start("run", fault=f"{point}:1:KILL")
        assert process.wait(120) == -signal.SIGKILL, f"{point} was not reached:\n{process.words[-3000:]}"
        world.check()


@pytest.mark.parametrize("pairs", [pytest.param(60, id="sixty"), pytest.param(1_000, marks=pytest.mark.long, id="thousand")])
def test_a_row_that_moves_to_a_parent_which_changes_then_is_never_stale(world: Films, pairs: int) -> None:
    """A film gets another director, and that director another name up to a second later. What finds the documents to refresh in an
    index that does not show the move yet loses the second change in silence."""
    world.writers.stop()
    with world.connect("films") as c:
        c.execute("DELETE FROM movie")
        c.execute(f"INSERT INTO movie SELECT i, 'Film', 2000, 1, NULL, NULL FROM generate_series(1, {pairs}) i".encode())
    with world.connect("people") as c:
        c.execute("DELETE FROM person")
        c.execute(f"INSERT INTO person SELECT i, 'before', 1950, NULL FROM generate_series(1, {pairs}) i".encode())
    rng = random.Random("moves")
    moves = sorted((rng.uniform(0, pairs / 40), i) for i in range(1, pairs + 1))
    todo = sorted([(at, i, "move") for at, i in moves] + [(at + (n % 11) / 10, i, "name") for n, (at, i) in enumerate(moves)])
    with world.project.running():
        until("all films in the index", lambda: len(world.documents()) == pairs)
        with world.connect("films") as movies, world.connect("people") as people:
            begin = time.monotonic()
            for at, number, what in todo:
                threading.Event().wait(max(0.0, begin + at - time.monotonic()))  # the delay is the case
                if what == "move":
                    movies.execute("UPDATE movie SET director_id = %s WHERE id = %s", [number, number])
                else:
                    people.execute("UPDATE person SET name = 'after' WHERE id = %s", [number])
        until("all in the index", lambda: all(d["director"] for d in world.documents().values()))
    world.check()
    assert all(d["director"]["name"] == "after" for d in world.documents().values())
