"""What happens in the database while Millstream runs: what an editor would do, then transactions by chance, the same at every run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from demo.films import data

RETRIES = 10


@dataclass(frozen=True)
class Change:
    """Statements of one transaction. `touches` counts, before the change, the movies whose documents it will change."""

    title: str
    statements: Sequence[str]
    touches: str = "SELECT 1"


SHOWN = 1
NEW_MOVIE = 1_000_000
"""The movie whose document is shown before and after, and the first id that no row has."""

SCRIPT = (
    Change(
        "The studio Meridian is renamed",
        ("UPDATE studio SET name = 'Millstream Pictures' WHERE id = 1",),
        "SELECT count(*) FROM movie WHERE studio_id = 1",
    ),
    Change(f"Movie {SHOWN} moves to that studio", (f"UPDATE movie SET studio_id = 1 WHERE id = {SHOWN}",)),
    Change(
        "The genre drama is called tragedy",
        ("UPDATE genre SET name = 'tragedy' WHERE id = 1",),
        "SELECT count(*) FROM movie_genre WHERE genre_id = 1",
    ),
    Change(
        f"The cast of movie 2 turns out to be that of movie {SHOWN}",
        (f"UPDATE credit SET movie_id = {SHOWN} WHERE movie_id = 2",),
        "SELECT 2",
    ),
    Change(
        "Movie 3 is withdrawn, with all that belonged to it",
        (
            "DELETE FROM review WHERE movie_id = 3",
            "DELETE FROM award WHERE movie_id = 3",
            "DELETE FROM credit WHERE movie_id = 3",
            "DELETE FROM movie_genre WHERE movie_id = 3",
            "DELETE FROM movie WHERE id = 3",
        ),
    ),
    Change(
        "A movie comes out: five tables in one transaction",
        (
            f"INSERT INTO movie VALUES ({NEW_MOVIE}, 'Zephyr & Söhne', '2024-02-29', 2, 1, 4200000.50)",
            f"INSERT INTO person VALUES ({NEW_MOVIE}, 'Zoë Zephyr', '1990-06-15')",
            f"INSERT INTO movie_genre VALUES ({NEW_MOVIE}, 2), ({NEW_MOVIE}, 3)",
            f"INSERT INTO credit VALUES ({NEW_MOVIE}, {NEW_MOVIE}, {NEW_MOVIE}, 'the miller', 0)",
            f"INSERT INTO award VALUES ({NEW_MOVIE}, {NEW_MOVIE}, 2, 2024, 'best film')",
        ),
    ),
)


def apply(connection: psycopg.Connection, change: Change) -> int:
    """Commit the change; gives the number of movies whose documents it touches."""
    row = connection.execute(change.touches).fetchone()
    commit(connection, [(statement, ()) for statement in change.statements])
    return int(row[0]) if row else 0


def commit(connection: psycopg.Connection, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
    """All in one transaction, again where the server says so."""
    for left in reversed(range(RETRIES)):
        try:
            with connection.transaction():
                for statement, values in statements:
                    connection.execute(statement, values)
            return
        except (psycopg.errors.SerializationFailure, psycopg.OperationalError):
            if not left or connection.closed:
                raise


class Storm:
    """Transactions by chance over all ten tables: rows come, change and go, and move from one movie, studio or person to another."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection, self.random = connection, random.Random(data.SEED + 1)
        self.movies, self.people, self.members = ([row[0] for row in self._ids(t)] for t in ("movie", "person", "member"))
        self.made = NEW_MOVIE

    def _ids(self, table: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(f"SELECT id FROM {table} ORDER BY id").fetchall()

    def step(self) -> None:
        """Commit one transaction."""
        kinds = (self.edit, self.edit, self.move, self.review, self.review, self.rename, self.award, self.regenre, self.come, self.go)
        commit(self.connection, self.random.choice(kinds)())

    def edit(self) -> list[tuple[str, Sequence[Any]]]:
        r, movie = self.random, self.random.choice(self.movies)
        return [("UPDATE movie SET title = %s, budget = %s WHERE id = %s", (data.a_title(r), r.randrange(10**9) / 4, movie))]

    def move(self) -> list[tuple[str, Sequence[Any]]]:
        """References move: of a movie, and of all that belonged to another."""
        r, a, b = self.random, self.random.choice(self.movies), self.random.choice(self.movies)
        table = r.choice(("credit", "review", "award"))
        return [
            (
                "UPDATE movie SET studio_id = %s, director_id = %s WHERE id = %s",
                (r.randint(1, len(data.STUDIOS)), r.choice(self.people), a),
            ),
            (f"UPDATE {table} SET movie_id = %s WHERE movie_id = %s", (a, b)),
        ]

    def review(self) -> list[tuple[str, Sequence[Any]]]:
        """A review is written, and those of another movie that were harsh are withdrawn."""
        r, self.made = self.random, self.made + 1
        row = data.a_review(r, r.choice(self.movies), self.members, self.made)
        gone = ("DELETE FROM review WHERE movie_id = %s AND stars < 3", (r.choice(self.movies),))
        return [data.insert("review", [row]), gone]

    def rename(self) -> list[tuple[str, Sequence[Any]]]:
        r = self.random
        return [
            ("UPDATE person SET name = %s WHERE id = %s", (data.a_name(r), r.choice(self.people))),
            ("UPDATE member SET name = %s WHERE id = %s", (data.a_name(r), r.choice(self.members))),
            ("UPDATE festival SET city = %s WHERE id = %s", (r.choice(data.NOUNS), r.randint(1, len(data.FESTIVALS)))),
        ]

    def award(self) -> list[tuple[str, Sequence[Any]]]:
        r, self.made = self.random, self.made + 1
        return [data.insert("award", [(self.made, r.choice(self.movies), r.randint(1, len(data.FESTIVALS)), 2024, r.choice(data.PRIZES))])]

    def regenre(self) -> list[tuple[str, Sequence[Any]]]:
        r, movie = self.random, self.random.choice(self.movies)
        genres = r.sample(range(1, len(data.GENRES) + 1), 2)
        return [("DELETE FROM movie_genre WHERE movie_id = %s", (movie,)), data.insert("movie_genre", [(movie, genre) for genre in genres])]

    def come(self) -> list[tuple[str, Sequence[Any]]]:
        """A movie and its cast."""
        r, self.made = self.random, self.made + 1
        movie = data.a_movie(r, self.made, len(data.STUDIOS), len(self.people))
        self.movies.append(self.made)
        columns = "INSERT INTO movie (id, title, released, studio_id, director_id, budget) VALUES (%s, %s, %s, %s, %s, %s)"
        return [(columns, movie), data.insert("credit", [(self.made, self.made, r.choice(self.people), data.a_name(r), 0)])]

    def go(self) -> list[tuple[str, Sequence[Any]]]:
        movie = self.random.choice([m for m in self.movies if m not in (SHOWN, 3)])
        self.movies.remove(movie)
        return [(f"DELETE FROM {table} WHERE movie_id = %s", (movie,)) for table in ("credit", "review", "movie_genre", "award")] + [
            ("DELETE FROM movie WHERE id = %s", (movie,))
        ]
