"""The command as a user calls it, on a real PostgreSQL: from an empty folder to a document that is found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from millstream.catalogue.store import AppliedPipeline, AppliedSink, AppliedSource, Catalogue
from millstream.testing.postgres_server import PostgresServer

pytestmark = pytest.mark.servers

PROGRAM = str(Path(sys.executable).parent / "millstream")
PASSWORD = "a-password-that-is-seen-nowhere"

SOURCE = """\
source: shop
connector: postgres
url: ${SHOP_URL}
tables: [public.orders, public.customers]
owner: team-shop
slot: %(slot)s
publication: %(slot)s
"""
PIPELINE = """\
pipeline: orders
owner: team-shop
steps:
  - name: named
    sql: |
      SELECT o.id, o.amount, c.name AS customer
      FROM shop.public.orders o LEFT JOIN shop.public.customers c ON c.id = o.customer_id
    key: [id]
  - name: large
    sql: SELECT id, amount, customer_id FROM shop.public.orders WHERE amount >= 100
sinks:
  - {from: named, search: {index: orders}}
  - {from: named, iceberg: {table: lake.orders}}
  - {from: large, jsonl: {file: large.jsonl}}
"""
TABLES = (
    "CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL)",
    "CREATE TABLE orders (id bigint PRIMARY KEY, amount numeric(10,2) NOT NULL, customer_id int)",
    "ALTER TABLE customers REPLICA IDENTITY FULL",
    "ALTER TABLE orders REPLICA IDENTITY FULL",
    "INSERT INTO customers VALUES (1, 'Ada Lovelace'), (2, 'Grace Hopper')",
    "INSERT INTO orders SELECT n, n, 1 + n % 2 FROM generate_series(1, 150) n",
)


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Studio:
    """A project folder and the command in it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.env = folder, os.environ | {"SHOP_URL": url}
        self.said: list[str] = []

    def __call__(self, *arguments: str, code: int = 0) -> Answer:
        done = subprocess.run([PROGRAM, *arguments], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=180)
        self.said += [done.stdout, done.stderr]
        assert done.returncode == code, f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return Answer(done.returncode, done.stdout, done.stderr)

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PROGRAM, *arguments], cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


@pytest.fixture
def studio(postgres: PostgresServer, database: str, tmp_path: Path) -> Studio:
    """A new project on a fresh database; nothing is applied yet."""
    for statement in TABLES:
        postgres.execute(statement, database)
    port = postgres.url(database).rpartition("@")[2]
    made = Studio(tmp_path, f"postgresql://postgres:{PASSWORD}@{port}")
    made("init", "studio")
    made.folder = tmp_path / "studio"
    (made.folder / "sources/shop.yaml").write_text(SOURCE % {"slot": f"ms_{database}"})
    (made.folder / "pipelines/orders.yaml").write_text(PIPELINE)
    return made


def found(studio: Studio, query: str) -> list[dict[str, Any]]:
    return [hit["document"] for hit in studio("search", "orders", query, "--limit", "1000", "--json").json["hits"]]


def test_from_an_empty_folder_to_a_document(studio: Studio, postgres: PostgresServer, database: str) -> None:
    studio("status", code=3)
    wrong = studio.folder / "pipelines/wrong.yaml"
    wrong.write_text("pipeline: wrong\nowner: o\nsteps:\n  - {name: a, sql: SELECT id, amuont FROM shop.public.orders}\n")
    assert "pipelines/wrong.yaml:4:" in studio("validate", code=2).err
    wrong.unlink()
    studio("validate")
    planned = studio("plan", "--json").json["steps"]
    assert {s["subject"] for s in planned if s["kind"] == "create_topic"} == {
        "shop.public.orders", "shop.public.customers", "orders.named", "orders.large",
    }  # fmt: skip
    assert studio("apply", "--json").json["done"] == planned
    assert studio("plan", "--json").json["steps"] == []

    last = studio("run", "--until-caught-up", "--json").lines[-1]
    assert last["ended"] == "caught up"
    status = studio("status", "--json").json
    assert (status["lag"], status["loading"], status["running"]) == (0, False, False)
    truth = postgres.execute("SELECT o.id, o.amount::text, c.name FROM orders o LEFT JOIN customers c ON c.id = o.customer_id", database)
    assert sorted((d["id"], d["amount"], d["customer"]) for d in found(studio, "*")) == sorted(truth)
    events = studio("topics", "read", "orders.large", "--limit", "0", "--json").lines
    assert sorted(e["key"]["id"] for e in events) == list(range(100, 151))
    assert len((studio.folder / "large.jsonl").read_text().splitlines()) == 51
    shown = studio("sources", "show", "shop", "--json").json
    assert shown["options"]["url"].startswith("postgresql://postgres:***@127.0.0.1:")
    assert [t["initial_load"] for t in shown["tables"]] == [{"rows": 150, "done": True}, {"rows": 2, "done": True}]

    live_change_is_found(studio, postgres, database)
    no_secret(studio)


def live_change_is_found(studio: Studio, postgres: PostgresServer, database: str) -> None:
    """While it runs: a change of one customer reaches all their documents; Ctrl-C commits and ends with 130."""
    running = studio.started("run", "--json")
    follower = studio.started("topics", "read", "orders.named", "--follow", "--json", "--from", "0")
    assert running.stdout is not None and follower.stdout is not None
    try:
        postgres.execute("UPDATE customers SET name = 'Augusta Ada' WHERE id = 1", database)
        told = set()
        while len(told) < 75:  # orders of customer 1; ends with the test's own time limit if one does not come
            event = json.loads(follower.stdout.readline())
            if event["after"]["customer"] == "Augusta Ada":
                told.add(event["key"]["id"])
        follower.send_signal(signal.SIGINT)
        assert follower.wait(60) == 130
        beside = studio("status", "--json").json
        assert beside["running"]
        assert {p["state"] for p in beside["parts"]} <= {"running", "caught_up"}
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=60)
        assert running.returncode == 130, said
        studio.said.append(said)
    finally:
        for process in (running, follower):
            process.kill()
            process.wait()
            process.stdout.close()
    assert len(found(studio, "augusta")) == 75
    assert found(studio, "lovelace") == []


def no_secret(studio: Studio) -> None:
    assert [text for text in studio.said if PASSWORD in text] == []
    kept = [p for p in (studio.folder / ".millstream").rglob("*") if p.is_file()]
    assert len(kept) > 10
    assert [p for p in kept if PASSWORD.encode() in p.read_bytes()] == []


def test_a_new_column_is_met_accepted_and_nothing_is_lost(studio: Studio, postgres: PostgresServer, database: str) -> None:
    studio("apply")
    studio("run", "--until-caught-up")
    postgres.execute("ALTER TABLE orders ADD COLUMN note text", database)
    postgres.execute("INSERT INTO orders VALUES (1000, 1000, 2, 'with a note')", database)
    studio("run", "--until-caught-up")  # nobody uses the column: nobody stops for it
    assert {p["state"] for p in studio("status", "--json").json["parts"]} <= {"caught_up", "stopped"}
    assert [(d["id"], d["customer"]) for d in found(studio, "id:1000")] == [(1000, "Grace Hopper")]
    assert [(s["kind"], s["subject"]) for s in studio("plan", "--json").json["steps"]] == [("accept_schema", "orders")]
    studio("apply")
    studio("run", "--until-caught-up")
    assert len(found(studio, "*")) == 151
    (change,) = studio("schemas", "show", "shop.public.orders-value", "--json").json["changes"]
    assert "note" in str(change)


def test_the_catalogue_is_the_same_on_postgres(postgres: PostgresServer, database: str) -> None:
    engine = sa.create_engine(postgres.url(database).replace("postgresql://", "postgresql+psycopg://"))
    source = AppliedSource("shop", "f1", "postgres", "team-shop", ("public.orders",))
    pipeline = AppliedPipeline("p", "f2", "o", "text", {"a": 1}, {"b": 2}, {"s": AppliedSink("b", "f3")})
    catalogue = Catalogue(engine, clock=lambda: 1000.0)
    for _ in range(2):
        catalogue.put_source(source)
        catalogue.put_pipeline(pipeline)
        catalogue.report("pipeline.p", "failed", "why", "how")
    again = Catalogue(engine)
    assert again.sources() == {"shop": replace(source, applied_at=1000.0)}
    assert again.pipelines() == {"p": replace(pipeline, applied_at=1000.0)}
    assert [vars(s) for s in again.states().values()] == [
        {"part": "pipeline.p", "state": "failed", "reason": "why", "cure": "how", "at": 1000.0}
    ]
    again.forget_pipeline("p")
    assert (again.pipelines(), again.states()) == ({}, {})
    engine.dispose()


def test_a_server_that_is_not_ready_is_named_with_its_cure(studio: Studio, postgres: PostgresServer, database: str) -> None:
    postgres.execute("ALTER TABLE orders REPLICA IDENTITY DEFAULT", database)
    answer = studio("apply", code=2)
    assert "REPLICA IDENTITY FULL" in answer.err
    assert studio("topics", "list", "--json").json == []
    studio.env = {k: v for k, v in studio.env.items() if k != "SHOP_URL"}
    assert "the environment has no SHOP_URL" in studio("validate", code=2).err
