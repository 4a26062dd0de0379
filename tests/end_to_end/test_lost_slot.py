"""A slot that is gone: the source stops, the how-to is followed, and the output gets exactly the difference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from millstream.testing.postgres_server import PostgresServer

PIPELINE = """pipeline: plain
owner: team-shop
steps:
  - name: items
    sql: SELECT id, v FROM {source}.public.item
sinks:
  - {{from: items, jsonl: {{file: items.jsonl}}}}
"""


def define(project: Path, source: str) -> None:
    (project / "sources/shop.yaml").write_text(
        f"source: {source}\nconnector: postgres\nurl: ${{SHOP_URL}}\ntables: [public.item]\nowner: team-shop\n"
    )
    (project / "pipelines/plain.yaml").write_text(PIPELINE.format(source=source))


def events(project: Path) -> list[tuple[str, int]]:
    lines = map(json.loads, (project / "items.jsonl").read_text().splitlines())
    return [(e["op"], e["key"]["id"]) for e in lines]


@pytest.mark.servers
def test_begin_again_under_another_name(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    url = postgres.url(database)

    def millstream(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "millstream"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=os.environ | {"SHOP_URL": url}, capture_output=True, text=True, timeout=120)

    for folder in ("sources", "pipelines"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mesh.yaml").write_text("mesh: lost\n")
    define(tmp_path, "shop")
    with psycopg.connect(url, autocommit=True) as con:
        con.execute("CREATE TABLE item (id int PRIMARY KEY, v text)")
        con.execute("ALTER TABLE item REPLICA IDENTITY FULL")
        con.execute("INSERT INTO item SELECT g, 'v' || g FROM generate_series(1, 10) g")
        for command in (("apply",), ("run", "--until-caught-up")):
            assert millstream(*command).returncode == 0
        con.execute("SELECT pg_drop_replication_slot('millstream_shop')")
        con.execute("DELETE FROM item WHERE id = 3")
        con.execute("UPDATE item SET v = 'new' WHERE id = 4")
        con.execute("INSERT INTO item VALUES (11, 'x')")
    before = events(tmp_path)
    stopped = millstream("run", "--until-caught-up")
    assert stopped.returncode == 1 and "slot_gone" in stopped.stderr and "lost-slot.md" in stopped.stdout
    assert events(tmp_path) == before

    define(tmp_path, "shop2")
    for command in (("apply",), ("run", "--until-caught-up")):
        done = millstream(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(events(tmp_path)[len(before) :]) == [("c", 11), ("d", 3), ("u", 4)]
