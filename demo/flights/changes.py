"""What happens in the two databases while Millstream runs: each change is what an application would do, in its own transaction.

A change knows which document shows its effect, and counts the flights whose documents it touches by asking Postgres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psycopg

# A flight number and an airline that no row of the data has.
NEW_CARRIER = "ZZ"
NEW_TAILNUM = "N4242Z"

FIRST_DAY = "time_hour < (SELECT min(time_hour) FROM flights) + interval '1 day'"
COPY_FLIGHT = """
INSERT INTO flights (year, month, day, sched_dep_time, dep_delay, sched_arr_time, carrier, flight, tailnum, origin, dest,
                     distance, hour, minute, time_hour)
SELECT year, month, day, sched_dep_time, 240, sched_arr_time, '{carrier}', 4242, tailnum, origin, dest,
       distance, hour, minute, time_hour
FROM flights WHERE id = {id}"""


@dataclass(frozen=True)
class Change:
    title: str
    database: str
    statement: str
    touches: str
    """Counts, in `operations` and before the change, the documents of flights that it will change."""


@dataclass(frozen=True)
class Cast:
    """The rows that the changes are played on, chosen by the data itself so that any number of flights will do."""

    carrier: str
    airline: str
    shown: int
    deleted: int
    moved: int
    moved_to: str
    renamed_plane: str


def choose(operations: psycopg.Connection, reference: psycopg.Connection) -> Cast:
    """The busiest airline and, of its flights, one to show, one to delete and one to move to another plane."""

    def one(connection: psycopg.Connection, sql: str, *values: object) -> tuple:
        row = connection.execute(sql, values).fetchone()
        assert row is not None, f"no row in the demo's data for: {sql}"
        return row

    (carrier,) = one(operations, "SELECT carrier FROM flights GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1")
    (airline,) = one(reference, "SELECT name FROM airlines WHERE carrier = %s", carrier)
    flight = "SELECT f.id, p.tailnum FROM flights f JOIN planes p USING (tailnum) WHERE f.carrier = %s ORDER BY f.id OFFSET %s LIMIT 1"
    shown, plane = one(operations, flight, carrier, 0)
    deleted, _ = one(operations, flight, carrier, 1)
    (moved_to,) = one(
        operations,
        "SELECT tailnum FROM planes WHERE manufacturer <> (SELECT manufacturer FROM planes WHERE tailnum = %s) ORDER BY 1 LIMIT 1",
        plane,
    )
    (renamed,) = one(operations, "SELECT tailnum FROM flights JOIN planes USING (tailnum) GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1")
    return Cast(carrier, airline, shown, deleted, shown, moved_to, renamed)


def script(cast: Cast) -> list[Change]:
    """In order; later ones build on earlier ones."""
    return [
        Change(
            f"An airline is renamed: {cast.airline} becomes Millstream Air",
            "reference",
            f"UPDATE airlines SET name = 'Millstream Air' WHERE carrier = '{cast.carrier}'",
            f"SELECT count(*) FROM flights WHERE carrier = '{cast.carrier}'",
        ),
        Change(
            f"Flight {cast.moved} is moved to plane {cast.moved_to}",
            "operations",
            f"UPDATE flights SET tailnum = '{cast.moved_to}' WHERE id = {cast.moved}",
            "SELECT 1",
        ),
        Change(
            f"Flight {cast.deleted} is deleted",
            "operations",
            f"DELETE FROM flights WHERE id = {cast.deleted}",
            "SELECT 1",
        ),
        Change(
            f"Plane {cast.renamed_plane} gets another registration, so its flights lose their plane",
            "operations",
            f"UPDATE planes SET tailnum = '{NEW_TAILNUM}' WHERE tailnum = '{cast.renamed_plane}'",
            f"SELECT count(*) FROM flights WHERE tailnum = '{cast.renamed_plane}'",
        ),
        Change(
            f"A flight is inserted, of an airline ({NEW_CARRIER}) that nobody knows yet",
            "operations",
            COPY_FLIGHT.format(carrier=NEW_CARRIER, id=cast.shown),
            "SELECT 1",
        ),
        Change(
            f"The airline {NEW_CARRIER} is inserted in the other database",
            "reference",
            f"INSERT INTO airlines VALUES ('{NEW_CARRIER}', 'Zephyr & Söhne')",
            f"SELECT count(*) FROM flights WHERE carrier = '{NEW_CARRIER}'",
        ),
        Change(
            "A day's delays are corrected in one transaction",
            "operations",
            f"UPDATE flights SET dep_delay = dep_delay - 5, arr_delay = arr_delay - 5 WHERE {FIRST_DAY}",
            f"SELECT count(*) FROM flights WHERE {FIRST_DAY}",
        ),
    ]


def apply(change: Change, url_of: Callable[[str], str]) -> int:
    """Commit the change; gives the number of flights whose documents it touches."""
    with psycopg.connect(url_of("operations")) as operations:
        row = operations.execute(change.touches).fetchone()
    with psycopg.connect(url_of(change.database)) as connection:
        done = connection.execute(change.statement)
        assert done.rowcount > 0, f"nothing changed: {change.title}"
    return int(row[0]) if row else 0
