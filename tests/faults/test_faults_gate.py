"""A process killed at every moment between a schema that changes and the plan that follows it: the next one finishes what was begun.

One world goes on from kill to kill, with one more column each time. What is read are the files that the sinks wrote.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from faults_project import Project

from millstream.testing.postgres_server import PostgresServer

pytestmark = [pytest.mark.faults, pytest.mark.servers]

POINTS = (
    "pipeline.before_propagate",
    "pipeline.after_register",
    "pipeline.after_verdict",
    "pipeline.after_carried",
    "pipeline.after_propagate",
    "sink.after_verdict",
    "sink.after_accept",
)
SOURCE = """\
source: shop
connector: postgres
url: ${SHOP_URL}
slot: gate
publication: gate
tables: [public.item, public.maker]
owner: o
"""
STAR = """\
pipeline: star
owner: s
evolve: follow
steps:
  - {name: every, sql: SELECT * FROM shop.public.item WHERE id > 0}
sinks:
  - {from: every, jsonl: {file: star.jsonl}}
"""
WOVEN = """\
pipeline: woven
owner: w
evolve: follow
steps:
  - name: wide
    sql: SELECT i.*, m.name AS made_by FROM star.every i LEFT JOIN shop.public.maker m ON m.id = i.maker
    key: [id]
sinks:
  - {from: wide, jsonl: {file: woven.jsonl}}
"""


@dataclass
class Shop:
    server: PostgresServer
    project: Project
    columns: Iterator[int]

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        return self.server.execute(statement, "gate")

    def add_column(self) -> str:
        number = next(self.columns)
        self.execute(f"ALTER TABLE item ADD COLUMN c{number} text DEFAULT 'old {number}'")
        self.execute(f"INSERT INTO item (id, maker, c{number}) VALUES ({100 + number}, 1, 'new {number}')")
        return f"c{number}"

    def rows(self) -> dict[int, dict[str, Any]]:
        document = "to_jsonb(i) || jsonb_build_object('made_by', m.name)"
        return dict(self.execute(f"SELECT i.id, {document} FROM item i LEFT JOIN maker m ON m.id = i.maker"))

    def written(self, file: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.project.folder / file).read_text().splitlines()]


@pytest.fixture(scope="module")
def shop(faults_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    faults_server.create_database("gate")
    folder: Path = tmp_path_factory.mktemp("gate")
    files = {"mesh.yaml": "mesh: gate\n", "sources/shop.yaml": SOURCE, "pipelines/star.yaml": STAR, "pipelines/woven.yaml": WOVEN}
    made = Shop(faults_server, Project(folder, {"SHOP_URL": faults_server.url("gate")}, files), count(1))
    made.execute("CREATE TABLE maker (id int PRIMARY KEY, name text)")
    made.execute("CREATE TABLE item (id int PRIMARY KEY, maker int)")
    for table in ("maker", "item"):
        made.execute(f"ALTER TABLE {table} REPLICA IDENTITY FULL")
    made.execute("INSERT INTO maker VALUES (1, 'one'), (2, 'two')")
    made.execute("INSERT INTO item SELECT n, n % 3 FROM generate_series(1, 50) n")
    made.project.command("apply")
    made.project.catch_up()
    yield made
    made.project.close()
    with faults_server.connect() as connection:
        connection.execute("SELECT pg_drop_replication_slot('gate')")
    faults_server.execute("DROP DATABASE gate")


@pytest.mark.parametrize("point", POINTS)
def test_killed_between_a_schema_and_the_plan_that_follows_it(point: str, shop: Shop) -> None:
    column = shop.add_column()
    process = shop.project.start("run", "--until-caught-up", fault=f"{point}:1:KILL")
    assert process.wait() == -signal.SIGKILL, f"{point} was not reached:\n{process.words[-3000:]}"
    shop.project.catch_up()
    now, rows, versions = {}, shop.rows(), {}
    for event in shop.written("woven.jsonl"):
        key = event["key"]["id"]
        assert event["version"] > versions.get(key, ""), f"{key} went back, or came twice"
        versions[key], now[key] = event["version"], event["after"]
    assert now == rows
    assert {r[column] for k, r in now.items() if k <= 50} == {f"old {column[1:]}"}
    events = [e for e in shop.written("star.jsonl") if e["op"] != "r"]
    told = [e["key"]["id"] for e in shop.written("star.jsonl")]
    assert sorted(told) == sorted(rows), "a row that a filter passes on is said once, whatever columns come"
    assert events[-1]["after"][column] == f"new {column[1:]}"
    hows = [v["verdict"] for v in json.loads(shop.project.command("--json", "status"))["verdicts"] if v["topic"] == "star.every"]
    assert hows[-1] == "propagate"
