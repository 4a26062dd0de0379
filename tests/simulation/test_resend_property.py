"""Resend, as a property: rows said again between live changes, with crashes at every named moment and lost states. Each present key
goes out once, as it is at that moment; none is missing; and what asks for a rebuild gets one. Reconciling beside all of it finds no
difference where there is none."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millstream import faultpoints
from millstream.engine import joined, reconcile, resend
from millstream.engine.pipeline import Pipeline
from millstream.engine.requests import OPEN, Request, RequestState
from millstream.engine.state import State
from millstream.engine.store import Store
from millstream.events import envelope
from millstream.events.batch import batch
from millstream.events.origin import Origin
from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.plan import Edge, Input, Occurrence, Output, Plan, Projection, Root, Stateful, Stateless
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics

INT, TEXT = Type("int64"), Type("text")
IN = RowSchema((Field("id", INT, 1), Field("up", INT, 2), Field("v", INT, 3)), ("id",))
OUT = RowSchema((Field("id", INT, 1), Field("v", INT, 2), Field("w", INT, 3)), ("id",))
PAIRED = RowSchema((Field("kind", TEXT, 1), Field("id", INT, 2), Field("v", INT, 3)), ("kind", "id"))
POINTS = ("pipeline.before_state", "pipeline.after_state", "pipeline.before_publish", "pipeline.after_publish", "pipeline.after_rebuild")
Row = dict[str, Any]


class Crash(BaseException):
    """Not an Exception: nothing may swallow it, as nothing swallows kill -9."""


class Kept:
    """Requests as a catalogue keeps them."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[Request, RequestState, int, str]] = {}

    def ask(self, request: Request) -> None:
        self.asked[request.name] = (request, "waiting", 0, "")

    def next(self, pipeline: str) -> Request | None:
        return next((r for r, state, _, _ in self.asked.values() if state in OPEN and r.pipeline == pipeline), None)

    def tell(self, name: str, state: RequestState, done: int, total: int, reason: str = "") -> None:
        request, now, _, _ = self.asked[name]
        if now in OPEN:
            self.asked[name] = (request, state, done, reason)

    def state(self, name: str) -> RequestState:
        return self.asked[name][1]


def plan(kind: str, given: Input) -> Plan:
    node: Stateless | Stateful
    if kind == "plain":
        node = Stateless("out", "s.t", '"v" > 1', tuple(Projection(n, s) for n, s in (("id", '"id"'), ("v", '"v"'), ("w", '"up"'))), OUT)
    elif kind == "pair":
        pair = (Projection("kind", "'k' || (\"v\" % 3)"), Projection("id", '"id"'), Projection("v", '"v"'))
        node = Stateless("out", "s.t", '"v" > 1', pair, PAIRED)
    else:
        sql = 'SELECT "a"."id" AS "id", "a"."v" AS "v", "b"."v" AS "w" FROM "a" LEFT JOIN "b" ON "b"."id" = "a"."up" WHERE "a"."v" > 1'
        occurrences = (Occurrence("a", "s.t"), Occurrence("b", "s.t"))
        node = Stateful("out", sql, (Root("a", ("id",)),), ("id",), occurrences, (Edge("a", "b", ("up",), ("id",)),), OUT)
        if kind == "hash":
            node = replace(node, keeps="hash")
    return Plan("p", "team", (given,), (node,), (Output("out", "p.out", "none" if kind == "hash" else "whole"),), ())


def expected(kind: str, rows: dict[int, Row]) -> dict[tuple[Any, ...], Row]:
    kept = {k: r for k, r in rows.items() if r["v"] > 1}
    if kind == "plain":
        return {(k,): {"id": k, "v": r["v"], "w": r["up"]} for k, r in kept.items()}
    if kind == "pair":
        return {(f"k{r['v'] % 3}", k): {"kind": f"k{r['v'] % 3}", "id": k, "v": r["v"]} for k, r in kept.items()}
    return {(k,): {"id": k, "v": r["v"], "w": rows[r["up"]]["v"] if r["up"] in rows else None} for k, r in kept.items()}


class World:
    def __init__(self, folder: Path, kind: str, requests: Kept) -> None:
        self.folder, self.kind, self.requests = folder, kind, requests
        self._engine = sqlite_engine(folder / "mesh.db")
        self.registry = SqlRegistry(self._engine)
        self.topics = LocalTopics(folder / "topics.db", self.registry)
        out = PAIRED if kind == "pair" else OUT
        ids = {name: self._topic(name, schema, origin) for name, schema, origin in (
            ("s.t", IN, Origin("scripted", "s", "db", None, "t")),
            ("p.out", out, Origin("millstream", "p", "mesh", None, "out")),
        )}  # fmt: skip
        self.schema_id = ids["s.t"]
        self.plan = plan(kind, Input("s.t", IN, ids["s.t"], "whole"))
        self.producer = self.topics.open_producer("source.s")
        self.rows: dict[int, Row] = {}
        self.now = 0.0
        self.pipeline = self._make()

    def _topic(self, name: str, schema: RowSchema, origin: Origin) -> int:
        key = self.registry.register(f"{name}-key", envelope.key_schema(name, schema)).id
        grade = "none" if name == "p.out" and self.kind == "hash" else "whole"
        self.topics.create(Topic(name, schema.key, key, grade, origin))
        return self.registry.register(f"{name}-value", envelope.value_schema(name, schema)).id

    def _make(self) -> Pipeline:
        made = Pipeline(self.plan, self.topics, self.registry, self.folder / "p.duckdb", clock=self._clock, requests=self.requests)
        made.open()
        return made

    def _clock(self) -> float:
        self.now += 0.4
        return self.now

    def write(self, changes: list[tuple[int, Row | None]]) -> None:
        events = []
        for key, row in changes:
            before = self.rows.pop(key, None)
            if row is not None:
                self.rows[key] = row
            if before is not None or row is not None:
                events.append(("d" if row is None else "u" if before else "c", before, row))
        if not events:
            return
        count, sequence = len(events), self.producer.record.sequence + 1
        made = batch(
            "s.t",
            IN,
            {
                "op": [e[0] for e in events],
                "before": pa.array([e[1] for e in events], IN.arrow),
                "after": pa.array([e[2] for e in events], IN.arrow),
                "incarnation": np.ones(count, np.uint32),
                "major": np.full(count, sequence, np.uint64),
                "minor": np.arange(count, dtype=np.uint32),
                "ts_us": np.full(count, sequence, np.int64),
                "position": [f"{sequence:032x}"] * count,
            },
            self.schema_id,
        )
        self.producer.commit([self.topics.encode(made)], {"ready": {"s.t": True}}, sequence=sequence)

    def crash(self, lose_state: bool) -> None:
        self.pipeline.close()
        if lose_state:
            for path in self.folder.glob("p.duckdb*"):
                path.unlink()
        self.pipeline = self._make()

    def settle(self) -> None:
        for _ in range(2_000):
            self.pipeline.step()
            if self.requests.next("p") is None and self.pipeline.caught_up({"s.t": self.topics.end("s.t")}):
                return
        raise AssertionError("it does not come to an end")

    def published(self) -> Iterator[Row]:
        offset = 0
        while offset < self.topics.end("p.out"):
            for b in (batches := self.topics.read("p.out", offset, bytes_max=1 << 20)):
                assert b.offsets is not None
                yield from (r | {"offset": int(o)} for r, o in zip(b.rows.to_pylist(), b.offsets, strict=True))
            offset = self.topics.read_end(batches)

    def close(self) -> None:
        self.pipeline.close()
        self.topics.close()
        self._engine.dispose()


def changes(rng: random.Random, count: int) -> list[tuple[int, Row | None]]:
    def row(key: int) -> Row | None:
        return None if rng.random() < 0.2 else {"id": key, "up": rng.randrange(12), "v": rng.randrange(6)}

    return [(key, row(key)) for key in (rng.randrange(12) for _ in range(count))]


def check(world: World, names: dict[str, tuple[int, int]], key_of: Any) -> None:
    """Replays: every `r` says the row as it stood; each request's keys once; at its end none missing."""
    now: dict[tuple[Any, ...], Row] = {}
    seen: dict[str, list[tuple[Any, ...]]] = {n: [] for n in names}
    live: list[tuple[int, tuple[Any, ...]]] = []
    for e in world.published():
        key = key_of(e["after"] or e["before"])
        if e["op"] == "r":
            assert e["cause"] == "resend" and e["snapshot"] is None and e["before"] is None
            assert now.get(key) == e["after"], f"{e['backfill']} said {e['after']} where {now.get(key)} stood"
            seen[e["backfill"]].append(key)
        else:
            live.append((e["offset"], key))
            if e["op"] == "d":
                del now[key]
            else:
                now[key] = e["after"]
    assert now == expected(world.kind, world.rows)
    for name, (start, end) in names.items():
        assert len(seen[name]) == len(set(seen[name])), f"{name} said a row twice"
        request = world.requests.asked[name][0]
        touched = {k for o, k in live if o >= start}
        if request.keys is None and request.where is None and end:
            missing = set(now) - set(seen[name]) - touched
            assert missing == set()
        if request.keys is not None:
            assert set(seen[name]) <= {tuple(int(c) if c.isdigit() else c for c in k) for k in request.keys}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["plain", "pair", "rows", "hash"])
def test_present_rows_are_said_again_once_between_live_changes_and_crashes(
    kind: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(f"{kind} {seed}")
    for name, value in (("SLICE_ROWS_FIRST", 1), ("SLICE_ROWS_MAX", 3), ("PAGE_KEYS", 4)):
        monkeypatch.setattr(resend, name, value)
    requests = Kept()
    world = World(tmp_path, kind, requests)

    def die(pid: int, number: int) -> None:
        raise Crash

    monkeypatch.setattr(faultpoints.os, "kill", die)
    world.write([(k, {"id": k, "up": k + 1, "v": 1 + k % 4}) for k in range(12)])
    world.settle()
    names: dict[str, tuple[int, int]] = {}
    for number in range(3):
        keys = tuple((str(k),) for k in rng.sample(range(12), 4)) if kind != "pair" and number == 1 else None
        where = "v >= 3" if number == 2 else None
        names[f"again-{number}"] = (world.topics.end("p.out"), 1)
        requests.ask(Request(f"again-{number}", "p", "resend", keys=keys, where=where))
        for _ in range(rng.randint(5, 20)):
            if rng.random() < 0.3:
                world.write(changes(rng, rng.randint(1, 3)))
            point = rng.choice(POINTS)
            monkeypatch.setattr(faultpoints, "_WANTED", f"{point}:{rng.randint(1, 2)}:KILL" if rng.random() < 0.3 else None)
            monkeypatch.setattr(faultpoints, "_left", rng.randint(1, 2))
            try:
                world.pipeline.step()
            except Crash:
                monkeypatch.setattr(faultpoints, "_WANTED", None)
                world.crash(lose_state=rng.random() < 0.2)
            monkeypatch.setattr(faultpoints, "_WANTED", None)
        world.settle()
        assert requests.state(f"again-{number}") == "done"
    key = PAIRED.key if kind == "pair" else OUT.key
    check(world, names, lambda row: tuple(row[k] for k in key))
    assert list(tmp_path.glob("p.resend*")) == []
    world.close()


def test_a_condition_that_fails_fails_the_request_alone(tmp_path: Path) -> None:
    requests = Kept()
    world = World(tmp_path, "rows", requests)
    world.write([(k, {"id": k, "up": k, "v": 5}) for k in range(5)])
    world.settle()
    requests.ask(Request("bad", "p", "resend", where="CAST('x' AS INTEGER) = id"))
    world.settle()
    assert requests.asked["bad"][1] == "failed" and "where_failed" in requests.asked["bad"][3]
    world.write([(9, {"id": 9, "up": 9, "v": 5})])
    world.settle()
    assert {e["after"]["id"] for e in world.published()} == {0, 1, 2, 3, 4, 9}
    world.close()


def test_keys_that_are_gone_are_said_to_be_only_where_that_is_asked(tmp_path: Path) -> None:
    requests = Kept()
    world = World(tmp_path, "plain", requests)
    world.write([(1, {"id": 1, "up": 1, "v": 5})])
    world.settle()
    requests.ask(Request("rows", "p", "resend", keys=(("1",), ("7",))))
    world.settle()
    requests.ask(Request("both", "p", "resend", keys=(("1",), ("7",)), gone=True))
    world.settle()
    said = [(e["backfill"], e["op"], (e["after"] or e["before"])["id"]) for e in world.published() if e["backfill"]]
    assert said == [("rows", "r", 1), ("both", "r", 1), ("both", "d", 7)]
    world.close()


@pytest.mark.parametrize("kind", ["plain", "rows", "hash"])
def test_a_rebuild_that_is_asked_for_is_done_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Kept()
    world = World(tmp_path, kind, requests)
    world.write([(k, {"id": k, "up": k, "v": 5}) for k in range(5)])
    world.settle()
    builds = 0
    build = Pipeline._build

    def counted(self: Pipeline) -> bool:
        nonlocal builds
        builds += 1
        return build(self)

    monkeypatch.setattr(Pipeline, "_build", counted)
    requests.ask(Request("anew", "p", "rebuild"))
    world.settle()
    world.crash(lose_state=False)
    world.settle()
    assert (builds, requests.state("anew")) == (1, "done")
    assert len(list(world.published())) == 5
    world.close()


def compared(world: World, folder: Path, sampled: int | None) -> list[reconcile.Compared]:
    """As a person's command does it, beside the pipeline as it now is."""
    at = reconcile.mark(world.topics.producer_record("pipeline.p"), world.plan)
    kept = reconcile.digests(world.plan, world.pipeline.connect) if world.pipeline.connect is not None else None
    state = State(Store(folder / "beside.duckdb"))
    scratch = reconcile.Scratch(world.plan, at, world.topics, world.registry, state, lambda what, done, total: None)
    try:
        scratch.build("out" if sampled is not None else None)
        found = [scratch.compare(world.plan.outputs[0], sampled)]
        return found + (scratch.compare_state(kept, sampled=sampled is not None) if kept is not None else [])
    finally:
        scratch.close()
        state.store.close()


@pytest.mark.parametrize("kind", ["plain", "pair", "rows", "hash"])
def test_nothing_differs_at_any_moment_of_continuing_writes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline lags, keys are pending, rows are said again: no moment of it is taken for damage; damage is."""
    rng = random.Random(kind)
    monkeypatch.setattr(joined, "SLICE_KEYS_FIRST", 2)
    monkeypatch.setattr(joined, "SLICE_KEYS_MAX", 2)
    requests = Kept()
    world = World(tmp_path, kind, requests)
    world.write([(k, {"id": k, "up": k + 1, "v": 1 + k % 4}) for k in range(12)])
    world.settle()
    for _ in range(4):  # idle: what is settled is published
        world.pipeline.step()
    lagged = 0
    for number in range(10):
        world.write(changes(rng, rng.randint(2, 8)))
        if number == 4:
            requests.ask(Request("again", "p", "resend"))
        for _ in range(rng.randint(0, 3)):
            world.pipeline.step()
        lagged += bool(world.pipeline.pending)
        found = compared(world, tmp_path, rng.choice([None, 3]))
        assert [(c.what, c.differing) for c in found if c.differing] == []
        assert len(found) == 1 or kind in ("rows", "hash")
    assert lagged or kind in ("plain", "pair")
    world.settle()
    if world.pipeline.connect is not None:
        with world.pipeline.connect() as vandal:
            vandal.execute('UPDATE "copy out s.t" SET v = v + 1 WHERE id = (SELECT max(id) FROM "copy out s.t")')
        assert [c.what for c in compared(world, tmp_path, None) if c.differing] == ["state copy out s.t"]
        requests.ask(Request("anew", "p", "rebuild"))
        world.settle()
        assert [c.what for c in compared(world, tmp_path, None) if c.differing] == []
    world.close()
