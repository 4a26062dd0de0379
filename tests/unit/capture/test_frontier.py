"""Admission by table and key, and the part of each topic that it is made from again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from millstream.capture import frontier
from millstream.capture.frontier import FrontierAdmission
from millstream.capture.rowcopy import row_keys
from millstream.errors import Irrecoverable
from millstream.events import envelope
from millstream.events.batch import Batch, batch
from millstream.events.origin import Origin
from millstream.events.progress import Position
from millstream.events.types import Field, RowSchema, Type
from millstream.schemas.sql import SqlRegistry
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics

SCHEMA = RowSchema((Field("id", Type("decimal", 5, 2), 1), Field("v", Type("text"), 2)), ("id",))
Event = tuple[str, int, int]  # key, major, minor


def events(*given: Event, topic: str = "s.a", ops: str = "c", incarnation: int = 1) -> Batch:
    count = len(given)
    images = pa.array([{"id": None, "v": ""} for _ in given], SCHEMA.arrow)
    keys = pa.array([key for key, _, _ in given], pa.string()).cast(SCHEMA.arrow.field(0).type)
    images = pa.StructArray.from_arrays([keys, images.field(1)], fields=list(SCHEMA.arrow))
    return batch(
        topic,
        SCHEMA,
        {
            "op": [ops] * count,
            "before" if ops == "d" else "after": images,
            "incarnation": np.full(count, incarnation, np.uint32),
            "major": np.array([e[1] for e in given], np.uint64),
            "minor": np.array([e[2] for e in given], np.uint32),
            "ts_us": np.zeros(count, np.int64),
            "position": [""] * count,
            "backfill": ["initial" if ops == "r" else None] * count,
        },
    )


def versions(b: Batch) -> list[tuple[int, int]]:
    return list(zip(b.column("major").to_pylist(), b.column("minor").to_pylist(), strict=True))


def place(**tables: tuple[int, int]) -> Position:
    return Position(*min(tables.values(), default=(0, 0)), {}, tables)


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    registry = SqlRegistry(sa.create_engine(f"sqlite:///{tmp_path}/mesh.db"))
    topics, ids = LocalTopics(tmp_path / "topics.db", registry), {}
    for table in "ab":
        name = f"s.{table}"
        ids[name] = registry.register(f"{name}-value", envelope.value_schema(name, SCHEMA)).id
        key = registry.register(f"{name}-key", envelope.key_schema(name, SCHEMA))
        topics.create(Topic(name, ("id",), key.id, "whole", Origin("scripted", "s", "d", None, table)))
    return Writer(topics, ids)


class Writer:
    """A connector, as far as admission sees it."""

    def __init__(self, topics: LocalTopics, ids: Mapping[str, int]) -> None:
        self.topics, self.ids = topics, ids
        self.tables = {t: topic for t in "ab" if (topic := topics.topic(f"s.{t}")) is not None}
        self.producer = topics.open_producer("source.s")
        self.open()

    def open(self) -> None:
        state = self.producer.record.state
        position = Position.of(state["position"]) if state else None
        self.admission = FrontierAdmission(self.tables, position, state.get("admission", {}), None)
        self.pieces = len(list(self.admission.follow(self.topics)))

    def commit(self, batches: Sequence[Batch], position: Position, chunk: Batch | None = None) -> list[list[tuple[int, int]]]:
        """What of them is admitted."""
        admitted = [self.admission.admit(b.topic, b) for b in batches]
        out = [b.with_schema_id(self.ids[b.topic]) for b in [*admitted, *([chunk] if chunk is not None else [])] if len(b)]
        blocks = [self.topics.encode(b) for b in out]
        taken = self.admission.taken(out, blocks, self.producer.record.ends, position)
        state = {"position": position.json(), "admission": taken}
        self.producer.commit(blocks, state, sequence=self.producer.record.sequence + 1, tail=out)
        self.admission.committed(position)
        return [versions(b) for b in admitted]

    @property
    def tails(self) -> dict[str, int]:
        return dict(self.producer.record.state["admission"]["tails"])


def test_each_table_has_a_frontier_of_its_own_and_one_without_has_none(writer: Writer) -> None:
    writer.commit([], place(a=(10, 3)))
    given = [("1", 10, 3), ("2", 10, 4), ("3", 9, 9)]
    assert writer.commit([events(*given), events(*given, topic="s.b")], place(a=(10, 3))) == [[(10, 4)], [(10, 3), (10, 4), (9, 9)]]
    writer.open()
    assert writer.commit([events(*given), events(*given, topic="s.b")], place(a=(10, 3))) == [[], []]


def test_while_the_position_stands_keys_tell_repeats_from_news(writer: Writer) -> None:
    stands = place(a=(5, 0), b=(5, 0))
    assert writer.commit([events(("1", 7, 0), ("1", 8, 0), ("2", 6, 0))], stands) == [[(7, 0), (8, 0), (6, 0)]]
    assert writer.commit([events(("1", 7, 0), ("2", 7, 0), ("1", 8, 0), ("1.0", 9, 0))], stands) == [[(7, 0), (9, 0)]]
    assert writer.commit([events(("1", 9, 0), ("1", 10, 0), ops="d")], stands) == [[(10, 0)]]
    writer.open()
    assert writer.commit([events(("1", 10, 0), ("2", 7, 0), ("2", 7, 1))], stands) == [[(7, 1)]]


def test_the_tail_begins_at_the_first_commit_at_the_frontier_or_above_and_ends_where_all_is_complete(writer: Writer) -> None:
    writer.commit([events(("1", 7, 0)), events(("1", 7, 0), topic="s.b")], place(a=(5, 0), b=(5, 0)))
    assert writer.tails == {"s.a": 0, "s.b": 0}
    writer.commit([], place(a=(5, 0), b=(7, 0)))
    assert writer.tails == {"s.a": 0, "s.b": 0}, "a chunk may be read at the frontier"
    writer.commit([events(("1", 8, 0), ("2", 9, 0), ops="d")], place(a=(5, 0), b=(7, 1)))
    assert writer.tails == {"s.a": 0, "s.b": 1}
    writer.commit([events(("3", 12, 0))], place(a=(7, 1), b=(7, 1)))
    assert writer.tails == {"s.a": 1, "s.b": 1}
    writer.commit([events(("3", 13, 0))], place(a=(9, 1), b=(7, 1)))
    assert writer.tails == {"s.a": 5, "s.b": 1}, "each of the two deletes has its tombstone"
    writer.open()
    assert writer.pieces == 1
    assert writer.commit([events(("1", 8, 0), ("3", 12, 0), ("3", 13, 0), ("3", 13, 1))], place(a=(13, 2), b=(7, 1))) == [[(13, 1)]]
    assert writer.tails == {"s.a": writer.topics.end("s.a"), "s.b": 1}
    writer.open()
    assert writer.pieces == 0


def test_many_commits_are_told_apart_by_few_places_and_none_is_missed(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier, "PARTS_MAX", 4)
    for n in range(30):
        writer.commit([events((str(n), 100 + n, 0))], place(a=(99, 0), b=(0, 0)))
    assert writer.tails["s.a"] == 0
    writer.commit([], place(a=(115, 0), b=(0, 0)))
    assert 0 < writer.tails["s.a"] <= 16
    writer.open()
    assert writer.commit([events(*((str(n), 100 + n, 0) for n in range(30)))], place(a=(115, 0), b=(0, 0))) == [[]]


def test_a_frontier_never_goes_back(writer: Writer) -> None:
    writer.commit([events(("1", 7, 0))], place(a=(7, 0), b=(0, 0)))
    writer.commit([], place(a=(3, 0), b=(0, 0)).holding(place(a=(7, 0), b=(0, 0))))
    assert writer.commit([events(("1", 7, 0), ("2", 5, 0))], place(b=(0, 0)).holding(place(a=(7, 0)))) == [[]]
    assert Position.of(writer.producer.record.state["position"]).tables["a"] == (7, 0)


def test_an_earlier_incarnation_does_not_count(writer: Writer) -> None:
    writer.commit([events(("1", 90, 0))], place(a=(5, 0), b=(5, 0)))
    writer.tables["a"] = writer.topics.raise_incarnation("s.a")
    writer.open()
    assert writer.commit([events(("1", 6, 0), incarnation=2)], place(a=(5, 0), b=(5, 0))) == [[(6, 0)]]


def test_a_chunk_loses_the_keys_that_were_told_where_it_was_read_or_above(writer: Writer) -> None:
    writer.commit([events(("1", 7, 0), ("2", 9, 0), ("3", 8, 1))], place(a=(6, 0), b=(6, 0)))
    column = pa.array(["1.00", "2.00", "3.00", "4.00"], pa.string()).cast(SCHEMA.arrow.field(0).type)
    keys = row_keys([column], 4, SCHEMA, "s.a")
    for _ in range(2):
        assert writer.admission.has("s.a", keys, (8, 1)).tolist() == [False, True, True, False]
        assert writer.admission.has("s.a", keys, (8, 2)).tolist() == [False, True, False, False]
        writer.open()
    writer.commit([], place(a=(8, 1), b=(6, 0)))
    for _ in range(2):
        assert writer.admission.has("s.a", keys, (8, 1)).tolist() == [False, True, True, False], "a frontier may be the time of a commit"
        writer.open()
    with pytest.raises(Irrecoverable) as caught:
        writer.admission.has("s.a", keys, (8, 0))
    assert caught.value.code == "read_point_too_old"
    assert len(writer.admission.has("s.a", keys.slice(0, 0), (8, 1))) == 0


def test_rows_of_a_chunk_count_where_they_were_read(writer: Writer) -> None:
    writer.commit([events(("1", 7, 0))], place(a=(7, 0), b=(6, 0)))
    column = pa.array(["1.00", "2.00", "3.00"], pa.string()).cast(SCHEMA.arrow.field(0).type)
    keys = row_keys([column], 3, SCHEMA, "s.a")
    writer.commit([], place(a=(8, 0), b=(6, 0)), chunk=events(("2", 8, 0), ops="r"))
    for _ in range(2):
        assert writer.admission.has("s.a", keys, (8, 0)).tolist() == [False, True, False]
        assert writer.commit([events(("2", 8, 0))], place(a=(8, 0), b=(6, 0))) == [[]]
        writer.open()
    assert writer.commit([events(("2", 8, 1))], place(a=(9, 0), b=(6, 0))) == [[(8, 1)]]
    assert writer.tails["s.a"] == writer.topics.end("s.a"), "what lies below the frontier is not read again"


def test_rows_of_a_scan_go_in_once_and_never_behind_what_is_newer(writer: Writer) -> None:
    writer.commit([events(("1", 5, 0))], place(a=(6, 0), b=(6, 0)))
    column = pa.array(["1.00", "2.00", "3.00", "4.00"], pa.string()).cast(SCHEMA.arrow.field(0).type)
    keys = row_keys([column], 4, SCHEMA, "s.a")
    writer.admission.hold("s.a", "one", (6, 0))
    writer.admission.hold("s.a", "two", (8, 0))
    writer.commit([events(("2", 7, 0), ("3", 9, 0))], place(a=(100, 0), b=(6, 0)))
    writer.commit(
        [
            events(
                (
                    "2",
                    101,
                    0,
                )
            )
        ],
        place(a=(100, 0), b=(6, 0)),
    )
    assert writer.admission.scanned("s.a", keys.slice(0, 3), (6, 0)).tolist() == [True, False, False]
    assert writer.admission.scanned("s.a", keys, (6, 0)).tolist() == [False, False, False, True], "what came before comes again"
    writer.admission.hold("s.a", "one", None)
    assert writer.admission.scanned("s.a", keys, (8, 0)).tolist() == [True, False, False, True]
    assert writer.admission.scanned("s.a", keys.slice(0, 0), (8, 0)).tolist() == []
    assert writer.commit([events(("1", 101, 0), ("1", 7, 0))], place(a=(101, 0), b=(6, 0))) == [[(101, 0)]]


def test_memory_is_bounded_and_what_is_on_disk_still_counts(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier, "BYTES_MAX", 300_000)
    stands = place(a=(0, 0), b=(0, 0))
    rng = np.random.default_rng(3)
    keys = [f"{n / 100:.2f}" for n in rng.permutation(30_000)]
    for at in range(0, 30_000, 3_000):
        part = [(key, at + i + 1, 0) for i, key in enumerate(keys[at : at + 3_000])]
        assert len(writer.admission.admit("s.a", events(*part))) == 3_000
        assert writer.admission.nbytes <= 300_000
    every = [(key, i + 1, 0) for i, key in enumerate(keys)]
    assert len(writer.admission.admit("s.a", events(*every))) == 0
    writer.admission.committed(stands)
