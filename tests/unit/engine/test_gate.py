"""What becomes of what was computed when a plan is followed by the next; and a target that does not take what its topic becomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from millstream.engine.carry import carry
from millstream.engine.gate import Paused
from millstream.engine.reader import NotAccepted
from millstream.engine.sinkrun import SinkRun
from millstream.errors import Refused
from millstream.events import envelope
from millstream.events.batch import Batch, batch
from millstream.events.origin import Origin
from millstream.events.types import UNKNOWN, Constant, Field, RowSchema, Type, list_of
from millstream.pipelines.compile import compile_pipeline
from millstream.pipelines.definitions import PipelineDefinition, StepDefinition
from millstream.pipelines.diagnostics import Place
from millstream.pipelines.plan import Input, Plan, SinkPlan, outputs_of
from millstream.pipelines.verdicts import Verdict
from millstream.schemas.sql import SqlRegistry
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics

ITEM = RowSchema((Field("id", Type("int64"), 1), Field("amount", Type("int32"), 2), Field("maker", Type("int64"), 3)), ("id",))
MAKER = RowSchema((Field("id", Type("int64"), 1), Field("name", Type("text"), 2)), ("id",))
SHADE = Field("shade", Type("text"), 4, fill=Constant("grey"))
STAR = "SELECT * FROM s.item WHERE amount > 0"
JOIN = "SELECT i.*, m.name AS made_by FROM s.item i LEFT JOIN s.maker m ON m.id = i.maker"


def plan(sql: str, item: RowSchema = ITEM, was: Plan | None = None) -> Plan:
    marks = tuple((1, n + 1) for n in range(len(sql) + 1))
    places = {path: Place("p.yaml", 1, 1) for path in ("pipelines.p", "pipelines.p.steps[0]", "pipelines.p.steps[0].sql")}
    step = StepDefinition("step", sql, ("id",), "pipelines.p.steps[0]", marks)
    known = {"s.item": Input("s.item", item, 1, "whole"), "s.maker": Input("s.maker", MAKER, 2, "whole")}
    in_force = {topic: [schema] for topic, schema in outputs_of(was).items()} if was else {}
    return compile_pipeline(PipelineDefinition("p", "o", (step,), (), places), known, in_force)


def also(*fields: Field, without: str = "", schema: RowSchema = ITEM) -> RowSchema:
    return RowSchema((*(f for f in schema.fields if f.name != without), *fields), schema.key)


def retyped(column: str, type_: Type) -> RowSchema:
    return RowSchema(tuple(replace(f, type=type_) if f.name == column else f for f in ITEM.fields), ITEM.key)


NESTED = Field("shades", list_of(Type("text")), 4, fill=Constant("[]"))


@pytest.mark.parametrize(
    ("sql", "item", "way", "why"),
    [
        (STAR, ITEM, "as it is", "nothing"),
        (STAR, also(SHADE), "as it is", "'grey'"),
        (STAR, also(replace(SHADE, fill=UNKNOWN)), "as it is", "null until they are said again"),
        (STAR, also(without="maker"), "as it is", ""),
        (STAR, also(Field("maker", Type("int64"), 9), without="maker"), "rebuild", "another column"),
        (STAR, also(SHADE, replace(ITEM["maker"], name="by"), without="maker"), "rebuild", "by of step step is new there, and old rows"),
        (STAR, retyped("maker", Type("int32")), "rebuild", "narrowed maker (int64 is now int32)"),
        (STAR, retyped("maker", Type("numeric")), "as it is", ""),
        (JOIN, also(SHADE), "in place", "'grey'"),
        (JOIN, also(replace(SHADE, fill=None)), "in place", "null"),
        (JOIN, also(NESTED), "rebuild", "list"),
        (JOIN, also(without="amount"), "rebuild", "loses amount"),
        (JOIN, retyped("amount", Type("int64")), "rebuild", "is int64, was int32"),
        (JOIN, also(Field("amount", Type("int32"), 9), without="amount"), "rebuild", "another column"),
    ],
)
def test_what_is_kept_of_what_was_computed(sql: str, item: RowSchema, way: str, why: str) -> None:
    was = plan(sql)
    found = carry(was, plan(sql, item, was))
    assert found.way == way and why in found.why


@pytest.mark.parametrize("sql", [STAR, JOIN])
def test_rows_that_were_read_without_a_new_column_are_made_anew(sql: str) -> None:
    assert carry(plan(sql), plan(sql, also(SHADE)), passed=["s.item"]).way == "rebuild"
    assert carry(plan(sql), plan(sql, also(SHADE)), passed=["s.maker"]).way != "rebuild"


def test_a_filter_passes_a_fill_on_and_a_join_does_not() -> None:
    assert plan(STAR, also(SHADE)).nodes[-1].schema["shade"].fill == Constant("grey")
    assert plan(JOIN, also(SHADE)).nodes[-1].schema["shade"].fill is None
    assert plan("SELECT id, upper(shade) AS shade FROM s.item", also(SHADE)).nodes[-1].schema["shade"].fill is None


# ---- a sink


class Target:
    """Takes `takes`; its rows and position outlive it."""

    def __init__(self) -> None:
        self.takes = [ITEM]
        self.rows: list[dict] = []
        self.position: dict[str, int] = {}

    def open(self, fence: int) -> None:
        """Nothing is fenced."""

    def accept(self, schema: RowSchema) -> None:
        if schema not in self.takes:
            raise Refused("no place for shade", code="column_refused", cure="make one")

    def resume_after(self) -> Mapping[str, int]:
        return self.position

    def write(self, batches: Sequence[Batch], up_to: Mapping[str, int]) -> None:
        self.rows += [e for b in batches for e in b.column("after").to_pylist()]
        self.position = dict(up_to)

    def close(self) -> None:
        """Nothing is held."""


class Judge:
    """Lets everything through, and keeps what it was told."""

    def __init__(self) -> None:
        self.kept: list[int] = []

    def accepted(self) -> list[int]:
        return []

    def rule(self, schema: RowSchema, met: NotAccepted) -> Verdict:
        return Verdict("propagate")

    def keep(self, met: NotAccepted, verdict: Verdict) -> None:
        self.kept.append(met.schema_id)


@pytest.fixture
def topic(tmp_path: Path) -> Iterator[tuple[LocalTopics, SqlRegistry, dict[RowSchema, int]]]:
    """Two events of the item, then two with a shade."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/mesh.db")
    registry = SqlRegistry(engine)
    topics = LocalTopics(tmp_path / "topics.db", registry)
    key = registry.register("t-key", envelope.key_schema("t", ITEM)).id
    topics.create(Topic("t", ("id",), key, "whole", Origin("scripted", "s", "db", None, "t")))
    producer, ids = topics.open_producer("source.s"), {}
    for number, schema in enumerate((ITEM, also(SHADE))):
        ids[schema] = registry.register("t-value", envelope.value_schema("t", schema)).id
        rows = [{f.name: None for f in schema.fields} | {"id": 2 * number + n} for n in range(2)]
        given = {"op": ["c"] * 2, "after": pa.array(rows, schema.arrow), "incarnation": np.ones(2, np.uint32)}
        place = {"major": np.full(2, number + 1, np.uint64), "minor": np.arange(2, dtype=np.uint32)}
        rest = {"ts_us": np.zeros(2, np.int64), "position": [""] * 2}
        made = batch("t", schema, {**given, **place, **rest}, ids[schema])
        producer.commit([topics.encode(made)], {}, sequence=producer.record.sequence + 1)
    yield topics, registry, ids
    topics.close()
    engine.dispose()


def test_a_target_that_refuses_pauses_its_sink_with_all_before_it_written_and_goes_on_when_it_takes_it(topic) -> None:
    topics, registry, ids = topic
    target, judge, wide = Target(), Judge(), also(SHADE)

    def run(schema: RowSchema) -> SinkRun:
        return SinkRun(SinkPlan("x", "memory", "t", {}), schema, ids[schema], target, topics, registry, 0.0, judge=judge)

    sink = run(ITEM)
    sink.open()
    with pytest.raises(Paused) as caught:
        for _ in range(5):
            sink.step()
    assert caught.value.where == "t@2" and "no place for shade" in caught.value.message and caught.value.cure == "make one"
    assert [r["id"] for r in target.rows] == [0, 1] and target.position == {"t": 2}
    assert judge.kept == [ids[wide]], "what is accepted is kept before the target is changed"
    with pytest.raises(Paused):  # the next process opens it in what is accepted
        run(wide).open()
    target.takes.append(wide)
    sink = run(wide)
    sink.open()
    while sink.step():
        assert len(target.rows) <= 4
    assert [r["id"] for r in target.rows] == [0, 1, 2, 3]
