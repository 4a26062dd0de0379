"""Capture, as a property: whatever the order of commits, reads, pieces and crashes, the topic replays to the table;
every change after the connector's start is there once, versions rise per key, and no read is older than what it follows."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest
import sqlalchemy as sa

from millstream.capture.connector import Connector
from millstream.capture.window import Window
from millstream.events import envelope
from millstream.events.types import Field, RowSchema, Type
from millstream.schemas.sql import SqlRegistry
from millstream.testing.scripted_source import Change, ScriptedDatabase, ScriptedSource
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics

SCHEMA = RowSchema((Field("id", Type("int64"), 1), Field("v", Type("text"), 2)), ("id",))
TABLES = {"a": SCHEMA, "b": SCHEMA}
SEEDS = 30


class Crash(Exception):
    pass


def write(db: ScriptedDatabase, rng: random.Random) -> None:
    """One transaction of up to five changes, a key several times and a moved key among them."""
    rows = {t: dict(db.rows(t)) for t in TABLES}
    changes: list[Change] = []
    for _ in range(rng.randint(1, 5)):
        table, key = rng.choice("ab"), rng.randrange(6)
        before = rows[table].get((key,))
        if rng.random() < 0.1:
            changes.append(Change(table, None, None))
            rows[table].clear()
        elif before is not None and rng.random() < 0.25:
            changes.append(Change(table, before, None))
            del rows[table][(key,)]
        elif before is not None and rng.random() < 0.25 and ((key + 6) % 12,) not in rows[table]:
            moved = before | {"id": (key + 6) % 12}
            changes += [Change(table, before, None), Change(table, None, moved)]
            del rows[table][(key,)]
            rows[table][(moved["id"],)] = moved
        else:
            after = {"id": key, "v": f"{len(db.log)}.{len(changes)}"}
            changes.append(Change(table, before, after))
            rows[table][(key,)] = after
    db.commit(*changes)


def open_world(folder: Path, tables: dict[str, RowSchema] = TABLES) -> tuple[LocalTopics, SqlRegistry]:
    registry = SqlRegistry(sa.create_engine(f"sqlite:///{folder}/mesh.db"))
    topics = LocalTopics(folder / "topics.db", registry)
    for table, schema in tables.items():
        name = f"s.{table}"
        registry.register(f"{name}-value", envelope.value_schema(name, schema))
        key = registry.register(f"{name}-key", envelope.key_schema(name, schema))
        source = ScriptedSource("s", ScriptedDatabase(tables, random.Random(0)))
        origin = next(t.origin for t in source.tables() if t.name == table)
        topics.create(Topic(name, schema.key, key.id, "whole", origin))
    return topics, registry


def play(seed: int, folder: Path) -> tuple[ScriptedDatabase, LocalTopics, int]:
    """Writes, reads and crashes in random order until all is through. Returns also the log's length at the first start."""
    rng = random.Random(seed)
    db = ScriptedDatabase(TABLES, rng)
    for _ in range(rng.randint(0, 5)):
        write(db, rng)
    before_start = len(db.log)
    db.visible = before_start
    topics, registry = open_world(folder)
    connector: Connector | None = None
    left, clock = 30, [0.0]

    def now() -> float:
        clock[0] += rng.random()
        return clock[0]

    while True:
        if connector is None:
            connector = Connector(ScriptedSource("s", db), topics, registry, now)
            connector.open()
            if connector.position is None:
                skip_history(connector, before_start)
        connector.step()
        if left and rng.random() < 0.5:
            write(db, rng)
            left -= 1
        if rng.random() < 0.05:
            connector = None  # as after kill -9: nothing was closed
            continue
        position = connector.position
        if not left and connector.loaded and position is not None and (position.major, position.minor) >= connector._source.head():
            return db, topics, before_start


def skip_history(connector: Connector, entries: int) -> None:
    """A new slot begins at its own making: what was committed before comes by the initial load alone."""
    stream = connector._stream
    assert stream is not None
    if not entries:
        return
    for delivery in stream:
        if delivery.position.major > 10 * entries:
            return


def check(db: ScriptedDatabase, topics: LocalTopics, start: int) -> None:
    for table in TABLES:
        rows: dict[int, dict] = {}
        versions: dict[int, tuple[int, int]] = {}
        live = defaultdict(list)
        offset = 0
        while batches := topics.read(f"s.{table}", offset, bytes_max=1 << 20):
            offset = topics.read_end(batches)
            for b in batches:
                for e in b.rows.to_pylist():
                    key = (e["after"] or e["before"])["id"]
                    version = (e["major"], e["minor"])
                    assert version > versions.get(key, (0, -1)), f"{table} {key}: version {version} does not rise"
                    versions[key] = version
                    if e["op"] != "r":
                        assert e["cause"] is None or (e["cause"], e["op"], key in rows) == ("truncate", "d", True)
                        assert e["before"] == rows.get(key) or (key not in rows and e["op"] != "c"), "before is not what stood there"
                        if e["cause"] is None:
                            live[key].append((e["op"], e["after"]))
                    if e["after"] is None:
                        rows.pop(key, None)
                    else:
                        rows[key] = e["after"]
        assert rows == {k[0]: r for k, r in db.rows(table).items()}, f"{table} differs"
        wanted = defaultdict(list)
        for changes in db.log[start:]:
            for c in changes if isinstance(changes, list) else ():
                if c.table == table and (c.before or c.after):
                    op = "d" if c.after is None else "c" if c.before is None else "u"
                    wanted[(c.after or c.before)["id"]].append((op, c.after))
        assert live == wanted, f"{table}: the live events are not the changes, each once, in order"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_topic_is_the_table(seed: int, tmp_path: Path) -> None:
    check(*play(seed, tmp_path))


@pytest.mark.parametrize("what", ["admission", "window", "emptied window", "truncate"])
def test_without_one_of_them_it_is_seen_to_fail(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if what == "admission":
        monkeypatch.setattr("millstream.capture.admission.LogAdmission.admit", lambda self, topic, b: b)
    elif what == "window":
        monkeypatch.setattr(Window, "see", lambda self, live: self)
    elif what == "emptied window":
        monkeypatch.setattr(Window, "emptied", lambda self, by: self)
    else:
        monkeypatch.setattr("millstream.capture.emptying.first", lambda *_: [])
    failed = 0
    for seed in range(SEEDS // 2):
        (tmp_path / str(seed)).mkdir()
        try:
            check(*play(seed, tmp_path / str(seed)))
        except AssertionError:
            failed += 1
    assert failed
