"""What keeping documents fresh costs as the tables grow: a change of 1, 10 and 1,000 rows, a fan-out, a restart, disk and memory.

Method. Flights with their airline, plane and two airports; the flights are N rows, the planes N/100, airlines and airports as they are in
the world. Events are written to local topics as a connector writes them; clocks start when a change is committed to its topic and
stop when the pipeline has published the last document that it touches. Each size runs in a process of its own, whose peak
memory the kernel counts. A fan-out is one airline's row, under N/16 documents. Medians of the repeats; parity: every document
equals DuckDB's own join over the rows as they are in the end.

`python -m benchmarks.growth [--sizes 100000 1000000 10000000]` writes benchmarks/results/growth.json.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from millstream.engine.pipeline import Pipeline
from millstream.events import envelope
from millstream.events.batch import Batch, batch
from millstream.events.origin import Origin
from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.compile import compile_all
from millstream.pipelines.plan import Input, Plan
from millstream.pipelines.project import load
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics

RESULTS = Path(__file__).parent / "results" / "growth.json"
SIZES = (100_000, 1_000_000, 10_000_000)
AIRLINES, AIRPORTS = 16, 1_458
WRITE_ROWS = 50_000
WRITER = "source.ops"

INT, TEXT, FLOAT = Type("int64"), Type("text"), Type("float64")
TABLES: Mapping[str, tuple[tuple[str, Type], ...]] = {
    "flights": (
        ("id", INT), ("carrier", TEXT), ("tailnum", TEXT), ("origin", TEXT), ("dest", TEXT), ("dep_delay", INT), ("distance", FLOAT),
    ),
    "airlines": (("carrier", TEXT), ("name", TEXT)),
    "planes": (("tailnum", TEXT), ("year", INT), ("model", TEXT), ("seats", INT)),
    "airports": (("faa", TEXT), ("name", TEXT), ("lat", FLOAT), ("lon", FLOAT)),
}  # fmt: skip
JOIN = """SELECT f.id, f.carrier, f.dep_delay, f.distance, a.name AS airline, p.model, p.seats, o.name AS origin_name, d.name AS dest_name
      FROM {0}flights f
      LEFT JOIN {0}airlines a ON a.carrier = f.carrier
      LEFT JOIN {0}planes p ON p.tailnum = f.tailnum
      LEFT JOIN {0}airports o ON o.faa = f.origin
      LEFT JOIN {0}airports d ON d.faa = f.dest"""
PIPELINE = f"""\
pipeline: documents
owner: team
steps:
  - name: document
    sql: |
      {JOIN.format("ops.public.")}
    key: [id]
"""


def schema(table: str) -> RowSchema:
    fields = tuple(Field(name, type_, i) for i, (name, type_) in enumerate(TABLES[table], 1))
    return RowSchema(fields, (fields[0].name,))


def rows(table: str, start: int, stop: int, planes: int) -> pa.Table:
    """Rows start..stop of a table, the same on every call."""
    n = np.arange(start, stop, dtype=np.int64)

    def text(prefix: str, values: np.ndarray) -> pa.Array:
        return pa.array([f"{prefix}{v}" for v in values.tolist()])

    columns: dict[str, Any] = {
        "flights": lambda: {
            "id": n, "carrier": text("C", n % AIRLINES), "tailnum": text("N", n * 7919 % planes), "origin": text("A", n % 3),
            "dest": text("A", n * 31 % AIRPORTS), "dep_delay": n % 200 - 20, "distance": (n % 2500).astype(np.float64),
        },
        "airlines": lambda: {"carrier": text("C", n), "name": text("Airline ", n)},
        "planes": lambda: {"tailnum": text("N", n), "year": 1980 + n % 40, "model": text("Model ", n % 200), "seats": 50 + n % 300},
        "airports": lambda: {"faa": text("A", n), "name": text("Airport ", n), "lat": n % 90 * 1.0, "lon": n % 180 * 1.0},
    }[table]()  # fmt: skip
    return pa.table(columns)


@dataclass
class Bench:
    """One mesh of local topics and one pipeline over them, in a folder."""

    folder: Path

    def __post_init__(self) -> None:
        self.registry = SqlRegistry(sqlite_engine(self.folder / "mesh.db"))
        self.topics = LocalTopics(self.folder / "topics.db", self.registry)
        self.inputs: dict[str, Input] = {}
        for table in TABLES:
            name = f"ops.public.{table}"
            self._topic(name, schema(table), Origin("script", "ops", "db", "public", table))
        self.plan = self._compiled()
        for output in self.plan.outputs:
            made = next(n.schema for n in self.plan.nodes if n.name == output.node)
            self._topic(output.topic, made, Origin("millstream", "documents", "mesh", None, output.node))
        self.producer = self.topics.open_producer(WRITER)

    def _topic(self, name: str, row_schema: RowSchema, origin: Origin) -> None:
        version = self.registry.register(f"{name}-value", envelope.value_schema(name, row_schema))
        key = self.registry.register(f"{name}-key", envelope.key_schema(name, row_schema))
        self.topics.create(Topic(name, row_schema.key, key.id, "whole", origin))
        self.inputs[name] = Input(name, row_schema, version.id, "whole")

    def _compiled(self) -> Plan:
        project = self.folder / "project"
        (project / "pipelines").mkdir(parents=True, exist_ok=True)
        (project / "mesh.yaml").write_text("mesh: growth\n")
        (project / "pipelines" / "documents.yaml").write_text(PIPELINE)
        return compile_all(load(project, {}, (), ()), self.inputs)[0]

    def write(self, table: str, before: pa.Table | None, after: pa.Table) -> None:
        """One commit: inserts where `before` is None, else updates."""
        shape, count = schema(table), after.num_rows
        name = f"ops.public.{table}"
        major = self.producer.record.sequence + 1
        given = {
            "op": ["c" if before is None else "u"] * count,
            "before": pa.nulls(count, shape.arrow) if before is None else _structs(before, shape),
            "after": _structs(after, shape),
            "incarnation": np.ones(count, np.uint32),
            "major": np.full(count, major, np.uint64),
            "minor": np.arange(count, dtype=np.uint32),
            "ts_us": np.full(count, int(time.time() * 1e6), np.int64),
            "position": [f"{major:016x}"] * count,
        }
        made = batch(name, shape, given, self.inputs[name].schema_id)
        state = {"ready": dict.fromkeys(self.inputs, True), "progress": {"ops": f"{major:016x}"}}
        self.producer.commit([self.topics.encode(made)], state, sequence=major, tail=[made])

    def pipeline(self) -> Pipeline:
        made = Pipeline(self.plan, self.topics, self.registry, self.folder / "documents.duckdb", memory_mib=4096)
        made.open()
        return made

    def documents(self) -> pa.Table:
        """Every event of the output topic: place, key, row."""
        return pa.concat_tables(list(self._documents()))

    def _documents(self) -> Iterator[pa.Table]:
        offset = 0
        while batches := self.topics.read("documents.document", offset, bytes_max=32 << 20):
            offset = self.topics.read_end(batches)
            for b in batches:
                yield _placed(b)


def _placed(b: Batch) -> pa.Table:
    return pa.table({"place": b.offsets, "id": b.keys().field("id"), "after": b.column("after")})


def _structs(table: pa.Table, shape: RowSchema) -> pa.StructArray:
    arrays = [table.column(f.name).combine_chunks().cast(f.type.arrow) for f in shape.fields]
    arrays = [a.combine_chunks() if isinstance(a, pa.ChunkedArray) else a for a in arrays]
    return pa.StructArray.from_arrays(arrays, fields=list(shape.arrow))


def through(pipeline: Pipeline, topics: LocalTopics) -> None:
    """Steps until all that is in the topics now is published."""
    ends = {t: topics.end(t) for t in pipeline.reads}
    while not pipeline.caught_up(ends):
        pipeline.step()


def timed(pipeline: Pipeline, topics: LocalTopics) -> float:
    before = time.monotonic()
    through(pipeline, topics)
    return time.monotonic() - before


def measure(folder: Path, size: int, repeats: int) -> dict[str, Any]:
    """One size, in this process."""
    bench = Bench(folder)
    planes = max(size // 100, 10)
    tables = {"airlines": AIRLINES, "airports": AIRPORTS, "planes": planes, "flights": size}
    for table, count in tables.items():
        for start in range(0, count, WRITE_ROWS):
            bench.write(table, None, rows(table, start, min(start + WRITE_ROWS, count), planes))
    pipeline = bench.pipeline()
    found: dict[str, Any] = {"flights": size, "build_s": round(timed(pipeline, bench.topics), 2)}
    found["build_documents_per_s"] = round(size / found["build_s"])
    changed = _change_flights(bench, pipeline, planes, size, repeats, found)
    _change_airline(bench, pipeline, size, repeats, found)
    pipeline.close()
    before = time.monotonic()
    pipeline = bench.pipeline()
    pipeline.step()
    found["restart_s"] = round(time.monotonic() - before, 2)
    pipeline.close()
    found["state_mib"] = _mib(folder, "documents.duckdb*")
    found["topics_mib"] = _mib(folder, "topics.db*")
    found["peak_mib"] = round(_peak_mib())  # before the comparison, which is not part of what is measured
    found["parity"] = _parity(bench, tables, changed, planes, repeats)
    return found


def _change_flights(bench: Bench, pipeline: Pipeline, planes: int, size: int, repeats: int, found: dict[str, Any]) -> dict[int, int]:
    """Flights get another delay, spread over the whole table. Returns flight → delay."""
    changed: dict[int, int] = {}
    place = 0
    for count in (1, 10, 1_000):
        times = []
        for _ in range(repeats * (5 if count < 1_000 else 1)):
            place += 1
            ids = np.unique((np.arange(count) * (size // count) + place * 101) % size)
            old = pa.concat_tables([_flight(int(i), changed, planes) for i in ids])
            delays = pa.array(np.full(len(ids), 1_000 + place))
            new = old.set_column(old.column_names.index("dep_delay"), "dep_delay", delays)
            bench.write("flights", old, new)
            times.append(timed(pipeline, bench.topics))
            changed.update(dict.fromkeys(ids.tolist(), 1_000 + place))
        found[f"change_{count}_ms"] = round(statistics.median(times) * 1e3, 1)
        found[f"change_{count}_worst_ms"] = round(max(times) * 1e3, 1)
    return changed


def _flight(number: int, changed: Mapping[int, int], planes: int) -> pa.Table:
    row = rows("flights", number, number + 1, planes)
    if number in changed:
        row = row.set_column(row.column_names.index("dep_delay"), "dep_delay", pa.array([changed[number]]))
    return row


def _airline(version: int) -> pa.Table:
    return pa.table({"carrier": ["C3"], "name": [f"Airline 3 v{version}" if version else "Airline 3"]})


def _change_airline(bench: Bench, pipeline: Pipeline, size: int, repeats: int, found: dict[str, Any]) -> None:
    times = []
    for version in range(repeats):
        bench.write("airlines", _airline(version), _airline(version + 1))
        times.append(timed(pipeline, bench.topics))
    documents = len(range(3, size, AIRLINES))
    found["fan_out_documents"] = documents
    found["fan_out_s"] = round(statistics.median(times), 2)
    found["fan_out_documents_per_s"] = round(documents / statistics.median(times))


def _parity(bench: Bench, tables: Mapping[str, int], changed: Mapping[int, int], planes: int, repeats: int) -> bool:
    con = duckdb.connect()
    con.execute("CREATE TABLE events (place BIGINT, id BIGINT, after VARCHAR)")
    for part in bench._documents():
        con.register("part", part)
        con.execute("INSERT INTO events SELECT place, id, CAST(after AS VARCHAR) FROM part")
    for table, count in tables.items():
        for start in range(0, count, WRITE_ROWS):
            con.register("part", rows(table, start, min(start + WRITE_ROWS, count), planes))
            con.execute(f"CREATE TABLE IF NOT EXISTS {table} AS FROM part LIMIT 0")
            con.execute(f"INSERT INTO {table} FROM part")
    con.register("delays", pa.table({"id": list(changed), "delay": list(changed.values())}))
    con.execute("UPDATE flights SET dep_delay = delay FROM delays WHERE delays.id = flights.id")
    con.execute("UPDATE airlines SET name = ? WHERE carrier = 'C3'", [f"Airline 3 v{repeats}"])
    con.execute(f"CREATE TABLE truth AS SELECT id, CAST(t AS VARCHAR) AS row FROM ({JOIN.format('')}) t")
    con.execute("CREATE TABLE last AS SELECT id, arg_max(after, place) AS row FROM events GROUP BY id")
    wrong = con.execute("SELECT count(*) FROM truth t FULL JOIN last l ON l.id = t.id WHERE t.row IS DISTINCT FROM l.row").fetchone()
    return wrong is not None and wrong[0] == 0


def _mib(folder: Path, pattern: str) -> int:
    return round(sum(f.stat().st_size for f in folder.glob(pattern) if f.is_file()) / 2**20)


def _peak_mib() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="flights")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "SIZE", "REPEATS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(Path(given.child[0]), int(given.child[1]), int(given.child[2]))))
        return 0
    found = []
    for size in given.sizes:
        with tempfile.TemporaryDirectory(prefix="millstream-growth-") as place:
            command = [sys.executable, "-m", "benchmarks.growth", "--child", place, str(size), str(given.repeats)]
            found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]))
        print(json.dumps(found[-1], indent=1), flush=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if all(f["parity"] for f in found) else 1


if __name__ == "__main__":
    sys.exit(main())
