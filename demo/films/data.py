"""Ten tables of a film catalogue: rows of people and films that never were, the same ones at every run.

A movie has a studio and a director, genres, a cast, awards of festivals, and reviews by members: references of every kind.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg

SEED = 1927
MOVIES = 400
MOVIES_MIN = 20
ROWS_AT_ONCE = 50
FIRST_REVIEW = datetime(2020, 1, 1, tzinfo=UTC)

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Table:
    name: str
    columns: str
    key: str = "id"

    @property
    def ddl(self) -> str:
        return f"CREATE TABLE {self.name} ({self.columns}, PRIMARY KEY ({self.key}))"


TABLES = (
    Table("studio", "id INT8, name STRING NOT NULL, country STRING"),
    Table("person", "id INT8, name STRING NOT NULL, born DATE"),
    Table("genre", "id INT4, name STRING NOT NULL"),
    Table("movie", "id INT8, title STRING NOT NULL, released DATE, studio_id INT8, director_id INT8, budget DECIMAL(12,2)"),
    Table("movie_genre", "movie_id INT8, genre_id INT4", "movie_id, genre_id"),
    Table("credit", "id INT8, movie_id INT8 NOT NULL, person_id INT8 NOT NULL, role STRING, position INT2 NOT NULL"),
    Table("festival", "id INT4, name STRING NOT NULL, city STRING NOT NULL"),
    Table("award", "id INT8, movie_id INT8 NOT NULL, festival_id INT4 NOT NULL, year INT2 NOT NULL, prize STRING NOT NULL"),
    Table("member", "id UUID, name STRING NOT NULL, since TIMESTAMPTZ NOT NULL"),
    Table("review", "id UUID, movie_id INT8 NOT NULL, member_id UUID, stars INT2 NOT NULL, body STRING, written_at TIMESTAMPTZ NOT NULL"),
)

STUDIOS = ("Meridian", "Aurora", "Nordlys", "Cine Élan", "Kinoteka", "Blue Heron", "Estrela", "Hikari")
COUNTRIES = ("France", "Norge", "日本", "Brasil", "Polska", "Canada", None)
GENRES = ("drama", "comedy", "science fiction", "thriller", "documentary", "animation", "western", "musical", "horror", "romance")
FESTIVALS = (("Silver Lantern", "Trieste"), ("Golden Mill", "Utrecht"), ("Northern Light", "Tromsø"), ("Harbour Days", "Halifax"))
PRIZES = ("best film", "best script", "best camera", "audience award")
FIRST = (
    "Ada",
    "Bruno",
    "Chiara",
    "Dmitri",
    "Elif",
    "Farid",
    "Greta",
    "Hana",
    "Iván",
    "Jun",
    "Kaisa",
    "Léo",
    "Mira",
    "Noor",
    "Oskar",
    "Pia",
)
LAST = (
    "Abe",
    "Berg",
    "Costa",
    "Duarte",
    "Eze",
    "Fontaine",
    "Grün",
    "Holm",
    "Ito",
    "Jansen",
    "Kowalski",
    "Lund",
    "Moreau",
    "Novák",
    "O’Neil",
)
ADJECTIVES = ("Last", "Silent", "Golden", "Distant", "Broken", "Hidden", "Electric", "Paper", "Endless", "Crimson")
NOUNS = ("Harbour", "Orchard", "Signal", "Winter", "Machine", "River", "Letter", "Carnival", "Horizon", "Mill")
WORDS = ("slow", "bright", "moving", "far too long", "a marvel", "odd", "unforgettable", "well shot", "thin", "witty")


def identity(random_: random.Random) -> str:
    return str(uuid.UUID(int=random_.getrandbits(128), version=4))


def a_name(random_: random.Random) -> str:
    return f"{random_.choice(FIRST)} {random_.choice(LAST)}"


def a_title(random_: random.Random) -> str:
    return f"The {random_.choice(ADJECTIVES)} {random_.choice(NOUNS)}"


def a_movie(random_: random.Random, id_: int, studios: int, people: int) -> Row:
    """Some have no studio or no director, and of some nobody knows what they cost."""
    released = date(1930, 1, 1) + timedelta(days=random_.randrange(34_000))
    return (
        id_,
        a_title(random_),
        released,
        random_.choice((None, *range(1, studios + 1))),
        random_.choice((None, *range(1, people + 1))),
        None if random_.random() < 0.1 else Decimal(random_.randrange(10**9)).scaleb(-2),
    )


def a_review(random_: random.Random, movie: int, members: Sequence[str], number: int) -> Row:
    """`number` puts it in its place in time, so that no two were written at once."""
    member = None if random_.random() < 0.05 else random_.choice(members)
    body = None if random_.random() < 0.2 else ", ".join(random_.sample(WORDS, 3))
    return (
        identity(random_),
        movie,
        member,
        random_.randint(1, 5),
        body,
        FIRST_REVIEW + timedelta(minutes=7 * number, microseconds=number),
    )


def rows(movies: int) -> dict[str, list[Row]]:
    """Table → its rows, columns in the table's order."""
    r = random.Random(SEED)
    people, members = movies + 20, [identity(r) for _ in range(movies // 4 + 10)]
    made: dict[str, list[Row]] = {
        "studio": [(n, name, r.choice(COUNTRIES)) for n, name in enumerate(STUDIOS, 1)],
        "person": [(n, a_name(r), date(1900, 1, 1) + timedelta(days=r.randrange(36_000))) for n in range(1, people + 1)],
        "genre": list(enumerate(GENRES, 1)),
        "movie": [a_movie(r, n, len(STUDIOS), people) for n in range(1, movies + 1)],
        "festival": [(n, *festival) for n, festival in enumerate(FESTIVALS, 1)],
        "member": [(member, a_name(r), FIRST_REVIEW - timedelta(days=r.randrange(2000))) for member in members],
        "movie_genre": [],
        "credit": [],
        "award": [],
        "review": [],
    }
    for movie in range(1, movies + 1):
        made["movie_genre"] += [(movie, genre) for genre in r.sample(range(1, len(GENRES) + 1), r.randint(0, 3))]
        for place in range(r.randint(1, 6)):
            made["credit"].append((len(made["credit"]) + 1, movie, r.randint(1, people), a_name(r), place))
        if r.random() < 0.3:
            award = (len(made["award"]) + 1, movie, r.randint(1, len(FESTIVALS)), r.randint(1950, 2023), r.choice(PRIZES))
            made["award"].append(award)
        for _ in range(r.randint(0, 6)):
            made["review"].append(a_review(r, movie, members, len(made["review"])))
    return {table.name: made[table.name] for table in TABLES}


def insert(table: str, some: Sequence[Row]) -> tuple[str, list[Any]]:
    """One statement for these rows, and its parameters."""
    row = f"({', '.join(['%s'] * len(some[0]))})"
    return f"INSERT INTO {table} VALUES {', '.join([row] * len(some))}", [value for one in some for value in one]


def load(connection: psycopg.Connection, movies: int, on_rows: Callable[[int], None]) -> dict[str, int]:
    """Make and fill every table; gives table → rows. `on_rows` is told how many rows are in."""
    made, done = rows(movies), 0
    for table in TABLES:
        connection.execute(table.ddl)
        for some in _pieces(made[table.name]):
            connection.execute(*insert(table.name, some))
            done += len(some)
            on_rows(done)
    return {name: len(of) for name, of in made.items()}


def _pieces(of: list[Row]) -> Iterator[list[Row]]:
    for begin in range(0, len(of), ROWS_AT_ONCE):
        yield of[begin : begin + ROWS_AT_ONCE]
