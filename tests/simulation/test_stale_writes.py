"""Two refreshes of one document finish in reverse, and an old one comes long after a delete: the newest wins, and what is deleted
stays deleted, in the topic and in the index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millstream.engine.pipeline import Pipeline
from millstream.engine.publisher import Publisher
from millstream.engine.sinkrun import SinkRun
from millstream.errors import Irrecoverable, Refused
from millstream.events import envelope
from millstream.events.batch import batch
from millstream.events.origin import Origin
from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.plan import Edge, Input, Occurrence, Output, Plan, Root, SinkPlan, Stateful
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.sinks.search.options import Options
from millstream.sinks.search.query import search
from millstream.sinks.search.sink import open_sink
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics

INT, TEXT = Type("int64"), Type("text")
ROWS = RowSchema((Field("id", INT, 1), Field("up", INT, 2), Field("name", TEXT, 3)), ("id",))
DOCUMENT = RowSchema((Field("id", INT, 1), Field("name", TEXT, 2), Field("boss", TEXT, 3)), ("id",))
SQL = 'SELECT "a"."id" AS "id", "a"."name" AS "name", "b"."name" AS "boss" FROM "a" LEFT JOIN "b" ON "b"."id" = "a"."up"'


class Mesh:
    """A source topic and a document step over it, written to by the test as a connector does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = SqlRegistry(sqlite_engine(folder / "mesh.db"))
        self.topics = LocalTopics(folder / "topics.db", self.registry)
        given = self._topic("s.t", ROWS, Origin("scripted", "s", "db", None, "t"))
        self._topic("p.doc", DOCUMENT, Origin("millstream", "p", "mesh", None, "doc"))
        occurrences = (Occurrence("a", "s.t"), Occurrence("b", "s.t"))
        step = Stateful(
            "doc", SQL, (Root("a", ("id",)),), ("id",), occurrences, (Edge("a", "b", ("up",), ("id",)),), DOCUMENT, keeps="hash"
        )
        self.plan = Plan("p", "team", (given,), (step,), (Output("doc", "p.doc", "none"),), ())
        self.producer = self.topics.open_producer("source.s")

    def _topic(self, name: str, schema: RowSchema, origin: Origin) -> Input:
        version = self.registry.register(f"{name}-value", envelope.value_schema(name, schema))
        key = self.registry.register(f"{name}-key", envelope.key_schema(name, schema))
        self.topics.create(Topic(name, schema.key, key.id, "whole" if schema is ROWS else "none", origin))
        return Input(name, schema, version.id, "whole")

    def write(self, op: str, before: dict[str, Any] | None, after: dict[str, Any] | None) -> None:
        sequence = self.producer.record.sequence + 1
        given = {
            "op": [op],
            "before": pa.array([before], ROWS.arrow),
            "after": pa.array([after], ROWS.arrow),
            "incarnation": np.ones(1, np.uint32),
            "major": np.full(1, sequence, np.uint64),
            "minor": np.zeros(1, np.uint32),
            "ts_us": np.full(1, sequence, np.int64),
            "position": [""],
        }
        made = batch("s.t", ROWS, given, self.plan.inputs[0].schema_id)
        state = {"ready": {"s.t": True}, "progress": {"s": str(sequence)}}
        self.producer.commit([self.topics.encode(made)], state, sequence=sequence, tail=[made])

    def pipeline(self, name: str) -> Pipeline:
        made = Pipeline(self.plan, self.topics, self.registry, self.folder / f"{name}.duckdb")
        made.open()
        return made

    def through(self, pipeline: Pipeline) -> None:
        ends = {"s.t": self.topics.end("s.t")}
        while not pipeline.caught_up(ends):
            pipeline.step()

    def documents(self) -> dict[int, str | None]:
        """Key → name of what is live in the topic."""
        found: dict[int, str | None] = {}
        offset = 0
        while batches := self.topics.read("p.doc", offset, bytes_max=1 << 20):
            offset = self.topics.read_end(batches)
            for b in batches:
                for key, after in zip(b.keys().to_pylist(), b.column("after").to_pylist(), strict=True):
                    found.pop(key["id"], None)
                    if after is not None:
                        found[key["id"]] = after["name"]
        return found


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@pytest.mark.parametrize("deleted", [False, True])
def test_the_refresh_that_finishes_last_but_began_first_is_refused(mesh: Mesh, monkeypatch: pytest.MonkeyPatch, deleted: bool) -> None:
    mesh.write("c", None, {"id": 1, "up": None, "name": "first"})
    slow = mesh.pipeline("slow")
    mesh.through(slow)
    held: list[Callable[[], None]] = []
    publish = Publisher.publish
    monkeypatch.setattr(Publisher, "publish", lambda self, commit: held.append(lambda: publish(self, commit)))
    mesh.write("u", {"id": 1, "up": None, "name": "first"}, {"id": 1, "up": None, "name": "second"})
    slow.step()  # it has computed "second", and is about to say so
    monkeypatch.setattr(Publisher, "publish", publish)
    mesh.write("u", {"id": 1, "up": None, "name": "second"}, {"id": 1, "up": None, "name": "third"})
    if deleted:
        mesh.write("d", {"id": 1, "up": None, "name": "third"}, None)
    quick = mesh.pipeline("quick")
    mesh.through(quick)
    wanted = {} if deleted else {1: "third"}
    assert mesh.documents() == wanted
    assert held, "the slow refresh had nothing to say: nothing is tested"
    with pytest.raises(Irrecoverable) as refused:
        held[0]()
    assert refused.value.code == "fenced"
    assert mesh.documents() == wanted


def test_what_was_deleted_stays_deleted_when_an_old_document_is_written_again(mesh: Mesh) -> None:
    mesh.write("c", None, {"id": 1, "up": None, "name": "first"})
    mesh.write("c", None, {"id": 2, "up": None, "name": "other"})
    pipeline = mesh.pipeline("one")
    mesh.through(pipeline)
    early, early_end = mesh.topics.read("p.doc", 0, bytes_max=1 << 20), mesh.topics.end("p.doc")
    mesh.write("d", {"id": 1, "up": None, "name": "first"}, None)
    mesh.through(pipeline)
    sink = open_sink("index", Options(index="doc"), mesh.folder)
    schema_id = mesh.registry.versions("p.doc-value")[-1].id
    run = SinkRun(SinkPlan("index", "search", "p.doc", {}), DOCUMENT, schema_id, sink, mesh.topics, mesh.registry, 0.0)
    run.open()
    while not run.caught_up({"p.doc": mesh.topics.end("p.doc")}):
        run.step()
    sink.write(early, {"p.doc": early_end})  # a write that was on its way for long
    with pytest.raises(Refused) as refused:
        open_sink("index", Options(index="doc"), mesh.folder).open(99)  # and no second writer beside it
    assert refused.value.code == "target_in_use"
    run.close()
    assert [h.document["id"] for h in search(mesh.folder, "doc", "*").hits] == [2]
    late = open_sink("index", Options(index="doc"), mesh.folder)
    with pytest.raises(Irrecoverable) as fenced:
        late.open(0)
    assert fenced.value.code == "fenced"
