"""`read: source` on real servers: the same documents as from copies, never one older than what made it, and nothing lost while a
server is away."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from millstream.cli.app import call
from millstream.cli.mesh import Mesh
from millstream.cli.output import Secrets
from millstream.cli.run import as_applied
from millstream.engine.runner import PartStatus
from millstream.errors import Retryable
from millstream.testing.postgres_replica import PostgresReplica
from millstream.testing.postgres_server import PostgresServer
from millstream.wiring import Wiring

TABLES = (
    "CREATE TABLE person (id uuid PRIMARY KEY, name text, n int)",
    "CREATE TABLE place (country text, code numeric(6,2), name text, PRIMARY KEY (country, code))",
    "CREATE TABLE movie (id int PRIMARY KEY, title text, director uuid, country text, code numeric(6,2), sequel int)",
    *(f"ALTER TABLE {t} REPLICA IDENTITY FULL" for t in ("person", "place", "movie")),
    "CREATE INDEX ON movie (director)",
    "CREATE INDEX ON movie (country, code)",
    "CREATE INDEX ON movie (sequel)",
)
JOIN = """SELECT m.id, m.title, p.name AS director, p.n AS n, w.name AS place, s.title AS sequel, d.name AS next_director
    FROM {0}movie m LEFT JOIN {0}person p ON p.id = m.director LEFT JOIN {0}place w ON w.country = m.country AND w.code = m.code
    LEFT JOIN {0}movie s ON s.id = m.sequel LEFT JOIN {0}person d ON d.id = s.director"""
PEOPLE_SQL = """SELECT p.id, p.name, (SELECT list({title: m.title, place: w.name} ORDER BY m.id) FROM shop.public.movie m
    LEFT JOIN shop.public.place w ON w.country = m.country AND w.code = m.code WHERE m.director = p.id) AS films,
    (SELECT count(*) FROM shop.public.movie m WHERE m.director = p.id AND m.country = 'a') AS n
    FROM shop.public.person p WHERE NOT EXISTS (SELECT 1 FROM shop.public.movie x WHERE x.director = p.id AND x.sequel = 3)""".replace(
    "\n", " "
)
SQL = JOIN.format("shop.public.").replace("\n", " ")
PEOPLE = [f"00000000-0000-0000-0000-{i:012}" for i in range(5)]


class Studio:
    """A project on a server; `parts` are its connector and pipelines, to be stepped or run."""

    def __init__(
        self, folder: Path, server: PostgresServer, database: str, options: str = "", modes: tuple[str, ...] = ("source",)
    ) -> None:
        self.folder, self.server, self.database = folder, server, database
        for statement in TABLES:
            server.execute(statement, database)
        for name in ("sources", "pipelines"):
            (folder / name).mkdir(parents=True)
        (folder / "mesh.yaml").write_text("mesh: read_source\n")
        (folder / "sources/shop.yaml").write_text(
            "source: shop\nconnector: postgres\nurl: ${SHOP_URL}\nheartbeat_s: 0.5\nowner: team\n"
            f"tables: [public.movie, public.person, public.place]\nslot: ms_{database}\n{options}"
        )
        for mode in modes:
            (folder / f"pipelines/{mode}.yaml").write_text(
                f"pipeline: by_{mode}\nowner: team\nread: {mode}\nsteps:\n  - name: films\n    key: [id]\n    sql: {SQL}\n"
                f"  - name: people\n    key: [id]\n    sql: >-\n      {PEOPLE_SQL}\n"
            )
        self.env = os.environ | {"SHOP_URL": server.url(database)}

    def apply(self) -> None:
        there = Path.cwd()
        os.chdir(self.folder)
        try:
            assert call(["apply"], Wiring(self.env), Secrets()) == 0
        finally:
            os.chdir(there)

    def opened(self) -> Any:
        wiring = Wiring(self.env)
        return wiring.open(wiring.load(self.folder))

    def write(self, rng: random.Random, times: int) -> None:
        """Random transactions: rows come, change, move their references, go."""
        with self.server.connect(self.database) as con:
            for _ in range(times):
                with con.transaction():
                    for _ in range(rng.randint(1, 3)):
                        con.execute(random_statement(rng).encode())

    def truth(self) -> list[tuple[Any, ...]]:
        return sorted(self.server.execute(JOIN.format(""), self.database))


def random_statement(rng: random.Random) -> str:
    person, movie = rng.choice(PEOPLE), rng.randrange(12)
    country, code = rng.choice("ab"), rng.choice(["1.00", "2.50"])
    reference = rng.choice(["NULL", *(f"'{p}'" for p in PEOPLE)])
    sequel = rng.choice(["NULL", *map(str, range(12))])
    return rng.choice(
        [
            f"INSERT INTO movie VALUES ({movie}, 't{rng.random()}', {reference}, '{country}', {code}, {sequel}) "
            "ON CONFLICT (id) DO UPDATE SET title = excluded.title, director = excluded.director, sequel = excluded.sequel",
            f"UPDATE movie SET director = {reference}, country = '{country}', code = {code} WHERE id = {movie}",
            f"UPDATE movie SET id = {movie + 12} WHERE id = {movie} AND NOT EXISTS (SELECT 1 FROM movie WHERE id = {movie + 12})",
            f"DELETE FROM movie WHERE id IN ({movie}, {movie + 12})",
            f"INSERT INTO person VALUES ('{person}', 'n{rng.random()}', 0) ON CONFLICT (id) DO UPDATE SET name = excluded.name",
            f"DELETE FROM person WHERE id = '{person}'",
            f"INSERT INTO place VALUES ('{country}', {code}, 'w{rng.random()}') "
            "ON CONFLICT (country, code) DO UPDATE SET name = excluded.name",
            f"DELETE FROM place WHERE country = '{country}' AND code = {code}",
        ]
    )


def documents(mesh: Mesh, pipeline: str, step: str = "films") -> list[tuple[Any, ...]]:
    rows: dict[Any, tuple[Any, ...]] = {}
    for before, after, _ in events(mesh, f"{pipeline}.{step}"):
        if after is None:
            del rows[before["id"]]
        else:
            rows[after["id"]] = tuple(after.values())
    return sorted(rows.values())


def events(mesh: Mesh, topic: str) -> Iterator[tuple[Any, Any, int]]:
    """(before, after, commit time in microseconds) of each."""
    offset = 0
    while batches := mesh.topics.read(topic, offset, bytes_max=8 << 20):
        for b in batches:
            yield from zip(*(b.column(c).to_pylist() for c in ("before", "after", "ts_us")), strict=True)
        offset = mesh.topics.read_end(batches)


def untold(*said: Any) -> None:
    """Nobody listens."""


def caught_up(mesh: Mesh) -> list[PartStatus]:
    return mesh.runner(as_applied(mesh), untold, untold).run(until_caught_up=True)


@contextmanager
def running(mesh: Mesh, figures: Callable[[str, Mapping[str, Any]], None] = untold) -> Iterator[list[tuple[str, str, str]]]:
    """The mesh in a thread of its own while this lasts; gives what its parts say: (part, state, reason)."""
    told: list[tuple[str, str, str]] = []
    runner = mesh.runner(as_applied(mesh), lambda part, state, reason, cure: told.append((part, state, reason)), figures)
    thread = threading.Thread(target=runner.run)
    thread.start()
    try:
        yield told
    finally:
        runner.stop()
        thread.join()


def wait_for(what: Callable[[], object], within_s: float = 60.0) -> None:
    give_up = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < give_up, "it does not come"
        threading.Event().wait(0.05)


@pytest.mark.servers
def test_the_same_documents_as_from_copies(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    studio = Studio(tmp_path, postgres, database, modes=("source", "copies"))
    rng = random.Random(5)
    studio.write(rng, 40)
    studio.apply()
    with studio.opened() as mesh:
        caught_up(mesh)
        assert documents(mesh, "by_source") == documents(mesh, "by_copies") == studio.truth()
        with running(mesh):
            studio.write(rng, 300)
    with studio.opened() as mesh:  # and again from where it was
        studio.write(rng, 30)
        assert {p.state for p in caught_up(mesh)} == {"stopped"}
        assert documents(mesh, "by_source") == documents(mesh, "by_copies") == studio.truth()
        assert len(studio.truth()) > 3
        people = documents(mesh, "by_source", "people")
        assert people == documents(mesh, "by_copies", "people")
        assert any(films for _, _, films, _ in people), "some list holds something"


PRODUCT = """product: person
owner: team
read: source
root: {from: shop.public.person, key: [id]}
nest:
  films: {from: shop.public.movie, on: "movie.director = person.id", each: {title: movie.title, id: movie.id}, order: "movie.id"}
sink: {search: {index: person}}
"""


@pytest.mark.servers
def test_a_product_reads_at_its_source(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    studio = Studio(tmp_path, postgres, database, modes=())
    (studio.folder / "products").mkdir()
    (studio.folder / "products/person.yaml").write_text(PRODUCT)
    rng = random.Random(4)
    studio.write(rng, 60)
    studio.apply()
    with studio.opened() as mesh:
        caught_up(mesh)
        studio.write(rng, 40)
    with studio.opened() as mesh:
        caught_up(mesh)
        found: dict[str, tuple[Any, ...]] = {}
        for before, after, _ in events(mesh, "person@1.person"):
            found.pop((after or before)["id"], None)
            if after is not None:
                found[after["id"]] = (after["id"], after["name"], [f["title"] for f in after["films"]])
        films = "ARRAY(SELECT m.title FROM movie m WHERE m.director = p.id ORDER BY m.id)"
        truth = postgres.execute(f"SELECT p.id::text, p.name, {films} FROM person p", database)
        assert sorted(found.values()) == sorted(truth)
        assert any(titles for _, _, titles in truth)


def person_events(mesh: Mesh) -> list[tuple[int, int]]:
    """(commit time, n) of each change of the one person."""
    return [(ts, after["n"]) for _, after, ts in events(mesh, "shop.public.person")]


def never_older_than_its_trigger(mesh: Mesh) -> int:
    """Every document shows at least what the change that made it wrote. Returns how many were looked at."""
    written = person_events(mesh)
    looked = 0
    for _, after, ts in events(mesh, "by_source.films"):
        if after is not None:
            looked += 1
            least = max([n for at, n in written if at <= ts], default=0)
            assert after["n"] >= least, f"a document of {after['n']} for a change of {least}"
    return looked


@pytest.mark.servers
@pytest.mark.parametrize("lag", ["2s", pytest.param("10s", marks=pytest.mark.long)])
def test_a_replica_that_lags_never_makes_a_stale_document(tmp_path: Path, lag: str) -> None:
    with PostgresServer(durable=False) as primary:
        studio = Studio(tmp_path, primary, "postgres", options="read_url: ${REPLICA_URL}\nread_wait_ms: 50\n")
        primary.execute(f"INSERT INTO person VALUES ('{PEOPLE[0]}', 'first', 0)")
        primary.execute(f"INSERT INTO movie SELECT g, 'm' || g, '{PEOPLE[0]}', 'a', 1, NULL FROM generate_series(1, 20) g")
        with PostgresReplica(primary, lag=lag) as replica:
            studio.env["REPLICA_URL"] = replica.url()
            studio.apply()
            with studio.opened() as mesh:
                caught_up(mesh)
                behind = 0
                with running(mesh):
                    for n in range(1, 40):
                        primary.execute(f"UPDATE person SET n = {n}")
                        behind += replica.execute(f"SELECT count(*) FROM person WHERE n < {n}")[0][0]
                        threading.Event().wait(0.1)
                    wait_for(lambda: {d[3] for d in documents(mesh, "by_source")} == {39})
                assert behind > 10, "the replica did lag"
                assert never_older_than_its_trigger(mesh) > 20 * 5


@pytest.mark.servers
def test_with_the_primary_gone_it_waits_for_the_replica(tmp_path: Path) -> None:
    with PostgresServer(durable=False) as primary, PostgresReplica(primary, lag="4s") as replica:
        studio = Studio(tmp_path, primary, "postgres", options="read_url: ${REPLICA_URL}\nread_wait_ms: 50\n")
        studio.env["REPLICA_URL"] = replica.url()
        primary.execute(f"INSERT INTO person VALUES ('{PEOPLE[0]}', 'first', 0)")
        primary.execute(f"INSERT INTO movie VALUES (1, 'm', '{PEOPLE[0]}', 'a', 1, NULL)")
        studio.apply()
        with studio.opened() as mesh:
            caught_up(mesh)
            runner = mesh.runner(as_applied(mesh), untold, untold)
            (connector,), (pipeline,) = ([p.work for p in parts] for parts in (runner._connectors, runner._pipelines))
            connector.open()
            pipeline.open()
            primary.execute("UPDATE person SET n = 7")
            end = mesh.topics.end("shop.public.person")
            wait_for(lambda: (connector.step(), mesh.topics.end("shop.public.person") > end)[1])
            end_of_log = f"'{lsn(primary)}'::pg_lsn"
            wait_for(lambda: replica.execute(f"SELECT pg_last_wal_receive_lsn() >= {end_of_log}")[0][0])
            primary.kill()
            assert replica.execute(f"SELECT pg_last_wal_replay_lsn() < {end_of_log}") == [(True,)], "it is behind"
            refusals = []

            def goes_on() -> bool:
                try:
                    while pipeline.step():
                        continue
                    return documents(mesh, "by_source")[0][3] == 7
                except Retryable as error:
                    refusals.append(error.code)
                    pipeline.retry()
                    return False

            wait_for(goes_on)
            assert set(refusals) == {"replica_behind"}
            pipeline.close()
            connector.close()


def lsn(server: PostgresServer) -> str:
    return str(server.execute("SELECT pg_current_wal_flush_lsn()::text")[0][0])


@pytest.mark.servers
def test_a_server_that_goes_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    with PostgresServer(durable=True) as server:
        studio = Studio(tmp_path, server, "postgres", options="lookup_timeout_ms: 1000\n", modes=("source", "copies"))
        rng = random.Random(9)
        studio.write(rng, 60)
        studio.apply()
        with studio.opened() as mesh:
            caught_up(mesh)
            runner = mesh.runner(as_applied(mesh), untold, untold)
            connector = runner._connectors[0].work
            asked = next(p.work for p in runner._pipelines if p.work.plan.pipeline == "by_source")
            copied = next(p.work for p in runner._pipelines if p.work.plan.pipeline == "by_copies")
            for part in (connector, asked, copied):
                part.open()
            studio.write(rng, 40)
            before = studio.truth()
            head = mesh.topics.end("shop.public.movie")
            wait_for(lambda: (connector.step(), mesh.topics.end("shop.public.movie") > head)[1])
            server.kill()
            codes = [refused(asked) for _ in range(6)]
            assert codes == ["connection"] * 3 + ["source_resting"] * 3, "it is left alone after three"
            while copied.step():  # who keeps copies is not touched by it
                continue
            server.start()
            studio.env["SHOP_URL"] = server.url()
            connector.close()
            asked.close()
            copied.close()
            assert before == studio.truth()
        with studio.opened() as mesh:
            studio.write(rng, 10)
            caught_up(mesh)
            assert documents(mesh, "by_source") == documents(mesh, "by_copies") == studio.truth()


def refused(pipeline: Any) -> str:
    with pytest.raises(Retryable) as error:
        while True:
            pipeline.step()
    pipeline.retry()
    return error.value.code


@pytest.mark.servers
def test_status_says_why_a_pipeline_waits_while_others_run(tmp_path: Path) -> None:
    """Somebody holds a table's lock: queries of it take too long, and the source is left alone until it is given back."""
    with PostgresServer(durable=False) as server:
        studio = Studio(tmp_path, server, "postgres", options="lookup_timeout_ms: 300\n", modes=("source", "copies"))
        studio.write(random.Random(3), 60)
        studio.apply()
        resting: list[str] = []

        def told_of_sources(_: str, figures: Mapping[str, Any]) -> None:
            resting.extend(said for said in figures.get("sources", {}).values() if "next try" in said)

        with studio.opened() as mesh:
            caught_up(mesh)
            with running(mesh, told_of_sources) as told:
                with psycopg.connect(server.url(), autocommit=True) as other:
                    server.execute("INSERT INTO movie VALUES (50, 'before', NULL, 'a', 1, NULL)")
                    wait_for(lambda: any(d[0] == 50 for d in documents(mesh, "by_source")))
                    other.execute("BEGIN")
                    other.execute("LOCK TABLE place IN ACCESS EXCLUSIVE MODE")
                    server.execute("INSERT INTO movie SELECT g, 'late', NULL, 'a', 1, NULL FROM generate_series(100, 120) g")
                    wait_for(lambda: any("queries fail" in said for said in resting))
                    wait_for(lambda: any(d[0] == 120 for d in documents(mesh, "by_copies")))
                    assert not any(d[0] == 120 for d in documents(mesh, "by_source"))
                    other.execute("COMMIT")
                wait_for(lambda: documents(mesh, "by_source") == documents(mesh, "by_copies") == studio.truth())
        states = {(part, state) for part, state, _ in told}
        assert ("pipeline.by_source", "retrying") in states
        assert ("pipeline.by_copies", "retrying") not in states
