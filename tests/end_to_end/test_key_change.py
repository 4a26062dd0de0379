"""A table that gets another primary key while it is written to, and its connector killed over it: what is made of its rows becomes what
Postgres itself answers, once the pipeline is resumed; who does not read the table takes no notice."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from millstream.sinks.search.query import search
from millstream.testing.postgres_server import PostgresServer

MESH = "mesh: keys\n"
SOURCE = """source: shop
connector: postgres
url: ${SHOP_URL}
tables: [public.item, public.shelf]
owner: team-shop
"""
SHELVES = """pipeline: shelves
owner: team-shelves
steps:
  - name: shelf
    sql: >
      SELECT s.id, s.name,
        (SELECT list({code: i.code, qty: i.qty} ORDER BY i.id, i.code) FROM shop.public.item i WHERE i.shelf = s.id) AS items
      FROM shop.public.shelf s
sinks:
  - {from: shelf, search: {index: shelf}}
  - {from: shelf, jsonl: {file: shelves.jsonl}}
"""
SUMS = """pipeline: sums
owner: team-sums
evolve: follow
steps:
  - name: per_shelf
    sql: SELECT coalesce(shelf, -1) AS shelf, sum(qty) AS qty, count(*) AS items FROM shop.public.item GROUP BY coalesce(shelf, -1)
sinks:
  - {from: per_shelf, jsonl: {file: sums.jsonl}}
"""
SUMS_NOW = "SELECT shelf, sum(qty)::int, count(*)::int FROM item GROUP BY shelf ORDER BY shelf"
NAMES = """pipeline: names
owner: team-names
steps:
  - name: name
    sql: SELECT id, name FROM shop.public.shelf
sinks:
  - {from: name, jsonl: {file: names.jsonl}}
"""
SHELVES_NOW = """SELECT s.id, s.name, coalesce((SELECT json_agg(json_build_object('code', i.code, 'qty', i.qty) ORDER BY i.id, i.code)
    FROM item i WHERE i.shelf = s.id), '[]'::json) FROM shelf s ORDER BY s.id"""
KEYS = 60


class Load(threading.Thread):
    """Transactions over both tables, until it is told to stop."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url, self._stop_it, self._chance = url, threading.Event(), random.Random(5)
        self.failed: Exception | None = None

    def run(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as con:
                n = 0
                while not self._stop_it.wait(0.01):
                    n += 1
                    key, shelf = self._chance.randrange(KEYS), self._chance.randrange(5)
                    con.execute(*self._statement(n, key, shelf))
        except Exception as e:
            self.failed = e

    def _statement(self, n: int, key: int, shelf: int) -> tuple[str, list[Any]]:
        match self._chance.randrange(4):
            case 0:
                return "DELETE FROM item WHERE id = %s", [key]
            case 1:
                return "UPDATE shelf SET name = %s WHERE id = %s", [f"n{n}", shelf]
            case _:
                said = "INSERT INTO item VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
                return said, [key, f"c{key}", shelf, n]

    def stop(self) -> None:
        self._stop_it.set()
        self.join()
        if self.failed is not None:
            raise self.failed


@contextmanager
def loaded(url: str) -> Iterator[None]:
    load = Load(url)
    load.start()
    try:
        yield
    finally:
        load.stop()


def fold(path: Path) -> list[tuple[Any, ...]]:
    rows: dict[Any, Any] = {}
    for line in map(json.loads, path.read_text().splitlines()):
        rows[tuple(line["key"].values())] = line["after"]
    return [tuple(rows[key].values()) for key in sorted(rows) if rows[key] is not None]


@pytest.mark.servers
@pytest.mark.timeout(300)
def test_a_primary_key_that_changes_under_load(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    url = postgres.url(database)

    def millstream(*arguments: str, fault: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "millstream"), *arguments]
        env = os.environ | {"SHOP_URL": url} | ({"MILLSTREAM_FAULT": fault} if fault else {})
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)

    pipelines = (("pipelines/shelves", SHELVES), ("pipelines/names", NAMES), ("pipelines/sums", SUMS))
    for name, text in (("mesh", MESH), ("sources/shop", SOURCE), *pipelines):
        (tmp_path / f"{name}.yaml").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    with psycopg.connect(url, autocommit=True) as con:
        con.execute("CREATE TABLE item (id int PRIMARY KEY, code text NOT NULL, shelf int NOT NULL, qty int NOT NULL)")
        con.execute("CREATE TABLE shelf (id int PRIMARY KEY, name text NOT NULL)")
        for table in ("item", "shelf"):
            con.execute(f"ALTER TABLE {table} REPLICA IDENTITY FULL")
        con.execute("INSERT INTO shelf SELECT g, 's' || g FROM generate_series(0, 4) g")
        con.execute(f"INSERT INTO item SELECT g, 'c' || g, g % 5, g FROM generate_series(0, {KEYS - 1}) g")
        for command in (("apply",), ("run", "--until-caught-up")):
            done = millstream(*command)
            assert done.returncode == 0, done.stdout + done.stderr
        with loaded(url):
            con.execute("ALTER TABLE item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (code)")
            killed = millstream("run", fault="incarnation.begun:1:KILL")
            assert killed.returncode == -9, killed.stdout + killed.stderr
            killed = millstream("run", fault="pipeline.after_verdict:1:KILL")  # of the pipeline that follows
            assert killed.returncode == -9, killed.stdout + killed.stderr
        paused = millstream("run", "--until-caught-up")
        assert paused.returncode == 4, paused.stdout + paused.stderr
        assert "shop.public.item@2" in paused.stdout and "millstream resume shelves" in paused.stdout
        names = con.execute("SELECT id, name FROM shelf ORDER BY id").fetchall()
        assert fold(tmp_path / "names.jsonl") == names, "it does not read the table"
        assert fold(tmp_path / "sums.jsonl") == con.execute(SUMS_NOW).fetchall(), "it moved by itself"
        resumed = millstream("resume", "shelves")
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        with loaded(url):
            killed = millstream("run", fault="rebuild.before_publish:1:KILL")
            assert killed.returncode == -9, killed.stdout + killed.stderr
        con.execute("UPDATE item SET code = 'x' || code WHERE id < 3")
        done = millstream("run", "--until-caught-up")
        assert done.returncode == 0, done.stdout + done.stderr
        wanted = con.execute(SHELVES_NOW).fetchall()
        assert fold(tmp_path / "shelves.jsonl") == wanted
        assert fold(tmp_path / "sums.jsonl") == con.execute(SUMS_NOW).fetchall()
        found = {
            h.document["id"]: (h.document["name"], h.document["items"]) for h in search(tmp_path / ".millstream", "shelf", "*", 100).hits
        }
        assert found == {i: (name, items) for i, name, items in wanted}
        topics = json.loads(millstream("--json", "topics", "list").stdout)
        assert {t["topic"]: t["goes_on_as"] for t in topics}["shop.public.item"] == "shop.public.item@2"
