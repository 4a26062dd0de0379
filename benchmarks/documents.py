"""Documents built and kept fresh, from a commit in Postgres to a searchable document: a year of flights with airline, plane, airport.

Method. One PostgreSQL, one `millstream run` in a process of its own whose CPU seconds and memory are read from the kernel, one index
that this process asks as any user would. The build's clock starts when the process is launched and stops when every document
can be found; a change's clock starts when its COMMIT returns and stops when a search finds the changed document, asked
every 5 ms (20 ms for many documents); asking is part of the load. Under steady single-row transactions the age of the documents is
the process's own figure, over its last minute. Parity: every document in the end equals the join that Postgres computes.

`python -m benchmarks.documents [--flights 336776] [--repeats 3]` writes benchmarks/results/documents.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from benchmarks.process import PROGRAM, Index, reported, running, used, waited
from demo.flights.data import AIRLINES, AIRPORTS, FLIGHTS, FLIGHTS_TOTAL, PLANES, copy

from millstream.catalogue.store import Catalogue
from millstream.schemas.sql import sqlite_engine
from millstream.testing.postgres_server import PostgresServer

RESULTS = Path(__file__).parent / "results" / "documents.json"
AIRLINE = "EV"
STEADY_PER_S, STEADY_S = (50, 500), 65.0  # the process's figures are of a minute
FLIGHTS_MIN = 11_000

FILES = {
    "mesh.yaml": "mesh: flights\n",
    "sources/ops.yaml": """\
source: ops
connector: postgres
url: ${OPS_URL}
tables: [public.flights, public.airlines, public.planes, public.airports]
owner: team
""",
    "products/flight.yaml": """\
product: flight
owner: team
root:
  from: ops.public.flights
  fields: [id, time_hour, carrier, flight, dep_delay, distance]
nest:
  airline: {from: ops.public.airlines, on: airlines.carrier = flights.carrier, one: {name: name}}
  plane: {from: ops.public.planes, on: planes.tailnum = flights.tailnum, one: {tailnum: tailnum, model: model, seats: seats}}
  origin: {from: ops.public.airports, on: airports.faa = flights.origin, one: {faa: faa, name: name}}
sinks:
  - search: {index: flight}
""",
}
TRUTH = """
SELECT f.id, jsonb_build_object('id', f.id, 'dep_delay', f.dep_delay, 'distance', f.distance, 'carrier', f.carrier, 'flight', f.flight,
  'airline', CASE WHEN a.carrier IS NULL THEN NULL ELSE jsonb_build_object('name', a.name) END,
  'plane', CASE WHEN p.tailnum IS NULL THEN NULL ELSE jsonb_build_object('tailnum', p.tailnum, 'model', p.model, 'seats', p.seats) END,
  'origin', CASE WHEN o.faa IS NULL THEN NULL ELSE jsonb_build_object('faa', o.faa, 'name', o.name) END)::text
FROM flights f LEFT JOIN airlines a ON a.carrier = f.carrier LEFT JOIN planes p ON p.tailnum = f.tailnum
LEFT JOIN airports o ON o.faa = f.origin"""


def measure(flights: int, repeats: int) -> dict[str, Any]:
    with PostgresServer() as server, tempfile.TemporaryDirectory(prefix="millstream-documents-") as place:
        folder, url = Path(place), server.url("postgres")
        with psycopg.connect(url) as connection:
            for dataset in (AIRLINES, AIRPORTS, PLANES, FLIGHTS):
                connection.execute(dataset.ddl)
                copy(connection, dataset, flights if dataset is FLIGHTS else FLIGHTS_TOTAL, lambda table, rows: None)
        for name, text in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        environment = {**os.environ, "OPS_URL": url}
        subprocess.run([str(PROGRAM), "apply"], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        index = Index(folder / ".millstream", "flight")
        begin = time.monotonic()
        with running(folder, environment) as process, psycopg.connect(url, autocommit=True) as connection:
            waited(lambda: index.documents() == flights, 0.05)
            took = time.monotonic() - begin
            found: dict[str, Any] = {"flights": flights, "build_s": round(took, 2), "build_documents_per_s": round(flights / took)}
            found |= {f"build_{k}": round(v, 1) for k, v in used(process.pid).items()}
            found |= _changes(connection, index, repeats)
            for per_s in STEADY_PER_S:
                found |= _steady(connection, index, folder / ".millstream", process.pid, per_s)
            found["peak_mib"] = round(used(process.pid)["peak_mib"])
            subprocess.run([str(PROGRAM), "status"], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
            wanted = {id_: json.loads(text) for id_, text in connection.execute(TRUTH.encode())}
            documents = {d["id"]: {k: v for k, v in d.items() if k in wanted[d["id"]]} for d in index.everything()}
            found["parity"] = documents == wanted
        return found


def _changes(connection: psycopg.Connection[Any], index: Index, repeats: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    one = []
    for n in range(20):
        connection.execute("UPDATE flights SET dep_delay = %s WHERE id = %s", [10_000 + n, 1 + n * 37])
        one.append(waited(lambda n=n: index.found("dep_delay", 10_000 + n) == 1))
    found["one_row_p50_ms"], found["one_row_p95_ms"] = (round(v * 1e3) for v in (statistics.median(one), sorted(one)[-2]))
    many, single = [], []
    for n in range(repeats):
        begin = time.monotonic()
        for i in range(1_000):
            connection.execute("UPDATE flights SET dep_delay = %s WHERE id = %s", [20_000 + n, 1 + i * 11])
        waited(lambda n=n: index.found("dep_delay", 20_000 + n) == 1_000, 0.02)
        many.append(time.monotonic() - begin)
        begin = time.monotonic()
        connection.execute("UPDATE flights SET dep_delay = %s WHERE id %% 11 = 1 AND id <= 11000", [30_000 + n])
        waited(lambda n=n: index.found("dep_delay", 30_000 + n) == 1_000, 0.02)
        single.append(time.monotonic() - begin)
    found["thousand_transactions_s"] = round(statistics.median(many), 2)
    found["thousand_rows_s"] = round(statistics.median(single), 2)
    (documents,) = connection.execute("SELECT count(*) FROM flights WHERE carrier = %s", [AIRLINE]).fetchone() or (0,)
    fans = []
    for n in range(repeats):
        connection.execute("UPDATE airlines SET name = %s WHERE carrier = %s", [f"renamed{n}", AIRLINE])
        fans.append(waited(lambda n=n: index.found("airline.name", f"renamed{n}") == documents, 0.02))
    found["fan_out_documents"], found["fan_out_s"] = documents, round(statistics.median(fans), 2)
    found["fan_out_documents_per_s"] = round(documents / statistics.median(fans))
    tails = connection.execute(
        "SELECT tailnum, count(*) FROM flights JOIN planes USING (tailnum) GROUP BY 1 ORDER BY 2 DESC LIMIT 10"
    ).fetchall()
    planes = []
    for n, (tail, count) in enumerate(tails):
        connection.execute("UPDATE planes SET model = %s WHERE tailnum = %s", [f"model{n}", tail])
        planes.append(waited(lambda n=n, count=count: index.found("plane.model", f"model{n}") == count))
    found["one_plane_documents"], found["one_plane_p50_ms"] = [c for _, c in tails][len(tails) // 2], round(statistics.median(planes) * 1e3)
    return found


def _steady(connection: psycopg.Connection[Any], index: Index, state: Path, pid: int, per_s: int) -> dict[str, Any]:
    """One-row transactions, evenly: the age of documents when they can be searched, and the CPU seconds of a second."""
    cpu, begin = used(pid)["cpu_s"], time.monotonic()
    rows = round(STEADY_S * per_s)
    for n in range(rows):
        connection.execute("UPDATE flights SET distance = %s WHERE id = %s", [per_s * 1_000 + n, 1 + n * 37 % FLIGHTS_MIN])
        time.sleep(max(0.0, begin + (n + 1) / per_s - time.monotonic()))
    took = time.monotonic() - begin
    parts = Catalogue(sqlite_engine(state / "mesh.db")).figures()
    figures = next(f for part, f in parts.items() if part.startswith("sink.flight"))
    said = {
        "per_s": round(rows / took),
        "p50_ms": figures["freshness_p50_ms"],
        "p99_ms": figures["freshness_p99_ms"],
        "cpu_cores": round((used(pid)["cpu_s"] - cpu) / took, 2),
    }
    waited(lambda: index.found("distance", per_s * 1_000 + rows - 1) == 1)
    return {f"steady_{per_s}_{name}": value for name, value in said.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.documents", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flights", type=int, default=FLIGHTS_TOTAL)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.flights < FLIGHTS_MIN:
        parser.error(f"--flights: at least {FLIGHTS_MIN}, which are the ones that change")
    found = measure(given.flights, given.repeats)
    return reported(found, given.output)


if __name__ == "__main__":
    sys.exit(main())
