"""ALTER TABLE under a running mesh, which is killed again and again: an index and an Iceberg table follow, and show what Postgres has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from millstream.cli.exits import PAUSED
from millstream.sinks.iceberg.read import current_rows, table
from millstream.sinks.search.query import search
from millstream.testing.postgres_server import PostgresServer

SOURCE = "source: shop\nconnector: postgres\nurl: ${SHOP_URL}\ntables: [public.item]\nowner: team-shop\n"
PIPELINE = """pipeline: plain
owner: team-shop
evolve: follow
sinks:
  - {from: shop.public.item, search: {index: source}}
  - {from: shop.public.item, iceberg: {table: lake.items}}
"""
DERIVED = """pipeline: every
owner: team-shop
evolve: follow
steps:
  - name: items
    sql: SELECT * FROM shop.public.item
sinks:
  - {from: items, search: {index: items}}
"""
CHANGES = (
    "ALTER TABLE item ADD COLUMN tier text DEFAULT 'basic'",
    "ALTER TABLE item RENAME COLUMN title TO name",
    "ALTER TABLE item ALTER COLUMN n TYPE bigint",
    "ALTER TABLE item DROP COLUMN note; ALTER TABLE item ADD COLUMN note int",
)
COUNT = 300


@pytest.mark.servers
@pytest.mark.timeout(300)
def test_targets_follow_what_is_done_to_the_table(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    url = postgres.url(database)
    command = [str(Path(sys.executable).parent / "millstream")]

    def begun(*arguments: str) -> subprocess.Popen[str]:
        with (tmp_path / "out.txt").open("a") as out:
            environment = os.environ | {"SHOP_URL": url}
            return subprocess.Popen([*command, *arguments], cwd=tmp_path, env=environment, stdout=out, stderr=out, text=True)

    def done(*arguments: str) -> None:
        assert begun(*arguments).wait(timeout=120) == 0, (tmp_path / "out.txt").read_text()[-3000:]

    for folder, text in (("sources", SOURCE), ("pipelines", f"{PIPELINE}---\n{DERIVED}")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.yaml").write_text(text)

    def shown(index: str, *names: str) -> list[dict[str, object]]:
        found = sorted((h.document for h in search(tmp_path / ".millstream", index, "*", 1_000).hits), key=lambda d: d["id"])
        return [{name: d.get(name) for name in names} for d in found]

    (tmp_path / "mesh.yaml").write_text("mesh: targets\n")
    with psycopg.connect(url, autocommit=True) as con:
        con.execute("CREATE TABLE item (id int PRIMARY KEY, title text, n int, note text)")
        con.execute("ALTER TABLE item REPLICA IDENTITY FULL")
        con.execute("INSERT INTO item SELECT g, 't' || g, g, 'note' FROM generate_series(1, %s) g", [COUNT])
        done("apply")
        done("run", "--until-caught-up")
        for number, change in enumerate(CHANGES, 1):
            if "DROP" in change:
                done("run", "--until-caught-up")
                names = ("id", "name", "n", "tier", "note")
                rows = [dict(zip(names, row, strict=True)) for row in con.execute("SELECT id, name, n, tier, note FROM item ORDER BY id")]
                assert shown("items", *names) == shown("source", *names) == rows
            running = begun("run")
            con.execute(change)
            con.execute("UPDATE item SET n = n + 1 WHERE id %% 50 = %s", [number])
            con.execute("INSERT INTO item (id, n) VALUES (%s, %s)", [COUNT + number, number])
            time.sleep(1.0 + number)  # any moment of a start, a change or a write
            running.send_signal(signal.SIGKILL)
            running.wait()
        assert begun("run", "--until-caught-up").wait(timeout=120) == PAUSED  # an output knows columns by names: it cannot be text and int
        rows = [dict(zip(names, row, strict=True)) for row in con.execute("SELECT id, name, n, tier, note FROM item ORDER BY id")]
    home = tmp_path / ".millstream"
    assert shown("source", *names) == rows
    assert search(home, "source", "tier = basic").total == len(rows)

    lake = table(home, "lake.items")
    assert str(lake.schema().find_field("n").field_type) == "long"
    changelog = lake.scan().to_arrow()
    assert set(changelog["note_dropped"].to_pylist()) == {"note", None}
    now = {r["id"]: r for r in current_rows(changelog, ["id"]).to_pylist()}
    assert {i: (r["name"], r["n"], r["note"]) for i, r in now.items()} == {r["id"]: (r["name"], r["n"], r["note"]) for r in rows}
    places = list(zip(changelog["_topic"].to_pylist(), changelog["_offset"].to_pylist(), strict=True))
    assert len(set(places)) == len(places), "an event is there twice"
