"""The runner: what fails twice on the way back is settled before the next step, and no part takes another with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from millstream.engine import runner, sinkrun
from millstream.engine.runner import Runner
from millstream.engine.sinkrun import SinkRun
from millstream.errors import Irrecoverable, Retryable
from millstream.events import envelope
from millstream.events.batch import Batch, batch
from millstream.events.origin import Origin
from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.plan import SinkPlan
from millstream.schemas.sql import SqlRegistry
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics

SCHEMA = RowSchema((Field("id", Type("int64"), 1),), ("id",))


class Target:
    """A sink whose first calls fail, as its script says: one word a call of `write` or `resume_after`."""

    def __init__(self, *script: str) -> None:
        self.script = list(script)
        self.ids: list[int] = []
        self.positions: dict[str, int] = {}
        self.writes = 0

    def _next(self, call: str) -> None:
        if self.script and self.script[0].startswith(call):
            if self.script.pop(0).endswith("dies"):
                raise Irrecoverable("no more", code="target_gone")
            raise Retryable("not now", code="busy")

    def open(self, fence: int) -> None:
        self.positions = {}

    def accept(self, schema: RowSchema) -> None:
        assert schema == SCHEMA

    def resume_after(self) -> Mapping[str, int]:
        if self.ids or self.script[:1] != ["write"]:
            self._next("resume")
        return self.positions

    def write(self, batches: Sequence[Batch], up_to: Mapping[str, int]) -> None:
        self._next("write")
        self.writes += 1
        self.ids += [e["id"] for b in batches for e in b.column("after").to_pylist()]
        self.positions = dict(up_to)

    def close(self) -> None:
        self.script.clear()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LocalTopics, SqlRegistry, int]]:
    monkeypatch.setattr(runner, "RETRY_FIRST_S", 0.001)
    engine = sa.create_engine(f"sqlite:///{tmp_path}/mesh.db")
    registry = SqlRegistry(engine)
    topics = LocalTopics(tmp_path / "topics.db", registry)
    schema_id = registry.register("t-value", envelope.value_schema("t", SCHEMA)).id
    key_id = registry.register("t-key", envelope.key_schema("t", SCHEMA)).id
    topics.create(Topic("t", ("id",), key_id, "whole", Origin("scripted", "s", "db", None, "t")))
    commit(topics, schema_id, 0)
    yield topics, registry, schema_id
    topics.close()
    engine.dispose()


def commit(topics: LocalTopics, schema_id: int, first: int) -> None:
    """Five new rows, from this id on."""
    made = batch(
        "t",
        SCHEMA,
        {
            "op": ["c"] * 5,
            "after": pa.array([{"id": i} for i in range(first, first + 5)], SCHEMA.arrow),
            "incarnation": np.ones(5, np.uint32),
            "major": np.full(5, first + 1, np.uint64),
            "minor": np.arange(5, dtype=np.uint32),
            "ts_us": np.zeros(5, np.int64),
            "position": [""] * 5,
        },
        schema_id,
    )
    producer = topics.open_producer("source.s")
    producer.commit([topics.encode(made)], {}, sequence=producer.record.sequence + 1)


def sink(name: str, target: Target, world: tuple[LocalTopics, SqlRegistry, int], linger_s: float = 0.0) -> SinkRun:
    topics, registry, schema_id = world
    return SinkRun(SinkPlan(name, "memory", "t", {}), SCHEMA, schema_id, target, topics, registry, linger_s)


def test_what_fails_on_the_way_back_too_is_settled_before_the_next_step(world: tuple[LocalTopics, SqlRegistry, int]) -> None:
    target = Target("write", "resume", "resume")
    ended = Runner(world[0], [], [], [sink("x", target, world)]).run(until_caught_up=True)
    assert target.ids == [0, 1, 2, 3, 4]
    assert [p.state for p in ended] == ["stopped"]


@pytest.mark.timeout(30)
def test_what_is_awaited_does_not_linger(world: tuple[LocalTopics, SqlRegistry, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first commit is written at once; the second would wait an hour for a third."""
    monkeypatch.setattr(sinkrun, "READ_BYTES", 1)
    commit(world[0], world[2], 5)
    target = Target()
    Runner(world[0], [], [], [sink("x", target, world, linger_s=3_600.0)]).run(until_caught_up=True)
    assert target.ids == list(range(10))
    assert target.writes == 2


def test_a_part_that_fails_takes_nobody_with_it_and_says_why(world: tuple[LocalTopics, SqlRegistry, int]) -> None:
    good, bad = Target(), Target("write dies")
    told: list[tuple[str, str, str]] = []
    runs = [sink("good", good, world), sink("bad", bad, world)]
    ended = Runner(world[0], [], [], runs, lambda part, state, reason, cure: told.append((part, state, reason))).run(until_caught_up=True)
    assert good.ids == [0, 1, 2, 3, 4] and bad.ids == []
    assert {p.name: p.state for p in ended} == {"sink.good": "stopped", "sink.bad": "failed"}
    assert ("sink.bad", "failed", "no more [target_gone]") in told
