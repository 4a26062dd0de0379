"""A process that writes random events to the topics of ten tables, weaves documents of them, and is killed again and again.

Each life begins with a look: what the state's copies hold must be the fold of their topics up to the positions that were committed with
them. `python faults_copies.py FOLDER SEED` prints "new" or "same" when it has looked, or what differs, and then works until it is killed.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from faults_product import PRODUCT, TABLES

from millstream.engine.pipeline import Pipeline
from millstream.engine.state import State
from millstream.engine.store import Store
from millstream.events import envelope
from millstream.events.batch import Batch, batch
from millstream.events.origin import Grade, Origin
from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.generations import compile_product
from millstream.pipelines.plan import Input, Plan, Stateful
from millstream.pipelines.project import load
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.sinks.kinds import KINDS
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics

_COLUMNS = {
    "studio": "id int64, name text, country text",
    "genre": "id int32, name text",
    "movie": "id int64, title text, year int32, rating decimal, director_id int64, studio_id int64",
    "movie_genre": "movie_id int64, genre_id int32, rank int32",
    "person": "id int64, name text, born int32, country text",
    "credit": "id int64, movie_id int64, person_id int64, role text, position int32",
    "award": "id int64, person_id int64, name text, year int32",
    "country": "code text, name text",
    "review": "id int64, movie_id int64, stars int32, words text, hidden boolean",
    "release": "id int64, movie_id int64, country text, day date",
}
_KEYS = {"movie_genre": ("movie_id", "genre_id"), "country": ("code",)}
_FIRST = 60
Row = dict[str, Any]


def _schema(table: str) -> RowSchema:
    fields = [part.split() for part in _COLUMNS[table].split(", ")]
    types = [Type("decimal", 4, 2) if kind == "decimal" else Type(kind) for _, kind in fields]  # type: ignore[arg-type]
    return RowSchema(tuple(Field(f[0], t, i) for i, (f, t) in enumerate(zip(fields, types, strict=True), 1)), _KEYS.get(table, ("id",)))


SCHEMAS = {f"{source}.public.{table}": _schema(table) for source, tables in TABLES.items() for table in tables}


def _value(rng: random.Random, field: Field, key: bool) -> Any:
    if not key and rng.random() < 0.4:
        return None
    match field.type.kind:
        case "int64" | "int32":
            return rng.randint(1, 90)
        case "text":
            return rng.choice("ABCDE")
        case "decimal":
            return Decimal("1.25")
        case "boolean":
            return rng.random() < 0.5
    return date(2000, 1, 1) + timedelta(rng.randrange(30))


@dataclass
class Life:
    """One life of the process, over a folder that outlives it."""

    folder: Path
    rng: random.Random

    def __post_init__(self) -> None:
        self.registry = SqlRegistry(sqlite_engine(self.folder / "mesh.db"))
        self.topics = LocalTopics(self.folder / "topics.db", self.registry)
        self.inputs = {
            name: self._topic(name, s, Origin("scripted", name.split(".")[0], "db", "public", name), "whole") for name, s in SCHEMAS.items()
        }
        self.plan = self._plan()
        (node,) = (n for n in self.plan.nodes if isinstance(n, Stateful))
        (output,) = self.plan.outputs
        self._topic(output.topic, node.schema, Origin("millstream", self.plan.pipeline, "mesh", None, output.node), output.grade)
        self.step = node.name
        self.rows = {name: self.fold(name, self.topics.end(name)) for name in SCHEMAS}
        self.producers = {source: self.topics.open_producer(f"source.{source}") for source in TABLES}

    def _topic(self, name: str, schema: RowSchema, origin: Origin, grade: Grade) -> Input:
        version = self.registry.register(f"{name}-value", envelope.value_schema(name, schema))
        key = self.registry.register(f"{name}-key", envelope.key_schema(name, schema))
        self.topics.create(Topic(name, schema.key, key.id, grade, origin))
        return Input(name, schema, version.id, grade)

    def _plan(self) -> Plan:
        project = self.folder / "project"
        (project / "products").mkdir(parents=True, exist_ok=True)
        (project / "mesh.yaml").write_text("mesh: films\n")
        (project / "products" / "film.yaml").write_text(PRODUCT)
        return compile_product(load(project, {}, (), KINDS).products[0], 1, self.inputs)

    def fold(self, name: str, end: int) -> dict[tuple[Any, ...], Row]:
        """Key → row, as the events below `end` leave them."""
        rows: dict[tuple[Any, ...], Row] = {}
        offset = 0
        while offset < end and (batches := self.topics.read(name, offset, bytes_max=8 << 20)):
            offset = self.topics.read_end(batches)
            for b in batches:
                for at, key, after in zip(b.offsets.tolist(), b.keys().to_pylist(), b.column("after").to_pylist(), strict=True):  # type: ignore[union-attr]
                    if at < end:
                        rows.pop(tuple(key.values()), None)
                        if after is not None:
                            rows[tuple(key.values())] = after
        return rows

    def look(self, store: Store) -> str:
        """What differs between a copy and its topic at the committed positions, or "same"; "new" where nothing is committed yet."""
        meta = State(store).meta()
        if meta is None:
            return "new"
        for name, schema in SCHEMAS.items():
            found = store.table(f'SELECT * FROM "copy {self.step} {name}"').to_pylist()
            columns = [c for c in schema.names if found and c in found[0]]
            meant = [{c: r[c] for c in columns} for r in self.fold(name, meta.state["positions"][name]).values()]
            differing = [r for r in ({c: f[c] for c in columns} for f in found) if r not in meant]
            if differing or len(found) != len(meant):
                return f"{name}: {len(found)} rows for {len(meant)}, of them not as its topic says: {differing[:3]}"
        return "same"

    def write(self, source: str) -> None:
        """One commit of random changes to some tables of a source."""
        producer = self.producers[source]
        major = producer.record.sequence + 1
        names = [n for n in SCHEMAS if n.startswith(f"{source}.") and (major == 1 or self.rng.random() < 0.4)]
        made = [self._changes(name, _FIRST if major == 1 else self.rng.randint(1, 6), major) for name in names]
        state: Mapping[str, Any] = {"ready": {n: True for n in SCHEMAS if n.startswith(f"{source}.")}, "progress": {source: str(major)}}
        if made:
            producer.commit([self.topics.encode(b) for b in made], state, sequence=major, tail=made)

    def _changes(self, name: str, count: int, major: int) -> Batch:
        schema, rows, events = SCHEMAS[name], self.rows[name], []
        for _ in range(count):
            row = {f.name: _value(self.rng, f, f.name in schema.key) for f in schema.fields}
            key = tuple(row[k] for k in schema.key)
            old = rows.get(key)
            if old is not None and self.rng.random() < 0.2:
                events.append(("d", rows.pop(key), None))
                continue
            if old is not None and self.rng.random() < 0.6:  # one column alone
                column = self.rng.choice(schema.names)
                row = {**old, column: row[column]}
            rows[key] = row
            events.append(("c" if old is None else "u", old, row))
        return batch(
            name,
            schema,
            {
                "op": [op for op, _, _ in events],
                "before": pa.array([before for _, before, _ in events], schema.arrow),
                "after": pa.array([after for _, _, after in events], schema.arrow),
                "incarnation": np.ones(count, np.uint32),
                "major": np.full(count, major, np.uint64),
                "minor": np.arange(count, dtype=np.uint32),
                "ts_us": np.full(count, major, np.int64),
                "position": [""] * count,
            },
            self.inputs[name].schema_id,
        )

    def work(self) -> None:
        """Until it is killed, or asked to stop: then the state is closed as it should be."""
        asked: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
        path = self.folder / "film.duckdb"
        pipeline = Pipeline(self.plan, self.topics, self.registry, path)
        pipeline.open()
        looking = Store(path)  # one process opens a file once: it sees what the pipeline has read back
        print(self.look(looking), flush=True)
        looking.close()
        while not asked:
            for source in TABLES:
                self.write(source)
            for _ in range(self.rng.randint(1, 3)):
                pipeline.step()
        pipeline.close()


if __name__ == "__main__":
    Life(Path(sys.argv[1]), random.Random(sys.argv[2])).work()
