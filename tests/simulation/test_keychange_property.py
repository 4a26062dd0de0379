"""A key that changes, as a property: whenever it does, and whenever the connector is killed, the topic's old incarnation is complete up
to the change and then ends, the new one is what the table is, and each change stands in one of them, once."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from test_capture_property import Crash, open_world, skip_history

import millstream.capture.connector
from millstream.capture.connector import Connector
from millstream.events.types import Field, RowSchema, Type
from millstream.testing.scripted_source import Change, ScriptedDatabase, ScriptedSource
from millstream.topics.incarnations import ENDED, ended, number
from millstream.topics.local import LocalTopics

FIELDS = (Field("id", Type("int64"), 1), Field("v", Type("text"), 2), Field("k", Type("int64"), 3))
SEEDS, SEEDS_LONG = 12, 200


def schema(*key: str) -> RowSchema:
    return RowSchema(tuple(Field(f.name, f.type, f.id, nullable=f.name not in key) for f in FIELDS), key)


KEYS = [schema("id"), schema("id", "k"), schema("k")]
TABLES = {"a": KEYS[0], "b": KEYS[0]}


def write(db: ScriptedDatabase, rng: random.Random) -> None:
    """One transaction. `k` is 100 - `id`, so that each of the keys is one."""
    changes: list[Change] = []
    rows = {t: {r["id"]: r for r in db.rows(t).values()} for t in TABLES}
    for _ in range(rng.randint(1, 4)):
        table, key = rng.choice("ab"), rng.randrange(8)
        before = rows[table].get(key)
        after = None if before is not None and rng.random() < 0.3 else {"id": key, "v": f"{len(db.log)}.{len(changes)}", "k": 100 - key}
        changes.append(Change(table, before, after))
        rows[table][key] = after
        if after is None:
            del rows[table][key]
    db.commit(*changes)


def play(seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ScriptedDatabase, LocalTopics, int]:
    rng = random.Random(seed)
    db = ScriptedDatabase(dict(TABLES), rng)
    for _ in range(rng.randint(0, 5)):
        write(db, rng)
    start = db.visible = len(db.log)
    topics, registry = open_world(folder, TABLES)
    left, changes = 30, rng.randint(1, 3)
    clock = [0.0]

    def now() -> float:
        clock[0] += rng.random()
        return clock[0]

    def reached(moment: str) -> None:
        often = 0.4 if "incarnation" in moment else 0.01
        if connector is not None and rng.random() < often:
            raise Crash(moment)

    monkeypatch.setattr(millstream.capture.connector, "reached", reached)
    connector: Connector | None = None
    while True:
        if connector is None:
            opening = Connector(ScriptedSource("s", db), topics, registry, now)
            opening.open()
            connector = opening
            if connector.position is None:
                skip_history(connector, start)
        if left and rng.random() < 0.5:
            write(db, rng)
            left -= 1
        if changes and rng.random() < 0.05:
            db.alter("a", rng.choice([k for k in KEYS if k != db.tables["a"]]))
            changes -= 1
        try:
            connector.step()
        except Crash:
            connector = None
            continue
        position = connector.position
        if not left and connector.loaded and position is not None and (position.major, position.minor) >= connector._source.head():
            return db, topics, start


def check(db: ScriptedDatabase, topics: LocalTopics, start: int) -> None:
    record = topics.producer_record("source.s")
    assert record is not None
    assert not record.state["aside"]
    past = record.state.get(ENDED, {}).get("a", [])
    names = [e["topic"] for e in past] + [past[-1]["goes_on_as"] if past else "s.a"]
    live: dict[int, list[Any]] = defaultdict(list)
    for at, name in enumerate(names):
        topic = topics.topic(name)
        assert topic is not None
        assert topic.incarnation == at + 1
        rows, versions = {}, {}
        for e in events(topics, name):
            key = tuple((e["after"] or e["before"])[k] for k in topic.key)
            version = (e["incarnation"], e["major"], e["minor"])
            assert version > versions.get(key, (0, 0, -1)), f"{name} {key}: {version} does not rise"
            assert e["incarnation"] == topic.incarnation
            versions[key] = version
            assert e["op"] == "r" or e["before"] == rows.get(key) or key not in rows, "before is not what stood there"
            if e["op"] != "r":
                live[(e["after"] or e["before"])["id"]].append((e["major"], e["after"]))
            rows[key] = e["after"]
        present = {key: row for key, row in rows.items() if row is not None}
        if at < len(past):
            found = ended(topics, name)
            assert found is not None
            assert (found[0].goes_on_as, found[1]) == (names[at + 1], topics.end(name))
            if found[0].ready:  # the last entry in which the table had this key
                upto = next(i for i, t, s in reversed(db.altered) if t == "a" and 10 * i < found[0].since[0])
                assert present == keyed(db.rows("a", upto), topic.key)
        else:
            assert ended(topics, name) is None
            # A key that changed after the last write is noticed with the next.
            assert present == keyed(db.rows("a"), topic.key), "the newest incarnation is not the table"
            assert record.state["ready"][name]
    wanted: dict[int, list[Any]] = defaultdict(list)
    for i, changes in enumerate(db.log[start:], start + 1):
        for c in changes if isinstance(changes, list) else ():
            if c.table == "a":
                row = c.after or c.before
                assert row is not None
                wanted[row["id"]].append((10 * i, c.after))
    assert {k: v for k, v in live.items() if v} == dict(wanted), "a change is missing, or there twice"
    rows = {}
    for e in events(topics, "s.b"):
        rows[(e["after"] or e["before"])["id"],] = e["after"]
    assert {k: r for k, r in rows.items() if r is not None} == db.rows("b")


def keyed(rows: Any, key: tuple[str, ...]) -> dict[Any, Any]:
    return {tuple(r[k] for k in key): r for r in rows.values()}


def events(topics: LocalTopics, name: str) -> list[dict[str, Any]]:
    found, offset = [], 0
    while batches := topics.read(name, offset, bytes_max=1 << 20):
        offset = topics.read_end(batches)
        found += [e for b in batches for e in b.rows.to_pylist()]
    return found


@pytest.mark.parametrize("seed", [*range(SEEDS), *(pytest.param(n, marks=pytest.mark.long) for n in range(SEEDS, SEEDS_LONG))])
def test_a_key_that_changes(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db, topics, start = play(seed, tmp_path, monkeypatch)
    check(db, topics, start)
    topics.close()


def test_the_worlds_have_what_they_are_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = []
    for seed in range(8):
        folder = tmp_path / str(seed)
        folder.mkdir()
        _, topics, _ = play(seed, folder, monkeypatch)
        numbers += [number(t.name) for t in topics.topics()]
        topics.close()
    assert max(numbers) > 2
