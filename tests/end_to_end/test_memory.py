"""A transaction of a million rows, and a backlog of three million events: drained in flat memory, each event once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from millstream.testing.postgres_server import PostgresServer

LIMIT_MIB = 600
PEAK = """
import json, resource, sys
from millstream.wiring import main
code = 0
try:
    main()
except SystemExit as e:
    code = e.code
print(json.dumps({"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), file=sys.stderr)
sys.exit(code)
"""


class World:
    def __init__(self, server: PostgresServer, folder: Path) -> None:
        server.create_database("shop")
        self.url = server.url("shop")
        self.folder = folder
        with psycopg.connect(self.url, autocommit=True) as con:
            con.execute(
                "CREATE TABLE orders (id bigint PRIMARY KEY, customer int, status text, amount numeric(12,2), qty int, "
                "at timestamptz, note text, attrs jsonb)"
            )
            con.execute("ALTER TABLE orders REPLICA IDENTITY FULL")
        (folder / "sources").mkdir()
        (folder / "pipelines").mkdir()
        (folder / "mesh.yaml").write_text("mesh: memory\n")
        (folder / "sources/shop.yaml").write_text(
            "source: shop\nconnector: postgres\nurl: ${SHOP_URL}\ntables: [public.orders]\nowner: team-shop\n"
        )
        (folder / "pipelines/paid.yaml").write_text(
            "pipeline: paid\nowner: team-shop\nsteps:\n  - name: orders\n    sql: SELECT id, amount, note FROM shop.public.orders\n"
            "sinks:\n  - {from: orders, jsonl: {file: paid.jsonl}}\n"
        )

    def millstream(self, *arguments: str) -> float:
        """Run the command; its peak memory in MiB."""
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *arguments],
            cwd=self.folder,
            env=os.environ | {"SHOP_URL": self.url},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return float(json.loads(done.stderr.strip().splitlines()[-1])["peak_mib"])

    def insert(self, first: int, last: int, transactions: int) -> None:
        with psycopg.connect(self.url, autocommit=True) as con:
            step = (last - first) // transactions
            for start in range(first, last, step):
                con.execute(
                    "INSERT INTO orders SELECT g, g %% 1000, (ARRAY['NEW','PAID','SHIPPED'])[1 + g %% 3], (g %% 100000) / 100.0, g %% 10, "
                    "timestamptz '2026-01-01' + g * interval '1 second', 'note number ' || g, jsonb_build_object('k', g) "
                    "FROM generate_series(%s::bigint, %s::bigint) g",
                    [start, start + step - 1],
                )

    def ids_written(self) -> list[int]:
        with (self.folder / "paid.jsonl").open() as lines:
            return [json.loads(line)["after"]["id"] for line in lines if '"after"' in line]


@pytest.mark.long
@pytest.mark.servers
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("rows", "transactions"), [(1_000_000, 1), (3_000_000, 30_000)], ids=["one transaction", "backlog"])
def test_flat_memory(rows: int, transactions: int, tmp_path: Path) -> None:
    with PostgresServer(durable=False) as server:
        world = World(server, tmp_path)
        world.millstream("apply")
        world.millstream("run", "--until-caught-up")  # the slot exists and the empty table is loaded: what follows is stream
        world.insert(0, rows, transactions)
        peak = world.millstream("run", "--until-caught-up")
        ids = world.ids_written()
        assert len(ids) == rows and set(ids) == set(range(rows))
        assert peak < LIMIT_MIB, f"{peak:.0f} MiB"
