"""What Millstream made of the flights: the Iceberg table and the file, read without asking it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa

from demo.results import home
from millstream.sinks.iceberg.read import current_rows_sql, table

INDEX, PRODUCT, TABLE, FILE = "flights", "planes", "lake.flights", "long_delays.jsonl"


def now(url: str) -> str:
    """Where the server's log ends, as a pipeline's progress is written."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
    assert row is not None
    return f"{int(row[0]):016x}"


def current_rows(project: Path) -> pa.Table:
    """The Iceberg table's rows as they are now: of each key the last event, unless it is a delete."""
    return asked(project, current_rows_sql("flights", ["id"]))


def busiest_routes(project: Path) -> list[dict[str, Any]]:
    query = (
        "SELECT origin_name AS \"from\", dest_name AS \"to\", count(*) AS flights, round(avg(dep_delay), 1) AS delay "
        f"FROM ({current_rows_sql('flights', ['id'])}) WHERE dest_name IS NOT NULL GROUP BY ALL ORDER BY flights DESC, 1, 2 LIMIT 5"
    )  # fmt: skip
    return asked(project, query).to_pylist()


def asked(project: Path, query: str) -> pa.Table:
    """DuckDB's answer over the Iceberg table, which stands in the query as `flights`."""
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    database.register("flights", table(home(project), TABLE).scan().to_arrow())
    return database.sql(query).to_arrow_table()


def last_lines(project: Path) -> list[dict[str, Any]]:
    """The file's rows as they are now: of each key the last line, unless it is a delete."""
    rows: dict[str, dict[str, Any] | None] = {}
    with (project / FILE).open() as lines:
        for line in map(json.loads, lines):
            rows[json.dumps(line["key"])] = line["after"]
    return [row for row in rows.values() if row is not None]
