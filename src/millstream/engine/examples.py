"""An example run on the engine itself, in one process over a temporary state: no topic is written, no server asked.

What the steps make is compared with what the example says of them; each difference names its row, column and line.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.engine.graph import Graph
from millstream.engine.sql import Sql
from millstream.engine.state import State
from millstream.engine.store import Store
from millstream.errors import MillstreamError
from millstream.events.batch import DELETE, Batch, batch
from millstream.events.types import RowSchema
from millstream.pipelines import values
from millstream.pipelines.diagnostics import Place
from millstream.pipelines.examples import WORDS, Change, Example, Expected, Row
from millstream.pipelines.plan import Plan, Stateful

MEMORY_MIB = 256
_SECOND_US = 1_000_000
_SAID: Mapping[str, str] = {op: word for word, op in WORDS.items()}


@dataclass(frozen=True)
class Difference:
    """`row` says which one, `column` which of its columns ("": the whole row); `expected` and `got` as they would be written."""

    place: Place
    step: str
    row: str
    column: str
    expected: str
    got: str

    def __str__(self) -> str:
        what = f"column {self.column}" if self.column else "row"
        return f"{self.place}: {self.step} {self.row}: {what}: expected {self.expected}, got {self.got}"


@dataclass(frozen=True)
class Event:
    """`row` is the image after; of a delete the one before."""

    op: str
    row: Row


@dataclass(frozen=True)
class Result:
    """How an example went: `error` is what the steps refused to compute, if they did."""

    example: Example
    differences: tuple[Difference, ...] = ()
    error: MillstreamError | None = None

    @property
    def passed(self) -> bool:
        return not self.differences and self.error is None


def run(example: Example, plan: Plan) -> Result:
    """Raises nothing of the example's making: what the engine raises is the result's error."""
    folder = Path(tempfile.mkdtemp(prefix="millstream-test-"))
    try:
        made = _events(example, plan, folder)
    except MillstreamError as e:
        return Result(example, error=e)
    finally:
        shutil.rmtree(folder)
    schemas = {n.name: n.schema for n in plan.nodes}
    rows = (d for step, (at, wanted) in example.rows.items() for d in _compare_rows(step, schemas[step], at, wanted, made.get(step, ())))
    events = (
        d for step, (at, wanted) in example.events.items() for d in _compare_events(step, schemas[step], at, wanted, made.get(step, ()))
    )
    return Result(example, (*rows, *events))


def _events(example: Example, plan: Plan, folder: Path) -> dict[str, list[Event]]:
    """Step → every event that it makes of what is given, each batch worked off before the next."""
    plan = replace(plan, nodes=tuple(replace(n, read="copies") if isinstance(n, Stateful) else n for n in plan.nodes))
    sql = Sql()
    state = State(Store(folder / "state.duckdb", memory_mib=MEMORY_MIB))
    made: dict[str, list[Event]] = {}
    try:
        graph = Graph(plan, sql, state)
        with state.transaction():
            for joined in graph.joined.values():
                joined.create()
                joined.create_indexes()
        offset = 0
        for number, given in enumerate(example.given, 1):
            read: dict[str, Sequence[Batch]] = {}
            for topic, changes in given.items():
                if changes:
                    schema = next(i.schema for i in plan.inputs if i.topic == topic)
                    read[topic] = [as_batch(topic, schema, changes, offset, number * _SECOND_US)]
                    offset += 2 * len(changes)
            while read or graph.pending:
                with state.transaction():
                    for name, batches in graph.advance(read, number, {}).items():
                        made.setdefault(name, []).extend(_read_back(batches))
                read = {}
    finally:
        state.store.close()
        sql.close()
    return made


def as_batch(topic: str, schema: RowSchema, changes: Sequence[Change], offset: int, ts_us: int) -> Batch:
    """The changes as a reader would give them; each takes two offsets."""
    count = len(changes)
    made = batch(
        topic,
        schema,
        {
            "op": [c.op for c in changes],
            "before": pa.array([c.before for c in changes], schema.arrow),
            "after": pa.array([c.after for c in changes], schema.arrow),
            "incarnation": np.ones(count, np.uint32),
            "major": np.arange(offset, offset + count, dtype=np.uint64),
            "minor": np.zeros(count, np.uint32),
            "ts_us": np.full(count, ts_us, np.int64),
            "position": pa.repeat("", count),
        },
    )
    return replace(made, offsets=np.arange(offset, offset + 2 * count, 2, dtype=np.int64))


def _read_back(batches: Sequence[Batch]) -> Iterator[Event]:
    for b in batches:
        images = zip(b.column("op").to_pylist(), b.column("before").to_pylist(), b.column("after").to_pylist(), strict=True)
        yield from (Event(op, before if op == DELETE else after) for op, before, after in images)


def _compare_rows(step: str, schema: RowSchema, at: Place, wanted: Sequence[Expected], events: Sequence[Event]) -> Iterator[Difference]:
    """All rows that the step has in the end, by key."""
    now: dict[tuple[Any, ...], Row] = {}
    for event in events:
        if event.op == DELETE:
            now.pop(_key(schema, event.row), None)
        else:
            now[_key(schema, event.row)] = event.row
    for expected in wanted:
        got = now.pop(_key(schema, expected.row), None)
        named = _named(schema, expected.row)
        if got is None:
            yield Difference(expected.place, step, named, "", values.shown(dict(expected.row)), "no such row")
        else:
            yield from _columns(step, schema, named, expected, got)
    for row in now.values():
        yield Difference(at, step, _named(schema, row), "", "no such row", values.shown(dict(row)))


def _compare_events(step: str, schema: RowSchema, at: Place, wanted: Sequence[Expected], events: Sequence[Event]) -> Iterator[Difference]:
    for number, (expected, got) in enumerate(zip(wanted, events, strict=False), 1):
        named = f"event {number}"
        if expected.op != got.op:
            yield Difference(expected.place, step, named, "", _said(expected.op or "", expected.row), _said(got.op, got.row))
        else:
            yield from _columns(step, schema, named, expected, got.row)
    for number, expected in enumerate(wanted[len(events) :], len(events) + 1):
        yield Difference(expected.place, step, f"event {number}", "", _said(expected.op or "", expected.row), "no such event")
    for number, event in enumerate(events[len(wanted) :], len(wanted) + 1):
        yield Difference(at, step, f"event {number}", "", "no such event", _said(event.op, event.row))


def _columns(step: str, schema: RowSchema, named: str, expected: Expected, got: Row) -> Iterator[Difference]:
    for column, value in expected.row.items():
        if not values.equal(value, got[column], schema[column].type):
            yield Difference(expected.place, step, named, column, values.shown(value), values.shown(got[column]))


def _key(schema: RowSchema, row: Row) -> tuple[Any, ...]:
    return tuple(row[k] for k in schema.key)


def _named(schema: RowSchema, row: Row) -> str:
    return ", ".join(f"{k}={values.shown(row[k])}" for k in schema.key)


def _said(op: str, row: Row) -> str:
    return f"{_SAID[op]} {values.shown(dict(row))}"
