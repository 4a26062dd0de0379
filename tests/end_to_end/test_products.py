"""A product over tables of two databases on a real PostgreSQL: its documents are what Postgres itself makes of the rows, and a change,
wherever in the tree, writes exactly the documents that it touches.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from millstream.cli.app import call
from millstream.cli.output import Secrets
from millstream.testing.postgres_server import PostgresServer
from millstream.wiring import Wiring

pytestmark = pytest.mark.servers

SOURCES = """\
source: studio
connector: postgres
url: ${STUDIO_URL}
slot: %(studio)s
publication: %(studio)s
tables: [public.movie, public.credit, public.movie_genre, public.genre]
owner: team-studio
---
source: hr
connector: postgres
url: ${HR_URL}
slot: %(hr)s
publication: %(hr)s
tables: [public.person, public.agency]
owner: team-hr
"""
PRODUCT = """\
product: movie
owner: team-catalogue
root:
  from: studio.public.movie
  fields: [id, title, decade: floor(year / 10) * 10]
  where: hidden = 0
nest:
  director: {from: hr.public.person, on: person.id = movie.director_id, one: [name]}
  writer: {from: hr.public.person, as: writer, on: writer.id = movie.writer_id, one: writer.name}
  cast:
    from: studio.public.credit
    on: credit.movie_id = movie.id
    where: credit.role <> 'extra'
    join: {person: {from: hr.public.person, on: person.id = credit.person_id}}
    each: {name: person.name, role: credit.role}
    order: credit.position
    limit: 4
    nest:
      agency: {from: hr.public.agency, on: agency.id = person.agency_id, one: {name: agency.name}}
  genres:
    from: studio.public.movie_genre
    on: movie_genre.movie_id = movie.id
    join: {genre: {from: studio.public.genre, on: genre.id = movie_genre.genre_id}}
    each: genre.name
    order: genre.name
  extras: {from: studio.public.credit, on: credit.movie_id = movie.id, where: role = 'extra', value: count(*)}
sink: {search: {}}
"""
TRUTH = """
SELECT m.id, m.title, floor(m.year / 10) * 10 AS decade,
  CASE WHEN d.id IS NULL THEN NULL ELSE json_build_object('name', d.name) END AS director, w.name AS writer,
  coalesce((SELECT json_agg(i.item ORDER BY i.position, i.id) FROM (
    SELECT c.position, c.id, json_build_object('name', p.name, 'role', c.role,
        'agency', CASE WHEN a.id IS NULL THEN NULL ELSE json_build_object('name', a.name) END) AS item
    FROM credit c LEFT JOIN person p ON p.id = c.person_id LEFT JOIN agency a ON a.id = p.agency_id
    WHERE c.movie_id = m.id AND c.role <> 'extra' ORDER BY c.position, c.id LIMIT 4) i), '[]') AS "cast",
  coalesce((SELECT json_agg(g.name ORDER BY g.name COLLATE "C", mg.genre_id)
    FROM movie_genre mg LEFT JOIN genre g ON g.id = mg.genre_id WHERE mg.movie_id = m.id), '[]') AS genres,
  (SELECT count(*) FROM credit c WHERE c.movie_id = m.id AND c.role = 'extra') AS extras
FROM movie m LEFT JOIN person d ON d.id = m.director_id LEFT JOIN person w ON w.id = m.writer_id
WHERE m.hidden = 0
"""
STUDIO = (
    "CREATE TABLE movie (id bigint PRIMARY KEY, title text, year int, director_id int, writer_id int, hidden int NOT NULL, note text)",
    "CREATE TABLE credit (id int PRIMARY KEY, movie_id bigint, person_id int, role text NOT NULL, position int, note text)",
    "CREATE TABLE genre (id int PRIMARY KEY, name text NOT NULL)",
    "CREATE TABLE movie_genre (movie_id bigint, genre_id int, PRIMARY KEY (movie_id, genre_id))",
    "INSERT INTO movie SELECT n, 'Movie ' || n, 1950 + n, n % 9, n % 5, n % 10 / 9 FROM generate_series(1, 60) n",
    "INSERT INTO credit SELECT n, 1 + n % 60, n % 11, (ARRAY['lead','voice','extra'])[1 + n % 7 / 3], n % 4 FROM generate_series(1, 300) n",
    "INSERT INTO genre SELECT n, 'Genre ' || n FROM generate_series(1, 6) n",
    "INSERT INTO movie_genre SELECT m, g FROM generate_series(1, 60) m, generate_series(1, 6) g WHERE (m * g) % 5 = 1",
)
HR = (
    "CREATE TABLE person (id int PRIMARY KEY, name text, agency_id int, note text)",
    "CREATE TABLE agency (id int PRIMARY KEY, name text)",
    "INSERT INTO person SELECT n, 'Person ' || n, n % 4 FROM generate_series(1, 10) n",
    "INSERT INTO agency SELECT n, 'Agency ' || n FROM generate_series(1, 3) n",
)

Documents = dict[int, dict[str, Any]]


class Studio:
    """Two databases, the product over them, and the command line in this process."""

    def __init__(self, server: PostgresServer, folder: Path, names: dict[str, str], capture: pytest.CaptureFixture[str]) -> None:
        self.server, self.folder, self.names, self._capture = server, folder, names, capture
        self._wiring = Wiring({f"{name.upper()}_URL": server.url(database) for name, database in names.items()})
        for name, statements in (("studio", STUDIO), ("hr", HR)):
            self.execute(name, *statements)
        self.write("mesh.yaml", "mesh: demo\n")
        self.write("sources/all.yaml", SOURCES % names)
        self.write("products/movie.yaml", PRODUCT)
        for name, tables in (("studio", ("movie", "credit", "genre", "movie_genre")), ("hr", ("person", "agency"))):
            self.execute(name, *(f"ALTER TABLE {t} REPLICA IDENTITY FULL" for t in tables))

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def __call__(self, *arguments: str) -> str:
        self._capture.readouterr()
        code = call(["--project", str(self.folder), *arguments], self._wiring, Secrets())
        said = self._capture.readouterr()
        assert code == 0, f"{arguments}\n{said.out}\n{said.err}"
        return said.out

    def json(self, *arguments: str) -> Any:
        return json.loads(self("--json", *arguments))

    def catch_up(self) -> None:
        self("run", "--until-caught-up")

    def execute(self, name: str, *statements: str) -> None:
        """In one transaction."""
        with self.server.connect(self.names[name]) as connection, connection.transaction():
            for statement in statements:
                connection.execute(statement.encode())

    def truth(self) -> Documents:
        """What Postgres makes of the rows: those of the other database are copied beside them for it."""
        with self._connect("hr") as hr, self._connect("studio") as studio, studio.transaction(force_rollback=True):
            for table, columns in (("person", "id int, name text, agency_id int, note text"), ("agency", "id int, name text")):
                studio.execute(f"CREATE TEMP TABLE {table} ({columns})".encode())
                rows = hr.execute(f"SELECT * FROM {table}".encode()).fetchall()
                marks = ", ".join(["%s"] * len(columns.split(",")))
                studio.cursor().executemany(f"INSERT INTO {table} VALUES ({marks})".encode(), rows)
            found = studio.execute(f"SELECT to_jsonb(t) FROM ({TRUTH}) t".encode()).fetchall()
        return {document["id"]: document for (document,) in found}

    def _connect(self, name: str) -> psycopg.Connection[Any]:
        return self.server.connect(self.names[name])

    def documents(self) -> Documents:
        """What a search finds, without the stamp; each has seen both sources."""
        found = {h["document"]["id"]: h["document"] for h in self.json("search", "movie", "*", "--limit", "1000")["hits"]}
        assert all({"studio"} <= set(_stamp(d)) <= {"studio", "hr"} for d in found.values())
        return {key: {k: v for k, v in d.items() if k != "_seen"} for key, d in found.items()}

    def end(self) -> int:
        return next(int(t["end"]) for t in self.json("topics", "list") if t["topic"] == "movie@1.movie")

    def written(self, since: int) -> list[tuple[str, int]]:
        """(operation, id) of the documents published from this offset on."""
        lines = self("--json", "topics", "read", "movie@1.movie", "--from", str(since), "--limit", "0").splitlines()
        return [(event["op"], event["key"]["id"]) for event in map(json.loads, lines)]

    def figures(self) -> dict[str, Any]:
        return next(p["figures"] for p in self.json("status")["parts"] if p["part"] == "pipeline.movie@1")


def _stamp(document: dict[str, Any]) -> dict[str, str]:
    seen = document["_seen"]
    return dict(json.loads(seen) if isinstance(seen, str) else seen)


@pytest.fixture
def studio(postgres: PostgresServer, tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Studio]:
    other = f"{database}_hr"
    postgres.create_database(other)
    yield Studio(postgres, tmp_path, {"studio": database, "hr": other}, capsys)
    with postgres.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [other])
        connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [other])
        connection.execute(f'DROP DATABASE "{other}"'.encode())


CHANGES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("a child changes", "studio", ("UPDATE credit SET role = 'stunt' WHERE id = 60",)),
    ("a child goes", "studio", ("DELETE FROM credit WHERE id = 61",)),
    ("a child comes", "studio", ("INSERT INTO credit VALUES (1000, 7, 3, 'lead', 0)",)),
    ("a child moves: the old and the new root", "studio", ("UPDATE credit SET movie_id = 20, role = 'lead' WHERE id = 1000",)),
    ("a foreign key of the root moves", "studio", ("UPDATE movie SET director_id = 8 WHERE id = 30",)),
    ("a foreign key of the root points nowhere", "studio", ("UPDATE movie SET writer_id = 999 WHERE id = 31",)),
    ("a row on two paths and a third", "hr", ("UPDATE person SET name = 'Somebody Else' WHERE id = 3",)),
    ("a row in between points elsewhere", "hr", ("UPDATE person SET agency_id = 2 WHERE id = 4",)),
    ("a row three tables away", "hr", ("UPDATE agency SET name = 'The Agency' WHERE id = 1",)),
    ("a row in between goes", "hr", ("DELETE FROM person WHERE id = 5",)),
    ("a link comes and one goes", "studio", ("INSERT INTO movie_genre VALUES (2, 1)", "DELETE FROM movie_genre WHERE movie_id = 7")),
    ("behind the links", "studio", ("UPDATE genre SET name = 'A ' || name WHERE id = 3",)),
    ("a link's other end goes", "studio", ("DELETE FROM genre WHERE id = 4",)),
    ("a root goes", "studio", ("DELETE FROM movie WHERE id = 12",)),
    ("a root comes", "studio", ("INSERT INTO movie VALUES (12, 'Back', 2001, 1, 2, 0, NULL)",)),
    ("a root leaves by the filter, another enters", "studio", ("UPDATE movie SET hidden = 1 - hidden WHERE id IN (9, 10)",)),
    ("a root's key changes", "studio", ("UPDATE movie SET id = 500 WHERE id = 14",)),
    ("many changes of one document", "studio", ("UPDATE credit SET role = 'cameo' WHERE movie_id = 40",)),
)
UNSEEN: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("columns that nobody reads", "studio", ("UPDATE movie SET note = 'x'", "UPDATE credit SET note = 'y'")),
    ("below the limit of the list", "studio", ("INSERT INTO credit VALUES (1001, 34, 1, 'voice', 99)",)),
    ("there and back", "hr", ("UPDATE agency SET name = 'z' WHERE id = 2", "UPDATE agency SET name = 'Agency 2' WHERE id = 2")),
    ("a root that the filter leaves out", "studio", ("UPDATE movie SET title = 'unseen' WHERE hidden = 1",)),
)


def test_every_change_writes_exactly_the_documents_that_it_touches(studio: Studio) -> None:
    studio("apply")
    studio.catch_up()
    before = studio.truth()
    assert studio.documents() == before
    assert sum(len(d["cast"]) == 4 for d in before.values()) > 5  # the limit has something to do
    for what, database, statements in (*CHANGES, *UNSEEN):
        since = studio.end()
        studio.execute(database, *statements)
        after = studio.truth()
        meant = {key: _operation(before.get(key), after.get(key)) for key in before.keys() | after.keys()}
        touched = sorted((op, key) for key, op in meant.items() if op)
        assert bool(touched) == ((what, database, statements) in CHANGES), f"{what}: the test does not do what it says"
        studio.catch_up()
        assert sorted(studio.written(since)) == touched, what
        before = after
    assert studio.documents() == before


def _operation(was: dict[str, Any] | None, now: dict[str, Any] | None) -> str:
    if was is None:
        return "c"
    if now is None:
        return "d"
    return "u" if was != now else ""


def test_documents_are_right_after_any_changes_and_fewer_than_their_triggers(studio: Studio) -> None:
    studio("apply")
    studio.catch_up()
    since, rng = studio.end(), random.Random(11)
    for _ in range(25):
        studio.execute("studio", *(_random(rng, STUDIO_CHANGES) for _ in range(rng.randint(1, 4))))
        studio.execute("hr", *(_random(rng, HR_CHANGES) for _ in range(rng.randint(1, 2))))
    studio.catch_up()
    assert studio.documents() == studio.truth()
    written = studio.written(since)
    figures = studio.figures()
    assert 0 < len(written) <= figures["triggers"]


STUDIO_CHANGES: tuple[Callable[[random.Random], str], ...] = (
    lambda r: f"UPDATE credit SET movie_id = {r.randint(1, 62)}, position = {r.randint(0, 5)} WHERE id = {r.randint(1, 300)}",
    lambda r: f"DELETE FROM credit WHERE id = {r.randint(1, 300)}",
    lambda r: f"INSERT INTO credit VALUES ({r.randint(1, 300)}, 3, 4, 'lead', 1) ON CONFLICT DO NOTHING",
    lambda r: f"UPDATE movie SET director_id = {r.randint(1, 12)}, hidden = {r.randint(0, 4)} / 4 WHERE id = {r.randint(1, 60)}",
    lambda r: f"DELETE FROM movie WHERE id = {r.randint(1, 60)}",
    lambda r: f"INSERT INTO movie VALUES ({r.randint(1, 62)}, 'again', 1999, 1, 2, 0) ON CONFLICT DO NOTHING",
    lambda r: f"DELETE FROM movie_genre WHERE movie_id = {r.randint(1, 60)}",
    lambda r: f"INSERT INTO movie_genre VALUES ({r.randint(1, 62)}, {r.randint(1, 7)}) ON CONFLICT DO NOTHING",
    lambda r: f"UPDATE genre SET name = 'G{r.randint(1, 9)}' WHERE id = {r.randint(1, 6)}",
)
HR_CHANGES: tuple[Callable[[random.Random], str], ...] = (
    lambda r: f"UPDATE person SET name = 'P{r.randint(1, 9)}', agency_id = {r.randint(1, 4)} WHERE id = {r.randint(1, 10)}",
    lambda r: f"DELETE FROM person WHERE id = {r.randint(1, 10)}",
    lambda r: f"INSERT INTO person VALUES ({r.randint(1, 12)}, 'new', 1) ON CONFLICT DO NOTHING",
    lambda r: f"UPDATE agency SET name = 'A{r.randint(1, 9)}' WHERE id = {r.randint(1, 3)}",
)


def _random(rng: random.Random, changes: tuple[Callable[[random.Random], str], ...]) -> str:
    return rng.choice(changes)(rng)
