"""Queries over topics and states: present rows against a fold of the events, and every limit."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from millstream.engine import query
from millstream.engine.query import Answer, Limits, tables_of_state, tables_of_topics
from millstream.errors import Refused
from millstream.events import envelope
from millstream.events.batch import batch
from millstream.events.origin import Origin
from millstream.events.types import Constant, Field, RowSchema, Type
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.topics.contract import Producer, Topic
from millstream.topics.local import LocalTopics

FIRST = RowSchema((Field("id", Type("int64"), 1), Field("v", Type("int32"), 2), Field("wide", Type("decimal", 40, 1), 3)), ("id",))
LATER = RowSchema((*FIRST.fields, Field("added", Type("text"), 4), Field("filled", Type("int64"), 5, fill=Constant("7"))), ("id",))
FILLS = {"filled": 7}
Row = dict[str, Any]
ALL = Limits(None)


class World:
    """One topic, written event by event, and the rows that they leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._engine = sqlite_engine(folder / "mesh.db")
        self.registry = SqlRegistry(self._engine)
        self.topics = LocalTopics(folder / "topics.db", self.registry)
        key = self.registry.register("s.t-key", envelope.key_schema("s.t", FIRST)).id
        self.topics.create(Topic("s.t", ("id",), key, "whole", Origin("scripted", "s", "db", None, "t")))
        self._producer: Producer = self.topics.open_producer("source.s")
        self.rows: dict[int, Row] = {}
        self.events = 0
        self.registry.register("s.t-value", envelope.value_schema("s.t", FIRST))

    def write(self, schema: RowSchema, changes: list[tuple[int, Row | None]]) -> None:
        """Key → the row after, or None; in one commit."""
        schema_id = self.registry.register("s.t-value", envelope.value_schema("s.t", schema)).id
        before, after, ops = [], [], []
        for key, row in changes:
            was = self.rows.get(key)
            if was is None and row is None:
                continue
            before.append(None if was is None else {n: was.get(n, FILLS.get(n)) for n in schema.names})
            after.append(row)
            ops.append("d" if row is None else "u" if was else "c")
            if row is None:
                del self.rows[key]
            else:
                self.rows[key] = row
        count = len(ops)
        if not count:
            return
        made = batch(
            "s.t",
            schema,
            {
                "op": ops,
                "before": pa.array(before, schema.arrow),
                "after": pa.array(after, schema.arrow),
                "incarnation": np.ones(count, np.uint32),
                "major": np.full(count, self._producer.record.sequence + 1, np.uint64),
                "minor": np.arange(count, dtype=np.uint32),
                "ts_us": np.zeros(count, np.int64),
                "position": [""] * count,
            },
            schema_id,
        )
        self._producer.commit([self.topics.encode(made)], {}, sequence=self._producer.record.sequence + 1)
        self.events += count

    def ask(self, sql: str, limits: Limits = ALL, *, events: bool = False, also: query.Tables | None = None) -> list[Row]:
        answer = Answer(sql, {**tables_of_topics(self.topics, self.registry, events=events), **(also or {})}, limits, self.folder)
        try:
            answer.begin()
            return [row for b in answer.batches() for row in b.to_pylist()]
        finally:
            answer.close()

    def close(self) -> None:
        self.topics.close()
        self._engine.dispose()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def random_changes(rng: random.Random, schema: RowSchema) -> list[tuple[int, Row | None]]:
    def row(key: int) -> Row | None:
        made = {"id": key, "v": rng.choice([None, *range(5)]), "wide": None, "added": rng.choice("abc"), "filled": rng.choice([None, 1, 7])}
        return None if rng.random() < 0.3 else {n: made[n] for n in schema.names}

    return [(key, row(key)) for key in (rng.randrange(12) for _ in range(rng.randint(1, 9)))]


@pytest.mark.parametrize("seed", range(6))
def test_present_rows_equal_the_fold_of_the_events(world: World, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "READ_BYTES", 1)  # a read a commit: keys come again in later ones
    rng = random.Random(seed)
    for number in range(12):
        world.write(FIRST if number < 6 else LATER, random_changes(rng, FIRST if number < 6 else LATER))
    expected = [{n: row.get(n, FILLS.get(n)) for n in LATER.names} for _, row in sorted(world.rows.items())]
    assert world.ask("SELECT id, v, wide, added, filled FROM s.t ORDER BY id") == expected
    assert world.ask("SELECT count(*) AS n FROM s.t") == [{"n": len(expected)}]
    for key in range(seed % 3, 12, 3):  # every key with two seeds
        assert world.ask(f"SELECT v FROM s.t WHERE id = {key}") == [{"v": r["v"]} for r in expected if r["id"] == key]
        wanted = [{"id": r["id"]} for r in expected if r["v"] == key]
        assert sorted(world.ask(f"SELECT id FROM s.t t WHERE t.v = {key}"), key=lambda r: r["id"]) == wanted
    joined = world.ask("SELECT a.id FROM s.t a JOIN s.t b ON b.id = a.v ORDER BY a.id")
    assert joined == [{"id": r["id"]} for r in expected if r["v"] in world.rows]
    assert world.ask("SELECT count(*) AS n FROM s.t", events=True) == [{"n": world.events}]


def test_a_column_that_came_later_is_filled_as_its_schema_says(world: World) -> None:
    world.write(FIRST, [(1, {"id": 1, "v": 2, "wide": None}), (2, {"id": 2, "v": 3, "wide": None})])
    world.write(LATER, [(1, {"id": 1, "v": 2, "wide": None, "added": None, "filled": None}), (2, None)])
    assert world.ask("SELECT id, filled FROM s.t") == [{"id": 1, "filled": None}]
    asked = world.ask('SELECT op, before.filled AS b, after.filled AS a FROM s.t ORDER BY "offset"', events=True)
    assert [tuple(row.values()) for row in asked] == [("c", None, 7), ("c", None, 7), ("u", 7, None), ("d", 7, None)]


def test_events_have_their_columns(world: World) -> None:
    world.write(LATER, [(1, {"id": 1, "v": 2, "wide": None, "added": "x", "filled": 1}), (1, None)])
    assert world.ask('SELECT op, before.v AS b, after.v AS a, "offset" FROM s.t ORDER BY "offset"', events=True) == [
        {"op": "c", "b": None, "a": 2, "offset": 0},
        {"op": "d", "b": 2, "a": None, "offset": 1},
    ]
    assert world.ask("SELECT op FROM s.t WHERE offset >= 1", events=True) == [{"op": "d"}]
    assert set(world.ask("SELECT * FROM s.t LIMIT 1", events=True)[0]) == {
        "offset", "op", "before", "after", "version", "committed", "transaction", "position", "snapshot", "backfill", "cause", "schema_id",
    }  # fmt: skip


def test_a_state_is_read_as_last_committed_beside_its_writer(world: World) -> None:
    own = duckdb.connect(str(world.folder / "state.duckdb"))
    own.execute('CREATE TABLE "last big" (id BIGINT, v INTEGER)')
    own.execute('INSERT INTO "last big" VALUES (1, 10), (2, 20)')
    tables = tables_of_state("large", own.cursor)
    own.execute("BEGIN")
    own.execute('DELETE FROM "last big"')
    assert world.ask('SELECT sum(v) AS n FROM state.large."last big" WHERE v > 10', also=tables) == [{"n": 20}]
    own.execute("COMMIT")
    assert world.ask('SELECT count(*) AS n FROM state.large."last big"', also=tables) == [{"n": 0}]
    own.close()


def test_each_limit_ends_the_query_and_leaves_nothing(world: World) -> None:
    for start in range(0, 20_000, 5_000):
        world.write(FIRST, [(k, {"id": k, "v": k, "wide": None}) for k in range(start, start + 5_000)])
    answer = Answer("SELECT id FROM s.t", tables_of_topics(world.topics, world.registry, events=False), Limits(7), world.folder)
    answer.begin()
    assert sum(b.num_rows for b in answer.batches()) == 7
    assert answer.end() == {"truncated": True}
    answer.close()
    answer.close()
    exact = Answer("SELECT id FROM s.t", tables_of_topics(world.topics, world.registry, events=False), Limits(20_000), world.folder)
    exact.begin()
    assert sum(b.num_rows for b in exact.batches()) == 20_000
    assert exact.end() == {"truncated": False}
    exact.close()
    endless = "SELECT count(*) FROM s.t a, s.t b, s.t c WHERE a.v + b.v + c.v = 7"
    for sql, limits, code in (
        (endless, Limits(None, seconds=0.5), "query_timeout"),
        ("SELECT id FROM s.t", Limits(None, disk_bytes=10_000), "query_too_large"),
        ("SELECT list(a.id ORDER BY a.v) FROM s.t a, s.t b", Limits(None, memory_mib=48, disk_bytes=32 << 20), "query_memory"),
        ("SELECT nothing FROM s.t", Limits(), "query_failed"),
        ("SELECT getenv('HOME')", Limits(), "query_failed"),
        ("SELECT CAST('x' AS INTEGER) FROM s.t", Limits(), "query_failed"),
    ):
        with pytest.raises(Refused) as caught:
            world.ask(sql, limits)
        assert (caught.value.code, bool(caught.value.cure)) == (code, True)
    assert list(world.folder.glob("query-*")) == []


@pytest.mark.parametrize(
    "sql", ["SELECT a.id FROM s.t a, s.t b, s.t c", "SELECT count(*) FROM s.t a, s.t b, s.t c WHERE a.v + b.v + c.v = 7"]
)
def test_closing_from_another_thread_ends_a_query(world: World, sql: str) -> None:
    world.write(FIRST, [(k, {"id": k, "v": k, "wide": None}) for k in range(3_000)])
    answer = Answer(sql, tables_of_topics(world.topics, world.registry, events=False), ALL, world.folder)
    threading.Timer(0.3, answer.close).start()
    with pytest.raises(Refused) as caught:
        answer.begin()
        for _ in answer.batches():
            assert answer.end() == {"truncated": False}
    assert caught.value.code == "query_closed"
    answer.close()
    assert list(world.folder.glob("query-*")) == []
