"""A key that changes in a source that repeats and reorders, as a property: whatever it says again of either key, and wherever the
connector is killed, the old incarnation is complete up to the change and ends, the new one is what the table is, and each change stands in
one of them, once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from test_frontier_property import Time, World, is_schema_chunk

from millstream.capture import connector as connector_module
from millstream.capture.frontier import FrontierAdmission
from millstream.capture.incarnations import Incarnations
from millstream.errors import Irrecoverable
from millstream.events.types import Constant, Field, RowSchema, Type
from millstream.topics.incarnations import ENDED, ended, number

FIELDS = (Field("id", Type("int64"), 1), Field("v", Type("text"), 2), Field("k", Type("int64"), 3))
KEYS = [("id",), ("id", "k"), ("k",)]
SEEDS = 12


def keyed_by(key: tuple[str, ...], fields: tuple[Field, ...] = FIELDS) -> RowSchema:
    return RowSchema(tuple(Field(f.name, f.type, f.id, nullable=f.name not in key, fill=f.fill) for f in fields), key)


class KeyWorld(World):
    """Of table `a` the key changes now and then. `k` is 100 - `id`, so that each of the keys is one."""

    def row(self, table: str, key: int, n: int) -> dict[str, Any]:
        return super().row(table, key, n) | {"k": 100 - key}

    def write(self) -> None:
        return self.alter("a") if self.rng.random() < 0.08 else super().write()

    def alter(self, table: str) -> None:
        schema = self.db.tables[table]
        if table != "a" or self.rng.random() < 0.3:
            return super().alter(table)
        key = self.rng.choice([k for k in KEYS if k != schema.key])
        self.db.alter(table, keyed_by(key, schema.fields), again=self.rng.random() < 0.3)

    def reached(self, name: str) -> None:
        crashes, self.crashes = self.crashes, 0.4 if name.startswith("incarnation.") else self.crashes
        try:
            super().reached(name)
        finally:
            self.crashes = crashes

    def events(self, topic: str) -> Iterator[dict[str, Any]]:
        offset = 0
        while batches := self.topics.read(topic, offset, bytes_max=1 << 20):
            offset = self.topics.read_end(batches)
            for b in batches:
                yield from b.rows.to_pylist()


def check(world: World) -> None:
    record = world.topics.producer_record("source.s")
    assert record is not None and not record.state["aside"]
    for table in world.db.tables:
        past = record.state.get(ENDED, {}).get(table, [])
        check_table(world, table, [e["topic"] for e in past] + [past[-1]["goes_on_as"] if past else f"s.{table}"])


def check_table(world: World, table: str, names: list[str]) -> None:
    db = world.db
    told: dict[int, list[tuple[Time, str, Any]]] = defaultdict(list)
    for n, name in enumerate(names, 1):
        topic, rows, last = world.topics.topic(name), {}, {}
        assert topic is not None and topic.incarnation == n
        for e in world.events(name):
            image = e["after"] or e["before"]
            key, at = tuple(image[k] for k in topic.key), (e["major"], e["minor"])
            assert e["incarnation"] == n
            assert at > last.get(key, (0, 0)), f"{name} {key}: version {at} after {last[key]}"
            last[key] = at
            if not (e["cause"] == "backfill" or is_schema_chunk(e)):
                told[image["id"]].append((at, e["op"], e["after"]))
                if e["op"] != "r" and key in rows and e["before"] is not None:
                    assert all(rows[key].get(c, value) == value for c, value in e["before"].items()), "before is not what was there"
            rows.pop(key, None)
            if e["after"] is not None:
                rows[key] = e["after"]
        over = ended(world.topics, name)
        if n == len(names):
            assert over is None
            schema = db.tables[table]
            fills = {f.name: f.fill.text if isinstance(f.fill, Constant) else None for f in schema.fields}
            wanted = {tuple(r[k] for k in topic.key): r for r in db.rows(table).values()}
            assert {key: {c: r.get(c, fill) for c, fill in fills.items()} for key, r in rows.items()} == wanted, f"{name} is not the table"
        else:
            assert over is not None and (over[0].goes_on_as, over[1]) == (names[n], world.topics.end(name))
            if over[0].ready:  # columns that were added may wait for their rows to be told again, which the new topic's load does
                changed = max(at for at in db.key_changes(table) if at <= over[0].since)
                wanted = {tuple(r[k] for k in topic.key): r["v"] for r in db.rows(table, changed).values()}
                assert {key: r["v"] for key, r in rows.items()} == wanted, f"{name} is not what the table was"
    wanted_of: dict[int, list[tuple[Time, str, Any]]] = defaultdict(list)
    for t in db.log:
        if t.table == table and t.at > world.began[table] and (t.before or t.after):
            wanted_of[t.key[0]].append((t.at, "r" if t.again else "d" if t.after is None else "c" if t.before is None else "u", t.after))
    assert told == wanted_of, f"{table}: what was told is not each change once, in order"


def played(seed: int, folder: Path, **more: Any) -> World:
    (folder / str(seed)).mkdir()
    world = KeyWorld(seed, folder / str(seed), first=keyed_by(("id",)), **more).run()
    check(world)
    return world


def test_a_key_that_changes(tmp_path: Path) -> None:
    worlds = [played(seed, tmp_path) for seed in range(SEEDS)]
    assert max(number(t.name) for w in worlds for t in w.topics.topics()) > 2
    assert sum(w.killed["incarnation.begun"] for w in worlds) > 2


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_key_that_changes_in_many_worlds(tmp_path: Path) -> None:
    for seed in range(1000, 1120):
        played(seed, tmp_path, left=100)


def repeats_are_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Incarnations, "fresh", lambda self, batch, position: batch)


def nothing_is_loaded(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(connector_module, "with_key_load", lambda backfills, table, number: backfills)


def a_key_in_passing_begins_a_topic(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FrontierAdmission, "is_beyond", lambda self, topic, read_point: False)


@pytest.mark.parametrize("broken", [repeats_are_told, nothing_is_loaded])
def test_broken_it_is_seen_to_fail(broken: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with pytest.raises((AssertionError, Irrecoverable)):
        for seed in range(SEEDS):
            played(seed, tmp_path)


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_key_that_a_chunk_saw_in_passing(is_broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was told under it, and by the time that a chunk was read there the topic had what came after."""
    if is_broken:
        a_key_in_passing_begins_a_topic(monkeypatch)
    with pytest.raises(AssertionError) if is_broken else nullcontext():
        played(1010, tmp_path, left=100)
