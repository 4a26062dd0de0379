"""Ten tables in three databases, one document woven from them, and Postgres's own word on what each document must hold.

The workload moves foreign keys, deletes children and roots, renames rows under many documents, all at once. The truth is one
query: Postgres reads the other two databases through postgres_fdw, so no row passes through us on its way into it.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

Connect = Callable[[str], psycopg.Connection[Any]]
Document = dict[str, Any]

MOVIES, PEOPLE, STUDIOS, GENRES, COUNTRIES = 200, 80, 12, 8, 6

TABLES = {
    "films": ("movie", "studio", "genre", "movie_genre"),
    "people": ("person", "credit", "award"),
    "shop": ("country", "review", "release"),
}

_DDL = {
    "films": """
CREATE TABLE studio (id bigint PRIMARY KEY, name text NOT NULL, country text);
CREATE TABLE genre (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE movie (id bigint PRIMARY KEY, title text, year integer, rating numeric(4,2), director_id bigint, studio_id bigint);
CREATE TABLE movie_genre (movie_id bigint NOT NULL, genre_id integer NOT NULL, rank integer NOT NULL, PRIMARY KEY (movie_id, genre_id));
""",
    "people": """
CREATE TABLE person (id bigint PRIMARY KEY, name text NOT NULL, born integer, country text);
CREATE TABLE credit (id bigint PRIMARY KEY, movie_id bigint, person_id bigint, role text, position integer NOT NULL);
CREATE TABLE award (id bigint PRIMARY KEY, person_id bigint NOT NULL, name text NOT NULL, year integer NOT NULL);
""",
    "shop": """
CREATE TABLE country (code text PRIMARY KEY, name text NOT NULL);
CREATE TABLE review (id bigint PRIMARY KEY, movie_id bigint NOT NULL, stars integer NOT NULL, words text, hidden boolean NOT NULL);
CREATE TABLE release (id bigint PRIMARY KEY, movie_id bigint NOT NULL, country text, day date NOT NULL);
""",
}

PRODUCT = """\
product: film
owner: team-film
root:
  from: films.public.movie
  where: year >= 1950
  fields: [id, title, year, rating]
nest:
  studio:
    from: films.public.studio
    on: studio.id = movie.studio_id
    join: {home: {from: shop.public.country, on: home.code = studio.country}}
    one: {name: studio.name, country: home.name}
  director:
    from: people.public.person
    as: boss
    on: boss.id = movie.director_id
    join: {home: {from: shop.public.country, on: home.code = boss.country}}
    one: {name: boss.name, born: boss.born, country: home.name}
  genres:
    from: films.public.movie_genre
    on: movie_genre.movie_id = movie.id
    join: {genre: {from: films.public.genre, on: genre.id = movie_genre.genre_id}}
    each: genre.name
    order: rank
  actors:
    from: people.public.credit
    on: credit.movie_id = movie.id
    join: {person: {from: people.public.person, on: person.id = credit.person_id}}
    each: {role: credit.role, name: person.name}
    order: position
    nest:
      awards:
        from: people.public.award
        on: award.person_id = person.id
        each: {name: award.name, year: award.year}
        order: year
  reviews:
    from: shop.public.review
    on: review.movie_id = movie.id
    where: NOT hidden
    each: {stars: review.stars, words: review.words}
    order: id DESC
    limit: 3
  review_count: {from: shop.public.review, on: review.movie_id = movie.id, where: NOT hidden, value: count(*)}
  best: {from: shop.public.review, on: review.movie_id = movie.id, where: NOT hidden, value: max(stars)}
  releases:
    from: shop.public.release
    on: release.movie_id = movie.id
    join: {place: {from: shop.public.country, on: place.code = release.country}}
    each: {day: release.day, country: place.name}
    order: day
sinks:
  - search: {index: film}
"""

SEARCHES = {
    "good": "review_count >= 2 AND best >= {n}",
    "leads": "ANY actors (role = Lead AND name IS NOT NULL) AND year > 19{n}0",
    "titled": "title: title OR studio.country = 'Country {n}'",
    "prized": "actors.awards.year < 2000 AND NOT genres = 'Genre {n}'",
}
"""Saved searches of the product, in which a number makes another search of the same name."""


def searches(number: int) -> str:
    """Their file."""
    return "---\n".join(
        f"search: {name}\nproduct: film\nquery: {json.dumps(query.format(n=number))}\nowner: team\n" for name, query in SEARCHES.items()
    )


FILES = {
    "mesh.yaml": "mesh: films\n",
    "products/film.yaml": PRODUCT,
    "searches/film.yaml": searches(4),
} | {
    f"sources/{name}.yaml": f"source: {name}\nconnector: postgres\nurl: ${{{name.upper()}_URL}}\nslot: ${{{name.upper()}_SLOT}}\n"
    f"tables: [{', '.join(f'public.{t}' for t in tables)}]\nowner: team-{name}\n"
    for name, tables in TABLES.items()
}

_TRUTH = """
SELECT m.id, jsonb_build_object(
  'id', m.id, 'title', m.title, 'year', m.year, 'rating', m.rating,
  'studio', CASE WHEN s.id IS NULL THEN NULL ELSE jsonb_build_object('name', s.name, 'country', sc.name) END,
  'director', CASE WHEN d.id IS NULL THEN NULL ELSE jsonb_build_object('name', d.name, 'born', d.born, 'country', dc.name) END,
  'genres', coalesce((SELECT jsonb_agg(g.name ORDER BY mg.rank, mg.genre_id)
     FROM movie_genre mg LEFT JOIN genre g ON g.id = mg.genre_id WHERE mg.movie_id = m.id), '[]'),
  'actors', coalesce((SELECT jsonb_agg(jsonb_build_object('role', c.role, 'name', p.name, 'awards',
       coalesce((SELECT jsonb_agg(jsonb_build_object('name', a.name, 'year', a.year) ORDER BY a.year, a.id)
          FROM people.award a WHERE a.person_id = p.id), '[]')) ORDER BY c.position, c.id)
     FROM people.credit c LEFT JOIN people.person p ON p.id = c.person_id WHERE c.movie_id = m.id), '[]'),
  'reviews', coalesce((SELECT jsonb_agg(jsonb_build_object('stars', r.stars, 'words', r.words) ORDER BY r.id DESC)
     FROM (SELECT * FROM shop.review WHERE movie_id = m.id AND NOT hidden ORDER BY id DESC LIMIT 3) r), '[]'),
  'review_count', (SELECT count(*) FROM shop.review r WHERE r.movie_id = m.id AND NOT r.hidden),
  'best', (SELECT max(r.stars) FROM shop.review r WHERE r.movie_id = m.id AND NOT r.hidden),
  'releases', coalesce((SELECT jsonb_agg(jsonb_build_object('day', l.day, 'country', lc.name) ORDER BY l.day, l.id)
     FROM shop.release l LEFT JOIN shop.country lc ON lc.code = l.country WHERE l.movie_id = m.id), '[]')
)::text
FROM movie m
LEFT JOIN studio s ON s.id = m.studio_id LEFT JOIN shop.country sc ON sc.code = s.country
LEFT JOIN people.person d ON d.id = m.director_id LEFT JOIN shop.country dc ON dc.code = d.country
WHERE m.year >= 1950
"""


def create(connect: Connect) -> None:
    """The tables with some rows to begin with."""
    for database, tables in TABLES.items():
        with connect(database) as connection:
            connection.execute(_DDL[database])
            for table in tables:
                connection.execute(f"ALTER TABLE {table} REPLICA IDENTITY FULL".encode())
    with connect("shop") as c:
        _fill(c, "country", "chr(64 + i), 'Country ' || i", COUNTRIES, 1)
        _fill(c, "review", f"i, 1 + i % {MOVIES}, 1 + i % 5, 'words', i % 7 = 0", MOVIES * 3)
        _fill(c, "release", f"i, 1 + i % {MOVIES}, chr(65 + i % {COUNTRIES}), DATE '2000-01-01' + i", MOVIES * 2)
    with connect("people") as c:
        _fill(c, "person", f"i, 'Person ' || i, 1900 + i, chr(65 + i % {COUNTRIES})", PEOPLE)
        _fill(c, "credit", f"i, 1 + i % {MOVIES}, 1 + i % {PEOPLE}, 'Role ' || i, i % 4", MOVIES * 4)
        _fill(c, "award", f"i, 1 + i % {PEOPLE}, 'Award ' || i % 5, 1990 + i % 30", PEOPLE)
    with connect("films") as c:
        _fill(c, "studio", f"i, 'Studio ' || i, chr(65 + i % {COUNTRIES})", STUDIOS)
        _fill(c, "genre", "i, 'Genre ' || i", GENRES, 1)
        _fill(c, "movie", f"i, 'Movie ' || i, 1930 + i % 90, (i % 1000) / 100.0, 1 + i % {PEOPLE}, 1 + i % {STUDIOS}", MOVIES)
        _fill(c, "movie_genre", f"1 + i % {MOVIES}, 1 + i % {GENRES}, i % 3", MOVIES)


def _fill(connection: psycopg.Connection[Any], table: str, values: str, up_to: int, step: int = 2) -> None:
    connection.execute(f"INSERT INTO {table} SELECT {values} FROM generate_series(1, {up_to}, {step}) i".encode())


def link(connect: Connect) -> None:
    """Lets `films` see the other two through postgres_fdw, each in a schema of its name."""
    with connect("films") as films:
        films.execute("CREATE EXTENSION IF NOT EXISTS postgres_fdw")
        for name in ("people", "shop"):
            with connect(name) as other:
                at = conninfo_to_dict(other.info.dsn)
            films.execute(f"CREATE SCHEMA {name}".encode())
            films.execute(
                f"CREATE SERVER {name} FOREIGN DATA WRAPPER postgres_fdw "
                f"OPTIONS (host '{at['host']}', port '{at['port']}', dbname '{at['dbname']}')".encode()
            )
            films.execute(f"CREATE USER MAPPING FOR CURRENT_USER SERVER {name} OPTIONS (user '{at['user']}')".encode())
            films.execute(f"IMPORT FOREIGN SCHEMA public FROM SERVER {name} INTO {name}".encode())


def truth(connect: Connect) -> dict[int, Document]:
    """Root key → the document, as Postgres computes it now."""
    with connect("films") as films:
        return {id_: json.loads(text, parse_float=Decimal) for id_, text in films.execute(_TRUTH)}


Statement = tuple[str, list[Any]]


def _person(rng: random.Random) -> int:
    return rng.randint(1, PEOPLE)


def _films(rng: random.Random) -> Statement:
    movie, studio = rng.randint(1, MOVIES), rng.randint(1, STUDIOS)
    match rng.choices(range(11), (10, 12, 8, 10, 6, 6, 5, 2, 2, 2, 2))[0]:
        case 0:
            rating = rng.choice((None, rng.randint(0, 1000) / 100))
            title = rng.choice((None, "", 'A "title"\n', f"Film {rng.randint(1, 99)}"))
            new = "INSERT INTO movie VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
            return new, [movie, title, rng.randint(1930, 2025), rating, _person(rng), studio]
        case 1:
            return "UPDATE movie SET title = %s WHERE id = %s", [f"Title {rng.randint(1, 999)}", movie]
        case 2:  # in and out of the product's filter
            return "UPDATE movie SET year = %s WHERE id = %s", [rng.choice((None, rng.randint(1930, 2025))), movie]
        case 3:
            return "UPDATE movie SET director_id = %s, studio_id = %s WHERE id = %s", [rng.choice((None, _person(rng))), studio, movie]
        case 4:
            return "DELETE FROM movie WHERE id = %s", [movie]
        case 5:
            return "INSERT INTO movie_genre VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", [movie, rng.randint(1, GENRES), rng.randint(0, 2)]
        case 6:
            return "DELETE FROM movie_genre WHERE movie_id = %s", [movie]
        case 7:
            return "UPDATE genre SET name = %s WHERE id = %s", [f"Genre {rng.randint(1, 999)}", rng.randint(1, GENRES)]
        case 8:
            return "UPDATE studio SET name = %s, country = %s WHERE id = %s", [f"Studio {rng.randint(1, 999)}", _country(rng), studio]
        case 9:
            return "DELETE FROM studio WHERE id = %s", [studio]
        case _:
            return "INSERT INTO studio VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", [studio, f"Studio {studio}", _country(rng)]


def _country(rng: random.Random) -> str | None:
    return rng.choice((None, chr(64 + rng.randint(1, COUNTRIES))))


def _people(rng: random.Random) -> Statement:
    person, credit, award = _person(rng), rng.randint(1, MOVIES * 4), rng.randint(1, PEOPLE)
    match rng.choices(range(10), (6, 6, 2, 10, 10, 8, 3, 5, 3, 3))[0]:
        case 0:
            return "INSERT INTO person VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING", [person, f"Person {person}", 1950, _country(rng)]
        case 1:
            return "UPDATE person SET name = %s, country = %s WHERE id = %s", [f"Person {rng.randint(1, 999)}", _country(rng), person]
        case 2:
            return "DELETE FROM person WHERE id = %s", [person]
        case 3:
            new = "INSERT INTO credit VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
            return new, [credit, rng.randint(1, MOVIES), person, rng.choice((None, "Lead")), rng.randint(0, 3)]
        case 4:  # a child that moves to another root
            return "UPDATE credit SET movie_id = %s WHERE id = %s", [rng.choice((None, rng.randint(1, MOVIES))), credit]
        case 5:  # an intermediate row that points elsewhere
            return "UPDATE credit SET person_id = %s, position = %s WHERE id = %s", [person, rng.randint(0, 3), credit]
        case 6:
            return "DELETE FROM credit WHERE id = %s", [credit]
        case 7:
            new = "INSERT INTO award VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
            return new, [award, person, "Prize", rng.randint(1990, 2020)]
        case 8:
            return "UPDATE award SET person_id = %s WHERE id = %s", [person, award]
        case _:
            return "DELETE FROM award WHERE id = %s", [award]


def _shop(rng: random.Random) -> Statement:
    movie, review, release = rng.randint(1, MOVIES), rng.randint(1, MOVIES * 3), rng.randint(1, MOVIES * 2)
    match rng.choices(range(9), (8, 5, 5, 4, 6, 5, 3, 1, 1))[0]:
        case 0:
            new = "INSERT INTO review VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
            return new, [review, movie, rng.randint(1, 5), rng.choice((None, "schön")), rng.random() < 0.2]
        case 1:
            return "UPDATE review SET hidden = NOT hidden WHERE id = %s", [review]
        case 2:
            return "UPDATE review SET movie_id = %s WHERE id = %s", [movie, review]
        case 3:
            return "DELETE FROM review WHERE id = %s", [review]
        case 4:
            new = "INSERT INTO release VALUES (%s, %s, %s, DATE '2000-01-01' + %s) ON CONFLICT DO NOTHING"
            return new, [release, movie, _country(rng), rng.randint(0, 5000)]
        case 5:
            return "UPDATE release SET movie_id = %s, country = %s WHERE id = %s", [movie, _country(rng), release]
        case 6:
            return "DELETE FROM release WHERE id = %s", [release]
        case 7:  # reaches documents by three paths
            return "UPDATE country SET name = %s WHERE code = %s", [f"Country {rng.randint(1, 999)}", chr(64 + rng.randint(1, COUNTRIES))]
        case _:
            if rng.random() < 0.5:
                return "DELETE FROM country WHERE code = %s", [chr(64 + rng.randint(1, COUNTRIES))]
            return "INSERT INTO country VALUES (%s, %s) ON CONFLICT DO NOTHING", [chr(64 + rng.randint(1, COUNTRIES)), "again"]


_STATEMENTS = {"films": _films, "people": _people, "shop": _shop}


class Writers:
    """One writer a database, until `stop`; `pace_s` is the mean pause between its transactions."""

    def __init__(self, connect: Connect, seed: object, pace_s: float) -> None:
        self._connect, self._pace_s = connect, pace_s
        self._stop = threading.Event()
        self._gates = {name: threading.Lock() for name in TABLES}
        self._failure: BaseException | None = None
        self.statements = 0
        self._threads = [threading.Thread(target=self._write, args=(name, random.Random(f"{seed} {name}")), daemon=True) for name in TABLES]
        for thread in self._threads:
            thread.start()

    def paused(self) -> ExitStack:
        """While it is entered nothing is written and no transaction is open."""
        stack = ExitStack()
        for gate in self._gates.values():
            stack.enter_context(gate)
        if self._failure is not None:
            stack.close()
            raise self._failure
        return stack

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _write(self, name: str, rng: random.Random) -> None:
        try:
            with self._connect(name) as connection:
                while not self._stop.wait(min(rng.expovariate(1 / self._pace_s), 20 * self._pace_s)):
                    with self._gates[name], connection.transaction():
                        for _ in range(rng.choice((1, 1, 1, 2, 4))):
                            connection.execute(*_STATEMENTS[name](rng))
                            self.statements += 1
        except BaseException as error:
            self._failure = error
