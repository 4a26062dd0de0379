"""Readers that compaction had to go past: a pipeline is rebuilt and deletes what it does not meet again, a sink says so and stops."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa

from millstream.components import find
from millstream.engine import pipeline as pipelines
from millstream.engine.pipeline import Pipeline
from millstream.engine.sinkrun import NEW_TARGET, SinkRun
from millstream.errors import Irrecoverable
from millstream.events import envelope
from millstream.events.batch import Batch, batch
from millstream.events.origin import DERIVED, Origin
from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.plan import Input, Output, Plan, Projection, SinkPlan, Stateless
from millstream.schemas.sql import SqlRegistry
from millstream.sinks.kinds import KINDS
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics
from millstream.topics.local.compaction import Keep

IN = RowSchema((Field("id", Type("int64"), 1), Field("v", Type("int64"), 2)), ("id",))
STEP = Stateless("s", "t", '"v" > 0', (Projection("id", '"id"'), Projection("v", '"v"')), IN)


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = SqlRegistry(sa.create_engine(f"sqlite:///{folder}/mesh.db"))
        self.topics = LocalTopics(
            folder / "topics.db", self.registry, tail_bytes_max=0, keep=Keep(0, behind_bytes_max=0, round_bytes_min=0)
        )
        self.ids = {}
        for name, origin in {"t": Origin("scripted", "s", "db", None, "t"), "p.s": Origin(DERIVED, "p", "mesh", None, "s")}.items():
            self.ids[name] = self.registry.register(f"{name}-value", envelope.value_schema(name, IN)).id
            key_id = self.registry.register(f"{name}-key", envelope.key_schema(name, IN)).id
            self.topics.create(Topic(name, ("id",), key_id, "whole", origin))
        self.source = self.topics.open_producer("source.s")
        self.rows: dict[int, dict] = {}

    def write(self, *changes: tuple[int, int | None]) -> None:
        """A commit, and so a block, for each change: key and value, None for a delete."""
        for key, value in changes:
            before, after = self.rows.get(key), None if value is None else {"id": key, "v": value}
            made = batch(
                "t",
                IN,
                {
                    "op": ["d" if after is None else "u" if before else "c"],
                    "before": pa.array([before], IN.arrow),
                    "after": pa.array([after], IN.arrow),
                    "incarnation": [1],
                    "major": [self.source.record.sequence],
                    "minor": [0],
                    "ts_us": [0],
                    "position": [""],
                },
                self.ids["t"],
            )
            self.source.commit([self.topics.encode(made)], {"ready": {"t": True}}, sequence=self.source.record.sequence + 1)
            self.rows.pop(key, None)
            if after is not None:
                self.rows[key] = after

    def compact(self) -> None:
        """Twice: what the first round leaves of deletes the second takes."""
        for key in (90, 91):
            self.topics.compact(lambda seconds: False)
            self.write(*((key, n) for n in range(1, 12)))  # enough to be worth a round

    def pipeline(self) -> Pipeline:
        plan = Plan("p", "o", (Input("t", IN, self.ids["t"], "whole"),), (STEP,), (Output("s", "p.s", "whole"),), ())
        return Pipeline(plan, self.topics, self.registry, self.folder / "p.duckdb")

    def published(self) -> dict[int, dict]:
        rows: dict[int, dict] = {}
        for b in self.topics.read("p.s", 0, bytes_max=1 << 30):
            for event in b.rows.to_pylist():
                rows.pop((event["before"] or event["after"])["id"], None)
                if event["after"]:
                    rows[event["after"]["id"]] = event["after"]
        return rows


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.topics.close()


def worked_off(pipeline: Pipeline | SinkRun) -> None:
    while pipeline.step():
        pass


@pytest.mark.parametrize("crash", ["none", "as it begins", "in the middle"])
def test_a_pipeline_is_rebuilt_and_deletes_what_it_does_not_meet_again(world: World, crash: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write((1, 5), (2, 5), (3, 5), (4, 5))
    pipeline = world.pipeline()
    pipeline.open()
    worked_off(pipeline)
    assert world.published() == {k: {"id": k, "v": 5} for k in (1, 2, 3, 4)}
    pipeline.close()
    world.topics.note_reader("pipeline.p", {"t": 4})
    world.write((1, None), (2, -1), (3, 6), (5, 7), (6, 1), (6, None))
    world.compact()
    assert world.topics.lost("pipeline.p", {"t": 4}) == ["t"]
    kept = {(e["before"] or e["after"])["id"] for b in world.topics.read("t", 0, bytes_max=1 << 30) for e in b.rows.to_pylist()}
    assert 1 not in kept, "not even its delete is left"
    pipeline = world.pipeline()
    pipeline.open()
    if crash != "none":
        assert pipeline.step()
        if crash == "in the middle":
            monkeypatch.setattr(pipelines, "reached", lambda moment: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                pipeline.step()
            monkeypatch.undo()
        pipeline.close()
        pipeline = world.pipeline()
        pipeline.open()
    worked_off(pipeline)
    assert world.published() == {k: r for k, r in world.rows.items() if r["v"] > 0}
    assert pipeline.positions == {"t": world.topics.end("t")}
    assert world.topics.lost("pipeline.p", pipeline.positions) == []
    told = world.topics.producer_record("pipeline.p").state["rebuilt"]
    assert told["lost"] == ["t"], "its owner is told"
    world.write((1, 8))
    worked_off(pipeline)
    assert world.published()[1] == {"id": 1, "v": 8}
    pipeline.close()


class Target:
    def __init__(self, position: int) -> None:
        self.position = position
        self.seen: list[int] = []

    def open(self, fence: int) -> None: ...

    def accept(self, schema: RowSchema) -> None: ...

    def resume_after(self) -> Mapping[str, int]:
        return {"t": self.position} if self.position else {}

    def write(self, batches: Sequence[Batch], up_to: Mapping[str, int]) -> None:
        self.seen += [e["id"] for b in batches for e in b.column("after").to_pylist() if e]
        self.position = up_to["t"]

    def close(self) -> None: ...


def test_a_sink_says_so_and_a_new_target_is_written_from_the_start(world: World) -> None:
    def run(target: Target) -> SinkRun:
        return SinkRun(SinkPlan("x", "memory", "t", {}), IN, world.ids["t"], target, world.topics, world.registry, 0.0)

    world.write((1, 5), (2, 5))
    old = Target(0)
    sink = run(old)
    sink.open()
    sink.step()
    assert old.seen == [1, 2]
    world.write((1, None), (2, 6), (3, 1))
    world.compact()
    with pytest.raises(Irrecoverable) as caught:
        sink.step()
    assert (caught.value.code, caught.value.where) == ("place_lost", "t@2")
    assert caught.value.cure == NEW_TARGET
    again = run(Target(2))
    again.open()
    with pytest.raises(Irrecoverable, match="compacted further"):
        again.step()
    new = Target(0)
    sink = run(new)
    sink.open()
    while sink.step():
        pass
    assert set(new.seen) == {2, 3, 90, 91}


REAL = {
    "jsonl": ({"file": "out/a.jsonl"}, {"file": "out/b.jsonl"}, ["out/a.jsonl", "out/a.jsonl.position"]),
    "search": ({"index": "a"}, {"index": "b"}, [".millstream/search/a"]),
    "iceberg": ({"table": "lake.a"}, {"table": "lake.b"}, []),
}


WAYS = [(kind, way) for kind in REAL for way in ("taken away", "named anew") if REAL[kind][2] or way == "named anew"]


@pytest.mark.parametrize(("kind", "way"), WAYS)
def test_the_cure_that_a_sink_tells_is_one(kind: str, way: str, world: World) -> None:
    """Each real kind, with its target taken away or named anew: written from the start, no row that is gone, none missing."""
    old, new, target = REAL[kind]
    component = find(KINDS, kind)

    def run(options: dict[str, str]) -> SinkRun:
        opened = component.open("p.0", component.options(**options), world.folder / ".millstream")
        sink = SinkRun(SinkPlan("p.0", kind, "t", options), IN, world.ids["t"], opened, world.topics, world.registry, 0.0)
        sink.open()
        return sink

    world.write((1, 5), (2, 5))
    sink = run(old)
    worked_off(sink)
    world.write((1, None), (2, 6), (3, 1))
    world.compact()
    with pytest.raises(Irrecoverable, match="compacted further"):
        sink.step()
    sink.close()
    if way == "taken away":
        for name in target:
            path = world.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    sink = run(new if way == "named anew" else old)
    worked_off(sink)
    assert sink.caught_up({"t": world.topics.end("t")})
    assert world.topics.lost("sink.p.0", sink.seen) == []
    world.write((4, 4))
    worked_off(sink)
    assert sink.caught_up({"t": world.topics.end("t")}) and sink.events
    sink.close()
    if kind == "jsonl":
        lines = (world.folder / (old if way == "taken away" else new)["file"]).read_text().splitlines()
        assert {json.loads(line)["key"]["id"] for line in lines} == {2, 3, 4, 90, 91}
