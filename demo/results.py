"""What Millstream left behind, read without asking it: the index, the table, the file and the topics as they lie on disk.

Also when it has caught up, which is asked of `millstream status`, as a user would.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import tantivy

from demo.commands import Failed, Millstream
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.sinks.iceberg.read import current_rows_sql, table
from millstream.sinks.search.generations import index_path, live
from millstream.topics.local import LocalTopics

INDEX, PRODUCT, TABLE, FILE = "flights", "planes", "lake.flights", "long_delays.jsonl"
REACHED_WITHIN_S = 120.0
# A call of `millstream status` costs as much processor time as the work it asks about.
ASK_EVERY_S = 1.0
READ_BYTES = 16 << 20


def home(project: Path) -> Path:
    """Where the mesh keeps what it knows."""
    return project / ".millstream"


def wait_until_live(millstream: Millstream) -> None:
    """Return when every part of `millstream run` has opened and waits for changes."""
    _wait(millstream, lambda status: status["running"] and all(p["state"] == "caught_up" for p in status["parts"]))


def wait_until_caught_up(millstream: Millstream, url: str) -> float:
    """Return when every change committed so far, as the server at `url` counts, is in every target. Gives the seconds it took."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
        assert row is not None
        # A pipeline's progress is written in hexadecimal of fixed width.
        target = f"{int(row[0]):016x}"
    return _wait(millstream, lambda status: _caught_up(status, target))


def _wait(millstream: Millstream, reached: Callable[[dict[str, Any]], bool]) -> float:
    started = time.monotonic()
    while not reached(status := millstream.json("status")):
        failed = [p for p in status["parts"] if p["state"] == "failed"]
        if failed or time.monotonic() - started > REACHED_WITHIN_S:
            raise Failed(f"millstream run did not get there:\n{json.dumps(failed or status, indent=2)}")
        time.sleep(ASK_EVERY_S)
    return time.monotonic() - started


def _caught_up(status: dict[str, Any], target: str) -> bool:
    """Every pipeline is complete up to the target, and every sink has read all that is published."""
    pipelines = [p for p in status["parts"] if p["part"].startswith("pipeline.")]
    sinks = [p for p in status["parts"] if p["part"].startswith("sink.")]
    complete = all(p["progress"] and min(p["progress"].values()) >= target for p in pipelines)
    return complete and all(s["lag"] == 0 for s in sinks)


def documents(project: Path, name: str = INDEX) -> Iterator[dict[str, Any]]:
    """Every document of the index, as stored."""
    index = tantivy.Index.open(str(index_path(home(project), live(home(project), name))))
    searcher = index.searcher()
    hits = searcher.search(tantivy.Query.all_query(), max(searcher.num_docs, 1), count=False).hits
    for _, address in hits:
        stored = searcher.doc(address)["_document"]
        if stored:  # one document holds the sink's position
            yield json.loads(bytes(stored[0]))


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


def events(project: Path) -> dict[str, int]:
    """Topic → its change events, each read back and decoded."""
    engine = sqlite_engine(home(project) / "mesh.db")
    topics = LocalTopics(home(project) / "topics.db", SqlRegistry(engine))
    counted = {}
    for topic in topics.topics():
        offset = counted[topic.name] = 0
        while batches := topics.read(topic.name, offset, bytes_max=READ_BYTES):
            counted[topic.name] += sum(map(len, batches))
            offset = topics.read_end(batches)
    topics.close()
    engine.dispose()
    return counted
