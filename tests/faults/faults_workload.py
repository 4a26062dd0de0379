"""A steady, random, seeded workload on two databases, and the truth about it: an audit table written in the same transactions.

Two writers on `catalogue` (they meet, wait and now and then deadlock) and one on `people`. Triggers write the audit, so that
cascades are in it too and nothing that was rolled back is.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg

PEOPLE, STUDIOS, MOVIES = 60, 20, 300  # ids are drawn from 1 to these
BULK_ROWS = 5_000

_AUDIT = """
CREATE TABLE audit (seq bigserial PRIMARY KEY, xid xid8 NOT NULL DEFAULT pg_current_xact_id(), tbl text NOT NULL, op text NOT NULL,
                    before jsonb, after jsonb);
CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO audit (tbl, op, before, after) VALUES (TG_TABLE_NAME, TG_OP,
    CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END);
  RETURN NULL;
END $$;
"""

_TABLES = {
    "catalogue": """
CREATE TABLE studio (id bigint PRIMARY KEY, name text NOT NULL, country text);
CREATE TABLE movie (id bigint PRIMARY KEY, title text, year integer, rating numeric(4,2), released boolean NOT NULL,
                    changed timestamptz, director_id bigint,
                    studio_id bigint REFERENCES studio ON DELETE SET NULL ON UPDATE CASCADE);
""",
    "people": "CREATE TABLE person (id bigint PRIMARY KEY, name text NOT NULL, born integer, note text);",
}
TABLES = {"catalogue": ("movie", "studio"), "people": ("person",)}

Connect = Callable[[str], psycopg.Connection]
"""A new connection (autocommit) to one of the two databases, by its name here."""


def create(connect: Connect) -> None:
    """The tables, their audit and some rows to begin with."""
    for database, tables in TABLES.items():
        with connect(database) as connection:
            connection.execute(_AUDIT)
            connection.execute(_TABLES[database])
            for table in tables:
                connection.execute(f"ALTER TABLE {table} REPLICA IDENTITY FULL")
                connection.execute(
                    f"CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION audited()"
                )
    with connect("catalogue") as connection:
        connection.execute(f"INSERT INTO studio SELECT i, 'Studio ' || i, 'XY' FROM generate_series(1, {STUDIOS}, 2) i")
        connection.execute(
            f"INSERT INTO movie SELECT i, 'Movie ' || i, 1980 + i % 45, (i % 1000) / 100.0, i % 3 > 0, now(), 1 + i % {PEOPLE}, "
            f"1 + 2 * (i % {STUDIOS // 2}) FROM generate_series(1, {MOVIES}, 2) i"
        )
    with connect("people") as connection:
        connection.execute(f"INSERT INTO person SELECT i, 'Person ' || i, 1900 + i, NULL FROM generate_series(1, {PEOPLE}, 2) i")


class RolledBack(Exception):
    """Takes back what the transaction did."""


UNDONE = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.UniqueViolation,
    psycopg.errors.ForeignKeyViolation,
)
"""What may become of a transaction beside others: nothing of it is there."""


@dataclass
class Writer:
    database: str
    rng: random.Random
    gate: threading.Lock
    transactions: int = 0
    undone: int = 0


class Workload:
    """Writers that go on until `stop`, one for each of `databases`. `pace_s` is the mean pause between one writer's transactions."""

    databases: tuple[str, ...] = ("catalogue", "catalogue", "people")

    def __init__(self, connect: Connect, seed: object, *, pace_s: float = 0.03) -> None:
        self._connect, self._pace_s = connect, pace_s
        self._stop = threading.Event()
        self._writers = [Writer(d, random.Random(f"{seed} {i}"), threading.Lock()) for i, d in enumerate(self.databases)]
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None

    def start(self) -> None:
        for writer in self._writers:
            thread = threading.Thread(target=self._write, args=(writer,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Ends the writers; raises what one of them failed of."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._threads = []
        if self._failure is not None:
            raise self._failure

    @property
    def transactions(self) -> int:
        return sum(w.transactions for w in self._writers)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is written and no transaction is open inside."""
        with ExitStack() as stack:
            for writer in self._writers:
                stack.enter_context(writer.gate)
            if self._failure is not None:
                raise self._failure
            yield

    def bulk(self) -> None:
        """One transaction of many rows, made or taken away again."""
        with self._connect("catalogue") as connection, connection.transaction():
            (there,) = connection.execute("SELECT count(*) FROM movie WHERE id > 10000").fetchone() or (0,)
            if there:
                connection.execute("DELETE FROM movie WHERE id > 10000")
            else:
                connection.execute(
                    f"INSERT INTO movie SELECT 10000 + i, 'Bulk ' || i, 2001, 5, true, now(), i % {PEOPLE}, NULL "
                    f"FROM generate_series(1, {BULK_ROWS}) i"
                )

    # ---- one writer's thread

    def _write(self, writer: Writer) -> None:
        connection: psycopg.Connection | None = None
        try:
            while not self._stop.wait(min(writer.rng.expovariate(1 / self._pace_s), 20 * self._pace_s)):
                with writer.gate:
                    try:
                        connection = connection or self._connect(writer.database)
                        self._transact(connection, writer)
                        writer.transactions += 1
                    except UNDONE:
                        writer.undone += 1
                    except psycopg.OperationalError:  # the server was restarted: whether the last commit counted, the audit knows
                        writer.undone += 1
                        if connection is not None:
                            connection.close()
                        connection = None
        except BaseException as error:
            self._failure = error
        finally:
            if connection is not None:
                connection.close()

    def _transact(self, connection: psycopg.Connection, writer: Writer) -> None:
        rng = writer.rng
        statement = _on_catalogue if writer.database == "catalogue" else _on_people
        try:
            with connection.transaction():
                for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
                    text, values = statement(rng)
                    connection.execute(text, values)
                if rng.random() < 0.05:
                    raise RolledBack
        except RolledBack:
            writer.undone += 1


Statement = tuple[str, list[object]]
_NEW_MOVIE = (
    "INSERT INTO movie VALUES (%s, %s, %s, %s, %s, clock_timestamp(), %s, (SELECT id FROM studio WHERE id = %s)) ON CONFLICT DO NOTHING"
)


def _on_catalogue(rng: random.Random) -> Statement:
    movie, studio = rng.randint(1, MOVIES), rng.randint(1, STUDIOS)
    title = rng.choice((None, "", 'Ein schöner "Titel"\n', f"Film {rng.randint(1, 999)}", "x" * rng.randint(1, 300)))
    year, rating = rng.choice((None, rng.randint(1980, 2025))), rng.choice((None, rng.randint(0, 1000) / 100))
    match rng.choices(range(12), (20, 12, 12, 6, 10, 10, 8, 4, 7, 3, 2, 2))[0]:
        case 0:
            return _NEW_MOVIE, [movie, title, year, rating, rng.random() < 0.7, rng.randint(1, PEOPLE), studio]
        case 1:
            return "UPDATE movie SET title = %s, changed = clock_timestamp() WHERE id = %s", [title, movie]
        case 2:  # in and out of the filter
            return "UPDATE movie SET year = %s, released = NOT released, rating = %s WHERE id = %s", [year, rating, movie]
        case 3:
            return "UPDATE movie SET title = title WHERE id = %s", [movie]
        case 4:
            return "DELETE FROM movie WHERE id = %s", [movie]
        case 5:  # moved foreign keys
            moved = "UPDATE movie SET director_id = %s, studio_id = (SELECT id FROM studio WHERE id = %s) WHERE id = %s"
            return moved, [rng.choice((None, rng.randint(1, PEOPLE))), studio, movie]
        case 6:  # another primary key
            other = rng.randint(1, MOVIES)
            return "UPDATE movie SET id = %s WHERE id = %s AND NOT EXISTS (SELECT FROM movie WHERE id = %s)", [other, movie, other]
        case 7:  # many rows
            return "UPDATE movie SET rating = rating + 0.01 WHERE id BETWEEN %s AND %s AND rating < 99", [movie, movie + 30]
        case 8:
            name = f"Studio {rng.randint(1, 99)}"
            return "INSERT INTO studio VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", [studio, name, rng.choice((None, "AB", "CD"))]
        case 9:  # reaches every movie of the studio
            return "UPDATE studio SET name = %s WHERE id = %s", [f"Studio {rng.randint(100, 999)}", studio]
        case 10:  # and, by the cascade, changes them
            return "DELETE FROM studio WHERE id = %s", [studio]
        case _:
            other = rng.randint(1, STUDIOS)
            return "UPDATE studio SET id = %s WHERE id = %s AND NOT EXISTS (SELECT FROM studio WHERE id = %s)", [other, studio, other]


def _on_people(rng: random.Random) -> Statement:
    person, note = rng.randint(1, PEOPLE), rng.choice((None, "", "a note"))
    match rng.choices(range(5), (5, 6, 2, 2, 2))[0]:
        case 0:
            new = "INSERT INTO person VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
            return new, [person, f"Person {rng.randint(1, 999)}", rng.choice((None, 1950)), note]
        case 1:
            return "UPDATE person SET name = %s, note = %s WHERE id = %s", [f"Person {rng.randint(1, 999)}", note, person]
        case 2:
            return "UPDATE person SET note = note WHERE id = %s", [person]
        case 3:
            return "DELETE FROM person WHERE id = %s", [person]
        case _:
            other = rng.randint(1, PEOPLE)
            return "UPDATE person SET id = %s WHERE id = %s AND NOT EXISTS (SELECT FROM person WHERE id = %s)", [other, person, other]
